"""A gradient of an earlier moment: named where the parameters of that moment are given, and only there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

import fastgc
from fastgc._derivatives.loss_at_point import unmeasured_loss
from fastgc._derivatives.noise import Noise
from fastgc._derivatives.stencil import stencil_named
from fastgc._diagnosis.earlier import gradient_elsewhere
from fastgc._evaluation.evaluator import OutOfTime
from fastgc._evaluation.python import PythonEvaluator
from fastgc._parameters.layout import flatten_parameters
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.judgement import Tolerances
from tests.support.texts import unbroken

Array = NDArray[Any]
Params = dict[str, Array]

MOST = 64  # evaluations at the earlier parameters for each failing tensor
MESSAGE = "consistent with the gradient at the parameters in `previous` (computed before the last update?)"
RNG = np.random.default_rng(0)
X, LABELS, TARGETS = RNG.normal(size=(20, 5)), RNG.integers(2, size=20) * 1.0, RNG.normal(size=(20, 3))


# --- models ---


def mlp(p: Params, x: Array, y: Array) -> float:
    return float(np.mean((np.tanh(x @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"] - y) ** 2))


def mlp_slopes(p: Params, x: Array, y: Array) -> Params:
    h = np.tanh(x @ p["W1"] + p["b1"])
    d = 2 * (h @ p["W2"] + p["b2"] - y) / y.size
    below = (d @ p["W2"].T) * (1 - h**2)
    return {"W1": x.T @ below, "b1": below.sum(axis=0), "W2": h.T @ d, "b2": d.sum(axis=0)}


def mlp_point() -> Params:
    rng = np.random.default_rng(1)
    return {"W1": rng.normal(size=(5, 7)), "b1": np.zeros(7), "W2": rng.normal(size=(7, 3)), "b2": np.zeros(3)}


def logistic(p: Params, x: Array, y: Array) -> float:
    z = x @ p["w"] + p["b"]
    return float(np.mean(np.logaddexp(0, z) - y * z))


def logistic_slopes(p: Params, x: Array, y: Array) -> Params:
    d = (1 / (1 + np.exp(-(x @ p["w"] + p["b"]))) - y) / y.size
    return {"w": x.T @ d, "b": np.array([d.sum()])}


@numba.njit
def jitted(p: Any, c: Array) -> float:
    return np.sum(np.cos(p["a"]) * c) + np.sum(np.exp(p["a"] * p["s"]))


def jitted_slopes(p: Params, c: Array) -> Params:
    e = np.exp(p["a"] * p["s"])
    return {"a": -np.sin(p["a"]) * c + p["s"] * e, "s": np.array([np.sum(p["a"] * e)])}


MODELS: dict[str, tuple[Any, Callable[..., Params], Params, tuple[Array, ...]]] = {
    "mlp": (mlp, mlp_slopes, mlp_point(), (X, TARGETS)),
    "logistic": (logistic, logistic_slopes, {"w": RNG.normal(size=5), "b": np.array([0.2])}, (X, LABELS)),
    "jitted": (jitted, jitted_slopes, {"a": RNG.normal(size=40), "s": np.array([0.3])}, (RNG.normal(size=40),)),
}


def descended(params: Params, slopes: Params, rate: float = 0.1) -> Params:
    return {name: params[name] - rate * slopes[name] for name in params}


def after_a_step(model: str) -> tuple[Any, Params, Params, Params, tuple[Array, ...]]:
    """Loss, the gradient of before the step, the parameters after and before it, args."""
    loss, slopes, before, args = MODELS[model]
    gradient = slopes(before, *args)
    return loss, gradient, descended(before, gradient), before, args


def kinds(report: fastgc.GradientReport) -> set[str]:
    return {t.diagnosis.kind if t.diagnosis else "" for t in report.tensors.values() if t.verdict == "fail"}


def check(loss: Any, gradients: Any, params: Any, **options: Any) -> fastgc.GradientReport:
    return fastgc.check_gradients(loss, gradients, params, crosscheck=False, **options)


# --- what is named ---


@pytest.mark.parametrize("samples", [4, 32, "all"])
@pytest.mark.parametrize("model", MODELS)
def test_the_gradient_of_before_an_update_is_named(model: str, samples: Any) -> None:
    loss, gradient, params, before, args = after_a_step(model)
    report = check(loss, gradient, params, args=args, previous=before, samples=samples)
    assert {t.verdict for t in report.tensors.values()} == {"fail"}
    assert kinds(report) == {"stale"}
    assert MESSAGE in "\n".join(unbroken(report))


@pytest.mark.parametrize("model", MODELS)
def test_without_previous_it_is_not_named(model: str) -> None:
    loss, gradient, params, _, args = after_a_step(model)
    assert "stale" not in kinds(check(loss, gradient, params, args=args))


def test_a_single_stale_tensor_is_named_beside_right_ones() -> None:
    loss, gradient, params, before, args = after_a_step("mlp")
    mixed = mlp_slopes(params, *args) | {"W1": gradient["W1"]}
    report = check(loss, mixed, params, args=args, previous=before)
    assert [name for name, t in report.tensors.items() if t.verdict == "fail"] == ["W1"]
    assert kinds(report) == {"stale"}


def test_a_gradient_that_remembers_is_named_at_every_point() -> None:
    loss, gradient, params, before, args = after_a_step("mlp")
    report = check(loss, lambda p, *_: gradient, params, args=args, previous=before, points=3)
    assert kinds(report) == {"stale"}
    fresh = check(loss, mlp_slopes, params, args=args, previous=before, points=3)
    assert fresh.passed


def test_one_entry_needs_less_where_another_tensor_is_stale() -> None:
    """A change of one value by a percent is met by chance once in some hundred times."""
    weights = np.arange(1.0, 21)

    def loss(p: Params) -> float:
        return float(np.sum(np.sin(p["a"]) * weights) + np.sum(np.sin(p["s"])))

    def slopes(p: Params) -> Params:
        return {"a": np.cos(p["a"]) * weights, "s": np.cos(p["s"])}

    before = {"a": RNG.normal(size=20), "s": np.array([0.5])}
    params = {name: value + 0.01 for name, value in before.items()}
    stale, right = slopes(before), slopes(params)
    both = check(loss, stale, params, previous=before)
    assert [t.diagnosis.kind for t in both.tensors.values() if t.diagnosis] == ["stale", "stale"]
    alone = check(loss, {"a": right["a"], "s": stale["s"]}, params, previous=before)
    assert alone.tensors["s"].verdict == "fail"
    assert alone.tensors["s"].diagnosis is None


def test_what_explains_it_as_well_is_said() -> None:
    """Of a quadratic the gradient at twice the parameters is twice the gradient: the simpler kind has the name."""
    x = RNG.normal(size=30)
    found = check(lambda p: float(p @ p), 4 * x, x, previous=2 * x).tensors["params"].diagnosis
    assert found is not None
    assert found.kind == "factor"
    assert MESSAGE in found.alternatives


def test_the_json_carries_it() -> None:
    loss, gradient, params, before, args = after_a_step("logistic")
    report = check(loss, gradient, params, args=args, previous=before)
    found = json.loads(report.to_json())["tensors"]["w"]["diagnosis"]
    assert (found["kind"], found["message"]) == ("stale", MESSAGE)
    assert found["evidence"]["deviation"] < 1


# --- near misses ---


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("share", [0.5, 0.99, 1.01, 2.0])
def test_the_gradient_at_yet_other_parameters_is_not_named(model: str, share: float) -> None:
    loss, gradient, params, before, args = after_a_step(model)
    other = {name: params[name] + share * (before[name] - params[name]) for name in params}
    report = check(loss, gradient, params, args=args, previous=other)
    assert report.verdict == "fail"
    assert "stale" not in kinds(report)


@pytest.mark.parametrize("model", MODELS)
def test_a_wrong_gradient_of_now_is_not_named(model: str) -> None:
    loss, _, params, before, args = after_a_step(model)
    slopes = MODELS[model][1]
    wrong = {name: 2 * g for name, g in slopes(params, *args).items()}
    assert kinds(check(loss, wrong, params, args=args, previous=before)) == {"factor"}
    both = {name: 1.01 * g for name, g in slopes(before, *args).items()}
    assert "stale" not in kinds(check(loss, both, params, args=args, previous=before))


@pytest.mark.parametrize("model", MODELS)
def test_a_right_gradient_passes_and_nothing_is_said(model: str) -> None:
    loss, _, params, before, args = after_a_step(model)
    report = check(loss, MODELS[model][1], params, args=args, previous=before)
    assert report.passed
    assert all(t.diagnosis is None for t in report.tensors.values())
    assert not any("previous" in note for note in report.notes)


@pytest.mark.parametrize("model", MODELS)
def test_previous_that_holds_the_same_values_is_noted_and_explains_nothing(model: str) -> None:
    """Parameters that are updated in place change what was kept of them without a copy."""
    loss, gradient, params, _, args = after_a_step(model)
    plain = check(loss, gradient, params, args=args)
    for same in (params, {name: value.copy() for name, value in params.items()}):
        report = check(loss, gradient, params, args=args, previous=same)
        assert "stale" not in kinds(report)
        assert report.evaluations == plain.evaluations
        assert "previous holds the values of params: were they changed in place? Keep a copy" in report.notes


def test_a_change_too_small_to_tell_is_not_named() -> None:
    x = RNG.normal(size=30)
    report = check(lambda p: float(np.sum(np.sin(p))), 1.5 * np.cos(x), x, previous=x * (1 + 1e-9))
    assert kinds(report) == {"factor"}
    assert report.tensors["params"].diagnosis.alternatives == ()  # type: ignore[union-attr]


# --- what it costs ---


class Counted:
    """A loss that remembers where it was called."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        self.loss, self.seen = loss, list[Any]()

    def __call__(self, params: Params, *args: Array) -> Any:
        self.seen.append(np.concatenate([np.ravel(value) for value in params.values()]).copy())
        return self.loss(params, *args)

    def near(self, params: Params) -> int:
        """How often it was called there, or with one entry displaced."""
        point = np.concatenate([np.ravel(value) for value in params.values()])
        return sum(np.count_nonzero(each != point) <= 1 for each in self.seen)


