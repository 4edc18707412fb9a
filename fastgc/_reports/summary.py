"""From judged entries and probes to the summaries of tensors and the report."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.ladder import Ladder
from fastgc._diagnosis.diagnosis import Diagnosis, agreed, compared
from fastgc._evaluation.evaluator import Raised
from fastgc._parameters.arrays import Array, Floats, Positions, median
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.sampling import NotFinite, SamplePlan, Selection
from fastgc._reports.contents import EntryLadder
from fastgc._reports.entries import Entries, Entry
from fastgc._reports.gradient import GradientReport, Sensitivity, TensorSummary
from fastgc._verdicts.crosscheck import CrossCheck
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.errors import elementwise_error, relative_error
from fastgc._verdicts.judgement import Judgement, smallest_failure, worst_verdict
from fastgc._verdicts.probes import Probe, ProbeResult, probe_report
from fastgc._verdicts.tensors import CheckedTensor, tensor_verdict


@dataclass(frozen=True)
class PointResult:
    """The results at one point.

    Attributes
    ----------
    estimates, judgement : of the sampled entries
    scales : of the tensors (see `fastgc._verdicts.judgement.gradient_scales`)
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
    scales: Floats
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


@dataclass(frozen=True)
class Tries:
    """Tries at which loss or gradient had no value before a random point was found, and the last reason."""

    count: int = 0
    reason: str = ""
    found: bool = True


