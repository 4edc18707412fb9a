"""Entries that are plainly wrong: two steps agree on another slope, and no ladder of steps could change that.

The first look leaves a difference D between the analytic value a and the quotient n that is far beyond its uncertainty.
Kinks nearer to the point than the step of that look could still make a right: then the slope near the point is a, on
one side at least. So the loss is asked again, at the smallest displacements at which noise does not hide the
difference. Several entries are displaced together, by ``d / (a_i - n_i)`` and by the opposite: wherever the slope of
some of them is a, or between n and a, the change of the loss grows by up to d for each of them, and nothing cancels.
Two values that are off by less than half of d, one on each side, therefore confirm all slopes of the group, except for
kinks so near that noise hides them: no entry moves farther than `fastgc._verdicts.nearby` looks for those.

A kink at the point may be small beside D, and make a convention of a (2 and 1.9 on both sides of 2 max(x, 0) - 1.9
max(-x, 0), whose gradient is 0 there). It shows at larger steps: the second difference of a smooth function grows as
the square of the step, and that of a kink in proportion to it. There many entries are displaced together, by multiples
of their steps among which kinks do not cancel.
"""

from __future__ import annotations

import contextlib

import numpy as np

from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.first_quotients import FINEST, usual_steps
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._evaluation.evaluator import Stopped
from fastgc._parameters.arrays import Flags, Floats, Positions
from fastgc._verdicts.judgement import Judgement, excess
from fastgc._verdicts.nearby import searched_within

PLAIN = 1000.0  # uncertainties beyond which an entry fails without another look: 100 times the limit of a failure
GROUP = 8  # entries that are displaced together: two values for them add an eighth to their quotients
CLEAR = 20.0  # times the noise of a value: the change d that a right value would make
OFF = 0.4  # of that change: eight times the noise, far from its deviations as well as from d
AT_KINKS = 16  # entries whose second differences are measured together: four values add an eighth to their quotients
# Times the step of the first look: second differences of kinks and of curvature differ fourfold there. So many times
# smaller, at least, is another step, with a sixteenth of its truncation error.
FARTHER = 4.0
_VISIBLE = 6.0  # deviations of a second difference and 16 times another: of noise, once in 1e9
_GOLDEN = (5**0.5 - 1) / 2  # the fractional parts of its multiples are spread evenly, and no simple sum of them is 0
_TOGETHER = 64  # entries in one call of the evaluator: rows of a few dozen entries, for its threads or batches
_LADDERS = 8  # tensors, at most, of which one entry climbs a ladder all the same: pictures show its quotients by step
_FOR_EACH = 600  # evaluations for each such ladder after the first: its 24 values add four in a hundred
_SHARED_OUT = 1024  # the same for workers, whose loss takes far longer than to write a row: 384 values to share


def plainly_wrong(loss: LossAtPoint, estimates: Estimates, judgement: Judgement) -> Flags:
    """Which entries need no ladder: no number, which no slope is, or wrong by far, which small steps confirm."""
    plain = far_off(estimates, judgement)
    confirmed = np.zeros(plain.size, bool)
    if not plain.any():
        return confirmed
    number = np.isfinite(judgement.analytic)
    confirmed[plain & ~number] = True
    where = np.flatnonzero(plain & number)
    if not where.size:
        return confirmed
    where = _without_shown(loss, where, estimates, judgement)
    where = where[np.argsort(judgement.distance[where], kind="stable")]  # like with like: displacements differ less
    differences = judgement.analytic - judgement.numerical
    with contextlib.suppress(Stopped), np.errstate(all="ignore"):  # the ladders of the others tell of an interruption
        length = _TOGETHER if getattr(loss.evaluator, "pace", None) is None else _SHARED_OUT
        for begin in range(0, where.size, length):
            some = where[begin : begin + length]
            confirmed[some] = _confirmed(loss, estimates.part(some), differences[some])
    return confirmed


def far_off(estimates: Estimates, judgement: Judgement) -> Flags:
    """Which entries fail by more than any ladder could explain, or because their analytic value is no number."""
    with np.errstate(all="ignore"):
        return np.asarray(judgement.failed & estimates.clear & ~(judgement.distance <= PLAIN * estimates.uncertainty))


