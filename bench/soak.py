"""A day's use in one process: 2,000 checks of 500 different losses; memory, threads, files and caches stay bounded.

The losses are plain, jitted (one in twenty: compiling one takes half a second), vectorized and in workers (threads of a
pool), of PyTorch and of JAX (one in fifty), right and wrong, some of which raise. After a quarter of the checks all
caches have seen each kind; from then on resident memory may grow by what Numba, PyTorch and JAX keep of each function
that they compile, which no check can free: by 100 KiB a check at most, and for checks of plain losses by 5 KiB.
Run ``python bench/soak.py [--quick] [--json FILE]`` (Linux); the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from measure import Row, conclude, headline, parser, resident, tell

CHECKS, LOSSES = 2000, 500
Check = Callable[[], Any]


def slopes_of(k: int) -> Callable[[Any], Any]:
    wrong = 1.5 if k % 7 == 0 else 1.0
    return lambda x: wrong * (k + 1) * np.cos((k + 1) * x)


def points(k: int) -> Any:
    return np.linspace(0.1, 0.9, 10 + k % 40)


def plain(k: int, **options: Any) -> Check:
    import fastgc

    def loss(x: Any) -> float:
        if k % 11 == 0 and x[0] > 0.1:
            raise ValueError("not defined there")
        return float(np.sum(np.sin((k + 1) * x)))

    return lambda: fastgc.check_gradients(loss, slopes_of(k), points(k), **options)


def jitted(k: int) -> Check:
    import numba

    import fastgc

    factor = float(k + 1)

    @numba.njit
    def loss(x: Any) -> Any:
        return np.sum(np.sin(factor * x))

    return lambda: fastgc.check_gradients(loss, slopes_of(k), points(k), engine="numba", threads=2)


def vectorized(k: int) -> Check:
    import fastgc

    def loss(x: Any) -> Any:
        return np.sum(np.sin((k + 1) * x), axis=-1)

    return lambda: fastgc.check_gradients(loss, slopes_of(k), points(k), vectorized=True)


def in_workers(k: int) -> Check:
    def check() -> Any:
        with ThreadPoolExecutor(2) as pool:
            return plain(k, workers=pool)()

    return check


def of_torch(k: int) -> Check:
    import torch

    import fastgc

    module = torch.nn.Sequential(torch.nn.Linear(3, 2 + k % 5), torch.nn.Tanh())
    return lambda: fastgc.torch.check_module(module, torch.ones(2, 3))


def of_jax(k: int) -> Check:
    import jax.numpy as jnp

    import fastgc

    return lambda: fastgc.jax.check_gradients(lambda x: jnp.sum(jnp.sin((k + 1) * x)), points(k))


def made(k: int) -> tuple[str, Check]:
    """The check of a loss, and its kind."""
    if k % 20 == 0:
        return "jitted", jitted(k)
    if k % 50 == 1:
        return "jax", of_jax(k)
    kinds = {2: vectorized, 3: in_workers, 4: of_torch}
    return {2: "vectorized", 3: "workers", 4: "torch"}.get(k % 10, "plain"), kinds.get(k % 10, plain)(k)


def state() -> dict[str, int]:
    """What the process holds."""
    gc.collect()
    return {
        "memory": resident("VmRSS"),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
    }


def grown(name: str, checks: list[Check], kibibytes: float) -> list[Row]:
    """How the process has grown from a quarter of the checks to all of them."""
    ends: Counter[str] = Counter()
    before, start = state(), len(checks) // 4
    for number, check in enumerate(checks):
        if number == start:
            before = state()
        try:
            ends[check().verdict] += 1
        except ValueError:
            ends["raised"] += 1
    after, left = state(), len(checks) - start
    growth = (after["memory"] - before["memory"]) / 1024 / left
    return [
        tell(Row(name, "checks", len(checks))),
        *(tell(Row(name, end, count)) for end, count in sorted(ends.items())),
        tell(Row(name, "memory after all, MiB", after["memory"] / 2**20)),
        tell(Row(name, "memory of each check, KiB", growth, f"<= {kibibytes}")),
        tell(Row(name, "threads more", after["threads"] - before["threads"], "<= 0")),
        tell(Row(name, "open files more", after["files"] - before["files"], "<= 0")),
    ]


def main() -> int:
    chosen = parser(__doc__).parse_args()
    about = headline()
    share = 10 if chosen.quick else 1
    kinds = [made(k) for k in range(LOSSES // share)]
    mixed = [kinds[k % len(kinds)][1] for k in range(CHECKS // share)]
    simple = [plain(k % LOSSES) for k in range(CHECKS // share)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [*grown("all kinds", mixed, 100.0), *grown("plain", simple, 5.0)]
    return conclude(rows, chosen, about)


if __name__ == "__main__":
    sys.exit(main())
