"""Loss values many at a time, from a loss whose parameters have a leading batch axis."""

from __future__ import annotations

import math
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._evaluation.evaluator import (
    UNDEFINED,
    OutOfTime,
    Place,
    Raised,
    Ray,
    Tick,
    WrongShapeError,
    WrongTypeError,
    WrongValueError,
    along_direction,
    at_entries,
    at_entry,
)
from fastgc._evaluation.python import PythonEvaluator
from fastgc._parameters.arrays import Array, Floats, Positions
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.streams import stream

Blocks = Mapping[int, Array]  # displaced tensors, shape (batch, entries), by number

_BLOCK_BYTES = 2**25  # of displaced tensors and of what the loss computes from them
_MEMORY_SHARE = 0.25  # of the available memory that a block may take at most
_MOST_ROWS = 1024  # beyond, calling the loss costs nothing any more beside its arithmetic
_TRIAL_STEP = 1e-3
_measuring = threading.RLock()  # memory is traced for the whole process: by one check at a time


class VectorizedEvaluator:
    """Calls a loss with blocks of parameters; tensors that are not displaced are views of one copy.

    All arrays are read-only for the loss.

    Parameters
    ----------
    plain : PythonEvaluator
        Over the same leaves: for what needs no call of the loss, and for the deadline.
    loss : callable
        ``loss(params, *args)`` of arrays of shape ``(batch, *shape)`` returns ``batch`` values.
    leaves : sequence of arrays
        The parameters at the point, in the order of the layout.
    room : float
        Bytes of memory that are available.
    """

    name = "python (vectorized)"

    def __init__(
        self,
        plain: PythonEvaluator,
        loss: Callable[..., Any],
        args: tuple[Any, ...],
        layout: ParameterLayout,
        leaves: Sequence[Array],
        room: float,
    ) -> None:
        self.evaluations, self.raised = 0, Raised()
        self._plain, self._loss, self._args, self._layout, self._leaves = plain, loss, args, layout, leaves
        self._room = min(_BLOCK_BYTES, _MEMORY_SHARE * room)
        self._row_bytes = 0.0  # that the loss takes for a row

    def value(self) -> Any:
        return self._called({}, 1)[0].item()

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        out: Array = np.empty(displaced.shape, self._plain.result_dtype)
        tensors = self._layout.tensor_of(positions)
        for t in np.unique(tensors).tolist():
            mine = np.flatnonzero(tensors == t)
            out[mine] = self._one_tensor(t, positions[mine] - self._layout.starts[t], displaced[mine], tick)
        return out

    def along(self, positions: Positions, rows: Array) -> Array:
        tensors = self._layout.tensor_of(positions)
        local = positions - self._layout.starts[tensors]

        def fill(blocks: Blocks, part: slice) -> None:
            for t, block in blocks.items():
                block[:, local[tensors == t]] = rows[part][:, tensors == t]

        moves = (rows != self.entries(positions)).any(axis=1)
        return self._in_blocks(moves, set(tensors.tolist()), fill, lambda _: at_entries(self._layout, positions))

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        return np.stack([self._along_one(rays, distances) for rays in directions])

    def _along_one(self, rays: Sequence[Ray], distances: Floats) -> Array:
        def fill(blocks: Blocks, part: slice) -> None:
            for ray in rays:
                origin, where = self._plain.origin(ray), slice(ray.start, ray.start + ray.signs.size)
                for row, distance in zip(blocks[ray.tensor], distances[part].tolist(), strict=True):
                    row[where] = origin + distance * ray.scale * ray.signs

        def at_row(row: int) -> Place:
            return along_direction(self._layout, rays, distances[row])

        return self._in_blocks(distances != 0, {ray.tensor for ray in rays}, fill, at_row)

    def entries(self, positions: Positions) -> Array:
        return self._plain.entries(positions)

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        return self._plain.rounded(positions, displaced)

    def close(self) -> None:
        """Nothing of the caller's is displaced."""

    def refuse_mixed_rows(self) -> None:
        """Raise a ValueError where a row's value depends on the others: each tensor displaced beside the point itself.

        What the loss takes for a row is measured on the way.
        """
        generator = stream(0, "batch")
        blocks = {t: self._copies(t, 2) for t in range(len(self._leaves))}
        for block in blocks.values():
            block[1] += _TRIAL_STEP * (1 + np.abs(block[1])) * generator.standard_normal(block[1].shape)
        with np.errstate(all="ignore"):
            try:
                alone = self._measured({t: block[1:] for t, block in blocks.items()})
            except WrongValueError:
                raise
            except Exception:  # it is not defined there
                return
            together = self._called(blocks, 2)[1]
        eps = max(float(np.finfo(leaf.dtype).eps) for leaf in self._leaves)
        if np.isfinite(alone) and not abs(together - alone) <= eps**0.5 * max(abs(alone), abs(together)):
            raise ValueError(
                f"vectorized=True, but loss mixes the rows of a batch: parameters that give {alone.item()!r} give "
                f"{together.item()!r} beside others; keep the leading axis of every array apart to the end"
            )

    def _measured(self, blocks: Blocks) -> Any:
        """The value of one row; the memory that it took at its peak is that of a row of any block, at most."""
        with _measuring:
            tracing, before = tracemalloc.is_tracing(), math.inf
            try:
                if not tracing:
                    tracemalloc.start()
                before = tracemalloc.get_traced_memory()[0]
                return self._called(blocks, 1)[0]
            finally:
                self._row_bytes = max(0.0, tracemalloc.get_traced_memory()[1] - before)
                if not tracing:
                    tracemalloc.stop()

    def _one_tensor(self, tensor: int, cells: Positions, displaced: Array, tick: Tick) -> Array:
        """The loss with one entry of a tensor displaced in each row."""
        columns = displaced.shape[1]
        where, entries = np.repeat(cells, columns), displaced.reshape(-1)

        def fill(blocks: Blocks, part: slice) -> None:
            blocks[tensor][np.arange(part.stop - part.start), where[part]] = entries[part]
            tick(part.stop // columns - part.start // columns)

        positions = where + int(self._layout.starts[tensor])

        def at_row(row: int) -> Place:
            return at_entry(self._layout, int(positions[row]), entries[row])

        moves = entries != self.entries(positions)
        return self._in_blocks(moves, {tensor}, fill, at_row).reshape(displaced.shape)

    def _in_blocks(
        self,
        moves: NDArray[np.bool_],
        tensors: set[int],
        fill: Callable[[Blocks, slice], object],
        at_row: Callable[[int], Place],
    ) -> Array:
        """The loss for as many rows as ``moves`` has.

        Parameters
        ----------
        moves : whether a row is displaced at all
        fill : displaces the tensors, which are as at the point, for some of the rows
        at_row : a row's point, in words
        """
        out: Array = np.empty(moves.size, self._plain.result_dtype)
        length = self._rows(tensors)
        for start in range(0, moves.size, length):
            if time.perf_counter() > self._plain.deadline:
                raise OutOfTime
            part = slice(start, min(start + length, moves.size))
            blocks = {t: self._copies(t, part.stop - start) for t in tensors}
            fill(blocks, part)
            with np.errstate(all="ignore"):
                out[part], errors = self._values_or_nan(blocks, part.stop - start)
            for row, error in errors:
                self.raised = self.raised.also(error, partial(at_row, start + row))
            if not self.raised.answered and moves[part].sum() > len(errors):
                self.raised = replace(self.raised, answered=True)
        return out

    def _rows(self, tensors: set[int]) -> int:
        row = self._row_bytes + sum(self._leaves[t].nbytes for t in tensors)
        return max(1, min(_MOST_ROWS, int(self._room / max(row, 1.0))))

    def _copies(self, tensor: int, rows: int) -> Array:
        return np.tile(self._leaves[tensor].reshape(-1), (rows, 1))

    def _values_or_nan(self, blocks: Blocks, rows: int) -> tuple[Array, list[tuple[int, Exception]]]:
        """The values of a block; where it raises, each row by itself, nan and the exception for those that do too."""
        try:
            return self._called(blocks, rows), []
        except WrongValueError:
            raise
        except Exception as error:
            if rows == 1:
                dtype = self._plain.result_dtype
                return np.full(1, UNDEFINED[dtype], dtype), [(0, error)]
        self.evaluations -= rows  # counted again
        singles = [{t: block[i : i + 1] for t, block in blocks.items()} for i in range(rows)]
        found = [self._values_or_nan(single, 1) for single in singles]
        errors = [(i, error) for i, (_, mine) in enumerate(found) for _, error in mine]
        return np.concatenate([values for values, _ in found]), errors

    def _called(self, blocks: Blocks, rows: int) -> Array:
        self.evaluations += rows
        batched = [  # read-only, all of them: what the loss wrote would be other rows' too
            np.broadcast_to(blocks[t].reshape(rows, *leaf.shape) if t in blocks else leaf, (rows, *leaf.shape))
            for t, leaf in enumerate(self._leaves)
        ]
        return as_values(self._loss(self._layout.rebuild(batched), *self._args), rows, self._plain.result_dtype)


def as_values(value: Any, rows: int, dtype: type) -> Array:
    """What a vectorized loss returned, as an array of one number for each row.

    Raises
    ------
    TypeError
        For what is no array of real numbers (or complex ones, where the step is).
    ValueError
        For another shape than ``(rows,)``.
    """
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of unequal lengths
        array = np.asarray(None)
    if array.dtype.kind not in ("fiubc" if dtype is np.complex128 else "fiub"):
        raise WrongTypeError(
            f"vectorized=True, but loss returned a {type(value).__name__} of dtype {array.dtype}; it must return one "
            f"real number for each row of the batch, shape ({rows},)"
        )
    if array.shape != (rows,):
        raise WrongShapeError(
            f"vectorized=True, but loss returned shape {array.shape} for a batch of {rows}; it must return one "
            f"value for each row, shape ({rows},)"
        )
    return array.astype(dtype)
