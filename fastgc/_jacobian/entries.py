"""Entries of a Jacobian: one quotient for each, and ladders of steps for those that it does not decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fastgc._derivatives.estimates import Estimates, LossAtPoint, ladder_estimates
from fastgc._derivatives.stencil import STENCILS
from fastgc._evaluation.evaluator import Tick, silent
from fastgc._jacobian.columns import Group
from fastgc._jacobian.function import VectorFunction
from fastgc._jacobian.operator import Operator
from fastgc._parameters.arrays import Floats, Positions, spread
from fastgc._progress import Progress
from fastgc._verdicts.entries import PLAIN, confirm, decide
from fastgc._verdicts.judgement import SCALE_FLOOR, Judgement, Tolerances, default_rtol, judge

Strays = list[tuple[int, Group]]  # an output, and the group whose columns move it though none of them should

_CENTRAL = STENCILS["central"]
_WIDE = 4.0  # times the step: a second quotient, whose truncation error is 16 times as large
# Of the difference of these two, so 45 truncation errors: a few groups stand for all, and the rest climbs a ladder.
_DEVIATION_SAFETY = 3.0
_TRIALS = 8  # groups of columns whose wide quotients are measured: 16 evaluations
_FEWEST = 4  # entries from which an input gets a scale: with fewer, a wrong entry would be its own measure
_AROUND = 1e-6  # share of the slopes around the point that an uncertainty at the point is compared with, at least
_MEASURED = 8  # outputs whose noise is always measured: they share their evaluations
_MOST_LADDERS = 1024  # entries that climb a ladder; their arithmetic takes about a second
_MARGIN = 100.0  # times the uncertainty of its quotient, for an entry in doubt beyond that number
_TOGETHER = 64  # columns whose values are kept for all their outputs at a time
_STRAY = 100.0  # times its noise: so large a change of an output, where none is allowed, is not noise
_LEAST = 1e-300  # as a scale: above the uncertainty (the smallest normal number) of an output that stands still
_NOISE_REASONS = ("noise or round-off of this output hides the slope",) * 2


@dataclass(frozen=True)
class JacobianAtPoint:
    """A function around a point and its analytic Jacobian; entry (i, j) has the position ``i * n + j``."""

    function: VectorFunction
    operator: Operator
    step: float | None
    rtol: float
    atol: float | None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.operator.shape

    def places(self, positions: Positions) -> tuple[Positions, Positions]:
        """Outputs and inputs of entries."""
        return np.divmod(positions, max(1, self.shape[1]))


def open_jacobian(
    function: VectorFunction, operator: Operator, step: float | None, rtol: float | None, atol: float | None
) -> JacobianAtPoint:
    """Measure the noise of some outputs where it decides the step; the default rtol is that of the Jacobian's dtype."""
    if step is None:
        function.measure(spread(function.base.size, _MEASURED).tolist())
    return JacobianAtPoint(function, operator, step, default_rtol(operator.dtype) if rtol is None else rtol, atol)


@dataclass(frozen=True)
class Checked:
    """Entries with their verdicts, and outputs that move though they should not."""

    estimates: Estimates
    judgement: Judgement
    strays: Strays = field(default_factory=list)

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
    quotients, strays = _quotients(jacobian, groups, bar)
    estimates, judgement = decide(
        quotients,
        lambda each: verdicts(jacobian, each),
        lambda positions, shift: _ladders(jacobian, quotients, positions, shift),
    )
    estimates, judgement = _confirmed(jacobian, estimates, judgement)
    return Checked(estimates, judgement, strays + _explained_by_others(jacobian, groups, quotients, estimates))


# --- quotients ---


