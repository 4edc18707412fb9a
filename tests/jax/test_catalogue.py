"""The catalogue as functions of JAX: the same verdicts as those of `fastgc.check_gradients`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import doors

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")

from fastgc.jax import check_gradients, check_grads  # noqa: E402
from tests.support.jax_door import TIGHT, function, sorted_problem  # noqa: E402


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("name", doors.chosen(2))
def test_check_gradients_says_the_same_of_jax_and_of_numpy(name: str) -> None:
    problem = sorted_problem(name)
    report = check_gradients(function(problem), dict(problem.params), samples=4)
    assert report.verdict == doors.verdict(problem, samples=4)


@pytest.mark.parametrize("name", doors.chosen(3))
def test_check_grads_says_what_check_gradients_says(name: str) -> None:
    problem = sorted_problem(name)
    found = "pass"
    try:
        check_grads(function(problem), (dict(problem.params),), 1, modes="rev", **TIGHT)
    except AssertionError as error:
        found = "undecided" if str(error).startswith("undecided:") else "fail"
    assert found == doors.verdict(problem, within=("args", "0"), **TIGHT)
