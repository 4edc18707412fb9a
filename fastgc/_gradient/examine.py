"""The check of one point, whatever evaluates its loss: probe, estimate, judge, search, explain."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fastgc._derivatives.complex_slopes import ComplexLoss
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.loss_at_point import open_loss, unmeasured_loss
from fastgc._derivatives.stencil import stencil_named
from fastgc._diagnosis.diagnosis import Explanation
from fastgc._diagnosis.earlier import EarlierParameters
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.engine import is_jitted
from fastgc._evaluation.evaluator import Evaluator, OutOfTime
from fastgc._evaluation.workers_option import width
from fastgc._evaluation.working_time import now
from fastgc._forks import cached_property
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.arrays import Array, Floats, Positions, root_mean_squares, spread, without
from fastgc._parameters.point import Point
from fastgc._parameters.sampling import NotFinite, SamplePlan, Selection, further_entries, not_finite, plan_samples
from fastgc._progress import Progress
from fastgc._reports.summary import PointResult
from fastgc._verdicts.crosscheck import CrossCheck, crosscheck
from fastgc._verdicts.entries import GradientAtPoint, GradientsAlong, remarks
from fastgc._verdicts.judgement import Judgement
from fastgc._verdicts.probes import ProbeResult, probe_tensors, search, unresolved
from fastgc._verdicts.time_budget import FIRST, check_in_time, merged, representative, unreached

if TYPE_CHECKING:
    from fastgc._gradient.further import FurtherLooks

_NOISE = 20  # evaluations that measuring the noise of a loss in double precision takes, about
_PER_TENSOR = 20  # evaluations that probing a tensor takes, about: 3 directions by 4 to 8 values each

# Entries of a tensor checked one by one where probes are too uncertain: of 512 right ones, all drawn at random, 0.6 %
# of wrong entries remain possible (95 % confidence); they cost about what eight probed tensors of 32 samples do.
_FURTHER = 512
_HELD = 64  # entries of a tensor checked one by one because bounds keep probes from them: twice the default samples
_COMPLEX_BYTES = 16  # of a complex entry
_MOST_COMPLEX_BYTES = 2**28  # of a complex copy of the parameters that nobody asked for: 256 MiB, 16 million entries
_SCIPY_STEP = 2e-8  # above the step of `scipy.optimize.check_grad`, 1.5e-8


@dataclass(frozen=True)
class PointCheck:
    """All that the check of one point starts from.

    Attributes
    ----------
    evaluator : of the loss around the point
    leaves : the parameters at the point, one array for each tensor; evenly spaced entries of each are enough
    gradients : the analytic gradient, one flat array for each tensor
    base : the loss at the point
    notes : what was noticed before, to stand first in the report
    number : of the point
    deadline : of `fastgc._evaluation.working_time.now`
    loss, point : as the caller gave them, for what is evaluated in another way (by a complex step), if it can be
    previous : the parameters of an earlier moment, to which a wrong gradient may belong, if there are any
    displaced : gives the analytic gradient at displaced parameters (see `GradientAtPoint`), if it can be called
    """

    options: CheckOptions
    selection: Selection
    evaluator: Evaluator
    leaves: Sequence[Array]
    gradients: Sequence[Array]
    base: float
    notes: Sequence[str]
    number: int = 0
    deadline: float = math.inf
    loss: CallersLoss | None = None
    point: Point | None = None
    previous: EarlierParameters | None = None
    displaced: GradientsAlong | None = None

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C has ended the measurements."""
        return self.loss is not None and self.loss.interruption.requested

    @cached_property
    def probed(self) -> list[int]:
        """The tensors in which random directions are measured."""
        return probed_tensors(self.selection, self.options)

    @cached_property
    def sizes(self) -> Floats:
        """Root mean square of each tensor's analytic gradient; not finite where an entry is not."""
        return root_mean_squares(self.gradients)

    def spoiled(self) -> dict[int, NotFinite]:
        """By tensor, which entries of the analytic gradient are not finite."""
        some = (~np.isfinite(self.sizes)).nonzero()[0].tolist()
        found = {t: not_finite(self.gradients[t]) for t in some if self.selection.counts[t] is not None}
        return {t: each for t, each in found.items() if each is not None}

    def gradient(self) -> GradientAtPoint:
        """The gradient at the point, with the noise of the loss measured (unless there is no time for that)."""
        layout = self.selection.layout
        try:
            loss = open_loss(self.evaluator, layout, self.leaves, self.selection.tensors, self.base, self.options.seed)
        except OutOfTime:
            loss = unmeasured_loss(self.evaluator, layout, self.leaves, self.base)
        if self.loss is not None:
            loss = replace(loss, bounds=self.loss.bounds, symmetric=self.loss.symmetric, complex_loss=self.complex_loss)
        formula = stencil_named(self.options.stencil)
        tolerances = self.options.tolerances(layout.names, [gradient.dtype for gradient in self.gradients])
        return GradientAtPoint(loss, self.gradients, self.sizes, tolerances, formula, self.options.step, self.displaced)

    @cached_property
    def complex_loss(self) -> ComplexLoss | None:
        """The loss at complex parameters, first for what differences do not decide, or for all that is probed."""
        loss, point = self.loss, self.point
        if loss is None or point is None:
            return None
        opened = partial(_open_complex, loss, point, self.deadline)
        slow = is_jitted(loss.function) and not loss.is_complex
        return ComplexLoss(opened, preferred=loss.is_complex, slow_start=slow)


