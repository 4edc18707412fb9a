"""Numerical derivatives of single entries: a cheap quotient for all, a ladder of steps for those in doubt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.complex_slopes import ComplexLoss
from fastgc._derivatives.kept import KeptLadders
from fastgc._derivatives.ladder import TOP, TROUBLES, UNKNOWN, Derivative, Ladder, derivative_from
from fastgc._derivatives.noise import Noise, measure_noises
from fastgc._derivatives.plateaus import contradicted, jump, jumps_within, with_jumps
from fastgc._derivatives.reach import relative_change, responsive_scale
from fastgc._derivatives.stairs import on_stairs, stands_on_stairs, suspicion
from fastgc._derivatives.stencil import Stencil, quotients, relative_step, short, stencil_named
from fastgc._evaluation.evaluator import Evaluator, Stopped, Tick, silent
from fastgc._evaluation.interruption import pieces
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array, Flags, Floats, Positions, medians, resolutions, spread
from fastgc._parameters.bounds import Bounds
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.point import tensor_scales
from fastgc._parameters.streams import stream
from fastgc._parameters.symmetric import Symmetric

# Several losses with the entries at some positions set to each row together, shape (rows, losses).
Losses = Callable[[Positions, Array], Array]

_RATIO = 4.0  # of neighbouring steps of a ladder: one extrapolation gains a factor of 16, and a dozen steps span 1e7
FINEST = 128.0  # the smallest step, in units of eps: seven bits of the displacement are left
_RUNGS = 12  # of a ladder in double precision: from 0.125 to 3e-8, past the best step of a central quotient, 6e-6
# Steps that a ladder grows by: by a factor of 256 downwards, as many times at most (to 3e-8 * 256**-4 = 7e-18 of the
# scale, below eps), and once by 64 upwards; that of a direction by the latter number either way.
_FINER, COARSER = 4, 3
GOOD_ENOUGH = 1e-6  # relative uncertainty below which a ladder does not grow: a tenth of the smallest default rtol
NOISIEST = 1e-6  # relative noise that a step is chosen for at most: a central step stays below 0.01 of the scale
TRIALS = 3  # entries of each tensor that measure its truncation error: the fewest of which a median ignores one
# Of the two steps that show it. No power of two: a loss that has one for its period would hide its slope at both.
TRIAL_RATIO = 3.7
TRIAL_SAFETY = 3.0  # on a median of three; an entry that exceeds it climbs a ladder if it matters
_AT_ONCE = 2048  # entries whose ladders are evaluated together: 24 values each fill 400 kB, which a cache holds
_AT_FIRST = 16  # of these, while it is not known how long one takes: some 400 values, enough for threads and batches
_DISTINCT = 0.7  # of the difference of two slopes: a quotient with so much noise is on the right side of their middle
_NEAR_STEPS = (1.0, 1.3, 1.7)  # times the smallest step that distinguishes slopes; no two share a grid of values
_BESIDE = 2.0**-10  # of an entry, the displacement that shows on which sides of it the loss has a value
_NOISE_ENTRIES = 8  # of each tensor, displaced together to measure the noise: one switched-off entry hides nothing
_NOISE_IN_ALL = 256  # of all tensors: displacing them costs less than one evaluation of a loss of that many
# The largest distance along a direction where parameters are bounded, in scales: few entries are nearer to a bound, and
# truncation, which falls with its fourth power, still shows.
BOUNDED_TOP = 2.0**-8
_GROWN = 64.0  # times its largest entry (of a few), beyond which `responsive_scale` has enlarged a tensor's scale


@dataclass(frozen=True)
class LossAtPoint:
    """What the estimates of all entries share: the evaluator, the value and noise of the loss, the scales."""

    evaluator: Evaluator
    layout: ParameterLayout
    base: float
    noise: Noise
    tensor_scales: Floats  # shape (tensors,): mean magnitude, 1 for a tensor of zeros; of few bits, see `short`
    eps: Floats  # shape (tensors,): resolution of the dtype in which entries are displaced
    local_variation: float = 0.0  # change of the loss at a distance from the point, per scale and entry
    bounds: Bounds | None = None  # outside which the loss is not evaluated
    symmetric: Symmetric | None = None  # tensors whose mirrored entries are displaced together
    complex_loss: ComplexLoss | None = None  # the loss at complex parameters, None where it was not asked for
    kept: KeptLadders = field(default_factory=KeptLadders, compare=False)

    def scales(self, positions: Positions) -> Floats:
        """The unit of an entry's steps: its magnitude or its tensor's, whichever is larger, in few bits."""
        sizes = np.abs(self.evaluator.entries(positions))
        return short(np.maximum(sizes, self.tensor_scales[self.layout.tensor_of(positions)]))

    def unmoved(self, tensor: int) -> Flags | None:
        """The entries that no direction moves by itself: held by bounds, or mirrored; None where all are moved."""
        held = self.held(tensor)
        repeated = None if self.symmetric is None else self.symmetric.repeated(tensor)
        return held if repeated is None else repeated if held is None else held | repeated

    def held(self, tensor: int) -> Flags | None:
        """The entries of a tensor that no direction displaces, too near a bound; None where nothing is bounded."""
        if self.bounds is None:
            return None
        positions = np.arange(self.layout.starts[tensor], self.layout.starts[tensor + 1])
        room = self.bounds.room(positions, self.evaluator.entries(positions))
        return np.asarray(room < BOUNDED_TOP * self.tensor_scales[tensor])


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


# --- the loss at the point ---


def unmeasured_loss(evaluator: Evaluator, layout: ParameterLayout, leaves: Sequence[Array], base: float) -> LossAtPoint:
    """The loss at a point, with unmeasured noise: enough for quotients without an uncertainty."""
    eps = np.maximum(resolutions(leaves), _resolutions(evaluator, layout))
    return LossAtPoint(evaluator, layout, base, Noise(0.0, 0.0, 1.0, False), short(tensor_scales(leaves)), eps)


def _resolutions(evaluator: Evaluator, layout: ParameterLayout) -> Floats:
    """The resolution in which the evaluator displaces each tensor: it may have a dtype that NumPy does not know."""
    filled = np.flatnonzero(layout.sizes)
    above = np.ldexp(1.0, -np.arange(53))  # a number next to 1 that differs from it once it is rounded
    rounded = evaluator.rounded(layout.starts[filled], np.tile(1 + above, (filled.size, 1))).real
    eps = np.zeros(len(layout.sizes))
    eps[filled] = np.where(rounded == 1 + above, above, 1.0).min(axis=1, initial=1.0)
    return eps


def open_loss(
    evaluator: Evaluator,
    layout: ParameterLayout,
    leaves: Sequence[Array],
    tensors: Sequence[int],
    base: float,
    seed: int,
) -> LossAtPoint:
    """Measure what the estimates share, with at most about 200 evaluations (about 20 if it is in double precision)."""
    loss = responsive_loss(unmeasured_loss(evaluator, layout, leaves, base), tensors)
    return measured_losses([loss], tensors, seed, partial(_one_loss, evaluator))[0]


def _one_loss(evaluator: Evaluator, positions: Positions, rows: Array) -> Array:
    return evaluator.along(positions, rows)[:, None]


def responsive_loss(
    loss: LossAtPoint, tensors: Iterable[int], bases: Floats | None = None, along: Losses | None = None
) -> LossAtPoint:
    """The same loss with the scales of tiny tensors enlarged until the loss (or one of several) moves.

    A tensor whose only non-zero entry is 1e-12 has the scale 1e-12; steps in proportion to it are lost to rounding if
    the loss adds numbers of order 1 to its parameters.
    """
    scales = loss.tensor_scales.copy()
    bases = np.array([loss.base]) if bases is None else bases
    along = partial(_one_loss, loss.evaluator) if along is None else along

    def change(tensor: int, scale: float) -> float:
        positions = _few(loss.layout, [tensor])
        start = loss.evaluator.entries(positions)
        lengths = TOP * scale * np.cos(positions)  # all different: a loss of differences of entries moves too
        displaced = start + lengths * np.array([-1.0, 1.0])[:, None]
        rows = loss.evaluator.rounded(positions, displaced.T).T
        return relative_change(along(positions, rows).real, bases)

    for t in tensors:
        scales[t] = responsive_scale(float(scales[t]), partial(change, t))
    return replace(loss, tensor_scales=short(scales))


def measured_losses(
    losses: Sequence[LossAtPoint], tensors: Sequence[int], seed: int, along: Losses
) -> list[LossAtPoint]:
    """Several losses of the same parameters, with their noise.

    ``along(positions, rows)`` gives the losses, shape (rows, losses), with the entries set to each row together.
    """
    loss, chosen = losses[0], _spread(losses[0].layout, tensors)
    if not chosen.size:
        return list(losses)
    start = loss.evaluator.entries(chosen)
    if start.any():  # a loss that rounds its parameters keeps every digit near 0, and would show no stairs there
        chosen, start = chosen[start != 0], start[start != 0]
    lengths = _lengths(loss, chosen, start)
    direction = stream(seed, "noise").choice([-1.0, 1.0], chosen.size) * lengths

    def displaced(by: Floats) -> Floats:
        return along(chosen, loss.evaluator.rounded(chosen, (start + by).T).T).real

    def values(distances: Floats) -> Floats:
        return displaced(distances[:, None] * direction)

    bases = np.array([each.base for each in losses])
    noises = measure_noises(values, bases, float(loss.eps.max()))
    if max(noise.reach for noise in noises) < _BESIDE:  # there is no value farther along
        direction = _into_domain(displaced, direction)
        noises = measure_noises(values, bases, float(loss.eps.max()))
    sizes = [noise.change / noise.reach / chosen.size**0.5 for noise in noises]
    return [replace(losses[i], noise=noise, local_variation=sizes[i]) for i, noise in enumerate(noises)]


def _into_domain(displaced: Callable[[Floats], Floats], direction: Floats) -> Floats:
    """The direction with each entry turned to a side on which the loss has a value, 0 where it has none on either.

    Entries at an edge of the domain, such as labels of 0 and 1, leave it together in nearly every direction.
    """
    each = np.diag(_BESIDE * direction)
    ahead, back = (np.isfinite(displaced(sign * each)).all(axis=1) for sign in (1.0, -1.0))
    return np.where(ahead, direction, np.where(back, -direction, 0.0))


def _spread(layout: ParameterLayout, tensors: Sequence[int]) -> Positions:
    """A few positions in each tensor, at most a few hundred in all."""
    few = _few(layout, tensors)
    return few[spread(few.size, _NOISE_IN_ALL)]


def _few(layout: ParameterLayout, tensors: Sequence[int]) -> Positions:
    """A few evenly spaced positions in each tensor: what `spread` gives."""
    some = np.array(tensors, np.int64)
    counts = np.minimum(layout.counts[some], _NOISE_ENTRIES)
    number = np.arange(counts.sum()) - (np.cumsum(counts) - counts).repeat(counts)
    some, counts = some.repeat(counts), counts.repeat(counts)
    return np.asarray(layout.starts[some] + number * (layout.counts[some] - 1) // np.maximum(1, counts - 1))


def _lengths(loss: LossAtPoint, positions: Positions, start: Floats) -> Floats:
    """Each entry's magnitude, because the loss may bend on that scale; the tensor's scale where that was enlarged."""
    tensors, sizes = loss.layout.tensor_of(positions), np.abs(start)
    largest = np.zeros(loss.tensor_scales.size)
    np.maximum.at(largest, tensors, sizes)
    grown = loss.tensor_scales > _GROWN * largest  # of zeros alone, too
    return np.where((sizes == 0) | grown[tensors], loss.tensor_scales[tensors], sizes)


# --- the cheap pass ---


def quotient_estimates(
    loss: LossAtPoint, positions: Positions, stencil: Stencil, step: float | None, tick: Tick
) -> Estimates:
    """One difference quotient for each entry; a few entries of each tensor measure the truncation error.

    The uncertainty adds the noise of the values, ``noise * sum(|weights|) / h``, to the tensor's truncation error,
    which grows as ``h**order``: quotients at h and 4h differ by 4**order - 1 times the error of the first.
    """
    reach, steps = _steps(loss, positions, stencil, step)
    owners = loss.layout.tensor_of(positions)
    trials = _trials(owners)
    wide = _quotients(loss, positions[trials], stencil, steps[trials] * TRIAL_RATIO, step is not None, silent)
    numerical, finished = _reached(partial(_quotients, loss, positions, stencil, steps, step is not None, tick))
    with np.errstate(all="ignore"):
        errors = np.abs(wide - numerical[trials]) / (TRIAL_RATIO**stencil.order - 1) / reach[trials] ** stencil.order
    truncation = _usual(errors, owners[trials], finished)[owners] * TRIAL_SAFETY * reach**stencil.order
    noise = sum(map(abs, stencil.weights)) * _noise_of(loss, stencil, numerical, steps, reach) / steps
    uncertainty = np.maximum(truncation + noise, np.finfo(np.float64).tiny)
    return Estimates(positions, numerical, uncertainty, numerical, numerical, steps, np.zeros(positions.size, np.int8))


def plain_quotients(
    loss: LossAtPoint, positions: Positions, stencil: Stencil, step: float | None, tick: Tick
) -> Floats:
    """One difference quotient for each entry, without uncertainties."""
    return _quotients(loss, positions, stencil, _steps(loss, positions, stencil, step)[1], step is not None, tick)


def _trials(owners: Positions) -> Positions:
    """Evenly spaced ones of the entries of each tensor; ``owners`` are the tensors of all entries."""
    order = np.argsort(owners, kind="stable")
    _, first, sizes = np.unique(owners[order], return_index=True, return_counts=True)
    counts, number = np.minimum(sizes, TRIALS)[:, None], np.arange(TRIALS)
    spaced = first[:, None] + number * (sizes[:, None] - 1) // np.maximum(1, counts - 1)
    return np.asarray(order[spaced[number < counts]])


def _steps(loss: LossAtPoint, positions: Positions, stencil: Stencil, step: float | None) -> tuple[Floats, Floats]:
    """The step of each entry: in units of its scale, so that no power of it overflows, and as a number."""
    scales = loss.scales(positions)
    if step is not None:
        return step / scales, np.full(positions.size, float(step))
    relative_noise = loss.noise.at_point / abs(loss.base) if loss.base else 0.0
    balanced = short(relative_step(stencil, np.clip(relative_noise, loss.eps, NOISIEST)))
    reach = balanced[loss.layout.tensor_of(positions)]
    return reach, reach * scales


def _noise_of(loss: LossAtPoint, stencil: Stencil, numerical: Floats, steps: Floats, reach: Floats) -> Floats:
    if stencil.is_complex:  # nothing is subtracted: the imaginary part is rounded in a few operations, say eight
        return 4 * np.finfo(np.float64).eps * np.abs(numerical) * steps
    return loss.noise.at(reach)


def _quotients(
    loss: LossAtPoint, positions: Positions, stencil: Stencil, steps: Floats, nominal: bool, tick: Tick
) -> Floats:
    x = loss.evaluator.entries(positions)
    displaced = np.stack([x + offset * steps for offset in stencil.offsets], axis=1)
    displaced = loss.evaluator.rounded(positions, displaced)
    taken = None if nominal else displaced - x[:, None]
    try:
        return quotients(stencil, loss.evaluator.values(positions, displaced, tick), steps, taken)
    except Stopped as stopped:
        if stopped.values is not None and stopped.values.shape == displaced.shape:
            stopped.values = quotients(stencil, stopped.values, steps, taken)
            raise
        raise Stopped from None


def _reached(measured: Callable[[], Floats]) -> tuple[Floats, bool]:
    """What is measured, and whether all of it is; nan where an interruption came first, `Stopped` if nothing is."""
    try:
        return measured(), True
    except Stopped as stopped:
        if stopped.values is None:
            raise
        return stopped.values, False


def _usual(errors: Floats, owners: Positions, finished: bool) -> Floats:
    """The median of the errors of each tensor, as far as they were measured; infinite where none was.

    ``owners``, the tensors of the errors, are sorted.
    """
    known = np.full(errors.size, True) if finished else ~np.isnan(errors)
    counts = np.bincount(owners[known], minlength=1 + owners.max(initial=-1))
    found = medians(errors[known], np.append(0, np.cumsum(counts)))
    return np.where(counts, found, np.inf)


# --- the ladder ---


def ladder_estimates(
    loss: LossAtPoint, positions: Positions, *, shift: float = 1.0, rungs: int = _RUNGS, tick: Tick = silent
) -> Estimates:
    """The derivative of each entry from a ladder of at most ``rungs`` steps, ``shift`` times the usual ones."""
    slopes: list[Derivative] = []
    for some in pieces(positions.size, _AT_FIRST, _AT_ONCE):
        slopes += _slopes(loss, positions[some], shift, rungs, some.start, tick)
    return Estimates.of(positions, slopes)


def reached_ladders(loss: LossAtPoint, positions: Positions, shift: float, tick: Tick = silent) -> Estimates:
    """`ladder_estimates`, which "not reached" troubles where the check is interrupted."""
    slopes: list[Derivative] = []
    with contextlib.suppress(Stopped):
        for some in pieces(positions.size, _AT_FIRST, _AT_ONCE):
            slopes += _slopes(loss, positions[some], shift, _RUNGS, some.start, tick)
    left = replace(UNKNOWN, trouble="not reached")
    return Estimates.of(positions, slopes + [left] * (positions.size - len(slopes)))


def distinguishing_quotients(
    loss: LossAtPoint, positions: Positions, differences: Floats, near: Sequence[float] = _NEAR_STEPS
) -> Floats:
    """Central quotients at the smallest steps whose noise still distinguishes slopes that differ by so much.

    Each is the median over three steps (or ``near`` times one): noise misleads one of three now and then, and two
    hardly ever.
    """
    x, scales = loss.evaluator.entries(positions), loss.scales(positions)
    eps = loss.eps[loss.layout.tensor_of(positions)]
    least = _DISTINCT * differences
    steps = loss.noise.at(loss.noise.at_point / least / scales) / least
    steps = np.clip(steps, eps * np.maximum(FINEST * np.abs(x), scales), TOP * scales)
    central = stencil_named("central")
    found = [_quotients(loss, positions, central, each * steps, False, silent) for each in near]
    return np.asarray(np.median(found, axis=0))


def hidden(loss: LossAtPoint, positions: Positions, differences: Floats) -> Flags:
    """Which differences of slopes noise hides at the largest step, and so at every step."""
    noise = loss.noise.at(np.full(positions.size, TOP))
    return np.asarray(noise > _DISTINCT * differences * TOP * loss.scales(positions))


def _slopes(
    loss: LossAtPoint, positions: Positions, shift: float, longest: int, before: int, tick: Tick
) -> list[Derivative]:
    """The slopes of some entries of a climb, after so many."""
    eps = loss.eps[loss.layout.tensor_of(positions)]
    finest = FINEST * eps * np.abs(loss.evaluator.entries(positions)) / loss.scales(positions)
    count = min(longest, max(3, 1 + int(np.log(TOP / (FINEST * eps.max())) / np.log(_RATIO))))
    rungs = TOP * shift * _RATIO ** -np.arange(count, dtype=np.float64)
    ladders = _off_stairs(loss, positions, _ladders(loss, positions, rungs, tick))
    slopes = [derivative_from(ladder) for ladder in ladders]
    downwards = rungs[-1] * _RATIO ** -np.arange(1.0, 1 + _FINER)
    extensions = [("finer", downwards * _RATIO ** (-_FINER * k)) for k in range(_FINER)]
    for better_steps, more in [*extensions, ("coarser", rungs[0] * _RATIO ** np.arange(COARSER, 0, -1.0))]:
        where = [
            i
            for i, slope in enumerate(slopes)
            if slope.better_steps == better_steps and _uncertain(slope) and more[-1] >= finest[i]
        ]
        extras = zip(where, _ladders(loss, positions[where], more), strict=True)
        extended = _off_stairs(loss, positions[where], [ladders[i].extended(extra) for i, extra in extras])
        for i, ladder in zip(where, extended, strict=True):
            ladders[i], slopes[i] = ladder, derivative_from(ladder)
    loss.kept.keep(positions, ladders, before)
    return [_off_plateaus(loss, *each) for each in zip(positions.tolist(), ladders, slopes, strict=True)]


def _off_plateaus(loss: LossAtPoint, position: int, ladder: Ladder, slope: Derivative) -> Derivative:
    """The slope; that of larger steps where the loss jumps at the ends of the short stretch that the slope is of."""
    if slope.trouble == "jump" and (height := jumps_within(ladder)):
        larger = derivative_from(with_jumps(ladder, height))
        return slope if larger.trouble else larger
    ends = contradicted(ladder, slope)
    if ends is None:
        return slope
    where = np.array([position])
    x = loss.evaluator.entries(where)[0]

    def at(displacement: float) -> float:
        displaced = loss.evaluator.rounded(where, np.array([[x + displacement]]))
        return float(loss.evaluator.values(where, displaced, silent).real[0, 0])

    height = jump(at, ladder, slope, *ends)
    return derivative_from(with_jumps(ladder, height)) if height else slope


def _off_stairs(loss: LossAtPoint, positions: Positions, ladders: list[Ladder]) -> list[Ladder]:
    """The ladders without the steps that rounding of the parameters hides from the loss."""
    suspected = {i: found for i, found in enumerate(map(suspicion, ladders)) if found is not None}
    if not suspected:
        return ladders
    where = positions[list(suspected)]
    displaced = loss.evaluator.entries(where)[:, None] + [each.trial for each in suspected.values()]
    values = loss.evaluator.values(where, loss.evaluator.rounded(where, displaced), silent).real
    stairs = {i: each.first for (i, each), row in zip(suspected.items(), values, strict=True) if stands_on_stairs(row)}
    return [on_stairs(ladder, stairs[i]) if i in stairs else ladder for i, ladder in enumerate(ladders)]


def _uncertain(slope: Derivative) -> bool:
    return not slope.uncertainty <= GOOD_ENOUGH * abs(slope.value)


def _ladders(loss: LossAtPoint, positions: Positions, rungs: Floats, tick: Tick = silent) -> list[Ladder]:
    """Loss values on both sides of each entry, at ``rungs`` in units of its scale."""
    if not positions.size:
        return []
    x, steps = loss.evaluator.entries(positions)[:, None], loss.scales(positions)[:, None] * rungs
    displaced = loss.evaluator.rounded(positions, np.hstack([x - steps, x + steps]))
    below, above = np.hsplit(displaced - x, 2)
    minus, plus = np.hsplit(loss.evaluator.values(positions, displaced, tick).real, 2)
    with np.errstate(all="ignore"):
        rounding = np.finfo(np.float64).eps / 2 * np.fmax(np.abs(minus), np.abs(plus))
    noise = np.fmax(loss.noise.at(rungs), np.where(np.isfinite(rounding), rounding, 0.0))
    rows = zip(below, above, minus, plus, noise, strict=True)
    return [Ladder(*row[:4], loss.base, row[4], loss.noise.eps) for row in rows]
