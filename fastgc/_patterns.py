"""What wrong gradients look like: patterns that lead from the numerical gradient of a tensor to the analytic one.

The analytic gradient is known everywhere, the numerical one at a few entries. So a pattern is tested backwards: undone,
it must turn the analytic gradient into one that agrees with every measured entry (``analytic[j, i]`` is compared with
``numerical[i, j]``, and no mirrored entry has to be measured).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastgc._layout import Array, listed
from fastgc._view import FEWEST, TELLING, WITHIN, View, is_level, long_axes, moved

Floats = NDArray[np.float64]

_FITTED = 3  # wrong entries, at least, for each constant that is fitted to them
_EXACT = 1e-6  # relative precision in which a factor is recognised, at best
_LONGEST = 2048  # lines of an axis among which every order is looked for


@dataclass(frozen=True)
class Pattern:
    """One explanation of a tensor's wrong entries; see `fastgc.Diagnosis` for the attributes."""

    kind: str
    message: str
    factor: float | None = None
    axis: int | None = None
    indices: tuple[tuple[int, ...], ...] = ()
    deviation: float = 0.0  # the largest distance from the pattern, in units of tolerance and uncertainty


# --- the same entries times a constant ---


def zero(view: View) -> Iterator[Pattern]:
    """Nothing arrives in the gradient where the loss has a slope."""
    if view.strong.any() and not view.gradient.any():
        yield Pattern("zero", "consistent with a gradient that is detached or never accumulated: zero everywhere", 0.0)


def constant_factor(view: View) -> Iterator[Pattern]:
    """``analytic = c * numerical``. One entry alone shows only a factor that has a meaning."""
    a, n = view.analytic / view.slack, view.numerical / view.slack
    factor = float(np.sum(a * n) / np.sum(n * n))
    residual = view.analytic / factor - view.numerical
    if not (math.isfinite(factor) and factor):
        return
    precision = max(_EXACT, WITHIN * float(np.min(1 / np.abs(n[n != 0]), initial=1.0)))
    own = {length: f"the length of axis {axis} of the tensor" for axis, length in enumerate(view.shape) if length > 2}
    meaning = named_factor(factor, precision, own | dict(view.lengths))
    if not view.explained(residual, 1 if meaning else _FITTED):
        return
    found = Pattern("factor", "", factor, deviation=view.deviation(residual))
    if meaning == "-1":
        yield replace(found, kind="sign", message="consistent with the wrong sign (analytic = -numerical)")
    else:
        text = f"consistent with a constant factor of {factor:.4g} (analytic / numerical)"
        yield replace(found, message=text + (f" = {meaning}" if "N" in meaning else ""))


def named_factor(factor: float, precision: float, lengths: Mapping[int, str]) -> str:
    """What a factor is: -1, 2, 1/2, or N or 1/N with N the length of an axis; "" for any other."""

    def near(number: float) -> bool:
        return abs(factor - number) <= precision * abs(number)

    if near(-1):
        return "-1"
    for size, text in ((2.0, "2"), (0.5, "1/2")):
        if near(size) or near(-size):
            return text if factor > 0 else f"-{text}"
    sign = "-" if factor < 0 else ""
    for length, place in lengths.items():
        if near(math.copysign(length, factor)):
            return f"{sign}N, N = {length} is {place}"
        if near(math.copysign(1 / length, factor)):
            return f"{sign}1/N, N = {length} is {place}"
    return ""


def lost_sign(view: View) -> Iterator[Pattern]:
    """``analytic = |numerical|``, or the reverse."""
    for sign, text in ((1, "|numerical|"), (-1, "-|numerical|")):
        residual = view.analytic - sign * np.abs(view.numerical)
        if view.explained(residual, 2):
            message = f"consistent with lost signs (analytic = {text})"
            yield Pattern("sign", message, deviation=view.deviation(residual))


def same_factor(view: View, factors: Mapping[str, float]) -> Iterator[Pattern]:
    """A factor that is another tensor's too, and so means something in a single entry."""
    for name, factor in factors.items():
        residual = view.analytic / factor - view.numerical
        if view.explained(residual, 1):
            text = f"consistent with a constant factor of {factor:.4g} (analytic / numerical), as in {name!r}"
            yield Pattern("factor", text, factor, deviation=view.deviation(residual))


# --- the same entries in fewer digits ---


