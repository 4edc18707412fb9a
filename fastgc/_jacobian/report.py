"""The report on a Jacobian: wrong entries by output and by input, and both matrices where they are small."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed, plural
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.kept import MOST_KEPT
from fastgc._derivatives.ladder import Ladder
from fastgc._diagnosis.diagnosis import Diagnosis, agreed, diagnose, diagnose_values
from fastgc._diagnosis.measured_tensor import MeasuredTensor
from fastgc._jacobian.entries import Checked
from fastgc._jacobian.projections import Projections
from fastgc._parameters.arrays import Array, distinct
from fastgc._public import public
from fastgc._reports.advice import advice
from fastgc._reports.contents import Contents, EntryLadder, Part
from fastgc._reports.entries import Entries, Entry, entry_columns
from fastgc._reports.environment import Environment, current
from fastgc._reports.lines import WIDTH, fitted, headed
from fastgc._reports.report import Report
from fastgc._reports.summary import entry_ladder, worst_first
from fastgc._verdicts.errors import relative_error
from fastgc._verdicts.judgement import Judgement, excess
from fastgc._verdicts.probes import upwards
from fastgc._verdicts.tensors import open_reason, share
from fastgc._words import FAIL, UNDECIDED, Verdict, worst_verdict

# The text is for a terminal; these are chosen, not measured.
_SHOWN = 16  # rows and columns of a matrix that is shown in full, at most: with marks they fit on a screen
_DIGITS = (5, 3)  # of their entries, where that fits


@public
@dataclass(frozen=True, repr=False)
class JacobianReport(Report):
    """The result of a check of a Jacobian; ``str(report)`` is the text for people, ``bool(report)`` whether it passed.

    Attributes
    ----------
    verdict, reason : "pass" | "fail" | "undecided", and why
    output_shape, input_shape : of f(x) and of x; the Jacobian has m rows, an output each, and n columns
    size, checked : entries of the Jacobian, and those checked one by one
    max_relative_error : max ``|a - n| / max(|a| + |n|, 1e-8)`` over the checked entries
    max_absolute_error : max ``|a - n|`` over the checked entries
    relative_error : ``||a - n|| / (||a|| + ||n||)`` over the checked entries
    worst : the entry with the largest ``|a - n|`` relative to what was allowed, or None
    entries : every entry checked; its index is that of the output, followed by that of the input
    wrong_entries : those that failed, worst first
    diagnosis : the kind of bug that the numbers are consistent with, or None
    probes : number of random directions over all inputs
    entry_limit, miss_probability : these directions miss an error of one entry above the limit with this probability
        at most; None without probes
    points : number of points checked: the given one, and random ones around it
    evaluations : how often f was called
    seconds : wall-clock time of the check
    seed : of the random draws; the same seed gives the same report
    notes : remarks on the function and the check
    engine : how f was evaluated: "python", "numba (2 threads)", "python (4 processes)"
    ladder : difference quotients at several ``steps`` of the worst entry for which they were kept, or None
    environment : what the report was made with: versions of ``fastgc``, ``numpy`` and ``python``, the ``platform``, the
        ``date``

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> report = fastgc.check_jacobian(lambda x: x**2, lambda x: np.diag([2.0, 3.0]), np.ones(2))
    >>> report.verdict, report.reason, report.by_input
    ('fail', '1 of 4 checked entries differs', {(1,): 1})
    >>> report.matrix("numerical").round(6) + 0.0
    array([[2., 0.],
           [0., 2.]])
    >>> report.worst.index, report.worst.analytic
    ((1, 1), 3.0)
    """

    verdict: Verdict
    reason: str
    output_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    size: int
    checked: int
    max_relative_error: float
    max_absolute_error: float
    relative_error: float
    worst: Entry | None
    entries: Entries
    wrong_entries: Entries
    diagnosis: Diagnosis | None
    probes: int
    entry_limit: float | None
    miss_probability: float | None
    points: int
    evaluations: int
    seconds: float
    seed: int
    notes: tuple[str, ...]
    engine: str
    ladder: EntryLadder | None = None
    environment: Environment = field(default_factory=current, compare=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the Jacobian: outputs and inputs."""
        return math.prod(self.output_shape), math.prod(self.input_shape)

    @property
    def by_output(self) -> dict[tuple[int, ...], int]:
        """How many entries of each output are wrong, the most first."""
        return self._counted(0, self.output_shape)

    @property
    def by_input(self) -> dict[tuple[int, ...], int]:
        """How many entries of each input are wrong, the most first."""
        return self._counted(1, self.input_shape)

    def _counted(self, side: int, shape: tuple[int, ...]) -> dict[tuple[int, ...], int]:
        places = np.divmod(distinct(self.wrong_entries.local), max(1, self.shape[1]))[side]
        found, counts = np.unique(places, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {_index(int(found[k]), shape): int(counts[k]) for k in order}

    def matrix(self, column: str, point: int = 0) -> Array:
        """A column of the entries ("analytic", "numerical", "uncertainty", ...) as an (m, n) matrix, NaN elsewhere."""
        here = self.entries.part(np.flatnonzero(self.entries.columns["point"] == point))
        out = np.full(self.size, np.nan)
        out[here.local] = here.columns[column].astype(np.float64)
        return out.reshape(self.shape)

    def __str__(self) -> str:
        return "\n".join(fitted(_text(self)))

    def _contents(self) -> Contents:
        return Contents(
            verdict=self.verdict,
            outcome=self.reason or "every checked entry agrees",
            facts=_facts(self),
            parts=(_part(self),),
            limits=tuple(_limits(self)),
            notes=self.notes,
            environment=self.environment,
        )


def _index(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(place, shape)) if shape else ()


# --- from judged entries to the report ---


@dataclass(frozen=True)
class About:
    """What a report says of the function and of the check itself; see `JacobianReport`."""

    output_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    points: int
    evaluations: int
    seconds: float
    seed: int
    notes: tuple[str, ...]
    engine: str = "python"

    @property
    def size(self) -> int:
        """Of the Jacobian: its entries."""
        return math.prod(self.output_shape) * math.prod(self.input_shape)


def jacobian_report(
    found: Mapping[int, Checked],
    projections: Projections,
    about: About,
    failures: Sequence[str] = (),
    lost: str = "",
    kept: Callable[[int], Ladder | None] = lambda position: None,
) -> JacobianReport:
    """The report on the checked entries of each point.

    Parameters
    ----------
    failures : why the check fails whatever the entries are
    lost : points that were asked for and not found, "" for none
    kept : the ladder of an entry at the first point, if it was kept, by its position
    """
    judged = Judgement.joined([each.judgement for each in found.values()])
    estimated = Estimates.joined([each.estimates for each in found.values()])
    points = np.concatenate([np.full(each.estimates.positions.size, number) for number, each in found.items()])
    columns = entry_columns(points, judged, estimated)
    entries = Entries("jacobian", about.output_shape + about.input_shape, estimated.positions, columns)
    worst, wrong = worst_first(judged, excess(judged, estimated))
    missing = list(dict.fromkeys(filter(None, [*(each.unreached for each in found.values()), lost])))
    verdict = FAIL if failures else UNDECIDED if missing and judged.worst != FAIL else judged.worst
    return JacobianReport(
        verdict=verdict,
        reason="; ".join(filter(None, [*failures, _reason(judged), *missing])),
        size=about.size,
        checked=distinct(estimated.positions).size,
        max_relative_error=float(entries.columns["relative_error"].max(initial=0.0)),
        max_absolute_error=float(np.abs(judged.analytic - judged.numerical).max(initial=0.0)),
        relative_error=relative_error(judged.analytic, judged.numerical),
        worst=None if worst is None else entries[worst],
        entries=entries,
        wrong_entries=entries.part(wrong),
        diagnosis=agreed([_diagnosis(each, about) for each in found.values() if each.judgement.failed.any()]),
        ladder=_ladder(kept, entries, judged, estimated),
        **vars(projections),
        **vars(about),
    )


def _ladder(
    kept: Callable[[int], Ladder | None], entries: Entries, judged: Judgement, estimated: Estimates
) -> EntryLadder | None:
    """Of the worst entry at the first point whose ladder was kept."""
    order = np.lexsort((-excess(judged, estimated), ~judged.undecided, ~judged.failed))
    here = order[entries.columns["point"][order] == entries.columns["point"].min(initial=0)]
    found = ((number, kept(int(entries.local[number]))) for number in here[:MOST_KEPT].tolist())
    return next((entry_ladder(ladder, entries[number]) for number, ladder in found if ladder is not None), None)


def _diagnosis(checked: Checked, about: About) -> Diagnosis | None:
    """The kind of bug, if all entries were checked; of some entries, only what needs no places."""
    estimates, judged = checked.estimates, checked.judgement
    size, whole = judged.analytic.size, estimates.positions.size == about.size
    known = np.isfinite(estimates.uncertainty) & np.isfinite(judged.numerical)
    view = MeasuredTensor(
        shape=(math.prod(about.output_shape), math.prod(about.input_shape)) if whole else (size,),
        gradient=judged.analytic,
        local=np.arange(size),
        numerical=np.where(known, judged.numerical, 0.0),
        slack=np.where(known, judged.allowed + estimates.uncertainty, np.inf),
        parameters=np.full(size, np.nan),
        wrong=judged.failed,
        right=judged.passed,
        lengths={},
        uncertainty=estimates.uncertainty,
        pairs=whole and about.output_shape[-1:] == about.input_shape[-1:] == (2,),
    )
    with np.errstate(all="ignore"):
        return diagnose(view) if whole else diagnose_values(view)


def failed(report: JacobianReport, reason: str) -> JacobianReport:
    """The report, failed for a further reason."""
    return replace(report, verdict=FAIL, reason="; ".join(filter(None, [reason, report.reason])))


def undecided(report: JacobianReport, reason: str) -> JacobianReport:
    """The report, undecided for a further reason unless it fails."""
    verdict = worst_verdict([report.verdict, UNDECIDED])
    return replace(report, verdict=verdict, reason="; ".join(filter(None, [report.reason, reason])))


def _reason(judged: Judgement) -> str:
    failed = int(np.count_nonzero(judged.failed))
    return f"{share(failed, judged)} {'differs' if failed == 1 else 'differ'}" if failed else open_reason(judged)


# --- text ---


def _text(report: JacobianReport) -> Iterable[str]:
    yield from headed(f"{report.verdict.upper()}  {report.reason or 'every checked entry agrees'}", _facts(report))
    if next_step := advice(report.verdict, report.reason, report.diagnosis):
        yield f"next: {next_step}"
    yield from details(report)
    yield from _limits(report)
    yield from (f"note: {note}" for note in report.notes)


def _limits(report: JacobianReport) -> Iterable[str]:
    if report.entry_limit is not None and report.miss_probability is not None:
        yield (
            "random directions show nothing here (noise, nearby kinks, or inputs too near their bounds)"
            if report.entry_limit == math.inf
            else f"{report.probes} random directions over all inputs miss an error of one entry above "
            f"{upwards(report.entry_limit)} with probability {upwards(report.miss_probability)} at most"
        )


def _part(report: JacobianReport) -> Part:
    """The Jacobian as pages and pictures show it."""
    return Part(
        name="jacobian",
        shape=report.output_shape + report.input_shape,
        matrix=report.shape,
        axes=("outputs", "inputs"),
        checked=report.checked,
        size=report.size,
        verdict=report.verdict,
        remark=report.diagnosis.message if report.diagnosis else report.reason,
        errors=(f"{report.max_relative_error:.2e}", f"{report.relative_error:.2e}"),
        advice=advice(report.verdict, report.reason, report.diagnosis),
        evidence=tuple(_counts(report)),
        limits=(),
        entries=report.entries,
        wrong_entries=report.wrong_entries,
        worst=report.worst,
        ladder=report.ladder,
    )


def details(report: JacobianReport) -> Iterable[str]:
    """Which entries differ, the worst entry, and both matrices if they are small and differ."""
    if report.diagnosis:
        yield report.diagnosis.message
    yield from _counts(report)
    if report.worst is not None:
        yield f"worst: {_entry_text(report, report.worst)}"
    whole = distinct(report.entries.local).size == report.checked  # not so where a file was written without some
    if report.wrong_entries and whole and max(report.shape) <= _SHOWN:
        yield from _side_by_side(report)


def _counts(report: JacobianReport) -> Iterable[str]:
    """The wrong entries of each output and input."""
    for name, counts in (("output", report.by_output), ("input", report.by_input)):
        if counts:
            parts = [f"{list(index)}: {count}" for index, count in counts.items()]
            yield f"wrong entries by {name}: {listed(parts, quote=False)}"


def _facts(report: JacobianReport) -> tuple[str, ...]:
    m, n = report.shape
    outputs, inputs = f"{m:,} {plural(m, 'output', 'outputs')}", f"{n:,} {plural(n, 'input', 'inputs')}"
    return (
        f"{report.checked:,} of {report.size:,} entries ({outputs}, {inputs}) checked one by one",
        f"max rel err {report.max_relative_error:.2e}",
        f"{report.evaluations:,} evaluations",
        f"{report.seconds:.2f} s",
        report.engine,
        f"seed {report.seed}",
    )


def _entry_text(report: JacobianReport, entry: Entry) -> str:
    """One entry in one line."""
    split = len(report.output_shape)
    place = f"output {list(entry.index[:split])} by input {list(entry.index[split:])}"
    return str(replace(entry, tensor=place, index=()))


def _side_by_side(report: JacobianReport) -> Iterable[str]:
    """Both matrices, an output in each row, with "*" at entries that differ and "?" at those undecided.

    One below the other, with fewer digits, or not at all, where they are too wide.
    """
    point = report.worst.point if report.worst else 0
    here = report.entries.part(np.flatnonzero(report.entries.columns["point"] == point))
    marks = np.full(report.size, " ")
    marks[here.local] = _marks(here.columns["verdict"])
    for digits in _DIGITS:
        analytic = _cells(report.matrix("analytic", point), marks.reshape(report.shape), digits)
        numerical = _cells(report.matrix("numerical", point), np.full(report.shape, " "), digits)
        left = ["analytic (* differs)" + ("  (? undecided)" if "?" in marks else ""), *analytic]
        right = ["numerical", *numerical]
        width = max(map(len, left)) + 3
        if width + max(map(len, right)) <= WIDTH:
            return [f"{a.ljust(width)}{b}".rstrip() for a, b in zip(left, right, strict=True)]
        if max(map(len, [*left, *right])) <= WIDTH:
            return [line.rstrip() for line in (*left, *right)]
    return []


def _marks(verdicts: Array) -> NDArray[np.str_]:
    return np.select([verdicts == FAIL, verdicts == UNDECIDED], ["*", "?"], " ")


def _cells(matrix: Array, marks: Array, digits: int) -> list[str]:
    cells = [[_number(value, digits) for value in row] for row in matrix]
    width = max((len(cell) for row in cells for cell in row), default=1)
    pairs = zip(cells, marks, strict=True)
    return ["  " + " ".join(cell.rjust(width) + mark for cell, mark in zip(*row, strict=True)) for row in pairs]


def _number(value: float, digits: int) -> str:
    return "." if np.isnan(value) else f"{value + 0.0:.{digits}g}"  # no "-0"
