"""Kinks that round-off hides: a right gradient does not fail there, and a wrong one does, with a remark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastgc
from fastgc._derivatives.displaced import along_axes, displaced_leaves
from fastgc._derivatives.loss_at_point import unmeasured_loss
from fastgc._evaluation.python import PythonEvaluator
from fastgc._parameters.bounds import Bounds
from fastgc._parameters.layout import flatten_parameters

Array = NDArray[Any]
X = np.array([0.7, -1.3, 0.2])
OFFSET = 1e6  # its round-off, 1e-10, hides what kinks at 1e-10 change: half of that
NEAR = 1e-10
HIDDEN = "kinks so near that round-off hides them, though not from the analytic gradient"


def kinked(change: float = 0.5, near: float = NEAR) -> tuple[Callable[[Array], float], Callable[[Array], Array]]:
    """A loss whose slope is larger by ``change`` on both sides, beyond ``near``; and its gradient."""

    def loss(p: Array) -> float:
        beyond = np.maximum(p - X - near, 0) - np.maximum(X - near - p, 0)
        return float(OFFSET + np.sum(np.sin(p) + change * beyond))

    return loss, lambda p: np.cos(p) + change * (np.abs(p - X) > near)


def smooth(offset: float = OFFSET) -> tuple[Callable[[Array], float], Callable[[Array], Array]]:
    return lambda p: float(offset + np.sum(np.sin(p))), np.cos


def verdict(loss: Any, gradient: Any, x: Array = X, **options: Any) -> str:
    return fastgc.check_gradients(loss, gradient, x, crosscheck=False, **options).verdict


def at_all_doors(loss: Any, gradient: Any, x: Array = X) -> set[str]:
    """The verdicts on a gradient, and on it as one row of a Jacobian of two outputs."""

    def outputs(p: Array) -> Array:
        return np.array([loss(p), p[0]])

    def jacobian(p: Array) -> Array:
        return np.stack([gradient(p), np.eye(p.size)[0]])

    by_products = fastgc.check_jacobian(outputs, None, x, vjp=lambda p, v: v @ jacobian(p))
    return {verdict(loss, gradient, x), fastgc.check_jacobian(outputs, jacobian, x).verdict, by_products.verdict}


# --- right gradients ---


@pytest.mark.parametrize("near", [1e-11, NEAR, 1e-9])
@pytest.mark.parametrize("change", [0.5, -0.5, 0.05])
def test_a_gradient_that_is_right_up_to_hidden_kinks_is_undecided(change: float, near: float) -> None:
    assert at_all_doors(*kinked(change, near)) == {"undecided"}
    report = fastgc.check_gradients(*kinked(change, near), X, crosscheck=False)
    assert HIDDEN in report.tensors["params"].reason
    for entry in report.tensors["params"].entries:
        assert entry.uncertainty == pytest.approx(abs(change), rel=0.1)


def test_one_passes_where_the_change_is_small_beside_the_slope() -> None:
    """A wrong value would show: the uncertainty is below a hundredth of the slopes."""
    report = fastgc.check_gradients(*kinked(1e-3), X, crosscheck=False)
    assert report.passed, str(report)
    assert HIDDEN in report.tensors["params"].reason
    assert report.tensors["params"].entries[0].uncertainty == pytest.approx(1e-3, rel=1e-2)


def test_kinks_of_several_sizes_hide_at_several_distances() -> None:
    sizes, places = np.array([0.5, 0.05, 0.005]), np.array([1e-11, 1e-9, 1e-8])

    def loss(p: Array) -> float:
        d = (p - X)[:, None]
        beyond = np.maximum(d - places, 0) - np.maximum(-places - d, 0)
        return float(OFFSET + np.sum(np.sin(p)) + np.sum(sizes * beyond))

    def gradient(p: Array) -> Array:
        return np.asarray(np.cos(p) + np.sum(sizes * (np.abs(p - X)[:, None] > places), axis=1))

    assert at_all_doors(loss, gradient) == {"undecided"}


def test_kinks_in_combinations_of_the_entries_hide_as_well() -> None:
    m = np.random.default_rng(0).normal(size=(3, 3))
    z = m @ X

    def loss(p: Array) -> float:
        d = m @ p - z
        return float(OFFSET + np.sum(np.sin(p)) + 0.3 * np.sum(np.maximum(d - NEAR, 0) - np.maximum(-NEAR - d, 0)))

    def gradient(p: Array) -> Array:
        return np.asarray(np.cos(p) + 0.3 * m.T @ (np.abs(m @ p - z) > NEAR))

    assert at_all_doors(loss, gradient) == {"undecided"}


def test_a_gradient_that_raises_nearby_is_not_excused() -> None:
    loss, gradient = kinked()

    def picky(p: Array) -> Array:
        if not (p == X).all():
            raise ValueError("only at the point")
        return gradient(p)

    assert at_all_doors(loss, picky) == {"fail"}


def test_an_entry_held_by_its_bounds_is_not_asked_outside() -> None:
    seen = []
    loss, gradient = kinked()

    def watched(p: Array) -> Array:
        seen.append(p.copy())
        return gradient(p)

    assert verdict(loss, watched, bounds=list(zip(X, X + 1, strict=True))) != "pass"
    assert all((p >= X).all() for p in seen)


def test_a_tensor_whose_samples_meet_hidden_kinks_is_not_failed_by_its_probes() -> None:
    size = 400
    x = np.linspace(-1, 1, size)
    where = np.arange(size) % 7 == 0

    def loss(p: Array) -> float:
        beyond = np.maximum(p - x - NEAR, 0) - np.maximum(x - NEAR - p, 0)
        return float(OFFSET + np.sum(np.sin(p)) + 0.5 * np.sum(beyond[where]))

    def gradient(p: Array) -> Array:
        return np.asarray(np.cos(p) + 0.5 * where * (np.abs(p - x) > NEAR))

    report = fastgc.check_gradients(loss, gradient, x, crosscheck=False)
    assert report.verdict == "undecided", str(report)


# --- wrong gradients ---


@pytest.mark.parametrize("factor", [-1.0, 1.001, 1.5, 0.0])
def test_a_gradient_that_is_wrong_beyond_the_kinks_too_fails(factor: float) -> None:
    loss, gradient = smooth()
    assert at_all_doors(loss, lambda p: factor * gradient(p)) == {"fail"}


@pytest.mark.parametrize("curvature", [-20.0, -25.0, -30.0, -40.0])
def test_curvature_that_offsets_a_constant_error_nearby_explains_nothing(curvature: float) -> None:
    def loss(p: Array) -> float:
        return float(1 + p[0] + curvature * p[0] ** 3 / 6)

    def wrong(p: Array) -> Array:
        return 1 + curvature * p**2 / 2 + 1e-9

    assert verdict(loss, wrong, np.array([0.5]), rtol=1e-10, atol=0, probes=0) == "fail"


def test_an_array_cannot_be_asked_and_fails() -> None:
    """Its values are those of a smooth loss with a wrong gradient; no difference shows a kink."""
    loss, gradient = kinked()
    assert verdict(loss, gradient(X)) == "fail"


@pytest.mark.parametrize("offset", [0.0, 1.0, OFFSET, 1e9])
@pytest.mark.parametrize("x", [X, np.zeros(3), 1e3 * X])
def test_a_gradient_that_is_wrong_at_the_point_alone_fails(x: Array, offset: float) -> None:
    loss, gradient = smooth(offset)
    assert at_all_doors(loss, lambda p: np.where(p == x, 0.5, 1.0) * gradient(p), x) == {"fail"}


def test_a_remark_says_so() -> None:
    loss, gradient = smooth(0.0)
    zeros, remark = np.zeros(3), "params is right a little away from the point and wrong at it: a tie, a comparison, or"
    report = fastgc.check_gradients(loss, lambda p: np.where(p == 0, 0.0, gradient(p)), zeros, crosscheck=False)
    assert report.verdict == "fail"
    assert remark in str(report)
    assert remark not in str(fastgc.check_gradients(loss, lambda p: 0.5 * gradient(p), zeros, crosscheck=False))


def test_conventions_at_kinks_that_cancel_are_wrong() -> None:
    """The sum is w itself: its values are those of any loss of slope 1 with a wrong gradient at 0."""

    def loss(w: Array) -> float:
        return float(np.sum(np.maximum(w, 0) - np.maximum(-w, 0)))

    def gradient(w: Array) -> Array:
        return np.asarray((w > 0) + 0.0 + (w < 0))

    report = fastgc.check_gradients(loss, gradient, np.zeros(4), crosscheck=False)
    assert report.verdict == "fail"
    assert "conventions at kinks that cancel?" in str(report)


@pytest.mark.parametrize("offset", [0.0, OFFSET])
def test_one_that_is_wrong_where_a_sum_is_zero_fails(offset: float) -> None:
    """The sum is rounded, and so zero at several points next to this one."""
    m = np.random.default_rng(1).normal(size=(20, 3))
    z = m @ X

    def loss(p: Array) -> float:
        return float(offset + np.sum(np.sin(m @ p - z)))

    def gradient(p: Array) -> Array:
        d = m @ p - z
        return m.T @ np.where(np.abs(d) == 0, 0.0, np.cos(d))

    assert at_all_doors(loss, gradient) == {"fail"}


@pytest.mark.parametrize("width", [1e-12, 1e-8, 1e-4])
def test_one_that_is_wrong_as_far_as_values_contradict_it_fails(width: float) -> None:
    """A guard such as ``abs(x) < 1e-8``: the values of the loss, 1e-16 apart, show a slope there."""
    loss, gradient = smooth(0.0)
    assert at_all_doors(loss, lambda p: np.where(np.abs(p - X) < width, 0.5, 1.0) * gradient(p)) == {"fail"}


def test_wholly_wrong_gradients_are_asked_a_few_times_for_each_tensor() -> None:
    calls = []

    def gradients(p: dict[str, Array]) -> dict[str, Array]:
        calls.append(1)
        return {name: 1.001 * np.cos(each) for name, each in p.items()}

    params = {name: np.linspace(0.1, 1, 50) for name in "abc"}
    report = fastgc.check_gradients(
        lambda p: float(sum(np.sin(each).sum() for each in p.values())), gradients, params, crosscheck=False
    )
    assert report.verdict == "fail"
    asked = 2 * len(params)  # by samples two entries of each tensor, and as many by its search
    assert len(calls) <= 1 + 4 * 2 * asked


# --- the direction ---


def test_an_entry_is_displaced_along_its_axis_and_stays_in_its_bounds() -> None:
    params = {"a": np.ones(3), "b": np.ones((2, 2))}
    layout, leaves = flatten_parameters(params)
    evaluator = PythonEvaluator(lambda p: 0.0, params, (), layout, leaves, None)
    loss = unmeasured_loss(evaluator, layout, leaves, 0.0)
    rays = along_axes(loss, np.array([4]), np.array([-1e-9]))
    assert rays is not None
    moved = displaced_leaves(leaves, rays)
    assert (moved[0] == 1).all()
    assert moved[1].ravel().tolist() == [1, 1 - 1e-9, 1, 1]
    held = replace(loss, bounds=Bounds(np.ones(7), np.full(7, 2.0)))
    assert along_axes(held, np.array([4]), np.array([-1e-9])) is None
    assert along_axes(held, np.array([4]), np.array([1e-9])) is not None
