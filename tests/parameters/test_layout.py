"""Parameters of every structure, shape and dtype: names, indices, and what is refused."""

from __future__ import annotations

import collections
import re
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import fastgc
from fastgc._parameters.arrays import median, spread
from fastgc._parameters.layout import flatten_parameters
from tests.support.layouts import PARAMS, Array, Pair, array, gradients, leaves_of, loss, same

# --- structures and names ---

STRUCTURES = {
    "dict": ({"W1": array(2, 3), "b1": array(3)}, ["W1", "b1"]),
    "order of the dict": ({"z": array(2), "a": array(2)}, ["z", "a"]),
    "nested dict": ({"enc": {"w": array(2), "deep": {"b": array(1)}}, "b": array(3)}, ["enc.w", "enc.deep.b", "b"]),
    "any text as a name": ({"layer 1/weight:0 äß[0]*": array(2), "": array(1)}, ["layer 1/weight:0 äß[0]*", "params"]),
    "list": ([array(2), array(1, 2)], ["0", "1"]),
    "tuple": ((array(2), array(1, 2)), ["0", "1"]),
    "named tuple": (Pair(array(2, 2), array(2)), ["weight", "bias"]),
    "list in dict": ({"ls": [array(2), (array(1), array(3))], "b": array(2)}, ["ls.0", "ls.1.0", "ls.1.1", "b"]),
    "dicts in list": ([{"w": array(2), "b": array(1)}, {"w": array(3)}], ["0.w", "0.b", "1.w"]),
    "named tuple in dict": ({"a": Pair(array(2), array(1))}, ["a.weight", "a.bias"]),
    "array": (array(2, 2), ["params"]),
    "0-d array": (np.array(0.7), ["params"]),
    "number": (0.7, ["params"]),
    "NumPy scalar": (np.float32(0.7), ["params"]),
    "4-d array": (array(2, 1, 3, 2), ["params"]),
    "dotted name": ({"a.b": array(2), "a": {"c": array(1)}}, ["a.b", "a.c"]),
    "eleven in a list": ([array(1) for _ in range(11)], [str(i) for i in range(11)]),
}  # fmt: skip


@pytest.mark.parametrize(("params", "names"), STRUCTURES.values(), ids=STRUCTURES)
def test_every_structure_is_checked_under_its_joined_names(params: Any, names: list[str]) -> None:
    report = fastgc.check_gradients(loss, gradients, params, samples="all")
    assert list(report.tensors) == names
    assert report.passed, str(report)
    shapes = [np.shape(leaf) for leaf in leaves_of(params)]
    assert [tensor.shape for tensor in report.tensors.values()] == shapes
    assert [tensor.size for tensor in report.tensors.values()] == [int(np.prod(shape)) for shape in shapes]
    assert all(tensor.checked == tensor.size for tensor in report.tensors.values())


@pytest.mark.parametrize("name", ["nested dict", "list", "tuple", "named tuple", "list in dict", "array"])
def test_a_plain_loss_receives_the_callers_own_structure(name: str) -> None:
    params, _ = STRUCTURES[name]
    seen: list[Any] = []

    def spying(received: Any) -> float:
        seen.append(received)
        return loss(received)

    fastgc.check_gradients(spying, gradients, params)
    kinds: list[list[type]] = [[], []]
    for found, structure in zip(kinds, (params, seen[0]), strict=True):
        queue = [structure]
        while queue:
            node = queue.pop()
            found.append(type(node))
            queue += (
                list(node.values()) if isinstance(node, dict) else list(node) if isinstance(node, (list, tuple)) else []
            )
    assert kinds[0] == kinds[1]


def test_fields_of_a_named_tuple_are_there_for_the_loss() -> None:
    def by_field(params: Pair) -> float:
        return float(np.sum(params.weight**2) + 3 * np.sum(params.bias))

    def slopes(params: Pair) -> Pair:
        return Pair(2 * params.weight, np.full(params.bias.shape, 3.0))

    assert fastgc.check_gradients(by_field, slopes, Pair(array(2, 2), array(2))).passed


@pytest.mark.parametrize("kind", [collections.OrderedDict, types.MappingProxyType, collections.UserDict])
def test_other_mappings_are_dicts(kind: Any) -> None:
    report = fastgc.check_gradients(loss, gradients, kind({"w": array(3), "b": array(2)}))
    assert list(report.tensors) == ["w", "b"] and report.passed


