"""The check of a Jacobian and of a Hessian: validate, estimate columns, compare, project, report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgc._arguments import number, one_of, whole
from fastgc._derivatives.estimates import Estimates
from fastgc._evaluation.engine import in_turn
from fastgc._evaluation.evaluator import WrongShapeError, WrongTypeError
from fastgc._gradient.check import check_gradients
from fastgc._jacobian.entries import Checked, Group, JacobianAtPoint, check_groups, open_jacobian, verdicts
from fastgc._jacobian.function import VectorFunction, one_by_one
from fastgc._jacobian.operator import Operator, jvp_operator, matrix_operator, spoiled, vjp_operator
from fastgc._jacobian.projections import Projections, follow_strays, project
from fastgc._jacobian.report import About, JacobianReport, failed, jacobian_report
from fastgc._parameters.layout import flatten_parameters
from fastgc._parameters.sampling import NotFinite
from fastgc._parameters.streams import stream
from fastgc._progress import Progress
from fastgc._reports.entries import entry_text
from fastgc._verdicts.judgement import FAIL, default_rtol
from fastgc._words import Columns

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

_ALL_COLUMNS = 256  # up to so many are all checked by default
_COLUMNS, _OUTPUTS = 32, 64  # that are drawn where there are more; outputs only where a row takes a product
_MOST_ENTRIES = 1_000_000  # compared one by one by default
_PAIRS = 3  # of random vectors on which a product and its transpose are compared
_TRANSPOSE_SHARE = 0.1  # of rtol, relative to the terms of that product: both are exact but for rounding
_SLACK = 1e-3  # of the largest entry, for the symmetry of entries near zero


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
        ``vjp(x, v, *args)``: the product v^T J, for v of the shape of f(x). With jvp, also whether it is its transpose.
    sparsity : array or scipy.sparse array of shape (m, n), optional
        Nonzero where f can depend on x. Columns without a common output are then displaced together, and an output that
        moves with an input outside the pattern is found.
    columns : int or "all", optional
        Inputs whose entries are checked one by one; drawn at random. By default all where there are at most 256, else
        32; a declared sparsity is checked as a whole.
    probes : int
        Random directions over all inputs, where not all entries are checked one by one.
    step : float, optional
        The step of the first look; entries in doubt are settled at many steps. By default each input has its own.
    rtol, atol : float, optional
        As in `check_gradients`; by default atol is 1e-3 * rtol times the root mean square of the entry's row or column,
        whichever is smaller.
    seed : int
        Of what is drawn at random.
    progress : bool
        Show a tqdm progress bar.

    Returns
    -------
    JacobianReport

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense, shapes that differ, outputs that are not real or not finite at x. Exceptions
        of f are taken as `check_gradients` takes those of a loss.
    """
    begin = time.perf_counter()
    _validate(args, columns, probes, step, rtol, atol, seed)
    point = _real_point(x)
    function, output_shape = open_field(f, point, args, seed)
    matrix = _matrix(jacobian(point.copy(), *args) if callable(jacobian) else jacobian, output_shape, point.shape)
    operator, reason = _operator(matrix, jvp, vjp, point, output_shape, args)
    jacobian = open_jacobian(function, operator, step, rtol, atol)
    groups, complete = plan(jacobian, _pattern(sparsity, matrix, jacobian.shape), columns, seed)
    with Progress(sum(group.columns.size for group in groups), shown=progress) as bar:
        checked, projections, bad = find(jacobian, groups, 0 if complete else probes, seed, bar)
    about = About(output_shape, point.shape, function.evaluations, time.perf_counter() - begin, seed, _notes(function))
    report = jacobian_report(checked, projections, about)
    if bad is not None:
        where = bad.text(output_shape + point.shape, least=matrix is None)
        report = failed(report, f"the analytic Jacobian is not finite in {where}")
    return failed(report, reason) if reason else report


