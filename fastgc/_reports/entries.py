"""Checked entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from fastgc._arguments import brief, plural
from fastgc._derivatives.estimates import Estimates
from fastgc._parameters.arrays import Array, Positions
from fastgc._public import public
from fastgc._verdicts.errors import elementwise_error
from fastgc._verdicts.judgement import Judgement
from fastgc._words import Verdict


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
        The displacement of the parameter from which ``numerical`` was computed; 0 for an exact slope.
    relative_error : float
        ``|a - n| / max(|a| + |n|, 1e-8)``, for analytic a and numerical n.
    verdict : "pass" | "fail" | "undecided"
    reason : str
        Why the entry does not simply pass, or "".

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> report = fastgc.check_gradients(lambda x: x @ x, lambda x: [2.0, 5.0] * x, np.ones(2))
    >>> right, wrong = report.tensors["params"].entries
    >>> right.index, right.verdict, wrong.index, wrong.verdict
    ((0,), 'pass', (1,), 'fail')
    >>> wrong.analytic, round(wrong.numerical, 6), wrong.uncertainty < 1e-6
    (5.0, 2.0, True)
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

    def __str__(self) -> str:
        """The entry in one line."""
        index = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        point = f" at point {self.point}" if self.point else ""
        how = f"step {self.step:.1e}" if self.step else "exact"
        return (
            f"{self.tensor}{index}{point}  analytic {self.analytic:.6g}  numerical {self.numerical:.6g} "
            f"+- {self.uncertainty:.0e}  ({how})" + (f"  {self.reason}" if self.reason else "")
        )

    def __repr__(self) -> str:
        return brief(f"<Entry {self.verdict}: {self}") + ">"


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
    columns: dict[str, Array]

    def __init__(self, name: str, shape: tuple[int, ...], local: Positions, columns: Mapping[str, Array]) -> None:
        self.name, self.shape, self.local, self.columns = name, shape, local, dict(columns)

    def __len__(self) -> int:
        return int(self.local.size)

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> Entries: ...
    def __getitem__(self, item: int | slice) -> Entry | Entries:
        if isinstance(item, slice):
            return self.part(item)
        index = np.unravel_index(self.local[item], self.shape) if self.shape else ()
        values = {key: column[item] for key, column in self.columns.items()}
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}
        return Entry(tensor=self.name, index=tuple(int(i) for i in index), **plain)

    def part(self, keep: Array | slice) -> Entries:
        """Some of the entries."""
        return Entries(
            self.name, self.shape, self.local[keep], {key: column[keep] for key, column in self.columns.items()}
        )

    def __repr__(self) -> str:
        return brief(f"<{len(self)} {plural(len(self), 'entry', 'entries')} of {self.name!r}") + ">"


def entry_columns(points: Positions, judged: Judgement, estimated: Estimates) -> dict[str, Array]:
    """The columns of `Entries`."""
    return {
        "point": points,
        "analytic": judged.analytic,
        "numerical": judged.numerical,
        "uncertainty": estimated.uncertainty,
        "step": estimated.step,
        "relative_error": elementwise_error(judged.analytic, judged.numerical),
        "verdict": judged.verdict,
        "reason": judged.reason,
    }
