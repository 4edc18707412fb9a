"""Which operation of a module is wrong: named exactly, and no right one accused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.support.concurrency import at_once

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
from torch import nn  # noqa: E402
from torch.autograd.function import _SingleLevelFunction  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from fastgc._reports.operations import operation_lines  # noqa: E402
from fastgc.torch import _operations, check_module  # noqa: E402
from tests.support.culprits import CULPRITS, Act, Clip, Couple, Culprit, Softmax, gelu, halved, transformer  # noqa: E402
from tests.support.texts import text  # noqa: E402


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)


class Called(nn.Module):
    """A module of one function and perhaps a weight."""

    def __init__(self, function: Callable[..., Any], *shape: int) -> None:
        super().__init__()
        self.function = function
        if shape:
            self.weight = nn.Parameter(torch.randn(*shape))

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, self.weight) if hasattr(self, "weight") else self.function(*inputs)


def check(module: nn.Module, inputs: Any, **options: Any) -> Any:
    return check_module(module, inputs, **{"samples": 2, "probes": 1, **options})


def culprits(report: Any) -> dict[tuple[str, str, int], list[str]]:
    """The arguments that are wrong, by path, rule and number of the call."""
    assert report.verdict == "fail"
    wrong = [each for each in report.operations if each.verdict == "fail"]
    return {(each.path, each.rule, each.call): [slope.argument for slope in each.wrong] for each in wrong}


def named(module: nn.Module, inputs: Any, **options: Any) -> dict[tuple[str, str, int], list[str]]:
    return culprits(check(module, inputs, **options))


GELU = {("1", "Gelu.backward", 1): ["input 0"]}


def wrong_gelu(after: nn.Module | None = None, before: nn.Module | None = None, n: int = 4) -> nn.Module:
    return nn.Sequential(before or nn.Linear(n, n), Act(gelu, wrong=True), after or nn.Linear(n, n))


# --- forty networks ---


def before(culprit: Culprit) -> str:
    """The tensors at the network's start, which every wrong operation makes wrong; others take most of the time."""
    return "embed.weight" if culprit.build is transformer else "inputs*"


@pytest.mark.parametrize("culprit", CULPRITS[::10], ids=str)
def test_the_wrong_operation_is_named(culprit: Culprit) -> None:
    """In every tenth network; all of them are checked in `bench/culprits.py`."""
    report = check(*culprit.network(wrong=True), seeded=culprit.seeded, tensors=before(culprit))
    assert {(path, rule) for path, rule, _ in culprits(report)} == {(culprit.path, culprit.rule)}
    assert {argument for found in culprits(report).values() for argument in found} == {culprit.argument}
    evaluations = [each.evaluations for each in report.operations]
    assert sum(evaluations) <= 6 * len(evaluations)
    where = f"{culprit.path}: " if culprit.path else ""
    assert f"{where}{culprit.rule} is wrong with respect to its {culprit.argument}" in text(report)


@pytest.mark.parametrize("culprit", CULPRITS[5::10], ids=str)
def test_no_operation_of_its_right_twin_is_accused(culprit: Culprit) -> None:
    report = check(*culprit.network(wrong=False), loss=halved, seeded=culprit.seeded, tensors=before(culprit))
    assert culprits(report) == {("loss", "Half.backward", 1): ["input 0"]}
    assert {each.verdict for each in report.operations[:-1]} == {"pass"}


# --- what is said ---


def test_the_text_names_the_culprit_with_both_values_and_the_factor() -> None:
    report = check(wrong_gelu(), torch.randn(3, 4))
    line = operation_lines(report.operations)[0]
    assert line.startswith("1: Gelu.backward is wrong with respect to its input 0: along a random direction analytic ")
    assert line.endswith(", factor 2; the other 2 operations agree, 1 more contains it")
    (wrong,) = [each for each in report.operations if each.verdict == "fail"]
    assert wrong.slopes[0].factor == pytest.approx(2, rel=1e-6)
    assert f"analytic {wrong.slopes[0].analytic:.6g}, numerical {wrong.slopes[0].numerical:.6g} +- " in line
    assert [each["path"] for each in report.to_dict()["operations"]] == ["0", "1", "1", "2"]


