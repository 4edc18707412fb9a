"""Work in several threads at once, with an end: what hangs fails."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

SECONDS = 120.0  # beyond all that is done here, on a busy machine too


def at_once(*works: Callable[[], Any], seconds: float = SECONDS) -> list[Any]:
    """What each returns, all of them begun together in threads of their own; the first exception is raised here.

    Raises
    ------
    AssertionError
        Where one has not ended in time, with the places where threads are. They go on as daemons.
    """
    barrier, results, errors = threading.Barrier(len(works)), [None] * len(works), []

    def run(number: int, work: Callable[[], Any]) -> None:
        try:
            barrier.wait(seconds)
            results[number] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    stuck = [thread for thread in threads if thread.is_alive()]
    assert not stuck, f"{len(stuck)} of {len(threads)} threads have not ended after {seconds} s:\n{_places(stuck)}"
    if errors:
        raise errors[0]
    return results


def _places(threads: list[threading.Thread]) -> str:
    frames = sys._current_frames()
    return "\n".join("".join(traceback.format_stack(frames[each.ident])) for each in threads if each.ident in frames)
