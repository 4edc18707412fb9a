"""Jitted functions: the variables that they capture, and whether they run in parallel."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numba
from numba.core.dispatcher import Dispatcher


def compiles() -> bool:
    """Whether Numba compiles functions. With ``NUMBA_DISABLE_JIT=1``, ``numba.njit`` returns them as they are."""
    return not getattr(numba.config, "DISABLE_JIT", 0)  # the module makes its names when it is imported


def runs_in_parallel(loss: object, args: tuple[object, ...] = ()) -> bool:
    """Whether the loss, or a jitted function that it calls or finds in its arguments, has ``parallel=True``."""
    roots = [loss, *_dispatchers_in(args)]
    return any(bool(each.targetoptions.get("parallel")) for root in roots for each in _jitted_functions(root))


def _dispatchers_in(value: object) -> Iterator[object]:
    """The jitted functions in nested tuples and lists."""
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from _dispatchers_in(each)
    elif is_dispatcher(value):
        yield value


def freezes_data(loss: object) -> bool:
    """Whether Numba compiled the value of a global or closure variable into the loss or a function that it calls.

    Functions and modules of the listed libraries do not count.
    """
    return any(_is_data(value) for function in _jitted_functions(loss) for value in _captured(function.py_func))


def _jitted_functions(loss: object) -> list[Any]:
    found: list[Any] = []
    queue: list[Any] = [loss]
    while queue:
        function = queue.pop()
        if any(function is other for other in found):
            continue
        found.append(function)
        queue += [value for value in _captured(function.py_func) if is_dispatcher(value)]
    return found


def _captured(function: Any) -> list[object]:
    """The values that a Python function reads from its globals and its closure."""
    names = function.__code__.co_names
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell is not None]
    return [function.__globals__[name] for name in names if name in function.__globals__] + cells


# Modules whose attributes do not change, so that freezing them does no harm.
_LIBRARIES = ("numpy", "numba", "math", "cmath", "operator", "scipy", "builtins", "fastgc")


def _is_data(value: object) -> bool:
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] not in _LIBRARIES
    return not callable(value)


def compiled_anew(loss: Any) -> Any:
    """The same function compiled again, with the present values of its globals and closure."""
    return numba.njit(**{key: value for key, value in loss.targetoptions.items() if key != "nopython"})(loss.py_func)


def is_dispatcher(function: object) -> bool:
    """Whether a function was compiled by ``numba.njit``."""
    return Dispatcher in type(function).__mro__  # faster than `isinstance`, which asks its abstract base class
