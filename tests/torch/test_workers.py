"""A module evaluated by several workers: the same numbers to the bit, whoever computes them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
pytest.importorskip("joblib", reason="joblib is not installed: pip install joblib")
pytest.importorskip("cloudpickle", reason="cloudpickle is not installed: pip install cloudpickle")

from torch import nn  # noqa: E402

from fastgc.torch import check_module  # noqa: E402

# loky replaces a worker that has grown by 300 MB since its first task, and warns in a thread of its own.
pytestmark = pytest.mark.filterwarnings("ignore:A worker stopped while some jobs were given:UserWarning")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Slow(nn.Module):
    """Takes a while, so that work is worth sharing out."""

    def forward(self, x: Any) -> Any:
        begin = time.perf_counter()
        while time.perf_counter() - begin < 1e-3:
            pass
        return x


class Cubed(torch.autograd.Function):
    """With a backward that is off by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * g * ctx.saved_tensors[0] ** 2


class Cube(nn.Module):
    def forward(self, x: Any) -> Any:
        return Cubed.apply(x)


class OutOfBatch(nn.Module):
    """Its control flow depends on values: no batches."""

    def forward(self, x: Any) -> Any:
        return x if float(x.detach().sum()) > -1e9 else 2 * x


def network(*more: nn.Module, hidden: int = 5, outputs: int = 3) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    last = nn.Linear(hidden, outputs), nn.BatchNorm1d(outputs), nn.Tanh()
    made = nn.Sequential(nn.Linear(6, hidden), nn.GELU(), Slow(), *more, *last)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return made


def checked(module: nn.Module, workers: Any, **options: Any) -> Any:
    return check_module(module, torch.linspace(-1.0, 1.0, 24).reshape(4, 6), workers=workers, **options)


def numbers(report: Any) -> list[Any]:
    """All that was measured and decided."""
    return [
        (name, each.verdict, each.probe, [(entry.index, entry.numerical, entry.uncertainty) for entry in each.entries])
        for name, each in report.tensors.items()
    ]


MODULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "batches": (network, {"samples": "all"}),
    "plain calls": (lambda: network(OutOfBatch()), {"samples": 12}),
    "single precision": (lambda: network(hidden=20, outputs=8), {"samples": 12, "precision": "native"}),
    "a wrong backward": (lambda: network(Cube(), hidden=20, outputs=8), {"samples": 16}),
    "random points": (network, {"samples": 8, "points": 2}),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=[pytest.mark.slow] * (each in ("single precision", "random points")))
        for each in MODULES
    ],
)
def test_results_are_those_of_one_process_to_the_bit(name: str) -> None:
    made, options = MODULES[name]
    alone, shared = checked(made(), 1, **options), checked(made(), 2, **options)
    assert numbers(alone) == numbers(shared)
    assert alone.verdict == shared.verdict == ("fail" if name == "a wrong backward" else "pass"), str(shared)
    assert "2 processes" in shared.engine


@pytest.mark.parametrize("workers", [ThreadPoolExecutor(2), map], ids=["executor", "map"])
def test_executors_and_maps_serve_too(workers: Any) -> None:
    assert numbers(checked(network(), 1, samples="all")) == numbers(checked(network(), workers, samples="all"))


class Deadly(nn.Module):
    """Kills the worker that calls it for the first time."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark, self.home = mark, os.getpid()

    def forward(self, x: Any) -> Any:
        if os.getpid() != self.home and not self.mark.exists():
            self.mark.touch()
            os._exit(7)
        return x


def test_a_killed_worker_costs_its_piece(tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    shared = checked(network(Deadly(mark)), 2, samples=24)
    assert mark.exists()
    assert numbers(shared) == numbers(checked(network(Deadly(mark)), 1, samples=24))


def test_a_module_that_is_not_deterministic_is_evaluated_here() -> None:
    report = checked(network(nn.Dropout(0.1)), 2)
    assert any("evaluated in this process alone" in note for note in report.notes)
    assert "processes" not in report.engine


def test_seeded_random_numbers_are_the_same_everywhere() -> None:
    options = {"seeded": True, "samples": 24}
    alone, shared = (checked(network(nn.Dropout(0.1)), workers, **options) for workers in (1, 2))
    assert numbers(alone) == numbers(shared) and shared.passed


def test_what_cannot_be_pickled_is_refused() -> None:
    module = network()
    module.lock = threading.Lock()
    with pytest.raises(TypeError, match="pickle"):
        checked(module, 2)


def test_the_module_stays_as_it_was() -> None:
    module = network()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    checked(module, 2)
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="workers is 0; it must be at least 1"):
        checked(network(), 0)
