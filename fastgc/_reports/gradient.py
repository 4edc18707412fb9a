"""What a check found: summaries of tensors, single entries, text, dict and JSON. No numerics, no printing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastgc._arguments import brief, listed, plural
from fastgc._diagnosis.diagnosis import Diagnosis
from fastgc._public import public
from fastgc._reports.entries import Entry, Report, entry_text
from fastgc._verdicts.crosscheck import CrossCheck
from fastgc._verdicts.judgement import FAIL, PASS, UNDECIDED
from fastgc._verdicts.probes import Probe, probed_error, upwards
from fastgc._words import Verdict

_ROWS = 20  # tensors in the text of a report
_NAMED = 3  # tensors in its first line


@dataclass(frozen=True)
class Sensitivity:
    """How large an error in one entry this run would have called a failure, absolute, over the checked entries."""

    largest: float
    median: float


@public
@dataclass(frozen=True, repr=False)
class TensorSummary:
    """What was found in one tensor.

    Attributes
    ----------
    name, shape, size : of the tensor
    checked : entries checked one by one, at one point or at several
    verdict, reason : "pass" | "fail" | "undecided", and why
    max_relative_error : max ``|a - n| / max(|a| + |n|, 1e-8)`` over the checked entries
    max_absolute_error : max ``|a - n|`` over the checked entries
    relative_error : ``||a - n|| / (||a|| + ||n||)`` over the checked entries
    worst : the entry with the largest ``|a - n|`` relative to what was allowed, or None
    entries : every entry checked
    wrong_entries : those that failed, worst first
    sensitivity : the smallest error in an entry that would have been called a failure, or None
    unseen_share : with 95 % confidence no larger share of the entries is wrong, judged by those drawn at random alone
    probe : what random directions over all entries showed, or None where there were none
    diagnosis : the kind of bug that the numbers are consistent with, or None
    """

    name: str
    shape: tuple[int, ...]
    size: int
    checked: int
    verdict: Verdict
    reason: str
    max_relative_error: float
    max_absolute_error: float
    relative_error: float
    worst: Entry | None
    entries: Sequence[Entry]
    wrong_entries: Sequence[Entry]
    sensitivity: Sensitivity | None
    unseen_share: float
    probe: Probe | None
    diagnosis: Diagnosis | None

    def __repr__(self) -> str:
        checked = f"{self.checked:,} of {self.size:,} checked, max rel err {self.max_relative_error:.2e}"
        remark = _remark(self)
        return (
            brief(f"<TensorSummary {self.verdict}: {self.name} {self.shape}, {checked}" + (remark and f", {remark}"))
            + ">"
        )


@public
@dataclass(frozen=True, repr=False)
class GradientReport(Report):
    """The result of a check; ``str(report)`` is the text for people, ``bool(report)`` whether it passed.

    Attributes
    ----------
    verdict : "pass" | "fail" | "undecided"
    tensors : dict of `TensorSummary` by name, in the order of the parameters
    evaluations : how often the loss was called
    seconds : wall-clock time of the check
    seed : that reproduces it
    points : at how many points the gradient was checked
    engine : what ran the loss
    crosscheck : what ``scipy.optimize.check_grad`` says of a few entries, or None
    notes : what else a reader should know
    """

    verdict: Verdict
    tensors: dict[str, TensorSummary]
    evaluations: int
    seconds: float
    seed: int
    points: int
    engine: str
    crosscheck: CrossCheck | None
    notes: tuple[str, ...]

    @property
    def sensitivity(self) -> dict[str, Sensitivity | None]:
        """By tensor: the smallest error in one entry that this run would have called a failure."""
        return {name: tensor.sensitivity for name, tensor in self.tensors.items()}

    def __str__(self) -> str:
        return "\n".join(_text(self))


# --- text ---


def _text(report: GradientReport) -> Iterable[str]:
    tensors = list(report.tensors.values())
    order = {FAIL: 0, UNDECIDED: 1, PASS: 2}
    worst_first = sorted(tensors, key=lambda tensor: (order[tensor.verdict], -_excess(tensor.worst)))
    yield _headline(report, worst_first)
    yield from _table(worst_first[:_ROWS])
    if len(tensors) > _ROWS:
        rest = [tensor.verdict for tensor in worst_first[_ROWS:]]
        counted = ", ".join(f"{rest.count(verdict)} {verdict}" for verdict in order if verdict in rest)
        yield f"and {len(rest)} more {plural(len(rest), 'tensor', 'tensors')}: {counted}"
    if worst_first and worst_first[0].worst is not None:
        yield f"worst: {entry_text(worst_first[0].worst)}"
    yield from (line for tensor in worst_first[:_ROWS] for line in _evidence(tensor))
    yield from _limits(tensors)
    if report.crosscheck is not None:
        check = report.crosscheck
        yield (
            f"scipy.optimize.check_grad on {check.entries} {plural(check.entries, 'entry', 'entries')}: "
            f"{check.error:.1e} (gradient norm {check.norm:.1e})"
        )
    yield from (f"note: {note}" for note in report.notes)


def _headline(report: GradientReport, tensors: Sequence[TensorSummary]) -> str:
    checked, size = sum(tensor.checked for tensor in tensors), sum(tensor.size for tensor in tensors)
    where = f" at {report.points} points" if report.points > 1 else ""
    parts = [
        f"{report.verdict.upper()}  {_outcome(report.verdict, tensors)}",
        f"{checked:,} of {size:,} {plural(size, 'entry', 'entries')} checked one by one{where}{_covered(tensors)}",
        f"{report.evaluations:,} evaluations",
        f"{report.seconds:.2f} s",
        report.engine,
        f"seed {report.seed}",
    ]
    return "   ".join(parts)


def _covered(tensors: Sequence[TensorSummary]) -> str:
    partly = [tensor for tensor in tensors if tensor.checked < tensor.size]
    return ", all covered by probes" if partly and all(tensor.probe is not None for tensor in partly) else ""


def _outcome(verdict: Verdict, tensors: Sequence[TensorSummary]) -> str:
    """How many tensors, and which, the worst first: of a failing test a list of results shows this line alone."""
    count, concerned = len(tensors), [tensor for tensor in tensors if tensor.verdict == verdict]
    noun = plural(count, "tensor", "tensors")
    if verdict == PASS:
        return f"{count} {noun} {plural(count, 'agrees', 'agree')}"
    verb = "cannot be decided" if verdict == UNDECIDED else plural(len(concerned), "disagrees", "disagree")
    named = listed([_with_kind(tensor) for tensor in concerned], quote=False, limit=_NAMED)
    return f"{len(concerned)} of {count} {noun} {verb}" + (named and f": {named}")


def _with_kind(tensor: TensorSummary) -> str:
    """A tensor's name and the kind of its bug."""
    found = tensor.diagnosis
    if found is None or found.kind == "unstructured":
        return tensor.name
    factor = f" {found.factor:.4g}" if found.kind == "factor" and found.factor is not None else ""
    return f"{tensor.name} ({found.kind.replace('_', ' ')}{factor})"


