"""The compiled full check against a jitted loop that does nothing but call the loss 2n times.

n = 11,110: a 100-100-10 ReLU network with softmax cross-entropy on a batch of 64. Both run in the same number of
threads with one BLAS thread in each, on records of the same kind, compiled beforehand. The loop changes one entry
between calls, so that nothing can be hoisted out of it. Target: at most 1.15 times its time (median of pairs).
Run ``python bench/floor.py [--json FILE]``; the exit status is 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import queue
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import threadpoolctl

import fastgc

TARGET = 1.15
PAIRS = 9
INPUTS, HIDDEN, CLASSES, BATCH = 100, 100, 10, 64
CHUNKS = 16  # for each thread and tensor: neither waits long for the other
STEP = 1e-5

Tensors = dict[str, np.ndarray]


@numba.njit(nogil=True)
def loss(params: Any, x: Any, y: Any) -> float:
    """Mean cross-entropy of a two-layer network."""
    b1, b2 = params["b1"], params["b2"]
    hidden = np.dot(x, params["W1"])
    for i in range(hidden.shape[0]):
        for j in range(hidden.shape[1]):
            hidden[i, j] = max(0.0, hidden[i, j] + b1[j])
    scores = np.dot(hidden, params["W2"])
    total = 0.0
    for i in range(y.size):
        top, terms = -np.inf, 0.0
        for k in range(b2.size):
            scores[i, k] += b2[k]
            top = max(top, scores[i, k])
        for k in range(b2.size):
            terms += math.exp(scores[i, k] - top)
        total += math.log(terms) + top - scores[i, y[i]]
    return total / y.size


def gradients(params: Tensors, x: np.ndarray, y: np.ndarray) -> Tensors:
    """Back-propagation of the loss."""
    hidden = np.maximum(0.0, x @ params["W1"] + params["b1"])
    scores = hidden @ params["W2"] + params["b2"]
    slope = np.exp(scores - scores.max(axis=1, keepdims=True))
    slope /= slope.sum(axis=1, keepdims=True)
    slope[np.arange(len(y)), y] -= 1
    slope /= len(y)
    below = (slope @ params["W2"].T) * (hidden > 0)
    return {"W1": x.T @ below, "b1": below.sum(axis=0), "W2": hidden.T @ slope, "b2": slope.sum(axis=0)}


@numba.njit(nogil=True)
def bare_loop(params: Any, args: Any, flat: Any, start: int, stop: int, out: Any) -> None:
    """Call the loss twice for each entry of one tensor, the entry moved up and down."""
    for i in range(start, stop):
        entry = flat[i]
        flat[i] = entry + STEP
        out[i, 0] = loss(params, *args)
        flat[i] = entry - STEP
        out[i, 1] = loss(params, *args)
        flat[i] = entry


def problem() -> tuple[Tensors, tuple[np.ndarray, np.ndarray]]:
    """Parameters and data of the network."""
    rng = np.random.default_rng(0)
    params = {
        "W1": rng.normal(0, np.sqrt(2 / INPUTS), (INPUTS, HIDDEN)),
        "b1": rng.normal(0, 0.1, HIDDEN),
        "W2": rng.normal(0, np.sqrt(2 / HIDDEN), (HIDDEN, CLASSES)),
        "b2": rng.normal(0, 0.1, CLASSES),
    }
    return params, (rng.normal(size=(BATCH, INPUTS)), rng.integers(CLASSES, size=BATCH))


def floor(params: Tensors, args: tuple[Any, ...], threads: int) -> Callable[[], Tensors]:
    """The bare loop in threads, each with a record of its own; the call returns the loss values of each tensor."""
    idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(threads):
        idle.put(fastgc.record(params))
    pieces = [
        (name, start, min(start + length, p.size))
        for name, p in params.items()
        for length in [max(1, p.size // (threads * CHUNKS))]
        for start in range(0, p.size, length)
    ]

    def piece(name: str, start: int, stop: int, out: np.ndarray) -> None:
        record = idle.get()
        bare_loop(record, args, record[name].reshape(-1), start, stop, out)
        idle.put(record)

    def run() -> Tensors:
        out = {name: np.empty((p.size, 2)) for name, p in params.items()}
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(piece, *each, out[each[0]]) for each in pieces]:
                future.result()
        return out

    return run


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    path = parser.parse_args().json
    params, args = problem()
    n, threads = sum(p.size for p in params.values()), numba.get_num_threads()
    bare = floor(params, args, threads)

    def check() -> Any:
        return fastgc.check_gradients(
            loss, gradients, params, args=args, samples="all", crosscheck=False, engine="numba", threads=threads
        )

    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        report, values = check(), bare()  # compiles both
        assert report.passed, report
        for name, analytic in gradients(params, *args).items():
            quotients = (values[name][:, 0] - values[name][:, 1]) / (2 * STEP)
            assert np.median(np.abs(quotients - analytic.ravel())) < 1e-8, name
            assert report.tensors[name].checked == analytic.size
        times = [(seconds(bare), seconds(check)) for _ in range(PAIRS)]
    ratio = statistics.median(full / plain for plain, full in times)
    plain, full = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, Numba {numba.__version__}, "
          f"fastgc {fastgc.__version__}, {os.cpu_count()} cores, {threads} threads, {PAIRS} pairs\n")  # fmt: skip
    print(f"{'n = ' + format(n, ','):<14}{'seconds':>9}{'calls':>9}{'us a call':>11}{'us an entry':>13}")
    for name, spent, calls in (("bare loop", plain, 2 * n), ("full check", full, report.evaluations)):
        print(f"{name:<14}{spent:>9.3f}{calls:>9,}{1e6 * spent / calls:>11.2f}{1e6 * spent / n:>13.1f}")
    met = ratio <= TARGET
    ratios = sorted(full / plain for plain, full in times)
    print(f"\nratio (median of the pairs): {ratio:.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f}); "
          f"target: at most {TARGET}: {'met' if met else 'MISSED'}")  # fmt: skip
    if path:
        numbers = {
            "n": n, "threads": threads, "ratio": ratio, "target": TARGET, "met": met,
            "evaluations": report.evaluations, "seconds": [{"bare": b, "check": c} for b, c in times],
        }  # fmt: skip
        path.write_text(json.dumps(numbers, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
