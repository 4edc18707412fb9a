"""Right values in wrong places: entries exchanged, reordered, or constant along an axis of a tensor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastgc._diagnosis.measured_tensor import (
    BITS,
    FEWEST,
    WITHIN,
    Floats,
    Indices,
    MeasuredTensor,
    information,
    is_level,
    long_axes,
    moved,
)
from fastgc._diagnosis.value_patterns import EXACT, FITTED, Pattern
from fastgc._parameters.arrays import Array, distinct

# Lines of an axis whose order is looked for: 64 measured entries tell nothing of more of them. Its square is how many
# pairs of a line and a measured entry are compared for that: 32 MB, some 30 ms.
_LONGEST = 2048


# --- the same entries in other places ---


def rearranged(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Axes exchanged, reversed or shifted by one; entries read by rows and written by columns."""
    moves = [*_transposed(tensor), *_reversed(tensor), *_by_columns(tensor)]
    shifts = [*itertools.product(long_axes(tensor.shape), (1, -1))]
    alternatives = len(moves) + 2 * len(shifts)
    for found, source in moves:
        residual = tensor.at(source) - tensor.numerical
        if tensor.explained(residual, 2, alternatives=alternatives):
            yield replace(found, deviation=tensor.deviation(residual))
    for axis, shift in shifts:
        yield from _shifted(tensor, axis, shift, alternatives)


def _transposed(tensor: MeasuredTensor) -> Iterator[tuple[Pattern, Sequence[Array]]]:
    for p, q in itertools.combinations(long_axes(tensor.shape), 2):
        if tensor.shape[p] == tensor.shape[q]:
            source = list(tensor.index)
            source[p], source[q] = source[q], source[p]
            text = "a transposed tensor" if len(tensor.shape) == 2 else f"axes {p} and {q} exchanged"
            yield Pattern("transpose", f"consistent with {text} (analytic[i, j] = numerical[j, i])", axis=p), source


def _reversed(tensor: MeasuredTensor) -> Iterator[tuple[Pattern, Sequence[Array]]]:
    long = long_axes(tensor.shape)
    several = {tuple(long), tuple(long[:2]), tuple(long[-2:])} if len(long) > 1 else set()
    for axes in [*((k,) for k in long), *sorted(several)]:
        source = [tensor.shape[k] - 1 - each if k in axes else each for k, each in enumerate(tensor.index)]
        text = f"consistent with entries reversed along {_axes_text(axes)}"
        yield Pattern("permutation", text, axis=axes[0]), source


def _shifted(tensor: MeasuredTensor, axis: int, shift: int, alternatives: int) -> Iterator[Pattern]:
    """By one place; what is pushed over the end comes back at the other, or is lost."""
    length, source = tensor.shape[axis], tensor.index[axis] + shift
    residual = tensor.at(moved(tensor.index, axis, source % length)) - tensor.numerical
    text = f"consistent with entries shifted by {shift:+d} along axis {axis}"
    stays = source == source % length
    inside, lost = np.where(stays, residual, 0.0), int(np.count_nonzero(~stays & tensor.strong))
    if length > 2 and tensor.explained(residual, 2, alternatives=alternatives):
        yield Pattern("permutation", text, axis=axis, deviation=tensor.deviation(residual))
    elif length > 3 and tensor.explained(inside, 2, alternatives=alternatives, fitted=lost):
        text += f", which loses the {'last' if shift > 0 else 'first'} one"
        yield Pattern("permutation", text, axis=axis, deviation=tensor.deviation(inside))


def _by_columns(tensor: MeasuredTensor) -> Iterator[tuple[Pattern, Sequence[Array]]]:
    if len(set(long_axes(tensor.shape))) < 2 or (len(tensor.shape) == 2 and tensor.shape[0] == tensor.shape[1]):
        return
    text = "consistent with entries read in one order and written in the other (reshape where a transpose was meant)"
    mirrored = np.ravel_multi_index(tensor.index[::-1], tensor.shape[::-1])
    yield Pattern("permutation", text), np.unravel_index(mirrored, tensor.shape)
    yield Pattern("permutation", text), np.unravel_index(tensor.local, tensor.shape, order="F")


