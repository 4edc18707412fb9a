"""The points at which a gradient is checked: the caller's, and random ones around it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from fastgc._derivatives.displaced import displaced_leaves
from fastgc._diagnosis.earlier import EarlierParameters
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.engine import FirstCall, in_turn, is_jitted, readable_compilation
from fastgc._evaluation.evaluator import Evaluator, Ray, Stopped, WrongValueError, described
from fastgc._evaluation.floating_point import at_point, away_from_the_point
from fastgc._evaluation.working_time import left_out, now
from fastgc._gradient.examine import PointCheck, examine, expected_evaluations, fewest_evaluations
from fastgc._gradient.kept import KeptValues
from fastgc._gradient.noisy import examine_noisy
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.arrays import Array
from fastgc._parameters.matching import match_gradients
from fastgc._parameters.point import Point, leaves_at, refuse_changed, replaced
from fastgc._parameters.sampling import Selection
from fastgc._progress import Progress
from fastgc._reports.summary import PointResult, Tries
from fastgc._verdicts.entries import GradientsAlong
from fastgc._verdicts.time_budget import over_note

_REACHES = [2.0**-k for k in range(8)]  # of random points, in mean magnitudes of each tensor; the last is 0.8 %

_PACED = 10  # evaluations whose mean time is trusted: imports at the beginning, some 20 ms, weigh on fewer

Result = TypeVar("Result")


@dataclass(frozen=True)
class PointChecker:
    """Checks one gradient at several points.

    Attributes
    ----------
    gradients : ``gradients(params, *args)``, or its value, or True where the loss returns both
    previous : the parameters of an earlier moment, if the caller gave any
    kept : keeps loss values in a checkpoint, if there is one
    """

    loss: CallersLoss
    gradients: object
    options: CheckOptions
    selection: Selection
    previous: EarlierParameters | None
    bar: Progress
    kept: KeptValues

    def check(self, number: int, deadline: float) -> tuple[PointResult | None, Tries]:
        """Check at the caller's point (number 0), or at a random one, which comes nearer until the loss is defined.

        None where loss or gradient has no value at the nearest one either.
        """
        if number == 0:
            found, _ = self._check_at(0, 0.0, deadline)
            return found, Tries()
        return nearest(lambda reach: self._check_at(number, reach, deadline))

    def _check_at(self, number: int, reach: float, deadline: float) -> tuple[PointResult | None, Exception | None]:
        """The result at a point; or what was raised at a random one, where loss or gradient is not defined."""
        loss = self.loss
        moving = leaves_at(loss.leaves, self.options.seed, number, reach, in_place=loss.in_place, bounds=loss.bounds,
                           symmetric=loss.symmetric)  # fmt: skip
        with loss.at(moving) as point, contextlib.ExitStack() as opened:
            before = point.stamp
            try:
                jitted = is_jitted(loss.function)
                self.bar.phase("compiling" if jitted else "first calls")
                with left_out(jitted or loss.execution.engine == "numba"):
                    evaluator, first = loss.open(point, self._expected, deadline)
                opened.callback(evaluator.close)
                gradients = self._analytic(point)
                evaluator = self.kept.of(evaluator, point.leaves, first, gradients)
            except (WrongValueError, Stopped):
                raise
            except Exception as error:
                if number == 0:
                    raise
                return None, error
            found = self._examined(self._point_check(point, number, deadline, evaluator, first, gradients), first)
            refuse_changed(point, before, "loss")
        return (found if self.options.points == 1 else found.released()), None

    def _point_check(
        self, point: Point, number: int, deadline: float, evaluator: Evaluator, first: FirstCall, gradients: list[Array]
    ) -> PointCheck:
        base, notes = float(np.real(first.value)), [*self.loss.notes, *first.notes, *self._conventions(gradients)]
        return PointCheck(
            self.options, self.selection, evaluator, point.leaves, self._folded(gradients), base, notes, number,
            deadline, self.loss, point, self.previous, self._displaced(point),
        )  # fmt: skip

    def _displaced(self, point: Point) -> GradientsAlong | None:
        """The analytic gradient at displaced parameters, if it can be called."""
        if not (callable(self.gradients) or self.gradients is True):
            return None

        def along(rays: Sequence[Ray]) -> Sequence[Array]:
            values = displaced_leaves(point.real().leaves, rays)
            moving = replaced(self.loss.leaves, values, in_place=self.loss.in_place)
            with away_from_the_point(), self.loss.at(moving) as there:
                return self._folded(self._analytic(there))

        return along

    def _examined(self, check: PointCheck, first: FirstCall) -> PointResult:
        """The result, with a note on the time that the whole check would take if it was not enough."""
        begin, before = now(), check.evaluator.evaluations
        found = (examine_noisy if first.noisy else examine)(check, self.bar)
        if not found.unreached:
            return found
        more = found.evaluations - before
        pace = (now() - begin) / more if more >= _PACED else first.seconds
        nothing = not (check.interrupted or found.estimates.positions.size or found.coverages)
        few = fewest_evaluations(self.selection, self.options) if nothing else 0
        words = "the loss", "a few entries of every tensor"
        note = over_note(self.options.time_budget or 0.0, pace, few, self._expected, words)
        note = note.replace("time_budget was over", "the check was interrupted") if check.interrupted else note
        return replace(found, notes=(*found.notes, note))

    @property
    def _expected(self) -> int:
        return expected_evaluations(self.selection, self.options)

    def _analytic(self, point: Point) -> list[Array]:
        """The analytic gradient as the caller has it, one flat array for each tensor, safe from being overwritten."""
        if not (callable(self.gradients) or self.gradients is True):
            return match_gradients(self.loss.layout, self.gradients, copy=False)
        function: Callable[..., Any] = self.loss.function if self.gradients is True else self.gradients
        point, jitted = point.real(), is_jitted(function)
        before = point.stamp
        with readable_compilation("the gradients"):
            received = point.received_by(jitted)
            result = self.loss.interruption.call(at_point(in_turn(function, point.args)), received, *point.args)
        refuse_changed(point, before, "gradients" if function is self.gradients else "loss")
        found = result[1] if self.gradients is True else result
        return match_gradients(self.loss.layout, found, by_position=jitted, copy=True)

    def _folded(self, gradients: list[Array]) -> list[Array]:
        """The gradients with both entries of a symmetric pair added up."""
        return gradients if self.loss.symmetric is None else self.loss.symmetric.folded(gradients)

    def _conventions(self, gradients: Sequence[Array]) -> list[str]:
        """How the gradients of symmetric tensors are read."""
        symmetric = self.loss.symmetric
        return [] if symmetric is None else [symmetric.convention(t, gradients[t]) for t in symmetric.tensors]


def nearest(
    result_at: Callable[[float], tuple[Result | None, Exception | None]],
) -> tuple[Result | None, Tries]:
    """The result at a random point, which comes nearer until nothing is raised there; None if something always is."""
    tries = Tries()
    for reach in _REACHES:
        with away_from_the_point():
            found, error = result_at(reach)
        if error is None:
            return found, tries
        tries = Tries(tries.count + 1, described(error))
    return None, replace(tries, found=False)
