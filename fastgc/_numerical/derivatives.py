"""The classic tools: numerical gradients and Jacobians, and the check of a flat vector by one relative error."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgc._arguments import flags, number, one_of, refuse_uncallable
from fastgc._derivatives.first_quotients import plain_quotients
from fastgc._derivatives.loss_at_point import responsive_loss, unmeasured_loss
from fastgc._derivatives.stencil import stencil_named
from fastgc._evaluation.engine import Execution, open_evaluator
from fastgc._evaluation.floating_point import at_point, own_errstate
from fastgc._evaluation.workers_option import elsewhere, named, refuse_workers
from fastgc._gradient.options import refuse_args
from fastgc._jacobian.inputs import plain_function, real_array
from fastgc._parameters.layout import flatten_parameters
from fastgc._parameters.point import callers_point, copied_point
from fastgc._progress import ENTRIES, Progress
from fastgc._words import Engine, StencilName, Workers

_Arrays = TypeVar("_Arrays", list[NDArray[Any]], tuple[NDArray[Any], ...])
_CLASSIC_FLOOR = 1e-8  # added to the denominator of the classic relative error, so that two zeros agree


@overload
def numerical_gradient(
    f: Callable[..., object],
    x: dict[str, Any],
    h: float | None = None,
    *,
    args: tuple[object, ...] = (),
    step: float | None = None,
    stencil: StencilName = "central",
    in_place: bool = False,
    engine: Engine = "auto",
    workers: Workers = 1,
    progress: bool = False,
) -> dict[str, Any]: ...
@overload
def numerical_gradient(
    f: Callable[..., object],
    x: _Arrays,
    h: float | None = None,
    *,
    args: tuple[object, ...] = (),
    step: float | None = None,
    stencil: StencilName = "central",
    in_place: bool = False,
    engine: Engine = "auto",
    workers: Workers = 1,
    progress: bool = False,
) -> _Arrays: ...
@overload
def numerical_gradient(
    f: Callable[..., object],
    x: ArrayLike,
    h: float | None = None,
    *,
    args: tuple[object, ...] = (),
    step: float | None = None,
    stencil: StencilName = "central",
    in_place: bool = False,
    engine: Engine = "auto",
    workers: Workers = 1,
    progress: bool = False,
) -> NDArray[np.float64]: ...
@own_errstate()
def numerical_gradient(
    f: Callable[..., object],
    x: object,
    h: float | None = None,
    *,
    args: tuple[object, ...] = (),
    step: float | None = None,
    stencil: StencilName = "central",
    in_place: bool = False,
    engine: Engine = "auto",
    workers: Workers = 1,
    progress: bool = False,
) -> object:
    """The gradient of a scalar function by finite differences, entry by entry.

    Parameters
    ----------
    f : callable
        ``f(x, *args)`` returns one real number.
    args : tuple
        Extra positional arguments of f.
    x : array_like, or dict, list or tuple of arrays
        The point, of any shape. Numbers and lists of numbers become float64 arrays.
    h, step : float, optional
        The step (two names for one argument): absolute, and the nominal divisor of the quotient. By default a step is
        chosen for each entry from its scale, and the quotient is divided by the step actually taken.
    stencil : {"central", "forward", "backward", "five_point", "complex_step"}
    in_place : bool
        Displace ``x`` itself, in its own dtype (restored to the bit), for a function that reads it from elsewhere.
    engine : {"auto", "numba", "python"}
        As in `check_gradients`.
    workers : int, Executor, or function like map
        What evaluates a plain f, as in `check_gradients`.
    progress : bool
        Show a tqdm progress bar.

    Returns
    -------
    float64 array of the shape of x, or the structure of x with such arrays

    Raises
    ------
    TypeError, ValueError
        For parameters or a function that `check_gradients` would refuse. An exception of f at x passes through, and so
        does one that f raises at every displaced point; where it raises at some, the quotient is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> fastgc.numerical_gradient(lambda x: x @ x, [1.0, 2.0]).round(6)
    array([2., 4.])
    >>> fastgc.numerical_gradient(lambda p: p["a"] @ p["b"], {"a": np.ones(2), "b": np.arange(2.0)})["a"].round(6)
    array([0., 1.])
    >>> float(fastgc.numerical_gradient(np.exp, 0.0, stencil="complex_step"))
    1.0
    """
    formula, absolute = stencil_named(stencil), _one_step(h, step)
    _refuse_unusable(f, args, engine)
    flags(in_place=in_place, progress=progress)
    _refuse_conflicts(engine, workers, in_place)
    params = x if in_place or isinstance(x, (dict, np.ndarray)) or _holds_arrays(x) else real_array(x)
    layout, leaves = flatten_parameters(params)
    if in_place:
        point = callers_point(layout, leaves, args)
    else:
        point = copied_point(layout, leaves, args, "double", complex_step=formula.is_complex)
    expected = layout.size * len(formula.offsets)
    evaluator, first = open_evaluator(
        f, point, Execution(engine, workers=workers), expected=expected, with_gradients=False
    )
    with contextlib.closing(evaluator), Progress(layout.size, shown=progress) as bar:
        loss = unmeasured_loss(evaluator, layout, point.leaves, float(np.real(first.value)))
        if absolute is None and not formula.is_complex:
            loss = responsive_loss(loss, range(len(layout.sizes)))
        bar.phase(ENTRIES)
        gradient = plain_quotients(loss, np.arange(layout.size), formula, absolute, bar.advance)
    evaluator.raised.pass_on()
    starts = layout.starts
    return layout.rebuild([gradient[starts[t] : starts[t + 1]].reshape(shape) for t, shape in enumerate(layout.shapes)])


def _refuse_unusable(f: object, args: object, engine: object) -> None:
    """Raise for a function that cannot be called, for args that are no tuple, and for an engine that is not known."""
    refuse_uncallable("f", f)
    refuse_args(args)
    one_of("engine", engine, get_args(Engine))


def _refuse_conflicts(engine: str, workers: Workers, in_place: bool = False) -> None:
    """Raise for workers that do not exist, and for options that do not go together."""
    refuse_workers(workers)
    if in_place and engine == "numba":
        raise ValueError('in_place=True displaces the caller\'s arrays from Python: it cannot go with engine="numba"')
    if elsewhere(workers) and in_place:
        raise ValueError(f"{named(workers)} works on copies of the parameters: it cannot go with in_place=True")
    if elsewhere(workers) and engine == "numba":
        raise ValueError(f'{named(workers)} calls f from Python: it cannot go with engine="numba", which has threads')


def _one_step(h: float | None, step: float | None) -> float | None:
    if h is not None and step is not None:
        raise ValueError(f"h={h!r} and step={step!r} are two names for one argument; give one of them")
    number("h", h, positive=True)
    number("step", step, positive=True)
    return step if h is None else h


def _holds_arrays(x: object) -> bool:
    return isinstance(x, (list, tuple)) and any(isinstance(each, (np.ndarray, dict)) for each in x)


@own_errstate()
def numerical_jacobian(
    f: Callable[..., object],
    x: ArrayLike,
    h: float | None = None,
    *,
    args: tuple[object, ...] = (),
    step: float | None = None,
    stencil: StencilName = "central",
    engine: Engine = "auto",
    workers: Workers = 1,
) -> NDArray[np.float64]:
    """The Jacobian of a function of several outputs by finite differences.

    Parameters
    ----------
    f : callable
        ``f(x, *args)`` returns an array_like of m real numbers, of any shape, or fills one array of args and returns
        nothing, as in `check_jacobian`.
    args : tuple
        Extra positional arguments of f.
    x : array_like
        The point, n real numbers, of any shape; f receives a float64 copy.
    h, step, stencil, engine, workers
        As in `numerical_gradient`.

    Returns
    -------
    float64 array, shape (m, n)
        Outputs and inputs each in C order.

    Raises
    ------
    TypeError, ValueError
        For x or outputs that are not real, outputs whose shape changes, or a step or stencil that makes no sense.
        Exceptions of f are taken as in `numerical_gradient`.

    Examples
    --------
    >>> import fastgc
    >>> fastgc.numerical_jacobian(lambda x: [x[0] * x[1], x[0] + x[1], x[1]], [2.0, 3.0]).round(6)
    array([[3., 2.],
           [1., 1.],
           [0., 1.]])
    """
    formula, absolute = stencil_named(stencil), _one_step(h, step)
    _refuse_unusable(f, args, engine)
    _refuse_conflicts(engine, workers)
    point = real_array(x, np.complex128 if formula.is_complex else np.float64)
    function = plain_function(f, point, args, engine, workers)
    with contextlib.closing(function):
        function.expect(function.point.size * len(formula.offsets))
        jacobian = function.quotients(formula, absolute)
    function.raised.pass_on()
    return jacobian


class ClassicCheck(TypedDict):
    """What `gradient_check` returns."""

    analytical_gradient: NDArray[np.float64]
    numerical_gradient: NDArray[np.float64]
    absolute_difference: NDArray[np.float64]
    relative_error: float
    passed: bool


@own_errstate()
def gradient_check(
    f: Callable[..., object], grad: Callable[..., object], params: ArrayLike, h: float = 1e-7, tolerance: float = 1e-5
) -> ClassicCheck:
    """The classic check of a flat vector: one relative error against a fixed tolerance.

    Parameters
    ----------
    f, grad : callable
        ``f(params)`` returns a real number, ``grad(params)`` an array of the shape of params.
    params : array_like
        The point, real numbers of any shape.
    h : float
        Step of the central difference ``(f(x + h) - f(x - h)) / 2h``.
    tolerance : float
        Limit of the relative error ``||a - n|| / (||a|| + ||n|| + 1e-8)``.

    Returns
    -------
    dict
        ``analytical_gradient``, ``numerical_gradient``, ``absolute_difference`` (arrays of the shape of params),
        ``relative_error`` (float) and ``passed`` (bool; false for NaN).

    Raises
    ------
    ValueError
        If the gradient's shape is not that of params.

    Examples
    --------
    >>> import fastgc
    >>> result = fastgc.gradient_check(lambda x: x @ x, lambda x: 2 * x, [1.0, 2.0])
    >>> result["passed"], result["relative_error"] < 1e-7
    (True, True)
    >>> fastgc.gradient_check(lambda x: x @ x, lambda x: x, [1.0, 2.0])["absolute_difference"].round(6)
    array([1., 2.])
    """
    refuse_uncallable("f", f)
    refuse_uncallable("grad", grad)
    point = real_array(params, what="params")
    analytic = real_array(at_point(grad)(point.copy()), what="the result of grad")
    if analytic.shape != point.shape:
        raise ValueError(f"grad returned shape {analytic.shape}; params has shape {point.shape}")
    numerical = numerical_gradient(f, point, h)
    error = _classic_error(analytic, numerical)
    with np.errstate(over="ignore", invalid="ignore"):
        difference = np.abs(analytic - numerical)
    return {
        "analytical_gradient": analytic,
        "numerical_gradient": numerical,
        "absolute_difference": difference,
        "relative_error": error,
        "passed": error < tolerance,
    }


def _classic_error(analytic: NDArray[np.float64], numerical: NDArray[np.float64]) -> float:
    """``||a - n|| / (||a|| + ||n|| + 1e-8)``, in units in which no square overflows; NaN for what is not finite."""
    largest = max(float(np.abs(each).max(initial=0.0)) for each in (analytic, numerical))
    unit = 2.0 ** min(1023, math.frexp(largest)[1]) if 1 < largest < math.inf else 1.0  # exact
    first, second = analytic / unit, numerical / unit
    norms = np.linalg.norm(first) + np.linalg.norm(second) + _CLASSIC_FLOOR / unit
    with np.errstate(invalid="ignore"):  # infinite gradients give nan, which does not pass
        return float(np.linalg.norm(first - second) / norms)
