"""Entries looked at one by one during a search: whether they are wrong, and by how much."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.entry_ladders import ladder_estimates
from fastgc._derivatives.estimates import Estimates
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Floats, Positions
from fastgc._verdicts.entries import GradientAtPoint, confirm, excused, look_closer, near_the_point
from fastgc._verdicts.judgement import Judgement
from fastgc._verdicts.plainly_wrong import PLAIN

_CONFIRMING_STEPS = 6  # of the ladder that confirms a wrong entry: the fewest that tell a kink from curvature


@dataclass(frozen=True)
class ConfirmedEntries:
    """Looks at entries of a gradient, and keeps the estimates of all of them.

    Attributes
    ----------
    sampled : the entries that set the scales of the tensors
    estimates : of the entries looked at so far, one part for each call of `errors`
    """

    gradient: GradientAtPoint
    sampled: Estimates
    estimates: list[Estimates] = field(default_factory=list)

    @cached_property
    def scales(self) -> Floats:
        """Of the tensors; see `fastgc._verdicts.judgement.gradient_scales`."""
        return self.gradient.scales(self.sampled)

    def errors(self, positions: Positions) -> tuple[Floats, NDArray[np.bool_]]:
        """Errors ``a - n`` of the entries, and which are wrong; with all steps where a few leave doubt."""
        loss = self.gradient.loss
        estimates = self._by_complex_step(positions) or ladder_estimates(loss, positions, rungs=_CONFIRMING_STEPS)
        judgement = self._judged(estimates)
        distance = np.abs(judgement.analytic - judgement.numerical)
        doubtful = np.flatnonzero((distance > judgement.allowed) & ~(distance > PLAIN * estimates.uncertainty))
        if doubtful.size:
            estimates = estimates.updated(doubtful, ladder_estimates(loss, positions[doubtful]))
            estimates, judgement = look_closer(
                estimates,
                self._judged(estimates),
                self._judged,
                lambda close, shift: ladder_estimates(loss, close, shift=shift),
            )
            estimates, judgement = confirm(near_the_point(loss), estimates, judgement, self._judged)
        estimates, judgement = excused(self.gradient, estimates, judgement, self._judged)
        self.estimates.append(estimates)
        # What such values add is no error to follow.
        known = estimates.troubled_by("convention", "outside", "unasked", "hidden")
        return np.where(known, 0.0, judgement.analytic - judgement.numerical), judgement.failed

    def _by_complex_step(self, positions: Positions) -> Estimates | None:
        if self.gradient.loss.complex_loss is None:
            return None
        from fastgc._verdicts.complex_step import entry_estimates  # few checks need it

        return entry_estimates(self.gradient, positions, self.scales)

    def _judged(self, estimates: Estimates) -> Judgement:
        return self.gradient.verdicts(estimates, self.scales)
