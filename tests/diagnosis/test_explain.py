"""A diagnosis costs little, is counted, and works whatever the loss, the engine and the precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

import fastgc
from tests.support.tensors import slopes

MOST = 56  # evaluations for all failing tensors
FEW = 36  # for each of several: nine quotients of the widest stencil


class Counted:
    """A loss whose calls are counted, of slopes that vary with the parameters."""

    def __init__(self, *weights: np.ndarray, calls: int = 0) -> None:
        self.weights, self.calls = weights, calls

    def __call__(self, params: dict[str, np.ndarray]) -> float:
        self.calls += 1
        return float(sum(np.sum(w * np.sin(p)) for w, p in zip(self.weights, params.values(), strict=True)))

    def gradients(self, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: w * np.cos(p) for w, (name, p) in zip(self.weights, params.items(), strict=True)}


def noisy(g: np.ndarray) -> np.ndarray:
    """Three entries of four are wrong, by no pattern."""
    errors = slopes(*g.shape, seed=9)
    return g * (1 + 0.1 * np.where(errors > np.quantile(errors, 0.25), errors, 0))


def last_row_zero(g: np.ndarray) -> np.ndarray:
    return np.concatenate([g[:-1], 0 * g[-1:]])


@pytest.mark.parametrize("stencil", ["central", "forward", "five_point", "complex_step"])
@pytest.mark.parametrize("shapes", [[(25, 30)], [(25, 30), (300,), (5, 6, 7)]], ids=["one", "three"])
def test_evaluations_are_counted_and_bounded(
    shapes: list[tuple[int, ...]], stencil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {f"p{i}": 0.3 * slopes(*shape, seed=i) for i, shape in enumerate(shapes)}

    def check() -> Any:
        loss = Counted(*(slopes(*shape, seed=5 + i) for i, shape in enumerate(shapes)))
        if stencil == "complex_step":
            loss.__class__ = type("Complex", (Counted,), {"__call__": complex_value})
        wrong = {name: noisy(g) for name, g in loss.gradients(params).items()}
        report = fastgc.check_gradients(loss, wrong, params, stencil=stencil, crosscheck=False)
        assert report.evaluations == loss.calls
        return report

    with_diagnosis = check()
    monkeypatch.setattr("fastgc._diagnosis.explain.settled", lambda tensor: True)
    without = check()
    extra = with_diagnosis.evaluations - without.evaluations
    assert 0 < extra <= max(MOST, FEW * len(shapes))
    assert all(tensor.diagnosis.evidence.extra > 0 for tensor in with_diagnosis.tensors.values())
    assert all(tensor.diagnosis.evidence.extra == 0 for tensor in without.tensors.values())
    assert [len(t.entries) for t in with_diagnosis.tensors.values()] == [
        len(t.entries) for t in without.tensors.values()
    ]


def complex_value(self: Any, params: dict[str, np.ndarray]) -> Any:
    self.calls += 1
    return sum(np.sum(w * np.sin(p)) for w, p in zip(self.weights, params.values(), strict=True))


def test_a_gradient_that_passes_costs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("nothing to explain")

    for name in ("_as_measured", "wanted", "diagnose"):
        monkeypatch.setattr(f"fastgc._diagnosis.explain.{name}", refuse)
    loss, params = Counted(slopes(40, 50)), {"p": 0.3 * slopes(40, 50)}
    assert fastgc.check_gradients(loss, loss.gradients, params).passed


def test_what_is_measured_for_a_diagnosis_accuses_nobody() -> None:
    loss, params = Counted(slopes(40, 50)), {"p": 0.3 * slopes(40, 50)}
    wrong = {"p": last_row_zero(loss.gradients(params)["p"])}
    found = fastgc.check_gradients(loss, wrong, params).tensors["p"]
    assert found.diagnosis.kind == "sparse"
    assert found.diagnosis.evidence.wrong > len(found.wrong_entries)
    assert found.diagnosis.evidence.entries == len(found.entries) + found.diagnosis.evidence.extra


def test_results_are_reproducible() -> None:
    loss, params = Counted(slopes(40, 50)), {"p": 0.3 * slopes(40, 50)}
    wrong = {"p": last_row_zero(loss.gradients(params)["p"])}
    reports = [fastgc.check_gradients(loss, wrong, params, seed=3).to_dict() | {"seconds": 0} for _ in range(2)]
    assert reports[0] == reports[1]


@numba.njit
def jitted(p: Any, w: np.ndarray) -> float:
    return np.sum(w * np.sin(p))


def plain(p: np.ndarray, w: np.ndarray) -> float:
    return float(np.sum(w * np.sin(p)))


OPTIONS: list[tuple[Callable[..., float], dict[str, Any]]] = [
    (plain, {}), (plain, {"in_place": True}), (plain, {"samples": 0}), (plain, {"samples": 2}), (plain, {"step": 1e-5}),
    (plain, {"stencil": "forward"}), (plain, {"probes": 0, "samples": 64}), (jitted, {"engine": "numba"}),
    (plain, {"rtol": 1e-3}), (plain, {"atol": 0.0}), (plain, {"points": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "options"), OPTIONS, ids=[f"{f.__name__}-{o}" for f, o in OPTIONS])
@pytest.mark.parametrize(
    ("kind", "change"),
    [("permutation", lambda g: g[np.random.default_rng(0).permutation(30)]), ("missing_term", lambda g: g + 0.3)],
)
def test_every_way_to_check_names_the_bug(kind: str, change: Any, loss: Any, options: dict[str, Any]) -> None:
    w, x = slopes(30, 20), 0.3 * slopes(30, 20, seed=1)
    before = x.copy()
    report = fastgc.check_gradients(loss, lambda p, w: change(w * np.cos(p)), x, args=(w,), crosscheck=False, **options)
    assert report.tensors["params"].diagnosis.kind == kind
    assert np.array_equal(x, before)


@pytest.mark.parametrize("precision", ["double", "native"])
def test_float32_is_named_where_it_can_be(precision: str) -> None:
    w, x = slopes(30, 20).astype(np.float32), (0.3 * slopes(30, 20, seed=1)).astype(np.float32)

    def loss(p: np.ndarray) -> float:
        return float(np.sum(w * np.sin(p)))

    found = fastgc.check_gradients(loss, lambda p: 2 * w * np.cos(p), x, precision=precision).tensors["params"]
    assert found.verdict == "fail"
    assert found.diagnosis.kind in ("factor", "unstructured") if precision == "native" else "factor"
    wrong = fastgc.check_gradients(loss, lambda p: w[::-1], x, precision=precision).tensors["params"]
    assert wrong.verdict == "fail"
    assert wrong.diagnosis is None or wrong.diagnosis.kind == "unstructured"


def test_a_float32_gradient_of_a_tight_tolerance_agrees_to_float32_only() -> None:
    w, x = slopes(30, 20), 0.3 * slopes(30, 20, seed=1)
    single = (w * np.cos(x)).astype(np.float32)
    found = fastgc.check_gradients(plain, single.astype(float), x, args=(w,), rtol=1e-9).tensors["params"]
    assert found.verdict == "fail"
    assert found.diagnosis.kind == "scale_precision"
    assert "float32" in found.diagnosis.message


def test_nor_can_an_array_of_float32_agree_more_closely() -> None:
    w, x = slopes(30, 20), 0.3 * slopes(30, 20, seed=1)
    single = (w * np.cos(x)).astype(np.float32)
    assert fastgc.check_gradients(plain, single, x, args=(w,), rtol=1e-9).verdict != "fail"


def test_arrays_that_are_read_only_or_not_contiguous() -> None:
    w, x = slopes(20, 30).T, np.asfortranarray(0.3 * slopes(30, 20, seed=1))
    x.setflags(write=False)
    gradient = np.asfortranarray((w * np.cos(x))[::-1])
    assert fastgc.check_gradients(plain, gradient, x, args=(w,)).tensors["params"].diagnosis.kind == "permutation"


def test_a_number_and_an_empty_array() -> None:
    params = {"s": np.array(0.3), "none": np.empty((0, 3))}
    wrong = {"s": np.array(-np.cos(0.3)), "none": np.empty((0, 3))}
    report = fastgc.check_gradients(lambda p: float(np.sin(p["s"])), wrong, params)
    assert report.tensors["s"].diagnosis.kind == "sign"
    assert report.tensors["none"].diagnosis is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
@pytest.mark.parametrize("where", [0, slice(None), slice(0, 600, 2)])
def test_values_that_are_no_numbers_are_survived(value: float, where: Any) -> None:
    w, x = slopes(30, 20), 0.3 * slopes(30, 20, seed=1)
    gradient = (w * np.cos(x)).ravel()
    gradient[where] = value
    found = fastgc.check_gradients(plain, gradient.reshape(x.shape), x, args=(w,)).tensors["params"]
    assert found.verdict == "fail"
    assert found.diagnosis is None or found.diagnosis.kind in ("sparse", "unstructured", "broadcast", "missing_term")


def test_kinks_beside_the_bug_do_not_hide_it() -> None:
    """At a kink every slope between the two is right: it agrees with the pattern, and does not count."""
    x = slopes(40)
    x[::4] = 0

    def loss(p: np.ndarray) -> float:
        return float(np.maximum(p, 0) @ np.arange(1, 41))

    found = fastgc.check_gradients(loss, 3.0 * (x > 0) * np.arange(1, 41), x, samples="all").tensors["params"]
    assert (found.diagnosis.kind, found.diagnosis.factor) == ("factor", pytest.approx(3))


def test_a_loss_that_is_not_defined_nearby_is_survived() -> None:
    def loss(p: np.ndarray) -> float:
        return float(np.sqrt(p) @ np.arange(1, 41))

    x = np.where(np.arange(40) % 2, 1.0, 0.0)
    with np.errstate(divide="ignore"):
        gradient = np.where(x > 0, np.arange(1, 41), 0.0)
    found = fastgc.check_gradients(loss, gradient, x, samples="all").tensors["params"]
    assert found.verdict == "fail"
    assert found.diagnosis.factor == pytest.approx(2)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_exception_while_explaining_restores_all(error: type[BaseException]) -> None:
    w, x = slopes(30, 20), 0.3 * slopes(30, 20, seed=1)
    before = x.copy()
    calls = []

    def loss(p: np.ndarray) -> float:
        calls.append(1)
        if len(calls) == last:
            raise error("in the middle")
        return plain(p, w)

    last = 0
    options = {"crosscheck": False, "in_place": True}
    evaluations = fastgc.check_gradients(loss, noisy(w * np.cos(x)), x, **options).evaluations
    calls.clear()
    last = evaluations - 5  # the diagnosis comes last
    if error is KeyError:
        report = fastgc.check_gradients(loss, noisy(w * np.cos(x)), x, **options)
        assert report.verdict == "fail"
        assert any("the loss raised KeyError: 'in the middle' (once, at params[" in note for note in report.notes)
    else:
        with pytest.raises(fastgc.Interrupted):
            fastgc.check_gradients(loss, noisy(w * np.cos(x)), x, **options)
    assert np.array_equal(x, before)


def test_many_failing_tensors_each_have_their_diagnosis() -> None:
    shapes = {f"p{i}": (6, 5) for i in range(20)}
    weights = [slopes(*shape, seed=i) for i, shape in enumerate(shapes.values())]
    params = {name: 0.3 * slopes(*shape, seed=100 + i) for i, (name, shape) in enumerate(shapes.items())}
    loss = Counted(*weights)
    names = list(params)
    right = loss.gradients(params)
    turned = {name: right[names[i - 1]] for i, name in enumerate(names)}
    report = fastgc.check_gradients(loss, turned, params, crosscheck=False)
    assert {tensor.diagnosis.kind for tensor in report.tensors.values()} == {"swapped"}
    assert len(str(report).splitlines()) < 80
