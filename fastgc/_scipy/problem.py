"""The check of a problem: the arguments of `scipy.optimize.minimize` and `least_squares` in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fastgc._arguments import number
from fastgc._forks import cached_property
from fastgc._gradient.check import check_gradients
from fastgc._jacobian.hessian import check_hessian
from fastgc._jacobian.inputs import finite_point
from fastgc._parameters.arrays import Floats
from fastgc._scipy.constraints import checked_hessian, constraint_checks
from fastgc._scipy.derivatives import CheckOptions, called, checked_jacobian, dimensions, interval, is_own
from fastgc._scipy.report import ProblemReport, Section, problem_report

Check = Callable[..., Section]  # with the options of the check


def check_problem(
    fun: Callable[..., object],
    x0: ArrayLike,
    jac: object,
    hess: object = None,
    constraints: object = (),
    bounds: object = None,
    args: object = (),
    *,
    hessp: Callable[..., object] | None = None,
    rtol: float | None = None,
    time_budget: float | None = None,
    seed: int = 0,
) -> ProblemReport:
    """Check all derivatives of a problem, given as `scipy.optimize.minimize` or `least_squares` takes it.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)`` returns one real number, or the residuals of `least_squares`, shape (m,).
    x0 : array_like, shape (n,)
        The point.
    jac : callable, True or str
        ``jac(x, *args)`` returns the gradient, or the Jacobian of the residuals: an array, a sparse matrix or a linear
        operator. True: fun returns ``(value, gradient)``. Formulas of SciPy's ("2-point") are not checked.
    hess : callable, optional
        ``hess(x, *args)`` returns the Hessian: an array, a sparse matrix or a linear operator.
    constraints : dict, NonlinearConstraint, LinearConstraint, or a sequence of these
        Dicts of SLSQP, with "fun", "jac" and "args". The ``hess`` of a nonlinear constraint is checked, too.
    bounds : scipy.optimize.Bounds, or sequence of (lower, upper), optional
        No function is called outside. With residuals the pair of `least_squares`: lower and upper, numbers or arrays.
    args : tuple
        Extra positional arguments of fun, jac, hess and hessp.
    hessp : callable, optional
        ``hessp(x, p, *args)`` returns the product of the Hessian with p.
    rtol : float, optional
        As in `check_gradients`, for all sections.
    time_budget : float, optional
        Seconds, of which all sections have equal shares.
    seed : int
        Of all random draws.

    Returns
    -------
    ProblemReport
        With a report for each derivative: ``report.sections["constraints[0]"]``.

    Raises
    ------
    TypeError, ValueError
        As `check_gradients` and `check_jacobian`; for constraints of another form.

    Examples
    --------
    The constraint's Jacobian has a wrong sign:

    >>> import numpy as np
    >>> import fastgc
    >>> from scipy.optimize import NonlinearConstraint, rosen, rosen_der, rosen_hess
    >>> disc = NonlinearConstraint(lambda x: x[0] ** 2 + x[1] ** 2, 0, 2, jac=lambda x: np.array([2 * x[0], -2 * x[1]]))
    >>> report = fastgc.check_problem(rosen, [0.5, 0.8], rosen_der, rosen_hess, constraints=disc)
    >>> report.verdict, [name for name, section in report.sections.items() if not section.passed]
    ('fail', ['constraints[0]'])
    >>> report.sections["constraints[0]"].wrong_entries[0].index
    (1,)

    Residuals of a fit, and their Jacobian:

    >>> t = np.linspace(0, 1, 9)
    >>> residuals, jacobian = lambda x: np.exp(x[0] * t) - x[1], lambda x: np.stack([np.exp(x[0] * t), -t**0], axis=1)
    >>> fastgc.check_problem(residuals, [0.5, 1.0], jacobian).sections["jacobian"].by_input
    {(0,): 8}
    """
    number("time_budget", time_budget, positive=True)
    point = np.atleast_1d(finite_point(x0))
    problem = _Problem(fun, point, jac, (hess, hessp), bounds, args if isinstance(args, tuple) else (args,))
    found = [*problem.checks(), *constraint_checks(constraints, point, seed)]
    planned = {name: check for name, check in found if not isinstance(check, str)}
    budget = None if time_budget is None else time_budget / max(1, len(planned))
    options = {"rtol": rtol, "time_budget": budget, "seed": seed, "bounds": problem.limits}
    sections = {name: check(**options) for name, check in planned.items()}
    return problem_report(sections, [f"{name}: {why}" for name, why in found if isinstance(why, str)])


@dataclass(frozen=True)
class _Problem:
    """The objective and its derivatives, as the caller of `check_problem` gave them."""

    fun: Callable[..., Any]
    x: Floats
    jac: object
    second: tuple[object, object]  # hess and hessp
    bounds: object
    args: tuple[object, ...]

    @property
    def limits(self) -> object:
        """The bounds in the form that a check takes."""
        return interval(self.bounds) if self.has_residuals else self.bounds

    @cached_property
    def has_residuals(self) -> bool:
        """Whether fun returns residuals, whose derivative is a matrix. One residual is one if its Jacobian has rows."""
        if self.jac is True:
            return False
        value = called(self.fun, self.x, *self.args)
        if np.size(value) != 1 or not (np.ndim(value) == 1 and is_own(self.jac)):
            return np.size(value) != 1
        return dimensions(called(self.jac, self.x, *self.args)) == 2

    def checks(self) -> list[tuple[str, Check | str]]:
        """For each derivative of fun its name, and its check, or why there is none."""
        seconds = zip(("hess", "hessp"), self.second, strict=True)
        return [self._first(), *[self._hessian_check(name, given) for name, given in seconds if is_own(given)]]

    def _first(self) -> tuple[str, Check | str]:
        if not (self.jac is True or is_own(self.jac)):
            return "jac", f"{self.jac!r}: no derivative of yours to check"
        return ("jacobian", self._jacobian) if self.has_residuals else ("gradient", self._gradient)

    def _jacobian(self, **options: Unpack[CheckOptions]) -> Section:
        return checked_jacobian(self.fun, self.jac, self.x, args=self.args, **options)

    def _gradient(self, **options: Unpack[CheckOptions]) -> Section:
        return check_gradients(self.fun, self.jac, self.x, args=self.args, **options)

    def _hessian_check(self, name: str, given: Callable[..., object]) -> tuple[str, Check | str]:
        if not (self.jac is True or is_own(self.jac)):
            return name, f"{name} is compared with differences of the gradient: it needs jac as a function, or True"
        gradient = self.jac if is_own(self.jac) else lambda x, *args: self.fun(x, *args)[1]
        if name == "hess":
            return "hessian", lambda **options: checked_hessian(gradient, given, self.x, args=self.args, **options)
        return "hessp", lambda **options: check_hessian(
            None, gradient, None, self.x, hvp=given, args=self.args, **options
        )
