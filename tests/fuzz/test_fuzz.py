"""Three hundred random calls, and whether the harness sees what it should see. `python -m tests.fuzz` runs more."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest

import fastgc
from tests.fuzz import invariants
from tests.fuzz.invariants import Violation, outcome, warm_up
from tests.fuzz.program import Program, drawn

BLOCK = 50  # seeds of one test: a failing one is found among few


@pytest.mark.parametrize("first", range(0, 300, BLOCK))
def test_every_invariant_holds_after_random_calls(first: int) -> None:
    warm_up()
    for seed in range(first, first + BLOCK):
        outcome(drawn(seed))  # the violation says which; python -m tests.fuzz --seed N --runs 1 prints the program


def test_the_draws_reach_every_door_and_most_endings() -> None:
    programs = [drawn(seed) for seed in range(300)]
    assert len({program.door for program in programs}) > 16
    assert {True, False} == {program.good for program in programs} == {program.wrong for program in programs}


PLANTED = {
    "arrays were changed": ("a0 = np.ones(3)", "a0[0] = 2"),
    "environment": ("", "os.environ['FASTGC_PLANTED'] = '1'"),
    "errstate": ("", "np.seterr(all='raise')"),
    "sys.path": ("", "sys.path.append('planted')"),
    "warning filters": ("", "warnings.filterwarnings('always')"),
    "np.random": ("", "np.random.rand()"),
    "names no parameter": ("", "fastgc._arguments.number('nothing', 'a')"),
    "raw error out of our frames": ("", "fastgc.Report.passed.fget(3)"),
}


@pytest.mark.parametrize("said", PLANTED)
def test_a_planted_violation_is_seen(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(invariants.sys, "path", [*invariants.sys.path])
    before, act = PLANTED[said]
    program = Program(0, ["import fastgc._arguments", before, "def call():", f"    {act}"])
    with pytest.raises(Violation, match=said), warnings.catch_warnings():
        outcome(program)


def test_a_nan_that_passes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    report = fastgc.check_gradients(lambda x: x @ x, lambda x: 2 * x, np.ones(3))
    program = Program(0, ["def call(report=[]):", "    return report[0]", "# gradients, params"], poisoned=True)
    with pytest.raises(Violation, match="not a number passes"):
        invariants._judged_result(program, report, {})


def test_a_wrong_verdict_is_seen() -> None:
    report = fastgc.check_gradients(lambda x: x @ x, lambda x: 2 * x, np.ones(3))
    with pytest.raises(Violation, match="wrong by a factor passes"):
        invariants._judged_result(Program(1, ["call"], wrong=True), report, {})
    failed = fastgc.check_gradients(lambda x: x @ x, lambda x: 3 * x, np.ones(3))
    with pytest.raises(Violation, match="a right gradient fails"):
        invariants._judged_result(Program(1, ["call"]), failed, {})