def _open_complex(loss: CallersLoss, point: Point, deadline: float) -> Evaluator | None:
    """An evaluator of a loss whose source shows that it is analytic; None of another, or where memory is short."""
    from fastgc._verdicts.complex_step import is_analytic, is_data

    large = loss.in_place or _COMPLEX_BYTES * loss.layout.size > _MOST_COMPLEX_BYTES
    if (large and not loss.is_complex) or not (is_analytic(loss.function) and is_data(loss.args)):
        return None
    return loss.open_complex(point, deadline)


def probed_tensors(selection: Selection, options: CheckOptions) -> list[int]:
    """The tensors in which random directions are measured: those not checked entry by entry as a whole."""
    return [t for t in selection.unexhausted if selection.layout.sizes[t]] if options.probes else []


def expected_evaluations(selection: Selection, options: CheckOptions) -> int:
    """About how many evaluations a check of one point takes."""
    return 2 * selection.entries + _PER_TENSOR * len(probed_tensors(selection, options))


def fewest_evaluations(selection: Selection, options: CheckOptions) -> int:
    """About how many evaluations reach every tensor under a time budget: noise, probes, and a few entries of each."""
    few = sum(min(FIRST, selection.counts[t] or 0) for t in selection.tensors)
    return _NOISE + 2 * few + _PER_TENSOR * len(probed_tensors(selection, options))


def examine(check: PointCheck, bar: Progress) -> PointResult:
    """The check at one point: probe, estimate and judge the samples, search what is suspicious, explain what fails.

    Raises
    ------
    Exception
        The first that the loss raised, if it raised at every displaced point: unless the time was over before that
        could be said of all, or the analytic gradient fails without them.
    """
    layout, spoiled = check.selection.layout, check.spoiled()
    plan = plan_samples(check.selection, check.gradients, check.options.seed)
    bar.phase("noise")
    begin, before = now(), check.evaluator.evaluations
    gradient = check.gradient()
    pace = (now() - begin) / max(1, check.evaluator.evaluations - before)
    pace = getattr(check.evaluator, "pace", None) or pace / width(check.options.workers)
    expected, samples = expected_evaluations(check.selection, check.options), 2 * check.selection.entries
    bar.plan(check.options.points * pace * expected, check.options.points * pace * (expected - samples))
    bar.phase("probes")
    plan = _with_held(plan, gradient, check.probed)
    found = _probed_and_sampled(check, gradient, plan, spoiled, bar)
    found, further = _looked_further(check, gradient, found, bar)
    plan = found.plan
    known = {*spoiled, *found.coverages}
    unprobed = {t for t in check.probed if t not in known}
    missing = unreached(layout, plan.local, found.estimates.positions, unprobed, interrupted=check.interrupted)
    if not (spoiled or missing):
        check.evaluator.raised.pass_on()
    told = _explained(check, gradient, found, bar)
    return PointResult(
        point=check.number,
        gradient=gradient,
        plan=plan,
        estimates=found.estimates,
        judgement=found.judgement,
        coverages=found.coverages,
        looked_at=found.looked_at,
        diagnoses=told.explanation.diagnoses,
        spoiled=spoiled,
        unreached=missing,
        notes=(*check.notes, *told.remarks, *found.notes, *_refused(check), *told.explanation.notes),
        raised=check.evaluator.raised,
        evaluations=_evaluations(check) + told.explanation.evaluations + further,
        engine=check.evaluator.name,
        crosscheck=told.crosscheck,
    )


