"""Which entries are checked one by one: strata in every tensor, reproducible, none twice, exactly as many as asked."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgc
from fastgc._parameters.layout import flatten_parameters
from fastgc._parameters.sampling import Selection, plan_samples

Tensors = dict[str, np.ndarray]


def chosen(gradients: Tensors, samples: Any = 32, seed: int = 0) -> dict[str, list[int]]:
    """Check a linear loss with these gradients, and return which entries of each tensor were checked, in C order."""
    params = {name: np.ones(g.shape) for name, g in gradients.items()}

    def loss(p: Tensors) -> float:
        return float(sum(np.vdot(p[name], np.where(np.isfinite(g), g, 1.0)) for name, g in gradients.items()))

    report = fastgc.check_gradients(loss, gradients, params, samples=samples, seed=seed, crosscheck=False)
    return {
        name: [int(np.ravel_multi_index(entry.index, summary.shape)) for entry in summary.entries]
        for name, summary in report.tensors.items()
    }


def planned(gradient: np.ndarray, count: int, seed: int = 0, name: str = "w") -> np.ndarray:
    """Plan the samples of one tensor."""
    layout, _ = flatten_parameters({name: gradient})
    (local,) = plan_samples(Selection(layout, (min(count, gradient.size),)), [gradient.reshape(-1)], seed).local
    assert local is not None
    return local


@pytest.fixture
def gradients() -> Tensors:
    rng = np.random.default_rng(0)
    return {"a": rng.normal(size=(20, 30)), "b": rng.normal(size=7), "c": rng.normal(size=(4, 100)), "d": np.array(2.0)}


# --- how many ---


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 32, 33, 599, 600, 10**9])
def test_counts_are_exact_in_every_tensor(gradients: Tensors, samples: int) -> None:
    found = chosen(gradients, samples)
    assert {name: len(indices) for name, indices in found.items()} == {
        name: min(samples, g.size) for name, g in gradients.items()
    }


def test_all_takes_every_entry_in_order(gradients: Tensors) -> None:
    assert chosen(gradients, "all") == {name: list(range(g.size)) for name, g in gradients.items()}


def test_numbers_by_name_and_by_pattern(gradients: Tensors) -> None:
    found = chosen(gradients, {"*": 5, "a": "all", "c": 3})
    assert {name: len(indices) for name, indices in found.items()} == {"a": 600, "b": 5, "c": 3, "d": 1}


def test_what_a_mapping_does_not_name_gets_the_default(gradients: Tensors) -> None:
    found = chosen(gradients, {"b": 2})
    assert {name: len(indices) for name, indices in found.items()} == {"a": 32, "b": 2, "c": 32, "d": 1}


def test_an_exact_name_wins_and_a_later_pattern_too(gradients: Tensors) -> None:
    assert len(chosen(gradients, {"a": 3, "*": 9})["a"]) == 3
    assert len(chosen(gradients, {"?": 4, "*": 9})["c"]) == 9
    assert len(chosen(gradients, {"*": 9, "?": 4})["c"]) == 4


def test_small_tensors_keep_their_floor_beside_a_large_one() -> None:
    sizes = {"large": 5_000, **{f"bias{i}": i for i in range(1, 40)}}
    found = chosen({name: np.ones(size) for name, size in sizes.items()})
    assert all(len(found[name]) == min(32, size) for name, size in sizes.items())


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 300),
    count=st.integers(1, 320),
    zeros=st.floats(0, 1),
    ties=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_none_twice_none_outside_and_never_fewer(size: int, count: int, zeros: float, ties: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gradient = np.where(rng.random(size) < zeros, 0.0, 1.0 if ties else rng.normal(size=size))
    found = planned(gradient, count, seed)
    assert found.dtype == np.int64
    assert found.size == np.unique(found).size == min(count, size)
    assert found.min() >= 0
    assert found.max() < size


# --- which ---


@pytest.mark.parametrize("samples", [8, 32, 100])
def test_first_and_last_and_largest_are_among_them(samples: int) -> None:
    for seed in range(5):
        gradient = np.random.default_rng(seed).normal(size=(30, 40))
        found = chosen({"w": gradient}, samples, seed)["w"]
        assert {0, gradient.size - 1, int(np.abs(gradient).argmax())} <= set(found)


def test_several_of_the_largest_are_among_them() -> None:
    gradient = np.full(5000, 1e-3)
    gradient[[17, 1234, 4321]] = [5.0, -7.0, 6.0]
    assert {17, 1234, 4321} <= set(chosen({"w": gradient})["w"])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_entry_that_is_not_finite_counts_as_the_largest(value: float) -> None:
    gradient = np.random.default_rng(0).normal(size=(100, 50))
    gradient[61, 7] = value
    assert 61 * 50 + 7 in chosen({"w": gradient})["w"]


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_one_entry_that_is_not_finite_fails_a_large_tensor(value: float) -> None:
    right = np.random.default_rng(0).normal(size=5000)
    wrong = right.copy()
    wrong[1234] = value
    report = fastgc.check_gradients(lambda p: float(p @ right), wrong, np.ones(5000))
    assert report.verdict == "fail"
    assert report.tensors["params"].worst.index == (1234,)


def test_exact_zeros_are_among_them() -> None:
    gradient = np.random.default_rng(0).normal(size=5000)
    gradient[[77, 3456]] = 0.0
    assert {77, 3456} <= set(chosen({"w": gradient})["w"])


def test_a_few_of_many_zeros_are_enough() -> None:
    gradient = np.zeros(5000)
    gradient[:2500] = np.random.default_rng(0).normal(size=2500)
    found = np.array(chosen({"w": gradient})["w"])
    assert 1 <= np.count_nonzero(gradient[found] == 0) <= 28
    assert np.count_nonzero(gradient[found]) >= 4


@pytest.mark.parametrize("samples", [1, 2, 4, 8, 32])
def test_at_least_half_are_drawn_at_random(samples: int) -> None:
    gradient = np.arange(1.0, 10_001)
    common = set.intersection(*(set(chosen({"w": gradient}, samples, seed)["w"]) for seed in range(6)))
    assert len(common) <= samples // 2


def test_every_entry_is_drawn_sooner_or_later() -> None:
    gradient = np.ones(60)
    seen = {index for seed in range(100) for index in planned(gradient, 12, seed).tolist()}
    assert seen == set(range(60))


def test_draws_are_spread_evenly() -> None:
    """Each of the 98 inner entries is drawn about 1000 * 22 / 98 times; six standard deviations are allowed."""
    gradient = np.arange(1.0, 101)
    counts = sum(np.bincount(planned(gradient, 32, seed), minlength=100) for seed in range(1000))
    inner = counts[(counts < 1000) & (np.arange(100) < 90)]
    expected = inner.mean()
    assert inner.size >= 80
    assert np.abs(inner - expected).max() < 6 * np.sqrt(expected)


# --- reproducible ---


def test_a_seed_fixes_the_choice(gradients: Tensors) -> None:
    assert chosen(gradients, 20, seed=5) == chosen(gradients, 20, seed=5)
    assert chosen(gradients, 20, seed=5)["a"] != chosen(gradients, 20, seed=6)["a"]


def test_the_choice_in_a_tensor_does_not_depend_on_the_others(gradients: Tensors) -> None:
    together = chosen(gradients, 20)
    for name, gradient in gradients.items():
        assert chosen({name: gradient}, 20)[name] == together[name]
    backwards = dict(reversed(gradients.items()))
    assert chosen(backwards, 20) == together
    assert chosen(gradients, {"*": 20, "a": 500})["c"] == together["c"]


def test_tensors_of_one_size_get_choices_of_their_own() -> None:
    found = chosen({"a": np.ones(1000), "b": np.ones(1000)}, 20)
    assert found["a"] != found["b"]


def test_the_choice_depends_on_neither_engine_nor_formula() -> None:
    gradient, params = np.arange(1.0, 201), np.ones(200)

    def loss(p: Any) -> float:
        total = 0.0
        for i in range(p.size):
            total += (i + 1.0) * p[i]
        return total

    indices = [
        [entry.index for entry in report.tensors["params"].entries]
        for report in (
            fastgc.check_gradients(loss, gradient, params),
            fastgc.check_gradients(loss, gradient, params, engine="numba"),
            fastgc.check_gradients(loss, gradient, params, stencil="forward"),
        )
    ]
    assert indices[0] == indices[1] == indices[2]


# --- large arrays ---


@pytest.mark.parametrize(("count", "zeros"), [(32, False), (32, True), (20_000, True), (200_000, False)])
def test_a_large_tensor_is_sampled_without_another_array_of_its_size(count: int, zeros: bool) -> None:
    gradient = np.zeros(6_000_000) if zeros else np.arange(1.0, 6_000_001)
    tracemalloc.start()
    try:
        found = planned(gradient, count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.size == count
    assert {0, gradient.size - 1} <= set(found[[0, -1]].tolist())
    assert peak < 0.75 * gradient.nbytes
