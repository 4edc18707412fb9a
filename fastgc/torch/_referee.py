"""Entries of a Jacobian that differences leave undecided, decided by exact tangents of custom Functions.

The tangent is independent of the backward that is checked, since no rule of a Function enters it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import plural
from fastgc._jacobian.entries import Checked, JacobianAtPoint, verdicts
from fastgc._parameters.arrays import Floats, Positions, distinct
from fastgc._verdicts.exact import decided
from fastgc.torch._opened import Opened
from fastgc.torch._tangent import BODIES, BodyTangents


def refereed(call: Opened, jacobian: JacobianAtPoint, checked: Checked) -> tuple[Checked, str]:
    """The entries with those decided that differences left undecided, and a note if there are any."""
    where = np.flatnonzero(_open_to_doubt(call, checked) & np.isfinite(checked.judgement.analytic))
    exact = _exact(call, *jacobian.places(checked.estimates.positions[where])) if where.size else None
    if exact is None:
        return checked, ""
    estimates, judgement, count = decided(
        checked.estimates, checked.judgement, where, exact, call.backward.eps * np.abs(exact),
        partial(verdicts, jacobian), coarse=not call.in_double,
    )  # fmt: skip
    note = f"the exact tangent of {BODIES} decided {count} {plural(count, 'entry', 'entries')}"
    return replace(checked, estimates=estimates, judgement=judgement), note if count else ""


def _open_to_doubt(call: Opened, checked: Checked) -> NDArray[np.bool_]:
    """Entries that are not decided, or refuted by differences of coarse values."""
    judgement = checked.judgement
    return np.asarray(judgement.undecided | (judgement.failed & (not call.in_double)))


def _exact(call: Opened, outputs: Positions, inputs: Positions) -> Floats | None:
    """Entries of the Jacobian by tangents; None if one is not known."""
    tangents = BodyTangents(call.func, call.inputs, call.checked, call.compared, call.here)
    found = np.empty(inputs.size)
    for column in distinct(inputs):
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
