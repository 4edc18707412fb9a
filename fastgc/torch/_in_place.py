"""Parameters of a module that are too large for a copy: displaced where they are, and restored to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch

# Bytes of parameters that are copied, 64 MiB: with a copy nothing that happens to the process can leave the module
# displaced. Above it, a copy could take the memory that training needs.
_COPIED_BYTES = 2**26


def displaced_in_place(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that a check in the module's own precision shares with the module: none of a small one."""
    parameters = list(module.parameters())
    if sum(each.nbytes for each in parameters) <= _COPIED_BYTES:
        return []
    changed = {id(each) for each in _changed_by_calls(module)}
    overlapping = {id(each) for each in _overlapping(parameters)}
    return [each for each in parameters if _is_ordinary(each) and id(each) not in changed | overlapping]


def _changed_by_calls(module: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """The parameters of embeddings whose forward pass writes to them."""
    for each in module.modules():
        if getattr(each, "max_norm", None) is not None:
            yield from each.parameters()


def _is_ordinary(parameter: torch.nn.Parameter) -> bool:
    """Whether its memory holds its numbers in order, and a loss can be differentiated by it."""
    ordinary = type(parameter) is torch.nn.Parameter and type(parameter.data) is torch.Tensor
    if not ordinary or parameter.layout != torch.strided or parameter.is_inference():
        return False
    return parameter.is_contiguous() and not (parameter.is_conj() or parameter.is_neg())


def _overlapping(parameters: Sequence[torch.nn.Parameter]) -> Iterator[torch.nn.Parameter]:
    """Parameters that share memory with another: a displacement of one would move both."""
    dense = [each for each in parameters if each.layout == torch.strided and each.numel()]
    end = {id(each): each.data_ptr() + each.nbytes for each in dense}  # too early where strides leave gaps:
    last: torch.nn.Parameter | None = None  # those are copied anyway
    for each in sorted(dense, key=torch.Tensor.data_ptr):
        if last is not None and each.device == last.device and each.data_ptr() < end[id(last)]:
            yield from (last, each)
        if last is None or end[id(each)] > end[id(last)]:
            last = each


@contextlib.contextmanager
def without_hooks(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Set aside the caller's hooks on the gradients of tensors: a copy of a tensor has none either."""
    kept = [(tensor, tensor._backward_hooks) for tensor in tensors]
    try:
        for tensor, _ in kept:
            tensor._backward_hooks = None
        yield
    finally:
        for tensor, hooks in kept:
            tensor._backward_hooks = hooks
