"""The report of a check of gradients: summaries of tensors, and the text for people. No numerics, no printing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fastgc._arguments import brief, listed, plural
from fastgc._deferred import deferring
from fastgc._derivatives.random_weights import chance_at_limits
from fastgc._diagnosis.diagnosis import Diagnosis
from fastgc._public import public
from fastgc._reports.advice import advice
from fastgc._reports.contents import Contents, EntryLadder, Part
from fastgc._reports.entries import Entries, Entry
from fastgc._reports.environment import Environment, current
from fastgc._reports.lines import NAME, WIDTH, fitted, headed, shortened, visible, with_short_names
from fastgc._reports.operations import Operation, operation_lines
from fastgc._reports.report import Report
from fastgc._verdicts.crosscheck import CrossCheck
from fastgc._verdicts.probes import Probe, probed_error, upwards
from fastgc._words import FAIL, PASS, UNDECIDED, Verdict

_ROWS = 20  # tensors in the text of a report: as many lines as fit on one screen with the rest of it
_NAMES_ON_TOP = 3  # tensors in its first line, which a list of failing tests shows alone


@dataclass(frozen=True)
class Sensitivity:
    """The smallest absolute error in one entry that this run would have called a failure.

    Attributes
    ----------
    largest, median : over the checked entries
    """

    largest: float
    median: float


@public
@deferring
@dataclass(frozen=True, repr=False)
class TensorSummary:
    """The results for one tensor, with analytic entries a and numerical entries n.

    Attributes
    ----------
    name, shape, size : str, tuple of int, int
        Of the tensor.
    checked : int
        Entries that were checked one by one, at one point or at several.
    verdict, reason : "pass" | "fail" | "undecided", str
    max_relative_error : float
        max ``|a - n| / max(|a| + |n|, 1e-8)`` over the checked entries.
    max_absolute_error : float
        max ``|a - n|`` over the checked entries.
    relative_error : float
        ``||a - n|| / (||a|| + ||n||)`` over the checked entries, in 2-norms.
    worst : `Entry` or None
        The entry with the largest ``|a - n|`` in units of its tolerance and uncertainty; a wrong one if there are any.
    entries, wrong_entries : sequences of `Entry`
        All checked entries; those that failed, the worst first.
    sensitivity : Sensitivity or None
        ``largest`` and ``median`` over the checked entries: the smallest absolute error that would have been called a
        failure.
    unseen_share : float
        At most this share of the entries is wrong, with 95 % confidence. It follows from the entries drawn at random
        alone: if m of them are right, it is ``1 - 0.05**(1/m)``.
    probe : Probe or None
        The slopes along random directions that displace all entries of the tensor; None without probes. Its attributes,
        in units of the gradient (probabilities are those of the draw of directions, for any error given before it):

        - ``residuals``, ``uncertainties``: analytic minus numerical slope along each direction, and a bound on the
          error of that difference
        - ``seen``: whether a residual exceeds its uncertainty by so much that a difference was seen
        - ``relative_error``, ``interval``: an estimate of ``||a - n|| / (||a|| + ||n||)`` over all entries and its
          95 % interval; a bound if no difference was seen
        - ``miss_probability``: at most this is the probability that all directions miss an error of rtol of the whole
          tensor; ``miss(error)`` gives it for any error, relative to the tensor's ``norm``
        - ``entry_limit``: the smallest error of one entry that they miss with a probability of 1 in 1,000 at most
          (3 in 100, if there is one direction only)
        - ``norm_limit``: the smallest error of the whole tensor, relative to its ``norm``, that they miss with that
          probability at most
        - ``shared_with``: names of other tensors that the same directions displace, the first 100 at most
    diagnosis : `Diagnosis` or None
        The kind of bug that the numbers are consistent with.
    ladder : EntryLadder or None
        Of the worst entry among those that were measured at several steps, if there are any (where several tensors are
        wrong as a whole, only the worst ones may have such an entry): its ``index``, and its difference quotients
        ``forward``, ``backward`` and ``central`` at these ``steps``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> report = fastgc.check_gradients(lambda p: np.sum(p["w"] ** 2), lambda p: {"w": 2 * p["w"]}, {"w": np.ones(100)})
    >>> tensor = report.tensors["w"]
    >>> tensor.checked, tensor.size, tensor.verdict
    (32, 100, 'pass')
    >>> tensor.probe.entry_limit < 1e-4 and tensor.probe.miss_probability < 1e-5
    True
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
    entries: Entries
    wrong_entries: Entries
    sensitivity: Sensitivity | None
    unseen_share: float
    probe: Probe | None
    diagnosis: Diagnosis | None
    ladder: EntryLadder | None = None

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
    """The result of a check. ``str(report)`` is the text for people; ``bool(report)`` is true if it passed.

    Attributes
    ----------
    verdict : "pass" | "fail" | "undecided"
        "fail" if a tensor fails, else "undecided" if one is, else "pass".
    tensors : dict of `TensorSummary`
        By name, in the order of the parameters.
    evaluations : int
        The number of calls of the loss.
    seconds : float
        Wall-clock time of the check.
    seed, points : int
        As given: the seed of all random choices; the number of points where the gradient was checked.
    engine : str
        What ran the loss, for example "numba (2 threads)".
    crosscheck : CrossCheck or None
        ``error``, ``norm`` and ``entries`` of ``scipy.optimize.check_grad`` on a few entries. It decides nothing.
    notes : tuple of str
        Other facts that a reader should know: noise, exceptions of the loss, tensors that were not checked.
    operations : tuple of Operation
        Of a failing check of a PyTorch module or a JAX loss: its operations, each tested by itself. ``path``, ``name``,
        ``call``, ``verdict``, ``reason``, ``evaluations``, and ``slopes`` with ``argument``, ``analytic``,
        ``numerical``, ``uncertainty`` and ``factor``.
    environment : Environment
        What the report was made with: versions of ``fastgc``, ``numpy`` and ``python``, the ``platform``, the ``date``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> loss, gradients = lambda p: np.sum(p["w"] ** 2) + p["b"][0], lambda p: {"w": p["w"], "b": np.ones(1)}
    >>> report = fastgc.check_gradients(loss, gradients, {"w": np.arange(1.0, 4.0), "b": np.zeros(1)})
    >>> report.verdict, bool(report)
    ('fail', False)
    >>> [name for name, tensor in report.tensors.items() if tensor.verdict == "fail"]
    ['w']
    >>> report.tensors["w"].diagnosis.kind, round(report.tensors["w"].diagnosis.factor, 6)
    ('factor', 0.5)
    >>> worst = report.tensors["w"].worst
    >>> worst.index, worst.analytic, round(worst.numerical, 6)
    ((2,), 3.0, 6.0)
    >>> report.to_dict()["tensors"]["b"]["verdict"]
    'pass'
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
    operations: tuple[Operation, ...] = ()
    environment: Environment = field(default_factory=current, compare=False)

    @property
    def sensitivity(self) -> dict[str, Sensitivity | None]:
        """The smallest error in one entry that this run would have called a failure, by tensor."""
        return {name: tensor.sensitivity for name, tensor in self.tensors.items()}

    def __str__(self) -> str:
        short = (with_short_names(line, self.tensors) for line in _lines(self._contents()))
        return "\n".join(fitted(short))

    def _contents(self) -> Contents:
        order = {FAIL: 0, UNDECIDED: 1, PASS: 2}
        tensors = sorted(self.tensors.values(), key=lambda each: (order[each.verdict], -_sort_key(each.worst)))
        return Contents(
            verdict=self.verdict,
            outcome=_outcome(self.verdict, tensors),
            facts=_facts(self, tensors),
            operations=tuple(operation_lines(self.operations)),
            parts=tuple(_part(tensor) for tensor in tensors),
            limits=(*_limits(tensors), *_crosschecked(self.crosscheck)),
            notes=self.notes,
            environment=self.environment,
        )


# --- what is shown ---


def _part(tensor: TensorSummary) -> Part:
    return Part(
        name=tensor.name,
        shape=tensor.shape,
        matrix=_matrix(tensor.shape),
        axes=("rows", "columns"),
        checked=tensor.checked,
        size=tensor.size,
        verdict=tensor.verdict,
        remark=_remark(tensor),
        errors=(f"{tensor.max_relative_error:.2e}" if tensor.checked else "-", _whole_error(tensor)),
        advice=advice(tensor.verdict, tensor.reason, tensor.diagnosis),
        evidence=tuple(_evidence(tensor)),
        limits=tuple(_limits([tensor])),
        entries=tensor.entries,
        wrong_entries=tensor.wrong_entries,
        worst=tensor.worst,
        ladder=tensor.ladder,
    )


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the map of a tensor: its first axis by all others; a vector is one row."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))


def _facts(report: GradientReport, tensors: Sequence[TensorSummary]) -> tuple[str, ...]:
    checked, size = sum(tensor.checked for tensor in tensors), sum(tensor.size for tensor in tensors)
    where = f" at {report.points} points" if report.points > 1 else ""
    return (
        f"{checked:,} of {size:,} {plural(size, 'entry', 'entries')} checked one by one{where}{_covered(tensors)}",
        f"{report.evaluations:,} evaluations",
        f"{report.seconds:.2f} s",
        report.engine,
        f"seed {report.seed}",
    )


def _crosschecked(check: CrossCheck | None) -> Iterable[str]:
    if check is not None:
        entries = f"{check.entries} {plural(check.entries, 'entry', 'entries')}"
        yield f"scipy.optimize.check_grad on {entries}: {check.error:.1e} (gradient norm {check.norm:.1e})"


def _covered(tensors: Sequence[TensorSummary]) -> str:
    """How many of the tensors that were not checked entry by entry as a whole are covered by their probes."""
    partly = [tensor for tensor in tensors if tensor.checked < tensor.size]
    covered = [tensor for tensor in partly if tensor.probe and tensor.probe.resolved and not tensor.probe.left_out]
    if not covered:
        return ""
    if len(covered) == len(partly):
        return ", all covered by probes"
    return f", {len(covered)} of the other {len(partly)} tensors covered by probes"


def _outcome(verdict: Verdict, tensors: Sequence[TensorSummary]) -> str:
    """The number and the names of the tensors concerned, the worst first."""
    count, concerned = len(tensors), [tensor for tensor in tensors if tensor.verdict == verdict]
    noun = plural(count, "tensor", "tensors")
    if verdict == PASS:
        return f"{count} {noun} {plural(count, 'agrees', 'agree')}"
    verb = "cannot be decided" if verdict == UNDECIDED else plural(len(concerned), "disagrees", "disagree")
    named = listed([_with_kind(tensor) for tensor in concerned], quote=False, limit=_NAMES_ON_TOP)
    return f"{len(concerned)} of {count} {noun} {verb}" + (named and f": {named}")


def _with_kind(tensor: TensorSummary) -> str:
    """A tensor's name and the kind of its bug."""
    found = tensor.diagnosis
    if found is None or found.kind == "unstructured":
        return tensor.name
    factor = f" {found.factor:.4g}" if found.kind == "factor" and found.factor is not None else ""
    return f"{tensor.name} ({found.kind.replace('_', ' ')}{factor})"


