"""Pieces of work shared out among threads, of which the caller's is one, and one BLAS thread meanwhile."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import threadpoolctl

Work = Callable[[int, slice], object]  # of a thread, by its number, on a slice of the items
Done = Callable[[int], object]  # told how many items more are done


class Pieces:
    """Slices of ``count`` items, which threads take one after the other until none is left.

    Parameters
    ----------
    length : callable
        How long the next piece is to be, from how many items are left.
    """

    def __init__(self, count: int, length: Callable[[int], int]) -> None:
        self._count, self._length, self._next = count, length, 0
        self._lock = threading.Lock()

    def take(self) -> slice | None:
        """The next piece, or None."""
        with self._lock:
            begin = self._next
            if begin >= self._count:
                return None
            self._next = min(self._count, begin + max(1, self._length(self._count - begin)))
            return slice(begin, self._next)

    def drop(self) -> None:
        """Leave the rest undone."""
        with self._lock:
            self._next = self._count

    @property
    def left(self) -> int:
        """Items that nobody has taken."""
        return self._count - self._next


class Crew:
    """Threads that take pieces of work; the caller's own is number 0."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count - 1, thread_name_prefix="fastgc") if count > 1 else None

    def run(self, pieces: Pieces, work: Work, done: Done) -> None:
        """Have all pieces done; what one of them (or ``done``) raises is raised here, when no thread is at work."""
        finished: deque[int] = deque()
        helpers: list[Future[None]] = []
        piece = pieces.take()
        try:
            if self._pool is not None and pieces.left:
                helpers = [self._pool.submit(_help, n, pieces, work, finished) for n in range(1, self.count)]
            while piece is not None:
                work(0, piece)
                done(piece.stop - piece.start + _drained(finished))
                piece = pieces.take()
            for helper in helpers:
                if not helper.cancel():  # one that has not begun is needed no more
                    helper.result()
            done(_drained(finished))
        finally:  # after an exception, Ctrl-C included: no thread may outlive the call
            pieces.drop()
            wait([helper for helper in helpers if not helper.cancel()])

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _help(number: int, pieces: Pieces, work: Work, finished: deque[int]) -> None:
    try:
        while (piece := pieces.take()) is not None:
            work(number, piece)
            finished.append(piece.stop - piece.start)
    except BaseException:
        pieces.drop()
        raise


def _drained(counts: deque[int]) -> int:
    return sum(counts.popleft() for _ in range(len(counts)))


class _SingleThreadedBlas:
    """One BLAS thread from the first that enters until the last that leaves.

    The number of threads belongs to the process. Each of several checks at a time would put back what it found, which
    another may have set.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = threading.Lock(), 0, contextlib.ExitStack()
        self._libraries, self._modules = threadpoolctl.ThreadpoolController(), len(sys.modules)

    def _known_libraries(self) -> threadpoolctl.ThreadpoolController:
        """Looked for anew (half a millisecond) if a module was imported since, and may have brought one."""
        if len(sys.modules) != self._modules:
            self._libraries, self._modules = threadpoolctl.ThreadpoolController(), len(sys.modules)
        return self._libraries

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._limit.enter_context(self._known_libraries().limit(limits=1, user_api="blas"))
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._limit.close()


single_threaded_blas: Any = _SingleThreadedBlas()
