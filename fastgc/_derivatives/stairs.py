"""Losses that round their parameters: their values form stairs, and steps narrower than a stair say nothing.

A loss that casts its parameters to float32 (or to fewer digits) does not move while a displaced entry is rounded back
to its old value. Then small steps tie exactly, and the next larger step changes the loss clearly. A rectifier that is
switched off ties too, but rises without ties once it is switched on: so values a little beyond the first change are
compared. Let w be the largest step that ties and D the next one. The stairs are at least 2w wide (w where the loss
rounds down), so that at most one edge falls into the stretch of w / 2 beyond D.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastgc._derivatives.ladder import SURELY, Ladder
from fastgc._parameters.arrays import Floats

_VALUES = 4  # in the stretch of w / 2: the fewest of which two pairs tie although one edge lies between them
_FALLING = 2.0  # beyond a jump the change stays; on stairs it grows 16-fold over two steps: anything between does


@dataclass(frozen=True)
class Suspicion:
    """That a ladder stands on stairs.

    Attributes
    ----------
    first : the index of the largest step that ties; all smaller steps tie too
    trial : displacements beyond the next larger step; their values distinguish stairs from a slope, shape (4,)
    """

    first: int
    trial: Floats


def suspicion(ladder: Ladder) -> Suspicion | None:
    """Whether the small steps of a ladder tie with its base although the larger ones suggest that they should not."""
    sides = [(ladder.plus, ladder.above), (ladder.minus, ladder.below)]
    found = [each for each in (_of_side(ladder, *side) for side in sides) if each is not None]
    return min(found, key=lambda each: each.first, default=None)  # the wider stair of the two sides


def _of_side(ladder: Ladder, values: Floats, displacements: Floats) -> Suspicion | None:
    if values[-1] != ladder.base:
        return None
    moving = np.flatnonzero(values != ladder.base)  # NaN counts as moving
    if not moving.size:
        return None
    last = int(moving[-1])
    first = last + 1
    spacing = displacements[first] / 2 / (_VALUES - 1)
    change = abs(values[last] - ladder.base)
    expected = change * spacing / displacements[last]
    if not expected > SURELY * ladder.noise[last] or _is_one_jump(values - ladder.base, displacements, last):
        return None
    return Suspicion(first, displacements[last] + spacing * np.arange(_VALUES))


def _is_one_jump(changes: Floats, displacements: Floats, last: int) -> bool:
    """Whether the change stays the same over larger steps, as beyond a single jump or a short ramp."""
    far = max(last - 2, 0)
    return far < last and bool(abs(changes[far]) <= _FALLING * abs(changes[last]))


def stands_on_stairs(values: Floats) -> bool:
    """Whether values at the trial displacements tie, except for one edge between them."""
    return bool(np.count_nonzero(np.diff(values) != 0) <= 1)


def on_stairs(ladder: Ladder, first: int) -> Ladder:
    """The ladder without the steps that tie; the height of a stair counts as noise.

    Rounding changes an entry by half a stair at most, which is at most the smallest step that moves the loss; it
    changes the value by that times the local slope.
    """
    kept = ladder.part(np.arange(first))
    slopes = [np.abs(kept.forward), np.abs(kept.backward)]
    for values, steps in ((kept.plus, kept.above), (kept.minus, kept.below)):
        local = np.abs(np.diff(values) / np.diff(steps))
        slopes.append(np.append(local, local[-1:] if local.size else 0.0))
    with np.errstate(all="ignore"):
        stair = np.fmax.reduce(slopes) * max(kept.above[-1], -kept.below[-1])
    return replace(kept, noise=np.fmax(kept.noise, stair))
