"""Objects whose attributes are computed when somebody first asks for one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_Kind = TypeVar("_Kind")


def deferred(kind: type[_Kind], rest: Callable[[], Mapping[str, object]], **known: object) -> _Kind:
    """An object of a class that `deferring` made, with these attributes.

    The first question for another attribute computes the ``rest``, all at once.
    """
    found = object.__new__(kind)
    vars(found).update(known, _rest=rest)
    return found


def deferring(kind: type[_Kind]) -> type[_Kind]:
    """A dataclass without slots, and without defaults of those attributes that come late, made fit for `deferred`."""
    setattr(kind, "__getattr__", _late)  # noqa: B010 - mypy would take it for an attribute of every name
    setattr(kind, "__getstate__", _state)  # noqa: B010
    return kind


def _late(self: object, name: str) -> Any:
    """An attribute that is not there yet."""
    rest = vars(self).get("_rest")
    if rest is None and name in vars(self):  # another thread has computed it
        return vars(self)[name]
    if rest is None or name.startswith("__"):
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
    _complete(self)
    return getattr(self, name)


def _state(self: object) -> dict[str, object]:
    """All attributes, for pickles and copies."""
    _complete(self)
    return {key: value for key, value in vars(self).items() if key != "_rest"}


def _complete(self: object) -> None:
    """Compute the attributes that are not there yet."""
    if (rest := vars(self).get("_rest")) is not None:
        vars(self).update({key: value for key, value in rest().items() if key not in vars(self)}, _rest=None)
