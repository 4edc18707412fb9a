"""The whole check in plain NumPy: central differences over all entries, relative errors by tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]


def numerical_gradients(loss: Callable[..., float], params: Tensors, args: tuple[Any, ...], h: float) -> Tensors:
    """Central differences with the nominal step h, one entry of one tensor after the other."""
    result = {name: np.zeros(p.shape) for name, p in params.items()}
    for name, p in params.items():
        for index in np.ndindex(p.shape):
            values = []
            for displacement in (h, -h):
                moved = p.copy()
                moved[index] = p[index] + displacement
                values.append(loss(params | {name: moved}, *args))
            result[name][index] = (values[0] - values[1]) / (2 * h)
    return result


def max_relative_error(a: NDArray[Any], n: NDArray[Any]) -> float:
    """Largest |a - n| / max(|a| + |n|, 1e-8)."""
    return max((abs(x - y) / max(abs(x) + abs(y), 1e-8) for x, y in zip(a.flat, n.flat, strict=True)), default=0.0)


def relative_error(a: NDArray[Any], n: NDArray[Any]) -> float:
    """||a - n|| / (||a|| + ||n||), 0 where both vanish."""
    norms = np.sqrt((a**2).sum()) + np.sqrt((n**2).sum())
    return float(np.sqrt(((a - n) ** 2).sum()) / norms) if norms > 1e-15 else 0.0


def check(
    loss: Callable[..., float], gradients: Callable[..., Tensors], params: Tensors, args: tuple[Any, ...], h: float
) -> dict[str, tuple[float, float]]:
    """Both relative errors of every tensor."""
    analytic, numerical = gradients(params, *args), numerical_gradients(loss, params, args, h)
    return {
        name: (max_relative_error(analytic[name], numerical[name]), relative_error(analytic[name], numerical[name]))
        for name in params
    }
