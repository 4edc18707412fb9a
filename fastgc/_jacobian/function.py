"""A function of several outputs around a point; each output, or a weighted sum of them, serves as a loss."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastgc._derivatives.directions import PROBE_TOP
from fastgc._derivatives.first_quotients import NOISIEST
from fastgc._derivatives.kept import KeptLadders
from fastgc._derivatives.loss_at_point import LossAtPoint, measured_losses, responsive_loss, unmeasured_loss
from fastgc._derivatives.stencil import Stencil, quotients, relative_step, short
from fastgc._evaluation.evaluator import (
    OutOfTime,
    Place,
    Raised,
    Ray,
    Stopped,
    Tick,
    WrongValueError,
    at_entries,
    at_entry,
    silent,
)
from fastgc._evaluation.interruption import Interruption, pieces
from fastgc._evaluation.working_time import now
from fastgc._forks import cached_property
from fastgc._parameters.arrays import AT_ONCE, Array, Floats, Positions
from fastgc._parameters.bounds import Bounds
from fastgc._parameters.layout import ParameterLayout

Weights = int | Floats  # one output by its number, or a factor for every output
Errors = Sequence[tuple[int, Exception]]  # what was raised at which of several points
Function = Callable[[Floats], tuple[Floats, Errors]]  # outputs, shape (k, m), at points of shape (k, n)
Keeper = Callable[[Floats, Function], tuple[Floats, Errors]]  # the same from a file, as far as that has them


def one_by_one(
    function: Callable[[Any], Array], size: int, dtype: DTypeLike = np.float64
) -> Callable[[Sequence[Any] | Array], tuple[Array, Errors]]:
    """Call a function of one point at each of several; its outputs are NaN where it raises."""

    def values(points: Sequence[Any] | Array) -> tuple[Array, Errors]:
        out: Array = np.empty((len(points), size), dtype)
        errors: list[tuple[int, Exception]] = []
        for k, point in enumerate(points):
            try:
                out[k] = function(point)
            except WrongValueError:
                raise
            except Exception as error:
                out[k] = np.nan
                errors.append((k, error))
        return out, errors

    return values


class VectorFunction:
    """Outputs at displaced inputs. Values are kept, since each output asks for the same ones.

    Parameters
    ----------
    function : callable
        ``function(points)`` gives the outputs, shape (k, m), at flat copies of all inputs, shape (k, n), NaN where it
        raises; and the exceptions.
    layout, leaves : ParameterLayout, sequence of arrays
        The inputs as tensors, in the dtypes in which they are displaced; complex ones for the complex step alone.
    base : array, shape (m,)
        The outputs at the point.
    bounds : Bounds, optional
        The function is never called outside: its outputs are NaN there.
    deadline : float
        Of ``time.perf_counter``; later calls raise `OutOfTime`.
    """

    def __init__(
        self,
        function: Function,
        layout: ParameterLayout,
        leaves: Sequence[Array],
        base: Floats,
        seed: int,
        *,
        bounds: Bounds | None = None,
        deadline: float = math.inf,
    ) -> None:
        self.layout, self.leaves, self.base, self.seed, self.evaluations = layout, leaves, base, seed, 1
        self.bounds, self.deadline = bounds, deadline
        self._own_rounding = getattr(function, "rounded", None)  # to dtypes that NumPy does not know
        self.point = np.concatenate([leaf.reshape(-1) for leaf in leaves], dtype=np.result_type(np.float64, *leaves))
        self._function, self.raised, self.interruption = function, Raised(), Interruption()
        self.keeper: Keeper | None = None
        self._kept: dict[tuple[bytes, bytes], Floats] = {}
        self.losses: dict[int, LossAtPoint] = {}  # of the outputs whose noise was measured so far

    @cached_property
    def unmeasured(self) -> LossAtPoint:
        """A loss that knows the inputs' scales, and no noise."""
        loss = unmeasured_loss(OutputLoss(self, 0), self.layout, self.leaves, 0.0)
        loss = replace(loss, bounds=self.bounds)
        with contextlib.suppress(OutOfTime):
            return responsive_loss(loss, range(len(self.leaves)), self.base, self.outputs)
        return loss  # nothing is measured with its scales any more

    @cached_property
    def held(self) -> Positions:
        """The inputs that no direction moves, since they are too near a bound."""
        held = [self.unmeasured.held(t) for t in range(len(self.leaves))]
        return np.concatenate(
            [self.layout.starts[t] + np.flatnonzero(x) for t, x in enumerate(held) if x is not None]
            or [np.empty(0, np.int64)]
        )

    @cached_property
    def together(self) -> int:
        """Points evaluated at a time."""
        return max(1, AT_ONCE // max(1, self.point.size + self.base.size))

    @cached_property
    def moves(self) -> NDArray[np.bool_]:
        """Which outputs change when all inputs move a little, in either direction."""
        places = np.arange(self.point.size)
        lengths = PROBE_TOP * np.cos(places) * self.unmeasured.scales(places)  # as good as random
        return np.asarray((self.outputs(places, self.point + lengths * [[-1.0], [1.0]]) != self.base).any(axis=0))

    def kept(self, columns: Positions, rows: Floats) -> Floats:
        """The same as `outputs`, from memory where the same was asked for before."""
        key = (columns.tobytes(), rows.tobytes())
        if key not in self._kept:
            self._kept[key] = self.outputs(columns, rows)
        return self._kept[key]

    def kept_lines(self, columns: Positions, displaced: Floats) -> list[Floats]:
        """The same as `lines`, one by one, each from memory where the same was asked for before."""
        keys = [(column.tobytes(), row.tobytes()) for column, row in zip(columns, displaced, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self._kept]
        lines = self.lines(columns[new], displaced[new])
        self._kept |= {keys[i]: line for i, line in zip(new, lines, strict=True)}
        return [self._kept[key] for key in keys]

    def lines(self, columns: Positions, displaced: Array, line: Positions | None = None, tick: Tick = silent) -> Array:
        """Outputs with input ``columns[i]`` set to ``displaced[i, k]``, shape (lines, k, m).

        The inputs of each line are displaced together: ``line[i]`` is that of input i, in ascending order. By default
        each input has its own.
        """
        line = np.arange(columns.size) if line is None else line
        count = int(line.max(initial=-1)) + 1
        length = max(1, self.together // displaced.shape[1])
        blocks = []
        for begin in range(0, max(1, count), length):
            some = slice(*np.searchsorted(line, (begin, begin + length)))
            points = self._copies(min(length, count - begin), displaced.shape[1])
            points[line[some] - begin, :, columns[some]] = displaced[some]
            try:
                outputs = self.at(points.reshape(-1, self.point.size), _by_columns(line[some] - begin, points, tick))
            except Stopped as stopped:
                blocks += [] if stopped.values is None else [stopped.values.reshape(*points.shape[:2], self.base.size)]
                stopped.values = self._padded(blocks, count, displaced.shape[1])
                raise
            blocks.append(outputs.reshape(*points.shape[:2], self.base.size))
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _padded(self, blocks: Sequence[Array], count: int, width: int) -> Array | None:
        """Lines that are known, followed by nan for those that are not; None if none is."""
        if not blocks:
            return None
        left = count - sum(len(block) for block in blocks)
        return np.concatenate([*blocks, np.full((left, width, self.base.size), np.nan)])

    def _copies(self, *shape: int) -> Array:
        """Copies of the point."""
        points = np.empty((*shape, self.point.size), self.point.dtype)
        points[...] = self.point
        return points

    def quotients(self, stencil: Stencil, step: float | None) -> Floats:
        """One difference quotient of each output by each input, shape (m, n)."""
        columns = np.arange(self.point.size)
        steps = self.steps(columns, stencil, step)
        displaced, taken = self.displaced(columns, stencil, steps)
        divisors = steps if step is not None else quotients(stencil, taken, np.ones(columns.size), None)
        weights, length = np.array(stencil.weights), max(1, self.together // len(stencil.weights))
        found = np.empty((columns.size, self.base.size))
        with np.errstate(all="ignore"):  # values that are not finite are judged later, not warned about
            for begin in range(0, columns.size, length):
                some = slice(begin, begin + length)
                lines = self.lines(columns[some], displaced[some])
                np.divide((weights @ lines).real, divisors[some, None], out=found[some])
        return found.T

    def displaced(self, columns: Positions, stencil: Stencil, steps: Floats) -> tuple[Array, Array]:
        """The values of inputs at the points of a formula, shape (columns, k), and the distances after rounding."""
        x = self.point[columns][:, None]
        displaced = self.rounded(columns, x + steps[:, None] * np.array(stencil.offsets))
        return displaced, displaced - x

    def steps(self, columns: Positions, stencil: Stencil, step: float | None) -> Floats:
        """The steps of inputs: by default those that balance truncation and the noise measured so far."""
        if step is not None:
            return np.full(columns.size, float(step))
        eps = self.unmeasured.eps[self.layout.tensor_of(columns)]
        reach = short(relative_step(stencil, np.clip(self._relative_noise, eps, NOISIEST)))
        return reach * self.unmeasured.scales(columns)

    def inward(self, columns: Positions, steps: Floats) -> Floats:
        """The steps, turned where they lead out of bounds."""
        if self.bounds is None:
            return steps
        return np.where(self.bounds.contain(columns, self.point[columns] + steps), steps, -steps)

    @property
    def _relative_noise(self) -> float:
        losses = [loss for loss in self.losses.values() if loss.base and np.isfinite(loss.base)]
        return max((loss.noise.at_point / abs(loss.base) for loss in losses), default=0.0)

    def forget(self) -> None:
        """Free the values kept."""
        self._kept.clear()

    def rounded(self, columns: Positions, displaced: Floats) -> Floats:
        """``displaced``, shape (columns, k), as each input's dtype can hold it."""
        if self._own_rounding is not None:
            return np.asarray(self._own_rounding(columns, displaced))
        result = displaced.copy()
        for t, leaf in enumerate(self.leaves):
            if leaf.dtype not in (np.float64, np.complex128):
                mine = self.layout.tensor_of(columns) == t
                result[mine] = displaced[mine].astype(leaf.dtype)
        return result

    def loss(self, weights: Weights) -> LossAtPoint:
        """One output, or a weighted sum of all outputs, as a loss with its noise measured."""
        if isinstance(weights, int):
            self.measure([weights])
            return self.losses[weights]
        return self._measured([weights])[0]

    def measure(self, outputs: Sequence[int]) -> None:
        """Measure the noise of these outputs, as far as it is not known."""
        new = [output for output in outputs if output not in self.losses]
        self.losses |= dict(zip(new, self._measured(new) if new else [], strict=True))

    def _measured(self, weights: Sequence[Weights]) -> list[LossAtPoint]:
        components = [OutputLoss(self, each) for each in weights]
        losses = [
            replace(self.unmeasured, evaluator=each, base=each.value(), kept=KeptLadders()) for each in components
        ]

        def along(columns: Positions, rows: Floats) -> Floats:
            found = self.kept(columns, rows)
            return np.stack([each.of(found) for each in components], axis=1)

        return measured_losses(losses, range(len(self.leaves)), self.seed, along)

    def outputs(self, columns: Positions, rows: Floats) -> Floats:
        """Outputs with the inputs ``columns`` set to ``rows[k]`` together, shape (k, m); NaN where not defined.

        Inputs that would leave their bounds in one of the rows move inwards in all of them.
        """
        if self.bounds is not None:
            rows = self.bounds.folded(columns, self.point[columns], rows)
        return self._moved(columns, rows)

    def _moved(self, columns: Positions, rows: Floats) -> Array:
        out = np.empty((len(rows), self.base.size), self.point.dtype)
        for begin in range(0, len(rows), self.together):
            block = rows[begin : begin + self.together]
            points = self._copies(len(block))
            points[:, columns] = block
            out[begin : begin + self.together] = self.at(points)
        return out

    def at(self, points: Array, done: Tick = silent) -> Array:
        """Outputs at points, shape (k, m); NaN where not defined, and outside the bounds.

        ``done`` takes the number of points that are behind.
        """
        if self.bounds is not None:
            everywhere = np.arange(self.point.size)
            inside = self.bounds.contain(everywhere, points.T).all(axis=0)
            out = np.full((len(points), self.base.size), np.nan, self.point.dtype)
            try:
                out[inside] = self._in_time(points[inside], lambda count: done(int(np.flatnonzero(inside)[count - 1])))
            except Stopped as stopped:
                stopped.values = None
                raise
            done(len(points))
            return out
        return self._in_time(points, done)

    def _in_time(self, points: Array, done: Tick) -> Array:
        """Outputs at points, a few at a time; those known by then go with the exception of an interrupted check."""
        out = np.full((len(points), self.base.size), np.nan, self.point.dtype)
        length = self.at_once
        try:
            for some in pieces(len(points), length, len(points) if self.deadline == math.inf else length, length):
                if now() > self.deadline:
                    raise OutOfTime
                out[some] = self._called(points[some])
                done(some.stop)
        except Stopped as stopped:
            if stopped.values is not None:
                out[some] = stopped.values
            stopped.values = out
            raise
        return out

    @property
    def at_once(self) -> int:
        """How many points are evaluated together at least."""
        return int(getattr(self._function, "at_once", 1))

    @property
    def engine(self) -> str:
        """How the function is evaluated, for reports."""
        return str(getattr(self._function, "name", "python"))

    @property
    def pace(self) -> float | None:
        """Seconds for each evaluation as workers have measured it; None without workers."""
        found: float | None = getattr(self._function, "pace", None)
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how the function is evaluated."""
        return tuple(getattr(self._function, "notes", ()))

    def expect(self, evaluations: int) -> None:
        """Prepare for so many evaluations: a jitted function runs in a compiled loop where that saves time."""
        if hasattr(self._function, "expect"):
            self.evaluations += self._function.expect(evaluations)

    def close(self) -> None:
        """End what evaluates the function elsewhere."""
        if hasattr(self._function, "close"):
            self._function.close()

    def _called(self, points: Array) -> Array:
        self.evaluations += len(points)
        # Counted first: a function may change its argument.
        displaced = 0 if self.raised.answered else np.count_nonzero((points != self.point).any(axis=1))
        with np.errstate(all="ignore"):  # log(-1e-7) near the point is an answer, not a warning
            outputs, errors = self._asked(points)
        for k, error in errors:
            self.raised = self.raised.also(error, partial(self._place, points[k]))
        if displaced > len(errors):
            self.raised = replace(self.raised, answered=True)
        return outputs

    def _asked(self, points: Array) -> tuple[Array, Errors]:
        call = partial(self.interruption.call, self._function)
        return call(points) if self.keeper is None else self.keeper(points, call)

    def _place(self, point: Floats) -> Place:
        displaced = np.flatnonzero(point != self.point)
        if displaced.size == 1:
            return at_entry(self.layout, int(displaced[0]), point[displaced[0]])
        return at_entries(self.layout, displaced)

    def along(self, rays: Sequence[Ray], distances: Floats) -> Floats:
        """Outputs at ``distances`` along the direction that all rays make together, shape (k, m)."""
        return np.asarray(self.along_complex(rays, distances).real)

    def along_complex(self, rays: Sequence[Ray], distances: Array) -> Array:
        """The same with the imaginary parts of the outputs, at distances that may be complex if the inputs are."""
        columns, lengths = self.direction(rays)
        return self._moved(columns, self.point[columns] + distances[:, None] * lengths)

    def direction(self, rays: Sequence[Ray]) -> tuple[Positions, Floats]:
        """The inputs that rays displace, and by how much at a distance of 1."""
        first = [int(self.layout.starts[ray.tensor]) + ray.start for ray in rays]
        columns = [start + np.arange(ray.weights.size) for start, ray in zip(first, rays, strict=True)]
        return np.concatenate(columns), np.concatenate([ray.scale * ray.weights for ray in rays])


def _by_columns(line: Positions, points: Array, tick: Tick) -> Tick:
    """What counts the columns that are done by the points that are, of lines of points; ``line`` is ascending."""
    told = 0

    def done(count: int) -> None:
        nonlocal told
        columns = int(np.searchsorted(line, count // points.shape[1]))
        if columns > told:
            tick(columns - told)
            told = columns

    return done


class OutputLoss:
    """One output of the function, or a weighted sum of all, as an `Evaluator` serves it."""

    name = "python"

    def __init__(self, function: VectorFunction, weights: Weights) -> None:
        self._function, self._weights = function, weights

    @property
    def evaluations(self) -> int:
        return self._function.evaluations

    @property
    def raised(self) -> Raised:
        return self._function.raised

    def value(self) -> Any:
        return float(self.of(self._function.base[None, :])[0])

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        lines = [self.of(outputs) for outputs in self._function.kept_lines(positions, displaced)]
        tick(positions.size)
        return np.array(lines).reshape(displaced.shape)

    def along(self, positions: Positions, rows: Array) -> Array:
        return self.of(self._function.kept(positions, rows))

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        return np.stack([self.of(self._function.along(rays, distances)) for rays in directions])

    def entries(self, positions: Positions) -> Array:
        return np.asarray(self._function.point[positions].real)

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        return self._function.rounded(positions, displaced)

    def close(self) -> None:
        """Do nothing: each evaluation displaces a copy of the inputs."""

    def of(self, outputs: Floats) -> Floats:
        """The loss, shape (k,), from the function's outputs, shape (k, m)."""
        return outputs[:, self._weights] if isinstance(self._weights, int) else outputs @ self._weights
