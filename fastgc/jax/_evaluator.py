"""Loss values of a JAX function: by one compiled call after another, or in blocks by vmap."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fastgc._evaluation.batches import COMPARED, Batches, agree, relative_to_point
from fastgc._evaluation.evaluator import OutOfTime, Raised, Ray, Tick, silent
from fastgc._evaluation.python import PythonEvaluator
from fastgc._evaluation.working_time import now
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array, Floats, Positions, spread
from fastgc._parameters.layout import ParameterLayout

Leaf: TypeAlias = jax.Array | Array
Leaves: TypeAlias = Sequence[Leaf]
LossOfLeaves: TypeAlias = Callable[[Leaves], ArrayLike]
Result = TypeVar("Result")
Block: TypeAlias = Callable[[Leaf, Positions, Floats], jax.Array]  # from the flat point, positions and entries

_COMPILED_FROM = 2048  # values asked for together: compiling a block takes as long as some thousand compiled calls
_LARGEST_BLOCK, _SMALLEST_BLOCK = 64, 8  # values; the block is padded to its size, so a large one wastes more
_BLOCK_NUMBERS = 1 << 19  # parameters and intermediate results of a block: 4 MiB, which stay in the cache


class JaxEvaluator:
    """Displaces entries of NumPy arrays and hands them to the loss, compiled where JAX can do that.

    Many values of single entries are computed in blocks by `jax.vmap`, with one compiled function for all tensors.

    Parameters
    ----------
    loss : callable
        ``loss(leaves)`` returns one value; it is traced, or called as it is where it cannot be.
    leaves : sequence of arrays
        The arrays that are displaced, in the order of the layout and in the dtypes that the loss receives.
    deadline : float
        See `PythonEvaluator`.
    """

    def __init__(
        self, loss: LossOfLeaves, layout: ParameterLayout, leaves: Sequence[Array], deadline: float = math.inf
    ) -> None:
        self._loss, self._layout, self._leaves, self._deadline = loss, layout, leaves, deadline
        self.opened = contextlib.ExitStack()  # closed together with the evaluator
        call, self._compiled = compiled(loss, leaves)
        self._direct = PythonEvaluator(call, leaves, (), layout, leaves, None, deadline)
        self.base = self._direct.value()
        self._unfinished: Array | None = None
        self._batches, self._in_blocks = Batches(possible=self._compiled and not self._is_complex), 0

    @property
    def name(self) -> str:
        """The backend, and "vmap" where values were computed in blocks."""
        return f"jax ({jax.default_backend()}{', vmap' if self._batches.used else ''})"

    @property
    def evaluations(self) -> int:
        """The number of values computed so far, alone or in a block."""
        return self._direct.evaluations + self._in_blocks

    @property
    def raised(self) -> Raised:
        """What the loss raised at displaced points so far; exceptions inside blocks do not count."""
        return self._direct.raised.joined(Raised(answered=self._in_blocks > 0))

    @property
    def unfinished(self) -> Array | None:
        """As that of a `PythonEvaluator`."""
        return self._direct.unfinished if self._unfinished is None else self._unfinished

    def value(self) -> Any:
        """The loss at the point itself."""
        return self._direct.value()

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """The loss with entry ``positions[i]`` set to ``displaced[i, j]``."""
        columns = displaced.shape[1]
        if displaced.size < _COMPILED_FROM or self._block_size <= columns:
            self._unfinished = None
            return self._direct.values(positions, displaced, tick)
        length = (self._block_size - 1) // columns
        out = self._unfinished = np.full(displaced.shape, np.nan)
        for begin in range(0, positions.size, length):
            chunk = slice(begin, begin + length)
            out[chunk] = self._chunk(positions[chunk], displaced[chunk], tick)
        return out

    def along(self, positions: Positions, rows: Array) -> Array:
        """The loss with all entries ``positions`` set to ``rows[j]`` together."""
        return self._direct.along(positions, rows)

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        """The loss at ``distances`` along each direction, which its rays make together."""
        return self._direct.along_rays(directions, distances)

    def entries(self, positions: Positions) -> Array:
        """The entries at ``positions``, as float64."""
        return self._direct.entries(positions)

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        """``displaced`` as the dtype of each entry's tensor can hold it."""
        return self._direct.rounded(positions, displaced)

    def close(self) -> None:
        """Restore whatever is displaced."""
        self._direct.close()
        self.opened.close()

    # --- in blocks ---

    def _chunk(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """The values of `values` that fit into one block."""
        if now() > self._deadline:
            raise OutOfTime
        found = self._batches.values(
            lambda: self._together(positions, displaced), lambda values: self._same(positions, displaced, values)
        )
        if found is None:
            return self._direct.values(positions, displaced, tick)
        tick(positions.size)
        return found

    def _same(self, positions: Positions, displaced: Array, values: Array) -> bool:
        """Whether plain calls give the same as some values of a block."""
        some = spread(positions.size, COMPARED)
        plain = self._direct.values(positions[some], displaced[some, :1], silent)[:, 0]
        eps = max(float(np.finfo(leaf.dtype).eps) for leaf in self._leaves)
        return agree(values[some, 0], plain, eps, change=float(np.abs(plain - self.base).max()))

    @property
    def _is_complex(self) -> bool:
        """Whether entries are displaced along the imaginary axis; blocks are of real numbers."""
        return any(leaf.dtype.kind == "c" for leaf in self._leaves)

    @cached_property
    def _block_size(self) -> int:
        """Values in a block, by the memory that one call takes; 0 where there is none."""
        if not self._compiled or self._is_complex:
            return 0
        try:
            used = jax.jit(self._at).lower(self._flat(), 0, 0.0).compile().memory_analysis()
        except Exception:  # no memory, say
            return 0
        needed = max(1, self._layout.size, getattr(used, "temp_size_in_bytes", 0) // 8)
        size = min(_LARGEST_BLOCK, _BLOCK_NUMBERS // needed)
        return size if size >= _SMALLEST_BLOCK else 0

    @cached_property
    def _block(self) -> Block:
        block: Block = jax.jit(jax.vmap(self._at, (None, 0, 0)))
        return block

    def _at(self, flat: jax.Array, position: ArrayLike, entry: ArrayLike) -> ArrayLike:
        moved = flat.at[position].set(entry)
        starts = self._layout.starts.tolist()
        pairs = zip(starts, starts[1:], self._leaves, strict=False)
        return self._loss([moved[i:j].reshape(leaf.shape).astype(leaf.dtype) for i, j, leaf in pairs])

    def _flat(self) -> Array:
        return np.concatenate([leaf.reshape(-1) for leaf in self._leaves])

    def _together(self, positions: Positions, displaced: Array) -> Array:
        """Values from one block, whose other members, the last of all, are the point itself."""
        flat = self._flat()
        cells, entries = np.zeros(self._block_size, np.int64), np.full(self._block_size, flat[0])
        cells[: displaced.size] = np.repeat(positions, displaced.shape[1])
        entries[: displaced.size] = displaced.reshape(-1)
        values = np.asarray(self._block(flat, cells, entries), np.float64).reshape(-1)
        self._in_blocks += displaced.size + 1
        return relative_to_point(values, self.base)[: displaced.size].reshape(displaced.shape)


def compiled(function: Callable[[Leaves], Result], leaves: Leaves) -> tuple[Callable[[Leaves], Result], bool]:
    """A function compiled, or as it is if it cannot be traced (it looks at values, say), and whether it is compiled."""
    traced = jax.jit(function)
    try:
        traced(list(leaves))
    except Exception:  # if the function itself raises this, it raises it again when it is called
        return _as_it_is(function), False
    return (lambda arrays: traced(list(arrays))), True


def _as_it_is(function: Callable[[Leaves], Result]) -> Callable[[Leaves], Result]:
    """A function called without being traced, with arrays of JAX."""
    return lambda leaves: function([jnp.array(leaf) for leaf in leaves])


@contextlib.contextmanager
def compiled_once(function: Callable[[Leaves], Result]) -> Iterator[Callable[[Leaves], Result]]:
    """A function for calls at a few points, compiled once for all of them.

    Where it cannot be traced, or raises, it is called as it is: what it raises is what the caller sees. At the end
    nothing compiled is left: JAX (0.10) takes integers of a function traced while ``jax_enable_x64`` was on for 64 bits
    when it is off, in other functions, too, for as long as the traced one lives.
    """
    kept: list[Callable[[Leaves], Result]] = [jax.jit(function), _as_it_is(function)]
    del function  # the last reference to it goes at the end

    def call(leaves: Leaves) -> Result:
        traced, plain = kept
        try:
            return traced(list(leaves))
        except Exception:
            return plain(leaves)

    try:
        yield call
    finally:
        kept.clear()
