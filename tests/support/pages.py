"""Python blocks of pages: run, and compared with the output that the page shows below them."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
SURROUNDINGS = ("PYTEST", "COLUMNS", "CI", "BUILD_NUMBER", "FORCE_COLOR", "PY_COLORS")  # which pytest heeds
FILE = re.compile(r"# (\w+\.py)\n")  # a block that begins so is that file, too


def blocks(text: str) -> list[tuple[int, str, str | None]]:
    """Line, source, and output (None where no text block follows at once) of every block of Python or of commands."""
    found = list(FENCE.finditer(text))
    result = []
    for block, after in itertools.zip_longest(found, found[1:]):
        if block[1] in ("python", "console"):
            shown = after is not None and after[1] == "text" and not text[block.end() : after.start()].strip()
            result.append((text.count("\n", 0, block.start()) + 2, block[2], after[2] if shown else None))
    return result


# What depends on the machine in the output of a check. Errors and uncertainties below 1e-5 are round-off, as large as
# the last bits of the loss make them. The step of the worst entry is the one of a ladder that errs least there. A count
# may hold one ladder more or less: some thirty values.
SECONDS = re.compile(r"\b\d+(\.\d+)?(e[+-]?\d+)? s\b|(?<=\bin )\d+\.\d+s\b")
THREADS = re.compile(r"\(\d+ threads?\)")
# Which engine runs a jitted loss hangs on whether its loops were compiled before and are found on disk.
ENGINE = re.compile(r"\b(python|numba \(THREADS\))(?=   seed )")
ROUND_OFF = re.compile(r"\b\d(?:\.\d+)?e-(?:0[6-9]|[1-9]\d)\b|\b0\.0+e\+00\b")
STEP = re.compile(r"\(step ([\d.e+-]+)\)")
COUNT = re.compile(r"\b([\d,]+) evaluations\b")
ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")
SLOWEST = re.compile(r"^slowest: .*$", re.MULTILINE)
LADDER = 30
WORST = re.compile(r"^worst: .*$", re.MULTILINE)  # of entries that all agree, round-off decides which


NORMAL = {
    SECONDS: "SECONDS",
    THREADS: "(THREADS)",
    ENGINE: "ENGINE",
    STEP: "(STEP)",
    COUNT: "COUNT evaluations",
    ROUND_OFF: "ROUND_OFF",
    ADDRESS: "ADDRESS",
    SLOWEST: "slowest: TESTS",
}


def normal(output: str) -> list[str]:
    """Lines without what depends on the machine."""
    output = WORST.sub("worst: AN ENTRY", output) if output.startswith("PASS") else output
    for pattern, word in NORMAL.items():
        output = pattern.sub(word, output)
    return [line.rstrip() for line in output.strip().splitlines()]


def found(pattern: re.Pattern[str], output: str) -> list[float]:
    return [float(number.replace(",", "")) for number in pattern.findall(output)]


def assert_shown(printed: str, shown: str) -> None:
    """Assert that the page shows what was printed, but for the machine's part, which is about as large."""
    assert normal(printed) == normal(shown)
    for here, there in zip(found(ROUND_OFF, printed), found(ROUND_OFF, shown), strict=True):
        assert here <= 10 * there, printed
    for here, there in zip(found(STEP, printed), found(STEP, shown), strict=True):
        assert there / 10 <= here <= 10 * there, printed
    for here, there in zip(found(COUNT, printed), found(COUNT, shown), strict=True):
        assert abs(here - there) <= max(LADDER, there / 10), printed


def printed_by(source: str, page: Path, line: int, space: dict[str, Any]) -> str:
    """What a block prints that begins at a line of a page: Python in a name space, or a command after "$"."""
    if source.startswith("$ python "):
        command = [sys.executable, *source.split()[2:]]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=alone()).stdout
    if name := FILE.match(source):
        Path(name[1]).write_text(source, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (line - 1) + source, str(page), "exec"), space)
    return printed.getvalue()


def alone() -> dict[str, str]:
    """The environment of a command that a reader types in a terminal of 80 columns, and that no test surrounds."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SURROUNDINGS)}


def rewritten(page: Path) -> str:
    """The text of a page, with the outputs that its blocks print now."""
    text, space = page.read_text(encoding="utf-8"), {"__name__": page.stem}
    for line, source, shown in blocks(text):
        printed = printed_by(source, page, line, space)
        if shown is not None:
            text = text.replace(
                f"{source}```\n\n```text\n{shown}```", f"{source}```\n\n```text\n{printed.rstrip()}\n```", 1
            )
    return text


if __name__ == "__main__":  # python -m tests.support.pages .github/docs/*.md
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for page in pages:
            page.write_text(rewritten(page), encoding="utf-8")
