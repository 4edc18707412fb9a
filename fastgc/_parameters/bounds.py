"""Bounds of the parameters, outside which the loss is never evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._parameters.arrays import Array, Floats, Positions
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.sampling import matching_names


@dataclass(frozen=True)
class Bounds:
    """The interval of every entry.

    Attributes
    ----------
    lower, upper : arrays, shape (entries,)
        Of the flat vector of all parameters; -inf and inf where an entry is free.
    """

    lower: Floats
    upper: Floats

    def contain(self, positions: Positions, values: Array) -> NDArray[np.bool_]:
        """Which values of entries lie inside, ends included; shape of ``values``, (entries, ...)."""
        edges = (each[positions].reshape(-1, *[1] * (values.ndim - 1)) for each in (self.lower, self.upper))
        low, high = edges
        return np.asarray((values.real >= low) & (values.real <= high))

    def room(self, positions: Positions, values: Floats) -> Floats:
        """The distance of entries from their nearest bound, shape (entries,)."""
        return np.asarray(np.minimum(values - self.lower[positions], self.upper[positions] - values))

    def folded(self, positions: Positions, start: Array, rows: Array) -> Array:
        """Rows of values of entries, shape (rows, entries), brought inside.

        An entry that would leave its bounds in any row moves as far inwards in all rows, or not at all where it cannot.
        """
        inside = self.contain(positions, rows.T).all(axis=1)
        if inside.all():
            return rows
        found = np.where(inside, rows, start)
        for way in (-1.0, 1.0):
            moved = start + way * np.abs(rows - start)
            fits = ~inside & self.contain(positions, moved.T).all(axis=1)
            found[:, fits] = moved[:, fits]
        return found

    def inside(self, start: Sequence[Array], moved: Sequence[Array]) -> list[Array]:
        """``moved``, but where that is outside: half of the way from ``start`` to the bound that it passed."""
        found, begin = [], 0
        for here, there in zip(start, moved, strict=True):
            low, high = (each[begin : begin + here.size].reshape(here.shape) for each in (self.lower, self.upper))
            below, above = there < low, there > high
            found.append(np.where(below, here / 2 + low / 2, np.where(above, here / 2 + high / 2, there)))
            begin += here.size
        return found


def parse_bounds(bounds: object, layout: ParameterLayout, leaves: Sequence[Array]) -> Bounds:
    """The bounds in one of the forms that `fastgc.check_gradients` takes.

    Parameters
    ----------
    bounds : scipy.optimize.Bounds, sequence of pairs, or mapping of name or pattern to a pair
        ``lb`` and ``ub`` of the first are numbers or arrays of the flat vector's length; of the second there is one
        pair ``(lower, upper)`` for each entry of the flat vector, None for no bound. A pair of the mapping holds
        numbers or arrays that broadcast to the tensor's shape; an exact name wins over patterns, a later pattern over
        an earlier one, and tensors without a name are free.

    Raises
    ------
    TypeError, ValueError
        For another form or shape, for a lower bound above the upper one, and for parameters outside.
    """
    found = Bounds(np.full(layout.size, -np.inf), np.full(layout.size, np.inf))
    if isinstance(bounds, Mapping):
        for pattern in sorted(bounds, key=lambda pattern: pattern in layout.numbers):
            for name in matching_names(pattern, layout.numbers, "bounds"):
                _fill(found, layout, layout.numbers[name], bounds[pattern])
    elif hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        for flat, side, given in ((found.lower, "lb", bounds.lb), (found.upper, "ub", bounds.ub)):
            flat[:] = _broadcast(given, flat.shape, f"bounds.{side}")
    else:
        _fill_pairs(found, bounds)
    _refuse(found, layout, leaves)
    return found


def _fill(found: Bounds, layout: ParameterLayout, tensor: int, pair: object) -> None:
    name, shape = layout.names[tensor], layout.shapes[tensor]
    if not (isinstance(pair, Sequence) and len(pair) == 2):
        raise TypeError(f"bounds[{name!r}] is {pair!r}; it must be a pair (lower, upper)")
    mine = slice(int(layout.starts[tensor]), int(layout.starts[tensor + 1]))
    for flat, given, free in ((found.lower, pair[0], -np.inf), (found.upper, pair[1], np.inf)):
        flat[mine] = _broadcast(free if given is None else given, shape, f"bounds[{name!r}]").reshape(-1)


def _fill_pairs(found: Bounds, pairs: Any) -> None:
    """One pair for each entry of the flat vector."""
    size = found.lower.size
    form = "bounds must be scipy.optimize.Bounds, a sequence of (lower, upper) pairs, or a dict of name to such a pair"
    if isinstance(pairs, str) or not hasattr(pairs, "__len__"):
        raise TypeError(f"{form}; got a {type(pairs).__name__}")
    if len(pairs) != size:
        raise ValueError(f"bounds has {len(pairs)} pairs; it must have one for each of the {size} entries of params")
    for i, pair in enumerate(pairs):
        if not (hasattr(pair, "__len__") and len(pair) == 2):
            raise TypeError(f"{form}; pair {i} is {pair!r}")
        found.lower[i] = -np.inf if pair[0] is None else pair[0]
        found.upper[i] = np.inf if pair[1] is None else pair[1]


def _broadcast(value: object, shape: tuple[int, ...], name: str) -> Floats:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; bounds are real numbers or arrays of them") from None
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{name} has shape {array.shape}; it must broadcast to {shape}") from None


def _refuse(found: Bounds, layout: ParameterLayout, leaves: Sequence[Array]) -> None:
    """Raise a ValueError that names the first entry whose bounds cross, or that lies outside them."""
    for t, leaf in enumerate(leaves):
        mine = slice(int(layout.starts[t]), int(layout.starts[t + 1]))
        low, high, values = found.lower[mine], found.upper[mine], leaf.reshape(-1)
        for bad, text in (
            (~(low <= high), "has the lower bound {low:.6g}, which is not at most the upper one, {high:.6g}"),
            (~((values >= low) & (values <= high)), "is {value:.6g}, outside its bounds [{low:.6g}, {high:.6g}]"),
        ):
            if bad.any():
                k = int(np.argmax(bad))
                where = f"{layout.names[t]}{list(layout.index(t, k)) or ''}"
                raise ValueError(f"bounds: {where} {text.format(low=low[k], high=high[k], value=float(values[k]))}")
