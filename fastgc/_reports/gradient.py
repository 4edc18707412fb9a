"""What a check found: summaries of tensors, single entries, text, dict and JSON. No numerics, no printing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import brief, listed
from fastgc._diagnosis.diagnosis import Diagnosis
from fastgc._public import public
from fastgc._verdicts.crosscheck import CrossCheck
from fastgc._verdicts.judgement import FAIL, PASS, UNDECIDED
from fastgc._words import Verdict

_ROWS = 20  # tensors in the text of a report
_NAMED = 3  # tensors in its first line
_SCHEMA = 1  # of the JSON


@public
@dataclass(frozen=True, repr=False)
class Entry:
    """One entry checked by itself.

    Attributes
    ----------
    tensor, index : name of the tensor and index into it
    point : 0 for the given parameters, 1, 2, ... for the random points around them
    analytic, numerical : the two derivatives
    uncertainty : bound on the error of ``numerical``, truncation and noise together
    step : the step that ``numerical`` rests on
    relative_error : ``|a - n| / max(|a| + |n|, 1e-8)``
    verdict : "pass" | "fail" | "undecided"
    reason : why it is not a plain pass, or ""
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
    """Checked entries of one tensor, kept as arrays; an `Entry` is made when it is asked for.

    Parameters
    ----------
    name, shape : of the tensor
    local : array of int, shape (entries,)
        Positions in the tensor, in C order.
    columns : mapping of arrays, each of shape (entries,)
        The other attributes of `Entry`, by name.
    """

    name: str
    shape: tuple[int, ...]
    local: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]

    def __init__(
        self, name: str, shape: tuple[int, ...], local: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]
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
        return brief(f"<{len(self)} {_plural(len(self), 'entry', 'entries')} of {self.name!r}") + ">"


@dataclass(frozen=True)
class Sensitivity:
    """How large an error in one entry this run would have called a failure, absolute, over the checked entries."""

    largest: float
    median: float


@dataclass(frozen=True, repr=False)
class Probe:
    """What random-sign directions, each over all entries of a tensor, showed; in units of the gradient.

    Attributes
    ----------
    residuals, uncertainties : analytic minus numerical slope along each direction, and a bound on the error of that
    seen : whether a difference was seen
    relative_error : ``||a - n|| / (||a|| + ||n||)`` of the whole tensor: an estimate if one was seen, else `norm_limit`
    interval : 95 % interval of that estimate (0 and the bound, if nothing was seen)
    entry_limit : the smallest error of one entry that shows (and counts: at least the tolerance of a median entry)
    norm_limit : the smallest error of the whole tensor, relative to its norm, that shows
    miss_probability : with which an error with an entry above `entry_limit` or a norm above 4 `norm_limit` is missed,
        at most
    shared_with : other tensors in the same directions
    """

    residuals: tuple[float, ...]
    uncertainties: tuple[float, ...]
    seen: bool
    relative_error: float
    interval: tuple[float, float]
    entry_limit: float
    norm_limit: float
    miss_probability: float
    shared_with: tuple[str, ...]

    def __repr__(self) -> str:
        count = len(self.residuals)
        return (
            f"<Probe of {count} {_plural(count, 'direction', 'directions')}: "
            f"{'a difference' if self.seen else 'nothing'} seen, relative error {_probed_error(self)}>"
        )


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


class Report:
    """What the dataclasses of reports can do alike."""

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
        """The report as plain dicts, lists, strings and numbers; "nan", "inf" and "-inf" stand for such numbers."""
        return {"schema": _SCHEMA, "passed": self.passed, **_plain(self)}

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON text, also written to ``path`` if one is given."""
        import json  # two milliseconds, spared where nobody asks

        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text


def _plain(value: Any) -> Any:
    """Dataclasses, sequences and numbers as what JSON can hold."""
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
        yield f"and {len(rest)} more {_plural(len(rest), 'tensor', 'tensors')}: {counted}"
    if worst_first and worst_first[0].worst is not None:
        yield f"worst: {entry_text(worst_first[0].worst)}"
    yield from (line for tensor in worst_first[:_ROWS] for line in _evidence(tensor))
    yield from _limits(tensors)
    if report.crosscheck is not None:
        check = report.crosscheck
        yield (
            f"scipy.optimize.check_grad on {check.entries} {_plural(check.entries, 'entry', 'entries')}: "
            f"{check.error:.1e} (gradient norm {check.norm:.1e})"
        )
    yield from (f"note: {note}" for note in report.notes)


def _headline(report: GradientReport, tensors: Sequence[TensorSummary]) -> str:
    checked, size = sum(tensor.checked for tensor in tensors), sum(tensor.size for tensor in tensors)
    where = f" at {report.points} points" if report.points > 1 else ""
    parts = [
        f"{report.verdict.upper()}  {_outcome(report.verdict, tensors)}",
        f"{checked:,} of {size:,} {_plural(size, 'entry', 'entries')} checked one by one{where}{_covered(tensors)}",
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
    noun = _plural(count, "tensor", "tensors")
    if verdict == PASS:
        return f"{count} {noun} {_plural(count, 'agrees', 'agree')}"
    verb = "cannot be decided" if verdict == UNDECIDED else _plural(len(concerned), "disagrees", "disagree")
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


def upwards(number: float) -> str:
    """A bound, rounded upwards to two digits."""
    if not 0 < number < math.inf:
        return f"{number:.1g}"
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / unit * (1 - 1e-12)) * unit:.2g}"


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


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
        return _probed_error(tensor.probe)
    if tensor.checked == 0:
        return "-"
    return f"{tensor.relative_error:.2e}" + ("" if tensor.checked == tensor.size else " of checked")


def _probed_error(probe: Probe) -> str:
    """An estimate where a difference was seen, else a bound."""
    return f"{'~' if probe.seen else '<'} {probe.relative_error:.2e}"


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
    measured = f"{counts.entries} measured {_plural(counts.entries, 'entry', 'entries')}{extra}"
    if counts.deviation:
        yield (
            f"{tensor.name}: that explains all of {measured}, {counts.wrong} of them wrong, to {counts.deviation:.0e} "
            "of what is allowed"
        )
    else:
        yield f"{tensor.name}: {counts.wrong} of {measured} {_plural(counts.wrong, 'is', 'are')} wrong"
    yield from (f"{tensor.name}: also {message}" for message in found.alternatives)


def _excess(entry: Entry | None) -> float:
    if entry is None:
        return 0.0
    return math.inf if math.isnan(entry.relative_error) else entry.relative_error


def entry_text(entry: Entry) -> str:
    """One entry in one line."""
    index = f"[{', '.join(map(str, entry.index))}]" if entry.index else ""
    point = f" at point {entry.point}" if entry.point else ""
    return (
        f"{entry.tensor}{index}{point}  analytic {entry.analytic:.6g}  numerical {entry.numerical:.6g} "
        f"+- {entry.uncertainty:.0e}  (step {entry.step:.1e})" + (f"  {entry.reason}" if entry.reason else "")
    )
