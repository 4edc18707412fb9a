"""Arguments that make no sense, refused before any arithmetic."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise a ValueError unless the value is among those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


def number(name: str, value: Any, *, positive: bool = False) -> None:
    """Raise unless the value is None or a finite number that is not negative (with ``positive``: nor zero)."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}; it must be a number or None")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{name} is {value!r}; it must be finite and {'above 0' if positive else 'at least 0'}")


def whole(name: str, value: Any, *, least: int, optional: bool = False) -> None:
    """Raise unless the value is an integer of at least ``least`` (or None, where that is allowed)."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; it must be an integer{' or None' if optional else ''}")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")


# --- names and patterns ---


_BRIEF = 150  # characters that fit on a line of a terminal or a notebook


def listed(items: Sequence[Any], *, quote: bool = True, limit: int = 10) -> str:
    """At most ``limit`` items as text for a message, and how many more there are."""
    shown = [repr(item) if quote else str(item) for item in items[:limit]]
    return ", ".join(shown) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def brief(text: str) -> str:
    """A text in one short line."""
    line = " ".join(text.split())
    return line if len(line) <= _BRIEF else f"{line[: _BRIEF - 3]}..."


@contextlib.contextmanager
def noted(kind: type[Exception], words: str, note: str) -> Iterator[None]:
    """Say something beside exceptions of a kind whose text has a word (a regular expression) of these."""
    try:
        yield
    except kind as error:
        if re.search(words, str(error)):
            error.add_note(note)
        raise


def plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
