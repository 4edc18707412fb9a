"""The point of a check: the arrays that are displaced, and the parameters as the loss and the gradient receive them."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fastgc._arguments import listed
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array, Floats, Positions, medians, of_runs, together
from fastgc._parameters.bounds import Bounds
from fastgc._parameters.layout import Branch, Node, ParameterLayout, named_leaves
from fastgc._parameters.record import Storage, store
from fastgc._parameters.streams import stream
from fastgc._parameters.symmetric import Symmetric

# In place, a copy of the caller's arrays is kept up to this size (64 MiB), so that a loss that changes them does no
# harm. Above it, a copy could double the memory of the process, and a change is only reported.
_KEPT_BYTES = 2**26
# A tensor's scale is at least this share of its mean magnitude: many tiny entries must not make all steps tiny.
_LEAST_SCALE = 1e-3
# Entries below this share of the median magnitude count as zeros that were rounded: some thousand times the round-off
# (2e-16) of the terms that cancelled.
_AS_ZERO = 1e-12
# Evenly spaced entries that stand for a whole tensor, and set its scale: a million would take too long, and the mean of
# the logarithms of 4,096 entries is known to 1/64 of their spread.
SAMPLE = 4096


@dataclass(frozen=True)
class Point:
    """The parameters at one point and the extra arguments, in the precision of the evaluation.

    Attributes
    ----------
    leaves : sequence of arrays
        The arrays that are displaced, in the order of the layout: copies, or the caller's arrays (in place).
    params : structure
        The leaves in the caller's structure: what plain functions receive.
    stored : Storage or None
        The copies; None in place.
    sources : sequence of arrays or None
        The arrays that were copied; None in place.
    """

    layout: ParameterLayout
    leaves: Sequence[Array]
    params: object
    stored: Storage | None
    sources: Sequence[Array] | None
    args: tuple[object, ...]

    @cached_property
    def checksums(self) -> tuple[int, ...]:
        """Checksums of the leaves. Read them first before any function of the caller receives the leaves."""
        return fingerprint(self.leaves)

    @cached_property
    def stamp(self) -> tuple[int, ...]:
        """Checksums that show whether the leaves were written to: one of all copies, or one of each leaf."""
        return self.checksums if self.stored is None else fingerprint([self.stored.buffer])

    def received_by(self, jitted: bool) -> Any:
        """The parameters as a plain or a jitted function receives them, sharing memory with the leaves."""
        if not jitted:
            return self.params
        if self.stored is not None:
            return self.stored.record()
        if isinstance(self.layout.structure, Branch) and self.layout.structure.is_dict:
            raise ValueError(
                "in_place=True, but a jitted function receives a dict as a copy; use in_place=False or a list of arrays"
            )
        return self.params

    def real(self) -> Point:
        """The point itself; a real copy of one that holds complex numbers (for the complex step)."""
        if all(leaf.dtype.kind != "c" for leaf in self.leaves):
            return self
        return copied_point(self.layout, [leaf.real for leaf in self.leaves], self.args, "double", complex_step=False)


def copied_point(
    layout: ParameterLayout, leaves: Sequence[Array], args: tuple[object, ...], precision: str, *, complex_step: bool
) -> Point:
    """Copies in float64 (``precision="double"``) or in each array's dtype ("native"); complex for the complex step."""
    dtypes = [np.dtype(np.float64) if precision == "double" else dtype for dtype in layout.dtypes]
    if complex_step:
        dtypes = [np.dtype(np.complex128)] * len(dtypes)
    stored = store(layout, leaves, dtypes)
    args = tuple(_as_double(arg) for arg in args) if precision == "double" else args
    return Point(layout, stored.leaves, layout.rebuild(stored.leaves), stored, leaves, args)


def callers_point(layout: ParameterLayout, leaves: Sequence[Array], args: tuple[object, ...]) -> Point:
    """A point over the caller's arrays, which are displaced in place.

    Raises
    ------
    ValueError
        For read-only arrays, and for entries that share memory.
    """
    fixed = [name for name, leaf in zip(layout.names, leaves, strict=True) if not leaf.flags.writeable]
    if fixed:
        raise ValueError(f"in_place=True, but params {listed(fixed)} cannot be written to; use in_place=False")
    folded = [name for name, leaf in zip(layout.names, leaves, strict=True) if _spanned_bytes(leaf) < leaf.nbytes]
    if folded:
        raise ValueError(
            f"in_place=True, but entries of params {listed(folded)} share memory with each other; use in_place=False"
        )
    for i, j in _overlapping(leaves):
        raise ValueError(
            f"in_place=True, but params {layout.names[i]!r} and {layout.names[j]!r} share memory; use in_place=False"
        )
    return Point(layout, leaves, layout.rebuild(leaves), None, None, args)


