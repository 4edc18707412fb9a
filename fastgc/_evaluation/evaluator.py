"""Evaluators of a loss at displaced points: their protocol, directions, and what a loss may return and raise."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed
from fastgc._parameters.arrays import Array, Positions, distinct, returned_values
from fastgc._parameters.layout import ParameterLayout

Result = TypeVar("Result")
Tick = Callable[[int], object]  # takes the number of entries that were evaluated since the last call


class OutOfTime(Exception):
    """The time budget of the check is used up."""


class Stopped(OutOfTime):
    """The check was interrupted: there is no time for another call of the loss.

    Attributes
    ----------
    values : what `Evaluator.values` had computed until then, nan elsewhere; None if nothing is known
    """

    values: Array | None = None


class WrongValueError(Exception):
    """A function returned something unusable. This ends the check at any point: it does not mean "not defined here"."""


class WrongTypeError(WrongValueError, TypeError):
    """A function returned neither a real number nor an array of real numbers."""


class WrongShapeError(WrongValueError, ValueError):
    """A function returned an array of a wrong shape."""


# Characters of an exception's text that a note repeats, about two lines: the beginning, and the end, where a text that
# holds a traceback names the error.
_HEAD, _TAIL = 120, 80
_TENSORS = 3  # names of displaced tensors in a note: with more, it would not fit on two lines
_REPR_LENGTH = 60  # characters of a wrong value that a message shows: half a line


LEAST_SECONDS = 1e-9  # of an evaluation, where a clock shows none
UNDEFINED = {np.float64: math.nan, np.complex128: complex(math.nan, math.nan)}  # by dtype: both parts are nan


@dataclass(frozen=True)
class Ray:
    """Neighbouring entries of one tensor that are displaced together, each by ``distance * scale * weight``.

    Attributes
    ----------
    tensor, start : number of the tensor, and position inside it of the first entry, in C order
    weights : array of int8, shape (entries,); an entry with a weight of 0 stays where it is
    scale : the displacement at a distance of 1 of an entry with a weight of 1
    """

    tensor: int
    start: int
    weights: NDArray[np.int8]
    scale: float


@dataclass(frozen=True)
class Place:
    """A displaced point in words, and whether only one entry is displaced there."""

    text: str
    single: bool


@dataclass(frozen=True)
class Raised:
    """The exceptions of a loss at displaced points. The loss counts as not defined there: its value is nan.

    Attributes
    ----------
    count : number of exceptions
    first : the first exception, or None
    text : type and text of one exception: the first at a point with a single displaced entry, else the first of all
    place : the point where that exception was raised
    kinds : names of the types of all exceptions, in the order in which they came
    answered : whether the loss returned a value at some displaced point
    """

    count: int = 0
    first: Exception | None = None
    text: str = ""
    place: Place | None = None
    kinds: tuple[str, ...] = ()
    answered: bool = False

    def joined(self, later: Raised) -> Raised:
        """These exceptions and later ones."""
        shown = later if self.place is None or (later.place and later.place.single > self.place.single) else self
        first, kinds = self.first or later.first, tuple(dict.fromkeys((*self.kinds, *later.kinds)))
        return Raised(self.count + later.count, first, shown.text, shown.place, kinds, self.answered or later.answered)

    def also(self, error: Exception, place: Callable[[], Place]) -> Raised:
        """These exceptions and one more. ``place`` is called only if the result needs it."""
        matters = self.place is None or not self.place.single
        where = place() if matters else None
        return self.joined(Raised(1, error, described(error) if matters else "", where, (type(error).__name__,)))

    def pass_on(self) -> None:
        """Raise the first exception again if the loss raised at every displaced point."""
        if self.first is not None and not self.answered:
            raise self.first

    def notes(self, what: str = "the loss") -> tuple[str, ...]:
        """One note for the report, or none where nothing was raised."""
        if self.place is None:
            return ()
        times = "once" if self.count == 1 else f"{self.count:,} times"
        others = [kind for kind in self.kinds if not self.text.startswith(kind)]
        also = f"; also {listed(others, quote=False)}" if others else ""
        where = f"{times}, {'' if self.count == 1 else 'first '}at {self.place.text}{also}"
        return (f"{what} raised {self.text} ({where}): taken as not defined there",)


def attempted(call: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    """What a call returns, or None and what it raises where it is not defined; a `WrongValueError` passes through."""
    try:
        return call(), None
    except (WrongValueError, Stopped):
        raise
    except Exception as error:
        return None, error


def described(error: BaseException) -> str:
    """The type and the text of an exception in one line; a long text is shortened in the middle."""
    text = ""
    with contextlib.suppress(Exception):  # its __str__ may raise
        text = " ".join(str(error).split())
    text = text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} ... {text[-_TAIL:]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Evaluator(Protocol):
    """Values of one loss around one point.

    At a displaced point where the loss raises, its value is nan and the exception is kept in ``raised``.
    """

    @property
    def name(self) -> str:
        """How the loss is evaluated, for reports."""

    @property
    def raised(self) -> Raised:
        """The exceptions of the loss at displaced points so far."""

    @property
    def evaluations(self) -> int:
        """The number of calls of the loss so far."""

    def value(self) -> Any:
        """The loss at the point itself."""

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """The loss with entry ``positions[i]`` set to ``displaced[i, j]``, for each i and j; shape of ``displaced``."""

    def along(self, positions: Positions, rows: Array) -> Array:
        """The loss with all entries ``positions`` set to ``rows[j]`` at once, for each j; shape (rows,)."""

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array:
        """The loss at each distance along each direction (all its rays at once); shape (directions, distances).

        Distances may be complex where the parameters are.
        """

    def entries(self, positions: Positions) -> Array:
        """The entries at ``positions``, as float64."""

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        """``displaced``, shape (positions, columns), rounded to the dtype of each entry's tensor."""

    def close(self) -> None:
        """Restore displaced entries and end threads and processes."""