def test_nothing_is_said_where_it_is_not_asked_for_or_nothing_fails() -> None:
    assert check(wrong_gelu(), torch.randn(3, 4), operations=False).operations == ()
    assert check(nn.Linear(3, 2), torch.randn(3, 3)).operations == ()


def test_an_error_in_how_operations_are_combined_is_told_from_one_in_them() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return self.second(torch.tanh(self.first(x).detach()) + x)

    report = check(Net(), torch.randn(2, 3))
    assert culprits(report) == {}
    assert "the one operation agrees by itself; the error lies in how they are combined (a detach" in text(report)
    found = named(nn.Sequential(Net(), nn.Tanh()), torch.randn(2, 3))
    arguments = ["input 0", "parameter first.weight", "parameter first.bias"]
    assert found == {("0", "the backward pass of Net", 1): arguments}


def test_an_operation_in_the_loss_is_named() -> None:
    report = check(nn.Linear(3, 3), torch.randn(2, 3), loss=lambda y: gelu(y, True).sum())
    assert culprits(report) == {("loss", "Gelu.backward", 1): ["input 0"]}
    assert "loss: Gelu.backward is wrong" in text(report)


# --- calls of all kinds ---


def test_a_function_called_twice_is_wrong_in_one_of_its_calls() -> None:
    net = nn.Sequential(nn.Linear(3, 3), Called(lambda x: gelu(x, False) + gelu(x * x, True)))
    report = check(net, torch.randn(2, 3))
    assert culprits(report) == {("1", "Gelu.backward", 2): ["input 0"]}
    assert "1: Gelu.backward is wrong with respect to its input 0 in 1 of its 2 calls: " in text(report)


def test_a_function_is_found_in_a_loop_and_at_the_top() -> None:
    class Net(nn.Module):
        def forward(self, x: Any) -> Any:
            for k in range(5):
                x = gelu(x, k == 3) + 1
            return x

    report = check(Net(), torch.randn(4))
    assert culprits(report) == {("", "Gelu.backward", 4): ["input 0"]}
    assert operation_lines(report.operations)[0].startswith(
        "Gelu.backward is wrong with respect to its input 0 in 1 of its 5"
    )


@pytest.mark.parametrize("depth", [1, 2])
def test_a_function_is_found_under_checkpoints(depth: int) -> None:
    def run(x: Any, depth: int = depth) -> Any:
        if not depth:
            return gelu(torch.sin(x), True)
        return checkpoint(run, x, depth - 1, use_reentrant=False)

    report = check(nn.Sequential(nn.Linear(3, 3), Called(run)), torch.randn(2, 3))
    assert culprits(report) == {("1", "Gelu.backward", 1): ["input 0"]}
    assert len(report.operations) == 3


def test_functions_with_several_inputs_and_outputs() -> None:
    class Net(nn.Module):
        def __init__(self, wrong: bool) -> None:
            super().__init__()
            self.net, self.wrong = nn.Linear(3, 6), wrong

        def forward(self, x: Any, *, scale: Any) -> Any:
            s, t = self.net(x).chunk(2, -1)
            y, det = Couple.apply(scale["x"], s, t, self.wrong)
            return {"y": y, "rest": (det, [s])}

    inputs = {"x": torch.randn(2, 3), "scale": {"x": torch.randn(2, 3)}}
    assert named(Net(True), inputs) == {("", "Couple.backward", 1): ["input 1"]}


def test_an_error_that_no_gradient_reaches_is_not_named() -> None:
    def run(x: Any) -> Any:
        y, determinant = Couple.apply(x, torch.sin(x), x, True)  # wrong in what it makes of the latter's gradient
        return gelu(y, True) + 0 * determinant.detach()[:, None]

    assert named(Called(run), torch.randn(2, 3)) == {("", "Gelu.backward", 1): ["input 0"]}


