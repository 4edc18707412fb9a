"""Parameters of an earlier moment, to which a gradient may belong that is wrong here."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from fastgc._derivatives.loss_at_point import unmeasured_loss
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.engine import NotFiniteError
from fastgc._evaluation.evaluator import Evaluator, WrongValueError, described
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.matching import match_parameters, refuse_nonfinite
from fastgc._parameters.point import replaced
from fastgc._verdicts.entries import GradientAtPoint

if TYPE_CHECKING:
    from fastgc._diagnosis.measured_tensor import MeasuredTensor

EVALUATIONS = 56  # that diagnoses may take, two fifths of a small check; for each tensor as many at earlier parameters


@dataclass(frozen=True)
class EarlierMeasurements:
    """Measurements at the parameters of an earlier moment.

    Attributes
    ----------
    tensors : by failing tensor, entries of it as they are there
    evaluations : how many the measurements took
    notes : why nothing was measured
    """

    tensors: Mapping[int, MeasuredTensor] = field(default_factory=dict)
    evaluations: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EarlierParameters:
    """The parameters of an earlier moment, and the loss to evaluate there."""

    loss: CallersLoss
    leaves: Sequence[Array]

    def open(self, here: GradientAtPoint, opened: contextlib.ExitStack) -> GradientAtPoint | EarlierMeasurements:
        """The same gradient there, until ``opened`` is closed; or why nothing can be measured there."""
        if all(map(np.array_equal, self.leaves, self.loss.leaves)):
            return _nothing("previous holds the values of params: were they changed in place? Keep a copy", 0)
        moving = replaced(self.loss.leaves, self.leaves, in_place=self.loss.in_place)
        point = opened.enter_context(self.loss.at(moving))
        try:
            evaluator, first = self.loss.open(point, EVALUATIONS)
        except NotFiniteError:
            return _nothing("the loss is not finite at previous: nothing was compared there")
        except WrongValueError:
            raise
        except Exception as error:
            return _nothing(f"the loss raised {described(error)} at previous: nothing was compared there")
        opened.enter_context(contextlib.closing(evaluator))
        return gradient_elsewhere(here, evaluator, point.leaves, float(np.real(first.value)))


def _nothing(note: str, evaluations: int = 1) -> EarlierMeasurements:
    return EarlierMeasurements(evaluations=evaluations, notes=(note,))


def earlier_leaves(layout: ParameterLayout, previous: object) -> list[Array]:
    """The arrays of ``previous``, not copied, in the order of the layout.

    Raises
    ------
    TypeError, ValueError
        Unless they have the structure, names, shapes and dtypes of the parameters, and are finite.
    """
    arrays = match_parameters(layout, previous, "previous")
    refuse_nonfinite(layout, arrays, "previous")
    return arrays


def gradient_elsewhere(
    gradient: GradientAtPoint, evaluator: Evaluator, leaves: Sequence[Array], base: float
) -> GradientAtPoint:
    """The same gradient at other parameters, where the loss is ``base``.

    Its noise is not measured again: it is that at the point, or the round-off of ``base`` if that is larger.
    """
    here = gradient.loss
    rounding = float(np.finfo(np.float32 if here.noise.single else np.float64).eps) * abs(base) / 2
    at_point, displaced = (max(rounding, each) for each in (here.noise.at_point, here.noise.displaced))
    noise = replace(here.noise, at_point=at_point, displaced=displaced)
    loss = unmeasured_loss(evaluator, here.layout, leaves, base)
    loss = replace(loss, noise=noise, local_variation=here.local_variation)
    return replace(gradient, loss=loss, step=None)
