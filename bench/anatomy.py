"""Where the time of a check goes, and how fast it could be at most: for targets that are missed.

For each network: what one call of the loss costs in NumPy and compiled, in one thread; by these alone, how many times
as fast as a central or a two-point loop in NumPy a check could be that did nothing but call the compiled loss in all
threads; and how the time of a check in one thread divides among the modules of fastgc (by cProfile, which makes Python
code look slower than it is, and compiled code not). These have no targets.

What a check costs beside its evaluations: a warm check of four small tensors takes at most 2 ms of processor time and
150 calls of functions; 1,000 tensors of 10 entries take at most 100 microseconds each, and where every entry is checked
at most 1.3 times the time of one tensor of 10,000. Run ``python bench/anatomy.py [--quick] [--json FILE]``; the exit
status is 1 if a target is missed.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compiled
import numba
import numpy as np
import threadpoolctl
from measure import Row, conclude, headline, parser, seconds, tell
from networks import NETWORKS, Problem, Tensors, network

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
        spent[inside if "fastgc" in path.parts[:-1] else "NumPy, Python and others"] += own
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


def processor_seconds(check: Callable[[], Any], times: int) -> float:
    """Median processor time of a check, of all threads together."""
    spent = []
    for _ in range(times):
        begin = time.process_time()
        check()
        spent.append(time.process_time() - begin)
    return statistics.median(spent)


def small_check(times: int) -> Iterator[Row]:
    """The second and later checks of four tensors, with all that a check does by default."""
    problem, part = network(20, 30, 10, batch=4), "four tensors, a warm check"
    loss, record = compiled.LOSSES[problem.loss], fastgc.record(problem.params)

    def check() -> Any:
        return fastgc.check_gradients(
            loss, problem.gradients, problem.params, args=problem.args, engine="numba", threads=1
        )

    evaluations = check().evaluations
    own = processor_seconds(check, times) - evaluations * cost(lambda: loss(record, *problem.args))
    profile = cProfile.Profile()
    profile.runcall(check)
    yield Row(part, "evaluations", evaluations)
    yield Row(part, "milliseconds of processor time beside the evaluations", 1e3 * own, "<= 2")
    yield Row(part, "calls of functions", pstats.Stats(profile).total_calls, "<= 150")  # type: ignore[attr-defined]


def squares(p: Tensors) -> float:
    """A loss of many tensors that costs as much for few: it reads the buffer of which they are views."""
    first = next(iter(p.values()))
    flat = first if first.base is None else first.base.view(np.float64).reshape(-1)
    return float(np.dot(flat, flat))


def many_tensors(times: int) -> Iterator[Row]:
    """1,000 tensors of 10 entries, and one of 10,000."""
    flat = np.random.default_rng(0).uniform(0.5, 1.5, 10_000)
    few, several = {"w": flat}, {f"w{k}": flat[10 * k : 10 * k + 10] for k in range(1000)}

    def check(params: Tensors, **options: Any) -> Any:
        return fastgc.check_gradients(squares, {name: 2 * p for name, p in params.items()}, params, **options)

    report = check(several)
    assert report.passed, report
    own = processor_seconds(lambda: check(several), times) - report.evaluations * cost(lambda: squares(few))
    whole = [processor_seconds(lambda params=params: check(params, samples="all"), times) for params in (several, few)]  # type: ignore[misc]
    part = "1,000 tensors of 10 entries"
    yield Row(part, "evaluations", report.evaluations)
    yield Row(part, "microseconds beside the evaluations, for each tensor", 1e3 * own, "<= 100")
    yield Row(part, "all entries: times as long as one tensor of 10,000", whole[0] / whole[1], "<= 1.3")


def main() -> int:
    options = parser(__doc__).parse_args()
    about = headline()
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        sizes = list(NETWORKS)[: 1 if options.quick else 2]
        rows = [tell(row) for row in small_check(5 if options.quick else 50)]
        rows += [tell(row) for row in many_tensors(3 if options.quick else 7)]
        rows += [tell(row) for n in sizes for row in anatomy(n, options.quick)]
    return conclude(rows, options, about)


if __name__ == "__main__":
    sys.exit(main())
