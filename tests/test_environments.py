"""Checks in poor surroundings (no compiler, no cache, no stdout, other locales) and many at once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgc

PROGRAM = """
import sys
import numba, numpy as np, fastgc

def check(holds, report):  # no assertion: Python may leave them out
    if not holds:
        sys.exit(str(report))

@numba.njit
def jitted(p):
    return np.sum(p["w"] ** 2)

def plain(p):
    return float(np.sum(p["w"] ** 2))

params, right, wrong = {"w": np.ones(40)}, lambda p: {"w": 2 * p["w"]}, lambda p: {"w": 3 * p["w"]}
for loss, engine in ((jitted, "auto"), (jitted, "python"), (plain, "numba"), (plain, "auto")):
    for gradient, verdict in ((right, "pass"), (wrong, "fail")):
        report = fastgc.check_gradients(loss, gradient, params, engine=engine, samples=3)
        check(report.verdict == verdict, report)
        told = engine == "numba" and bool(numba.config.DISABLE_JIT)
        check(("NUMBA_DISABLE_JIT" in str(report)) == told, report)
        report.to_html(), report.to_json()
report = fastgc.check_jacobian(lambda x: x**2, lambda x: np.diag(2 * x), np.ones(3), engine="numba")
check(report.passed, report)
sys.stdout.write("done")
"""
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "nothing compiled": {"NUMBA_DISABLE_JIT": "1", "PYTHONOPTIMIZE": "2", "PYTHONHASHSEED": "7"},
    "no home": {"HOME": "/nonexistent", "NUMBA_NUM_THREADS": "1", "NUMBA_CACHE_DIR": "/proc/nowhere", "TERM": "dumb"},
    "nothing kept": {"FASTGC_CACHE": "0", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONOPTIMIZE": "2"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_checks_in_poor_surroundings(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_OPT": "0", **ENVIRONMENTS[name]}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "done"), done.stderr
    assert not list(tmp_path.rglob("fastgc-*"))


PROBLEM = """
import numpy as np

def problem():
    return (lambda p: float(np.sum(p["ä\\x1b[31m€"] ** 2)), lambda p: {"ä\\x1b[31m€": 3 * p["ä\\x1b[31m€"]},
            {"ä\\x1b[31m€": np.ones(3)})

def raising():
    raise ValueError("names \\x1b[31m and more")
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., tuple[int, str, Path]]:
    """Runs the command line by a shell; its exit status, what it printed and its JSON file."""
    file, saved = tmp_path / "problem.py", tmp_path / "report.json"
    file.write_text(PROBLEM, encoding="utf-8")

    def run(redirected: str, name: str = "problem", **environment: str) -> tuple[int, str, Path]:
        words = f"set -o pipefail; {sys.executable} -m fastgc check {file}:{name} --json {saved} {redirected}"
        done = subprocess.run(["bash", "-c", words], capture_output=True, env={**os.environ, **environment})
        return done.returncode, (done.stdout + done.stderr).decode(), saved

    return run


REDIRECTED = [">&-", "> /dev/full", "| true", ""]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk, as Linux has it")
@pytest.mark.parametrize("redirected", REDIRECTED, ids=["closed", "full", "pipe", "ascii"])
def test_a_report_that_cannot_be_printed_is_saved(redirected: str, command: Any) -> None:
    status, printed, saved = command(redirected, PYTHONIOENCODING="ascii")
    assert status == 1, printed
    assert json.loads(saved.read_text(encoding="utf-8"))["verdict"] == "fail"
    assert "Traceback" not in printed
    assert ("could not be printed" in printed) == ("full" in redirected)
    assert "\x1b" not in printed
    if not redirected:
        assert r"\xe4\x1b[31m\u20ac" in printed


@pytest.mark.slow
def test_messages_send_no_escapes_to_the_terminal(command: Any) -> None:
    status, printed, _ = command("", name="raising")
    assert status == 2
    assert r"fastgc: ValueError: names \x1b[31m and more" in printed


# --- many at once ---

X = np.linspace(1.0, 2.0, 50)


def checked(number: int) -> str:
    """The text of a report without its times, of a gradient that is wrong for odd numbers."""
    report = fastgc.check_gradients(
        lambda x: float(np.sum(np.sin(x * (1 + number)))),
        lambda x: (1 + number + number % 2) * np.cos(x * (1 + number)),
        X,
        samples=4,
    )
    assert report.passed == (number % 2 == 0)
    return json.dumps({**report.to_dict(), "seconds": 0})


def test_eight_threads_at_once_report_what_one_does() -> None:
    alone = [checked(number) for number in range(8)]
    threads = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(checked, range(8))) == alone
    assert threading.active_count() == threads


def test_in_coroutines() -> None:
    async def all_of_them() -> list[str]:
        return list(await asyncio.gather(*(asyncio.to_thread(checked, number) for number in range(4))))

    assert asyncio.run(all_of_them()) == [checked(number) for number in range(4)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork")
def test_after_a_fork() -> None:
    """In a process without the threads of JAX and PyTorch, which no fork survives."""
    program = """
import os, sys
import numpy as np, fastgc

def checked():
    report = fastgc.check_gradients(lambda p: float(np.sum(np.sin(p))), np.cos, np.linspace(0, 1, 40))
    return report.verdict, report.evaluations

before = checked()
child = os.fork()
if not child:
    os._exit(0 if checked() == before else 1)
sys.exit(os.waitpid(child, 0)[1])
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
