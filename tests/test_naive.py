"""The package's numbers against the plain check: in both engines, for right and for wrong gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

import fastgc
from tests.support import naive
from tests.support.naive import Tensors

STEP = 1e-5


def loss(params: Any, x: Any, y: Any) -> float:
    """Squared error of a two-layer network, in loops of plain arithmetic: the same bits in Python and compiled."""
    w1, b1, w2 = params["W1"], params["b1"], params["W2"]
    total = 0.0
    for i in range(x.shape[0]):
        output = 0.0
        for j in range(w1.shape[1]):
            z = b1[j]
            for k in range(w1.shape[0]):
                z += x[i, k] * w1[k, j]
            output += z / (1 + z * z) * w2[j]
        total += 0.5 * (output - y[i]) * (output - y[i])
    return total


LOSSES = {"python": loss, "numba": numba.njit(loss)}  # compiled once for all tests


def gradients(params: Tensors, x: Any, y: Any) -> Tensors:
    z = x @ params["W1"] + params["b1"]
    hidden = z / (1 + z * z)
    slope = hidden @ params["W2"] - y
    below = np.outer(slope, params["W2"]) * (1 - z * z) / (1 + z * z) ** 2
    return {"W1": x.T @ below, "b1": below.sum(axis=0), "W2": hidden.T @ slope}


def doubled(params: Tensors, *args: Any) -> Tensors:
    right = gradients(params, *args)
    return right | {"W1": 2 * right["W1"]}


def one_entry_off(params: Tensors, *args: Any) -> Tensors:
    wrong = gradients(params, *args)
    wrong["W1"][2, 1] *= 1.1
    return wrong


def nearly_right(params: Tensors, *args: Any) -> Tensors:
    return {name: (1 + 1e-7) * g for name, g in gradients(params, *args).items()}


@pytest.fixture
def params() -> Tensors:
    rng = np.random.default_rng(0)
    return {"W1": rng.normal(size=(3, 4)), "b1": rng.normal(size=4), "W2": rng.normal(size=4)}


@pytest.fixture
def args() -> tuple[Any, ...]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(5, 3)), rng.normal(size=5)


@pytest.mark.parametrize("engine", ["python", "numba"])
@pytest.mark.parametrize("analytic", [gradients, doubled, one_entry_off, nearly_right])
def test_every_number_is_that_of_the_plain_check(
    params: Tensors, args: tuple[Any, ...], analytic: Callable[..., Tensors], engine: str
) -> None:
    options = {"args": args, "samples": "all", "step": STEP, "engine": engine}
    report = fastgc.check_gradients(LOSSES[engine], analytic, params, **options)
    numerical = naive.numerical_gradients(loss, params, args, STEP)
    for name, (largest, normwise) in naive.check(loss, analytic, params, args, STEP).items():
        summary = report.tensors[name]
        assert [entry.numerical for entry in summary.entries] == numerical[name].ravel().tolist()
        assert [entry.analytic for entry in summary.entries] == analytic(params, *args)[name].ravel().tolist()
        assert summary.max_relative_error == largest
        assert summary.relative_error == pytest.approx(normwise, rel=1e-14, abs=0)
        assert summary.max_absolute_error == np.abs(analytic(params, *args)[name] - numerical[name]).max()


@pytest.mark.parametrize("engine", ["python", "numba"])
@pytest.mark.parametrize(
    ("analytic", "failing"), [(gradients, []), (doubled, ["W1"]), (one_entry_off, ["W1"]), (nearly_right, [])]
)
def test_the_verdict_is_what_the_plain_numbers_say(
    params: Tensors, args: tuple[Any, ...], analytic: Callable[..., Tensors], failing: list[str], engine: str
) -> None:
    report = fastgc.check_gradients(LOSSES[engine], analytic, params, args=args, samples="all", engine=engine)
    errors = naive.check(loss, analytic, params, args, STEP)
    assert [name for name, (_, normwise) in errors.items() if normwise > 1e-5] == failing
    assert [name for name, summary in report.tensors.items() if summary.verdict != "pass"] == failing


@pytest.mark.parametrize("engine", ["python", "numba"])
def test_automatic_steps_agree_with_the_plain_check_within_their_uncertainty(
    params: Tensors, args: tuple[Any, ...], engine: str
) -> None:
    report = fastgc.check_gradients(LOSSES[engine], gradients, params, args=args, samples="all", engine=engine)
    numerical = naive.numerical_gradients(loss, params, args, STEP)
    for name, summary in report.tensors.items():
        for entry in summary.entries:
            assert abs(entry.numerical - numerical[name][entry.index]) <= entry.uncertainty + 1e-9


@pytest.mark.parametrize("engine", ["python", "numba"])
def test_numerical_gradient_is_that_of_the_plain_check(params: Tensors, args: tuple[Any, ...], engine: str) -> None:
    found = fastgc.numerical_gradient(loss, params, STEP, args=args, engine=engine)
    for name, expected in naive.numerical_gradients(loss, params, args, STEP).items():
        np.testing.assert_array_equal(found[name], expected)


def test_error_measures_are_those_of_the_plain_check() -> None:
    rng = np.random.default_rng(2)
    for scale in (1e-12, 1e-8, 1.0, 1e8):
        a = scale * rng.normal(size=(3, 4))
        b = a + scale * 1e-3 * rng.normal(size=(3, 4))
        assert fastgc.max_relative_error(a, b) == naive.max_relative_error(a, b)
        assert fastgc.relative_error(a, b) == pytest.approx(naive.relative_error(a, b), rel=1e-14, abs=0)
