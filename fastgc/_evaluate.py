"""Loss values at displaced points: one Python call after another, or compiled loops on all cores."""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from fastgc._layout import Array, ParameterLayout
from fastgc._record import Storage

Tick = Callable[[int], object]  # told how many entries were evaluated


class OutOfTime(Exception):
    """The time that a check may take is over."""


_CHUNK_SECONDS = 0.05  # short beside a progress bar or Ctrl-C
_SHORTEST_SECONDS = 1e-3  # long beside handing a chunk to a thread
_SAME_CHANGE, _SAME_EPS = 1e-3, 1e3  # by how much values computed in two ways may differ: of change, and of round-off
_PILOT = 16  # entries that are evaluated first, in one thread
_CHUNKS_PER_THREAD = 16  # so that the last chunks leave no thread idle for long
# What math.* says of an argument outside its domain (a ValueError, where NumPy returns nan).
_DOMAIN_MESSAGE = re.compile(r"math domain error|expected a (positive|nonnegative|noninteger|finite|number)")


_BLOCK = 1 << 16  # entries displaced at a time: their temporaries stay in the cache


@dataclass(frozen=True)
class Ray:
    """Neighbouring entries of one tensor, displaced together by their signs times a length.

    Attributes
    ----------
    tensor, start : the tensor, and the first of its entries in C order
    signs : array of int8, +1 or -1, shape (entries,)
    scale : the length of a distance of 1, in every entry
    """

    tensor: int
    start: int
    signs: NDArray[np.int8]
    scale: float


class Evaluator(Protocol):
    """Values of one loss around one point."""

    name: str

    @property
    def evaluations(self) -> int:
        """How often the loss was called so far."""

    def value(self) -> Any:
        """The loss at the point itself."""

    def values(self, positions: NDArray[np.int64], displaced: Array, tick: Tick) -> Array:
        """The loss with entry ``positions[i]`` set to ``displaced[i, j]``, shape of ``displaced``."""

    def along(self, positions: NDArray[np.int64], rows: Array) -> Array:
        """The loss with all entries ``positions`` set to ``rows[j]`` together, shape (rows,)."""

    def along_rays(self, rays: Sequence[Ray], distances: NDArray[np.float64]) -> Array:
        """The loss at ``distances`` along the direction that all rays make together, shape (distances,)."""

    def entries(self, positions: NDArray[np.int64]) -> Array:
        """The entries at ``positions``, as float64."""

    def rounded(self, positions: NDArray[np.int64], displaced: Array) -> Array:
        """``displaced``, shape (positions, columns), as the dtype of each entry's tensor can hold it."""

    def close(self) -> None:
        """Put back whatever is displaced and end the threads."""


def silent(count: int) -> None:
    """Progress that nobody watches."""


# --- what a loss may return ---


def as_number(value: Any, *, complex_allowed: bool = False) -> Any:
    """The value of a loss as a float (or complex, where the step is).

    Raises
    ------
    TypeError
        For None, text, complex numbers and anything else that is no real number.
    ValueError
        For an array of several values.
    """
    if type(value) is float:
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of unequal lengths
        array = np.asarray(None)
    if array.dtype.kind not in ("fiubc" if complex_allowed else "fiub"):
        what = "complex: not supported" if array.dtype.kind == "c" else "no real number"
        raise TypeError(f"loss returned {_short(value)} ({type(value).__name__}), {what}; return one real number")
    if array.size != 1:
        raise ValueError(f"loss returned an array of shape {array.shape}; it must return one value, not several")
    return array.reshape(-1)[0].item()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def outside_domain(error: Exception) -> bool:
    """Whether an exception says that the loss is not defined at a displaced point."""
    if isinstance(error, (ArithmeticError, np.linalg.LinAlgError)):
        return True
    return isinstance(error, ValueError) and bool(_DOMAIN_MESSAGE.search(str(error)))


def agree(values: Array, others: Array, base: float, eps: float) -> bool:
    """Whether values computed in two ways are the same, so far as their change from ``base`` shows; never with NaN."""
    slack = _SAME_CHANGE * np.abs(others - base).max() + _SAME_EPS * eps * np.abs(others).max()
    return bool(np.all(np.abs(values - others) <= slack))


# --- displacing ---


def _flat_view(array: Array) -> Any:
    """A flat view, where there is one, else NumPy's flat iterator, which writes through to the array."""
    return array.reshape(-1) if array.flags.c_contiguous else array.flat


