"""Whole PyTorch modules: what is checked, what is caught, and what stays untouched."""

from __future__ import annotations

import collections
import copy
import dataclasses
import subprocess
import sys
import tracemalloc
import types
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.support.concurrency import at_once

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
from torch import nn  # noqa: E402

from fastgc._evaluation.evaluator import Ray, silent  # noqa: E402
from fastgc._parameters.layout import named_layout  # noqa: E402
from fastgc.torch import check_module  # noqa: E402
from fastgc.torch._evaluator import Batching, TorchEvaluator  # noqa: E402
from tests.support.torch_operations import Deaf  # noqa: E402


@pytest.fixture(autouse=True)
def _reproducible() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


class Sigmoid(torch.autograd.Function):
    """With the sign of its derivative's second term as an argument: +1 is wrong, on purpose."""

    @staticmethod
    def forward(ctx: Any, x: Any, sign: float) -> Any:
        s = torch.sigmoid(x)
        ctx.save_for_backward(s)
        ctx.sign = sign
        return s

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (s,) = ctx.saved_tensors
        return g * s * (1 + ctx.sign * s), None


class Softmax(torch.autograd.Function):
    """A softmax whose backward forgets the mean, on purpose: a sum of the outputs would be right only by chance."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return torch.softmax(x, -1)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g - g.mean(-1, keepdim=True)  # 0 where all g are equal, as it should be there


class OneEntryOff(torch.autograd.Function):
    """A matrix product whose gradient has one wrong entry."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any) -> Any:
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, w = ctx.saved_tensors
        dw = x.T @ g
        dw[17, 5] *= 1.5
        return g @ w.T, dw


class Apply(nn.Module):
    """A module of one function and perhaps a weight."""

    def __init__(self, function: Callable[..., Any], *shape: int) -> None:
        super().__init__()
        self.function = function
        if shape:
            self.weight = nn.Parameter(torch.randn(*shape))

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, self.weight) if hasattr(self, "weight") else self.function(*inputs)


def sigmoid_net(sign: float) -> nn.Module:
    return nn.Sequential(nn.Linear(10, 5), Apply(lambda x: Sigmoid.apply(x, sign)), nn.Linear(5, 1))


def relu_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))


# --- verdicts ---


def test_a_right_module_passes_with_every_parameter_and_input_listed() -> None:
    report = check_module(sigmoid_net(-1.0), torch.randn(4, 10))
    assert report.passed
    assert list(report.tensors) == ["0.weight", "0.bias", "2.weight", "2.bias", "inputs[0]"]
    assert report.engine == "torch (cpu)"
    assert report.tensors["0.weight"].probe is not None


def test_a_wrong_sigmoid_fails_in_what_lies_below_it() -> None:
    report = check_module(sigmoid_net(1.0), torch.randn(4, 10))
    assert {name: tensor.verdict for name, tensor in report.tensors.items()} == {
        "0.weight": "fail", "0.bias": "fail", "2.weight": "pass", "2.bias": "pass", "inputs[0]": "fail",
    }  # fmt: skip


def test_one_wrong_entry_of_many_is_found() -> None:
    report = check_module(Apply(OneEntryOff.apply, 100, 60), torch.randn(3, 100), samples=4)
    assert report.verdict == "fail"
    assert [entry.index for entry in report.tensors["weight"].wrong_entries] == [(17, 5)]
    assert report.tensors["inputs[0]"].verdict == "pass"


def test_the_default_loss_sees_what_a_sum_of_the_outputs_hides() -> None:
    module, x = Apply(Softmax.apply), torch.randn(3, 5)
    assert check_module(module, x).verdict == "fail"
    assert check_module(module, x, lambda out: out.sum()).verdict != "fail"


def test_a_parameter_cut_off_by_detach_fails_and_an_unused_one_passes() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Parameter(torch.randn(3)) for _ in range(3))

        def forward(self, x: Any) -> Any:
            return self.a * x + self.b.detach() * x

    report = check_module(Net(), torch.randn(2, 3))
    assert [report.tensors[name].verdict for name in "abc"] == ["pass", "fail", "pass"]


def test_a_module_without_any_gradient_fails() -> None:
    assert check_module(Apply(lambda x: (x * x).detach()), torch.ones(3)).verdict == "fail"


MODULES: list[Callable[[], tuple[nn.Module, Any]]] = [
    lambda: (nn.LSTM(4, 5, num_layers=2, batch_first=True), torch.randn(2, 3, 4)),
    lambda: (nn.GRU(4, 5, bidirectional=True), torch.randn(3, 2, 4)),
    lambda: (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), torch.randn(3, 2, 8, 8)),
    lambda: (nn.Sequential(nn.Linear(5, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 2)), torch.randn(9, 5)),
    lambda: (nn.MultiheadAttention(8, 2, batch_first=True), (torch.randn(2, 5, 8),) * 3),
    lambda: (nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval(), torch.randn(2, 5, 16)),
    lambda: (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4), nn.GELU(), nn.LogSoftmax(-1)), torch.randn(5, 6)),
    lambda: (nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 4)), torch.randn(5, 6)),
    lambda: (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), torch.randn(5, 4)),
    lambda: (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)).eval(), torch.randn(5, 4)),
    lambda: (nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2)), torch.randint(0, 7, (2, 3))),
    lambda: (Apply(lambda x, w: torch.linalg.cholesky(w @ w.T + torch.eye(3)) @ x, 3, 3), torch.randn(3, 2)),
    lambda: (nn.Bilinear(3, 4, 2), (torch.randn(5, 3), torch.randn(5, 4))),
]


