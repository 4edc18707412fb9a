"""From judged entries and probes to the summaries of tensors and the report."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed
from fastgc._derivatives.estimates import Estimates
from fastgc._diagnosis.diagnosis import Diagnosis, agreed, compared
from fastgc._evaluation.evaluator import Raised
from fastgc._parameters.arrays import median
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.sampling import NotFinite, SamplePlan
from fastgc._reports.entries import Entries
from fastgc._reports.gradient import GradientReport, Sensitivity, TensorSummary
from fastgc._verdicts.crosscheck import CrossCheck
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.errors import elementwise_error, relative_error
from fastgc._verdicts.judgement import FAIL, UNDECIDED, Judgement, smallest_failure, worst_verdict
from fastgc._verdicts.probes import Probe, ProbeResult, probe_report, probe_verdict
from fastgc._words import Verdict

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PointResult:
    """What was found at one point.

    Attributes
    ----------
    estimates, judgement : of the sampled entries
    scales : of the tensors (see `fastgc._verdicts.judgement.gradient_scales`)
    coverages : by tensor, how random directions covered it
    looked_at : entries that a search looked at besides
    spoiled : by tensor, entries of its analytic gradient that are not finite
    unreached : by tensor, what of it the time did not suffice for
    diagnoses : by tensor with wrong entries, what they are consistent with
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
    """How a random point was found: tries farther away at which loss or gradient had no value, and the last reason."""

    count: int = 0
    reason: str = ""
    found: bool = True


@dataclass(frozen=True)
class _Checked:
    """The entries of one tensor checked at one point."""

    point: int
    estimates: Estimates
    judgement: Judgement


@np.errstate(all="ignore")  # an error may be too large for a number
def summarise(
    layout: ParameterLayout,
    counts: Sequence[int | None],
    findings: Sequence[PointResult],
    seed: int,
    seconds: float,
    tries: Sequence[Tries] = (),
) -> GradientReport:
    """The report over all points: of every tensor the summary of all its checked entries."""
    lost = [tried.reason for tried in tries if not tried.found]
    tensors = {
        name: _tensor_summary(layout, t, findings, lost) for t, name in enumerate(layout.names) if counts[t] is not None
    }
    left_out = [name for t, name in enumerate(layout.names) if counts[t] is None]
    notes = [note for found in findings for note in found.notes]
    notes += _spoiled_notes(layout, findings)
    notes += functools.reduce(Raised.joined, [found.raised for found in findings], Raised()).notes()
    notes += _nearer(tries)
    notes += compared({n: t.verdict for n, t in tensors.items()}, {n: t.diagnosis for n, t in tensors.items()})
    notes += [f"not checked, since not among the tensors asked for: {listed(left_out)}"] if left_out else []
    return GradientReport(
        verdict=worst_verdict(tensor.verdict for tensor in tensors.values()),
        tensors=tensors,
        evaluations=sum(found.evaluations for found in findings),
        seconds=seconds,
        seed=seed,
        points=len(findings),
        engine=findings[0].engine,
        crosscheck=findings[0].crosscheck,
        notes=tuple(dict.fromkeys(notes)),
    )


def _spoiled_notes(layout: ParameterLayout, findings: Sequence[PointResult]) -> Iterator[str]:
    """Which entries of the analytic gradient are not finite."""
    for found in findings:
        where = f" at point {found.point}" if found.point else ""
        for t, spoiled in found.spoiled.items():
            yield f"gradients[{layout.names[t]!r}] is not finite{where}: {spoiled.text(layout.shapes[t])}"


def _nearer(tries: Sequence[Tries]) -> Iterator[str]:
    """That random points were left out, since loss or gradient has no value there."""
    count, lost = sum(tried.count for tried in tries if tried.found), [tried for tried in tries if not tried.found]
    if count:
        reason = next(tried.reason for tried in tries if tried.found and tried.count)
        points = "random point was" if count == 1 else "random points were"
        yield f"{count} {points} left out, for nearer ones, since loss or gradient is not defined there ({reason})"
    if lost:
        points = "a random point was" if len(lost) == 1 else f"{len(lost)} random points were"
        yield f"{points} not found: loss or gradient is not defined at the nearest one either ({lost[-1].reason})"


