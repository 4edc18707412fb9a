"""Objects that hold the parameters themselves, so that a loss reads them there and not in its argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, MethodType, ModuleType

import numpy as np

from fastgc._arguments import listed
from fastgc._parameters.arrays import Array

UNMOVED = "the loss did not respond to any entry: does it read its argument?"


def holder_note(function: Callable[..., object], args: Sequence[object], leaves: Sequence[Array]) -> str | None:
    """What to check instead where an object within reach of the loss holds arrays equal to the parameters."""
    for name, value in (*((f"args[{k}]", arg) for k, arg in enumerate(args)), *_reached(function)):
        held = [key for key, array in _attributes(value) if any(np.array_equal(array, leaf) for leaf in leaves)]
        if held:
            return (
                f"{name} is a {type(value).__name__} that holds arrays like these, as {listed(held)}: where the loss "
                f"reads them there, check fastgc.attributes({name}, [{listed(held)}]) with in_place=True"
            )
    return None


def _reached(function: object) -> Iterator[tuple[str, object]]:
    """The objects that a function reads: its own, those of its closure, and globals; by their names."""
    function = getattr(function, "py_func", function)
    if isinstance(function, MethodType):
        yield "its object", function.__self__
        function = function.__func__
    if isinstance(function, FunctionType):
        code = function.__code__
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        yield from ((name, cell.cell_contents) for name, cell in cells)
        yield from ((name, function.__globals__[name]) for name in code.co_names if name in function.__globals__)


def _attributes(value: object) -> Iterator[tuple[str, Array]]:
    """The arrays that an object holds as attributes; a jitted class has a structure instead of a dict of these."""
    if isinstance(value, (ModuleType, FunctionType, type)):
        return
    structure: Mapping[str, object] = getattr(getattr(value, "_numba_type_", None), "struct", {})
    names = [*structure, *getattr(value, "__dict__", ())]
    for name in names:
        found = getattr(value, name, None)
        if isinstance(found, np.ndarray):
            yield name, found
