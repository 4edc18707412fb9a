"""Loss values from compiled loops, in threads that each displace a copy of the parameters of their own."""

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
from fastgc._evaluation.python import PythonEvaluator
from fastgc._evaluation.threads import Work, WorkerThreads, WorkQueue
from fastgc._parameters.arrays import Array, Floats, Positions
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.record import Storage

_LONGEST = 0.05  # seconds that a piece of work takes: short beside a progress bar or Ctrl-C
_SHORTEST = 6e-4  # long beside taking it
_LONG = 1e-4  # seconds of an evaluation, long beside waiting for one's turn at Python
_FEW = 1 << 17  # entries of a direction, of which each thread can keep another copy
_SHARE = 4  # a piece is that part of a thread's share of what is left, so that none waits long for the last one


_Errors = Sequence[tuple[int, Exception]]  # what the loss raised, by the number of the value among those asked for
_Note = Callable[[int, int, _Errors], None]  # told the first of some values, how many there are, what was raised there


@dataclass(frozen=True)
class _Bundle:
    """Directions that displace the same entries, of tensors of one dtype.

    Attributes
    ----------
    begins : where each of their rays begins in a buffer of the dtype, shape (rays,)
    bounds : and in the signs, and where the last one ends, shape (rays + 1,)
    scales : of the rays, shape (rays,)
    signs : shape (directions, entries)
    parts : the entries of each ray in a buffer of the dtype
    origin : all of them as they are at the point, shape (entries,)
    """

    dtype: np.dtype[Any]
    begins: NDArray[np.uint64]
    bounds: NDArray[np.uint64]
    scales: Floats
    signs: NDArray[np.int8]
    parts: list[slice]
    origin: Array


