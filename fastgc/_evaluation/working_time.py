"""The clock of time budgets, which stands still while Numba compiles."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


class _Compilations:
    """How long Numba has compiled while somebody listened; one inside another counts once."""

    def __init__(self) -> None:
        self.seconds, self._depth, self._begin = 0.0, 0, 0.0
        self.number = 0  # of compilations
        self.listener: object = None
        self.users = 0  # checks that run, in several threads perhaps

    def stands_at(self) -> float:
        """The clock, which stands still while something is left out."""
        return self._begin if self._depth else time.perf_counter()

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
    return _compilations.stands_at() - _compilations.seconds


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


@contextlib.contextmanager
def counted() -> Iterator[Callable[[], float]]:
    """Have `now` go on inside `left_out`, unless Numba compiles: then all of it counts as compilation.

    It gives a function that gives the seconds which were counted.
    """
    begin, compilations = time.perf_counter(), _compilations.number
    spent = 0.0
    yield lambda: spent
    if compilations == _compilations.number:
        spent = time.perf_counter() - begin
        _compilations.give_back(spent)


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
        _compilations.listener = _listener(event.Listener)
        event.register("numba:compiler_lock", _compilations.listener)
    try:
        yield
    finally:
        _compilations.users -= 1
        if _compilations.users == 0:
            event.unregister("numba:compiler_lock", _compilations.listener)


def _listener(base: type) -> object:
    """What Numba tells when it begins to compile and when it ends."""

    def on_start(self: object, event: object) -> None:
        _compilations.number += 1
        _compilations.begin()

    def on_end(self: object, event: object) -> None:
        _compilations.end()

    return type("Listener", (base,), {"on_start": on_start, "on_end": on_end})()
