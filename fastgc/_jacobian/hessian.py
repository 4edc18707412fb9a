"""The check of a Hessian: the Jacobian of a gradient that must be right, and symmetric."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastgc._arguments import flags, refuse_uncallable, takes_arguments
from fastgc._evaluation.engine import is_jitted, jitted, readable_compilation
from fastgc._evaluation.evaluator import WrongShapeError
from fastgc._evaluation.floating_point import at_point, own_errstate
from fastgc._gradient.check import check_gradients
from fastgc._gradient.interrupted import Interrupted
from fastgc._gradient.options import refuse_args
from fastgc._jacobian.check import check_point, passing
from fastgc._jacobian.inputs import analytic_matrix, finite_point, product
from fastgc._jacobian.operator import contradiction
from fastgc._jacobian.options import JacobianOptions
from fastgc._jacobian.points import JacobianCheck
from fastgc._jacobian.report import JacobianReport, failed, undecided
from fastgc._parameters.arrays import Array, Floats, as_array
from fastgc._verdicts.judgement import Tolerances, default_rtol
from fastgc._verdicts.time_budget import INTERRUPTED
from fastgc._words import FAIL, Columns, Engine, StencilName, Workers

_SHARED = (
    "stencil",
    "bounds",
    "engine",
    "threads",
    "points",
    "time_budget",
    "seed",
    "progress",
)  # options with which the gradient itself is checked


def check_hessian(
    f: Callable[..., object] | None,
    gradient: Callable[..., object],
    hessian: object,
    x: ArrayLike,
    *,
    args: tuple[object, ...] = (),
    hvp: Callable[..., object] | None = None,
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
    """Check an analytic Hessian as the Jacobian of the gradient; also the gradient itself, and the symmetry.

    Parameters
    ----------
    f : callable, or None
        ``f(x, *args)`` returns one real number; the gradient is checked against it. None: the gradient is trusted.
    gradient : callable
        ``gradient(x, *args)`` returns the gradient, of the shape of x.
    hessian : array, scipy.sparse array, callable, or None
        Of shape (n, n), or the shape of x twice; or ``hessian(x, *args)`` that returns it. None with hvp.
    x : array_like
        The point, n real numbers, of any shape.
    hvp : callable, optional
        ``hvp(x, u, *args)``: the product H u, for u of the shape of x.
    args, sparsity, columns, probes, stencil, step, rtol, atol, bounds, engine, workers, points, time_budget
        As in `check_jacobian`.
    threads, seed, progress
        As in `check_jacobian`; f and gradient are called inside the bounds only. Half of the time is for the gradient.
    checkpoint : str or path, optional
        As in `check_jacobian`; values of f are kept in a second file, with ".f" at the end of its name.

    Returns
    -------
    JacobianReport
        Of the Hessian. It also fails where the gradient is wrong, or where the Hessian is not symmetric.

    Raises
    ------
    TypeError, ValueError, OSError, Interrupted
        As `check_jacobian`, and for a gradient whose shape is not that of x.

    Examples
    --------
    The quadratic form f(x) = x'Ax / 2 has the gradient Ax, the Hessian A, and the product Au with a vector:

    >>> import numpy as np
    >>> from fastgc import check_hessian
    >>> A = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> check_hessian(lambda x: x @ A @ x / 2, lambda x: A @ x, A, [1.0, 2.0]).passed
    True
    >>> check_hessian(None, lambda x: A @ x, None, [1.0, 2.0], hvp=lambda x, u: A @ u).passed
    True
    >>> check_hessian(None, lambda x: A @ x, np.tril(A), [1.0, 2.0]).reason
    'hessian is not symmetric: [0, 1] is 0 and [1, 0] is 1; 1 of 4 checked entries differs'
    """
    options = JacobianOptions(
        columns=columns, probes=probes, stencil=stencil, step=step, rtol=rtol, atol=atol, bounds=bounds, engine=engine,
        threads=threads, workers=workers, points=points, time_budget=time_budget, seed=seed, progress=progress,
        checkpoint=checkpoint,
    )  # fmt: skip
    with own_errstate():
        return _check(f, gradient, hessian, x, args, (hvp, sparsity), options)


def assert_hessian(
    f: Callable[..., object] | None,
    gradient: Callable[..., object],
    hessian: object,
    x: ArrayLike,
    *,
    args: tuple[object, ...] = (),
    hvp: Callable[..., object] | None = None,
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
    """Check a Hessian as `check_hessian` does, and raise unless it passes.

    Parameters
    ----------
    f, gradient, hessian, x, args, hvp, sparsity, columns, probes, stencil, step, rtol, atol, bounds, engine
        As in `check_hessian`.
    threads, workers, points, time_budget, seed, progress, checkpoint
        As in `check_hessian`.
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
        As `check_hessian`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> f, gradient = lambda x: np.sum(x**3), lambda x: 3 * x**2
    >>> fastgc.assert_hessian(f, gradient, lambda x: np.diag(6 * x), [1.0, 2.0]).verdict
    'pass'
    >>> fastgc.assert_hessian(f, gradient, lambda x: np.diag(3 * x), [1.0, 2.0])
    Traceback (most recent call last):
    fastgc.JacobianMismatch: FAIL  2 of 4 checked entries differ   ...
    """
    __tracebackhide__ = True  # in pytest a failing test begins with the report
    flags(allow_undecided=allow_undecided)
    options = JacobianOptions(
        columns=columns, probes=probes, stencil=stencil, step=step, rtol=rtol, atol=atol, bounds=bounds, engine=engine,
        threads=threads, workers=workers, points=points, time_budget=time_budget, seed=seed, progress=progress,
        checkpoint=checkpoint,
    )  # fmt: skip
    with own_errstate():
        report = _check(f, gradient, hessian, x, args, (hvp, sparsity), options)
    return passing(report, allow_undecided=allow_undecided)


Forms = tuple[Callable[..., object] | None, object]  # hvp and the sparsity


def _check(
    f: Callable[..., object] | None,
    gradient: Callable[..., object],
    hessian: object,
    x: ArrayLike,
    args: tuple[object, ...],
    forms: Forms,
    options: JacobianOptions,
) -> JacobianReport:
    point = finite_point(x)
    refuse_uncallable("gradient", gradient)
    if f is not None:
        refuse_uncallable("f", f)
    refuse_args(args)
    options.refuse_array("hessian", hessian)
    given = jitted(gradient) if options.engine == "numba" else gradient

    @wraps(gradient)
    def slopes(at: Array, *args: object) -> Array:
        with takes_arguments(gradient, (at, *args), "gradient"):
            value = as_array(given(at, *args), "gradient(x)")
        if value.shape != point.shape:
            raise WrongShapeError(f"gradient returned shape {value.shape}; x has shape {point.shape}")
        return value

    if f is not None and options.time_budget:
        options = replace(options, time_budget=options.time_budget / 2)
    hvp, sparsity = forms
    if is_jitted(given):
        with readable_compilation("gradient"):
            slopes(point.copy(), *args)  # its shape; it is measured itself, so that compiled loops can run it
    function = given if is_jitted(given) else slopes
    report = check_point(JacobianCheck(function, hessian, point, args, hvp, None, sparsity, options))
    try:
        matrix = at_point(hessian)(point.copy(), *args) if callable(hessian) else hessian
        skew = _asymmetry(matrix, hvp, point, args, options.rtol)
        report = failed(report, skew) if skew else report
        return _with_gradient(report, f, function, point, args, options)
    except KeyboardInterrupt:
        raise Interrupted(
            undecided(report, f"{INTERRUPTED}: whether hessian is symmetric and gradient right")
        ) from None


def _with_gradient(
    report: JacobianReport,
    f: Callable[..., object] | None,
    gradient: object,
    point: Floats,
    args: tuple[object, ...],
    options: JacobianOptions,
) -> JacobianReport:
    """The report, failed or with a note where the gradient whose Jacobian was measured is not known to be right."""
    if f is None or not point.size:
        return report
    shared = {name: getattr(options, name) for name in _SHARED}
    if options.checkpoint is not None:
        shared["checkpoint"] = os.fsdecode(options.checkpoint) + ".f"
    if not is_jitted(f):
        shared["workers"] = options.workers
    own = check_gradients(f, gradient, point, args=args, crosscheck=False, **shared)
    (tensor,) = own.tensors.values()
    report = replace(report, evaluations=report.evaluations + own.evaluations, seconds=report.seconds + own.seconds)
    if own.verdict == FAIL:
        where = f" ({tensor.worst})" if tensor.worst else ""
        return failed(report, f"gradient itself is wrong{where}: the Hessian was compared with its Jacobian")
    return report if own.passed else replace(report, notes=(*report.notes, f"gradient is undecided: {tensor.reason}"))


def _asymmetry(hessian: object, hvp: Any, point: Floats, args: tuple[object, ...], rtol: float | None) -> str:
    """The pair of entries that differs most, or the two products that differ; "" for a symmetric Hessian."""
    if hessian is None:
        times = product("hvp", hvp, point, point.shape, point.shape, args)
        return contradiction(times, times, (point.size, point.size), "hvp is not symmetric: v'Hu is {} and u'Hv is {}")
    matrix = analytic_matrix(hessian, point.shape, point.shape)
    rows, columns = (matrix - matrix.T).nonzero()
    if not rows.size:
        return ""
    first, second = (np.asarray(matrix[i, j], np.float64).reshape(-1) for i, j in ((rows, columns), (columns, rows)))
    largest = np.fmax(np.abs(first), np.abs(second))
    tolerances = Tolerances(np.array([default_rtol(matrix.dtype) if rtol is None else rtol]), None)
    excess = np.abs(first - second) - tolerances.allowed(0, largest, largest.max(keepdims=True))
    worst = int(np.argmax(excess))
    if not excess[worst] > 0:
        return ""
    i, j = int(rows[worst]), int(columns[worst])
    return f"hessian is not symmetric: [{i}, {j}] is {first[worst]:.6g} and [{j}, {i}] is {second[worst]:.6g}"
