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


def rearranged(view: MeasuredTensor) -> Iterator[Pattern]:
    """Axes exchanged, reversed or shifted by one; entries read by rows and written by columns."""
    for found, source in itertools.chain(_transposed(view), _reversed(view), _by_columns(view)):
        residual = view.at(source) - view.numerical
        if view.explained(residual, 2):
            yield replace(found, deviation=view.deviation(residual))
    yield from _shifted(view)


def _transposed(view: MeasuredTensor) -> Iterator[tuple[Pattern, Sequence[Array]]]:
    for p, q in itertools.combinations(long_axes(view.shape), 2):
        if view.shape[p] == view.shape[q]:
            source = list(view.index)
            source[p], source[q] = source[q], source[p]
            text = "a transposed tensor" if len(view.shape) == 2 else f"axes {p} and {q} exchanged"
            yield Pattern("transpose", f"consistent with {text} (analytic[i, j] = numerical[j, i])", axis=p), source


def _reversed(view: MeasuredTensor) -> Iterator[tuple[Pattern, Sequence[Array]]]:
    long = long_axes(view.shape)
    several = {tuple(long), tuple(long[:2]), tuple(long[-2:])} if len(long) > 1 else set()
    for axes in [*((k,) for k in long), *sorted(several)]:
        source = [view.shape[k] - 1 - each if k in axes else each for k, each in enumerate(view.index)]
        text = f"consistent with entries reversed along {_axes_text(axes)}"
        yield Pattern("permutation", text, axis=axes[0]), source


def _shifted(view: MeasuredTensor) -> Iterator[Pattern]:
    """By one place; what is pushed over the end comes back at the other, or is lost."""
    for axis, shift in itertools.product(long_axes(view.shape), (1, -1)):
        length, source = view.shape[axis], view.index[axis] + shift
        residual = view.at(moved(view.index, axis, source % length)) - view.numerical
        text = f"consistent with entries shifted by {shift:+d} along axis {axis}"
        inside = np.where(source == source % length, residual, 0.0)
        if length > 2 and view.explained(residual, 2):
            yield Pattern("permutation", text, axis=axis, deviation=view.deviation(residual))
        elif length > 3 and view.explained(inside, 2):
            text += f", which loses the {'last' if shift > 0 else 'first'} one"
            yield Pattern("permutation", text, axis=axis, deviation=view.deviation(inside))


def _by_columns(view: MeasuredTensor) -> Iterator[tuple[Pattern, Sequence[Array]]]:
    if len(set(long_axes(view.shape))) < 2 or (len(view.shape) == 2 and view.shape[0] == view.shape[1]):
        return
    text = "consistent with entries read in one order and written in the other (reshape where a transpose was meant)"
    mirrored = np.ravel_multi_index(view.index[::-1], view.shape[::-1])
    yield Pattern("permutation", text), np.unravel_index(mirrored, view.shape)
    yield Pattern("permutation", text), np.unravel_index(view.local, view.shape, order="F")


