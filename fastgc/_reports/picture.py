"""Pictures of a tensor's entries as data: points, lines and cells, which SVG and matplotlib both draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import one_of
from fastgc._parameters.arrays import Floats
from fastgc._reports.contents import EntryLadder, Part
from fastgc._reports.lines import NAME, shortened, visible

# Cells of a map, at most: of five pixels each where a picture is 360 pixels wide.
_COLUMNS, _ROWS = 60, 36
_GRID = 100  # cells along each axis of a picture, of which each shows one dot of a kind: a cell is as wide as a dot
_SPREAD = 100.0  # of the largest value by a median one, above which a linear axis hides the median one
_LEAST = 1e-17  # of a relative error that is drawn: below the round-off of a number, 1.1e-16
_TICKS = 5  # numbers along an axis, about: more would touch each other
_ROOM = 0.2  # powers of ten beyond the dots
_TRUNCATED = 100.0  # the largest steps by the smallest at which truncation is expected to govern
_ALONG = 10.0  # between the errors by the power of their steps: with more they do not rise with that power
_HUGE = 1e300  # values whose differences and powers are still numbers lie below, and their inverses above
_STATES = ("unseen", "pass", "undecided", "fail")
_GUIDES = 60  # points of a straight line on logarithmic axes: limits cut it where it leaves the picture

Scale = Literal["linear", "log", "signed"]


@dataclass(frozen=True)
class Axis:
    """An axis; "signed" is linear within ``width`` of 0 and logarithmic beyond, on both sides."""

    label: str
    scale: Scale = "linear"
    width: float = 1.0
    limits: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Points:
    """Dots of one kind, with horizontal bars of half that length."""

    x: Floats
    y: Floats
    kind: str
    label: str
    bars: Floats | None = None


@dataclass(frozen=True)
class Line:
    """A line through points."""

    x: Floats
    y: Floats
    kind: str
    label: str


@dataclass(frozen=True)
class Cells:
    """A map: a number of `_STATES` for each cell, -1 for none; and how often each state occurs, in entries."""

    states: NDArray[np.int8]
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Picture:
    """What is drawn."""

    title: str
    x: Axis
    y: Axis
    points: tuple[Points, ...] = ()
    lines: tuple[Line, ...] = ()
    cells: Cells | None = None
    note: str = ""


def picture(part: Part, kind: str) -> Picture:
    """A picture of a tensor."""
    one_of("kind", kind, tuple(_KINDS))
    return _KINDS[kind](part)


def pictures(part: Part) -> Iterator[Picture]:
    """All pictures that there are of a tensor."""
    if len(part.entries):
        yield from (_scatter(part), _map(part), _errors(part))
    if part.ladder is not None:
        yield _steps(part)


def _named(part: Part) -> str:
    return shortened(visible(part.name), NAME)


def _kinds(part: Part) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The verdicts that occur, those to be seen best at last, and where."""
    for verdict in _STATES[1:]:
        mine = np.asarray(part.entries.columns["verdict"] == verdict, bool)
        if mine.any():
            yield verdict, mine


# --- analytic against numerical values ---


def _scatter(part: Part) -> Picture:
    columns = part.entries.columns
    x, y, u = (np.asarray(columns[key], np.float64) for key in ("numerical", "analytic", "uncertainty"))
    known = (np.abs(x) < _HUGE) & (np.abs(y) < _HUGE)
    axis = _signed_axis(np.concatenate([x[known], y[known]]))
    groups = []
    for verdict, mine in _kinds(part):
        some = _thinned(x, y, np.flatnonzero(mine & known), axis, axis)
        label = f"{verdict}: {np.count_nonzero(mine):,}"
        groups.append(Points(x[some], y[some], verdict, label, np.where(np.isfinite(u[some]), u[some], 0.0)))
    ends = np.array(axis.limits)
    line = Line(*_straight(ends, axis), "guide", "equal")
    return Picture(
        f"Analytic against numerical values of {_named(part)}",
        Axis("numerical (with its uncertainty)", axis.scale, axis.width, axis.limits),
        Axis("analytic", axis.scale, axis.width, axis.limits),
        tuple(groups),
        (line,),
        note=_left_out(known),
    )


def _straight(ends: Floats, axis: Axis) -> tuple[Floats, Floats]:
    low, high = forward(ends, axis).tolist()
    places = np.linspace(low, high, _GUIDES)
    values = axis.width * np.sinh(places) if axis.scale == "signed" else places
    return values, values


def _left_out(known: NDArray[np.bool_]) -> str:
    count = int(np.count_nonzero(~known))
    return f"{count:,} without a finite value, or beyond {_HUGE:.0e}, not drawn" if count else ""


