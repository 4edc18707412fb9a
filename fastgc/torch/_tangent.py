"""Exact tangents of what custom Functions compute: their forward bodies in forward mode, apart from their backward.

A Function's ``forward`` consists of operations of PyTorch, whose own rules give its tangent. So it can decide what
differences leave undecided, as far as the body is open to forward mode: it may not leave PyTorch, or cut derivatives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch.autograd import forward_ad
from torch.autograd.function import _is_setup_context_defined
from torch.overrides import TorchFunctionMode

from fastgc._parameters.arrays import Floats
from fastgc.torch._calls import Function, functions_replaced
from fastgc.torch._flat import Packing, Tensors
from fastgc.torch._outputs import tensors
from fastgc.torch._surroundings import Given, Named, Types, forward_mode

# By these functions numbers leave PyTorch, or are taken for constants.
_CUTTING = {"detach", "detach_", "numpy", "__array__", "item", "tolist", "data_ptr", "__float__", "__int__"}
_CUTTING_ATTRIBUTE = torch.Tensor.data.__get__


class _Cut(Exception):
    """The body is not open to forward mode."""


class BodyTangents:
    """Products of the Jacobian with vectors, by forward mode through the bodies of custom Functions.

    Parameters
    ----------
    func, inputs : callable, tuple
        The function and all its arguments.
    checked, compared : sequences of int
        The numbers of the arguments that move, and of the outputs.
    here : sequence of tensors
        The compared outputs.
    """

    def __init__(
        self,
        func: Callable[..., object],
        inputs: tuple[object, ...],
        checked: tuple[int, ...],
        compared: tuple[int, ...],
        here: Tensors,
    ) -> None:
        self._func, self._inputs, self._checked, self._compared = func, inputs, checked, compared
        self._rows, self._columns = Packing(here), Packing([inputs[k] for k in checked])

    def along(self, vector: Floats) -> Floats | None:
        """J u in double precision; None if no custom Function was called, or some body is not open to forward mode."""
        try:
            with forward_mode(), torch.no_grad(), forward_ad.dual_level():
                arguments = self._duals(vector)
                with _bodies() as called, _Uncut():
                    found = tensors(self._func(*arguments))
                return self._tangents([found[k] for k in self._compared]) if called else None
        except Exception:  # whatever a body does with tangents that it was not written for
            return None

    def _tangents(self, outputs: Tensors) -> Floats | None:
        """The tangents of outputs, if all are in double precision."""
        tangents = [forward_ad.unpack_dual(each).tangent for each in outputs]
        known = all(map(_is_double, outputs)) and all(each is not None for each in tangents)
        return self._rows.joined(tangents)[0] if known else None

    def _duals(self, vector: Floats) -> list[object]:
        """The arguments in double precision, with the tangents of those that move."""
        arguments = [_raised(each) for each in self._inputs]
        parts = Packing([arguments[k] for k in self._checked]).members(vector[None, :])[0]
        for k, part in zip(self._checked, parts, strict=True):
            arguments[k] = forward_ad.make_dual(arguments[k], part)
        return arguments


def _raised(value: object) -> object:
    """A copy of a tensor in double precision; anything else as it is."""
    if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
        return value
    return value.detach().to(torch.complex128 if value.is_complex() else torch.float64, copy=True)


def _is_double(tensor: torch.Tensor) -> bool:
    return tensor.dtype in (torch.float64, torch.complex128)


# --- bodies ---


class _Context:
    """Stands in for the context of a Function's forward: it takes whatever is saved."""

    def __init__(self, args: tuple[object, ...]) -> None:
        self.needs_input_grad = tuple(isinstance(each, torch.Tensor) for each in args)

    def _ignore(self, *args: object) -> None:
        pass

    save_for_backward = save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = _ignore


@contextlib.contextmanager
def _bodies() -> Iterator[list[Function]]:
    """Call the bodies of custom Functions in their place; yields a list of those called."""
    called: list[Function] = []

    def body(function: Function, *args: object, **kwargs: object) -> object:
        called.append(function)
        if _is_setup_context_defined(function.setup_context):
            return function.forward(*args, **kwargs)
        return function.forward(_Context(args), *args, **kwargs)

    with functions_replaced(body):
        yield called


class _Uncut(TorchFunctionMode):
    """Raises where derivatives are cut."""

    def __torch_function__(
        self, func: Callable[..., object], types: Types, args: Given = (), kwargs: Named | None = None
    ) -> object:
        if getattr(func, "__name__", "") in _CUTTING or func == _CUTTING_ATTRIBUTE:
            raise _Cut
        return func(*args, **(kwargs or {}))
