"""A cross-check by scipy.optimize.check_grad on a few of the entries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastgc._evaluation.evaluator import Evaluator
from fastgc._parameters.arrays import norm, spread

_MOST_ENTRIES = 32  # entries, the default of `samples`: SciPy evaluates the loss once for each, and once more


@dataclass(frozen=True)
class CrossCheck:
    """The result of ``scipy.optimize.check_grad`` on a few entries; it is shown and decides nothing.

    Attributes
    ----------
    error : 2-norm of analytic minus forward difference, an absolute number
    norm : 2-norm of the analytic gradient over the same entries, to compare it with
    entries : how many entries
    """

    error: float
    norm: float
    entries: int


def crosscheck(evaluator: Evaluator, positions: NDArray[np.int64], analytic: NDArray[np.float64]) -> CrossCheck | None:
    """SciPy's number for at most 32 of the entries, spread evenly; None where there is no entry."""
    if not positions.size:
        return None
    from scipy.optimize import check_grad

    chosen = spread(positions.size, _MOST_ENTRIES)
    where, gradient = positions[chosen], analytic[chosen]

    def loss(x: NDArray[np.float64]) -> float:
        return float(evaluator.along(where, evaluator.rounded(where, x[:, None]).T)[0].real)

    def gradient_at_point(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return gradient

    with np.errstate(all="ignore"):
        error = check_grad(loss, gradient_at_point, evaluator.entries(where))
    return CrossCheck(float(error), norm(gradient), int(where.size))
