"""Loss values at displaced points, of a loss that comes as stages: the values before a displaced stage are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgc._evaluation.batches import COMPARED, Batches, agree, relative_to_point
from fastgc._evaluation.evaluator import OutOfTime, Raised, Ray, Tick, silent
from fastgc._evaluation.floating_point import callers_errstate, displaced
from fastgc._evaluation.members import read_only
from fastgc._evaluation.python import PythonEvaluator
from fastgc._evaluation.rank_one import DenseEntries, Kept, refuse_false_claims
from fastgc._evaluation.stages import StagedLoss
from fastgc._evaluation.working_time import now
from fastgc._evaluation.wrapped import WrappedEvaluator
from fastgc._parameters.arrays import Array, Positions, spread
from fastgc._parameters.point import Point


class StagedEvaluator(WrappedEvaluator):
    """Calls a loss from the first stage on that reads a displaced parameter.

    Its values are those of the whole loss to the bit, except for single entries of dense stages, which are computed
    many at once by the rule of `fastgc._evaluation.batches`.

    Parameters
    ----------
    point : Point
        Whose leaves are displaced; the loss leaves its args as they are, and gives the same value when called again.
    base : float
        The loss at the point.
    evaluations : int
        Calls of the loss so far.

    Raises
    ------
    TypeError, ValueError
        For parameters that no stage reads, for stages that write into the value they receive, and for stages that are
        not what they claim to be.
    """

    def __init__(self, loss: StagedLoss, point: Point, base: float, deadline: float, evaluations: int) -> None:
        users = loss.users(point.layout)
        self._first = np.array([each[0] for each in users])
        self._loss, self._layout, self._base, self._deadline = loss, point.layout, base, deadline
        self._start = 0  # the stage from which the loss is called
        self._plain = PythonEvaluator(
            displaced(self._called), point.params, point.args, point.layout, point.leaves, point.sources, deadline
        )
        super().__init__(self._plain)
        self._kept = _kept(loss, point)
        self._batched, self._answered = 0, False
        self._refuse_changed_values()
        self._plain.evaluations += evaluations + 1
        self._dense = self._dense_entries(users)
        self.unfinished: Array | None = None  # as that of a `PythonEvaluator`

    @property
    def name(self) -> str:
        """How the loss is evaluated."""
        return "python (stages)"

    @property
    def evaluations(self) -> int:
        """The number of values of the loss so far."""
        return self._plain.evaluations + self._batched

    @property
    def raised(self) -> Raised:
        """The exceptions of the loss at displaced points so far."""
        return self._plain.raised.joined(Raised(answered=self._answered))

    def value(self) -> Any:
        """The loss at the point itself."""
        self._start = 0
        return self._plain.value()

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """As `Evaluator.values`."""
        out = self.unfinished = np.full(displaced.shape, np.nan, self._plain.result_dtype)
        for t, mine in self._layout.parts(positions):
            if t in self._dense:
                out[mine] = self._in_batches(t, positions[mine], displaced[mine], tick)
            else:
                out[mine] = self._one_by_one(t, positions[mine], displaced[mine], tick)
        return out

    def along(self, positions: Positions, rows: Array) -> Array:
        """As `Evaluator.along`."""
        self._start = int(self._first[self._layout.tensor_of(positions)].min(initial=len(self._loss.stages) - 1))
        return self._plain.along(positions, rows)

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array:
        """As `Evaluator.along_rays`."""
        return np.stack([self._along_one(rays, distances) for rays in directions])

    def _along_one(self, rays: Sequence[Ray], distances: Array) -> Array:
        self._start = int(min(self._first[ray.tensor] for ray in rays))
        return self._plain.along_one(rays, distances)

    # --- from a stage on ---

    def _called(self, params: Any, *args: Any) -> Any:
        """The loss from the stage on that was set: the point's params share memory with what the stages receive."""
        kept = self._kept
        return self._loss.after(self._start, kept.params, kept.given[self._start], kept.rest)

    def _one_by_one(self, tensor: int, positions: Positions, displaced: Array, tick: Tick) -> Array:
        self._start = int(self._first[tensor])
        return self._plain.values(positions, displaced, tick)

    def _refuse_changed_values(self) -> None:
        """Raise for a stage that gives another value now: it has changed what is kept, where NumPy cannot see that."""
        for number in sorted({*self._first.tolist()} - {0}):
            self._start = number
            found = self._plain.value()
            if found != self._base:
                raise ValueError(
                    f"{self._loss.described(number)} gives {found!r} from the value that it received before, and "
                    f"{self._base!r} when all stages are called: it must neither change that value nor keep data "
                    "between calls"
                )

    # --- many entries in one pass ---

    def _dense_entries(self, users: Sequence[Sequence[int]]) -> dict[int, tuple[DenseEntries, Batches]]:
        """For each tensor of dense stages, what evaluates its entries, and whether that is trusted."""
        found = {}
        with callers_errstate():
            for number in refuse_false_claims(self._loss, self._kept):
                entries = DenseEntries(self._loss, self._kept, number)
                for name in entries.tensors():
                    t = self._layout.numbers.get(name)
                    if t is not None and users[t] == [number] and np.dtype(self._plain.result_dtype).kind == "f":
                        found[t] = (entries, Batches())
        return found

    def _in_batches(self, tensor: int, positions: Positions, displaced: Array, tick: Tick) -> Array:
        out: Array = np.empty(displaced.shape)
        lengths = displaced - self._plain.entries(positions)[:, None]
        size = max(1, self._dense[tensor][0].batch // max(1, displaced.shape[1]))
        for start in range(0, positions.size, size):
            part = slice(start, start + size)
            if now() > self._deadline:
                raise OutOfTime
            out[part] = self._together(tensor, positions[part], displaced[part], lengths[part])
            tick(len(out[part]))
        return out

    def _together(self, tensor: int, positions: Positions, displaced: Array, lengths: Array) -> Array:
        entries, batches = self._dense[tensor]
        cells = np.repeat(positions - self._layout.starts[tensor], displaced.shape[1])

        def batch() -> Array:
            with np.errstate(all="ignore"):
                found = entries.values(self._layout.names[tensor], cells, lengths.reshape(-1))
                return relative_to_point(found, self._base)

        found = batches.values(batch, lambda values: self._same(tensor, positions, displaced, values))
        if found is None:
            return self._one_by_one(tensor, positions, displaced, silent)
        self._batched, self._answered = self._batched + found.size + 1, True
        return found.reshape(displaced.shape)

    def _same(self, tensor: int, positions: Positions, displaced: Array, values: Array) -> bool:
        """Whether plain calls give the same as some values of a batch."""
        some = spread(positions.size, COMPARED)
        plain = self._one_by_one(tensor, positions[some], displaced[some], silent)
        change = float(np.abs(plain - self._base).max())
        return agree(values.reshape(displaced.shape)[some], plain, self._kept.eps, change=change)


def _kept(loss: StagedLoss, point: Point) -> Kept:
    """The values between the stages at a point."""
    params, rest = loss.selected(point.params), point.args[1:]
    given: list[tuple[Any, ...]] = [point.args]
    with callers_errstate():
        for number, (stage, mine) in enumerate(zip(loss.stages, params, strict=True)):
            try:
                given.append((read_only(stage.function(mine, *given[-1])), *rest))
            except ValueError as error:
                if "read-only" not in str(error):
                    raise
                raise ValueError(
                    f"{loss.described(number)} writes into the value that it receives ({error}), which is kept for "
                    "other evaluations: it must copy it first"
                ) from error
    return Kept(params, given, rest)
