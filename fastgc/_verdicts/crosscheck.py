"""A cross-check by scipy.optimize.check_grad on a few of the entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastgc._evaluation.evaluator import Evaluator
from fastgc._parameters.arrays import norm, spread
from fastgc._parameters.sampling import DEFAULT_SAMPLES


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
    """SciPy's number for at most as many entries as are sampled by default, spread evenly; None where there is none.

    SciPy evaluates the loss once for each, and once more. It chooses its points without a look at the values: it is
    asked for the points, which are evaluated together, and then for its number.
    """
    if not positions.size:
        return None
    chosen = spread(positions.size, DEFAULT_SAMPLES)
    where, gradient = positions[chosen], analytic[chosen]
    start, points = evaluator.entries(where), list[NDArray[np.float64]]()

    def noted(x: NDArray[np.float64]) -> float:
        points.append(x.copy())
        return 0.0

    _check_grad(noted, gradient, start)
    rows = evaluator.rounded(where, np.reshape(points, (-1, where.size)).T).T
    values = iter(evaluator.along(where, rows).real.tolist())
    error = _check_grad(lambda x: next(values), gradient, start)
    return CrossCheck(error, norm(gradient), int(where.size))


def _check_grad(
    loss: Callable[[NDArray[np.float64]], float], gradient: NDArray[np.float64], start: NDArray[np.float64]
) -> float:
    from scipy.optimize import check_grad

    with np.errstate(all="ignore"):
        return float(check_grad(loss, lambda x: gradient, start))
