"""Every Python block of README.md runs, and prints what the block below it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import assert_shown, blocks, printed_by

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
LINES = 200  # that a user reads before the first check
TEXT = README.read_text(encoding="utf-8")
BLOCKS = blocks(TEXT)


@pytest.mark.parametrize(("line", "source", "output"), BLOCKS, ids=[f"line {line}" for line, _, _ in BLOCKS])
def test_a_block_runs_and_prints_what_is_shown(
    line: int, source: str, output: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    printed = printed_by(source, README, line, {"__name__": "readme"})
    if output is not None:
        assert_shown(printed, output)


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

PAGES = [README, ROOT / "bench" / "README.md", *sorted((ROOT / ".github").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
