"""Bounds: the loss is never evaluated outside, and at a bound only the slope inside counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from scipy.optimize import Bounds

import fastgc
from tests.support.jacobians import WIDE, layer, layer_jacobian


def clipped(p: np.ndarray) -> float:
    return float(np.sum(3 * np.clip(p, 0, None)))


@pytest.mark.parametrize(("slope", "verdict"), [(0.0, "fail"), (1.5, "fail"), (3.0, "pass")])
@pytest.mark.parametrize("bounds", [[(0, None)] * 3, Bounds(0, np.inf), {"params": (0.0, None)}, {"par*": (0, np.inf)}])
def test_a_loss_that_clips_at_a_bound_has_one_slope(slope: float, verdict: str, bounds: Any) -> None:
    report = fastgc.check_gradients(clipped, np.full(3, slope), np.zeros(3), bounds=bounds)
    assert report.verdict == verdict


def test_without_bounds_every_slope_between_is_right() -> None:
    assert fastgc.check_gradients(clipped, np.full(3, 1.5), np.zeros(3)).passed


class Watched:
    """A loss that remembers the least and the largest entry it was given, and has no value outside [0, 1]."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def __call__(self, p: np.ndarray) -> float:
        self.low, self.high = min(self.low, float(p.min())), max(self.high, float(p.max()))
        return float(np.sum(p**3 + np.sin(p)))

    @staticmethod
    def gradient(p: np.ndarray) -> np.ndarray:
        return 3 * p**2 + np.cos(p)


def boxed(size: int = 300) -> np.ndarray:
    x = np.random.default_rng(0).uniform(0, 1, size)
    x[:5], x[5:9], x[9] = 0, 1, 1e-12
    return x


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "all": {"samples": "all"},
    "points": {"points": 4},
    "forward": {"stencil": "forward"},
    "five-point": {"stencil": "five_point"},
    "in place": {"in_place": True},
    "no probes": {"probes": 0},
    "many probes": {"probes": 20},
    "budget": {"time_budget": 60.0},
    "native": {"precision": "native"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_loss_is_never_evaluated_outside(name: str) -> None:
    watched = Watched()
    report = fastgc.check_gradients(watched, watched.gradient, boxed(), bounds=Bounds(0, 1), **OPTIONS[name])
    assert report.passed, report
    assert 0 <= watched.low <= watched.high <= 1


def test_nor_at_earlier_parameters() -> None:
    watched, x = Watched(), boxed()
    report = fastgc.check_gradients(
        watched, watched.gradient(x[::-1]), x, bounds=Bounds(0, 1), previous=x[::-1].copy(), seed=1
    )
    assert report.verdict == "fail"
    assert 0 <= watched.low <= watched.high <= 1


@pytest.mark.parametrize("where", [0, 6, 9, 100])
def test_a_wrong_entry_is_found_at_a_bound_and_inside(where: int) -> None:
    watched, x = Watched(), boxed()
    gradient = watched.gradient(x)
    gradient[where] *= 1.01
    report = fastgc.check_gradients(watched, gradient, x, bounds=Bounds(0, 1))
    assert [entry.index for entry in report.tensors["params"].wrong_entries] == [(where,)]


def test_entries_that_probes_leave_out_are_counted_and_not_claimed() -> None:
    watched, x = Watched(), boxed(1000)
    x[200:400] = 0
    report = fastgc.check_gradients(watched, watched.gradient, x, bounds=Bounds(0, 1))
    probe = report.tensors["params"].probe
    assert probe is not None and probe.left_out >= 200
    assert report.passed and "all covered by probes" not in str(report)
    assert f"probes leave out {probe.left_out} entries next to their bounds" in str(report)
    free = fastgc.check_gradients(watched, watched.gradient, x)
    assert "all covered by probes" in str(free)


def test_a_compiled_loss_stays_inside() -> None:
    @numba.njit
    def loss(p: np.ndarray) -> float:
        total = 0.0
        for x in p:
            if x < 0:
                return np.inf
            total += x**3
        return total

    x = boxed(50)
    report = fastgc.check_gradients(loss, 3 * x**2, x, bounds=Bounds(0, np.inf), engine="numba")
    assert report.passed, report


@pytest.mark.parametrize("slack", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.01, "fail")])
def test_a_barrier_near_its_bound_is_decided(slack: float, factor: float, verdict: str) -> None:
    x = np.array([1 - slack, 0.5, -2.0])
    report = fastgc.check_gradients(lambda p: float(-np.sum(np.log(1 - p))), factor / (1 - x), x, bounds=Bounds(-9, 1))
    assert report.verdict == verdict, report


