"""How far entries are displaced where their own size says little."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

import fastgc
from fastgc._derivatives.reach import relative_change, responsive_scale

Array = np.ndarray
TINY = [1e-6, 1e-8, 1e-11, 1e-12, 1e-13, 1e-17, 1e-30, 1e-300]


def of(change: Callable[[float], float], own: float) -> tuple[float, int]:
    calls: list[float] = []

    def counted(scale: float) -> float:
        calls.append(scale)
        return change(scale)

    return responsive_scale(own, counted), len(calls)


# --- the scale ---


def test_a_scale_at_which_the_loss_moves_is_kept() -> None:
    assert of(lambda scale: math.tanh(scale / 1e-12), 1e-12) == (1e-12, 1)


@pytest.mark.parametrize("own", TINY)
def test_a_scale_grows_to_where_the_loss_moves_and_not_much_farther(own: float) -> None:
    found, calls = of(lambda scale: 0.5 * scale, own)
    assert 2e-3 <= found <= 64 * 2e-3
    assert calls <= 12


def test_a_loss_that_never_moves_leaves_the_scale_as_it_is() -> None:
    assert of(lambda scale: 0.0, 1e-9) == (1e-9, 2)
    assert of(lambda scale: 1e-12 * abs(math.sin(scale * 1e12)), 1e-9)[0] == 1e-9  # it oscillates: farther is no better


def test_what_moves_the_loss_little_at_any_scale_gets_the_best_there_is() -> None:
    assert of(lambda scale: 1e-7 * scale, 1e-9)[0] == 1.0


def test_the_scale_stays_where_the_loss_is_defined() -> None:
    found, _ = of(lambda scale: scale if scale < 1e-5 else math.nan, 1e-9)
    assert 1e-9 <= found < 1e-5
    assert of(lambda scale: math.nan, 1e-9) == (1e-9, 1)


def test_the_change_is_the_largest_of_all_losses_relative_to_each() -> None:
    assert relative_change(np.array([[1.0, 10.0], [1.5, 11.0]]), np.array([1.0, 10.0])) == 0.5
    assert relative_change(np.array([0.0]), np.array([0.0])) == 0.0
    assert relative_change(np.array([1e-9]), np.array([0.0])) == math.inf
    assert math.isnan(relative_change(np.array([np.nan]), np.array([1.0])))


# --- checks at tiny parameters ---

WEIGHTS = 0.7 * np.array([1.0, 2.0, 3.0, 4.0])


def wave(x: Array) -> float:
    return float(np.sum(WEIGHTS * np.sin(1 + x)))


def slope(x: Array) -> Array:
    return WEIGHTS * np.cos(1 + x)


def tiny(size: float) -> Array:
    return np.array([0.0, 0.0, size, 0.0])


@pytest.mark.parametrize("size", TINY)
def test_a_tiny_tensor_is_checked_as_closely_as_any(size: float) -> None:
    assert fastgc.check_gradients(wave, slope, tiny(size)).passed
    for factor in (1.001, 1.01, 1.05):
        report = fastgc.check_gradients(wave, lambda x, factor=factor: factor * slope(x), tiny(size))
        assert report.verdict == "fail", (factor, str(report))


@pytest.mark.parametrize("size", TINY)
def test_numerical_derivatives_at_a_tiny_point_are_right(size: float) -> None:
    x = tiny(size)
    for stencil, error in (("central", 1e-8), ("forward", 1e-5), ("five_point", 1e-9)):
        np.testing.assert_allclose(fastgc.numerical_gradient(wave, x, stencil=stencil), slope(x), rtol=error)
        jacobian = fastgc.numerical_jacobian(lambda x: WEIGHTS * np.sin(1 + x), x, stencil=stencil)
        np.testing.assert_allclose(jacobian, np.diag(slope(x)), rtol=error, atol=error)


@pytest.mark.parametrize("size", TINY)
def test_jacobians_at_a_tiny_point_are_checked_as_closely(size: float) -> None:
    def outputs(x: Array) -> Array:
        return np.array([wave(x), wave(2 * x), 5.0])

    def right(x: Array) -> Array:
        return np.stack([slope(x), 2 * slope(2 * x), 0 * x])

    assert fastgc.check_jacobian(outputs, right, tiny(size)).passed
    assert fastgc.check_jacobian(outputs, lambda x: 1.01 * right(x), tiny(size)).verdict == "fail"


def network(p: dict[str, Array], gradient: bool = False) -> float | dict[str, Array]:
    generator = np.random.default_rng(4)
    x, y = generator.normal(size=(7, 5)), generator.normal(size=7)
    hidden = np.tanh(x @ p["W"] + p["b"])
    off = hidden.sum(axis=1) - y
    back = off[:, None] * (1 - hidden**2)
    return {"W": x.T @ back, "b": back.sum(axis=0)} if gradient else float(off @ off / 2)


@pytest.mark.parametrize("size", TINY)
def test_a_bias_of_zeros_with_one_tiny_entry_is_checked_as_closely(size: float) -> None:
    params = {"W": np.random.default_rng(1).normal(size=(5, 4)), "b": tiny(size)}
    assert fastgc.check_gradients(network, lambda p: network(p, True), params).passed

    def wrong(p: dict[str, Array]) -> dict[str, Array]:
        gradients = network(p, True)
        return {"W": gradients["W"], "b": 1.05 * gradients["b"]}

    report = fastgc.check_gradients(network, wrong, params)
    assert {name: tensor.verdict for name, tensor in report.tensors.items()} == {"W": "pass", "b": "fail"}


def test_a_tensor_that_is_tiny_because_of_its_units_keeps_its_scale() -> None:
    capacity = np.array([1.1e-12, 0.9e-12])

    def loss(c: Array) -> float:
        return float(np.sum((c / 1e-12 - 1) ** 4))

    report = fastgc.check_gradients(loss, lambda c: 4e12 * (c / 1e-12 - 1) ** 3, capacity)
    assert report.passed and max(entry.step for entry in report.tensors["params"].entries) < 1e-12


def test_a_tiny_tensor_next_to_the_edge_of_the_domain_stays_inside() -> None:
    x = np.array([1e-9, 2e-9])
    assert fastgc.check_gradients(lambda x: float(np.log(x).sum()), lambda x: 1 / x, x).passed
    assert fastgc.check_gradients(lambda x: float(np.log(x).sum()), lambda x: 1.01 / x, x).verdict == "fail"
