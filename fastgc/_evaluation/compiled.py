"""Loss values from compiled loops, in threads; each thread displaces its own copy of the parameters."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
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
from fastgc._evaluation.threads import WorkerThreads, WorkQueue, piece_length
from fastgc._evaluation.working_time import now
from fastgc._parameters.arrays import Array, DType, Flags, Floats, Positions, ends_of_runs
from fastgc._parameters.point import Point

_BUNDLED_ENTRIES = 1 << 17  # of a direction: 1 MiB of float64 for the copy that all threads read; 128 KiB of weights

_RaisedAt = Sequence[tuple[int, Exception]]  # number of a value among those asked for, and what the loss raised there
_Run = Callable[[int, slice], _RaisedAt]  # called with the number of a thread and a slice of the items


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
        The same loss called from Python at the same point: for values that need no loop.
    point : Point
        Its copy of the parameters is displaced by the caller's thread.
    threads : int
        The number of threads. Those that are needed besides the caller's begin with a copy of the parameters each.
    seconds : float
        Approximate time of an evaluation.
    limits : ExitStack
        Taken over, and closed together with the evaluator; it lifts the limit of BLAS threads.
    """

    def __init__(
        self,
        direct: PythonEvaluator,
        loss: _kernels.CompiledLoss,
        point: Point,
        threads: int,
        seconds: float,
        limits: contextlib.ExitStack,
    ) -> None:
        assert point.stored is not None
        self.name = f"numba ({threads} thread{'s' if threads > 1 else ''})"
        self._direct, self._loss, self._args, self._layout = direct, loss, point.args, point.layout
        self._stores, self._records = [point.stored], [point.stored.record()]  # of each thread
        self._dtypes = [leaf.dtype for leaf in point.leaves]
        self._loops = {dtype: _kernels.open_loop(loss, dtype) for dtype in set(self._dtypes)}
        self._ray_loops: dict[DType, Callable[..., None]] = {}
        # The place of each tensor's first entry in the buffer, counted in entries of its dtype.
        self._begins: Positions = point.stored.offsets // np.array([dtype.itemsize for dtype in self._dtypes])
        shifts = self._begins - self._layout.starts[:-1]  # from an entry's position to its place in the buffer
        self._shifts = shifts if shifts.any() else None
        self._seconds, self._evaluations, self._raised = seconds, 0, Raised()
        self.unfinished: Array | None = None  # as that of a `PythonEvaluator`
        self._threads, self._limits = WorkerThreads(threads, self._copy_parameters), limits.pop_all()

    def _copy_parameters(self) -> None:
        """Give a copy of the parameters to each thread that has none. No entry is displaced meanwhile."""
        self._stores += [self._stores[0].copied() for _ in range(len(self._stores), self._threads.count)]
        self._records += [each.record() for each in self._stores[len(self._records) :]]

    @property
    def evaluations(self) -> int:
        return self._direct.evaluations + self._evaluations

    @property
    def raised(self) -> Raised:
        return self._direct.raised.joined(self._raised)

    def value(self) -> Any:
        return self._direct.value()

    def along(self, positions: Positions, rows: Array) -> Array:
        dtype, *others = (dtype for dtype, _ in self._by_dtype(positions))
        if others:  # the loop displaces entries of one dtype
            return self._direct.along(positions, rows)
        out: Array = np.empty((len(rows), 1), self._direct.result_dtype)
        displaced = np.ascontiguousarray(rows[:, None], out.dtype)
        cells = self._cells(positions)[None].repeat(len(rows), axis=0)
        run = partial(self._run, dtype, cells, displaced, out)

        def moves() -> Flags:
            return np.asarray((rows != self.entries(positions)).any(axis=1))

        self._evaluate(len(rows), 1, run, moves, lambda k: at_entries(self._layout, positions))
        return out[:, 0]

    def entries(self, positions: Positions) -> Array:
        return self._direct.entries(positions)

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        return self._direct.rounded(positions, displaced)

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        out = self.unfinished = np.full(displaced.shape, np.nan, self._direct.result_dtype)
        displaced = np.ascontiguousarray(displaced, out.dtype)
        for dtype, same in self._by_dtype(positions):
            self._single(dtype, positions[same], displaced[same], out[same], tick)
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

    def _single(self, dtype: DType, positions: Positions, displaced: Array, out: Array, tick: Tick) -> None:
        """Write the loss with each entry displaced alone to ``out``."""
        cells, columns = np.ascontiguousarray(self._cells(positions)[:, None]), displaced.shape[1]

        def where(k: int) -> Place:
            return at_entry(self._layout, int(positions[k // columns]), displaced.flat[k])

        def moves() -> Flags:
            return np.asarray(displaced != self.entries(positions)[:, None]).reshape(-1)

        run = partial(self._run, dtype, cells, displaced[:, :, None], out)
        self._evaluate(positions.size, columns, run, moves, where, tick)

    def _along_group(self, directions: Sequence[Sequence[Ray]], distances: Floats, out: Array) -> None:
        """Write the loss at distances along directions that displace the same entries to ``out``."""
        rays, flat = directions[0], out.reshape(-1)
        dtypes = {self._dtypes[ray.tensor] for ray in rays}

        def where(m: int) -> Place:
            return along_direction(self._layout, directions[m // distances.size], distances[m % distances.size])

        if len(dtypes) == 1 and sum(ray.weights.size for ray in rays) <= _BUNDLED_ENTRIES:
            run = partial(self._run_bundle, self._bundle(dtypes.pop(), directions), distances, flat)
        else:
            run = partial(self._run_directions, directions, distances, flat)
        self._evaluate(flat.size, 1, run, lambda: np.tile(distances != 0, len(directions)), where)

    def _bundle(self, dtype: DType, directions: Sequence[Sequence[Ray]]) -> _Bundle:
        if dtype not in self._ray_loops:
            self._ray_loops[dtype] = _kernels.open_ray_loop(self._loss, dtype)
        rays, flat = directions[0], self._stores[0].buffer.view(dtype)
        sizes = np.array([ray.weights.size for ray in rays], np.uint64)
        begins = self._begins[[ray.tensor for ray in rays]] + [ray.start for ray in rays]
        parts = [slice(begin, begin + size) for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True)]
        return _Bundle(
            dtype=dtype,
            begins=begins.astype(np.uint64),
            bounds=np.array([0, *sizes.cumsum().tolist()], np.uint64),
            scales=np.array([ray.scale for ray in rays]),
            weights=np.concatenate([ray.weights for each in directions for ray in each]).reshape(len(directions), -1),
            parts=parts,
            origin=np.concatenate([flat[part] for part in parts]),
        )

    def _evaluate(
        self, count: int, columns: int, run: _Run, moves: Callable[[], Flags], where: Callable[[int], Place],
        tick: Tick = silent,
    ) -> None:  # fmt: skip
        """Run ``count`` items of ``columns`` evaluations each, in threads, and note what the loss does.

        That is what it raises, and whether it has a value at a displaced point, which is asked (``moves``) until it
        has. The exception that counts as the first does not depend on the number of threads.
        """
        found: list[tuple[int, Exception]] = []
        answered: list[int] = []
        moved = None if self._raised.answered else moves()

        def work(thread: int, piece: slice) -> None:
            first, end, begin = piece.start * columns, piece.stop * columns, time.perf_counter()
            errors = run(thread, piece)
            self._seconds = (time.perf_counter() - begin) / (end - first)
            found.extend((first + k, error) for k, error in errors)
            if not (moved is None or answered) and moved[first:end].sum() > len(errors):
                answered.append(first)

        def done(items: int) -> None:
            tick(items)
            self._done(items * columns)

        self._done(0)
        try:
            self._threads.run(WorkQueue(count, lambda left: self._length(left, columns)), work, done)
        finally:
            for k, error in sorted(found, key=lambda each: each[0]):
                self._raised = self._raised.also(error, partial(where, k))
            if answered:
                self._raised = self._raised.joined(Raised(answered=True))

    def _done(self, evaluations: int) -> None:
        """Count more evaluations; raise `OutOfTime` after the deadline."""
        self._evaluations += evaluations
        if self._direct.deadline < math.inf and now() > self._direct.deadline:
            raise OutOfTime

    def _length(self, left: int, columns: int) -> int:
        """The number of items of the next piece when ``left`` are left."""
        return piece_length(left, max(self._seconds * columns, LEAST_SECONDS), self._threads.count)

    # --- in one thread ---

    def _run(
        self, dtype: DType, cells: Positions, displaced: Array, out: Array, thread: int, piece: slice
    ) -> _RaisedAt:
        """Write the loss for a piece of the rows of ``cells``; for each value alone if one of them raises."""
        flat = self._stores[thread].buffer.view(dtype)
        cells, displaced, out = cells[piece], displaced[piece], out[piece]
        originals = flat[cells]
        try:
            self._loops[dtype](self._records[thread], self._args, flat, cells, originals, displaced, out)
        except Exception as error:
            flat[cells] = originals
            out[...] = UNDEFINED[self._direct.result_dtype]
            if out.size == 1:
                return [(0, error)]
            alone = ((slice(i, i + 1), slice(j, j + 1)) for i, j in np.ndindex(out.shape))
            return _numbered(self._run(dtype, cells[i], displaced[i, j], out[i, j], thread, slice(1)) for i, j in alone)
        return []

    def _run_bundle(self, bundle: _Bundle, distances: Floats, out: Array, thread: int, piece: slice) -> _RaisedAt:
        """A piece of the values along the directions; each alone if one of them raises."""
        flat = self._stores[thread].buffer.view(bundle.dtype)
        rays = bundle.origin, bundle.begins, bundle.bounds, bundle.scales, bundle.weights, distances
        try:
            self._ray_loops[bundle.dtype](self._records[thread], self._args, flat, rays, piece.start, out[piece])
        except Exception as error:
            for part, (start, stop) in zip(bundle.parts, itertools.pairwise(bundle.bounds.tolist()), strict=True):
                flat[part] = bundle.origin[start:stop]
            out[piece] = UNDEFINED[self._direct.result_dtype]
            if piece.stop - piece.start == 1:
                return [(0, error)]
            alone = (slice(m, m + 1) for m in range(piece.start, piece.stop))
            return _numbered(self._run_bundle(bundle, distances, out, thread, each) for each in alone)
        return []

    def _run_directions(
        self, directions: Sequence[Sequence[Ray]], distances: Floats, out: Array, thread: int, piece: slice
    ) -> _RaisedAt:
        """The same for directions of any size and dtypes, without another copy of their entries."""
        return _numbered(
            self._run_rays(
                thread, directions[m // distances.size], float(distances[m % distances.size]), out[m : m + 1]
            )
            for m in range(piece.start, piece.stop)
        )

    def _run_rays(self, thread: int, rays: Sequence[Ray], distance: float, out: Array) -> _RaisedAt:
        """One value along a direction."""
        flats = [self._flat(thread, ray.tensor)[ray.start : ray.start + ray.weights.size] for ray in rays]
        originals = [self._direct.origin(ray) for ray in rays]
        nothing = np.empty((1, 0), np.int64), np.empty((1, 1, 0), out.dtype)  # the loop displaces no entry besides
        try:
            for ray, flat, original in zip(rays, flats, originals, strict=True):
                for part in parts(original, flat.size):
                    entries = _for_kernels(original[part])
                    _kernels.displace(flat[part], entries, ray.weights[part], distance * ray.scale)
            return self._run(self._dtypes[0], *nothing, out[:, None], thread, slice(1))
        finally:
            for flat, original in zip(flats, originals, strict=True):
                for part in parts(original, flat.size):
                    flat[part] = original[part]

    # --- places of entries in the buffers ---

    def _flat(self, thread: int, tensor: int) -> Array:
        return self._stores[thread].leaves[tensor].reshape(-1)

    def _by_dtype(self, positions: Positions) -> list[tuple[DType, slice]]:
        """Slices of the positions, each in tensors of one dtype."""
        if len(self._loops) == 1:
            return [(self._dtypes[0], slice(0, positions.size))] if positions.size else []
        tensors = self._layout.tensor_of(positions)
        kinds = np.array([ord(dtype.char) for dtype in self._dtypes])[tensors]
        bounds = itertools.pairwise(ends_of_runs(kinds).tolist())
        return [(self._dtypes[tensors[begin]], slice(begin, end)) for begin, end in bounds]

    def _cells(self, positions: Positions) -> Positions:
        """The places of entries in a buffer of their dtype."""
        return positions if self._shifts is None else positions + self._shifts[self._layout.tensor_of(positions)]


def _numbered(raised: Iterable[_RaisedAt]) -> _RaisedAt:
    """The exceptions of several evaluations, from those of each alone."""
    return [(k, error) for k, errors in enumerate(raised) for _, error in errors]


def _displaced_entries(rays: Sequence[Ray]) -> list[tuple[int, int, int, float]]:
    """The entries that a direction displaces, and their scales."""
    return [(ray.tensor, ray.start, ray.weights.size, ray.scale) for ray in rays]


def _for_kernels(array: Array) -> Array:
    """A read-only view, so that kernels are compiled once; of float16, which Numba does not support, a float32 copy."""
    view = array.astype(np.float32) if array.dtype == np.float16 else array.view()
    view.flags.writeable = False
    return view
