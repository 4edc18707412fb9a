"""The check of a gradient: validate, estimate, compare, explain, report."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.stencil import stencil_named
from fastgc._diagnosis.earlier import EarlierMeasurements, Measure, earlier_leaves, gradient_elsewhere
from fastgc._evaluation.engine import (
    FirstCall,
    NotFiniteError,
    in_turn,
    is_jitted,
    open_evaluator,
    readable_compilation,
)
from fastgc._evaluation.evaluator import Evaluator, OutOfTime, WrongValueError, described
from fastgc._evaluation.python import PythonEvaluator
from fastgc._gradient.examine import Scope, Start, examine
from fastgc._gradient.options import validate
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import ParameterLayout, flatten_parameters
from fastgc._parameters.matching import match_gradients
from fastgc._parameters.point import Point, callers_point, copied_point, moved, refuse_changed, replaced
from fastgc._parameters.sampling import DEFAULT_SAMPLES, sample_counts, selected
from fastgc._progress import Progress
from fastgc._public import public
from fastgc._reports.gradient import GradientReport
from fastgc._reports.summary import PointResult, Tries, summarise
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.judgement import UNDECIDED, Judgement
from fastgc._words import Engine, Precision, Samples, StencilName

if TYPE_CHECKING:
    from fastgc._diagnosis.measured_tensor import MeasuredTensor

_REACHES = [2.0**-k for k in range(8)]  # of the random points, in mean magnitudes of each tensor


@public
class GradientMismatch(AssertionError):
    """A gradient did not pass; ``report`` holds the `GradientReport`."""

    def __init__(self, report: GradientReport) -> None:
        super().__init__(str(report))
        self.report = report


@dataclass(frozen=True)
class _Request:
    """The arguments of one check, validated."""

    loss: Callable[..., Any]
    gradients: Any
    args: tuple[Any, ...]
    scope: Scope
    precision: str
    engine: str
    threads: int | None
    workers: int
    vectorized: bool
    in_place: bool
    previous: Sequence[Array] | None


def check_gradients(
    loss: Callable[..., Any],
    gradients: Any,
    params: Any,
    *,
    args: tuple[Any, ...] = (),
    tensors: str | Sequence[str] | None = None,
    samples: Samples = DEFAULT_SAMPLES,
    probes: int = 3,
    stencil: StencilName = "central",
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    precision: Precision = "double",
    engine: Engine = "auto",
    threads: int | None = None,
    workers: int = 1,
    vectorized: bool = False,
    points: int = 1,
    in_place: bool = False,
    crosscheck: bool = True,
    time_budget: float | None = None,
    seed: int = 0,
    progress: bool = False,
    previous: Any = None,
) -> GradientReport:
    """Check an analytic gradient against numerical derivatives, entry by entry, each with its uncertainty.

    Parameters
    ----------
    loss : callable
        ``loss(params, *args)`` returns one real number. A plain function receives the structure of ``params``; one
        compiled by ``numba.njit`` receives ``fastgc.record(params)`` and is run in compiled, parallel loops.
    gradients : callable, structure of arrays, or True
        ``gradients(params, *args)`` returns the structure of ``params`` (a compiled one also a tuple of arrays in the
        order of params); or that structure itself; or True: the loss returns ``(value, gradients)``.
    params : dict of arrays (may be nested), list or tuple of arrays, or one array
        Of float16, float32 or float64, of any shape. They are left as they are, to the bit.
    args : tuple
        Extra positional arguments of both functions.
    tensors : str or sequence of str, optional
        Names or patterns (``*`` and ``?``) of the tensors to check; nested keys are joined by ".".
    samples : int, "all", or mapping of name or pattern to these
        Entries checked one by one in every tensor: the first and the last, the largest, exact zeros, the rest at
        random. Where the default of 32 would take more than 2,000 evaluations it falls, to 2 at the least.
    probes : int
        Random-sign directions in every tensor that is not checked entry by entry as a whole; they cover all its entries
        and lead to the wrong ones. An error above the limits that the report states is missed with probability
        ``2**-probes`` at most.
    stencil : {"central", "forward", "backward", "five_point", "complex_step"}
        The difference formula of the first look; entries in doubt are settled by central differences at many steps.
    step : float, optional
        An absolute step; by default one is chosen for each entry from its scale and the loss's noise.
    rtol, atol : float, optional
        An entry agrees where ``|a - n| <= atol + rtol * max(|a|, |n|)``, beyond its uncertainty. By default rtol is
        1e-5 for a float64 gradient, 1e-3 for float32 and 1e-2 for float16, and atol is 1e-3 * rtol times the root mean
        square of the tensor's numerical entries.
    precision : {"double", "native"}
        Evaluate at float64 copies of params and of floating arrays in args, or at copies in their own dtypes.
    engine : {"auto", "numba", "python"}
        "auto" runs a jitted loss in compiled loops where that pays for their compilation; "numba" compiles a plain
        loss; "python" calls the loss from Python.
    threads : int, optional
        Threads of the compiled loops; by default Numba's own setting. Results do not depend on it. There is one where
        the loss may write to what args hold: an array that it was seen to change, a jitclass, a typed list or dict.
    workers : int
        Processes that evaluate a plain Python loss, for one that takes a millisecond or more; -1: one for each core.
        The loss, what it refers to and args are pickled once; arrays are shared by memory map. BLAS runs in one thread
        in each; results do not depend on how many there are. Needs ``python -m pip install "joblib>=1.5"
        "cloudpickle>=3.0"``.
    vectorized : bool
        The loss takes parameters with a leading batch axis in every array and returns one value for each, shape
        ``(batch,)``; it is called with blocks of displaced parameters. ``gradients`` receives the plain parameters.
    points : int
        Check at params and at ``points - 1`` random points around them; needs callable gradients.
    in_place : bool
        Displace the caller's own arrays (restored to the bit), for a loss that reads them from elsewhere.
    crosscheck : bool
        Also show ``scipy.optimize.check_grad`` for at most 32 of the entries.
    time_budget : float, optional
        Seconds after which the check ends with what it has. A few entries of all tensors come first, and then more of
        each; what was not reached is undecided.
    seed : int
        Of the sampled entries and the random points.
    progress : bool
        Show a tqdm progress bar.
    previous : same structure as params, optional
        Copies of the parameters of an earlier moment, of the same shapes and dtypes. Where a tensor fails, its analytic
        gradient is also compared with the numerical one there, with at most 64 further evaluations: is it stale?
        Where nothing fails there are none. They are the same for every point: so is a gradient that remembers. They are
        left as they are; with ``in_place`` the caller's own arrays hold their values for a while.

    Returns
    -------
    GradientReport

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense together or by themselves, a loss that is not one finite real number, and
        functions that change their parameters. Exceptions of the loss and of the gradient pass through. Where the loss
        raises at displaced points, and not at params, it is taken as not defined there, which a note tells; if it does
        so at all of them, the first exception passes through.
    """
    begin = time.perf_counter()
    layout, leaves = flatten_parameters(params)
    validate(layout, leaves, gradients, args=args, step=step, rtol=rtol, atol=atol, precision=precision, engine=engine,
             threads=threads, workers=workers, vectorized=vectorized, points=points, in_place=in_place, stencil=stencil,
             seed=seed, probes=probes, time_budget=time_budget)  # fmt: skip
    earlier = None if previous is None else earlier_leaves(layout, previous)
    counts = sampled_counts(layout, tensors, samples, probes)
    scope = Scope(layout, counts, probes, stencil_named(stencil), step, rtol, atol, crosscheck, seed)
    request = _Request(loss, gradients, args, scope, precision, engine, threads, workers, vectorized, in_place, earlier)
    with Progress(points * scope.samples, shown=progress) as bar:
        findings: list[PointResult] = []
        tries: list[Tries] = []
        for number in range(points):
            scope = replace(scope, deadline=begin + (time_budget or math.inf) * (number + 1) / points)
            found, tried = _check_point(replace(request, scope=scope), number, leaves, bar)
            findings += [found] if found else []
            tries.append(tried)
    return summarise(layout, counts, findings, seed, time.perf_counter() - begin, tries)


def assert_gradients(
    loss: Callable[..., Any],
    gradients: Any,
    params: Any,
    *,
    args: tuple[Any, ...] = (),
    tensors: str | Sequence[str] | None = None,
    samples: Samples = DEFAULT_SAMPLES,
    probes: int = 3,
    stencil: StencilName = "central",
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    precision: Precision = "double",
    engine: Engine = "auto",
    threads: int | None = None,
    workers: int = 1,
    vectorized: bool = False,
    points: int = 1,
    in_place: bool = False,
    crosscheck: bool = True,
    time_budget: float | None = None,
    seed: int = 0,
    progress: bool = False,
    previous: Any = None,
    allow_undecided: bool = False,
) -> GradientReport:
    """Check a gradient as `check_gradients` does, and raise unless it passes.

    Parameters
    ----------
    loss, gradients, params, args, tensors, samples, probes, stencil, step, rtol, atol, precision, engine, threads
        As in `check_gradients`.
    workers, vectorized, points, in_place, crosscheck, time_budget, seed, progress, previous
        As in `check_gradients`.
    allow_undecided : bool
        Accept a report that is undecided.

    Returns
    -------
    GradientReport

    Raises
    ------
    GradientMismatch
        An AssertionError whose text is the report and whose ``report`` attribute holds it.
    TypeError, ValueError
        As `check_gradients`.
    """
    __tracebackhide__ = True  # in pytest a failing test begins with the report
    report = check_gradients(
        loss, gradients, params, args=args, tensors=tensors, samples=samples, probes=probes, stencil=stencil, step=step,
        rtol=rtol, atol=atol, precision=precision, engine=engine, threads=threads, workers=workers,
        vectorized=vectorized, points=points, in_place=in_place, crosscheck=crosscheck, time_budget=time_budget,
        seed=seed, progress=progress, previous=previous,
    )  # fmt: skip
    if not (report.passed or (allow_undecided and report.verdict == UNDECIDED)):
        raise GradientMismatch(report)
    return report


def sampled_counts(
    layout: ParameterLayout,
    tensors: str | Sequence[str] | None,
    samples: Samples,
    probes: int,
) -> tuple[int | None, ...]:
    """How many entries of each tensor are checked; None for a tensor that was not selected."""
    chosen = selected(tensors, layout.names)
    wanted = sample_counts(samples, layout.names, len(chosen), probes)
    return tuple(
        min(size, wanted[name]) if name in chosen else None
        for name, size in zip(layout.names, layout.sizes, strict=True)
    )


# --- one point ---


def _check_point(
    request: _Request, number: int, leaves: Sequence[Array], bar: Progress
) -> tuple[PointResult | None, Tries]:
    """Check at the given point (number 0), or at a random one, which comes nearer until loss and gradient have values.

    None where they have none at the nearest one either.
    """
    if number == 0:
        found, _ = _check_at(request, 0, leaves, 0.0, bar)
        return found, Tries()
    tries = Tries()
    for reach in _REACHES:
        with np.errstate(all="ignore"):
            found, error = _check_at(request, number, leaves, reach, bar)
        if error is None:
            return found, tries
        tries = Tries(tries.count + 1, described(error))
    return None, replace(tries, found=False)


def _check_at(
    request: _Request, number: int, leaves: Sequence[Array], reach: float, bar: Progress
) -> tuple[PointResult | None, Exception | None]:
    """What is found at a point; or what was raised at a random one, where loss or gradient is not defined."""
    scope = request.scope
    with _point(request, leaves, moved(leaves, scope.seed, number, reach, in_place=request.in_place)) as point:
        before = point.checksums
        with contextlib.ExitStack() as opened:
            try:
                evaluator, first = _open(request, point, scope.expected)
                opened.enter_context(contextlib.closing(evaluator))
                gradients = _analytic(request, point)
            except WrongValueError:
                raise
            except Exception as error:
                if number == 0:
                    raise
                return None, error
            bar.expect(first.seconds * scope.expected)
            adjudicator = partial(_adjudicated, request, point)
            look_back = None if request.previous is None else partial(_look_back, request, leaves, request.previous)
            start = Start(
                evaluator, point.leaves, gradients, float(np.real(first.value)), first.notes, number, request.args,
                adjudicator, look_back,
            )  # fmt: skip
            begin = time.perf_counter()
            findings = examine(scope, start, bar)
            refuse_changed(point, before, "loss")
        if not findings.unreached:
            return findings, None
        pace = (time.perf_counter() - begin) / findings.evaluations
        note = f"time_budget was over; at this pace the whole check takes about {_rounded(pace * scope.expected)} s"
        return replace(findings, notes=(*findings.notes, note)), None


def _rounded(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"


@contextlib.contextmanager
def _point(
    request: _Request, leaves: Sequence[Array], moving: contextlib.AbstractContextManager[Sequence[Array]]
) -> Iterator[Point]:
    """The point to which ``moving`` leads; the caller's arrays are as they were afterwards."""
    if request.in_place:
        point = callers_point(request.scope.layout, leaves, request.args)
        with moving:
            yield point
    else:
        with moving as places:
            complex_step = request.scope.stencil.is_complex
            yield copied_point(request.scope.layout, places, request.args, request.precision, complex_step=complex_step)


