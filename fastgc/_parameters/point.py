"""The point of the check: the arrays that are displaced, and the parameters as the loss and the gradient see them."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed
from fastgc._parameters.arrays import Array, median
from fastgc._parameters.layout import Branch, ParameterLayout, named_leaves
from fastgc._parameters.record import Storage, store
from fastgc._parameters.streams import stream

_KEPT_BYTES = 2**26  # of the caller's arrays, kept in place against a loss that changes its parameters
_TINY_SHARE = 1e-3
_AS_ZERO = 1e-12  # of the median magnitude: entries below are zeros that were rounded
_LOOKED_AT = 4096  # entries of a tensor that tell its scale


@dataclass(frozen=True)
class Point:
    """Parameters at one point and the extra arguments, in the precision of the evaluation.

    Attributes
    ----------
    leaves : sequence of arrays
        What is displaced, in the order of the layout: copies, or the caller's own arrays (in place).
    params : structure
        The caller's structure over the leaves, for plain functions.
    stored : Storage or None
        The copies; None in place.
    sources : sequence of arrays or None
        What was copied; None in place.
    """

    layout: ParameterLayout
    leaves: Sequence[Array]
    params: Any
    stored: Storage | None
    sources: Sequence[Array] | None
    args: tuple[Any, ...]

    @cached_property
    def checksums(self) -> tuple[int, ...]:
        """Of the leaves as they are when first asked for, before any function of the caller's saw them."""
        return fingerprint(self.leaves)

    def received_by(self, jitted: bool) -> Any:
        """The parameters as a plain or a jitted function receives them, sharing memory with the leaves."""
        if not jitted:
            return self.params
        if self.stored is not None:
            return self.stored.record()
        if isinstance(self.layout.structure, Branch) and self.layout.structure.is_dict:
            raise ValueError("in_place=True cannot go with a jitted function of a dict, which works on copies")
        return self.params

    def real(self) -> Point:
        """The point itself, or a real copy where it is held in complex numbers (for the complex step)."""
        if all(leaf.dtype.kind != "c" for leaf in self.leaves):
            return self
        return copied_point(self.layout, [leaf.real for leaf in self.leaves], self.args, "double", complex_step=False)


def copied_point(
    layout: ParameterLayout, leaves: Sequence[Array], args: tuple[Any, ...], precision: str, *, complex_step: bool
) -> Point:
    """Copies in float64 (``precision="double"``) or in each array's dtype ("native"); complex for the complex step."""
    dtypes = [np.dtype(np.float64) if precision == "double" else dtype for dtype in layout.dtypes]
    if complex_step:
        dtypes = [np.dtype(np.complex128)] * len(dtypes)
    stored = store(layout, leaves, dtypes)
    args = tuple(_in_double(arg) for arg in args) if precision == "double" else args
    return Point(layout, stored.leaves, layout.rebuild(stored.leaves), stored, leaves, args)


def callers_point(layout: ParameterLayout, leaves: Sequence[Array], args: tuple[Any, ...]) -> Point:
    """The caller's own arrays, to be displaced in place.

    Raises
    ------
    ValueError
        For read-only arrays and for arrays that share memory.
    """
    fixed = [name for name, leaf in zip(layout.names, leaves, strict=True) if not leaf.flags.writeable]
    if fixed:
        raise ValueError(
            f"in_place=True, but params {', '.join(map(repr, fixed))} cannot be written to; use in_place=False"
        )
    folded = [name for name, leaf in zip(layout.names, leaves, strict=True) if _extent(leaf) < leaf.nbytes]
    if folded:
        raise ValueError(f"in_place=True, but params {listed(folded)} share memory within; use in_place=False")
    for i, j in _overlapping(leaves):
        raise ValueError(
            f"in_place=True, but params {layout.names[i]!r} and {layout.names[j]!r} share memory; use in_place=False"
        )
    return Point(layout, leaves, layout.rebuild(leaves), None, None, args)


@contextlib.contextmanager
def moved(
    leaves: Sequence[Array], seed: int, number: int, reach: float, *, in_place: bool
) -> Iterator[Sequence[Array]]:
    """The leaves at point ``number``: themselves for 0, else displaced at random by ``reach`` mean magnitudes or so.

    In place the caller's arrays are overwritten, and restored to the bit at the end. At point 0 they are kept for that
    only where they are small: what displaces single entries puts these back itself.
    """
    if number == 0 and in_place and sum(leaf.nbytes for leaf in leaves) > _KEPT_BYTES:
        yield leaves
        return
    values = leaves if number == 0 else _displaced(leaves, seed, number, reach)
    with replaced(leaves, values, in_place=in_place) as places:
        yield places


