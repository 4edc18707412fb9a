"""The checkpoint of a check of a gradient: which check it is of, and the evaluators that keep their values in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.checkpoint import CheckpointedEvaluator, LateCheckpoint, digest_of
from fastgc._evaluation.engine import FirstCall
from fastgc._evaluation.evaluator import Evaluator
from fastgc._evaluation.interruption import InterruptibleEvaluator
from fastgc._evaluation.workers_option import width
from fastgc._evaluation.wrapped import WrappedEvaluator
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.arrays import Array

# These say how values are computed or shown, and change none of them.
_OTHERWISE = frozenset({"threads", "workers", "progress", "time_budget", "checkpoint"})


class KeptValues(LateCheckpoint):
    """Keeps the values of a check's evaluators in its checkpoint, if it has one, until it is closed."""

    def __init__(self, loss: CallersLoss, options: CheckOptions) -> None:
        super().__init__(options.checkpoint)
        self._loss, self._options = loss, options

    def of(
        self, evaluator: Evaluator, leaves: Sequence[Array], first: FirstCall, gradients: Sequence[Array]
    ) -> Evaluator:
        """The evaluator at a point; at the first point the file is opened, and refused if it is of another check.

        Raises
        ------
        ValueError, OSError
            See `fastgc._evaluation.checkpoint.Checkpoint`.
        """
        checkpoint = self.opened(partial(_about, self._loss, self._options, first, gradients))
        if checkpoint is None:
            return evaluator
        dtype = np.complex128 if any(leaf.dtype.kind == "c" for leaf in leaves) else np.float64
        kept = checkpoint, digest_of(list(leaves)), width(self._options.workers), dtype
        return _inside(evaluator, lambda inner: CheckpointedEvaluator(inner, *kept))


def _inside(evaluator: Evaluator, kept: Callable[[Evaluator], Evaluator]) -> Evaluator:
    """The evaluator with ``kept`` around the one that calls the loss: bounds depend on what is asked for together."""
    if isinstance(evaluator, InterruptibleEvaluator) or not isinstance(evaluator, WrappedEvaluator):
        return kept(evaluator)
    evaluator.inner = _inside(evaluator.inner, kept)
    return evaluator


def _about(loss: CallersLoss, options: CheckOptions, first: FirstCall, gradients: Sequence[Array]) -> dict[str, Any]:
    """Everything that the values of a check depend on, under the names that a refusal gives."""
    return {
        "names": loss.layout.names,
        "shapes": loss.layout.shapes,
        "dtypes": [str(leaf.dtype) for leaf in loss.leaves],
        "params": list(loss.leaves),
        "loss at params": None if first.noisy else first.value,
        "gradients": list(gradients),
        "args": loss.args,
        **about_options(options),
    }


def about_options(options: CheckOptions) -> dict[str, Any]:
    """The options on which values depend."""
    return {field.name: getattr(options, field.name) for field in fields(options) if field.name not in _OTHERWISE}
