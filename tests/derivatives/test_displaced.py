"""Kinks of both signs at one point: the usual convention of each gives a value outside both slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

import fastgc
from fastgc._derivatives.displaced import DISTANCE, displaced_estimates, displaced_leaves, displacement
from fastgc._derivatives.loss_at_point import unmeasured_loss
from fastgc._evaluation.python import PythonEvaluator
from fastgc._parameters.layout import flatten_parameters

Array = np.ndarray
CONVENTION = "kink: a convention, right beside it"


def relu(w: Array) -> Array:
    return np.maximum(w, 0.0)


def step(w: Array) -> Array:
    """The conventional derivative of a rectifier: 0 at 0."""
    return (w > 0).astype(w.dtype)


# A loss of each entry, and its derivative by the conventions. At 0 it lies outside the slopes of both sides.
SUMS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "slopes 1 and 2": (lambda w: 2 * relu(w) - relu(-w), lambda w: 2 * step(w) + step(-w)),
    "slopes -3 and -1": (lambda w: 3 * relu(-w) - relu(w), lambda w: -3 * step(-w) - step(w)),
    "leaky minus absolute": (
        lambda w: 0.1 * w + 0.9 * relu(w) - 3 * np.abs(w) + 5 * relu(w) - 5 * relu(-w),
        lambda w: 0.1 + 0.9 * step(w) - 3 * np.sign(w) + 5 * step(w) + 5 * step(-w),
    ),
    "with a smooth part": (
        lambda w: np.sin(w) + 2 * relu(w) - relu(-w) + w**2,
        lambda w: np.cos(w) + 2 * step(w) + step(-w) + 2 * w,
    ),
}
START = {"a": np.zeros(4), "b": np.array([0.5, 0.0, -0.3])}


def loss_of(f: Callable[[Array], Array]) -> Callable[[Any], float]:
    return lambda p: float(sum(f(each).sum() for each in p.values()))


def gradients_of(g: Callable[[Array], Array]) -> Callable[[Any], Any]:
    return lambda p: {name: g(each) for name, each in p.items()}


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"precision": "native"}, {"points": 2}])
def test_a_conventional_value_passes_with_its_reason(name: str, options: dict[str, Any]) -> None:
    f, g = SUMS[name]
    report = fastgc.check_gradients(loss_of(f), gradients_of(g), START, **options)
    assert report.passed, str(report)
    at_point = [each for each in report.tensors["a"].entries if each.point == 0]
    assert {each.reason for each in at_point} == {CONVENTION}
    assert f"{CONVENTION}, at 4 of" in report.tensors["a"].reason


@pytest.mark.parametrize("name", SUMS)
def test_an_array_is_undecided_and_the_reason_says_what_to_pass(name: str) -> None:
    f, g = SUMS[name]
    report = fastgc.check_gradients(loss_of(f), gradients_of(g)(START), START)
    assert report.verdict == "undecided", str(report)
    assert "outside both slopes" in report.tensors["a"].reason
    assert "pass a function to decide" in report.tensors["a"].reason


WRONG: dict[str, Callable[[Callable[[Array], Array], Array], Array]] = {
    "by a factor": lambda g, w: 1.5 * g(w) + 30 * (w == 0),
    "to the right": lambda g, w: np.where(w > 0, g(w) + 1, np.where(w == 0, 30, g(w))),
    "to the left": lambda g, w: np.where(w < 0, 0.9 * g(w), np.where(w == 0, 30, g(w))),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", SUMS)
def test_what_is_wrong_beside_the_kink_fails(name: str, wrong: str) -> None:
    f, g = SUMS[name]
    report = fastgc.check_gradients(loss_of(f), gradients_of(lambda w: WRONG[wrong](g, w)), START)
    assert report.tensors["a"].verdict == "fail", str(report)


def test_a_tensor_of_zeros_is_covered_by_probes_and_passes() -> None:
    f, g = SUMS["slopes 1 and 2"]
    zeros = {"w": np.zeros((8, 5))}
    report = fastgc.check_gradients(loss_of(f), gradients_of(g), zeros)
    assert report.passed, str(report)

    def wrong(p: Any) -> Any:
        found = g(p["w"])
        found[7, 3] += 4.0
        return {"w": found}

    assert fastgc.check_gradients(loss_of(f), wrong, zeros, samples="all").verdict == "fail"


def test_a_gradient_that_cannot_be_had_beside_the_kink_is_undecided() -> None:
    def picky(p: Any) -> Any:
        if np.any(p["w"]):
            raise ValueError("only at zero")
        return {"w": np.zeros(3)}

    report = fastgc.check_gradients(loss_of(SUMS["slopes 1 and 2"][0]), picky, {"w": np.zeros(3)})
    assert report.verdict == "undecided" and "undecided beside it" in report.tensors["w"].reason


def test_a_loss_that_returns_its_gradient_and_a_jitted_one() -> None:
    f, g = SUMS["slopes 1 and 2"]
    assert fastgc.check_gradients(lambda p: (loss_of(f)(p), gradients_of(g)(p)), True, START).passed

    @numba.njit
    def jitted(w: Array) -> float:
        return (2 * np.maximum(w, 0.0) - np.maximum(-w, 0.0)).sum()

    report = fastgc.check_gradients(jitted, g, np.zeros(3), engine="numba")
    assert report.passed and report.engine.startswith("numba"), str(report)


def test_a_convention_passes_where_the_first_displaced_points_meet_further_kinks() -> None:
    """Kinks at the usual distance from zeros, 2**-7, are behind the next point."""

    def loss(w: Array) -> float:
        return float(np.sum(2 * relu(w) - relu(-w) + 3 * np.abs(w - DISTANCE) + 3 * np.abs(w + DISTANCE)))

    def gradient(w: Array) -> Array:
        return 2 * step(w) + step(-w) + 3 * np.sign(w - DISTANCE) + 3 * np.sign(w + DISTANCE)

    report = fastgc.check_gradients(loss, gradient, np.zeros(3))
    assert report.passed, str(report)
    assert CONVENTION in report.tensors["params"].reason
    assert not fastgc.check_gradients(loss, lambda w: gradient(w) + 0.1 * (w != 0), np.zeros(3)).passed


# --- slopes at the displaced point ---


def test_slopes_at_the_displaced_point_are_those_of_the_loss_there() -> None:
    params = {"u": np.array([[0.7, -1.2], [0.1, 2.0]]), "v": np.array([3.0, 0.0, 1e-3])}
    layout, leaves = flatten_parameters(params)

    def loss(p: Any) -> float:
        return float(np.sin(p["u"]).sum() + (p["v"] ** 3).sum() + p["u"].sum() * p["v"].sum())

    copies = [leaf.copy() for leaf in leaves]
    evaluator = PythonEvaluator(loss, dict(zip(params, copies, strict=True)), (), layout, copies, None)
    point = unmeasured_loss(evaluator, layout, leaves, loss(params))
    for side, attempt in ((1.0, 0), (-1.0, 0), (1.0, 1), (-1.0, 2)):
        rays = displacement(point, side, attempt)
        there = dict(zip(params, displaced_leaves(leaves, rays), strict=True))
        slopes = np.concatenate(
            [(np.cos(there["u"]) + there["v"].sum()).ravel(), 3 * there["v"] ** 2 + there["u"].sum()]
        )
        found = displaced_estimates(point, np.arange(7), rays)
        np.testing.assert_allclose(found.numerical, slopes, rtol=1e-6)
        assert (np.abs(found.numerical - slopes) <= found.uncertainty).all()
        distances = np.abs(there["v"] - params["v"]) / DISTANCE
        np.testing.assert_allclose(distances, point.tensor_scales[1] / 8**attempt, rtol=1e-9)
    assert all(np.array_equal(copy, leaf) for copy, leaf in zip(copies, leaves, strict=True))
