"""The numbers of a tensor follow from its entries, and the report's verdict from its tensors."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

import fastgc

Tensors = dict[str, np.ndarray]


def check(factors: Any, size: int = 12, **options: Any) -> Any:
    """Check half the squares of a vector, its gradient wrong by these factors."""
    x = np.random.default_rng(0).uniform(1, 2, size)
    return fastgc.check_gradients(lambda p: 0.5 * float(p @ p), factors * x, x, **({"samples": "all"} | options))


def summary(factors: Any, **options: Any) -> Any:
    return check(factors, **options).tensors["params"]


def columns(entries: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.array([entry.analytic for entry in entries]), np.array([entry.numerical for entry in entries])


WRONG = 1 + np.array([0, 0.5, 0, 1e-3, 0, -0.2, 0, 0, 1e-9, 0, 0, 3])


@pytest.mark.parametrize("factors", [1.0, 2.0, WRONG], ids=["right", "doubled", "some"])
@pytest.mark.parametrize("step", [None, 1e-5])
def test_errors_are_those_of_the_entries_shown(factors: Any, step: float | None) -> None:
    found = summary(factors, step=step)
    a, n = columns(found.entries)
    assert found.max_relative_error == fastgc.max_relative_error(a, n)
    assert found.relative_error == fastgc.relative_error(a, n)
    assert found.max_absolute_error == np.abs(a - n).max()
    assert [entry.relative_error for entry in found.entries] == [
        fastgc.max_relative_error(x, y) for x, y in zip(a, n, strict=True)
    ]


def test_both_errors_are_of_the_checked_entries_only() -> None:
    found = summary(np.where(np.arange(500) == 250, 9, 1.0), size=500, samples=10)
    assert found.checked == len(found.entries) == 10
    assert found.size == 500
    assert (250,) not in [entry.index for entry in found.entries] or found.verdict == "fail"
    a, n = columns(found.entries)
    assert found.relative_error == fastgc.relative_error(a, n)


def test_wrong_entries_are_those_that_failed_worst_first() -> None:
    found = summary(WRONG)
    failed = [entry for entry in found.entries if entry.verdict == "fail"]
    assert [entry.index[0] for entry in found.wrong_entries] == [11, 1, 5, 3]
    assert sorted(found.wrong_entries, key=lambda entry: entry.index) == failed
    assert found.worst == found.wrong_entries[0]
    assert found.reason.startswith("4 of 12 ")


def test_an_entry_that_is_not_finite_is_the_worst_of_all() -> None:
    found = summary(np.where(np.arange(12) == 4, np.nan, WRONG))
    assert found.worst.index == (4,)
    assert found.wrong_entries[0].index == (4,)
    assert np.isnan(found.max_relative_error)
    assert np.isnan(found.max_absolute_error)
    assert np.isnan(found.relative_error)


def test_the_worst_entry_is_so_relative_to_what_was_allowed() -> None:
    """An error of 1e-3 of a large entry is worse than one of 1e-6 of a small one, though both fail."""
    slopes = np.array([1e6, 1.0, 1e-3])
    wrong = slopes * np.array([1 + 2e-5, 1.5, 1])
    found = fastgc.check_gradients(lambda p: float(p @ slopes), wrong, np.ones(3)).tensors["params"]
    assert [entry.verdict for entry in found.entries][:1] == ["fail"]
    assert found.max_absolute_error > 10
    allowed = 1e-5 * np.maximum(slopes, wrong) + 1e-3 * 1e-5 * np.sqrt(np.mean(slopes**2))
    assert found.worst.index == (int(np.argmax(np.abs(wrong - slopes) / allowed)),)


def test_tensors_keep_the_order_of_the_parameters() -> None:
    names = ["z", "a", "m.n", "B", "0"]
    params = {name: np.ones(2) for name in names}
    report = fastgc.check_gradients(lambda p: float(sum(v @ v for v in p.values())), lambda p: {
        name: 2 * v for name, v in p.items()}, params)  # fmt: skip
    assert list(report.tensors) == names
    assert all(name == tensor.name for name, tensor in report.tensors.items())


def test_nested_names_are_joined() -> None:
    params = {"layer": {"w": np.ones((2, 2)), "b": [np.ones(1), np.ones(3)]}, "s": np.ones(())}
    report = fastgc.check_gradients(
        lambda p: float(p["layer"]["w"].sum() + p["layer"]["b"][1].sum() + 2 * p["s"]),
        {"layer": {"w": np.ones((2, 2)), "b": [np.zeros(1), np.ones(3)]}, "s": np.array(2.0)},
        params,
    )
    assert list(report.tensors) == ["layer.w", "layer.b.0", "layer.b.1", "s"]
    assert [tensor.shape for tensor in report.tensors.values()] == [(2, 2), (1,), (3,), ()]
    assert report.passed


def test_the_report_fails_if_a_tensor_does_and_is_open_if_one_is() -> None:
    x = {"a": np.ones(3), "b": np.ones(3), "c": np.ones(())}

    def loss(p: Tensors) -> float:
        return float(p["a"].sum() + p["b"].sum() + 20 * np.floor(20 * p["c"]))

    right = {"a": np.ones(3), "b": np.ones(3), "c": np.array(400.0)}
    undecided = fastgc.check_gradients(loss, right, x)
    failed = fastgc.check_gradients(loss, right | {"b": -np.ones(3)}, x)
    passed = fastgc.check_gradients(loss, right, x, tensors=["a", "b"])
    assert [report.verdict for report in (passed, undecided, failed)] == ["pass", "undecided", "fail"]
    assert [report.passed for report in (passed, undecided, failed)] == [True, False, False]
    assert undecided.tensors["c"].reason


def test_what_was_left_out_is_said() -> None:
    x = {"a": np.ones(3), "b": np.ones(3), "c": np.ones(2)}
    report = fastgc.check_gradients(
        lambda p: float(sum(v.sum() for v in p.values())), {k: np.ones_like(v) for k, v in x.items()}, x, tensors="a"
    )
    assert list(report.tensors) == ["a"]
    assert any("'b', 'c'" in note for note in report.notes)


@pytest.mark.parametrize(
    ("loss", "responds"),
    [
        (lambda p: float(p @ p), True),
        (lambda p: float(np.sum(np.cosh(p))), True),
        (lambda p: 3.0, False),
        (lambda p: float(np.floor(p[0] / 1e9 + 0.5)), False),
    ],
)
def test_a_loss_is_said_not_to_respond_only_if_it_does_not(loss: Any, responds: bool) -> None:
    """An even function has quotients of exactly 0 at the origin, and responds all the same."""
    report = fastgc.check_gradients(loss, np.zeros(5), np.zeros(5))
    assert any("did not respond" in note for note in report.notes) is not responds
    assert report.verdict != "fail"


def test_a_finite_difference_in_place_of_a_gradient_is_noticed() -> None:
    def loss(p: np.ndarray) -> float:
        return float(np.sum(np.exp(p)))

    x = np.linspace(0.1, 1, 8)
    same = fastgc.check_gradients(loss, lambda p: fastgc.numerical_gradient(loss, p, 1e-4), x, step=1e-4)
    assert any("finite difference" in note for note in same.notes)
    assert not any("finite difference" in note for note in fastgc.check_gradients(loss, np.exp, x, step=1e-4).notes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_quotients_are_exact_a_gradient_that_is_too_is_not_suspected(dtype: Any) -> None:
    """Of a quadratic function: nothing separates its gradient from its central differences."""
    x = np.full(8, 1.5, dtype)
    report = fastgc.check_gradients(lambda p: float(np.sum(p.astype(float) ** 2)), lambda p: 2 * p, x, in_place=True)
    assert report.verdict == "pass"
    assert not any("finite difference" in note for note in report.notes)


# --- sensitivity ---


def test_an_error_beyond_the_sensitivity_fails_and_one_far_below_does_not() -> None:
    base = check(1.0)
    limit = base.sensitivity["params"]
    assert 0 < limit.median <= limit.largest
    slopes = np.array([entry.analytic for entry in base.tensors["params"].entries])
    for i in range(slopes.size):
        moved = slopes.copy()
        moved[i] += 1.2 * limit.largest
        assert check(moved / slopes).verdict == "fail"
        moved[i] = slopes[i] + 0.05 * limit.median
        assert check(moved / slopes).verdict == "pass"


def test_sensitivity_is_by_tensor_and_grows_with_noise() -> None:
    x = np.random.default_rng(0).uniform(1, 2, 10)
    plain = fastgc.check_gradients(lambda p: float(p @ p), 2 * x, x)
    noisy = fastgc.check_gradients(lambda p: float(p @ p) + 1e9, 2 * x, x)
    assert list(plain.sensitivity) == ["params"]
    assert plain.sensitivity["params"] == plain.tensors["params"].sensitivity
    assert noisy.sensitivity["params"].median > plain.sensitivity["params"].median


def test_sensitivity_follows_the_tolerance() -> None:
    loose, tight = check(1.0, rtol=1e-2), check(1.0, rtol=1e-4)
    assert loose.sensitivity["params"].largest == pytest.approx(100 * tight.sensitivity["params"].largest, rel=0.05)


# --- several points ---


def test_the_summary_is_of_all_points_and_entries_say_which() -> None:
    x = np.random.default_rng(0).normal(size=6)
    right = fastgc.check_gradients(lambda p: float(np.sum(p**4)), lambda p: 4 * p**3, x, points=3, samples=4)
    found = right.tensors["params"]
    assert [entry.point for entry in found.entries] == [0] * 4 + [1] * 4 + [2] * 4
    assert found.checked == len({entry.index for entry in found.entries}) <= found.size
    assert right.passed

    def wrong_for_negative(p: np.ndarray) -> np.ndarray:
        return np.where(p < 0, -4 * p**3, 4 * p**3)

    report = fastgc.check_gradients(lambda p: float(np.sum(p**4)), wrong_for_negative, np.ones(6), points=12)
    assert report.verdict == "fail"
    assert report.tensors["params"].worst.point > 0
    assert f"at point {report.tensors['params'].worst.point}" in str(report)
    assert all(entry.point > 0 for entry in report.tensors["params"].wrong_entries)


# --- the whole ---


def test_evaluations_are_counted_exactly() -> None:
    calls = 0

    def loss(p: np.ndarray) -> float:
        nonlocal calls
        calls += 1
        return float(np.sum(np.sin(p)))

    x = np.random.default_rng(0).normal(size=40)
    report = fastgc.check_gradients(loss, np.cos(x), x, samples="all")
    assert report.evaluations == calls


def test_seconds_are_the_wall_clock() -> None:
    assert 0 < check(1.0).seconds < 60


def test_seed_and_engine_are_told() -> None:
    report = check(1.0, seed=11)
    assert (report.seed, report.engine) == (11, "python")
    compiled = check(1.0, engine="numba", threads=1)
    assert compiled.engine == "numba (1 thread)"


def test_the_result_does_not_depend_on_the_threads() -> None:
    loss, x = numba.njit(lambda p: 0.5 * np.dot(p, p)), np.random.default_rng(0).uniform(1, 2, 12)
    options: dict[str, Any] = {"samples": "all", "engine": "numba"}
    reports = [fastgc.check_gradients(loss, WRONG * x, x, threads=n, **options).to_dict() for n in (1, 2, 5)]
    for report in reports:
        del report["seconds"], report["engine"]
    assert reports[0] == reports[1] == reports[2]