def test_gradients_may_come_in_another_order() -> None:
    params = {"w": array(3), "b": array(2)}
    backwards = dict(reversed(gradients(params).items()))
    report = fastgc.check_gradients(loss, backwards, params)
    assert report.passed and list(report.tensors) == ["w", "b"]


def test_gradients_may_be_given_as_the_structure_itself() -> None:
    params = {"a": [array(2), Pair(array(3), array(1, 2))]}
    assert fastgc.check_gradients(loss, gradients(params), params).passed


def test_a_list_may_be_answered_with_a_tuple() -> None:
    params = [array(2), array(3)]
    assert fastgc.check_gradients(loss, lambda p: tuple(gradients(p)), params).passed


def test_nested_lists_of_numbers_are_gradients_too() -> None:
    params = {"w": array(2, 2)}
    report = fastgc.check_gradients(loss, lambda p: {"w": gradients(p)["w"].tolist()}, params)
    assert report.passed


# --- memory layout and dtypes ---


def layouts() -> dict[str, Array]:
    base = array(4, 3)
    frozen = base.copy()
    frozen.setflags(write=False)
    return {
        "C": base,
        "Fortran": np.asfortranarray(base),
        "transposed": array(3, 4).T,
        "every other row": array(8, 3)[::2],
        "backwards": base[::-1, ::-1],
        "read-only": frozen,
        "broadcast": np.broadcast_to(array(3), (4, 3)),
        "three dimensions": np.asfortranarray(array(2, 3, 2)).transpose(1, 0, 2),
    }


@pytest.mark.parametrize(
    ("name", "in_place"),
    [(name, False) for name in layouts()]
    + [(name, True) for name in layouts() if name not in ("read-only", "broadcast")],
)
def test_memory_layouts_are_all_fine_and_untouched(name: str, in_place: bool) -> None:
    value = layouts()[name]
    before = value.tobytes()
    report = fastgc.check_gradients(loss, gradients, {"w": value}, samples="all", in_place=in_place)
    assert report.passed, str(report)
    assert value.tobytes() == before


@pytest.mark.parametrize("name", layouts())
def test_a_wrong_entry_is_named_by_its_index_in_every_memory_layout(name: str) -> None:
    value = layouts()[name]
    index = (*(length - 1 for length in value.shape[:-1]), 0)

    def wrong(params: dict[str, Array]) -> dict[str, Array]:
        right = gradients(params)
        right["w"][index] += 1.0
        return right

    report = fastgc.check_gradients(loss, wrong, {"b": array(5), "w": value}, samples="all")
    assert [entry.index for entry in report.tensors["w"].wrong_entries] == [index]
    assert report.tensors["b"].verdict == "pass"
    assert report.tensors["w"].worst is not None and report.tensors["w"].worst.index == index


@pytest.mark.parametrize("order", ["C", "F"])
def test_gradients_in_either_order_belong_to_the_same_entries(order: Any) -> None:
    params = {"w": array(3, 4)}
    assert fastgc.check_gradients(loss, {"w": np.asarray(gradients(params)["w"], order=order)}, params).passed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_losses_see_float64_copies_unless_asked_for_native(dtype: Any) -> None:
    seen: set[Any] = set()

    def spying(params: dict[str, Array]) -> float:
        seen.add(params["w"].dtype)
        return loss(params)

    params = {"w": array(3).astype(dtype)}
    assert fastgc.check_gradients(spying, gradients, params).passed
    assert seen == {np.dtype(np.float64)}
    seen.clear()
    fastgc.check_gradients(spying, gradients, params, precision="native")
    assert seen == {np.dtype(dtype)}


def test_dtypes_may_be_mixed() -> None:
    params = {"h": array(3).astype(np.float16), "s": array(5).astype(np.float32), "d": array(2), "t": np.float16(0.5)}
    for precision in "double", "native":
        report = fastgc.check_gradients(loss, gradients, params, precision=precision)
        assert report.verdict != "fail" and list(report.tensors) == ["h", "s", "d", "t"], str(report)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_a_tensor_of_size_0_is_listed_and_holds_nothing_to_check(shape: tuple[int, ...]) -> None:
    params = {"empty": np.empty(shape), "w": array(2)}
    report = fastgc.check_gradients(loss, gradients, params)
    assert report.passed
    empty = report.tensors["empty"]
    assert (empty.shape, empty.size, empty.checked, empty.verdict) == (shape, 0, 0, "pass")
    assert empty.worst is None and list(empty.entries) == []


