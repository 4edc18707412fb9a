"""Every Python block of README.md runs, and prints what the block below it shows."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[1] / "README.md"
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


def normal(output: str) -> list[str]:
    """Lines without what depends on the machine: seconds and the number of threads."""
    output = re.sub(r"\b\d+(\.\d+)?(e[+-]?\d+)? s\b", "SECONDS", output)
    output = re.sub(r"\(\d+ threads?\)", "(THREADS)", output)
    return [line.rstrip() for line in output.strip().splitlines()]


TEXT = README.read_text(encoding="utf-8")
BLOCKS = blocks(TEXT)
FRAMEWORKS = re.compile(r"^(?:import|from) (?:fastgc\.)?(torch|jax)\b", re.MULTILINE)  # that may be missing


@pytest.mark.parametrize(("line", "source", "output"), BLOCKS, ids=[f"line {line}" for line, _, _ in BLOCKS])
def test_a_block_runs_and_prints_what_is_shown(
    line: int, source: str, output: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for framework in FRAMEWORKS.findall(source):
        pytest.importorskip(framework, reason=f"{framework} is not installed: pip install {framework}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    printed = io.StringIO()
    space: dict[str, Any] = {"__name__": "readme"}
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (line - 1) + source, str(README), "exec"), space)
    if output is not None:
        assert normal(printed.getvalue()) == normal(output)


def test_a_grown_readme_has_blocks_to_run() -> None:
    assert BLOCKS or len(TEXT.splitlines()) <= 20


def test_frameworks_of_a_block_are_seen() -> None:
    assert set(FRAMEWORKS.findall("import jax.numpy as jnp\nimport fastgc.jax\n")) == {"jax"}
    assert set(FRAMEWORKS.findall("import fastgc.torch\nimport torch\n")) == {"torch"}


def test_blocks_are_found_with_what_they_print() -> None:
    text = "a\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```python\nx = 2\n```\nwords\n"
    text += "```text\n2\n```\n```\nls\n```\n"
    assert blocks(text) == [(3, "print(1)\n", "1\n"), (11, "x = 2\n", None)]
    assert blocks("# title\n") == []


def test_seconds_and_threads_are_not_compared() -> None:
    assert normal("3 evaluations   0.12 s   numba (2 threads)\n") == normal(
        "3 evaluations   1.5 s   numba (16 threads)"
    )
    assert normal("3 evaluations") != normal("4 evaluations")


def test_links_to_files_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", TEXT)
    assert [link for link in links if not (README.parent / link).exists()] == []
