"""fastgc.torch.gradcheck in the place of torch.autograd.gradcheck."""

from __future__ import annotations

import ctypes
import importlib
import inspect
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastgc
from tests.support.concurrency import at_once

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
operations = importlib.import_module("tests.support.torch_operations")
sides = importlib.import_module("fastgc.torch._sides")
gradcheck, gradgradcheck = fastgc.torch.gradcheck, fastgc.torch.gradgradcheck
GradcheckError = importlib.import_module("torch.autograd.gradcheck").GradcheckError

# PyTorch warns of itself when forward mode is first used.
forward_mode = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def double(*shape: int, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def function(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A custom function of one tensor; ``backward(input, output, grad_output)``."""

    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            y = forward(x)
            ctx.save_for_backward(x, y)
            return y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return backward(*ctx.saved_tensors, g)

    return Custom.apply


sigmoid = function(lambda x: 1 / (1 + torch.exp(-x)), lambda x, s, g: g * s * (1 - s))
wrong_sigmoid = function(lambda x: 1 / (1 + torch.exp(-x)), lambda x, s, g: g * s * (1 + s))
softmax = function(lambda x: torch.softmax(x, -1), lambda x, s, g: s * (g - (s * g).sum(-1, keepdim=True)))

# --- the mission ---


def test_the_wrong_sigmoid_fails_with_both_jacobians_visible() -> None:
    with pytest.raises(GradcheckError) as caught:
        gradcheck(wrong_sigmoid, (double(5),))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("Jacobian mismatch for output 0 with respect to input 0: 5 of 25 checked entries differ")
    assert any(line.startswith("worst: output [") and "analytic" in line and "+-" in line for line in lines)
    start = next(k for k, line in enumerate(lines) if line.startswith("analytic (* differs)"))
    rows = [line.split() for line in lines[start + 1 : start + 6]]
    assert [len(row) for row in rows] == [10] * 5
    assert [[k for k, cell in enumerate(row) if cell.endswith("*")] for row in rows] == [[k] for k in range(5)]
    s = torch.sigmoid(double(5)).detach().numpy()
    for k, row in enumerate(rows):
        assert float(row[k].rstrip("*")) == pytest.approx(s[k] * (1 + s[k]), rel=1e-3)
        assert float(row[5 + k]) == pytest.approx(s[k] * (1 - s[k]), rel=1e-3)


def test_the_right_sigmoid_and_the_softmax_pass() -> None:
    assert gradcheck(sigmoid, (double(5),))
    assert gradcheck(softmax, double(3, 5))
    assert gradgradcheck(softmax, double(3, 5))


# --- in the place of torch's function ---


def test_the_signatures_are_torchs_with_one_option_more() -> None:
    for ours, theirs in (
        (gradcheck, torch.autograd.gradcheck),
        (gradgradcheck, torch.autograd.gradgradcheck),
    ):
        own, other = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
        assert set(own) - set(other) == {"allow_undecided"}
        assert [(name, p.kind, p.default) for name, p in other.items()] == [
            (name, own[name].kind, own[name].default) for name in other
        ]


REPRESENTATIVE = [
    each
    for each in operations.OPERATIONS
    if each.name
    in {
        "F.relu", "F.hardtanh", "F.softmax", "F.layer_norm", "F.batch_norm", "F.pdist", "F.conv2d strided", "F.linear",
        "F.embedding", "F.max_pool2d", "F.lp_pool1d", "F.cross_entropy", "F.ctc_loss", "F.huber_loss", "F.grid_sample",
        "F.scaled_dot_product_attention causal", "F.interpolate bicubic", "F.triplet_margin_loss", "linalg.det",
        "linalg.eigh", "linalg.svd", "linalg.solve", "linalg.cholesky", "linalg.matrix_exp", "linalg.eigvals",
        "linalg.vector_norm inf", "linalg.lstsq", "linalg.multi_dot",
    }
]  # fmt: skip


def test_the_list_of_operations_is_long() -> None:
    assert len({each.name for each in operations.OPERATIONS}) == len(operations.OPERATIONS) >= 150
    assert len(REPRESENTATIVE) == 28


@pytest.mark.parametrize("number", range(28), ids=[each.name for each in REPRESENTATIVE])
def test_an_operation_gets_torchs_verdict_and_its_spoiled_backward_is_caught(number: int) -> None:
    """Spoiled in one way, the ways in turns; `bench/torch_operations.py` has them all."""
    operation, makes = REPRESENTATIVE[number], [*operations.SPOILS.values()] * 2
    inputs = next(operation.inputs())
    assert torch.autograd.gradcheck(operation.function, inputs)
    assert gradcheck(operation.function, inputs)
    right = operations.jacobian(operation.function, inputs)
    ways = (operations.spoiled(operation.function, make(inputs)) for make in makes[number % 3 :])
    wrong = next(way for way in ways if differs(operations.jacobian(way, inputs), right))
    with pytest.raises(GradcheckError, match="Jacobian mismatch for output"):
        gradcheck(wrong, inputs)


def differs(wrong: torch.Tensor, right: torch.Tensor) -> bool:
    """By twice the tolerance somewhere: the transpose of a symmetric matrix does not."""
    return bool(((wrong - right).abs() > 2 * (1e-5 + 1e-3 * right.abs())).any())


def test_at_a_kink_torch_alarms_and_fastgc_does_not() -> None:
    x = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64, requires_grad=True)
    assert not torch.autograd.gradcheck(torch.relu, x, raise_exception=False)
    assert gradcheck(torch.relu, x)


def test_the_errors_do_not_depend_on_the_step() -> None:
    x = double(4)
    for eps in (1e-10, 1e-3, 1.0):
        assert gradcheck(lambda x: torch.sin(3 * x), x, eps=eps)
        assert not gradcheck(wrong_sigmoid, x, eps=eps, raise_exception=False)


def test_tolerances_are_torchs() -> None:
    slightly = function(torch.sin, lambda x, y, g: g * torch.cos(x) * (1 + 5e-4))
    assert gradcheck(slightly, double(4))
    assert not gradcheck(slightly, double(4), rtol=1e-5, raise_exception=False)
    offset = function(torch.sin, lambda x, y, g: g * (torch.cos(x) + 1e-3))
    assert not gradcheck(offset, double(4), raise_exception=False)
    assert gradcheck(offset, double(4), atol=1e-2)


# --- inputs and outputs ---


def test_only_tensors_that_require_grad_are_checked_and_others_pass_through() -> None:
    x, index, plain = double(3), torch.tensor([2, 0]), torch.ones(2, dtype=torch.float64)
    seen = []

    def func(x: Any, index: Any, plain: Any, power: int) -> Any:
        seen.append((index is given[1], plain is given[2], power))
        return x[index] ** power + plain

    given = (x, index, plain, 2)
    assert gradcheck(func, given)
    assert set(seen) == {(True, True, 2)}


def test_every_pair_of_an_output_and_an_input_is_looked_at() -> None:
    class Two(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Any, b: Any) -> Any:
            ctx.save_for_backward(a, b)
            return a * b, a + b

        @staticmethod
        def backward(ctx: Any, g: Any, h: Any) -> Any:
            a, b = ctx.saved_tensors
            return g * b + h, g * a + 2 * h

    with pytest.raises(GradcheckError, match="Jacobian mismatch for output 1 with respect to input 2: 3 of 9"):
        gradcheck(lambda a, n, b: (Two.apply(a, b)[0], *Two.apply(a, b)[1:]), (double(3), 5, double(3, seed=1)))


def test_outputs_without_grad_are_passed_over_unless_all_are() -> None:
    assert gradcheck(lambda x: (x**2, x.detach() ** 3, x.argmax()), double(3))
    assert gradcheck(lambda x: x.argmax(), double(3))
    with pytest.raises(GradcheckError, match="Jacobian mismatch for output 0 with respect to input 0: 3 of 9"):
        gradcheck(lambda x: x.detach() ** 3, double(3))


def test_inputs_may_be_scattered_in_memory_or_no_leaves() -> None:
    base = double(4, 6)
    for x in (base.detach()[::2, 1::2].requires_grad_(), base.T, base[1:3] * 2):
        before = x.detach().clone()
        assert gradcheck(lambda x: torch.sin(x).sum(0), x)
        assert not gradcheck(lambda x: wrong_sigmoid(x), x, raise_exception=False)
        assert torch.equal(x.detach(), before)
    assert base.grad is None


def test_inputs_whose_entries_share_memory_are_refused_as_torch_does() -> None:
    x = torch.ones(1, dtype=torch.float64).expand(3).requires_grad_()
    with pytest.raises(
        RuntimeError, match=r"input 0 has a dimension with stride 0: .* call \.contiguous\(\) on it first"
    ):
        gradcheck(torch.sin, x)
    folded = torch.arange(4.0, dtype=torch.float64).as_strided((3, 2), (1, 1)).requires_grad_()
    assert gradcheck(lambda x: x**2, folded)


def test_nothing_to_check_is_an_error() -> None:
    with pytest.raises(ValueError, match="inputs hold no tensor with requires_grad=True: nothing would be checked"):
        gradcheck(torch.sin, torch.ones(2))
    with pytest.raises(AssertionError, match="check_forward_ad and check_backward_ad are both False"):
        gradcheck(torch.sin, double(2), check_backward_ad=False)


def test_empty_inputs_and_outputs_pass() -> None:
    assert gradcheck(torch.sin, double(0))
    assert gradcheck(lambda x: x[:0], double(3))
    assert gradcheck(lambda x: x.sum(), torch.empty(0, 3, dtype=torch.float64, requires_grad=True))


def test_single_precision_warns_and_is_decided_where_it_can_be() -> None:
    x = double(3).detach().float().requires_grad_()
    with pytest.warns(
        UserWarning, match=r"Input #0 requires gradient and is of dtype torch.float32: round-off may leave"
    ):
        assert gradcheck(torch.sin, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not gradcheck(wrong_sigmoid, x, raise_exception=False)
        assert not torch.autograd.gradcheck(torch.sin, x, raise_exception=False)


# --- complex numbers ---


@forward_mode
def test_complex_inputs_and_outputs_are_pairs_of_real_ones() -> None:
    z = torch.randn(3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert gradcheck(lambda z, x: (z * z.conj() * x, z.abs(), torch.exp(z)), (z, double(3)), check_forward_ad=True)
    assert gradgradcheck(lambda z: z**2 * z.conj(), z)
    unconjugated = function(lambda z: z**2, lambda z, y, g: g * 2 * z)
    with pytest.raises(GradcheckError, match="Jacobian mismatch for output 0 with respect to input 0") as caught:
        gradcheck(unconjugated, z)
    assert "(complex numbers as pairs: the last index is 0 for the real and 1 for the imaginary part)" in str(
        caught.value
    )
    assert gradcheck(function(lambda z: z**2, lambda z, y, g: g * 2 * z.conj()), z)


# --- what else a backward must do ---


def test_a_backward_that_does_something_else_each_time_is_caught() -> None:
    calls = iter(range(10**6))
    restless = function(torch.sin, lambda x, y, g: g * torch.cos(x) * (1 + 1e-7 * next(calls)))
    with pytest.raises(GradcheckError, match="Backward is not reentrant: run twice on the same input and grad_output"):
        gradcheck(restless, double(3))
    calls = iter(range(10**6))
    assert gradcheck(restless, double(3), nondet_tol=1e-3, check_undefined_grad=False)


def test_a_backward_that_ignores_its_grad_output_is_caught() -> None:
    deaf = function(lambda x: (x**2).sum(), lambda x, y, g: 2 * x)
    with pytest.raises(GradcheckError, match="backward is not multiplied by grad_output: for zeros it gives up to"):
        gradcheck(deaf, double(3))
    bent = function(lambda x: (x**2).sum(), lambda x, y, g: 2 * x * g.abs())
    assert torch.autograd.gradcheck(bent, double(3))
    with pytest.raises(
        GradcheckError, match="backward is not linear in grad_output: the gradients of a sum are off by"
    ):
        gradcheck(bent, double(3))


# --- derivatives that vanish but for round-off ---

norm = torch.nn.functional
SERIES = torch.arange(18.0, dtype=torch.float64).reshape(6, 3).sin()
QUERIES, KEYS, VALUES = (torch.cos(k + torch.arange(20.0, dtype=torch.float64)).reshape(5, 4) for k in range(3))


def rotation(x: Any) -> Any:
    return torch.stack([x.cos(), -x.sin(), x.sin(), x.cos()]).reshape(2, 2).det()


VANISHING: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "softmax": (lambda x: torch.softmax(x, -1).sum(), (4, 5)),
    "softmax by row": (lambda x: torch.softmax(x, -1).sum(-1), (4, 5)),
    "softmax of two": (lambda x: torch.softmax(x, -1).sum(-1), (2, 2)),
    "log_softmax": (lambda x: torch.log_softmax(x, -1).exp().sum(), (5,)),
    "logsumexp of log_softmax": (lambda x: torch.logsumexp(torch.log_softmax(x, -1), -1), (5,)),
    "layer_norm": (lambda x: norm.layer_norm(x, (5,)).sum(), (3, 5)),
    "length of layer_norm": (lambda x: norm.layer_norm(x, (5,), eps=0.0).pow(2).sum(), (3, 5)),
    "bias before batch_norm": (lambda b: norm.batch_norm(SERIES + b, None, None, training=True), (3,)),
    "bias before batch_norm, added up": (
        lambda b: norm.batch_norm(SERIES + b, None, None, training=True).sum(),
        (3,),
    ),
    "bias of keys": (lambda b: torch.softmax(QUERIES @ (KEYS + b).T, -1) @ VALUES, (4,)),
    "normalised length": (lambda x: norm.normalize(x, dim=-1).norm(dim=-1), (3, 5)),
    "difference": (lambda x: x - x, (5,)),
    "difference that rounds": (lambda x: 0.3 * x - 0.1 * x - 0.2 * x, (5,)),
    "sin and cos": (lambda x: x.sin() ** 2 + x.cos() ** 2, (5,)),
    "exp": (lambda x: 1e3 * x.exp() * (-x).exp(), (5,)),
    "rotation": (rotation, (1,)),
    "inverse": (lambda x: torch.linalg.inv(x) @ x, (4, 4)),
}
MODES = {"rows": {}, "fast": {"fast_mode": True}, "atol": {"atol": 100.0}, "small atol": {"atol": 1e-7}}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", VANISHING)
def test_a_derivative_that_is_round_off_alone_is_no_failure(name: str, mode: str) -> None:
    func, shape = VANISHING[name]
    assert gradcheck(func, double(*shape), **MODES[mode])


def test_nor_is_a_backward_that_computes_in_single_precision() -> None:
    assert gradcheck(
        lambda x: torch.softmax(x.float(), -1).sum(-1).double(), double(4, 5), rtol=1e-2, allow_undecided=True
    )


@forward_mode
@pytest.mark.parametrize("name", VANISHING)
def test_nor_is_a_second_derivative_or_one_by_forward_mode(name: str) -> None:
    func, shape = VANISHING[name]
    assert gradcheck(func, double(*shape), check_forward_ad=True)
    assert gradgradcheck(func, double(*shape))


NONLINEAR: dict[str, Callable[[Any, Any], Any]] = {
    "squared": lambda slope, g: slope * g * g,
    "without a sign": lambda slope, g: slope * g.abs(),
    "a little without a sign": lambda slope, g: slope * (g + 1e-4 * g.abs()),
    "normalised": lambda slope, g: slope * g / g.abs(),
    "ignored": lambda slope, g: slope,
    "a constant added": lambda slope, g: slope * g + 1e-6,
}


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("name", NONLINEAR)
def test_a_backward_that_is_not_linear_is_caught_at_every_scale(name: str, scale: float) -> None:
    wrong = function(lambda x: scale * (x**2).sum(), lambda x, y, g: NONLINEAR[name](2 * scale * x, g))
    for fast in (False, True):
        with pytest.raises(GradcheckError, match=r"backward is not (linear in|multiplied by) grad_output"):
            gradcheck(wrong, double(5), fast_mode=fast)


def test_a_backward_that_is_not_linear_is_caught_where_the_derivative_vanishes() -> None:
    wrong = function(lambda x: torch.softmax(x, -1).sum(), lambda x, y, g: 1e-6 * g.abs() * torch.ones_like(x))
    with pytest.raises(GradcheckError, match="backward is not linear in grad_output"):
        gradcheck(wrong, double(5), atol=1e-6)
    assert gradcheck(wrong, double(5), atol=1e-4)


def test_an_input_with_a_small_gradient_is_not_hidden_by_one_with_a_large() -> None:
    class Two(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            return (1e9 * x + y).sum()

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 1e9 * g.expand(3), g.abs().expand(3)

    with pytest.raises(GradcheckError, match="backward is not linear in grad_output"):
        gradcheck(Two.apply, (double(3), double(3, seed=1)))


def test_runs_of_a_backward_may_differ_by_round_off() -> None:
    calls = iter(range(10**6))
    shaky = function(torch.sin, lambda x, y, g: g * torch.cos(x) * (1 + 2**-52 * (next(calls) % 3)))
    assert gradcheck(shaky, double(3))


def test_noise_of_a_backward_is_not_taken_for_its_round_off() -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = function(
        lambda x: torch.softmax(x, -1).sum(),
        lambda x, y, g: 1e-4 * torch.randn(x.shape, generator=generator, dtype=x.dtype) * g,
    )
    assert not gradcheck(noisy, double(5), raise_exception=False)
    assert not gradcheck(noisy, double(5), atol=1e-7, fast_mode=True, raise_exception=False)


# --- what memory func sees ---


def from_the_start(x: Any) -> Any:
    """The square, read as C extensions do that look at nothing but the beginning of the memory."""
    memory = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage(), 0, (x.numel(),), (1,))
    return memory.reshape(x.shape) ** 2


def by_address(x: Any) -> Any:
    numbers = (ctypes.c_double * x.numel()).from_address(x.data_ptr())
    return torch.from_numpy(np.ctypeslib.as_array(numbers).copy().reshape(x.shape)) ** 2


def of_numpys_base(x: Any) -> Any:
    array = x.numpy()
    base = array if array.base is None else array.base
    return torch.from_numpy(np.asarray(base).reshape(-1)[: x.numel()].reshape(x.shape).copy()) ** 2


def by_strides(x: Any) -> Any:
    return torch.as_strided(x, x.shape, x.stride(), x.storage_offset()) ** 2


READERS = {each.__name__: each for each in (from_the_start, by_address, of_numpys_base, by_strides)}


@pytest.mark.parametrize("name", READERS)
def test_what_reads_the_memory_from_its_start_sees_its_own_point(name: str) -> None:
    read = function(lambda x: READERS[name](x.detach()), lambda x, y, g: 2 * x * g)
    assert gradcheck(read, double(4, 5))
    off = function(lambda x: READERS[name](x.detach()), lambda x, y, g: 2.1 * x * g)
    assert not gradcheck(off, double(4, 5), raise_exception=False)


def test_a_backward_that_reads_the_memory_of_grad_output_sees_its_own() -> None:
    assert gradcheck(
        function(lambda x: 2 * x, lambda x, y, g: from_the_start(g.abs().sqrt()) * 2 * g.sign()), double(6)
    )
    direct = function(lambda x: 2 * x, lambda x, y, g: torch.as_strided(g, (6,), (1,), 0) * 2)
    assert gradcheck(direct, double(6))


def test_strides_of_plain_code_are_the_users() -> None:
    assert gradcheck(lambda x: torch.as_strided(x, (3,), (2,), 0).sin(), double(25))
    assert gradcheck(lambda x: x.as_strided((3,), (2,)).sin(), double(5))
    part = double(30).detach()[5:15].requires_grad_()
    assert gradcheck(lambda x: x.as_strided((3,), (2,), 6).sin(), part)


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: x,
    "part": lambda x: x[:, 1:3],
    "transposed": lambda x: x.transpose(1, 2),
    "every second": lambda x: x[::2, ::2],
    "one of several": lambda x: x[1],
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("wide", [False, True], ids=["near", "of a large memory"])
def test_func_sees_the_strides_and_the_offset_of_the_input(name: str, wide: bool) -> None:
    base = double(1 << 18).detach()[: 2 * 3 * 4 * 4].view(2, 3, 4, 4) if wide else double(2, 3, 4, 4).detach()
    x = LAYOUTS[name](base).requires_grad_()
    seen = set()

    def spied(y: Any) -> Any:
        seen.add((y.stride(), y.storage_offset(), y.is_contiguous()))
        return y.detach() ** 2

    assert gradcheck(function(spied, lambda x, y, g: 2 * x * g), x)
    assert seen == {(x.stride(), x.storage_offset(), x.is_contiguous())}


@forward_mode
def test_so_does_forward_mode() -> None:
    x = double(4, 6).detach()[1:, ::2].requires_grad_()
    seen = set()

    def spied(y: Any) -> Any:
        seen.add((y.stride(), y.storage_offset()))
        return y.sin()

    assert gradcheck(spied, x, check_forward_ad=True, check_backward_ad=False)
    assert (x.stride(), x.storage_offset()) in seen


def test_what_lies_beside_an_input_is_what_it_was() -> None:
    base = double(8).detach()
    x = base[2:5].requires_grad_()
    beside = function(lambda x: x.detach() * torch.as_strided(x.detach(), (3,), (1,), 5), lambda x, y, g: base[5:8] * g)
    assert gradcheck(beside, x)


WRITERS: dict[str, Callable[[Any], Any]] = {
    "data": lambda x: x.data.mul_(2) + x,
    "a custom function": function(lambda x: x.detach().mul_(2) * 1, lambda x, y, g: 2 * g),
    "numpy": lambda x: x + torch.from_numpy(np.multiply(x.detach().numpy(), 2, out=x.detach().numpy())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_function_that_writes_into_its_input_is_an_error_and_the_input_is_put_back(name: str) -> None:
    x = double(4)
    before = x.detach().clone()
    with pytest.raises(
        ValueError, match=r"func changes input 0 in place, which autograd does not see; clone it in func"
    ):
        gradcheck(WRITERS[name], x)
    assert torch.equal(x.detach(), before)


def test_so_is_a_backward_that_does() -> None:
    def backward(x: Any, y: Any, g: Any) -> Any:
        x.data.mul_(2)
        return x * g

    x = double(4)
    before = x.detach().clone()
    with pytest.raises(ValueError, match="func changes input 0 in place"):
        gradcheck(function(lambda x: x**2, backward), x, raise_exception=False)
    assert torch.equal(x.detach(), before)


def test_a_write_beside_the_inputs_stays_there() -> None:
    x = double(4)

    def func(y: Any) -> Any:
        result = y.detach() ** 2
        if not torch.equal(y, x):
            y.detach().zero_()
        return result

    assert gradcheck(function(func, lambda x, y, g: 2 * x * g), x)
    running = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert gradcheck(lambda x: norm.batch_norm(x, *running, training=True), double(6, 3))


# --- what is not checked ---


def test_none_for_a_gradient_is_zero() -> None:
    assert gradcheck(lambda x, y: operations.Deaf.apply(x, y)[0], (double(3), double(3)))
    with pytest.raises(GradcheckError, match="output 0 with respect to input 1: 3 of 9 checked entries differ"):
        gradcheck(lambda x, y: sum(operations.Deaf.apply(x, y)), (double(3), double(3)))


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"x": [x]}, lambda x: {x}])
def test_tensors_inside_of_an_argument_are_not_passed_over_in_silence(wrap: Callable[[Any], Any]) -> None:
    inputs = wrap(double(3)), double(3, seed=1)
    message = (
        r"undecided: input 0 is a (list|dict|set) of tensors that require grad, .*; pass each of them as an argument"
    )
    with pytest.raises(GradcheckError, match=message):
        gradcheck(lambda some, y: y * 2, inputs)
    assert gradcheck(lambda some, y: y * 2, inputs, allow_undecided=True)
    assert gradcheck(lambda some, y: y * 2, (wrap(torch.ones(2)), double(3)))


def test_a_sparse_gradient_is_checked() -> None:
    rows = torch.tensor([0, 2, 2])
    assert gradcheck(lambda w: norm.embedding(rows, w, sparse=True), double(4, 3))


def test_a_wrong_complex_backward_is_caught() -> None:
    z = torch.complex(double(3), double(3, seed=1)).detach()
    wrong = function(lambda z: 2 * z, lambda z, y, g: 7 * g)
    for dtype in (torch.complex128, torch.complex64):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert not gradcheck(wrong, z.to(dtype).requires_grad_(), raise_exception=False)
            assert gradcheck(lambda z: 2 * z, z.to(dtype).requires_grad_())
    assert not gradcheck(lambda x: torch.complex(wrong(x), x), double(3), raise_exception=False)


class Pair(torch.autograd.Function):
    """Two outputs, of which either may have an undefined gradient, which is not handled."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.set_materialize_grads(False)
        return x * 2, x * 3

    @staticmethod
    def backward(ctx: Any, g: Any, h: Any) -> Any:
        return 2 * g + 3 * h


class Handling(Pair):
    @staticmethod
    def backward(ctx: Any, g: Any, h: Any) -> Any:
        return (0 if g is None else 2 * g) + (0 if h is None else 3 * h) if g is not None or h is not None else None


def test_an_undefined_gradient_must_be_taken_for_zero() -> None:
    message = r"backward does not take an undefined grad_output \(None\) for zero; handle it, or use check_undefined"
    summed = lambda kind: lambda x: kind.apply(x)[0] + kind.apply(x)[1]  # noqa: E731
    with pytest.raises((GradcheckError, TypeError)):
        gradcheck(summed(Pair), double(2))
    assert gradcheck(Handling.apply, double(2))
    once = function(lambda x: x * 2, lambda x, y, g: 2 * g)

    class Strict(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.set_materialize_grads(False)
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * g

    assert gradcheck(once, double(2))
    with pytest.raises(GradcheckError, match=message):
        gradcheck(Strict.apply, double(2))
    assert gradcheck(Strict.apply, double(2), check_undefined_grad=False)


def test_a_gradient_of_another_dtype_is_caught_on_request() -> None:
    def func(x: Any) -> Any:
        return torch.sin(x)

    assert gradcheck(func, double(2), check_grad_dtypes=True)


@forward_mode
def test_forward_mode_is_checked_on_request() -> None:
    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(x: Any) -> Any:
            return x**2

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * ctx.saved_tensors[0] * g

        @staticmethod
        def jvp(ctx: Any, t: Any) -> Any:
            return 3 * ctx.saved_tensors[0] * t

    assert gradcheck(Forward.apply, double(3))
    with pytest.raises(GradcheckError, match=r"output 0 with respect to input 0 \(forward mode\): 3 of 9"):
        gradcheck(Forward.apply, double(3), check_forward_ad=True)
    assert gradcheck(torch.sin, double(3), check_forward_ad=True, check_backward_ad=False)


# --- all entries at once ---


def linear_map(m: int, n: int) -> Any:
    return double(m, n, seed=1).detach()


def off_in_one(m: int, n: int, error: float) -> Callable[..., Any]:
    """sin(A x) of n inputs and m outputs; one entry of its Jacobian is off by ``error``."""
    a = linear_map(m, n)

    def backward(x: Any, y: Any, g: Any) -> Any:
        found = a.mT @ (g * torch.cos(a @ x))
        found[n // 2] += error * g[m // 2]
        return found

    return function(lambda x: torch.sin(a @ x), backward)


SIZES = [(1, 1), (1, 3), (4, 4), (5, 5), (4, 30), (30, 4), (30, 40)]


@pytest.mark.parametrize(("m", "n"), SIZES)
@pytest.mark.parametrize("fast_mode", [False, True])
def test_one_entry_off_by_more_than_the_tolerance_fails_and_by_less_passes(m: int, n: int, fast_mode: bool) -> None:
    x = (double(n) / n).detach().requires_grad_()
    assert gradcheck(off_in_one(m, n, 0.0), x, rtol=0.0, fast_mode=fast_mode)
    assert gradcheck(off_in_one(m, n, 5e-6), x, rtol=0.0, fast_mode=fast_mode)
    for error in (2e-5, 1e-2, 1e3):
        assert not gradcheck(off_in_one(m, n, error), x, rtol=0.0, raise_exception=False, fast_mode=fast_mode), error


@pytest.mark.parametrize(("m", "n"), SIZES)
def test_a_right_jacobian_takes_few_calls_and_backward_passes(m: int, n: int) -> None:
    calls: list[str] = []
    a = linear_map(m, n)

    def forward(x: Any) -> Any:
        calls.append("forward")
        return torch.sin(a @ x)

    def backward(x: Any, y: Any, g: Any) -> Any:
        calls.append("backward")
        return a.mT @ (g * torch.cos(a @ x))

    assert gradcheck(function(forward, backward), (double(n) / n).detach().requires_grad_())
    assert calls.count("forward") <= 2 + 2 * 8
    assert calls.count("backward") <= 7 + 4 + 1  # four vectors, their sum, zeros, a repetition; four more; undefined


def soft_alignment(gamma: float, factor: float, calls: list[int]) -> Callable[..., Any]:
    """The cost of aligning two series (Cuturi & Blondel 2017) from their distances; nearly kinked for small gamma.

    ``factor``: of the backward, right for 1; ``calls`` gets an item for every forward pass.
    """

    def costs(distances: Any) -> Any:
        n, m = distances.shape
        r = torch.full((n + 1, m + 1), torch.inf, dtype=distances.dtype)
        r[0, 0] = 0
        for i, j in np.ndindex(n, m):
            before = torch.stack([r[i, j], r[i, j + 1], r[i + 1, j]])
            r[i + 1, j + 1] = distances[i, j] - gamma * torch.logsumexp(-before / gamma, 0)
        return r[1:, 1:]

    def last(distances: Any) -> Any:
        calls.append(1)
        return costs(distances)[-1, -1]

    def backward(distances: Any, _: Any, g: Any) -> Any:
        r, e = costs(distances), torch.zeros_like(distances)
        n, m = e.shape
        e[-1, -1] = 1
        for i, j in ((n - 1 - k, m - 1 - h) for k, h in np.ndindex(n, m)):
            for a, b in ((i + 1, j), (i, j + 1), (i + 1, j + 1)):
                if a < n and b < m:
                    e[i, j] += e[a, b] * torch.exp((r[a, b] - r[i, j] - distances[a, b]) / gamma)
        return factor * g * e

    return function(last, backward)


@pytest.mark.filterwarnings("ignore:Input #0 requires gradient and is of dtype torch.float32")
@pytest.mark.parametrize("gamma", [1.0, 0.01])
@pytest.mark.parametrize(("dtype", "most"), [("float64", 2 + 2 * 8), ("float32", 240)])  # 240: twenty for each entry
def test_near_kinks_and_in_single_precision_calls_stay_few(gamma: float, dtype: str, most: int) -> None:
    distances = double(4, 3).detach().square().to(getattr(torch, dtype)).requires_grad_()
    calls: list[int] = []
    assert gradcheck(soft_alignment(gamma, 1.0, calls), distances)
    assert len(calls) <= most
    assert not gradcheck(soft_alignment(gamma, 1.1, []), distances, raise_exception=False)


@forward_mode
def test_few_vectors_certify_forward_mode_too() -> None:
    calls = []

    def counted(x: Any) -> Any:
        calls.append(1)
        return torch.tanh(x)

    assert gradcheck(counted, double(40), check_forward_ad=True)
    assert len(calls) <= 2 + 2 * 8 + 4


@pytest.mark.parametrize(("m", "n", "most"), [(1, 1, 10), (9, 1, 1e3), (1, 9, 1e3), (9, 9, 5e3)])
def test_an_error_of_the_stated_size_is_never_hidden(m: int, n: int, most: float) -> None:
    limit = sides.largest_hidden(m, n, sides.AT_ONCE)
    assert limit <= most
    u, v = sides.input_sides(n, range(sides.AT_ONCE)), sides.output_sides(m)
    for i, j in np.ndindex(m, n):
        assert np.abs(limit * np.outer(v[:, i], u[:, j])).max() > 2


def test_an_error_hidden_by_the_others_of_its_row_is_found() -> None:
    """Errors of both signs, which cancel along any vector of equal weights."""
    x = double(6)

    def backward(x: Any, y: Any, g: Any) -> Any:
        return g * torch.cos(x) + 1e-4 * torch.tensor([1.0, -1.0] * 3, dtype=x.dtype) * g.sum()

    with pytest.raises(GradcheckError, match="36 of 36"):
        gradcheck(function(torch.sin, backward), x, rtol=0.0)


def test_an_output_that_is_rounded_is_not_certified_by_standing_still() -> None:
    coarse = function(lambda x: (64 * x).round() / 64, lambda x, y, g: 0 * g)
    calls = []

    def counted(x: Any) -> Any:
        calls.append(1)
        return coarse(x)

    gradcheck(counted, double(4), raise_exception=False)
    assert len(calls) > 20


# --- many points at once ---


def spying(func: Callable[..., Any]) -> tuple[Callable[..., Any], list[bool]]:
    """The function, and for each of its calls whether it came from vmap."""
    calls: list[bool] = []

    def spied(*inputs: Any) -> Any:
        calls.append(bool(torch._C._functorch.is_batchedtensor(inputs[0])))
        return func(*inputs)

    return spied, calls


def branching(x: Any) -> Any:
    return x * 2 if x.sum() > -100 else x


def in_numpy(x: Any) -> Any:
    return torch.sin(x) + 0 * torch.from_numpy(np.cos(x.detach().numpy()))


def in_place(x: Any) -> Any:
    y = x.clone()
    y.mul_(x)
    y[0] += 1
    return y


def seeded(x: Any) -> Any:
    return x * torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)


def several(x: Any) -> Any:
    return x.sin(), x.argmax(), (x**2).sum(), x.exp()[None, :]


BATCHED = {"sine": torch.sin, "in place": in_place, "several": several, "einsum": lambda x: torch.outer(x, x[:3])}
UNBATCHED = {"branching": branching, "numpy": in_numpy, "seeded": seeded, "custom": sigmoid}


@pytest.mark.parametrize("name", [*BATCHED, *UNBATCHED])
@pytest.mark.parametrize("real", [True, False], ids=["real", "complex"])
def test_points_are_evaluated_at_once_where_that_works_and_else_one_by_one(name: str, real: bool) -> None:
    x = double(20) if real else torch.complex(double(20), double(20, seed=1)).detach().requires_grad_()
    if not real and name in ("several", "branching", "custom"):  # they have no order, or their backward no conjugate
        return
    func, calls = spying((BATCHED | UNBATCHED)[name])
    assert gradcheck(func, x, atol=0.0)  # entry by entry
    assert (len(calls) < 2 * x.numel()) == (name in BATCHED)
    assert any(calls)
    before = len(calls)
    wrong = operations.spoiled(func, operations.SPOILS["one entry off"]((x,)))
    assert not gradcheck(wrong, x, raise_exception=False)
    assert len(calls) - before > 2 * x.numel()  # a custom function without a rule for vmap, called one by one


class Forked(torch.autograd.Function):
    """Doubles in a plain call, and triples under vmap; its backward doubles or triples."""

    factor = 2

    @staticmethod
    def forward(x: Any) -> Any:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any) -> Any:
        return 3 * x, 0

    @classmethod
    def backward(cls, ctx: Any, g: Any) -> Any:
        return cls.factor * g


class ForkedWrongly(Forked):
    factor = 3


def test_what_plain_calls_give_counts() -> None:
    func, calls = spying(Forked.apply)
    assert gradcheck(func, double(20), atol=0.0)
    assert any(calls)
    assert calls.count(False) > 40
    assert not gradcheck(ForkedWrongly.apply, double(20), raise_exception=False)


def test_what_a_plain_backward_gives_counts() -> None:
    def forked(right_at_once: bool) -> Callable[..., Any]:
        def backward(x: Any, y: Any, g: Any) -> Any:
            return g * torch.cos(x) * (1 + (right_at_once != torch._C._functorch.is_batchedtensor(g)))

        return function(torch.sin, backward)

    assert gradcheck(forked(False), double(6))
    with pytest.raises(GradcheckError, match="6 of 36 checked entries differ"):
        gradcheck(forked(True), double(6))


def test_an_accusation_rests_on_plain_calls() -> None:
    func, calls = spying(lambda x: x.sin() * x.detach())
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradcheck(func, double(20))
    last = len(calls) - 1 - calls[::-1].index(True)
    assert calls[last + 1 :].count(False) >= 40


def test_a_noisy_function_is_not_evaluated_at_once() -> None:
    generator = np.random.default_rng(0)
    func, calls = spying(lambda x: x + 1e-3 * float(generator.standard_normal()))
    assert not gradcheck(func, double(8), raise_exception=False)
    assert calls.count(False) > 16


def test_blocks_are_bounded_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    vmap = torch.func.vmap

    def measured(func: Any) -> Any:
        def mapped(*stacks: Any) -> Any:
            sizes.append(len(stacks[0]))
            return vmap(func)(*stacks)

        return mapped

    monkeypatch.setattr("torch.func.vmap", measured)
    monkeypatch.setattr("fastgc.torch._outputs.BATCH_NUMBERS", 20 * 120)
    assert gradcheck(lambda x: x[:20] ** 2, double(100), atol=0.0)
    assert max(sizes) <= 21
    assert len(sizes) >= 10
    sizes.clear()
    assert gradcheck(lambda x: (x * torch.ones(40, 1, dtype=x.dtype)).exp().sum(0)[:20], double(100), atol=0.0)
    assert not sizes  # it computes 4,000 numbers: more than there is room for
    monkeypatch.setattr("fastgc.torch._backward.BATCH_NUMBERS", 200)
    assert gradcheck(softmax, double(3, 5), atol=0.0)
    assert not gradcheck(wrong_sigmoid, double(30), raise_exception=False)


def test_a_computation_in_single_precision_does_not_hide_a_missing_gradient() -> None:
    missing = function(lambda x: (1 + 1e-3 * x.float()).double(), lambda x, y, g: 0 * g)
    assert not gradcheck(missing, double(4), raise_exception=False)


# --- second derivatives ---


def test_second_derivatives_that_are_zero_to_torch_pass() -> None:
    inputs = double(4, 3), double(4, 3, seed=1)
    assert torch.autograd.gradgradcheck(torch.nn.functional.l1_loss, inputs)
    assert gradgradcheck(torch.nn.functional.l1_loss, inputs)


@forward_mode
def test_second_derivatives_are_checked_over_inputs_and_grad_outputs() -> None:
    class Once(torch.autograd.Function):
        """A first derivative whose own derivative is wrong."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * 3 * (x * x.detach())

    assert gradcheck(Once.apply, double(3))
    with pytest.raises(GradcheckError, match="Jacobian mismatch for output 0 with respect to input 0"):
        gradgradcheck(Once.apply, double(3))
    assert not gradgradcheck(Once.apply, double(3), raise_exception=False)
    assert gradgradcheck(torch.sin, double(3), gen_non_contig_grad_outputs=True)
    assert gradgradcheck(torch.sin, double(3), grad_outputs=double(3, seed=1), check_fwd_over_rev=True)
    assert gradgradcheck(lambda x, w: x @ w, (double(2, 3), double(3, 2)), fast_mode=True)


# --- undecided, fast, refused ---


def test_what_cannot_be_decided_fails_unless_it_is_allowed() -> None:
    generator = torch.Generator().manual_seed(0)

    def noisy(x: Any) -> Any:
        return 1e-3 * x + torch.rand(3, generator=generator, dtype=torch.float64)

    with pytest.raises(
        GradcheckError, match=r"^undecided: the Jacobian of output 0 with respect to input 0: noise or round"
    ):
        gradcheck(noisy, double(3))
    assert not gradcheck(noisy, double(3), raise_exception=False)
    assert gradcheck(noisy, double(3), allow_undecided=True)


@pytest.mark.parametrize("fast_mode", [False, True])
def test_dropout_is_undecided_after_a_few_inputs(fast_mode: bool) -> None:
    torch.manual_seed(0)
    calls = []

    def dropping(x: Any) -> Any:
        calls.append(1)
        return torch.nn.functional.dropout(x, 0.5)

    with pytest.raises(GradcheckError, match=r"^undecided: (.|\n)*note: func is not deterministic: a second call gave"):
        gradcheck(dropping, double(40), fast_mode=fast_mode)
    assert len(calls) < 800  # about 2,400 for all inputs
    assert gradcheck(dropping, double(40), fast_mode=fast_mode, allow_undecided=True)


def test_noise_that_hides_nothing_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)

    def restless(factor: float) -> Callable[..., Any]:
        right = function(torch.sin, lambda x, y, g: factor * g * torch.cos(x))
        return lambda x: right(x) + 1e-12 * torch.rand(4, generator=generator, dtype=torch.float64)

    assert gradcheck(restless(1.0), double(4))
    with pytest.raises(GradcheckError, match=r"^Jacobian mismatch for output 0 with respect to input 0: 4 of 16"):
        gradcheck(restless(1.01), double(4))


def test_fast_mode_finds_one_wrong_entry_among_many() -> None:
    w = double(60, 50)
    place = 1234

    def backward(x: Any, y: Any, g: Any) -> Any:
        result = (1 - y**2) * g
        result.view(-1)[place] *= 1.5
        return result

    wrong = function(torch.tanh, backward)
    x = double(50, seed=1).detach()
    assert gradcheck(lambda w: torch.tanh(w) @ x, w, fast_mode=True)
    with pytest.raises(GradcheckError, match="1 of") as caught:
        gradcheck(lambda w: wrong(w) @ x, w, fast_mode=True)
    assert f"worst: output [{place // 50}] by input [{place // 50}, {place % 50}]" in str(caught.value)


class OfBatches(torch.autograd.Function):
    """The square; its backward has another factor, or raises, where it is given a batch: wrong, on purpose."""

    @staticmethod
    def forward(ctx: Any, x: Any, factor: float) -> Any:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        batched = torch._C._functorch.is_legacy_batchedtensor(g)
        if batched and not ctx.factor:
            raise RuntimeError("one at a time")
        return (ctx.factor if batched else 2.0) * ctx.saved_tensors[0] * g, None


def test_backwards_are_compared_in_batches_if_asked_for() -> None:
    x = double(3)
    assert gradcheck(torch.sin, x, check_batched_grad=True)
    assert gradcheck(lambda x, y: (x @ y, (x * 2).sum()), (double(2, 3), double(3, 2)), check_batched_grad=True)
    assert gradcheck(lambda x: OfBatches.apply(x, 2.0), x, check_batched_grad=True)
    assert gradcheck(lambda x: OfBatches.apply(x, 3.0), x), "entry by entry it is right"
    with pytest.raises(GradcheckError, match="backward gives something else in a batch by vmap: off by"):
        gradcheck(lambda x: OfBatches.apply(x, 3.0), x, check_batched_grad=True)
    with pytest.raises(GradcheckError, match=r"backward cannot be computed in a batch by vmap \(RuntimeError: one at"):
        gradcheck(lambda x: OfBatches.apply(x, 0.0), x, check_batched_grad=True)
    assert gradgradcheck(torch.sin, x, check_batched_grad=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own rules for forward mode use it
def test_forward_mode_is_compared_in_batches_if_asked_for() -> None:
    both = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert gradcheck(lambda x: (x.sin(), x.sum() * 2), double(3), **both)

    class Steady(torch.autograd.Function):
        """The square; its forward mode has another factor in a batch: wrong, on purpose."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * ctx.saved_tensors[0] * g

        @staticmethod
        def jvp(ctx: Any, t: Any) -> Any:
            factor = 3 if torch._C._functorch.is_legacy_batchedtensor(t) else 2
            return factor * ctx.saved_tensors[0] * t

    assert gradcheck(Steady.apply, double(3), check_forward_ad=True)
    with pytest.raises(GradcheckError, match="forward mode gives something else in a batch by vmap: off by"):
        gradcheck(Steady.apply, double(3), **both)


def test_batches_of_what_is_not_checked_are_refused_and_masks_have_no_effect_on_dense_inputs() -> None:
    with pytest.raises(AssertionError, match="check_batched_forward_grad=True needs check_forward_ad=True"):
        gradcheck(torch.sin, double(2), check_batched_forward_grad=True)
    with pytest.raises(AssertionError, match="check_batched_grad=True needs check_backward_ad=True"):
        gradcheck(torch.sin, double(2), check_batched_grad=True, check_backward_ad=False, check_forward_ad=True)
    assert gradcheck(torch.sin, double(2), masked=True) and gradcheck(torch.sin, double(2), masked=False)


def test_tensors_that_are_not_supported_are_refused() -> None:
    with pytest.raises(
        NotImplementedError, match=r"input 0 has layout torch\.sparse_coo; fastgc checks dense inputs only"
    ):
        gradcheck(lambda x: x.to_dense(), torch.eye(2, dtype=torch.float64).to_sparse().requires_grad_())
    with pytest.raises(
        NotImplementedError, match=r"input 0 is of dtype torch\.float8_e5m2; fastgc checks bfloat16, float16 to float64"
    ):
        gradcheck(torch.sin, torch.ones(2).to(torch.float8_e5m2).requires_grad_())
    with pytest.raises(ValueError, match="input 0 is on the meta device, where tensors hold no numbers; pass one that"):
        gradcheck(torch.sin, torch.ones(2, device="meta", requires_grad=True))
    with pytest.raises(ValueError, match=r"output 0 has layout torch.sparse_coo; call to_dense\(\) on it in func"):
        gradcheck(lambda x: x.to_sparse(), double(2, 2))
    with pytest.raises(TypeError, match="func returned str; it must return a tensor or a tuple of tensors"):
        gradcheck(lambda x: "x", double(2))


@pytest.mark.filterwarnings("ignore:Input #0 requires gradient")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_both_kinds_is_checked(dtype: Any) -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, factor: float) -> Any:
            ctx.save_for_backward(x)
            ctx.factor = factor
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return ctx.factor * ctx.saved_tensors[0] * g, None

    x = torch.tensor([0.3, -1.7, 2.2], dtype=dtype, requires_grad=True)
    assert gradcheck(lambda x: Square.apply(x, 2), x, rtol=0.05, atol=0.05, allow_undecided=True)
    with pytest.raises(GradcheckError, match=r"^Jacobian mismatch for output 0 with respect to input 0"):
        gradcheck(lambda x: Square.apply(x, 8), x, rtol=0.05, atol=0.05)


def test_outputs_of_another_size_beside_the_inputs_are_an_error() -> None:
    x = double(3)
    with pytest.raises(ValueError, match=r"func returned \[2\] numbers at a displaced point; \[3\] at the inputs"):
        gradcheck(lambda y: y * 1 if torch.equal(y, x) else y[:2] * 1, x)


def test_an_exception_of_func_passes_through_and_singular_matrices_beside_the_point_do_not() -> None:
    def picky(y: Any) -> Any:
        if not torch.equal(y, x):
            raise KeyError("only here")
        return y * 1

    x = double(2)
    with pytest.raises(KeyError, match="only here"):
        gradcheck(picky, x)
    edge = torch.diag(torch.tensor([1e-9, 1.0], dtype=torch.float64)).requires_grad_()
    assert gradcheck(lambda a: torch.linalg.cholesky((a + a.mT) / 2)[1, 1], edge, allow_undecided=True)


def test_global_state_is_left_alone() -> None:
    x = double(3)
    state = torch.get_rng_state()
    numbers = np.random.get_state()[1].copy()  # noqa: NPY002
    assert gradgradcheck(torch.sin, x)
    assert torch.equal(state, torch.get_rng_state())
    assert (np.random.get_state()[1] == numbers).all()  # noqa: NPY002
    assert x.grad is None
    assert fastgc.torch.gradcheck is gradcheck


# --- where a function raises beside its inputs ---


def guarded(factor: float) -> Callable[[Any], Any]:
    logarithm = function(torch.log, lambda x, y, grad: factor * grad / x)

    def call(x: Any) -> Any:
        if bool((x.detach() <= 0).any()):
            raise RuntimeError("scale must be positive")
        return logarithm(x)

    return call


@pytest.mark.parametrize("fast_mode", [False, True])
def test_a_function_that_raises_beside_its_inputs_is_checked(fast_mode: bool) -> None:
    x = torch.tensor([0.05, 1, 2, 3], dtype=torch.float64, requires_grad=True)
    assert gradcheck(guarded(1.0), (x,), eps=0.06, fast_mode=fast_mode)
    with pytest.raises(
        GradcheckError, match=r"(?s)Jacobian mismatch.*func raised RuntimeError: scale must be positive"
    ):
        gradcheck(guarded(2.0), (x,), eps=0.06, fast_mode=fast_mode)


@pytest.mark.parametrize("fast_mode", [False, True])
def test_what_a_function_raises_at_every_displaced_point_passes_through(fast_mode: bool) -> None:
    def lonely(x: Any) -> Any:
        if bool((x != 1).any()):
            raise OSError("only here")
        return x * 1

    with pytest.raises(OSError, match="only here"):
        gradcheck(lonely, (torch.ones(3, dtype=torch.float64, requires_grad=True),), fast_mode=fast_mode)


@pytest.mark.parametrize("fast_mode", [False, True])
def test_a_backward_that_is_not_finite_in_one_of_many_entries_fails(fast_mode: bool) -> None:
    def backward(x: Any, y: Any, grad: Any) -> Any:
        slopes = grad * x.cos()
        slopes[61] = slopes[61] * float("nan") if bool(grad[61] != 0) else slopes[61]
        return slopes

    with pytest.raises(GradcheckError, match="mismatch for output 0 with respect to input 0"):
        gradcheck(function(torch.sin, backward), (double(100),), fast_mode=fast_mode)


# --- several threads ---


def test_warnings_are_heard_as_before_while_a_function_is_called() -> None:
    gradcheck(torch.tanh, double(2, 20))  # imports what it needs, which may have filters of its own
    warnings.simplefilter("default")
    before, seen = list(warnings.filters), []

    def heard(x: Any) -> Any:
        seen.append(list(warnings.filters))
        return torch.tanh(x) @ torch.ones(20, 30, dtype=torch.float64)

    assert gradcheck(heard, double(2, 20))
    assert seen and all(each == before for each in seen)


def test_functions_without_rules_for_vmap_are_called_one_by_one_and_nothing_warns() -> None:
    """The warnings of a call to vmap are errors here, and were they raised, nobody would see it."""
    calls = []

    def without_rule(x: Any) -> Any:
        calls.append(torch._C._functorch.is_batchedtensor(x))
        return torch.nn.functional.kl_div(
            torch.log_softmax(x, -1), torch.full((5, 5), 0.2, dtype=torch.float64), reduction="sum"
        )

    assert gradcheck(without_rule, double(5, 5))
    assert calls and not any(calls)


@pytest.mark.parametrize("mode", [{}, {"check_batched_grad": False, "fast_mode": True}], ids=["all", "fast"])
def test_functions_can_be_checked_in_several_threads(mode: dict[str, Any]) -> None:
    wrong = function(torch.sin, lambda x, y, g: g * torch.cos(x) * 1.01)
    gradcheck(torch.tanh, double(4, 5), **mode)
    warnings.simplefilter("default")
    before = list(warnings.filters)
    for _ in range(3):
        found = at_once(
            *[partial(gradcheck, torch.tanh, double(4, 5), **mode)] * 3,
            partial(gradcheck, wrong, double(5), raise_exception=False, **mode),
        )
        assert found == [True, True, True, False]
        assert list(warnings.filters) == before


@forward_mode
def test_forward_mode_can_be_checked_in_several_threads() -> None:
    def slow(x: Any) -> Any:
        time.sleep(1e-3)  # others begin meanwhile
        return torch.tanh(x)

    assert gradcheck(slow, double(3), check_forward_ad=True)
    for _ in range(3):
        assert all(at_once(*[partial(gradcheck, slow, double(6), check_forward_ad=True)] * 4))


# --- conventions at kinks ---


class Outside(torch.autograd.Function):
    """``2 relu(x) - relu(-x)`` with a wrong slope on one side and the usual convention at 0."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return 2 * torch.relu(x) - torch.relu(-x)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return g * torch.where(x > 0, 2.0, torch.where(x < 0, 1.5, 0.0))


@pytest.mark.parametrize("options", [{}, {"fast_mode": True}])
def test_a_convention_at_coinciding_kinks_passes_where_the_gradient_is_right_beside_them(options: Any) -> None:
    zeros = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    assert fastgc.torch.gradcheck(lambda x: 2 * torch.relu(x) - torch.relu(-x), (zeros,), **options)
    assert not fastgc.torch.gradcheck(Outside.apply, (zeros,), raise_exception=False, fast_mode="fast_mode" in options)
