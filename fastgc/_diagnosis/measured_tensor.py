"""One tensor as a diagnosis sees it: its whole analytic gradient, its measured entries, and which to measure next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._parameters.arrays import Array

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
Indices = tuple[NDArray[np.int64], ...]

FEWEST = 8  # wrong entries that establish a pattern, unless all entries are known
TELLING = 100.0  # tolerances and uncertainties that a value must exceed to tell one pattern from another
WITHIN = 3.0  # of them, within which a pattern explains an entry
_UNEXPLAINED = 0.01  # share of the squared errors that a pattern may leave: R**2 >= 0.99
BITS = 12.0  # that a pattern must explain beyond what was free to be chosen: by chance it does so once in 4096 times
_LOOKED_AT = 4096  # analytic entries that tell what holds of a whole tensor
_COLUMNS = ("local", "numerical", "slack", "parameters", "wrong", "right")  # of a tensor, one value for each entry


def information(sizes: Floats, slack: Floats) -> float:
    """How many bits it tells that numbers of these sizes are met within their slack."""
    return float(np.sum(np.log2(np.maximum(np.abs(sizes) / (WITHIN * slack), 1.0))))


@dataclass(frozen=True)
class MeasuredTensor:
    """One tensor: its analytic gradient as a whole, and its measured entries, arrays of shape (entries,).

    Attributes
    ----------
    shape, gradient : of the tensor (at least one axis), and its flat analytic gradient
    local : positions of the measured entries in C order
    numerical, slack : their derivatives, and what these may differ by, tolerance and uncertainty; infinite where a
        derivative could not be had
    parameters : their values
    wrong, right : which of them fail and which pass
    lengths : where in the arguments a length is found, by that length
    """

    shape: tuple[int, ...]
    gradient: Array
    local: NDArray[np.int64]
    numerical: Floats
    slack: Floats
    parameters: Floats
    wrong: NDArray[np.bool_]
    right: NDArray[np.bool_]
    lengths: Mapping[int, str]

    @cached_property
    def analytic(self) -> Floats:
        """The analytic gradient at the measured entries."""
        return np.asarray(self.gradient[self.local], np.float64)

    @cached_property
    def index(self) -> Indices:
        """One array of indices for each axis."""
        return tuple(np.asarray(i, np.int64) for i in np.unravel_index(self.local, self.shape))

    @cached_property
    def telling(self) -> NDArray[np.bool_]:
        """Entries that are large beside tolerance and uncertainty: the others agree with any pattern."""
        return ~(np.fmax(np.abs(self.analytic), np.abs(self.numerical)) <= TELLING * self.slack)

    @property
    def valued(self) -> NDArray[np.bool_]:
        """Entries whose numerical derivative is telling by itself."""
        return np.abs(self.numerical) > TELLING * self.slack

    @property
    def strong(self) -> NDArray[np.bool_]:
        """Entries that are wrong and telling."""
        return self.wrong & self.telling

    @property
    def complete(self) -> bool:
        """Whether every derivative is known."""
        return self.local.size == self.gradient.size and bool(np.isfinite(self.slack).all())

    def at(self, index: Sequence[Array]) -> Floats:
        """The analytic gradient elsewhere."""
        return np.asarray(self.gradient[np.ravel_multi_index(tuple(index), self.shape)], np.float64)

    def joined(self, other: MeasuredTensor) -> MeasuredTensor:
        """The measured entries of both."""
        return self._with(lambda name: np.concatenate([getattr(self, name), getattr(other, name)]))

    def part(self, keep: NDArray[np.bool_]) -> MeasuredTensor:
        """Some of the measured entries."""
        return self._with(lambda name: getattr(self, name)[keep])

    def _with(self, column: Callable[[str], Array]) -> MeasuredTensor:
        columns: dict[str, Any] = {name: column(name) for name in _COLUMNS}
        return replace(self, **columns)

    def deviation(self, residual: Floats) -> float:
        """The largest of what a pattern leaves of the measured entries, in units of their slack."""
        return float(np.max(np.abs(residual) / self.slack))

    def explained(self, residual: Floats, fewest: int, bits: float = BITS, term: Floats | None = None) -> bool:
        """Whether what a pattern leaves is within slack everywhere, and little of the errors.

        It must rest on eight wrong entries, or on ``fewest`` where all entries are known, and these must tell enough
        together: one value known to a percent fits one of many patterns by chance, one known to 1e-5 does not. What
        tells is the numerical derivative (a slope of nearly zero fits any factor), or the term that was added.
        """
        error = self.analytic - self.numerical
        sizes = np.minimum(np.abs(error), np.abs(self.numerical if term is None else term))
        if np.count_nonzero(self.strong) < (fewest if self.complete else max(fewest, FEWEST)):
            return False
        little = bool(np.sum((residual / self.slack) ** 2) <= _UNEXPLAINED * np.sum((error / self.slack) ** 2))
        enough = information(sizes[self.strong], self.slack[self.strong]) >= bits
        return little and enough and self.deviation(residual) <= WITHIN

    @cached_property
    def some(self) -> Indices:
        """Indices of evenly spaced entries, for what must hold of the whole analytic gradient."""
        count = min(self.gradient.size, _LOOKED_AT)
        spaced = np.linspace(0, self.gradient.size - 1, count).astype(np.int64)
        return tuple(np.asarray(i, np.int64) for i in np.unravel_index(spaced, self.shape))


def moved(index: Indices, axis: int, values: Array) -> list[Array]:
    """The indices with others along one axis."""
    return [values if k == axis else each for k, each in enumerate(index)]


def long_axes(shape: tuple[int, ...]) -> list[int]:
    return [axis for axis, length in enumerate(shape) if length > 1]


def is_level(tensor: MeasuredTensor, axis: int) -> bool:
    """Whether the analytic gradient is constant along an axis, and not zero everywhere."""
    first = tensor.at(moved(tensor.some, axis, np.zeros_like(tensor.some[axis])))
    here = tensor.at(tensor.some)
    return bool(np.all(np.abs(here - first) <= 1e-12 * np.abs(first)) and here.any())


# --- which entries to measure next ---
