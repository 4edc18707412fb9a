"""Random projections of a Jacobian: directions over all inputs, traced to the wrong column and the wrong output.

Along random weights u of the inputs the whole product J u is compared, output by output. Where only v^T J is given, v
is random too. How large an error of an entry has to be that both miss rarely follows from `random_weights`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastgc._derivatives.directions import FURTHER, SUSPICIOUS, direction, ladder_slope, with_gap
from fastgc._derivatives.first_quotients import TRIAL_SAFETY
from fastgc._derivatives.random_weights import OF_ENTRY, OF_PRODUCT, UNIT, chance_at_limits, random_weights
from fastgc._derivatives.ratios import FEW, coincidences, matching
from fastgc._evaluation.evaluator import Ray
from fastgc._jacobian.columns import Group
from fastgc._jacobian.entries import Checked, JacobianAtPoint, check_groups
from fastgc._jacobian.function import Weights
from fastgc._parameters.arrays import Floats, Positions, root_mean_square, without
from fastgc._progress import Progress
from fastgc._verdicts.judgement import SCALE_FLOOR, Judgement
from fastgc._verdicts.probes import ENOUGH, WHOLLY

# In units of each tensor's scale: near eps**(1/3), where truncation and round-off of a central quotient balance.
# The wider quotient has 16 times the truncation error.
DISTANCES = 2.0**-16 * np.array([1.0, -1.0, 4.0, -4.0])
_CLEAR = 8.0  # uncertainties beyond which residuals point: with three bits each, seven point at one of a million
# Columns that are traced in all, and directions that point together, at most. A choice, not a measurement: a column
# takes a ladder, after log2(n) ladders along stretches, of twenty values each; a direction that points takes four.
_MOST = 8
_WORST = (
    4  # outputs of a direction that are followed, the worst first: twice as many find no more in bench/thresholds.py
)


@dataclass(frozen=True)
class Projections:
    """How much random directions over all inputs show; see `JacobianReport`."""

    probes: int = 0
    entry_limit: float | None = None
    miss_probability: float | None = None


def project(
    jacobian: JacobianAtPoint, checked: Checked, count: int, seed: int, bar: Progress
) -> tuple[Projections, list[Checked]]:
    """Compare along random directions, and check the columns that explain what ``checked`` does not."""
    whole = jacobian.operator.times is not None
    found, limits = [checked], [0.0]
    probes = _Probes(jacobian, seed, [], wholly=checked.judgement.failed.sum() > WHOLLY * checked.judgement.failed.size)
    for number in range(count):
        probes.measure(number)
    for number, along in enumerate(probes.measured[:count]):
        if whole:
            limits.append(_compare_whole(probes, along, found, bar))
        else:
            weights = random_weights(seed, range(number, number + 1), "", jacobian.shape[0], "output weights")[0]
            limits.append(_compare_weighted(probes, along, found, weights / UNIT, bar))
    _, columns = jacobian.places(checked.estimates.positions)
    if without(jacobian.function.held, columns).size:
        limits.append(np.inf)
    chance, law = chance_at_limits(count), OF_ENTRY if whole else OF_PRODUCT
    limit = law.limit([max(limits)] * max(count, 1), chance) / float(jacobian.function.unmeasured.tensor_scales.min())
    return Projections(count, limit, chance), found[1:]


@dataclass(frozen=True)
class _Along:
    """A direction over all inputs: its rays, as a vector, and the slopes of all outputs with their uncertainties."""

    rays: Sequence[Ray]
    u: Floats
    slopes: Floats
    uncertainty: Floats


@dataclass(frozen=True)
class _Probes:
    """The directions measured so far.

    Attributes
    ----------
    wholly : whether most of the checked entries are wrong: to trace others adds nothing
    """

    jacobian: JacobianAtPoint
    seed: int
    measured: list[_Along]
    wholly: bool = False

    def measure(self, number: int) -> None:
        """Measure a further direction: four values of the function, which serve all outputs."""
        function = self.jacobian.function
        rays = direction(function.unmeasured, range(len(function.leaves)), self.seed, number)
        self.measured.append(_Along(rays, _vector(self.jacobian, rays), *_slopes(self.jacobian, rays)))

    def pointed(self, weights: Weights, known: _Errors) -> int | None:
        """The one input that explains the residuals of v^T J u along all directions u; None where none or several do.

        See `fastgc._derivatives.ratios`: the residuals are in proportion to the weights of that input.
        """
        v = _weights(self.jacobian, weights)
        while True:
            residuals, errors = np.array([self._residual(v, along, known) for along in self.measured]).T
            if not (np.abs(residuals) > _CLEAR * errors).any():
                return None
            rows = [np.concatenate([ray.weights for ray in along.rays]) for along in self.measured]
            possible = matching(np.stack(rows), residuals, errors)
            if possible.size == 1 and coincidences(self.jacobian.shape[1], residuals, errors) <= FEW:
                return int(self.jacobian.function.direction(self.measured[0].rays)[0][possible[0]])
            if possible.size == 0 or len(self.measured) >= _MOST:
                return None
            self.measure(FURTHER + len(self.measured))

    def _residual(self, v: Floats, along: _Along, known: _Errors) -> tuple[float, float]:
        """What known errors leave of v^T J u less the measured slope, and its uncertainty."""
        moved = np.flatnonzero(v)
        slope = float(v[moved] @ along.slopes[moved])
        expected, explained = self.jacobian.operator.bilinear(v, along.u), known.along(v, along.u)
        rounding = 4 * np.finfo(np.float64).eps * (abs(expected) + abs(explained))
        return expected - slope - explained, float(np.abs(v[moved]) @ along.uncertainty[moved]) + rounding


def _compare_whole(probes: _Probes, along: _Along, found: list[Checked], bar: Progress) -> float:
    """Compare J u, output by output; the largest difference that remains unexplained limits what shows."""
    jacobian = probes.jacobian
    assert jacobian.operator.times is not None
    residuals = jacobian.operator.times(along.u) - along.slopes
    left = np.abs(residuals - _errors(jacobian, found).times(along.u, residuals.size))
    with np.errstate(all="ignore"):
        excess = left / along.uncertainty
    excess = np.where(np.isnan(excess), np.inf, excess)
    for output in np.argsort(-excess)[:_WORST]:
        if excess[output] > SUSPICIOUS:
            _follow(probes, int(output), along.rays, found, bar)
    left = np.abs(residuals - _errors(jacobian, found).times(along.u, residuals.size))
    return float(np.nan_to_num(np.fmax(left, along.uncertainty), nan=np.inf).max(initial=0.0))


def _compare_weighted(probes: _Probes, along: _Along, found: list[Checked], random: Floats, bar: Progress) -> float:
    """Compare v^T J u with random weights v of the outputs, as if all slopes were equal: none hides the others.

    Those of the smallest outputs count as a share of the steepest, so that no weight overflows.
    """
    jacobian = probes.jacobian
    sizes = np.nan_to_num(np.abs(along.slopes))
    sizes = np.maximum(sizes, SCALE_FLOOR * sizes.max(initial=0.0) or 1.0)
    weights = random / sizes
    _follow(probes, weights, along.rays, found, bar)
    residual, uncertainty = _residual(jacobian, weights, along.rays, _errors(jacobian, found))
    return max(residual, uncertainty) * float(sizes.max())


def follow_strays(jacobian: JacobianAtPoint, checked: Checked, bar: Progress) -> list[Checked]:
    """Check the columns that move outputs which no column of their group should move.

    Where the outputs have no values around the point, these columns cannot be found. The first column of the group is
    then checked, whose entries are undecided for that reason.
    """
    found = [checked]
    outputs = np.array([output for output, _ in checked.strays], np.int64)
    for output, group in checked.strays:
        rays = [_unit_ray(jacobian, column) for column in group.columns.tolist()]
        errors = _errors(jacobian, found)
        known = np.isfinite(_residual(jacobian, output, rays, errors)[0])
        column = _column(jacobian, output, rays, errors) if known else int(group.columns[0])
        if column is not None and (len(found) <= _MOST or not known):
            owner = np.full(jacobian.shape[0], -1, np.int64)
            owner[outputs] = 0
            found.append(check_groups(jacobian, [Group(np.array([column]), owner)], bar))
    return found[1:]


def _slopes(jacobian: JacobianAtPoint, rays: Sequence[Ray]) -> tuple[Floats, Floats]:
    """Slopes of all outputs along a direction, and their uncertainties.

    Complex steps measure them where they are preferred, or where differences might hide an error of rtol.
    """
    exact, found = jacobian.complex_function, _exact(jacobian, rays)
    if found is not None:
        return found
    slopes, uncertainty = _differences(jacobian, rays)
    if exact is not None and (exact.preferred or (uncertainty > jacobian.rtol * np.abs(slopes)).any()):
        exact.confirm(rays, slopes, uncertainty)
    return _exact(jacobian, rays) or (slopes, uncertainty)


def _exact(jacobian: JacobianAtPoint, rays: Sequence[Ray]) -> tuple[Floats, Floats] | None:
    """Slopes by complex steps, if they are known to be right; what need not be resolved counts as uncertainty."""
    exact = jacobian.complex_function
    found = exact.slopes(rays) if exact is not None and exact.agreed else None
    if found is None:
        return None
    slopes, uncertainty = found
    usual = np.maximum(np.abs(slopes), root_mean_square(slopes)) / max(1, jacobian.shape[1]) ** 0.5
    return slopes, np.maximum(uncertainty, ENOUGH * jacobian.rtol * usual)


def _differences(jacobian: JacobianAtPoint, rays: Sequence[Ray]) -> tuple[Floats, Floats]:
    """Slopes from central quotients at two steps."""
    values = jacobian.function.along(rays, DISTANCES)
    with np.errstate(all="ignore"):
        near, wide = np.diff(values, axis=0)[::2] / np.diff(DISTANCES)[::2, None]
        rounding = 4 * np.finfo(np.float64).eps * np.fmax(np.abs(values[0]), np.abs(values[1])) / DISTANCES[0]
        uncertainty = TRIAL_SAFETY * np.abs(wide - near) / 15 + rounding + np.finfo(np.float64).tiny
    return near, uncertainty


# --- from a direction to a column ---


def _follow(probes: _Probes, weights: Weights, rays: Sequence[Ray], found: list[Checked], bar: Progress) -> None:
    """Check one column after the other that explains the residual of a direction, until one of them is right.

    The residuals of all directions point at a column that is wrong alone; where they do not, the direction is halved.
    """
    jacobian = probes.jacobian
    while len(found) <= _MOST and not probes.wholly:
        known = _errors(jacobian, found)
        seen = _excess(jacobian, weights, rays, known) > SUSPICIOUS  # by a ladder: quotients may have met a kink
        column = probes.pointed(weights, known) if seen else None
        column = _column(jacobian, weights, rays, known) if seen and column is None else column
        if column is None:
            return
        owner = np.zeros(jacobian.shape[0], np.int64)
        if jacobian.operator.times is None:
            owner = np.full(jacobian.shape[0], -1, np.int64)
            owner[_output(jacobian, weights, column, _errors(jacobian, found))] = 0
        found.append(check_groups(jacobian, [Group(np.array([column]), owner)], bar))
        if not found[-1].judgement.failed.any():
            return


def _column(jacobian: JacobianAtPoint, weights: Weights, rays: Sequence[Ray], known: _Errors) -> int | None:
    """Halve a direction, always keeping the larger residual, down to one input; None where the residual vanishes."""
    excess = _excess(jacobian, weights, rays, known)
    while excess > SUSPICIOUS:
        if sum(ray.weights.size for ray in rays) == 1:
            return int(jacobian.function.direction(rays)[0][0])
        halves = [(_excess(jacobian, weights, half, known), half) for half in _halves(rays)]
        excess, rays = max(halves, key=lambda each: each[0])
    return None


def _excess(jacobian: JacobianAtPoint, weights: Weights, rays: Sequence[Ray], known: _Errors) -> float:
    residual, uncertainty = _residual(jacobian, weights, rays, known)
    return residual / uncertainty if np.isfinite(residual) else 0.0


def _residual(jacobian: JacobianAtPoint, weights: Weights, rays: Sequence[Ray], known: _Errors) -> tuple[float, float]:
    """The error of the analytic slope, less what known errors contribute, and its uncertainty."""
    u, v = _vector(jacobian, rays), _weights(jacobian, weights)
    slope, uncertainty = _slope(jacobian, weights, rays, v)
    expected, explained = jacobian.operator.bilinear(v, u), known.along(v, u)
    rounding = 4 * np.finfo(np.float64).eps * (abs(expected) + abs(explained))
    return abs(expected - slope - explained), uncertainty + rounding


def _slope(jacobian: JacobianAtPoint, weights: Weights, rays: Sequence[Ray], v: Floats) -> tuple[float, float]:
    """The slope of a weighted sum of the outputs, and its uncertainty."""
    found = _exact(jacobian, rays)
    if found is not None:
        return float(v @ found[0]), float(np.abs(v) @ found[1])
    slope, _ = ladder_slope(jacobian.function.loss(weights), rays, 0.0)
    return slope.value, with_gap(slope)


def _halves(rays: Sequence[Ray]) -> Iterator[Sequence[Ray]]:
    if len(rays) > 1:
        middle = len(rays) // 2
        yield from (rays[:middle], rays[middle:])
    else:
        middle = rays[0].weights.size // 2
        yield [replace(rays[0], weights=rays[0].weights[:middle])]
        yield [replace(rays[0], start=rays[0].start + middle, weights=rays[0].weights[middle:])]


def _output(jacobian: JacobianAtPoint, weights: Weights, column: int, known: _Errors) -> int:
    """Halve the outputs, always keeping the larger residual of one column; one pair of quotients serves them all."""
    v, ray = _weights(jacobian, weights), _unit_ray(jacobian, column)
    u, (slopes, _) = _vector(jacobian, [ray]), _slopes(jacobian, [ray])

    def residual(outputs: Positions) -> float:
        part = _part(v, outputs)
        return abs(jacobian.operator.bilinear(part, u) - float(part @ np.nan_to_num(slopes)) - known.along(part, u))

    outputs = np.flatnonzero(v)
    while outputs.size > 1:
        outputs = max(np.array_split(outputs, 2), key=residual)
    return int(outputs[0])


# --- vectors ---


def _vector(jacobian: JacobianAtPoint, rays: Sequence[Ray]) -> Floats:
    columns, lengths = jacobian.function.direction(rays)
    vector = np.zeros(jacobian.shape[1])
    vector[columns] = lengths
    return vector


def _weights(jacobian: JacobianAtPoint, weights: Weights) -> Floats:
    return _part(np.ones(jacobian.shape[0]), np.array([weights])) if isinstance(weights, int) else weights


def _part(vector: Floats, keep: Positions) -> Floats:
    part = np.zeros(vector.size)
    part[keep] = vector[keep]
    return part


def _unit_ray(jacobian: JacobianAtPoint, column: int) -> Ray:
    """One input alone, displaced by the scale of its tensor."""
    layout = jacobian.function.layout
    tensor = int(layout.tensor_of(np.array([column]))[0])
    scale = float(jacobian.function.unmeasured.tensor_scales[tensor])
    return Ray(tensor, column - int(layout.starts[tensor]), np.ones(1, np.int8), scale)


@dataclass(frozen=True)
class _Errors:
    """Entries known to be wrong, with their errors ``analytic - numerical``."""

    outputs: Positions
    inputs: Positions
    errors: Floats

    def times(self, u: Floats, size: int) -> Floats:
        """Their contribution to J u, shape (size,)."""
        return np.bincount(self.outputs, u[self.inputs] * self.errors, size).astype(np.float64)

    def along(self, v: Floats, u: Floats) -> float:
        """Their contribution to v^T J u."""
        return float(np.sum(v[self.outputs] * u[self.inputs] * self.errors))


def _errors(jacobian: JacobianAtPoint, found: Sequence[Checked]) -> _Errors:
    judged = Judgement.joined([each.judgement for each in found])
    positions = np.concatenate([each.estimates.positions for each in found])
    error = judged.analytic - judged.numerical
    wrong = np.flatnonzero(judged.failed & np.isfinite(error))
    wrong = wrong[np.unique(positions[wrong], return_index=True)[1]]
    return _Errors(*jacobian.places(positions[wrong]), error[wrong])