def _quotients(jacobian: JacobianAtPoint, groups: Sequence[Group], bar: Progress) -> tuple[Estimates, Strays]:
    """One quotient for each entry; also the outputs that move though they depend on no column of their group.

    The truncation error of an output's quotients is judged from wider ones of a few groups. An entry whose quotient
    does not agree climbs a ladder, however certain it is; this uncertainty says which of the others climb one too.
    """
    if not groups:
        return Estimates.joined([]), []
    trials = spread(len(groups), _TRIALS)
    near, at, strays = _measured(jacobian, groups, 1.0, bar.advance)
    wide, _, _ = _measured(jacobian, [groups[k] for k in trials.tolist()], _WIDE, silent)
    _measure_still_outputs(jacobian, Estimates.joined([near, wide]))
    scales = jacobian.function.unmeasured.scales(np.arange(jacobian.shape[1]))
    off = _deviation(jacobian, near.part(np.isin(at, trials)), wide, scales)
    outputs, inputs = jacobian.places(near.positions)
    with np.errstate(all="ignore"):
        noise = np.fmax(near.uncertainty, _noise(jacobian)[outputs] / near.step)
        uncertainty = np.fmax(off[outputs] / scales[inputs] + noise, np.finfo(np.float64).tiny)
    return replace(near, uncertainty=uncertainty), strays


def _deviation(jacobian: JacobianAtPoint, near: Estimates, wide: Estimates, scales: Floats) -> Floats:
    """The largest difference of each output's quotients at two steps, times the input's scale.

    That is 15 times the truncation error of the nearer ones, or their noise, which need not have been measured.
    """
    largest = np.zeros(jacobian.shape[0])
    outputs, inputs = jacobian.places(near.positions)
    with np.errstate(all="ignore"):
        np.fmax.at(largest, outputs, np.abs(wide.numerical - near.numerical) * scales[inputs])
    return _DEVIATION_SAFETY * largest


def _measure_still_outputs(jacobian: JacobianAtPoint, quotients: Estimates) -> None:
    """Measure the noise of outputs that stand still, but move farther away: their values may be rounded."""
    outputs, _ = jacobian.places(quotients.positions)
    moved = np.bincount(outputs, quotients.numerical != 0, jacobian.shape[0]) > 0
    if not moved.all():
        still = np.flatnonzero(~moved & jacobian.function.moves)
        jacobian.function.measure(still[spread(still.size, _MEASURED)].tolist())


def _measured(
    jacobian: JacobianAtPoint, groups: Sequence[Group], multiple: float, tick: Tick
) -> tuple[Estimates, Positions, Strays]:
    """Quotients at a multiple of the usual steps, as uncertain as their round-off; the group of each; the strays.

    Each group is displaced a step ahead of the point and a step behind it. Distances are those after rounding.
    """
    function, sizes = jacobian.function, [group.columns.size for group in groups]
    columns, line = np.concatenate([group.columns for group in groups]), np.repeat(np.arange(len(groups)), sizes)
    steps = multiple * function.steps(columns, _CENTRAL, jacobian.step)
    displaced = function.rounded(columns, function.point[columns][:, None] + steps[:, None] * [1.0, -1.0])
    values = function.lines(columns, displaced, line, tick)
    owner = np.stack([group.owner for group in groups])
    at, outputs = np.nonzero(owner >= 0)
    mine = np.cumsum([0, *sizes])[at] + owner[at, outputs]
    with np.errstate(all="ignore"):
        rounding = np.finfo(np.float64).eps / 2 * np.abs(values).max(axis=1)
        change = values[:, 0] - values[:, 1]
        quotients = change[at, outputs] / (displaced[:, 0] - displaced[:, 1])[mine]
        uncertainty = rounding[at, outputs] / steps[mine]
        free = np.array([group.declared for group in groups])[:, None] & (owner < 0)
        unknown = free & ~np.isfinite(change)
        unknown &= np.cumsum(unknown, axis=1) == 1  # one of a group stands for all
        loose = np.argwhere(unknown | (free & (np.abs(change) > _STRAY * np.fmax(_noise(jacobian), rounding))))
    positions, nothing = outputs * jacobian.shape[1] + columns[mine], np.zeros(at.size, np.int8)
    estimates = Estimates(positions, quotients, uncertainty, quotients, quotients, steps[mine], nothing)
    return estimates, at, [(output, groups[k]) for k, output in loose.tolist()]


def _noise(jacobian: JacobianAtPoint) -> Floats:
    """The noise of each output, as far as it was measured."""
    noise = np.zeros(jacobian.shape[0])
    for output, loss in jacobian.function.losses.items():
        noise[output] = loss.noise.at_point
    return noise


# --- ladders ---


