"""A report as one page of HTML: no script, nothing from elsewhere, every name escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources

import numpy as np

from fastgc._reports.contents import Contents, Part
from fastgc._reports.entries import Entry
from fastgc._reports.lines import shortened, visible, with_short_names
from fastgc._reports.picture import Picture, pictures
from fastgc._reports.svg import svg
from fastgc._words import Verdict

_ROWS = 500  # tensors in the table: a report on more is read by programs
_DRAWN = 20  # tensors with pictures of their entries, the worst first: 20 to 100 kB each
_OPEN = 3  # tensors that fail or are undecided and are shown unfolded: a screen each
_LISTED = 20  # entries of a tensor in its table: a screen
_NAME, _TEXT = 80, 2000  # characters of a name and of a line: no name fills the page
_SIGNS: dict[Verdict, str] = {"pass": "✓ PASS", "fail": "✗ FAIL", "undecided": "? UNDECIDED"}


@np.errstate(all="ignore")
def page(contents: Contents) -> str:
    """The whole page."""
    title = f"{contents.verdict.upper()} – fastgc"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{_style()}
body{{margin:0}}html{{background:#fff}}@media(prefers-color-scheme:dark){{html{{background:#0d1117}}}}</style>
</head>
<body>
<main class="fastgc">
{_body(contents, "h1")}
</main>
</body>
</html>"""


@np.errstate(all="ignore")
def fragment(contents: Contents) -> str:
    """The same as a part of another page: of a notebook."""
    return f'<div class="fastgc"><style>{_style()}</style>{_body(contents, "p")}</div>'


@np.errstate(all="ignore")
def figure(picture: Picture, text: str) -> str:
    """A picture with a text below it, as a part of another page."""
    head = f"<figcaption>{escape(picture.title)}</figcaption>"
    shown = f"<figure>{head}{svg(picture)}</figure><pre>{escape(text)}</pre>"
    return f'<div class="fastgc"><style>{_style()}</style>{shown}</div>'


def _style() -> str:
    return resources.files("fastgc").joinpath("report.css").read_text(encoding="utf-8")


def _body(contents: Contents, heading: str) -> str:
    names = [part.name for part in contents.parts]
    return "\n".join(
        [
            *_head(contents, names, heading),
            *([] if len(contents.parts) < 2 else _overview(contents.parts)),
            *(_part(part, number, names) for number, part in enumerate(contents.parts[:_DRAWN])),
            *_folded("What this check could have missed", contents.limits, names),
            *_folded("Notes", contents.notes, names),
            _foot(contents),
        ]
    )


def _clean(text: str, names: Iterable[str] = ()) -> str:
    """Text for HTML, with short names and nothing that is obeyed."""
    return escape(shortened(visible(with_short_names(text, names)), _TEXT))


def _name(name: str) -> str:
    return escape(shortened(visible(name), _NAME))


def _badge(verdict: Verdict) -> str:
    return f'<span class="badge {verdict}">{_SIGNS[verdict]}</span>'


def _head(contents: Contents, names: Sequence[str], heading: str) -> Iterator[str]:
    yield f'<{heading} class="title">{_badge(contents.verdict)}{_clean(contents.outcome, names)}</{heading}>'
    yield f'<p class="facts">{"".join(f"<span>{_clean(fact)}</span>" for fact in contents.facts)}</p>'
    worst = contents.parts[0].worst if contents.parts else None
    yield from (f"<p><strong>Operation:</strong> {_clean(each, names)}</p>" for each in contents.operations)
    if contents.advice:
        yield f'<div class="next"><p><strong>Next:</strong> {_clean(contents.advice, names)}</p>'
        yield f"<p><strong>Worst entry:</strong> <code>{_clean(str(worst), names)}</code></p>" if worst else ""
        yield "</div>"


def _overview(parts: Sequence[Part]) -> Iterator[str]:
    more = f", the worst {_ROWS} of {len(parts):,}" if len(parts) > _ROWS else ", worst first"
    yield '<div class="scroll" tabindex="0" role="region" aria-label="Table of tensors"><table>'
    yield f"<caption>Tensors{more}</caption><thead><tr>"
    yield '<th scope="col">tensor</th><th scope="col">verdict</th><th scope="col">shape</th>'
    yield from (f'<th scope="col" class="number">{each}</th>' for each in ("checked", "max rel err", "rel err (all)"))
    yield '<th scope="col">what the numbers show</th></tr></thead><tbody>'
    yield from map(_row, parts[:_ROWS])
    yield "</tbody></table></div>"


