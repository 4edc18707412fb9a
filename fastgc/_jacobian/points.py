"""The check of a Jacobian at the caller's point and at random ones: measure columns, compare, project."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from fastgc._derivatives.displaced import displaced_leaves
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.ladder import Ladder
from fastgc._evaluation.checkpoint import LateCheckpoint
from fastgc._evaluation.engine import is_jitted, jitted
from fastgc._evaluation.evaluator import OutOfTime, Ray, Stopped, attempted
from fastgc._evaluation.floating_point import at_point, away_from_the_point
from fastgc._evaluation.interruption import Interruption
from fastgc._evaluation.working_time import compilation_left_out, compiled_seconds, now
from fastgc._forks import cached_property
from fastgc._gradient.interrupted import interruptible
from fastgc._gradient.noisy import TRIED, all_hidden
from fastgc._gradient.points import nearest
from fastgc._jacobian.columns import Group, columns_drawn, plan
from fastgc._jacobian.complex_function import ComplexFunction
from fastgc._jacobian.entries import Checked, JacobianAlong, JacobianAtPoint, check_groups, open_jacobian, verdicts
from fastgc._jacobian.function import VectorFunction
from fastgc._jacobian.inputs import (
    Shape,
    analytic_matrix,
    analytic_operator,
    bounds_of,
    declared_pattern,
    open_function,
    plain_function,
)
from fastgc._jacobian.kept import KeptOutputs, about_jacobian
from fastgc._jacobian.operator import Operator, spoiled
from fastgc._jacobian.options import JacobianOptions
from fastgc._jacobian.pace import Pace, whole
from fastgc._jacobian.projections import Projections, follow_strays, project
from fastgc._jacobian.report import About, JacobianReport, jacobian_report
from fastgc._parameters.arrays import Array, Floats, Positions, spread
from fastgc._parameters.bounds import Bounds
from fastgc._parameters.point import leaves_at
from fastgc._parameters.sampling import NotFinite
from fastgc._parameters.streams import stream
from fastgc._progress import Progress
from fastgc._reports.summary import Tries, nearer_notes
from fastgc._verdicts.judgement import Judgement
from fastgc._verdicts.time_budget import INTERRUPTED, batches, compiled_notes

Found = tuple[Checked, Projections, NotFinite | None]  # the last: entries of the analytic Jacobian


@dataclass(frozen=True)
class JacobianCheck:
    """A function, its Jacobian in one of its forms, and a point, as the caller of `fastgc.check_jacobian` gave them."""

    f: Callable[..., object]
    jacobian: object
    point: Any  # as it was given; an array of floats by the time that it is checked
    args: tuple[object, ...]
    jvp: Callable[..., object] | None
    vjp: Callable[..., object] | None
    sparsity: object
    options: JacobianOptions
    interruption: Interruption = field(default_factory=Interruption)

    @cached_property
    def bounds(self) -> Bounds | None:
        """The bounds of the inputs."""
        return bounds_of(self.point, self.options.bounds)

    @cached_property
    def function(self) -> Callable[..., object]:
        """f, compiled once for all points if ``engine="numba"`` asks for it."""
        return jitted(self.f) if self.options.engine == "numba" else self.f

    @property
    def planned(self) -> int:
        """How many columns are measured at all points, as far as that is known before f is called."""
        sparse = self.sparsity is not None or hasattr(self.jacobian, "tocsr")
        return self.options.points * columns_drawn(self.point.size, "all" if sparse else self.options.columns)

    def progress(self) -> Progress:
        """The bar of the check."""
        return Progress(self.planned, shown=self.options.progress, budget=self.options.time_budget)

    @cached_property
    def checkpoint(self) -> LateCheckpoint:
        """The file that keeps outputs, if there is one."""
        return LateCheckpoint(self.options.checkpoint)

    def attached(self, function: VectorFunction, about: Callable[[], Mapping[str, Any]] = dict) -> VectorFunction:
        """The function, whose calls can be interrupted and are kept in the checkpoint, which is one of ``about()``."""
        function.interruption = self.interruption
        checkpoint = self.checkpoint.opened(about)
        if checkpoint is not None:
            kept = KeptOutputs(checkpoint, function.point, function.base.size, function.at_once)
            function.keeper = kept.outputs
        return function

    def analytic(self, point: Floats, shape: Shape) -> tuple[Any, Operator, str]:
        """The Jacobian at a point: the matrix, if there is one; the operator; how products contradict each other."""
        call = self.interruption.call
        given = call(at_point(self.jacobian), point.copy(), *self.args) if callable(self.jacobian) else self.jacobian
        matrix = analytic_matrix(given, shape, point.shape)
        return matrix, *analytic_operator(matrix, self.jvp, self.vjp, point, shape, self.args)

    def displaced(self, point: Floats, shape: Shape) -> JacobianAlong | None:
        """The Jacobian at displaced inputs, if it can be called."""
        if not (self.jacobian is None or callable(self.jacobian)):
            return None

        def along(rays: Sequence[Ray]) -> Operator:
            with away_from_the_point():
                return self.analytic(displaced_leaves([point], rays)[0], shape)[1]

        return along


@dataclass(frozen=True)
class _Opened:
    """The function and its Jacobian at one point; see `JacobianCheck.analytic`."""

    point: Floats
    function: VectorFunction
    output_shape: Shape
    matrix: object
    operator: Operator
    contradiction: str
    seconds: float  # that f took the first time


def check_points(check: JacobianCheck) -> JacobianReport:
    """Check at the caller's point and at random ones, each with its share of the time.

    Raises
    ------
    Interrupted
        With the report so far.
    """
    __tracebackhide__ = True
    with check.checkpoint:
        return interruptible(check.interruption, lambda: _check_points(check))


def _check_points(check: JacobianCheck) -> JacobianReport:
    begin, options = time.perf_counter(), check.options
    results: dict[int, _Result] = {}
    tries: list[Tries] = []
    with compilation_left_out(options.engine == "numba"), check.progress() as bar:
        started, before = now(), compiled_seconds()
        for number in range(options.points):
            result, tried = _check_point(check, number, options.deadline(started, number), bar)
            results |= {} if result is None else {number: result}
            tries.append(tried)
            if check.interruption.requested:
                break
        compiled = compiled_notes(options.time_budget, compiled_seconds() - before)
    return _report(check, results, tries, begin, compiled)


def _report(
    check: JacobianCheck, results: Mapping[int, _Result], tries: Sequence[Tries], begin: float, compiled: list[str]
) -> JacobianReport:
    notes = [*(note for each in results.values() for note in each.notes), *compiled]
    notes += nearer_notes(tries, "f or its Jacobian")
    notes += ["the check was interrupted"] if check.interruption.requested else []
    first = results[0]
    about = About(
        first.output_shape,
        check.point.shape,
        len(results),
        sum(each.evaluations for each in results.values()),
        time.perf_counter() - begin,
        check.options.seed,
        tuple(dict.fromkeys(notes)),
        first.engine,
    )
    failures = tuple(dict.fromkeys(reason for each in results.values() for reason in each.failures))
    found = {number: each.checked for number, each in results.items()}
    projections = max((each.projections for each in results.values()), key=_limit)
    missing = _missing(check.options.points, tries)
    return jacobian_report(found, projections, about, failures, missing, first.kept)


def _missing(points: int, tries: Sequence[Tries]) -> str:
    """Which points were asked for and not found, or not reached."""
    lost = [tried.reason for tried in tries if not tried.found]
    if len(tries) < points:
        return f"{INTERRUPTED}: {points - len(tries)} of {points} points"
    return f"not reached: a random point at which f and its Jacobian are defined ({lost[0]})" if lost else ""


def _check_point(check: JacobianCheck, number: int, deadline: float, bar: Progress) -> tuple[_Result | None, Tries]:
    """The result at a point, if there is one; nothing known where an interruption came first."""
    try:
        bar.phase("compiling" if is_jitted(check.function) else "first calls")
        opened, tried = _found_point(check, number, deadline)
        if opened is None:
            return None, tried
        with contextlib.closing(opened.function):
            return _checked(check, opened, number, bar), tried
    except (KeyboardInterrupt, Stopped) as error:
        check.interruption.note(error)
        nothing = Estimates.unmeasured(np.empty(0, np.int64))
        checked = Checked(nothing, Judgement.passing(np.empty(0), nothing), unreached=INTERRUPTED)
        return _Result((0,), checked, Projections(), (), 0, (), "python", lambda position: None), Tries()


def _limit(projections: Projections) -> float:
    return -1.0 if projections.entry_limit is None else projections.entry_limit


# --- the points ---


def _found_point(check: JacobianCheck, number: int, deadline: float) -> tuple[_Opened | None, Tries]:
    """The caller's point (number 0), or a random one, which comes nearer until both are defined."""
    if number == 0:
        return _opened(check, check.point, deadline), Tries()

    def opened_at(reach: float) -> tuple[_Opened | None, Exception | None]:
        moving = leaves_at([check.point], check.options.seed, number, reach, in_place=False, bounds=check.bounds)
        with moving as (moved,):
            return attempted(lambda: _opened(check, np.asarray(moved), deadline))

    return nearest(opened_at)


