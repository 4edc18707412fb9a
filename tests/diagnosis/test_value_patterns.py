"""Patterns of values: constant factors, lost signs, few digits, missing terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastgc._diagnosis import value_patterns
from fastgc._diagnosis.measured_tensor import MeasuredTensor
from fastgc._diagnosis.value_patterns import Pattern, named_factor
from tests.support.tensors import drawn, slopes, tensor

N, P = slopes(12, 10), slopes(12, 10, seed=1)
SOME = drawn(120, 20)


def only(pattern: Callable[..., Any], seen: MeasuredTensor, *more: Any) -> Pattern | None:
    """The one pattern found, or none."""
    found = list(pattern(seen, *more))
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize("known", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize("factor", [2.0, 0.5, -3.0, 1.001, 1e6, 1e-6])
def test_a_factor_is_found(factor: float, known: Any) -> None:
    found = only(value_patterns.constant_factor, tensor(N, factor * N, known))
    assert found is not None
    assert found.kind == "factor"
    assert found.factor == pytest.approx(factor)
    assert found.deviation < 1e-3


def test_minus_one_is_the_sign() -> None:
    found = only(value_patterns.constant_factor, tensor(N, -N, SOME))
    assert found is not None
    assert (found.kind, found.factor) == ("sign", pytest.approx(-1))


@pytest.mark.parametrize(
    ("factor", "name"),
    [(-1, "-1"), (2, "2"), (-0.5, "-1/2"), (64, "N, N = 64 is here"), (1 / 64, "1/N, N = 64 is here"),
     (-64, "-N, N = 64 is here"), (3, ""), (1, ""), (65, ""), (2.0001, "")],
)  # fmt: skip
def test_factors_have_names(factor: float, name: str) -> None:
    assert named_factor(factor, 1e-6, {64: "here"}) == name


def test_a_factor_may_be_an_axis_of_the_tensor() -> None:
    found = only(value_patterns.constant_factor, tensor(N, N / 12))
    assert found is not None
    assert found.message.endswith("= 1/N, N = 12 is the length of axis 0 of the tensor")


def test_one_entry_shows_only_a_factor_with_a_meaning() -> None:
    one = np.array([1.7])
    assert only(value_patterns.constant_factor, tensor(one, 2 * one)) is not None
    assert only(value_patterns.constant_factor, tensor(one, 7 * one, lengths={7: "here"})) is not None
    assert only(value_patterns.constant_factor, tensor(one, 7 * one)) is None
    assert only(value_patterns.constant_factor, tensor(one, 2.0002 * one)) is None
    assert only(value_patterns.same_factor, tensor(one, 7 * one), {"W": 7.0}) is not None
    assert only(value_patterns.same_factor, tensor(one, 7 * one), {"W": 6.0}) is None


@pytest.mark.parametrize("spread", [1e-3, 1e-2, 5e-2])
def test_a_drifting_factor_is_none(spread: float) -> None:
    drift = 2 * np.linspace(1 - spread, 1 + spread, 120).reshape(N.shape)
    assert only(value_patterns.constant_factor, tensor(N, drift * N)) is None


def test_slopes_of_nearly_zero_show_no_factor() -> None:
    """Divided by 1e15, any gradient agrees with slopes that vanish within their uncertainty."""
    nothing = MeasuredTensor(N.shape, P.ravel(), np.arange(120), 1e-15 * N.ravel(), np.full(120, 1e-14), P.ravel(),
                   np.ones(120, bool), np.zeros(120, bool), {})  # fmt: skip
    assert only(value_patterns.constant_factor, nothing) is None
    assert only(value_patterns.same_factor, nothing, {"W": 1e15}) is None


def test_lost_signs() -> None:
    found = [only(value_patterns.lost_sign, tensor(N, sign * np.abs(N), SOME)) for sign in (1, -1)]
    assert [each is not None and each.message for each in found] == [
        "consistent with lost signs (analytic = |numerical|)", "consistent with lost signs (analytic = -|numerical|)"
    ]  # fmt: skip
    one_right = np.abs(N)
    one_right[N < 0] = N[N < 0]
    one_right.flat[np.flatnonzero(N > 0)[0]] *= -1
    assert only(value_patterns.lost_sign, tensor(N, one_right)) is None


def test_zero_needs_a_slope() -> None:
    assert only(value_patterns.zero, tensor(N, 0 * N, SOME)) is not None
    assert only(value_patterns.zero, tensor(0 * N, 0 * N)) is None
    assert (
        only(value_patterns.zero, tensor(N, np.where(np.arange(120).reshape(N.shape) == 77, N, 0), [1, 2, 3])) is None
    )


# --- few digits ---


@pytest.mark.parametrize(("kind", "name"), [(np.float16, "float16"), (np.float32, "float32")])
def test_the_format_is_named(kind: Any, name: str) -> None:
    exact = N + 1e-3 * P
    found = only(value_patterns.few_digits, tensor(exact, exact.astype(kind).astype(float), slack=1e-9))
    assert found is not None
    assert found.kind == "scale_precision"
    assert name in found.message


def test_whole_numbers_are_no_format() -> None:
    counts = np.random.default_rng(0).integers(1000, 2000, 120).astype(float).reshape(N.shape)
    assert only(value_patterns.few_digits, tensor(counts, counts + 1)) is None
    assert only(value_patterns.few_digits, tensor(counts / 10, counts // 10)) is None
    assert (
        only(value_patterns.few_digits, tensor(1.01 * 2.0 ** (np.arange(120) % 20), 2.0 ** (np.arange(120) % 20)))
        is None
    )


def test_rounded_values_that_are_far_off_are_no_rounding() -> None:
    assert only(value_patterns.few_digits, tensor(N, (1.1 * N).astype(np.float16).astype(float))) is None


def test_small_errors_of_all_digits_are_no_rounding() -> None:
    assert only(value_patterns.few_digits, tensor(N, N * (1 + 1e-4 * P))) is None


def test_errors_above_the_uncertainty_are_no_rounding_though_the_tolerance_is_wide() -> None:
    single = (N * (1 + 1.5e-3 * P)).astype(np.float32)
    wide = tensor(N, single, slack=1e-3)
    exact = dataclasses.replace(wide, uncertainty=1e-9 * np.abs(N.ravel()))
    assert only(value_patterns.few_digits, exact) is None


# --- terms ---


@pytest.mark.parametrize("known", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize(
    ("term", "text"),
    [(-0.1 * P, "-0.1 * parameter (weight decay missing"), (0.2 * P, "0.2 * parameter (weight decay twice"),
     (-0.3 * np.sign(P), "-0.3 * sign(parameter) (an L1 penalty missing"), (0 * P + 0.7, "0.7 (a shift"),
     (1e-3 * P, "0.001 * parameter (weight decay")],
)  # fmt: skip
def test_a_term_is_found(term: np.ndarray, text: str, known: Any) -> None:
    found = only(value_patterns.one_term, tensor(N, N + term, known, parameters=P))
    assert found is not None
    assert found.kind == "missing_term"
    assert f"analytic - numerical = {text}" in found.message
    assert found.factor == pytest.approx(float(text.split()[0]))


def test_two_terms_are_found() -> None:
    found = only(value_patterns.two_terms, tensor(N, N + 0.1 * np.sign(P) - 0.2 * P, SOME, parameters=P))
    assert found is not None
    assert "= -0.2 * parameter + 0.1 * sign(parameter)" in found.message
    assert found.factor is None


def test_one_term_is_not_called_two() -> None:
    assert only(value_patterns.two_terms, tensor(N, N - 0.2 * P, parameters=P)) is None


def test_another_function_of_the_parameter_is_no_term() -> None:
    for term in (0.1 * P**2, 0.1 * np.tanh(P), 0.1 * slopes(12, 10, seed=5)):
        seen = tensor(N, N + term, parameters=P)
        assert only(value_patterns.one_term, seen) is only(value_patterns.two_terms, seen) is None


def test_parameters_of_zero_show_no_decay() -> None:
    seen = tensor(N, N + 0.1 * P, parameters=0 * P)
    assert only(value_patterns.one_term, seen) is only(value_patterns.two_terms, seen) is None


@pytest.mark.parametrize(("size", "found"), [(5, False), (6, True)])
def test_errors_of_one_size_show_a_term_only_where_their_signs_do(size: int, found: bool) -> None:
    n, p = slopes(size), slopes(size, seed=1)
    for term in (0.01 * np.sign(p), 0.01 + 0 * p):
        assert (only(value_patterns.one_term, tensor(n, n + term, parameters=p)) is not None) is found
    assert only(value_patterns.one_term, tensor(n, n + 0.01 * p, parameters=p)) is not None


def test_two_entries_show_no_term() -> None:
    assert only(value_patterns.one_term, tensor(N[0, :2], N[0, :2] + 0.1 * P[0, :2], parameters=P[0, :2])) is None


@pytest.mark.parametrize("power", [-300, -150, 150, 290])
def test_scales_do_not_matter(power: int) -> None:
    scale = 10.0**power
    n = N * scale
    seen = MeasuredTensor(n.shape, (n + 0.1 * scale * P).ravel(), np.arange(120), n.ravel(), 1e-5 * np.abs(n.ravel()),
                P.ravel(), np.ones(120, bool), np.zeros(120, bool), {})  # fmt: skip
    with np.errstate(all="ignore"):
        assert only(value_patterns.one_term, seen) is not None
        assert only(value_patterns.constant_factor, seen) is None


# --- none of these ---


def test_enough_wrong_entries_without_a_pattern_are_said() -> None:
    assert only(value_patterns.unstructured, tensor(N, P)) is not None
    assert only(value_patterns.unstructured, tensor(N, P, range(7))) is None
    assert only(value_patterns.unstructured, tensor(N[0, :2], P[0, :2])) is not None
    assert only(value_patterns.unstructured, tensor(N[0, :1], 3.3 * N[0, :1])) is None
    assert only(value_patterns.unstructured, tensor(N, np.nan * N)) is None


# --- the gradient of another moment ---

THEN = N * (1 + 0.1 * slopes(12, 10, seed=5))  # the numerical gradient at other parameters


@pytest.mark.parametrize("known", [None, SOME, SOME[:8]], ids=["all", "some", "eight"])
def test_a_gradient_of_another_moment_is_found(known: Any) -> None:
    found = only(value_patterns.stale, tensor(N, THEN, known), tensor(THEN, THEN, known))
    assert found is not None
    assert (found.kind, found.deviation) == ("stale", 0)


def test_eight_entries_are_needed_unless_all_are_known() -> None:
    assert not only(value_patterns.stale, tensor(N, THEN), tensor(THEN, THEN, SOME[:7]))
    assert only(value_patterns.stale, tensor(N[0], THEN[0]), tensor(THEN[0], THEN[0]))


def test_every_entry_that_was_measured_then_must_agree() -> None:
    analytic = THEN.copy()
    analytic.flat[SOME[3]] *= 1.01
    assert not only(value_patterns.stale, tensor(N, analytic), tensor(THEN, analytic, SOME))
    assert only(value_patterns.stale, tensor(N, analytic), tensor(THEN, analytic, np.delete(SOME, 3)))


def test_entries_must_differ_now() -> None:
    assert not only(value_patterns.stale, tensor(N, N), tensor(N, N))
    assert not only(value_patterns.stale, tensor(N, N * (1 + 2e-5)), tensor(N * (1 + 2e-5), N * (1 + 2e-5)))


def test_the_slack_of_both_moments_counts() -> None:
    near = THEN * (1 + 1e-3)
    assert not only(value_patterns.stale, tensor(N, near), tensor(THEN, near))
    assert not only(value_patterns.stale, tensor(N, near, slack=1e-3), tensor(THEN, near))
    assert only(value_patterns.stale, tensor(N, near), tensor(THEN, near, slack=1e-3))


def test_less_is_enough_where_another_tensor_shows_it() -> None:
    n, then = np.array([1.0]), np.array([1.01])
    weak, strong = (tensor(n, then), tensor(then, then)), (tensor(N, THEN), tensor(THEN, THEN))
    assert value_patterns.stale_together({0: weak[0]}, {0: weak[1]}) == {0: []}
    found = value_patterns.stale_together({0: weak[0], 1: strong[0], 2: weak[0]}, {0: weak[1], 1: strong[1]})
    assert [[each.kind for each in found[t]] for t in (0, 1)] == [["stale"], ["stale"]]
    assert 2 not in found


# --- zero but for round-off ---


@pytest.mark.parametrize("known", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize("size", [1e-300, 1e-17, 1e-13])
def test_round_off_is_no_gradient(size: float, known: Any) -> None:
    found = only(value_patterns.nearly_zero, tensor(N, size * P, known))
    assert found is not None
    assert (found.kind, found.factor) == ("zero", 0.0)
    assert found.message.endswith("zero everywhere up to round-off")


def test_small_gradients_are_not_zero() -> None:
    single = P.astype(np.float32)
    for wrong in (1e-10 * P, 0 * P, np.where(np.arange(120).reshape(N.shape) == 9, N, 1e-17 * P)):
        assert only(value_patterns.nearly_zero, tensor(N, wrong)) is None
    assert only(value_patterns.nearly_zero, tensor(N, np.float32(1e-7) * single)) is not None
    assert only(value_patterns.nearly_zero, tensor(N, np.float32(1e-5) * single)) is None
    assert only(value_patterns.nearly_zero, tensor(1e-17 * N, 1e-17 * P, slack=1e-5)) is None


# --- factors of the parameter ---

LOGS = [
    (P * N, "parameter * numerical (the derivative by log(parameter)?)"),
    (N / P, "numerical / parameter (the factor of a logarithmic parameter missing?)"),
    (np.exp(P) * N, "exp(parameter) * numerical (the factor of a logarithmic parameter once too often?)"),
    (N / np.exp(P), "numerical / exp(parameter) (the derivative by exp(parameter)?)"),
]


@pytest.mark.parametrize("known", [None, SOME, SOME[:8]], ids=["all", "some", "eight"])
@pytest.mark.parametrize(("wrong", "text"), LOGS, ids=[text.partition(" (")[0] for _, text in LOGS])
def test_a_log_parameter_is_found(wrong: np.ndarray, text: str, known: Any) -> None:
    found = only(value_patterns.log_parameter, tensor(N, wrong, known, parameters=P))
    assert found is not None
    assert (found.kind, found.factor) == ("log_parameter", None)
    assert found.message == f"consistent with analytic = {text}"


@pytest.mark.parametrize("known", [None, SOME[:8]], ids=["all", "eight"])
def test_a_logarithm_may_have_another_base(known: Any) -> None:
    found = only(value_patterns.log_parameter, tensor(N, np.log(10) * P * N, known, parameters=P))
    assert found is not None
    assert found.factor == pytest.approx(np.log(10))
    assert found.message == "consistent with analytic = 2.303 * parameter * numerical"
    p = np.where(np.arange(120).reshape(N.shape) % 5 == 0, 0, P)
    with np.errstate(all="ignore"):
        assert only(value_patterns.log_parameter, tensor(N, np.log(10) * p * N, parameters=p)) is not None
    assert only(value_patterns.log_parameter, tensor(N[0, :2], 2.3 * P[0, :2] * N[0, :2], parameters=P[0, :2])) is None


def test_parameters_that_are_all_the_same_show_no_logarithm() -> None:
    for same in (0.0, 0.3, -2.0):
        with np.errstate(all="ignore"):
            assert only(value_patterns.log_parameter, tensor(N, 0.02 * N, parameters=np.full(N.shape, same))) is None


def test_one_log_parameter_is_enough() -> None:
    n, p = np.array([1.7]), np.array([0.3])
    assert only(value_patterns.log_parameter, tensor(n, p * n, parameters=p)) is not None
    assert only(value_patterns.log_parameter, tensor(n, 1.001 * p * n, parameters=p)) is None


def test_parameters_of_zero_belong_to_gradients_of_zero() -> None:
    p = np.where(np.arange(120).reshape(N.shape) % 5 == 0, 0, P)
    with np.errstate(all="ignore"):
        assert only(value_patterns.log_parameter, tensor(N, p * N, parameters=p)) is not None
        assert only(value_patterns.log_parameter, tensor(N, p * N + 0.1 * (p == 0), parameters=p)) is None


def test_what_resembles_a_log_parameter_is_none() -> None:
    for wrong in (1.001 * np.abs(P) * N, P**2 * N, np.tanh(P) * N, P * N + 1e-3, P, N * np.linspace(1, 2, 10)):
        assert only(value_patterns.log_parameter, tensor(N, wrong, parameters=P)) is None
    assert only(value_patterns.log_parameter, tensor(N, P * N, parameters=np.nan * P)) is None


# --- affine, clipped ---


@pytest.mark.parametrize("known", [None, SOME, SOME[:8]], ids=["all", "some", "eight"])
@pytest.mark.parametrize(("c", "d", "text"), [(2, 0.3, "2 * numerical + 0.3"), (-1.5, -0.1, "-1.5 * numerical - 0.1"),
                                              (1.01, 0.2, "1.01 * numerical + 0.2")])  # fmt: skip
def test_an_affine_relation_is_found(c: float, d: float, text: str, known: Any) -> None:
    found = only(value_patterns.affine, tensor(N, c * N + d, known))
    assert found is not None
    assert (found.kind, found.message) == ("affine", f"consistent with analytic = {text}")
    assert found.factor == pytest.approx(c, rel=1e-4)


@pytest.mark.parametrize("power", [-300, -150, 150, 290])
def test_affine_relations_are_found_at_any_scale(power: int) -> None:
    n = N * 10.0**power
    seen = MeasuredTensor(n.shape, (2 * n + 10.0**power).ravel(), np.arange(120), n.ravel(), 1e-5 * np.abs(n.ravel()),
                P.ravel(), np.ones(120, bool), np.zeros(120, bool), {})  # fmt: skip
    with np.errstate(all="ignore"):
        assert only(value_patterns.affine, seen) is not None


def test_gradients_of_zero_have_no_affine_relation() -> None:
    assert only(value_patterns.affine, tensor(0 * N, N)) is None
    assert only(value_patterns.affine, tensor(N, 0 * N)) is None
    assert only(value_patterns.affine, tensor(0 * N, 0 * N)) is None


def test_what_resembles_an_affine_relation_is_none() -> None:
    for wrong in (2 * N, N + 0.3, 2 * N + 0.3 + 1e-3 * P, N**2, np.full(N.shape, 0.3), np.nan * N):
        assert only(value_patterns.affine, tensor(N, wrong)) is None
    few = slopes(5)
    assert only(value_patterns.affine, tensor(few, 2 * few + 0.3)) is None


@pytest.mark.parametrize("known", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize(("wrong", "text"), [(np.clip(N, -1, 1), "to [-1, 1]"), (np.minimum(N, 0.8), "to at most 0.8"),
                                             (np.maximum(N, 0), "to at least 0")])  # fmt: skip
def test_clipped_values_are_found(wrong: np.ndarray, text: str, known: Any) -> None:
    found = next(value_patterns.clipped(tensor(N, wrong, known)), None)
    assert found is not None
    assert (found.kind, found.message) == ("clipped", f"consistent with values clipped {text}")


def test_what_resembles_clipped_values_is_none() -> None:
    one = np.minimum(N, np.sort(N, axis=None)[-2] * 1.1)  # a single entry at the bound
    for wrong in (one, np.clip(N, -1, 1) * 1.001, np.tanh(N), np.clip(N, -1, 1) + 1e-3 * P, np.sign(N), 0 * N):
        assert [*value_patterns.clipped(tensor(N, wrong))] == []
