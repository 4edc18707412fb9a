"""What is plainly wrong climbs no ladder, and no right gradient is taken for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

import fastgc

Array: TypeAlias = np.ndarray[Any, Any]
N = 40
SIGNS = np.where(np.arange(N) % 3 == 1, -1.0, 1.0)


def relu(x: Array) -> Any:
    return np.maximum(x, 0.0)


def check(f: Callable[[Array], Any], g: Callable[[Array], Any], x: Array, **options: Any) -> Any:
    return fastgc.check_gradients(
        lambda w: np.sum(f(w)), lambda w: g(w) * np.ones(w.size), x, samples="all", crosscheck=False, **options
    )


def smooth(x: Array) -> Any:
    return x * np.sin(x)


def slope(x: Array) -> Any:
    return np.sin(x) + x * np.cos(x)


@pytest.mark.parametrize("samples", [32, "all"])
@pytest.mark.parametrize("size", [100, 1000])
def test_a_wholly_wrong_tensor_takes_half_as_many_evaluations_again(samples: Any, size: int) -> None:
    params = {"w": np.random.default_rng(1).standard_normal(size)}
    right, wrong = (
        fastgc.check_gradients(
            lambda p: float(np.sum(smooth(p["w"]))), lambda p, k=k: {"w": k * slope(p["w"])}, params, samples=samples
        )
        for k in (1.0, 2.0)
    )
    tensor = wrong.tensors["w"]
    assert (right.verdict, wrong.verdict) == ("pass", "fail")
    assert wrong.evaluations <= 1.5 * right.evaluations
    assert len(tensor.wrong_entries) == tensor.checked
    assert tensor.diagnosis is not None and tensor.diagnosis.kind == "factor"
    assert tensor.ladder is not None


@pytest.mark.parametrize(
    "options",
    [{}, {"step": 1e-5}, {"step": 1e-3}, {"stencil": "five_point"}, {"stencil": "forward"}, {"in_place": True}],
)
@pytest.mark.parametrize("times", [-1.0, 2.0, np.nan, np.inf])
def test_whatever_is_plainly_wrong_takes_half_as_many_evaluations_again(options: Any, times: float) -> None:
    x = np.random.default_rng(1).standard_normal(1000)
    right, wrong = (check(smooth, lambda w, k=k: k * slope(w), x, **options) for k in (1.0, times))
    assert (right.verdict, wrong.verdict) == ("pass", "fail")
    assert wrong.evaluations <= 1.5 * right.evaluations
    assert len(wrong.tensors["params"].wrong_entries) == x.size


def test_a_complex_step_takes_at_most_twice_its_evaluations() -> None:
    """One for each entry, and half of one for the small displacements of what is plainly wrong."""
    x = np.random.default_rng(1).standard_normal(1000)
    right, wrong = (check(smooth, lambda w, k=k: k * slope(w), x, stencil="complex_step") for k in (1.0, 2.0))
    assert (right.verdict, wrong.verdict) == ("pass", "fail")
    assert wrong.evaluations <= 2 * right.evaluations


@pytest.mark.parametrize(
    "options", [{}, {"stencil": "forward"}, {"stencil": "complex_step"}, {"step": 1e-4}, {"step": 1e-2}]
)
def test_numerical_values_of_wrong_entries_are_within_their_uncertainties(options: Any) -> None:
    x = np.random.default_rng(2).standard_normal(N)
    entries = check(smooth, lambda w: slope(w) + SIGNS, x, **options).tensors["params"].entries
    assert set(entries.columns["verdict"]) == {"fail"}
    error = np.abs(entries.columns["numerical"] - slope(x)[entries.local])
    assert (error <= 3 * entries.columns["uncertainty"] + 1e-14).all()


@pytest.mark.parametrize("down", [1.0, 1.9, 1.999, 2 - 1e-6, 2 - 1e-8])
def test_a_convention_at_a_kink_that_is_small_beside_the_slopes_is_no_failure(down: float) -> None:
    def gradient(w: Array) -> Array:
        return np.where(w > 0, 2.0, 0.0) + np.where(w < 0, down, 0.0)

    assert check(lambda w: 2 * relu(w) - down * relu(-w), gradient, np.zeros(N)).verdict != "fail"


@pytest.mark.parametrize(("away", "signs"), [(10.0**-k, SIGNS if k % 2 else 1.0) for k in range(5, 13)])
def test_kinks_on_both_sides_and_near_the_point_are_no_failure(away: float, signs: Any) -> None:
    def loss(w: Array) -> Any:
        return w + signs * 2.0 * (relu(w - 1 - away) - relu(1 - away - w))

    def gradient(w: Array) -> Any:
        return 1.0 + signs * 2.0 * (np.abs(w - 1) > away)

    assert check(loss, gradient, np.ones(N)).verdict != "fail"


@pytest.mark.parametrize("seed", range(10))
def test_kinks_at_many_distances_do_not_cancel(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, gap = generator.standard_normal(12) + 2, 10.0 ** generator.uniform(-3, 0, 12) * generator.choice([-1, 1], 12)
    away = 10.0 ** generator.uniform(-9, -7, 12)

    def loss(w: Array) -> Any:
        return w + gap * (relu(w - x - away) - relu(x - away - w))

    def gradient(w: Array) -> Any:
        return 1.0 + gap * (np.abs(w - x) > away)

    assert check(loss, gradient, x).verdict != "fail"


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_any_value_between_the_slopes_of_a_kink_is_no_failure(value: float) -> None:
    report = check(lambda w: relu(w - 1.0), lambda w: np.where(w > 1, 1.0, np.where(w < 1, 0.0, value)), np.ones(N))
    assert report.verdict == "pass", str(report)


@pytest.mark.parametrize("height", [1e-9, 1e-6, 1.0])
def test_a_jump_at_the_point_is_no_failure(height: float) -> None:
    assert check(lambda w: w + height * (w > 1), lambda w: 1.0, np.ones(N)).verdict != "fail"


def test_a_loss_that_rounds_its_parameters_is_measured_by_ladders() -> None:
    x = np.linspace(0.5, 1.5, N)

    def rounding(w: Array) -> Any:
        return smooth(w.astype(np.float32).astype(np.float64))

    assert check(rounding, slope, x).verdict != "fail"
    assert check(rounding, lambda w: 1.5 * slope(w), x).verdict == "fail"


def test_bounds_are_kept() -> None:
    def loss(w: Array) -> Any:
        assert (w >= 0.5).all()
        return smooth(w)

    x = np.linspace(0.5, 1.5, N)
    report = check(loss, lambda w: 2 * slope(w), x, bounds={"*": (0.5, None)})
    assert report.verdict == "fail" and len(report.tensors["params"].wrong_entries) == N


@pytest.mark.parametrize("count", [1, 3, 10])
@pytest.mark.parametrize(("size", "samples"), [(20, "all"), (100, 32), (100, "all"), (1000, 32)])
@pytest.mark.parametrize("kind", ["factor", "sign", "random", "order", "zero", "huge", "nan"])
def test_tensors_that_are_all_wrong_take_half_as_many_evaluations_again(
    kind: str, size: int, samples: Any, count: int
) -> None:
    rng = np.random.default_rng(1)
    params = {f"w{i}": rng.standard_normal(size) for i in range(count)}
    errors = {
        "factor": lambda g: 2 * g,
        "sign": lambda g: -g,
        "random": lambda g: g + rng.standard_normal(size),
        "order": lambda g: g[::-1].copy(),
        "zero": lambda g: 0 * g,
        "huge": lambda g: 1e12 * g,
        "nan": lambda g: np.nan * g,
    }

    def loss(p: dict[str, Array]) -> float:
        return float(sum(np.sum(smooth(w)) for w in p.values()))

    right, wrong = (
        fastgc.check_gradients(loss, lambda p, f=f: {k: f(slope(w)) for k, w in p.items()}, params, samples=samples)
        for f in (lambda g: g, errors[kind])
    )
    assert (right.verdict, wrong.verdict) == ("pass", "fail")
    assert wrong.evaluations <= 1.5 * right.evaluations
    if kind != "nan":
        assert any(tensor.ladder for tensor in wrong.tensors.values())
        names = {"factor": "factor", "sign": "sign", "order": "permutation", "zero": "zero", "huge": "factor"}
        assert {t.diagnosis and t.diagnosis.kind for t in wrong.tensors.values()} == {names.get(kind, "unstructured")}
