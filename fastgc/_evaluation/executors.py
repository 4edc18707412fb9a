"""Engines that do tasks: processes that stay alive for the next check, and executors and maps of the caller's.

An engine takes tasks from a queue until it is empty, and gives each with its outcome: the answer, or a `Death`. It ends
early, with tasks left, where it can do no more; ``renewed`` then gives the engine for what is left.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from fastgc._evaluation.evaluator import OutOfTime
from fastgc._evaluation.parcels import end_with_parent
from fastgc._evaluation.workers_option import executor_of, kind_of, width
from fastgc._evaluation.working_time import now
from fastgc._missing import missing
from fastgc._words import Workers

try:
    with warnings.catch_warnings():  # joblib warns where the system has no semaphores; we note it
        warnings.simplefilter("ignore")
        import joblib
    from joblib.externals.loky import ProcessPoolExecutor
    from joblib.parallel import get_active_backend
except ImportError as error:
    raise missing("workers", "workers") from error

Task = tuple[Any, ...]
Outcomes = Generator[tuple[Task, Any]]

_IDLE_SECONDS = 300  # idle processes end after this time, the same as joblib's own
_AHEAD = 2  # tasks submitted for each worker: one at work, and one at hand when that is done
_HANDOVER_SECONDS = 1e-3  # loky hands a task over within about this time
_ROUND_SECONDS = 2.0  # that a call of a map takes: what Ctrl-C may lose; workers wait for its end some 2 % of the time
_SEEN_SECONDS = 0.1  # of a piece, so that a progress bar moves ten times a second
_CALLERS_SECONDS = 1.0  # of a piece in an executor that may be slow: 6 ms for a task would be 0.6 % of it
_LONG = 3600.0  # seconds: a wait that is begun again after them
_GROWTH = 4  # of a round where the pace is not known yet
_TRIED_AGAIN = ("KilledWorker", "WorkerCrashedError")  # deaths, as dask and ray call them when others died there too
_DEATHS = (*_TRIED_AGAIN, "RayActorError", "ActorDiedError")
_ENVIRONMENT = dict.fromkeys(
    """OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS BLIS_NUM_THREADS VECLIB_MAXIMUM_THREADS NUMBA_NUM_THREADS
    NUMEXPR_NUM_THREADS""".split(),  # noqa: SIM905 - a list to read
    "1",
) | {"ENABLE_IPC": "1"}  # the schedulers of TBB then agree on the number of threads


@dataclass(frozen=True)
class Death:
    """A worker died at a task, or at one of those that were at work at the same time."""

    error: Exception

    @property
    def last(self) -> bool:
        """Whether the engine has tried other workers already."""
        return type(self.error).__name__ in _TRIED_AGAIN


class Watch:
    """How long to wait for an answer, and what happens where none comes.

    Parameters
    ----------
    deadline : float
        Of `working_time.now`.
    patience : float
        Seconds without an answer after which ``tell`` is called, once for each silence. Nobody is killed: a machine may
        be busy, and a call may take long.
    """

    def __init__(self, deadline: float, patience: float, tell: Callable[[float], object]) -> None:
        self._deadline, self._patience, self._tell = deadline, patience, tell
        self.heard()

    def heard(self) -> None:
        """An answer came."""
        self._since, self._told = time.perf_counter(), False

    def quiet(self) -> float:
        """Seconds until there was no answer for too long."""
        left = self._since + self._patience - time.perf_counter()
        return _LONG if self._told else min(_LONG, max(0.0, left))

    def timeout(self) -> float:
        """Seconds until `look` has something to say."""
        return max(0.0, min(self.quiet(), self._deadline - now()))

    def look(self) -> None:
        """Raise `OutOfTime` after the deadline; tell of a silence."""
        if now() > self._deadline:
            raise OutOfTime
        self.listen()

    def listen(self) -> None:
        """Tell of a silence."""
        if self.quiet() == 0:
            self._told = True
            self._tell(self._patience)


class Engine(Protocol):
    """What does tasks: see the module's docstring.

    Attributes
    ----------
    piece_seconds : what a piece of the work takes, where there are few workers: see `fastgc._evaluation.pieces`
    """

    count: int
    piece_seconds: float

    @property
    def label(self) -> str:
        """For reports."""

    def outcomes(self, function: Callable[..., object], tasks: deque[Task], watch: Watch) -> Outcomes:
        """Each task with the outcome of ``function(*task)``, in the order in which they are finished."""

    def renewed(self) -> Engine:
        """The engine for what is left where this one can do no more."""

    def end(self) -> None:
        """Leave nothing at work, where that is possible."""

    def release(self) -> None:
        """End a check that went well."""


def outcome(future: Future[Any]) -> Any:
    """The answer in a future that is done, or the death of its worker."""
    try:
        return future.result()
    except Exception as error:
        return _death(error)


def _death(error: Exception) -> Death:
    """The death that an exception tells of; another exception is raised."""
    if isinstance(error, BrokenExecutor) or type(error).__name__ in _DEATHS:
        return Death(error)
    raise error


class Executing:
    """An executor of the caller's, which is never shut down; its tasks are cancelled where they have not begun."""

    piece_seconds = _CALLERS_SECONDS

    def __init__(self, executor: Any, count: int, label: str) -> None:
        self.count, self.label, self._executor = count, label, executor
        self._at_work: dict[Future[Any], Task] = {}

    def outcomes(self, function: Callable[..., object], tasks: deque[Task], watch: Watch) -> Outcomes:
        """As `Engine.outcomes`."""
        able = True
        while self._at_work or (able and tasks):
            able = able and self._submit(function, tasks)
            if not self._at_work:
                return
            for each in self._done(watch):
                task, found = self._at_work.pop(each), outcome(each)
                able = able and not isinstance(found, Death)
                yield task, found

    def _submit(self, function: Callable[..., object], tasks: deque[Task]) -> bool:
        """Hand over as many tasks as the workers can have at hand; whether the executor takes them."""
        while tasks and len(self._at_work) < _AHEAD * self.count:
            try:
                self._at_work[self._executor.submit(function, *tasks[0])] = tasks[0]
            except BrokenExecutor:
                return False
            tasks.popleft()
        return True

    def _done(self, watch: Watch) -> set[Future[Any]]:
        while True:
            done, _ = wait(self._at_work, timeout=watch.timeout(), return_when=FIRST_COMPLETED)
            if done:
                watch.heard()
                return done
            watch.look()

    def renewed(self) -> Engine:
        """As `Engine.renewed`: processes of our own, since a broken executor takes nothing."""
        warnings.warn(
            f"a worker of {self.label} died, and it takes no more work: the rest is done by {self.count} other "
            "processes",
            RuntimeWarning,
            stacklevel=2,
        )
        return taken(self.count)

    def end(self) -> None:
        """As `Engine.end`."""
        for each in self._at_work:
            each.cancel()
        self._at_work.clear()

    release = end


