"""Arguments that a loss could write to: several threads must not do so at once."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import numpy as np

from fastgc._arguments import listed
from fastgc._parameters.arrays import Array
from fastgc._parameters.point import Point, arrays_in

_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, range, slice, enum.Enum, np.generic, np.dtype)


def unknown_in(args: tuple[object, ...]) -> str | None:
    """The first argument, in words, of which it is not known whether the loss writes to it; None if there is none.

    Known are arrays (checksums show a write), immutable values, jitted functions, and tuples and lists of these.
    Compiled code works on a copy of a list.
    """
    return next((text for i, each in enumerate(args) for text in _unknown_parts(f"args[{i}]", each)), None)


def _unknown_parts(place: str, value: object) -> Iterator[str]:
    if isinstance(value, (tuple, list)):
        for i, each in enumerate(value):
            yield from _unknown_parts(f"{place}[{i}]", each)
    elif isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            yield f"{place} is an array of objects"
    elif not (isinstance(value, _IMMUTABLE) or hasattr(value, "py_func")):
        yield f"{place} is {_named_type(value)}"


def _named_type(value: object) -> str:
    kind = type(value)
    if kind.__module__.startswith("numba.experimental.jitclass"):
        return f"a jitclass ({kind.__name__})"
    return f"a {'numba.typed.' if kind.__module__.startswith('numba.typed') else ''}{kind.__name__}"


def writable_arrays(args: tuple[object, ...]) -> list[Array]:
    """The arrays in args, and NumPy records, that can be written to."""
    return [array for array in arrays_in(args) if array.flags.writeable]


def refuse_shared(point: Point) -> None:
    """Raise a ValueError if the loss changed the caller's own parameters through args. They are restored first.

    Call it where the loss was seen to write into an array of args.
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