def _row(part: Part) -> str:
    verdict = f'<td class="{part.verdict}">{_SIGNS[part.verdict]}</td>'
    numbers = (f"{part.checked:,} of {part.size:,}", *part.errors)
    cells = "".join(f'<td class="number">{escape(each)}</td>' for each in numbers)
    remark = f'<td class="text">{_clean(part.remark, [part.name])}</td>'
    return f'<tr><th scope="row">{_name(part.name)}</th>{verdict}<td>{part.shape}</td>{cells}{remark}</tr>'


# --- one tensor ---


def _part(part: Part, number: int, names: Sequence[str]) -> str:
    unfolded = " open" if part.verdict != "pass" and number < _OPEN else ""
    lines = [part.remark, *part.evidence, *part.limits]
    said = "".join(f"<li>{_clean(line, names)}</li>" for line in lines if line)
    figures = "".join(
        f"<figure><figcaption>{escape(each.title)}<small>{escape(each.note)}</small></figcaption>{svg(each)}</figure>"
        for each in pictures(part)
    )
    return (
        f"<details{unfolded}><summary>{_badge(part.verdict)}<h2>{_name(part.name)}</h2> {part.shape}</summary>"
        f'<ul>{said}</ul><div class="pictures">{figures}</div>{"".join(_entries(part))}</details>'
    )


def _entries(part: Part) -> Iterator[str]:
    shown = _worst_entries(part)
    if not shown:
        return
    caption = (
        f"The worst {len(shown)} of {len(part.entries):,} checked" if len(shown) < len(part.entries) else "Entries"
    )
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="Entries of {_name(part.name)}"><table>'
    yield f'<caption>{caption}</caption><thead><tr><th scope="col">index</th><th scope="col">verdict</th>'
    for title in ("analytic", "numerical", "± uncertainty", "step", "rel err"):
        yield f'<th scope="col" class="number">{title}</th>'
    yield '<th scope="col">reason</th></tr></thead><tbody>'
    yield from map(_entry, shown)
    yield "</tbody></table></div>"


def _worst_entries(part: Part) -> list[Entry]:
    """The wrong ones; then the others, those undecided first, by their relative error."""
    wrong = list(part.wrong_entries[:_LISTED])
    columns = part.entries.columns
    rest = np.flatnonzero(columns["verdict"] != "fail")
    errors = np.nan_to_num(np.asarray(columns["relative_error"], np.float64)[rest], nan=np.inf)
    order = np.lexsort((-errors, columns["verdict"][rest] != "undecided"))[: _LISTED - len(wrong)]
    return wrong + [part.entries[int(rest[k])] for k in order]


def _entry(entry: Entry) -> str:
    index = f"[{', '.join(map(str, entry.index))}]" + (f" at point {entry.point}" if entry.point else "")
    numbers = (
        f"{entry.analytic:.6g}",
        f"{entry.numerical:.6g}",
        f"{entry.uncertainty:.0e}",
        f"{entry.step:.1e}",
        f"{entry.relative_error:.1e}",
    )
    cells = "".join(f'<td class="number">{each}</td>' for each in numbers)
    verdict = f'<td class="{entry.verdict}">{_SIGNS[entry.verdict]}</td>'
    return f'<tr><th scope="row">{index}</th>{verdict}{cells}<td class="text">{_clean(entry.reason)}</td></tr>'


# --- the rest ---


def _folded(title: str, lines: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    if lines:
        items = "".join(f"<li>{_clean(line, names)}</li>" for line in lines)
        yield f"<details><summary><h2>{title}</h2></summary><ul>{items}</ul></details>"


def _foot(contents: Contents) -> str:
    made = contents.environment
    words = f"fastgc {made.fastgc}, numpy {made.numpy}, Python {made.python}, {made.platform}, {made.date}"
    return f"<footer>{_clean(words)}</footer>"
