"""Write the table of measured figures in README.md from the results of the other scripts.

Run every script with ``--json bench/results/NAME.json`` (NAME is that of the script) on one quiet machine, then this.
``--check`` writes nothing and exits with status 1 where README.md does not show the results. Results of ``--quick``
runs and of different machines or versions are refused; what no script has measured is left out of the table.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).parent
BEGIN, END = "<!-- measured: written by bench/readme.py -->", "<!-- end of measured -->"
SCRIPTS = ("peers", "floor", "scaling", "cold", "memory", "workers", "startup", "accuracy")
TRANSIENT = {"load"}  # what may differ between runs on one machine

Results = Mapping[str, Mapping[str, Any]]


class Selection(NamedTuple):
    """Rows of a script that make one line of the table; each value is scaled and written in the format."""

    what: str
    script: str
    pattern: str  # of "part: what"
    form: str


PER_KIND = "fastest {} / fastgc, every entry; by n"
SELECTIONS = [
    Selection(PER_KIND.format("of NumPy, SciPy, torch (central)"), "peers", "central.* / fastgc$", "{:.1f}"),
    Selection(PER_KIND.format("jitted JAX loop"), "peers", "JAX loop / fastgc$", "{:.1f}"),
    Selection(PER_KIND.format("two-point peer"), "peers", "two-point peer / fastgc$", "{:.1f}"),
    Selection("fastest of all these / certified check (20 probes)", "peers", "certified check$", "{:,.0f}"),
    Selection("verdict on the whole (3 probes) / torch's fast mode", "peers", "/ torch fast mode$", "{:.1f}"),
    Selection("full check / bare jitted loop; loss of 1 µs to 1 ms", "floor", "check / loop$", "{:.2f}"),
    Selection("two threads / one; n = 11,110 and 68,362", "scaling", "^n (11|68),.*2 threads: times as fast", "{:.2f}"),
    Selection("NumPy loss, cold: ms beyond 1.1 x the plain loop", "cold", "NumPy loss.* beyond", "{:.0f}"),
    Selection("compiling the loop for 2, 8, 60 tensors: seconds", "cold", "beyond it, first check", "{:.1f}"),
    Selection(
        "peak / (parameters + gradient + copies of threads)", "memory", r"^(?!.*(called|every)).*peak / \(", "{:.2f}"
    ),
    Selection(
        "`workers=2` / one process, a Python loss of 5 ms", "workers", "^workers.*as fast as one process$", "{:.2f}"
    ),
    Selection(
        "`vectorized=True` / one call after another", "workers", "^vectorized.*one call after another$", "{:.1f}"
    ),
    Selection("`import fastgc` beyond `import numpy`: ms", "startup", "beyond import numpy", "{:.0f}"),
]
CATALOGUES = {
    "fastgc, all entries": "fastgc, every entry",
    "fastgc, defaults": "fastgc, default samples and probes",
    "tutorial, h = 1e-5": "tutorial recipe, central h = 1e-5",
    "scipy check_grad": "scipy `check_grad`",
    "torch gradcheck, slow": "torch `gradcheck`, slow mode",
    "torch gradcheck, fast": "torch `gradcheck`, fast mode",
    "jax check_grads": "jax `check_grads`",
}


def read(folder: Path) -> dict[str, Any]:
    """The results that are there, all measured on one machine and none in a hurry."""
    found = {name: json.loads(path.read_text()) for name in SCRIPTS if (path := folder / f"{name}.json").exists()}
    if not found:
        raise SystemExit(f"no results in {folder}: run the scripts with --json first")
    quick = [name for name, each in found.items() if each.get("quick")]
    if quick:
        raise SystemExit(f"measured with --quick: {', '.join(quick)}; run them again without")
    machines = {name: described(each["machine"]) for name, each in found.items()}
    if len(set(machines.values())) > 1:
        lines = "\n".join(f"  {name}: {each}" for name, each in machines.items())
        raise SystemExit(f"measured on different machines or versions:\n{lines}\nrun all scripts on one")
    return found


def described(machine: Mapping[str, Any]) -> str:
    """The machine in a sentence."""
    about = {key: value for key, value in machine.items() if key not in TRANSIENT}
    processor, cores = about.pop("processor"), about.pop("cores")
    about.pop("platform")
    return f"{processor}, {cores} cores; " + ", ".join(f"{name} {version}" for name, version in about.items())


def table(results: Results) -> Iterator[str]:
    """All lines between the markers."""
    about = f"On {described(next(iter(results.values()))['machine'])}. Medians of runs taken in turn."
    yield from textwrap.wrap(about, 120)
    yield ""
    if "peers" in results:
        yield from entry_by_entry(results["peers"]["lines"])
    yield from ("| what | measured | target | script |", "|---|---|---|---|")
    for each in SELECTIONS:
        rows = [
            row for row in results.get(each.script, {}).get("rows", [])
            if re.search(each.pattern, f"{row['part']}: {row['what']}")
        ]  # fmt: skip
        if rows:
            values = ", ".join(each.form.format(row["value"]) for row in rows)
            targets = [row["bound"] for row in rows if row["bound"]]
            target = ", ".join(targets if len(set(targets)) > 1 else targets[:1])
            yield f"| {each.what} | {values} | {target} | `bench/{each.script}.py` |"
    if "accuracy" in results:
        yield from catalogues(results["accuracy"]["peers"])


def entry_by_entry(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Microseconds for each entry, peer by peer, problem by problem."""
    problems = list(dict.fromkeys(line["problem"] for line in lines))
    cells = {(line["peer"], line["problem"]): cell(line) for line in lines}
    yield "Every entry checked, microseconds for each (in brackets: times fastgc's):"
    yield ""
    yield "| | " + " | ".join(problems) + " |"
    yield "|---|" + "---|" * len(problems)
    for peer in dict.fromkeys(line["peer"] for line in lines):
        yield f"| {peer} | " + " | ".join(cells.get((peer, problem), "") for problem in problems) + " |"
    yield ""


def cell(line: Mapping[str, Any]) -> str:
    wrong = ", accuses it wrongly" * (line["right"] == "fail")
    ratio = "" if line["peer"] == "fastgc" else f" ({line['ratio']:.1f})"
    spent = line["microseconds"]
    return f"{spent:,.0f}{ratio}{wrong}" if spent >= 1000 else f"{spent:.3g}{ratio}{wrong}"


def catalogues(peers: Mapping[str, Any]) -> Iterator[str]:
    for name, what in CATALOGUES.items():
        if name in peers:
            counts = ", ".join(str(len(peers[name][column])) for column in ("missed", "alarms", "undecided"))
            target = "0, 0" if name == "fastgc, all entries" else ""
            what = f"catalogues, {what}: missed bugs, false alarms, undecided"
            yield f"| {what} | {counts} | {target} | `bench/accuracy.py` |"


def inserted(text: str, lines: Iterator[str]) -> str:
    """The text with the lines between the markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"README.md needs the lines {BEGIN!r} and {END!r}")
    return "\n".join([before + BEGIN, *lines, END + after])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where README.md differs")
    parser.add_argument("--results", type=Path, default=HOME / "results", metavar="FOLDER")
    parser.add_argument("--readme", type=Path, default=HOME.parent / "README.md", metavar="FILE")
    options = parser.parse_args()
    old = options.readme.read_text(encoding="utf-8")
    new = inserted(old, table(read(options.results)))
    if options.check:
        print(
            "README.md shows the results" if new == old else "README.md does not show the results: run bench/readme.py"
        )
        return int(new != old)
    options.readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
