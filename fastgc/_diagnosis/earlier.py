"""Parameters of an earlier moment, to which a gradient may belong that is wrong here: what is measured there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgc._derivatives.estimates import unmeasured_loss
from fastgc._evaluation.evaluator import Evaluator
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.matching import match_parameters, refuse_nonfinite
from fastgc._verdicts.entries import GradientAtPoint

if TYPE_CHECKING:
    from fastgc._diagnosis.measured_tensor import MeasuredTensor


@dataclass(frozen=True)
class EarlierMeasurements:
    """What was measured at the parameters of an earlier moment.

    Attributes
    ----------
    tensors : by failing tensor, entries of it as they are there
    evaluations : that it took
    notes : why there are no tensors
    """

    tensors: Mapping[int, MeasuredTensor] = field(default_factory=dict)
    evaluations: int = 0
    notes: tuple[str, ...] = ()


NOTHING = EarlierMeasurements()
# Measures failing tensors at a point, one after the other.
Measure = Callable[[GradientAtPoint], "Iterable[tuple[int, MeasuredTensor]]"]
# Opens the gradient at the earlier parameters and measures there.
MeasureEarlier = Callable[[GradientAtPoint, Measure], EarlierMeasurements]


def earlier_leaves(layout: ParameterLayout, previous: Any) -> list[Array]:
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

    Its noise is not measured anew: it is taken to be that at the point, or the round-off of ``base`` if
    that is more.
    """
    here = gradient.loss
    rounding = float(np.finfo(np.float32 if here.noise.single else np.float64).eps) * abs(base) / 2
    at_point, displaced = (max(rounding, each) for each in (here.noise.at_point, here.noise.displaced))
    noise = replace(here.noise, at_point=at_point, displaced=displaced)
    loss = replace(
        unmeasured_loss(evaluator, here.layout, leaves, base), noise=noise, local_variation=here.local_variation
    )
    return replace(gradient, loss=loss, step=None)
