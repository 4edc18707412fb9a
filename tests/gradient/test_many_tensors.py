"""Very many small tensors: what the check itself does grows in proportion to their number."""

from __future__ import annotations

import cProfile
import pstats
from typing import Any

import numba
import numpy as np
import pytest

import fastgc
from fastgc._verdicts import entries as entries_module
from tests.support.clock import Clock

Tensors = dict[str, np.ndarray]

# For each right tensor: 201 were counted; 393 before samples and directions were drawn for all tensors together, and
# summaries were made when asked for; and 968 before the arithmetic was done for all.
MOST_CALLS = 270
MOST_CALLS_OF_A_SMALL_CHECK = 7500  # 5,900 were counted, and 10,200 before SciPy was asked only for its number


def many(count: int, size: int = 3) -> Tensors:
    return {f"t{i}": np.linspace(1.0, 2.0, size) + i % 7 for i in range(count)}


def loss(p: Tensors) -> float:
    return float((np.concatenate(list(p.values())) ** 2).sum())


def slopes(p: Tensors) -> Tensors:
    return {name: 2 * value for name, value in p.items()}


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """What checks import, so that no count of calls holds it."""
    for factor in (1.0, 2.5):
        fastgc.check_gradients(loss, {name: factor * slope for name, slope in slopes(many(3)).items()}, many(3))


def calls(params: Any, loss: Any = loss, gradients: Any = slopes, **options: Any) -> int:
    """How many Python functions run in a check, without those of the loss."""
    profile = cProfile.Profile()
    profile.runcall(fastgc.check_gradients, loss, gradients, params, crosscheck=False, **options)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def of_right_tensors() -> tuple[int, int]:
    """The calls of 300 and of 600 right tensors, with two samples of each: the default is one more for the fewer."""
    return calls(many(300), samples=2), calls(many(600), samples=2)


def test_calls_grow_with_the_number_of_tensors(of_right_tensors: tuple[int, int]) -> None:
    few, several = of_right_tensors
    assert several <= 2.2 * few


def test_a_right_tensor_among_many_takes_few_calls(of_right_tensors: tuple[int, int]) -> None:
    few, several = of_right_tensors
    assert several - few <= 300 * MOST_CALLS


def test_a_small_check_takes_few_calls() -> None:
    """A check of a compiled loss of four tensors after others, with all that is done by default."""

    @numba.njit
    def network(p: Any, x: Any) -> float:
        return ((np.tanh(x @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"]) ** 2).sum()

    def gradients(p: Tensors, x: np.ndarray) -> Tensors:
        h = np.tanh(x @ p["W1"] + p["b1"])
        out = 2 * (h @ p["W2"] + p["b2"])
        back = (out @ p["W2"].T) * (1 - h * h)
        return {"W1": x.T @ back, "b1": back.sum(0), "W2": h.T @ out, "b2": out.sum(0)}

    rng = np.random.default_rng(0)
    shapes = {"W1": (20, 30), "b1": (30,), "W2": (30, 10), "b2": (10,)}
    params, args = {name: rng.normal(size=shape) / 5 for name, shape in shapes.items()}, (rng.normal(size=(4, 20)),)
    options: dict[str, Any] = {"args": args, "engine": "numba", "threads": 1}
    for _ in range(2):  # the first compiles and imports, and then BLAS libraries are looked for
        assert fastgc.check_gradients(network, gradients, params, **options).passed
    profile = cProfile.Profile()
    profile.runcall(fastgc.check_gradients, network, gradients, params, **options)
    assert pstats.Stats(profile).total_calls <= MOST_CALLS_OF_A_SMALL_CHECK  # type: ignore[attr-defined]


def test_calls_grow_with_the_number_of_wrong_tensors() -> None:
    def gradients(p: Tensors) -> Tensors:
        return {name: 2.5 * value for name, value in p.items()}

    few, several = (calls(many(count), gradients=gradients) for count in (60, 120))
    assert several <= 2.2 * few


def test_the_gradient_is_not_asked_for_each_wrong_tensor() -> None:
    asked = []

    def gradients(p: Tensors) -> Tensors:
        asked.append(0)
        return {name: 2.5 * value for name, value in p.items()}

    fastgc.check_gradients(loss, gradients, many(80))
    assert len(asked) < 40


def test_options_by_name_take_one_look_for_each_tensor() -> None:
    few, several = (
        calls(many(count), rtol=dict.fromkeys(many(count), 1e-4), samples=dict.fromkeys(many(count), 2))
        for count in (100, 200)
    )
    assert several <= 2.2 * few


def test_each_wrong_tensor_among_many_is_found() -> None:
    def gradients(p: Tensors) -> Tensors:
        return {name: value * (2.1 if name in ("t17", "t299") else 2.0) for name, value in p.items()}

    report = fastgc.check_gradients(loss, gradients, many(300))
    assert [name for name, tensor in report.tensors.items() if tensor.verdict == "fail"] == ["t17", "t299"]
    assert len(str(report).splitlines()) < 40


def test_small_tensors_are_measured_together_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    params = many(40, 5) | {"large": np.linspace(1.0, 2.0, 400)}
    together = fastgc.check_gradients(loss, slopes, params, samples="all")
    monkeypatch.setattr(entries_module, "_TOGETHER", 1)
    alone = fastgc.check_gradients(loss, slopes, params, samples="all")
    for name, tensor in together.tensors.items():
        for column, values in tensor.entries.columns.items():
            np.testing.assert_array_equal(values, alone.tensors[name].entries.columns[column])


def test_a_probe_names_a_hundred_tensors_that_share_its_directions() -> None:
    probe = fastgc.check_gradients(loss, slopes, many(400)).tensors["t5"].probe
    assert probe is not None and len(probe.shared_with) == 100
    assert "t5" not in probe.shared_with


def test_part_of_a_time_budget_is_left_for_the_report(clock: Clock) -> None:
    def slow(p: Tensors) -> float:
        clock.seconds += 1e-3
        return loss(p)

    report = fastgc.check_gradients(slow, slopes, many(1000), crosscheck=False, time_budget=1.0)
    assert 900 <= report.evaluations <= 950


def test_tensors_are_explained_until_the_time_is_over(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any) -> None:
        clock.seconds += 1.0

    def gradients(p: Tensors) -> Tensors:
        return {name: 2.5 * value for name, value in p.items()}

    monkeypatch.setattr("fastgc._diagnosis.explain.diagnose", slow)
    report = fastgc.check_gradients(loss, gradients, many(6), crosscheck=False, time_budget=2.5)
    assert report.notes == ("time_budget was over before 3 of 6 failing tensors were explained",)
    assert all(tensor.verdict == "fail" for tensor in report.tensors.values())
