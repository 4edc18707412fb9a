"""An analytic Jacobian by what can be asked of it, be it a matrix or a product with one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._parameters.sampling import NotFinite, not_finite

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
Product = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Operator:
    """An analytic Jacobian J of shape (m, n).

    Attributes
    ----------
    entries : ``entries(outputs, inputs)``, both of shape (k,): the entries there
    times : ``times(u)``: J u for a vector u, or None where only v^T J can be had
    transposed : ``transposed(v)``: v^T J, or None where only J u can be had
    dtype : in which it is given
    matrix : itself, where it is one: a NumPy array or a SciPy CSR array
    """

    shape: tuple[int, int]
    entries: Callable[[Positions, Positions], Floats]
    times: Product | None
    transposed: Product | None
    dtype: np.dtype[Any]
    matrix: Any = None

    def bilinear(self, v: Floats, u: Floats) -> float:
        """v^T J u."""
        if self.times is not None:
            return float(v @ self.times(u))
        assert self.transposed is not None
        return float(self.transposed(v) @ u)


def matrix_operator(matrix: Any) -> Operator:
    """Of a NumPy array or a SciPy CSR array."""

    def entries(outputs: Positions, inputs: Positions) -> Floats:
        if not outputs.size:  # SciPy gives a sparse array for no entries
            return np.empty(0)
        return np.asarray(matrix[outputs, inputs], np.float64).reshape(-1)

    return Operator(matrix.shape, entries, lambda u: matrix @ u, lambda v: matrix.T @ v, matrix.dtype, matrix)


def jvp_operator(jvp: Product, m: int, n: int, dtype: np.dtype[Any]) -> Operator:
    """Of a function u -> J u; a column takes one call, and is kept."""

    @cache
    def column(j: int) -> Floats:
        return jvp(_unit(n, j))

    def entries(outputs: Positions, inputs: Positions) -> Floats:
        return _gathered(column, inputs, outputs)

    return Operator((m, n), entries, jvp, None, dtype)


def vjp_operator(vjp: Product, m: int, n: int, dtype: np.dtype[Any]) -> Operator:
    """Of a function v -> v^T J; a row takes one call, and is kept."""

    @cache
    def row(i: int) -> Floats:
        return vjp(_unit(m, i))

    def entries(outputs: Positions, inputs: Positions) -> Floats:
        return _gathered(row, outputs, inputs)

    return Operator((m, n), entries, None, vjp, dtype)


def _gathered(vector: Callable[[int], Floats], vectors: Positions, places: Positions) -> Floats:
    """Entry ``places[k]`` of vector number ``vectors[k]``."""
    out = np.empty(vectors.size)
    order = np.argsort(vectors, kind="stable")
    numbers, first = np.unique(vectors[order], return_index=True)
    for number, mine in zip(numbers.tolist(), np.split(order, first[1:]), strict=False):
        out[mine] = vector(number)[places[mine]]
    return out


def _unit(size: int, place: int) -> Floats:
    vector = np.zeros(size)
    vector[place] = 1.0
    return vector


# --- entries that are not finite ---


def spoiled(operator: Operator) -> NotFinite | None:
    """Which entries are not finite, as positions ``i * n + j``; None for none. A product tells one of them."""
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
    if operator.times is not None:
        place = _spoiling(operator.times, n)
        column = np.empty(0) if place is None else operator.entries(np.arange(m), np.full(m, place))
        found = [i * n + (place or 0) for i in np.flatnonzero(~np.isfinite(column)).tolist()]
    else:
        assert operator.transposed is not None
        place = _spoiling(operator.transposed, m)
        row = np.empty(0) if place is None else operator.entries(np.full(n, place), np.arange(n))
        found = [(place or 0) * n + j for j in np.flatnonzero(~np.isfinite(row)).tolist()]
    return NotFinite(len(found), np.array(found[:1], np.int64)) if found else None


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
