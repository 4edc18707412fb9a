"""Loss values at displaced points, by one Python call after another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastgc._evaluation.evaluator import (
    UNDEFINED,
    OutOfTime,
    Place,
    Raised,
    Ray,
    Tick,
    along_direction,
    as_number,
    at_entries,
    at_entry,
)
from fastgc._evaluation.floating_point import callers_errstate
from fastgc._evaluation.working_time import now
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array, Positions, as_one
from fastgc._parameters.layout import ParameterLayout

_WRITTEN_AT_ONCE = 1 << 16  # entries of a ray: three temporaries of 512 KiB fit into the cache of one core


def _flat_view(array: Array) -> Any:
    """A flat view of a contiguous array; of another one NumPy's flat iterator, which writes through to the array."""
    array = np.asarray(array)  # a matrix would stay one of two dimensions
    return array.reshape(-1) if array.flags.c_contiguous else array.flat


class Spread:
    """Entries ``where`` of an array that is not contiguous. A part is copied when it is read, never all of them."""

    def __init__(self, flat: Any, where: slice) -> None:
        self._flat, self._start = flat, where.start

    def __getitem__(self, part: slice) -> Array:
        return np.asarray(self._flat[self._start + part.start : self._start + part.stop])


Origin = Array | Spread  # the entries of a ray at the point


def parts(origin: Origin, size: int) -> Iterator[slice]:
    """Slices in which to read so many entries: all at once where that copies none."""
    length = _WRITTEN_AT_ONCE if isinstance(origin, Spread) else max(1, size)
    yield from (slice(begin, min(begin + length, size)) for begin in range(0, size, length))


def displace_ray(flat: Any, original: Origin, ray: Ray, distance: complex) -> None:
    """Write ``original + distance * scale * weights`` to a ray's entries, block by block."""
    step = distance * ray.scale
    for begin in range(0, ray.weights.size, _WRITTEN_AT_ONCE):
        weights = ray.weights[begin : begin + _WRITTEN_AT_ONCE]
        first = ray.start + begin
        flat[first : first + weights.size] = original[begin : begin + weights.size] + step * weights


