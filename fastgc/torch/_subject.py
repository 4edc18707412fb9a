"""The copy of a module that is evaluated, its arguments, and the loss of its outputs."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from fastgc._arguments import listed
from fastgc._derivatives.stencil import stencil_named
from fastgc._evaluation.evaluator import WrongShapeError, WrongTypeError
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.arrays import Array
from fastgc._parameters.streams import stream
from fastgc.torch._flat import as_given, as_reals, numbers
from fastgc.torch._functional import called_with
from fastgc.torch._in_place import displaced_in_place
from fastgc.torch._memory import placed
from fastgc.torch._nested import Replace, mapped, tensors_in
from fastgc.torch._surroundings import Surroundings

_NO_DERIVATIVE = "is not differentiable with respect to argument"  # in PyTorch's message


@dataclass(frozen=True)
class Arguments:
    """What a module is called with.

    Attributes
    ----------
    args, kwargs : its positional and its keyword arguments
    """

    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors that `mapped` reaches, with their names: inputs[0], inputs[key], ..."""
        yield from tensors_in("inputs", self.args)
        yield from tensors_in("inputs", self.kwargs)

    def mapped(self, replace: Replace) -> Arguments:
        """The same with every tensor replaced."""
        return Arguments(mapped(self.args, "inputs", replace), mapped(self.kwargs, "inputs", replace))


class _Buffers:
    """The buffers of a module, put back before every call."""

    def __init__(self, module: torch.nn.Module) -> None:
        owned = [(owner, key) for owner in module.modules() for key in owner._buffers]
        self._places = [(owner, key, owner._buffers[key]) for owner, key in owned]
        self._kept = [None if buffer is None else buffer.clone() for _, _, buffer in self._places]
        self._versions = [None if buffer is None else buffer._version for _, _, buffer in self._places]

    def restore(self) -> None:
        """Undo what calls have changed."""
        for i, (owner, key, buffer) in enumerate(self._places):
            owner._buffers[key] = buffer
            if buffer is not None and buffer._version != self._versions[i]:
                buffer.detach().copy_(self._kept[i])
                self._versions[i] = buffer._version


