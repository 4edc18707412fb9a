"""The backward of one operation against slopes of its outputs, along directions in all its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fastgc._gradient.operation import OperationAtPoint, least_alike, operation_slopes
from fastgc._parameters.arrays import Floats
from fastgc._reports.operations import Slope

Function = Callable[[Floats], float]


class Counted:
    """A function of several numbers, one argument each, and its claimed gradient."""

    def __init__(self, function: Function, x: Sequence[float], gradient: Callable[[Floats], Sequence[float]]) -> None:
        self.function, self.gradient, self.x = function, gradient, np.array(x, np.float64)
        self.evaluations = 0

    def at(self, x: Floats, eps: float = 2.0**-52, rtol: float = 1e-5) -> OperationAtPoint:
        base, gradient, scales = self.function(x), np.array(self.gradient(x), np.float64), np.abs(self.x)
        scales = np.where(scales == 0, 1.0, scales)

        def along(some: Sequence[int], distances: Floats) -> Floats:
            self.evaluations += distances.size
            chosen = np.isin(np.arange(x.size), list(some))
            return np.array([self.function(x + h * scales * chosen) - base for h in distances])

        return OperationAtPoint(
            [f"input {k}" for k in range(x.size)], gradient * scales, np.abs(gradient * scales), abs(base), eps, rtol,
            along, lambda: self.at(x + 2.0**-7 * scales),
        )  # fmt: skip

    def slopes(self, **options: Any) -> list[Slope]:
        return operation_slopes(self.at(self.x), **options)


def test_a_right_operation_takes_two_evaluations() -> None:
    counted = Counted(lambda x: float(np.sin(x).prod()), [0.5, 1.0], lambda x: np.sin(x).prod() / np.tan(x))
    (slope,) = counted.slopes()
    assert slope.verdict == "pass" and slope.argument == "" and counted.evaluations == 2


@pytest.mark.parametrize("wrong", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_the_wrong_arguments_are_named(wrong: list[int]) -> None:
    def gradient(x: Floats) -> Floats:
        return np.cos(x) * np.where(np.isin(np.arange(3), wrong), 2.0, 1.0)

    counted = Counted(lambda x: float(np.sin(x).sum()), [0.5, 1.0, 1.2], gradient)
    slopes = counted.slopes()
    assert [slope.argument for slope in slopes] == [f"input {k}" for k in wrong]
    assert all(slope.verdict == "fail" and abs(slope.factor - 2) < 1e-8 for slope in slopes)


def test_a_value_between_two_slopes_is_right_and_one_outside_is_wrong() -> None:
    verdicts = []
    for value in (0.0, 0.5, 1.0, 1.5):
        (slope,) = Counted(lambda x: float(np.maximum(x, 0).sum()), [0.0], lambda x, value=value: [value]).slopes()
        verdicts.append(slope.verdict)
    assert verdicts == ["pass", "pass", "pass", "fail"]


def test_kinks_that_coincide_are_asked_again_beside_them() -> None:
    def function(x: Floats) -> float:
        return float(np.maximum(x[0], 0) + 3 * np.maximum(-x[0], 0))  # its slopes are 1 and -3; by convention 0 + 0

    def right(x: Floats) -> Floats:
        return np.array([float(x[0] > 0) - 3 * float(x[0] < 0)])

    (slope,) = Counted(function, [0.0], right).slopes()
    assert slope.verdict == "pass"
    outside = Counted(function, [0.0], lambda x: right(x) + 5 * (x == 0))
    (slope,) = outside.slopes()
    assert slope.verdict == "pass" and slope.reason == "kink"
    (slope,) = Counted(function, [0.0], lambda x: right(x) + 5).slopes()
    assert slope.verdict == "fail"


def test_outputs_that_stand_still_agree_with_zero_and_with_nothing_else() -> None:
    assert Counted(lambda x: 3.0, [1.0], lambda x: [0.0]).slopes()[0].verdict == "pass"
    assert Counted(lambda x: 3.0, [1.0], lambda x: [1.0]).slopes()[0].verdict == "fail"


def test_numbers_with_an_offset_are_displaced_by_less() -> None:
    function: Function = lambda x: float(np.sin(x[0] - 1e6))  # noqa: E731
    x = [1e6 + 0.5]
    assert Counted(function, x, lambda x: [np.cos(x[0] - 1e6)]).slopes()[0].verdict == "pass"
    assert Counted(function, x, lambda x: [3 * np.cos(x[0] - 1e6)]).slopes()[0].verdict == "fail"


def test_noise_and_stairs_accuse_nothing() -> None:
    rng = np.random.default_rng(0)
    noisy = Counted(lambda x: float(np.sin(x[0])) + 1e-3 * rng.standard_normal(), [0.5], lambda x: [np.cos(x[0])])
    assert noisy.slopes()[0].verdict != "fail"
    single: Function = lambda x: float(np.float32(np.sin(x[0])))  # noqa: E731
    assert Counted(single, [0.5], lambda x: [np.cos(x[0])]).slopes()[0].verdict != "fail"
    assert Counted(lambda x: float(np.round(x[0])), [0.3], lambda x: [0.0]).slopes()[0].verdict == "pass"
    assert Counted(lambda x: float("nan"), [0.3], lambda x: [1.0]).slopes()[0].verdict == "undecided"


def test_small_differences_count_where_they_are_asked_for() -> None:
    slightly = Counted(lambda x: float(np.sin(x[0])), [0.5], lambda x: [np.cos(x[0]) * (1 + 1e-7)])
    assert slightly.slopes()[0].verdict == "pass"
    assert slightly.slopes(strictly=True)[0].verdict == "fail"
    right = Counted(lambda x: float(np.sin(x[0])), [0.5], lambda x: [np.cos(x[0])])
    assert right.slopes(strictly=True)[0].verdict == "pass"


def test_the_least_alike_come_first() -> None:
    slopes = {k: [Slope("", 1.0 + k, 1.0, 0.0, "pass")] for k in range(12)} | {12: []}
    assert least_alike(slopes) == list(range(11, 3, -1))
