"""Loss values of a module from several workers, each with a copy of the module.

Batched arithmetic rounds in another order than plain calls, and in another one for each length of a batch. So a piece
of the work holds whole batches, the same as one process computes, and whether batches are trusted is tried here: values
do not depend on who computes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from fastgc._evaluation.engine import Execution, FirstCall
from fastgc._evaluation.evaluator import Evaluator, Tick, silent
from fastgc._evaluation.pieces import single_threaded
from fastgc._evaluation.processes import Answer, OpenedLoss, Trial, WorkersEvaluator, refuse_different_loss
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.arrays import Array, Positions
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.point import Point
from fastgc._words import Workers
from fastgc.torch._evaluator import TorchEvaluator, Trust
from fastgc.torch._flat import as_reals
from fastgc.torch._points import Opener
from fastgc.torch._subject import Arguments, subject_of

_ALONE = "evaluated in this process alone, since a repeated call gave another value"


@dataclass(frozen=True)
class SentModule:
    """What every worker receives once: the caller's module and arguments, and the point.

    Attributes
    ----------
    names : of the parameters and inputs that are checked
    base : the loss at the point, as this process computes it
    trial : see `fastgc._evaluation.processes.SentLoss`
    """

    module: torch.nn.Module
    arguments: Arguments
    given_loss: Callable[..., object] | None
    names: tuple[str, ...]
    options: CheckOptions
    seeded: bool
    point: Point
    base: float
    trial: Trial | None = None

    @property
    def loss(self) -> Callable[..., object]:
        """The caller's function, whose module may have to go along."""
        return self.given_loss or type(self.module)

    @property
    def layout(self) -> ParameterLayout:
        """Of the tensors."""
        return self.point.layout

    def tried(self, trial: Trial | None) -> SentModule:
        """The same with a trial."""
        return replace(self, trial=trial)

    def opened(self) -> OpenedModule:
        """The module in a worker.

        Raises
        ------
        ValueError
            Where its loss gives other values here.
        """
        tensors = {**dict(self.module.named_parameters()), **dict(self.arguments.tensors())}
        originals = {name: tensors[name] for name in self.names}
        with torch.inference_mode(False):
            subject = subject_of(self.module, self.arguments, self.given_loss, originals, self.options, self.seeded)
            opener = Opener(subject, [as_reals(each) for each in originals.values()], self.seeded, ())
            evaluator, _ = opener(None, self.point, Execution("python"), expected=0, with_gradients=False)
        subject.surroundings.keep_what_was_used()
        evaluator.base = self.base
        refuse_different_loss(evaluator, self.trial)
        return OpenedModule(evaluator, (), (), ())


class OpenedModule(OpenedLoss):
    """A module in a worker, whose evaluator computes the batches that it is given."""

    def batches(self, trust: Trust, positions: Positions, displaced: Array) -> Answer:
        """Of `TorchEvaluator.values`, and what the loss raised."""
        assert isinstance(self.evaluator, TorchEvaluator)
        self.evaluator.trust = trust
        return self.values(positions, displaced, silent)


class ModuleWorkers(WorkersEvaluator):
    """Evaluates whole batches in workers, and small amounts of work in this process."""

    def __init__(self, direct: TorchEvaluator, sent: SentModule, workers: Workers, seconds: float) -> None:
        self._torch = direct
        self._tried: set[int] = set()
        self._rows: Positions = np.empty(0, np.int64)
        self._whole: Array = np.empty((0, 1))
        super().__init__(direct, sent, workers=workers, seconds=seconds, reproducible=True)

    @property
    def name(self) -> str:
        """The devices, and what shares the work."""
        return f"{self._torch.name[:-1]}, {self._work.name.removeprefix('python').strip(' ()') or 'this process'})"

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """The loss with entry ``positions[i]`` set to ``displaced[i, j]``."""
        sorted_ones = bool(np.all(positions[1:] >= positions[:-1]))
        if not (sorted_ones and self._work.worthwhile(displaced.size)):
            self._unfinished = None
            return np.asarray(self._here("values", positions, displaced, tick))
        chunks = list(self._torch.chunks(positions, displaced.shape[1]))
        out = self._whole = np.full(displaced.shape, np.nan, self._torch.result_dtype)
        rest: list[slice] = []
        for t, rows in chunks:
            if t in self._tried:
                rest.append(rows)
            else:  # whether its batches can be trusted
                self._tried.add(t)
                out[rows] = self._here("values", positions[rows], displaced[rows], tick)
        if rest:
            self._rows = np.concatenate([np.arange(rows.start, rows.stop) for rows in rest])
            ends = np.cumsum([rows.stop - rows.start for rows in rest]) * displaced.shape[1]
            found = self._batches(positions[self._rows], displaced[self._rows], ends.tolist(), tick)
            out[self._rows] = found.reshape(self._rows.size, -1)
        return out

    def _batches(self, positions: Positions, displaced: Array, ends: list[int], tick: Tick) -> Array:
        columns, trust = displaced.shape[1], self._torch.trust

        def rows(part: slice) -> slice:
            return slice(part.start // columns, part.stop // columns)

        return self._shared_out(
            "batches",
            displaced.size,
            lambda part: (trust, positions[rows(part)], displaced[rows(part)]),
            lambda part: self._between(positions[rows(part)]),
            lambda before, after: tick(after // columns - before // columns),
            ends,
        )

    @property
    def unfinished(self) -> Array | None:
        """As that of a `PythonEvaluator`."""
        if self._unfinished is None:
            return self._torch.unfinished
        whole = self._whole.copy()
        whole[self._rows] = self._unfinished.reshape(self._rows.size, -1)
        return whole.reshape(-1)


@dataclass(frozen=True)
class SharingOpener:
    """Opens evaluators of a module that share their work out among workers.

    Attributes
    ----------
    opener : opens them in this process
    sent : makes what the workers receive, of a point and the loss there
    """

    opener: Opener
    workers: Workers
    sent: Callable[[Point, float], SentModule]

    def __call__(
        self, loss: object, point: Point, execution: Execution, *, expected: int, with_gradients: bool
    ) -> tuple[Evaluator, FirstCall]:
        """The evaluator, and the result of the first calls."""
        with single_threaded():
            direct, first = self.opener(loss, point, execution, expected=expected, with_gradients=with_gradients)
        if any(leaf.dtype.kind == "c" for leaf in point.leaves):
            return direct, first
        if first.noisy:
            return direct, first.noted(_ALONE)
        return ModuleWorkers(direct, self.sent(point, first.value), self.workers, first.seconds), first
