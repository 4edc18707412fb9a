"""Measures of the error of a gradient as a whole and of each of its entries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import fastgc

Floats = NDArray[np.float64]

NUMBERS = st.floats(-1e100, 1e100, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-100)
PAIRS = st.integers(1, 6).flatmap(
    lambda n: st.tuples(arrays(np.float64, n, elements=NUMBERS), arrays(np.float64, n, elements=NUMBERS))
)


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_both_measures_are_symmetric_and_between_0_and_1(pair: tuple[Floats, Floats]) -> None:
    a, b = pair
    for measure in fastgc.relative_error, fastgc.max_relative_error:
        assert measure(a, b) == measure(b, a)
        assert 0 <= measure(a, b) <= 1 + 1e-15
        assert measure(a, a) == 0


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_the_measures_are_what_their_formulas_say(pair: tuple[Floats, Floats]) -> None:
    a, b = pair
    norms = np.linalg.norm(a) + np.linalg.norm(b)
    if norms > 1e-14:
        assert fastgc.relative_error(a, b) == pytest.approx(np.linalg.norm(a - b) / norms, rel=1e-12)
    expected = max(abs(x - y) / max(abs(x) + abs(y), 1e-8) for x, y in zip(a, b, strict=True))
    assert fastgc.max_relative_error(a, b) == pytest.approx(expected, rel=1e-12)


@given(PAIRS, st.integers(-20, 20))
@settings(max_examples=50, deadline=None)
def test_the_norm_wise_measure_has_no_unit(pair: tuple[Floats, Floats], power: int) -> None:
    a, b = pair
    if np.linalg.norm(a) + np.linalg.norm(b) > 1e-3:
        assert fastgc.relative_error(2.0**power * a, 2.0**power * b) == pytest.approx(
            fastgc.relative_error(a, b), rel=1e-9
        )


def test_measures_of_lists_of_any_shape_and_of_nothing() -> None:
    assert fastgc.relative_error([[1, 2], [3, 4]], [[1, 2], [3, 4]]) == 0
    assert fastgc.max_relative_error(3.0, 1.0) == 0.5
    assert fastgc.relative_error([], []) == 0 and fastgc.max_relative_error([], []) == 0
    for measure in fastgc.relative_error, fastgc.max_relative_error:
        assert type(measure([1.0], [2.0])) is float


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_measures_of_numbers_that_are_not_finite_never_look_good(bad: float) -> None:
    for measure in fastgc.relative_error, fastgc.max_relative_error:
        assert not measure([bad, 1.0], [1.0, 1.0]) < 1
        assert not measure([1.0, 1.0], [1.0, bad]) < 1


def test_huge_and_tiny_numbers_do_not_overflow_the_norm() -> None:
    assert fastgc.relative_error([1e200, 1e200], [1e200, 1e200]) == 0
    assert fastgc.relative_error([2e200], [1e200]) == pytest.approx(1 / 3)
