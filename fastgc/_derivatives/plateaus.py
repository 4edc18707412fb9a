"""Short smooth stretches of a loss that jumps: slopes that belong to a stretch and not to the function.

The root that 24 halvings of [0, a] give is a times a fraction: smooth in a as long as the fraction stays the same, with
the slope of that fraction, and with a jump of a * 2**-24 where it changes. A loss that rounds a part of itself to
float32 is alike: between two edges of the rounded part it has the slope of its other terms alone. Values closer than
the edges show no noise. Steps inside such a stretch agree on its slope, or steps of whole stairs on a multiple of it;
larger steps on both sides agree on the slope of the function, as well as jumps of height J let them: within J / h.

A kink near the point looks alike, but there the one-sided slopes of the larger steps stay apart, by a gap ``g`` in
``g + c * h``, and no jump is between the smallest and the larger steps. So a jump is searched for: the slope inside a
stretch is taken away, and of the two halves of an interval that which changes more is kept. The change over a
continuous function shrinks with the interval, to a third or less over five halvings (|x|**(1/3)); a jump keeps its
height. Where one is found, the values at smaller steps lie off the slope of the larger ones by the sum of the jumps up
to there: this counts as the noise of all values, and the larger steps decide if it lets them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fastgc._derivatives.ladder import FEWEST, WRONG_BEYOND, Derivative, Ladder
from fastgc._parameters.arrays import Floats

# Of the distance of larger steps from the slope: how far apart they are. Of the highest jump: what quotients move the
# other way at least, more than by round-off.
_TENTH = 0.1
# Of that distance: how far apart their one-sided slopes are, halfway to the gap of a kink. Of the change of an interval
# five halvings before: what is left at a jump, and not at |x|**(1/3), of which 0.3 is.
_HALF = 0.5
_AGREED = 1e-3  # relative: quotients that grow like log h, or like its 100th power, differ by 1 % and more
_HALVINGS = 20  # towards a jump: an interval of a millionth hardly holds two
_LAST = 6  # changes that are compared: over five halvings
_SHORT = 1e-4  # of the interval: within so little there is seldom an edge, and a slope keeps half of its digits
_PLACES = np.array([0.0, (5**0.5 - 1) / 2, 1.0])  # of three slopes inside: two miss an edge; no multiples of one stair

# The loss with the entry displaced by so much.
At = Callable[[float], float]


def contradicted(ladder: Ladder, slope: Derivative) -> tuple[float, float] | None:
    """Displacements inside and outside of a stretch whose slope larger steps of both sides contradict, or None."""
    if slope.trouble:
        return None
    off, noise = np.abs(ladder.central - slope.value), slope.uncertainty + ladder.scatter
    outside = np.flatnonzero(~(off <= WRONG_BEYOND * noise))
    if not outside.size or outside[-1] == off.size - 1:
        return None
    other = _consensus(ladder, slope.value, int(outside[-1]) + 1)
    if other is None:
        return None
    last = int(np.flatnonzero(off[: outside[-1] + 1] >= _TENTH * abs(other[0] - slope.value))[-1])
    steps = _steps_of_side(ladder, slope.value, last)
    return float(steps[-1]), float(steps[last])


def _steps_of_side(ladder: Ladder, value: float, number: int) -> Floats:
    """The displacements on the side whose one-sided slope at a step is farther from a slope."""
    sides = [(ladder.forward, ladder.above), (ladder.backward, ladder.below)]
    return max(sides, key=lambda side: float(abs(side[0][number] - value)))[1]


def _consensus(ladder: Ladder, value: float, count: int) -> tuple[float, int] | None:
    """Another slope on which neighbours among the ``count`` largest steps agree, and the smallest of these steps.

    They agree on both sides, up to curvature, and either as they are or extrapolated once.
    """
    central, best, found = ladder.central, _TENTH, None
    bent = np.abs(ladder.ratio * ladder.gaps[1:] - ladder.gaps[:-1]) / (ladder.ratio - 1)
    for order, column in enumerate([central, central[1:] + np.diff(central) / (ladder.ratio**2 - 1)]):
        for first in range(count - order - FEWEST + 1):
            some, last = column[first : first + FEWEST], first + FEWEST - 1 + order
            apart = np.abs(some - value).min()
            if np.ptp(some) < best * apart and bent[first:last].max() <= _HALF * apart:
                best, found = np.ptp(some) / apart, (float(some[1]), last)
    return found


def ends_of_stretch(ladder: Ladder, value: float) -> tuple[float, float] | None:
    """Displacements inside and outside of the stretch around the point that has a slope; None if none has it."""
    off = np.abs(ladder.central - value)
    outside = np.flatnonzero(~(off <= WRONG_BEYOND * ladder.scatter))
    if not outside.size or outside[-1] == off.size - 1:
        return None
    far = outside[off[outside] > off[outside].max() / 4][-1]  # not where the function has just begun to leave it
    steps = _steps_of_side(ladder, value, int(far))
    return float(steps[outside[-1] + 1]), float(steps[far])


def jumps_within(ladder: Ladder) -> float:
    """How high the function jumps near a point, if larger steps of both sides agree on one slope all the same; or 0.

    A jump of one side moves a central quotient by half of its height over the step; curvature does not. Many jumps move
    quotients of some steps up and of others down; one jump, or kinks nearer than all steps, move all of them alike.
    """
    for first in range(ladder.central.size - FEWEST):
        some, finer = slice(first, first + FEWEST), slice(first + FEWEST, None)
        middle = ladder.central[first + 1]
        if np.ptp(ladder.central[some]) <= _AGREED * abs(middle) >= _AGREED / _HALF * np.abs(ladder.gaps[some]).max():
            heights = 2 * (ladder.central[finer] - middle) * ladder.above[finer]
            highest = float(np.abs(heights).max())
            return highest if min(heights.max(), -heights.min()) > _TENTH * highest else 0.0
    return 0.0


def jump(at: At, ladder: Ladder, value: float, inside: float, outside: float) -> float:
    """How far values lie from a smooth function, if it leaves a slope by a jump between two displacements; or 0."""
    short = (outside - inside) * _SHORT
    slopes = [(at(place + short) - at(place)) / short for place in (inside + (outside - inside) * _PLACES).tolist()]
    inner = float(np.median(slopes))
    height = _discontinuity(lambda place: at(place) - inner * place, inside, outside)
    clear = WRONG_BEYOND * ladder.noise[ladder.above <= 2 * abs(outside)].max()  # both sides round a step a little
    return max(height, _unevenness(ladder, value)) if height > clear else 0.0


def _discontinuity(f: At, near: float, far: float) -> float:
    """The height of a jump between two places, found by halvings of whichever half changes more; 0 if there is none."""
    before, left = f(near), f(far)
    changes: list[float] = []
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        found = f(middle)
        if abs(left - found) > abs(found - before):
            near, before = middle, found
        else:
            far, left = middle, found
        changes.append(abs(left - before))
    return changes[-1] if changes[-1] > _HALF * max(changes[-_LAST:]) else 0.0


def _unevenness(ladder: Ladder, value: float) -> float:
    """How far the values at smaller steps lie from another slope on which larger steps agree."""
    found = _consensus(ladder, value, ladder.central.size)
    if found is None:
        return 0.0
    other, last = found
    return float(np.abs((ladder.central[last:] - other) * ladder.above[last:]).max())


def with_jumps(ladder: Ladder, height: float) -> Ladder:
    """The ladder of a function that jumps by so much: any value may be off by that."""
    return replace(ladder, noise=np.fmax(ladder.noise, height))