def _open(request: _Request, point: Point, expected: int) -> tuple[Evaluator, FirstCall]:
    return open_evaluator(
        request.loss, point, engine=request.engine, threads=request.threads, expected=expected,
        with_gradients=request.gradients is True, deadline=request.scope.deadline,
        workers=request.workers, vectorized=request.vectorized,
    )  # fmt: skip


def _look_back(
    request: _Request, leaves: Sequence[Array], previous: Sequence[Array], gradient: GradientAtPoint, measure: Measure
) -> EarlierMeasurements:
    """Measure at the parameters of the earlier moment, if the loss is defined there."""
    from fastgc._diagnosis.explain import EVALUATIONS

    if all(map(np.array_equal, previous, leaves)):
        return EarlierMeasurements(
            notes=("previous holds the values of params: were they changed in place? Keep a copy",)
        )
    views: dict[int, MeasuredTensor] = {}
    with _point(request, leaves, replaced(leaves, previous, in_place=request.in_place)) as point:
        try:
            evaluator, first = _open(request, point, EVALUATIONS)
        except NotFiniteError:
            return EarlierMeasurements(
                evaluations=1, notes=("the loss is not finite at previous: nothing was compared there",)
            )
        except WrongValueError:
            raise
        except Exception as error:
            note = f"the loss raised {described(error)} at previous: nothing was compared there"
            return EarlierMeasurements(evaluations=1, notes=(note,))
        with contextlib.closing(evaluator), contextlib.suppress(OutOfTime):
            base = float(np.real(first.value))
            views.update(measure(gradient_elsewhere(gradient, evaluator, point.leaves, base)))
    return EarlierMeasurements(views, evaluator.evaluations, evaluator.raised.notes("around previous, the loss"))


