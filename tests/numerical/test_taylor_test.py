"""Taylor's test: remainders and rates against closed forms, right and wrong gradients, the picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot

import fastgc
from tests.support.imports import make_missing


def f(x: Any) -> float:
    return float(np.exp(x).sum())


def product(x: Any, direction: Any) -> Any:
    return np.exp(x) * direction


X = np.array([0.5, -1.0, 0.25])
D = np.array([1.0, -2.0, 0.5])


@pytest.fixture
def right() -> Any:
    return fastgc.taylor_test(f, np.exp, X, direction=D, hessian=product)


def test_remainders_are_those_of_the_series(right: Any) -> None:
    """Of exp(x + h d), term by term, in closed form by expm1."""
    h = right.steps[:, None]
    terms = np.exp(X) * np.expm1(h * D)
    exact = [terms, np.exp(X) * (np.expm1(h * D) - h * D), np.exp(X) * (np.expm1(h * D) - h * D - (h * D) ** 2 / 2)]
    for order, each in enumerate(exact):
        np.testing.assert_allclose(right.remainders[order], np.abs(each.sum(axis=1)), rtol=1e-6, atol=1e-14)


def test_rates_are_one_two_and_three(right: Any) -> None:
    assert {order: round(rate, 1) for order, rate in right.rate.items()} == {0: 1.0, 1: 2.0, 2: 3.0}
    assert right.passed and right
    assert all(rates.shape == (right.steps.size - 1,) for rates in right.rates.values())


@pytest.mark.parametrize("factor", [0.99, 1.001, -1, 0])
def test_a_wrong_gradient_has_rate_one(factor: float) -> None:
    test = fastgc.taylor_test(f, lambda x: factor * np.exp(x), X)
    assert not test
    assert test.rate[1] == pytest.approx(1, abs=0.2)
    assert str(test).startswith(f"FAIL  remainder of order 1: rate {test.rate[1]:.2f} (right: 2)")


def test_a_wrong_hessian_has_rate_two() -> None:
    test = fastgc.taylor_test(f, np.exp, X, hessian=lambda x, d: 2 * product(x, d))
    assert not test
    assert test.rate[1] == pytest.approx(2, abs=0.1)
    assert test.rate[2] == pytest.approx(2, abs=0.1)


def test_a_linear_function_leaves_round_off_alone() -> None:
    test = fastgc.taylor_test(lambda x: float(3 * x.sum()), lambda x: 3 * np.ones_like(x), X)
    assert test.passed and test.rate[1] == math.inf
    assert "remainder of order 1: round-off alone (right: 2)" in str(test)


def test_a_constant_function_and_a_zero_gradient() -> None:
    test = fastgc.taylor_test(lambda x: 0.0, lambda x: 0 * x, X)
    assert test.passed
    test.plot().figure.canvas.draw()
    pyplot.close("all")


def test_structures_arguments_and_given_gradients() -> None:
    params = {"a": np.ones((2, 2)), "b": {"c": np.full(3, 2.0)}}

    def loss(p: Any, scale: float) -> float:
        return float(scale * (np.sum(p["a"] ** 3) + np.sum(p["b"]["c"] ** 2)))

    gradient = {"a": 6 * params["a"] ** 2, "b": {"c": 4 * params["b"]["c"]}}
    assert fastgc.taylor_test(loss, gradient, params, args=(2.0,))
    assert fastgc.taylor_test(loss, lambda p, scale: gradient, params, args=(2.0,), direction=params)
    assert not fastgc.taylor_test(loss, gradient, params, args=(3.0,))


def test_a_number_is_a_point_too() -> None:
    assert fastgc.taylor_test(lambda x: float(np.sin(x)), np.cos, 1.0, direction=1.0)


def test_the_point_is_left_as_it_is() -> None:
    x = X.copy()

    def spoiled(x: Any) -> Any:
        found = np.exp(x)
        x[:] = 7
        return found

    assert fastgc.taylor_test(f, spoiled, x)
    np.testing.assert_array_equal(x, X)


def test_one_seed_gives_one_direction() -> None:
    first, second, other = (fastgc.taylor_test(f, np.exp, X, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.remainders[0], second.remainders[0])
    assert first.remainders[0][0] != other.remainders[0][0]


@pytest.mark.parametrize("steps", [[], [0.1], [0.1, 0.0], [0.1, -0.1], [math.nan, 0.1]])
def test_steps_must_be_positive(steps: list[float]) -> None:
    with pytest.raises(ValueError, match=r"steps is .*must be at least two positive numbers"):
        fastgc.taylor_test(f, np.exp, X, steps=steps)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        fastgc.taylor_test(f, np.ones(2), X)
    with pytest.raises(ValueError, match="direction"):
        fastgc.taylor_test(f, np.exp, X, direction=np.ones(2))
    with pytest.raises(ValueError, match="it must return one value"):
        fastgc.taylor_test(np.exp, np.exp, X)
    with pytest.raises(TypeError, match="x is of dtype complex128; it must be"):
        fastgc.taylor_test(lambda x: 0.0, lambda x: x, np.ones(2, complex))
    with pytest.raises(TypeError, match="direction is of dtype complex128; it must be"):
        fastgc.taylor_test(lambda x: 0.0, lambda x: x, np.ones(2), direction=np.ones(2, complex))
    with pytest.raises(ValueError, match="seed is -1"):
        fastgc.taylor_test(f, np.exp, X, seed=-1)


def test_the_text_is_a_table_that_fits(right: Any) -> None:
    lines = str(right).splitlines()
    assert lines[0].startswith("PASS  remainder of order 1: rate 2.00 (right: 2)")
    assert max(map(len, lines)) <= 100
    assert len([line for line in lines if line[:1].isdigit()]) == right.steps.size
    assert repr(right) == str(right)


def test_the_picture_has_a_guide_for_each_order(right: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ax = right.plot()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in ax.texts] == ["h", "h²", "h³"]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["round-off", "order 0", "order 1", "order 2"]
    pyplot.close("all")
    assert "<svg" in right._repr_html_()
    make_missing(monkeypatch, "matplotlib")
    with pytest.raises(ImportError, match=r"plot\(\) needs matplotlib"):
        right.plot()
