"""Lines that fit on a screen, and Markdown, workflow commands, JUnit's XML and data frames of reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import fastgc
from fastgc._reports.junit import junit
from fastgc._reports.lines import fitted, in_a_row, shortened, visible, with_short_names
from fastgc._reports.markdown import workflow_commands
from tests.support.imports import make_missing
from tests.support.reports import REPORTS


def test_what_a_terminal_obeys_is_written_out() -> None:
    assert visible("plain – β") == "plain – β"
    assert visible("a\x1b[0m\n\u202e") == "a\\x1b[0m\\n\\u202e"


def test_long_texts_lose_their_middle() -> None:
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 10) == "abc...hijk"
    assert len(shortened("x" * 999, 40)) == 40


def test_lines_are_broken_between_words_and_indented() -> None:
    lines = list(fitted(["word " * 50, "x" * 500, "short"]))
    assert max(map(len, lines)) <= 100
    assert lines[1].startswith("      word")
    assert lines[-2:] == [shortened("x" * 500, 60), "short"]


def test_parts_stay_together_on_a_line() -> None:
    lines = list(in_a_row(["FAIL  this", *["part of the line"] * 8]))
    assert len(lines) == 2 and max(map(len, lines)) <= 100
    assert lines[1].startswith("      part")


def test_names_are_shortened_in_any_form() -> None:
    name = "long\n" * 20
    text = with_short_names(f"{name} and {name!r}", [name])
    assert len(text) < 100 and name not in text


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_the_text_of_every_report_fits(make: Callable[[], Any]) -> None:
    assert max(map(len, str(make()).splitlines())) <= 100


def test_what_to_do_comes_first() -> None:
    lines = str(REPORTS["fail"]()).splitlines()
    starts = [line.split(":")[0].split("  ")[0] for line in lines if not line.startswith(" ")]
    assert starts[:4] == ["FAIL", "next", "worst", "tensor"]
    assert "next" not in str(REPORTS["pass"]())
    assert "\nnext: params: make the loss repeatable" in str(REPORTS["undecided"]())


# --- Markdown ---


@pytest.mark.parametrize(
    ("name", "head"),
    [("pass", "### ✅ PASS: 2 tensors agree"), ("fail", "### ❌ FAIL: 2 of 3 tensors disagree"),
     ("undecided", "### ❔ UNDECIDED: 1 of 1 tensor cannot be decided"), ("jacobian", "### ❌ FAIL: 1 of 36 checked")],
)  # fmt: skip
def test_markdown_begins_with_the_verdict_and_has_a_table(name: str, head: str) -> None:
    text = REPORTS[name]().to_markdown()
    assert text.startswith(head)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(REPORTS[name]()._contents().parts)
    assert {row.count("|") for row in rows} == {7}
    assert text.count("<details>") == text.count("</details>") <= 1


# --- workflow commands and XML ---


def test_each_failing_tensor_is_annotated() -> None:
    lines = workflow_commands(REPORTS["fail"]()._contents(), "a.py:problem").splitlines()
    assert [line.split("::")[1] for line in lines] == [
        "error title=a.py%3Aproblem%3A c",
        "error title=a.py%3Aproblem%3A b",
    ]
    assert all("%0Anext: " in line and "%0Aworst: " in line for line in lines)
    assert workflow_commands(REPORTS["pass"]()._contents(), "p") == "::notice title=p::2 tensors agree"
    assert workflow_commands(REPORTS["undecided"]()._contents(), "p").startswith("::warning title=p%3A params::")


def test_xml_counts_failures_and_what_is_undecided() -> None:
    found = {name: REPORTS[name]() for name in ("fail", "undecided", "pass")}
    text = junit({name: (each._contents(), str(each), each.seconds) for name, each in found.items()})
    suites = ElementTree.fromstring(text).findall("testsuite")
    counts = [[suite.get(key) for key in ("name", "tests", "failures", "skipped", "errors")] for suite in suites]
    assert counts == [["fail", "3", "2", "0", "0"], ["undecided", "1", "0", "1", "0"], ["pass", "2", "0", "0", "0"]]
    failure = suites[0].find("testcase/failure")
    assert failure is not None and "[1, 1] is wrong" in str(failure.get("message"))
    assert suites[0].findtext("system-out") == str(found["fail"])


# --- data frames ---


def test_a_frame_has_a_row_for_each_entry() -> None:
    report = REPORTS["fail"]()
    found = report.to_dataframe()
    entries = [entry for part in report._contents().parts for entry in part.entries]
    assert list(found.columns) == list(fastgc.Entry.__dataclass_fields__)
    assert [fastgc.Entry(*row) for row in found.itertuples(index=False)] == entries
    assert found.dtypes["analytic"] == np.float64


def test_polars_serves_where_pandas_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    make_missing(monkeypatch, "pandas")
    found = REPORTS["jacobian"]().to_dataframe()
    assert type(found).__module__.startswith("polars")
    assert found.shape == (36, len(fastgc.Entry.__dataclass_fields__))
    assert found["index"][8].to_list() == [1, 2]


def test_without_both_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    make_missing(monkeypatch, "pandas")
    make_missing(monkeypatch, "polars")
    with pytest.raises(ImportError, match=r'to_dataframe\(\) needs pandas: python -m pip install "pandas>='):
        REPORTS["pass"]().to_dataframe()


def test_a_report_without_entries_has_an_empty_frame() -> None:
    assert len(REPORTS["empty"]().to_dataframe()) == 0
