"""From quotients to verdicts: what is cheap stays cheap, what is in doubt climbs a ladder, what is odd is remarked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastgc
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.stencil import stencil_named
from fastgc._parameters.arrays import Floats
from fastgc._verdicts.entries import GradientAtPoint, check_entries, confirm, near_the_point
from fastgc._verdicts.judgement import Tolerances
from tests.support.probing import network, sines, with_error

Array = NDArray[Any]


def sampled(loss: Any, gradients: Any, params: Any, **options: Any) -> fastgc.GradientReport:
    """The check by samples alone."""
    return fastgc.check_gradients(loss, gradients, params, **{"probes": 0, "crosscheck": False, **options})


def cost(loss: Any, gradients: Any, params: Any, **options: Any) -> int:
    return sampled(loss, gradients, params, **options).evaluations


# --- what it costs ---


def test_entries_that_agree_cost_two_values_each() -> None:
    problem = sines(w=(100, 40))
    few, more = cost(*problem, samples=10), cost(*problem, samples=50)
    assert sampled(*problem, samples=50).passed
    assert more - few == 2 * 40


@pytest.mark.parametrize(("stencil", "values"), [("forward", 2), ("backward", 2), ("five_point", 4)])
def test_the_first_look_is_the_stencils(stencil: str, values: int) -> None:
    problem = sines(w=(100, 40))
    options: dict[str, Any] = {"stencil": stencil, "rtol": 1e-3}
    assert sampled(*problem, samples=50, **options).passed
    assert cost(*problem, samples=50, **options) - cost(*problem, samples=10, **options) == values * 40


def test_only_entries_in_doubt_climb_a_ladder() -> None:
    loss, gradients, params = sines(w=(100, 40))
    right = cost(loss, gradients, params, samples=50)
    report = sampled(loss, with_error(gradients, "w", 1.0, (0, 0)), params, samples=50)
    assert [entry.index for entry in report.tensors["w"].wrong_entries] == [(0, 0)]
    assert 10 <= report.evaluations - right <= 60 + 64  # a ladder, and what tells the kind of bug


def test_entries_close_to_the_tolerance_are_measured_twice() -> None:
    def loss(p: Array) -> float:
        return float(np.sum(np.sin(3 * p))) + 1e11

    p = np.linspace(0.1, 0.4, 8)
    right = 3 * np.cos(3 * p)
    plain = sampled(loss, right, p)
    entry = plain.tensors["params"].entries[3]
    close = right.copy()
    close[3] = entry.numerical + 1e-5 * abs(entry.numerical) + 4 * entry.uncertainty
    again = sampled(loss, close, p)
    assert plain.passed
    assert 10 <= again.evaluations - plain.evaluations <= 60
    assert again.tensors["params"].entries[3].uncertainty <= entry.uncertainty


def test_the_step_and_the_uncertainty_of_an_entry_in_doubt_are_those_of_the_ladder() -> None:
    loss, gradients, params = sines(w=200)
    right = sampled(loss, gradients, params).tensors["w"]
    wrong = sampled(loss, with_error(gradients, "w", 1.0, 0), params).tensors["w"]
    assert wrong.worst.index == (0,)
    assert wrong.worst.uncertainty < right.entries[0].uncertainty
    assert wrong.worst.numerical == pytest.approx(gradients["w"][0], rel=1e-8)


# --- failures that are looked at once more ---


def settled_site(monkeypatch: pytest.MonkeyPatch) -> tuple[GradientAtPoint, Estimates]:
    """The gradient of a right gradient of fifty entries, and what was estimated there, with ordinary uncertainties."""
    seen: list[tuple[GradientAtPoint, Estimates]] = []

    def spy(gradient: GradientAtPoint, *rest: Any) -> Any:
        found = check_entries(gradient, *rest)
        seen.append((gradient, found[0]))
        return found

    monkeypatch.setattr("fastgc._verdicts.time_budget.check_entries", spy)
    assert sampled(*sines(w=50), samples="all").passed
    gradient, estimates = seen[0]
    return gradient, replace(estimates, uncertainty=1e-5 * np.abs(estimates.numerical))


def confirmed(gradient: GradientAtPoint, estimates: Estimates) -> tuple[Array, Array, Estimates]:
    """Which entries failed, which do so when small steps were asked, and the estimates after that."""

    def verdicts(found: Estimates) -> Any:
        return gradient.verdicts(found, gradient.scales(found))

    judgement = verdicts(estimates)
    after, again = confirm(near_the_point(gradient.loss), estimates, judgement, verdicts)
    return judgement.failed, again.failed, after


def test_failures_that_small_steps_speak_against_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient, estimates = settled_site(monkeypatch)
    misled = replace(estimates, numerical=1.001 * estimates.numerical)  # as kinks far from the point may do
    before, after, found = confirmed(gradient, misled)
    assert before.all() and not after.any()
    assert np.all(found.uncertainty > 0.5e-3 * np.abs(found.numerical))  # at least half of what they are off by


def test_failures_that_small_steps_bear_out_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient, estimates = settled_site(monkeypatch)
    wrong = replace(gradient, gradients=[1.001 * gradient for gradient in gradient.gradients])
    before, after, found = confirmed(wrong, estimates)
    assert before.all() and after.all()
    np.testing.assert_array_equal(found.uncertainty, estimates.uncertainty)


# --- verdicts ---


def test_scales_are_those_of_each_tensors_numerical_entries() -> None:
    loss, gradients, params = sines(slopes={"small": 1e-4}, large=40, small=40)
    wrong = with_error(gradients, "small", 1e-8, ...)  # one in ten thousand of its own tensor
    report = sampled(loss, wrong, params, samples="all")
    assert report.tensors["small"].verdict == "fail"
    assert report.tensors["large"].verdict == "pass"


def test_a_site_has_the_analytic_gradient_at_any_positions() -> None:
    from fastgc._parameters.layout import flatten_parameters

    layout, _ = flatten_parameters({"a": np.zeros((2, 3)), "b": np.zeros(4)})

    class LossAtPoint:
        pass

    loss = LossAtPoint()
    loss.layout = layout  # type: ignore[attr-defined]
    gradients = [np.arange(6.0), 10 + np.arange(4, dtype=np.float32)]
    tolerances = Tolerances(np.full(2, 1e-5), None)
    gradient = GradientAtPoint(loss, gradients, np.ones(2), tolerances, stencil_named("central"), None)  # type: ignore[arg-type]
    assert gradient.analytic(np.array([9, 0, 5, 6])).tolist() == [13.0, 0.0, 5.0, 10.0]
    assert gradient.analytic(np.array([], np.int64)).size == 0


@pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-9])
def test_under_a_step_of_the_callers_the_quotient_is_shown_as_uncertain_as_it_is(step: float) -> None:
    loss, gradients, params = sines(w=50)
    report = sampled(loss, gradients, params, step=step, samples="all")
    assert report.passed
    for entry in report.tensors["w"].entries:
        assert abs(entry.numerical - gradients["w"][entry.index]) <= 10 * entry.uncertainty
        assert entry.step == step
    wrong = with_error(gradients, "w", 0.1, 7)
    report = sampled(loss, wrong, params, step=step, samples="all")
    shown = report.tensors["w"].entries[7]
    moved = {"w": params["w"].copy()}
    moved["w"][7] += step
    above = loss(moved)
    moved["w"][7] = params["w"][7] - step
    assert shown.numerical == pytest.approx((above - loss(moved)) / (2 * step), rel=1e-12)


# --- why a slope cannot be told ---


def test_reasons_tell_noise_from_round_off_and_from_float32() -> None:
    p = np.array([0.3, -0.7, 1.1])
    rng = np.random.default_rng(0)

    def noisy(q: Array) -> float:
        return float(np.sum(q**2) + 0.5 * rng.standard_normal())

    def drowned(q: Array) -> float:
        return float(np.sum(q**2) + 1e17)

    def single(q: Array) -> float:
        return float(np.float32(1e3 + np.sum(np.sin(40 * q)) / 7e3))

    reasons = {
        name: sampled(loss, gradient, p).tensors["params"].reason
        for name, loss, gradient in [
            ("noisy", noisy, 2 * p),
            ("drowned", drowned, 2 * p),
            ("single", single, 40 / 7e3 * np.cos(40 * p)),
        ]
    }
    assert "noise of the loss hides the slope" in reasons["noisy"]
    assert "noise of the loss" not in reasons["drowned"]
    assert "noise of the loss" not in reasons["single"]
    assert all(reasons.values())


# --- remarks ---


def notes(loss: Any, gradients: Any, params: Any, **options: Any) -> str:
    return " | ".join(sampled(loss, gradients, params, **options).notes)


def test_a_loss_that_never_responds_is_remarked() -> None:
    assert "did not respond" in notes(lambda p: 3.0, np.ones(5), np.ones(5))
    assert "did not respond" not in notes(lambda p: float(p.sum()), np.ones(5), np.ones(5))


def test_a_gradient_of_zeros_is_remarked() -> None:
    text = notes(lambda p: float(p.sum()), np.zeros(5), np.ones(5))
    assert "the analytic gradient is zero everywhere" in text


def test_a_gradient_that_is_a_finite_difference_is_remarked() -> None:
    loss, gradients, params = sines(w=60)
    quotients = sampled(loss, gradients, params, samples="all", step=1e-4)
    numerical = {"w": np.array([entry.numerical for entry in quotients.tensors["w"].entries])}
    assert "finite difference itself" in notes(loss, numerical, params, samples="all", step=1e-4, rtol=1e-3)
    assert "finite difference itself" not in notes(loss, gradients, params, samples="all", step=1e-4, rtol=1e-3)


def test_tensors_whose_slopes_vanish_are_remarked_one_by_one() -> None:
    params = {"a": np.ones(5), "b": np.arange(1.0, 5.0), "c": np.zeros(3)}

    def loss(p: Any) -> float:
        return float(np.cos(p["a"] - 1).sum() + np.exp(p["b"]).sum() + (p["c"] ** 2).sum())

    def gradients(p: Any) -> Any:
        return {"a": -np.sin(p["a"] - 1), "b": np.exp(p["b"]), "c": 2 * p["c"]}

    text = notes(loss, gradients, params)
    assert text == ("the slope vanishes in 'a', 'c': a wrong factor would not show there; check at another point")
    assert "vanishes" not in notes(loss, gradients, {"a": np.zeros(5), "b": params["b"], "c": np.ones(3)})


def test_noise_is_not_said_to_make_slopes_vanish() -> None:
    generator = np.random.default_rng(0)
    report = sampled(lambda p: float(p.sum() + generator.standard_normal()), np.ones(5), np.ones(5))
    assert report.verdict == "undecided"
    assert "vanishes" not in " ".join(report.notes)


def test_an_ordinary_check_has_no_remarks() -> None:
    for activation in ("tanh", "relu"):
        assert fastgc.check_gradients(*network(0, (20, 15, 4), activation)).notes == ()


def test_where_nothing_was_sampled_nothing_is_remarked() -> None:
    report = fastgc.check_gradients(*sines(w=60), samples=0)
    assert report.notes == ()


# --- losses that solve something ---


def relaxed(a: Floats, count: int) -> Floats:
    """Square roots by so many steps of a slow iteration: its error, and that of its slope, is a share of the value."""
    y = np.ones_like(a)
    for _ in range(count):
        y = y - 0.3 * (y**2 - a)
    return y


NEAR_ONE = np.linspace(0.97, 1.03, 8)


@pytest.mark.parametrize("count", [9, 10, 12])
def test_a_difference_that_a_solver_explains_is_called_that(count: int) -> None:
    report = fastgc.check_gradients(lambda a: float(relaxed(a, count).sum()), lambda a: 0.5 / np.sqrt(a), NEAR_ONE)
    assert report.verdict == "fail"
    (note,) = [note for note in report.notes if "iteratively" in note]
    assert note.startswith("params differs by ") and note.endswith(
        "if the loss solves something iteratively, tighten its tolerance or set rtol"
    )
    assert fastgc.check_gradients(
        lambda a: float(relaxed(a, count).sum()), lambda a: 0.5 / np.sqrt(a), NEAR_ONE, rtol=2e-3
    ).passed


@pytest.mark.parametrize("wrong", [2.0, -1.0, 0.0, 1.01])
def test_no_other_error_is_explained_by_a_solver(wrong: float) -> None:
    report = fastgc.check_gradients(lambda a: float(np.sqrt(a).sum()), lambda a: wrong * 0.5 / np.sqrt(a), NEAR_ONE)
    assert report.verdict == "fail" and not any("iteratively" in note for note in report.notes)
