"""The catalogue as functions of JAX: the same verdicts as those of `fastgc.check_gradients`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support import doors
from tests.support.catalogue import Problem

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")

from fastgc.jax import check_gradients, check_grads  # noqa: E402

TIGHT = {"rtol": 1e-5, "atol": 1e-10}  # check_grads accepts what differs by 1e-5 otherwise


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def function(problem: Problem) -> Any:
    """The loss as a function with a rule for its gradient, both called back from compiled code."""
    shapes = {name: jax.ShapeDtypeStruct(each.shape, np.float64) for name, each in problem.params.items()}

    def received(params: Any) -> Any:
        pairs = ((name, params[name]) for name in problem.params)
        return {name: np.array(each, order="F" if problem.params[name].flags.fnc else "C") for name, each in pairs}

    def value(params: Any) -> Any:
        return np.float64(problem.loss(received(params), *problem.args))

    def gradients(params: Any) -> Any:
        return problem.gradients(received(params), *problem.args)

    @jax.custom_vjp
    def loss(params: Any) -> Any:
        return jax.pure_callback(value, jax.ShapeDtypeStruct((), np.float64), params)

    def backward(params: Any, g: Any) -> Any:
        return (jax.tree_util.tree_map(lambda each: g * each, jax.pure_callback(gradients, shapes, params)),)

    loss.defvjp(lambda params: (loss(params), params), backward)
    return loss


def sorted_problem(name: str) -> Problem:
    """With its parameters in the order in which JAX has them, in which the noise is measured."""
    problem = doors.problems()[name]
    return replace(problem, params=dict(sorted(problem.params.items())))


@pytest.mark.parametrize("name", doors.chosen(2))
def test_check_gradients_says_the_same_of_jax_and_of_numpy(name: str) -> None:
    problem = sorted_problem(name)
    report = check_gradients(function(problem), dict(problem.params), samples=8)
    assert report.verdict == doors.verdict(problem, samples=8)


@pytest.mark.parametrize("name", doors.chosen(3))
def test_check_grads_says_what_check_gradients_says(name: str) -> None:
    problem = sorted_problem(name)
    found = "pass"
    try:
        check_grads(function(problem), (dict(problem.params),), 1, modes="rev", **TIGHT)
    except AssertionError as error:
        found = "undecided" if str(error).startswith("undecided:") else "fail"
    assert found == doors.verdict(problem, within=("args", "0"), **TIGHT)
