"""One thread of BLAS and OpenMP in each of the processes that share the tests; quick collection; slow tests; Ctrl-C."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.clock import Clock

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# Compiling took four fifths of the time of JAX's tests; with these flags it takes a third of that. XLA ends the process
# at a flag that it does not know: they are set for the versions that were tried.
QUICKLY = (
    "backend_optimization_level=0",
    "llvm_disable_expensive_passes=true",
    "cpu_use_fusion_emitters=false",
    "cpu_parallel_codegen_split_count=1",
)
if find_spec("jaxlib") and version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", " ".join(f"--xla_{each}" for each in QUICKLY))

# Children that find no byte code of the package compile it anew: two fifths of what its import takes.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

HERE = Path(__file__).parent

# LLVM's passes beyond the first took a third of the time of Numba's compilations. Loops compiled so are kept apart from
# those that checks and benchmarks of this checkout find on disk.
os.environ.setdefault("NUMBA_OPT", "1")
os.environ.setdefault("NUMBA_CACHE_DIR", str(HERE.parent / ".numba_cache"))

settings.register_profile("tests", deadline=None)  # how long an example takes says more of the machine than of it
settings.load_profile("tests")

SLOW = frozenset((HERE / "support" / "slow.txt").read_text(encoding="utf-8").split())
QUICK = 4  # of the parameter sets of a test, one in so many is quick
TRACED = 16  # parameter sets of a test whose coverage is measured; beyond, that of one in four


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Search no garbage: all that collecting makes stays to the end, and searching it took a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()  # later searches pass over it, too
        gc.set_threshold(50_000, 20, 50)  # not the 700, 10, 10 of Python: a seventh of the time of tests went there
        gc.enable()


def pytest_runtest_setup() -> None:
    """Keep PyTorch at one thread in the processes of pytest-xdist.

    As many threads as cores in every process wait for each other: a test of 2 s takes 49. Numba sets the number of
    threads of OpenMP, PyTorch's among them, when it first runs a loop in parallel.
    """
    torch = sys.modules.get("torch")
    if "PYTEST_XDIST_WORKER" in os.environ and torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark as slow what `SLOW` names, and most parameter sets of every test.

    Tracing doubles the time of the catalogues, whose problems go the same ways: of many, few are traced.
    """
    seen: Counter[str] = Counter()
    for item in items:
        test = f"{item.path.relative_to(HERE).as_posix()}::{getattr(item, 'originalname', item.name)}"
        if test in SLOW or seen[test] % QUICK:
            item.add_marker("slow")
        if seen[test] >= TRACED and seen[test] % QUICK:
            item.add_marker("no_cover")
        seen[test] += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of this process, so that what ends in time does so however fast or busy the machine is."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt, here and in processes started meanwhile.

    Shells and job runners start what is to run in the background with the signal ignored; processes inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
