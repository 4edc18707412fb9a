"""The call of torch.autograd.gradcheck, decided by derivatives that are measured with their uncertainty."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd import forward_ad
from torch.autograd.gradcheck import GradcheckError

from fastgc._compare import FAIL, UNDECIDED
from fastgc._field import Field
from fastgc._grid import Checked, Grid, open_grid
from fastgc._jacobian import find, plan
from fastgc._jacobian_report import About, JacobianReport, details, jacobian_report
from fastgc._layout import flatten_parameters
from fastgc._operator import Operator, matrix_operator, vjp_operator
from fastgc._progress import Progress

Floats = NDArray[np.float64]
Tensors = Sequence[torch.Tensor]

_REAL_DTYPES = (torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128)
_LINEARITY = {True: 1e-6, False: 1e-2}  # by how much a backward may fail to be linear, in double precision and others
_DRAWN, _PROJECTIONS = 8, 8  # in fast mode: inputs drawn at random, and random directions
_LISTED = 10  # pairs of an output and an input


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
    allow_undecided: bool = False,
) -> bool:
    """Check the gradients that PyTorch computes for a function, in place of ``torch.autograd.gradcheck``.

    Parameters
    ----------
    func : callable
        Of the inputs; returns a tensor or a tuple of tensors, those that require grad being checked.
    inputs : tensor or tuple
        Tensors that require grad are checked; others, and what is no tensor, are passed through. Complex tensors are
        checked as pairs of real numbers. All are left as they are.
    eps : float
        The step of the first look (for inputs in double precision); entries in doubt are settled at many steps.
    atol, rtol : float
        An entry of a Jacobian agrees where ``|a - n| <= atol + rtol * max(|a|, |n|)``, beyond its uncertainty.
    raise_exception : bool
        Raise GradcheckError, or return False.
    nondet_tol : float
        By how much two runs of the same backward may differ.
    check_undefined_grad : bool
        Also whether the backward takes an undefined gradient (None) for zero.
    check_grad_dtypes : bool
        Also whether every gradient has the dtype of its input.
    check_batched_grad, check_batched_forward_grad, masked
        Not implemented: True is refused.
    check_forward_ad, check_backward_ad : bool
        Which of the two derivatives is checked: Jacobian-vector products by forward mode, gradients by backward.
    fast_mode : bool
        Some inputs drawn at random one by one, all by random projections; else all.
    allow_undecided : bool
        Let pass what finite differences cannot decide; else that is a failure, its message begins with "undecided:".

    Returns
    -------
    bool
        Whether everything agrees.

    Raises
    ------
    torch.autograd.gradcheck.GradcheckError
        With the index, both values, the uncertainty and, where they are small, both Jacobians.
    ValueError, RuntimeError, NotImplementedError
        For inputs of which none requires grad, that overlap, or that are not supported; for options that are not.
    """
    _refuse_options(check_batched_grad=check_batched_grad, check_batched_forward_grad=check_batched_forward_grad,
                    masked=masked)  # fmt: skip
    if not (check_forward_ad or check_backward_ad):
        raise AssertionError("check_forward_ad and check_backward_ad are both False: nothing would be checked")
    call = _open_call(func, inputs)
    tolerances = _Tolerances(eps if call.in_double else None, atol, rtol, nondet_tol, fast_mode, allow_undecided)
    try:
        if check_forward_ad:
            _compare(call, _forward_operator(call), tolerances, " (forward mode)")
        if check_backward_ad:
            _compare(call, _backward_operator(call, tolerances, check_grad_dtypes), tolerances, "")
            _check_linearity(call)
            if check_undefined_grad:
                _check_undefined(call)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
    allow_undecided: bool = False,
) -> bool:
    """Check the second derivatives that PyTorch computes, in place of ``torch.autograd.gradgradcheck``.

    Parameters
    ----------
    func, inputs
        As in `gradcheck`.
    grad_outputs : tensor or tuple of tensors, optional
        The gradients with respect to the outputs; drawn at random from [-1, 1] by default, the same in every run.
    gen_non_contig_grad_outputs : bool
        Draw them into memory that is not contiguous.
    check_fwd_over_rev, check_rev_over_rev : bool
        Forward or backward mode over the backward.
    eps, atol, rtol, raise_exception, nondet_tol, check_undefined_grad, check_grad_dtypes, check_batched_grad
        As in `gradcheck`.
    fast_mode, masked, allow_undecided
        As in `gradcheck`.

    Returns
    -------
    bool
        Whether everything agrees.

    Raises
    ------
    torch.autograd.gradcheck.GradcheckError, ValueError, RuntimeError, NotImplementedError
        As in `gradcheck`.
    """
    given = _as_tuple(inputs)
    wanted = [_requires_grad(each) for each in given]
    if grad_outputs is None:
        grad_outputs = _random_grads(_differentiable(func(*given)), gen_non_contig_grad_outputs)
    weights = _as_tuple(grad_outputs)

    def gradients(*arguments: Any) -> tuple[torch.Tensor, ...]:
        ahead, behind = arguments[: len(given)], arguments[len(given) :]
        outputs = _differentiable(func(*ahead))
        checked = [each for each, want in zip(ahead, wanted, strict=True) if want]
        found = torch.autograd.grad(outputs, checked, behind, create_graph=True, allow_unused=True)
        return tuple(each for each in found if each is not None)

    return gradcheck(
        gradients, (*given, *weights), eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception,
        nondet_tol=nondet_tol, check_undefined_grad=check_undefined_grad, check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad, check_forward_ad=check_fwd_over_rev,
        check_backward_ad=check_rev_over_rev, fast_mode=fast_mode, masked=masked, allow_undecided=allow_undecided,
    )  # fmt: skip


# --- the call ---


@dataclass(frozen=True)
class _Tolerances:
    step: float | None
    atol: float
    rtol: float
    nondeterminism: float
    fast: bool
    allow_undecided: bool


@dataclass(frozen=True)
class _Call:
    """A function at its inputs.

    Attributes
    ----------
    checked : the numbers of the inputs that are checked
    compared : the numbers of the outputs that are compared: those that require grad, or all real and complex ones
    field : the compared outputs as a function of the checked inputs, both flat, complex numbers as pairs
    """

    func: Callable[..., Any]
    inputs: tuple[Any, ...]
    checked: tuple[int, ...]
    compared: tuple[int, ...]
    field: Field

    @property
    def leaves(self) -> Tensors:
        """The inputs that are checked."""
        return [self.inputs[k] for k in self.checked]

    @property
    def in_double(self) -> bool:
        """Whether they are in double precision."""
        return all(leaf.dtype in (torch.float64, torch.complex128) for leaf in self.leaves)

    def outputs(self, *arguments: Any) -> Tensors:
        """The compared outputs, at the inputs or at other ones."""
        found = _tensors(self.func(*(arguments or self.inputs)))
        return [found[k] for k in self.compared]


def _open_call(func: Callable[..., Any], inputs: Any) -> _Call:
    given = _as_tuple(inputs)
    checked = tuple(k for k, each in enumerate(given) if _requires_grad(each))
    if not checked:
        raise ValueError("inputs hold no tensor with requires_grad=True: nothing would be checked")
    for k in checked:
        _refuse_input(k, given[k])
    outputs = _tensors(func(*given))
    _refuse_outputs(outputs)
    compared = tuple(k for k, each in enumerate(outputs) if each.requires_grad) or tuple(
        k for k, each in enumerate(outputs) if each.is_floating_point() or each.is_complex()
    )
    layout, leaves = flatten_parameters([_flat(given[k]) for k in checked])
    sizes = [_real_size(outputs[k]) for k in compared]
    return _Call(
        func, given, checked, compared, Field(_values(func, given, checked, compared, sizes), layout, leaves, 0)
    )


def _values(
    func: Callable[..., Any], inputs: tuple[Any, ...], checked: Sequence[int], compared: Sequence[int], sizes: list[int]
) -> Callable[[Floats], Floats]:
    ranges = _ranges([inputs[k] for k in checked])

    def values(x: Floats) -> Floats:
        moved = list(inputs)
        for k, numbers in zip(checked, ranges, strict=True):
            moved[k] = _like(inputs[k], x[numbers.start : numbers.stop]).requires_grad_()
        try:
            found = _tensors(func(*moved))
        except torch.linalg.LinAlgError:  # a singular matrix beside the point, say
            return np.full(sum(sizes), np.nan)
        flat = [_flat(found[k]).astype(np.float64) for k in compared]
        if [each.size for each in flat] != sizes:
            raise ValueError(
                f"func returned {[each.size for each in flat]} numbers beside its inputs, and {sizes} there"
            )
        return np.concatenate([np.empty(0), *flat])

    return values


# --- refusals ---


def _refuse_options(**options: Any) -> None:
    asked = [name for name, value in options.items() if value]
    if asked:
        raise NotImplementedError(f"{', '.join(f'{name}=True' for name in asked)} is not implemented by fastgc")


def _refuse_input(number: int, tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided:
        raise NotImplementedError(f"input {number} has layout {tensor.layout}; fastgc checks dense inputs only")
    if tensor.dtype not in _REAL_DTYPES:
        raise NotImplementedError(
            f"input {number} is of dtype {tensor.dtype}; fastgc checks float16 to float64 and complex"
        )
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise RuntimeError(
            f"input {number} has a dimension with stride 0: its entries share memory; call .contiguous() on it first"
        )
    if tensor.dtype not in (torch.float64, torch.complex128):
        warnings.warn(
            f"Input #{number} requires gradient and is of dtype {tensor.dtype}: round-off may leave it undecided; use "
            "double precision",
            stacklevel=4,
        )


def _refuse_outputs(outputs: Tensors) -> None:
    for k, each in enumerate(outputs):
        if each.layout != torch.strided:
            raise ValueError(f"output {k} has layout {each.layout}; call to_dense() on it in func")


# --- tensors and flat arrays ---


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _tensors(value: Any) -> tuple[torch.Tensor, ...]:
    found = _as_tuple(value)
    wrong = [type(each).__name__ for each in found if not isinstance(each, torch.Tensor)]
    if wrong:
        raise TypeError(f"func returned {wrong[0]}; it must return a tensor or a tuple of tensors")
    return found


def _differentiable(value: Any) -> tuple[torch.Tensor, ...]:
    return tuple(each for each in _tensors(value) if each.requires_grad)


def _requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _real_size(tensor: torch.Tensor) -> int:
    return int(tensor.numel()) * (2 if tensor.is_complex() else 1)


def _real_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return (*tensor.shape, 2) if tensor.is_complex() else tuple(tensor.shape)


def _flat(tensor: torch.Tensor) -> NDArray[Any]:
    """A flat copy of the numbers, complex ones as pairs."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    real = torch.view_as_real(plain) if plain.is_complex() else plain
    return np.array(real.cpu().numpy()).reshape(-1)


