"""What cannot be checked is refused by a message of ours that names the parameter, at every door."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastgc

X = np.array([1.0, 2.0, 3.0])
MATRIX = np.diag(2 * X)


def loss(x: Any, *args: Any) -> float:
    return float(np.sum(np.asarray(x) ** 2))


def gradient(x: Any, *args: Any) -> Any:
    return 2 * np.asarray(x)


def check(**given: Any) -> fastgc.GradientReport:
    chosen = {"loss": loss, "gradients": gradient, "params": X, **given}
    return fastgc.check_gradients(chosen.pop("loss"), chosen.pop("gradients"), chosen.pop("params"), **chosen)


NOT_FUNCTIONS: dict[str, Callable[[], Any]] = {
    "loss is 3": lambda: fastgc.check_gradients(3, gradient, X),  # type: ignore[arg-type]
    "loss is None": lambda: fastgc.assert_gradients(None, gradient, X),  # type: ignore[arg-type]
    "f is 3 ": lambda: fastgc.check_jacobian(3, MATRIX, X),  # type: ignore[arg-type]
    "f is 4": lambda: fastgc.check_hessian(4, gradient, MATRIX, X),  # type: ignore[call-overload]
    "gradient is 5": lambda: fastgc.check_hessian(loss, 5, MATRIX, X),  # type: ignore[arg-type]
    "f is 6": lambda: fastgc.numerical_gradient(6, X),  # type: ignore[call-overload]
    "f is 7": lambda: fastgc.numerical_jacobian(7, X),  # type: ignore[arg-type]
    "f is 8": lambda: fastgc.gradient_check(8, gradient, X),  # type: ignore[arg-type]
    "grad is 9": lambda: fastgc.gradient_check(loss, 9, X),  # type: ignore[arg-type]
    "f is 10": lambda: fastgc.step_sweep(10, np.cos, 1.0),  # type: ignore[arg-type]
    "f is 11": lambda: fastgc.taylor_test(11, gradient, X),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("said", NOT_FUNCTIONS)
def test_what_is_no_function(said: str) -> None:
    with pytest.raises(TypeError, match=f"^{said.strip()} .*it must be a function"):
        NOT_FUNCTIONS[said]()


@pytest.mark.parametrize("value", [np.array([1, 2]), [], "yes", None, 2])
@pytest.mark.parametrize("name", ["vectorized", "in_place", "crosscheck", "progress"])
def test_flags_that_are_neither_true_nor_false(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} is .*it must be True or False"):
        check(**{name: value})


FLAGS_OF_DOORS: dict[str, Callable[[Any], object]] = {
    "assert_gradients": lambda value: fastgc.assert_gradients(loss, gradient, X, allow_undecided=value),
    "assert_jacobian": lambda value: fastgc.assert_jacobian(np.sin, MATRIX, X, allow_undecided=value),
    "assert_hessian": lambda value: fastgc.assert_hessian(loss, gradient, MATRIX, X, allow_undecided=value),
    "checked": lambda value: fastgc.checked(gradient, loss, raises=value),
}


@pytest.mark.parametrize("value", [np.array([1, 2]), [], "yes", None, 2], ids=repr)
@pytest.mark.parametrize("door", FLAGS_OF_DOORS)
def test_flags_of_other_doors(door: str, value: Any) -> None:
    with pytest.raises(TypeError, match=r"^(allow_undecided|raises) is .*it must be True or False"):
        FLAGS_OF_DOORS[door](value)


def test_options_of_checked_are_refused_before_a_solver_begins() -> None:
    with pytest.raises(ValueError, match=r"^seed is -1; it must be at least 0"):
        fastgc.checked(gradient, loss, seed=-1)
    with pytest.raises(TypeError, match=r"^rtol is 'x'; it must be a number or None"):
        fastgc.checked(gradient, loss, rtol="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", [fastgc.relative_error, fastgc.max_relative_error])
@pytest.mark.parametrize("value", [None, "x", 1j, np.datetime64("2020"), [[1.0], [1.0, 2.0]]], ids=repr)
def test_errors_of_what_is_no_real_number(measure: Callable[[Any, Any], float], value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^b is "):
        measure(1.0, value)


@pytest.mark.parametrize("value", [True, np.True_, 1])
def test_flags_of_python_and_numpy(value: Any) -> None:
    assert check(in_place=value, params=X.copy()).passed


@pytest.mark.parametrize("value", [np.array([1, 2]), [], {}, None])
@pytest.mark.parametrize("name", ["engine", "precision"])
def test_words_that_are_no_words(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*it must be one of"):
        check(**{name: value})


@pytest.mark.parametrize("value", [np.array([1, 2]), [], {}, None])
def test_stencils_that_are_no_words(value: Any) -> None:
    for call in (check, lambda **given: fastgc.numerical_gradient(loss, X, **given)):
        with pytest.raises(ValueError, match=r"^stencil .* is not known; choose one of"):
            call(stencil=value)


def test_a_long_value_is_cut_short() -> None:
    with pytest.raises(TypeError, match=r"step is array.*\.\.\.") as raised:
        check(step=np.arange(1000.0))
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize("args", [[1.0], np.ones(2), None, 3.0])
def test_args_that_are_no_tuple(args: Any) -> None:
    for call in (
        lambda: check(args=args),
        lambda: fastgc.numerical_gradient(loss, X, args=args),
        lambda: fastgc.numerical_jacobian(gradient, X, args=args),
        lambda: fastgc.taylor_test(loss, gradient, X, args=args),
    ):
        with pytest.raises(TypeError, match=r"args is a .*it must be a tuple"):
            call()


# --- structures without an end ---


def endless() -> tuple[dict[str, Any], list[Any]]:
    inner: dict[str, Any] = {}
    inner["a"] = inner
    items: list[Any] = [X]
    items.append(items)
    return inner, items


@pytest.mark.parametrize("number", [0, 1])
def test_params_and_args_that_contain_themselves(number: int) -> None:
    value = endless()[number]
    with pytest.raises(ValueError, match=r"^params\[.* nested deeper than 100 levels; it must not contain itself"):
        check(params=value)
    with pytest.raises(ValueError, match=r"^args\[0\]\[.* nested deeper than 100 levels"):
        check(args=(value,))
    with pytest.raises(ValueError, match=r"^x\[.* nested deeper"):
        fastgc.taylor_test(loss, gradient, value)
    with pytest.raises(TypeError, match=r"gradients\['params'\]"):
        check(gradients=value)


def test_deep_structures() -> None:
    deep: Any = X
    for _ in range(90):
        deep = [deep]
    assert fastgc.tensor_names(deep) == [".".join(["0"] * 90)]
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(ValueError, match="nested deeper than 100 levels"):
        fastgc.tensor_names(deep)


# --- arrays ---


class NoUfuncs(np.ndarray[Any, Any]):
    __array_ufunc__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"in_place": True, "points": 2}, {"precision": "native"}])
@pytest.mark.parametrize("kind", [np.matrix, NoUfuncs, np.ma.MaskedArray])
def test_arrays_of_subclasses_are_checked_and_left_as_they_are(kind: Any, options: dict[str, Any]) -> None:
    params = np.array([[1.0, 2.0], [3.0, 4.0]]).view(kind)
    kept = np.asarray(params).tobytes()
    assert check(params=params, **options).passed
    assert np.asarray(params).tobytes() == kept
    assert not check(params=params, gradients=lambda x: 3 * np.asarray(x), **options).passed


def test_a_number_cannot_be_displaced_in_place() -> None:
    def call(**options: Any) -> fastgc.GradientReport:
        return fastgc.check_gradients(lambda p: p["a"] ** 2, lambda p: {"a": 2.0 * p["a"]}, {"a": 3.0}, **options)

    assert call().passed
    with pytest.raises(ValueError, match="in_place=True, but params 'a' cannot be written to"):
        call(in_place=True)


@pytest.mark.parametrize("mask", [True, [False, True, False]])
def test_masked_values_are_unknown(mask: Any) -> None:
    masked = np.ma.array(2 * X, mask=mask)
    with pytest.raises(ValueError, match=r"gradients\['params'\] has . of 3 entries masked, .*use .filled"):
        check(gradients=masked)
    with pytest.raises(ValueError, match=r"gradients\['params'\] has . of 3 entries masked"):
        check(gradients=lambda x: masked)
    with pytest.raises(ValueError, match=r"params has . of 3 entries masked"):
        check(params=masked)
    with pytest.raises(ValueError, match=r"jacobian has . of 9 entries masked"):
        fastgc.check_jacobian(lambda x: x**2, np.ma.array(MATRIX, mask=[mask] * 3 if mask is not True else mask), X)
    with pytest.raises(ValueError, match="loss is nan at params"):
        check(loss=lambda x: np.ma.masked)


def test_outputs_that_are_masked_are_not_finite() -> None:
    with pytest.raises(ValueError, match=r"f\(x\) has 1 of 3 outputs that are not finite"):
        fastgc.check_jacobian(lambda x: np.ma.array(x**2, mask=[0, 1, 0]), MATRIX, X)


def test_a_gradient_without_masked_entries_is_an_array() -> None:
    assert check(gradients=lambda x: np.ma.array(2 * x, mask=False)).passed


class Unreadable:
    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("needs its gradient")


def test_what_numpy_cannot_read() -> None:
    words = "Unreadable that NumPy cannot read as an array .needs its gradient."
    with pytest.raises(TypeError, match=rf"gradients\['params'\] is a {words}"):
        check(gradients=lambda x: Unreadable())
    with pytest.raises(TypeError, match=r"loss returned .*which is not a real number"):
        check(loss=lambda x: Unreadable())
    with pytest.raises(TypeError, match=f"f returned a {words}"):
        fastgc.check_jacobian(lambda x: Unreadable(), MATRIX, X)
    with pytest.raises(TypeError, match=f"jacobian is a {words}"):
        fastgc.check_jacobian(lambda x: x**2, lambda x: Unreadable(), X)
    with pytest.raises(TypeError, match=f"the result of jvp is a {words}"):
        fastgc.check_jacobian(lambda x: x**2, None, X, jvp=lambda x, u: Unreadable())
    with pytest.raises(TypeError, match=f"^x is a {words}"):
        fastgc.numerical_jacobian(gradient, Unreadable())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"the result of grad is a {words}"):
        fastgc.gradient_check(loss, lambda x: Unreadable(), X)


def test_a_loss_without_the_gradients_that_it_should_return() -> None:
    with pytest.raises(
        TypeError, match=r"gradients=True, but loss returned 14.0 \(float\); it must return .value, grad"
    ):
        check(gradients=True)
    with pytest.raises(TypeError, match=r"gradients=True, but loss returned \(1.0, 2.0, 3.0\)"):
        check(loss=lambda x: (1.0, 2.0, 3.0), gradients=True)


def test_a_sparsity_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"sparsity has shape \(3,\); it must be that of the Jacobian, \(3, 3\)"):
        fastgc.check_jacobian(lambda x: x**2, MATRIX, X, sparsity=np.ones(3))


ODD_ARGS: list[Any] = [
    np.zeros(3, [("a", "f8"), ("b", "i4")]), np.zeros(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    np.zeros(2, [("a", "O")]), np.zeros(2, [("a", "f8", (2,))]), np.zeros(1, [("a", "f8")])[0],
    np.array(["a", "b"], np.dtypes.StringDType()), np.zeros(3, "V0"), np.zeros(3, "S0"), np.array("2020", "M8[D]"),
    np.zeros((0, 3)), np.ones(2, "f4").view(NoUfuncs), np.ma.array([1.0], mask=[True]),
]  # fmt: skip


@pytest.mark.parametrize("arg", ODD_ARGS, ids=lambda arg: str(arg.dtype)[:40])
def test_arguments_of_any_dtype(arg: Any) -> None:
    assert check(args=(arg, [arg])).passed


# --- containers ---


class Attributes(dict[str, Any]):
    """The usual recipe for items that are attributes."""

    def __init__(self, **items: Any) -> None:
        super().__init__(**items)
        self.__dict__ = self


class Copied(dict[str, Any]):
    """Keeps its items as attributes, too."""

    def __init__(self, unit: float, **items: Any) -> None:
        super().__init__(**items)
        self.unit, self.a = unit, items["a"]


class Looked(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        return self[name]


class Pair(list[Any]):
    def __init__(self, first: Any, second: Any) -> None:
        super().__init__([first, second])
        self.unit = 2.0


class Couple(tuple[Any, ...]):
    unit: float

    def __new__(cls, first: Any, second: Any) -> Couple:
        made = super().__new__(cls, (first, second))
        made.unit = 2.0
        return made


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("params", [Attributes(a=X), Copied(2.0, a=X), Looked(a=X)], ids=lambda p: type(p).__name__)
def test_a_dict_of_the_callers_own_class(params: Any, in_place: bool) -> None:
    def of_attributes(p: Any) -> float:
        assert type(p) is type(params)
        assert p.a is p["a"]
        return float(np.sum(p.a**2) * vars(p).get("unit", 1.0))

    def slope(p: Any) -> Any:
        return {"a": 2 * p.a * vars(p).get("unit", 1.0)}

    kept = X.copy()
    assert fastgc.check_gradients(of_attributes, slope, params, in_place=in_place, points=2).passed
    assert np.array_equal(X, kept)
    assert params.a is params["a"] is X
    assert not fastgc.check_gradients(of_attributes, lambda p: {"a": p.a}, params).passed


@pytest.mark.parametrize("params", [Pair(X, 2 * X), Couple(X, 2 * X)], ids=lambda p: type(p).__name__)
def test_a_list_with_a_constructor_of_its_own(params: Any) -> None:
    def scaled(p: Any) -> float:
        assert type(p) is type(params)
        return p.unit * (loss(p[0]) + loss(p[1]))

    assert fastgc.check_gradients(scaled, lambda p: [4 * p[0], 4 * p[1]], params).passed


@pytest.mark.parametrize("params", [OrderedDict(b=X, a=X), defaultdict(list, {"b": X, "a": X})])
def test_dicts_of_the_standard_library(params: Any) -> None:
    def ordered(p: Any) -> float:
        assert type(p) is type(params)
        assert list(p) == ["b", "a"]
        return loss(p["a"]) + 3 * loss(p["b"])

    assert fastgc.check_gradients(ordered, lambda p: {"a": 2 * p["a"], "b": 6 * p["b"]}, params).passed


class Frozen(dict[str, Any]):
    def __setitem__(self, name: str, value: Any) -> None:
        raise TypeError("frozen")


def test_a_dict_that_cannot_be_made_again_arrives_as_a_plain_one() -> None:
    assert check(params=Frozen(a=X), loss=lambda p: loss(p["a"]), gradients=lambda p: {"a": 2 * p["a"]}).passed
