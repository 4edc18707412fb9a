"""Tensors inside other objects: found with their names, and replaced."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from types import ModuleType
from typing import Any, ClassVar, Protocol, TypeGuard

import numpy as np
import torch


class Record(Protocol):
    """An instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]


Replace = Callable[[str, torch.Tensor], torch.Tensor]  # of a tensor, given its name

_OPAQUE = (str, bytes, bytearray, range, np.ndarray, np.generic, type, ModuleType)  # hold no tensors to look for


def mapped(value: object, name: str, replace: Replace) -> Any:
    """The same structure of lists, tuples, mappings and dataclasses, with every tensor replaced."""
    if isinstance(value, torch.Tensor):
        return replace(name, value)
    if isinstance(value, Mapping):
        return _with_items(value, {key: mapped(each, f"{name}[{key}]", replace) for key, each in value.items()})
    if isinstance(value, (list, tuple)):
        children = [mapped(each, f"{name}[{i}]", replace) for i, each in enumerate(value)]
        return type(value)._make(children) if hasattr(value, "_make") else type(value)(children)
    if _is_record(value):
        return _with_fields(value, {key: mapped(each, f"{name}.{key}", replace) for key, each in _fields(value)})
    return value


def tensors_in(name: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that `mapped` reaches, with their names."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        yield from _each((f"{name}[{key}]", each) for key, each in value.items())
    elif isinstance(value, (list, tuple)):
        yield from _each((f"{name}[{i}]", each) for i, each in enumerate(value))
    elif _is_record(value):
        yield from _each((f"{name}.{key}", each) for key, each in _fields(value))


def out_of_reach(name: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors inside other objects (sets, instances of the user's own classes), with the names of these objects."""
    waiting, seen = [(name, value, False)], {}  # keeps the objects it saw, so that no two have the same id
    while waiting:
        name, each, hidden = waiting.pop()
        if isinstance(each, torch.Tensor):
            if hidden:
                yield name, each
        elif id(each) not in seen and not isinstance(each, _OPAQUE):
            seen[id(each)] = each
            hidden = hidden or not (isinstance(each, (Mapping, list, tuple)) or _is_record(each))
            waiting += [(name if hidden else name + key, part, hidden) for key, part in _members(each)]


def _each(pairs: Iterator[tuple[str, object]]) -> Iterator[tuple[str, torch.Tensor]]:
    for pair in pairs:
        yield from tensors_in(*pair)


def _members(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from ((f"[{key}]", each) for key, each in value.items())
    elif isinstance(value, Collection):
        yield from ((f"[{i}]", each) for i, each in enumerate(value))
    else:
        yield from ((f".{key}", each) for key, each in getattr(value, "__dict__", {}).items())


def _is_record(value: object) -> TypeGuard[Record]:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(value: Record) -> Iterator[tuple[str, object]]:
    yield from ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))


def _with_items(value: Mapping[object, object], items: dict[object, object]) -> object:
    """A mapping of the same type, or a dict where that type cannot be written to."""
    if not hasattr(value, "__setitem__"):
        return items
    copied = copy.copy(value)
    for key, each in items.items():
        copied[key] = each
    return copied


def _with_fields(value: Record, fields: dict[str, object]) -> Record:
    """A dataclass of the same type: a copy, so that its constructor computes nothing again."""
    copied = copy.copy(value)
    for key, each in fields.items():
        object.__setattr__(copied, key, each)  # it may be frozen
    return copied