@pytest.mark.parametrize("make", MODULES, ids=range(len(MODULES)))
def test_modules_of_pytorch_pass(make: Callable[[], tuple[nn.Module, Any]]) -> None:
    module, inputs = make()
    report = check_module(module, inputs, samples=8)
    assert report.passed, report


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_dtype_is_checked_in_double(dtype: Any) -> None:
    report = check_module(relu_net().to(dtype), torch.randn(4, 6, dtype=dtype))
    assert report.passed
    assert report.tensors["0.weight"].relative_error < 1e-6


def test_tied_parameters_are_one_tensor() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    report = check_module(net, torch.randn(3, 4), samples="all")
    assert report.passed
    assert list(report.tensors) == ["0.weight", "0.bias", "2.bias", "inputs[0]"]


@pytest.mark.parametrize("samples", ["all", 3])
@pytest.mark.parametrize("sign", [-1.0, 1.0], ids=["right", "wrong"])
def test_a_module_at_two_places_of_the_tree_keeps_its_parameters(sign: float, samples: Any) -> None:
    tied = nn.Linear(4, 4)
    net = nn.Sequential(nn.Linear(4, 4), tied, Apply(lambda x: Sigmoid.apply(x, sign)), nn.Sequential(tied), tied)
    weight, bias = tied.weight, tied.bias
    before = weight.detach().clone()
    report = check_module(net, torch.randn(3, 4), samples=samples)
    assert report.verdict == ("pass" if sign < 0 else "fail")
    assert "raised" not in "".join(report.notes)
    assert tied.weight is weight and tied.bias is bias and torch.equal(weight, before)
    assert list(report.tensors) == ["0.weight", "0.bias", "1.weight", "1.bias", "inputs[0]"]


def test_odd_memory_is_fine() -> None:
    net = nn.Linear(4, 3)
    net.weight.data = torch.randn(4, 3).T
    net.bias.data = torch.randn(1).expand(3)
    assert check_module(net, torch.randn(4, 5).T).passed
    assert check_module(Apply(lambda x, w: x.sum() + w.sum(), 0), torch.tensor(2.0)).passed


def test_a_sparse_gradient_is_checked() -> None:
    embedding = nn.Embedding(5, 3, sparse=True)
    assert check_module(embedding, torch.tensor([0, 2, 2]), samples="all").passed


def test_older_weight_norms_that_pytorch_does_not_copy_are_checked() -> None:
    class Older(nn.Linear):
        def forward(self, x: Any) -> Any:
            self.scaled = self.weight / self.weight.norm()
            return x @ self.scaled.T

    module = Older(4, 3)
    module(torch.randn(2, 4))
    assert not module.scaled.is_leaf
    assert check_module(module, torch.randn(2, 4)).passed


def test_a_factorisation_that_fails_nearby_is_no_value() -> None:
    module = Apply(lambda w: torch.linalg.cholesky(w + w.T), 2, 2)
    module.weight.data = torch.tensor([[0.5, 0.4999], [0.4999, 0.5]], dtype=torch.float64)
    assert check_module(module, ()).passed


# --- inputs and outputs ---


def test_inputs_may_be_keyword_arguments_and_nested() -> None:
    class Net(nn.Module):
        def forward(self, pair: Any, scale: Any, table: Any = None) -> Any:
            return {"y": pair[0] * pair[1] * scale, "z": table["t"][0] ** 2, "count": torch.tensor(3)}

    inputs = {
        "pair": (torch.randn(3), [torch.randn(3)][0]),
        "scale": 2.0,
        "table": {"t": [torch.randn(2)], "n": torch.arange(3)},
    }
    report = check_module(Net(), inputs)
    assert report.passed
    assert list(report.tensors) == ["inputs[pair][0]", "inputs[pair][1]", "inputs[table][t][0]"]


def test_outputs_may_be_a_dataclass_and_complex() -> None:
    @dataclasses.dataclass
    class Output:
        spectrum: Any
        parts: Any

    module = Apply(lambda x: Output(torch.fft.fft(x), [x.sin(), None]))
    assert check_module(module, torch.randn(6)).passed


def test_frozen_parameters_and_infinite_masks_are_left_out_and_said() -> None:
    net = nn.Linear(3, 3)
    net.bias.requires_grad_(False)
    mask = torch.tensor([0.0, -torch.inf, 0.0])
    report = check_module(Apply(lambda x, m: torch.softmax(x + m, -1)), (torch.randn(2, 3), mask))
    assert report.passed
    assert "not checked, since not finite everywhere: 'inputs[1]'" in report.notes
    report = check_module(net, torch.randn(2, 3))
    assert list(report.tensors) == ["weight", "inputs[0]"]
    assert "not checked, since frozen (requires_grad=False): 'bias'" in report.notes


# --- complex tensors ---


class Factor(torch.autograd.Function):
    """Doubles; its backward multiplies by a factor of its own."""

    @staticmethod
    def forward(ctx: Any, x: Any, factor: float) -> Any:
        ctx.factor = factor
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return ctx.factor * g, None


