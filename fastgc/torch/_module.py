"""The check of a whole module: every parameter and every floating input, in a copy of the module."""

from __future__ import annotations

import contextlib
import copy
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastgc._arguments import listed, noted
from fastgc._derivatives.displaced import DISTANCE
from fastgc._evaluation.engine import NotFiniteError
from fastgc._evaluation.evaluator import Ray, WrongShapeError, WrongTypeError
from fastgc._gradient.examine import PointCheck, examine
from fastgc._gradient.noisy import examine_noisy
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import ParameterLayout, named_layout
from fastgc._parameters.sampling import DEFAULT_SAMPLES
from fastgc._parameters.streams import stream
from fastgc._progress import Progress
from fastgc._reports.gradient import GradientReport
from fastgc._reports.summary import summarise
from fastgc._words import Precision, Samples
from fastgc.torch._evaluator import TorchEvaluator, footprint
from fastgc.torch._flat import as_given, as_reals, flat, real_shape
from fastgc.torch._memory import placed
from fastgc.torch._nested import mapped, out_of_reach, tensors_in
from fastgc.torch._surroundings import Surroundings

_SCALE_ENTRIES = 4096  # evenly spaced entries from which a tensor's scale is computed: right to 2 % of an rms
_NUMPY_DTYPES = {torch.float16: np.float16, torch.float32: np.float32, torch.float64: np.float64}
_OUT_OF_REACH = "inside objects other than lists, tuples, mappings and dataclasses"
_ABOUT_DTYPES = "dtype|Double|float64"  # matches PyTorch's messages about tensors of two dtypes