def _axes_text(axes: Sequence[int]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {' and '.join(map(str, axes))}"


def swapped(view: MeasuredTensor, others: Mapping[str, MeasuredTensor]) -> Iterator[Pattern]:
    """The analytic gradient is another tensor's: it agrees with the entries measured there."""
    for name, other in others.items():
        residual = np.asarray(view.gradient[other.local], np.float64) - other.numerical
        enough = np.count_nonzero(other.valued) >= (2 if other.complete else FEWEST)
        bits = information(other.numerical[other.valued], other.slack[other.valued]) - math.log2(len(others))
        if enough and bits >= BITS and other.deviation(residual) <= WITHIN:
            text = f"consistent with the gradient of {name!r}: it agrees with the numerical one there"
            yield Pattern("swapped", text, deviation=other.deviation(residual))


def reordered(view: MeasuredTensor) -> Iterator[Pattern]:
    """The lines of an axis in any other order: each line's measured entries are looked up among all lines."""
    for axis in long_axes(view.shape):
        length = view.shape[axis]
        if length > _LONGEST:
            continue
        some = np.arange(0, view.local.size, -(-view.local.size * length // _COMPARED))
        lines = np.arange(length)[:, None]
        index = [np.broadcast_to(each, (length, some.size)) for each in moved(_part(view.index, some), axis, lines)]
        fits = np.abs(view.at(index) - view.numerical[some]) <= WITHIN * view.slack[some]
        sources = _sources(fits, view.index[axis][some], view.telling[some])
        if sources is None:
            continue
        residual = view.at(moved(view.index, axis, sources[view.index[axis]])) - view.numerical
        chosen = np.unique(view.index[axis][view.telling]).size * math.log2(length)  # bits that the order takes
        if view.explained(residual, 2, BITS + chosen):
            yield Pattern("permutation", _order_text(sources, axis), axis=axis, deviation=view.deviation(residual))


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


def broadcast(view: MeasuredTensor) -> Iterator[Pattern]:
    """The analytic gradient is constant along an axis where the numerical one is not."""
    if np.count_nonzero(view.strong) < (2 if view.complete else FEWEST):
        return
    for axis in long_axes(view.shape):
        if is_level(view, axis):
            lines = np.ravel_multi_index(tuple(moved(view.index, axis, np.zeros_like(view.local))), view.shape)
            if any(_varies(view, lines == line) for line in np.unique(lines)):
                text = f"consistent with values spread along axis {axis}, where the numerical ones differ"
                yield Pattern("broadcast", text + _reduced(view, axis, lines), axis=axis)


def wrong_axis(view: MeasuredTensor) -> Iterator[Pattern]:
    """Sums of a square array over its other axis: other values, the same total."""
    length = view.gradient.size
    if not (view.complete and max(view.shape) == length and length in view.lengths):
        return
    n, total = view.numerical, float(view.numerical.sum())
    slack = np.array([max(float(view.slack.sum()), EXACT * float(np.abs(n).sum()))])
    telling = information(np.array([total]), slack) >= BITS
    same = abs(float(view.analytic.sum()) - total) <= WITHIN * float(view.slack.max())
    if same and telling and np.count_nonzero(view.strong) >= FITTED:
        text = f"consistent with a sum over the wrong axis: other values of the same total, and {length} = N,"
        yield Pattern("broadcast", f"{text} {view.lengths[length]}", axis=int(np.argmax(view.shape)))


def _varies(view: MeasuredTensor, line: NDArray[np.bool_]) -> bool:
    n, slack = view.numerical[line], WITHIN * view.slack[line]
    return bool(np.max(n - slack) > np.min(n + slack))


def _reduced(view: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    """Whether the constant is the mean or the sum of the numerical values, where a line is known as a whole."""
    found, counts = np.unique(lines, return_counts=True)
    for line in found[counts == view.shape[axis]][:1]:
        here = lines == line
        constant, n, slack = view.analytic[here][0], view.numerical[here], view.slack[here]
        for name, value, allowed in (("mean", n.mean(), slack.mean()), ("sum", n.sum(), slack.sum())):
            if abs(constant - value) <= WITHIN * allowed:
                return f": their {name} along it"
    return ""


# --- few entries ---


def sparse(view: MeasuredTensor) -> Iterator[Pattern]:
    """Whole rows or columns are wrong, or a few entries, and all the rest is right."""
    wrong, right = np.count_nonzero(view.wrong), np.count_nonzero(view.right & view.telling)
    if not (wrong and right):
        return
    by_axis = [(axis, _wrong_lines(view, axis)) for axis in long_axes(view.shape)]
    named = [(axis, lines) for axis, lines in by_axis if lines.size]
    if len(by_axis) > 1 and named:
        axis, lines = min(named, key=lambda each: each[1].size / view.shape[each[0]])
        yield Pattern("sparse", _lines_text(view, axis, lines), axis=axis, indices=tuple((int(i),) for i in lines))
    elif wrong <= min(_LISTED, right if view.complete else _FEW * view.local.size):
        indices = tuple(sorted(tuple(int(i[k]) for i in view.index) for k in np.flatnonzero(view.wrong)))
        yield Pattern("sparse", _entries_text(view, indices), indices=indices)


def _wrong_lines(view: MeasuredTensor, axis: int) -> NDArray[np.int64]:
    """Lines of an axis that hold all wrong entries and nothing right; none if these are not fewer than the others."""
    index = view.index[axis]
    lines, tested = np.unique(index[view.strong], return_counts=True)
    inside = np.isin(index, lines)
    whole = min(_TESTED, view.gradient.size // view.shape[axis])
    holds = not np.any(inside & view.right & view.telling) and not np.any(view.wrong & ~inside)
    few = 2 * lines.size <= view.shape[axis] and np.any(~inside & view.right & view.telling)
    return lines if lines.size and holds and few and tested.min() >= whole else lines[:0]


def _lines_text(view: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    which = [f"[{', '.join(str(i) if k == axis else ':' for k in range(len(view.shape)))}]" for i in lines]
    text = f"{listed(which, quote=False)} {'is' if lines.size == 1 else 'are'} wrong as a whole, the rest is right"
    return f"consistent with an error in some lines: {text}{_place(view, axis, lines)}{_content(view, axis, lines)}"


def _place(view: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    if lines.size > 1:
        return ""
    ends = {0: "first", view.shape[axis] - 1: "last"}
    return f" (the {ends[int(lines[0])]} index: off by one?)" if int(lines[0]) in ends else ""


def _content(view: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    """What stands in the lines: zeros, or a copy of the line before."""
    index = list(view.some)
    index[axis] = lines[np.arange(index[axis].size) % lines.size]
    here = view.at(index)
    if not np.isfinite(here).any():
        return ", not finite in the analytic gradient"
    if not here.any():
        return ", zero in the analytic gradient"
    index[axis] = index[axis] - 1
    return ", a copy of the one before" if lines.min() > 0 and np.array_equal(here, view.at(index)) else ""


def _entries_text(view: MeasuredTensor, indices: Sequence[tuple[int, ...]]) -> str:
    which = listed([f"[{', '.join(map(str, index))}]" for index in indices], quote=False)
    text = f"consistent with an error in few entries: {which} {'is' if len(indices) == 1 else 'are'} wrong"
    ends = {tuple(0 for _ in view.shape): "first", tuple(length - 1 for length in view.shape): "last"}
    at_end = len(indices) == 1 and len(long_axes(view.shape)) == 1 and indices[0] in ends
    return text + (f" (the {ends[indices[0]]} index: off by one?)" if at_end else "")