def few_digits(view: View) -> Iterator[Pattern]:
    """All analytic values have the short mantissas of a coarser format, and differ by its rounding.

    Whole numbers are short too: most values must need the last three bits of the format.
    """
    some = view.at(view.some)
    mantissas = np.frexp(some[np.isfinite(some) & (some != 0)])[0]
    typical = float(np.median(np.abs(view.numerical)))
    for bits, name in ((8, "bfloat16"), (11, "float16"), (24, "float32")):
        whole = [mantissas * 2.0**kept % 1 == 0 for kept in (bits, bits - 3)]
        if not (mantissas.size and whole[0].all() and whole[1].mean() < 0.5):
            continue
        rounding = 8 * 2.0**-bits * np.fmax(np.abs(view.numerical), typical)
        enough = np.count_nonzero(view.wrong) >= (2 if view.complete else FEWEST)
        if enough and np.all(np.abs(view.analytic - view.numerical) <= WITHIN * view.slack + rounding):
            yield Pattern(
                "scale_precision", f"consistent with a gradient that was computed in {name}: agrees to that only"
            )
        return


# --- the same entries in other places ---


def rearranged(view: View) -> Iterator[Pattern]:
    """Axes exchanged, reversed or shifted by one; entries read by rows and written by columns."""
    for found, source in itertools.chain(_transposed(view), _reversed(view), _shifted(view), _by_columns(view)):
        residual = view.at(source) - view.numerical
        if view.explained(residual, 2):
            yield replace(found, deviation=view.deviation(residual))


def _transposed(view: View) -> Iterator[tuple[Pattern, Sequence[Array]]]:
    for p, q in itertools.combinations(long_axes(view.shape), 2):
        if view.shape[p] == view.shape[q]:
            source = list(view.index)
            source[p], source[q] = source[q], source[p]
            text = "a transposed tensor" if len(view.shape) == 2 else f"axes {p} and {q} exchanged"
            yield Pattern("transpose", f"consistent with {text} (analytic[i, j] = numerical[j, i])", axis=p), source


def _reversed(view: View) -> Iterator[tuple[Pattern, Sequence[Array]]]:
    long = long_axes(view.shape)
    several = {tuple(long), tuple(long[:2]), tuple(long[-2:])} if len(long) > 1 else set()
    for axes in [*((k,) for k in long), *sorted(several)]:
        source = [view.shape[k] - 1 - each if k in axes else each for k, each in enumerate(view.index)]
        text = f"consistent with entries reversed along {_axes_text(axes)}"
        yield Pattern("permutation", text, axis=axes[0]), source


def _shifted(view: View) -> Iterator[tuple[Pattern, Sequence[Array]]]:
    for axis in long_axes(view.shape):
        for shift in (1, -1) if view.shape[axis] > 2 else ():
            source = moved(view.index, axis, (view.index[axis] + shift) % view.shape[axis])
            text = f"consistent with entries shifted by {'+' if shift > 0 else '-'}1 along axis {axis}"
            yield Pattern("permutation", text, axis=axis), source


def _by_columns(view: View) -> Iterator[tuple[Pattern, Sequence[Array]]]:
    if len(set(long_axes(view.shape))) < 2 or (len(view.shape) == 2 and view.shape[0] == view.shape[1]):
        return
    text = "consistent with entries read in one order and written in the other (reshape where a transpose was meant)"
    mirrored = np.ravel_multi_index(view.index[::-1], view.shape[::-1])
    yield Pattern("permutation", text), np.unravel_index(mirrored, view.shape)
    yield Pattern("permutation", text), np.unravel_index(view.local, view.shape, order="F")


