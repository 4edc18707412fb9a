"""Symmetric parameters: mirrored entries are displaced together, whatever the convention of the gradient."""

from __future__ import annotations

import re
from typing import Any

import numba
import numpy as np
import pytest

import fastgc

RNG = np.random.default_rng(0)
A = RNG.standard_normal((6, 6))
S = A @ A.T + 6 * np.eye(6)
X = RNG.standard_normal((40, 6))
PARAMS = {"S": S, "m": RNG.standard_normal(6)}
N = len(X)


def negative_log_likelihood(p: dict[str, np.ndarray]) -> float:
    """Of normal data; it reads one triangle only, as a Cholesky factor does."""
    factor = np.linalg.cholesky(p["S"])
    z = np.linalg.solve(factor, (X - p["m"]).T)
    return float(0.5 * np.sum(z**2) + N * np.sum(np.log(np.diag(factor))))


def full(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    inverse = np.linalg.inv(p["S"])
    z = inverse @ (X - p["m"]).T
    return {"S": 0.5 * (N * inverse - z @ z.T), "m": -z.sum(axis=1)}


def triangle(p: dict[str, np.ndarray], keep: Any = np.tril) -> dict[str, np.ndarray]:
    found = full(p)
    both = 2 * found["S"] - np.diag(np.diag(found["S"]))
    return found | {"S": keep(both)}


def upper(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return triangle(p, np.triu)


CONVENTIONS = [(full, "the full gradient"), (triangle, "the lower triangle"), (upper, "the upper triangle")]


@pytest.mark.parametrize(("gradients", "text"), CONVENTIONS)
@pytest.mark.parametrize("samples", [4, 32, "all"])
def test_every_convention_passes_and_is_named(gradients: Any, text: str, samples: Any) -> None:
    report = fastgc.check_gradients(negative_log_likelihood, gradients, PARAMS, symmetric="S", samples=samples)
    assert report.passed, report
    assert any(f"'S' is symmetric: entries [i, j] and [j, i] are displaced together and compared with {text}" in note
               for note in report.notes)  # fmt: skip


def test_without_it_the_same_gradient_fails() -> None:
    assert fastgc.check_gradients(negative_log_likelihood, full, PARAMS).verdict == "fail"


@pytest.mark.parametrize("samples", [2, "all"])
@pytest.mark.parametrize("index", [(3, 1), (1, 3), (2, 2)])
def test_a_wrong_pair_is_found_and_named_below_the_diagonal(index: tuple[int, int], samples: Any) -> None:
    found = full(PARAMS)
    found["S"][index] += 0.3
    report = fastgc.check_gradients(negative_log_likelihood, found, PARAMS, symmetric=["S"], samples=samples)
    assert report.verdict == "fail"
    assert {entry.index for entry in report.tensors["S"].wrong_entries} == {(max(index), min(index))}
    assert report.tensors["m"].verdict == "pass"


@pytest.mark.parametrize("wrong", ["factor", "off-diagonal halved"])
def test_other_mistakes_fail(wrong: str) -> None:
    found = full(PARAMS)
    found["S"] *= 1.01 if wrong == "factor" else np.where(np.eye(6, dtype=bool), 1, 0.5)
    assert fastgc.check_gradients(negative_log_likelihood, found, PARAMS, symmetric="S").verdict == "fail"


def test_the_loss_sees_symmetric_matrices_only() -> None:
    def loss(p: dict[str, np.ndarray]) -> float:
        assert np.array_equal(p["S"], p["S"].T)
        return negative_log_likelihood(p)

    exact = PARAMS | {"S": np.tril(S) + np.tril(S, -1).T}
    report = fastgc.check_gradients(loss, full, exact, symmetric="S", points=3)
    assert report.passed, report
    assert not any("raised" in note for note in report.notes)
    wrong = {name: 1.1 * each for name, each in full(exact).items()}
    assert fastgc.check_gradients(loss, wrong, exact, symmetric="S", previous=exact | {"m": 0 * X[0]}).verdict == "fail"


@pytest.mark.parametrize("options", [{"in_place": True}, {"stencil": "five_point"}, {"probes": 0}, {"time_budget": 60}],
                         ids=str)  # fmt: skip
def test_with_other_options(options: dict[str, Any]) -> None:
    p = {name: each.copy() for name, each in PARAMS.items()}
    assert fastgc.check_gradients(negative_log_likelihood, full, p, symmetric="S", **options).passed
    assert all(np.array_equal(p[name], PARAMS[name]) for name in p)


def test_a_stack_of_metrics_in_a_compiled_loss() -> None:
    @numba.njit
    def loss(g: np.ndarray) -> float:
        total = 0.0
        for k in range(g.shape[0]):
            for i in range(g.shape[1]):
                for j in range(i + 1):
                    total += (k + 1) * g[k, i, j] ** 2 * g[k, j, j]
        return total

    g = RNG.standard_normal((3, 4, 4))
    g = g + np.swapaxes(g, 1, 2)
    found = np.zeros_like(g)
    for k in range(3):
        for i in range(4):
            for j in range(i + 1):
                found[k, i, j] += (k + 1) * 2 * g[k, i, j] * g[k, j, j]
                found[k, j, j] += (k + 1) * g[k, i, j] ** 2
    assert fastgc.check_gradients(loss, found, g, symmetric="params", engine="numba").passed
    found[2, 3, 1] *= 1.01
    report = fastgc.check_gradients(loss, found, g, symmetric="params", engine="numba")
    assert [entry.index for entry in report.tensors["params"].wrong_entries] == [(2, 3, 1)]


@pytest.mark.parametrize(
    ("names", "params", "error", "message"),
    [
        ("T", PARAMS, ValueError, "symmetric has 'T', which names no tensor"),
        ("m", PARAMS, ValueError, "symmetric names 'm' of shape (6,); its last two axes must be of one length"),
        ("S", PARAMS | {"S": A}, ValueError, "symmetric names 'S', which is not: [i, j] and [j, i] differ"),
        (3, PARAMS, TypeError, "symmetric is 3; it must be a name"),
        ([], PARAMS, ValueError, "symmetric is [], which selects nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(names: Any, params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        fastgc.check_gradients(lambda p: 0.0, full, params, symmetric=names)


def test_a_locally_constant_function_with_a_zero_gradient_passes() -> None:
    for params in (np.ones(3), {"S": S}):
        zeros = np.zeros(3) if isinstance(params, np.ndarray) else {"S": 0 * S}
        assert fastgc.check_gradients(lambda p: 1.0, zeros, params).passed
        assert fastgc.check_gradients(lambda p: 0.0, zeros, params).passed
    assert fastgc.check_gradients(lambda p: float(np.floor(p.sum() / 10)), np.zeros(3), np.full(3, 1.3)).passed
    assert fastgc.check_gradients(lambda p: 1.0, np.full(3, 1e-3), np.ones(3)).verdict == "fail"
