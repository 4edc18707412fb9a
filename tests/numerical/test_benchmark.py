"""What checks cost, as a table and as a picture."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

import fastgc
from fastgc._numerical.benchmark import _rate


def loss(p: Any) -> Any:
    return np.sum(p["a"] ** 3) + np.sum(p["b"] ** 2)


def gradients(p: Any) -> Any:
    return {"a": 3 * p["a"] ** 2, "b": 2 * p["b"]}


PARAMS = {"a": np.linspace(1, 2, 200), "b": np.ones(3)}


def test_a_plain_loss_is_measured_in_python() -> None:
    found = fastgc.benchmark(loss, gradients, PARAMS)
    assert list(found.seconds) == list(found.evaluations) == list(found.first) == ["python"]
    counts = found.evaluations["python"]
    assert found.size == 203
    assert counts["probes"] < counts["default"] < counts["all entries"]
    default = fastgc.check_gradients(loss, gradients, PARAMS, crosscheck=False)
    assert counts["default"] == default.evaluations
    every = fastgc.check_gradients(loss, gradients, PARAMS, crosscheck=False, samples="all")
    assert abs(counts["all entries"] - every.evaluations) <= 60  # two ladders, of some thirty values each


def test_a_jitted_loss_is_measured_in_both_engines() -> None:
    found = fastgc.benchmark(numba.njit(loss), gradients, PARAMS)
    assert list(found.seconds) == ["python", "numba"]
    lines = str(found).splitlines()
    assert lines[0].split() == ["engine", "check", "evaluations", "seconds"]
    assert len(lines) == 1 + 2 * 5
    assert repr(found) == str(found)


def test_seconds_of_all_entries_follow_from_the_others() -> None:
    assert _rate(10, 1.0, 30, 2.0) == 0.05
    assert _rate(10, 1.0, 20, 0.5) == 0.025  # the longer check was the faster one
    assert _rate(0, 0.0, 0, 0.0) == 0.0
    counts = {"probes": 10, "default": 30, "all entries": 50}
    seconds = {"probes": 1.0, "default": 2.0, "all entries": 3.0}
    found = fastgc.Benchmark(9, {"python": counts}, {"python": seconds}, {"python": 4.0})
    assert found.per_evaluation == {"python": 0.05}
    assert "python  all entries           50        3" in str(found)


def test_it_is_drawn() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    found = fastgc.benchmark(loss, gradients, PARAMS)
    ax = found.plot()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("evaluations", "seconds")
    assert "<svg" in found._repr_html_()


@pytest.mark.parametrize("engines", [[], ["auto"]])
def test_other_engines_are_refused(engines: Any) -> None:
    with pytest.raises(ValueError, match=r"^engines is \[.*\]; it must hold one or both of 'python', 'numba'$"):
        fastgc.benchmark(loss, gradients, PARAMS, engines=engines)
