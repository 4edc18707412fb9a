"""Names for array types, and numbers that summarise large arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import brief

Array: TypeAlias = NDArray[Any]
DType: TypeAlias = np.dtype[Any]
Shape: TypeAlias = tuple[int, ...]
Floats: TypeAlias = NDArray[np.float64]
Positions: TypeAlias = NDArray[np.int64]  # of entries: in the flat vector of all parameters, or in one flat tensor
Flags: TypeAlias = NDArray[np.bool_]

# Entries that are summed, converted, examined or compared at a time: 1 MiB of float64, which a cache holds, and no
# second array of a tensor's size.
AT_ONCE = 1 << 17


def as_array(value: Any, what: str) -> Array:
    """A value that a caller gave or returned as an array of NumPy's own class, not copied where it is one already.

    Raises
    ------
    TypeError
        For what NumPy cannot read: a tensor of a framework that needs its gradient or lies on a GPU, nested lists.
    ValueError
        For an array with masked entries, of which the values are unknown.
    """
    if type(value) is np.ndarray:
        return value
    try:
        array = np.asarray(value)
    except Exception as error:
        given = f"{what} is a {type(value).__name__}"
        raise TypeError(f"{given} that NumPy cannot read as an array ({brief(str(error))}); pass an array") from error
    count = masked(value)
    if count:
        raise ValueError(f"{what} has {count} of {array.size} entries masked, which have no value; use .filled(...)")
    return array


def returned_values(value: Any) -> Array:
    """Values that a caller's function returned as an array, NaN where they are masked; what NumPy raises passes on."""
    array = np.asarray(value)
    return np.where(value.mask, np.nan, array) if masked(value) else array


def masked(value: Any) -> int:
    """The number of masked entries of an array of ``numpy.ma``, which this does not import; 0 for any other value."""
    plain = type(value) is np.ndarray or not isinstance(value, np.ndarray)
    return 0 if plain else int(np.count_nonzero(getattr(value, "mask", False)))


def as_one(arrays: Sequence[Array]) -> Array | None:
    """A flat view of arrays of one dtype that lie side by side in one buffer of bytes; None for any others."""
    filled = [each for each in arrays if each.size]
    buffer = filled[0].base if filled else None
    if type(buffer) is not np.ndarray or buffer.dtype != np.uint8 or not buffer.flags.c_contiguous:
        return None
    first = end = filled[0].__array_interface__["data"][0]
    for each in filled:
        known = each.__array_interface__  # without strides where an array is contiguous
        if each.base is not buffer or each.dtype != filled[0].dtype or known["strides"] or known["data"][0] != end:
            return None
        end += each.nbytes
    start = first - buffer.__array_interface__["data"][0]
    return buffer[start : start + end - first].view(filled[0].dtype)


def norm(gradient: Array) -> float:
    """The 2-norm of a flat array. No square overflows; the norm is infinite only where it is too large for a float."""
    largest, squares = _scaled_squares(gradient)
    return largest * math.sqrt(squares)


def root_mean_square(gradient: Array) -> float:
    """The root mean square of a flat array, 0 for an empty one. It never exceeds the largest entry, nor overflows."""
    largest, squares = _scaled_squares(gradient)
    return largest * math.sqrt(squares / max(1, gradient.size))


def _scaled_squares(gradient: Array) -> tuple[float, float]:
    """The largest magnitude, and the sum of the squares of the entries divided by it, in double precision."""
    blocks = [*in_blocks(gradient)]
    largest = max([float(np.abs(block).max()) for block in blocks], default=0.0)
    if largest == 0 or not math.isfinite(largest):
        return largest, 1.0
    return largest, sum([_sum_of_squares(block.astype(np.float64) / largest) for block in blocks])


def _sum_of_squares(block: Floats) -> float:
    return float(block.dot(block))


def in_blocks(array: Array) -> Iterator[Array]:
    """Views of the entries of a contiguous array, block by block: what is computed of one takes little memory."""
    flat = array.reshape(-1)
    for begin in range(0, flat.size, AT_ONCE):
        yield flat[begin : begin + AT_ONCE]


def root_mean_squares(gradients: Sequence[Array]) -> Floats:
    """The `root_mean_square` of each flat array; those of many small ones are summed together."""
    out, sizes = np.empty(len(gradients)), np.array([each.size for each in gradients], np.int64)
    for some in together(sizes):
        if some.stop - some.start == 1:
            out[some] = root_mean_square(gradients[some.start])
        else:
            joined = np.concatenate(gradients[some], dtype=np.float64)
            out[some] = root_mean_squares_of_runs(joined, ends_of(sizes[some]))
    return out


def ends_of(sizes: Positions) -> Positions:
    """Where runs of these sizes begin, one after the other, and the last one ends."""
    return np.concatenate([[0], sizes.cumsum()])


def ends_of_runs(owners: Positions) -> Positions:
    """Where runs of equal numbers begin, one after the other, and the last one ends; ``[0]`` where there is none."""
    begins = np.concatenate([owners[:1] == owners[:1], owners[1:] != owners[:-1]]).nonzero()[0]
    return np.concatenate([begins, [owners.size]])


