"""What a checkpoint costs, and whether a killed check goes on to the same report.

overhead: the time that a check spends in its checkpoint (hashing, looking up, writing), as a share of the rest of a
check of 3,000 entries by a loss of about 1 ms. Target: at most 1 %. Two runs of one check differ by more than that on a
busy machine; therefore the checkpoint's own time is measured inside one run.
size: bytes of the file for each of 20,000 entries. Target: at most 40.
resumed: a check that kill -9 ends at five places gives, called again, the report of one that was not ended, to the bit.
Run ``python bench/checkpoint.py [--json FILE]``; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from measure import Row, conclude, headline, parser, tell

import fastgc
from fastgc._evaluation.checkpoint import CheckpointedEvaluator

ENTRIES, MANY = 3_000, 20_000
PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the calls of the loss, after which the process is killed

KILLED = """
import os, signal, sys
import numpy as np, fastgc
calls, at, path = 0, int(sys.argv[1]), sys.argv[2] or None
def loss(p):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(np.sum(np.sin(p) * p))
def gradients(p):
    return (np.sin(p) + p * np.cos(p)) * np.where(np.arange(p.size) % 50 == 7, 1.01, 1)
report = fastgc.check_gradients(loss, gradients, np.linspace(0.5, 2, 500), samples="all", checkpoint=path)
print(calls)
print(report.to_json().replace(str(report.seconds), ""))
"""


def slow_loss(p: np.ndarray) -> float:
    """Sines of a matrix, about 1 ms."""
    return float(np.sum(np.sin(np.outer(p[:300], p[-300:]))))


def slow_gradient(p: np.ndarray) -> np.ndarray:
    slopes = np.cos(np.outer(p[:300], p[-300:]))
    out = np.zeros(p.size)
    out[:300] = slopes @ p[-300:]
    out[-300:] += slopes.T @ p[:300]
    return out


class Spent:
    """Seconds inside the methods of an evaluator that keeps its values, and inside those of the one that it asks."""

    def __init__(self) -> None:
        self.kept = self.asked = 0.0

    def timed(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                setattr(self, name, getattr(self, name) + time.perf_counter() - begin)

        return run


def overhead(path: Path) -> float:
    """The share of a check that its checkpoint takes."""
    spent, before = Spent(), {}
    for name in ("values", "along", "along_rays"):
        before[name] = getattr(CheckpointedEvaluator, name)

        def method(self: Any, *arguments: Any, name: str = name) -> Any:
            inner = self.inner
            for each in before:
                if each not in vars(inner):
                    setattr(inner, each, spent.timed(getattr(inner, each), "asked"))
            return spent.timed(before[name], "kept")(self, *arguments)

        setattr(CheckpointedEvaluator, name, method)
    begin = time.perf_counter()
    report = fastgc.check_gradients(
        slow_loss, slow_gradient, np.linspace(0.1, 1, ENTRIES), samples="all", checkpoint=path, crosscheck=False
    )
    whole = time.perf_counter() - begin
    for name, each in before.items():
        setattr(CheckpointedEvaluator, name, each)
    assert report.passed, report
    return (spent.kept - spent.asked) / (whole - spent.kept + spent.asked)


def bytes_an_entry(path: Path) -> float:
    report = fastgc.check_gradients(
        lambda p: float(p @ p),
        lambda p: 2 * p,
        np.linspace(1, 2, MANY),
        samples="all",
        checkpoint=path,
        crosscheck=False,
    )
    assert report.passed
    return path.stat().st_size / MANY


def resumed(folder: Path) -> int:
    """How many of the killed checks went on to the same report."""

    def run(at: int, path: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-c", KILLED, str(at), path], capture_output=True, text=True)
        calls, _, report = done.stdout.partition("\n")
        return done.returncode, calls, report

    _, calls, expected = run(0, "")
    same = 0
    for at in (int(share * int(calls)) for share in PLACES):
        path = str(folder / f"killed{at}")
        assert run(at, path)[0] == -9
        same += run(0, path)[2] == expected
    return same


def main() -> int:
    options = parser(__doc__).parse_args()
    about = headline()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [tell(Row("overhead", "of a loss of 1 ms, per cent", 100 * overhead(folder / "slow"), "<= 1"))]
        rows += [tell(Row("size", "bytes for an entry", bytes_an_entry(folder / "many"), "<= 40"))]
        rows += [tell(Row("resumed", "same report after kill -9, of 5", resumed(folder), ">= 5"))]
    return conclude(rows, options, about)


if __name__ == "__main__":
    sys.exit(main())
