"""Pages of reports in a real browser: with and without scripts, light and dark, wide and narrow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import browser
from tests.support.reports import REPORTS

pytestmark = pytest.mark.skipif(browser.found() is None, reason=f"no browser: none of {', '.join(browser.NAMES)}")
FIVE = ["pass", "fail", "one of many", "jacobian", "undecided"]


@pytest.fixture
def needs_axe() -> None:
    if browser.axe() is None:
        pytest.skip("no axe-core: npm or its registry is missing")


@pytest.mark.slow
@pytest.mark.parametrize("name", FIVE)
def test_the_page_is_the_same_with_scripts_and_without(name: str, tmp_path: Path) -> None:
    REPORTS[name]().to_html(tmp_path / "report.html")
    with_scripts, without = (
        browser.screenshot(tmp_path / "report.html", tmp_path / "shot.png", scripts=scripts)
        for scripts in (True, False)
    )
    assert with_scripts == without
    assert len(with_scripts) > 20_000  # bytes: more than a page of one colour


@pytest.mark.slow
@pytest.mark.usefixtures("needs_axe")
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", FIVE)
def test_no_rule_of_wcag_aa_is_violated(name: str, dark: bool, width: int, tmp_path: Path) -> None:
    assert re.fullmatch(r" of [1-9]\d", browser.violations(REPORTS[name]().to_html(), tmp_path, dark=dark, width=width))


@pytest.mark.slow
@pytest.mark.usefixtures("needs_axe")
def test_a_violation_would_be_seen(tmp_path: Path) -> None:
    page = REPORTS["pass"]().to_html().replace("--muted:#59636e", "--muted:#c0c0c0")
    assert "color-contrast" in browser.violations(page, tmp_path, dark=False, width=1600)


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("name", FIVE)
def test_nothing_is_wider_than_the_window(name: str, width: int, tmp_path: Path) -> None:
    page = REPORTS[name]().to_html().replace("<details>", "<details open>")
    assert browser.said(page, "say(document.documentElement.scrollWidth)", tmp_path, width=width) == str(width)


def test_light_and_dark_differ(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    REPORTS["fail"]().to_html(path)
    light, dark = (browser.screenshot(path, tmp_path / "shot.png", dark=dark) for dark in (False, True))
    assert light != dark
