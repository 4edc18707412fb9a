"""WorkQueue of work, the threads that take them, and the number of BLAS threads meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numba
import numpy as np
import pytest
import scipy.linalg  # noqa: F401 - its BLAS is what compiled code calls
import threadpoolctl

import fastgc
from fastgc._evaluation import threads as _threads
from fastgc._evaluation.threads import WorkerThreads, WorkQueue, single_threaded_blas
from tests.support.concurrency import at_once


def halves(left: int) -> int:
    return left // 2


def crewed(count: int, items: int, work: Callable[[int, slice], object], done: Callable[[int], object] = id) -> None:
    crew = WorkerThreads(count)
    try:
        crew.run(WorkQueue(items, lambda left: min(5, halves(left))), work, done)
    finally:
        crew.close()


@pytest.mark.parametrize("count", [0, 1, 2, 17, 1000])
def test_pieces_are_every_item_once_the_last_ones_short(count: int) -> None:
    pieces = WorkQueue(count, halves)
    taken = list(iter(pieces.take, None))
    assert [i for piece in taken for i in range(piece.start, piece.stop)] == list(range(count))
    lengths = [piece.stop - piece.start for piece in taken]
    assert lengths == sorted(lengths, reverse=True) and lengths[-1:] in ([], [1])
    assert pieces.left == 0


def test_dropped_pieces_are_taken_by_nobody() -> None:
    pieces = WorkQueue(10, halves)
    assert pieces.take() == slice(0, 5)
    pieces.drop()
    assert pieces.left == 0 and pieces.take() is None


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_worker_threads_do_all_items_once_and_says_so(threads: int) -> None:
    out, told, workers = np.zeros(1000, int), [], set()
    all_there = threading.Barrier(threads)

    def work(thread: int, piece: slice) -> None:
        if thread not in workers:
            workers.add(thread)
            all_there.wait(60)
        out[piece] += 1

    crewed(threads, out.size, work, told.append)
    assert (out == 1).all() and sum(told) == out.size
    assert workers == set(range(threads))


def test_a_thread_that_has_not_begun_is_not_waited_for() -> None:
    crew, busy, items = WorkerThreads(2), threading.Event(), []
    try:
        crew._pool.submit(busy.wait, 60)
        crew.run(
            WorkQueue(10, lambda left: 1), lambda thread, piece: items.append((thread, piece.start)), lambda count: None
        )
        assert items == [(0, i) for i in range(10)] and not busy.is_set()
    finally:
        busy.set()
        crew.close()


def test_where_no_thread_can_be_started_the_callers_does_all_work() -> None:
    crew, items = WorkerThreads(3), list[int]()
    crew._pool.shutdown()  # as `concurrent.futures` does when the interpreter ends
    crew.run(WorkQueue(10, lambda left: 1), lambda thread, piece: items.append(piece.start), lambda count: None)
    assert items == list(range(10))


@pytest.mark.parametrize("failing", [0, 1])
def test_what_a_thread_raises_is_raised_when_none_is_at_work(failing: int) -> None:
    at_work, lock = [0], threading.Lock()

    both_there = threading.Barrier(2)
    begun: set[int] = set()

    def work(thread: int, piece: slice) -> None:
        if thread not in begun:
            begun.add(thread)
            both_there.wait(60)
        with lock:
            at_work[0] += 1
        try:
            time.sleep(1e-3)
            if thread == failing and piece.start > 20:
                raise ArithmeticError(f"in thread {thread}")
        finally:
            with lock:
                at_work[0] -= 1

    with pytest.raises(ArithmeticError, match=f"in thread {failing}"):
        crewed(2, 10_000, work)
    assert at_work == [0]


def test_an_interrupt_ends_the_work_of_all() -> None:
    seen: list[int] = []

    def work(thread: int, piece: slice) -> None:
        seen.append(piece.stop)
        if thread == 0 and len(seen) > 4:
            raise KeyboardInterrupt
        time.sleep(1e-3)

    running = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        crewed(3, 10_000, work)
    assert len(seen) < 1000 and threading.active_count() == running


def test_whoever_counts_may_end_the_work() -> None:
    def enough(items: int) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        crewed(2, 100, lambda thread, piece: None, enough)


# --- BLAS ---


def blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]


def test_blas_has_one_thread_until_the_last_one_leaves() -> None:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert 2 in before
        first, second = single_threaded_blas(), single_threaded_blas()
        first.__enter__()
        second.__enter__()
        assert set(blas_threads()) == {1}
        first.__exit__(None, None, None)  # the first to enter is the first to leave
        assert set(blas_threads()) == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == before


def test_the_number_of_blas_threads_comes_back_after_an_exception() -> None:
    def fails() -> Any:
        with single_threaded_blas():
            raise ArithmeticError

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with pytest.raises(ArithmeticError):
            fails()
        assert blas_threads() == before


def test_libraries_are_looked_for_again_after_an_import_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with single_threaded_blas():
        pass
    known = single_threaded_blas._controller
    with single_threaded_blas():
        assert single_threaded_blas._controller is known
    monkeypatch.setitem(sys.modules, "a module that was not there", sys)
    with single_threaded_blas():
        assert single_threaded_blas._controller is not known


class Visitor:
    """A thread that enters and leaves when told to, and lives on."""

    def __init__(self) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        for number in range(3):  # entering, leaving, ending
            self._go.acquire()
            if number == 0:
                inside = single_threaded_blas()
                inside.__enter__()
            if number == 1:
                inside.__exit__(None, None, None)
            self._done.release()

    def next(self) -> None:
        """Do what comes next, and wait until it is done."""
        self._go.release()
        assert self._done.acquire(timeout=60), "a thread hangs as it enters or leaves"


@pytest.fixture
def two_blas_threads() -> Iterator[list[int]]:
    """Two, where BLAS can have two; set by a thread that has no more to do with it."""
    before = blas_threads()
    in_a_thread(threadpoolctl.threadpool_limits, 2, user_api="blas")
    yield blas_threads()
    for each, number in zip(
        [each for each in threadpoolctl.ThreadpoolController().lib_controllers if each.user_api == "blas"],
        before,
        strict=True,
    ):
        in_a_thread(each.set_num_threads, number)


def in_a_thread(function: Callable[..., Any], *args: Any, **options: Any) -> None:
    thread = threading.Thread(target=function, args=args, kwargs=options)
    thread.start()
    thread.join()


@pytest.mark.parametrize("leaving", [[0, 1], [1, 0]])
def test_blas_has_its_threads_back_whoever_leaves_last(leaving: list[int], two_blas_threads: list[int]) -> None:
    visitors = [Visitor(), Visitor()]
    for each in visitors:
        each.next()
        assert set(blas_threads()) == {1}
    visitors[leaving[0]].next()
    assert set(blas_threads()) == {1}
    visitors[leaving[1]].next()
    assert blas_threads() == two_blas_threads
    for each in visitors:
        each.next()


def test_a_limit_that_another_thread_has_set_is_left_alone(two_blas_threads: list[int]) -> None:
    """Whether it is heeded depends on threadpoolctl."""
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        visitor = Visitor()
        visitor.next()
        visitor.next()
    assert blas_threads() == two_blas_threads
    visitor.next()


def test_the_limit_needs_no_thread(two_blas_threads: list[int]) -> None:
    running = threading.active_count()
    with single_threaded_blas():
        assert threading.active_count() == running
    assert blas_threads() == two_blas_threads


@pytest.mark.parametrize("name", ["_limit", "_lift"])
@pytest.mark.parametrize("done", [False, True])
def test_an_interrupt_on_the_way_in_or_out_leaves_no_limit(
    name: str, done: bool, two_blas_threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, times = getattr(_threads, name), []

    def interrupted(*arguments: Any) -> None:
        times.append(1)
        if done or len(times) > 1:
            real(*arguments)
        if len(times) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(_threads, name, interrupted)
    with pytest.raises(KeyboardInterrupt), single_threaded_blas():
        pass
    assert blas_threads() == two_blas_threads
    with single_threaded_blas():
        assert set(blas_threads()) == {1}
    assert blas_threads() == two_blas_threads


class PerThread:
    """A library that counts threads for each thread, as MKL does."""

    user_api, internal_api = "blas", "mkl"

    def __init__(self) -> None:
        self._own = threading.local()

    def get_num_threads(self) -> int:
        return getattr(self._own, "number", 7)

    def set_num_threads(self, number: int) -> None:
        self._own.number = number


def test_where_each_thread_has_its_own_number_each_sets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    library, seen = PerThread(), set()
    controller = types.SimpleNamespace(lib_controllers=[library])
    monkeypatch.setattr(single_threaded_blas, "_controller", controller)
    monkeypatch.setattr(threadpoolctl, "ThreadpoolController", lambda: controller)

    def work(thread: int, piece: slice) -> None:
        seen.add((thread, library.get_num_threads()))
        time.sleep(1e-3)

    with single_threaded_blas():
        assert library.get_num_threads() == 1
        crewed(2, 100, work)
    assert library.get_num_threads() == 7
    assert seen == {(0, 1), (1, 1)}


# --- jitted checks at once ---


@numba.njit
def product(p: Any, x: Any) -> float:
    return np.sum(np.tanh(x @ p) ** 2)


def product_slopes(p: Any, x: Any) -> Any:
    hidden = np.tanh(x @ p)
    return x.T @ (2 * hidden * (1 - hidden**2))


def test_jitted_checks_at_once_pass_and_leave_blas_as_it_was(two_blas_threads: list[int]) -> None:
    rng = np.random.default_rng(0)
    p, x = rng.normal(size=12), rng.normal(size=(20, 12))

    def check() -> Any:
        return fastgc.check_gradients(product, product_slopes, p, args=(x,), engine="numba", threads=2)

    for _ in range(3):
        reports = at_once(*[check] * 4)
        assert [report.verdict for report in reports] == ["pass"] * 4
        assert {str(report.to_dict()["tensors"]) for report in reports} == {str(check().to_dict()["tensors"])}
        assert blas_threads() == two_blas_threads


def test_losses_are_compiled_in_several_threads_at_once() -> None:
    def check(factor: float) -> str:
        loss = numba.njit(lambda p: factor * np.sum(np.sin(p)))
        p = np.linspace(0, 1, 9)
        return fastgc.check_gradients(loss, factor * np.cos(p), p, engine="numba", threads=2).verdict

    assert at_once(*[partial(check, float(k)) for k in range(1, 6)]) == ["pass"] * 5


PARALLEL = """
import threading
import numba
import numpy as np
import fastgc

@numba.njit(parallel=True)
def loss(p):
    total = 0.0
    for i in numba.prange(p.size):
        total += np.sin(p[i])
    return total

@numba.njit(parallel=True)
def slopes(p):
    out = np.empty(p.size)
    for i in numba.prange(p.size):
        out[i] = np.cos(p[i])
    return out

def check(engine):
    print(fastgc.check_gradients(loss, slopes, np.linspace(0, 1, 50), samples="all", engine=engine).verdict)

threads = [threading.Thread(target=check, args=(engine,)) for engine in ("numba", "numba", "python", "python")]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_parallel_losses_take_turns_where_numba_cannot_run_two() -> None:
    environment = os.environ | {"NUMBA_THREADING_LAYER": "workqueue"}
    run = subprocess.run([sys.executable, "-c", PARALLEL], env=environment, capture_output=True, text=True, timeout=300)
    assert run.stdout.count("pass") == 4 and run.returncode == 0, run.stderr[-2000:]
