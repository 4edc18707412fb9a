"""Entries of a Jacobian that are plainly wrong: two steps agree on another slope, and no ladder could change that.

`fastgc._verdicts.plainly_wrong` says how, and where the bounds come from. Here columns are displaced together, for all
outputs at once: by as little as shows the differences of one of the outputs, and by their signs, so that they add up
there. All differences of a right Jacobian come from kinks nearer to the point than the first look: that output sees
them, and none of the columns is confirmed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.stencil import stencil_named
from fastgc._evaluation.evaluator import Stopped
from fastgc._jacobian.columns import Group
from fastgc._jacobian.function import VectorFunction
from fastgc._parameters.arrays import Flags, Floats, Positions, distinct
from fastgc._verdicts.judgement import Judgement
from fastgc._verdicts.plainly_wrong import AT_KINKS, CLEAR, FARTHER, GROUP, OFF, far_off, grows_as_the_square, unlike

# Parts of the columns of a group, which move different outputs. One that moves another's output against the declared
# sparsity is in another part than that, as a rule: it leaves both to ladders, which tell it from a wrong entry.
_PARTS = 8
# In eps of an input's scale: a quarter of what counts as the point itself where kinks are looked for
# (`fastgc._verdicts.nearby.searched_within`), so that round-off of the outputs seldom hides a difference.
_NEIGHBOURHOOD = 4096.0
_ROUNDING = 4 * np.finfo(np.float64).eps  # of an output, over a handful of operations


@dataclass(frozen=True)
class _Wrong:
    """Entries of some columns, arrays of shape (entries,), and how the columns are displaced together.

    Attributes
    ----------
    columns, line : the inputs, and of each the displacement that it belongs to, in ascending order
    column, output : of each entry: the place of its input in ``columns``, and its output
    slopes : numerical values
    differences : of analytic and numerical values; 0 where that is not far off
    noises : bounds on the noise of the output, from the first look
    """

    function: VectorFunction
    columns: Positions
    line: Positions
    column: Positions
    output: Positions
    slopes: Floats
    differences: Floats
    noises: Floats

    @property
    def lines(self) -> int:
        """Displacements."""
        return int(self.line[-1]) + 1

    def least(self, values: Floats) -> Floats:
        """The least of the values of the entries far off, for each line and output; infinite where there are none."""
        found, far = np.full((self.lines, self.function.base.size), np.inf), self.differences != 0
        np.minimum.at(found, (self.line[self.column[far]], self.output[far]), values[far])
        return found

    def displaced(self, moves: Floats) -> tuple[Floats, Floats]:
        """The changes of all outputs, shape (lines, outputs), and those that the numerical slopes foretell."""
        x = self.function.point[self.columns]
        rows = self.function.rounded(self.columns, (x + moves)[:, None])
        changes = self.function.lines(self.columns, rows, self.line)[:, 0].real - self.function.base
        places = self.line[self.column] * self.function.base.size + self.output
        foretold = np.bincount(places, self.slopes * (rows[:, 0] - x).real[self.column], changes.size)
        return changes, foretold.astype(np.float64).reshape(changes.shape)


def plainly_wrong(
    function: VectorFunction,
    groups: Sequence[Group],
    places: tuple[Positions, Positions],
    estimates: Estimates,
    judgement: Judgement,
) -> Flags:
    """Which entries, at ``places`` (outputs and inputs), need no ladder. The worst climbs one, which pictures show."""
    plain = far_off(estimates, judgement)
    if not plain.any():
        return plain
    with np.errstate(all="ignore"):
        differences = np.where(plain, judgement.analytic - judgement.numerical, 0.0)
        differences[~np.isfinite(differences)] = 0.0  # no number is wrong as it stands
        worst = np.argmax(np.where(differences, np.abs(differences) / judgement.allowed, 0.0))
    plain[worst] &= differences[worst] == 0
    differences[worst] = 0.0
    outputs, inputs = places
    rounding = _ROUNDING * np.abs(function.base)[outputs]  # that of a complex step is no noise
    noises, confirmed = np.maximum(estimates.uncertainty * estimates.step, rounding), differences == 0
    with contextlib.suppress(Stopped), np.errstate(all="ignore"):  # the ladders of the others tell of an interruption
        for columns, near, wide in _together(function, groups, distinct(inputs[~confirmed])):
            place = np.full(function.point.size, -1)
            place[columns] = np.arange(columns.size)
            some = np.flatnonzero(place[inputs] >= 0)
            column = place[inputs[some]]
            entries = column, outputs[some], judgement.numerical[some], differences[some], noises[some]
            hold = _slopes_hold(_Wrong(function, columns, near, *entries))
            hold &= _without_kinks(_Wrong(function, columns, wide, *entries))
            confirmed[some] |= hold[column]
    return np.asarray(plain & confirmed)


def _together(
    function: VectorFunction, groups: Sequence[Group], columns: Positions
) -> Iterator[tuple[Positions, Positions, Positions]]:
    """Columns with the displacements that each belongs to: the small one, and the one that shows kinks."""
    shared = [group.columns[np.isin(group.columns, columns)] for group in groups if group.columns.size > 1]
    alone = columns[~np.isin(columns, np.concatenate([columns[:0], *shared]))]
    length = AT_KINKS * max(1, function.together * GROUP // AT_KINKS)
    for begin in range(0, alone.size, length):
        number = np.arange(min(length, alone.size - begin))
        yield alone[begin : begin + length], number // GROUP, number // AT_KINKS
    for some in shared:
        if some.size:
            part = np.arange(some.size) % _PARTS
            yield some[part.argsort(kind="stable")], np.sort(part), np.zeros_like(part)


def _slopes_hold(wrong: _Wrong) -> Flags:
    """For each column, whether no slope of its line is another nearer to the point, as far as its outputs show it."""
    function, columns, line = wrong.function, wrong.columns, wrong.line
    loss = function.unmeasured
    scales, eps = loss.scales(columns), loss.eps[loss.layout.tensor_of(columns)]
    moves = _NEIGHBOURHOOD * eps * scales
    shown, noises = _shown(wrong)
    differences, column = wrong.differences[shown], wrong.column[shown]
    moves[column] = np.sign(differences) * np.maximum(moves[column], CLEAR * noises[shown] / np.abs(differences))
    good = np.abs(moves) <= function.steps(columns, stencil_named("central"), None) / FARTHER
    changes = wrong.least(np.maximum(CLEAR * noises, np.abs(wrong.differences * moves[wrong.column])))
    good = np.bincount(line, ~good) == 0
    for side in (1, -1):
        changed, foretold = wrong.displaced(side * moves)
        good &= ((np.abs(changed - foretold) <= OFF * changes) | np.isinf(changes)).all(axis=1)
    return np.asarray(good[line])


def _shown(wrong: _Wrong) -> tuple[Flags, Floats]:
    """The entries far off of one output for each line, of which they are most; and all noises, those as measured."""
    m, far = wrong.function.base.size, wrong.differences != 0
    order = np.argsort(-np.bincount(wrong.output[far], minlength=m), kind="stable")
    rank = np.empty(m, np.int64)
    rank[order] = np.arange(m)
    first = np.full(wrong.lines, m - 1)
    np.minimum.at(first, wrong.line[wrong.column[far]], rank[wrong.output[far]])
    shown = far & (wrong.output == order[first][wrong.line[wrong.column]])
    chosen = distinct(wrong.output[shown]).tolist()
    wrong.function.measure(chosen)
    measured = np.zeros(m)
    measured[chosen] = [wrong.function.losses[output].noise.at_point for output in chosen]
    return shown, np.where(shown, measured[wrong.output], wrong.noises)


def _without_kinks(wrong: _Wrong) -> Flags:
    """For each column, whether second differences of its line grow as the square of the step."""
    moves = unlike(wrong.function.steps(wrong.columns, stencil_named("central"), None))
    near, far = (wrong.displaced(each)[0] + wrong.displaced(-each)[0] for each in (moves, FARTHER * moves))
    noise = wrong.least(wrong.noises)
    good = grows_as_the_square(near, far, noise) | np.isinf(noise)
    return np.asarray(good.all(axis=1))[wrong.line]
