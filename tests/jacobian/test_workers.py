"""Functions of several outputs evaluated by several processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
import pytest

from fastgc import check_hessian, check_jacobian
from tests.support.jacobians import Floats

X = np.linspace(0.5, 2.0, 12)
PROCESS = os.getpid()


@pytest.fixture(autouse=True)
def sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All work is worth sharing."""
    monkeypatch.setattr("fastgc._evaluation.pieces._WORTHWHILE", 0.0)


def outputs(x: Floats) -> Floats:
    return np.cumsum(x) * np.sin(x)


def slopes(x: Floats) -> Floats:
    return np.tril(np.ones((x.size, x.size))) * np.sin(x)[:, None] + np.diag(np.cumsum(x) * np.cos(x))


def edged(x: Floats) -> Floats:
    if x.min() < 0.5:
        raise ValueError("below the edge")
    return x**2


def elsewhere_than(process: int) -> Callable[[Floats], Floats]:
    def function(x: Floats) -> Floats:
        if os.getpid() != process and x[3] > X[3]:
            raise KeyError("only in a worker")
        return x**2

    return function


def test_processes_give_the_same_report_to_the_bit() -> None:
    alone, shared = (check_jacobian(outputs, slopes, X, workers=workers) for workers in (1, 2))
    assert alone.passed and shared.passed, str(shared)
    same = {"seconds": 0, "engine": ""}
    assert alone.to_dict() | same == shared.to_dict() | same
    assert (alone.engine, shared.engine) == ("python", "python (2 processes)")
    wrong = check_jacobian(outputs, lambda x: np.abs(slopes(x)) * 1.01, X, workers=2, points=2)
    assert wrong.verdict == "fail"
    assert check_jacobian(outputs, slopes, X, workers=2, time_budget=600.0).passed
    assert check_jacobian(outputs, slopes, X, workers=2, time_budget=1e-9).verdict == "undecided"


def test_hessians_may_have_processes_too() -> None:
    def cubes(x: Floats) -> float:
        return float(np.sum(x**3))

    def squares(x: Floats) -> Floats:
        return 3 * x**2

    for factor, verdict in ((1, "pass"), (1.01, "fail")):
        report = check_hessian(cubes, squares, lambda x, k=factor: 6 * k * np.diag(x), X, workers=2)
        assert report.verdict == verdict, str(report)


def test_exceptions_in_a_worker_count_as_they_do_here() -> None:
    alone, shared = (check_jacobian(edged, lambda x: 2 * np.diag(x), X, workers=workers) for workers in (1, 2))
    assert shared.passed
    assert alone.notes == shared.notes
    assert "f raised ValueError: below the edge" in shared.notes[0]
    there = check_jacobian(elsewhere_than(PROCESS), lambda x: 2 * np.diag(x), X, workers=2)
    assert "f raised KeyError" in str(there)


def test_what_ends_the_check_ends_it_from_a_worker_too() -> None:
    with pytest.raises(ValueError, match=r"f returned shape \(11,\) near x and \(12,\) at x"):
        check_jacobian(lambda x: x if np.array_equal(x, X) else x[:-1], np.eye(12), X, workers=2)
    with pytest.raises(RuntimeError, match=r"a worker process died three times while it evaluated f with inputs \d+"):
        check_jacobian(lambda x: x if os.getpid() == PROCESS else os._exit(1), np.eye(12), X, workers=2)
    assert check_jacobian(outputs, slopes, X, workers=2).passed


def test_another_function_in_the_workers_is_noticed() -> None:
    def different(x: Floats) -> Floats:
        return x * (1.0 if os.getpid() == PROCESS else 2.0)

    with pytest.raises(ValueError, match=r"in a worker process where it gives .* in this one: it reads something that"):
        check_jacobian(different, np.eye(12), X, workers=2)


def test_little_work_stays_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgc._evaluation.pieces._WORTHWHILE", 1e9)
    assert check_jacobian(elsewhere_than(PROCESS), lambda x: 2 * np.diag(x), X, workers=2).notes == ()


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("f", "workers", "kind", "message"),
    [
        (partial(lambda lock, x: x, LOCK), 2, TypeError, "workers=2, but f or args cannot be pickled"),
        (numba.njit(lambda x: x), 2, ValueError, "workers=2 is for a plain Python f; this one is compiled"),
        (np.sin, 0, ValueError, "workers is 0; it must be at least 1, or -1 for all cores"),
        (np.sin, 1.5, TypeError, "workers is 1.5; it must be an integer"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(f: Any, workers: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        check_jacobian(f, np.eye(12), X, workers=workers)