def _like(tensor: torch.Tensor, numbers: Floats) -> torch.Tensor:
    """A new tensor of these numbers, otherwise like the given one."""
    flat = torch.from_numpy(np.array(numbers, np.float64)).reshape(_real_shape(tensor))
    return torch.empty_like(tensor, requires_grad=False).copy_(
        torch.view_as_complex(flat) if tensor.is_complex() else flat
    )


def _joined(gradients: Sequence[torch.Tensor | None], like: Tensors) -> Floats:
    """Gradients as one flat array; None stands for zeros."""
    parts = [
        np.zeros(_real_size(leaf)) if each is None else _flat(each).astype(np.float64)
        for each, leaf in zip(gradients, like, strict=True)
    ]
    return np.concatenate([np.empty(0), *parts])


def _split(vector: Floats, like: Tensors) -> list[torch.Tensor]:
    ranges = zip(like, _ranges(like), strict=True)
    return [_like(each.detach(), vector[numbers.start : numbers.stop]) for each, numbers in ranges]


def _random_grads(outputs: Tensors, apart: bool) -> tuple[torch.Tensor, ...]:
    """Random gradients in [-1, 1]; ``apart``: every second number of a larger tensor."""
    generator = np.random.default_rng(0)
    drawn = [_like(each.detach(), generator.uniform(-1, 1, _real_size(each))) for each in outputs]
    return tuple((torch.stack([each, each], -1)[..., 0] if apart else each).requires_grad_() for each in drawn)


