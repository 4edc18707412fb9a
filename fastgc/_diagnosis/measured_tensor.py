"""One tensor as a diagnosis sees it: its whole analytic gradient, its measured entries, and what these can establish.

A pattern is accepted only where chance is an unlikely explanation. Let an unstructured error have the size s_i in
entry i, and let a pattern leave residuals of at most w_i. The probability that such an error hits the pattern this
closely in every entry is about the product of ``w_i / s_i``; its -log2 is the information of the entries in bits. It
must exceed `BITS` by what choices cost: log2 of the number of alternatives tried, and one entry for each constant that
was fitted. The w_i follow from the largest residual, but are not below what the measurement can resolve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array
from fastgc._parameters.point import SAMPLE

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
Indices = tuple[NDArray[np.int64], ...]

# Wrong entries that must obey a pattern, where others are not measured: eight of eight show, with 95 % confidence, that
# at least 69 % of all do (0.69**8 = 0.05).
FEWEST = 8
TELLING = 100.0  # slacks above which a value distinguishes patterns: a factor of 1.01 from 1 needs as many
# Slacks within which a pattern explains an entry: one of its own, one of the entry that it is compared with, and one of
# a fitted constant.
WITHIN = 3.0
_UNEXPLAINED = 0.01  # share of the squared errors that a pattern may leave: R**2 >= 0.99
# Some 20 families of patterns are tried on a tensor. Each accepts an unstructured error once in 4096 times at most, all
# together in 0.5 %; bench/diagnosis.py measures that.
BITS = 12.0
_FINEST = 1e-3  # slacks that are resolved at best: at rtol 1e-5 a relative 1e-8, to which uncertainties are known
_SAME = 1e-12  # relative difference of what was the same before round-off, of some 1e3 operations in float64
_COLUMNS = ("local", "numerical", "slack", "parameters", "wrong", "right", "uncertainty")  # a value for each entry


def information(sizes: Floats, slack: Floats, fitted: int = 0) -> float:
    """The bits that numbers of these sizes give by lying within three slacks of a prediction.

    The ``fitted`` most informative numbers are not counted: they determine the constants of the prediction.
    """
    bits = np.log2(np.maximum(np.abs(sizes) / (WITHIN * slack), 1.0))
    return float(np.sum(np.sort(bits)[: bits.size - fitted]))


@dataclass(frozen=True)
class MeasuredTensor:
    """One tensor: its analytic gradient as a whole, and its measured entries, arrays of shape (entries,).

    Attributes
    ----------
    shape, gradient : of the tensor (at least one axis), and its flat analytic gradient
    local : positions of the measured entries in C order
    numerical, slack : their derivatives, and the differences allowed there: tolerance and uncertainty; infinite for an
        entry without a derivative
    parameters : the parameters at these entries
    wrong, right : which of them fail and which pass
    lengths : for each length of an axis in the arguments, where it is found
    pairs : whether both axes of a matrix hold real and imaginary parts in turn
    dropped, spent : entries treated as if they had no derivative, and the bits that choosing them cost
    uncertainty : the part of ``slack`` that is no tolerance; None: all of it
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
    pairs: bool = False
    dropped: int = 0
    spent: float = 0.0
    uncertainty: Floats | None = None

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
        """Entries whose analytic or numerical value is large compared with its slack: others agree with any pattern."""
        return ~(np.fmax(np.abs(self.analytic), np.abs(self.numerical)) <= TELLING * self.slack)

    @property
    def valued(self) -> NDArray[np.bool_]:
        """Entries whose numerical value alone is large compared with its slack."""
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

    def alone(self, keep: NDArray[np.bool_]) -> MeasuredTensor:
        """Some of the measured entries as a vector, known as a whole: for patterns that say nothing of the others."""
        kept = self.part(keep)
        size = kept.local.size
        return replace(kept, shape=(size,), gradient=kept.analytic, local=np.arange(size), pairs=False)

    def without(self, entry: int) -> MeasuredTensor:
        """The tensor as if one measured entry had no derivative, which costs the bits that say which of them."""
        here = np.arange(self.local.size) == entry
        return replace(
            self,
            slack=np.where(here, np.inf, self.slack),
            wrong=self.wrong & ~here,
            right=self.right & ~here,
            dropped=self.dropped + 1,
            spent=self.spent + math.log2(here.size),
        )

    def _with(self, column: Callable[[str], Array]) -> MeasuredTensor:
        columns: dict[str, Any] = {name: column(name) for name in _COLUMNS if getattr(self, name) is not None}
        return replace(self, **columns)

    def deviation(self, residual: Floats) -> float:
        """The largest residual of a measured entry, in units of its slack."""
        return float(np.max(np.abs(residual) / self.slack, initial=0.0))

    def resolved(self, deviation: float) -> Floats:
        """The slacks that a pattern with this largest deviation would have needed, as far as that can be resolved."""
        finest = self.slack if self.uncertainty is None else np.maximum(self.uncertainty, _FINEST * self.slack)
        return np.asarray(np.maximum(deviation / WITHIN * self.slack, finest))

    def explained(
        self,
        residual: Floats,
        fewest: int,
        bits: float = BITS,
        term: Floats | None = None,
        *,
        alternatives: float = 1,
        fitted: int = 0,
    ) -> bool:
        """Whether a pattern explains the measured entries, and chance does not.

        It must rest on eight wrong entries, or on ``fewest`` where all entries are known, leave a residual within
        `WITHIN` slacks everywhere and little of the errors, and their information must pay for the ``alternatives``
        tried and the constants ``fitted``. The size of an unstructured error is that of the error, but at most the
        numerical value (a slope of nearly zero fits any factor), or the ``term`` that was added.
        """
        error, strong, deviation = self.analytic - self.numerical, self.strong, self.deviation(residual)
        if np.count_nonzero(strong) < (fewest if self.complete else max(fewest, FEWEST)) or not deviation <= WITHIN:
            return False
        sizes = np.minimum(np.abs(error), np.abs(self.numerical if term is None else term))
        told = information(sizes[strong], self.resolved(deviation)[strong], fitted)
        little = np.sum((residual / self.slack) ** 2) <= _UNEXPLAINED * np.sum((error / self.slack) ** 2)
        return bool(little) and told >= bits + self.spent + math.log2(alternatives)

    @property
    def agreement(self) -> float:
        """The bits that the right entries give: errors of the size of the wrong ones would hardly miss all of them."""
        right, wrong = self.right & self.telling, self.strong
        if not (right.any() and wrong.any()):
            return 0.0
        size, error = np.abs(self.numerical), np.abs(self.analytic - self.numerical)
        error = np.where(np.isfinite(error), error, size)
        relative = np.median(error[wrong] / np.fmax(size, np.abs(self.analytic))[wrong])
        expected = np.minimum(float(relative) * size[right], np.median(error[wrong]))
        return information(expected, self.resolved(float(np.max(error[right] / self.slack[right])))[right])

    @cached_property
    def some(self) -> Indices:
        """Indices of evenly spaced entries that stand for the whole analytic gradient."""
        count = min(self.gradient.size, SAMPLE)
        spaced = np.linspace(0, self.gradient.size - 1, count).astype(np.int64)
        return tuple(np.asarray(i, np.int64) for i in np.unravel_index(spaced, self.shape))


