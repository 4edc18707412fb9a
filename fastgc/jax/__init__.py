"""Checks of JAX's gradients; JAX is imported when one of them is first used."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {"check_gradients": "_gradients", "check_grads": "_grads"}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastgc.jax' has no attribute {name!r}")
    try:
        importlib.import_module("jax")
    except ModuleNotFoundError as error:
        raise ImportError(f"fastgc.jax.{name} needs JAX, which is not installed: pip install 'fastgc[jax]'") from error
    value = getattr(importlib.import_module(f"fastgc.jax.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
