"""Derivatives in the forms that SciPy takes: arrays, sparse matrices, linear operators, rows for one output."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastgc._jacobian.check import check_jacobian
from fastgc._jacobian.report import JacobianReport


def is_operator(value: Any) -> bool:
    """Whether a value is a linear operator, of which only products are known. SciPy is not imported to find out."""
    return hasattr(value, "matvec") and not (isinstance(value, np.ndarray) or hasattr(value, "tocsr"))


def is_own(derivative: Any) -> bool:
    """Whether a derivative is a function of the caller's: no formula of SciPy's ("2-point"), no update (BFGS)."""
    return callable(derivative) and not hasattr(derivative, "initialize")


def checked_jacobian(f: Callable[..., Any], jac: Any, x: Any, **options: Any) -> JacobianReport:
    """The check of a Jacobian, or of a function that returns it; also a linear operator, or a row of n."""
    args = options.get("args", ())
    shape = np.shape(f(x.copy(), *args))
    if is_operator(jac) or not callable(jac):
        return _checked_value(f, jac, x, shape, options)
    if is_operator(jac(x.copy(), *args)):
        return _checked_products(f, jac, x, options)
    return check_jacobian(f, lambda x, *args: as_rows(jac(x, *args), shape, x.size), x, **options)


def _checked_value(f: Any, jacobian: Any, x: Any, shape: tuple[int, ...], options: dict[str, Any]) -> JacobianReport:
    if not is_operator(jacobian):
        return check_jacobian(f, as_rows(jacobian, shape, x.size), x, **options)
    return _checked_products(f, lambda x, *args: jacobian, x, options)


def _checked_products(f: Any, operator: Callable[..., Any], x: Any, options: dict[str, Any]) -> JacobianReport:
    """The check of the products of the linear operator that a function returns."""

    def jvp(x: Any, u: Any, *args: Any) -> Any:
        return operator(x, *args).matvec(u)

    def vjp(x: Any, v: Any, *args: Any) -> Any:
        return operator(x, *args).rmatvec(v)

    return check_jacobian(f, None, x, jvp=jvp, vjp=vjp, **options)


def as_rows(value: Any, shape: tuple[int, ...], size: int) -> Any:
    """A Jacobian as (m, n) where it is the row of n that SciPy takes for one output; anything else as it is."""
    if hasattr(value, "tocsr") or math.prod(shape) != 1 or np.shape(value) != (size,):
        return value
    return np.reshape(value, (1, size))


def interval(bounds: Any) -> Any:
    """Bounds as `scipy.optimize.least_squares` takes them, (lower, upper), in the form that a check takes."""
    if bounds is None or hasattr(bounds, "lb"):
        return bounds
    lower, upper = bounds
    return SimpleNamespace(lb=lower, ub=upper)
