"""Jitted losses that others wrote: skglm's data fits and tslearn's soft-DTW, right and with two planted bugs each."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

import fastgc

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(30, 6)), RNG.normal(size=6)
LABELS = np.sign(RNG.normal(size=30))


def imported(name: str) -> Any:
    """The module; the test is skipped, with the reason, where its package is missing. Its warnings are its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name.partition(".")[0], reason=f"{name} is not installed")
        return importlib.import_module(name)


# --- skglm: the data fits of generalised linear models, jitted classes ---


@numba.njit
def value(w: Any, X: Any, y: Any, datafit: Any) -> Any:
    return datafit.value(y, w, X @ w)


@numba.njit
def gradient(w: Any, X: Any, y: Any, datafit: Any) -> Any:
    return datafit.gradient(X, y, X @ w)


@pytest.fixture(scope="module")
def datafit() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled: Callable[[Any], Any] = imported("skglm.utils.jit_compilation").compiled_clone
        return compiled(imported("skglm.datafits").Logistic())


@pytest.mark.parametrize("engine", ["auto", "numba"])
def test_a_data_fit_of_skglm_passes(datafit: Any, engine: Any) -> None:
    assert fastgc.check_gradients(value, gradient, W, args=(X, LABELS, datafit), engine=engine).passed


BUGS: dict[str, Callable[[Any], Any]] = {
    "sign": lambda g: -g,
    "factor": lambda g: len(LABELS) * g,  # a mean taken for a sum
}


@pytest.mark.parametrize("kind", BUGS)
def test_planted_bugs_in_a_data_fit_are_named(datafit: Any, kind: str) -> None:
    def wrong(w: Any, X: Any, y: Any, datafit: Any) -> Any:
        return BUGS[kind](gradient(w, X, y, datafit))

    report = fastgc.check_gradients(value, wrong, W, args=(X, LABELS, datafit))
    assert report.verdict == "fail"
    assert report.tensors["params"].diagnosis is not None
    assert report.tensors["params"].diagnosis.kind == kind


# --- tslearn: soft dynamic time warping ---

SERIES, OTHER, GAMMA = RNG.normal(size=(7, 2)), RNG.normal(size=(5, 2)), 0.8


def warped(series: Any, change: Callable[[Any], Any] = lambda aligned: aligned) -> tuple[float, Any]:
    """The distance of two series, and its gradient from the soft alignment, which may be changed."""
    variants = imported("tslearn.metrics.softdtw_variants")
    distances = variants.SquaredEuclidean(series, OTHER)
    found = variants.SoftDTW(distances, gamma=GAMMA)
    return found.compute(), distances.jacobian_product(change(found.grad()))


def test_soft_dtw_of_tslearn_passes() -> None:
    imported("tslearn")
    report = fastgc.check_gradients(warped, True, SERIES)
    assert report.passed


@pytest.mark.parametrize(
    "change",
    [lambda aligned: np.where(aligned == aligned.max(), 0, aligned), lambda aligned: aligned[::-1].copy()],
    ids=["a path that is left out", "series in reverse"],
)
def test_planted_bugs_in_soft_dtw_fail(change: Any) -> None:
    imported("tslearn")
    report = fastgc.check_gradients(lambda series: warped(series)[0], lambda series: warped(series, change)[1], SERIES)
    assert report.verdict == "fail"
    assert report.tensors["params"].wrong_entries
