"""The second opinion of SciPy: its own number, on a few entries, beside the norm, and without a vote."""

from __future__ import annotations

import pickle
from typing import Any

import numba
import numpy as np
import pytest
import scipy.optimize

import fastgc
from fastgc._evaluation.python import PythonEvaluator

Tensors = dict[str, np.ndarray]


def loss(params: Tensors) -> float:
    return float(np.sum(np.sin(params["W"])) * np.prod(np.cos(params["b"])))


def gradients(params: Tensors) -> Tensors:
    cosines = np.cos(params["b"])
    return {
        "W": np.cos(params["W"]) * np.prod(cosines),
        "b": -np.sum(np.sin(params["W"])) * np.prod(cosines) * np.tan(params["b"]),
    }


@pytest.fixture
def params() -> Tensors:
    rng = np.random.default_rng(0)
    return {"W": rng.normal(size=(3, 5)), "b": rng.normal(size=4)}


def by_hand(params: Tensors, analytic: Tensors) -> float:
    """SciPy's number for all entries as one flat vector."""
    cut = params["W"].size

    def unpacked(x: np.ndarray) -> Tensors:
        return {"W": x[:cut].reshape(params["W"].shape), "b": x[cut:]}

    return scipy.optimize.check_grad(
        lambda x: loss(unpacked(x)),
        lambda x: np.concatenate([g.ravel() for g in analytic.values()]),
        np.concatenate([p.ravel() for p in params.values()]),
    )


@pytest.mark.parametrize("factor", [1.0, 1.001, -1.0])
def test_the_number_is_that_of_check_grad_called_by_hand(params: Tensors, factor: float) -> None:
    analytic = {name: factor * g for name, g in gradients(params).items()}
    check = fastgc.check_gradients(loss, analytic, params).crosscheck
    assert check.error == by_hand(params, analytic)
    assert check.norm == pytest.approx(np.sqrt(sum((g**2).sum() for g in analytic.values())), rel=1e-14)
    assert check.entries == 19


def test_the_number_is_that_of_the_compiled_loss_too() -> None:
    @numba.njit
    def cubes(x: Any) -> float:
        return np.sum(x**3)

    x = np.random.default_rng(0).normal(size=20)
    check = fastgc.check_gradients(cubes, 3 * x**2, x, engine="numba").crosscheck
    assert check.error == scipy.optimize.check_grad(cubes, lambda x: 3 * x**2, x)


@pytest.mark.parametrize(("size", "entries"), [(1, 1), (31, 31), (32, 32), (33, 32), (2000, 32)])
def test_at_most_32_entries_are_looked_at(size: int, entries: int) -> None:
    x = np.random.default_rng(0).normal(size=size)
    report = fastgc.check_gradients(lambda p: p @ p, 2 * x, x, samples="all")
    without = fastgc.check_gradients(lambda p: p @ p, 2 * x, x, samples="all", crosscheck=False)
    assert report.crosscheck.entries == entries
    assert 0 < report.evaluations - without.evaluations <= 32 + 2


def test_its_entries_are_spread_over_the_tensors() -> None:
    params = {f"w{i}": np.ones(50) for i in range(8)}
    wrong = {name: 2 * p for name, p in params.items()}
    for name in params:
        report = fastgc.check_gradients(
            lambda p: float(sum((v @ v) for v in p.values())), wrong | {name: 3 * params[name]}, params
        )
        assert report.crosscheck.error > 0.5


def test_it_is_shown_beside_the_norm(params: Tensors) -> None:
    report = fastgc.check_gradients(loss, gradients, params)
    shown = f"{report.crosscheck.error:.1e} (gradient norm {report.crosscheck.norm:.1e})"
    assert f"scipy.optimize.check_grad on 19 entries: {shown}" in str(report)


def test_one_entry_is_not_many() -> None:
    report = fastgc.check_gradients(lambda p: float(p) ** 2, np.array(2.0), np.array(1.0))
    assert "scipy.optimize.check_grad on 1 entry: " in str(report)


def test_it_can_be_left_out(params: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> float:
        raise AssertionError("check_grad was called")

    monkeypatch.setattr(scipy.optimize, "check_grad", refuse)
    report = fastgc.check_gradients(loss, gradients, params, crosscheck=False)
    assert report.crosscheck is None
    assert report.verdict == "pass"
    assert "scipy" not in str(report)


@pytest.mark.parametrize("number", [0.0, 1e9, np.nan, np.inf])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.1, "fail")])
def test_it_never_decides(
    params: Tensors, monkeypatch: pytest.MonkeyPatch, factor: float, verdict: str, number: float
) -> None:
    monkeypatch.setattr(scipy.optimize, "check_grad", lambda *args, **options: number)
    report = fastgc.check_gradients(loss, {name: factor * g for name, g in gradients(params).items()}, params)
    assert report.verdict == verdict
    assert report.crosscheck.error == number or np.isnan(number)


