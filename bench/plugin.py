"""What the pytest fixture ``gradcheck`` costs: a suite of 200 checks with it, and with plain `fastgc.assert_gradients`.

Both suites run in turn, in one process each, and their processor time is compared: pairs, median of the ratios.

Target: at most 5 % more. Run ``python bench/plugin.py [--quick] [--json FILE]``; the exit status is 1 if it is missed.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Row, conclude, headline, parser, tell

BOUND = "<= 1.05"
CHECKS = 200
SUITE = """
import fastgc
import numpy as np
import pytest

def loss(p):
    return float(np.sum(np.tanh(p["X"] @ p["W"] + p["b"]) ** 2))

def gradients(p):
    t = np.tanh(p["X"] @ p["W"] + p["b"])
    d = 2 * t * (1 - t * t)
    return {{"X": d @ p["W"].T, "W": p["X"].T @ d, "b": d.sum(axis=0)}}

@pytest.mark.parametrize("seed", range({checks}))
def test_gradient({fixture}seed):
    draw = np.random.default_rng(seed).standard_normal
    {call}(loss, gradients, {{"X": draw((8, 20)), "W": draw((20, 10)), "b": draw(10)}})
"""
SUITES = {"plain calls": ("", "fastgc.assert_gradients"), "the fixture": ("gradcheck, ", "gradcheck")}


def seconds(file: Path) -> float:
    """Processor time of pytest on a file."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file.name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)
    assert f"{CHECKS} passed" in done.stdout, done.stdout[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    options = parser(__doc__).parse_args()
    about, rounds = headline(), 3 if options.quick else 9
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, (fixture, call) in enumerate(SUITES.values()):
            files.append(Path(folder) / f"test_{number}.py")
            files[-1].write_text(SUITE.format(checks=CHECKS, fixture=fixture, call=call), encoding="utf-8")
        for file in files:  # what is imported, into the cache of the system
            seconds(file)
        pairs = [[seconds(file) for file in files] for _ in range(rounds)]
    rows = [Row("plugin", f"{name}, ms of a check", 1e3 * statistics.median(pair[k] for pair in pairs) / CHECKS)
            for k, name in enumerate(SUITES)]  # fmt: skip
    rows.append(Row("plugin", "the fixture / plain calls", statistics.median(b / a for a, b in pairs), BOUND))
    return conclude([tell(row) for row in rows], options, about, rounds=rounds)


if __name__ == "__main__":
    sys.exit(main())
