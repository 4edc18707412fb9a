"""Names that would do harm: as marks, as orders to a terminal, by their length."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import pyplot

import fastgc
from fastgc._reports.junit import junit
from fastgc._reports.markdown import workflow_commands

NAMES = {
    "script": "<script>alert(1)</script>",
    "quotes": "a\"b'c",
    "attribute": '" onload="alert(1)',
    "closing": "]]></style></svg></details><!--",
    "escape": "\x1b[31mPASS\x1b[0m",
    "clear": "\x1b]0;title\x07\x9b2J",
    "right to left": "abc\u202efed\u2066",
    "newlines": "a\nFAIL  b\r\nnext: c\u2028d\x0be",
    "long": "n" * 10_000,
    "long words": "word " * 2_000,
    "long path": ".".join(f"layer{i}" for i in range(2_000)),
    "markdown": "a|b `c` **d** [e](javascript:f) @user #1 ![](http://g) ~~h~~ \\",
    "link": "https://example.org/a_b_c",
    "math": "$x^2$ $\\frac{",
    "percent": "100%,a::b:%0A",
    "null": "a\x00b",
    "surrogate": "a\ud800b",
    "nothing": " ",
}


def report(name: str) -> Any:
    """One tensor of that name, wrong in three entries, and one that is right."""
    params = {name: np.linspace(1, 2, 40), "right": np.ones(3)}
    wrong = {each: 2 * p for each, p in params.items()}
    wrong[name][[3, 17, 30]] = 0, 5, -3
    return fastgc.check_gradients(lambda p: float(sum(np.vdot(v, v) for v in p.values())), wrong, params)


def harmless(text: str) -> None:
    """Assert that nothing is obeyed by a terminal, and that no line is hidden or added."""
    assert all(each.isprintable() for each in text.splitlines()), "every character is shown"
    text.encode("utf-8")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_the_text_is_obeyed_by_no_terminal_and_fits(name: str) -> None:
    text = str(report(name))
    harmless(text)
    assert max(map(len, text.splitlines())) <= 100
    assert len(text) < 3_000
    assert sum(line.startswith(("FAIL", "PASS", "next: ", "tensor ")) for line in text.split("\n")) == 3


class _Reader(HTMLParser):
    """The tags of a page with the names of their attributes, its comments, and whether its tags are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[tuple[str, ...]] = set()
        self.open: list[str] = []
        self.comments: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add((tag, *sorted(key for key, _ in attrs)))
        if tag not in ("meta", "path", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add((tag, *sorted(key for key, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


PLAIN = _Reader(report("plain").to_html())


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_page_has_the_tags_of_any_other_page(name: str) -> None:
    found = report(name)
    page = found.to_html()
    reader = _Reader(page)
    assert reader.tags == PLAIN.tags
    assert reader.open == reader.comments == []
    harmless(page)
    assert len(page) < 100_000
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    assert _Reader(found._repr_html_()).open == []


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_markdown_means_nothing_but_text(name: str) -> None:
    plain, found = report("plain").to_markdown(), report(name).to_markdown()
    harmless(found)
    assert len(found) < 20_000
    for mark in ("|", "`", "<", "[", "@", "://", "www.", "![", "\n"):
        assert found.count(mark) == plain.count(mark), mark


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_workflow_commands_stay_one_for_each_tensor(name: str) -> None:
    text = workflow_commands(report(name)._contents(), name)
    harmless(text)
    (line,) = text.split("\n")
    title, message = re.fullmatch(r"::error title=([^:,]*)::(.*)", line).groups()
    assert len(title) < 200 and len(message) < 5_000
    assert re.search(r"%(?!25|0A|3A|2C)", line) is None


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_junit_is_xml(name: str) -> None:
    found = report(name)
    root = ElementTree.fromstring(junit({name: (found._contents(), str(found), 1.0)}))
    cases = root.findall("testsuite/testcase")
    assert len(cases) == 2 and len(root.findall("testsuite/testcase/failure")) == 1
    assert max(len(case.get("name", "")) for case in cases) <= 200


KINDS = ("scatter", "map", "errors", "steps")


@pytest.mark.parametrize(("number", "name"), [*enumerate(NAMES.values())], ids=NAMES)
def test_pictures_can_be_drawn(number: int, name: str) -> None:
    """One kind of picture for each name: all write names through the same function."""
    ax = report(name).plot(KINDS[number % len(KINDS)])
    ax.figure.canvas.draw()
    assert len(ax.get_title()) < 200
    pyplot.close("all")


@pytest.mark.parametrize("name", [name for key, name in NAMES.items() if key != "surrogate"])
def test_json_keeps_the_name(name: str, tmp_path: Any) -> None:
    report(name).to_json(tmp_path / "report.json")
    other: Any = fastgc.load_report(tmp_path / "report.json")
    assert name in other.tensors
    assert list(other.to_dataframe()["tensor"].unique()) == [name, "right"]


@pytest.mark.parametrize("make", [lambda text: str(text), repr], ids=["str", "repr"])
def test_an_exception_of_the_loss_is_text_too(make: Callable[[Any], str]) -> None:
    def loss(p: Any) -> float:
        if p[0] > 1:
            raise ValueError("\x1b[2J<script>\n" + "x" * 10_000)
        return float(p @ p)

    found = fastgc.check_gradients(loss, lambda p: 2 * p, np.ones(3))
    harmless(make(found))
    assert max(map(len, make(found).splitlines())) <= 100
    assert "<script>" not in found.to_html() and "<script>" not in found.to_markdown()
