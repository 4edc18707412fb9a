"""Jitted functions of several outputs: the same numbers and verdicts from compiled loops as from calls in Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import pytest

import fastgc
from fastgc import check_hessian, check_jacobian, numerical_jacobian
from fastgc._jacobian.inputs import open_function, plain_function
from fastgc._jacobian.options import JacobianOptions
from tests.support.concurrency import at_once
from tests.support.jacobians import Floats

X = np.linspace(0.5, 1.5, 7)
TILTED = np.linspace(-1, 2, 6).reshape(2, 3)


@numba.njit
def products(x: Any) -> Any:
    out = np.empty(x.size - 1, x.dtype)
    for i in range(out.size):
        out[i] = x[i] * x[i + 1] + 0.5 * x[i]
    return out


@numba.njit
def fill_products(x: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = x[i] * x[i + 1] + 0.5 * x[i]


@numba.njit
def fill_and_return(x: Any, out: Any) -> Any:
    for i in range(out.size):
        out[i] = x[i] * x[i + 1] + 0.5 * x[i]
    return out


@numba.njit
def fill_scaled(x: Any, scale: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = scale[i] * x[i] * x[i + 1] + 0.5 * x[i]


def slopes(x: Floats, *args: Any) -> Floats:
    result = np.zeros((x.size - 1, x.size))
    i = np.arange(x.size - 1)
    result[i, i], result[i, i + 1] = x[1:] + 0.5, x[:-1]
    return result


def wrong(x: Floats, *args: Any) -> Floats:
    result = slopes(x)
    result[2, 3] *= 1.001
    return result


# --- what is returned ---


def narrow(x: Any) -> Any:
    return x.astype(np.float32) * np.float32(2)


RETURNED: dict[str, tuple[Callable[[Any], Any], Floats]] = {
    "vector": (lambda x: x * x, X),
    "matrix": (lambda x: x.reshape(-1, 1) * x, X),
    "transposed": (lambda x: (x.reshape(-1, 1) * (x * x)).T, X),
    "view": (lambda x: x[::-2], X),
    "shaped": (lambda x: x * x, TILTED),
    "number": (lambda x: np.sum(x * x), X),
    "array of no dimension": (lambda x: np.array(x[0] * x[1]), X),
    "whole number": (lambda x: x.size, X),
    "boolean": (lambda x: x[0] > 0.6, X),
    "tuple": (lambda x: (x[0] * x[1], x[2] ** 3), X),
    "tuple of two types": (lambda x: (x[0] * x[1], 1), X),
    "tuple of arrays": (lambda x: (x * x, x[::-1]), X),
    "tuple of tuples": (lambda x: ((x[0], 1), (2, x[1] * x[0])), X),
    "list": (lambda x: [x[0] * x[1], x[2]], X),
    "float32": (narrow, X),
    "no output": (lambda x: x[:0], X),
    "one input": (lambda x: np.array([x[0] ** 2, 3.0]), X[:1]),
    "no input": (lambda x: np.ones(2), X[:0]),
    "neither": (lambda x: x, X[:0]),
}


@cache
def jitted(name: str) -> Any:
    return numba.njit(RETURNED[name][0])


@pytest.mark.parametrize("name", RETURNED)
def test_outputs_are_those_of_calls_from_python_to_the_bit(name: str) -> None:
    x = RETURNED[name][1]
    f = jitted(name)
    from_python, from_loop = (numerical_jacobian(f, x, engine=engine) for engine in ("python", "numba"))
    assert from_loop.shape == (np.size(f(x)), x.size)
    np.testing.assert_array_equal(from_loop, from_python)


@pytest.mark.parametrize("stencil", ["central", "forward", "five_point", "complex_step"])
@pytest.mark.parametrize("f", [products, fill_products, fill_and_return])
def test_every_formula_has_the_same_numbers_from_both_engines(f: Any, stencil: Any) -> None:
    args = () if f is products else (np.empty(6),)
    found = [numerical_jacobian(f, X, args=args, stencil=stencil, engine=each) for each in ("python", "numba", "auto")]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_allclose(found[0], slopes(X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ["auto", "numba", "python"])
@pytest.mark.parametrize("function", [products, fill_products, fill_and_return, products.py_func])
def test_right_jacobians_pass_and_wrong_ones_fail_in_their_entry(function: Any, engine: Any) -> None:
    args = (np.empty(6),) if "fill" in function.__name__ else ()
    right = check_jacobian(function, slopes, X, args=args, engine=engine, threads=2)
    assert right.passed, str(right)
    if engine != "auto":
        assert right.engine == ("numba (2 threads)" if engine == "numba" else "python")
    assert right.notes == ()
    report = check_jacobian(function, wrong, X, args=args, engine=engine, points=2)
    assert {entry.index for entry in report.wrong_entries} == {(2, 3)}, str(report)


def test_reports_of_both_engines_are_the_same_to_the_bit() -> None:
    same = {"seconds": 0, "engine": "", "evaluations": 0}  # two more calls, to see how long one takes
    one, other = (check_jacobian(products, wrong, X, engine=engine).to_dict() for engine in ("python", "numba"))
    assert one | same == other | same


# --- arrays that are filled ---


def test_the_array_that_is_filled_is_found_among_others_and_comes_new_to_every_call() -> None:
    scale, out = np.arange(1.0, 7), np.full(6, 9.0)
    expected = numerical_jacobian(lambda x: fill_and_return(x, np.empty(6)) * 1.0, X)
    np.testing.assert_allclose(
        numerical_jacobian(fill_scaled, X, args=(np.ones(6), out), engine="numba"), expected, atol=1e-9
    )
    report = check_jacobian(fill_scaled, slopes, X, args=(scale, out), engine="numba")
    assert report.verdict == "fail"
    assert scale.tolist() == [1, 2, 3, 4, 5, 6]

    @numba.njit
    def added_up(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] += x[i] * x[i]

    assert check_jacobian(added_up, lambda x, _: np.diag(2 * x), X, args=(np.zeros(7),), engine="numba").passed


@numba.njit
def fill_matrix(x: Any, out: Any) -> None:
    for i in range(x.size):
        for j in range(x.size):
            out[i, j] = x[i] * x[j]


@numba.njit
def fill_constants(x: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = 3.0


@pytest.mark.parametrize("engine", ["numba", "python"])
def test_outputs_that_are_filled_may_have_any_shape_and_may_not_move(engine: Any) -> None:
    filled = numerical_jacobian(fill_matrix, X, args=(np.empty((7, 7), order="F"),), engine=engine)
    returned = numerical_jacobian(jitted("matrix"), X, engine=engine)
    np.testing.assert_array_equal(filled, returned)
    assert check_jacobian(fill_constants, np.zeros((2, 7)), X, args=(np.full(2, 3.0),), engine=engine).passed


def test_plain_functions_may_fill_an_array_too_and_workers_may_call_them() -> None:
    for options in ({}, {"workers": 2}):
        report = check_jacobian(fill_products.py_func, slopes, X, args=(np.empty(6),), **options)
        assert report.passed, str(report)


def test_what_fills_nothing_or_two_arrays_is_refused() -> None:
    def both(x: Any, first: Any, second: Any) -> None:
        for i in range(x.size):  # Numba compiles an assignment to a slice for seconds
            first[i] = second[i] = x[i]

    message = r"f returned None and wrote to args\[0\], args\[1\]; let it return the array that holds the outputs"
    for function in (both, numba.njit(both)):
        with pytest.raises(TypeError, match=message):
            check_jacobian(function, np.eye(7), X, args=(np.empty(7), np.empty(7)))
    message = r"f returned None \(NoneType\); it must return an array of real numbers, or nothing and fill one array"
    for function in (lambda x, data: None, numba.njit(lambda x, data: None)):
        with pytest.raises(TypeError, match=message):
            check_jacobian(function, np.eye(7), X, args=(np.ones(7),))


# --- threads ---


def opened(f: Any, x: Floats, threads: int, args: tuple[Any, ...] = (), **options: Any) -> Any:
    function, _ = open_function(f, x, args, JacobianOptions(engine="numba", threads=threads, **options))
    function.expect(1)
    return function


def test_any_number_of_threads_gives_the_same_outputs_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgc._evaluation.threads.LONGEST_PIECE", 1e-9)  # a point in each piece
    points = X + 1e-3 * np.arange(40.0)[:, None]
    for f, args in ((products, ()), (fill_products, (np.empty(6),))):
        found = []
        for threads in (1, 2, 5):
            function = opened(f, X, threads, args)
            found.append(function.at(points))
            assert function.engine == f"numba ({threads} thread{'s' if threads > 1 else ''})"
            function.close()
        assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
        assert found[0].tobytes() == np.array([products(point) for point in points]).tobytes()


def test_a_product_with_a_matrix_has_the_same_outputs_in_one_and_several_threads() -> None:
    matrix = np.random.default_rng(0).normal(size=(60, 60))

    @numba.njit
    def multiplied(x: Any, matrix: Any) -> Any:
        return np.dot(matrix, x) ** 2

    x = np.linspace(0, 1, 60)
    reports = [
        check_jacobian(
            multiplied, lambda x, a: 2 * (a @ x)[:, None] * a, x, args=(matrix,), engine="numba", threads=threads
        ).to_dict()
        for threads in (1, 2)
    ]
    assert reports[0]["verdict"] == "pass"
    assert [each.pop("engine") for each in reports] == ["numba (1 thread)", "numba (2 threads)"]
    assert [each.pop("seconds") > 0 for each in reports] == [True, True]
    assert reports[0] == reports[1]


def test_functions_that_write_to_other_arguments_run_in_one_thread() -> None:
    @numba.njit
    def with_buffer(x: Any, work: Any) -> Any:
        for i in range(x.size):
            work[i] = x[i] * x[i]
        return work * 2

    report = check_jacobian(with_buffer, lambda x, _: np.diag(4 * x), X, args=(np.zeros(7),), engine="numba", threads=2)
    assert report.passed, str(report)
    assert report.engine == "numba (1 thread)"
    assert "f writes into an array of args (a scratch buffer): evaluated in one thread" in report.notes


def test_functions_compiled_in_parallel_are_called_from_one_thread() -> None:
    @numba.njit(parallel=True)
    def parallel(x: Any) -> Any:
        out = np.empty_like(x)
        for i in numba.prange(x.size):
            out[i] = x[i] ** 3
        return out

    def check() -> Any:
        return check_jacobian(parallel, lambda x: np.diag(3 * x**2), X, engine="numba", threads=2)

    for report in at_once(check, check):
        assert report.passed, str(report)
        assert report.engine == "numba (1 thread)"
        assert "f was compiled with parallel=True: called from one thread" in report.notes


def test_two_checks_may_run_at_once() -> None:
    def check() -> Any:
        return check_jacobian(products, wrong, X, engine="numba", threads=2)

    one, other = at_once(check, check)
    assert one.entries.columns["numerical"].tobytes() == other.entries.columns["numerical"].tobytes()
    assert {entry.index for entry in one.wrong_entries} == {(2, 3)}


# --- what is raised ---


@numba.njit
def root(x: Any) -> Any:
    for each in x:
        if each < 0:
            raise ValueError("negative")
    return np.sqrt(x)


@pytest.mark.parametrize("engine", ["numba", "python"])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_away_from_the_point_is_a_nan_there_and_one_note(engine: Any, threads: int) -> None:
    x = np.array([0.0, 2.0, 3.0])
    function, _ = open_function(root, x, (), JacobianOptions(engine=engine, threads=threads))
    function.expect(1)
    points = np.array([x, [-1.0, 2, 3], [1, 2, 3], [1, -2, 3]])
    np.testing.assert_array_equal(function.at(points), [np.sqrt(x), [np.nan] * 3, np.sqrt(points[2]), [np.nan] * 3])
    assert function.raised.notes("f") == (
        "f raised ValueError: negative (2 times, first at x[0] = -1): taken as not defined there",
    )
    function.close()
    report = check_jacobian(root, lambda x: np.diag([np.inf, *0.5 / np.sqrt(x[1:])]), x, engine=engine)
    assert report.verdict == "fail"


@numba.njit
def only_here(x: Any) -> Any:
    if x[0] != 1.0:
        raise KeyError("elsewhere")
    return x


@pytest.mark.parametrize("engine", ["numba", "python"])
def test_an_exception_at_the_point_passes_through_and_so_does_one_at_all_others(engine: Any) -> None:
    with pytest.raises(ValueError, match="negative"):
        numerical_jacobian(root, [-1.0, 2.0], engine=engine)
    with pytest.raises(KeyError, match="elsewhere"):
        numerical_jacobian(only_here, [1.0], engine=engine)


@numba.njit
def shrinking(x: Any) -> Any:
    return x[:2] if x[0] > X[0] else x


@numba.njit
def growing(x: Any) -> Any:
    return [1.0, x[0], 2.0] if x[0] > X[0] else [1.0, x[0]]


@numba.njit
def turning(x: Any) -> Any:
    return x.reshape(1, -1) if x[0] > X[0] else x.reshape(-1, 1)


@pytest.mark.parametrize("engine", ["numba", "python"])
def test_outputs_whose_shape_changes_are_refused(engine: Any) -> None:
    for f, shapes in ((shrinking, r"\(2,\) near x and \(7,\)"), (growing, r"\(3,\) near x and \(2,\)"),
                      (turning, r"\(1, 7\) near x and \(7, 1\)")):  # fmt: skip
        with pytest.raises(ValueError, match=f"f returned shape {shapes} at x; it must not change"):
            numerical_jacobian(f, X, engine=engine)


SCALE = 2.0


@numba.njit
def scaled(x: Any) -> Any:
    return SCALE * x


@numba.njit
def fill_scale_times(x: Any, out: Any) -> None:
    for i in range(x.size):
        out[i] = SCALE * x[i]


@pytest.mark.parametrize(("engine", "fills"), [("auto", False), ("numba", False), ("numba", True), ("python", True)])
def test_a_global_that_has_changed_since_is_refused(engine: Any, fills: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    f, args = (fill_scale_times, (np.empty(7),)) if fills else (scaled, ())
    assert check_jacobian(f, 2 * np.eye(7), X, args=args, engine=engine).passed
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    message = r"the compiled f gives 1.0 where its Python function gives 1.5: Numba froze .* or compile f again"
    for call in (lambda: check_jacobian(f, 2 * np.eye(7), X, args=args, engine=engine),
                 lambda: numerical_jacobian(f, X, args=args, engine=engine)):  # fmt: skip
        with pytest.raises(ValueError, match=message.replace("1.0", ".*").replace("1.5", ".*")):
            call()


@numba.njit
def noisy(x: Any) -> Any:
    return SCALE * x + np.random.random()  # noqa: NPY002 - what Numba supports


@pytest.mark.parametrize("engine", ["numba", "python"])
def test_noise_is_no_global_that_has_changed(engine: Any) -> None:
    report = check_jacobian(noisy, 2 * np.eye(7), X, engine=engine, threads=2)
    assert "f is noisy: a repeated call gave other outputs (dropout? no seed set?)" in report.notes
    assert report.engine == ("numba (1 thread)" if engine == "numba" else "python")


@pytest.mark.parametrize("engine", ["numba", "python"])
def test_ctrl_c_ends_the_check_and_no_thread_is_left(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgc._evaluation import outputs

    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    if engine == "numba":
        monkeypatch.setattr(outputs._kernels, "open_output_loop", lambda *_: interrupted)
    else:
        monkeypatch.setattr("fastgc._jacobian.function.VectorFunction.lines", interrupted)
    x = X.copy()
    with pytest.raises(KeyboardInterrupt):
        check_jacobian(products, slopes, x, engine=engine, threads=2)
    assert x.tobytes() == X.tobytes()
    from fastgc._evaluation.threads import single_threaded_blas

    assert not single_threaded_blas._inside


def test_an_exception_of_the_jacobian_lifts_the_limit_of_blas_threads() -> None:
    from fastgc._evaluation.threads import single_threaded_blas

    def raising(x: Any) -> Any:
        raise RuntimeError("no Jacobian")

    with pytest.raises(RuntimeError, match="no Jacobian"):
        check_jacobian(products, raising, X, engine="numba")
    assert not single_threaded_blas._inside


# --- which engine runs ---


def test_the_loop_is_compiled_where_it_saves_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgc._evaluation.kernels.output_loop_is_compiled", lambda *_: False)
    few = plain_function(products, X, (), "auto")
    few.expect(100)
    assert few.engine == "python"
    many = plain_function(products, X, (), "auto")
    many.expect(10_000_000)
    assert many.engine.startswith("numba (")
    points = X + np.arange(3.0)[:, None]
    assert few.at(points).tobytes() == many.at(points).tobytes()
    for function in (few, many):
        function.close()


def test_a_loop_that_exists_already_is_used_at_once() -> None:
    numerical_jacobian(products, X, engine="numba")
    function = plain_function(products, X, (), "auto")
    function.expect(1)
    assert function.engine.startswith("numba (")
    function.close()


@pytest.mark.parametrize("engine", ["numba", "auto"])
def test_time_is_looked_at_between_pieces(engine: Any) -> None:
    assert check_jacobian(products, slopes, X, engine=engine, time_budget=600.0).passed
    report = check_jacobian(products, slopes, X, engine=engine, time_budget=1e-9)
    assert report.verdict == "undecided"
    assert "not reached" in report.reason


def test_bounds_hold_in_compiled_loops() -> None:
    @numba.njit
    def inside(x: Any) -> Any:
        for each in x:
            if each < 0.5 or each > 1.5:
                raise ValueError("outside")
        return x * x

    report = check_jacobian(inside, lambda x: np.diag(2 * x), X, engine="numba", bounds=[(0.5, 1.5)] * 7)
    assert report.passed, str(report)
    assert report.notes == ()


def test_a_declared_sparsity_is_used_in_compiled_loops() -> None:
    import scipy.sparse as sp

    report = check_jacobian(products, sp.csr_array(slopes(X)), X, engine="numba")
    assert report.passed, str(report)
    leaking = check_jacobian(products, sp.csr_array(np.tril(slopes(X))), X, engine="numba")
    assert leaking.verdict == "fail"


# --- Hessians ---


@numba.njit
def bowl(x: Any) -> float:
    total = 0.0
    for i in range(x.size - 1):
        total += x[i] ** 2 * x[i + 1]
    return total


@numba.njit
def bowl_gradient(x: Any) -> Any:
    out = np.zeros_like(x)
    for i in range(x.size - 1):
        out[i] += 2 * x[i] * x[i + 1]
        out[i + 1] += x[i] ** 2
    return out


def bowl_hessian(x: Floats) -> Floats:
    result = np.zeros((x.size, x.size))
    i = np.arange(x.size - 1)
    result[i, i], result[i, i + 1], result[i + 1, i] = 2 * x[1:], 2 * x[:-1], 2 * x[:-1]
    return result


@pytest.mark.parametrize("engine", ["auto", "numba", "python"])
@pytest.mark.parametrize("gradient", [bowl_gradient, bowl_gradient.py_func])
def test_jitted_gradients_of_hessians_run_in_compiled_loops(gradient: Any, engine: Any) -> None:
    right = check_hessian(bowl, gradient, bowl_hessian, X, engine=engine, threads=2)
    assert right.passed, str(right)
    if engine != "auto":
        assert right.engine == ("numba (2 threads)" if engine == "numba" else "python")
    assert check_hessian(bowl, gradient, lambda x: 1.01 * bowl_hessian(x), X, engine=engine).verdict == "fail"


def test_a_jitted_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gradient returned shape \(6,\); x has shape \(7,\)"):
        check_hessian(None, products, np.eye(7), X)
    with pytest.raises(TypeError, match="Numba cannot compile gradient"):
        check_hessian(None, lambda x: {}[x], np.eye(7), X, engine="numba")


def test_numerical_jacobians_refuse_an_engine_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="engine is 'fast'; it must be one of"):
        fastgc.numerical_jacobian(products, X, engine="fast")  # type: ignore[arg-type]


def test_quotients_do_not_depend_on_how_many_inputs_are_displaced_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = numerical_jacobian(products, X)
    monkeypatch.setattr("fastgc._jacobian.function.AT_ONCE", 1)
    np.testing.assert_array_equal(numerical_jacobian(products, X), whole)
