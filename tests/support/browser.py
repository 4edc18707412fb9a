"""A headless browser, if the machine has one, and axe-core, if npm can bring it."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from html import escape
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


def said(page: str, script: str, folder: Path, *, dark: bool = False, width: int) -> str:
    """What a script says of the page by ``say(text)``; the page stands in a frame, which can be as narrow as asked."""
    page = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page)  # or nothing could be run in it
    script = f"function say(text) {{ parent.document.title = 'SAID ' + text + ' END' }}\n{script}"
    inner = escape(page.replace("</body>", f"<script>{script}</script></body>"))
    path = folder / "host.html"
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{inner}"></iframe>'
    path.write_text(f"<!DOCTYPE html><title>host</title>{frame}", encoding="utf-8")
    shown = run(f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1700,1000",
                "--virtual-time-budget=10000", "--dump-dom", path.as_uri())  # fmt: skip
    found = re.search(r"<title>SAID (.*?) END</title>", shown, re.DOTALL)
    assert found, "the script did not run to its end"
    return found[1]


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
        done = subprocess.run([npm, "pack", "axe-core@4.14.1", "--silent"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            return None
        shutil.unpack_archive(Path(folder, done.stdout.split()[-1]), folder)
        return Path(folder, "package", "axe.min.js").read_text(encoding="utf-8")


RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
RUN = f"""axe.run(document, {{runOnly: {RULES}}}).then(found => say(
    found.violations.map(each => each.id + ' ' + each.nodes[0].html).join('; ') + ' of ' + found.passes.length))"""


def violations(page: str, folder: Path, *, dark: bool, width: int) -> str:
    """The rules of WCAG AA that a page violates with all of it unfolded, and how many it keeps."""
    unfolded = page.replace("<details>", "<details open>")
    return said(unfolded, f"{axe()}\n;{RUN}", folder, dark=dark, width=width)
