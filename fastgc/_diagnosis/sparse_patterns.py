"""Wrong values in some places and right ones elsewhere: in whole rows or columns, in few entries, under a mask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed
from fastgc._diagnosis.measured_tensor import BITS, FEWEST, MeasuredTensor, Positions, long_axes
from fastgc._diagnosis.value_patterns import FITTED, Pattern, constant_factor
from fastgc._parameters.arrays import distinct
from fastgc._parameters.point import arrays_in

_LISTED = 16  # wrong entries that are called few: as many as a reader looks at one by one
_FEW = 0.1  # share of the measured entries that are called few where others were not measured: 3 of 32 samples
# Share of the measured entries up to which errors are few, and zeros an oversight rather than a mask. One line at the
# end of an axis is worth a remark where it is a smaller share.
_MINORITY = 0.25
_BY_CHANCE = 4.0  # bits that it takes to say why rows are wrong, once it is known which: chance names them once in 16


def sparse(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Whole rows or columns are wrong, or a few entries, and all the rest is right."""
    wrong, right = (int(np.count_nonzero(each)) for each in (tensor.wrong, tensor.right & tensor.telling))
    if not (wrong and right):
        return
    named = [(axis, lines) for axis in _wide(tensor) if (lines := _wrong_lines(tensor, axis)).size]
    inside = _inside(tensor)
    few = [(axis, lines) for axis, lines in named if inside.factor or 2 * lines.size <= tensor.shape[axis]]
    if few:
        axis, lines = min(few, key=lambda each: each[1].size / tensor.shape[each[0]])
        if _is_established(tensor, [tensor.shape[k] for k in _wide(tensor)], lines.size):
            text = f"consistent with {inside.what} in some lines: {_lines_text(tensor, axis, lines)}"
            yield Pattern("sparse", text, inside.factor, axis, tuple((int(i),) for i in lines))
    elif wrong <= _most_few(tensor, right, inside) and _is_established(tensor, [tensor.local.size], wrong):
        indices = tuple(sorted(tuple(int(i[k]) for i in tensor.index) for k in np.flatnonzero(tensor.wrong)))
        text = f"consistent with {inside.what} in few entries: {_entries_text(tensor, indices)}"
        yield Pattern("sparse", text, inside.factor, indices=indices)


def _most_few(tensor: MeasuredTensor, right: int, inside: _Inside) -> float:
    """The number of wrong entries up to which they are few; more of them if they share a factor."""
    most = right if tensor.complete else _FEW * tensor.local.size
    return min(_LISTED, most, most if inside.factor else max(1, _MINORITY * tensor.local.size))


