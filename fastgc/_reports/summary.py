"""From judged entries and probes to the summaries of tensors and the report."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed
from fastgc._deferred import deferred
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.ladder import Ladder
from fastgc._diagnosis.diagnosis import Diagnosis, agreed, compared
from fastgc._evaluation.evaluator import Raised
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Floats, Positions
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.sampling import NotFinite, SamplePlan, Selection
from fastgc._reports.contents import EntryLadder
from fastgc._reports.entries import Entry
from fastgc._reports.gradient import GradientReport, TensorSummary
from fastgc._reports.summary_table import SummaryTable
from fastgc._verdicts.crosscheck import CrossCheck
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.judgement import Judgement, excess
from fastgc._verdicts.probes import ProbeResult, ProbeTable, probe_tables
from fastgc._verdicts.tensors import CheckedTensor, tensor_verdict
from fastgc._words import PASS, Verdict, worst_verdict

_PLAIN: tuple[Verdict, str] = (PASS, "")  # of a tensor of which there is nothing to say


@dataclass(frozen=True)
class PointResult:
    """The results at one point.

    Attributes
    ----------
    estimates, judgement : of the sampled entries
    coverages : by tensor, how random directions covered it
    looked_at : further entries that a search measured
    spoiled : by tensor, entries of its analytic gradient that are not finite
    unreached : by tensor, what was not measured for lack of time
    diagnoses : by tensor with wrong entries, the bug that they are consistent with
    """

    point: int
    gradient: GradientAtPoint
    plan: SamplePlan
    estimates: Estimates
    judgement: Judgement
    coverages: Mapping[int, ProbeResult]
    looked_at: Estimates
    spoiled: Mapping[int, NotFinite]
    unreached: Mapping[int, str]
    diagnoses: Mapping[int, Diagnosis | None]
    evaluations: int
    engine: str
    crosscheck: CrossCheck | None
    notes: tuple[str, ...]
    raised: Raised  # by the loss, at displaced points

    @cached_property
    def measured(self) -> tuple[Estimates, Judgement]:
        """All entries that were measured, each once."""
        return self.gradient.joined(self.estimates, self.judgement, self.looked_at)

    def released(self) -> PointResult:
        """The same without the arrays of the point, which the next point needs as much memory for."""
        result = replace(self, gradient=self.gradient.released())
        result.__dict__["measured"] = self.measured  # as `cached_property` keeps it
        return result


@dataclass(frozen=True)
class Tries:
    """Tries at which loss or gradient had no value before a random point was found, and the last reason."""

    count: int = 0
    reason: str = ""
    found: bool = True


def summarise(
    selection: Selection,
    results: Sequence[PointResult],
    seed: int,
    seconds: float,
    tries: Sequence[Tries] = (),
) -> GradientReport:
    """The report over all points, with a summary of each tensor's checked entries."""
    layout, chosen = selection.layout, selection.tensors
    lost = [tried.reason for tried in tries if not tried.found]
    tensors = {each.name: each for each in _summaries(layout, chosen, results, lost)}
    left_out = [name for name in layout.names if name not in tensors]
    notes = [note for found in results for note in found.notes]
    notes += _spoiled_notes(layout, results)
    notes += functools.reduce(Raised.joined, [found.raised for found in results]).notes()
    notes += nearer_notes(tries, "loss or gradient")
    notes += compared({n: t.verdict for n, t in tensors.items()}, {n: t.diagnosis for n, t in tensors.items()})
    notes += [f"not checked, since not among the tensors asked for: {listed(left_out)}"] if left_out else []
    return GradientReport(
        verdict=worst_verdict([tensor.verdict for tensor in tensors.values()]),
        tensors=tensors,
        evaluations=sum([found.evaluations for found in results]),
        seconds=seconds,
        seed=seed,
        points=len(results),
        engine=results[0].engine,
        crosscheck=results[0].crosscheck,
        notes=tuple(dict.fromkeys(notes)),
    )


