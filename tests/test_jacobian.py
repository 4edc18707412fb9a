"""Jacobians and Hessians: what must be found, what must not be accused, what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import rosen, rosen_der, rosen_hess, rosen_hess_prod

import fastgc
from fastgc import JacobianReport, check_hessian, check_jacobian

Floats = NDArray[np.float64]


def f(x: Floats) -> Floats:
    return np.array([x[0] ** 2 + x[1], x[0] * x[1] - x[1] ** 2])


def df(x: Floats) -> Floats:
    return np.array([[2 * x[0], 1], [x[1], x[0] - 2 * x[1]]])


RNG = np.random.default_rng(0)
A, WIDE = RNG.normal(size=(40, 600)) / 25, RNG.normal(size=600)


def layer(x: Floats) -> Floats:
    return np.tanh(A @ x)


def layer_jacobian(x: Floats) -> Floats:
    return (1 - layer(x) ** 2)[:, None] * A


def spoiled(place: tuple[int, int], factor: float) -> Callable[[Floats], Floats]:
    def jacobian(x: Floats) -> Floats:
        result = layer_jacobian(x)
        result[place] *= factor
        return result

    return jacobian


def by_kind(kind: str, jacobian: Callable[[Floats], Floats], x: Floats, **options: Any) -> JacobianReport:
    """The same Jacobian as a matrix, a function or one of the products."""
    if kind == "array":
        return check_jacobian(layer, jacobian(x), x, **options)
    if kind == "callable":
        return check_jacobian(layer, jacobian, x, **options)
    if kind == "jvp":
        return check_jacobian(layer, None, x, jvp=lambda x, u: jacobian(x) @ u, **options)
    return check_jacobian(layer, None, x, vjp=lambda x, v: v @ jacobian(x), **options)


KINDS = ["array", "callable", "jvp", "vjp"]

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


def test_both_small_matrices_stand_side_by_side_with_marks() -> None:
    text = str(check_jacobian(f, lambda x: df(x).T, [2.0, 3.0]))
    assert "analytic (* differs)   numerical" in text
    assert "4   3*                 4   1" in text
    assert "1* -4                  3  -4" in text
    assert "wrong entries by output: [0]: 1, [1]: 1" in text
    assert "the analytic Jacobian is the transpose of the numerical one" in text


def test_wide_matrices_stand_one_above_the_other_and_large_ones_are_left_out() -> None:
    wrong = check_jacobian(np.sin, lambda x: -np.diag(np.cos(x)), np.linspace(1, 2, 12))
    lines = str(wrong).splitlines()
    assert any(line.startswith("numerical") for line in lines)
    assert max(map(len, lines[1:])) <= 160
    large = check_jacobian(np.sin, lambda x: -np.diag(np.cos(x)), np.linspace(1, 2, 20))
    assert "analytic (* differs)" not in str(large)


def test_shapes_of_outputs_and_inputs_index_the_entries() -> None:
    def g(x: Floats) -> Floats:
        return np.sin(x).reshape(3, 2)

    def dg(x: Floats) -> Floats:
        result = np.diag(np.cos(x).ravel()).reshape(3, 2, 2, 3)
        result[2, 0, 1, 1] = 0.0
        return result

    report = check_jacobian(g, dg, np.arange(6.0).reshape(2, 3))
    assert report.output_shape == (3, 2)
    assert report.input_shape == (2, 3)
    assert report.by_output == {(2, 0): 1}
    assert report.by_input == {(1, 1): 1}
    assert "output [2, 0] by input [1, 1]" in str(report)


def test_extra_arguments_reach_every_function() -> None:
    assert check_jacobian(lambda x, a: a * x**2, lambda x, a: np.diag(2 * a * x), np.ones(3), args=(3.0,)).passed
    assert check_jacobian(
        lambda x, a: a * x, None, np.ones(3), jvp=lambda x, u, a: a * u, vjp=lambda x, v, a: a * v, args=(3.0,)
    ).passed
    assert check_hessian(None, lambda x, a: a * x, lambda x, a: a * np.eye(3), np.ones(3), args=(3.0,)).passed


def test_the_kind_of_bug_is_named() -> None:
    report = check_jacobian(np.sin, lambda x: 2 * np.diag(np.cos(x)), np.linspace(0.1, 1, 9))
    assert report.diagnosis is not None
    assert report.diagnosis.factor == pytest.approx(2)
    assert "constant factor of 2" in str(report)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_right_ones_pass_and_wrong_ones_fail_whatever_the_function(seed: int, m: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    a, x = generator.normal(size=(m, n)) * 10.0 ** generator.integers(-6, 6, (m, 1)), generator.normal(size=n)
    assert check_jacobian(lambda x: a @ np.sin(x), lambda x: a * np.cos(x), x).passed
    factors = np.ones((m, n))
    factors[generator.integers(m), generator.integers(n)] = 1.1
    assert check_jacobian(lambda x: a @ np.sin(x), lambda x: factors * a * np.cos(x), x).verdict == "fail"


# --- what must not be accused, what cannot be decided ---


def test_a_value_between_the_slopes_of_a_kink_passes() -> None:
    x = np.array([0.0, 1.0, -1.0])
    report = check_jacobian(lambda x: np.maximum(x, 0), lambda x: np.diag((x > 0) * 1.0), x)
    assert report.passed
    assert report.reason == "kink at 1 of 9 checked entries"
    assert check_jacobian(lambda x: np.maximum(x, 0), np.diag([1.5, 1, 0]), x).verdict == "fail"


def test_outputs_that_never_move_agree_with_zeros_only() -> None:
    assert check_jacobian(lambda x: np.ones(2), np.zeros((2, 3)), np.ones(3)).passed
    assert check_jacobian(lambda x: np.zeros(2), np.zeros((2, 3)), np.ones(3)).passed
    assert check_jacobian(lambda x: np.ones(2), np.full((2, 3), 1e-3), np.ones(3)).verdict == "fail"


def test_a_slope_hidden_by_round_off_is_undecided_unless_it_is_said_to_be_zero_and_seen_so() -> None:
    report = check_jacobian(lambda x: 1e12 + 1e-9 * x, np.diag([1e-9] * 2), np.ones(2))
    assert report.verdict == "undecided"
    assert "noise or round-off of this output hides the slope" in str(report)


def test_noise_is_said_and_hides_small_slopes() -> None:
    generator = np.random.default_rng(0)

    def noisy(x: Floats) -> Floats:
        return 1e-3 * x + 1e-2 * generator.random(3)

    report = check_jacobian(noisy, np.diag([2e-3] * 3), np.ones(3))
    assert report.verdict == "undecided"
    assert "f is noisy: a repeated call gave other outputs" in str(report)


def test_outputs_of_unlike_units_do_not_hide_each_other() -> None:
    def g(x: Floats) -> Floats:
        return np.array([1e10 * x[0], 1e-10 * x[1]])

    assert check_jacobian(g, np.diag([1e10, 1e-10]), np.ones(2)).passed
    assert check_jacobian(g, np.diag([1e10, 2e-10]), np.ones(2)).by_output == {(1,): 1}


def test_inputs_of_unlike_units_do_not_hide_each_other() -> None:
    a = np.random.default_rng(0).normal(size=(6, 3)) * [1, 1e-9, 1]
    wrong = a.copy()
    wrong[2, 1] *= 1.5
    assert check_jacobian(lambda x: a @ x, a, np.ones(3)).passed
    assert check_jacobian(lambda x: a @ x, wrong, np.ones(3)).by_input == {(1,): 1}


def test_the_domains_edge_is_stepped_back_from() -> None:
    x = np.array([1e-9, 1.0])
    assert check_jacobian(np.sqrt, lambda x: np.diag(0.5 / np.sqrt(x)), x).passed


def test_single_precision_gets_its_own_tolerance() -> None:
    x = np.array([1.3, 0.7])
    assert check_jacobian(lambda x: x**2, lambda x: np.diag(2 * x).astype(np.float32) * np.float32(1 + 1e-5), x).passed
    assert check_jacobian(lambda x: x**2, lambda x: np.diag(2 * x) * (1 + 1e-4), x).verdict == "fail"
    product = check_jacobian(lambda x: x**2, None, x, jvp=lambda x, u: (2 * x * u).astype(np.float32))
    assert product.passed


def test_nan_in_the_jacobian_fails_and_nan_beside_x_does_not_pass() -> None:
    assert check_jacobian(np.sin, np.diag([np.nan, 1.0]), np.array([0.5, 0.0])).verdict == "fail"
    hole = check_jacobian(lambda x: np.where(x == 1.0, x, np.nan), np.eye(1), np.ones(1))
    assert hole.verdict == "undecided"
    assert "not finite nearby" in hole.reason


def test_nothing_to_check_is_fine() -> None:
    assert check_jacobian(lambda x: x, np.empty((0, 0)), np.empty(0)).passed
    assert check_jacobian(lambda x: np.empty(0), np.empty((0, 3)), np.ones(3)).passed
    assert check_jacobian(lambda x: np.ones(2), np.empty((2, 0)), np.empty(0)).passed


def test_a_scalar_has_a_jacobian_of_one_entry() -> None:
    assert check_jacobian(lambda x: x**2, lambda x: np.asarray(2 * x), 3.0).passed


def test_the_callers_array_is_left_alone_and_may_be_read_only() -> None:
    x = np.asfortranarray(RNG.normal(size=(3, 2)))
    x.flags.writeable = False
    before = x.copy()
    assert check_jacobian(lambda x: x.ravel() ** 2, lambda x: np.diag(2 * x.ravel()), x).passed
    assert (x == before).all()


def test_an_exception_of_f_passes_through_and_one_of_its_domain_does_not() -> None:
    def picky(x: Floats) -> Floats:
        if x[0] != 1.0:
            raise RuntimeError("only here")
        return x

    with pytest.raises(RuntimeError, match="only here"):
        check_jacobian(picky, np.eye(1), np.ones(1))

    def logarithm(x: Floats) -> list[float]:
        import math

        return [math.log(each) for each in x]

    x = np.array([1e-8, 2.0])
    assert check_jacobian(logarithm, np.diag(1 / x), x).passed


# --- products, samples and projections ---


@pytest.mark.parametrize("kind", KINDS)
def test_large_right_ones_pass_on_samples_and_projections(kind: str) -> None:
    report = by_kind(kind, layer_jacobian, WIDE)
    assert report.passed, str(report)
    assert report.checked == 32 * 40 < report.size
    assert report.probes == 3
    assert "3 random directions over all inputs miss an error of one entry above" in str(report)
    assert report.entry_limit is not None
    assert report.entry_limit < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [(7, 123), (39, 598), (0, 1)])
def test_projections_lead_to_the_wrong_output_and_the_wrong_input(kind: str, place: tuple[int, int]) -> None:
    report = by_kind(kind, spoiled(place, 1.5), WIDE)
    assert report.verdict == "fail"
    assert [entry.index for entry in report.wrong_entries] == [place]


@pytest.mark.parametrize("kind", ["callable", "vjp"])
def test_several_wrong_entries_are_found_one_after_the_other(kind: str) -> None:
    def jacobian(x: Floats) -> Floats:
        result = layer_jacobian(x)
        result[[3, 17, 17], [100, 200, 300]] += 0.5
        return result

    report = by_kind(kind, jacobian, WIDE)
    assert {(3, 100), (17, 200), (17, 300)} <= {entry.index for entry in report.wrong_entries}


def test_without_projections_only_the_samples_speak() -> None:
    report = check_jacobian(layer, spoiled((7, 123), 1.5), WIDE, probes=0)
    assert report.passed
    assert report.entry_limit is None
    everything = check_jacobian(layer, spoiled((7, 123), 1.5), WIDE, columns="all")
    assert everything.verdict == "fail"
    assert everything.checked == everything.size
    assert check_jacobian(layer, layer_jacobian, WIDE, columns=5).checked == 5 * 40


def test_the_seed_draws_other_columns() -> None:
    drawn = [check_jacobian(layer, layer_jacobian, WIDE, columns=5, seed=seed).entries.local for seed in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


def test_a_projection_whose_residual_leads_nowhere_limits_what_it_shows() -> None:
    tiny = check_jacobian(layer, lambda x: layer_jacobian(x) * (1 + 1e-7), WIDE)
    exact = check_jacobian(layer, layer_jacobian, WIDE)
    assert tiny.passed
    assert tiny.entry_limit is not None
    assert exact.entry_limit is not None
    assert tiny.entry_limit > 3 * exact.entry_limit


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


# --- sparse ---

N = 400


def band(x: Floats) -> Floats:
    result = -2 * x**2
    result[1:] += x[:-1]
    result[:-1] += np.sin(x[1:])
    return result


def band_jacobian(x: Floats) -> Any:
    return sp.diags_array([np.ones(N - 1), -4 * x, np.cos(x[1:])], offsets=[-1, 0, 1])


POINT = RNG.normal(size=N)


def test_columns_of_a_sparse_jacobian_share_evaluations() -> None:
    report = check_jacobian(band, band_jacobian, POINT)
    assert report.passed, str(report)
    assert report.checked == 3 * N - 2
    assert report.evaluations < N / 2 + 200
    dense = check_jacobian(band, band_jacobian(POINT).toarray(), POINT, columns="all")
    assert dense.evaluations > 2 * N
    declared = check_jacobian(
        band, lambda x: band_jacobian(x).toarray(), POINT, sparsity=band_jacobian(POINT).toarray() != 0
    )
    assert declared.passed
    assert declared.checked == report.checked


def test_a_wrong_entry_of_a_sparse_jacobian_is_named() -> None:
    wrong = band_jacobian(POINT).tocsr()
    wrong[77, 78] *= 1.1
    report = check_jacobian(band, wrong, POINT)
    assert [entry.index for entry in report.wrong_entries] == [(77, 78)]


@pytest.mark.parametrize("place", [(200, 17), (5, 399)])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_a_nonzero_outside_the_declared_sparsity_is_found(place: tuple[int, int], size: float) -> None:
    def leaking(x: Floats) -> Floats:
        result = band(x)
        result[place[0]] += size * x[place[1]]
        return result

    report = check_jacobian(leaking, band_jacobian, POINT)
    assert [entry.index for entry in report.wrong_entries] == [place]
    assert report.wrong_entries[0].analytic == 0
    assert report.wrong_entries[0].numerical == pytest.approx(size, rel=1e-4)


def test_an_output_that_no_entry_is_declared_for_must_not_move() -> None:
    pattern = np.eye(4)
    pattern[3, 3] = 0
    report = check_jacobian(lambda x: x**2, np.diag([2.0, 2, 2, 0]), np.ones(4), sparsity=pattern)
    assert [entry.index for entry in report.wrong_entries] == [(3, 3)]


# --- Hessians ---

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


# --- the report ---


def test_the_report_goes_to_json_and_back(tmp_path: Any) -> None:
    report = check_jacobian(f, lambda x: df(x).T, [2.0, 3.0])
    path = tmp_path / "report.json"
    text = report.to_json(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data == json.loads(text) == report.to_dict() | {"input_shape": [2], "output_shape": [2]}
    assert data["schema"] == 1
    assert data["passed"] is False
    assert data["wrong_entries"][0]["index"] in ([0, 1], [1, 0])
    assert set(data) >= set(JacobianReport.__dataclass_fields__)


def test_unchecked_entries_of_a_matrix_are_nan() -> None:
    report = check_jacobian(layer, layer_jacobian, WIDE, columns=2)
    numbers = report.matrix("uncertainty")
    assert np.isfinite(numbers).sum() == report.checked
    assert numbers.shape == (40, 600)


def test_a_step_of_ones_own_is_the_first_look_only() -> None:
    assert check_jacobian(f, df, [2.0, 3.0], step=0.1).passed
    assert check_jacobian(lambda x: np.sin(50 * x), lambda x: np.diag(50 * np.cos(50 * x)), np.ones(2), step=0.5).passed


def test_the_bar_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    check_jacobian(f, df, [2.0, 3.0], progress=True)
    assert "2/2" in capsys.readouterr().err


# --- what is refused ---


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
    with pytest.raises(ValueError, match=r"f returned shape \(1,\) beside x and \(2,\) at x: it must not change"):
        check_jacobian(lambda x: x if x[0] == 1 else x[:1], np.eye(2), np.ones(2))
    with pytest.raises(ValueError, match=r"gradient returned shape \(3, 1\); x has shape \(3,\)"):
        check_hessian(None, lambda x: x[:, None], np.eye(3), np.ones(3))


def test_a_function_may_reuse_one_buffer() -> None:
    buffer = np.empty(2)

    def reusing(x: Floats) -> Floats:
        buffer[:] = x**2
        return buffer

    assert check_jacobian(reusing, lambda x: np.diag(2 * x), np.array([1.0, 2.0])).passed
    assert fastgc.check_jacobian is check_jacobian