def _pool(count: int, parent: int) -> ProcessPoolExecutor:
    try:
        return ProcessPoolExecutor(
            count, timeout=_IDLE_SECONDS, env=_ENVIRONMENT, initializer=end_with_parent, initargs=(parent,)
        )
    except OSError as error:  # processes share semaphores
        raise OSError(
            error.errno,
            f"workers: no processes can be started here ({error.strerror or error}); allow semaphores (on Linux in "
            "/dev/shm), or use workers=1",
        ) from error


class Processes(Executing):
    """A pool of ``count`` processes, used by one check at a time."""

    piece_seconds = _SEEN_SECONDS

    def __init__(self, count: int) -> None:
        self.label, self._parent = f"{count} processes", os.getpid()
        super().__init__(_pool(count, self._parent), count, self.label)

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

    def renewed(self) -> Engine:
        """As `Engine.renewed`: as many new processes."""
        self.end()
        return taken(self.count)

    def end(self) -> None:
        """Kill the processes, even during their work."""
        if self._parent != os.getpid():
            return
        while any(not (each.running() or each.done()) for each in self._at_work):
            time.sleep(_HANDOVER_SECONDS)  # loky miscounts tasks that are killed before it has handed them over
        self._executor.shutdown(wait=True, kill_workers=True)

    def release(self) -> None:
        """Keep the pool, idle, for the next check that asks for the same number of processes."""
        with _lock:
            other = _idle.get(self.count)
            _idle[self.count] = self
        if other is not None:
            other.end()


