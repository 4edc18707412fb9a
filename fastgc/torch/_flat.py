"""Tensors as flat arrays of real numbers, complex numbers as pairs, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Tensors = Sequence[torch.Tensor]


def real_size(tensor: torch.Tensor) -> int:
    """How many real numbers a tensor holds."""
    return math.prod(real_shape(tensor))


def real_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """Its shape, with one dimension more for the pairs of complex numbers."""
    return (*tensor.shape, 2) if tensor.is_complex() else tuple(tensor.shape)


def ranges(tensors: Tensors) -> list[range]:
    """Where the numbers of each tensor stand among those of all."""
    return [range(start, end) for start, end in pairwise(accumulate(map(real_size, tensors), initial=0))]


def flat(tensor: torch.Tensor) -> NDArray[Any]:
    """The numbers, not copied where that can be avoided."""
    numbers = tensor.numpy(force=True)
    if numbers.dtype.kind == "c":
        numbers = np.ascontiguousarray(numbers).view(numbers.real.dtype)
    return numbers.reshape(-1)


def joined(tensors: Sequence[torch.Tensor | None], like: Tensors, count: int = 1) -> Floats:
    """The numbers of ``count`` tensors like each of these, stacked in the given ones: shape (count, all sizes).

    None stands for zeros.
    """
    places = ranges(like)
    out = np.zeros((count, places[-1].stop if places else 0))
    for place, each in zip(places, tensors, strict=True):
        if each is not None:
            out[:, place.start : place.stop] = flat(each).reshape(count, len(place))
    return out


def stacked(numbers: Floats, like: Tensors) -> list[torch.Tensor]:
    """Numbers of shape (k, all sizes) as new tensors with a leading axis, otherwise like the given ones."""
    found = []
    for place, each in zip(ranges(like), like, strict=True):
        part = torch.from_numpy(numbers[:, place.start : place.stop].copy()).reshape(-1, *real_shape(each))
        part = torch.view_as_complex(part) if each.is_complex() else part
        found.append(part.to(device=each.device, dtype=each.dtype))
    return found


def placed(member: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A member of what is stacked, in memory as the given tensor is."""
    return member if like.is_contiguous() else torch.empty_like(like, requires_grad=False).copy_(member)


def split(vector: Floats, like: Tensors) -> list[torch.Tensor]:
    """Numbers as new tensors like the given ones."""
    return [placed(each[0], one) for each, one in zip(stacked(vector[None, :], like), like, strict=True)]
