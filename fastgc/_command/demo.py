"""The two models of ``fastgc demo``: a small net with a planted bug, and a network on handwritten digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

Parameters = dict[str, NDArray[np.float64]]

# Weight decay of the network on digits, 0.5 * DECAY * sum(W**2) for both matrices: a usual value in training, and large
# enough that its absence is wrong by far more than rtol.
DECAY = 1e-3
_IMAGES = 100  # of the 300 in the package: one batch
_HIDDEN = 100  # units: 7,510 parameters, which a compiled check covers one by one in a few seconds


@dataclass(frozen=True)
class Problem:
    """A loss, its gradient and the point where they are checked."""

    loss: Callable[..., float]
    gradients: Callable[..., Parameters]
    params: Parameters
    args: tuple[object, ...]


# --- the bug hunt: 4 inputs, 10 ReLU units, 3 classes ---


def bug_hunt() -> Problem:
    """A two-layer net with softmax cross-entropy on five samples.

    Sizes, seeds and scales are those of the toy net in Stanford's course CS231n, assignment 1.
    """
    weights, samples = np.random.RandomState(0), np.random.RandomState(1)
    w1 = 0.1 * weights.randn(4, 10)
    params = {"W1": w1, "b1": np.zeros(10), "W2": 0.1 * weights.randn(10, 3), "b2": np.zeros(3)}
    return Problem(net_loss, net_gradients, params, (10 * samples.randn(5, 4), np.array([0, 1, 2, 2, 1])))


def _activations(params: Parameters, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The hidden units and the probabilities of the classes."""
    hidden = np.maximum(0, x @ params["W1"] + params["b1"])
    scores = np.exp(hidden @ params["W2"] + params["b2"])
    return hidden, scores / scores.sum(axis=1, keepdims=True)


def net_loss(params: Parameters, x: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Mean cross-entropy of the classes ``y``."""
    _, probabilities = _activations(params, x)
    return float(-np.log(probabilities[np.arange(len(y)), y]).mean())


def net_gradients(params: Parameters, x: NDArray[np.float64], y: NDArray[np.int64]) -> Parameters:
    """Back-propagation of `net_loss`."""
    hidden, probabilities = _activations(params, x)
    probabilities[np.arange(len(y)), y] -= 1
    slope = probabilities / len(y)
    below = (slope @ params["W2"].T) * (hidden > 0)
    return {"W1": x.T @ below, "b1": below.sum(axis=0), "W2": hidden.T @ slope, "b2": slope.sum(axis=0)}


def doubled(gradients: Callable[..., Parameters], name: str) -> Callable[..., Parameters]:
    """The same gradients with one tensor doubled: the planted bug."""

    def wrong(params: Parameters, *args: object) -> Parameters:
        right = gradients(params, *args)
        return right | {name: 2 * right[name]}

    return wrong


# --- digits: 64 pixels, 100 ReLU units, 10 classes, weight decay ---


def digits_network() -> Problem:
    """A network of 7,510 parameters on handwritten digits. Numba can compile its loss."""
    with resources.files("fastgc").joinpath("digits.npz").open("rb") as file, np.load(file) as data:
        images = data["images"][:_IMAGES] / 16.0  # 16 is the largest value of a pixel
        labels = data["labels"][:_IMAGES].astype(np.int64)
    generator = np.random.default_rng(0)
    params = {  # He's initialisation of weights: variance 2 / inputs
        "W1": generator.normal(0, np.sqrt(2 / 64), (64, _HIDDEN)),
        "b1": generator.normal(0, 0.1, _HIDDEN),
        "W2": generator.normal(0, np.sqrt(2 / _HIDDEN), (_HIDDEN, 10)),
        "b2": generator.normal(0, 0.1, 10),
    }
    return Problem(digits_loss, digits_gradients, params, (images, labels))


def digits_loss(params: Parameters, images: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean cross-entropy plus weight decay, in loops that Numba compiles fast. Scores are shifted by their maximum."""
    w1, b1, w2, b2 = params["W1"], params["b1"], params["W2"], params["b2"]
    hidden = np.dot(images, w1)
    for i in range(hidden.shape[0]):
        for j in range(hidden.shape[1]):
            hidden[i, j] = max(0.0, hidden[i, j] + b1[j])
    scores = np.dot(hidden, w2)
    total = 0.0
    for i in range(labels.size):
        top, terms = -np.inf, 0.0
        for k in range(b2.size):
            scores[i, k] += b2[k]
            top = max(top, scores[i, k])
        for k in range(b2.size):
            terms += math.exp(scores[i, k] - top)
        total += math.log(terms) + top - scores[i, labels[i]]
    decay = 0.0
    for weights in (w1, w2):
        for weight in weights.flat:
            decay += weight * weight
    return total / labels.size + 0.5 * DECAY * decay


def digits_gradients(params: Parameters, images: NDArray[np.float64], labels: NDArray[np.int64]) -> Parameters:
    """Back-propagation of `digits_loss`."""
    hidden = np.maximum(0.0, images @ params["W1"] + params["b1"])
    scores = hidden @ params["W2"] + params["b2"]
    slope = np.exp(scores - scores.max(axis=1, keepdims=True))
    slope /= slope.sum(axis=1, keepdims=True)
    slope[np.arange(len(labels)), labels] -= 1
    slope /= len(labels)
    below = (slope @ params["W2"].T) * (hidden > 0)
    return {
        "W1": images.T @ below + DECAY * params["W1"],
        "b1": below.sum(axis=0),
        "W2": hidden.T @ slope + DECAY * params["W2"],
        "b2": slope.sum(axis=0),
    }


def without_decay(gradients: Callable[..., Parameters], name: str) -> Callable[..., Parameters]:
    """The same gradients without one tensor's weight-decay term: the planted bug."""

    def wrong(params: Parameters, *args: object) -> Parameters:
        right = gradients(params, *args)
        return right | {name: right[name] - DECAY * params[name]}

    return wrong
