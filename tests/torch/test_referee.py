"""Exact tangents of custom Functions decide what differences leave undecided."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

import fastgc

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
gradcheck, gradgradcheck = fastgc.torch.gradcheck, fastgc.torch.gradgradcheck
GradcheckError = importlib.import_module("torch.autograd.gradcheck").GradcheckError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),  # when forward mode is first used
    pytest.mark.filterwarnings(r"ignore:Input #\d requires gradient and is of dtype:UserWarning"),
]


def numbers(size: int, dtype: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def function(forward: Callable[..., Any], backward: Callable[..., Any], factor: float = 1.0) -> Any:
    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            ctx.set_materialize_grads(True)
            ctx.own = ctx.needs_input_grad[0]
            return forward(x)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return factor * backward(ctx.saved_tensors[0], g)

    return Custom.apply


class WithSetup(torch.autograd.Function):
    """Of the newer style, with a default argument."""

    @staticmethod
    def forward(x: Any, offset: float = 1000.0) -> Any:
        return offset + torch.sin(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * torch.cos(ctx.saved_tensors[0]), None


def square_sum(x: Any) -> Any:
    return (x * x).sum() * torch.sin(x)


def square_sum_pulled(x: Any, g: Any) -> Any:
    return 2 * x * (g * torch.sin(x)).sum() + (x * x).sum() * g * torch.cos(x)


CASES = {
    "large offset": (lambda x: 1000 + torch.sin(x), lambda x, g: g * torch.cos(x)),
    "dense": (square_sum, square_sum_pulled),
    "in place": (lambda x: x.clone().mul_(x).add_(100), lambda x, g: 2 * x * g),
}
TOLERANCES = {"float32": {}, "bfloat16": {"rtol": 0.05, "atol": 0.05}, "float16": {"rtol": 0.05, "atol": 0.05}}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", CASES)
def test_coarse_inputs_are_decided(name: str, dtype: str) -> None:
    x = numbers(8, getattr(torch, dtype))
    assert gradcheck(function(*CASES[name]), x, **TOLERANCES[dtype])
    with pytest.raises(GradcheckError, match=r"^Jacobian mismatch for output 0 with respect to input 0"):
        gradcheck(function(*CASES[name], factor=1.5), x, **TOLERANCES[dtype])


def test_without_a_custom_function_there_is_no_independent_tangent() -> None:
    with pytest.raises(GradcheckError, match=r"^undecided: the Jacobian of output 0"):
        gradcheck(lambda x: 1000 + torch.sin(x), numbers(8, torch.float32))


def test_the_message_says_what_was_decided_so() -> None:
    with pytest.raises(
        GradcheckError, match=r"note: the exact tangent of the forward bodies of custom Functions decided \d+ entries"
    ):
        gradcheck(function(*CASES["large offset"], factor=1.5), numbers(8, torch.float32))


def test_functions_with_setup_context_inside_of_others_count_too() -> None:
    inner = function(torch.sin, lambda x, g: g * torch.cos(x))
    outer = function(lambda x: 1000 + inner(x), lambda x, g: g * torch.cos(x))
    assert gradcheck(WithSetup.apply, numbers(8, torch.float32))
    assert gradcheck(lambda x: WithSetup.apply(x) + outer(x), numbers(8, torch.float32))


NOISE = torch.Generator().manual_seed(0)


def noise(like: Any) -> Any:
    return torch.rand(like.shape, generator=NOISE, dtype=like.dtype)


def test_noise_that_is_added_is_no_obstacle() -> None:
    right = function(torch.sin, lambda x, g: g * torch.cos(x))
    wrong = function(torch.sin, lambda x, g: g * torch.cos(x), 1.3)
    assert gradcheck(lambda x: right(x) + noise(x), numbers(5, torch.float64))
    with pytest.raises(GradcheckError, match="5 of 25 checked entries differ"):
        gradcheck(lambda x: wrong(x) + noise(x), numbers(5, torch.float64))


CUT = {
    "noise in the slope": lambda x: x * noise(x),
    "numpy": lambda x: x + 0 * torch.from_numpy(x.detach().numpy()) + noise(x),
    "detach": lambda x: torch.sin(x.detach()) + x + noise(x),
    "data": lambda x: torch.sin(x.data) + x + noise(x),
    "item": lambda x: x * x[0].item() + noise(x),
    "constant": lambda x: torch.ones_like(x) + noise(x),
}


@pytest.mark.parametrize("name", CUT)
def test_a_body_that_is_not_open_to_forward_mode_decides_nothing(name: str) -> None:
    with pytest.raises(GradcheckError, match=r"^undecided: "):
        gradcheck(function(CUT[name], lambda x, g: g), numbers(5, torch.float64))


def test_a_kink_is_not_refuted() -> None:
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(function(torch.relu, lambda x, g: 0.5 * g), x)


def test_functions_of_other_threads_are_called_as_before() -> None:
    """While a body runs in the place of its Function, another thread's Function has its own backward."""
    seen = []

    def elsewhere() -> None:
        y = torch.ones(2, requires_grad=True)
        WithSetup.apply(y).sum().backward()
        seen.append(y.grad is not None)

    def forward(x: Any) -> Any:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return 1000 + torch.sin(x)

    assert gradcheck(function(forward, lambda x, g: g * torch.cos(x)), numbers(2, torch.float32))
    assert all(seen)


