"""The options of a check, refused where they make no sense alone or together."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import numpy as np

from fastgc._arguments import flag, number, one_of, refuse_deep, whole
from fastgc._derivatives.stencil import stencil_named
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.workers_option import elsewhere, named, refuse_workers
from fastgc._parameters.arrays import DType, Floats
from fastgc._parameters.bounds import parse_bounds
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.sampling import DEFAULT_SAMPLES, Selection, matching_names, select
from fastgc._parameters.symmetric import parse_symmetric
from fastgc._verdicts.judgement import DEFAULT_RTOL, Tolerances
from fastgc._words import Engine, Precision, Samples, Tolerance, Workers

_BFLOAT16_RTOL = 8e-2  # ten units of its round-off, 2**-7, as 1e-2 is of float16


def _refuse_tolerances(name: str, value: object) -> None:
    given = {f"{name}[{key!r}]": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
    for key, each in given.items():
        number(key, each)


def _refuse_path(name: str, value: object) -> None:
    if not (value is None or isinstance(value, str | os.PathLike)):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be the path of a file, or None")


# What raises unless an option, given by its name and its value, makes sense alone.
_REFUSALS: dict[str, Callable[[str, Any], object]] = {
    "step": partial(number, positive=True),
    "rtol": _refuse_tolerances,
    "atol": _refuse_tolerances,
    "time_budget": partial(number, positive=True),
    "seed": partial(whole, least=0),
    "probes": partial(whole, least=0),
    "points": partial(whole, least=1),
    "threads": partial(whole, least=1, optional=True),
    "workers": lambda name, value: refuse_workers(value),
    "checkpoint": _refuse_path,
    **dict.fromkeys(("vectorized", "in_place", "crosscheck", "progress"), flag),
    "precision": partial(one_of, allowed=get_args(Precision)),
    "engine": partial(one_of, allowed=get_args(Engine)),
    "stencil": lambda name, value: stencil_named(value),
}


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """How a gradient is checked: the options of `fastgc.check_gradients`, under the same names.

    Attributes
    ----------
    accepted : an absolute difference within which nothing stays undecided; atol where it is None

    Raises
    ------
    TypeError, ValueError
        Naming the option, its value and what it may be.
    """

    tensors: str | Sequence[str] | None = None
    samples: Samples = DEFAULT_SAMPLES
    probes: int = 3
    stencil: str = "central"
    step: float | None = None
    rtol: Tolerance = None
    atol: Tolerance = None
    accepted: float | None = None
    precision: str = "double"
    engine: str = "auto"
    threads: int | None = None
    workers: Workers = 1
    vectorized: bool = False
    points: int = 1
    bounds: object = None
    symmetric: str | Sequence[str] | None = None
    in_place: bool = False
    crosscheck: bool = True
    time_budget: float | None = None
    seed: int = 0
    progress: bool = False
    checkpoint: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        given, defaults = vars(self), vars(CheckOptions)
        for name, refuse in _REFUSALS.items():
            if given[name] is not defaults[name]:
                refuse(name, given[name])
        self._refuse_conflicts()

    def _refuse_conflicts(self) -> None:
        """Raise a ValueError for ways of running the loss that exclude each other."""
        asked = [named(self.workers)] if elsewhere(self.workers) else []
        asked += ["vectorized=True"] if self.vectorized else []
        if len(asked) == 2:
            raise ValueError(f"{asked[0]} cannot go with {asked[1]}: a loss runs in processes or in blocks; choose one")
        for each in asked:
            if self.engine == "numba":
                raise ValueError(
                    f'{each} calls the loss from Python: it cannot go with engine="numba", which has threads'
                )
            if self.in_place:
                raise ValueError(f"{each} works on copies of the parameters: it cannot go with in_place=True")
        if self.in_place and self.engine == "numba":
            raise ValueError(
                'in_place=True displaces the caller\'s arrays from Python: it cannot go with engine="numba"'
            )
        if self.in_place and stencil_named(self.stencil).is_complex:
            raise ValueError(
                'in_place=True cannot hold the complex numbers of stencil="complex_step"; use in_place=False'
            )

    def refuse_gradients(self, gradients: object) -> None:
        """Raise a ValueError where gradients given in this form cannot go with the options."""
        if self.vectorized and gradients is True:
            raise ValueError(
                "vectorized=True cannot go with gradients=True: the loss returns one value for each row and nothing "
                "else; pass gradients as a function of the plain parameters"
            )
        if self.points > 1 and not (callable(gradients) or gradients is True):
            raise ValueError(
                f"points={self.points} needs gradients as a function, to have them at every point; got arrays"
            )

    def applied_to(self, loss: CallersLoss) -> CallersLoss:
        """The loss with the bounds and the symmetric tensors of the options, and complex where the stencil is."""
        bounds = None if self.bounds is None else parse_bounds(self.bounds, loss.layout, loss.leaves)
        symmetric = parse_symmetric(self.symmetric, loss.layout, loss.leaves)
        is_complex = stencil_named(self.stencil).is_complex
        if bounds is None and symmetric is None and not is_complex:
            return loss
        return replace(loss, bounds=bounds, symmetric=symmetric, is_complex=is_complex)

    def tolerances(self, names: Sequence[str], dtypes: Sequence[DType]) -> Tolerances:
        """Of the tensors with these names and dtypes of the analytic gradient."""
        rtol, atol = by_tensor(self.rtol, names, "rtol"), by_tensor(self.atol, names, "atol")
        defaults = np.array([DEFAULT_RTOL[dtype] for dtype in dtypes])
        accepted = by_tensor(self.accepted, names, "accepted")
        return Tolerances(defaults if rtol is None else np.where(np.isnan(rtol), defaults, rtol), atol, accepted)

    def with_bfloat16(self, tensors: Mapping[str, bool]) -> CheckOptions:
        """With a tolerance for tensors of bfloat16, which NumPy does not know, where the caller gives none.

        Parameters
        ----------
        tensors : for each tensor by its name, whether it is of that dtype
        """
        given = by_tensor(self.rtol, [*tensors], "rtol")
        free = [True] * len(tensors) if given is None else np.isnan(given).tolist()
        coarse = [name for (name, is_coarse), free in zip(tensors.items(), free, strict=True) if free and is_coarse]
        if not coarse or self.precision == "double":
            return self
        named = self.rtol if isinstance(self.rtol, Mapping) else {}
        return replace(self, rtol={**named, **dict.fromkeys(coarse, _BFLOAT16_RTOL)})

    def deadline(self, begin: float, number: int) -> float:
        """When the check of a point ends, of ``time.perf_counter``: every point has its share of the time budget."""
        return begin + (self.time_budget or math.inf) * (number + 1) / self.points

    def selected(self, layout: ParameterLayout) -> Selection:
        """Which tensors are checked, and how many entries of each."""
        return select(layout, self.tensors, self.samples, self.probes)


def by_tensor(value: Tolerance, names: Sequence[str], argument: str) -> Floats | None:
    """A number for each tensor, nan where a mapping names none; None for None. An exact name wins over patterns."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return np.full(len(names), float(value))
    found, numbers = np.full(len(names), np.nan), {name: t for t, name in enumerate(names)}
    for pattern in sorted(value, key=lambda pattern: pattern in numbers):
        for name in matching_names(pattern, numbers, argument):
            found[numbers[name]] = value[pattern]
    return found


def refuse_args(args: object) -> None:
    """Raise a TypeError unless the arguments of the loss are a tuple, a ValueError if they contain themselves."""
    if not isinstance(args, tuple):
        raise TypeError(f"args is a {type(args).__name__}; it must be a tuple: write args=(value,) for one argument")
    refuse_deep("args", args)
