"""Checked entries, and the methods that the reports of gradients and Jacobians share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import brief, plural
from fastgc._parameters.arrays import Positions
from fastgc._public import public
from fastgc._verdicts.judgement import PASS
from fastgc._words import Verdict

_SCHEMA = 1  # version of the JSON's keys and their meanings


@public
@dataclass(frozen=True, repr=False)
class Entry:
    """One entry that was checked by itself.

    Attributes
    ----------
    tensor, index : str, tuple of int
        The name of the tensor and the index of the entry in it.
    point : int
        0 for the given parameters; 1, 2, ... for random points around them.
    analytic, numerical : float
        The two derivatives, in units of the loss per unit of the parameter.
    uncertainty : float
        Bound on the error of ``numerical``: truncation and noise together.
    step : float
        The displacement of the parameter from which ``numerical`` was computed.
    relative_error : float
        ``|a - n| / max(|a| + |n|, 1e-8)``, for analytic a and numerical n.
    verdict : "pass" | "fail" | "undecided"
    reason : str
        Why the entry does not simply pass, or "".
    """

    tensor: str
    index: tuple[int, ...]
    point: int
    analytic: float
    numerical: float
    uncertainty: float
    step: float
    relative_error: float
    verdict: Verdict
    reason: str

    def __repr__(self) -> str:
        return brief(f"<Entry {self.verdict}: {entry_text(self)}") + ">"


class Entries(Sequence[Entry]):
    """Checked entries of one tensor, kept as arrays. Indexing makes an `Entry`, slicing makes `Entries`.

    Parameters
    ----------
    name, shape : of the tensor
    local : array of int64, shape (entries,)
        Positions in the tensor, in C order.
    columns : mapping of arrays, each of shape (entries,)
        The other attributes of `Entry`, by name.
    """

    name: str
    shape: tuple[int, ...]
    local: Positions
    columns: dict[str, NDArray[Any]]

    def __init__(
        self, name: str, shape: tuple[int, ...], local: Positions, columns: Mapping[str, NDArray[Any]]
    ) -> None:
        self.name, self.shape, self.local, self.columns = name, shape, local, dict(columns)

    def __len__(self) -> int:
        return int(self.local.size)

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> Entries: ...
    def __getitem__(self, item: int | slice) -> Entry | Entries:
        if isinstance(item, slice):
            return self.part(np.arange(len(self))[item])
        index = np.unravel_index(self.local[item], self.shape) if self.shape else ()
        values = {key: column[item] for key, column in self.columns.items()}
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}
        return Entry(tensor=self.name, index=tuple(int(i) for i in index), **plain)

    def part(self, keep: NDArray[Any]) -> Entries:
        """Some of the entries."""
        return Entries(
            self.name, self.shape, self.local[keep], {key: column[keep] for key, column in self.columns.items()}
        )

    def __repr__(self) -> str:
        return brief(f"<{len(self)} {plural(len(self), 'entry', 'entries')} of {self.name!r}") + ">"


class Report:
    """The methods of all reports, which are dataclasses."""

    verdict: Verdict

    @property
    def passed(self) -> bool:
        """Whether the verdict is "pass"."""
        return self.verdict == PASS

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as dicts, lists, strings and finite numbers; "nan", "inf" and "-inf" stand for the others."""
        return {"schema": _SCHEMA, "passed": self.passed, **_plain(self)}

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON text, which is also written to ``path`` if that is given."""
        import json  # takes two milliseconds, which most checks can save

        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text


def _plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and numbers in the form that JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def entry_text(entry: Entry) -> str:
    """An entry in one line."""
    index = f"[{', '.join(map(str, entry.index))}]" if entry.index else ""
    point = f" at point {entry.point}" if entry.point else ""
    return (
        f"{entry.tensor}{index}{point}  analytic {entry.analytic:.6g}  numerical {entry.numerical:.6g} "
        f"+- {entry.uncertainty:.0e}  (step {entry.step:.1e})" + (f"  {entry.reason}" if entry.reason else "")
    )
