"""WorkQueue of work shared out among threads, of which the caller's is one, and one BLAS thread meanwhile."""

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


class WorkQueue:
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


class WorkerThreads:
    """Threads that take pieces of work; the caller's own is number 0."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            self._pool = ThreadPoolExecutor(count - 1, "fastgc", single_threaded_blas.in_this_thread)

    def run(self, pieces: WorkQueue, work: Work, done: Done) -> None:
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


def _help(number: int, pieces: WorkQueue, work: Work, finished: deque[int]) -> None:
    try:
        while (piece := pieces.take()) is not None:
            work(number, piece)
            finished.append(piece.stop - piece.start)
    except BaseException:
        pieces.drop()
        raise


def _drained(counts: deque[int]) -> int:
    return sum(counts.popleft() for _ in range(len(counts)))


# --- one BLAS thread ---


class _SingleThreadedBlas:
    """One BLAS thread from the first check that enters until the last one that leaves.

    The number of threads belongs to the process, as a rule: of several checks at a time each would put back what it
    found, which another had set. And threadpoolctl (3.8) lets only the thread that set a limit lift it.
    So a thread of its own sets it when the first check enters, and lifts it when the last one has left. Some libraries
    have a number for each thread: there every thread that enters, or helps one that has, sets its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: set[object] = set()
        self._keeper = _Keeper([], None)  # not started: nothing is kept yet
        self._controller, self._modules = threadpoolctl.ThreadpoolController(), len(sys.modules)

    @contextlib.contextmanager
    def __call__(self, *, openmp: bool = False) -> Iterator[None]:
        """Enter; ``openmp``: with one thread in OpenMP too, for what the calling thread runs."""
        mark = object()
        try:
            self._enter(mark)
            with _one_thread(self._libraries(of_each_thread=True, openmp=openmp)):
                yield
        finally:
            try:
                self._leave(mark)
            finally:
                self._leave(mark)  # again: an interrupt may have fallen into the first time

    def in_this_thread(self) -> None:
        """The same for a thread that helps one that has entered, for as long as it lives."""
        for each in self._libraries(of_each_thread=True):
            each.set_num_threads(1)

    def _enter(self, mark: object) -> None:
        _release()
        with self._lock:
            self._inside.add(mark)
            if self._keeper.ended:
                self._keeper = _Keeper(self._libraries(of_each_thread=False), self._keeper)
                self._keeper.start()
            self._keeper.ready.wait()

    def _leave(self, mark: object) -> None:
        with self._lock:
            self._inside.discard(mark)
            if not self._inside and not self._keeper.ended:
                self._keeper.end()

    def _libraries(self, *, of_each_thread: bool, openmp: bool = False) -> list[Any]:
        """Those that count threads for the process, or for each thread; looked for again after an import."""
        if len(sys.modules) != self._modules:  # looking takes a millisecond
            self._controller, self._modules = threadpoolctl.ThreadpoolController(), len(sys.modules)
        return [
            each
            for each in self._controller.lib_controllers
            if (each.user_api == "blas" and _counts_for_each_thread(each) == of_each_thread)
            or (each.user_api == "openmp" and openmp)
        ]


class _Keeper(threading.Thread):
    """Keeps libraries at one thread until told to end."""

    def __init__(self, libraries: list[Any], before: _Keeper | None) -> None:
        super().__init__(name="fastgc-blas", daemon=True)
        self._libraries, self._before = libraries, before
        self.ready, self._over = threading.Event(), threading.Event()

    @property
    def ended(self) -> bool:
        """Whether it was told to end, or never began."""
        return self.ident is None or self._over.is_set()

    def run(self) -> None:
        try:
            if self._before is not None and self._before.ident is not None:
                self._before.join()  # nobody may have waited for it: an interrupt
            self._before = None
            with _one_thread(self._libraries):
                self.ready.set()
                self._over.wait()
        finally:
            self.ready.set()
            _release()

    def end(self) -> None:
        """Have the limit lifted, and wait until it is."""
        self._over.set()
        self.join()


@contextlib.contextmanager
def _one_thread(libraries: list[Any]) -> Iterator[None]:
    """One thread in libraries, and what they had afterwards: where it took effect, which another's limit prevents."""
    changed: list[tuple[Any, int]] = []
    try:
        for each in libraries:
            number = each.get_num_threads()
            changed.append((each, number))
            each.set_num_threads(1)
            if each.get_num_threads() == number:
                changed.pop()
        yield
    finally:
        for each, number in changed:
            each.set_num_threads(number)


def _counts_for_each_thread(library: Any) -> bool:
    """MKL's limits, as threadpoolctl sets them, and OpenMP's hold for the calling thread."""
    return library.internal_api == "mkl" or getattr(library, "threading_layer", "") == "openmp"


def _release() -> None:
    """Let another thread set limits, if threadpoolctl (3.8) heeds the calling one alone, as it does after a limit.

    Limits of the caller around a check are so kept from it, and are in force again afterwards. Those of another thread
    are left alone: BLAS has as many threads as they say.
    """
    release = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if release is not None:
        release()


single_threaded_blas = _SingleThreadedBlas()
