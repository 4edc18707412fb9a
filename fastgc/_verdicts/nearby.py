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

from fastgc._derivatives.displaced import DISTANCE, along_axes
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._evaluation.evaluator import OutOfTime, Ray
from fastgc._parameters.arrays import Flags, Floats, Positions
from fastgc._parameters.streams import stream
from fastgc._verdicts.judgement import Judgement, smallest_failure

# Times the noise over the difference: the distance up to which kinks hide. A gap of one-sided slopes is seen beyond 20
# times the noise over the step (`_VISIBLE` of the ladder, for the four values of a gap); twice that, to be beyond it.
_HIDDEN = 40.0
# In eps of the entry's scale: so near is a neighbourhood of the point. Sums of a thousand terms round as coarsely.
_NEIGHBOURHOOD = 1024.0
_APART = 16.0  # times that distance, at which kinks hide at least: nearer ones coincide with the point
# Of a difference, at the distance up to which its kinks hide: what remains there at most, to be explained by further
# kinks. Kinks of half a dozen sizes are behind the last distance after a few of these steps.
_REMAINING = 0.75
# Entries of a tensor that no kinks explain, after which no more are asked: it fails whatever the others are. More than
# one, so that one wrong entry does not hide what the others are.
_REFUSED = 2
_ALONE = 8  # tensors whose entries are asked for one by one, some five gradients each; of more, all together first
_LOOKS = 3  # at many tensors together, six gradients: what the first displaces alike, another moves apart


@dataclass(frozen=True)
class AnalyticNearby:
    """The analytic values of entries where these are displaced.

    Attributes
    ----------
    place : the loss of an entry, by its position, and the position that it has there
    asked : the analytic values at positions, at parameters displaced along a direction
    owners : what fails as a whole if one of its entries does, by positions
    """

    place: Callable[[int], tuple[LossAtPoint, int]]
    asked: Callable[[Sequence[Ray], Positions], Floats]
    owners: Callable[[Positions], Positions]

    def value(self, position: int, length: float) -> float:
        """The analytic value of an entry displaced by so much; nan where it is not defined."""
        return float(self.values(np.array([position]), np.array([length]))[0])

    def mean_of_sides(self, positions: Positions, lengths: Floats) -> Floats:
        """The means of the analytic values on both sides of the point, all entries displaced together."""
        return (self.values(positions, lengths) + self.values(positions, -lengths)) / 2

    def values(self, positions: Positions, lengths: Floats) -> Floats:
        """The analytic values of entries of different tensors, all displaced together; nan where one is not defined."""
        places = [self.place(position) for position in positions.tolist()]
        rays = along_axes(places[0][0], np.array([local for _, local in places]), lengths)
        if rays is None:
            return np.full(positions.size, np.nan)
        try:
            return self.asked(rays, positions)
        except OutOfTime:
            raise
        except Exception:  # the gradient is not defined there, as a loss may be
            return np.full(positions.size, np.nan)


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
    hidden = _explained(nearby, estimates, judgement, failed)
    if not hidden:
        return estimates, judgement
    uncertainty = estimates.uncertainty.copy()
    uncertainty[hidden] = judgement.distance[hidden]
    estimates = replace(estimates, uncertainty=uncertainty).troubled(np.array(hidden), "hidden")
    return estimates, verdicts(estimates)


def _explained(nearby: AnalyticNearby, estimates: Estimates, judgement: Judgement, failed: Positions) -> list[int]:
    """Which of the failed entries hidden kinks explain, in each tensor until some are found that they do not explain.

    The entries are looked at in rounds, one of each tensor.
    """
    found: list[int] = []
    owners = nearby.owners(estimates.positions[failed])
    refused = np.zeros(owners.max() + 1, np.int64)
    while failed.size:
        owners, first = np.unique(nearby.owners(estimates.positions[failed]), return_index=True)
        asked = failed[first]
        possible = np.flatnonzero(_possible(nearby, estimates, judgement, asked))
        explained = np.zeros(asked.size, bool)
        explained[possible] = [_kinks_explain(nearby, estimates, judgement, k) for k in asked[possible].tolist()]
        found += asked[explained].tolist()
        refused[owners[~explained]] += 1
        failed = np.delete(failed, first)
        failed = failed[refused[nearby.owners(estimates.positions[failed])] < _REFUSED]
    return sorted(found)


