"""From a suspicious direction to the wrong entries: halve it, follow the larger residual, confirm entry by entry."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fastgc._derivatives.directions import (
    CERTAIN,
    SUSPICIOUS,
    Probing,
    Shortcut,
    analytic_slope,
    direction,
    jitter_along,
    slopes_along,
)
from fastgc._derivatives.estimates import LossAtPoint
from fastgc._evaluation.evaluator import Ray
from fastgc._parameters.arrays import Array, Floats, Positions
from fastgc._parameters.streams import stream
from fastgc._verdicts.confirmed import ConfirmedEntries

_MOST_WRONG = 16  # wrong entries that are located in a tensor
_FRUITLESS = 3  # entries in a row, found within tolerance, after which the differences are taken to be small and many
_ERROR_SHARE = 0.5  # of the residual that led to an entry: with a smaller error, the residual misled
_DRIFT = 2.0  # of the uncertainty: a half's residual is measured anew when inheriting it would cost more
_TRIED = 2  # entries of a line (or of a tensor) that are looked at to call it wrong as a whole

_SHORT = 4096  # entries of a line that are listed to draw from them
_ROUNDS = 4  # of halving, each starting from the direction with the largest residual left
_FOLLOWED = 20.0  # uncertainties above which a residual can be followed by quick slopes


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


@dataclass(frozen=True, order=True)
class _Suspect:
    """A stretch of entries with its share of the residual; the largest share comes first."""

    urgency: float
    turn: int
    ray: Ray = field(compare=False)
    residual: float = field(compare=False)
    uncertainty: float = field(compare=False)


def localise(
    loss: LossAtPoint, probing: Probing, gradients: Sequence[Array], seed: int, entries: ConfirmedEntries
) -> Located:
    """Find the wrong entries of the one tensor that was probed.

    What the entries found so far do not explain of a residual is followed in a further round.
    """
    search = _Search(loss, probing, gradients, seed, entries)
    wrong: dict[int, float] = {}
    found = _Found({})
    for _ in range(_ROUNDS):
        left = search.unexplained(wrong)
        excess = np.abs(left) / probing.uncertainties
        number = int(np.argmax(excess))
        if excess[number] <= SUSPICIOUS:
            return Located(tuple(wrong), complete=True)
        found = search.follow(number, float(left[number]), wrong)
        wrong |= found.wrong
        if found.everywhere or not found.wrong or len(wrong) >= _MOST_WRONG:
            break
    complete = not found.everywhere and len(wrong) < _MOST_WRONG
    return Located(tuple(wrong), complete, misled=found.misled and not wrong)


@dataclass(frozen=True)
class _Found:
    """What one round of halving found: wrong entries with their errors, and what else was learnt.

    Attributes
    ----------
    wrong : errors by position
    everywhere : whether the tensor is wrong everywhere
    misled : whether an entry did not have the error that the stretches around it seemed to have, or none was reached
    """

    wrong: dict[int, float]
    everywhere: bool = False
    misled: bool = False


@dataclass(frozen=True)
class _Search:
    """A suspicious tensor and what is needed to halve its directions."""

    loss: LossAtPoint
    probing: Probing
    gradients: Sequence[Array]
    seed: int
    entries: ConfirmedEntries

    def unexplained(self, wrong: dict[int, float]) -> Floats:
        """The residuals less what the known wrong entries contribute, shape (probes,)."""
        left = self.probing.residuals.copy()
        for number in range(left.size) if wrong else ():
            left[number] -= _contribution(self.ray(number), wrong, self._start)
        return left

    def ray(self, number: int) -> Ray:
        """A direction of the probing."""
        return direction(self.loss, self.probing.tensors, self.seed, number)[0]

    @property
    def _start(self) -> int:
        return int(self.loss.layout.starts[self.probing.tensors[0]])

    def follow(self, number: int, residual: float, known: dict[int, float]) -> _Found:
        """Halve a direction by the cheapest slopes that are good enough, or by ladders where these misled.

        The shortcuts were calibrated on whole directions. A stretch may bend more, or cross kinks that those did not.
        """
        uncertainty = float(self.probing.uncertainties[number])
        shortcut, ladders = self._shortcut(abs(residual), uncertainty), Shortcut(np.empty(0), uncertainty)
        found = self._halve(number, residual, known, shortcut)
        return self._halve(number, residual, known, ladders) if found.misled and not found.wrong else found

    def _halve(self, number: int, residual: float, known: dict[int, float], shortcut: Shortcut) -> _Found:
        """Follow the residual of a direction to wrong entries."""
        # A residual that shortcuts can follow is large beside them; ladders are as exact as can be, and trusted more.
        open_above = CERTAIN if shortcut.steps.size else SUSPICIOUS
        turns = itertools.count()
        uncertainty = max(shortcut.uncertainty, float(self.probing.uncertainties[number]))
        queue = [_suspect(self.ray(number), residual, uncertainty, turns)]
        wrong: dict[int, float] = {}
        fruitless, misled = 0, False
        while queue and len(known) + len(wrong) < _MOST_WRONG and fruitless < _FRUITLESS:
            suspect = heapq.heappop(queue)
            if abs(suspect.residual) <= open_above * suspect.uncertainty and suspect.turn > 0:
                continue
            if suspect.ray.weights.size > 1:
                for half in self._halves(suspect, shortcut, known, turns):
                    heapq.heappush(queue, half)
                continue
            position = self._start + suspect.ray.start
            (error,), (is_wrong,) = self.entries.errors(np.array([position]))
            if not is_wrong:
                fruitless += 1
                explained = abs(_contribution(suspect.ray, {position: float(error)}, self._start))
                misled |= not explained > _ERROR_SHARE * abs(suspect.residual)
                continue
            fruitless = 0
            wrong[position] = float(error)
            open_left = any(abs(each.residual) > open_above * each.uncertainty for each in queue)
            if len(known) + len(wrong) == 1 and open_left and (more := self._wrong_everywhere()):
                return _Found(wrong | more, everywhere=True)
        return _Found(wrong, misled=misled or not (fruitless or wrong))

    def _shortcut(self, residual: float, uncertainty: float) -> Shortcut:
        """The cheapest way to measure slopes well enough to follow a residual; without steps, by ladders."""
        for shortcut, clear in ((self.probing.quick, _FOLLOWED), (self.probing.fine, _FOLLOWED / 4)):
            if residual > clear * shortcut.uncertainty:
                return shortcut
        return Shortcut(np.empty(0), uncertainty)

    def _halves(
        self, suspect: _Suspect, shortcut: Shortcut, known: dict[int, float], turns: itertools.count[int]
    ) -> list[_Suspect]:
        """The residual of a stretch is the sum of its halves', weights kept: one half is measured, the other follows.

        Where the uncertainty handed on would grow too much, both are measured.
        """
        first, second = _split(suspect.ray)
        residual, error = self._residual(first, shortcut, known)
        other, inherited = suspect.residual - residual, suspect.uncertainty + error
        if inherited > _DRIFT * shortcut.uncertainty:
            other, inherited = self._residual(second, shortcut, known)
        return [_suspect(first, residual, error, turns), _suspect(second, other, inherited, turns)]

    def _residual(self, ray: Ray, shortcut: Shortcut, known: dict[int, float]) -> tuple[float, float]:
        """What known errors do not explain of the residual along a ray, and its uncertainty."""
        jitter = np.array([jitter_along(self.loss, ray, self.gradients)])
        (slope,), (error,) = slopes_along(self.loss, [[ray]], shortcut, jitter)
        expected = analytic_slope([ray], self.gradients)
        return expected - float(slope) - _contribution(ray, known, self._start), float(error)

    def _wrong_everywhere(self) -> dict[int, float]:
        """A few random entries with their errors, if all of them are wrong: then nothing needs to be searched for."""
        tensor = self.probing.tensors[0]
        size = self.loss.layout.sizes[tensor]
        generator = stream(self.seed, "search", tensor)
        tried = generator.choice(size, min(_TRIED, size), replace=False) + self._start
        errors, wrong = self.entries.errors(tried)
        return dict(zip(tried.tolist(), errors.tolist(), strict=True)) if wrong.all() else {}


def _suspect(ray: Ray, residual: float, uncertainty: float, turns: itertools.count[int]) -> _Suspect:
    return _Suspect(-abs(residual), next(turns), ray, residual, uncertainty)


def _split(ray: Ray) -> tuple[Ray, Ray]:
    middle = ray.weights.size // 2
    second = replace(ray, start=ray.start + middle, weights=ray.weights[middle:])
    return replace(ray, weights=ray.weights[:middle]), second


def _contribution(ray: Ray, wrong: dict[int, float], start: int) -> float:
    """What entries with known errors add to the residual along a ray."""
    size, inside = ray.weights.size, [(position - start - ray.start, error) for position, error in wrong.items()]
    return sum(ray.scale * float(ray.weights[local]) * error for local, error in inside if 0 <= local < size)


def whole_line(loss: LossAtPoint, located: Located, tensor: int, seed: int, entries: ConfirmedEntries) -> Located:
    """Name the row or column in which all located entries lie, if others of it are wrong as well."""
    shape = loss.layout.shapes[tensor]
    local = np.array(located.wrong, np.int64) - loss.layout.starts[tensor]
    if len(shape) < 2 or local.size < 2:
        return located
    indices = np.stack(np.unravel_index(local, shape))
    for axis in np.flatnonzero((indices == indices[:, :1]).all(axis=1)):
        others = _others_of_line(shape, int(axis), int(indices[axis, 0]), local, seed) + loss.layout.starts[tensor]
        if others.size == 0 or entries.errors(others)[1].all():
            line = (int(axis), int(indices[axis, 0]))
            return replace(located, wrong=(*located.wrong, *others.tolist()), line=line)
    return located


def _others_of_line(shape: tuple[int, ...], axis: int, index: int, known: Positions, seed: int) -> Positions:
    """A few random entries with that index along the axis, not known yet; none if all of them are known."""
    generator = stream(seed, "search", axis, index)
    length = math.prod(shape) // shape[axis]
    places = np.arange(length) if length <= _SHORT else generator.integers(0, length, 4 * _TRIED)
    columns = list(np.unravel_index(places, shape[:axis] + shape[axis + 1 :]))
    columns.insert(axis, np.full(places.size, index))
    drawn = np.unique(np.ravel_multi_index(tuple(columns), shape))
    return generator.permutation(np.setdiff1d(drawn, known))[:_TRIED].astype(np.int64)
