"""What the summaries of all tensors are made of, when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array, Flags, Floats, Positions, distinct, medians, of_runs
from fastgc._parameters.layout import ParameterLayout
from fastgc._reports.entries import Entries
from fastgc._reports.gradient import Sensitivity
from fastgc._verdicts.errors import relative_errors
from fastgc._verdicts.probes import Probe

_RIGHT = 0.05  # the probability that the share of wrong entries is larger than told


@dataclass(frozen=True)
class SummaryTable:
    """The measured entries of all points, tensor by tensor, and inside each tensor point by point.

    It holds nothing of the loss, so that reports keep no parameters.

    Attributes
    ----------
    several : whether there are several points
    ends : where the rows of each tensor begin, and the last end, shape (tensors + 1,)
    positions : of the entries, in the flat vector
    columns : those of `Entries`
    failed, open : which entries failed; which are undecided or have a reason
    over : the `excess` of each entry
    smallest : the error of each entry that would have failed
    drawn : of each tensor, the measured entries that were drawn at random; None where all were measured
    probes : makes the probe of each tensor that has one
    """

    layout: ParameterLayout
    several: bool
    ends: Positions
    positions: Positions
    columns: Mapping[str, Array]
    failed: Flags
    open: Flags
    over: Floats
    smallest: Floats
    drawn: Sequence[int | None]
    probes: Mapping[int, Callable[[], Probe]]

    @np.errstate(all="ignore")  # an error may be too large for a number
    def summary(self, tensor: int) -> dict[str, object]:
        """The attributes of a `TensorSummary` that take time, for a tensor."""
        entries, wrong, worst = self.entries(tensor), self._wrong(tensor), self._worst[tensor]
        first, probe = int(self.ends[tensor]), self.probes.get(tensor)
        drawn = self.drawn[tensor]
        return {
            "checked": int(distinct(entries.local).size) if self.several else len(entries),
            **{name: float(numbers[tensor]) for name, numbers in self._errors.items()},
            "worst": entries[worst - first] if worst >= 0 else None,
            "entries": entries,
            "wrong_entries": entries.part(wrong - first) if wrong.size else entries[:0],
            "sensitivity": Sensitivity(*self._sensitivities[:, tensor].tolist()) if len(entries) else None,
            "unseen_share": 0.0 if drawn is None else _unseen_share(drawn),
            "probe": None if probe is None else probe(),
        }

    @cached_property
    def owners(self) -> Positions:
        """The tensor of each row."""
        return np.arange(self.ends.size - 1).repeat(self.ends[1:] - self.ends[:-1])

    def number(self, flags: Flags) -> Positions:
        """How many rows of each tensor have the flag."""
        return np.bincount(self.owners, flags, self.ends.size - 1).astype(np.int64)

    def entries(self, tensor: int) -> Entries:
        """All rows of a tensor."""
        mine, layout = slice(int(self.ends[tensor]), int(self.ends[tensor + 1])), self.layout
        columns = {key: column[mine] for key, column in self.columns.items()}
        return Entries(
            layout.names[tensor], layout.shapes[tensor], self.positions[mine] - layout.starts[tensor], columns
        )

    @cached_property
    def _errors(self) -> dict[str, Floats]:
        """The largest and the norm-wise errors of the rows of each tensor, 0 where it has none."""
        analytic, numerical = self.columns["analytic"], self.columns["numerical"]
        return {
            "max_relative_error": of_runs(np.maximum, self.columns["relative_error"], self.ends),
            "max_absolute_error": of_runs(np.maximum, np.abs(analytic - numerical), self.ends),
            "relative_error": relative_errors(analytic, numerical, self.ends),
        }

    @cached_property
    def _wrong_rows(self) -> tuple[Positions, Positions]:
        """The rows of wrong entries, tensor by tensor, the worst first; and where those of each tensor begin."""
        rows = np.flatnonzero(self.failed)
        begins = np.append(0, np.cumsum(self.number(self.failed)))
        return rows[np.lexsort((-self.over[rows], self.owners[rows]))], begins

    def _wrong(self, tensor: int) -> Positions:
        rows, begins = self._wrong_rows
        return rows[begins[tensor] : begins[tensor + 1]]

    @cached_property
    def _sensitivities(self) -> Floats:
        """The largest and the median error that would have failed, shape (2, tensors)."""
        return np.stack([of_runs(np.maximum, self.smallest, self.ends), medians(self.smallest, self.ends)])

    @cached_property
    def _worst(self) -> list[int]:
        """Of each tensor the row that differs most, a wrong one if there are any; -1 where it has no rows."""
        over = np.where(self.failed | ~(self.number(self.failed) > 0)[self.owners], self.over, -1.0)
        most = np.flatnonzero(over == of_runs(np.maximum, over, self.ends)[self.owners])
        tensors, first = np.unique(self.owners[most], return_index=True)
        found = np.full(self.ends.size - 1, -1)
        found[tensors] = most[first]
        return found.tolist()


def _unseen_share(drawn: int) -> float:
    """Share of wrong entries that m random ones, all right, would miss in one case of twenty: 1 - 0.05**(1/m)."""
    return 1 - _RIGHT ** (1 / drawn) if drawn else 1.0
