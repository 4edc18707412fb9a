"""Whether the progress bar foresees the end of a check.

eta: at every moment from 10 % of a check's time on, the end that the bar foresees (the time that has passed and the
time left that it shows), as a share of the true end: the largest deviation from 1. Target: at most 30 %. Every entry of
a loss that sleeps for 1 ms is checked, where no entry, 1 % of the entries and all entries are wrong, in this process
and by two workers, some 20 s each. The loss sleeps, so that cores shared with others decide less.
moves: seconds from the start of such a check to the first line of the bar that counts an entry. Target: at most 1.
plan: the seconds that are told before it begins, as a share of the truth, without wrong entries. Target: 0.7 to 1.3.
Run ``python bench/bar.py [--quick] [--json FILE]``; the exit status is 1 if a target is missed. With ``--quick`` a
check takes some 2 s, of which other work is no small part. It needs ``python -m pip install joblib cloudpickle``.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from measure import Row, conclude, headline, parser, tell

import fastgc
from fastgc._progress import Progress

LOSS_SECONDS = 1e-3
ENTRIES, QUICK_ENTRIES = 8_000, 800  # for each worker
WRONG = (0, 1, 100)  # per cent
FROM = 0.1  # of the time of a check


def loss(p: np.ndarray) -> float:
    """A simulator of 1 ms."""
    time.sleep(LOSS_SECONDS)
    return float(np.sum(np.sin(p) * p))


def gradients(p: np.ndarray, wrong: int) -> Any:
    """Wrong in so many of a hundred entries."""
    return (np.sin(p) + p * np.cos(p)) * np.where(np.arange(p.size) % 100 < wrong, 1.5, 1)


@dataclass
class Told:
    """What the bar of one check foresees: at which times, how many seconds are left; and the plan."""

    begin: float = field(default_factory=time.perf_counter)
    moments: list[tuple[float, float]] = field(default_factory=list)
    plan: float = 0.0

    def foreseen(self, whole: float) -> list[float]:
        """The ends foreseen from 10 % of the way on, as shares of the true one."""
        return [(now + left) / whole for now, left in self.moments if now >= FROM * whole]


def listening(told: Told) -> dict[str, Any]:
    """Have the bar tell what it foresees; the methods that it had before."""
    before: dict[str, Any] = {"advance": Progress.advance, "plan": Progress.plan}

    def advance(self: Progress, entries: int) -> None:
        before["advance"](self, entries)
        told.moments.append((time.perf_counter() - told.begin, self.seconds_left))

    def plan(self: Progress, seconds: float, probes: float) -> None:
        before["plan"](self, seconds, probes)
        told.plan = time.perf_counter() - told.begin + seconds

    Progress.advance, Progress.plan = advance, plan  # type: ignore[method-assign]
    return before


def checked(entries: int, wrong: int, workers: int) -> tuple[Told, float]:
    """What the bar of a check foresees, and how long the check takes."""
    params = np.linspace(0.5, 2, entries * workers)
    told = Told()
    before = listening(told)
    try:
        fastgc.check_gradients(
            loss, lambda p: gradients(p, wrong), params, samples="all", probes=0, crosscheck=False, workers=workers,
            progress=True,
        )  # fmt: skip
    finally:
        for name, method in before.items():
            setattr(Progress, name, method)
    return told, time.perf_counter() - told.begin


def rows_of(entries: int, wrong: int, workers: int) -> list[Row]:
    """The figures of one check."""
    told, whole = checked(entries, wrong, workers)
    where = f"{wrong} % wrong, {workers} worker{'s' * (workers > 1)}, {whole:.0f} s"
    off = max(abs(each - 1) for each in told.foreseen(whole))
    rows = [Row("eta", f"{where}: per cent off at most", 100 * off, "<= 30")]
    if not wrong:
        rows.append(Row("plan", f"{where}: off, per cent", 100 * abs(told.plan / whole - 1), "<= 30"))
    if not wrong and workers == 1:
        rows.append(Row("moves", f"{where}: seconds until it does", told.moments[0][0], "<= 1"))
    return rows


def main() -> int:
    options = parser(__doc__).parse_args()
    about = headline()
    entries = QUICK_ENTRIES if options.quick else ENTRIES
    checked(8, 0, 2)  # imports, and the start of the workers
    rows = [tell(row) for workers in (1, 2) for wrong in WRONG for row in rows_of(entries, wrong, workers)]
    return conclude(rows, options, about)


if __name__ == "__main__":
    sys.exit(main())
