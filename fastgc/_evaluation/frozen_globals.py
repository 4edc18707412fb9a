"""Globals and closure variables that have changed since Numba compiled them into a function as constants."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastgc._parameters.arrays import Array, in_blocks
from fastgc._parameters.point import Point
from fastgc._parameters.streams import stream

_SAME_COMPILED = 1e-8  # relative: compiled code sums in another order than NumPy; a changed global shows far above
_NEARBY = 1e-3  # relative distance of the other points of that comparison: larger than round-off, inside most domains

Read = Callable[[Callable[..., Any], Any], Any]  # the numbers, shape () or (m,), that a function returns at a record


def refuse_frozen_data(function: Any, point: Point, read: Read, what: str) -> None:
    """Raise a ValueError if a jitted function (``what``) has captured data that has changed since.

    It is compared with its Python function, at the point and near it (at an optimum a constant may not show). They can
    also differ because the arithmetic is ill-conditioned. So the function is then compiled again: two compilations
    differ only by the constants.
    """
    from fastgc._evaluation.jitted import compiled_anew, freezes_data

    if not freezes_data(function):
        return
    for record in nearby_records(point):
        compiled, plain = (value_at(read, each, record) for each in (function, function.py_func))
        place = _difference(compiled, plain)
        if compiled is None or plain is None or place is None:
            continue
        fresh = value_at(read, compiled_anew(function), record)
        if fresh is None or _difference(compiled, fresh) is not None or not np.isfinite(fresh[place]):
            here, there = compiled[place].item(), plain[place].item()
            raise ValueError(
                f"the compiled {what} gives {here!r} where its Python function gives {there!r}: Numba froze a global "
                f"or closure variable that has changed since; pass it through args, or compile {named(what)} again"
            )


def named(what: str) -> str:
    """The function in the middle of a sentence: "the loss", but "f"."""
    return what if len(what) == 1 else f"the {what}"


def nearby_records(point: Point) -> Iterator[object]:
    """Records of the parameters: every entry displaced, every entry displaced by a share of itself, none displaced."""
    assert point.stored is not None
    generator = stream(0, "compiled")
    for shift, share in ((_NEARBY, _NEARBY), (0.0, _NEARBY), (0.0, 0.0)):
        stored = point.stored.copied()
        for block in itertools.chain.from_iterable(map(in_blocks, stored.leaves)):
            block += generator.standard_normal(block.size) * (shift + share * block)
        yield stored.record()


def value_at(read: Read, function: Callable[..., object], record: object) -> Array | None:
    """The numbers that a function returns, shape (m,); None where it raises."""
    try:
        with np.errstate(all="ignore"):
            return np.asarray(read(function, record)).reshape(-1)
    except Exception:
        return None


def _difference(values: Array | None, others: Array | None) -> int | None:
    """The place of the first value that differs, None for none; one that is not finite differs from no other."""
    if values is None or others is None or values.shape != others.shape:
        return None
    with np.errstate(all="ignore"):
        off = np.abs(values - others) > _SAME_COMPILED * np.maximum(np.abs(values), np.abs(others))
    return int(np.argmax(off)) if off.any() else None
