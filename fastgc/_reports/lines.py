"""Lines of text that fit on a screen and hold nothing that a terminal would obey."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

WIDTH = 100  # columns of a line, at most: two windows side by side on a wide screen, and a page of a review
NAME = 40  # characters of a name in a table: paths of modules are shorter, as a rule; four numbers follow
_WORD = 60  # characters of a word in a sentence, at most: it leaves room for other words on its line
_INDENT = 6  # spaces before the rest of a line: the length of "FAIL  " and of "next: "


def visible(text: str) -> str:
    r"""The text with characters that are obeyed or not shown (escapes, newlines, direction marks) as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shortened(text: str, limit: int) -> str:
    """The text, with dots for its middle where it is long."""
    if len(text) <= limit:
        return text
    head = (limit - 3) // 2
    return f"{text[:head]}...{text[head + 3 - limit :]}"


def fitted(lines: Iterable[str]) -> Iterator[str]:
    """The lines, each broken where it is too long, with its further parts indented."""
    for line in lines:
        shown = visible(line)
        if len(shown) <= WIDTH:
            yield shown
            continue
        words = " ".join(shortened(word, _WORD) for word in shown.split(" "))
        yield from textwrap.wrap(words, WIDTH, subsequent_indent=" " * _INDENT, break_on_hyphens=False)


def in_a_row(parts: Sequence[str], indent: int = 0) -> Iterator[str]:
    """Short texts, three spaces apart, as many on a line as fit."""
    line = " " * indent + parts[0]
    for part in parts[1:]:
        if len(line) + 3 + len(part) > WIDTH:
            yield line
            line = " " * _INDENT + part
        else:
            line += f"   {part}"
    yield line


def headed(head: str, facts: Sequence[str]) -> Iterator[str]:
    """What was found and on how many entries; then what it took, on a line that depends on the machine."""
    yield from in_a_row([head, facts[0]])
    yield from in_a_row(facts[1:], _INDENT)


def with_short_names(text: str, names: Iterable[str]) -> str:
    """The text with dots for the middles of long names."""
    for name in names:
        if len(name) > NAME:
            for form in (name, repr(name)[1:-1]):
                text = text.replace(form, shortened(form, NAME))
    return text
