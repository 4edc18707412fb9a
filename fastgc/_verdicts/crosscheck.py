"""A cross-check by scipy.optimize.check_grad on a few of the entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from fastgc._deferred import deferred, deferring
from fastgc._evaluation.evaluator import Evaluator, silent
from fastgc._parameters.arrays import Floats, Positions, norm, spread
from fastgc._parameters.sampling import DEFAULT_SAMPLES

_STEP = 2.0**-26  # of `scipy.optimize.check_grad`: the root of the machine epsilon


@deferring
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


def crosscheck(evaluator: Evaluator, positions: Positions, analytic: Floats) -> CrossCheck | None:
    """SciPy's number for at most as many entries as are sampled by default, spread evenly; None if there is none.

    SciPy chooses its points without a look at the values, so these are measured together. SciPy gets them when somebody
    asks for its number: it takes a hundred times as long as the evaluations of a small loss.
    """
    if not positions.size:
        return None
    chosen = spread(positions.size, DEFAULT_SAMPLES)
    where, gradient = positions[chosen], analytic[chosen]
    start = evaluator.entries(where)
    moved = start + _steps(start)
    places, displaced = np.concatenate([where[:1], where]), np.concatenate([start[:1], moved])[:, None]
    values = evaluator.values(places, evaluator.rounded(places, displaced), silent).real[:, 0]
    asked = partial(_error, start, moved, values, gradient)
    return deferred(CrossCheck, asked, norm=norm(gradient), entries=int(where.size))


def _steps(start: Floats) -> Floats:
    """The steps of SciPy's forward differences: relative ones where rounding swallows the absolute one."""
    relative = _STEP * np.where(start >= 0, 1.0, -1.0) * np.maximum(1.0, np.abs(start))
    return np.asarray(np.where(start + _STEP == start, relative, _STEP))


def _error(start: Floats, moved: Floats, values: Floats, gradient: Floats) -> Mapping[str, object]:
    """SciPy's number from values that are known: the first is that at the start. NaN if SciPy asks for other points."""

    def loss(x: Floats) -> float:
        if (x == start).all():
            return float(values[0])
        k = int(np.argmax(x != start))
        return float(values[1 + k]) if x[k] == moved[k] else np.nan

    return {"error": _check_grad(loss, gradient, start)}


def _check_grad(loss: Callable[[Floats], float], gradient: Floats, start: Floats) -> float:
    from scipy.optimize import check_grad

    with np.errstate(all="ignore"):
        return float(check_grad(loss, lambda x: gradient, start))
