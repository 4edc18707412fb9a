"""The check of a whole module: every parameter and every floating input, in a copy of its own."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch

from fastgc._check import Scope, Start, examine, sampled_counts
from fastgc._engine import NotFiniteError, noted
from fastgc._layout import Array, ParameterLayout, listed, named_layout
from fastgc._progress import Progress
from fastgc._report import GradientReport
from fastgc._stencil import stencil_named
from fastgc._summary import summarise
from fastgc._validate import DEFAULT_SAMPLES, one_of, validate_scope
from fastgc.torch._evaluator import TorchEvaluator, footprint
from fastgc.torch._surroundings import Surroundings

_SEEN = 4096  # evenly spaced entries of a tensor that tell its scale
_NATIVE = {torch.float16: np.float16, torch.float32: np.float32, torch.float64: np.float64}
_DTYPES = "dtype|Double|float64"  # in messages about tensors of two dtypes


def check_module(
    module: torch.nn.Module,
    inputs: Any,
    loss: Callable[[Any], torch.Tensor] | None = None,
    *,
    tensors: str | Sequence[str] | None = None,
    samples: int | str | Mapping[str, int | str] = DEFAULT_SAMPLES,
    probes: int = 3,
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    precision: str = "double",
    seeded: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> GradientReport:
    """Check the backward pass of a module: the gradient of every parameter and of every floating input.

    It works on a deep copy, in the mode (train or eval) that the module is in: the module, its gradients and its
    buffers stay as they are, and so do PyTorch's random state and default dtype. Buffers that a call changes (the
    running statistics of a batch normalisation) are put back after each.

    Parameters
    ----------
    module : torch.nn.Module
        Its parameters are checked under their dotted names; frozen ones (``requires_grad=False``) are not.
    inputs : tensor, tuple, or dict
        A tuple of positional arguments or a dict of keyword arguments, which may hold tensors inside lists, tuples and
        dicts; anything else is the one argument. Floating tensors are checked under the names ``inputs[0]``,
        ``inputs[key]``, ``inputs[0][1]``, ...; all others are passed on as they are.
    loss : callable, optional
        ``loss(output)`` returns a tensor of one value. By default all floating outputs are added up, each entry with a
        fixed random weight: a plain sum would not see the derivative of a softmax, whose outputs add up to 1.
    tensors, samples, probes, step, rtol, atol, progress
        As in `fastgc.check_gradients`.
    precision : {"double", "native"}
        Check a copy in float64, or one in the module's own dtypes. In double precision what the module makes in its
        calls is of float64 too where it would be of the default dtype, which itself is left alone.
    seeded : bool
        Seed PyTorch's random numbers before every call, so that dropout leaves out the same entries each time. Calls of
        modules that draw some wait for one another: PyTorch has one random state, which is exchanged for each.
    seed : int
        Of the sampled entries, the directions, the weights of the outputs and, with ``seeded``, the random numbers.

    Returns
    -------
    GradientReport
        ``engine`` names the device, and "vmap" where values were computed many at a time by `torch.func.vmap`.

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense, for a loss that is not one finite value, for parameters that are complex or
        not finite, and for a forward pass that changes its parameters. Exceptions of the module pass through.
    """
    begin = time.perf_counter()
    validate_scope(step=step, rtol=rtol, atol=atol, probes=probes, seed=seed)
    one_of("precision", precision, ("double", "native"))
    originals, left_out = _originals(module, inputs, precision)
    layout = _layout(originals, precision)
    counts = sampled_counts(layout, tensors, samples, probes)
    scope = Scope(layout, counts, probes, stencil_named("central"), step, rtol, atol, crosscheck=False, seed=seed)
    with torch.inference_mode(False), _explained(precision):
        subject = _subject(module, inputs, loss, originals, precision, seeded, seed)
        base, notes = _first_values(subject)
        gradients = _gradients(subject)
        subject.surroundings.keep_what_was_used()
        sources, room = [*originals.values()], footprint(lambda: subject({}))
        evaluator = TorchEvaluator(subject, layout, subject.tensors, sources, base, room)
        leaves = [_some(tensor) for tensor in subject.tensors]
        with Progress(scope.samples, shown=progress) as bar:
            findings = examine(scope, Start(evaluator, leaves, gradients, base, [*notes, *left_out]), bar)
    return summarise(layout, counts, [findings], seed, time.perf_counter() - begin)


# --- what is checked ---


def _originals(module: Any, inputs: Any, precision: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The parameters and the floating inputs by name, and notes on those left out."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is a {type(module).__name__}; it must be a torch.nn.Module")
    if any(isinstance(each, torch.jit.ScriptModule) for each in module.modules()):
        raise TypeError("module holds a ScriptModule, which cannot be checked; pass the module it was made from")
    parameters = dict(module.named_parameters())
    _refuse_parameters(parameters)
    found = _floating(inputs)
    frozen = [name for name, tensor in parameters.items() if not tensor.requires_grad]
    endless = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    chosen = {name: tensor for name, tensor in (parameters | found).items() if name not in {*frozen, *endless}}
    if not chosen:
        raise ValueError("module has no parameter that requires grad, and inputs no floating tensor: nothing to check")
    notes = [f"not checked, since frozen (requires_grad=False): {listed(frozen)}"] if frozen else []
    notes += [f"not checked, since not finite everywhere: {listed(endless)}"] if endless else []
    return chosen, notes


def _refuse_parameters(parameters: Mapping[str, torch.Tensor]) -> None:
    lazy = [name for name, tensor in parameters.items() if torch.nn.parameter.is_lazy(tensor)]
    if lazy:
        raise ValueError(f"parameters {listed(lazy)} have no shape yet; call the module once before it is checked")
    compound = [name for name, tensor in parameters.items() if tensor.is_complex()]
    if compound:
        raise TypeError(f"complex parameters are not supported: {listed(compound)}; keep real and imaginary parts")
    endless = [name for name, tensor in parameters.items() if not torch.isfinite(tensor).all()]
    if endless:
        raise ValueError(f"parameters {listed(endless)} are not finite; a derivative exists only at finite ones")


def _floating(inputs: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}

    def note(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            found[name] = tensor
        return tensor

    _mapped(_arguments(inputs), "inputs", note)
    return found


def _arguments(inputs: Any) -> tuple[Any, ...] | dict[str, Any]:
    return inputs if isinstance(inputs, (tuple, dict)) else (inputs,)


def _mapped(value: Any, name: str, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Any:
    """The same structure with every tensor changed, each told its name."""
    if isinstance(value, torch.Tensor):
        return change(name, value)
    if isinstance(value, dict):
        return {key: _mapped(each, f"{name}[{key}]", change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        children = [_mapped(each, f"{name}[{i}]", change) for i, each in enumerate(value)]
        return type(value)._make(children) if hasattr(value, "_make") else type(value)(children)
    return value


def _layout(tensors: Mapping[str, torch.Tensor], precision: str) -> ParameterLayout:
    dtypes = [np.dtype(np.float64) if precision == "double" else _numpy_dtype(*item) for item in tensors.items()]
    return named_layout([*tensors], [tuple(tensor.shape) for tensor in tensors.values()], dtypes)


def _numpy_dtype(name: str, tensor: torch.Tensor) -> np.dtype[Any]:
    if tensor.dtype not in _NATIVE:
        raise TypeError(f'{name!r} is of {tensor.dtype}, which NumPy does not know; use precision="double"')
    return np.dtype(_NATIVE[tensor.dtype])


# --- the copy that is evaluated ---


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
class _Subject:
    """A copy of the module, what it is called with, and how its outputs become one value.

    Attributes
    ----------
    tensors : the copy's parameters, then copies of the floating inputs
    parameters : names of the first of them
    inputs : names of the others, with their numbers
    arguments : of the caller, as given
    dtype : to which floating inputs are cast, if to any
    surroundings : in which it is called
    """

    module: torch.nn.Module
    tensors: Sequence[torch.Tensor]
    parameters: Sequence[str]
    inputs: Mapping[str, int]
    arguments: tuple[Any, ...] | dict[str, Any]
    dtype: torch.dtype | None
    loss: Callable[[Any], Any]
    buffers: _Buffers
    surroundings: Surroundings

    def __call__(self, replaced: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """The loss, with some of the tensors replaced by others."""
        with self.surroundings():
            return self.value(replaced)

    def value(self, replaced: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """The same within surroundings that the caller has entered."""
        self.buffers.restore()
        arguments = _mapped(self.arguments, "inputs", lambda *given: self._passed(replaced, *given))
        args, kwargs = ((), arguments) if isinstance(arguments, dict) else (arguments, {})
        parameters = {name: replaced[t] for t, name in enumerate(self.parameters) if t in replaced}
        if not parameters:
            return _one_value(self.loss(self.module(*args, **kwargs)))
        return _one_value(self.loss(torch.func.functional_call(self.module, parameters, args, kwargs)))

    def _passed(self, replaced: Mapping[int, torch.Tensor], name: str, given: torch.Tensor) -> torch.Tensor:
        """What the module gets for a tensor of the inputs: always a copy, which it may write to."""
        if name in self.inputs:
            t = self.inputs[name]
            return replaced.get(t, self.tensors[t]).clone()
        return _cast(given.detach(), self.dtype).clone()


def _subject(
    module: torch.nn.Module,
    inputs: Any,
    loss: Callable[[Any], Any] | None,
    originals: Mapping[str, torch.Tensor],
    precision: str,
    seeded: bool,
    seed: int,
) -> _Subject:
    dtype = torch.float64 if precision == "double" else None
    copied = _copied(module, originals, dtype)
    own = {name: parameter for name, parameter in copied.named_parameters() if name in originals}
    given = {name: _detached(tensor, dtype) for name, tensor in originals.items() if name not in own}
    devices = [*dict.fromkeys(tensor.device for tensor in originals.values())]
    return _Subject(
        module=copied,
        tensors=[*own.values(), *given.values()],
        parameters=[*own],
        inputs={name: len(own) + i for i, name in enumerate(given)},
        arguments=_arguments(inputs),
        dtype=dtype,
        loss=loss or _Weighted(seed),
        buffers=_Buffers(copied),
        surroundings=Surroundings(devices, seed if seeded else None, double=precision == "double"),
    )


def _copied(
    module: torch.nn.Module, originals: Mapping[str, torch.Tensor], dtype: torch.dtype | None
) -> torch.nn.Module:
    """A deep copy; tensors computed from parameters (by a weight norm), which PyTorch does not copy, are detached."""
    computed = [value for each in module.modules() for value in vars(each).values() if _is_computed(value)]
    copied = copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})
    copied = copied if dtype is None else copied.to(dtype)
    for name, parameter in copied.named_parameters():
        if name in originals:
            parameter.data = parameter.data.contiguous()
            parameter.data.copy_(originals[name].detach())
    return copied


def _is_computed(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_leaf


def _cast(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _detached(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    copied = _cast(tensor.detach(), dtype).clone(memory_format=torch.contiguous_format)
    return copied.requires_grad_()


def _explained(precision: str) -> contextlib.AbstractContextManager[None]:
    """Say beside an exception about dtypes that the module runs in float64."""
    if precision == "native":
        return contextlib.nullcontext()
    note = 'fastgc evaluates a copy of the module in float64; precision="native" keeps its own dtypes'
    return noted(RuntimeError, _DTYPES, note)


# --- one value ---


class _Weighted:
    """All floating outputs, added up with fixed random weights."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._weights: dict[int, torch.Tensor] = {}

    def __call__(self, output: Any) -> torch.Tensor:
        """The weighted sum."""
        parts = [each for each in _tensors_in(output) if each.is_floating_point() or each.is_complex()]
        if not parts:
            raise TypeError(f"module returned {type(output).__name__} without a floating tensor; pass loss=")
        reals = [torch.view_as_real(each.resolve_conj()) if each.is_complex() else each for each in parts]
        reals = [each.to(_summing(each)) for each in reals]  # so that the sum adds no round-off to the outputs' own
        total = (self._weight(0, reals[0]) * reals[0]).sum()
        for i, each in enumerate(reals[1:], 1):
            total = total + (self._weight(i, each) * each).sum().to(total.device)
        return total

    def _weight(self, number: int, like: torch.Tensor) -> torch.Tensor:
        if number not in self._weights:
            normal = np.random.default_rng([self._seed, number]).standard_normal(tuple(like.shape))
            scaled = torch.as_tensor(normal / max(1, like.numel()) ** 0.5)
            self._weights[number] = scaled.to(device=like.device, dtype=like.dtype)
        return self._weights[number]


