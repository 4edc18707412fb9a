"""Reports of every kind, for tests of what shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

import fastgc
from fastgc._reports.entries import Entries
from fastgc._reports.operations import Operation, Slope
from fastgc._verdicts.errors import elementwise_error


def _check(factors: dict[str, Any], **options: Any) -> Any:
    params = {name: np.random.default_rng(i).uniform(1, 2, (6, 7)) for i, name in enumerate(factors)}

    def loss(p: Any) -> float:
        return float(sum(np.sum(np.sin(each)) for each in p.values()))

    return fastgc.check_gradients(
        loss, lambda p: {name: factors[name] * np.cos(p[name]) for name in p}, params, **options
    )


def _undecided() -> Any:
    return fastgc.check_gradients(lambda p: float(np.floor(20 * p)), np.array(20.0), np.array(1.0))


def _one_of_many() -> Any:
    p = np.random.default_rng(0).uniform(1, 2, (500, 500))
    wrong = 2 * p
    wrong[123, 77] *= 1.5
    return fastgc.check_gradients(lambda p: float(np.vdot(p, p)), wrong, p)


def _jacobian() -> Any:
    x = np.linspace(0.1, 1, 6)
    wrong = np.diag(np.cos(x))
    wrong[2, 3] = 0.5
    return fastgc.check_jacobian(np.sin, wrong, x)


def _infinite() -> Any:
    return fastgc.check_gradients(lambda p: float(p @ p), np.array([2.0, np.nan, np.inf]), np.ones(3))


def _empty() -> Any:
    return fastgc.check_gradients(lambda p: 1.0, {"a": np.empty((0, 3))}, {"a": np.empty((0, 3))})


def _operations() -> Any:
    """A failing check of a network, with its operations."""
    wrong = Slope("x", 1.5, 1.0, 1e-9, "fail")
    operations = (
        Operation("net.<0>", "Gelu", "Gelu.backward", 1, "fail", "", (wrong,), 12),
        Operation("net.<1>", "Linear", "Linear.backward", 1, "pass", "", (), 8),
    )
    return replace(_check({"a": 1.5}), operations=operations)


REPORTS: dict[str, Callable[[], Any]] = {
    "pass": cache(lambda: _check({"a": 1, "b": 1})),
    "fail": cache(lambda: _check({"a": 1, "b": 1.5, "c": np.where(np.arange(42).reshape(6, 7) == 8, 0, 1)})),
    "undecided": cache(_undecided),
    "one of many": cache(_one_of_many),
    "jacobian": cache(_jacobian),
    "right jacobian": cache(lambda: fastgc.check_jacobian(np.sin, lambda x: np.diag(np.cos(x)), np.linspace(0, 1, 30))),
    "points": cache(lambda: _check({"a": 1, "b": -1}, points=3, samples=5)),
    "not finite": cache(_infinite),
    "empty": cache(_empty),
    "operations": cache(_operations),
}


@cache
def many_entries(count: int) -> Any:
    """A report on as many entries, every hundredth of them wrong: made up, because a check of so many takes long."""
    report = _check({"w": 1})
    rng = np.random.default_rng(0)
    analytic, fail = rng.normal(size=count), np.arange(count) % 100 == 7
    numerical = np.where(fail, analytic * 1.5, analytic * (1 + 1e-9 * rng.normal(size=count)))
    columns = {
        "point": np.zeros(count, np.int64),
        "analytic": analytic,
        "numerical": numerical,
        "uncertainty": np.exp2(rng.integers(-30, -20, count)),
        "step": np.exp2(rng.integers(-18, -15, count)),
        "relative_error": elementwise_error(analytic, numerical),
        "verdict": np.where(fail, "fail", "pass").astype(object),
        "reason": np.full(count, "", object),
    }
    entries = Entries("w", (count // 100, 100), np.arange(count), columns)
    wrong = entries.part(np.flatnonzero(fail))
    tensor = replace(
        report.tensors["w"], shape=entries.shape, size=count, checked=count, verdict="fail", reason="many differ",
        worst=wrong[0], entries=entries, wrong_entries=wrong,
    )  # fmt: skip
    return replace(report, verdict="fail", tensors={"w": tensor})
