"""Public names: loaded from their modules on first use, and shown under the name of the package."""

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
    homes : by public name, the module of the package that holds it; "" for a package inside
    needs : a package that all of them import, and the extra of the same name
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if needs:
            _require(needs, f"{package}.{name}")
        if not homes[name]:
            return importlib.import_module(f"{package}.{name}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        vars(importlib.import_module(package))[name] = value  # the next time it is found without a call
        return value

    return load


def _require(needs: str, user: str) -> None:
    try:
        importlib.import_module(needs)
    except ModuleNotFoundError as error:
        if error.name != needs:  # it is there, and something that it imports is not
            raise
        raise missing(user, needs) from error


def public(kind: _Kind) -> _Kind:
    """A class that is called ``fastgc.Name`` in tracebacks, in help and in pickles, wherever it is defined."""
    if "__annotations__" in vars(kind):
        kind.__annotations__ = inspect.get_annotations(kind, eval_str=True)  # while it is known what they refer to
    kind.__module__ = "fastgc"
    return kind
