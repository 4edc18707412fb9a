"""What single precision leaves undecided, confirmed by the forward pass in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

from torch import nn  # noqa: E402

from fastgc.torch import check_module  # noqa: E402

CONFIRMED = "the forward pass in double precision confirmed"


class Scaled(torch.autograd.Function):
    """tanh, with a backward that is off by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Any, factor: float) -> Any:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        ctx.factor = factor
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (y,) = ctx.saved_tensors
        return ctx.factor * g * (1 - y * y), None


class Hidden(nn.Module):
    """A small part beside a large constant, whose round-off hides its slopes in single precision."""

    def __init__(self, factor: float, guard: Callable[[Any], Any] = lambda x: x, beside: float = 1e5) -> None:
        super().__init__()
        self.factor, self.guard, self.beside = factor, guard, beside

    def forward(self, x: Any) -> Any:
        return self.beside + Scaled.apply(self.guard(x), self.factor)


def single_only(x: Any) -> Any:
    if x.dtype != torch.float32:
        raise TypeError("single precision only")
    return x


def other_in_double(x: Any) -> Any:
    return x if x.dtype == torch.float32 else 1e4 * x


def checked(module: nn.Module, dtype: Any = torch.float32, **options: Any) -> Any:
    x = torch.linspace(-1.0, 1.0, 6).to(dtype)
    return check_module(module, x, precision="native", **options)


def confirmed(report: Any) -> bool:
    return any(note.startswith(CONFIRMED) for note in report.notes)


@pytest.mark.parametrize(("dtype", "beside"), [(torch.float32, 1e5), (torch.bfloat16, 8.0)], ids=str)
def test_a_right_backward_is_confirmed_and_the_report_says_so(dtype: Any, beside: float) -> None:
    report = checked(Hidden(1.0, beside=beside), dtype)
    assert report.passed and confirmed(report), str(report)


@pytest.mark.parametrize("factor", [1.02, -1.0, 0.5])
def test_a_wrong_backward_is_not(factor: float) -> None:
    report = checked(Hidden(factor))
    assert not report.passed and not confirmed(report), str(report)


@pytest.mark.parametrize("guard", [single_only, other_in_double])
def test_another_function_in_double_precision_decides_nothing(guard: Callable[[Any], Any]) -> None:
    report = checked(Hidden(1.0, guard))
    assert report.verdict == "undecided" and not confirmed(report), str(report)


def test_a_module_that_is_not_deterministic_is_not_looked_at_again() -> None:
    report = checked(nn.Sequential(Hidden(1.0), nn.Dropout()))
    assert report.verdict == "undecided" and not confirmed(report)


def test_seeded_random_numbers_are_the_same_in_double_precision() -> None:
    assert checked(nn.Sequential(nn.Dropout(), Hidden(1.0)), seeded=True).verdict != "fail"


def test_probes_are_confirmed_too() -> None:
    x = torch.randn(400, generator=torch.Generator().manual_seed(0))
    right = check_module(Hidden(1.0), x, precision="native", samples=4)
    assert right.passed, str(right)
    assert not check_module(Hidden(1.02), x, precision="native", samples=4).passed


def test_nothing_is_said_where_single_precision_decides() -> None:
    assert not confirmed(checked(nn.Linear(6, 3)))
