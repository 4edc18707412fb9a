"""Random weights: their law, and the bounds on what directions with such weights miss, against exact probabilities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastgc._derivatives import random_weights as _weights
from fastgc._derivatives.random_weights import (
    LARGEST,
    MEAN_SQUARE,
    OF_ENTRY,
    OF_NORM,
    OF_PRODUCT,
    UNIT,
    MissLaw,
    chance_at_limits,
    random_weights,
    weights_of_each,
)

Floats = NDArray[np.float64]

# --- the law ---


def law() -> tuple[NDArray[np.int64], Floats]:
    """Every weight with its probability, from all numbers of 16 bits."""
    weights, counts = np.unique(_weights._weights(np.arange(1 << 16, dtype=np.uint16)), return_counts=True)
    return weights.astype(np.int64), counts / (1 << 16)


def test_the_weights_are_170_equally_likely_numbers_of_both_signs() -> None:
    weights, chances = law()
    assert weights.tolist() == [*range(-126, -41), *range(42, 127)]
    assert np.array_equal(chances, chances[::-1])
    assert max(chances) == _weights.ATOM
    assert min(chances) > 0.99 / 170
    assert weights.max() == LARGEST


def test_the_mean_square_is_that_of_the_law() -> None:
    weights, chances = law()
    assert np.sum(chances * (weights / UNIT) ** 2) == pytest.approx(MEAN_SQUARE, abs=3e-6)
    assert np.sum(chances * np.abs(weights)) == pytest.approx(UNIT)


def test_what_is_drawn_follows_the_law() -> None:
    drawn = random_weights(0, range(2), "w", 1_700_003)
    found = np.unique(drawn, return_counts=True)
    weights, chances = law()
    assert np.array_equal(found[0], weights)
    expected = chances * drawn.size
    excess = np.sum((found[1] - expected) ** 2 / expected) - 169
    assert abs(excess) < 5 * (2 * 169) ** 0.5


@given(st.integers(0, 200), st.integers(0, 2**40), st.integers(0, 30), st.text(max_size=8))
@settings(max_examples=60, deadline=None)
def test_weights_are_bytes_and_reproducible(size: int, seed: int, number: int, name: str) -> None:
    weights = random_weights(seed, range(number, number + 1), name, size)[0]
    assert weights.dtype == np.int8
    assert weights.shape == (size,)
    assert np.array_equal(random_weights(seed, range(number + 3), name, size)[number], weights)
    assert ((np.abs(weights) >= 42) & (np.abs(weights) <= 126)).all()
    assert np.array_equal(weights, random_weights(seed, range(number, number + 1), name, size)[0])


def test_weights_are_independent_between_seeds_numbers_tensors_and_purposes() -> None:
    size = 1 << 16
    each = [random_weights(seed, range(k, k + 1), name, size)[0] for seed, k, name in [(0, 0, "a"), (1, 0, "a")]]
    each += [random_weights(0, range(1, 2), "a", size)[0], random_weights(0, range(1), "b", size)[0]]
    each.append(random_weights(0, range(1), "a", size, "output weights")[0])
    rows = np.array(each) / (UNIT * MEAN_SQUARE**0.5)
    assert np.abs(rows @ rows.T / size - np.eye(5)).max() < 5 / size**0.5
    assert np.abs(rows.mean(axis=1)).max() < 5 / size**0.5
    sizes = np.abs(rows) - np.abs(rows).mean(axis=1, keepdims=True)
    assert np.abs(np.corrcoef(sizes) - np.eye(5)).max() < 5 / size**0.5


def test_weights_of_neighbours_are_independent_within_and_across_blocks() -> None:
    block = _weights._AT_ONCE
    weights = random_weights(3, range(1, 2), "w", 32 * block + 13)[0].astype(np.float64)
    assert weights.size == 32 * block + 13
    for shift in (1, 2, 4, 64, block):
        correlation = np.mean(weights[shift:] * weights[:-shift]) / (UNIT**2 * MEAN_SQUARE)
        assert abs(correlation) < 6 / weights.size**0.5, shift


# --- what is missed ---


def exact_miss(errors: list[int], within: float) -> float:
    """The probability of |sum of weights times whole errors| <= within * UNIT, by convolution."""
    weights, chances = law()
    total = np.ones(1)
    for error in errors:
        spread = np.zeros(2 * 126 * abs(error) + 1)
        spread[weights * error + 126 * abs(error)] = chances
        total = np.convolve(total, spread)
    middle = total.size // 2
    reach = min(middle, math.floor(within * UNIT + 1e-9))
    return float(total[middle - reach : middle + reach + 1].sum())


@pytest.mark.parametrize("signs", [*itertools.product([1, -1], repeat=2), *itertools.product([1, -1], repeat=3)])
def test_two_and_three_equal_errors_are_missed_no_more_often_than_the_bounds_say(signs: tuple[int, ...]) -> None:
    for u in (0.0, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        missed = exact_miss(list(signs), 2 * u)
        assert missed <= OF_NORM.missed([u], len(signs) ** 0.5)
        assert missed <= OF_ENTRY.missed([u], 1.0)


@pytest.mark.parametrize("errors", [[1] * 16, [1, -1] * 8, [5, 3, 1], [40, 1], [9, -9, 2], [1], [1, -2, 1], [7] * 4])
def test_other_errors_are_missed_no_more_often_than_the_bounds_say(errors: list[int]) -> None:
    for share in (0.0, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2):
        u = share * float(np.linalg.norm(errors))
        missed = exact_miss(errors, 2 * u)
        assert missed <= OF_NORM.missed([u], float(np.linalg.norm(errors)))
        assert missed <= OF_ENTRY.missed([u], max(map(abs, errors)))


def test_the_bounds_are_not_far_above_what_is_missed() -> None:
    """Two equal errors cancel in 1 of 170 draws; for small u the density at 0 is nearly the bound's."""
    assert exact_miss([1, -1], 0.0) > 0.7 * OF_NORM.missed([0.0], 1.0)
    assert exact_miss([1, -1], 0.1) > 0.4 * OF_NORM.missed([0.05], 2**0.5)


