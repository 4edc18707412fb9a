"""Packages that cannot be imported."""

from __future__ import annotations

import builtins
from typing import Any

import pytest


def make_missing(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Have imports of a package fail from now on, as where it is not installed."""
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
