"""A record: parameters as a jitted function receives them, seen from Python."""

from __future__ import annotations

import gc
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings

import fastgc
from tests.support.layouts import PARAMS, array


class Pair(NamedTuple):
    weight: Any
    bias: Any


def test_a_dict_becomes_a_record_reached_by_any_name() -> None:
    params = {"layer1.weight": array(2, 3), "b [*]?": array(3), "ü": np.array(0.5), "0": array(1)}
    record = fastgc.record(params)
    for name, value in params.items():
        np.testing.assert_array_equal(record[name], value)
    assert list(record) == list(record.keys()) == list(params)
    assert len(record) == 4
    assert "ü" in record and "missing" not in record
    assert all(a is b for a, b in zip(record.values(), (value for _, value in record.items()), strict=True))


def test_nested_structures_become_records_and_tuples() -> None:
    record = fastgc.record({"a": {"w": array(2)}, "layers": [array(3), {"b": array(1)}], "p": Pair(array(1), array(2))})
    np.testing.assert_array_equal(record["a"]["w"], array(2))
    assert isinstance(record["layers"], tuple) and isinstance(record["p"], tuple)
    np.testing.assert_array_equal(record["layers"][0], array(3))
    np.testing.assert_array_equal(record["layers"][1]["b"], array(1))
    np.testing.assert_array_equal(record["p"][1], array(2))


def test_a_list_becomes_a_tuple_and_an_array_an_array() -> None:
    parts = fastgc.record([array(2), array(1, 2)])
    assert type(parts) is tuple and [part.shape for part in parts] == [(2,), (1, 2)]
    single = fastgc.record(array(2, 2))
    assert type(single) is np.ndarray and single.shape == (2, 2)


def test_arrays_are_c_contiguous_float64_copies() -> None:
    given = {
        "h": array(3).astype(np.float16),
        "f": np.asfortranarray(array(3, 4)),
        "s": array(8)[::3],
        "e": np.empty((2, 0)),
    }
    record = fastgc.record(given)
    for name, value in given.items():
        assert record[name].dtype == np.float64 and record[name].flags.c_contiguous and record[name].flags.writeable
        assert record[name].shape == value.shape
        assert not np.shares_memory(record[name], value)
        np.testing.assert_array_equal(record[name], value.astype(np.float64))
    record["f"][...] = 0
    np.testing.assert_array_equal(given["f"], array(3, 4))


def test_0_dimensional_entries_can_be_written() -> None:
    record = fastgc.record({"t": np.array(2.0)})
    record["t"][()] = 5.0
    assert record["t"] == 5.0 and record["t"].shape == ()


def test_arrays_of_a_record_do_not_overlap() -> None:
    record = fastgc.record({"a": array(3), "e": np.empty(0), "t": np.array(1.0), "b": array(2, 2)})
    for number, value in enumerate(record.values()):
        value[...] = number
    assert [np.unique(value).tolist() for value in record.values()] == [[0.0], [], [2.0], [3.0]]


def test_an_unknown_name_is_a_key_error_with_the_name() -> None:
    with pytest.raises(KeyError, match="W2"):
        fastgc.record({"W1": array(2)})["W2"]


def test_the_text_of_a_record_shows_its_names() -> None:
    assert repr(fastgc.record({"W1": array(9), "b": {"c": array(1)}})) == "<record of 'W1', 'b'>"
    assert len(repr(fastgc.record({f"name {i}": array(1) for i in range(1000)}))) < 200


def test_arrays_outlive_their_record() -> None:
    view = fastgc.record({"a": array(100), "b": array(100)})["b"]
    gc.collect()
    other = [np.full(100, np.nan) for _ in range(50)]
    np.testing.assert_array_equal(view, array(100))
    assert len(other) == 50


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({}, ValueError, "params holds no array"),
        ({"w": np.array([1])}, TypeError, r"w \(int64\)"),
        ({1: array(1)}, TypeError, "not strings"),
        ({"a.b": array(1), "a": {"b": array(1)}}, ValueError, "joined name"),
        ({"z": np.array([1j])}, TypeError, "complex parameters are not supported"),
    ],
)
def test_what_a_check_refuses_a_record_refuses(params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastgc.record(params)


def values_of(node: Any) -> Any:
    """The plain structure behind a record or parameters: dicts, tuples and nested lists of numbers."""
    if hasattr(node, "keys"):
        return {key: values_of(node[key]) for key in node.keys()}  # noqa: SIM118 - a record is no mapping
    if isinstance(node, (list, tuple)):
        return tuple(values_of(child) for child in node)
    return node.shape, node.astype(np.float64).tolist()


@given(PARAMS)
@settings(max_examples=50, deadline=None)
def test_any_parameters_are_found_again_in_their_record(params: Any) -> None:
    assert values_of(fastgc.record(params)) == values_of(params)
