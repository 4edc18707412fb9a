"""What a call of a module reads, and how much it computes from what: one call shows it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Reading:
    """What one call showed.

    Attributes
    ----------
    inputs, outputs : of each module that was called, and how often it was called
    behind : about how many numbers were computed from each output: that, and what was kept for the gradient
    """

    inputs: dict[torch.nn.Module, torch.Tensor] = field(default_factory=dict)
    outputs: dict[torch.nn.Module, torch.Tensor] = field(default_factory=dict)
    calls: Counter[torch.nn.Module] = field(default_factory=Counter)
    behind: dict[torch.nn.Module, int] = field(default_factory=dict)
    functions: Counter[int] = field(default_factory=Counter)
    operators: Counter[int] = field(default_factory=Counter)

    def once(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor was read by exactly one function, and its memory by exactly one operator."""
        return self.functions[id(tensor)] == 1 == self.operators[_place(tensor)]

    def called(self, module: torch.nn.Module, given: torch.Tensor, output: torch.Tensor, before: int) -> None:
        """Note a call of a module; the reads of its output begin here, since another tensor may have had its place."""
        self.inputs[module], self.outputs[module], self.behind[module] = given, output, -before
        self.calls[module] += 1
        self.functions[id(output)] = self.operators[_place(output)] = 0


class _Functions(TorchFunctionMode):
    """Counts the functions of PyTorch that receive a tensor; to ask for its shape or device is no reading."""

    def __init__(self, counts: Counter[int]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") != "__get__" or isinstance(made, torch.Tensor):
            self._counts.update(id(each) for each in _tensors((args, kwargs)))
        return made


class _Operators(TorchDispatchMode):
    """Counts the operators that read the memory of a tensor and return no view of it."""

    def __init__(self, counts: Counter[int]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        same = {_place(each) for each in _tensors(made)}
        self._counts.update(place for each in _tensors((args, kwargs)) if (place := _place(each)) not in same)
        return made


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    return (each for each in tree_leaves(value) if isinstance(each, torch.Tensor))


def _place(tensor: torch.Tensor) -> int:
    """The place in memory of what a tensor is a view of; 0 where it has none."""
    return int(tensor.untyped_storage().data_ptr()) if tensor.layout == torch.strided else 0


def reading(call: Callable[[], object], modules: Iterable[torch.nn.Module], parameters: Iterable[Any]) -> Reading:
    """What a call reads of these modules' outputs and of the parameters; nothing if it raises.

    A module's input is its only argument; with several, none is noted.
    """
    found, kept, own = Reading(), [0], {_place(each) for each in parameters}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] += 0 if _place(tensor) in own else tensor.numel()
        return tensor

    def called(module: torch.nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        given = (*args, *kwargs.values())
        if len(given) == 1 and isinstance(given[0], torch.Tensor) and isinstance(output, torch.Tensor):
            found.called(module, given[0], output, kept[0] - output.numel())

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(called, with_kwargs=True, prepend=True).remove)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor))
        stack.enter_context(_Functions(found.functions))
        stack.enter_context(_Operators(found.operators))
        try:
            call()
        except Exception:  # an operator that these modes do not know
            return Reading()
    found.behind = {module: kept[0] + before for module, before in found.behind.items()}
    return found
