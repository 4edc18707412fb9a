"""Entries of layers displaced behind the layer: the same numbers and verdicts as those of displaced weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastgc  # noqa: E402
from fastgc.torch import _layers, _points  # noqa: E402

nn = torch.nn


class Spy:
    """Counts the values that were computed behind layers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values = 0
        original = _layers.Layer.values

        def values(layer: Any, loss: Any, cells: Any, lengths: Any) -> Any:
            found = original(layer, loss, cells, lengths)
            self.values += len(found)
            return found

        monkeypatch.setattr(_layers.Layer, "values", values)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    torch.manual_seed(0)
    return Spy(monkeypatch)


def both(module: Any, inputs: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[fastgc.GradientReport]:
    """The reports with entries displaced behind layers, and with displaced weights."""
    names = [name for name, _ in module.named_parameters()]
    options = {"samples": "all", "probes": 0, "tensors": names, **options}
    reports = [fastgc.torch.check_module(module, inputs, **options)]
    with monkeypatch.context() as patched:
        patched.setattr(_points, "layers_of", lambda subject: {})
        reports.append(fastgc.torch.check_module(module, inputs, **options))
    return reports


def assert_same(ours: fastgc.GradientReport, theirs: fastgc.GradientReport) -> None:
    assert ours.verdict == theirs.verdict
    for name, tensor in ours.tensors.items():
        for one, other in zip(tensor.entries, theirs.tensors[name].entries, strict=True):
            assert (one.index, one.verdict) == (other.index, other.verdict)
            assert abs(one.numerical - other.numerical) <= one.uncertainty + other.uncertainty


def numbered(*shape: int) -> Any:
    return torch.sin(torch.arange(1.0, 1.0 + np.prod(shape))).reshape(shape)


LAYERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "linear": lambda: (nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)), numbered(5, 3)),
    "linear without a batch": lambda: (nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh()), numbered(4)),
    "linear of three axes": lambda: (nn.Sequential(nn.Linear(4, 8), nn.Softmax(-1)), numbered(2, 3, 4)),
    "convolution": lambda: (nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 2)), numbered(2, 2, 6, 5)),
    "convolution with strides": lambda: (
        nn.Sequential(nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), nn.Tanh()),
        numbered(2, 2, 6, 5),
    ),
    "convolution in groups": lambda: (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Tanh()), numbered(2, 4, 5, 5)),
    "convolution of channels": lambda: (nn.Sequential(nn.Conv2d(4, 8, 2, groups=4), nn.Tanh()), numbered(2, 4, 4, 4)),
    "convolution of equal size": lambda: (
        nn.Sequential(nn.Conv2d(2, 3, (1, 3), padding="same"), nn.Tanh()),
        numbered(1, 2, 5, 4),
    ),
    "reflected convolution": lambda: (
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.Tanh()),
        numbered(1, 2, 5, 4),
    ),
    "convolution of one image": lambda: (nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh()), numbered(2, 6, 5)),
    "embedding": lambda: (
        nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), nn.Linear(4, 6)),
        torch.tensor([[1, 2, 2], [6, 0, 2]]),
    ),
    "embedding with padding": lambda: (
        nn.Sequential(nn.Embedding(7, 4, padding_idx=2), nn.Tanh(), nn.Linear(4, 6)),
        torch.tensor([[1, 2, 2], [6, 0, 2]]),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_numbers_and_verdicts_are_those_of_displaced_weights(
    name: str, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, inputs = LAYERS[name]()
    ours, theirs = both(module, inputs, monkeypatch)
    assert_same(ours, theirs)
    assert ours.verdict == "pass"
    size = sum(each.numel() for each in module.parameters() if each.numel() >= 16)
    assert spy.values >= 2 * size


def test_values_are_those_of_displaced_weights_to_round_off(spy: Spy) -> None:
    """One evaluator at a point, asked for the same values in both ways."""
    module, inputs = LAYERS["convolution with strides"]()
    module = module.double()
    x = inputs.double()
    layer = module[0]

    def loss() -> Any:
        return (module(x) ** 2).sum()

    kind = _layers._KINDS[nn.Conv2d.forward, "weight"]
    cells = np.arange(layer.weight.numel())
    lengths = 1e-3 * np.cos(cells)
    found = _layers.Layer(layer, kind, 1).values(loss, cells, lengths)
    flat = layer.weight.data.reshape(-1)
    for cell, length in zip(cells.tolist(), lengths.tolist(), strict=True):
        kept = flat[cell].item()
        flat[cell] = kept + length
        assert found[cell].item() == pytest.approx(loss().item(), rel=1e-13)
        flat[cell] = kept


class Halved(torch.autograd.Function):
    """The identity, with half of its gradient: wrong, on purpose."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Any:
        return slope / 2

    generate_vmap_rule = False

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any) -> Any:
        return x.clone(), in_dims[0]


class WrongBias(nn.Module):
    """Two layers, of which the gradient of the first one's bias is halved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        return self.second(torch.tanh(Halved.apply(self.first(x))))


def test_a_wrong_gradient_is_found_where_it_is_found_with_displaced_weights(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = both(WrongBias(), numbered(5, 3), monkeypatch, operations=False)
    assert_same(ours, theirs)
    assert [name for name, each in ours.tensors.items() if each.verdict == "fail"] == ["first.weight", "first.bias"]


def test_kinks_get_the_verdicts_of_displaced_weights(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        module[0].weight[1] = module[0].bias[1] = 0.0  # a unit at its kink
    ours, theirs = both(module, numbered(5, 3), monkeypatch)
    assert_same(ours, theirs)
    assert spy.values


# --- layers of which more than one channel of one output changes ---


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Any) -> Any:
        return self.layer(torch.tanh(self.layer(x)))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Any) -> Any:
        return self.second(torch.tanh(self.first(x)))


class Bypassed(nn.Module):
    """A weight that is also read without its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Any) -> Any:
        return nn.functional.linear(torch.tanh(self.layer(x)), self.layer.weight)


class Unused(Bypassed):
    """A layer that is not called: its parameters are read."""

    def forward(self, x: Any) -> Any:
        return torch.tanh(nn.functional.linear(x, self.layer.weight, self.layer.bias))


class Squared(nn.Linear):
    """A layer that computes something else."""

    def forward(self, x: Any) -> Any:
        return nn.functional.linear(x, self.weight**2, self.bias)


class Penalised(nn.Module):
    """A weight that is also a term of the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Any) -> Any:
        return self.layer(x), (self.layer.weight**2).sum()


class Detached(Bypassed):
    """A weight that is also read where no gradient sees it, and hardly matters."""

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.layer(x)) + 1e-6 * self.layer.weight.detach().sum()


