"""Entries that are small beside others of their tensor: right ones pass, wrong ones do not hide behind the large."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import fastgc

Array = np.ndarray

SIZE = 60
RANDOM = np.random.default_rng(0)
POINT = RANDOM.normal(size=SIZE)
FACTORS = 10.0 ** np.linspace(-12, 3, SIZE) * RANDOM.choice([-1.0, 1.0], SIZE)
RESOLVED = 15  # the first entry that differences resolve: 6e-9 beside 1e3
ABOVE = 23  # the first entry a tenth of which is above the default atol, 1e-10 of the scale


def waves(x: Array) -> float:
    return float((FACTORS * np.sin(x)).sum())


def slopes(x: Array) -> Array:
    return FACTORS * np.cos(x)


def with_factor(k: int, factor: float) -> Callable[[Array], Array]:
    def gradient(x: Array) -> Array:
        found = slopes(x)
        found[k] *= factor
        return found

    return gradient


def test_entries_that_span_fifteen_decades_pass() -> None:
    assert fastgc.check_gradients(waves, slopes, POINT, samples="all").passed
    assert fastgc.check_gradients(waves, slopes, POINT).passed


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0, 1.1])
@pytest.mark.parametrize("k", range(ABOVE, SIZE, 4))
def test_a_wrong_entry_fails_however_large_the_others_are(k: int, factor: float) -> None:
    report = fastgc.check_gradients(waves, with_factor(k, factor), POINT, samples="all")
    assert report.verdict == "fail", str(report)
    assert [each.index for each in report.tensors["params"].wrong_entries] == [(k,)]


def test_a_wrong_entry_of_a_jacobian_fails_however_large_the_others_are() -> None:
    matrix = np.diag(FACTORS[RESOLVED + 5 :]) + 1e-6

    def with_error(x: Array) -> Array:
        found = matrix * np.cos(x)
        found[0, 0] *= 2
        return found

    def outputs(x: Array) -> Array:
        return matrix @ np.sin(x)

    x = POINT[RESOLVED + 5 :]
    assert fastgc.check_jacobian(outputs, lambda x: matrix * np.cos(x), x).passed
    assert fastgc.check_jacobian(outputs, with_error, x).verdict == "fail"


@pytest.mark.parametrize("error", [3e-9, 1e-8])
def test_an_error_within_the_callers_atol_passes(error: float) -> None:
    def gradient(x: Array) -> Array:
        return slopes(x) + error * (np.arange(SIZE) == RESOLVED)

    assert fastgc.check_gradients(waves, gradient, POINT, samples="all", atol=2e-8).passed
    assert fastgc.check_gradients(waves, gradient, POINT, samples="all", atol=1e-9).verdict == "fail"


def test_a_passing_row_says_why_its_largest_relative_error_is_no_failure() -> None:
    p = np.array([1.0, 1.0, 1e-13])
    report = fastgc.check_gradients(lambda p: float(np.sum(p**2)), 2 * p + np.array([0, 0, 2e-13]), p)
    tensor = report.tensors["params"]
    assert tensor.verdict == "pass" and tensor.max_relative_error > 1e-5
    assert re.search(r"max rel err is (of an entry within atol|within the uncertainty of its entry) \(", tensor.reason)
    assert tensor.reason in str(report)
    right = fastgc.check_gradients(lambda p: float(np.sum(p**2)), lambda p: 2 * p, np.array([1.0, 2.0, 3.0]))
    assert right.tensors["params"].reason == ""