def _spoiled_notes(layout: ParameterLayout, results: Sequence[PointResult]) -> Iterator[str]:
    """Which entries of the analytic gradient are not finite."""
    for found in results:
        where = f" at point {found.point}" if found.point else ""
        for t, spoiled in found.spoiled.items():
            yield f"gradients[{layout.names[t]!r}] is not finite{where}: {spoiled.text(layout.shapes[t])}"


def nearer_notes(tries: Sequence[Tries], what: str) -> Iterator[str]:
    """Notes on random points that were left out, since ``what`` is not defined there."""
    count, lost = sum(tried.count for tried in tries if tried.found), [tried for tried in tries if not tried.found]
    if count:
        reason = next(tried.reason for tried in tries if tried.found and tried.count)
        points = "random point was" if count == 1 else "random points were"
        yield f"{count} {points} left out, for nearer ones, since {what} is not defined there ({reason})"
    if lost:
        points = "a random point was" if len(lost) == 1 else f"{len(lost)} random points were"
        yield f"{points} not found: {what} is not defined at the nearest one either ({lost[-1].reason})"


@dataclass(frozen=True)
class _Measured:
    """The results at one point, with all its measured entries, the tensor of each, and what makes the probes."""

    found: PointResult
    estimates: Estimates
    judgement: Judgement
    owners: Positions
    probes: Sequence[ProbeTable]

    @classmethod
    def of(cls, layout: ParameterLayout, found: PointResult) -> _Measured:
        estimates, judgement = found.measured
        owners, probes = layout.tensor_of(estimates.positions), probe_tables(found.gradient, found.coverages)
        return cls(found, estimates, judgement, owners, probes)

    @cached_property
    def parts(self) -> Mapping[int, slice | Positions]:
        """Where the entries of each tensor are."""
        return dict(self.found.gradient.loss.layout.parts(self.estimates.positions))

    @cached_property
    def kept(self) -> Mapping[int, Mapping[int, Ladder]]:
        """By tensor, the ladders that were kept, by the number of their entry."""
        found: dict[int, dict[int, Ladder]] = {}
        for number, ladder in self.found.gradient.loss.kept.among(self.estimates.positions).items():
            found.setdefault(int(self.owners[number]), {})[number] = ladder
        return found

    @property
    def tensors(self) -> list[int]:
        """The tensors of which entries were measured."""
        return np.bincount(self.owners).nonzero()[0].tolist()

    def checked(self, tensor: int) -> CheckedTensor:
        """The tensor at the point, with all its measured entries."""
        found, mine = self.found, self.parts.get(tensor, slice(0, 0))
        return CheckedTensor(
            found.gradient, tensor, found.point, self.estimates.part(mine), self.judgement.part(mine),
            found.coverages.get(tensor), found.spoiled.get(tensor), found.unreached.get(tensor, ""),
        )  # fmt: skip


def _summaries(
    layout: ParameterLayout, chosen: Sequence[int], results: Sequence[PointResult], lost: Sequence[str]
) -> Iterator[TensorSummary]:
    """The summaries of the tensors. Their verdicts are made here, and the rest when somebody asks for it."""
    measured = [_Measured.of(layout, found) for found in results]
    table = _table(layout, measured)
    rtol, kept = measured[0].found.gradient.tolerances.rtol, measured[0].kept
    remarkable = table.remarkable | (table.columns["relative_error"] > rtol[table.owners])
    plain = set() if lost else _plain(chosen, measured, table.number(remarkable).tolist())
    diagnosed = {t for found in results for t in found.diagnoses}
    for t in chosen:
        verdict, reason = _PLAIN if t in plain else _verdict(t, measured, lost)
        yield deferred(
            TensorSummary,
            partial(table.summary, t),
            name=layout.names[t],
            shape=layout.shapes[t],
            size=layout.sizes[t],
            verdict=verdict,
            reason=reason,
            diagnosis=_diagnosis(t, results) if t in diagnosed else None,
            ladder=_ladder(measured[0], t, table) if t in kept else None,
        )


def _diagnosis(tensor: int, results: Sequence[PointResult]) -> Diagnosis | None:
    return agreed([found.diagnoses[tensor] for found in results if tensor in found.diagnoses])


