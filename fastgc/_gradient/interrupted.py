"""Checks that Ctrl-C ends: the exception that carries their report, and the result at a point that was not reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._derivatives.noise import Noise
from fastgc._derivatives.stencil import stencil_named
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.evaluator import Raised
from fastgc._evaluation.floating_point import own_errstate
from fastgc._evaluation.interruption import Interruption
from fastgc._evaluation.python import unasked
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.sampling import SamplePlan, Selection
from fastgc._public import public
from fastgc._reports.summary import PointResult
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.judgement import Judgement
from fastgc._verdicts.time_budget import INTERRUPTED

Result = TypeVar("Result")


@public
class Interrupted(KeyboardInterrupt):
    """A check was interrupted; ``report`` holds the report of what was known by then, the rest of it undecided.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> def loss(x):
    ...     if x[2] != 3.0:  # as if Ctrl-C were pressed while the last entry is displaced
    ...         raise KeyboardInterrupt
    ...     return x @ x
    >>> try:
    ...     report = fastgc.check_gradients(loss, lambda x: 2 * x, np.array([1.0, 2.0, 3.0]), crosscheck=False)
    ... except fastgc.Interrupted as interrupted:
    ...     report = interrupted.report
    >>> report.verdict
    'undecided'
    """

    def __init__(self, report: Any) -> None:
        super().__init__(f"the check was interrupted; what is known so far:\n{report}")
        self.report = report


def interruptible(interruption: Interruption, check: Callable[[], Result]) -> Result:
    """The report of a check, if nothing interrupts it; else it is raised as `Interrupted`."""
    __tracebackhide__ = True
    with own_errstate(), interruption.listening():
        report = check()
    if interruption.requested:
        raise Interrupted(report)
    return report


def not_reached(loss: CallersLoss, options: CheckOptions, selection: Selection, number: int, what: str) -> PointResult:
    """The result at a point of which nothing is known: all tensors are undecided."""
    layout, evaluator = loss.layout, unasked(loss.layout)
    count, nothing = len(layout.names), Estimates.unmeasured(np.empty(0, np.int64))
    at_point = LossAtPoint(evaluator, layout, np.nan, Noise(0.0, 0.0, 1.0, False), np.ones(count), np.zeros(count))
    gradients = [np.broadcast_to(0.0, size) for size in layout.sizes]  # no entry of them is looked at
    tolerances = options.tolerances(layout.names, [np.dtype(np.float64)] * count)
    gradient = GradientAtPoint(at_point, gradients, np.zeros(count), tolerances, stencil_named("central"), None)
    return PointResult(
        point=number,
        gradient=gradient,
        plan=SamplePlan((nothing.positions,) * count, (0,) * count),
        estimates=nothing,
        judgement=Judgement.passing(np.empty(0), nothing),
        coverages={},
        looked_at=nothing,
        spoiled={},
        unreached={t: f"{INTERRUPTED}{what}" for t in selection.tensors if layout.sizes[t]},
        diagnoses={},
        notes=loss.notes,
        raised=Raised(),
        evaluations=0,
        engine=options.engine,
        crosscheck=None,
    )
