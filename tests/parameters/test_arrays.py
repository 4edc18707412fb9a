"""Numbers of many small arrays, computed together: the same as those of each array by itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastgc._parameters import arrays
from fastgc._parameters.arrays import (
    as_one,
    distinct,
    ends_of_runs,
    in_batches,
    median,
    medians,
    norm,
    norms,
    of_runs,
    root_mean_square,
    root_mean_squares,
    without,
)
from fastgc._parameters.layout import flatten_parameters
from fastgc._parameters.point import tensor_scales
from fastgc._parameters.record import store
from fastgc._verdicts.errors import relative_error, relative_errors

Arrays = list[NDArray[Any]]


def runs(seed: int) -> Arrays:
    """Arrays of a few entries of any scale, some empty, some with an entry that is not finite."""
    rng = np.random.default_rng(seed)
    found = [rng.standard_normal(rng.integers(0, 6)) * 10.0 ** rng.integers(-300, 300) for _ in range(6)]
    for each in found[:3]:
        each[:1] = rng.choice([np.nan, np.inf, -np.inf, 0.0])
    return [found[i] for i in rng.permutation(6)]


def joined(parts: Arrays) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.concatenate(parts), np.cumsum([0, *(each.size for each in parts)])


@pytest.mark.parametrize("seed", range(20))
def test_sums_over_many_arrays_are_those_of_each(seed: int) -> None:
    parts = runs(seed)
    with np.errstate(all="ignore"):
        expected = [root_mean_square(each) for each in parts]
        np.testing.assert_allclose(root_mean_squares(parts), expected, rtol=1e-14)
        np.testing.assert_allclose(norms(parts), [norm(each) for each in parts], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_that_are_too_large_to_be_summed_together_are_summed_alone(
    dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "AT_ONCE", 10)
    parts = [np.linspace(1, 2, size).astype(dtype) for size in (3, 8, 1, 1, 40, 0, 2)]
    np.testing.assert_allclose(root_mean_squares(parts), [root_mean_square(each) for each in parts], rtol=1e-14)
    assert root_mean_squares([]).size == 0


@pytest.mark.parametrize("seed", range(20))
def test_medians_are_those_of_each_run(seed: int) -> None:
    parts = runs(seed)
    expected = [median(each) if each.size else 0.0 for each in parts]
    np.testing.assert_array_equal(medians(*joined(parts)), expected)


@pytest.mark.parametrize(
    ("numbers", "ends"),
    [([], [0]), ([4], [0, 1]), ([0, 0, 0], [0, 3]), ([1, 1, 2, 5, 5], [0, 2, 3, 5]), ([3, 1, 1, 3], [0, 1, 3, 4])],
)
def test_runs_of_equal_numbers_end_where_another_one_begins(numbers: list[int], ends: list[int]) -> None:
    assert ends_of_runs(np.array(numbers, np.int64)).tolist() == ends


def test_entries_of_small_arrays_come_in_one_batch_and_those_of_a_large_one_uncopied() -> None:
    small, large = [np.ones((2, 2)), np.zeros(3)], np.arange(float(arrays.AT_ONCE)).reshape(-1, 2)
    first, second = in_batches([*small, large])
    assert first.tolist() == [1.0] * 4 + [0.0] * 3
    assert second is large
    assert not [*in_batches([])]


def test_a_run_without_entries_counts_as_zero() -> None:
    values, ends = np.array([3.0, -1.0, 2.0]), np.array([0, 0, 2, 2, 3, 3])
    assert of_runs(np.maximum, values, ends).tolist() == [0.0, 3.0, 0.0, 2.0, 0.0]
    assert of_runs(np.add, values, ends).tolist() == [0.0, 2.0, 0.0, 2.0, 0.0]
    assert of_runs(np.add, values[:0], np.array([0, 0])).tolist() == [0.0]


@pytest.mark.parametrize("seed", range(20))
def test_norm_wise_errors_are_those_of_each_run(seed: int) -> None:
    parts = runs(seed)
    others = [each * (1 + 1e-5 * np.arange(each.size)) for each in parts]
    (a, ends), (b, _) = joined(parts), joined(others)
    expected = [relative_error(one, other) for one, other in zip(parts, others, strict=True)]
    np.testing.assert_array_equal(relative_errors(a, b, ends), expected)


def test_scales_of_tensors_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(0)
    leaves = [rng.standard_normal((k, 3)) * 10.0**k for k in range(-4, 5) if k > 0] + [np.zeros(4), np.array(2.0)]
    leaves += [np.array([1e-30, 1.0]), np.empty(0), np.asfortranarray(rng.standard_normal((9, 7))).astype(np.float32)]
    each = [float(tensor_scales([leaf])[0]) for leaf in leaves]
    np.testing.assert_allclose(tensor_scales(leaves), each, rtol=1e-14)
    assert each[-5:-1] == pytest.approx([1.0, 2.0, 1.0, 1.0])


# --- one flat view ---


def stored(params: dict[str, NDArray[Any]]) -> Arrays:
    layout, leaves = flatten_parameters(params)
    return [*store(layout, leaves, [leaf.dtype for leaf in leaves]).leaves]


def test_copies_in_one_buffer_are_seen_as_one_flat_array() -> None:
    leaves = stored({"a": np.arange(6.0).reshape(2, 3), "b": np.array(7.0), "c": np.empty((0, 2)), "d": np.ones(2)})
    flat = as_one(leaves)
    assert flat is not None and flat.tolist() == [*range(6), 7, 1, 1]
    flat[6] = -1
    assert leaves[1] == -1


@pytest.mark.parametrize(
    "leaves",
    [
        [],
        [np.ones(3), np.ones(2)],
        [np.ones((2, 2))[0], np.ones((2, 2))[1]],
        stored({"a": np.ones(2), "b": np.ones(2, np.float32)}),
        stored({"a": np.ones(3, np.float32), "b": np.ones(2, np.float32)}),  # with a gap
        stored({"a": np.ones(2), "b": np.ones(3)})[::-1],
    ],
    ids=["none", "of their own", "of a matrix", "two dtypes", "a gap", "another order"],
)
def test_other_arrays_are_not(leaves: Arrays) -> None:
    assert as_one(leaves) is None


def test_neighbours_are_taken_together_up_to_a_size() -> None:
    sizes = np.array([4, 4, 4, 20, 1, 0, 9])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "AT_ONCE", 9)
        found = [range(len(sizes))[each] for each in arrays.together(sizes)]
    assert [*itertools.chain(*found)] == [*range(7)]
    assert all(len(each) == 1 or sizes[[*each]].sum() <= 9 for each in found)


@pytest.mark.parametrize("size", [0, 1, 2, 300])
@pytest.mark.parametrize("largest", [1, 40, 10**15])
def test_distinct_values_are_those_of_numpy(size: int, largest: int) -> None:
    generator = np.random.default_rng(size)
    values, known = generator.integers(largest, size=(2, size))
    assert distinct(values).tolist() == np.unique(values).tolist()
    assert without(values, known).tolist() == np.setdiff1d(values, known).tolist()
    assert without(values, known[:0]).tolist() == np.unique(values).tolist()
    assert without(values, values).tolist() == without(values[:0], known).tolist() == []
