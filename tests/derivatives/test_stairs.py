"""Losses that round their parameters: small steps say nothing there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

import fastgc
from fastgc._derivatives.ladder import Ladder
from fastgc._derivatives.stairs import on_stairs, stands_on_stairs, suspicion

Array = np.ndarray
STEPS = 0.125 * 4.0 ** -np.arange(12)


def ladder(loss: Callable[[Array], Array], noise: float = 1e-16) -> Ladder:
    return Ladder(-STEPS, STEPS, loss(-STEPS), loss(STEPS), float(loss(np.zeros(1))[0]), np.full(STEPS.size, noise))


def stairs(t: Array) -> Array:
    return np.sin(1 + np.round(t / 1e-5) * 1e-5)


# --- the test on one ladder ---


def seen_as_stairs(loss: Callable[[Array], Array], noise: float = 1e-16) -> bool:
    found = suspicion(ladder(loss, noise))
    return found is not None and stands_on_stairs(loss(found.trial))


def test_a_rounded_argument_is_seen() -> None:
    assert seen_as_stairs(stairs)
    assert seen_as_stairs(lambda t: np.sin(1 + np.floor(t / 1e-5) * 1e-5))
    assert seen_as_stairs(lambda t: np.sin(1 + (1 + t).astype(np.float32)))
    assert seen_as_stairs(lambda t: np.sin((1 + t).astype(np.float16).astype(float)))


@pytest.mark.parametrize(
    "loss",
    [
        np.sin,
        lambda t: 1 + t**2,
        lambda t: 1 + np.abs(t) ** 1.5,
        lambda t: 1 + t**4,
        lambda t: 1e8 + np.sin(t),
        lambda t: np.ones_like(t),
        lambda t: np.maximum(t - 1e-5, 0),  # switched off here
        lambda t: 1 + np.maximum(t - 1e-5, 0) ** 2,
        lambda t: 1 + np.clip(np.abs(t) - 1e-4, 0, 1),
        lambda t: np.where(t > 1e-4, 1.0, 0.0),  # one jump
        lambda t: np.clip(t - 1e-4, 0, 1e-5),  # a short ramp
        lambda t: np.where(t > 1e-6, np.nan, t),
    ],
)
def test_what_is_flat_for_another_reason_is_not(loss: Callable[[Array], Array]) -> None:
    assert not seen_as_stairs(loss)


def test_stairs_within_the_noise_are_no_concern() -> None:
    assert suspicion(ladder(stairs, noise=1e-5)) is None


def test_steps_that_tie_are_left_out_and_a_stair_counts_as_noise() -> None:
    rough = ladder(stairs)
    found = suspicion(rough)
    assert found is not None
    kept = on_stairs(rough, found.first)
    assert kept.above[-1] >= 0.5e-5 and kept.above.size == found.first
    rounding = np.abs(np.sin(1 + STEPS) - stairs(STEPS))[: found.first]
    assert (kept.noise >= rounding).all() and (kept.noise <= 1e-4).all()


# --- checks ---

RNG = np.random.default_rng(0)
POINTS = {
    "integers": np.arange(8.0),
    "halves": np.arange(8.0) / 2,
    "powers of two": 2.0 ** np.arange(-4, 4),
    "float32 weights": RNG.normal(size=8).astype(np.float32).astype(float),
    "float16 weights": RNG.normal(size=8).astype(np.float16).astype(float),
    "any": RNG.normal(size=8),
    "zeros among": np.where(np.arange(8) % 2, RNG.normal(size=8), 0.0),
    "negative": -np.arange(8.0) - 0.1,
}
ROUNDING = {
    "values in float32": lambda x: float(np.sum(np.sin(x.astype(np.float32)).astype(float))),
    "argument in float32": lambda x: float(np.sum(np.sin(x.astype(np.float32).astype(float)))),
    "argument in float16": lambda x: float(np.sum(np.sin(x.astype(np.float16).astype(float)))),
    "all in float32": lambda x: float(np.sum(np.sin(x.astype(np.float32)), dtype=np.float32)),
    "three digits": lambda x: float(np.sum(np.sin(np.round(x, 3)))),
    "rounded down": lambda x: float(np.sum(np.sin(np.floor(x * 1024) / 1024))),
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("rounding", ROUNDING)
def test_a_right_gradient_never_fails_where_the_loss_rounds_its_parameters(point: str, rounding: str) -> None:
    report = fastgc.check_gradients(ROUNDING[rounding], np.cos, POINTS[point])
    assert report.verdict != "fail", str(report)
    if rounding == "argument in float32":
        assert report.passed, str(report)


@pytest.mark.parametrize(
    ("rounding", "point"), [(r, p) for i, r in enumerate(ROUNDING) for j, p in enumerate(POINTS) if (i + j) % 2]
)
def test_a_gradient_twice_too_large_never_passes_there(point: str, rounding: str) -> None:
    report = fastgc.check_gradients(ROUNDING[rounding], lambda x: 2 * np.cos(x), POINTS[point])
    assert report.verdict != "pass", str(report)
    if "float32" in rounding:
        assert report.verdict == "fail", str(report)


@pytest.mark.parametrize("point", POINTS)
def test_jacobians_never_fail_there_either(point: str) -> None:
    def outputs(x: Array) -> Array:
        return np.sin(x.astype(np.float32).astype(float))

    report = fastgc.check_jacobian(outputs, lambda x: np.diag(np.cos(x)), POINTS[point])
    assert report.verdict != "fail", str(report)
    report = fastgc.check_jacobian(outputs, lambda x: 2 * np.diag(np.cos(x)), POINTS[point])
    assert report.verdict == "fail", str(report)


def network(params: dict[str, Array], rounded: set[str], dtype: type, gradient: bool = False) -> object:
    """A tanh network that sees some of its parameters in fewer bits."""
    generator = np.random.default_rng(7)
    x, y = generator.normal(size=(16, 5)), generator.normal(size=(16, 1))
    p = {name: each.astype(dtype).astype(float) if name in rounded else each for name, each in params.items()}
    hidden = np.tanh(x @ p["W1"] + p["b1"])
    off = hidden @ p["W2"] + p["b2"] - y
    if not gradient:
        return float(np.sum(off * off) / 2)
    back = (off @ p["W2"].T) * (1 - hidden**2)
    return {"W1": x.T @ back, "b1": back.sum(axis=0), "W2": hidden.T @ off, "b2": off.sum(axis=0)}


def weights(seed: int, *, zero_biases: bool, on_grid: bool) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    shapes = {"W1": (5, 2), "b1": (2,), "W2": (2, 1), "b2": (1,)}
    params = {name: generator.normal(size=shape) for name, shape in shapes.items()}
    if zero_biases:
        params |= {"b1": np.zeros(2), "b2": np.zeros(1)}
    return {name: each.astype(np.float32).astype(float) for name, each in params.items()} if on_grid else params


@pytest.mark.parametrize("rounded", ["W1 W2 b1 b2", "W1", "W2 b2", "b1"])
@pytest.mark.parametrize(("zero_biases", "on_grid"), [(True, False), (False, True)])
def test_networks_that_see_their_parameters_in_float32(rounded: str, zero_biases: bool, on_grid: bool) -> None:
    right, wrong = Counter[str](), Counter[str]()
    for seed in range(3):
        params = weights(seed, zero_biases=zero_biases, on_grid=on_grid)
        loss = lambda p: network(p, set(rounded.split()), np.float32)  # noqa: E731
        slopes = network(params, set(rounded.split()), np.float32, gradient=True)
        right[fastgc.check_gradients(loss, slopes, params, crosscheck=False).verdict] += 1
        doubled = {**slopes, "W1": 2 * slopes["W1"]}  # type: ignore[dict-item]
        wrong[fastgc.check_gradients(loss, doubled, params, crosscheck=False).verdict] += 1
    assert right["fail"] == 0 and right["pass"] >= 2, right
    assert wrong == {"fail": 3}


@pytest.mark.parametrize("zero_biases", [True, False])
def test_networks_that_see_their_parameters_in_float16_are_not_accused(zero_biases: bool) -> None:
    for seed in range(5):
        params = weights(seed, zero_biases=zero_biases, on_grid=False)
        loss = lambda p: network(p, set(p), np.float16)  # noqa: E731
        slopes = network(params, set(params), np.float16, gradient=True)
        assert fastgc.check_gradients(loss, slopes, params, crosscheck=False).verdict != "fail"


def test_a_unit_that_is_switched_off_still_fails_with_a_slope() -> None:
    def loss(x: Array) -> float:
        return float(1 + np.maximum(x - 1e-3, 0).sum())

    report = fastgc.check_gradients(loss, lambda x: np.ones(3), np.array([0.0, 0.0005, 1.0]))
    assert report.verdict == "fail"
    assert {entry.index for entry in report.tensors["params"].wrong_entries} == {(0,), (1,)}
    assert fastgc.check_gradients(loss, lambda x: (x > 1e-3) * 1.0, np.array([0.0, 0.0005, 1.0])).passed


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_a_loss_that_rounds_sums_of_its_parameters_is_not_followed_below_its_stairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(4, 6))
    params = {"W": generator.normal(size=(6, 6)) * 0.4, "V": generator.normal(size=(6, 3)) * 0.4}

    def loss(p: dict[str, Array]) -> float:
        return float(np.sum(np.tanh((x @ p["W"]).astype(np.float32)).astype(float) @ p["V"]))

    def gradients(p: dict[str, Array], factor: float = 1.0) -> dict[str, Array]:
        hidden = np.tanh(x @ p["W"])
        back = p["V"].sum(axis=1) * (1 - hidden**2)
        return {"W": factor * x.T @ back, "V": hidden.T @ np.ones((4, 3))}

    report = fastgc.check_gradients(loss, gradients, params, samples="all", crosscheck=False)
    assert report.verdict != "fail", str(report)
    wrong = fastgc.check_gradients(loss, gradients(params, 1.5), params, samples="all", crosscheck=False)
    assert wrong.tensors["W"].verdict == "fail"
