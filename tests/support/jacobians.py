"""Functions of several outputs with their Jacobians, right and wrong, and ways to give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fastgc import JacobianReport, check_jacobian
from fastgc._jacobian.function import VectorFunction, one_by_one
from fastgc._parameters.layout import flatten_parameters

Floats = NDArray[np.float64]


def f(x: Floats) -> Floats:
    return np.array([x[0] ** 2 + x[1], x[0] * x[1] - x[1] ** 2])


def df(x: Floats) -> Floats:
    return np.array([[2 * x[0], 1], [x[1], x[0] - 2 * x[1]]])


RNG = np.random.default_rng(0)


A, WIDE = RNG.normal(size=(40, 600)) / 25, RNG.normal(size=600)


def layer(x: Floats) -> Floats:
    return np.tanh(A @ x)


def layer_jacobian(x: Floats) -> Floats:
    return (1 - layer(x) ** 2)[:, None] * A


def spoiled(place: tuple[int, int], factor: float) -> Callable[[Floats], Floats]:
    def jacobian(x: Floats) -> Floats:
        result = layer_jacobian(x)
        result[place] *= factor
        return result

    return jacobian


def by_kind(kind: str, jacobian: Callable[[Floats], Floats], x: Floats, **options: Any) -> JacobianReport:
    """The same Jacobian as a matrix, a function or one of the products."""
    if kind == "array":
        return check_jacobian(layer, jacobian(x), x, **options)
    if kind == "callable":
        return check_jacobian(layer, jacobian, x, **options)
    if kind == "jvp":
        return check_jacobian(layer, None, x, jvp=lambda x, u: jacobian(x) @ u, **options)
    return check_jacobian(layer, None, x, vjp=lambda x, v: v @ jacobian(x), **options)


KINDS = ["array", "callable", "jvp", "vjp"]


N = 400


def band(x: Floats) -> Floats:
    result = -2 * x**2
    result[1:] += x[:-1]
    result[:-1] += np.sin(x[1:])
    return result


def band_jacobian(x: Floats) -> Any:
    return sp.diags_array([np.ones(N - 1), -4 * x, np.cos(x[1:])], offsets=[-1, 0, 1])


POINT = RNG.normal(size=N)


def field_of(function: Callable[[Floats], Floats], x: Any) -> VectorFunction:
    """A function of one flat vector around a point, as the checks of Jacobians see it."""
    layout, leaves = flatten_parameters(x)
    base = function(np.concatenate([leaf.reshape(-1) for leaf in leaves]).astype(np.float64))
    return VectorFunction(one_by_one(function, base.size), layout, leaves, base, seed=0)


def two_kinks(
    seed: int, *, seen: bool = False
) -> tuple[Callable[[Floats], Floats], Callable[[Floats], Floats], Floats]:
    """A function with two kinks near the point, in an output whose round-off hides the nearest values; sums only.

    The Jacobian has the kinks, too. Where those of both sides are hidden, the values are those of a smooth function of
    another slope. If ``seen``, round-off is at most a hundredth of what each kink has changed the output by when the
    point is as far behind it as in front of it.
    """
    generator = np.random.default_rng(seed)
    x = generator.normal(size=3)
    places = 10.0 ** generator.uniform(-8, -5, 2) * generator.choice([-1, 1], 2)
    slopes = 10.0 ** generator.uniform(-4, 0, 2) * generator.choice([-1, 1], 2)
    offset = 10.0 ** generator.uniform(6, 9)
    if seen:
        offset = min(offset, 0.01 * np.abs(places * slopes).min() / np.finfo(np.float64).eps)

    def function(p: Floats) -> Floats:
        beyond = [max((p[0] - x[0] - place) * np.sign(place), 0.0) for place in places]
        kinks = slopes[0] * beyond[0] + slopes[1] * beyond[1]
        return np.array([offset + p[0] * p[0] + kinks + p[1], p[1] * p[2], p[0] - p[2]])

    def jacobian(p: Floats) -> Floats:
        slope = 2 * p[0]
        for place, change in zip(places, slopes, strict=True):
            slope += change * np.sign(place) * ((p[0] - x[0] - place) * np.sign(place) > 0)
        return np.array([[slope, 1, 0], [0, p[2], p[1]], [1, 0, -1]])

    return function, jacobian, x


def row_of(function: Callable[[Floats], Floats], begin: int, end: int) -> Callable[[Floats], Floats]:
    """Some outputs of a function."""
    return lambda p: function(p)[begin:end]


def scalar(function: Callable[[Floats], Floats]) -> Callable[[Floats], Any]:
    """The first output of a function."""
    return lambda p: function(p)[0]
