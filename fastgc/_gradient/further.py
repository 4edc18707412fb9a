"""Further looks at what the caller's loss leaves undecided: finer values of it, and then exact tangents."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from fastgc._derivatives.estimates import Estimates
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.evaluator import OutOfTime
from fastgc._gradient.exact import ExactReferee
from fastgc._gradient.finer import FinerValues
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.point import Point
from fastgc._progress import Progress
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.judgement import Judgement
from fastgc._verdicts.probes import ProbeResult


class FurtherLooks:
    """Looks at a point, any number of times."""

    def __init__(
        self,
        loss: CallersLoss,
        point: Point,
        gradient: GradientAtPoint,
        deadline: float,
        options: CheckOptions,
        bar: Progress,
    ) -> None:
        self._probes = options.probes
        self._finer = None if loss.finer is None else FinerValues(loss, point, gradient, deadline, options.seed, bar)
        excluded = loss.exact is None or loss.is_complex or loss.symmetric is not None or gradient.step is not None
        self._exact = None if excluded else ExactReferee(loss, point, gradient, deadline, options.seed, bar)

    def __call__(
        self,
        estimates: Estimates,
        judgement: Judgement,
        coverages: Mapping[int, ProbeResult],
        looked_at: Estimates,
    ) -> tuple[Estimates, Judgement, dict[int, ProbeResult], Estimates]:
        """The entries with their verdicts, the probes, and the entries that these led to, after the looks."""
        found = dict(coverages)
        if self._finer is not None:
            estimates, judgement = self._finer.entries(estimates, judgement)
            found = self._finer.probes(found, self._probes)
        if self._exact is not None:
            with contextlib.suppress(OutOfTime):
                estimates, judgement = self._exact.entries(estimates, judgement)
                found, more = self._exact.probes(found, estimates, judgement)
                looked_at = Estimates.joined([looked_at, more])
        return estimates, judgement, found, looked_at

    @property
    def notes(self) -> tuple[str, ...]:
        """On what they decided."""
        return tuple(note for each in (self._finer, self._exact) if each is not None for note in each.notes)

    @property
    def evaluations(self) -> int:
        """That they took."""
        return sum(each.evaluations for each in (self._finer, self._exact) if each is not None)

    def close(self) -> None:
        """Restore what was changed, the last first."""
        for each in (self._exact, self._finer):
            if each is not None:
                each.close()
