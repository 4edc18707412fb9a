"""The precision in which a check runs: ``jax_enable_x64`` while it does, and words about dtypes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from fastgc._arguments import noted

_ABOUT_DTYPES = "dtype|float64|f64"  # matches JAX's messages about arrays of two dtypes


@contextlib.contextmanager
def in_precision(precision: str) -> Iterator[list[str]]:
    """Switch on float64 while the check runs, if it is needed and off; yields notes that say so."""
    off = not jax.config.jax_enable_x64
    if precision == "native":
        yield ["jax_enable_x64 is off: the loss runs in float32, whose round-off hides small errors"] if off else []
        return
    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable_x64(True):
        yield ["jax_enable_x64 is off: switched on while this check runs"] if off else []


def noted_as_double(precision: str) -> contextlib.AbstractContextManager[None]:
    """Add to an exception about dtypes that the function runs in float64."""
    if precision == "native":
        return contextlib.nullcontext()
    return noted(TypeError, _ABOUT_DTYPES, "fastgc evaluates the function in float64")