def check_hessian(
    f: Callable[..., Any] | None,
    gradient: Callable[..., Any],
    hessian: Any,
    x: ArrayLike,
    *,
    args: tuple[Any, ...] = (),
    hvp: Callable[..., Any] | None = None,
    sparsity: Any = None,
    columns: Columns = None,
    probes: int = 3,
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> JacobianReport:
    """Check an analytic Hessian as the Jacobian of the gradient, the gradient itself, and the symmetry.

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
    args, sparsity, columns, probes, step, rtol, atol, seed, progress
        As in `check_jacobian`.

    Returns
    -------
    JacobianReport
        Of the Hessian. It fails also where the gradient does, or where the Hessian is not symmetric.

    Raises
    ------
    TypeError, ValueError
        As `check_jacobian`, and for a gradient that has not the shape of x.
    """
    point = _real_point(x)
    if callable(hessian):
        hessian = hessian(point.copy(), *args)

    def slopes(at: Floats, *args: Any) -> Any:
        value = np.asarray(gradient(at, *args))
        if value.shape != point.shape:
            raise WrongShapeError(f"gradient returned shape {value.shape}; x has shape {point.shape}")
        return value

    report = check_jacobian(
        slopes, hessian, point, args=args, jvp=hvp, sparsity=sparsity, columns=columns, probes=probes, step=step,
        rtol=rtol, atol=atol, seed=seed, progress=progress,
    )  # fmt: skip
    skew = _asymmetry(hessian, hvp, point, args, rtol)
    return _with_gradient(failed(report, skew) if skew else report, f, slopes, point, args, seed)


def _with_gradient(
    report: JacobianReport, f: Any, gradient: Any, point: Floats, args: tuple[Any, ...], seed: int
) -> JacobianReport:
    """The report, failed or with a note where the gradient whose Jacobian was taken is not known to be right."""
    if f is None or not point.size:
        return report
    own = check_gradients(f, gradient, point, args=args, crosscheck=False, seed=seed)
    (tensor,) = own.tensors.values()
    report = replace(report, evaluations=report.evaluations + own.evaluations, seconds=report.seconds + own.seconds)
    if own.verdict == FAIL:
        where = f" ({entry_text(tensor.worst)})" if tensor.worst else ""
        return failed(report, f"gradient itself is wrong{where}: the Hessian was compared with its Jacobian")
    return report if own.passed else replace(report, notes=(*report.notes, f"gradient is undecided: {tensor.reason}"))


def _asymmetry(hessian: Any, hvp: Any, point: Floats, args: tuple[Any, ...], rtol: float | None) -> str:
    """How the Hessian is not symmetric, or ""."""
    if hessian is None:
        times = _product("hvp", hvp, point, point.shape, point.shape, args)
        return _contradiction(times, times, point.size, point.size, "hvp is not symmetric: v'Hu is {} and u'Hv is {}")
    matrix = _matrix(hessian, point.shape, point.shape)
    rows, columns = (matrix - matrix.T).nonzero()
    if not rows.size:
        return ""
    first, second = (np.asarray(matrix[i, j], np.float64).reshape(-1) for i, j in ((rows, columns), (columns, rows)))
    largest = np.fmax(np.abs(first), np.abs(second))
    excess = np.abs(first - second) - (default_rtol(matrix.dtype) if rtol is None else rtol) * (
        largest + _SLACK * largest.max()
    )
    worst = int(np.argmax(excess))
    if not excess[worst] > 0:
        return ""
    i, j = int(rows[worst]), int(columns[worst])
    return f"hessian is not symmetric: [{i}, {j}] is {first[worst]:.6g} and [{j}, {i}] is {second[worst]:.6g}"


@np.errstate(all="ignore")  # what is not finite is judged, and not warned about
def find(
    jacobian: JacobianAtPoint, groups: Sequence[Group], probes: int, seed: int, bar: Progress
) -> tuple[Checked, Projections | None, NotFinite | None]:
    """Entries one by one, then what moves outside the declared sparsity, then random directions.

    Entries of the analytic Jacobian that are not finite fail as they stand, whatever else is found.

    Raises
    ------
    Exception
        The first that the function raised, where it raised at every displaced point and all entries are finite.
    """
    bad = spoiled(jacobian.operator)
    found = [check_groups(jacobian, groups, bar)]
    found += follow_strays(jacobian, found[0], bar)
    projections = None
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


# --- arguments ---


def _validate(args: Any, columns: Any, probes: Any, step: Any, rtol: Any, atol: Any, seed: Any) -> None:
    if not isinstance(args, tuple):
        raise TypeError(f"args is a {type(args).__name__}; it must be a tuple: write args=(value,) for one argument")
    if isinstance(columns, str):
        one_of("columns", columns, ("all",))
    else:
        whole("columns", columns, least=1, optional=True)
    whole("probes", probes, least=0)
    whole("seed", seed, least=0)
    number("step", step, positive=True)
    number("rtol", rtol)
    number("atol", atol)


def _real_point(x: ArrayLike) -> Floats:
    given = np.asarray(x)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"x is of dtype {given.dtype}; it must be an array of real numbers")
    point = np.array(given, np.float64, order="C")
    if not np.isfinite(point).all():
        count = point.size - np.count_nonzero(np.isfinite(point))
        raise ValueError(f"x has {count} entries that are not finite; a derivative exists only at finite inputs")
    return point


