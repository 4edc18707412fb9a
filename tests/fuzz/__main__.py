"""``python -m tests.fuzz --minutes 30``: random calls; a failing seed is printed as a program."""

from __future__ import annotations

import argparse
import time
import traceback
import warnings
from collections import Counter

from tests.fuzz.invariants import Violation, outcome, warm_up
from tests.fuzz.program import drawn


def main() -> int:
    """Run, print the number of each outcome, and return 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--runs", type=int, default=0, help="so many runs, whatever they take")
    parser.add_argument("--failures", type=int, default=10, help="programs that are printed, at most")
    chosen = parser.parse_args()
    warm_up()
    counts: Counter[str] = Counter()
    end, seed = time.monotonic() + 60 * chosen.minutes, chosen.seed
    while seed - chosen.seed < chosen.runs if chosen.runs else time.monotonic() < end:
        counts[_run(seed, show=counts["VIOLATION"] < chosen.failures)] += 1
        seed += 1
    for name, count in sorted(counts.items(), key=lambda each: -each[1]):
        print(f"{count:7,}  {name}")
    print(f"{seed - chosen.seed:7,}  runs, seeds {chosen.seed} to {seed - 1}")
    return 1 if counts["VIOLATION"] else 0


def _run(seed: int, *, show: bool) -> str:
    program = drawn(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return outcome(program)
    except Violation as error:
        if show:
            print(f"# seed {seed}: {error}\n" + "\n".join(program.lines) + "\nprint(call())\n")
            if error.__cause__ is not None:
                traceback.print_exception(error.__cause__, limit=-3)
        return "VIOLATION"


raise SystemExit(main())
