"""The Jacobian that a backward pass makes: row by row or many rows at once, and what else it must do."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.autograd.gradcheck import GradcheckError

from fastgc.torch._flat import Floats, Packing, Tensors

_LINEARITY = {True: 1e-6, False: 1e-2}  # by how much a backward may fail to be linear, in double precision and others
_FEWEST = 4  # rows that pay for computing them together
_NUMBERS = 1 << 20  # that are computed for them at a time
_SAME = 1e3  # by so many units of round-off gradients computed in two ways may differ

# What round-off adds to a product v^T J is of the size eps * |v| * (the terms that are added up on the way). That may
# be far above eps times the product, where these terms cancel, as in the derivative of a sum of a softmax. The terms
# cannot be seen from outside, but their rounding can: v stretched by a few units in the last place rounds anew in every
# operation, and the product is stretched with it but for that. What it differs by is a sample of the round-off. Of a
# backward that is not linear in truth it is no more than the stretch times the product.
_UNITS = (3, -5, 9, -17)  # of eps of the inputs' dtype
_SINGLE = (2.0**-21, -(2.0**-20))  # in double precision besides: some functions compute in single precision inside
_ROUNDINGS = 30.0  # times the largest of the samples: that few, of a number that is a whole multiple of an ulp, are low


class Backward:
    """Gradients of the compared outputs with respect to the checked inputs.

    Parameters
    ----------
    outputs, leaves : sequences of tensors
    names : sequence of int
        The numbers of the inputs, for messages.
    dtypes : bool
        Whether each gradient must have the dtype of its input.
    room : int
        About how many numbers a call computes, which limits the rows that are computed at a time, by
        ``is_grads_batched``. That is given up where a combination of all rows is another one row by row.

    Attributes
    ----------
    size : the number of rows
    batched : whether some were computed together
    """

    def __init__(self, outputs: Tensors, leaves: Tensors, names: Sequence[int], dtypes: bool, room: int) -> None:
        self._rows_of, self._columns_of = Packing(outputs), Packing(leaves)
        self.batched, self.size = False, self._rows_of.size
        self._most = max(1, _NUMBERS // max(1, room, self.size + self._columns_of.size))
        self._together = min(self.size, self._most) >= _FEWEST
        self._outputs, self._leaves, self._names, self._dtypes = outputs, leaves, names, dtypes
        self._eps = max(torch.finfo(leaf.dtype).eps for leaf in leaves)

    @cached_property
    def directions(self) -> Floats:
        """Three vectors that add up to zero, as good as random, and zero."""
        places = np.arange(1.0, self.size + 1)
        v, w = np.cos(places), np.cos(math.sqrt(2) * places)
        return np.stack([v, w, -(v + w), 0 * v])

    @cached_property
    def along(self) -> Floats:
        """Their products with the Jacobian."""
        return self.pulled(self.directions)

    @cached_property
    def round_off(self) -> Floats:
        """What rounding may add to a product with one of the directions, shape (n,): the same for a whole input.

        None of a backward that differs by more when it is simply run again: it has noise, and no round-off alone.
        """
        stretches = [1.0, *(1 + units * self._eps for units in _UNITS)]
        stretches += [1 + share for share in _SINGLE if self._eps < _SINGLE[0] ** 2]
        anew = np.stack([self.pulled(stretch * self.directions[:3]) for stretch in stretches])
        off = np.abs(anew - np.multiply.outer(stretches, self.along[:3])).max(axis=1)
        steady = off[0].max(initial=0.0) <= self.unit_round_off
        return _ROUNDINGS * self.by_input(off.max(axis=0)) if steady else np.zeros(self._columns_of.size)

    @property
    def natural(self) -> float:
        """The size of the slopes that a function with such outputs and inputs has as a rule."""
        outputs, inputs = _largest(self._outputs), _largest(self._leaves)
        return outputs / (inputs or 1.0)

    @property
    def unit_round_off(self) -> float:
        """What rounding may add to slopes of that size."""
        return float(_ROUNDINGS * self._eps * self.natural)

    def tolerated(self, atol: float) -> float:
        """By how much a product with one of the directions may be off where the caller lets entries be off by ``atol``.

        A tolerance is meant for slopes of order one, as the default is. Where the outputs are small beside the inputs,
        so are all slopes, and the tolerance counts in proportion: it would be above the whole backward else.
        """
        return float(atol * min(1.0, self.natural))

    def by_input(self, numbers: Floats) -> Floats:
        """The largest of the numbers of each input, in the place of all of them."""
        largest = [
            np.full(place.stop - place.start, numbers[place].max(initial=0.0)) for place in self._columns_of.slices
        ]
        return np.concatenate(largest)

    def one_by_one(self) -> Backward:
        """The same, row by row."""
        other = copy.copy(self)
        other.batched = other._together = False
        return other

    def pulled(self, vectors: Floats) -> Floats:
        """v^T J for each of several vectors, shape (k, n)."""
        rows = [self._columns_of.joined(self._gradients(each)) for each in self._rows_of.members(vectors)]
        return np.concatenate([np.empty((0, self._columns_of.size)), *rows])

    def jacobian(self, nondeterminism: float) -> Floats:
        """All rows, computed twice: the backward must do the same again, but for the order in which it adds up."""
        first, again = self._rows(), self._rows()
        differs = np.nan_to_num(np.abs(first - again), nan=0.0).max(axis=0, initial=0.0)
        off = float(differs.max(initial=0.0))
        if off > nondeterminism and (differs > np.fmax(nondeterminism, self._rounding_of(first))).any():
            raise GradcheckError(
                f"Backward is not reentrant: run twice on the same input and grad_output it gives gradients that "
                f"differ by {off:.1e}; nondet_tol is {nondeterminism}"
            )
        return first

    def _rounding_of(self, rows: Floats) -> Floats:
        """What adding up in another order may change rows of the Jacobian by, shape (n,)."""
        sizes = self.by_input(np.abs(rows).max(axis=0, initial=0.0))
        return np.asarray(np.fmax(_ROUNDINGS * self._eps * sizes, self.unit_round_off))

    def _rows(self) -> Floats:
        found = self._many_at_once() if self._together else None
        self._together = found is not None
        self.batched |= self._together
        if found is not None:
            return found
        return np.concatenate([np.empty((0, self._columns_of.size)), *map(self.pulled, self._units())])

    def _many_at_once(self) -> Floats | None:
        """None where they cannot be had so, or where a combination of all is another one row by row."""
        try:
            found = np.concatenate([self._batch(block) for block in self._units()])
        except Exception:
            return None
        off = np.abs(self.directions[0] @ found - self.along[0])
        slack = _SAME * self._eps * (np.abs(self.directions[0]) @ np.abs(found)).max(initial=0.0)
        return found if (off <= slack).all() else None

    def _batch(self, block: Floats) -> Floats:
        gradients = self._gradients(self._rows_of.stacked(block), is_grads_batched=True)
        return self._columns_of.joined(gradients, len(block))

    def _units(self) -> Iterator[Floats]:
        for begin in range(0, self.size, self._most):
            yield np.eye(min(self._most, self.size - begin), self.size, begin)

    def _gradients(self, weights: Tensors, **options: bool) -> Sequence[torch.Tensor | None]:
        gradients: Sequence[torch.Tensor | None] = torch.autograd.grad(
            self._outputs, self._leaves, weights, retain_graph=True, allow_unused=True, **options
        )
        for k, gradient, leaf in zip(self._names, gradients, self._leaves, strict=True):
            shape = None if gradient is None else gradient.shape[1:] if options else gradient.shape
            if gradient is not None and shape != leaf.shape:
                raise GradcheckError(
                    f"the gradient of input {k} has shape {tuple(shape or ())}; the input {tuple(leaf.shape)}"
                )
            if self._dtypes and gradient is not None and gradient.dtype != leaf.dtype:
                raise GradcheckError(f"the gradient of input {k} is of dtype {gradient.dtype}; the input {leaf.dtype}")
        return gradients


def _largest(tensors: Tensors) -> float:
    return max((float(each.detach().abs().max()) for each in tensors if each.numel()), default=0.0)


# --- what else a backward must do ---


def check_linearity(backward: Backward, in_double: bool, atol: float) -> None:
    """A backward is linear in grad_output: zero for zero, and for vectors that add up to zero a sum of zero.

    A sum of zero but for round-off: relative to what is added up, input by input, as a rule; as it has been measured,
    where that is round-off itself. For zero there is no term that could be rounded.
    """
    of_zero = backward.along[-1]
    if of_zero.any():
        raise GradcheckError(
            f"backward is not multiplied by grad_output: for zeros it gives up to {np.abs(of_zero).max():.3g}"
        )
    off = np.abs(backward.along.sum(axis=0))
    allowed = _LINEARITY[in_double] * backward.by_input(np.abs(backward.along).sum(axis=0))
    if not (off > allowed).any():
        return
    allowed = np.fmax(allowed, backward.tolerated(atol))
    if (off > allowed).any() and (off > np.fmax(allowed, backward.round_off)).any():
        raise GradcheckError(
            f"backward is not linear in grad_output: the gradients of a sum are off by {off.max(initial=0.0):.3g}"
        )


class _Undefined(torch.autograd.Function):
    """The identity, whose gradient is None."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> None:
        return None


def check_undefined(outputs: Tensors, leaves: Tensors) -> None:
    """A backward must take None for zero: for all outputs, and for each of several."""
    count = len(outputs)
    for chosen in [range(count), *([[k] for k in range(count)] if count > 1 else [])]:
        passed = [_Undefined.apply(each) if k in chosen else each for k, each in enumerate(outputs)]
        zeros = [torch.zeros_like(each) for each in outputs]
        try:
            gradients = torch.autograd.grad(passed, leaves, zeros, retain_graph=True, allow_unused=True)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise GradcheckError(
                "backward does not take an undefined grad_output (None) for zero; handle it, or use "
                f"check_undefined_grad=False ({error})"
            ) from error
        if any(gradient is not None and gradient.any() for gradient in gradients):
            raise GradcheckError(
                "backward gives gradients that are not zero where grad_output is undefined (None) or zero"
            )
