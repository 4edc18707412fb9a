"""The text of a report without its line breaks."""

from __future__ import annotations


def unbroken(report: object) -> list[str]:
    """The lines of a text, each with its further parts, which are indented."""
    return str(report).replace("\n" + " " * 6, " ").splitlines()


def text(report: object) -> str:
    """The text with each of its lines whole."""
    return "\n".join(unbroken(report))
