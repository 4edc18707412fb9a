"""Arguments that make no sense, and the names and patterns of tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgc
from tests.support.layouts import array, gradients, loss

PARAMS = {"enc.0.w": array(5), "enc.0.b": array(2), "enc.1.w": array(4), "head[0]": array(3), "headx0x": array(2)}


def check(**options: Any) -> fastgc.GradientReport:
    return fastgc.check_gradients(loss, gradients, PARAMS, **options)


# --- which tensors ---

SELECTIONS: list[tuple[Any, list[str]]] = [
    (None, list(PARAMS)),
    ("enc.0.w", ["enc.0.w"]),
    (["headx0x", "enc.0.w"], ["enc.0.w", "headx0x"]),
    (("enc.1.w",), ["enc.1.w"]),
    ("enc.*", ["enc.0.w", "enc.0.b", "enc.1.w"]),
    ("*.w", ["enc.0.w", "enc.1.w"]),
    ("enc.?.b", ["enc.0.b"]),
    ("*", list(PARAMS)),
    ("head[0]", ["head[0]"]),
    ("head[*", ["head[0]"]),
    ("head[?]", ["head[0]"]),
    ("head?0?", ["head[0]", "headx0x"]),
    (["*.b", "*.w", "enc.0.?"], ["enc.0.w", "enc.0.b", "enc.1.w"]),
]


@pytest.mark.parametrize(("tensors", "names"), SELECTIONS)
def test_tensors_are_selected_by_name_and_pattern(tensors: Any, names: list[str]) -> None:
    report = check(tensors=tensors)
    assert list(report.tensors) == names
    assert report.passed


def test_tensors_left_out_are_named() -> None:
    left_out = [note for note in check(tensors="enc.*").notes if "head[0]" in note]
    assert len(left_out) == 1 and "headx0x" in left_out[0] and "enc" not in left_out[0]
    assert not any("head[0]" in note for note in check().notes)


@pytest.mark.parametrize(
    "tensors", ["W1", "enc", "ENC.0.W", "head[0-9]", "head[!x]", "enc.0.w ", "", ["enc.0.w", "W1*"]]
)
def test_an_unknown_name_in_tensors_is_refused_with_those_there_are(tensors: Any) -> None:
    unknown = tensors if isinstance(tensors, str) else tensors[-1]
    with pytest.raises(ValueError, match=r"tensors.*'enc\.0\.w', 'enc\.0\.b'.*'headx0x'") as caught:
        check(tensors=tensors)
    assert repr(unknown) in str(caught.value)


def test_a_name_with_a_star_is_a_name_first() -> None:
    params = {"w*": array(2), "w1": array(3)}
    report = fastgc.check_gradients(loss, gradients, params, tensors="w*")
    assert list(report.tensors) == ["w*"]


def test_a_pattern_is_no_regular_expression() -> None:
    params = {"a+b": array(2), "aab": array(3), "a.b": array(1)}
    for name in params:
        assert list(fastgc.check_gradients(loss, gradients, params, tensors=name).tensors) == [name]
    assert list(fastgc.check_gradients(loss, gradients, params, tensors="a?b").tensors) == list(params)
    with pytest.raises(ValueError, match=r"a\|b"):
        fastgc.check_gradients(loss, gradients, params, tensors="a|b")


@pytest.mark.parametrize("tensors", [3, [3], [None], {"enc.0.w": 1, 5: 2}])
def test_names_of_tensors_are_strings(tensors: Any) -> None:
    with pytest.raises(TypeError, match="tensors"):
        check(tensors=tensors)


@pytest.mark.parametrize("tensors", [[], ()])
def test_a_check_of_no_tensor_at_all_is_refused(tensors: Any) -> None:
    with pytest.raises(ValueError, match="tensors"):
        check(tensors=tensors)


@given(st.text(alphabet="ab.*?[]!^$\\x", min_size=1, max_size=6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_only_star_and_question_mark_are_special(pattern: str) -> None:
    params = {"a.b": array(1), "a[b]": array(1), "b": array(1), "ab": array(1), "a\\x": array(1)}

    def matches(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return any(matches(pattern[1:], name[i:]) for i in range(len(name) + 1))
        return bool(name) and pattern[0] in ("?", name[0]) and matches(pattern[1:], name[1:])

    expected = [name for name in params if matches(pattern, name)]
    if expected:
        assert list(fastgc.check_gradients(loss, gradients, params, tensors=pattern).tensors) == expected
    else:
        with pytest.raises(ValueError, match="tensors"):
            fastgc.check_gradients(loss, gradients, params, tensors=pattern)


# --- how many entries ---

COUNTS: list[tuple[Any, list[int]]] = [
    (1, [1, 1, 1, 1, 1]),
    (2, [2, 2, 2, 2, 2]),
    (np.int64(3), [3, 2, 3, 3, 2]),
    ("all", [5, 2, 4, 3, 2]),
    (10**9, [5, 2, 4, 3, 2]),
    ({}, [5, 2, 4, 3, 2]),
    ({"enc.0.w": 1}, [1, 2, 4, 3, 2]),
    ({"*": 1, "*.w": 2}, [2, 1, 2, 1, 1]),
    ({"*.w": 2, "*": 1}, [1, 1, 1, 1, 1]),
    ({"enc.0.w": 3, "*": 1}, [3, 1, 1, 1, 1]),
    ({"*": 1, "enc.1.w": "all"}, [1, 1, 4, 1, 1]),
    ({"*": "all", "head[0]": 1}, [5, 2, 4, 1, 2]),
]


@pytest.mark.parametrize(("samples", "counts"), COUNTS)
def test_samples_are_counted_by_tensor(samples: Any, counts: list[int]) -> None:
    report = check(samples=samples)
    assert [tensor.checked for tensor in report.tensors.values()] == counts
    for tensor in report.tensors.values():
        assert len({entry.index for entry in tensor.entries}) == tensor.checked


def test_names_that_samples_does_not_mention_get_the_default() -> None:
    params = {"a": array(100), "b": array(100)}
    report = fastgc.check_gradients(loss, gradients, params, samples={"a": 3})
    assert [tensor.checked for tensor in report.tensors.values()] == [3, 32]
    assert report.passed


@pytest.mark.parametrize("samples", [{"W9": 1}, {"enc.0.w": 1, "W9*": 2}, {"head[0-9]": 1}])
def test_an_unknown_name_in_samples_is_refused_with_those_there_are(samples: Any) -> None:
    with pytest.raises(ValueError, match=r"samples.*'enc\.0\.w', 'enc\.0\.b'") as caught:
        check(samples=samples)
    assert repr(list(samples)[-1]) in str(caught.value)


@pytest.mark.parametrize("samples", [-1, -(10**9), {"*": -1}, {"enc.0.w": -3}, np.int64(-1)])
def test_negative_samples_are_refused_with_the_number(samples: Any) -> None:
    with pytest.raises(ValueError, match=r"samples.* is -\d+; it must be at least \d"):
        check(samples=samples)


@pytest.mark.parametrize("samples", [1.5, 2.0, None, True, math.nan, [3], {"*": 1.5}, {"*": None}, {3: 1}])
def test_samples_that_are_no_whole_numbers_are_refused(samples: Any) -> None:
    with pytest.raises(TypeError, match="samples"):
        check(samples=samples)


@pytest.mark.parametrize("samples", ["some", "ALL", "", {"*": "every"}])
def test_the_only_word_for_samples_is_all(samples: Any) -> None:
    with pytest.raises(ValueError, match=r"samples.*'all'"):
        check(samples=samples)


# --- numbers ---


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("value", [-1e-9, -1, math.nan, math.inf, -math.inf, np.float64(-1)])
def test_nonsensical_tolerances_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} is .*; it must be finite and at least 0"):
        check(**{name: value})


@pytest.mark.parametrize("value", [0, 0.0, -1e-5, math.nan, math.inf])
def test_nonsensical_steps_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"step is .*; it must be finite and above 0"):
        check(step=value)


@pytest.mark.parametrize("name", ["rtol", "atol", "step"])
@pytest.mark.parametrize("value", ["1e-5", True, 1j, [1e-5], np.array([1e-5])])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} is .*; it must be a number"):
        check(**{name: value})


@pytest.mark.parametrize("value", [0, 1e-3, np.float32(1e-3), 1])
def test_tolerances_may_be_any_finite_number_from_zero_on(value: Any) -> None:
    assert check(rtol=value, atol=1e-6).passed
    assert check(rtol=1e-6, atol=value).passed


@pytest.mark.parametrize("name", ["points", "threads", "seed"])
@pytest.mark.parametrize("value", [-1, np.int64(-3)])
def test_negative_counts_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}; it must be at least"):
        check(**{name: value})


@pytest.mark.parametrize("name", ["points", "threads"])
def test_no_point_and_no_thread_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is 0; it must be at least 1"):
        check(**{name: 0})


@pytest.mark.parametrize("name", ["points", "threads", "seed"])
@pytest.mark.parametrize("value", [1.5, "2", True, math.nan])
def test_counts_are_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} is .*integer"):
        check(**{name: value})


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-2, ValueError), (1.0, TypeError), (None, TypeError)])
def test_workers_are_a_number_of_processes_or_all(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"workers is {value}; it must be (at least|an integer)"):
        check(workers=value)
    assert check(workers=1).engine == "python"


CONFLICTS: list[tuple[dict[str, Any], str]] = [
    ({"workers": 2, "engine": "numba"}, 'workers=2 .*engine="numba"'),
    ({"workers": -1, "engine": "numba"}, 'workers=-1 .*engine="numba"'),
    ({"vectorized": True, "engine": "numba"}, 'vectorized=True .*engine="numba"'),
    ({"workers": 2, "in_place": True}, "workers=2 .*in_place=True"),
    ({"vectorized": True, "in_place": True}, "vectorized=True .*in_place=True"),
    ({"workers": 2, "vectorized": True}, "workers=2 .*vectorized=True"),
]


@pytest.mark.parametrize(("options", "message"), CONFLICTS)
def test_ways_to_run_a_loss_that_exclude_each_other_are_both_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(**options)


def test_a_vectorized_loss_cannot_return_gradients() -> None:
    with pytest.raises(ValueError, match="vectorized=True cannot go with gradients=True"):
        fastgc.check_gradients(loss, True, PARAMS, vectorized=True)


# --- words ---


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("stencil", "centered", "'central'.*'five_point'"),
        ("stencil", "", "'forward'.*'backward'"),
        ("precision", "single", "'double'.*'native'"),
        ("engine", "cuda", "'auto'.*'numba'.*'python'"),
        ("engine", None, "'auto'.*'numba'.*'python'"),
    ],
)
def test_an_unknown_word_is_refused_with_those_there_are(name: str, value: Any, known: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*{value!r}.*{known}"):
        check(**{name: value})


@pytest.mark.parametrize("args", [3.0, [1.0], None, array(2), {"a": 1}])
def test_args_must_be_a_tuple(args: Any) -> None:
    with pytest.raises(TypeError, match=rf"args is a {type(args).__name__}; it must be a tuple.*args=\(value,\)"):
        check(args=args)


@pytest.mark.parametrize(
    ("value", "count"), [([1.0, math.nan], 1), ([math.inf, -math.inf, 1.0], 2), ([[math.nan] * 2] * 2, 4)]
)
def test_parameters_that_are_not_finite_are_refused_and_counted(value: Any, count: int) -> None:
    with pytest.raises(ValueError, match=rf"params\['bad'\] has {count} entr"):
        fastgc.check_gradients(loss, gradients, {"ok": array(3), "bad": np.array(value)})


def test_all_parameters_that_are_not_finite_stand_in_one_message() -> None:
    params = {"a": np.array([math.nan]), "b": array(2), "c": np.array([1.0, math.inf])}
    with pytest.raises(ValueError, match=r"params\['a'\].*params\['c'\]") as caught:
        fastgc.check_gradients(loss, gradients, params)
    assert "'b'" not in str(caught.value)


def test_nothing_is_evaluated_before_the_arguments_are_understood() -> None:
    def never(*_: Any) -> float:
        raise AssertionError("evaluated")

    for options in ({"samples": -1}, {"rtol": -1.0}, {"tensors": "W9"}, {"step": 0}, {"engine": "c"}, {"points": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            fastgc.check_gradients(never, never, PARAMS, **options)


def test_an_argument_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="epsilon"):
        check(epsilon=1e-5)
    with pytest.raises(TypeError, match="epsilon"):
        fastgc.assert_gradients(loss, gradients, PARAMS, epsilon=1e-5)
