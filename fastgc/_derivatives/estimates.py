"""Numerical derivatives of single entries, in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.ladder import TROUBLES, Derivative
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Floats, Positions


@dataclass(frozen=True)
class Estimates:
    """Numerical derivatives of entries, all arrays of shape (entries,).

    Attributes
    ----------
    positions : in the flat vector
    numerical, uncertainty : the derivative and a bound on its error
    left, right : one-sided slopes, equal to ``numerical`` where no kink was seen
    step : the step that the derivative rests on
    trouble : what kept the derivative from being known, as its index in `fastgc._derivatives.ladder.TROUBLES`
    """

    positions: Positions
    numerical: Floats
    uncertainty: Floats
    left: Floats
    right: Floats
    step: Floats
    trouble: NDArray[np.int8]

    @cached_property
    def clear(self) -> NDArray[np.bool_]:
        """Where there was no trouble, shape (entries,)."""
        return np.asarray(self.trouble == 0)

    def troubled_by(self, *troubles: str) -> NDArray[np.bool_]:
        """Where one of these troubles was met, shape (entries,)."""
        return np.array([trouble in troubles for trouble in TROUBLES])[self.trouble]

    def part(self, keep: NDArray[np.bool_] | Positions | slice) -> Estimates:
        """Some of the entries."""
        return Estimates(
            self.positions[keep], self.numerical[keep], self.uncertainty[keep], self.left[keep], self.right[keep],
            self.step[keep], self.trouble[keep],
        )  # fmt: skip

    @classmethod
    def unmeasured(cls, positions: Positions) -> Estimates:
        """Room for derivatives of entries without kinks: both one-sided slopes share the array of the derivative."""
        numerical, uncertainty, step = np.empty((3, positions.size))
        return cls(positions, numerical, uncertainty, numerical, numerical, step, np.zeros(positions.size, np.int8))

    @classmethod
    def unknown(cls, positions: Positions) -> Estimates:
        """Estimates of entries that could not be measured."""
        nothing, endless = np.full(positions.size, np.nan), np.full(positions.size, np.inf)
        trouble = np.full(positions.size, TROUBLES.index("not finite"), np.int8)
        return cls(positions, nothing, endless, nothing, nothing, nothing, trouble)

    @classmethod
    def of(cls, positions: Positions, slopes: Sequence[Derivative]) -> Estimates:
        """A derivative for each entry, in columns."""
        numbers = np.array([(slope.value, slope.uncertainty, slope.left, slope.right, slope.step) for slope in slopes])
        trouble = np.array([TROUBLES.index(slope.trouble) for slope in slopes], np.int8)
        numerical, uncertainty, left, right, step = numbers.reshape(-1, 5).T
        return cls(positions, numerical, uncertainty, left, right, step, trouble)

    def troubled(self, where: Positions, trouble: str) -> Estimates:
        """A copy with that trouble at some entries."""
        changed = self.trouble.copy()
        changed[where] = TROUBLES.index(trouble)
        return replace(self, trouble=changed)

    def fill(self, where: slice, other: Estimates) -> None:
        """Copy the derivatives of other estimates, which have no kinks."""
        self.numerical[where], self.uncertainty[where], self.step[where] = (
            other.numerical,
            other.uncertainty,
            other.step,
        )

    @classmethod
    def joined(cls, parts: list[Estimates]) -> Estimates:
        """The entries of several estimates, one after the other."""
        if len(parts) == 1:
            return parts[0]
        kinds = (np.int64, *[np.float64] * 5, np.int8)
        empty = [np.empty(0, kind) for kind in kinds]
        columns = (
            zip(*[[getattr(part, field.name) for field in fields(cls)] for part in parts], strict=True) if parts else []
        )
        return cls(*(np.concatenate(column) for column in columns)) if parts else cls(*empty)

    def bettered(self, where: Positions, other: Estimates) -> Estimates:
        """A copy with the entries at ``where`` taken from ``other`` where these are more certain."""
        better = other.uncertainty < self.uncertainty[where]
        return self.updated(where[better], other.part(better))

    def updated(self, where: Positions, other: Estimates) -> Estimates:
        """A copy with the entries at ``where`` taken from ``other``."""
        columns = [getattr(self, field.name).copy() for field in fields(self)]
        for column, each in zip(columns, fields(self), strict=True):
            column[where] = getattr(other, each.name)
        return Estimates(*columns)
