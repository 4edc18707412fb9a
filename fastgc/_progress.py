"""The progress bar of a check, and how long the rest of it takes."""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

ENTRIES, DOUBT = "entries", "in doubt"
_STDERR = 2  # the number of the file on which tqdm draws
_PLANNED = 60.0  # seconds from which the plan of a check is told before it begins
_LINE_EVERY = 60.0  # seconds between lines in a log: ten hours take as many lines as a long traceback
_DRAWN_EVERY = 0.5  # seconds: so that a bar moves within a second, whatever a call of the loss takes
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
_ROUNDED_FROM = 2.0  # of a unit, from which whole numbers are precise enough: "90 min", "2 h"
_FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
_LINE = "{desc}{n_fmt}/{total_fmt} [{elapsed}{postfix}]\n"


@dataclass
class _Phase:
    """Entries that are measured in one way: how many there are, how many are done, and the seconds they took."""

    total: int = 0
    done: int = 0
    seconds: float = 0.0
    first: int = 0  # entries that were done when it was looked at for the first time
    start: float = 0.0  # seconds until then, in which workers may have started

    def advance(self, entries: int) -> int:
        """Count finished entries; by how many the total grows for that."""
        if not self.done:
            self.first, self.start = entries, self.seconds
        self.done += entries
        more = max(0, self.done - self.total)
        self.total += more
        return more

    @property
    def pace(self) -> float:
        """Seconds for each entry, without the first ones if there are others; 0 until one is done."""
        if self.done > self.first:
            return (self.seconds - self.start) / (self.done - self.first)
        return self.seconds / self.done if self.done else 0.0

    @property
    def left(self) -> int:
        """Entries that are not done."""
        return max(0, self.total - self.done)


class Bar(Protocol):
    """What is used of tqdm's bars."""

    total: float

    def update(self, entries: int) -> object:
        """Count entries."""

    def set_description(self, text: str, refresh: bool) -> None:
        """Show a text in front."""

    def set_postfix(self, shown: dict[str, object], refresh: bool) -> None:
        """Show values behind."""

    def write(self, line: str, file: object) -> None:
        """Show a line above."""

    def close(self) -> None:
        """Show it for the last time."""


