"""Loss values at displaced tensors, on their device: by one call after another, or in batches by vmap."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastgc._evaluation.batches import COMPARED, Batches, agree, relative_to_point
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
    attempted,
)
from fastgc._evaluation.working_time import now
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array, Floats, Positions, distinct, spread
from fastgc._parameters.layout import ParameterLayout
from fastgc.torch._layers import Layer
from fastgc.torch._rules import BATCH_NUMBERS, SMALLEST_BATCH, has_rules

TensorLoss = Callable[[Mapping[int, torch.Tensor]], torch.Tensor]  # given the tensors to replace, by their numbers

Trust = tuple[list[bool | None], dict[int, bool | None]]  # of the batches of tensors, and of those behind layers

_DISPLACED_AT_ONCE = 1 << 17  # entries: their temporaries, 1 MiB each, stay in the cache
# Entries, to another device: 8 MiB in double precision, which take far longer than to start a copy (0.3 ms at 25 GB/s
# against 0.02 ms). Two such blocks are there at a time, 1/50 of 1e8 parameters.
_SENT_AT_ONCE = 1 << 20
_LARGEST_BATCH = 256  # values: in larger ones a value takes as long


@dataclass(frozen=True)
class Batching:
    """What decides how values are computed in batches.

    Attributes
    ----------
    footprint : about how many numbers the loss computes
    layers : calls the loss once, and gives the layers behind which parameters are displaced, by the numbers of tensors
    """

    footprint: int = 1
    layers: Callable[[], Mapping[int, Layer]] = dict


class TorchEvaluator:
    """Displaces entries of ``tensors``, which the loss reads, and calls it.

    Values of one tensor's entries are computed in batches by `torch.func.vmap`, by the rule of
    `fastgc._evaluation.batches`. Functions have plain calls if vmap has no rule for them, if they draw random numbers,
    or if their control flow depends on values.

    Parameters
    ----------
    loss : callable
        ``loss(replaced)`` returns one value; without replacements that of the tensors as they are.
    tensors : sequence of contiguous tensors
        The tensors that are displaced, in the order of the layout.
    sources : sequence of tensors
        The same entries as given, perhaps in a lower precision or on the host; displaced entries are restored from
        them, or from a copy of these entries where a source is the tensor itself.
    base : float
        The loss of the tensors as they are.
    batching : Batching
        How large batches may be.
    deadline : float
        A time of ``time.perf_counter`` after which evaluating a displaced point raises `OutOfTime`.
    """

    def __init__(
        self,
        loss: TensorLoss,
        layout: ParameterLayout,
        tensors: Sequence[torch.Tensor],
        sources: Sequence[torch.Tensor],
        base: float,
        batching: Batching,
        deadline: float = math.inf,
    ) -> None:
        self.evaluations, self.raised, self.deadline = 0, Raised(), deadline
        self.unfinished: Array | None = None  # as that of a `PythonEvaluator`, of the last tensor alone
        self.opened = contextlib.ExitStack()  # closed together with the evaluator
        self._loss, self._layout, self.base, self._batching = loss, layout, base, batching
        self._flat = [tensor.data.reshape(-1) for tensor in tensors]  # a write to .data spoils no graph of the caller
        self._sources = [source.data.reshape(-1) for source in sources]
        self._complex = any(tensor.is_complex() for tensor in tensors)  # displaced along the imaginary axis
        self._dtype: type[np.float64] | type[np.complex128] = np.complex128 if self._complex else np.float64
        self._batches = [Batches(possible=not self._complex) for _ in self._flat]
        self._layer_batches: dict[int, Batches] = {}
        self._displaced: list[tuple[torch.Tensor, Any, torch.Tensor]] = []

    @property
    def result_dtype(self) -> type[np.float64] | type[np.complex128]:
        """Of the values."""
        return self._dtype

    @property
    def name(self) -> str:
        """The devices, and "vmap" where values were computed in batches."""
        ways = ["vmap"] if any(each.used for each in (*self._batches, *self._layer_batches.values())) else []
        return f"torch ({', '.join([*dict.fromkeys(str(flat.device) for flat in self._flat), *ways])})"

    def value(self) -> Any:
        """The loss at the point itself."""
        return self._called()

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """The loss with entry ``positions[i]`` set to ``displaced[i, j]``."""
        out: Array = np.empty(displaced.shape, self.result_dtype)
        for t, mine in self._by_tensor(positions):
            cells = np.repeat(positions[mine] - self._layout.starts[t], displaced.shape[1])
            entries = displaced[mine].reshape(-1)
            length = self._rows_at_once(t, *displaced[mine].shape)
            values = self.unfinished = np.full(cells.size, np.nan, self.result_dtype)
            for begin in range(0, mine.size, length):
                chunk = slice(begin * displaced.shape[1], (begin + length) * displaced.shape[1])
                values[chunk] = self._values(t, cells[chunk], entries[chunk])
                tick(min(length, mine.size - begin))
            out[mine] = values.reshape(mine.size, -1)
        return out

    def _rows_at_once(self, t: int, rows: int, columns: int) -> int:
        return max(1, max(self._batch_size(t), self._layer_batch_size(t, rows * columns)) // columns)

    def chunks(self, positions: Positions, columns: int) -> Iterator[tuple[int, slice]]:
        """The rows of sorted positions that `values` computes together, and their tensors."""
        for t, mine in self._by_tensor(positions):
            length = self._rows_at_once(t, mine.size, columns)
            for begin in range(int(mine[0]), int(mine[-1]) + 1, length):
                yield t, slice(begin, min(begin + length, int(mine[-1]) + 1))

    @property
    def trust(self) -> Trust:
        """Whether batches may be used, which other evaluators of the same loss need not try."""
        layers = {t: each.trusted for t, each in self._layer_batches.items()}
        return [each.trusted for each in self._batches], layers

    @trust.setter
    def trust(self, trust: Trust) -> None:
        for batches, each in zip(self._batches, trust[0], strict=True):
            batches.trusted = each
        for t, each in trust[1].items():
            self._layer_batches.setdefault(t, Batches()).trusted = each

    def along(self, positions: Positions, rows: Array) -> Array:
        """The loss with all entries ``positions`` set to ``rows[j]`` together."""
        out: Array = np.empty(len(rows), self.result_dtype)
        groups = [(mine, *self._cells(t, positions[mine])) for t, mine in self._by_tensor(positions)]
        self._displaced = [(flat, cells, flat[cells]) for _, flat, cells in groups]
        moves = (rows != self.entries(positions)).any(axis=1)
        try:
            for j, row in enumerate(rows):
                for mine, flat, cells in groups:
                    flat[cells] = _tensor_like(flat, row[mine])
                out[j] = self._value_or_nan(moves[j], lambda: at_entries(self._layout, positions))
        finally:
            self._restore()
        return out

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        """The loss at ``distances`` along each direction, which its rays make together."""
        return np.stack([self.along_one(rays, distances) for rays in directions])

    def along_one(self, rays: Sequence[Ray], distances: Floats) -> Array:
        """The same for one direction."""
        out: Array = np.empty(distances.size, self.result_dtype)

        def where() -> Place:
            return along_direction(self._layout, rays, distance)

        places = [slice(ray.start, ray.start + ray.weights.size) for ray in rays]
        self._displaced = [
            (self._flat[ray.tensor], place, self._original(ray.tensor, place))
            for ray, place in zip(rays, places, strict=True)
        ]
        try:
            for j, distance in enumerate(distances.tolist()):
                for ray, (flat, place, original) in zip(rays, self._displaced, strict=True):
                    _write_displaced(flat[place], original, ray.weights, distance * ray.scale)
                out[j] = self._value_or_nan(distance != 0, where)
        finally:
            self._restore()
        return out

    def _original(self, t: int, place: slice) -> torch.Tensor:
        """Entries that are about to be displaced, in memory that stays as it is."""
        source = self._sources[t][place]
        return source.clone() if source.data_ptr() == self._flat[t][place].data_ptr() else source

    def entries(self, positions: Positions) -> Array:
        """The entries at ``positions``, as float64."""
        out: Array = np.empty(positions.size)
        for t, mine in self._by_tensor(positions):
            flat, cells = self._cells(t, positions[mine])
            out[mine] = _numbers(flat[cells].real)
        return out

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        """``displaced`` as the dtype of each entry's tensor can hold it."""
        result = displaced.copy()
        for t, mine in self._by_tensor(positions):
            if self._flat[t].dtype not in (torch.float64, torch.complex128):
                result[mine] = _numbers(torch.from_numpy(displaced[mine]).to(self._flat[t].dtype))
        return result

    def close(self) -> None:
        """Restore whatever is displaced."""
        self._restore()
        self.opened.close()

    # --- one call after another ---

    def _called(self) -> Any:
        self.evaluations += 1
        with torch.no_grad():
            return self._loss({}).item()

    def _in_time(self) -> None:
        if now() > self.deadline:
            raise OutOfTime

    def _value_or_nan(self, displaced: bool, where: Callable[[], Place]) -> Any:
        """The loss at the tensors as they are; nan if it raises, and ``where()`` gives the place for the note."""
        self._in_time()
        value, error = attempted(self._called)
        if error is not None:
            self.raised = self.raised.also(error, where)
        if value is None:
            return UNDEFINED[self.result_dtype]
        if displaced and not self.raised.answered:
            self.raised = replace(self.raised, answered=True)
        return value

    def _one_by_one(self, t: int, cells: Positions, entries: Array) -> Array:
        flat, out = self._flat[t], np.empty(entries.size, self.result_dtype)

        def where() -> Place:
            return at_entry(self._layout, int(self._layout.starts[t]) + cell, entry)

        for i, (cell, entry) in enumerate(zip(cells.tolist(), entries.tolist(), strict=True)):
            original = flat[cell].clone()
            self._displaced = [(flat, cell, original)]
            try:
                flat[cell] = entry
                out[i] = self._value_or_nan(self.raised.answered or bool(flat[cell] != original), where)
            finally:
                self._restore()
        return out

    def _restore(self) -> None:
        for flat, where, original in self._displaced:
            flat[where] = original  # perhaps in a lower precision
        self._displaced = []

    def _by_tensor(self, positions: Positions) -> Iterator[tuple[int, Positions]]:
        tensors = self._layout.tensor_of(positions)
        for t in distinct(tensors):
            yield int(t), np.flatnonzero(tensors == t)

    def _cells(self, t: int, positions: Positions) -> tuple[torch.Tensor, torch.Tensor]:
        flat = self._flat[t]
        return flat, torch.from_numpy(positions - self._layout.starts[t]).to(flat.device)

    # --- in batches ---

    def _batch_size(self, t: int) -> int:
        return min(_LARGEST_BATCH, BATCH_NUMBERS // max(1, self._layout.sizes[t], self._batching.footprint))

    def _layer_batch_size(self, t: int, count: int) -> int:
        """How many of ``count`` values are computed behind a layer at once, 0 for none."""
        if count < SMALLEST_BATCH or self._complex or t not in self._layers:
            return 0
        batches = self._layer_batches.setdefault(t, Batches())
        return self._layers[t].batch if batches.possible else 0

    @cached_property
    def _layers(self) -> Mapping[int, Layer]:
        self.evaluations += 1
        return self._batching.layers()

    def _values(self, t: int, cells: Positions, entries: Array) -> Array:
        found = self._behind_layer(t, cells, entries)
        if found is not None:
            return found
        size = max(1, self._batch_size(t))
        parts = [slice(begin, begin + size) for begin in range(0, cells.size, size)]
        return np.concatenate([self._with_batched_tensor(t, cells[part], entries[part]) for part in parts])

    def _behind_layer(self, t: int, cells: Positions, entries: Array) -> Array | None:
        """Values of entries displaced behind their layer; None where there is none, or where it is not trusted."""
        if self._layer_batch_size(t, entries.size) < SMALLEST_BATCH:
            return None
        self._in_time()
        return self._layer_batches[t].values(
            lambda: self._changed_outputs(t, cells, entries) if self._has_rules else None,
            lambda values: self._same(t, cells, entries, values),
        )

    def _changed_outputs(self, t: int, cells: Positions, entries: Array) -> Array:
        """Values computed as one batch, whose last member is the point itself."""
        lengths = entries - self.entries(self._layout.starts[t] + cells)
        values = self._layers[t].values(lambda: self._loss({}), np.append(cells, 0), np.append(lengths, 0.0))
        return self._of_batch(values)

    def _of_batch(self, values: torch.Tensor) -> Array:
        self.evaluations += len(values)
        self.raised = self.raised.joined(Raised(answered=True))
        return relative_to_point(_numbers(values), self.base)

    def _with_batched_tensor(self, t: int, cells: Positions, entries: Array) -> Array:
        if entries.size < SMALLEST_BATCH or self._batch_size(t) < SMALLEST_BATCH:
            return self._one_by_one(t, cells, entries)
        self._in_time()
        found = self._batches[t].values(
            lambda: self._together(t, cells, entries) if self._has_rules else None,
            lambda values: self._same(t, cells, entries, values),
        )
        return self._one_by_one(t, cells, entries) if found is None else found

    def _same(self, t: int, cells: Positions, entries: Array, values: Array) -> bool:
        """Whether plain calls give the same as some values of a batch."""
        some = spread(entries.size, COMPARED)
        plain = self._one_by_one(t, cells[some], entries[some])
        change = float(np.abs(plain - self.base).max())
        return agree(values[some], plain, torch.finfo(self._flat[t].dtype).eps, change=change)

    @cached_property
    def _has_rules(self) -> bool:
        self.evaluations += 1
        return has_rules(lambda: self._loss({}))

    def _together(self, t: int, cells: Positions, entries: Array) -> Array:
        """Values computed as one batch, whose last member is the point itself."""
        flat, count = self._flat[t], entries.size
        batch = flat.expand(count + 1, -1).clone()
        rows = torch.arange(count, device=flat.device)
        batch[rows, torch.from_numpy(cells).to(flat.device)] = _tensor_like(flat, entries)
        with torch.no_grad():
            values = torch.func.vmap(lambda one: self._loss({t: one}))(batch.view(count + 1, *self._layout.shapes[t]))
        return self._of_batch(values)


def footprint(call: Callable[[], object]) -> int:
    """About how many numbers a call computes: as many as it keeps for its gradient."""
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        call()
    return sum(sizes)


def _tensor_like(flat: torch.Tensor, numbers: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(device=flat.device, dtype=flat.dtype)


def _numbers(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.detach().cpu().to(torch.float64).numpy())


def _write_displaced(flat: torch.Tensor, original: torch.Tensor, weights: NDArray[np.int8], step: float) -> None:
    """Write ``original + step * weights``, block by block."""
    length = _DISPLACED_AT_ONCE if flat.device.type == "cpu" else _SENT_AT_ONCE
    for begin in range(0, weights.size, length):
        block = slice(begin, begin + length)
        direction = torch.from_numpy(weights[block]).to(flat.device).to(flat.dtype)
        torch.add(original[block].to(flat.device).to(flat.dtype), direction, alpha=step, out=flat[block])
