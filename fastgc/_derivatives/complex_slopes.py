"""Slopes along directions by the complex step: one evaluation each, right to round-off where the loss is analytic.

Let F(z) = f(x + z d) be the loss along a direction d, with the complex distance z = s + it. Its derivatives
F_z = (F_s - i F_t) / 2 and F_z* = (F_s + i F_t) / 2 give, at z = 0, where F is real on the real axis,

    slope = F_s = F_z + F_z*,    Im F(ih) / h = Im F_t = F_z - F_z*  (real parts),    slope - Im F(ih) / h = 2 F_z*.

F is analytic where the equation of Cauchy and Riemann holds, F_z* = 0. So the error of the complex step is exactly what
violates that equation, and whoever compares the complex step with real differences tests the equation, as closely as
the differences are known. No test with numbers tests it better: Im F alone cannot, since an absolute value has the
imaginary part 0, which satisfies every equation of analytic functions. What is better than differences therefore rests
on the source of the loss (`fastgc._verdicts.complex_step.is_analytic`). `ComplexLoss` is made only for a loss whose
source uses nothing but analytic functions, and its slopes are taken only where

- the real part at x + ih d is the loss at x, to the noise of the loss: complex numbers lead through the same code;
- the slope agrees with real differences along the same direction, within their uncertainty;
- three imaginary steps agree: their range bounds the round-off.

What could slip through: an operation that the source names by an analytic function, but that drops imaginary parts (a
dtype given by position as text, ``np.sum(x, None, "f8")``), where its share of the slope is below the uncertainty of
the differences in every direction measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from fastgc._evaluation.evaluator import OutOfTime, Ray, Tick, silent
from fastgc._parameters.arrays import Array, Floats, Positions

# In units of the scale: their squares, 1e-40, vanish beside 1. No one is another times a power of 2: they round apart.
IMAGINARY_STEPS = np.array([1.0, 1.3, 1.7]) * 1e-20

ROUND_OFF = 64 * np.finfo(np.float64).eps  # of a slope, relative: some 64 operations, or the sums of a direction


class ComplexEvaluator(Protocol):
    """What a `ComplexLoss` needs of an `Evaluator` over complex parameters."""

    @property
    def evaluations(self) -> int: ...

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array: ...

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array: ...

    def entries(self, positions: Positions) -> Array: ...


class ComplexLoss:
    """A loss at complex parameters, if its source shows that it is analytic.

    Parameters
    ----------
    opened : callable
        Gives an evaluator over complex parameters; None for a loss that may not be analytic. It is called when a value
        is first asked for.
    preferred : bool
        Whether complex steps come before differences; otherwise they are for what differences do not decide.
    slow_start : bool
        Whether the first value takes a compilation.

    Attributes
    ----------
    agreed : whether a slope agreed with differences
    trouble : why it has no values, or ""
    """

    def __init__(
        self, opened: Callable[[], ComplexEvaluator | None], *, preferred: bool = False, slow_start: bool = False
    ) -> None:
        self._opened, self.preferred, self.slow_start = opened, preferred, slow_start
        self._evaluator: ComplexEvaluator | None = None
        self.agreed, self.trouble = False, ""

    @property
    def evaluations(self) -> int:
        """The number of calls of the loss so far."""
        return 0 if self._evaluator is None else self._evaluator.evaluations

    def along_rays(self, directions: Sequence[Sequence[Ray]], steps: Floats) -> Array | None:
        """Values at the distances ``1j * steps``, shape (directions, steps); None where it has none."""
        return self._values(lambda evaluator: evaluator.along_rays(directions, 1j * steps))

    def at_entries(self, positions: Positions, steps: Floats) -> Array | None:
        """Values with each entry moved by ``1j`` times its steps, both of shape (entries, steps); None as above."""

        def values(evaluator: ComplexEvaluator) -> Array:
            return evaluator.values(positions, evaluator.entries(positions)[:, None] + 1j * steps, silent)

        return self._values(values)

    def refuse(self, why: str) -> None:
        """Have no values from now on."""
        self.trouble = why

    def _values(self, values: Callable[[ComplexEvaluator], Array]) -> Array | None:
        if self.trouble:  # a further try would compile a jitted loss again
            return None
        try:
            self._evaluator = self._evaluator or self._opened()
            if self._evaluator is None:
                self.refuse("its source does not show that it is analytic")
                return None
            found = np.asarray(values(self._evaluator))
        except OutOfTime:
            raise
        except Exception:  # whatever a loss does with numbers that it was not written for
            found = np.array(np.nan)
        if np.isfinite(found).all():  # both parts: nan as a complex number has an imaginary part of 0
            return found
        self.refuse("it does not take complex numbers")
        return None
