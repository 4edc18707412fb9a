"""Wrong values in few places: lines, entries, masks, repeated indices; and what stands there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastgc._diagnosis import sparse_patterns
from fastgc._diagnosis.measured_tensor import MeasuredTensor
from fastgc._diagnosis.sparse_patterns import Repeats, repeats
from fastgc._diagnosis.value_patterns import Pattern
from tests.support.tensors import drawn, slopes, tensor

N = slopes(12, 10)
SOME = drawn(120, 30)


def first(pattern: Callable[..., Any], seen: MeasuredTensor, *more: Any) -> Pattern | None:
    return next(pattern(seen, *more), None)


def kinds(pattern: Callable[..., Any], seen: MeasuredTensor, *more: Any) -> list[str]:
    return [each.kind for each in pattern(seen, *more)]


def planted(where: Any, value: Any) -> np.ndarray:
    wrong = N.copy()
    wrong[where] = value
    return wrong


@pytest.mark.parametrize(
    ("wrong", "axis", "index", "text"),
    [(planted(-1, 0), 0, 11, "[11, :] is wrong as a whole, the rest is right (the last index: off by one?), zero in"),
     (planted(0, 0), 0, 0, "[0, :] is wrong as a whole, the rest is right (the first index: off by one?), zero in"),
     (planted((slice(None), -1), 9), 1, 9, "[:, 9] is wrong as a whole, the rest is right (the last index"),
     (planted(5, 3 * N[5]), 0, 5, "[5, :] is wrong as a whole, the rest is right"),
     (planted(5, N[4]), 0, 5, "the rest is right, a copy of the one before"),
     (planted(5, np.nan), 0, 5, "the rest is right, not finite in the analytic gradient")],
)  # fmt: skip
def test_a_wrong_line(wrong: np.ndarray, axis: int, index: int, text: str) -> None:
    found = first(sparse_patterns.sparse, tensor(N, wrong))
    assert found is not None
    assert (found.kind, found.axis, found.indices) == ("sparse", axis, ((index,),))
    assert text in found.message


def test_several_wrong_lines() -> None:
    found = first(sparse_patterns.sparse, tensor(N, planted(([2, 5], slice(None)), 0)))
    assert found is not None
    assert found.indices == ((2,), (5,))
    assert "[2, :], [5, :] are wrong as a whole" in found.message


def test_single_wrong_entries() -> None:
    found = first(sparse_patterns.sparse, tensor(N, planted(([2, 5], [3, 3]), 0)))
    assert found is not None
    assert (found.axis, found.indices) == (None, ((2, 3), (5, 3)))
    assert "[2, 3], [5, 3] are wrong" in found.message


def test_the_last_entry_of_a_vector() -> None:
    right = slopes(9, 1)
    wrong = right * (np.arange(9) < 8)[:, None]
    found = first(sparse_patterns.sparse, tensor(right, wrong))
    assert found is not None
    assert found.indices == ((8, 0),)
    assert found.message.endswith("[8, 0] is wrong (the last index: off by one?)")


def test_a_line_with_a_right_entry_is_not_wrong_as_a_whole() -> None:
    wrong = planted(5, 3 * N[5])
    wrong[5, 4] = N[5, 4]
    found = first(sparse_patterns.sparse, tensor(N, wrong))
    assert found is not None
    assert found.axis is None
    assert len(found.indices) == 9


def test_one_tested_entry_of_a_line_is_not_the_line() -> None:
    found = first(sparse_patterns.sparse, tensor(N, planted(5, 0), np.union1d(drawn(50, 20), [53])))
    assert found is not None
    assert (found.axis, found.indices) == (None, ((5, 3),))


def test_half_of_the_entries_are_not_few() -> None:
    half = np.where(np.random.default_rng(0).random(N.shape) < 0.5, 2 * N, N)
    assert kinds(sparse_patterns.sparse, tensor(N, half)) == []
    assert kinds(sparse_patterns.sparse, tensor(N, half, SOME)) == []
    assert kinds(sparse_patterns.sparse, tensor(N, 2 * N)) == []


# --- ends, and what stands in the wrong places ---


@pytest.mark.parametrize(("size", "place", "said"), [(2, 0, False), (2, 1, False), (3, 2, False), (4, 0, False),
                                                     (5, 4, True), (9, 0, True), (9, 4, False)])  # fmt: skip
def test_an_end_is_said_where_most_places_are_none(size: int, place: int, said: bool) -> None:
    wrong = np.where(np.arange(size) == place, 3, 1) * slopes(size)
    found = first(sparse_patterns.sparse, tensor(slopes(size), wrong))
    assert found is not None
    assert found.indices == ((place,),)
    assert ("off by one?" in found.message) is said


@pytest.mark.parametrize(
    ("factor", "what"),
    [(-1, "the wrong sign"), (2, "a constant factor of 2"), (0.37, "a constant factor of 0.37"), (0, "zeros")],
)
@pytest.mark.parametrize("known", [None, drawn(120, 80)], ids=["all", "some"])
def test_what_wrong_lines_have_in_common_is_said(factor: float, what: str, known: Any) -> None:
    for where in (5, (slice(None), [2, 3])):
        wrong = planted(where, factor * N[where])
        found = first(sparse_patterns.sparse, tensor(N, wrong, known))
        assert found is not None
        assert found.message.startswith(f"consistent with {what} in some lines: [")
        assert found.factor == pytest.approx(factor)
        assert found.axis == (0 if where == 5 else 1)


def test_what_wrong_entries_have_in_common_is_said() -> None:
    for factor, what in ((-1, "the wrong sign"), (0.5, "a constant factor of 0.5"), (3.7, "a constant factor of 3.7")):
        wrong = N * np.where(np.isin(np.arange(120), [7, 33, 81]).reshape(N.shape), factor, 1)
        found = first(sparse_patterns.sparse, tensor(N, wrong))
        assert found is not None
        assert found.message == f"consistent with {what} in few entries: [0, 7], [3, 3], [8, 1] are wrong"
        assert found.factor == pytest.approx(factor)


def test_errors_of_no_factor_stay_errors() -> None:
    drift = np.linspace(1.9, 2.1, 10)
    found = first(sparse_patterns.sparse, tensor(N, planted(5, drift * N[5])))
    assert found is not None
    assert (found.factor, found.message.split(":")[0]) == (None, "consistent with an error in some lines")
    one = first(sparse_patterns.sparse, tensor(N, planted((3, 4), 3.3 * N[3, 4])))  # one entry shows no factor of 3.3
    assert one is not None
    assert one.factor is None


def test_most_lines_may_be_wrong_if_a_factor_shows_it() -> None:
    wrong = planted(slice(0, 9), -N[:9])
    found = first(sparse_patterns.sparse, tensor(N, wrong))
    assert found is not None
    assert (found.axis, found.factor, len(found.indices)) == (0, pytest.approx(-1), 9)
    assert kinds(sparse_patterns.sparse, tensor(N, planted(slice(0, 9), slopes(9, 10, seed=4)))) == []


def test_the_imaginary_parts_of_pairs_with_the_wrong_sign_are_a_conjugate() -> None:
    found = first(sparse_patterns.sparse, tensor(slopes(2), slopes(2) * [1, -1]))
    assert found is not None
    assert "the wrong sign (a missing conjugate, if pairs are complex numbers) in few entries: [1] is" in found.message
    real = first(sparse_patterns.sparse, tensor(slopes(2), slopes(2) * [-1, 1]))
    assert real is not None
    assert "conjugate" not in real.message


# --- few, by chance ---


@pytest.mark.parametrize("size", [2, 3, 5])
def test_entries_right_by_chance_make_the_others_no_few(size: int) -> None:
    """Of errors of 1e-4, one in ten is within a tolerance of 1e-5."""
    right = slopes(size)
    errors = np.where(np.arange(size) == 0, 1e-4, 0.9e-5)
    assert kinds(sparse_patterns.sparse, tensor(right, right * (1 + errors))) == []
    exact = np.where(np.arange(size) == 0, 0.5, 0)
    assert kinds(sparse_patterns.sparse, tensor(right, right * (1 + exact))) == ["sparse"]


# --- masks ---


@pytest.mark.parametrize("known", [None, SOME], ids=["all", "some"])
def test_a_mask_is_found(known: Any) -> None:
    keep = slopes(12, 10, seed=4) > 0
    found = first(sparse_patterns.masked, tensor(N, np.where(keep, N, 0), known, parameters=slopes(12, 10, seed=4)))
    assert found is not None
    assert found.kind == "clipped"
    assert found.message.endswith("measured entries are zero, the rest is right (zero where the parameter is negative)")
    other = first(sparse_patterns.masked, tensor(N, np.where(keep, N, 0), known, parameters=slopes(12, 10, seed=5)))
    assert other is not None
    assert other.message.endswith("the rest is right")


@pytest.mark.parametrize(("zeros", "kind"), [(2, "sparse"), (6, "sparse"), (7, ""), (12, "")])
def test_few_zeros_are_no_mask(zeros: int, kind: str) -> None:
    right = slopes(24)
    found = first(sparse_patterns.sparse, tensor(right, np.where(np.arange(24) % 12 * 2 < zeros, 0, right)))
    assert (found.kind if found else "") == kind
    half = first(sparse_patterns.sparse, tensor(right, np.where(np.arange(24) < zeros, 2, 1) * right))
    assert half is not None


def test_what_resembles_a_mask_is_none() -> None:
    keep = slopes(12, 10, seed=4) > 0
    for wrong in (np.where(keep, N, 1e-3 * N), np.where(keep, 1.01 * N, 0), 0 * N, np.where(keep, N, np.nan)):
        assert kinds(sparse_patterns.masked, tensor(N, wrong)) == []
    assert kinds(sparse_patterns.masked, tensor(np.where(keep, N, 0), np.where(keep, N, 0))) == []


# --- many entries, at a place that has a name ---

ROWS, COLUMNS = np.indices(N.shape)
SIGNS = slopes(12, 10, seed=4)


@pytest.mark.parametrize("known", [None, drawn(120, 60)], ids=["all", "some"])
@pytest.mark.parametrize("factor", [-1, 2, 0.37])
@pytest.mark.parametrize(
    ("here", "text", "axis"),
    [(SIGNS < 0, "where the parameter is negative", None), (SIGNS > 0, "where the parameter is positive", None),
     (ROWS % 2 == 1, "in the odd lines of axis 0", 0), (COLUMNS % 2 == 0, "in the even lines of axis 1", 1),
     (ROWS < 7, "in lines 0 to 6 of axis 0", 0), (COLUMNS > 3, "in lines 4 to 9 of axis 1", 1)],
)  # fmt: skip
def test_a_factor_in_part_of_a_tensor_is_found_with_its_place(
    here: np.ndarray, text: str, axis: int | None, factor: float, known: Any
) -> None:
    (found,) = sparse_patterns.partly(tensor(N, np.where(here, factor * N, N), known, parameters=SIGNS))
    assert (found.kind, found.axis, found.factor) == ("sparse", axis, pytest.approx(factor))
    assert found.message.endswith(f" {text}, the rest is right")


def test_a_factor_at_no_place_with_a_name_is_none() -> None:
    somewhere = slopes(12, 10, seed=5) > 0
    for here, value in ((somewhere, 2 * N), (ROWS < 7, N * np.linspace(2, 3, 10)), (ROWS >= 0, 2 * N),
                        (ROWS % 3 == 0, 2 * N)):  # fmt: skip
        assert kinds(sparse_patterns.partly, tensor(N, np.where(here, value, N), parameters=SIGNS)) == []
    seen = tensor(N, np.where(ROWS < 7, 2, 1) * N, drawn(120, 12), parameters=SIGNS)  # fewer than eight are wrong
    assert kinds(sparse_patterns.partly, seen.part(np.arange(12) > 4)) == []


# --- repeated indices ---


def test_repeated_numbers_of_the_arguments_are_found() -> None:
    found = repeats((np.ones(3), {"ids": np.array([[3, 1], [3, 0]])}, np.array([1, 2]), np.array([-1, -1])))
    assert [(each.name, each.once.tolist(), each.several.tolist()) for each in found] == [("args[1]", [0, 1], [3])]
    assert [each.several.tolist() for each in repeats(([2, 5, 2], ("a", "a"), [0.5, 0.5], []))] == [[2]]


INDEX = Repeats("args[0]", np.array([0, 2, 4, 6, 8, 10]), np.array([1, 3, 5, 9]))


@pytest.mark.parametrize("known", [None, drawn(120, 70)], ids=["all", "some"])
def test_rows_that_an_index_repeats_are_said_to_be_overwritten(known: Any) -> None:
    wrong = planted([1, 3, 5, 9], 0.6 * slopes(4, 10, seed=2))
    found = first(sparse_patterns.overwritten, tensor(N, wrong, known), [INDEX])
    assert found is not None
    assert (found.kind, found.axis, found.indices) == ("sparse", 0, ((1,), (3,), (5,), (9,)))
    assert found.message == (
        "consistent with contributions overwritten instead of added up: [1, :], [3, :], [5, :], [9, :] are wrong, "
        "where args[0] repeats the index"
    )


@pytest.mark.parametrize("rows", [[1, 2], [1], [0, 1, 3, 5, 9], list(range(12))])
def test_other_rows_are_not(rows: list[int]) -> None:
    wrong = planted(rows, 0.6 * slopes(len(rows), 10, seed=2))
    assert kinds(sparse_patterns.overwritten, tensor(N, wrong), [INDEX]) == []


def test_numbers_beyond_the_axis_are_no_index_of_it() -> None:
    wrong = planted([1, 3, 5, 9], 0.6 * slopes(4, 10, seed=2))
    for beyond in (
        Repeats("y", INDEX.once, np.array([1, 3, 5, 9, 12])),
        Repeats("y", np.array([0, 20]), INDEX.several),
    ):
        assert kinds(sparse_patterns.overwritten, tensor(N, wrong), [beyond]) == []