def complex_logistic(p: Params, x: Array, y: Array) -> Any:
    z = x @ p["w"] + p["b"]
    return np.mean(np.log(1 + np.exp(z)) - y * z)


@pytest.mark.parametrize("stencil", ["central", "forward", "five_point"])
@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_evaluations_are_counted_and_bounded(model: str, stencil: str) -> None:
    plain, gradient, params, before, args = after_a_step(model)
    loss = Counted(plain)
    report = check(loss, gradient, params, args=args, previous=before, stencil=stencil)
    assert kinds(report) == {"stale"}
    assert report.evaluations == len(loss.seen)
    assert 0 < loss.near(before) <= MOST * len(params)
    without = check(plain, gradient, params, args=args, stencil=stencil)
    assert report.evaluations - without.evaluations == loss.near(before)


def test_no_evaluation_where_nothing_fails() -> None:
    loss, _, params, before, args = after_a_step("mlp")
    counted = Counted(loss)
    assert check(counted, mlp_slopes, params, args=args, previous=before).passed
    assert counted.near(before) == 0


def test_only_failing_tensors_are_compared() -> None:
    loss, gradient, params, before, args = after_a_step("mlp")
    counted = Counted(loss)
    check(counted, mlp_slopes(params, *args) | {"W1": gradient["W1"]}, params, args=args, previous=before)
    assert 0 < counted.near(before) <= MOST


