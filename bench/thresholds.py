"""What each numeric constant of the package decides: halved and doubled in turn, and reduced catalogues run anew.

Constants are the module-level numbers of `FOLDERS` (also in tuples, dicts and arrays), found in the source. For each
change a copy of the package is written with the changed line, and a process of its own runs it over

- every fourth problem of the catalogues of the tests, right and wrong, every second of these with all entries
- those of them with few parameters also as a Jacobian of one row
- Jacobians given as matrices, sparse matrices and products, right and with one wrong entry

and counts, as `bench/accuracy.py` and `bench/diagnosis.py` do, missed bugs, false alarms, verdicts "undecided",
evaluations, and the kinds of bugs named. The last column says the most that a change had an effect on: verdicts, kinds,
evaluations, numbers, or nothing. A constant without any effect is one that these problems do not need.

There are 208 constants. Halved and doubled in turn, 4 decide verdicts: `ladder.FEWEST` (halved, 29 are undecided;
doubled, one bug is missed), `random_weights.UNIT` and `LARGEST` (doubled, the weights leave their type) and
`nearby._REMAINING` (doubled, a search has no end). 4 decide a kind of bug, 51 change evaluations, 21 numbers alone, 128
nothing. No change makes a right gradient fail.

What changes nothing bounds memory or time (blocks, caches, counts of directions), follows from the format of numbers or
a derivation, or is for what these problems do not contain: tensors of millions of entries (bench/huge.py), many
tensors, bounds, domain edges, plateaus, stairs, kinks away from the point (tests/derivatives, tests/verdicts), patterns
of wrong entries (tests/diagnosis). Its comment says which.

Target: the unchanged package has no missed bug and no false alarm; the exit status is 1 otherwise. A change takes some
6 s on an idle core, all of them 40 minutes. Run ``python bench/thresholds.py [--only MODULE[:NAME]] [--every 4]
[--jobs 1] [--json FILE]`` after ``pip install scikit-learn statsmodels``; one constant is
``--only _derivatives.ladder:_VISIBLE``.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import headline

import fastgc

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastgc"
FOLDERS = ("_derivatives", "_verdicts", "_diagnosis", "_jacobian", "_parameters/sampling.py")
CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")
OF_THE_FORMAT = re.compile(r"float\(np\.finfo\([\w.]+\)\.\w+\)")  # of floating-point numbers: nobody chose it
FACTORS = (0.5, 2.0)
LIMIT = 600  # seconds of one run: a changed constant may make a loop long
ROW_AT_MOST = 64  # parameters of a problem that is checked as a Jacobian, too
BESIDE = 1.03  # times the parameters: those of a moment to which no gradient belongs

Array = np.ndarray

# --- constants, and how they are changed ---


@dataclass(frozen=True)
class Constant:
    """A module-level number, or several in a tuple, a dict or an array."""

    path: Path  # of the module, relative to the package
    name: str
    value: Any
    text: str  # of the value in the source

    @property
    def module(self) -> str:
        return ".".join(self.path.with_suffix("").parts)

    def changed(self, factor: float) -> str:
        """The text of the value times a factor; whole numbers stay whole and are 1 at least."""
        if isinstance(self.value, dict):
            return f"{{key: each * {factor} for key, each in ({self.text}).items()}}"
        if isinstance(self.value, tuple):
            return repr(tuple(scaled(each, factor) for each in self.value))
        return f"({self.text}) * {factor}" if isinstance(self.value, np.ndarray) else repr(scaled(self.value, factor))


def scaled(number: float, factor: float) -> float:
    return max(1, int(number * factor)) if isinstance(number, int) and number else float(number) * factor


def is_numeric(value: Any) -> bool:
    if isinstance(value, tuple | dict):
        return bool(value) and all(map(is_number, value.values() if isinstance(value, dict) else value))
    return is_number(value) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def constants(package: Path = PACKAGE) -> list[Constant]:
    """All of them, in the order of `FOLDERS`."""
    files = [file for name in FOLDERS for file in sorted((package / name).rglob("*.py")) or [package / name]]
    return [each for file in files for each in constants_of(file, file.relative_to(package))]


def constants_of(file: Path, path: Path) -> Iterator[Constant]:
    source = file.read_text(encoding="utf-8")
    module = importlib.import_module(".".join(("fastgc", *path.with_suffix("").parts)))
    for name, value in assignments(ast.parse(source)):
        text = ast.get_source_segment(source, value) or ""
        if CONSTANT.fullmatch(name) and is_numeric(getattr(module, name)) and not OF_THE_FORMAT.fullmatch(text):
            yield Constant(path, name, getattr(module, name), text)


def assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names and values of what a module assigns; of ``a, b = 1, 2`` both."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from paired(target, node.value)


def paired(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for each in zip(target.elts, value.elts, strict=True):
            yield from paired(*each)


def rewrite(file: Path, name: str, text: str) -> None:
    """Give a constant of a module another value."""
    source = file.read_text(encoding="utf-8")
    (value,) = (value for found, value in assignments(ast.parse(source)) if found == name)
    lines = source.encode().splitlines(keepends=True)
    assert value.end_lineno is not None
    before = b"".join(lines[: value.lineno - 1]) + lines[value.lineno - 1][: value.col_offset]
    after = lines[value.end_lineno - 1][value.end_col_offset :] + b"".join(lines[value.end_lineno :])
    file.write_bytes(before + text.encode() + after)


# --- one run, in a process of its own ---


@dataclass
class Tally:
    """What came of the checks of one run."""

    missed: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    evaluations: int = 0
    named: int = 0  # failing tensors with the right kind of bug
    misnamed: list[str] = field(default_factory=list)
    verdicts: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    numbers: int = 0  # a checksum of all reports

    def judge(self, name: str, right: bool, check: Callable[[], Any], expected: Callable[[str], str]) -> None:
        """Check one problem and count what came of it."""
        try:
            report = check()
        except Exception as error:
            self.errors.append(f"{name}: {type(error).__name__}: {error}")
            return
        verdict = self.verdicts[name] = report.verdict
        wrong = self.undecided if verdict == "undecided" else self.alarms if right else self.missed
        if verdict != ("pass" if right else "fail"):
            wrong.append(name)
        self.evaluations += report.evaluations
        self.numbers = zlib.crc32(repr(without_time(report.to_dict())).encode(), self.numbers)
        for tensor, summary in getattr(report, "tensors", {}).items():
            self.name(f"{name}: {tensor}", summary, expected(tensor))

    def name(self, where: str, tensor: Any, expected: str) -> None:
        """Count the kind of bug that was named in a tensor; "unstructured" is none."""
        kind = tensor.diagnosis.kind if tensor.diagnosis else ""
        found = self.kinds[where] = "" if kind == "unstructured" else kind
        if tensor.verdict == "fail" or found:
            self.named += bool(found) and found == expected
            if found not in ("", expected):
                self.misnamed.append(f"{where} is {found}, not {expected or 'silent'}")

    def effect(self, changed: Tally) -> str:
        """The most that a change had an effect on."""
        for what in ("verdicts", "kinds", "evaluations", "numbers"):
            if changed.errors != self.errors or getattr(changed, what) != getattr(self, what):
                return what
        return "nothing"


def without_time(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: without_time(each) for key, each in found.items() if key not in ("seconds", "environment")}
    return [without_time(each) for each in found] if isinstance(found, list | tuple) else found


@np.errstate(all="ignore")
def run(every: int) -> Tally:
    """All checks, by the package that is imported first."""
    tally = Tally()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, right, check, expected in (*gradients(every), *jacobians()):
            tally.judge(name, right, check, expected)
    return tally


Checks = Iterator[tuple[str, bool, Callable[[], Any], Callable[[str], str]]]


def gradients(every: int) -> Checks:
    """Problems of the catalogues."""
    from tests.support.catalogue import correct_problems, wrong_gradients

    right = [(each.name, True, each, lambda tensor: "") for each in correct_problems()[::every]]
    wrong = [(each.name, False, each.problem, partial(expected_kind, each)) for each in wrong_gradients()[::every]]
    for number, (name, good, problem, expected) in enumerate(right + wrong):
        yield name, good, partial(check_gradient, problem, 32 if number % 2 else "all"), expected
        if sum(p.size for p in problem.params.values()) <= ROW_AT_MOST:
            yield f"{name} as a row", good, partial(check_row, problem), expected


def expected_kind(wrong: Any, tensor: str) -> str:
    return str(wrong.named(tensor)) if tensor in wrong.tensors else ""


def check_gradient(problem: Any, samples: int | str) -> Any:
    previous = problem.previous or {name: BESIDE * p for name, p in problem.params.items()}
    return fastgc.check_gradients(
        problem.loss, problem.gradients, problem.params, args=problem.args, samples=samples, previous=previous,
        crosscheck=False,
    )  # fmt: skip


def check_row(problem: Any) -> Any:
    """The gradient as the Jacobian of a function of one output."""

    def unpack(x: Array) -> dict[str, Array]:
        parts = np.split(x, np.cumsum([p.size for p in problem.params.values()])[:-1])
        return {name: part.reshape(p.shape) for (name, p), part in zip(problem.params.items(), parts, strict=True)}

    x = np.concatenate([p.ravel() for p in problem.params.values()])
    slopes = problem.gradients(unpack(x), *problem.args)
    row = np.concatenate([slopes[name].ravel() for name in problem.params])[None]
    return fastgc.check_jacobian(lambda x: np.array([problem.loss(unpack(x), *problem.args)]), row, x)


def jacobians() -> Checks:
    """Functions of several outputs."""
    from tests.support.jacobians import KINDS, POINT, WIDE, band, band_jacobian, by_kind, layer_jacobian, spoiled

    wrong = spoiled((7, 300), 1.5)
    for kind in KINDS:
        for columns in (None, "all"):
            label = f"layer, {kind}, {columns or 'some'} columns"
            yield label, True, partial(by_kind, kind, layer_jacobian, WIDE, columns=columns), str
            yield f"{label}, one entry", False, partial(by_kind, kind, wrong, WIDE, columns=columns), str
    for name, factor in (("band, sparse", 1.0), ("band, sparse, one entry", 1.5)):
        matrix = band_jacobian(POINT).tocsr()
        matrix[5, 6] *= factor
        yield name, factor == 1.0, partial(fastgc.check_jacobian, band, matrix, POINT), str


# --- all runs ---


def outcome(every: int, constant: Constant | None = None, factor: float = 1.0) -> Tally:
    """What a new process finds with a copy of the package in which the constant is changed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(PACKAGE, Path(folder) / "fastgc", ignore=shutil.ignore_patterns("__pycache__"))
        if constant is not None:
            rewrite(copy / constant.path, constant.name, constant.changed(factor))
        return Tally(**json.loads(counted(every, folder)))


