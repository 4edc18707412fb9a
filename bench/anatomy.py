"""Where the time of a check goes, and how fast it could be at most: for targets that are missed.

For each network: what one call of the loss costs in NumPy and compiled, in one thread; by these alone, how many times
as fast as a central or a two-point loop in NumPy a check could be that did nothing but call the compiled loss in all
threads; and how the time of a check in one thread divides among the modules of fastgc (by cProfile, which makes Python
code look slower than it is, and compiled code not). There are no targets. Run ``python bench/anatomy.py [--quick]
[--json FILE]``.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compiled
import numba
import threadpoolctl
from measure import Row, conclude, headline, parser, seconds, tell
from networks import NETWORKS, Problem, network

import fastgc

CALLS = 200  # of a loss, whose median time is taken
TIMES = 20  # that a short check is profiled
SHOWN = 0.02  # share of the time above which a module is shown
CHECKS: dict[str, dict[str, Any]] = {"all entries": {"samples": "all"}, "certified": {"probes": 20, "samples": 0}}


def cost(call: Callable[[], Any]) -> float:
    """Median seconds of a call."""
    call()
    return statistics.median(seconds(call) for _ in range(CALLS))


def bounds(title: str, problem: Problem, evaluations: int) -> Iterator[Row]:
    """What the losses alone allow."""
    loss, record = compiled.LOSSES[problem.loss], fastgc.record(problem.params)
    plain, fast = (
        cost(lambda call=call: call())  # type: ignore[misc]
        for call in (lambda: problem.loss(problem.params, *problem.args), lambda: loss(record, *problem.args))
    )
    threads = numba.get_num_threads()
    yield Row(title, "loss in NumPy, microseconds", 1e6 * plain)
    yield Row(title, "compiled loss, microseconds", 1e6 * fast)
    yield Row(title, "all entries: at most so many times as fast as NumPy", threads * plain / fast)
    most = (problem.n + 1) * plain / (evaluations * fast / threads)
    yield Row(title, "certified: at most so many times as fast as a two-point loop", most)


def by_module(title: str, check: Callable[[], Any], times: int) -> Iterator[Row]:
    """Shares of the time spent in each module's own lines; what these call of NumPy's counts as another."""
    profile = cProfile.Profile()
    for _ in range(times):
        profile.runcall(check)
    spent: Counter[str] = Counter()
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        path = Path(file)
        inside = "the compiled loss" if function in ("_run", "_run_bundle") else path.stem
        spent[inside if path.parent.name == "fastgc" else "NumPy, Python and others"] += own
    whole = sum(spent.values())
    yield Row(title, "milliseconds, profiled", 1e3 * whole / times)
    for module, own in spent.most_common():
        if own > SHOWN * whole:
            yield Row(title, f"share: {module}", own / whole)


def anatomy(n: int, quick: bool) -> Iterator[Row]:
    problem = network(*NETWORKS[n])

    def check(kind: str) -> Any:
        return fastgc.check_gradients(
            compiled.LOSSES[problem.loss], problem.gradients, problem.params, args=problem.args, threads=1,
            engine="numba", crosscheck=False, **CHECKS[kind],
        )  # fmt: skip

    evaluations = check("certified").evaluations
    yield Row(f"n = {n:,}", "evaluations of the certified check", evaluations)
    yield from bounds(f"n = {n:,}", problem, evaluations)
    for kind in CHECKS:
        yield from by_module(f"n = {n:,}, {kind}", lambda kind=kind: check(kind), 3 if kind == "all entries" else TIMES)  # type: ignore[misc]
        if quick:
            return


def main() -> int:
    options = parser(__doc__).parse_args()
    about = headline()
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        sizes = list(NETWORKS)[: 1 if options.quick else 2]
        rows = [tell(row) for n in sizes for row in anatomy(n, options.quick)]
    return conclude(rows, options, about)


if __name__ == "__main__":
    sys.exit(main())
