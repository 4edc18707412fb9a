"""A loss of 20 ms on a cluster of dask: two workers against one, overhead of a piece, and kill -9.

speed: the check of 20,000 entries (every entry, two evaluations each) by two workers against the same by one. Target:
at least 1.8 times as fast. The loss sleeps, so that cores shared with others do not decide.
overhead: the share of a worker's time in which it does not evaluate, with one worker: 1 - evaluations * seconds of the
loss in the worker / seconds of the check. Target: at most 5 %.
killed: a check whose worker is killed (-9) in the middle, and one whose own process is killed and then called again
with its checkpoint, give the report of an undisturbed one, to the bit. Target: both.
Run ``python bench/cluster.py [--quick] [--json FILE]``; the exit status is 1 if a target is missed. It needs
``python -m pip install dask distributed joblib cloudpickle``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from measure import Row, conclude, headline, parser, seconds, tell

import fastgc

LOSS_SECONDS = 0.02
ENTRIES, QUICK_ENTRIES = 20_000, 300
CALLS = 50  # of the loss, to measure its pace
KILLED_ENTRIES = 200  # of the checks that are killed
KILLED_AFTER = 1.5  # seconds: in the middle of about 4 s with two workers


def loss(p: np.ndarray) -> float:
    """A simulator of 20 ms."""
    time.sleep(LOSS_SECONDS)
    return float(np.sum(np.sin(p) * p))


def gradients(p: np.ndarray) -> np.ndarray:
    """Wrong in some entries."""
    return (np.sin(p) + p * np.cos(p)) * np.where(np.arange(p.size) % 50 == 7, 1.01, 1)


def check(entries: int, workers: Any, checkpoint: Any = None) -> Any:
    params = np.linspace(0.5, 2, entries)
    return fastgc.check_gradients(
        loss, gradients, params, samples="all", probes=0, crosscheck=False, workers=workers, checkpoint=checkpoint
    )


def tensors(report: Any) -> str:
    """What two checks of the same gradient must share."""
    return str(report.to_dict()["tensors"])


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Any]:
    from dask.distributed import Client, LocalCluster

    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as started, Client(started) as client:
        yield client


def pace(entries: int) -> float:
    """Seconds of the loss in a worker: a little more than it sleeps."""
    params = np.linspace(0.5, 2, entries)
    return seconds(lambda: [loss(params) for _ in range(CALLS)]) / CALLS


def timed(workers: int, entries: int) -> tuple[float, float, Any]:
    """Seconds of a check, once the workers have imported what it needs; those of a call of the loss; the report."""
    with cluster(workers) as client:
        executor = client.get_executor()
        check(8, executor)
        found: list[Any] = []
        whole = seconds(lambda: found.append(check(entries, executor)))
        return whole, executor.submit(pace, entries).result(), found[0]


def killed_worker() -> Any:
    """The report of a check one of whose workers was killed."""
    with cluster(2) as client:
        process = client.submit(os.getpid, pure=False).result()
        timer = threading.Timer(KILLED_AFTER, os.kill, (process, signal.SIGKILL))
        timer.start()
        try:
            return check(KILLED_ENTRIES, client.get_executor())
        finally:
            timer.cancel()


def killed_client(folder: Path) -> Any:
    """The report of a check that was called again after its process was killed."""
    path = folder / "checkpoint"
    with subprocess.Popen([sys.executable, __file__, "--client", str(path)]) as client:
        while not (path.exists() and path.stat().st_size > 2_000):  # the header, and some values
            time.sleep(0.05)
        client.kill()
    assert client.returncode == -signal.SIGKILL
    size = path.stat().st_size
    with cluster(2) as again:
        report = check(KILLED_ENTRIES, again.get_executor(), path)
    assert path.stat().st_size > size, "there was nothing left to do"
    return report


def main() -> int:
    if sys.argv[1:2] == ["--client"]:
        with cluster(2) as client:
            check(KILLED_ENTRIES, client.get_executor(), sys.argv[2])
        return 0
    options = parser(__doc__).parse_args()
    about = headline()
    entries = QUICK_ENTRIES if options.quick else ENTRIES
    (one, call, alone), (two, _, report) = timed(1, entries), timed(2, entries)
    assert tensors(alone) == tensors(report), "the numbers of workers disagree"
    idle = 1 - alone.evaluations * call / one
    rows = [tell(Row("speed", f"two workers / one, {entries:,} entries", one / two, ">= 1.8"))]
    rows += [tell(Row("overhead", "of pieces, per cent of a worker's time", 100 * idle, "<= 5"))]
    expected = tensors(check(KILLED_ENTRIES, 2))
    rows += [tell(Row("killed", "worker: the same report", tensors(killed_worker()) == expected, "== 1"))]
    with tempfile.TemporaryDirectory() as name:
        rows += [tell(Row("killed", "client: the same report", tensors(killed_client(Path(name))) == expected, "== 1"))]
    return conclude(rows, options, about)


if __name__ == "__main__":
    sys.exit(main())
