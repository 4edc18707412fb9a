"""Whether one operation's own backward is right: against slopes of its outputs along random directions.

The outputs are added up with the weights that reached them in the backward pass of the whole, the cotangents: by the
chain rule, the gradient of the whole is right if every operation is right for the cotangents that it receives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastgc._arguments import brief
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.ladder import Derivative, Ladder, derivative_from
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Floats
from fastgc._reports.gradient import GradientReport
from fastgc._reports.operations import Operation, Slope
from fastgc._verdicts.judgement import DEFAULT_RTOL, Tolerances, judge
from fastgc._words import FAIL, PASS

_RATIO, _RUNGS = 8.0, 3  # of neighbouring steps, as along the probes; three are the fewest that show a kink
_LARGEST = 0.25  # step, in units of the scales: no entry changes its sign, with weights up to 1.5
_COARSER, _FINER = 2, 3  # steps that a ladder grows by, once in a direction: by a factor of 64 or 512
_QUICKLY = 0.1  # of the tolerance: a quotient of one step is trusted so far, as its truncation error is not known
_STRICT = 1e-5  # of the tolerance, where no operation is beyond it: near the error of a quotient, as for atol
_LOOKED_AT_AGAIN = 8  # operations that are tested strictly, if none is beyond the tolerance: a choice
NOT_FINITE = "the gradient that reaches it is not finite"  # why an operation cannot be tested
_NOISE = "noise hides its slope", "its slope is zero, as far as noise shows"


@dataclass(frozen=True)
class OperationAtPoint:
    """One call of an operation, with directions in its arguments.

    Attributes
    ----------
    arguments : their names
    analytic : the slope along each argument's direction by the operation's own backward, shape (arguments,)
    lengths : the size of such slopes: the argument's scale times the norm of its gradient, shape (arguments,)
    size : the sum of the magnitudes of the weighted outputs
    eps, rtol : resolution of the outputs, and the relative tolerance of derivatives of their dtype
    along : gives the change of the weighted sum with some arguments displaced by distances, in units of their scales
    displaced : gives the same call at a point displaced in all arguments
    """

    arguments: Sequence[str]
    analytic: Floats
    lengths: Floats
    size: float
    eps: float
    rtol: float
    along: Callable[[Sequence[int], Floats], Floats]
    displaced: Callable[[], OperationAtPoint]


def tolerance(bits: int) -> float:
    """The relative tolerance of derivatives of numbers of so many bits: of bfloat16 that of float16, the next finer."""
    return DEFAULT_RTOL[np.dtype(f"f{bits // 8}")]


def with_operations(report: GradientReport, tested: Callable[[], tuple[Operation, ...]], which: str) -> GradientReport:
    """The report, with the operations of a check that failed, or a note where they (``which``) cannot be tested."""
    if report.verdict != FAIL:
        return report
    begin, notes = time.perf_counter(), report.notes
    operations: tuple[Operation, ...] = ()
    try:
        with np.errstate():  # what the caller's functions set lasts no longer
            operations = tested()
    except Exception as error:
        notes = (*notes, f"{which} is wrong was not tested ({brief(f'{type(error).__name__}: {error}')})")
    seconds = report.seconds + time.perf_counter() - begin
    return replace(report, operations=operations, notes=notes, seconds=seconds)


@np.errstate(all="ignore")
def operation_slopes(operation: OperationAtPoint, *, strictly: bool = False) -> list[Slope]:
    """The slope of all arguments together, if it agrees or is undecided; else that of each wrong argument.

    ``strictly`` names differences far below the tolerance, too.
    """
    test = _Test(operation, strictly)
    everything = range(len(operation.arguments))
    near = test.near(everything)
    if test.plainly_right(everything, near):
        return [test.slope(everything, near)]
    return test.wrong(everything, near) or [test.judged(everything, near)]


def least_alike(tested: Mapping[int, Sequence[Slope]]) -> list[int]:
    """The few operations, by their numbers, whose slopes differ most."""
    errors = {number: max((each.relative_error for each in slopes), default=0.0) for number, slopes in tested.items()}
    return sorted(errors, key=lambda number: -errors[number])[:_LOOKED_AT_AGAIN]


@dataclass(frozen=True)
class _Test:
    operation: OperationAtPoint
    strictly: bool

    @cached_property
    def unit(self) -> float:
        """Of the steps: 1, or less where the outputs would change by more than their size (of numbers near 1e6, say).

        A gradient that is too large makes steps too small; their noise is still far below it.
        """
        length = float(self.operation.lengths.sum())
        if not 0 < self.operation.size < length < np.inf:
            return 1.0
        return float(2.0 ** np.floor(np.log2(self.operation.size / length)))

    @property
    def rungs(self) -> Floats:
        """Steps whose smallest one is near the best of a central quotient, eps**(1/3)."""
        best = 2.0 ** np.round(np.log2(self.operation.eps) / 3)
        top = self.unit * min(best * _RATIO ** (_RUNGS - 1), _LARGEST)
        return np.asarray(top * _RATIO ** -np.arange(_RUNGS, dtype=np.float64))

    def ladder(self, some: Sequence[int], rungs: Floats) -> Ladder:
        """The changes of the weighted sum at some steps, both ways."""
        values = self.operation.along(some, np.concatenate([-rungs, rungs]))
        noise = self.operation.eps * (self.operation.size + self.operation.lengths[list(some)].sum())
        minus, plus = values[: rungs.size], values[rungs.size :]
        return Ladder(-rungs, rungs, minus, plus, 0.0, np.full(rungs.size, noise + np.finfo(np.float64).tiny))

    def near(self, some: Sequence[int]) -> Ladder:
        """The ladder of the smallest step alone."""
        return self.ladder(some, self.rungs[-1:])

    def analytic(self, some: Sequence[int]) -> float:
        return float(self.operation.analytic[list(some)].sum())

    def extent(self, some: Sequence[int], numerical: float) -> float:
        """The size of the slopes, to which differences are compared."""
        return max(abs(self.analytic(some)), abs(numerical), float(np.linalg.norm(self.operation.lengths[list(some)])))

    @property
    def rtol(self) -> float:
        return self.operation.rtol * (_STRICT if self.strictly else 1.0)

    def plainly_right(self, some: Sequence[int], near: Ladder) -> bool:
        """Whether one quotient agrees, and is so certain that a wrong backward would not."""
        numerical, noise = float(near.central[0]), float(near.scatter[0])
        extent = self.extent(some, numerical)
        if extent == 0:
            return True  # the outputs stand still, to the bit
        return abs(self.analytic(some) - numerical) <= _QUICKLY * self.rtol * extent and noise <= self.rtol * extent

    def slope(self, some: Sequence[int], near: Ladder) -> Slope:
        name = self.operation.arguments[some[0]] if len(some) == 1 else ""
        return Slope(name, self.analytic(some), float(near.central[0]), float(near.scatter[0]), PASS)

    def wrong(self, some: Sequence[int], near: Ladder) -> list[Slope]:
        """The wrong ones among these arguments, which do not agree together: halves that do not agree are halved."""
        if len(some) == 1:
            slope = self.judged(some, near)
            return [slope] if slope.verdict == FAIL else []
        middle = len(some) // 2
        halves = [(half, self.near(half)) for half in (some[:middle], some[middle:])]
        return [each for half in halves if not self.plainly_right(*half) for each in self.wrong(*half)]

    def judged(self, some: Sequence[int], near: Ladder) -> Slope:
        """The verdict by a ladder of steps; at a kink outside both slopes, by that at a point beside it."""
        derivative = self.derivative(some, near)
        slope = self.verdict(some, derivative)
        if slope.verdict != FAIL or derivative.trouble != "kink":
            return slope
        beside = _Test(self.operation.displaced(), self.strictly)
        again = beside.near(some)
        if beside.plainly_right(some, again):
            return Slope(slope.argument, slope.analytic, slope.numerical, slope.uncertainty, PASS, "kink")
        return beside.verdict(some, beside.derivative(some, again))

    def derivative(self, some: Sequence[int], near: Ladder) -> Derivative:
        """The slope from a ladder, which grows where that promises more."""
        ladder = self.ladder(some, self.rungs[:-1]).extended(near)
        found = derivative_from(ladder)
        coarser = self.rungs[0] * _RATIO ** np.arange(_COARSER, 0, -1.0)
        coarser = coarser[coarser <= self.unit * _LARGEST]
        finer = self.rungs[-1] * _RATIO ** -np.arange(1.0, 1 + _FINER)
        for wish, more in (("coarser", coarser), ("finer", finer)):
            unsure = not found.uncertainty <= self.rtol * self.extent(some, found.value)
            if more.size and unsure and found.better_steps == wish:
                ladder = ladder.extended(self.ladder(some, more))
                found = derivative_from(ladder)
        return found

    def verdict(self, some: Sequence[int], derivative: Derivative) -> Slope:
        """The verdict by the rules for an entry, with the size of slopes as its scale."""
        extent = self.extent(some, derivative.value)
        tolerances = Tolerances(np.array([self.rtol]), np.array([self.rtol * extent]))
        rounding = np.array([4 * self.operation.eps * extent])
        first, analytic = np.zeros(1, np.int64), np.array([self.analytic(some)])
        found = judge(
            analytic, Estimates.of(first, [derivative]), first, np.array([extent]), tolerances, _NOISE, 0.0, rounding
        )
        name = self.operation.arguments[some[0]] if len(some) == 1 else ""
        return Slope(
            name, float(analytic[0]), float(found.numerical[0]), derivative.uncertainty, found.worst, found.reason[0]
        )
