"""The layout of nested parameters in one flat vector: names, shapes, positions, and the way back to the structure."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed, refuse_deep
from fastgc._forks import cached_property
from fastgc._missing import TITLES
from fastgc._parameters.arrays import Array, DType, Positions, as_array, ends_of_runs
from fastgc._parameters.fields import as_list, tensor_fields, with_fields
from fastgc._parameters.moulds import Mould, mould_of

_MANY = 1000  # positions, up to which each is looked up faster than it is seen that they are in order
FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))  # the dtypes that parameters may have


@dataclass(frozen=True)
class Branch:
    """An inner node of the parameters' structure; a leaf is the number of its tensor.

    Attributes
    ----------
    names : the keys of a dict, the fields of a named tuple, a dataclass or an attrs class; empty for lists and tuples
    template : of a dataclass or an attrs class an instance without its parameters, None for anything else
    """

    container: type
    names: tuple[str, ...]
    children: tuple[Branch | int, ...]
    template: object = field(default=None, compare=False, repr=False)

    @property
    def is_dict(self) -> bool:
        """Whether a jitted function finds the children by name in a record (else it receives a tuple)."""
        return self.container is dict or self.template is not None


Node = Branch | int


@dataclass(frozen=True)
class ParameterLayout:
    """The place of every tensor in the flat vector of all parameters, in C order.

    Entry ``index`` of tensor ``t`` has the position ``starts[t] + ravel_multi_index(index, shapes[t])``.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[DType, ...]
    starts: Positions  # shape (tensors + 1,); the last is the number of entries
    structure: Node
    moulds: tuple[Mould | None, ...] = ()  # of each branch, children before parents; None for a plain container

    @property
    def size(self) -> int:
        """Number of entries of all tensors together."""
        return int(self.starts[-1])

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each tensor."""
        return tuple(self.counts.tolist())

    @cached_property
    def counts(self) -> Positions:
        """The ``sizes`` as an array, shape (tensors,)."""
        return self.starts[1:] - self.starts[:-1]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each tensor by its name."""
        return {name: t for t, name in enumerate(self.names)}

    def tensor_of(self, positions: Positions) -> NDArray[np.int64]:
        """The number of the tensor that holds each position of the flat vector."""
        if positions.size > _MANY and positions.size > len(self.names) and _is_sorted(positions):
            ends = positions.searchsorted(self.starts)
            return np.arange(len(self.names)).repeat(ends[1:] - ends[:-1])
        return self.starts.searchsorted(positions, "right") - 1

    def parts(self, positions: Positions) -> Iterator[tuple[int, Any]]:
        """Pairs of a tensor's number and an index of its part of ``positions``: a slice if they are in order."""
        tensors = self.tensor_of(positions)
        if _is_sorted(tensors):
            yield from _runs(tensors)
            return
        order = np.argsort(tensors, kind="stable")
        yield from ((t, order[mine]) for t, mine in _runs(tensors[order]))

    def index(self, tensor: int, local: int) -> tuple[int, ...]:
        """The index of a tensor's ``local``-th entry, counted in C order."""
        return tuple(int(i) for i in np.unravel_index(local, self.shapes[tensor])) if self.shapes[tensor] else ()

    def rebuild(self, leaves: Sequence[object]) -> Any:
        """The caller's structure with these leaves in place of the parameters."""
        moulds = iter(self.moulds)
        return build(
            self.structure, leaves, lambda branch, children: _same_container(branch, children, next(moulds, None))
        )


def _is_sorted(positions: Positions) -> bool:
    return bool((positions[1:] >= positions[:-1]).all())


def _runs(tensors: Positions) -> Iterator[tuple[int, slice]]:
    """Pairs of a number and where it stands in sorted numbers."""
    ends = ends_of_runs(tensors)
    where = itertools.starmap(slice, itertools.pairwise(ends.tolist()))
    yield from zip(tensors[ends[:-1]].tolist(), where, strict=True)


