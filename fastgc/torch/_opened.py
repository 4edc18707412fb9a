"""A function of tensors at its inputs: what it gives there and around, and what its backward pass gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fastgc._forks import cached_property
from fastgc._jacobian.function import VectorFunction
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import flatten_parameters
from fastgc.torch._backward import Backward
from fastgc.torch._flat import Tensors, flat
from fastgc.torch._outputs import Outputs, tensors

_DOUBLE = (torch.float64, torch.complex128)


@dataclass(frozen=True)
class Opened:
    """A function at its inputs.

    Attributes
    ----------
    checked : the numbers of the inputs that are checked
    compared : the numbers of the outputs that are compared: those that require grad, or all floating and complex ones
    here : the compared outputs, with their graph
    outputs : the compared outputs at any point, as numbers
    backward : the Jacobian by the backward pass
    noisy : whether a second call gave other outputs
    """

    func: Callable[..., object]
    inputs: tuple[object, ...]
    checked: tuple[int, ...]
    compared: tuple[int, ...]
    here: Tensors
    outputs: Outputs
    backward: Backward
    noisy: bool

    @property
    def leaves(self) -> Tensors:
        """The checked inputs."""
        return [self.inputs[k] for k in self.checked]

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Numbers of the outputs and of the inputs."""
        return self.outputs.base.size, self.outputs.point.size

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The numbers of the checked inputs."""
        return {f"input {k}": flat(leaf).copy() for k, leaf in zip(self.checked, self.leaves, strict=True)}

    @cached_property
    def function(self) -> VectorFunction:
        """The flat outputs as a function of the flat inputs."""
        layout, arrays = flatten_parameters(self.arrays)
        return VectorFunction(self.outputs, layout, arrays, self.outputs.base, 0)

    @property
    def in_double(self) -> bool:
        """Whether all checked inputs are in double precision."""
        return all(leaf.dtype in _DOUBLE for leaf in self.leaves)

    @property
    def gives_double(self) -> bool:
        """Whether all compared outputs are in double precision."""
        return all(each.dtype in _DOUBLE for each in self.here)

    @property
    def has_backward(self) -> bool:
        """Whether any output has a gradient."""
        return any(each.requires_grad for each in self.here)

    @property
    def batched(self) -> bool:
        """Whether anything was computed in batches."""
        return self.outputs.batched or self.backward.batched

    def one_by_one(self) -> Opened:
        """The same by plain calls only."""
        return replace(self, outputs=self.outputs.one_by_one(), backward=self.backward.one_by_one())


def opened(
    func: Callable[..., object],
    given: tuple[object, ...],
    checked: tuple[int, ...],
    dtypes: bool,
    unchanged: Callable[[], None],
) -> Opened:
    """Call the function twice; ``unchanged()`` raises if that changed its inputs."""
    leaves = [given[k] for k in checked]
    found = tensors(func(*given))
    unchanged()
    _refuse_outputs(found)
    compared = tuple(k for k, each in enumerate(found) if each.requires_grad) or tuple(
        k for k, each in enumerate(found) if each.is_floating_point() or each.is_complex()
    )
    here = [found[k] for k in compared]
    outputs = Outputs(func, given, checked, compared, here)
    again = tensors(func(*given))
    noisy = outputs.differ(again)
    backward = Backward(here, leaves, checked, dtypes, lambda: outputs.room)
    return Opened(func, given, checked, compared, here, outputs, backward, noisy)


def _refuse_outputs(outputs: Tensors) -> None:
    for k, each in enumerate(outputs):
        if each.layout != torch.strided:
            raise ValueError(f"output {k} has layout {each.layout}; call to_dense() on it in func")
