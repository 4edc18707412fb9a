"""Processes that start quickly for the next check: executors, each of which one check has at a time."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor

_IDLE_SECONDS = 300  # after which processes that nobody uses end; that of joblib's own
_AHEAD = 2  # tasks for each process that are passed on at a time: one that is done has the next at hand
_ENVIRONMENT = dict.fromkeys(
    """OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS BLIS_NUM_THREADS VECLIB_MAXIMUM_THREADS NUMBA_NUM_THREADS
    NUMEXPR_NUM_THREADS""".split(),  # noqa: SIM905 - a list to read
    "1",
) | {"ENABLE_IPC": "1"}  # so that the schedulers of TBB coordinate


class Processes:
    """So many processes, for one check at a time."""

    def __init__(self, count: int) -> None:
        self.count, self._parent = count, os.getpid()
        self._executor: Any = ProcessPoolExecutor(count, timeout=_IDLE_SECONDS, env=_ENVIRONMENT)
        self._at_work: set[Future[Any]] = set()

    @property
    def ready(self) -> bool:
        """Whether they can be used again: not those that a forked process inherits, nor where one was killed."""
        if self._parent != os.getpid():
            return False
        try:
            self._executor.submit(int).result()
        except BrokenExecutor:
            return False
        return True

    def results(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """What a function returns for the arguments in each task, as it is done."""
        rest = iter(tasks)
        for task in itertools.islice(rest, _AHEAD * self.count):
            self._at_work.add(self._executor.submit(function, *task))
        while self._at_work:
            done, _ = wait(self._at_work, return_when=FIRST_COMPLETED)
            for each in done:
                self._at_work |= {self._executor.submit(function, *task) for task in itertools.islice(rest, 1)}
                self._at_work.discard(each)
                yield each.result()

    def end(self) -> None:
        """Kill them, at work or not."""
        if self._parent != os.getpid():
            return
        while any(not (each.running() or each.done()) for each in self._at_work):
            time.sleep(1e-3)  # loky loses count of what it has not yet passed on, which it does at once
        self._executor.shutdown(wait=True, kill_workers=True)


_lock = threading.Lock()
_idle: dict[int, Processes] = {}  # by their number


def taken(count: int) -> Processes:
    """So many processes for the caller alone, until they are given back: those of a check before, or new ones.

    joblib's own executor is one for the whole process: a check that asks for another number resizes it, and waits until
    the work of all others is done.
    """
    with _lock:
        kept = _idle.pop(count, None)
    if kept is not None and kept.ready:
        return kept
    with _lock:
        others = [*_idle.values(), *([] if kept is None else [kept])]
        _idle.clear()
    for each in others:
        each.end()
    return Processes(count)


def given_back(processes: Processes) -> None:
    """Keep them, idle, for the next check that asks for as many."""
    with _lock:
        other = _idle.get(processes.count)
        _idle[processes.count] = processes
    if other is not None:
        other.end()
