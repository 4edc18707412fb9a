"""What happens at an overflow: nothing in our arithmetic, and what the caller has set in the caller's functions."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import numpy as np

from fastgc._arguments import takes_arguments

P = ParamSpec("P")
Result = TypeVar("Result")

_callers: ContextVar[dict[str, Any] | None] = ContextVar("fastgc_errstate", default=None)  # None outside of a check


@contextlib.contextmanager
def own_errstate() -> Iterator[None]:
    """Overflow, underflow, division by zero and NaN are judged here: they neither warn nor raise.

    What the caller has set is kept for the caller's functions.
    """
    if _callers.get() is not None:  # one of our own functions calls another
        yield
        return
    token = _callers.set({**np.geterr(), "call": np.geterrcall()})
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _callers.reset(token)


@contextlib.contextmanager
def callers_errstate() -> Iterator[None]:
    """The caller's setting, for a function of the caller's at the point of the check."""
    state = _callers.get()
    if state is None:
        yield
        return
    token = _callers.set(None)
    try:
        with np.errstate(**state):
            yield
    finally:
        _callers.reset(token)


def at_point(function: Callable[P, Result]) -> Callable[P, Result]:
    """The caller's function as it is called at the point of the check."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> Result:
        with callers_errstate(), takes_arguments(function, args):
            return function(*args, **kwargs)

    return called


@contextlib.contextmanager
def away_from_the_point() -> Iterator[None]:
    """For points that the caller has not chosen: as the caller has set, but without warnings."""
    token = _callers.set(_quiet(_callers.get()))
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _callers.reset(token)


def _quiet(state: dict[str, Any] | None) -> dict[str, Any] | None:
    return state and {kind: "ignore" if how == "warn" else how for kind, how in state.items()}


def displaced(function: Callable[P, Result]) -> Callable[P, Result]:
    """The caller's function as it is called at displaced points: as the caller has set, but without warnings.

    The NaN of log(-1e-7) is an answer there, and nothing that the caller did. Where the caller has set nothing but
    warnings it is the function itself: a change of the setting takes a microsecond.
    """
    state = _quiet(_callers.get())
    if state is None or all(how == "ignore" for kind, how in state.items() if kind != "call"):
        return function

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> Result:
        with np.errstate(**state):
            return function(*args, **kwargs)

    return called
