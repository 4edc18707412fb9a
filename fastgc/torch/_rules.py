"""When `torch.func.vmap` pays: for enough values, and where it has rules for all that a call does.

Without a rule it warns, and gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastgc.torch._surroundings import Given, Named, Types

# Measured with two layers of 8 to 128 units: tracing a batch takes as long as 15 to 20 plain calls, and beyond 8 MiB,
# which leave the cache, a value of a batch takes longer again.
SMALLEST_BATCH = 16
BATCH_NUMBERS = 1 << 20  # that a batch computes

_KEYS = "FuncTorchBatched", "FuncTorchBatchedDecomposition", "FuncTorchDynamicLayerFrontMode"  # of vmap's rules
_COMPOSITE = "CompositeImplicitAutograd"  # the key of operators that PyTorch replaces by others, with or without a rule
_NEED_NO_RULE = {"aten::lift_fresh", "aten::conj"}  # of a new constant; a bit that is set for the whole tensor
_PREFIXES = ("aten::", "aten::linalg_", "aten::special_", "aten::fft_")  # of operators, for functions of torch


class _Functions(TorchFunctionMode):
    """Notes the names of PyTorch's functions that return tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., object], types: Types, args: Given = (), kwargs: Named | None = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        if any(isinstance(each, torch.Tensor) for each in tree_leaves(made)):
            self.seen.add(getattr(func, "__name__", ""))
        return made


class _Operators(TorchDispatchMode):
    """Notes the operators that these functions apply to tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: Types, args: Given = (), kwargs: Named | None = None
    ) -> object:
        kwargs = kwargs or {}
        if any(isinstance(each, torch.Tensor) for each in tree_leaves((args, kwargs))):
            self.seen.add(func.name())
        return func(*args, **kwargs)


def has_rules(call: Callable[[], object]) -> bool:
    """Whether vmap has rules for all operators of a call, which is made once; False if it raises.

    A few functions are missed: all operators they use have rules, but vmap does not see that. It warns then, and its
    values are right. To catch the warning here would change the warnings of other threads.
    """
    functions, operators = _Functions(), _Operators()
    try:
        with torch.no_grad():
            torch.func.vmap(torch.clone)(torch.zeros(1))  # the first call in a process brings the rules of some losses
            with functions, operators:
                call()
    except Exception:
        return False
    whole = {name for name in _operators_named(functions.seen) if _has_kernel(name, _COMPOSITE)}
    return all(any(_has_kernel(name, key) for key in _KEYS) for name in (operators.seen | whole) - _NEED_NO_RULE)


def _operators_named(functions: set[str]) -> Iterator[str]:
    for name in functions:
        yield from (f"{prefix}{name}" for prefix in _PREFIXES)


def _has_kernel(name: str, key: str) -> bool:
    """Whether an operator of this name exists and has a kernel under the key."""
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))
    except RuntimeError:
        return False
