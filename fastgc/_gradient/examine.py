"""The check of one point, whatever evaluates its loss: probe, estimate, judge, search, explain."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgc._derivatives.estimates import Estimates
from fastgc._evaluation.evaluator import Evaluator, OutOfTime
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import ParameterLayout
from fastgc._progress import Progress
from fastgc._reports.summary import PointResult
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.judgement import DEFAULT_RTOL, Judgement, Tolerances

if TYPE_CHECKING:
    pass

from typing import TYPE_CHECKING

from fastgc._derivatives.estimates import open_loss, unmeasured_loss
from fastgc._derivatives.stencil import Stencil
from fastgc._diagnosis.diagnosis import Explanation
from fastgc._diagnosis.earlier import MeasureEarlier
from fastgc._parameters.arrays import root_mean_square
from fastgc._parameters.sampling import NotFinite, not_finite, plan_samples
from fastgc._verdicts.crosscheck import CrossCheck
from fastgc._verdicts.crosscheck import crosscheck as scipy_crosscheck
from fastgc._verdicts.entries import Positions, remarks
from fastgc._verdicts.probes import probe_tensors, search
from fastgc._verdicts.time_budget import check_in_time, representative, together, unreached

if TYPE_CHECKING:
    pass

_PER_TENSOR = 20  # evaluations, about, that probing a tensor takes


Adjudicator = Callable[[GradientAtPoint, Estimates, Judgement], tuple[Estimates, Judgement, tuple[str, ...]]]


@dataclass(frozen=True)
class Scope:
    """What of a gradient is checked, how closely and by which measure, whatever evaluates its loss."""

    layout: ParameterLayout
    counts: tuple[int | None, ...]  # entries to sample of each tensor; None: the tensor is not checked
    probes: int
    stencil: Stencil
    step: float | None
    rtol: float | None
    atol: float | None
    crosscheck: bool
    seed: int
    deadline: float = math.inf  # of ``time.perf_counter``
    accepted: float | None = None  # see `Tolerances`

    @property
    def chosen(self) -> list[int]:
        """The tensors that are checked."""
        return [t for t, count in enumerate(self.counts) if count is not None]

    @property
    def unexhausted(self) -> list[int]:
        """The tensors not all of whose entries are checked one by one."""
        return [t for t in self.chosen if self.counts[t] != self.layout.sizes[t]]

    @property
    def probed(self) -> list[int]:
        """The tensors in which random directions are measured."""
        return [t for t in self.unexhausted if self.layout.sizes[t]] if self.probes else []

    @property
    def expected(self) -> int:
        """About how many evaluations follow."""
        return 2 * self.samples + _PER_TENSOR * len(self.probed)

    @property
    def samples(self) -> int:
        """Entries checked one by one, in all tensors together."""
        return sum(filter(None, self.counts))


@dataclass(frozen=True)
class Start:
    """What the check of one point starts from.

    Attributes
    ----------
    evaluator : of the loss around the point
    leaves : the parameters at the point, one array for each tensor; evenly spaced entries of each are enough
    gradients : the analytic gradient, one flat array for each tensor
    base : the loss at the point
    notes : what was noticed before, to stand first in the report
    number : of the point
    args : of the loss: the lengths of their arrays' axes are names for factors
    adjudicator : decides entries that differences leave undecided, and says so in notes; or None
    look_back : measures failing tensors at the parameters of an earlier moment; or None
    """

    evaluator: Evaluator
    leaves: Sequence[Array]
    gradients: Sequence[Array]
    base: float
    notes: Sequence[str]
    number: int = 0
    args: tuple[Any, ...] = ()
    adjudicator: Adjudicator | None = None
    look_back: MeasureEarlier | None = None


@np.errstate(all="ignore")  # what overflows is judged, and not warned about
def examine(scope: Scope, start: Start, bar: Progress) -> PointResult:
    """The check at one point: probe, estimate and judge the samples, search what is suspicious.

    Raises
    ------
    Exception
        The first that the loss raised, if it raised at every displaced point: unless the time was over before that
        could be said of all, or the analytic gradient fails without them.
    """
    spoiled, bad = _spoiled(scope, start.gradients)
    plan, hurried = plan_samples(scope.layout, start.gradients, scope.counts, scope.seed), scope.deadline < math.inf
    positions = plan.positions(scope.layout)
    first, rest = representative(scope.layout, positions, scope.seed) if hurried else (positions, positions[:0])
    gradient = _gradient_at(scope, start)
    probings = probe_tensors(gradient, scope.unexhausted, scope.probes, scope.seed, bar, hurried=hurried)
    estimates, judgement = check_in_time(gradient, first, scope.deadline, bar)
    scales = gradient.scales(estimates)
    coverages, looked_at = search(gradient, bad, probings, estimates, judgement, scales, scope.seed, bar)
    if rest.size:
        estimates, judgement = together([(estimates, judgement), check_in_time(gradient, rest, scope.deadline, bar)])
    decided: tuple[str, ...] = ()
    if start.adjudicator is not None and judgement.undecided.any():
        estimates, judgement, decided = start.adjudicator(gradient, estimates, judgement)
    scales = gradient.scales(estimates) if rest.size or decided else scales
    unprobed = [t for t in scope.probed if t not in {*spoiled, *coverages}]
    missing = unreached(scope.layout, plan.local, estimates.positions, unprobed)
    if not (spoiled or missing):
        start.evaluator.raised.pass_on()
    explanation = Explanation({}, 0, ())
    second: CrossCheck | None = None
    remarked: list[str] = []
    with contextlib.suppress(OutOfTime):
        explanation = _explained(
            gradient, *gradient.joined(estimates, judgement, looked_at, scales), start, scope.seed, bar
        )
        remarked += remarks(gradient, estimates, judgement.analytic)
        if scope.crosscheck and start.number == 0:
            second = scipy_crosscheck(start.evaluator, positions, gradient.analytic(positions))
    return PointResult(
        point=start.number,
        gradient=gradient,
        plan=plan,
        estimates=estimates,
        judgement=judgement,
        scales=scales,
        coverages=coverages,
        looked_at=looked_at,
        diagnoses=explanation.diagnoses,
        spoiled=spoiled,
        unreached=missing,
        notes=(*start.notes, *remarked, *decided, *explanation.notes),
        raised=start.evaluator.raised,
        evaluations=start.evaluator.evaluations + explanation.evaluations,
        engine=start.evaluator.name,
        crosscheck=second,
    )


def _spoiled(scope: Scope, gradients: Sequence[Array]) -> tuple[dict[int, NotFinite], Positions]:
    """By tensor, what is not finite in the analytic gradient, and the first of these entries of every tensor."""
    found = {t: not_finite(gradients[t]) for t in scope.chosen}
    spoiled = {t: each for t, each in found.items() if each is not None}
    first = [scope.layout.starts[t] + each.first for t, each in spoiled.items()]
    return spoiled, np.concatenate([np.empty(0, np.int64), *first])


def _explained(
    gradient: GradientAtPoint, estimates: Estimates, judgement: Judgement, start: Start, seed: int, bar: Progress
) -> Explanation:
    """Why entries are wrong, if some are."""
    if not judgement.failed.any():
        return Explanation({}, 0, ())
    from fastgc._diagnosis.explain import explain  # for few checks, as are the other imports inside functions

    return explain(gradient, estimates, judgement, start.args, seed, bar, start.look_back)


def _gradient_at(scope: Scope, start: Start) -> GradientAtPoint:
    around = start.evaluator, scope.layout, start.leaves
    try:
        loss = open_loss(*around, scope.chosen, start.base, scope.seed)
    except OutOfTime:
        loss = unmeasured_loss(*around, start.base)
    sizes = np.array([root_mean_square(each) for each in start.gradients])
    tolerances = _tolerances(scope, start.gradients)
    return GradientAtPoint(loss, start.gradients, sizes, tolerances, scope.stencil, scope.step)


def _tolerances(scope: Scope, gradients: Sequence[Array]) -> Tolerances:
    defaults = [DEFAULT_RTOL[gradient.dtype] for gradient in gradients]
    rtol = np.array(defaults if scope.rtol is None else [scope.rtol] * len(gradients))
    atol, accepted = (None if each is None else np.full(len(gradients), each) for each in (scope.atol, scope.accepted))
    return Tolerances(rtol, atol, accepted)
