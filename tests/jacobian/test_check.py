"""Jacobians: what must be found, what must not be accused, what is said."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgc import check_hessian, check_jacobian
from tests.support.jacobians import (
    WIDE,
    df,
    f,
    layer,
    layer_jacobian,
)

# --- dense ---


def test_the_missions_jacobian_passes_with_its_values() -> None:
    report = check_jacobian(f, df, [2.0, 3.0])
    assert report.passed
    assert report.matrix("analytic").tolist() == [[4, 1], [3, -4]]
    np.testing.assert_allclose(report.matrix("numerical"), [[4, 1], [3, -4]], atol=1e-9)
    assert report.shape == (2, 2)
    assert report.checked == report.size == 4
    assert report.max_relative_error < 1e-9


def test_a_wrong_entry_is_named_by_output_and_input() -> None:
    report = check_jacobian(f, lambda x: df(x) * [[1, 1], [1, 2]], [2.0, 3.0])
    assert report.verdict == "fail"
    assert report.by_output == {(1,): 1}
    assert report.by_input == {(1,): 1}
    assert report.worst is not None
    assert report.worst.index == (1, 1)
    assert report.worst.analytic == -8
    assert report.worst.numerical == pytest.approx(-4, abs=1e-8)
    assert report.reason == "1 of 4 checked entries differs"
    assert [entry.index for entry in report.wrong_entries] == [(1, 1)]


def test_extra_arguments_reach_every_function() -> None:
    assert check_jacobian(lambda x, a: a * x**2, lambda x, a: np.diag(2 * a * x), np.ones(3), args=(3.0,)).passed
    assert check_jacobian(
        lambda x, a: a * x, None, np.ones(3), jvp=lambda x, u, a: a * u, vjp=lambda x, v, a: a * v, args=(3.0,)
    ).passed
    assert check_hessian(None, lambda x, a: a * x, lambda x, a: a * np.eye(3), np.ones(3), args=(3.0,)).passed


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_right_ones_pass_and_wrong_ones_fail_whatever_the_function(seed: int, m: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    a, x = generator.normal(size=(m, n)) * 10.0 ** generator.integers(-6, 6, (m, 1)), generator.normal(size=n)
    assert check_jacobian(lambda x: a @ np.sin(x), lambda x: a * np.cos(x), x).passed
    factors = np.ones((m, n))
    factors[generator.integers(m), generator.integers(n)] = 1.1
    assert check_jacobian(lambda x: a @ np.sin(x), lambda x: factors * a * np.cos(x), x).verdict == "fail"


# --- at the limits ---


def test_nothing_to_check_is_fine() -> None:
    assert check_jacobian(lambda x: x, np.empty((0, 0)), np.empty(0)).passed
    assert check_jacobian(lambda x: np.empty(0), np.empty((0, 3)), np.ones(3)).passed
    assert check_jacobian(lambda x: np.ones(2), np.empty((2, 0)), np.empty(0)).passed


@pytest.mark.parametrize(("m", "n"), [(2, 3), (0, 3), (2, 0)])
def test_a_sparse_jacobian_without_any_entry_is_fine(m: int, n: int) -> None:
    report = check_jacobian(lambda x: np.ones(m), sp.csr_array((m, n)), np.ones(n))
    assert report.passed, str(report)
    assert report.checked == 0


def test_a_scalar_has_a_jacobian_of_one_entry() -> None:
    assert check_jacobian(lambda x: x**2, lambda x: np.asarray(2 * x), 3.0).passed


def test_the_callers_array_is_left_alone_and_may_be_read_only() -> None:
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(3, 2)))
    x.flags.writeable = False
    before = x.copy()
    assert check_jacobian(lambda x: x.ravel() ** 2, lambda x: np.diag(2 * x.ravel()), x).passed
    assert (x == before).all()


# --- samples and products ---


def test_the_seed_draws_other_columns() -> None:
    drawn = [check_jacobian(layer, layer_jacobian, WIDE, columns=5, seed=seed).entries.local for seed in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


def test_products_that_are_no_transposes_of_each_other_fail() -> None:
    jacobian = layer_jacobian(WIDE)
    right = check_jacobian(layer, None, WIDE, jvp=lambda x, u: jacobian @ u, vjp=lambda x, v: v @ jacobian)
    assert right.passed
    wrong = check_jacobian(layer, None, WIDE, jvp=lambda x, u: jacobian @ u, vjp=lambda x, v: v @ jacobian * 1.001)
    assert wrong.verdict == "fail"
    assert "vjp is not the transpose of jvp: v'Ju is" in str(wrong)
    single = jacobian.astype(np.float32)
    rounded = check_jacobian(
        layer,
        None,
        WIDE,
        jvp=lambda x, u: single @ u.astype(np.float32),
        vjp=lambda x, v: v.astype(np.float32) @ single,
    )
    assert rounded.passed, str(rounded)


# --- progress ---


def test_the_bar_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    check_jacobian(f, df, [2.0, 3.0], progress=True)
    assert "2/2" in capsys.readouterr().err
