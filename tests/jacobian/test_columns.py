"""Which columns are measured, and which of them together."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgc._jacobian.columns import colours, plan
from fastgc._jacobian.operator import matrix_operator, vjp_operator
from tests.support.jacobians import Floats


def clashes(pattern: Floats, numbers: Any) -> bool:
    """Whether two columns of one colour share a row."""
    return any((pattern[:, numbers == number].sum(axis=1) > 1).any() for number in set(numbers))


def fewest(pattern: Floats) -> int:
    """By trying all colourings."""
    n = pattern.shape[1]
    return min(len(set(each)) for each in product(range(n), repeat=n) if not clashes(pattern, np.array(each)))


PATTERNS = st.tuples(st.integers(1, 5), st.integers(1, 4)).flatmap(
    lambda shape: st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
        lambda bits: np.array(bits, float).reshape(shape)
    )
)


@settings(max_examples=40, deadline=None)
@given(PATTERNS)
def test_no_two_columns_of_one_colour_share_a_row_and_the_colours_are_few(pattern: Floats) -> None:
    numbers = colours(sp.csc_array(pattern))
    used, least = int(numbers.max()) + 1, fewest(pattern)
    assert not clashes(pattern, numbers)
    assert set(numbers.tolist()) == set(range(used))
    assert max(1, pattern.sum(axis=1).max()) <= least <= used <= least + 1  # never more than one above, this small


@pytest.mark.parametrize("n", [1, 2, 3, 50, 401])
@pytest.mark.parametrize("width", [1, 3, 5, 21])
def test_a_band_needs_as_many_colours_as_it_is_wide(n: int, width: int) -> None:
    half = width // 2
    band = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= half
    assert colours(sp.csc_array(band)).max() + 1 == min(n, width)


@pytest.mark.parametrize("place", [0, 17, 39])
def test_arrows_need_two_colours_or_one_for_each_column(place: int) -> None:
    down, across = np.eye(40), np.eye(40)
    down[:, place] = across[place, :] = 1
    assert colours(sp.csc_array(down)).max() + 1 == 2
    assert colours(sp.csc_array(across)).max() + 1 == 40


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4, 3)])
def test_columns_without_entries_share_one_colour(shape: tuple[int, int]) -> None:
    assert colours(sp.csc_array(shape)).tolist() == [0] * shape[1]


def test_groups_own_the_outputs_of_their_columns_and_forbid_the_others_to_move() -> None:
    pattern = sp.csc_array(np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]]))
    groups, complete = plan(matrix_operator(pattern), pattern, None, 0)
    assert complete
    assert [(group.columns.tolist(), group.owner.tolist()) for group in groups] == [
        ([0, 1], [0, 1, -1]),
        ([2], [0, -1, -1]),
    ]
    assert all(group.declared for group in groups)


@pytest.mark.parametrize(
    ("m", "n", "columns", "shape"),
    [
        (40, 256, None, (40, 256)),
        (40, 257, None, (40, 32)),
        (40, 257, "all", (40, 257)),
        (40, 257, 7, (40, 7)),
        (40, 5, 7, (40, 5)),
        (100_000, 20, None, (50_000, 20)),
        (100_000, 20, "all", (100_000, 20)),
    ],
)
def test_so_many_outputs_and_columns_are_drawn(m: int, n: int, columns: Any, shape: tuple[int, int]) -> None:
    operator = matrix_operator(np.broadcast_to(0.0, (m, n)))
    groups, complete = plan(operator, None, columns, 0)
    assert (np.count_nonzero(groups[0].owner == 0), len(groups)) == shape
    assert complete == (shape == (m, n))
    assert not any(group.declared for group in groups)
    drawn = [int(group.columns[0]) for group in groups]
    assert (drawn[0], drawn[-1]) == (0, n - 1)


def test_few_rows_are_drawn_where_each_takes_a_product() -> None:
    operator = vjp_operator(lambda v: np.zeros(3), 100, 3, np.dtype(float))
    groups, complete = plan(operator, None, None, 0)
    assert (np.count_nonzero(groups[0].owner == 0), complete) == (64, False)
    assert plan(operator, None, "all", 0)[1]