def complex_randn(*shape: int, dtype: Any = torch.complex64) -> Any:
    return torch.randn(*shape, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("precision", ["double", "native"])
def test_a_wrong_backward_of_complex_numbers_is_caught(dtype: Any, precision: str) -> None:
    z, options = complex_randn(3, dtype=dtype), {"precision": precision}
    wrong, right = (Apply(lambda z, factor=factor: Factor.apply(z, factor)) for factor in (7, 2))
    assert check_module(wrong, z, **options).verdict == "fail"
    report = check_module(right, z, **options)
    assert report.verdict == "pass" if precision == "double" or dtype == torch.complex128 else "undecided"
    assert report.tensors["inputs[0]"].shape == (3, 2)
    mixed = Apply(lambda z, x: Factor.apply(z, 7) * x)
    tensors = check_module(mixed, (z, torch.randn(3, dtype=dtype.to_real())), **options).tensors
    assert tensors["inputs[0]"].verdict == "fail"


def test_the_gradient_of_complex_numbers_is_pytorchs_and_no_conjugate() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Any, conjugate: bool) -> Any:
            ctx.save_for_backward(z)
            ctx.conjugate = conjugate
            return z * z

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (z,) = ctx.saved_tensors
            return 2 * g * (z.conj() if ctx.conjugate else z), None

    assert check_module(Apply(lambda z: Square.apply(z, True)), complex_randn(4)).passed
    assert check_module(Apply(lambda z: Square.apply(z, False)), complex_randn(4)).verdict == "fail"
    module, z = Apply(lambda z: z.abs() ** 2 * z.real), complex_randn(4)
    report = check_module(module, z, lambda out: out.sum(), samples="all")
    leaf = z.to(torch.complex128).requires_grad_()
    module(leaf).sum().backward()
    analytic = np.array([entry.analytic for entry in report.tensors["inputs[0]"].entries])
    assert np.allclose(analytic, torch.view_as_real(leaf.grad).reshape(-1).numpy())


def test_complex_parameters_and_buffers_are_kept_complex() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(complex_randn(6))
            self.register_buffer("window", complex_randn(6))
            self.frozen = nn.Parameter(complex_randn(6), requires_grad=False)
            self.factor = 2

        def forward(self, x: Any) -> Any:
            spectrum = torch.fft.fft(x) * self.window * self.frozen
            return torch.fft.ifft(Factor.apply(self.weight, self.factor) * spectrum)

    module = Filter()
    assert check_module(module, torch.randn(2, 6)).passed
    assert module.weight.dtype == module.window.dtype == torch.complex64
    module.factor = 3
    report = check_module(module, torch.randn(2, 6))
    assert {name: each.verdict for name, each in report.tensors.items()} == {"weight": "fail", "inputs[0]": "pass"}
    assert check_module(nn.Linear(2, 2, dtype=torch.complex64), complex_randn(3, 2)).passed
    assert check_module(Apply(lambda z: z.real), complex_randn(3).conj()).passed
    assert check_module(Apply(lambda z: z * z), complex_randn(3, 2).T).passed


def test_complex_numbers_are_evaluated_at_once_where_that_works() -> None:
    report = check_module(Apply(lambda z, w: z.abs() * w.abs(), 40), complex_randn(40), samples="all")
    assert report.passed
    assert "vmap" in report.engine
    module = Apply(lambda z: z * z)
    module.weight = nn.Parameter(complex_randn(40))
    module.function = lambda z, w: (z * w).abs()
    report = check_module(module, complex_randn(40), samples="all")
    assert report.passed
    assert "vmap" in report.engine


# --- what is left out, and said ---


def test_none_for_a_gradient_is_said_and_fails_only_where_the_output_moves() -> None:
    inputs, note = (torch.randn(3), torch.randn(3)), "no gradient (None), taken for zero: 'inputs[1]'"
    still = check_module(Apply(lambda x, y: Deaf.apply(x, y)[0]), inputs)
    assert still.passed
    assert note in still.notes
    moving = check_module(Apply(lambda x, y: sum(Deaf.apply(x, y))), inputs)
    assert [each.verdict for each in moving.tensors.values()] == ["pass", "fail"]
    assert note in moving.notes


@dataclasses.dataclass(frozen=True)
class Batch:
    x: Any
    mask: Any = None


class Held:
    """Not a container that is known."""

    def __init__(self, x: Any) -> None:
        self.inside = {"x": [x]}


REACHED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str]] = {
    "dataclass": (Batch, lambda b: b.x, ".x"),
    "ordered dict": (lambda x: collections.OrderedDict(x=x), lambda d: d["x"], "[x]"),
    "default dict": (lambda x: collections.defaultdict(int, x=x), lambda d: d["x"], "[x]"),
    "mapping": (lambda x: collections.UserDict(x=x), lambda d: d["x"], "[x]"),
    "proxy": (lambda x: types.MappingProxyType({"x": x}), lambda d: d["x"], "[x]"),
    "list of dataclasses": (lambda x: [1, Batch({"y": x})], lambda some: some[1].x["y"], "[1].x[y]"),
}


@pytest.mark.parametrize("name", REACHED)
def test_tensors_inside_of_arguments_are_checked(name: str) -> None:
    wrap, unwrap, place = REACHED[name]
    kinds = set()

    def func(wrapped: Any, y: Any) -> Any:
        kinds.add(type(wrapped))
        return Factor.apply(unwrap(wrapped), 7) * y

    wrapped = wrap(torch.randn(3))
    report = check_module(Apply(func), (wrapped, torch.randn(3)))
    assert report.tensors[f"inputs[0]{place}"].verdict == "fail"
    assert kinds == {dict if name == "proxy" else type(wrapped)}


OUT_OF_REACH: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "set": (lambda x: {x}, lambda some: next(iter(some))),
    "deque": (lambda x: collections.deque([x]), lambda some: some[0]),
    "object": (Held, lambda held: held.inside["x"][0]),
}


@pytest.mark.parametrize("name", OUT_OF_REACH)
def test_tensors_inside_of_other_objects_are_said_not_to_be(name: str) -> None:
    wrap, unwrap = OUT_OF_REACH[name]
    module = Apply(lambda wrapped, y: Factor.apply(unwrap(wrapped[0]).to(y.dtype), 7) * y)
    report = check_module(module, ([wrap(torch.randn(3))], torch.randn(3)))
    text = "not checked, since inside objects other than lists, tuples, mappings and dataclasses: 'inputs[0][0]'"
    assert text in report.notes
    assert text not in check_module(module, ([wrap(torch.arange(3))], torch.randn(3))).notes


