"""Which entries of a wrong tensor to measure next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastgc._diagnosis.measured_tensor import MeasuredTensor, Positions, is_level, long_axes
from fastgc._parameters.arrays import Array
from fastgc._parameters.streams import stream

_CANDIDATES = 512  # entries drawn to choose the next ones from


def wanted(tensor: MeasuredTensor, count: int, seed: int) -> Positions:
    """At most ``count`` entries that were not measured and tell most about the kind of the error.

    Along an axis on which the analytic gradient is constant; else, where most entries are right, in the rows and
    columns of the wrong ones and beside them; else such that every row and column has a measured entry.
    """
    generator = stream(seed, "diagnosis", "wanted")
    if tensor.gradient.size - tensor.local.size <= count:
        return np.setdiff1d(np.arange(tensor.gradient.size), tensor.local)
    level = [axis for axis in long_axes(tensor.shape) if is_level(tensor, axis)]
    wrong = np.flatnonzero(tensor.wrong)
    if level:
        found = _along(tensor, int(wrong[0]), level[0], generator)
    elif wrong.size <= np.count_nonzero(tensor.right & tensor.telling):
        found = _near(tensor, wrong, generator)
    else:
        found = _spread(tensor, generator)
    return np.sort(found[:count])


def strongest(tensor: MeasuredTensor, count: int, seed: int) -> Positions:
    """At most ``count`` measured entries, in their order: wrong and telling ones first, drawn from all of them."""
    drawn = stream(seed, "diagnosis", "strongest").permutation(tensor.local.size)
    first = drawn[np.argsort(~tensor.strong[drawn], kind="stable")][:count]
    return tensor.local[np.sort(first)]


def _along(tensor: MeasuredTensor, entry: int, axis: int, generator: np.random.Generator) -> Positions:
    """The line along an axis on which an entry lies."""
    places = generator.permutation(tensor.shape[axis])[:_CANDIDATES]
    index = [np.full(places.size, each[entry]) for each in tensor.index]
    index[axis] = places
    return _unknown(tensor, index)


def _near(tensor: MeasuredTensor, entries: Positions, generator: np.random.Generator) -> Positions:
    """In turn for each entry and each axis: anywhere in its row or column, or in the one before or after."""
    turns = np.arange(_CANDIDATES)
    owners, axes = entries[turns // len(tensor.shape) % entries.size], turns % len(tensor.shape)
    index = [generator.integers(length, size=turns.size) for length in tensor.shape]
    for axis, length in enumerate(tensor.shape):
        beside = tensor.index[axis][owners] + generator.choice([0, 0, 0, -1, 1], turns.size)
        index[axis] = np.where(axes == axis, np.clip(beside, 0, length - 1), index[axis])
    return _unknown(tensor, index)


def _spread(tensor: MeasuredTensor, generator: np.random.Generator) -> Positions:
    """Entries whose analytic gradient is not zero first, and of them those in lines without any measured entry."""
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
    """The positions that were not measured, each once, in the order given."""
    positions = np.ravel_multi_index(tuple(index), tensor.shape)
    positions = positions[np.sort(np.unique(positions, return_index=True)[1])]
    return positions[~np.isin(positions, tensor.local)]
