"""An evaluator that displaces the mirrored entries of symmetric matrices together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastgc._evaluation.evaluator import Evaluator, Ray, Tick
from fastgc._evaluation.wrapped import WrappedEvaluator
from fastgc._parameters.arrays import Array, Positions
from fastgc._parameters.symmetric import Symmetric


class SymmetricEvaluator(WrappedEvaluator):
    """Another evaluator, asked for symmetric displacements only."""

    def __init__(self, inner: Evaluator, symmetric: Symmetric) -> None:
        super().__init__(inner)
        self._symmetric = symmetric

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """As `Evaluator.values`; of [i, j] both it and [j, i] are set."""
        other = self._symmetric.mirrored(positions)
        single = other == positions
        alone = self.inner.values(positions[single], displaced[single], tick)
        found = np.empty(displaced.shape, alone.dtype)
        found[single] = alone
        for i in np.flatnonzero(~single).tolist():
            pair = np.array([positions[i], other[i]])
            found[i] = self.inner.along(pair, np.stack([displaced[i]] * 2, axis=1))
            tick(1)
        return found

    def along(self, positions: Positions, rows: Array) -> Array:
        """As `Evaluator.along`; where both entries of a pair are given, the first counts."""
        first = np.unique(np.minimum(positions, self._symmetric.mirrored(positions)), return_index=True)[1]
        chosen, values = positions[first], rows[:, first]
        other = self._symmetric.mirrored(chosen)
        pairs = other != chosen
        return self.inner.along(np.concatenate([chosen, other[pairs]]), np.hstack([values, values[:, pairs]]))

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array:
        """As `Evaluator.along_rays`; entries above the diagonal follow those below it."""
        return np.array([self._along_one(rays, distances) for rays in directions]).reshape(-1, distances.size)

    def _along_one(self, rays: Sequence[Ray], distances: Array) -> Array:
        starts = self._symmetric.layout.starts
        positions = np.concatenate([starts[ray.tensor] + ray.start + np.arange(ray.weights.size) for ray in rays])
        lengths = np.concatenate([ray.scale * ray.weights for ray in rays])
        moved = lengths != 0
        positions, lengths = positions[moved], lengths[moved]
        rows = self.entries(positions) + distances[:, None] * lengths
        return self.along(positions, self.rounded(positions, rows.T).T)