def _signed_axis(values: Floats) -> Axis:
    """Linear, or logarithmic on both sides of 0 where the largest value would hide the others."""
    sizes = np.abs(values[values != 0])
    if not sizes.size:
        return Axis("", limits=(-1.0, 1.0))
    low, high = float(values.min()), float(values.max())
    middle = float(np.median(sizes))
    if sizes.max() <= _SPREAD * middle:
        room = 0.05 * ((high - low) or abs(high))  # of the range, so that no dot lies on the frame
        return Axis("", limits=(low - room, high + room))
    axis = Axis("", "signed", middle)
    places = forward(np.array([low, high]), axis)
    room = 0.05 * float(places[1] - places[0] or 1.0)
    low, high = (middle * math.sinh(place) for place in (places[0] - room, places[1] + room))
    return Axis("", "signed", middle, (low, high))


def forward(values: Floats, axis: Axis) -> Floats:
    """Where values lie on an axis, in units of the axis."""
    with np.errstate(all="ignore"):
        if axis.scale == "log":
            return np.log10(values)
        return np.arcsinh(values / axis.width) if axis.scale == "signed" else np.asarray(values, np.float64)


def ticks(axis: Axis) -> Iterator[tuple[float, str]]:
    """Round numbers on an axis."""
    low, high = axis.limits
    if axis.scale == "log":
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        every = max(1, math.ceil((last - first) / _TICKS))
        yield from ((10.0**power, f"1e{power}" if power else "1") for power in range(first, last + 1, every))
    elif axis.scale == "signed":
        yield from ((value, _power(value)) for value in _signed(axis))
    else:
        unit = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
        step = next(unit * factor for factor in (1, 2, 5, 10) if (high - low) / (unit * factor) <= _TICKS)
        for count in range(math.ceil(low / step), math.floor(high / step) + 1):
            yield count * step, f"{count * step:.6g}"


def _power(value: float) -> str:
    return f"{value:g}" if abs(value) in (0.0, 1.0) else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def _signed(axis: Axis) -> Iterator[float]:
    """Zero and a few powers of ten on both sides, none too near to zero."""
    low, high = axis.limits
    first, last = math.ceil(math.log10(axis.width)), math.floor(math.log10(max(-low, high)))
    every = max(1, math.ceil((last - first) / 2)) if low < 0 < high else max(1, math.ceil((last - first) / 4))
    powers = [10.0**power for power in range(last, first - 1, -every)]
    candidates = [*(-power for power in powers), 0.0, *reversed(powers)]
    yield from (value for value in candidates if low <= value <= high)


def _thinned(x: Floats, y: Floats, where: NDArray[np.int64], across: Axis, up: Axis) -> NDArray[np.int64]:
    """One of the points in each cell of a fine grid."""
    if where.size <= _GRID:
        return where
    cells = np.zeros(where.size, np.int64)
    for values, axis in ((x, across), (y, up)):
        low, high = forward(np.array(axis.limits), axis)
        place = (forward(values[where], axis) - low) / ((high - low) or 1.0)
        cells = cells * (2 * _GRID) + np.clip(place * _GRID, 0, _GRID).astype(np.int64)
    return where[np.unique(cells, return_index=True)[1]]


# --- where ---


