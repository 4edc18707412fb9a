"""Stock layers of PyTorch at their standard initialisation: none fails, in double or in native precision."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
from torch import nn  # noqa: E402

from fastgc.torch import check_module  # noqa: E402
from tests.support.stock_layers import LAYERS, LEFT_OUT, WRONG, is_random, layer_named  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:Initializing zero-element", "ignore:reduction. 'mean' divides"
)
# Decided in float32 on any machine: a sample, one of each kind
NATIVE = (
    "ReLU at zero", "Threshold at zero", "Linear", "Linear at zero", "Conv2d", "BatchNorm2d", "LayerNorm", "RNNCell",
    "MSELoss at a perfect fit", "HuberLoss at a perfect fit", "zero scale of a residual branch",
    "Embedding with padding",
)  # fmt: skip


def test_every_module_class_is_listed() -> None:
    classes = {name for name, kind in vars(nn).items() if isinstance(kind, type) and issubclass(kind, nn.Module)}
    assert classes <= {name.split()[0] for name in LAYERS} | set(LEFT_OUT) | set(WRONG)


@pytest.mark.parametrize("name", [*LAYERS][7::12])
def test_no_stock_layer_fails(name: str) -> None:
    """Every twelfth layer; all of them are checked in `bench/stock.py`."""
    module, inputs = layer_named(name)
    report = check_module(module, inputs, seeded=is_random(name))
    assert report.verdict != "fail", str(report)


@pytest.mark.parametrize("name", NATIVE)
def test_stock_layers_are_decided_in_their_own_precision(name: str) -> None:
    module, inputs = layer_named(name)
    report = check_module(module, inputs, precision="native")
    assert report.passed, str(report)


@pytest.mark.parametrize("name", WRONG)
def test_the_layers_that_are_wrong_in_pytorch_fail_where_pytorch_says_so_too(name: str) -> None:
    module, x = WRONG[name]()
    leaf = x.double().requires_grad_()
    right = torch.autograd.gradcheck(module, (leaf,), raise_exception=False)
    assert check_module(module, x).passed == right


# --- derivatives that PyTorch does not have ---


def test_padding_rows_are_constants_and_named() -> None:
    net = nn.Sequential(nn.Embedding(6, 3, padding_idx=2), nn.Linear(3, 2))
    report = check_module(net, torch.tensor([[0, 2, 5], [2, 2, 1]]), samples="all", points=2)
    assert report.passed, str(report)
    assert "not checked, since padding (padding_idx), which is never trained: '0.weight[2]'" in report.notes
    assert not net[0]._forward_hooks


def test_a_wrong_gradient_of_other_rows_is_still_caught() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, g: torch.Tensor) -> torch.Tensor:
            return 2 * g

    class Wrong(nn.Embedding):
        def __init__(self) -> None:
            super().__init__(6, 3, padding_idx=2)
            self.register_forward_hook(lambda layer, given, output: Doubled.apply(output))

    assert check_module(Wrong(), torch.tensor([0, 2, 5])).verdict == "fail"


def test_labels_that_a_loss_does_not_differentiate_are_left_out_and_named() -> None:
    x, y = torch.randn(4, 5), torch.ones(4, 5)
    report = check_module(nn.SoftMarginLoss(), (x, y))
    assert report.passed and [*report.tensors] == ["inputs[0]"]
    assert "not checked, since PyTorch's function has no derivative for it: 'inputs[1]'" in report.notes


# --- the script for cards ---


def test_the_script_for_cards_runs_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
    import gpu

    found = {(row.part, row.what): row for row in gpu.small(torch.device("cpu"))}
    assert found and all(row.met for row in found.values()), found
    if not torch.cuda.is_available():
        assert gpu.main([]) == 0
        assert "sees no card" in capsys.readouterr().out
