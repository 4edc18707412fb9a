"""The options of `check_gradients` at the door of PyTorch's modules, and the assertion."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastgc

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
from torch import nn  # noqa: E402

from fastgc.torch import assert_module, check_module  # noqa: E402
from tests.support.clock import Clock  # noqa: E402


class Cubes(torch.autograd.Function):
    """The third power; its backward has a factor of its own where x is above an edge."""

    @staticmethod
    def forward(ctx: Any, x: Any, factor: float, edge: float) -> Any:
        ctx.save_for_backward(x)
        ctx.factor, ctx.edge = factor, edge
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return torch.where(x > ctx.edge, ctx.factor, 3.0) * x**2 * g, None, None


class Cubed(nn.Module):
    def __init__(self, start: Any, factor: float = 3.0, edge: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(start))
        self.factor, self.edge = factor, edge

    def forward(self, x: Any) -> Any:
        return x * Cubes.apply(self.w, self.factor, self.edge)


def smooth() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))


X = np.random.default_rng(0).normal(size=(5, 6))


def inputs() -> Any:
    return torch.from_numpy(X).clone()


# --- several points ---


@pytest.mark.parametrize("precision", ["double", "native"])
def test_random_points_have_their_own_gradient_and_leave_the_module_as_it_was(precision: str) -> None:
    net = smooth()
    before = [each.detach().clone() for each in net.parameters()]
    report = check_module(net, inputs().float(), points=3, precision=precision)
    assert report.verdict == "pass" if precision == "double" else report.verdict != "fail"
    assert report.points == 3
    assert {entry.point for entry in report.tensors["0.weight"].entries} == {0, 1, 2}
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_backward_that_is_wrong_elsewhere_fails_at_a_random_point_only() -> None:
    module = Cubed([0.4, 0.5, 0.6], factor=2.0, edge=0.7)
    assert check_module(module, torch.ones(3)).passed
    report = check_module(module, torch.ones(3), points=4)
    assert report.tensors["w"].verdict == "fail"
    assert {entry.point for entry in report.tensors["w"].wrong_entries} <= {1, 2, 3}


def test_a_gradient_of_zero_at_the_start_is_seen_at_random_points() -> None:
    """At zero a factor does not show; a zero tensor is displaced by about 1."""
    module = Cubed(torch.zeros(3), factor=2.0)
    assert check_module(module, torch.ones(3)).verdict != "fail"
    assert check_module(module, torch.ones(3), points=3).tensors["w"].verdict == "fail"


# --- where the loss is evaluated ---


def test_it_is_never_evaluated_outside_of_bounds() -> None:
    module = Cubed([0.5, 1.0, 2.0])
    report = check_module(module, torch.ones(3), bounds={"w": (0.5, 2.0)}, points=3)
    assert report.passed, str(report)
    outside = [(0.0, 1.0)] * 6
    with pytest.raises(ValueError, match=r"bounds: w\[2\] is 2, outside its bounds \[0, 1\]"):
        check_module(module, torch.ones(3), bounds=outside)


def test_displaced_parameters_stay_inside_their_bounds() -> None:
    seen: list[float] = []

    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))

        def forward(self) -> Any:
            seen.extend([float(self.p.detach().min()), float(self.p.detach().max())])
            return torch.sin(self.p)

    assert check_module(Logarithm(), (), bounds={"p": (0.0, 1.0)}, points=3).passed
    assert min(seen) >= 0 and max(seen) <= 1


def test_mirrored_entries_of_symmetric_parameters_are_displaced_together() -> None:
    class Cholesky(torch.autograd.Function):
        """The log-determinant; its backward is right for symmetric matrices only by one triangle."""

        @staticmethod
        def forward(ctx: Any, a: Any, factor: float) -> Any:
            assert torch.equal(a, a.T), "not symmetric"
            ctx.save_for_backward(a)
            ctx.factor = factor
            return torch.logdet(a)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            inverse = torch.linalg.inv(ctx.saved_tensors[0])
            return g * (inverse.tril() + ctx.factor * inverse.tril(-1)), None

    class Module(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor([[2.0, 0.5, 0.1], [0.5, 3.0, 0.2], [0.1, 0.2, 4.0]]))
            self.factor = factor

        def forward(self) -> Any:
            return Cholesky.apply(self.a, self.factor)

    report = check_module(Module(1.0), (), symmetric="a", points=2)
    assert report.passed, str(report)
    assert any("the lower triangle, one derivative for each pair" in note for note in report.notes)
    assert check_module(Module(0.0), (), symmetric="a").verdict == "fail"


# --- difference formulas ---


@pytest.mark.parametrize("stencil", ["forward", "backward", "central", "five_point"])
def test_every_stencil_agrees(stencil: Any) -> None:
    assert check_module(smooth(), inputs(), stencil=stencil).passed
    assert check_module(Cubed([0.4, 0.5], factor=2.9), torch.ones(2), stencil=stencil).verdict == "fail"


def test_the_complex_step_is_right_to_round_off() -> None:
    report = check_module(smooth(), inputs(), stencil="complex_step", points=2)
    assert report.passed
    assert max(tensor.max_relative_error for tensor in report.tensors.values()) < 1e-11
    assert check_module(Cubed([0.4, 0.5], factor=2.9), torch.ones(2), stencil="complex_step").verdict == "fail"
    assert check_module(Cubed([0.4, 0.5]), torch.ones(2), lambda out: out.sum(), stencil="complex_step").passed


def test_a_module_that_takes_no_complex_numbers_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r'stencil="complex_step" evaluates the module at .*; use stencil="central"'):
        check_module(nn.Sequential(nn.Linear(6, 2), nn.ReLU()), inputs(), stencil="complex_step")
    with pytest.raises(TypeError, match=r"complex parameters and inputs, which it does not take .*; use stencil="):
        check_module(nn.Linear(6, 2, dtype=torch.complex64), inputs() + 0j, stencil="complex_step")


# --- time, tolerances, entries ---


def test_what_is_not_reached_in_time_is_undecided(clock: Clock) -> None:
    class Slow(Cubed):
        def forward(self, x: Any) -> Any:
            clock.seconds += 1.0
            return super().forward(x)

    report = check_module(Slow(torch.linspace(0.5, 1.0, 40)), torch.ones(40), time_budget=100.0, points=2)
    assert report.verdict == "undecided"
    assert report.evaluations <= 101
    assert any(re.match(r"time_budget(=\S+)? was over", note) for note in report.notes)
    tiny = check_module(Slow([0.4, 0.5]), torch.ones(2), time_budget=0.5)
    assert tiny.verdict == "undecided" and "not reached" in str(tiny)


def test_tolerances_and_entries_are_taken_by_name() -> None:
    module = Cubed([0.4, 0.5, 0.6], factor=3.003)
    assert check_module(module, torch.ones(3)).tensors["w"].verdict == "fail"
    assert check_module(module, torch.ones(3), rtol={"w": 1e-2}).passed
    report = check_module(smooth(), inputs(), samples={"0.weight": [(0, 1), (3, 3)], "*.bias": np.array([2])})
    assert [entry.index for entry in report.tensors["0.weight"].entries] == [(0, 1), (3, 3)]
    assert [entry.index for entry in report.tensors["2.bias"].entries] == [(2,)]


def test_the_second_opinion_of_scipy_is_shown_if_asked_for() -> None:
    assert check_module(smooth(), inputs()).crosscheck is None
    assert check_module(smooth(), inputs(), crosscheck=True).crosscheck.entries == 32


def test_progress_is_counted_over_all_points(capsys: pytest.CaptureFixture[str]) -> None:
    check_module(Cubed([0.4, 0.5]), torch.ones(2), points=2, progress=True)
    assert "8/8" in capsys.readouterr().err


# --- parameters of an earlier moment ---


class Remembering(nn.Module):
    """Its backward uses parameters of an earlier moment: wrong, on purpose."""

    def __init__(self, earlier: Any) -> None:
        super().__init__()
        self.w = nn.Parameter(earlier + 0.3 * torch.randn_like(earlier))
        self.register_buffer("unused", torch.zeros(2))
        self.earlier = earlier

    def forward(self, x: Any) -> Any:
        earlier = self.earlier

        class Sine(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any, w: Any) -> Any:
                ctx.save_for_backward(x)
                return torch.sin(x @ w)

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                (x,) = ctx.saved_tensors
                g = g * torch.cos(x @ earlier.to(x))
                return g @ earlier.to(x).T, x.T @ g

        return Sine.apply(x, self.w)


def test_a_stale_gradient_is_recognised() -> None:
    torch.manual_seed(0)
    module = Remembering(torch.randn(6, 3, dtype=torch.float64))
    state = {**module.state_dict(), "w": module.earlier}
    report = check_module(module, inputs(), previous=state)
    assert report.tensors["w"].diagnosis.kind == "stale"
    same = check_module(module, inputs(), previous=module.state_dict())
    assert any("previous holds the values of params" in note for note in same.notes)


# --- arguments ---


def test_positional_and_keyword_arguments_go_together() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = [torch.randn(2, 3, 8) for _ in range(3)]
    report = check_module(attention, tuple(x), kwargs={"attn_mask": torch.zeros(3, 3)}, samples=4)
    assert report.passed
    assert list(report.tensors)[-4:] == ["inputs[0]", "inputs[1]", "inputs[2]", "inputs[attn_mask]"]
    bilinear = nn.Bilinear(2, 3, 2)
    assert check_module(bilinear, torch.ones(4, 2), kwargs={"input2": torch.ones(4, 3)}).passed


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"previous": 3}, TypeError, "previous is a int; it must be a mapping of name to tensor"),
    ({"previous": {"v": torch.ones(3)}}, ValueError, "previous has 'v', which the module has not"),
    ({"previous": {"w": 3.0}}, TypeError, r"previous\['w'\] is a float; it must be a tensor"),
    ({"previous": {"w": torch.ones(2)}}, ValueError, r"previous\['w'\] has shape \(2,\); params\['w'\] has shape"),
    ({"symmetric": "w"}, ValueError, r"symmetric names 'w' of shape \(3,\); its last two axes must be"),
    ({"stencil": "sideways"}, ValueError, "stencil 'sideways' is not known"),
    ({"points": 0}, ValueError, "points is 0; it must be at least 1"),
    ({"time_budget": 0}, ValueError, "time_budget is 0; it must be finite and above 0"),
    ({"bounds": [(0, 1)]}, ValueError, "bounds has 1 pairs; it must have one for each of the 6 entries"),
]


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED, ids=range(len(REFUSED)))
def test_options_that_make_no_sense_are_refused(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        check_module(Cubed([0.4, 0.5, 0.6]), torch.ones(3), **options)


def test_keyword_arguments_are_given_once() -> None:
    with pytest.raises(TypeError, match="inputs is a dict of keyword arguments; with kwargs, it must be a tuple"):
        check_module(nn.Linear(2, 2), {"input": torch.ones(2)}, kwargs={})


# --- the assertion ---


def test_an_assertion_raises_the_report_unless_it_passes() -> None:
    assert assert_module(smooth(), inputs()).passed
    with pytest.raises(fastgc.GradientMismatch, match=r"^FAIL  1 of 2 tensors disagrees: w") as info:
        assert_module(Cubed([0.4, 0.5], factor=2.0), torch.ones(2))
    assert info.value.report.tensors["w"].verdict == "fail"


def test_an_assertion_accepts_what_is_undecided_if_told_to() -> None:
    module = nn.Sequential(nn.Linear(6, 30), nn.Dropout(0.5))
    with pytest.raises(fastgc.GradientMismatch, match=r"^UNDECIDED"):
        assert_module(module, inputs())
    assert assert_module(module, inputs(), allow_undecided=True).verdict == "undecided"


# --- the doors of NumPy ---


class Own(nn.Module):
    """A subclass, as users have them."""


TENSORS: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: fastgc.check_gradients(len, len, {"a": [torch.ones(2)]}),
        r"^params\['a.0'\] is a PyTorch Tensor; use ",
    ),
    (lambda: fastgc.assert_gradients(len, len, nn.Parameter(torch.ones(2))), r"^params is a PyTorch Parameter; use "),
    (
        lambda: fastgc.check_gradients(len, len, Own()),
        r"^params is a PyTorch Own; use fastgc.torch.check_module for ",
    ),
    (lambda: fastgc.check_jacobian(len, len, torch.ones(2)), r"^x is a PyTorch Tensor; .*, fastgc.torch.gradcheck for"),
    (lambda: fastgc.check_hessian(len, len, len, torch.ones(2)), r"^x is a PyTorch Tensor; .*; or pass NumPy arrays"),
]


@pytest.mark.parametrize(("call", "message"), TENSORS, ids=range(len(TENSORS)))
def test_tensors_are_pointed_to_the_right_door(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


# --- memory ---


def test_the_gradient_and_the_parameters_are_kept_once() -> None:
    from fastgc._parameters.layout import named_layout
    from fastgc._parameters.matching import NewArrays, match_gradients
    from fastgc.torch._points import held

    tensor = torch.ones(2, 3)
    assert np.shares_memory(held(tensor), tensor.numpy())
    assert not np.shares_memory(held(tensor.bfloat16()), tensor.numpy())
    layout = named_layout(["w"], [(2, 3)], [np.dtype(np.float32)])
    array = np.ones((2, 3), np.float32)
    (kept,) = match_gradients(layout, NewArrays(w=array), copy=True)
    (copied,) = match_gradients(layout, {"w": array}, copy=True)
    assert np.shares_memory(kept, array) and not np.shares_memory(copied, array)


FLAGS = {
    fastgc.torch.gradcheck: (
        "raise_exception", "check_undefined_grad", "check_grad_dtypes", "check_batched_grad",
        "check_batched_forward_grad", "check_forward_ad", "check_backward_ad", "fast_mode", "masked", "allow_undecided",
    ),
    fastgc.torch.gradgradcheck: (
        "gen_non_contig_grad_outputs", "check_fwd_over_rev", "check_rev_over_rev", "raise_exception", "allow_undecided",
    ),
    fastgc.torch.check_module: ("seeded", "operations", "crosscheck", "progress"),
    fastgc.torch.assert_module: ("seeded", "operations", "allow_undecided"),
}  # fmt: skip


@pytest.mark.parametrize("value", [np.ones(2), torch.ones(2), [], "no", 2], ids=str)
@pytest.mark.parametrize(("door", "name"), [(door, name) for door, names in FLAGS.items() for name in names])
def test_flags_that_are_neither_true_nor_false(door: Any, name: str, value: Any) -> None:
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    arguments = (torch.tanh, x) if "grad" in door.__name__ else (torch.nn.Linear(3, 2), torch.ones(4, 3))
    with pytest.raises(TypeError, match=f"^{name} is .*it must be True or False"):
        door(*arguments, **{name: value})
