"""Loss values in batches, from a loss whose parameters have a leading batch axis."""

from __future__ import annotations

import math
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
    along_direction,
    at_entries,
    at_entry,
    attempted,
)
from fastgc._evaluation.floating_point import callers_errstate
from fastgc._evaluation.python import PythonEvaluator, displace_ray
from fastgc._evaluation.working_time import now
from fastgc._forks import Turns
from fastgc._parameters.arrays import Array, Positions, distinct, in_blocks, returned_values
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.streams import stream

Blocks = Mapping[int, Array]  # displaced tensors, shape (batch, entries), by number

_BLOCK_BYTES = 2**25  # 32 MiB for displaced tensors and what the loss computes from them: the size of a large cache
_BLOCK_SHARE = 0.25  # of the available memory that a block may take: the caller's other work needs some too
_MOST_ROWS = 1024  # with so many rows, a call (some microseconds in Python) costs nanoseconds a row
_APART = 1e-3  # relative displacement of the row that is compared: enough to change the loss by more than its round-off
_measuring = Turns()  # memory is traced for the whole process, so only one check at a time may do so


class VectorizedEvaluator:
    """Calls a loss with blocks of displaced parameters. The loss receives read-only arrays.

    A tensor that is not displaced is the same row, repeated without a copy.

    Parameters
    ----------
    plain : PythonEvaluator
        Over the same leaves: it reads and rounds entries, and holds the deadline.
    loss : callable
        ``loss(params, *args)`` takes arrays of shape ``(batch, *shape)`` and returns ``batch`` values.
    leaves : sequence of arrays
        The parameters at the point, in the order of the layout.
    room : float
        Bytes of available memory.
    """

    name = "python (vectorized)"

    def __init__(
        self,
        plain: PythonEvaluator,
        loss: Callable[..., object],
        args: tuple[object, ...],
        layout: ParameterLayout,
        leaves: Sequence[Array],
        room: float,
    ) -> None:
        self.evaluations, self.raised = 0, Raised()
        self._plain, self._loss, self._args, self._layout, self._leaves = plain, loss, args, layout, leaves
        self._room = min(_BLOCK_BYTES, _BLOCK_SHARE * room)
        self.unfinished: Array | None = None  # as that of a `PythonEvaluator`, of the last tensor alone
        self._row_bytes = 0.0  # memory that the loss takes for a row

    def value(self) -> Any:
        with callers_errstate():
            return self._called({}, 1)[0].item()

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        out: Array = np.empty(displaced.shape, self._plain.result_dtype)
        tensors = self._layout.tensor_of(positions)
        for t in distinct(tensors).tolist():
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

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array:
        return np.stack([self._along_one(rays, distances) for rays in directions])

    def _along_one(self, rays: Sequence[Ray], distances: Array) -> Array:
        def fill(blocks: Blocks, part: slice) -> None:
            for ray in rays:
                origin = self._plain.origin(ray)
                for row, distance in zip(blocks[ray.tensor], distances[part].tolist(), strict=True):
                    displace_ray(row, origin, ray, distance)

        def at_row(row: int) -> Place:
            return along_direction(self._layout, rays, distances[row])

        return self._in_blocks(distances != 0, {ray.tensor for ray in rays}, fill, at_row)

    def entries(self, positions: Positions) -> Array:
        return self._plain.entries(positions)

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        return self._plain.rounded(positions, displaced)

    def close(self) -> None:
        """Nothing to restore: only copies are displaced."""

    def refuse_mixed_rows(self) -> None:
        """Raise a ValueError if the value of displaced parameters changes when the point itself is in the same batch.

        This also measures the memory that the loss takes for a row.
        """
        generator = stream(0, "batch")
        blocks = {t: self._copies(t, 2) for t in range(len(self._leaves))}
        for block in blocks.values():
            for some in in_blocks(block[1]):
                some += _APART * (1 + np.abs(some)) * generator.standard_normal(some.size)
        with np.errstate(all="ignore"):
            alone, _ = attempted(lambda: self._measured({t: block[1:] for t, block in blocks.items()}))
            if alone is None:  # it is not defined there
                return
            in_batch = self._called(blocks, 2)[1]
        eps = max(float(np.finfo(leaf.dtype).eps) for leaf in self._leaves)
        # Half of the digits: far above the round-off of another order of summation, far below a mixture of rows.
        if np.isfinite(alone) and not abs(in_batch - alone) <= eps**0.5 * max(abs(alone), abs(in_batch)):
            raise ValueError(
                f"vectorized=True, but loss mixes the rows of a batch: the same parameters give {alone.item()!r} alone "
                f"and {in_batch.item()!r} in a batch of 2; use every array's leading axis only as the batch axis"
            )

    def _measured(self, blocks: Blocks) -> Any:
        """The value of one row. Its peak of memory bounds what a row of any block takes."""
        with _measuring():
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
        """The loss for each row.

        Parameters
        ----------
        moves : array of bool, shape (rows,)
            Whether a row differs from the point.
        tensors : numbers of the displaced tensors
        fill : writes displaced entries for some rows into blocks that hold the tensors at the point
        at_row : describes the point of a row
        """
        out = self.unfinished = np.full(moves.size, np.nan, self._plain.result_dtype)
        length = self._rows(tensors)
        for start in range(0, moves.size, length):
            if now() > self._plain.deadline:
                raise OutOfTime
            part = slice(start, min(start + length, moves.size))
            blocks = {t: self._copies(t, part.stop - start) for t in tensors}
            fill(blocks, part)
            with np.errstate(all="ignore"):
                out[part], errors = self._values_or_nan(blocks, part.stop - start)
            for row, error in errors:
                self.raised = self.raised.also(error, partial(at_row, start + row))
            del blocks  # frees memory before the next are made
            if not self.raised.answered and moves[part].sum() > len(errors):
                self.raised = replace(self.raised, answered=True)
        return out

    def _rows(self, tensors: set[int]) -> int:
        row = self._row_bytes + sum(self._leaves[t].nbytes for t in tensors)
        return max(1, min(_MOST_ROWS, int(self._room / max(row, 1.0))))

    def _copies(self, tensor: int, rows: int) -> Array:
        flat = self._leaves[tensor].reshape(-1)
        return np.array(np.broadcast_to(flat, (rows, flat.size)), order="C")

    def _values_or_nan(self, blocks: Blocks, rows: int) -> tuple[Array, list[tuple[int, Exception]]]:
        """The values of a block. If it raises, each row is called alone: nan and the exception for those that raise."""
        values, error = attempted(lambda: self._called(blocks, rows))
        if values is not None:
            return values, []
        if error is not None and rows == 1:
            dtype = self._plain.result_dtype
            return np.full(1, UNDEFINED[dtype], dtype), [(0, error)]
        self.evaluations -= rows  # each is counted again
        singles = [{t: block[i : i + 1] for t, block in blocks.items()} for i in range(rows)]
        found = [self._values_or_nan(single, 1) for single in singles]
        errors = [(i, error) for i, (_, mine) in enumerate(found) for _, error in mine]
        return np.concatenate([values for values, _ in found]), errors

    def _called(self, blocks: Blocks, rows: int) -> Array:
        self.evaluations += rows
        batched = [  # read-only: rows share memory, so a write into one would change others
            np.broadcast_to(blocks[t].reshape(rows, *leaf.shape) if t in blocks else leaf, (rows, *leaf.shape))
            for t, leaf in enumerate(self._leaves)
        ]
        return as_values(self._loss(self._layout.rebuild(batched), *self._args), rows, self._plain.result_dtype)


def as_values(value: object, rows: int, dtype: type) -> Array:
    """The result of a vectorized loss as an array of ``dtype``, one number for each row.

    Raises
    ------
    TypeError
        If it is not an array of real numbers (complex numbers pass where ``dtype`` is complex).
    ValueError
        If its shape is not ``(rows,)``.
    """
    try:
        array = returned_values(value)
    except Exception:  # nested lists of unequal lengths; a tensor that needs its gradient
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
