"""Tensors in a memory of their own, laid out there as others are."""

from __future__ import annotations

import torch

# What else lies in the memory of a tensor is copied with it, since a function may read it by `as_strided`; not where it
# is far more than the tensor itself: a few rows of a large table would take as long as the table each time.
_TIMES, _ALWAYS = 16, 4096


def placed(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A copy of ``values`` in new memory, with the strides and the offset of ``like``, through which gradients flow.

    Entries that share memory, which cannot be displaced one by one, get a memory each.
    """
    like = like.detach()
    if is_plain(like) or _overlaps(like):
        return values.clone(memory_format=torch.contiguous_format)
    view = like.shape, like.stride(), like.storage_offset()
    held = like.untyped_storage().nbytes() // like.element_size()
    if held <= _ALWAYS + _TIMES * like.numel():
        memory = like.as_strided((held,), (1,), 0).to(dtype=values.dtype, copy=True)
    else:
        memory = torch.empty(_end(like), dtype=values.dtype, device=values.device)
    return memory.as_strided(*view).copy_(values)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether the entries, in order, are all that the tensor's memory holds."""
    held = tensor.untyped_storage().nbytes()
    whole = held == tensor.numel() * tensor.element_size()
    return bool(whole and tensor.storage_offset() == 0 and tensor.is_contiguous())


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether entries may share memory: they do not where each stride steps over all that smaller ones reach."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += (size - 1) * stride
    return False


def _end(tensor: torch.Tensor) -> int:
    """The place after the last entry."""
    reach = sum((size - 1) * stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    return int(tensor.storage_offset() + reach + 1)
