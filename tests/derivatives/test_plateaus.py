"""Solvers whose values jump: the slope is the solution's, and not that of the last iteration's stretch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

import fastgc
from fastgc._derivatives.ladder import Ladder, derivative_from
from fastgc._derivatives.plateaus import contradicted, jump, jumps_within

Array = np.ndarray


def halved(a: float, count: int = 24, width: float = 0.0) -> float:
    """The root of y**3 + y = a by so many halvings of [0, a], or of [0, width]."""
    low, high = 0.0, width or a
    for _ in range(count):
        middle = (low + high) / 2
        if middle**3 + middle < a:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def slope_of_the_root(a: float) -> float:
    return 1 / (3 * halved(a, 80) ** 2 + 1)


PLACES = [0.7, 0.25, 1.0, 1.4609502266180034, 1.9, 2.8]


@pytest.mark.parametrize("count", [20, 28, 40])
@pytest.mark.parametrize("width", [0.0, 4.0])
@pytest.mark.parametrize("a", PLACES)
def test_a_root_by_halvings_has_the_slope_of_the_root(a: float, width: float, count: int) -> None:
    right = slope_of_the_root(a)

    def loss(p: Array) -> float:
        return halved(float(p[0]), count, width)

    def verdict(slope: float) -> str:
        return fastgc.check_gradients(loss, np.array([slope]), np.array([a])).verdict

    assert verdict(right) != "fail"
    assert verdict(2 * right) != "pass" and verdict(-right) != "pass"
    jacobian = fastgc.check_jacobian(lambda p: np.array([loss(p)]), np.array([[right]]), np.array([a]))
    assert jacobian.verdict != "fail"


def test_the_example_is_decided() -> None:
    """0.773 is a root's fraction of its bracket; its slope is 0.532."""

    def loss(p: Array) -> float:
        return halved(float(p[0]))

    assert fastgc.check_gradients(loss, np.array([0.5321]), np.array([0.7]), rtol=1e-3).passed
    for wrong in (1.06, -0.532, 0.48, 0.0):
        assert fastgc.check_gradients(loss, np.array([wrong]), np.array([0.7])).verdict == "fail"


# --- a part in float32, beside smooth terms ---


def rounded(values: Array) -> Array:
    return values.astype(np.float32).astype(float)


