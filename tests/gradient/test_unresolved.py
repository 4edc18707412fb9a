"""Tensors whose probes are too uncertain: more of their entries are checked one by one, and nothing else is claimed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import fastgc


def problem(size: int) -> tuple[Callable[[np.ndarray], float], np.ndarray, np.ndarray]:
    """A sum of |w|, half of whose entries are zeros, where every direction meets kinks."""
    w = np.random.default_rng(size).standard_normal(size)
    w[::2] = 0.0
    return (lambda p: float(np.abs(p).sum())), np.sign(w), w


@pytest.mark.parametrize("seed", range(14))
def test_a_wrong_entry_of_eighty_is_found(seed: int) -> None:
    loss, gradient, w = problem(80)
    wrong = gradient.copy()
    wrong[1 + 2 * np.random.default_rng([seed, 1]).integers(40)] *= 2
    assert fastgc.check_gradients(loss, wrong, w, seed=seed).verdict == "fail"


def test_a_right_gradient_is_checked_entry_by_entry() -> None:
    loss, gradient, w = problem(80)
    report = fastgc.check_gradients(loss, gradient, w)
    assert report.verdict != "fail"
    assert report.tensors["params"].checked == 80


def test_of_a_large_tensor_more_is_sampled_and_no_coverage_is_claimed() -> None:
    loss, gradient, w = problem(3000)
    report = fastgc.check_gradients(loss, gradient, w)
    tensor = report.tensors["params"]
    assert report.verdict != "fail"
    assert 500 < tensor.checked < 600 and tensor.unseen_share < 0.01
    assert tensor.probe is not None and not tensor.probe.resolved
    assert "covered by probes" not in str(report)
    assert "probes are too uncertain here" in tensor.reason


def test_noise_that_hides_the_entries_too_is_not_measured_further() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=300)
    report = fastgc.check_gradients(lambda p: float(np.sum(p**2)) + rng.normal(), 2 * w, w)
    assert report.verdict == "undecided"
    assert report.tensors["params"].checked <= 32


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_wrong_signs_outside_the_samples_are_found(share: float) -> None:
    w = np.random.default_rng(1).normal(size=400)
    gradient = 0.5 * np.sign(w) / np.sqrt(np.abs(w))
    for seed in range(2):
        wrong = gradient.copy()
        wrong[np.random.default_rng(seed).choice(400, int(400 * share), replace=False)] *= -1
        found = fastgc.check_gradients(lambda p: float(np.sum(np.abs(p) ** 0.5)), wrong, w, seed=seed)
        assert found.verdict == "fail"


def test_several_tensors_are_sampled_further() -> None:
    loss, gradient, w = problem(80)

    def total(p: dict[str, np.ndarray]) -> float:
        return sum(map(loss, p.values()))

    params = {name: w.copy() for name in "abc"}
    report = fastgc.check_gradients(total, dict.fromkeys("abc", gradient), params)
    assert report.verdict != "fail" and [each.checked for each in report.tensors.values()] == [80] * 3
    wrong = gradient.copy()
    wrong[41] *= 2
    assert fastgc.check_gradients(total, {"a": gradient, "b": gradient, "c": wrong}, params).verdict == "fail"


@pytest.mark.parametrize("factor", [1.0, 1.05])
def test_a_float32_gradient_of_a_large_tensor_costs_no_search_for_its_rounding(factor: float) -> None:
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(2, 30_000))
    gradient = (w * np.cos(x)).astype(np.float32)
    gradient[15_000] *= np.float32(factor)
    report = fastgc.check_gradients(lambda p: float(w @ np.sin(p)), gradient, x, crosscheck=False)
    assert report.verdict == ("pass" if factor == 1 else "fail")
    assert [entry.index for entry in report.tensors["params"].wrong_entries] == ([] if factor == 1 else [(15_000,)])
    assert report.evaluations < 2_000
