"""Nothing passes that was not measured: not for want of time, nor where nothing can be measured, nor by an overflow."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import fastgc
from fastgc import check_hessian, check_jacobian, numerical_gradient, numerical_jacobian
from fastgc._command.cli import EXIT
from tests.support.texts import text

Array = NDArray[Any]
Params = dict[str, Array]

SIZES = {"w": 40, "b": 5, "none": 0, "c": 1}


def start() -> Params:
    generator = np.random.default_rng(0)
    return {name: generator.uniform(0.5, 1.5, size) for name, size in SIZES.items()}


def total(p: Params) -> float:
    return float(sum(np.sin(value).sum() for value in p.values()))


def slopes(p: Params) -> Params:
    return {name: np.cos(value) for name, value in p.items()}


@contextmanager
def clock(budget: float) -> Iterator[None]:
    """A clock that goes on by a second each time it is looked at: the same calls are in time on every machine."""
    seconds = itertools.count()
    with mock.patch("time.perf_counter", side_effect=lambda: float(next(seconds)) if math.isfinite(budget) else 0.0):
        yield


# --- nothing passes unmeasured ---


class Watched:
    """A loss that raises at its k-th call, and counts by tensor the displaced points at which it had a value."""

    def __init__(self, raises_at: int | None) -> None:
        self.calls, self.raises_at = 0, raises_at
        self.base: Params = {}
        self.last: Params = {}  # of the last call
        self.moved = dict.fromkeys(SIZES, 0)
        self.answers = [dict(self.moved)]  # by point

    def __call__(self, p: Params) -> float:
        self.calls += 1
        if self.calls == self.raises_at:
            raise ArithmeticError("now and then")
        value = total(p)
        self.last = {name: array.copy() for name, array in p.items()}
        for name, array in p.items():
            self.answers[-1][name] += bool(np.any(array != self.base[name]))
        return value

    def gradients(self, p: Params) -> Params:
        """Asked for at the beginning of every point, after a call there, and now and then at displaced parameters."""
        if all(np.array_equal(array, self.last.get(name)) for name, array in p.items()):
            self.base = self.last
            self.answers.append(dict.fromkeys(SIZES, 0))
        return slopes(p)


@given(
    samples=st.sampled_from([0, 1, 3, "all", {"w": 0, "b": 2, "c": 1, "none": 1}]),
    probes=st.integers(0, 4),
    budget=st.one_of(st.just(math.inf), st.floats(1, 1500)),
    points=st.integers(1, 3),
    stencil=st.sampled_from(["central", "forward", "five_point"]),
    raises_at=st.one_of(st.none(), st.integers(3, 400)),
    spoiled=st.one_of(st.none(), st.tuples(st.sampled_from(["w", "b", "c"]), st.integers(0, 39))),
    factor=st.sampled_from([1.0, 1.0, 2.0]),
    tensors=st.sampled_from([None, ["w"], ["b", "c", "none"]]),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_what_passes_was_measured_at_every_point(
    samples: Any, probes: int, budget: float, points: int, stencil: str, raises_at: int | None,
    spoiled: tuple[str, int] | None, factor: float, tensors: Any,
) -> None:  # fmt: skip
    if probes == 0 and (samples == 0 or isinstance(samples, dict)):
        probes = 1
    loss = Watched(raises_at)
    loss.base = start()

    def gradients(p: Params) -> Params:
        found = {name: factor * slope for name, slope in loss.gradients(p).items()}
        if spoiled is not None:
            found[spoiled[0]][spoiled[1] % SIZES[spoiled[0]]] = math.nan
        return found

    options = {"samples": samples, "probes": probes, "points": points, "stencil": stencil, "tensors": tensors}
    limited = {} if math.isinf(budget) else {"time_budget": budget}
    with clock(budget):
        report = fastgc.check_gradients(loss, gradients, start(), crosscheck=False, **options, **limited)
    answers = loss.answers[1:]
    for name, tensor in report.tensors.items():
        bad = spoiled is not None and spoiled[0] == name
        assert (tensor.verdict == "fail") >= bad, str(report)
        assert tensor.verdict != "pass" or not SIZES[name] or factor == 1, str(report)
        assert tensor.verdict != "fail" or bad or (factor != 1 and SIZES[name]), str(report)
        if tensor.verdict == "pass" and SIZES[name]:
            assert len(answers) == points and all(each[name] >= 2 for each in answers), str(report)
        assert tensor.verdict == "pass" or tensor.reason, str(report)
    assert (report.verdict == "fail") == any(tensor.verdict == "fail" for tensor in report.tensors.values())


@pytest.mark.parametrize("options", [{"samples": 0}, {"samples": 1}, {"samples": "all"}, {"probes": 0, "samples": 2}])
@pytest.mark.parametrize("points", [1, 3])
def test_without_any_time_every_tensor_is_not_reached(options: dict[str, Any], points: int) -> None:
    report = fastgc.check_gradients(total, slopes, start(), time_budget=1e-6, points=points, **options)
    assert report.verdict == "undecided" and EXIT[report.verdict] == 3
    for name, tensor in report.tensors.items():
        assert tensor.verdict == ("undecided" if SIZES[name] else "pass")
        assert not SIZES[name] or "not reached" in tensor.reason
    assert any(re.match(r"time_budget(=\S+)? was over", note) for note in report.notes)


# --- not a number ---


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(math.nan, np.float64), (math.inf, np.float32), (-math.inf, np.float64), (math.nan, np.float16)],
)
@pytest.mark.parametrize("budget", [1e-6, None])
@pytest.mark.parametrize("samples", [0, 1, "all"])
def test_what_is_not_finite_fails_whatever_the_budget(value: float, budget: Any, samples: Any, dtype: Any) -> None:
    gradient = np.cos(np.linspace(0, 1, 500)).astype(dtype)
    gradient[[17, 203, 204]] = value
    for params in ({"w": np.linspace(0, 1, 500)}, {"w": np.linspace(0, 1, 500).reshape(20, 25)}):
        given = {"w": gradient.reshape(params["w"].shape)}
        report = fastgc.check_gradients(total, given, params, samples=samples, time_budget=budget, crosscheck=False)
        tensor = report.tensors["w"]
        assert tensor.verdict == report.verdict == "fail"
        index = [[17], [203], [204]] if params["w"].ndim == 1 else [[0, 17], [8, 3], [8, 4]]
        assert f"not finite in 3 of 500 entries: {', '.join(map(str, index))}" in tensor.reason
        assert any(note.startswith("gradients['w'] is not finite: 3 of 500 entries") for note in report.notes)
        assert {tuple(each) for each in index} <= {entry.index for entry in tensor.wrong_entries}


def test_many_entries_that_are_not_finite_are_counted_and_the_first_named() -> None:
    gradient = np.full(400_000, math.nan)
    report = fastgc.check_gradients(total, {"w": gradient}, {"w": np.zeros(400_000)}, time_budget=1e-6)
    assert "not finite in 400,000 of 400,000 entries: [0], [1], [2], [3], [4], ..." in report.tensors["w"].reason


def test_what_is_not_finite_fails_though_the_loss_raises_everywhere_else() -> None:
    def lonely(p: Array) -> float:
        if np.any(p != 1):
            raise KeyError("W")
        return 1.0

    report = fastgc.check_gradients(lonely, np.array([1.0, math.nan]), np.ones(2))
    assert report.verdict == "fail"
    assert any("the loss raised KeyError: 'W' (" in note for note in report.notes)


def test_an_exception_in_the_little_time_there_was_is_noted() -> None:
    loss = Watched(raises_at=3)
    loss.base = start()
    with clock(20.0):
        report = fastgc.check_gradients(loss, slopes, start(), time_budget=20.0)
    assert report.verdict == "undecided" and "not reached" in report.tensors["w"].reason
    assert any("the loss raised ArithmeticError: now and then (once, at " in note for note in report.notes)


def test_tensors_that_are_not_asked_for_are_not_looked_at() -> None:
    given = slopes(start()) | {"b": np.full(5, math.nan)}
    report = fastgc.check_gradients(total, given, start(), tensors=["w", "c"])
    assert report.passed and "b" not in report.tensors


def test_an_infinite_gradient_does_not_let_other_tensors_pass_by_its_size() -> None:
    """With a scale that is infinite any uncertainty would be small beside it."""
    generator = np.random.default_rng(0)

    def noisy(p: Params) -> float:
        return total(p) + generator.normal()

    given = slopes(start()) | {"c": np.full(1, math.inf)}
    report = fastgc.check_gradients(noisy, given, start(), samples=0)
    assert report.tensors["c"].verdict == "fail"
    assert report.tensors["w"].verdict == report.tensors["b"].verdict == "undecided"


A = np.random.default_rng(0).normal(size=(5, 400))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("probes", [0, 3])
@pytest.mark.parametrize("kind", ["array", "callable", "sparse", "jvp", "vjp"])
def test_a_jacobian_that_is_not_finite_somewhere_fails(kind: str, probes: int, value: float) -> None:
    wrong = A.copy()
    wrong[3, 77] = value

    def jvp(x: Array, u: Array) -> Array:
        return np.where((np.arange(5) == 3) & (u[77] != 0), value, A @ u)

    def vjp(x: Array, v: Array) -> Array:
        return np.where((np.arange(400) == 77) & (v[3] != 0), value, v @ A)

    given: dict[str, Any] = {
        "array": {"jacobian": wrong},
        "callable": {"jacobian": lambda x: wrong},
        "sparse": {"jacobian": sp.csr_array(wrong)},
        "jvp": {"jacobian": None, "jvp": jvp},
        "vjp": {"jacobian": None, "vjp": vjp},
    }[kind]
    report = check_jacobian(lambda x: A @ x, x=np.ones(400), probes=probes, **given)
    assert report.verdict == "fail"
    least = "at least " if kind in ("jvp", "vjp") else ""
    assert f"the analytic Jacobian is not finite in {least}1 of 2,000 entries: [3, 77]" in report.reason
    assert [entry.index for entry in report.wrong_entries] == [(3, 77)]


def test_a_hessian_that_is_not_finite_somewhere_fails() -> None:
    hessian = 2 * np.eye(300)
    hessian[7, 250] = math.nan
    report = check_hessian(lambda x: float(x @ x), lambda x: 2 * x, hessian, np.ones(300))
    assert report.verdict == "fail" and "not finite in 1 of 90,000 entries: [7, 250]" in report.reason


def test_an_empty_sparsity_is_not_taken_for_true_where_f_has_no_value() -> None:
    def lonely(x: Array) -> Array:
        return x if np.all(x == 1) else np.full(3, math.nan)

    nothing = np.zeros((3, 3))
    assert check_jacobian(lonely, nothing, np.ones(3), sparsity=nothing).verdict == "undecided"
    assert check_jacobian(lambda x: np.ones(3), nothing, np.ones(3), sparsity=nothing).passed


# --- numbers at the end of their range ---


HUGE = [1.7e308, 1e308, 1e300, 1e160]
TINY = [1e-150, 1e-300, 1e-310, 5e-324]


SIZE_AND_ATOL = [(1, None), (1, 1.0), (3, 0.0), (100, None), (5000, 0.0), (5000, 1.0)]


def huge_slopes(slope: float, gradient: float, size: int, atol: Any) -> fastgc.GradientReport:
    """The check of the sum of that many parameters times a slope, against a gradient of equal entries."""

    def loss(x: Array) -> float:
        with np.errstate(all="ignore"):
            return float(np.sum(slope * x))

    return fastgc.check_gradients(loss, np.full(size, gradient), np.zeros(size), atol=atol, samples=min(size, 20))


OVERFLOWING = [each for i, each in enumerate(itertools.product(HUGE, SIZE_AND_ATOL)) if (i + i // 6) % 2]


@pytest.mark.parametrize(("slope", "size_and_atol"), OVERFLOWING)
@pytest.mark.parametrize("factor", [0.0, -1.0, 0.5, 0.99, 1.01])
def test_a_tolerance_that_overflows_lets_nothing_pass(slope: float, size_and_atol: Any, factor: float) -> None:
    with np.errstate(over="ignore"):
        wrong = np.clip(factor * slope, -1.7e308, 1.7e308)
    if wrong != slope:
        report = huge_slopes(slope, wrong, *size_and_atol)
        assert report.verdict == "fail", str(report)


@pytest.mark.parametrize("slope", HUGE)
@pytest.mark.parametrize(("size", "atol"), SIZE_AND_ATOL)
def test_a_tolerance_that_overflows_accuses_no_right_gradient(slope: float, size: int, atol: Any) -> None:
    assert huge_slopes(slope, slope, size, atol).verdict != "fail"


def test_the_right_gradient_passes_where_its_norm_overflows() -> None:
    def loss(x: Array) -> float:
        return float(np.sum(1.7e308 * x))

    assert fastgc.check_gradients(loss, np.full(3, 1.7e308), np.zeros(3)).passed


@pytest.mark.parametrize("rtol", [10.0, 1e300])
def test_a_tolerance_of_the_callers_that_overflows_is_undecided(rtol: float) -> None:
    report = fastgc.check_gradients(lambda x: float(np.sum(1.7e308 * x)), np.zeros(3), np.zeros(3), rtol=rtol)
    assert report.verdict == "undecided"
    assert "what is allowed overflows" in report.tensors["params"].reason


@pytest.mark.parametrize("slope", TINY)
@pytest.mark.parametrize("factor", [0.0, -1.0, 0.5])
def test_a_scale_that_vanishes_lets_nothing_pass(slope: float, factor: float) -> None:
    def loss(x: Array) -> float:
        return float(np.sum(slope * x))

    if factor * slope != slope:
        wrong = np.full(3, factor * slope) if factor else np.full(3, 1e-305)
        assert not fastgc.check_gradients(loss, wrong, np.ones(3), atol=0).passed
    assert fastgc.check_gradients(loss, np.full(3, slope), np.ones(3)).verdict != "fail"


@given(
    exponent=st.floats(-320, 308.2),
    spread=st.floats(0, 30),
    size=st.integers(1, 60),
    factor=st.sampled_from([0.0, -1.0, 0.5, 2.0, 1.0]),
    where=st.sampled_from([0.0, 1.0]),
    samples=st.sampled_from([0, 2, 32]),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_magnitudes_of_any_size_are_told_apart(
    exponent: float, spread: float, size: int, factor: float, where: float, samples: int
) -> None:
    slopes = 10.0 ** np.clip(exponent - spread * np.linspace(0, 1, size), -323, 308.2)

    def loss(x: Array) -> float:
        with np.errstate(all="ignore"):
            return float(np.sum(slopes * x))

    with np.errstate(all="ignore"):
        given_ = np.clip(factor * slopes, -1.7e308, 1.7e308)
        base = loss(np.full(size, where))
    if not np.isfinite(base):
        return
    report = fastgc.check_gradients(loss, given_, np.full(size, where), samples=samples, crosscheck=False)
    tensor = report.tensors["params"]
    if factor == 1 or np.array_equal(given_, slopes):
        assert report.verdict != "fail", str(report)
    else:
        assert not report.passed, str(report)
    assert report.verdict == "pass" or tensor.reason


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("factor", [0.0, -1.0, 0.5])
def test_gradients_of_low_precision_near_their_largest_value(dtype: Any, factor: float) -> None:
    slope = float(np.finfo(dtype).max) / 2
    params = np.zeros(64, dtype)

    def loss(x: Array) -> float:
        return float(np.sum(slope * x.astype(np.float64)))

    def gradient(f: float) -> Array:
        return np.full(64, f * slope).astype(dtype)

    for precision in ("native", "double"):
        assert fastgc.check_gradients(loss, gradient(factor), params, precision=precision).verdict == "fail"
        assert fastgc.check_gradients(loss, gradient(1.0), params, precision=precision).passed


def test_values_whose_difference_overflows_are_undecided() -> None:
    def loss(x: Array) -> float:
        return float(1.7e308 * np.sin(1e9 * x).mean())

    report = fastgc.check_gradients(loss, np.array([1.0, 2.0]), np.array([1e-9, 2.0]), crosscheck=False)
    assert not report.passed
    for entry in report.tensors["params"].entries:
        assert (entry.verdict != "pass" and entry.reason) or entry.verdict == "fail"


def test_error_measures_do_not_overflow() -> None:
    huge = np.full(3, 1.7e308)
    assert fastgc.relative_error(huge, -huge) == pytest.approx(1)
    assert fastgc.max_relative_error(huge, -huge) == pytest.approx(1)
    assert fastgc.max_relative_error(huge, huge / 2) == pytest.approx(1 / 3)
    assert fastgc.max_relative_error([5e-324], [0.0]) == pytest.approx(0, abs=1e-300)


@pytest.mark.parametrize("factor", [0.0, -1.0, 0.5, 1.0])
def test_the_classic_check_does_not_overflow(factor: float) -> None:
    def loss(x: Array) -> float:
        return float(np.sum(1.7e308 * x))

    found = fastgc.gradient_check(loss, lambda x: np.full(3, factor * 1.7e308), np.zeros(3))
    assert found["passed"] is (factor == 1)
    assert found["relative_error"] == pytest.approx(abs(1 - factor) / (1 + abs(factor)), abs=1e-8)


# --- where functions raise, and no report can tell it ---


def guarded(x: Array) -> Array:
    if np.any(x <= 0):
        raise ValueError("scale must be positive")
    return np.log(x)


def lonely(x: Array) -> Array:
    if np.any(x != 1):
        raise AssertionError("q")
    return x


def test_numerical_derivatives_are_nan_where_a_function_raises() -> None:
    x = np.array([0.05, 1.0, 2.0])
    gradient = numerical_gradient(lambda p: float(guarded(p).sum()), x, 0.1)
    np.testing.assert_allclose(gradient, [math.nan, 1.00335, 0.500417], rtol=1e-5)
    jacobian = numerical_jacobian(guarded, x, 0.1)
    assert np.isnan(jacobian[:, 0]).all()
    np.testing.assert_allclose(jacobian[:, 1:], [[0, 0], [1.00335, 0], [0, 0.500417]], rtol=1e-5)
    sweep = fastgc.step_sweep(lambda t: float(guarded(np.array([t]))[0]), 20.0, 0.05)
    assert np.isnan(sweep.errors["central"]).any() and sweep.best_error["central"] < 1e-9


CALLS: dict[str, Callable[..., Any]] = {
    "gradient": lambda f, **options: numerical_gradient(lambda p: float(f(p).sum()), np.ones(3), **options),
    "jacobian": lambda f, **options: numerical_jacobian(f, np.ones(3), **options),
    "sweep": lambda f, stencil="central": fastgc.step_sweep(f, 1.0, 1.0, stencils=(stencil,)),
}


@pytest.mark.parametrize("stencil", ["central", "forward", "backward"])
@pytest.mark.parametrize("call", CALLS)
def test_what_is_raised_at_every_displaced_point_passes_through(call: str, stencil: str) -> None:
    with pytest.raises(AssertionError, match="q"):
        CALLS[call](lonely, stencil=stencil)


@pytest.mark.parametrize("call", CALLS)
def test_what_is_raised_at_the_point_itself_passes_through(call: str) -> None:
    def undefined(x: Array) -> Array:
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        CALLS[call](undefined, stencil="forward")


def test_a_sweep_survives_what_is_raised_at_some_steps_only() -> None:
    def picky(t: float) -> float:
        if abs(t - 1) > 0.5:
            raise RuntimeError("failed to converge")
        return math.sin(t)

    assert fastgc.step_sweep(picky, math.cos, 1.0).best_error["central"] < 1e-9


# --- where f raises in a check of a Jacobian ---


@pytest.mark.parametrize("step", [None, 0.06])
def test_a_jacobian_is_checked_though_f_raises_beside_the_point(step: float | None) -> None:
    x = np.array([0.01, 1.0, 2.0])
    right = check_jacobian(guarded, lambda x: np.diag(1 / x), x, step=step)
    wrong = check_jacobian(guarded, lambda x: np.diag(2 / x), x, step=step)
    assert right.passed and wrong.verdict == "fail"
    told = "f raised ValueError: scale must be positive ("
    assert any(note.startswith(told) and "at x[0] = -" in note for note in wrong.notes), str(wrong)


def test_what_f_raises_at_every_displaced_point_passes_through() -> None:
    with pytest.raises(AssertionError, match="q"):
        check_jacobian(lonely, np.eye(3), np.ones(3))
    with pytest.raises(AssertionError, match="q"):
        check_jacobian(lonely, np.zeros((3, 3)), np.ones(3), sparsity=np.zeros((3, 3)))
    spoiled = np.eye(3)
    spoiled[0, 1] = math.nan
    assert check_jacobian(lonely, spoiled, np.ones(3)).verdict == "fail"


@pytest.mark.parametrize(("value", "message"), [(None, "f returned None"), (np.ones(2), r"f returned shape \(2,\)")])
def test_outputs_that_turn_wrong_beside_the_point_are_refused(value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        check_jacobian(lambda x: x if np.all(x == 1) else value, np.eye(3), np.ones(3))


def test_a_hessian_is_checked_though_loss_and_gradient_raise_beside_the_point() -> None:
    x = np.array([0.05, 1.0, 2.0])

    def loss(p: Array) -> float:
        return float(guarded(p).sum())

    def gradient(p: Array) -> Array:
        assert np.all(p > 0), "not positive"
        return 1 / p

    assert check_hessian(loss, gradient, lambda p: np.diag(-1 / p**2), x, step=0.06).passed
    report = check_hessian(loss, gradient, lambda p: np.diag(-2 / p**2), x, step=0.06)
    assert report.verdict == "fail"
    assert any("f raised AssertionError: not positive" in note for note in report.notes), str(report)


# --- random points ---


@pytest.mark.parametrize("who", ["loss", "gradient"])
@pytest.mark.parametrize("in_place", [False, True])
def test_random_points_at_which_something_raises_are_left_out_and_counted(who: str, in_place: bool) -> None:
    params = np.array([0.05, 1.0, 2.0, 3.0])
    before = params.tobytes()

    def slope(p: Array) -> Array:
        if who == "gradient":
            guarded(p)
        return 1 / p

    def loss(p: Array) -> float:
        return float(guarded(p).sum()) if who == "loss" else float(np.log(np.abs(p)).sum())

    report = fastgc.check_gradients(loss, slope, params, points=6, in_place=in_place)
    assert report.passed and report.points == 6, str(report)
    assert any("left out, for nearer ones" in note and "scale must be positive" in note for note in report.notes)
    assert params.tobytes() == before


def test_a_random_point_that_cannot_be_found_leaves_a_right_gradient_undecided_and_a_wrong_one_failed() -> None:
    def loss(p: Array) -> float:
        if np.any(p < 0):
            raise ValueError("negative")
        return float((p**1.5).sum())

    params = np.zeros(30)
    report = fastgc.check_gradients(loss, lambda p: 1.5 * p**0.5, params, points=2)
    assert report.verdict == "undecided" and report.points == 1
    assert "a random point at which loss and gradient are defined (ValueError: negative)" in text(report)
    assert "a random point was not found" in text(report)
    wrong = fastgc.check_gradients(loss, lambda p: 1.5 * p**0.5 + 1, params, points=2)
    assert wrong.verdict == "fail"


def test_what_a_loss_returns_at_a_random_point_must_be_a_number_there_too() -> None:
    params = np.ones(3)

    def fickle(p: Array) -> Any:
        return None if np.any(np.abs(p - 1) > 0.3) else float(p.sum())

    with pytest.raises(TypeError, match="loss returned None"):
        fastgc.check_gradients(fickle, lambda p: np.ones(3), params, points=8)


# --- a root finder, a factorisation, a failed assertion ---


def root(p: Array) -> float:
    from scipy.optimize import brentq

    return float(brentq(lambda t: t**3 - p[0], 0.0, p[1]))


def factor(p: Array) -> float:
    return float(np.log(np.diag(np.linalg.cholesky(np.array([[1.0, p[0]], [p[0], p[1]]])))).sum())


def asserting(p: Array) -> float:
    assert p.min() > 0.01, "too small"
    return float(np.sqrt(p).sum())


def converging(p: Array) -> float:
    x = 0.0
    for _ in range(200):
        x, last = math.cos(p[0] * x) * p[1], x
        if abs(x - last) < 1e-15:
            return x
    raise RuntimeError("failed to converge")


def converged_slopes(p: Array) -> Array:
    x = converging(p)
    sine, cosine = math.sin(p[0] * x), math.cos(p[0] * x)
    return np.array([-p[1] * sine * x, cosine]) / (1 + p[0] * p[1] * sine)


PLAIN: dict[str, tuple[Callable[[Array], float], Callable[[Array], Array], Array]] = {
    "a sign change": (root, lambda p: np.array([p[0] ** (-2 / 3) / 3, 0.0]), np.array([1.0, 1.01])),
    "a factorisation": (
        factor,
        lambda p: np.array([-p[0], 0.5]) / (p[1] - p[0] ** 2),
        np.array([0.95, 0.95]),
    ),
    "an assertion": (asserting, lambda p: 0.5 / np.sqrt(p), np.array([0.011, 1.0])),
    "convergence": (converging, converged_slopes, np.array([1.0, 0.9])),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(
    ("points", "options"),
    [(1, {}), (3, {}), (3, {"samples": 0}), (1, {"stencil": "five_point"}), (3, {"engine": "python", "step": 0.02})],
)
def test_plain_losses_with_a_domain(name: str, points: int, options: dict[str, Any]) -> None:
    loss, slope, params = PLAIN[name]
    right = fastgc.check_gradients(loss, slope, params, points=points, **options)
    assert right.verdict != "fail", str(right)
    wrong = fastgc.check_gradients(loss, lambda p: 2 * slope(p), params, points=points, **options)
    assert not wrong.passed, str(wrong)
    if "samples" not in options:
        assert wrong.verdict == "fail", str(wrong)
