"""The check of a Jacobian: measure columns, compare, project, report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastgc._derivatives.estimates import Estimates
from fastgc._jacobian.columns import Group, plan
from fastgc._jacobian.entries import Checked, JacobianAtPoint, check_groups, open_jacobian, verdicts
from fastgc._jacobian.function import VectorFunction
from fastgc._jacobian.inputs import (
    analytic_matrix,
    analytic_operator,
    declared_pattern,
    finite_point,
    open_function,
    validate,
)
from fastgc._jacobian.operator import spoiled
from fastgc._jacobian.projections import Projections, follow_strays, project
from fastgc._jacobian.report import About, JacobianReport, failed, jacobian_report
from fastgc._parameters.sampling import NotFinite
from fastgc._progress import Progress
from fastgc._words import Columns


def check_jacobian(
    f: Callable[..., Any],
    jacobian: Any,
    x: ArrayLike,
    *,
    args: tuple[Any, ...] = (),
    jvp: Callable[..., Any] | None = None,
    vjp: Callable[..., Any] | None = None,
    sparsity: Any = None,
    columns: Columns = None,
    probes: int = 3,
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> JacobianReport:
    """Check an analytic Jacobian against numerical derivatives, entry by entry, each with its uncertainty.

    Parameters
    ----------
    f : callable
        ``f(x, *args)`` returns an array_like of m real numbers, of any shape.
    jacobian : array, scipy.sparse array, callable, or None
        Of shape (m, n), or the shape of f(x) followed by that of x; or a function ``jacobian(x, *args)`` that returns
        it. The structure of a sparse one is its declared sparsity. None where products are given instead.
    x : array_like
        The point, n real numbers, of any shape; functions receive float64 copies.
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
    step : float, optional
        The step of the first quotients; entries in doubt are measured at many steps. By default it is chosen for each
        input.
    rtol, atol : float, optional
        As in `check_gradients`; by default atol is 1e-5 * rtol times the root mean square of the entry's row or column,
        whichever is smaller.
    seed : int
        Of all random draws.
    progress : bool
        Show a tqdm progress bar.

    Returns
    -------
    JacobianReport

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense, shapes that differ, outputs that are not real, or not finite at x. Exceptions
        of f count as those of a loss in `check_gradients`.

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
    begin = time.perf_counter()
    validate(args, columns, probes=probes, step=step, rtol=rtol, atol=atol, seed=seed)
    point = finite_point(x)
    function, output_shape = open_function(f, point, args, seed)
    given = jacobian(point.copy(), *args) if callable(jacobian) else jacobian
    matrix = analytic_matrix(given, output_shape, point.shape)
    operator, reason = analytic_operator(matrix, jvp, vjp, point, output_shape, args)
    at_point = open_jacobian(function, operator, step, rtol, atol)
    groups, complete = plan(operator, declared_pattern(sparsity, matrix, operator.shape), columns, seed)
    with Progress(sum(group.columns.size for group in groups), shown=progress) as bar:
        checked, projections, bad = find(at_point, groups, 0 if complete else probes, seed, bar)
    about = About(output_shape, point.shape, function.evaluations, time.perf_counter() - begin, seed, _notes(function))
    report = jacobian_report(checked, projections, about)
    if bad is not None:
        where = bad.text(output_shape + point.shape, least=matrix is None)
        report = failed(report, f"the analytic Jacobian is not finite in {where}")
    return failed(report, reason) if reason else report


@np.errstate(all="ignore")  # what is not finite is judged, and not warned about
def find(
    jacobian: JacobianAtPoint, groups: Sequence[Group], probes: int, seed: int, bar: Progress
) -> tuple[Checked, Projections, NotFinite | None]:
    """Check entries one by one, then dependences outside the declared sparsity, then random directions.

    Entries of the analytic Jacobian that are not finite fail whatever else is found.

    Raises
    ------
    Exception
        The first exception of the function, if it raised at every displaced point and all analytic entries are finite.
    """
    bad = spoiled(jacobian.operator)
    found = [check_groups(jacobian, groups, bar)]
    found += follow_strays(jacobian, found[0], bar)
    projections = Projections()
    if probes and math.prod(jacobian.shape):
        projections, more = project(jacobian, Checked.joined(found), probes, seed, bar)
        found += more
    if bad is None:
        jacobian.function.raised.pass_on()
    else:
        unknown = Estimates.unknown(bad.first)
        found.append(Checked(unknown, verdicts(jacobian, unknown)))
    bar.failed(sum(int(np.count_nonzero(each.judgement.failed)) for each in found))
    return Checked.joined(found), projections, bad


def _notes(function: VectorFunction) -> tuple[str, ...]:
    undefined = function.raised.notes("f")
    again = function.outputs(np.empty(0, np.int64), np.empty((1, 0)))[0]
    if np.array_equal(again, function.base):
        return undefined
    return (*undefined, "f is noisy: a repeated call gave other outputs (dropout? no seed set?)")
