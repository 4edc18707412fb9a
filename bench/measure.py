"""What the scripts of this directory share: rows with targets, timing in turn, the machine, the end of a script."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "numba", "scipy", "torch", "jax", "statsmodels", "numdifftools", "jacobi", "joblib")

_LASTING = 0.1  # seconds
_PAUSE = 0.02  # seconds; after much longer ones the core itself has to wake up

# --- rows ---


@dataclass(frozen=True)
class Row:
    """One line of a table: what was measured, and the bound it is to keep (empty: only told)."""

    part: str
    what: str
    value: float
    bound: str = ""  # such as "<= 20"

    @property
    def met(self) -> bool:
        """Whether the bound is kept; NaN keeps none."""
        if not self.bound:
            return True
        relation, limit = self.bound.split()
        return {"<=": self.value <= float(limit), ">=": self.value >= float(limit), "==": self.value == float(limit)}[
            relation
        ]


def shown(value: float) -> str:
    """A number in a few characters."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def tell(row: Row) -> Row:
    """Print a row as soon as it is known."""
    mark = "" if not row.bound else "met" if row.met else "MISSED"
    print(f"{row.part:38}  {row.what:62}  {shown(row.value):>9}  {row.bound:8}  {mark}", flush=True)
    return row


# --- a script's begin and end ---


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every script has."""
    result = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    result.add_argument("--quick", action="store_true", help="smaller problems, fewer repetitions")
    result.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return result


def machine() -> dict[str, Any]:
    """On what is measured: processor, cores, load before the start, versions."""
    import fastgc

    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "fastgc": fastgc.__version__,
        **{name: found for name in PACKAGES if (found := version(name))},
    }


def processor() -> str:
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def headline() -> dict[str, Any]:
    """Print and return what `machine` says."""
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()), end="\n\n", flush=True)
    return about


def conclude(rows: Sequence[Row], options: argparse.Namespace, about: Mapping[str, Any], **more: Any) -> int:
    """Count the targets missed, write the JSON file, and give the exit status: 1 where one was missed."""
    missed = [row for row in rows if not row.met]
    print(f"\n{len(missed)} of {sum(bool(row.bound) for row in rows)} targets missed")
    for row in missed:
        print(f"  {row.part}: {row.what}: {shown(row.value)}, target {row.bound}")
    if options.json:
        table = [{**asdict(row), "value": float(row.value), "met": bool(row.met)} for row in rows]
        numbers = {"quick": options.quick, "machine": dict(about), **more, "rows": table}
        options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 1 if missed else 0


# --- timing ---


def seconds(run: Callable[[], Any]) -> float:
    """Time one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def in_turn(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each call returns, one after the other in every round, every second round backwards.

    So a machine that grows slower or faster meanwhile does not favour one of them. A pause lets threads of BLAS and
    OpenMP that worked for one fall asleep before the next: they wait busily for some milliseconds.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            time.sleep(_PAUSE)
            found[name].append(runs[name]())
    return found


def timed_in_turn(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of calls that were called before (whatever they compile is compiled)."""
    return in_turn({name: (lambda run=run: seconds(run)) for name, run in runs.items()}, rounds)  # type: ignore[misc]


def averaged(run: Callable[[], float]) -> Callable[[], float]:
    """The same figure as the mean of as many runs as take a tenth of a second, so that short ones are warm too."""

    def repeated() -> float:
        begin, found = time.perf_counter(), [run()]
        while time.perf_counter() - begin < _LASTING:
            found.append(run())
        return statistics.mean(found)

    return repeated


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the quotients of pairs."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def process(script: str, *arguments: str, **environment: str) -> str:
    """Run a script in a process of its own, with the bytecode of modules kept, and return what it prints."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | environment
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=kept).stdout


def resident(field: str) -> int:
    """Bytes of resident memory now (VmRSS) or at most (VmHWM)."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found
    return int(found[1]) * 1024


def forget_peak() -> None:
    """Let VmHWM begin anew."""
    Path("/proc/self/clear_refs").write_text("5")
