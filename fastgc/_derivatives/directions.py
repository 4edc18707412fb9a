"""Random-sign directions: two loss values that see every entry of a tensor, whatever its size.

Let e = a - n be the error of a tensor's gradient and s independent random signs. The residual r = sum_i s_i e_i, which
is the analytic slope along s minus the true one, has the mean square ||e||**2. Let u bound the error of the measured
slope, and call a direction suspicious where the measured residual exceeds u: so it is wherever |r| > 2u.

*An entry with |e_j| > 2u.* Flip its sign: r changes from R + e_j to R - e_j, and
max(|R + e_j|, |R - e_j|) >= |e_j| > 2u. So of every such pair of sign vectors at least one is suspicious: one direction
misses with probability at most 1/2.

*A norm ||e|| >= 8u with no such entry.* By the Berry-Esseen theorem (constant 0.56, Shevtsova 2010) the distribution of
r / ||e|| differs from the normal one by at most 0.56 * sum |e_i|**3 / ||e||**3 <= 0.56 * 2u / 8u = 0.14. So
P(|r| <= 2u) <= P(|Z| <= 1/4) + 2 * 0.14 < 0.198 + 0.28 < 1/2.

Directions are independent, so k of them miss with probability at most 2**-k. An isolated wrong entry alone gives
|r| = |e_j| whatever the signs, and is never missed above 2u.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.estimates import LossAtPoint
from fastgc._derivatives.ladder import Derivative, Ladder, derivative_from
from fastgc._evaluation.evaluator import Ray
from fastgc._parameters.arrays import Array, norm
from fastgc._parameters.streams import stream

Floats = NDArray[np.float64]

SUSPICIOUS = 1.0  # uncertainties beyond which a measured residual is looked into
CERTAIN = 2.0  # uncertainties beyond which an error is bound to show
_RATIO = 8.0  # between neighbouring steps of a probe's ladder
_TOP = 2.0**-5  # the largest step of a probe's ladder, in units of the tensor's scale in every entry
_RUNGS = 5
_MORE = 3  # steps that a ladder grows by, downwards or upwards, where it must
_NEARLY = 2.0  # two values are preferred to four that are not twice as good
_DOUBTFUL = 1e-4  # relative uncertainty of a slope above which it does
_SHARED_FROM = 75  # tensors; with more of them, directions are shared
_SHARED_BY = 4  # tensors at most: their truncation errors add up, the limits stay within a factor 4
_ALIKE = 10.0  # times the slope of another, with which a tensor may share directions at most
_BLOCK = 1 << 17  # entries at a time, in sums over a tensor
_SIGNS_AT_A_TIME = 1 << 23  # of the directions that are measured together


@dataclass(frozen=True)
class Shortcut:
    """One or two steps from which a slope is measured without a ladder, and how uncertain it is."""

    steps: Floats
    uncertainty: float


@dataclass(frozen=True)
class Probing:
    """How a tensor (or a few together) was probed; residuals and uncertainties in units of scale times gradient.

    Attributes
    ----------
    tensors : which share the directions
    residuals : analytic minus numerical slope along each direction, shape (probes,)
    slopes : numerical slopes, shape (probes,)
    analytic : analytic slopes, shape (probes,)
    uncertainties : bounds on the errors of the residuals, shape (probes,)
    quick, fine : at which distances further directions in this tensor are measured, with one step or with two
    trouble : "" or what keeps the slopes from being known
    first : the number of the first direction; the others follow
    beside : tensors that share some of the directions
    """

    tensors: tuple[int, ...]
    residuals: Floats
    slopes: Floats
    analytic: Floats
    uncertainties: Floats
    quick: Shortcut
    fine: Shortcut
    trouble: str
    first: int = 0
    beside: tuple[int, ...] = ()

    def part(self, numbers: range) -> Probing:
        """With some of the directions only."""
        some = slice(numbers.start - self.first, numbers.stop - self.first)
        return replace(
            self,
            residuals=self.residuals[some],
            slopes=self.slopes[some],
            analytic=self.analytic[some],
            uncertainties=self.uncertainties[some],
            first=numbers.start,
        )

    def extended(self, more: Probing) -> Probing:
        """With further directions, which more tensors may share."""
        return replace(
            self,
            residuals=np.append(self.residuals, more.residuals),
            slopes=np.append(self.slopes, more.slopes),
            analytic=np.append(self.analytic, more.analytic),
            uncertainties=np.append(self.uncertainties, more.uncertainties),
            trouble=self.trouble or more.trouble,
            beside=tuple(t for t in more.tensors if t not in self.tensors),
        )

    @property
    def uncertainty(self) -> float:
        """The largest of the uncertainties, which limits what all directions together are sure to show."""
        return float(self.uncertainties.max())

    @property
    def excess(self) -> float:
        """The largest residual in units of its uncertainty."""
        return float((np.abs(self.residuals) / self.uncertainties).max())

    @property
    def suspicious(self) -> bool:
        """Whether some residual is larger than its uncertainty explains."""
        return self.excess > SUSPICIOUS


# --- directions ---


def random_signs(seed: int, numbers: range, name: str, size: int) -> NDArray[np.int8]:
    """Independent signs of +1 and -1, shape (numbers, size), reproducible by seed, number and name.

    They are the bits of one stream for each seed and name, of which every number has a stretch of its own.
    """
    words = -(-size // 64)
    bits = cast(np.random.PCG64, stream(seed, "directions", name).bit_generator).advance(numbers.start * words)
    signs = np.empty((len(numbers), words * 64), np.int8)
    flat = signs.reshape(-1)
    for begin in range(0, flat.size, _BLOCK):
        some = flat[begin : begin + _BLOCK]
        ones = np.unpackbits(bits.random_raw(some.size // 64).astype("<u8", copy=False).view(np.uint8))
        np.subtract(ones * np.int8(2), 1, out=some, casting="unsafe")
    return signs[:, :size]


def directions(loss: LossAtPoint, tensors: Sequence[int], seed: int, numbers: range) -> list[list[Ray]]:
    """Random signs in all entries of the tensors, each as long as its tensor's scale; a direction for each number."""
    names, sizes, scales = loss.layout.names, loss.layout.sizes, loss.tensor_scales
    signs = [random_signs(seed, numbers, names[t], sizes[t]) for t in tensors]
    return [
        [Ray(t, 0, rows[i], float(scales[t])) for t, rows in zip(tensors, signs, strict=True)]
        for i in range(len(numbers))
    ]