def test_a_single_array_of_size_0_has_nothing_to_check() -> None:
    report = fastgc.check_gradients(lambda p: 1.0, lambda p: p, np.empty((0, 2)))
    assert report.tensors["params"].checked == 0
    assert report.verdict != "fail"


def test_one_array_under_two_names_is_two_tensors() -> None:
    shared = array(3)
    report = fastgc.check_gradients(loss, gradients, {"a": shared, "b": shared})
    assert report.passed and list(report.tensors) == ["a", "b"]


def test_an_empty_dict_among_others_holds_nothing() -> None:
    report = fastgc.check_gradients(loss, gradients, {"w": array(2), "unused": {}})
    assert report.passed and list(report.tensors) == ["w"]


def test_an_empty_list_among_others_holds_nothing() -> None:
    report = fastgc.check_gradients(loss, gradients, {"w": array(2), "unused": []})
    assert report.passed and list(report.tensors) == ["w"]


# --- round trips ---


@given(PARAMS)
@settings(max_examples=50, deadline=None)
def test_flattening_and_rebuilding_gives_the_same_structure(params: Any) -> None:
    layout, leaves = flatten_parameters(params)
    assert same(layout.rebuild(leaves), params)
    assert len(set(layout.names)) == len(layout.names) == len(leaves)
    assert [leaf.shape for leaf in leaves] == list(layout.shapes)
    assert layout.size == sum(leaf.size for leaf in leaves)


@given(PARAMS)
@settings(max_examples=50, deadline=None)
def test_every_position_belongs_to_one_entry(params: Any) -> None:
    layout, leaves = flatten_parameters(params)
    positions = np.arange(layout.size)
    tensors = layout.tensor_of(positions)
    for position, t in zip(positions.tolist(), tensors.tolist(), strict=True):
        index = layout.index(t, position - int(layout.starts[t]))
        assert len(index) == leaves[t].ndim
        assert leaves[t][index] == leaves[t].reshape(-1)[position - int(layout.starts[t])]
    assert np.bincount(tensors, minlength=len(leaves)).tolist() == [leaf.size for leaf in leaves]


