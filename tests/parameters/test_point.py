"""The point of the check: copies or the caller's own arrays, other points around it, and args."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

import fastgc
from fastgc._parameters.point import replaced, tensor_scales
from tests.support.layouts import PARAMS, Array, array, gradients, leaves_of, loss


def square(p: Array) -> float:
    return float(np.sum(p.astype(np.float64) ** 2))


def double(p: Array) -> NDArray[np.float64]:
    return 2 * p.astype(np.float64)


class Net:
    """A model that keeps its parameters to itself."""

    def __init__(self, params: dict[str, Array]) -> None:
        self.params = params

    def loss(self, _: Any) -> float:
        return loss(self.params)


# --- in place ---


def test_a_loss_that_ignores_its_argument_reads_the_model() -> None:
    net = Net({"W1": array(3, 4), "b1": array(4), "t": np.array(0.5)})
    before = [value.tobytes() for value in net.params.values()]
    assert fastgc.check_gradients(net.loss, gradients(net.params), net.params, samples="all", in_place=True).passed
    wrong = gradients(net.params)
    wrong["b1"][2] *= 2
    report = fastgc.check_gradients(net.loss, wrong, net.params, samples="all", in_place=True)
    assert [entry.index for entry in report.tensors["b1"].wrong_entries] == [(2,)]
    assert [value.tobytes() for value in net.params.values()] == before


def test_without_in_place_such_a_loss_never_responds_and_that_is_said() -> None:
    net = Net({"W1": array(3, 4)})
    report = fastgc.check_gradients(net.loss, gradients(net.params), net.params)
    assert report.verdict == "fail"
    assert any("read its argument" in note for note in report.notes)
    assert "read its argument" in str(report)


def test_in_place_gives_the_callers_own_containers_and_arrays() -> None:
    params = {"a": [array(2)], "b": array(2)}
    seen: list[Any] = []

    def spying(received: Any) -> float:
        seen.append(received["a"][0])
        return loss(received)

    fastgc.check_gradients(spying, gradients, params, in_place=True)
    assert all(each is params["a"][0] for each in seen)


def test_otherwise_the_callers_arrays_are_not_even_shown() -> None:
    params = {"a": [array(2)], "b": array(2)}

    def spying(received: Any) -> float:
        assert not any(np.shares_memory(a, b) for a in leaves_of(received) for b in leaves_of(params))
        return loss(received)

    assert fastgc.check_gradients(spying, gradients, params).passed


def strided() -> Array:
    return array(8, 6)[::2, 1::2]


@pytest.mark.parametrize(
    "make",
    [
        strided,
        lambda: array(6, 4).T,
        lambda: array(5)[::-1],
        lambda: np.asfortranarray(array(2, 3, 4)),
        lambda: np.array(0.4),
    ],
    ids=["every other", "transposed", "backwards", "Fortran", "0-d"],
)
def test_non_contiguous_arrays_are_displaced_and_restored_in_place(make: Callable[[], Array]) -> None:
    value = make()
    base = value if value.base is None else value.base
    before = base.tobytes()
    model = {"w": value}
    report = fastgc.check_gradients(lambda _: loss(model), gradients(model), model, samples="all", in_place=True)
    assert report.passed, str(report)
    assert base.tobytes() == before


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_in_place_displaces_in_the_arrays_own_dtype(dtype: Any) -> None:
    value = array(4).astype(dtype)
    before = value.tobytes()
    report = fastgc.check_gradients(square, double, value, in_place=True)
    assert report.verdict != "fail", str(report)
    report = fastgc.check_gradients(square, lambda p: 3 * p.astype(np.float64), value, in_place=True)
    assert report.verdict == "fail", str(report)
    assert value.tobytes() == before


def test_in_place_keeps_zeros_signs_and_tiny_numbers_to_the_bit() -> None:
    value = np.array([0.0, -0.0, 5e-324, -1e-310, 1e300, 0.1])
    before = value.tobytes()

    def bounded(p: Array) -> float:
        return float(np.sum(np.arctan(p)))

    fastgc.check_gradients(bounded, lambda p: 1 / (1 + np.minimum(np.abs(p), 1e150) ** 2), value, in_place=True)
    assert value.tobytes() == before


def test_read_only_arrays_are_refused_in_place_by_name() -> None:
    frozen = array(3)
    frozen.setflags(write=False)
    with pytest.raises(ValueError, match=r"in_place=True.*'b'.*in_place=False"):
        fastgc.check_gradients(loss, gradients, {"a": array(2), "b": frozen}, in_place=True)
    assert fastgc.check_gradients(loss, gradients, {"a": array(2), "b": frozen}).passed


def overlapping() -> dict[str, tuple[Array, Array]]:
    block = array(10)
    square_block = array(4, 4)
    return {
        "the same array": (block, block),
        "slices": (block[:6], block[5:]),
        "a view and its base": (square_block, square_block[1]),
        "a transpose": (square_block, square_block.T),
        "crossing strides": (block[::2], block[::3]),
        "another dtype": (block, block.view(np.float32)),
    }


@pytest.mark.parametrize("pair", overlapping().values(), ids=overlapping())
def test_overlapping_arrays_are_refused_in_place_by_name(pair: tuple[Array, Array]) -> None:
    with pytest.raises(ValueError, match=r"in_place=True.*('x' and 'y'|'y' and 'x').*in_place=False"):
        fastgc.check_gradients(loss, lambda p: p, {"x": pair[0], "other": array(3), "y": pair[1]}, in_place=True)


def test_arrays_that_only_interleave_are_fine_in_place() -> None:
    block = array(10)
    before = block.tobytes()
    params = {"even": block[::2], "odd": block[1::2]}
    assert fastgc.check_gradients(loss, gradients, params, in_place=True).passed
    assert block.tobytes() == before


def test_an_array_that_overlaps_itself_is_refused_in_place() -> None:
    window = np.lib.stride_tricks.as_strided(array(4), (3, 2), (8, 8))
    with pytest.raises(ValueError, match=r"in_place=True.*'w'"):
        fastgc.check_gradients(loss, gradients, {"w": window}, in_place=True)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"engine": "numba"}, 'in_place=True.*engine="numba"'),
        ({"stencil": "complex_step"}, "in_place=True.*complex"),
    ],
)
def test_what_cannot_go_with_in_place_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastgc.check_gradients(loss, gradients, {"w": array(2)}, in_place=True, **option)


def test_a_loss_that_changes_its_parameters_in_place_is_refused_and_undone() -> None:
    value = array(4)
    before = value.tobytes()

    def careless(p: Array) -> float:
        p *= 2
        return square(p)

    with pytest.raises(ValueError, match="loss changed params 'params'"):
        fastgc.check_gradients(careless, double, value, in_place=True)
    assert value.tobytes() == before


def test_a_gradient_that_changes_its_parameters_in_place_is_refused_and_undone() -> None:
    params = {"a": array(4), "b": array(2)}
    before = [value.tobytes() for value in params.values()]

    def careless(p: dict[str, Array]) -> dict[str, Array]:
        p["b"] += 1
        return p

    with pytest.raises(ValueError, match="gradients changed params 'b'"):
        fastgc.check_gradients(loss, careless, params, in_place=True)
    assert [value.tobytes() for value in params.values()] == before


def test_a_loss_that_changes_only_displaced_parameters_leaves_no_trace_in_place() -> None:
    value = np.array([-1.0, 0.0, 1.0])

    def centring(p: Array) -> float:
        p -= p.mean()
        return square(p)

    with pytest.raises(ValueError, match="loss changed params 'params'"):
        fastgc.check_gradients(centring, double, value, in_place=True)
    assert value.tolist() == [-1.0, 0.0, 1.0]


def test_a_loss_that_raises_in_place_leaves_no_trace() -> None:
    params = {"a": array(4), "b": array(2)}
    before = [value.tobytes() for value in params.values()]
    calls = iter(range(100))

    def failing(p: dict[str, Array]) -> float:
        if next(calls) == 40:
            raise RuntimeError("out of disk")
        return loss(p)

    report = fastgc.check_gradients(failing, gradients, params, in_place=True)
    assert any("the loss raised RuntimeError: out of disk (once, at " in note for note in report.notes)
    assert [value.tobytes() for value in params.values()] == before


@given(PARAMS)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_any_parameters_are_restored_in_place(params: Any) -> None:
    before = [leaf.tobytes() for leaf in leaves_of(params)]
    report = fastgc.check_gradients(loss, gradients, params, in_place=True, crosscheck=False, points=2)
    assert [leaf.tobytes() for leaf in leaves_of(params)] == before
    assert report.verdict in ("pass", "undecided"), str(report)


# --- several points ---


def test_other_values_stand_in_the_callers_arrays_for_a_while() -> None:
    leaves, values = [np.ones(3), np.full((2, 2), -0.0)], [np.arange(3.0), np.full((2, 2), 7.0)]
    before = [leaf.tobytes() for leaf in leaves]
    with replaced(leaves, values, in_place=True) as places:
        assert all(place is leaf for place, leaf in zip(places, leaves, strict=True))
        assert all(np.array_equal(leaf, value) for leaf, value in zip(leaves, values, strict=True))
    assert [leaf.tobytes() for leaf in leaves] == before
    with pytest.raises(KeyError), replaced(leaves, values, in_place=True):
        raise KeyError
    assert [leaf.tobytes() for leaf in leaves] == before


def test_elsewhere_the_other_values_are_arrays_of_their_own() -> None:
    leaves, values = [np.ones(3)], [np.arange(3.0)]
    with replaced(leaves, values, in_place=False) as places:
        assert places is values
        assert np.array_equal(leaves[0], np.ones(3))


def test_the_first_point_is_the_given_one_and_the_others_are_around_it() -> None:
    seen: list[Array] = []

    def spying(p: Array) -> Array:
        seen.append(p.copy())
        return np.cos(p)

    start = array(50)
    report = fastgc.check_gradients(lambda p: float(np.sum(np.sin(p))), spying, start, points=4)
    assert report.passed and len(seen) == 4
    np.testing.assert_array_equal(seen[0], start)
    for other in seen[1:]:
        shift = other - start
        assert (shift > 0).any() and (shift < 0).any()
        assert 0.1 < np.abs(shift).mean() / np.abs(start).mean() < 10
    assert len({other.tobytes() for other in seen}) == 4


def test_points_are_relative_to_each_tensors_scale() -> None:
    seen: list[dict[str, Array]] = []

    def spying(p: dict[str, Array]) -> dict[str, Array]:
        seen.append({name: value.copy() for name, value in p.items()})
        return {"big": 2e-12 * p["big"], "small": 2e12 * p["small"], "zero": 2 * p["zero"]}

    def mixed(p: dict[str, Array]) -> float:
        return float(1e-12 * np.sum(p["big"] ** 2) + 1e12 * np.sum(p["small"] ** 2) + np.sum(p["zero"] ** 2))

    params = {"big": 1e6 * array(30), "small": 1e-6 * array(30), "zero": np.zeros(30)}
    fastgc.check_gradients(mixed, spying, params, points=2)
    shifts = {name: float(np.abs(seen[1][name] - params[name]).mean()) for name in params}
    assert 1e5 < shifts["big"] < 1e7 and 1e-7 < shifts["small"] < 1e-5 and 0.01 < shifts["zero"] < 10


def test_points_are_reproducible_by_seed() -> None:
    def numbers(seed: int) -> Any:
        return fastgc.check_gradients(square, double, array(3), points=3, seed=seed).to_dict()["tensors"]

    assert numbers(5) == numbers(5)
    assert numbers(5) != numbers(6)


def test_an_entry_says_at_which_point_it_was_found() -> None:
    start = array(3)

    def right_only_at_the_start(p: Array) -> Array:
        return 2 * p if np.array_equal(p, start) else 2 * p + np.array([0.0, 1.0, 0.0])

    report = fastgc.check_gradients(square, right_only_at_the_start, start, points=3)
    wrong = report.tensors["params"].wrong_entries
    assert report.verdict == "fail"
    assert sorted((entry.point, entry.index) for entry in wrong) == [(1, (1,)), (2, (1,))]
    assert {entry.point for entry in report.tensors["params"].entries} == {0, 1, 2}
    assert len(report.tensors["params"].entries) == 9
    assert report.tensors["params"].worst is not None and report.tensors["params"].worst.point in (1, 2)
    assert fastgc.check_gradients(square, right_only_at_the_start, start).passed


@pytest.mark.parametrize("start", [array(6), -array(6), np.zeros(6)], ids=["positive", "negative", "zero"])
def test_positive_and_negative_points_are_checked(start: Array) -> None:
    def cubic(p: Array) -> float:
        return float(np.sum(p**3 + p))

    def wrong_below_zero(p: Array) -> Array:
        return 3 * np.maximum(p, 0) ** 2 + 1

    assert fastgc.check_gradients(cubic, lambda p: 3 * p**2 + 1, start, points=5).passed
    assert fastgc.check_gradients(cubic, wrong_below_zero, start, points=5).verdict == "fail"


def test_several_points_need_a_function() -> None:
    with pytest.raises(ValueError, match="points=2 needs gradients as a function"):
        fastgc.check_gradients(square, double(array(2)), array(2), points=2)


def test_several_points_with_a_loss_that_gives_both() -> None:
    assert fastgc.check_gradients(lambda p: (square(p), double(p)), True, array(3), points=3).passed


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_in_place_are_restored_to_the_bit(dtype: Any) -> None:
    net = Net({"w": np.asfortranarray(array(3, 4)).astype(dtype), "b": array(8).astype(dtype)[::2]})
    before = [value.tobytes() for value in net.params.values()]
    report = fastgc.check_gradients(
        net.loss, lambda _: gradients(net.params), net.params, points=3, in_place=True, rtol=1e-2
    )
    assert report.passed, str(report)
    assert {entry.point for entry in report.tensors["w"].entries} == {0, 1, 2}
    assert [value.tobytes() for value in net.params.values()] == before


def test_a_gradient_that_raises_at_another_point_leaves_no_trace_in_place() -> None:
    value = array(3)
    before = value.tobytes()

    def fragile(p: Array) -> Array:
        if p.tobytes() != before:
            raise RuntimeError("only here")
        return 2 * p

    report = fastgc.check_gradients(square, fragile, value, points=3, in_place=True)
    assert report.verdict == "undecided" and report.points == 1
    assert report.tensors["params"].reason == (
        "not reached: a random point at which loss and gradient are defined (RuntimeError: only here)"
    )
    assert (
        "2 random points were not found: loss or gradient is not defined at the nearest one either "
        "(RuntimeError: only here)" in report.notes
    )
    assert value.tobytes() == before


def test_random_points_outside_the_domain_come_nearer_until_the_loss_is_defined() -> None:
    seen: list[Array] = []

    def slope(p: Array) -> Array:
        seen.append(p.copy())
        return 1 / p

    def log_loss(p: Array) -> float:
        return float(np.sum(np.log(p)))

    start = array(20)
    assert fastgc.check_gradients(log_loss, slope, start, points=5).passed
    assert len({p.tobytes() for p in seen}) == 5 and all((p > 0).all() for p in seen)
    for in_place in False, True:
        before = start.tobytes()
        assert fastgc.check_gradients(log_loss, lambda p: 1.1 / p, start, points=2, in_place=in_place).verdict == "fail"
        assert start.tobytes() == before


# --- args ---


def test_floating_args_are_float64_for_loss_and_gradients_unless_native() -> None:
    x = array(3).astype(np.float32)
    half, inner, number = array(2).astype(np.float16), array(2).astype(np.float32), np.float32(0.5)
    count, flags, text = np.arange(3, dtype=np.int32), np.array([True]), "text"
    args = (x, [half, (inner, {"deep": inner})], number, count, flags, text, None)
    seen: list[Any] = []

    def spying(p: Array, *received: Any) -> float:
        x, (half, (inner, named)), number, count, flags, text, nothing = received
        seen.append([x.dtype, half.dtype, inner.dtype, named["deep"].dtype, np.asarray(number).dtype])
        assert count.dtype == np.int32 and flags.dtype == bool and text == "text" and nothing is None
        return square(p)

    def slope(p: Array, *received: Any) -> NDArray[np.float64]:
        spying(p, *received)
        return double(p)

    assert fastgc.check_gradients(spying, slope, array(3), args=args).passed
    assert all(dtype == np.float64 for dtypes in seen for dtype in dtypes)
    seen.clear()
    assert fastgc.check_gradients(spying, slope, array(3), args=args, precision="native").passed
    assert all(dtypes == [np.float32, np.float16, np.float32, np.float32, np.float32] for dtypes in seen)
    assert x.dtype == np.float32 and half.dtype == np.float16


def test_args_that_are_float64_already_are_the_callers_own() -> None:
    x = array(3)

    def spying(p: Array, data: Array) -> float:
        assert data is x
        return square(p)

    assert fastgc.check_gradients(spying, lambda p, _: double(p), array(3), args=(x,)).passed


def test_entries_that_are_not_finite_set_no_scale() -> None:
    assert tensor_scales([np.array([np.inf, 2.0, np.nan]), np.array([-np.inf])]).tolist() == [2.0, 1.0]