class MapCalls:
    """A map-like callable. It is called with some tasks at a time, since most maps answer when all are done.

    ``lasting``: whether it can be called again after a worker has died.
    """

    piece_seconds = _SEEN_SECONDS

    def __init__(self, call: Callable[..., Any], count: int, label: str, *, lasting: bool = False) -> None:
        self.count, self.label, self._call, self._lasting = count, label, call, lasting

    def outcomes(self, function: Callable[..., object], tasks: deque[Task], watch: Watch) -> Outcomes:
        """As `Engine.outcomes`; in whatever order the map gives them."""
        length = self.count
        while tasks:
            some = [tasks.popleft() for _ in range(min(length, len(tasks)))]
            begin, left = time.perf_counter(), {task[0]: task for task in some}
            with looked_after(watch):
                try:
                    answers = self._call(partial(_spread, function), some)
                    yield from self._matched(answers, left, watch)
                except Exception as error:
                    death = _death(error)
                    for task in list(left.values()):
                        yield task, death
                    return
            pace = max(time.perf_counter() - begin, _HANDOVER_SECONDS) / len(some)
            lazy = hasattr(answers, "__next__")  # one that answers meanwhile need not be asked again and again
            length = len(tasks) if lazy else max(self.count, min(_GROWTH * length, int(_ROUND_SECONDS / pace)))

    def _matched(self, answers: Any, left: dict[int, Task], watch: Watch) -> Outcomes:
        """Each answer with its task, which is ``left`` no longer."""
        asked = len(left)
        if not isinstance(answers, Iterable):
            raise TypeError(
                f"workers={self.label} gives {answers!r:.60}; it must be like map, and give a result for each item"
            )
        for answer in answers:
            if not (isinstance(answer, tuple) and answer and answer[0] in left):
                raise TypeError(
                    f"workers={self.label} gives {answer!r:.60}; it must be like map: call the function once with each "
                    "item, and give what it returns"
                )
            watch.heard()
            yield left.pop(answer[0]), answer
            watch.look()
        if left:
            raise TypeError(
                f"workers={self.label} gives {asked - len(left)} results for {asked} items; it must give one for each"
            )

    def renewed(self) -> Engine:
        """As `Engine.renewed`: processes of our own, unless each call of the map has new workers."""
        return self if self._lasting else Executing(None, self.count, self.label).renewed()

    def end(self) -> None:
        """Do nothing: what a map has begun it ends."""

    release = end


def _spread(function: Callable[..., object], task: Task) -> Any:
    return function(*task)


@contextlib.contextmanager
def looked_after(watch: Watch) -> Iterator[None]:
    """Have another thread tell of a silence, while this one waits inside a map."""
    over = threading.Event()

    def listen() -> None:
        while not over.wait(watch.quiet()):
            watch.listen()

    thread = threading.Thread(target=listen, name="fastgc-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --- which engine ---


def choose(workers: Workers) -> tuple[int, Callable[[], Engine]]:
    """How many workers there are, and what gives the engine once there is enough work for it."""
    count, executor = width(workers), executor_of(workers)
    if executor is not None:
        return count, partial(Executing, executor, count, f"{kind_of(executor)}, {count} workers")
    if callable(workers):
        return count, partial(MapCalls, workers, count, kind_of(workers))
    return _by_joblib(workers)


def refusal(workers: Workers, count: int) -> str | None:
    """A note where one process is all that there is of several that were asked for."""
    if count > 1 or not isinstance(workers, int) or workers < 2:
        return None
    return f"workers={workers}, but joblib starts no processes here (no semaphores? another's worker?): one process"


def _by_joblib(workers: Any) -> tuple[int, Callable[[], Engine]]:
    """The engine of joblib's backend where the caller has set one, else processes of our own.

    Inside joblib's own workers joblib has set one itself, for what is nested: that is not the caller's wish.
    """
    backend, _ = get_active_backend()
    kind = type(backend).__name__.removesuffix("Backend")
    if kind == "Loky" or backend.nesting_level:
        count = process_count(workers)
        return count, partial(taken, count)
    count = int(joblib.effective_n_jobs(workers))
    if kind == "DaskDistributed":  # its own executor answers while others are at work, and says who died
        return count, lambda: Executing(backend.client.get_executor(), count, f"dask, {count} workers")
    label = f"joblib {kind.lower()}, {count} workers"
    return count, partial(MapCalls, partial(_joblib_map, count, backend), count, label, lasting=True)


def process_count(workers: int) -> int:
    """The number of processes that ``workers`` asks for; 1 where processes cannot be started."""
    with joblib.parallel_config("loky"):
        return int(joblib.effective_n_jobs(workers))


def _joblib_map(count: int, backend: Any, function: Callable[..., object], items: list[object]) -> object:
    """As map, by joblib and the backend that is active."""
    how = "generator" if backend.supports_return_generator else "list"
    calls = [joblib.delayed(function)(item) for item in items]
    return joblib.Parallel(n_jobs=count, return_as=how, batch_size=1, pre_dispatch=_AHEAD * count)(calls)


# --- processes of our own ---

_lock = threading.Lock()
_idle: dict[int, Processes] = {}  # by their number of processes


def _begin_anew() -> None:
    """In the child of a fork: another thread may have held the lock, and the pools are the parent's."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def taken(count: int) -> Processes:
    """A pool of ``count`` processes for the caller alone, until it is released: an earlier check's, or a new one.

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
