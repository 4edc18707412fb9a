"""From quotients to verdicts: cheap ones first, ladders for what they leave open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed
from fastgc._derivatives.estimates import (
    Estimates,
    LossAtPoint,
    ladder_estimates,
    quotient_estimates,
    telling_quotients,
)
from fastgc._derivatives.stencil import Stencil
from fastgc._parameters.arrays import Array, median
from fastgc._progress import Progress
from fastgc._verdicts.judgement import Judgement, Tolerances, gradient_scales, judge

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]


class HasLoss(Protocol):
    """A gradient whose loss is at hand: at a point of a check, or a row of a Jacobian."""

    @property
    def loss(self) -> LossAtPoint:
        """The loss of which it is the gradient."""


Verdicts = Callable[[Estimates], Judgement]
Ladders = Callable[[Positions, float], Estimates]  # of entries, with steps that many times the usual ones

PLAIN = 1000.0  # uncertainties beyond which an entry is wrong whatever else may be found
_BLOCK = 1 << 15  # entries of which quotients are made at a time: their values stay in the cache
_LOOKED_AT = 4096  # entries of a tensor that tell what is allowed for a usual one
_SOME = 3  # entries without which no remark is made
_AROUND = 1e-6  # share of the slopes around the point that a slope at the point is measured against, at least
_ROUND_OFF = 100  # eps of the loss: noise below it is round-off, and above it noise


@dataclass(frozen=True)
class GradientAtPoint:
    """One point of a check: what estimating and judging its entries needs.

    Attributes
    ----------
    gradients : the analytic gradient, one flat array for each tensor
    sizes : root mean square of each tensor's analytic gradient, which stands for the numerical one until that is known
    """

    loss: LossAtPoint
    gradients: Sequence[Array]
    sizes: Floats
    tolerances: Tolerances
    stencil: Stencil
    step: float | None

    @cached_property
    def usual_tolerances(self) -> Floats:
        """The allowed difference of an entry of median magnitude (of some 4,000 evenly spaced ones), (tensors,)."""
        some = [np.abs(each[:: max(1, each.size // _LOOKED_AT)].astype(np.float64)) for each in self.gradients]
        usual = np.array([median(each) if each.size else 0.0 for each in some])
        return np.asarray(self.tolerances.allowed(np.arange(usual.size), usual, self.sizes))

    def analytic(self, positions: Positions) -> Floats:
        """The analytic gradient at positions of the flat vector."""
        layout = self.loss.layout
        out = np.empty(positions.size)
        for t, mine in layout.parts(positions):
            out[mine] = self.gradients[t][positions[mine] - layout.starts[t]]
        return out

    def verdicts(self, estimates: Estimates, scales: Floats) -> Judgement:
        """The verdict on every estimated entry."""
        tensors = self.loss.layout.tensor_of(estimates.positions)
        analytic = self.analytic(estimates.positions)
        around = _AROUND * self.loss.local_variation / self.loss.tensor_scales
        return judge(analytic, estimates, tensors, scales, self.tolerances, _noise_reasons(self.loss), around)

    def scales(self, estimates: Estimates) -> Floats:
        """Each tensor's scale: of its numerical entries, or of the analytic gradient where none was measured."""
        clear = estimates.clear
        known = estimates.numerical if clear.all() else np.where(clear, estimates.numerical, np.nan)
        return gradient_scales(known, self.loss.layout.parts(estimates.positions), self.sizes)

    def joined(
        self, estimates: Estimates, judgement: Judgement, others: Estimates, scales: Floats
    ) -> tuple[Estimates, Judgement]:
        """Judged entries, and others that were looked at besides, each of these once."""
        if not others.positions.size:
            return estimates, judgement
        others = others.part(np.unique(others.positions, return_index=True)[1])
        others = others.part(~np.isin(others.positions, estimates.positions))
        if not others.positions.size:
            return estimates, judgement
        more = self.verdicts(others, scales)
        return Estimates.joined([estimates, others]), Judgement.joined([judgement, more])


