"""Outputs at displaced inputs: kept, counted, rounded; each of them a loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastgc
from fastgc import check_jacobian
from fastgc._derivatives.stencil import STENCILS
from fastgc._evaluation.evaluator import Ray, silent
from fastgc._jacobian.function import OutputLoss, VectorFunction
from tests.support.jacobians import Floats, field_of


def test_noise_is_said_and_hides_small_slopes() -> None:
    generator = np.random.default_rng(0)

    def noisy(x: Floats) -> Floats:
        return 1e-3 * x + 1e-2 * generator.random(3)

    report = check_jacobian(noisy, np.diag([2e-3] * 3), np.ones(3))
    assert report.verdict == "undecided"
    assert "f is noisy: a repeated call gave other outputs" in str(report)
    assert "noise hides the slopes of all columns tried; the others were left out" in report.notes
    assert report.checked == 6


def test_an_exception_of_f_passes_through_and_one_of_its_domain_does_not() -> None:
    def picky(x: Floats) -> Floats:
        if x[0] != 1.0:
            raise RuntimeError("only here")
        return x

    with pytest.raises(RuntimeError, match="only here"):
        check_jacobian(picky, np.eye(1), np.ones(1))

    def logarithm(x: Floats) -> list[float]:
        import math

        return [math.log(each) for each in x]

    x = np.array([1e-8, 2.0])
    assert check_jacobian(logarithm, np.diag(1 / x), x).passed


def test_a_function_may_reuse_one_buffer() -> None:
    buffer = np.empty(2)

    def reusing(x: Floats) -> Floats:
        buffer[:] = x**2
        return buffer

    assert check_jacobian(reusing, lambda x: np.diag(2 * x), np.array([1.0, 2.0])).passed
    assert fastgc.check_jacobian is check_jacobian


# --- by itself ---


def field(x: Any, function: Callable[[Floats], Floats] = lambda x: np.array([x.sum(), x[0] * x[1]])) -> VectorFunction:
    return field_of(function, x)


def test_outputs_are_those_at_displaced_inputs_and_the_point_stays() -> None:
    found = field(np.array([1.0, 2.0, 3.0]))
    assert found.base.tolist() == [6, 2]
    assert found.outputs(np.array([0, 2]), np.array([[5.0, 7.0], [0.0, 0.0]])).tolist() == [[14, 10], [2, 0]]
    assert found.point.tolist() == [1, 2, 3]
    assert found.evaluations == 3


def test_what_is_kept_is_not_evaluated_again_until_it_is_forgotten() -> None:
    found = field(np.array([1.0, 2.0]))
    asked = np.array([0]), np.array([[5.0]])
    first = found.kept(*asked)
    assert found.kept(*asked) is first
    assert found.evaluations == 2
    found.forget()
    found.kept(*asked)
    assert found.evaluations == 3


def test_outputs_are_nan_where_the_function_raises() -> None:
    def root(x: Floats) -> Floats:
        return np.array([math.sqrt(x[0]), x[1]])

    found = field(np.ones(2), root)
    assert np.isnan(found.outputs(np.array([0]), np.array([[-1.0], [-2.0]]))).all()
    assert found.raised.notes("f") == (
        "f raised ValueError: math domain error (2 times, first at params[0] = -1): taken as not defined there",
    )
    with pytest.raises(ValueError, match="math domain error"):
        found.raised.pass_on()
    found.outputs(np.array([0, 1]), np.array([[4.0, 5.0], [-4.0, 5.0]]))
    found.raised.pass_on()  # not everywhere
    assert (found.raised.count, found.raised.answered) == (3, True)


def test_displaced_inputs_are_as_their_dtype_holds_them() -> None:
    found = field([np.ones(1, np.float32), np.ones(1)])
    exact = np.array([[1 + 1e-9], [1 + 1e-9]])
    assert found.rounded(np.array([0, 1]), exact).tolist() == [[1.0], [1 + 1e-9]]


def test_rays_displace_their_inputs_together() -> None:
    found = field([np.zeros(2), np.zeros(3)])
    rays = [Ray(0, 1, np.array([1], np.int8), 2.0), Ray(1, 0, np.array([1, -1], np.int8), 0.5)]
    columns, lengths = found.direction(rays)
    assert (columns.tolist(), lengths.tolist()) == ([1, 2, 3], [2.0, 0.5, -0.5])
    assert found.along(rays, np.array([1.0, 3.0]))[:, 0].tolist() == [2.0, 6.0]


@pytest.mark.parametrize(("weights", "value"), [(1, 2.0), (np.array([1.0, -1.0]), 1.0)])
def test_an_output_or_a_weighted_sum_is_a_loss(weights: Any, value: float) -> None:
    found = field(np.array([1.0, 2.0]))
    loss = OutputLoss(found, weights)
    displaced = np.array([[5.0, 1.0]])
    expected = found.outputs(np.array([0]), displaced.T) @ (np.eye(2)[1] if isinstance(weights, int) else weights)
    assert loss.value() == value
    assert loss.values(np.array([0]), displaced, silent).tolist() == [expected.tolist()]
    assert loss.along(np.array([0]), displaced.T).tolist() == expected.tolist()
    assert loss.entries(np.array([1])).tolist() == [2.0]
    assert loss.evaluations == found.evaluations


def test_the_noise_of_an_output_is_measured_once() -> None:
    found = field(np.array([1.0, 2.0]))
    loss = found.loss(0)
    assert found.loss(0) is loss
    assert loss.base == 3.0
    assert list(found.losses) == [0]


def test_lines_and_quotients_have_all_outputs_of_each_input() -> None:
    found = field(np.array([1.0, 2.0]))
    columns = np.array([1, 0])
    assert found.lines(columns, np.array([[5.0], [7.0]])).tolist() == [[[6, 5]], [[9, 14]]]
    assert found.quotients(STENCILS["central"], 0.5).tolist() == [[1, 1], [2, 1]]
    np.testing.assert_allclose(found.quotients(STENCILS["forward"], None), [[1, 1], [2, 1]], atol=1e-7)
