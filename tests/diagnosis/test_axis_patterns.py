"""Right values in other places, and values constant along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastgc._diagnosis import axis_patterns
from fastgc._diagnosis.measured_tensor import MeasuredTensor
from fastgc._diagnosis.value_patterns import Pattern
from tests.support.tensors import drawn, slopes, tensor

N, SQUARE, CUBE = slopes(12, 10), slopes(9, 9), slopes(4, 3, 5)
SOME = drawn(120, 30)
ORDER = np.array([3, 7, 0, 1, 2, 11, 4, 5, 6, 10, 8, 9])


def first(pattern: Callable[..., Any], seen: MeasuredTensor, *more: Any) -> Pattern | None:
    return next(pattern(seen, *more), None)


def kinds(pattern: Callable[..., Any], seen: MeasuredTensor, *more: Any) -> list[str]:
    return [each.kind for each in pattern(seen, *more)]


@pytest.mark.parametrize("known", [None, drawn(81, 20)], ids=["all", "some"])
def test_a_transposed_matrix(known: Any) -> None:
    found = first(axis_patterns.rearranged, tensor(SQUARE, np.ascontiguousarray(SQUARE.T), known))
    assert found is not None
    assert found.kind == "transpose"


def test_axes_of_equal_length_exchanged() -> None:
    right = slopes(5, 3, 5)
    found = first(axis_patterns.rearranged, tensor(right, np.ascontiguousarray(np.swapaxes(right, 0, 2))))
    assert found is not None
    assert "axes 0 and 2 exchanged" in found.message


def test_a_symmetric_matrix_is_not_transposed() -> None:
    right = SQUARE + SQUARE.T
    wrong = right * np.linspace(1.1, 1.3, 81).reshape(9, 9)
    assert kinds(axis_patterns.rearranged, tensor(right, (wrong + wrong.T) / 2)) == []


@pytest.mark.parametrize("known", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize(
    ("wrong", "text"),
    [(N[::-1], "reversed along axis 0"), (N[:, ::-1], "reversed along axis 1"), (N[::-1, ::-1], "along axes 0 and 1"),
     (np.roll(N, 1, 0), "shifted by +1 along axis 0"), (np.roll(N, -1, 1), "shifted by -1 along axis 1"),
     (np.concatenate([0 * N[:1], N[:-1]]), "shifted by +1 along axis 0, which loses the last one"),
     (np.concatenate([N[1:], N[-1:]]), "shifted by -1 along axis 0, which loses the first one"),
     (N.ravel(order="F").reshape(N.shape), "read in one order and written in the other"),
     (N.ravel().reshape(N.shape, order="F"), "read in one order and written in the other")],
)  # fmt: skip
def test_rearrangements(wrong: np.ndarray, text: str, known: Any) -> None:
    found = first(axis_patterns.rearranged, tensor(N, np.ascontiguousarray(wrong), known))
    assert found is not None
    assert found.kind == "permutation"
    assert text in found.message


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_several_axes_reversed(axes: tuple[int, ...]) -> None:
    found = first(axis_patterns.rearranged, tensor(CUBE, np.ascontiguousarray(np.flip(CUBE, axes))))
    assert found is not None
    assert found.message.endswith(" and ".join(map(str, axes)))


def test_a_rearrangement_of_wrong_values_is_none() -> None:
    seen = tensor(N, np.ascontiguousarray(1.01 * N[::-1]))
    assert kinds(axis_patterns.rearranged, seen) == kinds(axis_patterns.reordered, seen) == []


# --- any order ---


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("known", [None, drawn(120, 60)], ids=["all", "some"])
def test_lines_in_any_order(axis: int, known: Any) -> None:
    order = np.random.default_rng(2).permutation(N.shape[axis])
    found = first(axis_patterns.reordered, tensor(N, np.take(N, order, axis), known))
    assert found is not None
    assert (found.kind, found.axis) == ("permutation", axis)
    assert f"the lines of axis {axis} in another order" in found.message


def test_two_lines_exchanged_and_longer_shifts_are_named() -> None:
    order = np.arange(12)
    order[[3, 7]] = 7, 3
    exchanged, rolled = (first(axis_patterns.reordered, tensor(N, wrong)) for wrong in (N[order], np.roll(N, 4, 0)))
    assert exchanged is not None
    assert "lines 3 and 7 of axis 0 exchanged" in exchanged.message
    assert rolled is not None
    assert "shifted by 4 along axis 0" in rolled.message


@pytest.mark.parametrize("wrong", [N[ORDER] * np.where(np.arange(12) == 5, 1.001, 1)[:, None],
                                   N[np.where(ORDER == 9, 8, ORDER)]], ids=["changed", "repeated"])  # fmt: skip
def test_an_order_that_changes_or_repeats_a_line_is_none(wrong: np.ndarray) -> None:
    assert kinds(axis_patterns.reordered, tensor(N, wrong)) == []


def test_two_equal_lines_do_not_come_from_one() -> None:
    right, wrong = N.copy(), N.copy()
    right[1] = right[0]
    wrong[:3] = N[2], N[0], slopes(10, seed=8)
    assert kinds(axis_patterns.reordered, tensor(right, wrong)) == []


def test_zeros_fit_anywhere_and_show_no_order() -> None:
    """A slope of zero with an analytic gradient that is not: as the bias before a batch normalisation may have."""
    wrong = np.array([0.3, -0.2, 0.5, 0.0, 0.0, 0.0, 0.0])
    assert kinds(axis_patterns.reordered, tensor(np.zeros(7), wrong)) == []


def test_coarse_values_of_a_long_axis_show_no_order() -> None:
    right, wrong = slopes(2000), slopes(2000, seed=1)
    assert kinds(axis_patterns.reordered, tensor(right, wrong, drawn(2000, 60), slack=5e-3)) == []
    order = np.random.default_rng(0).permutation(2000)
    assert kinds(axis_patterns.reordered, tensor(right, right[order], drawn(2000, 60), slack=1e-7)) == ["permutation"]


def test_a_large_tensor_known_as_a_whole_is_served() -> None:
    right = slopes(300, 200)
    assert kinds(axis_patterns.reordered, tensor(right, right[np.random.default_rng(0).permutation(300)])) == [
        "permutation"
    ]


# --- another tensor's ---


def test_a_gradient_of_another_tensor() -> None:
    other = slopes(12, 10, seed=3)
    found = first(axis_patterns.swapped, tensor(N, other, SOME), {"V": tensor(other, other, drawn(120, 10, seed=1))})
    assert found is not None
    assert (found.kind, "'V'" in found.message) == ("swapped", True)
    assert kinds(axis_patterns.swapped, tensor(N, 1.001 * other), {"V": tensor(other, other)}) == []
    assert kinds(axis_patterns.swapped, tensor(N, other), {"V": tensor(other, other, range(7))}) == []
    pair = slopes(2), slopes(2, seed=3)
    assert kinds(axis_patterns.swapped, tensor(*pair), {"V": tensor(pair[1], pair[1], slack=1e-5)}) == ["swapped"]
    assert kinds(axis_patterns.swapped, tensor(*pair), {"V": tensor(pair[1], pair[1], slack=9e-3)}) == []
    assert kinds(axis_patterns.swapped, tensor(N, 0 * N), {"V": tensor(0 * N, 0 * N)}) == []


# --- along an axis ---


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_a_level_axis(axis: int, reduce: str) -> None:
    level = np.broadcast_to(getattr(N, reduce)(axis=axis, keepdims=True), N.shape).copy()
    found = first(axis_patterns.broadcast, tensor(N, level))
    assert found is not None
    assert (found.kind, found.axis) == ("broadcast", axis)
    assert found.message.endswith(f"their {reduce} along it")


def test_an_axis_that_is_level_on_both_sides_is_no_broadcast() -> None:
    right = np.broadcast_to(N[:1], N.shape).copy()
    assert kinds(axis_patterns.broadcast, tensor(right, right + P_ROW)) == []


P_ROW = slopes(1, 10, seed=1)


def test_a_sum_over_the_wrong_axis_has_the_same_total() -> None:
    square = np.random.default_rng(0).uniform(0.5, 2, (9, 9))
    right, wrong = square.sum(axis=0), square.sum(axis=1)
    found = first(axis_patterns.wrong_axis, tensor(right, wrong, lengths={9: "the batch axis of args[0]"}))
    assert found is not None
    assert (found.kind, found.axis) == ("broadcast", 0)
    assert found.message.endswith("9 = N, the batch axis of args[0]")
    assert kinds(axis_patterns.wrong_axis, tensor(right, wrong)) == []
    assert kinds(axis_patterns.wrong_axis, tensor(right, wrong * 1.001, lengths={9: "x"})) == []
    assert kinds(axis_patterns.wrong_axis, tensor(right[:8], right[:8] + np.resize([1, -1], 8), lengths={8: "x"})) == []
    centred = right - right.mean(), wrong - wrong.mean()
    assert kinds(axis_patterns.wrong_axis, tensor(*centred, lengths={9: "x"})) == []


@pytest.mark.parametrize("size", [3, 5, 9, 40])
@pytest.mark.parametrize("share", [1e-4, 1e-2])
def test_the_same_total_by_chance_shows_no_wrong_axis(size: int, share: float) -> None:
    """Errors of 1e-4 that cancel within the tolerance: three in ten tensors of three entries have such a sum."""
    found = 0
    for seed in range(50):
        right = np.abs(slopes(size, seed=seed))
        wrong = right * (1 + share * np.random.default_rng(seed).normal(size=size))
        found += len(kinds(axis_patterns.wrong_axis, tensor(right, wrong, lengths={size: "x"})))
    assert found == 0
