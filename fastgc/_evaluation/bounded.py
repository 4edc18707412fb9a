"""An evaluator that never leaves the bounds of the parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastgc._evaluation.evaluator import UNDEFINED, Evaluator, Ray, Stopped, Tick
from fastgc._evaluation.wrapped import WrappedEvaluator
from fastgc._parameters.arrays import Array, Positions
from fastgc._parameters.bounds import Bounds
from fastgc._parameters.layout import ParameterLayout


class BoundedEvaluator(WrappedEvaluator):
    """Another evaluator, asked for points inside the bounds only.

    Outside a single entry's bounds the loss counts as not defined: its value is nan, and the loss is called at the
    point itself instead. Entries that would leave their bounds together with others move inwards, so that
    the loss shows its noise there.
    """

    def __init__(self, inner: Evaluator, bounds: Bounds, layout: ParameterLayout) -> None:
        super().__init__(inner)
        self.bounds, self._layout = bounds, layout

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """As `Evaluator.values`; nan outside."""
        inside = self.bounds.contain(positions, displaced)
        if inside.all():
            return self.inner.values(positions, displaced, tick)
        here = self.entries(positions)[:, None]
        try:
            values = np.array(self.inner.values(positions, np.where(inside, displaced, here), tick))
        except Stopped as stopped:
            if stopped.values is not None:
                stopped.values[~inside] = np.nan
            raise
        values[~inside] = UNDEFINED[values.dtype.type]
        return values

    def along(self, positions: Positions, rows: Array) -> Array:
        """As `Evaluator.along`; entries that would leave their bounds in any row move inwards in all."""
        return self.inner.along(positions, self.bounds.folded(positions, self.entries(positions), rows))

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array:
        """As `Evaluator.along_rays`; nan at distances at which an entry would leave its bounds."""
        allowed = np.array([[self._contains(rays, each) for each in distances] for rays in directions])
        inside = distances[allowed.all(axis=0)]
        found = self.inner.along_rays(directions, inside) if inside.size else np.empty((len(directions), 0))
        values = np.full((len(directions), distances.size), np.nan, found.dtype)
        values[:, allowed.all(axis=0)] = found
        return values

    def _contains(self, rays: Sequence[Ray], distance: complex) -> bool:
        """Whether all entries stay inside at that distance."""
        for ray in rays:
            start = int(self._layout.starts[ray.tensor]) + ray.start
            positions = np.arange(start, start + ray.weights.size)
            moved = self.entries(positions) + distance * ray.scale * ray.weights
            if not self.bounds.contain(positions, moved).all():
                return False
        return True
