"""Outputs of a function at many points from several workers."""

from __future__ import annotations

import contextlib
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgc._arguments import listed
from fastgc._evaluation.evaluator import LEAST_SECONDS
from fastgc._evaluation.executors import choose
from fastgc._evaluation.parcels import portable
from fastgc._evaluation.pieces import SharedWork, single_threaded
from fastgc._evaluation.processes import SAME_VALUE_THERE
from fastgc._evaluation.workers_option import is_number
from fastgc._jacobian.function import Errors, Function, one_by_one
from fastgc._parameters.arrays import Array, Floats
from fastgc._words import Workers

_PIECES = 4  # for each worker at a time: one that ends early takes over a piece of another


def shared(
    function: Callable[[Any], Array], home: object, point: Array, base: Floats, workers: Workers
) -> WorkersFunction | Function:
    """A function of one point, evaluated by workers; in this process, if only one is available.

    ``home`` is the caller's function, which may stand in a file that other processes cannot import.
    """
    count, begin = choose(workers)[0], time.perf_counter()
    with single_threaded():
        again = function(point.copy()).real
    seconds = max(time.perf_counter() - begin, LEAST_SECONDS)
    same = np.array_equal(again, base, equal_nan=True)
    sent = SentFunction(function, point, base if same else None, base.size)
    return sent.values if count == 1 and is_number(workers) else WorkersFunction(sent, home, workers, seconds)


@dataclass(frozen=True)
class SentFunction:
    """What every worker receives once; ``base`` is for a comparison at the point, None for a noisy function."""

    function: Callable[[Any], Array]
    point: Array
    base: Floats | None
    size: int

    def values(self, points: Array) -> tuple[Array, Errors]:
        """The outputs at points, NaN where the function raises, and what it raises."""
        return one_by_one(self.function, self.size, self.point.dtype)(points)

    def opened(self) -> SentFunction:
        """Itself, in a worker.

        Raises
        ------
        ValueError
            Where the function gives other values here.
        """
        if self.base is not None:
            here = self.function(self.point.copy()).real
            near = np.abs(here - self.base) <= SAME_VALUE_THERE * np.abs(self.base)
            off = np.flatnonzero(~(near | (here == self.base) | (np.isnan(here) & np.isnan(self.base))))
            if off.size:
                raise ValueError(
                    f"f gives {here[off[0]]!r} in a worker process where it gives {self.base[off[0]]!r} in this one: "
                    "it reads something that is not sent to workers (a global changed after its module was imported, a "
                    "module edited since); pass that through args, or use workers=1"
                )
        return self

    def sendable(self, points: Array) -> tuple[Array, list[tuple[int, bytes]]]:
        """The same as `values`, with the exceptions pickled."""
        with np.errstate(all="ignore"):  # as where the check runs
            values, errors = self.values(points)
        return values, [(k, portable(error)) for k, error in errors]


class WorkersFunction:
    """Calls a function in workers where there is enough work, else here; the results are the same.

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

    def __init__(self, sent: SentFunction, home: object, workers: Workers, seconds: float) -> None:
        self._sent = sent
        self._work = SharedWork(workers, sent, home, ("f", "f or args"), seconds=seconds)
        self.at_once = _PIECES * self._work.count

    @property
    def name(self) -> str:
        """How the function is evaluated."""
        return self._work.name

    @property
    def pace(self) -> float | None:
        """As `SharedWork.pace`."""
        return self._work.pace

    def __call__(self, points: Array) -> tuple[Array, Errors]:
        """See `fastgc._jacobian.function.Function`."""
        if not self._work.worthwhile(len(points)):
            with single_threaded():
                return self._sent.values(points)
        values, errors = np.empty((len(points), self._sent.size), self._sent.point.dtype), []
        results = self._work.results(
            "sendable", len(points), lambda part: (points[part],), lambda part: self._displaced(points[part]), math.inf
        )
        with contextlib.closing(results):
            for _, part, (found, raised) in results:
                values[part] = found
                errors += [(part.start + k, pickle.loads(error)) for k, error in raised]
        return values, sorted(errors, key=lambda each: each[0])

    def _displaced(self, points: Array) -> str:
        """Which inputs are displaced at some of these points, in words."""
        columns = np.flatnonzero((points != self._sent.point).any(axis=0)).tolist()
        return f"inputs {listed(columns)} displaced" if columns else "no input displaced"

    def close(self) -> None:
        """Keep the processes for the next check, and remove the files."""
        self._work.close()
