"""Locks in the child of a fork, and properties that hold none."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from fastgc._forks import Turns, cached_property


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    @cached_property
    def value(self) -> int:
        """A number."""
        self.calls += 1
        return self.calls


def test_a_property_is_computed_once() -> None:
    one, other = Counted(), Counted()
    assert (one.value, one.value, other.value) == (1, 1, 1)
    assert Counted.value.__doc__ == "A number."


def test_a_property_that_raises_is_computed_again() -> None:
    class Failing(Counted):
        @cached_property
        def other(self) -> int:
            self.calls += 1
            return 1 // (self.calls - 1)

    one = Failing()
    with pytest.raises(ZeroDivisionError):
        _ = one.other
    assert one.other == 1


def test_a_thread_takes_a_turn_within_its_own() -> None:
    turns = Turns()
    with turns(), turns():
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")  # of JAX, where another test has imported it
@pytest.mark.parametrize("mine", [True, False], ids=["of the forking thread", "of another thread"])
def test_the_child_of_a_fork_waits_for_no_thread_of_its_parent(mine: bool) -> None:
    turns, held, over = Turns(), threading.Event(), threading.Event()

    def hold() -> None:
        with turns():
            held.set()
            over.wait()

    thread = threading.Thread(target=hold)
    if not mine:
        thread.start()
        held.wait()
    with turns() if mine else threading.Lock():
        child = os.fork()
        if not child:
            os._exit(0 if turns._lock.acquire(blocking=False) else 1)
        ended = os.waitpid(child, 0)[1]
    over.set()
    if not mine:
        thread.join()
    assert not ended
