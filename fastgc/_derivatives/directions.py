"""Random directions: two loss values that cover every entry of a tensor, whatever its size.

The analytic slope along a direction minus the measured one is its residual, which `random_weights` relates to the error
of the gradient.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastgc._derivatives.entry_ladders import COARSER, GOOD_ENOUGH
from fastgc._derivatives.ladder import Derivative, Ladder, derivative_from
from fastgc._derivatives.loss_at_point import BOUNDED_TOP, LossAtPoint
from fastgc._derivatives.random_weights import LARGEST, UNIT, weights_of_each
from fastgc._evaluation.evaluator import Ray
from fastgc._forks import cached_property
from fastgc._parameters.arrays import AT_ONCE, Array, Floats, norm, norms, resolutions

SUSPICIOUS = 1.0  # uncertainties beyond which a measured residual is followed: the u of `random_weights`
CERTAIN = 2.0  # uncertainties beyond which every true residual is followed: the 2u there
FURTHER = 1 << 20  # the number of the first direction of a search, beyond those of every probe
_PROBE_RATIO = 8.0  # of neighbouring steps: five steps, the fewest for two extrapolations and a check, span 4,000
PROBE_TOP = 2.0**-5  # the largest step, in units of the scale: a quarter of a single entry's, since all entries move
_PROBE_RUNGS = 5  # from 0.03 to 8e-6: the best step of a central quotient is 6e-6
_NEARLY = 2.0  # two loss values are preferred to four unless four halve the uncertainty, as evaluations cost time
_SHARED_FROM = 75  # tensors; with more of them, directions are shared: 20 evaluations for each would be 1,500
_SHARED_BY = 4  # tensors at most: their truncation errors add up, the limits stay within a factor of 4
_ALIKE = 10.0  # ratio of slopes up to which tensors share directions: the smaller one keeps one digit less
_WEIGHTS_AT_A_TIME = 1 << 23  # of the directions that are measured together: 8 MB


@dataclass(frozen=True)
class Shortcut:
    """One or two steps from which a slope is measured without a ladder, and how uncertain it is.

    With ``imaginary`` the one step is that of a complex step.
    """

    steps: Floats
    uncertainty: float
    imaginary: bool = False


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
    quick, fine : the distances at which further directions in this tensor are measured, with one step or with two
    trouble : what keeps the slopes from being known, or ""
    first : the number of the first direction; the others follow
    beside : all tensors that share some of the directions, where these are more
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

    @property
    def numbers(self) -> range:
        """The numbers of the directions."""
        return range(self.first, self.first + self.residuals.size)

    def part(self, numbers: range) -> Probing:
        """The probing with some of its directions."""
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
        """The probing with further directions, which more tensors may share."""
        return replace(
            self,
            residuals=np.append(self.residuals, more.residuals),
            slopes=np.append(self.slopes, more.slopes),
            analytic=np.append(self.analytic, more.analytic),
            uncertainties=np.append(self.uncertainties, more.uncertainties),
            trouble=self.trouble or more.trouble,
            beside=more.tensors if len(more.tensors) > len(self.tensors) else (),
        )

    @cached_property
    def uncertainty(self) -> float:
        """The largest uncertainty: the larger it is, the more directions miss."""
        return float(self.uncertainties.max())

    @cached_property
    def excess(self) -> float:
        """The largest residual in units of its uncertainty."""
        return float((np.abs(self.residuals) / self.uncertainties).max())

    @property
    def suspicious(self) -> bool:
        """Whether some residual is larger than its uncertainty explains."""
        return self.excess > SUSPICIOUS


# --- directions ---


def directions(loss: LossAtPoint, tensors: Sequence[int], seed: int, numbers: range) -> list[list[Ray]]:
    """A direction for each number: random weights of the entries of the tensors, in units of the tensor's scale.

    All entries are displaced but those of `LossAtPoint.unmoved`.
    """
    names, sizes, scales = loss.layout.names, loss.layout.sizes, loss.tensor_scales
    weights = weights_of_each(seed, numbers, [names[t] for t in tensors], [sizes[t] for t in tensors])
    for t, rows in zip(tensors, weights, strict=True):
        unmoved = loss.unmoved(t)
        if unmoved is not None:
            rows[:, unmoved] = 0
    return [
        [Ray(t, 0, rows[i], float(scales[t]) / UNIT) for t, rows in zip(tensors, weights, strict=True)]
        for i in range(len(numbers))
    ]


def direction(loss: LossAtPoint, tensors: Sequence[int], seed: int, number: int) -> list[Ray]:
    """One of the `directions`."""
    return directions(loss, tensors, seed, range(number, number + 1))[0]


def analytic_slope(rays: Sequence[Ray], gradients: Sequence[Array]) -> float:
    """Slope along the direction by the analytic gradient: ``sum scale * weights * gradient``."""
    total = 0.0
    for ray in rays:
        for begin in range(0, ray.weights.size, AT_ONCE):
            weights = ray.weights[begin : begin + AT_ONCE]
            part = gradients[ray.tensor][ray.start + begin : ray.start + begin + weights.size]
            total += ray.scale * float(part.dot(weights.astype(np.float64)))
    return total


# --- slopes along directions ---


def ladder_slope(loss: LossAtPoint, rays: Sequence[Ray], jitter: float) -> tuple[Derivative, Ladder]:
    """The slope along a direction from a ladder of steps, which grows where further steps promise more.

    ``jitter`` is the change of the loss by rounding of the displaced entries.
    """
    top = PROBE_TOP if loss.bounds is None else BOUNDED_TOP * UNIT / LARGEST  # which entries next to a bound allow
    rungs = top * _PROBE_RATIO ** -np.arange(_PROBE_RUNGS, dtype=np.float64)
    ladder = _ladder_along(loss, rays, rungs, jitter)
    slope = derivative_from(ladder)
    below = rungs[-1] * _PROBE_RATIO ** -np.arange(1.0, 1 + COARSER)
    above = rungs[0] * _PROBE_RATIO ** np.arange(1.0 if loss.bounds is None else 0.0, 0, -1.0)
    for better_steps, more in (("finer", below), ("finer", below * _PROBE_RATIO**-COARSER), ("coarser", above)):
        # An estimate of the error needs two steps: if the two largest serve, noise prevails at all others.
        wished = "coarser" if not slope.better_steps and slope.step >= rungs[1] else slope.better_steps
        if more.size and wished == better_steps and not slope.uncertainty <= GOOD_ENOUGH * abs(slope.value):
            ladder = ladder.extended(_ladder_along(loss, rays, more, jitter))
            slope = derivative_from(ladder)
    return slope, ladder


def _ladder_along(loss: LossAtPoint, rays: Sequence[Ray], rungs: Floats, jitter: float) -> Ladder:
    values = loss.evaluator.along_rays([rays], np.concatenate([-rungs, rungs]))[0].real
    minus, plus = values[: rungs.size], values[rungs.size :]
    with np.errstate(all="ignore"):
        rounding = np.finfo(np.float64).eps / 2 * np.fmax(np.abs(minus), np.abs(plus))
    noise = np.fmax(loss.noise.at(rungs), np.where(np.isfinite(rounding), rounding, 0.0)) + jitter
    return Ladder(-rungs, rungs, minus, plus, loss.base, noise)


def length_along(loss: LossAtPoint, ray: Ray, gradients: Sequence[Array]) -> float:
    """The norm of the gradient of the displaced entries, times the tensor's scale: the size of slopes along the ray."""
    length = 0.0
    for begin in range(0, ray.weights.size, AT_ONCE):
        moved = ray.weights[begin : begin + AT_ONCE] != 0
        first = ray.start + begin
        length = math.hypot(length, norm(gradients[ray.tensor][first : first + moved.size][moved]))
    return float(loss.tensor_scales[ray.tensor]) * length


