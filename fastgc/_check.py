"""The check of a gradient: validate, estimate, compare, explain, report."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgc._budget import representative, settle_in_time, together, unreached
from fastgc._compare import DEFAULT_RTOL, UNDECIDED, Judgement, Tolerances
from fastgc._cover import cover, search
from fastgc._crosscheck import CrossCheck
from fastgc._crosscheck import crosscheck as scipy_crosscheck
from fastgc._diagnosis import Explanation
from fastgc._engine import (
    FirstCall,
    NotFiniteError,
    in_turn,
    is_jitted,
    open_evaluator,
    readable_compilation,
)
from fastgc._entries import Estimates, open_scene, unmeasured_scene
from fastgc._evaluate import Evaluator, OutOfTime, PythonEvaluator, outside_domain
from fastgc._layout import Array, ParameterLayout, flatten_parameters, match_gradients, norm
from fastgc._point import Point, callers_point, copied_point, moved, refuse_changed, replaced
from fastgc._previous import Hindsight, LookBack, Measure, earlier_leaves, site_elsewhere
from fastgc._progress import Progress
from fastgc._report import GradientReport
from fastgc._sampling import plan_samples
from fastgc._settle import Site, remarks
from fastgc._stencil import Stencil, stencil_named
from fastgc._summary import Findings, summarise
from fastgc._validate import DEFAULT_SAMPLES, sample_counts, selected, validate

if TYPE_CHECKING:
    from fastgc._view import View

_PER_TENSOR = 20  # evaluations, about, that probing a tensor takes
_REACHES = [2.0**-k for k in range(8)]  # of the random points, in mean magnitudes of each tensor


Adjudicator = Callable[[Site, Estimates, Judgement], tuple[Estimates, Judgement, tuple[str, ...]]]


class GradientMismatch(AssertionError):
    """A gradient did not pass; ``report`` holds the `GradientReport`."""

    def __init__(self, report: GradientReport) -> None:
        super().__init__(str(report))
        self.report = report


@dataclass(frozen=True)
class Scope:
    """What of a gradient is checked, how closely and by which measure, whatever evaluates its loss."""

    layout: ParameterLayout
    counts: tuple[int | None, ...]  # entries to sample of each tensor; None: the tensor is not checked
    probes: int
    stencil: Stencil
    step: float | None
    rtol: float | None
    atol: float | None
    crosscheck: bool
    seed: int
    deadline: float = math.inf  # of ``time.perf_counter``

    @property
    def chosen(self) -> list[int]:
        """The tensors that are checked."""
        return [t for t, count in enumerate(self.counts) if count is not None]

    @property
    def unexhausted(self) -> list[int]:
        """The tensors not all of whose entries are checked one by one."""
        return [t for t in self.chosen if self.counts[t] != self.layout.sizes[t]]

    @property
    def probed(self) -> list[int]:
        """The tensors in which random directions are measured."""
        return [t for t in self.unexhausted if self.layout.sizes[t]] if self.probes else []

    @property
    def expected(self) -> int:
        """About how many evaluations follow."""
        return 2 * self.samples + _PER_TENSOR * len(self.probed)

    @property
    def samples(self) -> int:
        """Entries checked one by one, in all tensors together."""
        return sum(filter(None, self.counts))


@dataclass(frozen=True)
class Start:
    """What the check of one point starts from.

    Attributes
    ----------
    evaluator : of the loss around the point
    leaves : the parameters at the point, one array for each tensor; evenly spaced entries of each are enough
    gradients : the analytic gradient, one flat array for each tensor
    base : the loss at the point
    notes : what was noticed before, to stand first in the report
    number : of the point
    args : of the loss: the lengths of their arrays' axes are names for factors
    adjudicator : decides entries that differences leave undecided, and says so in notes; or None
    look_back : measures failing tensors at the parameters of an earlier moment; or None
    """

    evaluator: Evaluator
    leaves: Sequence[Array]
    gradients: Sequence[Array]
    base: float
    notes: Sequence[str]
    number: int = 0
    args: tuple[Any, ...] = ()
    adjudicator: Adjudicator | None = None
    look_back: LookBack | None = None


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
    samples: int | str | Mapping[str, int | str] = DEFAULT_SAMPLES,
    probes: int = 3,
    stencil: str = "central",
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    precision: str = "double",
    engine: str = "auto",
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
        in each; results do not depend on how many there are. Needs ``python -m pip install 'fastgc[workers]'``.
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
        functions that change their parameters. Exceptions of the loss and of the gradient pass through.
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
        findings = []
        for number in range(points):
            scope = replace(scope, deadline=begin + (time_budget or math.inf) * (number + 1) / points)
            findings.append(_check_point(replace(request, scope=scope), number, leaves, bar))
    return summarise(layout, counts, findings, seed, time.perf_counter() - begin)


def assert_gradients(*args: Any, allow_undecided: bool = False, **options: Any) -> GradientReport:
    """Check a gradient as `check_gradients` does, with the same arguments, and raise unless it passes.

    Parameters
    ----------
    allow_undecided : bool
        Accept a report that is undecided.

    Returns
    -------
    GradientReport

    Raises
    ------
    GradientMismatch
        An AssertionError whose text is the report and whose ``report`` attribute holds it.
    """
    report = check_gradients(*args, **options)
    if not (report.passed or (allow_undecided and report.verdict == UNDECIDED)):
        raise GradientMismatch(report)
    return report


def sampled_counts(
    layout: ParameterLayout,
    tensors: str | Sequence[str] | None,
    samples: int | str | Mapping[str, int | str],
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


def _check_point(request: _Request, number: int, leaves: Sequence[Array], bar: Progress) -> Findings:
    """Check at the given point (number 0) or at a random one, which comes nearer until the loss is defined there."""
    reaches = [1.0] if number == 0 else _REACHES
    for reach in reaches:
        try:
            with np.errstate(all=None if number == 0 else "ignore"):
                return _check_at(request, number, leaves, reach, bar)
        except Exception as error:
            if reach == reaches[-1] or not (isinstance(error, NotFiniteError) or outside_domain(error)):
                raise
    raise AssertionError("unreachable")


def _check_at(request: _Request, number: int, leaves: Sequence[Array], reach: float, bar: Progress) -> Findings:
    scope = request.scope
    with _point(request, leaves, moved(leaves, scope.seed, number, reach, in_place=request.in_place)) as point:
        before = point.checksums
        evaluator, first = _open(request, point, scope.expected)
        with contextlib.closing(evaluator):
            bar.expect(first.seconds * scope.expected)
            base, gradients = float(np.real(first.value)), _analytic(request, point)
            adjudicator = partial(_adjudicated, request, point)
            look_back = None if request.previous is None else partial(_look_back, request, leaves, request.previous)
            start = Start(
                evaluator, point.leaves, gradients, base, first.notes, number, request.args, adjudicator, look_back
            )
            begin = time.perf_counter()
            findings = examine(scope, start, bar)
            refuse_changed(point, before, "loss")
        if not findings.unreached:
            return findings
        pace = (time.perf_counter() - begin) / findings.evaluations
        note = f"time_budget was over; at this pace the whole check takes about {_rounded(pace * scope.expected)} s"
        return replace(findings, notes=(*findings.notes, note))


def _rounded(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"


def examine(scope: Scope, start: Start, bar: Progress) -> Findings:
    """The check at one point: probe, estimate and judge the samples, search what is suspicious."""
    plan = plan_samples(scope.layout, start.gradients, scope.counts, scope.seed)
    positions = plan.positions(scope.layout)
    first, rest = positions, positions[:0]
    if scope.deadline < math.inf:
        first, rest = representative(scope.layout, positions, scope.seed)
    site = _site(scope, start)
    probings = cover(site, scope.unexhausted, scope.probes, scope.seed, bar, hurried=scope.deadline < math.inf)
    estimates, judgement = settle_in_time(site, first, scope.deadline, bar)
    scales = site.scales(estimates)
    coverages, looked_at = search(site, scope.unexhausted, probings, estimates, judgement, scales, scope.seed, bar)
    if rest.size:
        estimates, judgement = together([(estimates, judgement), settle_in_time(site, rest, scope.deadline, bar)])
    decided: tuple[str, ...] = ()
    if start.adjudicator is not None and judgement.undecided.any():
        estimates, judgement, decided = start.adjudicator(site, estimates, judgement)
    if rest.size or decided:
        scales = site.scales(estimates)
    explanation = Explanation({}, 0, ())
    second: CrossCheck | None = None
    remarked: list[str] = []
    with contextlib.suppress(OutOfTime):
        explanation = _explained(site, *site.joined(estimates, judgement, looked_at, scales), start, scope.seed, bar)
        remarked += remarks(site, estimates, judgement.analytic)
        if scope.crosscheck and start.number == 0:
            second = scipy_crosscheck(start.evaluator, positions, site.analytic(positions))
    unprobed = [t for t in scope.probed if np.isfinite(site.sizes[t]) and t not in coverages]
    return Findings(
        point=start.number,
        site=site,
        plan=plan,
        estimates=estimates,
        judgement=judgement,
        scales=scales,
        coverages=coverages,
        looked_at=looked_at,
        diagnoses=explanation.diagnoses,
        unreached=unreached(scope.layout, plan.local, estimates.positions, unprobed),
        notes=(*start.notes, *remarked, *decided, *explanation.notes),
        evaluations=start.evaluator.evaluations + explanation.evaluations,
        engine=start.evaluator.name,
        crosscheck=second,
    )


def _explained(
    site: Site, estimates: Estimates, judgement: Judgement, start: Start, seed: int, bar: Progress
) -> Explanation:
    """Why entries are wrong, if some are."""
    if not judgement.failed.any():
        return Explanation({}, 0, ())
    from fastgc._explain import explain  # for few checks, as are the other imports inside functions

    return explain(site, estimates, judgement, start.args, seed, bar, start.look_back)


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
    request: _Request, leaves: Sequence[Array], previous: Sequence[Array], site: Site, measure: Measure
) -> Hindsight:
    """Measure at the parameters of the earlier moment, if the loss is defined there."""
    from fastgc._explain import EVALUATIONS

    if all(map(np.array_equal, previous, leaves)):
        return Hindsight(notes=("previous holds the values of params: were they changed in place? Keep a copy",))
    views: dict[int, View] = {}
    with _point(request, leaves, replaced(leaves, previous, in_place=request.in_place)) as point:
        try:
            evaluator, first = _open(request, point, EVALUATIONS)
        except Exception as error:
            if not (isinstance(error, NotFiniteError) or outside_domain(error)):
                raise
            return Hindsight(evaluations=1, notes=("the loss is not finite at previous: nothing was compared there",))
        with contextlib.closing(evaluator), contextlib.suppress(OutOfTime):
            base = float(np.real(first.value))
            views.update(measure(site_elsewhere(site, evaluator, point.leaves, base)))
    return Hindsight(views, evaluator.evaluations)


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
    request: _Request, point: Point, site: Site, estimates: Estimates, judgement: Judgement
) -> tuple[Estimates, Judgement, tuple[str, ...]]:
    from fastgc._complex_step import adjudicate

    open_complex = partial(_complex_evaluator, request, point)
    return adjudicate(site, estimates, judgement, request.loss, request.args, open_complex)


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


def _site(scope: Scope, start: Start) -> Site:
    around = start.evaluator, scope.layout, start.leaves
    try:
        scene = open_scene(*around, scope.chosen, start.base, scope.seed)
    except OutOfTime:
        scene = unmeasured_scene(*around, start.base)
    sizes = np.array([norm(each) / max(1.0, each.size) ** 0.5 for each in start.gradients])
    tolerances = _tolerances(scope, start.gradients)
    return Site(scene, start.gradients, sizes, tolerances, scope.stencil, scope.step)


def _tolerances(scope: Scope, gradients: Sequence[Array]) -> Tolerances:
    defaults = [DEFAULT_RTOL[gradient.dtype] for gradient in gradients]
    rtol = np.array(defaults if scope.rtol is None else [scope.rtol] * len(gradients))
    atol = None if scope.atol is None else np.full(len(gradients), scope.atol)
    return Tolerances(rtol, atol)
