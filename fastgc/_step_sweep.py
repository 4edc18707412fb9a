"""The error of a difference formula as a function of its step: truncation at large steps, round-off at small ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgc._derivatives.stencil import quotients, stencil_named
from fastgc._evaluation.evaluator import Raised
from fastgc._missing import missing
from fastgc._words import StencilName


@dataclass(frozen=True, repr=False)
class StepSweep:
    """Errors of difference quotients by step; ``str(sweep)`` names the best step of each stencil.

    Attributes
    ----------
    steps : float64 array, shape (steps,)
    errors : dict of float64 arrays, each of shape (steps,)
        ``|quotient - derivative|`` by stencil; NaN where f raised.
    best_step, best_error : dict of float
        The step with the smallest error, and that error, by stencil.
    """

    steps: NDArray[np.float64]
    errors: dict[StencilName, NDArray[np.float64]]

    @property
    def best_step(self) -> dict[StencilName, float]:
        """The step with the smallest error, by stencil."""
        return {name: float(self.steps[np.nanargmin(error)]) for name, error in self.errors.items()}

    @property
    def best_error(self) -> dict[StencilName, float]:
        """The smallest error, by stencil."""
        return {name: float(np.nanmin(error)) for name, error in self.errors.items()}

    def __str__(self) -> str:
        step, error = self.best_step, self.best_error
        return "\n".join(f"{name}: smallest error {error[name]:.1e} at h = {step[name]:.1e}" for name in self.errors)

    def __repr__(self) -> str:
        return str(self)

    def plot(self, ax: Any = None) -> Any:
        """Draw the errors against the steps on logarithmic axes, and mark the smallest error of each stencil.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            The axes to draw on; by default those of a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed, with the command that installs it.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise missing("plot()", "plot") from error
        if ax is None:
            ax = Figure(figsize=(7, 5), layout="constrained").add_subplot()
        for name, errors in self.errors.items():
            drawn = np.maximum(errors, np.finfo(np.float64).eps ** 2)  # the logarithm of 0 has no place on the axis
            (line,) = ax.loglog(self.steps, drawn, label=name, linewidth=1)
            ax.plot(self.best_step[name], np.nanmin(drawn), "o", color=line.get_color())
        ax.set(xlabel="step h", ylabel="absolute error of the quotient")
        ax.legend()
        return ax


def step_sweep(
    f: Callable[[Any], Any],
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
    ValueError
        For unknown stencils and for steps that are not positive. An exception of f passes through if f raises at x, or
        at all other points; at some points, it makes the error NaN.

    Examples
    --------
    >>> import math
    >>> import fastgc
    >>> sweep = fastgc.step_sweep(math.exp, math.exp, 1.0)
    >>> bool(1e-9 < sweep.best_step["forward"] < 1e-6 < sweep.best_step["central"] < 1e-4)
    True
    """
    # From below the round-off of x = 1 up to its size; 500 points make a smooth curve.
    sizes = np.logspace(-16, 0, 500) if steps is None else np.asarray(steps, np.float64).reshape(-1)
    if not sizes.size or not np.all(sizes > 0):
        raise ValueError(f"steps must be positive numbers; got {sizes!r}")
    true = float(derivative(x)) if callable(derivative) else float(derivative)
    errors: dict[StencilName, NDArray[np.float64]] = {}
    found = Raised()
    for name in stencils:
        stencil = stencil_named(name)
        points = x + np.multiply.outer(sizes, stencil.offsets)
        values, more = _values(f, points, x)
        found = found.joined(more)
        errors[name] = np.abs(quotients(stencil, values, sizes, None) - true)
    found.pass_on()
    return StepSweep(sizes, errors)


def _values(f: Callable[[Any], Any], points: NDArray[Any], x: float) -> tuple[NDArray[Any], Raised]:
    """Values of f at points of any shape, nan where it raises, and its exceptions; one at x itself passes through."""
    values, found = [], Raised()
    with np.errstate(all="ignore"):
        for point in points.reshape(-1):
            try:
                values.append(f(point))
            except Exception as error:
                if point == x:
                    raise
                found = found.joined(Raised(1, error))
                values.append(np.nan)
            else:
                found = found if found.answered or point == x else replace(found, answered=True)
    return np.array(values).reshape(points.shape), found
