"""What pictures show of the entries: every kind, by matplotlib and as data."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot

import fastgc
from fastgc._reports.picture import Axis, picture, ticks
from tests.support.imports import make_missing
from tests.support.reports import REPORTS, many_entries

mpl.use("Agg")
KINDS = ["scatter", "map", "steps", "errors"]


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    pyplot.close("all")


def part(name: str, tensor: str | None = None) -> Any:
    return REPORTS[name]()._contents().part(tensor)


@pytest.mark.parametrize("kind", ["scatter", "map", "errors"])
@pytest.mark.parametrize("name", [name for name in REPORTS if name != "empty"])
def test_every_kind_can_be_drawn_of_every_report(name: str, kind: Any) -> None:
    ax = REPORTS[name]().plot(kind)
    ax.figure.canvas.draw()
    assert ax.get_title()
    assert ax.get_xlabel()
    assert ax.get_legend().get_texts()


def test_it_is_drawn_where_it_is_asked_to() -> None:
    ax = pyplot.figure().add_subplot()
    assert REPORTS["fail"]().plot("map", tensor="a", ax=ax) is ax


def test_unknown_kinds_and_tensors_are_refused() -> None:
    report = REPORTS["fail"]()
    with pytest.raises(ValueError, match="kind is 'pie'; it must be one of 'scatter', 'map', 'steps', 'errors'"):
        report.plot("pie")
    with pytest.raises(ValueError, match="tensor is 'z'; the report has 'c', 'b', 'a'"):
        report.plot(tensor="z")
    undrawn = replace(report, tensors={"a": replace(report.tensors["a"], ladder=None)})
    with pytest.raises(ValueError, match="kind is 'steps', and no entry of 'a' was measured at several steps"):
        undrawn.plot("steps")
    with pytest.raises(ValueError, match="the report has no tensors"):
        replace(report, tensors={}).plot()


def test_a_wrong_entry_of_a_jacobian_is_shown_by_step() -> None:
    report = REPORTS["jacobian"]()
    assert report.ladder.index == report.worst.index == (2, 3)
    assert report.ladder.analytic == 0.5
    drawn = picture(report._contents().parts[0], "steps")
    assert drawn.title == "Error by step of jacobian[2, 3]"
    assert report.to_html().count("<svg") == 4


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    make_missing(monkeypatch, "matplotlib")
    with pytest.raises(ImportError, match=r'plot\(\) needs matplotlib: python -m pip install "matplotlib>='):
        REPORTS["fail"]().plot()


def test_the_scatter_has_every_entry_with_its_verdict_and_uncertainty() -> None:
    drawn = picture(part("fail", "c"), "scatter")
    entries = part("fail", "c").entries
    points = {
        (x, y): (group.kind, bar)
        for group in drawn.points
        for x, y, bar in zip(group.x, group.y, group.bars, strict=True)
    }
    assert points == {(e.numerical, e.analytic): (e.verdict, e.uncertainty) for e in entries}
    assert drawn.x.limits == drawn.y.limits
    assert [group.label for group in drawn.points] == [
        f"{verdict}: {sum(e.verdict == verdict for e in entries)}" for verdict in ("pass", "fail")
    ]


def test_the_map_shows_each_entry_in_its_place() -> None:
    cells = picture(part("fail", "c"), "map").cells
    assert cells is not None
    assert cells.states.shape == (6, 7)
    assert np.argwhere(cells.states == 3).tolist() == [[1, 1]]
    seen = {entry.index for entry in part("fail", "c").entries}
    assert {tuple(index) for index in np.argwhere(cells.states > 0).tolist()} == seen


def test_a_cell_of_a_large_map_shows_the_worst_of_its_entries() -> None:
    drawn = picture(part("one of many"), "map")
    assert drawn.cells is not None
    assert np.argwhere(drawn.cells.states == 3).tolist() == [[123 * 36 // 500, 77 * 60 // 500]]
    assert "a cell stands for about 116 entries" in drawn.note
    assert ("unseen", f"unseen: {250_000 - part('one of many').checked:,}") in drawn.cells.labels


def test_a_long_vector_is_folded_into_lines() -> None:
    w = np.linspace(1, 2, 1000)
    wrong = 2 * w
    wrong[-1] = 0
    report = fastgc.check_gradients(lambda p: float(p @ p), wrong, w, samples="all")
    states = picture(report._contents().parts[0], "map").cells.states
    assert states.shape == (17, 60)
    assert np.argwhere(states == 3).tolist() == [[16, 39]]
    assert np.count_nonzero(states == -1) == 17 * 60 - 1000


def test_the_error_by_step_falls_and_rises_and_shows_how_wrong_the_entry_is() -> None:
    tensor = REPORTS["fail"]().tensors["c"]
    assert tensor.ladder.index in {entry.index for entry in tensor.wrong_entries}
    drawn = picture(part("fail", "c"), "steps")
    errors = {group.kind: group for group in drawn.points}
    assert set(errors) == {"forward", "backward", "central"}
    forward = errors["forward"]
    slope = np.polyfit(np.log(forward.x[:5]), np.log(forward.y[:5]), 1)[0]
    assert slope == pytest.approx(1, abs=0.1)
    assert [line.label for line in drawn.lines] == ["h", "h²", "noise / h", "analytic value"]
    off = abs(tensor.ladder.analytic - tensor.ladder.numerical)
    assert drawn.lines[-1].y.tolist() == [off, off]


def test_errors_have_the_places_of_their_entries() -> None:
    drawn = picture(part("fail", "c"), "errors")
    worst = max((group for group in drawn.points if group.kind == "fail"), key=lambda group: group.y.max())
    assert worst.x.tolist() == [8.0]
    assert worst.y.tolist() == [pytest.approx(1.0)]


def test_many_points_are_thinned_and_all_wrong_regions_stay() -> None:
    drawn = picture(many_entries(1_000_000)._contents().parts[0], "scatter")
    assert sum(group.x.size for group in drawn.points) < 2_000
    assert {group.kind for group in drawn.points} == {"pass", "fail"}


def test_values_of_different_sizes_are_drawn_on_logarithmic_axes() -> None:
    w = 10.0 ** np.arange(-6, 3)
    report = fastgc.check_gradients(lambda p: float(p @ p), 2 * w, w)
    drawn = picture(report._contents().parts[0], "scatter")
    assert drawn.x.scale == "signed"
    report.plot().figure.canvas.draw()


@pytest.mark.parametrize("size", [1e307, 1e-310, 1e200])
def test_values_at_the_ends_of_the_range_of_numbers_can_be_drawn(size: float) -> None:
    analytic = np.array([size, -size, 1.0, np.inf, 0.0])
    report = fastgc.check_gradients(lambda p: float(p @ p), analytic, np.ones(5))
    columns = dict(report.tensors["params"].entries.columns)
    columns["uncertainty"] = np.full(5, size)
    entries = type(report.tensors["params"].entries)("params", (5,), np.arange(5), columns)
    report = replace(report, tensors={"params": replace(report.tensors["params"], entries=entries)})
    for kind in ("scatter", "errors", "map"):
        report.plot(kind).figure.canvas.draw()
    assert "inf" not in "".join(re.findall(r' d="([^"]*)"', report.to_html()))


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis("", limits=(0.0, 1.0)), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis("", limits=(-3e5, 4e5)), ["-200000", "0", "200000", "400000"]),
        (Axis("", "log", limits=(1e-12, 1.0)), ["1e-12", "1e-9", "1e-6", "1e-3", "1"]),
        (Axis("", "signed", 0.01, (-2.0, 3.0)), ["-1", "-1e-1", "-1e-2", "0", "1e-2", "1e-1", "1"]),
    ],
)
def test_ticks_are_few_round_numbers(axis: Axis, labels: list[str]) -> None:
    found = list(ticks(axis))
    assert [label for _, label in found] == labels
    assert [value for value, _ in found] == pytest.approx([float(label) for label in labels])


def test_a_check_draws_nothing_and_imports_nothing_for_it() -> None:
    code = """
import sys, numpy as np, fastgc
report = fastgc.check_gradients(lambda p: float(p @ p), lambda p: 2 * p, np.ones(9), crosscheck=False)
str(report)
print(*[name for name in sys.modules if name.startswith("fastgc._reports.")])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    drawing = {"page", "svg", "picture", "figure", "markdown", "junit", "frame", "saved"}
    assert not {f"fastgc._reports.{name}" for name in drawing} & set(found)
    assert "fastgc._reports.contents" in found


def test_the_worst_tensor_with_a_ladder_is_drawn_by_step() -> None:
    contents = REPORTS["fail"]()._contents()
    without = replace(contents.parts[0], ladder=None)
    other = replace(without, name="other", ladder=contents.parts[0].ladder)
    assert other.ladder is not None
    contents = replace(contents, parts=(without, other))
    assert contents.part(None, by_step=True) is other
    assert contents.part(None) is contents.part(without.name, by_step=True) is without
    assert replace(contents, parts=(without,)).part(None, by_step=True) is without
