"""Batches of nested values: one member of a batch, several values as one batch, arrays that nobody may write to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value with every array in its lists, tuples and dicts changed; everything else is the same."""
    if isinstance(value, np.ndarray):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(each, change) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(mapped(each, change) for each in value)
    if type(value) in (list, tuple):
        return type(value)(mapped(each, change) for each in value)
    return value


def read_only(value: Any) -> Any:
    """The value with views of its arrays that cannot be written to."""
    return mapped(value, _read_only)


def _read_only(array: Any) -> Any:
    view = array.view()
    view.flags.writeable = False
    return view


def member(batch: Any, row: int) -> Any:
    """One member of a batch."""
    return mapped(batch, lambda array: array[row])


def stacked(values: Sequence[Any]) -> Any:
    """Values of one structure as one batch; a TypeError for what is no array, number, list, tuple or dict."""
    first = values[0]
    if isinstance(first, dict):
        return {key: stacked([each[key] for each in values]) for key in first}
    if isinstance(first, (list, tuple)):
        children = [stacked(each) for each in zip(*values, strict=True)]
        return first._make(children) if hasattr(first, "_make") else type(first)(children)
    if isinstance(first, (np.ndarray, np.generic, int, float, complex)):
        return np.stack(values)
    raise TypeError(f"a {type(first).__name__} cannot be a member of a batch")
