"""`fastgc.torch.check_module` against torch's slow gradcheck, and on a transformer block of 3 million parameters.

Speed: every entry of a 32-64-10 ReLU network (n = 2,762) with cross-entropy, in float64 and one thread; gradcheck is
given the same loss of the same parameters, which is its fastest way to the same answer. Target: 5 times less processor
time, in the median of pairs, at a batch of 8, 16 and 32; the larger it is, the more both spend on the same products.

Memory: the peak beyond what the process held before the check, in units of the parameters as they are evaluated, that
is in float64. Target: below 3 for a module in float64. One in float32 is shown besides: its copy is twice its size.
Run ``python bench/torch_modules.py [--json FILE]``; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastgc
from fastgc.torch import check_module

FASTER, SMALLER = 5.0, 3.0
PAIRS = 7
BATCHES = (8, 16, 32)
# Left to itself, glibc keeps up to twice the largest block that was freed, here two thirds of the model, and how much
# depends on chance. With a fixed threshold, 1 MiB, all larger blocks go back at once.
RETURNING = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


# --- speed ---


def network(batch: int) -> tuple[nn.Module, Any, Callable[[Any], Any]]:
    torch.manual_seed(batch)
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)).double()
    x, y = torch.randn(batch, 32, dtype=torch.float64), torch.randint(0, 10, (batch,))
    return net, x, lambda out: nn.functional.cross_entropy(out, y)


def ours(net: nn.Module, x: Any, loss: Callable[[Any], Any]) -> str:
    report = check_module(net, x, loss, samples="all", tensors=["0.*", "2.*"])
    assert sum(tensor.checked for tensor in report.tensors.values()) == 2762
    return report.verdict


def theirs(net: nn.Module, x: Any, loss: Callable[[Any], Any]) -> str:
    names = [name for name, _ in net.named_parameters()]

    def function(*tensors: Any) -> Any:
        return loss(torch.func.functional_call(net, dict(zip(names, tensors, strict=True)), (x,)))

    tensors = [parameter.detach().clone().requires_grad_() for parameter in net.parameters()]
    return "pass" if torch.autograd.gradcheck(function, tensors, raise_exception=False) else "fail"


def timed(check: Callable[..., str], *arguments: Any) -> tuple[float, str]:
    begin = time.process_time()
    verdict = check(*arguments)
    return time.process_time() - begin, verdict


def speed(batch: int) -> dict[str, Any]:
    arguments = network(batch)
    assert ours(*arguments) == "pass"  # also loads what is loaded late
    pairs = [(timed(ours, *arguments), timed(theirs, *arguments)) for _ in range(PAIRS)]
    return {
        "batch": batch,
        "fastgc": statistics.median(mine[0] for mine, _ in pairs),
        "gradcheck": statistics.median(other[0] for _, other in pairs),
        "ratio": statistics.median(other[0] / mine[0] for mine, other in pairs),
        "verdicts": sorted({verdict for pair in pairs for _, verdict in pair}),
    }


# --- memory ---


def status(field: str) -> int:
    """Bytes that /proc tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def block(dtype: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=True).to(dtype)
    return net, torch.randn(2, 16, 512, dtype=dtype)


def memory(name: str) -> dict[str, Any]:
    """Run in a process of its own: check the block, and tell by how much the peak rose."""
    torch.set_num_threads(1)
    check_module(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), torch.randn(2, 3, 16))
    net, x = block(getattr(torch, name))
    count = sum(parameter.numel() for parameter in net.parameters())
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    report = check_module(net, x, samples=32)
    extra = status("VmHWM") - before
    own = count * net.norm1.weight.element_size()
    return {"dtype": name, "parameters": count, "verdict": report.verdict, "seconds": report.seconds,
            "evaluations": report.evaluations, "extra": extra, "per_float64": extra / (8 * count),
            "per_own": extra / own}  # fmt: skip


def in_a_process(name: str) -> dict[str, Any]:
    command, environment = [sys.executable, __file__, "--memory", name], os.environ | RETURNING
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


# --- all ---


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--memory", choices=["float32", "float64"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.memory)))
        return 0
    torch.set_num_threads(1)
    print(f"fastgc {fastgc.__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    speeds = [speed(batch) for batch in BATCHES]
    for row in speeds:
        print(
            "batch {batch:3}: fastgc {fastgc:.3f} s, slow gradcheck {gradcheck:.3f} s: {ratio:.1f} times".format(**row)
        )
    memories = [in_a_process(name) for name in ("float64", "float32")]
    for row in memories:
        print(
            "transformer block in {dtype}, {parameters:,} parameters: {verdict}, {seconds:.1f} s, {evaluations:,} "
            "evaluations, peak {per_float64:.2f} times the float64 copy, {per_own:.2f} times the module".format(**row)
        )
    fast = all(row["ratio"] >= FASTER and row["verdicts"] == ["pass"] for row in speeds)
    small = memories[0]["per_float64"] < SMALLER and all(row["verdict"] == "pass" for row in memories)
    print(f"{FASTER:g} times faster at every batch: {'met' if fast else 'MISSED'}")
    print(f"decided with a peak below {SMALLER:g} times the parameters: {'met' if small else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps({"speed": speeds, "memory": memories}, indent=1))
    return 0 if fast and small else 1


if __name__ == "__main__":
    sys.exit(main())
