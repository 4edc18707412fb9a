"""The complex step decides what noise hides, and keeps silent wherever the loss might not be analytic."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from fastgc import check_gradients
from fastgc._verdicts.complex_step import is_analytic

Floats = NDArray[np.float64]

X = np.array([0.3, -1.2, 2.0])
OFFSET = 1e14  # its round-off hides slopes of 1
NOTE = "the complex step decided 3 entries that noise hides from differences"


def loss(p: Floats) -> Any:
    return OFFSET + np.sum(np.sin(p) * p)


def gradient(p: Floats) -> Floats:
    return np.cos(p) * p + np.sin(p)


@numba.njit
def compiled(params: Any, weights: Any) -> Any:
    total = 1e14
    for i in range(params["p"].size):
        total += weights[i] * np.sin(params["p"][i])
    return total


def with_magnitude(p: Floats) -> Any:
    return OFFSET + np.sum(np.sin(p) * p) + 0.1 * np.sum(np.abs(p))


def with_builtin(p: Floats) -> Any:
    return OFFSET + sum(abs(each) for each in p)


def with_maximum(p: Floats) -> Any:
    return OFFSET + np.sum(np.maximum(p, 0.0))


def with_comparison(p: Floats) -> Any:
    return OFFSET + np.sum(p * (p > 0))


def with_method(p: Floats) -> Any:
    return OFFSET + p.max()


def with_part(p: Floats) -> Any:
    return OFFSET + np.sum(p.real * np.abs(p))


def with_helper(p: Floats) -> Any:
    return with_magnitude(p) + np.sum(p)


def with_norm(p: Floats) -> Any:
    return OFFSET + np.linalg.norm(p)


class Model:
    """Its methods are named like NumPy's and do something else."""

    def dot(self, p: Floats) -> Any:
        return np.sum(np.abs(p))


MODEL = Model()


def with_object(p: Floats) -> Any:
    return OFFSET + MODEL.dot(p)


def with_argument(p: Floats, model: Model) -> Any:
    return OFFSET + model.dot(p)


def with_default(p: Floats, size: Any = np.abs) -> Any:
    return OFFSET + np.sum(size(p))


def with_default_of_a_name(p: Floats, *, size: Any = np.abs) -> Any:
    return OFFSET + np.sum(size(p))


def with_import(p: Floats) -> Any:
    from math import fabs

    return fabs(p[0])


def with_store(p: Floats) -> Any:
    real = np.arange(3.0)
    real[0] = p[0]
    return OFFSET + np.sum(real) + np.sum(p)


def with_slice(p: Floats) -> Any:
    real = np.arange(3.0)
    real[:] = p
    return OFFSET + np.sum(real)


def with_dtype(p: Floats) -> Any:
    return OFFSET + np.sum(p, dtype="f8")


def with_out(p: Floats) -> Any:
    return OFFSET + np.cumsum(p, out=np.arange(3.0))[-1]


def with_real_type(p: Floats) -> Any:
    return OFFSET + np.sum(np.float64(p))


NOT_ANALYTIC = [
    with_store, with_slice, with_dtype, with_out, with_real_type,
    with_magnitude, with_builtin, with_maximum, with_comparison, with_method, with_part, with_helper, with_norm,
    with_object, with_import, with_default, with_default_of_a_name, np.abs, Model().dot,
]  # fmt: skip


def test_it_decides_what_an_offset_hides() -> None:
    right, wrong = (check_gradients(loss, lambda p, k=k: k * gradient(p), X, probes=0) for k in (1.0, 1.001))
    assert right.passed, str(right)
    assert NOTE in right.notes
    assert wrong.verdict == "fail"
    assert len(wrong.tensors["params"].wrong_entries) == 3
    assert wrong.tensors["params"].wrong_entries[0].uncertainty < 1e-13


def test_it_decides_for_a_compiled_loss_too() -> None:
    params, weights = {"p": X}, np.array([1.0, 2.0, 3.0])
    right, wrong = (
        check_gradients(compiled, lambda p, w, k=k: {"p": k * w * np.cos(p["p"])}, params, args=(weights,), probes=0)
        for k in (1.0, 1.001)
    )
    assert right.passed, str(right)
    assert any("the complex step decided" in note for note in right.notes)
    assert wrong.verdict == "fail"


@pytest.mark.parametrize("function", NOT_ANALYTIC, ids=lambda each: getattr(each, "__name__", "method"))
def test_what_is_not_known_to_be_analytic_is_noticed(function: Callable[..., Any]) -> None:
    assert not is_analytic(function)


def test_what_compiled_code_stores_stays_complex() -> None:
    assert is_analytic(numba.njit(with_store)) and not is_analytic(with_store)


def test_warnings_are_what_they_were_while_it_is_asked() -> None:
    seen: list[Any] = []

    class Weights(np.ndarray):
        """An argument that is looked at."""

        def __array_finalize__(self, other: Any) -> None:
            seen.extend(category for _, _, category, _, _ in warnings.filters)

    weights = np.ones(3).view(Weights)
    report = check_gradients(
        lambda p, w: OFFSET + np.sum(w * np.sin(p) * p),
        lambda p, w: np.asarray(gradient(p)),
        X,
        args=(weights,),
        probes=0,
    )
    assert NOTE in report.notes
    assert seen and np.exceptions.ComplexWarning not in seen


def test_what_is_analytic_is_known_to_be() -> None:
    matrix = np.eye(3)

    def nested(p: Any) -> Any:
        return sum(np.exp(each) for each in matrix @ p) + loss(p) ** 2 - np.linalg.solve(matrix, p).sum()

    def recursive(p: Any) -> Any:
        return p[0] + recursive(p[1:])

    assert is_analytic(loss)
    assert is_analytic(nested)
    assert is_analytic(compiled)
    assert is_analytic(recursive)
    assert is_analytic(lambda p: np.sum(p["W1"] @ p["W2"]))


@pytest.mark.parametrize("function", [with_magnitude, with_maximum, with_helper])
def test_an_analytic_gradient_that_forgets_the_kinks_as_the_complex_step_would_does_not_pass(
    function: Callable[..., Any],
) -> None:
    report = check_gradients(function, gradient, X, probes=0)
    assert not report.passed
    assert not any("complex" in note for note in report.notes)


def test_arguments_with_methods_of_their_own_keep_it_silent() -> None:
    report = check_gradients(with_argument, lambda p, model: np.zeros(3), X, args=(Model(),), probes=0)
    assert not report.passed
    assert not any("complex" in note for note in report.notes)


def test_a_loss_that_cannot_take_complex_numbers_is_left_as_it_is() -> None:
    def picky(p: Any) -> Any:
        if p.dtype.kind == "c":
            raise RuntimeError("real numbers only")
        return loss(p)

    def remainder(p: Any) -> Any:
        return OFFSET + sum([each % 1e3 for each in p])

    assert check_gradients(picky, gradient, X, probes=0).verdict == "undecided"
    assert check_gradients(remainder, lambda p: np.ones(3), X, probes=0).verdict == "undecided"
    assert is_analytic(remainder)


def test_it_is_not_asked_where_differences_decide() -> None:
    calls = []

    def counted(p: Any) -> Any:
        return np.sum(p * p)

    def spying(p: Any) -> Any:
        calls.append(p.dtype.kind)
        return counted(p)

    assert check_gradients(spying, lambda p: 2 * p, X).passed
    assert check_gradients(counted, lambda p: 3 * p, X).verdict == "fail"
    assert set(calls) == {"f"}
