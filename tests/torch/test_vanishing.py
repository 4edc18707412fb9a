"""Modules whose gradients vanish but for round-off: decided where they can be, and every such tensor is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
from torch import nn  # noqa: E402

from fastgc.torch import check_module  # noqa: E402

norm = nn.functional
SAID = "the slope vanishes in {}: a wrong factor would not show there; check at another point"


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)


class Vector(nn.Module):
    """A function of its one parameter, of three entries, and of the input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.w, self.function = nn.Parameter(torch.randn(3)), function

    def forward(self, x: Any) -> Any:
        return self.function(self.w, x)


class WithoutVariance(torch.autograd.Function):
    """A batch normalisation whose backward lacks the term of the variance, on purpose."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        deviation = (x.var(0, unbiased=False) + 1e-5).sqrt()
        ctx.save_for_backward(deviation)
        return (x - x.mean(0)) / deviation

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return (g - g.mean(0)) / ctx.saved_tensors[0]


ALONE: dict[str, Callable[..., Any]] = {
    "a bias before a batch norm": lambda w, x: norm.batch_norm(x + w, None, None, training=True),
    "a bias of keys": lambda w, x: norm.scaled_dot_product_attention(x, x + w, x),
    "the length of what is normalised": lambda w, x: norm.normalize(w, dim=0).norm() + x,
    "a shift before a softmax": lambda w, x: torch.softmax(x + w[0], -1),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_parameter_without_effect_passes_beside_others_and_is_named(name: str) -> None:
    report = check_module(Vector(ALONE[name]), torch.randn(6, 3))
    assert report.passed, str(report)
    assert SAID.format("'w'") in report.notes


def total(output: Any) -> Any:
    return output.sum()


def test_the_tolerance_of_the_caller_decides_what_vanishes_everywhere() -> None:
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)), torch.randn(6, 3)
    assert check_module(net, x, total).verdict == "undecided"
    assert check_module(net, x, total, atol=1.0).passed


def test_a_batch_norm_under_a_plain_sum_names_what_it_hides() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    report = check_module(net, torch.randn(6, 3), total)
    assert report.passed, str(report)
    assert SAID.format("'0.weight', '0.bias', '1.weight', 'inputs[0]'") in report.notes


def test_a_missing_term_of_the_variance_hides_under_a_plain_sum_and_is_not_passed_over_in_silence() -> None:
    module = Vector(lambda w, x: WithoutVariance.apply(x) + w**2)
    hidden = check_module(module, torch.randn(6, 3), total)
    assert hidden.verdict != "fail" and SAID.format("'inputs[0]'") in hidden.notes
    assert check_module(module, torch.randn(6, 3)).tensors["inputs[0]"].verdict == "fail"


def test_doors_without_points_do_not_ask_for_them() -> None:
    report = check_module(Vector(lambda w, x: torch.softmax(w, 0).sum() + 0 * x), torch.randn(6, 3))
    assert "points=" not in str(report)
