"""Outputs of a function of tensors at many points: by one call after another, or in batches by vmap."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from fastgc._evaluation.batches import Batches, agree, relative_to_point
from fastgc._evaluation.evaluator import WrongShapeError, WrongTypeError
from fastgc._forks import cached_property
from fastgc._jacobian.function import Errors, one_by_one
from fastgc._parameters.arrays import Floats, Positions
from fastgc.torch._evaluator import footprint
from fastgc.torch._flat import Packing, Tensors, real_shape
from fastgc.torch._rules import BATCH_NUMBERS, SMALLEST_BATCH, has_rules


def as_tuple(value: object) -> tuple[object, ...]:
    """One or several arguments or outputs as a tuple."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def tensors(value: object) -> tuple[torch.Tensor, ...]:
    """The tensors that a function returned."""
    found = as_tuple(value)
    wrong = [type(each).__name__ for each in found if not isinstance(each, torch.Tensor)]
    if wrong:
        raise WrongTypeError(f"func returned {wrong[0]}; it must return a tensor or a tuple of tensors")
    return found


class Outputs:
    """The outputs of ``func`` with the checked inputs replaced.

    They are computed in batches by `torch.func.vmap`, by the rule of `fastgc._evaluation.batches`. Every batch
    is compared with plain calls.

    Parameters
    ----------
    func, inputs : callable, tuple
        The function and all its arguments.
    checked, compared : sequences of int
        The numbers of the arguments that are replaced, and of the outputs that are compared.
    here : sequence of tensors
        The compared outputs at the arguments as they are.

    Attributes
    ----------
    base : the compared outputs at the inputs, shape (m,)
    point : the checked inputs, shape (n,)
    """

    def __init__(
        self,
        func: Callable[..., object],
        inputs: tuple[object, ...],
        checked: Sequence[int],
        compared: Sequence[int],
        here: Tensors,
    ) -> None:
        leaves = [each for k in checked if isinstance(each := inputs[k], torch.Tensor)]
        self._here, self._leaves = Packing(here), Packing(leaves)
        self.base = self._here.joined(here)[0]
        self._batches = Batches(compare_all=True)
        self._func, self._inputs, self._checked, self._compared = func, inputs, checked, compared
        self._sizes = [math.prod(shape) for shape in self._here.shapes]
        self.point = self._leaves.joined(leaves)[0]
        self._eps = max(torch.finfo(each.dtype).eps for each in leaves)

    @cached_property
    def room(self) -> int:
        """About how many numbers a call computes, which limits the points of a batch."""
        return footprint(lambda: self._func(*self._inputs))

    @cached_property
    def _most(self) -> int:
        return BATCH_NUMBERS // max(1, self.room, self._here.size + self._leaves.size)

    @property
    def batched(self) -> bool:
        """Whether some outputs were computed in a batch."""
        return self._batches.used

    def __call__(self, points: Floats) -> tuple[Floats, Errors]:
        """The outputs, shape (k, m), at points of shape (k, n), NaN where the function raises, and what it raises."""
        if len(points) < SMALLEST_BATCH or self._most < SMALLEST_BATCH:
            return self._one_by_one(points)
        found = [self._block(points[begin : begin + self._most], begin) for begin in range(0, len(points), self._most)]
        return np.concatenate([values for values, _ in found]), [each for _, errors in found for each in errors]

    def differ(self, found: Tensors) -> bool:
        """Whether another call at the inputs, which returned ``found``, gave other outputs."""
        again = self._here.joined([found[k] for k in self._compared])[0]
        return not np.array_equal(self.base, again, equal_nan=True)

    def rounded(self, columns: Positions, displaced: Floats) -> Floats:
        """Values of inputs, shape (columns, k), as the dtype of each can hold them."""
        return self._leaves.rounded(columns, displaced)

    def one_by_one(self) -> Outputs:
        """The same by plain calls only."""
        other = copy.copy(self)
        other._batches = Batches(possible=False)
        return other

    def _block(self, points: Floats, begin: int) -> tuple[Floats, Errors]:
        """The outputs at some of the points, of which the first has the number ``begin``."""
        found = self._batches.values(
            lambda: self._all_together(points) if self._has_rules else None, lambda values: self._same(points, values)
        )
        if found is not None:
            return relative_to_point(found, self.base), []
        values, errors = self._one_by_one(points)
        return values, [(begin + k, error) for k, error in errors]

    def _same(self, points: Floats, values: Floats) -> bool:
        """Whether plain calls give the same at the first point, the last one, and the inputs themselves."""
        plain = np.concatenate([self._one_by_one(points[[0, -1]])[0], self.base[None, :]])
        return agree(values[[0, -2, -1]], plain, self._eps)

    @cached_property
    def _has_rules(self) -> bool:
        return has_rules(lambda: self._called(*self._leaves.members(self.point[None, :])[0]))

    def _all_together(self, points: Floats) -> Floats:
        """The outputs at the points, and at the inputs themselves."""
        with torch.no_grad():
            found = torch.func.vmap(self._called)(*self._leaves.stacked(np.concatenate([points, self.point[None, :]])))
        return self._here.joined(found, len(points) + 1)

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
            raise WrongShapeError(f"func returned {sizes} numbers at a displaced point; {self._sizes} at the inputs")
        return chosen
