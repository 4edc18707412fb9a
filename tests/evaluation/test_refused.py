"""What a jitted loss may be given: it works, or a few lines say which argument is in the way and what to type."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
import scipy.sparse
from numba.typed import Dict, List

import fastgc

X = np.arange(1.0, 4.0)


def lines(call: Any) -> str:
    with pytest.raises(TypeError) as caught:
        call()
    text = str(caught.value)
    assert len(text.splitlines()) <= 5
    return text


# --- arguments that Numba does not know ---


class Holder:
    a = X


@numba.njit
def product(p: Any, given: Any) -> Any:
    return np.sum(p * given)


@pytest.mark.parametrize("engine", ["auto", "python", "numba"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a": X}, "a dict, which Numba does not take: pass its arrays one by one, or a numba.typed.Dict"),
        (scipy.sparse.eye_array(3).tocsr(), "a csr_array, which Numba does not take: pass its arrays data, indices"),
        (Holder(), "a Holder, which Numba does not take: pass arrays, numbers and tuples"),
    ],
    ids=["dict", "sparse", "object"],
)
def test_the_argument_in_the_way_is_named(given: Any, said: str, engine: Any) -> None:
    text = lines(lambda: fastgc.check_gradients(product, X, X, args=(2.0, given)[1:], engine=engine))
    assert text.startswith(f"args[0] is {said}")
    assert text.endswith("\nor check its py_func, the plain Python function")


def test_a_data_frame_is_told_apart() -> None:
    pandas = pytest.importorskip("pandas")
    text = lines(lambda: fastgc.check_gradients(product, X, X, args=(pandas.Series(X),)))
    assert text.startswith("args[0] is a Series, which Numba does not take: pass its .to_numpy()\n")


def test_all_of_them_are_named() -> None:
    @numba.njit
    def loss(p: Any, a: Any, b: Any, c: Any) -> Any:
        return np.sum(p)

    text = lines(lambda: fastgc.check_gradients(loss, X, X, args=({"a": X}, 1.0, Holder())))
    assert [line.partition(" is ")[0] for line in text.splitlines()[:-1]] == ["args[0]", "args[2]"]


def test_lists_and_dicts_of_numbas_are_taken() -> None:
    arrays, named = List(), Dict.empty(numba.types.unicode_type, numba.float64[:])
    arrays.append(X)
    named["a"] = X

    @numba.njit
    def loss(p: Any, arrays: Any, named: Any) -> Any:
        return np.sum(p * arrays[0]) + np.sum(p * named["a"])

    assert fastgc.check_gradients(loss, 2 * X, X, args=(arrays, named)).passed


# --- parameters ---


@numba.njit
def positional(W: Any, b: Any, x: Any) -> Any:
    return np.sum((x @ W + b) ** 2)


@pytest.mark.parametrize("engine", ["auto", "python", "numba"])
@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_positional_parameters(engine: Any, kind: str) -> None:
    W, b, x = X, np.ones(2), np.arange(6.0).reshape(2, 3)
    params: Any = {"W": W, "b": b} if kind == "dict" else (W, b)
    text = lines(lambda: fastgc.check_gradients(positional, params, params, args=(x,), engine=engine))
    assert text.startswith("loss takes 3 arguments (W, b, x); it is called as loss(params, *args), with 2: write numba")
    code = text.partition("write ")[2]
    remedy = eval(code, {"numba": numba, "loss": positional})
    r = 2 * (x @ W + b)
    right: Any = {"W": x.T @ r, "b": r} if kind == "dict" else (x.T @ r, r)
    assert fastgc.check_gradients(remedy, right, params, args=(x,)).passed


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"vectorized": True}], ids=["plain", "workers", "vectorized"])
@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_positional_parameters_of_a_plain_loss(options: Any, kind: str) -> None:
    W, b = X, np.ones(2)
    params: Any = {"W": W, "b": b} if kind == "dict" else (W, b)
    text = lines(lambda: fastgc.check_gradients(lambda W, b: 1.0, params, params, **options))
    keys = ("'W'", "'b'") if kind == "dict" else (0, 1)
    remedy = f"write lambda params: loss(params[{keys[0]}], params[{keys[1]}])"
    assert text == f"loss takes 2 arguments (W, b); it is called as loss(params, *args), with 1: {remedy}"


def two(x: Any, y: Any) -> Any:
    return x


@pytest.mark.parametrize("function", [two, numba.njit(two)], ids=["plain", "jitted"])
@pytest.mark.parametrize("door", ["gradients", "jacobian", "analytic", "hessian", "numerical", "columns", "taylor"])
def test_a_function_of_more_arguments_than_it_is_given(door: str, function: Any) -> None:
    x = np.ones(3)
    doors: dict[str, Callable[[], Any]] = {
        "gradients": lambda: fastgc.check_gradients(np.sum, function, x),
        "jacobian": lambda: fastgc.check_jacobian(function, np.eye(3), x),
        "analytic": lambda: fastgc.check_jacobian(lambda x: x, function, x),
        "hessian": lambda: fastgc.check_hessian(None, function, np.eye(3), x),
        "numerical": lambda: fastgc.numerical_gradient(function, x),
        "columns": lambda: fastgc.numerical_jacobian(function, x),
        "taylor": lambda: fastgc.taylor_test(function, x, x),
    }
    text = lines(doors[door])
    assert re.match(
        r"\w+ takes 2 arguments \(x, y\); it is called as \w+\(params, \*args\), with 1: args has 0", text
    ), text


def test_an_error_of_a_call_inside_the_loss_is_the_callers() -> None:
    with pytest.raises(TypeError, match=r"two\(\) missing 1 required positional argument: 'y'"):
        fastgc.check_gradients(lambda p: two(p), X, X)  # type: ignore[call-arg]


@numba.njit
def total(p: Any) -> Any:
    found = 0.0
    for i in range(len(p)):
        found += np.sum(p[i] ** 2)
    return found


def doubled(p: Any) -> Any:
    return [2 * each for each in p]


def test_arrays_of_unequal_dimensions_by_a_variable_run_in_python_and_say_so() -> None:
    params = [X, np.ones((2, 2))]
    report = fastgc.check_gradients(total, doubled, params)
    assert report.passed and report.engine == "python"
    (note,) = report.notes
    assert note.startswith("called from Python as its py_func, since Numba does not compile it here: No implementation")
    assert "found += np.sum(p[i] ** 2)" in note
    assert fastgc.check_gradients(total, lambda p: [3 * each for each in p], params).verdict == "fail"


def test_the_compiled_loop_that_was_asked_for_is_refused_there() -> None:
    text = lines(lambda: fastgc.check_gradients(total, doubled, [X, np.ones((2, 2))], engine="numba"))
    assert text.startswith("Numba cannot compile the loss: No implementation of function")
    assert "params is a tuple there, indexed by literal numbers where arrays differ in dimensions or dtype" in text


def test_a_typed_list_of_parameters() -> None:
    params = List()
    params.append(X)
    params.append(np.ones(2))
    for engine in ("auto", "python", "numba"):
        found: Any = engine
        assert fastgc.check_gradients(total, doubled, params, engine=found).passed

    def typed(p: Any) -> Any:
        found = List()
        for each in p:
            found.append(2 * each)
        return found

    assert fastgc.check_gradients(total, typed, params).passed


def test_a_loss_that_does_with_a_dict_what_a_record_cannot() -> None:
    @numba.njit
    def loss(p: Any) -> Any:
        found = 0.0
        for name in p:
            found += np.sum(p[name] ** 2)
        return found

    params = {"a": X, "b": X[:2]}
    report = fastgc.check_gradients(loss, lambda p: {k: 2 * v for k, v in p.items()}, params, points=2)
    assert report.passed and report.engine == "python"
    assert len([note for note in report.notes if "as its py_func" in note]) == 1
    text = lines(lambda: fastgc.check_gradients(loss, params, params, engine="numba"))
    assert "params is a record there, indexed by literal names: params['W1']" in text


def test_an_error_of_the_users_is_told_with_its_line() -> None:
    @numba.njit
    def loss(p: Any) -> Any:
        scale = 2.0
        return scale * p.no_such_method()

    for engine in ("auto", "python", "numba"):
        text = lines(lambda: fastgc.check_gradients(loss, X, X, engine=engine))  # noqa: B023
        assert "Unknown attribute 'no_such_method'" in text
        assert re.search(r"line \d+ of test_refused.py: return scale \* p.no_such_method\(\)", text)


def test_signatures_in_single_precision() -> None:
    loss = numba.njit("float32(float32[::1])")(lambda p: np.sum(p * p))
    x = X.astype(np.float32)
    text = lines(lambda: fastgc.check_gradients(loss, lambda p: 2 * p, x))
    assert text.startswith(
        "loss is compiled for array(float32, 1d, C), and receives array(float64, 1d, C): float64 cop"
    )
    assert 'Pass precision="native" for the arrays as they are' in text
    assert fastgc.check_gradients(loss, lambda p: 2 * p, x, precision="native").passed


@pytest.mark.parametrize("compiled", [True, False])
def test_a_pair_without_being_told(compiled: bool) -> None:
    def loss(p: Any) -> Any:
        return np.sum(p**2), 2 * p

    given = numba.njit(loss) if compiled else loss
    text = lines(lambda: fastgc.check_gradients(given, lambda p: 2 * p, X))
    assert text.endswith("return one real number, or pass gradients=True for a pair (value, gradients)")
    assert fastgc.check_gradients(given, True, X).passed
    with pytest.raises(ValueError, match="or pass gradients=True for a pair"):
        fastgc.check_gradients(lambda p: (p[0] ** 2, 2 * p[0]), lambda p: 2 * p, np.ones(1))
