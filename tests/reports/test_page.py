"""Pages: what they hold, that they need nothing else, and how large they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import fastgc
from tests.support.reports import REPORTS, many_entries


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_a_page_stands_for_itself(make: Callable[[], Any]) -> None:
    """Nothing is loaded, nothing runs, and every image has a name."""
    page = make().to_html()
    loading = r"<(?:script|link|img|iframe|object|embed|base)\b|\bon\w+=|url\(|@import|https?://|javascript:"
    assert re.findall(loading, page) == []
    assert page.startswith("<!DOCTYPE html>") and '<html lang="en">' in page and "<title>" in page
    assert "default-src 'none'" in page and "prefers-color-scheme:dark" in page and "@media print" in page
    images = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert all(ElementTree.fromstring(image).get("aria-label") for image in images)
    assert "nan" not in "".join(re.findall(r' d="([^"]*)"', page))


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_the_verdict_comes_first_in_words_and_a_sign(make: Callable[[], Any]) -> None:
    report = make()
    head = re.search(r"<h1[^>]*>(.*?)</h1>", report.to_html(), re.DOTALL)
    sign = {"pass": "✓ PASS", "fail": "✗ FAIL", "undecided": "? UNDECIDED"}[report.verdict]
    assert head and f">{sign}</span>" in head[1]
    assert "fastgc " + fastgc.__version__ in report.to_html()


def test_a_failing_tensor_is_unfolded_with_four_pictures_and_its_entries() -> None:
    page = REPORTS["fail"]().to_html()
    parts = re.findall(r"<details( open)?>(.*?)</details>", page, re.DOTALL)
    assert [bool(unfolded) for unfolded, _ in parts[:3]] == [True, True, False]
    titles = re.findall(r"<figcaption>(.*?)<small>", parts[0][1])
    assert [title.split(" of ")[0].split(" in ")[0] for title in titles] == [
        "Analytic against numerical values", "Where they are", "Errors", "Error by step",
    ]  # fmt: skip
    assert parts[0][1].count('<th scope="row">') == 20
    assert "Next:" in page and "Worst entry:" in page


def test_a_wrong_jacobian_has_a_map_of_outputs_by_inputs() -> None:
    page = REPORTS["jacobian"]().to_html()
    assert "outputs: 6" in page and "inputs: 6" in page
    assert "wrong entries by output: [2]: 1" in page


def test_wrong_operations_are_named_everywhere() -> None:
    report = REPORTS["operations"]()
    for text in (str(report), report.to_html(), report.to_markdown()):
        assert "Gelu.backward is wrong with respect to its x" in text and "the other operation agrees" in text
    assert "net.&lt;0&gt;: Gelu" in report.to_html() and "<0>" not in report.to_markdown()


def test_headings_and_columns_are_marked_as_such() -> None:
    page = REPORTS["fail"]().to_html()
    assert page.count("<h1") == 1
    assert page.count("<th ") == page.count('scope="col"') + page.count('scope="row"')
    assert page.count("<table") == page.count("<caption>") == page.count('tabindex="0" role="region"')


def test_a_part_of_another_page_is_in_one_element_with_rules_for_itself() -> None:
    part = REPORTS["fail"]()._repr_html_()
    assert part.startswith('<div class="fastgc">') and part.endswith("</div>")
    assert "<h1" not in part and "<html" not in part
    style = re.search(r"<style>(.*?)</style>", part, re.DOTALL)
    assert style
    rules = re.findall(r"(?:^|[{}])\s*([^{}@]+)\{", style[1])
    assert [rule for rule in rules if not all(each.strip().startswith(".fastgc") for each in rule.split(","))] == []


def test_a_path_receives_the_page(tmp_path: Path) -> None:
    report = REPORTS["pass"]()
    assert (tmp_path / "a.html").exists() is False
    page = report.to_html(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page + "\n"


def test_a_million_entries_make_no_larger_a_page() -> None:
    assert len(many_entries(1_000_000).to_html()) < 500_000


def test_many_tensors_are_counted() -> None:
    params = {f"t{i}": np.ones(1) for i in range(600)}
    report = fastgc.check_gradients(
        lambda p: float(sum(v[0] for v in p.values())), {name: np.ones(1) for name in params}, params, probes=0
    )
    page = report.to_html()
    assert "the worst 500 of 600" in page
    assert len(page) < 2_000_000
