"""The arguments of a check of a Jacobian: refused where they make no sense, else as flat arrays and operators."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastgc._arguments import brief, takes_arguments
from fastgc._derivatives.stencil import stencil_named
from fastgc._evaluation.engine import Execution, in_parallel, in_turn, is_jitted, jitted, limited_blas
from fastgc._evaluation.evaluator import WrongShapeError, WrongTypeError
from fastgc._evaluation.floating_point import at_point, callers_errstate, displaced
from fastgc._evaluation.frozen_globals import refuse_frozen_data
from fastgc._evaluation.workers_option import elsewhere, named
from fastgc._jacobian.filling import first_value, own_array
from fastgc._jacobian.function import Function, VectorFunction, one_by_one
from fastgc._jacobian.operator import (
    Matrix,
    Operator,
    Product,
    contradiction,
    jvp_operator,
    matrix_operator,
    vjp_operator,
)
from fastgc._jacobian.options import JacobianOptions
from fastgc._jacobian.pairs import UNSUPPORTED, ComplexOutputsError
from fastgc._parameters.arrays import Array, DType, Floats, as_array, returned_values, without
from fastgc._parameters.bounds import Bounds, parse_bounds
from fastgc._parameters.layout import flatten_parameters, refuse_framework
from fastgc._parameters.point import copied_point
from fastgc._words import Workers

Shape = tuple[int, ...]


# --- the point and the function ---


def real_array(x: object, dtype: type = np.float64, what: str = "x") -> Array:
    """A copy of the point in C order."""
    given = as_array(x, what)
    _refuse_unreal(f"{what} is of dtype {given.dtype}; it must be", given.dtype)
    return np.array(given, dtype, order="C")


def finite_point(x: ArrayLike) -> Floats:
    """A copy of the point, at which derivatives can exist."""
    refuse_framework(x, "x")
    point = real_array(x)
    finite = np.isfinite(point)
    if not finite.all():
        count = point.size - np.count_nonzero(finite)
        raise ValueError(f"x has {count} entries that are not finite; a derivative exists only at finite inputs")
    return point


def bounds_of(point: Floats, bounds: object) -> Bounds | None:
    """The bounds of the inputs, whose one tensor is "x"; None for none."""
    return None if bounds is None else parse_bounds(bounds, *flatten_parameters({"x": point}))


def open_function(
    f: Callable[..., object],
    point: Floats,
    args: tuple[object, ...],
    options: JacobianOptions,
    *,
    bounds: Bounds | None = None,
    deadline: float = math.inf,
) -> tuple[VectorFunction, Shape]:
    """The function at flat copies of x, and the shape of its outputs.

    Raises
    ------
    TypeError, ValueError
        If f changes x, if its outputs at x are not real or not finite, or if Numba has frozen data in a jitted f.
    """
    start = point.astype(np.complex128) if stencil_named(options.stencil).is_complex else point
    execution = _execution(f, options.engine, options.threads, options.workers)
    limits = {"seed": options.seed, "bounds": bounds, "deadline": deadline}
    return _opened(f, start, args, execution, strict=True, **limits)


def _execution(f: Callable[..., object], engine: str, threads: int | None, workers: Workers) -> Execution:
    """How f is to be run, unless it is compiled and workers are asked for."""
    if is_jitted(f) and elsewhere(workers):
        raise ValueError(f"{named(workers)} is for a plain Python f; this one is compiled: pass its py_func")
    return Execution(engine, threads, workers)


def plain_function(
    f: Callable[..., object],
    point: Array,
    args: tuple[object, ...],
    engine: str = "python",
    workers: Workers = 1,
    *,
    deadline: float = math.inf,
) -> VectorFunction:
    """The same for a function that may change its argument, and whose outputs at x need not be finite."""
    return _opened(f, point, args, _execution(f, engine, None, workers), strict=False, seed=0, deadline=deadline)[0]


def _opened(
    f: Callable[..., object],
    start: Array,
    args: tuple[object, ...],
    execution: Execution,
    *,
    strict: bool,
    **limits: Any,
) -> tuple[VectorFunction, Shape]:
    """The function, called once, and the shape of its outputs; with ``strict``, refused as `open_function` says."""
    f = jitted(f) if execution.engine == "numba" else f
    with contextlib.ExitStack() as opened:
        if is_jitted(f):
            opened.enter_context(limited_blas(execution.engine, in_parallel(f, args)))
        one, first = _first_call(f, start, args, strict)
        function: Function = one.in_turn()
        if elsewhere(execution.workers):
            function = one.in_processes(start, first.real, execution.workers)
        elif is_jitted(f):
            function = _jitted_outputs(f, one, start, first, execution, opened.pop_all())
        layout, _ = flatten_parameters({"x": start.real})
        base = first.real if strict else first
        return VectorFunction(function, layout, [start], base.reshape(-1), **limits), first.shape


def _first_call(f: Callable[..., object], start: Array, args: tuple[Any, ...], strict: bool) -> tuple[OnePoint, Array]:
    """The function of one point, and its outputs at x."""
    called, received = in_turn(f, args) if is_jitted(f) else displaced(f), start.copy()
    with callers_errstate(), takes_arguments(f, (received, *args), "f"):
        value, fills = first_value(called, received, args)
    if strict and not np.array_equal(received, start):
        raise ValueError("f changed x; it must leave its argument as it is: copy it first")
    if fills is not None:
        args = own_array(args, fills, start.dtype)
        value = OnePoint(called, args, fills, start.shape, args[fills].shape, start.dtype).value(start.copy())
    first = _outputs(value, start.dtype)
    if strict:
        _refuse_nonfinite(first)
    return OnePoint(called, args, fills, start.shape, first.shape, start.dtype), first


def _refuse_nonfinite(first: Array) -> None:
    count = first.size - np.count_nonzero(np.isfinite(first))
    if count:
        raise ValueError(
            f"f(x) has {count} of {first.size} outputs that are not finite; a Jacobian needs a point where all are"
        )


def _jitted_outputs(
    f: object, one: OnePoint, start: Array, first: Array, execution: Execution, limits: contextlib.ExitStack
) -> Function:
    """The function of several points, once it is known that Numba has frozen no data in it."""
    from fastgc._evaluation.outputs import JittedFunction, JittedOutputs

    point = copied_point(*flatten_parameters(start.real), one.args, "native", complex_step=start.dtype.kind == "c")

    def read(version: Callable[..., object], x: Array) -> Array:
        return replace(one, f=in_turn(version, one.args))(x)

    with limits:
        if np.array_equal(one(start.copy()), first.reshape(-1), equal_nan=True):  # not noisy
            refuse_frozen_data(f, point, read, "f")
        found = JittedFunction(f, point, one.output_shape, one.fills, read)
        return JittedOutputs(one.in_turn(), found, execution, limits.pop_all())


@dataclass(frozen=True)
class OnePoint:
    """The caller's function from a flat point to flat outputs.

    Attributes
    ----------
    fills : the number of the argument in ``args`` that the function fills, where it returns nothing
    """

    f: Callable[..., object]
    args: tuple[Any, ...]
    fills: int | None
    shape: Shape
    output_shape: Shape
    dtype: DType

    def __call__(self, x: Array) -> Array:
        values = _outputs(self.value(x.reshape(self.shape)), self.dtype)
        if values.shape != self.output_shape:
            raise WrongShapeError(
                f"f returned shape {values.shape} near x and {self.output_shape} at x; it must not change"
            )
        return values.reshape(-1)

    def value(self, x: Array) -> Any:
        """What f returns, or the array that it fills: another one at each call."""
        if self.fills is None:
            return self.f(x, *self.args)
        out = self.args[self.fills].copy()
        self.f(x, *self.args[: self.fills], out, *self.args[self.fills + 1 :])
        return out

    def in_turn(self) -> Function:
        """Of several points, in this process."""
        return one_by_one(self, math.prod(self.output_shape), self.dtype)

    def in_processes(self, point: Array, first: Floats, workers: Workers) -> Function:
        """Of several points, in several processes if they can be started."""
        from fastgc._jacobian.workers import shared

        return shared(self, self.f, point.reshape(-1), first.reshape(-1), workers)


def _outputs(value: object, dtype: DType) -> Array:
    """What the function returned, in the dtype of the point."""
    try:
        array = returned_values(value)
    except Exception as error:
        what = f"f returned a {type(value).__name__}"
        raise WrongTypeError(f"{what} that NumPy cannot read as an array ({brief(str(error))})") from error
    if array.dtype.kind == "c" and dtype.kind != "c":
        raise ComplexOutputsError(UNSUPPORTED)
    if array.dtype.kind not in "fiubc":
        raise WrongTypeError(
            f"f returned {value!r:.60} ({type(value).__name__}); it must return an array of real numbers"
            + (", or nothing and fill one array of args" if value is None else "")
        )
    return np.array(array, dtype)  # a copy: f may reuse its buffer


def _refuse_unreal(words: str, dtype: DType) -> None:
    if dtype.kind not in "fiu":
        raise TypeError(f"{words} an array of real numbers")


# --- the analytic Jacobian ---


def analytic_matrix(jacobian: object, output_shape: Shape, input_shape: Shape) -> Matrix:
    """The Jacobian as an array or a CSR array of shape (m, n); None if there is none."""
    if jacobian is None:
        return None
    m, n = math.prod(output_shape), math.prod(input_shape)
    matrix: Matrix = jacobian if _is_sparse(jacobian) else as_array(jacobian, "jacobian").copy()
    _refuse_unreal(f"jacobian is of dtype {matrix.dtype}; it must be", matrix.dtype)
    if matrix.shape not in ((m, n), output_shape + input_shape):
        hint = ": that is the transpose" if matrix.shape == (n, m) else ""
        raise ValueError(
            f"jacobian has shape {matrix.shape}; f(x) has shape {output_shape} and x {input_shape}: "
            f"it must be ({m}, {n}){hint}"
        )
    return matrix.tocsr() if _is_sparse(matrix) else matrix.reshape(m, n)


def _is_sparse(matrix: object) -> bool:
    return hasattr(matrix, "tocsr")  # SciPy is not imported to find out


def analytic_operator(
    matrix: Matrix, jvp: Any, vjp: Any, point: Floats, output_shape: Shape, args: tuple[object, ...]
) -> tuple[Operator, str]:
    """The analytic Jacobian, and how its two products contradict each other, or ""."""
    if (matrix is None) == (jvp is None and vjp is None):
        raise ValueError("give either jacobian or products: jvp, vjp or both (jacobian=None with these)")
    if matrix is not None:
        return matrix_operator(matrix), ""
    m, n = math.prod(output_shape), point.size
    transposed = product("vjp", vjp, point, output_shape, point.shape, args)
    if jvp is None:
        return vjp_operator(transposed, m, n, transposed(np.ones(m)).dtype), ""
    times = product("jvp", jvp, point, point.shape, output_shape, args)
    operator = jvp_operator(times, m, n, times(np.ones(n)).dtype)
    message = "vjp is not the transpose of jvp: v'Ju is {} by jvp and {} by vjp"
    return operator, "" if vjp is None else contradiction(times, transposed, operator.shape, message)


def product(
    name: str, function: Callable[..., object], point: Floats, given: Shape, returned: Shape, args: tuple[object, ...]
) -> Product:
    """A product with the Jacobian, on flat vectors."""

    def on_vectors(vector: Floats) -> Floats:
        result = as_array(
            at_point(function)(point.copy(), vector.reshape(given).copy(), *args), f"the result of {name}"
        ).copy()
        if result.shape != returned:
            raise ValueError(f"{name} returned shape {result.shape}; it must be {returned}")
        _refuse_unreal(f"{name} returned dtype {result.dtype}; it must return", result.dtype)
        return result.reshape(-1)

    return on_vectors


# --- the declared sparsity ---


def declared_pattern(sparsity: Matrix, matrix: Matrix, shape: tuple[int, int]) -> Matrix:
    """The declared sparsity as a CSC array, None where there is none."""
    if sparsity is None:
        return matrix.tocsc() if _is_sparse(matrix) else None
    from scipy.sparse import csc_array

    given = sparsity if _is_sparse(sparsity) else as_array(sparsity, "sparsity")
    if given.shape != shape:
        raise ValueError(f"sparsity has shape {given.shape}; it must be that of the Jacobian, {shape}")
    pattern = csc_array(given)
    pattern.eliminate_zeros()
    if matrix is not None:
        _refuse_outside(pattern, csc_array(matrix))
    return pattern


def _refuse_outside(pattern: Matrix, matrix: Matrix) -> None:
    """Refuse a Jacobian with entries that its declared sparsity excludes."""
    (rows, columns), declared = matrix.nonzero(), pattern.nonzero()
    n = pattern.shape[1]
    outside = without(rows.astype(np.int64) * n + columns, declared[0].astype(np.int64) * n + declared[1])
    if outside.size:
        i, j = divmod(int(outside[0]), n)
        raise ValueError(
            f"jacobian has {outside.size} nonzero entries outside sparsity, first [{i}, {j}]; one of the two is wrong"
        )
