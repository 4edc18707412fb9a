"""Entries of a Jacobian: one quotient for each, and ladders of steps for those that it does not decide."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from fastgc._derivatives.directions import direction
from fastgc._derivatives.displaced import displaced_estimates, displacement
from fastgc._derivatives.entry_ladders import bends_away, reached_ladders
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.first_quotients import TRIAL_RATIO, TRIAL_SAFETY, distinguishing_quotients
from fastgc._derivatives.ladder import TOP, Ladder
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._derivatives.stencil import Stencil, quotients, stencil_named
from fastgc._evaluation.evaluator import OutOfTime, Ray, Stopped, Tick, silent
from fastgc._jacobian.columns import Group
from fastgc._jacobian.complex_function import ComplexFunction
from fastgc._jacobian.function import VectorFunction
from fastgc._jacobian.operator import Operator
from fastgc._jacobian.plainly_wrong import plainly_wrong
from fastgc._parameters.arrays import Array, Flags, Floats, Positions, distinct, median, spread
from fastgc._progress import DOUBT, ENTRIES, Progress
from fastgc._verdicts.entries import (
    AROUND,
    NearThePoint,
    analytic_rounding,
    confirm,
    decide,
    excuse,
    settled,
    with_first_look,
    without_unreached,
)
from fastgc._verdicts.judgement import NOTHING, SCALE_FLOOR, Judgement, Tolerances, default_rtol, judge
from fastgc._verdicts.nearby import AnalyticNearby, look_nearby

JacobianAlong = Callable[[Sequence[Ray]], Operator]  # at the inputs displaced along a direction
Strays = list[tuple[int, Group]]  # an output, and the group whose columns move it though none of them should

# Groups of columns whose wide quotients are measured, and outputs whose noise always is: 16 evaluations more, and those
# of the noise, which outputs share.
TRIALS = 8
_FEWEST = 4  # entries from which an input gets a scale: with fewer, a wrong entry would be its own measure
_MOST_LADDERS = 1024  # entries that climb a ladder; their arithmetic takes about a second
_TOGETHER = 64  # columns whose values are kept for all their outputs at a time
# Times its noise: so large a change of an output, where none is allowed, is not noise. A quotient in doubt that climbs
# no ladder is not off by so many uncertainties.
_STRAY = 100.0
_DISTANCES = TOP * 4.0 ** -np.arange(8.0)[::-1]  # along a direction, from the first step of entries to the largest
_NOISE_REASONS = ("noise or round-off of this output hides the slope",) * 2


@dataclass(frozen=True)
class JacobianAtPoint:
    """A function around a point and its analytic Jacobian; entry (i, j) has the position ``i * n + j``.

    Attributes
    ----------
    displaced : gives the analytic Jacobian at the point displaced along a direction; None if it cannot
    complex_function : the function at complex inputs, None if it is not to be asked
    """

    function: VectorFunction
    operator: Operator
    stencil: Stencil
    step: float | None
    rtol: float
    atol: float | None
    displaced: JacobianAlong | None = None
    complex_function: ComplexFunction | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.operator.shape

    @property
    def eps(self) -> float:
        """Resolution of the analytic Jacobian; what is no float counts as exact."""
        return float(np.finfo(self.operator.dtype).eps) if self.operator.dtype.kind == "f" else 0.0

    def kept(self, position: int) -> Ladder | None:
        """The ladder of an entry, if it climbed one that was kept."""
        output, column = divmod(position, max(1, self.shape[1]))
        loss = self.function.losses.get(output)
        return None if loss is None else loss.kept.among(np.array([column])).get(0)

    def places(self, positions: Positions) -> tuple[Positions, Positions]:
        """Outputs and inputs of entries."""
        return np.divmod(positions, max(1, self.shape[1]))


def open_jacobian(
    function: VectorFunction,
    operator: Operator,
    step: float | None,
    rtol: float | None,
    atol: float | None,
    stencil: str = "central",
) -> JacobianAtPoint:
    """Measure the noise of some outputs where it decides the step; the default rtol is that of the Jacobian's dtype."""
    if step is None:
        with contextlib.suppress(OutOfTime):
            function.measure(spread(function.base.size, TRIALS).tolist())
    rtol = default_rtol(operator.dtype) if rtol is None else rtol
    return JacobianAtPoint(function, operator, stencil_named(stencil), step, rtol, atol)