def test_equal_errors_drawn_at_the_limits_are_found_as_often_as_the_bound_says() -> None:
    """Two, three, and sixteen entries wrong by the same, seen by three directions with an uncertainty of 1."""
    trials = 2000
    for count in (2, 3, 16):
        size = OF_NORM.limit([1.0] * 3, 1e-3) / count**0.5
        missed = 0
        for seed in range(trials):
            d = random_weights(seed, range(3), "w", count) / UNIT
            signs = np.where(np.arange(count) % 2, -1.0, 1.0) if seed % 2 else np.ones(count)
            missed += bool((np.abs(d @ signs) * size <= 2.0).all())
        assert missed <= 10, count  # 2 at most on average


def test_one_entry_of_a_matrix_is_missed_no_more_often_than_the_bound_says() -> None:
    size, trials = 12, 20_000
    errors = np.random.default_rng(0).standard_normal((size, size)) * np.eye(size)
    u, v = (random_weights(0, range(trials), name, size) / UNIT for name in "uv")
    for matrix in (np.eye(size)[:1], np.ones((2, size)), errors / np.abs(errors).max()):
        seen = np.abs(np.einsum("ti,ij,tj->t", v[:, : len(matrix)], matrix, u))
        for share in (1e-3, 1e-2, 0.05):
            bound = OF_PRODUCT.missed([share], 1.0)
            assert np.mean(seen <= 2 * share) <= bound + 4 * (bound / trials) ** 0.5


# --- limits ---


@pytest.mark.parametrize("law", [OF_ENTRY, OF_NORM, OF_PRODUCT])
@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_a_limit_is_the_smallest_error_missed_so_rarely(law: MissLaw, count: int) -> None:
    uncertainties = [10.0 ** -(i % 3) for i in range(count)]
    chance = chance_at_limits(count)
    limit = law.limit(uncertainties, chance)
    assert law.missed(uncertainties, limit) == pytest.approx(chance, rel=1e-5)
    assert law.missed(uncertainties, limit) <= chance < law.missed(uncertainties, 0.999 * limit)
    assert law.limit([1e6 * u for u in uncertainties], chance) == pytest.approx(1e6 * limit)


def test_probabilities_of_several_directions_multiply() -> None:
    each = [OF_NORM.missed([u], 100.0) for u in (1.0, 2.0, 0.1)]
    assert OF_NORM.missed([1.0, 2.0, 0.1], 100.0) == pytest.approx(math.prod(each))
    assert OF_NORM.missed([1.0, math.inf, math.nan], 100.0) == pytest.approx(each[0])


def test_what_is_not_known_has_no_limit_and_what_is_certain_none_above_zero() -> None:
    assert OF_NORM.limit([1.0, math.inf, 1.0], 1e-3) == math.inf
    assert OF_NORM.limit([1.0, math.nan, 1.0], 1e-3) == math.inf
    assert OF_NORM.limit([0.0, 0.0, 0.0], 1e-3) == 0.0
    assert OF_NORM.limit([1.0], 1e-3) == math.inf, "one direction has atoms of 1 in 170"
    assert OF_NORM.missed([1.0] * 3, 0.0) == OF_NORM.missed([1.0] * 3, math.nan) == 1.0


def test_what_is_missed_of_several_errors_is_what_is_missed_of_each() -> None:
    uncertainties = np.array([[1e-3, 2e-3, 1e-4], [0.0, 1.0, 1e-9], [np.inf, 1e-3, 1.0], [np.nan, 1e-3, 1.0]])
    for law in (OF_ENTRY, OF_NORM):
        for errors in (np.array([1.0, 2.0, 0.1, 1.0]), np.array([0.0, -1.0, np.nan, np.inf])):
            expected = [law.missed(row, error) for row, error in zip(uncertainties, errors.tolist(), strict=True)]
            assert law.missed_each(uncertainties, errors).tolist() == expected


@pytest.mark.parametrize("numbers", [range(3), range(2, 5), range(1), range(4, 4)])
def test_the_weights_of_many_tensors_are_those_of_each(numbers: range) -> None:
    sizes = [1, 3, 4, 10, 0, 100_003, 7, *range(20)]
    names = [f"w{k}" for k in range(len(sizes))]
    for name, size, found in zip(names, sizes, weights_of_each(5, numbers, names, sizes), strict=True):
        np.testing.assert_array_equal(found, random_weights(5, numbers, name, size))
