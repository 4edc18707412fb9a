"""Pictures drawn by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastgc._missing import missing
from fastgc._reports.picture import Cells, Line, Picture, states, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes

_COLOURS = {  # of the pages, for a light background
    "pass": "#1a7f37", "fail": "#cf222e", "undecided": "#8a5a00", "unseen": "#d8dee4", "limit": "#59636e",
    "guide": "#59636e", "forward": "#0969da", "backward": "#8250df", "central": "#1f2328", "five_point": "#bf3989",
    "complex_step": "#1b7c83",
}  # fmt: skip
_MARKERS = {
    "pass": ".", "fail": "x", "undecided": "^", "limit": "_", "forward": "D", "backward": "+", "central": "o",
    "five_point": "^", "complex_step": "s",
}  # fmt: skip
_DASHED = {"guide": (1.0, (0, (4, 3))), "backward": (1.5, (0, (6, 4)))}  # width and dashes: what lies below stays seen
_CROSS = 100.0  # points of a cross by the number of cells in a row: half a cell
_SIZE = (6.4, 4.8)  # inches: matplotlib's own


def drawn(picture: Picture, ax: Axes | None = None) -> Axes:
    """The axes with the picture; by default those of a new figure, which a notebook shows."""
    ax = new_axes() if ax is None else ax
    _label(picture, ax)
    if picture.cells is not None:
        _draw_cells(picture.cells, ax)
    else:
        ax.set_autoscale_on(False)  # the limits are those of the picture
        ax.grid(visible=True, linewidth=0.5, alpha=0.5)
    for line in picture.lines:
        width, dashes = _DASHED.get(line.kind, (1.5, "-"))
        name = "" if line.kind == "guide" else line.label
        ax.plot(line.x, line.y, color=_COLOURS[line.kind], label=name or None, linewidth=width, linestyle=dashes)
        if line.kind == "guide":
            _name_guide(line, picture, ax)
    for group in picture.points:
        colour = _COLOURS[group.kind]
        if group.bars is not None:
            ax.errorbar(group.x, group.y, xerr=group.bars, fmt="none", ecolor=colour, elinewidth=1)
        ax.plot(group.x, group.y, _MARKERS[group.kind], color=colour, label=group.label or None, markersize=5)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small")
    return ax


def new_axes() -> Axes:
    """Axes of a new figure of pyplot: what shows figures at the end of a cell, or by ``plt.show()``, knows of them."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise missing("plot()", "plot") from error
    return pyplot.subplots(figsize=_SIZE, layout="constrained")[1]


def _name_guide(line: Line, picture: Picture, ax: Axes) -> None:
    """At three quarters of the part that is seen."""
    low, high = picture.y.limits
    seen = np.flatnonzero((line.y > low) & (line.y < high))
    if seen.size:
        where = seen[3 * seen.size // 4]
        ax.annotate(line.label, (line.x[where], line.y[where]), (4, -2), textcoords="offset points", va="top",
                    fontsize="small", color=_COLOURS["guide"])  # fmt: skip


def _label(picture: Picture, ax: Axes) -> None:
    for axis, name in ((picture.x, "x"), (picture.y, "y")):
        getattr(ax, f"set_{name}label")(axis.label, parse_math=False)
        if picture.cells is None:
            options = {"linear_width": axis.width} if axis.scale == "signed" else {}
            getattr(ax, f"set_{name}scale")("asinh" if axis.scale == "signed" else axis.scale, **options)
            getattr(ax, f"set_{name}lim")(*axis.limits)
            places, words = zip(*ticks(axis), strict=True)
            getattr(ax, f"set_{name}ticks")(places, words, minor=False)
            getattr(ax, f"set_{name}ticks")([], minor=True)
    ax.set_title("\n".join(filter(None, [picture.title, picture.note])), fontsize="medium", parse_math=False)


def _draw_cells(cells: Cells, ax: Axes) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    shown = np.ma.masked_less(cells.states, 0)
    colours = ListedColormap([_COLOURS[state] for state in states()])
    ax.imshow(shown, cmap=colours, vmin=-0.5, vmax=len(states()) - 0.5, aspect="equal", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    rows, columns = np.nonzero(cells.states == states().index("fail"))
    ax.plot(columns, rows, "x", color="white", markersize=min(6.0, _CROSS / max(cells.states.shape)))
    ax.legend(
        handles=[Patch(color=_COLOURS[state], label=label) for state, label in cells.labels],
        fontsize="small", loc="upper left", bbox_to_anchor=(1, 1),
    )  # fmt: skip