def _opened(check: JacobianCheck, point: Floats, deadline: float) -> _Opened:
    opening = partial(open_function, bounds=check.bounds, deadline=deadline)
    begin = now()
    function, shape = check.interruption.call(opening, check.function, point, check.args, check.options)
    function.interruption = check.interruption
    seconds = now() - begin
    with contextlib.ExitStack() as opened:  # closed here only if the analytic Jacobian raises
        opened.enter_context(contextlib.closing(function))
        found = _Opened(point, function, shape, *check.analytic(point, shape), seconds)
        opened.pop_all()
    return found


@dataclass(frozen=True)
class _Result:
    """The results at one point; ``failures``: why it fails, besides entries that differ."""

    output_shape: Shape
    checked: Checked
    projections: Projections
    failures: tuple[str, ...]
    evaluations: int
    notes: tuple[str, ...]
    engine: str
    kept: Callable[[int], Ladder | None]  # see `jacobian_report`


def _checked(check: JacobianCheck, opened: _Opened, number: int, bar: Progress) -> _Result:
    options, function, operator = check.options, opened.function, opened.operator
    bar.phase("noise")
    pace, noise = Pace.of(function, opened.seconds), tuple(_noise(function))
    pattern = declared_pattern(check.sparsity, opened.matrix, operator.shape)
    about = partial(about_jacobian, function, opened.output_shape, operator, check.args, pattern, options)
    check.attached(function, partial(about, noisy=bool(noise)))
    at_point = _jacobian_at(check, opened)
    groups, complete = plan(operator, pattern, options.columns, options.seed, function.held)
    probes = 0 if complete else options.probes
    if number == 0:
        pace.plan(groups, probes, options, check.planned, bar)
    function.expect(whole(groups, probes, options))
    hidden = _hidden(at_point, groups, options.seed, bar) if noise else None
    checked, projections, bad = hidden or find(at_point, groups, probes, options.seed, bar)
    late = pace.notes(checked, groups, probes, options)
    checked, decided = _by_complex_step(check, opened, at_point, checked)
    failures = [opened.contradiction] if opened.contradiction else []
    if bad is not None:
        where = bad.text(opened.output_shape + check.point.shape, least=opened.matrix is None)
        failures.append(f"the analytic Jacobian is not finite in {where}")
    left_out = ["noise hides the slopes of all columns tried; the others were left out"] if hidden else []
    notes = (*function.notes, *function.raised.notes("f"), *noise, *left_out, *decided, *late)
    exact = at_point.complex_function
    evaluations = function.evaluations + (0 if exact is None else exact.evaluations)
    found = opened.output_shape, checked, projections, tuple(failures), evaluations, notes, function.engine
    return _Result(*found, kept=at_point.kept)