@dataclass(frozen=True)
class Checked:
    """Entries with their verdicts.

    Attributes
    ----------
    strays : outputs that move though they should not
    unreached : what the time did not suffice for, "" for nothing
    """

    estimates: Estimates
    judgement: Judgement
    strays: Strays = field(default_factory=list)
    unreached: str = ""

    def part(self, keep: Positions) -> Checked:
        """Some of the entries."""
        return Checked(self.estimates.part(keep), self.judgement.part(keep))

    @classmethod
    def joined(cls, parts: Sequence[Checked]) -> Checked:
        """The entries of all parts in the order of their positions, each once: as the first part has it."""
        estimates = Estimates.joined([part.estimates for part in parts])
        judgement = Judgement.joined([part.judgement for part in parts])
        return cls(estimates, judgement).part(np.unique(estimates.positions, return_index=True)[1])


def check_groups(jacobian: JacobianAtPoint, groups: Sequence[Group], bar: Progress) -> Checked:
    """Measure and judge all entries of the groups: quotients for all, ladders for those in doubt."""
    first, strays = _quotients(jacobian, groups, bar)
    judged = partial(verdicts, jacobian)
    judgement = judged(first)
    plain = plainly_wrong(jacobian.function, groups, jacobian.places(first.positions), first, judgement)
    estimates, judgement = decide(first, judged, partial(_ladders, jacobian, first, bar), plain, judgement)
    estimates, judgement = with_first_look(estimates, judgement, first, judged)
    asked = None if jacobian.displaced is None else partial(_verdicts_beside, jacobian, jacobian.displaced)
    near = NearThePoint(
        partial(_small_steps, jacobian), partial(_bends_away, jacobian), np.full(plain.size, plain.any())
    )
    looks = partial(confirm, near), partial(excuse, asked), partial(look_nearby, _nearby(jacobian))
    estimates, judgement = settled(estimates, judgement, judged, *looks)
    strays = strays + _explained_by_others(jacobian, groups, first, estimates)
    return Checked(*without_unreached(estimates, judgement), strays)


# --- quotients ---


def _quotients(jacobian: JacobianAtPoint, groups: Sequence[Group], bar: Progress) -> tuple[Estimates, Strays]:
    """One quotient for each entry, one-sided at bounds; also the outputs that move with no column of their group."""
    edged = np.array([_leaves_bounds(jacobian, group) for group in groups], bool)
    found, strays = [], []
    with contextlib.suppress(Stopped):
        for formula, where in ((jacobian.stencil, ~edged), (stencil_named("forward"), edged)):
            if where.any():
                some = [groups[k] for k in np.flatnonzero(where).tolist()]
                each = _first_look(replace(jacobian, stencil=formula), some, bar)
                found.append(each[0])
                strays += each[1]
    return Estimates.joined(found), strays


def _leaves_bounds(jacobian: JacobianAtPoint, group: Group) -> bool:
    function, formula = jacobian.function, jacobian.stencil
    if function.bounds is None:
        return False
    steps = TRIAL_RATIO * function.steps(group.columns, formula, jacobian.step)
    return not function.bounds.contain(group.columns, function.displaced(group.columns, formula, steps)[0]).all()


