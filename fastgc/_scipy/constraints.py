"""The constraints of a problem: dicts of SLSQP, and SciPy's objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol, TypeGuard, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fastgc._arguments import brief
from fastgc._jacobian.hessian import check_hessian
from fastgc._jacobian.report import JacobianReport
from fastgc._parameters.arrays import Array, Floats
from fastgc._parameters.streams import stream
from fastgc._scipy.derivatives import CheckOptions, as_rows, called, checked_jacobian, is_operator, is_own

Check = Callable[..., JacobianReport]  # with the options of the check
Function = Callable[..., object]


class NonlinearConstraint(Protocol):
    """As SciPy's class of this name."""

    fun: Callable[..., object]
    jac: object
    hess: object


def is_nonlinear(constraint: object) -> TypeGuard[NonlinearConstraint]:
    """Whether a constraint has SciPy's attributes of nonlinear ones."""
    return hasattr(constraint, "fun")


def listed_constraints(constraints: object) -> list[object]:
    """The constraints, one or several of them, as a list."""
    single = isinstance(constraints, Mapping) or hasattr(constraints, "fun") or hasattr(constraints, "A")
    if single:
        return [constraints]
    if not isinstance(constraints, Iterable):
        raise TypeError(f"constraints is {brief(repr(constraints))}; it must be a constraint, or a sequence of them")
    return list(constraints)


def constraint_checks(constraints: object, x: Floats, seed: int) -> list[tuple[str, Check | str]]:
    """For each derivative of the constraints its name, and its check, or why there is none.

    This calls the caller's functions. A generator would turn a StopIteration of theirs into a RuntimeError.

    Raises
    ------
    TypeError, ValueError
        For a constraint of another kind, and for a linear one of another number of variables.
    """
    found: list[tuple[str, Check | str]] = []
    for number, each in enumerate(listed_constraints(constraints)):
        name = f"constraints[{number}]"
        if isinstance(each, Mapping):
            found.append((name, _of_dict(name, each, x)))
        elif hasattr(each, "A"):
            found.append((name, _linear(name, each.A, x)))
        elif is_nonlinear(each):
            found += _nonlinear(name, each, x, stream(seed, "multipliers", number))
        else:
            raise TypeError(
                f"{name} is a {type(each).__name__}; it must be a dict with 'fun' and 'jac', a NonlinearConstraint "
                "or a LinearConstraint"
            )
    return found


def _of_dict(name: str, constraint: Mapping[str, object], x: Floats) -> Check | str:
    fun, jac = constraint.get("fun"), constraint.get("jac")
    if not callable(fun):
        raise TypeError(f"{name}['fun'] is {fun!r}; it must be a function")
    if not is_own(jac):
        return f"jac is {jac!r}: no derivative of yours to check"
    given = constraint.get("args", ())
    args = tuple(given) if isinstance(given, Iterable) else (given,)
    return lambda **options: checked_jacobian(fun, jac, x, args=args, **options)


def _linear(name: str, matrix: ArrayLike, x: Floats) -> str:
    shape = np.shape(matrix) or (1,)  # of a sparse matrix, too
    if shape[-1] != x.size:
        raise ValueError(f"{name}.A has shape {shape}; x0 has {x.size} variables: A must have as many columns")
    return "linear: A is its Jacobian"


def _nonlinear(
    name: str, constraint: NonlinearConstraint, x: Floats, rng: np.random.Generator
) -> list[tuple[str, Check | str]]:
    f, jac, hess = constraint.fun, constraint.jac, constraint.hess
    name_of_hess, needed = f"{name}.hess", "hess needs jac as a function"
    if not is_own(jac):
        first = name, f"jac is {jac!r}: no derivative of yours to check"
        return [first, (name_of_hess, needed)] if is_own(hess) else [first]
    second = [(name_of_hess, _hessian(f, jac, hess, x, rng))] if is_own(hess) else []
    return [(name, partial(checked_jacobian, f, jac, x)), *second]


def _hessian(f: Function, jac: Function, hess: Function, x: Floats, rng: np.random.Generator) -> Check:
    """The check of ``hess(x, v)``, the Hessian of ``v @ f(x)``, for random multipliers v: it is linear in them."""
    shape = np.asarray(called(f, x)).shape
    multipliers = rng.uniform(1, 2, size=max(1, int(np.prod(shape)))) * rng.choice([-1, 1])

    def gradient(x: Array) -> object:
        matrix = jac(x)
        if is_operator(matrix):
            return matrix.rmatvec(multipliers)
        rows = as_rows(matrix, shape, x.size)
        rows = rows.tocsr() if hasattr(rows, "tocsr") else np.asarray(rows)
        return np.asarray(rows.T @ multipliers).reshape(x.shape)

    return lambda **options: checked_hessian(gradient, lambda x: hess(x, multipliers), x, **options)


def checked_hessian(
    gradient: Function, hess: Function, x: Floats, args: tuple[object, ...] = (), **options: Unpack[CheckOptions]
) -> JacobianReport:
    """The check of a Hessian function, whose values may be linear operators, against differences of the gradient."""

    def product(x: Array, u: Array, *args: object) -> object:
        found = hess(x, *args)
        assert is_operator(found)  # as at the point
        return found.matvec(u)

    if not is_operator(called(hess, x, *args)):
        return check_hessian(None, gradient, hess, x, args=args, **options)
    return check_hessian(None, gradient, None, x, hvp=product, args=args, **options)
