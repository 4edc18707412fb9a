"""Complex inputs and outputs as pairs of real numbers, in a last axis of 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from fastgc._derivatives.stencil import stencil_named
from fastgc._evaluation.engine import jitted, readable_compilation
from fastgc._evaluation.evaluator import WrongTypeError
from fastgc._jacobian.operator import Matrix
from fastgc._jacobian.options import JacobianOptions
from fastgc._parameters.arrays import Array, Floats

NOTE = (
    "complex numbers as pairs: the last index of an output or an input is 0 for the real and 1 for the imaginary part"
)
UNSUPPORTED = "f returned complex outputs: not supported; return the real and the imaginary parts as outputs"
Shape = tuple[int, ...]


class ComplexOutputsError(WrongTypeError):
    """The outputs are complex, and the inputs are real."""


def is_complex(x: ArrayLike) -> bool:
    """Whether an array_like holds complex numbers."""
    return bool(np.iscomplexobj(x))


def in_pairs(
    f: Callable[..., object], jacobian: object, x: ArrayLike, args: tuple[object, ...], options: JacobianOptions
) -> tuple[Callable[..., object], Floats | Callable[..., Floats], Floats, JacobianOptions]:
    """The same function, Jacobian and point in real numbers, and options for a plain function.

    Raises
    ------
    TypeError, ValueError
        For a Jacobian that is neither complex nor in pairs, and for options that complex numbers do not go with.
    """
    _refuse(options, is_complex(x))
    f = jitted(f) if options.engine == "numba" else f
    like = np.asarray(x)
    with readable_compilation("f"):
        value = np.asarray(f(like.copy(), *args))

    def in_reals(x: Array, *args: object) -> Floats:
        return reals(np.asarray(f(complexes(x, like), *args)))

    def matrix(x: Array, *args: object) -> Floats:
        given = jacobian(complexes(x, like), *args) if callable(jacobian) else jacobian
        return matrix_in_pairs(given, value, like)

    found = matrix if callable(jacobian) else matrix(reals(like))
    return in_reals, found, reals(like), replace(options, engine="python")


def _refuse(options: JacobianOptions, inputs: bool) -> None:
    if stencil_named(options.stencil).is_complex:
        raise ValueError('stencil="complex_step" is for a function of real numbers; x or f(x) is complex')
    if inputs and options.bounds is not None:
        raise ValueError("bounds are given, and x is complex: complex numbers have no order; leave bounds out")


def reals(values: Array) -> Floats:
    """Complex numbers as pairs, real ones as they are."""
    if values.dtype.kind != "c":
        return np.array(values, np.float64)
    return np.stack([values.real, values.imag], axis=-1).astype(np.float64)


def complexes(values: Array, like: Array) -> Array:
    """The way back: a new array of the kind of ``like``."""
    return np.array(values) if like.dtype.kind != "c" else np.asarray(values[..., 0] + 1j * values[..., 1])


def matrix_in_pairs(jacobian: Matrix, value: Array, x: Array) -> Floats:
    """The Jacobian with respect to real and imaginary parts.

    A complex one, of shape (m, n), is the derivative df/dx; of complex x that of an analytic function, whose parts
    follow the equations of Cauchy and Riemann: multiplication by a + ib has the matrix ((a, -b), (b, a)).
    """
    given = np.asarray(jacobian.toarray() if hasattr(jacobian, "tocsr") else jacobian)
    outputs, inputs = _shape(value), _shape(x)
    if given.dtype.kind in "fiu" and given.shape == outputs + inputs:
        return np.asarray(given, np.float64)
    if given.dtype.kind != "c" or given.size != value.size * x.size or value.dtype.kind != "c":
        raise WrongTypeError(_message(given, value, x, outputs + inputs))
    pairs = given.reshape(value.size, 1, x.size, 1)
    real, imaginary = pairs.real, pairs.imag
    columns = [np.concatenate([real, imaginary], axis=1)]
    if x.dtype.kind == "c":
        columns.append(np.concatenate([-imaginary, real], axis=1))
    return np.concatenate(columns, axis=3).reshape(outputs + inputs)


def _shape(values: Array) -> Shape:
    return (*values.shape, 2) if values.dtype.kind == "c" else values.shape


def _message(jacobian: Array, value: Array, x: Array, pairs: Shape) -> str:
    """What is complex, what the Jacobian is, and what it may be."""
    either = f"complex and of shape ({value.size}, {x.size}), or " if value.dtype.kind == "c" else ""
    remedy = (
        f"or give jacobian {either}real and of shape {pairs}, with real and imaginary parts along the axes of 2; "
        f"it is of dtype {jacobian.dtype} and shape {jacobian.shape}"
    )
    if x.dtype.kind == "c":
        return f"x is of dtype {x.dtype}; it must be an array of real numbers, {remedy}"
    return f"{UNSUPPORTED}, {remedy}"
