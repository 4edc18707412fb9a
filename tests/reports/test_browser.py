"""Pages of reports in a real browser: with and without scripts, light and dark, wide and narrow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import browser
from tests.support.reports import REPORTS

pytestmark = pytest.mark.skipif(browser.found() is None, reason=f"no browser: none of {', '.join(browser.NAMES)}")
FIVE = ["pass", "fail", "one of many", "jacobian", "undecided"]
WIDTHS = [400, 1600]
EACH = [(name, width) for name in FIVE for width in WIDTHS]


@pytest.fixture(scope="module")
def pages() -> list[tuple[str, int]]:
    return [(REPORTS[name]().to_html(), width) for name, width in EACH]


@pytest.fixture(scope="module", params=["light", "dark"])  # light and narrow, dark and wide: no rule needs two of them
def violations(
    request: pytest.FixtureRequest, pages: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int], str]:
    """What axe says of every page, and of one whose colours are too faint."""
    if browser.axe() is None:
        pytest.skip("no axe-core: npm or its registry is missing")
    dark = request.param == "dark"
    faint = re.sub(r"--muted:#\w+", "--muted:#404040" if dark else "--muted:#c0c0c0", REPORTS["pass"]().to_html())
    half = slice(int(dark), None, len(WIDTHS))
    found = browser.violations([*pages[half], (faint, 1600)], tmp_path_factory.mktemp("axe"), dark=dark)
    return dict(zip([*EACH[half], ("faint", 1600)], found, strict=True))


@pytest.mark.slow
def test_pages_are_the_same_with_scripts_and_without(pages: list[tuple[str, int]], tmp_path: Path) -> None:
    host = browser.framed(pages[::2], tmp_path)
    with_scripts, without = (
        browser.screenshot(host, tmp_path / "shot.png", scripts=scripts, width=len(FIVE) * (WIDTHS[0] + 10))
        for scripts in (True, False)
    )
    assert with_scripts == without
    assert len(with_scripts) > 100_000  # bytes: more than pages of one colour


@pytest.mark.slow
def test_no_rule_of_wcag_aa_is_violated(violations: dict[tuple[str, int], str]) -> None:
    accused = {each: said for each, said in violations.items() if not re.fullmatch(r" of [1-9]\d", said)}
    assert list(accused) == [("faint", 1600)]
    assert "color-contrast" in accused["faint", 1600]


@pytest.mark.slow
def test_nothing_is_wider_than_the_window(pages: list[tuple[str, int]], tmp_path: Path) -> None:
    unfolded = [(browser.unfolded(page), width) for page, width in pages]
    assert browser.said(unfolded, "say(document.documentElement.scrollWidth)", tmp_path) == [
        str(width) for _, width in EACH
    ]


def test_light_and_dark_differ(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    REPORTS["fail"]().to_html(path)
    light, dark = (browser.screenshot(path, tmp_path / "shot.png", dark=dark) for dark in (False, True))
    assert light != dark