def direction(loss: LossAtPoint, tensors: Sequence[int], seed: int, number: int) -> list[Ray]:
    """One of the `directions`."""
    return directions(loss, tensors, seed, range(number, number + 1))[0]


def analytic_slope(rays: Sequence[Ray], gradients: Sequence[Array]) -> float:
    """Slope along the direction by the analytic gradient: ``sum scale * signs * gradient``."""
    total = 0.0
    for ray in rays:
        for begin in range(0, ray.signs.size, _BLOCK):
            signs = ray.signs[begin : begin + _BLOCK]
            part = gradients[ray.tensor][ray.start + begin : ray.start + begin + signs.size]
            total += ray.scale * float(np.dot(part.astype(np.float64, copy=False), signs.astype(np.float64)))
    return total


# --- slopes along directions ---


def ladder_slope(loss: LossAtPoint, rays: Sequence[Ray], jitter: float) -> tuple[Derivative, Ladder]:
    """The slope along a direction from a ladder of steps, longer where that promises more.

    ``jitter`` is by how much rounding the displaced entries shakes the loss.
    """
    rungs = _TOP * _RATIO ** -np.arange(_RUNGS, dtype=np.float64)
    ladder = _ladder(loss, rays, rungs, jitter)
    slope = derivative_from(ladder)
    below, above = rungs[-1] * _RATIO ** -np.arange(1.0, 1 + _MORE), rungs[0] * _RATIO ** np.arange(1.0, 0, -1.0)
    for better_steps, more in (("finer", below), ("finer", below * _RATIO**-_MORE), ("coarser", above)):
        # The two largest steps are the fewest that an estimate of the error rests on: there noise prevails.
        wished = "coarser" if not slope.better_steps and slope.step >= rungs[1] else slope.better_steps
        if wished == better_steps and not slope.uncertainty <= _DOUBTFUL * abs(slope.value):
            ladder = ladder.extended(_ladder(loss, rays, more, jitter))
            slope = derivative_from(ladder)
    return slope, ladder