@given(PARAMS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_parameters_are_checked_entry_by_entry_and_left_alone(params: Any) -> None:
    before = [leaf.tobytes() for leaf in leaves_of(params)]
    report = fastgc.check_gradients(loss, gradients, params, samples="all", crosscheck=False)
    assert report.verdict == "pass", str(report)
    for tensor, leaf in zip(report.tensors.values(), leaves_of(params), strict=True):
        assert [entry.index for entry in tensor.entries] == list(np.ndindex(leaf.shape))
    assert [leaf.tobytes() for leaf in leaves_of(params)] == before


# --- refused parameters ---

NOT_FLOATING = {
    "int64": np.array([1, 2]),
    "uint8": np.array([1], np.uint8),
    "bool": np.array([True]),
    "object": np.array([1.0, None], dtype=object),
    "str": np.array(["a"]),
    "datetime64": np.array(["2020-01-01"], "datetime64[D]"),
    "longdouble": np.array([1.0], np.longdouble),
}


@pytest.mark.parametrize("value", NOT_FLOATING.values(), ids=NOT_FLOATING)
def test_arrays_that_are_not_floating_are_refused_by_name(value: Array) -> None:
    with pytest.raises(TypeError, match=rf"params.*float64.*\bw1\b.*{re.escape(str(value.dtype))}") as caught:
        fastgc.check_gradients(loss, gradients, {"ok": array(2), "w1": value})
    assert "ok" not in str(caught.value).split("float64", 1)[1]


def test_all_arrays_of_wrong_dtype_stand_in_one_message_with_the_remedy() -> None:
    params = {"a": np.array([1]), "b": array(1), "c": np.array([True])}
    with pytest.raises(TypeError, match=r"a \(int64\), c \(bool\).*astype\(np\.float64\)"):
        fastgc.check_gradients(loss, gradients, params)


def test_python_integers_are_refused_like_integer_arrays() -> None:
    with pytest.raises(TypeError, match=r"n \(int64\)"):
        fastgc.check_gradients(loss, gradients, {"n": 3})


@pytest.mark.parametrize("value", [np.array([1j]), np.array([1], np.complex64), 1j])
def test_complex_parameters_are_clearly_not_supported(value: Any) -> None:
    with pytest.raises(TypeError, match=r"complex parameters are not supported: z \(complex\d+\)"):
        fastgc.check_gradients(loss, gradients, {"z": value})


@pytest.mark.parametrize("params", [{}, [], (), {"a": {}}, {"a": [], "b": ()}])
def test_parameters_without_any_array_are_refused(params: Any) -> None:
    with pytest.raises(ValueError, match="params holds no array"):
        fastgc.check_gradients(loss, gradients, params)


@pytest.mark.parametrize("value", [None, "0.5", {1.0, 2.0}, object()])
def test_what_is_no_array_is_refused_by_name_and_type(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"params\['layer\.w'\] is a {type(value).__name__}; it must be a NumPy array"):
        fastgc.check_gradients(loss, gradients, {"layer": {"w": value}})


def test_no_parameters_at_all_are_refused() -> None:
    with pytest.raises(TypeError, match="params is a NoneType"):
        fastgc.check_gradients(loss, gradients, None)


@pytest.mark.parametrize("numbers", [[1.0, 2.0], (1.0,), [1, 2.0]])
def test_a_list_of_numbers_is_probably_meant_as_an_array(numbers: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"params is a {type(numbers).__name__} of {len(numbers)} numbers.*np\.asarray"
    ):
        fastgc.check_gradients(loss, gradients, numbers)


def test_keys_that_are_not_strings_are_refused() -> None:
    with pytest.raises(TypeError, match=r"params\['a'\].*not strings: 1, \('x',\)"):
        fastgc.check_gradients(loss, gradients, {"a": {1: array(1), "b": array(1), ("x",): array(1)}})


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"a.b": array(1), "a": {"b": array(1)}}, "a.b"),
        ({"a": [array(1)], "a.0": array(1)}, "a.0"),
        ({"": array(1), "params": array(1)}, "params"),
    ],
)
def test_two_paths_with_one_joined_name_are_refused(params: Any, name: str) -> None:
    with pytest.raises(ValueError, match=rf"two paths.*'{name}'.*rename"):
        fastgc.check_gradients(loss, gradients, params)


# --- refused gradients ---


def test_missing_and_unknown_names_stand_in_one_message() -> None:
    params = {"w": array(2), "b": array(1), "c": array(1)}
    wrong = {"w": array(2), "B": array(1), "d": array(1)}
    with pytest.raises(ValueError, match=r"gradients lacks 'b', 'c'; gradients has 'B', 'd'.*'w', 'b', 'c'"):
        fastgc.check_gradients(loss, wrong, params)


def test_names_that_nested_gradients_lack_are_given_in_full() -> None:
    params = {"enc": {"w": array(2), "b": array(1)}}
    with pytest.raises(ValueError, match=r"lacks 'enc\.b'"):
        fastgc.check_gradients(loss, lambda p: {"enc": {"w": p["enc"]["w"]}}, params)
    with pytest.raises(ValueError, match=r"lacks 'enc\.w', 'enc\.b'"):
        fastgc.check_gradients(loss, lambda p: {}, params)


@pytest.mark.parametrize("count", [1, 3])
def test_a_list_of_another_length_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="lacks '1'" if count == 1 else "has '2'"):
        fastgc.check_gradients(loss, [array(2)] * count, [array(2), array(2)])


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (), (4,), (3, 3)])
def test_no_shape_is_broadcast(shape: tuple[int, ...]) -> None:
    both = f"gradients['b'] has shape {shape}; params['b'] has shape (3,)"
    with pytest.raises(ValueError, match=re.escape(both)):
        fastgc.check_gradients(loss, lambda p: {"b": np.ones(shape)}, {"b": array(3)})


def test_a_transposed_gradient_is_refused_with_both_shapes() -> None:
    with pytest.raises(
        ValueError, match=r"gradients\['fc\.w'\] has shape \(10, 4\); params\['fc\.w'\] has shape \(4, 10\)"
    ):
        fastgc.check_gradients(loss, lambda p: {"fc": {"w": gradients(p)["fc"]["w"].T}}, {"fc": {"w": array(4, 10)}})


