"""Checking PyTorch: whole modules."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {"check_module": "_module"}

__all__ = ["check_module"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastgc.torch' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fastgc.torch.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
