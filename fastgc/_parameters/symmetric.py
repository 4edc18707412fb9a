"""Symmetric matrices among the parameters: entries [i, j] and [j, i] are one parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastgc._parameters.arrays import Array, Flags, Positions, distinct
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.sampling import selected

# Relative difference of mirrored entries: a covariance computed as A.T @ A is symmetric but for round-off.
_ROUND_OFF = 1e-8


@dataclass(frozen=True)
class Symmetric:
    """Which tensors are symmetric in their last two axes.

    Attributes
    ----------
    tensors : their numbers
    """

    layout: ParameterLayout
    tensors: tuple[int, ...]

    def mirrored(self, positions: Positions) -> Positions:
        """The position of [..., j, i] for every position of [..., i, j]; the same for other tensors."""
        found = positions.copy()
        owners = self.layout.tensor_of(positions)
        for t in self.tensors:
            mine, shape, start = owners == t, self.layout.shapes[t], self.layout.starts[t]
            index = list(np.unravel_index(positions[mine] - start, shape))
            index[-2], index[-1] = index[-1], index[-2]
            found[mine] = start + np.ravel_multi_index(tuple(index), shape)
        return found

    def repeated(self, tensor: int) -> Flags | None:
        """The entries above the diagonal, which are those below it once more; None in another tensor."""
        if tensor not in self.tensors:
            return None
        shape = self.layout.shapes[tensor]
        above = np.triu(np.ones(shape[-2:], bool), 1)
        return np.broadcast_to(above, shape).reshape(-1)

    def chosen(self, tensor: int, local: Positions) -> Positions:
        """Sorted positions inside a tensor, each pair of mirrored entries once, by the one below the diagonal."""
        if tensor not in self.tensors:
            return local
        start = int(self.layout.starts[tensor])
        index = np.unravel_index(local, self.layout.shapes[tensor])
        above = index[-2] < index[-1]
        return distinct(np.where(above, self.mirrored(local + start) - start, local))

    def folded(self, gradients: Sequence[Array]) -> list[Array]:
        """Flat gradients; of a symmetric tensor the derivative by each pair, g[i, j] + g[j, i], at both entries.

        That is right for the gradient by all entries as if they were independent, and for one of the derivatives by
        the pairs whose other triangle is zero.
        """
        found = list(gradients)
        for t in self.tensors:
            square = found[t].reshape(self.layout.shapes[t])
            both = square + np.swapaxes(square, -1, -2)
            diagonal = np.arange(square.shape[-1])
            both[..., diagonal, diagonal] = square[..., diagonal, diagonal]
            found[t] = both.reshape(-1)
        return found

    def convention(self, tensor: int, gradient: Array) -> str:
        """A note on how the analytic gradient of a symmetric tensor was read."""
        square = gradient.reshape(self.layout.shapes[tensor])
        upper, lower = (np.any(each(square, k)) for each, k in ((np.triu, 1), (np.tril, -1)))
        name = self.layout.names[tensor]
        read = "the full gradient: analytic[i, j] + analytic[j, i]"
        if upper != lower:
            read = f"the {'lower' if lower else 'upper'} triangle, one derivative for each pair"
        return f"{name!r} is symmetric: entries [i, j] and [j, i] are displaced together and compared with {read}"

    def symmetrised(self, leaves: Sequence[Array]) -> list[Array]:
        """Arrays whose symmetric tensors have the entries below the diagonal above it, too."""
        found = list(leaves)
        for t in self.tensors:
            lower = np.tril(found[t])
            found[t] = lower + np.swapaxes(np.tril(found[t], -1), -1, -2)
        return found


def parse_symmetric(
    symmetric: str | Sequence[str] | None, layout: ParameterLayout, leaves: Sequence[Array]
) -> Symmetric | None:
    """The tensors that the names or patterns select.

    Raises
    ------
    TypeError, ValueError
        For names that select nothing, tensors whose last two axes differ, and values that are not symmetric.
    """
    if symmetric is None:
        return None
    names = selected(symmetric, layout.names, "symmetric")
    for name, shape, leaf in zip(layout.names, layout.shapes, leaves, strict=True):
        if name not in names:
            continue
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ValueError(f"symmetric names {name!r} of shape {shape}; its last two axes must be of one length")
        other = np.swapaxes(leaf, -1, -2)
        if not np.allclose(leaf, other, rtol=_ROUND_OFF, atol=_ROUND_OFF * float(np.abs(leaf).max(initial=0.0))):
            raise ValueError(f"symmetric names {name!r}, which is not: [i, j] and [j, i] differ by more than round-off")
    return Symmetric(layout, tuple(t for t, name in enumerate(layout.names) if name in names))
