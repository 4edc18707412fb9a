"""Numerical derivatives of entries are as uncertain as they say: random smooth functions with known derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import fastgc

Floats = NDArray[np.float64]
Draw = Callable[[float, float], float]  # a number between two others


@dataclass(frozen=True)
class Example:
    """A function of one number, its derivative, and where to take it."""

    name: str
    f: Callable[[float], float]
    slope: Callable[[float], float]
    x: float


def polynomial(draw: Draw) -> Example:
    coefficients = [draw(-2, 2) for _ in range(2 + int(draw(0, 5.99)))]
    p = np.polynomial.Polynomial(coefficients)
    return Example(f"polynomial {coefficients}", p, p.deriv(), draw(-2, 2))


def exponential(draw: Draw) -> Example:
    a = draw(-20, 20)
    return Example(f"exp({a} x)", lambda x: math.exp(a * x), lambda x: a * math.exp(a * x), draw(-1, 1))


def sine(draw: Draw) -> Example:
    a, b = draw(0.1, 12), draw(-3, 3)
    return Example(f"sin({a} x + {b})", lambda x: math.sin(a * x + b), lambda x: a * math.cos(a * x + b), draw(-2, 2))


def hyperbolic(draw: Draw) -> Example:
    a = draw(0.1, 8)
    return Example(f"tanh({a} x)", lambda x: math.tanh(a * x), lambda x: a / math.cosh(a * x) ** 2, draw(-1, 1))


def logarithm(draw: Draw) -> Example:
    a = 10 ** draw(-3, 3)
    return Example(f"log({a} x)", lambda x: math.log(a * x), lambda x: 1 / x, 10 ** draw(-3, 2))


def power(draw: Draw) -> Example:
    p = draw(-3, 3.5)
    return Example(f"x**{p}", lambda x: math.pow(x, p), lambda x: p * math.pow(x, p - 1), 10 ** draw(-2, 2))


def rational(draw: Draw) -> Example:
    a, b = draw(0.2, 5), draw(-2, 2)

    def f(x: float) -> float:
        return (x + b) / (1 + (a * x) ** 2)

    def slope(x: float) -> float:
        below = 1 + (a * x) ** 2
        return 1 / below - (x + b) * 2 * a * a * x / below**2

    return Example(f"(x + {b}) / (1 + ({a} x)**2)", f, slope, draw(-2, 2))


FAMILIES = [polynomial, exponential, sine, hyperbolic, logarithm, power, rational]


@dataclass(frozen=True)
class Outcome:
    """An entry that climbed the ladder: its true error and what it said of itself, in units of the function's scale."""

    name: str
    error: float
    uncertainty: float
    slope: float


def climbed(example: Example, scale: float, offset: float, unit: float) -> Outcome:
    """Check scale * (f(x / unit) + offset) with a gradient so wrong that its entry climbs the ladder of steps."""
    true = scale * example.slope(example.x) / unit

    def loss(p: Floats) -> float:
        return scale * (example.f(float(p[0]) / unit) + offset)

    point = np.array([example.x * unit])
    wrong = np.array([2 * true + scale / unit])
    report = fastgc.check_gradients(loss, wrong, point, crosscheck=False)
    entry = report.tensors["params"].entries[0]
    # The example's own slope is rounded, and so is the point in other units.
    slack = 8 * np.finfo(np.float64).eps * (abs(true) + abs(scale / unit))
    error = max(0.0, abs(entry.numerical - true) - slack)
    name = f"{example.name} at {example.x}, scale {scale}, offset {offset}, unit {unit}"
    return Outcome(name, error * unit / scale, entry.uncertainty * unit / scale, true * unit / scale)


