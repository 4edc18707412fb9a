"""What is plainly wrong in a Jacobian climbs no ladder, and no right Jacobian is taken for it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastgc import JacobianReport, check_jacobian
from tests.support.jacobians import KINDS, POINT, WIDE, N, band, band_jacobian, by_kind, layer_jacobian

Floats = NDArray[np.float64]


def wrong(how: str, matrix: Floats) -> Floats:
    noise: Floats = np.random.default_rng(5).normal(size=matrix.shape) * np.abs(matrix).max()
    kinds: dict[str, Floats] = {
        "sign": -matrix,
        "factor": 1.5 * matrix,
        "noise": matrix + noise,
        "nan": np.nan * matrix,
    }
    return kinds[how]


@cache
def right_one(kind: str, columns: Any) -> JacobianReport:
    return by_kind(kind, layer_jacobian, WIDE, columns=columns)


@pytest.mark.parametrize("how", ["sign", "factor", "noise", "nan"])
@pytest.mark.parametrize(("kind", "columns"), [*((kind, None) for kind in KINDS), ("array", "all")])
def test_a_wholly_wrong_jacobian_takes_half_as_many_evaluations_again(kind: str, how: str, columns: Any) -> None:
    right = right_one(kind, columns)
    report = by_kind(kind, lambda x: wrong(how, layer_jacobian(x)), WIDE, columns=columns)
    assert (right.verdict, report.verdict) == ("pass", "fail")
    assert len(report.wrong_entries) >= 0.9 * report.checked
    assert report.evaluations <= 1.5 * right.evaluations + 80  # the worst climbs a ladder, which pictures show


@pytest.mark.parametrize("options", [{"step": 1e-5}, {"stencil": "five_point"}, {"stencil": "forward"}])
def test_so_it_does_by_other_steps_and_formulas(options: Any) -> None:
    right = by_kind("array", layer_jacobian, WIDE, columns="all", **options)
    report = by_kind("array", lambda x: -layer_jacobian(x), WIDE, columns="all", **options)
    assert (right.verdict, report.verdict) == ("pass", "fail")
    assert report.evaluations <= 1.5 * right.evaluations + 80


def test_columns_that_share_evaluations_are_told_in_parts() -> None:
    right = band_jacobian(POINT)
    report = check_jacobian(band, -right, POINT, sparsity=right)
    assert report.verdict == "fail"
    assert len(report.wrong_entries) == right.nnz
    assert report.evaluations < 200 < N


def test_a_missing_entry_is_still_found_where_the_rest_is_plainly_wrong() -> None:
    """Declared sparsity that lacks an entry: its output moves with the group of another column."""
    right = band_jacobian(POINT).tocsr()
    right[17, 16] = 0.0
    right.eliminate_zeros()
    report = check_jacobian(band, right, POINT, sparsity=right)
    assert report.verdict == "fail"
    assert (17, 16) in {entry.index for entry in report.wrong_entries}


# --- right ones ---


def shrunk(z: Floats, width: float) -> Floats:
    """Kinks on both sides, between which the slope is 0: at steps beyond them it looks like a smooth function."""
    return np.sign(z) * np.maximum(np.abs(z) - width, 0.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("distance", [1e-9, 1e-8, 1e-7])
@pytest.mark.parametrize("family", ["abs", "shrunk", "clipped", "rectified"])
def test_kinks_nearer_than_the_first_step_confirm_nothing(family: str, distance: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    m, n = int(generator.integers(1, 10)), int(generator.integers(1, 24))
    weights, others, x = generator.normal(size=(m, n)), generator.normal(size=(m, n)), generator.normal(size=n)
    z = distance * generator.choice([-1.0, 1.0], n)
    families: dict[str, tuple[Any, Floats]] = {
        "abs": (lambda y: np.abs(y - x + z), np.sign(z)),
        "shrunk": (lambda y: shrunk(y - x, distance), np.zeros(n)),
        "clipped": (lambda y: np.clip(y, x - distance, x + distance), np.ones(n)),
        "rectified": (lambda y: np.maximum(y - x + z, 0.0), (z > 0).astype(np.float64)),
    }
    pieces, slopes = families[family]
    matrix = weights * slopes + others * np.cos(x)
    report = check_jacobian(lambda y: weights @ pieces(y) + others @ np.sin(y), matrix, x, columns="all", probes=0)
    assert len(report.wrong_entries) <= 0.2 * report.checked, str(report)
    assert report.evaluations > 20 * n  # they climbed ladders


# --- outputs that no input moves ---


def test_outputs_that_are_off_pass_without_ladders() -> None:
    generator = np.random.default_rng(0)
    weights, x = generator.normal(size=(60, 300)) / 17, generator.normal(size=300)
    right = (weights @ x > 0)[:, None] * weights
    report = check_jacobian(lambda y: np.maximum(weights @ y, 0.0), right, x, columns="all")
    assert report.passed, str(report)
    assert report.evaluations < 3 * x.size
    shifted = right.copy()
    shifted[np.flatnonzero(weights @ x < 0)[3], 7] = 0.01
    assert check_jacobian(lambda y: np.maximum(weights @ y, 0.0), shifted, x, columns="all").verdict == "fail"


def test_slopes_that_rounding_hides_are_not_taken_for_zero() -> None:
    x = np.random.default_rng(0).normal(size=8)
    report = check_jacobian(lambda y: np.array([1e15 + y.sum(), y.sum()]), np.array([np.zeros(8), np.ones(8)]), x)
    assert report.verdict != "pass", str(report)
