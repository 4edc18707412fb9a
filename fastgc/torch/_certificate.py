"""All entries of a Jacobian certified by a few evaluations and backward passes, as far as atol allows.

Let the outputs change by d from x - h u to x + h u. If the analytic Jacobian J is right, v^T J (x_+ - x_-) - v^T d is
round-off and truncation error, with the displaced inputs x_+ and x_- as they were rounded. If none of several such
numbers is as large as an entry wrong by atol makes some of them (see `fastgc.torch._sides`), all entries are right to
atol. Otherwise entries are measured one by one: at kinks, of coarse functions, for tolerances near round-off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastgc._parameters.arrays import Floats
from fastgc.torch._opened import Opened
from fastgc.torch._sides import AT_ONCE, input_sides, largest_hidden, largest_hidden_in_row, output_sides

# Times eps, the step for a few entries: round-off of the change counts for less than with eps. Many entries move less
# each, as the root of their number, so that the truncation error of a random sum of them does not grow.
_REACH = 8.0
_FURTHER = 2 * AT_ONCE  # vectors on each side where half as many are too few: they certify with 60 times the round-off
_MOVED = 0.9  # of a displacement must be left after rounding; otherwise the input is too large for the step
_ROUNDING = 4 * np.finfo(np.float64).eps  # of a random sum of outputs, in units of their norm
_AWAY = 2.0**-5  # far enough to leave a stair
_NEARER = 2.0**-10  # of that: within one stair


@dataclass(frozen=True)
class Changes:
    """A step, displacements, shape (k, n), the changes of the outputs, shape (k, m), and the norm of the outputs."""

    step: float
    moved: Floats
    changes: Floats
    norm: float

    def joined(self, more: Changes) -> Changes:
        """These and more."""
        moved, changes = np.vstack([self.moved, more.moved]), np.vstack([self.changes, more.changes])
        return Changes(self.step, moved, changes, max(self.norm, more.norm))


def first_changes(call: Opened, eps: float, atol: float) -> Changes | None:
    """How the outputs change along the first vectors; None where that certifies nothing to atol."""
    step = _step(call, eps)
    with np.errstate(over="ignore"):  # then nothing is certified
        least = _ROUNDING * float(np.linalg.norm(call.outputs.base)) / (2 * step)
    if not least * largest_hidden(*call.shape, _FURTHER) <= atol:
        return None
    known = _changes(call, step, range(AT_ONCE))
    return known if known is not None and _still(call, known) else None


def certified_backward(call: Opened, known: Changes, atol: float) -> bool:
    """Whether all entries by the backward pass are right to atol."""
    m, n = call.shape
    sides, products = call.backward.directions[:-2], call.backward.along[:-2]
    excess = _excess(known, sides, products)
    if excess * largest_hidden(m, n, AT_ONCE) <= atol:
        return True
    if min(m, n) <= AT_ONCE or not excess * largest_hidden(m, n, _FURTHER) <= atol:
        return False
    more, further = _changes(call, known.step, range(AT_ONCE, _FURTHER)), output_sides(m, range(AT_ONCE, _FURTHER))
    if more is None:
        return False
    sides, products = np.vstack([sides, further]), np.vstack([products, call.backward.pulled(further)])
    return bool(_excess(known.joined(more), sides, products) * largest_hidden(m, n, _FURTHER) <= atol)


def certified_forward(known: Changes, atol: float, pushed: Callable[[Floats], Floats]) -> bool:
    """Whether all entries by forward mode, ``pushed(u)`` = J u, are right to atol."""
    off = np.abs(np.stack([pushed(moved) for moved in known.moved]) - known.changes).max(initial=0.0)
    excess = (off + _ROUNDING * known.norm) / (2 * known.step)
    return bool(excess * largest_hidden_in_row(known.moved.shape[1], AT_ONCE) <= atol)


def _step(call: Opened, eps: float) -> float:
    return float(_REACH * eps / max(1.0, call.shape[1] / AT_ONCE) ** 0.5)


def _changes(call: Opened, step: float, numbers: range) -> Changes | None:
    """How the outputs change along the vectors; None where they are not defined or inputs are too large to be moved."""
    point = call.outputs.point
    lengths = step * input_sides(point.size, numbers)
    ahead, behind = point + lengths, point - lengths
    moved = ahead - behind
    if not (np.abs(moved) >= 2 * _MOVED * np.abs(lengths)).all():
        return None
    values, errors = call.outputs(np.vstack([ahead, behind]))
    if errors or not np.isfinite(values).all():
        return None
    ahead, behind = np.split(values, 2)
    return Changes(step, moved, ahead - behind, float(np.linalg.norm(values, axis=1).max()))


def _still(call: Opened, known: Changes) -> bool:
    """Whether outputs that did not change along any vector are constant there: farther away too, or up to a kink.

    Beyond a kink they have a slope; if their values are rounded, they move in stairs, and have none anywhere.
    """
    still = ~known.changes.any(axis=0)
    if not still.any():
        return True
    base, lengths = call.outputs.base[still], _AWAY * np.cos(np.arange(call.outputs.point.size))  # as good as random
    far = _at(call, lengths)[:, still]
    moved = far != base
    return not moved.any() or not (moved & (_at(call, (1 - _NEARER) * lengths)[:, still] == far)).any()


def _at(call: Opened, lengths: Floats) -> Floats:
    """The outputs on both sides of the inputs."""
    return call.outputs(call.outputs.point + lengths * [[-1.0], [1.0]])[0]


def _excess(known: Changes, sides: Floats, products: Floats) -> float:
    """The largest deviation of a slope, with its round-off; NaN if one is not finite."""
    off = np.abs(known.moved @ products.T - known.changes @ sides.T).max()
    return float((off + _ROUNDING * known.norm) / (2 * known.step))
