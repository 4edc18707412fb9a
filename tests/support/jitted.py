"""Losses that are jitted, and the same in plain Python."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tests.support.layouts import array

NETWORK = {
    "layer1.weight": array(3, 2),
    "b [0]*?": array(2),
    "": np.array(0.3),
    "none": np.empty((0, 4)),
    "deep": {"ä": [array(2), {"w": array(1, 3)}], "pair": (array(2), np.array(1.5))},
}


@numba.njit
def network_loss(params: Any) -> float:
    """Every entry of every tensor counts, each in its own way; of sums, products and quotients: the same to the bit."""
    total = 0.0
    weight = params["layer1.weight"]
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            moved = (j + 2) * weight[i, j]
            total += (i + 1) * moved / (1 + moved * moved)
    for i in range(params["b [0]*?"].size):
        bias = params["b [0]*?"][i]
        total += (bias * bias * bias + 2 * bias) * (i + 1)
    total += params[""][()] ** 2 + params["none"].size + params["none"].shape[1]
    deep = params["deep"]
    for i in range(deep["ä"][0].size):
        moved = deep["ä"][0][i] + i
        total += 1 / (1 + moved * moved)
    for value in deep["ä"][1]["w"].flat:
        total += value / (1 + value * value) * 3
    first, second = deep["pair"]
    return total + first[0] * first[1] * second[()] + len(params) * 0.5


def bend(u: Any) -> Any:
    """The slope of u / (1 + u**2)."""
    return (1 - u**2) / (1 + u**2) ** 2


def network_gradients(params: Any) -> dict[str, Any]:
    weight, deep = params["layer1.weight"], params["deep"]
    rows, columns = np.arange(1.0, 4)[:, None], np.arange(2.0, 4)
    bias, moved = params["b [0]*?"], deep["ä"][0] + np.arange(2)
    first, second = deep["pair"]
    return {
        "layer1.weight": rows * columns * bend(columns * weight),
        "b [0]*?": (3 * bias**2 + 2) * np.arange(1, 3),
        "": np.asarray(2 * params[""]),
        "none": np.empty((0, 4)),
        "deep": {
            "ä": [-2 * moved / (1 + moved**2) ** 2, {"w": 3 * bend(deep["ä"][1]["w"])}],
            "pair": (second * first[::-1], np.asarray(first[0] * first[1])),
        },
    }


@numba.njit
def line_loss(params: Any, x: Any, y: Any) -> float:
    total = 0.0
    for i in range(x.size):
        total += (params["w"][0] * x[i] + params["b"][()] - y[i]) ** 2
    return total / x.size


LINE = {"w": np.array([0.7]), "b": np.array(-0.2)}


DATA = (np.linspace(-1, 2, 7), np.cos(np.arange(7.0)))


def line_plain(params: Any, x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[str, Any]:
    off = 2 * (params["w"][0] * x + params["b"] - y) / x.size
    return {"w": np.array([np.sum(off * x)]), "b": np.array(np.sum(off))}
