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
_CANDIDATES = 512  # entries drawn to choose the next ones from
_COLUMNS = ("local", "numerical", "slack", "parameters", "wrong", "right")  # of a view, one value for each entry


def information(sizes: Floats, slack: Floats) -> float:
    """How many bits it tells that numbers of these sizes are met within their slack."""
    return float(np.sum(np.log2(np.maximum(np.abs(sizes) / (WITHIN * slack), 1.0))))


@dataclass(frozen=True)
class View:
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

    def joined(self, other: View) -> View:
        """The measured entries of both."""
        return self._with(lambda name: np.concatenate([getattr(self, name), getattr(other, name)]))

    def part(self, keep: NDArray[np.bool_]) -> View:
        """Some of the measured entries."""
        return self._with(lambda name: getattr(self, name)[keep])

    def _with(self, column: Callable[[str], Array]) -> View:
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


def is_level(view: View, axis: int) -> bool:
    """Whether the analytic gradient is constant along an axis, and not zero everywhere."""
    first = view.at(moved(view.some, axis, np.zeros_like(view.some[axis])))
    here = view.at(view.some)
    return bool(np.all(np.abs(here - first) <= 1e-12 * np.abs(first)) and here.any())


# --- which entries to measure next ---


def wanted(view: View, count: int, seed: int) -> Positions:
    """At most ``count`` entries that were not measured and tell most about the kind of the error.

    Along an axis on which the analytic gradient is constant; else, where most entries are right, in the rows and
    columns of the wrong ones and beside them; else such that every row and column has a measured entry.
    """
    generator = np.random.default_rng([seed, 3])
    if view.gradient.size - view.local.size <= count:
        return np.setdiff1d(np.arange(view.gradient.size), view.local)
    level = [axis for axis in long_axes(view.shape) if is_level(view, axis)]
    wrong = np.flatnonzero(view.wrong)
    if level:
        found = _along(view, int(wrong[0]), level[0], generator)
    elif wrong.size <= np.count_nonzero(view.right & view.telling):
        found = _near(view, wrong, generator)
    else:
        found = _spread(view, generator)
    return np.sort(found[:count])


def strongest(view: View, count: int, seed: int) -> Positions:
    """At most ``count`` measured entries, in their order: wrong and telling ones first, drawn from all of them."""
    drawn = np.random.default_rng([seed, 4]).permutation(view.local.size)
    first = drawn[np.argsort(~view.strong[drawn], kind="stable")][:count]
    return view.local[np.sort(first)]


def _along(view: View, entry: int, axis: int, generator: np.random.Generator) -> Positions:
    """The line along an axis on which an entry lies."""
    places = generator.permutation(view.shape[axis])[:_CANDIDATES]
    index = [np.full(places.size, each[entry]) for each in view.index]
    index[axis] = places
    return _unknown(view, index)


def _near(view: View, entries: Positions, generator: np.random.Generator) -> Positions:
    """In turn for each entry and each axis: anywhere in its row or column, or in the one before or after."""
    turns = np.arange(_CANDIDATES)
    owners, axes = entries[turns // len(view.shape) % entries.size], turns % len(view.shape)
    index = [generator.integers(length, size=turns.size) for length in view.shape]
    for axis, length in enumerate(view.shape):
        beside = view.index[axis][owners] + generator.choice([0, 0, 0, -1, 1], turns.size)
        index[axis] = np.where(axes == axis, np.clip(beside, 0, length - 1), index[axis])
    return _unknown(view, index)


def _spread(view: View, generator: np.random.Generator) -> Positions:
    """Entries whose analytic gradient is not zero first, and of them those in lines without any measured entry."""
    drawn = _unknown(view, [generator.integers(length, size=_CANDIDATES) for length in view.shape])
    zero = view.gradient[drawn] == 0
    drawn = drawn[np.argsort(zero, kind="stable")]
    seen = [set(each.tolist()) for each in view.index]
    last = np.zeros(drawn.size, bool)
    for i, place in enumerate(zip(*(each.tolist() for each in np.unravel_index(drawn, view.shape)), strict=True)):
        last[i] = all(k in lines for k, lines in zip(place, seen, strict=True))
        for k, lines in zip(place, seen, strict=True):
            lines.add(k)
    return drawn[np.lexsort((last, np.sort(zero)))]


def _unknown(view: View, index: Sequence[Array]) -> Positions:
    """The positions that were not measured, each once, in the order given."""
    positions = np.ravel_multi_index(tuple(index), view.shape)
    positions = positions[np.sort(np.unique(positions, return_index=True)[1])]
    return positions[~np.isin(positions, view.local)]
