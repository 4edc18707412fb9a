"""How the error of a difference formula depends on its step: truncation on one side, round-off on the other."""

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

Floats = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class StepSweep:
    """Errors of difference quotients by step; ``str(sweep)`` tells the best step of each stencil.

    Attributes
    ----------
    steps : array, shape (steps,)
    errors : dict of arrays, shape (steps,)
        ``|quotient - derivative|`` by stencil.
    best_step, best_error : dict of float
        The step of the smallest error, and that error, by stencil.
    """

    steps: Floats
    errors: dict[StencilName, Floats]

    @property
    def best_step(self) -> dict[StencilName, float]:
        """By stencil: the step with the smallest error."""
        return {name: float(self.steps[np.nanargmin(error)]) for name, error in self.errors.items()}

    @property
    def best_error(self) -> dict[StencilName, float]:
        """By stencil: the smallest error."""
        return {name: float(np.nanmin(error)) for name, error in self.errors.items()}

    def __str__(self) -> str:
        step, error = self.best_step, self.best_error
        return "\n".join(f"{name}: smallest error {error[name]:.1e} at h = {step[name]:.1e}" for name in self.errors)

    def __repr__(self) -> str:
        return str(self)

    def plot(self, ax: Any = None) -> Any:
        """Draw the errors over the steps, both on logarithmic axes, and mark the optima.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            Without matplotlib, with the command that installs it.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise missing("plot()", "plot") from error
        if ax is None:
            ax = Figure(figsize=(7, 5), layout="constrained").add_subplot()
        for name, errors in self.errors.items():
            drawn = np.maximum(errors, np.finfo(np.float64).eps ** 2)  # an exact quotient has a place on the axis too
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
    """Errors of difference quotients of a function of one variable, over steps from 1e-16 to 1.

    Parameters
    ----------
    f : callable
        Function of one real number.
    derivative : float or callable
        Its true derivative at x, or as a function of x.
    x : float
        The point.
    steps : array_like, shape (steps,), optional
        Steps, all positive; by default ``numpy.logspace(-16, 0, 500)``. They are the nominal divisors.
    stencils : sequence of str
        Names as in `check_gradients`.

    Returns
    -------
    StepSweep

    Raises
    ------
    ValueError
        For unknown stencils and for steps that are not positive. What f raises at x passes through, and what it raises
        at all other points too; one at which it raises is left out.
    """
    sizes = np.logspace(-16, 0, 500) if steps is None else np.asarray(steps, np.float64).reshape(-1)
    if not sizes.size or not np.all(sizes > 0):
        raise ValueError(f"steps must be positive numbers; got {sizes!r}")
    true = float(derivative(x)) if callable(derivative) else float(derivative)
    errors: dict[StencilName, Floats] = {}
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
    """Values of f at points of any shape, nan where it raises but at x itself, and what it raised."""
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
