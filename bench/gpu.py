"""`fastgc.torch.check_module` on a card: verdicts, seconds and memory of large modules, and custom Functions.

A tower of square layers of 1e9 parameters in float32, in its own precision, and one of 1e8 in float64; the same small
tower with a wrong backward; a Function whose kernels are written in Triton, where that is installed; a module on two
devices; dropout, whose random state on the card must be the same after the check. Targets: no right module fails, every
wrong one does, the extra memory on the card is at most 0.05 of the parameters (they are displaced where they are, and
the host keeps the gradient and what they were), and a tower takes at most 200 seconds (it has that as its
``time_budget``, too). On the processor there is no other memory for the gradient: there it is taken off.

Run ``python bench/gpu.py [--json FILE]``: some six minutes, and 6 GB of the card's memory. Without a card it says so,
and exits with 0. ``--device cpu --small`` runs the same on the processor, with towers of 2e4 parameters. The exit
status is 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from measure import Row, conclude, forget_peak, headline, parser, resident, tell
from torch import nn

from fastgc.torch import check_module

WIDTHS, SMALL_WIDTH = {"float32": 4096, "float64": 1536}, 64
LAYERS, FEW_LAYERS = {"float32": 60, "float64": 56}, 4  # 1.0e9 and 1.3e8 parameters; one tensor is 0.02 of them
BATCH = 16
SECONDS = 200.0  # two towers and all the rest stay below eight minutes
MEMORY = 0.05  # of the parameters: three of the largest tensor, for its gradient and what looks at all its entries


class Doubled(torch.autograd.Function):
    """tanh with a backward twice as large, on purpose."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        return 2 * g * (1 - y * y)


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any, *given: Any) -> None:
        super().__init__()
        self.function, self.given = function, given

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.function(x, *self.given)
        return result


class Residual(nn.Module):
    """A layer beside the identity, so that slopes neither grow nor vanish in a tall tower."""

    def __init__(self, width: int, share: float, **how: Any) -> None:
        super().__init__()
        self.layer, self.share = nn.Linear(width, width, **how), share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.share * torch.tanh(self.layer(x))


class OnTwoDevices(nn.Module):
    """Its first layer on the processor, its second on the device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 3, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(torch.tanh(self.first(x)).to(self.second.weight.device))
        return y


# --- memory ---


def start_memory(device: torch.device) -> int:
    """Let the peak begin anew; the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    forget_peak()
    return resident("VmRSS")


def peak_memory(device: torch.device) -> int:
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else resident("VmHWM")


# --- parts ---


def tower(dtype: str, device: torch.device, width: int, layers: int) -> tuple[nn.Module, torch.Tensor]:
    how = {"device": device, "dtype": getattr(torch, dtype)}
    parts = [Residual(width, layers**-0.5, **how) for _ in range(layers)]
    return nn.Sequential(*parts), torch.randn(BATCH, width, **how)


def large(dtype: str, device: torch.device, *, small: bool) -> Iterator[Row]:
    size = (SMALL_WIDTH, FEW_LAYERS) if small else (WIDTHS[dtype], LAYERS[dtype])
    net, x = tower(dtype, device, *size)
    count = sum(each.numel() for each in net.parameters())
    net(x).sum().backward()  # a library of the card keeps its workspace, 32 MB, from the first product on
    net.zero_grad()
    part, before = f"{count:.1e} parameters in {dtype}", start_memory(device)
    begin = time.perf_counter()
    report = check_module(net, x, precision="native", samples=4, time_budget=SECONDS, operations=False)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    yield Row(part, "failed", report.verdict == "fail", "== 0")
    yield Row(part, "tensors that pass, share", share_that_passes(report))
    yield Row(part, "seconds", time.perf_counter() - begin, f"<= {SECONDS * 1.25:g}")
    yield Row(part, "evaluations", report.evaluations)
    extra = (peak_memory(device) - before) / (count * x.element_size()) - (device.type == "cpu")
    yield Row(part, "extra memory, in parameters", extra, f"<= {MEMORY:g}" if device.type == "cuda" else "")


def share_that_passes(report: Any) -> float:
    verdicts = [each.verdict for each in report.tensors.values()]
    return verdicts.count("pass") / len(verdicts)


def small(device: torch.device) -> Iterator[Row]:
    def layers(middle: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), middle, nn.Linear(16, 4)).to(device)

    x = torch.randn(5, 8, device=device)
    yield verdict_row("a wrong backward", layers(Apply(Doubled.apply)), x, "fail")
    yield verdict_row("two devices", OnTwoDevices(device), torch.randn(5, 8), "pass")
    dropping, before = layers(nn.Dropout()), states(device)
    yield verdict_row("seeded dropout", dropping, x, "pass", seeded=True)
    same = all(torch.equal(a, b) for a, b in zip(before, states(device), strict=True))
    yield Row("seeded dropout", "random states as before", same, "== 1")
    if device.type == "cuda" and importlib.util.find_spec("triton"):
        from triton_swish import Swish

        for factor, expected in ((1.0, "pass"), (1.01, "fail")):
            net = layers(Apply(Swish.apply, factor))
            yield verdict_row(f"Triton, backward times {factor:g}", net, x, expected, precision="native")
    else:
        print("no Triton Function: it needs a card, and pip install triton")


def verdict_row(part: str, net: nn.Module, x: torch.Tensor, expected: str, **options: Any) -> Row:
    return Row(part, f"verdict is {expected}", check_module(net, x, **options).verdict == expected, "== 1")


def states(device: torch.device) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def rows(device: torch.device, *, few: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    yield from small(device)
    for dtype in LAYERS:
        yield from large(dtype, device, small=few)


def main(arguments: list[str] | None = None) -> int:
    options = described().parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"skipped: PyTorch {torch.__version__} sees no card here; --device cpu --small runs the same without one")
        return 0
    about = headline()
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    print(f"card: {card}\n")
    found = [tell(row) for row in rows(device, few=options.small)]
    return conclude(found, options, about, card=card)


def described() -> argparse.ArgumentParser:
    result = parser(__doc__)
    result.add_argument("--device", default="cuda", help="such as cuda:1, or cpu")
    result.add_argument("--small", action="store_true", help="towers of 2e4 parameters")
    return result


if __name__ == "__main__":
    sys.exit(main())