def rounding_of(gradient: Array) -> float:
    """The `roundings_of` one tensor."""
    return float(roundings_of([gradient])[0])


def roundings_of(gradients: Sequence[Array]) -> Floats:
    """Round-off of analytic slopes, in units of their length: a few eps of a sum whose terms have random weights.

    The entries themselves are rounded to their dtype: each is off by half an eps of its size, or less.
    """
    return 4 * float(np.finfo(np.float64).eps) + resolutions(gradients)


def slopes_along(
    loss: LossAtPoint, along: Sequence[Sequence[Ray]], shortcut: Shortcut, jitters: Floats
) -> tuple[Floats, Floats]:
    """The slope along each of several directions and its uncertainty, both of shape (directions,).

    Every direction of a probe or a search but the first of a tensor is measured here: by the shortcut, or by a ladder
    for each direction where the shortcut has no steps. ``jitters`` are the changes of the loss by rounding of the
    displaced entries, one for each direction.
    """
    if shortcut.steps.size:
        return short_slopes(loss, along, shortcut), np.full(len(along), shortcut.uncertainty)
    found = [ladder_slope(loss, rays, float(jitter))[0] for rays, jitter in zip(along, jitters, strict=True)]
    return np.array([each.value for each in found]), np.array([with_gap(each) for each in found])


