"""Which columns of a Jacobian are measured, and which of them together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np

from fastgc._jacobian.operator import Matrix, Operator
from fastgc._parameters.arrays import Array, Positions, distinct, spread
from fastgc._parameters.sampling import DEFAULT_SAMPLES
from fastgc._parameters.streams import stream
from fastgc._words import Columns

# What a check takes by default is chosen, not measured; random directions cover what is left out.
_ALL_COLUMNS = 256  # up to so many are all checked: 512 evaluations
# Outputs drawn where each row of the analytic Jacobian takes a product, and columns of inputs that bounds keep from
# random directions, at most: 64 products, or 128 evaluations.
_SOME = 64
_MOST_ENTRIES = 1_000_000  # compared one by one: some 100 MB of arrays
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Group:
    """Columns displaced together: no output may depend on two of them.

    Attributes
    ----------
    columns : inputs
    owner : for each output, the place in ``columns`` of the input that it is compared for; -1 for none
    declared : whether outputs without an owner must not move
    """

    columns: Positions
    owner: Positions
    declared: bool = False


def plan(
    operator: Operator, pattern: Matrix, columns: Columns, seed: int, held: Positions = _NONE
) -> tuple[list[Group], bool]:
    """The groups of columns to measure, and whether they cover the whole Jacobian.

    Parameters
    ----------
    pattern : CSC array or None
        The declared sparsity.
    columns : int, "all" or None
        How many columns to draw where no sparsity is declared.
    held : inputs that no random direction moves: some of them are measured as well
    """
    if pattern is not None:
        return _shared_groups(pattern), True
    m, n = operator.shape
    count = columns_drawn(n, columns)
    most = m if columns == "all" else min(m, max(1, _MOST_ENTRIES // max(1, count)))
    if operator.times is None and columns != "all":
        most = min(most, _SOME)
    owner = np.full(m, -1, np.int64)
    owner[_drawn(m, most, stream(seed, "outputs"))] = 0
    chosen = distinct(np.concatenate([_drawn(n, count, stream(seed, "columns")), held[spread(held.size, _SOME)]]))
    return [Group(np.array([column]), owner) for column in chosen.tolist()], chosen.size == n and most == m


def columns_drawn(n: int, columns: Columns) -> int:
    """How many of n columns are drawn where no sparsity is declared."""
    return n if columns == "all" else min(n, int(columns or (n if n <= _ALL_COLUMNS else DEFAULT_SAMPLES)))


def _drawn(size: int, count: int, generator: np.random.Generator) -> Positions:
    """Sorted places: the first, the last, and others at random."""
    if count >= size:
        return np.arange(size)
    drawn = generator.permutation(np.arange(1, size - 1))
    return np.sort(np.concatenate([[0, size - 1], drawn])[:count])


def _shared_groups(pattern: Matrix) -> list[Group]:
    """The columns of each colour."""
    numbers, found = colours(pattern), []
    for number in range(numbers.max(initial=-1) + 1):
        columns = np.flatnonzero(numbers == number)
        owner = np.full(pattern.shape[0], -1, np.int64)
        for place, column in enumerate(columns.tolist()):
            owner[_rows(pattern, column)] = place
        found.append(Group(columns, owner, declared=True))
    return found


def colours(pattern: Matrix) -> Positions:
    """A colour for each column of a CSC array, so that no two columns of one colour share a row.

    Columns with the most entries choose first, and take the first colour that is free in all their rows: the greedy
    algorithm of Curtis, Powell & Reid (1974), in the order of Welsh & Powell (1967). The fewest colours are hard to
    find; a band and an arrow get them.
    """
    taken = [0] * pattern.shape[0]  # of each row, the colours as bits
    found = np.empty(pattern.shape[1], np.int64)
    for column in np.argsort(-np.diff(pattern.indptr), kind="stable").tolist():
        rows = _rows(pattern, column).tolist()
        clashing = reduce(or_, (taken[row] for row in rows), 0)
        free = ~clashing & (clashing + 1)  # the lowest bit that is not set
        for row in rows:
            taken[row] |= free
        found[column] = free.bit_length() - 1
    return found


def _rows(pattern: Matrix, column: int) -> Array:
    return np.asarray(pattern.indices[pattern.indptr[column] : pattern.indptr[column + 1]])
