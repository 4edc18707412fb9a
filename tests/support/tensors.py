"""Tensors as a diagnosis sees them, made from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastgc._diagnosis.measured_tensor import MeasuredTensor


def slopes(*shape: int, seed: int = 0) -> np.ndarray:
    """Draw slopes of either sign, none near zero."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1, 1], shape) * rng.uniform(0.5, 2, shape)


def tensor(
    numerical: np.ndarray,
    analytic: np.ndarray,
    known: Sequence[int] | np.ndarray | None = None,
    parameters: np.ndarray | None = None,
    slack: float = 1e-5,
    lengths: dict[int, str] | None = None,
) -> MeasuredTensor:
    """Make a tensor of a tensor with some entries measured (all, by default), each within a relative slack."""
    local = np.arange(numerical.size) if known is None else np.asarray(known, np.int64)
    n, a = numerical.ravel()[local], analytic.ravel()[local]
    within = slack * np.abs(n) + 1e-8
    p = np.zeros(local.size) if parameters is None else parameters.ravel()[local]
    wrong = ~(np.abs(a - n) <= within)
    return MeasuredTensor(numerical.shape, analytic.reshape(-1), local, n, within, p, wrong, ~wrong, lengths or {})


def drawn(size: int, count: int, seed: int = 0) -> np.ndarray:
    """Draw positions to be measured."""
    return np.sort(np.random.default_rng([seed, 9]).choice(size, count, replace=False))
