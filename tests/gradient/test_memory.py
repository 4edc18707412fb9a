"""The memory that a check takes beyond what the caller holds, in copies of the parameters."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import fastgc
from fastgc._evaluation import vectorized

N = 1_000_000
NEGLIGIBLE = 0.5  # copies: the signs of a direction are an eighth, blocks of some MiB and the report the rest


def loss(x: Any) -> Any:
    return np.maximum(0.0, np.einsum("...i,...i->...", x, x))  # not analytic: else there were a complex copy, too


def twice(x: Any) -> Any:
    return x * 2  # exact, in float32 too


GIVEN, CALLED = 2 * np.linspace(0.5, 2.0, N), twice
# What the caller gives, options, and the copies that the docstring states: with those of a gradient that is called.
CASES: dict[str, tuple[Any, dict[str, Any], float]] = {
    "given": (GIVEN, {}, 1),
    "called": (CALLED, {}, 3),
    "points": (CALLED, {"points": 2}, 4),
    "in place": (GIVEN, {"in_place": True}, 2),  # one of them restores small arrays
    "in place, points": (CALLED, {"in_place": True, "points": 2}, 3),
    "vectorized": (GIVEN, {"vectorized": True}, 3),
}


def peak(gradients: Any, params: Any, **options: Any) -> float:
    """The peak of traced memory of a check, in sizes of the parameters."""
    fastgc.check_gradients(loss, twice, np.ones(3), engine="python", crosscheck=False)  # whatever is imported
    tracemalloc.start()
    try:
        report = fastgc.check_gradients(
            loss, gradients, params, engine="python", crosscheck=False, samples=2, probes=1, **options
        )
        return tracemalloc.get_traced_memory()[1] / params.nbytes if report.verdict != "fail" else np.inf
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_check_takes_the_copies_that_it_states(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectorized, "_BLOCK_BYTES", 0)  # else blocks of 32 MiB: many rows
    gradients, options, copies = CASES[name]
    assert peak(gradients, np.linspace(0.5, 2.0, N), **options) < copies + NEGLIGIBLE


@pytest.mark.slow
def test_strided_parameters_take_one_copy() -> None:
    assert peak(GIVEN, np.linspace(0.5, 2.0, N).repeat(2)[::2]) < 1 + NEGLIGIBLE


@pytest.mark.parametrize(("engine", "precision"), [("python", "double"), ("python", "native"), ("numba", "native")])
def test_strided_parameters_give_the_report_of_contiguous_ones(engine: Any, precision: Any) -> None:
    import numba

    jitted = numba.njit(lambda p: np.sum(p["w"] * p["w"]))
    function = jitted if engine == "numba" else lambda p: np.sum(p["w"] * p["w"])
    w = np.linspace(0.5, 2.0, 200_001).astype(np.float32 if precision == "native" else np.float64)  # several blocks
    held = w.repeat(2)[::2], w
    reports = [
        fastgc.check_gradients(
            function, lambda p: {"w": 2 * p["w"]}, {"w": each}, engine=engine, precision=precision, samples=3
        ).to_dict()
        for each in held
    ]
    assert repr({**reports[0], "seconds": 0}) == repr({**reports[1], "seconds": 0})
    assert np.array_equal(*held)