def _analytic(request: _Request, point: Point) -> list[Array]:
    """The analytic gradient at the point, one flat array for each tensor, safe from being overwritten."""
    if not (callable(request.gradients) or request.gradients is True):
        return match_gradients(request.scope.layout, request.gradients, copy=False)
    function = request.loss if request.gradients is True else request.gradients
    point = point.real()
    before = point.checksums
    with readable_compilation("the gradients"):
        result = in_turn(function)(point.received_by(is_jitted(function)), *point.args)
    refuse_changed(point, before, "gradients" if function is request.gradients else "loss")
    gradients = result[1] if request.gradients is True else result
    return match_gradients(request.scope.layout, gradients, by_position=is_jitted(function), copy=True)


def _adjudicated(
    request: _Request, point: Point, gradient: GradientAtPoint, estimates: Estimates, judgement: Judgement
) -> tuple[Estimates, Judgement, tuple[str, ...]]:
    from fastgc._verdicts.complex_step import adjudicate

    open_complex = partial(_complex_evaluator, request, point)
    return adjudicate(gradient, estimates, judgement, request.loss, request.args, open_complex)


def _complex_evaluator(request: _Request, point: Point) -> Evaluator:
    """The loss at a complex copy of the point, called from Python (a jitted one too)."""
    layout, loss = request.scope.layout, request.loss
    copy = copied_point(layout, point.real().leaves, point.args, request.precision, complex_step=True)
    if request.vectorized:
        return open_evaluator(loss, copy, engine="python", threads=None, expected=0, with_gradients=False,
                              vectorized=True)[0]  # fmt: skip
    function = in_turn(loss)
    call = (lambda params, *args: function(params, *args)[0]) if request.gradients is True else function
    return PythonEvaluator(call, copy.received_by(is_jitted(loss)), copy.args, layout, copy.leaves, None)
