"""Entries of a Jacobian: a quotient serves a whole column of outputs, ladders serve those in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fastgc._compare import SCALE_FLOOR, Judgement, Tolerances, default_rtol, judge
from fastgc._entries import Estimates, Scene, ladder_estimates, unmeasured_scene
from fastgc._field import Component, Field
from fastgc._layout import spread
from fastgc._operator import Operator
from fastgc._progress import Progress
from fastgc._settle import decide
from fastgc._stencil import STENCILS, relative_step

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

_CENTRAL = STENCILS["central"]
_WIDE = 4.0  # a second quotient, at so many steps, shows the truncation error of the first: 15 times it
_TRUNCATION_SAFETY = 3.0
_TRIALS = 8  # groups of columns on which it is measured
_FEWEST = 4  # entries that make a scale of an input
_AROUND = 1e-6  # share of the slopes around the point that a slope at the point is measured against, at least
_MEASURED = 8  # outputs whose noise is measured at the start; that of others once they are in doubt
_COARSEST = 1e-6  # relative noise that the first step is chosen for, at most
_MOST_LADDERS = 1024  # entries that climb a ladder; where more are in doubt, the rest is judged with a wide margin:
_MARGIN = 100.0  # times the uncertainty of their quotients
_TOGETHER = 64  # columns whose values are kept for all their outputs
_STRAY = 100.0  # noises above which an output moves with inputs that should not move it
_LEAST = 1e-300  # above the uncertainty of what is zero everywhere
_NOISE_REASON = "noise or round-off of this output hides the slope"


@dataclass(frozen=True)
class Group:
    """Columns displaced together: no output may depend on two of them.

    ``owner[i]`` is the place in ``columns`` of the one that output i is compared for, -1 for none. ``declared``: such
    outputs must not move.
    """

    columns: Positions
    owner: Positions
    declared: bool = False


@dataclass(frozen=True)
class Grid:
    """A function around a point and its analytic Jacobian; entry (i, j) has the position ``i * n + j``."""

    field: Field
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

    @cached_property
    def unmeasured(self) -> Scene:
        """For the inputs' scales only."""
        return unmeasured_scene(Component(self.field, 0), self.field.layout, self.field.leaves, 0.0)


def open_grid(field: Field, operator: Operator, step: float | None, rtol: float | None, atol: float | None) -> Grid:
    """Measure the noise of some outputs; the default tolerance is that of the Jacobian's dtype."""
    m = field.base.size
    for output in spread(m, _MEASURED).tolist():
        field.scene(output)
    return Grid(field, operator, step, default_rtol(operator.dtype) if rtol is None else rtol, atol)


@dataclass(frozen=True)
class Checked:
    """Entries with their verdicts, and (output, group) pairs where something moves that should not."""

    estimates: Estimates
    judgement: Judgement
    strays: tuple[tuple[int, Group], ...] = ()

    def part(self, keep: Positions) -> Checked:
        """Some of the entries."""
        return Checked(self.estimates.part(keep), self.judgement.part(keep))

    @classmethod
    def joined(cls, parts: Sequence[Checked]) -> Checked:
        """The entries of all parts in the order of their positions, each once: as the first part has it."""
        estimates = Estimates.joined([part.estimates for part in parts])
        judgement = Judgement.joined([part.judgement for part in parts])
        return cls(estimates, judgement).part(np.unique(estimates.positions, return_index=True)[1])


def check_groups(grid: Grid, groups: Sequence[Group], bar: Progress) -> Checked:
    """Quotients for all entries of the groups, ladders for those in doubt, and the verdicts."""
    truncation = _truncation(grid, groups)
    parts, strays = [], []
    for group in groups:
        quotients, loose = _quotients(grid, group, truncation)
        parts.append(quotients)
        strays += [(int(output), group) for output in loose]
        bar.advance(group.columns.size)
    quotients = Estimates.joined(parts)
    estimates, judgement = decide(
        quotients,
        lambda each: verdicts(grid, each),
        lambda positions, shift: _ladders(grid, quotients, positions, shift),
    )
    return Checked(estimates, judgement, (*strays, *_explained_by_others(grid, groups, quotients, estimates)))


