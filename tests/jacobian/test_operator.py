"""An analytic Jacobian by what can be asked of it: entries, products, products of products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp

from fastgc._jacobian.operator import Operator, jvp_operator, matrix_operator, vjp_operator
from tests.support.jacobians import Floats

J = np.random.default_rng(0).normal(size=(4, 6))
FLOAT = np.dtype(np.float64)

MAKERS: dict[str, Callable[[], Operator]] = {
    "array": lambda: matrix_operator(J),
    "sparse": lambda: matrix_operator(sp.csr_array(J)),
    "jvp": lambda: jvp_operator(lambda u: J @ u, 4, 6, FLOAT),
    "vjp": lambda: vjp_operator(lambda v: v @ J, 4, 6, FLOAT),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_entries_come_in_the_order_asked_for(kind: str) -> None:
    outputs, inputs = np.array([3, 0, 3, 1, 0]), np.array([5, 2, 0, 2, 2])
    operator = MAKERS[kind]()
    assert operator.shape == (4, 6)
    np.testing.assert_allclose(operator.entries(outputs, inputs), J[outputs, inputs])
    assert operator.entries(outputs[:0], inputs[:0]).shape == (0,)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_bilinear_form_is_had_from_either_product(kind: str) -> None:
    v, u = np.arange(4.0), np.arange(6.0)
    assert MAKERS[kind]().bilinear(v, u) == pytest.approx(v @ J @ u)


@pytest.mark.parametrize(("kind", "times", "transposed"), [("jvp", True, False), ("vjp", False, True)])
def test_a_product_says_which_one_it_is(kind: str, times: bool, transposed: bool) -> None:
    operator = MAKERS[kind]()
    assert (operator.times is not None, operator.transposed is not None) == (times, transposed)


def test_a_column_takes_one_call() -> None:
    calls: list[Floats] = []

    def jvp(u: Floats) -> Floats:
        calls.append(u)
        return J @ u

    operator = jvp_operator(jvp, 4, 6, FLOAT)
    for _ in range(2):
        operator.entries(np.array([0, 1, 2, 0]), np.array([5, 5, 5, 1]))
    assert [int(np.flatnonzero(u)[0]) for u in calls] == [1, 5]


def test_the_dtype_is_that_in_which_it_is_given() -> None:
    assert matrix_operator(J.astype(np.float32)).dtype == np.float32
    assert matrix_operator(J.astype(np.float32)).entries(np.array([0]), np.array([0])).dtype == np.float64
