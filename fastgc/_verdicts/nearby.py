"""The analytic gradient a little away from the point, asked about entries that fail.

It may show kinks so near the point that no difference of the loss does.

A kink at the distance t that changes the slope by w adds ``w * (h - t)`` to the loss at h beyond it, and not ``w * h``:
all that distinguishes it from a smooth function of the slope beyond it is ``w * t``. Two kinks, one on each side, whose
``w * t`` noise hides leave the values of a smooth function with another slope, and a right gradient would fail.

Only the gradient itself, asked with the entry displaced, can say more. Let D be the difference that fails and v the
noise of the loss: a kink that explains D is hidden up to about ``v / D``. Three gradients fail there:

- One that is wrong everywhere is wrong at that distance, too.
- One that is wrong at the point alone (a comparison with 0, a tie) has another value within a few round-off errors of
  the entry, on both sides: a point is no neighbourhood. So has ``relu(w) - relu(-w)`` at 0, a smooth function of slope
  1, by the usual convention of each kink, 0: nothing in its values distinguishes it from the others, and it is wrong.
- One that is right has its value up to the kinks, on one side at least, and agrees with the loss beyond them.

The third may also be wrong as far as the loss cannot contradict it: D counts as uncertainty, no more and no less. A
gradient that switches farther away (at ``abs(x) < 1e-8``, where noise is 1e-16) is contradicted by values between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastgc._derivatives.displaced import DISTANCE, along_axis
from fastgc._derivatives.estimates import Estimates, LossAtPoint
from fastgc._evaluation.evaluator import OutOfTime, Ray
from fastgc._parameters.arrays import Positions
from fastgc._verdicts.judgement import Judgement, smallest_failure

# Times the noise over the difference: the distance up to which kinks hide. A gap of one-sided slopes is seen beyond 20
# times the noise over the step (`_VISIBLE` of the ladder, for the four values of a gap); twice that, to be beyond it.
_HIDDEN = 40.0
# In eps of the entry's scale: so near is a neighbourhood of the point. Sums of a thousand terms round as coarsely.
_NEIGHBOURHOOD = 1024.0
_APART = 16.0  # times that distance, at which kinks hide at least: nearer ones coincide with the point
_HALF = 0.5  # of the difference: a value is the point's or the other one, whichever is nearer
# Of a difference, at the distance up to which its kinks hide: what remains there at most, to be explained by further
# kinks. Kinks of half a dozen sizes are behind the last distance after a few of these steps.
_REMAINING = 0.75
# Entries of a tensor that no kinks explain, after which no more are asked: it fails whatever the others are. More than
# one, so that one wrong entry does not hide what the others are.
_REFUSED = 2


@dataclass(frozen=True)
class AnalyticNearby:
    """The analytic values of entries where these are displaced.

    Attributes
    ----------
    place : the loss of an entry, by its position, and the position that it has there
    asked : the analytic value at a position, at parameters displaced along a direction
    owners : what fails as a whole if one of its entries does, by positions
    """

    place: Callable[[int], tuple[LossAtPoint, int]]
    asked: Callable[[Sequence[Ray], int], float]
    owners: Callable[[Positions], Positions]

    def value(self, position: int, length: float) -> float:
        """The analytic value of an entry displaced by so much; nan where it is not defined."""
        rays = along_axis(*self.place(position), length)
        if rays is None:
            return np.nan
        try:
            return self.asked(rays, position)
        except OutOfTime:
            raise
        except Exception:  # the gradient is not defined there, as a loss may be
            return np.nan


def look_nearby(
    nearby: AnalyticNearby | None,
    estimates: Estimates,
    judgement: Judgement,
    verdicts: Callable[[Estimates], Judgement],
) -> tuple[Estimates, Judgement]:
    """Take back the failures that kinks explain which noise hides and the gradient shows."""
    failed = np.flatnonzero(judgement.failed & estimates.clear & np.isfinite(judgement.analytic))
    if nearby is None or not failed.size:
        return estimates, judgement
    owners = nearby.owners(estimates.positions[failed])
    hidden = [
        k for owner in np.unique(owners) for k in _explained(nearby, estimates, judgement, failed[owners == owner])
    ]
    if not hidden:
        return estimates, judgement
    uncertainty = estimates.uncertainty.copy()
    uncertainty[hidden] = judgement.distance[hidden]
    estimates = replace(estimates, uncertainty=uncertainty).troubled(np.array(hidden), "hidden")
    return estimates, verdicts(estimates)


def _explained(nearby: AnalyticNearby, estimates: Estimates, judgement: Judgement, failed: Positions) -> list[int]:
    """Which of the failed entries of a tensor hidden kinks explain, until some are found that they do not explain."""
    found, refused, limits = [], 0, smallest_failure(judgement, estimates.uncertainty)
    for k in failed.tolist():
        slope, value, limit = (float(each[k]) for each in (estimates.numerical, judgement.analytic, limits))
        if _kinks_explain(nearby, int(estimates.positions[k]), slope, value, limit):
            found.append(k)
        else:
            refused += 1
        if refused == _REFUSED:
            break
    return found


def _kinks_explain(nearby: AnalyticNearby, position: int, slope: float, value: float, limit: float) -> bool:
    """Whether the value is that of a neighbourhood on one side, and the gradient agrees with the slope beyond it."""
    (loss, local), difference = nearby.place(position), abs(value - slope)
    near = _neighbourhood(loss, local)
    if _hiding(loss, difference) < _APART * near:
        return False
    return _agrees_beyond(nearby, position, slope, difference, min(limit, _HALF * difference)) and any(
        abs(nearby.value(position, side * near) - value) < _HALF * difference for side in (1, -1)
    )


def _agrees_beyond(nearby: AnalyticNearby, position: int, slope: float, difference: float, limit: float) -> bool:
    """Whether the gradient agrees with the loss beyond the kinks, each as near as its part of the difference hides it.

    The mean of both sides is what a central quotient averages from the point to its step. It grows with the square of
    the distance where the gradient is smooth, also where that is wrong by a constant; so both the mean and its
    extrapolation to the point are to agree.
    """
    loss, local = nearby.place(position)
    while (far := _hiding(loss, difference)) <= DISTANCE * _scale(loss, local):
        near, twice = (_mean_of_sides(nearby, position, each) - slope for each in (far, 2 * far))
        rest = float(np.maximum(abs(near), abs(4 * near - twice) / 3))
        if not limit < rest <= _REMAINING * difference:  # true for NaN
            return rest <= limit
        difference = rest
    return False


def _mean_of_sides(nearby: AnalyticNearby, position: int, length: float) -> float:
    return (nearby.value(position, length) + nearby.value(position, -length)) / 2


def right_around(nearby: AnalyticNearby, estimates: Estimates, judgement: Judgement, k: int) -> bool:
    """Whether the gradient agrees with an entry's slope on both sides of the point, however near."""
    position, limit = int(estimates.positions[k]), float(smallest_failure(judgement, estimates.uncertainty)[k])
    near = _neighbourhood(*nearby.place(position))
    return all(abs(nearby.value(position, side * near) - estimates.numerical[k]) <= limit for side in (1, -1))


def _neighbourhood(loss: LossAtPoint, position: int) -> float:
    """How far a neighbourhood of the point reaches at least."""
    return _NEIGHBOURHOOD * float(loss.eps[loss.layout.tensor_of(np.array([position]))[0]]) * _scale(loss, position)


def _hiding(loss: LossAtPoint, difference: float) -> float:
    """How far kinks hide that change the slope by the difference."""
    return _HIDDEN * loss.noise.at_point / difference


def _scale(loss: LossAtPoint, position: int) -> float:
    return float(loss.scales(np.array([position]))[0])
