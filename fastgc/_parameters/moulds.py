"""Containers of the caller's own classes: made again around other arrays, with their attributes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mould:
    """What a dict, list or tuple of a subclass is made of, besides its items.

    Attributes
    ----------
    empty : a copy without items; of a tuple, its class
    attributes : its instance attributes that are no items
    aliases : instance attributes that are items: the place of each among the items
    own : whether its items are its attributes, ``self.__dict__ = self``
    """

    empty: Any
    attributes: Mapping[str, object]
    aliases: Mapping[str, int]
    own: bool

    def filled(self, children: Sequence[object], keys: Sequence[str]) -> object:
        """The container with other items, under these keys in a dict, made without a call of its constructor."""
        made = self._with_items(children, keys)
        if self.own:
            made.__dict__ = made
        elif self.attributes or self.aliases:
            vars(made).clear()
            vars(made).update(self.attributes, **{name: children[place] for name, place in self.aliases.items()})
        return made

    def _with_items(self, children: Sequence[object], keys: Sequence[str]) -> Any:
        if isinstance(self.empty, type):
            return tuple.__new__(self.empty, children)
        made = copy.copy(self.empty)
        if isinstance(made, dict):
            for key, child in zip(keys, children, strict=True):
                made[key] = child
        else:
            made.extend(children)
        return made


def mould_of(container: object) -> Mould | None:
    """The mould of a container; None of a plain one, of a named tuple, and of one that cannot be made again."""
    kind = type(container)
    if kind in (dict, list, tuple) or hasattr(kind, "_make") or not isinstance(container, (dict, list, tuple)):
        return None
    with contextlib.suppress(Exception):  # it cannot be copied or emptied: its items arrive in a plain container
        empty: Any = kind if isinstance(container, tuple) else copy.copy(container)
        if not isinstance(container, tuple):
            empty.clear()
        return _with_attributes(container, empty)
    return None


def _with_attributes(container: dict[object, object] | list[object] | tuple[object, ...], empty: Any) -> Mould:
    own = getattr(container, "__dict__", {})
    if own is container:
        empty.__dict__ = {}
        return Mould(empty, {}, {}, own=True)
    items = list(container.values() if isinstance(container, dict) else container)
    places = {name: _place(value, items) for name, value in own.items()}
    aliases = {name: place for name, place in places.items() if place is not None}
    return Mould(empty, {name: value for name, value in own.items() if name not in aliases}, aliases, own=False)


def _place(value: object, items: Iterable[object]) -> int | None:
    return next((i for i, item in enumerate(items) if item is value), None)
