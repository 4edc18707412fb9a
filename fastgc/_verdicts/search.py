"""From suspicious directions to the wrong entries: follow ratios of residuals, and confirm entry by entry.

The residuals of a probe point at a single wrong entry (`fastgc._derivatives.ratios`). Where they do not, signs with
weights that grow along each axis show whether a row or another line is wrong as a whole. Else the tensor is split at
random, again and again, until a part has one wrong entry: of two halves one is measured, and the other follows. Where
residuals are too small for ratios, or these misled, single directions are split by ladders, down to one entry.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.directions import (
    CERTAIN,
    FURTHER,
    SUSPICIOUS,
    Probing,
    Shortcut,
    analytic_slope,
    length_along,
    rounding_of,
    slopes_along,
)
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._derivatives.random_weights import UNIT, random_weights, weights_between
from fastgc._derivatives.ratios import FEW, best_of, coincidences, index_at, matching, ramps, ratios_of
from fastgc._evaluation.evaluator import Ray
from fastgc._forks import cached_property
from fastgc._parameters.arrays import AT_ONCE, Array, Flags, Floats, Positions, without
from fastgc._parameters.streams import stream
from fastgc._verdicts.confirmed import ConfirmedEntries

_MOST_WRONG = 16  # wrong entries that are located in a tensor
_FRUITLESS = 3  # entries in a row, found within tolerance, after which the differences are taken to be small and many
_ERROR_SHARE = 0.5  # of the residual that led to an entry: with a smaller error, the residual misled
_DRIFT = 2.0  # of the uncertainty: a half's residuals are measured anew when inheriting them would cost more
_TRIED = 2  # entries of a line (or of a tensor) that are looked at to call it wrong as a whole
_SHORT = 4096  # entries of a line that are listed to draw from them
_ROUNDS = 4  # of splitting, each starting from what is left
_FOLLOWED = 20.0  # uncertainties above which a residual can be followed by quick slopes
_POINTING = 24  # directions that point together, at most: with fewer than 1 bit from each, splitting costs less
_POINTING_PART = 2  # further directions in a part, at most: splitting it costs three
_WIDER = 3.0  # times the uncertainties, within which an entry explains residuals: it costs 1.6 of some 12 bits
_PRECISE = 5e-4  # of a residual: with this error or a smaller one, three directions point at one of a million entries
_TOGETHER = 3  # directions of a part that is split: the fewest that point at one of a million entries
_LADDER_VALUES = 10  # of a direction, at least


@dataclass(frozen=True)
class Located:
    """What a suspicious direction led to.

    Attributes
    ----------
    wrong : positions of the entries confirmed as wrong, in the order of their discovery
    complete : whether the rest is within tolerance; False where the search stopped at its bound
    misled : whether the way ended at entries without the error that it followed, or nowhere: kinks, not entries
    line : the axis and index of a row, column or block that is wrong as a whole, or None
    """

    wrong: tuple[int, ...]
    complete: bool
    misled: bool = False
    line: tuple[int, int] | None = None


def localise(
    loss: LossAtPoint, probing: Probing, gradients: Sequence[Array], seed: int, entries: ConfirmedEntries
) -> Located:
    """Find the wrong entries of the one tensor that was probed."""
    search = _Search(loss, probing, gradients, seed, entries)
    if search.by_pointing():
        return Located(tuple(search.wrong), complete=True)
    line = search.line()
    if line is not None:
        return Located(tuple(search.wrong), complete=False, line=line)
    complete, misled = search.by_splitting()
    return Located(tuple(search.wrong), complete, misled, search.line_of_known())


def pointed_at(
    loss: LossAtPoint, probing: Probing, gradients: Sequence[Array], seed: int, entries: ConfirmedEntries
) -> tuple[Located, Floats] | None:
    """Wrong entries of one tensor that explain all residuals of the probe, which point at them, and what is left."""
    search = _Search(loss, probing, gradients, seed, entries)
    return (Located(tuple(search.wrong), complete=True), search.left(search.whole)) if search.by_pointing() else None


@dataclass(frozen=True)
class _Part:
    """The entries in some places of a shuffled tensor, with the residuals of directions that displace no others.

    Attributes
    ----------
    begin, end : places
    numbers : of the directions
    residuals, uncertainties : shape (directions,); known wrong entries are included
    """

    begin: int
    end: int
    numbers: tuple[int, ...]
    residuals: Floats
    uncertainties: Floats

    @property
    def size(self) -> int:
        return self.end - self.begin

    @property
    def wide(self) -> Floats:
        """The uncertainties, widened for directions that bend more than those on which shortcuts were calibrated."""
        return _WIDER * self.uncertainties

    def with_direction(self, number: int, residual: float, uncertainty: float) -> _Part:
        """The part with one direction more."""
        residuals, uncertainties = np.append(self.residuals, residual), np.append(self.uncertainties, uncertainty)
        return replace(self, numbers=(*self.numbers, number), residuals=residuals, uncertainties=uncertainties)

    def along(self, numbers: Sequence[int]) -> _Part:
        """The part with some of its directions."""
        keep = [self.numbers.index(number) for number in numbers]
        return replace(
            self, numbers=tuple(numbers), residuals=self.residuals[keep], uncertainties=self.uncertainties[keep]
        )


def _excess(part: _Part, residuals: Floats) -> float:
    return float(np.max(np.abs(residuals) / part.uncertainties))


@dataclass(frozen=True)
class _Search:
    """A suspicious tensor, and the wrong entries that were confirmed so far, with their errors."""

    loss: LossAtPoint
    probing: Probing
    gradients: Sequence[Array]
    seed: int
    entries: ConfirmedEntries
    wrong: dict[int, float] = field(default_factory=dict)
    looked_at: dict[int, float] = field(default_factory=dict)  # the errors of all entries measured by themselves

    # --- the tensor ---

    @property
    def tensor(self) -> int:
        return self.probing.tensors[0]

    @property
    def start(self) -> int:
        return int(self.loss.layout.starts[self.tensor])

    @property
    def size(self) -> int:
        return int(self.loss.layout.sizes[self.tensor])

    @cached_property
    def whole(self) -> _Part:
        """All entries, along the directions of the probe."""
        return _Part(0, self.size, tuple(self.probing.numbers), self.probing.residuals, self.probing.uncertainties)

    def left(self, part: _Part) -> Floats:
        """The residuals of a part less what the known wrong entries explain."""
        left = part.residuals.copy()
        for position, error in self.wrong.items():
            if part.begin <= self._place(position - self.start) < part.end:
                left -= [self._weight(number, position) * error for number in part.numbers]
        return left

    def _weight(self, number: int, position: int) -> float:
        """By how much an entry is displaced along a direction."""
        local = position - self.start
        if self._unmoved is not None and self._unmoved[local]:
            return 0.0
        weights = weights_between(self.seed, number, self._name, self.size, local, local + 1)
        return self._scale * float(weights[0])

    @cached_property
    def _unmoved(self) -> Flags | None:
        return self.loss.unmoved(self.tensor)

    @property
    def _name(self) -> str:
        return self.loss.layout.names[self.tensor]

    @property
    def _scale(self) -> float:
        return float(self.loss.tensor_scales[self.tensor]) / UNIT

    def confirm(self, position: int) -> bool:
        """Measure one entry by itself, and note its error if it is wrong."""
        position = int(position)
        (error,), (is_wrong,) = self.entries.errors(np.array([position]))
        self.looked_at[position] = float(error)
        if is_wrong:
            self.wrong[position] = float(error)
        return bool(is_wrong)

    # --- places: the entries, shuffled ---

    @cached_property
    def _shuffle(self) -> tuple[int, int]:
        """A random factor without a divisor in common with the size, and its inverse: place = factor * entry % size.

        The places of two entries differ by a random number then, and no array holds them.
        """
        generator = stream(self.seed, "search", self.tensor, "places")
        while math.gcd(factor := int(generator.integers(1, max(2, self.size))), self.size) > 1:
            pass
        return factor, pow(factor, -1, self.size) if self.size > 1 else 0

    def _place(self, local: int) -> int:
        return self._shuffle[0] * local % self.size

    def _members(self, begin: int, end: int) -> Iterator[Positions]:
        """The entries in these places, in blocks."""
        for first in range(begin, end, AT_ONCE):
            yield np.arange(first, min(first + AT_ONCE, end)) * self._shuffle[1] % self.size

    # --- what is measured ---

    def _weights(self, number: int, begin: int, end: int) -> NDArray[np.int8]:
        """The weights of a direction, 0 outside some places."""
        weights: NDArray[np.int8] = random_weights(self.seed, range(number, number + 1), self._name, self.size)[0]
        if self._unmoved is not None:
            weights[self._unmoved] = 0
        for outside in ((0, begin), (end, self.size)):
            for members in self._members(*outside):
                weights[members] = 0
        return weights

    def _residual(self, weights: NDArray[np.int8], shortcut: Shortcut) -> tuple[float, float]:
        """The residual along a direction, and its uncertainty."""
        ray = Ray(self.tensor, 0, weights, self._scale)
        length = length_along(self.loss, ray, self.gradients)
        jitter = np.array([self.loss.eps[self.tensor] * length])
        (slope,), (error,) = slopes_along(self.loss, [[ray]], shortcut, jitter)
        rounding = rounding_of(self.gradients[self.tensor]) * length
        return analytic_slope([ray], self.gradients) - float(slope), float(error) + rounding

    def _measured(self, begin: int, end: int, numbers: Sequence[int], shortcut: Shortcut) -> _Part:
        found = [self._residual(self._weights(number, begin, end), shortcut) for number in numbers]
        residuals, errors = np.array(found).T
        return _Part(begin, end, tuple(numbers), residuals, errors)

    @cached_property
    def _ladders(self) -> Shortcut:
        return Shortcut(np.empty(0), float(self.probing.uncertainties.max()))

    def _shortcut(self, residual: float) -> Shortcut:
        """The cheapest way to measure slopes well enough to follow a residual; without steps, by ladders."""
        for shortcut, clear in ((self.probing.quick, _FOLLOWED), (self.probing.fine, _FOLLOWED / 4)):
            if residual > clear * shortcut.uncertainty:
                return shortcut
        return self._ladders

    # --- pointing at one entry ---

    def by_pointing(self) -> bool:
        """Whether single entries explain all residuals of the probe, one after the other."""
        while len(self.wrong) < _MOST_WRONG:
            left = self.left(self.whole)
            ways = (self.probing.quick, self.probing.fine, self._ladders)
            choices = [(way.uncertainty, 2 * way.steps.size or _LADDER_VALUES) for way in ways]
            best = best_of(choices, float(np.abs(left).max()))
            position = None if best is None else self._pointed(self.whole, ways[best], _POINTING)
            if position is None or position in self.wrong or not self.confirm(position):
                return False
            if _excess(self.whole, self.left(self.whole)) <= _WIDER * SUSPICIOUS:
                return True
        return False

    def _pointed(self, part: _Part, shortcut: Shortcut, most: int) -> int | None:
        """The entry that explains what is left of a part's residuals alone; None where none or several may."""
        possible = self._possible(part)
        while possible.size > 1 or self._may_be_chance(part, possible):
            if len(part.numbers) >= most:
                return None
            number = FURTHER + len(part.numbers)
            weights = self._weights(number, part.begin, part.end)
            part = part.with_direction(number, *self._residual(weights, shortcut))
            full = possible.size >= AT_ONCE
            possible = self._possible(part) if full else self._still_possible(part, possible, weights)
        return self.start + int(possible[0]) if possible.size else None

    def _may_be_chance(self, part: _Part, possible: Positions) -> bool:
        return possible.size == 1 and coincidences(part.size, self.left(part), part.wide) > FEW

    def _still_possible(self, part: _Part, possible: Positions, weights: NDArray[np.int8]) -> Positions:
        rows = [self._at(number, possible) for number in part.numbers[:-1]]
        return possible[matching(np.stack([*rows, weights[possible]]), self.left(part), part.wide)]

    def _at(self, number: int, local: Positions) -> NDArray[np.int8]:
        """The weights of a few entries along a direction."""
        found = np.empty(local.size, np.int8)
        for begin in range(0, self.size, AT_ONCE):
            mine = slice(*np.searchsorted(local, (begin, begin + AT_ONCE)))
            if mine.stop > mine.start:
                block = self._block(number, begin)
                found[mine] = block[local[mine] - begin]
        return found

    def _block(self, number: int, begin: int) -> NDArray[np.int8]:
        end = min(begin + AT_ONCE, self.size)
        return weights_between(self.seed, number, self._name, self.size, begin, end)

    def _possible(self, part: _Part) -> Positions:
        """Entries of a part that explain its residuals alone; of very many, the first."""
        left, found, count = self.left(part), [np.empty(0, np.int64)], 0
        for begin in range(0, self.size, AT_ONCE):
            weights = np.stack([self._block(number, begin) for number in part.numbers])
            local = begin + matching(weights, left, part.wide)
            local = local if self._unmoved is None else local[~self._unmoved[local]]
            if part.size < self.size:
                places = local * self._shuffle[0] % self.size
                local = local[(places >= part.begin) & (places < part.end)]
            found.append(local)
            count += local.size
            if count >= AT_ONCE:
                break
        return np.concatenate(found)[:AT_ONCE]

    # --- along axes ---

    def line(self) -> tuple[int, int] | None:
        """The axis and index of a row, column or block to which ratios point, if its entries are wrong.

        Where the ratios along all axes point at an index, they point at one entry, which is confirmed.
        """
        shape = self.loss.layout.shapes[self.tensor]
        shortcut = self._shortcut(float(np.abs(self.left(self.whole)).max()))
        if sum(length > 1 for length in shape) < 2 or not shortcut.steps.size or self.wrong:
            return None
        indices = self._indices(shape, shortcut)
        entry = [index for index in indices if index is not None]
        if len(entry) == len(shape) and self.confirm(self.start + int(np.ravel_multi_index(entry, shape))):
            return None
        pairs = [(axis, index) for axis, index in enumerate(indices) if index is not None and shape[axis] > 1]
        return next((pair for pair in pairs if self._line_is_wrong(*pair)), None)

    def _indices(self, shape: tuple[int, ...], shortcut: Shortcut) -> list[int | None]:
        """The index along each axis to which ratios of residuals point."""
        signs = self._weights(self.probing.first, 0, self.size)
        np.sign(signs, out=signs)
        base, error = self._residual(signs * np.int8(UNIT), shortcut)
        found: list[int | None] = []
        for axis, length in enumerate(shape):
            rows = (_along_axis(signs, shape, axis, ramp) for ramp in ramps(length)) if length > 1 else ()
            residuals, errors = np.array([self._residual(row, shortcut) for row in rows]).reshape(-1, 2).T
            ratios = ratios_of(residuals, errors, base / UNIT, error / UNIT)
            found.append(index_at(length, *ratios) if length > 1 else 0)
        return found

    def _line_is_wrong(self, axis: int, index: int) -> bool:
        """Whether entries of a line are wrong: all of a short one, else a few; one is tried before the others."""
        shape = self.loss.layout.shapes[self.tensor]
        length = math.prod(shape) // shape[axis]
        count = length if length <= _MOST_WRONG else 2 * _TRIED
        drawn = self.start + _of_line(shape, axis, index, np.empty(0, np.int64), self.seed, count)
        if length <= _MOST_WRONG:
            return all([self.confirm(each) for each in drawn])  # not to stop at the first right one
        return all(self.confirm(each) for each in drawn)

    def line_of_known(self) -> tuple[int, int] | None:
        """The line in which all located entries lie, if others of it are wrong as well."""
        shape = self.loss.layout.shapes[self.tensor]
        local = np.array(list(self.wrong), np.int64) - self.start
        if len(shape) < 2 or local.size < 2:
            return None
        indices = np.stack(np.unravel_index(local, shape))
        for axis in np.flatnonzero((indices == indices[:, :1]).all(axis=1)).tolist():
            others = self.start + _of_line(shape, axis, int(indices[axis, 0]), local, self.seed, _TRIED)
            if all([self.confirm(other) for other in others]):
                return axis, int(indices[axis, 0])
        return None

    # --- splitting ---

    def by_splitting(self) -> tuple[bool, bool]:
        """Split until nothing is left; whether all wrong entries were found, and whether residuals misled.

        The shortcuts were calibrated on whole directions. A part may bend more, or cross kinks that those did not: so
        what they led to nowhere is followed by ladders.
        """
        shortcut, misled = self._shortcut(float(np.abs(self.left(self.whole)).max())), False
        for turn in range(_ROUNDS):
            excess = np.abs(self.left(self.whole)) / self.whole.uncertainties
            if excess.max() <= SUSPICIOUS:
                return True, False
            if turn == 0 and self._wrong_everywhere(shortcut):
                return _excess(self.whole, self.left(self.whole)) <= SUSPICIOUS, False
            known = len(self.wrong)
            misled = self._split(self._directions(excess, shortcut), shortcut)
            tried_all = len(self.wrong) == known and not (misled and shortcut.steps.size)
            if tried_all or len(self.wrong) >= _MOST_WRONG:
                break
            shortcut = self._ladders
        return len(self.wrong) < _MOST_WRONG, misled and not self.wrong

    def _directions(self, excess: Floats, shortcut: Shortcut) -> _Part:
        """The whole tensor along the directions that are split: three that point together, or one by ladders."""
        numbers = np.argsort(-excess)[: _TOGETHER if shortcut.steps.size else 1] + self.whole.numbers[0]
        part = self.whole.along(numbers.tolist())
        while shortcut.steps.size and len(part.numbers) < _TOGETHER:
            number = FURTHER + len(part.numbers)
            part = part.with_direction(number, *self._residual(self._weights(number, 0, self.size), shortcut))
        return part

    def _split(self, whole: _Part, shortcut: Shortcut) -> bool:
        """Split parts and confirm entries; whether residuals misled."""
        # A residual that shortcuts can follow is large beside them; ladders are as exact as can be, and trusted more.
        open_above = CERTAIN if shortcut.steps.size else SUSPICIOUS
        turns = itertools.count()
        queue = [(0.0, next(turns), whole)]
        fruitless, misled, found = 0, False, 0
        while queue and len(self.wrong) < _MOST_WRONG and fruitless < _FRUITLESS:
            _, turn, part = heapq.heappop(queue)
            left = self.left(part)
            if _excess(part, left) <= open_above and turn > 0:
                continue
            position = self._single(part, shortcut)
            if position is not None and position not in self.wrong and self.confirm(position):
                found, fruitless = found + 1, 0
                heapq.heappush(queue, (self._order(part), next(turns), part))
            elif part.size > 1:
                for half in self._halves(part, shortcut):
                    heapq.heappush(queue, (self._order(half), next(turns), half))
            else:
                fruitless, misled = fruitless + 1, misled or self._misled(part, left)
        return misled or not (fruitless or found)

    def _order(self, part: _Part) -> float:
        """Parts with the largest mean square of errors come first: where many entries are wrong, small parts."""
        return float(-np.abs(self.left(part)).max() / math.sqrt(part.size))

    def _single(self, part: _Part, shortcut: Shortcut) -> int | None:
        """The entry that explains the residuals of a part alone; the only one of a part is that."""
        if part.size == 1:
            return self.start + int(next(self._members(part.begin, part.end))[0])
        if len(part.numbers) == 1:
            return None
        return self._pointed(part, shortcut, len(part.numbers) + _POINTING_PART)

    def _misled(self, part: _Part, left: Floats) -> bool:
        """Whether the one entry of a part does not have the error that its residuals seemed to show."""
        position = self.start + int(next(self._members(part.begin, part.end))[0])
        explained = [abs(self._weight(number, position) * self.looked_at[position]) for number in part.numbers]
        return not (np.array(explained) > _ERROR_SHARE * np.abs(left)).all()

    def _halves(self, part: _Part, shortcut: Shortcut) -> list[_Part]:
        """Both halves of a part: one is measured, and the residuals of the other are what is left.

        Where the uncertainty handed on would grow too much, both are measured.
        """
        middle = (part.begin + part.end) // 2
        first = self._measured(part.begin, middle, part.numbers, shortcut)
        errors = part.uncertainties + first.uncertainties
        rest = part.residuals - first.residuals
        drifted = errors > _DRIFT * max(shortcut.uncertainty, float(self.whole.uncertainties.max()))
        if (drifted & (errors > _PRECISE * np.abs(rest).max())).any():
            return [first, self._measured(middle, part.end, part.numbers, shortcut)]
        return [
            first,
            replace(first, begin=middle, end=part.end, residuals=rest, uncertainties=errors),
        ]

    def _wrong_everywhere(self, shortcut: Shortcut) -> bool:
        """Whether a few random entries are all wrong: then nothing needs to be searched for.

        One quotient shows of most of them that they are right, where a ladder would take six.
        """
        number = self.whole.numbers[0]
        for place in range(min(1 + _TRIED, self.size)):
            tried = self._measured(place, place + 1, [number], shortcut)
            differs = _excess(tried, self.left(tried)) > SUSPICIOUS
            if not (differs and self.confirm(self.start + int(next(self._members(place, place + 1))[0]))):
                return False
        return True


def _along_axis(signs: NDArray[np.int8], shape: tuple[int, ...], axis: int, ramp: NDArray[np.int8]) -> NDArray[np.int8]:
    """The signs times weights that depend on the index along the axis alone."""
    across = [1] * len(shape)
    across[axis] = shape[axis]
    return (signs.reshape(shape) * ramp.reshape(across)).reshape(-1)


def _of_line(shape: tuple[int, ...], axis: int, index: int, known: Positions, seed: int, count: int) -> Positions:
    """A few random entries with that index along the axis, not known yet; none if all of them are known."""
    generator = stream(seed, "search", axis, index)
    length = math.prod(shape) // shape[axis]
    places = np.arange(length) if length <= _SHORT else generator.integers(0, length, 4 * count)
    columns = list(np.unravel_index(places, shape[:axis] + shape[axis + 1 :]))
    columns.insert(axis, np.full(places.size, index))
    drawn = np.ravel_multi_index(tuple(columns), shape)
    return generator.permutation(without(drawn, known))[:count].astype(np.int64)