def counted(every: int, folder: str) -> str:
    command = [sys.executable, __file__, "--here", "--every", str(every)]
    environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return json.dumps({"errors": [f"stopped after {LIMIT} s"]})
    return done.stdout if done.returncode == 0 else json.dumps({"errors": [done.stderr.strip()[-200:]]})


COLUMNS = ("missed", "alarms", "undecided", "errors", "evaluations", "named", "misnamed")


def row(name: str, value: str, tally: Tally, effect: str) -> str:
    counts = (getattr(tally, column) for column in COLUMNS)
    numbers = (count if isinstance(count, int) else len(count) for count in counts)
    return f"{name:<52}{value:>14}" + "".join(f"{number:>12,}" for number in numbers) + f"  {effect}"


def shown(constant: Constant, factor: float) -> str:
    if is_number(constant.value):
        return f"{scaled(constant.value, factor):.4g}"
    return f"x {factor:g}"


def chosen(only: str | None) -> list[Constant]:
    """Those of a module, of a folder, or the one with a name."""
    module, _, name = (only or "").partition(":")
    found = [each for each in constants() if each.module.startswith(module) and name in ("", each.name)]
    wanted = "expected MODULE[:NAME], as in _verdicts.plainly_wrong:PLAIN"
    return found or sys.exit(f"--only {only} names no constant; {wanted}")


