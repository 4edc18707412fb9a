"""Difference formulas as data, their steps, and the displaced points they need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array


@dataclass(frozen=True)
class Stencil:
    """A difference quotient ``sum(weights * f(x + offsets * h)).real / h`` with an error of ``h**order``."""

    name: str
    offsets: tuple[complex, ...]
    weights: tuple[complex, ...]
    order: int

    @cached_property
    def is_complex(self) -> bool:
        """Whether the points leave the real axis."""
        return any(isinstance(offset, complex) for offset in self.offsets)


# Offsets and weights: Fornberg (1988), tables 1 (central) and 3 (one-sided). Complex step: Squire and Trapp (1998),
# Im f(x + ih) / h, which subtracts nothing and so allows any small step.
STENCILS = {
    stencil.name: stencil
    for stencil in (
        Stencil("forward", (1, 0), (1, -1), 1),
        Stencil("backward", (0, -1), (1, -1), 1),
        Stencil("central", (1, -1), (0.5, -0.5), 2),
        Stencil("five_point", (2, 1, -1, -2), (-1 / 12, 8 / 12, -8 / 12, 1 / 12), 4),
        Stencil("complex_step", (1j,), (-1j,), 2),
    )
}


_FOUR_BITS = 11 / 16  # binary 0.1011: the fraction of every step; `short` says why


def stencil_named(name: str) -> Stencil:
    """The stencil of that name; a ValueError lists those there are."""
    if not isinstance(name, str) or name not in STENCILS:
        raise ValueError(f"stencil {name!r} is not known; choose one of {', '.join(map(repr, STENCILS))}")
    return STENCILS[name]


def relative_step(stencil: Stencil, precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """The step, in units of the parameter's scale, at which truncation and round-off of the formula balance.

    With values of relative precision eps the error is about h**p + eps/h, least at h = eps**(1/(p+1)) up to a factor
    near one (Press et al., Numerical Recipes, section 5.7): the square, cube and fifth root for p = 1, 2 and 4.
    """
    if stencil.is_complex:
        return precision * 1e-4  # nothing cancels; h**2, 1e-40 in double precision, is far below every round-off
    return precision ** (1 / (stencil.order + 1))


def short(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest lengths of four bits each, 11/16 times a power of two.

    A loss that rounds its parameters to fewer bits (float32) still sees such a step whole if the step is at least 11
    times the spacing of its numbers: x - h, x and x + h are rounded by the same amount, unless a power of two lies
    between them. A step that is a power of two hides the slope of every loss whose period is a smaller power of two; a
    step of 11/16 of it does so only if it spans five periods or more.
    """
    return np.asarray(_FOUR_BITS * np.ldexp(1.0, np.frexp(lengths / _FOUR_BITS * 2**0.5)[1] - 1))


def quotients(stencil: Stencil, values: Array, steps: NDArray[np.float64], taken: Array | None) -> NDArray[np.float64]:
    """Difference quotients of loss values, shape (entries, offsets).

    Parameters
    ----------
    steps : array, shape (entries,)
        Nominal steps, the divisor where ``taken`` is None.
    taken : array, shape (entries, offsets), or None
        The displacements as rounded, ``(x + offset * h) - x``. The divisor is then the same weighted sum of these:
        the quotient of f(x) = x is exactly 1, whatever the rounding.
    """
    weights = np.array(stencil.weights)
    divisor = steps if taken is None else (taken @ weights).real
    with np.errstate(all="ignore"):  # values that are not finite are judged later, not warned about
        return np.asarray((values @ weights).real / divisor)
