"""The checkpoint of a check of a gradient: which check it is of, and the evaluators that keep their values in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import TracebackType

import numpy as np

from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.checkpoint import Checkpoint, CheckpointedEvaluator, digest
from fastgc._evaluation.engine import FirstCall
from fastgc._evaluation.evaluator import Evaluator
from fastgc._evaluation.interruption import InterruptibleEvaluator
from fastgc._evaluation.workers_option import width
from fastgc._evaluation.wrapped import WrappedEvaluator
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.arrays import Array

# These say how values are computed or shown, and change none of them.
_OTHERWISE = frozenset({"threads", "workers", "progress", "time_budget", "checkpoint"})


class KeptValues:
    """Keeps the values of a check's evaluators in its checkpoint, if it has one, until it is closed."""

    def __init__(self, loss: CallersLoss, options: CheckOptions) -> None:
        self._loss, self._options = loss, options
        self._checkpoint: Checkpoint | None = None

    def __enter__(self) -> KeptValues:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._checkpoint is not None:
            self._checkpoint.close()

    def of(
        self, evaluator: Evaluator, leaves: Sequence[Array], first: FirstCall, gradients: Sequence[Array]
    ) -> Evaluator:
        """The evaluator at a point; at the first point the file is opened, and refused if it is of another check.

        Raises
        ------
        ValueError, OSError
            See `Checkpoint`.
        """
        path = self._options.checkpoint
        if path is None:
            return evaluator
        if self._checkpoint is None:
            self._checkpoint = Checkpoint(path, _about(self._loss, self._options, first, gradients))
        kept = self._checkpoint, digest(*_parts(list(leaves))), width(self._options.workers)
        return _inside(evaluator, lambda inner: CheckpointedEvaluator(inner, *kept))


def _inside(evaluator: Evaluator, kept: Callable[[Evaluator], Evaluator]) -> Evaluator:
    """The evaluator with ``kept`` around the one that calls the loss: bounds depend on what is asked for together."""
    if isinstance(evaluator, InterruptibleEvaluator) or not isinstance(evaluator, WrappedEvaluator):
        return kept(evaluator)
    evaluator.inner = _inside(evaluator.inner, kept)
    return evaluator


def _about(loss: CallersLoss, options: CheckOptions, first: FirstCall, gradients: Sequence[Array]) -> dict[str, str]:
    """Digests of everything that the values of a check depend on, under the names that a refusal gives."""
    found = {
        "names": loss.layout.names,
        "shapes": loss.layout.shapes,
        "dtypes": [str(leaf.dtype) for leaf in loss.leaves],
        "params": list(loss.leaves),
        "loss at params": None if first.noisy else first.value,
        "gradients": list(gradients),
        "args": loss.args,
    }
    kept = [field.name for field in fields(options) if field.name not in _OTHERWISE]
    found |= {name: getattr(options, name) for name in kept}
    return {name: digest(*_parts(value)) for name, value in found.items()}


def _parts(value: object) -> list[bytes]:
    """Bytes that tell a value from others: of arrays, numbers, text and what is made of them; of others their types."""
    if isinstance(value, Mapping):
        return [b"{", *(part for pair in value.items() for each in pair for part in _parts(each)), b"}"]
    if isinstance(value, list | tuple):
        return [b"[", *(part for each in value for part in _parts(each)), b"]"]
    if value is None or isinstance(value, str | bytes | bool | int | float | complex):
        return [repr(value).encode()]
    with contextlib.suppress(Exception):  # what an array cannot be made of counts by its type
        array = np.asarray(value)
        if array.dtype.kind in "biufcSU":
            return [f"{array.dtype.str}{array.shape}".encode(), np.ascontiguousarray(array).tobytes()]
    inside = {name: getattr(value, name, None) for name in ("lb", "ub")}  # of scipy.optimize.Bounds
    return [f"{type(value).__module__}.{type(value).__qualname__}".encode(), *_parts(inside)]