def open_field(
    f: Callable[..., Any], point: Floats, args: tuple[Any, ...], seed: int
) -> tuple[VectorFunction, tuple[int, ...]]:
    """The function at flat copies of x, called once, and the shape of its outputs."""
    received = point.copy()
    f = in_turn(f)
    first = _real_outputs(f(received, *args))
    if not np.array_equal(received, point):
        raise ValueError("f changed x; it must leave its argument as it is: copy it first")
    if not np.isfinite(first).all():
        count = first.size - np.count_nonzero(np.isfinite(first))
        raise ValueError(
            f"f(x) has {count} of {first.size} outputs that are not finite; a Jacobian needs a point where all are"
        )

    def outputs(x: Floats) -> Floats:
        values = _real_outputs(f(x.reshape(point.shape), *args))
        if values.shape != first.shape:
            raise WrongShapeError(
                f"f returned shape {values.shape} beside x and {first.shape} at x: it must not change"
            )
        return values.reshape(-1)

    layout, leaves = flatten_parameters({"x": point})
    base = first.reshape(-1)
    return VectorFunction(one_by_one(outputs, base.size), layout, leaves, base, seed), first.shape


def _real_outputs(value: Any) -> Floats:
    array = np.asarray(value)
    if array.dtype.kind == "c":
        raise WrongTypeError(
            "f returned complex outputs: not supported; return the real and the imaginary parts as outputs"
        )
    if array.dtype.kind not in "fiub":
        raise WrongTypeError(
            f"f returned {value!r:.60} ({type(value).__name__}); it must return an array of real numbers"
        )
    return np.array(array, np.float64)  # a copy: f may reuse its buffer


# --- the analytic Jacobian ---


def _matrix(jacobian: Any, output_shape: tuple[int, ...], input_shape: tuple[int, ...]) -> Any:
    """The Jacobian as an array or a CSR array of shape (m, n); None if there is none."""
    if jacobian is None:
        return None
    m, n = math.prod(output_shape), math.prod(input_shape)
    if not _is_sparse(jacobian):
        jacobian = np.array(jacobian)
        if jacobian.dtype.kind not in "fiu":
            raise TypeError(f"jacobian is of dtype {jacobian.dtype}; it must be an array of real numbers")
    elif jacobian.dtype.kind not in "fiu":
        raise TypeError(f"jacobian is of dtype {jacobian.dtype}; it must be an array of real numbers")
    if jacobian.shape not in ((m, n), output_shape + input_shape):
        hint = ": that is the transpose" if jacobian.shape == (n, m) else ""
        raise ValueError(
            f"jacobian has shape {jacobian.shape}; f(x) has shape {output_shape} and x {input_shape}: "
            f"it must be ({m}, {n}){hint}"
        )
    return jacobian.tocsr() if _is_sparse(jacobian) else jacobian.reshape(m, n)


def _is_sparse(matrix: Any) -> bool:
    return hasattr(matrix, "tocsr")  # SciPy is not imported to find out


def _operator(
    matrix: Any, jvp: Any, vjp: Any, point: Floats, output_shape: tuple[int, ...], args: tuple[Any, ...]
) -> tuple[Operator, str]:
    """What the analytic Jacobian is, and what contradicts itself in it."""
    if (matrix is None) == (jvp is None and vjp is None):
        raise ValueError("give either jacobian or products: jvp, vjp or both (jacobian=None with these)")
    if matrix is not None:
        return matrix_operator(matrix), ""
    m, n = math.prod(output_shape), point.size
    times = None if jvp is None else _product("jvp", jvp, point, point.shape, output_shape, args)
    transposed = None if vjp is None else _product("vjp", vjp, point, output_shape, point.shape, args)
    if times is None:
        assert transposed is not None
        return vjp_operator(transposed, m, n, transposed(np.ones(m)).dtype), ""
    dtype = times(np.ones(n)).dtype
    message = "vjp is not the transpose of jvp: v'Ju is {} by jvp and {} by vjp"
    reason = "" if transposed is None else _contradiction(times, transposed, m, n, message)
    return jvp_operator(times, m, n, dtype), reason


