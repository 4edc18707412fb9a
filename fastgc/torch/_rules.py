"""Whether `torch.func.vmap` has rules for all that a call does: without one it warns, and gains nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_KEYS = "FuncTorchBatched", "FuncTorchBatchedDecomposition", "FuncTorchDynamicLayerFrontMode"  # of vmap's rules
_TAKEN_APART = "CompositeImplicitAutograd"  # the key of operators that come down to others; by vmap's own rules, or not
_WITHOUT_EFFECT = {"aten::lift_fresh", "aten::conj"}  # on numbers that became a tensor; a bit is set, for all entries
_PREFIXES = ("aten::", "aten::linalg_", "aten::special_", "aten::fft_")  # of operators, for functions of torch


class _Functions(TorchFunctionMode):
    """Notes the names of PyTorch's functions that give tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(isinstance(each, torch.Tensor) for each in tree_leaves(made)):
            self.seen.add(getattr(func, "__name__", ""))
        return made


class _Operators(TorchDispatchMode):
    """Notes the operators, to which these come down, that are applied to tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(each, torch.Tensor) for each in tree_leaves((args, kwargs))):
            self.seen.add(func.name())
        return func(*args, **kwargs)


def has_rules(call: Callable[[], object]) -> bool:
    """Whether vmap has rules for all operators of a call, which is made once; not where it raises.

    So far as can be seen: a function may come down to operators of which each has a rule, and vmap not know that. It
    warns then, and its values are right. Noticing a warning would change what other threads hear of warnings.
    """
    functions, operators = _Functions(), _Operators()
    try:
        with torch.no_grad(), functions, operators:
            call()
    except Exception:
        return False
    whole = {name for name in _operators_named(functions.seen) if _has_kernel(name, _TAKEN_APART)}
    return all(any(_has_kernel(name, key) for key in _KEYS) for name in (operators.seen | whole) - _WITHOUT_EFFECT)


def _operators_named(functions: set[str]) -> Iterator[str]:
    for name in functions:
        yield from (f"{prefix}{name}" for prefix in _PREFIXES)


def _has_kernel(name: str, key: str) -> bool:
    """Whether there is an operator of this name that has one."""
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))
    except RuntimeError:
        return False
