"""Time budgets of Jacobians: what they leave out, what a report says once they are over; and workers."""

from __future__ import annotations

import re
from typing import Any

import numba
import numpy as np
import pytest

import fastgc
from tests.support.clock import Clock
from tests.support.jacobians import Floats

MATRIX = np.random.default_rng(0).normal(size=(4, 60)) / 8
X = np.linspace(0.5, 1.5, 60)


def jacobian(x: Floats) -> Any:
    return np.cos(MATRIX @ x)[:, None] * MATRIX


@pytest.fixture
def slow(clock: Clock) -> Any:
    """The function, at a tenth of a second."""

    def f(x: Floats) -> Any:
        clock.seconds += 0.1
        return np.sin(MATRIX @ x)

    return f


@pytest.mark.parametrize("step", [None, 1e-5])
def test_a_budget_without_an_entry_says_what_would_fit(slow: Any, step: float | None) -> None:
    report = fastgc.check_jacobian(slow, jacobian, X, step=step, time_budget=0.05)
    assert report.checked == 0 and report.verdict == "undecided"
    (note,) = [note for note in report.notes if note.startswith("time_budget=0.05 was over before an entry")]
    assert "a call of f takes 0.1 s; in about" in note
    few = float(note.split("in about ")[1].split(" s ")[0])
    assert few == (2.6 if step is None else 0.6)
    assert fastgc.check_jacobian(slow, jacobian, X, step=step, time_budget=1.1 * few).checked >= 4
    whole = float(note.split(", and in ")[1].split(" s ")[0])
    assert fastgc.check_jacobian(slow, jacobian, X, step=step, time_budget=1.2 * whole).passed


def test_a_budget_that_is_over_says_how_long_the_whole_takes(slow: Any) -> None:
    report = fastgc.check_jacobian(slow, jacobian, X, time_budget=8.0)
    assert 0 < report.checked < 240
    assert "time_budget was over; at this pace the whole check takes about 26 s" in report.notes
    assert not [note for note in fastgc.check_jacobian(slow, jacobian, X).notes if "time_budget" in note]


@pytest.mark.parametrize(
    ("seconds", "budget", "calls"), [(1.0, 0.01, 1), (1.0, 0.99, 1), (0.1, 0.35, 4), (0.1, 5.0, 50)]
)
def test_no_evaluation_begins_after_the_end(clock: Clock, seconds: float, budget: float, calls: int) -> None:
    made = 0

    def f(x: Floats) -> Any:
        nonlocal made
        made += 1
        clock.seconds += seconds
        return np.sin(MATRIX @ x)

    fastgc.check_jacobian(f, jacobian, X, time_budget=budget)
    assert abs(made - calls) <= 1


def test_compilation_is_told_and_takes_no_time_of_the_budget() -> None:
    @numba.njit
    def f(x: Floats) -> Any:
        return np.sin(x) * x

    def df(x: Floats) -> Any:
        return np.diag(np.cos(x) * x + np.sin(x))

    report = fastgc.check_jacobian(f, df, X, time_budget=60.0)
    assert report.passed
    assert any(re.fullmatch(r"compiled in [\d.e+]+ s, which time_budget leaves out", note) for note in report.notes)
    again = fastgc.check_jacobian(f, df, X, time_budget=60.0)
    assert not any("compiled in" in note for note in again.notes)


# --- the same to the bit, whoever does the work ---


FEW = X[:15]


def sines(x: Floats) -> Any:
    return np.sin(MATRIX[:, : x.size] @ x)


def slopes(x: Floats) -> Any:
    return np.cos(MATRIX[:, : x.size] @ x)[:, None] * MATRIX[:, : x.size]


def wrong(x: Floats) -> Any:
    return slopes(x) * 1.01


def spread(x: Floats) -> float:
    return float(np.sin(x) @ np.cos(MATRIX[0] + x))


def gradient(x: Floats) -> Any:
    return np.cos(x) * np.cos(MATRIX[0] + x) - np.sin(x) * np.sin(MATRIX[0] + x)


@pytest.mark.parametrize(
    "options",
    [{}, {"points": 2, "columns": 5}, {"step": 1e-4}, {"bounds": {"x": (0.5, 1.5)}}],
    ids=["ladders", "points and probes", "step", "bounds"],
)
def test_jacobians_are_the_same_with_workers(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgc._evaluation.pieces._WORTHWHILE", 0.0)
    for given in (slopes, wrong):
        alone, shared = (fastgc.check_jacobian(sines, given, FEW, workers=workers, **options) for workers in (1, 2))
        same = {"seconds": 0, "engine": ""}
        assert alone.to_dict() | same == shared.to_dict() | same
        assert shared.engine == "python (2 processes)"


@pytest.mark.parametrize(
    "options",
    [
        {"samples": "all"},
        {"samples": 5, "points": 3},
        {"samples": 0, "probes": 4},
        {"samples": "all", "step": 1e-4},
        {"samples": 9, "stencil": "complex_step"},
    ],
    ids=["all", "points", "probes", "ladders", "complex"],
)
@pytest.mark.parametrize("share", [0, 1, 60], ids=["right", "one wrong", "all wrong"])
def test_gradients_are_the_same_with_workers(
    options: dict[str, Any], share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgc._evaluation.pieces._WORTHWHILE", 0.0)

    def given(x: Floats) -> Any:
        return gradient(x) * np.where(np.arange(x.size) < share, 1.5, 1)

    alone, shared = (
        fastgc.check_gradients(analytic if options.get("stencil") else spread, given, X, workers=workers, **options)
        for workers in (1, 2)
    )
    assert alone.to_dict()["tensors"] == shared.to_dict()["tensors"]
    assert shared.engine == "python (2 processes)"


def analytic(x: Any) -> Any:
    return np.sum(np.sin(x) * np.cos(MATRIX[0] + x))


def test_the_function_of_a_hessian_is_called_by_workers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    check = fastgc.check_gradients

    def noted(*args: Any, **given: Any) -> Any:
        asked.append(given)
        return check(*args, **given)

    monkeypatch.setattr("fastgc._jacobian.hessian.check_gradients", noted)
    x = np.linspace(1, 2, 5)
    cubes = (lambda x: float(np.sum(x**3)), lambda x: 3 * x**2, lambda x: np.diag(6 * x))
    alone, shared = (fastgc.check_hessian(*cubes, x, workers=workers) for workers in (1, 2))
    same = {"seconds": 0, "engine": "", "evaluations": 0}  # a comparison of the loss in a worker takes two
    assert alone.to_dict() | same == shared.to_dict() | same
    assert [each["workers"] for each in asked] == [1, 2]