@cache
def outcomes() -> tuple[Outcome, ...]:
    """350 random functions of all families, scales and offsets."""
    generator = np.random.default_rng(12345)

    def draw(low: float, high: float) -> float:
        return float(generator.uniform(low, high))

    found = []
    for number in range(350):
        example = FAMILIES[number % len(FAMILIES)](draw)
        offset = 0.0 if number % 2 else (-1) ** (number // 2) * 10 ** draw(0, 10)
        unit = 1.0 if number % 3 else 10 ** draw(-6, 6)
        found.append(climbed(example, 10 ** draw(-8, 8), offset, unit))
    return tuple(found)


def test_every_entry_has_a_derivative_and_an_uncertainty() -> None:
    assert len(outcomes()) == 350
    lost = [each for each in outcomes() if not (np.isfinite(each.error) and np.isfinite(each.uncertainty))]
    assert len(lost) <= 0.002 * len(outcomes()), lost
    assert all(each.uncertainty > 0 for each in outcomes())


def test_the_true_error_is_within_the_uncertainty_nearly_always() -> None:
    beyond = [each.name for each in outcomes() if each.error > each.uncertainty]
    assert len(beyond) <= 0.01 * len(outcomes()), beyond


def test_the_true_error_is_within_ten_uncertainties_always() -> None:
    beyond = [
        f"{each.name}: {each.error / each.uncertainty:.0f} u"
        for each in outcomes()
        if each.error > 10 * each.uncertainty
    ]
    assert not beyond


def test_the_uncertainty_is_no_excuse() -> None:
    for part in (outcomes(), outcomes()[::2], outcomes()[1::2]):
        errors, uncertainties = (np.array([getattr(each, name) for each in part]) for name in ("error", "uncertainty"))
        assert np.median(uncertainties) <= 30 * np.median(errors)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_no_family_of_functions_is_the_weak_one(family: Callable[[Draw], Example]) -> None:
    mine = outcomes()[FAMILIES.index(family) :: len(FAMILIES)]
    assert len(mine) == 50
    assert np.mean([each.error <= each.uncertainty for each in mine]) >= 0.98


def test_without_an_offset_derivatives_are_precise() -> None:
    plain = [each for each in outcomes()[1::2] if abs(each.slope) > 1e-3]
    relative = np.array([each.uncertainty / abs(each.slope) for each in plain])
    assert np.median(relative) < 1e-10
    assert np.mean(relative < 1e-6) > 0.99


@given(
    st.sampled_from(FAMILIES),
    st.lists(st.floats(0, 1), min_size=12, max_size=12),
    st.floats(-8, 8),
    st.none() | st.floats(0, 10),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_smooth_function_is_within_ten_uncertainties(
    family: Callable[[Draw], Example], numbers: list[float], scale: float, offset: float | None, negative: bool
) -> None:
    source = iter(numbers)
    example = family(lambda low, high: low + (high - low) * next(source))
    outcome = climbed(example, 10**scale, 0.0 if offset is None else (-1) ** negative * 10**offset, 1.0)
    assert outcome.error <= 10 * outcome.uncertainty or (math.isnan(outcome.error) and outcome.uncertainty == math.inf)


# --- entries that a cheap quotient decided ---


@pytest.mark.parametrize("stencil", ["central", "forward", "backward", "five_point"])
def test_cheap_quotients_are_within_ten_uncertainties(stencil: str) -> None:
    generator = np.random.default_rng(7)

    def draw(low: float, high: float) -> float:
        return float(generator.uniform(low, high))

    for number in range(56):
        example = FAMILIES[number % len(FAMILIES)](draw)
        scale = 10 ** draw(-8, 8)
        slope = scale * example.slope(example.x)
        report = fastgc.check_gradients(
            lambda p, example=example, scale=scale: scale * example.f(float(p[0])),
            np.array([slope]),
            np.array([example.x]),
            stencil=stencil,
            crosscheck=False,
        )
        entry = report.tensors["params"].entries[0]
        assert report.verdict != "fail", f"{example} {report}"
        assert abs(entry.numerical - slope) <= 10 * entry.uncertainty + 1e-14 * (abs(slope) + scale)


@pytest.mark.parametrize("x", [0.3, -1.2, 40.0])
def test_the_step_does_not_depend_on_the_analytic_gradient(x: float) -> None:
    """Of the worst entry of a check: others that are plainly wrong are confirmed in groups, without more steps."""

    def entry(slope: float) -> Any:
        report = fastgc.check_gradients(lambda p: math.sin(float(p[0])), np.array([slope]), np.array([x]))
        found = report.tensors["params"].entries[0]
        return found.numerical, found.uncertainty, found.step

    assert entry(math.cos(x) + 1) == entry(-7 * math.cos(x)) == entry(1e9)


def test_steps_follow_the_scale_of_entry_and_tensor() -> None:
    params = {"small": np.full(4, 1e-5), "large": np.array([1e5, 2e5, 1.0]), "zero": np.zeros(2)}

    def loss(params: Any) -> float:
        return float(sum(np.sum(np.sin(params[name] / unit)) for name, unit in UNITS.items()))

    slopes = {name: np.cos(params[name] / unit) / unit for name, unit in UNITS.items()}
    report = fastgc.check_gradients(loss, slopes, params, samples="all")
    assert report.passed, str(report)
    steps = {name: [entry.step for entry in tensor.entries] for name, tensor in report.tensors.items()}
    assert all(1e-13 < step < 1e-6 for step in steps["small"])
    assert all(1e-3 < step < 1e4 for step in steps["large"])
    assert all(1e-8 < step < 1e-1 for step in steps["zero"])


UNITS = {"small": 1e-5, "large": 1e5, "zero": 1.0}


def test_the_divisor_is_the_step_actually_taken() -> None:
    for x in (1.0, 1 / 3, 1e6, 12345.678, 1e-9):
        for stencil in ("central", "forward", "backward", "five_point"):
            numerical = fastgc.numerical_gradient(lambda p: 3 * float(p[0]), np.array([x]), stencil=stencil)
            assert numerical[0] == pytest.approx(3.0, rel=1e-9 if stencil in ("central", "five_point") else 1e-7)
            report = fastgc.check_gradients(lambda p: float(p[0]), np.ones(1), np.array([x]), stencil=stencil)
            assert report.passed
            if stencil == "forward":  # x + h is exact by construction, and so is its difference from x
                assert report.tensors["params"].entries[0].numerical == 1.0