def test_sparse_and_integer_tensors_are_said_not_to_be_checked() -> None:
    table = torch.eye(3).to_sparse()
    report = check_module(Apply(lambda s, x, k: (s @ x)[k]), (table, torch.randn(3, 2), torch.tensor([0, 2])))
    assert report.passed
    assert "not checked, since not dense (torch.sparse_coo): 'inputs[0]'" in report.notes
    assert "not checked, since of integers or booleans: 'inputs[2]'" in report.notes
    with pytest.raises(ValueError, match=r"nothing to check \(not checked, since not dense \(torch.sparse_coo\): 'inp"):
        check_module(Apply(lambda s: s.to_dense()), table)


# --- what memory the module sees ---

LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: x,
    "part": lambda x: x[:, 1:3],
    "transposed": lambda x: x.transpose(1, 2),
    "one of several": lambda x: x[1],
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("precision", ["double", "native"])
def test_the_module_sees_the_strides_and_the_offset_of_an_input(name: str, precision: str) -> None:
    x, seen = LAYOUTS[name](torch.randn(2, 3, 4, 4)), set()

    class Squared(torch.autograd.Function):
        """Reads the memory by the strides that it sees."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            seen.add((x.stride(), x.storage_offset()))
            ctx.save_for_backward(x)
            return torch.as_strided(x.detach(), x.shape, x.stride(), x.storage_offset()) ** 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * ctx.saved_tensors[0] * g

    assert check_module(Apply(Squared.apply), x, precision=precision, samples=4).verdict != "fail"
    assert seen == {(x.stride(), x.storage_offset())}


def test_parameters_keep_their_strides() -> None:
    net, seen = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), set()
    net.bias.data = torch.randn(4, 2)[:, 0]

    def spied(module: Any, args: Any) -> None:
        if not torch._C._functorch.is_batchedtensor(module.weight):
            seen.add(module.weight.stride())

    net.register_forward_pre_hook(spied)
    assert check_module(net, torch.randn(2, 3, 5, 5), samples=8).passed
    assert seen == {net.weight.stride()} != {torch.empty(4, 3, 3, 3).stride()}


def test_a_forward_pass_that_writes_into_its_parameters_is_refused_however_it_does() -> None:
    class Clipped(nn.Linear):
        def forward(self, x: Any) -> Any:
            self.weight.data.clamp_(-0.1, 0.1)
            return super().forward(x)

    with pytest.raises(ValueError, match="module changes its parameters 'weight' in its forward pass"):
        check_module(Clipped(4, 3), torch.randn(2, 4))


def test_tensors_and_samples_select_by_pattern() -> None:
    report = check_module(relu_net(), torch.randn(4, 6), tensors=["0.*"], samples={"0.weight": 5})
    assert {name: tensor.checked for name, tensor in report.tensors.items()} == {"0.weight": 5, "0.bias": 20}


# --- what stays as it is ---


def state(module: nn.Module) -> list[Any]:
    """All that a check could change."""
    tensors = [*module.parameters(), *module.buffers()]
    return [
        [tensor.detach().numpy().tobytes() for tensor in tensors],
        [tensor.grad.numpy().tobytes() if tensor.grad is not None else None for tensor in tensors],
        [tensor.requires_grad for tensor in tensors],
        [each.training for each in module.modules()],
        torch.get_rng_state().numpy().tobytes(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    ]


def trained() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 2))
    net(torch.randn(8, 6)).sum().backward()
    net[1].eval()
    net[1].weight.requires_grad_(False)
    return net


@pytest.mark.parametrize("failing_call", [None, 1, 2, 3, 40])
def test_the_module_is_untouched_even_after_an_exception(failing_call: int | None) -> None:
    net, x = trained(), torch.randn(8, 6)
    before, x_before, calls = state(net), x.clone(), []

    def loss(out: Any) -> Any:
        calls.append(1)
        if len(calls) == failing_call:
            raise KeyboardInterrupt
        return out.square().mean()

    if failing_call is None:
        check_module(net, x, loss)
    else:
        with pytest.raises(KeyboardInterrupt):
            check_module(net, x, loss)
    assert state(net) == before
    assert torch.equal(x, x_before)
    assert x.grad is None


def test_it_works_without_gradients_and_in_inference_mode() -> None:
    with torch.no_grad():
        assert check_module(relu_net(), torch.randn(4, 6)).passed
    with torch.inference_mode():
        assert check_module(relu_net(), torch.randn(4, 6)).passed
        assert torch.is_inference_mode_enabled()


def test_running_statistics_are_put_back_before_every_call() -> None:
    class Drifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))
            self.register_buffer("mean", torch.zeros(3))
            self.register_buffer("count", torch.tensor(0))
            self.register_buffer("missing", None)

        def forward(self, x: Any) -> Any:
            self.mean = 0.9 * self.mean + x.detach().mean(0)  # replaced
            self.count += 1  # changed
            return self.weight * x * self.mean * self.count

    report = check_module(Drifting(), torch.randn(4, 3), tensors="weight")
    assert report.passed
    assert not [note for note in report.notes if "deterministic" in note]


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_respected(mode: bool) -> None:
    seen = set()

    class Net(nn.Linear):
        def forward(self, x: Any) -> Any:
            seen.add(self.training)
            return super().forward(x)

    check_module(Net(2, 2).train(mode), torch.randn(1, 2))
    assert seen == {mode}


# --- random numbers ---


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 30), nn.Dropout(0.5), nn.Linear(30, 2))


@pytest.mark.parametrize("seed", range(4))
def test_dropout_is_undecided_with_a_hint(seed: int) -> None:
    torch.manual_seed(seed)
    report = check_module(dropping(), torch.randn(4, 6), seed=seed, samples=8)
    assert report.verdict == "undecided"
    assert "not deterministic" in report.notes[0]
    assert "dropout is active in '1'" in report.notes[0]
    assert "module.eval(), or with seeded=True" in report.notes[0]


def test_noise_that_hides_a_few_entries_is_not_looked_into_further() -> None:
    net = nn.Sequential(nn.Linear(30, 40), nn.Dropout(0.5), nn.Linear(40, 5))
    report = check_module(net, torch.randn(8, 30))
    assert report.verdict == "undecided"
    assert {tensor.checked for tensor in report.tensors.values()} == {2}
    assert "noise hides the slopes of all 10 entries tried; the other 123 samples were left out" in report.notes
    assert report.evaluations < 1500  # about 4,000 for all samples and the probes


def test_noise_that_hides_nothing_changes_nothing() -> None:
    def restless(x: Any) -> Any:
        return torch.sin(x) * (1 + 1e-14 * torch.rand((), dtype=x.dtype))

    report = check_module(Apply(restless), torch.randn(40))
    assert "not deterministic" in report.notes[0]
    assert report.passed
    assert report.tensors["inputs[0]"].checked == 32
    wrong = check_module(Apply(lambda x: restless(Sigmoid.apply(x, 1.0))), torch.randn(40))
    assert wrong.verdict == "fail"


def test_dropout_passes_seeded_or_in_eval_mode() -> None:
    assert check_module(dropping(), torch.randn(4, 6), seeded=True).passed
    assert check_module(dropping().eval(), torch.randn(4, 6)).passed
    assert not check_module(dropping(), torch.randn(4, 6), seeded=True).notes


def test_other_random_numbers_are_said_too() -> None:
    report = check_module(Apply(lambda x: x * torch.rand(())), torch.randn(3))
    assert "random numbers? state kept between calls?" in report.notes[0]


def test_the_hint_names_no_remedy_that_is_in_use() -> None:
    own = torch.Generator().manual_seed(0)
    restless = Apply(lambda x: x * torch.rand((), generator=own))
    (note,) = check_module(restless, torch.randn(3), seeded=True, samples=2).notes[:1]
    assert "state kept between calls? random numbers that PyTorch's seed does not reach?" in note
    assert note.endswith("check it after module.eval()")
    (note,) = check_module(restless.eval(), torch.randn(3), seeded=True, samples=2).notes[:1]
    assert note.endswith("does not reach?)")
    (note,) = check_module(restless, torch.randn(3), samples=2).notes[:1]
    assert note.endswith("check it with seeded=True")


def test_seeded_random_numbers_are_those_of_a_manual_seed() -> None:
    seen = []

    def drawing(x: Any) -> Any:
        seen.append(torch.rand(3, dtype=torch.float64))
        return x * seen[-1]

    assert check_module(Apply(drawing), torch.randn(3), seeded=True, seed=5).passed
    torch.manual_seed(5)
    expected = torch.rand(3, dtype=torch.float64)
    assert len(seen) > 5 and all(torch.equal(each, expected) for each in seen)


# --- float64 by default ---


def used(x: Any, number: Any) -> Any:
    """A product of the input with a matrix that depends on what a function of PyTorch makes by default."""
    assert number.dtype == torch.float64, f"made {number.dtype}"
    return x @ torch.diag(number.reshape(-1)[:3])


INTEGERS = torch.arange(1, 4)
MADE: dict[str, Callable[[], Any]] = {
    "zeros": lambda: torch.zeros(3).add_(1),
    "ones": lambda: torch.ones(3, requires_grad=True),
    "rand": lambda: torch.rand(3, generator=torch.Generator().manual_seed(1)),
    "linspace": lambda: torch.linspace(0, 1, 3),
    "tensor": lambda: torch.tensor([0.1, 1e-300, 2]),
    "full": lambda: torch.full((3,), 0.1),
    "arange": lambda: torch.arange(0.0, 3.0),
    "quotient": lambda: INTEGERS / 3,
    "sum": lambda: INTEGERS + 0.1,
    "function": lambda: torch.sqrt(INTEGERS),
    "mask": lambda: torch.where(INTEGERS > 1, 0.5, 0.1),
}


@pytest.mark.parametrize("name", MADE)
def test_what_a_module_makes_is_of_double_precision(name: str) -> None:
    report = check_module(Apply(lambda x: used(x, MADE[name]())), torch.randn(2, 3))
    assert report.passed and report.notes == ()


def test_numbers_have_all_their_digits() -> None:
    report = check_module(Apply(lambda x: x * float(torch.tensor(0.1) == 0.1)), torch.ones(3))
    assert report.passed and all(entry.analytic for entry in report.tensors["inputs[0]"].entries)


TOLD: dict[str, Callable[[], Any]] = {
    "dtype": lambda: torch.zeros(3, dtype=torch.float32),
    "float": lambda: INTEGERS.float(),
    "to": lambda: INTEGERS.to(torch.float32),
    "numpy": lambda: torch.as_tensor(np.ones(3, np.float32)),
    "like": lambda: torch.ones_like(torch.zeros(3, dtype=torch.float32)),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_it_says_is_single_stays_so(name: str) -> None:
    seen = set()

    def telling(x: Any) -> Any:
        made = TOLD[name]()
        seen.add(made.dtype)
        return x + made

    assert check_module(Apply(telling), torch.randn(3)).passed
    assert seen == {torch.float32}


def test_a_default_of_the_users_own_is_heeded_too() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert check_module(Apply(lambda x: used(x, torch.ones(3))), torch.randn(2, 3)).passed
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    native = check_module(Apply(lambda x: x @ torch.eye(3)), torch.randn(2, 3), precision="native")
    assert native.passed


# --- several threads ---


def heard(x: Any, seen: list[Any]) -> Any:
    """The input; notes what this process is set to while a module is called."""
    seen.append((torch.get_default_dtype(), list(warnings.filters), tracemalloc.is_tracing()))
    return x


def test_nothing_is_set_for_the_whole_process_while_a_module_is_called() -> None:
    check_module(relu_net(), torch.randn(4, 6), samples="all")  # imports what it needs, with filters of its own
    seen: list[Any] = []
    warnings.simplefilter("default")
    before = torch.get_default_dtype(), list(warnings.filters), False
    net = nn.Sequential(Apply(lambda x: heard(x, seen)), nn.Linear(6, 40), nn.Tanh())
    assert check_module(net, torch.randn(4, 6), samples="all").engine == "torch (cpu, vmap)"
    assert seen and all(each == before for each in seen)


def test_modules_can_be_checked_in_several_threads() -> None:
    net, x, drawn = relu_net(), torch.randn(4, 6), torch.get_rng_state()
    other = Apply(lambda x: used(x, torch.ones(3)))

    def check(number: int) -> Any:
        if number % 3 == 0:
            return check_module(other, torch.ones(2, 3))
        return check_module(net, x, precision="native" if number % 3 == 1 else "double")

    expected = [check(number).to_dict()["tensors"] for number in range(3)]
    warnings.simplefilter("default")
    before = torch.get_default_dtype(), list(warnings.filters)
    for _ in range(2):
        reports = at_once(*[partial(check, number) for number in range(6)])
        assert [report.to_dict()["tensors"] for report in reports] == expected * 2
        assert (torch.get_default_dtype(), list(warnings.filters)) == before
        assert torch.equal(torch.get_rng_state(), drawn)


def test_seeded_modules_can_be_checked_in_several_threads() -> None:
    net, x, drawn = dropping(), torch.randn(4, 6), torch.get_rng_state()
    expected = check_module(net, x, seeded=True).to_dict()["tensors"]
    for _ in range(2):
        reports = at_once(*[partial(check_module, net, x, seeded=True)] * 4)
        assert [(report.verdict, report.notes) for report in reports] == [("pass", ())] * 4
        assert [report.to_dict()["tensors"] for report in reports] == [expected] * 4
        assert torch.equal(torch.get_rng_state(), drawn)


def test_random_numbers_of_other_threads_are_not_repeated() -> None:
    """A check of a module that draws none leaves those alone that others draw meanwhile."""
    drawn: list[Any] = []

    def drawing() -> None:
        drawn.append(torch.rand(4))

    def loss(out: Any) -> Any:
        at_once(drawing)
        return out.square().mean()

    torch.manual_seed(3)
    assert check_module(relu_net(), torch.randn(4, 6), loss).passed
    torch.manual_seed(3)
    relu_net(), torch.randn(4, 6)
    later = [torch.rand(4) for _ in drawn]
    assert len({tuple(each.tolist()) for each in drawn[3:]}) == len(drawn) - 3
    assert torch.equal(drawn[-1], later[-1])


# --- many values at once ---


def test_values_are_computed_together_where_that_gives_the_same() -> None:
    net, x = relu_net(), torch.randn(5, 6)
    report = check_module(net, x, samples="all")
    assert report.passed
    assert report.engine == "torch (cpu, vmap)"


def test_losses_whose_rules_come_with_the_first_call_of_vmap_are_batched_in_a_new_process() -> None:
    """PyTorch registers its rules for nll_loss when vmap is first called."""
    code = (
        "import torch, fastgc.torch\n"
        "y = torch.randint(0, 5, (4,))\n"
        "loss = lambda out: torch.nn.functional.cross_entropy(out, y)\n"
        "print(fastgc.torch.check_module(torch.nn.Linear(6, 5), torch.ones(4, 6), loss, samples='all').engine)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "torch (cpu, vmap)\n"


def test_functions_without_a_rule_for_vmap_are_called_one_by_one() -> None:
    report = check_module(sigmoid_net(-1.0), torch.randn(4, 10), samples="all")
    assert report.passed
    assert report.engine == "torch (cpu)"


def test_a_batch_that_is_not_the_same_is_not_believed() -> None:
    class Frozen(torch.autograd.Function):
        """Under vmap a constant: wrong, on purpose."""

        @staticmethod
        def forward(x: Any) -> Any:
            return x**2

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * ctx.saved_tensors[0] * g

        @staticmethod
        def vmap(info: Any, in_dims: Any, x: Any) -> Any:
            return (x**2).mean(0).expand_as(x), 0

    report = check_module(Apply(Frozen.apply), torch.randn(40), samples="all")
    assert report.passed
    assert report.engine == "torch (cpu)"


def open_evaluator(net: nn.Module, x: Any, footprint: int = 1) -> tuple[TorchEvaluator, list[Any]]:
    tensors = [parameter.detach().clone() for parameter in net.parameters()]
    names = [name for name, _ in net.named_parameters()]

    def loss(replaced: Any) -> Any:
        parameters = {name: replaced.get(t, tensors[t]) for t, name in enumerate(names)}
        return torch.func.functional_call(net, parameters, (x,)).square().sum()

    dtype = np.dtype(str(tensors[0].dtype).split(".")[1])
    layout = named_layout(names, [tuple(tensor.shape) for tensor in tensors], [dtype] * len(names))
    sources = [tensor.clone() for tensor in tensors]
    return TorchEvaluator(loss, layout, tensors, sources, float(loss({})), Batching(footprint)), tensors


def test_batched_and_single_values_agree_and_nothing_stays_displaced() -> None:
    net, x = relu_net().double(), torch.randn(5, 6, dtype=torch.float64)
    (together, tensors), (single, _) = open_evaluator(net, x), open_evaluator(net, x, footprint=1 << 30)
    before = copy.deepcopy(tensors)
    positions = np.arange(0, 200, 3)
    displaced = together.entries(positions)[:, None] + np.array([0.1, -1e-6, 0.0])
    values, others = (each.values(positions, displaced, silent) for each in (together, single))
    assert "vmap" in together.name
    assert "vmap" not in single.name
    assert np.allclose(values, others, rtol=1e-13, atol=0)
    assert np.all(values[:, 2] == together.value()), "the point itself is where both ways agree"
    rows = displaced.T
    assert np.allclose(together.along(positions, rows)[2], together.value(), rtol=0, atol=0)
    weights = np.tile(np.array([126, -42], np.int8), 60)
    along = together.along_rays([[Ray(0, 0, weights, 0.5), Ray(1, 3, weights[:4], 2.0)]], np.array([0.25, -0.25]))[0]
    by_hand = copy.deepcopy(before)
    by_hand[0].reshape(-1)[:] += 0.125 * torch.from_numpy(weights)
    by_hand[1][3:7] += 0.5 * torch.from_numpy(weights[:4])
    pairs = dict(zip([name for name, _ in net.named_parameters()], by_hand, strict=True))
    assert along[0] == pytest.approx(float(torch.func.functional_call(net, pairs, (x,)).square().sum()), rel=1e-14)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


def test_displacements_are_rounded_to_the_dtype() -> None:
    evaluator, _ = open_evaluator(relu_net(), torch.randn(5, 6))
    rounded = evaluator.rounded(np.array([0, 130]), np.array([[0.1, 0.2], [0.3, 0.4]]))
    assert np.array_equal(rounded, np.float32([[0.1, 0.2], [0.3, 0.4]]).astype(np.float64))


def test_an_exception_while_displaced_puts_the_entry_back() -> None:
    evaluator, tensors = open_evaluator(relu_net(), torch.randn(5, 6))
    before = copy.deepcopy(tensors)

    def broken(replaced: Any) -> Any:
        raise KeyboardInterrupt

    evaluator._loss = broken
    for call in (
        lambda: evaluator.values(np.array([3]), np.array([[9.0]]), silent),
        lambda: evaluator.along(np.array([3, 140]), np.array([[9.0, 9.0]])),
        lambda: evaluator.along_rays([[Ray(0, 2, np.ones(5, np.int8), 1.0)]], np.array([1.0])),
    ):
        with pytest.raises(KeyboardInterrupt):
            call()
        assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
    evaluator.close()


# --- native precision ---


NATIVE: dict[str, Any] = {"precision": "native"}


def test_native_precision_keeps_the_dtypes() -> None:
    seen = set()
    net = relu_net()

    def loss(out: Any) -> Any:
        seen.add(out.dtype)
        return out.square().sum()

    report = check_module(net, torch.randn(4, 6), loss, precision="native")
    assert report.verdict != "fail"
    assert seen == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_both_kinds_is_checked(dtype: Any) -> None:
    """What noise hides is said to be hidden; a factor of four is not."""
    for factor, verdicts in ((2, {"pass", "undecided"}), (8, {"fail"})):
        net = Apply(lambda x, w, factor=factor: Factor.apply(w, factor) * x, 6)
        net.weight = nn.Parameter(torch.linspace(-1, 2, 6).to(dtype))
        report = check_module(net, torch.ones(6, dtype=dtype), lambda out: out.sum(dtype=torch.float32), **NATIVE)
        assert report.tensors["weight"].verdict in verdicts, str(report)
    assert check_module(net, torch.ones(6, dtype=dtype), rtol={"weight": 5.0}, **NATIVE).verdict != "fail"


def test_dtypes_that_numpy_does_not_know_are_refused_in_native_precision() -> None:
    net = Apply(lambda x, w: x * w.to(x.dtype), 3)
    net.weight = nn.Parameter(torch.ones(3).to(torch.float8_e5m2))
    with pytest.raises(TypeError, match=r"'weight' is of torch.float8_e5m2, which NumPy does not know; use precision="):
        check_module(net, torch.ones(3), precision="native")


def test_a_module_that_cannot_run_in_double_says_what_to_do() -> None:
    module = Apply(lambda x, w: x @ w.float(), 3, 3)
    with pytest.raises(RuntimeError, match="dtype") as info:
        check_module(module, torch.randn(2, 3))
    assert 'precision="native" keeps its own dtypes' in info.value.__notes__[0]
    assert check_module(module, torch.randn(2, 3), precision="native").verdict != "fail"


# --- messages ---


def max_norm() -> nn.Module:
    return nn.Embedding(4, 3, max_norm=0.1)


def not_finite() -> nn.Module:
    net = nn.Linear(2, 2)
    net.bias.data[0] = torch.nan
    return net


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        return nn.Sequential(torch.jit.script(nn.Linear(2, 2)))


ONES = torch.ones(2, 2)
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: check_module(torch.relu, ONES), TypeError, r"module is a builtin.*; it must be a torch.nn.Module"),
    (lambda: check_module(scripted(), ONES), TypeError, r"module holds a ScriptModule, which cannot be checked; pass"),
    (lambda: check_module(nn.ReLU(), torch.arange(3)), ValueError, r"no floating tensor: nothing to check"),
    (lambda: check_module(nn.LazyLinear(2), ONES), ValueError, r"parameters 'weight', 'bias' have no shape yet"),
    (
        lambda: check_module(Apply(lambda z: z * 1j), ONES, lambda out: out.sum()),
        TypeError,
        r"loss returned torch.compl",
    ),
    (lambda: check_module(not_finite(), ONES), ValueError, r"parameters 'bias' are not finite"),
    (lambda: check_module(max_norm(), torch.tensor([0])), ValueError, r"changes its parameters 'weight' .*max_norm"),
    (lambda: check_module(nn.Linear(2, 2), ONES, lambda out: out), ValueError, r"tensor of shape \(2, 2\); it must"),
    (lambda: check_module(nn.Linear(2, 2), ONES, lambda out: 1.0), TypeError, r"loss returned float; it must return"),
    (
        lambda: check_module(Apply(lambda x: x > 0), ONES),
        TypeError,
        r"module returned Tensor without a floating tensor",
    ),
    (lambda: check_module(Apply(torch.log), -ONES), ValueError, r"loss is nan; .* pass loss="),
    (lambda: check_module(nn.Linear(2, 2), ONES, precision="half"), ValueError, r"precision is 'half'; it must be one"),
    (lambda: check_module(nn.Linear(2, 2, device="meta"), ONES), ValueError, r"'weight', 'bias' are on the meta dev"),
    (lambda: check_module(nn.Linear(2, 2), ONES.to("meta")), ValueError, r"'inputs\[0\]' is on the meta device, where"),
    (lambda: check_module(nn.Linear(2, 2), ONES, tensors="w"), ValueError, r"tensors has 'w', which names no tensor"),
    (lambda: check_module(nn.Linear(2, 2), ONES, rtol=-1.0), ValueError, r"rtol is -1.0; it must be finite"),
    (lambda: check_module(nn.Linear(2, 2), ONES, probes=0, samples=0), ValueError, r"would check nothing"),
]


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_makes_no_sense_is_refused(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_exceptions_of_the_module_pass_through() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        check_module(nn.Linear(2, 2), torch.ones(2, 3))


# --- where a module raises beside its parameters ---


class LogScale(torch.autograd.Function):
    """The logarithm, with a backward that is wrong on purpose: by a factor, or not finite in its last entry."""

    @staticmethod
    def forward(ctx: Any, s: Any, factor: float) -> Any:
        ctx.save_for_backward(s)
        ctx.factor = factor
        return torch.log(s)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (s,) = ctx.saved_tensors
        slopes = grad / s
        slopes[-1] *= ctx.factor
        return slopes, None


class Scale(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor([3.0, 2.0, 1.0, 0.05], dtype=torch.float64))
        self.factor = factor

    def forward(self, x: Any) -> Any:
        if bool((self.s <= 0).any()):
            raise RuntimeError("scale must be positive")
        return LogScale.apply(self.s, self.factor) * x


@pytest.mark.parametrize("samples", [0, 2, 32])
def test_a_module_that_raises_beside_its_parameters_is_checked(samples: int) -> None:
    x = torch.ones(4, dtype=torch.float64)
    assert check_module(Scale(), x, step=0.06, samples=samples).verdict != "fail"
    report = check_module(Scale(2.0), x, samples=samples)
    assert report.tensors["s"].verdict == "fail" and report.tensors["inputs[0]"].verdict == "pass"
    report = check_module(Scale(2.0), x, step=0.06)
    assert any("the loss raised RuntimeError: scale must be positive (" in note for note in report.notes)
    assert any("first at s[3] = -0." in note for note in report.notes), str(report)


@pytest.mark.parametrize("samples", [0, 1, 32])
def test_a_gradient_of_a_module_that_is_not_finite_somewhere_fails(samples: int) -> None:
    report = check_module(Scale(float("nan")), torch.ones(4), samples=samples)
    assert report.tensors["s"].verdict == "fail"
    assert "not finite in 1 of 4 entries: [3]" in report.tensors["s"].reason
    assert report.tensors["inputs[0]"].verdict == "pass"


def test_what_a_module_raises_at_every_displaced_point_passes_through() -> None:
    def lonely(x: Any) -> Any:
        if bool((x != 1).any()):
            raise AssertionError("only here")
        return x * 1

    with pytest.raises(AssertionError, match="only here"):
        check_module(Apply(lonely), torch.ones(3))


def test_a_loss_that_turns_into_no_tensor_beside_the_parameters_is_refused() -> None:
    def fickle(output: Any) -> Any:
        return output.sum() if bool((output == 1).all()) else None

    with pytest.raises(TypeError, match="loss returned NoneType; it must return"):
        check_module(nn.Identity(), torch.ones(3), fickle)


class Opposed(nn.Module):
    """Kinks of both signs at zero, whose conventions give a value outside both slopes."""

    def __init__(self, follow: Callable[[Any], Any]) -> None:
        super().__init__()
        self.follow = follow
        self.w = nn.Parameter(torch.zeros(4))
        self.z = nn.Parameter(torch.ones(2, dtype=torch.complex64))

    def forward(self, x: Any) -> Any:
        w = self.follow(self.w)
        return (x * (2 * torch.relu(w) - torch.relu(-w))).sum() + (self.z * self.z).real.sum()


class Tripled(torch.autograd.Function):
    """The identity, with three times its gradient and a constant."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return 3 * grad + 7


def test_a_convention_at_a_kink_passes_if_the_gradient_is_right_beside_it() -> None:
    report = check_module(Opposed(lambda w: w), torch.ones(3, 4), loss=lambda out: out)
    assert report.passed and "a convention, right beside it" in report.tensors["w"].reason, str(report)
    wrong = check_module(Opposed(Tripled.apply), torch.ones(3, 4), loss=lambda out: out)
    assert wrong.tensors["w"].verdict == "fail" and wrong.tensors["z"].verdict == "pass", str(wrong)