def compare(found: list[Constant], every: int, jobs: int) -> tuple[Tally, list[dict[str, Any]]]:
    """Run all changes, and print a line for each as soon as it is known."""
    print(f"{'constant':<52}{'value':>14}" + "".join(f"{column:>12}" for column in COLUMNS) + "  effect on", flush=True)
    before = outcome(every)
    print(row("(unchanged)", "", before, ""), flush=True)
    changes = [(constant, factor) for constant in found for factor in FACTORS]
    rows = []
    with ThreadPoolExecutor(jobs) as pool:  # each waits for its process
        after = pool.map(lambda change: outcome(every, *change), changes)
        for (constant, factor), tally in zip(changes, after, strict=True):
            name, effect = f"{constant.module}:{constant.name}", before.effect(tally)
            print(row(name, shown(constant, factor), tally, effect), flush=True)
            rows.append({"constant": name, "factor": factor, "effect": effect, **asdict(tally)})
    return before, rows


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--only", metavar="MODULE[:NAME]", help="constants of a module or folder, or one of them")
    options.add_argument("--every", type=int, default=4, help="of the catalogues, every so many-th problem (4)")
    options.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # one run, in this process
    given = options.parse_args()
    if given.here:
        print(json.dumps(asdict(run(given.every))))
        return 0
    found, about = chosen(given.only), headline()
    before, rows = compare(found, given.every, given.jobs)
    idle = [each["constant"] for each in rows if each["effect"] == "nothing"]
    print("\nwithout any effect:", *sorted({name for name in idle if idle.count(name) == len(FACTORS)}), sep="\n  ")
    for title in ("missed", "alarms", "errors", "misnamed"):
        print(*(f"{title}, unchanged: {each}" for each in getattr(before, title)), sep="\n")
    met = not (before.missed or before.alarms or before.errors)
    print(f"target: unchanged, nothing missed and no false alarm: {'met' if met else 'MISSED'}")
    if given.json:
        numbers = {"met": met, "machine": about, "every": given.every, "unchanged": asdict(before), "changes": rows}
        given.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0 if met else 1


sys.path.append(str(ROOT))  # last, so that a copy of the package comes first

if __name__ == "__main__":
    sys.exit(main())
