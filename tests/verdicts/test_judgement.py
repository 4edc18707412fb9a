"""The judgement of entries from numbers made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.ladder import TROUBLES
from fastgc._verdicts.judgement import Judgement, Tolerances, _judged, gradient_scales, judge
from fastgc._words import worst_verdict

Floats = NDArray[np.float64]

# --- judgements ---


def estimates(numerical: Any, uncertainty: Any, left: Any = None, right: Any = None, trouble: Any = "") -> Estimates:
    n = np.atleast_1d(np.asarray(numerical, np.float64))
    u = np.broadcast_to(np.asarray(uncertainty, np.float64), n.shape).copy()
    sides = [n if side is None else np.broadcast_to(np.asarray(side, np.float64), n.shape) for side in (left, right)]
    kinds = np.broadcast_to(np.asarray(TROUBLES.index(trouble), np.int8), n.shape).copy()
    return Estimates(np.arange(n.size), n, u, *sides, np.full(n.size, 1e-5), kinds)


def judged(
    analytic: Any, found: Estimates, rtol: float = 1e-5, atol: float | None = None, scale: float = 1.0
) -> Judgement:
    """The judgement of the entries of one tensor of the given scale."""
    a = np.atleast_1d(np.asarray(analytic, np.float64))
    tolerances = Tolerances(np.array([rtol]), None if atol is None else np.array([atol]))
    return judge(
        a,
        found,
        np.zeros(a.size, np.int64),
        np.array([scale]),
        tolerances,
        noise_reasons=("noise hides the slope", "the slope vanishes"),
    )


def verdicts(*arguments: Any, **options: Any) -> list[str]:
    return [str(each) for each in judged(*arguments, **options).verdict]


def test_an_entry_passes_within_tolerance_and_uncertainty() -> None:
    u = 1e-7
    tol = 1e-5 * 1 + 1e-10  # rtol * max(|a|, |n|) + 1e-5 * rtol * scale
    exact = estimates(np.ones(4), u)
    assert verdicts(1 - np.array([0, 0.5, 0.999, 1.001]) * (tol + u), exact) == ["pass"] * 3 + ["undecided"]


def test_a_judgement_is_certain_where_no_entry_needs_a_further_look() -> None:
    assert judged(1.0, estimates(1.0, 1e-9)).certain
    assert judged(np.empty(0), estimates(np.empty(0), np.empty(0))).certain
    assert not judged(2.0, estimates(1.0, 1e-9)).certain  # wrong
    assert not judged(1.0, estimates(1.0, 1.0)).certain  # undecided
    coarse = judged(1e-3, estimates(1e-3, 0.05), atol=1.0)  # passes within atol, and a ladder may say more
    assert coarse.passed.all() and not coarse.certain


def test_an_entry_fails_beyond_tolerance_and_ten_uncertainties() -> None:
    u = 1e-7
    tol = 1e-5 + 1e-10
    off = np.array([tol + 9.99 * u, tol + 10.01 * u, 1e-3, 1.0, 2.0, 1e6])
    assert verdicts(1 - off[:5], estimates(np.ones(5), u)) == ["undecided"] + ["fail"] * 4
    assert verdicts(1 + off[5], estimates(1.0, u)) == ["fail"]


def test_between_them_it_is_undecided_and_says_so() -> None:
    judgement = judged(1 - 1e-5 - 5e-7, estimates(1.0, 1e-7))
    assert judgement.verdict.tolist() == ["undecided"]
    assert "tolerance" in judgement.reason[0]
    assert judgement.close.tolist() == [True]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("trouble", ["", "kink", "jump", "quantised", "not finite"])
def test_an_analytic_value_that_is_not_finite_fails_whatever_was_measured(bad: float, trouble: str) -> None:
    judgement = judged(bad, estimates(1.0, 1e-7, trouble=trouble))
    assert judgement.verdict.tolist() == ["fail"] and "not finite" in judgement.reason[0]


@pytest.mark.parametrize("trouble", ["", "quantised", "jump", "edge"])
def test_what_is_within_the_callers_tolerance_with_its_uncertainty_is_not_undecided(trouble: str) -> None:
    found, u = estimates(0.0, 1e-3, trouble=trouble), 1e-2 if trouble == "jump" else 1e-3
    for atol in (1.001 * (1e-4 + u), 0.999 * (1e-4 + u)):
        expected = ["pass" if atol > 1e-4 + u else "undecided"]
        tolerances = Tolerances(np.array([1e-5]), np.array([atol]))
        accepting = Tolerances(np.array([1e-5]), None, np.array([atol]))
        for each in (tolerances, accepting):
            judgement = judge(np.array([1e-4]), found, np.zeros(1, np.int64), np.array([1e-9]), each, ("noise", ""))
            assert judgement.verdict.tolist() == expected
    nowhere = replace(found, numerical=np.full(1, np.nan))
    assert judge(np.array([0.0]), nowhere, np.zeros(1, np.int64), np.ones(1), accepting, ("", "")).undecided.all()


def test_what_is_within_the_callers_relative_tolerance_with_its_uncertainty_is_not_undecided() -> None:
    found = estimates(1.0, 0.2)
    assert verdicts(1.0, found) == ["undecided"]
    assert verdicts(1.25, found, rtol=0.5) == verdicts(0.75, found, rtol=0.5) == ["pass"]
    assert verdicts(0.6, found, rtol=0.5) == ["undecided"]
    assert verdicts(1.0, estimates(1.0, 0.2, trouble="jump"), rtol=0.5) == ["undecided"]


def test_what_is_accepted_does_not_make_a_wrong_value_right() -> None:
    accepting = Tolerances(np.array([1e-5]), None, np.array([1.0]))
    judgement = judge(
        np.array([1.5]), estimates(1.0, 1e-7), np.zeros(1, np.int64), np.ones(1), accepting, ("noise", "")
    )
    assert judgement.failed.all()


@pytest.mark.parametrize("trouble", ["jump", "quantised", "not finite"])
@pytest.mark.parametrize("analytic", [0.0, 1.0, 1e9])
def test_trouble_is_undecided_with_its_reason(trouble: str, analytic: float) -> None:
    judgement = judged(analytic, estimates(1.0, 1e-7, trouble=trouble))
    assert judgement.verdict.tolist() == ["undecided"]
    assert {"jump": "jumps", "quantised": "stairs", "not finite": "not finite"}[trouble] in judgement.reason[0]


@pytest.mark.parametrize("numerical", [math.nan, math.inf])
@pytest.mark.parametrize("uncertainty", [1e-7, math.inf, math.nan])
def test_a_derivative_that_could_not_be_had_never_passes_nor_fails(numerical: float, uncertainty: float) -> None:
    assert verdicts(1.0, estimates(numerical, uncertainty)) == ["undecided"]


@pytest.mark.parametrize("uncertainty", [math.inf, math.nan])
def test_an_unknown_uncertainty_never_passes_nor_fails(uncertainty: float) -> None:
    assert verdicts([1.0, 5.0], estimates([1.0, 1.0], uncertainty)) == ["undecided"] * 2


def test_at_a_kink_the_distance_is_that_from_the_interval() -> None:
    kink = estimates(np.zeros(7), 1e-7, left=-1, right=1, trouble="kink")
    judgement = judged([-1, -0.3, 0, 1, 1 + 1e-8, 1.1, -2], kink)
    assert judgement.verdict.tolist() == ["pass"] * 5 + ["fail"] * 2
    assert judgement.reason.tolist()[:5] == ["kink"] * 5
    np.testing.assert_array_equal(judgement.numerical[:4], [-1, -0.3, 0, 1])
    reversed_sides = estimates(np.zeros(2), 1e-7, left=1, right=-1, trouble="kink")
    assert verdicts([0.5, 1.5], reversed_sides) == ["pass", "fail"]


def test_agreement_that_a_wrong_value_would_have_reached_too_is_undecided() -> None:
    assert verdicts(1.0, estimates(1.0, 0.00999), scale=1.0) == ["pass"]
    judgement = judged(1.0, estimates(1.0, 0.01001))
    assert judgement.verdict.tolist() == ["undecided"] and judgement.reason.tolist() == ["noise hides the slope"]
    assert judged(0.01, estimates(0.01, 0.0101)).reason.tolist() == ["the slope vanishes"]
    assert verdicts(0.0, estimates(0.0, 0.005), scale=1.0) == ["pass"]
    assert verdicts(0.0, estimates(0.0, 0.005), scale=0.1) == ["undecided"]
    assert verdicts(5.0, estimates(5.0, 0.04), scale=0.1) == ["pass"]


@pytest.mark.parametrize(("rtol", "useful"), [(1e-12, 0.01), (1e-5, 0.01), (5e-4, 0.05), (1e-3, 0.1), (1e-2, 0.1)])
def test_what_agreement_must_be_known_to_follows_the_relative_tolerance(rtol: float, useful: float) -> None:
    assert Tolerances(np.array([rtol]), None).useful == pytest.approx([useful])


def test_a_clear_error_fails_however_large_the_uncertainty() -> None:
    assert verdicts(100.0, estimates(1.0, 5.0)) == ["fail"]
    assert verdicts(0.0, estimates(1.0, 0.05)) == ["fail"]


def test_tolerances_are_relative_to_the_larger_value_and_absolute() -> None:
    assert verdicts([1.1, 0.9], estimates([1.0, 1.0], 1e-9), rtol=0.1, atol=0) == ["pass", "pass"]
    assert verdicts([1.12, 0.89], estimates([1.0, 1.0], 1e-9), rtol=0.1, atol=0) == ["fail", "fail"]
    assert verdicts([0.01, 1.01, 0.02], estimates([0.0, 1.0, 0.0], 1e-9), rtol=0, atol=0.0101) == [
        "pass",
        "pass",
        "fail",
    ]


def test_the_default_atol_is_a_hundred_thousandth_of_rtol_times_the_scale() -> None:
    found = estimates(np.zeros(2), 1e-12)
    assert verdicts([0.9e-7, 1.2e-7], found, rtol=1e-3, scale=10.0) == ["pass", "fail"]


def test_each_entry_is_judged_by_the_tolerance_of_its_tensor() -> None:
    tolerances = Tolerances(np.array([1e-5, 1e-1]), None)
    a = np.array([1.01, 1.01])
    judgement = judge(a, estimates(np.ones(2), 1e-9), np.array([0, 1]), np.ones(2), tolerances, noise_reasons=("", ""))
    assert judgement.verdict.tolist() == ["fail", "pass"]


@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0, math.inf, exclude_min=True) | st.just(math.nan),
    st.sampled_from(["", "kink", "jump", "quantised", "not finite", "edge"]),
)
@settings(deadline=None)
def test_no_number_that_is_not_finite_ever_passes(a: float, n: float, u: float, trouble: str) -> None:
    judgement = judged(a, estimates(n, u, trouble=trouble))
    (verdict,) = judgement.verdict.tolist()
    assert verdict in ("pass", "fail", "undecided")
    if verdict == "pass":
        assert all(map(math.isfinite, (a, n, u))) and trouble in ("", "kink", "edge")
        assert abs(a - n) <= 1e-8 + 1e-5 * max(abs(a), abs(n)) + u + 1e-12 * (abs(a) + abs(n) + u)
    if verdict == "fail":
        assert not math.isfinite(a) or trouble in ("", "kink", "edge")


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(1e-9, 1e3))
@settings(deadline=None)
def test_a_larger_uncertainty_never_turns_undecided_into_a_failure(a: float, n: float, u: float) -> None:
    if verdicts(a, estimates(n, u)) != ["fail"]:
        assert verdicts(a, estimates(n, 2 * u)) != ["fail"]


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_entries_that_pass_at_first_sight_pass_at_a_second(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 300
    numerical = rng.standard_normal(size) * 10.0 ** rng.integers(-8, 3, size)
    uncertainty = 10.0 ** rng.uniform(-14, 0, size)
    analytic = numerical + rng.standard_normal(size) * 10.0 ** rng.uniform(-14, 0, size)
    for values in (numerical, analytic):
        values[rng.integers(size, size=6)] = rng.choice([math.nan, math.inf, -math.inf, 0.0, 1e308], 6)
    found = estimates(numerical, uncertainty)
    found.trouble[:] = rng.choice(len(TROUBLES), size, p=[0.9, *[0.1 / (len(TROUBLES) - 1)] * (len(TROUBLES) - 1)])
    tensors, scales = np.sort(rng.integers(3, size=size)), 10.0 ** rng.uniform(-3, 1, 3)
    rest = tensors, scales, Tolerances(np.array([1e-5, 1e-3, 1e-2]), None), "noise", 1e-3 * scales, 1e-9 * scales
    quick, slow = judge(analytic, found, *rest), _judged(analytic, found, *rest)
    assert 30 < np.count_nonzero(quick.passed) < 270
    for name in ("numerical", "allowed", "failed", "undecided", "reason", "unsure", "close"):
        np.testing.assert_array_equal(getattr(quick, name), getattr(slow, name), err_msg=name)


def rounded(analytic: float, numerical: float, uncertainty: float, rounding: float, around: float = 0.0) -> Judgement:
    tolerances, found = Tolerances(np.array([1e-3]), None), estimates(numerical, uncertainty)
    reasons = ("noise", "vanishes")
    return judge(np.array([analytic]), found, np.zeros(1, int), np.full(1, 1e-6), tolerances, reasons, around, rounding)


def test_round_off_of_the_analytic_value_is_no_error_of_a_slope_of_zero() -> None:
    assert rounded(1e-9, 0.0, 1e-15, 5e-8, around=1e-7).verdict.tolist() == ["pass"]
    assert rounded(1e-9, 0.0, 1e-15, 0.0, around=1e-7).verdict.tolist() == ["fail"]
    assert rounded(6e-7, 0.0, 1e-15, 5e-8, around=1e-7).verdict.tolist() == ["fail"]


def test_round_off_of_the_analytic_value_leaves_a_small_slope_undecided() -> None:
    """A factor of two would be explained by it."""
    judgement = rounded(2e-6, 1e-6, 1e-15, 2e-6)
    assert judgement.verdict.tolist() == ["undecided"] and "round-off of the analytic value" in judgement.reason[0]
    assert rounded(1e-6, 1e-6, 1e-15, 2e-6).verdict.tolist() == ["pass"]
    assert rounded(1.004e-6, 1e-6, 1e-15, 5e-9).verdict.tolist() == ["pass"]


# --- scales and verdicts of tensors ---


def test_the_scale_of_a_tensor_is_the_root_mean_square_of_its_slopes() -> None:
    slopes, tensors = np.array([3.0, 4.0, 1.0, 1.0, -1.0]), np.array([0, 0, 2, 2, 2])
    for order in ([0, 1, 2, 3, 4], [2, 0, 3, 4, 1]):
        scales = gradient_scales(slopes[order], tensors[order], np.array([0.0, 7.0, 0.0]))
        np.testing.assert_allclose(scales, [math.sqrt(12.5), 7.0, 1.0])


def test_a_tensor_without_slopes_has_a_millionth_of_the_largest_scale() -> None:
    scales = gradient_scales(np.array([5.0, 0.0, math.nan]), np.arange(3), np.zeros(3))
    np.testing.assert_allclose(scales, [5.0, 5e-6, 5e-6])


@pytest.mark.parametrize("unit", [1e-200, 1e-160, 1e160, 1e200])
def test_scales_neither_overflow_nor_vanish(unit: float) -> None:
    scales = gradient_scales(unit * np.array([3.0, 4.0]), np.zeros(2, np.int64), np.zeros(1))
    np.testing.assert_allclose(scales, [unit * math.sqrt(12.5)])


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "undecided"], "undecided"),
        (["undecided", "fail", "pass"], "fail"),
        (["fail"], "fail"),
        (["undecided"], "undecided"),
    ],
)
def test_the_worst_verdict_wins(found: list[str], verdict: str) -> None:
    assert worst_verdict(found) == verdict
    assert worst_verdict(reversed(found)) == verdict


def test_a_slope_that_a_staircase_shows_to_be_small_is_decided() -> None:
    found = estimates(0.0, 1e-9, trouble="quantised")
    assert verdicts(1e-10, found) == ["pass"]
    assert verdicts(1e-3, found) == ["undecided"], "it may be the loss that is wrong"
    assert verdicts(0.0, estimates(0.0, 0.5, trouble="quantised")) == ["undecided"]
    assert verdicts(0.0, estimates(0.0, 2e-308, trouble="quantised")) == ["undecided"]
