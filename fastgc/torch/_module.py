"""The check of a whole module: every parameter and every floating input, in a copy of the module."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from fastgc._arguments import flags, listed, noted, plural, refuse_uncallable
from fastgc._evaluation.callers_loss import CallersLoss, OpenEvaluator
from fastgc._evaluation.engine import Execution
from fastgc._evaluation.workers_option import elsewhere
from fastgc._gradient.check import check_loss, passed_or_raise
from fastgc._gradient.operation import with_operations
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import ParameterLayout, named_layout
from fastgc._parameters.sampling import DEFAULT_SAMPLES
from fastgc._reports.gradient import GradientReport
from fastgc._words import Precision, Samples, StencilName, Tolerance, Workers
from fastgc.torch._flat import as_reals
from fastgc.torch._in_place import without_hooks
from fastgc.torch._nested import out_of_reach
from fastgc.torch._operations import operations_of
from fastgc.torch._points import KNOWN, AnalyticGradient, Finer, Opener, held
from fastgc.torch._subject import Arguments, detached, is_inexact, refused_inputs, subject_of
from fastgc.torch._tangent import module_tangents

_OUT_OF_REACH = "inside objects other than lists, tuples, mappings and dataclasses"
_ABOUT_DTYPES = "dtype|Double|float64"  # matches PyTorch's messages about tensors of two dtypes


def check_module(
    module: torch.nn.Module,
    inputs: object,
    loss: Callable[..., torch.Tensor] | None = None,
    *,
    kwargs: Mapping[str, object] | None = None,
    tensors: str | Sequence[str] | None = None,
    samples: Samples = DEFAULT_SAMPLES,
    probes: int = 3,
    stencil: StencilName = "central",
    step: float | None = None,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    precision: Precision = "double",
    workers: Workers = 1,
    points: int = 1,
    bounds: object = None,
    symmetric: str | Sequence[str] | None = None,
    crosscheck: bool = False,
    time_budget: float | None = None,
    seeded: bool = False,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    previous: Mapping[str, torch.Tensor] | None = None,
    operations: bool = True,
) -> GradientReport:
    """Check the backward pass of a module: the gradient of every parameter and of every floating input.

    The check works on a deep copy, in the mode (train or eval) of the module. The module, its gradients and its buffers
    stay as they are; so do PyTorch's random state and default dtype. Buffers that a call changes (the running
    statistics of a batch normalisation) are restored before every call. With ``precision="native"``, parameters of more
    than 64 MiB in all are not copied: they are displaced where they are, and restored to the bit.

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
    kwargs : dict, optional
        Keyword arguments besides positional inputs; their tensors have the names ``inputs[key]``, ...
    tensors, samples, probes, stencil, step, rtol, atol, points, bounds, symmetric, time_budget, progress, checkpoint
        As in `fastgc.check_gradients`: parameters and checked inputs are its ``params``. The gradient at random points
        is that of the module's own backward there. ``stencil="complex_step"`` needs a module that computes with complex
        numbers.
    precision : {"double", "native"}
        Check a copy in float64, or one in the module's own dtypes. In double precision, new tensors that the module
        makes in its calls are float64 too where they would have the default dtype. In its own dtypes, what round-off
        leaves undecided may be confirmed by the forward pass of a copy in double precision, and a note says so.
    workers : int, Executor, or function like map
        Processes that evaluate the loss, each with its own copy of the module: see `fastgc.check_gradients`. The
        module, its inputs and ``loss`` are pickled once. PyTorch computes in one thread in each; results do not depend
        on what runs them, and are those of one process whose PyTorch has one thread (`torch.set_num_threads`). A module
        that is not deterministic is evaluated in this process alone.
    seeded : bool
        Seed PyTorch's random numbers before every call, so that dropout leaves out the same entries each time. Calls
        of modules that draw random numbers wait for one another, since PyTorch has one random state.
    crosscheck : bool
        Also show ``scipy.optimize.check_grad`` for at most 32 of the entries.
    seed : int
        The seed of the sampled entries, the directions, the random points, the weights of the outputs and, with
        ``seeded``, of PyTorch's random numbers.
    previous : mapping of name to tensor, optional
        Copies of parameters of an earlier moment, such as a copied ``state_dict()``: see `fastgc.check_gradients`.
        What it does not name is the same there.
    operations : bool
        Where the check fails: test every submodule and every `torch.autograd.Function` by itself, to name the wrong
        ones. It takes a forward and a backward pass, and a few evaluations of each.

    Returns
    -------
    GradientReport
        ``engine`` names the device, and "vmap" where `torch.func.vmap` computed values in batches. The notes name every
        tensor that was left out. Complex tensors are pairs of real numbers, in a last axis of 2.

    Notes
    -----
    What differences leave undecided (in noise, in single precision) is decided by the exact tangent of custom
    Functions: their ``forward`` run in forward mode, in double precision and apart from their ``backward``. A note says
    so. It needs a forward pass that PyTorch can follow, and parameters that were copied.

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
    options = CheckOptions(
        tensors=tensors, samples=samples, probes=probes, stencil=stencil, step=step, rtol=rtol, atol=atol,
        precision=precision, workers=workers, points=points, bounds=bounds, symmetric=symmetric, crosscheck=crosscheck,
        time_budget=time_budget, seed=seed, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    return _check(module, _arguments(inputs, kwargs), loss, options, seeded, previous, operations)


def assert_module(
    module: torch.nn.Module,
    inputs: object,
    loss: Callable[..., torch.Tensor] | None = None,
    *,
    kwargs: Mapping[str, object] | None = None,
    tensors: str | Sequence[str] | None = None,
    samples: Samples = DEFAULT_SAMPLES,
    probes: int = 3,
    stencil: StencilName = "central",
    step: float | None = None,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    precision: Precision = "double",
    workers: Workers = 1,
    points: int = 1,
    bounds: object = None,
    symmetric: str | Sequence[str] | None = None,
    crosscheck: bool = False,
    time_budget: float | None = None,
    seeded: bool = False,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    previous: Mapping[str, torch.Tensor] | None = None,
    operations: bool = True,
    allow_undecided: bool = False,
) -> GradientReport:
    """Check a module as `fastgc.torch.check_module` does, and raise unless it passes.

    Parameters
    ----------
    module, inputs, loss, kwargs, tensors, samples, probes, stencil, step, rtol, atol, precision
        As in `fastgc.torch.check_module`.
    workers, points, bounds, symmetric, crosscheck, time_budget, seeded, seed, progress, checkpoint, previous
        As in `fastgc.torch.check_module`.
    operations
        As in `fastgc.torch.check_module`.
    allow_undecided : bool
        Accept a report that is undecided.

    Returns
    -------
    GradientReport

    Raises
    ------
    fastgc.GradientMismatch
        An AssertionError whose text is the report and whose ``report`` attribute holds it.
    TypeError, ValueError
        As `fastgc.torch.check_module`.

    Examples
    --------
    >>> import torch, fastgc
    >>> fastgc.torch.assert_module(torch.nn.Linear(3, 2), torch.ones(5, 3)).verdict
    'pass'
    """
    __tracebackhide__ = True
    options = CheckOptions(
        tensors=tensors, samples=samples, probes=probes, stencil=stencil, step=step, rtol=rtol, atol=atol,
        precision=precision, workers=workers, points=points, bounds=bounds, symmetric=symmetric, crosscheck=crosscheck,
        time_budget=time_budget, seed=seed, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    flags(allow_undecided=allow_undecided)
    report = _check(module, _arguments(inputs, kwargs), loss, options, seeded, previous, operations)
    return passed_or_raise(report, allow_undecided)


def _check(
    module: torch.nn.Module,
    arguments: Arguments,
    loss: Callable[..., object] | None,
    options: CheckOptions,
    seeded: bool,
    previous: object,
    operations: bool,
) -> GradientReport:
    begin = time.perf_counter()
    if loss is not None:
        refuse_uncallable("loss", loss)
    flags(seeded=seeded, operations=operations)
    originals, left_out = _originals(module, arguments)
    if options.precision == "native":
        _refuse_unknown_dtypes(originals)
    options = options.with_bfloat16({name: each.dtype == torch.bfloat16 for name, each in originals.items()})
    parameters = module.parameters()
    with torch.inference_mode(False), _noted_as_double(options.precision), without_hooks(parameters):
        subject = subject_of(module, arguments, loss, originals, options, seeded)
        refused = refused_inputs(subject)
        if refused:
            originals = {name: tensor for name, tensor in originals.items() if name not in refused}
            left_out.append(f"not checked, since PyTorch's function has no derivative for it: {listed(refused)}")
            subject = subject_of(module, arguments, loss, originals, options, seeded)
        left_out += subject.notes
        reals = [as_reals(tensor) for tensor in subject.tensors]
        leaves = [held(each) for each in reals]
        layout = named_layout(subject.names, [leaf.shape for leaf in leaves], [leaf.dtype for leaf in leaves])
        opener = Opener(subject, [as_reals(tensor) for tensor in originals.values()], seeded, tuple(left_out))
        open_with: OpenEvaluator = opener
        if elsewhere(options.workers):
            from fastgc.torch._workers import SentModule, SharingOpener  # needs packages that few checks need

            there, names = replace(options, workers=1), tuple(originals)
            sent = partial(SentModule, module, arguments, loss, names, there, seeded)
            open_with = SharingOpener(opener, options.workers, sent)
        coarse = options.precision == "native"
        raised = replace(options, precision="double")
        in_double = (
            partial(subject_of, module, arguments, loss, originals, raised, seeded) if coarse else lambda: subject
        )
        finer = Finer(in_double) if coarse and not subject.in_place else None
        exact = None if subject.in_place else partial(module_tangents, in_double)
        callers = CallersLoss(
            subject, (), layout, leaves, Execution("python"), open_with=open_with, copied=False, finer=finer,
            exact=exact,
        )  # fmt: skip
        earlier = None if previous is None else _earlier(layout, leaves, previous, module, options.precision)
        gradient = AnalyticGradient(subject)
        report = check_loss(options.applied_to(callers), gradient, options, earlier, begin)
        if operations:
            report = with_operations(report, lambda: operations_of(subject, options.seed), "which operation")
    return replace(report, notes=(*report.notes, *gradient.notes))


def _arguments(inputs: object, kwargs: Mapping[str, object] | None) -> Arguments:
    if not isinstance(inputs, dict):
        return Arguments(inputs if isinstance(inputs, tuple) else (inputs,), kwargs or {})
    if kwargs is not None:
        raise TypeError("inputs is a dict of keyword arguments; with kwargs, it must be a tuple of positional ones")
    return Arguments((), inputs)


def _earlier(
    layout: ParameterLayout, leaves: Sequence[Array], previous: object, module: torch.nn.Module, precision: str
) -> dict[str, Array]:
    """The parameters of an earlier moment, by their names; those of now where there are none."""
    if not isinstance(previous, Mapping):
        raise TypeError(f"previous is a {type(previous).__name__}; it must be a mapping of name to tensor")
    unknown = [name for name in previous if name not in {*layout.names, *module.state_dict()}]
    if unknown:
        raise ValueError(f"previous has {listed(unknown)}, which the module has not")
    now = dict(zip(layout.names, leaves, strict=True))
    then = {name: previous[name] for name in layout.names if name in previous}
    wrong = [name for name, each in then.items() if not isinstance(each, torch.Tensor)]
    if wrong:
        raise TypeError(f"previous[{wrong[0]!r}] is a {type(then[wrong[0]]).__name__}; it must be a tensor")
    return {**now, **{name: held(as_reals(detached(t, precision == "double"))) for name, t in then.items()}}


# --- what is checked ---


def _originals(module: object, arguments: Arguments) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The parameters and inputs that can be checked, by name, and notes on the others."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is a {type(module).__name__}; it must be a torch.nn.Module")
    if any(isinstance(each, torch.jit.ScriptModule) for each in module.modules()):
        raise TypeError("module holds a ScriptModule, which cannot be checked; pass the module it was scripted from")
    parameters = dict(module.named_parameters())
    _refuse_numberless({**parameters, **dict(module.named_buffers()), **dict(arguments.tensors())})
    _refuse_parameters(parameters)
    chosen, left_out = {}, defaultdict(list)
    for name, tensor in (*parameters.items(), *arguments.tensors()):
        reason = _reason_to_leave_out(tensor, name in parameters)
        if reason:
            left_out[reason].append(name)
        else:
            chosen[name] = tensor
    left_out[_OUT_OF_REACH] += dict.fromkeys(
        name
        for given in (arguments.args, arguments.kwargs)
        for name, tensor in out_of_reach("inputs", given)
        if is_inexact(tensor)
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
    if not is_inexact(tensor):
        return "of integers or booleans"
    if is_parameter and not tensor.requires_grad:
        return "frozen (requires_grad=False)"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"not dense ({'nested' if tensor.is_nested else tensor.layout})"
    return "" if torch.isfinite(tensor.detach()).all() else "not finite everywhere"


def _refuse_parameters(parameters: Mapping[str, torch.Tensor]) -> None:
    lazy = [name for name, tensor in parameters.items() if torch.nn.parameter.is_lazy(tensor)]
    if lazy:
        raise ValueError(f"parameters {listed(lazy)} have no shape yet; call the module once before it is checked")
    dense = {name: tensor for name, tensor in parameters.items() if tensor.layout == torch.strided}
    endless = [name for name, tensor in dense.items() if not torch.isfinite(tensor.detach()).all()]
    if endless:
        raise ValueError(f"parameters {listed(endless)} are not finite; a derivative exists only at finite values")


def _refuse_numberless(tensors: Mapping[str, torch.Tensor]) -> None:
    numberless = [name for name, tensor in tensors.items() if tensor.is_meta]
    if numberless:
        raise ValueError(
            f"{listed(numberless)} {plural(len(numberless), 'is', 'are')} on the meta device, where tensors hold no "
            'numbers; use module.to_empty(device="cpu") and initialise it, and pass inputs that hold numbers'
        )


def _refuse_unknown_dtypes(tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype.to_real() not in KNOWN:
            raise TypeError(f'{name!r} is of {tensor.dtype}, which NumPy does not know; use precision="double"')


def _noted_as_double(precision: str) -> contextlib.AbstractContextManager[None]:
    """Add to an exception about dtypes that the module runs in float64."""
    if precision == "native":
        return contextlib.nullcontext()
    note = 'fastgc evaluates a copy of the module in float64; precision="native" keeps its own dtypes'
    return noted(RuntimeError, _ABOUT_DTYPES, note)
