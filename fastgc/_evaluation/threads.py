"""Work shared among threads (the caller's is one of them), and the limit of one BLAS thread while they work."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeAlias

import threadpoolctl

from fastgc._forks import cached_property

Library: TypeAlias = Any  # of linear algebra, as threadpoolctl finds it, which has no types

LONGEST_PIECE = 0.05  # seconds: a progress bar moves, and Ctrl-C answers, twenty times a second
_SHORTEST_PIECE = 6e-4  # seconds: taking a piece from the queue (some 10 microseconds) costs about 2 % of it
_PIECES_LEFT = 4  # a piece is a quarter of a thread's share of what is left, so that no thread waits long at the end

Work = Callable[[int, slice], object]  # called with the number of a thread and a slice of the items
Done = Callable[[int], object]  # called with the number of items that were done since the last call


def piece_length(left: int, seconds: float, threads: int) -> int:
    """The number of items of the next piece when ``left`` are left, each of which takes so many seconds."""
    if left * seconds < 2 * _SHORTEST_PIECE:  # no piece would be left that is worth another thread
        return left
    even = max(left / (_PIECES_LEFT * threads), _SHORTEST_PIECE / seconds)
    return int(min(LONGEST_PIECE / seconds, even))


class WorkQueue:
    """Slices of ``count`` items, which threads take one after the other until none is left.

    Parameters
    ----------
    length : callable
        The length of the next slice, from the number of items that are left.
    """

    def __init__(self, count: int, length: Callable[[int], int]) -> None:
        self._count, self._length, self._next = count, length, 0
        self._lock = threading.Lock()

    def take(self) -> slice | None:
        """The next slice, or None."""
        with self._lock:
            begin = self._next
            if begin >= self._count:
                return None
            self._next = min(self._count, begin + max(1, self._length(self._count - begin)))
            return slice(begin, self._next)

    def drop(self) -> None:
        """Leave the other items undone."""
        with self._lock:
            self._next = self._count

    @property
    def left(self) -> int:
        """The number of items that no thread has taken."""
        return self._count - self._next


class WorkerThreads:
    """Threads that take slices from a queue; the caller's thread is number 0.

    ``prepare`` is called in the caller's thread before the others begin.
    """

    def __init__(self, count: int, prepare: Callable[[], object] = lambda: None) -> None:
        self.count, self._prepare = count, prepare

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.count - 1, "fastgc", single_threaded_blas.in_this_thread)

    def run(self, queue: WorkQueue, work: Work, done: Done) -> None:
        """Do all work of a queue. An exception of ``work`` or ``done`` is raised here once no thread is at work."""
        finished: deque[int] = deque()
        helpers: list[Future[None]] = []
        piece = queue.take()
        try:
            if self.count > 1 and queue.left:
                self._prepare()
                with contextlib.suppress(RuntimeError):  # no thread can be started, as when the interpreter ends
                    for n in range(1, self.count):
                        helpers.append(self._pool.submit(_help, n, queue, work, finished))
            while piece is not None:
                work(0, piece)
                done(piece.stop - piece.start + _drained(finished))
                piece = queue.take()
            for helper in helpers:
                if not helper.cancel():  # one that has not begun is no longer needed
                    helper.result()
            if helpers:
                done(_drained(finished))
        finally:  # after an exception or Ctrl-C too: no thread may outlive the call
            queue.drop()
            if helpers:
                wait([helper for helper in helpers if not helper.cancel()])

    def close(self) -> None:
        """End the threads."""
        if "_pool" in self.__dict__:  # as `cached_property` keeps it
            self._pool.shutdown()


def _help(number: int, queue: WorkQueue, work: Work, finished: deque[int]) -> None:
    try:
        while (piece := queue.take()) is not None:
            work(number, piece)
            finished.append(piece.stop - piece.start)
    except BaseException:
        queue.drop()
        raise


def _drained(counts: deque[int]) -> int:
    total = 0
    while counts:
        total += counts.popleft()
    return total


# --- one BLAS thread ---


class _SingleThreadedBlas:
    """A limit of one BLAS thread, from the first check that enters until the last one leaves.

    In most libraries the number of threads belongs to the process. If each of several simultaneous checks restored the
    number that it found, it could restore a limit that another check had set. Therefore the last one that leaves
    restores the numbers that the first one found. Other libraries have a number for each thread: every thread that
    works sets its own.
    """

    def __init__(self) -> None:
        self._controller, self._modules = threadpoolctl.ThreadpoolController(), len(sys.modules)
        self._changed: list[tuple[Library, int]] = []
        self.begin_anew()

    @contextlib.contextmanager
    def __call__(self, *, openmp: bool = False) -> Iterator[None]:
        """Enter. ``openmp``: limit OpenMP to one thread too, for the calling thread."""
        mark, own = object(), list[tuple[Library, int]]()
        try:
            self._enter(mark)
            _limit(self._libraries(of_each_thread=True, openmp=openmp), own)
            yield
        finally:
            try:
                self._leave(mark, own)
            finally:
                self._leave(mark, own)  # again: Ctrl-C may have interrupted the first time

    def begin_anew(self) -> None:
        """In the child of a fork: no other thread that was inside is there, and the limit is lifted."""
        self._lock, self._inside = threading.Lock(), set[object]()
        _release()
        _lift(self._changed)

    def in_this_thread(self) -> None:
        """Limit a helper thread for its whole life."""
        for each in self._libraries(of_each_thread=True):
            each.set_num_threads(1)

    def _enter(self, mark: object) -> None:
        _release()
        with self._lock:
            self._inside.add(mark)
            _limit(self._libraries(of_each_thread=False), self._changed)

    def _leave(self, mark: object, own: list[tuple[Library, int]]) -> None:
        _lift(own)
        with self._lock:
            self._inside.discard(mark)
            if not self._inside:
                _lift(self._changed)
        _release()

    def _libraries(self, *, of_each_thread: bool, openmp: bool = False) -> list[Library]:
        """The libraries that count threads for each thread, or for the process. They are searched after each import."""
        if len(sys.modules) != self._modules:  # a search takes a millisecond
            self._controller, self._modules = threadpoolctl.ThreadpoolController(), len(sys.modules)
        return [
            each
            for each in self._controller.lib_controllers
            if (each.user_api == "blas" and _counts_for_each_thread(each) == of_each_thread)
            or (each.user_api == "openmp" and openmp)
        ]


def _limit(libraries: list[Library], changed: list[tuple[Library, int]]) -> None:
    """Set one thread in libraries, and add their numbers before that to ``changed``.

    A library whose number does not change is left alone: another limit is in force there.
    """
    for each in libraries:
        number = each.get_num_threads()
        if number != 1:
            changed.append((each, number))
            each.set_num_threads(1)
            if each.get_num_threads() == number:
                changed.pop()


def _lift(changed: list[tuple[Library, int]]) -> None:
    """Restore the numbers of threads; the last change first."""
    while changed:
        each, number = changed[-1]
        each.set_num_threads(number)
        changed.pop()


def _counts_for_each_thread(library: Library) -> bool:
    """Whether a limit holds for the calling thread only: so it is with MKL (as threadpoolctl sets it) and OpenMP."""
    return library.internal_api == "mkl" or getattr(library, "threading_layer", "") == "openmp"


# Called to allow other threads to set limits in OpenBLAS. After a thread has set a limit, threadpoolctl (3.8) ignores
# what all others set, also the check that leaves last. So a thread that enters or leaves gives this up: the limits of
# the caller around a check are in force again after it. A limit that another thread has set stays in force.
_release: Callable[[], object] = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", lambda: None)

single_threaded_blas = _SingleThreadedBlas()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=single_threaded_blas.begin_anew)