class NumbaEvaluator:
    """Calls the loss from a compiled loop.

    Parameters
    ----------
    direct : PythonEvaluator
        The same jitted loss called from Python over ``stores[0]``: for the few values that need no loop.
    stores : sequence of Storage
        A copy of the parameters for each thread.
    seconds : float
        Of an evaluation, about.
    limits : ExitStack
        To be closed with it: one BLAS thread in each of ours, say.
    """

    def __init__(
        self,
        direct: PythonEvaluator,
        loss: Any,
        args: tuple[Any, ...],
        layout: ParameterLayout,
        stores: Sequence[Storage],
        seconds: float,
        limits: contextlib.ExitStack,
    ) -> None:
        self.name = f"numba ({len(stores)} thread{'s' if len(stores) > 1 else ''})"
        self._direct, self._args, self._layout, self._stores = direct, args, layout, stores
        self._records = [store.record() for store in stores]
        self._entry = _kernels.CompiledLoss(loss, (self._records[0], *args))
        dtypes = {leaf.dtype for leaf in stores[0].leaves}
        self._loops = {dtype: _kernels.open_loop(self._entry, dtype) for dtype in dtypes}
        self._ray_loops: dict[np.dtype[Any], Callable[..., None]] = {}
        # Where each tensor begins in the buffer, in entries of its own dtype.
        sizes = np.array([leaf.dtype.itemsize for leaf in stores[0].leaves])
        self._begins: Positions = stores[0].offsets // sizes
        self._seconds, self._evaluations, self._raised = seconds, 0, Raised()
        self._crew, self._limits = WorkerThreads(len(stores)), limits

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
            for j in range(piece.start, piece.stop):
                row = [(dtype, cells, rows[j][same]) for dtype, cells, same in parts]
                note(j, 1, self._run_row(thread, row, somewhere, out[j : j + 1]))

        moves = (rows != self.entries(positions)).any(axis=1)
        with self._noting(moves, lambda j: at_entries(self._layout, positions)) as note:
            self._one_by_one(len(rows), work)
        return out[:, 0]

    def entries(self, positions: Positions) -> Array:
        return self._direct.entries(positions)

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        return self._direct.rounded(positions, displaced)

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        out: Array = np.empty(displaced.shape, self._direct.result_dtype)
        displaced = np.ascontiguousarray(displaced, self._direct.result_dtype)
        for same in self._of_one_dtype(positions):
            self._shared_out(positions[same], displaced[same], out[same], tick)
        return out

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        out: Array = np.empty((len(directions), distances.size), self._direct.result_dtype)
        distances, begin = np.ascontiguousarray(distances, np.float64), 0
        for _, alike in itertools.groupby(directions, _extent):
            some = list(alike)
            self._along_alike(some, distances, out[begin : begin + len(some)])
            begin += len(some)
        return out

    def close(self) -> None:
        self._crew.close()
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

    def _along_alike(self, directions: Sequence[Sequence[Ray]], distances: Floats, out: Array) -> None:
        """The loss at distances along directions through the same entries."""
        rays, flat = directions[0], out.reshape(-1)
        dtypes = {self._flat(0, ray.tensor).dtype for ray in rays}

        def one_by_one(thread: int, piece: slice) -> None:
            for m in range(piece.start, piece.stop):
                i, j = divmod(m, distances.size)
                note(m, 1, self._run_rays(thread, directions[i], float(distances[j]), flat[m : m + 1, None]))

        def together(thread: int, piece: slice) -> None:
            errors = self._run_bundle(thread, bundle, distances, piece.start, flat[piece])
            note(piece.start, piece.stop - piece.start, errors)

        def where(m: int) -> Place:
            return along_direction(self._layout, directions[m // distances.size], distances[m % distances.size])

        with self._noting(np.tile(distances != 0, len(directions)), where) as note:
            if len(dtypes) > 1 or sum(ray.signs.size for ray in rays) > _FEW:
                self._one_by_one(flat.size, one_by_one)
                return
            bundle = self._bundle(dtypes.pop(), directions)
            self._in_threads(flat.size, 1, together, silent)

    def _bundle(self, dtype: np.dtype[Any], directions: Sequence[Sequence[Ray]]) -> _Bundle:
        if dtype not in self._ray_loops:
            self._ray_loops[dtype] = _kernels.open_ray_loop(self._entry, dtype)
        rays, flat = directions[0], self._stores[0].buffer.view(dtype)
        sizes = [ray.signs.size for ray in rays]
        begins = [int(self._begins[ray.tensor]) + ray.start for ray in rays]
        parts = [slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=True)]
        return _Bundle(
            dtype=dtype,
            begins=np.array(begins, np.uint64),
            bounds=np.cumsum([0, *sizes], dtype=np.uint64),
            scales=np.array([ray.scale for ray in rays]),
            signs=np.stack([np.concatenate([ray.signs for ray in each]) for each in directions]),
            parts=parts,
            origin=np.concatenate([flat[part] for part in parts]),
        )

    def _one_by_one(self, count: int, work: Work) -> None:
        """Have ``count`` evaluations done between which Python is at work: in threads, if they take long beside it."""
        if self._seconds > _LONG:
            self._in_threads(count, 1, work, silent)
            return
        self._done(0)
        for i in range(count):
            work(0, slice(i, i + 1))
            self._done(1)

    def _in_threads(self, count: int, columns: int, work: Work, tick: Tick) -> None:
        """Have ``count`` items of so many evaluations each done."""

        def done(items: int) -> None:
            tick(items)
            self._done(items * columns)

        self._done(0)
        self._crew.run(WorkQueue(count, lambda left: self._length(left, columns)), work, done)

    @contextlib.contextmanager
    def _noting(self, moves: NDArray[np.bool_], where: Callable[[int], Place]) -> Iterator[_Note]:
        """Take note of what the loss raises, and whether it has a value where something moves; in any thread.

        Which exception is the first, and where it was raised, does not depend on the threads.
        """
        found: list[tuple[int, Exception]] = []
        answered: list[int] = []

        def note(begin: int, count: int, errors: _Errors) -> None:
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
        """Count so many more evaluations, and end if the time is over."""
        self._evaluations += evaluations
        if time.perf_counter() > self._direct.deadline:
            raise OutOfTime

    def _length(self, left: int, columns: int) -> int:
        """Items of the next piece, when so many are left."""
        cost = max(self._seconds * columns, 1e-9)
        even = max(left / (_SHARE * self._crew.count), _SHORTEST / cost)
        return int(min(_LONGEST / cost, even))

    # --- in one thread ---

    def _run(self, thread: int, dtype: np.dtype[Any], cells: Positions, displaced: Array, out: Array) -> _Errors:
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
        """Some value of a piece raised: ask for each by itself, nan for those that do it again."""
        errors: list[tuple[int, Exception]] = []
        for k, (i, j) in enumerate(np.ndindex(displaced.shape)):
            original = flat[cells[i]]
            one = displaced[i : i + 1, j : j + 1], out[i : i + 1, j : j + 1]  # of one number: contiguous
            try:
                self._loops[flat.dtype](self._records[thread], self._args, flat, cells[i : i + 1], *one)
            except Exception as error:
                flat[cells[i]] = original
                out[i, j] = UNDEFINED[self._direct.result_dtype]
                errors.append((k, error))
        return errors

    def _run_row(
        self, thread: int, parts: Sequence[tuple[np.dtype[Any], Positions, Array]], tensor: int, out: Array
    ) -> _Errors:
        """With entries displaced together, those of each dtype in a buffer of it; some of the given tensor."""
        flats = [self._stores[thread].buffer.view(dtype) for dtype, _, _ in parts]
        originals = [flat[cells] for flat, (_, cells, _) in zip(flats, parts, strict=True)]
        try:
            for flat, (_, cells, entries) in zip(flats, parts, strict=True):
                flat[cells] = entries
            return self._run_as_it_is(thread, tensor, out)
        finally:
            for flat, (_, cells, _), original in zip(flats, parts, originals, strict=True):
                flat[cells] = original

    def _run_bundle(self, thread: int, bundle: _Bundle, distances: Floats, first: int, out: Array) -> _Errors:
        """Values number ``first`` and following along the directions, or each by itself if one of them raises."""
        flat = self._stores[thread].buffer.view(bundle.dtype)
        rest = bundle.origin, bundle.begins, bundle.bounds, bundle.scales, bundle.signs, distances, first, out
        begin, errors = time.perf_counter(), []
        try:
            self._ray_loops[bundle.dtype](self._records[thread], self._args, flat, *rest)
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

    def _run_rays(self, thread: int, rays: Sequence[Ray], distance: float, out: Array) -> _Errors:
        """One value along a direction through many entries, of which no other copy is made."""
        flats = [self._flat(thread, ray.tensor)[ray.start : ray.start + ray.signs.size] for ray in rays]
        originals = [_for_kernels(self._direct.origin(ray)) for ray in rays]
        try:
            for ray, flat, original in zip(rays, flats, originals, strict=True):
                _kernels.displace(flat, original, ray.signs, distance * ray.scale)
            return self._run_as_it_is(thread, rays[0].tensor, out)
        finally:
            for flat, original in zip(flats, originals, strict=True):
                flat[...] = original

    def _run_as_it_is(self, thread: int, tensor: int, out: Array) -> _Errors:
        """The loop displaces an entry: the first of a tensor, to where it stands."""
        flat = self._flat(thread, tensor)
        return self._run(thread, flat.dtype, self._begins[tensor : tensor + 1], flat[:1, None].astype(out.dtype), out)

    # --- where entries stand in the buffers ---

    def _flat(self, thread: int, tensor: int) -> Array:
        return self._stores[thread].leaves[tensor].reshape(-1)

    def _of_one_dtype(self, positions: Positions) -> Iterator[slice]:
        """Stretches of the positions in tensors of one dtype."""
        kinds = [ord(leaf.dtype.char) for leaf in self._stores[0].leaves]
        changes = np.empty(0, np.int64)
        if len(set(kinds)) > 1:
            changes = np.flatnonzero(np.diff(np.array(kinds)[self._layout.tensor_of(positions)])) + 1
        bounds = itertools.pairwise([0, *changes.tolist(), positions.size])
        yield from (slice(begin, end) for begin, end in bounds if end > begin)

    def _cells(self, positions: Positions) -> tuple[Any, Positions]:
        """The dtype of these positions, and where in a buffer of that dtype they stand."""
        tensors = self._layout.tensor_of(positions)
        dtype = self._stores[0].leaves[tensors[0]].dtype
        return dtype, positions + (self._begins - self._layout.starts[:-1])[tensors]


def _extent(rays: Sequence[Ray]) -> list[tuple[int, int, int, float]]:
    """Which entries a direction displaces, and how far."""
    return [(ray.tensor, ray.start, ray.signs.size, ray.scale) for ray in rays]


def _for_kernels(array: Array) -> Array:
    """A view of the same kind of the caller's arrays, writable or not; a copy of float16, which Numba does not know."""
    view = array.astype(np.float32) if array.dtype == np.float16 else array.view()
    view.flags.writeable = False
    return view
