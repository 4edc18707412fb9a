"""The reference pages are built from the docstrings without a warning, and help shows what is public."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
import runpy
import warnings
from pathlib import Path

import pytest

import fastgc

PACKAGES = "fastgc", "fastgc.torch", "fastgc.jax"
SCRIPT = Path(__file__).parents[1] / ".ci" / "reference.py"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("pdoc", "torch", "jax"):
        pytest.importorskip(package)
    """Written in this process, which has imported the frameworks; the script gives public classes other modules."""
    folder = tmp_path_factory.mktemp("reference")
    packages = [importlib.import_module(name) for name in PACKAGES]
    classes = filter(inspect.isclass, {getattr(package, name) for package in packages for name in package.__all__})
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for each in classes:
            patch.setattr(each, "__module__", each.__module__)
        runpy.run_path(str(SCRIPT))["main"](str(folder))
    return folder


@pytest.mark.parametrize("package", PACKAGES)
def test_a_page_shows_the_public_names_and_no_others(pages: Path, package: str) -> None:
    page = (pages / f"{package.replace('.', '/')}.html").read_text(encoding="utf-8")
    public = set(importlib.import_module(package).__all__) - {"torch", "jax"}
    assert set(re.findall(r'<section id="(\w+)">', page)) == public


def test_a_page_shows_what_reports_inherit(pages: Path) -> None:
    page = (pages / "fastgc.html").read_text(encoding="utf-8")
    assert 'id="Report.to_html"' in page
    assert page.count('href="#Report.to_html"') >= 2  # from what GradientReport and JacobianReport inherit


def test_help_begins_with_an_example_and_describes_public_names_only() -> None:
    text = pydoc.render_doc(fastgc, renderer=pydoc.plaintext)  # type: ignore[arg-type]
    description, contents = text.split("PACKAGE CONTENTS")
    assert ">>> import fastgc" in description
    assert re.findall(r"\b_[a-z]\w*", description) == []
    assert re.findall(r"^    .*class .*fastgc\._.*", contents, re.MULTILINE) == []  # nor the bases of classes
    functions = contents.split("\nFUNCTIONS\n")[1].split("\nDATA\n")[0].split("\nVERSION\n")[0]
    shown = re.findall(r"^    (\w+)\(", functions, re.MULTILINE)
    classes = re.findall(r"^    class (\w+)\(", contents, re.MULTILINE)
    assert {*shown, *classes} == set(fastgc.__all__) - {"torch", "jax", "__version__"}
