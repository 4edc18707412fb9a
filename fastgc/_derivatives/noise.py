"""The noise of a loss: the scatter of its values around a smooth function, measured from differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgc._derivatives.ladder import TOP
from fastgc._parameters.arrays import Array, Floats

Values = Callable[[Array], Floats]  # loss values at multiples of one displacement

_POINTS = 8  # about as many as Moré and Wild (2011) use; more would cost evaluations of every check
_FIRST_SPACING = 4096.0  # in units of eps: 1e-12 in double precision, as Moré and Wild (2011), section 5, recommend
_FIRST_AT_MOST = 1e-4  # in units of the scale: 8 points of float16, whose 4096 eps is 4, would leave the neighbourhood
_GROWTH = 10.0  # of the spacing while values tie: ten tries span the ten powers of ten from first to widest
_WIDEST = 1e-2  # in units of the scale: values farther apart show the function and not its noise
_STAIR_POINTS = 64  # over the distance below: they find stairs of 1/500 of the scale and wider
_SINGLE_TAIL = 29  # zero bits at the end of a float32 number stored as float64: 53 - 24
_SHORT_TAIL = 44  # zero bits at the end of a number of 9 bits, such as 0.75: it says nothing about the precision
_NEAREST, _CLOSER = 1e-9, 8.0  # a domain's edge nearer than 1e-9 leaves ladders no room; 9 divisions get there
_AGREEMENT = 4.0  # three estimates of successive orders agree within this factor: that of Moré and Wild (2011)
# s**2 over the variance of the k-th differences, from k = 1 on: `difference_table_noise` takes 32 values at most.
_SHARES = np.array([math.factorial(k) ** 2 / math.factorial(2 * k) for k in range(1, 32)])
_NOISE_SAFETY = 3.0  # eight values underestimate normal noise by more than this factor in 0.6 % of simulated cases


@dataclass(frozen=True)
class Noise:
    """Absolute noise of one loss value, at the point and at a distance from it; 0 if not measured."""

    at_point: float
    displaced: float
    reach: float  # the distance of the second estimate, in units of the parameters' scale
    single: bool  # all values are float32 numbers
    change: float = 0.0  # the larger change of the loss at that distance, on either side

    @property
    def eps(self) -> float:
        """Resolution of the values."""
        return float(np.finfo(np.float32 if self.single else np.float64).eps)

    def at(self, distance: Floats) -> Floats:
        """The noise at a distance in units of the scale: it grows linearly from the first estimate to the second.

        For example, a residual that is rounded before it is squared has noise in proportion to its size.
        """
        return np.maximum(self.at_point, self.displaced * np.minimum(distance / self.reach, 1.0))


def measure_noises(values: Values, bases: Floats, eps: float) -> list[Noise]:
    """The noise of several losses of the same parameters; ``values`` gives shape (distances, losses).

    One set of evaluations serves all losses. It suffices for a loss whose values change from point to point, or that
    is constant at one of the two places; each other loss is measured by itself, from these values and further ones.
    """
    near = _first_spacing(eps) * np.arange(1, _POINTS + 1)
    distances = np.concatenate([near, TOP + near, [TOP, -TOP]])
    sample = values(distances)
    tables = sample[: 2 * _POINTS].reshape(2, _POINTS, -1).swapaxes(0, 1)  # here and there
    moves, same, on_grid = ~_ties(tables), (tables == tables[0]).all(axis=0), _on_float32_grid(tables)
    still = (sample[:-1] == bases).all(axis=0)
    one_sided = same.any(axis=0) & (moves & ~on_grid).any(axis=0)  # as a rectifier does, and no coarse grid
    clear = np.isfinite(sample).all(axis=0) & (still | one_sided | moves.all(axis=0))
    with np.errstate(all="ignore"):
        tabled = np.where(moves, _NOISE_SAFETY * difference_table_noise(tables), 0.0)
        here, there = np.where(same, tabled.max(axis=0), tabled).tolist()
        changes = np.abs(sample[-2:] - bases).max(axis=0).tolist()
    single = on_grid.all(axis=0).tolist()
    known = _KnownValues(values, dict(zip(distances.tolist(), sample, strict=True)))
    return [
        _rounded_up(base, here[i], there[i], TOP, single[i] and _are_single([base, *sample[:, i]]), changes[i])
        if clear[i]
        else measure_noise(lambda distances, i=i: known.at(distances, i), base, eps)  # type: ignore[misc]
        for i, base in enumerate(bases.tolist())
    ]


@dataclass(frozen=True)
class _KnownValues:
    """Values of several losses, evaluated once at each distance."""

    values: Values
    rows: dict[float, Floats]

    def at(self, distances: Floats, loss: int) -> Floats:
        """The values of one loss, shape (distances,)."""
        new = [distance for distance in distances.tolist() if distance not in self.rows]
        if new:
            self.rows.update(zip(new, self.values(np.array(new)), strict=True))
        return np.array([self.rows[distance][loss] for distance in distances.tolist()])


def measure_noise(values: Values, base: float, eps: float) -> Noise:
    """The noise at the point and at a distance from it: that of the largest step of the ladders.

    Parameters
    ----------
    values : callable
        Loss values at multiples of a displacement that is as long as the parameters' scale.
    base : float
        The loss at the point.
    eps : float
        Resolution of the parameters' dtype.
    """
    here, values_here = _noise_around(values, 0.0, eps)
    reach = _finite_reach(values)
    there, values_there = _noise_around(values, reach, eps)
    single = _are_single([base, *values_here, *values_there])
    away = np.abs(values(np.array([-reach, reach])) - base)
    change = float(np.nan_to_num(away, nan=0.0, posinf=0.0).max())
    return _rounded_up(base, here, there, reach, single, change)


def _rounded_up(base: float, here: float, there: float, reach: float, single: bool, change: float) -> Noise:
    """The noise, at least that of rounding to the dtype of the values.

    A loss that is exactly 0 everywhere nearby may be so by rounding, as log(1 + exp(-50)) is: it counts as a sum of
    terms of order 1.
    """
    size = 1.0 if base == here == there == change == 0 else abs(base)
    rounding = float(np.finfo(np.float32 if single else np.float64).eps) * size / 2
    return Noise(max(rounding, here), max(rounding, there), reach, single, change)


def _first_spacing(eps: float) -> float:
    return min(_FIRST_SPACING * eps, _FIRST_AT_MOST)


def _finite_reach(values: Values) -> float:
    reach = TOP
    while reach > _NEAREST and not np.isfinite(values(np.array([reach]))).all():
        reach /= _CLOSER
    return reach


def _noise_around(values: Values, start: float, eps: float, *, flat: bool = False) -> tuple[float, Floats]:
    """Noise from values so far apart that fewer than half of them tie, and these values.

    Values that tie up to a kink and move beyond it would look like noise: they are taken again from beyond the kink
    (once: ``flat`` says that this was done).
    """
    spacing = first = _first_spacing(eps)
    while True:  # the start itself is left out: it may be a kink or a jump
        sample = values(start + spacing * np.arange(1, _POINTS + 1))
        sample = sample[np.isfinite(sample)]
        if sample.size < _POINTS // 2 or not _ties(sample):
            break
        spacing *= _GROWTH
        if spacing > _WIDEST:
            sample = values(start + np.arange(_STAIR_POINTS) * (TOP / _STAIR_POINTS))
            return _stair(sample), sample
    still = _still_until(sample)
    if spacing > first and still and not flat:
        return _noise_around(values, start + spacing * (still + 2), eps, flat=True)
    noise = _NOISE_SAFETY * float(difference_table_noise(sample))
    if spacing > first:  # closer values tied: they lie on a grid, and a regular one shows no scatter
        noise = max(noise, _smallest_change(sample) / 2)
    return noise, sample


def _ties(sample: Floats) -> Any:
    """Whether half or more of the values equal the previous one."""
    return 2 * (sample[1:] == sample[:-1]).sum(axis=0) >= len(sample) - 1


def _are_single(values: Sequence[float]) -> bool:
    """Whether values are float32 numbers, one of them at least not by chance."""
    return bool(_on_float32_grid(np.array(values))) and any(map(_rounded_to_single, values))


def _rounded_to_single(value: float) -> bool:
    """Whether a number is a float32 number, and not by chance, as 2.0 and 0.75 are: its fraction is long, but ends."""
    mantissa = int(math.frexp(value)[0] * 2.0**53) if math.isfinite(value) else 0
    trailing = (mantissa & -mantissa).bit_length() - 1
    return _SINGLE_TAIL <= trailing <= _SHORT_TAIL


def _on_float32_grid(sample: Floats) -> Any:
    with np.errstate(over="ignore"):
        return (sample.astype(np.float32) == sample).all(axis=0)


def _smallest_change(sample: Floats) -> float:
    changes = np.abs(np.diff(sample))
    return float(changes[changes > 0].min()) if (changes > 0).any() else 0.0


def _still_until(sample: Floats) -> int:
    """How many values tie before the first change, if none ties after it; else 0."""
    moving = np.flatnonzero(np.diff(sample))
    return int(moving[0]) if moving.size and moving.size == sample.size - 1 - moving[0] else 0


def _stair(sample: Floats) -> float:
    """The height of a staircase, whose changes stand alone; 0 where the loss is constant and then bends."""
    changes = np.abs(np.diff(sample[np.isfinite(sample)]))
    rising = changes > 0
    together = np.count_nonzero(rising[1:] & rising[:-1])
    return float(changes.max(initial=0.0)) if 2 * together < np.count_nonzero(rising) else 0.0


def difference_table_noise(values: Floats) -> Floats:
    """Standard deviation of the noise in equally spaced values of a smooth function (Moré & Wild 2011, section 3).

    The k-th differences of a smooth function vanish with the spacing; those of independent noise of variance s**2 have
    the variance s**2 * (2k)! / (k!)**2. The first of three successive orders that agree, with both signs among its
    differences, gives s; if no three agree, the highest order gives s: it contains least of the function.

    Parameters
    ----------
    values : array, shape (points, ...)
        At most 32 points.
    """
    orders = len(values) - 1
    if orders < 1:
        return np.zeros(values.shape[1:])
    size = np.abs(values).max(axis=0)
    size = np.where(size > 0, size, 1.0)
    differences, table = values / size, np.zeros((orders, orders, *values.shape[1:]))  # so that no square overflows
    for row in table:
        differences = differences[1:] - differences[:-1]
        row[: len(differences)] = differences
    counts = np.arange(orders, 0, -1)
    estimates = np.sqrt(_SHARES[:orders] * (table**2).sum(axis=1).T / counts).T
    one, two, three = estimates[:-2], estimates[1:-1], estimates[2:]
    largest, least = np.maximum(np.maximum(one, two), three), np.minimum(np.minimum(one, two), three)
    believed = (table.max(axis=1) > 0) & (table.min(axis=1) < 0)
    believed[:-2] &= largest <= _AGREEMENT * least
    believed[-2:], believed[-1:] = False, True
    return np.asarray(size * believed.argmax(axis=0).choose(estimates))
