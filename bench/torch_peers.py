"""torch.autograd.gradcheck on the models of networks.py, each as an autograd function with a hand-written backward."""

from __future__ import annotations

from typing import Any

import networks
import torch
from networks import Problem
from torch.autograd.gradcheck import GradcheckError, gradcheck

Model = tuple[Any, Any]  # forward gives the value and what backward needs; backward the gradients from that


def network(x: Any, y: Any) -> Model:
    rows = torch.arange(len(y))

    def forward(w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        hidden = torch.relu_(torch.addmm(b1, x, w1))
        scores = torch.addmm(b2, hidden, w2)
        return torch.nn.functional.cross_entropy(scores, y), (w2, hidden, scores)

    def backward(w2: Any, hidden: Any, scores: Any) -> Any:
        slope = torch.softmax(scores, 1)
        slope[rows, y] -= 1
        slope /= len(y)
        below = (slope @ w2.T) * (hidden > 0)
        return [x.T @ below, below.sum(0), hidden.T @ slope, slope.sum(0)]

    return forward, backward


def regression(x: Any, sign: Any) -> Model:
    def forward(w: Any, b: Any) -> Any:
        z = x @ w + b
        return torch.nn.functional.softplus(-sign * z).mean(), (z,)

    def backward(z: Any) -> Any:
        slope = -sign * torch.sigmoid(-sign * z) / len(sign)
        return [slope @ x, slope.sum(0, keepdim=True)]

    return forward, backward


MODELS = {networks.network_loss: network, networks.regression_loss: regression}


class GradCheck:
    """gradcheck of one problem with its documented tolerances; ``limit``: evaluations of the loss before it stops.

    The call returns the verdict; ``message`` is what it said of a wrong gradient.
    """

    def __init__(self, problem: Problem, *, fast: bool) -> None:
        forward_of, backward_of = MODELS[problem.loss](*map(torch.from_numpy, problem.args))
        names, wrong = list(problem.params), problem.wrong

        class Loss(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *params: Any) -> Any:
                self.count()
                value, kept = forward_of(*params)
                ctx.save_for_backward(*kept)
                return value

            @staticmethod
            def backward(ctx: Any, grad: Any) -> Any:
                found = backward_of(*ctx.saved_tensors)
                if wrong:
                    found[names.index(wrong.name)].view(-1)[wrong.position] *= wrong.factor
                return tuple(grad * each for each in found)

        self.loss, self.fast, self.message = Loss.apply, fast, ""
        self.inputs = [torch.tensor(p, requires_grad=True) for p in problem.params.values()]
        self.count: Any = lambda: None

    def __call__(self, count: Any = lambda: None) -> bool:
        """``count`` is called before each evaluation of the loss, and may raise."""
        self.count = count
        try:
            return bool(gradcheck(self.loss, self.inputs, fast_mode=self.fast))
        except GradcheckError as error:
            self.message = str(error)
            return False