def _axes_text(axes: Sequence[int]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {' and '.join(map(str, axes))}"


def swapped(view: View, others: Mapping[str, View]) -> Iterator[Pattern]:
    """The analytic gradient is another tensor's: it agrees with the entries measured there."""
    for name, other in others.items():
        residual = np.asarray(view.gradient[other.local], np.float64) - other.numerical
        telling = np.count_nonzero(np.abs(other.numerical) > TELLING * other.slack)
        if telling >= (2 if other.complete else FEWEST) and other.deviation(residual) <= WITHIN:
            text = f"consistent with the gradient of {name!r}: it agrees with the numerical one there"
            yield Pattern("swapped", text, deviation=other.deviation(residual))


def reordered(view: View) -> Iterator[Pattern]:
    """The lines of an axis in any other order: each line's measured entries are looked up among all lines."""
    if 2 * np.count_nonzero(view.wrong & view.valued) < np.count_nonzero(view.wrong):
        return  # zeros fit anywhere
    for axis in long_axes(view.shape):
        length = view.shape[axis]
        if length > _LONGEST:
            continue
        lines = np.arange(length)[:, None]
        index = [np.broadcast_to(each, (length, view.local.size)) for each in moved(view.index, axis, lines)]
        residual = view.at(index) - view.numerical
        fits = np.abs(residual) <= WITHIN * view.slack
        sources = _sources(fits, view.index[axis], view.telling)
        if sources is None:
            continue
        residual = residual[sources[view.index[axis]], np.arange(view.local.size)]
        if view.explained(residual, 2):
            yield Pattern("permutation", _order_text(sources, axis), axis=axis, deviation=view.deviation(residual))


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


# --- something added or left out ---

_TERMS = {
    "parameter": ("weight decay missing, or too weak", "weight decay twice, too strong, or not in the loss"),
    "sign(parameter)": ("an L1 penalty missing, or too weak", "an L1 penalty twice, too strong, or not in the loss"),
    "1": ("a shift by a constant", "a shift by a constant"),
}


def one_term(view: View) -> Iterator[Pattern]:
    """``analytic - numerical`` is a multiple of the parameter, of its sign, or a constant."""
    for name in _TERMS:
        yield from _with_terms(view, (name,))


def two_terms(view: View) -> Iterator[Pattern]:
    """The same with two of them."""
    for names in itertools.combinations(_TERMS, 2):
        yield from _with_terms(view, names)


def _with_terms(view: View, names: tuple[str, ...]) -> Iterator[Pattern]:
    columns = {"parameter": view.parameters, "sign(parameter)": np.sign(view.parameters), "1": np.ones(view.local.size)}
    basis = np.stack([columns[name] for name in names], axis=1)
    error = view.analytic - view.numerical
    peaks, peak = np.abs(basis).max(axis=0), float(np.abs(error).max())  # divided out: no square overflows
    if not (np.isfinite(peaks).all() and peaks.all() and math.isfinite(peak) and peak):
        return
    weights = view.slack.min() / view.slack
    solution = np.linalg.lstsq(basis / peaks * weights[:, None], error / peak * weights, rcond=1e-9)[0]
    coefficients = solution / peaks * peak
    parts = basis * coefficients
    residual = error - parts.sum(axis=1)
    resolved = np.abs(parts / view.slack[:, None]).max(axis=0) > TELLING / 10
    if resolved.all() and view.explained(residual, _FITTED * len(names)):
        sums = " + ".join(_product(c, name) for c, name in zip(coefficients.tolist(), names, strict=True))
        hint = f" ({_TERMS[names[0]][int(coefficients[0] > 0)]}?)" if len(names) == 1 else ""
        message = f"consistent with analytic - numerical = {sums.replace('+ -', '- ')}{hint}"
        factor = float(coefficients[0]) if len(names) == 1 else None
        yield Pattern("missing_term", message, factor, deviation=view.deviation(residual))


def _product(coefficient: float, name: str) -> str:
    return f"{coefficient:.4g}" if name == "1" else f"{coefficient:.4g} * {name}"


# --- along an axis ---


def broadcast(view: View) -> Iterator[Pattern]:
    """The analytic gradient is constant along an axis where the numerical one is not."""
    if np.count_nonzero(view.strong) < (2 if view.complete else FEWEST):
        return
    for axis in long_axes(view.shape):
        if is_level(view, axis):
            lines = np.ravel_multi_index(tuple(moved(view.index, axis, np.zeros_like(view.local))), view.shape)
            spread = [line for line in np.unique(lines) if _varies(view, lines == line)]
            if spread:
                text = f"consistent with values spread along axis {axis}, where the numerical ones differ"
                yield Pattern("broadcast", text + _reduced(view, axis, lines), axis=axis)


def wrong_axis(view: View) -> Iterator[Pattern]:
    """Sums of a square array over its other axis: other values, the same total."""
    length = view.gradient.size
    if not (view.complete and max(view.shape) == length and length in view.lengths):
        return
    n, total = view.numerical, float(view.numerical.sum())
    telling = abs(total) > TELLING * max(float(view.slack.sum()), _EXACT * float(np.abs(n).sum()))
    if telling and np.count_nonzero(view.strong) >= _FITTED:
        if abs(float(view.analytic.sum()) - total) <= WITHIN * float(view.slack.max()):
            text = (
                f"consistent with a sum over the wrong axis: another vector of the same total (axes of {length} both)"
            )
            yield Pattern("broadcast", text, axis=int(np.argmax(view.shape)))


def _varies(view: View, line: NDArray[np.bool_]) -> bool:
    n, slack = view.numerical[line], WITHIN * view.slack[line]
    return bool(np.max(n - slack) > np.min(n + slack))


def _reduced(view: View, axis: int, lines: NDArray[np.int64]) -> str:
    """Whether the constant is the mean or the sum of the numerical values, where a line is known as a whole."""
    for line in np.unique(lines):
        here = lines == line
        if np.count_nonzero(here) == view.shape[axis]:
            constant, n, slack = view.analytic[here][0], view.numerical[here], view.slack[here]
            for name, value, allowed in (("mean", n.mean(), slack.mean()), ("sum", n.sum(), slack.sum())):
                if abs(constant - value) <= WITHIN * allowed:
                    return f": their {name} along it"
    return ""


# --- few entries ---

_LISTED = 16  # wrong entries that are called few
_FEW = 0.1  # share of the measured entries that are called few where others were not measured
_TESTED = 3  # entries of a line, at least, that make it wrong as a whole


def sparse(view: View) -> Iterator[Pattern]:
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


def _wrong_lines(view: View, axis: int) -> NDArray[np.int64]:
    """Lines of an axis that hold all wrong entries and nothing right; none if these are not fewer than the others."""
    index = view.index[axis]
    lines, tested = np.unique(index[view.strong], return_counts=True)
    inside = np.isin(index, lines)
    whole = min(_TESTED, view.gradient.size // view.shape[axis])
    holds = not np.any(inside & view.right & view.telling) and not np.any(view.wrong & ~inside)
    few = 2 * lines.size <= view.shape[axis] and np.any(~inside & view.right & view.telling)
    return lines if lines.size and holds and few and tested.min() >= whole else lines[:0]


def _lines_text(view: View, axis: int, lines: NDArray[np.int64]) -> str:
    which = [f"[{', '.join(str(i) if k == axis else ':' for k in range(len(view.shape)))}]" for i in lines]
    text = f"{listed(which, quote=False)} {'is' if lines.size == 1 else 'are'} wrong as a whole, the rest is right"
    return f"consistent with an error in some lines: {text}{_place(view, axis, lines)}{_content(view, axis, lines)}"


def _place(view: View, axis: int, lines: NDArray[np.int64]) -> str:
    if lines.size > 1:
        return ""
    ends = {0: "first", view.shape[axis] - 1: "last"}
    return f" (the {ends[int(lines[0])]} index: off by one?)" if int(lines[0]) in ends else ""


def _content(view: View, axis: int, lines: NDArray[np.int64]) -> str:
    """What stands in the lines: zeros, or a copy of the line before."""
    index = list(view.some)
    index[axis] = lines[np.arange(index[axis].size) % lines.size]
    here = view.at(index)
    if not here.any():
        return ", zero in the analytic gradient"
    index[axis] = index[axis] - 1
    return ", a copy of the one before" if lines.min() > 0 and np.array_equal(here, view.at(index)) else ""


def _entries_text(view: View, indices: Sequence[tuple[int, ...]]) -> str:
    which = listed([f"[{', '.join(map(str, index))}]" for index in indices], quote=False)
    text = f"consistent with an error in few entries: {which} {'is' if len(indices) == 1 else 'are'} wrong"
    ends = {tuple(0 for _ in view.shape): "first", tuple(length - 1 for length in view.shape): "last"}
    at_end = len(indices) == 1 and len(long_axes(view.shape)) == 1 and indices[0] in ends
    return text + (f" (the {ends[indices[0]]} index: off by one?)" if at_end else "")


def unstructured(view: View) -> Iterator[Pattern]:
    """Enough wrong entries to have shown a pattern."""
    wrong = np.count_nonzero(view.strong)
    if wrong >= min(FEWEST, view.gradient.size) and wrong > 1:
        known = view.local.size
        yield Pattern("unstructured", f"{wrong} of {known} measured entries differ, by no simple pattern")
