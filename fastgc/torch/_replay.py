"""A recorded call of an operation, made again at displaced inputs and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch

from fastgc._derivatives.displaced import DISTANCE
from fastgc._derivatives.random_weights import UNIT, random_weights
from fastgc._gradient.operation import OperationAtPoint, tolerance
from fastgc._parameters.arrays import Floats
from fastgc.torch._calls import Call
from fastgc.torch._flat import as_given, as_reals
from fastgc.torch._nested import tensors_in
from fastgc.torch._surroundings import Surroundings

_PARAMETER = "parameter "  # begins the names of parameters among the arguments

Tensors = Mapping[str, torch.Tensor]


class Replay:
    """Makes a call again.

    Attributes
    ----------
    evaluations : how often it was made
    """

    def __init__(self, call: Call, surroundings: Surroundings, seed: int) -> None:
        self.evaluations = 0
        self._call, self._surroundings, self._seed = call, surroundings, seed

    def operation(self) -> OperationAtPoint:
        """The call at its own inputs and parameters; a tensor that was passed twice counts as two."""
        parameters = {_PARAMETER + name: each for name, each in self._call.parameters().items()}
        inputs = {name: each.detach().requires_grad_() for name, each in self._call.inputs().items()}
        arguments = {**inputs, **parameters}
        return self._at({name: each for name, each in arguments.items() if each.numel()})

    def _at(self, point: Tensors) -> OperationAtPoint:
        with torch.enable_grad():
            outputs = self._outputs(point)
            gradients = self._gradients(outputs, point)
        outputs = [each.detach() for each in outputs]
        weighted = [as_reals(each) * as_reals(cotangent) for each, cotangent in self._received(outputs)]
        slopes = [
            self._slope(name, each, gradient) for (name, each), gradient in zip(point.items(), gradients, strict=True)
        ]
        eps, rtol = _precision([*outputs, *point.values()])
        return OperationAtPoint(
            [*point],
            np.array([slope for slope, _ in slopes]),
            np.array([length for _, length in slopes]),
            sum(float(_wide(each).abs().sum()) for each in weighted),
            eps,
            rtol,
            along=partial(self._along, point, outputs),
            displaced=lambda: self._at(
                {name: self._moved(name, each, DISTANCE, 1).requires_grad_() for name, each in point.items()}
            ),
        )

    # --- by the operation's own backward ---

    def _gradients(self, outputs: Sequence[torch.Tensor], point: Tensors) -> Sequence[torch.Tensor]:
        """The gradient of the weighted sum of the outputs with respect to every argument."""
        pairs = [pair for pair in self._received(outputs) if pair[0].requires_grad]
        if not pairs or not point:
            return [torch.zeros_like(each) for each in point.values()]
        reached, cotangents = zip(*pairs, strict=True)
        found: Sequence[torch.Tensor] = torch.autograd.grad(
            reached, [*point.values()], cotangents, allow_unused=True, materialize_grads=True
        )
        return found

    def _received(self, outputs: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The outputs that a gradient reached, with their cotangents."""
        pairs = zip(outputs, self._call.cotangents, strict=True)
        return [(output, cotangent) for output, cotangent in pairs if cotangent is not None]

    def _slope(self, name: str, tensor: torch.Tensor, gradient: torch.Tensor) -> tuple[float, float]:
        """The slope along the argument's direction, and the size of such slopes."""
        dense = gradient.detach() if gradient.layout == torch.strided else gradient.detach().to_dense()
        reals, scale = as_reals(dense), _scale(tensor)
        weights = self._weights(name, reals, 0)
        return scale * _product(reals, weights) / UNIT, scale * float(torch.linalg.vector_norm(_wide(reals)))

    # --- by differences ---

    def _along(self, point: Tensors, outputs: Sequence[torch.Tensor], some: Sequence[int], distances: Floats) -> Floats:
        """The change of the weighted sum, for each distance; nan where the call raises."""
        names = [[*point][k] for k in some]
        return np.array([self._change(point, outputs, names, distance) for distance in distances.tolist()])

    def _change(self, point: Tensors, outputs: Sequence[torch.Tensor], names: Sequence[str], distance: float) -> float:
        moved = {name: self._moved(name, point[name], distance, 0) for name in names}
        try:
            with torch.no_grad():
                found = self._outputs({**point, **moved})
                changes = zip(found, outputs, self._call.cotangents, strict=True)
                return sum(
                    _product(as_reals(each.detach()) - as_reals(base), as_reals(cotangent))
                    for each, base, cotangent in changes
                    if cotangent is not None
                )
        except Exception:
            return float("nan")

    def _moved(self, name: str, tensor: torch.Tensor, distance: float, number: int) -> torch.Tensor:
        """The argument displaced along one of its directions."""
        reals = as_reals(tensor.detach())
        step = self._weights(name, reals, number) * (distance * _scale(tensor) / UNIT)
        return as_given(reals + step, tensor)

    def _weights(self, name: str, reals: torch.Tensor, number: int) -> torch.Tensor:
        """The random weights of the entries."""
        weights = random_weights(self._seed, range(number, number + 1), name, reals.numel())[0]
        return torch.from_numpy(weights).to(device=reals.device, dtype=reals.dtype).reshape(reals.shape)

    def _outputs(self, point: Tensors) -> list[torch.Tensor]:
        """All tensors of the outputs."""
        self.evaluations += 1
        own = {name.removeprefix(_PARAMETER): each for name, each in point.items() if name.startswith(_PARAMETER)}
        with self._surroundings(self._call.random):
            return [each for _, each in tensors_in("", self._call.outputs(point, own))]


def _scale(tensor: torch.Tensor) -> float:
    """The mean magnitude; 1 for zeros."""
    return float(_wide(as_reals(tensor.detach())).abs().mean()) or 1.0


def _product(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((_wide(one) * _wide(other)).sum())


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In double precision, except on devices that do not have it."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _precision(tensors: Sequence[torch.Tensor]) -> tuple[float, float]:
    """The resolution of the coarsest dtype, and the tolerance of its derivatives."""
    dtypes = [each.dtype for each in tensors if each.is_floating_point() or each.is_complex()]
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    return float(torch.finfo(coarsest).eps), tolerance(torch.finfo(coarsest).bits)
