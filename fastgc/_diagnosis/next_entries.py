"""Which entries of a wrong tensor to measure next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastgc._diagnosis.measured_tensor import (
    FEWEST,
    MeasuredTensor,
    Positions,
    is_level,
    is_symmetric,
    long_axes,
    mirrored,
)
from fastgc._parameters.arrays import Array, without
from fastgc._parameters.streams import stream

# Entries drawn to choose the next ones from: some twenty times as many as are ever measured (25), so that entries that
# are known already, or drawn twice, leave enough.
_CANDIDATES = 512
# Wrong entries, and no right one, after which more would tell nothing new: twice as many as establish any pattern
# (bench/diagnosis.py: further ones change no diagnosis).
_TELLING = 2 * FEWEST


def wanted(tensor: MeasuredTensor, count: int, seed: int) -> Positions:
    """At most ``count`` new entries that distinguish best between kinds of bugs.

    If the analytic gradient is constant along an axis, they lie on one line along it; if it is symmetric, they mirror
    measured ones. If most entries are right, they lie in the rows and columns of the wrong ones and next to these.
    Otherwise they reach every row and column; where all entries are wrong, a few are enough.
    """
    generator = stream(seed, "diagnosis", "wanted")
    if tensor.gradient.size - tensor.local.size <= count:
        return without(np.arange(tensor.gradient.size), tensor.local)
    level = [axis for axis in long_axes(tensor.shape) if is_level(tensor, axis)]
    wrong = np.flatnonzero(tensor.wrong)
    if level:
        found = _along(tensor, int(wrong[0]), level[0], generator)
    elif is_symmetric(tensor):
        found = without(mirrored(tensor.part(tensor.strong)), tensor.local)
    elif wrong.size <= np.count_nonzero(tensor.right & tensor.telling):
        found = _near(tensor, wrong, generator)
    else:
        found = _spread(tensor, generator)
        if not (tensor.right & tensor.telling).any():
            count = min(count, max(0, _TELLING - int(np.count_nonzero(tensor.strong))))
    return np.sort(found[:count])


def strongest(tensor: MeasuredTensor, count: int, seed: int) -> Positions:
    """At most ``count`` measured entries in their order, drawn at random: the strong ones first."""
    drawn = stream(seed, "diagnosis", "strongest").permutation(tensor.local.size)
    first = drawn[np.argsort(~tensor.strong[drawn], kind="stable")][:count]
    return tensor.local[np.sort(first)]


def _along(tensor: MeasuredTensor, entry: int, axis: int, generator: np.random.Generator) -> Positions:
    """Entries of the line through one entry along an axis."""
    places = generator.permutation(tensor.shape[axis])[:_CANDIDATES]
    index = [np.full(places.size, each[entry]) for each in tensor.index]
    index[axis] = places
    return _unknown(tensor, index)


def _near(tensor: MeasuredTensor, entries: Positions, generator: np.random.Generator) -> Positions:
    """For each entry and each axis in turn: a random entry of its line, or of the line before or after."""
    turns = np.arange(_CANDIDATES)
    owners, axes = entries[turns // len(tensor.shape) % entries.size], turns % len(tensor.shape)
    index = [generator.integers(length, size=turns.size) for length in tensor.shape]
    for axis, length in enumerate(tensor.shape):
        beside = tensor.index[axis][owners] + generator.choice([0, 0, 0, -1, 1], turns.size)
        index[axis] = np.where(axes == axis, np.clip(beside, 0, length - 1), index[axis])
    return _unknown(tensor, index)


def _spread(tensor: MeasuredTensor, generator: np.random.Generator) -> Positions:
    """Entries with a nonzero analytic gradient first, and among these the ones in lines without a measured entry."""
    drawn = _unknown(tensor, [generator.integers(length, size=_CANDIDATES) for length in tensor.shape])
    zero = tensor.gradient[drawn] == 0
    drawn = drawn[np.argsort(zero, kind="stable")]
    seen = [set(each.tolist()) for each in tensor.index]
    last = np.zeros(drawn.size, bool)
    for i, place in enumerate(zip(*(each.tolist() for each in np.unravel_index(drawn, tensor.shape)), strict=True)):
        last[i] = all(k in lines for k, lines in zip(place, seen, strict=True))
        for k, lines in zip(place, seen, strict=True):
            lines.add(k)
    return drawn[np.lexsort((last, np.sort(zero)))]


def _unknown(tensor: MeasuredTensor, index: Sequence[Array]) -> Positions:
    """The positions not measured yet, each once, in the given order."""
    positions = np.ravel_multi_index(tuple(index), tensor.shape)
    positions = positions[np.sort(np.unique(positions, return_index=True)[1])]
    return positions[~np.isin(positions, tensor.local)]