def _first_look(jacobian: JacobianAtPoint, groups: Sequence[Group], bar: Progress) -> tuple[Estimates, Strays]:
    """Quotients by one formula, and strays.

    The truncation error of an output's quotients is judged from wider ones of a few groups. An entry whose quotient
    does not agree climbs a ladder, however certain it is; this uncertainty says which of the others climb one too.
    """
    trials = spread(len(groups), TRIALS)
    wide, _, _ = _measured(jacobian, [groups[k] for k in trials.tolist()], TRIAL_RATIO, silent)
    bar.phase(ENTRIES)
    near, at, strays = _measured(jacobian, groups, 1.0, bar.advance)
    with contextlib.suppress(Stopped):
        _measure_still_outputs(jacobian, Estimates.joined([near, wide]))
    scales = jacobian.function.unmeasured.scales(np.arange(jacobian.shape[1]))
    off = _deviation(jacobian, near.part(np.isin(at, trials)), wide, scales)
    outputs, inputs = jacobian.places(near.positions)
    with np.errstate(all="ignore"):
        noise = np.fmax(near.uncertainty, _noise(jacobian)[outputs] / near.step)
        uncertainty = np.fmax(off[outputs] / scales[inputs] + noise, np.finfo(np.float64).tiny)
    found = replace(near, uncertainty=uncertainty)
    if jacobian.function.interruption.requested:
        return found.part(np.isfinite(found.numerical)), []
    return found, strays


