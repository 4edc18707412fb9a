"""Which operation of a network is wrong: 40 networks with one wrong operation each, and their 40 right twins.

MLP, CNN, LSTM, transformer, U-Net, normalising flow and graph network, several sizes and places (see
tests/support/culprits.py). Every network is checked by `fastgc.torch.check_module`; a right twin with a wrong loss, so
that its operations are tested.

Targets: the culprit is named exactly, by module, operation and argument, in all 40; no operation of a right twin is
accused, and none undecided; one forward and one backward pass of the network; at most six evaluations of each
operation, on average over the operations of every network (right ones take three; a wrong one takes more, to find the
argument).
Run ``OMP_NUM_THREADS=1 python bench/culprits.py``; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from fastgc.torch import _operations, check_module
from tests.support.culprits import CULPRITS, Culprit, halved

EVALUATIONS = 6
HALVED = {("loss", "Half.backward", ("input 0",))}


def checked(culprit: Culprit, *, wrong: bool) -> tuple[Any, int]:
    """The report, and the number of passes through the network that its operations took."""
    passes: list[Any] = []

    def recorded(*arguments: Any) -> Any:
        passes.append(arguments)
        return plain(*arguments)

    plain = _operations._recorded
    with mock.patch.object(_operations, "_recorded", recorded):
        net, inputs = culprit.network(wrong=wrong)
        loss = None if wrong else halved
        report = check_module(net, inputs, loss, samples=1, probes=1, seeded=culprit.seeded)
    return report, len(passes)


def accused(report: Any) -> set[tuple[str, str, tuple[str, ...]]]:
    wrong = [each for each in report.operations if each.verdict == "fail"]
    return {(each.path, each.rule, tuple(slope.argument for slope in each.wrong)) for each in wrong}


def main() -> int:
    torch.set_num_threads(1)
    named = innocent = 0
    means, passes = [], []
    for culprit in CULPRITS:
        report, count = checked(culprit, wrong=True)
        exact = accused(report) == {(culprit.path, culprit.rule, (culprit.argument,))}
        twin, _ = checked(culprit, wrong=False)
        right = accused(twin) == HALVED and all(each.verdict == "pass" for each in twin.operations[:-1])
        evaluations = [each.evaluations for each in report.operations] or [0]
        named, innocent = named + exact, innocent + right
        means.append(sum(evaluations) / len(evaluations))
        passes.append(count)
        print(
            f"{culprit!s:42} {'named' if exact else 'NOT NAMED'}, twin {'right' if right else 'ACCUSED'}; "
            f"{len(evaluations):2} operations, {means[-1]:.1f} evaluations of each, at most {max(evaluations)}"
        )
    count = len(CULPRITS)
    print(f"named exactly: {named} of {count}: {'met' if named == count else 'MISSED'}")
    print(f"right twins with nothing accused but their loss: {innocent}: {'met' if innocent == count else 'MISSED'}")
    print(f"passes through the network: {max(passes)} at most: {'met' if max(passes) == 1 else 'MISSED'}")
    few = max(means) <= EVALUATIONS
    print(f"evaluations of each operation: {max(means):.1f} on average, at most: {'met' if few else 'MISSED'}")
    return 0 if named == innocent == count and max(passes) == 1 and few else 1


if __name__ == "__main__":
    sys.exit(main())
