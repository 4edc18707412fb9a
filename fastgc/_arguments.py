"""Checks of arguments before any arithmetic, and the wording of messages."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

# What Python and Numba's dispatchers say of a call with too few or too many arguments.
_MISCALLED = re.compile(r"missing \d+ required|takes .*\bargument|(not enough|too many|missing) arguments?\b")


def one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise a ValueError unless the value is one of those allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {brief(repr(value))}; it must be one of {', '.join(map(repr, allowed))}")


def flag(name: str, value: object) -> None:
    """Raise a TypeError unless the value is True or False (of Python or NumPy, or 1 or 0)."""
    if not isinstance(value, (bool, int, np.bool_)) or value not in (0, 1):
        raise TypeError(f"{name} is {brief(repr(value))}; it must be True or False")


def flags(**values: object) -> None:
    """Raise a TypeError unless each of these, by its name, is True or False."""
    for name, value in values.items():
        flag(name, value)


def refuse_uncallable(name: str, value: object) -> None:
    """Raise a TypeError unless the value can be called."""
    if not callable(value):
        raise TypeError(f"{name} is {brief(repr(value))} ({type(value).__name__}); it must be a function")


@contextlib.contextmanager
def takes_arguments(function: Callable[..., object], arguments: Sequence[object], name: str = "") -> Iterator[None]:
    """Say how a function is called, and what to write, where Python finds that it takes other arguments."""
    try:
        yield
    except TypeError as error:
        name = name or getattr(function, "__name__", "function").replace("<lambda>", "function")
        said = misplaced(name, function, arguments) if _MISCALLED.search(str(error)) else ""
        if not said:
            raise
        raise TypeError(said) from error


def misplaced(name: str, function: Callable[..., object], arguments: Sequence[object], form: str = "{}") -> str:
    """How a function is called that takes other arguments than these, and what to write; "" if it takes them.

    ``form`` is what a function is written as.
    """
    try:
        signature = inspect.signature(function)
        signature.bind(*arguments)
    except ValueError:  # Python does not know its signature
        return ""
    except TypeError:
        names = list(signature.parameters)
        return (
            f"{name} takes {len(names)} argument{'s' * (len(names) != 1)} ({', '.join(names)}); it is called as "
            f"{name}(params, *args), with {len(arguments)}: {_remedy(name, names, arguments, form)}"
        )
    return ""


def _remedy(name: str, names: Sequence[str], arguments: Sequence[object], form: str) -> str:
    keys, given = _keys(arguments[0]), len(arguments) - 1
    rest = names[len(keys) :]
    if len(keys) < 2 or len(names) != len(keys) + given:
        return f"args has {given} value{'s' * (given != 1)}, for {', '.join(names[1:]) or 'none'}"
    each = ", ".join([*(f"params[{key!r}]" for key in keys), *rest])
    return "write " + form.format(f"lambda {', '.join(['params', *rest])}: {name}({each})")


def _keys(params: object) -> list[object]:
    """By which the tensors of parameters are found in their container; nothing where these are one array."""
    if hasattr(params, "keys"):
        return list(params.keys())
    return list(range(len(params))) if isinstance(params, (list, tuple)) else []


def number(name: str, value: object, *, positive: bool = False) -> None:
    """Raise unless the value is None or a finite number of at least 0 (with ``positive``: above 0)."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {brief(repr(value))}; it must be a number or None")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{name} is {value!r}; it must be finite and {'above 0' if positive else 'at least 0'}")


def whole(name: str, value: object, *, least: int, optional: bool = False, also: str = "") -> None:
    """Raise unless the value is an integer of at least ``least`` (with ``optional``: or None).

    ``also`` says what else the caller has accepted before.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {brief(repr(value))}; it must be an integer{' or None' if optional else also}")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")


# --- words of messages ---

_BRIEF = 150  # characters: a repr of this length fits on a line of a wide terminal or of a notebook
_ITEMS = 10  # items: more names are not read, and one dict may have thousands


def listed(items: Sequence[object], *, quote: bool = True, limit: int = _ITEMS) -> str:
    """At most ``limit`` items as text for a message, and the number of the others."""
    shown = [repr(item) if quote else str(item) for item in items[:limit]]
    return ", ".join(shown) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def brief(text: str) -> str:
    """A text as one line, cut off where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _BRIEF else f"{line[: _BRIEF - 3]}..."


@contextlib.contextmanager
def noted(kind: type[Exception], words: str, note: str) -> Iterator[None]:
    """Add a note to exceptions of a kind whose text matches ``words``, a regular expression."""
    try:
        yield
    except kind as error:
        if re.search(words, str(error)):
            error.add_note(note)
        raise


_DEEPEST = 100  # levels: more than any model has, and Python's stack of some 1,000 calls holds them three times


def refuse_deep(what: str, value: object, path: tuple[str, ...] = ()) -> None:
    """Raise a ValueError for dicts, lists and tuples nested too deep, as those are that contain themselves."""
    if len(path) > _DEEPEST:
        place = brief(f"{what}[{']['.join(path)}]")
        raise ValueError(f"{place} is nested deeper than {_DEEPEST} levels; it must not contain itself")
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, each in pairs:
        if isinstance(each, (dict, list, tuple)):
            refuse_deep(what, each, (*path, repr(key)))


def plural(count: int, one: str, many: str) -> str:
    """The word for this count."""
    return one if count == 1 else many
