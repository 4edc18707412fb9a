"""Ctrl-C at random moments of every engine and adapter, forks while another thread is at work, and killed workers.

A real SIGINT arrives at a random moment of a check, many times in one process for each way to run a loss. Afterwards
the arrays must hold the same bits, no thread may be left, and Python's handler must be back; the check ended, or raised
`Interrupted` with a report. A signal before the first or after the last call of the loss may end as a plain
KeyboardInterrupt. At the end of the process no process and no temporary file may be left.
Run ``python bench/faults.py [--quick] [--json FILE]`` (Linux); the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import Row, conclude, headline, parser, process, tell

Case = tuple[Callable[[], Any], Callable[[], bytes]]  # a check, and the bits of what it must not change
SIZE = 400  # entries: a check takes some hundredths of a second


def slopes(p: dict[str, Any]) -> dict[str, Any]:
    return {"w": np.sin(p["w"]) + p["w"] * np.cos(p["w"])}


def of_numpy(loss: Any, **options: Any) -> Case:
    import fastgc

    params = {"w": np.linspace(0.5, 2.0, SIZE)}
    return lambda: fastgc.check_gradients(loss, slopes, params, samples="all", **options), params["w"].tobytes


def plain(p: dict[str, Any]) -> float:
    return float(np.sum(np.sin(p["w"]) * p["w"]))


def jitted() -> Case:
    import numba

    @numba.njit
    def loss(p: Any) -> Any:
        return np.sum(np.sin(p["w"]) * p["w"])

    return of_numpy(loss, engine="numba", threads=2)


def of_workers() -> Case:
    def slow(p: dict[str, Any]) -> float:
        time.sleep(1e-3)
        return plain(p)

    return of_numpy(slow, workers=2)


def of_torch() -> Case:
    import torch

    import fastgc

    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    x = torch.ones(2, 6, dtype=torch.double)

    def bits() -> bytes:
        return b"".join(each.detach().numpy().tobytes() for each in module.parameters())

    return lambda: fastgc.torch.check_module(module, x, samples="all", precision="native"), bits


def of_jax() -> Case:
    import jax.numpy as jnp

    import fastgc

    params = {"w": np.linspace(0.5, 2.0, SIZE)}
    return lambda: fastgc.jax.check_gradients(lambda p: jnp.sum(jnp.sin(p["w"])), params), params["w"].tobytes


CASES: dict[str, Callable[[], Case]] = {
    "python": lambda: of_numpy(plain),
    "in place, two points": lambda: of_numpy(plain, in_place=True, points=2),
    "numba, 2 threads": jitted,
    "2 workers": of_workers,
    "torch": of_torch,
    "jax": of_jax,
}


def interrupted(case: str, moments: int) -> dict[str, int]:
    """How checks in this process end when a signal arrives at a random moment, and what they leave behind."""
    check, bits = CASES[case]()
    check()  # whatever is imported or compiled on first use
    begin = time.perf_counter()
    check()
    duration, kept = time.perf_counter() - begin, bits()
    threads = threading.active_count()
    ends: Counter[str] = Counter()
    draws = random.Random(0)
    for _ in range(moments):
        timer = threading.Timer(draws.uniform(0, duration), os.kill, (os.getpid(), signal.SIGINT))
        ends[one(check, timer)] += 1
        ends["arrays changed"] += bits() != kept
        ends["handlers changed"] += signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        ends["threads left"] += settled(threads)
    return dict(ends)


def one(check: Callable[[], Any], timer: threading.Timer) -> str:
    """How one check ends."""
    import fastgc

    found = ""
    try:
        try:
            timer.start()
            check()
            found = "ended"
        except fastgc.Interrupted as error:
            found = "interrupted" if error.report.to_json() and str(error.report) else "no report"
        except KeyboardInterrupt:
            found = "KeyboardInterrupt"
        except Exception as error:
            found = f"another exception: {type(error).__name__}"
        timer.join()
        time.sleep(1e-3)  # the signal of a check that has ended
    except KeyboardInterrupt:
        timer.join()
    return found or "KeyboardInterrupt"


def settled(threads: int) -> bool:
    """Whether more threads are left than before, but for those that keep idle processes."""
    for _ in range(100):
        names = [
            each.name for each in threading.enumerate() if "Manager" not in each.name and "Feeder" not in each.name
        ]
        if len(names) <= threads:
            return False
        time.sleep(0.01)
    return True


def signals(case: str, moments: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        found = json.loads(process(__file__, "--case", case, "--moments", str(moments), TMPDIR=folder))
        left = [path.name for path in Path(folder).iterdir() if not path.name.startswith("torchinductor")]
    for what in ("interrupted", "ended", "KeyboardInterrupt"):
        yield Row(case, what, found.pop(what, 0))
    for what in ("arrays changed", "handlers changed", "threads left"):
        yield Row(case, what, found.pop(what), "== 0")
    yield Row(case, "other ends", sum(found.values()), "== 0")
    yield Row(case, "temporary files left", len(left), "== 0")


def forks(count: int) -> Iterator[Row]:
    """Children of a process in which another thread checks a jitted loss."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.faults.test_lives import FORKING, ended

    with tempfile.TemporaryDirectory() as folder:
        said = ended(f"FORKS = {count}\n{FORKING}", Path(folder))
    bad = 0 if said == "done" else sum(each.strip() != "0" for each in said.strip("[]").split(","))
    yield Row("forks during a check", "children", count)
    yield Row("forks during a check", "that hung or failed", bad, "== 0")


KILLING = """
import os, signal, sys, tempfile
import numpy as np, fastgc
parent = os.getpid()
folder = tempfile.mkdtemp()
def loss(x):
    if os.getpid() != parent and len(os.listdir(folder)) < 2:
        open(os.path.join(folder, str(os.getpid())), "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(np.sum(np.sin(x)))
from fastgc._evaluation import pieces
pieces._WORTHWHILE = 0.0
report = fastgc.check_gradients(loss, np.cos, np.linspace(0, 1, 40), samples="all", workers=2)
sys.stdout.write(report.verdict)
"""


def kills() -> Iterator[Row]:
    """Two workers die by SIGKILL at their first evaluation; others do their work."""
    done = subprocess.run([sys.executable, "-c", KILLING], capture_output=True, text=True)
    yield Row("two workers killed", "the check passes", done.stdout == "pass", "== 1")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--case", choices=list(CASES), help="only this one, in this process; prints JSON")
    options.add_argument("--moments", type=int, default=34, help="of each case: some 200 together")
    chosen = options.parse_args()
    if chosen.case:
        print(json.dumps(interrupted(chosen.case, chosen.moments)))
        return 0
    about = headline()
    moments = 5 if chosen.quick else chosen.moments
    rows = [tell(row) for case in CASES for row in signals(case, moments)]
    rows += [tell(row) for row in (*forks(8 if chosen.quick else 100), *kills())]
    return conclude(rows, chosen, about)


if __name__ == "__main__":
    sys.exit(main())
