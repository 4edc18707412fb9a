"""Derivatives that are checked where a solver calls them: a wrapper around ``jac``."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Unpack

import numpy as np

from fastgc._arguments import brief, flags, number, plural, whole
from fastgc._gradient.check import GradientMismatch, check_gradients
from fastgc._jacobian.check import JacobianMismatch
from fastgc._jacobian.inputs import real_array
from fastgc._jacobian.report import JacobianReport
from fastgc._parameters.arrays import Array
from fastgc._public import public
from fastgc._scipy.derivatives import CheckOptions, checked_jacobian, dimensions
from fastgc._scipy.report import Section
from fastgc._words import FAIL, UNDECIDED, Verdict, worst_verdict

_FREE = 1.0  # seconds that checks may take whatever the share: all calls of a short run are checked (5 ms each)
_KEPT = 100  # reports that did not pass: more than anybody reads, 10 kB each


@dataclass(frozen=True)
class _Plan:
    """How a wrapped derivative is checked; see `checked`."""

    fun: Callable[..., object] | None
    argument: int
    every: int
    share: float
    raises: bool
    options: CheckOptions


@public
class CheckedDerivative:
    """A derivative that is checked where it is called; made by `checked`, and called as the derivative is.

    Attributes
    ----------
    calls : int
        How often it was called.
    checks : int
        How many of these calls were checked.
    reports : dict of `GradientReport` or `JacobianReport`
        By the number of the call, from 1: those that did not pass, the first 100 at most, and the last.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.optimize
    >>> import fastgc
    >>> f, wrong_below_zero = lambda x: np.sum(x**3 + x**2), lambda x: 3 * x * np.abs(x) + 2 * x
    >>> jac: fastgc.CheckedDerivative = fastgc.checked(wrong_below_zero, f, raises=False)
    >>> _ = scipy.optimize.minimize(f, [0.5, 0.2], jac=jac, method="BFGS", options={"maxiter": 2})
    >>> jac.verdict in ("pass", "fail"), jac.checks == jac.calls
    (True, True)
    """

    def __init__(self, jac: Callable[..., object], plan: _Plan) -> None:
        self._jac, self._plan = jac, plan
        self.calls, self.checks = 0, 0
        self.reports: dict[int, Section] = {}
        self._worst: set[Verdict] = set()
        self._began: float | None = None
        self._spent = 0.0
        self._last: tuple[tuple[object, ...], object] | None = (
            None  # arguments and value of a call that was not checked
        )

    def __call__(self, *args: object) -> object:
        __tracebackhide__ = True
        self._began = time.perf_counter() if self._began is None else self._began
        value = self._jac(*args)
        self.calls += 1
        self._last = _copied(args), value if self._plan.fun is None else _copy(value)
        if (self.calls - 1) % self._plan.every == 0 and self._has_time():
            self.check_last()
        return value

    def _has_time(self) -> bool:
        """Whether one check more, of mean length, stays within the share of the time."""
        assert self._began is not None
        wanted = self._spent * (1 + 1 / max(1, self.checks))
        return wanted <= max(_FREE, self._plan.share * (time.perf_counter() - self._began))

    def check_last(self) -> Section | None:
        """Check the last call, where a solver has ended; None if that was checked already.

        Raises
        ------
        GradientMismatch, JacobianMismatch
            If the derivative is wrong there and ``raises`` is True.
        """
        __tracebackhide__ = True
        if self._last is None:
            return None
        began = time.perf_counter()
        (args, value), self._last = self._last, None
        report = _checked_call(self._jac, self._plan, args, value, self.calls)
        self._spent += time.perf_counter() - began
        if report is None:
            return None
        self.checks += 1
        self._keep(report)
        if self._plan.raises and report.verdict == FAIL:
            raise _mismatch(report, self._jac, self.calls, args[self._plan.argument])
        return report

    def _keep(self, report: Section) -> None:
        self._worst.add(report.verdict)
        self.reports = {number: each for number, each in self.reports.items() if not each.passed}
        if report.passed or len(self.reports) < _KEPT:
            self.reports[self.calls] = report

    @property
    def verdict(self) -> Verdict:
        """The worst of all checks; "undecided" before the first."""
        return worst_verdict(self._worst or {UNDECIDED})

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return self.verdict == "pass"

    def __enter__(self) -> CheckedDerivative:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        if kind is None:
            self.check_last()

    def __repr__(self) -> str:
        checked = f"{self.checks} of {self.calls} {plural(self.calls, 'call', 'calls')} checked"
        wrong = [number for number, each in self.reports.items() if each.verdict == FAIL]
        found = f"; wrong first at call {wrong[0]}:\n{self.reports[wrong[0]]}" if wrong else ""
        return f"{self.verdict.upper()}  {checked}{found}"


def checked(
    jac: Callable[..., object],
    fun: Callable[..., object] | None = None,
    *,
    argument: int = 0,
    every: int = 1,
    share: float = 0.25,
    raises: bool = True,
    bounds: object = None,
    rtol: float | None = None,
    seed: int = 0,
) -> CheckedDerivative:
    """The derivative, checked at the points at which a solver calls it: ``minimize(fun, x0, jac=checked(jac, fun))``.

    A gradient can be right at the start and wrong at the solution. The values that the solver receives are compared
    with differences of fun around the same points.

    Parameters
    ----------
    jac : callable
        The derivative: a gradient, a Jacobian, or the Hessian, with the gradient as fun. Without fun a function that
        returns ``(value, gradient)``, for ``minimize(checked(fun), x0, jac=True)``.
    fun : callable, optional
        The function, with the arguments of jac.
    argument : int
        Which positional argument the derivative is for: 1 for the ``jac(t, y)`` of `scipy.integrate.solve_ivp`.
    every : int
        Check the first call and each k-th one after it.
    share : float
        Checks take at most this share of the time since the first call, but for the first second of checks: in a short
        run all calls are checked. 1: no limit.
    raises : bool
        Raise at the first value that is wrong. False: go on; see ``reports`` and ``verdict`` of what is returned.
    bounds, rtol, seed
        As in `check_gradients`; each call draws other entries.

    Returns
    -------
    CheckedDerivative
        Called as jac is. ``check_last()`` checks where the solver has ended; used in a ``with`` statement, it does so
        at the end.

    Raises
    ------
    TypeError, ValueError
        For options that make no sense.
    GradientMismatch, JacobianMismatch
        When it is called, if its value is wrong.

    Examples
    --------
    The gradient is right for x < 1, where the search begins:

    >>> import numpy as np
    >>> import scipy.optimize
    >>> import fastgc
    >>> f, jac = lambda x: np.sum((x - 2) ** 4), lambda x: np.where(x < 1, 4, 3) * (x - 2) ** 3
    >>> fastgc.check_problem(f, [0.0], jac).verdict
    'pass'
    >>> try:
    ...     scipy.optimize.minimize(f, [0.0], jac=fastgc.checked(jac, f))
    ... except fastgc.GradientMismatch as error:
    ...     error.report.verdict, error.__notes__
    ('fail', ['<lambda> returned this at call 2, at [1.01]'])

    The Jacobian of an ordinary differential equation:

    >>> from scipy.integrate import solve_ivp
    >>> f, jac = lambda t, y: [y[1], -np.sin(y[0])], lambda t, y: [[0, 1], [-np.cos(y[0]), 0]]
    >>> with fastgc.checked(jac, f, argument=1) as jac:
    ...     _ = solve_ivp(f, (0, 3), [2.0, 0.0], method="Radau", jac=jac)
    >>> jac.verdict
    'pass'
    """
    if not callable(jac):
        raise TypeError(f"jac is a {type(jac).__name__}; it must be a function: only that can be checked when called")
    if not (fun is None or callable(fun)):
        raise TypeError(f"fun is a {type(fun).__name__}; it must be a function, or None where jac returns both")
    whole("argument", argument, least=0)
    whole("every", every, least=1)
    number("share", share)
    number("rtol", rtol)
    whole("seed", seed, least=0)
    flags(raises=raises)
    options = CheckOptions(bounds=bounds, rtol=rtol, seed=seed)
    return CheckedDerivative(jac, _Plan(fun, argument, every, share if share < 1 else np.inf, raises, options))


def _refuse_call(plan: _Plan, args: tuple[Any, ...], value: Any) -> None:
    """Raise for a call without the argument of the derivative, and for one that was to return a pair."""
    if plan.argument >= len(args):
        raise ValueError(
            f"argument is {plan.argument}; the derivative was called with {len(args)} positional arguments"
        )
    if plan.fun is None and not (isinstance(value, (tuple, list)) and len(value) == 2):
        raise TypeError(f"jac returned {brief(repr(value))}; without fun it must return (value, gradient)")


def _checked_call(jac: Any, plan: _Plan, args: tuple[Any, ...], value: Any, call: int) -> Section | None:
    """The check of the value that one call returned; None where fun is not finite, and has no derivative.

    Where that fails, the derivative is called at neighbouring points, too: at a kink it may be undecided.
    """
    _refuse_call(plan, args, value)
    before, x, after = args[: plan.argument], real_array(args[plan.argument]), args[plan.argument + 1 :]

    def placed(function: Callable[..., object]) -> Callable[..., object]:
        return lambda x, *after: function(*before, x, *after)

    function = placed(plan.fun or (lambda *args: jac(*args)[0]))
    derivative = placed(jac if plan.fun else lambda *args: jac(*args)[1])
    given = value if plan.fun else value[1]
    options: CheckOptions = {**plan.options, "seed": plan.options["seed"] + call}
    base = np.asarray(function(x.copy(), *after))
    if not (np.isfinite(x).all() and np.isfinite(base).all()):
        return None
    check = _gradient if base.size == 1 and dimensions(given) < 2 else checked_jacobian
    report = check(function, given, x, after, **options)
    if report.verdict == FAIL:
        again = check(function, derivative, x, after, **options)
        report = again if again.verdict == UNDECIDED else report
    function(x.copy(), *after)  # what fun keeps for jac is of this point again
    return report


def _gradient(
    f: Callable[..., object], jac: object, x: Array, args: tuple[object, ...], **options: Unpack[CheckOptions]
) -> Section:
    return check_gradients(f, jac, x, args=args, crosscheck=False, **options)


def _mismatch(report: Section, jac: object, call: int, x: object) -> GradientMismatch:
    error = JacobianMismatch(report) if isinstance(report, JacobianReport) else GradientMismatch(report)
    name = getattr(jac, "__name__", type(jac).__name__)
    error.add_note(f"{name} returned this at call {call}, at {np.array2string(np.asarray(x), threshold=10)}")
    return error


def _copied(args: tuple[object, ...]) -> tuple[object, ...]:
    """The arguments, the arrays among them copied: solvers reuse theirs."""
    return tuple(each.copy() if isinstance(each, np.ndarray) else each for each in args)


def _copy(value: object) -> object:
    """The same, an array or a sparse matrix copied."""
    return copy.copy(value) if isinstance(value, np.ndarray) or hasattr(value, "tocsr") else value
