"""What the summaries of all tensors are made of, when somebody asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastgc._derivatives.estimates import Estimates
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array, Flags, Floats, Positions, distinct, ends_of, medians, of_runs
from fastgc._parameters.layout import ParameterLayout
from fastgc._reports.entries import Entries, entry_columns
from fastgc._reports.gradient import Sensitivity
from fastgc._verdicts.errors import relative_errors
from fastgc._verdicts.judgement import Judgement, excess, smallest_failure
from fastgc._verdicts.probes import ProbeTable

_RIGHT = 0.05  # the probability that the share of wrong entries is larger than told


@dataclass(frozen=True)
class SummaryTable:
    """The measured entries of all points, tensor by tensor, and inside each tensor point by point.

    It holds nothing of the loss, so that reports keep no parameters.

    Attributes
    ----------
    several : whether there are several points
    ends : where the rows of each tensor begin, and the last end, shape (tensors + 1,)
    points, estimates, judgement : of the entries
    drawn : of each tensor, the measured entries that were drawn at random; None where all were measured
    probes : by tensor, what makes its probe, if it has one
    """

    layout: ParameterLayout
    several: bool
    ends: Positions
    points: Positions
    estimates: Estimates
    judgement: Judgement
    drawn: Sequence[int | None]
    probes: Mapping[int, ProbeTable]

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
            "probe": None if probe is None else probe.probe(tensor),
        }

    @cached_property
    def columns(self) -> dict[str, Array]:
        """Those of `Entries`."""
        return entry_columns(self.points, self.judgement, self.estimates)

    @property
    def remarkable(self) -> Flags:
        """The entries of which there is something to say: which failed, are undecided, or are noted."""
        judged = self.judgement
        return np.asarray(judged.failed | judged.undecided | (judged.reason != ""))

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
            layout.names[tensor], layout.shapes[tensor], self.estimates.positions[mine] - layout.starts[tensor], columns
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
        rows = np.flatnonzero(self.judgement.failed)
        begins = ends_of(self.number(self.judgement.failed))
        return rows[np.lexsort((-self._over[rows], self.owners[rows]))], begins

    def _wrong(self, tensor: int) -> Positions:
        rows, begins = self._wrong_rows
        return rows[begins[tensor] : begins[tensor + 1]]

    @cached_property
    def _sensitivities(self) -> Floats:
        """The largest and the median error that would have failed, shape (2, tensors)."""
        smallest = smallest_failure(self.judgement, self.estimates.uncertainty)
        return np.stack([of_runs(np.maximum, smallest, self.ends), medians(smallest, self.ends)])

    @cached_property
    def _over(self) -> Floats:
        """The `excess` of each entry."""
        return excess(self.judgement, self.estimates)

    @cached_property
    def _worst(self) -> list[int]:
        """Of each tensor the row that differs most, a wrong one if there are any; -1 where it has no rows."""
        failed = self.judgement.failed
        over = np.where(failed | ~(self.number(failed) > 0)[self.owners], self._over, -1.0)
        most = np.flatnonzero(over == of_runs(np.maximum, over, self.ends)[self.owners])
        tensors, first = np.unique(self.owners[most], return_index=True)
        found = np.full(self.ends.size - 1, -1)
        found[tensors] = most[first]
        return found.tolist()


def _unseen_share(drawn: int) -> float:
    """Share of wrong entries that m random ones, all right, would miss in one case of twenty: 1 - 0.05**(1/m)."""
    return 1 - _RIGHT ** (1 / drawn) if drawn else 1.0