def moved(index: Indices, axis: int, values: Array) -> list[Array]:
    """The indices with other values along one axis."""
    return [values if k == axis else each for k, each in enumerate(index)]


def long_axes(shape: tuple[int, ...]) -> list[int]:
    """The axes with more than one place."""
    return [axis for axis, length in enumerate(shape) if length > 1]


def is_level(tensor: MeasuredTensor, axis: int) -> bool:
    """Whether the analytic gradient is constant along an axis, and not zero everywhere."""
    first = tensor.at(moved(tensor.some, axis, np.zeros_like(tensor.some[axis])))
    here = tensor.at(tensor.some)
    return bool(np.all(np.abs(here - first) <= _SAME * np.abs(first)) and here.any())


def is_square(tensor: MeasuredTensor) -> bool:
    """Whether the last two axes are those of square matrices."""
    return len(tensor.shape) > 1 and tensor.shape[-1] == tensor.shape[-2] > 1


def mirrored(tensor: MeasuredTensor) -> Positions:
    """The position of each measured entry with the last two indices exchanged."""
    *first, i, j = tensor.index
    return np.ravel_multi_index((*first, j, i), tensor.shape)


def is_symmetric(tensor: MeasuredTensor) -> bool:
    """Whether the analytic gradient consists of symmetric matrices, up to round-off."""
    if not is_square(tensor):
        return False
    *first, i, j = tensor.some
    here, there = tensor.at(tensor.some), tensor.at((*first, j, i))
    return bool(np.all(np.abs(here - there) <= _SAME * np.abs(here)))
