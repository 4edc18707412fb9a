"""Ladders of single entries: the derivatives of those in doubt."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np

from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.first_quotients import FINEST
from fastgc._derivatives.ladder import TOP, UNKNOWN, Derivative, Ladder, derivative_from
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._derivatives.plateaus import contradicted, ends_of_stretch, jump, jumps_within, with_jumps
from fastgc._derivatives.stairs import on_stairs, stands_on_stairs, suspicion
from fastgc._evaluation.evaluator import Stopped, Tick, silent
from fastgc._evaluation.interruption import pieces
from fastgc._parameters.arrays import Floats, Positions

_RATIO = 4.0  # of neighbouring steps of a ladder: one extrapolation gains a factor of 16, and a dozen steps span 1e7
_RUNGS = 12  # of a ladder in double precision: from 0.125 to 3e-8, past the best step of a central quotient, 6e-6
# Steps that a ladder grows by: by a factor of 256 downwards, as many times at most (to 3e-8 * 256**-4 = 7e-18 of the
# scale, below eps), and once by 64 upwards; that of a direction by the latter number either way.
_FINER, COARSER = 4, 3
GOOD_ENOUGH = 1e-6  # relative uncertainty below which a ladder does not grow: a tenth of the smallest default rtol
_AT_ONCE = 2048  # entries whose ladders are evaluated together: 24 values each fill 400 kB, which a cache holds
_AT_FIRST = 16  # of these, while it is not known how long one takes: some 400 values, enough for threads and batches


def ladder_estimates(
    loss: LossAtPoint, positions: Positions, *, shift: float = 1.0, rungs: int = _RUNGS, tick: Tick = silent
) -> Estimates:
    """The derivative of each entry from a ladder of at most ``rungs`` steps, ``shift`` times the usual ones."""
    slopes: list[Derivative] = []
    for some in pieces(positions.size, _AT_FIRST, _AT_ONCE):
        slopes += _slopes(loss, positions[some], shift, rungs, some.start, tick)
    return Estimates.of(positions, slopes)


def reached_ladders(loss: LossAtPoint, positions: Positions, shift: float, tick: Tick = silent) -> Estimates:
    """`ladder_estimates`, which "not reached" troubles where the check is interrupted."""
    slopes: list[Derivative] = []
    with contextlib.suppress(Stopped):
        for some in pieces(positions.size, _AT_FIRST, _AT_ONCE):
            slopes += _slopes(loss, positions[some], shift, _RUNGS, some.start, tick)
    left = replace(UNKNOWN, trouble="not reached")
    return Estimates.of(positions, slopes + [left] * (positions.size - len(slopes)))


def _slopes(
    loss: LossAtPoint, positions: Positions, shift: float, longest: int, before: int, tick: Tick
) -> list[Derivative]:
    """The slopes of some entries of a climb, after so many."""
    eps = loss.eps[loss.layout.tensor_of(positions)]
    finest = FINEST * eps * np.abs(loss.evaluator.entries(positions)) / loss.scales(positions)
    count = min(longest, max(3, 1 + int(np.log(TOP / (FINEST * eps.max())) / np.log(_RATIO))))
    rungs = TOP * shift * _RATIO ** -np.arange(count, dtype=np.float64)
    ladders = _off_stairs(loss, positions, _ladders(loss, positions, rungs, tick))
    slopes = [derivative_from(ladder) for ladder in ladders]
    stairs = [ladder.above.size < count for ladder in ladders]  # which finer steps would show no more of
    downwards = rungs[-1] * _RATIO ** -np.arange(1.0, 1 + _FINER)
    extensions = [("finer", downwards * _RATIO ** (-_FINER * k)) for k in range(_FINER)]
    for better_steps, more in [*extensions, ("coarser", rungs[0] * _RATIO ** np.arange(COARSER, 0, -1.0))]:
        where = [
            i
            for i, slope in enumerate(slopes)
            if slope.better_steps == better_steps
            and _uncertain(slope)
            and more[-1] >= finest[i]
            and not (better_steps == "finer" and stairs[i])
        ]
        extras = zip(where, _ladders(loss, positions[where], more), strict=True)
        extended = _off_stairs(loss, positions[where], [ladders[i].extended(extra) for i, extra in extras])
        for i, ladder in zip(where, extended, strict=True):
            stairs[i] |= ladder.above.size < ladders[i].above.size + more.size
            ladders[i], slopes[i] = ladder, derivative_from(ladder)
    loss.kept.keep(positions, ladders, before)
    return [_off_plateaus(loss, *each) for each in zip(positions.tolist(), ladders, slopes, strict=True)]


def _off_plateaus(loss: LossAtPoint, position: int, ladder: Ladder, slope: Derivative) -> Derivative:
    """The slope; that of larger steps where the loss jumps at the ends of the short stretch that the slope is of."""
    if slope.trouble == "jump" and (height := jumps_within(ladder)):
        larger = derivative_from(with_jumps(ladder, height))
        return slope if larger.trouble else larger
    ends = contradicted(ladder, slope)
    height = _jump(loss, position, ladder, slope.value, *ends) if ends else 0.0
    return derivative_from(with_jumps(ladder, height)) if height else slope


def _jump(loss: LossAtPoint, position: int, ladder: Ladder, value: float, inside: float, outside: float) -> float:
    """By how much the loss jumps where it leaves a slope; 0 where it does not jump."""
    where = np.array([position])
    x = loss.evaluator.entries(where)[0]

    def at(displacement: float) -> float:
        displaced = loss.evaluator.rounded(where, np.array([[x + displacement]]))
        return float(loss.evaluator.values(where, displaced, silent).real[0, 0])

    return jump(at, ladder, value, inside, outside)


def bends_away(loss: LossAtPoint, position: int, value: float) -> bool:
    """Whether kinks, and not jumps, lead from a slope near the point to that of larger steps.

    Between two kinks the loss is smooth; so it is between the edges of values that are rounded on the way.
    """
    where = np.array([position])
    rungs = TOP * _RATIO ** -np.arange(_RUNGS + _FINER * _FINER, dtype=np.float64)
    finest = FINEST * loss.eps[loss.layout.tensor_of(where)][0]
    ladder = _ladders(loss, where, rungs[rungs >= finest])[0]
    ends = ends_of_stretch(ladder, value)
    return ends is not None and _jump(loss, position, ladder, value, *ends) == 0.0


def _off_stairs(loss: LossAtPoint, positions: Positions, ladders: list[Ladder]) -> list[Ladder]:
    """The ladders without the steps that rounding of the parameters hides from the loss."""
    suspected = {i: found for i, found in enumerate(map(suspicion, ladders)) if found is not None}
    if not suspected:
        return ladders
    where = positions[list(suspected)]
    displaced = loss.evaluator.entries(where)[:, None] + [each.trial for each in suspected.values()]
    values = loss.evaluator.values(where, loss.evaluator.rounded(where, displaced), silent).real
    stairs = {i: each.first for (i, each), row in zip(suspected.items(), values, strict=True) if stands_on_stairs(row)}
    return [on_stairs(ladder, stairs[i]) if i in stairs else ladder for i, ladder in enumerate(ladders)]


def _uncertain(slope: Derivative) -> bool:
    return not slope.uncertainty <= GOOD_ENOUGH * abs(slope.value)


def _ladders(loss: LossAtPoint, positions: Positions, rungs: Floats, tick: Tick = silent) -> list[Ladder]:
    """Loss values on both sides of each entry, at ``rungs`` in units of its scale."""
    if not positions.size:
        return []
    x, steps = loss.evaluator.entries(positions)[:, None], loss.scales(positions)[:, None] * rungs
    displaced = loss.evaluator.rounded(positions, np.hstack([x - steps, x + steps]))
    below, above = np.hsplit(displaced - x, 2)
    minus, plus = np.hsplit(loss.evaluator.values(positions, displaced, tick).real, 2)
    with np.errstate(all="ignore"):
        rounding = np.finfo(np.float64).eps / 2 * np.fmax(np.abs(minus), np.abs(plus))
    noise = np.fmax(loss.noise.at(rungs), np.where(np.isfinite(rounding), rounding, 0.0))
    rows = zip(below, above, minus, plus, noise, strict=True)
    return [Ladder(*row[:4], loss.base, row[4], loss.noise.eps) for row in rows]
