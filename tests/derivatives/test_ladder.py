"""The derivative from a ladder of steps, its uncertainty, the slopes of both sides, the kind of trouble."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastgc._derivatives.ladder import Derivative, Ladder, _contradiction, derivative_from, extrapolate

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


def ladder(
    f: Callable[[float], float], x: float = 0.0, top: float = 0.125, steps: int = 12, noise: float = 0.0
) -> Ladder:
    """Values of f around x at steps that shrink by four; the noise is at least that of rounding."""
    sizes = top * 4.0 ** -np.arange(steps)
    above, below = (x + sizes) - x, (x - sizes) - x
    plus = np.array([f(float(x + step)) for step in above])
    minus = np.array([f(float(x + step)) for step in below])
    rounding = EPS * np.nan_to_num(np.fmax(np.abs(plus), np.abs(minus)), posinf=0) + EPS * abs(f(x))
    return Ladder(below, above, minus, plus, f(x), np.maximum(rounding, noise))


SMOOTH: dict[str, tuple[Callable[[float], float], float, float]] = {
    "line": (lambda x: 3 * x + 1, 0.7, 3.0),
    "parabola": (lambda x: x * x, 1.3, 2.6),
    "parabola at its minimum": (lambda x: x * x + 1, 0.0, 0.0),
    "quintic": (lambda x: x**5 - 4 * x**3 + x, 0.4, 5 * 0.4**4 - 12 * 0.4**2 + 1),
    "exponential": (math.exp, 0.3, math.exp(0.3)),
    "steep exponential": (lambda x: math.exp(20 * x), 0.1, 20 * math.exp(2)),
    "sine": (math.sin, 1.0, math.cos(1.0)),
    "fast sine": (lambda x: math.sin(30 * x), 0.2, 30 * math.cos(6.0)),
    "saturated": (lambda x: math.tanh(8 * x), 1.0, 8 / math.cosh(8) ** 2),
    "logarithm": (math.log, 2.0, 0.5),
    "rational": (lambda x: 1 / (1 + 25 * x * x), 0.2, -2.5),
    "large offset": (lambda x: math.sin(x) + 1e8, 0.5, math.cos(0.5)),
    "tiny": (lambda x: 1e-30 * math.sin(x), 0.5, 1e-30 * math.cos(0.5)),
    "constant": (lambda x: 7.0, 0.5, 0.0),
    "zero": (lambda x: 0.0, 0.5, 0.0),
}


@pytest.mark.parametrize(("f", "x", "slope"), SMOOTH.values(), ids=SMOOTH)
def test_a_smooth_function_has_one_slope_within_its_uncertainty(f: Any, x: float, slope: float) -> None:
    found = derivative_from(ladder(f, x))
    assert found.trouble == ""
    assert found.left == found.right == found.value
    assert 0 < found.uncertainty < math.inf
    assert abs(found.value - slope) <= found.uncertainty + 4 * EPS * abs(slope)
    assert 0 < found.step <= 0.125


@pytest.mark.parametrize(("f", "x", "slope"), SMOOTH.values(), ids=SMOOTH)
def test_the_uncertainty_of_a_smooth_function_is_small(f: Any, x: float, slope: float) -> None:
    found = derivative_from(ladder(f, x))
    assert found.uncertainty <= 1e-7 * abs(slope) + 1e4 * EPS * abs(f(x)) + 1e-300


@pytest.mark.parametrize("left", [-1.0, 0.0, 0.5])
@pytest.mark.parametrize("right", [1.0, 3.0, -2.0])
@pytest.mark.parametrize("curvature", [0.0, 1.0, -5.0])
def test_a_kink_has_two_slopes(left: float, right: float, curvature: float) -> None:
    found = derivative_from(ladder(lambda x: (right if x > 0 else left) * x + curvature * x * x + 0.25))
    assert found.trouble == "kink"
    assert found.left == pytest.approx(left, abs=10 * found.uncertainty)
    assert found.right == pytest.approx(right, abs=10 * found.uncertainty)
    assert 0 < found.uncertainty < 1e-6
    assert min(left, right) <= found.value <= max(left, right)


@pytest.mark.parametrize("power", [1.4, 1.5, 1.75, 2.5, 3.0])
def test_a_bend_that_is_differentiable_is_no_kink(power: float) -> None:
    found = derivative_from(ladder(lambda x: abs(x) ** power + 0.5 * x))
    assert found.trouble == ""
    assert abs(found.value - 0.5) <= found.uncertainty


@pytest.mark.parametrize(("power", "side"), [(0.5, 1), (0.5, -1), (0.25, 1)])
def test_an_infinite_slope_is_no_slope(power: float, side: int) -> None:
    found = derivative_from(ladder(lambda x: max(side * x, 0.0) ** power + 0.5 * x))
    assert found.trouble == "jump"


@pytest.mark.parametrize("height", [1.0, -1.0, 1e-3, 1e6])
@pytest.mark.parametrize("middle", [0.0, 0.5, 1.0])
def test_a_jump_is_no_slope(height: float, middle: float) -> None:
    found = derivative_from(ladder(lambda x: 0.5 * x + height * (1.0 if x > 0 else middle if x == 0 else 0.0)))
    assert found.trouble == "jump"


@pytest.mark.parametrize(
    "f", [lambda x: math.copysign(abs(x) ** (1 / 3), x), lambda x: math.copysign(math.sqrt(abs(x)), x)]
)
def test_an_infinite_slope_on_both_sides_is_no_slope(f: Any) -> None:
    found = derivative_from(ladder(f))
    assert found.trouble == "jump" or found.uncertainty > 0.1 * abs(found.value)


@pytest.mark.parametrize("distance", [0.1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("kind", ["kink", "jump", "edge"])
def test_trouble_beside_the_point_is_passed_under_by_smaller_steps(distance: float, kind: str) -> None:
    def f(x: float) -> float:
        beyond = max(0.0, x - distance)
        if not beyond:
            return math.sin(x)
        return math.sin(x) + {"kink": 2 * beyond, "jump": 1.0, "edge": math.nan}[kind]

    found = derivative_from(ladder(f))
    assert found.trouble == ""
    assert abs(found.value - 1.0) <= found.uncertainty
    assert found.uncertainty < 1e-3


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("outside", [math.nan, math.inf, -math.inf])
def test_at_an_edge_the_slope_of_the_one_side_is_found(side: int, outside: float) -> None:
    found = derivative_from(ladder(lambda x: outside if side * x < 0 else math.exp(x) + 1))
    assert found.trouble == "edge"
    assert abs(found.value - 1.0) <= found.uncertainty < 1e-4


def test_values_that_are_not_finite_on_both_sides_leave_nothing() -> None:
    found = derivative_from(ladder(lambda x: 1.0 if x == 0 else math.nan))
    assert found.trouble == "not finite"
    assert not np.isfinite(found.uncertainty)


@pytest.mark.parametrize("missing", range(12))
def test_one_missing_value_is_no_obstacle(missing: int) -> None:
    whole = ladder(math.exp)
    for column in "minus", "plus":
        values = getattr(whole, column).copy()
        values[missing] = math.nan
        found = derivative_from(replace(whole, **{column: values}))
        assert abs(found.value - 1.0) <= found.uncertainty < math.inf


def test_a_constant_that_rounding_shakes_is_no_staircase() -> None:
    found = derivative_from(ladder(lambda x: 3.0 if math.frexp(abs(x) + 1e-9)[1] % 2 else 3.0 * (1 + EPS)))
    assert found.trouble == ""
    assert abs(found.value) <= found.uncertainty < 1e-12


def test_a_kink_nearer_than_the_smallest_step_is_not_overlooked() -> None:
    f, smallest = (lambda x: x**2 + 0.3 * max(0.0, x - 1e-6) - 1.5 * max(0.0, x - 1e-4)), 1e-5
    coarse = derivative_from(ladder(f, top=smallest * 4**4, steps=5))  # the gaps of the larger steps have another sign
    assert coarse.better_steps == "finer"
    assert abs(coarse.value) <= coarse.uncertainty
    fine = derivative_from(ladder(f, top=smallest * 4**4, steps=10))
    assert abs(fine.value) <= fine.uncertainty < 1e-6


@pytest.mark.parametrize("noise", [1e-4, 3e-4, 1e-3])
@pytest.mark.parametrize("x", [0.2, 0.3, 0.4])
def test_steps_of_whole_periods_are_no_jump(x: float, noise: float) -> None:
    found = derivative_from(ladder(math.sin, x, top=5.53, steps=9, noise=noise))
    assert found.trouble == ""
    assert abs(found.value - math.cos(x)) <= found.uncertainty


def test_noise_of_the_smallest_steps_contradicts_nothing() -> None:
    exact = ladder(math.sin, 1.0)
    ulp, shaken = EPS, exact.plus.copy()
    shaken[-4:] += [3 * ulp, -3 * ulp, 3 * ulp, -3 * ulp]  # twice the noise that is stated
    found = derivative_from(replace(exact, plus=shaken))
    assert abs(found.value - math.cos(1.0)) <= found.uncertainty < 1e-11


def test_stairs_are_quantised() -> None:
    def stairs(x: float) -> float:
        return 0.2 * math.floor(x / 0.2 + 0.5)

    found = derivative_from(ladder(stairs, x=0.02, noise=0.2))
    assert found.trouble == "quantised"
    most = (0.4 + 0.2) / 0.25  # two stairs over a step of 0.125 to both sides, and one more
    assert abs(found.value - 1.0) <= found.uncertainty <= 1.001 * most


def test_the_stairs_of_round_off_bound_a_slope_by_the_largest_steps() -> None:
    steps = ladder(math.sin, 1.0)
    ends = np.resize([1e-16, 0.0, -1e-16], steps.plus.size)
    shaken = replace(steps, minus=ends, plus=-ends, base=0.0, noise=np.full_like(steps.noise, 1e-16))
    found = derivative_from(shaken)
    assert found.trouble == "quantised"
    assert found.uncertainty <= 4e-16 / steps.above.max(), "and not by the smallest, of a quotient of 1e-16 / 1e-10"


@pytest.mark.parametrize("size", [1e-12, 1e-8, 1e-4, 1e-2])
def test_noise_is_within_the_uncertainty(size: float) -> None:
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(300):
        found = derivative_from(ladder(lambda x: math.sin(x) + size * generator.uniform(-1, 1), 0.5, noise=size))
        errors.append(abs(found.value - math.cos(0.5)) / found.uncertainty)
    assert np.mean(np.array(errors) <= 1) >= 0.99
    assert max(errors) < 10


def test_more_noise_is_not_more_certain() -> None:
    found = [derivative_from(ladder(math.sin, 0.5, noise=noise)).uncertainty for noise in 10.0 ** np.arange(-14, 1)]
    assert all(b > 0.7 * a for a, b in itertools.pairwise(found))
    assert found[-1] > 1 > 1e-9 > found[0]


def test_too_short_a_ladder_is_not_trusted() -> None:
    for steps in (1, 2):
        found = derivative_from(ladder(lambda x: 1 / (0.01 + x), 0.2, steps=steps))
        assert not abs(found.value + 1 / 0.21**2) > found.uncertainty


# --- symmetries ---

LINES: list[Callable[[float], float]] = [
    math.exp,
    lambda x: abs(x) + 0.3 * x,
    lambda x: 2.0 if x > 0.0 else x,
    lambda x: math.nan if x < 0 else x * x + x,
    lambda x: abs(x) ** 1.5,
    lambda x: math.floor(8 * x + 0.3),
    lambda x: abs(x - 1e-4),
]


@given(st.sampled_from(LINES), st.integers(-60, 60), st.integers(-30, 30))
@settings(deadline=None)
def test_units_that_are_powers_of_two_change_nothing_else(f: Any, value_unit: int, step_unit: int) -> None:
    v, s = 2.0**value_unit, 2.0**step_unit
    a = ladder(f)
    b = Ladder(s * a.below, s * a.above, v * a.minus, v * a.plus, v * a.base, v * a.noise)
    one, other = derivative_from(a), derivative_from(b)
    expected = replace(
        one,
        value=v / s * one.value,
        uncertainty=v / s * one.uncertainty,
        left=v / s * one.left,
        right=v / s * one.right,
        step=s * one.step,
    )
    assert_same(other, expected)


@given(st.sampled_from(LINES))
@settings(deadline=None)
def test_a_mirrored_line_has_mirrored_slopes(f: Any) -> None:
    a = ladder(f)
    one, other = derivative_from(a), derivative_from(Ladder(-a.above, -a.below, a.plus, a.minus, a.base, a.noise))
    assert_same(other, replace(one, value=-one.value, left=-one.right, right=-one.left))


@given(st.sampled_from(LINES))
@settings(deadline=None)
def test_a_negated_loss_has_negated_slopes(f: Any) -> None:
    a = ladder(f)
    one, other = derivative_from(a), derivative_from(replace(a, minus=-a.minus, plus=-a.plus, base=-a.base))
    assert_same(other, replace(one, value=-one.value, left=-one.left, right=-one.right))


def assert_same(a: Derivative, b: Derivative) -> None:
    assert (a.trouble, a.better_steps) == (b.trouble, b.better_steps)
    numbers = [[each.value, each.uncertainty, each.left, each.right, each.step] for each in (a, b)]
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-12, atol=1e-270)


def test_many_kinks_at_every_distance_leave_the_slope_uncertain() -> None:
    """The gap of the one-sided slopes shrinks too slowly and changes its sign: the quotients only seem to converge."""
    rng = np.random.default_rng(5)
    steps = 2.0**-5 * 8.0 ** -np.arange(5)
    misled = 0
    for _ in range(300):
        places, weights = rng.uniform(-0.03, 0.03, 3000), 1e-3 * rng.normal(size=3000)
        plus, minus = (sign * steps + np.maximum(sign * steps[:, None] - places, 0.0) @ weights for sign in (1.0, -1.0))
        base = float(np.maximum(-places, 0.0) @ weights)
        found = derivative_from(Ladder(-steps, steps, minus, plus, base, np.full(5, 1e-16)))
        true = 1.0 + float(weights[places < 0].sum())
        allowed = found.uncertainty + abs(found.right - found.left) / 2
        misled += found.trouble != "jump" and abs(found.value - true) > 10 * allowed
    assert misled <= 6


@pytest.mark.parametrize(("height", "trouble"), [(3e-16, ""), (1e-9, "quantised")])
def test_a_constant_that_rounds_differently_is_no_staircase(height: float, trouble: str) -> None:
    steps = 0.125 * 4.0 ** -np.arange(12)
    values = 1.5 + height * np.random.default_rng(0).integers(0, 2, (2, 12))
    found = derivative_from(Ladder(-steps, steps, values[0], values[1], 1.5, np.full(12, height)))
    assert found.trouble == trouble
    assert trouble or abs(found.value) <= found.uncertainty < 1e-13


def test_what_is_no_number_counts_for_nothing_and_against_nothing_else() -> None:
    steps = 4.0 ** -np.arange(8.0)
    quotients, noise = 1 + steps**2, np.full(8, 1e-15)
    quotients[4] = np.nan
    value, uncertainty, index, _ = extrapolate(quotients, noise, 16.0)
    assert abs(value - 1) <= uncertainty < 1e-6
    assert index > 4, "estimates from larger steps cannot be held against it"
    assert all(math.isnan(_contradiction([1.0, 1.0, math.nan, 5.0], [0.0] * 4, k)) for k in (0, 1))
