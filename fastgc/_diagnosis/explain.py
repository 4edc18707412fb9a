"""Diagnosing the tensors that fail at one point, with a few more evaluations where their samples do not suffice."""

from __future__ import annotations

import bisect
import contextlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.first_quotients import TRIALS, quotient_estimates
from fastgc._diagnosis.diagnosis import Clues, Diagnosis, Explanation, diagnose, settled
from fastgc._diagnosis.earlier import EVALUATIONS, EarlierMeasurements, EarlierParameters
from fastgc._diagnosis.measured_tensor import MeasuredTensor
from fastgc._diagnosis.next_entries import strongest, wanted
from fastgc._diagnosis.sparse_patterns import repeats
from fastgc._diagnosis.value_patterns import constant_factor, stale_together
from fastgc._evaluation.evaluator import OutOfTime, silent
from fastgc._evaluation.working_time import now
from fastgc._parameters.arrays import Shape, distinct
from fastgc._parameters.point import arrays_in
from fastgc._progress import Progress
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.judgement import Judgement

_WITHOUT_DERIVATIVE = ("jump", "quantised", "not finite")  # troubles of entries without a derivative
_FEWEST_NEW = 6  # entries of each tensor, where many fail: three along each axis of a matrix
_OTHERS = 64  # tensors of one shape that a tensor is compared with


@np.errstate(all="ignore")  # a pattern with a number that overflows explains nothing
def explain(
    gradient: GradientAtPoint,
    estimates: Estimates,
    judgement: Judgement,
    args: Sequence[object],
    seed: int,
    bar: Progress,
    previous: EarlierParameters | None = None,
    deadline: float = math.inf,
) -> Explanation:
    """The diagnosis of every tensor with wrong entries (None: the numbers establish none, or the time was over).

    Parameters
    ----------
    estimates, judgement : of all entries that were looked at, sampled or not
    args : whose lengths may be a factor
    previous : the parameters of an earlier moment, at which failing tensors are measured too
    """
    failing = distinct(gradient.loss.layout.tensor_of(estimates.positions[judgement.failed])).tolist()
    lengths, scales = _axis_lengths(args), gradient.scales(estimates)
    tensors = _views(gradient, estimates, judgement, failing, lengths)
    spent = EVALUATIONS - EVALUATIONS // max(1, len(failing))  # for the others
    count = max(_FEWEST_NEW, _affordable(gradient, spent))
    extra = {t: _wanted(tensors[t], count, seed) for t in failing}
    for t, local in extra.items():
        if local.size:
            bar.enter(f"{gradient.loss.layout.names[t]} (explained)")
            tensors[t] = tensors[t].joined(_newly_measured(gradient, t, local, scales, lengths))
    suspects = {t: tensors[t] for t in failing}
    earlier = EarlierMeasurements() if previous is None else _earlier(previous, gradient, suspects, scales, seed, bar)
    stale, names = stale_together(tensors, earlier.tensors), gradient.loss.layout.names
    factors = {names[t]: pattern.factor or 0.0 for t in failing for pattern in constant_factor(tensors[t])}
    repeated, alike = repeats(args), _by_shape(gradient.loss.layout.shapes, tensors)
    diagnoses: dict[int, Diagnosis | None] = dict.fromkeys(failing)
    for number, t in enumerate(failing):
        if now() > deadline:
            late = (
                f"time_budget was over before {len(failing) - number} of {len(failing)} failing tensors were explained"
            )
            return Explanation(diagnoses, earlier.evaluations, (*earlier.notes, late))
        clues = Clues(_same_shaped(gradient, t, tensors, alike), factors, stale.get(t, ()), repeated)
        diagnoses[t] = diagnose(tensors[t], clues, extra[t].size)
    return Explanation(diagnoses, earlier.evaluations, earlier.notes)


def _views(
    gradient: GradientAtPoint,
    estimates: Estimates,
    judgement: Judgement,
    failing: Sequence[int],
    lengths: Mapping[int, str],
) -> dict[int, MeasuredTensor]:
    """The failing tensors, and all others of their shapes."""
    layout = gradient.loss.layout
    shapes = {layout.shapes[t] for t in failing}
    return {
        t: _as_measured(gradient, t, estimates.part(mine), judgement.part(mine), lengths)
        for t, mine in layout.parts(estimates.positions)
        if layout.shapes[t] in shapes
    }


def _wanted(tensor: MeasuredTensor, count: int, seed: int) -> NDArray[np.int64]:
    """More entries to measure, if they could add something."""
    enough = settled(tensor) or not np.isfinite(tensor.analytic).any()
    return np.empty(0, np.int64) if enough else wanted(tensor, count, seed)