@contextlib.contextmanager
def leaves_at(
    leaves: Sequence[Array],
    seed: int,
    number: int,
    reach: float,
    *,
    in_place: bool,
    bounds: Bounds | None = None,
    symmetric: Symmetric | None = None,
) -> Iterator[Sequence[Array]]:
    """The leaves at point ``number``: unchanged for 0, else every entry plus ``reach * scale * normal random number``.

    In place, the caller's arrays are overwritten, and restored bit for bit at the end. At point 0 small arrays are
    copied for that; large ones are not, since whatever displaces an entry restores it.
    """
    if number == 0 and in_place and sum(leaf.nbytes for leaf in leaves) > _KEPT_BYTES:
        yield leaves
        return
    moved = partial(_displaced, leaves, seed, number, reach, bounds, symmetric)
    with replaced(leaves, leaves if number == 0 else moved(), in_place=in_place) as places:
        yield places


@contextlib.contextmanager
def replaced(leaves: Sequence[Array], values: Sequence[Array], *, in_place: bool) -> Iterator[Sequence[Array]]:
    """Arrays that hold ``values``: ``values`` itself, or (in place) the caller's, which are restored bit for bit."""
    if not in_place:
        yield values
        return
    originals = [leaf.copy() for leaf in leaves]
    try:
        try:
            _overwrite(leaves, values)
            del values  # frees memory: nobody else holds those of a random point
            yield leaves
        finally:
            _overwrite(leaves, originals)
    finally:
        _overwrite(leaves, originals)  # again: an interrupt may have fallen into the first time


def _displaced(
    leaves: Sequence[Array], seed: int, number: int, reach: float, bounds: Bounds | None, symmetric: Symmetric | None
) -> list[Array]:
    generator = stream(seed, "random point", number)
    scales = tensor_scales(leaves)
    moved = [
        np.asarray(leaf + reach * scale * generator.standard_normal(leaf.shape))
        for leaf, scale in zip(leaves, scales, strict=True)
    ]
    moved = moved if bounds is None else bounds.inside(leaves, moved)
    return moved if symmetric is None else symmetric.symmetrised(moved)


def _overwrite(leaves: Sequence[Array], values: Sequence[Array]) -> None:
    for leaf, value in zip(leaves, values, strict=True):
        leaf[...] = value


def tensor_scales(leaves: Sequence[Array]) -> Floats:
    """The length that is the unit of steps in each tensor, from some 4,000 evenly spaced entries.

    It is the geometric mean of the magnitudes, so that a few huge entries do not set it for all others, but at least a
    thousandth of the arithmetic mean, since many entries may be tiny by chance. Zeros are left out, and so are entries
    that are tiny compared with the median. 1 for a tensor of zeros.
    """
    some = [spaced(leaf) for leaf in leaves]
    sizes = np.array([each.size for each in some], np.int64)
    return np.concatenate([np.empty(0), *[_typical_magnitudes(some[few], sizes[few]) for few in together(sizes)]])


def spaced(leaf: Array) -> Array:
    """Some thousand evenly spaced entries of a large array; a small one as it is."""
    step = leaf.size // SAMPLE
    if step <= 1:
        return leaf
    return leaf.reshape(-1)[::step] if leaf.flags.c_contiguous else np.asarray(leaf.flat[::step])


def _typical_magnitudes(some: Sequence[Array], sizes: Positions) -> Floats:
    """The scale of each of several tensors, from some entries of each."""
    values = np.abs(np.concatenate(some, axis=None)).astype(np.float64, copy=False)
    owners = np.arange(sizes.size).repeat(sizes)
    known = (values > 0) & np.isfinite(values)
    values, owners = values[known], owners[known]
    known = values > _AS_ZERO * medians(values, _ends(owners, sizes.size))[owners]
    values, owners = values[known], owners[known]
    ends = _ends(owners, sizes.size)
    counts, largest = np.maximum(1, ends[1:] - ends[:-1]), of_runs(np.maximum, values, ends)
    means = largest * (of_runs(np.add, values / largest[owners], ends) / counts)
    scales = np.maximum(np.exp(of_runs(np.add, np.log(values), ends) / counts), _LEAST_SCALE * means)
    return np.where(ends[1:] > ends[:-1], scales, 1.0)


def _ends(owners: Positions, count: int) -> Positions:
    """Where the values of each of ``count`` owners begin among sorted ones, and the last ends."""
    return owners.searchsorted(np.arange(count + 1))