def test_a_wrong_module_is_named_with_its_keyword_and_nested_inputs() -> None:
    class Leaf(nn.Module):
        def forward(self, pair: Any, *, mask: Any) -> Any:
            return {"out": pair[0] * pair[1].detach() * mask["a"].detach() + pair[1]}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leaf = Leaf()

        def forward(self, x: Any) -> Any:
            return self.leaf((x, x * x), mask={"a": torch.sin(x)})["out"]

    assert named(Net(), torch.randn(3)) == {("leaf", "the backward pass of Leaf", 1): ["input 0[1]", "input mask[a]"]}


def test_several_wrong_operations_and_arguments_are_all_named() -> None:
    class Both(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, y = ctx.saved_tensors
            return 3 * g * y, -g * x

    net = nn.Sequential(nn.Linear(3, 3), Called(Both.apply, 3), nn.Linear(3, 3), Act(gelu, wrong=True))
    report = check(net, torch.randn(2, 3))
    assert culprits(report) == {
        ("1", "Both.backward", 1): ["input 0", "input 1"],
        ("3", "Gelu.backward", 1): ["input 0"],
    }
    lines = ["", *operation_lines(report.operations)]
    assert lines[1].startswith("1: Both.backward is wrong with respect to its input 0, input 1: along a random direct")
    assert lines[2].startswith("3: Gelu.backward is wrong")
    assert lines[2].endswith("; the other 2 operations agree, 2 more contain it")


def test_operations_that_write_to_their_inputs() -> None:
    def run(x: Any) -> Any:
        return Clip.apply(x * 1, True)

    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), Called(run), nn.Hardtanh(-2, 2, inplace=True))
    assert named(net, torch.randn(5, 3)) == {("2", "Clip.backward", 1): ["input 0"]}
    late = nn.Sequential(nn.Linear(3, 3), Act(gelu, wrong=True), Called(lambda x: x.mul_(2).add_(1)))
    assert named(late, torch.randn(5, 3)) == GELU


def test_a_class_made_in_the_call_and_one_in_the_newer_style() -> None:
    def run(x: Any) -> Any:
        class Local(torch.autograd.Function):
            @staticmethod
            def forward(x: Any, factor: float = 3.0) -> Any:
                return x * factor

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                pass

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                return 4 * g, None

        return Local.apply(x)

    report = check(nn.Sequential(nn.Linear(2, 2), Called(run)), torch.randn(3, 2))
    assert culprits(report) == {("1", "Local.backward", 1): ["input 0"]}


def test_a_shared_module_and_shared_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.first, self.second = Act(gelu, wrong=True), nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def forward(self, x: Any) -> Any:
            return self.act(self.second(self.act(self.first(x))))

    assert named(Net(), torch.randn(2, 3)) == {("act", "Gelu.backward", k): ["input 0"] for k in (1, 2)}


def test_hooks_and_parametrisations() -> None:
    class Double(nn.Module):
        def forward(self, x: Any) -> Any:
            return gelu(x, True)

    hooked = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    hooked[1].register_full_backward_hook(lambda module, into, out: (2 * into[0],))
    assert named(hooked, torch.randn(2, 3)) == {("1", "the backward pass of Tanh", 1): ["input 0"]}
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    nn.utils.parametrize.register_parametrization(net[0], "weight", Double())
    assert named(net, torch.randn(2, 3)) == {("0.parametrizations.weight.0", "Gelu.backward", 1): ["input 0"]}


