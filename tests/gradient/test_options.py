"""Options given by name or pattern: tolerances, and the very entries to check."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import fastgc

PARAMS = {"W1": np.arange(1.0, 13).reshape(3, 4), "W2": np.arange(1.0, 6), "b": np.array(2.0)}


def loss(p: dict[str, np.ndarray]) -> float:
    return float(sum(np.sum(each**2) for each in p.values()))


def off(share: float) -> dict[str, np.ndarray]:
    return {name: 2 * each * (1 + share) for name, each in PARAMS.items()}


def verdicts(gradients: Any, **options: Any) -> dict[str, str]:
    report = fastgc.check_gradients(loss, gradients, PARAMS, **options)
    return {name: tensor.verdict for name, tensor in report.tensors.items()}


@pytest.mark.parametrize(
    ("rtol", "passing"),
    [
        (None, set()),
        ({"W1": 1e-2}, {"W1"}),
        ({"W*": 1e-2}, {"W1", "W2"}),
        ({"W*": 1e-2, "W2": 1e-4}, {"W1"}),
        ({"W2": 1e-4, "W*": 1e-2}, {"W1"}),  # an exact name wins, wherever it stands
        ({"*": 1e-2, "W*": 1e-4}, {"b"}),  # a later pattern wins
        (1e-2, {"W1", "W2", "b"}),
    ],
    ids=lambda each: repr(each) if not isinstance(each, set) else "",
)
def test_a_relative_tolerance_by_name(rtol: Any, passing: set[str]) -> None:
    found = verdicts(off(1e-3), rtol=rtol)
    assert found == {name: "pass" if name in passing else "fail" for name in PARAMS}


def test_an_absolute_tolerance_by_name_leaves_the_others_their_default() -> None:
    assert verdicts(off(1e-3), atol={"b": 0.1}) == {"W1": "fail", "W2": "fail", "b": "pass"}
    assert verdicts(off(0.0), atol={"b": 0.1}) == dict.fromkeys(PARAMS, "pass")


def checked(samples: Any, **options: Any) -> dict[str, list[tuple[int, ...]]]:
    report = fastgc.check_gradients(loss, off(0.0), PARAMS, samples=samples, crosscheck=False, **options)
    assert report.passed
    return {name: [entry.index for entry in tensor.entries] for name, tensor in report.tensors.items()}


MASK = np.zeros((3, 4), bool)
MASK[1, 2] = MASK[2, 0] = True


@pytest.mark.parametrize(
    "entries",
    [[6, 8], np.array([8, 6, 8]), [(1, 2), (2, 0)], np.array([[2, 0], [1, 2]]), MASK, range(6, 9, 2)],
    ids=["list", "array", "tuples", "rows", "mask", "range"],
)
def test_the_very_entries_are_checked(entries: Any) -> None:
    found = checked({"W1": entries, "W2": 1})
    assert found["W1"] == [(1, 2), (2, 0)]
    assert len(found["W2"]) == 1
    assert found["b"] == [()]


def test_no_entries_leave_a_tensor_to_its_probes() -> None:
    assert checked({"W1": []})["W1"] == []
    assert checked({"W1": np.zeros((3, 4), bool)})["W1"] == []


def test_a_pattern_gives_entries_to_several_tensors_and_a_name_takes_them_back() -> None:
    assert checked({"W*": [0, 2], "W2": "all"}) == {
        "W1": [(0, 0), (0, 2)],
        "W2": [(k,) for k in range(5)],
        "b": [()],
    }


def test_entries_are_the_same_at_every_point_and_in_a_budget() -> None:
    def gradients(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: 2 * each for name, each in p.items()}

    report = fastgc.check_gradients(loss, gradients, PARAMS, samples={"W1": [3]}, points=3, time_budget=60)
    assert [entry.index for entry in report.tensors["W1"].entries] == [(0, 3)] * 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rtol": {"W1": -1}}, ValueError, "rtol['W1'] is -1; it must be finite and at least 0"),
        ({"atol": {"W1": "x"}}, TypeError, "atol['W1'] is 'x'; it must be a number"),
        ({"rtol": {"W3": 1}}, ValueError, "rtol has 'W3', which names no tensor"),
        ({"atol": {3: 1}}, TypeError, "atol has 3; names and patterns must be strings"),
        ({"samples": {"W1": [12]}}, ValueError, "samples['W1'] has the entry 12, outside the shape (3, 4)"),
        ({"samples": {"W1": [(3, 0)]}}, ValueError, "samples['W1'] has the entry [3, 0], outside the shape (3, 4)"),
        ({"samples": {"W1": [-1]}}, ValueError, "samples['W1'] has the entry -1, outside"),
        ({"samples": {"W1": [(1, 2, 3)]}}, ValueError, "samples['W1'] has shape (1, 3); index tuples of this tensor"),
        ({"samples": {"W1": MASK.T}}, ValueError, "samples['W1'] is a mask of shape (4, 3); it must have the tensor's"),
        ({"samples": {"W1": [0.5]}}, TypeError, "samples['W1'] is [0.5]; entries are flat indices"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        verdicts(off(0.0), **options)