def _limits(tensors: Sequence[TensorSummary]) -> Iterable[str]:
    """The largest errors that the probes and the samples could have missed."""
    probed = [(tensor, tensor.probe) for tensor in tensors if tensor.probe and math.isfinite(tensor.probe.norm_limit)]
    if not probed:
        return
    entry = max(probe.entry_limit for _, probe in probed)
    tensor = max(probe.norm_limit for _, probe in probed)
    missed = max(probe.miss_probability for _, probe in probed)
    rarely = max(chance_at_limits(len(probe.residuals)) for _, probe in probed)
    yield (
        f"probes miss any given error of rtol of a tensor's norm with probability {upwards(missed)} at most; one "
        f"above {upwards(entry)} in an entry, or {upwards(tensor)} of a tensor's norm, with {upwards(rarely)} at most"
    )
    left_out = sum(probe.left_out for _, probe in probed)
    if left_out:
        yield f"probes leave out {left_out:,} entries next to their bounds; up to 64 a tensor were checked one by one"
    share = max(tensor.unseen_share for tensor, _ in probed)
    if share < 1:
        yield f"samples alone cannot rule out up to {100 * share:.0f} % wrong entries in a tensor (95 % confidence)"


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
    """The measurements behind a diagnosis, and other explanations of the entries."""
    found = tensor.diagnosis
    if found is None or found.kind == "unstructured":
        return
    counts = found.evidence
    extra = f", {counts.extra} measured for the diagnosis" if counts.extra else ""
    measured = plural(counts.entries, "the one measured entry", f"all {counts.entries} measured entries")
    reach = f"; largest deviation {counts.deviation:.0e} of the tolerance" if counts.deviation else ""
    yield f"{tensor.name}: explains {measured} ({counts.wrong} wrong{extra}){reach}"
    yield from (f"{tensor.name}: also {message}" for message in found.alternatives)