def short_slopes(loss: LossAtPoint, along: Sequence[Sequence[Ray]], shortcut: Shortcut) -> Floats:
    """The slope along each of several directions from central quotients at one step, or at two (extrapolated)."""
    steps = shortcut.steps
    if shortcut.imaginary:
        return _imaginary_slopes(loss, along, steps)
    values = loss.evaluator.along_rays(along, np.concatenate([steps, -steps])).real
    plus, minus = values[:, : steps.size], values[:, steps.size :]
    quotients = (plus - minus) / (2 * steps)
    best = quotients[:, -1]
    return np.asarray(best if steps.size == 1 else best + (best - quotients[:, 0]) / (_PROBE_RATIO**2 - 1))


def _imaginary_slopes(loss: LossAtPoint, along: Sequence[Sequence[Ray]], steps: Floats) -> Floats:
    """The slopes by a complex step; nan where the loss has no value there."""
    values = None if loss.complex_loss is None else loss.complex_loss.along_rays(along, steps)
    return np.full(len(along), np.nan) if values is None else values.imag[:, 0] / steps[0]


def _shortcuts(ladder: Ladder, slope: Derivative, enough: float) -> tuple[Shortcut, Shortcut]:
    """A step of the ladder, and two neighbouring steps, that measure other slopes well enough.

    On this direction the error of each short formula is known, up to the uncertainty of the ladder; three times as much
    stands for the other directions. The smallest step that serves is taken: other directions may meet kinks where this
    one met none, and a shorter step meets fewer.
    """
    with np.errstate(all="ignore"):
        single = ladder.central
        double = single[1:] + (single[1:] - single[:-1]) / (_PROBE_RATIO**2 - 1)
        error_1 = 3 * np.abs(single - slope.value) + ladder.scatter + slope.uncertainty
        # An extrapolation has (64 + 1/8) / 63 = 1.02 times the noise of its smaller step.
        error_2 = 3 * np.abs(double - slope.value) + 1.1 * ladder.scatter[1:] + slope.uncertainty
    error_1, error_2 = (np.where(np.isnan(errors), np.inf, errors) for errors in (error_1, error_2))
    one, two = _last_good(error_1, enough), _last_good(error_2, enough)
    return (
        Shortcut(ladder.above[one : one + 1], float(error_1[one])),
        Shortcut(ladder.above[two : two + 2], float(error_2[two])),
    )


def _last_good(errors: Floats, enough: float) -> int:
    return int((errors <= max(enough, errors.min())).nonzero()[0][-1])


def probe(
    loss: LossAtPoint,
    tensors: Sequence[int],
    gradients: Sequence[Array],
    numbers: range,
    seed: int,
    enough: float = 0.0,
    few: int = sys.maxsize,
) -> Probing:
    """Measure random directions in the tensors: the first by a ladder, the others at the steps that were best there.

    A suspicious direction is measured again by a ladder.

    Parameters
    ----------
    numbers : range
        The directions to measure.
    enough : float
        Uncertainty of the residuals that need not be improved.
    few : int
        How many directions are measured if the first is suspicious: enough to follow it.
    """
    group = _Group(loss, tensors, gradients, seed)
    rows: list[tuple[float, float, float]] = []
    seen = False
    for along in group.directions(numbers):
        if not rows:
            slope, ladder = ladder_slope(loss, along[0], group.jitter)
            quick, fine = _shortcuts(ladder, slope, enough)
            short = _cheapest(quick, fine, enough)
            rows.append((analytic_slope(along[0], gradients), slope.value, with_gap(slope)))
            del along[0]
            seen = abs(rows[0][0] - rows[0][1]) > SUSPICIOUS * (rows[0][2] + group.rounding)
        along = along[: few - len(rows)] if seen else along
        rows += group.slopes(along, short, enough, seen=seen) if along else []
        along.clear()  # frees memory before the next weights are drawn
    trouble = slope.trouble if slope.trouble in ("jump", "quantised", "not finite") else ""
    return group.probing(rows, quick, fine, trouble, numbers[0])


def probe_like(
    loss: LossAtPoint,
    tensors: Sequence[int],
    gradients: Sequence[Array],
    known: Probing,
    numbers: range,
    seed: int,
    enough: float,
) -> Probing:
    """Measure directions in the tensors of a known probing, or in some of them, at the steps that were good there.

    A suspicious direction is measured again by a ladder, until one through the same tensors stays suspicious.
    """
    group = _Group(loss, tensors, gradients, seed)
    rows: list[tuple[float, float, float]] = []
    short = _cheapest(known.quick, known.fine, enough)
    seen = known.suspicious and tuple(tensors) == known.tensors
    for along in group.directions(numbers):
        seen = seen or any(abs(a - n) > SUSPICIOUS * u for a, n, u in rows)
        rows += group.slopes(along, short, enough, seen=seen)
        along.clear()
    return group.probing(rows, known.quick, known.fine, "", numbers.start)