def _as_measured(
    gradient: GradientAtPoint, tensor: int, estimates: Estimates, judgement: Judgement, lengths: Mapping[int, str]
) -> MeasuredTensor:
    """The measured entries: at a kink what lies between the slopes, and anything where no derivative is known."""
    layout = gradient.loss.layout
    gap = np.abs(estimates.right - estimates.left) / 2
    numerical = np.where(gap > 0, estimates.left / 2 + estimates.right / 2, estimates.numerical)
    allowed = gradient.tolerances.allowed(tensor, np.abs(numerical), gradient.scales(estimates))
    slack = allowed + estimates.uncertainty + gap
    known = np.isfinite(slack) & np.isfinite(numerical) & ~estimates.troubled_by(*_WITHOUT_DERIVATIVE)
    return MeasuredTensor(
        shape=layout.shapes[tensor] or (1,),
        gradient=gradient.gradients[tensor],
        local=estimates.positions - layout.starts[tensor],
        numerical=np.where(known, numerical, 0.0),
        slack=np.where(known, slack, np.inf),
        parameters=gradient.loss.evaluator.entries(estimates.positions),
        wrong=judgement.failed,
        right=judgement.passed,
        lengths=lengths,
        uncertainty=np.where(known, estimates.uncertainty + gap, np.inf),
    )


def _newly_measured(
    gradient: GradientAtPoint,
    tensor: int,
    local: NDArray[np.int64],
    scales: NDArray[np.float64],
    lengths: Mapping[int, str],
) -> MeasuredTensor:
    """More entries, each by one quotient: they count for or against a pattern, and accuse nobody."""
    positions = local + gradient.loss.layout.starts[tensor]
    estimates = quotient_estimates(gradient.loss, positions, gradient.stencil, None, silent)
    return _as_measured(gradient, tensor, estimates, gradient.verdicts(estimates, scales), lengths)


def _earlier(
    previous: EarlierParameters,
    here: GradientAtPoint,
    tensors: Mapping[int, MeasuredTensor],
    scales: NDArray[np.float64],
    seed: int,
    bar: Progress,
) -> EarlierMeasurements:
    """Entries of the failing tensors measured at the parameters of an earlier moment, as far as there is time."""
    measured: dict[int, MeasuredTensor] = {}
    with contextlib.ExitStack() as opened:
        there = previous.open(here, opened)
        if isinstance(there, EarlierMeasurements):
            return there
        evaluator = there.loss.evaluator
        count = _affordable(there, evaluator.evaluations)
        with contextlib.suppress(OutOfTime):
            for t, tensor in tensors.items():
                bar.enter(f"{there.loss.layout.names[t]} (previous)")
                measured[t] = _newly_measured(there, t, strongest(tensor, count, seed), scales, {})
    return EarlierMeasurements(measured, evaluator.evaluations, evaluator.raised.notes("around previous, the loss"))


def _affordable(gradient: GradientAtPoint, spent: int = 0) -> int:
    """Entries that quotients can measure with what a diagnosis may cost and has not spent; some are measured twice."""
    return (EVALUATIONS - spent) // len(gradient.stencil.offsets) - TRIALS


def _by_shape(shapes: Sequence[Shape], tensors: Mapping[int, MeasuredTensor]) -> dict[Shape, list[int]]:
    """The tensors of each shape, in the order of the parameters."""
    found: dict[Shape, list[int]] = {}
    for t in sorted(tensors):
        found.setdefault(shapes[t], []).append(t)
    return found


def _same_shaped(
    gradient: GradientAtPoint, tensor: int, tensors: Mapping[int, MeasuredTensor], alike: Mapping[Shape, Sequence[int]]
) -> dict[str, MeasuredTensor]:
    """Other tensors of the same shape by name, the nearest ones in the order of the parameters."""
    layout = gradient.loss.layout
    same = alike[layout.shapes[tensor]]
    place = bisect.bisect_left(same, tensor)
    others = [*same[max(0, place - _OTHERS) : place], *same[place + 1 : place + 1 + _OTHERS]]
    return {layout.names[t]: tensors[t] for t in sorted(others, key=lambda t: abs(t - tensor))[:_OTHERS]}


def _axis_lengths(args: Sequence[object]) -> dict[int, str]:
    """Where a length is found first among the axes of all arrays in args."""
    found: dict[int, str] = {}
    for number, arg in enumerate(args):
        for array in arrays_in(arg):
            for axis, length in enumerate(array.shape):
                what = "the batch axis" if axis == 0 else f"the length of axis {axis}"
                found.setdefault(length, f"{what} of args[{number}]")
    return {length: place for length, place in found.items() if length > 2}
