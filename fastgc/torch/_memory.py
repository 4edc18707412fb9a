"""Copies of tensors in new memory, with the strides and the offset of the original."""

from __future__ import annotations

import torch

# Whatever else the tensor's memory holds is copied with it, since a function may read it by `as_strided`; not where
# that is far more than the tensor: a few rows of a large table would cost as much as the table at every displaced
# point. Up to 16 times the tensor, or 4096 numbers (32 KiB), the copy costs little compared with a call of PyTorch.
_COPIED_TIMES, _COPIED_ALWAYS = 16, 4096


def placed(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A copy of ``values`` in new memory, with the strides and the offset of ``like``; gradients flow through it.

    Entries that share memory cannot be displaced one by one: the copy has them apart.
    """
    like = like.detach()
    if is_plain(like) or _overlaps(like):
        return values.clone(memory_format=torch.contiguous_format)
    view = like.shape, like.stride(), like.storage_offset()
    held = like.untyped_storage().nbytes() // like.element_size()
    if held <= _COPIED_ALWAYS + _COPIED_TIMES * like.numel():
        memory = like.as_strided((held,), (1,), 0).to(dtype=values.dtype, copy=True)
    else:
        memory = torch.empty(_end(like), dtype=values.dtype, device=values.device)
    return memory.as_strided(*view).copy_(values)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor's memory holds its entries in order, and nothing else."""
    held = tensor.untyped_storage().nbytes()
    whole = held == tensor.numel() * tensor.element_size()
    return bool(whole and tensor.storage_offset() == 0 and tensor.is_contiguous())


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether entries may share memory. They cannot where each stride is larger than the reach of all smaller ones."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += (size - 1) * stride
    return False


def _end(tensor: torch.Tensor) -> int:
    """The offset of the place after the last entry."""
    reach = sum((size - 1) * stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    return int(tensor.storage_offset() + reach + 1)