# --- second derivatives ---


class Sine(torch.autograd.Function):
    """Its backward is another Function, whose own backward is off by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Any, factor: float) -> Any:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return SinePulled.apply(g, ctx.saved_tensors[0], ctx.factor), None


class SinePulled(torch.autograd.Function):
    """The first derivative, of the newer style."""

    @staticmethod
    def forward(g: Any, x: Any, factor: float) -> Any:
        return g * torch.cos(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.factor = inputs[2]

    @staticmethod
    def backward(ctx: Any, h: Any) -> Any:
        g, x = ctx.saved_tensors
        return h * torch.cos(x), -ctx.factor * h * g * torch.sin(x), None


class Product(torch.autograd.Function):
    """x exp(x); what it saves between may be a constant for the second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Any, constant: float) -> Any:
        between = torch.exp(x)
        ctx.save_for_backward(x, between if constant else None)
        return between * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, between = ctx.saved_tensors
        between = torch.exp(x) if between is None else between
        return g * (between * x + between), None


SECOND = {
    "Function in backward": (lambda x, wrong: Sine.apply(x, 1.5 if wrong else 1.0)),
    "constant between": (lambda x, wrong: Product.apply(x, wrong)),
    "two, one of the other": (lambda x, wrong: Product.apply(Sine.apply(x, 1.5 if wrong else 1.0), False)),
    "two, of one input": (lambda x, wrong: Product.apply(x, wrong) * Sine.apply(x, 1.0)),
}


@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives_beside_a_large_first_one(name: str) -> None:
    """In single precision, round-off of the first derivative hides the second one."""
    x = numbers(6, torch.float32)
    assert gradgradcheck(lambda x: 1000 * x + SECOND[name](x, False), x)
    with pytest.raises(GradcheckError, match=r"(?s)^Jacobian mismatch.*exact tangent of the forward bodies"):
        gradgradcheck(lambda x: 1000 * x + SECOND[name](x, True), x)


@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives_in_double_precision(name: str) -> None:
    x = numbers(6, torch.float64)
    assert gradgradcheck(lambda x: SECOND[name](x, False), x)
    assert not gradgradcheck(lambda x: SECOND[name](x, True), x, raise_exception=False)


def test_a_wrong_first_derivative_is_no_wrong_second_one() -> None:
    wrong = function(lambda x: x**3, lambda x, g: 2 * g * x**2)
    assert gradgradcheck(lambda x: 1000 * x + wrong(x), numbers(6, torch.float32))


def test_a_function_that_returns_its_input_decides_nothing() -> None:
    same = function(lambda x: x, lambda x, g: g)
    with pytest.raises(GradcheckError, match=r"^undecided: "):
        gradgradcheck(lambda x: 1e5 * x + torch.sin(same(x)), numbers(6, torch.float32))
