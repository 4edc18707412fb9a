"""What random calls have found: each refused by a message of ours that names the parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from scipy.optimize import NonlinearConstraint

import fastgc
from fastgc._evaluation import pieces
from tests.fuzz import jitted

X = np.linspace(0.5, 2.0, 6)


@numba.njit
def slopes(x: Any) -> Any:
    return np.cos(x[0, 0])  # of a matrix, which it does not receive


def sweep(**options: Any) -> Any:
    return fastgc.step_sweep(np.sin, **{"derivative": 1.0, "x": 0.0, **options})


def visited() -> Any:
    return fastgc.checked(np.cos, np.sin, argument=1)(1.0)


def expanded() -> Any:
    return fastgc.taylor_test(jitted.not_compilable, np.cos, X)


REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "x of a sweep": ("x is 'a'; it must be a real number", lambda: sweep(x="a")),
    "a complex x": (r"x is 1j; it must be a real number", lambda: sweep(x=1j)),
    "a derivative": (r"derivative is array.*; it must be a real number", lambda: sweep(derivative=np.ones(3))),
    "a complex derivative": ("derivative is np.complex128", lambda: sweep(derivative=lambda _: np.complex128(1j))),
    "stencils": ("stencils is 'central'; it must be a sequence of names", lambda: sweep(stencils="central")),
    "steps of a sweep": ("steps is 'a'; they must be positive numbers", lambda: sweep(steps="a")),
    "steps": ("steps is 'a'; they must be at least two", lambda: fastgc.taylor_test(np.sin, np.cos, 1.0, steps="a")),
    "argument": (r"argument is 1; the derivative was called with 1 positional", visited),
    "hessian": ("hessian is 3", lambda: fastgc.taylor_test(np.sin, np.cos, 1.0, hessian=3)),
    "constraints": ("constraints is 3; it must be", lambda: fastgc.check_problem(len, X, len, constraints=3)),
    "time": ("time_budget is 'a'; it must be a number", lambda: fastgc.check_problem(len, X, len, time_budget="a")),
    "a pair": (r"jac returned .*; without fun it must return \(value, gradient\)", lambda: fastgc.checked(np.cos)(X)),
    "not compiled": ("Numba cannot compile the loss: ", lambda: fastgc.numerical_gradient(jitted.not_compilable, X)),
    "complex, not compiled": ("Numba cannot compile f: ", lambda: fastgc.check_jacobian(slopes, np.eye(6), X + 1j)),
    "an expansion, not compiled": ("Numba cannot compile f: ", expanded),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_message_names_the_parameter(name: str) -> None:
    said, call = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=said):
        call()


def test_a_map_that_gives_no_results_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_WORTHWHILE", 0.0)

    def nothing(function: Any, items: Any) -> int:
        return 3

    with pytest.raises(TypeError, match="gives 3; it must be like map, and give a result for each item"):
        fastgc.numerical_gradient(lambda x: float(np.sum(x)), X, workers=nothing)


def test_functions_of_pytorch_must_be_functions() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(2, dtype=torch.double, requires_grad=True)
    for check in (fastgc.torch.gradcheck, fastgc.torch.gradgradcheck):
        with pytest.raises(TypeError, match=r"func is 3 \(int\); it must be a function"):
            check(3, x)
    with pytest.raises(TypeError, match=r"loss is 3 \(int\); it must be a function"):
        fastgc.torch.check_module(torch.nn.Linear(2, 1), x.detach(), 3)


def test_numbers_and_weights_of_pytorch_are_refused_by_name() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(2, dtype=torch.double, requires_grad=True)
    for name in ("eps", "atol", "rtol", "nondet_tol"):
        with pytest.raises(TypeError, match=f"{name} is 'a'; it must be a number"):
            fastgc.torch.gradcheck(torch.sin, x, **{name: "a"})
    with pytest.raises(TypeError, match="grad_outputs is 3; it must be a tensor or a tuple of tensors"):
        fastgc.torch.gradgradcheck(torch.sin, x, 3)
    with pytest.raises(ValueError, match="func returns no tensor that requires grad"):
        fastgc.torch.gradgradcheck(torch.detach, x)


def test_a_sweep_without_any_value_is_shown() -> None:
    sweep = fastgc.step_sweep(lambda x: np.nan, 1.0, 0.0, stencils=["central"])
    assert np.isnan([sweep.best_step["central"], sweep.best_error["central"], sweep.optimum["central"]]).all()
    assert str(sweep) == "central: smallest error nan at h = nan"
    assert sweep._repr_html_()


def test_outputs_whose_norm_overflows_warn_of_nothing() -> None:
    torch = pytest.importorskip("torch")
    x = torch.full((2, 3), 1e308, dtype=torch.double, requires_grad=True)
    with np.errstate(all="raise"):
        fastgc.torch.gradcheck(lambda x: torch.sin(x) * x, x, raise_exception=False)


def test_time_that_is_over_before_the_scales_are_known_leaves_it_undecided() -> None:
    x = np.full((2, 3), 1e-300)
    report = fastgc.check_jacobian(lambda x: x**2, lambda x: np.diag(2 * x.ravel()), x, time_budget=1e-9)
    assert report.verdict == "undecided"


@pytest.mark.parametrize("kind", [dict, list])
def test_a_jitted_function_is_expanded_from_the_record_that_checks_pass(kind: Any) -> None:
    params = {"w": X} if kind is dict else [X]

    def gradient(p: Any) -> Any:
        return {"w": np.cos(p["w"])} if kind is dict else [np.cos(p[0])]

    first = numba.njit(lambda p: np.sum(np.sin(p["w"]))) if kind is dict else numba.njit(lambda p: np.sum(np.sin(p[0])))
    assert fastgc.taylor_test(first, gradient, params).passed


def test_a_problem_whose_functions_change_errstate_leaves_it() -> None:
    def fun(x: Any) -> float:
        np.seterr(all="raise")
        return float(np.sum((x - 2) ** 4))

    def jac(x: Any) -> Any:
        np.seterr(all="raise")
        return 4 * (x - 2) ** 3

    disc = NonlinearConstraint(fun, 0, 2, jac=jac, hess=lambda x, v: np.diag(12 * (x - 2) ** 2) * v[0])
    before = np.geterr()
    for hess in (lambda x: np.diag(12 * (x - 2) ** 2), None):
        report = fastgc.check_problem(fun, np.zeros(3), jac, hess, constraints=disc)
        assert report.passed and np.geterr() == before


@pytest.mark.parametrize("place", ["fun", "jac", "a constraint", "a Hessian"])
def test_a_problem_passes_on_what_a_function_raises(place: str) -> None:
    def fun(x: Any) -> float:
        return float(np.sum(x**2))

    def jac(x: Any) -> Any:
        return 2 * x

    def stops(*args: Any) -> Any:
        raise StopIteration("mine")

    if place == "a constraint":
        constraint = NonlinearConstraint(stops, 0, 2, jac=jac, hess=lambda x, v: 2 * v[0] * np.eye(3))
    else:
        constraint = NonlinearConstraint(fun, 0, 2, jac=jac, hess=stops if place == "a Hessian" else "2-point")
    first, second = stops if place == "fun" else fun, stops if place == "jac" else jac
    with pytest.raises(StopIteration, match="mine"):
        fastgc.check_problem(first, np.ones(3), second, constraints=constraint)


@pytest.mark.parametrize("value", [None, "a", [1.0, 2.0], np.ones(2)], ids=str)
def test_a_step_sweep_of_what_is_no_number_at_displaced_points(value: Any) -> None:
    """None met the weights of a formula."""
    with pytest.raises(TypeError, match=r"^f returned .*; it must return a real number"):
        fastgc.step_sweep(lambda x: 1.0 if x == 1 else value, np.cos, 1, steps=3, stencils=("central",))


def test_errstate_that_a_loss_sets_while_its_operations_are_looked_at() -> None:
    """It was left set: the operations are recorded after the check."""
    jax = pytest.importorskip("jax")
    odd = jax.custom_vjp(lambda x: jax.numpy.sin(x))
    odd.defvjp(lambda x: (odd(x), x), lambda x, g: (2.5 * g * jax.numpy.cos(x),))

    def loss(params: Any) -> Any:
        np.seterr(all="raise")
        return jax.numpy.sum(odd(params["w"]) ** 2)

    before = np.geterr()
    assert fastgc.jax.check_gradients(loss, {"w": np.ones(6)}).verdict == "fail"
    assert np.geterr() == before
