"""The drop-in for torch.autograd.gradcheck, which compares derivatives with their measured uncertainty."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch._vmap_internals import _vmap  # which PyTorch's own check uses: `torch.func.vmap` has no rule for make_dual
from torch.autograd import forward_ad
from torch.autograd.gradcheck import GradcheckError

from fastgc._derivatives.displaced import displaced_leaves
from fastgc._evaluation.evaluator import Ray
from fastgc._gradient.noisy import TRIED, all_hidden
from fastgc._jacobian.columns import plan
from fastgc._jacobian.entries import Checked, JacobianAlong, JacobianAtPoint, open_jacobian
from fastgc._jacobian.function import VectorFunction
from fastgc._jacobian.operator import Operator, matrix_operator, vjp_operator
from fastgc._jacobian.points import find
from fastgc._jacobian.projections import Projections
from fastgc._jacobian.report import About, JacobianReport, details, jacobian_report
from fastgc._parameters.arrays import Floats
from fastgc._parameters.layout import flatten_parameters
from fastgc._parameters.streams import stream
from fastgc._progress import Progress
from fastgc._verdicts.judgement import FAIL, UNDECIDED
from fastgc._words import Columns
from fastgc.torch._backward import Backward, check_batched, check_linearity, check_undefined, refuse_other_batch
from fastgc.torch._evaluator import footprint
from fastgc.torch._flat import Packing, Tensors, flat
from fastgc.torch._memory import placed
from fastgc.torch._nested import out_of_reach, tensors_in
from fastgc.torch._outputs import Outputs, as_tuple, tensors
from fastgc.torch._surroundings import forward_mode

_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128)
# In fast mode: inputs checked one by one, and random projections of the whole Jacobian. One projection misses an error
# above twice its uncertainty with a probability of 3/4 at most (see `fastgc._jacobian.projections`), eight with 1/10.
_FAST_INPUTS, _FAST_PROJECTIONS = 8, 8
_NOISY = "func is not deterministic: a second call gave other outputs (dropout? random numbers? seed them in func)"
_LISTED_PAIRS = 10  # of an output and an input, in a message: as many as one line holds


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
        ``func(*inputs)`` returns a tensor or a tuple of tensors; those that require grad are checked.
    inputs : tensor or tuple
        Tensors that require grad are checked; all other arguments are passed on. Complex tensors are checked as pairs
        of real numbers. The tensors stay as they are: func receives copies with the same strides and offsets.
    eps : float
        The first step, for inputs in double precision; entries in doubt are measured at many steps.
    atol, rtol : float
        An entry of a Jacobian agrees if ``|a - n| <= atol + rtol * max(|a|, |n|)``, up to its uncertainty. An entry
        whose difference and uncertainty are both within atol is never undecided.
    raise_exception : bool
        Raise GradcheckError, or return False.
    nondet_tol : float
        By how much two runs of the same backward pass may differ, besides round-off.
    check_undefined_grad : bool
        Also check that the backward pass takes an undefined gradient (None) for zero.
    check_grad_dtypes : bool
        Also check that every gradient has the dtype of its input.
    check_batched_grad, check_batched_forward_grad : bool
        Also check that the backward pass, or forward mode, gives the same in a batch, by vmap, as in single calls.
    masked : bool, optional
        Has no effect: it is of sparse inputs, which are refused.
    check_forward_ad, check_backward_ad : bool
        Check Jacobian-vector products by forward mode; check gradients by backward mode.
    fast_mode : bool
        Check a few random inputs one by one, and all of them by random projections; otherwise all one by one.
    allow_undecided : bool
        Accept what finite differences cannot decide. Otherwise it fails, with a message that begins with "undecided:".

    Returns
    -------
    bool
        Whether everything agrees.

    Raises
    ------
    torch.autograd.gradcheck.GradcheckError
        With the index, both values, the uncertainty and, if they are small, both Jacobians.
    ValueError, RuntimeError, NotImplementedError
        If no input requires grad; for inputs that overlap, that func changes in place, or that are not supported (as
        sparse ones are).

    Examples
    --------
    >>> import torch, fastgc
    >>> x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    >>> fastgc.torch.gradcheck(torch.relu, x)  # at the kink too, where torch.autograd.gradcheck fails
    True
    >>> class Square(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x**2
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved_tensors
    ...         return 3 * x * g
    >>> fastgc.torch.gradcheck(Square.apply, x, raise_exception=False)
    False
    """
    __tracebackhide__ = True
    if not (check_forward_ad or check_backward_ad):
        raise AssertionError("check_forward_ad and check_backward_ad are both False: nothing would be checked")
    if check_batched_forward_grad and not check_forward_ad:
        raise AssertionError("check_batched_forward_grad=True needs check_forward_ad=True")
    if check_batched_grad and not check_backward_ad:
        raise AssertionError("check_batched_grad=True needs check_backward_ad=True")
    given = as_tuple(inputs)
    checked = _numbers_checked(given)
    with _watched({k: given[k] for k in checked}) as unchanged:
        call = _open_call(func, given, checked, check_grad_dtypes, unchanged)
        criteria = _Criteria(eps if call.in_double else None, atol, rtol, nondet_tol, fast_mode, allow_undecided,
                             check_forward_ad, check_backward_ad, check_undefined_grad, check_batched_grad,
                             check_batched_forward_grad)  # fmt: skip
        error = _failure(call, criteria)
        if error and call.batched:  # nothing is held against a function but what plain calls show
            error = _failure(call.one_by_one(), criteria)
        unchanged()
    error = error or (None if allow_undecided else _left_out(given))
    if error and raise_exception:
        raise error.with_traceback(None)  # a failing test begins with the message, not with where it was put together
    return error is None


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
        The gradients with respect to the outputs; by default random numbers from [-1, 1], the same in every run.
    gen_non_contig_grad_outputs : bool
        Make these random gradients not contiguous.
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

    Examples
    --------
    >>> import torch, fastgc
    >>> x = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    >>> fastgc.torch.gradgradcheck(torch.tanh, x)
    True
    """
    __tracebackhide__ = True
    given = as_tuple(inputs)
    wanted = [_requires_grad(each) for each in given]
    if grad_outputs is None:
        grad_outputs = _random_grads(_differentiable(func(*given)), gen_non_contig_grad_outputs)
    weights = as_tuple(grad_outputs)

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
class _Criteria:
    """The options that say what is checked, and how closely."""

    step: float | None
    atol: float
    rtol: float
    nondeterminism: float
    fast: bool
    allow_undecided: bool
    forward: bool
    backward: bool
    undefined: bool
    batched_backward: bool
    batched_forward: bool


@dataclass(frozen=True)
class _Call:
    """A function at its inputs.

    Attributes
    ----------
    checked : the numbers of the inputs that are checked
    compared : the numbers of the outputs that are compared: those that require grad, or all floating and complex ones
    here : the compared outputs, with their graph
    outputs : the compared outputs at any point, as numbers
    backward : the Jacobian by the backward pass
    function : the flat outputs as a function of the flat inputs
    noisy : whether a second call gave other outputs
    """

    func: Callable[..., Any]
    inputs: tuple[Any, ...]
    checked: tuple[int, ...]
    compared: tuple[int, ...]
    here: Tensors
    outputs: Outputs
    backward: Backward
    function: VectorFunction
    noisy: bool

    @property
    def leaves(self) -> Tensors:
        """The checked inputs."""
        return [self.inputs[k] for k in self.checked]

    @property
    def in_double(self) -> bool:
        """Whether all checked inputs are in double precision."""
        return all(leaf.dtype in (torch.float64, torch.complex128) for leaf in self.leaves)

    @property
    def has_backward(self) -> bool:
        """Whether any output has a gradient."""
        return any(each.requires_grad for each in self.here)

    @property
    def batched(self) -> bool:
        """Whether anything was computed in batches."""
        return self.outputs.batched or self.backward.batched

    def one_by_one(self) -> _Call:
        """The same by plain calls only."""
        outputs, backward = self.outputs.one_by_one(), self.backward.one_by_one()
        function = VectorFunction(outputs, self.function.layout, self.function.leaves, outputs.base, 0)
        return replace(self, outputs=outputs, backward=backward, function=function)


def _open_call(
    func: Callable[..., Any],
    given: tuple[Any, ...],
    checked: tuple[int, ...],
    dtypes: bool,
    unchanged: Callable[[], None],
) -> _Call:
    leaves = [given[k] for k in checked]
    found = tensors(func(*given))
    unchanged()
    _refuse_outputs(found)
    compared = tuple(k for k, each in enumerate(found) if each.requires_grad) or tuple(
        k for k, each in enumerate(found) if each.is_floating_point() or each.is_complex()
    )
    here = [found[k] for k in compared]
    again: list[torch.Tensor] = []
    room = footprint(lambda: again.extend(tensors(func(*given))))
    outputs = Outputs(func, given, checked, compared, here, room)
    noisy = not np.array_equal(outputs.base, Packing(here).joined([again[k] for k in compared])[0], equal_nan=True)
    backward = Backward(here, leaves, checked, dtypes, room)
    numbers = {f"input {k}": flat(leaf).copy() for k, leaf in zip(checked, leaves, strict=True)}
    layout, arrays = flatten_parameters(numbers)
    function = VectorFunction(outputs, layout, arrays, outputs.base, 0)
    return _Call(func, given, checked, compared, here, outputs, backward, function, noisy)


def _numbers_checked(given: tuple[Any, ...]) -> tuple[int, ...]:
    """The numbers of the inputs that are checked."""
    checked = tuple(k for k, each in enumerate(given) if _requires_grad(each))
    if not checked:
        raise ValueError("inputs hold no tensor with requires_grad=True: nothing would be checked")
    for k in checked:
        _refuse_input(k, given[k])
    return checked


@contextlib.contextmanager
def _watched(leaves: Mapping[int, torch.Tensor]) -> Iterator[Callable[[], None]]:
    """Yields a function that raises if inputs have changed; at the end they are as they were."""
    kept = [(k, leaf, leaf.detach().clone()) for k, leaf in leaves.items()]

    def changed() -> list[int]:
        moved = [each for each in kept if not torch.equal(each[1], each[2])]
        return [k for k, leaf, before in moved if not np.array_equal(flat(leaf), flat(before), equal_nan=True)]

    def unchanged() -> None:
        for k in changed():
            raise ValueError(f"func changes input {k} in place, which autograd does not see; clone it in func")

    try:
        yield unchanged
    finally:
        again = changed()
        for k, leaf, before in kept:
            if k in again:
                leaf.detach().copy_(before)


# --- refusals ---


def _refuse_input(number: int, tensor: torch.Tensor) -> None:
    if tensor.is_meta:
        raise ValueError(f"input {number} is on the meta device, where tensors hold no numbers; pass one that does")
    if tensor.layout != torch.strided:
        raise NotImplementedError(f"input {number} has layout {tensor.layout}; fastgc checks dense inputs only")
    if tensor.dtype not in _DTYPES:
        raise NotImplementedError(
            f"input {number} is of dtype {tensor.dtype}; fastgc checks bfloat16, float16 to float64, and complex"
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


def _left_out(given: tuple[Any, ...]) -> GradcheckError | None:
    """An error that names the first argument that is no tensor but holds tensors that require grad."""
    for k, each in enumerate(given):
        if not isinstance(each, torch.Tensor) and any(
            tensor.requires_grad for _, tensor in (*tensors_in("", each), *out_of_reach("", each))
        ):
            return GradcheckError(
                f"undecided: input {k} is a {type(each).__name__} of tensors that require grad, which are not checked; "
                "pass each of them as an argument"
            )
    return None


def _differentiable(value: Any) -> tuple[torch.Tensor, ...]:
    return tuple(each for each in tensors(value) if each.requires_grad)


def _requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _random_grads(outputs: Tensors, apart: bool) -> tuple[torch.Tensor, ...]:
    """Random gradients in [-1, 1]; ``apart``: with gaps between their entries in memory."""
    packing = Packing(outputs)
    drawn = packing.members(stream(0, "weights").uniform(-1, 1, (1, packing.size)))[0]
    return tuple((torch.stack([each, each], -1)[..., 0] if apart else each).requires_grad_() for each in drawn)


# --- the checks ---


def _failure(call: _Call, criteria: _Criteria) -> GradcheckError | None:
    try:
        if criteria.forward:
            _compare(call, _forward_operator(call), criteria, None, " (forward mode)")
            if criteria.batched_forward:
                _check_batched_forward(call)
        if criteria.backward:
            beside = partial(_backward_beside, call, criteria) if call.has_backward else None
            _compare(call, _backward_operator(call, criteria), criteria, beside)
            if call.has_backward:
                check_linearity(call.backward, call.in_double, criteria.atol)
                if criteria.batched_backward:
                    check_batched(call.backward)
                if criteria.undefined:
                    check_undefined(call.here, call.leaves)
    except GradcheckError as error:
        return error
    return None


def _forward_operator(call: _Call) -> Operator:
    """The Jacobian by forward mode, a column for each number of the inputs."""
    columns = [_pushed(call, unit) for unit in np.eye(call.function.point.size)]
    return matrix_operator(np.stack(columns, axis=1) if columns else np.empty((call.function.base.size, 0)))


def _pushed(call: _Call, tangent: Floats) -> Floats:
    """J u by forward mode."""
    tangents = _tangents(call, _placed_leaves(call), Packing(call.leaves).members(tangent[None, :])[0])
    return np.asarray(Packing(call.here).joined(tangents)[0])


def _placed_leaves(call: _Call) -> Tensors:
    """Copies of the checked inputs."""
    return [placed(leaf.detach(), leaf).requires_grad_() for leaf in call.leaves]


def _tangents(call: _Call, leaves: Tensors, parts: Tensors) -> list[torch.Tensor]:
    """The tangents of the compared outputs for those of the inputs."""
    arguments = list(call.inputs)
    with forward_mode, forward_ad.dual_level():
        for k, leaf, part in zip(call.checked, leaves, parts, strict=True):
            arguments[k] = forward_ad.make_dual(leaf, part)
        found = tensors(call.func(*arguments))
        tangents = [forward_ad.unpack_dual(found[k]).tangent for k in call.compared]
    return [torch.zeros_like(like) if each is None else each for each, like in zip(tangents, call.here, strict=True)]


def _check_batched_forward(call: _Call) -> None:
    """Forward mode must give the same in a batch as for one tangent after another."""
    drawn = stream(0, "tangent").standard_normal((3, call.function.point.size))

    def batch() -> Floats:
        leaves, parts = _placed_leaves(call), Packing(call.leaves).stacked(drawn)
        found = _vmap(lambda *each: tuple(_tangents(call, leaves, each)))(*parts)
        return Packing(call.here).joined(found, len(drawn))

    plain = np.stack([_pushed(call, tangent) for tangent in drawn])
    refuse_other_batch(batch, plain, call.backward.eps, "forward mode")


def _backward_operator(call: _Call, criteria: _Criteria) -> Operator:
    """The Jacobian by backward mode, a row for each number of the outputs."""
    m, n = call.function.base.size, call.function.point.size
    if not call.has_backward:
        return matrix_operator(np.zeros((m, n)))
    if criteria.fast:
        return vjp_operator(lambda v: call.backward.pulled(v[None, :])[0], m, n, np.dtype(np.float64))
    return matrix_operator(call.backward.jacobian(criteria.nondeterminism))


def _backward_beside(call: _Call, criteria: _Criteria, rays: Sequence[Ray]) -> Operator:
    """The Jacobian by backward mode at inputs displaced along a direction."""
    numbers = np.concatenate([leaf.reshape(-1) for leaf in displaced_leaves(call.function.leaves, rays)])
    moved = [each.requires_grad_() for each in Packing(call.leaves).members(numbers[None])[0]]
    given = list(call.inputs)
    for k, each in zip(call.checked, moved, strict=True):
        given[k] = each
    found = tensors(call.func(*given))
    backward = call.backward.elsewhere([found[k] for k in call.compared], moved)
    return matrix_operator(backward.jacobian(criteria.nondeterminism))


def _compare(
    call: _Call, operator: Operator, criteria: _Criteria, beside: JacobianAlong | None, mode: str = ""
) -> None:
    if not operator.shape[0] * operator.shape[1]:
        return
    jacobian = open_jacobian(call.function, operator, criteria.step, criteria.rtol, criteria.atol)
    jacobian = replace(jacobian, displaced=beside)
    checked = _found(jacobian, TRIED, 0) if call.noisy else None
    if checked is None or not all_hidden(checked.judgement):
        checked = _found(jacobian, _FAST_INPUTS if criteria.fast else "all", _FAST_PROJECTIONS)
    verdict = checked.judgement.worst
    if verdict == FAIL or (verdict == UNDECIDED and not criteria.allow_undecided):
        raise GradcheckError(_message(call, jacobian, checked, verdict, mode))


def _found(jacobian: JacobianAtPoint, inputs: Columns, projections: int) -> Checked:
    groups, complete = plan(jacobian.operator, None, inputs, 0)
    with Progress(0, shown=False) as bar:
        checked, _, _ = find(jacobian, groups, 0 if complete else projections, 0, bar)
    return checked


def _message(call: _Call, jacobian: JacobianAtPoint, checked: Checked, verdict: str, mode: str) -> str:
    """The first pair of an output and an input with this verdict, in full, and the names of the others."""
    rows, columns = Packing(call.here), Packing(call.leaves)
    blocks = [
        (f"output {call.compared[k]} with respect to input {call.checked[j]}", block)
        for k in range(len(call.here))
        for j in range(len(call.leaves))
        for block in [_report_on_pair(call, jacobian, checked, rows, columns, k, j)]
        if block.verdict == verdict
    ]
    (name, first), others = blocks[0], [name for name, _ in blocks[1:]]
    head = "Jacobian mismatch for" if verdict == FAIL else "undecided: the Jacobian of"
    lines = [f"{head} {name}{mode}: {first.reason}", *details(first)]
    if any(each.is_complex() for each in (*call.leaves, *call.here)):
        lines.append("(complex numbers as pairs: the last index is 0 for the real and 1 for the imaginary part)")
    lines += [f"likewise {', '.join(others[:_LISTED_PAIRS])}"] if others else []
    notes = [_NOISY] * call.noisy + [*call.function.raised.notes("func")]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _report_on_pair(
    call: _Call, jacobian: JacobianAtPoint, checked: Checked, rows: Packing, columns: Packing, k: int, j: int
) -> JacobianReport:
    """The report on the Jacobian of one output with respect to one input."""
    own, along = rows.slices[k], columns.slices[j]
    i, at = jacobian.places(checked.estimates.positions)
    mine = np.flatnonzero((i >= own.start) & (i < own.stop) & (at >= along.start) & (at < along.stop))
    part = checked.part(mine)
    local = (i[mine] - own.start) * (along.stop - along.start) + at[mine] - along.start
    part = replace(part, estimates=replace(part.estimates, positions=local))
    return jacobian_report(
        {0: part}, Projections(), About(rows.shapes[k], columns.shapes[j], 1, call.function.evaluations, 0.0, 0, ())
    )