# --- the analytic Jacobian ---


def _forward_operator(call: _Call) -> Operator:
    """By forward mode, a column for each number of the inputs."""
    columns = [_pushed(call, unit) for unit in np.eye(call.field.point.size)]
    return matrix_operator(np.stack(columns, axis=1) if columns else np.empty((call.field.base.size, 0)))


def _pushed(call: _Call, tangent: Floats) -> Floats:
    """J u by forward mode."""
    arguments = list(call.inputs)
    with forward_ad.dual_level():
        for k, part in zip(call.checked, _split(tangent, call.leaves), strict=True):
            arguments[k] = forward_ad.make_dual(call.inputs[k].detach().clone().requires_grad_(), part)
        outputs = call.outputs(*arguments)
        return _joined([forward_ad.unpack_dual(each).tangent for each in outputs], outputs)


def _backward_operator(call: _Call, tolerances: _Tolerances, dtypes: bool) -> Operator:
    """By backward mode, a row for each number of the outputs, twice: the backward must do the same again."""
    m, n = call.field.base.size, call.field.point.size
    outputs = call.outputs()
    if not any(each.requires_grad for each in outputs):
        return matrix_operator(np.zeros((m, n)))

    def pulled(v: Floats) -> Floats:
        return _pulled(call, outputs, v, dtypes)

    if tolerances.fast:
        return vjp_operator(pulled, m, n, np.dtype(np.float64))
    first, again = (np.array([pulled(unit) for unit in np.eye(m)]).reshape(m, n) for _ in range(2))
    _refuse_nondeterminism(first, again, tolerances.nondeterminism)
    return matrix_operator(first)


