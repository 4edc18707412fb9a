"""Slopes that cannot be had: too small to be seen, or without end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import entr, rel_entr, xlogy

import fastgc

Array = np.ndarray
Params = dict[str, Array]


def softplus(z: Array) -> float:
    with np.errstate(over="ignore"):
        return float(np.sum(np.log(1 + np.exp(z))))


def logistic(z: Array) -> Array:
    return np.exp(z) / (1 + np.exp(z))


# --- a loss that is exactly 0 nearby ---


@pytest.mark.parametrize("z", [[-50.0, -60.0], [-37.0, -40.0], [-700.0, -744.0], [-100.0]])
@pytest.mark.parametrize("stencil", ["central", "forward", "five_point"])
def test_a_slope_below_the_round_off_of_hidden_terms_is_no_failure(z: list[float], stencil: str) -> None:
    report = fastgc.check_gradients(softplus, logistic, np.array(z), stencil=stencil)
    assert report.verdict == "undecided", str(report)
    assert "vanishes within round-off" in report.tensors["params"].reason or "quantised" in str(report)
    jacobian = fastgc.check_jacobian(lambda z: np.log(1 + np.exp(z)), lambda z: np.diag(logistic(z)), np.array(z))
    assert jacobian.verdict != "fail", str(jacobian)


@pytest.mark.parametrize("slope", [1.0, -1e-3, 1e-9])
def test_a_slope_that_such_a_loss_rules_out_fails(slope: float) -> None:
    report = fastgc.check_gradients(softplus, lambda z: np.full(2, slope), np.array([-50.0, -60.0]))
    assert report.verdict == "fail", str(report)


def test_a_vanishing_slope_beside_others_passes() -> None:
    assert fastgc.check_gradients(softplus, logistic, np.array([-50.0, 1.0])).passed


# --- slopes that cancel ---


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def sum_of_softmax(x: Array) -> float:
    return float(softmax(x).sum())


def its_gradient(x: Array) -> Array:
    """Zero, but for the round-off of terms that cancel."""
    s = softmax(x)
    return s - s * s.sum()


LOGITS = np.array([0.3, -1.2, 0.8, 2.1, -0.4, 0.05])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("precision", ["double", "native"])
@pytest.mark.parametrize("atol", [1e-3, 1.0])
def test_a_slope_of_zero_passes_within_the_callers_tolerance(dtype: type, precision: Any, atol: float) -> None:
    x = LOGITS.astype(dtype)
    report = fastgc.check_gradients(sum_of_softmax, its_gradient, x, precision=precision, atol=atol)
    assert report.passed, str(report)
    assert fastgc.check_jacobian(
        lambda x: np.array([sum_of_softmax(x)]), lambda x: its_gradient(x)[None], x, atol=atol
    ).passed
    wrong = fastgc.check_gradients(sum_of_softmax, lambda x: its_gradient(x) + 2 * atol, x, atol=atol)
    assert wrong.verdict == "fail"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("precision", ["double", "native"])
def test_round_off_and_not_stairs_hides_a_slope_of_zero(dtype: type, precision: Any) -> None:
    report = fastgc.check_gradients(sum_of_softmax, its_gradient, LOGITS.astype(dtype), precision=precision)
    assert report.verdict != "fail", str(report)
    assert "stairs" not in str(report) and "nan" not in str(report)
    assert report.passed or "round-off" in report.tensors["params"].reason


def test_an_entry_of_a_jacobian_that_is_zero_but_for_round_off_passes_within_the_callers_tolerance() -> None:
    def turned(t: Array) -> Array:
        return np.array([np.cos(t[0]) + 1e6 - 1e6, np.sin(t[0])])

    def slopes(t: Array) -> Array:
        return np.array([[-np.sin(t[0])], [np.cos(t[0])]])

    assert fastgc.check_jacobian(turned, slopes, np.array([np.pi]), atol=1e-6).passed


@pytest.mark.parametrize("value", [7.0, 0.0, -1e-30, 1e30])
def test_a_locally_constant_loss_passes_with_a_gradient_of_zero_and_no_other(value: float) -> None:
    report = fastgc.check_gradients(lambda x: value, np.zeros_like, np.ones(50))
    assert report.passed and "the loss did not respond to any entry: does it read its argument?" in report.notes
    wrong = fastgc.check_gradients(lambda x: value, lambda x: np.full(50, 1e-3 * (abs(value) or 1.0)), np.ones(50))
    assert wrong.verdict == "fail", str(wrong)


# --- round-off of the analytic value ---

INPUTS = np.random.default_rng(1).normal(size=(16, 3))


def centred(p: Params) -> Array:
    z = INPUTS @ p["w"] + p["b"]
    return z - z.mean(axis=0)


def centred_loss(p: Params) -> Any:
    """A bias that a mean takes away: its slope is zero."""
    y = centred(p)
    return (y**3 + y**2).mean()


def centred_gradients(p: Params, left: float = 0.0) -> Params:
    """In float32; of the bias there is a rest that did not cancel."""
    y = centred(p)
    outer = (3 * y**2 + 2 * y) / y.size
    inner = outer - outer.mean(axis=0)
    return {"w": (INPUTS.T @ inner).astype(np.float32), "b": np.full(2, left, np.float32)}


BIASED = {"w": np.array([[0.4, -1.0], [0.8, 0.3], [-0.5, 0.9]], np.float32), "b": np.array([0.3, -0.2], np.float32)}


@pytest.mark.parametrize("left", [0.0, 1e-9, -3e-8])
@pytest.mark.parametrize("precision", ["double", "native"])
@pytest.mark.parametrize("stencil", ["central", "complex_step"])
def test_what_is_left_of_terms_that_cancel_in_float32_is_no_failure(left: float, precision: Any, stencil: Any) -> None:
    report = fastgc.check_gradients(
        centred_loss, lambda p: centred_gradients(p, left), BIASED, precision=precision, stencil=stencil
    )
    assert report.tensors["b"].verdict == "pass", str(report)


@pytest.mark.parametrize("left", [1e-3, -1e-2])
def test_what_float32_does_not_explain_fails(left: float) -> None:
    report = fastgc.check_gradients(centred_loss, lambda p: centred_gradients(p, left), BIASED)
    assert report.tensors["b"].verdict == "fail", str(report)


# --- slopes that grow without end ---


def entropy(p: Array) -> float:
    return float(-np.sum(p * np.log(p)))


def entropy_slope(p: Array) -> Array:
    return -np.log(p) - 1


STEEP: dict[str, tuple[Callable[[Array], float], Callable[[Array], Array]]] = {
    "entropy": (entropy, entropy_slope),
    "entr": (lambda p: float(np.sum(entr(p))), entropy_slope),
    "Kullback-Leibler": (lambda p: float(np.sum(rel_entr(p, 0.25))), lambda p: np.log(p / 0.25) + 1),
    "p**0.9": (lambda p: float(np.sum(p**0.9)), lambda p: 0.9 * p**-0.1),
    "|p| log |p|": (lambda p: float(np.sum(xlogy(p, np.abs(p)))), lambda p: np.log(p) + 1),
}


@pytest.mark.parametrize("size", [1e-20, 1e-50, 1e-100, 1e-300])
@pytest.mark.parametrize("name", STEEP)
def test_a_slope_that_grows_like_a_logarithm_beside_an_edge_is_undecided(name: str, size: float) -> None:
    loss, slope = STEEP[name]
    report = fastgc.check_gradients(loss, slope, np.array([0.2, size, 0.3, 0.1]))
    assert report.verdict == "undecided", str(report)
    assert "the loss jumps, or its slope is infinite (or grows like a logarithm)" in report.tensors["params"].reason


@pytest.mark.parametrize("size", [1e-3, 1e-8])
@pytest.mark.parametrize("name", STEEP)
def test_it_is_decided_where_steps_get_down_to_the_entry(name: str, size: float) -> None:
    loss, slope = STEEP[name]
    p = np.array([0.2, size, 0.3, 0.1])
    assert fastgc.check_gradients(loss, slope, p).passed
    assert fastgc.check_gradients(loss, lambda p: 1.01 * slope(p), p).verdict == "fail"


@pytest.mark.parametrize("size", [1e-20, 1e-300])
@pytest.mark.parametrize("name", STEEP)
def test_jacobians_do_not_fail_there_either(name: str, size: float) -> None:
    loss, slope = STEEP[name]
    p = np.array([0.2, size, 0.3, 0.1])
    report = fastgc.check_jacobian(lambda p: np.array([loss(p)]), lambda p: slope(p)[None, :], p)
    assert report.verdict == "undecided", str(report)
