"""Exact tangents of what custom Functions compute: their forward bodies in forward mode, apart from their backward.

A Function's ``forward`` consists of operations of PyTorch, whose own rules give its tangent. So it can decide what
differences leave undecided, as far as the body is open to forward mode: it may not leave PyTorch, or cut derivatives.
Where no custom Function is called, nothing but these rules is checked, and a tangent that rests on them proves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.autograd import forward_ad
from torch.autograd.function import _is_setup_context_defined
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastgc._evaluation.evaluator import Ray
from fastgc._parameters.arrays import Array, Floats
from fastgc._parameters.point import Point
from fastgc.torch._calls import Function, functions_replaced
from fastgc.torch._flat import Packing, Tensors, as_reals, numbers
from fastgc.torch._outputs import tensors
from fastgc.torch._points import holding
from fastgc.torch._second import FirstGradients, Tape
from fastgc.torch._subject import Subject
from fastgc.torch._surroundings import Given, Named, Types, forward_mode

BODIES = "the forward bodies of custom Functions"  # whose tangents these are, in reports

# By these functions numbers leave PyTorch, or are taken for constants.
_CUTTING = {"detach", "detach_", "numpy", "__array__", "__dlpack__", "item", "tolist", "data_ptr", "storage",
            "untyped_storage", "__float__", "__int__", "__index__", "__complex__", "tensor", "new_tensor"}  # fmt: skip
_CUTTING_ATTRIBUTE = torch.Tensor.data.__get__
_KNOWN = {"aten", "prims"}  # PyTorch's own operators, which have rules for tangents or refuse them


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
                called, found = self._outputs(arguments)
                return self._tangents([found[k] for k in self._compared]) if called else None
        except Exception:  # whatever a body does with tangents that it was not written for
            return None

    def _outputs(self, arguments: list[object]) -> tuple[list[Function], Sequence[torch.Tensor]]:
        """The Functions that were called, and the outputs by their bodies."""
        if isinstance(self._func, FirstGradients):
            tape = Tape()
            with _bodies(tape.apply) as called:
                return called, self._func.by_bodies(tape, *arguments)
        with _bodies() as called:
            return called, tensors(self._func(*arguments))

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


@dataclass
class ModuleTangents:
    """Slopes of a module's loss by forward mode through the bodies of custom Functions, in double precision.

    See `fastgc._gradient.exact.Tangents`.
    """

    subject: Subject
    value: float
    opened: contextlib.ExitStack
    evaluations: int = 1
    source: str = field(default=BODIES, init=False)

    def slope(self, rays: Sequence[Ray]) -> float:
        """The slope along a direction; nan if no custom Function was called, or one is not open to forward mode."""
        self.evaluations += 1
        try:
            with forward_mode(), torch.no_grad(), forward_ad.dual_level():
                duals = {
                    t: forward_ad.make_dual(as_reals(tensor.detach()), self._direction(t, rays))
                    for t, tensor in enumerate(self.subject.tensors)
                }
                with self.subject.surroundings(), _bodies() as called:
                    value = self.subject.value(duals)
                tangent = forward_ad.unpack_dual(value).tangent
                return float(tangent) if called and tangent is not None and _is_double(value) else float("nan")
        except Exception:  # whatever a body does with tangents that it was not written for
            return float("nan")

    def values(self, rays: Sequence[Ray], distances: Floats) -> Floats:
        """The loss at these distances along a direction."""
        return np.array([self._moved(rays, distance) for distance in distances.tolist()])

    def gradients(self) -> Sequence[Array]:
        """The gradient by the module's own backward."""
        pairs = zip(self.subject.gradients(), self.subject.tensors, strict=True)
        return [numbers(torch.zeros_like(tensor)) if each is None else each for each, tensor in pairs]

    def close(self) -> None:
        """Restore what the module's tensors held."""
        self.opened.close()

    def _moved(self, rays: Sequence[Ray], distance: float) -> float:
        self.evaluations += 1
        moved = {
            ray.tensor: as_reals(self.subject.tensors[ray.tensor].detach())
            + distance * self._direction(ray.tensor, rays)
            for ray in rays
        }
        with torch.no_grad():
            return float(self.subject(moved))

    def _direction(self, t: int, rays: Sequence[Ray]) -> torch.Tensor:
        """The part of a direction that belongs to a tensor."""
        like = as_reals(self.subject.tensors[t].detach())
        out = torch.zeros(like.shape, dtype=like.dtype)
        for ray in rays:
            if ray.tensor == t:
                weights = torch.from_numpy(ray.weights.astype(np.float64) * ray.scale)
                out.view(-1)[ray.start : ray.start + weights.numel()] = weights
        return out.to(like.device)


def module_tangents(copied: Callable[[], Subject], point: Point) -> ModuleTangents | None:
    """The tangents of a module in double precision at a point; None where it does not run in that."""
    with contextlib.ExitStack() as opened:
        try:
            subject = copied()
            leaves = [leaf.astype(np.float64) for leaf in point.leaves]
            opened.enter_context(holding([as_reals(each) for each in subject.tensors], leaves))
            with torch.no_grad():
                return ModuleTangents(subject, float(subject({})), opened.pop_all())
        except Exception:  # whatever it does with numbers that it was not written for
            return None


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


def _forward(function: Function, *args: object, **kwargs: object) -> object:
    """The body of a Function."""
    if _is_setup_context_defined(function.setup_context):
        return function.forward(*args, **kwargs)
    return function.forward(_Context(args), *args, **kwargs)


@contextlib.contextmanager
def _bodies(run: Callable[..., object] = _forward) -> Iterator[list[Function]]:
    """Call ``run`` in the place of custom Functions; yields a list of those called."""
    called: list[Function] = []

    def body(function: Function, *args: object, **kwargs: object) -> object:
        called.append(function)
        return run(function, *args, **kwargs)

    with functions_replaced(body), _Uncut() as functions, _Known(functions):
        yield called


class _Uncut(TorchFunctionMode):
    """Raises where derivatives are cut.

    Attributes
    ----------
    depth : how many functions of PyTorch are at work
    """

    depth = 0

    def __torch_function__(
        self, func: Callable[..., object], types: Types, args: Given = (), kwargs: Named | None = None
    ) -> object:
        named = getattr(func, "__name__", "") in _CUTTING or func == _CUTTING_ATTRIBUTE
        self.depth += 1
        try:
            if named and any(_has_tangent(each) for each in tree_leaves((args, kwargs))):
                raise _Cut
            return func(*args, **(kwargs or {}))
        finally:
            self.depth -= 1


class _Known(TorchDispatchMode):
    """Raises where an operator is not PyTorch's own, or where compiled code outside of PyTorch makes tensors."""

    def __init__(self, functions: _Uncut) -> None:
        super().__init__()
        self._functions = functions

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: Types, args: Given = (), kwargs: Named | None = None
    ) -> object:
        if func.namespace not in _KNOWN or not self._functions.depth:
            raise _Cut
        return func(*args, **(kwargs or {}))


def _has_tangent(value: object) -> bool:
    return isinstance(value, torch.Tensor) and forward_ad.unpack_dual(value).tangent is not None