def _ladder(loss: LossAtPoint, rays: Sequence[Ray], rungs: Floats, jitter: float) -> Ladder:
    values = loss.evaluator.along_rays([rays], np.concatenate([-rungs, rungs]))[0].real
    minus, plus = values[: rungs.size], values[rungs.size :]
    with np.errstate(all="ignore"):
        rounding = np.finfo(np.float64).eps / 2 * np.fmax(np.abs(minus), np.abs(plus))
    noise = np.fmax(loss.noise.at(rungs), np.where(np.isfinite(rounding), rounding, 0.0)) + jitter
    return Ladder(-rungs, rungs, minus, plus, loss.base, noise)


def jitter_along(loss: LossAtPoint, ray: Ray, gradients: Sequence[Array]) -> float:
    """By how much rounding the displaced entries to their dtype shakes the loss.

    Every entry is off by eps / 12**0.5 of its own size, or less; all together move the loss by about that share of
    ``scale * ||gradient||``. Three times as much is eps of it.
    """
    part = gradients[ray.tensor][ray.start : ray.start + ray.signs.size]
    return float(loss.eps[ray.tensor] * ray.scale * norm(part))


def short_slopes(loss: LossAtPoint, along: Sequence[Sequence[Ray]], shortcut: Shortcut) -> Floats:
    """The slope along each of several directions from central quotients at one step, or at two (extrapolated)."""
    steps = shortcut.steps
    values = loss.evaluator.along_rays(along, np.concatenate([steps, -steps])).real
    plus, minus = values[:, : steps.size], values[:, steps.size :]
    quotients = (plus - minus) / (2 * steps)
    best = quotients[:, -1]
    return np.asarray(best if steps.size == 1 else best + (best - quotients[:, 0]) / (_RATIO**2 - 1))


def _shortcuts(ladder: Ladder, slope: Derivative, enough: float) -> tuple[Shortcut, Shortcut]:
    """A step of the ladder, and two neighbouring steps, from which other slopes come close enough.

    On the calibrating direction the error of each short formula is known, up to the ladder's own uncertainty; it stands
    for the others with a factor 3. Of the steps that serve the smallest is taken: where this direction met no kink,
    others may, and the fewer the shorter the step is.
    """
    with np.errstate(all="ignore"):
        single = ladder.central
        double = single[1:] + np.diff(single) / (_RATIO**2 - 1)
        error_1 = 3 * np.abs(single - slope.value) + ladder.scatter + slope.uncertainty
        error_2 = 3 * np.abs(double - slope.value) + 1.1 * ladder.scatter[1:] + slope.uncertainty
    error_1, error_2 = (np.where(np.isnan(errors), np.inf, errors) for errors in (error_1, error_2))
    one, two = _last_good(error_1, enough), _last_good(error_2, enough)
    return (
        Shortcut(ladder.above[one : one + 1], float(error_1[one])),
        Shortcut(ladder.above[two : two + 2], float(error_2[two])),
    )


def _last_good(errors: Floats, enough: float) -> int:
    return int(np.flatnonzero(errors <= max(enough, errors.min()))[-1])


def probe(
    loss: LossAtPoint,
    tensors: Sequence[int],
    gradients: Sequence[Array],
    numbers: range,
    seed: int,
    enough: float = 0.0,
    *,
    wary: bool = False,
) -> Probing:
    """Measure random directions in the tensors: the first by a ladder, the others at the steps it found best.

    A direction that looks suspicious is measured again by a ladder of its own.

    Parameters
    ----------
    numbers : range
        Of the directions.
    enough : float
        An uncertainty of the residuals below which nothing is gained.
    wary : bool
        End with the first direction where that looks suspicious.
    """
    group = _Group(loss, tensors, gradients, seed)
    rows: list[tuple[float, float, float]] = []
    for along in group.directions(numbers):
        if not rows:
            slope, ladder = ladder_slope(loss, along[0], group.jitter)
            quick, fine = _shortcuts(ladder, slope, enough)
            short = quick if quick.uncertainty <= max(_NEARLY * fine.uncertainty, enough) else fine
            rows.append((analytic_slope(along[0], gradients), slope.value, with_gap(slope)))
            del along[0]
            if wary and not abs(rows[0][0] - rows[0][1]) <= SUSPICIOUS * (rows[0][2] + group.rounding):
                break
        rows += group.slopes(along, short, enough) if along else []
        along.clear()  # before others are drawn: in a large tensor signs take room
    known, numerical, errors = np.array(rows).T
    uncertainties = errors + group.rounding
    trouble = slope.trouble if slope.trouble in ("jump", "quantised", "not finite") else ""
    measured = known - numerical, numerical, known, uncertainties
    return Probing(tuple(tensors), *measured, quick, fine, trouble, numbers[0])


