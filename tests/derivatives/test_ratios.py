"""Ratios of residuals: the entry, or the index, that they point at, and how often they do so by accident."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgc._derivatives.random_weights import UNIT, random_weights
from fastgc._derivatives.ratios import best_of, coincidences, index_at, matching, ramps, ratios_of


@given(st.integers(0, 10**6), st.integers(0, 4999), st.floats(1e-8, 1e8), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_the_wrong_entry_is_always_among_those_that_explain_the_residuals(
    seed: int, entry: int, size: float, share: float
) -> None:
    weights = random_weights(seed, range(3), "w", 5000)
    off = share * size * np.random.default_rng(seed).uniform(-1, 1, 3)
    found = matching(weights, size * weights[:, entry] + off, np.full(3, share * size * (1 + 1e-12) + 1e-12 * size))
    assert entry in found


def test_exact_residuals_point_at_one_of_a_million_entries() -> None:
    weights = random_weights(0, range(4), "w", 1_000_000)
    for entry in (0, 123_456, 999_999):
        residuals = 0.37 * weights[:, entry].astype(np.float64)
        assert matching(weights, residuals, np.full(4, 1e-4)).tolist() == [entry]


def test_residuals_of_two_entries_point_at_none() -> None:
    weights = random_weights(0, range(3), "w", 10_000)
    residuals = weights[:, 17] * 1.0 + weights[:, 4000] * 0.7391
    assert matching(weights, residuals, np.full(3, 1e-3)).size == 0


def test_a_weight_of_zero_explains_only_what_vanishes() -> None:
    weights = np.array([[0, 84, 0], [84, 0, 0]], np.int8)
    assert matching(weights, np.array([0.0, 84.0]), np.array([1e-3, 1e-3])).tolist() == [0]
    assert matching(weights, np.array([0.0, 0.0]), np.array([1e-3, 1e-3])).tolist() == [0, 1, 2]


@pytest.mark.parametrize("share", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("count", [2, 3])
def test_entries_coincide_no_more_often_than_stated(share: float, count: int) -> None:
    """Residuals of many wrong entries, which none explains: how many seem to."""
    entries, trials, found, stated = 20_000, 100, 0, 0.0
    for seed in range(trials):
        residuals = np.random.default_rng(seed).standard_normal(count) * 100
        uncertainties = np.full(count, share * np.abs(residuals).max())
        found += matching(random_weights(seed, range(count), "w", entries), residuals, uncertainties).size
        stated += coincidences(entries, residuals, uncertainties)
    assert found <= stated + 4 * stated**0.5 + 4


@pytest.mark.parametrize("length", [2, 7, 253, 254, 1000, 64_009, 64_010, 150_000])
def test_the_ratios_of_a_line_are_the_digits_of_its_index(length: int) -> None:
    rows = ramps(length)
    assert rows.dtype == np.int8 and rows.shape == (1 if length <= 253 else 2 if length <= 64_009 else 3, length)
    numbers = 256 ** np.arange(len(rows)) @ rows.astype(np.int64)
    assert np.unique(numbers).size == length, "no two indices share their digits"
    for index in {0, 1, length // 3, length - 1}:
        ratios = rows[:, index].astype(np.float64)
        assert index_at(length, ratios, np.full(ratios.size, 0.1)) == index
        assert index_at(length, ratios + 0.2, np.full(ratios.size, 0.1)) is None, "between whole numbers"
        assert index_at(length, ratios, np.full(ratios.size, 0.2)) is None, "known too badly"


def test_no_index_is_read_beyond_the_axis() -> None:
    assert index_at(10, np.array([5.0]), np.array([0.01])) == 9
    assert index_at(10, np.array([6.0]), np.array([0.01])) is None
    assert index_at(10, np.array([-5.0]), np.array([0.01])) is None


def test_a_row_gives_one_whole_ratio_and_one_between_whole_numbers() -> None:
    shape, row = (40, 60), 17
    errors = np.zeros(shape)
    errors[row] = np.random.default_rng(0).standard_normal(60)
    signs = np.sign(random_weights(0, range(1), "w", 2400)[0]).reshape(shape)
    base = float(np.sum(signs * errors))
    known = [
        ratios_of(np.array([np.sum(signs * ramp * errors)]), np.array([1e-9]), base, 1e-9)
        for ramp in (ramps(40)[0][:, None], ramps(60)[0])
    ]
    assert index_at(40, *known[0]) == row
    assert index_at(60, *known[1]) is None


@given(st.floats(-100, 100), st.floats(0.2, 10), st.floats(-1, 1), st.floats(-1, 1))
def test_a_ratio_is_within_its_error(ratio: float, residual: float, up: float, down: float) -> None:
    uncertainty = 0.05
    measured = np.array([ratio * residual + uncertainty * up])
    found, error = ratios_of(measured, np.array([uncertainty]), residual + uncertainty * down, uncertainty)
    assert abs(found[0] - ratio) <= error[0] * (1 + 1e-9)


def test_a_ratio_to_what_may_vanish_is_unknown() -> None:
    ratios, errors = ratios_of(np.array([1.0]), np.array([0.1]), 0.05, 0.1)
    assert np.isnan(ratios[0]) and errors[0] == np.inf
    assert index_at(10, ratios, errors) is None


def test_the_way_of_measuring_that_says_most_for_its_evaluations_is_chosen() -> None:
    assert best_of([(1e-3, 2), (1e-6, 4), (1e-9, 10)], 1.0) == 0, "the weights hold no more digits"
    assert best_of([(0.9, 2), (0.01, 4), (0.001, 10)], 1.0) == 1
    assert best_of([(2.0, 2), (1.5, 4), (0.5, 10)], 1.0) == 2
    assert best_of([(2.0, 2), (np.inf, 4), (1.0, 10)], 1.0) is None
    assert UNIT == 84