def _cheapest(quick: Shortcut, fine: Shortcut, enough: float) -> Shortcut:
    return quick if quick.uncertainty <= max(_NEARLY * fine.uncertainty, enough) else fine


@dataclass(frozen=True)
class _Group:
    """Tensors that share directions."""

    loss: LossAtPoint
    tensors: Sequence[int]
    gradients: Sequence[Array]
    seed: int

    def directions(self, numbers: range) -> Iterator[list[list[Ray]]]:
        """The directions, in batches whose weights fit into memory."""
        together = max(1, _WEIGHTS_AT_A_TIME // sum(self.loss.layout.sizes[t] for t in self.tensors))
        for begin in range(0, len(numbers), together):
            yield directions(self.loss, self.tensors, self.seed, numbers[begin : begin + together])

    def slopes(
        self, along: Sequence[Sequence[Ray]], short: Shortcut, enough: float, *, seen: bool
    ) -> Iterator[tuple[float, float, float]]:
        """Analytic and numerical slope along each direction, and the uncertainty; by a ladder where they differ.

        What need not be resolved (``enough``) counts as uncertainty, even where no difference is seen: a difference of
        that size would be missed. Where one direction differs by its ladder (``seen``), no further one needs a ladder.
        """
        jitters = np.full(len(along), self.jitter)
        for rays, slope, error in zip(along, *slopes_along(self.loss, along, short, jitters), strict=True):
            expected = analytic_slope(rays, self.gradients)
            uncertainty = max(float(error), enough)
            if seen or short.imaginary or abs(expected - slope) <= SUSPICIOUS * uncertainty:
                yield expected, float(slope), uncertainty
            else:
                own, _ = ladder_slope(self.loss, rays, self.jitter)
                seen = abs(expected - own.value) > SUSPICIOUS * with_gap(own)
                yield expected, own.value, with_gap(own)

    def probing(
        self, rows: Sequence[tuple[float, float, float]], quick: Shortcut, fine: Shortcut, trouble: str, first: int
    ) -> Probing:
        """What was measured: analytic and numerical slope and its uncertainty, a row for each direction."""
        known, numerical, errors = np.array(rows).T
        measured = known - numerical, numerical, known, errors + self.rounding
        return Probing(tuple(self.tensors), *measured, quick, fine, trouble, first)

    @cached_property
    def lengths(self) -> Floats:
        """Norms of the gradients times the scales, which are the size of slopes along directions, shape (tensors,)."""
        return self.loss.tensor_scales[list(self.tensors)] * norms([self.gradients[t] for t in self.tensors])

    @cached_property
    def jitter(self) -> float:
        """The change of the loss by rounding of the displaced entries to their dtype.

        Rounding changes each entry by eps / 12**0.5 of its size, or less; all entries together change the loss by about
        that share of the tensor's ``scale * ||gradient||``. Three times as much is about eps.
        """
        return float((self.loss.eps[list(self.tensors)] * self.lengths).sum())

    @cached_property
    def rounding(self) -> float:
        """Round-off of the analytic slope."""
        return float((roundings_of([self.gradients[t] for t in self.tensors]) * self.lengths).sum())


def with_gap(slope: Derivative) -> float:
    """The uncertainty of a slope; at a kink every slope between the one-sided ones is right."""
    return slope.uncertainty + abs(slope.right - slope.left) / 2


# --- which tensors share directions ---


def groups(loss: LossAtPoint, tensors: Sequence[int], gradients: Sequence[Array]) -> list[tuple[int, ...]]:
    """Tensors that are probed together: each alone, unless there are very many.

    Sharing does not change the noise of a slope, but adds up truncation errors, which grow with the slopes: so
    neighbours in the order of their analytic slopes share directions, four at most.
    """
    if len(tensors) <= _SHARED_FROM:
        return [(t,) for t in tensors]
    lengths = loss.tensor_scales[list(tensors)] * norms([gradients[t] for t in tensors])
    slopes = dict(zip(tensors, lengths.tolist(), strict=True))
    together = min(_SHARED_BY, -(-len(tensors) // _SHARED_FROM))
    found: list[tuple[int, ...]] = []
    for t in sorted(tensors, key=lambda t: (slopes[t], t)):
        if found and len(found[-1]) < together and slopes[t] <= _ALIKE * slopes[found[-1][0]]:
            found[-1] = (*found[-1], t)
        else:
            found.append((t,))
    return found