def test_it_is_far_off_for_a_large_offset_where_the_verdict_is_not() -> None:
    x = np.random.default_rng(0).normal(size=10)
    report = fastgc.check_gradients(lambda p: p @ p + 1e8, 2 * x, x)
    assert report.crosscheck.error > 0.1
    assert report.verdict == "pass"


def test_shapes_are_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """SciPy itself broadcasts (n, 1) against (n,) without a word."""
    monkeypatch.setattr(scipy.optimize, "check_grad", lambda *args, **options: pytest.fail("called too early"))
    x = np.ones(3)
    with pytest.raises(ValueError, match=r"shape \(3, 1\)"):
        fastgc.check_gradients(lambda p: p @ p, (2 * x)[:, None], x)


def test_without_entries_there_is_nothing_to_say() -> None:
    report = fastgc.check_gradients(lambda p: 1.0, np.empty((0, 3)), np.empty((0, 3)))
    assert report.crosscheck is None


def test_an_edge_of_the_domain_gives_a_number_that_is_not_finite() -> None:
    def capped(p: np.ndarray) -> float:
        return float(np.sqrt(1 - p[0]) + p[1])  # nan to the right of 1 - 1e-12

    x = np.array([1 - 1e-12, 0.5])
    analytic = np.array([-0.5 / np.sqrt(1 - x[0]), 1.0])
    report = fastgc.check_gradients(capped, analytic, x)
    assert np.isnan(report.crosscheck.error)
    assert "check_grad on 2 entries: nan" in str(report)


def test_the_arrays_are_the_callers_own_bits_afterwards(params: Tensors) -> None:
    before = {name: p.tobytes() for name, p in params.items()}
    fastgc.check_gradients(loss, gradients, params, in_place=True)
    assert {name: p.tobytes() for name, p in params.items()} == before


def test_a_loss_that_raises_beside_the_point_does_not_abort_it() -> None:
    """The forward step of SciPy's leads out of the domain, where none of the check's own quotients is lost."""

    def guarded(p: np.ndarray) -> float:
        if p[0] > 1.0:
            raise ValueError("beyond")
        return float(np.sum(np.sin(p)))

    report = fastgc.check_gradients(guarded, np.cos, np.array([1.0, 0.5]))
    assert report.passed
    assert report.crosscheck is not None and np.isnan(report.crosscheck.error)


def test_its_points_are_evaluated_in_one_call(params: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def values(self: PythonEvaluator, positions: Any, displaced: Any, tick: Any) -> Any:
        asked.append(displaced.size)
        return inner(self, positions, displaced, tick)

    inner = PythonEvaluator.values
    monkeypatch.setattr(PythonEvaluator, "values", values)
    report = fastgc.check_gradients(loss, gradients, params)
    assert report.crosscheck is not None
    assert asked[-1] == report.crosscheck.entries + 1


@pytest.mark.parametrize("x", [[0.0, -0.0], [1e9, -1e9, 1.0], [1e-300, -3.0], [2.0**27, 2.0**26, -(2.0**26)]])
def test_the_points_are_those_that_scipy_asks_for(x: list[float]) -> None:
    """Also where rounding swallows its step, so that it takes another one."""
    start = np.array(x)
    report = fastgc.check_gradients(lambda p: float(np.sum(np.sin(p))), np.cos, start, samples="all")
    by_hand = scipy.optimize.check_grad(lambda p: float(np.sum(np.sin(p))), np.cos, start)
    assert report.crosscheck.error == by_hand


def test_scipy_is_asked_when_its_number_is(params: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    inner = scipy.optimize.check_grad
    monkeypatch.setattr(scipy.optimize, "check_grad", lambda *args: asked.append(args) or inner(*args))
    report = fastgc.check_gradients(loss, gradients, params)
    assert report.crosscheck.entries == 19 and not asked
    assert report.crosscheck.error == pickle.loads(pickle.dumps(report)).crosscheck.error == report.crosscheck.error
    assert len(asked) == 1


def test_other_points_than_those_measured_give_no_number(params: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(f: Any, gradient: Any, x: Any) -> float:
        return float(f(x) + f(x + 1e-3))

    monkeypatch.setattr(scipy.optimize, "check_grad", elsewhere)
    assert np.isnan(fastgc.check_gradients(loss, gradients, params).crosscheck.error)
