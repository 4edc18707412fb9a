"""The catalogue as functions and modules of PyTorch: the same verdicts as those of `fastgc.check_gradients`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import doors
from tests.support.catalogue import Problem

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
from torch.autograd.gradcheck import GradcheckError  # noqa: E402

from fastgc.torch import check_module, gradcheck  # noqa: E402

TIGHT = {"rtol": 1e-5, "atol": 1e-10}  # gradcheck's own tolerances let errors of a thousandth pass


# Kinks of both signs coincide in these. `check_gradients` asks for the gradient again beside such a kink; the check of
# a Jacobian has no other gradient to ask for, and leaves them undecided.
CONVENTIONS = ("rectifiers", "zero-branch")


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


@pytest.mark.parametrize("name", doors.chosen(0))
def test_check_module_says_what_check_gradients_says(name: str) -> None:
    problem = doors.problems()[name]
    report = check_module(Module(problem), (), lambda output: output, samples=8)
    assert report.verdict == doors.verdict(problem, samples=8)


@pytest.mark.parametrize("name", doors.chosen(1))
def test_gradcheck_says_what_check_gradients_says(name: str, request: pytest.FixtureRequest) -> None:
    if name.startswith(CONVENTIONS):
        request.applymarker(pytest.mark.xfail(reason="a Jacobian is not asked for beside a kink", strict=False))
    problem = doors.problems()[name]
    found = "pass"
    try:
        gradcheck(function(problem), tuple(each.requires_grad_() for each in tensors(problem)), **TIGHT)
    except GradcheckError as error:
        found = "undecided" if str(error).startswith("undecided:") else "fail"
    assert found == doors.verdict(problem, samples="all", **TIGHT)
