"""Checks in limited time: what comes first, when they end, and what they say of what was not reached."""

from __future__ import annotations

import re
import timeit
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

import fastgc
from fastgc._evaluation.working_time import left_out, now, timed
from fastgc._parameters.layout import flatten_parameters
from fastgc._verdicts.time_budget import representative
from tests.support.clock import Clock

PARAMS = {"w": np.linspace(0.1, 2.0, 400).reshape(20, 20), "b": np.linspace(-1.0, 1.0, 40), "c": np.array(0.4)}


def total(p: Any) -> float:
    return float(sum(np.sin(value).sum() for value in p.values()))


@pytest.fixture
def slow(clock: Clock) -> Callable[[Any], float]:
    """The loss, at a millisecond."""

    def loss(p: Any) -> float:
        clock.seconds += 1e-3
        return total(p)

    return loss


def slopes(p: Any) -> Any:
    return {name: np.cos(value) for name, value in p.items()}


def check(loss: Any, gradients: Any = slopes, **options: Any) -> fastgc.GradientReport:
    return fastgc.check_gradients(loss, gradients, PARAMS, crosscheck=False, **options)


def test_a_check_ends_when_its_time_is_over(slow: Any) -> None:
    """The whole of it is some 900 evaluations; those that the time allows, and no more, are made."""
    report = check(slow, samples="all", time_budget=0.3)
    assert 290 <= report.evaluations <= 310
    assert report.verdict == "undecided"


def test_enough_time_changes_nothing() -> None:
    assert check(total, samples=10, time_budget=60.0).to_dict().keys() == check(total, samples=10).to_dict().keys()
    timed, free = check(total, samples=10, time_budget=60.0), check(total, samples=10)
    assert timed.passed and free.passed
    for name in PARAMS:
        assert timed.tensors[name].verdict == free.tensors[name].verdict
        assert timed.tensors[name].checked == free.tensors[name].checked
    assert not timed.notes


def test_what_was_not_reached_is_said_and_counted(slow: Any) -> None:
    report = check(slow, samples="all", time_budget=0.3)
    w = report.tensors["w"]
    assert w.verdict == "undecided"
    assert w.reason == f"not reached: {400 - w.checked} of 400 entries"
    assert any(
        note.startswith("time_budget was over; at this pace the whole check takes about") for note in report.notes
    )


def test_all_tensors_come_before_any_is_deep(slow: Any) -> None:
    report = check(slow, samples="all", time_budget=0.35)
    checked = {name: tensor.checked for name, tensor in report.tensors.items()}
    assert checked["c"] == 1 and checked["b"] >= 4
    assert abs(checked["w"] - checked["b"]) <= 1 or checked["b"] == 40


def test_no_time_at_all_leaves_everything_undecided(slow: Any) -> None:
    report = check(slow, time_budget=1e-6)
    assert {tensor.verdict for tensor in report.tensors.values()} == {"undecided"}
    assert report.tensors["w"].reason == "not reached: 32 of 32 entries and probes"
    assert report.evaluations < 10


@pytest.mark.parametrize(
    ("seconds", "budget", "calls"), [(1.0, 0.01, 1), (1.0, 0.99, 1), (0.1, 0.35, 4), (0.1, 1.0, 10)]
)
def test_no_evaluation_begins_after_the_end(clock: Clock, seconds: float, budget: float, calls: int) -> None:
    def loss(p: Any) -> float:
        clock.seconds += seconds
        return total(p)

    report = check(loss, time_budget=budget)
    assert report.evaluations == calls
    note = next(note for note in report.notes if note.startswith(f"time_budget={budget:g} was over before"))
    assert f"a call of the loss takes {seconds:.2g} s; in about" in note
    assert "s the check reaches a few entries of every tensor" in note


def test_what_would_reach_every_tensor_does(slow: Any) -> None:
    note = next(note for note in check(slow, time_budget=1e-3).notes if "reaches a few entries" in note)
    few = float(note.split("in about ")[1].split(" s ")[0])
    report = check(slow, time_budget=1.2 * few)
    assert all(tensor.checked for tensor in report.tensors.values())


def test_compilation_is_told_and_takes_no_time_of_the_budget() -> None:
    @numba.njit
    def loss(p: Any) -> float:
        return np.sin(p["w"]).sum() + np.sin(p["b"]).sum() + np.sin(p["c"][()])

    report = check(loss, time_budget=60.0, engine="numba")
    assert report.passed
    assert any(re.fullmatch(r"compiled in [\d.e+]+ s, which time_budget leaves out", note) for note in report.notes)
    assert not any("compiled in" in note for note in check(loss, time_budget=60.0, engine="numba").notes)


