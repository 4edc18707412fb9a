"""From a suspicious direction to the wrong entries: halve it, follow the larger residual, confirm entry by entry."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fastgc._entries import Scene
from fastgc._evaluate import Ray
from fastgc._layout import Array
from fastgc._probes import SUSPICIOUS, Probing, analytic_slope, direction, short_slope

_MOST = 16  # wrong entries that are located in a tensor
_FRUITLESS = 3  # entries in a row, found within tolerance, after which the differences are taken to be small and many
_DRIFT = 3.0  # of the uncertainty: a half's residual is measured anew when inheriting it would cost more
_TRIED = 3  # entries of a line (or of a tensor) that are looked at to call it wrong as a whole

Confirm = Callable[[NDArray[np.int64]], NDArray[np.bool_]]  # positions of entries -> which of them are wrong


@dataclass(frozen=True)
class Located:
    """What a suspicious direction led to.

    Attributes
    ----------
    wrong : positions of the entries confirmed as wrong, in the order of their discovery
    complete : whether nothing suspicious is left; False where the search stopped at its bound
    line : the axis and index of a row, column or block that is wrong as a whole, or None
    """

    wrong: tuple[int, ...]
    complete: bool
    line: tuple[int, int] | None = None


@dataclass(frozen=True, order=True)
class _Suspect:
    """A stretch of entries with its share of the residual; the largest share comes first."""

    urgency: float
    turn: int
    ray: Ray = field(compare=False)
    residual: float = field(compare=False)
    uncertainty: float = field(compare=False)


def localise(scene: Scene, probing: Probing, gradients: Sequence[Array], seed: int, confirm: Confirm) -> Located:
    """Find the wrong entries of the one tensor that was probed.

    The residual of a stretch is the sum of those of its halves, signs kept: one half is measured and the other follows.
    """
    number = int(np.argmax(np.abs(probing.residuals)))
    (ray,) = direction(scene, probing.tensors, seed, number)
    turns = itertools.count()
    queue = [_suspect(ray, float(probing.residuals[number]), probing.uncertainty, turns)]
    wrong: list[int] = []
    fruitless = 0
    while queue and len(wrong) < _MOST and fruitless < _FRUITLESS:
        suspect = heapq.heappop(queue)
        if abs(suspect.residual) <= SUSPICIOUS * suspect.uncertainty:
            continue
        if suspect.ray.signs.size > 1:
            for half in _halves(scene, suspect, probing, gradients, turns):
                heapq.heappush(queue, half)
            continue
        position = int(scene.layout.starts[suspect.ray.tensor]) + suspect.ray.start
        found = bool(confirm(np.array([position]))[0])
        wrong += [position] * found
        fruitless = 0 if found else fruitless + 1
        if len(wrong) == 1 and _open(queue) and (more := _wrong_as_a_whole(scene, ray.tensor, seed, confirm)):
            return Located((*wrong, *more), complete=False)
    return Located(tuple(wrong), not _open(queue))


def _open(queue: Sequence[_Suspect]) -> bool:
    return any(abs(suspect.residual) > SUSPICIOUS * suspect.uncertainty for suspect in queue)


def _suspect(ray: Ray, residual: float, uncertainty: float, turns: itertools.count[int]) -> _Suspect:
    return _Suspect(-abs(residual), next(turns), ray, residual, uncertainty)


def _halves(
    scene: Scene, suspect: _Suspect, probing: Probing, gradients: Sequence[Array], turns: itertools.count[int]
) -> list[_Suspect]:
    first, second = _split(suspect.ray)
    residual = _residual(scene, first, probing, gradients)
    inherited = suspect.uncertainty + probing.uncertainty
    if inherited <= _DRIFT * probing.uncertainty:
        other = (suspect.residual - residual, inherited)
    else:
        other = (_residual(scene, second, probing, gradients), probing.uncertainty)
    return [_suspect(first, residual, probing.uncertainty, turns), _suspect(second, *other, turns)]


def _split(ray: Ray) -> tuple[Ray, Ray]:
    middle = ray.signs.size // 2
    second = replace(ray, start=ray.start + middle, signs=ray.signs[middle:])
    return replace(ray, signs=ray.signs[:middle]), second


def _residual(scene: Scene, ray: Ray, probing: Probing, gradients: Sequence[Array]) -> float:
    return analytic_slope([ray], gradients) - short_slope(scene, [ray], probing.steps)


def _wrong_as_a_whole(scene: Scene, tensor: int, seed: int, confirm: Confirm) -> list[int]:
    """Positions of a few random entries, if all of them are wrong: then nothing needs to be searched for."""
    size = scene.layout.sizes[tensor]
    generator = np.random.default_rng([seed, tensor, 2])
    tried = generator.choice(size, min(_TRIED, size), replace=False) + int(scene.layout.starts[tensor])
    return tried.tolist() if confirm(tried).all() else []


def whole_line(scene: Scene, located: Located, tensor: int, seed: int, confirm: Confirm) -> Located:
    """Name the row or column in which all located entries lie, if others of it are wrong as well."""
    shape = scene.layout.shapes[tensor]
    local = np.array(located.wrong, np.int64) - scene.layout.starts[tensor]
    if len(shape) < 2 or local.size < 2:
        return located
    indices = np.stack(np.unravel_index(local, shape))
    for axis in np.flatnonzero((indices == indices[:, :1]).all(axis=1)):
        others = _others_of_line(shape, int(axis), int(indices[axis, 0]), local, seed) + scene.layout.starts[tensor]
        wrong = confirm(others)
        if others.size and wrong.all():
            line = (int(axis), int(indices[axis, 0]))
            return replace(located, wrong=(*located.wrong, *others.tolist()), line=line)
    return located


def _others_of_line(
    shape: tuple[int, ...], axis: int, index: int, known: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """A few random entries with that index along the axis, not known yet."""
    generator = np.random.default_rng([seed, axis, index])
    columns = [generator.integers(0, length, 4 * _TRIED) for length in shape]
    columns[axis][:] = index
    drawn = np.unique(np.ravel_multi_index(tuple(columns), shape))
    return generator.permutation(np.setdiff1d(drawn, known))[:_TRIED].astype(np.int64)
