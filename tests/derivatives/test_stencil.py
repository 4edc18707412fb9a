"""Difference formulas: their moments, their figures for a sine, their steps, and what they divide by."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import fastgc
from fastgc._derivatives.stencil import STENCILS, Stencil, quotients, relative_step, short, stencil_named
from tests.support.textbook import EPS, FIVE_POINT, SLOPE

REAL = [stencil for stencil in STENCILS.values() if not stencil.is_complex]
NAMES = ["forward", "backward", "central", "five_point", "complex_step"]


def named(stencil: Stencil) -> str:
    return stencil.name


# --- the formulas as data ---


def test_all_formulas_are_there() -> None:
    assert list(STENCILS) == NAMES
    assert all(stencil_named(name).name == name for name in NAMES)


@pytest.mark.parametrize("stencil", STENCILS.values(), ids=named)
def test_moments_vanish_up_to_the_order(stencil: Stencil) -> None:
    """sum(weights * offsets**k) is 1 for k = 1 and has no real part for the other powers up to the order."""
    offsets, weights = np.array(stencil.offsets, complex), np.array(stencil.weights, complex)
    moments = [(weights @ offsets**k).real for k in range(stencil.order + 2)]
    np.testing.assert_allclose(moments[: stencil.order + 1], np.eye(stencil.order + 1)[1], atol=1e-15)
    assert abs(moments[-1]) > 0.5


def test_an_unknown_formula_is_refused_with_those_there_are() -> None:
    message = r"stencil 'middle' is not known; .*'forward', 'backward', 'central', 'five_point', 'complex_step'"
    with pytest.raises(ValueError, match=message):
        stencil_named("middle")


# --- sin at 1 with h = 1e-4 ---


@pytest.mark.parametrize(
    ("stencil", "value", "off"),
    [
        ("forward", 0.5402602314, 0.51e-10),  # half of the last digit, and 4e-12 of round-off
        ("central", 0.5403023050, 0.51e-10),
        ("five_point", 0.5403023058685638, FIVE_POINT),
    ],
)
def test_sine_at_one(stencil: str, value: float, off: float) -> None:
    found = fastgc.numerical_gradient(np.sin, 1.0, 1e-4, stencil=stencil)
    assert found == pytest.approx(value, rel=0, abs=off)


def test_sine_at_one_is_off_as_the_formulas_say() -> None:
    """Errors h f''/2, -h f''/2, h**2 f'''/6; the complex step has no round-off."""
    error = {name: float(fastgc.numerical_gradient(np.sin, 1.0, 1e-4, stencil=name)) - SLOPE for name in NAMES}
    assert error["forward"] == pytest.approx(-math.sin(1) * 1e-4 / 2, rel=1e-3)
    assert error["backward"] == pytest.approx(math.sin(1) * 1e-4 / 2, rel=1e-3)
    assert error["central"] == pytest.approx(-math.cos(1) * 1e-8 / 6, rel=1e-2)
    assert abs(error["five_point"]) < FIVE_POINT
    assert error["complex_step"] == pytest.approx(math.cos(1) * 1e-8 / 6, rel=1e-2)


@pytest.mark.parametrize("stencil", NAMES)
def test_the_textbook_quotient_divides_by_the_nominal_step(stencil: str) -> None:
    x, h = 1.0, 1e-4
    by_hand = {
        "forward": lambda: (np.sin(x + h) - np.sin(x)) / h,
        "backward": lambda: (np.sin(x) - np.sin(x - h)) / h,
        "central": lambda: (np.sin(x + h) - np.sin(x - h)) / (2 * h),
        "five_point": lambda: (
            (-np.sin(x + 2 * h) + 8 * np.sin(x + h) - 8 * np.sin(x - h) + np.sin(x - 2 * h)) / (12 * h)
        ),
        "complex_step": lambda: np.sin(x + 1j * h).imag / h,
    }
    found = fastgc.numerical_gradient(np.sin, x, h, stencil=stencil)
    assert found == pytest.approx(by_hand[stencil](), rel=4 * EPS / h, abs=0)


# --- properties ---


@given(
    stencil=st.sampled_from(list(STENCILS)),
    coefficients=st.lists(st.integers(-9, 9), min_size=5, max_size=5),
    eighths=st.integers(-24, 24),
)
def test_polynomials_up_to_the_order_are_differentiated_exactly(
    stencil: str, coefficients: list[int], eighths: int
) -> None:
    """Small integers over powers of two: nothing is rounded but the five-point formula's twelfths."""
    x = eighths / 8
    kept = np.polynomial.Polynomial(coefficients[: STENCILS[stencil].order + 1])
    found = fastgc.numerical_gradient(lambda p: kept(p), x, 0.25, stencil=stencil)
    assert found == pytest.approx(kept.deriv()(x), rel=1e-12, abs=1e-10)


@pytest.mark.parametrize("stencil", STENCILS.values(), ids=named)
def test_the_error_shrinks_with_the_order(stencil: Stencil) -> None:
    def error(h: float) -> float:
        return abs(float(fastgc.numerical_gradient(np.exp, 0.5, h, stencil=stencil.name)) - math.exp(0.5))

    assert math.log2(error(0.04) / error(0.02)) == pytest.approx(stencil.order, abs=0.05)


@given(st.floats(-1e100, 1e100), st.sampled_from(list(STENCILS)))
def test_the_slope_of_the_identity_is_one(x: float, stencil: str) -> None:
    """An automatic step is divided by the step actually taken, (x + h) - x; of twelfths the products are rounded."""
    assume(x == 0 or abs(x) > 1e-100)
    allowed = {"five_point": 4 * EPS ** (4 / 5), "complex_step": 4 * EPS}
    found = float(fastgc.numerical_gradient(lambda p: p, x, stencil=stencil))
    assert found == pytest.approx(1, rel=0, abs=allowed.get(stencil, 0))


def test_a_step_of_the_callers_own_is_nominal_though_it_is_rounded() -> None:
    x, h = 1e6, 1e-7
    assert (x + h) - (x - h) != 2 * h
    assert fastgc.numerical_gradient(lambda p: p, x, h) == ((x + h) - (x - h)) / (2 * h)


@pytest.mark.parametrize(("x", "scale"), [(1.0, 1.0), (1e6, 1e6), (1e-6, 1e-6), (0.0, 1.0)])
@pytest.mark.parametrize(("stencil", "root"), [("forward", 2), ("backward", 2), ("central", 3), ("five_point", 5)])
def test_the_automatic_step_is_a_root_of_the_precision_relative_to_the_entry(
    stencil: str, root: int, x: float, scale: float
) -> None:
    seen: list[float] = []

    def loss(p: np.ndarray) -> float:
        seen.append(float(p))
        return float(p)

    fastgc.numerical_gradient(loss, x, stencil=stencil)
    offsets = STENCILS[stencil].offsets  # the last values: a tiny scale is looked at before
    reach = max(abs(point - x) for point in seen[-len(offsets) :]) / max(map(abs, offsets))
    assert 0.1 <= reach / (EPS ** (1 / root) * scale) <= 10


def test_the_relative_step_follows_the_precision() -> None:
    precision = np.array([EPS, np.finfo(np.float32).eps])
    np.testing.assert_allclose(relative_step(STENCILS["central"], precision), precision ** (1 / 3))
    np.testing.assert_allclose(relative_step(STENCILS["forward"], precision), precision ** (1 / 2))
    np.testing.assert_allclose(relative_step(STENCILS["five_point"], precision), precision ** (1 / 5))
    assert (relative_step(STENCILS["complex_step"], precision) < precision).all()


@pytest.mark.parametrize("stencil", REAL, ids=named)
def test_values_that_are_not_finite_give_quotients_that_are_not_and_no_warning(stencil: Stencil) -> None:
    values = np.array([[np.nan] * len(stencil.offsets), [np.inf] * len(stencil.offsets)])
    assert not np.isfinite(quotients(stencil, values, np.ones(2), None)).any()


def test_the_complex_step_has_no_round_off() -> None:
    def loss(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.sqrt(np.sin(x) ** 3 + np.cos(x) ** 3)

    x = 1.5
    inner = math.sin(x) ** 3 + math.cos(x) ** 3
    off = 40 * EPS  # some twenty operations on complex numbers, each off by an EPS or two
    slope = math.exp(x) * (inner - 1.5 * math.sin(x) * math.cos(x) * (math.sin(x) - math.cos(x))) / inner**1.5
    assert fastgc.numerical_gradient(loss, x, stencil="complex_step") == pytest.approx(slope, rel=off)
    assert fastgc.numerical_gradient(loss, x, 1e-200, stencil="complex_step") == pytest.approx(slope, rel=off)


PERIODS = [1.0, 0.25, 1 / 32, 2.0**-9]


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("x", [[1.0, 2, 5, 100, 4096], [0.125, 0.5, 3.25, 100.5], [1e4, 12345, 99999]], ids=str)
def test_a_loss_with_a_power_of_two_for_its_period_does_not_hide_at_the_steps(period: float, x: list[float]) -> None:
    frequency = 2 * np.pi / period
    point = np.array(x)

    def loss(p: np.ndarray) -> float:
        return float(np.sum(np.sin(frequency * p) + p))

    def slope(p: np.ndarray) -> np.ndarray:
        return frequency * np.cos(frequency * p) + 1

    right, wrong = (fastgc.check_gradients(loss, each, point).verdict for each in (slope, np.ones_like))
    assert right != "fail" and wrong == "fail"


def test_steps_have_few_bits_and_are_about_as_long_as_asked() -> None:
    lengths = np.random.default_rng(0).lognormal(0, 20, 1000)
    steps = short(lengths)
    assert (np.abs(np.log2(steps / lengths)) <= 0.5000001).all()
    assert (np.frexp(steps)[0] == 11 / 16).all()


@pytest.mark.parametrize("stencil", NAMES)
def test_a_check_passes_under_every_formula(stencil: str) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4))
    right = fastgc.check_gradients(lambda p: np.sum(np.sin(p)), np.cos(x), x, stencil=stencil)
    wrong = fastgc.check_gradients(lambda p: np.sum(np.sin(p)), -np.cos(x), x, stencil=stencil)
    assert (right.verdict, wrong.verdict) == ("pass", "fail")
