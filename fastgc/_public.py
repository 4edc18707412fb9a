"""Public names: they are loaded from their modules on first use, and appear under the name of the package."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastgc._missing import missing

_Kind = TypeVar("_Kind", bound=type)


def loader(package: str, homes: Mapping[str, str], needs: str = "") -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Parameters
    ----------
    homes : for each public name, the module that defines it; "" for a package inside this one
    needs : a third-party package that all of these modules import, and the extra of the same name
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if needs:
            _require(needs, f"{package}.{name}")
        if not homes[name]:
            return importlib.import_module(f"{package}.{name}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        vars(importlib.import_module(package))[name] = value  # the next use finds it without this call
        return value

    return load


def _require(needs: str, user: str) -> None:
    try:
        importlib.import_module(needs)
    except ModuleNotFoundError as error:
        if error.name != needs:  # it is installed, but a module that it imports is missing
            raise
        raise missing(user, needs) from error


def public(kind: _Kind) -> _Kind:
    """Give a class the name ``fastgc.Name`` in tracebacks, help and pickles, whatever module defines it."""
    if "__annotations__" in vars(kind):
        kind.__annotations__ = inspect.get_annotations(kind, eval_str=True)  # its names resolve only in its own module
    kind.__module__ = "fastgc"
    return kind
