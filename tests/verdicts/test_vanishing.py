"""Slopes that cannot be had: too small to be seen, or without end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import entr, rel_entr, xlogy

import fastgc

Array = np.ndarray


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