def _displace(flat: Any, original: Array, ray: Ray, distance: float) -> None:
    """Write ``original + distance * scale * signs`` to a ray's entries, block by block."""
    step = distance * ray.scale
    for begin in range(0, ray.signs.size, _BLOCK):
        signs = ray.signs[begin : begin + _BLOCK]
        first = ray.start + begin
        flat[first : first + signs.size] = original[begin : begin + signs.size] + step * signs


# --- one Python call after another ---


class PythonEvaluator:
    """Displaces entries of ``leaves`` one at a time and calls the loss; every entry is restored by assignment.

    Parameters
    ----------
    loss : callable
        ``loss(params, *args)``.
    params : structure
        What the loss receives; it shares memory with ``leaves``.
    leaves : sequence of arrays
        The arrays that are displaced, in the order of the layout.
    sources : sequence of arrays, or None
        Where the entries were copied from and can be restored from; None where the leaves are the only ones.
    deadline : float
        In seconds of ``time.perf_counter``: displaced points are no longer evaluated afterwards (`OutOfTime`).
    """

    name = "python"

    def __init__(
        self,
        loss: Callable[..., Any],
        params: Any,
        args: tuple[Any, ...],
        layout: ParameterLayout,
        leaves: Sequence[Array],
        sources: Sequence[Array] | None,
        deadline: float = math.inf,
    ) -> None:
        self.evaluations, self.deadline = 0, deadline
        self._loss, self._params, self._args, self._layout = loss, params, args, layout
        self._flat = [_flat_view(leaf) for leaf in leaves]
        self._sources = None if sources is None else [_flat_view(source) for source in sources]
        self._dtypes = [leaf.dtype for leaf in leaves]
        self._complex = any(dtype.kind == "c" for dtype in self._dtypes)
        self._displaced: list[tuple[Any, Any, Any]] = []  # (array, where, entries) to be put back, whatever happens

    @property
    def result_dtype(self) -> type:
        """Of the loss's values: complex where the parameters are (the complex step)."""
        return np.complex128 if self._complex else np.float64

    def value(self) -> Any:
        self.evaluations += 1
        return as_number(self._loss(self._params, *self._args), complex_allowed=self._complex)

    def values(self, positions: NDArray[np.int64], displaced: Array, tick: Tick) -> Array:
        out: Array = np.empty(displaced.shape, self.result_dtype)
        with np.errstate(all="ignore"):  # log(-1e-7) beside the point is an answer, not a warning
            for i, (flat, local) in enumerate(self._cells(positions)):
                self._displaced = [(flat, local, flat[local])]
                try:
                    for j, entry in enumerate(displaced[i]):
                        flat[local] = entry
                        out[i, j] = self._value_or_nan()
                finally:
                    self._restore()
                tick(1)
        return out

    def along(self, positions: NDArray[np.int64], rows: Array) -> Array:
        out: Array = np.empty(len(rows), self.result_dtype)
        cells = list(self._cells(positions))
        self._displaced = [(flat, local, flat[local]) for flat, local in cells]
        try:
            with np.errstate(all="ignore"):
                for j, row in enumerate(rows):
                    for (flat, local), entry in zip(cells, row, strict=True):
                        flat[local] = entry
                    out[j] = self._value_or_nan()
        finally:
            self._restore()
        return out

    def along_rays(self, rays: Sequence[Ray], distances: NDArray[np.float64]) -> Array:
        out: Array = np.empty(distances.size, self.result_dtype)
        self._displaced = [
            (self._flat[ray.tensor], slice(ray.start, ray.start + ray.signs.size), self.origin(ray)) for ray in rays
        ]
        try:
            with np.errstate(all="ignore"):
                for j, distance in enumerate(distances.tolist()):
                    for ray, (flat, _, original) in zip(rays, self._displaced, strict=True):
                        _displace(flat, original, ray, distance)
                    out[j] = self._value_or_nan()
        finally:
            self._restore()
        return out

    def origin(self, ray: Ray) -> Array:
        """A ray's entries as they are at the point: in the source, or a scratch copy."""
        where = slice(ray.start, ray.start + ray.signs.size)
        if self._sources is None:
            return np.array(self._flat[ray.tensor][where])
        return np.asarray(self._sources[ray.tensor][where])

    def entries(self, positions: NDArray[np.int64]) -> Array:
        out = np.empty(positions.size)
        for t, mine in self._layout.parts(positions):
            out[mine] = self._flat[t][positions[mine] - self._layout.starts[t]].real
        return out

    def rounded(self, positions: NDArray[np.int64], displaced: Array) -> Array:
        result = displaced.copy()
        for t, mine in self._layout.parts(positions):
            if self._dtypes[t] not in (np.float64, np.complex128):
                result[mine] = displaced[mine].astype(self._dtypes[t])
        return result

    def close(self) -> None:
        self._restore()  # once more: an interrupt may have fallen into the first time

    def _restore(self) -> None:
        for flat, where, original in self._displaced:
            flat[where] = original
        self._displaced = []

    def _cells(self, positions: NDArray[np.int64]) -> Iterator[tuple[Any, int]]:
        tensors = self._layout.tensor_of(positions)
        local = positions - self._layout.starts[tensors]
        for tensor, cell in zip(tensors.tolist(), local.tolist(), strict=True):
            yield self._flat[tensor], cell

    def _value_or_nan(self) -> Any:
        if time.perf_counter() > self.deadline:
            raise OutOfTime
        self.evaluations += 1
        try:
            value = self._loss(self._params, *self._args)
        except Exception as error:
            if outside_domain(error):
                return np.nan
            raise
        return value if type(value) is float else as_number(value, complex_allowed=self._complex)


