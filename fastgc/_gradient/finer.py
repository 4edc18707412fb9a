"""Entries and probes that coarse loss values leave undecided, looked at again with finer values of the same loss.

Differences of a loss in single precision often show nothing of a slope. The same forward pass in double precision does,
and it knows nothing of the backward that is checked. It only confirms: where it differs, the round-off of the coarse
gradient may be why. And it does not overrule clear differences of the coarse loss, whose gradient is asked for; but a
coarse loss that stands still shows nothing: it is a stair whose ends were not reached.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fastgc._arguments import plural
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.loss_at_point import LossAtPoint, open_loss
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.evaluator import Evaluator, OutOfTime
from fastgc._parameters.arrays import Flags
from fastgc._parameters.point import Point
from fastgc._progress import Progress
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.exact import contradicted
from fastgc._verdicts.judgement import Judgement
from fastgc._verdicts.probes import ProbeResult, probe_tensors, resolves
from fastgc._verdicts.time_budget import check_in_time

# Of its terms, to first order, by which it may be off besides: on stairs neighbouring values do not scatter.
_ROUNDINGS = 4.0
_SAME_LOSS = 100.0  # times its noise, by which the coarse loss may be off: noise is what neighbouring values scatter by


class FinerValues:
    """A second look at a point, with the finer loss opened when it is first needed."""

    def __init__(
        self, loss: CallersLoss, point: Point, gradient: GradientAtPoint, deadline: float, seed: int, bar: Progress
    ) -> None:
        self._loss, self._point, self._coarse = loss, point, gradient
        self._deadline, self._seed, self._bar = deadline, seed, bar
        self._evaluator: Evaluator | None = None
        self._gradient: GradientAtPoint | None = None
        self._opened, self._confirmed = False, 0

    @property
    def evaluations(self) -> int:
        """Calls of the finer loss so far."""
        return 0 if self._evaluator is None else self._evaluator.evaluations

    @property
    def notes(self) -> tuple[str, ...]:
        """On what was confirmed."""
        count = self._confirmed
        entries = f"{count} {plural(count, 'entry', 'entries')}"
        said = f"the forward pass in double precision confirmed {entries} that coarser values left undecided"
        return (said,) if count else ()

    def close(self) -> None:
        """Close the evaluator."""
        if self._evaluator is not None:
            self._evaluator.close()

    def entries(self, estimates: Estimates, judgement: Judgement) -> tuple[Estimates, Judgement]:
        """The entries with those passed that agree with finer values."""
        still = stands_still(estimates)
        where = np.flatnonzero((judgement.undecided | (judgement.failed & still)) & np.isfinite(judgement.analytic))
        gradient = self._finer() if where.size else None
        if gradient is None:
            return estimates, judgement
        found, judged = check_in_time(gradient, estimates.positions[where], self._deadline, self._bar)
        where = where[np.isin(estimates.positions[where], found.positions)]
        keep = judged.passed & (still[where] | ~contradicted(estimates.part(where), found.numerical))
        moving = still[where] & judgement.failed[where] & (np.abs(found.numerical) > found.uncertainty) & ~keep
        if moving.any():  # these stand on a stair
            estimates = estimates.troubled(where[moving], "quantised")
            judgement = self._coarse.judged(estimates)
        if not keep.any():
            return estimates, judgement
        judgement = judgement.part(np.arange(judgement.analytic.size))
        judgement.set_at(where[keep], judged.part(keep))
        self._confirmed += int(np.count_nonzero(keep))
        return estimates.updated(where[keep], found.part(keep)), judgement

    def probes(self, coverages: Mapping[int, ProbeResult], probes: int) -> dict[int, ProbeResult]:
        """The probes of tensors, with those that were too uncertain replaced where finer ones see no difference."""
        doubted = [t for t, each in coverages.items() if hides(self._coarse, t, each)]
        gradient = self._finer() if doubted else None
        if gradient is None:
            return dict(coverages)
        found = probe_tensors(gradient, doubted, probes, self._seed, self._bar)
        better = {t: ProbeResult(each) for t, each in found.items() if not (each.suspicious or each.trouble)}
        return {**coverages, **better}

    def _finer(self) -> GradientAtPoint | None:
        """The same gradient beside the finer loss; None where there is none, or it is another function."""
        if not self._opened:
            self._opened = True
            with contextlib.suppress(OutOfTime):
                self._gradient = self._open()
        return self._gradient

    def _open(self) -> GradientAtPoint | None:
        opened = self._loss.open_finer(self._point, self._deadline)
        if opened is None:
            return None
        self._evaluator, first = opened
        coarse, layout = self._coarse.loss, self._coarse.loss.layout
        if not same_loss(self._coarse, first.value):
            return None
        leaves = [leaf.astype(np.float64) for leaf in self._point.leaves]
        tensors = range(len(layout.names))
        loss: LossAtPoint = open_loss(self._evaluator, layout, leaves, tensors, float(first.value), self._seed)
        loss = replace(loss, tensor_scales=coarse.tensor_scales, bounds=coarse.bounds, symmetric=coarse.symmetric)
        return replace(self._coarse, loss=loss)


def same_loss(gradient: GradientAtPoint, value: float) -> bool:
    """Whether a value in double precision is that of the loss, to its round-off."""
    loss, some = gradient.loss, range(len(gradient.gradients))
    terms = sum(float(loss.tensor_scales[t]) * float(np.abs(gradient.gradients[t]).sum(dtype=np.float64)) for t in some)
    rounding = float(loss.eps.max(initial=0.0)) * (abs(loss.base) + terms)
    return abs(value - loss.base) <= max(_SAME_LOSS * loss.noise.at_point, _ROUNDINGS * rounding)


def stands_still(estimates: Estimates) -> Flags:
    """Entries with which the loss did not move."""
    return np.asarray((estimates.numerical == 0) & (estimates.left == 0) & (estimates.right == 0))


def hides(gradient: GradientAtPoint, t: int, coverage: ProbeResult) -> bool:
    """Whether the probes of a tensor are too uncertain and found nothing."""
    fruitless = coverage.located is None or not coverage.located.wrong
    return fruitless and not (coverage.probing.suspicious or resolves(gradient, t, coverage.probing))
