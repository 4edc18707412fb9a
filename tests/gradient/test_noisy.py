"""A loss that gives another value when it is called again: a few entries show whether noise hides the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastgc

Array = np.ndarray
Params = dict[str, Array]

MATRIX = np.random.default_rng(5).normal(size=(30, 20))
PARAMS = {"a": np.ones(20), "b": np.full((40, 50), 0.5)}
HINT = "dropout? no seed set?"


def dropping_out(rate: float, shake: float = 0.0) -> Callable[[Params], float]:
    """A loss with dropout, or with a little noise on its value."""
    generator = np.random.default_rng(0)

    def loss(p: Params) -> float:
        kept = generator.random(30) >= rate
        value = float(((MATRIX @ p["a"]) ** 2 * kept).sum() + (p["b"] ** 2).sum() / 10)
        return value * (1 + shake * generator.normal())

    return loss


def gradients(p: Params) -> Params:
    return {"a": 2 * MATRIX.T @ (MATRIX @ p["a"]), "b": p["b"] / 5}


@pytest.mark.parametrize("options", [{}, {"samples": "all"}, {"samples": 100, "probes": 10}, {"points": 2}])
@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_dropout_is_undecided_after_a_few_entries_with_the_hint(rate: float, options: dict[str, Any]) -> None:
    report = fastgc.check_gradients(dropping_out(rate), gradients, PARAMS, **options)
    assert report.verdict == "undecided", str(report)
    assert report.evaluations <= 600 * report.points
    assert any(HINT in note for note in report.notes)
    assert any("noise hides the slopes of all 4 entries tried" in note for note in report.notes)
    assert all("noise" in tensor.reason for tensor in report.tensors.values())
    assert not any("time_budget" in note for note in report.notes)


def test_noise_that_hides_nothing_changes_nothing() -> None:
    report = fastgc.check_gradients(dropping_out(0.0, 1e-13), gradients, PARAMS, samples="all")
    assert report.passed and report.tensors["b"].checked == 2000, str(report)
    assert any(HINT in note for note in report.notes)


def test_a_clear_error_is_found_in_noise() -> None:
    def wrong(p: Params) -> Params:
        return {name: -slope for name, slope in gradients(p).items()}

    assert fastgc.check_gradients(dropping_out(0.0, 1e-8), wrong, PARAMS).verdict == "fail"
