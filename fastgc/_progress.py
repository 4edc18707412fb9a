"""The progress bar of a check, and how long the rest of it takes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

ENTRIES, DOUBT = "entries", "in doubt"
_STDERR = 2  # the number of the file on which tqdm draws
_PLANNED = 60.0  # seconds from which the plan of a check is told before it begins
_LINE_EVERY = 60.0  # seconds between lines in a log: ten hours take as many lines as a long traceback
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

    @property
    def pace(self) -> float:
        """Seconds for each entry; 0 until one is done."""
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
    """

    def __init__(self, total: int, *, shown: bool) -> None:
        self._bar: Bar | None = None
        self._failures: int | None = None  # until entries were judged
        self._phases = {ENTRIES: _Phase(total), DOUBT: _Phase()}
        self._phase, self._since, self._in_log = "", 0.0, False
        if shown:
            self._since = time.perf_counter()
            self._bar, self._in_log = _bar(total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def seconds_left(self) -> float:
        """The time that the rest takes at the pace of each phase, if as many entries are in doubt as before."""
        entries, doubt = self._phases[ENTRIES], self._phases[DOUBT]
        share = doubt.total / entries.done if entries.done else 0.0
        return entries.left * (entries.pace + share * doubt.pace) + doubt.left * doubt.pace

    def phase(self, name: str, more: int = 0) -> None:
        """Show what is being done; ``more`` entries are added to the total."""
        if self._bar is None:
            return
        self._pass()
        if name in self._phases:
            self._phases[name].total += more
        if more:
            self._bar.total += more
        if name != self._phase:
            self._phase = name
            self._bar.set_description(name, refresh=not self._in_log)

    def enter(self, tensor: str) -> None:
        """Show the tensor that is being checked."""
        if self._bar is not None:
            self._bar.set_description(tensor, refresh=False)

    def plan(self, seconds: float, probes: float) -> None:
        """Tell what a long check takes, before it begins."""
        if self._bar is not None and seconds >= _PLANNED:
            alone = f"; probes alone: {duration(probes)}" if probes else ""
            self._bar.write(f"about {duration(seconds)}{alone}", file=getattr(self._bar, "fp", None))

    def advance(self, entries: int) -> None:
        """Count finished entries."""
        if self._bar is None:
            return
        self._pass()
        self._phases.get(self._phase, self._phases[ENTRIES]).done += entries
        self._show()
        self._bar.update(entries)

    def failed(self, entries: int) -> None:
        """Count entries that failed."""
        self._failures = (self._failures or 0) + entries
        if self._bar is not None:
            self._show()

    def _pass(self) -> None:
        """Count the time since the last look for the phase at work; what comes before the entries is no part of it."""
        time_now = time.perf_counter()
        if self._phase in self._phases:
            self._phases[self._phase].seconds += time_now - self._since
        self._since = time_now

    def _show(self) -> None:
        assert self._bar is not None
        shown: dict[str, object] = {} if self._failures is None else {"failed": self._failures}
        left = self.seconds_left
        self._bar.set_postfix(shown | ({"left": duration(left)} if left else {}), refresh=False)


def _bar(total: int) -> tuple[Bar, bool]:
    """A bar for a terminal or a notebook, or lines now and then for a log; and whether it is for a log."""
    from tqdm.auto import tqdm

    in_notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    if in_notebook or os.isatty(_STDERR):
        return tqdm(total=total, unit="entry", dynamic_ncols=True, bar_format=_FORMAT), False
    return tqdm(total=total, unit="entry", bar_format=_LINE, mininterval=_LINE_EVERY, maxinterval=_LINE_EVERY), True


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there are two: "90 min", "21 h"; below two seconds with a decimal."""
    size, unit = next((each for each in _UNITS if seconds >= _ROUNDED_FROM * each[0]), _UNITS[-1])
    return f"{seconds:.1f} s" if seconds < _ROUNDED_FROM else f"{seconds / size:.0f} {unit}"
