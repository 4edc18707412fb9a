"""Write the measured figures into README.md and bench/README.md from the results of the other scripts.

README.md gets one line for each figure, bench/README.md also the targets and every peer's time. Run every script with
``--json bench/results/NAME.json`` (NAME is that of the script) on one quiet machine, then this. The figures of scripts
that take long are entered by hand in ``bench/results/stated.json``. ``--check`` writes nothing and exits with status 1
where a page does not show the results. Results of ``--quick`` runs and of different machines or versions are refused;
what no script has measured is left out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).parent
PAGES = (HOME.parent / "README.md", HOME / "README.md")
BEGIN, END = "<!-- measured: written by bench/readme.py -->", "<!-- end of measured -->"
BEGIN_FULL = "<!-- measured, with targets: written by bench/readme.py -->"
SCRIPTS = ("peers", "floor", "scaling", "cold", "memory", "workers", "startup", "accuracy")
STATED = "stated"  # of figures entered by hand
TRANSIENT = {"load"}  # what may differ between runs on one machine

Results = Mapping[str, Any]


class Selection(NamedTuple):
    """Rows of a script that make one line of the table; each value is scaled and written in the format."""

    what: str
    script: str
    pattern: str  # of "part: what"
    form: str
    brief: bool = True  # whether README.md shows it too


PER_KIND = "fastest {} / fastgc, every entry; by n"
SELECTIONS = [
    Selection(PER_KIND.format("of NumPy, SciPy, torch (central)"), "peers", "central.* / fastgc$", "{:.1f}"),
    Selection(PER_KIND.format("jitted JAX loop"), "peers", "JAX loop / fastgc$", "{:.1f}"),
    Selection(PER_KIND.format("two-point peer"), "peers", "two-point peer / fastgc$", "{:.1f}"),
    Selection("fastest of all these / certified check (20 probes)", "peers", "certified check$", "{:,.0f}"),
    Selection("verdict on the whole (3 probes) / torch's fast mode", "peers", "/ torch fast mode$", "{:.1f}"),
    Selection("full check / bare jitted loop; loss of 1 µs to 1 ms", "floor", "check / loop$", "{:.2f}"),
    Selection("two threads / one; n = 11,110 and 68,362", "scaling", "^n (11|68),.*2 threads: times as fast", "{:.2f}"),
    Selection("NumPy loss, cold: ms beyond 1.1 x the plain loop", "cold", "NumPy loss.* beyond", "{:.0f}", False),
    Selection("compiling the loop for 2, 8, 60 tensors: seconds", "cold", "beyond it, first check", "{:.1f}", False),
    Selection("peak / (parameters + gradient + copies of threads)", "memory", r"^(numba|python).*peak / \(", "{:.2f}"),
    Selection(
        "the same with each option's copies: called gradient, points, in place, vectorized, strided, previous",
        "memory",
        r"^(?!numba|python|every).*peak / \(",
        "{:.2f}",
        False,
    ),
    Selection(
        "`workers=2` / one process, a Python loss of 5 ms", "workers", "^workers.*as fast as one process$", "{:.2f}"
    ),
    Selection(
        "`vectorized=True` / one call after another", "workers", "^vectorized.*one call after another$", "{:.1f}", False
    ),
    Selection("`import fastgc` beyond `import numpy`: ms", "startup", "beyond import numpy", "{:.0f}", False),
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
    """The results that are there, all measured on one machine and none in a hurry, and the figures entered by hand."""
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
    stated = folder / f"{STATED}.json"
    return found | ({STATED: json.loads(stated.read_text(encoding="utf-8"))} if stated.exists() else {})


def described(machine: Mapping[str, Any]) -> str:
    """The machine in a sentence."""
    about = {key: value for key, value in machine.items() if key not in TRANSIENT}
    processor, cores = about.pop("processor"), about.pop("cores")
    about.pop("platform")
    return f"{processor}, {cores} cores; " + ", ".join(f"{name} {version}" for name, version in about.items())


class Line(NamedTuple):
    """A line of the table of figures."""

    what: str
    measured: str
    script: str
    target: str = ""
    brief: bool = True


def table(results: Results) -> Iterator[str]:
    """What bench/README.md shows between its markers."""
    yield from machine(results)
    if "peers" in results:
        yield from entry_by_entry(results["peers"]["lines"])
    yield from ("| what | measured | target | script |", "|---|---|---|---|")
    for each in figures(results):
        yield f"| {each.what} | {each.measured} | {each.target} | `bench/{each.script}.py` |"


def summary(results: Results) -> Iterator[str]:
    """What README.md shows between its markers."""
    yield from machine(results)
    yield from ("| what | measured | script |", "|---|---|---|")
    for each in figures(results):
        if each.brief:
            yield f"| {each.what} | {each.measured} | `bench/{each.script}.py` |"


def machine(results: Results) -> Iterator[str]:
    """What the figures were measured on and how."""
    measured = next(each for name, each in results.items() if name in SCRIPTS)
    yield f"On {described(measured['machine'])}. Medians of runs taken in turn."
    yield ""


def figures(results: Results) -> Iterator[Line]:
    """The selected figures of all scripts that have results, then those entered by hand."""
    for each in SELECTIONS:
        rows = [
            row for row in results.get(each.script, {}).get("rows", [])
            if re.search(each.pattern, f"{row['part']}: {row['what']}")
        ]  # fmt: skip
        if rows:
            values = ", ".join(each.form.format(row["value"]) for row in rows)
            targets = [row["bound"] for row in rows if row["bound"]]
            target = ", ".join(targets if len(set(targets)) > 1 else targets[:1])
            yield Line(each.what, values, each.script, target, each.brief)
    if "accuracy" in results:
        yield from catalogues(results["accuracy"]["peers"])
    yield from (Line(**each) for each in results.get(STATED, ()))


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


def catalogues(peers: Mapping[str, Any]) -> Iterator[Line]:
    for name, what in CATALOGUES.items():
        if name in peers:
            counts = ", ".join(str(len(peers[name][column])) for column in ("missed", "alarms", "undecided"))
            target = "0, 0" if name == "fastgc, all entries" else ""
            yield Line(f"catalogues, {what}: missed bugs, false alarms, undecided", counts, "accuracy", target)


def inserted(text: str, lines: Iterator[str], begin: str = BEGIN) -> str:
    """The text with the lines between the markers."""
    before, found, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise SystemExit(f"the page needs the lines {begin!r} and {END!r}")
    return "\n".join([before + begin, *lines, END + after])


def rewritten(text: str, results: Results) -> str:
    """A page with these results, with targets where its marker says so."""
    if BEGIN_FULL in text:
        return inserted(text, table(results), BEGIN_FULL)
    return inserted(text, summary(results))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a page differs")
    parser.add_argument("--results", type=Path, default=HOME / "results", metavar="FOLDER")
    parser.add_argument("--readme", type=Path, nargs="+", default=PAGES, metavar="FILE")
    options = parser.parse_args()
    results = read(options.results)
    old = {page: page.read_text(encoding="utf-8") for page in options.readme}
    new = {page: rewritten(text, results) for page, text in old.items()}
    if options.check:
        for page in old:
            said = "shows the results" if new[page] == old[page] else "does not show the results: run bench/readme.py"
            print(f"{page} {said}")
        return int(new != old)
    for page, text in new.items():
        page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
