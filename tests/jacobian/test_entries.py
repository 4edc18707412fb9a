"""Entries of a Jacobian: quotients, ladders and verdicts, several columns at a time where they share no output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from fastgc import check_gradients, check_jacobian
from fastgc._derivatives.estimates import Estimates
from fastgc._jacobian.columns import Group
from fastgc._jacobian.entries import Checked, check_groups, open_jacobian
from fastgc._jacobian.function import VectorFunction
from fastgc._jacobian.operator import matrix_operator
from fastgc._progress import Progress
from fastgc._verdicts.judgement import Judgement
from tests.support.jacobians import (
    KINDS,
    POINT,
    WIDE,
    Floats,
    N,
    band,
    band_jacobian,
    by_kind,
    df,
    f,
    field_of,
    layer_jacobian,
    scalar,
    two_kinks,
)


def test_a_value_between_the_slopes_of_a_kink_passes() -> None:
    x = np.array([0.0, 1.0, -1.0])
    report = check_jacobian(lambda x: np.maximum(x, 0), lambda x: np.diag((x > 0) * 1.0), x)
    assert report.passed
    assert report.reason == "kink at 1 of 9 checked entries"
    assert check_jacobian(lambda x: np.maximum(x, 0), lambda x: np.diag([1.5, 1, 0]), x).verdict == "fail"
    array = check_jacobian(lambda x: np.maximum(x, 0), np.diag([1.5, 1, 0]), x)
    assert array.verdict == "undecided"
    assert "pass a function to decide" in array.reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_fails_without_a_ladder(value: float) -> None:
    x = np.linspace(0.5, 1.5, 10)
    right = check_jacobian(np.sin, lambda x: np.diag(np.cos(x)), x)
    wrong = check_jacobian(np.sin, lambda x: np.diag(np.cos(x)) + value, x)
    assert (right.verdict, wrong.verdict) == ("pass", "fail")
    assert wrong.evaluations <= 1.5 * right.evaluations
    error = np.abs(wrong.entries.columns["numerical"] - np.diag(np.cos(x)).reshape(-1))
    assert (error <= 3 * wrong.entries.columns["uncertainty"] + 1e-14).all()


def rectifiers(x: Floats) -> Floats:
    return 2 * np.maximum(x, 0) - np.maximum(-x, 0)


@pytest.mark.parametrize("form", ["jacobian", "jvp", "vjp"])
def test_a_convention_passes_where_the_jacobian_is_right_beside_the_kink(form: str) -> None:
    def slopes(x: Floats, left: float) -> Floats:
        return np.where(x > 0, 2.0, np.where(x < 0, left, 0.0))

    def given(left: float) -> dict[str, Any]:
        if form == "jacobian":
            return {"jacobian": lambda x: np.diag(slopes(x, left))}
        return {"jacobian": None, form: lambda x, u: slopes(x, left) * u}

    right = check_jacobian(rectifiers, x=np.zeros(3), **given(1.0))
    assert right.passed and "kink: a convention, right beside it" in str(right)
    assert check_jacobian(rectifiers, x=np.zeros(3), **given(1.5)).verdict == "fail"


def test_a_jacobian_that_is_not_defined_beside_a_kink_leaves_it_undecided() -> None:
    def lonely(x: Floats) -> Floats:
        if x.any():
            raise ValueError("at 0 only")
        return np.zeros((3, 3))

    report = check_jacobian(rectifiers, lonely, np.zeros(3))
    assert report.verdict == "undecided"
    assert "outside both slopes, and undecided beside it" in report.reason


def test_outputs_that_never_move_agree_with_zeros_only() -> None:
    assert check_jacobian(lambda x: np.ones(2), np.zeros((2, 3)), np.ones(3)).passed
    assert check_jacobian(lambda x: np.zeros(2), np.zeros((2, 3)), np.ones(3)).passed
    assert check_jacobian(lambda x: np.ones(2), np.full((2, 3), 1e-3), np.ones(3)).verdict == "fail"


def test_a_slope_hidden_by_round_off_is_undecided_unless_it_is_said_to_be_zero_and_seen_so() -> None:
    report = check_jacobian(lambda x: 1e12 + 1e-9 * np.abs(x), np.diag([1e-9] * 2), np.ones(2))
    assert report.verdict == "undecided"
    assert "noise or round-off of this output hides the slope" in str(report)


def test_outputs_of_unlike_units_do_not_hide_each_other() -> None:
    def g(x: Floats) -> Floats:
        return np.array([1e10 * x[0], 1e-10 * x[1]])

    assert check_jacobian(g, np.diag([1e10, 1e-10]), np.ones(2)).passed
    assert check_jacobian(g, np.diag([1e10, 2e-10]), np.ones(2)).by_output == {(1,): 1}


def test_inputs_of_unlike_units_do_not_hide_each_other() -> None:
    a = np.random.default_rng(0).normal(size=(6, 3)) * [1, 1e-9, 1]
    wrong = a.copy()
    wrong[2, 1] *= 1.5
    assert check_jacobian(lambda x: a @ x, a, np.ones(3)).passed
    assert check_jacobian(lambda x: a @ x, wrong, np.ones(3)).by_input == {(1,): 1}


def test_the_domains_edge_is_stepped_back_from() -> None:
    x = np.array([1e-9, 1.0])
    assert check_jacobian(np.sqrt, lambda x: np.diag(0.5 / np.sqrt(x)), x).passed


def test_single_precision_gets_its_own_tolerance() -> None:
    x = np.array([1.3, 0.7])
    assert check_jacobian(lambda x: x**2, lambda x: np.diag(2 * x).astype(np.float32) * np.float32(1 + 1e-5), x).passed
    assert check_jacobian(lambda x: x**2, lambda x: np.diag(2 * x) * (1 + 1e-4), x).verdict == "fail"
    product = check_jacobian(lambda x: x**2, None, x, jvp=lambda x, u: (2 * x * u).astype(np.float32))
    assert product.passed


def test_nan_in_the_jacobian_fails_and_nan_beside_x_does_not_pass() -> None:
    assert check_jacobian(np.sin, np.diag([np.nan, 1.0]), np.array([0.5, 0.0])).verdict == "fail"
    hole = check_jacobian(lambda x: np.where(x == 1.0, x, np.nan), np.eye(1), np.ones(1))
    assert hole.verdict == "undecided"
    assert "not finite nearby" in hole.reason


def test_a_step_of_ones_own_is_the_first_look_only() -> None:
    assert check_jacobian(f, df, [2.0, 3.0], step=0.1).passed
    assert check_jacobian(lambda x: np.sin(50 * x), lambda x: np.diag(50 * np.cos(50 * x)), np.ones(2), step=0.5).passed


def test_columns_of_a_sparse_jacobian_share_evaluations() -> None:
    report = check_jacobian(band, band_jacobian, POINT)
    assert report.passed, str(report)
    assert report.checked == 3 * N - 2
    assert report.evaluations < N / 2 + 200
    dense = check_jacobian(band, band_jacobian(POINT).toarray(), POINT, columns="all")
    assert dense.evaluations > 2 * N
    declared = check_jacobian(
        band, lambda x: band_jacobian(x).toarray(), POINT, sparsity=band_jacobian(POINT).toarray() != 0
    )
    assert declared.passed
    assert declared.checked == report.checked


def test_a_wrong_entry_of_a_sparse_jacobian_is_named() -> None:
    wrong = band_jacobian(POINT).tocsr()
    wrong[77, 78] *= 1.1
    report = check_jacobian(band, wrong, POINT)
    assert [entry.index for entry in report.wrong_entries] == [(77, 78)]


# --- by itself ---


def checked(groups: list[Group], matrix: Floats, x: Floats) -> tuple[VectorFunction, Checked]:
    function = field_of(lambda x: matrix @ np.sin(x), x)
    jacobian = open_jacobian(function, matrix_operator(matrix * np.cos(x)), None, None, None)
    before = function.evaluations
    with Progress(1, shown=False) as bar:
        result = check_groups(jacobian, groups, bar)
    assert function.evaluations > before
    return function, result


def test_columns_without_a_common_output_are_displaced_together() -> None:
    matrix, x = np.array([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]]), np.array([0.5, 1.0, 1.5])
    _, found = checked([Group(np.array([0, 1]), np.array([0, 1, -1]), declared=True)], matrix, x)
    assert found.estimates.positions.tolist() == [0, 4]
    np.testing.assert_allclose(found.estimates.numerical, [2 * np.cos(0.5), 3 * np.cos(1)], rtol=1e-8)
    assert found.judgement.verdict.tolist() == ["pass", "pass"]
    assert found.strays == []


def test_an_output_that_moves_with_no_column_of_its_own_is_a_stray() -> None:
    matrix, x = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]]), np.array([0.5, 1.0])
    group = Group(np.array([0, 1]), np.array([0, 1, -1]), declared=True)
    _, found = checked([group], matrix, x)
    assert [(output, each is group) for output, each in found.strays] == [(2, True)]
    _, undeclared = checked([Group(group.columns, group.owner)], matrix, x)
    assert undeclared.strays == []


# --- failures that small steps contradict ---


def forgetful(
    function: Callable[[Floats], Floats], jacobian: Callable[[Floats], Floats], x: Floats
) -> tuple[Callable[[Floats], Floats], Callable[[Floats], Floats], Floats]:
    """The same with the Jacobian of one point everywhere."""
    return function, lambda p: jacobian(x), x


def test_a_jacobian_fails_for_kinks_near_the_point_only_where_the_gradient_of_its_output_does() -> None:
    """With a Jacobian that forgets its kinks: asked elsewhere, it says the same."""
    family = [forgetful(*two_kinks(seed)) for seed in range(110, 204)]
    with mock.patch(
        "fastgc._jacobian.entries.confirm", lambda steps, estimates, judgement, verdicts: (estimates, judgement)
    ):
        failed = [each for each in family if check_jacobian(*each).verdict == "fail"]
    still = [each for each in failed if check_jacobian(*each).verdict == "fail"]
    assert len(still) < len(failed), "this family shows nothing"
    for function, jacobian, x in still:
        gradient = check_gradients(scalar(function), scalar(jacobian), x, crosscheck=False)
        assert gradient.verdict == "fail", str(gradient)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_small_steps_take_back_the_failures_of_right_entries_only(kind: str, factor: float) -> None:
    def misled(quotients: Estimates, verdicts: Any, ladders: Any, *_: Any) -> tuple[Estimates, Judgement]:
        ladder = ladders(quotients.positions, 1.0)
        off = np.where(factor == 1, 1.001, 1.0) * ladder.numerical  # as kinks far from the point may do
        estimates = replace(ladder, numerical=off, uncertainty=1e-5 * np.abs(off))
        judgement = verdicts(estimates)
        assert judgement.failed.mean() > 0.9
        return estimates, judgement

    with mock.patch("fastgc._jacobian.entries.decide", misled):
        report = by_kind(kind, lambda x: factor * layer_jacobian(x), WIDE, columns=3, probes=0)
    assert report.verdict == ("undecided" if factor == 1 else "fail"), str(report)
    assert len(report.wrong_entries) == (0 if factor == 1 else report.checked)


# --- parts ---


def test_joined_parts_have_each_entry_once_in_order_as_the_first_has_it() -> None:
    matrix, x = np.array([[2.0, 1.0], [4.0, 3.0]]), np.array([0.5, 1.0])
    both = np.zeros(2, np.int64)
    _, found = checked([Group(np.array([1]), both), Group(np.array([0]), both)], matrix, x)
    again = Checked.joined([found.part(np.array([0, 1])), found])
    assert again.estimates.positions.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(again.judgement.analytic, (matrix * np.cos(x)).ravel())