def silent(count: int) -> None:
    """A `Tick` that shows no progress."""


def value_of_pair(returned: object) -> Any:
    """The value of a loss that returns ``(value, gradients)``; a TypeError for one that returns anything else."""
    if isinstance(returned, (tuple, list)) and len(returned) == 2:
        return returned[0]
    raise WrongTypeError(
        f"gradients=True, but loss returned {_short(returned)} ({type(returned).__name__}); "
        "it must return (value, gradients)"
    )


def as_number(value: object, *, complex_allowed: bool = False) -> Any:
    """The value of a loss as a float (or a complex number, where the complex step allows it).

    Raises
    ------
    TypeError
        For None, text, complex numbers and anything else that is not a real number.
    ValueError
        For an array of several values.
    """
    if isinstance(value, float):  # NumPy's float64 is one, too
        return float(value)
    try:
        array = returned_values(value)
    except Exception:  # nested lists of unequal lengths; a tensor that needs its gradient
        array = np.asarray(None)
    if array.dtype.kind not in ("fiubc" if complex_allowed else "fiub"):
        what = "which is complex: not supported" if array.dtype.kind == "c" else "which is not a real number"
        raise WrongTypeError(
            f"loss returned {_short(value)} ({type(value).__name__}), {what}; return one real number{_of_pair(value)}"
        )
    if array.size != 1:
        raise WrongShapeError(
            f"loss returned an array of shape {array.shape}; it must return one value, not several" + _of_pair(value)
        )
    return array.reshape(-1)[0].item()


def _of_pair(value: object) -> str:
    """What to pass where a loss returns its value and its gradients."""
    return ", or pass gradients=True for a pair (value, gradients)" if type(value) is tuple and len(value) == 2 else ""


def _short(value: object) -> str:
    text = object.__repr__(value)
    with contextlib.suppress(Exception):  # its __repr__ may raise
        text = repr(value)
    return text if len(text) <= _REPR_LENGTH else text[: _REPR_LENGTH - 3] + "..."


def at_entry(layout: ParameterLayout, position: int, entry: object) -> Place:
    """The point where one entry is displaced."""
    tensor = int(layout.tensor_of(np.array([position]))[0])
    index = layout.index(tensor, position - int(layout.starts[tensor]))
    return Place(f"{layout.names[tensor]}{list(index) if index else ''} = {entry:.6g}", single=True)


def at_entries(layout: ParameterLayout, positions: Positions) -> Place:
    """A point where several entries are displaced together."""
    names = [layout.names[t] for t in distinct(layout.tensor_of(positions))]
    some = listed(names, quote=False, limit=_TENSORS)
    return Place(f"{positions.size} entries of {some} displaced together", single=False)


def along_direction(layout: ParameterLayout, rays: Sequence[Ray], distance: complex) -> Place:
    """A point along a direction."""
    names = listed([layout.names[ray.tensor] for ray in rays], quote=False, limit=_TENSORS)
    return Place(f"{abs(distance):.2g} scales along a random direction in {names}", single=False)
