"""Values from compiled loops against values from one call after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
import threadpoolctl

import fastgc
from fastgc._evaluation import compiled as _compiled
from fastgc._evaluation.compiled import NumbaEvaluator
from fastgc._evaluation.evaluator import OutOfTime, Place, Ray, silent
from fastgc._evaluation.kernels import CompiledLoss
from fastgc._evaluation.python import PythonEvaluator
from fastgc._parameters.layout import flatten_parameters
from fastgc._parameters.point import Point
from fastgc._parameters.record import store
from tests.support.layouts import Array

PARAMS = {"a": np.linspace(-1, 2, 40).reshape(5, 8), "b": np.array(0.5), "c": np.linspace(1, 2, 700)}


@numba.njit
def smooth(params: Any) -> float:
    return np.sum(np.sin(params["a"])) * params["b"][()] + np.sum(params["c"] ** 2)


@numba.njit
def picky(params: Any) -> float:
    if params["c"][3] > 1.1:
        params["c"][3] / 0.0
    return np.sum(params["c"])


@contextmanager
def evaluators(loss: Any, threads: int, kinds: str = "ddd") -> Iterator[tuple[PythonEvaluator, NumbaEvaluator]]:
    layout, given = flatten_parameters(PARAMS)
    leaves = [leaf.astype(kind) for leaf, kind in zip(given, kinds, strict=True)]
    dtypes = [np.dtype(kind) for kind in kinds]
    own, stored = store(layout, leaves, dtypes), store(layout, leaves, dtypes)
    plain = PythonEvaluator(loss, own.record(), (), layout, own.leaves, leaves)
    direct = PythonEvaluator(loss, stored.record(), (), layout, stored.leaves, leaves)
    point = Point(layout, stored.leaves, layout.rebuild(stored.leaves), stored, leaves, ())
    address = CompiledLoss.of(loss, (stored.record(),))
    compiled = NumbaEvaluator(direct, address, point, threads, 1e-6, ExitStack())
    try:
        yield plain, compiled
        for each in compiled._stores:
            pairs = zip(each.leaves, own.leaves, strict=True)
            assert all(leaf.tobytes() == other.tobytes() for leaf, other in pairs), "every copy is as it was"
    finally:
        compiled.close()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kinds", ["ddd", "dfd", "fdf"])
def test_values_are_those_of_single_calls(threads: int, kinds: str) -> None:
    positions = np.random.default_rng(0).permutation(741)
    with evaluators(smooth, threads, kinds) as (plain, compiled):
        start = plain.entries(positions)
        displaced = plain.rounded(positions, np.stack([start - 0.25, start, start + 0.5], axis=1))
        expected = plain.values(positions, displaced, silent)
        told: list[int] = []
        np.testing.assert_array_equal(compiled.values(positions, displaced, told.append), expected)
        np.testing.assert_array_equal(compiled.values(positions, np.asfortranarray(displaced), silent), expected)
        assert sum(told) == positions.size
        assert compiled.evaluations == 2 * displaced.size


@pytest.mark.parametrize("few", [0, 1 << 17])  # entries whose directions are bundled
@pytest.mark.parametrize("kinds", ["ddd", "dfd", "fff"])
@pytest.mark.parametrize("threads", [1, 3])
def test_values_along_directions_are_those_of_single_calls(
    threads: int, kinds: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compiled, "_BUNDLED_ENTRIES", few)
    generator = np.random.default_rng(1)

    def weights(count: int) -> Any:
        return generator.integers(-126, 127, count, np.int8)

    directions = [
        [Ray(0, 0, weights(40), 0.3), Ray(1, 0, weights(1), 2.0), Ray(2, 5, weights(600), 0.01)],
        *([Ray(2, 0, weights(700), 0.5)] for _ in range(20)),
        [Ray(2, 0, weights(700), 0.25)],
        [Ray(1, 0, weights(1), 1.0)],
        *([Ray(0, 3, weights(9), 1.0), Ray(2, 1, weights(2), 0.5)] for _ in range(2)),
    ]
    distances = np.array([-0.5, 0.125, 1e-6])
    with evaluators(smooth, threads, kinds) as (plain, compiled):
        expected = plain.along_rays(directions, distances)
        assert expected.shape == (25, 3)
        np.testing.assert_array_equal(compiled.along_rays(directions, distances), expected)
        assert compiled.evaluations == 75
        np.testing.assert_array_equal(compiled.along_rays(directions, distances.repeat(2)[::2]), expected)


@pytest.mark.parametrize("kinds", ["ddd", "dfd"])
def test_rows_of_several_tensors_are_those_of_single_calls(kinds: str) -> None:
    positions = np.array([0, 7, 40, 41, 700])
    with evaluators(smooth, 2, kinds) as (plain, compiled):
        rows = plain.rounded(positions, np.random.default_rng(2).standard_normal((5, 6))).T
        np.testing.assert_array_equal(compiled.along(positions, rows), plain.along(positions, rows))


@pytest.mark.parametrize("few", [0, 1 << 17])
def test_nothing_is_evaluated_when_the_time_is_over(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "_BUNDLED_ENTRIES", few)
    positions, ray = np.array([0, 50]), Ray(2, 0, np.ones(700, np.int8), 1.0)
    with evaluators(smooth, 2) as (_, compiled):
        compiled._direct.deadline = 0.0
        for evaluate in (
            lambda: compiled.values(positions, np.ones((2, 2)), silent),
            lambda: compiled.along(positions, np.ones((3, 2))),
            lambda: compiled.along_rays([[ray]], np.array([0.5, 1.0])),
        ):
            with pytest.raises(OutOfTime):
                evaluate()
        assert compiled.evaluations == 0


@numba.njit
def raises_far_out(params: Any) -> float:
    if params["c"][3] > 1.1:
        raise KeyError("far out")
    return np.sum(params["c"])


@pytest.mark.parametrize("few", [0, 1 << 17])
@pytest.mark.parametrize("threads", [1, 2])
def test_where_a_loss_raises_along_a_direction_it_is_nan(
    threads: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compiled, "_BUNDLED_ENTRIES", few)
    ray = Ray(2, 0, np.ones(700, np.int8), 1.0)
    with evaluators(raises_far_out, threads) as (_, compiled):
        values = compiled.along_rays([[ray]] * 30, np.array([-1.0, 1.0]))
        assert np.isfinite(values[:, 0]).all() and np.isnan(values[:, 1]).all()
        raised = compiled.raised
        assert (raised.count, raised.kinds, raised.answered) == (30, ("KeyError",), True)
        assert raised.place == Place("1 scales along a random direction in c", single=False)


@pytest.mark.parametrize("threads", [1, 2])
def test_values_outside_the_domain_along_many_directions_are_nan(threads: int) -> None:
    directions = [[Ray(2, 0, np.full(700, sign, np.int8), 1.0)] for sign in [1, -1] * 10]
    with evaluators(picky, threads) as (plain, compiled):
        values = compiled.along_rays(directions, np.array([-1.0, 1.0, 0.0]))
        np.testing.assert_array_equal(values, plain.along_rays(directions, np.array([-1.0, 1.0, 0.0])))
        assert np.isnan(values).sum() == 20


def test_an_empty_tensor_stands_in_nobodys_way() -> None:
    @numba.njit
    def loss(p: Any) -> float:
        return np.sum(p["none"]) + np.sum(p["w"] ** 2)

    params = {"none": np.empty((0, 3)), "w": np.arange(1.0, 9.0)}
    gradients = {"none": np.empty((0, 3)), "w": 2 * params["w"]}
    for samples in ("all", 0):
        report = fastgc.check_gradients(loss, gradients, params, engine="numba", samples=samples, crosscheck=False)
        assert report.passed


@pytest.mark.parametrize("threads", [1, 2])
def test_a_value_outside_the_domain_is_nan_and_its_neighbours_are_not(threads: int) -> None:
    positions = np.arange(741)
    with evaluators(picky, threads) as (plain, compiled):
        start = plain.entries(positions)
        displaced = np.stack([start + 1.0, start - 1.0], axis=1)
        values = compiled.values(positions, displaced, silent)
        np.testing.assert_array_equal(values, plain.values(positions, displaced, silent))
        assert np.isnan(values).sum() == 1 and np.isnan(values[41 + 3, 0])
        ray = Ray(2, 0, np.ones(700, np.int8), 1.0)
        assert np.isnan(compiled.along_rays([[ray]], np.array([-1.0, 1.0]))).tolist() == [[False, True]]


def test_blas_has_one_thread_from_the_first_call_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def blas_threads() -> set[int]:
        return {each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"}

    seen: list[set[int]] = []

    def slopes(p: Any) -> dict[str, Array]:
        seen.append(blas_threads())
        return {"a": np.cos(p["a"]) * p["b"], "b": np.array(np.sin(p["a"]).sum()), "c": 2 * p["c"]}

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        for engine in ("numba", "python"):
            assert fastgc.check_gradients(smooth, slopes, PARAMS, engine=engine, crosscheck=False).passed
            assert blas_threads() == before
        assert seen == [{1}, before]
        monkeypatch.setattr("fastgc._evaluation.compiled.NumbaEvaluator.__init__", None)
        with pytest.raises(TypeError):
            fastgc.check_gradients(smooth, slopes, PARAMS, engine="numba")
        assert blas_threads() == before


def test_a_raising_loss_leaves_every_copy_as_it_was() -> None:
    with evaluators(fails_beside, 2) as (plain, compiled):
        positions = np.arange(741)
        displaced: Array = plain.entries(positions)[:, None] + 1.0
        values = compiled.values(positions, displaced, silent)
        assert np.flatnonzero(np.isnan(values[:, 0])).tolist() == [641]
        assert compiled.raised.place == Place(f"c[600] = {displaced[641, 0]:.6g}", single=True)
        np.testing.assert_array_equal(values, plain.values(positions, displaced, silent))
        assert plain.raised == replace(compiled.raised, first=plain.raised.first)


@numba.njit
def fails_beside(params: Any) -> float:
    if params["c"][600] > 2.5:
        raise TypeError("too far")
    return np.sum(params["c"])
