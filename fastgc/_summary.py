"""From judged entries to the summaries of tensors and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastgc._compare import (
    FAIL,
    UNDECIDED,
    Judgement,
    elementwise_error,
    normwise_wrong,
    relative_error,
    smallest_failure,
    worst_verdict,
)
from fastgc._crosscheck import CrossCheck
from fastgc._diagnose import diagnose
from fastgc._entries import Estimates
from fastgc._layout import ParameterLayout, listed
from fastgc._report import Entries, GradientReport, Sensitivity, TensorSummary

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Findings:
    """What was found at one point."""

    point: int
    estimates: Estimates
    judgement: Judgement
    rtol: Floats  # shape (tensors,)
    evaluations: int
    engine: str
    crosscheck: CrossCheck | None
    notes: tuple[str, ...]


def summarise(
    layout: ParameterLayout, counts: Sequence[int | None], findings: Sequence[Findings], seed: int, seconds: float
) -> GradientReport:
    """The report over all points: of every tensor the summary of all its checked entries."""
    tensors = {
        name: _tensor_summary(layout, t, findings) for t, name in enumerate(layout.names) if counts[t] is not None
    }
    left_out = [name for t, name in enumerate(layout.names) if counts[t] is None]
    notes = [note for found in findings for note in found.notes]
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


def _tensor_summary(layout: ParameterLayout, tensor: int, findings: Sequence[Findings]) -> TensorSummary:
    mine = [found.judgement.part(layout.tensor_of(found.estimates.positions) == tensor) for found in findings]
    estimates = [found.estimates.part(layout.tensor_of(found.estimates.positions) == tensor) for found in findings]
    judged, estimated = Judgement.joined(mine), Estimates.joined(estimates)
    entries = _entries(layout, tensor, findings, judged, estimated)
    errors = elementwise_error(judged.analytic, judged.numerical)
    differences = np.abs(judged.analytic - judged.numerical)
    order = np.argsort(-_excess(judged, estimated), kind="stable")
    wrong = order[judged.verdict[order] == FAIL]
    off_in_norm = any(
        normwise_wrong(part, found.uncertainty, float(findings[0].rtol[tensor]))
        for part, found in zip(mine, estimates, strict=True)
    )
    verdict = FAIL if off_in_norm else worst_verdict(judged.verdict)
    return TensorSummary(
        name=layout.names[tensor],
        shape=layout.shapes[tensor],
        size=layout.sizes[tensor],
        checked=int(np.unique(entries.local).size),
        verdict=verdict,
        reason=_reason(judged, off_in_norm),
        max_relative_error=float(errors.max(initial=0.0)),
        max_absolute_error=float(differences.max(initial=0.0)),
        relative_error=relative_error(judged.analytic, judged.numerical),
        worst=entries[int(order[0])] if order.size else None,
        entries=entries,
        wrong_entries=entries.part(wrong),
        sensitivity=_sensitivity(judged, estimated),
        diagnosis=diagnose(judged, estimated.uncertainty, layout.sizes[tensor]) if verdict == FAIL else None,
    )


def _entries(
    layout: ParameterLayout, tensor: int, findings: Sequence[Findings], judged: Judgement, estimated: Estimates
) -> Entries:
    points = [
        np.full(np.count_nonzero(layout.tensor_of(found.estimates.positions) == tensor), found.point)
        for found in findings
    ]
    columns = {
        "point": np.concatenate(points),
        "analytic": judged.analytic,
        "numerical": judged.numerical,
        "uncertainty": estimated.uncertainty,
        "step": estimated.step,
        "relative_error": elementwise_error(judged.analytic, judged.numerical),
        "verdict": judged.verdict,
        "reason": judged.reason,
    }
    return Entries(layout.names[tensor], layout.shapes[tensor], estimated.positions - layout.starts[tensor], columns)


def _excess(judged: Judgement, estimated: Estimates) -> Floats:
    """The difference in units of what was allowed; failures first, whatever could not be computed among them."""
    with np.errstate(all="ignore"):
        excess = np.abs(judged.analytic - judged.numerical) / (judged.allowed + estimated.uncertainty)
    return np.where(np.isnan(excess), np.inf, excess) + np.where(judged.verdict == FAIL, 1e300, 0.0)


def _reason(judged: Judgement, off_in_norm: bool) -> str:
    failed, open_ = np.count_nonzero(judged.verdict == FAIL), judged.verdict == UNDECIDED
    if failed:
        return f"{failed} of {judged.verdict.size} checked entries differ"
    if off_in_norm:
        return "the checked entries together differ by more than rtol"
    if open_.any():
        reasons, counts = np.unique(judged.reason[open_].astype(str), return_counts=True)
        return "; ".join(
            f"{reason} ({count} of {judged.verdict.size} entries)"
            for reason, count in zip(reasons, counts, strict=True)
        )
    kinks = np.count_nonzero(judged.reason == "kink")
    return f"kink at {kinks} of {judged.verdict.size} entries" if kinks else ""


def _sensitivity(judged: Judgement, estimated: Estimates) -> Sensitivity | None:
    if not judged.verdict.size:
        return None
    smallest = smallest_failure(judged, estimated.uncertainty)
    return Sensitivity(float(smallest.max()), float(np.median(smallest)))
