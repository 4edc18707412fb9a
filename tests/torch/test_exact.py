"""Exact tangents of custom Functions decide what differences of a module's loss leave undecided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

from torch import nn  # noqa: E402

from fastgc.torch import check_module, gradcheck  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of forward mode's first use
DECIDED = "the exact tangent of the forward bodies of custom Functions decided"


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)


class Scaled(torch.autograd.Function):
    """tanh, with a backward that is off by a factor, and forward mode that is off by another."""

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

    @staticmethod
    def jvp(ctx: Any, t: Any, _: Any) -> Any:
        raise AssertionError("a rule of the user's own is not independent of what is checked")


class Applied(nn.Module):
    """A linear layer, the Function, and what is made of its output."""

    def __init__(self, factor: float, after: Callable[[Any], Any], before: Callable[[Any], Any] = lambda x: x) -> None:
        super().__init__()
        self.factor, self.after, self.before = factor, after, before
        self.linear = nn.Linear(6, 5)
        with torch.no_grad():
            for k, each in enumerate(self.linear.parameters()):
                each.copy_(torch.linspace(-1.0, 1.0, each.numel()).reshape(each.shape) / (k + 1))

    def forward(self, x: Any) -> Any:
        return self.after(Scaled.apply(self.before(self.linear(x)), self.factor))


def noise_added(y: Any) -> Any:
    return y + torch.rand_like(y)


def hidden_by_an_offset(y: Any) -> Any:
    return y + 1e5


def checked(module: nn.Module, **options: Any) -> Any:
    return check_module(module, torch.linspace(-0.9, 1.0, 6), **options)


def decided(report: Any) -> bool:
    return any(note.startswith(DECIDED) for note in report.notes)


HARD: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "noise": (noise_added, {}),
    "single precision": (hidden_by_an_offset, {"precision": "native"}),
}


@pytest.mark.parametrize("samples", [8, 0], ids=["entries", "probes"])
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("factor", [1.02, -1.0])
def test_a_wrong_backward_fails_and_the_report_says_who_decided(name: str, factor: float, samples: int) -> None:
    after, options = HARD[name]
    report = checked(Applied(factor, after), samples=samples, **options)
    assert report.verdict == "fail", str(report)
    assert decided(report) or name == "single precision", str(report)
    assert any(each.wrong_entries for each in report.tensors.values())


@pytest.mark.parametrize("samples", [8, 0], ids=["entries", "probes"])
@pytest.mark.parametrize("name", HARD)
def test_a_right_backward_passes(name: str, samples: int) -> None:
    after, options = HARD[name]
    report = checked(Applied(1.0, after), samples=samples, **options)
    assert report.passed, str(report)


def test_the_report_says_so_of_entries_and_probes() -> None:
    report = check_module(Applied(1.0, noise_added), torch.linspace(-0.9, 1.0, 6), samples=2)
    (note,) = [note for note in report.notes if note.startswith(DECIDED)]
    assert note.endswith("entries and the probes of inputs[0], linear.bias, linear.weight")
    assert any(entry.step == 0 for each in report.tensors.values() for entry in each.entries)
    assert "(exact)" in str(checked(Applied(0.5, noise_added), samples=2))
    assert not any("finite difference itself" in note for note in report.notes)


def test_without_a_custom_function_nothing_independent_decides() -> None:
    report = checked(nn.Sequential(nn.Linear(6, 5), nn.Dropout()))
    assert report.verdict == "undecided" and not decided(report)


class Numpy(torch.autograd.Function):
    """Leaves PyTorch on the way."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x + torch.from_numpy(x.detach().numpy() ** 2)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * (1 + 2 * ctx.saved_tensors[0])


@torch.library.custom_op("fastgc_tests::square", mutates_args=())
def square(x: torch.Tensor) -> torch.Tensor:
    """An operator with a rule for backward, and none for tangents."""
    return x * x


square.register_autograd(
    lambda ctx, g: 2 * g * ctx.saved_tensors[0],
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def slope_of_noise(y: Any) -> Any:
    return y * torch.rand_like(y)


def cut_by_data(y: Any) -> Any:
    return noise_added(y + torch.sin(y.data))


def cut_by_copy(y: Any) -> Any:
    return noise_added(y + torch.sin(torch.tensor(y)))


CLOSED: dict[str, Callable[[Any], Any]] = {
    "noise in the slope": slope_of_noise,
    "a function that leaves PyTorch": lambda y: noise_added(Numpy.apply(y)),
    "an operator without a rule": lambda y: noise_added(y + square(y)),
    "data": cut_by_data,
    "a copied number": cut_by_copy,
}


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize("name", CLOSED)
def test_what_is_not_open_to_forward_mode_decides_nothing(name: str) -> None:
    report = checked(Applied(1.0, CLOSED[name]))
    assert report.verdict == "undecided" and not decided(report), str(report)


def test_operators_without_a_rule_decide_nothing_in_gradcheck() -> None:
    x = torch.linspace(-0.9, 1.0, 5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(Exception, match=r"^undecided: "):
        gradcheck(lambda x: noise_added(Scaled.apply(x, 1.0) + square(x)), x)


def test_round_off_of_a_backward_in_single_precision_is_no_failure() -> None:
    """Nearly all of each entry of the input's gradient cancels; in double precision the same backward is right."""

    def cancelling(y: Any) -> Any:
        return hidden_by_an_offset(3e3 * y - 2.999e3 * y.flip(0).flip(0))

    report = checked(Applied(1.0, cancelling), precision="native")
    assert report.verdict != "fail", str(report)


def test_a_kink_is_not_refuted() -> None:
    """At zero, backward may follow another convention than forward mode."""

    class Rectifier(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return torch.relu(x)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 0.5 * g

    class Rectified(nn.Module):
        def forward(self, x: Any) -> Any:
            return noise_added(Rectifier.apply(x)) if self.training else Rectifier.apply(x)

    assert check_module(Rectified().eval(), torch.zeros(3)).passed


def test_buffers_inputs_and_random_state_stay_as_they_were() -> None:
    module = nn.Sequential(nn.BatchNorm1d(5), Applied(1.02, noise_added))
    module[1].linear = nn.Linear(5, 5)
    x, state = torch.linspace(-1, 1, 20).reshape(4, 5), torch.get_rng_state()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    assert check_module(module, x).verdict == "fail"
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(x, torch.linspace(-1, 1, 20).reshape(4, 5))
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())


def test_the_tangent_is_that_of_each_point() -> None:
    report = checked(Applied(1.02, noise_added), points=2, samples=8)
    assert report.verdict == "fail"
    assert {entry.point for each in report.tensors.values() for entry in each.wrong_entries} == {0, 1}
