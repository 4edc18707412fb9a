"""The calls of functions with derivative rules of their own in one pass of a JAX function, jitted parts included."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from jax.typing import ArrayLike

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

Pull = Callable[[Sequence[jax.Array]], Sequence[jax.Array]]  # from cotangents to gradients

RULES = {"custom_vjp_call": "custom_vjp", "custom_vjp_call_jaxpr": "custom_vjp", "custom_jvp_call": "custom_jvp"}
CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
_MOST = 1024  # calls that are recorded: each takes some evaluations, and loops are run step by step for them
_LIBRARY = str(Path(jax.__file__).parent)


@dataclass
class Call:
    """A call of a function that has a rule.

    Attributes
    ----------
    equation : of the traced function
    inputs, outputs : their values
    cotangents, gradients : what the backward pass brought, and what the rule made of it; None if it brought nothing
    """

    equation: JaxprEqn
    inputs: tuple[jax.Array, ...]
    outputs: Sequence[jax.Array]
    cotangents: Sequence[jax.Array] | None = None
    gradients: Sequence[jax.Array] | None = None

    def evaluate(self, inputs: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """The outputs for other inputs, by the function itself."""
        return evaluated(self.equation, inputs)

    def at(self, inputs: Sequence[jax.Array]) -> Call:
        """The same call with other inputs, and what its rule makes of the same cotangents."""
        _, pull = jax.vjp(lambda *each: tuple(evaluated(self.equation, each)), *inputs)
        return Call(self.equation, tuple(inputs), self.evaluate(inputs), self.cotangents, pull(self.cotangents))

    def arguments(self) -> list[int]:
        """The numbers of the inputs that are variables, floating or complex."""
        pairs = enumerate(zip(self.equation.invars, self.inputs, strict=True))
        return [k for k, (variable, each) in pairs if not hasattr(variable, "val") and is_inexact(each) and each.size]

    @property
    def rule(self) -> str:
        """The kind of the rule."""
        return RULES[self.equation.primitive.name]

    @property
    def name(self) -> str:
        """Of the function."""
        traced = self.equation.params.get("call_jaxpr") or self.equation.params["fun_jaxpr"]
        return str(getattr(traced.jaxpr.debug_info, "func_src_info", "") or "function").partition(" at ")[0]

    @property
    def site(self) -> str:
        """The innermost line of the user's code that led to the call."""
        traceback = self.equation.source_info.traceback
        for frame in () if traceback is None else traceback.frames:
            if not frame.file_name.startswith(_LIBRARY):
                return f"{Path(frame.file_name).name}:{frame.line_num} ({frame.function_name.rpartition('.')[2]})"
        return ""

    def argument(self, number: int) -> str:
        """The name of an input: those that the function closes over come first."""
        count = int(self.equation.params.get("num_consts", 0))
        return f"input {number - count}" if number >= count else f"closed-over value {number}"


def recorded(function: Callable[[Sequence[jax.Array]], ArrayLike], leaves: Sequence[ArrayLike]) -> list[Call]:
    """The calls in one forward and one backward pass of a scalar function that can be traced."""
    traced = jax.make_jaxpr(function)(list(leaves))
    recorder = _Recorder()
    _, pull = jax.vjp(lambda *each: recorder.run(traced.jaxpr, traced.consts, each)[0], *leaves)
    pull(jax.numpy.ones_like(function(leaves)))
    return recorder.calls


