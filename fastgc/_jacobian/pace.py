"""How long a check of a Jacobian takes: as it is planned, and as far as a time budget let it come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastgc._derivatives.stencil import stencil_named
from fastgc._evaluation.evaluator import LEAST_SECONDS
from fastgc._evaluation.working_time import now
from fastgc._jacobian.columns import Group
from fastgc._jacobian.entries import TRIALS, Checked
from fastgc._jacobian.function import VectorFunction
from fastgc._jacobian.options import JacobianOptions
from fastgc._jacobian.projections import DISTANCES
from fastgc._progress import ENTRIES, Progress
from fastgc._verdicts.time_budget import BATCH_SHARE, over_note

_NOISE = 20  # evaluations that measuring the noise of some outputs takes, about: they share them
_FIRST = 2  # calls of the function at x


@dataclass(frozen=True)
class Pace:
    """The pace of a check at one point, from the time before the noise was measured on.

    Attributes
    ----------
    first : seconds of the first call
    begin : of `now`
    before : evaluations by then
    """

    function: VectorFunction
    first: float
    begin: float
    before: int

    @classmethod
    def of(cls, function: VectorFunction, first: float) -> Pace:
        """From now on."""
        return cls(function, first, now(), function.evaluations)

    @property
    def seconds(self) -> float:
        """Of an evaluation so far: as workers measured it, or all time that has passed."""
        made = self.function.evaluations - self.before
        passed = (now() - self.begin) / made if made else self.first
        return self.function.pace or max(passed, LEAST_SECONDS)

    def plan(self, groups: Sequence[Group], probes: int, options: JacobianOptions, planned: int, bar: Progress) -> None:
        """Tell the plan of a long check, and correct the number of columns, of which ``planned`` were expected."""
        columns = options.points * sum(group.columns.size for group in groups)
        bar.phase(ENTRIES, more=max(0, columns - planned))
        seconds = options.points * self.seconds
        bar.plan(seconds * whole(groups, probes, options), seconds * DISTANCES.size * probes)

    def notes(self, checked: Checked, groups: Sequence[Group], probes: int, options: JacobianOptions) -> Iterator[str]:
        """What a time budget that is over would have to be."""
        if options.time_budget is None or not checked.unreached or self.function.interruption.requested:
            return
        noise = 0 if options.step is not None else _NOISE
        few = _FIRST + noise + 2 * _width(options)  # of one column, at two steps
        nothing = not checked.estimates.positions.size
        yield over_note(
            options.time_budget, self.seconds, few if nothing else 0, whole(groups, probes, options),
            ("f", "a column"),
        )  # fmt: skip


def _width(options: JacobianOptions) -> int:
    """Evaluations for a column."""
    return len(stencil_named(options.stencil).offsets)


def whole(groups: Sequence[Group], probes: int, options: JacobianOptions) -> int:
    """About how many evaluations a check of one point takes."""
    trials = min(len(groups), TRIALS * (1 if options.time_budget is None else round(1 / BATCH_SHARE)))
    return _FIRST + _NOISE + _width(options) * (len(groups) + trials) + DISTANCES.size * probes