def _evaluations(check: PointCheck) -> int:
    return check.evaluator.evaluations + (0 if check.complex_loss is None else check.complex_loss.evaluations)


def _refused(check: PointCheck) -> Iterator[str]:
    """A note where the caller asked for complex steps and directions were measured by differences."""
    if check.complex_loss is not None and check.complex_loss.preferred and check.complex_loss.trouble:
        yield f"probes measured differences, no complex steps: {check.complex_loss.trouble}"


# --- what is measured ---


@dataclass(frozen=True)
class _Measured:
    """The sampled entries with their verdicts, and what probes led to; see `PointResult`."""

    plan: SamplePlan
    estimates: Estimates
    judgement: Judgement
    coverages: dict[int, ProbeResult]
    looked_at: Estimates
    notes: tuple[str, ...]


def _probed_and_sampled(
    check: PointCheck, gradient: GradientAtPoint, plan: SamplePlan, spoiled: dict[int, NotFinite], bar: Progress
) -> _Measured:
    """Probes, sampled entries, and the search for wrong ones; under a time budget a few of every tensor come first."""
    layout, seed, hurried = check.selection.layout, check.options.seed, check.deadline < math.inf
    positions = plan.positions(layout)
    first, rest = representative(layout, positions, seed) if hurried else (positions, positions[:0])
    probings = probe_tensors(gradient, check.selection.unexhausted, check.options.probes, seed, bar, hurried=hurried)
    estimates, judgement = check_in_time(gradient, first, check.deadline, bar)
    bad = _first_of(layout.starts, spoiled)
    coverages, looked_at = search(gradient, bad, probings, estimates, judgement, seed, bar)
    if rest.size:
        more = check_in_time(gradient, rest, check.deadline, bar)
        estimates, judgement = merged([(estimates, judgement), more])
    estimates, judgement, notes = _by_complex_step(check, gradient, estimates, judgement)
    return _Measured(plan, estimates, judgement, coverages, looked_at, notes)


def _looked_further(
    check: PointCheck, gradient: GradientAtPoint, found: _Measured, bar: Progress
) -> tuple[_Measured, int]:
    """What was measured, with what finer values and exact tangents decide, and how many evaluations that took.

    More entries of tensors whose probes stay too uncertain are measured in between.
    """
    if check.loss is None or not check.loss.is_known_further or check.point is None or check.interrupted:
        return _sampled_further(check, gradient, found, bar), 0
    from fastgc._gradient.further import FurtherLooks  # few checks need it

    looks = FurtherLooks(check.loss, check.point, gradient, check.deadline, check.options, bar)
    with contextlib.closing(looks):
        seen = found = _seen_further(gradient, found, looks)
        found = _sampled_further(check, gradient, found, bar)
        if found is not seen:
            found = _seen_further(gradient, found, looks)
    return replace(found, notes=(*found.notes, *looks.notes)), looks.evaluations


def _seen_further(gradient: GradientAtPoint, found: _Measured, looks: FurtherLooks) -> _Measured:
    estimates, judgement, coverages, looked_at = looks(
        found.estimates, found.judgement, found.coverages, found.looked_at
    )
    return replace(found, estimates=estimates, judgement=judgement, coverages=coverages, looked_at=looked_at)


def _with_held(plan: SamplePlan, gradient: GradientAtPoint, tensors: Sequence[int]) -> SamplePlan:
    """The plan with entries too near a bound for probes, as many as are checked one by one for that."""
    for t in tensors:
        held = gradient.loss.held(t)
        if held is not None and held.any():
            local = np.flatnonzero(held)
            plan = plan.extended(t, local[spread(local.size, _HELD)])
    symmetric = gradient.loss.symmetric
    return plan if symmetric is None else plan.restricted(symmetric.chosen)