def _map(part: Part) -> Picture:
    """Rows by columns, several entries in a cell where they are many; a long vector in lines, as text is read."""
    rows, columns = part.matrix
    if rows == 1 and columns > _COLUMNS:
        return _lines_of(part, columns)
    height, width = min(rows, _ROWS), min(columns, _COLUMNS)
    local = part.entries.local
    cells = (local // columns * height // rows) * width + local % columns * width // columns
    states = _worst_states(part, cells, height * width).reshape(height, width)
    titles = f"{part.axes[1]}: {columns:,}", f"{part.axes[0]}: {rows:,}" if rows > 1 else ""
    return _mapped(part, states, titles, height * width)


def _lines_of(part: Part, size: int) -> Picture:
    count = min(size, _ROWS * _COLUMNS)
    height = math.ceil(count / _COLUMNS)
    states = _worst_states(part, part.entries.local * count // size, height * _COLUMNS)
    states[count:] = -1
    title = f"entries, {size:,} in lines of {_COLUMNS * size // count:,}"
    return _mapped(part, states.reshape(height, _COLUMNS), (title, ""), count)


def _worst_states(part: Part, cells: NDArray[np.int64], count: int) -> NDArray[np.int8]:
    states = np.zeros(count, np.int8)
    for verdict, mine in _kinds(part):
        states[cells[mine]] = _STATES.index(verdict)
    return states


def _mapped(part: Part, states: NDArray[np.int8], titles: tuple[str, str], count: int) -> Picture:
    height, width = states.shape
    some = f"a cell stands for about {part.size / count:,.0f} entries and shows the worst of them"
    return Picture(
        f"Where they are in {_named(part)}",
        Axis(titles[0], limits=(0.0, float(width))),
        Axis(titles[1], limits=(0.0, float(height))),
        cells=Cells(states, tuple(_counted(part))),
        note=some if count < part.size else "",
    )


def _counted(part: Part) -> Iterator[tuple[str, str]]:
    yield from ((verdict, f"{verdict}: {np.count_nonzero(mine):,}") for verdict, mine in _kinds(part))
    if part.checked < part.size:
        yield "unseen", f"unseen: {part.size - part.checked:,}"


# --- errors ---


def _errors(part: Part) -> Picture:
    columns, x = part.entries.columns, part.entries.local.astype(np.float64)
    y = np.asarray(columns["relative_error"], np.float64)
    with np.errstate(all="ignore"):
        scale = np.maximum(np.abs(columns["analytic"]) + np.abs(columns["numerical"]), 1e-8)  # as in the error
        noise = np.asarray(columns["uncertainty"] / scale, np.float64)
    y, noise = (np.where(np.isfinite(each), np.maximum(each, _LEAST), np.nan) for each in (y, noise))
    across = Axis(f"place in {_named(part)}", limits=(-0.02 * part.size - 0.5, 1.02 * part.size - 0.5))
    up = Axis("relative error", "log", limits=decades(np.concatenate([y, noise])))
    known, bounded = np.isfinite(y), np.flatnonzero(np.isfinite(noise))
    some = _thinned(x, noise, bounded, across, up)
    groups = [Points(x[some], noise[some], "limit", "uncertainty")]
    for verdict, mine in _kinds(part):
        some = _thinned(x, y, np.flatnonzero(mine & known), across, up)
        groups.append(Points(x[some], y[some], verdict, f"{verdict}: {np.count_nonzero(mine):,}"))
    return Picture(f"Errors of the entries of {_named(part)}", across, up, tuple(groups), note=_left_out(known))


def decades(values: Floats) -> tuple[float, float]:
    """Powers of ten around positive values, and a little more, so that no dot lies on the frame."""
    usable = values[(values > 1 / _HUGE) & (values < _HUGE)]
    if not usable.size:
        return _LEAST, 1.0
    low, high = math.floor(math.log10(usable.min())), math.ceil(math.log10(usable.max()))
    return 10.0 ** (low - _ROOM), 10.0 ** (max(high, low + 1) + _ROOM)


# --- steps ---


def _steps(part: Part) -> Picture:
    if part.ladder is None:
        raise ValueError(
            f"kind is 'steps', and no entry of {_named(part)!r} was measured at several steps: each was decided by one"
        )
    ladder, steps = part.ladder, np.array(part.ladder.steps)
    quotients = {name: np.array(getattr(ladder, name)) for name in ("forward", "backward", "central")}
    errors = {name: np.abs(values - ladder.numerical) for name, values in quotients.items()}
    kept = {name: np.isfinite(error) & (error > 0) for name, error in errors.items()}
    dots = tuple(Points(steps[kept[name]], error[kept[name]], name, name) for name, error in errors.items())
    off = abs(ladder.analytic - ladder.numerical)
    wrong = [Line(steps[[0, -1]], np.full(2, off), "fail", "analytic value")] if 0 < off < math.inf else []
    index = f"[{', '.join(map(str, ladder.index))}]" if ladder.index else ""
    return Picture(
        f"Error by step of {_named(part)}{index}",
        Axis("step h", "log", limits=decades(steps)),
        Axis(
            "difference from the derivative", "log", limits=decades(np.concatenate([[off], *(each.y for each in dots)]))
        ),
        dots,
        (*_guides(ladder, steps, errors), *wrong),
    )


def _guides(ladder: EntryLadder, steps: Floats, errors: dict[str, Floats]) -> Iterator[Line]:
    """Slopes of truncation through the errors at the largest steps, and the bound on noise."""
    yield from power_guides(steps, [("h", 1, errors["forward"]), ("h²", 2, errors["central"])])
    noise = np.array(ladder.noise)
    kept = np.isfinite(noise) & (noise > 0)
    if kept.any():
        yield Line(steps[kept], noise[kept], "guide", "noise / h")


def power_guides(steps: Floats, powers: Sequence[tuple[str, int, Floats]]) -> Iterator[Line]:
    """Lines that rise with a power of the step, through errors that do so where truncation governs."""
    if not steps.min() > 0:  # a step that underflows
        return
    across = np.geomspace(steps.min(), steps.max(), _GUIDES)
    for label, power, error in powers:
        with np.errstate(all="ignore"):
            factors = error / steps**power
        usable = factors[(steps >= steps.max() / _TRUNCATED) & np.isfinite(factors) & (factors > 0)]
        if usable.size and usable.max() <= _ALONG * usable.min():
            yield Line(across, float(np.median(usable)) * across**power, "guide", label)


_KINDS: dict[str, Callable[[Part], Picture]] = {"scatter": _scatter, "map": _map, "steps": _steps, "errors": _errors}


def states() -> tuple[str, ...]:
    """The names of the states of cells."""
    return _STATES