def build(node: Node, leaves: Sequence[object], container: Callable[[Branch, list[object]], Any]) -> Any:
    """Replace each leaf number by its leaf and each branch by ``container(branch, children)``."""
    if isinstance(node, int):
        return leaves[node]
    return container(node, [build(child, leaves, container) for child in node.children])


def _same_container(branch: Branch, children: list[object], mould: Mould | None) -> Any:
    if mould is not None:
        return mould.filled(children, branch.names)
    if branch.template is not None:
        return with_fields(branch.template, dict(zip(branch.names, children, strict=True)))
    if branch.is_dict:
        return dict(zip(branch.names, children, strict=True))
    return same_tuple(branch, children)


def same_tuple(branch: Branch, children: Sequence[object]) -> Any:
    """The list, tuple or named tuple of these children."""
    return branch.container._make(children) if hasattr(branch.container, "_make") else branch.container(children)


def flatten_parameters(params: object) -> tuple[ParameterLayout, list[Array]]:
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
    moulds: list[Mould | None] = []
    refuse_deep("params", params)
    structure = _walk(params, "", names, leaves, moulds)
    if not leaves:
        raise ValueError(f"params holds no array: got {params!r}; pass a dict of arrays, a list of arrays or one array")
    _refuse_repeated_names(names)
    _refuse_other_dtypes(names, leaves)
    shapes, dtypes = [leaf.shape for leaf in leaves], [leaf.dtype for leaf in leaves]
    return _laid_out(names, shapes, dtypes, structure, moulds), leaves


def tensor_names(params: object) -> list[str]:
    """The names of the tensors in ``params``, in their order, as ``tensors=`` and reports give them.

    Parameters
    ----------
    params : dict (may be nested), list or tuple of arrays, or one array
        As `fastgc.check_gradients` takes them.

    Returns
    -------
    list of str
        The keys of a nested dict joined by "."; "params" for one array.

    Raises
    ------
    TypeError, ValueError
        For parameters that `fastgc.check_gradients` does not take.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> fastgc.tensor_names({"layer": {"W": np.ones((3, 2)), "b": np.ones(2)}, "scale": np.array(1.0)})
    ['layer.W', 'layer.b', 'scale']
    """
    return [*flatten_parameters(params)[0].names]


def named_layout(names: Sequence[str], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[DType]) -> ParameterLayout:
    """The layout of tensors that form a flat dict, in the given order.

    Raises
    ------
    ValueError
        For two tensors of one name.
    """
    _refuse_repeated_names(list(names))
    return _laid_out(names, shapes, dtypes, Branch(dict, tuple(names), tuple(range(len(names)))))


def _laid_out(
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[DType],
    structure: Node,
    moulds: Sequence[Mould | None] = (),
) -> ParameterLayout:
    starts = np.array([0, *map(math.prod, shapes)], np.int64).cumsum()
    return ParameterLayout(tuple(names), tuple(shapes), tuple(dtypes), starts, structure, tuple(moulds))


def named_leaves(params: object) -> dict[str, object]:
    """The leaves of a structure by their joined names, of any shape and dtype."""
    names: list[str] = []
    leaves: list[Array] = []
    _walk(params, "", names, leaves, [])
    return dict(zip(names, leaves, strict=True))


