"""The loss at a point: its value, its noise, the scales of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from fastgc._derivatives.complex_slopes import ComplexLoss
from fastgc._derivatives.kept import KeptLadders
from fastgc._derivatives.ladder import TOP
from fastgc._derivatives.noise import Noise, measure_noises
from fastgc._derivatives.reach import relative_change, responsive_scale
from fastgc._derivatives.stencil import short
from fastgc._evaluation.evaluator import Evaluator
from fastgc._parameters.arrays import Array, Flags, Floats, Positions, resolutions, spread
from fastgc._parameters.bounds import Bounds
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.point import tensor_scales
from fastgc._parameters.streams import stream
from fastgc._parameters.symmetric import Symmetric

# Several losses with the entries at some positions set to each row together, shape (rows, losses).
Losses = Callable[[Positions, Array], Array]

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

    def scales(self, positions: Positions, tensors: Positions | None = None) -> Floats:
        """The unit of an entry's steps: its magnitude or its tensor's, whichever is larger, in few bits."""
        tensors = self.layout.tensor_of(positions) if tensors is None else tensors
        return short(np.maximum(np.abs(self.evaluator.entries(positions)), self.tensor_scales[tensors]))

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
