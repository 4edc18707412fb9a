"""Short smooth stretches of a loss that jumps: slopes that belong to a solver's iterations and not to its solution.

The root that 24 halvings of [0, a] give is a times a fraction: smooth in a as long as the fraction stays the same, with
the slope of that fraction, and with a jump of a * 2**-24 where it changes. Steps inside such a stretch agree on its
slope, larger steps on both sides agree on the solution's. A kink near the point looks alike, but beyond a kink the
function departs little by little and not by a jump; and of one kink, or one jump, the other side knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fastgc._derivatives.ladder import FEWEST, WRONG_BEYOND, Derivative, Ladder
from fastgc._parameters.arrays import Floats

# Times the deviation inside, by which the first step outside deviates: between neighbouring steps that of a smooth
# function grows by 16.
_ABRUPT = 256.0
# Of the distance of larger steps from the slope: how far apart they are. Of the highest jump: what quotients move the
# other way at least, more than by round-off.
_TENTH = 0.1
# Of that distance: how far apart their one-sided slopes are. Of the departure beyond the place where the function
# leaves the stretch: a jump is there at once, a kink adds a few thousandths.
_HALF = 0.5
_AGREED = 1e-3  # relative: quotients that grow like log h, or like its 100th power, differ by 1 % and more
_HALVINGS = 20  # towards the place where the function leaves the stretch: it is then known to a millionth
_DEPARTED = 1 / 64  # of the departure at the first step outside: less may be the curvature of the stretch
_LOOKED_AT = 16  # places between the ends: many jumps show in nearly all third differences, where curvature vanishes
_OF_ONE_KINK = 3  # of the 13 third differences that may show nothing: two kinks show in 6

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
    last = int(outside[-1])
    if not off[last] > _ABRUPT * max(off[last + 1], noise[last + 1]) or not _agree(ladder, off, last + 1):
        return None
    sides = [(ladder.forward, ladder.above), (ladder.backward, ladder.below)]
    steps = max(sides, key=lambda side: abs(side[0][last] - slope.value))[1]
    return float(steps[last + 1]), float(steps[last])


def _agree(ladder: Ladder, off: Floats, count: int) -> bool:
    """Whether some neighbours among the largest steps agree on another slope, on both sides."""
    for first in range(count - FEWEST + 1):
        some = slice(first, first + FEWEST)
        apart = off[some].min()
        if np.ptp(ladder.central[some]) <= _TENTH * apart and np.abs(ladder.gaps[some]).max() <= _HALF * apart:
            return True
    return False


def ends_of(ladder: Ladder, value: float) -> tuple[float, float] | None:
    """Displacements inside and outside of the stretch around the point that has a slope; None if none has it."""
    off = np.abs(ladder.central - value)
    outside = np.flatnonzero(~(off <= WRONG_BEYOND * ladder.scatter))
    if not outside.size or outside[-1] == off.size - 1:
        return None
    far = outside[off[outside] > off[outside].max() / 4][-1]  # not where the function has just begun to leave it
    sides = [(ladder.forward, ladder.above), (ladder.backward, ladder.below)]
    steps = max(sides, key=lambda side: abs(side[0][far] - value))[1]
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


def jump(at: At, ladder: Ladder, slope: Derivative, inside: float, outside: float) -> float:
    """The height of the jump, or of many, by which the function leaves the stretch; 0 where it leaves it gradually."""

    def departure(displacement: float) -> float:
        return at(displacement) - ladder.base - slope.value * displacement

    near, far = inside, outside
    whole, before, left = abs(departure(far)), 0.0, departure(far)
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        found = departure(middle)
        if abs(found) > _DEPARTED * whole:
            far, left = middle, found
        else:
            near, before = middle, found
    if abs(left - before) > _HALF * abs(left):
        return abs(left)
    rough = np.abs(np.diff([departure(each) for each in np.linspace(inside, outside, _LOOKED_AT)], 3))
    many = np.count_nonzero(rough > 8 * WRONG_BEYOND * ladder.noise.max()) >= rough.size - _OF_ONE_KINK
    return float(rough.max()) if many else 0.0


def with_jumps(ladder: Ladder, height: float) -> Ladder:
    """The ladder of a function that jumps by so much: any value may be off by that."""
    return replace(ladder, noise=np.fmax(ladder.noise, height))
