"""What a loss may write to besides its parameters, where several threads would do so at once."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastgc._arguments import listed
from fastgc._parameters.arrays import Array
from fastgc._parameters.point import Point, arrays_in

_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, range, slice, enum.Enum, np.generic, np.dtype)


def unknown_in(args: tuple[Any, ...]) -> str | None:
    """The first of what args hold besides arrays, numbers, text, jitted functions and tuples of these; or None.

    Lists count as tuples: compiled code works on a copy of theirs.
    """
    return next((text for i, each in enumerate(args) for text in _unknown(f"args[{i}]", each)), None)


def _unknown(place: str, value: Any) -> Iterator[str]:
    if isinstance(value, (tuple, list)):
        for i, each in enumerate(value):
            yield from _unknown(f"{place}[{i}]", each)
    elif isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            yield f"{place} is an array of objects"
    elif not (isinstance(value, _IMMUTABLE) or hasattr(value, "py_func")):
        yield f"{place} is {_kind(value)}"


def _kind(value: Any) -> str:
    kind = type(value)
    if kind.__module__.startswith("numba.experimental.jitclass"):
        return f"a jitclass ({kind.__name__})"
    return f"a {'numba.typed.' if kind.__module__.startswith('numba.typed') else ''}{kind.__name__}"


def writable_arrays(args: tuple[Any, ...]) -> list[Array]:
    """The arrays, and records of one, that could be written to."""
    return [array for array in arrays_in(args) if array.flags.writeable]


def refuse_shared(point: Point) -> None:
    """Raise a ValueError if what was copied has changed: through args. It is put back before.

    To be called once the loss was seen to write into an array of args.
    """
    if point.sources is None:
        return
    triples = list(zip(point.layout.names, point.sources, point.leaves, strict=True))
    changed = [(name, source, leaf) for name, source, leaf in triples if not np.array_equal(source, leaf)]
    for _, source, leaf in changed:
        source[...] = leaf.real
    if changed:
        raise ValueError(
            f"loss changed params {listed([name for name, _, _ in changed])} through an array of args that shares "
            "their memory; it must not change its parameters: pass a copy in args"
        )
