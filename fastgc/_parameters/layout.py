"""How nested parameters lie in one flat vector: names, shapes, offsets, and the way back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_BRIEF = 150  # characters that fit on a line of a terminal or a notebook
_BLOCK = 1 << 17  # entries at a time, in sums over a flat array

FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True)
class Branch:
    """An inner node of the parameters' structure; a leaf is the number of its tensor."""

    container: type
    names: tuple[str, ...]
    children: tuple[Branch | int, ...]

    @property
    def is_dict(self) -> bool:
        """Whether the children are reached by name."""
        return self.container is dict


Node = Branch | int


@dataclass(frozen=True)
class ParameterLayout:
    """Where every tensor stands in the flat vector of all parameters, in C order.

    Entry ``index`` of tensor ``t`` has the position ``starts[t] + ravel_multi_index(index, shapes[t])``.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]
    starts: NDArray[np.int64]  # shape (tensors + 1,); the last is the number of entries
    structure: Node

    @property
    def size(self) -> int:
        """Number of entries of all tensors together."""
        return int(self.starts[-1])

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    def tensor_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the tensor that holds each position of the flat vector."""
        if _is_sorted(positions):
            return np.repeat(np.arange(len(self.names)), np.diff(np.searchsorted(positions, self.starts)))
        return np.searchsorted(self.starts, positions, side="right") - 1

    def parts(self, positions: NDArray[np.int64]) -> Iterator[tuple[int, Any]]:
        """The tensors that hold some of the positions, and where in their array: slices, if they are sorted."""
        if _is_sorted(positions):
            bounds = [*np.searchsorted(positions, self.starts).tolist(), positions.size]
            yield from ((t, slice(a, b)) for t, (a, b) in enumerate(itertools.pairwise(bounds)) if b > a)
            return
        tensors = self.tensor_of(positions)
        for t in np.flatnonzero(np.bincount(tensors)).tolist():
            yield t, np.flatnonzero(tensors == t)

    def index(self, tensor: int, local: int) -> tuple[int, ...]:
        """The index inside a tensor of its ``local``-th entry in C order."""
        return tuple(int(i) for i in np.unravel_index(local, self.shapes[tensor])) if self.shapes[tensor] else ()

    def rebuild(self, leaves: Sequence[Any]) -> Any:
        """The caller's own structure, with these leaves in place of the parameters."""
        return build(self.structure, leaves, _same_container)


def _is_sorted(positions: NDArray[np.int64]) -> bool:
    return bool(np.all(positions[1:] >= positions[:-1]))


def build(node: Node, leaves: Sequence[Any], container: Callable[[Branch, list[Any]], Any]) -> Any:
    """Replace each leaf number by its leaf and each branch by ``container(branch, children)``."""
    if isinstance(node, int):
        return leaves[node]
    return container(node, [build(child, leaves, container) for child in node.children])


def _same_container(branch: Branch, children: list[Any]) -> Any:
    if branch.is_dict:
        return dict(zip(branch.names, children, strict=True))
    if hasattr(branch.container, "_make"):  # a named tuple
        return branch.container._make(children)
    return branch.container(children)


def flatten_parameters(params: Any) -> tuple[ParameterLayout, list[Array]]:
    """The layout of ``params`` and its arrays, not copied, in the order of the layout.

    Raises
    ------
    TypeError
        For keys that are not strings and for arrays that are not of real floating dtype.
    ValueError
        For parameters without any array, and for two paths with one joined name.
    """
    names: list[str] = []
    leaves: list[Array] = []
    structure = _walk(params, "", names, leaves)
    if not leaves:
        raise ValueError(f"params holds no array: got {params!r}; pass a dict of arrays, a list of arrays or one array")
    _refuse_repeated_names(names)
    _refuse_other_dtypes(names, leaves)
    return _laid_out(names, [leaf.shape for leaf in leaves], [leaf.dtype for leaf in leaves], structure), leaves


def named_layout(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]]
) -> ParameterLayout:
    """The layout of tensors that stand elsewhere, one beside the other under their names.

    Raises
    ------
    ValueError
        For two tensors of one name.
    """
    _refuse_repeated_names(list(names))
    return _laid_out(names, shapes, dtypes, Branch(dict, tuple(names), tuple(range(len(names)))))


def _laid_out(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]], structure: Node
) -> ParameterLayout:
    starts = np.cumsum([0, *(math.prod(shape) for shape in shapes)]).astype(np.int64)
    return ParameterLayout(tuple(names), tuple(shapes), tuple(dtypes), starts, structure)


def named_leaves(params: Any) -> dict[str, Any]:
    """The leaves of a structure by their joined names, whatever they are."""
    names: list[str] = []
    leaves: list[Array] = []
    _walk(params, "", names, leaves)
    return dict(zip(names, leaves, strict=True))


