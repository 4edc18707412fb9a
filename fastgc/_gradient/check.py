"""The check of a gradient, and the assertion that it passes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from fastgc._arguments import flags, refuse_uncallable
from fastgc._derivatives.stencil import stencil_named
from fastgc._diagnosis.earlier import EarlierParameters, earlier_leaves
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.engine import Execution, is_jitted
from fastgc._evaluation.evaluator import Stopped
from fastgc._evaluation.held import UNMOVED, holder_note
from fastgc._evaluation.interruption import Interruption
from fastgc._evaluation.working_time import compilation_left_out, compiled_seconds, now
from fastgc._gradient.interrupted import interruptible, not_reached
from fastgc._gradient.kept import KeptValues
from fastgc._gradient.options import CheckOptions, refuse_args
from fastgc._gradient.points import PointChecker
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import ParameterLayout, flatten_parameters
from fastgc._parameters.matching import refuse_nonfinite
from fastgc._parameters.sampling import DEFAULT_SAMPLES
from fastgc._progress import Progress
from fastgc._public import public
from fastgc._reports.gradient import GradientReport
from fastgc._reports.summary import PointResult, Tries, summarise
from fastgc._verdicts.time_budget import compiled_notes
from fastgc._words import UNDECIDED, Engine, Precision, Samples, StencilName, Tolerance, Workers

_SUMMARY = 6e-5  # seconds for the summary of a tensor: 2e-5, or 5e-5 if it is wrong (bench/budget.py, with 10,000)
_MOST_RESERVED = 0.5  # of a time budget: an hour's check of any number of tensors keeps half of it for measurements


@public
class GradientMismatch(AssertionError):
    """A gradient did not pass; ``report`` holds the `GradientReport`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> try:
    ...     fastgc.assert_gradients(lambda x: x @ x, lambda x: x, np.ones(3))
    ... except fastgc.GradientMismatch as error:
    ...     error.report.tensors["params"].diagnosis.kind
    'factor'
    """

    def __init__(self, report: GradientReport) -> None:
        super().__init__(str(report))
        self.report = report


def check_gradients(
    loss: Callable[..., object],
    gradients: object,
    params: object,
    *,
    args: tuple[object, ...] = (),
    tensors: str | Sequence[str] | None = None,
    samples: Samples = DEFAULT_SAMPLES,
    probes: int = 3,
    stencil: StencilName = "central",
    step: float | None = None,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    precision: Precision = "double",
    engine: Engine = "auto",
    threads: int | None = None,
    workers: Workers = 1,
    vectorized: bool = False,
    points: int = 1,
    bounds: object = None,
    symmetric: str | Sequence[str] | None = None,
    in_place: bool = False,
    crosscheck: bool = True,
    time_budget: float | None = None,
    seed: int = 0,
    progress: bool = False,
    previous: object = None,
    checkpoint: str | os.PathLike[str] | None = None,
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
        Of float16, float32 or float64, of any shape. They are left as they are, to the bit. A named tuple, a dataclass
        or an attrs class is taken like a dict of its fields; fields without arrays or floats stay as they are.
    args : tuple
        Extra positional arguments of both functions.
    tensors : str or sequence of str, optional
        Names or patterns (``*`` and ``?``) of the tensors to check; nested keys are joined by ".".
    samples : int, "all", or mapping of name or pattern to these
        Entries checked one by one in every tensor: the first and the last, the largest, exact zeros, the rest at
        random. A value of the mapping may also be the very entries: flat indices, index tuples, or a boolean mask.
        Where the default of 32 would take more than 2,000 evaluations it falls, to 2 at the least.
    probes : int
        Random directions in every tensor that is not checked entry by entry as a whole; they cover all its entries and
        lead to the wrong ones. The report bounds the probability that all of them miss an error. Three, the default,
        miss an error of rtol of a large tensor with about 1e-6; two would miss it with 1e-4, and the third takes two
        to four evaluations, which all tensors share where that shows nearly as much. Up to three more are measured
        where tensors can then share them.
    stencil : {"central", "forward", "backward", "five_point", "complex_step"}
        The difference formula of the first look; entries in doubt are settled by central differences at many steps.
    step : float, optional
        An absolute step; by default one is chosen for each entry from its scale and the loss's noise.
    rtol, atol : float, or mapping of name or pattern to float, optional
        An entry agrees where ``|a - n| <= atol + rtol * max(|a|, |n|)``, beyond its uncertainty. By default rtol is
        1e-5 for a float64 gradient, 1e-3 for float32 and 1e-2 for float16, and atol is 1e-5 * rtol times the root mean
        square of the tensor's numerical entries.
    precision : {"double", "native"}
        Evaluate at float64 copies of params and of floating arrays in args, or at copies in their own dtypes.
    engine : {"auto", "numba", "python"}
        "auto" runs a jitted loss in compiled loops where that pays for their compilation; "numba" compiles a plain
        loss; "python" calls the loss from Python.
    threads : int, optional
        Threads of the compiled loops; by default Numba's own setting. Results do not depend on it. There is one where
        the loss may write to what args hold: an array that it was seen to change, a jitclass, a typed list or dict.
    workers : int, Executor, or function like map
        Processes that evaluate a plain Python loss, for one that takes a millisecond or more; -1: one for each core; by
        the backend that ``joblib.parallel_config`` has set, such as "dask", if it has. Or an executor
        (``ProcessPoolExecutor``, dask's ``client.get_executor()``, ``MPIPoolExecutor``), or a function like ``map``
        (``multiprocessing.Pool().map``). The loss, what it refers to and args are pickled once, and go to each worker
        once. BLAS runs in one thread in each; results do not depend on what runs them. What a worker was doing when it
        died is done again; after three deaths an error names the entries. A map cannot tell of a death. Needs
        ``python -m pip install "joblib>=1.5" "cloudpickle>=3.0"``.
    vectorized : bool
        The loss takes parameters with a leading batch axis in every array and returns one value for each, shape
        ``(batch,)``; it is called with blocks of displaced parameters. ``gradients`` receives the plain parameters.
    points : int
        Check at params and at ``points - 1`` random points around them; needs callable gradients.
    bounds : scipy.optimize.Bounds, sequence of (lower, upper) pairs, or dict of name or pattern to a pair, optional
        The loss is never evaluated outside; random points stay inside. At a bound the slope is one-sided. ``lb`` and
        ``ub``, or the pairs, are of the flat vector of all entries; a pair of the dict holds numbers or arrays that
        broadcast to the tensor's shape; None or an infinity where there is no bound. Entries nearer to a bound than
        1/256 of their tensor's scale are not covered by directions: they are checked one by one, 64 of each tensor.
    symmetric : str or sequence of str, optional
        Names or patterns of tensors that are symmetric in their last two axes (a covariance, a metric): entries [i, j]
        and [j, i] are displaced together, and their slope is compared with analytic[i, j] + analytic[j, i]. That is
        right for the gradient by all entries, and for one that holds the pairs' derivatives in one triangle and zeros
        in the other; a note says which it was taken for.
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
    checkpoint : str or path, optional
        A file that keeps loss values while they are measured, about 32 bytes for an entry. The same call goes on from
        there, after Ctrl-C or a crash, and gives the same report; a file of another check is refused. The loss and the
        gradient are recognised by their values at params.

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
    OSError
        Where the checkpoint cannot be written, or another process writes to it.
    Interrupted
        After Ctrl-C, with the report so far: a KeyboardInterrupt. A second Ctrl-C ends the check at once.

    Notes
    -----
    *An entry.* The first look is one quotient, at a step that balances truncation against the measured noise of the
    loss (Gill, Murray, Saunders and Wright 1983). What it leaves in doubt is measured at a ladder of steps and
    extrapolated (Richardson 1911); the scatter of the extrapolations bounds the error: the numerical derivative n with
    its uncertainty u. With tol = atol + rtol * max(|a|, |n|), an entry a

    - fails if |a - n| > tol + 10 u,
    - passes if |a - n| <= tol + u and u is small enough for a wrong value to show (at most 1 % of the entry or of the
      tensor's scale for rtol up to 1e-4), or if |a - n| + u is within an ``atol`` that the caller gave,
    - is undecided otherwise, with a reason.

    At a kink every value between the one-sided slopes agrees. At a jump, on stairs, or where a slope is infinite there
    is no derivative to compare with: undecided.

    *A tensor.* It fails if an entry fails, is undecided if an entry is, and passes only if its entries were measured,
    one by one or by directions. The slope along a direction of random signs and magnitudes sees all entries at once:
    one wrong entry changes it by half to three halves of its error, and several hardly ever cancel. A direction that
    disagrees is halved until the wrong entries are found, which are then measured like all others.

    *Memory.* Beyond what the caller holds, a check takes a copy of params for each thread or process. A gradient that
    is called counts twice: the arrays that it returns, and a copy of them. ``vectorized`` takes two rows of a batch
    more, or as many as 32 MiB hold; ``points`` one more copy at the random points; ``previous`` one more where a tensor
    fails; ``bounds`` some eight arrays of the largest tensor's size; an analytic loss complex copies up to 256 MiB.
    ``in_place`` takes a copy of the entries that are displaced, which along a direction are all, and up to 64 MiB to
    restore what the loss changes.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> report = fastgc.check_gradients(lambda p: np.sum(p["w"] ** 2), lambda p: {"w": 2 * p["w"]}, {"w": np.ones(3)})
    >>> report.verdict
    'pass'
    """
    options = CheckOptions(
        tensors=tensors, samples=samples, probes=probes, stencil=stencil, step=step, rtol=rtol, atol=atol,
        precision=precision, engine=engine, threads=threads, workers=workers, vectorized=vectorized, points=points,
        bounds=bounds, symmetric=symmetric, in_place=in_place, crosscheck=crosscheck,
        time_budget=time_budget, seed=seed, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    return _check(loss, gradients, params, args, options, previous)


def assert_gradients(
    loss: Callable[..., object],
    gradients: object,
    params: object,
    *,
    args: tuple[object, ...] = (),
    tensors: str | Sequence[str] | None = None,
    samples: Samples = DEFAULT_SAMPLES,
    probes: int = 3,
    stencil: StencilName = "central",
    step: float | None = None,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    precision: Precision = "double",
    engine: Engine = "auto",
    threads: int | None = None,
    workers: Workers = 1,
    vectorized: bool = False,
    points: int = 1,
    bounds: object = None,
    symmetric: str | Sequence[str] | None = None,
    in_place: bool = False,
    crosscheck: bool = True,
    time_budget: float | None = None,
    seed: int = 0,
    progress: bool = False,
    previous: object = None,
    checkpoint: str | os.PathLike[str] | None = None,
    allow_undecided: bool = False,
) -> GradientReport:
    """Check a gradient as `check_gradients` does, and raise unless it passes.

    Parameters
    ----------
    loss, gradients, params, args, tensors, samples, probes, stencil, step, rtol, atol, precision, engine, threads
        As in `check_gradients`.
    workers, vectorized, points, bounds, symmetric, in_place, crosscheck, time_budget, seed, progress, previous
        As in `check_gradients`.
    checkpoint
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

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> fastgc.assert_gradients(lambda x: x @ x, lambda x: 2 * x, np.ones(3)).verdict
    'pass'
    >>> fastgc.assert_gradients(lambda x: x @ x, lambda x: -2 * x, np.arange(1.0, 4.0))
    Traceback (most recent call last):
    fastgc.GradientMismatch: FAIL  1 of 1 tensor disagrees: params (sign)   ...
    """
    __tracebackhide__ = True  # in pytest a failing test begins with the report
    flags(allow_undecided=allow_undecided)
    options = CheckOptions(
        tensors=tensors, samples=samples, probes=probes, stencil=stencil, step=step, rtol=rtol, atol=atol,
        precision=precision, engine=engine, threads=threads, workers=workers, vectorized=vectorized, points=points,
        bounds=bounds, symmetric=symmetric, in_place=in_place, crosscheck=crosscheck,
        time_budget=time_budget, seed=seed, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    return passed_or_raise(_check(loss, gradients, params, args, options, previous), allow_undecided)


def passed_or_raise(report: GradientReport, allow_undecided: bool) -> GradientReport:
    """The report, if it passes or is undecided and that is allowed; else it is raised as a `GradientMismatch`."""
    __tracebackhide__ = True
    if not (report.passed or (allow_undecided and report.verdict == UNDECIDED)):
        raise GradientMismatch(report)
    return report


def _check(
    function: Callable[..., object],
    gradients: object,
    params: object,
    args: tuple[object, ...],
    options: CheckOptions,
    previous: object,
) -> GradientReport:
    interruption = Interruption()
    __tracebackhide__ = True
    return interruptible(
        interruption, lambda: _checked(function, gradients, params, args, options, previous, interruption)
    )


def _checked(
    function: Callable[..., object],
    gradients: object,
    params: object,
    args: tuple[object, ...],
    options: CheckOptions,
    previous: object,
    interruption: Interruption,
) -> GradientReport:
    begin = time.perf_counter()
    refuse_uncallable("loss", function)
    layout, leaves = flatten_parameters(params)
    refuse_args(args)
    options.refuse_gradients(gradients)
    refuse_nonfinite(layout, leaves)
    options, notes = _without_complex_steps(function, args, layout, leaves, options)
    execution = Execution(options.engine, options.threads, options.workers, options.vectorized)
    loss = CallersLoss(
        function, args, layout, leaves, execution, with_gradients=gradients is True, precision=options.precision,
        in_place=options.in_place, notes=notes, interruption=interruption,
    )  # fmt: skip
    loss = options.applied_to(loss)
    report = _check_points(loss, gradients, options, previous, begin)
    held = UNMOVED in report.notes and not options.in_place and holder_note(function, args, leaves)
    return replace(report, notes=(*report.notes, held)) if held else report


def check_loss(
    loss: CallersLoss, gradients: object, options: CheckOptions, previous: object, begin: float
) -> GradientReport:
    """Check at the caller's point and at random ones, each with its share of the time since ``begin``.

    Parameters
    ----------
    gradients, previous : as in `check_gradients`, with the parameters of the loss

    Raises
    ------
    Interrupted
        With the report so far.
    """
    __tracebackhide__ = True
    return interruptible(loss.interruption, lambda: _check_points(loss, gradients, options, previous, begin))


def _check_points(
    loss: CallersLoss, gradients: object, options: CheckOptions, previous: object, begin: float
) -> GradientReport:
    earlier = None if previous is None else EarlierParameters(loss, earlier_leaves(loss.layout, previous))
    selection = options.selected(loss.layout)
    results: list[PointResult] = []
    tries: list[Tries] = []
    total = options.points * selection.entries
    progress = Progress(total, shown=options.progress, budget=options.time_budget)
    with compilation_left_out(options.engine == "numba"), progress as bar, KeptValues(loss, options) as kept:
        started, before = now() - _reserved(options, len(selection.tensors)), compiled_seconds()
        checker = PointChecker(loss, gradients, options, selection, earlier, bar, kept)
        for number in range(options.points):
            result, tried = _check_point(checker, number, options.deadline(started, number))
            results += [result] if result else []
            tries.append(tried)
            if loss.interruption.requested:
                break
        compiled = compiled_seconds() - before
    if left := options.points - len(tries):
        results.append(not_reached(loss, options, selection, len(tries), f": {left} of {options.points} points"))
    if notes := compiled_notes(options.time_budget, compiled):
        results[0] = replace(results[0], notes=(*results[0].notes, *notes))
    return summarise(selection, results, options.seed, time.perf_counter() - begin, tries)


def _reserved(options: CheckOptions, tensors: int) -> float:
    """Seconds of the time budget that remain for the report."""
    return 0.0 if options.time_budget is None else min(_SUMMARY * tensors, _MOST_RESERVED * options.time_budget)


def _check_point(checker: PointChecker, number: int, deadline: float) -> tuple[PointResult | None, Tries]:
    """`PointChecker.check`; nothing known where the check is interrupted before the loss and the gradient are."""
    loss = checker.loss
    try:
        return checker.check(number, deadline)
    except (KeyboardInterrupt, Stopped) as error:
        loss.interruption.note(error)
        return not_reached(loss, checker.options, checker.selection, number, ""), Tries()


def _without_complex_steps(
    function: Callable[..., object],
    args: tuple[object, ...],
    layout: ParameterLayout,
    leaves: Sequence[Array],
    options: CheckOptions,
) -> tuple[CheckOptions, tuple[str, ...]]:
    """The options with differences, and a note, where complex steps are asked for and Numba has no types for them."""
    compiled = is_jitted(function) or options.engine == "numba"
    if not (compiled and stencil_named(options.stencil).is_complex):
        return options, ()
    from fastgc._evaluation.complex_compiled import takes_complex_parameters

    if takes_complex_parameters(function, layout, leaves, args):
        return options, ()
    step = "" if options.step is None else " of the default step"
    note = f'stencil="complex_step", but Numba cannot compile the loss for complex numbers: central differences{step}'
    return replace(options, stencil="central", step=None), (note,)