def _tensor_summary(
    layout: ParameterLayout, tensor: int, findings: Sequence[PointResult], lost: Sequence[str]
) -> TensorSummary:
    checked = [_checked(layout, tensor, found) for found in findings]
    judged = Judgement.joined([each.judgement for each in checked])
    estimated = Estimates.joined([each.estimates for each in checked])
    entries = _entries(layout, tensor, checked, judged, estimated)
    worst, wrong = worst_first(judged, estimated)
    verdict, reason = _verdict(layout, tensor, findings, checked, judged, lost)
    return TensorSummary(
        name=layout.names[tensor],
        shape=layout.shapes[tensor],
        size=layout.sizes[tensor],
        checked=int(np.unique(entries.local).size) if len(findings) > 1 else len(entries),
        verdict=verdict,
        reason=reason,
        max_relative_error=float(entries.columns["relative_error"].max(initial=0.0)),
        max_absolute_error=float(judged.distance.max(initial=0.0)),
        relative_error=relative_error(judged.analytic, judged.numerical),
        worst=None if worst is None else entries[worst],
        entries=entries,
        wrong_entries=entries.part(wrong),
        sensitivity=_sensitivity(judged, estimated),
        unseen_share=_unseen_share(layout, tensor, findings),
        probe=_probe(layout, tensor, findings),
        diagnosis=agreed([found.diagnoses[tensor] for found in findings if tensor in found.diagnoses]),
    )


def _checked(layout: ParameterLayout, tensor: int, found: PointResult) -> _Checked:
    """Sampled entries, and those that a search looked at besides."""
    mine = dict(layout.parts(found.estimates.positions)).get(tensor, slice(0, 0))
    sampled, judged = found.estimates.part(mine), found.judgement.part(mine)
    extra = found.looked_at.part(layout.tensor_of(found.looked_at.positions) == tensor)
    return _Checked(found.point, *found.gradient.joined(sampled, judged, extra, found.scales))


def _entries(
    layout: ParameterLayout, tensor: int, checked: Sequence[_Checked], judged: Judgement, estimated: Estimates
) -> Entries:
    points = np.concatenate([np.full(each.estimates.positions.size, each.point) for each in checked])
    local = estimated.positions - layout.starts[tensor]
    return Entries(layout.names[tensor], layout.shapes[tensor], local, entry_columns(points, judged, estimated))


def entry_columns(points: NDArray[np.int64], judged: Judgement, estimated: Estimates) -> dict[str, NDArray[Any]]:
    """What `Entries` tells of each entry."""
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
    """The difference in units of what was allowed; infinite where it could not be computed."""
    with np.errstate(all="ignore"):
        ratio = judged.allowed + estimated.uncertainty
        np.divide(judged.distance, ratio, out=ratio)
    ratio[np.isnan(ratio)] = np.inf
    return ratio


def worst_first(judged: Judgement, estimated: Estimates) -> tuple[int | None, NDArray[np.int64]]:
    """The entry that differs most, a wrong one if there are any, and all wrong ones, the worst first."""
    over = excess(judged, estimated)
    wrong = np.flatnonzero(judged.failed)
    wrong = wrong[np.argsort(-over[wrong], kind="stable")]
    if wrong.size:
        return int(wrong[0]), wrong
    return (int(np.argmax(over)) if over.size else None), wrong


# --- the verdict on a tensor ---


