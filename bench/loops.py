"""Central differences of every entry as tutorials write them, and when a numerical gradient agrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from networks import Array, Problem, Tensors

STEP = 1e-5


def copying(f: Callable[[Array], float], x: Array) -> Array:
    """Of a flat vector, two copies of it for each entry."""
    result = np.zeros_like(x)
    for i in range(x.size):
        above, below = x.copy(), x.copy()
        above[i] += STEP
        below[i] -= STEP
        result[i] = (f(above) - f(below)) / (2 * STEP)
    return result


def in_place(loss: Callable[..., float], params: Any, args: tuple[Any, ...]) -> Tensors:
    """Of named arrays, each entry displaced where it is and put back."""
    result = {}
    for name, array in params.items():
        flat, slopes = array.reshape(-1), np.empty(array.size)
        for i in range(flat.size):
            original = flat[i]
            flat[i] = original + STEP
            above = loss(params, *args)
            flat[i] = original - STEP
            slopes[i] = (above - loss(params, *args)) / (2 * STEP)
            flat[i] = original
        result[name] = slopes.reshape(array.shape)
    return result


@dataclass(frozen=True)
class OnVector:
    """The loss of a problem as a function of one flat vector; it can be sent to a process."""

    problem: Problem
    before: Callable[[], None]  # called before each evaluation

    def __call__(self, x: Array) -> float:
        self.before()
        params, start = {}, 0
        for name, p in self.problem.params.items():
            params[name] = x[start : start + p.size].reshape(p.shape)
            start += p.size
        return self.problem.loss(params, *self.problem.args)


def flat(tensors: Tensors) -> Array:
    """Named arrays as one vector."""
    return np.concatenate([np.ravel(each) for each in tensors.values()])


def agree(a: Array, n: Array) -> bool:
    """The tutorials' criterion: the norm-wise relative error of the whole gradient is below 1e-5."""
    return bool(np.linalg.norm(a - n) / (np.linalg.norm(a) + np.linalg.norm(n) + 1e-8) < 1e-5)


def within(a: Array, n: Array, error: Array) -> bool:
    """Agreement of every entry to 1e-5 beyond a stated error."""
    return bool(np.all(np.abs(a - n) <= 1e-5 * np.maximum(np.abs(a), np.abs(n)) + error))
