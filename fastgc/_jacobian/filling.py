"""Functions that return nothing and fill an array of their arguments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import numpy as np

from fastgc._arguments import listed
from fastgc._evaluation.engine import readable_compilation
from fastgc._evaluation.evaluator import WrongTypeError
from fastgc._parameters.arrays import Array, DType

_OTHER = 0.7390851  # added to an array's entries: a function that overwrites them would hardly write the very sums


def first_value(f: Callable[..., object], x: Array, args: tuple[object, ...]) -> tuple[object, int | None]:
    """What f returns at x, and the number of the array in args that it fills: where it returns that, or nothing."""
    try:
        with readable_compilation("f"):
            value = f(x, *args)
    except Exception:
        fills = _filled(f, x.real, args) if x.dtype.kind == "c" else None  # the array may not hold complex numbers
        if fills is None:
            raise
        return None, fills
    return value, _filled(f, x.real, args) if value is None else _returned(value, dict(enumerate(args)))


def _returned(value: object, arrays: Mapping[int, Any]) -> int | None:
    """The number of the array that a function has returned, or another view of all its memory; None for none."""
    interface = getattr(value, "__array_interface__", None)
    return next((i for i, a in arrays.items() if _may_be_filled(a) and a.__array_interface__ == interface), None)


def _filled(f: Callable[..., object], x: Array, args: tuple[object, ...]) -> int | None:
    """The number of the array in args that f fills, None for none. This calls f with other entries in all arrays.

    Raises
    ------
    TypeError
        Where f writes to several.
    """
    changed = {i: arg + np.asarray(_OTHER, arg.dtype) for i, arg in enumerate(args) if _may_be_filled(arg)}
    if not changed:
        return None
    given = {i: each.copy() for i, each in changed.items()}
    with contextlib.suppress(Exception):  # what it makes of these entries does not matter
        value = f(x.copy(), *(given.get(i, arg) for i, arg in enumerate(args)))
        if value is not None:
            return _returned(value, given)
    filled = [i for i in changed if not (changed[i].size and np.array_equal(given[i], changed[i], equal_nan=True))]
    if len(filled) > 1:
        names = listed([f"args[{i}]" for i in filled], quote=False)
        raise WrongTypeError(f"f returned None and wrote to {names}; let it return the array that holds the outputs")
    return filled[0] if filled else None


def own_array(args: tuple[Any, ...], place: int, dtype: DType) -> tuple[Any, ...]:
    """The arguments with a copy of one array, which can hold complex outputs if ``dtype`` is complex."""
    kind = np.result_type(args[place], dtype) if dtype.kind == "c" else args[place].dtype
    return (*args[:place], np.array(args[place], kind, order="C"), *args[place + 1 :])


def _may_be_filled(arg: object) -> TypeGuard[Array]:
    return isinstance(arg, np.ndarray) and arg.flags.writeable and arg.dtype.kind in "fc"
