"""Pieces of work, the threads that take them, and the number of BLAS threads meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import threadpoolctl

from fastgc._threads import Crew, Pieces, single_threaded_blas


def halves(left: int) -> int:
    return left // 2


def crewed(count: int, items: int, work: Callable[[int, slice], object], done: Callable[[int], object] = id) -> None:
    crew = Crew(count)
    try:
        crew.run(Pieces(items, lambda left: min(5, halves(left))), work, done)
    finally:
        crew.close()


@pytest.mark.parametrize("count", [0, 1, 2, 17, 1000])
def test_pieces_are_every_item_once_the_last_ones_short(count: int) -> None:
    pieces = Pieces(count, halves)
    taken = list(iter(pieces.take, None))
    assert [i for piece in taken for i in range(piece.start, piece.stop)] == list(range(count))
    lengths = [piece.stop - piece.start for piece in taken]
    assert lengths == sorted(lengths, reverse=True) and lengths[-1:] in ([], [1])
    assert pieces.left == 0


def test_dropped_pieces_are_taken_by_nobody() -> None:
    pieces = Pieces(10, halves)
    assert pieces.take() == slice(0, 5)
    pieces.drop()
    assert pieces.left == 0 and pieces.take() is None


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_crew_does_all_items_once_and_says_so(threads: int) -> None:
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
    crew, busy, items = Crew(2), threading.Event(), []
    try:
        assert crew._pool is not None
        crew._pool.submit(busy.wait, 60)
        crew.run(
            Pieces(10, lambda left: 1), lambda thread, piece: items.append((thread, piece.start)), lambda count: None
        )
        assert items == [(0, i) for i in range(10)] and not busy.is_set()
    finally:
        busy.set()
        crew.close()


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
    known = single_threaded_blas._known_libraries()
    assert single_threaded_blas._known_libraries() is known
    monkeypatch.setitem(sys.modules, "a module that was not there", sys)
    assert single_threaded_blas._known_libraries() is not known