def _walk(node: Any, path: str, names: list[str], leaves: list[Array]) -> Node:
    if isinstance(node, Mapping):
        _refuse_other_keys(node, path)
        children = tuple(_walk(child, _join(path, key), names, leaves) for key, child in node.items())
        return Branch(dict, tuple(node), children)
    if isinstance(node, (list, tuple)):
        _refuse_plain_numbers(node, path)
        children = tuple(_walk(child, _join(path, str(i)), names, leaves) for i, child in enumerate(node))
        return Branch(type(node), (), children)
    names.append(path or "params")
    leaves.append(_as_leaf(node, path))
    return len(leaves) - 1


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _where(path: str, what: str = "params") -> str:
    return f"{what}[{path!r}]" if path else what


def _as_leaf(node: Any, path: str, what: str = "params") -> Array:
    if isinstance(node, np.ndarray):
        return node
    if isinstance(node, (bool, int, float, complex, np.generic)):
        return np.asarray(node)
    raise TypeError(
        f"{_where(path, what)} is a {type(node).__name__}; it must be a NumPy array of float16, float32 or float64"
    )


def _refuse_other_keys(node: Mapping[Any, Any], path: str) -> None:
    wrong = [key for key in node if not isinstance(key, str)]
    if wrong:
        raise TypeError(f"{_where(path)} has keys that are not strings: {listed(wrong)}; name tensors with strings")


def _refuse_plain_numbers(node: Sequence[Any], path: str) -> None:
    if node and all(isinstance(child, (int, float)) for child in node):
        raise TypeError(
            f"{_where(path)} is a {type(node).__name__} of {len(node)} numbers; pass np.asarray(...) for one array"
        )


