"""Runs the examples in docstrings."""

from __future__ import annotations

import doctest
from typing import Any


def failing_examples(value: Any) -> list[str]:
    """What goes wrong in the examples of a docstring, which must hold some."""
    said: list[str] = []
    (found,) = doctest.DocTestFinder(recurse=False).find(value, value.__name__, module=False, globs={})
    assert found.examples, f"{value.__name__} shows no example"
    doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(found, out=said.append)
    return said