def masked(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Wrong entries are zero, wherever they are, and the rest is right."""
    wrong = int(np.count_nonzero(tensor.wrong & tensor.valued))
    if wrong < 2 or np.any(tensor.analytic[tensor.wrong]) or not _is_established(tensor, [tensor.local.size], wrong):
        return
    text = f"consistent with a mask: {wrong} of {tensor.local.size} measured entries are zero, the rest is right"
    yield Pattern("clipped", text + _masked_where(tensor))


def _masked_where(tensor: MeasuredTensor) -> str:
    return next((f" (zero {text})" for text in _by_parameter(tensor)), "")


def partly(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Many entries are wrong by one factor, all at a place that is easy to name, and the rest is right."""
    inside, enough = _inside(tensor), tensor.complete or np.count_nonzero(tensor.strong) >= FEWEST
    choices = 2 + sum(2 * tensor.shape[axis] for axis in _wide(tensor))
    if not (inside.factor and enough) or tensor.agreement < BITS + tensor.spent + math.log2(choices):
        return
    for text in _by_parameter(tensor):
        yield Pattern("sparse", f"consistent with {inside.what} {text}, the rest is right", inside.factor)
    for axis in _wide(tensor):
        for text in _by_line(tensor, axis):
            message = f"consistent with {inside.what} in {text} of axis {axis}, the rest is right"
            yield Pattern("sparse", message, inside.factor, axis)


def _by_parameter(tensor: MeasuredTensor) -> Iterator[str]:
    for sign, name in ((1, "positive"), (-1, "negative")):
        if _parted(tensor, sign * tensor.parameters > 0):
            yield f"where the parameter is {name}"


def _by_line(tensor: MeasuredTensor, axis: int) -> Iterator[str]:
    """Every second line of an axis, or its first or last ones, as far as the measured entries tell."""
    index, last = tensor.index[axis], tensor.shape[axis] - 1
    for parity, name in enumerate(("even", "odd")):
        if _parted(tensor, index % 2 == parity):
            yield f"the {name} lines"
    wrong = index[tensor.strong]
    for low, high in ((0, int(wrong.max())), (int(wrong.min()), last)):
        if (low, high) != (0, last) and _parted(tensor, (low <= index) & (index <= high)):
            yield f"lines {low} to {high}"


def _parted(tensor: MeasuredTensor, here: NDArray[np.bool_]) -> bool:
    """Whether the wrong entries are here and the right ones elsewhere."""
    wrong, right = tensor.wrong & tensor.telling, tensor.right & tensor.telling
    return bool(here[wrong].all() and right.any() and not here[right].any())


def _wide(tensor: MeasuredTensor) -> list[int]:
    """The axes whose lines hold more than one entry."""
    axes = long_axes(tensor.shape)
    return axes if len(axes) > 1 else []


def _is_established(tensor: MeasuredTensor, lengths: Sequence[int], wrong: int) -> bool:
    """Whether the right entries pay for the choice of the wrong ones: so many of one of these lengths."""
    choices = sum(math.comb(length, min(wrong, length)) for length in lengths)
    return tensor.agreement >= BITS + tensor.spent + math.log2(choices)


# --- which lines ---


def _wrong_lines(tensor: MeasuredTensor, axis: int) -> NDArray[np.int64]:
    """Lines of an axis that hold all wrong entries, some measured in each, and nothing right; none if all lines do."""
    index = tensor.index[axis]
    lines, tested = np.unique(index[tensor.strong], return_counts=True)
    inside = np.isin(index, lines)
    whole = min(FITTED, tensor.gradient.size // tensor.shape[axis])
    holds = not np.any(inside & tensor.right & tensor.telling) and not np.any(tensor.wrong & ~inside)
    beside = np.any(~inside & tensor.right & tensor.telling)
    return lines if lines.size and holds and beside and tested.min() >= whole else lines[:0]


def _lines_text(tensor: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    which = [_line(tensor, axis, int(i)) for i in lines]
    text = f"{listed(which, quote=False)} {'is' if lines.size == 1 else 'are'} wrong as a whole, the rest is right"
    return text + _place(tensor, axis, lines) + _content(tensor, axis, lines)


def _line(tensor: MeasuredTensor, axis: int, place: int) -> str:
    return f"[{', '.join(str(place) if k == axis else ':' for k in range(len(tensor.shape)))}]"


def _place(tensor: MeasuredTensor, axis: int, lines: Positions) -> str:
    length = tensor.shape[axis]
    ends = {0: "first", length - 1: "last"}
    at_end = lines.size == 1 and length * _MINORITY > 1 and int(lines[0]) in ends
    return f" (the {ends[int(lines[0])]} index: off by one?)" if at_end else ""


def _entries_text(tensor: MeasuredTensor, indices: Sequence[tuple[int, ...]]) -> str:
    which = listed([f"[{', '.join(map(str, index))}]" for index in indices], quote=False)
    text = f"{which} {'is' if len(indices) == 1 else 'are'} wrong"
    long = long_axes(tensor.shape)
    return text + (_place(tensor, long[0], np.array(indices)[:, long[0]]) if len(long) == 1 else "")


# --- what stands there ---


@dataclass(frozen=True)
class _Inside:
    """What the wrong entries have in common, in words, and their factor."""

    what: str = "an error"
    factor: float | None = None


def _inside(tensor: MeasuredTensor) -> _Inside:
    """The factor between analytic and numerical that all wrong entries share."""
    wrong = tensor.alone(tensor.wrong)
    if not wrong.analytic.any():
        return _Inside("zeros", 0.0)
    for found in constant_factor(wrong):
        sign = f"the wrong sign{_conjugate(tensor)}"
        return _Inside(sign if found.kind == "sign" else f"a constant factor of {found.factor:.4g}", found.factor)
    return _Inside()


def _conjugate(tensor: MeasuredTensor) -> str:
    """What a wrong sign in the second of each pair means."""
    second = tensor.shape[-1] == 2 and bool(np.all(tensor.index[-1][tensor.wrong] == 1))
    return " (a missing conjugate, if pairs are complex numbers)" if second else ""


def _content(tensor: MeasuredTensor, axis: int, lines: NDArray[np.int64]) -> str:
    """Zeros everywhere in the lines, or a copy of the line before."""
    index = list(tensor.some)
    index[axis] = lines[np.arange(index[axis].size) % lines.size]
    here = tensor.at(index)
    if not np.isfinite(here).any():
        return ", not finite in the analytic gradient"
    if not here.any():
        return ", zero in the analytic gradient"
    index[axis] = index[axis] - 1
    return ", a copy of the one before" if lines.min() > 0 and np.array_equal(here, tensor.at(index)) else ""


# --- which entries an index repeats ---


@dataclass(frozen=True)
class Repeats:
    """An integer array among the arguments: the numbers that it holds once, and those that it holds several times."""

    name: str
    once: Positions
    several: Positions


def repeats(args: Sequence[object]) -> list[Repeats]:
    """The integer arrays in args with numbers that could be indices, some of them repeated."""
    found = []
    for number, arg in enumerate(args):
        for array in [*arrays_in(arg), *_integers(arg)]:
            if array.dtype.kind in "iu" and array.size and array.min() >= 0:
                values, counts = np.unique(array, return_counts=True)
                found.append(Repeats(f"args[{number}]", values[counts == 1], values[counts > 1]))
    return [each for each in found if each.several.size]


def _integers(arg: object) -> list[Positions]:
    """A list of integers, as an array."""
    return [np.array(arg)] if isinstance(arg, (list, tuple)) and arg and all(type(i) is int for i in arg) else []


def overwritten(tensor: MeasuredTensor, repeated: Sequence[Repeats]) -> Iterator[Pattern]:
    """Just the lines are wrong whose number an index repeats: as if only one of their contributions had arrived."""
    for each in repeated:
        for axis in long_axes(tensor.shape):
            index = tensor.index[axis]
            wrong, right = (distinct(index[where & tensor.telling]) for where in (tensor.wrong, tensor.right))
            used = right[np.isin(right, each.once)]
            fits = max(each.several.max(), each.once.max(initial=0)) < tensor.shape[axis]
            if not (fits and used.size and np.isin(wrong, each.several).all()):
                continue
            several = int(np.isin(each.several, index).sum())
            lines = several + int(np.isin(each.once, index).sum())
            chance = math.log2(math.comb(lines, wrong.size)) - math.log2(math.comb(several, wrong.size))
            if wrong.size and chance >= _BY_CHANCE and tensor.agreement >= BITS + tensor.spent:
                which = listed([_line(tensor, axis, int(i)) for i in wrong], quote=False)
                text = f"consistent with contributions overwritten instead of added up: {which}"
                text += f" {'is' if wrong.size == 1 else 'are'} wrong, where {each.name} repeats the index"
                yield Pattern("sparse", text, axis=axis, indices=tuple((int(i),) for i in wrong))