def _table(layout: ParameterLayout, measured: Sequence[_Measured]) -> SummaryTable:
    """The measured entries of all points."""
    estimates = Estimates.joined([each.estimates for each in measured])
    judgement = Judgement.joined([each.judgement for each in measured])
    points = np.array([each.found.point for each in measured]).repeat([each.owners.size for each in measured])
    owners = np.concatenate([each.owners for each in measured])
    if (owners[1:] < owners[:-1]).any():  # as a rule they are in order, and need no copies
        order = np.argsort(owners, kind="stable")
        estimates, judgement = estimates.part(order), judgement.part(order)
        points, owners = points[order], owners[order]
    return SummaryTable(
        layout=layout,
        several=len(measured) > 1,
        ends=owners.searchsorted(np.arange(len(layout.names) + 1)),
        points=points,
        estimates=estimates,
        judgement=judgement,
        drawn=_drawn(layout, measured[0]),
        probes=_probes(measured),
    )


def _plain(chosen: Sequence[int], measured: Sequence[_Measured], remarkable: Sequence[int]) -> set[int]:
    """The tensors that `tensor_verdict` passes without a reason: measured at every point, and nothing to say of it."""
    plain = {t for t in chosen if not remarkable[t]}
    for each in measured:
        found = each.found
        plain -= {*found.spoiled, *found.unreached, *(t for probe in each.probes for t in probe.remarkable)}
        plain &= {*each.tensors, *found.coverages}
    return plain


def _verdict(tensor: int, measured: Sequence[_Measured], lost: Sequence[str]) -> tuple[Verdict, str]:
    checked = [each.checked(tensor) for each in measured]
    return tensor_verdict(checked, Judgement.joined([each.judgement for each in checked]), lost)


def _ladder(first: _Measured, tensor: int, table: SummaryTable) -> EntryLadder:
    """The quotients by step of the worst entry at the first point, of those whose ladders were kept."""
    kept = first.kept[tensor]
    numbers = np.array(list(kept))
    judged = first.judgement.part(numbers)
    over = excess(judged, first.estimates.part(numbers))
    number = int(numbers[np.lexsort((over, judged.undecided, judged.failed))[-1]])
    place = int(np.count_nonzero(first.owners[:number] == tensor))  # among the entries of the tensor
    return entry_ladder(kept[number], table.entries(tensor)[place])


def entry_ladder(ladder: Ladder, entry: Entry) -> EntryLadder:
    """The quotients of an entry for a report."""
    columns = ladder.above, ladder.forward, ladder.backward, ladder.central, ladder.scatter
    return EntryLadder(
        entry.index, entry.point, entry.analytic, entry.numerical, *(tuple(each.tolist()) for each in columns)
    )


def worst_first(judged: Judgement, over: Floats) -> tuple[int | None, NDArray[np.int64]]:
    """The entry that differs most (a wrong one if there are any), and all wrong ones, the worst first; see `excess`."""
    wrong = np.flatnonzero(judged.failed)
    wrong = wrong[np.argsort(-over[wrong], kind="stable")]
    if wrong.size:
        return int(wrong[0]), wrong
    return (int(np.argmax(over)) if over.size else None), wrong


# --- what would have been seen ---


def _drawn(layout: ParameterLayout, first: _Measured) -> list[int | None]:
    """How many entries of each tensor were drawn at random and measured; None where all entries were measured."""
    plan, positions = first.found.plan, first.found.estimates.positions
    reached = np.bincount(layout.tensor_of(positions), minlength=len(layout.names)).tolist()
    return [
        None if local is None or done == size else drawn * done // max(1, local.size)
        for local, drawn, done, size in zip(plan.local, plan.drawn, reached, layout.sizes, strict=True)
    ]  # those reached are a fair sample of those drawn


def _probes(measured: Sequence[_Measured]) -> dict[int, ProbeTable]:
    """The probes of each tensor at the point where they differ most, in units of their uncertainty."""
    probes: dict[int, ProbeTable] = {}
    for table in (table for each in measured for table in each.probes):
        excess = table.probing.excess
        probes |= {t: table for t in table.places if t not in probes or excess > probes[t].probing.excess}
    return probes
