"""Checked entries as a data frame."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgc._missing import missing
from fastgc._reports.entries import Entries


def frame(tensors: Sequence[Entries]) -> Any:
    """A row for each entry, in pandas or else in polars."""
    columns: dict[str, object] = {
        "tensor": [name for entries in tensors for name in [entries.name] * len(entries)],
        "index": [index for entries in tensors for index in _indices(entries)],
    }
    for key in tensors[0].columns if tensors else ():
        columns[key] = np.concatenate([entries.columns[key] for entries in tensors]).tolist()
    return _library().DataFrame(columns)


def _indices(entries: Entries) -> list[tuple[int, ...]]:
    if not entries.shape:
        return [()] * len(entries)
    return list(zip(*(axis.tolist() for axis in np.unravel_index(entries.local, entries.shape)), strict=True))


def _library() -> Any:
    with contextlib.suppress(ImportError):
        import pandas

        return pandas
    with contextlib.suppress(ImportError):
        import polars

        return polars
    raise missing("to_dataframe()", "frame")
