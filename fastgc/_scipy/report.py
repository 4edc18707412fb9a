"""The report on a problem: a section for each function whose derivative was checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from fastgc._arguments import listed, plural
from fastgc._jacobian.report import JacobianReport
from fastgc._public import public
from fastgc._reports.contents import Contents, Part
from fastgc._reports.entries import Entries
from fastgc._reports.environment import Environment, current
from fastgc._reports.gradient import GradientReport
from fastgc._reports.lines import fitted, headed
from fastgc._reports.report import Report
from fastgc._words import FAIL, PASS, UNDECIDED, Verdict, worst_verdict

Section = GradientReport | JacobianReport


@public
@dataclass(frozen=True, repr=False)
class ProblemReport(Report):
    """The result of `check_problem`; ``str(report)`` is the text for people, ``bool(report)`` whether all passed.

    Attributes
    ----------
    verdict : "pass" | "fail" | "undecided"
        "fail" if a section fails, else "undecided" if one is, else "pass".
    sections : dict of `GradientReport` and `JacobianReport`
        By what was checked: "gradient" or "jacobian", "hessian", "constraints[0]", "constraints[0].hess".
    notes : tuple of str
        What was not checked, and why.

    Examples
    --------
    >>> import fastgc
    >>> from scipy.optimize import rosen, rosen_der, rosen_hess
    >>> report = fastgc.check_problem(rosen, [1.3, 0.7, 0.8], rosen_der, hess=lambda x: 2 * rosen_hess(x))
    >>> {name: section.verdict for name, section in report.sections.items()}
    {'gradient': 'pass', 'hessian': 'fail'}
    >>> report.sections["hessian"].diagnosis.message
    'consistent with a constant factor of 2 (analytic / numerical)'
    """

    verdict: Verdict
    sections: dict[str, Section]
    notes: tuple[str, ...]

    @property
    def evaluations(self) -> int:
        """How often the functions were called, all sections together."""
        return sum(each.evaluations for each in self.sections.values())

    @property
    def seconds(self) -> float:
        """Wall-clock time of all sections."""
        return sum(each.seconds for each in self.sections.values())

    @property
    def environment(self) -> Environment:
        """What the report was made with: that of its first section."""
        return next((each.environment for each in self.sections.values()), current())

    def __str__(self) -> str:
        return "\n".join([*fitted(self._head()), *self._told()])

    def _head(self) -> Iterator[str]:
        yield from headed(f"{self.verdict.upper()}  {_outcome(self.sections)}", self._facts())

    def _told(self) -> Iterator[str]:
        for name, section in self.sections.items():
            yield from ("", f"{name}:", *(f"  {line}" for line in str(section).splitlines()))
        yield from ("", *fitted(f"note: {note}" for note in self.notes)) if self.notes else ()

    def _facts(self) -> tuple[str, ...]:
        checked = f"{len(self.sections)} {plural(len(self.sections), 'derivative', 'derivatives')} checked"
        return checked, f"{self.evaluations:,} evaluations", f"{self.seconds:.2f} s"

    def _contents(self) -> Contents:
        order = {FAIL: 0, UNDECIDED: 1, PASS: 2}
        parts = [_named(part, name) for name, each in self.sections.items() for part in each._contents().parts]
        return Contents(
            verdict=self.verdict,
            outcome=_outcome(self.sections),
            facts=self._facts(),
            parts=tuple(sorted(parts, key=lambda part: order[part.verdict])),
            limits=tuple(_prefixed(self.sections, "limits")),
            notes=(*_prefixed(self.sections, "notes"), *self.notes),
            environment=self.environment,
        )


def problem_report(sections: dict[str, Section], notes: Iterable[str]) -> ProblemReport:
    """The report on checked derivatives; undecided without any."""
    verdict = worst_verdict([each.verdict for each in sections.values()] or [UNDECIDED])
    return ProblemReport(verdict, sections, tuple(notes))


def _outcome(sections: dict[str, Section]) -> str:
    """Which sections fail or are undecided, in a line."""
    if not sections:
        return "no derivative to check"
    worst = worst_verdict([each.verdict for each in sections.values()])
    named = [name for name, each in sections.items() if each.verdict == worst]
    which = listed(named, quote=False)
    if worst == PASS:
        return f"all checked derivatives agree: {which}"
    count = f"{len(named)} of {len(sections)} {plural(len(sections), 'derivative', 'derivatives')}"
    return f"{count} {'wrong' if worst == FAIL else 'undecided'}: {which}"


def _named(part: Part, name: str) -> Part:
    """The part under the name of its section."""
    worst = None if part.worst is None else replace(part.worst, tensor=name)
    entries, wrong = (_renamed(each, name) for each in (part.entries, part.wrong_entries))
    return replace(part, name=name, entries=entries, wrong_entries=wrong, worst=worst)


def _renamed(entries: Entries, name: str) -> Entries:
    return Entries(name, entries.shape, entries.local, entries.columns)


def _prefixed(sections: dict[str, Section], kind: Literal["limits", "notes"]) -> Iterator[str]:
    for name, each in sections.items():
        contents = each._contents()
        yield from (f"{name}: {line}" for line in (contents.limits if kind == "limits" else contents.notes))
