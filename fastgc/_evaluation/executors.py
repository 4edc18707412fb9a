"""Pools of worker processes that stay alive for the next check; each pool serves one check at a time."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor

_IDLE_SECONDS = 300  # idle processes end after this time, the same as joblib's own
_AHEAD = 2  # tasks submitted for each process: one at work, and one at hand when that is done
_HANDOVER_SECONDS = 1e-3  # loky hands a task over within about this time
_ENVIRONMENT = dict.fromkeys(
    """OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS BLIS_NUM_THREADS VECLIB_MAXIMUM_THREADS NUMBA_NUM_THREADS
    NUMEXPR_NUM_THREADS""".split(),  # noqa: SIM905 - a list to read
    "1",
) | {"ENABLE_IPC": "1"}  # the schedulers of TBB then agree on the number of threads


class Processes:
    """A pool of ``count`` processes, used by one check at a time."""

    def __init__(self, count: int) -> None:
        self.count, self._parent = count, os.getpid()
        self._executor: Any = ProcessPoolExecutor(count, timeout=_IDLE_SECONDS, env=_ENVIRONMENT)
        self._at_work: set[Future[Any]] = set()

    @property
    def ready(self) -> bool:
        """Whether the pool can be used: it was not inherited by a fork, and none of its processes was killed."""
        if self._parent != os.getpid():
            return False
        try:
            self._executor.submit(int).result()
        except BrokenExecutor:
            return False
        return True

    def results(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The results of ``function(*task)`` for each task, in the order in which they are finished."""
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
        """Kill the processes, even during their work."""
        if self._parent != os.getpid():
            return
        while any(not (each.running() or each.done()) for each in self._at_work):
            time.sleep(_HANDOVER_SECONDS)  # loky miscounts tasks that are killed before it has handed them over
        self._executor.shutdown(wait=True, kill_workers=True)


_lock = threading.Lock()
_idle: dict[int, Processes] = {}  # by their number of processes


def taken(count: int) -> Processes:
    """A pool of ``count`` processes for the caller alone, until it is given back: an earlier check's, or a new one.

    joblib's executor does not serve here: the process has only one, and a check that asks for another number of workers
    would resize it, which waits for the work of all other checks.
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
    """Keep a pool, idle, for the next check that asks for the same number of processes."""
    with _lock:
        other = _idle.get(processes.count)
        _idle[processes.count] = processes
    if other is not None:
        other.end()