def check_entries(gradient: GradientAtPoint, positions: Positions, bar: Progress) -> tuple[Estimates, Judgement]:
    """A quotient for every entry; a ladder of steps where that settles nothing; a second ladder where it is close."""
    quotients = _quotients(gradient, positions, bar)
    estimates, judgement = decide(
        quotients,
        lambda estimates: gradient.verdicts(estimates, gradient.scales(estimates)),
        lambda suspects, shift: _ladders(gradient, suspects, shift, bar),
    )
    estimates, judgement = confirm(
        gradient, estimates, judgement, lambda found: gradient.verdicts(found, gradient.scales(found))
    )
    bar.failed(int(np.count_nonzero(judgement.failed)))
    return (
        (estimates, judgement) if gradient.step is None else _with_textbook_quotients(estimates, judgement, quotients)
    )


def decide(estimates: Estimates, verdicts: Verdicts, ladders: Ladders) -> tuple[Estimates, Judgement]:
    """Ladders for all suspects, which can change the scales and so bring up more."""
    climbed = np.zeros(estimates.positions.size, bool)
    while True:
        judgement = verdicts(estimates)
        suspects = np.flatnonzero((judgement.failed | judgement.undecided | judgement.unsure) & ~climbed)
        if not suspects.size:
            return look_closer(estimates, judgement, verdicts, ladders)
        estimates = estimates.updated(suspects, ladders(estimates.positions[suspects], 1.0))
        climbed[suspects] = True


def look_closer(
    estimates: Estimates, judgement: Judgement, verdicts: Verdicts, ladders: Ladders
) -> tuple[Estimates, Judgement]:
    """Those too close to the tolerance to call once more, after ladders of other steps."""
    close = np.flatnonzero(judgement.close)
    if close.size:
        estimates = estimates.bettered(close, ladders(estimates.positions[close], 2.0))
        judgement = verdicts(estimates)
    return estimates, judgement


def confirm(
    gradient: HasLoss, estimates: Estimates, judgement: Judgement, verdicts: Verdicts
) -> tuple[Estimates, Judgement]:
    """Take back the failures that small steps speak against.

    Large steps can agree on a slope that kinks nearer to the point than any of them have changed. The fewest kinks lie
    within the smallest step whose noise still tells the two values apart: where its quotient is nearer to the analytic
    one, what it deviates from the numerical one by is uncertainty.
    """
    failed = np.flatnonzero(judgement.failed)
    distance = np.abs(judgement.analytic[failed] - estimates.numerical[failed])  # of the middle, at a kink
    near = distance <= PLAIN * estimates.uncertainty[failed]
    failed, distance = failed[near], distance[near]
    if not failed.size:
        return estimates, judgement
    told = telling_quotients(gradient.loss, estimates.positions[failed], distance)
    off = np.abs(told - estimates.numerical[failed])
    against = np.abs(told - judgement.analytic[failed]) < off
    uncertainty = estimates.uncertainty.copy()
    uncertainty[failed[against]] = off[against]
    estimates = replace(estimates, uncertainty=uncertainty)
    return estimates, verdicts(estimates)


def _quotients(gradient: GradientAtPoint, positions: Positions, bar: Progress) -> Estimates:
    """Of sorted positions."""
    found = Estimates.unmeasured(positions)
    for t, mine in gradient.loss.layout.parts(positions):
        bar.enter(gradient.loss.layout.names[t])
        for begin in range(mine.start, mine.stop, _BLOCK):
            some = slice(begin, min(begin + _BLOCK, mine.stop))
            found.fill(
                some, quotient_estimates(gradient.loss, positions[some], gradient.stencil, gradient.step, bar.advance)
            )
    return found


