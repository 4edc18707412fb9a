"""What the diagnoses of several points and of several tensors say together."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest

import fastgc
from fastgc import _words
from fastgc._diagnosis.diagnosis import Clues, diagnose, diagnose_values
from fastgc._diagnosis.measured_tensor import MeasuredTensor
from fastgc._diagnosis.sparse_patterns import Repeats
from tests.support.catalogue import alone, edited
from tests.support.diagnosed import check, problems
from tests.support.tensors import slopes

# --- several points ---


def test_points_that_agree_have_one_diagnosis() -> None:
    def loss(p: np.ndarray) -> float:
        return float(np.cosh(p).sum())

    x = slopes(12)
    same = fastgc.check_gradients(loss, lambda p: 2 * np.sinh(p), x, points=3)
    assert same.tensors["params"].diagnosis.factor == pytest.approx(2)
    elsewhere = fastgc.check_gradients(loss, lambda p: (2 + (p[0] != x[0])) * np.sinh(p), x, points=2)
    assert elsewhere.tensors["params"].verdict == "fail"
    assert elsewhere.tensors["params"].diagnosis is None


# --- tensors together ---


def together(**factors: Any) -> list[str]:
    """The notes on a check of several tensors, each with a gradient wrong by its factors."""
    params = {name: slopes(10, seed=i) for i, name in enumerate(factors)}
    report = fastgc.check_gradients(
        lambda p: float(sum(np.sin(v).sum() for v in p.values())),
        lambda p: {name: factors[name] * np.cos(v) for name, v in p.items()},
        params,
    )
    return list(report.notes)


SOME = 1 + 0.1 * slopes(10, seed=7)


def test_right_and_wrong_tensors_are_told_in_the_order_of_the_parameters() -> None:
    assert together(W1=2, b1=1, W2=1) == ["b1, W2 are right, W1 is wrong"]
    assert together(W1=1, b1=SOME, W2=SOME) == ["W1 is right, b1, W2 are wrong"]
    assert together(W1=2, b1=SOME, W2=1) == ["W2 is right, W1, b1 are wrong"]


def test_a_shared_factor_is_said() -> None:
    shared = "b2 is right, W1, b1 are wrong by the same factor 3: look at what W1, b1 share"
    assert together(W1=3, b1=3, b2=1) == [shared]
    assert together(W1=3, b1=3.01, b2=1) == ["b2 is right, W1, b1 are wrong"]
    assert together(W1=3, b1=3) == ["all 2 tensors are wrong by the same factor 3"]
    assert together(W1=-1, b1=-1) == ["all 2 tensors are wrong by the same sign: the gradient is of the negative loss"]


def test_nothing_is_said_of_one_tensor_or_where_all_is_right() -> None:
    assert together(W1=2) == together(W1=1, b1=1) == together(W1=SOME, b1=SOME) == []


def test_a_mean_for_a_sum_is_said() -> None:
    problem = problems()["mlp-tanh-mse"]
    report = check(edited(problem, "", "", tuple(problem.params), alone(lambda g: 12 * g)).problem)
    assert report.notes == (
        "all 4 tensors are wrong by the same factor 12: the loss is a mean where the gradient is of a sum, or the "
        "reverse: N = 12 is the batch axis of args[0]",
    )


def test_a_shared_term_is_said() -> None:
    problem = problems()["mlp-tanh-mse"]
    report = check(edited(problem, "", "", ("W1", "W2"), lambda g, p, t: g[t] - 0.1 * p[t]).problem)
    assert report.notes == (
        "b1, b2 are right, W1, W2 are wrong by the same term: analytic - numerical = -0.1 * parameter (weight decay "
        "missing, or too weak?): look at what W1, W2 share",
    )


# --- numbers of all kinds ---

ODD = np.array([0, 0, np.nan, np.inf, -np.inf, 1e-320, 1e308, -1e308, 1e-300, 1, 2, -1, 1e-17])


def odd_tensor(rng: np.random.Generator) -> MeasuredTensor:
    """A small tensor of any shape, with numbers of any size, zeros, and analytic values that are not finite."""
    shape = tuple(rng.integers(1, 6, size=rng.integers(1, 4)).tolist())
    size = math.prod(shape)
    finite = ODD[np.isfinite(ODD)]
    local = np.sort(rng.choice(size, rng.integers(1, size + 1), replace=False))
    n, p = (np.where(rng.random(local.size) < 0.2, rng.choice(finite, local.size), rng.normal(size=local.size))
            for _ in range(2))  # fmt: skip
    a = np.where(rng.random(size) < 0.3, rng.choice(ODD, size), rng.normal(size=size) * 10.0 ** rng.choice([0, -300]))
    unknown = rng.random(local.size) < rng.choice([0, 0.2, 1], p=[0.6, 0.3, 0.1])
    slack = np.where(unknown, np.inf, 1e-5 * np.abs(n) + 1e-300)
    n = np.where(unknown, 0, n)
    wrong = ~(np.abs(a[local] - n) <= slack)
    return MeasuredTensor(shape, a, local, n, slack, p, wrong, ~wrong, {3: "here"}, uncertainty=1e-4 * slack)


def test_any_numbers_are_served() -> None:
    rng = np.random.default_rng(0)
    kinds = set(get_args(_words.Kind))
    for _ in range(150):
        with np.errstate(all="ignore"):
            seen = odd_tensor(rng)
            clues = Clues({"other": seen}, {"other": 2.0}, (), [Repeats("ids", np.array([0, 1]), np.array([2]))])
            found = diagnose(seen, clues, extra=int(rng.integers(seen.local.size)))
            values = diagnose_values(seen.alone(np.ones(seen.local.size, bool)))
        assert all(each is None or each.kind in kinds for each in (found, values))
