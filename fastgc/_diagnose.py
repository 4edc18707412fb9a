"""Which kind of bug the numbers of a failing tensor are consistent with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastgc._compare import FAIL, Judgement

Floats = NDArray[np.float64]

_FEWEST = 8  # entries that establish a pattern, unless the tensor has fewer
_WITHIN = 3.0  # uncertainties (and tolerances) within which a pattern explains an entry


@dataclass(frozen=True)
class Diagnosis:
    """A kind of bug that explains a tensor's wrong entries.

    Attributes
    ----------
    kind : "factor"
    message : one line for people, with the evidence
    factor : analytic / numerical
    """

    kind: str
    message: str
    factor: float


def diagnose(judgement: Judgement, uncertainty: Floats, size: int) -> Diagnosis | None:
    """The diagnosis of a tensor from its checked entries, None where the numbers establish none.

    A pattern must explain every checked entry within its uncertainty, and rest on eight entries or on all there are.
    """
    known = np.isfinite(judgement.analytic) & np.isfinite(judgement.numerical) & np.isfinite(uncertainty)
    a, n, u = judgement.analytic[known], judgement.numerical[known], uncertainty[known]
    clear = np.abs(n) > _WITHIN * u
    if FAIL not in judgement.verdict or (
        not clear.all() & (known.sum() >= min(_FEWEST, size)) and clear.sum() < min(_FEWEST, size)
    ):
        return None
    return _constant_factor(a, n, u, judgement.allowed[known])


def _constant_factor(a: Floats, n: Floats, u: Floats, allowed: Floats) -> Diagnosis | None:
    weights = 1 / np.maximum(allowed + u, np.finfo(np.float64).tiny)
    factor = float(np.sum((weights * a) * (weights * n)) / np.sum((weights * n) ** 2))
    residual = np.abs(a - factor * n)
    if not np.all(residual <= _WITHIN * (allowed + abs(factor) * u)):
        return None
    message = f"consistent with a constant factor of {factor:.4g} (analytic / numerical)"
    return Diagnosis("factor", message, factor)
