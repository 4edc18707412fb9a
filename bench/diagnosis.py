"""Which kind of bug fastgc names in the wrong gradients of the tests' catalogues, and whether it is the right one.

Counted are tensors that fail. Every check gets parameters of an earlier moment: for stale gradients those to which they
belong, for all others unrelated ones. The exit status is 1 unless all targets are met:

- the right kind in at least 97 % of those whose kind of bug has a name
- a wrong kind in at most 0.5 % of all: any pattern where the bug has none, but never "unstructured" and silence
- a kind in at most 0.5 % of unstructured random errors, in tensors of 2 to 40 entries
- none on correct gradients

Run ``python bench/diagnosis.py [--seeds 1] [--samples 32|all] [--random 2000]`` after
``pip install scikit-learn statsmodels``.
"""

from __future__ import annotations

import argparse
import collections
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastgc

sys.path.insert(0, str(Path(__file__).parents[1]))

RIGHT_AT_LEAST, WRONG_AT_MOST, RANDOM_AT_MOST = 0.97, 0.005, 0.005
ELSEWHERE = 1.03  # times the parameters: those of a moment to which no gradient belongs

Found = tuple[str, str, str, str]  # problem, tensor, the kind expected ("": none), the kind named ("": none)


def check(problem: Any, samples: int | str) -> fastgc.GradientReport:
    previous = problem.previous or {name: ELSEWHERE * p for name, p in problem.params.items()}
    return fastgc.check_gradients(
        problem.loss, problem.gradients, problem.params, args=problem.args, samples=samples, previous=previous,
        crosscheck=False,
    )  # fmt: skip


def named(tensor: fastgc.TensorSummary) -> str:
    """The pattern named; "" for none."""
    kind = tensor.diagnosis.kind if tensor.diagnosis else ""
    return "" if kind == "unstructured" else kind


def in_wrong_gradients(seed: int, samples: int | str) -> Iterator[Found]:
    from tests.support.catalogue import wrong_gradients
    from tests.support.planted import planted_kinds

    for wrong in [*wrong_gradients(seed), *planted_kinds(seed)]:
        for name, tensor in check(wrong.problem, samples).tensors.items():
            if tensor.verdict == "fail":
                yield wrong.name, name, wrong.named(name) if name in wrong.tensors else "", named(tensor)


def in_correct_gradients(seed: int, samples: int | str) -> int:
    """How many tensors of the correct problems have a diagnosis."""
    from tests.support.catalogue import correct_problems

    reports = [check(problem, samples) for problem in correct_problems(seed)]
    return sum(tensor.diagnosis is not None for report in reports for tensor in report.tensors.values())


def in_random_errors(count: int, samples: int | str) -> list[str]:
    """What is named of unstructured errors."""
    from tests.support.planted import unstructured_names

    return unstructured_names(count, lambda problem: check(problem, samples))


def table(found: list[Found]) -> Iterator[str]:
    yield f"{'kind':<18}{'tensors':>8}{'right':>7}{'wrong':>7}{'silent':>8}"
    kinds = collections.Counter(expected for _, _, expected, _ in found)
    for kind, count in sorted(kinds.items(), key=lambda each: (not each[0], each[0])):
        names = [name for _, _, expected, name in found if expected == kind]
        right = sum(name == kind for name in names if name)
        silent = names.count("")
        yield f"{kind or '(no pattern)':<18}{count:>8}{right:>7}{count - right - silent:>7}{silent:>8}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="catalogues, each with other numbers (1)")
    parser.add_argument("--samples", default="32", help='entries of each tensor, or "all" (32)')
    parser.add_argument("--random", type=int, default=2000, help="tensors with unstructured random errors (2000)")
    options = parser.parse_args()
    samples = "all" if options.samples == "all" else int(options.samples)
    print(f"fastgc {fastgc.__version__}, NumPy {np.__version__}, Python {platform.python_version()}\n")
    found = [each for seed in range(options.seeds) for each in in_wrong_gradients(seed, samples)]
    print(*table(found), sep="\n")
    nameable = [each for each in found if each[2]]
    right = sum(expected == name for _, _, expected, name in nameable) / len(nameable)
    wrong = [each for each in found if each[3] and each[2] != each[3]]
    on_random = in_random_errors(options.random, samples)
    on_correct = sum(in_correct_gradients(seed, samples) for seed in range(options.seeds))
    print(*(f"{problem}: {tensor} should be {a or 'silent'}, is {b}" for problem, tensor, a, b in wrong), sep="\n")
    print(*(f"{problem}: {tensor} should be {a}, is silent" for problem, tensor, a, b in nameable if not b), sep="\n")
    print(*on_random, sep="\n")
    print(f"\nright where the bug has a name: {right:.1%} of {len(nameable)} (target: {RIGHT_AT_LEAST:.0%})")
    print(f"wrong kind: {len(wrong) / len(found):.2%} of {len(found)} (target: at most {WRONG_AT_MOST:.1%})")
    print(f"named on random errors: {len(on_random)} of {options.random} (target: at most {RANDOM_AT_MOST:.1%})")
    print(f"named on correct gradients: {on_correct} (target: 0)")
    met = right >= RIGHT_AT_LEAST and len(wrong) <= WRONG_AT_MOST * len(found) and on_correct == 0
    met = met and len(on_random) <= RANDOM_AT_MOST * options.random
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
