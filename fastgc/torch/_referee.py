"""Entries that differences leave undecided, decided by exact tangents of the forward bodies of custom Functions.

The tangent is independent of the backward that is checked, since no rule of a Function enters it. In double precision
it counts only if it agrees with the differences as far as these are known. Coarser values move in stairs, and their
differences may be far off: there the tangent may also confirm what they refute. Where they met trouble, or refute it,
it refutes nothing: at a kink it follows one convention of several.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.estimates import Estimates
from fastgc._jacobian.entries import Checked, JacobianAtPoint, verdicts
from fastgc._parameters.arrays import Floats, Positions
from fastgc.torch._opened import Opened
from fastgc.torch._tangent import BodyTangents

_CONTRADICTING = 10.0  # uncertainties, beyond which a difference is of something else: from there on, entries fail


def refereed(call: Opened, jacobian: JacobianAtPoint, checked: Checked) -> tuple[Checked, str]:
    """The entries with those decided that differences left undecided, and a note if there are any."""
    where = np.flatnonzero(_open_to_doubt(call, checked) & np.isfinite(checked.judgement.analytic))
    before = checked.estimates.part(where)
    exact = _exact(call, *jacobian.places(before.positions)) if where.size else None
    if exact is None:
        return checked, ""
    refuted = before.clear & (np.abs(exact - before.numerical) > _CONTRADICTING * before.uncertainty)
    if call.in_double and refuted.any():
        return checked, ""
    better = _estimates(before, exact, call.backward.eps)
    tried = verdicts(jacobian, checked.estimates.updated(where, better)).part(where)
    doubted = checked.judgement.undecided[where] & before.clear & ~refuted
    keep = tried.passed | (tried.failed & doubted)
    if not keep.any():
        return checked, ""
    decided = checked.estimates.updated(where[keep], better.part(keep))
    note = _note(int(np.count_nonzero(keep)))
    return replace(checked, estimates=decided, judgement=verdicts(jacobian, decided)), note


def _open_to_doubt(call: Opened, checked: Checked) -> NDArray[np.bool_]:
    """Entries that are not decided, or refuted by differences of coarse values."""
    judgement = checked.judgement
    return np.asarray(judgement.undecided | (judgement.failed & (not call.in_double)))


def _note(count: int) -> str:
    entries = "entry" if count == 1 else "entries"
    return f"the exact tangent of the forward bodies of custom Functions decided {count} {entries}"


def _estimates(before: Estimates, exact: Floats, eps: float) -> Estimates:
    """The tangents as estimates, as uncertain as a backward in the precision of the inputs is."""
    uncertainty = eps * np.abs(exact) + np.finfo(np.float64).tiny
    nothing = np.zeros_like(before.trouble)
    return replace(before, numerical=exact, left=exact, right=exact, uncertainty=uncertainty, trouble=nothing)


def _exact(call: Opened, outputs: Positions, inputs: Positions) -> Floats | None:
    """Entries of the Jacobian by tangents; None if one is not known."""
    tangents = BodyTangents(call.func, call.inputs, call.checked, call.compared, call.here)
    found = np.empty(inputs.size)
    for column in np.unique(inputs):
        tangent = _column(tangents, np.eye(1, call.shape[1], column)[0], twice=call.noisy)
        if tangent is None:
            return None
        mine = inputs == column
        found[mine] = tangent[outputs[mine]]
    return found


def _column(tangents: BodyTangents, unit: Floats, *, twice: bool) -> Floats | None:
    """A tangent, if it is finite; ``twice``: and the same in a second run, so that noise is added to outputs only."""
    first = tangents.along(unit)
    if first is None or not np.isfinite(first).all():
        return None
    again = tangents.along(unit) if twice else first
    return first if again is not None and np.array_equal(first, again) else None