def _walk(node: Any, path: str, names: list[str], leaves: list[Array], moulds: list[Mould | None]) -> Node:
    if type(node) is np.ndarray:
        names.append(path or "params")
        leaves.append(node)
        return len(leaves) - 1
    if isinstance(node, Mapping):
        _refuse_other_keys(node, path)
        children = tuple([_walk(child, joined_name(path, key), names, leaves, moulds) for key, child in node.items()])
        moulds.append(mould_of(node))
        return Branch(dict, tuple(node), children)
    node = as_list(node)
    if isinstance(node, (list, tuple)):
        _refuse_plain_numbers(node, path)
        keys: tuple[str, ...] = getattr(type(node), "_fields", ())  # of a named tuple
        pairs = zip(keys or map(str, range(len(node))), node, strict=True)
        children = tuple([_walk(child, joined_name(path, key), names, leaves, moulds) for key, child in pairs])
        moulds.append(mould_of(node))
        return Branch(type(node), keys, children)
    if (fields := tensor_fields(node)) is not None:
        children = tuple(_walk(getattr(node, key), joined_name(path, key), names, leaves, moulds) for key in fields)
        moulds.append(None)
        return Branch(type(node), tuple(fields), children, with_fields(node, dict.fromkeys(fields)))
    names.append(path or "params")
    leaves.append(as_leaf(node, path))
    return len(leaves) - 1


def joined_name(path: str, key: str) -> str:
    """The name of a child: its keys from the root on, joined by dots."""
    return f"{path}.{key}" if path else key


def _where(path: str, what: str = "params") -> str:
    return f"{what}[{path!r}]" if path else what


def as_leaf(node: object, path: str, what: str = "params") -> Array:
    """A leaf as an array (numbers become arrays); a TypeError that names ``what`` and the path for anything else."""
    if isinstance(node, np.ndarray):  # of a subclass, such as a matrix, a view of NumPy's own class
        return node if type(node) is np.ndarray else as_array(node, _where(path, what))
    if isinstance(node, (bool, int, float, complex, np.generic)):
        array = np.asarray(node)
        array.flags.writeable = False  # a number cannot be displaced in place
        return array
    refuse_framework(node, _where(path, what))
    raise TypeError(
        f"{_where(path, what)} is a {type(node).__name__}; it must be a NumPy array of float16, float32 or float64"
    )


# What checks the tensors, modules and arrays of a framework, by the package that defines their types.
_DOORS = {
    "torch": "fastgc.torch.check_module for a module, fastgc.torch.gradcheck for a function",
    "jax": "fastgc.jax.check_gradients for a loss, fastgc.jax.check_grads for a function",
}


def refuse_framework(value: object, what: str) -> None:
    """Raise a TypeError that names the right function for what belongs to PyTorch or JAX. This imports neither."""
    packages = {kind.__module__.partition(".")[0].removesuffix("lib") for kind in type(value).__mro__}
    for package, doors in _DOORS.items():
        if package in packages:
            raise TypeError(f"{what} is a {TITLES[package]} {type(value).__name__}; use {doors}; or pass NumPy arrays")


def _refuse_other_keys(node: Mapping[object, object], path: str) -> None:
    wrong = [key for key in node if not isinstance(key, str)]
    if wrong:
        raise TypeError(f"{_where(path)} has keys that are not strings: {listed(wrong)}; name tensors with strings")


def _refuse_plain_numbers(node: Sequence[object], path: str) -> None:
    if node and all(isinstance(child, (int, float)) for child in node):
        raise TypeError(
            f"{_where(path)} is a {type(node).__name__} of {len(node)} numbers; pass np.asarray(...) for one array"
        )


def _refuse_repeated_names(names: list[str]) -> None:
    if len(set(names)) < len(names):
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"params has two paths with the same joined name: {listed(repeated)}; rename one of each pair")


def _refuse_other_dtypes(names: list[str], leaves: list[Array]) -> None:
    others = {leaf.dtype for leaf in leaves}.difference(FLOATS)
    if not others:
        return
    wrong = [(name, leaf) for name, leaf in zip(names, leaves, strict=True) if leaf.dtype in others]
    which = listed([f"{name} ({leaf.dtype})" for name, leaf in wrong], quote=False)
    if any(leaf.dtype.kind == "c" for _, leaf in wrong):
        raise TypeError(f"complex parameters are not supported: {which}; pass the real and the imaginary part")
    raise TypeError(f"params must be arrays of float16, float32 or float64: {which}; cast with .astype(np.float64)")
