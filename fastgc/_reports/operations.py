"""The operations of a network, each tested by itself: which one is wrong, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from fastgc._arguments import listed, plural
from fastgc._words import FAIL, PASS, Verdict

INSIDE = "contains a wrong operation"  # why an operation around a wrong one is not accused


@dataclass(frozen=True)
class Slope:
    """The slope of an operation's outputs, weighted as in the check, along a random direction.

    Attributes
    ----------
    argument : what was displaced: an input, a parameter, or "" for all of them together
    analytic, numerical, uncertainty : by the operation's own backward; by differences, and a bound on their error
    """

    argument: str
    analytic: float
    numerical: float
    uncertainty: float
    verdict: Verdict
    reason: str = ""

    @property
    def factor(self) -> float:
        """Analytic over numerical slope; nan where the latter is 0."""
        return self.analytic / self.numerical if self.numerical else float("nan")

    @property
    def relative_error(self) -> float:
        """The difference of both slopes, relative to their sum."""
        size = abs(self.analytic) + abs(self.numerical)
        return abs(self.analytic - self.numerical) / size if size else 0.0


@dataclass(frozen=True)
class Operation:
    """One call of an operation, tested by itself.

    Attributes
    ----------
    path : where it was called: the dotted name of a module, or a line of a file
    name : of the operation: a class or a function
    rule : what is compared, as in "MyGelu.backward"
    call : the number of the call, among those of the same path and name, from 1
    verdict, reason : "fail" only for the innermost operations that are wrong
    slopes : of all arguments together, or of each wrong one
    evaluations : calls of the operation that the test took, the one with its backward pass included
    """

    path: str
    name: str
    rule: str
    call: int
    verdict: Verdict
    reason: str
    slopes: tuple[Slope, ...]
    evaluations: int

    @property
    def wrong(self) -> tuple[Slope, ...]:
        """The slopes that failed."""
        return tuple(slope for slope in self.slopes if slope.verdict == FAIL)


def operation_lines(operations: Sequence[Operation]) -> list[str]:
    """Which operations are wrong, one in a line, and how many agree; nothing where there are no operations."""
    wrong = [each for each in operations if each.verdict == FAIL]
    rest = _rest([each for each in operations if each.verdict != FAIL])
    if not operations:
        return []
    if not wrong:
        return [_none_wrong(operations, rest)]
    wrong.sort(key=_kind)
    lines = [_culprit(list(calls), operations) for _, calls in groupby(wrong, _kind)]
    return [*lines[:-1], lines[-1] + (f"; {rest}" if rest else "")]


def _kind(operation: Operation) -> tuple[str, str, tuple[str, ...]]:
    return operation.path, operation.rule, tuple(slope.argument for slope in operation.wrong)


def _culprit(calls: Sequence[Operation], operations: Sequence[Operation]) -> str:
    first, where = calls[0], f"{calls[0].path}: " if calls[0].path else ""
    if not first.wrong:
        return f"{where}{first.rule} is wrong: {first.reason}"
    slope = max(first.wrong, key=lambda each: abs(each.analytic - each.numerical))
    arguments = listed([each.argument for each in first.wrong], quote=False)
    arguments = f"its {arguments}" if arguments else "all its arguments together"
    count = sum((each.path, each.rule) == (first.path, first.rule) for each in operations)
    some = f" in {len(calls)} of its {count} calls" if count > 1 else ""
    factor = f", factor {slope.factor:.6g}" if slope.numerical else ""
    of = f" ({slope.argument})" if len(first.wrong) > 1 else ""
    return (
        f"{where}{first.rule} is wrong with respect to {arguments}{some}: along a random direction{of} "
        f"analytic {slope.analytic:.6g}, numerical {slope.numerical:.6g} +- {slope.uncertainty:.0e}{factor}"
    )


def _rest(others: Sequence[Operation]) -> str:
    """What is said of the operations that are not wrong."""
    right = sum(each.verdict == PASS for each in others)
    around = sum(each.reason == INSIDE for each in others)
    unsure = len(others) - right - around
    return ", ".join(
        filter(
            None,
            [
                f"the other {right} operations agree" if right > 1 else "the other operation agrees" * right,
                f"{around} more {plural(around, 'contains', 'contain')} it" if around else "",
                f"{unsure} {plural(unsure, 'is', 'are')} undecided" if unsure else "",
            ],
        )
    )


def _none_wrong(operations: Sequence[Operation], rest: str) -> str:
    if all(each.verdict == PASS for each in operations):
        count = len(operations)
        found = f"all {count} operations agree by themselves" if count > 1 else "the one operation agrees by itself"
        return f"{found}; the error lies in how they are combined (a detach, a hook, a gradient that is overwritten?)"
    return f"no operation is seen to be wrong by itself: {rest.removeprefix('the other ')}"
