"""Arguments that make no sense, refused before any arithmetic."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from fastgc._derivatives.stencil import stencil_named
from fastgc._parameters.layout import Array, ParameterLayout, listed
from fastgc._words import Engine, Precision, Samples

_MOST_EVALUATIONS = 2000  # that the default number of samples may take
_FLOOR = 2  # entries of each tensor, however many tensors there are


class _Default(int):
    """A default that can be told from the same number given by the caller."""


DEFAULT_SAMPLES = _Default(32)


def validate(
    layout: ParameterLayout,
    leaves: Sequence[Array],
    gradients: Any,
    *,
    args: Any,
    stencil: str,
    step: Any,
    rtol: Any,
    atol: Any,
    precision: str,
    engine: str,
    threads: Any,
    workers: Any,
    vectorized: bool,
    points: Any,
    in_place: bool,
    seed: Any,
    probes: Any,
    time_budget: Any,
) -> None:
    """Check every argument by itself, then those that exclude each other.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what it may be.
    """
    if not isinstance(args, tuple):
        raise TypeError(f"args is a {type(args).__name__}; it must be a tuple: write args=(value,) for one argument")
    validate_scope(step=step, rtol=rtol, atol=atol, seed=seed, probes=probes)
    chosen = stencil_named(stencil)
    one_of("precision", precision, get_args(Precision))
    one_of("engine", engine, get_args(Engine))
    number("time_budget", time_budget, positive=True)
    whole("threads", threads, least=1, optional=True)
    whole("workers", workers, least=-1)
    if workers == 0:
        raise ValueError("workers is 0; it must be at least 1, or -1 for all cores")
    whole("points", points, least=1)
    _refuse_conflicts(engine, workers, vectorized, in_place, gradients)
    if in_place and engine == "numba":
        raise ValueError('in_place=True displaces the caller\'s arrays from Python: it cannot go with engine="numba"')
    if in_place and chosen.is_complex:
        raise ValueError('in_place=True cannot hold the complex numbers of stencil="complex_step"; use in_place=False')
    if points > 1 and not (callable(gradients) or gradients is True):
        raise ValueError(f"points={points} needs gradients as a function, to have them at every point; got arrays")
    refuse_nonfinite(layout, leaves)


def _refuse_conflicts(engine: str, workers: int, vectorized: bool, in_place: bool, gradients: Any) -> None:
    """Raise a ValueError for ways of running the loss that exclude each other."""
    asked = [f"workers={workers}"] * (workers != 1) + ["vectorized=True"] * bool(vectorized)
    if len(asked) == 2:
        raise ValueError(f"{asked[0]} cannot go with {asked[1]}: a loss runs in processes or in blocks; choose one")
    for each in asked:
        if engine == "numba":
            raise ValueError(f'{each} calls the loss from Python: it cannot go with engine="numba", which has threads')
        if in_place:
            raise ValueError(f"{each} works on copies of the parameters: it cannot go with in_place=True")
    if vectorized and gradients is True:
        raise ValueError(
            "vectorized=True cannot go with gradients=True: the loss returns one value for each row and nothing else; "
            "pass gradients as a function of the plain parameters"
        )


def validate_scope(*, step: Any, rtol: Any, atol: Any, seed: Any, probes: Any) -> None:
    """Check the numbers that say how closely a gradient is checked, whatever evaluates its loss."""
    number("step", step, positive=True)
    number("rtol", rtol)
    number("atol", atol)
    whole("seed", seed, least=0)
    whole("probes", probes, least=0)


def refuse_nonfinite(layout: ParameterLayout, leaves: Sequence[Array], what: str = "params") -> None:
    """Raise a ValueError that counts the NaN and infinite entries of each tensor."""
    bad = {
        name: leaf.size - np.count_nonzero(np.isfinite(leaf)) for name, leaf in zip(layout.names, leaves, strict=True)
    }
    if any(bad.values()):
        parts = [f"{what}[{name!r}] has {count} entries that are not finite" for name, count in bad.items() if count]
        raise ValueError(f"{listed(parts, quote=False)}; a derivative exists only at finite parameters")


def one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise a ValueError unless the value is among those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


def number(name: str, value: Any, *, positive: bool = False) -> None:
    """Raise unless the value is None or a finite number that is not negative (with ``positive``: nor zero)."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}; it must be a number or None")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{name} is {value!r}; it must be finite and {'above 0' if positive else 'at least 0'}")


def whole(name: str, value: Any, *, least: int, optional: bool = False) -> None:
    """Raise unless the value is an integer of at least ``least`` (or None, where that is allowed)."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; it must be an integer{' or None' if optional else ''}")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")


# --- names and patterns ---


def selected(patterns: str | Sequence[str] | None, names: Sequence[str]) -> set[str]:
    """The names that ``tensors`` selects; a pattern that selects nothing is a ValueError."""
    if patterns is None:
        return set(names)
    if not isinstance(patterns, Sequence):
        raise TypeError(f"tensors is {patterns!r}; it must be a name, a pattern, or a list of these")
    each = [patterns] if isinstance(patterns, str) else list(patterns)
    if not each:
        raise ValueError(f"tensors is {patterns!r}, which selects nothing; None selects all")
    return {name for pattern in each for name in _matching(pattern, names, "tensors")}


def sample_counts(samples: Samples, names: Sequence[str], tensors: int, probes: int) -> dict[str, int]:
    """Entries to sample by name; an exact name wins over patterns, a later pattern over an earlier one.

    The default falls where ``tensors`` tensors of that many samples would be too many and probes cover them anyway.
    """
    default = (
        max(_FLOOR, min(DEFAULT_SAMPLES, _MOST_EVALUATIONS // (2 * max(1, tensors)))) if probes else DEFAULT_SAMPLES
    )
    if not isinstance(samples, Mapping):
        count = default if isinstance(samples, _Default) else _count(samples, "samples", probes)
        return dict.fromkeys(names, int(count))
    counts = dict.fromkeys(names, int(default))
    for pattern in sorted(samples, key=lambda pattern: pattern in names):
        for name in _matching(pattern, names, "samples"):
            counts[name] = _count(samples[pattern], f"samples[{pattern!r}]", probes)
    return counts


def _count(value: Any, name: str, probes: int) -> int:
    if isinstance(value, str):
        one_of(name, value, ("all",))
        return np.iinfo(np.int64).max
    whole(name, value, least=0)
    if value == 0 and not probes:
        raise ValueError(f"{name}=0 and probes=0 would check nothing; raise one of them")
    return int(value)


def _matching(pattern: Any, names: Sequence[str], argument: str) -> list[str]:
    if not isinstance(pattern, str):
        raise TypeError(f"{argument} has {pattern!r}; names and patterns are strings")
    expression = re.compile(fnmatch.translate(pattern.replace("[", "[[]")))
    found = [pattern] if pattern in names else [name for name in names if expression.match(name)]
    if not found:
        raise ValueError(f"{argument} has {pattern!r}, which names no tensor; the tensors are {listed(names)}")
    return found