def _pulled(call: _Call, outputs: Tensors, v: Floats, dtypes: bool = False) -> Floats:
    """v^T J by backward mode."""
    gradients = torch.autograd.grad(outputs, call.leaves, _split(v, outputs), retain_graph=True, allow_unused=True)
    _refuse_gradients(call, gradients, dtypes)
    return _joined(gradients, call.leaves)


def _refuse_gradients(call: _Call, gradients: Sequence[torch.Tensor | None], dtypes: bool) -> None:
    for k, gradient in zip(call.checked, gradients, strict=True):
        leaf = call.inputs[k]
        if gradient is not None and gradient.shape != leaf.shape:
            raise GradcheckError(
                f"the gradient of input {k} has shape {tuple(gradient.shape)}; the input {tuple(leaf.shape)}"
            )
        if dtypes and gradient is not None and gradient.dtype != leaf.dtype:
            raise GradcheckError(f"the gradient of input {k} is of dtype {gradient.dtype}; the input {leaf.dtype}")


def _refuse_nondeterminism(first: Floats, again: Floats, allowed: float) -> None:
    off = float(np.nan_to_num(np.abs(first - again), nan=0.0).max(initial=0.0))
    if off > allowed:
        raise GradcheckError(
            f"Backward is not reentrant: run twice on the same input and grad_output it gives gradients that differ by "
            f"{off:.1e}; nondet_tol is {allowed}"
        )


# --- the comparison ---


def _compare(call: _Call, operator: Operator, tolerances: _Tolerances, mode: str) -> None:
    if not operator.shape[0] * operator.shape[1]:
        return
    grid = open_grid(call.field, operator, tolerances.step, tolerances.rtol, tolerances.atol)
    groups, complete = plan(grid, None, _DRAWN if tolerances.fast else "all", 0)
    with Progress(0, shown=False) as bar:
        checked, _ = find(grid, groups, 0 if complete else _PROJECTIONS, 0, bar)
    verdict = checked.judgement.worst
    if verdict == FAIL or (verdict == UNDECIDED and not tolerances.allow_undecided):
        raise GradcheckError(_message(call, grid, checked, verdict, mode))


