"""Exact tangents of the loss, which decide entries and probes that differences and finer values leave undecided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fastgc._arguments import listed, plural
from fastgc._derivatives.complex_slopes import ComplexLoss
from fastgc._derivatives.directions import FURTHER, Probing, direction
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.evaluator import Ray, Tick
from fastgc._evaluation.tangents import Tangents
from fastgc._evaluation.working_time import now
from fastgc._gradient.finer import hides, same_loss, stands_still
from fastgc._parameters.arrays import Array, Flags, Floats, Positions, root_mean_squares
from fastgc._parameters.point import Point
from fastgc._progress import Progress
from fastgc._verdicts.complex_step import settled
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.exact import decided
from fastgc._verdicts.judgement import Judgement
from fastgc._verdicts.probes import ProbeResult, search

_EPS = 64 * float(np.finfo(np.float64).eps)  # the relative uncertainty of a tangent: round-off of some 100 operations
# In units of the scale: central quotients there are off by 1e-8 of a smooth slope, and their noise is 1e-11 of a loss.
_DISTANCES = np.array([2.0**-13, 2.0**-14])
_UNLIKE = 1e-3  # of a slope, besides what two quotients differ by: a body that drops a part of it is off by more


class ExactReferee:
    """Decides at a point, with tangents that are opened when they are first needed."""

    def __init__(
        self, loss: CallersLoss, point: Point, gradient: GradientAtPoint, deadline: float, seed: int, bar: Progress
    ) -> None:
        self._loss, self._point, self._gradient = loss, point, gradient
        self._deadline, self._seed, self._bar = deadline, seed, bar
        self._tangents: Tangents | None = None
        coarsest = float(gradient.loss.eps.max(initial=0.0))
        self._coarse = coarsest > float(np.finfo(np.float64).eps)
        self._half = coarsest >= float(np.finfo(np.float16).eps)
        self._tried = False
        self._entries = 0
        self._probed: set[str] = set()

    @property
    def evaluations(self) -> int:
        """Of the loss and its tangent so far."""
        return 0 if self._tangents is None else self._tangents.evaluations

    @property
    def notes(self) -> tuple[str, ...]:
        """On what was decided."""
        some = [f"{self._entries} {plural(self._entries, 'entry', 'entries')}"] if self._entries else []
        some += [f"the probes of {listed(sorted(self._probed), quote=False)}"] if self._probed else []
        if self._tangents is None or not some:
            return ()
        return (f"the exact tangent of {self._tangents.source} decided {' and '.join(some)}",)

    def close(self) -> None:
        """Close the tangents."""
        if self._tangents is not None:
            self._tangents.close()

    # --- entries ---

    def entries(self, estimates: Estimates, judgement: Judgement) -> tuple[Estimates, Judgement]:
        """The entries with those decided that were not."""
        jumps = estimates.troubled_by("jump", "not reached")
        doubted = judgement.undecided | (judgement.failed & (self._half | (self._coarse & stands_still(estimates))))
        where = np.flatnonzero(doubted & np.isfinite(judgement.analytic) & ~jumps)
        if not where.size or not self._opened():
            return estimates, judgement
        assert self._tangents is not None
        gradient = self._gradient
        exact = slopes_of_entries(self._tangents, gradient.loss, estimates.positions[where], self._deadline)
        known = np.isfinite(exact)
        where, exact = where[: exact.size][known], exact[known]
        uncertainty = self._uncertainty(estimates.positions[where], exact)
        estimates, judgement, count = decided(
            estimates, judgement, where, exact, uncertainty,
            gradient.judged,
            coarse=self._coarse, refutable=self._refutable,
        )  # fmt: skip
        self._entries += count
        return estimates, judgement

    def _uncertainty(self, positions: Positions, exact: Floats) -> Floats:
        """Round-off of the slopes: of what they are sums of, slopes of the loss around or the loss itself."""
        loss = self._gradient.loss
        terms = (loss.local_variation + abs(loss.base)) / loss.tensor_scales
        return np.asarray(_EPS * np.maximum(np.abs(exact), terms[loss.layout.tensor_of(positions)]))

    def _refutable(self, found: Estimates) -> Flags:
        """Where round-off of a coarse gradient is no excuse: the one in double precision is off by as much."""
        finer = self._in_double()
        native, double = self._gradient.analytic(found.positions), finer.analytic(found.positions)
        as_much = np.abs(double - found.numerical) >= np.abs(native - found.numerical) / 2
        return np.asarray(finer.judged(found).failed & as_much)

    def _in_double(self) -> GradientAtPoint:
        """The gradient in double precision beside the exact loss."""
        tangents, gradient = self._tangents, self._gradient
        if tangents is None or not self._coarse:
            return gradient
        finer = [np.asarray(each).reshape(-1) for each in tangents.gradients()]
        return replace(gradient, gradients=finer, sizes=root_mean_squares(finer))

    # --- probes ---

    def probes(
        self, coverages: Mapping[int, ProbeResult], estimates: Estimates, judgement: Judgement
    ) -> tuple[dict[int, ProbeResult], Estimates]:
        """The probes with those decided that were too uncertain, and the entries that a difference led to."""
        found = {t: each.probing for t, each in coverages.items() if hides(self._gradient, t, each)}
        if not found or not self._opened():
            return dict(coverages), Estimates.unmeasured(np.empty(0, np.int64))
        gradient, finer = self._with_tangents(self._gradient), self._with_tangents(self._in_double())
        right = {t: each for t, each in self._settled(gradient, found).items() if not each.suspicious}
        rest = {t: each for t, each in found.items() if t not in right}
        wrong = {t: each for t, each in self._settled(finer, rest).items() if each.suspicious}
        nowhere = np.empty(0, np.int64)
        located, looked_at = search(finer, nowhere, wrong, estimates, judgement, self._seed, self._bar)
        self._probed |= {finer.loss.layout.names[t] for t in {**right, **located}}
        return {**coverages, **{t: ProbeResult(each) for t, each in right.items()}, **located}, looked_at

    def _settled(self, gradient: GradientAtPoint, probings: Mapping[int, Probing]) -> dict[int, Probing]:
        """The probings with their slopes by tangents, where these can be relied on."""
        each_once = {id(each): each for each in probings.values()}
        exact = {key: settled(gradient, each, each.numbers, self._seed, 0.0) for key, each in each_once.items()}
        found = {t: exact[id(each)] for t, each in probings.items()}
        return {t: each for t, each in found.items() if each is not None}

    def _with_tangents(self, gradient: GradientAtPoint) -> GradientAtPoint:
        """The gradient beside a loss that is moved along tangents where complex steps are asked for."""
        assert self._tangents is not None
        moved = TangentEvaluator(self._tangents, gradient.loss)
        complex_loss = ComplexLoss(lambda: moved)
        complex_loss.agreed = True
        return replace(gradient, loss=replace(gradient.loss, complex_loss=complex_loss))

    # --- tangents ---

    def _opened(self) -> bool:
        """Whether there are tangents that can be relied on."""
        if not self._tried and now() <= self._deadline:
            self._tried = True
            found = self._loss.open_exact(self._point)
            if found is not None and self._sound(found):
                self._tangents = found
            elif found is not None:
                found.close()
        return self._tangents is not None

    def _sound(self, tangents: Tangents) -> bool:
        """Whether they are of this loss, the same twice, and not other than its differences in double precision."""
        loss = self._gradient.loss
        if not same_loss(self._gradient, tangents.value):
            return False
        filled = [t for t, size in enumerate(loss.layout.sizes) if size]
        rays = direction(loss, filled, self._seed, FURTHER)
        slope = tangents.slope(rays)
        if not (np.isfinite(slope) and tangents.slope(rays) == slope):
            return False
        values = tangents.values(rays, np.concatenate([_DISTANCES, -_DISTANCES]))
        quotients = (values[:2] - values[2:]) / (2 * _DISTANCES)
        known = max(_UNLIKE * abs(slope), 10 * float(np.ptp(quotients)))
        return not abs(float(quotients[1]) - slope) > known


class TangentEvaluator:
    """Moves a loss along its tangents: what a `ComplexLoss` evaluates, where a loss takes no complex numbers."""

    def __init__(self, tangents: Tangents, loss: LossAtPoint) -> None:
        self._tangents, self._loss = tangents, loss
        self.evaluations = 0  # the tangents count them

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array:
        """The loss at ``distances`` along each direction, to first order."""
        slopes = np.array([self._tangents.slope(rays) for rays in directions])
        return np.asarray(self._loss.base + slopes[:, None] * distances)

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """The loss with entries displaced, to first order."""
        lengths = displaced - self.entries(positions)[:, None]
        return np.asarray(self._loss.base + slopes_of_entries(self._tangents, self._loss, positions)[:, None] * lengths)

    def entries(self, positions: Positions) -> Array:
        """The entries at the point."""
        return self._loss.evaluator.entries(positions)


def slopes_of_entries(
    tangents: Tangents, loss: LossAtPoint, positions: Positions, deadline: float = math.inf
) -> Floats:
    """The slopes of the first entries, until the deadline."""
    found, layout = [], loss.layout
    for position, t in zip(positions.tolist(), layout.tensor_of(positions).tolist(), strict=True):
        if now() > deadline:
            break
        found.append(tangents.slope([Ray(t, position - int(layout.starts[t]), np.ones(1, np.int8), 1.0)]))
    return np.array(found)
