"""Derivatives in the forms that SciPy takes: arrays, sparse matrices, linear operators, rows for one output."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol, TypedDict, TypeGuard, TypeVar, Unpack

import numpy as np

from fastgc._jacobian.check import check_jacobian
from fastgc._jacobian.report import JacobianReport
from fastgc._parameters.arrays import Array

Value = TypeVar("Value")


class LinearOperator(Protocol):
    """A matrix of which only products are known, as SciPy's class of this name."""

    def matvec(self, vector: Array, /) -> object:
        """The product with a vector."""

    def rmatvec(self, vector: Array, /) -> object:
        """The product of the adjoint with a vector."""


class CheckOptions(TypedDict, total=False):
    """Arguments that the checks of gradients, Jacobians and Hessians share."""

    rtol: float | None
    time_budget: float | None
    seed: int
    bounds: object


def is_operator(value: object) -> TypeGuard[LinearOperator]:
    """Whether a value is a linear operator, of which only products are known. SciPy is not imported to find out."""
    return hasattr(value, "matvec") and not (isinstance(value, np.ndarray) or hasattr(value, "tocsr"))


def is_own(derivative: object) -> TypeGuard[Callable[..., object]]:
    """Whether a derivative is a function of the caller's: no formula of SciPy's ("2-point"), no update (BFGS)."""
    return callable(derivative) and not hasattr(derivative, "initialize")


def called(function: Callable[..., Value], x: Array, *args: object) -> Value:
    """What one of the caller's functions returns at a copy of the point. What it sets of errstate lasts no longer."""
    with np.errstate():
        return function(x.copy(), *args)


def checked_jacobian(
    f: Callable[..., object], jac: object, x: Array, args: tuple[object, ...] = (), **options: Unpack[CheckOptions]
) -> JacobianReport:
    """The check of a Jacobian, or of a function that returns it; also a linear operator, or a row of n."""
    shape = np.asarray(called(f, x, *args)).shape
    if is_operator(jac):
        return _checked_products(f, lambda x, *args: jac, x, args, options)
    if not callable(jac):
        return check_jacobian(f, as_rows(jac, shape, x.size), x, args=args, **options)
    if is_operator(called(jac, x, *args)):
        return _checked_products(f, jac, x, args, options)
    return check_jacobian(f, lambda x, *args: as_rows(jac(x, *args), shape, x.size), x, args=args, **options)


def _checked_products(
    f: Callable[..., object],
    operator: Callable[..., LinearOperator],
    x: Array,
    args: tuple[object, ...],
    options: CheckOptions,
) -> JacobianReport:
    """The check of the products of the linear operator that a function returns."""

    def jvp(x: Array, u: Array, *args: object) -> object:
        return operator(x, *args).matvec(u)

    def vjp(x: Array, v: Array, *args: object) -> object:
        return operator(x, *args).rmatvec(v)

    return check_jacobian(f, None, x, jvp=jvp, vjp=vjp, args=args, **options)


def as_rows(value: object, shape: tuple[int, ...], size: int) -> object:
    """A Jacobian as (m, n) where it is the row of n that SciPy takes for one output; anything else as it is."""
    if hasattr(value, "tocsr") or math.prod(shape) != 1:
        return value
    row = np.asarray(value)
    return row.reshape(1, size) if row.shape == (size,) else value


def dimensions(value: Any) -> int:
    """The number of dimensions of an array, of a sparse matrix or of lists."""
    return int(getattr(value, "ndim", np.ndim(value)))


def interval(bounds: Any) -> object:
    """Bounds as `scipy.optimize.least_squares` takes them, (lower, upper), in the form that a check takes."""
    if bounds is None or hasattr(bounds, "lb"):
        return bounds
    lower, upper = bounds
    return SimpleNamespace(lb=lower, ub=upper)
