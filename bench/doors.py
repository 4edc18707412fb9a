"""One catalogue, all doors: verdicts on right and wrong gradients by every function that checks them.

Both catalogues of the tests go through `check_gradients` (all entries, and by default), `check_jacobian` (as a row),
`fastgc.torch.check_module` and `gradcheck`, `fastgc.jax.check_gradients` and `check_grads`; and right functions with
two kinks near the point, whose values are nearly lost in round-off, through the first two. The exit status is 1 unless
no door fails a right gradient or passes a wrong one, and the two doors of the last family agree.

Run ``python bench/doors.py [--door NAME] [--every N] [--kinks N] [--json FILE]`` after ``pip install torch jax``.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import Row, conclude, headline, parser, tell

import fastgc

sys.path.insert(0, str(Path(__file__).parents[1]))

LARGEST = 300  # parameters of what goes entry by entry through the doors that know no samples

Array = np.ndarray
Door = Callable[[Any], str]


def by_gradients(problem: Any, **options: Any) -> str:
    return fastgc.check_gradients(
        problem.loss, problem.gradients, problem.params, args=problem.args, crosscheck=False, **options
    ).verdict


def by_jacobian(problem: Any) -> str:
    """As the Jacobian of a function of one output, with one row."""
    shapes = {name: p.shape for name, p in problem.params.items()}
    ends = np.cumsum([p.size for p in problem.params.values()])[:-1]

    def params(x: Array) -> dict[str, Array]:
        return {name: part.reshape(s) for (name, s), part in zip(shapes.items(), np.split(x, ends), strict=True)}

    def row(x: Array) -> Array:
        found = problem.gradients(params(x), *problem.args)
        return np.concatenate([np.ravel(found[name]) for name in shapes])[None]

    x = np.concatenate([p.ravel() for p in problem.params.values()])
    return fastgc.check_jacobian(lambda x: np.array([problem.loss(params(x), *problem.args)]), row, x).verdict


def torch_doors() -> dict[str, Door]:
    from fastgc.torch import check_module, gradcheck
    from tests.support.torch_door import Module, function, tensors

    def by_module(problem: Any) -> str:
        return check_module(Module(problem), (), lambda output: output).verdict

    def by_gradcheck(problem: Any) -> str:
        inputs = tuple(each.requires_grad_() for each in tensors(problem))
        return raised(lambda: gradcheck(function(problem), inputs, **closeness(problem)))

    return {"torch.check_module": by_module, "torch.gradcheck": by_gradcheck}


def jax_doors() -> dict[str, Door]:
    import jax

    from fastgc.jax import check_gradients, check_grads
    from tests.support.jax_door import function

    jax.config.update("jax_enable_x64", True)

    def by_pytree(problem: Any) -> str:
        return check_gradients(function(problem), dict(problem.params)).verdict

    def by_grads(problem: Any) -> str:
        return raised(
            lambda: check_grads(function(problem), (dict(problem.params),), 1, modes="rev", **closeness(problem))
        )

    return {"jax.check_gradients": by_pytree, "jax.check_grads": by_grads}


def closeness(problem: Any) -> dict[str, float]:
    """The tolerances of `check_gradients`; those that gradcheck and check_grads have by default hide small errors."""
    slopes = problem.gradients(problem.params, *problem.args).values()
    return {"rtol": 1e-5, "atol": 1e-10 * float(max(np.max(np.abs(each), initial=0.0) for each in slopes))}


def raised(check: Callable[[], Any]) -> str:
    """The verdict of a check that raises unless it passes."""
    try:
        check()
    except (AssertionError, RuntimeError) as error:
        return "undecided" if str(error).startswith("undecided:") else "fail"
    return "pass"


def catalogues(every: int) -> Iterator[tuple[bool, Any]]:
    """Whether its gradient is right, and the problem."""
    from tests.support.doors import problems

    chosen = [(each, "/" not in name) for name, each in problems().items()]
    for problem, right in [pair for pair in chosen if pair[1]][::every] + [pair for pair in chosen if not pair[1]][
        ::every
    ]:
        yield right, problem


def through(name: str, door: Door, every: int, *, small: bool) -> Iterator[Row]:
    """Missed bugs, false alarms and undecided problems of a door."""
    found: Counter[tuple[bool, str]] = Counter()
    undecided = []
    for right, problem in catalogues(every):
        if small and sum(p.size for p in problem.params.values()) > LARGEST:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdict = door(problem)
        found[right, verdict] += 1
        if verdict == ("fail" if right else "pass"):
            print(f"  {name}: {problem.name} is {'right' if right else 'wrong'} and {verdict}")
        undecided += [problem.name] * (verdict == "undecided")
    yield Row(name, "problems", sum(found.values()))
    yield Row(name, "missed bugs", found[False, "pass"], "== 0")
    yield Row(name, "false alarms", found[True, "fail"], "== 0")
    yield Row(name, f"undecided: {', '.join(undecided[:3])}{', ...' if len(undecided) > 3 else ''}", len(undecided))


def kinks(count: int) -> Iterator[Row]:
    """Right functions with two kinks near the point, by two doors."""
    from tests.support.jacobians import row_of, scalar, two_kinks

    for seen in (True, False):
        found: Counter[str] = Counter()
        for seed in range(count):
            function, jacobian, x = two_kinks(seed, seen=seen)
            one = fastgc.check_gradients(scalar(function), scalar(jacobian), x, samples="all", crosscheck=False).verdict
            other = fastgc.check_jacobian(row_of(function, 0, 1), row_of(jacobian, 0, 1), x).verdict
            found[one] += 1
            found["differ"] += one != other
        part = f"two kinks, {'seen above' if seen else 'hidden by'} round-off"
        yield Row(part, f"right functions of {count:,} that fail", found["fail"], "== 0")
        yield Row(part, "verdicts that differ between the doors", found["differ"], "== 0")
        yield Row(part, "undecided", found["undecided"])


def main() -> int:
    """Print the table; returns the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("--every", type=int, default=1, help="of the catalogues, every so many-th problem (1)")
    arguments.add_argument("--kinks", type=int, default=2000, help="functions with two kinks (2,000)")
    arguments.add_argument("--door", default="", help="only the doors whose names contain this, and no kinks")
    options = arguments.parse_args()
    about = headline()
    doors: dict[str, Door] = {
        "check_gradients, all entries": lambda problem: by_gradients(problem, samples="all"),
        "check_gradients": by_gradients,
        "check_jacobian": by_jacobian,
        **torch_doors(),
        **jax_doors(),
    }
    rows = []
    for name, door in doors.items():
        if options.door not in name:
            continue
        small = name in ("check_jacobian", "torch.gradcheck", "jax.check_grads")
        rows += [tell(row) for row in through(name, door, options.every, small=small)]
    rows += [] if options.door else [tell(row) for row in kinks(options.kinks)]
    return conclude(rows, options, about)


if __name__ == "__main__":
    sys.exit(main())
