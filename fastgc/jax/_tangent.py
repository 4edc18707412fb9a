"""Exact tangents of a JAX loss: the bodies of functions with custom rules in forward mode, apart from these rules.

A body consists of primitives, whose own rules give its tangent. Where there is no custom rule, and the gradient is that
of `jax.grad`, nothing but these rules is checked, and a tangent that rests on them proves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np

from fastgc._evaluation.evaluator import Ray
from fastgc._parameters.arrays import Array, Floats
from fastgc._parameters.point import Point
from fastgc.jax._calls import CALLS, RULES, evaluated, holds, is_inexact, run_by
from fastgc.jax._evaluator import Leaf, Leaves, LossOfLeaves
from fastgc.jax._precision import in_precision

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

BODIES = "the functions under custom rules"  # whose tangents these are, in reports
_ITSELF = "the loss by jax.jvp"

_CHANGED = {*RULES, "stop_gradient", "bitcast_convert_type"}  # primitives that are not evaluated as they are

Slope = Callable[[Leaves, Leaves], tuple[jax.Array, jax.Array]]


@dataclass
class LossTangents:
    """Slopes of a loss by forward mode through the bodies of functions with custom rules, in double precision.

    See `fastgc._gradient.exact.Tangents`.
    """

    leaves: list[Array]
    along: Slope
    analytic: Callable[[Leaves], Sequence[Leaf]]
    value: float
    source: str
    opened: contextlib.ExitStack
    evaluations: int = 1

    def slope(self, rays: Sequence[Ray]) -> float:
        """The slope along a direction; nan where forward mode has none."""
        self.evaluations += 1
        try:
            return float(self.along(self.leaves, self._direction(rays))[1])
        except Exception:  # a primitive that has no rule
            return float("nan")

    def values(self, rays: Sequence[Ray], distances: Floats) -> Floats:
        """The loss at these distances along a direction."""
        direction = self._direction(rays)
        self.evaluations += distances.size
        moved = ([x + h * v for x, v in zip(self.leaves, direction, strict=True)] for h in distances.tolist())
        return np.array([float(self.along(each, direction)[0]) for each in moved])

    def gradients(self) -> Sequence[Array]:
        """The gradient that is checked, in double precision."""
        return [np.asarray(each) for each in self.analytic(self.leaves)]

    def close(self) -> None:
        """Return to the caller's precision."""
        self.opened.close()

    def _direction(self, rays: Sequence[Ray]) -> list[Array]:
        out = [np.zeros(leaf.size) for leaf in self.leaves]
        for ray in rays:
            out[ray.tensor][ray.start : ray.start + ray.weights.size] = ray.weights * ray.scale
        return [each.reshape(leaf.shape) for each, leaf in zip(out, self.leaves, strict=True)]


def loss_tangents(
    loss: LossOfLeaves, analytic: Callable[[Leaves], Sequence[Leaf]], by_jax: bool, point: Point
) -> LossTangents | None:
    """The tangents of a loss in double precision at a point; None where it has none, or none that proves anything.

    ``by_jax``: whether the gradient is JAX's own.
    """
    leaves = [leaf.astype(np.float64) for leaf in point.leaves]
    with contextlib.ExitStack() as opened:
        opened.enter_context(in_precision("double"))
        try:
            bodies, traced = _Bodies(), jax.make_jaxpr(loss)(leaves)
            bodies.run(traced.jaxpr, traced.consts, leaves)
            if by_jax and not bodies.called:
                return None

            def call(each: Leaves) -> jax.Array:
                return _Bodies().run(traced.jaxpr, traced.consts, each)[0].reshape(())

            along: Slope = jax.jit(lambda at, direction: jax.jvp(call, (list(at),), (list(direction),)))
            value = float(along(leaves, [np.zeros_like(leaf) for leaf in leaves])[0])
        except Exception:  # what cannot be traced, and whatever it does with numbers that it was not written for
            return None
        source = BODIES if bodies.called else _ITSELF
        return LossTangents(leaves, along, analytic, value, source, opened.pop_all())


class _Cut(Exception):
    """Something that forward mode does not pass through."""


class _Bodies:
    """Evaluates a traced function, with bodies in the place of calls with custom rules.

    Where the gradient is stopped, the loss moves all the same.

    Attributes
    ----------
    called : how many bodies there were
    """

    def __init__(self) -> None:
        self.called = 0

    def run(self, jaxpr: Jaxpr, consts: Sequence[jax.Array], inputs: Sequence[jax.Array]) -> list[jax.Array]:
        """The outputs."""
        return run_by(self._equation, jaxpr, consts, inputs)

    def _equation(self, equation: JaxprEqn, inputs: Sequence[jax.Array]) -> Sequence[jax.Array]:
        name, params = equation.primitive.name, equation.params
        if name == "stop_gradient":
            return inputs
        if name == "bitcast_convert_type" and is_inexact(inputs[0]):
            raise _Cut
        if not holds(equation, _CHANGED):
            return evaluated(equation, inputs)
        if name in RULES:
            self.called += 1
            return self._inner(params.get("call_jaxpr") or params["fun_jaxpr"], inputs)
        if name == "scan":
            return self._scan(equation, inputs)
        if name == "while":
            return self._while(equation, inputs)
        if name == "cond":
            branches = [partial(self._closed, each) for each in params["branches"]]
            chosen: Sequence[jax.Array] = jax.lax.switch(inputs[0], branches, *inputs[1:])
            return chosen
        if name in CALLS:
            return self._inner(params.get("jaxpr", params.get("call_jaxpr")), inputs)
        raise _Cut

    def _inner(self, inner: ClosedJaxpr | Jaxpr, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)

    def _closed(self, closed: ClosedJaxpr, *inputs: jax.Array) -> list[jax.Array]:
        return self.run(closed.jaxpr, closed.consts, inputs)

    def _scan(self, equation: JaxprEqn, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        params = equation.params
        first, last = params["num_consts"], params["num_consts"] + params["num_carry"]

        def step(carry: list[jax.Array], row: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
            found = self._closed(params["jaxpr"], *inputs[:first], *carry, *row)
            return found[: len(carry)], found[len(carry) :]

        carry, rows = jax.lax.scan(
            step, list(inputs[first:last]), list(inputs[last:]), params["length"], params["reverse"]
        )
        return [*carry, *rows]

    def _while(self, equation: JaxprEqn, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        params = equation.params
        first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        found: list[jax.Array] = jax.lax.while_loop(
            lambda state: self._closed(params["cond_jaxpr"], *inputs[:first], *state)[0],
            lambda state: self._closed(params["body_jaxpr"], *inputs[first:last], *state),
            list(inputs[last:]),
        )
        return found