def _deviation(jacobian: JacobianAtPoint, near: Estimates, wide: Estimates, scales: Floats) -> Floats:
    """A usual difference of each output's quotients at two steps, times the input's scale.

    That shows the truncation error of the nearer ones, of which the median stands for all inputs of one tensor, as in a
    gradient; or the noise, where that was not measured, and then the largest does, as for inputs of several tensors.
    """
    (m, _), function = jacobian.shape, jacobian.function
    outputs, inputs = jacobian.places(near.positions)
    with np.errstate(all="ignore"):
        off = np.nan_to_num(np.abs(wide.numerical - near.numerical) * scales[inputs], nan=0.0, posinf=np.inf)
    counts, order = np.bincount(outputs, minlength=m), np.lexsort((off, outputs))
    measured, moving = np.isin(np.arange(m), list(function.losses)), np.flatnonzero(counts)
    usual = measured & (len(function.layout.names) == 1)
    chosen = np.cumsum(counts) - np.where(usual, counts - counts // 2, 1)
    result = np.zeros(m)
    result[moving] = off[order][chosen[moving]]
    return TRIAL_SAFETY * np.where(measured, 1 / (TRIAL_RATIO**jacobian.stencil.order - 1), 1.0) * result


def _measure_still_outputs(jacobian: JacobianAtPoint, quotients: Estimates) -> None:
    """Measure the noise of outputs that stand still, but move farther away: their values may be rounded.

    Where all inputs together move an output no nearer either (that of a rectifier that is off, say), and its rounding
    hides no slope there, it has none around the point.
    """
    function = jacobian.function
    outputs, _ = jacobian.places(quotients.positions)
    moved = np.bincount(outputs, quotients.numerical != 0, jacobian.shape[0]) > 0
    if moved.all():
        return
    still = np.flatnonzero(~moved & function.moves)
    function.measure(still[spread(still.size, TRIALS)].tolist())
    least = _least_visible(jacobian)
    for output in still[np.isin(still, list(function.losses))].tolist():
        loss = function.losses[output]
        if least[output] <= AROUND * loss.local_variation:
            function.losses[output] = replace(loss, local_variation=0.0)


def _least_visible(jacobian: JacobianAtPoint) -> Floats:
    """The least slope of each output, by inputs in units of their scales, that would show where all inputs move.

    Infinite where the output moves at all distances.
    """
    function = jacobian.function
    rays = direction(function.unmeasured, range(len(function.leaves)), function.seed, 0)
    values = function.along(rays, np.concatenate([_DISTANCES, -_DISTANCES]))
    still = np.logical_and.accumulate((values == function.base).reshape(2, _DISTANCES.size, -1).all(axis=0))
    reach = np.where(still, _DISTANCES[:, None], 0.0).max(axis=0)
    with np.errstate(all="ignore"):
        return np.asarray(np.finfo(np.float64).eps * np.abs(function.base) / reach)


def _measured(
    jacobian: JacobianAtPoint, groups: Sequence[Group], multiple: float, tick: Tick
) -> tuple[Estimates, Positions, Strays]:
    """Quotients at a multiple of the usual steps, as uncertain as their round-off; the group of each; the strays.

    All columns of a group are displaced together.
    """
    function, formula, sizes = jacobian.function, jacobian.stencil, [group.columns.size for group in groups]
    columns, line = np.concatenate([group.columns for group in groups]), np.repeat(np.arange(len(groups)), sizes)
    steps = function.inward(columns, multiple * function.steps(columns, formula, jacobian.step))
    displaced, taken = function.displaced(columns, formula, steps)
    try:
        values = function.lines(columns, displaced, line, tick)
    except Stopped as stopped:
        if multiple != 1 or stopped.values is None:
            raise
        values = stopped.values
    owner = np.stack([group.owner for group in groups])
    at, outputs = np.nonzero(owner >= 0)
    mine = np.cumsum([0, *sizes])[at] + owner[at, outputs]
    with np.errstate(all="ignore"):
        rounding = _rounding(formula, values)
        found = quotients(formula, values[at, :, outputs], steps[mine], taken[mine])
        uncertainty = rounding[at, outputs] / np.abs(steps[mine])
        change = np.einsum("gkm,k->gm", values, formula.weights).real
    positions, nothing = outputs * jacobian.shape[1] + columns[mine], np.zeros(at.size, np.int8)
    estimates = Estimates(positions, found, uncertainty, found, found, np.abs(steps[mine]), nothing)
    return estimates, at, _strays(jacobian, groups, owner, change, rounding)


def _rounding(formula: Stencil, values: Array) -> Floats:
    """Round-off of the numerators of quotients, shape (groups, outputs), of values of shape (groups, k, outputs)."""
    size = np.abs(values.imag if formula.is_complex else values).max(axis=1)  # the imaginary part has its own
    return np.asarray(np.finfo(np.float64).eps / 2 * np.abs(formula.weights).sum() * size)


def _strays(
    jacobian: JacobianAtPoint, groups: Sequence[Group], owner: Positions, change: Floats, rounding: Floats
) -> Strays:
    """Outputs that move with a group though they depend on none of its columns; one that is unknown stands for all."""
    with np.errstate(all="ignore"):
        free = np.array([group.declared for group in groups])[:, None] & (owner < 0)
        unknown = free & ~np.isfinite(change)
        unknown &= np.cumsum(unknown, axis=1) == 1
        loose = unknown | (free & (np.abs(change) > _STRAY * np.fmax(_noise(jacobian), rounding)))
    return [(output, groups[k]) for k, output in np.argwhere(loose).tolist()]


def _noise(jacobian: JacobianAtPoint) -> Floats:
    """The noise of each output, as far as it was measured; a complex step subtracts nothing and has none."""
    noise = np.zeros(jacobian.shape[0])
    if jacobian.stencil.is_complex:
        return noise
    for output, loss in jacobian.function.losses.items():
        noise[output] = loss.noise.at_point
    return noise


# --- ladders ---


def _ladders(
    jacobian: JacobianAtPoint, quotients: Estimates, bar: Progress, positions: Positions, shift: float
) -> Estimates:
    """Ladders for the entries; beyond a number of them, their quotients with a larger uncertainty.

    That of complex steps shows nothing of a function that is not analytic; a usual deviation from the ladders does.
    """
    some = spread(positions.size, _MOST_LADDERS)
    order = np.argsort(quotients.positions, kind="stable")
    where = order[np.searchsorted(quotients.positions, positions, sorter=order)]
    result = quotients.part(where)
    climbed = _climbed(jacobian, positions[some], shift, bar)
    off = np.abs(climbed.numerical - result.numerical[some]) if jacobian.stencil.is_complex else np.zeros(some.size)
    off[~np.isfinite(off)] = 0.0
    result = replace(result, uncertainty=np.fmax(result.uncertainty * _STRAY, median(off) if off.size else 0.0))
    return result.updated(some, climbed)


def _climbed(jacobian: JacobianAtPoint, positions: Positions, shift: float, bar: Progress) -> Estimates:
    """The entries from ladders of steps; the values along a column serve all outputs, and count once."""
    outputs, inputs = jacobian.places(positions)
    result, columns = Estimates.unknown(positions).troubled(np.arange(positions.size), "not reached"), distinct(inputs)
    bar.phase(DOUBT, more=columns.size)
    with contextlib.suppress(Stopped):
        for begin in range(0, columns.size, _TOGETHER):
            block = np.isin(inputs, columns[begin : begin + _TOGETHER])
            chosen = distinct(outputs[block]).tolist()
            jacobian.function.measure(chosen)
            fresh = set(inputs[block].tolist())
            for output in chosen:
                where = np.flatnonzero(block & (outputs == output))
                tick = _at_most(len(fresh & set(inputs[where].tolist())), bar)
                fresh -= set(inputs[where].tolist())
                found = reached_ladders(jacobian.function.loss(output), inputs[where], shift, tick)
                result = result.updated(where, replace(found, positions=positions[where]))
            jacobian.function.forget()
    return result


def _at_most(count: int, bar: Progress) -> Tick:
    """What advances a bar by so many entries, and by no more."""
    left = count

    def tick(entries: int) -> None:
        nonlocal left
        some = min(left, entries)
        left -= some
        if some:
            bar.advance(some)

    return tick


def _small_steps(jacobian: JacobianAtPoint, positions: Positions, differences: Floats) -> Floats:
    """See `fastgc._derivatives.first_quotients.distinguishing_quotients`; NaN for entries beyond a number of them."""
    result, some = np.full(positions.size, np.nan), spread(positions.size, _MOST_LADDERS)
    outputs, inputs = jacobian.places(positions)
    for output in distinct(outputs[some]).tolist():
        mine = some[outputs[some] == output]
        result[mine] = distinguishing_quotients(jacobian.function.loss(output), inputs[mine], differences[mine])
    jacobian.function.forget()
    return result


def _bends_away(jacobian: JacobianAtPoint, position: int, slope: float) -> bool:
    """See `fastgc._derivatives.entry_ladders.bends_away`."""
    output, column = divmod(position, jacobian.shape[1])
    found = bends_away(jacobian.function.loss(output), column, slope)
    jacobian.function.forget()
    return found


def _verdicts_beside(
    jacobian: JacobianAtPoint,
    displaced: JacobianAlong,
    estimates: Estimates,
    where: Positions,
    side: float,
    attempt: int,
) -> tuple[Flags, Flags]:
    """Which entries are wrong on one side of the point, and which are right there."""
    rays = displacement(jacobian.function.unmeasured, side, attempt)
    try:
        there = replace(jacobian, operator=displaced(rays))
    except OutOfTime:
        raise
    except Exception:  # the Jacobian is not defined there, as the function may be
        return np.zeros(where.size, bool), np.zeros(where.size, bool)
    outputs, inputs = jacobian.places(estimates.positions[where])
    found = Estimates.unknown(estimates.positions[where])
    for output in distinct(outputs).tolist():
        mine = np.flatnonzero(outputs == output)
        slopes = displaced_estimates(jacobian.function.loss(output), inputs[mine], rays)
        found = found.updated(mine, replace(slopes, positions=found.positions[mine]))
    scales = _scales(jacobian, estimates, *jacobian.places(estimates.positions))[where]
    judged = verdicts(there, found, scales)
    return judged.failed, judged.passed


def _nearby(jacobian: JacobianAtPoint) -> AnalyticNearby | None:
    """How to ask the Jacobian with an input displaced; None where it cannot be called. One wrong entry fails it all."""
    displaced = jacobian.displaced
    if displaced is None:
        return None

    def place(position: int) -> tuple[LossAtPoint, int]:
        output, column = divmod(position, jacobian.shape[1])
        return jacobian.function.loss(output), column

    def asked(rays: Sequence[Ray], positions: Positions) -> Floats:
        return displaced(rays).entries(*jacobian.places(positions))

    return AnalyticNearby(place, asked, np.zeros_like)


# --- verdicts ---


def verdicts(jacobian: JacobianAtPoint, estimates: Estimates, scales: Floats | None = None) -> Judgement:
    """The verdict on each entry, by the scale of that entry: by default its own among these estimates."""
    outputs, inputs = jacobian.places(estimates.positions)
    count = estimates.positions.size
    tolerances = Tolerances(
        np.full(count, jacobian.rtol), None if jacobian.atol is None else np.full(count, jacobian.atol)
    )
    analytic = jacobian.operator.entries(outputs, inputs)
    slopes, zero = _slopes(jacobian)[outputs], (analytic == 0) & (estimates.numerical == 0)
    moving = np.bincount(outputs, ~zero, jacobian.shape[0]) > 0
    still = zero & (moving[outputs] | (slopes == 0))  # all slopes of an output that moves farther away may be lost
    scales = _scales(jacobian, estimates, outputs, inputs) if scales is None else scales
    scales = np.fmax(scales, np.where(still, _stillness(jacobian)[outputs], 0.0))
    rounding = analytic_rounding(jacobian.eps, scales, slopes)
    around = np.maximum(jacobian.atol or 0.0, AROUND * slopes)
    return judge(analytic, estimates, np.arange(count), scales, tolerances, _NOISE_REASONS, around, rounding)


def _scales(jacobian: JacobianAtPoint, estimates: Estimates, outputs: Positions, inputs: Positions) -> Floats:
    """The root mean square of the entry's row in its tensor, or of its column, whichever is smaller: units differ.

    A column of which few entries are known has no scale: an entry is no measure of itself. The scale is at least a
    millionth of the row over all tensors, as that of a gradient's tensor is.
    """
    (m, n), layout = jacobian.shape, jacobian.function.layout
    known = np.where(estimates.clear & np.isfinite(estimates.numerical), estimates.numerical, 0.0)
    by_output, _ = _root_mean_squares(known, outputs, m)
    blocks = outputs * len(layout.names) + layout.tensor_of(inputs)
    by_block, _ = _root_mean_squares(known, blocks, m * len(layout.names))
    by_input, counts = _root_mean_squares(known, inputs, n)
    of_input = np.where(counts < _FEWEST, np.inf, by_input)[inputs]
    return np.asarray(np.maximum(np.minimum(by_block[blocks], of_input), SCALE_FLOOR * by_output[outputs]))


def _root_mean_squares(values: Floats, owners: Positions, size: int) -> tuple[Floats, Positions]:
    """The root mean square of each owner's values, and how many values it has."""
    peak = np.abs(values).max(initial=0.0) or 1.0  # so that no square overflows
    counts = np.bincount(owners, minlength=size)
    return peak * np.sqrt(np.bincount(owners, (values / peak) ** 2, size) / np.maximum(1, counts)), counts


def _slopes(jacobian: JacobianAtPoint) -> Floats:
    """For each output, the slopes around the point as far as they were measured."""
    slopes = np.zeros(jacobian.shape[0])
    for output, loss in jacobian.function.losses.items():
        slopes[output] = loss.local_variation / loss.tensor_scales.max()
    return slopes


def _stillness(jacobian: JacobianAtPoint) -> Floats:
    """For each output, the scale of a slope that is zero in both: an output that stays the same to the bit agrees."""
    sizes = np.where(jacobian.function.base == 0, 1.0, np.abs(jacobian.function.base))  # 0 counts as terms of order 1
    sizes = sizes / jacobian.function.unmeasured.tensor_scales.max()
    return np.asarray(np.maximum(AROUND * sizes, NOTHING))


# --- groups ---


def _explained_by_others(
    jacobian: JacobianAtPoint, groups: Sequence[Group], quotients: Estimates, estimates: Estimates
) -> Strays:
    """Outputs whose quotient in a group differs from the ladder of their column: another column moves them too."""
    shared = {int(column): group for group in groups if group.columns.size > 1 for column in group.columns}
    if not shared:
        return []
    off = np.abs(quotients.numerical - estimates.numerical)
    margin = _STRAY * (quotients.uncertainty + estimates.uncertainty)
    where = np.flatnonzero(off > margin)
    outputs, inputs = jacobian.places(estimates.positions[where])
    return [(output, shared[j]) for output, j in zip(outputs.tolist(), inputs.tolist(), strict=True) if j in shared]
