"""Gradients that others wrote, on real data: scikit-learn's back-propagation and SciPy's Rosenbrock function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import rosen, rosen_der
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import LabelBinarizer

import fastgc

Floats = NDArray[np.float64]
Params = dict[str, list[Floats]]


def network(activation: str) -> tuple[Callable[[Params], tuple[float, Params]], Params]:
    """Loss and gradients of scikit-learn's own back-propagation, and the point at which its training starts."""
    images, digits = load_digits(return_X_y=True)
    x, labels = images[:60] / 16, LabelBinarizer().fit(np.arange(10)).transform(digits[:60])
    model = MLPClassifier((12, 8), activation=activation, alpha=0.1, max_iter=1, random_state=0)
    model.partial_fit(images / 16, digits, classes=np.arange(10))
    params = {
        "coefs": [each.copy() for each in model.coefs_],
        "intercepts": [each.copy() for each in model.intercepts_],
    }
    units = [64, 12, 8, 10]

    def backprop(params: Params) -> tuple[float, Params]:
        model.coefs_, model.intercepts_ = params["coefs"], params["intercepts"]
        activations = [x] + [np.empty((len(x), count)) for count in units[1:]]
        deltas = [np.empty_like(each) for each in activations[1:]]
        coef_grads = [np.empty_like(each) for each in model.coefs_]
        intercept_grads = [np.empty_like(each) for each in model.intercepts_]
        extra = () if "sample_weight" not in model._backprop.__code__.co_varnames else (None,)
        value, *_ = model._backprop(x, labels, *extra, activations, deltas, coef_grads, intercept_grads)
        return float(value), {"coefs": coef_grads, "intercepts": intercept_grads}

    return backprop, params


@pytest.fixture(scope="module", params=["relu", "tanh"])
def problem(request: pytest.FixtureRequest) -> tuple[Callable[[Params], tuple[float, Params]], Params]:
    return network(request.param)


NAMES = ["coefs.0", "coefs.1", "coefs.2", "intercepts.0", "intercepts.1", "intercepts.2"]


def test_the_gradient_of_scikit_learns_network_passes(problem: Any) -> None:
    backprop, params = problem
    report = fastgc.check_gradients(backprop, True, params)
    assert report.passed, str(report)
    assert list(report.tensors) == NAMES
    everything = fastgc.check_gradients(lambda p: backprop(p)[0], lambda p: backprop(p)[1], params, samples="all")
    assert everything.passed, str(everything)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_matrix_off_by_a_thousandth_fails_and_is_named(problem: Any, layer: int) -> None:
    backprop, params = problem

    def slightly_wrong(p: Params) -> Params:
        gradients = backprop(p)[1]
        gradients["coefs"][layer] *= 1.001
        return gradients

    report = fastgc.check_gradients(lambda p: backprop(p)[0], slightly_wrong, params)
    assert [tensor.name for tensor in report.tensors.values() if tensor.verdict == "fail"] == [f"coefs.{layer}"]
    assert report.verdict == "fail"
    assert all(tensor.verdict == "pass" for name, tensor in report.tensors.items() if name != f"coefs.{layer}")
    diagnosis = report.tensors[f"coefs.{layer}"].diagnosis
    assert diagnosis is not None and diagnosis.factor == pytest.approx(1.001, rel=1e-5)


def test_scikit_learns_network_passes_at_several_points(problem: Any) -> None:
    backprop, params = problem
    report = fastgc.check_gradients(backprop, True, params, points=3, samples=8)
    assert report.verdict != "fail", str(report)


def test_the_rosenbrock_function_passes_at_two_hundred_points() -> None:
    generator = np.random.default_rng(0)
    signs = set()
    for number in range(200):
        point = generator.uniform(-3, 3, size=2 + number % 9)
        signs |= set(np.sign(point))
        report = fastgc.check_gradients(rosen, rosen_der, point, samples="all", crosscheck=number % 10 == 0)
        assert report.passed, f"{point} {report}"
    assert signs == {-1.0, 1.0}


def test_the_rosenbrock_function_passes_where_all_entries_have_one_sign() -> None:
    generator = np.random.default_rng(1)
    for sign in (1, -1):
        for _ in range(20):
            point = sign * generator.uniform(0.01, 2, size=6)
            assert fastgc.check_gradients(rosen, rosen_der, point, samples="all", crosscheck=False).passed


def test_a_wrong_rosenbrock_gradient_fails() -> None:
    point = np.random.default_rng(2).uniform(-3, 3, size=6)
    for where in range(6):
        wrong = rosen_der(point)
        wrong[where] *= 1.001
        report = fastgc.check_gradients(rosen, wrong, point, samples="all")
        assert [entry.index for entry in report.tensors["params"].wrong_entries] == [(where,)]