class PythonEvaluator:
    """Displaces entries of ``leaves`` and calls the loss; every entry is restored by assignment.

    Parameters
    ----------
    loss : callable
        ``loss(params, *args)``.
    params : structure
        Received by the loss; it shares memory with ``leaves``.
    leaves : sequence of arrays
        The arrays that are displaced, in the order of the layout.
    sources : sequence of arrays, or None
        The arrays from which the leaves were copied; None if the leaves are not copies.
    deadline : float
        A time of `working_time.now` after which evaluating a displaced point raises `OutOfTime`.
    """

    name = "python"

    def __init__(
        self,
        loss: Callable[..., object],
        params: object,
        args: tuple[object, ...],
        layout: ParameterLayout,
        leaves: Sequence[Array],
        sources: Sequence[Array] | None,
        deadline: float = math.inf,
    ) -> None:
        self.evaluations, self.deadline, self.raised = 0, deadline, Raised()
        self.unfinished: Array | None = None  # the values of the last call of `values`, nan where it did not get to
        self._loss, self._params, self._args, self._layout = loss, params, args, layout
        self._leaves, self._sources = leaves, sources
        self._all = as_one(leaves)  # None where the leaves are not copies, or of several dtypes
        self._dtypes = [leaf.dtype for leaf in leaves]
        self._complex = any(dtype.kind == "c" for dtype in set(self._dtypes))
        self._rounds = any(dtype not in (np.float64, np.complex128) for dtype in set(self._dtypes))
        self._displaced: list[tuple[Any, ...]] = []  # (array, where, entries) to be restored, whatever happens

    @cached_property
    def _flat(self) -> list[Any]:
        return [_flat_view(leaf) for leaf in self._leaves]

    @property
    def result_dtype(self) -> type[Any]:
        """The dtype of the loss's values: complex where the parameters are (the complex step)."""
        return np.complex128 if self._complex else np.float64

    def value(self) -> Any:
        self.evaluations += 1
        with callers_errstate():
            value = self._loss(self._params, *self._args)
        return as_number(value, complex_allowed=self._complex)

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        out = self.unfinished = np.full(displaced.shape, np.nan, self.result_dtype)

        def where() -> Place:
            return at_entry(self._layout, int(positions[i]), entry)

        try:
            with np.errstate(all="ignore"):  # the nan of log(-1e-7) is a result here, not a reason to warn
                for i, (flat, local) in enumerate(self._cells(positions)):
                    original = flat[local].item()
                    self._displaced = [(flat, local, original)]
                    for j, entry in enumerate(displaced[i].tolist()):
                        flat[local] = entry
                        out[i, j] = self._value_or_nan(entry != original, where)
                    flat[local] = original
                    tick(1)
        finally:
            self._restore()
        return out

    def along(self, positions: Positions, rows: Array) -> Array:
        out: Array = np.empty(len(rows), self.result_dtype)
        places = self._places(positions)
        moves = (rows != self.entries(positions)).any(axis=1).tolist()
        self._displaced = [(flat, where, flat[where]) for flat, where, _ in places]
        try:
            with np.errstate(all="ignore"):
                for j, row in enumerate(rows):
                    for flat, where, mine in places:
                        flat[where] = row[mine]
                    out[j] = self._value_or_nan(moves[j], lambda: at_entries(self._layout, positions))
        finally:
            self._restore()
        return out

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array:
        return np.stack([self.along_one(rays, distances) for rays in directions])

    def along_one(self, rays: Sequence[Ray], distances: Array) -> Array:
        """The loss at ``distances`` along one direction, shape (distances,)."""
        out: Array = np.empty(distances.size, self.result_dtype)

        def where() -> Place:
            return along_direction(self._layout, rays, distance)

        displace = self._displacement(rays)
        try:
            with np.errstate(all="ignore"):
                for j, distance in enumerate(distances.tolist()):
                    displace(distance)
                    out[j] = self._value_or_nan(distance != 0, where)
        finally:
            self._restore()
        return out

    def _displacement(self, rays: Sequence[Ray]) -> Callable[[complex], None]:
        """What displaces the entries of a direction by a distance; they are restored by `_restore`."""
        if self._all is not None and len(rays) > 1 and sum(ray.weights.size for ray in rays) <= _WRITTEN_AT_ONCE:
            return self._joined_displacement(self._all, rays)
        self._displaced = [
            (self._flat[ray.tensor], slice(ray.start, ray.start + ray.weights.size), self.origin(ray)) for ray in rays
        ]
        originals = [original for *_, original in self._displaced]

        def displace(distance: complex) -> None:
            for ray, original in zip(rays, originals, strict=True):
                displace_ray(self._flat[ray.tensor], original, ray, distance)

        return displace

    def _joined_displacement(self, flat: Array, rays: Sequence[Ray]) -> Callable[[complex], None]:
        """The same for rays through small tensors of one flat array, whose entries are written together."""
        sizes = np.array([ray.weights.size for ray in rays])
        begins = self._layout.starts[[ray.tensor for ray in rays]] + [ray.start for ray in rays]
        where = np.arange(sizes.sum()) + (begins - np.cumsum(sizes) + sizes).repeat(sizes)
        scales, weights = np.array([ray.scale for ray in rays]), np.concatenate([ray.weights for ray in rays])
        original = flat[where]
        self._displaced = [(flat, where, original)]

        def displace(distance: complex) -> None:
            flat[where] = original + (distance * scales).repeat(sizes) * weights

        return displace

    def origin(self, ray: Ray) -> Origin:
        """The entries of a ray at the point: a view of the source, or a copy of the leaf."""
        where = slice(ray.start, ray.start + ray.weights.size)
        if self._sources is None:
            return np.array(self._flat[ray.tensor][where])
        source = _flat_view(self._sources[ray.tensor])
        return source[where] if isinstance(source, np.ndarray) else Spread(source, where)

    def entries(self, positions: Positions) -> Array:
        out = np.empty(positions.size)
        for flat, where, mine in self._places(positions):
            out[mine] = flat[where].real
        return out

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        if not self._rounds:
            return displaced
        result = displaced.copy()
        for t, mine in self._layout.parts(positions):
            result[mine] = displaced[mine].astype(self._dtypes[t])
        return result

    def close(self) -> None:
        self._restore()  # again: Ctrl-C may have interrupted the first time

    def _restore(self) -> None:
        for flat, where, original in self._displaced:
            if isinstance(original, Spread):
                for part in parts(original, where.stop - where.start):
                    flat[where.start + part.start : where.start + part.stop] = original[part]
            else:
                flat[where] = original
        self._displaced = []

    def _places(self, positions: Positions) -> list[tuple[Any, Positions, Any]]:
        """Arrays, the places in them, and which of the positions these are: of each tensor, or of all together."""
        if self._all is not None:
            return [(self._all, positions, slice(None))]
        starts = self._layout.starts
        return [(self._flat[t], positions[mine] - starts[t], mine) for t, mine in self._layout.parts(positions)]

    def _cells(self, positions: Positions) -> Iterator[tuple[Any, int]]:
        if self._all is not None:
            return zip(itertools.repeat(self._all), positions.tolist(), strict=False)
        tensors = self._layout.tensor_of(positions)
        local = positions - self._layout.starts[tensors]
        return zip(map(self._flat.__getitem__, tensors.tolist()), local.tolist(), strict=True)

    def _value_or_nan(self, displaced: bool, where: Callable[[], Place]) -> Any:
        """The loss at the current entries; nan if it raises, and then ``where`` describes the point."""
        if self.deadline < math.inf and now() > self.deadline:
            raise OutOfTime
        self.evaluations += 1
        try:
            value = self._loss(self._params, *self._args)
        except Exception as error:
            self.raised = self.raised.also(error, where)
            return UNDEFINED[self.result_dtype]
        if displaced and not self.raised.answered:
            self.raised = replace(self.raised, answered=True)
        return value if type(value) is float else as_number(value, complex_allowed=self._complex)


def unasked(layout: ParameterLayout) -> PythonEvaluator:
    """An evaluator that holds no parameters, where nothing is evaluated any more."""
    return PythonEvaluator(lambda *_: math.nan, None, (), layout, [], None)
