"""What differences leave undecided, decided by exact slopes that owe nothing to the gradient that is checked.

Such a slope is a tangent by forward mode, or what else a framework computes apart from the checked rules. In double
precision it counts only if it agrees with the differences as far as these are known. Coarser values move in stairs, and
their differences may be far off: they do not refute it. Where they met trouble, or refute it, it refutes nothing: at a
kink it follows one convention of several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fastgc._derivatives.estimates import Estimates
from fastgc._parameters.arrays import Flags, Floats, Positions
from fastgc._verdicts.entries import Verdicts
from fastgc._verdicts.judgement import Judgement

_CONTRADICTING = 10.0  # uncertainties, beyond which a difference is of something else: from there on, entries fail


def decided(
    estimates: Estimates,
    judgement: Judgement,
    where: Positions,
    exact: Floats,
    uncertainty: Floats,
    verdicts: Verdicts,
    *,
    coarse: bool,
    refutable: Callable[[Estimates], Flags] | None = None,
) -> tuple[Estimates, Judgement, int]:
    """The entries with those decided that differences left undecided, and how many these are.

    Parameters
    ----------
    where, exact, uncertainty : arrays, shape (entries in doubt,)
        Which they are, their exact slopes, and how uncertain these are.
    coarse : bool
        Whether differences are of values in less than double precision.
    refutable : callable, optional
        Which of the exact estimates may fail; by default all.
    """
    before = estimates.part(where)
    refuted = contradicted(before, exact)
    if not coarse and refuted.any():
        return estimates, judgement, 0
    better = _estimates(before, exact, uncertainty)
    tried = verdicts(estimates.updated(where, better)).part(where)
    stairs = coarse & before.troubled_by("quantised")
    wrong = tried.failed & judgement.undecided[where] & (stairs | (before.clear & ~refuted))
    keep = tried.passed | (wrong & refutable(better) if refutable is not None and wrong.any() else wrong)
    if not keep.any():
        return estimates, judgement, 0
    judgement = judgement.part(np.arange(judgement.analytic.size))
    judgement.set_at(where[keep], tried.part(keep))
    return estimates.updated(where[keep], better.part(keep)), judgement, int(np.count_nonzero(keep))


def contradicted(differences: Estimates, slopes: Floats) -> Flags:
    """Which slopes are not those of the differences, as far as these are known."""
    off = np.abs(slopes - differences.numerical)
    return np.asarray(differences.clear & (off > _CONTRADICTING * differences.uncertainty))


def _estimates(before: Estimates, exact: Floats, uncertainty: Floats) -> Estimates:
    uncertainty = uncertainty + np.finfo(np.float64).tiny
    trouble, step = np.zeros_like(before.trouble), np.zeros_like(exact)
    return replace(
        before, numerical=exact, left=exact, right=exact, uncertainty=uncertainty, trouble=trouble, step=step
    )