def test_all_wrong_shapes_stand_in_one_message() -> None:
    params = {"a": array(2), "b": array(3), "c": array(4)}
    with pytest.raises(
        ValueError, match=r"gradients\['a'\].*\(1,\).*\(2,\).*gradients\['c'\].*\(5,\).*\(4,\)"
    ) as caught:
        fastgc.check_gradients(loss, {"a": array(1), "b": array(3), "c": array(5)}, params)
    assert "'b'" not in str(caught.value)


def test_a_gradient_of_one_number_does_not_stand_for_a_tensor() -> None:
    with pytest.raises(ValueError, match=r"gradients\['params'\] has shape \(\); params\['params'\] has shape \(3,\)"):
        fastgc.check_gradients(loss, lambda p: 0.0, array(3))


BAD_GRADIENTS = {
    "complex": (np.array([1j, 2]), "complex"),
    "bool": (np.array([True, False]), "bool"),
    "object": (np.array([1.0, 2.0], dtype=object), "object"),
    "str": (np.array(["1", "2"]), "<U1"),
    "None": (None, "None"),
}


@pytest.mark.parametrize(("value", "what"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
def test_gradients_that_are_no_real_numbers_are_refused_by_name(value: Any, what: str) -> None:
    with pytest.raises(TypeError, match=rf"gradients\['w'\].*{what}"):
        fastgc.check_gradients(loss, lambda p: {"w": value}, {"w": array(2)})


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint16])
def test_integer_gradients_are_refused_by_name(dtype: Any) -> None:
    with pytest.raises(TypeError, match=rf"gradients\['w'\].*{np.dtype(dtype).name}"):
        fastgc.check_gradients(lambda p: float(p["w"].sum()), {"w": np.ones(2, dtype)}, {"w": array(2)})


@pytest.mark.parametrize("dtype", [">f8", "<f4", np.longdouble])
def test_floating_gradients_of_any_kind_are_compared(dtype: Any) -> None:
    params = {"w": array(3)}
    assert fastgc.check_gradients(loss, {"w": gradients(params)["w"].astype(dtype)}, params).passed
    assert fastgc.check_gradients(loss, {"w": 2 * gradients(params)["w"].astype(dtype)}, params).verdict == "fail"


@pytest.mark.parametrize(
    ("params", "answer", "message"),
    [
        ({"w": array(2)}, [array(2)], r"gradients is a list\b.*dict"),
        ({"w": array(2)}, array(2), r"gradients is a ndarray\b.*dict"),
        ({"w": array(2)}, None, r"gradients is a NoneType\b.*dict"),
        ([array(2)], array(2), r"gradients is a ndarray\b.*list"),
        ([array(2)], {"0": array(2)}, r"gradients is a dict\b.*list"),
        ({"a": {"w": array(2)}}, {"a": array(2)}, r"gradients\['a'\] is a ndarray\b.*dict"),
    ],
)
def test_another_structure_is_refused(params: Any, answer: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fastgc.check_gradients(loss, lambda p: answer, params)


# --- medians, evenly spaced indices ---


@pytest.mark.parametrize("count", [1, 2, 3, 64])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64, 65, 1000, 10**9])
def test_evenly_spaced_indices_are_different_and_reach_both_ends(size: int, count: int) -> None:
    found = spread(size, count)
    assert found.dtype == np.int64 and found.size == min(size, count)
    assert found.tolist() == sorted(set(found.tolist()))
    if size and count > 1:
        assert (found[0], found[-1]) == (0, size - 1)
    assert np.ptp(np.diff(found)) <= 1 if found.size > 2 else True


@pytest.mark.parametrize(
    "values", [[3.0], [2.0, 1.0], [5.0, 1.0, 2.0], [4.0, 1.0, 3.0, 2.0], [np.inf, 1.0, np.inf], [1.0, np.nan, 2.0]]
)
def test_the_median_is_that_of_numpy(values: list[float]) -> None:
    np.testing.assert_equal(median(np.array(values)), np.median(values))
    generator = np.random.default_rng(len(values))
    for size in (10, 11, 1000):
        some = generator.integers(0, 50, size).astype(float)
        assert median(some) == np.median(some)
