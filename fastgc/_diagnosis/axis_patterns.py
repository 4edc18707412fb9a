"""Right values in wrong places, and wrong values in few places: patterns along the axes of a tensor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed
from fastgc._diagnosis.measured_tensor import (
    BITS,
    FEWEST,
    WITHIN,
    Indices,
    MeasuredTensor,
    information,
    is_level,
    long_axes,
    moved,
)
from fastgc._diagnosis.value_patterns import EXACT, FITTED, Pattern
from fastgc._parameters.arrays import Array

_LONGEST = 2048  # lines of an axis among which every order is looked for
_COMPARED = 1 << 22  # pairs of a line and a measured entry that are compared for that
_LISTED = 16  # wrong entries that are called few
_FEW = 0.1  # share of the measured entries that are called few where others were not measured
_TESTED = 3  # entries of a line, at least, that make it wrong as a whole


# --- the same entries in other places ---


def rearranged(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Axes exchanged, reversed or shifted by one; entries read by rows and written by columns."""
    for found, source in itertools.chain(_transposed(tensor), _reversed(tensor), _by_columns(tensor)):
        residual = tensor.at(source) - tensor.numerical
        if tensor.explained(residual, 2):
            yield replace(found, deviation=tensor.deviation(residual))
    yield from _shifted(tensor)


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


