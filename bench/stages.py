"""Losses that come as stages, and layers of PyTorch: every entry, against the same check of the whole loss.

NumPy: the network 256-256-10 with 128 rows (n = 68,362; with ``--quick`` 100-100-10, n = 11,110) as two dense stages
and one of the loss. Target: 40 microseconds for each entry, on two cores. PyTorch: a network 784-128-10 with 32 rows
(n = 101,770), every parameter. Target: 10 times faster than with displaced weights, of which 5,000 entries are timed
beyond 1,000, since all would take minutes.

Both ways must give the same verdict of every entry, and slopes that differ by less than their uncertainties, which
hold for 99.4 % of all slopes.
Run ``python bench/stages.py [--quick] [--json FILE]``; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from measure import Row, conclude, headline, in_turn, parser, seconds, tell
from networks import NETWORKS, Problem, network

import fastgc

sys.path.append(str(Path(__file__).parents[1]))

from tests.support.staged import two_layers

MICROSECONDS, FASTER = 40, 10
ROUNDS = 3
FEW, MORE = 1_000, 6_000  # entries of a module that are checked with displaced weights


def check(problem: Problem, loss: Callable[..., Any]) -> fastgc.GradientReport:
    return fastgc.check_gradients(
        loss, problem.gradients, problem.params, args=problem.args, samples="all", crosscheck=False
    )


# --- what both ways found ---


def compared(part: str, ours: fastgc.GradientReport, theirs: fastgc.GradientReport) -> list[Row]:
    """How many verdicts differ, and how many slopes by more than their uncertainties, which hold for 99.4 % of them."""
    differing, apart, common = 0, 0, 0
    for name, tensor in ours.tensors.items():
        known = {each.index: each for each in theirs.tensors[name].entries}
        for one in tensor.entries:
            if other := known.get(one.index):
                common += 1
                differing += one.verdict != other.verdict
                apart += not abs(one.numerical - other.numerical) <= one.uncertainty + other.uncertainty
    return [
        Row(part, "entries with another verdict than the whole loss gives", differing, "== 0"),
        Row(part, "share of slopes that differ by more than their uncertainties", apart / common, "<= 0.006"),
    ]


def numpy_rows(n: int, rounds: int) -> list[Row]:
    problem, staged = network(*NETWORKS[n]), two_layers()
    part = f"NumPy, n = {n:,}"
    ours, theirs = check(problem, staged), check(problem, problem.loss)
    runs = {"stages": lambda: seconds(lambda: check(problem, staged))}
    if n < max(NETWORKS):  # the whole loss takes half a minute at the largest
        runs["whole"] = lambda: seconds(lambda: check(problem, problem.loss))
    times = {name: statistics.median(each) for name, each in in_turn(runs, rounds).items()}
    times.setdefault("whole", theirs.seconds)
    return [
        Row(part, "microseconds for each entry, as stages", times["stages"] / n * 1e6, f"<= {MICROSECONDS}"),
        Row(part, "microseconds for each entry, as a whole", times["whole"] / n * 1e6),
        Row(part, "whole / stages", times["whole"] / times["stages"]),
        *compared(part, ours, theirs),
    ]


# --- a module ---


def torch_rows(hidden: int, rounds: int) -> list[Row]:
    import torch

    from fastgc.torch import _points

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(784, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10))
    x, n = torch.randn(32, 784), sum(each.numel() for each in net.parameters())

    def run(samples: Any) -> fastgc.GradientReport:
        return fastgc.torch.check_module(net, x, samples=samples, tensors=["*.weight", "*.bias"])

    def displaced(samples: int) -> fastgc.GradientReport:
        with mock.patch.object(_points, "layers_of", return_value={}):
            return run(samples)

    ours, theirs = run("all"), displaced(MORE)
    runs = {
        "layers": lambda: seconds(lambda: run("all")),
        "few": lambda: seconds(lambda: displaced(FEW)),
        "more": lambda: seconds(lambda: displaced(MORE)),
    }
    times = {name: statistics.median(each) for name, each in in_turn(runs, rounds).items()}
    checked = sum(tensor.checked for tensor in theirs.tensors.values())
    beyond = checked - sum(min(FEW, tensor.size) for tensor in theirs.tensors.values())
    layers, weights = times["layers"] / n, (times["more"] - times["few"]) / beyond
    part = f"PyTorch, n = {n:,}"
    return [
        Row(part, "microseconds for each entry, displaced behind its layer", layers * 1e6),
        Row(part, "microseconds for each entry, with displaced weights", weights * 1e6),
        Row(part, "displaced weights / behind layers", weights / layers, f">= {FASTER}"),
        *compared(part, ours, theirs),
    ]


def main() -> int:
    options = parser(__doc__).parse_args()
    about = headline()
    rounds = 1 if options.quick else ROUNDS
    rows = [tell(row) for row in numpy_rows(11_110 if options.quick else max(NETWORKS), rounds)]
    rows += [tell(row) for row in torch_rows(128, rounds)]
    return conclude(rows, options, about)


if __name__ == "__main__":
    sys.exit(main())