@dataclass(frozen=True)
class _Group:
    """Tensors that share directions."""

    loss: LossAtPoint
    tensors: Sequence[int]
    gradients: Sequence[Array]
    seed: int

    def directions(self, numbers: range) -> Iterator[list[list[Ray]]]:
        """The directions, as many at a time as memory has room for their signs."""
        together = max(1, _SIGNS_AT_A_TIME // sum(self.loss.layout.sizes[t] for t in self.tensors))
        for begin in range(0, len(numbers), together):
            yield directions(self.loss, self.tensors, self.seed, numbers[begin : begin + together])

    def slopes(
        self, along: Sequence[Sequence[Ray]], short: Shortcut, enough: float
    ) -> Iterator[tuple[float, float, float]]:
        """Analytic and numerical slope along each, and the uncertainty; where they differ, by a ladder of its own.

        A difference with which nothing would be gained counts as uncertainty.
        """
        for rays, slope in zip(along, short_slopes(self.loss, along, short).tolist(), strict=True):
            expected = analytic_slope(rays, self.gradients)
            difference = abs(expected - slope) / SUSPICIOUS
            if difference <= max(short.uncertainty, enough):
                yield expected, slope, max(short.uncertainty, difference)
            else:
                own, _ = ladder_slope(self.loss, rays, self.jitter)
                yield expected, own.value, with_gap(own)

    @cached_property
    def lengths(self) -> Floats:
        """Of the gradients, in units of the scales: as large as slopes are, about. Shape (tensors,)."""
        return np.array([self.loss.tensor_scales[t] * norm(self.gradients[t]) for t in self.tensors])

    @property
    def jitter(self) -> float:
        """By how much rounding the displaced entries shakes the loss."""
        return float(np.sum(self.loss.eps[list(self.tensors)] * self.lengths))

    @property
    def rounding(self) -> float:
        """What it adds to the analytic slope, a sum over all entries."""
        return float(4 * np.finfo(np.float64).eps * self.lengths.sum())


def with_gap(slope: Derivative) -> float:
    """The uncertainty of a slope; at a kink any slope between the one-sided ones is right."""
    return slope.uncertainty + abs(slope.right - slope.left) / 2


# --- which tensors share directions ---


def groups(loss: LossAtPoint, tensors: Sequence[int], gradients: Sequence[Array]) -> list[tuple[int, ...]]:
    """Tensors that are probed together: each alone, unless there are very many.

    Sharing leaves the noise of a slope as it is and adds up truncation errors, which are about as large as the slopes
    themselves: so neighbours in the order of their analytic slopes share, four at most.
    """
    if len(tensors) <= _SHARED_FROM:
        return [(t,) for t in tensors]
    slopes = {t: loss.tensor_scales[t] * norm(gradients[t]) for t in tensors}
    together = min(_SHARED_BY, -(-len(tensors) // _SHARED_FROM))
    found: list[tuple[int, ...]] = []
    for t in sorted(tensors, key=lambda t: (slopes[t], t)):
        if found and len(found[-1]) < together and slopes[t] <= _ALIKE * slopes[found[-1][0]]:
            found[-1] = (*found[-1], t)
        else:
            found.append((t,))
    return found


def largest_share(loss: LossAtPoint, together: Probing, gradients: Sequence[Array], seed: int) -> int:
    """Of tensors that share directions, the one with the largest part of the most suspicious residual."""
    number = int(np.argmax(np.abs(together.residuals) / together.uncertainties))
    rays = direction(loss, together.tensors, seed, together.first + number)
    slopes = short_slopes(loss, [[ray] for ray in rays], together.fine)
    shares = np.abs([analytic_slope([ray], gradients) for ray in rays] - slopes)
    return together.tensors[int(np.argmax(shares))]


def without(together: Probing, own: Probing) -> Probing:
    """What shared directions say of the other tensors, once one of them was probed by itself with the same signs."""
    return replace(
        together,
        tensors=tuple(t for t in together.tensors if t not in own.tensors),
        residuals=together.residuals - own.residuals,
        slopes=together.slopes - own.slopes,
        analytic=together.analytic - own.analytic,
        uncertainties=together.uncertainties + own.uncertainties,
    )
