"""Processes for one check at a time: kept for the next one, never shared, killed where they are at work."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastgc
from fastgc._evaluation import executors as _executors
from tests.support.concurrency import at_once


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    def end_all() -> None:
        for each in [*_executors._idle.values()]:
            each.end()
        _executors._idle.clear()

    end_all()
    yield
    end_all()


def own_process(_: object = None) -> int:
    time.sleep(1e-2)
    return os.getpid()


def results(engine: _executors.Engine, function: Any, tasks: Iterable[_executors.Task]) -> Iterator[Any]:
    watch = _executors.Watch(math.inf, math.inf, print)
    return (found for _, found in engine.outcomes(function, deque(tasks), watch))


def used(processes: _executors.Processes) -> set[int]:
    return set(results(processes, own_process, [(i,) for i in range(30)]))


def test_results_come_once_for_every_task_from_as_many_processes() -> None:
    processes = _executors.taken(2)
    found = list(results(processes, abs, [(-i,) for i in range(100)]))
    assert sorted(found) == list(range(100))
    assert len(used(processes)) == 2 and os.getpid() not in used(processes)
    processes.end()


def test_the_next_check_has_the_processes_of_the_last_one() -> None:
    first = _executors.taken(2)
    before = used(first)
    first.release()
    again = _executors.taken(2)
    assert again is first and used(again) == before
    again.end()


def test_what_is_in_use_is_nobody_elses() -> None:
    one, other = _executors.taken(2), _executors.taken(2)
    assert used(one).isdisjoint(used(other))
    one.release()
    other.release()  # one idle pair is enough
    assert list(_executors._idle.values()) == [other]


def test_processes_of_another_number_make_room() -> None:
    first = _executors.taken(2)
    before = used(first)
    first.release()
    other = _executors.taken(3)
    assert not _executors._idle and not any(map(alive, before))
    other.end()


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_that_was_killed_while_idle_is_replaced() -> None:
    processes = _executors.taken(2)
    os.kill(used(processes).pop(), 9)
    for _ in range(600):
        if not processes.ready:
            break
        time.sleep(0.1)
    processes.release()
    again = _executors.taken(2)
    assert again is not processes and len(used(again)) == 2
    again.end()


def test_a_process_that_dies_at_work_is_a_death() -> None:
    processes = _executors.taken(2)
    (found,) = results(processes, os._exit, [(7,)])
    assert isinstance(found, _executors.Death) and not found.last
    processes.end()


def test_what_is_at_work_can_be_killed_at_any_time() -> None:
    for _ in range(2):
        processes = _executors.taken(2)
        next(results(processes, time.sleep, [(0.01,)] * 4 + [(600,)] * 20))
        begin = threading.active_count()
        processes.end()
        assert threading.active_count() < begin


def slow_square(p: NDArray[np.float64]) -> float:
    time.sleep(2e-3)
    return float(np.sum(p**2))


def test_checks_with_other_numbers_of_workers_run_at_once() -> None:
    params = np.linspace(1, 2, 30)

    def check(workers: int) -> list[str]:
        reports = [
            fastgc.check_gradients(slow_square, lambda p: 2 * p, params, samples="all", workers=workers)
            for _ in range(2)
        ]
        assert [report.verdict for report in reports] == ["pass"] * 2
        return [report.engine for report in reports]

    found = at_once(*[lambda k=k: check(k) for k in (2, 3)])
    assert found == [[f"python ({k} processes)"] * 2 for k in (2, 3)]


def slow(x: NDArray[np.float64]) -> float:
    time.sleep(5e-3)
    return float(x @ x)


def test_a_system_without_semaphores_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(_executors, "ProcessPoolExecutor", refused)
    with pytest.raises(OSError, match=r"workers: no processes can be started here \(Read-only.*in /dev/shm.*workers=1"):
        fastgc.check_gradients(slow, lambda x: 2 * x, np.ones(60), samples="all", workers=2)


def test_one_process_instead_of_several_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_executors, "process_count", lambda workers: 1)
    report = fastgc.check_gradients(slow, lambda x: 2 * x, np.ones(3), workers=2)
    assert report.engine == "python"
    assert "workers=2, but joblib starts no processes here (no semaphores? another's worker?): one process" in str(
        report
    )
    assert "joblib" not in str(fastgc.check_gradients(slow, lambda x: 2 * x, np.ones(3), workers=-1))