# --- compiled loops in threads ---


class NumbaEvaluator:
    """Calls the loss from a compiled loop, in threads that each displace a copy of the parameters of their own.

    Parameters
    ----------
    direct : PythonEvaluator
        The same jitted loss called from Python over ``stores[0]``: for the few values that need no loop.
    stores : sequence of Storage
        A copy of the parameters for each thread.
    """

    def __init__(
        self,
        direct: PythonEvaluator,
        loss: Any,
        args: tuple[Any, ...],
        layout: ParameterLayout,
        stores: Sequence[Storage],
    ) -> None:
        from fastgc import _kernels

        self.name = f"numba ({len(stores)} thread{'s' if len(stores) > 1 else ''})"
        self._direct, self._args, self._layout, self._stores = direct, args, layout, stores
        self._loop = partial(_kernels.displaced_values, _kernels.Entry(loss, (stores[0].record(), *args)))
        self._idle: queue.SimpleQueue[tuple[Storage, Any]] = queue.SimpleQueue()
        for each in stores:
            self._idle.put((each, each.record()))
        self._pool = ThreadPoolExecutor(len(stores), thread_name_prefix="fastgc")
        self._seconds: float | None = None  # of an evaluation, once it is known
        self._evaluations = 0
        # One BLAS thread in each of ours; also when there is one, since another number may change the last bits.
        self._blas = None if _kernels.runs_in_parallel(loss) else threadpoolctl.ThreadpoolController()

    @property
    def evaluations(self) -> int:
        return self._direct.evaluations + self._evaluations

    def value(self) -> Any:
        with self._limited_blas():
            return self._direct.value()

    def along(self, positions: NDArray[np.int64], rows: Array) -> Array:
        with self._limited_blas():
            return self._direct.along(positions, rows)

    def entries(self, positions: NDArray[np.int64]) -> Array:
        return self._direct.entries(positions)

    def rounded(self, positions: NDArray[np.int64], displaced: Array) -> Array:
        return self._direct.rounded(positions, displaced)

    def values(self, positions: NDArray[np.int64], displaced: Array, tick: Tick) -> Array:
        out: Array = np.empty(displaced.shape, self._direct.result_dtype)
        first = _PILOT if self._seconds is None else 0  # how long an evaluation takes decides on the chunks
        for part in (slice(0, first), slice(first, positions.size)):
            if positions[part].size:
                self._run_chunks(positions[part], displaced[part], out[part], tick)
        return out

    def _run_chunks(self, positions: NDArray[np.int64], displaced: Array, out: Array, tick: Tick) -> None:
        chunks = self._chunks(positions, displaced.shape[1])
        begin = time.perf_counter()
        self._in_threads([(self._run, positions[chunk], displaced[chunk], out[chunk]) for chunk in chunks], tick)
        busy = (time.perf_counter() - begin) * min(len(self._stores), len(chunks))
        self._seconds = busy / displaced.size
        self._evaluations += displaced.size

    def along_rays(self, rays: Sequence[Ray], distances: NDArray[np.float64]) -> Array:
        out: Array = np.empty((distances.size, 1), self._direct.result_dtype)
        self._in_threads([(self._run_rays, rays, distances[j], out[j : j + 1]) for j in range(distances.size)], silent)
        self._evaluations += distances.size
        return out[:, 0]

    def _in_threads(self, calls: Sequence[tuple[Any, ...]], tick: Tick) -> None:
        futures: list[Future[int]] = []
        with self._limited_blas():
            try:
                futures = [self._pool.submit(*call) for call in calls]
                for future in as_completed(futures):
                    tick(future.result())
                    if time.perf_counter() > self._direct.deadline:
                        raise OutOfTime
            finally:  # after an exception, Ctrl-C included: no thread may outlive the call
                for future in futures:
                    future.cancel()
                wait(futures)

    def close(self) -> None:
        self._pool.shutdown()

    def _limited_blas(self) -> Any:
        return self._blas.limit(limits=1, user_api="blas") if self._blas else contextlib.nullcontext()

    def _chunks(self, positions: NDArray[np.int64], columns: int) -> list[slice]:
        """Slices of the positions, each of tensors of one dtype, short enough for the bar and for an even load."""
        bounds = [0, *(np.flatnonzero(np.diff(self._dtype_numbers(positions))) + 1).tolist(), positions.size]
        length = positions.size
        if self._seconds is not None:
            cost = max(self._seconds * columns, 1e-9)
            even = max(positions.size / (len(self._stores) * _CHUNKS_PER_THREAD), _SHORTEST_SECONDS / cost)
            length = max(1, int(min(_CHUNK_SECONDS / cost, even)))
        return [
            slice(start, min(start + length, end))
            for begin, end in itertools.pairwise(bounds)
            for start in range(begin, end, length)
        ]

    def _dtype_numbers(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        kinds = [ord(leaf.dtype.char) for leaf in self._stores[0].leaves]
        return np.array(kinds)[self._layout.tensor_of(positions)]

    def _run(self, positions: NDArray[np.int64], displaced: Array, out: Array) -> int:
        store, record = self._idle.get()
        flat, cells = self._cells(store, positions)
        originals = flat[cells]
        try:
            self._loop(record, self._args, flat, cells, displaced, out)
        except Exception as error:
            flat[cells] = originals
            if not outside_domain(error):
                raise
            self._run_singly(record, flat, cells, displaced, out)
        finally:
            self._idle.put((store, record))
        return positions.size

    def _run_rays(self, rays: Sequence[Ray], distance: float, out: Array) -> int:
        store, record = self._idle.get()
        flats = [store.leaves[ray.tensor].reshape(-1) for ray in rays]
        originals = [self._direct.origin(ray) for ray in rays]
        try:
            for ray, flat, original in zip(rays, flats, originals, strict=True):
                _displace(flat, original, ray, distance)
            first = self._layout.starts[rays[0].tensor] + rays[0].start
            flat, cells = self._cells(store, np.array([first]))
            self._run_singly(record, flat, cells, flat[cells][:, None], out)
        finally:
            for ray, flat, original in zip(rays, flats, originals, strict=True):
                flat[ray.start : ray.start + ray.signs.size] = original
            self._idle.put((store, record))
        return 1

    def _run_singly(self, record: Any, flat: Array, cells: NDArray[np.int64], displaced: Array, out: Array) -> None:
        """Some value of a chunk raised: ask for each by itself, nan for those outside the loss's domain."""
        for i, j in np.ndindex(displaced.shape):
            original = flat[cells[i]]
            try:
                self._loop(
                    record,
                    self._args,
                    flat,
                    cells[i : i + 1],
                    displaced[i : i + 1, j : j + 1],
                    out[i : i + 1, j : j + 1],
                )
            except Exception as error:
                flat[cells[i]] = original
                if not outside_domain(error):
                    raise
                out[i, j] = np.nan

    def _cells(self, store: Storage, positions: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
        """The buffer as entries of the dtype of these positions, and where in it they stand."""
        tensors = self._layout.tensor_of(positions)
        dtype = store.leaves[tensors[0]].dtype
        begins = store.offsets // dtype.itemsize
        return store.buffer.view(dtype), positions - self._layout.starts[tensors] + begins[tensors]