# --- every way to check ---


def batched(p: Params, x: Array, y: Array) -> Array:
    z = np.einsum("nf,bf->bn", x, p["w"]) + p["b"]
    return np.asarray(np.mean(np.logaddexp(0, z) - y * z, axis=1))


WAYS: list[tuple[str, Any, dict[str, Any]]] = [
    ("logistic", logistic, {"engine": "python"}),
    ("logistic", logistic, {"in_place": True}),
    ("logistic", logistic, {"workers": 2}),
    ("logistic", batched, {"vectorized": True}),
    ("logistic", complex_logistic, {"stencil": "complex_step"}),
    ("logistic", logistic, {"step": 1e-5}),
    ("logistic", logistic, {"probes": 0}),
    ("logistic", logistic, {"time_budget": 60.0}),
    ("mlp", mlp, {"samples": 0}),
    ("jitted", jitted, {"engine": "numba"}),
    ("jitted", jitted, {"engine": "numba", "threads": 2}),
    ("jitted", jitted, {"engine": "python"}),
]


@pytest.mark.parametrize(("model", "loss", "options"), WAYS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_way_to_check_names_it_and_leaves_previous_alone(model: str, loss: Any, options: dict[str, Any]) -> None:
    _, gradient, params, before, args = after_a_step(model)
    held = [{name: value.tobytes() for name, value in each.items()} for each in (params, before)]
    report = check(loss, gradient, params, args=args, previous=before, **options)
    assert kinds(report) == {"stale"}
    assert [{name: value.tobytes() for name, value in each.items()} for each in (params, before)] == held


@pytest.mark.parametrize("points", [1, 2])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_loss_that_raises_there_leaves_no_trace(in_place: bool, points: int) -> None:
    _, gradient, params, before, args = after_a_step("logistic")
    kept = {name: value.copy() for name, value in params.items()}

    def loss(p: Params, x: Array, y: Array) -> float:
        if np.array_equal(p["w"][1:], before["w"][1:]) and p["w"][0] != before["w"][0]:
            raise KeyError("in the middle")
        return logistic(p, x, y)

    report = check(loss, lambda *_: gradient, params, args=args, previous=before, in_place=in_place, points=points)
    assert report.verdict == "fail"
    assert any("around previous, the loss raised KeyError: 'in the middle' (" in note for note in report.notes)
    assert all(np.array_equal(params[name], kept[name]) for name in kept)


def test_a_loss_that_reads_a_model_is_looked_at_in_place() -> None:
    x, before = RNG.normal(size=30), RNG.normal(size=30)
    report = check(lambda _: float(np.sum(np.sin(x))), np.cos(before), x, previous=before, in_place=True)
    assert kinds(report) == {"stale"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("precision", ["double", "native"])
def test_arrays_of_any_layout_and_dtype(dtype: Any, precision: str) -> None:
    before = np.asfortranarray(RNG.normal(size=(6, 9)).astype(dtype))
    before.setflags(write=False)
    params = (before + dtype(0.5)).T[::-1].T
    report = check(lambda p: float(np.sum(np.sin(p))), np.cos(before), params, previous=before, precision=precision)
    assert kinds(report) == {"stale"}


def test_results_are_reproducible() -> None:
    loss, gradient, params, before, args = after_a_step("mlp")
    reports = [check(loss, gradient, params, args=args, previous=before, seed=3).to_dict() for _ in range(2)]
    assert [each | {"seconds": 0} for each in reports] == [reports[0] | {"seconds": 0}] * 2


def test_assert_gradients_takes_it_too() -> None:
    loss, gradient, params, before, args = after_a_step("mlp")
    with pytest.raises(fastgc.GradientMismatch, match=r"before\s+the\s+last\s+update"):
        fastgc.assert_gradients(loss, gradient, params, args=args, previous=before)


# --- where the loss is not defined ---


@pytest.mark.parametrize("function", ["numpy", "math"])
def test_a_loss_that_is_not_finite_there_is_noted_and_the_report_is_kept(function: str) -> None:
    def loss(p: Params) -> float:
        with np.errstate(invalid="ignore"):
            first = np.log(p["a"][0]) if function == "numpy" else math.log(p["a"][0])
        return float(first + np.sum(np.sin(p["a"])))

    params, before = {"a": np.linspace(0.5, 2, 20)}, {"a": np.linspace(-1, 2, 20)}
    counted = Counted(loss)
    report = check(counted, {"a": np.cos(before["a"])}, params, previous=before)
    assert report.verdict == "fail"
    said = "is not finite" if function == "numpy" else "raised ValueError: math domain error"
    assert f"the loss {said} at previous: nothing was compared there" in report.notes
    assert report.evaluations == len(counted.seen)


def test_an_entry_without_a_derivative_there_does_not_hide_it() -> None:
    """The square root ends at zero, where one parameter was."""
    before = np.linspace(1, 3, 20)
    before[5] = 0
    with np.errstate(divide="ignore"):
        gradient = np.where(before > 0, 0.5 / np.sqrt(before), 7.0)
    report = check(lambda p: float(np.sum(np.sqrt(p))), gradient, before + 0.3, previous=before)
    assert kinds(report) == {"stale"}


def test_time_that_is_over_there_leaves_the_report_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: Any) -> Any:
        raise OutOfTime

    loss, _, params, before, args = after_a_step("mlp")
    doubled = {name: 2 * g for name, g in mlp_slopes(params, *args).items()}
    monkeypatch.setattr("fastgc._diagnosis.explain.strongest", late)
    report = check(loss, doubled, params, args=args, previous=before)
    assert kinds(report) == {"factor"}


# --- bad input ---


@pytest.mark.parametrize(
    ("previous", "error", "message"),
    [
        ({"w": np.ones(5)}, ValueError, r"previous lacks 'b'; the names of params are 'w', 'b'"),
        ({"w": np.ones(5), "b": np.ones(1), "c": np.ones(1)}, ValueError, r"previous has 'c', unknown to params"),
        ({"v": np.ones(5), "b": np.ones(1)}, ValueError, r"previous lacks 'w'; previous has 'v', unknown to params"),
        (
            {"w": np.ones((5, 1)), "b": np.ones(2)},
            ValueError,
            r"previous\['w'\] has shape \(5, 1\); params\['w'\] has shape \(5,\); previous\['b'\] has shape \(2,\)",
        ),
        (
            {"w": np.ones(5, np.float32), "b": np.ones(1, int)},
            TypeError,
            r"previous\['w'\] is of float32; params\['w'\] is of float64; previous\['b'\] is of int64.*the same",
        ),
        ({"w": [1.0] * 5, "b": np.ones(1)}, TypeError, r"previous\['w'\] is a list; it must be a NumPy array"),
        ({"w": None, "b": np.ones(1)}, TypeError, r"previous\['w'\] is a NoneType; it must be a NumPy array"),
        ([np.ones(5), np.ones(1)], TypeError, r"previous is a list; params is a dict: use its keys"),
        (np.ones(6), TypeError, r"previous is a ndarray; params is a dict: use its keys"),
        (
            {"w": np.array([1, np.nan, 1, 1, np.inf]), "b": np.array([np.nan])},
            ValueError,
            r"previous\['w'\] has 2 entries that are not finite, previous\['b'\] has 1 ",
        ),
    ],
)
def test_previous_that_does_not_suit_is_refused_before_anything_is_evaluated(
    previous: Any, error: type[Exception], message: str
) -> None:
    def never(*_: Any) -> float:
        raise AssertionError("evaluated")

    _, _, params, _, args = after_a_step("logistic")
    with pytest.raises(error, match=message):
        fastgc.check_gradients(never, never, params, args=args, previous=previous)


def test_other_structures_are_matched() -> None:
    x, before = [RNG.normal(size=9), RNG.normal(size=4)], [RNG.normal(size=9), RNG.normal(size=4)]

    def loss(p: list[Array]) -> float:
        return float(np.sin(p[0]).sum() + np.sin(p[1]).sum())

    report = check(loss, [np.cos(each) for each in before], x, previous=tuple(before))
    assert kinds(report) == {"stale"}
    with pytest.raises(ValueError, match="previous lacks '1'"):
        check(loss, [np.cos(each) for each in before], x, previous=before[:1])
    with pytest.raises(ValueError, match=r"previous\['params'\] has shape \(4,\)"):
        check(lambda p: float(p @ p), 2 * x[0], x[0], previous=before[1])


# --- the gradient there ---


@pytest.mark.parametrize(("single", "eps"), [(False, 2.0**-52), (True, 2.0**-23)])
def test_the_site_elsewhere_has_the_round_off_of_its_own_loss(single: bool, eps: float) -> None:
    layout, leaves = flatten_parameters(np.ones(3))
    evaluator = PythonEvaluator(float, leaves[0], (), layout, leaves, leaves)
    loss = replace(
        unmeasured_loss(evaluator, layout, leaves, 1.0), noise=Noise(1e-9, 1e-8, 0.1, single), local_variation=2.0
    )
    tolerances = Tolerances(np.array([1e-5]), None)
    here = GradientAtPoint(loss, leaves, np.ones(1), tolerances, stencil_named("central"), 1e-5)
    there = gradient_elsewhere(here, evaluator, [np.full(3, 5.0)], 1e12)
    assert there.loss.noise == Noise(eps / 2 * 1e12, eps / 2 * 1e12, 0.1, single)
    assert (there.loss.base, there.loss.local_variation, there.loss.tensor_scales) == (1e12, 2.0, 5.5)
    assert (there.gradients, there.step) == (here.gradients, None)
    assert gradient_elsewhere(here, evaluator, leaves, 1e-6).loss.noise == loss.noise
