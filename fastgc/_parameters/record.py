"""Parameters by name over one buffer: what a jitted function receives."""

from __future__ import annotations

import itertools
from collections.abc import ItemsView, Iterator, KeysView, Sequence, ValuesView
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import brief, listed
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array, DType
from fastgc._parameters.layout import Branch, Node, ParameterLayout, same_tuple

_WORD = 8  # bytes: every tensor begins at a multiple of it, as an array of float64 needs


@dataclass(frozen=True)
class RecordTree:
    """What the compiler knows of a record: names, numbers of dimensions and dtypes, but no sizes."""

    node: Node
    leaves: tuple[tuple[int, str], ...]  # number of dimensions and dtype of every tensor of the whole buffer

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """The place in the table where each tensor's row begins; a row holds one byte offset, then the shape."""
        return tuple(itertools.accumulate([1 + ndim for ndim, _ in self.leaves], initial=0))

    def child(self, node: Node) -> RecordTree:
        """The tree of an inner node or of a leaf, which shares the rows."""
        tree = RecordTree(node, self.leaves)
        tree.__dict__["rows"] = self.rows  # as `cached_property` keeps them
        return tree


class Record:
    """Named arrays over one shared buffer, read as ``r["W1"]`` in Python and in nopython code.

    Parameters
    ----------
    buffer : array of uint8, shape (bytes,)
        The entries of all arrays, one array after the other, each in C order.
    table : array of int64
        A row for each array: its byte offset in the buffer, then its shape.
    tree : RecordTree
        Names, dimensions and dtypes.
    """

    __slots__ = ("__weakref__", "_children", "_numba_type_", "buffer", "table", "tree")
    _numba_type_: Any  # set when a jitted function first receives this record

    def __init__(self, buffer: NDArray[np.uint8], table: NDArray[np.int64], tree: RecordTree) -> None:
        assert isinstance(tree.node, Branch)
        self.buffer, self.table, self.tree = buffer, table, tree
        self._children = dict(zip(tree.node.names, _children(buffer, table, tree, tree.node), strict=True))

    def __getitem__(self, name: str) -> Any:
        return self._children[name]

    def __getattr__(self, name: str) -> Any:
        """A field of a dataclass or an attrs class, as in ``params.W``."""
        if name.startswith("__") or name == "_numba_type_":  # Numba asks until it is set, and drops the message
            raise AttributeError(name)
        if self.tree.node.template is not None and name in self._children:  # type: ignore[union-attr]
            return self._children[name]
        raise AttributeError(f"{self!r} has no attribute {name!r}")

    def __contains__(self, name: object) -> bool:
        return name in self._children

    def __iter__(self) -> Iterator[str]:
        return iter(self._children)

    def __len__(self) -> int:
        return len(self._children)

    def keys(self) -> KeysView[str]:
        """The names, in the order of the parameters."""
        return self._children.keys()

    def values(self) -> ValuesView[object]:
        """The arrays, views of the buffer, in the order of the parameters."""
        return self._children.values()

    def items(self) -> ItemsView[str, object]:
        """Pairs of a name and its array."""
        return self._children.items()

    def __repr__(self) -> str:
        return brief(f"<record of {listed([*self])}") + ">"


def over_buffer(buffer: NDArray[np.uint8], table: NDArray[np.int64], tree: RecordTree) -> Any:
    """Views of the buffer in the structure of the tree: a `Record` for each dict, a tuple for each list or tuple."""
    if isinstance(tree.node, int):
        return _leaf(buffer, table, tree, tree.node)
    if tree.node.is_dict:
        return Record(buffer, table, tree)
    children = _children(buffer, table, tree, tree.node)
    return same_tuple(tree.node, children) if tree.node.names else tuple(children)


def _children(buffer: NDArray[np.uint8], table: NDArray[np.int64], tree: RecordTree, node: Branch) -> list[Any]:
    return [
        _leaf(buffer, table, tree, child) if isinstance(child, int) else over_buffer(buffer, table, tree.child(child))
        for child in node.children
    ]


def _leaf(buffer: NDArray[np.uint8], table: NDArray[np.int64], tree: RecordTree, leaf: int) -> Array:
    ndim, dtype = tree.leaves[leaf]
    row = tree.rows[leaf]
    start, *shape = table[row : row + 1 + ndim].tolist()
    return np.ndarray(shape, dtype, buffer, start)


@dataclass(frozen=True)
class Storage:
    """One buffer with a copy of all parameters, and the views that the loss and the loops need.

    Attributes
    ----------
    offsets : array of int64, shape (tensors,)
        The byte at which each tensor begins.
    leaves : tuple of arrays
        Views of the buffer, each in the shape of its tensor.
    """

    buffer: NDArray[np.uint8]
    table: NDArray[np.int64]
    tree: RecordTree
    offsets: NDArray[np.int64]
    leaves: tuple[Array, ...]

    def record(self) -> Any:
        """The parameters as a jitted function receives them, each time the same."""
        return self._record

    @cached_property
    def _record(self) -> object:
        return over_buffer(self.buffer, self.table, self.tree)

    def copied(self) -> Storage:
        """The same in another buffer."""
        buffer, offsets = self.buffer.copy(), self.offsets.tolist()
        views = [np.ndarray(leaf.shape, leaf.dtype, buffer, at) for leaf, at in zip(self.leaves, offsets, strict=True)]
        return replace(self, buffer=buffer, leaves=tuple(views))


def store(layout: ParameterLayout, leaves: Sequence[Array], dtypes: Sequence[DType]) -> Storage:
    """Copy the leaves, cast to ``dtypes``, into one new buffer."""
    sizes = [-(-leaf.size * dtype.itemsize // _WORD) * _WORD for leaf, dtype in zip(leaves, dtypes, strict=True)]
    offsets = [*itertools.accumulate(sizes, initial=0)]
    rows = [[offset, *leaf.shape] for offset, leaf in zip(offsets, leaves, strict=False)]
    buffer = np.empty(offsets[-1], np.uint8)
    table = np.array([number for row in rows for number in row], np.int64)
    kinds = tuple((leaf.ndim, dtype.char) for leaf, dtype in zip(leaves, dtypes, strict=True))
    places = zip(leaves, dtypes, offsets, strict=False)
    views = tuple([np.ndarray(leaf.shape, dtype, buffer, offset) for leaf, dtype, offset in places])
    for view, leaf in zip(views, leaves, strict=True):
        view[...] = leaf
    return Storage(buffer, table, RecordTree(layout.structure, kinds), np.array(offsets[:-1], np.int64), views)
