"""Builds the reference pages from the docstrings: ``python .ci/reference.py FOLDER``; every warning is an error."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import warnings
from pathlib import Path

import pdoc

PACKAGES = ("fastgc", "fastgc.torch", "fastgc.jax")


def at_home(kind: type) -> None:
    """Give a class, which is shown as the package's own, the module where pdoc finds its source."""
    method = next(value for value in vars(kind).values() if inspect.isfunction(value))
    kind.__module__ = method.__globals__["__name__"]


def main(folder: str) -> None:
    """Write the pages."""
    warnings.simplefilter("error")
    for package in map(importlib.import_module, PACKAGES):
        for value in (getattr(package, name) for name in package.__all__):
            if inspect.isclass(value):
                at_home(value)
    pdoc.render.configure(docformat="numpy", show_source=False)
    output = Path(folder).resolve()
    output.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(output):  # where no folder has the name of the package, which may be installed elsewhere
        pdoc.pdoc("fastgc", output_directory=output)


if __name__ == "__main__":
    main(sys.argv[1])