def _sampled_further(check: PointCheck, gradient: GradientAtPoint, found: _Measured, bar: Progress) -> _Measured:
    """The same with more entries of every tensor whose probes are too uncertain, though its entries are not."""
    layout, plan = check.selection.layout, found.plan
    unclear = unresolved(gradient, found.coverages)
    parts = dict(layout.parts(found.estimates.positions)) if unclear else {}
    for t in (t for t in found.coverages if t in unclear):
        known, mine = plan.local[t], parts.get(t, slice(0, 0))
        undecided = found.judgement.undecided[mine]
        certain = undecided.size and undecided.mean() < 0.5 and not found.judgement.failed[mine].any()
        if known is None or not certain:
            continue
        more = further_entries(layout.names[t], layout.sizes[t], known, _FURTHER, check.options.seed)
        if gradient.loss.symmetric is not None:
            more = without(gradient.loss.symmetric.chosen(t, more), known)
        estimates, judgement = check_in_time(gradient, layout.starts[t] + more, check.deadline, bar)
        reached = estimates.positions - layout.starts[t]
        estimates, judgement = merged([(found.estimates, found.judgement), (estimates, judgement)])
        plan = found.plan.extended(t, reached, reached.size)
        found = replace(found, plan=plan, estimates=estimates, judgement=judgement)
        parts = dict(layout.parts(estimates.positions))  # the others have moved
    return found


def _first_of(starts: Positions, spoiled: dict[int, NotFinite]) -> Positions:
    """Positions of the first entries of every tensor that are not finite."""
    return np.concatenate([np.empty(0, np.int64), *(starts[t] + each.first for t, each in spoiled.items())])


def _by_complex_step(
    check: PointCheck, gradient: GradientAtPoint, estimates: Estimates, judgement: Judgement
) -> tuple[Estimates, Judgement, tuple[str, ...]]:
    """Entries that noise leaves undecided, decided where the loss is analytic, and a note if some were."""
    complex_loss = check.complex_loss
    if check.loss is None or complex_loss is None or gradient.step is not None:
        return estimates, judgement, ()
    if not (judgement.undecided | (estimates.uncertainty > judgement.allowed)).any():
        return estimates, judgement, ()
    from fastgc._verdicts.complex_step import adjudicate, displaced_loss

    loss, displaced = check.loss, partial(displaced_loss, gradient)
    return adjudicate(
        loss.function, loss.args, displaced, estimates, judgement,
        gradient.judged,
        all_uncertain=complex_loss.agreed or not complex_loss.slow_start,
    )  # fmt: skip


# --- what it means ---


@dataclass(frozen=True)
class _Told:
    """What is said of the measured entries."""

    explanation: Explanation
    remarks: tuple[str, ...]
    crosscheck: CrossCheck | None


def _explained(check: PointCheck, gradient: GradientAtPoint, found: _Measured, bar: Progress) -> _Told:
    """Why entries are wrong, remarks, and SciPy's second opinion, as far as there is time."""
    explanation, second = Explanation({}, 0, ()), None
    remarked: tuple[str, ...] = ()
    with contextlib.suppress(OutOfTime):
        explanation = _explanation(check, gradient, found, bar)
        remarked = tuple(remarks(gradient, found.estimates, found.judgement))
        if check.options.crosscheck and check.number == 0:
            positions = _free(gradient, found.plan.positions(check.selection.layout))
            second = crosscheck(check.evaluator, positions, gradient.analytic(positions))
    return _Told(explanation, remarked, second)


def _free(gradient: GradientAtPoint, positions: Positions) -> Positions:
    """The entries that SciPy's forward differences, with steps of 1.5e-8, leave inside their bounds."""
    bounds = gradient.loss.bounds
    if bounds is None:
        return positions
    return positions[bounds.room(positions, gradient.loss.evaluator.entries(positions)) > _SCIPY_STEP]


def _explanation(check: PointCheck, gradient: GradientAtPoint, found: _Measured, bar: Progress) -> Explanation:
    """Which kinds of bugs the wrong entries are consistent with, if some are wrong."""
    estimates, judgement = gradient.joined(found.estimates, found.judgement, found.looked_at)
    if not judgement.failed.any():
        return Explanation({}, 0, ())
    from fastgc._diagnosis.explain import explain  # few checks need it, as with the other imports inside functions

    args = () if check.loss is None else check.loss.args
    return explain(gradient, estimates, judgement, args, check.options.seed, bar, check.previous, check.deadline)
