"""A report as Markdown, for a pull request, and as annotations of GitHub's workflows."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from fastgc._reports.contents import Contents, Part
from fastgc._reports.lines import NAME, shortened, visible, with_short_names
from fastgc._words import Verdict

_ROWS = 20  # tensors in the table: as in the text
_LONGEST = 1000  # characters of a line: comments on pull requests end at 65,536
_SIGNS: dict[Verdict, str] = {"pass": "✅ PASS", "fail": "❌ FAIL", "undecided": "❔ UNDECIDED"}
_LEVELS: dict[Verdict, str] = {"pass": "notice", "fail": "error", "undecided": "warning"}


def markdown(contents: Contents) -> str:
    """The verdict and what to do as a list, a table of tensors, and the rest folded."""
    names = [part.name for part in contents.parts]

    def clean(text: str) -> str:
        return escaped(shortened(with_short_names(text, names), _LONGEST))

    lines = [f"### {_SIGNS[contents.verdict]}: {clean(contents.outcome)}", "", clean(" · ".join(contents.facts)), ""]
    lines += [f"- **Operation:** {clean(each)}" for each in contents.operations]
    worst = contents.parts[0].worst if contents.parts else None
    if contents.advice:
        lines += [f"- **Next:** {clean(contents.advice)}"]
        lines += [f"- **Worst entry:** {clean(str(worst))}"] if worst is not None else []
    lines += [""] if contents.operations or contents.advice else []
    lines += [*_table(contents.parts[:_ROWS]), ""]
    if len(contents.parts) > _ROWS:
        lines += [f"and {len(contents.parts) - _ROWS} more", ""]
    more = [*(line for part in contents.parts[:_ROWS] for line in part.evidence), *contents.limits, *contents.notes]
    if more:
        lines += ["<details><summary>What this rests on, and what could be missed</summary>", ""]
        lines += [*(f"- {clean(line)}" for line in more), "", "</details>", ""]
    return "\n".join(lines)


def _table(parts: Sequence[Part]) -> Iterator[str]:
    yield "| tensor | shape | checked | max rel err | rel err (all) | verdict |"
    yield "|:--|:--|--:|--:|--:|:--|"
    for part in parts:
        verdict = _SIGNS[part.verdict] + (f": {escaped(shortened(part.remark, _LONGEST))}" if part.remark else "")
        cells = (escaped(part.name, NAME), str(part.shape), f"{part.checked:,}/{part.size:,}")
        yield f"| {' | '.join([*cells, *map(escaped, part.errors), verdict])} |"


def escaped(text: str, limit: int = _LONGEST) -> str:
    """Text that means nothing in Markdown or HTML: marks as numbers of characters, so that no name calls a user."""
    shown = shortened(visible(text), limit)
    return re.sub(r"[^\w\s.,;:()/+\-=%'·–]|[_:](?=\w|//)", _entity, shown)


def _entity(found: re.Match[str]) -> str:
    """The number of a character; what calls a user or an issue is kept apart from its name, too."""
    return f"&#{ord(found[0])};" + ("&#8203;" if found[0] in "@#" else "")


# --- annotations ---


def workflow_commands(contents: Contents, name: str) -> str:
    """A workflow command for each tensor that does not pass; one notice if all pass."""
    open_parts = [part for part in contents.parts if part.verdict != "pass"]
    lines = [_command(part.verdict, f"{name}: {part.name}", _message(part)) for part in open_parts]
    return "\n".join(lines or [_command(contents.verdict, name, contents.outcome)])


def _message(part: Part) -> str:
    worst = f"\nworst: {part.worst}" if part.worst is not None else ""
    return f"{part.remark}\nnext: {part.advice}{worst}"


def _command(verdict: Verdict, title: str, message: str) -> str:
    text = "\n".join(shortened(visible(line), _LONGEST) for line in message.split("\n"))
    head = html.unescape(shortened(visible(title), NAME)).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::{_LEVELS[verdict]} title={head}::" + text.replace("%", "%25").replace("\n", "%0A")