def _without_shown(loss: LossAtPoint, where: Positions, estimates: Estimates, judgement: Judgement) -> Positions:
    """The entries without the worst of the worst tensors, which climb ladders all the same: pictures show these."""
    over = excess(judgement, estimates)[where]
    tensors = loss.layout.tensor_of(estimates.positions[where])
    worst_last = np.lexsort((over, tensors))
    worst = worst_last[np.flatnonzero(np.diff(tensors[worst_last], append=-1))]
    count = min(_LADDERS, max(1, loss.evaluator.evaluations // _FOR_EACH))
    return np.delete(where, worst[np.argsort(-over[worst], kind="stable")][:count])


def _confirmed(loss: LossAtPoint, estimates: Estimates, differences: Floats) -> Flags:
    """Which entries have no kink at the point, and the slopes of the first look at small displacements."""
    return _slopes_hold(loss, estimates, differences) & _without_kinks(loss, estimates)


def _slopes_hold(loss: LossAtPoint, estimates: Estimates, differences: Floats) -> Flags:
    """Whether no slope is the analytic value on a side, in groups that are displaced as little as shows it."""
    positions, count = estimates.positions, estimates.positions.size
    x, scales = loss.evaluator.entries(positions), loss.scales(positions)
    groups, distances = _groups(count, GROUP), np.abs(differences)
    least = np.maximum(FINEST * np.abs(x), scales) * loss.eps[loss.layout.tensor_of(positions)]
    changes = np.full(groups[-1] + 1, CLEAR * loss.noise.at_point)
    np.maximum.at(changes, groups, least * distances)
    moves = changes[groups] / differences
    near = np.abs(moves) <= np.minimum(
        usual_steps(loss, positions) / FARTHER, searched_within(loss, positions, distances)
    )
    good, moves = np.ones(changes.size, bool), np.where(near, moves, 0.0)
    for side in (1, -1):
        changed, moved = _displaced(loss, positions, side * moves, groups)
        good &= np.abs(changed - moved @ estimates.numerical) <= OFF * changes
    return near & good[groups]


def _without_kinks(loss: LossAtPoint, estimates: Estimates) -> Flags:
    """Whether second differences grow as the square of the step, in groups of many entries."""
    positions = estimates.positions
    groups, moves = _groups(positions.size, AT_KINKS), unlike(usual_steps(loss, positions))
    near, far = (
        _displaced(loss, positions, each, groups)[0] + _displaced(loss, positions, -each, groups)[0]
        for each in (moves, FARTHER * moves)
    )
    reach = np.zeros(groups[-1] + 1)
    np.maximum.at(reach, groups, FARTHER * moves / loss.scales(positions))
    return grows_as_the_square(near, far, loss.noise.at(reach))[groups]


def unlike(steps: Floats) -> Floats:
    """Displacements of a step at least, and two at most, among which the kinks of a group do not cancel."""
    return np.asarray(steps * (1 + np.arange(steps.size) % AT_KINKS * _GOLDEN % 1))


def grows_as_the_square(near: Floats, far: Floats, noise: Floats) -> Flags:
    """Whether second differences, of values with so much noise, do so over `FARTHER` times the displacement."""
    of_both = noise * np.hypot(1, FARTHER**2) * 6**0.5  # of f + f - 2 * f
    return np.asarray(np.abs(far - FARTHER**2 * near) <= _VISIBLE * of_both)


def _groups(count: int, size: int) -> Positions:
    """The group of each entry: of neighbours, none of fewer than ``size`` where there are so many."""
    return np.arange(count) * max(1, count // size) // max(1, count)


def _displaced(loss: LossAtPoint, positions: Positions, moves: Floats, groups: Positions) -> tuple[Floats, Floats]:
    """The change of the loss where each group is displaced, shape (groups,), nan beyond bounds; and by how much it is.

    The second array has shape (groups, entries).
    """
    x = loss.evaluator.entries(positions)
    rows = np.where(groups == np.arange(groups[-1] + 1)[:, None], x + moves, x)
    rows = loss.evaluator.rounded(positions, rows.T).T
    changed = loss.evaluator.along(positions, rows).real - loss.base
    if loss.bounds is not None:
        changed[np.bincount(groups, ~loss.bounds.contain(positions, x + moves)) > 0] = np.nan
    return changed, rows - x
