"""Random projections of a Jacobian: what they see, and where they lead."""

from __future__ import annotations

import numpy as np
import pytest

from fastgc import check_jacobian
from fastgc._jacobian.columns import Group
from fastgc._jacobian.entries import check_groups, open_jacobian
from fastgc._jacobian.operator import matrix_operator, vjp_operator
from fastgc._jacobian.projections import project
from fastgc._progress import Progress
from tests.support.jacobians import (
    KINDS,
    POINT,
    WIDE,
    A,
    Floats,
    band,
    band_jacobian,
    by_kind,
    field_of,
    layer,
    layer_jacobian,
    spoiled,
)


@pytest.mark.parametrize("kind", KINDS)
def test_large_right_ones_pass_on_samples_and_projections(kind: str) -> None:
    report = by_kind(kind, layer_jacobian, WIDE)
    assert report.passed, str(report)
    assert report.checked == 32 * 40 < report.size
    assert report.probes == 3
    assert "3 random directions over all inputs miss an error of one entry above" in str(report)
    assert report.entry_limit is not None
    assert report.entry_limit < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [(7, 123), (39, 598), (0, 1)])
def test_projections_lead_to_the_wrong_output_and_the_wrong_input(kind: str, place: tuple[int, int]) -> None:
    report = by_kind(kind, spoiled(place, 1.5), WIDE)
    assert report.verdict == "fail"
    assert [entry.index for entry in report.wrong_entries] == [place]


@pytest.mark.parametrize("kind", KINDS)
def test_one_wrong_entry_of_many_takes_few_evaluations(kind: str) -> None:
    right, wrong = by_kind(kind, layer_jacobian, WIDE), by_kind(kind, spoiled((7, 123), 1.5), WIDE)
    assert wrong.evaluations - right.evaluations <= 100  # halving 600 inputs took 240


@pytest.mark.parametrize("kind", ["callable", "vjp"])
def test_several_wrong_entries_are_found_one_after_the_other(kind: str) -> None:
    def jacobian(x: Floats) -> Floats:
        result = layer_jacobian(x)
        result[[3, 17, 17], [100, 200, 300]] += 0.5
        return result

    report = by_kind(kind, jacobian, WIDE)
    assert {(3, 100), (17, 200), (17, 300)} <= {entry.index for entry in report.wrong_entries}


def test_without_projections_only_the_samples_speak() -> None:
    report = check_jacobian(layer, spoiled((7, 123), 1.5), WIDE, probes=0)
    assert report.passed
    assert report.entry_limit is None
    everything = check_jacobian(layer, spoiled((7, 123), 1.5), WIDE, columns="all")
    assert everything.verdict == "fail"
    assert everything.checked == everything.size
    assert check_jacobian(layer, layer_jacobian, WIDE, columns=5).checked == 5 * 40


def test_a_projection_whose_residual_leads_nowhere_limits_what_it_shows() -> None:
    tiny = check_jacobian(layer, lambda x: layer_jacobian(x) * (1 + 1e-7), WIDE)
    exact = check_jacobian(layer, layer_jacobian, WIDE)
    assert tiny.passed
    assert tiny.entry_limit is not None
    assert exact.entry_limit is not None
    assert tiny.entry_limit > 3 * exact.entry_limit


@pytest.mark.parametrize("place", [(200, 17), (5, 399)])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_a_nonzero_outside_the_declared_sparsity_is_found(place: tuple[int, int], size: float) -> None:
    def leaking(x: Floats) -> Floats:
        result = band(x)
        result[place[0]] += size * x[place[1]]
        return result

    report = check_jacobian(leaking, band_jacobian, POINT)
    assert [entry.index for entry in report.wrong_entries] == [place]
    assert report.wrong_entries[0].analytic == 0
    assert report.wrong_entries[0].numerical == pytest.approx(size, rel=1e-4)


def test_an_output_that_no_entry_is_declared_for_must_not_move() -> None:
    pattern = np.eye(4)
    pattern[3, 3] = 0
    report = check_jacobian(lambda x: x**2, np.diag([2.0, 2, 2, 0]), np.ones(4), sparsity=pattern)
    assert [entry.index for entry in report.wrong_entries] == [(3, 3)]


# --- by themselves ---


@pytest.mark.parametrize("whole", [True, False])
def test_they_lead_from_no_entry_at_all_to_the_wrong_one(whole: bool) -> None:
    x = np.random.default_rng(1).normal(size=60)
    wrong = A[:9, :60] * np.cos(x)
    wrong[4, 37] *= 3
    function = field_of(lambda x: A[:9, :60] @ np.sin(x), x)
    operator = matrix_operator(wrong) if whole else vjp_operator(lambda v: v @ wrong, 9, 60, np.dtype(np.float64))
    jacobian = open_jacobian(function, operator, None, None, None)
    with Progress(1, shown=False) as bar:
        none = check_groups(jacobian, [Group(np.array([0]), np.full(9, -1, np.int64))], bar)
        projections, found = project(jacobian, none, 5, 0, bar)
    assert (projections.probes, projections.miss_probability) == (5, 1e-3)
    assert projections.entry_limit is not None
    assert projections.entry_limit < 1e-6
    failing = [each.estimates.positions[each.judgement.verdict == "fail"].tolist() for each in found]
    assert failing == [[4 * 60 + 37]]
