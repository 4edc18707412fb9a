"""Measures of error, and what they usually mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastgc._parameters.arrays import Floats, Positions, as_array, of_runs
from fastgc._words import Interpretation

_ZERO_NORM = 1e-15  # two gradients whose norms add up to less are both zero: the convention of the tutorials
_FLOOR = 1e-8  # of the denominator of the element-wise error: the convention of the tutorials


def relative_error(a: ArrayLike, b: ArrayLike) -> float:
    """Norm-wise relative error ``||a - b|| / (||a|| + ||b||)``, with the 2-norm over all entries.

    Parameters
    ----------
    a, b : array_like
        Real arrays of one shape.

    Returns
    -------
    float
        Between 0 and 1; 0 where both norms are (near) zero, below 1e-15 together; NaN where an entry is NaN.

    Raises
    ------
    TypeError, ValueError
        For what is no array of real numbers, and for arrays of different shapes.

    Examples
    --------
    >>> import fastgc
    >>> fastgc.relative_error([3.0, 0.0], [0.0, 0.0]), fastgc.relative_error([0.0], [0.0])
    (1.0, 0.0)
    """
    first, second = _same_shape(a, b)
    return float(relative_errors(first.reshape(-1), second.reshape(-1), np.array([0, first.size]))[0])


def relative_errors(a: Floats, b: Floats, ends: Positions) -> Floats:
    """`relative_error` of each run of entries, from ``ends[k]`` to ``ends[k + 1]``; 0 for an empty one."""
    largest = of_runs(np.maximum, np.maximum(np.abs(a), np.abs(b)), ends)
    with np.errstate(all="ignore"):
        scales = np.ldexp(1.0, np.minimum(np.frexp(largest)[1], 1023))
        first, second = a / scales.repeat(ends[1:] - ends[:-1]), b / scales.repeat(ends[1:] - ends[:-1])
        squares = [of_runs(np.add, each * each, ends) for each in (first, second, first - second)]
        norms = np.sqrt(squares[0]) + np.sqrt(squares[1])
        errors = np.where(norms * scales <= _ZERO_NORM, 0.0, np.sqrt(squares[2]) / norms)
    return np.where(np.isfinite(largest), errors, np.nan)


@np.errstate(all="ignore")
def max_relative_error(a: ArrayLike, b: ArrayLike) -> float:
    """Element-wise maximum ``max |a - b| / max(|a| + |b|, 1e-8)``.

    Parameters
    ----------
    a, b : array_like
        Real arrays of one shape.

    Returns
    -------
    float
        0 for empty arrays; NaN where an entry is NaN.

    Raises
    ------
    TypeError, ValueError
        For what is no array of real numbers, and for arrays of different shapes.

    Examples
    --------
    >>> import fastgc
    >>> fastgc.max_relative_error([1.0, 3.0], [1.0, 1.0])
    0.5
    """
    first, second = _same_shape(a, b)
    return float(elementwise_error(first, second).max(initial=0.0))


def elementwise_error(a: Floats, b: Floats) -> Floats:
    """``|a - b| / max(|a| + |b|, 1e-8)`` of each entry, computed from halves so that no sum overflows."""
    with np.errstate(all="ignore"):
        first, second = np.multiply(a, 0.5), np.multiply(b, 0.5)
        error, size = np.asarray(first - second), np.abs(first)
        size = np.asarray(size + np.abs(second))
        np.divide(np.abs(error, out=error), np.maximum(size, _FLOOR / 2, out=size), out=error)
    return error


def _same_shape(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    first, second = _real("a", a), _real("b", b)
    if first.shape != second.shape:
        raise ValueError(f"a has shape {first.shape}; b has shape {second.shape}: they must be the same")
    return first, second


def _real(name: str, value: ArrayLike) -> Floats:
    array = as_array(value, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} is of dtype {array.dtype}; it must be an array of real numbers")
    return array.astype(np.float64, copy=False)


def interpret(relative_error: float) -> Interpretation:
    """What a relative error in double precision usually means, in words.

    Parameters
    ----------
    relative_error : float
        Norm-wise or element-wise, of a gradient in double precision.

    Returns
    -------
    str
        Below 1e-7 "correct with high confidence", to 1e-5 "likely correct", to 1e-3 "suspicious, investigate", above
        that, and for NaN, "almost certainly a bug": the bands that gradient-checking tutorials use.

    Examples
    --------
    >>> import fastgc
    >>> fastgc.interpret(3e-9), fastgc.interpret(0.5)
    ('correct with high confidence', 'almost certainly a bug')
    """
    if relative_error < 1e-7:
        return "correct with high confidence"
    if relative_error < 1e-5:
        return "likely correct"
    if relative_error <= 1e-3:
        return "suspicious, investigate"
    return "almost certainly a bug"
