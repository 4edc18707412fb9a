"""Whether ``time_budget`` is kept: losses of 1 us to 1 s, budgets of 0.01 to 5 s, and thousands of small tensors.

Target: over by 10 % of the budget or one evaluation (and the 10 ms that a system may take for something else) at most.
Run ``python bench/budget.py [--quick] [--json FILE]``; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from measure import Row, conclude, headline, parser, seconds, tell

import fastgc

LOSSES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # seconds
BUDGETS = (0.01, 0.1, 1.0, 5.0)  # seconds
TENSORS = (1_000, 10_000)  # of three entries
WRONG = {"right": 1.0, "wrong": 1.01, "noisy": 1.0}  # factors of the gradient
NOISE = 1e-7  # of a noisy loss: complex steps decide what it hides
SYSTEM = 0.01  # seconds: a slice of a core that another process may take
SHARE = 0.1  # of the budget

Params = dict[str, np.ndarray[Any, Any]]


def waiting(length: float, noise: float = 0.0) -> Callable[[Params], float]:
    """A loss that takes so many seconds of a core, whose value is noisy by so much."""
    generator = np.random.default_rng(0)

    def loss(p: Params) -> float:
        begin = time.perf_counter()
        value = sum(float(np.sin(w) @ w) for w in p.values())
        if noise:
            value += noise * generator.standard_normal()
        while time.perf_counter() - begin < length:
            pass
        return value

    return loss


def slopes(p: Params, factor: float = 1.0) -> Params:
    return {name: factor * (np.cos(w) * w + np.sin(w)) for name, w in p.items()}


def check_the_losses() -> None:
    """Make sure that the gradient is right, and that the losses take as long as they say."""
    params = {"a": np.linspace(0.5, 1.5, 40), "b": np.linspace(-1.0, 2.0, 7)}
    assert fastgc.check_gradients(waiting(0.0), slopes, params).passed
    assert 1e-3 <= seconds(lambda: waiting(1e-3)(params)) < 0.1


def over(loss: Callable[[Params], float], params: Params, budget: float, factor: float) -> float:
    """By how much a check is over its budget, in units of what it may be over."""
    one = min(seconds(lambda: loss(params)) for _ in range(2))
    taken = seconds(
        lambda: fastgc.check_gradients(loss, lambda p: slopes(p, factor), params, time_budget=budget, samples="all")
    )
    return (taken - budget) / (max(SHARE * budget, one) + SYSTEM)


def cases(quick: bool) -> Iterator[tuple[str, float, Params]]:
    """What is measured, the length of a loss, and its parameters."""
    large = {"a": np.linspace(0.5, 1.5, 20_000), "b": np.linspace(-1.0, 2.0, 700)}
    for length in LOSSES[::2] if quick else LOSSES:
        yield f"loss of {length:g} s", length, large
    for count in TENSORS[:1] if quick else TENSORS:
        yield f"{count:,} tensors", 0.0, {f"t{i}": np.linspace(1.0, 2.0, 3) + i % 7 for i in range(count)}


def _budgets(quick: bool, tensors: int) -> Sequence[float]:
    """The budgets, without those that some 0.3 ms for each tensor exceed."""
    return [budget for budget in (BUDGETS[1:3] if quick else BUDGETS) if budget >= 3e-4 * tensors]


def measured(quick: bool) -> Iterator[Row]:
    """The rows, each as it is measured."""
    for what, length, params in cases(quick):
        for budget in _budgets(quick, len(params)):
            for kind, factor in WRONG.items():
                excess = over(waiting(length, NOISE if kind == "noisy" else 0.0), params, budget, factor)
                yield Row(
                    f"{what}, {kind}", f"budget of {budget:g} s: over, in units of what is allowed", excess, "<= 1"
                )


def main() -> int:
    options = parser(__doc__).parse_args()
    about = headline()
    check_the_losses()
    rows = [tell(row) for row in measured(options.quick)]
    return conclude(rows, options, about)


if __name__ == "__main__":
    sys.exit(main())