class Progress:
    """A tqdm bar over entries with phase, tensor, failures and time left. tqdm is imported only if it is shown.

    Entries in doubt are measured again, more slowly: they are added to the total, and have a pace of their own.

    Parameters
    ----------
    total : entries that are planned
    budget : seconds after which the check ends, if there is such a limit
    """

    def __init__(self, total: int, *, shown: bool, budget: float | None = None) -> None:
        self._bar: Bar | None = None
        self._failures: int | None = None  # until entries were judged
        self._judged = 0  # entries of which those in doubt are known
        self._phases = {ENTRIES: _Phase(total), DOUBT: _Phase()}
        self._phase, self._since, self._in_log = "", time.perf_counter(), False
        self._planned, self._last = 0.0, self._since + (budget or math.inf)  # when it is to end, and when at the latest
        self._redrawing: _Redrawing | None = None
        if shown:
            self._bar, self._in_log = _bar(total)

    def __enter__(self) -> Progress:
        if self._bar is not None and not (self._in_log or _in_notebook(self._bar)):
            self._redrawing = _Redrawing(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._redrawing is not None:
            self._redrawing.end()
        if self._bar is not None:
            self._bar.close()

    @property
    def seconds_left(self) -> float:
        """The time that the rest takes at the pace of each phase, if as many entries are in doubt as before.

        Until a pace is known, that of the plan; 0 while there is none either.
        """
        entries, doubt, time_now = self._phases[ENTRIES], self._phases[DOUBT], time.perf_counter()
        if entries.done == entries.first and (self._planned or not entries.done):
            return max(0.0, min(self._planned, self._last) - time_now)
        share = doubt.total / max(1, self._judged)
        more = share * (entries.total - self._judged)
        left = entries.left * entries.pace + (doubt.left + more) * doubt.pace
        return max(0.0, min(left - (time_now - self._since), self._last - time_now))

    def phase(self, name: str, more: int = 0) -> None:
        """Show what is being done; ``more`` entries are added to the total."""
        if self._bar is None:
            return
        self._pass()
        if name in self._phases:
            self._phases[name].total += more
        if name == DOUBT:
            self._judged = self._phases[ENTRIES].done
        self._grow(more)
        if name != self._phase:
            self._phase = name
            self._bar.set_description(name, refresh=not self._in_log)

    def enter(self, tensor: str) -> None:
        """Show the tensor that is being checked."""
        if self._bar is not None:
            self._bar.set_description(tensor, refresh=False)

    def plan(self, seconds: float, probes: float) -> None:
        """Note what the check takes; if that is long, it is told, the first time: before the check begins."""
        if self._bar is None or self._planned:
            return
        seconds = min(seconds, self._last - time.perf_counter())
        self._planned = time.perf_counter() + seconds
        if seconds >= _PLANNED:
            alone = f"; probes alone: {duration(probes)}" if probes else ""
            self._bar.write(f"about {duration(seconds)}{alone}", file=getattr(self._bar, "fp", None))

    def advance(self, entries: int) -> None:
        """Count finished entries."""
        if self._bar is None:
            return
        self._pass()
        self._grow(self._phases.get(self._phase, self._phases[ENTRIES]).advance(int(entries)))
        self.show()
        self._bar.update(int(entries))

    def failed(self, entries: int) -> None:
        """Count entries that failed."""
        self._failures, self._judged = (self._failures or 0) + entries, self._phases[ENTRIES].done
        if self._bar is not None:
            self.show()

    def show(self, *, redrawn: bool = False) -> None:
        """Note the failures and the time left, for the next time that the bar is drawn, or now."""
        assert self._bar is not None
        shown: dict[str, object] = {} if self._failures is None else {"failed": self._failures}
        left = self.seconds_left
        self._bar.set_postfix(shown | ({"left": duration(left)} if left else {}), refresh=redrawn)

    def _grow(self, more: int) -> None:
        """Add entries to the total."""
        if self._bar is None or not more:
            return
        self._bar.total += more
        container: Any = getattr(self._bar, "container", None)  # of a widget in a notebook
        if container is not None:
            container.children[1].max = self._bar.total  # tqdm sets it where a bar is made, and never again

    def _pass(self) -> None:
        """Count the time since the last look for the phase at work; what comes before the entries is no part of it."""
        time_now = time.perf_counter()
        if self._phase in self._phases:
            self._phases[self._phase].seconds += time_now - self._since
        self._since = time_now


class _Redrawing:
    """A thread that draws a bar now and then, so that it moves while one call of a loss takes long."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._over = progress, threading.Event()
        self._thread = threading.Thread(target=self._draw, name="fastgc-bar", daemon=True)
        self._thread.start()

    def _draw(self) -> None:
        while not self._over.wait(_DRAWN_EVERY):
            self._progress.show(redrawn=True)

    def end(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join()


def _bar(total: int) -> tuple[Bar, bool]:
    """A bar for a terminal or a notebook, or lines now and then for a log; and whether it is for a log.

    A bar inside another one, such as a caller's over several checks, is gone when it is done.
    """
    from tqdm.auto import tqdm

    if _in_notebook(tqdm) or os.isatty(_STDERR):
        bar = tqdm(total=total, unit="entry", dynamic_ncols=True, bar_format=_FORMAT)
        bar.leave = not getattr(bar, "pos", 0)
        return bar, False
    options: dict[str, float] = {"mininterval": _LINE_EVERY, "maxinterval": _LINE_EVERY, "position": 0}
    return tqdm(total=total, unit="entry", bar_format=_LINE, **options), True


def _in_notebook(bar: object) -> bool:
    """Whether a bar, or a class of bars, is a widget of a notebook."""
    kind = bar if isinstance(bar, type) else type(bar)
    return any(base.__module__ == "tqdm.notebook" for base in kind.__mro__)


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there are two: "90 min", "21 h"; below two seconds with a decimal."""
    size, unit = next((each for each in _UNITS if seconds >= _ROUNDED_FROM * each[0]), _UNITS[-1])
    return f"{seconds:.1f} s" if seconds < _ROUNDED_FROM else f"{seconds / size:.0f} {unit}"
