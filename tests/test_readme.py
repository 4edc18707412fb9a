"""Every Python block of README.md runs, and prints what the block below it shows."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
LINES = 200  # that a user reads before the first check
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[int, str, str | None]]:
    """Line, source, and output (None where no text block follows at once) of every Python block."""
    found = list(FENCE.finditer(text))
    result = []
    for block, after in itertools.zip_longest(found, found[1:]):
        if block[1] == "python":
            shown = after is not None and after[1] == "text" and not text[block.end() : after.start()].strip()
            result.append((text.count("\n", 0, block.start()) + 2, block[2], after[2] if shown else None))
    return result


# What depends on the machine in the output of a check. Errors and uncertainties below 1e-5 are round-off, as large as
# the last bits of the loss make them. The step of the worst entry is the one of a ladder that errs least there. A count
# may hold one ladder more or less: some thirty values.
SECONDS = re.compile(r"\b\d+(\.\d+)?(e[+-]?\d+)? s\b")
THREADS = re.compile(r"\(\d+ threads?\)")
# Which engine runs a jitted loss hangs on whether its loops were compiled before and are found on disk.
ENGINE = re.compile(r"\b(python|numba \(THREADS\))(?=   seed )")
ROUND_OFF = re.compile(r"\b\d(?:\.\d+)?e-(?:0[6-9]|[1-9]\d)\b|\b0\.0+e\+00\b")
STEP = re.compile(r"\(step ([\d.e+-]+)\)")
COUNT = re.compile(r"\b([\d,]+) evaluations\b")
LADDER = 30
WORST = re.compile(r"^worst: .*$", re.MULTILINE)  # of entries that all agree, round-off decides which


NORMAL = {
    SECONDS: "SECONDS",
    THREADS: "(THREADS)",
    ENGINE: "ENGINE",
    STEP: "(STEP)",
    COUNT: "COUNT evaluations",
    ROUND_OFF: "ROUND_OFF",
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


TEXT = README.read_text(encoding="utf-8")
BLOCKS = blocks(TEXT)


@pytest.mark.parametrize(("line", "source", "output"), BLOCKS, ids=[f"line {line}" for line, _, _ in BLOCKS])
def test_a_block_runs_and_prints_what_is_shown(
    line: int, source: str, output: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    printed = io.StringIO()
    space: dict[str, Any] = {"__name__": "readme"}
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (line - 1) + source, str(README), "exec"), space)
    if output is not None:
        assert_shown(printed.getvalue(), output)


def test_the_readme_is_short_and_shows_a_right_and_a_wrong_gradient() -> None:
    assert len(TEXT.splitlines()) <= LINES
    assert [output.split()[0] for _, _, output in BLOCKS if output is not None] == ["PASS", "FAIL"]


def test_blocks_are_found_with_what_they_print() -> None:
    text = "a\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```python\nx = 2\n```\nwords\n"
    text += "```text\n2\n```\n```\nls\n```\n"
    assert blocks(text) == [(3, "print(1)\n", "1\n"), (11, "x = 2\n", None)]
    assert blocks("# title\n") == []


SHOWN = "FAIL  601 evaluations   1.5 s   numba (16 threads)   6.69e-09  < 1.08e-09  b[3]  0.25 +- 6e-12  (step 7.8e-03)"


@pytest.mark.parametrize(
    ("here", "there"),
    [("1.5 s", "0.12 s"), ("16 threads", "1 thread"), ("601 ev", "631 ev"), ("601 ev", "545 ev"),
     ("6.69e-09", "2.11e-10"), ("6.69e-09", "0.00e+00"),
     ("< 1.08e-09", "< 9.70e-10"), ("+- 6e-12", "+- 1.2e-11"), ("7.8e-03", "3.1e-02")],
)  # fmt: skip
def test_what_depends_on_the_machine_is_not_compared(here: str, there: str) -> None:
    assert here in SHOWN
    assert_shown(SHOWN.replace(here, there), SHOWN)


@pytest.mark.parametrize(
    ("here", "there"),
    [("601 ev", "701 ev"), ("6.69e-09", "7.11e-08"), ("6.69e-09", "6.69e-01"), ("< 1.08e-09", "1.08e-09"),
     ("7.8e-03", "7.8e-05"), ("0.25", "0.26"), ("b[3]", "b[4]"), ("FAIL", "PASS")],
)  # fmt: skip
def test_what_depends_on_no_machine_is_compared(here: str, there: str) -> None:
    with pytest.raises(AssertionError):
        assert_shown(SHOWN.replace(here, there), SHOWN)


def test_which_right_entry_is_worst_is_not_compared() -> None:
    assert_shown("PASS  1 tensor agrees\nworst: w[6]  analytic 1", "PASS  1 tensor agrees\nworst: w[0]  analytic 2")
    with pytest.raises(AssertionError):
        assert_shown("FAIL  1 tensor disagrees\nworst: w[6]", "FAIL  1 tensor disagrees\nworst: w[0]")


def test_the_pages_show_the_results_of_the_benchmarks() -> None:
    command = [sys.executable, str(ROOT / "bench" / "readme.py"), "--check"]
    assert subprocess.run(command, capture_output=True, text=True).stdout.count("shows the results") == 2


# --- all pages ---

PAGES = [README, *(ROOT / name for name in ("bench/README.md", ".github/CONTRIBUTING.md", ".github/CHANGELOG.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
