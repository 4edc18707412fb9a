"""Builds the reference pages from the docstrings: ``python .ci/reference.py FOLDER``; every warning is an error."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from pathlib import Path

import pdoc

PACKAGES = ("fastgc", "fastgc.torch", "fastgc.jax")


def describe(kind: type) -> None:
    """Let pdoc find the source of a class that is shown as the package's own, and what private ones hand down."""
    for parent in kind.__mro__[1:]:
        if parent.__module__.startswith("fastgc._"):
            for name, value in vars(parent).items():
                if not name.startswith("_"):
                    setattr(kind, name, vars(kind).get(name, value))
    kind.__module__ = kind.__init__.__globals__["__name__"]


def main(folder: str) -> None:
    """Write the pages."""
    warnings.simplefilter("error")
    for package in map(importlib.import_module, PACKAGES):
        for value in (getattr(package, name) for name in package.__all__):
            if inspect.isclass(value):
                describe(value)
    pdoc.render.configure(docformat="numpy", show_source=False)
    pdoc.pdoc("fastgc", output_directory=Path(folder))


if __name__ == "__main__":
    main(sys.argv[1])
