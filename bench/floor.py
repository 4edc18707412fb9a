"""The compiled full check against a jitted loop that does nothing but call the loss 2n times.

At losses of 1 microsecond (a table of 200,000 entries of which few rows are read), of 10 and of 50 microseconds
(networks of 11,110 parameters), and of 1 millisecond (a small table, read often). Both run in the same number of
threads with one BLAS thread in each, on records of the same kind, compiled beforehand. The loop changes one entry
between calls, so that nothing can be hoisted out of it. Target: at most 1.05 times its time (median of the pairs), at
every cost. Run ``python bench/floor.py [--quick] [--json FILE]``; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import queue
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import compiled
import loops
import numba
import numpy as np
import threadpoolctl
from measure import Row, conclude, headline, parser, ratio, tell, timed_in_turn
from networks import Problem, Tensors, lookup, network

import fastgc

BOUND = "<= 1.05"
CHUNKS = 16  # for each thread and tensor: neither waits long for the other


def problems(quick: bool) -> dict[str, Problem]:
    """One for each cost of the loss; how much it costs here is measured and printed."""
    return {
        "1 us": lookup(rows=5_000 if quick else 25_000, batch=250),
        "10 us": network(100, 100, 10, batch=20),
        "50 us": network(*((32, 64, 10, 128) if quick else (100, 100, 10, 64))),
        "1 ms": lookup(rows=25 if quick else 250, batch=110_000),
    }


def bare_loop(loss: Any) -> Any:
    """A jitted function that calls the loss twice for each entry of one tensor, the entry moved up and down."""

    @numba.njit(nogil=True)
    def run(params: Any, args: Any, flat: Any, start: int, stop: int, out: Any) -> None:
        for i in range(start, stop):
            entry = flat[i]
            flat[i] = entry + loops.STEP
            out[i, 0] = loss(params, *args)
            flat[i] = entry - loops.STEP
            out[i, 1] = loss(params, *args)
            flat[i] = entry

    return run


def floor(problem: Problem, threads: int) -> Callable[[], Tensors]:
    """The bare loop in threads, each with a record of its own; the call returns the loss values of each tensor."""
    loop, idle = bare_loop(compiled.LOSSES[problem.loss]), queue.SimpleQueue[Any]()
    for _ in range(threads):
        idle.put(fastgc.record(problem.params))
    pieces = [
        (name, start, min(start + length, p.size))
        for name, p in problem.params.items()
        for length in [max(1, p.size // (threads * CHUNKS))]
        for start in range(0, p.size, length)
    ]

    def piece(name: str, start: int, stop: int, out: np.ndarray) -> None:
        record = idle.get()
        loop(record, problem.args, record[name].reshape(-1), start, stop, out)
        idle.put(record)

    def run() -> Tensors:
        out = {name: np.empty((p.size, 2)) for name, p in problem.params.items()}
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(piece, *each, out[each[0]]) for each in pieces]:
                future.result()
        return out

    return run


def full_check(problem: Problem, threads: int) -> Callable[[], Any]:
    return lambda: fastgc.check_gradients(
        compiled.LOSSES[problem.loss], problem.gradients, problem.params, args=problem.args, samples="all",
        crosscheck=False, engine="numba", threads=threads,
    )  # fmt: skip


def validate(problem: Problem, report: Any, values: Tensors) -> None:
    """Both did all of the work, and right."""
    assert report.passed, report
    for name, analytic in problem.gradients(problem.params, *problem.args).items():
        quotients = (values[name][:, 0] - values[name][:, 1]) / (2 * loops.STEP)
        assert np.median(np.abs(quotients - analytic.ravel())) < 1e-8, name
        assert report.tensors[name].checked == analytic.size


def processor_time(run: Callable[[], Any]) -> float:
    """Seconds that all threads together spent computing."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def compared(cost: str, problem: Problem, threads: int, pairs: int) -> Iterator[Row]:
    check, bare = full_check(problem, threads), floor(problem, threads)
    report = check()  # compiles
    validate(problem, report, bare())
    times = timed_in_turn({"bare": bare, "check": check}, pairs)
    part, calls = f"{cost}: {problem.name}", 2 * problem.n
    yield Row(part, "n", problem.n)
    yield Row(part, "bare loop, seconds", statistics.median(times["bare"]))
    yield Row(part, "full check, seconds", statistics.median(times["check"]))
    yield Row(part, "a call in one thread, us", 1e6 * threads * statistics.median(times["bare"]) / calls)
    yield Row(part, "evaluations of the check / of the loop", report.evaluations / calls)
    ratios = [check / bare for check, bare in zip(times["check"], times["bare"], strict=True)]
    yield Row(part, "check / loop, lowest", min(ratios))
    yield Row(part, "check / loop, highest", max(ratios))
    spent = processor_time(check) / processor_time(bare)
    yield Row(part, "check / loop in processor time (others disturb it less)", spent)
    yield Row(part, "check / loop", ratio(times["check"], times["bare"]), BOUND)


def main() -> int:
    options = parser(__doc__).parse_args()
    about, threads, pairs = headline(), numba.get_num_threads(), 3 if options.quick else 9
    print(f"{threads} threads, {pairs} pairs\n")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        rows = [
            tell(row)
            for cost, problem in problems(options.quick).items()
            for row in compared(cost, problem, threads, pairs)
        ]
    return conclude(rows, options, about, threads=threads, pairs=pairs)


if __name__ == "__main__":
    sys.exit(main())