def test_an_exception_that_a_module_catches() -> None:
    class Fails(nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("no")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fails, self.act = Fails(), Act(gelu, wrong=True)

        def forward(self, x: Any) -> Any:
            try:
                return self.fails(x)
            except ValueError:
                return self.act(x)

    assert named(nn.Sequential(Net(), nn.Tanh()), torch.randn(3)) == {("0.act", "Gelu.backward", 1): ["input 0"]}


def test_functions_inside_transforms_are_left_alone() -> None:
    class Batched(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Any) -> Any:
            return x**2

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 3 * ctx.saved_tensors[0]

    net = nn.Sequential(nn.Linear(3, 3), Called(torch.func.vmap(Batched.apply)))
    assert named(net, torch.randn(2, 3)) == {("1", "the backward pass of Called", 1): ["input 0"]}


# --- right operations that are hard to test ---


HARD: dict[str, Callable[[], nn.Module]] = {
    "zeros of a rectifier": lambda: nn.Sequential(Called(lambda x: 0 * x), nn.ReLU(), Called(torch.add, 4)),
    "both kinks at zero": lambda: nn.Sequential(
        Called(lambda x: 0 * x), Called(lambda x: x.abs() - x.relu()), nn.ELU()
    ),
    "ties of a maximum": lambda: nn.Sequential(Called(lambda x: torch.round(x)), nn.AdaptiveMaxPool1d(4)),
    "dropout": lambda: nn.Dropout(0.5),
    "batch normalisation": lambda: nn.BatchNorm1d(4),
    "a large offset": lambda: nn.Sequential(Called(lambda x: x + 1e6), nn.LayerNorm(4)),
    "single precision": lambda: Called(lambda x: torch.tanh(x.float()).to(x.dtype)),
    "saturated": lambda: nn.Sequential(Called(lambda x: 40 * x), nn.Sigmoid()),
    "tiny": lambda: Called(lambda x: 1e-12 * torch.sin(x)),
    "stairs": lambda: Called(lambda x: torch.round(x * 4) / 4 + x),
    "recurrent": lambda: nn.Sequential(nn.LSTM(4, 4), Called(lambda pair: pair[0])),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0),
    "a state": lambda: Stateful(),
    "frozen": lambda: nn.Linear(4, 4).requires_grad_(False),
    "complex": lambda: Called(lambda x: torch.fft.ifft(torch.fft.fft(x) * (1 + 2j)).real),
    "nothing": lambda: nn.Identity(),
}


