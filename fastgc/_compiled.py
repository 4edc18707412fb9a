"""Loss values from compiled loops, in threads that each displace a copy of the parameters of their own."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc import _kernels
from fastgc._evaluate import OutOfTime, PythonEvaluator, Ray, Tick, outside_domain, silent
from fastgc._layout import Array, ParameterLayout
from fastgc._record import Storage
from fastgc._threads import Crew, Pieces, Work

_LONGEST = 0.05  # seconds that a piece of work takes: short beside a progress bar or Ctrl-C
_SHORTEST = 3e-4  # long beside taking it
_MANY = 1 << 15  # entries, for which it pays to let other threads run: waiting for one's turn takes its time
_SHARE = 4  # a piece is that part of a thread's share of what is left, so that none waits long for the last one


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
        entry = _kernels.Entry(loss, (self._records[0], *args))
        dtypes = {leaf.dtype for leaf in stores[0].leaves}
        self._loops = {dtype: _kernels.open_loop(entry, self._records[0], args, dtype) for dtype in dtypes}
        # Where each tensor begins in the buffer, in entries of its own dtype.
        sizes = np.array([leaf.dtype.itemsize for leaf in stores[0].leaves])
        self._begins: NDArray[np.int64] = stores[0].offsets // sizes
        self._seconds, self._evaluations = seconds, 0
        self._crew, self._limits = Crew(len(stores)), limits

    @property
    def evaluations(self) -> int:
        return self._direct.evaluations + self._evaluations

    def value(self) -> Any:
        return self._direct.value()

    def along(self, positions: NDArray[np.int64], rows: Array) -> Array:
        out: Array = np.empty((len(rows), 1), self._direct.result_dtype)
        parts = [(t, positions[mine] - self._layout.starts[t], mine) for t, mine in self._layout.parts(positions)]

        def work(thread: int, piece: slice) -> None:
            for j in range(piece.start, piece.stop):
                self._run_row(thread, [(t, local, rows[j][mine]) for t, local, mine in parts], out[j : j + 1])

        self._in_threads(len(rows), 1, work, silent)
        return out[:, 0]

    def entries(self, positions: NDArray[np.int64]) -> Array:
        return self._direct.entries(positions)

    def rounded(self, positions: NDArray[np.int64], displaced: Array) -> Array:
        return self._direct.rounded(positions, displaced)

    def values(self, positions: NDArray[np.int64], displaced: Array, tick: Tick) -> Array:
        out: Array = np.empty(displaced.shape, self._direct.result_dtype)
        displaced = np.ascontiguousarray(displaced, self._direct.result_dtype)
        for same in self._of_one_dtype(positions):
            self._shared_out(positions[same], displaced[same], out[same], tick)
        return out

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: NDArray[np.float64]) -> Array:
        out: Array = np.empty((len(directions), distances.size), self._direct.result_dtype)
        count = distances.size

        def work(thread: int, piece: slice) -> None:
            for i in range(piece.start // count, -(-piece.stop // count)):
                some = slice(max(piece.start - i * count, 0), min(piece.stop - i * count, count))
                self._run_rays(thread, directions[i], distances[some], out[i : i + 1, some])

        self._in_threads(out.size, 1, work, silent)
        return out

    def close(self) -> None:
        self._crew.close()
        self._limits.close()

    # --- in threads ---

    def _shared_out(self, positions: NDArray[np.int64], displaced: Array, out: Array, tick: Tick) -> None:
        dtype, cells = self._cells(positions)

        def work(thread: int, piece: slice) -> None:
            self._run(thread, dtype, cells[piece], displaced[piece], out[piece])

        self._in_threads(positions.size, displaced.shape[1], work, tick)

    def _in_threads(self, count: int, columns: int, work: Work, tick: Tick) -> None:
        """Have ``count`` items of so many evaluations each done."""

        def done(items: int) -> None:
            self._evaluations += items * columns
            tick(items)
            if time.perf_counter() > self._direct.deadline:
                raise OutOfTime

        self._crew.run(Pieces(count, lambda left: self._length(left, columns)), work, done)

    def _length(self, left: int, columns: int) -> int:
        """Items of the next piece, when so many are left."""
        cost = max(self._seconds * columns, 1e-9)
        even = max(left / (_SHARE * self._crew.count), _SHORTEST / cost)
        return int(min(_LONGEST / cost, even))

    # --- in one thread ---

    def _run(self, thread: int, dtype: np.dtype[Any], cells: NDArray[np.int64], displaced: Array, out: Array) -> None:
        flat = self._stores[thread].buffer.view(dtype)
        originals = flat[cells]
        begin = time.perf_counter()
        try:
            self._loops[dtype](self._records[thread], self._args, flat, cells, displaced, out)
        except Exception as error:
            flat[cells] = originals
            if not outside_domain(error):
                raise
            self._run_singly(thread, flat, cells, displaced, out)
        self._seconds = (time.perf_counter() - begin) / displaced.size

    def _run_singly(self, thread: int, flat: Array, cells: NDArray[np.int64], displaced: Array, out: Array) -> None:
        """Some value of a piece raised: ask for each by itself, nan for those outside the loss's domain."""
        for i, j in np.ndindex(displaced.shape):
            original = flat[cells[i]]
            one = displaced[i : i + 1, j : j + 1], out[i : i + 1, j : j + 1]  # of one number: contiguous
            try:
                self._loops[flat.dtype](self._records[thread], self._args, flat, cells[i : i + 1], *one)
            except Exception as error:
                flat[cells[i]] = original
                if not outside_domain(error):
                    raise
                out[i, j] = np.nan

    def _run_row(self, thread: int, parts: Sequence[tuple[int, NDArray[np.int64], Array]], out: Array) -> None:
        """With entries of several tensors displaced together."""
        flats = [self._flat(thread, t) for t, _, _ in parts]
        originals = [flat[local] for flat, (_, local, _) in zip(flats, parts, strict=True)]
        try:
            for flat, (_, local, entries) in zip(flats, parts, strict=True):
                flat[local] = entries
            self._run_as_it_is(thread, parts[0][0], out)
        finally:
            for flat, (_, local, _), original in zip(flats, parts, originals, strict=True):
                flat[local] = original

    def _run_rays(self, thread: int, rays: Sequence[Ray], distances: NDArray[np.float64], out: Array) -> None:
        flats = [self._flat(thread, ray.tensor)[ray.start : ray.start + ray.signs.size] for ray in rays]
        originals = [_for_kernels(self._direct.origin(ray)) for ray in rays]
        try:
            for j, distance in enumerate(distances.tolist()):
                for ray, flat, original in zip(rays, flats, originals, strict=True):
                    displace = _kernels.displace_many if flat.size > _MANY else _kernels.displace
                    displace(flat, original, ray.signs, distance * ray.scale)
                self._run_as_it_is(thread, rays[0].tensor, out[:, j : j + 1])
        finally:
            for flat, original in zip(flats, originals, strict=True):
                flat[...] = original

    def _run_as_it_is(self, thread: int, tensor: int, out: Array) -> None:
        """The loop displaces an entry: the first of a tensor, to where it stands."""
        flat = self._flat(thread, tensor)
        self._run(thread, flat.dtype, self._begins[tensor : tensor + 1], flat[:1, None].astype(out.dtype), out)

    # --- where entries stand in the buffers ---

    def _flat(self, thread: int, tensor: int) -> Array:
        return self._stores[thread].leaves[tensor].reshape(-1)

    def _of_one_dtype(self, positions: NDArray[np.int64]) -> Iterator[slice]:
        """Stretches of the positions in tensors of one dtype."""
        kinds = [ord(leaf.dtype.char) for leaf in self._stores[0].leaves]
        changes = np.empty(0, np.int64)
        if len(set(kinds)) > 1:
            changes = np.flatnonzero(np.diff(np.array(kinds)[self._layout.tensor_of(positions)])) + 1
        bounds = itertools.pairwise([0, *changes.tolist(), positions.size])
        yield from (slice(begin, end) for begin, end in bounds if end > begin)

    def _cells(self, positions: NDArray[np.int64]) -> tuple[Any, NDArray[np.int64]]:
        """The dtype of these positions, and where in a buffer of that dtype they stand."""
        tensors = self._layout.tensor_of(positions)
        dtype = self._stores[0].leaves[tensors[0]].dtype
        return dtype, positions + (self._begins - self._layout.starts[:-1])[tensors]


def _for_kernels(array: Array) -> Array:
    """A view of the same kind of the caller's arrays, writable or not; a copy of float16, which Numba does not know."""
    view = array.astype(np.float32) if array.dtype == np.float16 else array.view()
    view.flags.writeable = False
    return view
