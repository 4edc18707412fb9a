"""Jitted losses for random calls: compiled once in a process, since a loss of each call would take half a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


@numba.njit
def of_array(x: Any) -> Any:
    return np.sum(np.sin(x) * x)


@numba.njit
def of_dict(p: Any) -> Any:
    return np.sum(np.sin(p["w"]) * p["w"]) + np.sum(p["b"] ** 3)


@numba.njit
def with_args(x: Any, a: Any) -> Any:
    return np.sum(np.sin(x) * x) * a.size


@numba.njit
def raising(x: Any) -> Any:
    if x[-1] > 2.0:  # its value at the point
        raise ValueError("planned")
    return np.sum(np.sin(x) * x)


@numba.njit
def out_of_range(x: Any) -> Any:
    return np.sum(np.sin(x) * x) + 0.0 * np.array([1, 2])[x.size // 1000 + 1]


@numba.njit
def with_nan(x: Any) -> Any:
    return np.log(2.0 - x[-1])


@numba.njit
def writing(x: Any) -> Any:
    x[0] = 7.0
    return np.sum(x)


@numba.njit
def scratching(x: Any, a: Any) -> Any:
    a[0] = np.sum(np.sin(x) * x)
    return a[0] * a.size


@numba.njit
def random(x: Any) -> Any:
    return np.sum(np.sin(x) * x) + 1e-3 * np.random.random()  # noqa: NPY002 - Numba's own


@numba.njit(parallel=True)
def parallel(x: Any) -> Any:
    total = 0.0
    for i in numba.prange(x.size):
        total += np.sin(x[i]) * x[i]
    return total


@numba.njit
def giving_text(x: Any) -> Any:
    return "text"


@numba.njit
def giving_pair(x: Any) -> Any:
    return np.sum(np.sin(x) * x), np.sin(x) + x * np.cos(x)


@numba.njit
def not_compilable(x: Any) -> Any:
    return np.linalg.no_such_function(x)


def slopes(x: Any, *args: Any) -> Any:
    """The gradient of those of one array."""
    return (np.sin(x) + x * np.cos(x)) * (args[0].size if args else 1)


def slopes_of_dict(p: dict[str, Any]) -> dict[str, Any]:
    return {"w": slopes(p["w"]), "b": 3 * p["b"] ** 2}


SMOOTH: dict[str, Callable[..., Any]] = {"of_array": slopes, "of_dict": slopes_of_dict, "with_args": slopes}
ROUGH = ["raising", "out_of_range", "with_nan", "writing", "scratching", "random", "parallel", "giving_text",
         "giving_pair", "not_compilable"]  # fmt: skip
