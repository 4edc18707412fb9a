"""Which kind of bug is named, and where the numbers establish none."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgc

SIZE = 60


def slopes(size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Draw slopes of either sign, none near zero."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1, 1], size) * rng.uniform(0.5, 2, size)


def summary(right: np.ndarray, analytic: np.ndarray, **options: Any) -> Any:
    """Check a smooth loss of these slopes."""

    def loss(p: np.ndarray) -> float:
        return float(np.sum(right * (np.sin(p))))

    x = np.zeros(right.shape)
    return fastgc.check_gradients(loss, analytic, x, **options).tensors["params"]


@pytest.mark.parametrize("factor", [2.0, 0.5, -1.0, 30.0, 1 / 30, 3.0, -2.0, 1.001, 4096.0, 1 / 4096, 1e6])
@pytest.mark.parametrize("samples", [32, "all"])
def test_a_constant_factor_is_named(factor: float, samples: Any) -> None:
    found = summary(slopes(), factor * slopes(), samples=samples).diagnosis
    assert found.kind == "factor"
    assert found.factor == pytest.approx(factor, rel=1e-5)
    assert f"factor of {factor:.4g}" in found.message
    assert "(analytic / numerical)" in found.message


@settings(max_examples=40, deadline=None)
@given(factor=st.floats(1.01, 1e4), sign=st.sampled_from([-1, 1]), power=st.integers(-8, 8))
def test_any_factor_is_named_at_any_scale(factor: float, sign: int, power: int) -> None:
    right = slopes() * 10.0**power
    found = summary(right, sign * factor * right).diagnosis
    assert found.factor == pytest.approx(sign * factor, rel=1e-4)


def test_the_text_of_the_report_carries_it() -> None:
    report = fastgc.check_gradients(lambda p: float(p @ p), lambda p: 6 * p, slopes())
    assert str(report).splitlines()[2].endswith("FAIL  consistent with a constant factor of 3 (analytic / numerical)")


def test_zeros_on_both_sides_do_not_hide_the_factor() -> None:
    right = np.where(np.arange(SIZE) % 2, slopes(), 0.0)
    assert summary(right, 2 * right, samples="all").diagnosis.factor == pytest.approx(2, rel=1e-6)


def test_only_the_tensor_with_the_factor_is_named() -> None:
    params = {"a": slopes(), "b": slopes(seed=1), "c": slopes(seed=2)}

    def loss(p: dict[str, np.ndarray]) -> float:
        return float(sum(v @ v for v in p.values()))

    right = {name: 2 * p for name, p in params.items()}
    report = fastgc.check_gradients(loss, right | {"b": -right["b"]}, params)
    factors = {name: tensor.diagnosis and tensor.diagnosis.factor for name, tensor in report.tensors.items()}
    assert factors == {"a": None, "b": pytest.approx(-1, rel=1e-6), "c": None}


# --- where none is established ---


def test_a_gradient_that_agrees_has_no_bug() -> None:
    assert summary(slopes(), slopes()).diagnosis is None


def test_a_drifting_factor_is_not_a_constant_one() -> None:
    drifting = slopes() * np.linspace(1.9, 2.1, SIZE)
    found = summary(slopes(), drifting, samples="all")
    assert found.verdict == "fail"
    assert found.diagnosis is None


@pytest.mark.parametrize("spread", [1e-3, 1e-2])
def test_nor_is_one_that_drifts_a_little(spread: float) -> None:
    drifting = 2 * slopes() * np.linspace(1 - spread, 1 + spread, SIZE)
    assert summary(slopes(), drifting, samples="all").diagnosis is None


def test_one_wrong_entry_is_no_factor() -> None:
    wrong = slopes()
    wrong[7] *= 2
    found = summary(slopes(), wrong, samples="all")
    assert found.verdict == "fail"
    assert found.diagnosis is None


def test_a_factor_in_half_of_the_entries_is_none() -> None:
    wrong = slopes() * np.where(np.arange(SIZE) < SIZE // 2, 2, 1)
    assert summary(slopes(), wrong, samples="all").diagnosis is None


def test_unrelated_numbers_are_no_factor() -> None:
    assert summary(slopes(), slopes(seed=5), samples="all").diagnosis is None


def test_an_added_constant_is_no_factor() -> None:
    assert summary(slopes(), slopes() + 1, samples="all").diagnosis is None


def test_entries_that_are_not_finite_do_not_raise() -> None:
    wrong = 2 * slopes()
    wrong[3] = np.nan
    found = summary(slopes(), wrong, samples="all")
    assert found.verdict == "fail"
    assert found.diagnosis is None or found.diagnosis.factor == pytest.approx(2, rel=1e-6)
    assert summary(slopes(), np.full(SIZE, np.nan)).diagnosis is None


# --- few entries ---


@pytest.mark.parametrize("samples", [1, 2, 3, 7])
def test_a_few_entries_of_many_establish_nothing(samples: int) -> None:
    found = summary(slopes(), 2 * slopes(), samples=samples)
    assert found.verdict == "fail"
    assert found.diagnosis is None


def test_eight_entries_establish_a_factor() -> None:
    assert summary(slopes(), 2 * slopes(), samples=8).diagnosis.factor == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_all_entries_of_a_small_tensor_establish_a_factor(size: int) -> None:
    assert summary(slopes(size), 2 * slopes(size)).diagnosis.factor == pytest.approx(2, rel=1e-6)


def test_a_few_clear_entries_among_zeros_of_a_large_tensor_establish_nothing() -> None:
    right = np.where(np.arange(SIZE) < 3, slopes(), 0.0)
    assert summary(right, 2 * right, samples="all").diagnosis is None


def test_a_diagnosis_is_frozen() -> None:
    found = summary(slopes(), 2 * slopes()).diagnosis
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.factor = 1.0
    assert isinstance(found, fastgc.Diagnosis)
