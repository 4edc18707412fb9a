"""Projections of a Jacobian by the complex step, where the function is analytic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastgc import check_jacobian
from tests.support.jacobians import WIDE, Floats, by_kind, layer, layer_jacobian, spoiled

KINDS = ["array", "callable", "jvp", "vjp"]
STEPS: dict[str, Any] = {"stencil": "complex_step"}


@pytest.mark.parametrize("kind", KINDS)
def test_complex_steps_find_the_wrong_entry_by_fewer_evaluations(kind: str) -> None:
    assert by_kind(kind, layer_jacobian, WIDE, **STEPS).passed
    wrong = spoiled((7, 123), 1.01)
    found, by_differences = by_kind(kind, wrong, WIDE, **STEPS), by_kind(kind, wrong, WIDE)
    for report in (found, by_differences):
        assert {entry.index for entry in report.wrong_entries} == {(7, 123)}, str(report)
    assert found.evaluations < by_differences.evaluations


@pytest.mark.parametrize("offset", [1e8, 1e12])
def test_offsets_hide_nothing_from_them(offset: float) -> None:
    def far(x: Floats) -> Floats:
        return offset + np.tanh(np.sin(x) + x)

    def slopes(x: Floats) -> Floats:
        return np.diag((1 - np.tanh(np.sin(x) + x) ** 2) * (np.cos(x) + 1))

    def wrong(x: Floats) -> Floats:
        found = slopes(x)
        found[123, 123] *= 1.01
        return found

    for options in (STEPS, {}):
        right = check_jacobian(far, slopes, WIDE, **options)
        assert right.verdict == "pass" or offset == 1e12, str(right)
        assert right.verdict != "fail", str(right)
        report = check_jacobian(far, wrong, WIDE, **options)
        assert {entry.index for entry in report.wrong_entries} == {(123, 123)}, str(report)


def test_functions_that_are_not_analytic_are_left_to_differences() -> None:
    def folded(x: Floats) -> Floats:
        return layer(np.abs(x))

    def slopes(x: Floats) -> Floats:
        return layer_jacobian(np.abs(x)) * np.sign(x)

    def wrong(x: Floats) -> Floats:
        found = slopes(x)
        found[7, 123] *= 1.1
        return found

    few = {**STEPS, "columns": 10}
    assert check_jacobian(folded, slopes, WIDE, **few).passed
    assert check_jacobian(folded, slopes, WIDE, **STEPS).verdict != "fail"
    assert {entry.index for entry in check_jacobian(folded, wrong, WIDE, **few).wrong_entries} == {(7, 123)}
    forgotten = check_jacobian(folded, lambda x: layer_jacobian(np.abs(x)), WIDE, **few)
    assert forgotten.verdict == "fail"
