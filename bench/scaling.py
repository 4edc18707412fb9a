"""How the time of a compiled full check grows: with threads, with the number of parameters, with the cost of the loss.

Target: two threads are at least 1.85 times as fast as one wherever the check takes at least 0.2 s in two threads
(median of pairs run in turn, one BLAS thread throughout). How it compares with a bare loop, at each cost of the loss,
is the subject of floor.py.
Run ``python bench/scaling.py [--quick] [--json FILE]``; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterator

import compiled
import numba
import threadpoolctl
from floor import full_check, problems
from measure import Row, conclude, headline, parser, ratio, seconds, tell, timed_in_turn
from networks import NETWORKS, Problem, network

import fastgc

BOUND, LONG = ">= 1.85", 0.2  # the target, and how many seconds a run takes at least for it to hold
CALLS = 0.1  # seconds of bare calls, about, that show what one costs


def thread_counts(cores: int) -> list[int]:
    """1, 2, 4 ... and all of them."""
    powers = itertools.takewhile(lambda k: k < cores, (2**i for i in itertools.count()))
    return [*powers, cores]


def microseconds(problem: Problem) -> float:
    """What one call of the compiled loss costs from Python (of which about 1 microsecond is the call)."""
    loss, record = compiled.LOSSES[problem.loss], fastgc.record(problem.params)
    loss(record, *problem.args)
    count = max(1, int(CALLS / seconds(lambda: loss(record, *problem.args))))
    repeated = [seconds(lambda: [loss(record, *problem.args) for _ in range(count)]) / count for _ in range(5)]
    return 1e6 * statistics.median(repeated)


def scaled(part: str, problem: Problem, rounds: int) -> Iterator[Row]:
    """One check at each number of threads, in turn."""
    runs = {threads: full_check(problem, threads) for threads in thread_counts(numba.config.NUMBA_NUM_THREADS)}
    reports = [run() for run in runs.values()]  # compiles
    assert all(report.passed for report in reports), reports
    assert len({str(report.to_dict()["tensors"]) for report in reports}) == 1, "results depend on the threads"
    times = {int(k): each for k, each in timed_in_turn({str(k): run for k, run in runs.items()}, rounds).items()}
    yield Row(part, "n", problem.n)
    yield Row(part, "a call of the loss, us", microseconds(problem))
    for threads, each in times.items():
        taken = statistics.median(each)
        yield Row(part, f"{threads} thread{'s' * (threads > 1)}: us an entry", 1e6 * taken / problem.n)
        bound = BOUND if threads == 2 and taken >= LONG else ""
        if threads > 1:
            yield Row(part, f"{threads} threads: times as fast as one, at {taken:.3g} s", ratio(times[1], each), bound)


def main() -> int:
    options = parser(__doc__).parse_args()
    about, rounds = headline(), 3 if options.quick else 7
    cases = {f"cost {cost}: {problem.name}": problem for cost, problem in problems(options.quick).items()}
    sizes = [n for n in NETWORKS if n < 20_000 or not options.quick]
    cases |= {f"n {n:,}: network {'-'.join(map(str, NETWORKS[n][:3]))}": network(*NETWORKS[n]) for n in sizes}
    rows = []
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # one thread means one
        for part, problem in cases.items():
            rows += [tell(row) for row in scaled(part, problem, rounds if problem.n < 60_000 else min(3, rounds))]
    return conclude(rows, options, about, rounds=rounds)


if __name__ == "__main__":
    sys.exit(main())
