"""What evaluates a loss at displaced points: the protocol, the directions, what a loss may return and raise."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed
from fastgc._parameters.arrays import Array, Floats, Positions
from fastgc._parameters.layout import ParameterLayout

Tick = Callable[[int], object]  # told how many entries were evaluated


class OutOfTime(Exception):
    """The time that a check may take is over."""


class WrongValueError(Exception):
    """What a function returned cannot be used: an error wherever it happens, and not how a function is undefined."""


class WrongTypeError(WrongValueError, TypeError):
    """It is no real number, or no array of them."""


class WrongShapeError(WrongValueError, ValueError):
    """It has another shape than it must have."""


_SAME_CHANGE, _SAME_EPS = 1e-3, 1e3  # by how much values computed in two ways may differ: of change, and of round-off


_HEAD, _TAIL = 120, 80  # characters of an exception's text that a note repeats: a traceback says at its end what it was


UNDEFINED = {np.float64: math.nan, np.complex128: complex(math.nan, math.nan)}  # by dtype: both parts are nan


@dataclass(frozen=True)
class Ray:
    """Neighbouring entries of one tensor, displaced together by their signs times a length.

    Attributes
    ----------
    tensor, start : the tensor, and the first of its entries in C order
    signs : array of int8, +1 or -1, shape (entries,)
    scale : the length of a distance of 1, in every entry
    """

    tensor: int
    start: int
    signs: NDArray[np.int8]
    scale: float


@dataclass(frozen=True)
class Place:
    """A displaced point, in words, and whether a single entry is displaced there."""

    text: str
    single: bool


@dataclass(frozen=True)
class Raised:
    """What a loss raised at displaced points: it is not defined there, and counts as nan.

    Attributes
    ----------
    count : how often
    first : the first exception, or None
    text : type and text of the first one, or of the first at a point with a single displaced entry
    place : where that was raised
    kinds : names of the types of all of them, in the order in which they were met
    answered : whether the loss gave a value at some displaced point
    """

    count: int = 0
    first: Exception | None = None
    text: str = ""
    place: Place | None = None
    kinds: tuple[str, ...] = ()
    answered: bool = False

    def joined(self, later: Raised) -> Raised:
        """With what was raised later."""
        told = later if self.place is None or (later.place and later.place.single > self.place.single) else self
        first, kinds = self.first or later.first, tuple(dict.fromkeys((*self.kinds, *later.kinds)))
        return Raised(self.count + later.count, first, told.text, told.place, kinds, self.answered or later.answered)

    def also(self, error: Exception, place: Callable[[], Place]) -> Raised:
        """With one exception more; ``place`` is asked for if it matters."""
        matters = self.place is None or not self.place.single
        where = place() if matters else None
        return self.joined(Raised(1, error, described(error) if matters else "", where, (type(error).__name__,)))

    def pass_on(self) -> None:
        """Raise the first exception if the loss raised at every displaced point."""
        if self.first is not None and not self.answered:
            raise self.first

    def notes(self, what: str = "the loss") -> tuple[str, ...]:
        """One note on all of them, none if there were none."""
        if self.place is None:
            return ()
        times = "once" if self.count == 1 else f"{self.count:,} times"
        others = [kind for kind in self.kinds if not self.text.startswith(kind)]
        also = f"; also {listed(others, quote=False)}" if others else ""
        where = f"{times}, {'' if self.count == 1 else 'first '}at {self.place.text}{also}"
        return (f"{what} raised {self.text} ({where}): taken as not defined there",)


def described(error: BaseException) -> str:
    """The type of an exception and its text, in one line; of a long one the beginning and the end."""
    text = ""
    with contextlib.suppress(Exception):  # of an exception that cannot be printed
        text = " ".join(str(error).split())
    text = text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} ... {text[-_TAIL:]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Evaluator(Protocol):
    """Values of one loss around one point.

    At a displaced point the loss is nan where it raises: it is not defined there. ``raised`` tells of that.
    """

    name: str

    @property
    def raised(self) -> Raised:
        """What the loss raised at displaced points so far."""

    @property
    def evaluations(self) -> int:
        """How often the loss was called so far."""

    def value(self) -> Any:
        """The loss at the point itself."""

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """The loss with entry ``positions[i]`` set to ``displaced[i, j]``, shape of ``displaced``."""

    def along(self, positions: Positions, rows: Array) -> Array:
        """The loss with all entries ``positions`` set to ``rows[j]`` together, shape (rows,)."""

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        """The loss at ``distances`` along each direction, which its rays make together, (directions, distances)."""

    def entries(self, positions: Positions) -> Array:
        """The entries at ``positions``, as float64."""

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        """``displaced``, shape (positions, columns), as the dtype of each entry's tensor can hold it."""

    def close(self) -> None:
        """Put back whatever is displaced and end the threads."""


def silent(count: int) -> None:
    """Progress that nobody watches."""


def as_number(value: Any, *, complex_allowed: bool = False) -> Any:
    """The value of a loss as a float (or complex, where the step is).

    Raises
    ------
    TypeError
        For None, text, complex numbers and anything else that is no real number.
    ValueError
        For an array of several values.
    """
    if type(value) is float:
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of unequal lengths
        array = np.asarray(None)
    if array.dtype.kind not in ("fiubc" if complex_allowed else "fiub"):
        what = "complex: not supported" if array.dtype.kind == "c" else "no real number"
        raise WrongTypeError(f"loss returned {_short(value)} ({type(value).__name__}), {what}; return one real number")
    if array.size != 1:
        raise WrongShapeError(f"loss returned an array of shape {array.shape}; it must return one value, not several")
    return array.reshape(-1)[0].item()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def agree(values: Array, others: Array, base: float, eps: float) -> bool:
    """Whether values computed in two ways are the same, so far as their change from ``base`` shows; never with NaN."""
    slack = _SAME_CHANGE * np.abs(others - base).max() + _SAME_EPS * eps * np.abs(others).max()
    return bool(np.all(np.abs(values - others) <= slack))


def at_entry(layout: ParameterLayout, position: int, entry: Any) -> Place:
    """The point at which one entry is displaced."""
    tensor = int(layout.tensor_of(np.array([position]))[0])
    index = layout.index(tensor, position - int(layout.starts[tensor]))
    return Place(f"{layout.names[tensor]}{list(index) if index else ''} = {entry:.6g}", single=True)


def at_entries(layout: ParameterLayout, positions: Positions) -> Place:
    """A point at which several entries are displaced together."""
    names = [layout.names[t] for t in np.unique(layout.tensor_of(positions))]
    return Place(f"{positions.size} entries of {listed(names, quote=False, limit=3)} displaced together", single=False)


def along_direction(layout: ParameterLayout, rays: Sequence[Ray], distance: float) -> Place:
    """A point along a direction."""
    names = listed([layout.names[ray.tensor] for ray in rays], quote=False, limit=3)
    return Place(f"{abs(distance):.2g} scales along random signs in {names}", single=False)
