"""Loss values from several workers; each displaces its own copy of the parameters."""

from __future__ import annotations

import contextlib
import functools
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from fastgc._arguments import listed
from fastgc._evaluation.evaluator import (
    Evaluator,
    OutOfTime,
    Raised,
    Ray,
    Tick,
    along_direction,
    at_entries,
    at_entry,
    silent,
)
from fastgc._evaluation.parcels import portable, remove
from fastgc._evaluation.pieces import SharedWork, single_threaded
from fastgc._evaluation.python import PythonEvaluator
from fastgc._evaluation.working_time import now
from fastgc._parameters.arrays import Array, Floats, Positions, distinct, spread
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.record import store
from fastgc._words import Workers

# A worker's loss is compared with ours at the point and with so many entries displaced, evenly spaced in the flat
# vector. The relative displacement is enough to change the loss by more than its round-off.
_TRIAL_ENTRIES, _TRIAL_STEP = 64, 1e-3
_DIRECTIONS_BYTES = 1 << 26  # of weights that are sent and kept at a time: 64 MiB, which any worker has
Trial = tuple[Positions, Array, Array]  # positions, rows of their entries, and our values there
SAME_VALUE_THERE = 1e-8  # relative: another process may sum a set in another order; a changed global shows far above


class Direct(Evaluator, Protocol):
    """An evaluator in this process, such as a `PythonEvaluator`."""

    deadline: float
    raised: Raised
    unfinished: Array | None

    @property
    def result_dtype(self) -> type[Any]: ...

    def along_one(self, rays: Sequence[Ray], distances: Array) -> Array:
        """The loss at ``distances`` along one direction."""
        ...


class Sent(Protocol):
    """What every worker receives once, such as a `SentLoss`; ``opened()`` gives an `OpenedLoss`."""

    @property
    def loss(self) -> Callable[..., object]: ...

    @property
    def layout(self) -> ParameterLayout: ...

    def tried(self, trial: Trial | None) -> Sent:
        """The same with values to compare with those in the worker."""
        ...


@dataclass(frozen=True)
class SentLoss:
    """What every worker receives once.

    Attributes
    ----------
    loss, args, layout, leaves
        As those of `PythonEvaluator`.
    trial : positions, rows of displaced entries, and our values there
        For a comparison with the worker's values; None for a loss that gives another value at each call.
    """

    loss: Callable[..., object]
    args: tuple[object, ...]
    layout: ParameterLayout
    leaves: list[Array]
    trial: Trial | None = None

    def tried(self, trial: Trial | None) -> SentLoss:
        """The same with a trial."""
        return replace(self, trial=trial)

    def opened(self) -> OpenedLoss:
        """The loss in a worker, with a copy of the parameters.

        Raises
        ------
        ValueError
            Where the loss gives other values here.
        """
        own = store(self.layout, self.leaves, [leaf.dtype for leaf in self.leaves])
        evaluator = PythonEvaluator(
            self.loss, self.layout.rebuild(own.leaves), self.args, self.layout, own.leaves, self.leaves
        )
        refuse_different_loss(evaluator, self.trial)
        return OpenedLoss(evaluator, self.layout.names, own.leaves, self.leaves)