# --- quotients ---


def _quotients(grid: Grid, group: Group, truncation: Floats) -> tuple[Estimates, Positions]:
    """Of all outputs at once; also the outputs that move though they depend on no column of the group."""
    steps = _steps(grid, group.columns)
    values, taken = _displaced(grid, group.columns, steps)
    owned = np.flatnonzero(group.owner >= 0)
    mine = group.owner[owned]
    with np.errstate(all="ignore"):
        noise = np.fmax(_noise(grid), np.finfo(np.float64).eps / 2 * np.abs(values).max(axis=0))
        change = values[0] - values[1]
        quotients = change[owned] / taken[mine]
        uncertainty = truncation[owned] / grid.unmeasured.scales(group.columns)[mine] + noise[owned] / steps[mine]
    loose = np.flatnonzero((group.owner < 0) & group.declared & (np.abs(change) > _STRAY * noise))
    positions = owned * grid.shape[1] + group.columns[mine]
    trouble = np.zeros(owned.size, np.int8)
    uncertainty = np.fmax(uncertainty, np.finfo(np.float64).tiny)
    return Estimates(positions, quotients, uncertainty, quotients, quotients, steps[mine], trouble), loose


def _displaced(grid: Grid, columns: Positions, steps: Floats) -> tuple[Floats, Floats]:
    """Outputs a step ahead of the point and a step behind it, shape (2, m), and the distances as rounded."""
    start = grid.field.point[columns]
    displaced = grid.field.rounded(columns, np.stack([start + steps, start - steps], axis=1))
    return grid.field.outputs(columns, displaced.T), displaced[:, 0] - displaced[:, 1]


def _truncation(grid: Grid, groups: Sequence[Group]) -> Floats:
    """The truncation error of each output's quotients, times the input's scale, from a few of the groups.

    An entry that a quotient does not settle climbs a ladder, whatever this is; it tells which ones are too uncertain.
    """
    largest = np.zeros(grid.shape[0])
    for k in spread(len(groups), _TRIALS).tolist():
        columns, owner = groups[k].columns, groups[k].owner
        steps = _steps(grid, columns)
        (near, taken), (wide, taken_wide) = (_displaced(grid, columns, each) for each in (steps, _WIDE * steps))
        with np.errstate(all="ignore"):
            first, second = (near[0] - near[1]) / taken[owner], (wide[0] - wide[1]) / taken_wide[owner]
            error = np.abs(second - first) / (_WIDE**2 - 1) * grid.unmeasured.scales(columns)[owner]
        largest = np.fmax(largest, np.where(owner >= 0, error, 0.0))
    return _TRUNCATION_SAFETY * largest


def _steps(grid: Grid, columns: Positions) -> Floats:
    if grid.step is not None:
        return np.full(columns.size, grid.step)
    scene = grid.unmeasured
    precision = np.clip(_relative_noise(grid), scene.eps[grid.field.layout.tensor_of(columns)], _COARSEST)
    return relative_step(_CENTRAL, precision) * scene.scales(columns)


def _relative_noise(grid: Grid) -> float:
    scenes = [scene for scene in grid.field.scenes.values() if scene.base and np.isfinite(scene.base)]
    return max((scene.noise.at_point / abs(scene.base) for scene in scenes), default=0.0)


def _noise(grid: Grid) -> Floats:
    """The noise of each output, as far as it was measured."""
    noise = np.zeros(grid.shape[0])
    for output, scene in grid.field.scenes.items():
        noise[output] = scene.noise.at_point
    return noise


# --- ladders ---


def _ladders(grid: Grid, quotients: Estimates, positions: Positions, shift: float) -> Estimates:
    """Ladders for the entries; where there are too many, for some, and less certain quotients for the others."""
    some = spread(positions.size, _MOST_LADDERS)
    order = np.argsort(quotients.positions, kind="stable")
    where = order[np.searchsorted(quotients.positions, positions, sorter=order)]
    result = quotients.part(where)
    result = replace(result, uncertainty=result.uncertainty * _MARGIN)
    return result.updated(some, climbed(grid, positions[some], shift))


