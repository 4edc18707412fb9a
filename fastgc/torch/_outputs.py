"""Outputs of a function of tensors at many points: together by vmap where that gives the same, or one by one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fastgc._evaluation.evaluator import WrongShapeError, WrongTypeError
from fastgc._jacobian.function import Errors, one_by_one
from fastgc.torch._flat import Floats, Packing, Tensors, real_shape
from fastgc.torch._rules import has_rules

_FEWEST = 16  # points that pay for evaluating them together
_NUMBERS = 1 << 20  # that are computed for them at a time
_SAME = 1e3  # by so many units of round-off values computed in two ways may differ


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Arguments or outputs, be it one or several."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def tensors(value: Any) -> tuple[torch.Tensor, ...]:
    """What a function returned, which must be tensors."""
    found = as_tuple(value)
    wrong = [type(each).__name__ for each in found if not isinstance(each, torch.Tensor)]
    if wrong:
        raise WrongTypeError(f"func returned {wrong[0]}; it must return a tensor or a tuple of tensors")
    return found


class Outputs:
    """Calls ``func`` with the checked inputs replaced.

    Parameters
    ----------
    func, inputs : callable, tuple
        The function and all its arguments.
    checked, compared : sequences of int
        Which arguments are replaced, and which outputs are of interest.
    here : sequence of tensors
        Those outputs at the arguments as they are.
    room : int
        About how many numbers a call computes, which limits the points that `torch.func.vmap` is given at a time.

    Notes
    -----
    Vmap is given up for good where it raises (in functions that draw random numbers, or whose control flow depends on
    values), where it has no rule for an operator, and where one of the points that are evaluated both ways, some of
    every call, shows another value beyond round-off.

    Attributes
    ----------
    base : the outputs of interest at the inputs, shape (m,)
    batched : whether some were computed by vmap
    """

    def __init__(
        self,
        func: Callable[..., Any],
        inputs: tuple[Any, ...],
        checked: Sequence[int],
        compared: Sequence[int],
        here: Tensors,
        room: int,
    ) -> None:
        self._here, self._leaves = Packing(here), Packing([inputs[k] for k in checked])
        self.batched, self.base = False, self._here.joined(here)[0]
        self._most = _NUMBERS // max(1, room, self._here.size + self._leaves.size)
        self._together = self._most >= _FEWEST
        self._func, self._inputs, self._checked, self._compared = func, inputs, checked, compared
        self._sizes = [math.prod(shape) for shape in self._here.shapes]
        self._point = self._leaves.joined([inputs[k] for k in checked])
        self._eps = max(torch.finfo(inputs[k].dtype).eps for k in checked)

    def __call__(self, points: Floats) -> tuple[Floats, Errors]:
        """The outputs, shape (k, m), at points of shape (k, n), NaN where the function raises, and what it raises."""
        if not self._together or len(points) < _FEWEST:
            return self._one_by_one(points)
        found = []
        for begin in range(0, len(points), self._most):
            block = self._both_ways(points[begin : begin + self._most])
            if block is None:
                self._together = False
                return self._one_by_one(points)
            found.append(block)
        self.batched = True
        return np.concatenate(found), []

    def one_by_one(self) -> Outputs:
        """The same without vmap."""
        other = copy.copy(self)
        other.batched = other._together = False
        return other

    def _both_ways(self, points: Floats) -> Floats | None:
        """All together, and None if the first, the last or the inputs themselves show another value one by one.

        Batched arithmetic rounds in another order. What the inputs themselves deviate by is taken off all values: a
        constant offset would look like a jump at the point.
        """
        if not self._has_rules:
            return None
        plain, _ = self._one_by_one(points[[0, -1]])
        try:
            found = self._all_together(np.concatenate([points, self._point]))
        except Exception:
            return None
        offset = found[-1] - self.base
        off = np.abs(np.concatenate([found[[0, -2]] - plain, offset[None, :]]))
        slack = _SAME * self._eps * np.abs(plain).max(initial=np.abs(self.base).max(initial=0.0))
        return found[:-1] - offset if (off <= slack).all() else None

    @cached_property
    def _has_rules(self) -> bool:
        return has_rules(lambda: self._called(*self._leaves.members(self._point)[0]))

    def _all_together(self, points: Floats) -> Floats:
        with torch.no_grad():
            found = torch.func.vmap(self._called)(*self._leaves.stacked(points))
        return self._here.joined(found, len(points))

    def _one_by_one(self, points: Floats) -> tuple[Floats, Errors]:
        return one_by_one(self._plain, self.base.size)(self._leaves.members(points))

    def _plain(self, moved: Tensors) -> Floats:
        """The outputs of a plain call, shape (m,)."""
        found = self._called(*(each.requires_grad_() for each in moved))
        return np.asarray(self._here.joined(found)[0])

    def _called(self, *moved: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arguments = list(self._inputs)
        for k, each in zip(self._checked, moved, strict=True):
            arguments[k] = each
        found = tensors(self._func(*arguments))
        chosen = tuple(found[k] for k in self._compared)
        sizes = [math.prod(real_shape(each)) for each in chosen]
        if sizes != self._sizes:
            raise WrongShapeError(f"func returned {sizes} numbers beside its inputs, and {self._sizes} there")
        return chosen
