"""The noise of a loss that has values on one side of its parameters only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastgc

P = np.random.default_rng(0).uniform(0.1, 0.9, (4, 5))
LABELS = (np.random.default_rng(1).random((4, 5)) < 0.5).astype(np.float64)
WEIGHT = 0.7310585786300049  # a number of 53 bits, by which the precision of the product does not show


def entropy(params: dict[str, Any]) -> float:
    """Computed in single precision, as a layer does, and not defined where a label is outside of 0 and 1."""
    x, y = (np.asarray(params[name], np.float32) for name in ("x", "y"))
    if y.min() < 0 or y.max() > 1:
        raise ValueError("labels are between 0 and 1")
    return WEIGHT * float(-np.mean(y * np.log(x) + (1 - y) * np.log(1 - x), dtype=np.float32))


def gradients(params: dict[str, Any]) -> dict[str, Any]:
    x, y = params["x"], params["y"]
    return {"x": -WEIGHT * (y / x - (1 - y) / (1 - x)) / x.size, "y": -WEIGHT * np.log(x / (1 - x)) / x.size}


@pytest.mark.parametrize("labels", [LABELS, np.zeros((4, 5)), np.ones((4, 5))], ids=["mixed", "all 0", "all 1"])
def test_noise_is_measured_inside_of_the_domain(labels: Any) -> None:
    params = {"x": P, "y": labels}
    report = fastgc.check_gradients(entropy, gradients, params, samples="all", rtol=1e-3)
    assert report.verdict != "fail", str(report)


def test_a_wrong_gradient_at_the_edge_fails() -> None:
    def doubled(params: dict[str, Any]) -> dict[str, Any]:
        right = gradients(params)
        return {**right, "y": 2 * right["y"]}

    report = fastgc.check_gradients(entropy, doubled, {"x": P, "y": LABELS}, samples="all", rtol=1e-3)
    assert report.tensors["y"].verdict == "fail"