def root_mean_squares_between(values: Floats, ends: Positions) -> Floats:
    """The `root_mean_square` of each run of values, that of run k from ``ends[k]`` to ``ends[k + 1]``."""
    out = np.empty(ends.size - 1)
    for some in together(ends[1:] - ends[:-1]):
        mine = values[ends[some.start] : ends[some.stop]]
        alone = some.stop - some.start == 1
        within = ends[some.start : some.stop + 1] - ends[some.start]
        out[some] = root_mean_square(mine) if alone else root_mean_squares_of_runs(mine, within)
    return out


def norms(gradients: Sequence[Array]) -> Floats:
    """The `norm` of each flat array; those of many small ones are summed together."""
    return root_mean_squares(gradients) * np.sqrt([each.size for each in gradients])


def resolutions(arrays: Sequence[Array]) -> Floats:
    """The eps of the dtype of each array."""
    eps = {dtype: float(np.finfo(dtype).eps) for dtype in {each.dtype for each in arrays}}
    return np.array([eps[each.dtype] for each in arrays])


def root_mean_squares_of_runs(values: Floats, ends: Positions) -> Floats:
    """The `root_mean_square` of each run of values, that of run k from ``ends[k]`` to ``ends[k + 1]``."""
    sizes, largest = ends[1:] - ends[:-1], of_runs(np.maximum, np.abs(values), ends)
    known = (largest > 0) & np.isfinite(largest)
    scaled = values / np.where(known, largest, 1.0).repeat(sizes)
    squares = np.where(known, of_runs(np.add, scaled * scaled, ends), 1.0)
    return np.asarray(largest * np.sqrt(squares / np.maximum(sizes, 1)))


def together(sizes: Positions) -> Iterator[slice]:
    """Slices of neighbouring arrays that are small enough to be summed in one pass, or of one array."""
    counts, begin, total = sizes.tolist(), 0, 0
    if counts and sum(counts) <= AT_ONCE:
        yield slice(0, len(counts))
        return
    for i, size in enumerate(counts):
        if total + size > AT_ONCE and i > begin:
            yield slice(begin, i)
            begin, total = i, 0
        total += size
    if begin < sizes.size:
        yield slice(begin, sizes.size)


def in_batches(arrays: Sequence[Array]) -> Iterator[Array]:
    """The entries of all arrays: one array as it is, or neighbouring ones that are small in one flat copy."""
    for some in together(np.array([each.size for each in arrays], np.int64)):
        few = arrays[some]
        yield few[0] if len(few) == 1 else np.concatenate(few, axis=None)


def spread(size: int, count: int) -> Positions:
    """``count`` evenly spaced indices of ``size`` items, from the first to the last; all indices if they are fewer."""
    count = min(size, count)
    return np.arange(count) * max(0, size - 1) // max(1, count - 1)


def median(values: Floats) -> float:
    """The same as ``np.median``, NaN included. It does not import ``numpy.ma``, which takes ten milliseconds.

    Parameters
    ----------
    values : array, shape (n,), n >= 1
    """
    middle, ordered = values.size // 2, values.copy()
    ordered.partition([middle - 1, middle, -1] if values.size > 1 else 0)
    if np.isnan(ordered[-1]):  # NaN stands last
        return math.nan
    return float(ordered[middle] if ordered.size % 2 else ordered[middle - 1] / 2 + ordered[middle] / 2)


def distinct(values: Positions) -> Positions:
    """The values in ascending order, each once; shape (values,).

    `numpy.unique` of NumPy 2.3 and later looks integers up in a hash table: where most of a million differ, that takes
    1.4 s, and sorting 0.02.
    """
    ordered = np.sort(values, axis=None)
    later = ordered[1:]
    return np.concatenate([ordered[:1], later[later != ordered[:-1]]])


def without(values: Positions, known: Positions) -> Positions:
    """The values that are not among the known ones, in ascending order, each once."""
    values, known = distinct(values), np.sort(known, axis=None)
    if not known.size:
        return values
    return np.asarray(values[known.take(known.searchsorted(values), mode="clip") != values])


def medians(values: Floats, ends: Positions) -> Floats:
    """The `median` of each run of values, that of run k from ``ends[k]`` to ``ends[k + 1]``; 0 for an empty one."""
    found, filled, ordered = np.zeros(ends.size - 1), ends[1:] > ends[:-1], values.copy()
    first, last = ends[:-1][filled], ends[1:][filled] - 1
    for begin, end in zip(first.tolist(), (last + 1).tolist(), strict=True):
        ordered[begin:end].sort()  # takes less time than `median`, up to some thousand values
    low, high = ordered[(first + last) // 2], ordered[(first + last + 1) // 2]
    middle = np.where(low < high, low / 2 + high / 2, high)
    found[filled] = np.where(np.isnan(ordered[last]), np.nan, middle)
    return found


def of_runs(reduce: np.ufunc, values: Floats, ends: Positions) -> Floats:
    """The sum or maximum (``reduce``) of each run of values, from ``ends[k]`` to ``ends[k + 1]``; 0 of an empty one."""
    found, filled = np.zeros(ends.size - 1), ends[1:] > ends[:-1]
    if values.size:
        found[filled] = reduce.reduceat(values, ends[:-1][filled])
    return found