def _refuse_repeated_names(names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise ValueError(f"params has two paths with one joined name: {listed(repeated)}; rename one of each pair")


def _refuse_other_dtypes(names: list[str], leaves: list[Array]) -> None:
    wrong = [(name, leaf) for name, leaf in zip(names, leaves, strict=True) if leaf.dtype not in FLOATS]
    if not wrong:
        return
    which = listed([f"{name} ({leaf.dtype})" for name, leaf in wrong], quote=False)
    if any(leaf.dtype.kind == "c" for _, leaf in wrong):
        raise TypeError(f"complex parameters are not supported: {which}; pass the real and the imaginary part")
    raise TypeError(f"params must be arrays of float16, float32 or float64: {which}; cast with .astype(np.float64)")


def listed(items: Sequence[Any], *, quote: bool = True, limit: int = 10) -> str:
    """At most ``limit`` items as text for a message, and how many more there are."""
    shown = [repr(item) if quote else str(item) for item in items[:limit]]
    return ", ".join(shown) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def brief(text: str) -> str:
    """A text in one short line."""
    line = " ".join(text.split())
    return line if len(line) <= _BRIEF else f"{line[: _BRIEF - 3]}..."


def match_gradients(layout: ParameterLayout, gradients: Any, *, by_position: bool = False, copy: bool) -> list[Array]:
    """The analytic gradient of every tensor as flat arrays, in the order of the layout.

    Parameters
    ----------
    gradients : same structure as the parameters
        With ``by_position`` also a plain tuple or list of arrays, one for each tensor (of a compiled function).
    copy : bool
        True where the arrays may be overwritten later (a function that reuses one buffer).

    Raises
    ------
    TypeError, ValueError
        For a structure, names, dtypes or shapes that differ from those of the parameters.
    """
    if (
        by_position
        and isinstance(gradients, (list, tuple))
        and isinstance(layout.structure, Branch)
        and layout.structure.is_dict
    ):
        gradients = _named_by_position(layout, gradients)
    else:
        gradients = dict(_pairs(layout.structure, gradients, "", "gradients"))
    _refuse_unequal_names(layout, gradients, "gradients")
    arrays = [_as_gradient(name, gradients[name]) for name in layout.names]
    _refuse_unequal_shapes(layout, arrays, "gradients")
    return [np.array(a, order="C", copy=True if copy else None).reshape(-1) for a in arrays]


def match_parameters(layout: ParameterLayout, values: Any, what: str) -> list[Array]:
    """The arrays of other parameters, not copied, in the order of the layout.

    Parameters
    ----------
    values : same structure as the parameters
    what : the argument that holds them, for messages

    Raises
    ------
    TypeError, ValueError
        For a structure, names, dtypes or shapes that differ from those of the parameters.
    """
    given = dict(_pairs(layout.structure, values, "", what))
    _refuse_unequal_names(layout, given, what)
    arrays = [_as_leaf(given[name], name, what) for name in layout.names]
    _refuse_unequal_dtypes(layout, arrays, what)
    _refuse_unequal_shapes(layout, arrays, what)
    return arrays


def _named_by_position(layout: ParameterLayout, gradients: Sequence[Any]) -> dict[str, Any]:
    if len(gradients) != len(layout.names):
        raise ValueError(f"gradients returned {len(gradients)} arrays; params has {len(layout.names)} tensors")
    return dict(zip(layout.names, gradients, strict=True))


def _pairs(node: Node, values: Any, path: str, what: str) -> Iterator[tuple[str, Any]]:
    """Pairs of joined name and leaf of ``values``, walked beside the structure of the parameters."""
    if isinstance(node, int):
        yield path or "params", values
    elif node.is_dict:
        if not hasattr(values, "keys"):
            raise TypeError(f"{what}{_at(path)} is a {_kind(values)}; params{_at(path)} is a dict: use its keys")
        children = dict(zip(node.names, node.children, strict=True))
        for key in values.keys():  # noqa: SIM118 - a record of fastgc has keys but is no mapping
            yield from _pairs(children.get(key, -1), values[key], _join(path, str(key)), what)
    else:
        if not isinstance(values, (list, tuple)):
            raise TypeError(f"{what}{_at(path)} is a {_kind(values)}; params{_at(path)} is a {node.container.__name__}")
        for i, child in enumerate(values):
            yield from _pairs(node.children[i] if i < len(node.children) else -1, child, _join(path, str(i)), what)


def _kind(value: Any) -> str:
    return type(value).__name__


def _at(path: str) -> str:
    return f"[{path!r}]" if path else ""


def _refuse_unequal_names(layout: ParameterLayout, values: Mapping[str, Any], what: str) -> None:
    missing = [name for name in layout.names if name not in values]
    unknown = [name for name in values if name not in set(layout.names)]
    parts = [f"{what} lacks {listed(missing)}"] if missing else []
    parts += [f"{what} has {listed(unknown)}, unknown to params"] if unknown else []
    if parts:
        raise ValueError("; ".join(parts) + f"; the names of params are {listed(layout.names)}")


def _as_gradient(name: str, gradient: Any) -> Array:
    array = np.asarray(gradient)
    if array.dtype.kind == "c":
        raise TypeError(
            f"gradients[{name!r}] is complex ({array.dtype}), not supported: a real loss has a real gradient"
        )
    if array.dtype.kind != "f":
        raise TypeError(
            f"gradients[{name!r}] is a {_kind(gradient)} of dtype {array.dtype}; it must be a floating array"
        )
    return array if array.dtype in FLOATS else array.astype(np.float64)


def _refuse_unequal_dtypes(layout: ParameterLayout, arrays: Sequence[Array], what: str) -> None:
    wrong = [
        f"{what}[{name!r}] is of {array.dtype}; params[{name!r}] is of {dtype}"
        for name, dtype, array in zip(layout.names, layout.dtypes, arrays, strict=True)
        if array.dtype != dtype
    ]
    if wrong:
        raise TypeError(f"{'; '.join(_first(wrong))}: they must be the same")


def _refuse_unequal_shapes(layout: ParameterLayout, arrays: Sequence[Array], what: str) -> None:
    wrong = [
        f"{what}[{name!r}] has shape {array.shape}; params[{name!r}] has shape {shape}"
        for name, shape, array in zip(layout.names, layout.shapes, arrays, strict=True)
        if array.shape != shape
    ]
    if wrong:
        raise ValueError("; ".join(_first(wrong)))


def _first(problems: Sequence[str], limit: int = 10) -> list[str]:
    """The first of many problems, and how many more there are."""
    more = len(problems) - limit
    return [*problems[:limit], f"and {more} more"] if more > 0 else [*problems]


def norm(gradient: Array) -> float:
    """2-norm of a flat array; no square overflows, but the norm itself may, and is infinite then."""
    largest, squares = _scaled_squares(gradient)
    return largest * math.sqrt(squares)


def root_mean_square(gradient: Array) -> float:
    """Of a flat array, 0 for an empty one; it is no larger than the largest entry, and never overflows."""
    largest, squares = _scaled_squares(gradient)
    return largest * math.sqrt(squares / max(1, gradient.size))


def _scaled_squares(gradient: Array) -> tuple[float, float]:
    """The largest magnitude, and the sum of the squares in units of it: block by block, in double precision."""
    blocks = [gradient[i : i + _BLOCK] for i in range(0, gradient.size, _BLOCK)]
    largest = max((float(np.abs(block).max()) for block in blocks), default=0.0)
    if largest == 0 or not np.isfinite(largest):
        return largest, 1.0
    scaled = (block.astype(np.float64) / largest for block in blocks)
    return largest, sum(float(np.dot(block, block)) for block in scaled)


def spread(size: int, count: int) -> NDArray[np.int64]:
    """``count`` evenly spaced indices of ``size`` items, from the first to the last; all, if there are no more."""
    count = min(size, count)
    return np.arange(count) * max(0, size - 1) // max(1, count - 1)


def median(values: NDArray[np.float64]) -> float:
    """As ``np.median``, NaN included, but without its import of ``numpy.ma``: ten milliseconds of a new process.

    Parameters
    ----------
    values : array, shape (n,), n >= 1
    """
    middle = values.size // 2
    ordered = np.partition(values, [middle - 1, middle, -1] if values.size > 1 else 0)  # NaN stands last
    if np.isnan(ordered[-1]):
        return float("nan")
    return float(ordered[middle] if values.size % 2 else ordered[middle - 1] / 2 + ordered[middle] / 2)