class WorkersEvaluator:
    """Evaluates pieces of the work in workers, and small amounts of work in this process.

    Parameters
    ----------
    direct : Direct
        The same loss, called in this process; its deadline holds for the workers too.
    sent : Sent
        The loss for the workers, without a trial.
    workers : Workers
        As the caller gave them, or fewer processes.
    seconds : float
        Approximate time of an evaluation.
    reproducible : bool
        Whether a repeated call gives the same value, so that a worker's value can be compared with ours.

    Raises
    ------
    TypeError
        For a loss or args that cannot be pickled.
    """

    def __init__(self, direct: Direct, sent: Sent, *, workers: Workers, seconds: float, reproducible: bool) -> None:
        self._direct, self._evaluations, self._layout = direct, 0, sent.layout
        self._raised = Raised()
        self._unfinished: Array | None = None
        trial = self._trial(sent.layout) if reproducible else None
        words = "the loss", "loss or args"
        self._work = SharedWork(workers, sent.tried(trial), sent.loss, words, seconds=seconds)

    @property
    def name(self) -> str:
        """How the loss is evaluated."""
        return self._work.name

    @property
    def evaluations(self) -> int:
        return self._direct.evaluations + self._evaluations

    @property
    def raised(self) -> Raised:
        return self._direct.raised.joined(self._raised)

    @property
    def pace(self) -> float | None:
        """As `SharedWork.pace`."""
        return self._work.pace

    @property
    def unfinished(self) -> Array | None:
        """As that of a `PythonEvaluator`."""
        return self._direct.unfinished if self._unfinished is None else self._unfinished

    def value(self) -> Any:
        return self._here("value")

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        columns = displaced.shape[1]
        cells, entries = np.repeat(positions, columns), displaced.reshape(-1, 1)
        self._unfinished = None
        if not self._work.worthwhile(entries.size):
            return np.asarray(self._here("values", positions, displaced, tick))
        values = self._shared_out(
            "values",
            entries.size,
            lambda part: (cells[part], entries[part], silent),
            lambda part: self._between(cells[part]),
            lambda before, after: tick(after // columns - before // columns),
        )
        return values.reshape(displaced.shape)

    def _between(self, cells: Positions) -> str:
        """Which entries are displaced one by one, in words."""
        first, last = (at_entry(self._layout, int(cells[k]), 0.0).text.rpartition(" = ")[0] for k in (0, -1))
        return f"{first} displaced" if first == last else f"entries from {first} to {last} displaced one by one"

    def along(self, positions: Positions, rows: Array) -> Array:
        if not self._work.worthwhile(len(rows)):
            return np.asarray(self._here("along", positions, rows))
        place = at_entries(self._layout, positions).text
        return self._shared_out("along", len(rows), lambda part: (positions, rows[part]), lambda _: place)

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        if not self._work.worthwhile(len(directions) * distances.size):
            return np.asarray(self._here("along_rays", directions, distances))
        weights = sum(ray.weights.nbytes for rays in directions for ray in rays)
        length = max(1, int(len(directions) * _DIRECTIONS_BYTES / max(1, weights)))
        some = [directions[k : k + length] for k in range(0, len(directions), length)]
        return np.concatenate([self._along_some(each, distances) for each in some])

    def _along_some(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        """The same for directions of which a worker can keep all; their values are shared out together."""
        sent = self._work.folder.parcel("directions", [list(rays) for rays in directions])  # the weights may be many

        def place(part: slice) -> str:
            return along_direction(self._layout, directions[part.start // distances.size], 1.0).text

        try:
            values = self._shared_out(
                "along_cells", len(directions) * distances.size, lambda part: (sent, distances, part), place
            )
        finally:
            remove(sent)
        return values.reshape(len(directions), distances.size)

    def entries(self, positions: Positions) -> Array:
        return self._direct.entries(positions)

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        return self._direct.rounded(positions, displaced)

    def close(self) -> None:
        self._direct.close()
        self._work.close()

    def _here(self, method: str, *arguments: object) -> Any:
        with single_threaded():
            return getattr(self._direct, method)(*arguments)

    def _trial(self, layout: ParameterLayout) -> Trial:
        """Positions in all tensors, rows of their entries (at the point and displaced), and our values there."""
        filled = np.array(layout.sizes) > 0
        positions = distinct(np.concatenate([layout.starts[:-1][filled], spread(layout.size, _TRIAL_ENTRIES)]))
        start = self._direct.entries(positions)
        rows = self._direct.rounded(positions, np.stack([start, start + _TRIAL_STEP * (1 + np.abs(start))], axis=1)).T
        deadline, self._direct.deadline = self._direct.deadline, math.inf  # these two values precede the check
        values = np.asarray(self._here("along", positions, rows))
        self._direct.deadline = deadline
        return positions, rows, values

    def _shared_out(
        self,
        method: str,
        count: int,
        arguments: Callable[[slice], tuple[object, ...]],
        place: Callable[[slice], str],
        tick: Callable[[int, int], object] = lambda before, after: None,
        ends: Sequence[int] = (),
    ) -> Array:
        """The values of ``method`` of the opened losses for all parts of ``count`` evaluations, in their order.

        The parts may end only at ``ends``, if there are any. ``tick`` takes the numbers of evaluations that were done
        before and after each part.
        """
        out = self._unfinished = np.full(count, np.nan, self._direct.result_dtype)
        raised: dict[int, Raised] = {}
        done = 0
        try:
            with contextlib.closing(
                self._work.results(method, count, arguments, place, self._direct.deadline, ends)
            ) as results:
                for number, part, (values, exceptions) in results:
                    out[part], raised[number] = np.reshape(values, -1), _received(exceptions)
                    self._evaluations += len(values)
                    tick(done, done + len(values))
                    done += len(values)
                    if now() > self._direct.deadline:
                        raise OutOfTime
        finally:
            self._raised = functools.reduce(Raised.joined, [raised[k] for k in sorted(raised)], self._raised)
        return out


# --- in a worker ---

Answer = tuple[Array, tuple[Raised, bytes | None]]  # values, and what the loss raised: the first exception, pickled


@dataclass(frozen=True)
class OpenedLoss:
    """A check in a worker: its evaluator, the copy of the parameters that it displaces, and their shared original."""

    evaluator: Direct
    names: Sequence[str]
    leaves: Sequence[Array]
    shared: Sequence[Array]

    def values(self, *arguments: Any) -> Answer:
        """Of `Evaluator.values`, and what the loss raised."""
        return self._answer(self.evaluator.values(*arguments))

    def along(self, *arguments: Any) -> Answer:
        """Of `Evaluator.along`, and what the loss raised."""
        return self._answer(self.evaluator.along(*arguments))

    def along_cells(self, directions: list[list[Ray]], distances: Array, part: slice) -> Answer:
        """Values along directions, of the cells of a part of the table (directions, distances), and what was raised."""
        rows, columns = np.divmod(np.arange(part.start, part.stop), distances.size)
        found = [self.evaluator.along_one(directions[k], distances[columns[rows == k]]) for k in distinct(rows)]
        return self._answer(np.concatenate(found))

    def _answer(self, values: Array) -> Answer:
        _refuse_changed(self)
        raised, self.evaluator.raised = self.evaluator.raised, Raised()
        return values, (replace(raised, first=None), None if raised.first is None else portable(raised.first))


def _refuse_changed(opened: OpenedLoss) -> None:
    """Raise a ValueError that names the parameters that the loss changed; the main process could not see that."""
    rows = zip(opened.names, opened.leaves, opened.shared, strict=True)
    changed = [name for name, leaf, shared in rows if not np.array_equal(leaf, shared)]
    if changed:
        raise ValueError(
            f"loss changed params {listed(changed)} in a worker process; it must not change its parameters: "
            "copy them first"
        )


def refuse_different_loss(evaluator: Direct, trial: Trial | None) -> None:
    """Raise a ValueError if the loss gives other values here than in the main process: the check would be wrong."""
    if trial is None:
        return
    positions, rows, expected = trial
    for here, there in zip(evaluator.along(positions, rows).tolist(), expected.tolist(), strict=True):
        both_nan = here != here and there != there
        if not (here == there or abs(here - there) <= SAME_VALUE_THERE * abs(there) or both_nan):
            raise ValueError(
                f"loss gives {here!r} in a worker process where it gives {there!r} in this one: it reads something "
                "that is not sent to workers (a global changed after its module was imported, a module edited since); "
                "pass that through args, or use workers=1"
            )
    evaluator.raised = Raised()  # the main process has noted the same exceptions


def _received(sent: tuple[Raised, bytes | None]) -> Raised:
    """What the loss raised in a worker, in the main process."""
    raised, first = sent
    return raised if first is None else replace(raised, first=pickle.loads(first))