class _Recorder:
    """Evaluates a traced function, and steps into all that holds calls with rules."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def run(self, jaxpr: Jaxpr, consts: Sequence[jax.Array], inputs: Sequence[jax.Array]) -> list[jax.Array]:
        """The outputs."""
        return run_by(self._equation, jaxpr, consts, inputs)

    def _equation(self, equation: JaxprEqn, inputs: Sequence[jax.Array]) -> Sequence[jax.Array]:
        name, params = equation.primitive.name, equation.params
        if len(self.calls) >= _MOST or not holds(equation, RULES):
            return evaluated(equation, inputs)
        if name in RULES:
            return self._call(equation, inputs)
        if name == "scan" and params["length"]:
            return self._scan(equation, inputs)
        if name == "while":
            return self._while(equation, inputs)
        if name == "cond":
            return self._closed(params["branches"][int(inputs[0])], inputs[1:])
        if name in CALLS:
            inner = params.get("jaxpr", params.get("call_jaxpr"))
            return self._closed(inner, inputs) if hasattr(inner, "consts") else self.run(inner, (), inputs)
        return evaluated(equation, inputs)

    def _closed(self, closed: ClosedJaxpr, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        return self.run(closed.jaxpr, closed.consts, inputs)

    def _scan(self, equation: JaxprEqn, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        params = equation.params
        first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
        consts, carry, rows = inputs[:first], list(inputs[first:last]), inputs[last:]
        steps: list[Sequence[jax.Array]] = [()] * params["length"]
        order = range(params["length"])
        for k in reversed(order) if params["reverse"] else order:
            found = self._closed(params["jaxpr"], [*consts, *carry, *(row[k] for row in rows)])
            carry, steps[k] = found[: len(carry)], found[len(carry) :]
        return [*carry, *map(jax.numpy.stack, zip(*steps, strict=True))]

    def _while(self, equation: JaxprEqn, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        params = equation.params
        first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        state = list(inputs[last:])
        while self._closed(params["cond_jaxpr"], [*inputs[:first], *state])[0]:
            state = self._closed(params["body_jaxpr"], [*inputs[first:last], *state])
        return state

    def _call(self, equation: JaxprEqn, inputs: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """Evaluate a call by its own rule, and keep what it is given, forward and backward."""
        watched = jax.custom_vjp(lambda *given: tuple(evaluated(equation, given)))

        def forward(*given: jax.Array) -> tuple[tuple[jax.Array, ...], tuple[Pull, int]]:
            outputs, pull = jax.vjp(lambda *each: tuple(evaluated(equation, each)), *given)
            self.calls.append(Call(equation, given, outputs))
            return outputs, (pull, len(self.calls) - 1)

        def backward(kept: tuple[Pull, jax.Array], cotangents: Sequence[jax.Array]) -> Sequence[jax.Array]:
            pull, number = kept
            call = self.calls[int(number)]
            call.cotangents, call.gradients = cotangents, pull(cotangents)
            return call.gradients

        watched.defvjp(forward, backward)
        found: Sequence[jax.Array] = watched(*inputs)
        return found


def run_by(
    equation_by: Callable[[JaxprEqn, Sequence[jax.Array]], Sequence[jax.Array]],
    jaxpr: Jaxpr,
    consts: Sequence[jax.Array],
    inputs: Sequence[jax.Array],
) -> list[jax.Array]:
    """The outputs of a traced function, each of whose equations ``equation_by`` evaluates."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(each: Var | Literal) -> jax.Array:
        return each.val if hasattr(each, "val") else values[each]

    for equation in jaxpr.eqns:
        found = equation_by(equation, [read(each) for each in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(each) for each in jaxpr.outvars]


def evaluated(equation: JaxprEqn, inputs: Sequence[jax.Array]) -> Sequence[jax.Array]:
    """The outputs of one equation."""
    bound = equation.primitive.get_bind_params(equation.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a tuple before JAX 0.10
    found = equation.primitive.bind(*functions, *inputs, **params)
    return found if equation.primitive.multiple_results else [found]


def holds(equation: JaxprEqn, names: Collection[str]) -> bool:
    """Whether an equation is of one of these primitives, or holds one at any depth."""
    if equation.primitive.name in names:
        return True
    inner = jax.tree_util.tree_leaves([*equation.params.values()], is_leaf=lambda each: hasattr(each, "eqns"))
    return any(holds(each, names) for jaxpr in inner if hasattr(jaxpr, "eqns") for each in jaxpr.eqns)


def is_inexact(value: jax.Array) -> bool:
    """Whether an array is floating or complex."""
    return bool(jax.numpy.issubdtype(value.dtype, jax.numpy.inexact))
