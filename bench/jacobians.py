"""`numerical_jacobian` of a jitted function: compiled loops against calls from Python, in processor time.

Two functions of n inputs and m = n outputs: cheap arithmetic, a few operations for each output; and a product with a
matrix, n operations for each. Both engines run the same machine code and combine its outputs by the same NumPy
arithmetic; compiled loops leave out what a call from Python adds: finding the types, making an array of the result,
and copying it.

What is possible: with 1,000 inputs and outputs and cheap arithmetic an evaluation takes 1.1 microseconds in the loop, 1
to copy its inputs and outputs, and 1.5 for the quotients, with either engine; a call from Python adds 2 to 3. So the
ratio is at most (3.6 + 3) / 3.6 = 1.8. It comes near 1 where the function itself takes long (there threads help), and
below 1 where all evaluations take less than the fixed 0.5 milliseconds of a compiled loop. Target: at least 1.2 at
n = 1,000 with cheap arithmetic, in one thread (median of the pairs), and the same quotients to the bit. Run
``python bench/jacobians.py [--quick] [--json FILE]``; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import threadpoolctl
from measure import Row, conclude, headline, parser, tell

import fastgc

BOUND = ">= 1.2"


@numba.njit
def neighbours(x: Any) -> Any:
    """Cheap arithmetic."""
    out = np.empty_like(x)
    for i in range(x.size):
        out[i] = x[i] * x[i - 1] + 0.5 * x[i]
    return out


@numba.njit
def fill_neighbours(x: Any, out: Any) -> None:
    """The same, into an array of the caller's."""
    for i in range(x.size):
        out[i] = x[i] * x[i - 1] + 0.5 * x[i]


@numba.njit
def layer(x: Any, weights: Any) -> Any:
    """A product with a matrix."""
    return np.tanh(np.dot(weights, x))


@dataclass(frozen=True)
class Case:
    """A function, its arguments, and the bound of the ratio."""

    name: str
    function: Any
    x: Any
    args: tuple[Any, ...] = ()
    bound: str = ""


def cases(quick: bool) -> Iterator[Case]:
    for n in (100, 300) if quick else (100, 1_000):
        x, bound = np.random.default_rng(0).standard_normal(n), BOUND if n == 1_000 else ""
        yield Case(f"cheap, returned, n = {n:,}", neighbours, x, bound=bound)
        yield Case(f"cheap, filled, n = {n:,}", fill_neighbours, x, (np.empty(n),), bound)
    n = 100 if quick else 500
    weights = np.random.default_rng(1).standard_normal((n, n)) / n
    yield Case(f"product, n = {n:,}", layer, np.ones(n), (weights,))


def processor_time(run: Callable[[], Any]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def compared(case: Case, pairs: int) -> Iterator[Row]:
    def jacobian(engine: Any) -> Any:
        return fastgc.numerical_jacobian(case.function, case.x, args=case.args, engine=engine)

    same = np.array_equal(jacobian("python"), jacobian("numba"))  # compiles, too
    evaluations, ratios = 2 * case.x.size, []
    times: dict[str, list[float]] = {"python": [], "numba": []}
    for _ in range(pairs):
        for engine, found in times.items():
            found.append(processor_time(lambda engine=engine: jacobian(engine)))  # type: ignore[misc]
        ratios.append(times["python"][-1] / times["numba"][-1])
    yield Row(case.name, "the same to the bit", float(same), "== 1")
    for engine, found in times.items():
        yield Row(case.name, f"{engine}, us of an evaluation, lowest", 1e6 * min(found) / evaluations)
    yield Row(case.name, "python / numba, lowest times", min(times["python"]) / min(times["numba"]))
    yield Row(case.name, "python / numba", statistics.median(ratios), case.bound)


def main() -> int:
    options = parser(__doc__).parse_args()
    about, pairs = headline(), 5 if options.quick else 25
    numba.set_num_threads(1)
    print(f"one thread, {pairs} pairs\n")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        rows = [tell(row) for case in cases(options.quick) for row in compared(case, pairs)]
    return conclude(rows, options, about, threads=1, pairs=pairs)


if __name__ == "__main__":
    sys.exit(main())
