"""The tutorials run as a reader types them, from the first block of a page to the last, and print what they show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.pages import assert_shown, blocks, printed_by

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / ".github" / "docs").glob("*.md"))
FRAMEWORKS = {"pytorch": "torch", "jax": "jax"}


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem in FRAMEWORKS:
        pytest.importorskip(FRAMEWORKS[page.stem])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    space = {"__name__": page.stem}
    for line, source, output in blocks(page.read_text(encoding="utf-8")):
        printed = printed_by(source, page, line, space)
        if output is not None:
            assert_shown(printed, output)


def test_there_is_a_tutorial_for_every_kind_of_code() -> None:
    assert [page.stem for page in TUTORIALS] == ["adjoint", "jax", "numba", "numpy", "pytest", "pytorch", "scipy"]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_shows_a_right_and_a_wrong_gradient(page: Path) -> None:
    shown = "\n".join(output for _, _, output in blocks(page.read_text(encoding="utf-8")) if output)
    assert {word.lower() for word in re.findall(r"\b(pass|fail)(?:ed)?\b", shown, re.IGNORECASE)} == {"pass", "fail"}
