"""A gradient is the Jacobian of a function with one output: both doors give the same verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from fastgc import check_gradients, check_jacobian
from tests.support.catalogue import Problem, Wrong, correct_problems, wrong_gradients
from tests.support.conventions import right_problems, wrong_problems
from tests.support.jacobians import Floats, row_of, scalar, two_kinks

MOST = 12  # entries of each problem that vary; the others keep their values, which makes the check of all entries cheap


class Flat(NamedTuple):
    """A loss of one flat vector, and its gradient."""

    loss: Callable[[Floats], float]
    gradient: Callable[[Floats], Floats]
    point: Floats


def flattened(problem: Problem, correct: Callable[..., Any] | None = None) -> Flat:
    """Some entries of all parameters in one vector; half of them where a wrong gradient is wrong."""
    names, shapes = list(problem.params), [p.shape for p in problem.params.values()]
    cuts = np.cumsum([p.size for p in problem.params.values()])[:-1]
    whole = np.concatenate([p.ravel() for p in problem.params.values()])

    def joined(gradients: Any) -> Floats:
        return np.concatenate([np.ravel(gradients[name]) for name in names])

    some = chosen(whole.size, problem, correct, joined)

    def params(x: Floats) -> Any:
        full = whole.astype(x.dtype)
        full[some] = x
        return {n: part.reshape(s) for n, s, part in zip(names, shapes, np.split(full, cuts), strict=True)}

    return Flat(
        lambda x: problem.loss(params(x), *problem.args),
        lambda x: joined(problem.gradients(params(x), *problem.args))[some],
        whole[some],
    )


def chosen(size: int, problem: Problem, correct: Callable[..., Any] | None, joined: Any) -> Any:
    order = np.random.default_rng(size).permutation(size)
    if correct is not None:
        given, right = (joined(each(problem.params, *problem.args)) for each in (problem.gradients, correct))
        wrong = np.argsort(-np.abs(given - right), kind="stable")[: MOST // 2]
        order = np.concatenate([wrong, np.setdiff1d(order, wrong)])
    return np.sort(order[:MOST])


def verdicts(flat: Flat) -> list[str]:
    """By check_gradients; as a row; as the first of two rows, the other of which is right and linear."""
    loss, gradient, x = flat
    other = np.cos(np.arange(x.size)) / np.fmax(np.abs(x), 1e-300)
    one = check_gradients(
        lambda p: loss(p["x"]), lambda p: {"x": gradient(p["x"])}, {"x": x}, samples="all", crosscheck=False
    )
    row = check_jacobian(lambda x: np.array([loss(x)]), lambda x: gradient(x)[None, :], x, columns="all")
    two = check_jacobian(
        lambda x: np.array([loss(x), other @ x]), lambda x: np.stack([gradient(x), other]), x, columns="all"
    )
    return [one.verdict, row.verdict, two.verdict]


RIGHT, WRONG = correct_problems()[::12], wrong_gradients()[::24]  # bench/doors.py takes all
SECOND = {problem.name: problem for problem in right_problems()[::5]} | dict([*wrong_problems().items()][::24])


@pytest.mark.parametrize("problem", RIGHT, ids=lambda problem: problem.name)
def test_right_gradients_have_the_same_verdict_at_both_doors(problem: Problem) -> None:
    found = verdicts(flattened(problem))
    assert len(set(found)) == 1, found
    assert "fail" not in found


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_wrong_gradients_have_the_same_verdict_at_both_doors(wrong: Wrong) -> None:
    found = verdicts(flattened(wrong.problem, wrong.correct))
    assert len(set(found)) == 1, found
    assert "pass" not in found


@pytest.mark.parametrize("name", SECOND)
def test_the_second_catalogue_has_the_same_verdicts_at_both_doors(name: str) -> None:
    given = SECOND[name]
    found = verdicts(Flat(lambda x: given.loss({"x": x}), lambda x: given.gradients({"x": x})["x"], given.params["x"]))
    assert len(set(found)) == 1, found


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("seeds", [range(3), range(25, 28), range(50, 53), [84, 655, 881, 1048]])
def test_two_kinks_near_the_point_have_the_same_verdict_and_never_fail(seeds: Sequence[int], seen: bool) -> None:
    """Of the last four, no difference shows the kinks: their values are those of a function without any."""
    for seed in seeds:
        function, jacobian, x = two_kinks(seed, seen=seen)
        gradient = check_gradients(scalar(function), scalar(jacobian), x, samples="all", crosscheck=False)
        row = check_jacobian(row_of(function, 0, 1), row_of(jacobian, 0, 1), x)
        found = [gradient.verdict, row.verdict, check_jacobian(function, jacobian, x).verdict]
        assert len(set(found)) == 1, (seed, found)
        assert "fail" not in found, seed