def _spanned_bytes(leaf: Array) -> int:
    """The number of bytes from an array's first to its last; below ``nbytes`` only where entries overlap."""
    if not leaf.size:
        return 0
    low, high = np.lib.array_utils.byte_bounds(leaf)
    return int(high - low)


def _overlapping(leaves: Sequence[Array]) -> Iterator[tuple[int, int]]:
    """Pairs of arrays that share memory."""
    bounds = [np.lib.array_utils.byte_bounds(leaf) for leaf in leaves]
    order = sorted((i for i, leaf in enumerate(leaves) if leaf.size), key=lambda i: bounds[i])
    for place, i in enumerate(order):
        for j in order[place + 1 :]:
            if bounds[j][0] >= bounds[i][1]:
                break
            if np.shares_memory(leaves[i], leaves[j]):
                yield min(i, j), max(i, j)


def _as_double(value: Any) -> object:
    """Floating-point arrays as float64, inside lists, tuples and dicts too; everything else unchanged."""
    if isinstance(value, (np.ndarray, np.floating)):
        return value.astype(np.float64) if value.dtype in (np.float16, np.float32) else value
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: _as_double(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_as_double(each) for each in value)
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(map(_as_double, value))
    return value


def arrays_in(value: object) -> Iterator[Array]:
    """The NumPy arrays in nested lists, tuples and dicts, and single NumPy records (they are views of an array)."""
    if isinstance(value, (np.ndarray, np.void)):
        yield value  # type: ignore[misc]  # a record, too, has an array's attributes
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from arrays_in(each)
    elif isinstance(value, dict):
        yield from arrays_in(list(value.values()))


def fingerprint(arrays: Sequence[Array]) -> tuple[int, ...]:
    """A checksum of the bytes of each array, which shows whether it was written to (0 for an array of objects)."""
    return tuple([0 if array.dtype.hasobject else zlib.crc32(_bytes(np.asarray(array))) for array in arrays])


def _bytes(array: Array) -> bytes | memoryview:
    """The bytes of an array in C order, copied only where NumPy has no other way to them."""
    if array.dtype.kind in "fiubc" and array.flags.c_contiguous:
        return array.data
    if array.dtype.itemsize and not array.dtype.names:
        return np.ascontiguousarray(array).view(np.uint8).data
    return array.tobytes()


def refuse_changed(point: Point, before: tuple[int, ...], who: str) -> None:
    """Raise a ValueError if a user's function (``who``) changed parameters: entries, or the structure around them."""
    stored = point.stored
    after = fingerprint(point.leaves if stored is None else [stored.buffer])
    changed = [*([] if after == before else _changed(point, before, after)), *_misplaced(point)]
    if changed:
        raise ValueError(
            f"{who} changed params {listed(list(dict.fromkeys(changed)))}; it must not change its parameters: "
            "copy them first"
        )


def _changed(point: Point, before: tuple[int, ...], after: tuple[int, ...]) -> list[str]:
    """Names of the leaves that were written to; of copies, those that differ from what was copied."""
    if point.stored is None or point.sources is None:
        return [name for name, old, new in zip(point.layout.names, before, after, strict=True) if old != new]
    pairs = zip(point.layout.names, point.leaves, point.sources, strict=True)
    return [name for name, leaf, source in pairs if (leaf != source.astype(leaf.dtype)).any()] or [*point.layout.names]


def _misplaced(point: Point) -> list[str]:
    """Names whose arrays were removed, replaced or added in the structure that a plain function receives."""
    if _in_place(point.layout.structure, point.params, point.leaves):
        return []
    try:
        here = named_leaves(point.params)
    except TypeError:  # it holds something now that is not a parameter
        return list(point.layout.names)
    there = dict(zip(point.layout.names, point.leaves, strict=True))
    return [name for name, leaf in there.items() if here.get(name) is not leaf] + [
        name for name in here if name not in there
    ]


def _in_place(node: Node, here: object, leaves: Sequence[Array]) -> bool:
    """Whether a structure of dicts and lists holds exactly these leaves, in their order."""
    if isinstance(node, int):
        return here is leaves[node]
    if type(here) is not node.container or not isinstance(here, (dict, list, tuple)):
        return False
    if isinstance(here, dict):
        return tuple(here) == node.names and _all_in_place(node.children, here.values(), leaves)
    return len(here) == len(node.children) and _all_in_place(node.children, here, leaves)


def _all_in_place(nodes: Sequence[Node], children: Iterable[object], leaves: Sequence[Array]) -> bool:
    pairs = zip(nodes, children, strict=True)
    return all([here is leaves[node] if type(node) is int else _in_place(node, here, leaves) for node, here in pairs])
