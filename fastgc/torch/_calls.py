"""The calls of submodules and autograd Functions in one pass: their inputs, and the gradients that reach them."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch.autograd.function import _SingleLevelFunction

from fastgc._forks import Turns
from fastgc.torch._functional import called_with
from fastgc.torch._nested import mapped, tensors_in
from fastgc.torch._surroundings import Given, Named, Surroundings

Function: TypeAlias = type[torch.autograd.Function]
Called: TypeAlias = torch.nn.Module | Function

_LOSS = "loss"  # the path of calls outside the module

_patching = Turns()  # `autograd.Function` is one for all threads


@dataclass
class Call:
    """A call of a submodule or of an autograd Function.

    Attributes
    ----------
    number : of the call, in the order in which calls begin; the module itself is the first
    path : of the module that was called, or in whose forward pass the Function was
    module : that was called; None for a Function
    function : what is called
    args, kwargs : as they were, with copies of all tensors; those through which gradients flow require them
    buffers : owner, key and copy of each buffer of the module
    random : the random states at the beginning
    autocast : devices and dtypes of the automatic mixed precision
    inside : the numbers of the calls that were made inside
    cotangents : what the backward pass brought to each tensor of the outputs; None for nothing
    """

    number: int
    path: str
    module: torch.nn.Module | None
    function: Callable[..., object]
    name: str
    args: Given
    kwargs: Named
    buffers: list[tuple[torch.nn.Module, str, torch.Tensor]]
    random: Sequence[torch.Tensor]
    autocast: Sequence[tuple[str, torch.dtype]]
    inside: set[int] = field(default_factory=set)
    cotangents: list[torch.Tensor | None] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        """Whether the backward pass brought a gradient that is not zero."""
        return any(each is not None and bool(each.any()) for each in self.cotangents)

    @property
    def testable(self) -> bool:
        """Whether what it brought is finite."""
        return all(each is None or bool(each.isfinite().all()) for each in self.cotangents)

    def inputs(self) -> dict[str, torch.Tensor]:
        """The tensors through which gradients flow, by their names."""
        found = tensors_in("", (self.args, self.kwargs))
        return {input_name(name): tensor for name, tensor in found if tensor.requires_grad}

    def parameters(self) -> dict[str, torch.Tensor]:
        """The parameters of the module that require gradients."""
        named = () if self.module is None else self.module.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def outputs(self, replaced: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]) -> object:
        """The outputs of the same call, with some inputs and parameters replaced."""
        for owner, key, kept in self.buffers:
            owner._buffers[key] = kept.clone()

        def passed(name: str, tensor: torch.Tensor) -> torch.Tensor:
            given = replaced.get(input_name(name), tensor)
            return given.clone()  # which the call may write to

        args, kwargs = mapped((self.args, self.kwargs), "", passed)
        with contextlib.ExitStack() as stack:
            for device, dtype in self.autocast:
                stack.enter_context(torch.autocast(device, dtype=dtype))
            if self.module is None or not parameters:
                return self.function(*args, **kwargs)
            return called_with(self.module, parameters, args, kwargs)


def input_name(name: str) -> str:
    """The words for a tensor among the arguments of a call: "input 0", "input 1[2]", "input mask"."""
    return re.sub(r"^\[\d\]\[(.*?)\]", r"input \1", name)


def _autocast() -> list[tuple[str, torch.dtype]]:
    """The devices for which automatic mixed precision is on."""
    return [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]


@contextlib.contextmanager
def functions_replaced(apply: Callable[..., object]) -> Iterator[None]:
    """Call ``apply(function, *args)`` in place of every autograd Function of this thread but PyTorch's own.

    ``Function.apply`` asks its base class, whose ``apply`` is inherited from C, each time anew: there it is seen
    whether it is called on the class or by a reference that was kept.
    """
    thread = threading.get_ident()

    def replaced(function: Function, /, *args: object, **kwargs: object) -> object:
        if threading.get_ident() != thread or function.__module__.partition(".")[0] == "torch":
            return super(_SingleLevelFunction, function).apply(*args, **kwargs)
        return apply(function, *args, **kwargs)

    with _patching():
        _SingleLevelFunction.apply = classmethod(replaced)
        try:
            yield
        finally:
            del _SingleLevelFunction.apply


class Recorder:
    """Records the calls of one forward pass, from number ``first`` on and as long as ``room`` bytes suffice.

    Attributes
    ----------
    calls : that were recorded
    following : the number of the first call for which there was no room; None if there is none
    """

    def __init__(self, module: torch.nn.Module, surroundings: Surroundings, first: int, room: int) -> None:
        self.calls: list[Call] = []
        self.following: int | None = None
        self._module, self._surroundings, self._first, self._room = module, surroundings, first, room
        self._count = 0
        self._open: list[tuple[int, str, Called, Call | None]] = []
        self._copies: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._thread = threading.get_ident()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Record what is called inside the context."""
        with contextlib.ExitStack() as stack:
            for name, each in self._module.named_modules():
                self._watch(name, each, stack)
            stack.enter_context(self._functions())
            yield

    def close(self) -> None:
        """Remove the hooks by which gradients were received."""
        for each in self._handles:
            each.remove()

    # --- what is watched ---

    def _watch(self, name: str, module: torch.nn.Module, stack: contextlib.ExitStack) -> None:
        """Record the calls of a module until the stack is left."""

        def before(module: torch.nn.Module, args: Given, kwargs: Named) -> None:
            if self._listens():
                self._begin(name, module, module, args, kwargs)

        def after(module: torch.nn.Module, args: Given, kwargs: Named, output: object) -> None:
            if self._listens():
                self._end(module, output)

        stack.callback(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)

    @contextlib.contextmanager
    def _functions(self) -> Iterator[None]:
        """Record the calls of autograd Functions."""

        def apply(function: Function, *args: object, **kwargs: object) -> object:
            plain = super(_SingleLevelFunction, function).apply  # type: ignore[misc]  # of C
            if not self._listens():
                return plain(*args, **kwargs)
            path = self._open[-1][1] if self._open else _LOSS
            self._begin(path, None, function, args, kwargs)
            output = plain(*args, **kwargs)
            self._end(function, output)
            return output

        with functions_replaced(apply):
            yield

    def _listens(self) -> bool:
        """Whether a call belongs to the pass: of this thread, and outside the transforms of `torch.func`."""
        return threading.get_ident() == self._thread and not torch._C._are_functorch_transforms_active()

    # --- what is kept ---

    def _begin(
        self,
        path: str,
        module: torch.nn.Module | None,
        function: Called,
        args: Given,
        kwargs: Named,
    ) -> None:
        number, self._count = self._count, self._count + 1
        call = None
        if self.following is None and number >= self._first and function is not self._module:
            if self._room < 0:
                self.following = number
            else:
                call = self._call(number, path, module, function, args, kwargs)
        self._open.append((number, path, function, call))

    def _call(
        self,
        number: int,
        path: str,
        module: torch.nn.Module | None,
        function: Called,
        args: Given,
        kwargs: Named,
    ) -> Call:
        args, kwargs = mapped((args, kwargs), "", lambda _, tensor: self._copy(tensor))
        owners = () if module is None else module.modules()
        buffers = [
            (owner, key, self._copy(each))
            for owner in owners
            for key, each in owner._buffers.items()
            if each is not None
        ]
        name, called = (function.__name__, function.apply) if module is None else (type(module).__name__, module)
        random, autocast = self._surroundings.random_states(), _autocast()
        return Call(number, path, module, called, name, args, kwargs, buffers, random, autocast)

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy that needs no gradient history; the same one for the same values."""
        key = id(tensor), tensor._version
        if key not in self._copies:
            copied = tensor.detach().clone()
            self._room -= copied.untyped_storage().nbytes()
            self._copies[key] = tensor, copied.requires_grad_(tensor.requires_grad)
        return self._copies[key][1]

    def _end(self, function: Called, output: object) -> None:
        while self._open and self._open[-1][2] is not function:
            self._open.pop()  # it raised, and that was caught
        if not self._open:
            return
        number, _, _, call = self._open.pop()
        found = [each for _, each in tensors_in("", output)]
        for _, _, _, around in self._open:
            if around is not None:
                around.inside.add(number)
        if call is None or not any(each.requires_grad for each in found):
            return
        self.calls.append(call)
        call.cotangents = [None] * len(found)
        for i, each in enumerate(found):
            if each.requires_grad:
                self._room -= each.numel() * each.element_size()
                self._handles.append(each.register_hook(self._receiver(call, i)))

    def _receiver(self, call: Call, number: int) -> Callable[[torch.Tensor], None]:
        def receive(gradient: torch.Tensor) -> None:
            call.cotangents[number] = gradient

        return receive
