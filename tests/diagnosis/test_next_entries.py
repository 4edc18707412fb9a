"""Which entries of a wrong tensor are measured next, and which of the measured ones elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from fastgc._diagnosis.next_entries import strongest, wanted
from tests.support.tensors import drawn, slopes, tensor

N = slopes(12, 10)


def test_all_the_rest_is_wanted_where_it_is_little() -> None:
    assert wanted(tensor(N, 2 * N, range(100)), 29, 0).tolist() == list(range(100, 120))
    assert wanted(tensor(N, 2 * N), 29, 0).size == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["dense", "sparse", "level"])
def test_what_is_wanted_is_new_and_never_too_much(kind: str, seed: int) -> None:
    right = slopes(40, 50)
    wrong = {"dense": 2 * right, "sparse": right.copy(), "level": np.broadcast_to(right[:1], right.shape).copy()}[kind]
    wrong[7] = 9
    wrong[:, 3] = right[:, 3]
    known = tensor(right, wrong, np.union1d(drawn(2000, 30, seed), [7 * 50 + 4, 8 * 50 + 3]))
    found = wanted(known, 29, seed)
    assert 0 < found.size <= 29
    assert np.unique(found).size == found.size
    assert not np.isin(found, known.local).any()
    assert found.min() >= 0
    assert found.max() < 2000


def test_every_row_is_reached_where_most_entries_are_wrong() -> None:
    right = slopes(30, 40)
    wrong = np.where(np.arange(40) < 10, right, right[::-1])
    known = tensor(right, wrong, drawn(1200, 32))
    rows = np.concatenate([known.local, wanted(known, 29, 0)]) // 40
    assert np.unique(rows).size == 30


@pytest.mark.parametrize(("count", "more"), [(1, 15), (12, 4), (15, 1), (16, 0), (32, 0)])
def test_sixteen_entries_are_enough_where_all_are_wrong(count: int, more: int) -> None:
    right = slopes(30, 40)
    assert wanted(tensor(right, right[::-1], drawn(1200, count)), 29, 0).size == more


def test_entries_with_a_gradient_come_first() -> None:
    right = np.zeros((100, 30))
    right[::10] = slopes(10, 30)
    wrong = np.where(np.arange(30) < 5, 1, 2) * right
    known = tensor(right, wrong, np.union1d(drawn(3000, 30), np.arange(15)))
    assert right.ravel()[wanted(known, 29, 0)].all()


def test_rows_and_columns_of_a_wrong_entry_are_looked_at() -> None:
    right = slopes(40, 50)
    wrong = right.copy()
    wrong[7, 3] = 9
    known = tensor(right, wrong, np.union1d(drawn(2000, 30), [7 * 50 + 3]))
    rows, columns = np.divmod(wanted(known, 29, 0), 50)
    assert np.count_nonzero(rows == 7) >= 3
    assert np.count_nonzero(columns == 3) >= 3
    assert np.count_nonzero(np.abs(rows - 7) == 1) >= 1


def test_the_line_of_a_level_gradient_is_looked_at() -> None:
    right = slopes(20, 50)
    level = np.broadcast_to(right.mean(axis=0), right.shape).copy()
    known = tensor(right, level, drawn(1000, 30))
    columns = wanted(known, 29, 0) % 50
    assert np.unique(columns).size == 1
    assert columns.size >= 17


@pytest.mark.parametrize("shape", [(1,), (500,), (1, 500), (3, 4, 5, 9)])
def test_any_shape_is_served(shape: tuple[int, ...]) -> None:
    right = slopes(*shape)
    for wrong in 2 * right, np.where(np.arange(right.size).reshape(shape) == 0, 9, right), np.full(shape, 9.0):
        known = tensor(right, wrong, [0])
        assert wanted(known, 29, 0).size <= 29


# --- which measured entries to measure elsewhere ---


def test_the_strongest_are_wrong_and_telling_and_from_everywhere() -> None:
    wrong = np.where(np.arange(120).reshape(N.shape) % 3 == 0, 2 * N, N)
    known = tensor(N, wrong, drawn(120, 60))
    found = strongest(known, 10, seed=0)
    assert found.size == 10
    assert np.all(found % 3 == 0)
    assert found.max() > 60 > found.min()
    assert np.all(np.diff(np.flatnonzero(np.isin(known.local, found))) > 0)
    assert np.array_equal(found, known.local[np.isin(known.local, found)])


def test_where_few_are_strong_others_fill_up() -> None:
    wrong = N.copy()
    wrong[3, 4] *= 2
    found = strongest(tensor(N, wrong), 10, seed=0)
    assert found.size == 10
    assert 34 in found
    assert strongest(tensor(N, wrong), 500, seed=0).tolist() == list(range(120))
