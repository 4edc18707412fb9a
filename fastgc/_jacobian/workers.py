"""Outputs of a function at many points from several processes."""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastgc._evaluation import executors, processes
from fastgc._evaluation.evaluator import LEAST_SECONDS, described
from fastgc._jacobian.function import Errors, Function, one_by_one
from fastgc._parameters.arrays import Array, Floats

_PIECES = 4  # for each process at a time: one that ends early takes over a piece of another
_WORTHWHILE = 0.03  # seconds of work: twice the 0.015 s that it takes to share it out
_SAME_THERE = 1e-8  # relative: another process may sum a set in another order; a changed global shows far above


def shared(
    function: Callable[[Any], Array], home: Any, point: Array, base: Floats, workers: int
) -> WorkersFunction | Function:
    """A function of one point, evaluated in processes; in this one, if only one is available.

    ``home`` is the caller's function, which may stand in a file that other processes cannot import.
    """
    count, begin = processes.process_count(workers), time.perf_counter()
    with processes.single_threaded():
        again = function(point.copy()).real
    seconds = max(time.perf_counter() - begin, LEAST_SECONDS)
    sent = SentFunction(function, point, base if np.array_equal(again, base) else None, base.size)
    return sent.values if count == 1 else WorkersFunction(sent, home, count, seconds)


@dataclass(frozen=True)
class SentFunction:
    """What every process receives once; ``base`` is for a comparison at the point, None for a noisy function."""

    function: Callable[[Any], Array]
    point: Array
    base: Floats | None
    size: int

    def values(self, points: Array) -> tuple[Array, Errors]:
        """The outputs at points, NaN where the function raises, and what it raises."""
        return one_by_one(self.function, self.size, self.point.dtype)(points)


class WorkersFunction:
    """Calls a function in several processes where there is enough work, else here; the results are the same.

    Parameters
    ----------
    home : callable
        See `shared`.
    seconds : float
        Approximate time of a call.

    Raises
    ------
    TypeError
        For a function that cannot be pickled.
    """

    def __init__(self, sent: SentFunction, home: Any, count: int, seconds: float) -> None:
        self.name, self.at_once = "python", _PIECES * count
        self._sent, self._count, self._seconds = sent, count, seconds
        self._pool: executors.Processes | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="fastgc-", ignore_cleanup_errors=True)
        self._path = Path(self._folder.name) / "function"
        try:
            processes.save_for(home, self._path, sent)
        except Exception as error:
            self.close()
            raise TypeError(
                f"workers={count}, but f or args cannot be pickled for other processes ({described(error)}); leave "
                "out open files, locks and handles (create them inside f), or use workers=1"
            ) from error
        except BaseException:
            self.close()
            raise

    def __call__(self, points: Array) -> tuple[Array, Errors]:
        """See `fastgc._jacobian.function.Function`."""
        if len(points) < 2 or len(points) * self._seconds < _WORTHWHILE:
            with processes.single_threaded():
                return self._sent.values(points)
        pieces = np.array_split(np.arange(len(points)), min(len(points), self.at_once))
        values, errors = np.empty((len(points), self._sent.size), self._sent.point.dtype), []
        spent = 0.0
        for number, found, raised, seconds in self._results([points[piece] for piece in pieces]):
            values[pieces[number]] = found
            errors += [(int(pieces[number][k]), error) for k, error in raised]
            spent += seconds
        self._seconds = max(spent / len(points), LEAST_SECONDS)
        return values, sorted(errors, key=lambda each: each[0])

    def _results(self, pieces: list[Array]) -> list[Any]:
        """The results of all pieces; after an exception the processes are killed, so that none is left at work."""
        self.name = f"python ({self._count} processes)"
        pool = self._pool = self._pool or executors.taken(self._count)
        try:
            return [_received(each) for each in pool.results(_run, [(self._path, *each) for each in enumerate(pieces)])]
        except BaseException as error:
            self._pool = None
            pool.end()
            if isinstance(error, BrokenExecutor):
                raise RuntimeError(
                    f"a worker process died while it evaluated f (out of memory? a crash of compiled code?): "
                    f"{described(error)}; try fewer workers, or workers=1 to see the crash itself"
                ) from error
            raise

    def close(self) -> None:
        """Keep the processes for the next check, and remove the files."""
        if self._pool is not None:
            executors.given_back(self._pool)
            self._pool = None
        self._folder.cleanup()


# --- in a worker process ---

_present: dict[Path, SentFunction] = {}  # at most one check at a time


def _run(path: Path, number: int, points: Array) -> Any:
    """The outputs of a piece, what was raised and the time it took; an exception that ends the check is pickled."""
    try:
        sent, begin = _opened(path), time.perf_counter()
        values, errors = sent.values(points)
        return number, values, [(k, processes.portable(e)) for k, e in errors], time.perf_counter() - begin
    except Exception as error:
        return processes.portable(error)


def _opened(path: Path) -> SentFunction:
    if path not in _present:
        _present.clear()
        sent: SentFunction = processes.load(path)
        if sent.base is not None:
            here = sent.function(sent.point.copy()).real
            off = np.flatnonzero(~(np.abs(here - sent.base) <= _SAME_THERE * np.abs(sent.base)))
            if off.size:
                raise ValueError(
                    f"f gives {here[off[0]]!r} in a worker process where it gives {sent.base[off[0]]!r} in this one: "
                    "it reads something that is not sent to workers (a global changed after its module was imported, a "
                    "module edited since); pass that through args, or use workers=1"
                )
        _present[path] = sent
    return _present[path]


def _received(result: Any) -> tuple[int, Array, list[tuple[int, Exception]], float]:
    """A result of `_run` in the main process; an exception that ends the check is raised."""
    if isinstance(result, bytes):
        raise pickle.loads(result)
    number, values, errors, seconds = result
    return number, values, [(k, pickle.loads(error)) for k, error in errors], seconds
