"""Plain Python losses in two processes, and vectorized, against one call after another.

workers: a loss of about 5 ms, a simulator stepped in Python; the whole check of its 240 parameters with ``workers=2``
against ``workers=1``, once the processes have started. Target: at least 1.7 times as fast, on two free cores.
vectorized: a recurrent network of 252 parameters over 20 steps, in NumPy; the whole check with blocks of rows against
the same source called for one row at a time. Target: at least 3 times as fast.
The reports must agree before anything is timed. Medians of interleaved pairs. How much of two cores is free is measured
too, by two processes that count at the same time: below 1.9 the machine is busy, and the first target out of reach.
Run ``python bench/workers.py [--json FILE]``; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in the processes: before NumPy is imported

import numpy as np
from measure import Row, conclude, headline, parser, ratio, seconds, tell

import fastgc

PAIRS = 5
COUNT = 3_000_000  # for a process that shows how much of a core is free
TIMES = 40_000  # steps of the simulator
STEPS, EXAMPLES, INPUTS, HIDDEN = 20, 4, 8, 12

Tensors = dict[str, np.ndarray]


def simulator(p: np.ndarray) -> float:
    """A damped oscillator with a drive for each parameter, stepped in Python: about 5 ms."""
    position, speed, total, drives = 0.0, 0.0, 0.0, p.tolist()
    for k in range(TIMES):
        speed += 0.01 * (drives[k % len(drives)] - position - 0.1 * speed)
        position += 0.01 * speed
        total += position * position
    return total / TIMES


def simulator_gradient(p: np.ndarray) -> np.ndarray:
    """The adjoint of the stepping."""
    n = len(p)
    position, speed, path, drives = 0.0, 0.0, [], p.tolist()
    for k in range(TIMES):
        speed += 0.01 * (drives[k % n] - position - 0.1 * speed)
        position += 0.01 * speed
        path.append(position)
    slopes, d_position, d_speed = [0.0] * n, 0.0, 0.0
    for k in reversed(range(TIMES)):
        d_position += 2 * path[k] / TIMES
        d_speed += 0.01 * d_position
        slopes[k % n] += 0.01 * d_speed
        d_position -= 0.01 * d_speed
        d_speed *= 1 - 0.001
    return np.array(slopes)


def network(p: Tensors, x: np.ndarray) -> np.ndarray:
    """A recurrent network's mean squared last state, for each row of the batch; without a batch axis one value."""
    hidden, bias = np.zeros((x.shape[1], HIDDEN)), p["b"][..., None, :]
    for step in x:
        hidden = np.tanh(step @ p["W"] + hidden @ p["U"] + bias)
    return np.mean(hidden**2, axis=(-2, -1))


def network_gradients(p: Tensors, x: np.ndarray) -> Tensors:
    """Back-propagation through time."""
    states = [np.zeros((x.shape[1], HIDDEN))]
    for step in x:
        states.append(np.tanh(step @ p["W"] + states[-1] @ p["U"] + p["b"]))
    slope, result = 2 * states[-1] / states[-1].size, {name: np.zeros_like(value) for name, value in p.items()}
    for step, before, after in zip(x[::-1], states[-2::-1], states[:0:-1], strict=True):
        inside = slope * (1 - after**2)
        result["W"] += step.T @ inside
        result["U"] += before.T @ inside
        result["b"] += inside.sum(axis=0)
        slope = inside @ p["U"].T
    return result


def network_problem() -> tuple[Tensors, tuple[np.ndarray]]:
    rng = np.random.default_rng(0)
    shapes = {"W": (INPUTS, HIDDEN), "U": (HIDDEN, HIDDEN), "b": (HIDDEN,)}
    params = {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    return params, (rng.normal(size=(STEPS, EXAMPLES, INPUTS)),)


def counting(_: int) -> float:
    """Seconds that a process takes to count."""
    begin = time.perf_counter()
    for _ in range(COUNT):
        pass
    return time.perf_counter() - begin


def free_cores() -> float:
    """How much faster two processes count than one: 2.0 where both cores are free."""
    with get_context("spawn").Pool(2) as pool:
        pool.map(counting, [0, 1])  # both have started
        ratios = []
        for _ in range(PAIRS):
            begin = time.perf_counter()
            pool.map(counting, [0, 1], chunksize=1)
            ratios.append(2 * counting(0) / (time.perf_counter() - begin))
        return statistics.median(ratios)


def pairs(slow: Callable[[], Any], fast: Callable[[], Any]) -> list[tuple[float, float]]:
    """Seconds of both, interleaved; they must agree first, which also starts the processes."""
    reports = fast(), slow()
    assert all(report.passed for report in reports), reports
    entries = [[e.numerical for t in report.tensors.values() for e in t.entries] for report in reports]
    assert np.allclose(*entries, rtol=1e-6, atol=1e-9), "the ways disagree"
    return [(seconds(slow), seconds(fast)) for _ in range(PAIRS)]


def workers_pairs() -> list[tuple[float, float]]:
    params = np.random.default_rng(0).normal(size=240)

    def check(workers: int) -> Any:
        return fastgc.check_gradients(
            simulator, simulator_gradient, params, samples="all", crosscheck=False, workers=workers
        )

    return pairs(lambda: check(1), lambda: check(2))


def vectorized_pairs() -> list[tuple[float, float]]:
    params, args = network_problem()

    def check(*, vectorized: bool) -> Any:
        return fastgc.check_gradients(
            network, network_gradients, params, args=args, samples="all", crosscheck=False, vectorized=vectorized
        )

    return pairs(lambda: check(vectorized=False), lambda: check(vectorized=True))


def compared(part: str, what: str, times: list[tuple[float, float]], bound: str) -> Iterator[Row]:
    """Seconds of both ways, and the quotients of pairs."""
    slow, fast = zip(*times, strict=True)
    yield Row(part, "one by one, seconds", statistics.median(slow))
    yield Row(part, "seconds", statistics.median(fast))
    yield Row(part, f"{what}, least", min(a / b for a, b in times))
    yield Row(part, f"{what}, most", max(a / b for a, b in times))
    yield Row(part, what, ratio(slow, fast), bound)


def main() -> int:
    options = parser(__doc__).parse_args()
    about = headline()
    simulator(np.ones(240))
    one = statistics.median(seconds(lambda: simulator(np.ones(240))) for _ in range(PAIRS))
    rows = [tell(Row("machine", "two processes that count: times as fast as one", free_cores()))]
    rows += [tell(Row("workers=2", "a call of the loss, ms", 1e3 * one))]
    rows += map(tell, compared("workers=2", "times as fast as one process", workers_pairs(), ">= 1.7"))
    rows += map(tell, compared("vectorized", "times as fast as one call after another", vectorized_pairs(), ">= 3"))
    return conclude(rows, options, about, pairs=PAIRS)


if __name__ == "__main__":
    sys.exit(main())
