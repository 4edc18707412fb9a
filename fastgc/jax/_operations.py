"""Which custom rule of a JAX loss is wrong: each call of a function with one, tested by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from fastgc._derivatives.displaced import DISTANCE
from fastgc._derivatives.random_weights import UNIT, random_weights
from fastgc._gradient.operation import NOT_FINITE, OperationAtPoint, least_alike, operation_slopes
from fastgc._parameters.arrays import Array, Floats, norm
from fastgc._reports.operations import Operation, Slope
from fastgc._verdicts.judgement import DEFAULT_RTOL
from fastgc._words import FAIL, UNDECIDED, Verdict, worst_verdict
from fastgc.jax._calls import Call, is_inexact, recorded
from fastgc.jax._evaluator import Leaf, Leaves, LossOfLeaves


def operations_of(loss: LossOfLeaves, leaves: Leaves, seed: int) -> tuple[Operation, ...]:
    """Every call of a function with a custom rule that the gradient passes."""
    calls = dict(enumerate(call for call in recorded(loss, leaves) if _is_reached(call)))
    found = {number: _tested(call, seed) for number, call in calls.items()}
    if not any(each.verdict == FAIL for each in found.values()):
        some = least_alike({number: each.slopes for number, each in found.items()})
        found |= {number: _tested(calls[number], seed, strictly=True) for number in some}
    counts: Counter[tuple[str, str]] = Counter()
    return tuple(_numbered(each, counts) for each in found.values())


def _numbered(operation: Operation, counts: Counter[tuple[str, str]]) -> Operation:
    counts[operation.path, operation.name] += 1
    return replace(operation, call=counts[operation.path, operation.name])


def _is_reached(call: Call) -> bool:
    return call.cotangents is not None and any(_numbers(c).any() for c, _ in _received(call, call.outputs))


def _tested(call: Call, seed: int, *, strictly: bool = False) -> Operation:
    replay = _Replay(seed)
    own = replay.evaluated(call, call.inputs)
    slopes: tuple[Slope, ...] = ()
    verdict: Verdict
    if not all(np.isfinite(_numbers(c)).all() for c, _ in _received(call, own)):
        verdict, reason = UNDECIDED, NOT_FINITE
    elif reason := _other_outputs(call, own):
        verdict = FAIL
    else:
        operation = replay.operation(replace(call, outputs=own))
        slopes = tuple(operation_slopes(operation, strictly=strictly)) if operation.arguments else ()
        verdict = worst_verdict(slope.verdict for slope in slopes)
        reason = "".join(slope.reason for slope in slopes[:1])
    rule = f"the {call.rule} of {call.name}"
    return Operation(call.site, call.name, rule, 1, verdict, reason, slopes, replay.evaluations)


class _Replay:
    """Makes a call again at displaced inputs.

    Attributes
    ----------
    evaluations : how often it was made, in the recorded pass too
    """

    def __init__(self, seed: int) -> None:
        self.evaluations, self._seed = 0, seed

    def operation(self, call: Call) -> OperationAtPoint:
        """The call with the outputs and gradients that it holds."""
        self.evaluations += 1  # of the rule, with its gradient
        arguments, gradients = call.arguments(), call.gradients or ()
        directions = {k: self._direction(call, k, 0) for k in arguments}
        lengths = [_scale(call.inputs[k]) * norm(_real(gradients[k]).reshape(-1)) for k in arguments]
        eps, rtol = _precision([*call.inputs, *call.outputs])
        return OperationAtPoint(
            [call.argument(k) for k in arguments],
            np.array([_product(directions[k], gradients[k]) for k in arguments]),
            np.array(lengths),
            sum(float(np.abs(_numbers(c) * _numbers(y)).sum()) for c, y in _received(call, call.outputs)),
            eps,
            rtol,
            along=lambda some, distances: self._along(
                call, {arguments[k]: directions[arguments[k]] for k in some}, distances
            ),
            displaced=lambda: self.operation(
                call.at(_moved(call, {k: self._direction(call, k, 1) for k in arguments}, DISTANCE))
            ),
        )

    def _direction(self, call: Call, number: int, direction: int) -> Array:
        """Random weights of the entries, in units of the input's scale; of complex ones for both parts."""
        value = _numbers(call.inputs[number])
        parts = value.size * (2 if np.iscomplexobj(value) else 1)
        weights = random_weights(self._seed, range(direction, direction + 1), call.argument(number), parts)[0]
        step: Array = weights.astype(np.float64) * (_scale(call.inputs[number]) / UNIT)
        return step.view(value.dtype).reshape(value.shape)

    def _along(self, call: Call, directions: Mapping[int, Array], distances: Floats) -> Floats:
        """The change of the weighted sum of the outputs for each distance; nan where the call raises."""
        return np.array([self._change(call, directions, distance) for distance in distances.tolist()])

    def _change(self, call: Call, directions: Mapping[int, Array], distance: float) -> float:
        try:
            found = self.evaluated(call, _moved(call, directions, distance))
        except Exception:
            return float("nan")
        changes = zip(_received(call, found), _received(call, call.outputs), strict=True)
        return sum(_product(_numbers(y) - _numbers(base), c) for (c, y), (_, base) in changes)

    def evaluated(self, call: Call, inputs: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """The outputs for other inputs, by the function itself."""
        self.evaluations += 1
        return call.evaluate(inputs)


def _other_outputs(call: Call, own: Sequence[jax.Array]) -> str:
    """What is wrong where the rule returns other outputs than the function itself; "" where nothing is."""
    rtol = _precision(own)[1]
    for (_, mine), (_, ruled) in zip(_received(call, own), _received(call, call.outputs), strict=True):
        one, other = _numbers(mine).reshape(-1), _numbers(ruled).reshape(-1)
        off = np.abs(one - other)
        if off.size and not off.max() <= rtol * np.abs(one).max():
            at = int(np.argmax(off))
            return f"its forward rule returns {other[at]:.6g} where the function returns {one[at]:.6g}"
    return ""


def _moved(call: Call, directions: Mapping[int, Array], distance: float) -> list[jax.Array]:
    """The inputs, some of them displaced."""
    return [
        jnp.asarray(_numbers(each) + distance * directions[k], each.dtype) if k in directions else each
        for k, each in enumerate(call.inputs)
    ]


def _received(call: Call, outputs: Sequence[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
    """The floating and complex outputs with their cotangents, which come first."""
    return [(c, y) for c, y in zip(call.cotangents or (), outputs, strict=True) if is_inexact(y)]


def _numbers(value: Leaf) -> Array:
    """In double precision."""
    return np.asarray(value).astype(np.complex128 if jnp.iscomplexobj(value) else np.float64)


def _real(value: Leaf) -> Array:
    numbers = _numbers(value)
    return np.stack([numbers.real, numbers.imag]) if np.iscomplexobj(numbers) else numbers


def _product(one: Leaf, other: Leaf) -> float:
    """The change of a loss by a change: JAX's gradient with respect to x + iy is d/dx - i d/dy."""
    return float(np.real(np.sum(_numbers(one) * _numbers(other))))


def _scale(value: Leaf) -> float:
    """The mean magnitude; 1 for zeros."""
    return float(np.abs(_real(value)).mean()) or 1.0


def _precision(values: Sequence[jax.Array]) -> tuple[float, float]:
    """The resolution of the coarsest dtype, and the tolerance of its derivatives."""
    kinds = [jnp.finfo(each.dtype) for each in values if is_inexact(each)]
    coarsest = max(kinds, key=lambda kind: float(kind.eps))
    return float(coarsest.eps), DEFAULT_RTOL[np.dtype(f"f{coarsest.bits // 8}")]