def _jacobian_at(check: JacobianCheck, opened: _Opened) -> JacobianAtPoint:
    """The function and the Jacobian at a point, with what further looks ask for; the noise is measured."""
    options, exact = check.options, partial(_complex, check, opened)
    at_point = open_jacobian(
        opened.function, opened.operator, options.step, options.rtol, options.atol, options.stencil
    )
    return replace(
        at_point,
        displaced=check.displaced(opened.point, opened.output_shape),
        complex_function=ComplexFunction(exact, preferred=at_point.stencil.is_complex),
    )


def _complex(check: JacobianCheck, opened: _Opened) -> VectorFunction | None:
    """The function at complex inputs; None if its source does not show that it is analytic."""
    from fastgc._verdicts.complex_step import is_analytic, is_data

    if not (is_analytic(check.f) and is_data(check.args)):
        return None
    point, deadline = opened.point.astype(np.complex128), opened.function.deadline
    function = check.interruption.call(partial(plain_function, deadline=deadline), check.f, point, check.args)
    return check.attached(function)


def _by_complex_step(
    check: JacobianCheck, opened: _Opened, jacobian: JacobianAtPoint, checked: Checked
) -> tuple[Checked, tuple[str, ...]]:
    """Entries that noise leaves undecided, decided where the function is analytic, and a note if some were."""
    if jacobian.step is not None or checked.unreached or not checked.judgement.undecided.any():
        return checked, ()
    from fastgc._verdicts.complex_step import adjudicate

    def displaced(positions: Positions, relative: Floats) -> tuple[Array, Floats]:
        point = opened.point.astype(np.complex128)
        function = check.attached(check.interruption.call(plain_function, check.f, point, check.args))
        outputs, inputs = jacobian.places(positions)
        columns, mine = np.unique(inputs, return_inverse=True)
        steps = relative * opened.function.unmeasured.scales(columns)[:, None]
        lines = function.lines(columns, function.point[columns][:, None] + 1j * steps)
        return lines[mine, :, outputs], steps[mine]

    estimates, judgement, notes = adjudicate(
        check.f, check.args, displaced, checked.estimates, checked.judgement, partial(verdicts, jacobian)
    )
    return Checked(estimates, judgement), notes