@dataclass(frozen=True)
class Subject:
    """A copy of the module, its arguments, and the loss of its outputs.

    Attributes
    ----------
    tensors : the parameters of the copy, then copies of the checked inputs; all contiguous
    in_place : the numbers of the tensors that are the caller's own parameters
    parameters : the numbers of the parameters among the tensors, by name
    laid_out : for parameters that are not contiguous in the module: tensors with their strides
    inputs : the numbers of the inputs among the tensors, by name
    arguments : as the caller gave them
    in_double : whether all tensors are cast to double precision
    surroundings : the random state and the default dtype of the calls
    notes : on what the copy takes for constant
    """

    module: torch.nn.Module
    tensors: Sequence[torch.Tensor]
    in_place: Collection[int]
    parameters: Mapping[str, int]
    laid_out: Mapping[str, torch.Tensor]
    inputs: Mapping[str, int]
    arguments: Arguments
    in_double: bool
    loss: Callable[..., object]
    buffers: _Buffers
    surroundings: Surroundings
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return [*self.parameters, *self.inputs]

    def __call__(self, replaced: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """The loss, with some of the tensors replaced by others, as real numbers; complex ones by the complex step."""
        with self.surroundings():
            return self.value(replaced)

    def value(self, replaced: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """The same, for a caller that has entered the surroundings."""
        self.buffers.restore()
        arguments = self.arguments.mapped(lambda *given: self._passed(replaced, *given))
        parameters = {
            name: self._parameter(replaced, name)
            for name, t in self.parameters.items()
            if t in replaced or name in self.laid_out
        }
        if parameters:
            output = called_with(self.module, parameters, arguments.args, arguments.kwargs)
        else:
            output = self.module(*arguments.args, **arguments.kwargs)
        return _one_value(self.loss(output), complex_allowed=any(each.is_complex() for each in replaced.values()))

    def gradients(self) -> list[Array | None]:
        """The gradient of the loss with respect to every tensor; None where it has none."""
        found: list[Array | None] = [None] * len(self.tensors)
        with torch.enable_grad(), self.surroundings(), contextlib.ExitStack() as stack:
            value = self.value({})
            if value.requires_grad:
                for t, tensor in enumerate(self.tensors):
                    stack.callback(tensor.register_hook(functools.partial(_received, found, t)).remove)
                torch.autograd.grad(value, self.tensors, allow_unused=True)
        return found

    def _parameter(self, replaced: Mapping[int, torch.Tensor], name: str) -> torch.Tensor:
        t = self.parameters[name]
        if t in replaced:
            return as_given(replaced[t], self.tensors[t])
        return placed(self.tensors[t], self.laid_out[name])

    def _passed(self, replaced: Mapping[int, torch.Tensor], name: str, given: torch.Tensor) -> torch.Tensor:
        """What the module receives for a tensor of the inputs: a copy, which it may write to."""
        t = self.inputs.get(name, -1)
        if t in replaced:
            return as_given(replaced[t], self.tensors[t]).clone()
        if t >= 0:
            return placed(self.tensors[t], given)
        return _cast(given.detach(), self.in_double).clone()


def subject_of(
    module: torch.nn.Module,
    arguments: Arguments,
    loss: Callable[..., object] | None,
    originals: Mapping[str, torch.Tensor],
    options: CheckOptions,
    seeded: bool,
) -> Subject:
    """The subject of a check of these parameters and inputs."""
    in_double = options.precision == "double"
    shared = [] if in_double else displaced_in_place(module)
    copied = _copied(module, originals, shared, in_double)
    own = {name: parameter for name, parameter in copied.named_parameters() if name in originals}
    laid_out = {name: torch.empty_like(originals[name]) for name in own if not originals[name].is_contiguous()}
    laid_out = {name: like for name, like in laid_out.items() if not like.is_contiguous()}
    given = {name: tensor for name, tensor in originals.items() if name not in own}
    leaves = [detached(each, in_double) for each in given.values()]
    first = [detached(each, in_double) if name in laid_out else each for name, each in own.items()]
    devices = [*dict.fromkeys(tensor.device for tensor in originals.values())]
    return Subject(
        module=copied,
        tensors=[*first, *leaves],
        in_place={t for t, each in enumerate(first) if any(each is one for one in shared)},
        parameters={name: t for t, name in enumerate(own)},
        laid_out=laid_out,
        inputs={name: len(own) + i for i, name in enumerate(given)},
        arguments=arguments,
        in_double=in_double,
        loss=loss or _Weighted(options.seed, analytic=stencil_named(options.stencil).is_complex),
        buffers=_Buffers(copied),
        surroundings=Surroundings(devices, options.seed if seeded else None, double=in_double),
        notes=_with_constant_padding(copied),
    )


def refused_inputs(subject: Subject) -> list[str]:
    """Names of the inputs of which a function of PyTorch refuses a derivative, such as the labels of some losses."""
    suspects = [name for name, t in subject.inputs.items() if subject.tensors[t].is_floating_point()]
    if len(suspects) < 2 or not _refuses(subject):
        return []
    leaves = [subject.tensors[subject.inputs[name]] for name in suspects]
    refused = []
    for name, leaf in zip(suspects, leaves, strict=True):
        for each in leaves:
            each.requires_grad_(each is leaf)
        if _refuses(subject):
            refused.append(name)
    for each in leaves:
        each.requires_grad_()
    return refused


def _refuses(subject: Subject) -> bool:
    try:
        with torch.enable_grad():
            subject({})
    except Exception as error:  # others are raised where the loss is called for its value
        return _NO_DERIVATIVE in str(error)
    return False


def _received(found: list[Array | None], t: int, gradient: torch.Tensor | None) -> torch.Tensor | None:
    """Note a gradient as the backward pass brings it, and free its memory: the device never holds all of them."""
    if gradient is None:
        return None
    found[t] = numbers(gradient)
    return gradient if gradient.layout != torch.strided else gradient.new_zeros(()).expand_as(gradient)


def _copied(
    module: torch.nn.Module, originals: Mapping[str, torch.Tensor], shared: Sequence[torch.Tensor], in_double: bool
) -> torch.nn.Module:
    """A deep copy but for the parameters that it shares with the module.

    Tensors computed from parameters (by a weight norm), which PyTorch refuses to copy, are detached.
    """
    computed = [value for each in module.modules() for value in vars(each).values() if _is_computed(value)]
    replaced = {id(value): value.detach().clone() for value in computed}
    copied = copy.deepcopy(module, replaced | {id(each): each for each in shared})
    if in_double:
        _raise_to_double(copied)
    for name, parameter in copied.named_parameters():
        if name in originals and parameter is not originals[name]:
            parameter.data = detached(originals[name], in_double).data
    return copied


def _raise_to_double(module: torch.nn.Module) -> None:
    """Cast real and complex parameters and buffers; `torch.nn.Module.double` leaves complex ones as they are."""
    module.double()
    for parameter in module.parameters():
        parameter.data = _cast(parameter.data, in_double=True)
    for owner in module.modules():
        for key, buffer in owner._buffers.items():
            owner._buffers[key] = None if buffer is None else _cast(buffer, in_double=True)


def _with_constant_padding(module: torch.nn.Module) -> tuple[str, ...]:
    """Take the padding rows of embeddings for constants, as their backward does, and say so."""
    held = [
        (name, each)
        for name, each in module.named_modules()
        if type(each).forward is torch.nn.Embedding.forward and each.padding_idx is not None
    ]
    for _, each in held:
        each.register_forward_hook(_padding_of(each))
    rows = [f"{name}.weight[{each.padding_idx}]".lstrip(".") for name, each in held]
    return (f"not checked, since padding (padding_idx), which is never trained: {listed(rows)}",) if rows else ()


def _padding_of(layer: torch.nn.Embedding) -> Callable[..., torch.Tensor]:
    row = layer.weight.detach()[layer.padding_idx].clone()

    def constant(_: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return torch.where((inputs[0] == layer.padding_idx).unsqueeze(-1), row, output)

    return constant


def _is_computed(value: object) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_leaf


def _cast(tensor: torch.Tensor, in_double: bool) -> torch.Tensor:
    if not in_double or not is_inexact(tensor):
        return tensor
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def detached(tensor: torch.Tensor, in_double: bool) -> torch.Tensor:
    """A new leaf, contiguous, perhaps in double precision."""
    resolved = tensor.detach().resolve_conj().resolve_neg()
    return _cast(resolved, in_double).clone(memory_format=torch.contiguous_format).requires_grad_()


# --- one value ---


class _Weighted:
    """The sum of all floating outputs with fixed random weights.

    ``analytic``: in the complex step's way, where complex outputs are real ones at complex parameters.
    """

    def __init__(self, seed: int, *, analytic: bool) -> None:
        self._seed, self._analytic = seed, analytic
        self._weights: dict[int, torch.Tensor] = {}

    def __call__(self, output: object) -> torch.Tensor:
        """The weighted sum."""
        parts = [each for _, each in tensors_in("", output) if is_inexact(each)]
        if not parts:
            raise WrongTypeError(f"module returned {type(output).__name__} without a floating tensor; pass loss=")
        numbers = [each if self._analytic else as_reals(each) for each in parts]
        numbers = [each.to(_summing(each)) for each in numbers]  # the sum adds no round-off to that of the outputs
        total = (self._weight(0, numbers[0]) * numbers[0]).sum()
        for i, each in enumerate(numbers[1:], 1):
            total = total + (self._weight(i, each) * each).sum().to(total.device)
        return total

    def _weight(self, number: int, like: torch.Tensor) -> torch.Tensor:
        if number not in self._weights:
            normal = stream(self._seed, "weights", number).standard_normal(tuple(like.shape))
            scaled = torch.as_tensor(normal / max(1, like.numel()) ** 0.5)
            self._weights[number] = scaled.to(device=like.device, dtype=like.dtype.to_real())
        return self._weights[number]


def is_inexact(tensor: torch.Tensor) -> bool:
    """Whether it holds floating or complex numbers."""
    return bool(tensor.is_floating_point() or tensor.is_complex())


def _summing(output: torch.Tensor) -> torch.dtype:
    """Double precision, except on devices that do not have it."""
    if output.device.type == "mps":
        return output.dtype
    return torch.complex128 if output.is_complex() else torch.float64


def _one_value(value: object, *, complex_allowed: bool) -> torch.Tensor:
    if not (isinstance(value, torch.Tensor) and (is_inexact(value) if complex_allowed else value.is_floating_point())):
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise WrongTypeError(f"loss returned {kind}; it must return a real floating tensor of one value")
    if value.numel() != 1:
        raise WrongShapeError(f"loss returned a tensor of shape {tuple(value.shape)}; it must return one value")
    found: torch.Tensor = value.reshape(())
    return found
