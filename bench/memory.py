"""Peak resident memory of checks of a network with 20 million parameters, each in a process of its own.

Counted is what the process holds above what it held with everything imported and compiled, before there was a model:
the caller's parameters and gradient included. Target: at most these, and a copy of the parameters for each thread; or
with an option the copies that `check_gradients` states for it; and 10 % of that. A gradient that is called returns new
arrays, of which the check keeps a copy: it counts twice. The checks look at samples and at all entries by random
directions; that of every single entry, whose results are kept, is only told.
Run ``python bench/memory.py [--quick] [--only PART] [--json FILE]`` (Linux); the exit status is 1 if one is missed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from measure import Row, conclude, forget_peak, headline, parser, process, resident, tell
from networks import Problem, Tensors, lookup, network


@dataclass(frozen=True)
class Case:
    """A check, and the copies of the parameters that it may make.

    Attributes
    ----------
    gradients : how many the caller gives: an array, or a function that returns new ones, which are copied
    changed : makes other parameters of the problem's
    """

    options: dict[str, Any]
    copies: float = 1
    called: bool = False
    changed: Callable[[Problem], Problem] = lambda problem: problem
    told: bool = False
    further: Callable[[Problem], dict[str, Any]] = field(default=lambda problem: {})

    @property
    def gradients(self) -> int:
        return 2 if self.called else 1


def single(problem: Problem) -> Problem:
    """In float32, the data too."""
    params = {name: each.astype(np.float32) for name, each in problem.params.items()}
    return replace(problem, params=params, args=(problem.args[0].astype(np.float32), *problem.args[1:]))


def strided(problem: Problem) -> Problem:
    """Every second entry of arrays of twice the size."""
    params = {name: each.repeat(2, axis=-1)[..., ::2] for name, each in problem.params.items()}
    return replace(problem, params=params)


def batched_loss(params: Tensors, x: Any, y: Any) -> Any:
    """The loss of the network at each row of a batch."""
    hidden = x @ params["W1"]
    hidden += params["b1"][:, None]
    scores = np.maximum(hidden, 0.0, out=hidden) @ params["W2"]
    scores += params["b2"][:, None]
    chosen = scores[:, np.arange(y.size), y].sum(axis=1)
    return (np.log(np.exp(scores).sum(axis=2)).sum(axis=1) - chosen) / y.size


def batched(problem: Problem) -> Problem:
    return replace(problem, loss=batched_loss)


def before(problem: Problem) -> dict[str, Any]:
    return {"previous": {name: each * 1.01 for name, each in problem.params.items()}}


PYTHON: dict[str, Any] = {"engine": "python"}
IN_PLACE: dict[str, Any] = {"engine": "python", "in_place": True}
CASES: dict[str, Case] = {
    "numba, 1 thread": Case({"engine": "numba", "threads": 1}),
    "numba, 2 threads": Case({"engine": "numba", "threads": 2}, copies=2),
    "numba, 2 threads, probes only": Case({"engine": "numba", "threads": 2, "samples": 0}, copies=2),
    "python": Case(PYTHON),
    "python, probes only": Case({"engine": "python", "samples": 0}),
    "gradient called": Case(PYTHON, called=True),
    "points=2": Case({"engine": "python", "points": 2}, copies=2, called=True),
    "in_place": Case(IN_PLACE),
    # Up to 64 MiB are kept to restore the arrays; the signs of a direction, of a byte each, are a quarter of a copy.
    "in_place, float32": Case({**IN_PLACE, "precision": "native"}, copies=1.25, changed=single),
    "in_place, points=2": Case({**IN_PLACE, "points": 2}, called=True),
    "vectorized": Case({"engine": "python", "vectorized": True}, copies=3, changed=batched),
    "strided parameters": Case(PYTHON, changed=strided),
    "previous": Case(PYTHON, copies=2, further=before),
    "every entry of 2 million": Case({"engine": "numba", "threads": 2, "samples": "all"}, copies=2, told=True),
}


def model(case: str, quick: bool) -> Problem:
    if "every entry" in case:  # a loss of a microsecond
        return lookup(rows=25_000 if quick else 250_000, columns=8)
    return network(*((1_989, 5_000, 10, 2) if quick else (3_989, 5_000, 10, 2)))


def check(case: str, problem: Problem, gradients: Any, further: dict[str, Any]) -> Any:
    import compiled

    import fastgc

    options = CASES[case].options
    loss = problem.loss if options["engine"] == "python" else compiled.LOSSES[problem.loss]
    options = {**options, **further, "crosscheck": False}
    return fastgc.check_gradients(loss, gradients, problem.params, args=problem.args, **options)


def held(params: Any) -> int:
    """Bytes of arrays, and of what they are views of."""
    bases = [each if each.base is None else each.base for each in params.values()]
    return sum(each.nbytes for each in bases)


def prepared(case: str, problem: Problem) -> tuple[Problem, Any, dict[str, Any]]:
    """The problem as the case changes it, its gradient, right but where an earlier point is asked for, and options."""
    chosen = CASES[case]
    further = chosen.further(problem)
    where = further.get("previous", problem.params)
    if chosen.called:
        return chosen.changed(problem), problem.gradients, further
    gradients = {name: each.astype(each.dtype) for name, each in problem.gradients(where, *problem.args).items()}
    problem = chosen.changed(problem)
    for name, each in problem.params.items():
        gradients[name] = gradients[name].astype(each.dtype, copy=False)
    return problem, gradients, further


def measured(case: str, quick: bool) -> dict[str, Any]:
    """One check in this process, with the peak of its memory."""
    small = lookup(rows=100) if "every entry" in case else network(20, 30, 10, 2)
    check(case, *prepared(case, small))  # whatever is imported or compiled on first use
    before = resident("VmRSS")
    problem, gradients, further = prepared(case, model(case, quick))
    forget_peak()
    begin = time.perf_counter()
    report = check(case, problem, gradients, further)
    return {
        "verdict": report.verdict,
        "seconds": time.perf_counter() - begin,
        "evaluations": report.evaluations,
        "n": problem.n,
        "bytes": sum(p.nbytes for p in problem.params.values()),
        "held": held(problem.params) + sum(map(held, further.values())),
        "peak": resident("VmHWM") - before,
    }


def rows_of(case: str, quick: bool) -> Iterator[Row]:
    found, chosen = json.loads(process(__file__, "--case", case, *(["--quick"] * quick))), CASES[case]
    yield Row(case, "parameters", found["n"])
    single = "float32" in case  # its round-off hides a single entry of millions
    yield Row(case, "decided", found["verdict"] != "undecided", "" if single else "== 1")
    yield Row(case, "evaluations", found["evaluations"])
    yield Row(case, "seconds", found["seconds"])
    yield Row(case, "parameters, MiB", found["bytes"] / 2**20)
    yield Row(case, "peak / parameters", found["peak"] / found["bytes"])
    stated = found["peak"] / (found["held"] + (chosen.gradients + chosen.copies) * found["bytes"])
    what = f"peak / (parameters + gradient + {chosen.copies} cop{'y' if chosen.copies == 1 else 'ies'})"
    yield Row(case, what, stated, "" if chosen.told else "<= 1.1")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--case", choices=list(CASES), help="only this one, in this process; prints JSON")
    options.add_argument("--only", default="", help="cases whose names hold this")
    chosen = options.parse_args()
    if chosen.case:
        print(json.dumps(measured(chosen.case, chosen.quick)))
        return 0
    about = headline()
    rows = [tell(row) for case in CASES if chosen.only in case for row in rows_of(case, chosen.quick)]
    return conclude(rows, chosen, about)


if __name__ == "__main__":
    sys.exit(main())
