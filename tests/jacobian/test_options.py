"""Options that Jacobians share with gradients: right ones pass, wrong ones fail, nonsense is refused."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from typing import Any, get_args

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import Bounds, rosen, rosen_der, rosen_hess

import fastgc
from fastgc import assert_hessian, assert_jacobian, check_hessian, check_jacobian
from fastgc._words import StencilName
from tests.support.jacobians import WIDE, Floats, layer, layer_jacobian, spoiled

X = np.array([0.5, 1.5, -2.0])


def f(x: Any) -> Any:
    return np.stack([np.sin(x[0]) * x[1], x[1] * x[2] ** 2, np.exp(x[0] - x[2])])


def df(x: Floats) -> Floats:
    e = np.exp(x[0] - x[2])
    return np.array([[np.cos(x[0]) * x[1], np.sin(x[0]), 0], [0, x[2] ** 2, 2 * x[1] * x[2]], [e, 0, -e]])


def wrong(x: Floats) -> Floats:
    result = df(x)
    result[1, 2] *= 1.01
    return result


def both(**options: Any) -> None:
    """The right Jacobian passes with the options, and the wrong one fails in its entry."""
    right = check_jacobian(f, df, X, **options)
    assert right.passed, str(right)
    report = check_jacobian(f, wrong, X, **options)
    assert {entry.index for entry in report.wrong_entries} == {(1, 2)}, str(report)
    hessian = check_hessian(rosen, rosen_der, rosen_hess, X, **options)
    assert hessian.passed, str(hessian)
    assert check_hessian(rosen, rosen_der, lambda x: 1.01 * rosen_hess(x), X, **options).verdict == "fail"


# --- stencil ---


@pytest.mark.parametrize("stencil", get_args(StencilName))
def test_every_formula_may_have_the_first_look(stencil: Any) -> None:
    both(stencil=stencil)
    both(stencil=stencil, step=1e-20 if stencil == "complex_step" else 1e-5)


def test_the_complex_step_decides_what_differences_cannot() -> None:
    offset = 1e12  # its round-off hides the slopes from differences
    report = check_jacobian(lambda x: offset + f(x), df, X, stencil="complex_step")
    assert report.passed, str(report)
    assert check_jacobian(lambda x: offset + f(x), wrong, X, stencil="complex_step").verdict == "fail"


def test_a_complex_step_is_asked_where_noise_hides_slopes_of_an_analytic_function() -> None:
    def hidden(x: Any) -> Any:
        return 1e14 + np.sin(x) * x

    def slopes(x: Floats) -> Floats:
        return np.diag(np.sin(x) + x * np.cos(x))

    report = check_jacobian(hidden, slopes, X)
    assert report.passed, str(report)
    assert any("the complex step decided" in note for note in report.notes)
    assert check_jacobian(hidden, lambda x: 1.001 * slopes(x), X).verdict == "fail"
    assert check_jacobian(lambda x: hidden(np.abs(x)), lambda x: np.sign(x) * slopes(x), X).verdict == "undecided"
    assert check_jacobian(hidden, slopes, X, step=1e-4).verdict == "undecided"


@pytest.mark.parametrize("stencil", get_args(StencilName))
def test_dependences_outside_the_sparsity_are_found_by_every_formula(stencil: Any) -> None:
    point = np.linspace(1, 2, 6)
    diagonal = sp.diags_array(2 * point).tocsr()
    assert check_jacobian(lambda x: x**2, diagonal, point, stencil=stencil).passed
    leaking = check_jacobian(lambda x: x**2 + 0.01 * x[2] * (np.arange(6) == 4), diagonal, point, stencil=stencil)
    assert {entry.index for entry in leaking.wrong_entries} == {(4, 2)}, str(leaking)


def test_directions_are_real_under_the_complex_step() -> None:
    assert check_jacobian(layer, layer_jacobian, WIDE, stencil="complex_step").passed
    report = check_jacobian(layer, spoiled((7, 123), 1.5), WIDE, stencil="complex_step")
    assert {entry.index for entry in report.wrong_entries} == {(7, 123)}


# --- bounds ---


def inside(low: Any, high: Any, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def watched(x: Any, *args: Any) -> Any:
        assert np.all((x >= low) & (x <= high)), "called outside of the bounds"
        return function(x, *args)

    return watched


LOW, HIGH = np.array([0.5, -1.0, -9.0]), np.array([1.0, 1.5, 9.0])


@pytest.mark.parametrize(
    "bounds",
    [Bounds(LOW, HIGH), list(zip(LOW, HIGH, strict=True)), {"x": (LOW, HIGH)}, {"*": (LOW, HIGH)}],
    ids=["scipy", "pairs", "name", "pattern"],
)  # fmt: skip
@pytest.mark.parametrize("stencil", ["central", "forward"])
def test_f_is_never_called_outside_of_the_bounds_and_at_them_the_inner_slope_counts(bounds: Any, stencil: Any) -> None:
    watched = inside(LOW, HIGH, f)
    right = check_jacobian(watched, df, X, bounds=bounds, stencil=stencil, points=3)
    assert right.passed, str(right)
    assert not right.notes  # an exception would be noted
    report = check_jacobian(watched, wrong, X, bounds=bounds, stencil=stencil)
    assert {entry.index for entry in report.wrong_entries} == {(1, 2)}, str(report)


def test_a_function_that_clips_at_a_bound_has_the_inner_slope_there() -> None:
    def clipped(x: Floats) -> Floats:
        return 3 * np.clip(x, 0, 1)

    for slope in (0.0, 1.5, 3.0):
        assert check_jacobian(clipped, [[slope]], [0.0]).passed  # a kink: nothing else is known
        bounded = check_jacobian(clipped, [[slope]], [0.0], bounds=[(0, 1)])
        assert bounded.verdict == ("pass" if slope == 3 else "fail"), str(bounded)


def test_hessians_stay_inside_of_the_bounds_too() -> None:
    low = np.full(3, 1.0)
    report = check_hessian(
        inside(low, np.inf, rosen),
        inside(low, np.inf, rosen_der),
        rosen_hess,
        np.array([1.0, 1.5, 1.0]),
        bounds=Bounds(low),
    )
    assert report.passed, str(report)
    assert not report.notes


def test_directions_that_leave_the_bounds_show_nothing_and_say_so() -> None:
    low = WIDE - 1e-4
    report = check_jacobian(inside(low, np.inf, layer), layer_jacobian, WIDE, bounds={"x": (low, None)}, columns=3)
    assert report.verdict != "fail", str(report)
    assert report.entry_limit == np.inf
    assert "random directions show nothing here" in str(report)
    assert not any("raised" in note for note in report.notes)


@pytest.mark.parametrize("side", [-1, 1])
def test_many_inputs_at_their_bounds_are_decided_by_one_sided_quotients(side: int) -> None:
    low, high = (WIDE, WIDE + 1) if side == 1 else (WIDE - 1, WIDE)
    watched = inside(low, high, layer)
    right = check_jacobian(watched, layer_jacobian, WIDE, bounds={"x": (low, high)}, columns="all")
    assert right.passed, str(right)[:500]
    assert right.evaluations < 6 * WIDE.size  # two for each quotient, and some ladders
    report = check_jacobian(watched, spoiled((7, 123), 1.01), WIDE, bounds={"x": (low, high)}, columns="all")
    assert {entry.index for entry in report.wrong_entries} == {(7, 123)}


def test_inputs_too_near_their_bounds_for_directions_are_measured_one_by_one() -> None:
    bounds = {"x": (np.where(np.arange(WIDE.size) == 123, WIDE, -np.inf), None)}
    assert check_jacobian(layer, layer_jacobian, WIDE, bounds=bounds, columns=3).checked == 4 * 40
    report = check_jacobian(layer, spoiled((7, 123), 1.5), WIDE, bounds=bounds, columns=3)
    assert {entry.index for entry in report.wrong_entries} == {(7, 123)}
    assert report.entry_limit is not None and report.entry_limit < 1


# --- time budget ---


def test_what_the_time_does_not_suffice_for_is_undecided() -> None:
    report = check_jacobian(f, df, X, time_budget=1e-9)
    assert report.verdict == "undecided"
    assert report.reason == "not reached: 9 of 9 entries"
    probed = check_jacobian(layer, layer_jacobian, WIDE, columns=2, time_budget=1e-9)
    assert probed.reason == "not reached: 80 of 80 entries and probes"
    both(time_budget=600.0)


def test_a_time_budget_reaches_some_entries_of_all_outputs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def slow(x: Floats) -> Floats:
        clock[0] += 1.0
        return layer(x)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    report = check_jacobian(slow, layer_jacobian, WIDE, columns="all", time_budget=200.0)
    assert report.verdict == "undecided"
    assert report.reason.startswith("not reached: ")
    assert 0 < report.checked < report.size
    assert np.isfinite(report.matrix("numerical")).any(axis=1).all()
    bad = check_jacobian(slow, lambda x: 1.1 * layer_jacobian(x), WIDE, columns="all", time_budget=200.0)
    assert bad.verdict == "fail"
    assert "not reached" in bad.reason


def test_entries_that_are_not_finite_fail_even_without_time() -> None:
    report = check_jacobian(f, lambda x: np.nan * df(x), X, time_budget=1e-9)
    assert report.verdict == "fail"
    assert "not finite" in report.reason


# --- points ---


def test_other_points_show_what_the_first_hides() -> None:
    def missing(x: Floats) -> Floats:  # a term that vanishes at 0
        return np.diag(np.cos(x) + 0.1 * x)

    zero = np.zeros(3)
    assert check_jacobian(np.sin, missing, zero).passed
    report = check_jacobian(np.sin, missing, zero, points=3)
    assert report.verdict == "fail"
    assert report.points == 3
    assert set(report.entries.columns["point"]) == {0, 1, 2}
    assert report.checked == 9 and len(report.entries) == 27
    assert report.worst is not None and report.worst.point > 0
    assert f"at point {report.worst.point}" in str(report)
    assert "*" in str(report)
    assert set(report.by_input) == {(0,), (1,), (2,)}
    assert check_jacobian(np.sin, lambda x: np.diag(np.cos(x)), zero, points=3).passed
    assert np.isfinite(report.matrix("numerical", 2)).all()
    assert check_hessian(None, np.sin, missing, zero, points=3).verdict == "fail"
    assert check_hessian(None, np.sin, None, zero, hvp=lambda x, u: missing(x) @ u, points=3).verdict == "fail"


def test_points_where_f_is_not_defined_are_left_for_nearer_ones() -> None:
    def logarithm(x: Floats) -> Floats:
        if x.min() < 0.9:
            raise ValueError("too small")
        return np.log(x)

    report = check_jacobian(logarithm, lambda x: np.diag(1 / x), np.ones(3), points=3)
    assert report.passed, str(report)
    assert report.points == 3
    assert any("left out, for nearer ones, since f or its Jacobian is not defined there" in n for n in report.notes)

    def nowhere(x: Floats) -> Floats:
        if np.count_nonzero(x != 1) > 1:
            raise ValueError("only here")
        return np.log(x)

    lost = check_jacobian(nowhere, lambda x: np.diag(1 / x), np.ones(3), points=2)
    assert lost.verdict == "undecided"
    assert "not reached: a random point at which f and its Jacobian are defined (ValueError: only here)" in lost.reason


# --- engine ---


@numba.njit
def compiled(x: Any) -> Any:
    return np.array([np.sin(x[0]) * x[1], x[1] * x[2] ** 2, np.exp(x[0] - x[2])])


@numba.njit
def filling(x: Any, out: Any) -> Any:
    out[0], out[1], out[2] = np.sin(x[0]) * x[1], x[1] * x[2] ** 2, np.exp(x[0] - x[2])
    return out


@numba.njit
def silently(x: Any, out: Any) -> None:
    for i in range(x.size):
        out[i] = x[i]


@pytest.mark.parametrize("engine", ["auto", "numba", "python"])
def test_compiled_functions_may_return_an_array_or_fill_one(engine: Any) -> None:
    for jacobian, verdict in ((df, "pass"), (wrong, "fail")):
        assert check_jacobian(compiled, jacobian, X, engine=engine).verdict == verdict
        report = check_jacobian(
            filling, lambda x, _, given=jacobian: given(x), X, args=(np.empty(3),), engine=engine, points=2
        )
        assert report.verdict == verdict
    assert check_jacobian(silently, np.eye(3), X, args=(np.empty(3),), engine=engine).passed
    assert check_jacobian(silently, 2 * np.eye(3), X, args=(np.empty(3),), engine=engine).verdict == "fail"


def test_plain_functions_are_compiled_on_request() -> None:
    def plain(x: Any) -> Any:
        return x * x

    assert check_jacobian(plain, lambda x: np.diag(2 * x), X, engine="numba").passed
    assert check_jacobian(plain, lambda x: np.diag(3 * x), X, engine="numba").verdict == "fail"
    with pytest.raises(TypeError, match="Numba cannot compile f"):
        check_jacobian(lambda x: sp.csr_array(x), np.eye(3), X, engine="numba")


# --- noise ---


def test_noise_that_hides_all_slopes_is_seen_in_a_few_columns_and_less_noise_hides_no_error() -> None:
    generator = np.random.default_rng(0)

    def noisy(size: float) -> Callable[[Floats], Floats]:
        return lambda x: layer(x) + size * generator.normal(size=40)

    loud = check_jacobian(noisy(1.0), layer_jacobian, WIDE, columns="all")
    assert loud.verdict == "undecided"
    assert loud.checked == 80
    assert loud.evaluations < 600
    faint = check_jacobian(noisy(1e-9), lambda x: 2 * layer_jacobian(x), WIDE, columns=5)
    assert faint.verdict == "fail"
    assert faint.checked >= 200


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"stencil": "centre"}, ValueError, "stencil 'centre' is not known"),
        ({"engine": "fast"}, ValueError, "engine is 'fast'; it must be one of"),
        ({"points": 0}, ValueError, "points is 0; it must be at least 1"),
        ({"points": 1.5}, TypeError, "points is 1.5; it must be an integer"),
        ({"time_budget": 0}, ValueError, "time_budget is 0; it must be finite and above 0"),
        ({"time_budget": "1 s"}, TypeError, "time_budget is '1 s'; it must be a number"),
        ({"bounds": [(0, 1)]}, ValueError, "bounds has 1 pairs; it must have one for each of the 3"),
        ({"bounds": [(1, 2)] * 3}, ValueError, r"bounds: x\[0\] is 0.5, outside its bounds \[1, 2\]"),
        ({"bounds": 3}, TypeError, "bounds must be scipy.optimize.Bounds"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        check_jacobian(f, df, X, **options)
    with pytest.raises(kind, match=message):
        assert_hessian(rosen, rosen_der, rosen_hess, X, **options)


def test_points_need_functions() -> None:
    with pytest.raises(ValueError, match="points=2 needs jacobian as a function, to have it at every point; got an ar"):
        check_jacobian(f, df(X), X, points=2)
    with pytest.raises(ValueError, match="points=2 needs hessian as a function"):
        check_hessian(rosen, rosen_der, rosen_hess(X), X, points=2)


# --- assertions ---


def test_assertions_return_the_report_or_raise_with_it() -> None:
    assert assert_jacobian(f, df, X).passed
    assert assert_hessian(rosen, rosen_der, rosen_hess, X).passed
    with pytest.raises(fastgc.JacobianMismatch, match="FAIL  1 of 9 checked entries differs") as caught:
        assert_jacobian(f, wrong, X)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.report.verdict == "fail"
    other = pickle.loads(pickle.dumps(caught.value))
    assert str(other) == str(caught.value)
    with pytest.raises(fastgc.JacobianMismatch):
        assert_hessian(rosen, rosen_der, lambda x: 2 * rosen_hess(x), X, allow_undecided=True)


def test_undecided_raises_unless_it_is_allowed() -> None:
    def stairs(x: Floats) -> Floats:
        return np.floor(20 * x)

    with pytest.raises(fastgc.JacobianMismatch):
        assert_jacobian(stairs, [[20.0]], [1.0])
    assert assert_jacobian(stairs, [[20.0]], [1.0], allow_undecided=True).verdict == "undecided"
    with pytest.raises(fastgc.JacobianMismatch):
        assert_hessian(None, stairs, [[20.0]], [1.0])
    assert assert_hessian(None, stairs, [[20.0]], [1.0], allow_undecided=True).verdict == "undecided"


@pytest.mark.parametrize("name", ["jacobian", "hessian"])
def test_both_signatures_agree(name: str) -> None:
    checked, asserted = (inspect.signature(getattr(fastgc, f"{verb}_{name}")) for verb in ("check", "assert"))
    parameters = dict(asserted.parameters)
    own = parameters.pop("allow_undecided")
    assert list(parameters.values()) == list(checked.parameters.values())
    assert own.default is False and own.kind is own.KEYWORD_ONLY
    assert asserted.return_annotation == checked.return_annotation == "JacobianReport"


def test_the_mismatch_of_a_jacobian_is_one_of_gradients() -> None:
    with pytest.raises(fastgc.GradientMismatch) as caught:
        fastgc.assert_jacobian(np.sin, lambda x: np.diag(np.cos(x) + 1), np.ones(2))
    assert isinstance(caught.value, fastgc.JacobianMismatch) and isinstance(caught.value, AssertionError)
    assert caught.value.report.verdict == "fail"
