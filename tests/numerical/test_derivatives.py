"""Numerical gradients and Jacobians, and the classic check of a flat vector, with the figures of the textbooks."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numba
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastgc
from tests.support.textbook import SIGMOIDS


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


# --- gradient_check ---

POINT = np.array([1, -0.5, 2, 0, -1.5])
KEYS = {"analytical_gradient", "numerical_gradient", "absolute_difference", "relative_error", "passed"}


def sum_of_sigmoids(p: np.ndarray) -> float:
    return float(np.sum(sigmoid(p)))


def right(p: np.ndarray) -> np.ndarray:
    return sigmoid(p) * (1 - sigmoid(p))


def wrong(p: np.ndarray) -> np.ndarray:
    return sigmoid(p) * (1 + sigmoid(p))


def test_the_sigmoids_agree_to_nine_digits() -> None:
    found = fastgc.gradient_check(sum_of_sigmoids, right, POINT, h=1e-5)
    assert found["passed"] is True
    assert found["relative_error"] < SIGMOIDS < 1e-9


def test_the_dict_holds_what_it_says() -> None:
    found = fastgc.gradient_check(sum_of_sigmoids, wrong, POINT)
    assert found.keys() == KEYS
    a, n = found["analytical_gradient"], found["numerical_gradient"]
    np.testing.assert_array_equal(a, wrong(POINT))
    np.testing.assert_array_equal(n, fastgc.numerical_gradient(sum_of_sigmoids, POINT, 1e-7))
    np.testing.assert_array_equal(found["absolute_difference"], np.abs(a - n))
    norms = np.linalg.norm(a) + np.linalg.norm(n) + 1e-8
    assert found["relative_error"] == pytest.approx(np.linalg.norm(a - n) / norms, rel=1e-15)
    assert type(found["relative_error"]) is float
    assert found["passed"] is False


def test_the_step_and_the_tolerance_are_the_callers() -> None:
    exact, coarse = (fastgc.gradient_check(sum_of_sigmoids, right, POINT, h=h) for h in (1e-5, 0.1))
    assert coarse["relative_error"] > 1e-4 > exact["relative_error"]
    assert coarse["passed"] is False
    assert fastgc.gradient_check(sum_of_sigmoids, right, POINT, h=0.1, tolerance=0.1)["passed"] is True
    assert fastgc.gradient_check(sum_of_sigmoids, right, POINT, 1e-5, 1e-12)["passed"] is False


def test_the_error_must_be_below_the_tolerance() -> None:
    error = fastgc.gradient_check(sum_of_sigmoids, right, POINT)["relative_error"]
    assert fastgc.gradient_check(sum_of_sigmoids, right, POINT, tolerance=error)["passed"] is False


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_does_not_pass(value: float) -> None:
    def broken(p: np.ndarray) -> np.ndarray:
        return np.where(p == 2, value, right(p))

    assert fastgc.gradient_check(sum_of_sigmoids, broken, POINT)["passed"] is False


def test_zero_gradients_pass() -> None:
    found = fastgc.gradient_check(lambda p: 3.0, lambda p: np.zeros(4), np.ones(4))
    assert found["passed"] is True
    assert found["relative_error"] == 0


def test_lists_and_matrices_are_points_too() -> None:
    assert fastgc.gradient_check(lambda p: float(p @ p), lambda p: 2 * p, [1, 2, 3])["passed"] is True
    found = fastgc.gradient_check(lambda p: float(np.sum(p**3)), lambda p: 3 * p**2, np.ones((2, 3)))
    assert found["numerical_gradient"].shape == found["absolute_difference"].shape == (2, 3)


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (4,), ()])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"grad returned shape .*; params has shape \(5,\)"):
        fastgc.gradient_check(sum_of_sigmoids, lambda p: np.zeros(shape), POINT)


def test_a_gradient_that_writes_into_its_argument_does_no_harm() -> None:
    def in_its_argument(p: np.ndarray) -> np.ndarray:
        p[:] = right(p)
        return p

    point = POINT.copy()
    assert fastgc.gradient_check(sum_of_sigmoids, in_its_argument, point)["passed"] is True
    assert point.tobytes() == POINT.tobytes()


# --- numerical_gradient ---


def test_a_square_at_five() -> None:
    found = fastgc.numerical_gradient(lambda x: np.sum(x**2), np.array([5.0]), h=1e-5)
    assert found.shape == (1,)
    assert f"{found[0]:.10f}" == "9.9999999996" or abs(found[0] - 10) < 1e-9


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 3, 2), (0,), (3, 0)])
@pytest.mark.parametrize("in_place", [False, True])
def test_any_shape(shape: tuple[int, ...], in_place: bool) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    x = np.asarray(x)
    found = fastgc.numerical_gradient(lambda p: float(np.sum(np.sin(p))), x, in_place=in_place)
    assert found.shape == shape
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.cos(x), rtol=1e-8)


def test_a_number_and_a_list_of_numbers() -> None:
    assert fastgc.numerical_gradient(lambda x: x**3, 2) == pytest.approx(12)
    np.testing.assert_allclose(fastgc.numerical_gradient(lambda x: x @ x, [1, 2, 3]), [2, 4, 6], rtol=1e-9)
    np.testing.assert_allclose(fastgc.numerical_gradient(np.sum, [[1, 2], [3, 4]]), np.ones((2, 2)), rtol=1e-9)


def test_nested_parameters_keep_their_structure() -> None:
    pair = namedtuple("pair", "scale shift")
    x = {
        "a": {"w": np.ones((2, 2)), "b": np.full(3, 2.0)},
        "rest": [np.array(3.0), (np.ones(1), pair(np.ones(2), 4.0))],
    }

    def f(p: Any) -> float:
        number, (one, (scale, shift)) = p["rest"]
        return float(np.sum(p["a"]["w"] ** 2) + p["a"]["b"].sum() + number**2 + one[0] + scale @ scale * shift)

    found = fastgc.numerical_gradient(f, x)
    assert list(found) == ["a", "rest"]
    assert list(found["a"]) == ["w", "b"]
    np.testing.assert_allclose(found["a"]["w"], np.full((2, 2), 2.0), rtol=1e-8)
    np.testing.assert_allclose(found["a"]["b"], np.ones(3), rtol=1e-8)
    assert found["rest"][0] == pytest.approx(6)
    assert isinstance(found["rest"], list)
    assert isinstance(found["rest"][1], tuple)
    assert found["rest"][1][1]._fields == ("scale", "shift")
    np.testing.assert_allclose(found["rest"][1][1].scale, [8, 8], rtol=1e-8)
    assert found["rest"][1][1].shift == pytest.approx(2)


def test_extra_arguments_reach_the_function() -> None:
    found = fastgc.numerical_gradient(lambda x, a, b: float(a @ x + b), np.ones(3), args=(np.arange(3.0), 5))
    np.testing.assert_allclose(found, [0, 1, 2], atol=1e-9)


def test_h_and_step_are_one_argument() -> None:
    by_h, by_step = (fastgc.numerical_gradient(np.sin, 1.0, **{name: 1e-3}) for name in ("h", "step"))
    assert by_h == by_step == fastgc.numerical_gradient(np.sin, 1.0, 1e-3)
    with pytest.raises(ValueError, match=r"h=0\.1 and step=0\.2 are two names for one argument"):
        fastgc.numerical_gradient(np.sin, 1.0, 0.1, step=0.2)
    with pytest.raises(ValueError, match="two names for one argument"):
        fastgc.numerical_jacobian(np.sin, [1.0], 0.1, step=0.1)


@pytest.mark.parametrize("name", ["h", "step"])
@pytest.mark.parametrize("value", [0, 0.0, -1e-5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("function", [fastgc.numerical_gradient, fastgc.numerical_jacobian])
def test_a_step_must_be_positive_and_finite(function: Any, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}; it must be finite and above 0"):
        function(np.sin, np.ones(1), **{name: value})


@pytest.mark.parametrize("value", ["1e-5", True, [1e-5], 1j])
def test_a_step_must_be_a_number(value: Any) -> None:
    with pytest.raises(TypeError, match=r"h is .*; it must be a number or None"):
        fastgc.numerical_gradient(np.sin, 1.0, value)


@pytest.mark.parametrize("function", [fastgc.numerical_gradient, fastgc.numerical_jacobian])
def test_unknown_formulas_are_refused(function: Any) -> None:
    with pytest.raises(ValueError, match=r"stencil .*'seven_point'.*'central'"):
        function(np.sin, np.ones(1), stencil="seven_point")


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(ValueError, match="engine is 'fortran'; it must be one of 'auto', 'numba', 'python'"):
        fastgc.numerical_gradient(np.sin, 1.0, engine="fortran")


@pytest.mark.parametrize("x", [1j, np.array([1 + 1j]), {"a": np.array([1j])}])
def test_complex_points_are_not_supported(x: Any) -> None:
    with pytest.raises(TypeError, match="complex"):
        fastgc.numerical_gradient(lambda p: 1.0, x)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, "loss returned None"),
        ("1.0", TypeError, "loss returned '1.0'"),
        (1j, TypeError, "complex"),
        (np.ones(2), ValueError, r"shape \(2,\)"),
        (np.nan, ValueError, "nan"),
    ],
)
def test_what_is_no_real_number_is_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastgc.numerical_gradient(lambda p: value, np.ones(2))


def test_a_function_that_changes_its_argument_is_refused() -> None:
    def f(p: np.ndarray) -> float:
        p += 1
        return float(p.sum())

    x = np.ones(3)
    with pytest.raises(ValueError, match="changed params"):
        fastgc.numerical_gradient(f, x)
    np.testing.assert_array_equal(x, np.ones(3))


def test_single_precision_points_are_evaluated_in_double() -> None:
    seen = set()

    def f(p: np.ndarray) -> float:
        seen.add(p.dtype)
        return float(np.sum(p**2))

    found = fastgc.numerical_gradient(f, np.ones(3, np.float32))
    assert seen == {np.dtype(np.float64)}
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, 2, rtol=1e-9)


# Of sizes that belong together: the step is chosen for the tensor, and a few ones among 1e-15 leave it too small.
_OF_A_SIZE = st.one_of(st.just(0.0), st.floats(1e-3, 10), st.floats(-10, -1e-3))


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=4), elements=_OF_A_SIZE))
def test_smooth_functions_are_differentiated_to_nine_digits(x: np.ndarray) -> None:
    found = fastgc.numerical_gradient(lambda p: float(np.sum(np.sin(p))), x)
    np.testing.assert_allclose(found, np.cos(x), atol=1e-8)


# --- in place ---


class Net:
    """A model whose loss reads its own arrays."""

    def __init__(self) -> None:
        rng = np.random.RandomState(0)
        self.params = {"W1": 0.1 * rng.randn(4, 10), "b1": np.zeros(10), "W2": 0.1 * rng.randn(10, 3)}
        rng = np.random.RandomState(1)
        self.x, self.y = 10 * rng.randn(5, 4), np.array([0, 1, 2, 2, 1])

    def loss(self) -> float:
        scores = np.tanh(self.x @ self.params["W1"] + self.params["b1"]) @ self.params["W2"]
        return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(5), self.y]))


@pytest.mark.parametrize("name", ["W1", "b1", "W2"])
def test_a_loss_that_reads_the_array_from_its_model(name: str) -> None:
    net = Net()
    before = net.params[name].tobytes()
    found = fastgc.numerical_gradient(lambda _: net.loss(), net.params[name], 1e-5, in_place=True)

    def with_array(p: np.ndarray) -> float:
        other = Net()
        other.params[name] = p
        return other.loss()

    assert np.any(found)
    np.testing.assert_array_equal(found, fastgc.numerical_gradient(with_array, net.params[name], 1e-5))
    assert net.params[name].tobytes() == before


def awkward(kind: str) -> np.ndarray:
    x = 1 / np.random.default_rng(0).normal(size=(4, 6))
    return {
        "C": x,
        "Fortran": np.asfortranarray(x),
        "strided": x[::2, ::3],
        "reversed": x[::-1, ::-1],
        "float32": x.astype(np.float32),
        "float16": x.astype(np.float16),
        "negative zero": np.copysign(np.zeros((2, 2)), -1),
    }[kind]


@pytest.mark.parametrize("kind", ["C", "Fortran", "strided", "reversed", "float32", "float16", "negative zero"])
@pytest.mark.parametrize("stencil", ["forward", "central", "five_point"])
def test_every_entry_is_restored_to_the_bit(kind: str, stencil: str) -> None:
    x = awkward(kind)
    before, dtype = x.tobytes(), x.dtype
    found = fastgc.numerical_gradient(lambda p: float(np.sum(p, dtype=np.float64)), x, stencil=stencil, in_place=True)
    assert x.tobytes() == before
    assert x.dtype == dtype
    np.testing.assert_allclose(found, 1, rtol=1e-6)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_entries_are_restored_whatever_happens(error: type[BaseException]) -> None:
    x = 1 / np.random.default_rng(0).normal(size=30)
    before, calls = x.tobytes(), 0

    def f(p: np.ndarray) -> float:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise error("enough")
        return float(p @ p)

    if error is RuntimeError:
        assert np.isnan(fastgc.numerical_gradient(f, x, in_place=True)).any()
    else:
        with pytest.raises(error, match="enough"):
            fastgc.numerical_gradient(f, x, in_place=True)
    assert x.tobytes() == before


def test_without_in_place_the_array_is_never_touched() -> None:
    x = np.ones(3)
    x.setflags(write=False)
    np.testing.assert_allclose(fastgc.numerical_gradient(lambda p: float(p @ p), x), 2, rtol=1e-9)
    with pytest.raises(ValueError, match="cannot be written to"):
        fastgc.numerical_gradient(lambda p: float(p @ p), x, in_place=True)


def test_in_place_excludes_the_compiled_engine() -> None:
    with pytest.raises(ValueError, match=r"in_place.*numba"):
        fastgc.numerical_gradient(lambda p: p.sum(), np.ones(3), in_place=True, engine="numba")


def test_in_place_needs_arrays_of_the_caller() -> None:
    """A list of numbers would be copied, and the copy displaced where nobody looks."""
    with pytest.raises((TypeError, ValueError), match=r"asarray|array"):
        fastgc.numerical_gradient(lambda p: 1.0, [1.0, 2.0], in_place=True)


# --- compiled ---


def test_the_compiled_engine_gives_the_same_gradient() -> None:
    def f(p: Any, a: Any) -> float:
        total = 0.0
        for i in range(p["w"].size):
            total += p["w"][i] / (1 + p["w"][i] * p["w"][i]) * a[i] * p["b"][0]  # no function that may be another's
        return total

    x, a = {"w": np.linspace(0, 2, 9), "b": np.array([1.5])}, np.arange(9.0)
    plain = fastgc.numerical_gradient(f, x, 1e-5, args=(a,))
    compiled = fastgc.numerical_gradient(f, x, 1e-5, args=(a,), engine="numba")
    jitted = fastgc.numerical_gradient(numba.njit(f), x, 1e-5, args=(a,))
    for name in x:
        np.testing.assert_array_equal(plain[name], compiled[name])
        np.testing.assert_array_equal(plain[name], jitted[name])


# --- black boxes ---


def staircase_free_simulator(x: np.ndarray) -> float:
    """Distance by which a ball with drag misses a target, in explicit steps of time: no derivative is at hand."""
    position, velocity = np.zeros(2), np.asarray(x, float).copy()
    for _ in range(50):
        velocity = velocity + 0.02 * (np.array([0, -9.81]) - 0.1 * np.linalg.norm(velocity) * velocity)
        position = position + 0.02 * velocity
    return float((position[0] - 4) ** 2 + (position[1] - 1) ** 2)


def test_descent_on_a_simulator() -> None:
    x = np.array([3.0, 3.0])
    for _ in range(200):
        x = x - 0.1 * fastgc.numerical_gradient(staircase_free_simulator, x)
    assert staircase_free_simulator(x) < 1e-8


def test_plain_descent_reaches_the_minimum() -> None:
    x, target = np.zeros(3), np.array([1.0, -2.0, 0.5])
    for _ in range(100):
        x = x - 0.2 * fastgc.numerical_gradient(lambda p: float(np.sum((p - target) ** 2)), x)
    np.testing.assert_allclose(x, target, atol=1e-8)


def test_scipys_minimiser_is_driven_by_it() -> None:
    f = scipy.optimize.rosen
    found = scipy.optimize.minimize(f, [-1.2, 1, 0.5], jac=lambda x: fastgc.numerical_gradient(f, x), method="BFGS")
    np.testing.assert_allclose(found.x, 1, atol=1e-5)
    simulated = scipy.optimize.minimize(
        staircase_free_simulator, [3, 3], jac=lambda x: fastgc.numerical_gradient(staircase_free_simulator, x)
    )
    assert simulated.fun < 1e-8


# --- numerical_jacobian ---


def products(v: np.ndarray) -> np.ndarray:
    x, y = v
    return np.array([x**2 + y, x * y - y**2])


def test_a_jacobian_of_two_outputs() -> None:
    found = fastgc.numerical_jacobian(products, [2, 3])
    assert found.shape == (2, 2)
    assert found.dtype == np.float64
    assert np.abs(found - [[4, 1], [3, -4]]).max() < 1e-9


def test_the_error_of_the_textbook_quotient() -> None:
    error = np.abs(fastgc.numerical_jacobian(products, [2.0, 3.0], 1e-5) - [[4, 1], [3, -4]]).max()
    assert 1e-12 < error < 1e-10


@pytest.mark.parametrize("stencil", ["forward", "backward", "central", "five_point", "complex_step"])
def test_every_formula_has_its_jacobian(stencil: str) -> None:
    x = np.random.default_rng(0).normal(size=4)
    found = fastgc.numerical_jacobian(lambda p: np.array([np.sin(p).sum(), p[0] * p[3], p[1]]), x, stencil=stencil)
    expected = np.vstack([np.cos(x), [x[3], 0, 0, x[0]], [0, 1, 0, 0]])
    np.testing.assert_allclose(found, expected, atol=1e-6 if stencil in ("forward", "backward") else 1e-9)


@pytest.mark.parametrize(
    ("outputs", "inputs", "shape"),
    [((), (), (1, 1)), ((2,), (3,), (2, 3)), ((2, 2), (3, 1), (4, 3)), ((0,), (3,), (0, 3)), ((2,), (0,), (2, 0))],
)
def test_outputs_by_inputs_in_c_order(
    outputs: tuple[int, ...], inputs: tuple[int, ...], shape: tuple[int, int]
) -> None:
    weights = np.random.default_rng(0).normal(size=shape)
    found = fastgc.numerical_jacobian(lambda p: (weights @ p.reshape(-1)).reshape(outputs), np.ones(inputs))
    assert found.shape == shape
    np.testing.assert_allclose(found, weights, atol=1e-9)


def test_its_rows_are_gradients_of_the_outputs() -> None:
    x = np.array([0.3, 1.7])
    rows = [fastgc.numerical_gradient(lambda p, i=i: products(p)[i], x, 1e-5) for i in range(2)]
    np.testing.assert_allclose(fastgc.numerical_jacobian(products, x, 1e-5), rows, rtol=1e-12)


@pytest.mark.parametrize("stencil", ["forward", "backward", "central", "five_point", "complex_step"])
@pytest.mark.parametrize("x", [[0.3, 1.7], [1e-12, -2e-12], [0.0, 0.0], [1e-9, 5.0]])
def test_its_default_steps_are_those_of_a_gradient(x: list[float], stencil: Any) -> None:
    def f(p: np.ndarray) -> np.ndarray:
        return np.array([1 + p[0], 1 + p[0] - 2 * p[1]])

    rows = [fastgc.numerical_gradient(lambda p, i=i: f(p)[i], x, stencil=stencil) for i in range(2)]
    found = fastgc.numerical_jacobian(f, x, stencil=stencil)
    np.testing.assert_allclose(found, rows, atol=1e-7)
    np.testing.assert_allclose(found, [[1, 0], [1, -2]], atol=1e-7)


def test_outputs_that_are_undefined_nearby_have_no_quotient_there() -> None:
    def root(p: np.ndarray) -> list[float]:
        return [math.sqrt(p[0]), p[1]]

    found = fastgc.numerical_jacobian(root, [0.0, 2.0], 1e-5)
    assert np.isnan(found[:, 0]).all()
    np.testing.assert_allclose(found[:, 1], [0, 1], atol=1e-9)
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        fastgc.numerical_jacobian(lambda p: [math.sqrt(-abs(p[0]))], [0.0])
    forward = fastgc.numerical_jacobian(lambda p: [math.sqrt(-abs(p[0])), p[1]], [0.0, 1.0], stencil="forward")
    np.testing.assert_allclose(forward[:, 1], [0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, "f returned None"),
        ("text", TypeError, "f returned 'text'"),
        (np.ones(2) * 1j, TypeError, "f returned complex outputs: not supported"),
    ],
)
def test_outputs_of_a_jacobian_must_be_real(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastgc.numerical_jacobian(lambda p: value, np.ones(2))


def test_the_outputs_of_a_jacobian_must_keep_their_shape() -> None:
    with pytest.raises(ValueError, match=r"f returned shape \(1,\) near x and \(2,\) at x; it must not change"):
        fastgc.numerical_jacobian(lambda p: p if p[0] == 1 else p[:1], np.ones(2))


def test_a_function_that_returns_its_buffer_again_and_again() -> None:
    buffer = np.empty(2)

    def f(p: np.ndarray) -> np.ndarray:
        buffer[:] = products(p)
        return buffer

    np.testing.assert_allclose(fastgc.numerical_jacobian(f, [2.0, 3.0]), [[4, 1], [3, -4]], atol=1e-9)


def test_a_function_that_returns_its_argument() -> None:
    np.testing.assert_allclose(fastgc.numerical_jacobian(lambda p: p, np.arange(3.0)), np.eye(3), atol=1e-9)


def test_the_point_of_a_jacobian_is_never_touched() -> None:
    def f(p: np.ndarray) -> np.ndarray:
        p *= 2
        return p

    x = np.array([1.0, 2.0])
    np.testing.assert_allclose(fastgc.numerical_jacobian(f, x), 2 * np.eye(2), atol=1e-9)
    np.testing.assert_array_equal(x, [1, 2])


def test_extra_arguments_reach_a_function_of_several_outputs() -> None:
    found = fastgc.numerical_jacobian(lambda p, a: a * p, [1.0, 2.0], args=(np.array([3.0, 4.0]),))
    np.testing.assert_allclose(found, np.diag([3, 4]), atol=1e-9)


@pytest.mark.parametrize("x", [[1j], np.array([1j]), "text", None])
def test_a_point_of_a_jacobian_must_be_real(x: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        fastgc.numerical_jacobian(lambda p: p, x)


# --- error measures ---


def test_the_norm_wise_measure() -> None:
    assert fastgc.relative_error([3.0, 4.0], [0.0, 0.0]) == 1
    assert fastgc.relative_error([1.0], [3.0]) == 0.5
    assert fastgc.relative_error([0.0], [0.0]) == 0
    assert fastgc.relative_error([1e-20], [-1e-20]) == 0
    assert fastgc.relative_error([1e-10], [-1e-10]) == 1
    assert fastgc.relative_error(np.empty(0), np.empty(0)) == 0


def test_the_element_wise_measure() -> None:
    assert fastgc.max_relative_error([1.0, 1.0], [1.0, 3.0]) == 0.5
    assert fastgc.max_relative_error([0.0, 1e-10], [0.0, 0.0]) == 1e-2
    assert fastgc.max_relative_error(np.empty((0, 2)), np.empty((0, 2))) == 0


@pytest.mark.parametrize("measure", [fastgc.relative_error, fastgc.max_relative_error])
def test_measures_do_not_hide_nan_nor_broadcast(measure: Any) -> None:
    assert math.isnan(measure([1.0, np.nan], [1.0, 1.0]))
    assert math.isnan(measure([1.0, np.inf], [1.0, 1.0])) or measure([1.0, np.inf], [1.0, 1.0]) >= 1
    with pytest.raises(ValueError, match=r"a has shape \(3, 1\); b has shape \(3,\)"):
        measure(np.ones((3, 1)), np.ones(3))


@given(
    hnp.arrays(np.float64, 5, elements=st.floats(-1e100, 1e100)),
    hnp.arrays(np.float64, 5, elements=st.floats(-1e100, 1e100)),
)
def test_measures_are_symmetric_and_at_most_one(a: np.ndarray, b: np.ndarray) -> None:
    for measure in (fastgc.relative_error, fastgc.max_relative_error):
        assert measure(a, b) == measure(b, a)
        assert 0 <= measure(a, b) <= 1 + 1e-15
        assert measure(a, a) == 0


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (0, "correct with high confidence"),
        (9.9e-8, "correct with high confidence"),
        (1e-7, "likely correct"),
        (9.9e-6, "likely correct"),
        (1e-5, "suspicious"),
        (9.9e-4, "suspicious"),
        (1.1e-3, "almost certainly a bug"),
        (1, "almost certainly a bug"),
        (math.inf, "almost certainly a bug"),
        (math.nan, "almost certainly a bug"),
    ],
)
def test_the_bands_of_the_relative_error(error: float, meaning: str) -> None:
    assert fastgc.interpret(error).startswith(meaning)
