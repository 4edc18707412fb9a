"""What ``workers`` may be: a number of processes, an executor, or a map. Nothing is imported to find out."""

from __future__ import annotations

import os
from concurrent.futures import Executor

from fastgc._arguments import whole
from fastgc._words import Workers

# Attributes in which executors and pools keep the number of their workers: those of concurrent.futures and loky, of
# mpi4py, and of multiprocessing.
_COUNTS = ("_max_workers", "num_workers", "_processes")


def refuse_workers(workers: object) -> None:
    """Raise unless the value is a number of processes, an executor or a map-like callable."""
    kind = type(workers).__name__
    if isinstance(workers, type) and workers is not map:
        raise TypeError(f"workers is the class {workers.__name__}; pass an instance of it")
    if kind == "Parallel":
        raise TypeError("workers is a joblib.Parallel; pass a number, inside joblib.parallel_config(backend=...)")
    if isinstance(workers, Executor) or callable(workers):
        return
    remedy = {"get_executor": "pass its get_executor()", "map": "pass its map"}
    for method, words in remedy.items():
        if hasattr(workers, method):
            raise TypeError(f"workers is a {kind}; {words}")
    whole("workers", workers, least=-1, also=", an executor or a function like map")
    if workers == 0:
        raise ValueError("workers is 0; it must be at least 1, or -1 for all cores")


def elsewhere(workers: Workers) -> bool:
    """Whether others than this process are to evaluate the loss."""
    return not (is_number(workers) and workers == 1)


def is_number(workers: Workers) -> bool:
    """Whether ``workers`` is a number of processes."""
    return not (isinstance(workers, Executor) or callable(workers))


def named(workers: Workers) -> str:
    """The argument as a message names it: ``workers=2``, ``workers=ThreadPoolExecutor``, ``workers=Pool.map``."""
    return f"workers={kind_of(workers)}"


def kind_of(workers: Workers) -> str:
    """The number, the name of the executor's class, or that of the map."""
    if isinstance(workers, Executor):
        return type(workers).__name__
    if callable(workers):
        return str(getattr(workers, "__qualname__", type(workers).__name__))
    return str(workers)


def executor_of(workers: Workers) -> Executor | None:
    """The executor that was given itself or by its method ``map``; None for a number and for other maps."""
    if isinstance(workers, Executor):
        return workers
    owner = getattr(workers, "__self__", None)
    return owner if isinstance(owner, Executor) and getattr(workers, "__name__", "") == "map" else None


def width(workers: Workers) -> int:
    """How many workers there are; where that cannot be found out, the number of this machine's cores."""
    if not (isinstance(workers, Executor) or callable(workers)):
        return workers if workers > 0 else os.cpu_count() or 1
    owner = getattr(workers, "__self__", workers)
    client: object = getattr(owner, "_client", None)
    if hasattr(client, "nthreads"):  # of dask
        return max(1, sum(int(count) for count in client.nthreads().values()))
    found = [getattr(owner, name, None) for name in _COUNTS]
    return next((each for each in found if isinstance(each, int) and each > 0), os.cpu_count() or 1)
