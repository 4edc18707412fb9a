"""Conventions of symmetric matrices, and conjugates as pairs of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastgc._diagnosis import matrix_patterns
from fastgc._diagnosis.measured_tensor import MeasuredTensor, is_symmetric
from fastgc._diagnosis.next_entries import wanted
from fastgc._diagnosis.value_patterns import Pattern
from tests.support.tensors import drawn, slopes, tensor

N = slopes(8, 8)
LOWER, UPPER, EYE = np.tri(8, k=-1), np.tri(8, k=-1).T, np.eye(8)
SOME = drawn(64, 30)


def found(seen: MeasuredTensor) -> list[Pattern]:
    return [*matrix_patterns.symmetric(seen), *matrix_patterns.symmetrised(seen)]


@pytest.mark.parametrize("known", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize(
    ("factors", "text", "factor"),
    [(2 - EYE, "each off-diagonal entry doubled", 2), ((1 + EYE) / 2, "each off-diagonal entry halved", 0.5),
     (2 * LOWER + EYE, "the lower triangle doubled off the", None),
     (2 * UPPER + EYE, "the upper triangle doubled", None), (LOWER + EYE, "the upper triangle zero", None),
     (UPPER + EYE, "the lower triangle zero", None), (EYE, "zero off the diagonal", None),
     (LOWER + EYE - UPPER, "the wrong sign above", None), (UPPER + EYE - LOWER, "the wrong sign below", None)],
)  # fmt: skip
def test_a_convention_is_named(factors: np.ndarray, text: str, factor: float | None, known: Any) -> None:
    (one,) = found(tensor(N, factors * N, known))
    assert (one.kind, one.factor) == ("symmetric", factor)
    assert one.message.startswith(f"consistent with {text}")
    assert one.message.endswith("(a symmetric matrix, or a triangle of it?)")


@pytest.mark.parametrize(("factor", "text"), [(2.0, "the diagonal doubled"), (0.5, "the diagonal halved")])
def test_a_diagonal_is_named(factor: float, text: str) -> None:
    (one,) = found(tensor(N, N * (1 + (factor - 1) * EYE)))
    assert (one.kind, one.factor) == ("symmetric", None)
    assert one.message.startswith(f"consistent with {text}")
    assert found(tensor(N, N * (1 + (factor - 1) * EYE), SOME)) == []  # fewer than eight of its entries are measured


@pytest.mark.parametrize(
    ("wrong", "text"),
    [((N + N.T) / 2, "the mean of the numerical gradient and its transpose"), (N + N.T, "the sum of the numerical"),
     (N + N.T - EYE * N, "mirrored entries added up, the diagonal once"),
     ((N + N.T) * LOWER + EYE * N, "mirrored entries added up below the diagonal, zero above it"),
     ((N + N.T) * UPPER + EYE * N, "mirrored entries added up above the diagonal, zero below it")],
)  # fmt: skip
def test_mirrored_entries_are_named(wrong: np.ndarray, text: str) -> None:
    (one,) = found(tensor(N, wrong))
    assert (one.kind, one.factor) == ("symmetric", None)
    assert text in one.message


def test_stacks_of_matrices_and_small_ones_are_served() -> None:
    stack = slopes(4, 3, 3)
    assert [each.kind for each in found(tensor(stack, stack * (2 - np.eye(3))))] == ["symmetric"]
    assert [each.kind for each in found(tensor(stack, (stack + np.swapaxes(stack, 1, 2)) / 2))] == ["symmetric"]
    pair = slopes(2, 2)
    assert [each.kind for each in found(tensor(pair, pair * (2 - np.eye(2))))] == ["symmetric"]


@pytest.mark.parametrize(
    "wrong",
    [N * (2 - EYE) * np.where(np.arange(64).reshape(8, 8) == 9, 1.01, 1), N * (2.01 - 1.01 * EYE), (N + N.T) / 2.01,
     N + 0.5 * N.T, N * (2 * LOWER + EYE + 1e-3 * UPPER), 2 * N, N.T, slopes(8, 8, seed=3)],
)  # fmt: skip
def test_what_resembles_a_convention_is_none(wrong: np.ndarray) -> None:
    assert found(tensor(N, wrong)) == []


def test_a_symmetric_gradient_of_another_kind_of_bug_is_none() -> None:
    right = N + N.T
    assert found(tensor(right, 3 * right)) == []
    other = slopes(8, 8, seed=3)
    assert found(tensor(right, other + other.T)) == []


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize(("off", "on"), [(2, 1), (0.5, 1), (1, 2), (1, 0.5)])
def test_triangles_stored_as_vectors_are_served(off: float, on: float, by_rows: bool) -> None:
    rows, columns = np.tril_indices(5) if by_rows else np.triu_indices(5)
    packed = slopes(15)
    (one,) = found(tensor(packed, packed * np.where(rows == columns, on, off)))
    assert one.kind == "symmetric"
    assert found(tensor(packed[:14], packed[:14] * np.where(rows == columns, on, off)[:14])) == []


def test_matrices_stored_as_vectors_are_served() -> None:
    (one,) = found(tensor(N.ravel(), (N * (2 - EYE)).ravel(), SOME))
    assert one.message.startswith("consistent with each off-diagonal entry doubled")


def test_mirrored_entries_are_wanted_of_a_symmetric_gradient() -> None:
    right = slopes(30, 30)
    known = tensor(right, (right + right.T) / 2, drawn(900, 32))
    assert is_symmetric(known)
    assert not is_symmetric(tensor(right, right))
    assert not is_symmetric(tensor(slopes(5, 6), slopes(5, 6)))
    more = wanted(known, 29, 0)
    both = tensor(right, (right + right.T) / 2, np.union1d(known.local, more))
    assert [each.kind for each in found(both)] == ["symmetric"]


# --- conjugates ---

PAIRS = slopes(6, 2)


@pytest.mark.parametrize("known", [None, drawn(12, 11)], ids=["all", "some"])
def test_imaginary_parts_of_the_wrong_sign_are_a_missing_conjugate(known: Any) -> None:
    right = np.concatenate([PAIRS, slopes(6, 2, seed=1)]) if known is not None else PAIRS
    (one,) = matrix_patterns.conjugated(tensor(right, right * [1, -1], known if known is None else drawn(24, 20)))
    assert (one.kind, one.axis, one.factor) == ("sign", 1, None)
    assert one.message == (
        "consistent with a missing conjugate: the wrong sign in [..., 1], the imaginary parts, if pairs are complex "
        "numbers"
    )


def complex_blocks(jacobian: np.ndarray) -> np.ndarray:
    """The real Jacobian of a holomorphic function, real and imaginary parts in turn."""
    real, imaginary = jacobian.real, jacobian.imag
    blocks = np.array([[real, -imaginary], [imaginary, real]])
    return np.moveaxis(blocks, (0, 1), (1, 3)).reshape(2 * len(jacobian), -1)


def jacobian(right: np.ndarray, wrong: np.ndarray) -> MeasuredTensor:
    seen = tensor(right, wrong)
    object.__setattr__(seen, "pairs", True)
    return seen


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 3)])
def test_a_conjugate_in_a_jacobian_is_no_transpose(shape: tuple[int, int]) -> None:
    slope = slopes(*shape) + 1j * slopes(*shape, seed=1)
    seen = jacobian(complex_blocks(slope), complex_blocks(slope.conj()))
    (one,) = matrix_patterns.conjugated(seen)
    assert one.kind == "sign"
    assert "a missing conjugate: the wrong sign of real parts by imaginary ones and" in one.message


def test_outputs_and_inputs_may_be_conjugated() -> None:
    right = slopes(6, 4)
    sides = np.array([1, -1, 1, -1, 1, -1])
    for wrong, text in ((right * sides[:, None], "of outputs"), (right * sides[:4], "of inputs")):
        (one,) = matrix_patterns.conjugated(jacobian(right, wrong))
        assert f"imaginary parts {text}" in one.message
    small = slopes(2, 2)
    assert not [*matrix_patterns.conjugated(jacobian(small, small * sides[:2]))]


def test_what_resembles_a_conjugate_is_none() -> None:
    for wrong in (PAIRS * [1, -1.01], PAIRS * [-1, 1], -PAIRS, PAIRS * [1, 0], slopes(6, 2, seed=3)):
        assert not [*matrix_patterns.conjugated(tensor(PAIRS, wrong))]
    assert not [*matrix_patterns.conjugated(tensor(N, N * np.where(np.arange(8) == 7, -1, 1)))]
    assert not [*matrix_patterns.conjugated(tensor(N, N * np.where(np.arange(8) % 2, -1, 1)))]  # of real numbers