def _shifted(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """By one place; what is pushed over the end comes back at the other, or is lost."""
    for axis, shift in itertools.product(long_axes(tensor.shape), (1, -1)):
        length, source = tensor.shape[axis], tensor.index[axis] + shift
        residual = tensor.at(moved(tensor.index, axis, source % length)) - tensor.numerical
        text = f"consistent with entries shifted by {shift:+d} along axis {axis}"
        inside = np.where(source == source % length, residual, 0.0)
        if length > 2 and tensor.explained(residual, 2):
            yield Pattern("permutation", text, axis=axis, deviation=tensor.deviation(residual))
        elif length > 3 and tensor.explained(inside, 2):
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
        bits = information(other.numerical[other.valued], other.slack[other.valued]) - math.log2(len(others))
        if enough and bits >= BITS and other.deviation(residual) <= WITHIN:
            text = f"consistent with the gradient of {name!r}: it agrees with the numerical one there"
            yield Pattern("swapped", text, deviation=other.deviation(residual))


def reordered(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """The lines of an axis in any other order: each line's measured entries are looked up among all lines."""
    for axis in long_axes(tensor.shape):
        length = tensor.shape[axis]
        if length > _LONGEST:
            continue
        some = np.arange(0, tensor.local.size, -(-tensor.local.size * length // _COMPARED))
        lines = np.arange(length)[:, None]
        index = [np.broadcast_to(each, (length, some.size)) for each in moved(_part(tensor.index, some), axis, lines)]
        fits = np.abs(tensor.at(index) - tensor.numerical[some]) <= WITHIN * tensor.slack[some]
        sources = _sources(fits, tensor.index[axis][some], tensor.telling[some])
        if sources is None:
            continue
        residual = tensor.at(moved(tensor.index, axis, sources[tensor.index[axis]])) - tensor.numerical
        chosen = np.unique(tensor.index[axis][tensor.telling]).size * math.log2(length)  # bits that the order takes
        if tensor.explained(residual, 2, BITS + chosen):
            yield Pattern("permutation", _order_text(sources, axis), axis=axis, deviation=tensor.deviation(residual))


def _part(index: Indices, some: NDArray[np.int64]) -> Indices:
    return tuple(each[some] for each in index)


def _sources(fits: NDArray[np.bool_], lines: NDArray[np.int64], telling: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """From which line each line's entries come, no two from one; its own where nothing tells; None where none fits."""
    sources = np.arange(fits.shape[0])
    possible = {line: np.flatnonzero(fits[:, lines == line].all(axis=1)) for line in np.unique(lines[telling]).tolist()}
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
            if any(_varies(tensor, lines == line) for line in np.unique(lines)):
                text = f"consistent with values spread along axis {axis}, where the numerical ones differ"
                yield Pattern("broadcast", text + _reduced(tensor, axis, lines), axis=axis)


def wrong_axis(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Sums of a square array over its other axis: other values, the same total."""
    length = tensor.gradient.size
    if not (tensor.complete and max(tensor.shape) == length and length in tensor.lengths):
        return
    n, total = tensor.numerical, float(tensor.numerical.sum())
    slack = np.array([max(float(tensor.slack.sum()), EXACT * float(np.abs(n).sum()))])
    telling = information(np.array([total]), slack) >= BITS
    same = abs(float(tensor.analytic.sum()) - total) <= WITHIN * float(tensor.slack.max())
    if same and telling and np.count_nonzero(tensor.strong) >= FITTED:
        text = f"consistent with a sum over the wrong axis: other values of the same total, and {length} = N,"
        yield Pattern("broadcast", f"{text} {tensor.lengths[length]}", axis=int(np.argmax(tensor.shape)))


def _varies(tensor: MeasuredTensor, line: NDArray[np.bool_]) -> bool:
    n, slack = tensor.numerical[line], WITHIN * tensor.slack[line]
    return bool(np.max(n - slack) > np.min(n + slack))


def _reduced(tensor: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    """Whether the constant is the mean or the sum of the numerical values, where a line is known as a whole."""
    found, counts = np.unique(lines, return_counts=True)
    for line in found[counts == tensor.shape[axis]][:1]:
        here = lines == line
        constant, n, slack = tensor.analytic[here][0], tensor.numerical[here], tensor.slack[here]
        for name, value, allowed in (("mean", n.mean(), slack.mean()), ("sum", n.sum(), slack.sum())):
            if abs(constant - value) <= WITHIN * allowed:
                return f": their {name} along it"
    return ""


# --- few entries ---


def sparse(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Whole rows or columns are wrong, or a few entries, and all the rest is right."""
    wrong, right = np.count_nonzero(tensor.wrong), np.count_nonzero(tensor.right & tensor.telling)
    if not (wrong and right):
        return
    by_axis = [(axis, _wrong_lines(tensor, axis)) for axis in long_axes(tensor.shape)]
    named = [(axis, lines) for axis, lines in by_axis if lines.size]
    if len(by_axis) > 1 and named:
        axis, lines = min(named, key=lambda each: each[1].size / tensor.shape[each[0]])
        yield Pattern("sparse", _lines_text(tensor, axis, lines), axis=axis, indices=tuple((int(i),) for i in lines))
    elif wrong <= min(_LISTED, right if tensor.complete else _FEW * tensor.local.size):
        indices = tuple(sorted(tuple(int(i[k]) for i in tensor.index) for k in np.flatnonzero(tensor.wrong)))
        yield Pattern("sparse", _entries_text(tensor, indices), indices=indices)


def _wrong_lines(tensor: MeasuredTensor, axis: int) -> NDArray[np.int64]:
    """Lines of an axis that hold all wrong entries and nothing right; none if these are not fewer than the others."""
    index = tensor.index[axis]
    lines, tested = np.unique(index[tensor.strong], return_counts=True)
    inside = np.isin(index, lines)
    whole = min(_TESTED, tensor.gradient.size // tensor.shape[axis])
    holds = not np.any(inside & tensor.right & tensor.telling) and not np.any(tensor.wrong & ~inside)
    few = 2 * lines.size <= tensor.shape[axis] and np.any(~inside & tensor.right & tensor.telling)
    return lines if lines.size and holds and few and tested.min() >= whole else lines[:0]


def _lines_text(tensor: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    which = [f"[{', '.join(str(i) if k == axis else ':' for k in range(len(tensor.shape)))}]" for i in lines]
    text = f"{listed(which, quote=False)} {'is' if lines.size == 1 else 'are'} wrong as a whole, the rest is right"
    return f"consistent with an error in some lines: {text}{_place(tensor, axis, lines)}{_content(tensor, axis, lines)}"


def _place(tensor: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    if lines.size > 1:
        return ""
    ends = {0: "first", tensor.shape[axis] - 1: "last"}
    return f" (the {ends[int(lines[0])]} index: off by one?)" if int(lines[0]) in ends else ""


def _content(tensor: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    """What stands in the lines: zeros, or a copy of the line before."""
    index = list(tensor.some)
    index[axis] = lines[np.arange(index[axis].size) % lines.size]
    here = tensor.at(index)
    if not np.isfinite(here).any():
        return ", not finite in the analytic gradient"
    if not here.any():
        return ", zero in the analytic gradient"
    index[axis] = index[axis] - 1
    return ", a copy of the one before" if lines.min() > 0 and np.array_equal(here, tensor.at(index)) else ""


def _entries_text(tensor: MeasuredTensor, indices: Sequence[tuple[int, ...]]) -> str:
    which = listed([f"[{', '.join(map(str, index))}]" for index in indices], quote=False)
    text = f"consistent with an error in few entries: {which} {'is' if len(indices) == 1 else 'are'} wrong"
    ends = {tuple(0 for _ in tensor.shape): "first", tuple(length - 1 for length in tensor.shape): "last"}
    at_end = len(indices) == 1 and len(long_axes(tensor.shape)) == 1 and indices[0] in ends
    return text + (f" (the {ends[indices[0]]} index: off by one?)" if at_end else "")
