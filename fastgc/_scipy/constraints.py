"""The constraints of a problem: dicts of SLSQP, and SciPy's objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fastgc._arguments import brief
from fastgc._jacobian.hessian import check_hessian
from fastgc._jacobian.report import JacobianReport
from fastgc._parameters.arrays import Array, Floats
from fastgc._parameters.streams import stream
from fastgc._scipy.derivatives import as_rows, checked_jacobian, is_operator, is_own

Check = Callable[..., JacobianReport]  # with the options of the check


def listed_constraints(constraints: Any) -> list[Any]:
    """The constraints, one or several of them, as a list."""
    single = isinstance(constraints, Mapping) or hasattr(constraints, "fun") or hasattr(constraints, "A")
    if not (single or isinstance(constraints, Iterable)):
        raise TypeError(f"constraints is {brief(repr(constraints))}; it must be a constraint, or a sequence of them")
    return [constraints] if single else list(constraints)


def constraint_checks(constraints: Any, x: Floats, seed: int) -> Iterator[tuple[str, Check | str]]:
    """For each derivative of the constraints its name, and its check, or why there is none.

    Raises
    ------
    TypeError, ValueError
        For a constraint of another kind, and for a linear one of another number of variables.
    """
    for number, each in enumerate(listed_constraints(constraints)):
        name = f"constraints[{number}]"
        if isinstance(each, Mapping):
            yield name, _of_dict(name, each, x)
        elif hasattr(each, "A"):
            yield name, _linear(name, each.A, x)
        elif hasattr(each, "fun"):
            yield from _nonlinear(name, each, x, stream(seed, "multipliers", number))
        else:
            raise TypeError(
                f"{name} is a {type(each).__name__}; it must be a dict with 'fun' and 'jac', a NonlinearConstraint "
                "or a LinearConstraint"
            )


def _of_dict(name: str, constraint: Mapping[str, Any], x: Floats) -> Check | str:
    if not callable(constraint.get("fun")):
        raise TypeError(f"{name}['fun'] is {constraint.get('fun')!r}; it must be a function")
    jac = constraint.get("jac")
    if not is_own(jac):
        return f"jac is {jac!r}: no derivative of yours to check"
    args = tuple(constraint.get("args", ()))
    return lambda **options: checked_jacobian(constraint["fun"], jac, x, args=args, **options)


def _linear(name: str, matrix: Any, x: Floats) -> str:
    shape = matrix.shape if hasattr(matrix, "tocsr") else np.atleast_2d(matrix).shape
    if shape[-1] != x.size:
        raise ValueError(f"{name}.A has shape {shape}; x0 has {x.size} variables: A must have as many columns")
    return "linear: A is its Jacobian"


def _nonlinear(name: str, constraint: Any, x: Floats, rng: np.random.Generator) -> Iterator[tuple[str, Check | str]]:
    f, jac, hess = constraint.fun, constraint.jac, constraint.hess
    if not is_own(jac):
        yield name, f"jac is {jac!r}: no derivative of yours to check"
    else:
        yield name, lambda **options: checked_jacobian(f, jac, x, **options)
    if is_own(hess):
        yield f"{name}.hess", _hessian(f, jac, hess, x, rng) if is_own(jac) else "hess needs jac as a function"


def _hessian(f: Any, jac: Any, hess: Any, x: Floats, rng: np.random.Generator) -> Check:
    """The check of ``hess(x, v)``, the Hessian of ``v @ f(x)``, for random multipliers v: it is linear in them."""
    shape = np.shape(f(x.copy()))
    multipliers = rng.uniform(1, 2, size=max(1, int(np.prod(shape)))) * rng.choice([-1, 1])

    def gradient(x: Array) -> Any:
        matrix = jac(x)
        if is_operator(matrix):
            return matrix.rmatvec(multipliers)
        return np.asarray(as_rows(matrix, shape, x.size).T @ multipliers).reshape(x.shape)

    return lambda **options: checked_hessian(None, gradient, lambda x: hess(x, multipliers), x, **options)


def checked_hessian(f: Any, gradient: Any, hess: Any, x: Floats, **options: Any) -> JacobianReport:
    """The check of a Hessian function, whose values may be linear operators."""
    if not is_operator(hess(x.copy(), *options.get("args", ()))):
        return check_hessian(f, gradient, hess, x, **options)
    return check_hessian(f, gradient, None, x, hvp=lambda x, u, *args: hess(x, *args).matvec(u), **options)
