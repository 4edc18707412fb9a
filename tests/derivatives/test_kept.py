"""Ladders that are kept for pictures: those climbed, a few, and without a further evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastgc
from fastgc._derivatives.kept import KeptLadders
from fastgc._derivatives.ladder import Ladder


def ladder(height: float) -> Ladder:
    steps = 4.0 ** -np.arange(3)
    return Ladder(-steps, steps, -height * steps, height * steps, 0.0, 0 * steps)


def test_the_first_of_each_climb_are_kept_and_later_ones_take_their_place() -> None:
    kept = KeptLadders()
    kept.keep(np.arange(100), [ladder(1.0)] * 100)
    kept.keep(np.array([5, 200]), [ladder(2.0)] * 2)
    found = kept.among(np.array([200, 5, 31, 32, 99]))
    assert {number: each.central[0] for number, each in found.items()} == {0: 2.0, 1: 2.0, 2: 1.0}


def test_their_number_is_bounded() -> None:
    kept = KeptLadders()
    for begin in range(0, 10_000, 10):
        kept.keep(np.arange(begin, begin + 10), [ladder(1.0)] * 10)
    assert 0 < len(kept.among(np.arange(10_000))) < 600


def test_a_summary_shows_the_worst_entry_of_those_that_were_kept() -> None:
    w = np.linspace(1, 2, 40)
    wrong = 2 * w
    wrong[[4, 9]] = 0, 5
    report: Any = fastgc.check_gradients(lambda p: float(p @ p), wrong, w, samples="all")
    found = report.tensors["params"].ladder
    assert found.index == report.tensors["params"].worst.index
    np.testing.assert_allclose(found.central, 2 * w[found.index], rtol=1e-4)
    np.testing.assert_allclose(found.forward, 2 * w[found.index] + np.array(found.steps), rtol=1e-4)
    assert len(found.steps) == len(found.noise) == len(found.backward)


def test_where_no_entry_climbed_there_is_none() -> None:
    report: Any = fastgc.check_gradients(lambda p: float(p @ p), lambda p: 2 * p, np.ones(9), step=1e-5)
    ladder = report.tensors["params"].ladder
    assert ladder is None or len(ladder.steps) > 2
