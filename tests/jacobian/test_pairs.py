"""Complex inputs and outputs, compared as pairs of real numbers."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
import scipy.sparse

import fastgc

A = np.array([[1 + 2j, 0.5, -1j], [2 - 1j, 1j, 0.3]])
Z = np.array([0.4 + 0.2j, -0.7 + 1.1j, 0.1 - 0.5j])
T = np.array([0.4, -0.7, 0.1])


def f(x: Any) -> Any:
    return A @ x**2


def jac(x: Any) -> Any:
    return 2 * A * x


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("x", [T, Z], ids=["real inputs", "complex inputs"])
def test_analytic_functions(x: Any, form: Any) -> None:
    report = fastgc.check_jacobian(f, lambda x: form(jac(x)), x)
    assert report.passed
    assert report.output_shape == (2, 2)
    assert report.input_shape == ((3, 2) if x is Z else (3,))
    assert "complex numbers as pairs: the last index of an output or an input is 0 for the real" in str(report)
    assert fastgc.check_jacobian(f, jac(x), x).passed


@pytest.mark.parametrize("x", [T, Z], ids=["real inputs", "complex inputs"])
@pytest.mark.parametrize(
    "wrong", [lambda x: jac(x).conj(), lambda x: 1j * jac(x), lambda x: jac(x) * [1, 1, 2]], ids=["conj", "i", "factor"]
)
def test_wrong_ones_fail(x: Any, wrong: Any) -> None:
    report = fastgc.check_jacobian(f, wrong, x)
    assert report.verdict == "fail"


def test_the_wrong_entry_is_named() -> None:
    def wrong(x: Any) -> Any:
        found = jac(x).copy()
        found[1, 2] = found[1, 2].conj()
        return found

    report = fastgc.check_jacobian(f, wrong, Z)
    assert {entry.index for entry in report.wrong_entries} == {(1, 0, 2, 1), (1, 1, 2, 0)}


def test_functions_that_are_not_analytic_have_a_jacobian_in_pairs() -> None:
    def pairs(z: Any) -> Any:
        """The real part of z + 2 conj(z) is 3 times that of z, the imaginary part -1 times."""
        found = np.zeros((3, 2, 3, 2))
        found[range(3), 0, range(3), 0], found[range(3), 1, range(3), 1] = 3, -1
        return found

    assert fastgc.check_jacobian(lambda z: z + 2 * z.conj(), pairs, Z).passed
    assert fastgc.check_jacobian(lambda z: z + 2 * z.conj(), pairs(Z), Z).passed
    assert fastgc.check_jacobian(lambda z: z + 2 * z.conj(), lambda z: 3 * np.eye(3) + 0j, Z).verdict == "fail"


def test_real_outputs_of_complex_inputs() -> None:
    def power(z: Any) -> Any:
        return np.sum(np.abs(z) ** 2)

    assert fastgc.check_jacobian(power, lambda z: np.stack([2 * z.real, 2 * z.imag], axis=-1), Z).passed
    with pytest.raises(TypeError, match=r"or give jacobian real and of shape \(3, 2\), with real and imaginary parts"):
        fastgc.check_jacobian(power, lambda z: 2 * z.conj(), Z)


def test_a_jitted_function_and_args() -> None:
    @numba.njit
    def scaled(x: Any, a: Any) -> Any:
        return a * x**2

    for engine in ("auto", "python", "numba"):
        found: Any = engine
        report = fastgc.check_jacobian(scaled, lambda x, a: np.diag(2 * a * x), Z, args=(2.0 + 1j,), engine=found)
        assert report.passed


def test_assert_jacobian_and_points() -> None:
    assert fastgc.assert_jacobian(f, jac, Z, points=2).points == 2
    with pytest.raises(fastgc.JacobianMismatch):
        fastgc.assert_jacobian(f, lambda x: -jac(x), Z)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"bounds": [(0, 1)] * 3}, ValueError, "^bounds are given, and x is complex: complex numbers have no order"),
        ({"stencil": "complex_step"}, ValueError, '^stencil="complex_step" is for a function of real numbers; x or f'),
        ({"sparsity": np.ones((2, 3))}, TypeError, r"^x or f\(x\) is complex: that needs jacobian as an array or a"),
        (
            {"jacobian": np.ones((2, 3))},
            TypeError,
            "^x is of dtype complex128; it must be an array of real numbers, or",
        ),
        ({"jacobian": 1j * np.ones((3, 3))}, TypeError, r"; it is of dtype complex128 and shape \(3, 3\)$"),
    ],
)
def test_what_complex_numbers_do_not_go_with(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fastgc.check_jacobian(**({"f": f, "jacobian": jac, "x": Z} | options))


def test_a_real_jacobian_of_complex_outputs_is_refused() -> None:
    with pytest.raises(TypeError, match=r"as outputs, or give jacobian complex and of shape \(2, 3\), or real and of"):
        fastgc.check_jacobian(f, lambda x: jac(x).real, T)
