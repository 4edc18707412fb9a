"""The options of a check, refused where they make no sense by themselves or together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from fastgc._arguments import number, one_of, whole
from fastgc._derivatives.stencil import stencil_named
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.matching import refuse_nonfinite
from fastgc._words import Engine, Precision


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
