"""The slopes of a loss by forward mode, apart from the gradient that is checked: what a framework gives for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fastgc._evaluation.evaluator import Ray
from fastgc._parameters.arrays import Array, Floats


class Tangents(Protocol):
    """Slopes of a loss that owe nothing to the gradient that is checked.

    Attributes
    ----------
    value : the loss at the point, in double precision
    source : whose tangents they are, in words
    evaluations : of the loss or of its tangent, so far
    """

    value: float
    source: str
    evaluations: int

    def slope(self, rays: Sequence[Ray]) -> float:
        """The slope along a direction; nan where it is not known."""
        ...

    def values(self, rays: Sequence[Ray], distances: Floats) -> Floats:
        """The loss at these distances along a direction."""
        ...

    def gradients(self) -> Sequence[Array]:
        """The gradient that is checked, in double precision, a flat array for each tensor."""
        ...

    def close(self) -> None:
        """Restore what was changed."""
        ...
