"""The error of a difference formula as a function of its step: truncation at large steps, round-off at small ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from fastgc._arguments import brief, refuse_uncallable
from fastgc._derivatives.stencil import quotients, stencil_named
from fastgc._evaluation.evaluator import Raised
from fastgc._evaluation.floating_point import at_point, displaced, own_errstate
from fastgc._numerical.drawable import Drawable
from fastgc._parameters.arrays import Floats
from fastgc._public import public
from fastgc._reports.picture import Axis, Line, Picture, Points, decades, power_guides
from fastgc._words import StencilName

_NEARBY = 0.25  # powers of ten: among the 15 default steps on either side, one vanishes by luck and not all do
_POWERS = {1: "h", 2: "h²", 4: "h⁴"}  # of truncation, by the order of a stencil
_GUIDE = 100  # points of a straight line on logarithmic axes: limits cut it where it leaves the picture


@public
@dataclass(frozen=True, repr=False)
class StepSweep(Drawable):
    """Errors of difference quotients by step; ``str(sweep)`` names the best step of each stencil.

    ``plot()`` draws the errors against the steps, and marks the `optimum` of each stencil. Dashed lines show how
    truncation rises (h, h², h⁴) and round-off falls (eps / h).

    Attributes
    ----------
    steps : float64 array, shape (steps,)
    errors : dict of float64 arrays, each of shape (steps,)
        ``|quotient - derivative|`` by stencil; NaN where f raised.
    best_step, best_error : dict of float
        The step with the smallest error, and that error, by stencil.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> sweep: fastgc.StepSweep = fastgc.step_sweep(np.sin, np.cos, 1.0, stencils=["central"])
    >>> sweep.steps.shape == sweep.errors["central"].shape, 1e-6 < sweep.optimum["central"] < 1e-4
    (True, True)
    """

    steps: Floats
    errors: dict[StencilName, Floats]

    @property
    def best_step(self) -> dict[StencilName, float]:
        """The step with the smallest error, by stencil; nan where no error is known."""
        return {name: self._where(error, error) for name, error in self.errors.items()}

    @property
    def best_error(self) -> dict[StencilName, float]:
        """The smallest error, by stencil; nan where no error is known."""
        return {name: float(np.fmin.reduce(error)) for name, error in self.errors.items()}

    def __str__(self) -> str:
        step, error = self.best_step, self.best_error
        return "\n".join(f"{name}: smallest error {error[name]:.1e} at h = {step[name]:.1e}" for name in self.errors)

    @property
    @np.errstate(all="ignore")
    def optimum(self) -> dict[StencilName, float]:
        """The step where the largest error nearby is smallest, by stencil: no step whose error vanishes by luck."""
        return {name: self._where(self._envelope(error), error) for name, error in self.errors.items()}

    def _where(self, sizes: Floats, error: Floats) -> float:
        """The step where these sizes are smallest; nan where no error is known."""
        return math.nan if np.isnan(error).all() else float(self.steps[np.nanargmin(sizes)])

    def _envelope(self, error: Floats) -> Floats:
        order = np.argsort(self.steps)
        places, errors = np.log10(self.steps[order]), np.where(np.isnan(error), np.inf, error)[order]
        begins = np.searchsorted(places, places - _NEARBY)
        ends = np.searchsorted(places, places + _NEARBY, side="right")
        result = np.empty_like(errors)
        result[order] = [errors[begin:end].max() for begin, end in zip(begins, ends, strict=True)]
        return result

    @np.errstate(all="ignore")
    def _picture(self) -> Picture:
        positive = np.concatenate([error[np.isfinite(error) & (error > 0)] for error in self.errors.values()])
        least = float(positive.min()) if positive.size else float(np.finfo(np.float64).eps)
        order = np.argsort(self.steps)
        lines, marks = [], []
        for name, error in self.errors.items():
            shown = np.where(np.isfinite(error), np.maximum(error, least), np.nan)  # 0 has no place on the axis
            lines.append(Line(self.steps[order], shown[order], name, name.replace("_", " ")))
            best = self.steps == self.optimum[name]
            marks.append(Points(self.steps[best], self._envelope(shown)[best], name, ""))
        return Picture(
            "Error of difference quotients by step",
            Axis("step h", "log", limits=decades(self.steps)),
            Axis("absolute error of the quotient", "log", limits=decades(np.append(positive, least))),
            tuple(marks),
            (*self._guides(), *lines),
        )

    def _guides(self) -> Iterator[Line]:
        powers = {_POWERS[order]: (order, error) for name, error in self.errors.items()
                  if (order := stencil_named(name).order) in _POWERS}  # fmt: skip
        yield from power_guides(self.steps, [(label, *rest) for label, rest in powers.items()])
        if set(self.errors) - {"complex_step"}:
            ends = np.array([self.steps.min(), self.steps.max()])
            across = np.geomspace(ends[0], ends[1], _GUIDE)
            yield Line(across, np.finfo(np.float64).eps / across, "guide", "eps / h")


@own_errstate()
def step_sweep(
    f: Callable[[float], SupportsFloat],
    derivative: float | Callable[[float], float],
    x: float,
    steps: ArrayLike | None = None,
    stencils: Sequence[StencilName] = ("forward", "central"),
) -> StepSweep:
    """Errors of difference quotients of a function of one variable, for steps from 1e-16 to 1.

    Parameters
    ----------
    f : callable
        A function of one real number.
    derivative : float or callable
        The true derivative at x, or a function that gives it.
    x : float
        The point.
    steps : array_like, shape (steps,), optional
        Positive steps; by default ``numpy.logspace(-16, 0, 500)``. A quotient is divided by the nominal step.
    stencils : sequence of str
        Names as in `check_gradients`.

    Returns
    -------
    StepSweep

    Raises
    ------
    TypeError, ValueError
        For unknown stencils, and for steps that are not positive. An exception of f passes through if f raises at x, or
        at all other points; at some points, it makes the error NaN.

    Examples
    --------
    >>> import math
    >>> import fastgc
    >>> sweep = fastgc.step_sweep(math.exp, math.exp, 1.0)
    >>> bool(1e-9 < sweep.best_step["forward"] < 1e-6 < sweep.best_step["central"] < 1e-4)
    True
    """
    refuse_uncallable("f", f)
    _number("x", x)
    sizes = _sizes(steps)
    if isinstance(stencils, str) or not isinstance(stencils, Sequence):
        raise TypeError(f"stencils is {brief(repr(stencils))}; it must be a sequence of names such as ('central',)")
    true = _number("derivative", at_point(derivative)(x) if callable(derivative) else derivative)
    errors: dict[StencilName, Floats] = {}
    found = Raised()
    for name in stencils:
        stencil = stencil_named(name)
        points = x + np.multiply.outer(sizes, stencil.offsets)
        values, more = _values(displaced(f), points, x)
        found = found.joined(more)
        errors[name] = np.abs(quotients(stencil, values, sizes, None) - true)
    found.pass_on()
    return StepSweep(sizes, errors)


def _number(name: str, value: object) -> float:
    """The value as a float; a TypeError unless it is one real number."""
    with contextlib.suppress(TypeError, ValueError):
        found = np.asarray(value)
        if found.ndim == 0 and found.dtype.kind in "fiubO":
            return float(found)
    raise TypeError(f"{name} is {brief(repr(value))}; it must be a real number")


def _returned(value: object) -> complex:
    """What f returned as a number; a TypeError unless it is one, which is complex for a complex step alone."""
    with contextlib.suppress(TypeError, ValueError):
        found = np.asarray(value)
        if found.size == 1 and found.dtype.kind in "fiubcO":
            return found.item() if found.dtype.kind == "c" else float(found.item())
    raise TypeError(f"f returned {brief(repr(value))}; it must return a real number")


def _sizes(steps: object) -> Floats:
    """The steps as a vector. By default from below the round-off of x = 1 up to its size; 500 make a smooth curve."""
    if steps is None:
        return np.logspace(-16, 0, 500)
    with contextlib.suppress(TypeError, ValueError):
        sizes = np.asarray(steps, np.float64).reshape(-1)
        if sizes.size and np.all(sizes > 0):
            return sizes
    raise ValueError(f"steps is {brief(repr(steps))}; they must be positive numbers")


def _values(f: Callable[[float], SupportsFloat], points: Floats, x: float) -> tuple[Floats, Raised]:
    """Values of f at points of any shape, nan where it raises, and its exceptions; one at x itself passes through."""
    values, found = list[complex](), Raised()
    with np.errstate(all="ignore"):
        for point in points.reshape(-1):
            try:
                value = f(point)
            except Exception as error:
                if point == x:
                    raise
                found = found.joined(Raised(1, error))
                values.append(np.nan)
            else:
                values.append(_returned(value))
                found = found if found.answered or point == x else replace(found, answered=True)
    return np.array(values).reshape(points.shape), found