class Decayed(Bypassed):
    """A weight that is also a small term of the loss: less than two ways to compute a value may differ by."""

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.layer(x)), 1e-5 * self.layer.weight.square().sum()


class Elsewhere(torch.autograd.Function):
    """A weight that is read inside a function of its own."""

    @staticmethod
    def forward(ctx: Any, weight: Any) -> Any:
        ctx.save_for_backward(weight)
        return 1e-5 * (weight**2).sum()

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Any:
        return 2e-5 * slope * ctx.saved_tensors[0]


class Hidden(Bypassed):
    """A weight that is also read by an `autograd.Function`."""

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.layer(x)), Elsewhere.apply(self.layer.weight)


def squared() -> Any:
    return nn.Sequential(Squared(6, 6), nn.Tanh())


OTHERS = [Twice, Tied, Bypassed, Unused, squared, Penalised, Detached, Decayed, Hidden]


@pytest.mark.parametrize("made", OTHERS)
def test_a_weight_that_is_read_elsewhere_too_is_displaced_itself(
    made: Callable[[], Any], spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = made()
    names = [name for name, _ in module.named_parameters() if name.endswith("weight")]
    ours, theirs = both(module, numbered(4, 6), monkeypatch, tensors=names)
    assert_same(ours, theirs)
    assert ours.verdict == ("fail" if made is Detached else "pass")
    assert spy.values == 0


def test_a_layer_whose_function_was_replaced_is_none() -> None:
    layer = nn.Linear(6, 6)
    assert _layers._computed_by(layer) is nn.Linear.forward
    layer.forward = lambda x: x
    assert _layers._computed_by(layer) is None


def test_parametrized_weights_get_the_numbers_of_displaced_weights(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.Tanh())
    assert_same(*both(module, numbered(4, 6), monkeypatch))


def test_layers_inside_attention_get_the_numbers_of_displaced_weights(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.TransformerEncoderLayer(4, 2, dim_feedforward=4, dropout=0.0, batch_first=True)
    assert_same(*both(module, numbered(2, 3, 4), monkeypatch))


class Checkpointed(nn.Module):
    """Layers of which the backward pass computes the values again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.last = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        from torch.utils.checkpoint import checkpoint

        return self.last(checkpoint(self.inner, x, use_reentrant=False))


def test_checkpointed_layers_get_the_numbers_of_displaced_weights(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = both(Checkpointed(), numbered(4, 6), monkeypatch)
    assert_same(ours, theirs)
    assert ours.verdict == "pass"


def test_hooks_and_keywords_of_a_layer_are_kept(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)
            self.layer.register_forward_hook(double)
            self.layer.register_forward_pre_hook(shift, with_kwargs=True)

        def forward(self, x: Any) -> Any:
            return torch.tanh(self.layer(input=x))

    ours, theirs = both(Keyword(), numbered(4, 6), monkeypatch)
    assert_same(ours, theirs)
    assert spy.values


def double(_: Any, inputs: Any, output: Any) -> Any:
    return 2 * output


def shift(_: Any, args: Any, kwargs: Any) -> Any:
    return args, {"input": kwargs["input"] + 1}


@pytest.mark.parametrize("change", [torch.tanh, lambda output: 1.0001 * output])
def test_hooks_of_all_modules_come_after_the_change(
    change: Callable[[Any], Any], spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    hook = nn.modules.module.register_module_forward_hook(
        lambda layer, inputs, output: change(output) if isinstance(layer, nn.Linear) else None
    )
    try:
        ours, theirs = both(module, numbered(4, 6), monkeypatch)
    finally:
        hook.remove()
    assert_same(ours, theirs)
    assert ours.verdict == "pass"
    assert spy.values


def test_normalisation_in_training_gets_the_numbers_of_displaced_weights(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh())
    ours, theirs = both(module, numbered(8, 6), monkeypatch)
    assert_same(ours, theirs)


def test_to_ask_for_the_shape_of_a_weight_is_no_reading(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asking(Bypassed):
        def forward(self, x: Any) -> Any:
            assert self.layer.weight.shape == (6, 6)
            return torch.tanh(self.layer(x.to(self.layer.weight.device)))

    assert_same(*both(Asking(), numbered(4, 6), monkeypatch))
    assert spy.values


def test_in_single_precision_weights_are_displaced(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = LAYERS["linear"]()
    ours, theirs = both(module, inputs, monkeypatch, precision="native")
    assert_same(ours, theirs)
    assert spy.values == 0


def test_weights_laid_out_otherwise_get_the_numbers_of_displaced_weights(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    module[0].weight = nn.Parameter(module[0].weight.detach().t().contiguous().t())
    assert_same(*both(module, numbered(4, 6), monkeypatch))


def test_an_output_of_a_layer_is_changed_only_in_a_batch() -> None:
    with pytest.raises(NotImplementedError, match="changed only in a batch"):
        _layers._Changed.apply(torch.ones(2), *torch.zeros(3, 1).long(), -1, lambda rows: rows)
