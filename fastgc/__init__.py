"""Check hand-written gradients: pass, fail or undecided, with the tensor, the entry and the kind of bug."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgc._public import loader

__version__ = "0.1.0"

__all__ = [
    "check_gradients",
    "assert_gradients",
    "GradientMismatch",
    "GradientReport",
    "TensorSummary",
    "Entry",
    "Diagnosis",
    "record",
    "numerical_gradient",
    "numerical_jacobian",
    "gradient_check",
    "check_jacobian",
    "check_hessian",
    "JacobianReport",
    "relative_error",
    "max_relative_error",
    "interpret",
    "step_sweep",
    "torch",
    "jax",
    "__version__",
]

if TYPE_CHECKING:  # what checkers of types and editors see
    from fastgc import jax, torch
    from fastgc._check import GradientMismatch, assert_gradients, check_gradients
    from fastgc._classic import gradient_check, numerical_gradient, numerical_jacobian
    from fastgc._compare import interpret, max_relative_error, relative_error
    from fastgc._diagnosis import Diagnosis
    from fastgc._jacobian import check_hessian, check_jacobian
    from fastgc._jacobian_report import JacobianReport
    from fastgc._kernels import record
    from fastgc._report import Entry, GradientReport, TensorSummary
    from fastgc._sweep import step_sweep
else:  # the same names, loaded on first use: importing fastgc imports neither Numba nor SciPy
    __getattr__ = loader(
        __name__,
        {
            "check_gradients": "_check",
            "assert_gradients": "_check",
            "GradientMismatch": "_check",
            "GradientReport": "_report",
            "TensorSummary": "_report",
            "Entry": "_report",
            "Diagnosis": "_diagnosis",
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
            "torch": "",
            "jax": "",
        },
    )


def __dir__() -> list[str]:
    return sorted(__all__)
