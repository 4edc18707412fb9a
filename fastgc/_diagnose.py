"""Which kind of bug the numbers of a failing tensor are consistent with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastgc._compare import FAIL, Judgement

Floats = NDArray[np.float64]

_FEWEST = 8  # entries that establish a pattern, unless the tensor has fewer
_TELLING = 100.0  # tolerances and uncertainties that a value must exceed to tell one factor from another
_WITHIN = 3.0  # of them, within which a pattern explains an entry


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

    A pattern must explain every checked entry within its uncertainty. It must rest on eight entries, or on all there
    are, whose values are large beside tolerance and uncertainty: the others agree with any pattern.
    """
    known = np.isfinite(judgement.analytic) & np.isfinite(judgement.numerical) & np.isfinite(uncertainty)
    a, n, u, allowed = (
        each[known] for each in (judgement.analytic, judgement.numerical, uncertainty, judgement.allowed)
    )
    telling = np.count_nonzero(np.maximum(np.abs(a), np.abs(n)) > _TELLING * (allowed + u))
    unexplained = FAIL in judgement.verdict[~known]
    if FAIL not in judgement.verdict or unexplained or telling < min(_FEWEST, size):
        return None
    return _constant_factor(a, n, u, allowed)


def _constant_factor(a: Floats, n: Floats, u: Floats, allowed: Floats) -> Diagnosis | None:
    scale = float(np.abs(n).max())
    if scale == 0:
        return None
    n, a, weights = n / scale, a / scale, (allowed + u).min() / (allowed + u)  # no square overflows
    squares = float(np.sum((weights * n) ** 2))
    factor = float(np.sum((weights * a) * (weights * n))) / squares if squares else 0.0
    slack = (allowed * min(1.0, abs(factor)) + abs(factor) * u) / scale  # what is allowed follows the larger of the two
    if not np.all(np.abs(a - factor * n) <= _WITHIN * slack):
        return None
    message = f"consistent with a constant factor of {factor:.4g} (analytic / numerical)"
    return Diagnosis("factor", message, factor)
