"""Values computed many at once, and when they may take the place of plain calls.

The rule, for every framework:

1. A batch is trusted after it was tried: plain calls compute some of its values too, and must give the same. A function
   whose first batch raises or gives other values is not batched again. Where the same batch is cheap to compare, every
   one is compared.
2. A later batch that raises does not say which of its members raised: plain calls give its values.
3. The last member of a batch of loss values is the point itself, whose value is known. Batched arithmetic rounds in
   another order; what this member deviates by is subtracted from all values, since a constant offset would look like
   a jump at the point.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastgc._parameters.arrays import Array

COMPARED = 6  # values of a batch that plain calls compute too: enough to meet entries of several rows, few to pay for

# Two ways to compute a value may differ by this many eps of its size: sums of some thousand terms in another order
# differ by less, another function by more. A value displaced so far that the loss changes much may differ by a share of
# that change besides, since terms cancel in the loss that are as large as the change.
_DIFFERING_EPS, _DIFFERING_SHARE = 1e3, 1e-3


class Batches:
    """The batches of one function: whether they are used, by the rule of this module.

    Parameters
    ----------
    possible : bool
        False: always plain calls.
    compare_all : bool
        Compare every batch with plain calls, and not the first alone.

    Attributes
    ----------
    used : whether the values of some batch were used
    trusted : whether a batch gave the same as plain calls; None before one was tried
    """

    def __init__(self, possible: bool = True, compare_all: bool = False) -> None:
        self.used = False
        self.trusted: bool | None = None if possible else False
        self._compare_all = compare_all

    @property
    def possible(self) -> bool:
        """Whether batches may be used: no batch was found to raise or to differ."""
        return self.trusted is not False

    def values(self, batch: Callable[[], Array | None], same: Callable[[Array], bool]) -> Array | None:
        """The values that ``batch()`` gives, if they may be used; else None.

        Parameters
        ----------
        batch : callable
            Computes the values of a batch; raises, or returns None, where that cannot be done.
        same : callable
            Whether plain calls give the same as some of these values.
        """
        if self.trusted is False:
            return None
        try:
            found = batch()
        except Exception:
            found = None
        if not self.trusted or (self._compare_all and found is not None):
            self.trusted = found is not None and same(found)
        self.used |= self.trusted and found is not None
        return found if self.trusted else None


def relative_to_point(values: Array, base: Array | float) -> Array:
    """The values of a batch without its last member, the point itself, whose plain value is ``base``."""
    return np.asarray(values[:-1] - (values[-1] - base))


def agree(values: Array, plain: Array, eps: float, *, size: float | None = None, change: float = 0.0) -> bool:
    """Whether values computed in two ways differ by round-off alone; never with NaN.

    Parameters
    ----------
    values, plain : arrays of one shape
    eps : the unit of round-off
    size : of the terms that were added up; by default that of the values
    change : by how much the values differ from that at the point
    """
    size = float(np.abs(plain).max(initial=0.0)) if size is None else size
    return bool(np.all(np.abs(values - plain) <= _DIFFERING_SHARE * change + _DIFFERING_EPS * eps * size))
