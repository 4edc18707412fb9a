"""The clock of time budgets, which stands still while Numba compiles."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any


class _Compilations:
    """How long Numba has compiled while somebody listened; one inside another counts once."""

    def __init__(self) -> None:
        self.seconds, self._depth, self._begin = 0.0, 0, 0.0
        self.listener: Any = None
        self.users = 0  # checks that run, in several threads perhaps

    def begin(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._begin = time.perf_counter()

    def end(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._begin


_compilations = _Compilations()  # Numba compiles for one thread at a time, whoever asks


def now() -> float:
    """Seconds of ``time.perf_counter``, without those in which Numba compiled inside `compilation_left_out`."""
    return time.perf_counter() - _compilations.seconds


def compiled_seconds() -> float:
    """The time that `now` has left out so far."""
    return _compilations.seconds


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
        event.register("numba:compile", _compilations.listener)
    try:
        yield
    finally:
        _compilations.users -= 1
        if _compilations.users == 0:
            event.unregister("numba:compile", _compilations.listener)


def _listener(base: Any) -> Any:
    """What Numba tells when it begins to compile and when it ends."""

    def on_start(self: Any, event: Any) -> None:
        _compilations.begin()

    def on_end(self: Any, event: Any) -> None:
        _compilations.end()

    return type("Listener", (base,), {"on_start": on_start, "on_end": on_end})()