def named(p: dict[str, np.ndarray]) -> float:
    return float(np.sum(p["rate"] ** 2) + np.sum(p["w"] ** 2))


PARAMS = {"rate": np.array([0.5, 0.0]), "w": np.ones((2, 2))}


def test_bounds_of_some_tensors_leave_the_others_free() -> None:
    report = fastgc.check_gradients(
        named, lambda p: {k: 2 * v for k, v in p.items()}, PARAMS, bounds={"rate": (0, [1.0, 2.0])}
    )
    assert report.passed


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "crossed": ({"rate": (1, 0)}, ValueError, r"bounds: rate\[0\] has the lower bound 1.*upper one, 0"),
    "outside": ({"rate": (0.1, 1)}, ValueError, r"bounds: rate\[1\] is 0, outside its bounds \[0.1, 1\]"),
    "unknown": ({"speed": (0, 1)}, ValueError, "bounds has 'speed', which names no tensor"),
    "shape": ({"rate": (0, [1, 2, 3])}, ValueError, r"bounds\['rate'\] has shape \(3,\); it must broadcast to \(2,\)"),
    "no pair": ({"rate": 3}, TypeError, r"bounds\['rate'\] is 3; it must be a pair"),
    "text": ({"rate": ("a", 1)}, TypeError, r"bounds\['rate'\] is 'a'"),
    "few pairs": ([(0, 1)], ValueError, "bounds has 1 pairs; it must have one for each of the 6 entries"),
    "number": (3.0, TypeError, "bounds must be scipy.optimize.Bounds, a sequence"),
    "no pairs": ([0] * 6, TypeError, "pair 0 is 0"),
    "nan": ({"rate": (np.nan, 1)}, ValueError, r"bounds: rate\[0\] has the lower bound nan"),
    "lb": (Bounds([0, 0], [1, 1]), ValueError, r"bounds.lb has shape \(2,\); it must broadcast to \(6,\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(name: str) -> None:
    bounds, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        fastgc.check_gradients(named, lambda p: {k: 2 * v for k, v in p.items()}, PARAMS, bounds=bounds)


OUTSIDE: dict[str, Callable[[np.ndarray], float]] = {
    "raises": lambda p: float(np.sum(p)) if (p >= 0).all() else 1 / 0,
    "nan": lambda p: float(np.sum(p)) if (p >= 0).all() else np.nan,
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_loss_without_a_value_outside_needs_no_note(name: str) -> None:
    report = fastgc.check_gradients(OUTSIDE[name], np.ones(20), np.zeros(20), bounds=Bounds(0, 1))
    assert report.passed and not any("raised" in note for note in report.notes)


def test_the_noise_of_a_loss_is_seen_where_every_entry_is_at_a_bound() -> None:
    """A small value that is a sum of large terms: its own size says nothing of its round-off."""
    for output in range(0, 40, 2):
        report = fastgc.check_gradients(
            lambda x, k=output: layer(x)[k], lambda x, k=output: layer_jacobian(x)[k], WIDE,
            bounds={"params": (WIDE, None)}, samples=64, crosscheck=False,
        )  # fmt: skip
        assert report.verdict != "fail", str(report)
