"""Slopes of all outputs along a direction by the complex step, where the function is analytic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fastgc._derivatives.complex_slopes import IMAGINARY_STEPS, ROUND_OFF
from fastgc._derivatives.ladder import WRONG_BEYOND
from fastgc._evaluation.evaluator import OutOfTime, Ray
from fastgc._jacobian.function import VectorFunction
from fastgc._parameters.arrays import Floats, root_mean_square


class ComplexFunction:
    """A function at complex inputs, if its source shows that it is analytic (see `fastgc._derivatives.complex_slopes`).

    Parameters
    ----------
    opened : callable
        Gives the function at complex inputs; None for one that may not be analytic.
    preferred : bool
        Whether complex steps come before differences; otherwise they are for what differences do not show.

    Attributes
    ----------
    agreed : whether slopes agreed with differences, so that further ones need none
    evaluations : of the function at complex inputs
    """

    def __init__(self, opened: Callable[[], VectorFunction | None], *, preferred: bool) -> None:
        self._opened, self.preferred = opened, preferred
        self._function: VectorFunction | None = None
        self.agreed, self._refused, self.evaluations = False, False, 0

    def confirm(self, rays: Sequence[Ray], near: Floats, uncertainty: Floats) -> None:
        """Compare with slopes from differences: further ones need none if they agree, and are refused if not."""
        found = self.slopes(rays)
        self.agreed = found is not None and bool((np.abs(found[0] - near) <= uncertainty).all())
        self._refused = not self.agreed

    def slopes(self, rays: Sequence[Ray]) -> tuple[Floats, Floats] | None:
        """Slopes of all outputs along a direction, and their uncertainties; None where it has none."""
        try:
            self._function = self._function or (None if self._refused else self._opened())
            if self._function is None:
                self._refused = True
                return None
            values = self._function.along_complex(rays, 1j * IMAGINARY_STEPS)
        except OutOfTime:
            raise
        except Exception:  # whatever a function does with numbers that it was not written for
            self._refused = True
            return None
        self.evaluations += IMAGINARY_STEPS.size
        slopes = values.imag / IMAGINARY_STEPS[:, None]
        if self._refused or not np.isfinite(values).all():
            return None
        size = np.maximum(np.abs(slopes[0]), root_mean_square(slopes[0]))
        return slopes[0], WRONG_BEYOND * np.ptp(slopes, axis=0) + ROUND_OFF * size + np.finfo(np.float64).tiny