def climbed(grid: Grid, positions: Positions, shift: float = 1.0) -> Estimates:
    """The entries from ladders of steps; the values along a column serve all its outputs."""
    outputs, inputs = grid.places(positions)
    unknown = np.full(positions.size, np.nan)
    result = Estimates(positions, *[unknown] * 5, np.zeros(positions.size, np.int8))  # type: ignore[call-arg]
    columns = np.unique(inputs)
    for begin in range(0, columns.size, _TOGETHER):
        block = np.isin(inputs, columns[begin : begin + _TOGETHER])
        for output in np.unique(outputs[block]).tolist():
            where = np.flatnonzero(block & (outputs == output))
            found = ladder_estimates(grid.field.scene(output), inputs[where], shift=shift)
            result = result.updated(where, replace(found, positions=positions[where]))
        grid.field.forget()
    return result


# --- verdicts ---


def verdicts(grid: Grid, estimates: Estimates) -> Judgement:
    """The verdict on every entry, each with a scale of its own."""
    outputs, inputs = grid.places(estimates.positions)
    count = estimates.positions.size
    tolerances = Tolerances(np.full(count, grid.rtol), None if grid.atol is None else np.full(count, grid.atol))
    analytic = grid.operator.entries(outputs, inputs)
    still = (analytic == 0) & (estimates.numerical == 0)
    scales = np.fmax(_scales(grid, estimates, outputs, inputs), np.where(still, _stillness(grid)[outputs], 0.0))
    return judge(analytic, estimates, np.arange(count), scales, tolerances, _NOISE_REASON, _around(grid)[outputs])


def _scales(grid: Grid, estimates: Estimates, outputs: Positions, inputs: Positions) -> Floats:
    """The root mean square of the entry's output or of its input, whichever is smaller: units differ in both.

    An input of which few entries are known has no scale of its own: an entry is no measure of itself.
    """
    m, n = grid.shape
    known = np.where(estimates.clear & np.isfinite(estimates.numerical), estimates.numerical, 0.0)
    by_output, _ = _root_mean_squares(known, outputs, m)
    by_input, counts = _root_mean_squares(known, inputs, n)
    of_output, of_input = by_output[outputs], np.where(counts < _FEWEST, np.inf, by_input)[inputs]
    return np.asarray(np.maximum(np.minimum(of_output, of_input), SCALE_FLOOR * of_output))


def _root_mean_squares(values: Floats, owners: Positions, size: int) -> tuple[Floats, Positions]:
    """Of the values of every owner, and how many each has."""
    peak = np.abs(values).max(initial=0.0) or 1.0  # so that no square overflows
    counts = np.bincount(owners, minlength=size)
    return peak * np.sqrt(np.bincount(owners, (values / peak) ** 2, size) / np.maximum(1, counts)), counts


def _around(grid: Grid) -> Floats:
    """What slopes must be small against though they vanish here: those around the point, and a given tolerance."""
    around = np.full(grid.shape[0], grid.atol or 0.0)
    for output, scene in grid.field.scenes.items():
        around[output] = max(around[output], _AROUND * scene.swing / scene.tensor_scales.max())
    return around


def _stillness(grid: Grid) -> Floats:
    """A scale for slopes of zero that are said to be zero: an output that stays the same to the bit is an answer."""
    sizes = np.abs(grid.field.base) / grid.unmeasured.tensor_scales.max()
    return np.asarray(np.maximum(_AROUND * sizes, _LEAST))


# --- groups ---


def _explained_by_others(
    grid: Grid, groups: Sequence[Group], quotients: Estimates, estimates: Estimates
) -> list[tuple[int, Group]]:
    """Outputs whose quotient in a group is not that of its column alone: another column moves them too."""
    shared = {int(column): group for group in groups if group.columns.size > 1 for column in group.columns}
    if not shared:
        return []
    off = np.abs(quotients.numerical - estimates.numerical)
    margin = _STRAY * (quotients.uncertainty + estimates.uncertainty)
    where = np.flatnonzero(off > margin)
    outputs, inputs = grid.places(estimates.positions[where])
    return [(output, shared[j]) for output, j in zip(outputs.tolist(), inputs.tolist(), strict=True) if j in shared]
