"""Loss values from compiled loops, in threads; each thread displaces its own copy of the parameters."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._evaluation import kernels as _kernels
from fastgc._evaluation.evaluator import (
    LEAST_SECONDS,
    UNDEFINED,
    OutOfTime,
    Place,
    Raised,
    Ray,
    Tick,
    along_direction,
    at_entries,
    at_entry,
    silent,
)
from fastgc._evaluation.python import PythonEvaluator, parts
from fastgc._evaluation.threads import Work, WorkerThreads, WorkQueue, piece_length
from fastgc._evaluation.working_time import now
from fastgc._parameters.arrays import Array, DType, Floats, Positions
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.record import Storage

_WORTH_THREADS = 1e-4  # seconds of an evaluation: a shorter one would mostly wait for the interpreter lock
_IN_A_ROW = 8  # of such evaluations between two looks at the clock: 1 ms at most
_BUNDLED_ENTRIES = 1 << 17  # of a direction: 1 MiB of float64 for the copy that all threads read; 128 KiB of weights

_RaisedAt = Sequence[tuple[int, Exception]]  # number of a value among those asked for, and what the loss raised there
_Note = Callable[[int, int, _RaisedAt], None]  # takes the number of the first value, the number of values, exceptions


@dataclass(frozen=True)
class _Bundle:
    """Directions that displace the same entries, of tensors of one dtype.

    Attributes
    ----------
    begins : the place of each ray's first entry in a buffer of the dtype, shape (rays,)
    bounds : the first column of each ray in ``weights``, and the end of the last, shape (rays + 1,)
    scales : of the rays, shape (rays,)
    weights : shape (directions, entries)
    parts : the entries of each ray in a buffer of the dtype
    origin : these entries at the point, shape (entries,)
    """

    dtype: DType
    begins: NDArray[np.uint64]
    bounds: NDArray[np.uint64]
    scales: Floats
    weights: NDArray[np.int8]
    parts: list[slice]
    origin: Array


class NumbaEvaluator:
    """Calls a jitted loss from a compiled loop.

    Parameters
    ----------
    direct : PythonEvaluator
        The same loss called from Python over ``stores[0]``: for values that need no loop.
    stores : sequence of Storage
        A copy of the parameters for each thread.
    seconds : float
        Approximate time of an evaluation.
    limits : ExitStack
        Closed together with the evaluator; it lifts the limit of BLAS threads.
    """

    def __init__(
        self,
        direct: PythonEvaluator,
        loss: object,
        args: tuple[object, ...],
        layout: ParameterLayout,
        stores: Sequence[Storage],
        seconds: float,
        limits: contextlib.ExitStack,
    ) -> None:
        self.name = f"numba ({len(stores)} thread{'s' if len(stores) > 1 else ''})"
        self._direct, self._args, self._layout, self._stores = direct, args, layout, stores
        self._records = [store.record() for store in stores]
        self._loss = _kernels.CompiledLoss.of(loss, (self._records[0], *args))
        dtypes = {leaf.dtype for leaf in stores[0].leaves}
        self._loops = {dtype: _kernels.open_loop(self._loss, dtype) for dtype in dtypes}
        self._ray_loops: dict[DType, Callable[..., None]] = {}
        # The place of each tensor's first entry in the buffer, counted in entries of its dtype.
        sizes = np.array([leaf.dtype.itemsize for leaf in stores[0].leaves])
        self._begins: Positions = stores[0].offsets // sizes
        self._seconds, self._evaluations, self._raised = seconds, 0, Raised()
        self.unfinished: Array | None = None  # as that of a `PythonEvaluator`
        self._threads, self._limits = WorkerThreads(len(stores)), limits

    @property
    def evaluations(self) -> int:
        return self._direct.evaluations + self._evaluations

    @property
    def raised(self) -> Raised:
        return self._direct.raised.joined(self._raised)

    def value(self) -> Any:
        return self._direct.value()

    def along(self, positions: Positions, rows: Array) -> Array:
        out: Array = np.empty((len(rows), 1), self._direct.result_dtype)
        parts = [(*self._cells(positions[same]), same) for same in self._of_one_dtype(positions)]
        somewhere = int(self._layout.tensor_of(positions[:1])[0])

        def work(thread: int, piece: slice) -> None:
            errors = self._run_rows(thread, parts, rows[piece], somewhere, out[piece])
            note(piece.start, piece.stop - piece.start, errors)

        moves = (rows != self.entries(positions)).any(axis=1)
        with self._noting(moves, lambda j: at_entries(self._layout, positions)) as note:
            self._one_by_one(len(rows), work)
        return out[:, 0]

    def entries(self, positions: Positions) -> Array:
        return self._direct.entries(positions)

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        return self._direct.rounded(positions, displaced)

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        out = self.unfinished = np.full(displaced.shape, np.nan, self._direct.result_dtype)
        displaced = np.ascontiguousarray(displaced, self._direct.result_dtype)
        for same in self._of_one_dtype(positions):
            self._shared_out(positions[same], displaced[same], out[same], tick)
        return out

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        out: Array = np.empty((len(directions), distances.size), self._direct.result_dtype)
        distances, begin = np.ascontiguousarray(distances, np.float64), 0
        for _, group in itertools.groupby(directions, _displaced_entries):
            some = list(group)
            self._along_group(some, distances, out[begin : begin + len(some)])
            begin += len(some)
        return out

    def close(self) -> None:
        self._threads.close()
        self._limits.close()

    # --- in threads ---

    def _shared_out(self, positions: Positions, displaced: Array, out: Array, tick: Tick) -> None:
        (dtype, cells), columns = self._cells(positions), displaced.shape[1]

        def work(thread: int, piece: slice) -> None:
            errors = self._run(thread, dtype, cells[piece], displaced[piece], out[piece])
            note(piece.start * columns, (piece.stop - piece.start) * columns, errors)

        def where(k: int) -> Place:
            return at_entry(self._layout, int(positions[k // columns]), displaced.flat[k])

        moves = (displaced != self.entries(positions)[:, None]).reshape(-1)
        with self._noting(moves, where) as note:
            self._in_threads(positions.size, columns, work, tick)

    def _along_group(self, directions: Sequence[Sequence[Ray]], distances: Floats, out: Array) -> None:
        """Write the loss at distances along directions that displace the same entries to ``out``."""
        rays, flat = directions[0], out.reshape(-1)
        dtypes = {self._flat(0, ray.tensor).dtype for ray in rays}

        def one_by_one(thread: int, piece: slice) -> None:
            for m in range(piece.start, piece.stop):
                i, j = divmod(m, distances.size)
                note(m, 1, self._run_rays(thread, directions[i], float(distances[j]), flat[m : m + 1, None]))

        def in_the_loop(thread: int, piece: slice) -> None:
            errors = self._run_bundle(thread, bundle, distances, piece.start, flat[piece])
            note(piece.start, piece.stop - piece.start, errors)

        def where(m: int) -> Place:
            return along_direction(self._layout, directions[m // distances.size], distances[m % distances.size])

        with self._noting(np.tile(distances != 0, len(directions)), where) as note:
            if len(dtypes) > 1 or sum(ray.weights.size for ray in rays) > _BUNDLED_ENTRIES:
                self._one_by_one(flat.size, one_by_one)
                return
            bundle = self._bundle(dtypes.pop(), directions)
            self._in_threads(flat.size, 1, in_the_loop, silent)

    def _bundle(self, dtype: DType, directions: Sequence[Sequence[Ray]]) -> _Bundle:
        if dtype not in self._ray_loops:
            self._ray_loops[dtype] = _kernels.open_ray_loop(self._loss, dtype)
        rays, flat = directions[0], self._stores[0].buffer.view(dtype)
        sizes = [ray.weights.size for ray in rays]
        begins = [int(self._begins[ray.tensor]) + ray.start for ray in rays]
        parts = [slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=True)]
        return _Bundle(
            dtype=dtype,
            begins=np.array(begins, np.uint64),
            bounds=np.cumsum([0, *sizes], dtype=np.uint64),
            scales=np.array([ray.scale for ray in rays]),
            weights=np.stack([np.concatenate([ray.weights for ray in each]) for each in directions]),
            parts=parts,
            origin=np.concatenate([flat[part] for part in parts]),
        )

    def _one_by_one(self, count: int, work: Work) -> None:
        """Run ``count`` evaluations; use threads only if each is long compared with the Python work between them."""
        if self._seconds > _WORTH_THREADS:
            self._in_threads(count, 1, work, silent)
            return
        self._done(0)
        for i in range(0, count, _IN_A_ROW):
            some = slice(i, min(i + _IN_A_ROW, count))
            work(0, some)
            self._done(some.stop - some.start)

    def _in_threads(self, count: int, columns: int, work: Work, tick: Tick) -> None:
        """Run ``count`` items of ``columns`` evaluations each."""

        def done(items: int) -> None:
            tick(items)
            self._done(items * columns)

        self._done(0)
        self._threads.run(WorkQueue(count, lambda left: self._length(left, columns)), work, done)

    @contextlib.contextmanager
    def _noting(self, moves: NDArray[np.bool_], where: Callable[[int], Place]) -> Iterator[_Note]:
        """A function, for any thread, that notes exceptions and whether the loss has a value at a displaced point.

        The exception that counts as the first does not depend on the number of threads.
        """
        found: list[tuple[int, Exception]] = []
        answered: list[int] = []

        def note(begin: int, count: int, errors: _RaisedAt) -> None:
            found.extend((begin + k, error) for k, error in errors)
            if not (answered or self._raised.answered) and moves[begin : begin + count].sum() > len(errors):
                answered.append(begin)

        try:
            yield note
        finally:
            for k, error in sorted(found, key=lambda each: each[0]):
                self._raised = self._raised.also(error, partial(where, k))
            self._raised = self._raised.joined(Raised(answered=bool(answered)))

    def _done(self, evaluations: int) -> None:
        """Count more evaluations; raise `OutOfTime` after the deadline."""
        self._evaluations += evaluations
        if now() > self._direct.deadline:
            raise OutOfTime

    def _length(self, left: int, columns: int) -> int:
        """The number of items of the next piece when ``left`` are left."""
        return piece_length(left, max(self._seconds * columns, LEAST_SECONDS), self._threads.count)

    # --- in one thread ---

    def _run(self, thread: int, dtype: DType, cells: Positions, displaced: Array, out: Array) -> _RaisedAt:
        flat = self._stores[thread].buffer.view(dtype)
        originals, errors = flat[cells], []
        begin = time.perf_counter()
        try:
            self._loops[dtype](self._records[thread], self._args, flat, cells, displaced, out)
        except Exception:
            flat[cells] = originals
            errors = self._run_singly(thread, flat, cells, displaced, out)
        self._seconds = (time.perf_counter() - begin) / displaced.size
        return errors

    def _run_singly(
        self, thread: int, flat: Array, cells: Positions, displaced: Array, out: Array
    ) -> list[tuple[int, Exception]]:
        """Evaluate each value of a piece alone, after one of them raised; nan for those that raise again."""
        errors: list[tuple[int, Exception]] = []
        for k, (i, j) in enumerate(np.ndindex(displaced.shape)):
            original = flat[cells[i]]
            one = displaced[i : i + 1, j : j + 1], out[i : i + 1, j : j + 1]  # arrays of one number are contiguous
            try:
                self._loops[flat.dtype](self._records[thread], self._args, flat, cells[i : i + 1], *one)
            except Exception as error:
                flat[cells[i]] = original
                out[i, j] = UNDEFINED[self._direct.result_dtype]
                errors.append((k, error))
        return errors

    def _run_rows(
        self, thread: int, parts: Sequence[tuple[np.dtype[Any], Positions, slice]], rows: Array, tensor: int, out: Array
    ) -> list[tuple[int, Exception]]:
        """The loss with the entries of each row: by dtype, places in its buffer and which entries of a row go there."""
        flats = [(self._stores[thread].buffer.view(dtype), cells, same) for dtype, cells, same in parts]
        originals, errors = [flat[cells] for flat, cells, _ in flats], []
        try:
            for j, row in enumerate(rows):
                for flat, cells, same in flats:
                    flat[cells] = row[same]
                errors += [(j, error) for _, error in self._run_as_it_is(thread, tensor, out[j : j + 1])]
        finally:
            for (flat, cells, _), original in zip(flats, originals, strict=True):
                flat[cells] = original
        return errors

    def _run_bundle(self, thread: int, bundle: _Bundle, distances: Floats, first: int, out: Array) -> _RaisedAt:
        """Values along the directions from number ``first`` on; each alone if one of them raises."""
        flat = self._stores[thread].buffer.view(bundle.dtype)
        rays = bundle.origin, bundle.begins, bundle.bounds, bundle.scales, bundle.weights, distances
        begin, errors = time.perf_counter(), []
        try:
            self._ray_loops[bundle.dtype](self._records[thread], self._args, flat, rays, first, out)
        except Exception as error:
            for part, (start, stop) in zip(bundle.parts, itertools.pairwise(bundle.bounds.tolist()), strict=True):
                flat[part] = bundle.origin[start:stop]
            out[...] = UNDEFINED[self._direct.result_dtype]
            errors = [(0, error)] if out.size == 1 else []
            for m in range(out.size if out.size > 1 else 0):
                own = self._run_bundle(thread, bundle, distances, first + m, out[m : m + 1])
                errors += [(m, each) for _, each in own]
        self._seconds = (time.perf_counter() - begin) / out.size
        return errors

    def _run_rays(self, thread: int, rays: Sequence[Ray], distance: float, out: Array) -> _RaisedAt:
        """One value along a direction, without another copy of its entries."""
        flats = [self._flat(thread, ray.tensor)[ray.start : ray.start + ray.weights.size] for ray in rays]
        originals = [self._direct.origin(ray) for ray in rays]
        try:
            for ray, flat, original in zip(rays, flats, originals, strict=True):
                for part in parts(original, flat.size):
                    entries = _for_kernels(original[part])
                    _kernels.displace(flat[part], entries, ray.weights[part], distance * ray.scale)
            return self._run_as_it_is(thread, rays[0].tensor, out)
        finally:
            for flat, original in zip(flats, originals, strict=True):
                for part in parts(original, flat.size):
                    flat[part] = original[part]

    def _run_as_it_is(self, thread: int, tensor: int, out: Array) -> _RaisedAt:
        """The loss at the current entries: the loop "displaces" a tensor's first entry to its present value."""
        flat = self._flat(thread, tensor)
        return self._run(thread, flat.dtype, self._begins[tensor : tensor + 1], flat[:1, None].astype(out.dtype), out)

    # --- places of entries in the buffers ---

    def _flat(self, thread: int, tensor: int) -> Array:
        return self._stores[thread].leaves[tensor].reshape(-1)

    def _of_one_dtype(self, positions: Positions) -> Iterator[slice]:
        """Slices of the positions, each in tensors of one dtype."""
        kinds = [ord(leaf.dtype.char) for leaf in self._stores[0].leaves]
        changes = np.empty(0, np.int64)
        if len(set(kinds)) > 1:
            changes = np.flatnonzero(np.diff(np.array(kinds)[self._layout.tensor_of(positions)])) + 1
        bounds = itertools.pairwise([0, *changes.tolist(), positions.size])
        yield from (slice(begin, end) for begin, end in bounds if end > begin)

    def _cells(self, positions: Positions) -> tuple[Any, Positions]:
        """The dtype of entries at positions in tensors of one dtype, and their places in a buffer of that dtype."""
        tensors = self._layout.tensor_of(positions)
        dtype = self._stores[0].leaves[tensors[0]].dtype
        return dtype, positions + (self._begins - self._layout.starts[:-1])[tensors]


def _displaced_entries(rays: Sequence[Ray]) -> list[tuple[int, int, int, float]]:
    """The entries that a direction displaces, and their scales."""
    return [(ray.tensor, ray.start, ray.weights.size, ray.scale) for ray in rays]


def _for_kernels(array: Array) -> Array:
    """A read-only view, so that kernels are compiled once; of float16, which Numba does not support, a float32 copy."""
    view = array.astype(np.float32) if array.dtype == np.float16 else array.view()
    view.flags.writeable = False
    return view
