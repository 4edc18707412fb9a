"""Tensors as flat arrays of real numbers, complex numbers as pairs, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch

from fastgc._parameters.arrays import Array, Floats, Positions
from fastgc.torch._memory import is_plain, placed

Tensors = Sequence[torch.Tensor]


def real_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape of a tensor; complex numbers are pairs along one more axis."""
    return (*tensor.shape, 2) if tensor.is_complex() else tuple(tensor.shape)


def as_reals(tensor: torch.Tensor) -> torch.Tensor:
    """A complex tensor as pairs of real numbers, a real one as it is; a view, if the memory holds the numbers."""
    if not tensor.is_complex():
        return tensor.resolve_neg()
    return torch.view_as_real(tensor.resolve_conj().resolve_neg())


def as_given(reals: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of `as_reals`: complex if ``like`` is."""
    return torch.view_as_complex(reals) if like.is_complex() else reals


def flat(tensor: torch.Tensor) -> Array:
    """The numbers in one flat array, copied only if necessary."""
    dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
    dense = dense.float() if dense.dtype == torch.bfloat16 else dense  # which NumPy does not know
    found: Array = dense.numpy(force=True)
    if found.dtype.kind == "c":
        found = np.ascontiguousarray(found).view(found.real.dtype)
    return found.reshape(-1)


def numbers(tensor: torch.Tensor) -> Array:
    """The numbers in an array of `real_shape`, copied only if necessary."""
    return flat(tensor.detach()).reshape(real_shape(tensor))


class Packing:
    """Several tensors as one vector of numbers.

    Attributes
    ----------
    shapes : of the tensors; complex numbers are pairs along one more axis
    slices : the part of the vector that each tensor has
    size : the length of the vector
    """

    def __init__(self, tensors: Tensors) -> None:
        self._like = [tensor.detach() for tensor in tensors]
        self._plain = [is_plain(tensor) for tensor in self._like]
        self.shapes = [real_shape(tensor) for tensor in tensors]
        ends = [*accumulate(map(math.prod, self.shapes), initial=0)]
        self.slices, self.size = [slice(*pair) for pair in pairwise(ends)], ends[-1]

    def joined(self, tensors: Sequence[torch.Tensor | None], count: int = 1) -> Floats:
        """The vectors, shape (count, size), of tensors with ``count`` members each; None counts as zeros."""
        out = np.zeros((count, self.size))
        for place, each in zip(self.slices, tensors, strict=True):
            if each is not None:
                out[:, place] = flat(each).reshape(count, place.stop - place.start)
        return out

    def stacked(self, numbers: Floats) -> list[torch.Tensor]:
        """Vectors, shape (count, size), as new tensors with a leading axis, otherwise like those packed."""
        found = []
        for place, shape, like in zip(self.slices, self.shapes, self._like, strict=True):
            part = torch.from_numpy(numbers[:, place].copy()).view(len(numbers), *shape)
            found.append(as_given(part, like).to(device=like.device, dtype=like.dtype))
        return found

    def rounded(self, places: Positions, numbers: Floats) -> Floats:
        """Numbers at places of the vector, shape (places, k), as the dtype of each tensor can hold them."""
        found = numbers.copy()
        for slot, like in zip(self.slices, self._like, strict=True):
            mine = (places >= slot.start) & (places < slot.stop)
            found[mine] = torch.from_numpy(numbers[mine]).to(like.dtype.to_real()).to(torch.float64).numpy()
        return found

    def members(self, numbers: Floats) -> list[list[torch.Tensor]]:
        """Each vector as tensors in new memory, with the strides and the offsets of those packed."""
        members = [stack.unbind() for stack in self.stacked(numbers)]
        return [
            [
                each.clone() if plain else placed(each, like)
                for each, like, plain in zip(row, self._like, self._plain, strict=True)
            ]
            for row in zip(*members, strict=True)
        ]
