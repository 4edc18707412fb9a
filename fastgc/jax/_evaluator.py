"""Loss values of a JAX function: one compiled call after another, or blocks of them by vmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fastgc._evaluation.evaluator import Raised, Ray, Tick, agree, silent
from fastgc._evaluation.python import PythonEvaluator
from fastgc._parameters.arrays import Array, spread
from fastgc._parameters.layout import ParameterLayout

Leaves = Sequence[Any]
Loss = Callable[[Leaves], Any]

_PAYS = 2048  # values asked for at once that are worth compiling a block
_MOST, _FEWEST = 64, 8  # values in a block
_BLOCK_ENTRIES = 1 << 19  # of parameters and intermediate results in a block: larger ones leave the cache
_TRIED = 6  # values computed both ways before the block is believed


class JaxEvaluator:
    """Displaces entries of NumPy arrays and hands them to the loss, compiled where JAX can do that.

    Many values of single entries are computed in blocks by `jax.vmap`, from one compiled function for all tensors,
    where that gives the same values.

    Parameters
    ----------
    loss : callable
        ``loss(leaves)`` returns one value; it is traced, or called as it is where it cannot be.
    leaves : sequence of arrays
        What is displaced, in the order of the layout and in the dtypes that the loss receives.
    """

    def __init__(self, loss: Loss, layout: ParameterLayout, leaves: Sequence[Array]) -> None:
        self._loss, self._layout, self._leaves = loss, layout, leaves
        call, self._compiled = compiled(loss, leaves)
        self._direct = PythonEvaluator(call, leaves, (), layout, leaves, None)
        self.base = self._direct.value()
        self._block: Callable[..., Any] | None = None
        self._size: int = 0 if self._compiled else -1  # of a block; 0: not known yet, -1: there is none
        self._in_blocks = 0
        self.name = f"jax ({jax.default_backend()})"

    @property
    def evaluations(self) -> int:
        """How often the loss was called so far, alone or in a block."""
        return self._direct.evaluations + self._in_blocks

    @property
    def raised(self) -> Raised:
        """What the loss raised at displaced points so far; in a block it raises nothing that counts."""
        return self._direct.raised.joined(Raised(answered=self._in_blocks > 0))

    def value(self) -> Any:
        """The loss at the point itself."""
        return self._direct.value()

    def values(self, positions: NDArray[np.int64], displaced: Array, tick: Tick) -> Array:
        """The loss with entry ``positions[i]`` set to ``displaced[i, j]``."""
        if displaced.size < _PAYS or not self._has_block(positions, displaced):
            return self._direct.values(positions, displaced, tick)
        out, columns = np.empty(displaced.shape), displaced.shape[1]
        together = (self._size - 1) // columns
        for begin in range(0, positions.size, together):
            chunk = slice(begin, begin + together)
            cells, entries = np.repeat(positions[chunk], columns), displaced[chunk].reshape(-1)
            try:
                out[chunk] = self._together(cells, entries).reshape(-1, columns)
                tick(entries.size // columns)
            except Exception:  # of a callback, say: at one of these points, but which?
                out[chunk] = self._direct.values(positions[chunk], displaced[chunk], tick)
        return out

    def along(self, positions: NDArray[np.int64], rows: Array) -> Array:
        """The loss with all entries ``positions`` set to ``rows[j]`` together."""
        return self._direct.along(positions, rows)

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: NDArray[np.float64]) -> Array:
        """The loss at ``distances`` along each direction, which its rays make together."""
        return self._direct.along_rays(directions, distances)

    def entries(self, positions: NDArray[np.int64]) -> Array:
        """The entries at ``positions``, as float64."""
        return self._direct.entries(positions)

    def rounded(self, positions: NDArray[np.int64], displaced: Array) -> Array:
        """``displaced`` as the dtype of each entry's tensor can hold it."""
        return self._direct.rounded(positions, displaced)

    def close(self) -> None:
        """Put back whatever is displaced."""
        self._direct.close()

    # --- in blocks ---

    def _has_block(self, positions: NDArray[np.int64], displaced: Array) -> bool:
        """Whether values can be had in blocks; found out by trying, when they are first asked for."""
        if self._size == 0:
            try:
                self._size = self._tried_block(positions, displaced)
            except Exception:  # no rule for vmap, a callback, no memory: one after the other, then
                self._size = -1
            self.name = f"jax ({jax.default_backend()}, vmap)" if self._size > 0 else self.name
        return bool(self._size > displaced.shape[1])

    def _tried_block(self, positions: NDArray[np.int64], displaced: Array) -> int:
        """The size of a block, or -1 where some of its values are not those computed one by one."""
        self._size = self._open_block()
        if self._size < _FEWEST:
            return -1
        some = spread(positions.size, _TRIED)
        single = self._direct.values(positions[some], displaced[some, :1], silent)[:, 0]
        together = self._together(positions[some], displaced[some, 0])
        eps = max(float(np.finfo(leaf.dtype).eps) for leaf in self._leaves)
        return self._size if agree(together, single, self.base, eps) else -1

    def _open_block(self) -> int:
        """Compile a block as large as the memory that one call takes suggests; its size."""
        used = jax.jit(self._at).lower(self._flat(), 0, 0.0).compile().memory_analysis()
        needed = max(1, self._layout.size, getattr(used, "temp_size_in_bytes", 0) // 8)
        self._block = jax.jit(jax.vmap(self._at, (None, 0, 0)))
        return min(_MOST, _BLOCK_ENTRIES // needed)

    def _at(self, flat: Any, position: Any, entry: Any) -> Any:
        moved = flat.at[position].set(entry)
        starts = self._layout.starts.tolist()
        pairs = zip(starts, starts[1:], self._leaves, strict=False)
        return self._loss([moved[i:j].reshape(leaf.shape).astype(leaf.dtype) for i, j, leaf in pairs])

    def _flat(self) -> Array:
        return np.concatenate([leaf.reshape(-1) for leaf in self._leaves])

    def _together(self, cells: NDArray[np.int64], entries: Array) -> Array:
        """Values from one block, whose other members, the last of all, are the point itself.

        What the last one deviates from the loss at the point by, for the other order of rounding, is taken off all
        values: a constant offset would look like a jump at the point.
        """
        assert self._block is not None
        flat = self._flat()
        positions, members = np.zeros(self._size, np.int64), np.full(self._size, flat[0])
        positions[: cells.size], members[: cells.size] = cells, entries
        values = np.asarray(self._block(flat, positions, members), np.float64).reshape(-1)
        self._in_blocks += cells.size + 1
        return np.asarray(values[: cells.size] - (values[-1] - self.base))


def compiled(function: Callable[[Leaves], Any], leaves: Leaves) -> tuple[Callable[[Leaves], Any], bool]:
    """A function compiled, or as it is where it cannot be traced (it looks at values, say), and whether it is."""
    traced = jax.jit(function)
    try:
        traced(list(leaves))
    except Exception:  # if the function itself raises this, it will again
        return (lambda arrays: function([jnp.array(array) for array in arrays])), False
    return (lambda arrays: traced(list(arrays))), True