class Stateful(nn.Module):
    """Its buffer counts the calls, and scales the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.count += 1
        return x * self.count


@pytest.mark.parametrize(
    ("name", "precision"), [(name, ("double", "native")[number % 2]) for number, name in enumerate(HARD)]
)
def test_right_operations_are_not_accused(name: str, precision: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), HARD[name](), nn.Linear(4, 4), Act(gelu, wrong=True)).to(torch.float32)
    report = check(net, torch.randn(5, 4), precision=precision, seeded=name == "dropout", tensors="2.bias")
    assert culprits(report) == {("3", "Gelu.backward", 1): ["input 0"]}
    if precision == "double" and name not in ("single precision", "tiny", "stairs", "frozen"):
        unsure = {each.path: each.reason for each in report.operations if each.verdict == "undecided"}
        assert unsure == {"3": "contains a wrong operation"}


def test_the_first_operation_whose_gradient_is_not_finite_is_named() -> None:
    root = Called(lambda x: torch.sqrt(x * 0))
    report = check(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), root, nn.Linear(3, 3)), torch.randn(2, 3))
    assert culprits(report) == {("2", "the backward pass of Called", 1): ["input 0"]}
    reasons = [each.reason for each in report.operations]
    assert reasons == 2 * ["the gradient that reaches it is not finite"] + ["the analytic value is not finite", ""]


def test_mixed_precision_is_that_of_the_call() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.linear(x).float()

    report = check(wrong_gelu(before=Mixed()), torch.randn(3, 4), precision="native")
    assert ("1", "Gelu.backward", 1) in culprits(report)
    (linear,) = [each for each in report.operations if each.path == "0.linear"]
    assert linear.evaluations >= 3 and linear.verdict != "fail" and "called again" not in linear.reason


def test_complex_functions() -> None:
    class Turn(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Any) -> Any:
            ctx.save_for_backward(z)
            return z * z

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (z,) = ctx.saved_tensors
            return g * 2 * z  # not conjugated, on purpose

    class Net(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.view_as_real(Turn.apply(torch.complex(x, torch.sin(x))) * torch.complex(x, x))

    assert named(Net(), torch.randn(3)) == {("", "Turn.backward", 1): ["input 0"]}


def test_sparse_gradients_and_whole_numbers() -> None:
    net = nn.Sequential(nn.Embedding(5, 4, sparse=True), Act(gelu, wrong=True))
    assert named(net, torch.randint(5, (2, 3))) == GELU


def test_an_error_far_below_the_tolerance_is_found_where_there_is_no_other() -> None:
    class Slightly(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1.0

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            off = torch.ones_like(g)
            off[0, 0] += 2e-3
            return g * off

    net = nn.Sequential(nn.Linear(400, 400), Called(Slightly.apply), nn.Tanh())
    nn.init.normal_(net[0].weight, std=0.05)
    report = check_module(net, torch.randn(300, 400), probes=0, tensors="0.bias", samples={"0.bias": [0]})
    assert culprits(report) == {("1", "Slightly.backward", 1): ["input 0"]}


def test_an_operation_that_cannot_be_called_again_is_undecided() -> None:
    class Once(nn.Module):
        calls = 0

        def forward(self, x: Any) -> Any:
            if torch.is_grad_enabled() and len(_SingleLevelFunction.__dict__.keys() & {"apply"}) == 0 and self.armed:
                raise RuntimeError("once only")
            self.armed = "apply" in vars(_SingleLevelFunction)
            return x.sin()

    once = Once()
    once.armed = False
    report = check(wrong_gelu(after=once), torch.randn(2, 4))
    assert culprits(report) == GELU
    assert report.operations[-1].verdict == "undecided"
    assert report.operations[-1].reason == "it could not be called again (RuntimeError: once only)"
    assert "the other operation agrees, 1 more contains it, 1 is undecided" in text(report)


def test_what_cannot_be_tested_is_noted() -> None:
    class Raises(nn.Module):
        def forward(self, x: Any) -> Any:
            if "apply" in vars(_SingleLevelFunction):
                raise ValueError("not now")
            return x

    report = check(wrong_gelu(after=Raises()), torch.randn(2, 4))
    assert report.verdict == "fail" and report.operations == ()
    assert "which operation is wrong was not tested (ValueError: not now)" in report.notes


# --- what is left behind ---


def hooks(module: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


def test_nothing_is_left_behind() -> None:
    net, x = wrong_gelu(), torch.randn(2, 4, requires_grad=True)
    state = torch.get_rng_state()
    check(net, x)
    assert "apply" not in vars(_SingleLevelFunction)
    assert hooks(net) == 0 and x.grad is None and all(each.grad is None for each in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_left_behind_by_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raises(nn.Module):
        def forward(self, x: Any) -> Any:
            if "apply" in vars(_SingleLevelFunction):
                raise KeyboardInterrupt
            return x

    with pytest.raises(KeyboardInterrupt):
        check(wrong_gelu(after=Raises()), torch.randn(2, 4))
    assert "apply" not in vars(_SingleLevelFunction)


def test_other_threads_are_not_recorded() -> None:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            Softmax.apply(torch.randn(3, requires_grad=True), True).sum().backward()

    other = threading.Thread(target=busy)
    other.start()
    try:
        report = check(wrong_gelu(), torch.randn(2, 4))
    finally:
        stop.set()
        other.join()
    assert culprits(report) == GELU
    assert {each.name for each in report.operations} == {"Linear", "Act", "Gelu"}


def test_checks_at_once_name_their_own_culprits() -> None:
    nets = [wrong_gelu(), nn.Sequential(nn.Linear(4, 4), Act(Softmax.apply, wrong=True))]
    found = at_once(*(partial(named, net, torch.randn(2, 4)) for net in nets))
    assert found == [GELU, {("1", "Softmax.backward", 1): ["input 0"]}]


# --- what it costs ---


def test_memory_is_bounded_by_further_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = wrong_gelu(), torch.randn(2, 4)
    passes = []
    plain = _operations._recorded
    monkeypatch.setattr(_operations, "_recorded", lambda *given: passes.append(given) or plain(*given))
    whole = check(net, x)
    assert len(passes) == 1
    monkeypatch.setattr(_operations.operations_of, "__defaults__", (0,))
    pieces = check(net, x)
    assert culprits(pieces) == culprits(whole) == GELU
    assert [(each.path, each.verdict) for each in pieces.operations] == [
        (each.path, each.verdict) for each in whole.operations
    ]
    assert len(passes) == 1 + 4


def test_right_operations_take_three_evaluations() -> None:
    report = check(wrong_gelu(), torch.randn(2, 4))
    assert [each.evaluations for each in report.operations] == [3, 0, 7, 3]
