"""What ``import fastgc`` adds to ``import numpy``: whole processes, one kind after the other, median of many.

Target: under 50 ms. Run ``python bench/startup.py [--json FILE]``; the exit status is 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import fastgc

TARGET = 0.050  # seconds
REPEATS = 21
CODES = {"import numpy": "import numpy", "import numpy, fastgc": "import numpy, fastgc"}
HEAVY = ("numba", "scipy.optimize", "scipy.stats", "tqdm", "torch", "jax", "matplotlib")


def seconds(code: str) -> float:
    """Time one whole process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begin


def check_what_is_imported() -> None:
    """Make sure that both processes import what they say, and no more."""
    code = f"import numpy, fastgc, sys; print(fastgc.__file__, *[n for n in {HEAVY!r} if n in sys.modules], sep=';')"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert found == fastgc.__file__, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    path = parser.parse_args().json
    check_what_is_imported()
    for code in CODES.values():  # files into the cache of the system
        seconds(code)
    times: dict[str, list[float]] = {name: [] for name in CODES}
    for _ in range(REPEATS):
        for name, code in CODES.items():
            times[name].append(seconds(code))
    plain, both = times.values()
    added = statistics.median(b - a for a, b in zip(plain, both, strict=True))
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, fastgc {fastgc.__version__}, "
          f"{os.cpu_count()} cores, {REPEATS} pairs of processes\n")  # fmt: skip
    print(f"{'process':<24}{'median':>10}{'fastest':>10}{'slowest':>10}")
    for name, values in times.items():
        print(f"{name:<24}" + "".join(f"{1e3 * f(values):>7.0f} ms" for f in (statistics.median, min, max)))
    met = added < TARGET
    print(f"\nadded (median of the pairs): {1e3 * added:.1f} ms; target: under {1e3 * TARGET:.0f} ms: "
          f"{'met' if met else 'MISSED'}")  # fmt: skip
    if path:
        path.write_text(json.dumps({"added": added, "target": TARGET, "met": met, "seconds": times}, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
