"""The measured noise of a loss against noise that was planted, and the report of what noise hides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import fastgc
from fastgc._derivatives.noise import Noise, measure_noise, measure_noises

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)

TRENDS: dict[str, Callable[[Floats], Floats]] = {
    "flat": lambda t: np.full_like(t, 2.1),
    "line": lambda t: 1 + t,
    "parabola": lambda t: 2 + t * t,
    "sine": lambda t: 3 + np.sin(5 * t),
    "steep": lambda t: np.exp(8 * t),
}


def measured(f: Callable[[Floats], Floats], eps: float = EPS) -> Noise:
    return measure_noise(lambda t: f(np.asarray(t, np.float64)), float(f(np.zeros(1))[0]), eps)


@pytest.mark.parametrize("trend", TRENDS.values(), ids=TRENDS)
@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 1e-1])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_planted_noise_is_measured_within_a_factor_of_ten(trend: Any, size: float, kind: str) -> None:
    generator = np.random.default_rng(0)
    draw = generator.normal if kind == "normal" else lambda size: math.sqrt(3) * generator.uniform(-1, 1, size)
    for _ in range(20):
        noise = measured(lambda t: trend(t) + size * draw(size=t.shape))
        assert 0.1 * size < noise.at_point < 10 * size
        assert 0.1 * size < noise.displaced < 10 * size


@pytest.mark.parametrize("trend", TRENDS.values(), ids=TRENDS)
def test_a_loss_in_double_precision_has_the_noise_of_rounding(trend: Any) -> None:
    noise = measured(trend)
    size = float(trend(np.zeros(1))[0])
    assert EPS * size / 2 <= noise.at_point <= 20 * EPS * size
    assert EPS * size / 2 <= noise.displaced <= 20 * EPS * float(np.abs(trend(np.array([0.125]))).max() + size)


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e10, -1e10])
def test_an_offset_is_noise(offset: float) -> None:
    noise = measured(lambda t: np.sin(t) + offset)
    assert EPS * abs(offset) / 10 < noise.at_point < 10 * EPS * abs(offset)


@pytest.mark.parametrize("digits", [1, 3, 6, 9])
def test_rounded_values_have_the_noise_of_their_last_digit(digits: int) -> None:
    for shift in np.linspace(0, 1, 7):
        noise = measured(lambda t, shift=shift: np.round(np.sin(t + shift) + t, digits))
        assert 0.02 * 10.0**-digits < noise.at_point < 10 * 10.0**-digits


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
def test_single_precision_is_recognised(offset: float) -> None:
    noise = measured(lambda t: (np.cos(3 * t + 0.4) + offset).astype(np.float32).astype(np.float64))
    size = 1 + offset
    assert 1e-9 * size < noise.at_point < 1e-6 * size
    assert noise.single


@pytest.mark.parametrize("trend", TRENDS.values(), ids=TRENDS)
def test_double_precision_is_not_taken_for_single(trend: Any) -> None:
    assert not measured(trend).single
    assert not measured(lambda t: trend(t) * 1.1 + 1e-3 * np.sin(t)).single


def test_noise_that_grows_with_the_distance_is_seen() -> None:
    generator = np.random.default_rng(0)
    noise = measured(lambda t: 1 + t * t + 1e-6 * np.abs(t) * generator.normal(size=t.shape))
    assert noise.at_point < 1e-9
    assert 0.1 < noise.displaced / (1e-6 * noise.reach) < 10
    at = noise.at(np.array([1e-12, 1e-3, noise.reach, 10.0]))
    assert (np.diff(at) >= 0).all() and at[0] == noise.at_point and at[-1] == noise.displaced


@pytest.mark.parametrize("edge", [0.1, 1e-3, 1e-6])
def test_noise_is_measured_inside_the_domain(edge: float) -> None:
    def f(t: Floats) -> Floats:
        with np.errstate(all="ignore"):
            return np.where(t < edge, np.log(np.maximum(edge - t, 1e-300)), np.nan)

    noise = measured(f)
    assert np.isfinite(noise.at_point) and np.isfinite(noise.displaced)
    assert 0 < noise.at_point < 1e-12
    assert noise.reach <= edge


def test_a_loss_that_never_changes_has_the_noise_of_rounding_only() -> None:
    noise = measured(lambda t: np.full_like(t, 3.1))
    assert noise.at_point <= 2 * EPS * 3.1


def test_a_loss_that_is_zero_all_around_may_owe_it_to_rounding_of_terms_of_order_1() -> None:
    assert measured(lambda t: np.zeros_like(t)).at_point == EPS / 2
    assert measured(lambda t: t**2).at_point < 1e-18


@given(
    st.floats(-8, -1).map(lambda x: 10.0**x),
    st.integers(0, 2**32 - 1),
    st.sampled_from(sorted(TRENDS)),
    st.integers(-40, 40).map(lambda x: 2.0**x),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_planted_noise_in_any_unit(size: float, seed: int, trend: str, unit: float) -> None:
    generator = np.random.default_rng(seed)
    noise = measured(lambda t: unit * (TRENDS[trend](t) + size * generator.normal(size=t.shape)))
    assert 0.1 * size * unit < noise.at_point < 10 * size * unit


# --- what is said of it ---


@pytest.mark.parametrize("size", [1e-6, 1e-3])
def test_the_uncertainty_of_entries_follows_the_noise(size: float) -> None:
    generator = np.random.default_rng(0)
    p = np.array([0.4, 1.1, -0.7])
    quiet = fastgc.check_gradients(lambda p: float(np.sum(np.sin(p))), np.cos, p)
    noisy = fastgc.check_gradients(lambda p: float(np.sum(np.sin(p)) + size * generator.normal()), np.cos, p)
    certain = {entry.index: entry.uncertainty for entry in quiet.tensors["params"].entries}
    assert noisy.tensors["params"].entries
    for b in noisy.tensors["params"].entries:  # a few of them: a repeated call shows the noise before
        assert b.uncertainty > 1e3 * certain[b.index]
        assert abs(b.numerical - math.cos(p[b.index])) <= 10 * b.uncertainty


def test_a_solver_that_stops_early_is_noise_and_no_bug() -> None:
    generator = np.random.default_rng(3)
    matrix = generator.normal(size=(6, 6))
    matrix = matrix @ matrix.T + 6 * np.eye(6)

    def solve(b: Floats) -> Floats:
        """Conjugate gradients to a loose tolerance."""
        x, r = np.zeros(6), b.copy()
        d = r.copy()
        while np.linalg.norm(r) > 1e-6 * np.linalg.norm(b):
            alpha = r @ r / (d @ matrix @ d)
            x, new = x + alpha * d, r - alpha * matrix @ d
            d, r = new + (new @ new) / (r @ r) * d, new
        return x

    b = generator.normal(size=6)
    report = fastgc.check_gradients(lambda b: float(b @ solve(b)), 2 * np.linalg.solve(matrix, b), b, samples="all")
    assert report.verdict != "fail", str(report)
    assert fastgc.check_gradients(lambda b: float(b @ solve(b)), np.linalg.solve(matrix, b), b).verdict == "fail"


def test_a_sum_of_many_terms_is_noise_and_no_bug() -> None:
    x = np.random.default_rng(0).normal(size=100_000) + 100

    def total(p: Floats) -> float:
        value = np.cumsum((x - p[0]) ** 2)[-1]  # rounded after every term
        return float(value)

    report = fastgc.check_gradients(total, lambda p: np.array([-2 * np.sum(x - p[0])]), np.array([99.999]))
    assert report.verdict != "fail", str(report)


def test_a_loss_that_is_flat_up_to_a_kink_is_not_noisy() -> None:
    def values(distances: np.ndarray) -> np.ndarray:
        return np.maximum(np.asarray(distances) - 0.1503, 0.0) - 1.0

    noise = measure_noise(values, -1.0, np.finfo(np.float64).eps)
    assert max(noise.at_point, noise.displaced) < 1e-14


def test_losses_together_have_the_noise_that_each_has_alone() -> None:
    def rounded(t: Floats) -> Floats:
        return np.round(np.sin(3 * t) + t, 4)

    losses = [*TRENDS.values(), rounded, lambda t: np.abs(t - 0.05), lambda t: np.where(t > 0.1, np.nan, t),
              lambda t: np.sin(t).astype(np.float32).astype(np.float64)]  # fmt: skip
    bases = np.array([float(each(np.zeros(1))[0]) for each in losses])
    together = measure_noises(lambda t: np.stack([each(t) for each in losses], axis=1), bases, EPS)
    for mine, alone in zip(together, map(measured, losses), strict=True):
        assert (mine.reach, mine.single, mine.change) == (alone.reach, alone.single, alone.change)
        assert (mine.at_point, mine.displaced) == pytest.approx((alone.at_point, alone.displaced), rel=0.1)
    assert together[0].change == 0
    assert together[1].change == pytest.approx(0.125)


def test_several_losses_are_evaluated_once_at_each_distance() -> None:
    """Both tie next to the point, at spacings that differ, and are measured by themselves."""
    asked: list[float] = []

    def values(t: NDArray[Any]) -> NDArray[Any]:
        asked.extend(t.tolist())
        return np.stack([np.round(np.exp(t), 8), np.round(np.exp(t), 6)], axis=1)

    noises = measure_noises(values, np.ones(2), EPS)
    assert all(
        decimals / 5 < noise.at_point < 5 * decimals for decimals, noise in zip((1e-8, 1e-6), noises, strict=True)
    )
    assert len(asked) == len(set(asked))


def test_values_next_to_a_round_number_are_still_those_of_float32() -> None:
    """1 is of every precision, 1 + 2**-23 of no lower one."""
    noise = measure_noise(lambda t: np.float32(1) + np.float32(6e-8) * (np.sin(1e15 * t) > 0), 1.0, 1e-7)
    assert noise.single and noise.eps == 2.0**-23
    assert not measure_noise(lambda t: np.round(np.sin(t), 3), 0.5, 1e-16).single
