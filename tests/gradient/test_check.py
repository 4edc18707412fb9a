"""The public check from end to end: what it accepts, refuses, selects, says and decides."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgc
from tests.support.layouts import Array, array, gradients, loss


def square(p: Array) -> float:
    return float(np.sum(p**2))


def double(p: Array) -> Array:
    return 2 * p


def bits(params: Any) -> list[bytes]:
    return [value.tobytes() for value in (params.values() if isinstance(params, dict) else [params])]


# --- the signature ---


def test_the_defaults_are_those_promised() -> None:
    promised = {
        "args": (), "tensors": None, "samples": 32, "stencil": "central", "step": None, "rtol": None, "atol": None,
        "precision": "double", "engine": "auto", "threads": None, "points": 1, "in_place": False, "crosscheck": True,
        "seed": 0, "progress": False,
    }  # fmt: skip
    parameters = inspect.signature(fastgc.check_gradients).parameters
    assert list(parameters)[:3] == ["loss", "gradients", "params"]
    found = {name: each.default for name, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert {name: found[name] for name in promised} == promised


def test_options_are_keywords_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        fastgc.check_gradients(square, double, array(2), ())  # type: ignore[misc]


# --- careless losses and gradients ---


def changing_loss(p: Array) -> float:
    p *= 2
    return square(p)


def changing_gradient(p: Array) -> Array:
    p += 1
    return 2 * p


def rebinding_loss(p: dict[str, Array]) -> float:
    p["w"] = 2 * p["w"]
    return square(p["w"])


def test_a_loss_that_changes_its_parameters_is_refused() -> None:
    params = array(4)
    before = bits(params)
    with pytest.raises(ValueError, match=r"loss changed params 'params'.*copy"):
        fastgc.check_gradients(changing_loss, double, params)
    assert bits(params) == before


def test_a_loss_that_changes_one_of_several_tensors_is_refused_by_name() -> None:
    params = {"a": array(2), "b": {"c": array(3)}}

    def careless(p: Any) -> float:
        p["b"]["c"].sort()
        p["b"]["c"][...] = p["b"]["c"][::-1]
        return loss(p)

    with pytest.raises(ValueError, match=r"loss changed params 'b\.c'"):
        fastgc.check_gradients(careless, gradients, params)
    np.testing.assert_array_equal(params["b"]["c"], array(3))


def test_a_gradient_that_changes_its_parameters_is_refused() -> None:
    params = array(4)
    before = bits(params)
    with pytest.raises(ValueError, match=r"gradients changed params 'params'.*copy"):
        fastgc.check_gradients(square, changing_gradient, params)
    assert bits(params) == before


def test_a_loss_that_changes_its_parameters_only_away_from_the_start_is_refused() -> None:
    def centring(p: Array) -> float:
        p -= p.mean()
        return square(p)

    with pytest.raises(ValueError, match="loss changed params 'params'"):
        fastgc.check_gradients(centring, double, np.array([-1.0, 0.0, 1.0]))


def outcome(function: Callable[[Any], float], slopes: Any, params: Any, **options: Any) -> str:
    """The verdict, or that the loss was refused because it changes its parameters."""
    try:
        return fastgc.check_gradients(function, slopes, params, **options).verdict
    except ValueError as error:
        return "refused" if "loss changed params" in str(error) else str(error)


def test_a_loss_that_accumulates_in_its_dict_is_refused() -> None:
    params = {"w": array(3)}
    before = bits(params)
    assert outcome(rebinding_loss, lambda p: {"w": 8 * p["w"]}, params) == "refused"
    assert bits(params) == before


@pytest.mark.parametrize("in_place", [False, True])
def test_a_loss_that_puts_an_equal_array_into_its_dict_is_not_accused(in_place: bool) -> None:
    params = {"w": array(3)}
    given = params["w"]

    def converting(p: dict[str, Array]) -> float:
        p["w"] = p["w"].astype(np.float64)
        return square(p["w"])

    found = outcome(converting, lambda p: {"w": 2 * p["w"]}, params, in_place=in_place)
    assert found in ("pass", "refused")
    assert params["w"] is given


@pytest.mark.parametrize("in_place", [False, True])
def test_a_loss_that_takes_a_tensor_out_of_its_dict_is_not_accused(in_place: bool) -> None:
    params = {"w": array(3), "b": array(2)}

    def popping(p: dict[str, Array]) -> float:
        return square(p.pop("w")) + square(p["b"])

    slopes = {name: 2 * value for name, value in params.items()}
    assert outcome(popping, slopes, params, in_place=in_place) in ("pass", "refused")
    assert list(params) == ["w", "b"]


def test_a_gradient_that_reuses_one_buffer_is_copied_at_once() -> None:
    buffer = np.empty(3)

    def reusing(p: dict[str, Array]) -> dict[str, Array]:
        np.multiply(2, p["a"], out=buffer)
        return {"a": buffer}

    def loss_with_buffer(p: dict[str, Array]) -> float:
        buffer.fill(np.nan)
        return square(p["a"])

    assert fastgc.check_gradients(loss_with_buffer, reusing, {"a": array(3)}, points=3).passed


def test_a_gradient_may_be_the_parameters_themselves_or_views_of_them() -> None:
    def half(p: Any) -> float:
        return 0.5 * sum(square(value) for value in p.values())

    params = {"a": array(3), "b": np.asfortranarray(array(2, 3))}
    before = bits(params)
    for in_place in (False, True):
        assert fastgc.check_gradients(half, lambda p: p, params, in_place=in_place).passed
        views = fastgc.check_gradients(half, lambda p: {k: v[...] for k, v in p.items()}, params, in_place=in_place)
        assert views.passed
        assert fastgc.check_gradients(half, params, params, in_place=in_place).passed
    assert bits(params) == before


def test_a_loss_that_gives_both_may_return_the_parameters_as_gradient() -> None:
    assert fastgc.check_gradients(lambda p: (0.5 * square(p), p), True, array(3)).passed


def test_a_given_gradient_is_left_as_it_is() -> None:
    given = {"w": np.asfortranarray(2 * array(2, 3))}
    before = bits(given)
    assert fastgc.check_gradients(lambda p: square(p["w"]), given, {"w": array(2, 3)}).passed
    assert bits(given) == before


def test_a_read_only_gradient_is_fine() -> None:
    given = 2 * array(3)
    given.setflags(write=False)
    assert fastgc.check_gradients(square, given, array(3)).passed


def test_a_noisy_loss_is_said_with_a_hint() -> None:
    generator = np.random.default_rng(0)
    params = array(6)
    before = bits(params)
    report = fastgc.check_gradients(lambda p: square(p) + 1e-3 * generator.normal(), double, params)
    assert report.verdict != "fail", str(report)
    assert any("noisy" in note and "dropout" in note and "seed" in note for note in report.notes)
    assert bits(params) == before


def test_dropout_is_never_called_a_bug() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(30, 8))

    def with_dropout(p: Array) -> float:
        return float(np.mean((x * (generator.random(x.shape) < 0.5)) @ p) ** 2)

    report = fastgc.check_gradients(with_dropout, lambda p: 0.5 * np.mean(x @ p) * x.mean(axis=0), array(8))
    assert report.verdict == "undecided", str(report)
    assert any("noisy" in note for note in report.notes)


def test_a_repeatable_loss_is_not_called_noisy() -> None:
    assert fastgc.check_gradients(square, double, array(6)).notes == ()


def test_a_loss_that_never_responds_is_said_with_a_hint() -> None:
    report = fastgc.check_gradients(lambda p: 4.0, double, array(3))
    assert report.verdict == "fail"
    assert any("read its argument" in note for note in report.notes)
    report = fastgc.check_gradients(lambda p: 4.0, lambda p: 0 * p, array(3))
    assert report.verdict != "fail"
    assert any("read its argument" in note for note in report.notes)


@pytest.mark.parametrize("p", [np.zeros(3), array(3)], ids=["at the kink", "elsewhere"])
def test_a_loss_that_responds_is_not_said_to_ignore_its_argument(p: Array) -> None:
    report = fastgc.check_gradients(lambda p: float(np.abs(p).sum()), np.sign, p)
    assert not any("read its argument" in note for note in report.notes)


def test_a_gradient_of_zeros_is_said() -> None:
    report = fastgc.check_gradients(square, lambda p: 0 * p, array(3))
    assert report.verdict == "fail"
    assert any("zero everywhere" in note for note in report.notes)


def test_a_gradient_that_is_itself_a_finite_difference_is_said() -> None:
    def quotient(p: Array) -> Array:
        return fastgc.numerical_gradient(lambda q: float(np.sum(np.exp(q))), p, 1e-4)

    report = fastgc.check_gradients(lambda p: float(np.sum(np.exp(p))), quotient, array(6), step=1e-4)
    assert any("finite difference" in note for note in report.notes)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("step", [None, 1e-4, 1e-2])
def test_an_exact_gradient_is_not_said_to_be_a_finite_difference(dtype: Any, step: float | None) -> None:
    report = fastgc.check_gradients(square, double, array(6).astype(dtype), step=step, precision="native")
    assert not any("finite difference" in note for note in report.notes), str(report)


# --- assert_gradients ---


def jumping(p: Array) -> float:
    return float(np.sum(np.where(p > 0, 1.0, 0.0) + p))


def test_assert_gradients_returns_the_report_of_a_pass() -> None:
    report = fastgc.assert_gradients(square, double, array(3), samples=2, seed=4)
    assert report.passed and report.seed == 4 and report.tensors["params"].checked == 2


def test_assert_gradients_raises_an_assertion_error_with_the_report() -> None:
    with pytest.raises(fastgc.GradientMismatch) as caught:
        fastgc.assert_gradients(square, lambda p: 3 * p, array(3))
    assert isinstance(caught.value, AssertionError)
    assert caught.value.report.verdict == "fail"
    assert str(caught.value) == str(caught.value.report)
    assert "FAIL" in str(caught.value) and "params" in str(caught.value)


def test_assert_gradients_raises_for_undecided_unless_allowed() -> None:
    start = np.zeros(1)
    with pytest.raises(fastgc.GradientMismatch) as caught:
        fastgc.assert_gradients(jumping, np.ones(1), start)
    assert caught.value.report.verdict == "undecided"
    assert fastgc.assert_gradients(jumping, np.ones(1), start, allow_undecided=True).verdict == "undecided"
    with pytest.raises(fastgc.GradientMismatch):
        fastgc.assert_gradients(square, lambda p: 3 * p, array(3), allow_undecided=True)


def test_bad_arguments_are_no_mismatch() -> None:
    with pytest.raises(ValueError, match="rtol"):
        fastgc.assert_gradients(square, double, array(3), rtol=-1)


# --- selection ---


def test_the_choice_of_entries_is_reproducible_and_independent_of_the_other_tensors() -> None:
    params = {"a": array(300), "b": array(20, 20)}

    def total(p: Any) -> float:
        return sum(square(value) for value in p.values())

    def chosen(params: Any, **options: Any) -> dict[str, list[Any]]:
        slopes = {name: 2 * value for name, value in params.items()}
        report = fastgc.check_gradients(total, slopes, params, crosscheck=False, **options)
        return {name: [entry.index for entry in tensor.entries] for name, tensor in report.tensors.items()}

    assert chosen(params) == chosen(params, seed=0)
    assert chosen(params) != chosen(params, seed=1)
    assert chosen(params, tensors="b")["b"] == chosen(params)["b"]
    assert chosen({"b": params["b"]})["b"] == chosen(params)["b"]
    report = fastgc.check_gradients(loss, gradients, params, seed=7)
    assert report.seed == 7 and "seed 7" in str(report)


def test_the_whole_result_is_reproducible() -> None:
    def result() -> Any:
        found = fastgc.check_gradients(loss, gradients, {"a": array(50)}, points=2).to_dict()
        return {key: value for key, value in found.items() if key != "seconds"}

    assert result() == result()


def test_all_entries_are_checked_on_demand() -> None:
    report = fastgc.check_gradients(loss, gradients, {"a": array(50), "b": array(6, 7)}, samples="all")
    assert [tensor.checked for tensor in report.tensors.values()] == [50, 42]


@pytest.mark.parametrize("where", [0, 49, 23])
def test_a_single_wrong_entry_among_all_is_found_and_nothing_else(where: int) -> None:
    def wrong(p: Any) -> Any:
        right = gradients(p)
        right["a"][where] *= 1.001
        return right

    report = fastgc.check_gradients(loss, wrong, {"a": array(50), "b": array(3)}, samples="all")
    assert [entry.index for entry in report.tensors["a"].wrong_entries] == [(where,)]
    assert report.tensors["b"].verdict == "pass"
    assert report.tensors["a"].worst == report.tensors["a"].wrong_entries[0]


def test_the_first_last_and_largest_entries_are_among_the_samples() -> None:
    spiked = np.zeros(1000)
    spiked[371] = -5.0

    def linear(p: Array) -> float:
        return float(spiked @ p + np.sum(np.cos(p)) * 1e-3)

    report = fastgc.check_gradients(linear, lambda p: spiked - 1e-3 * np.sin(p), array(1000), samples=16)
    assert {(0,), (999,), (371,)} <= {entry.index for entry in report.tensors["params"].entries}


# --- default tolerances ---


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(np.float64, 1e-5), (np.float32, 1e-3), (np.float16, 1e-2)], ids=["double", "single", "half"]
)
def test_the_default_rtol_follows_the_gradients_dtype(dtype: Any, rtol: float) -> None:
    p = np.array([1.0, 2.0, 4.0])  # exact in every dtype

    def wrong_by(relative: float) -> Callable[[Array], Array]:
        return lambda p: (2 * p * (1 + relative)).astype(dtype)

    assert fastgc.check_gradients(square, wrong_by(0.3 * rtol), p).passed
    assert fastgc.check_gradients(square, wrong_by(3 * rtol), p).verdict == "fail"
    assert fastgc.check_gradients(square, wrong_by(3 * rtol), p, rtol=10 * rtol).passed
    strict = fastgc.check_gradients(square, wrong_by(8 * rtol), p, rtol=0.5 * rtol)
    assert strict.verdict == "fail"


def test_each_tensor_has_the_rtol_of_its_own_gradient() -> None:
    params = {"d": np.array([1.0, 2.0]), "s": np.array([1.0, 2.0])}

    def slopes(p: Any) -> Any:
        return {"d": 2.0002 * p["d"], "s": (2.0002 * p["s"]).astype(np.float32)}

    report = fastgc.check_gradients(lambda p: square(p["d"]) + square(p["s"]), slopes, params)
    assert (report.tensors["d"].verdict, report.tensors["s"].verdict) == ("fail", "pass")


def test_atol_allows_absolute_differences() -> None:
    p = array(4)
    wrong = 2 * p + np.array([0, 1e-3, 0, 0])
    assert fastgc.check_gradients(square, wrong, p).verdict == "fail"
    assert fastgc.check_gradients(square, wrong, p, atol=2e-3).passed
    assert fastgc.check_gradients(square, wrong, p, atol=5e-4).verdict == "fail"
    assert fastgc.check_gradients(square, 2 * p, p, atol=0, rtol=1e-8).passed


def test_the_default_atol_is_small_beside_the_tensors_slopes() -> None:
    p = np.array([1.0, 1.0, 1.0, 1e-7])
    assert fastgc.check_gradients(square, np.array([2, 2, 2, 2e-7 + 1e-10]), p).passed
    assert fastgc.check_gradients(square, np.array([2, 2, 2, 2e-7 + 3e-9]), p).verdict == "fail"


def test_tolerances_do_not_grow_with_the_size_of_a_tensor() -> None:
    for size in 1, 10, 3000:
        report = fastgc.check_gradients(square, lambda p: 2.0001 * p, array(size) + 1, samples=8)
        assert report.verdict == "fail"


# --- every stencil ---


@pytest.mark.parametrize("stencil", ["central", "forward", "backward", "five_point", "complex_step"])
@pytest.mark.parametrize("factor", [1.0, 1.0005, -1.0])
def test_every_stencil_tells_right_from_wrong(stencil: str, factor: float) -> None:
    def smooth(p: Array) -> Any:
        return np.sum(np.sin(p) * p + np.exp(p))

    report = fastgc.check_gradients(
        smooth, lambda p: factor * (np.cos(p) * p + np.sin(p) + np.exp(p)), array(5), stencil=stencil
    )
    assert report.verdict == ("pass" if factor == 1 else "fail"), str(report)


@pytest.mark.parametrize("step", [1e-7, 1e-5, 1e-3, 0.1])
@pytest.mark.parametrize("stencil", ["central", "forward", "backward", "five_point"])
def test_a_bad_step_accuses_nobody_and_hides_nothing(stencil: str, step: float) -> None:
    p = array(5)

    def smooth(p: Array) -> float:
        return float(np.sum(np.exp(p)))

    assert fastgc.check_gradients(smooth, np.exp(p), p, step=step, stencil=stencil).passed
    report = fastgc.check_gradients(smooth, 1.001 * np.exp(p), p, step=step, stencil=stencil)
    sensitivity = report.sensitivity["params"]
    assert sensitivity is not None
    assert report.verdict == "fail" or sensitivity.largest > 1e-3 * np.exp(p).max()
    assert fastgc.check_gradients(smooth, 1.3 * np.exp(p), p, step=step, stencil=stencil).verdict == "fail"


@pytest.mark.parametrize("step", [1e-20, 1e3])
def test_a_senseless_step_changes_no_verdict_and_starts_no_rumour(step: float) -> None:
    p = array(4)

    def smooth(p: Array) -> float:
        return float(np.sum(np.arctan(p)))

    report = fastgc.check_gradients(smooth, 1 / (1 + p**2), p, step=step)
    assert report.passed and report.notes == (), str(report)
    assert fastgc.check_gradients(smooth, 2 / (1 + p**2), p, step=step).verdict == "fail"


def test_a_given_step_gives_the_textbook_quotient() -> None:
    def loss(p: Array) -> float:
        return float(np.sum(np.exp(p)))

    p = array(3)
    report = fastgc.check_gradients(loss, np.exp, p, step=1e-4, samples="all")
    for entry in report.tensors["params"].entries:
        up, down = p.copy(), p.copy()
        up[entry.index] += 1e-4
        down[entry.index] -= 1e-4
        assert entry.numerical == pytest.approx((loss(up) - loss(down)) / 2e-4, rel=1e-12)
        assert entry.step == 1e-4


# --- the rules of verdicts, each by an example ---


def verdict(value: Callable[[Array], Any], analytic: Any, at: Any, **options: Any) -> tuple[str, str]:
    """Verdict and reason of the worst entry of a single array."""
    report = fastgc.check_gradients(
        lambda p: float(np.sum(value(p))), np.atleast_1d(np.asarray(analytic, float)), np.atleast_1d(at), **options
    )
    worst = report.tensors["params"].worst
    assert worst is not None
    assert math.isnan(worst.uncertainty) or worst.uncertainty > 0
    return report.verdict, f"{worst.reason}; {report.tensors['params'].reason}"


def called(value: Callable[[Array], Any], analytic: float, at: float) -> str:
    """Verdict on a gradient that is this everywhere."""
    return fastgc.check_gradients(
        lambda p: float(np.sum(value(p))), lambda p: np.full(1, float(analytic)), np.full(1, at)
    ).verdict


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_analytic_value_that_is_not_finite_fails(value: float) -> None:
    found, reason = verdict(np.square, [2.0, value], [1.0, 2.0])
    assert found == "fail" and "not finite" in reason


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_analytic_value_that_is_not_finite_fails_even_where_nothing_can_be_measured(value: float) -> None:
    assert verdict(lambda p: np.where(p > 0, 1e3, 0.0), value, 0.0)[0] == "fail"
    assert verdict(lambda p: 0 * p, value, 0.0)[0] == "fail"


@pytest.mark.parametrize("value", [1e155, 1e300, -1.7e308, 5e-324])
@pytest.mark.parametrize("samples", [1, "all"])
def test_analytic_values_of_any_size_are_compared_without_a_warning(value: float, samples: Any) -> None:
    p = array(3)
    wrong = np.array([value, 2 * p[1], 2 * p[2]])
    report = fastgc.check_gradients(square, wrong, p, samples=samples)
    assert report.verdict == "fail"
    assert report.to_json() and str(report)


@pytest.mark.parametrize("analytic", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_at_a_kink_every_value_between_the_slopes_passes(analytic: float) -> None:
    found, reason = verdict(np.abs, analytic, 0.0)
    assert found == "pass"
    assert "kink" in reason or analytic == 0  # a symmetric quotient, which sees no kink, gives that very value


@pytest.mark.parametrize("analytic", [-1.1, 1.01, 1.001, 2.0, -100.0])
def test_at_a_kink_a_value_outside_the_slopes_fails(analytic: float) -> None:
    assert called(np.abs, analytic, 0.0) == "fail"
    found, reason = verdict(np.abs, analytic, 0.0)
    assert found == "undecided" and "pass a function to decide" in reason


@pytest.mark.parametrize(
    ("analytic", "expected"), [(0.0, "pass"), (0.5, "pass"), (1.0, "pass"), (-0.1, "fail"), (2, "fail")]
)
def test_a_rectifier_at_zero(analytic: float, expected: str) -> None:
    assert called(lambda p: np.maximum(p, 0), analytic, 0.0) == expected


@pytest.mark.parametrize("at", [0.0, 1.0, -3e4, 2e-5])
@pytest.mark.parametrize("steepness", [1e-6, 1e6])
def test_kinks_of_any_steepness_at_any_place(at: float, steepness: float) -> None:
    def bent(p: Array) -> Array:
        return steepness * (np.abs(p - at) + 0.25 * (p - at) + (p - at) ** 2)

    for analytic, expected in ((1.25, "pass"), (-0.75, "pass"), (0.25, "pass"), (1.5, "fail"), (-1.0, "fail")):
        assert called(bent, steepness * analytic, at) == expected, analytic


def test_a_kink_is_found_beside_smooth_entries() -> None:
    report = fastgc.check_gradients(
        lambda p: float(np.sum(np.maximum(p, 0) * [1, 2, 3, 4])),
        lambda p: (p > 0) * [1.0, 2, 3, 4],
        np.array([1.0, 0, -1, 0]),
    )
    assert report.passed
    assert [entry.reason for entry in report.tensors["params"].entries] == ["", "kink", "", "kink"]


@pytest.mark.parametrize("distance", [1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("at", [0.0, 1.0])
@pytest.mark.parametrize("side", [1, -1])
def test_a_kink_beside_the_point_is_passed_under(distance: float, at: float, side: int) -> None:
    def bent(p: Array) -> Array:
        return np.abs(p - at)

    point = at + side * distance
    assert verdict(bent, side, point)[0] == "pass"
    for wrong in (0.5 * side, 0.0, 1.5 * side):
        assert verdict(bent, wrong, point)[0] != "pass", wrong
    assert verdict(bent, 3.0 * side, point)[0] == "fail"


@pytest.mark.parametrize("distance", [1e-7, 1e-5, 1e-3])
def test_the_slope_of_the_other_side_of_a_kink_fails(distance: float) -> None:
    assert verdict(np.abs, -1.0, distance)[0] == "fail"
    assert verdict(lambda p: np.maximum(p, 0), 0.0, distance)[0] == "fail"
    assert verdict(lambda p: np.maximum(p, 0), 1.0, -distance)[0] == "fail"


@pytest.mark.parametrize("analytic", [-1e3, -1.0, 0.0, 1.0, 7.0])
@pytest.mark.parametrize("at", [0.0, 1.0])
def test_at_a_jump_nothing_is_decided(analytic: float, at: float) -> None:
    found, reason = verdict(lambda p: np.where(p > at, 1.0, 0.0) + p, analytic, at)
    assert found == "undecided" and "jump" in reason


@pytest.mark.parametrize("analytic", [0.0, 1.0, 1e6])
def test_an_infinite_slope_is_undecided(analytic: float) -> None:
    for steep in (np.sqrt, lambda p: np.sqrt(np.abs(p)), lambda p: np.cbrt(p)):
        found, reason = verdict(steep, analytic, 0.0)
        assert found == "undecided" and "infinite" in reason


def test_a_slope_that_bends_like_a_square_root_is_no_kink() -> None:
    def bent(p: Array) -> Array:
        return np.abs(p) ** 1.5 + 0.5 * p

    assert verdict(bent, 0.5, 0.0)[0] == "pass"
    assert "kink" not in verdict(bent, 0.5, 0.0)[1]
    assert verdict(bent, 0.6, 0.0)[0] == "fail"
    assert verdict(lambda p: np.abs(p) ** 1.5, 0.0, 0.0)[0] != "fail"
    assert verdict(lambda p: np.abs(p) ** 1.5, 0.1, 0.0)[0] == "fail"


def test_stairs_are_undecided() -> None:
    for at, analytic in ((1.01, 0.0), (1.01, 20.0), (0.0, 0.0), (0.0, 20.0), (-3.02, 0.0), (0.3, 0.0)):
        assert verdict(lambda p: np.floor(p / 0.05), analytic, at)[0] == "undecided", at
    assert verdict(lambda p: np.floor(p / 0.05), 0.0, 0.01)[0] != "fail"  # one stair, as far as one can see
    reason = verdict(lambda p: np.floor(p / 0.05), 0.0, 0.3)[1]  # at the edge of a stair, whose side is rounding's
    assert "stairs" in reason or "jumps" in reason


SINGLE = {
    "square": lambda p: np.float32(np.sum(p**2)),
    "square far from zero": lambda p: np.float32(np.sum(p**2) + 1e3),
    "rounded to three digits": lambda p: round(float(np.sum(p**2)), 3),
    "square on 1e10": lambda p: np.sum(p**2) + 1e10,
    "square minus 1e8": lambda p: np.sum(p**2) - 1e8,
    "sum in single precision": lambda p: np.sum(p.astype(np.float32) ** 2),
}


@pytest.mark.parametrize("value", SINGLE.values(), ids=SINGLE)
@pytest.mark.parametrize("start", [np.array([1.3, 0.7]), array(12), np.array([1e-3, 5.0]), -array(3)])
def test_correct_gradients_of_imprecise_losses_are_never_accused(value: Any, start: Array) -> None:
    report = fastgc.check_gradients(lambda p: float(value(p)), double, start)
    assert report.verdict != "fail", str(report)


@pytest.mark.parametrize("value", SINGLE.values(), ids=SINGLE)
@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0, 1.5])
def test_clearly_wrong_gradients_of_imprecise_losses_fail(value: Any, factor: float) -> None:
    report = fastgc.check_gradients(lambda p: float(value(p)), lambda p: factor * 2 * p, np.array([1.3, 0.7]))
    assert report.verdict == "fail", str(report)


def waves(p: Array) -> float:
    return float(np.float32(np.sum(np.sin(3 * p)) + 1e6))


def test_round_off_of_single_precision_is_named() -> None:
    for slope in 3.0, 2.0:
        found, reason = verdict(lambda p: waves(p), [slope, slope], [0.0, 0.0])
        assert found == "undecided" and "float32" in reason


@pytest.mark.parametrize("offset", [1e6, 1e7, 1e9])
@pytest.mark.parametrize("at", [0.0, 0.1, 1.0])
def test_a_slope_below_the_resolution_of_single_precision_is_never_accused(offset: float, at: float) -> None:
    def value(p: Array) -> float:
        return float(np.float32(np.sum(np.sin(3 * p)) + offset))

    assert verdict(value, 3 * math.cos(3 * at), at)[0] != "fail"


def test_least_squares_at_its_exact_solution_are_never_accused() -> None:
    generator = np.random.default_rng(0)
    for shape in ((8, 3), (3, 3), (50, 10)):
        design, solution = generator.normal(size=shape), generator.normal(size=shape[1])
        y = design @ solution

        def residuals(p: Array, design: Array = design, y: Array = y) -> float:
            return float(np.sum((design @ p - y) ** 2))

        def slopes(p: Array, design: Array = design, y: Array = y) -> Array:
            return 2 * design.T @ (design @ p - y)

        report = fastgc.check_gradients(residuals, slopes, solution)
        assert report.verdict != "fail", str(report)
        for wrong in (1.0, 1e-3):
            assert fastgc.check_gradients(residuals, slopes(solution) + wrong, solution).verdict == "fail"


def test_a_constant_loss_has_slope_zero() -> None:
    assert verdict(lambda p: 0 * p + 3.0, 1e-3, 2.0)[0] == "fail"
    assert verdict(lambda p: 0 * p + 3.0, 0.0, 2.0)[0] != "fail"


def test_a_dead_tensor_among_live_ones_passes_with_zero_and_fails_otherwise() -> None:
    params = {"live": array(3), "dead": array(4)}
    right = {"live": 2 * array(3), "dead": np.zeros(4)}
    report = fastgc.check_gradients(lambda p: square(p["live"]), right, params)
    assert report.passed, str(report)
    report = fastgc.check_gradients(lambda p: square(p["live"]), right | {"dead": np.full(4, 1e-4)}, params)
    assert (report.tensors["live"].verdict, report.tensors["dead"].verdict) == ("pass", "fail")


@pytest.mark.parametrize("at", [1e-7, 1e-12, 1e-3])
def test_near_the_edge_of_a_logarithm_the_step_shrinks(at: float) -> None:
    for value in (np.log, lambda p: np.array([math.log(each) for each in p])):
        assert verdict(value, [1 / at, 1.0], [at, 1.0])[0] == "pass"
        assert verdict(value, [1.01 / at, 1.0], [at, 1.0])[0] == "fail"


def test_near_the_edges_of_other_domains() -> None:
    assert verdict(np.sqrt, 0.5 / math.sqrt(1e-8), 1e-8)[0] == "pass"
    assert verdict(np.arcsin, 1 / math.sqrt(1 - (1 - 1e-8) ** 2), 1 - 1e-8)[0] == "pass"
    assert verdict(lambda p: 1 / p, -1e12, 1e-6)[0] == "pass"
    assert verdict(lambda p: 1 / p, -1.01e12, 1e-6)[0] == "fail"
    assert verdict(lambda p: p * np.log(p), math.log(1e-9) + 1, 1e-9)[0] == "pass"


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6, 1e-9])
def test_noise_hides_small_errors_only(size: float) -> None:
    generator = np.random.default_rng(0)

    def noisy(p: Array) -> float:
        return square(p) + size * generator.normal()

    for _ in range(5):
        assert fastgc.check_gradients(noisy, double, np.array([1.3, 0.7])).verdict != "fail"
        wrong = fastgc.check_gradients(noisy, lambda p: 4 * p, np.array([1.3, 0.7]))
        assert wrong.verdict == "fail" or (size == 1e-2 and wrong.verdict == "undecided")


def test_noise_larger_than_the_loss_leaves_everything_undecided() -> None:
    generator = np.random.default_rng(0)
    for factor in (1.0, 0.0, 2.0):
        report = fastgc.check_gradients(
            lambda p: 1e-3 * square(p) + generator.normal(),
            lambda p, factor=factor: factor * 2e-3 * p,
            np.array([1.3, 0.7]),
        )
        assert report.verdict == "undecided"
        assert "noise" in report.tensors["params"].reason


SIZES = 10.0 ** np.arange(-12, 4)


def test_entries_that_span_fifteen_decades_are_never_accused() -> None:
    def spread(p: Array) -> float:
        return float(np.sum(SIZES * np.sin(p)))

    report = fastgc.check_gradients(spread, lambda p: SIZES * np.cos(p), np.full(16, 0.3), samples="all")
    assert report.passed, str(report)
    for where in range(10, 16):
        wrong = SIZES * math.cos(0.3)
        wrong[where] *= 1.01
        report = fastgc.check_gradients(spread, wrong, np.full(16, 0.3), samples="all")
        assert [entry.index for entry in report.tensors["params"].wrong_entries] == [(where,)]


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e-30, 1e-8, 1e8, 1e30, 1e150])
def test_the_scale_of_the_loss_does_not_matter(scale: float) -> None:
    p = np.array([1.3, 0.7])
    assert fastgc.check_gradients(lambda p: scale * square(p), lambda p: scale * 2 * p, p).passed
    assert fastgc.check_gradients(lambda p: scale * square(p), lambda p: scale * 2.001 * p, p).verdict == "fail"


@pytest.mark.parametrize("scale", [1e-150, 1e-75, 1e-8, 1e8, 1e150])
@pytest.mark.parametrize("stencil", ["central", "five_point", "forward"])
def test_the_scale_of_the_parameters_does_not_matter(scale: float, stencil: str) -> None:
    p = scale * np.array([1.3, 0.7])

    def value(p: Array) -> float:
        return square(p / scale)

    assert fastgc.check_gradients(value, lambda p: 2 * (p / scale) / scale, p, stencil=stencil).passed
    assert fastgc.check_gradients(value, lambda p: 2.01 * (p / scale) / scale, p, stencil=stencil).verdict == "fail"


def test_entries_of_very_different_size_in_one_tensor_have_steps_of_their_own() -> None:
    p = np.array([1e-6, 1.0, 1e6])

    def value(p: Array) -> float:
        return float(np.sum(np.log(p)))

    report = fastgc.check_gradients(value, lambda p: 1 / p, p)
    assert report.passed, str(report)
    report = fastgc.check_gradients(value, lambda p: np.array([1.01e6, 1.0, 1e-6]), p)
    assert [entry.index for entry in report.tensors["params"].wrong_entries] == [(0,)]


def test_a_large_tensor_of_small_errors_fails_by_its_norm_or_its_entries() -> None:
    p = array(200) + 1
    signs = np.where(np.arange(200) % 2, 1, -1)
    report = fastgc.check_gradients(square, 2 * p * (1 + 5e-5 * signs), p, samples="all")
    assert report.verdict == "fail"


# --- verdict of the tensor and of the report ---


def test_fail_wins_over_undecided_and_undecided_over_pass() -> None:
    def mixed(p: dict[str, Array]) -> float:
        return square(p["good"]) + square(p["bad"]) + jumping(p["jump"])

    params = {"good": array(2), "jump": np.zeros(2), "bad": array(3)}
    right = {"good": 2 * array(2), "jump": np.ones(2), "bad": 2 * array(3)}
    report = fastgc.check_gradients(mixed, right, params)
    assert [tensor.verdict for tensor in report.tensors.values()] == ["pass", "undecided", "pass"]
    assert report.verdict == "undecided" and not report.passed
    report = fastgc.check_gradients(mixed, right | {"bad": 3 * array(3)}, params)
    assert [tensor.verdict for tensor in report.tensors.values()] == ["pass", "undecided", "fail"]
    assert report.verdict == "fail"


def test_the_errors_of_a_summary_are_those_of_its_entries() -> None:
    report = fastgc.check_gradients(loss, lambda p: {"w": 1.5 * gradients(p)["w"]}, {"w": array(9)}, samples="all")
    tensor = report.tensors["w"]
    a = np.array([entry.analytic for entry in tensor.entries])
    n = np.array([entry.numerical for entry in tensor.entries])
    np.testing.assert_array_equal(a, 1.5 * gradients({"w": array(9)})["w"])
    assert tensor.max_absolute_error == np.abs(a - n).max()
    assert tensor.max_relative_error == pytest.approx(fastgc.max_relative_error(a, n), rel=1e-12)
    assert tensor.relative_error == pytest.approx(fastgc.relative_error(a, n), rel=1e-12)
    assert tensor.max_relative_error == max(entry.relative_error for entry in tensor.entries) == pytest.approx(0.2)


def test_the_sensitivity_is_what_would_have_failed() -> None:
    params = {"w": array(5)}
    right = gradients(params)["w"]
    sensitivity = fastgc.check_gradients(loss, {"w": right}, params).sensitivity["w"]
    assert sensitivity is not None and 0 < sensitivity.median <= sensitivity.largest < 1e-3
    for where in range(5):
        wrong = right.copy()
        wrong[where] += 1.5 * sensitivity.largest
        assert fastgc.check_gradients(loss, {"w": wrong}, params).verdict == "fail"


# --- random functions ---


# At smaller points the loss, times 1e-6, has fewer digits than elsewhere: the smallest normal number is 2e-308. Which
# points are drawn is up to the release of hypothesis.
POINTS = st.floats(-3, 3).filter(lambda x: x == 0 or abs(x) > 1e-280)


@given(
    st.lists(POINTS, min_size=1, max_size=6),
    st.sampled_from([1e-6, 1.0, 1e6]),
    st.integers(0, 5),
    st.floats(1e-3, 1.0) | st.floats(-2.0, -1e-3),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_right_gradients_never_fail_and_wrong_ones_never_pass(
    point: list[float], scale: float, where: int, error: float
) -> None:
    p = np.array(point)

    def value(p: Array) -> float:
        return float(scale * np.sum(np.sin(p) + 0.1 * p**3 + np.log1p(p**2)))

    right = scale * (np.cos(p) + 0.3 * p**2 + 2 * p / (1 + p**2))
    assert fastgc.check_gradients(value, right, p).verdict != "fail"
    wrong = right.copy()
    wrong[where % p.size] += error * scale
    assert fastgc.check_gradients(value, wrong, p).verdict == "fail"
