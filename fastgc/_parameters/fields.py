"""Classes whose instances hold parameters: dataclasses, attrs classes, Numba's lists."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


def field_names(value: object) -> list[str] | None:
    """The names of the fields of an instance of a dataclass or an attrs class; None for anything else."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return [each.name for each in dataclasses.fields(value)]
    attributes = getattr(type(value), "__attrs_attrs__", None)
    return None if attributes is None else [each.name for each in attributes]


def tensor_fields(value: object) -> list[str] | None:
    """Its fields that hold parameters: floating-point arrays and numbers, or containers of these. The others stay."""
    names = field_names(value)
    return None if names is None else [name for name in names if _holds_parameters(getattr(value, name, None))]


def _holds_parameters(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_parameters, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_parameters, value))
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind in "fc"
    if field_names(value) is not None:
        return bool(tensor_fields(value))
    return isinstance(value, (float, complex)) or hasattr(value, "__dlpack__")  # an array of a framework is refused


def with_fields(value: object, fields: Mapping[str, object]) -> object:
    """A copy of an instance with other values of some fields, frozen ones too."""
    found = copy.copy(value)
    for name, each in fields.items():
        object.__setattr__(found, name, each)
    return found


def as_list(value: Any) -> object:
    """A list of Numba's (``numba.typed.List``) as a plain one; anything else as it is."""
    kind = type(value)
    return [*value] if kind.__module__.startswith("numba.typed") and kind.__name__ == "List" else value
