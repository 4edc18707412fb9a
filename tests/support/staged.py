"""The loss of a two-layer network as stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastgc

Array = np.ndarray[Any, Any]


def relu(z: Array) -> Array:
    return np.maximum(z, 0.0)


def entropy(_: Any, scores: Array, labels: Array) -> Any:
    """Mean cross-entropy, of a batch of scores too."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    chosen = shifted[..., np.arange(labels.size), labels]
    return (np.log(np.exp(shifted).sum(axis=-1)) - chosen).mean(axis=-1)


def two_layers(activation: Callable[[Array], Array] = relu, *, batched: bool = True) -> Callable[..., Any]:
    """Two dense stages, and one of the loss."""
    layers = [fastgc.dense("W1", "b1", activation=activation), fastgc.dense("W2", "b2")]
    return fastgc.stages([*layers, fastgc.Stage(entropy, batched=batched)])