@contextlib.contextmanager
def replaced(leaves: Sequence[Array], values: Sequence[Array], *, in_place: bool) -> Iterator[Sequence[Array]]:
    """Arrays that hold other values: these themselves; in place the caller's, which are restored to the bit."""
    if not in_place:
        yield values
        return
    originals = [leaf.copy() for leaf in leaves]
    try:
        try:
            _overwrite(leaves, values)
            yield leaves
        finally:
            _overwrite(leaves, originals)
    finally:
        _overwrite(leaves, originals)  # again: an interrupt may have fallen into the first time


def _displaced(leaves: Sequence[Array], seed: int, number: int, reach: float) -> list[Array]:
    generator = stream(seed, "random point", number)
    scales = tensor_scales(leaves)
    return [
        np.asarray(leaf + reach * scale * generator.standard_normal(leaf.shape))
        for leaf, scale in zip(leaves, scales, strict=True)
    ]


def _overwrite(leaves: Sequence[Array], values: Sequence[Array]) -> None:
    for leaf, value in zip(leaves, values, strict=True):
        leaf[...] = value


def tensor_scales(leaves: Sequence[Array]) -> NDArray[np.float64]:
    """The length in which steps in a tensor are measured, from some 4,000 evenly spaced entries.

    The geometric mean of their magnitudes, so that a few huge ones do not set it for all, but at least a thousandth of
    the arithmetic mean, for the many that may be tiny by chance. What is tiny beside the median counts as zero, and
    zeros do not count. 1 for a tensor of zeros.
    """
    return np.array([_typical_magnitude(leaf) for leaf in leaves])


def _typical_magnitude(leaf: Array) -> float:
    flat = leaf.reshape(-1) if leaf.flags.c_contiguous else leaf.flat
    some = np.abs(np.asarray(flat[:: max(1, leaf.size // _LOOKED_AT)])).astype(np.float64)
    some = some[some > 0]
    if not some.size:
        return 1.0
    some = some[some > _AS_ZERO * median(some)]
    largest = float(some.max())
    mean = largest * float((some / largest).mean())
    return max(float(np.exp(np.log(some).mean())), _TINY_SHARE * mean)


def _extent(leaf: Array) -> int:
    """Bytes from an array's first to its last; fewer than its entries need where these overlap."""
    if not leaf.size:
        return 0
    low, high = np.lib.array_utils.byte_bounds(leaf)
    return int(high - low)


def _overlapping(leaves: Sequence[Array]) -> Iterator[tuple[int, int]]:
    """Pairs of arrays that share memory, among neighbours in the order of their addresses."""
    bounds = [np.lib.array_utils.byte_bounds(leaf) for leaf in leaves]
    order = sorted((i for i, leaf in enumerate(leaves) if leaf.size), key=lambda i: bounds[i])
    for place, i in enumerate(order):
        for j in order[place + 1 :]:
            if bounds[j][0] >= bounds[i][1]:
                break
            if np.shares_memory(leaves[i], leaves[j]):
                yield min(i, j), max(i, j)


def _in_double(value: Any) -> Any:
    """Floating arrays (inside lists, tuples and dicts too) as float64; everything else as it is."""
    if isinstance(value, (np.ndarray, np.floating)):
        return value.astype(np.float64) if value.dtype in (np.float16, np.float32) else value
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: _in_double(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_in_double(each) for each in value)
    return value


def arrays_in(value: Any) -> Iterator[Any]:
    """The NumPy arrays in nested lists, tuples and dicts, and single records, which are parts of one."""
    if isinstance(value, (np.ndarray, np.void)):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from arrays_in(each)
    elif isinstance(value, dict):
        yield from arrays_in(list(value.values()))


def fingerprint(arrays: Sequence[Array]) -> tuple[int, ...]:
    """A checksum of each array's bytes, to notice that it was written to."""
    return tuple(
        0 if array.dtype.hasobject else zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data) for array in arrays
    )


def refuse_changed(point: Point, before: tuple[int, ...], who: str) -> None:
    """Raise a ValueError that names the parameters that a user's function changed: their entries, or their places."""
    after = fingerprint(point.leaves)
    changed = [name for name, old, new in zip(point.layout.names, before, after, strict=True) if old != new]
    changed += _misplaced(point)
    if changed:
        raise ValueError(
            f"{who} changed params {listed(list(dict.fromkeys(changed)))}; it must leave its parameters as they are: "
            "copy them first"
        )


def _misplaced(point: Point) -> list[str]:
    """Names whose arrays were taken out of the structure that a plain function receives, or replaced there."""
    try:
        here = named_leaves(point.params)
    except TypeError:  # something that is no parameter was put there
        return list(point.layout.names)
    pairs = zip(point.layout.names, point.leaves, strict=True)
    return [name for name, leaf in pairs if here.get(name) is not leaf] + [
        name for name in here if name not in point.layout.names
    ]
