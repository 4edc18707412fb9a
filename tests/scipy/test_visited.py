"""Derivatives checked where solvers call them: bugs that the start does not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize
from scipy.integrate import solve_ivp

import fastgc
from fastgc._scipy import visited


def f(x: Any) -> Any:
    return float(np.sum((x - 2) ** 4) + x @ x)


def right(x: Any) -> Any:
    return 4 * (x - 2) ** 3 + 2 * x


def wrong_later(x: Any) -> Any:
    """Right at the start, x = 0, and where the steps are large."""
    return np.where(np.abs(x - 1) < 0.3, 0.9, 1.0) * right(x)


START = np.zeros(3)
METHODS = ["BFGS", "L-BFGS-B", "CG", "SLSQP", "trust-constr"]


@pytest.mark.parametrize("method", METHODS)
def test_a_right_gradient_passes_at_every_call(method: str) -> None:
    jac = fastgc.checked(right, f)
    found = scipy.optimize.minimize(f, START, jac=jac, method=method)
    assert found.success
    assert jac.verdict == "pass" and jac.passed
    assert 0 < jac.checks <= jac.calls


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_wrong_at_the_solution_is_found_where_the_start_shows_nothing(method: str) -> None:
    assert fastgc.check_gradients(f, wrong_later, START).passed
    with pytest.raises(fastgc.GradientMismatch) as caught:
        scipy.optimize.minimize(f, START, jac=fastgc.checked(wrong_later, f), method=method)
    assert caught.value.__notes__[0].startswith("wrong_later returned this at call ")
    assert caught.value.report.verdict == "fail"


def test_the_caller_may_collect_instead() -> None:
    jac = fastgc.checked(wrong_later, f, raises=False)
    plain = scipy.optimize.minimize(f, START, jac=wrong_later)
    found = scipy.optimize.minimize(f, START, jac=jac)
    assert np.array_equal(found.x, plain.x)  # the solver receives what it would receive
    assert jac.verdict == "fail" and not jac.passed
    first = min(number for number, each in jac.reports.items() if each.verdict == "fail")
    assert first > 1
    assert repr(jac).startswith(f"FAIL  {jac.checks} of {jac.calls} calls checked; wrong first at call {first}:\nFAIL")


def test_a_function_that_returns_both() -> None:
    both = fastgc.checked(lambda x: (f(x), right(x)))
    assert scipy.optimize.minimize(both, START, jac=True).success
    assert both.passed
    with pytest.raises(fastgc.GradientMismatch):
        scipy.optimize.minimize(fastgc.checked(lambda x: (f(x), wrong_later(x))), START, jac=True)


def test_arguments_are_handed_on() -> None:
    jac = fastgc.checked(lambda x, a: 2 * a * x, lambda x, a: a * x @ x)
    assert scipy.optimize.minimize(lambda x, a: a * x @ x, np.ones(2), args=(3.0,), jac=jac).success
    assert jac.passed


def test_a_hessian_is_the_jacobian_of_the_gradient() -> None:
    def hess(x: Any) -> Any:
        return np.diag(12 * (x - 2) ** 2 + 2)

    assert scipy.optimize.minimize(f, START, jac=right, hess=fastgc.checked(hess, right), method="Newton-CG").success
    wrong = fastgc.checked(lambda x: np.where(x > 0.1, 1.1, 1.0) * hess(x), right)
    with pytest.raises(fastgc.JacobianMismatch):
        scipy.optimize.minimize(f, START, jac=right, hess=wrong, method="Newton-CG")


def test_residuals_of_least_squares() -> None:
    t = np.linspace(0, 1, 5)

    def residuals(x: Any) -> Any:
        return np.exp(x[0] * t) + x[1] - 2

    def jac(x: Any, factor: float = 1.0) -> Any:
        return np.stack([t * np.exp(x[0] * t), np.ones(5) * (factor if x[1] > 0.5 else 1)], axis=1)

    checked = fastgc.checked(jac, residuals)
    assert scipy.optimize.least_squares(residuals, [0.0, 0.0], jac=checked).success
    assert checked.passed
    with pytest.raises(fastgc.JacobianMismatch):
        scipy.optimize.least_squares(residuals, [0.0, 0.0], jac=fastgc.checked(lambda x: jac(x, 3.0), residuals))


def pendulum(t: float, y: Any, damping: float = 0.1) -> Any:
    return np.array([y[1], -np.sin(y[0]) - damping * y[1]])


def pendulum_jac(t: float, y: Any, damping: float = 0.1) -> Any:
    return np.array([[0, 1], [-np.cos(y[0]), -damping]])


@pytest.mark.parametrize(("method", "damping"), [("Radau", 0.1), ("BDF", 0.1), ("LSODA", 500.0)])
def test_the_jacobian_of_an_ordinary_differential_equation(method: str, damping: float) -> None:
    jac = fastgc.checked(pendulum_jac, pendulum, argument=1)
    assert solve_ivp(pendulum, (0, 10), [3.0, 0.0], method=method, jac=jac, args=(damping,)).success
    assert jac.checks and jac.passed


def test_one_that_is_right_at_the_start_only() -> None:
    def linearised_later(t: float, y: Any) -> Any:
        return pendulum_jac(t, y if t < 0.2 else 0 * y)

    assert fastgc.check_jacobian(lambda y: pendulum(0, y), lambda y: linearised_later(0, y), [3.0, 0.0]).passed
    jac = fastgc.checked(linearised_later, pendulum, argument=1)
    with pytest.raises(fastgc.JacobianMismatch) as caught:
        solve_ivp(pendulum, (0, 20), [2.0, 0.0], method="Radau", jac=jac)
    assert caught.value.report.wrong_entries[0].index == (1, 0)


# --- when ---


def test_every_kth_call_is_checked() -> None:
    jac = fastgc.checked(right, f, every=3, share=1)
    for _ in range(10):
        jac(START)
    assert (jac.calls, jac.checks) == (10, 4)


def test_checks_take_their_share_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a check takes 0.6 s and the work between two calls 0.3 s."""
    now = [0.0]
    monkeypatch.setattr(visited.time, "perf_counter", lambda: now[0])
    check = visited._checked_call

    def slow(*args: Any) -> Any:
        now[0] += 0.6
        return check(*args)

    monkeypatch.setattr(visited, "_checked_call", slow)
    jac = fastgc.checked(right, f, share=0.25)
    for _ in range(200):
        jac(START)
        now[0] += 0.3
    assert 0.2 * now[0] < 0.6 * jac.checks <= 0.25 * now[0]


