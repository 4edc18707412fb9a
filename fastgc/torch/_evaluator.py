"""Loss values around tensors, on the device where they are: one call after another, or many at once by vmap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastgc._evaluation.evaluator import (
    Place,
    Raised,
    Ray,
    Tick,
    WrongValueError,
    agree,
    along_direction,
    at_entries,
    at_entry,
)
from fastgc._parameters.arrays import Array, spread
from fastgc._parameters.layout import ParameterLayout
from fastgc.torch._rules import has_rules

Loss = Callable[[Mapping[int, torch.Tensor]], torch.Tensor]  # told which tensors, by number, to replace by others

_BLOCK = 1 << 17  # entries displaced at a time
_BATCH_ENTRIES = 1 << 20  # of a batch, and of what the loss computes for it: larger ones leave the cache
_MOST, _FEWEST = 256, 8  # values computed at once; fewer are not worth it
_TRIED = 6  # values computed both ways before the batched way is believed


class TorchEvaluator:
    """Displaces entries of ``tensors``, which the loss reads, and calls it.

    Values of one tensor's entries are computed together by `torch.func.vmap` where that gives the same values: not in
    functions that have no rule for it, that draw random numbers or whose control flow depends on values.

    Parameters
    ----------
    loss : callable
        ``loss(replaced)`` returns one value; without replacements that of the tensors as they are.
    tensors : sequence of contiguous tensors
        What is displaced, in the order of the layout.
    sources : sequence of tensors
        The same entries, from where they are restored; perhaps of a lower precision.
    base : float
        The loss of the tensors as they are.
    footprint : int
        About how many numbers the loss computes.
    """

    def __init__(
        self,
        loss: Loss,
        layout: ParameterLayout,
        tensors: Sequence[torch.Tensor],
        sources: Sequence[torch.Tensor],
        base: float,
        footprint: int,
    ) -> None:
        self.name, self.evaluations, self.raised = _name(tensors), 0, Raised()
        self._loss, self._layout, self._base, self._footprint = loss, layout, base, footprint
        self._flat = [tensor.detach().reshape(-1) for tensor in tensors]
        self._sources = [source.detach().reshape(-1) for source in sources]
        self._batched: dict[int, bool] = {}  # by tensor, whether its values can be computed together
        self._displaced: list[tuple[torch.Tensor, Any, torch.Tensor]] = []

    def value(self) -> float:
        """The loss at the point itself."""
        return self._called()

    def values(self, positions: NDArray[np.int64], displaced: Array, tick: Tick) -> Array:
        """The loss with entry ``positions[i]`` set to ``displaced[i, j]``."""
        out: Array = np.empty(displaced.shape)
        for t, mine in self._by_tensor(positions):
            cells = np.repeat(positions[mine] - self._layout.starts[t], displaced.shape[1])
            length = max(1, self._batch_size(t) // displaced.shape[1])
            entries, values = displaced[mine].reshape(-1), np.empty(cells.size)
            for begin in range(0, mine.size, length):
                chunk = slice(begin * displaced.shape[1], (begin + length) * displaced.shape[1])
                values[chunk] = self._values(t, cells[chunk], entries[chunk])
                tick(min(length, mine.size - begin))
            out[mine] = values.reshape(mine.size, -1)
        return out

    def along(self, positions: NDArray[np.int64], rows: Array) -> Array:
        """The loss with all entries ``positions`` set to ``rows[j]`` together."""
        out: Array = np.empty(len(rows))
        groups = [(mine, *self._cells(t, positions[mine])) for t, mine in self._by_tensor(positions)]
        self._displaced = [(flat, cells, flat[cells]) for _, flat, cells in groups]
        moves = (rows != self.entries(positions)).any(axis=1)
        try:
            for j, row in enumerate(rows):
                for mine, flat, cells in groups:
                    flat[cells] = _like(flat, row[mine])
                out[j] = self._value_or_nan(moves[j], lambda: at_entries(self._layout, positions))
        finally:
            self._restore()
        return out

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: NDArray[np.float64]) -> Array:
        """The loss at ``distances`` along each direction, which its rays make together."""
        return np.stack([self._along_one(rays, distances) for rays in directions])

    def _along_one(self, rays: Sequence[Ray], distances: NDArray[np.float64]) -> Array:
        out: Array = np.empty(distances.size)

        def where() -> Place:
            return along_direction(self._layout, rays, distance)

        places = [slice(ray.start, ray.start + ray.signs.size) for ray in rays]
        self._displaced = [
            (self._flat[ray.tensor], place, self._sources[ray.tensor][place])
            for ray, place in zip(rays, places, strict=True)
        ]
        try:
            for j, distance in enumerate(distances.tolist()):
                for ray, (flat, place, original) in zip(rays, self._displaced, strict=True):
                    _displace(flat[place], original, ray.signs, distance * ray.scale)
                out[j] = self._value_or_nan(distance != 0, where)
        finally:
            self._restore()
        return out

    def entries(self, positions: NDArray[np.int64]) -> Array:
        """The entries at ``positions``, as float64."""
        out: Array = np.empty(positions.size)
        for t, mine in self._by_tensor(positions):
            flat, cells = self._cells(t, positions[mine])
            out[mine] = _numbers(flat[cells])
        return out

    def rounded(self, positions: NDArray[np.int64], displaced: Array) -> Array:
        """``displaced`` as the dtype of each entry's tensor can hold it."""
        result = displaced.copy()
        for t, mine in self._by_tensor(positions):
            if self._flat[t].dtype != torch.float64:
                result[mine] = _numbers(torch.from_numpy(displaced[mine]).to(self._flat[t].dtype))
        return result

    def close(self) -> None:
        """Put back whatever is displaced."""
        self._restore()

    # --- one call after another ---

    def _called(self) -> float:
        self.evaluations += 1
        with torch.no_grad():
            return float(self._loss({}))

    def _value_or_nan(self, displaced: bool, where: Callable[[], Place]) -> float:
        """The loss as its tensors are, nan where it raises: ``where`` that is, is asked for then."""
        try:
            value = self._called()
        except WrongValueError:
            raise
        except Exception as error:
            self.raised = self.raised.also(error, where)
            return np.nan
        if displaced and not self.raised.answered:
            self.raised = replace(self.raised, answered=True)
        return value

    def _one_by_one(self, t: int, cells: NDArray[np.int64], entries: Array) -> Array:
        flat, out = self._flat[t], np.empty(entries.size)

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
            flat[where] = original  # of a lower precision, perhaps
        self._displaced = []

    def _by_tensor(self, positions: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        tensors = self._layout.tensor_of(positions)
        for t in np.unique(tensors):
            yield int(t), np.flatnonzero(tensors == t)

    def _cells(self, t: int, positions: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        flat = self._flat[t]
        return flat, torch.from_numpy(positions - self._layout.starts[t]).to(flat.device)

    # --- many at once ---

    def _batch_size(self, t: int) -> int:
        return min(_MOST, _BATCH_ENTRIES // max(1, self._layout.sizes[t], self._footprint))

    def _values(self, t: int, cells: NDArray[np.int64], entries: Array) -> Array:
        if entries.size < _FEWEST or self._batch_size(t) < _FEWEST:
            return self._one_by_one(t, cells, entries)
        if t not in self._batched:
            self._batched[t] = self._can_be_batched(t, cells, entries)
        if self._batched[t]:
            try:
                return self._together(t, cells, entries)
            except Exception:  # a matrix that cannot be factorised, say: among these values, but which?
                pass
        return self._one_by_one(t, cells, entries)

    def _can_be_batched(self, t: int, cells: NDArray[np.int64], entries: Array) -> bool:
        """Whether some values are the same both ways, so far as their change shows."""
        if not self._has_rules:
            return False
        some = spread(entries.size, _TRIED)
        plain = self._one_by_one(t, cells[some], entries[some])
        try:
            together = self._together(t, cells[some], entries[some])
        except Exception:
            return False
        same = agree(together, plain, self._base, torch.finfo(self._flat[t].dtype).eps)
        self.name = _name(self._flat, "vmap") if same else self.name
        return same

    @cached_property
    def _has_rules(self) -> bool:
        self.evaluations += 1
        return has_rules(lambda: self._loss({}))

    def _together(self, t: int, cells: NDArray[np.int64], entries: Array) -> Array:
        """Values computed as one batch, with the point itself as its last member.

        Batched arithmetic rounds in another order. What the last member deviates from the loss at the point by is taken
        off all values: a constant offset would look like a jump at the point.
        """
        flat, count = self._flat[t], entries.size
        batch = flat.expand(count + 1, -1).clone()
        rows = torch.arange(count, device=flat.device)
        batch[rows, torch.from_numpy(cells).to(flat.device)] = _like(flat, entries)
        self.evaluations += count + 1
        with torch.no_grad():
            values = torch.func.vmap(lambda one: self._loss({t: one}))(batch.view(count + 1, *self._layout.shapes[t]))
        numbers = _numbers(values)
        self.raised = self.raised.joined(Raised(answered=True))
        return np.asarray(numbers[:-1] - (numbers[-1] - self._base))


def footprint(call: Callable[[], Any]) -> int:
    """About how many numbers a call computes: those that it would keep for its gradient."""
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        call()
    return sum(sizes)


def _name(tensors: Sequence[torch.Tensor], *ways: str) -> str:
    return f"torch ({', '.join([*dict.fromkeys(str(tensor.device) for tensor in tensors), *ways])})"


def _like(flat: torch.Tensor, numbers: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(device=flat.device, dtype=flat.dtype)


def _numbers(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.detach().cpu().to(torch.float64).numpy())


def _displace(flat: torch.Tensor, original: torch.Tensor, signs: NDArray[np.int8], step: float) -> None:
    """Write ``original + step * signs``, block by block."""
    for begin in range(0, signs.size, _BLOCK):
        block = slice(begin, begin + _BLOCK)
        direction = torch.from_numpy(signs[block]).to(device=flat.device, dtype=flat.dtype)
        torch.add(original[block].to(flat.dtype), direction, alpha=step, out=flat[block])
