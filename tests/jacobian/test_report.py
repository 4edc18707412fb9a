"""The report on a Jacobian: counts by output and input, both matrices, the kind of bug, JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fastgc import JacobianReport, check_jacobian
from fastgc._jacobian.report import failed
from tests.support.jacobians import (
    WIDE,
    Floats,
    df,
    f,
    layer,
    layer_jacobian,
)


def test_both_small_matrices_stand_side_by_side_with_marks() -> None:
    text = str(check_jacobian(f, lambda x: df(x).T, [2.0, 3.0]))
    assert "analytic (* differs)   numerical" in text
    assert "4   3*                 4   1" in text
    assert "1* -4                  3  -4" in text
    assert "wrong entries by output: [0]: 1, [1]: 1" in text
    assert "consistent with a transposed tensor" in text


def test_wide_matrices_stand_one_above_the_other_and_large_ones_are_left_out() -> None:
    texts = [str(check_jacobian(np.sin, lambda x: -np.diag(np.cos(x)), np.linspace(1, 2, n))) for n in (7, 11, 16)]
    assert "\nanalytic (* differs)\n" in texts[0] and "\nnumerical\n" in texts[0] and " 0.5403 " in texts[0]
    assert "\nanalytic (* differs)\n" in texts[1] and "\nnumerical\n" in texts[1] and " 0.54 " in texts[1]
    assert "analytic (* differs)" not in texts[2]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 100


def test_shapes_of_outputs_and_inputs_index_the_entries() -> None:
    def g(x: Floats) -> Floats:
        return np.sin(x).reshape(3, 2)

    def dg(x: Floats) -> Floats:
        result = np.diag(np.cos(x).ravel()).reshape(3, 2, 2, 3)
        result[2, 0, 1, 1] = 0.0
        return result

    report = check_jacobian(g, dg, np.arange(6.0).reshape(2, 3))
    assert report.output_shape == (3, 2)
    assert report.input_shape == (2, 3)
    assert report.by_output == {(2, 0): 1}
    assert report.by_input == {(1, 1): 1}
    assert "output [2, 0] by input [1, 1]" in str(report)


def test_the_kind_of_bug_is_named() -> None:
    report = check_jacobian(np.sin, lambda x: 2 * np.diag(np.cos(x)), np.linspace(0.1, 1, 9))
    assert report.diagnosis is not None
    assert report.diagnosis.factor == pytest.approx(2)
    assert "constant factor of 2" in str(report)


def test_the_report_goes_to_json_and_back(tmp_path: Any) -> None:
    report = check_jacobian(f, lambda x: df(x).T, [2.0, 3.0])
    path = tmp_path / "report.json"
    text = report.to_json(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data == json.loads(text) == report.to_dict() | {"input_shape": [2], "output_shape": [2]}
    assert data["schema"] == 1
    assert data["passed"] is False
    assert data["entries"]["index"][data["wrong_entries"][0]] in ([0, 1], [1, 0])
    assert set(data) >= set(JacobianReport.__dataclass_fields__)


def test_unchecked_entries_of_a_matrix_are_nan() -> None:
    report = check_jacobian(layer, layer_jacobian, WIDE, columns=2)
    numbers = report.matrix("uncertainty")
    assert np.isfinite(numbers).sum() == report.checked
    assert numbers.shape == (40, 600)


def test_a_further_reason_fails_a_report_and_stands_first() -> None:
    right = check_jacobian(f, df, [2.0, 3.0])
    assert (failed(right, "not symmetric").verdict, failed(right, "not symmetric").reason) == ("fail", "not symmetric")
    wrong = check_jacobian(f, lambda x: df(x).T, [2.0, 3.0])
    assert failed(wrong, "not symmetric").reason == f"not symmetric; {wrong.reason}"
