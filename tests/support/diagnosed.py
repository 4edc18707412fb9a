"""Wrong gradients, and what is said of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import fastgc
from tests.support.catalogue import Problem, correct_problems


@cache
def problems() -> dict[str, Problem]:
    return {problem.name: problem for problem in correct_problems()}


def check(problem: Problem, **options: Any) -> Any:
    given = {"args": problem.args, "previous": problem.previous, "crosscheck": False}
    return fastgc.check_gradients(problem.loss, problem.gradients, problem.params, **given, **options)