PARTLY: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Callable[[Array], Array]], float]]] = {
    "sin beside": (lambda a: 3 * np.cos(3 * a) + 2 * a, lambda a, cast: float(np.sum(cast(np.sin(3 * a)) + a**2))),
    "tanh beside": (
        lambda a: 1 / np.cosh(a) ** 2 + np.cos(a),
        lambda a, cast: float(np.sum(cast(np.tanh(a))) + np.sum(np.sin(a))),
    ),
    "squares of rectified": (
        lambda a: 2 * np.maximum(a, 0),
        lambda a, cast: float(np.sum(np.maximum(cast(a), 0) ** 2)),
    ),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", PARTLY)
def test_the_slope_is_not_that_between_the_edges_of_a_rounded_part(name: str, seed: int) -> None:
    slope, f = PARTLY[name]
    a = np.random.default_rng(seed).normal(size=24) * 0.4

    def verdict(gradient: Array) -> str:
        return fastgc.check_gradients(lambda p: f(p, rounded), gradient, a, samples="all", crosscheck=False).verdict

    right = slope(a)
    found = [verdict(gradient) for gradient in (right, 1.5 * right, -right, 1.05 * right)]
    assert found[0] != "fail" and found[1:] == ["fail"] * 3, found


def test_rows_of_a_rounded_layer() -> None:
    """Many rows have edges so near to each other that only steps of 1e-10 lie between them."""
    rng = np.random.default_rng(0)
    x, a, b = rng.normal(size=(50, 6)), rng.normal(size=(6, 6)) * 0.4, rng.normal(size=(6, 3)) * 0.4

    def loss(p: Array) -> float:
        return float(np.sum(np.maximum(rounded(x @ p), 0) ** 2 @ b))

    right = x.T @ (2 * np.maximum(x @ a, 0) * b.sum(axis=1))
    assert fastgc.check_gradients(loss, right, a, samples="all", crosscheck=False).verdict != "fail"
    assert fastgc.check_gradients(loss, 1.5 * right, a, samples="all", crosscheck=False).verdict == "fail"


# --- kinks near the point are none ---

X = 1.0
CONTINUOUS: dict[str, tuple[Callable[[float], float], float]] = {
    "dead zone": (lambda x: max(x - X - 1e-6, 0) - max(X - 1e-6 - x, 0) + 0.5 * x, 0.5),
    "steep zone": (lambda x: 3 * x - 2 * (max(x - X - 1e-5, 0) - max(X - 1e-5 - x, 0)), 3.0),
    "two kinks on one side": (lambda x: np.sin(x) + 3 * abs(x - X - 1e-6) - 3 * abs(x - X - 3e-6), np.cos(1.0)),
    "kinks of other distances": (lambda x: x + 2 * max(x - X - 1e-6, 0) - 2 * max(X - 7e-5 - x, 0), 1.0),
}


def ladder_of(f: Callable[[float], float]) -> Ladder:
    steps = 0.125 * 4.0 ** -np.arange(12.0)
    above, below = (X + steps) - X, (X - steps) - X
    plus, minus = (np.array([f(float(X + step)) for step in side]) for side in (above, below))
    return Ladder(below, above, minus, plus, f(X), np.full(12, 4e-16))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_continuous_function_keeps_the_slope_at_the_point(name: str) -> None:
    f, slope = CONTINUOUS[name]
    ladder = ladder_of(f)
    found = derivative_from(ladder)
    assert found.value == pytest.approx(slope, rel=1e-5)
    ends = contradicted(ladder, found)
    assert ends is None or jump(lambda step: f(X + step), ladder, found.value, *ends) == 0.0
    report = fastgc.check_gradients(lambda p: f(float(p[0])), np.array([slope]), np.array([X]))
    assert report.verdict != "fail", str(report)


@pytest.mark.parametrize("width", [3e-6, 1e-5])
@pytest.mark.parametrize("height", [0.3, -1.0])
def test_regular_jumps_are_seen_and_measured(width: float, height: float) -> None:
    def sawtooth(x: float) -> float:
        return 2 * x + height * width * (((x - X) / width + 0.4) % 1.0)

    ladder = ladder_of(sawtooth)
    found = derivative_from(ladder)
    assert found.value == pytest.approx(2 + height, rel=1e-5)
    ends = contradicted(ladder, found)
    assert ends is not None
    assert jump(lambda step: sawtooth(X + step), ladder, found.value, *ends) == pytest.approx(
        abs(height) * width, rel=0.1
    )


@pytest.mark.parametrize("f", [np.sin, np.exp, lambda x: np.sin(100 * x), lambda x: np.cos(3000 * x) + x, abs])
def test_smooth_functions_and_a_kink_at_the_point_are_not_contradicted(f: Callable[[float], float]) -> None:
    ladder = ladder_of(lambda x: float(f(x)))
    assert contradicted(ladder, derivative_from(ladder)) is None


def test_one_jump_or_a_zone_nearer_than_all_steps_are_not_many_jumps() -> None:
    for f in (
        lambda x: 2 * x + 1e-7 * (x > X + 1e-9),
        lambda x: 2 * x + 3 * (max(x - X - 1e-9, 0) - max(X - 1e-9 - x, 0)),
        lambda x: math.sqrt(abs(x - X)),
        lambda x: (x - X) * math.log(abs(x - X) or 1.0),
    ):
        assert jumps_within(ladder_of(f)) == 0.0


def test_many_jumps_of_both_directions_are_measured() -> None:
    noise = np.random.default_rng(0).uniform(-1e-8, 1e-8, 1000)
    ladder = ladder_of(lambda x: 2 * x + x**2 + noise[int(1e10 * x) % 1000])
    assert 1e-9 < jumps_within(ladder) < 8e-8
