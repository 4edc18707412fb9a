"""Arguments of a check of a Jacobian: which are refused, and what the others become."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from fastgc import check_jacobian
from fastgc._jacobian.inputs import analytic_matrix, declared_pattern, plain_function, real_array
from tests.support.jacobians import Floats


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"jacobian": np.eye(3)}, ValueError, r"has shape \(3, 3\); f\(x\) has shape \(2,\) and x \(3,\): it must"),
        ({"jacobian": np.ones((3, 2))}, ValueError, r"it must be \(2, 3\): that is the transpose"),
        ({"jacobian": np.ones((2, 3), complex)}, TypeError, "jacobian is of dtype complex128; it must be an array"),
        ({"jacobian": sp.csr_array(np.ones((2, 3), complex))}, TypeError, "jacobian is of dtype complex128"),
        ({"jacobian": None}, ValueError, "give either jacobian or products: jvp, vjp or both"),
        ({"jvp": lambda x, u: u[:2]}, ValueError, "give either jacobian or products"),
        ({"jacobian": None, "jvp": lambda x, u: u}, ValueError, r"jvp returned shape \(3,\); it must be \(2,\)"),
        ({"jacobian": None, "vjp": lambda x, v: v}, ValueError, r"vjp returned shape \(2,\); it must be \(3,\)"),
        ({"jacobian": None, "vjp": lambda x, v: 1j * x}, TypeError, "vjp returned dtype complex128; it must return"),
        ({"f": lambda x: 1j * x[:2]}, TypeError, "f returned complex outputs: not supported; return the real and the"),
        ({"f": lambda x: None}, TypeError, r"f returned None \(NoneType\); it must return an array of real numbers"),
        ({"f": lambda x: np.log(x[:2] - 1)}, ValueError, r"f\(x\) has 2 of 2 outputs that are not finite; a Jac"),
        ({"x": np.array([1.0, np.nan, 1.0])}, ValueError, "x has 1 entries that are not finite"),
        ({"x": np.ones(3, complex)}, TypeError, "x is of dtype complex128; it must be an array of real numbers"),
        ({"args": [1]}, TypeError, "args is a list; it must be a tuple"),
        ({"columns": 0}, ValueError, "columns is 0; it must be at least 1"),
        ({"columns": "some"}, ValueError, "columns is 'some'; it must be one of 'all'"),
        ({"probes": -1}, ValueError, "probes is -1; it must be at least 0"),
        ({"step": 0.0}, ValueError, "step is 0.0; it must be finite and above 0"),
        ({"rtol": -1.0}, ValueError, "rtol is -1.0"),
        ({"atol": np.nan}, ValueError, "atol is nan"),
        ({"seed": 0.5}, TypeError, "seed is 0.5; it must be an integer"),
        ({"sparsity": np.eye(3)}, ValueError, r"sparsity has shape \(3, 3\); it must be that of the Jacobian"),
        (
            {"sparsity": np.eye(2, 3), "jacobian": np.ones((2, 3))},
            ValueError,
            r"jacobian has 4 nonzero entries outside sparsity, first \[0, 1\]; one of the two is wrong",
        ),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*log:RuntimeWarning")
def test_nonsense_is_refused(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    usual: dict[str, Any] = {"f": lambda x: x[:2], "jacobian": np.eye(2, 3), "x": np.ones(3)}
    with pytest.raises(kind, match=message):
        check_jacobian(**(usual | options))


def test_a_function_that_changes_x_or_its_outputs_is_refused() -> None:
    def changing(x: Floats) -> Floats:
        x += 1
        return x

    with pytest.raises(ValueError, match="f changed x; it must leave its argument as it is: copy it first"):
        check_jacobian(changing, np.eye(2), np.ones(2))
    with pytest.raises(ValueError, match=r"f returned shape \(1,\) near x and \(2,\) at x; it must not change"):
        check_jacobian(lambda x: x if x[0] == 1 else x[:1], np.eye(2), np.ones(2))


# --- by themselves ---


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_point_is_copied_and_its_function_works_in_its_dtype(dtype: Any) -> None:
    x = np.arange(4, dtype=np.int8).reshape(2, 2)
    point = real_array(x, dtype)
    function = plain_function(lambda p: p.T * 2, point, ())
    assert point.dtype == function.point.dtype == function.base.dtype == dtype
    assert function.base.tolist() == [0, 4, 2, 6]
    assert function.lines(np.array([1]), np.array([[5.0]])).tolist() == [[[0, 4, 10, 6]]]


@pytest.mark.parametrize("shape", [(6, 2), (3, 2, 2, 1)])
def test_a_matrix_may_have_the_shape_of_the_outputs_followed_by_that_of_the_inputs(shape: tuple[int, ...]) -> None:
    given = np.arange(12).reshape(shape)
    assert analytic_matrix(given, (3, 2), (2, 1)).tolist() == given.reshape(6, 2).tolist()
    assert analytic_matrix(None, (3, 2), (2, 1)) is None


def test_a_pattern_has_no_stored_zeros_and_is_that_of_a_sparse_jacobian_by_default() -> None:
    stored = sp.csr_array(([1.0, 0.0], ([0, 1], [0, 1])), shape=(2, 2))
    assert declared_pattern(stored, None, (2, 2)).nnz == 1
    assert declared_pattern(None, stored, (2, 2)).nnz == 2  # what is stored is meant
    assert declared_pattern(None, np.eye(2), (2, 2)) is None
