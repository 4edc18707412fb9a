"""The drop-in for torch.autograd.gradcheck, which compares derivatives with their measured uncertainty."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch.autograd.gradcheck import GradcheckError

from fastgc._arguments import brief, flags, number, refuse_uncallable
from fastgc._parameters.streams import stream
from fastgc.torch._comparison import Criteria, failure
from fastgc.torch._flat import Packing, Tensors, flat
from fastgc.torch._nested import out_of_reach, tensors_in
from fastgc.torch._opened import opened
from fastgc.torch._outputs import as_tuple
from fastgc.torch._second import FirstGradients, differentiable

_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128)


def gradcheck(
    func: Callable[..., object],
    inputs: object,
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
        Where not all entries are certified at once: check a few random inputs one by one, and all of them by random
        projections; otherwise all one by one.
    allow_undecided : bool
        Accept what finite differences cannot decide. Otherwise it fails, with a message that begins with "undecided:".

    Returns
    -------
    bool
        Whether everything agrees.

    Notes
    -----
    In double precision a few evaluations and backward passes along random vectors certify that all entries are right to
    atol; an entry that is off by more passes with a probability of 1e-6 at most. Where they do not, entries are
    measured one by one. What differences leave undecided is decided by the exact tangent of custom Functions: their
    ``forward`` run in forward mode, apart from their ``backward``.

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
    refuse_uncallable("func", func)
    for name, value in {"eps": eps, "atol": atol, "rtol": rtol, "nondet_tol": nondet_tol}.items():
        number(name, value)
    flags(
        raise_exception=raise_exception, check_undefined_grad=check_undefined_grad, check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad, check_batched_forward_grad=check_batched_forward_grad,
        check_forward_ad=check_forward_ad, check_backward_ad=check_backward_ad, fast_mode=fast_mode,
        masked=masked is not None and masked, allow_undecided=allow_undecided,
    )  # fmt: skip
    if not (check_forward_ad or check_backward_ad):
        raise AssertionError("check_forward_ad and check_backward_ad are both False: nothing would be checked")
    if check_batched_forward_grad and not check_forward_ad:
        raise AssertionError("check_batched_forward_grad=True needs check_forward_ad=True")
    if check_batched_grad and not check_backward_ad:
        raise AssertionError("check_batched_grad=True needs check_backward_ad=True")
    given = as_tuple(inputs)
    checked = _numbers_checked(given)
    with _watched({k: given[k] for k in checked}) as unchanged:
        call = opened(func, given, checked, check_grad_dtypes, unchanged)
        criteria = Criteria(eps if call.in_double else None, atol, rtol, nondet_tol, fast_mode, allow_undecided,
                             check_forward_ad, check_backward_ad, check_undefined_grad, check_batched_grad,
                             check_batched_forward_grad)  # fmt: skip
        error = failure(call, criteria)
        if error and call.batched:  # nothing is held against a function but what plain calls show
            error = failure(call.one_by_one(), criteria)
        unchanged()
    error = error or (None if allow_undecided else _left_out(given))
    if error and raise_exception:
        raise error.with_traceback(None)  # a failing test begins with the message, not with where it was put together
    return error is None


def gradgradcheck(
    func: Callable[..., object],
    inputs: object,
    grad_outputs: object = None,
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

    Notes
    -----
    What differences leave undecided is decided by the exact tangent of custom Functions: their ``forward`` and their
    ``backward`` run in forward mode, apart from how PyTorch differentiates the backward pass.

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
    refuse_uncallable("func", func)
    flags(
        gen_non_contig_grad_outputs=gen_non_contig_grad_outputs, check_fwd_over_rev=check_fwd_over_rev,
        check_rev_over_rev=check_rev_over_rev,
    )  # fmt: skip
    given = as_tuple(inputs)
    wanted = [_requires_grad(each) for each in given]
    if grad_outputs is None:
        grad_outputs = _random_grads(differentiable(func(*given)), gen_non_contig_grad_outputs)
    weights = as_tuple(grad_outputs)
    if not weights or not all(isinstance(each, torch.Tensor) for each in weights):
        raise TypeError(f"grad_outputs is {brief(repr(grad_outputs))}; it must be a tensor or a tuple of tensors")

    gradients = FirstGradients(func, wanted)
    return gradcheck(
        gradients, (*given, *weights), eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception,
        nondet_tol=nondet_tol, check_undefined_grad=check_undefined_grad, check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad, check_forward_ad=check_fwd_over_rev,
        check_backward_ad=check_rev_over_rev, fast_mode=fast_mode, masked=masked, allow_undecided=allow_undecided,
    )  # fmt: skip


def _numbers_checked(given: tuple[object, ...]) -> tuple[int, ...]:
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


def _left_out(given: tuple[object, ...]) -> GradcheckError | None:
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


def _requires_grad(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _random_grads(outputs: Tensors, apart: bool) -> tuple[torch.Tensor, ...]:
    """Random gradients in [-1, 1]; ``apart``: with gaps between their entries in memory."""
    if not outputs:
        raise ValueError("func returns no tensor that requires grad: it has no second derivatives")
    packing = Packing(outputs)
    drawn = packing.members(stream(0, "weights").uniform(-1, 1, (1, packing.size)))[0]
    return tuple((torch.stack([each, each], -1)[..., 0] if apart else each).requires_grad_() for each in drawn)
