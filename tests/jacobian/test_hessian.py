"""Hessians: the Jacobian of a gradient that must be right, and symmetric."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import rosen, rosen_der, rosen_hess, rosen_hess_prod

from fastgc import check_hessian
from tests.support.jacobians import Floats

X6 = np.random.default_rng(0).normal(size=6)


def test_rosenbrocks_hessian_passes_as_matrix_sparse_and_product() -> None:
    assert check_hessian(rosen, rosen_der, rosen_hess, X6).passed
    assert check_hessian(rosen, rosen_der, lambda x: sp.csr_array(rosen_hess(x)), X6).passed
    assert check_hessian(rosen, rosen_der, None, X6, hvp=rosen_hess_prod).passed
    assert check_hessian(None, rosen_der, rosen_hess, X6).passed


def test_a_wrong_entry_of_a_hessian_is_found() -> None:
    def wrong(x: Floats) -> Floats:
        result = rosen_hess(x)
        result[2, 3] *= 1.5
        result[3, 2] *= 1.5
        return result

    report = check_hessian(rosen, rosen_der, wrong, X6)
    assert {entry.index for entry in report.wrong_entries} == {(2, 3), (3, 2)}
    assert "symmetric" not in report.reason
    assert check_hessian(rosen, rosen_der, None, X6, hvp=lambda x, u: wrong(x) @ u).verdict == "fail"


def test_asymmetry_is_said_even_outside_of_the_samples() -> None:
    n = 500
    hessian = np.eye(n)
    hessian[123, 321] = 1e-3
    report = check_hessian(None, lambda x: x, hessian, np.ones(n), columns=2, probes=0)
    assert report.verdict == "fail"
    assert "hessian is not symmetric: [123, 321] is 0.001 and [321, 123] is 0" in str(report)
    product = check_hessian(None, lambda x: x, None, np.ones(n), hvp=lambda x, u: hessian @ u, columns=2, probes=0)
    assert "hvp is not symmetric: v'Hu is" in product.reason


def test_a_wrong_gradient_is_not_blamed_on_the_hessian() -> None:
    report = check_hessian(rosen, lambda x: 2 * rosen_der(x), lambda x: 2 * rosen_hess(x), X6)
    assert report.verdict == "fail"
    assert report.reason.startswith("gradient itself is wrong (params[")
    assert not report.wrong_entries


def test_an_undecided_gradient_is_noted() -> None:
    report = check_hessian(lambda x: 1e12 + abs(x @ x) / 2, lambda x: x, np.eye(3), np.full(3, 1e-4))
    assert report.passed
    assert any(note.startswith("gradient is undecided") for note in report.notes)


def test_a_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gradient returned shape \(3, 1\); x has shape \(3,\)"):
        check_hessian(None, lambda x: x[:, None], np.eye(3), np.ones(3))
