"""Taylor's test: remainders of the expansion of a function along a direction, and how fast they vanish."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fastgc._arguments import brief, refuse_deep, refuse_uncallable, takes_arguments, whole
from fastgc._evaluation.engine import is_jitted, readable_compilation
from fastgc._evaluation.evaluator import as_number
from fastgc._evaluation.floating_point import at_point, displaced, own_errstate
from fastgc._gradient.options import refuse_args
from fastgc._jacobian.inputs import real_array
from fastgc._numerical.drawable import Drawable
from fastgc._parameters.arrays import Array, Floats
from fastgc._parameters.layout import ParameterLayout, flatten_parameters
from fastgc._parameters.matching import match_gradients, match_parameters
from fastgc._parameters.point import tensor_scales
from fastgc._parameters.streams import stream
from fastgc._public import public
from fastgc._reports.lines import in_a_row
from fastgc._reports.picture import Axis, Line, Picture, Points, decades, power_guides

# Steps in units of the parameters' scales: from a tenth, by halves, to 2e-5, where the remainder of order 1 is still
# 1e6 times the round-off of a value.
_LARGEST, _COUNT = 0.1, 13
_ROUND_OFF = 64.0  # units in the last place of the values: the noise of a sum of 1,000 terms
_CLEAR = 10.0  # times the round-off, above which a remainder has a rate
_SHORT = 0.25  # that a rate may lack: halfway, nearly, to the rate of a function with a kink in its next derivative
_POWERS = ("h", "h²", "h³")  # that remainders of order 0, 1, 2 are in proportion to
_KINDS = ("forward", "central", "backward")  # their colours and shapes


@public
@dataclass(frozen=True, repr=False)
class TaylorTest(Drawable):
    """Remainders along a direction; ``str(test)`` is their table, ``bool(test)`` whether it passed.

    ``plot()`` draws the remainders against the steps, with the slopes that they should have.

    Attributes
    ----------
    steps : float64 array, shape (steps,)
        The lengths h, in units of the direction, from the largest.
    remainders : dict of float64 arrays, each of shape (steps,)
        By order: 0: ``|f(x + h d) - f(x)|``; 1: that minus ``h g.d``; 2: that minus ``h**2 d.H d / 2``, with a Hessian.
    round_off : float
        Remainders below it are round-off of f.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> test: fastgc.TaylorTest = fastgc.taylor_test(lambda x: np.sum(np.exp(x)), lambda x: 0 * x, np.ones(4))
    >>> test.passed, {order: round(rate) for order, rate in test.rate.items()}
    (False, {0: 1, 1: 1})
    """

    steps: Floats
    remainders: dict[int, Floats]
    round_off: float

    @property
    @np.errstate(all="ignore")
    def rates(self) -> dict[int, Floats]:
        """By order, the powers of h by which the remainder falls between neighbouring steps; NaN in round-off."""
        return {order: self._rates(values) for order, values in self.remainders.items()}

    def _rates(self, values: Floats) -> Floats:
        clear = (values[:-1] > _CLEAR * self.round_off) & (values[1:] > _CLEAR * self.round_off)
        with np.errstate(all="ignore"):
            rates = np.log(values[:-1] / values[1:]) / np.log(self.steps[:-1] / self.steps[1:])
        return np.where(clear & np.isfinite(rates), rates, np.nan)

    @property
    @np.errstate(all="ignore")
    def rate(self) -> dict[int, float]:
        """By order, the rate at the smallest steps above round-off; infinite where all remainders are round-off."""
        return {order: self._last(order, rates) for order, rates in self.rates.items()}

    def _last(self, order: int, rates: Floats) -> float:
        known = rates[np.isfinite(rates)]
        if known.size:
            return float(known[-1])
        exact = bool(np.all(self.remainders[order] <= _CLEAR * self.round_off))
        return math.inf if exact else math.nan

    @property
    def passed(self) -> bool:
        """Whether the remainders with the gradient (and with the Hessian, if given) fall as they should: h**2, h**3."""
        return all(rate >= order + 1 - _SHORT for order, rate in self.rate.items() if order)

    def __bool__(self) -> bool:
        return self.passed

    @np.errstate(all="ignore")
    def __str__(self) -> str:
        rate = self.rate
        lines = [*in_a_row([f"{'PASS' if self.passed else 'FAIL'}  {self._said(1)}", *map(self._said, _others(rate))])]
        lines.append("       h  " + "  ".join(f"order {order}    rate" for order in self.remainders))
        rates = {order: np.append(np.nan, values) for order, values in self.rates.items()}
        for k, step in enumerate(self.steps):
            cells = (f"{self.remainders[order][k]:.1e}  {_rate(rates[order][k])}" for order in rate)
            lines.append(f"{step:.1e}  " + "  ".join(cells))
        return "\n".join(lines)

    def _said(self, order: int) -> str:
        rate = self.rate[order]
        found = "round-off alone" if math.isinf(rate) else f"rate {rate:.2f}"
        return f"remainder of order {order}: {found} (right: {order + 1})"

    @np.errstate(all="ignore")
    def _picture(self) -> Picture:
        above = {order: values > 0 for order, values in self.remainders.items()}
        dots = tuple(
            Points(self.steps[above[order]], values[above[order]], _KINDS[order], f"order {order}")
            for order, values in self.remainders.items()
        )
        powers = [(_POWERS[order], order + 1, values) for order, values in self.remainders.items()]
        floor = [Line(self.steps[[0, -1]], np.full(2, self.round_off), "limit", "round-off")] if self.round_off else []
        seen = np.concatenate([*self.remainders.values(), [self.round_off]])
        return Picture(
            f"Taylor's test: {self._said(1)}",
            Axis("step h", "log", limits=decades(self.steps)),
            Axis("remainder", "log", limits=decades(seen)),
            dots,
            (*power_guides(self.steps, powers), *floor),
        )


def _others(orders: Iterable[int]) -> list[int]:
    return [order for order in orders if order != 1]


def _rate(rate: float) -> str:
    return "   -" if math.isnan(rate) else f"{rate:4.2f}"


@own_errstate()
def taylor_test(
    f: Callable[..., object],
    gradient: object,
    x: object,
    *,
    args: tuple[object, ...] = (),
    direction: object = None,
    hessian: Callable[..., object] | None = None,
    steps: ArrayLike | None = None,
    seed: int = 0,
) -> TaylorTest:
    """Remainders of Taylor's expansion of f along one direction, and the rates by which they vanish with the step.

    With a right gradient the remainder of order 1 falls as h**2, with a wrong one as h. One direction shows an error of
    the gradient unless that is at a right angle to the direction; `check_gradients` says which entry is wrong.

    Parameters
    ----------
    f : callable
        ``f(x, *args)`` returns one real number.
    gradient : callable or structure of arrays
        ``gradient(x, *args)`` returns the gradient, in the structure of x; or that gradient.
    x : array_like, or dict, list or tuple of arrays
        The point.
    args : tuple
        Extra positional arguments of all functions.
    direction : structure of x, optional
        By default random, each entry in proportion to the scale of its tensor.
    hessian : callable, optional
        ``hessian(x, direction, *args)`` returns the product of the Hessian with a direction, in the structure of x.
    steps : array_like, shape (steps,), optional
        At least two positive lengths; by default 0.1 halved twelve times.
    seed : int
        Of the direction.

    Returns
    -------
    TaylorTest

    Raises
    ------
    TypeError, ValueError
        For parameters, gradients or directions that `check_gradients` would refuse, and for steps that are not
        positive. An exception of f passes through.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> test = fastgc.taylor_test(lambda x: np.sum(np.exp(x)), np.exp, np.ones(4), hessian=lambda x, d: np.exp(x) * d)
    >>> test.passed, {order: round(rate) for order, rate in test.rate.items()}
    (True, {0: 1, 1: 2, 2: 3})
    >>> bool(fastgc.taylor_test(lambda x: np.sum(np.exp(x)), lambda x: 1.01 * np.exp(x), np.ones(4)))
    False
    """
    refuse_uncallable("f", f)
    if hessian is not None:
        refuse_uncallable("hessian", hessian)
    refuse_args(args)
    refuse_deep("x", x)
    layout, leaves = flatten_parameters(x if _is_structure(x) else real_array(x))
    expansion = _Expansion(f, args, layout, [np.array(leaf, np.float64) for leaf in leaves])
    lengths, along = _lengths(steps), _direction(layout, expansion.leaves, direction, seed)
    values = expansion.values(np.append(0.0, lengths), along)
    remainders = [values[1:] - values[0]]
    found = at_point(gradient)(expansion.point(gradient), *args) if callable(gradient) else gradient
    remainders.append(remainders[0] - lengths * expansion.dot(found, along))
    if hessian is not None:
        product = at_point(hessian)(expansion.point(hessian), layout.rebuild(along), *args)
        remainders.append(remainders[1] - lengths**2 / 2 * expansion.dot(product, along))
    noise = _ROUND_OFF * float(np.finfo(np.float64).eps) * float(np.max(np.abs(values)))
    return TaylorTest(lengths, {order: np.abs(each) for order, each in enumerate(remainders)}, noise)


def _is_structure(x: object) -> bool:
    return isinstance(x, dict) or (
        isinstance(x, (list, tuple)) and not all(isinstance(each, (int, float, np.number)) for each in x)
    )


@dataclass(frozen=True)
class _Expansion:
    """A function around a point; directions are arrays in the shapes of its leaves."""

    f: Callable[..., object]
    args: tuple[object, ...]
    layout: ParameterLayout
    leaves: list[Array]

    def point(self, function: object) -> object:
        """A copy of the point for a function."""
        return self._given(function, [leaf.copy() for leaf in self.leaves])

    def _given(self, function: object, leaves: list[Array]) -> object:
        """What a function receives: the caller's structure; a jitted one the record of it, as in `check_gradients`."""
        structure = self.layout.rebuild(leaves)
        if not is_jitted(function) or isinstance(structure, np.ndarray):
            return structure
        from fastgc._evaluation.numba_record import record

        return record(structure)

    def values(self, steps: Floats, along: Sequence[Array]) -> Floats:
        """Values of the function at these steps along a direction."""
        f = displaced(self.f)
        moved = ([x + step * d for x, d in zip(self.leaves, along, strict=True)] for step in steps.tolist())
        with readable_compilation("f"), takes_arguments(self.f, (self.point(self.f), *self.args), "f"):
            return np.array([float(as_number(f(self._given(self.f, each), *self.args))) for each in moved])

    def dot(self, gradient: object, along: Sequence[Array]) -> float:
        """The slope of a gradient along a direction."""
        found = match_gradients(self.layout, gradient, copy=False)
        return float(sum(np.vdot(g.astype(np.float64), d) for g, d in zip(found, along, strict=True)))


def _lengths(steps: ArrayLike | None) -> Floats:
    if steps is None:
        return np.float64(_LARGEST) * 2.0 ** -np.arange(_COUNT)
    with contextlib.suppress(TypeError, ValueError):
        lengths = np.asarray(steps, np.float64).reshape(-1)
        if lengths.size >= 2 and np.all(lengths > 0):
            return np.sort(lengths)[::-1]
    raise ValueError(f"steps is {brief(repr(steps))}; they must be at least two positive numbers")


def _direction(layout: ParameterLayout, leaves: Sequence[Array], direction: object, seed: int) -> list[Array]:
    if direction is not None:
        given = direction if _is_structure(direction) else real_array(direction, what="direction")
        return [np.asarray(each, np.float64) for each in match_parameters(layout, given, "direction")]
    whole("seed", seed, least=0)
    draws = stream(seed, "taylor")
    return [scale * draws.normal(size=leaf.shape) for scale, leaf in zip(tensor_scales(leaves), leaves, strict=True)]
