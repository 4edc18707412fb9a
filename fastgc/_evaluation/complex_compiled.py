"""Whether a jitted loss can be compiled for complex parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numba
from numba.core.errors import NumbaError

import fastgc._evaluation.numba_record  # noqa: F401 - it gives Numba the type of a record
from fastgc._evaluation.engine import jitted
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.point import copied_point


def takes_complex_parameters(
    loss: Callable[..., object], layout: ParameterLayout, leaves: Sequence[Array], args: tuple[object, ...]
) -> bool:
    """Whether Numba finds types for the loss with complex parameters; True also where it finds none for real ones."""
    return _compiles(loss, layout, leaves, args, complex_step=True) or not _compiles(
        loss, layout, leaves, args, complex_step=False
    )


def _compiles(
    loss: Callable[..., object], layout: ParameterLayout, leaves: Sequence[Array], args: tuple[object, ...], *,
    complex_step: bool,
) -> bool:  # fmt: skip
    point = copied_point(layout, leaves, args, "double", complex_step=complex_step)
    typeof: Callable[[object], object] = numba.typeof
    try:
        jitted(loss).compile(tuple(typeof(each) for each in (point.received_by(True), *point.args)))
    except NumbaError:
        return False
    return True
