"""The models that are checked, in NumPy: two-layer networks, a logistic regression, a table of which few rows are read.

Networks (inputs-hidden-classes, batch): 32-64-10 with 16 has n = 2,762; 100-100-10 with 64 has 11,110; 256-256-10 with
128 has 68,362. The same losses for Numba stand in compiled.py, for torch in torch_peers.py, for JAX in jax_peers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, Array]


class Wrong(NamedTuple):
    """A bug: one entry of the gradient is multiplied by a factor."""

    name: str
    position: int
    factor: float


@dataclass(frozen=True)
class Problem:
    """A loss, its hand-written gradients, and a point."""

    name: str
    loss: Callable[..., float]
    right: Callable[..., Tensors]
    params: Tensors
    args: tuple[Any, ...]
    wrong: Wrong | None = None

    @property
    def n(self) -> int:
        return sum(p.size for p in self.params.values())

    def gradients(self, params: Tensors, *args: Any) -> Tensors:
        """The gradient to be checked, with the bug if there is one."""
        found = self.right(params, *args)
        if self.wrong:
            found[self.wrong.name].reshape(-1)[self.wrong.position] *= self.wrong.factor
        return found

    def planted(self, factor: float = 1.5) -> Problem:
        """The same with a bug in the first tensor, in the entry of median magnitude among those not 0."""
        name, found = next(iter(self.right(self.params, *self.args).items()))
        magnitudes = np.abs(found).ravel()
        order = np.argsort(magnitudes)[np.count_nonzero(magnitudes == 0) :]
        return replace(self, wrong=Wrong(name, int(order[order.size // 2]), factor))


# --- two-layer networks: ReLU, softmax cross-entropy ---


def network(inputs: int, hidden: int, classes: int, batch: int, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    params = {
        "W1": rng.normal(0, np.sqrt(2 / inputs), (inputs, hidden)),
        "b1": rng.normal(0, 0.1, hidden),
        "W2": rng.normal(0, np.sqrt(2 / hidden), (hidden, classes)),
        "b2": rng.normal(0, 0.1, classes),
    }
    args = (rng.normal(size=(batch, inputs)), rng.integers(classes, size=batch))
    name = f"{inputs}-{hidden}-{classes}, batch {batch}"
    return Problem(name, network_loss, network_gradients, params, args)


def network_loss(params: Tensors, x: Array, y: Array) -> float:
    """Mean cross-entropy; written to make few temporaries, as who wants speed from NumPy writes it."""
    hidden = x @ params["W1"]
    hidden += params["b1"]
    np.maximum(hidden, 0.0, out=hidden)
    scores = hidden @ params["W2"]
    scores += params["b2"]
    scores -= scores.max(axis=1, keepdims=True)
    chosen = scores[np.arange(y.size), y].sum()
    return float((np.log(np.exp(scores, out=scores).sum(axis=1)).sum() - chosen) / y.size)


def network_gradients(params: Tensors, x: Array, y: Array) -> Tensors:
    """Back-propagation of the loss."""
    hidden = np.maximum(0.0, x @ params["W1"] + params["b1"])
    scores = hidden @ params["W2"] + params["b2"]
    slope = np.exp(scores - scores.max(axis=1, keepdims=True))
    slope /= slope.sum(axis=1, keepdims=True)
    slope[np.arange(len(y)), y] -= 1
    slope /= len(y)
    below = (slope @ params["W2"].T) * (hidden > 0)
    return {"W1": x.T @ below, "b1": below.sum(axis=0), "W2": hidden.T @ slope, "b2": slope.sum(axis=0)}


NETWORKS = {2_762: (32, 64, 10, 16), 11_110: (100, 100, 10, 64), 68_362: (256, 256, 10, 128)}


# --- logistic regression ---


def regression(n: int = 20_000, batch: int = 16, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(0, 0.01, n - 1), "b": np.array([0.1])}
    args = (rng.normal(size=(batch, n - 1)), rng.choice([-1.0, 1.0], batch))
    return Problem(f"logistic regression, batch {batch}", regression_loss, regression_gradients, params, args)


def regression_loss(params: Tensors, x: Array, sign: Array) -> float:
    return float(np.logaddexp(0.0, -sign * (x @ params["w"] + params["b"])).mean())


def regression_gradients(params: Tensors, x: Array, sign: Array) -> Tensors:
    slope = -sign / (1 + np.exp(sign * (x @ params["w"] + params["b"]))) / sign.size
    return {"w": slope @ x, "b": np.array([slope.sum()])}


# --- a large table of which the loss reads few rows: cheap, whatever n ---


def lookup(rows: int = 25_000, columns: int = 8, batch: int = 110, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    params = {"table": rng.normal(size=(rows, columns)), "weights": rng.normal(size=columns)}
    args = (rng.integers(rows, size=batch), rng.normal(size=batch))
    return Problem(f"table of {rows:,} rows, {batch} read", lookup_loss, lookup_gradients, params, args)


def lookup_loss(params: Tensors, rows: Array, y: Array) -> float:
    return float(((params["table"][rows] @ params["weights"] - y) ** 2).mean())


def lookup_gradients(params: Tensors, rows: Array, y: Array) -> Tensors:
    found = params["table"][rows]
    slope = 2 * (found @ params["weights"] - y) / y.size
    table = np.zeros_like(params["table"])
    np.add.at(table, rows, slope[:, None] * params["weights"])
    return {"table": table, "weights": slope @ found}