def test_the_last_call_can_be_checked_when_the_solver_has_ended() -> None:
    jac = fastgc.checked(wrong_later, f, every=10**6)

    def solve() -> None:
        with jac:
            scipy.optimize.minimize(f, START, jac=jac)
            assert jac.checks == 1

    with pytest.raises(fastgc.GradientMismatch):
        solve()
    assert jac.checks == 2
    assert jac.check_last() is None  # it was checked


def test_an_error_in_the_block_is_not_hidden_by_a_check() -> None:
    def fails() -> None:
        with fastgc.checked(wrong_later, f, every=2) as jac:
            jac(START)
            jac(START + 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()


# --- where it is hard ---


def test_a_function_that_keeps_data_for_its_gradient_is_left_at_the_solvers_point() -> None:
    kept: dict[str, Any] = {}

    def loss(x: Any) -> Any:
        kept["x"] = x.copy()
        return f(x)

    jac = fastgc.checked(lambda x: right(kept["x"]), loss)
    for x in (START, START + 0.5):
        loss(x)
        jac(x)
        assert np.array_equal(kept["x"], x)
    assert jac.passed and jac.checks == 2


def test_a_stale_gradient_is_found_though_a_second_call_would_be_right() -> None:
    calls: list[Any] = []

    def stale(x: Any) -> Any:
        calls.append(x)
        return right(calls[-2] if len(calls) == 3 else x)

    jac = fastgc.checked(stale, f)
    jac(START)
    jac(START + 0.5)
    with pytest.raises(fastgc.GradientMismatch):
        jac(START + 0.7)


def test_solvers_that_reuse_their_arrays() -> None:
    x = START.copy()
    jac = fastgc.checked(right, f, every=2)
    jac(x)
    jac(x)
    x += 0.5
    assert jac.check_last() is not None
    assert jac.passed


def test_points_without_a_finite_value_are_left_out() -> None:
    jac = fastgc.checked(lambda x: 1 / x, lambda x: np.sum(np.log(x)) if x.min() > 0 else np.inf)
    jac(np.array([-1.0, 1.0]))
    assert jac.checks == 0 and jac.verdict == "undecided"
    assert repr(jac) == "UNDECIDED  0 of 1 call checked"


def test_a_kink_is_not_called_wrong() -> None:
    jac = fastgc.checked(lambda x: np.where(x < 0, -1.0, 1.0), lambda x: np.sum(np.abs(x)))
    jac(np.array([0.0, 1.0]))
    assert jac.checks == 1 and jac.verdict != "fail"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"jac": "2-point", "fun": f}, "^jac is a str; it must be a function"),
        ({"jac": right, "fun": 3}, "^fun is a int; it must be a function, or None where jac returns both$"),
        ({"jac": right, "fun": f, "every": 0}, "^every is 0"),
        ({"jac": right, "fun": f, "argument": -1}, "^argument is -1"),
        ({"jac": right, "fun": f, "share": -0.5}, "^share is -0.5"),
    ],
)
def test_senseless_options_are_refused(given: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fastgc.checked(**given)
