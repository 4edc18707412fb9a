"""Check hand-written gradients: pass, fail or undecided, with the tensor, the entry and the kind of bug.

`check_gradients` compares a gradient with numerical derivatives of its loss and returns a `GradientReport`;
`assert_gradients` raises unless it passes. `check_jacobian` and `check_hessian` do the same for other derivatives,
`fastgc.torch` and `fastgc.jax` for the gradients of these frameworks.

Examples
--------
>>> import numpy as np
>>> import fastgc
>>> loss = lambda params, x: np.sum(np.tanh(x @ params["W"]) ** 2)
>>> def gradients(params, x):
...     h = np.tanh(x @ params["W"])
...     return {"W": x.T @ (2 * h * (1 - h))}  # wrong: the derivative of tanh is 1 - h**2
>>> x, W = np.linspace(-1, 1, 12).reshape(4, 3), np.linspace(0, 1, 6).reshape(3, 2)
>>> report = fastgc.check_gradients(loss, gradients, {"W": W}, args=(x,))
>>> report.verdict, report.tensors["W"].wrong_entries
('fail', <6 entries of 'W'>)
"""

# The parts of the package, each of which imports only from those below it:
#
# - ``torch``, ``jax``, ``_numerical`` (derivatives without a verdict, costs), ``_scipy`` (problems and solvers of
#   SciPy), ``_model`` (objects that hold their parameters), ``_load``, ``_command`` (the command line and its
#   demonstration), ``_pytest`` (the plugin): no other part imports them
# - ``_jacobian``: `check_jacobian` and `check_hessian`
# - ``_gradient``: `check_gradients`
# - ``_reports``: results as data, text, pages and pictures
# - ``_diagnosis``: the kind of bug that the numbers are consistent with
# - ``_verdicts``: pass, fail or undecided, for entries and tensors
# - ``_derivatives``: numerical slopes with their uncertainty
# - ``_evaluation``: the loss at displaced points
# - ``_parameters``: layout, samples, random streams
# - ``_arguments``, ``_progress``, ``_public``, ``_frames``, ``_words``, ``_missing``, ``_forks``: words, checks of
#   arguments, the progress bar, tracebacks, locks

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgc._public import loader

__version__ = "0.1.0"

__all__ = [
    "check_gradients",
    "assert_gradients",
    "GradientMismatch",
    "Interrupted",
    "GradientReport",
    "TensorSummary",
    "Entry",
    "Diagnosis",
    "Gradcheck",
    "tensor_names",
    "record",
    "stages",
    "Stage",
    "dense",
    "numerical_gradient",
    "numerical_jacobian",
    "gradient_check",
    "check_jacobian",
    "assert_jacobian",
    "check_hessian",
    "assert_hessian",
    "JacobianMismatch",
    "JacobianReport",
    "relative_error",
    "max_relative_error",
    "interpret",
    "Report",
    "load_report",
    "step_sweep",
    "StepSweep",
    "taylor_test",
    "TaylorTest",
    "benchmark",
    "Benchmark",
    "attributes",
    "at_vector",
    "check_problem",
    "ProblemReport",
    "checked",
    "CheckedDerivative",
    "torch",
    "jax",
    "__version__",
]

if TYPE_CHECKING:  # for type checkers and editors
    from fastgc import jax, torch
    from fastgc._diagnosis.diagnosis import Diagnosis
    from fastgc._evaluation.numba_record import record
    from fastgc._evaluation.stages import Stage, dense, stages
    from fastgc._gradient.check import GradientMismatch, assert_gradients, check_gradients
    from fastgc._gradient.interrupted import Interrupted
    from fastgc._jacobian.check import JacobianMismatch, assert_jacobian, check_jacobian
    from fastgc._jacobian.hessian import assert_hessian, check_hessian
    from fastgc._jacobian.report import JacobianReport
    from fastgc._load import load_report
    from fastgc._model import at_vector, attributes
    from fastgc._numerical.benchmark import Benchmark, benchmark
    from fastgc._numerical.derivatives import gradient_check, numerical_gradient, numerical_jacobian
    from fastgc._numerical.step_sweep import StepSweep, step_sweep
    from fastgc._numerical.taylor_test import TaylorTest, taylor_test
    from fastgc._parameters.layout import tensor_names
    from fastgc._pytest.fixture import Gradcheck
    from fastgc._reports.entries import Entry
    from fastgc._reports.gradient import GradientReport, TensorSummary
    from fastgc._reports.report import Report
    from fastgc._scipy.problem import check_problem
    from fastgc._scipy.report import ProblemReport
    from fastgc._scipy.visited import CheckedDerivative, checked
    from fastgc._verdicts.errors import interpret, max_relative_error, relative_error
else:  # the same names, loaded on first use: importing fastgc imports neither Numba nor SciPy
    __getattr__ = loader(
        __name__,
        {
            "check_gradients": "_gradient.check",
            "assert_gradients": "_gradient.check",
            "GradientMismatch": "_gradient.check",
            "Interrupted": "_gradient.interrupted",
            "GradientReport": "_reports.gradient",
            "TensorSummary": "_reports.gradient",
            "Entry": "_reports.entries",
            "Diagnosis": "_diagnosis.diagnosis",
            "Gradcheck": "_pytest.fixture",
            "tensor_names": "_parameters.layout",
            "record": "_evaluation.numba_record",
            "stages": "_evaluation.stages",
            "Stage": "_evaluation.stages",
            "dense": "_evaluation.stages",
            "numerical_gradient": "_numerical.derivatives",
            "numerical_jacobian": "_numerical.derivatives",
            "gradient_check": "_numerical.derivatives",
            "check_jacobian": "_jacobian.check",
            "assert_jacobian": "_jacobian.check",
            "check_hessian": "_jacobian.hessian",
            "assert_hessian": "_jacobian.hessian",
            "JacobianMismatch": "_jacobian.check",
            "JacobianReport": "_jacobian.report",
            "relative_error": "_verdicts.errors",
            "max_relative_error": "_verdicts.errors",
            "interpret": "_verdicts.errors",
            "Report": "_reports.report",
            "load_report": "_load",
            "step_sweep": "_numerical.step_sweep",
            "StepSweep": "_numerical.step_sweep",
            "taylor_test": "_numerical.taylor_test",
            "TaylorTest": "_numerical.taylor_test",
            "benchmark": "_numerical.benchmark",
            "Benchmark": "_numerical.benchmark",
            "attributes": "_model",
            "at_vector": "_model",
            "check_problem": "_scipy.problem",
            "ProblemReport": "_scipy.report",
            "checked": "_scipy.visited",
            "CheckedDerivative": "_scipy.visited",
            "torch": "",
            "jax": "",
        },
    )


def __dir__() -> list[str]:
    return sorted(__all__)