def _ladders(gradient: GradientAtPoint, positions: Positions, shift: float, bar: Progress) -> Estimates:
    """Tensor by tensor, so that the bar says where the work is."""
    parts = []
    for t, mine in gradient.loss.layout.parts(positions):
        bar.enter(f"{gradient.loss.layout.names[t]} (in doubt)")
        parts.append(ladder_estimates(gradient.loss, positions[mine], shift=shift))
    return Estimates.joined(parts)


def _with_textbook_quotients(
    estimates: Estimates, judgement: Judgement, quotients: Estimates
) -> tuple[Estimates, Judgement]:
    """Under a step of the caller's own, ``numerical`` is the quotient with that step, as uncertain as it has proved."""
    off = np.abs(quotients.numerical - estimates.numerical)
    plain = np.isfinite(off) & estimates.clear
    uncertainty = np.where(plain, estimates.uncertainty + off, estimates.uncertainty)
    numerical = np.where(plain, quotients.numerical, judgement.numerical)
    shown = replace(estimates, numerical=numerical, uncertainty=uncertainty, step=quotients.step)
    return shown, replace(judgement, numerical=numerical)


def _noise_reasons(loss: LossAtPoint) -> tuple[str, str]:
    """Why a slope is too uncertain, and why one cannot be told from zero."""
    if loss.noise.single:
        return ("round-off (of float32, it seems) hides the slope",) * 2
    if _is_noisy(loss):
        return ("noise of the loss hides the slope",) * 2
    return (
        "round-off leaves the slope too uncertain",
        "the slope vanishes within round-off here: check at another point",
    )


def _is_noisy(loss: LossAtPoint) -> bool:
    """Whether the loss varies by more than round-off of its arithmetic, whose terms may cancel at the point itself."""
    size = max(abs(loss.base), loss.local_variation) or 1.0
    round_off = _ROUND_OFF * float(np.finfo(np.float64).eps) * size
    return not loss.noise.single and loss.noise.at_point > max(round_off, loss.noise.displaced / 100)


def remarks(gradient: GradientAtPoint, estimates: Estimates, analytic: Floats) -> Iterator[str]:
    """Remarks on checks that show less than they seem to."""
    if not analytic.size:
        return
    if not (gradient.loss.local_variation or estimates.numerical.any()):
        yield "the loss did not respond to any entry: does it read its argument?"
    elif not analytic.any():
        yield "the analytic gradient is zero everywhere"
    elif still := _still_tensors(gradient, estimates):
        yield f"the slope vanishes in {listed(still)}: a wrong factor would not show there; check at another point"
    if _agrees_to_the_last_bit(gradient, estimates, analytic):
        yield "the analytic gradient agrees with the quotients to the last bit: is it a finite difference itself?"


def _still_tensors(gradient: GradientAtPoint, estimates: Estimates) -> list[str]:
    """Names of tensors whose slopes are all zero within round-off; noise hides slopes and says nothing of them."""
    if gradient.step is not None or _is_noisy(gradient.loss):
        return []
    layout, zero = gradient.loss.layout, np.abs(estimates.numerical) <= estimates.uncertainty
    return [layout.names[t] for t, part in layout.parts(estimates.positions) if zero[part].all()]


def _agrees_to_the_last_bit(gradient: GradientAtPoint, estimates: Estimates, analytic: Floats) -> bool:
    """Whether it agrees with quotients whose own error, seen on a ladder, should keep them apart."""
    bits = 4 * np.finfo(np.float64).eps
    for each in (slice(0, _SOME), slice(_SOME, None)):  # the first few say no, as a rule
        if not (np.abs(analytic[each] - estimates.numerical[each]) <= bits * np.abs(analytic[each])).all():
            return False
    some = np.flatnonzero(analytic)[:_SOME]
    if some.size < _SOME:
        return False
    true = ladder_estimates(gradient.loss, estimates.positions[some]).numerical
    return bool(np.all(np.abs(true - analytic[some]) > 25 * bits * np.abs(analytic[some])))
