"""An analytic Jacobian as an operator, given by a matrix or by a product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from fastgc._derivatives.random_weights import UNIT, random_weights
from fastgc._parameters.arrays import DType, Floats, Positions
from fastgc._parameters.sampling import NotFinite, not_finite
from fastgc._verdicts.judgement import default_rtol

Matrix: TypeAlias = Any  # a NumPy array or a sparse one of SciPy, which has no types; or None
Product = Callable[[Floats], Floats]

# Of rtol, relative to the norm of the terms: no finite difference is involved, only the round-off of two sums.
_TRANSPOSE_SHARE = 0.1


@dataclass(frozen=True)
class Operator:
    """An analytic Jacobian J of shape (m, n).

    Attributes
    ----------
    entries : ``entries(outputs, inputs)``, both of shape (k,): the entries there
    times : ``times(u)`` = J u for a vector u; None where only v^T J is given
    transposed : ``transposed(v)`` = v^T J; None where only J u is given
    dtype : in which it is given
    matrix : the NumPy array or SciPy CSR array, where it is one
    """

    shape: tuple[int, int]
    entries: Callable[[Positions, Positions], Floats]
    times: Product | None
    transposed: Product | None
    dtype: DType
    matrix: Matrix = None

    @property
    def T(self) -> Operator:
        """The transpose of an operator given by a product."""
        return Operator(self.shape[::-1], lambda i, j: self.entries(j, i), self.transposed, self.times, self.dtype)

    def bilinear(self, v: Floats, u: Floats) -> float:
        """v^T J u."""
        return float(v @ self.times(u)) if self.times is not None else self.T.bilinear(u, v)


def matrix_operator(matrix: Matrix) -> Operator:
    """From a NumPy array or a SciPy CSR array."""

    def entries(outputs: Positions, inputs: Positions) -> Floats:
        if not outputs.size:  # SciPy gives a sparse array for no entries
            return np.empty(0)
        return np.asarray(matrix[outputs, inputs], np.float64).reshape(-1)

    return Operator(matrix.shape, entries, lambda u: matrix @ u, lambda v: matrix.T @ v, matrix.dtype, matrix)


def jvp_operator(jvp: Product, m: int, n: int, dtype: DType) -> Operator:
    """From a function u -> J u; each column takes one call, and is kept."""

    @cache
    def column(j: int) -> Floats:
        unit = np.zeros(n)
        unit[j] = 1.0
        return jvp(unit)

    def entries(outputs: Positions, inputs: Positions) -> Floats:
        out = np.empty(inputs.size)
        order = np.argsort(inputs, kind="stable")
        numbers, first = np.unique(inputs[order], return_index=True)
        for number, mine in zip(numbers.tolist(), np.split(order, first[1:]), strict=False):
            out[mine] = column(number)[outputs[mine]]
        return out

    return Operator((m, n), entries, jvp, None, dtype)


def vjp_operator(vjp: Product, m: int, n: int, dtype: DType) -> Operator:
    """From a function v -> v^T J; each row takes one call, and is kept."""
    return jvp_operator(vjp, n, m, dtype).T


def contradiction(times: Product, transposed: Product, shape: tuple[int, int], message: str) -> str:
    """The message with both values where v^T (J u) and (v^T J) u differ for random u and v; else "".

    A single wrong entry shows for any weights, and several of one size hardly ever cancel: see `random_weights`.
    """
    v, u = (random_weights(0, range(1), str(k), size, "transpose")[0] / UNIT for k, size in enumerate(shape))
    ahead, behind = times(u), transposed(v)
    forward, backward = v * ahead, behind * u
    rtol = _TRANSPOSE_SHARE * max(default_rtol(ahead.dtype), default_rtol(behind.dtype))
    allowed = rtol * (np.linalg.norm(forward) + np.linalg.norm(backward))
    agree = abs(forward.sum() - backward.sum()) <= allowed
    return "" if agree else message.format(f"{forward.sum():.6g}", f"{backward.sum():.6g}")


# --- entries that are not finite ---


def spoiled(operator: Operator) -> NotFinite | None:
    """Which entries are not finite, as positions ``i * n + j``; None for none. A product shows those of one column."""
    if not all(operator.shape):
        return None
    if operator.matrix is None:
        return _in_product(operator)
    if isinstance(operator.matrix, np.ndarray):
        return not_finite(operator.matrix.reshape(-1))
    stored = not_finite(operator.matrix.data)
    if stored is None:
        return None
    rows = np.searchsorted(operator.matrix.indptr, stored.first, side="right") - 1
    return NotFinite(stored.count, rows * operator.shape[1] + operator.matrix.indices[stored.first])


def _in_product(operator: Operator) -> NotFinite | None:
    """An entry that is not finite makes the sum of its row, or of its column, not finite either."""
    m, n = operator.shape
    if operator.times is None:
        found = _in_product(operator.T)
        if found is None:
            return None
        inputs, outputs = np.divmod(found.first, m)
        return NotFinite(found.count, outputs * n + inputs)
    column = _spoiling(operator.times, n)
    if column is None:
        return None
    outputs = np.flatnonzero(~np.isfinite(operator.entries(np.arange(m), np.full(m, column))))
    return NotFinite(outputs.size, outputs[:1] * n + column) if outputs.size else None


def _spoiling(product: Product, size: int) -> int | None:
    """The place in a vector that makes its product not finite, by halving; None where no place does."""
    if np.isfinite(product(np.ones(size))).all():
        return None
    low, high = 0, size
    while high - low > 1:
        middle = (low + high) // 2
        half = np.zeros(size)
        half[low:middle] = 1.0
        low, high = (middle, high) if np.isfinite(product(half)).all() else (low, middle)
    return low
