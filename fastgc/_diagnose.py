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
    a, n, u = judgement.analytic[known], judgement.numerical[known], uncertainty[known]
    slack = judgement.allowed[known] + u
    telling = np.count_nonzero(np.abs(n) > _TELLING * slack)
    unexplained = FAIL in judgement.verdict[~known]
    if FAIL not in judgement.verdict or unexplained or telling < min(_FEWEST, size):
        return None
    return _constant_factor(a, n, slack)


def _constant_factor(a: Floats, n: Floats, slack: Floats) -> Diagnosis | None:
    weights = 1 / slack
    factor = float(np.sum((weights * a) * (weights * n)) / np.sum((weights * n) ** 2))
    if not np.all(np.abs(a - factor * n) <= _WITHIN * slack * max(1.0, abs(factor))):
        return None
    message = f"consistent with a constant factor of {factor:.4g} (analytic / numerical)"
    return Diagnosis("factor", message, factor)