def _axes_text(axes: Sequence[int]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {' and '.join(map(str, axes))}"


def swapped(tensor: MeasuredTensor, others: Mapping[str, MeasuredTensor]) -> Iterator[Pattern]:
    """The analytic gradient is another tensor's: it agrees with the entries measured there."""
    for name, other in others.items():
        residual = np.asarray(tensor.gradient[other.local], np.float64) - other.numerical
        enough = np.count_nonzero(other.valued) >= (2 if other.complete else FEWEST)
        deviation = other.deviation(residual)
        slack = other.resolved(deviation)[other.valued]
        bits = information(other.numerical[other.valued], slack) - math.log2(len(others))
        if enough and bits >= BITS + tensor.spent and deviation <= WITHIN:
            text = f"consistent with the gradient of {name!r}: it agrees with the numerical one there"
            yield Pattern("swapped", text, deviation=deviation)


def reordered(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """The lines of an axis in any other order: the entries of each line are looked up among all lines."""
    for axis in long_axes(tensor.shape):
        length = tensor.shape[axis]
        if length > _LONGEST:
            continue
        some = np.arange(0, tensor.local.size, -(-tensor.local.size * length // _LONGEST**2))
        lines = np.arange(length)[:, None]
        index = [np.broadcast_to(each, (length, some.size)) for each in moved(_part(tensor.index, some), axis, lines)]
        fits = np.abs(tensor.at(index) - tensor.numerical[some]) <= WITHIN * tensor.slack[some]
        sources = _sources(fits, tensor.index[axis][some], tensor.telling[some])
        if sources is None:
            continue
        residual = tensor.at(moved(tensor.index, axis, sources[tensor.index[axis]])) - tensor.numerical
        chosen = distinct(tensor.index[axis][tensor.telling]).size * math.log2(length)  # bits that choosing costs
        if tensor.explained(residual, 2, BITS + chosen):
            yield Pattern("permutation", _order_text(sources, axis), axis=axis, deviation=tensor.deviation(residual))


def _part(index: Indices, some: NDArray[np.int64]) -> Indices:
    return tuple(each[some] for each in index)


def _sources(fits: NDArray[np.bool_], lines: NDArray[np.int64], telling: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """The line from which the entries of each line come, no two the same; its own if unknown; None if none fits."""
    sources = np.arange(fits.shape[0])
    possible = {line: np.flatnonzero(fits[:, lines == line].all(axis=1)) for line in distinct(lines[telling]).tolist()}
    taken: set[int] = set()
    for line in sorted(possible, key=lambda line: possible[line].size):
        free = [int(source) for source in possible[line] if source not in taken]
        if not free:
            return None
        sources[line] = line if line in free else free[0]
        taken.add(int(sources[line]))
    return sources


def _order_text(sources: NDArray[np.int64], axis: int) -> str:
    moved = np.flatnonzero(sources != np.arange(sources.size))
    if moved.size == 2:
        return f"consistent with lines {moved[0]} and {moved[1]} of axis {axis} exchanged"
    shifts = {int(s) for s in (sources[moved] - moved) % sources.size}
    if len(shifts) == 1:
        return f"consistent with entries shifted by {shifts.pop()} along axis {axis}"
    return f"consistent with the lines of axis {axis} in another order"


# --- along an axis ---


def broadcast(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """The analytic gradient is constant along an axis where the numerical one is not."""
    if np.count_nonzero(tensor.strong) < (2 if tensor.complete else FEWEST):
        return
    for axis in long_axes(tensor.shape):
        if is_level(tensor, axis):
            lines = np.ravel_multi_index(tuple(moved(tensor.index, axis, np.zeros_like(tensor.local))), tensor.shape)
            if any(_varies(tensor, lines == line) for line in distinct(lines)):
                text = f"consistent with values spread along axis {axis}, where the numerical ones differ"
                yield Pattern("broadcast", text + _reduced(tensor, axis, lines), axis=axis)


def wrong_axis(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Sums of a square array over its other axis: other values, the same total."""
    length, n = tensor.gradient.size, tensor.numerical
    if not (tensor.complete and max(tensor.shape) == length and length in tensor.lengths):
        return
    error, slack = tensor.analytic - n, max(_norm(tensor.slack), EXACT * float(np.abs(n).sum()))
    chance = min(_norm(error), abs(float(n.sum())))  # the size of the sum of errors of any kind
    telling = information(np.array([chance]), np.array([slack])) >= BITS + tensor.spent
    uneven = np.ptp(np.abs(error)) > WITHIN * slack  # errors of one size and either sign cancel too often
    same = uneven and abs(float(error.sum())) <= WITHIN * slack
    if same and telling and np.count_nonzero(tensor.strong) >= FITTED:
        text = f"consistent with a sum over the wrong axis: other values of the same total, and {length} = N,"
        yield Pattern("broadcast", f"{text} {tensor.lengths[length]}", axis=int(np.argmax(tensor.shape)))


def _norm(values: Floats) -> float:
    return math.sqrt(float(np.sum(values**2)))


def _varies(tensor: MeasuredTensor, line: NDArray[np.bool_]) -> bool:
    n, slack = tensor.numerical[line], WITHIN * tensor.slack[line]
    return bool(np.max(n - slack) > np.min(n + slack))


def _reduced(tensor: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    """Whether the constant is the mean or the sum of the numerical values, if a whole line is known."""
    found, counts = np.unique(lines, return_counts=True)
    for line in found[counts == tensor.shape[axis]][:1]:
        here = lines == line
        constant, n, slack = tensor.analytic[here][0], tensor.numerical[here], tensor.slack[here]
        for name, value, allowed in (("mean", n.mean(), slack.mean()), ("sum", n.sum(), slack.sum())):
            if abs(constant - value) <= WITHIN * allowed:
                return f": their {name} along it"
    return ""
