"""Whether `torch.func.vmap` has rules for all that a call does: without one it warns, and gains nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_LIFTED = "aten::lift_fresh"  # what makes tensors of numbers: nothing in there depends on what vmap replaces


class _Operators(TorchDispatchMode):  # type: ignore[misc]
    """Notes the operators that are applied to tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(each, torch.Tensor) for each in tree_leaves((args, kwargs))):
            self.seen.add(func)
        return func(*args, **kwargs)


def has_rules(call: Callable[[], object]) -> bool:
    """Whether vmap has rules for all operators of a call, which is made once; not where it raises.

    That vmap warns cannot be noticed without changing what other threads hear of warnings.
    """
    operators = _Operators()
    try:
        with torch.no_grad(), operators:
            call()
    except Exception:
        return False
    key = torch._C.DispatchKey.FuncTorchBatched
    return all(each.has_kernel_for_dispatch_key(key) for each in operators.seen if each.name() != _LIFTED)