def _limits(tensors: Sequence[TensorSummary]) -> Iterable[str]:
    """What the probes and the samples could not have seen."""
    probed = [(tensor, tensor.probe) for tensor in tensors if tensor.probe and math.isfinite(tensor.probe.norm_limit)]
    if not probed:
        return
    entry = max(probe.entry_limit for _, probe in probed)
    tensor = max(probe.norm_limit for _, probe in probed)
    chance = max(probe.miss_probability for _, probe in probed)
    yield (
        f"probes miss an error of one entry above {upwards(entry)}, or of a tensor as a whole above "
        f"{upwards(4 * tensor)} of it, with probability {upwards(chance)} at most"
    )
    share = max(tensor.unseen_share for tensor, _ in probed)
    if share < 1:
        yield f"samples alone leave room for {100 * share:.0f} % of wrong entries in a tensor (95 % confidence)"


def _table(tensors: Sequence[TensorSummary]) -> Iterable[str]:
    rows = [("tensor", "shape", "checked", "max rel err", "rel err (all)", "verdict")]
    rows += [
        (
            tensor.name,
            str(tensor.shape),
            f"{tensor.checked:,}/{tensor.size:,}",
            f"{tensor.max_relative_error:.2e}" if tensor.checked else "-",
            _whole_error(tensor),
            "  ".join(
                filter(None, [tensor.verdict.upper() if tensor.verdict == FAIL else tensor.verdict, _remark(tensor)])
            ),
        )
        for tensor in tensors
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        left = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        right = [row[column].rjust(widths[column]) for column in (2, 3, 4)]
        yield "  ".join([*left, *right, row[5]])


def _whole_error(tensor: TensorSummary) -> str:
    """The norm-wise error of all entries: exact, estimated from probes, or (without probes) of the checked ones."""
    if tensor.probe is not None:
        return probed_error(tensor.probe)
    if tensor.checked == 0:
        return "-"
    return f"{tensor.relative_error:.2e}" + ("" if tensor.checked == tensor.size else " of checked")


def _remark(tensor: TensorSummary) -> str:
    found = tensor.diagnosis
    if found is not None and found.kind == "unstructured":
        return f"{tensor.reason}; {found.message}"
    return found.message if found else tensor.reason


def _evidence(tensor: TensorSummary) -> Iterable[str]:
    """What a diagnosis rests on, and what would explain the entries as well."""
    found = tensor.diagnosis
    if found is None or found.kind == "unstructured":
        return
    counts = found.evidence
    extra = f" ({counts.extra} for this)" if counts.extra else ""
    measured = f"{counts.entries} measured {plural(counts.entries, 'entry', 'entries')}{extra}"
    if counts.deviation:
        yield (
            f"{tensor.name}: that explains all of {measured}, {counts.wrong} of them wrong, to {counts.deviation:.0e} "
            "of what is allowed"
        )
    else:
        yield f"{tensor.name}: {counts.wrong} of {measured} {plural(counts.wrong, 'is', 'are')} wrong"
    yield from (f"{tensor.name}: also {message}" for message in found.alternatives)


def _excess(entry: Entry | None) -> float:
    if entry is None:
        return 0.0
    return math.inf if math.isnan(entry.relative_error) else entry.relative_error
