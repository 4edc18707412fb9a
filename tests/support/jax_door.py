"""Problems of the catalogues as functions of JAX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from tests.support import doors
from tests.support.catalogue import Problem

TIGHT = {"rtol": 1e-5, "atol": 1e-10}  # check_grads accepts what differs by 1e-5 otherwise


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
