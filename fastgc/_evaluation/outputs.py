"""Outputs of a jitted function at many points: called from Python, or from a compiled loop in threads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgc._evaluation import kernels as _kernels
from fastgc._evaluation.engine import Execution, affordable_threads, in_parallel, loop_pays
from fastgc._evaluation.evaluator import LEAST_SECONDS
from fastgc._evaluation.frozen_globals import Read
from fastgc._evaluation.threads import LONGEST_PIECE, WorkerThreads, WorkQueue, piece_length
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array
from fastgc._parameters.point import Point

_CALL_SECONDS = 2e-6  # that a call from Python and the copies of its outputs add (bench/jacobians.py)

Errors = Sequence[tuple[int, Exception]]  # what was raised at which of several points
Outputs = Callable[[Array], tuple[Array, Errors]]  # shape (k, m), at points of shape (k, n)


@dataclass(frozen=True)
class JittedFunction:
    """A jitted function of several outputs, at a point.

    Attributes
    ----------
    point : x and the other arguments
    shape : of the outputs
    fills : the number of the argument in ``args`` that the function fills, where it returns nothing
    read : the outputs that a version of the function returns at x, shape (m,)
    """

    function: object
    point: Point
    shape: tuple[int, ...]
    fills: int | None
    read: Read

    @cached_property
    def compiled(self) -> Any:
        """Its machine code, in the form that returns the outputs."""
        arguments = (self.point.received_by(jitted=True), *self.point.args)
        function = self.function
        if self.fills is not None:
            function = _kernels.filled(function, len(arguments), 1 + self.fills)
        return _kernels.CompiledLoss(function, arguments)


class JittedOutputs:
    """Calls a jitted function from Python, until `expect` finds that a compiled loop saves time.

    Both run the same machine code, so that the outputs are the same to the bit, whatever the number of threads.

    Parameters
    ----------
    plain : callable
        The outputs by calls from Python, NaN where the function raises.
    limits : ExitStack
        Closed at the end; it lifts the limit of BLAS threads.
    """

    def __init__(
        self, plain: Outputs, jitted: JittedFunction, execution: Execution, limits: contextlib.ExitStack
    ) -> None:
        self.name, self.notes = "python", tuple[str, ...]()
        self._plain, self._jitted, self._execution, self._limits = plain, jitted, execution, limits
        self._seconds = 0.0  # of a call
        self._loop: Callable[..., int] | None = None

    @property
    def at_once(self) -> int:
        """Points between two looks at the clock."""
        return 1 if self._loop is None else max(1, int(self._threads.count * LONGEST_PIECE / self._seconds))

    def expect(self, evaluations: int) -> int:
        """Compile the loop if it saves time in so many evaluations, or if it is asked for; how often this calls f."""
        jitted, execution = self._jitted, self._execution
        if execution.engine == "python":
            return 0
        flat = jitted.point.leaves[0].reshape(1, -1)
        (values, _), begin = self._plain(flat), time.perf_counter()
        again, _ = self._plain(flat)
        self._seconds = max(time.perf_counter() - begin, LEAST_SECONDS)
        noisy = not np.array_equal(values, again, equal_nan=True)
        parallel = in_parallel(jitted.function, jitted.point.args)
        count, note = affordable_threads(
            jitted.function, jitted.point, execution.threads, jitted.read, parallel=parallel, what="f", noisy=noisy
        )
        if (
            execution.engine == "numba"
            or loop_pays(evaluations, self._seconds, count, call=_CALL_SECONDS)
            or self._is_compiled()
        ):
            self._compile(count)
            self.notes = (note,) if note else ()
        return 2

    def _is_compiled(self) -> bool:
        """Whether the loop exists already; not asked where another function would be compiled to find out."""
        jitted = self._jitted
        dtype = jitted.point.leaves[0].dtype
        return jitted.fills is None and _kernels.output_loop_is_compiled(jitted.compiled, dtype)

    def _compile(self, count: int) -> None:
        point = self._jitted.point
        assert point.stored is not None
        self._loop = _kernels.open_output_loop(self._jitted.compiled, point.leaves[0].dtype)
        stores = [point.stored, *(point.stored.copied() for _ in range(count - 1))]
        self._own = [(each.record(), point.args, each.leaves[0].reshape(-1)) for each in stores]  # of each thread
        self._threads = WorkerThreads(count)
        self._limits.callback(self._threads.close)
        self.name = f"numba ({count} thread{'s' if count > 1 else ''})"

    def __call__(self, points: Array) -> tuple[Array, Errors]:
        """The outputs at points, NaN where the function raises, and what it raises."""
        if self._loop is None:
            return self._plain(points)
        points = np.ascontiguousarray(points)
        out: Array = np.empty((len(points), int(np.prod(self._jitted.shape))), points.dtype)
        errors: list[tuple[int, Exception]] = []

        def work(thread: int, piece: slice) -> None:
            raised = self._run(thread, points[piece], out[piece])
            errors.extend((piece.start + k, error) for k, error in raised)

        queue = WorkQueue(len(points), lambda left: piece_length(left, self._seconds, self._threads.count))
        self._threads.run(queue, work, lambda count: None)
        return out, sorted(errors, key=lambda each: each[0])

    def _run(self, thread: int, points: Array, out: Array) -> Errors:
        """Write a piece's outputs to ``out``; called from Python if one raises, or has another shape."""
        assert self._loop is not None
        begin, done, errors = time.perf_counter(), 0, list[tuple[int, Exception]]()
        with contextlib.suppress(Exception):
            done = self._loop(*self._own[thread], points, np.array(self._jitted.shape, np.int64), out)
        if done < len(points):
            out[...], errors = self._plain(points)  # type: ignore[assignment]
        self._seconds = max((time.perf_counter() - begin) / len(points), LEAST_SECONDS)
        return errors

    def close(self) -> None:
        """End the threads, and lift the limit of BLAS threads."""
        self._limits.close()
