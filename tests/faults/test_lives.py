"""Checks at odd moments of a process: at its exit, after a fork, in workers of others, with little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What every program begins with. A report holds nothing that differs from run to run but its seconds.
BEGIN = """
import asyncio, atexit, gc, os, resource, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import numba, numpy as np, fastgc

@numba.njit
def jitted(p):
    return np.sum(np.sin(p["w"]) * p["w"])

def plain(p):
    return float(np.sum(np.sin(p["w"]) * p["w"]))

def slopes(p):
    return {"w": np.sin(p["w"]) + p["w"] * np.cos(p["w"])}

def check(engine="python", **options):
    loss = plain if engine == "python" else jitted
    params = {"w": np.linspace(0.5, 2.0, 300)}
    kept = params["w"].tobytes()
    report = fastgc.check_gradients(loss, slopes, params, engine=engine, **options)
    if not report.passed or params["w"].tobytes() != kept:
        sys.stdout.write(str(report))
    return report.verdict, report.evaluations
"""
PROGRAMS = {
    "in a thread that the end of the process cuts off": """
check("numba", threads=2)
def forever():
    while True:
        check("numba", threads=2)
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.3)
sys.stdout.write("done")
""",
    "at exit": """
def last():
    found = check("numba", threads=2), check(), check("numba", threads=1)
    sys.stdout.write("done" if len({verdict for verdict, _ in found}) == 1 else str(found))
atexit.register(last)
check("numba", threads=2)
""",
    "after a fork": """
before = [check("numba", threads=2), check()]
child = os.fork()
if not child:
    signal.alarm(60)
    os._exit(0 if [check("numba", threads=2), check()] == before else 1)
sys.stdout.write("done" if os.waitpid(child, 0)[1] == 0 else "the child failed")
""",
    "in the child of a fork while another thread holds locks": """
from numba.core.compiler_lock import global_compiler_lock
from fastgc._evaluation import executors
from fastgc._evaluation.threads import single_threaded_blas
check("numba", threads=2), check()
held, over = threading.Event(), threading.Event()
def inside():
    with single_threaded_blas(), single_threaded_blas._lock, executors._lock:
        with global_compiler_lock:
            held.set()
            time.sleep(0.3)
        over.wait()
thread = threading.Thread(target=inside)
thread.start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(60)
    os._exit(0 if check("numba", threads=2)[0] == check()[0] == "pass" and not executors._lock.locked() else 1)
ended = os.waitpid(child, 0)[1]
over.set()
thread.join()
sys.stdout.write("done" if not ended else str(ended))
""",
    "in workers of loky": """
from joblib import Parallel, delayed
found = Parallel(2)(delayed(check)(engine) for engine in ("python", "python", "numba", "numba"))
sys.stdout.write("done" if found == [check(), check(), check("numba"), check("numba")] else str(found))
""",
    "in coroutines and pools": """
async def both():
    return await asyncio.gather(*(asyncio.to_thread(check, engine) for engine in ("python", "numba") * 4))
alone = [check("python"), check("numba")]
found = asyncio.run(both())
with ThreadPoolExecutor(8) as pool:
    found += list(pool.map(check, ("python", "numba") * 4))
sys.stdout.write("done" if found == alone * 8 else str(found))
""",
    "interrupted while Numba compiles": """
from numba.core import event

class Interrupting(event.Listener):
    def __init__(self, number):
        self.left = number
    def on_start(self, _):
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGINT)
    def on_end(self, _):
        pass

params, ends = {"w": np.linspace(0.5, 2.0, 300)}, set()
kept = params["w"].tobytes()
for number in (1, 2, 3, 4, 5, 6, 8, 10, 14):
    anew = numba.njit(jitted.py_func)
    listener = Interrupting(number)
    event.register("numba:compile", listener)
    try:
        fastgc.check_gradients(anew, slopes, params, engine="numba", threads=2)
        ends.add("ended")
    except KeyboardInterrupt as error:
        ends.add(type(error).__name__)
    event.unregister("numba:compile", listener)
    again = fastgc.check_gradients(anew, slopes, params, engine="numba", threads=2)
    whole = again.passed and params["w"].tobytes() == kept
    if not whole or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        sys.stdout.write(str(again))
sys.stdout.write("done" if "Interrupted" in ends and ends <= {"Interrupted", "ended"} else str(ends))
""",
    "with little memory": """
check("numba", threads=2), check()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
check("numba", threads=2), check(), check("numba", threads=1)
sys.stdout.write("done")
""",
}
# Those that leave their process as they found it share one, which takes a second to start.
SHARING = "after a fork", "in the child of a fork while another thread holds locks", "in coroutines and pools"
TOGETHER = [SHARING, *((name,) for name in PROGRAMS if name not in SHARING)]
FORKING = """
check("numba", threads=2), check()
over = threading.Event()
def forever():
    while not over.is_set():
        check("numba", threads=2)
thread = threading.Thread(target=forever)
thread.start()
ends = []
for k in range(FORKS):
    time.sleep(0.002 * k)
    child = os.fork()
    if not child:
        signal.alarm(30)
        os._exit(0 if check("numba", threads=2)[0] == check()[0] == "pass" else 1)
    ends.append(os.waitpid(child, 0)[1])
over.set()
thread.join()
sys.stdout.write("done" if not any(ends) else str(ends))
"""


def ended(program: str, folder: Path, **environment: str) -> str:
    """What a program has printed, and what it has said of errors."""
    text = BEGIN + program
    (folder / "program.py").write_text(text, encoding="utf-8")
    command = [sys.executable, str(folder / "program.py")]
    kept = {**os.environ, "TMPDIR": str(folder), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=kept, timeout=300)
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f" status {done.returncode}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, limits and /proc as Linux has them")
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("names", TOGETHER, ids="; ".join)
def test_checks_work(names: tuple[str, ...], tmp_path: Path) -> None:
    assert ended("".join(PROGRAMS[name] for name in names), tmp_path) == "done" * len(names)
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="programs that import resource")
def test_processes_that_start_at_once_on_an_empty_cache(tmp_path: Path) -> None:
    text = BEGIN + 'sys.stdout.write(str(check("numba", threads=2)))'
    (tmp_path / "program.py").write_text(text, encoding="utf-8")
    kept = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_OPT": "0"}
    command = [sys.executable, str(tmp_path / "program.py")]
    running = [subprocess.Popen(command, env=kept, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [each.communicate()[0] for each in running]
    assert found[0].startswith("('pass', ") and len(set(found)) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks as Linux has them")
def test_children_of_a_process_whose_other_thread_checks(tmp_path: Path) -> None:
    assert ended(f"FORKS = 10\n{FORKING}", tmp_path) == "done"
