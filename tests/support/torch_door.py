"""Problems of the catalogues as functions and modules of PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.support.catalogue import Problem

TIGHT = {"rtol": 1e-5, "atol": 1e-10}  # gradcheck's own tolerances let errors of a thousandth pass


def function(problem: Problem) -> Any:
    """The loss as a custom function of its parameters, in their order."""
    names = [*problem.params]

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            ctx.params = {k: t.detach().numpy().copy(order="K") for k, t in zip(names, tensors, strict=True)}
            return torch.tensor(problem.loss(ctx.params, *problem.args), dtype=torch.float64)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            found = problem.gradients(ctx.params, *problem.args)
            return tuple(g * torch.from_numpy(found[name].copy()) for name in names)

    return Loss.apply


def tensors(problem: Problem) -> list[Any]:
    return [torch.from_numpy(np.array(each, np.float64, order="K")) for each in problem.params.values()]


class Module(torch.nn.Module):
    """A module that returns the loss of its own parameters."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.call, self.names = function(problem), [*problem.params]
        for name, tensor in zip(self.names, tensors(problem), strict=True):
            self.register_parameter(name, torch.nn.Parameter(tensor))

    def forward(self) -> Any:
        return self.call(*(getattr(self, name) for name in self.names))
