"""An evaluator that passes every question on to another one: what changes some of them is made from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastgc._evaluation.evaluator import Evaluator, Raised, Ray, Tick
from fastgc._parameters.arrays import Array, Positions


class WrappedEvaluator:
    """As `Evaluator`, by means of another one, ``inner``."""

    def __init__(self, inner: Evaluator) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        """How the loss is evaluated."""
        return self.inner.name

    @property
    def raised(self) -> Raised:
        """The exceptions of the loss at displaced points so far."""
        return self.inner.raised

    @property
    def evaluations(self) -> int:
        """The number of calls of the loss so far."""
        return self.inner.evaluations

    @property
    def pace(self) -> float | None:
        """Seconds for each evaluation, where workers have measured it."""
        found: float | None = getattr(self.inner, "pace", None)
        return found

    def value(self) -> Any:
        """The loss at the point itself."""
        return self.inner.value()

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """As `Evaluator.values`."""
        return self.inner.values(positions, displaced, tick)

    def along(self, positions: Positions, rows: Array) -> Array:
        """As `Evaluator.along`."""
        return self.inner.along(positions, rows)

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array:
        """As `Evaluator.along_rays`."""
        return self.inner.along_rays(directions, distances)

    def entries(self, positions: Positions) -> Array:
        """The entries at ``positions``, as float64."""
        return self.inner.entries(positions)

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        """As `Evaluator.rounded`."""
        return self.inner.rounded(positions, displaced)

    def close(self) -> None:
        """Close the other evaluator."""
        self.inner.close()
