"""Peak resident memory of checks of a network with 20 million parameters, each in a process of its own.

Counted is what the process holds above what it held with everything imported and compiled, before there was a model:
the caller's parameters and gradient (given as arrays) included. Target: at most parameters + gradient + one copy of the
parameters for each thread, and 10 % of that. The checks look at samples and at all entries by random directions; those
with a callable gradient, which returns new arrays, and of every single entry, whose results are kept, are only told.
Run ``python bench/memory.py [--quick] [--json FILE]`` (Linux); the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from measure import Row, conclude, forget_peak, headline, parser, process, resident, tell
from networks import Problem, lookup, network

CASES: dict[str, dict[str, Any]] = {
    "numba, 1 thread": {"engine": "numba", "threads": 1},
    "numba, 2 threads": {"engine": "numba", "threads": 2},
    "numba, 2 threads, probes only": {"engine": "numba", "threads": 2, "samples": 0},
    "python": {"engine": "python"},
    "python, probes only": {"engine": "python", "samples": 0},
    "python, gradient called": {"engine": "python"},
    "numba, 2 threads, every entry of 2 million": {"engine": "numba", "threads": 2, "samples": "all"},
}
TOLD = ("python, gradient called", "numba, 2 threads, every entry of 2 million")


def model(case: str, quick: bool) -> Problem:
    if "every entry" in case:  # a loss of a microsecond
        return lookup(rows=25_000 if quick else 250_000, columns=8)
    return network(*((1_989, 5_000, 10, 2) if quick else (3_989, 5_000, 10, 2)))


def check(case: str, problem: Problem, gradients: Any) -> Any:
    import compiled

    import fastgc

    options = CASES[case]
    loss = problem.loss if options["engine"] == "python" else compiled.LOSSES[problem.loss]
    return fastgc.check_gradients(loss, gradients, problem.params, args=problem.args, crosscheck=False, **options)


def measured(case: str, quick: bool) -> dict[str, Any]:
    """One check in this process, with the peak of its memory."""
    called = "called" in case
    small = lookup(rows=100) if "every entry" in case else network(20, 30, 10, 2)
    check(case, small, small.gradients)  # whatever is imported or compiled on first use
    before = resident("VmRSS")
    problem = model(case, quick)
    gradients = problem.gradients if called else problem.gradients(problem.params, *problem.args)
    forget_peak()
    begin = time.perf_counter()
    report = check(case, problem, gradients)
    return {
        "verdict": report.verdict,
        "seconds": time.perf_counter() - begin,
        "evaluations": report.evaluations,
        "n": problem.n,
        "bytes": sum(p.nbytes for p in problem.params.values()),
        "peak": resident("VmHWM") - before,
    }


def rows_of(case: str, quick: bool) -> Iterator[Row]:
    found = json.loads(process(__file__, "--case", case, *(["--quick"] * quick)))
    yield Row(case, "parameters", found["n"])
    yield Row(case, "decided", found["verdict"] != "undecided", "== 1")
    yield Row(case, "evaluations", found["evaluations"])
    yield Row(case, "seconds", found["seconds"])
    allowed = 2 + CASES[case].get("threads", 1)
    yield Row(case, "parameters, MiB", found["bytes"] / 2**20)
    yield Row(case, "peak / parameters", found["peak"] / found["bytes"])
    stated = found["peak"] / (allowed * found["bytes"])
    what = f"peak / (parameters + gradient + {allowed - 2} cop{'y' if allowed == 3 else 'ies'})"
    yield Row(case, what, stated, "" if case in TOLD else "<= 1.1")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--case", choices=list(CASES), help="only this one, in this process; prints JSON")
    chosen = options.parse_args()
    if chosen.case:
        print(json.dumps(measured(chosen.case, chosen.quick)))
        return 0
    about = headline()
    rows = [tell(row) for case in CASES for row in rows_of(case, chosen.quick)]
    return conclude(rows, chosen, about)


if __name__ == "__main__":
    sys.exit(main())
