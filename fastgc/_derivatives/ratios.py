"""Which entry, or which row, ratios of residuals point at.

*One wrong entry i* with an error e makes every residual r_k = x d_ki, where x = e * scale / `UNIT` and the weights d_ki
of `random_weights` are known whole numbers: the ratios of residuals are those of the weights, and no two entries are
likely to share them. Residuals known to u_k leave for x the interval between (r_k - u_k) / d_ki and (r_k + u_k) / d_ki;
entry i is possible if the intervals of all directions meet. The wrong entry is never lost while the u_k hold.

*Coincidences.* With x given, d_ki must fall into an interval of length 2 (u_k + |r_k / r_1| u_1) / |x|, and
|x| >= |r_1| / 126. Residuals that no single entry explains are unrelated to the whole numbers: the interval then holds
as many of them as it is long, on average, and each is a weight with the probability p = `ATOM` at most. So of m entries

    m * prod over k > 1 of min(1, 252 p (u_k + |r_k / r_1| u_1) / |r_1|)

are possible by accident, if none is wrong alone (r_1 is the largest residual). If one is, up to m * p**(K - 1) others
share its K weights up to a factor; they are possible beside it, and a further direction separates them.

*A row that is wrong as a whole*, and every other line along an axis: with the weights s_i (signs) and s_i * w(k), k the
index along the axis, all its entries have the same w(k), and the ratio of the two residuals is w(k), whatever the
errors are. Along the other axes the ratio is a mean of random sign and falls anywhere. With w(k) = k - c the index can
be read off. A ratio R = r' / r is known to (u' + |R| u) / (|r| - u). It is taken for a whole number if one lies within
that, and if that is at most 1/8: any other ratio passes for one with a probability of 1/4 at most.

In all cases what is pointed at is only a suspicion: each entry is measured by itself before it is named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.random_weights import ATOM, LARGEST
from fastgc._parameters.arrays import Floats, Positions

FEW = 0.1  # coincidences, on average, below which the one possible entry is looked at: its ladder takes 12 values
_BELIEVED = 0.125  # error of a ratio, at most, that is taken for a whole number: see above


def matching(weights: NDArray[np.int8], residuals: Floats, uncertainties: Floats) -> Positions:
    """The entries that explain the residuals alone, from their weights, shape (directions, entries)."""
    lows, highs = _intervals(residuals, uncertainties)
    rows = weights.view(np.uint8)
    low, high = lows[0][rows[0]], highs[0][rows[0]]
    for k in range(1, residuals.size):
        np.maximum(low, lows[k][rows[k]], out=low)
        np.minimum(high, highs[k][rows[k]], out=high)
    return np.flatnonzero(low <= high)


def _intervals(residuals: Floats, uncertainties: Floats) -> tuple[Floats, Floats]:
    """The bounds of x for each weight as an unsigned byte, both of shape (directions, 256); empty ones are (inf, -inf).

    A weight of 0 explains a residual that is within its uncertainty, and no other.
    """
    weights = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64)
    with np.errstate(all="ignore"):
        ends = np.stack(
            [(residuals - uncertainties)[:, None] / weights, (residuals + uncertainties)[:, None] / weights]
        )
    vanishes = (np.abs(residuals) <= uncertainties)[:, None]
    low = np.where(weights == 0, np.where(vanishes, -np.inf, np.inf), ends.min(axis=0))
    high = np.where(weights == 0, np.where(vanishes, np.inf, -np.inf), ends.max(axis=0))
    return low, high


def coincidences(entries: int, residuals: Floats, uncertainties: Floats) -> float:
    """How many of so many entries explain the residuals by accident, if none is wrong alone, on average at most."""
    first = int(np.argmax(np.abs(residuals)))
    largest = abs(residuals[first])
    others = np.arange(residuals.size) != first
    off = uncertainties[others] + np.abs(residuals[others]) * (uncertainties[first] / largest)
    return float(entries * np.prod(np.minimum(1.0, 2 * LARGEST * ATOM * off / largest)))


def ramps(length: int) -> NDArray[np.int8]:
    """Weights that grow along an axis, shape (digits, length): the digits of the index, about 0.

    One digit if a byte holds the whole index, else as many as are needed, of the smallest base.
    """
    digits = 1
    while (2 * LARGEST + 1) ** digits < length:
        digits += 1
    base = _base(length, digits)
    places = np.arange(length)
    return np.stack([places // base**k % base - (base - 1) // 2 for k in range(digits)]).astype(np.int8)


def index_at(length: int, ratios: Floats, errors: Floats) -> int | None:
    """The index along an axis to which the ratios of the residuals along its `ramps` point; None if to none."""
    whole = np.rint(ratios)
    if not ((errors <= _BELIEVED) & (np.abs(ratios - whole) <= errors)).all():
        return None
    base = _base(length, ratios.size)
    digits = (whole + (base - 1) // 2).astype(np.int64).tolist()
    index = sum(digit * base**k for k, digit in enumerate(digits))
    return index if all(0 <= digit < base for digit in digits) and index < length else None


def ratios_of(residuals: Floats, uncertainties: Floats, residual: float, uncertainty: float) -> tuple[Floats, Floats]:
    """The ratios of residuals to one residual, and their errors; these are infinite where that one may vanish."""
    room = abs(residual) - uncertainty
    if not room > 0:
        return np.full(residuals.size, np.nan), np.full(residuals.size, np.inf)
    ratios = residuals / residual
    return ratios, (uncertainties + np.abs(ratios) * uncertainty) / room


def _base(length: int, digits: int) -> int:
    base: int = max(1, round(length ** (1 / digits)))
    return base if base**digits >= length else base + 1


def best_of(choices: Sequence[tuple[float, int]], residual: float) -> int | None:
    """Which way of measuring says most for its evaluations, from the uncertainty and the evaluations of each.

    A residual that is known to its share q excludes all but q of the weights, and no fewer than one weight is left.
    None where no way resolves the residual.
    """
    gains = [
        min(math.log(residual / error), math.log(1 / ATOM)) / count if 0 < error < residual else 0.0
        for error, count in choices
    ]
    best = int(np.argmax(gains))
    return best if gains[best] > 0 else None