def _sort_key(entry: Entry | None) -> float:
    """A relative error by which tensors are sorted; NaN counts as infinite."""
    if entry is None:
        return 0.0
    return math.inf if math.isnan(entry.relative_error) else entry.relative_error


# --- text ---


def _lines(contents: Contents) -> Iterable[str]:
    """What to do first: which tensor, which kind of bug, which entry; then all tensors, and what could be missed."""
    shown, rest = contents.parts[:_ROWS], [part.verdict for part in contents.parts[_ROWS:]]
    worst = [f"worst: {shown[0].worst}"] if shown and shown[0].worst is not None else []
    yield from headed(f"{contents.verdict.upper()}  {contents.outcome}", contents.facts)
    yield from contents.operations
    if contents.advice:
        yield from [f"next: {contents.advice}", *worst]
    yield from _table(shown)
    if rest:
        counted = ", ".join(f"{rest.count(each)} {each}" for each in (FAIL, UNDECIDED, PASS) if each in rest)
        yield f"and {len(rest)} more {plural(len(rest), 'tensor', 'tensors')}: {counted}"
    yield from [] if contents.advice else worst
    yield from (line for part in shown for line in part.evidence)
    yield from contents.limits
    yield from (f"note: {note}" for note in contents.notes)


def _table(parts: Sequence[Part]) -> Iterable[str]:
    rows = [("tensor", "shape", "checked", "max rel err", "rel err (all)", "verdict")]
    rows += [
        (visible(part.name), str(part.shape), f"{part.checked:,}/{part.size:,}", *part.errors, _shout(part.verdict))
        for part in parts
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    widths[0] = min(widths[0], max(NAME // 2, min(NAME, WIDTH - 10 - sum(widths[1:]))))
    for row, part in zip(rows, [None, *parts], strict=True):
        left = [shortened(row[0], widths[0]).ljust(widths[0]), row[1].ljust(widths[1])]
        line = "  ".join([*left, *(row[column].rjust(widths[column]) for column in (2, 3, 4)), row[5]])
        yield from _with_remark(line, part.remark if part else "")


def _with_remark(line: str, remark: str) -> Iterable[str]:
    """On the same line if there is room, else below."""
    if not remark or len(line) + 2 + len(remark) <= WIDTH:
        yield f"{line}  {remark}".rstrip()
    else:
        yield from (line, f"      {remark}")


def _shout(verdict: Verdict) -> str:
    return verdict.upper() if verdict == FAIL else verdict
