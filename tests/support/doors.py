"""The catalogue for other doors than `fastgc.check_gradients`: which problems, and what that function says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import fastgc
from tests.support.catalogue import Problem, correct_problems, wrong_gradients
from tests.support.conventions import right_problems, wrong_problems
from tests.support.models import Params

# One of every kind that is decided in a way of its own; the others are slow tests.
QUICK = {
    "maxpool-ties-first",
    "mlp-tanh-mse", "mlp-relu-at-kink-slope-half", "mlp-tanh-fortran", "batchnorm-tanh-mse", "lasso-at-zero-sign",
    "least-squares-optimum", "log-edge", "spanning-exponents", "lstm-scale1e-8", "regression-logistic-offset1e10",
    "mlp-tanh-mse-float32", "hidden-markov-10-digits", "mlp-tanh-mse/times-1", "lstm/memory-missing",
    "gaussian-process/entry1%-log_lengths",
}  # fmt: skip


@cache
def problems() -> dict[str, Problem]:
    """All problems by name, first the right ones; their gradients in double precision, as frameworks hand them on."""
    every = [*correct_problems(), *right_problems(), *(wrong.problem for wrong in wrong_gradients())]
    every += [replace(problem, name=name) for name, problem in wrong_problems().items()]
    return {each.name: replace(each, gradients=in_double(each.gradients)) for each in every}


def in_double(gradients: Callable[..., Params]) -> Callable[..., Params]:
    """The same gradients, all of them float64."""
    return lambda *args: {name: np.asarray(each, np.float64) for name, each in gradients(*args).items()}


def chosen(door: int) -> list[Any]:
    """Names of problems for one of four doors, two a framework: every 192nd right one, every 384th wrong one.

    All of them go through all doors in `bench/doors.py`.
    """
    right, wrong = ([n for n in problems() if ("/" in n) == is_wrong] for is_wrong in (False, True))
    names = [*right[door::192], *wrong[door::384]]
    names += [name for name in QUICK if name not in names]
    return [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in sorted(names)]


def verdict(problem: Problem, within: tuple[str, ...] = (), **options: Any) -> str:
    """What `check_gradients` says; with its parameters inside dicts of these keys, so that entries are drawn alike."""

    def inside(value: Any) -> Any:
        for key in reversed(within):
            value = {key: value}
        return value

    def outside(value: Any) -> Any:
        for key in within:
            value = value[key]
        return value

    return fastgc.check_gradients(
        lambda params, *args: problem.loss(outside(params), *args),
        lambda params, *args: inside(problem.gradients(outside(params), *args)),
        inside(problem.params), args=problem.args, crosscheck=False, **options,
    ).verdict  # fmt: skip