def _summing(output: torch.Tensor) -> torch.dtype:
    """Double precision, on every device that has it."""
    return output.dtype if output.device.type == "mps" else torch.float64


def _tensors_in(output: Any) -> Iterator[torch.Tensor]:
    """The tensors inside lists, tuples, mappings and dataclasses."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors_in(list(output.values()))
    elif isinstance(output, (list, tuple)):
        for each in output:
            yield from _tensors_in(each)
    elif is_dataclass(output):
        yield from _tensors_in([getattr(output, each.name) for each in fields(output)])


def _one_value(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(f"loss returned {kind}; it must return a real floating tensor of one value")
    if value.numel() != 1:
        raise ValueError(f"loss returned a tensor of shape {tuple(value.shape)}; it must return one value")
    return value.reshape(())


# --- first calls ---


def _first_values(subject: _Subject) -> tuple[float, list[str]]:
    """The loss, and a note if a repeated call gives another value."""
    before = [tensor._version for tensor in subject.tensors]
    with torch.no_grad():
        value, again = float(subject({})), float(subject({}))
    names = [*subject.parameters, *subject.inputs]
    changed = [name for name, tensor, old in zip(names, subject.tensors, before, strict=True) if tensor._version != old]
    if changed:
        raise ValueError(
            f"module changes its parameters {listed(changed)} in its forward pass (max_norm of an embedding?); a "
            "derivative needs them to stay"
        )
    if not np.isfinite(value):
        raise NotFiniteError(f"loss is {value}; a gradient can be checked only where it is finite: pass loss=")
    return value, [] if again == value else [_noisy(subject.module, value, again)]


def _noisy(module: torch.nn.Module, value: float, again: float) -> str:
    active = [name or "module" for name, each in module.named_modules() if _drops_out(each)]
    cause = f"dropout is active in {listed(active)}" if active else "random numbers? state kept between calls?"
    return (
        f"module is not deterministic: a repeated call gave {again!r}, not {value!r} ({cause}); check it after "
        "module.eval(), or with seeded=True"
    )


def _drops_out(module: torch.nn.Module) -> bool:
    share = getattr(module, "p", 0.0) if "Dropout" in type(module).__name__ else getattr(module, "dropout", 0.0)
    return module.training and isinstance(share, float) and share > 0


def _gradients(subject: _Subject) -> list[Array]:
    """The analytic gradient of every tensor, flat; zeros where the loss does not depend on one."""
    found: list[torch.Tensor | None] = [None] * len(subject.tensors)
    with torch.enable_grad(), subject.surroundings():
        value = subject.value({})
        if value.requires_grad:
            found = [*torch.autograd.grad(value, subject.tensors, allow_unused=True)]
    arrays = []
    for tensor in subject.tensors:
        gradient = found.pop(0)  # each is let go once it is copied
        arrays.append(_flat_array(torch.zeros_like(tensor) if gradient is None else gradient))
    return arrays


def _flat_array(gradient: torch.Tensor) -> Array:
    dense = gradient if gradient.layout == torch.strided else gradient.to_dense()
    return np.asarray(dense.detach().reshape(-1).numpy(force=True))


def _some(tensor: torch.Tensor) -> Array:
    """Evenly spaced entries."""
    flat = tensor.detach().reshape(-1)
    return np.asarray(flat[:: max(1, flat.numel() // _SEEN)].cpu().numpy())
