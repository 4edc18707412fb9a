"""Ctrl-C during a check: the loss is not called again, and what is known by then becomes the report."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

import numpy as np

from fastgc._evaluation.evaluator import LEAST_SECONDS, Evaluator, Ray, Stopped, Tick
from fastgc._evaluation.wrapped import WrappedEvaluator
from fastgc._parameters.arrays import Array, Positions

Result = TypeVar("Result")


_PIECE_SECONDS = 2.0  # what Ctrl-C may lose, and a hundred times what sharing out work among processes takes


def pieces(count: int, first: int, most: int, least: int = 1) -> Iterator[slice]:
    """Slices of ``count`` items: ``first`` of them, and then as many as take seconds, from ``least`` to ``most``."""
    start, length = 0, first
    while start < count:
        begin = time.perf_counter()
        yield slice(start, min(start + length, count))
        pace = max((time.perf_counter() - begin) / length, LEAST_SECONDS)
        start, length = start + length, max(least, min(most, 4 * length, int(_PIECE_SECONDS / pace)))


class Interruption:
    """Whether a check was interrupted, and what Ctrl-C does while it runs.

    While the caller's functions run, Ctrl-C raises a KeyboardInterrupt in them, which ends them and becomes `Stopped`.
    Elsewhere it is only noted, and the next call of one of these functions raises `Stopped`: no arithmetic is left half
    done. A second Ctrl-C raises a KeyboardInterrupt wherever it arrives.

    Attributes
    ----------
    requested : whether the check was interrupted
    """

    def __init__(self) -> None:
        self.requested = False
        self._signals = 0
        self._calling = False  # whether one of the caller's functions runs

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle Ctrl-C. Only the main thread may; and who has replaced Python's own handler knows what to do instead.

        Nothing is done about SIGTERM: what it does to a process is for the program to say, and not for a library.
        """
        free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if not free or threading.current_thread() is not threading.main_thread():
            yield
            return
        try:
            signal.signal(signal.SIGINT, self._handle)
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self.requested or self._calling:
            raise KeyboardInterrupt
        self.requested = True

    def note(self, error: BaseException) -> None:
        """Note that the check was interrupted; the second time the exception passes through."""
        if not isinstance(error, Stopped) and (self.requested or self._signals > 1):
            raise error
        self.requested = True

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """What one of the caller's functions returns; `Stopped` if it is interrupted, or the check was before."""
        if self.requested:
            raise Stopped
        before = self._calling
        try:
            self._calling = True
            return function(*arguments)
        except KeyboardInterrupt as error:
            self.note(error)
            raise Stopped from None
        finally:
            self._calling = before


class InterruptibleEvaluator(WrappedEvaluator):
    """Another evaluator, which is closed when the check is interrupted."""

    def __init__(self, inner: Evaluator, interruption: Interruption) -> None:
        super().__init__(inner)
        self._interruption = interruption

    def value(self) -> Any:
        """As `Evaluator.value`."""
        return self._called(self.inner.value)

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """As `Evaluator.values`."""
        already = self._interruption.requested
        try:
            return self._called(self.inner.values, positions, displaced, tick)
        except Stopped as stopped:
            found = None if already else getattr(self.inner, "unfinished", None)
            if found is not None and found.size == displaced.size:
                stopped.values = np.reshape(found, displaced.shape)
            raise

    def along(self, positions: Positions, rows: Array) -> Array:
        """As `Evaluator.along`."""
        return self._called(self.inner.along, positions, rows)

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array:
        """As `Evaluator.along_rays`."""
        return self._called(self.inner.along_rays, directions, distances)

    def _called(self, method: Callable[..., Result], *arguments: object) -> Result:
        try:
            return self._interruption.call(method, *arguments)
        except Stopped:
            self.inner.close()  # what is displaced is restored before anything looks at the parameters
            raise
