"""Gradients and other parameters brought into the order of the layout; refused where they do not fit it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastgc._arguments import listed
from fastgc._parameters.arrays import Array, as_array, in_batches
from fastgc._parameters.fields import as_list, field_names
from fastgc._parameters.layout import FLOATS, Branch, Node, ParameterLayout, as_leaf, joined_name

_PROBLEMS = 10  # in one message: a message of some ten lines is still read


class NewArrays(dict[str, Array]):
    """Arrays by name that nobody else holds, so that nobody overwrites them."""


def match_gradients(
    layout: ParameterLayout, gradients: object, *, by_position: bool = False, copy: bool
) -> list[Array]:
    """The analytic gradient of every tensor as flat arrays, in the order of the layout.

    Parameters
    ----------
    gradients : same structure as the parameters
        With ``by_position`` also a tuple or list of arrays, one for each tensor: what a compiled function returns.
    copy : bool
        True where the arrays may be overwritten later, by a function that reuses one buffer; not so `NewArrays`.

    Raises
    ------
    TypeError, ValueError
        For a structure, names, dtypes or shapes that differ from those of the parameters.
    """
    copy = copy and not isinstance(gradients, NewArrays)
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


def match_parameters(layout: ParameterLayout, values: object, what: str) -> list[Array]:
    """The arrays of parameters at another point, not copied, in the order of the layout.

    Parameters
    ----------
    values : same structure as the parameters
    what : name of the argument that holds them, for messages

    Raises
    ------
    TypeError, ValueError
        For a structure, names, dtypes or shapes that differ from those of the parameters.
    """
    given = dict(_pairs(layout.structure, values, "", what))
    _refuse_unequal_names(layout, given, what)
    arrays = [as_leaf(given[name], name, what) for name in layout.names]
    _refuse_unequal_dtypes(layout, arrays, what)
    _refuse_unequal_shapes(layout, arrays, what)
    return arrays


def _named_by_position(layout: ParameterLayout, gradients: Sequence[object]) -> dict[str, object]:
    if len(gradients) != len(layout.names):
        raise ValueError(f"gradients returned {len(gradients)} arrays; params has {len(layout.names)} tensors")
    return dict(zip(layout.names, gradients, strict=True))


def _pairs(node: Node, values: Any, path: str, what: str) -> Iterator[tuple[str, object]]:
    """Pairs of joined name and leaf of ``values``, which must have the structure of the parameters (``node``)."""
    if isinstance(node, int):
        yield path or "params", values
    elif node.is_dict:
        values = _by_field(node, values)
        if not hasattr(values, "keys"):
            kind = "dict" if node.template is None else node.container.__name__
            raise TypeError(f"{what}{_at(path)} is a {_type(values)}; params{_at(path)} is a {kind}: use its keys")
        children = dict(zip(node.names, node.children, strict=True))
        for key in values.keys():  # noqa: SIM118 - a record of fastgc has keys but is no mapping
            child, name = children.get(key, -1), joined_name(path, str(key))
            if isinstance(child, int):
                yield name or "params", values[key]
            else:
                yield from _pairs(child, values[key], name, what)
    else:
        values = as_list(values)
        if not isinstance(values, (list, tuple)):
            raise TypeError(f"{what}{_at(path)} is a {_type(values)}; params{_at(path)} is a {node.container.__name__}")
        for i, child in enumerate(values):
            below = node.children[i] if i < len(node.children) else -1
            name = node.names[i] if i < len(node.names) else str(i)
            yield from _pairs(below, child, joined_name(path, name), what)


def _by_field(node: Branch, values: object) -> object:
    """The fields of a dataclass or an attrs class by name; anything else as it is."""
    if node.template is None or field_names(values) is None:
        return values
    return {name: getattr(values, name) for name in node.names if hasattr(values, name)}


def _type(value: object) -> str:
    return type(value).__name__


def _at(path: str) -> str:
    return f"[{path!r}]" if path else ""


def _refuse_unequal_names(layout: ParameterLayout, values: Mapping[str, object], what: str) -> None:
    missing = [name for name in layout.names if name not in values]
    known = set(layout.names)
    unknown = [name for name in values if name not in known]
    parts = [f"{what} lacks {listed(missing)}"] if missing else []
    parts += [f"{what} has {listed(unknown)}, unknown to params"] if unknown else []
    if parts:
        raise ValueError("; ".join(parts) + f"; the names of params are {listed(layout.names)}")


def _as_gradient(name: str, gradient: object) -> Array:
    array = gradient if type(gradient) is np.ndarray else as_array(gradient, f"gradients[{name!r}]")
    if array.dtype in FLOATS:
        return array
    if array.dtype.kind == "c":
        raise TypeError(
            f"gradients[{name!r}] is complex ({array.dtype}), not supported: a real loss has a real gradient"
        )
    if array.dtype.kind != "f":
        raise TypeError(
            f"gradients[{name!r}] is a {_type(gradient)} of dtype {array.dtype}; it must be a floating-point array"
        )
    return array.astype(np.float64)


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
        raise ValueError("; ".join(_first(wrong)) + _squeezing(layout, arrays, what))


def _squeezing(layout: ParameterLayout, arrays: Sequence[Array], what: str) -> str:
    """What to type where axes of length 1 are all that differs, and not among the parameters themselves."""
    pairs = [(shape, array) for shape, array in zip(layout.shapes, arrays, strict=True) if array.shape != shape]
    if any(_without_ones(array.shape) != _without_ones(shape) for shape, array in pairs):
        return ""
    if all(len(shape) == 1 for shape, _ in pairs):
        return f": only axes of length 1 differ; use .ravel() of {what}"
    squeezed = all(_without_ones(array.shape) == shape for shape, array in pairs)
    return f": only axes of length 1 differ; use {'.squeeze()' if squeezed else '.reshape(p.shape)'} of {what}"


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _first(problems: Sequence[str]) -> list[str]:
    """The first problems and the number of the others."""
    more = len(problems) - _PROBLEMS
    return [*problems[:_PROBLEMS], f"and {more} more"] if more > 0 else [*problems]


def refuse_nonfinite(layout: ParameterLayout, leaves: Sequence[Array], what: str = "params") -> None:
    """Raise a ValueError that counts the NaN and infinite entries of each tensor."""
    if all(np.isfinite(each).all() for each in in_batches(leaves)):
        return
    bad = [leaf.size - np.count_nonzero(np.isfinite(leaf)) for leaf in leaves]
    named = zip(layout.names, bad, strict=True)
    parts = [f"{what}[{name!r}] has {count} entries that are not finite" for name, count in named if count]
    raise ValueError(f"{listed(parts, quote=False)}; a derivative exists only at finite parameters")