@np.errstate(all="ignore")  # an error may be too large for a number
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
    measured = [_Measured.of(layout, found) for found in results]
    tensors = {layout.names[t]: _tensor_summary(layout, t, measured, lost) for t in chosen}
    left_out = [name for name in layout.names if name not in tensors]
    notes = [note for found in results for note in found.notes]
    notes += _spoiled_notes(layout, results)
    notes += functools.reduce(Raised.joined, [found.raised for found in results], Raised()).notes()
    notes += nearer_notes(tries, "loss or gradient")
    notes += compared({n: t.verdict for n, t in tensors.items()}, {n: t.diagnosis for n, t in tensors.items()})
    notes += [f"not checked, since not among the tensors asked for: {listed(left_out)}"] if left_out else []
    return GradientReport(
        verdict=worst_verdict(tensor.verdict for tensor in tensors.values()),
        tensors=tensors,
        evaluations=sum(found.evaluations for found in results),
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
    """The results at one point, with the columns of all its measured entries, and where those of each tensor are."""

    found: PointResult
    estimates: Estimates
    judgement: Judgement
    columns: Mapping[str, Array]
    smallest: Floats  # error of each entry that would have failed
    excess: Floats
    parts: Mapping[int, slice | Positions]
    sampled: Positions  # shape (tensors,): how many entries were not found by a search

    @classmethod
    def of(cls, layout: ParameterLayout, found: PointResult) -> _Measured:
        samples = found.estimates, found.judgement
        estimates, judgement = found.gradient.joined(*samples, found.looked_at, found.scales)
        points = np.full(estimates.positions.size, found.point)
        return cls(
            found, estimates, judgement,
            columns=entry_columns(points, judgement, estimates),
            smallest=smallest_failure(judgement, estimates.uncertainty),
            excess=excess(judgement, estimates),
            parts=dict(layout.parts(estimates.positions)),
            sampled=np.bincount(layout.tensor_of(found.estimates.positions), minlength=len(layout.names)),
        )  # fmt: skip

    def part(self, tensor: int) -> slice | Positions:
        """Where the entries of a tensor are."""
        return self.parts.get(tensor, slice(0, 0))

    def checked(self, tensor: int) -> CheckedTensor:
        """The tensor at the point, with all its measured entries."""
        found, mine = self.found, self.part(tensor)
        return CheckedTensor(
            found.gradient, tensor, found.point, self.estimates.part(mine), self.judgement.part(mine),
            found.coverages.get(tensor), found.spoiled.get(tensor), found.unreached.get(tensor, ""),
        )  # fmt: skip


def _tensor_summary(
    layout: ParameterLayout, tensor: int, measured: Sequence[_Measured], lost: Sequence[str]
) -> TensorSummary:
    results = [each.found for each in measured]
    checked = [each.checked(tensor) for each in measured]
    judged = Judgement.joined([each.judgement for each in checked])
    entries = _entries(layout, tensor, measured)
    over, smallest = (
        _together([getattr(each, name)[each.part(tensor)] for each in measured]) for name in ("excess", "smallest")
    )
    worst, wrong = worst_first(judged, over)
    verdict, reason = tensor_verdict(checked, judged, lost)
    return TensorSummary(
        name=layout.names[tensor],
        shape=layout.shapes[tensor],
        size=layout.sizes[tensor],
        checked=int(np.unique(entries.local).size) if len(results) > 1 else len(entries),
        verdict=verdict,
        reason=reason,
        max_relative_error=float(entries.columns["relative_error"].max(initial=0.0)),
        max_absolute_error=float(judged.distance.max(initial=0.0)),
        relative_error=relative_error(judged.analytic, judged.numerical),
        worst=None if worst is None else entries[worst],
        entries=entries,
        wrong_entries=entries.part(wrong) if wrong.size else entries[:0],
        sensitivity=Sensitivity(float(smallest.max()), median(smallest)) if smallest.size else None,
        unseen_share=_unseen_share(layout.sizes[tensor], tensor, measured[0]),
        probe=_probe(layout, tensor, results),
        diagnosis=agreed([found.diagnoses[tensor] for found in results if tensor in found.diagnoses]),
        ladder=_ladder(checked[0], entries),
    )


def _together(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _ladder(checked: CheckedTensor, entries: Entries) -> EntryLadder | None:
    """The quotients by step of the worst entry at the first point, of those whose ladders were kept."""
    kept = checked.gradient.loss.kept.among(checked.estimates.positions)
    if not kept:
        return None
    numbers = np.array(list(kept))
    judged = checked.judgement.part(numbers)
    over = excess(judged, checked.estimates.part(numbers))
    number = int(numbers[np.lexsort((over, judged.undecided, judged.failed))[-1]])
    return entry_ladder(kept[number], entries[number])


def entry_ladder(ladder: Ladder, entry: Entry) -> EntryLadder:
    """The quotients of an entry for a report."""
    columns = ladder.above, ladder.forward, ladder.backward, ladder.central, ladder.scatter
    return EntryLadder(
        entry.index, entry.point, entry.analytic, entry.numerical, *(tuple(each.tolist()) for each in columns)
    )


def _entries(layout: ParameterLayout, tensor: int, measured: Sequence[_Measured]) -> Entries:
    """The entries of a tensor at all points."""
    columns = {
        key: _together([each.columns[key][each.part(tensor)] for each in measured]) for key in measured[0].columns
    }
    positions = _together([each.estimates.positions[each.part(tensor)] for each in measured])
    return Entries(layout.names[tensor], layout.shapes[tensor], positions - layout.starts[tensor], columns)


def entry_columns(points: NDArray[np.int64], judged: Judgement, estimated: Estimates) -> dict[str, Array]:
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


def excess(judged: Judgement, estimated: Estimates) -> Floats:
    """The difference in units of tolerance and uncertainty; infinite where it could not be computed."""
    with np.errstate(all="ignore"):
        ratio = judged.allowed + estimated.uncertainty
        np.divide(judged.distance, ratio, out=ratio)
    ratio[np.isnan(ratio)] = np.inf
    return ratio


def worst_first(judged: Judgement, over: Floats) -> tuple[int | None, NDArray[np.int64]]:
    """The entry that differs most (a wrong one if there are any), and all wrong ones, the worst first; see `excess`."""
    wrong = np.flatnonzero(judged.failed)
    wrong = wrong[np.argsort(-over[wrong], kind="stable")]
    if wrong.size:
        return int(wrong[0]), wrong
    return (int(np.argmax(over)) if over.size else None), wrong


# --- what would have been seen ---


def _unseen_share(size: int, tensor: int, first: _Measured) -> float:
    """Share of wrong entries that m random ones, all right, would miss in one case of twenty: 1 - 0.05**(1/m)."""
    plan, reached = first.found.plan, int(first.sampled[tensor])
    local = plan.local[tensor]
    if local is None or reached == size:
        return 0.0
    drawn = plan.drawn[tensor] * reached // max(1, local.size)  # those reached are a fair sample of these
    return 1 - 0.05 ** (1 / drawn) if drawn else 1.0


def _probe(layout: ParameterLayout, tensor: int, results: Sequence[PointResult]) -> Probe | None:
    """The probes at the point where they differ most, in units of their uncertainty."""
    probed = [found for found in results if tensor in found.coverages]
    if not probed:
        return None
    worst = max(probed, key=lambda found: found.coverages[tensor].probing.excess)
    return probe_report(worst.gradient, tensor, worst.coverages[tensor], layout.names)
