"""Checks of PyTorch's gradients; PyTorch is imported when one of them is first used."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {"gradcheck": "_gradcheck", "gradgradcheck": "_gradcheck", "check_module": "_module"}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastgc.torch' has no attribute {name!r}")
    try:
        importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"fastgc.torch.{name} needs PyTorch, which is not installed: pip install 'fastgc[torch]'"
        ) from error
    value = getattr(importlib.import_module(f"fastgc.torch.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