def _possible(nearby: AnalyticNearby, estimates: Estimates, judgement: Judgement, asked: Positions) -> Flags:
    """Which entries of different tensors hidden kinks may explain; of many, by a look at all of them together.

    To ask for each by itself would take a gradient of all tensors for every tensor. Displaced together, an entry shows
    what is beyond its own kinks, too. A kink of a combination of entries may be hidden if these move alike: they move
    differently in each attempt.
    """
    if asked.size <= _ALONE:
        return np.ones(asked.size, bool)
    positions, slopes, differences = estimates.positions[asked], estimates.numerical[asked], judgement.distance[asked]
    lengths = np.array([_hiding(nearby.place(p)[0], d) for p, d in zip(positions.tolist(), differences, strict=True)])
    possible, generator = np.zeros(asked.size, bool), stream(0, "displaced point", "together")
    for _ in range(_LOOKS):
        moves = lengths * generator.choice([-1.0, 1.0], asked.size) * generator.uniform(1.0, 2.0, asked.size)
        rest = np.abs(nearby.mean_of_sides(positions, moves) - slopes)
        possible |= ~(rest > _REMAINING * differences)  # true for NaN
    return possible


def _kinks_explain(nearby: AnalyticNearby, estimates: Estimates, judgement: Judgement, k: int) -> bool:
    """Whether the value is that of a neighbourhood on one side, and the gradient agrees with the slope beyond it.

    It is one of two values whichever is nearer.
    """
    position, slope, value = int(estimates.positions[k]), float(estimates.numerical[k]), float(judgement.analytic[k])
    limit = float(smallest_failure(judgement, estimates.uncertainty)[k])
    (loss, local), difference = nearby.place(position), abs(value - slope)
    near = _neighbourhood(loss, local)
    if _hiding(loss, difference) < _APART * near:
        return False
    return _agrees_beyond(nearby, position, slope, difference, min(limit, difference / 2)) and any(
        abs(nearby.value(position, side * near) - value) < difference / 2 for side in (1, -1)
    )


def _agrees_beyond(nearby: AnalyticNearby, position: int, slope: float, difference: float, limit: float) -> bool:
    """Whether the gradient agrees with the loss beyond the kinks, each as near as its part of the difference hides it.

    The mean of both sides is what a central quotient averages from the point to its step. It grows with the square of
    the distance where the gradient is smooth, also where that is wrong by a constant; so both the mean and its
    extrapolation to the point are to agree.
    """
    loss, local = nearby.place(position)
    while (far := _hiding(loss, difference)) <= DISTANCE * _scale(loss, local):
        near, twice = (
            float(nearby.mean_of_sides(np.array([position]), np.array([each]))[0]) - slope for each in (far, 2 * far)
        )
        rest = float(np.maximum(abs(near), abs(4 * near - twice) / 3))
        if not limit < rest <= _REMAINING * difference:  # true for NaN
            return rest <= limit
        difference = rest
    return False


def right_around(nearby: AnalyticNearby, estimates: Estimates, judgement: Judgement, where: Positions) -> Positions:
    """The entries, of different tensors, whose slopes the gradient agrees with on both sides of the point.

    Of many, those that do not when all are displaced together are not asked for by themselves.
    """
    if where.size > _ALONE:
        where = where[_agree(nearby, estimates, judgement, where)]
    return np.array([k for k in where.tolist() if _agree(nearby, estimates, judgement, np.array([k]))[0]], np.int64)


def _agree(nearby: AnalyticNearby, estimates: Estimates, judgement: Judgement, where: Positions) -> Flags:
    """Whether the gradient agrees with the slopes of entries on both sides of the point, all displaced together."""
    positions, agree = estimates.positions[where], np.ones(where.size, bool)
    limits = smallest_failure(judgement, estimates.uncertainty)[where]
    near = np.array([_neighbourhood(*nearby.place(position)) for position in positions.tolist()])
    near *= 1 + np.arange(where.size) % _ALONE / _ALONE  # not alike, so that ties between tensors are left
    for side in (1, -1):
        agree &= np.abs(nearby.values(positions, side * near) - estimates.numerical[where]) <= limits
    return agree


def searched_within(loss: LossAtPoint, positions: Positions, differences: Floats) -> Floats:
    """How far from the point kinks that change slopes by so much are looked for; nearer ones may be the point's."""
    near = _NEIGHBOURHOOD * loss.eps[loss.layout.tensor_of(positions)] * loss.scales(positions)
    return np.maximum(_HIDDEN * loss.noise.at_point / differences, _APART * near)


def _neighbourhood(loss: LossAtPoint, position: int) -> float:
    """How far a neighbourhood of the point reaches at least."""
    return _NEIGHBOURHOOD * float(loss.eps[loss.layout.tensor_of(np.array([position]))[0]]) * _scale(loss, position)


def _hiding(loss: LossAtPoint, difference: float) -> float:
    """How far kinks hide that change the slope by the difference."""
    return _HIDDEN * loss.noise.at_point / difference


def _scale(loss: LossAtPoint, position: int) -> float:
    return float(loss.scales(np.array([position]))[0])
