"""The contributors' page names files, names, words and extras that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / ".github" / "CONTRIBUTING.md"
TEXT = PAGE.read_text(encoding="utf-8")
FILE = re.compile(r"[\w./-]+\.(?:py|toml|cfg|yml|yaml|md)\b|(?<![\w.-])(?:fastgc|bench|tests|\.ci)/[\w./-]*")
PLACES = [ROOT, PAGE.parent, ROOT / "tests", *(path for path in (ROOT / "tests").rglob("*") if path.is_dir())]


def exists(file: str) -> bool:
    """Whether a file is there; of tests, the page gives the name alone."""
    return any((place / file).exists() for place in PLACES)


def defines(source: str, name: str) -> bool:
    return re.search(rf"^\s*(?:def |class )?{name}\b", source, re.MULTILINE) is not None


def test_every_file_that_is_named_exists() -> None:
    named = set(FILE.findall(TEXT))
    assert {"fastgc/_derivatives/stencil.py", "test_stencil.py", "../bench/README.md", ".ci/run", "setup.cfg"} <= named
    assert {".github/workflows/ci.yml", ".pre-commit-config.yaml", "fastgc/_diagnosis/", "catalogue.py"} <= named
    assert sorted(file for file in named if not exists(file)) == []


def test_that_check_would_see_a_lost_file() -> None:
    found = FILE.findall("`fastgc/_lost.py::Name`, [b](../bench/LOST.md), `.lost-file.yaml` and `test_lost.py`.")
    assert found == ["fastgc/_lost.py", "../bench/LOST.md", ".lost-file.yaml", "test_lost.py"]
    assert not any(map(exists, found))


def test_every_name_in_a_file_is_defined_there() -> None:
    named = re.findall(r"`([\w./-]+\.py)::(\w+)`", TEXT)
    assert len(named) > 10
    assert [each for each in named if not defines((ROOT / each[0]).read_text(encoding="utf-8"), each[1])] == []


def test_the_glossary_has_twenty_words_and_its_classes_exist() -> None:
    table = TEXT.partition("## Twenty words\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.strip().splitlines()][2:]
    assert len({word.strip() for word, _, _ in rows}) == len(rows) == 20
    classes = re.findall(r"`(\w+)`", " ".join(code for _, _, code in rows))
    package = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "fastgc").rglob("*.py")))
    assert {"LossAtPoint", "GradientAtPoint", "Diagnosis"} <= set(classes)
    assert [name for name in classes if f"class {name}" not in package] == []


@pytest.mark.parametrize("page", [".github/CONTRIBUTING.md", "README.md", ".ci/run", ".github/workflows/ci.yml"])
def test_every_extra_that_is_installed_is_declared(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {extra for group in re.findall(r"'\.\[([\w,]+)\]'|extras: \"([\w,]+)\"", text) for extra in group}
    extras = {extra for group in named for extra in group.split(",") if extra}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras and extras <= set(project["optional-dependencies"])