def _ladders(jacobian: JacobianAtPoint, quotients: Estimates, positions: Positions, shift: float) -> Estimates:
    """Ladders for the entries; beyond a number of them, their quotients with a larger uncertainty."""
    some = spread(positions.size, _MOST_LADDERS)
    order = np.argsort(quotients.positions, kind="stable")
    where = order[np.searchsorted(quotients.positions, positions, sorter=order)]
    result = quotients.part(where)
    result = replace(result, uncertainty=result.uncertainty * _MARGIN)
    return result.updated(some, _climbed(jacobian, positions[some], shift))


def _climbed(jacobian: JacobianAtPoint, positions: Positions, shift: float = 1.0) -> Estimates:
    """The entries from ladders of steps; the values along a column serve all outputs."""
    outputs, inputs = jacobian.places(positions)
    result, columns = Estimates.unknown(positions), np.unique(inputs)
    for begin in range(0, columns.size, _TOGETHER):
        block = np.isin(inputs, columns[begin : begin + _TOGETHER])
        chosen = np.unique(outputs[block]).tolist()
        jacobian.function.measure(chosen)
        for output in chosen:
            where = np.flatnonzero(block & (outputs == output))
            found = ladder_estimates(jacobian.function.loss(output), inputs[where], shift=shift)
            result = result.updated(where, replace(found, positions=positions[where]))
        jacobian.function.forget()
    return result


# --- verdicts ---


def _confirmed(jacobian: JacobianAtPoint, estimates: Estimates, judgement: Judgement) -> tuple[Estimates, Judgement]:
    """Take back the failures that small steps contradict: each row is the gradient of an output."""
    near = np.abs(judgement.analytic - estimates.numerical) <= PLAIN * estimates.uncertainty
    where = np.flatnonzero(judgement.failed & near)
    if not where.size:
        return estimates, judgement
    where = where[spread(where.size, _MOST_LADDERS)]
    outputs, inputs = jacobian.places(estimates.positions[where])
    uncertainty = estimates.uncertainty.copy()
    for output in np.unique(outputs).tolist():
        mine = outputs == output
        row = replace(estimates.part(where[mine]), positions=inputs[mine])
        found = _confirmed_row(jacobian.function.loss(output), row, judgement.part(where[mine]))
        uncertainty[where[mine]] = found.uncertainty
        jacobian.function.forget()
    estimates = replace(estimates, uncertainty=uncertainty)
    return estimates, verdicts(jacobian, estimates)


@dataclass(frozen=True)
class _Row:
    loss: LossAtPoint


def _confirmed_row(loss: LossAtPoint, row: Estimates, judgement: Judgement) -> Estimates:
    return confirm(_Row(loss), row, judgement, lambda _: judgement)[0]


def verdicts(jacobian: JacobianAtPoint, estimates: Estimates) -> Judgement:
    """The verdict on each entry, by the scale of that entry."""
    outputs, inputs = jacobian.places(estimates.positions)
    count = estimates.positions.size
    tolerances = Tolerances(
        np.full(count, jacobian.rtol), None if jacobian.atol is None else np.full(count, jacobian.atol)
    )
    analytic = jacobian.operator.entries(outputs, inputs)
    still = (analytic == 0) & (estimates.numerical == 0)
    scales = np.fmax(_scales(jacobian, estimates, outputs, inputs), np.where(still, _stillness(jacobian)[outputs], 0.0))
    return judge(analytic, estimates, np.arange(count), scales, tolerances, _NOISE_REASONS, _around(jacobian)[outputs])


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


def _around(jacobian: JacobianAtPoint) -> Floats:
    """For each output, what a slope of zero must be small against: slopes around the point, or the given atol."""
    around = np.full(jacobian.shape[0], jacobian.atol or 0.0)
    for output, loss in jacobian.function.losses.items():
        around[output] = max(around[output], _AROUND * loss.local_variation / loss.tensor_scales.max())
    return around


def _stillness(jacobian: JacobianAtPoint) -> Floats:
    """For each output, the scale of a slope that is zero in both: an output that stays the same to the bit agrees."""
    sizes = np.where(jacobian.function.base == 0, 1.0, np.abs(jacobian.function.base))  # 0 counts as terms of order 1
    sizes = sizes / jacobian.function.unmeasured.tensor_scales.max()
    return np.asarray(np.maximum(_AROUND * sizes, _LEAST))


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
