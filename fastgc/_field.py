"""A function of several outputs around a point: each output, or a weighted sum of them, is a loss of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._entries import Scene, open_scene
from fastgc._evaluate import Ray, Tick, outside_domain
from fastgc._layout import Array, ParameterLayout

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
Weights = int | Floats  # one output by its number, or a factor for every output


class Field:
    """Outputs at displaced inputs. Values that were had once are kept, since every output asks for the same ones.

    Parameters
    ----------
    function : callable
        ``function(x)`` gives the outputs, float64 of shape (m,), at a flat float64 copy of all inputs, shape (n,).
    layout, leaves : ParameterLayout, sequence of arrays
        The inputs as tensors, of the dtypes in which they are displaced.
    """

    def __init__(
        self, function: Callable[[Floats], Floats], layout: ParameterLayout, leaves: Sequence[Array], seed: int
    ) -> None:
        self.layout, self.leaves, self.seed, self.evaluations = layout, leaves, seed, 0
        self.point = np.concatenate([leaf.reshape(-1) for leaf in leaves]).astype(np.float64)
        self._function = function
        self._kept: dict[tuple[bytes, bytes], Floats] = {}
        self.scenes: dict[int, Scene] = {}  # of the outputs whose noise was measured so far
        self.base = self._called(self.point.copy())

    def kept(self, columns: Positions, rows: Floats) -> Floats:
        """What `outputs` gives, from memory where the same was asked for before."""
        key = (columns.tobytes(), rows.tobytes())
        if key not in self._kept:
            self._kept[key] = self.outputs(columns, rows)
        return self._kept[key]

    def forget(self) -> None:
        """Free what was kept."""
        self._kept.clear()

    def rounded(self, columns: Positions, displaced: Floats) -> Floats:
        """``displaced``, shape (columns, k), as each input's dtype can hold it."""
        result = displaced.copy()
        tensors = self.layout.tensor_of(columns)
        for t, leaf in enumerate(self.leaves):
            if leaf.dtype != np.float64:
                result[tensors == t] = displaced[tensors == t].astype(leaf.dtype)
        return result

    def scene(self, weights: Weights) -> Scene:
        """One output, or a weighted sum of outputs, as a loss, with its noise measured."""
        if isinstance(weights, int) and weights in self.scenes:
            return self.scenes[weights]
        component = Component(self, weights)
        tensors = range(len(self.leaves))
        scene = open_scene(component, self.layout, self.leaves, tensors, component.value(), self.seed)
        if isinstance(weights, int):
            self.scenes[weights] = scene
        return scene

    def outputs(self, columns: Positions, rows: Floats) -> Floats:
        """Outputs with the inputs ``columns`` set to ``rows[k]`` together, shape (k, m); NaN where not defined."""
        out = np.empty((len(rows), self.base.size))
        for k, row in enumerate(rows):
            x = self.point.copy()
            x[columns] = row
            try:
                with np.errstate(all="ignore"):  # log(-1e-7) beside the point is an answer, not a warning
                    out[k] = self._called(x)
            except Exception as error:
                if not outside_domain(error):
                    raise
                out[k] = np.nan
        return out

    def along(self, rays: Sequence[Ray], distances: Floats) -> Floats:
        """Outputs at ``distances`` along the direction that all rays make together, shape (k, m)."""
        columns, lengths = self.direction(rays)
        return self.outputs(columns, self.point[columns] + distances[:, None] * lengths)

    def direction(self, rays: Sequence[Ray]) -> tuple[Positions, Floats]:
        """The inputs that rays displace, and by how much at a distance of 1."""
        first = [int(self.layout.starts[ray.tensor]) + ray.start for ray in rays]
        columns = [start + np.arange(ray.signs.size) for start, ray in zip(first, rays, strict=True)]
        return np.concatenate(columns), np.concatenate([ray.scale * ray.signs for ray in rays])

    def _called(self, x: Floats) -> Floats:
        self.evaluations += 1
        return self._function(x)


class Component:
    """One output of a field, or a weighted sum of all, as an `Evaluator` serves it."""

    name = "python"

    def __init__(self, field: Field, weights: Weights) -> None:
        self._field, self._weights = field, weights

    @property
    def evaluations(self) -> int:
        return self._field.evaluations

    def value(self) -> Any:
        return float(self._of(self._field.base[None, :])[0])

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        lines = [self._of(self._field.kept(positions[i : i + 1], row[:, None])) for i, row in enumerate(displaced)]
        tick(positions.size)
        return np.array(lines).reshape(displaced.shape)

    def along(self, positions: Positions, rows: Array) -> Array:
        return self._of(self._field.kept(positions, rows))

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        return np.stack([self._of(self._field.along(rays, distances)) for rays in directions])

    def entries(self, positions: Positions) -> Array:
        return self._field.point[positions]

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        return self._field.rounded(positions, displaced)

    def close(self) -> None:
        """Nothing is displaced: every evaluation has inputs of its own."""

    def _of(self, outputs: Floats) -> Floats:
        return outputs[:, self._weights] if isinstance(self._weights, int) else outputs @ self._weights