def check_module(
    module: torch.nn.Module,
    inputs: Any,
    loss: Callable[[Any], torch.Tensor] | None = None,
    *,
    tensors: str | Sequence[str] | None = None,
    samples: Samples = DEFAULT_SAMPLES,
    probes: int = 3,
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    precision: Precision = "double",
    seeded: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> GradientReport:
    """Check the backward pass of a module: the gradient of every parameter and of every floating input.

    The check works on a deep copy, in the mode (train or eval) of the module. The module, its gradients and its buffers
    stay as they are; so do PyTorch's random state and default dtype. Buffers that a call changes (the running
    statistics of a batch normalisation) are restored before every call.

    Parameters
    ----------
    module : torch.nn.Module
        Its parameters are checked under their dotted names; frozen ones (``requires_grad=False``) are not.
    inputs : tensor, tuple, or dict
        A tuple of positional arguments, a dict of keyword arguments, or one argument. Arguments may hold tensors inside
        lists, tuples, mappings and dataclasses. Floating and complex tensors are checked under the names ``inputs[0]``,
        ``inputs[key]``, ``inputs[0][1]``, ``inputs[0].field``, ...; the module receives them with their own strides
        and offsets. All others are passed on as they are.
    loss : callable, optional
        ``loss(output)`` returns a tensor of one value. By default all floating outputs are added up, each entry with a
        fixed random weight: a plain sum would not see the derivative of a softmax, whose outputs add up to 1.
    tensors, samples, probes, step, rtol, atol, progress
        As in `fastgc.check_gradients`.
    precision : {"double", "native"}
        Check a copy in float64, or one in the module's own dtypes. In double precision, new tensors that the module
        makes in its calls are float64 too where they would have the default dtype.
    seeded : bool
        Seed PyTorch's random numbers before every call, so that dropout leaves out the same entries each time. Calls
        of modules that draw random numbers wait for one another, since PyTorch has one random state.
    seed : int
        The seed of the sampled entries, the directions, the weights of the outputs and, with ``seeded``, of PyTorch's
        random numbers.

    Returns
    -------
    GradientReport
        ``engine`` names the device, and "vmap" where `torch.func.vmap` computed values in batches. The notes name every
        tensor that was left out. Complex tensors are pairs of real numbers, in a last axis of 2.

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense, for a loss that is not one finite value, for parameters that are not finite,
        and for a forward pass that changes its parameters. Exceptions of the module pass through, except at displaced
        points, as in `fastgc.check_gradients`.

    Examples
    --------
    >>> import torch, fastgc
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> report = fastgc.torch.check_module(net, torch.ones(5, 3))
    >>> report.verdict, list(report.tensors)
    ('pass', ['0.weight', '0.bias', '2.weight', '2.bias', 'inputs[0]'])
    """
    begin = time.perf_counter()
    options = CheckOptions(tensors=tensors, samples=samples, probes=probes, step=step, rtol=rtol, atol=atol,
                           precision=precision, crosscheck=False, seed=seed)  # fmt: skip
    originals, left_out = _originals(module, inputs, precision)
    layout = _layout(originals, precision)
    selection = options.selected(layout)
    with torch.inference_mode(False), _noted_as_double(precision):
        subject = _subject(module, inputs, loss, originals, precision, seeded, seed)
        sources = [as_reals(tensor) for tensor in originals.values()]
        base, noisy = _first_values(subject, sources)
        gradients, cut_off = _gradients(subject)
        subject.surroundings.keep_what_was_used()
        reals, room = [as_reals(tensor) for tensor in subject.tensors], footprint(lambda: subject({}))
        evaluator = TorchEvaluator(subject, layout, reals, sources, base, room)
        some, notes = [_some(each) for each in reals], [*noisy, *left_out, *cut_off]
        check = PointCheck(
            options, selection, evaluator, some, gradients, base, notes,
            displaced=lambda rays: _displaced_gradients(subject, rays),
        )  # fmt: skip
        with Progress(selection.entries, shown=progress) as bar:
            result = examine_noisy(check, bar) if noisy else examine(check, bar)
    return summarise(selection, [result], seed, time.perf_counter() - begin)


# --- what is checked ---


def _originals(module: Any, inputs: Any, precision: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The parameters and inputs that can be checked, by name, and notes on the others."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is a {type(module).__name__}; it must be a torch.nn.Module")
    if any(isinstance(each, torch.jit.ScriptModule) for each in module.modules()):
        raise TypeError("module holds a ScriptModule, which cannot be checked; pass the module it was scripted from")
    parameters = dict(module.named_parameters())
    _refuse_parameters(parameters)
    arguments = _arguments(inputs)
    chosen, left_out = {}, defaultdict(list)
    for name, tensor in (*parameters.items(), *tensors_in("inputs", arguments)):
        reason = _reason_to_leave_out(tensor, name in parameters)
        if reason:
            left_out[reason].append(name)
        else:
            chosen[name] = tensor
    left_out[_OUT_OF_REACH] += dict.fromkeys(
        name for name, tensor in out_of_reach("inputs", arguments) if _is_inexact(tensor)
    )
    notes = [f"not checked, since {reason}: {listed(names)}" for reason, names in left_out.items() if names]
    if not chosen:
        raise ValueError(
            "module has no parameter that requires grad, and inputs no floating tensor: nothing to check"
            + "".join(f" ({note})" for note in notes)
        )
    return chosen, notes


def _reason_to_leave_out(tensor: torch.Tensor, is_parameter: bool) -> str:
    """Why a tensor cannot be checked, "" if it can."""
    if not _is_inexact(tensor):
        return "of integers or booleans"
    if is_parameter and not tensor.requires_grad:
        return "frozen (requires_grad=False)"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"not dense ({'nested' if tensor.is_nested else tensor.layout})"
    return "" if torch.isfinite(tensor).all() else "not finite everywhere"


def _is_inexact(tensor: torch.Tensor) -> bool:
    return bool(tensor.is_floating_point() or tensor.is_complex())


def _refuse_parameters(parameters: Mapping[str, torch.Tensor]) -> None:
    lazy = [name for name, tensor in parameters.items() if torch.nn.parameter.is_lazy(tensor)]
    if lazy:
        raise ValueError(f"parameters {listed(lazy)} have no shape yet; call the module once before it is checked")
    dense = {name: tensor for name, tensor in parameters.items() if tensor.layout == torch.strided}
    endless = [name for name, tensor in dense.items() if not torch.isfinite(tensor).all()]
    if endless:
        raise ValueError(f"parameters {listed(endless)} are not finite; a derivative exists only at finite values")


def _arguments(inputs: Any) -> tuple[Any, ...] | dict[str, Any]:
    return inputs if isinstance(inputs, (tuple, dict)) else (inputs,)


def _layout(tensors: Mapping[str, torch.Tensor], precision: str) -> ParameterLayout:
    dtypes = [np.dtype(np.float64) if precision == "double" else _numpy_dtype(*item) for item in tensors.items()]
    return named_layout([*tensors], [real_shape(tensor) for tensor in tensors.values()], dtypes)


def _numpy_dtype(name: str, tensor: torch.Tensor) -> np.dtype[Any]:
    if tensor.dtype.to_real() not in _NUMPY_DTYPES:
        raise TypeError(f'{name!r} is of {tensor.dtype}, which NumPy does not know; use precision="double"')
    return np.dtype(_NUMPY_DTYPES[tensor.dtype.to_real()])


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
    """A copy of the module, its arguments, and the loss of its outputs.

    Attributes
    ----------
    tensors : the parameters of the copy, then copies of the checked inputs; all contiguous
    parameters : the numbers of the parameters among the tensors, by name
    laid_out : for parameters that are not contiguous in the module: tensors with their strides
    inputs : the numbers of the inputs among the tensors, by name
    arguments : as the caller gave them
    in_double : whether all tensors are cast to double precision
    surroundings : the random state and the default dtype of the calls
    """

    module: torch.nn.Module
    tensors: Sequence[torch.Tensor]
    parameters: Mapping[str, int]
    laid_out: Mapping[str, torch.Tensor]
    inputs: Mapping[str, int]
    arguments: tuple[Any, ...] | dict[str, Any]
    in_double: bool
    loss: Callable[[Any], Any]
    buffers: _Buffers
    surroundings: Surroundings

    def __call__(self, replaced: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """The loss, with some of the tensors replaced by others, as real numbers."""
        with self.surroundings():
            return self.value(replaced)

    def value(self, replaced: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """The same, for a caller that has entered the surroundings."""
        self.buffers.restore()
        arguments = mapped(self.arguments, "inputs", lambda *given: self._passed(replaced, *given))
        args, kwargs = ((), arguments) if isinstance(arguments, dict) else (arguments, {})
        parameters = {
            name: self._parameter(replaced, name)
            for name, t in self.parameters.items()
            if t in replaced or name in self.laid_out
        }
        if not parameters:
            return _one_value(self.loss(self.module(*args, **kwargs)))
        return _one_value(self.loss(torch.func.functional_call(self.module, parameters, args, kwargs)))

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


def _subject(
    module: torch.nn.Module,
    inputs: Any,
    loss: Callable[[Any], Any] | None,
    originals: Mapping[str, torch.Tensor],
    precision: str,
    seeded: bool,
    seed: int,
) -> _Subject:
    in_double = precision == "double"
    copied = _copied(module, originals, in_double)
    own = {name: parameter for name, parameter in copied.named_parameters() if name in originals}
    laid_out = {name: torch.empty_like(originals[name]) for name in own}
    laid_out = {name: like for name, like in laid_out.items() if not like.is_contiguous()}
    given = {name: tensor for name, tensor in originals.items() if name not in own}
    leaves = [_detached(each, in_double) for each in given.values()]
    first = [_detached(each, in_double) if name in laid_out else each for name, each in own.items()]
    devices = [*dict.fromkeys(tensor.device for tensor in originals.values())]
    return _Subject(
        module=copied,
        tensors=[*first, *leaves],
        parameters={name: t for t, name in enumerate(own)},
        laid_out=laid_out,
        inputs={name: len(own) + i for i, name in enumerate(given)},
        arguments=_arguments(inputs),
        in_double=in_double,
        loss=loss or _Weighted(seed),
        buffers=_Buffers(copied),
        surroundings=Surroundings(devices, seed if seeded else None, double=in_double),
    )


def _copied(module: torch.nn.Module, originals: Mapping[str, torch.Tensor], in_double: bool) -> torch.nn.Module:
    """A deep copy. Tensors computed from parameters (by a weight norm), which PyTorch refuses to copy, are detached."""
    computed = [value for each in module.modules() for value in vars(each).values() if _is_computed(value)]
    copied = copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})
    if in_double:
        _raise_to_double(copied)
    for name, parameter in copied.named_parameters():
        if name in originals:
            parameter.data = _detached(originals[name], in_double).data
    return copied


def _raise_to_double(module: torch.nn.Module) -> None:
    """Cast real and complex parameters and buffers; `torch.nn.Module.double` leaves complex ones as they are."""
    module.double()
    for parameter in module.parameters():
        parameter.data = _cast(parameter.data, in_double=True)
    for owner in module.modules():
        for key, buffer in owner._buffers.items():
            owner._buffers[key] = None if buffer is None else _cast(buffer, in_double=True)


def _is_computed(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_leaf


def _cast(tensor: torch.Tensor, in_double: bool) -> torch.Tensor:
    if not in_double or not _is_inexact(tensor):
        return tensor
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _detached(tensor: torch.Tensor, in_double: bool) -> torch.Tensor:
    """A new leaf, contiguous."""
    resolved = tensor.detach().resolve_conj().resolve_neg()
    return _cast(resolved, in_double).clone(memory_format=torch.contiguous_format).requires_grad_()


def _noted_as_double(precision: str) -> contextlib.AbstractContextManager[None]:
    """Add to an exception about dtypes that the module runs in float64."""
    if precision == "native":
        return contextlib.nullcontext()
    note = 'fastgc evaluates a copy of the module in float64; precision="native" keeps its own dtypes'
    return noted(RuntimeError, _ABOUT_DTYPES, note)


# --- one value ---


class _Weighted:
    """The sum of all floating outputs with fixed random weights."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._weights: dict[int, torch.Tensor] = {}

    def __call__(self, output: Any) -> torch.Tensor:
        """The weighted sum."""
        parts = [each for _, each in tensors_in("", output) if _is_inexact(each)]
        if not parts:
            raise WrongTypeError(f"module returned {type(output).__name__} without a floating tensor; pass loss=")
        reals = [as_reals(each) for each in parts]
        reals = [each.to(_summing(each)) for each in reals]  # so that the sum adds no round-off to that of the outputs
        total = (self._weight(0, reals[0]) * reals[0]).sum()
        for i, each in enumerate(reals[1:], 1):
            total = total + (self._weight(i, each) * each).sum().to(total.device)
        return total

    def _weight(self, number: int, like: torch.Tensor) -> torch.Tensor:
        if number not in self._weights:
            normal = stream(self._seed, "weights", number).standard_normal(tuple(like.shape))
            scaled = torch.as_tensor(normal / max(1, like.numel()) ** 0.5)
            self._weights[number] = scaled.to(device=like.device, dtype=like.dtype)
        return self._weights[number]


def _summing(output: torch.Tensor) -> torch.dtype:
    """Double precision, except on devices that do not have it."""
    return output.dtype if output.device.type == "mps" else torch.float64


def _one_value(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise WrongTypeError(f"loss returned {kind}; it must return a real floating tensor of one value")
    if value.numel() != 1:
        raise WrongShapeError(f"loss returned a tensor of shape {tuple(value.shape)}; it must return one value")
    return value.reshape(())


# --- first calls ---


def _first_values(subject: _Subject, sources: Sequence[torch.Tensor]) -> tuple[float, list[str]]:
    """The loss, and a note if a repeated call gives another value."""
    with torch.no_grad():
        value, again = float(subject({})), float(subject({}))
    names = [*subject.parameters, *subject.inputs]
    triples = zip(names, map(as_reals, subject.tensors), sources, strict=True)
    changed = [name for name, real, source in triples if not torch.equal(real, source.to(real.dtype))]
    if changed:
        raise ValueError(
            f"module changes its parameters {listed(changed)} in its forward pass (max_norm of an embedding?); a "
            "derivative exists only at parameters that stay as they are"
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


def _gradients(subject: _Subject) -> tuple[list[Array], list[str]]:
    """The analytic gradient of every tensor, flat, and a note on those that have none: they count as zero."""
    found: list[torch.Tensor | None] = [None] * len(subject.tensors)
    with torch.enable_grad(), subject.surroundings():
        value = subject.value({})
        if value.requires_grad:
            found = [*torch.autograd.grad(value, subject.tensors, allow_unused=True)]
    names = [*subject.parameters, *subject.inputs]
    without = [name for name, gradient in zip(names, found, strict=True) if gradient is None]
    arrays = []
    for tensor in subject.tensors:
        gradient = found.pop(0)  # its memory is freed once it is copied
        arrays.append(flat(torch.zeros_like(tensor) if gradient is None else gradient.detach()))
    return arrays, [f"no gradient (None), taken for zero: {listed(without)}"] if without else []


def _displaced_gradients(subject: _Subject, rays: Sequence[Ray]) -> list[Array]:
    """The analytic gradient of every tensor, flat, with all tensors displaced by `DISTANCE` along the rays."""
    displaced = [as_reals(tensor.detach()).clone() for tensor in subject.tensors]
    for reals, ray in zip(displaced, rays, strict=True):
        step = torch.from_numpy(DISTANCE * ray.scale * ray.weights).to(reals)
        reals.add_(step.reshape(reals.shape)).requires_grad_()
    with torch.enable_grad(), subject.surroundings():
        value = subject.value(dict(enumerate(displaced)))
        found = torch.autograd.grad(value, displaced, allow_unused=True, materialize_grads=True)
    return [flat(gradient.detach()) for gradient in found]


def _some(tensor: torch.Tensor) -> Array:
    """Evenly spaced entries."""
    flat = tensor.detach().reshape(-1)
    return np.asarray(flat[:: max(1, flat.numel() // _SCALE_ENTRIES)].cpu().numpy())