def _hidden(jacobian: JacobianAtPoint, groups: Sequence[Group], seed: int, bar: Progress) -> Found | None:
    """A few columns of a noisy function, if noise hides all their slopes: the others would show as little."""
    if len(groups) <= TRIED:
        return None
    found = find(jacobian, [groups[k] for k in spread(len(groups), TRIED).tolist()], 0, seed, bar)
    return found if found[2] is None and all_hidden(found[0].judgement) else None


def _noise(function: VectorFunction) -> Iterator[str]:
    """A note where a second call gives other outputs."""
    with contextlib.suppress(OutOfTime):
        again = function.outputs(np.empty(0, np.int64), np.empty((1, 0)))[0]
        if not np.array_equal(again.real, function.base):
            yield "f is noisy: a repeated call gave other outputs (dropout? no seed set?)"


# --- one point ---


@np.errstate(all="ignore")  # what is not finite is judged, and not warned about
def find(jacobian: JacobianAtPoint, groups: Sequence[Group], probes: int, seed: int, bar: Progress) -> Found:
    """Check entries one by one, then dependences outside the declared sparsity, then random directions.

    Entries of the analytic Jacobian that are not finite fail whatever else is found.

    Raises
    ------
    Exception
        The first exception of the function, if it raised at every displaced point, all analytic entries are finite, and
        the time sufficed.
    """
    bad = spoiled(jacobian.operator)
    found: list[Checked] = []
    projections, unreached = Projections(), ""
    try:
        for some in _in_time(jacobian.function.deadline, groups, seed):
            found.append(check_groups(jacobian, some, bar))
            found += follow_strays(jacobian, found[-1], bar)
            if jacobian.function.interruption.requested:
                raise Stopped
        if probes and math.prod(jacobian.shape):
            bar.phase("probes")
            projections, more = project(jacobian, Checked.joined(found), probes, seed, bar)
            found += more
    except OutOfTime:
        found = found or [check_groups(jacobian, [], bar)]
        why = INTERRUPTED if jacobian.function.interruption.requested else "not reached"
        unreached = _unreached(groups, Checked.joined(found), probes)
        unreached = f"{why}: {unreached}" if unreached else ""
    if bad is not None:
        unknown = Estimates.unknown(bad.first)
        found.append(Checked(unknown, verdicts(jacobian, unknown)))
    elif not unreached:
        jacobian.function.raised.pass_on()
    bar.failed(sum(int(np.count_nonzero(each.judgement.failed)) for each in found))
    joined = Checked.joined(found)
    return Checked(joined.estimates, joined.judgement, unreached=unreached), projections, bad


def _in_time(deadline: float, groups: Sequence[Group], seed: int) -> Iterator[Sequence[Group]]:
    """All groups; under a deadline a few at a time in random order, each with an entry of every output it may move."""
    if deadline == math.inf or not groups:
        yield groups
        return
    for some in batches(stream(seed, "order of entries").permutation(len(groups)), deadline):
        if now() > deadline:
            raise OutOfTime
        yield [groups[k] for k in np.sort(some).tolist()]


def _unreached(groups: Sequence[Group], checked: Checked, probes: int) -> str:
    planned = sum(int(np.count_nonzero(group.owner >= 0)) for group in groups)
    missing = planned - checked.estimates.positions.size
    parts = [f"{missing} of {planned} entries"] if missing > 0 else []
    return " and ".join([*parts, *(["probes"] if probes else [])])
