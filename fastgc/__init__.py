"""Check hand-written gradients: pass, fail or undecided, with the tensor, the entry and the kind of bug."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Names are loaded on first use: importing fastgc imports neither Numba nor SciPy.
_HOME = {
    "check_gradients": "_check",
    "assert_gradients": "_check",
    "GradientMismatch": "_check",
    "GradientReport": "_report",
    "TensorSummary": "_report",
    "Entry": "_report",
    "Diagnosis": "_diagnose",
    "record": "_kernels",
    "numerical_gradient": "_classic",
    "numerical_jacobian": "_classic",
    "gradient_check": "_classic",
    "check_jacobian": "_jacobian",
    "check_hessian": "_jacobian",
    "JacobianReport": "_jacobian_report",
    "relative_error": "_compare",
    "max_relative_error": "_compare",
    "interpret": "_compare",
    "step_sweep": "_sweep",
}

_PACKAGES = ("torch", "jax")  # which need more than fastgc's own dependencies

__all__ = [*_HOME, *_PACKAGES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"fastgc.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'fastgc' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fastgc.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
