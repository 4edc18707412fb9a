"""Reports as dicts and JSON, with a column for each attribute of the entries, and the way back."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastgc._parameters.arrays import Array
from fastgc._reports.entries import Entries
from fastgc._verdicts.errors import elementwise_error
from fastgc._words import Which

SCHEMA = 1  # version of the JSON's keys and their meanings: fastgc/report.schema.json
Saved: TypeAlias = Mapping[str, Any]  # parsed JSON
Kind = TypeVar("Kind")

_MANY = 1000  # entries, from which on their columns are written so as to take little room
_FEW = 1 / 4  # of the entries, at most: so few different values are written once, and a code for each entry
_DISTINCT = ("analytic", "numerical")  # columns that hardly repeat a value


def plain(value: object, which: Which = "all") -> Any:
    """Dataclasses, mappings, sequences and numbers in the form that JSON can hold."""
    if isinstance(value, Entries):
        return _columns(value)
    if is_dataclass(value) and not isinstance(value, type):
        found = {field.name: getattr(value, field.name) for field in fields(value)}
        return {key: plain(each, which) for key, each in (_with_rows(found, which)).items()}
    if isinstance(value, Mapping):
        return {key: plain(each, which) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each, which) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _with_rows(found: dict[str, Any], which: Which) -> dict[str, Any]:
    """The attributes of a summary, with the wrong entries as rows of the columns of entries."""
    if "wrong_entries" not in found:
        return found
    every, wrong = found["entries"], found["wrong_entries"]
    if which == "wrong":
        return found | {"entries": wrong, "wrong_entries": np.arange(len(wrong)).tolist()}
    return found | {"wrong_entries": _rows(every, wrong).tolist()}


def _rows(every: Entries, wrong: Entries) -> NDArray[np.int64]:
    """Where the wrong entries are among all; one place may have been checked at several points."""
    places = 1 + every.local.max(initial=0)
    keys, sought = (each.local + each.columns["point"].astype(np.int64) * places for each in (every, wrong))
    order = np.argsort(keys, kind="stable")
    return np.asarray(order[np.searchsorted(keys, sought, sorter=order)])


# --- columns ---


def _columns(entries: Entries) -> dict[str, object]:
    """A list for each attribute; many entries in less room, without what follows from the other columns."""
    if len(entries) < _MANY:
        return {"index": _indices(entries)} | {key: _listed(column) for key, column in entries.columns.items()}
    size = math.prod(entries.shape)
    every = len(entries) == size and bool((entries.local == np.arange(size)).all())
    columns = {key: column for key, column in entries.columns.items() if key != "relative_error"}
    short = {key: (_listed if key in _DISTINCT else _coded)(column) for key, column in columns.items()}
    return {"index": None if every else _indices(entries)} | short


def _indices(entries: Entries) -> list[list[int]]:
    if not entries.shape:
        return [[] for _ in range(len(entries))]
    return np.stack(np.unravel_index(entries.local, entries.shape), axis=1).tolist()  # type: ignore[no-any-return]


def _coded(column: Array) -> object:
    """The column, or its different values and their numbers, if they are few."""
    listed = _listed(column)
    numbers = {value: number for number, value in enumerate(dict.fromkeys(listed))}
    if len(numbers) > _FEW * len(listed):
        return listed
    return {"values": list(numbers), "codes": list(map(numbers.__getitem__, listed)) if len(numbers) > 1 else 0}


def _listed(column: Array) -> list[object]:
    listed: list[object] = column.tolist()
    if column.dtype.kind == "f":
        for k in np.flatnonzero(~np.isfinite(column)):
            listed[k] = str(listed[k])
    return listed


def entries_from(found: Saved, name: str, shape: tuple[int, ...]) -> Entries:
    """The entries that the columns hold."""
    count = _length(found, shape)
    columns = {key: _column(key, column, count) for key, column in found.items() if key != "index"}
    local = np.arange(count)
    if found["index"] is not None and shape and count:
        local = np.asarray(np.ravel_multi_index(tuple(np.array(found["index"], np.int64).T), shape), np.int64)
    columns.setdefault("relative_error", elementwise_error(columns["analytic"], columns["numerical"]))
    return Entries(name, shape, local, columns)


def _length(found: Saved, shape: tuple[int, ...]) -> int:
    return math.prod(shape) if found["index"] is None else len(found["index"])


def _column(key: str, column: Any, count: int) -> Array:
    kinds: dict[str, type] = {"point": np.int64, "verdict": object, "reason": object}
    kind = kinds.get(key, np.float64)
    if isinstance(column, Mapping):
        values: Array = np.array(column["values"], kind)
        return np.asarray(values[np.broadcast_to(column["codes"], count)])
    return np.array(column, kind)


# --- text ---


def written(value: object, indent: str = "") -> str:
    """JSON with a line for each key, and each column on a line: C code writes it."""
    if isinstance(value, dict) and value:
        inner = indent + " "
        lines = ",\n".join(f"{inner}{json.dumps(key)}: {written(each, inner)}" for key, each in value.items())
        return f"{{\n{lines}\n{indent}}}"
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


# --- and back ---


def summary_from(kind: type[Kind], found: Saved, name: str, shape: tuple[int, ...]) -> Kind:
    """A dataclass that has entries, from its dict."""
    entries = entries_from(found["entries"], name, shape)
    wrong = entries.part(np.array(found["wrong_entries"], np.int64))
    summary: Kind = made(kind, {**found, "entries": entries, "wrong_entries": wrong})
    return summary


def made(kind: Any, value: Any) -> Any:
    """A value of a type, from what `plain` made of it."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else made(inner[0], value)
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1:] == (Ellipsis,) else inner
        return tuple(made(each, part) for each, part in zip(kinds, value, strict=True))
    if is_dataclass(kind) and isinstance(value, Mapping):
        hints = typing.get_type_hints(kind)
        known = [field.name for field in fields(kind) if field.name in value]
        return kind(**{name: made(hints[name], value[name]) for name in known})  # type: ignore[operator]
    return float(value) if kind is float else value
