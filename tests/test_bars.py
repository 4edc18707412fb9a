"""Bars of all doors: Jacobians, numerical gradients and workers; in terminals, in notebooks, and inside other bars."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tqdm.auto
import tqdm.std

import fastgc
from fastgc import _progress as progress_module
from fastgc._progress import ENTRIES, Progress
from tests.support.clock import Clock, ends
from tests.support.jacobians import Floats
from tests.test_progress import Bar, bars  # noqa: F401 - a fixture

MATRIX = np.random.default_rng(0).normal(size=(5, 200)) / 10
LONG = 200.0  # seconds for what takes none, on a machine that is busy


def outputs(x: Floats) -> Any:
    return np.sin(MATRIX @ x)


def jacobian(x: Floats, wrong: int) -> Any:
    matrix = np.cos(MATRIX @ x)[:, None] * MATRIX
    matrix[:, : 2 * wrong] *= 1.5
    return matrix


def slowly(clock: Clock, function: Callable[..., Any], seconds: float = 0.01) -> Callable[..., Any]:
    def slow(*arguments: Any) -> Any:
        clock.seconds += seconds
        return function(*arguments)

    return slow


BOUNDS = {"bounds": {"x": (1.0, 2.0)}}  # at their edge quotients are one-sided, and one more decides


@pytest.mark.parametrize(
    ("wrong", "options"),
    [
        (0, {}),
        (1, {}),
        (100, {}),
        (0, {"points": 2}),
        (1, {"points": 2}),
        (100, {"points": 2}),
        (0, BOUNDS),
        (1, BOUNDS),
    ],
)
def test_the_end_of_a_jacobian_is_foreseen(
    wrong: int,
    options: dict[str, Any],
    bars: list[Bar],  # noqa: F811
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    f, df = slowly(clock, outputs), partial(jacobian, wrong=wrong)
    found = ends(clock, monkeypatch, lambda: fastgc.check_jacobian(f, df, np.ones(200), progress=True, **options))
    late = [end for now, end in found if now >= 0.1]
    within = (
        0.4 if wrong == 100 and "points" in options else 0.3
    )  # that the second point is wrong, too, is not foreseen
    assert len(late) > 2 and max(abs(end - 1) for end in late) <= within
    assert len(bars) == 1
    assert bars[0].n == bars[0].total >= 200 * options.get("points", 1)
    phases = [text for text in bars[0].descriptions if text in ("first calls", "noise", "entries", "in doubt")]
    assert phases[:3] == ["first calls", "noise", "entries"]
    assert wrong == 0 or "in doubt" in phases


def test_columns_that_are_checked_besides_the_planned_ones_are_counted(bars: list[Bar]) -> None:  # noqa: F811
    fastgc.check_jacobian(outputs, partial(jacobian, wrong=50), np.ones(200), columns=20, progress=True)
    assert bars[0].total is not None and bars[0].n == bars[0].total > 20
    assert "probes" in bars[0].descriptions


def test_a_hessian_has_a_bar_for_its_gradient_too(bars: list[Bar]) -> None:  # noqa: F811
    x = np.linspace(1, 2, 5)
    fastgc.check_hessian(lambda x: float(np.sum(x**3)), lambda x: 3 * x**2, lambda x: np.diag(6 * x), x, progress=True)
    assert [(bar.n, bar.total) for bar in bars] == [(5, 5), (5, 5)]


def test_the_end_of_a_numerical_gradient_is_foreseen(
    bars: list[Bar],  # noqa: F811
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    f = slowly(clock, lambda x: float(x @ x))
    found = ends(clock, monkeypatch, lambda: fastgc.numerical_gradient(f, np.ones(100), progress=True))
    assert max(abs(end - 1) for now, end in found if now >= 0.1) <= 0.3


@pytest.mark.parametrize("points", [1, 2])
def test_the_plan_is_told_once_and_from_several_calls(
    points: int,
    bars: list[Bar],  # noqa: F811
    clock: Clock,
) -> None:
    calls = 0

    def f(x: Floats) -> Any:
        nonlocal calls
        calls += 1
        clock.seconds += 60.0 if calls == 1 else 1.0
        return outputs(x)

    options: dict[str, Any] = {"columns": 100, "points": points, "progress": True}
    fastgc.check_jacobian(f, partial(jacobian, wrong=0), np.ones(200), **options)
    (text,) = bars[0].written
    whole = points * (22 + 2 * (100 + 8) + 4 * 3)
    assert text == f"about {progress_module.duration(whole)}; probes alone: {progress_module.duration(points * 12)}"


def test_a_time_budget_ends_what_is_foreseen(
    bars: list[Bar],  # noqa: F811
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress_module, "_PLANNED", 1.0)
    loss = slowly(clock, lambda p: float(np.sum(np.sin(p))), 0.1)
    found = ends(
        clock,
        monkeypatch,
        lambda: fastgc.check_gradients(
            loss, np.cos, np.linspace(0, 1, 900), samples="all", crosscheck=False, progress=True, time_budget=20.0
        ),
    )
    assert max(end for _, end in found) <= 1.1
    assert bars[0].written == ["about 18 s"]


def square(p: Floats) -> float:
    return float(p @ p)


def squares(x: Floats) -> Any:
    return x**2


@pytest.mark.parametrize("door", ["gradients", "jacobian", "numerical"])
def test_workers_move_the_bar_to_its_end(
    door: str,
    bars: list[Bar],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastgc._evaluation.pieces._WORTHWHILE", 0.0)
    monkeypatch.setattr(progress_module, "_PLANNED", 0.0)
    x = np.linspace(1, 2, 40)
    options: dict[str, Any] = {"workers": 2, "progress": True}
    if door == "gradients":
        fastgc.check_gradients(square, lambda p: 2 * p, x, samples="all", **options)
    elif door == "jacobian":
        fastgc.check_jacobian(squares, lambda x: np.diag(2 * x), x, **options)
    else:
        fastgc.numerical_gradient(square, x, **options)
    assert bars[0].n == bars[0].total == 40
    told = [text for bar in bars for text in bar.written]
    assert len(told) == (door != "numerical")  # by the pace of the workers, without their start
    assert all(text in [f"about 0.{k} s" for k in range(10)] for text in told)


# --- terminals ---


def test_a_bar_moves_while_one_call_takes_long(
    bars: list[Bar],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.isatty", lambda number: True)
    monkeypatch.setattr(progress_module, "_DRAWN_EVERY", 1e-3)
    redrawn = threading.Event()

    def noted(self: Bar, ordered: Any = None, refresh: bool = True, **values: Any) -> None:
        if refresh:
            redrawn.set()

    monkeypatch.setattr(Bar, "set_postfix", noted)
    calls, before = 0, threading.active_count()

    def waits(p: Floats) -> float:
        nonlocal calls
        calls += 1
        if calls == 1:
            assert redrawn.wait(LONG)
        return square(p)

    fastgc.check_gradients(waits, lambda p: 2 * p, np.ones(3), progress=True)
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError):
        fastgc.check_gradients(lambda p: 1 / 0, lambda p: 2 * p, np.ones(3), progress=True)
    assert threading.active_count() == before and bars[1].closed


def test_no_time_is_left_below_zero(clock: Clock, bars: list[Bar]) -> None:  # noqa: F811
    with Progress(10, shown=True) as bar:
        assert bar.seconds_left == 0
        bar.plan(5.0, 0.0)
        clock.seconds += 2.0
        assert bar.seconds_left == pytest.approx(3.0, abs=1e-3)
        bar.phase(ENTRIES)
        clock.seconds += 30.0  # before the first entry workers start
        bar.advance(1)
        for _ in range(4):
            clock.seconds += 1.0
            bar.advance(1)
        assert bar.seconds_left == pytest.approx(5.0, abs=1e-3)
        clock.seconds += 60.0
        assert bar.seconds_left == 0


@pytest.mark.parametrize("shown", [True, False])
def test_inside_another_bar_it_is_gone_when_it_is_done(shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda number: shown)
    text = io.StringIO()

    class Kept(tqdm.std.tqdm):  # type: ignore[misc]
        made: list[Any] = []  # noqa: RUF012

        def __init__(self, **options: Any) -> None:
            super().__init__(file=text, **options)
            self.made.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Kept)
    with Kept(total=2) as outer:
        for _ in range(2):
            fastgc.check_gradients(square, lambda p: 2 * p, np.ones(3), progress=True)
            outer.update()
    fastgc.check_gradients(square, lambda p: 2 * p, np.ones(3), progress=True)
    assert [bar.leave for bar in Kept.made] == ([True, False, False, True] if shown else [True] * 4)


# --- notebooks ---


def test_the_widget_of_a_notebook_grows_with_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    class Notebook(Bar):
        __module__ = "tqdm.notebook"
        pos = -1

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            widgets = [SimpleNamespace(), SimpleNamespace(max=options["total"]), SimpleNamespace()]
            self.container = SimpleNamespace(children=widgets)

    Notebook.made = []
    monkeypatch.setattr(tqdm.auto, "tqdm", Notebook)
    before = threading.active_count()
    fastgc.check_jacobian(outputs, partial(jacobian, wrong=100), np.ones(200), progress=True)
    (bar,) = Notebook.made
    assert bar.container.children[1].max == bar.total == bar.n > 200  # type: ignore[attr-defined]
    assert bar.leave is False  # type: ignore[attr-defined]  # inside another one
    assert threading.active_count() == before


def test_a_real_notebook_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")
    from tqdm.notebook import tqdm_notebook

    made: list[Any] = []

    class Kept(tqdm_notebook):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(display=False, **options)
            made.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Kept)
    with Kept(total=1):
        fastgc.check_jacobian(outputs, partial(jacobian, wrong=100), np.ones(200), progress=True)
    fastgc.check_jacobian(outputs, partial(jacobian, wrong=100), np.ones(200), progress=True)
    for bar, kept in zip(made[1:], (False, True), strict=True):
        widget = bar.container.children[1]
        assert widget.max == widget.value == 400
        assert bar.leave is kept
        assert widget.bar_style == ("success" if kept else "")
