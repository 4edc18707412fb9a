"""How far the entries of a tensor must be displaced for the loss to move, where their own size is too small."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fastgc._parameters.arrays import Array

# Let c be the relative change of the loss over the scale. A central quotient with the step eps**(1/3) * scale has the
# relative error eps / (6e-6 * c): 4e-8 for c = 1e-3, and 4e-5, above the default rtol, for c = 1e-6.
_ENOUGH, _TOO_LITTLE = 1e-3, 1e-6
_SMALL = 1e-4  # a larger scale changes a loss of order 1 by more than 1e-6, unless its slope is below 0.01
_BRACKET = 64.0  # three steps of a ladder, which spans a factor of 4 million: a closer search gains nothing

# Relative change of the loss when entries move by a scale; not finite where it has no value there.
Change = Callable[[float], float]


def responsive_scale(own: float, change: Change) -> float:
    """The smallest scale, up to 1, at which the loss changes enough; ``own`` where that does, or where no other helps.

    The smallest, because values farther away say less about the slope here. The change is assumed to grow with the
    scale; the search halves the logarithm of a bracket, about ten times at most.
    """
    if own >= _SMALL:
        return own
    near = change(own)
    if not near < _TOO_LITTLE:  # true for NaN: the loss is not defined even so near
        return own
    far = change(1.0)
    if far <= _BRACKET * near:
        return own
    wanted = min(_ENOUGH, far / 2) if math.isfinite(far) else _ENOUGH
    low, high, within = own, 1.0, math.isfinite(far)
    while high > _BRACKET * low:
        middle = math.exp((math.log(low) + math.log(high)) / 2)
        moved = change(middle)
        if moved < wanted:
            low = middle
        else:  # also for NaN: the loss is not defined so far away
            high, within = middle, math.isfinite(moved)
    return high if within else low


def relative_change(values: Array, bases: Array) -> float:
    """The largest change of values from their bases, in units of these, shapes (..., losses) and (losses,)."""
    with np.errstate(all="ignore"):
        moved = np.abs(values - bases)
        return float(np.max(np.where(moved > 0, moved / np.abs(bases), moved), initial=0.0))