def _message(call: _Call, grid: Grid, checked: Checked, verdict: str, mode: str) -> str:
    """The first pair of an output and an input that has this verdict, in full, and which others have it."""
    blocks = [
        (f"output {call.compared[k]} with respect to input {call.checked[j]}", block)
        for k, rows in enumerate(_ranges(call.outputs()))
        for j, columns in enumerate(_ranges(call.leaves))
        for block in [_block(call, grid, checked, (k, rows), (j, columns))]
        if block.verdict == verdict
    ]
    (name, first), others = blocks[0], [name for name, _ in blocks[1:]]
    head = "Jacobian mismatch for" if verdict == FAIL else "undecided: the Jacobian of"
    lines = [f"{head} {name}{mode}: {first.reason}", *details(first)]
    if any(each.is_complex() for each in (*call.leaves, *call.outputs())):
        lines.append("(complex numbers as pairs: the last index is 0 for the real and 1 for the imaginary part)")
    return "\n".join([*lines, *([f"so too {', '.join(others[:_LISTED])}"] if others else [])])


def _ranges(tensors: Tensors) -> list[range]:
    ends = np.cumsum([0, *(_real_size(each) for each in tensors)]).tolist()
    return [range(start, end) for start, end in pairwise(ends)]


def _block(
    call: _Call, grid: Grid, checked: Checked, output: tuple[int, range], leaf: tuple[int, range]
) -> JacobianReport:
    """The report on the Jacobian of one output with respect to one input."""
    (k, rows), (j, columns) = output, leaf
    i, at = grid.places(checked.estimates.positions)
    mine = np.flatnonzero((i >= rows.start) & (i < rows.stop) & (at >= columns.start) & (at < columns.stop))
    part = checked.part(mine)
    local = (i[mine] - rows.start) * len(columns) + at[mine] - columns.start
    part = replace(part, estimates=replace(part.estimates, positions=local))
    shapes = _real_shape(call.outputs()[k]), _real_shape(call.leaves[j])
    return jacobian_report(part, None, About(*shapes, call.field.evaluations, 0.0, 0, ()))


# --- what else a backward must do ---


def _check_linearity(call: _Call) -> None:
    """A backward is linear in grad_output: zero for zero, and the sum for a sum."""
    outputs = call.outputs()
    if not any(each.requires_grad for each in outputs):
        return
    generator = np.random.default_rng(0)
    v, w = generator.standard_normal((2, call.field.base.size))
    of_zero, of_v, of_w, of_both = (_pulled(call, outputs, each) for each in (0 * v, v, w, v + w))
    if of_zero.any():
        raise GradcheckError(
            f"backward is not multiplied by grad_output: for zeros it gives up to {np.abs(of_zero).max():.3g}"
        )
    allowed = _LINEARITY[call.in_double] * (np.abs(of_v) + np.abs(of_w) + np.abs(of_both)).max(initial=0.0)
    off = float(np.abs(of_v + of_w - of_both).max(initial=0.0))
    if off > allowed:
        raise GradcheckError(f"backward is not linear in grad_output: the gradients of a sum are off by {off:.3g}")


class _Undefined(torch.autograd.Function):
    """The identity, whose gradient is None."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> None:
        return None


def _check_undefined(call: _Call) -> None:
    """A backward must take None for zero: for all outputs, and for each of several."""
    count = len(call.compared)
    for chosen in [range(count), *([[k] for k in range(count)] if count > 1 else [])]:
        outputs = [_Undefined.apply(each) if k in chosen else each for k, each in enumerate(call.outputs())]
        if not all(each.requires_grad for each in outputs):
            return
        zeros = [torch.zeros_like(each) for each in outputs]
        try:
            gradients = torch.autograd.grad(outputs, call.leaves, zeros, allow_unused=True)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise GradcheckError(
                "backward does not take an undefined grad_output (None) for zero; handle it, or use "
                f"check_undefined_grad=False ({error})"
            ) from error
        if _joined(gradients, call.leaves).any():
            raise GradcheckError(
                "backward gives gradients that are not zero where grad_output is undefined (None) or zero"
            )