def _verdict(
    layout: ParameterLayout,
    tensor: int,
    findings: Sequence[PointResult],
    checked: Sequence[_Checked],
    judged: Judgement,
    lost: Sequence[str],
) -> tuple[Verdict, str]:
    """Fail if an entry does or the norm-wise error is above rtol; else undecided if something is; else pass.

    Nothing passes unmeasured. A tensor with entries passes only if its analytic gradient is finite everywhere, and if
    at every point that was asked for an entry was measured by itself, or all of them by directions that resolved
    something. (A tensor without entries has nothing that could be wrong.)

    Entries that are each within tolerance are so together: of the norm-wise error only the probes can say more.
    """
    probed = [
        probe_verdict(found.gradient, tensor, found.coverages[tensor], sampled=bool(each.estimates.positions.size))
        for found, each in zip(findings, checked, strict=True)
        if tensor in found.coverages
    ]
    failed = int(np.count_nonzero(judged.failed))
    spoiled = [found.spoiled[tensor] for found in findings if tensor in found.spoiled]
    if failed or spoiled:
        hints = [f"not finite in {each.text(layout.shapes[tensor])}" for each in spoiled]
        hints += [reason for verdict, reason in probed if reason and verdict != UNDECIDED]
        return FAIL, "; ".join(
            [f"{share(failed, judged)} {'differs' if failed == 1 else 'differ'}", *dict.fromkeys(hints)]
        )
    probed += [(UNDECIDED, gap) for gap in _gaps(layout, tensor, findings, checked, lost)]
    entries = [UNDECIDED] if judged.undecided.any() else []
    verdict = worst_verdict([*entries, *(verdict for verdict, _ in probed)])
    reasons = [open_reason(judged), *(reason for other, reason in probed if other == verdict or verdict == UNDECIDED)]
    return verdict, "; ".join(dict.fromkeys(filter(None, reasons)))


def _gaps(
    layout: ParameterLayout,
    tensor: int,
    findings: Sequence[PointResult],
    checked: Sequence[_Checked],
    lost: Sequence[str],
) -> Iterator[str]:
    """What was asked for and not measured in a tensor, point by point."""
    if not layout.sizes[tensor]:
        return
    for found, each in zip(findings, checked, strict=True):
        if tensor in found.unreached:
            yield found.unreached[tensor]
        elif not (each.estimates.positions.size or tensor in found.coverages):
            yield "not reached"
    for reason in lost:
        yield f"not reached: a random point at which loss and gradient are defined ({reason})"


def open_reason(judged: Judgement) -> str:
    """What leaves entries undecided, or where kinks are."""
    unclear = judged.undecided
    if unclear.any():
        reasons, counts = np.unique(judged.reason[unclear].astype(str), return_counts=True)
        return "; ".join(
            f"{reason} ({share(int(count), judged)})" for reason, count in zip(reasons, counts, strict=True)
        )
    kinks = int(np.count_nonzero((judged.reason == "kink") & judged.passed))
    return f"kink at {share(kinks, judged)}" if kinks else ""


def share(count: int, judged: Judgement) -> str:
    """So many of the checked entries, in words."""
    size = judged.failed.size
    return f"{count} of {size} checked {'entry' if size == 1 else 'entries'}"


# --- what would have been seen ---


def _sensitivity(judged: Judgement, estimated: Estimates) -> Sensitivity | None:
    if not judged.failed.size:
        return None
    smallest = smallest_failure(judged, estimated.uncertainty)
    return Sensitivity(float(smallest.max()), median(smallest))


def _unseen_share(layout: ParameterLayout, tensor: int, findings: Sequence[PointResult]) -> float:
    """Share of wrong entries that m random ones, all right, would miss in one case of twenty: 1 - 0.05**(1/m)."""
    local = findings[0].plan.local[tensor]
    reached = int(np.count_nonzero(layout.tensor_of(findings[0].estimates.positions) == tensor))
    if local is None or reached == layout.sizes[tensor]:
        return 0.0
    drawn = findings[0].plan.drawn[tensor] * reached // max(1, local.size)  # those reached are a fair sample of these
    return 1 - 0.05 ** (1 / drawn) if drawn else 1.0


def _probe(layout: ParameterLayout, tensor: int, findings: Sequence[PointResult]) -> Probe | None:
    """The probes of the point where they differ most, in units of their uncertainty."""
    probed = [found for found in findings if tensor in found.coverages]
    if not probed:
        return None
    worst = max(probed, key=lambda found: found.coverages[tensor].probing.excess)
    return probe_report(worst.gradient, tensor, worst.coverages[tensor], layout.names)
