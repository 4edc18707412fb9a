"""What is said of operations that were tested by themselves."""

from __future__ import annotations

from typing import Any

from fastgc._reports.operations import INSIDE, Operation, Slope, operation_lines

WRONG = Slope("input 0", 3.0, 1.5, 1e-9, "fail")
OTHER = Slope("input 1", 1.0, 0.0, 1e-9, "fail")
RIGHT = Slope("", 1.0, 1.0, 1e-9, "pass")


def operation(path: str = "a", verdict: Any = "pass", reason: str = "", *slopes: Slope, call: int = 1) -> Operation:
    return Operation(path, "Gelu", "Gelu.backward", call, verdict, reason, slopes or (RIGHT,), 3)


AROUND = operation("b", "undecided", INSIDE)
UNSURE = operation("c", "undecided", "noise hides its slope")


def test_a_culprit_is_named_with_both_values_and_the_factor() -> None:
    said = "a: Gelu.backward is wrong with respect to its input 0: along a random direction analytic 3, numerical 1.5"
    wrong = operation("a", "fail", "", WRONG)
    assert operation_lines([wrong]) == [f"{said} +- 1e-09, factor 2"]
    assert operation_lines([operation("d"), wrong]) == [f"{said} +- 1e-09, factor 2; the other operation agrees"]
    (line,) = operation_lines([wrong, operation("d"), operation("e"), AROUND, UNSURE])
    assert line.endswith("factor 2; the other 2 operations agree, 1 more contains it, 1 is undecided")


def test_without_a_path_or_a_slope() -> None:
    (line,) = operation_lines([operation("", "fail", "", OTHER)])
    assert line.startswith("Gelu.backward is wrong with respect to its input 1: ")
    assert line.endswith("analytic 1, numerical 0 +- 1e-09")
    (line,) = operation_lines([Operation("f", "f", "the custom_vjp of f", 1, "fail", "it returns 1", (), 1)])
    assert line == "f: the custom_vjp of f is wrong: it returns 1"


def test_several_arguments_and_calls_are_told_in_one_line() -> None:
    calls = [operation("a", "fail", "", OTHER, WRONG, call=k) for k in (1, 2)]
    (line,) = operation_lines([*calls, operation("a", call=3)])
    assert line.startswith(
        "a: Gelu.backward is wrong with respect to its input 1, input 0 in 2 of its 3 calls: along a random direction "
        "(input 0) analytic 3, "
    )
    together = Slope("", 3.0, 1.5, 1e-9, "fail")
    assert "its all its" not in operation_lines([operation("a", "fail", "", together)])[0]
    assert "with respect to all its arguments together: " in operation_lines([operation("a", "fail", "", together)])[0]


def test_where_none_is_wrong() -> None:
    combined = "; the error lies in how they are combined (a detach, a hook, a gradient that is overwritten?)"
    assert operation_lines([]) == []
    assert operation_lines([operation()]) == [f"the one operation agrees by itself{combined}"]
    assert operation_lines([operation(), operation("b")]) == [f"all 2 operations agree by themselves{combined}"]
    assert operation_lines([operation(), operation("b"), UNSURE]) == [
        "no operation is seen to be wrong by itself: 2 operations agree, 1 is undecided"
    ]
    assert operation_lines([UNSURE, UNSURE]) == ["no operation is seen to be wrong by itself: 2 are undecided"]


def test_factors_and_errors_of_slopes() -> None:
    assert WRONG.factor == 2 and OTHER.factor != OTHER.factor
    assert WRONG.relative_error == 1 / 3 and Slope("", 0.0, 0.0, 1.0, "pass").relative_error == 0
