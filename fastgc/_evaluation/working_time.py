"""The clock of time budgets, which stands still while Numba compiles."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Compilations:
    """How long Numba has compiled while somebody listened; one inside another counts once."""

    def __init__(self) -> None:
        self.seconds, self._depth, self._begin = 0.0, 0, 0.0
        self.number = 0  # of compilations
        self.users = 0  # checks that run, in several threads perhaps

    def now(self) -> float:
        """Seconds without those that are left out."""
        return (self._begin if self._depth else time.perf_counter()) - self.seconds

    def begin(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._begin = time.perf_counter()

    def give_back(self, seconds: float) -> None:
        """Take seconds that have just passed for work, although they are inside."""
        if self._depth:
            self._begin += seconds

    def end(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._begin


_compilations = _Compilations()  # Numba compiles for one thread at a time, whoever asks


def now() -> float:
    """Seconds of ``time.perf_counter``, without those in which Numba compiled inside `compilation_left_out`."""
    return _compilations.now()


def compiled_seconds() -> float:
    """The time that `now` has left out so far."""
    return _compilations.seconds


@contextlib.contextmanager
def left_out(wanted: bool) -> Iterator[None]:
    """Have `now` stand still inside, if that is wanted: for what belongs to compilation and is not Numba's own."""
    if not wanted:
        yield
        return
    _compilations.begin()
    try:
        yield
    finally:
        _compilations.end()


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns and its seconds, which `now` counts inside `left_out` too.

    Where Numba compiles, all of it counts as compilation: 0 seconds.
    """
    begin, compilations = time.perf_counter(), _compilations.number
    result = call()
    if compilations != _compilations.number:
        return result, 0.0
    seconds = time.perf_counter() - begin
    _compilations.give_back(seconds)
    return result, seconds


@contextlib.contextmanager
def compilation_left_out(wanted: bool) -> Iterator[None]:
    """Have `now` stand still while Numba compiles. ``wanted``: also if nobody has imported Numba yet."""
    if not (wanted or "numba" in sys.modules):
        yield
        return
    from numba.core import event as untyped

    event: Any = untyped
    _compilations.users += 1
    if _compilations.users == 1:
        event.register("numba:compiler_lock", _listener())
    try:
        yield
    finally:
        _compilations.users -= 1
        if _compilations.users == 0:
            event.unregister("numba:compiler_lock", _listener())


@functools.cache
def _listener() -> object:
    """What Numba tells when it begins to compile and when it ends."""
    from numba.core.event import Listener

    def on_start(self: object, event: object) -> None:
        _compilations.number += 1
        _compilations.begin()

    def on_end(self: object, event: object) -> None:
        _compilations.end()

    return type("Compilations", (Listener,), {"on_start": on_start, "on_end": on_end})()
