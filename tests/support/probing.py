"""Losses with errors planted in their gradients, and their probes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastgc

Array = NDArray[Any]


Params = dict[str, Array]


Loss = Callable[[Params], float]


Problem = tuple[Loss, Params, Params]  # loss, gradient, parameters


def sines(seed: int = 0, slopes: dict[str, float] | None = None, **shapes: int | tuple[int, ...]) -> Problem:
    """The sum of w * sin(p) over all entries of all tensors, w of the size of the tensor's slope."""
    rng = np.random.default_rng(seed)
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    weights = {name: (slopes or {}).get(name, 1.0) * rng.standard_normal(p.shape) for name, p in params.items()}

    def loss(p: Params) -> float:
        return float(sum(np.sum(w * np.sin(p[name])) for name, w in weights.items()))

    return loss, {name: w * np.cos(params[name]) for name, w in weights.items()}, params


def probed(loss: Any, gradients: Any, params: Any, **options: Any) -> fastgc.GradientReport:
    """The check by probes alone."""
    return fastgc.check_gradients(loss, gradients, params, **{"samples": 0, "crosscheck": False, **options})


def with_error(gradients: Params, name: str, error: Array | float, at: Any = ...) -> Params:
    """A copy of the gradient with something added to one tensor, wrong on purpose."""
    wrong = {key: value.copy() for key, value in gradients.items()}
    wrong[name][at] += error
    return wrong


def network(
    seed: int, widths: tuple[int, ...], activation: str = "relu", batch: int = 8, biases: float = 0.1
) -> Problem:
    """A perceptron with a softmax on top: loss, gradient and parameters."""
    rng = np.random.default_rng(seed)
    depth = len(widths) - 1
    params: Params = {}
    for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
        params[f"W{i}"] = rng.standard_normal((rows, columns)) * (2 / rows) ** 0.5
        params[f"b{i}"] = biases * rng.standard_normal(columns)
    x, labels = rng.standard_normal((batch, widths[0])), rng.integers(widths[-1], size=batch)
    picked = np.arange(batch), labels

    def forward(p: Params) -> list[Array]:
        layers = [x]
        for i in range(depth):
            z = layers[-1] @ p[f"W{i}"] + p[f"b{i}"]
            layers.append(z if i == depth - 1 else np.tanh(z) if activation == "tanh" else np.maximum(z, 0))
        return layers

    def loss(p: Params) -> float:
        z = forward(p)[-1]
        z = z - z.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[picked]))

    layers = forward(params)
    z = np.exp(layers[-1] - layers[-1].max(axis=1, keepdims=True))
    d = z / z.sum(axis=1, keepdims=True)
    d[picked] -= 1
    d /= batch
    gradients: Params = {}
    for i in reversed(range(depth)):
        gradients[f"W{i}"], gradients[f"b{i}"] = layers[i].T @ d, d.sum(axis=0)
        d = (d @ params[f"W{i}"].T) * (1 - layers[i] ** 2 if activation == "tanh" else layers[i] > 0)
    return loss, {name: gradients[name] for name in params}, params


def limit_of(loss: Loss, gradients: Params, params: Params, name: str = "w", **options: Any) -> float:
    """The error of one entry that always shows if the others are right, without regard to tolerances."""
    return 4 * max(probed(loss, gradients, params, **options).tensors[name].probe.uncertainties)


def slopes(params: Params) -> Params:
    return {name: np.asarray(np.cos(value.astype(np.float64))) for name, value in params.items()}
