"""Names for array types, and numbers that summarise large arrays."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import brief

Array: TypeAlias = NDArray[Any]
DType: TypeAlias = np.dtype[Any]
Shape: TypeAlias = tuple[int, ...]
Floats: TypeAlias = NDArray[np.float64]
Positions: TypeAlias = NDArray[np.int64]  # of entries: in the flat vector of all parameters, or in one flat tensor
Flags: TypeAlias = NDArray[np.bool_]

# Entries that a sum over a flat array converts at a time: 1 MiB of float64, which a cache holds, and no second array of
# the tensor's size.
_SUMMED_AT_ONCE = 1 << 17


def as_array(value: Any, what: str) -> Array:
    """A value that a caller gave or returned as an array of NumPy's own class, not copied where it is one already.

    Raises
    ------
    TypeError
        For what NumPy cannot read: a tensor of a framework that needs its gradient or lies on a GPU, nested lists.
    ValueError
        For an array with masked entries, of which the values are unknown.
    """
    try:
        array = np.asarray(value)
    except Exception as error:
        given = f"{what} is a {type(value).__name__}"
        raise TypeError(f"{given} that NumPy cannot read as an array ({brief(str(error))}); pass an array") from error
    count = masked(value)
    if count:
        raise ValueError(f"{what} has {count} of {array.size} entries masked, which have no value; use .filled(...)")
    return array


def returned_values(value: Any) -> Array:
    """Values that a caller's function returned as an array, NaN where they are masked; what NumPy raises passes on."""
    array = np.asarray(value)
    return np.where(value.mask, np.nan, array) if masked(value) else array


def masked(value: Any) -> int:
    """The number of masked entries of an array of ``numpy.ma``, which this does not import; 0 for any other value."""
    plain = type(value) is np.ndarray or not isinstance(value, np.ndarray)
    return 0 if plain else int(np.count_nonzero(getattr(value, "mask", False)))


def norm(gradient: Array) -> float:
    """The 2-norm of a flat array. No square overflows; the norm is infinite only where it is too large for a float."""
    largest, squares = _scaled_squares(gradient)
    return largest * math.sqrt(squares)


def root_mean_square(gradient: Array) -> float:
    """The root mean square of a flat array, 0 for an empty one. It never exceeds the largest entry, nor overflows."""
    largest, squares = _scaled_squares(gradient)
    return largest * math.sqrt(squares / max(1, gradient.size))


def _scaled_squares(gradient: Array) -> tuple[float, float]:
    """The largest magnitude, and the sum of the squares of the entries divided by it, in double precision."""
    blocks = [gradient[i : i + _SUMMED_AT_ONCE] for i in range(0, gradient.size, _SUMMED_AT_ONCE)]
    largest = max((float(np.abs(block).max()) for block in blocks), default=0.0)
    if largest == 0 or not np.isfinite(largest):
        return largest, 1.0
    scaled = (block.astype(np.float64) / largest for block in blocks)
    return largest, sum(float(np.dot(block, block)) for block in scaled)


def spread(size: int, count: int) -> Positions:
    """``count`` evenly spaced indices of ``size`` items, from the first to the last; all indices if they are fewer."""
    count = min(size, count)
    return np.arange(count) * max(0, size - 1) // max(1, count - 1)


def median(values: Floats) -> float:
    """The same as ``np.median``, NaN included. It does not import ``numpy.ma``, which takes ten milliseconds.

    Parameters
    ----------
    values : array, shape (n,), n >= 1
    """
    middle = values.size // 2
    ordered = np.partition(values, [middle - 1, middle, -1] if values.size > 1 else 0)  # NaN stands last
    if np.isnan(ordered[-1]):
        return float("nan")
    return float(ordered[middle] if values.size % 2 else ordered[middle - 1] / 2 + ordered[middle] / 2)
