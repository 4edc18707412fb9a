"""A slope that holds near the point alone: kinks lead away from it, or values that are rounded on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastgc

Floats = NDArray[np.float64]


def shrunk(z: Floats, width: float) -> Floats:
    """Soft thresholding: flat between two kinks."""
    return np.asarray(np.sign(z) * np.maximum(np.abs(z) - width, 0.0))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("width", [1e-10, 1e-9, 1e-8])
@pytest.mark.parametrize("called", [False, True])
def test_a_gradient_that_is_right_between_two_kinks_does_not_fail(called: bool, width: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights, others, x = generator.normal(size=(3, 24))
    middle = x - width * generator.uniform(-0.8, 0.8, x.size)

    def loss(p: Floats) -> float:
        return float(weights @ shrunk(p - middle, width) + others @ np.sin(p))

    def gradient(p: Floats) -> Floats:
        return np.asarray(weights * (np.abs(p - middle) > width) + others * np.cos(p))

    report = fastgc.check_gradients(loss, gradient if called else gradient(x), x, samples="all", crosscheck=False)
    assert report.verdict != "fail", str(report)
    wrong = fastgc.check_gradients(loss, 1.5 * gradient(x), x, samples="all", crosscheck=False)
    assert wrong.verdict == "fail", str(wrong)
    jacobian = fastgc.check_jacobian(lambda p: np.array([loss(p), p.sum()]), [gradient(x), np.ones(x.size)], x)
    assert jacobian.verdict != "fail", str(jacobian)


@pytest.mark.parametrize(
    "rounded", [lambda y: y.astype(np.float32).astype(np.float64), lambda y: np.floor(1e8 * y) / 1e8]
)
@pytest.mark.parametrize("seed", range(4))
def test_one_that_lacks_what_is_rounded_on_the_way_fails(rounded: Any, seed: int) -> None:
    generator = np.random.default_rng(seed)
    data, x = generator.normal(size=((1, 50)[seed % 2], 6)), generator.normal(size=6)

    def loss(p: Floats) -> float:
        return float(np.sum(rounded(np.tanh(data @ p))) + np.sum(np.sin(p)))

    report = fastgc.check_gradients(loss, np.cos(x), x, crosscheck=False)
    assert report.verdict == "fail", str(report)
    outputs = fastgc.check_jacobian(lambda p: np.array([loss(p), p.sum()]), [np.cos(x), np.ones(6)], x)
    assert outputs.verdict == "fail", str(outputs)