def test_the_clock_stands_still_inside_what_is_left_out(clock: Clock) -> None:
    def worked() -> str:
        clock.seconds += 2.0
        return "done"

    begin = now()
    with left_out(True):
        clock.seconds += 5.0
        result, spent = timed(worked)
        with left_out(True):
            clock.seconds += 1.0
    assert now() - begin == pytest.approx(2.0, abs=1e-3)
    assert (result, spent) == ("done", pytest.approx(2.0, abs=1e-3))


def test_an_error_that_was_reached_fails(slow: Any) -> None:
    wrong = slopes(PARAMS)
    wrong["b"][:] *= 2
    report = check(slow, gradients=wrong, samples="all", time_budget=0.5)
    assert report.verdict == report.tensors["b"].verdict == "fail"
    assert report.tensors["w"].verdict == "undecided"


def test_a_wrong_entry_is_searched_before_more_entries_are_sampled(slow: Any) -> None:
    wrong = slopes(PARAMS)
    wrong["w"][7, 3] += 0.5
    report = check(slow, gradients=wrong, samples=390, time_budget=0.8)
    assert [entry.index for entry in report.tensors["w"].wrong_entries] == [(7, 3)]
    assert "not reached" not in report.tensors["w"].reason or report.tensors["w"].checked < 400


def test_a_suspicion_that_could_not_be_followed_is_undecided(slow: Any) -> None:
    wrong = slopes(PARAMS)
    wrong["w"][7, 3] += 0.5
    verdicts = {
        check(slow, gradients=wrong, samples=0, time_budget=t).tensors["w"].verdict for t in (0.03, 0.06, 0.09, 0.12)
    }
    assert verdicts <= {"undecided", "fail"}


def test_tensors_probed_in_time_stay_so_when_it_ends_among_many_probes(clock: Clock) -> None:
    calls = 0

    def stops(p: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 60:  # of about 20 for the noise and 14 for the probes of a tensor
            clock.seconds += 2.0
        return total(p)

    report = check(stops, samples=0, probes=20, time_budget=2.0)
    assert report.tensors["w"].probe is not None and len(report.tensors["w"].probe.residuals) == 3
    assert report.tensors["w"].probe.miss_probability < 1e-4
    assert 60 <= report.evaluations < 65


def test_the_compiled_loop_ends_too() -> None:
    """In a hundred times what one evaluation takes here, two threads reach some two hundred of the nine hundred."""

    @numba.njit
    def loss(p: Any) -> float:
        value = 0.0
        for _ in range(500):
            for name in (p["w"].ravel(), p["b"]):
                value += np.sin(name).sum()
        return value / 500 + np.sin(p["c"][()])

    record = fastgc.record(PARAMS)
    loss(record)
    seconds = min(timeit.repeat(lambda: loss(record), number=1, repeat=5))
    report = check(loss, samples="all", time_budget=100 * seconds, engine="numba", threads=2)
    assert report.verdict == "undecided"
    assert report.tensors["w"].checked < 400


def test_the_share_of_unseen_entries_counts_those_reached(slow: Any) -> None:
    report = check(slow, samples=300, time_budget=0.3)
    w = report.tensors["w"]
    assert 0 < w.checked < 300
    assert w.unseen_share > 1 - 0.05 ** (1 / w.checked)


def test_several_points_share_the_time(slow: Any) -> None:
    report = check(slow, samples="all", points=3, time_budget=0.6)
    assert report.points == 3
    assert report.evaluations <= 620


def test_an_order_whose_beginnings_are_fair_samples() -> None:
    layout, _ = flatten_parameters(PARAMS)
    positions = np.arange(441)
    first, rest = representative(layout, positions, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, rest])), positions)
    assert np.bincount(layout.tensor_of(first)).tolist() == [4, 4, 1]
    assert set(np.bincount(layout.tensor_of(rest[:20]), minlength=3).tolist()) == {0, 10}


@pytest.mark.parametrize("budget", [0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number(budget: float) -> None:
    with pytest.raises(ValueError, match=r"time_budget is .*; it must be finite and above 0"):
        check(total, time_budget=budget)
