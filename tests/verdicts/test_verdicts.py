"""No correct problem of the catalogue is accused; wrong gradients, every third, fail in their own tensors only."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import fastgc
from tests.support.catalogue import Problem, correct_problems, wrong_gradients

CORRECT = {problem.name: problem for problem in correct_problems()}
WRONG = {wrong.name: wrong for wrong in wrong_gradients()[::3]}  # bench/accuracy.py takes all
WRONG |= {wrong.name: wrong for wrong in wrong_gradients() if wrong.kind == "entry"}
DOUBLE = [name for name, problem in CORRECT.items() if "float32" not in problem.tags]


@cache
def report_of(name: str) -> fastgc.GradientReport:
    """The check of a correct problem under default settings."""
    problem = CORRECT[name]
    return fastgc.check_gradients(problem.loss, problem.gradients, problem.params, args=problem.args)


def bits(problem: Problem) -> list[bytes]:
    return [value.tobytes() for value in problem.params.values()]


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_gradient_is_not_accused(name: str) -> None:
    before = bits(CORRECT[name])
    report = report_of(name)
    assert report.verdict != "fail", str(report)
    for tensor in report.tensors.values():
        assert tensor.verdict == "pass" or tensor.reason, f"{tensor.name} is undecided without a reason"
        assert all(entry.reason for entry in tensor.entries if entry.verdict == "undecided"), tensor.name
    assert bits(CORRECT[name]) == before


def test_few_correct_gradients_of_double_precision_are_undecided() -> None:
    undecided = [name for name in DOUBLE if report_of(name).verdict == "undecided"]
    assert len(undecided) <= 0.03 * len(DOUBLE), undecided


@cache
def report_of_wrong(name: str) -> fastgc.GradientReport:
    """The check of a wrong gradient at all its entries."""
    problem = WRONG[name].problem
    return fastgc.check_gradients(
        problem.loss, problem.gradients, problem.params, args=problem.args, samples="all", crosscheck=False
    )


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gradient_fails_and_no_other_tensor_does(name: str) -> None:
    wrong = WRONG[name]
    before = bits(wrong.problem)
    report = report_of_wrong(name)
    failed = {tensor.name for tensor in report.tensors.values() if tensor.verdict == "fail"}
    assert report.verdict == "fail", str(report)
    assert failed <= set(wrong.tensors), str(report)
    assert bits(wrong.problem) == before


@pytest.mark.parametrize("name", [name for name, wrong in WRONG.items() if wrong.kind == "entry"])
def test_a_single_wrong_entry_is_the_only_one_named(name: str) -> None:
    wrong = WRONG[name]
    right = wrong.correct(wrong.problem.params, *wrong.problem.args)
    given = wrong.problem.gradients(wrong.problem.params, *wrong.problem.args)
    (tensor,) = wrong.tensors
    (where,) = zip(*np.nonzero(right[tensor] != given[tensor]), strict=True)
    found = report_of_wrong(name).tensors[tensor].wrong_entries
    assert [entry.index for entry in found] == [tuple(int(i) for i in where)]
