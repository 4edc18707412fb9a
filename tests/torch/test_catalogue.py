"""The catalogue as functions and modules of PyTorch: the same verdicts as those of `fastgc.check_gradients`."""

from __future__ import annotations

import pytest

from tests.support import doors

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
from torch.autograd.gradcheck import GradcheckError

from fastgc.torch import check_module, gradcheck
from tests.support.torch_door import TIGHT, Module, function, tensors


@pytest.mark.parametrize("name", doors.chosen(0))
def test_check_module_says_what_check_gradients_says(name: str) -> None:
    problem = doors.problems()[name]
    report = check_module(Module(problem), (), lambda output: output, samples=8)
    assert report.verdict == doors.verdict(problem, samples=8)


@pytest.mark.parametrize("name", doors.chosen(1))
def test_gradcheck_says_what_check_gradients_says(name: str) -> None:
    problem = doors.problems()[name]
    found = "pass"
    try:
        gradcheck(function(problem), tuple(each.requires_grad_() for each in tensors(problem)), **TIGHT)
    except GradcheckError as error:
        found = "undecided" if str(error).startswith("undecided:") else "fail"
    assert found == doors.verdict(problem, samples="all", **TIGHT)
