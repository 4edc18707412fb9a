"""Pictures as SVG without a script or a font: colours and shapes come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from html import escape

import numpy as np

from fastgc._parameters.arrays import Floats
from fastgc._reports.picture import Axis, Cells, Picture, Points, forward, states, ticks

# In pixels: a picture fits on a telephone, and four of them in a row on a wide screen.
_WIDTH, _HEIGHT = 360, 270
_LEFT, _RIGHT, _BOTTOM = 58, 10, 40  # margins, with room for numbers and labels of 11 pixels
_ROW, _LETTER = 16, 6.2  # height of a line of the legend; width of a letter of 11 pixels, on average
_FAR = 10.0  # lengths of an axis: what lies farther is outside like any other, and overflows nothing
_CROSSED = 4.0  # pixels of a cell: in smaller ones crosses are blots
_SHAPES = {  # around the point, 7 pixels wide; a line of no length is a dot by its round ends
    "pass": "m0 0h.01",
    "undecided": "m0 -4l4 7h-8z",
    "fail": "m-3.5 -3.5l7 7m-7 0l7 -7",
    "limit": "m-2 0h4",
    "forward": "m0 -3l3 3l-3 3l-3 -3z",
    "backward": "m-3 0h6m-3 -3v6",
    "central": "m0 0h.01",
    "five_point": "m0 -3l3 6h-6z",
    "complex_step": "m-3 -3h6v6h-6z",
}


def svg(picture: Picture) -> str:
    """An image with its title as its name for those who cannot see it."""
    legend = list(_legend(picture))
    rows = list(_in_rows([label for _, label in legend]))
    frame = _Frame(picture, 8 + _ROW * (1 + max((row for row, _ in rows), default=-1)))
    marks = [*_cells(picture.cells, frame), *_lines(picture, frame), *_points(picture, frame)]
    keys = [_key(kind, label, *place) for (kind, label), place in zip(legend, rows, strict=True)]
    body = "".join([*keys, *_axes(picture, frame), *marks])
    title = escape(f"{picture.title}. {'; '.join(label for _, label in legend)}")
    size = f'viewBox="0 0 {_WIDTH} {frame.height}" width="{_WIDTH}" height="{frame.height}"'
    return f'<svg {size} role="img" aria-label="{title}">{body}</svg>'


class _Frame:
    """Where values lie in the image."""

    def __init__(self, picture: Picture, top: int) -> None:
        self.picture, self.top = picture, top
        self.right, self.bottom = float(_WIDTH - _RIGHT), float(_HEIGHT - _BOTTOM)
        self.left, self.height = _LEFT, _HEIGHT
        if picture.cells is not None:
            self._fit_cells(*picture.cells.states.shape)

    def _fit_cells(self, rows: int, columns: int) -> None:
        """Square cells, of 20 pixels at most; the image ends below them."""
        side = min((self.right - self.left) / columns, (self.bottom - self.top) / rows, 20.0)
        self.right, self.bottom = self.left + side * columns, self.top + side * rows
        self.height = math.ceil(max(self.bottom, self.top + _ROW)) + _ROW + 6

    def x(self, values: Floats) -> Floats:
        return self._place(values, self.picture.x, self.left, self.right)

    def y(self, values: Floats) -> Floats:
        return self._place(values, self.picture.y, self.bottom, self.top)

    @staticmethod
    def _place(values: Floats, axis: Axis, begin: float, end: float) -> Floats:
        low, high = forward(np.array(axis.limits), axis)
        share = (forward(np.asarray(values, np.float64), axis) - low) / ((high - low) or 1.0)
        return np.asarray(begin + np.clip(share, -_FAR, _FAR) * (end - begin), np.float64)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


# --- axes ---


def _axes(picture: Picture, frame: _Frame) -> Iterator[str]:
    left, right, top, bottom = (_number(each) for each in (frame.left, frame.right, frame.top, frame.bottom))
    if picture.cells is None:
        yield from _grid(picture, frame)
    yield f'<path class="frame" d="M{left} {top}H{right}V{bottom}H{left}Z"/>'
    across, middle = (frame.left + frame.right) / 2, _number((frame.top + frame.bottom) / 2)
    if picture.cells is None:
        yield _text(across, frame.bottom + 30, "middle", picture.x.label)
    else:
        yield _text(frame.left, frame.bottom + 15, "start", picture.x.label)
    turned = f'transform="rotate(-90 11 {middle})" x="11" y="{middle}" text-anchor="middle"'
    yield f"<text {turned}>{escape(picture.y.label)}</text>" if picture.y.label else ""


def _grid(picture: Picture, frame: _Frame) -> Iterator[str]:
    for value, label in ticks(picture.x):
        x = float(frame.x(np.array(value)))
        yield f'<path class="grid" d="M{_number(x)} {frame.top}V{_number(frame.bottom)}"/>'
        yield _text(x, frame.bottom + 14, "middle", label)
    for value, label in ticks(picture.y):
        y = float(frame.y(np.array(value)))
        yield f'<path class="grid" d="M{frame.left} {_number(y)}H{_number(frame.right)}"/>'
        yield _text(frame.left - 5, y + 4, "end", label)


def _text(x: float, y: float, anchor: str, text: str, kind: str = "label") -> str:
    place = f'x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


# --- marks ---


def _points(picture: Picture, frame: _Frame) -> Iterator[str]:
    for group in picture.points:
        x, y = frame.x(group.x), frame.y(group.y)
        if group.bars is not None:
            yield from _bars(group, frame, y)
        marks = "".join(f"M{a} {b}{_SHAPES[group.kind]}" for a, b in _pairs(x, y, frame))
        if marks:
            yield f'<path class="{group.kind}" d="{marks}"/>'


def _bars(group: Points, frame: _Frame, y: Floats) -> Iterator[str]:
    assert group.bars is not None
    ends = [np.clip(frame.x(group.x + side * group.bars), frame.left, frame.right) for side in (-1, 1)]
    wide = ends[1] - ends[0] > 2  # pixels: less is hidden by the dot
    bars = "".join(
        f"M{_number(a)} {_number(b)}H{_number(c)}"
        for a, c, b in zip(ends[0][wide], ends[1][wide], y[wide], strict=True)
    )
    if bars:
        yield f'<path class="bars {group.kind}" d="{bars}"/>'


def _lines(picture: Picture, frame: _Frame) -> Iterator[str]:
    for line in picture.lines:
        pairs = list(_pairs(frame.x(line.x), frame.y(line.y), frame))
        if len(pairs) < 2:
            continue
        yield f'<path class="line {line.kind}" d="M{"L".join(f"{a} {b}" for a, b in pairs)}"/>'
        if line.kind == "guide":
            yield _guide_label(line.label, [(float(a), float(b)) for a, b in pairs])


def _guide_label(label: str, pairs: list[tuple[float, float]]) -> str:
    """Below a line that rises and above one that falls: there the lines hold no other dots, as a rule."""
    pairs = sorted(pairs)
    x, y = pairs[len(pairs) * 3 // 4]
    return _text(x + 4, y + 12 if pairs[-1][1] < pairs[0][1] else y - 6, "start", label, "muted")


def _pairs(x: Floats, y: Floats, frame: _Frame) -> Iterator[tuple[str, str]]:
    """Coordinates inside the frame."""
    with np.errstate(invalid="ignore"):
        inside = (x >= frame.left - 1) & (x <= frame.right + 1) & (y >= frame.top - 1) & (y <= frame.bottom + 1)
    yield from ((_number(a), _number(b)) for a, b in zip(x[inside].tolist(), y[inside].tolist(), strict=True))


def _cells(cells: Cells | None, frame: _Frame) -> Iterator[str]:
    """Runs of cells of one state along each row, and a cross in those that are wrong."""
    if cells is None:
        return
    rows, columns = cells.states.shape
    wide, high = (frame.right - frame.left) / columns, (frame.bottom - frame.top) / rows
    for number, state in enumerate(states()):
        shape = "".join(
            f"M{frame.left + begin * wide:.2f} {frame.top + row * high:.2f}"
            f"h{(end - begin) * wide:.2f}v{high:.2f}h{-(end - begin) * wide:.2f}z"
            for row, begin, end in _runs(cells.states == number)
        )
        yield f'<path class="cell {state}" d="{shape}"/>' if shape else ""
    if min(wide, high) >= _CROSSED:
        places = np.argwhere(cells.states == states().index("fail")).tolist()
        arms = f"l{wide / 2:.1f} {high / 2:.1f}m{-wide / 2:.1f} 0l{wide / 2:.1f} {-high / 2:.1f}"
        crosses = "".join(
            f"M{frame.left + (column + 0.25) * wide:.1f} {frame.top + (row + 0.25) * high:.1f}{arms}"
            for row, column in places
        )
        yield f'<path class="cross" d="{crosses}"/>' if crosses else ""


def _runs(mine: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Iterator[tuple[int, int, int]]:
    padded = np.zeros((mine.shape[0], mine.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mine
    rows, begins = np.nonzero(np.diff(padded, axis=1) == 1)
    ends = np.nonzero(np.diff(padded, axis=1) == -1)[1]
    yield from zip(rows.tolist(), begins.tolist(), ends.tolist(), strict=True)


# --- legend ---


def _legend(picture: Picture) -> Iterator[tuple[str, str]]:
    yield from ((group.kind, group.label) for group in picture.points if group.label and group.x.size)
    yield from (("line " + line.kind, line.label) for line in picture.lines if line.kind != "guide")
    if picture.cells is not None:
        yield from (("cell " + state, label) for state, label in picture.cells.labels)


def _in_rows(labels: Iterable[str]) -> Iterator[tuple[int, float]]:
    """The row and the left end of each label."""
    row, x = 0, 6.0
    for label in labels:
        width = 24 + _LETTER * len(label)
        if x + width > _WIDTH and x > 6:
            row, x = row + 1, 6.0
        yield row, x
        x += width


def _key(kind: str, label: str, row: int, x: float) -> str:
    y = 11 + _ROW * row
    if kind.startswith("cell "):
        mark = f'<path class="{kind}" d="M{x:.0f} {y - 5}h10v10h-10z"/>'
        mark += f'<path class="cross" d="M{x + 2:.0f} {y - 3}l6 6m-6 0l6 -6"/>' if kind == "cell fail" else ""
    elif kind.startswith("line "):
        mark = f'<path class="{kind}" d="M{x - 2:.0f} {y}h14"/>'
    else:
        mark = f'<path class="{kind}" d="M{x + 5:.0f} {y}{_SHAPES[kind]}"/>'
    return f'{mark}<text x="{x + 14:.0f}" y="{y + 4}">{escape(label)}</text>'
