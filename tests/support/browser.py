"""A headless browser, if the machine has one, and axe-core, if npm can bring it."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from html import escape, unescape
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT = 120  # seconds


def found() -> str | None:
    """The path of a browser."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def run(*options: str) -> str:
    """What the browser prints."""
    with tempfile.TemporaryDirectory() as profile:
        fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        command = [str(found()), *fixed, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=True).stdout


def framed(pages: Iterable[tuple[str, int]], folder: Path) -> Path:
    """A page that shows others in frames, which can be as narrow as asked."""
    path = folder / "host.html"
    style = "width:{}px;height:900px;border:0"
    frames = (f'<iframe style="{style.format(width)}" srcdoc="{escape(page)}"></iframe>' for page, width in pages)
    path.write_text(f"<!DOCTYPE html><title>host</title>{''.join(frames)}", encoding="utf-8")
    return path


SAY = """function say(text) {
    const said = parent.document.createElement("pre");
    said.id = NUMBER;
    said.textContent = text;
    parent.document.body.append(said);
}"""


def with_script(page: str, script: str, number: int) -> str:
    page = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page)  # or nothing could be run in it
    say = SAY.replace("NUMBER", str(number))
    return page.replace("</body>", f"<script>{say}\n{script}</script></body>")


def said(pages: Sequence[tuple[str, int]], script: str, folder: Path, *, dark: bool = False) -> list[str]:
    """What a script says of each page in its width by ``say(text)``, in one run of the browser."""
    scripted = [(with_script(page, script, number), width) for number, (page, width) in enumerate(pages)]
    shown = run(f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1700,1000",
                "--virtual-time-budget=10000", "--dump-dom", framed(scripted, folder).as_uri())  # fmt: skip
    found = dict(re.findall(r'<pre id="(\d+)">(.*?)</pre>', shown, re.DOTALL))
    assert len(found) == len(pages), "a script did not run to its end"
    return [unescape(found[str(number)]) for number in range(len(pages))]


def screenshot(path: Path, image: Path, *, dark: bool = False, scripts: bool = True, width: int = 1600) -> bytes:
    """A picture of the page."""
    settings = f"preferredColorScheme={0 if dark else 1},scriptEnabled={str(scripts).lower()}"
    run(f"--blink-settings={settings}", f"--window-size={width},1500",
        f"--screenshot={image}", path.as_uri())  # fmt: skip
    return image.read_bytes()


@functools.cache
def axe() -> str | None:
    """The text of axe-core, which npm brings; None without npm or its registry."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", "axe-core@4.14.1", "--silent", "--prefer-offline"], cwd=folder, capture_output=True, text=True
        )
        if done.returncode:
            return None
        shutil.unpack_archive(Path(folder, done.stdout.split()[-1]), folder)
        return Path(folder, "package", "axe.min.js").read_text(encoding="utf-8")


RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
RUN = f"""axe.run(document, {{runOnly: {RULES}}}).then(found => say(
    found.violations.map(each => each.id + ' ' + each.nodes[0].html).join('; ') + ' of ' + found.passes.length))"""


def violations(pages: Sequence[tuple[str, int]], folder: Path, *, dark: bool) -> list[str]:
    """The rules of WCAG AA that each page violates in its width with all of it unfolded, and how many it keeps."""
    return said([(unfolded(page), width) for page, width in pages], f"{axe()}\n;{RUN}", folder, dark=dark)


def unfolded(page: str) -> str:
    return page.replace("<details>", "<details open>")
