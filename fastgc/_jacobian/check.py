"""The check of a Jacobian, and the assertion that it passes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from numpy.typing import ArrayLike

from fastgc._arguments import flags, refuse_uncallable
from fastgc._derivatives.stencil import stencil_named
from fastgc._gradient.check import GradientMismatch
from fastgc._gradient.options import refuse_args
from fastgc._jacobian.inputs import finite_point
from fastgc._jacobian.options import JacobianOptions
from fastgc._jacobian.pairs import NOTE, ComplexOutputsError, in_pairs, is_complex
from fastgc._jacobian.points import JacobianCheck, check_points
from fastgc._jacobian.report import JacobianReport
from fastgc._public import public
from fastgc._words import UNDECIDED, Columns, Engine, StencilName, Workers


@public
class JacobianMismatch(GradientMismatch):
    """A Jacobian or a Hessian did not pass; ``report`` holds the `JacobianReport`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> try:
    ...     fastgc.assert_jacobian(lambda x: x**2, lambda x: np.diag(x), np.ones(2))
    ... except fastgc.JacobianMismatch as error:
    ...     error.report.by_output
    {(0,): 1, (1,): 1}
    """

    report: JacobianReport  # type: ignore[assignment]  # who catches the mismatch of a gradient catches this one, too

    def __init__(self, report: JacobianReport) -> None:
        AssertionError.__init__(self, str(report))
        self.report = report


def check_jacobian(
    f: Callable[..., object],
    jacobian: object,
    x: ArrayLike,
    *,
    args: tuple[object, ...] = (),
    jvp: Callable[..., object] | None = None,
    vjp: Callable[..., object] | None = None,
    sparsity: object = None,
    columns: Columns = None,
    probes: int = 3,
    stencil: StencilName = "central",
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    bounds: object = None,
    engine: Engine = "auto",
    threads: int | None = None,
    workers: Workers = 1,
    points: int = 1,
    time_budget: float | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> JacobianReport:
    """Check an analytic Jacobian against numerical derivatives, entry by entry, each with its uncertainty.

    Parameters
    ----------
    f : callable
        ``f(x, *args)`` returns an array_like of m real numbers, of any shape; or it returns nothing and fills one array
        of args, as in ``check_jacobian(f, jacobian, x, args=(np.empty(m),))``: each call of f receives a copy of that
        array. One compiled by ``numba.njit`` receives the array x as a plain function does.
    jacobian : array, scipy.sparse array, callable, or None
        Of shape (m, n), or the shape of f(x) followed by that of x; or a function ``jacobian(x, *args)`` that returns
        it. The structure of a sparse one is its declared sparsity. None where products are given instead. Of complex
        outputs a complex matrix df/dx; complex numbers are compared as pairs of real ones, in a last axis of 2, and a
        Jacobian with these axes is taken, too, as functions that are not analytic need it.
    x : array_like
        The point, n numbers, of any shape; functions receive float64 or complex128 copies.
    args : tuple
        Extra positional arguments of f, jacobian, jvp and vjp.
    jvp : callable, optional
        ``jvp(x, u, *args)``: the product J u, for u of the shape of x.
    vjp : callable, optional
        ``vjp(x, v, *args)``: the product v^T J, for v of the shape of f(x). With both, jvp is checked entry by entry,
        and vjp must be its transpose.
    sparsity : array or scipy.sparse array of shape (m, n), optional
        Nonzero where f can depend on x. Columns without a common output are then displaced together; a dependence
        outside the pattern is found.
    columns : int or "all", optional
        How many inputs, drawn at random, have their entries checked one by one. By default all of at most 256 inputs,
        else 32; with a declared sparsity always all.
    probes : int
        How many random directions over all inputs are compared where not all entries are checked one by one.
    stencil : {"central", "forward", "backward", "five_point", "complex_step"}
        The difference formula of the first look, as in `check_gradients`. "complex_step" calls f with complex numbers.
    step : float, optional
        The step of the first quotients; entries in doubt are measured at many steps. By default it is chosen for each
        input.
    rtol, atol : float, optional
        As in `check_gradients`; by default atol is 1e-5 * rtol times the root mean square of the entry's row or column,
        whichever is smaller.
    bounds : scipy.optimize.Bounds, sequence of (lower, upper), or {"x": (lower, upper)}, optional
        Bounds of the inputs, outside which f is never called. The ends may be arrays; None for no bound. At a bound the
        slope towards the inside counts.
    engine : {"auto", "numba", "python"}
        As in `check_gradients`: "auto" runs a compiled f in compiled loops where that is faster than calls from Python.
    threads : int, optional
        Threads of the compiled loops; each has its own copy of x.
    workers : int, Executor, or function like map
        What evaluates a plain f, as in `check_gradients`.
    points : int
        Check at x and at ``points - 1`` random points around it; needs jacobian (or products) as functions.
    time_budget : float, optional
        Seconds after which the check ends with what it has. Columns come in random order, so that a few entries of all
        outputs come first; what was not reached is undecided.
    seed : int
        Of all random draws.
    progress : bool
        Show a tqdm progress bar.
    checkpoint : str or path, optional
        A file that keeps the outputs of f while they are measured, as in `check_gradients`: about 16 bytes for an
        entry, and 32 for a column.

    Returns
    -------
    JacobianReport

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense, shapes that differ, outputs that are not real, or not finite at x. Exceptions
        of f count as those of a loss in `check_gradients`.
    OSError
        Where the checkpoint cannot be written, or another process writes to it.
    Interrupted
        After Ctrl-C, with the report so far, as in `check_gradients`.

    Examples
    --------
    Polar coordinates, with the wrong sign in one entry of the second Jacobian:

    >>> import numpy as np
    >>> from fastgc import check_jacobian
    >>> def cartesian(polar):
    ...     r, phi = polar
    ...     return [r * np.cos(phi), r * np.sin(phi)]
    >>> def right(polar):
    ...     r, phi = polar
    ...     return [[np.cos(phi), -r * np.sin(phi)], [np.sin(phi), r * np.cos(phi)]]
    >>> def wrong(polar):
    ...     return np.abs(right(polar))
    >>> check_jacobian(cartesian, right, [2.0, 0.5]).passed
    True
    >>> report = check_jacobian(cartesian, wrong, [2.0, 0.5])
    >>> report.verdict, report.reason, report.by_output, report.by_input
    ('fail', '1 of 4 checked entries differs', {(0,): 1}, {(1,): 1})
    """
    options = JacobianOptions(
        columns=columns, probes=probes, stencil=stencil, step=step, rtol=rtol, atol=atol, bounds=bounds, engine=engine,
        threads=threads, workers=workers, points=points, time_budget=time_budget, seed=seed, progress=progress,
        checkpoint=checkpoint,
    )  # fmt: skip
    return check_point(JacobianCheck(f, jacobian, x, args, jvp, vjp, sparsity, options))


def assert_jacobian(
    f: Callable[..., object],
    jacobian: object,
    x: ArrayLike,
    *,
    args: tuple[object, ...] = (),
    jvp: Callable[..., object] | None = None,
    vjp: Callable[..., object] | None = None,
    sparsity: object = None,
    columns: Columns = None,
    probes: int = 3,
    stencil: StencilName = "central",
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    bounds: object = None,
    engine: Engine = "auto",
    threads: int | None = None,
    workers: Workers = 1,
    points: int = 1,
    time_budget: float | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    allow_undecided: bool = False,
) -> JacobianReport:
    """Check a Jacobian as `check_jacobian` does, and raise unless it passes.

    Parameters
    ----------
    f, jacobian, x, args, jvp, vjp, sparsity, columns, probes, stencil, step, rtol, atol, bounds, engine
        As in `check_jacobian`.
    threads, workers, points, time_budget, seed, progress, checkpoint
        As in `check_jacobian`.
    allow_undecided : bool
        Accept a report that is undecided.

    Returns
    -------
    JacobianReport

    Raises
    ------
    JacobianMismatch
        An AssertionError whose text is the report and whose ``report`` attribute holds it.
    TypeError, ValueError, OSError, Interrupted
        As `check_jacobian`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> A = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]])
    >>> fastgc.assert_jacobian(lambda x: A @ x, A, np.ones(3)).verdict
    'pass'
    >>> fastgc.assert_jacobian(lambda x: A @ x, -A, np.ones(3))
    Traceback (most recent call last):
    fastgc.JacobianMismatch: FAIL  4 of 6 checked entries differ   ...
    """
    __tracebackhide__ = True  # in pytest a failing test begins with the report
    flags(allow_undecided=allow_undecided)
    options = JacobianOptions(
        columns=columns, probes=probes, stencil=stencil, step=step, rtol=rtol, atol=atol, bounds=bounds, engine=engine,
        threads=threads, workers=workers, points=points, time_budget=time_budget, seed=seed, progress=progress,
        checkpoint=checkpoint,
    )  # fmt: skip
    report = check_point(JacobianCheck(f, jacobian, x, args, jvp, vjp, sparsity, options))
    return passing(report, allow_undecided=allow_undecided)


def check_point(check: JacobianCheck) -> JacobianReport:
    """The check with all its options. Complex inputs and outputs are taken in pairs."""
    refuse_uncallable("f", check.f)
    refuse_args(check.args)
    check.options.refuse_array("jacobian", check.jacobian)
    if is_complex(check.point):
        return _checked_in_pairs(check)
    try:
        return check_points(replace(check, point=finite_point(check.point)))
    except ComplexOutputsError:
        if stencil_named(check.options.stencil).is_complex:
            raise
        return _checked_in_pairs(check)


def _checked_in_pairs(check: JacobianCheck) -> JacobianReport:
    if any(form is not None for form in (check.jvp, check.vjp, check.sparsity)):
        raise TypeError("x or f(x) is complex: that needs jacobian as an array or a function, without products")
    f, jacobian, point, options = in_pairs(check.f, check.jacobian, check.point, check.args, check.options)
    paired = replace(check, f=f, jacobian=jacobian, point=finite_point(point), options=options)
    report = check_points(paired)
    return replace(report, notes=(*report.notes, NOTE))


def passing(report: JacobianReport, *, allow_undecided: bool) -> JacobianReport:
    """The report, if it passes (or is undecided, where that is allowed); else raise a `JacobianMismatch`."""
    __tracebackhide__ = True
    if not (report.passed or (allow_undecided and report.verdict == UNDECIDED)):
        raise JacobianMismatch(report)
    return report
