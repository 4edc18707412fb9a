"""When values computed many at once take the place of plain calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from fastgc._evaluation.batches import Batches, agree, relative_to_point
from fastgc._parameters.arrays import Array

VALUES = np.arange(3.0)


def giving(*results: Array | None) -> Callable[[], Array | None]:
    """A batch that gives one result after another, and raises in place of None."""
    left: Iterator[Array | None] = iter(results)

    def batch() -> Array:
        found = next(left)
        if found is None:
            raise RuntimeError("no rule")
        return found

    return batch


def counting(answers: list[bool]) -> Callable[[Array], bool]:
    return lambda values: answers.pop(0)


def test_the_first_batch_is_compared_and_later_ones_are_trusted() -> None:
    batches, answers = Batches(), [True]
    batch = giving(VALUES, 2 * VALUES)
    assert not batches.used
    assert np.array_equal(batches.values(batch, counting(answers)), VALUES)
    assert np.array_equal(batches.values(batch, counting(answers)), 2 * VALUES)
    assert batches.used and not answers


@pytest.mark.parametrize("first", [None, VALUES], ids=["raises", "differs"])
def test_a_function_whose_first_batch_cannot_be_used_is_not_batched_again(first: Array | None) -> None:
    batches, answers = Batches(), [False]
    assert batches.values(giving(first), counting(answers)) is None
    assert batches.values(giving(), counting(answers)) is None
    assert not batches.used


def test_nor_is_one_whose_batch_says_that_it_cannot_be_had() -> None:
    batches = Batches()
    assert batches.values(lambda: None, counting([])) is None
    assert batches.values(giving(), counting([])) is None


def test_a_later_batch_that_raises_is_no_reason_to_stop() -> None:
    batches = Batches()
    batch = giving(VALUES, None, VALUES)
    assert [batches.values(batch, counting([True])) is None for _ in range(3)] == [False, True, False]


def test_every_batch_is_compared_on_request() -> None:
    batches, answers = Batches(compare_all=True), [True, False]
    batch = giving(VALUES, None, VALUES)
    assert [batches.values(batch, counting(answers)) is None for _ in range(4)] == [False, True, True, True]
    assert batches.used and not answers


def test_none_is_computed_where_batches_are_not_possible() -> None:
    assert Batches(possible=False).values(giving(), counting([])) is None


def test_the_last_member_is_the_point_itself() -> None:
    assert np.array_equal(relative_to_point(np.array([1.5, 2.5, 0.5]), 0.0), [1.0, 2.0])
    outputs = np.array([[1.0, 5.0], [2.0, 6.0]])
    assert np.array_equal(relative_to_point(outputs, np.array([2.0, 5.0])), [[1.0, 4.0]])


def test_values_agree_up_to_round_off() -> None:
    eps = float(np.finfo(np.float64).eps)
    assert agree(VALUES * (1 + 100 * eps), VALUES, eps)
    assert not agree(VALUES * (1 + 1e-12), VALUES, eps)
    assert agree(VALUES * (1 + 1e-12), VALUES, eps, size=100.0)
    assert agree(VALUES + 1e-4, VALUES, eps, change=1.0)
    assert not agree(VALUES + 1e-2, VALUES, eps, change=1.0)
    assert not agree(np.array([np.nan]), np.ones(1), eps)
    assert not agree(np.ones(1), np.array([np.nan]), eps)
    assert agree(np.empty(0), np.empty(0), eps)
