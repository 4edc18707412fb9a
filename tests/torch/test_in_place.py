"""Large parameters, which are displaced where they are, in the module's own precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from fastgc.torch import _in_place, check_module  # noqa: E402
from fastgc.torch._subject import Arguments, subject_of  # noqa: E402


@pytest.fixture(autouse=True)
def every_module_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_in_place, "_COPIED_BYTES", 0)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * 7


class Square(nn.Module):
    def forward(self, x: Any) -> Any:
        return Doubled.apply(x)


class Raising(nn.Module):
    """Raises at its third call."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.calls, self.error = [0], error

    def __deepcopy__(self, memo: Any) -> Raising:
        return self

    def forward(self, x: Any) -> Any:
        self.calls[0] += 1
        if self.calls[0] > 9:
            raise self.error
        return x


def net(middle: nn.Module, dtype: Any = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), middle, nn.Linear(8, 3)).to(dtype)


def state(module: nn.Module) -> dict[str, Any]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(module: nn.Module, before: dict[str, Any]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def native(module: nn.Module, x: Any, **options: Any) -> Any:
    return check_module(module, x, precision="native", **options)


def shared_by(module: nn.Module, precision: Any = "native") -> set[str]:
    from fastgc._gradient.options import CheckOptions

    originals = dict(module.named_parameters())
    options = CheckOptions(precision=precision)
    subject = subject_of(module, Arguments((torch.ones(2, 6),), {}), None, originals, options, False)
    return {name for name, t in subject.parameters.items() if subject.tensors[t] is originals[name]}


DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("samples", [2, "all"])
def test_a_right_module_passes_and_keeps_its_bits(dtype: Any, samples: Any) -> None:
    module, x = net(nn.Tanh(), dtype), torch.randn(4, 6, dtype=dtype)
    before = state(module)
    assert native(module, x, samples=samples).verdict != "fail"
    assert same(module, before)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_a_wrong_module_fails_and_keeps_its_bits(dtype: Any) -> None:
    module, x = net(Square(), dtype), torch.randn(4, 6, dtype=dtype)
    before = state(module)
    report = native(module, x, samples=2)
    assert report.tensors["0.weight"].verdict == "fail"
    assert report.tensors["2.weight"].verdict == "pass"
    assert same(module, before)


def test_the_report_is_that_of_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = net(nn.Tanh()), torch.randn(4, 6, dtype=torch.float64)
    there = native(module, x, samples=2)
    monkeypatch.setattr(_in_place, "_COPIED_BYTES", 2**26)
    copied = native(module, x, samples=2)
    assert [*there.tensors] == [*copied.tensors]
    assert all(there.tensors[name].verdict == copied.tensors[name].verdict for name in copied.tensors)
    assert there.evaluations == copied.evaluations


def test_random_points_leave_the_bits_as_they_are() -> None:
    module, x = net(nn.Tanh()), torch.randn(4, 6, dtype=torch.float64)
    before = state(module)
    assert native(module, x, points=2).verdict == "pass"
    assert same(module, before)


def test_kinks_leave_the_bits_as_they_are() -> None:
    module, x = net(nn.ReLU()), torch.zeros(4, 6, dtype=torch.float64)
    with torch.no_grad():
        module[0].bias.zero_()
    before = state(module)
    assert native(module, x, samples="all").verdict != "fail"
    assert same(module, before)


def test_an_exception_leaves_the_bits_as_they_are() -> None:
    module, x = net(Raising(RuntimeError)), torch.randn(4, 6, dtype=torch.float64)
    before = state(module)
    assert "RuntimeError" in str(native(module, x, samples=2).notes)
    assert same(module, before)


def test_an_interrupt_leaves_the_bits_as_they_are() -> None:
    module, x = net(Raising(KeyboardInterrupt)), torch.randn(4, 6, dtype=torch.float64)
    before = state(module)
    with pytest.raises(KeyboardInterrupt):
        native(module, x, samples=2)
    assert same(module, before)


def test_gradients_and_graphs_of_the_caller_stay() -> None:
    module, x = net(nn.Tanh()), torch.randn(4, 6, dtype=torch.float64)
    module[0].weight.grad = torch.full_like(module[0].weight, 3.0)
    graph = module(x).sum()
    native(module, x, samples=2)
    assert (module[0].weight.grad == 3).all()
    graph.backward()  # which a write that PyTorch counts would spoil
    assert not (module[0].weight.grad == 3).all()


def test_hooks_of_the_caller_are_not_called_and_stay() -> None:
    module, x = net(nn.Tanh()), torch.randn(4, 6, dtype=torch.float64)
    seen: list[str] = []
    handle = module[0].weight.register_hook(lambda g: seen.append("gradient") or 2 * g)
    module[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated"))
    assert native(module, x, samples=2).verdict == "pass"
    assert not seen
    module(x).sum().backward()
    assert seen == ["gradient", "accumulated"]
    handle.remove()
    module(x).sum().backward()
    assert seen == ["gradient", "accumulated", "accumulated"]


def test_a_loss_that_reads_the_parameters_is_differentiated_by_them() -> None:
    module, x = net(nn.Tanh()), torch.randn(4, 6, dtype=torch.float64)
    report = native(module, x, loss=lambda out: out.square().mean() + module[0].weight.square().sum(), samples="all")
    assert report.verdict == "pass"


def test_the_modules_own_parameters_are_used() -> None:
    assert shared_by(net(nn.Tanh())) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert shared_by(net(nn.Tanh()), "double") == set()


def test_small_modules_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_in_place, "_COPIED_BYTES", 2**26)
    assert shared_by(net(nn.Tanh())) == set()


def others() -> Iterator[tuple[str, nn.Module, set[str]]]:
    overlapping = net(nn.Tanh())
    memory = torch.randn(60, dtype=torch.float64)
    overlapping[0].weight = nn.Parameter(memory[:48].view(8, 6))
    overlapping[0].bias = nn.Parameter(memory[40:48])
    yield "overlapping", overlapping, {"2.weight", "2.bias"}
    beside = net(nn.Tanh())
    beside[0].weight = nn.Parameter(memory[:48].view(8, 6))
    beside[0].bias = nn.Parameter(memory[48:56])
    yield "one after the other", beside, {"0.weight", "0.bias", "2.weight", "2.bias"}
    turned = net(nn.Tanh())
    turned[0].weight = nn.Parameter(torch.randn(6, 8, dtype=torch.float64).T)
    yield "not contiguous", turned, {"0.bias", "2.weight", "2.bias"}
    subclass = net(nn.Tanh())
    subclass[0].weight = type("Special", (nn.Parameter,), {})(subclass[0].weight.data)
    yield "subclass", subclass, {"0.bias", "2.weight", "2.bias"}
    with torch.inference_mode():
        inference = net(nn.Tanh())
    yield "of inference mode", inference, set()


@pytest.mark.parametrize(("name", "module", "shared"), [*others()], ids=[name for name, *_ in others()])
def test_what_cannot_be_displaced_there_is_copied(name: str, module: nn.Module, shared: set[str]) -> None:
    assert shared_by(module) == shared
    before = state(module)
    assert native(module, torch.randn(4, 6, dtype=torch.float64), samples=2).verdict == "pass"
    assert same(module, before)


def test_an_embedding_that_writes_to_its_weight_is_copied() -> None:
    module = nn.Embedding(4, 3, max_norm=0.1)
    before = state(module)
    with pytest.raises(ValueError, match="changes its parameters 'weight'"):
        native(module, torch.tensor([0]))
    assert same(module, before)


class Growing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            self.weight.mul_(1.5)
        return self.weight * x


def test_a_module_that_writes_to_its_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="changes its parameters 'weight'"):
        native(Growing(), torch.ones(3))


def test_gradients_are_received_one_after_another() -> None:
    """The backward pass hands each gradient on, and keeps none in the memory of its device."""
    module, x = net(nn.Tanh()), torch.randn(4, 6, dtype=torch.float64)
    from fastgc._gradient.options import CheckOptions

    originals = dict(module.named_parameters())
    options = CheckOptions(precision="native")
    subject = subject_of(module, Arguments((x,), {}), lambda out: out.square().sum(), originals, options, False)
    held: list[int] = []
    grad = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        result = grad(*args, **kwargs)
        held.extend(each.untyped_storage().nbytes() for each in result)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", counted)
        found = subject.gradients()
    expected = grad(module(x).square().sum(), [*originals.values()])
    assert held == [8, 8, 8, 8]  # one zero each
    assert all((torch.from_numpy(a) == b).all() for a, b in zip(found, expected, strict=True) if a is not None)
    assert all(each is not None for each in found)
