"""The caller's loss and parameters, and the evaluators that run the loss at a point."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from fastgc._evaluation.bounded import BoundedEvaluator
from fastgc._evaluation.engine import Execution, FirstCall, in_turn, is_jitted, open_evaluator
from fastgc._evaluation.evaluator import Evaluator, value_of_pair
from fastgc._evaluation.floating_point import displaced
from fastgc._evaluation.interruption import InterruptibleEvaluator, Interruption
from fastgc._evaluation.python import PythonEvaluator
from fastgc._evaluation.symmetric import SymmetricEvaluator
from fastgc._evaluation.tangents import Tangents
from fastgc._parameters.arrays import Array
from fastgc._parameters.bounds import Bounds
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.point import Point, callers_point, copied_point
from fastgc._parameters.symmetric import Symmetric


class OpenEvaluator(Protocol):
    """Opens an evaluator of a loss at a point, as `fastgc._evaluation.engine.open_evaluator` does."""

    def __call__(
        self, loss: object, point: Point, execution: Execution, *, expected: int, with_gradients: bool
    ) -> tuple[Evaluator, FirstCall]: ...


@dataclass(frozen=True)
class CallersLoss:
    """The caller's loss and parameters, and the options that say how to run the loss.

    Attributes
    ----------
    function : ``function(params, *args)`` returns the value, or ``(value, gradients)`` if ``with_gradients``
    leaves : the caller's parameters, one array for each tensor of the layout
    is_complex : whether the stencil displaces along the imaginary axis
    bounds : outside which the loss is not evaluated, None for none
    symmetric : tensors whose mirrored entries are displaced together, None for none
    notes : what was noticed before the loss was called
    execution : how the loss is to be run; a deadline is set where it is opened
    precision, in_place : as in `fastgc.check_gradients`
    open_with : what opens its evaluators; frameworks have their own
    interruption : whether the check of this loss was interrupted
    finer : opens an evaluator of the same loss in double precision at a point, until a deadline, if there is one
    exact : opens tangents of the loss at a point that owe nothing to the gradient that is checked, if there are any
    copied : whether a point holds copies; not where the evaluators displace what they keep themselves
    """

    function: Callable[..., object]
    args: tuple[object, ...]
    layout: ParameterLayout
    leaves: Sequence[Array]
    execution: Execution
    with_gradients: bool = False
    is_complex: bool = False
    precision: str = "double"
    in_place: bool = False
    bounds: Bounds | None = None
    symmetric: Symmetric | None = None
    notes: tuple[str, ...] = ()
    open_with: OpenEvaluator = open_evaluator
    finer: Callable[[Point, float], tuple[Evaluator, FirstCall] | None] | None = None
    exact: Callable[[Point], Tangents | None] | None = None
    copied: bool = True
    interruption: Interruption = field(default_factory=Interruption)

    @property
    def is_known_further(self) -> bool:
        """Whether anything but its values may decide what these do not."""
        return self.finer is not None or self.exact is not None

    @contextlib.contextmanager
    def at(self, moving: contextlib.AbstractContextManager[Sequence[Array]]) -> Iterator[Point]:
        """The point of the arrays that ``moving`` gives. Afterwards the caller's arrays are as they were before."""
        if self.in_place:
            point = callers_point(self.layout, self.leaves, self.args)
            with moving:
                yield point
        else:
            with moving as leaves:
                if not (self.copied or self.is_complex):
                    yield Point(self.layout, leaves, self.layout.rebuild(leaves), None, None, self.args)
                    return
                yield copied_point(self.layout, leaves, self.args, self.precision, complex_step=self.is_complex)

    def open(self, point: Point, expected: int, deadline: float = math.inf) -> tuple[Evaluator, FirstCall]:
        """An evaluator at the point, suited to about ``expected`` evaluations, and the result of the first calls."""
        execution = replace(self.execution, deadline=deadline)
        opened = partial(self.open_with, expected=expected, with_gradients=self.with_gradients)
        evaluator, first = self.interruption.call(opened, self.function, point, execution)
        return self._restricted(evaluator), first

    def open_finer(self, point: Point, deadline: float) -> tuple[Evaluator, FirstCall] | None:
        """An evaluator of the loss in double precision, and the result of the first calls; None if there is none."""
        found = None if self.finer is None else self.interruption.call(self.finer, point, deadline)
        return None if found is None else (self._restricted(found[0]), found[1])

    def open_exact(self, point: Point) -> Tangents | None:
        """The exact tangents of the loss at a point; None if there are none."""
        return None if self.exact is None else self.interruption.call(self.exact, point)

    def open_complex(self, point: Point, deadline: float = math.inf) -> Evaluator:
        """An evaluator at a complex copy of the point, which calls the loss from Python (a jitted one too)."""
        copy = copied_point(self.layout, point.real().leaves, point.args, self.precision, complex_step=True)
        if self.execution.vectorized:
            execution = Execution("python", vectorized=True, deadline=deadline)
            return self._restricted(open_evaluator(self.function, copy, execution, expected=0, with_gradients=False)[0])
        function = in_turn(self.function, self.args) if is_jitted(self.function) else displaced(self.function)
        call = (lambda params, *args: value_of_pair(function(params, *args))) if self.with_gradients else function
        received = copy.received_by(is_jitted(self.function))
        return self._restricted(PythonEvaluator(call, received, copy.args, self.layout, copy.leaves, None, deadline))

    def _restricted(self, evaluator: Evaluator) -> Evaluator:
        """An evaluator that can be interrupted, stays inside the bounds and keeps symmetric tensors symmetric."""
        evaluator = InterruptibleEvaluator(evaluator, self.interruption)
        if self.bounds is not None:
            evaluator = BoundedEvaluator(evaluator, self.bounds, self.layout)
        return evaluator if self.symmetric is None else SymmetricEvaluator(evaluator, self.symmetric)
