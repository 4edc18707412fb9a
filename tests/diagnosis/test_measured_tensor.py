"""What is known of a tensor, when it suffices, and which entries to measure next."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastgc._diagnosis.measured_tensor import BITS, FEWEST, information, is_level
from tests.support.tensors import drawn, slopes, tensor

N = slopes(12, 10)


def test_a_pattern_needs_eight_wrong_entries_unless_all_are_known() -> None:
    right = np.zeros(FEWEST)
    assert tensor(N, 2 * N, drawn(120, FEWEST)).explained(right, 1)
    assert not tensor(N, 2 * N, drawn(120, FEWEST - 1)).explained(right[1:], 1)
    assert tensor(N[0, :2], 2 * N[0, :2]).explained(right[:2], 2)
    assert not tensor(N[0, :2], 2 * N[0, :2]).explained(right[:2], 3)


def test_it_must_be_within_the_slack_of_every_entry() -> None:
    known = tensor(N, 2 * N)
    residual = np.zeros(120)
    residual[7] = 2 * known.slack[7]
    assert known.explained(residual, 1)
    residual[7] = 4 * known.slack[7]
    assert not known.explained(residual, 1)
    residual[7] = np.nan
    assert not known.explained(residual, 1)


def test_it_must_explain_most_of_small_errors() -> None:
    """Errors of eight times the slack, of which a pattern leaves a quarter."""
    known = tensor(N, N * (1 + 8e-5 * np.sign(slopes(12, 10, seed=1))))
    error = known.analytic - known.numerical
    assert known.explained(0.05 * error, 1)
    assert not known.explained(0.25 * error, 1)
    assert known.deviation(0.25 * error) < 3


def test_a_value_known_to_a_percent_tells_too_little_by_itself() -> None:
    one = np.ones(1)
    assert tensor(one, 2 * one, slack=1e-5).explained(0 * one, 1)
    assert not tensor(one, 2 * one, slack=2e-3).explained(0 * one, 1)
    assert tensor(one, 2 * one, slack=2e-3).explained(0 * one, 1, bits=BITS / 2)


def test_bits_are_those_of_sizes_in_units_of_three_slacks() -> None:
    assert information(np.array([3 * 1024.0, 3.0]), np.ones(2)) == pytest.approx(10)
    assert information(np.array([1e-9]), np.ones(1)) == 0
    assert math.isinf(information(np.array([np.inf]), np.ones(1)))


def test_an_entry_without_a_derivative_agrees_with_everything_and_tells_nothing() -> None:
    known = tensor(N, 2 * N)
    hidden = known.slack.copy()
    hidden[3] = np.inf
    object.__setattr__(known, "slack", hidden)
    assert not known.complete
    assert not known.telling[3]
    assert known.deviation(np.where(np.arange(120) == 3, 1e9, 0)) == 0


def test_joined_views_know_the_entries_of_both() -> None:
    first, second = tensor(N, 2 * N, range(60)), tensor(N, 2 * N, range(60, 120), parameters=N)
    both = first.joined(second)
    assert both.complete
    assert both.local.tolist() == list(range(120))
    assert both.analytic.tolist() == (2 * N).ravel().tolist()
    assert both.parameters[-1] == N[-1, -1]


def test_a_level_gradient_is_constant_along_an_axis() -> None:
    rows = np.broadcast_to(N[:1], N.shape).copy()
    assert is_level(tensor(N, rows), 0)
    assert not is_level(tensor(N, rows), 1)
    assert not is_level(tensor(N, 0 * N), 0)
    rows[-1, -1] *= 1 + 1e-9
    assert not is_level(tensor(N, rows), 0)


def test_a_part_of_a_view_and_a_joined_one_keep_entries_together() -> None:
    known = tensor(N, 2 * N, drawn(120, 30), parameters=slopes(12, 10, seed=3))
    even = known.local % 2 == 0
    again = known.part(even).joined(known.part(~even))
    order = np.argsort(again.local)
    for name in ("local", "numerical", "slack", "parameters", "wrong", "right"):
        assert np.array_equal(getattr(again, name)[order], getattr(known, name)), name
