"""fastgc.torch.gradcheck in the place of torch.autograd.gradcheck, over operations of torch.nn.functional and linalg.

Every operation is checked at several inputs with its own backward, and with that backward made wrong: scaled by 1.01,
the gradient of one entry halved, transposed where an input is square. A wrong backward counts where it makes the
Jacobian differ by more than twice torch's tolerance somewhere. The processor time of both is measured on the correct
ones, in turns, and the median of several runs counts. Targets, checked: 150 operations; the verdict on every correct
one equals that of torch's slow mode, with no false alarm; every wrong backward is caught; the correct ones take 0.4 of
the time of torch's slow mode all together, 0.8 at the median of the inputs, and none more than twice. The exit status
is 1 otherwise.

Run ``python bench/torch_operations.py [--only WORD] [--json FILE]`` after ``pip install torch``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import fastgc
from fastgc.torch import gradcheck

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.torch_operations import OPERATIONS, SPOILS, Operation, jacobian, spoiled

FEWEST = 150
RUNS = 5
IN_ALL, AT_MEDIAN, AT_MOST = 0.4, 0.8, 2.0  # of the time of torch's slow mode
ATOL, RTOL = 1e-5, 1e-3  # torch's
CHECKS = gradcheck, torch.autograd.gradcheck

Verdict = tuple[bool, str, float]


def seconds(checks: Sequence[Callable[..., bool]], function: Callable[..., Any], inputs: Any) -> list[float]:
    """The median time of each check, run in turns."""
    runs = [[verdict(check, function, inputs)[2] for check in checks] for _ in range(RUNS)]
    return [statistics.median(times) for times in zip(*runs, strict=True)]


def verdict(check: Callable[..., bool], function: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> Verdict:
    """Whether it passes, what it says otherwise, and how long it takes."""
    begin = time.process_time()
    try:
        check(function, inputs)
    except Exception as error:
        return False, f"{type(error).__name__}: {error}", time.process_time() - begin
    return True, "", time.process_time() - begin


def examine(operation: Operation) -> dict[str, Any]:
    """All inputs of an operation, right and wrong."""
    row: dict[str, Any] = dict.fromkeys(("inputs", "alarms", "unequal", "wrong", "missed", "torch_missed"), 0)
    row |= {"name": operation.name, "seconds": 0.0, "torch_seconds": 0.0, "ratios": [], "says": []}
    for inputs in operation.inputs():
        ours, theirs = (verdict(check, operation.function, inputs) for check in CHECKS)
        times = seconds(CHECKS, operation.function, inputs)
        row["inputs"] += 1
        row["alarms"] += not ours[0]
        row["unequal"] += ours[0] != theirs[0]
        row["seconds"] += times[0]
        row["torch_seconds"] += times[1]
        row["ratios"].append(times[0] / times[1])
        row["says"] += [each[1][:500] for each in (ours, theirs) if not each[0]]
        right = jacobian(operation.function, inputs)
        for name, make in SPOILS.items():
            wrong = spoiled(operation.function, make(inputs))
            off = (jacobian(wrong, inputs) - right).abs() - 2 * (ATOL + RTOL * right.abs())
            if off.numel() and off.max() > 0:
                row["wrong"] += 1
                passed, _, _ = verdict(gradcheck, wrong, inputs)
                row["missed"] += passed
                row["torch_missed"] += verdict(torch.autograd.gradcheck, wrong, inputs)[0]
                row["says"] += [f"{name} passes"] if passed else []
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="operations whose name contains this")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"fastgc {fastgc.__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    columns = (
        ("inputs", 6),
        ("alarms", 6),
        ("unequal", 7),
        ("wrong", 5),
        ("missed", 6),
        ("ms", 7),
        ("torch ms", 8),
        ("ratio", 5),
    )
    print(" ".join(["operation".ljust(40), *(name.rjust(width) for name, width in columns)]))
    rows = []
    for operation in [each for each in OPERATIONS if options.only in each.name]:
        row = examine(operation)
        rows.append(row)
        print(
            f"{row['name']:40s} {row['inputs']:6d} {row['alarms']:6d} {row['unequal']:7d} {row['wrong']:5d} "
            f"{row['missed']:6d} {1e3 * row['seconds']:7.1f} {1e3 * row['torch_seconds']:8.1f} "
            f"{row['seconds'] / row['torch_seconds']:5.2f}"
        )
        for text in row["says"]:
            print("    " + text.replace("\n", "\n    "))
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key not in ("name", "ratios", "says")}
    print(
        f"{len(rows)} operations, {total['inputs']} inputs: {total['alarms']} alarms, {total['unequal']} verdicts "
        f"unlike torch's; {total['wrong']} wrong backwards: {total['missed']} missed (torch: {total['torch_missed']})"
    )
    ratios = sorted(ratio for row in rows for ratio in row["ratios"])
    total |= {"ratio": total["seconds"] / total["torch_seconds"], "median_ratio": statistics.median(ratios)}
    total |= {"largest_ratio": ratios[-1], "above_2": sum(ratio > AT_MOST for ratio in ratios)}
    print(
        "seconds for the correct ones: {seconds:.2f}, torch {torch_seconds:.2f}: {ratio:.2f} times; of one input: "
        "median {median_ratio:.2f} times, largest {largest_ratio:.1f}, {above_2} above 2".format(**total)
    )
    slow = total["ratio"] > IN_ALL or total["median_ratio"] > AT_MEDIAN or total["largest_ratio"] > AT_MOST
    print(f"{IN_ALL} in all, {AT_MEDIAN} at the median, {AT_MOST:.0f} at most: {'MISSED' if slow else 'met'}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "total": total}, indent=1))
    short = not options.only and len(rows) < FEWEST
    return int(short or slow or bool(total["alarms"] or total["unequal"] or total["missed"]))


if __name__ == "__main__":
    sys.exit(main())
