"""Which engine runs a loss, and what its first call shows: frozen data, scratch buffers, parallel losses."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from test_layout import Array, array, gradients, loss

import fastgc
from fastgc._engine import noted


def double(p: Array) -> Array:
    return 2 * p


def quad(p: Any, x: Any) -> float:
    """A cheap loss of the first three entries: 0.5 * x * p**2."""
    total = 0.0
    for i in range(3):
        total += 0.5 * x[i] * p[i] * p[i]
    return total


jitted_quad = numba.njit(quad)


def quad_slopes(p: Array, x: Array) -> Array:
    out = np.zeros_like(p)
    out[:3] = x * p[:3]
    return out


# --- the choice ---


def test_a_plain_loss_is_called_from_python() -> None:
    assert fastgc.check_gradients(loss, gradients, {"w": array(3)}).engine == "python"


def test_a_cheap_jitted_loss_is_compiled_into_a_loop_only_where_that_pays() -> None:
    cheap = numba.njit(quad)
    x = array(3)
    cheap(array(3), x)  # compiled already, so that nothing is known of how long that takes
    few = fastgc.check_gradients(cheap, quad_slopes, array(8), args=(x,), samples="all", threads=1)
    assert few.engine == "python" and few.passed
    many = fastgc.check_gradients(
        cheap, quad_slopes, array(200_000), args=(x,), samples="all", threads=1, crosscheck=False
    )
    assert many.engine.startswith("numba") and many.passed


@pytest.mark.parametrize("function", [jitted_quad, quad], ids=["jitted", "plain"])
def test_an_engine_that_is_asked_for_is_used(function: Any) -> None:
    args = (array(3),)
    compiled = fastgc.check_gradients(function, quad_slopes, array(5), args=args, engine="numba", threads=2)
    assert compiled.engine == "numba (2 threads)" and compiled.passed
    plain = fastgc.check_gradients(function, quad_slopes, array(5), args=args, engine="python")
    assert plain.engine == "python" and plain.passed
    assert "numba (2 threads)" in str(compiled)


def test_the_default_number_of_threads_is_numbas_own() -> None:
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        report = fastgc.check_gradients(jitted_quad, quad_slopes, array(5), args=(array(3),), engine="numba")
        assert report.engine == "numba (1 thread)"
    finally:
        numba.set_num_threads(before)
    report = fastgc.check_gradients(jitted_quad, quad_slopes, array(5), args=(array(3),), engine="numba", threads=4)
    assert report.engine == "numba (4 threads)" and numba.get_num_threads() == before


# --- args are arguments ---


def test_args_are_passed_and_not_frozen() -> None:
    x = array(3)
    for _ in range(3):
        assert fastgc.check_gradients(jitted_quad, quad_slopes, array(5), args=(x,), engine="numba").passed
        x *= 2
    signatures = list(jitted_quad.signatures)
    other = array(3) - 5
    assert fastgc.check_gradients(jitted_quad, quad_slopes, array(7), args=(other,), engine="numba").passed
    assert jitted_quad.signatures == signatures


def test_args_of_many_kinds_reach_the_compiled_loss() -> None:
    @numba.njit
    def mixed(p: Any, power: int, scale: float, flag: bool, parts: Any, square_it: Any) -> float:
        total = 0.0
        for i in range(p.size):
            total += scale * square_it(p[i]) ** power * parts[0][i] + parts[1]
        return total if flag else 0.0

    @numba.njit
    def squared(x: float) -> float:
        return x * x

    p = array(3)
    args = (2, np.float32(0.5), True, (array(3), 4.0), squared)
    slopes = 0.5 * 4 * p**3 * array(3)
    for engine in "numba", "python":
        assert fastgc.check_gradients(mixed, slopes, p, args=args, engine=engine).passed


# --- what Numba cannot compile ---


def uncompilable(p: Any) -> float:
    return float(p.no_such_method())


@pytest.mark.parametrize("function", [numba.njit(uncompilable), uncompilable], ids=["jitted", "plain"])
def test_what_numba_cannot_compile_is_a_readable_error(function: Any) -> None:
    with pytest.raises(TypeError, match=r'(?s)Numba cannot compile the loss.*engine="python"') as caught:
        fastgc.check_gradients(function, double, array(2), engine="numba")
    assert len(str(caught.value)) < 2000


def test_a_plain_loss_with_names_from_elsewhere_says_what_is_missing() -> None:
    class Model:
        def total(self, p: Array) -> float:
            return float(p.sum())

    model = Model()
    with pytest.raises(TypeError, match=r"(?s)Numba cannot compile the loss.*model"):
        fastgc.check_gradients(lambda p: model.total(p), double, array(2), engine="numba")


def test_half_precision_in_compiled_code_is_a_readable_error() -> None:
    @numba.njit
    def total(params: Any) -> float:
        return np.sum(params["w"] * params["w"])

    params = {"w": array(3).astype(np.float16)}
    slopes = {"w": 2 * params["w"].astype(np.float64)}
    assert fastgc.check_gradients(total, slopes, params, engine="numba").passed
    with pytest.raises((TypeError, ValueError), match=r'(?s)float16.*precision="double"'):
        fastgc.check_gradients(total, slopes, params, engine="numba", precision="native")


def test_a_jitted_loss_of_a_dict_works_on_copies_only() -> None:
    @numba.njit
    def total(params: Any) -> float:
        return params["w"].sum()

    with pytest.raises(ValueError, match=r"in_place=True.*jitted"):
        fastgc.check_gradients(total, {"w": np.ones(3)}, {"w": array(3)}, in_place=True)


def test_a_jitted_loss_of_one_array_may_be_checked_in_place() -> None:
    value = array(8)[::2]
    before = value.tobytes()
    report = fastgc.check_gradients(jitted_quad, quad_slopes, value, args=(array(3),), in_place=True)
    assert report.passed and report.engine == "python"
    assert value.tobytes() == before


# --- frozen globals and closures ---

SCALE = 2.0
TABLE = np.full(3, 2.0)
settings = types.ModuleType("settings")
settings.scale = 2.0  # type: ignore[attr-defined]


def with_closure() -> tuple[Any, Callable[[float], None]]:
    factor = 2.0

    @numba.njit
    def closed(p: Any) -> float:
        return factor * np.sum(p * p)

    def change(value: float) -> None:
        nonlocal factor
        factor = value

    return closed, change


@numba.njit
def scaled(p: Any) -> float:
    return SCALE * np.sum(p * p)


@numba.njit
def weighted(p: Any) -> float:
    return np.sum(TABLE * p * p)


@numba.njit
def configured(p: Any) -> float:
    return settings.scale * np.sum(p * p)


FROZEN = r"(?s)frozen? .*global.*closure.*args"


def set_global(value: float) -> None:
    global SCALE
    SCALE = value


def set_module(value: float) -> None:
    settings.scale = value  # type: ignore[attr-defined]


def set_array(value: float) -> None:
    TABLE[:] = value


@pytest.mark.parametrize("engine", ["auto", "numba", "python"])
@pytest.mark.parametrize(
    ("function", "change"),
    [(scaled, set_global), (configured, set_module), (weighted, set_array)],
    ids=["number", "attribute of a module", "array"],
)
def test_a_changed_global_is_noticed_and_an_unchanged_one_is_not(
    function: Any, change: Callable[[float], None], engine: str
) -> None:
    p = array(3)
    assert fastgc.check_gradients(function, 4 * p, p, engine=engine).passed
    try:
        change(5.0)
        with pytest.raises(ValueError, match=FROZEN):
            fastgc.check_gradients(function, 4 * p, p, engine=engine)
    finally:
        change(2.0)
    assert fastgc.check_gradients(function, 4 * p, p, engine=engine).passed


def test_a_changed_closure_is_noticed_and_an_unchanged_one_is_not() -> None:
    closed, change = with_closure()
    p = array(3)
    for _ in range(2):
        assert fastgc.check_gradients(closed, 4 * p, p).passed
    change(3.0)
    with pytest.raises(ValueError, match=FROZEN):
        fastgc.check_gradients(closed, 6 * p, p)
    change(2.0)
    assert fastgc.check_gradients(closed, 4 * p, p).passed


def test_a_frozen_constant_is_noticed_where_it_does_not_show_at_the_given_point() -> None:
    closed, change = with_closure()
    p = np.zeros(3)
    closed(p)
    change(-1.0)
    with pytest.raises(ValueError, match=FROZEN):
        fastgc.check_gradients(closed, p, p)


def test_a_constant_in_a_noisy_loss_is_no_reason_for_an_alarm() -> None:
    @numba.njit
    def noisy(p: Any) -> float:
        return SCALE * np.sum(p * p) + 1e-3 * np.random.random()  # noqa: NPY002 - the one that Numba has

    report = fastgc.check_gradients(noisy, lambda p: 2 * SCALE * p, array(3))
    assert report.verdict != "fail"
    assert any("noisy" in note for note in report.notes)


def test_a_constant_in_an_ill_conditioned_loss_is_no_reason_for_an_alarm() -> None:
    @numba.njit
    def variance(p: Any, x: Any) -> float:
        z = x + p[0]
        return SCALE * (np.mean(z * z) - np.mean(z) ** 2) * p[1]

    x = 1e7 + np.random.default_rng(0).normal(size=1000)
    report = fastgc.check_gradients(variance, lambda p, x: np.zeros(2), array(2), args=(x,))
    assert report.tensors["params"].checked == 2


def test_a_constant_in_a_loss_near_the_edge_of_its_domain_is_no_reason_for_an_alarm() -> None:
    @numba.njit
    def barrier(p: Any) -> float:
        total = 0.0
        for value in p:
            total += SCALE * math.log(value)
        return total

    p = np.append(np.full(20, 1e-7), 1.0)
    assert fastgc.check_gradients(barrier, lambda p: SCALE / p, p).passed


# --- scratch buffers ---


@numba.njit
def with_buffer(p: Any, work: Any) -> float:
    for i in range(p.size):
        work[i] = p[i] * p[i]
    return work.sum()


@numba.njit
def with_memory(p: Any, work: Any) -> float:
    work[0] += 1.0
    return np.sum(p * p) + 1e-3 * work[0]


@pytest.mark.parametrize("function", [with_buffer, with_buffer.py_func], ids=["jitted", "plain"])
@pytest.mark.parametrize("engine", ["numba", "python"])
def test_a_scratch_buffer_is_noticed_and_the_check_runs_in_one_thread(function: Any, engine: str) -> None:
    for _ in range(2):
        report = fastgc.check_gradients(
            function, lambda p, _: double(p), array(40), args=(np.zeros(40),), samples="all", engine=engine, threads=3
        )
        assert report.passed
        assert any("scratch" in note and "args" in note and "one thread" in note for note in report.notes)
        assert report.engine == ("numba (1 thread)" if engine == "numba" else "python")


def test_a_scratch_buffer_is_noticed_inside_other_arguments() -> None:
    def nested(p: Array, data: Any) -> float:
        data["work"][0][...] = p
        return float(np.sum(p * p))

    args = ({"work": [np.zeros(3)], "x": array(2)},)
    report = fastgc.check_gradients(nested, lambda p, _: double(p), array(3), args=args)
    assert report.passed and any("scratch" in note for note in report.notes)


def test_a_buffer_that_changes_the_value_is_said() -> None:
    report = fastgc.check_gradients(with_memory, lambda p, _: double(p), array(3), args=(np.zeros(1),), engine="numba")
    assert any("repeated call" in note for note in report.notes)
    assert report.verdict != "fail", str(report)
    assert report.engine == "numba (1 thread)"


def test_args_that_are_only_read_are_no_scratch() -> None:
    x = array(3)
    report = fastgc.check_gradients(jitted_quad, quad_slopes, array(5), args=(x,), engine="numba", threads=2)
    assert report.engine == "numba (2 threads)" and report.notes == ()


def test_a_buffer_of_single_precision_is_used_as_a_copy_in_double_precision() -> None:
    work = np.zeros(40, np.float32)
    report = fastgc.check_gradients(with_buffer, lambda p, _: double(p), array(40), args=(work,))
    assert report.passed and not work.any()


# --- losses that run in parallel themselves ---


@numba.njit(parallel=True)
def parallel_sum(p: Any) -> float:
    total = 0.0
    for i in numba.prange(p.size):
        total += p[i] * p[i]
    return total


@numba.njit
def calls_parallel(p: Any) -> float:
    return parallel_sum(p) * 1.0


@pytest.mark.parametrize("function", [parallel_sum, calls_parallel], ids=["itself", "a function that it calls"])
def test_a_parallel_loss_is_called_from_one_thread(function: Any) -> None:
    report = fastgc.check_gradients(function, double, array(50), samples="all", engine="numba", threads=3)
    assert report.passed and report.engine == "numba (1 thread)"
    assert any("parallel=True" in note and "one thread" in note for note in report.notes)


# --- precision ---


@pytest.mark.parametrize("engine", ["numba", "python"])
@pytest.mark.parametrize(
    ("dtype", "precision"), [(np.float32, "double"), (np.float32, "native"), (np.float16, "double")]
)
def test_single_and_half_precision_parameters_run_in_both_engines(dtype: Any, precision: str, engine: str) -> None:
    p = array(5).astype(dtype)
    before = p.tobytes()
    for factor, verdict in ((1.0, "pass"), (1.1, "fail")):
        report = fastgc.check_gradients(
            jitted_quad,
            lambda p, x, factor=factor: factor * quad_slopes(p, x),
            p,
            args=(array(3),),
            precision=precision,
            engine=engine,
            rtol=1e-2,
        )
        assert report.verdict == verdict, str(report)
    assert p.tobytes() == before


def test_the_second_check_of_a_loss_compiles_nothing() -> None:
    def compiled() -> int:
        return len(jitted_quad.signatures)

    fastgc.check_gradients(jitted_quad, quad_slopes, array(5), args=(array(3),), engine="numba")
    before = compiled()
    for size in 4, 9:
        fastgc.check_gradients(jitted_quad, quad_slopes, array(size), args=(array(3),), engine="numba")
    assert compiled() == before


def test_numbas_configuration_is_left_alone() -> None:
    before = {name: getattr(numba.config, name) for name in dir(numba.config) if name.isupper()}
    fastgc.check_gradients(jitted_quad, quad_slopes, array(5), args=(array(3),), engine="numba", threads=2)
    assert {name: getattr(numba.config, name) for name in dir(numba.config) if name.isupper()} == before


# --- what is said beside exceptions ---


def test_a_note_goes_with_exceptions_of_its_kind_and_words_alone() -> None:
    with pytest.raises(TypeError, match="dtypes differ") as said, noted(TypeError, "dtype|f64", "in float64"):
        raise TypeError("dtypes differ")
    with pytest.raises(TypeError, match="no number") as other, noted(TypeError, "dtype|f64", "in float64"):
        raise TypeError("no number")
    with pytest.raises(ValueError, match="dtype") as kind, noted(TypeError, "dtype|f64", "in float64"):
        raise ValueError("dtype")
    assert [getattr(each.value, "__notes__", []) for each in (said, other, kind)] == [["in float64"], [], []]