def _product(
    name: str, product: Any, point: Floats, given: tuple[int, ...], returned: tuple[int, ...], args: tuple[Any, ...]
) -> Callable[[Floats], Floats]:
    """A product with the Jacobian on flat vectors."""

    def on_vectors(vector: Floats) -> Floats:
        result = np.array(product(point.copy(), vector.reshape(given).copy(), *args))
        if result.shape != returned:
            raise ValueError(f"{name} returned shape {result.shape}; it must be {returned}")
        if result.dtype.kind not in "fiu":
            raise TypeError(f"{name} returned dtype {result.dtype}; it must return an array of real numbers")
        return result.reshape(-1)

    return on_vectors


def _contradiction(
    times: Callable[[Floats], Floats], transposed: Callable[[Floats], Floats], m: int, n: int, message: str
) -> str:
    """The message with both values where v^T (J u) and (v^T J) u differ for random signs u and v, or ""."""
    for pair in range(_PAIRS):
        generator = stream(pair, "transpose")
        u, v = generator.choice([-1.0, 1.0], n), generator.choice([-1.0, 1.0], m)
        ahead, behind = times(u), transposed(v)
        forward, backward = v * ahead, behind * u
        rtol = _TRANSPOSE_SHARE * max(default_rtol(ahead.dtype), default_rtol(behind.dtype))
        allowed = rtol * (np.linalg.norm(forward) + np.linalg.norm(backward))
        if not abs(forward.sum() - backward.sum()) <= allowed:
            return message.format(f"{forward.sum():.6g}", f"{backward.sum():.6g}")
    return ""


# --- which entries ---


def plan(jacobian: JacobianAtPoint, pattern: Any, columns: Columns, seed: int) -> tuple[list[Group], bool]:
    """The columns that are displaced, together where a sparsity is declared, and whether they leave nothing out."""
    if pattern is not None:
        return _shared_groups(pattern), True
    m, n = jacobian.shape
    count = n if columns == "all" else min(n, int(columns or (n if n <= _ALL_COLUMNS else _COLUMNS)))
    most = m if columns == "all" else min(m, max(1, _MOST_ENTRIES // max(1, count)))
    if jacobian.operator.times is None and columns != "all":
        most = min(most, _OUTPUTS)
    owner = np.full(m, -1, np.int64)
    owner[_drawn(m, most, stream(seed, "outputs"))] = 0
    groups = [Group(np.array([column]), owner) for column in _drawn(n, count, stream(seed, "columns")).tolist()]
    return groups, count == n and most == m


def _drawn(size: int, count: int, generator: np.random.Generator) -> Positions:
    """Sorted places: the first, the last, and others at random."""
    if count >= size:
        return np.arange(size)
    drawn = generator.permutation(np.arange(1, size - 1))
    return np.sort(np.concatenate([[0, size - 1], drawn])[:count])


def _pattern(sparsity: Any, matrix: Any, shape: tuple[int, int]) -> Any:
    """The declared sparsity as a CSC array, None where there is none."""
    if sparsity is None:
        return matrix.tocsc() if _is_sparse(matrix) else None
    from scipy.sparse import csc_array

    pattern = csc_array(sparsity)
    pattern.eliminate_zeros()
    if pattern.shape != shape:
        raise ValueError(f"sparsity has shape {pattern.shape}; it must be that of the Jacobian, {shape}")
    if matrix is not None:
        _refuse_outside(pattern, csc_array(matrix))
    return pattern


def _refuse_outside(pattern: Any, matrix: Any) -> None:
    """Raise where the Jacobian has entries that its declared sparsity excludes."""
    (rows, columns), declared = matrix.nonzero(), pattern.nonzero()
    n = pattern.shape[1]
    outside = np.setdiff1d(rows.astype(np.int64) * n + columns, declared[0].astype(np.int64) * n + declared[1])
    if outside.size:
        i, j = divmod(int(outside[0]), n)
        raise ValueError(
            f"jacobian has {outside.size} nonzero entries outside sparsity, first [{i}, {j}]; one of the two is wrong"
        )


def _shared_groups(pattern: Any) -> list[Group]:
    """Columns without a common output, displaced together."""
    from scipy.optimize._numdiff import group_columns

    numbers = group_columns(pattern)
    found = []
    for group in range(numbers.max(initial=-1) + 1):
        columns = np.flatnonzero(numbers == group)
        owner = np.full(pattern.shape[0], -1, np.int64)
        for place, column in enumerate(columns.tolist()):
            owner[pattern.indices[pattern.indptr[column] : pattern.indptr[column + 1]]] = place
        found.append(Group(columns, owner, declared=True))
    return found
