"""The figures that gradient-checking tutorials print, one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize, rosen, rosen_der

import fastgc
from tests.support.hunt import LOSS, assert_a_third, assert_figures
from tests.support.textbook import EPS, FIVE_POINT, SIGMOIDS, SLOPE, assert_optimum

Floats = NDArray[np.float64]
Params = dict[str, Floats]


# --- one number for a flat vector ---


def quadratic(x: Floats) -> float:
    return float(np.sum(x**2) + x[0] * x[1])


def quadratic_slopes(x: Floats) -> Floats:
    slopes = 2 * x
    slopes[0] += x[1]
    slopes[1] += x[0]
    return slopes


POINT = np.array([1.0, 2.0, -0.5])


def test_the_classic_check_returns_its_five_keys() -> None:
    result = fastgc.gradient_check(quadratic, quadratic_slopes, POINT)
    assert list(result) == [
        "analytical_gradient", "numerical_gradient", "absolute_difference", "relative_error", "passed",
    ]  # fmt: skip
    assert type(result["relative_error"]) is float and type(result["passed"]) is bool
    np.testing.assert_array_equal(result["analytical_gradient"], quadratic_slopes(POINT))
    np.testing.assert_allclose(result["numerical_gradient"], quadratic_slopes(POINT), rtol=1e-7)
    difference = np.abs(result["analytical_gradient"] - result["numerical_gradient"])
    np.testing.assert_array_equal(result["absolute_difference"], difference)
    assert result["passed"]


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-6, 1.001, 2.0, -1.0, 0.0])
def test_the_classic_relative_error_is_the_norm_wise_one(factor: float) -> None:
    result = fastgc.gradient_check(quadratic, lambda x: factor * quadratic_slopes(x), POINT)
    a, n = result["analytical_gradient"], result["numerical_gradient"]
    expected = np.linalg.norm(a - n) / (np.linalg.norm(a) + np.linalg.norm(n) + 1e-8)
    assert result["relative_error"] == pytest.approx(expected, rel=1e-12)
    assert result["passed"] == (result["relative_error"] < 1e-5) == (factor in (1.0, 1 + 1e-6))


def test_the_classic_step_and_tolerance_are_arguments() -> None:
    a_little_off = fastgc.gradient_check(quadratic, lambda x: 1.001 * quadratic_slopes(x), POINT, 1e-5, 1e-2)
    assert a_little_off["passed"]
    coarse = fastgc.gradient_check(lambda x: float(np.sum(x**3)), lambda x: 3 * x**2, POINT, h=0.1)
    np.testing.assert_allclose(coarse["numerical_gradient"], 3 * POINT**2 + 0.01, rtol=1e-12)
    assert not coarse["passed"]


def test_the_numerical_gradient_is_the_central_difference_with_the_given_step() -> None:
    for h in (1e-7, 1e-3, 0.25):
        numerical = fastgc.numerical_gradient(quadratic, POINT, h)
        for i, value in enumerate(numerical):
            up, down = POINT.copy(), POINT.copy()
            up[i] += h
            down[i] -= h
            assert value == (quadratic(up) - quadratic(down)) / (2 * h)
    np.testing.assert_allclose(fastgc.numerical_gradient(quadratic, POINT), quadratic_slopes(POINT), rtol=1e-9)


# --- difference formulas ---


@pytest.mark.parametrize(
    ("stencil", "figure", "digits"),
    [
        ("forward", 0.5402602314, 5e-11),
        ("central", 0.5403023050, 5e-11),
        ("five_point", 0.5403023058685638, FIVE_POINT),
        ("backward", 0.5403443785, 5e-11),
    ],
)
def test_the_slope_of_the_sine_at_one(stencil: str, figure: float, digits: float) -> None:
    numerical = fastgc.numerical_gradient(math.sin, 1.0, 1e-4, stencil=stencil)
    assert float(numerical) == pytest.approx(figure, rel=0, abs=digits)
    assert abs(float(numerical) - SLOPE) < {"central": 1e-9, "five_point": FIVE_POINT}.get(stencil, 5e-5)


def test_the_complex_step_has_no_round_off() -> None:
    numerical = fastgc.numerical_gradient(lambda x: np.sin(x).sum(), np.array([1.0]), stencil="complex_step")
    assert numerical[0] == pytest.approx(SLOPE, rel=4 * EPS)


# --- steps ---


def test_truncation_and_round_off_leave_an_optimum_between_them() -> None:
    sweep = fastgc.step_sweep(math.sin, math.cos, 1.0)
    steps, errors = np.asarray(sweep.steps), {name: np.asarray(each) for name, each in sweep.errors.items()}
    assert steps.size == 500
    assert steps.min() == pytest.approx(1e-16) and steps.max() == pytest.approx(1.0)
    large, small = (steps > 1e-3) & (steps < 1e-1), (steps > 1e-15) & (steps < 1e-10)
    for name, order in (("forward", 1), ("central", 2)):
        slope = np.polyfit(np.log(steps[large]), np.log(errors[name][large]), 1)[0]
        assert slope == pytest.approx(order, abs=0.1)
        kept = errors[name][small] > 0
        slope = np.polyfit(np.log(steps[small][kept]), np.log(errors[name][small][kept]), 1)[0]
        assert slope == pytest.approx(-1, abs=0.4)
        assert_optimum(name, steps, errors[name])


# --- Jacobians ---


def test_the_jacobian_of_two_polynomials() -> None:
    def f(x: Floats) -> Floats:
        return np.array([x[0] ** 2 + x[1], x[0] * x[1] - x[1] ** 2])

    numerical = fastgc.numerical_jacobian(f, [2.0, 3.0], 1e-5)
    assert numerical.shape == (2, 2)
    error = np.abs(numerical - [[4, 1], [3, -4]]).max()
    assert 1e-12 < error < 2e-10
    np.testing.assert_allclose(fastgc.numerical_jacobian(f, [2.0, 3.0]), [[4, 1], [3, -4]], atol=2e-10)
    wide = fastgc.numerical_jacobian(lambda x: np.array([np.sum(x**2)]), np.arange(5.0))
    assert wide.shape == (1, 5)
    tall = fastgc.numerical_jacobian(lambda x: np.outer(x, x), np.array([1.0, 2.0]))
    assert tall.shape == (4, 2)


# --- error measures ---


def test_the_norm_wise_measure() -> None:
    a, n = np.array([3.0, 4.0]), np.array([3.0, 4.0 + 1e-3])
    assert fastgc.relative_error(a, n) == pytest.approx(1e-3 / (5 + np.linalg.norm(n)), rel=1e-9)
    assert fastgc.relative_error(a, -a) == 1.0
    assert fastgc.relative_error(np.zeros(3), np.zeros(3)) == 0.0
    assert fastgc.relative_error(np.full(3, 1e-200), np.zeros(3)) == 0.0
    assert math.isnan(fastgc.relative_error([math.nan, 1], [1, 1]))
    with pytest.raises(ValueError, match=r"\(2,\).*\(2, 1\)"):
        fastgc.relative_error(np.ones(2), np.ones((2, 1)))


def test_the_element_wise_maximum() -> None:
    assert fastgc.max_relative_error([1.0, 2.0], [1.0, 6.0]) == 0.5
    assert fastgc.max_relative_error([1e-9, 1.0], [0.0, 1.0]) == pytest.approx(0.1)
    assert fastgc.max_relative_error([0.0], [0.0]) == 0.0
    assert math.isnan(fastgc.max_relative_error([math.nan, 1], [1, 1]))
    with pytest.raises(ValueError, match=r"\(3,\).*\(\)"):
        fastgc.max_relative_error(np.ones(3), 1.0)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (0.0, "correct with high confidence"),
        (9.9e-8, "correct with high confidence"),
        (1e-7, "likely correct"),
        (9e-6, "likely correct"),
        (1.1e-5, "suspicious"),
        (9.9e-4, "suspicious"),
        (1.1e-3, "almost certainly a bug"),
        (1.0, "almost certainly a bug"),
        (math.nan, "almost certainly a bug"),
        (math.inf, "almost certainly a bug"),
    ],
)
def test_the_bands_of_the_relative_error(error: float, meaning: str) -> None:
    assert meaning in fastgc.interpret(error)


def test_the_sum_of_sigmoids() -> None:
    def sigmoid(p: Floats) -> Floats:
        return 1 / (1 + np.exp(-p))

    p = np.array([1, -0.5, 2, 0, -1.5])
    slopes = sigmoid(p) * (1 - sigmoid(p))
    numerical = fastgc.numerical_gradient(lambda p: float(np.sum(sigmoid(p))), p, 1e-5)
    assert fastgc.relative_error(slopes, numerical) < SIGMOIDS
    report = fastgc.check_gradients(lambda p: float(np.sum(sigmoid(p))), slopes, p, step=1e-5)
    assert report.passed
    assert report.tensors["params"].relative_error < SIGMOIDS


# --- in place ---


def test_the_slope_of_a_square_in_place() -> None:
    x = np.array([5.0])
    numerical = fastgc.numerical_gradient(lambda x: np.sum(x**2), x, 1e-5, in_place=True)
    assert numerical[0] == pytest.approx(9.9999999996, abs=1e-10)
    assert x[0] == 5.0


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3, 2), (0, 2)])
def test_arrays_of_any_shape_are_restored_to_the_bit(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    before = x.tobytes()
    numerical = fastgc.numerical_gradient(lambda x: float(np.sum(x**3)), x, 1e-5, in_place=True)
    assert numerical.shape == shape and numerical.dtype == np.float64
    np.testing.assert_allclose(numerical, 3 * x**2, rtol=1e-6, atol=1e-9)
    assert x.tobytes() == before


# --- the bug hunt ---


class Net:
    """Two layers, ReLU and softmax cross-entropy, as tutorials write them."""

    def __init__(self) -> None:
        weights, samples = np.random.RandomState(0), np.random.RandomState(1)
        w1 = 0.1 * weights.randn(4, 10)
        w2 = 0.1 * weights.randn(10, 3)
        self.params: Params = {"W1": w1, "b1": np.zeros(10), "W2": w2, "b2": np.zeros(3)}
        self.x, self.y = 10 * samples.randn(5, 4), np.array([0, 1, 2, 2, 1])

    def loss(self, params: Params | None = None) -> tuple[float, Params]:
        p = self.params if params is None else params
        hidden = np.maximum(0, self.x @ p["W1"] + p["b1"])
        scores = np.exp(hidden @ p["W2"] + p["b2"])
        probabilities = scores / np.sum(scores, axis=1, keepdims=True)
        rows = np.arange(5)
        value = float(np.sum(-np.log(probabilities[rows, self.y])) / 5)
        probabilities[rows, self.y] -= 1
        slope = probabilities / 5
        below = slope @ p["W2"].T
        below[hidden <= 0] = 0
        return value, {"W2": hidden.T @ slope, "b2": slope.sum(axis=0), "W1": self.x.T @ below, "b1": below.sum(axis=0)}


def with_doubled_w1(gradients: Params) -> Params:
    return gradients | {"W1": 2 * gradients["W1"]}


def test_the_net_has_the_loss_it_should_have() -> None:
    assert Net().loss()[0] == LOSS


@pytest.mark.parametrize("in_place", [False, True])
def test_the_bug_hunt_finds_w1_and_its_factor(in_place: bool) -> None:
    net = Net()
    before = [value.tobytes() for value in net.params.values()]
    right = net.loss()[1]
    gradients = with_doubled_w1(right)
    loss: Callable[[Any], float] = (lambda _: net.loss()[0]) if in_place else (lambda p: net.loss(p)[0])
    report = fastgc.check_gradients(loss, gradients, net.params, samples="all", step=1e-5, in_place=in_place)
    assert_figures(report, net.params, net.x, right)
    assert_a_third(report.tensors["W1"])
    assert {name: tensor.verdict for name, tensor in report.tensors.items()} == {
        "W1": "fail", "b1": "pass", "W2": "pass", "b2": "pass",
    }  # fmt: skip
    diagnosis = report.tensors["W1"].diagnosis
    assert diagnosis is not None and diagnosis.kind == "factor" and diagnosis.factor == pytest.approx(2, rel=1e-6)
    assert "factor of 2" in str(report)
    assert "note: b1, W2, b2 are right, W1 is wrong" in str(report).splitlines()
    assert report.verdict == "fail" and str(report).startswith("FAIL")
    assert [value.tobytes() for value in net.params.values()] == before


def test_without_the_bug_everything_passes() -> None:
    net = Net()
    right = net.loss()[1]
    report = fastgc.check_gradients(lambda p: net.loss(p)[0], right, net.params, samples="all", step=1e-5)
    assert report.passed
    assert_figures(report, net.params, net.x, right)


def test_the_bug_is_found_with_default_settings_too() -> None:
    net = Net()
    report = fastgc.check_gradients(lambda p: net.loss(p)[0], with_doubled_w1(net.loss()[1]), net.params)
    assert [name for name, tensor in report.tensors.items() if tensor.verdict == "fail"] == ["W1"]
    assert fastgc.check_gradients(lambda p: net.loss(p)[0], lambda p: net.loss(p)[1], net.params).passed


# --- black boxes ---


def test_plain_descent_on_a_black_box() -> None:
    x = np.array([3.0, -2.0])
    for _ in range(200):
        x = x - 0.1 * fastgc.numerical_gradient(lambda x: float((x[0] - 1) ** 2 + 2 * (x[1] + 0.5) ** 2), x)
    np.testing.assert_allclose(x, [1.0, -0.5], atol=1e-8)


def test_the_numerical_gradient_drives_an_optimiser() -> None:
    start = np.array([-1.2, 1.0, 0.7])
    result = minimize(rosen, start, jac=lambda x: fastgc.numerical_gradient(rosen, x), method="BFGS")
    np.testing.assert_allclose(result.x, 1.0, atol=1e-4)
    exact = minimize(rosen, start, jac=rosen_der, method="BFGS")
    assert result.nfev <= 2 * exact.nfev


def test_a_simulator_gets_a_gradient() -> None:
    def landing(throw: Floats) -> float:
        x, y, u, v = 0.0, 1.0, throw[0], throw[1]
        for _ in range(100):
            x, y, u, v = x + 0.01 * u, y + 0.01 * v, u * 0.999, v - 0.0981
        return float((x - 4) ** 2 + y**2)

    decay = sum(0.01 * 0.999**k for k in range(100))
    numerical = fastgc.numerical_gradient(landing, np.array([2.0, 3.0]))
    x, y = 2 * decay, 1 + 3.0 - 0.01 * 0.0981 * sum(range(100))
    np.testing.assert_allclose(numerical, [2 * (x - 4) * decay, 2 * y], rtol=1e-8)


# --- what goes wrong in practice ---


def batch(n: int = 8) -> tuple[Params, tuple[Floats, Floats]]:
    generator = np.random.default_rng(5)
    params = {"W": generator.normal(size=(4, 4)), "b": generator.normal(size=4), "V": generator.normal(size=(4, 2))}
    return params, (generator.normal(size=(n, 4)), generator.normal(size=(n, 2)))


def model(p: Params, x: Floats, y: Floats) -> tuple[float, Params]:
    hidden = np.tanh(x @ p["W"] + p["b"])
    off = hidden @ p["V"] - y
    slope = 2 * off / len(x)
    below = (slope @ p["V"].T) * (1 - hidden**2)
    value = float(np.sum(off**2) / len(x) + 0.05 * np.sum(p["W"] ** 2))
    return value, {"W": x.T @ below + 0.1 * p["W"], "b": below.sum(axis=0), "V": hidden.T @ slope}


BUGS: dict[str, tuple[str, Callable[[Params, Params], Floats]]] = {
    "wrong sign": ("V", lambda g, p: -g["V"]),
    "factor 2": ("W", lambda g, p: 2 * g["W"]),
    "factor 1/2": ("b", lambda g, p: 0.5 * g["b"]),
    "batch size missing": ("V", lambda g, p: 8 * g["V"]),
    "batch size twice": ("V", lambda g, p: g["V"] / 8),
    "transposed": ("W", lambda g, p: g["W"].T),
    "reshaped in the other order": ("W", lambda g, p: g["W"].reshape(-1, order="F").reshape(4, 4)),
    "weight decay missing": ("W", lambda g, p: g["W"] - 0.1 * p["W"]),
    "zero (detached)": ("b", lambda g, p: 0 * g["b"]),
    "mean over the batch instead of the sum": ("b", lambda g, p: g["b"] / 4),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_typical_bug_fails_in_its_tensor_only(bug: str) -> None:
    params, args = batch()
    name, change = BUGS[bug]

    def wrong(p: Params, *data: Any) -> Params:
        right = model(p, *data)[1]
        return right | {name: change(right, p)}

    report = fastgc.check_gradients(lambda p, *data: model(p, *data)[0], wrong, params, args=args)
    assert [each.name for each in report.tensors.values() if each.verdict == "fail"] == [name], str(report)
    assert list(report.tensors) == ["W", "b", "V"]


@pytest.mark.parametrize("where", [(0, 0), (3, 3), (1, 2)])
def test_a_single_wrong_entry_is_named(where: tuple[int, int]) -> None:
    params, args = batch()
    right = model(params, *args)[1]
    right["W"][where] *= 1.01
    report = fastgc.check_gradients(lambda p, *data: model(p, *data)[0], right, params, args=args, samples="all")
    assert [(entry.tensor, entry.index) for entry in report.tensors["W"].wrong_entries] == [("W", where)]
    assert f"W[{where[0]}, {where[1]}]" in str(report)


@pytest.mark.parametrize("factor", [-1.0, 2.0, 0.5, 8.0, 0.125])
def test_a_constant_factor_is_named(factor: float) -> None:
    params, args = batch()

    def wrong(p: Params, *data: Any) -> Params:
        right = model(p, *data)[1]
        return right | {"V": factor * right["V"]}

    diagnosis = fastgc.check_gradients(lambda p, *d: model(p, *d)[0], wrong, params, args=args).tensors["V"].diagnosis
    assert diagnosis is not None and diagnosis.factor == pytest.approx(factor, rel=1e-6)


def test_biases_and_every_other_tensor_are_always_included() -> None:
    params, args = batch()
    report = fastgc.check_gradients(
        lambda p, *d: model(p, *d)[0], lambda p, *d: model(p, *d)[1], params, args=args, samples=1
    )
    assert [tensor.checked for tensor in report.tensors.values()] == [1, 1, 1]
    assert report.passed


def test_a_difference_across_a_kink_is_no_bug() -> None:
    generator = np.random.default_rng(2)
    x, w = generator.normal(size=(6, 5)), generator.normal(size=(5, 7))
    bias = -(x @ w)[np.arange(7) % 6, np.arange(7)]  # every unit sits on its kink for one sample

    def rectified(p: Params) -> float:
        return float(np.sum(np.maximum(0, x @ p["w"] + p["b"]) ** 2 + np.maximum(0, x @ p["w"] + p["b"])))

    def slopes(p: Params) -> Params:
        z = x @ p["w"] + p["b"]
        below = (2 * np.maximum(0, z) + 1) * (z > 1e-12)
        return {"w": x.T @ below, "b": below.sum(axis=0)}

    for shift in (0.0, 1e-9, -1e-9, 1e-7, -1e-7, 1e-5, 1e-3):
        report = fastgc.check_gradients(rectified, slopes, {"w": w, "b": bias + shift}, samples="all")
        assert report.verdict != "fail", f"{shift} {report}"
    params = {"w": w, "b": bias}

    def doubled(p: Params) -> Params:
        return {name: 2 * value for name, value in slopes(p).items()}

    assert fastgc.check_gradients(rectified, doubled, params).verdict == "fail"
    # An array cannot be asked again beside the kinks: it might be a convention.
    assert fastgc.check_gradients(rectified, doubled(params), params).verdict != "pass"


def test_single_precision_works_in_double_or_says_what_it_cannot_tell() -> None:
    params, args = batch()
    single = {name: value.astype(np.float32) for name, value in params.items()}
    data = tuple(each.astype(np.float32) for each in args)

    def loss(p: Params, *d: Any) -> float:
        return model(p, *d)[0]

    right = fastgc.check_gradients(loss, lambda p, *d: model(p, *d)[1], single, args=data)
    assert right.passed
    assert max(tensor.max_relative_error for tensor in right.tensors.values()) < 1e-6
    native = fastgc.check_gradients(loss, lambda p, *d: model(p, *d)[1], single, args=data, precision="native")
    assert native.verdict != "fail", str(native)
    wrong = fastgc.check_gradients(
        loss, lambda p, *d: {k: 1.5 * v for k, v in model(p, *d)[1].items()}, single, args=data, precision="native"
    )
    assert wrong.verdict == "fail"
