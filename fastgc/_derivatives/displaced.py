"""Slopes of entries at a point displaced in all entries, which leaves kinks at the point itself behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.ladder import UNKNOWN, Derivative, Ladder, derivative_from
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._evaluation.evaluator import Ray
from fastgc._parameters.arrays import Array, Floats, Positions
from fastgc._parameters.streams import stream

# In units of the scales: a hundredth, far from the kink for every step below, and near enough to stay in its
# neighbourhood.
DISTANCE = 2.0**-7
ATTEMPTS = 3  # the last at 1e-4 of the scale, where quotients still have half of their digits
_NEARER = 2.0**-3  # times the distance of the attempt before
# Steps in units of that distance: none reaches back to the kink, and the last is 8e-6 of the scale, about the best one
# of a central quotient.
_FRACTIONS = 4.0 ** -np.arange(1.0, 6.0)


def displacement(loss: LossAtPoint, side: float, attempt: int = 0) -> list[Ray]:
    """A direction with a random sign in each entry of all tensors, or its opposite (``side`` -1).

    Each attempt draws other signs, and comes nearer: a displaced point may itself be near kinks.
    """
    rays = []
    for t, (name, size) in enumerate(zip(loss.layout.names, loss.layout.sizes, strict=True)):
        signs = side * stream(attempt, "displaced point", name).choice([-1.0, 1.0], size)
        scale = _NEARER**attempt * float(loss.tensor_scales[t])
        rays.append(Ray(t, 0, _admitted(loss, t, signs, DISTANCE * scale).astype(np.int8), scale))
    return rays


def _admitted(loss: LossAtPoint, tensor: int, signs: Floats, length: float) -> Floats:
    """The signs, turned where they lead out of bounds (0 where both ways do), and the same for mirrored entries."""
    positions = np.arange(loss.layout.starts[tensor], loss.layout.starts[tensor + 1])
    if loss.symmetric is not None:
        mirrored = loss.symmetric.mirrored(positions)
        signs = signs[np.minimum(positions, mirrored) - positions[:1]] if signs.size else signs
    if loss.bounds is None:
        return signs
    x = loss.evaluator.entries(positions)
    ways = [loss.bounds.contain(positions, x + way * length * signs) for way in (1, -1)]
    return np.where(ways[0], signs, np.where(ways[1], -signs, 0.0))


def displaced_leaves(leaves: Sequence[Array], rays: Sequence[Ray]) -> list[Array]:
    """The parameters, displaced by `DISTANCE` along a direction that has one ray for each tensor."""
    return [
        np.asarray(leaf + (DISTANCE * ray.scale) * ray.weights.reshape(leaf.shape), leaf.dtype)
        for leaf, ray in zip(leaves, rays, strict=True)
    ]


def along_axes(loss: LossAtPoint, positions: Positions, lengths: Floats) -> list[Ray] | None:
    """A direction along which entries of different tensors are displaced by so much, each with its mirrored one.

    None where bounds forbid it.
    """
    if (
        loss.bounds is not None
        and not loss.bounds.contain(positions, loss.evaluator.entries(positions) + lengths).all()
    ):
        return None
    weights, scales = [np.zeros(size, np.int8) for size in loss.layout.sizes], [0.0] * len(loss.layout.sizes)
    moved = [positions] if loss.symmetric is None else [positions, loss.symmetric.mirrored(positions)]
    tensors = loss.layout.tensor_of(positions)
    for each in moved:
        for t, local, length in zip(tensors, each - loss.layout.starts[tensors], lengths.tolist(), strict=True):
            weights[t][local], scales[t] = 1, length / DISTANCE
    return [Ray(t, 0, each, scale) for t, (each, scale) in enumerate(zip(weights, scales, strict=True))]


def displaced_estimates(loss: LossAtPoint, positions: Positions, rays: Sequence[Ray]) -> Estimates:
    """The derivative of each entry at the displaced point, from a short ladder of steps."""
    base = float(loss.evaluator.along_rays([_filled(rays)], np.array([DISTANCE])).real[0, 0])
    return Estimates.of(positions, [_slope(loss, base, position, rays) for position in positions.tolist()])


def _slope(loss: LossAtPoint, base: float, position: int, rays: Sequence[Ray]) -> Derivative:
    where = np.array([position])
    tensor = int(loss.layout.tensor_of(where)[0])
    ray, local = rays[tensor], position - int(loss.layout.starts[tensor])
    if not ray.weights[local]:  # its bounds are too near
        return UNKNOWN
    x, length = float(loss.evaluator.entries(where)[0]), DISTANCE * ray.scale * float(ray.weights[local])
    offsets = np.concatenate([[0.0], -_FRACTIONS, _FRACTIONS]) * abs(length)
    places = loss.evaluator.rounded(where, (x + length + offsets)[None, :])[0]
    factors = ((places[1:] - x) / length).tolist()
    values = loss.evaluator.along_rays(
        [_filled(_with_entry(rays, tensor, local, factor)) for factor in factors], np.array([DISTANCE])
    )
    minus, plus = np.split(values[:, 0].real, 2)
    below, above = np.split(places[1:] - places[0], 2)
    return derivative_from(Ladder(below, above, minus, plus, base, _noise(loss, minus, plus), loss.noise.eps))


def _noise(loss: LossAtPoint, minus: Floats, plus: Floats) -> Floats:
    rounding = np.finfo(np.float64).eps / 2 * np.fmax(np.abs(minus), np.abs(plus))
    return np.fmax(loss.noise.at(np.full(minus.size, DISTANCE)), rounding)


def _with_entry(rays: Sequence[Ray], tensor: int, local: int, factor: float) -> Iterator[Ray]:
    """The direction with one entry displaced ``factor`` times as far."""
    for ray in rays:
        if ray.tensor != tensor:
            yield ray
        else:
            yield replace(ray, weights=ray.weights[:local])
            yield Ray(tensor, local, ray.weights[local : local + 1], ray.scale * factor)
            yield replace(ray, start=local + 1, weights=ray.weights[local + 1 :])


def _filled(rays: Iterator[Ray] | Sequence[Ray]) -> list[Ray]:
    return [ray for ray in rays if ray.weights.size]
