"""Right but for a factor: symmetric matrices, in which an entry stands for two, and conjugates as pairs of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastgc._diagnosis.measured_tensor import MeasuredTensor, Positions, is_square, mirrored
from fastgc._diagnosis.value_patterns import Pattern, explaining

Floats = NDArray[np.float64]
Factors = tuple[float, float, float]  # below, on and above the diagonal

# Those that make sense for a triangle stored as a vector, by rows or by columns, too.
_OF_TRIANGLES: tuple[tuple[Factors, str], ...] = (
    ((2.0, 1.0, 2.0), "each off-diagonal entry doubled"),
    ((0.5, 1.0, 0.5), "each off-diagonal entry halved"),
    ((1.0, 2.0, 1.0), "the diagonal doubled"),
    ((1.0, 0.5, 1.0), "the diagonal halved"),
)
_CONVENTIONS: tuple[tuple[Factors, str], ...] = (
    *_OF_TRIANGLES,
    ((2.0, 1.0, 0.0), "the lower triangle doubled off the diagonal, the upper one zero"),
    ((0.0, 1.0, 2.0), "the upper triangle doubled off the diagonal, the lower one zero"),
    ((1.0, 1.0, 0.0), "the upper triangle zero, the rest right"),
    ((0.0, 1.0, 1.0), "the lower triangle zero, the rest right"),
    ((0.0, 1.0, 0.0), "zero off the diagonal, the diagonal right"),
    ((1.0, 1.0, -1.0), "the wrong sign above the diagonal"),
    ((-1.0, 1.0, 1.0), "the wrong sign below the diagonal"),
)
_OFF_DIAGONAL = ((2.0, 1.0, 2.0), (0.5, 1.0, 0.5))  # whose wrong entries share a factor
# Factors of the numerical gradient, and of its transpose.
_SYMMETRISED: tuple[tuple[Factors, Factors, str], ...] = (
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "the mean of the numerical gradient and its transpose"),
    ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "the sum of the numerical gradient and its transpose"),
    ((1.0, 1.0, 1.0), (1.0, 0.0, 1.0), "mirrored entries added up, the diagonal once"),
    ((1.0, 1.0, 0.0), (1.0, 0.0, 0.0), "mirrored entries added up below the diagonal, zero above it"),
    ((0.0, 1.0, 1.0), (0.0, 0.0, 1.0), "mirrored entries added up above the diagonal, zero below it"),
)


# --- symmetric matrices ---


def symmetric(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Entries of a matrix count twice, half or not at all, depending on their side of the diagonal."""
    tried = [(side, *each) for side, conventions in _sides(tensor) for each in conventions]
    candidates = (
        (_pattern(text, factors[0] if factors in _OFF_DIAGONAL else None), _without(tensor, factors, side))
        for side, factors, text in tried
    )
    yield from explaining(tensor, candidates, 2, len(tried))


def symmetrised(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Mirrored entries are added up or averaged; seen where both of them are measured."""
    if not is_square(tensor):
        return
    order = np.argsort(tensor.local, kind="stable")
    mirror = mirrored(tensor)
    partner = order[np.minimum(np.searchsorted(tensor.local[order], mirror), order.size - 1)]
    paired = tensor.local[partner] == mirror
    both = tensor.part(paired)
    both = replace(both, slack=both.slack + tensor.slack[partner][paired])
    side = np.sign(both.index[-1] - both.index[-2]) + 1
    candidates = (
        (_pattern(text), _without(both, own, side) - np.take(across, side) * tensor.numerical[partner][paired])
        for own, across, text in _SYMMETRISED
    )
    yield from explaining(both, candidates, 2, len(_SYMMETRISED))


def _sides(tensor: MeasuredTensor) -> Iterator[tuple[Positions, Sequence[tuple[Factors, str]]]]:
    """The side of the diagonal of each entry, 0 below, 1 on and 2 above, with the conventions that it makes sense for.

    A vector may hold a whole matrix, or a triangle by rows or by columns.
    """
    size = tensor.gradient.size
    if is_square(tensor):
        yield np.sign(tensor.index[-1] - tensor.index[-2]) + 1, _CONVENTIONS
    elif len(tensor.shape) == 1 and (length := math.isqrt(size)) > 1 and length**2 == size:
        yield np.sign(tensor.local % length - tensor.local // length) + 1, _CONVENTIONS
    length = (math.isqrt(8 * size + 1) - 1) // 2
    if len(tensor.shape) == 1 and length > 2 and length * (length + 1) // 2 == size:
        by_rows = np.cumsum(np.arange(1, length + 1)) - 1
        for diagonal in (by_rows, size - 1 - by_rows):
            yield np.isin(tensor.local, diagonal).astype(np.int64), _OF_TRIANGLES


def _without(tensor: MeasuredTensor, factors: Factors, side: Positions) -> Floats:
    return np.asarray(tensor.analytic - np.take(factors, side) * tensor.numerical)


def _pattern(text: str, factor: float | None = None) -> Pattern:
    return Pattern("symmetric", f"consistent with {text} (a symmetric matrix, or a triangle of it?)", factor)


# --- complex numbers as pairs ---


def conjugated(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Complex numbers as pairs of real and imaginary parts, and the conjugate of the right ones."""
    found = [*_conjugates(tensor)]
    yield from explaining(tensor, found, 1, len(found))


def _conjugates(tensor: MeasuredTensor) -> Iterator[tuple[Pattern, Floats]]:
    """In a Jacobian of pairs, a part of a block changes its sign; in a gradient, the last of each pair."""
    where: list[tuple[str, Positions]] = []
    if tensor.pairs:
        row, column = (each % 2 for each in tensor.index)
        where = [("of real parts by imaginary ones and of imaginary parts by real ones", row ^ column)]
        if tensor.shape != (2, 2):  # whose rows and columns are few, and may hold anything
            where += [("of the imaginary parts of outputs", row), ("by the imaginary parts of inputs", column)]
    elif len(tensor.shape) > 1 and tensor.shape[-1] == 2:
        where = [("in [..., 1], the imaginary parts", tensor.index[-1])]
    for text, flipped in where:
        message = f"consistent with a missing conjugate: the wrong sign {text}, if pairs are complex numbers"
        yield (
            Pattern("sign", message, axis=None if tensor.pairs else len(tensor.shape) - 1),
            (np.where(flipped == 1, -tensor.analytic, tensor.analytic) - tensor.numerical),
        )
