"""Runs the examples in docstrings."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any


def failing_examples(function: Callable[..., Any]) -> list[str]:
    """What goes wrong in the examples of a function's docstring, which must hold some."""
    said: list[str] = []
    (found,) = doctest.DocTestFinder(recurse=False).find(function, function.__name__)
    assert found.examples
    doctest.DocTestRunner(verbose=False).run(found, out=said.append)
    return said
