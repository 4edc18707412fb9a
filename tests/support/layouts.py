"""Parameters of several shapes, and a loss of them."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[Any]


class Pair(NamedTuple):
    weight: Any
    bias: Any


def leaves_of(params: Any) -> list[Array]:
    """The arrays of a structure, dicts in the order of their keys."""
    if isinstance(params, collections.abc.Mapping):
        return [leaf for child in params.values() for leaf in leaves_of(child)]
    if isinstance(params, (list, tuple)):
        return [leaf for child in params for leaf in leaves_of(child)]
    return [params]


def mapped(params: Any, change: Any) -> Any:
    """The same structure with every array changed."""
    if isinstance(params, collections.abc.Mapping):
        return {key: mapped(child, change) for key, child in params.items()}
    if isinstance(params, tuple) and hasattr(params, "_fields"):
        return type(params)(*[mapped(child, change) for child in params])
    if isinstance(params, (list, tuple)):
        return type(params)(mapped(child, change) for child in params)
    return change(params)


def loss(params: Any) -> float:
    """Every entry weighs differently, so that no two can be confused."""
    total = 0.0
    for t, leaf in enumerate(leaves_of(params)):
        weights = 1.0 + t + np.arange(leaf.size).reshape(leaf.shape) / 7
        total += float(np.sum(weights * np.sin(leaf)))
    return total


def gradients(params: Any) -> Any:
    counter = iter(range(1000))

    def slope(leaf: Array) -> Array:
        weights = 1.0 + next(counter) + np.arange(leaf.size).reshape(leaf.shape) / 7
        return np.asarray(weights * np.cos(leaf))

    return mapped(params, slope)


def array(*shape: int) -> Array:
    return np.linspace(0.2, 1.3, int(np.prod(shape))).reshape(shape)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=4)


SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


DTYPES = st.sampled_from([np.float16, np.float32, np.float64])


LEAVES = st.builds(
    lambda shape, dtype, order: np.array(np.random.default_rng(0).normal(size=shape), dtype, order=order),
    SHAPES,
    DTYPES,
    st.sampled_from("CF"),
)


PARAMS = st.recursive(
    LEAVES,
    lambda children: st.one_of(
        st.dictionaries(NAMES, children, min_size=1, max_size=3),
        st.lists(children, min_size=1, max_size=3),
        st.lists(children, min_size=1, max_size=3).map(tuple),
        st.builds(Pair, children, children),
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equal structure with the very same arrays."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a is b
