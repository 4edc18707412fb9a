"""The error of a quotient against its step: truncation, round-off, the optimum between them, and the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

import fastgc
from tests.support.imports import make_missing
from tests.support.textbook import EPS, assert_optimum, round_off, truncation

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def sine() -> Any:
    return fastgc.step_sweep(np.sin, math.cos(1), 1.0)


def test_the_steps_are_five_hundred_from_1e_16_to_1(sine: Any) -> None:
    np.testing.assert_array_equal(sine.steps, np.logspace(-16, 0, 500))
    assert list(sine.errors) == ["forward", "central"]
    assert all(errors.shape == (500,) for errors in sine.errors.values())


@pytest.mark.parametrize("stencil", ["forward", "central"])
def test_errors_are_truncation_and_round_off_at_every_step(sine: Any, stencil: str) -> None:
    off = np.abs(sine.errors[stencil] - truncation(stencil, sine.steps))
    assert np.all(off <= round_off(stencil, sine.steps))


@pytest.mark.parametrize("stencil", ["forward", "central"])
def test_the_optima_of_the_sine_at_one(sine: Any, stencil: str) -> None:
    assert_optimum(stencil, sine.steps, sine.errors[stencil])
    assert sine.best_error[stencil] == sine.errors[stencil].min()
    assert sine.errors[stencil][sine.steps == sine.best_step[stencil]] == sine.best_error[stencil]


def test_errors_are_those_of_the_textbook_quotients(sine: Any) -> None:
    below, above = ([float(np.sin(1.0 + h)) for h in sign * sine.steps] for sign in (-1, 1))
    forward = (np.array(above) - float(np.sin(1.0))) / sine.steps
    central = (np.array(above) - np.array(below)) / (2 * sine.steps)
    np.testing.assert_allclose(sine.errors["forward"], np.abs(forward - math.cos(1)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(sine.errors["central"], np.abs(central - math.cos(1)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("stencil", "order", "low", "high"),
    [("forward", 1, 1e-5, 1e-2), ("central", 2, 1e-3, 1e-1), ("five_point", 4, 1e-2, 0.3)],
)
def test_truncation_falls_with_the_order(stencil: str, order: int, low: float, high: float) -> None:
    sweep = fastgc.step_sweep(np.sin, math.cos(1), 1.0, stencils=[stencil])
    part = (sweep.steps > low) & (sweep.steps < high)
    slope = np.polyfit(np.log(sweep.steps[part]), np.log(sweep.errors[stencil][part]), 1)[0]
    assert slope == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("stencil", ["forward", "central"])
def test_round_off_grows_as_the_step_shrinks(sine: Any, stencil: str) -> None:
    """The errors lie below eps / h, and on average not far below it."""
    part = (sine.steps > 1e-14) & (sine.steps < (1e-10 if stencil == "forward" else 1e-8))
    scaled = sine.errors[stencil][part] * sine.steps[part] / EPS
    assert scaled.max() < 2
    assert scaled.mean() > 0.1


def test_the_complex_step_has_no_round_off() -> None:
    sweep = fastgc.step_sweep(np.sin, math.cos(1), 1.0, stencils=["complex_step"])
    assert sweep.errors["complex_step"][sweep.steps < 1e-9].max() < 4 * EPS


def test_the_derivative_may_be_a_function_and_the_steps_ones_own() -> None:
    sweep = fastgc.step_sweep(np.exp, np.exp, 2.0, [1e-3, 1e-1], stencils=("central", "backward"))
    assert list(sweep.errors) == ["central", "backward"]
    np.testing.assert_array_equal(sweep.steps, [1e-3, 1e-1])
    assert sweep.best_step == {"central": 1e-3, "backward": 1e-3}
    assert sweep.best_error["backward"] == sweep.errors["backward"].min()


def test_the_text_names_both_optima(sine: Any) -> None:
    lines = str(sine).splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, sine.errors, strict=True):
        assert line == f"{name}: smallest error {sine.best_error[name]:.1e} at h = {sine.best_step[name]:.1e}"


def test_values_that_are_not_finite_are_passed_over() -> None:
    sweep = fastgc.step_sweep(np.log, 2.0, 0.5)
    assert np.isnan(sweep.errors["central"][-1]) or np.isinf(sweep.errors["central"][-1])
    assert 1e-9 < sweep.best_step["central"] < 1e-4
    assert sweep.best_error["central"] < 1e-9


@pytest.mark.parametrize("steps", [[], [0.0], [1e-3, -1e-3], [math.nan]])
def test_steps_must_be_positive(steps: list[float]) -> None:
    with pytest.raises(ValueError, match=r"steps is .*must be positive numbers"):
        fastgc.step_sweep(np.sin, 1.0, 0.0, steps)


def test_unknown_formulas_are_refused() -> None:
    with pytest.raises(ValueError, match="stencil 'sideways' is not known"):
        fastgc.step_sweep(np.sin, 1.0, 0.0, stencils=["sideways"])


# --- the picture ---


def test_the_picture_is_log_log_with_a_curve_and_a_mark_for_each_formula(sine: Any, tmp_path: Path) -> None:
    ax = sine.plot()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert "h" in ax.get_xlabel()
    assert "error" in ax.get_ylabel()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["forward", "central"]
    curves = [line for line in ax.get_lines() if len(line.get_xdata()) == 500]
    marks = [line for line in ax.get_lines() if len(line.get_xdata()) == 1]
    assert len(curves) == 2
    assert [float(line.get_xdata()[0]) for line in marks] == list(sine.optimum.values())
    assert ax.get_title() and ax.get_xgridlines()[0].get_visible()
    assert [text.get_text() for text in ax.texts] == ["h", "h²", "eps / h"]
    ax.figure.savefig(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_it_is_drawn_where_it_is_asked_to(sine: Any) -> None:
    ax = Figure().add_subplot()
    assert sine.plot(ax) is ax
    assert sine.plot(ax=ax) is ax


def test_an_exact_quotient_can_be_drawn_too() -> None:
    """A constant has no error at any step: nothing is left on a logarithmic axis, and nothing to warn of."""
    sweep = fastgc.step_sweep(lambda x: 0.0 * x, 0.0, 1.0)
    assert sweep.best_error == {"forward": 0, "central": 0}
    sweep.plot().figure.canvas.draw()


def test_without_matplotlib_the_message_says_what_to_install(sine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_missing(monkeypatch, "matplotlib")
    with pytest.raises(ImportError, match=r'plot\(\) needs matplotlib: python -m pip install "matplotlib>='):
        sine.plot()


def test_the_optimum_is_no_step_whose_error_vanishes_by_luck() -> None:
    """Of exp at 0, steps of 2**-27 and below give quotients that are right to the bit now and then."""
    errors = np.array([1e-3, 1e-5, 1e-6, 0.0, 1e-5, 1e-4, 1e-3])
    steps = np.array([1e-1, 1e-2, 1e-3, 0.8e-3, 0.7e-3, 1e-5, 1e-6])
    sweep = type(fastgc.step_sweep(np.sin, np.cos, 1.0, [0.1]))(steps, {"forward": errors})
    assert sweep.best_step["forward"] == 0.8e-3
    assert sweep.optimum["forward"] == 1e-2


def test_every_stencil_is_seen_with_its_slope_and_none_falls_to_nothing(sine: Any) -> None:
    names: Any = ("forward", "backward", "central", "five_point", "complex_step")
    ax = fastgc.step_sweep(np.sin, np.cos, 1.0, stencils=names).plot()
    assert [text.get_text() for text in ax.texts] == ["h", "h²", "h⁴", "eps / h"]
    curves = {line.get_label(): line for line in ax.get_lines() if len(line.get_xdata()) == 500}
    assert curves["forward"].get_linestyle() != curves["backward"].get_linestyle()
    assert min(line.get_ydata().min() for line in curves.values()) > 1e-17
    assert ax.get_ylim()[0] > 1e-17


def test_a_notebook_shows_the_picture_and_the_text(sine: Any) -> None:
    page = sine._repr_html_()
    assert page.count("<svg") == 1 and "smallest error" in page and "eps / h" in page
