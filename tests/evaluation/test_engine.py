"""Which engine runs a loss, and what its first call shows: frozen data, scratch buffers, parallel losses."""

from __future__ import annotations

import enum
import math
import re
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
from numba.experimental import jitclass

import fastgc
from fastgc._arguments import noted
from fastgc._evaluation.jitted import runs_in_parallel
from fastgc._evaluation.kernel_files import KernelFiles
from fastgc._evaluation.writes import unknown_in
from tests.support.layouts import Array, array, gradients, loss


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


def test_a_cheap_jitted_loss_is_compiled_into_a_loop_only_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelFiles, "load", lambda *_: None)
    cheap = numba.njit(quad)
    x = np.arange(1, 4, dtype=np.int16)  # no loop of another test is for arguments of these types
    cheap(array(3), x)  # compiled already, so that nothing is known of how long that takes
    few = fastgc.check_gradients(cheap, quad_slopes, array(8), args=(x,), samples="all", threads=1)
    assert few.engine == "python" and few.passed
    many = fastgc.check_gradients(
        cheap, quad_slopes, array(200_000), args=(x,), samples="all", threads=1, crosscheck=False
    )
    assert many.engine.startswith("numba") and many.passed
    again = fastgc.check_gradients(cheap, quad_slopes, array(8), args=(x,), samples="all", threads=1)
    assert again.engine.startswith("numba") and again.passed  # by the loop that exists now


def test_a_loop_that_is_not_on_disk_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(KernelFiles, "load", lambda _, key: asked.append(key))
    x = np.arange(1, 4, dtype=np.uint8)  # no loop of another test is for arguments of these types

    def engine(loss: Any, asked_for: Any) -> str:
        return fastgc.check_gradients(loss, quad_slopes, array(8), args=(x,), engine=asked_for, threads=1).engine

    cheap = numba.njit(quad)
    assert [engine(cheap, "auto") for _ in range(3)] == ["python"] * 3
    assert len(asked) == 1
    assert engine(numba.njit(quad), "numba") == engine(cheap, "auto") == "numba (1 thread)"  # one loop serves both


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


def test_a_buffer_that_holds_what_the_loss_writes_already_is_noticed() -> None:
    p, work = array(40), np.zeros(40)
    with_buffer(p, work)
    report = fastgc.check_gradients(
        with_buffer, lambda p, _: double(p), p, args=(work,), samples="all", engine="numba", threads=2
    )
    assert report.passed and report.engine == "numba (1 thread)"
    assert any("scratch" in note and "one thread" in note for note in report.notes)


@numba.njit
def with_record(p: Any, work: Any) -> float:
    work.x = p[0]
    return np.sum(p * p) + 0.0 * work.x


@numba.njit
def with_records(p: Any, work: Any) -> float:
    work[1].x = p[0]
    return np.sum(p * p)


@pytest.mark.parametrize("loss", [with_record, with_records])
def test_records_that_are_written_to_are_scratch_buffers_too(loss: Any) -> None:
    records = np.zeros(3, [("x", "f8"), ("y", "i4")])
    work = records[1] if loss is with_record else records
    report = fastgc.check_gradients(loss, lambda p, _: double(p), array(9), args=(work,), engine="numba", threads=2)
    assert report.passed and report.engine == "numba (1 thread)" and records["x"][1] != 0
    assert any("scratch" in note for note in report.notes)


def test_parameters_that_are_changed_through_args_are_refused_and_restored() -> None:
    p = {"a": array(5), "b": array(4)}
    before = {name: each.copy() for name, each in p.items()}

    @numba.njit
    def loss(params: Any, alias: Any) -> float:
        alias[:] = 7.0
        return np.sum(params["a"] ** 2) + np.sum(params["b"] ** 2)

    for each in (loss, loss.py_func):
        with pytest.raises(ValueError, match=r"loss changed params 'b' through an array of args that shares .* a copy"):
            fastgc.check_gradients(each, {name: 2 * x for name, x in p.items()}, p, args=(p["b"][1:],))
        assert all(np.array_equal(before[name], p[name]) for name in p)


def test_args_that_share_memory_with_parameters_may_be_read() -> None:
    p = array(5)
    loss = numba.njit(lambda params, alias: np.sum(params * alias))
    report = fastgc.check_gradients(loss, p.copy(), p, args=(p,), engine="numba", threads=2)
    assert report.passed and report.engine == "numba (2 threads)" and report.notes == ()


# --- what nobody knows the content of ---


@jitclass([("work", numba.float64[:])])
class Workspace:
    """Room for a loss."""

    def __init__(self, size: int) -> None:
        self.work = np.zeros(size)


class Pair(NamedTuple):
    """Arguments of a loss."""

    factor: float
    rest: Any


def typed_dict(size: int) -> Any:
    found = numba.typed.Dict.empty(numba.types.int64, numba.types.float64[:])  # of names, compiling takes longer
    found[0] = np.zeros(size)
    return found


@numba.njit
def in_object(p: Any, scratch: Any) -> float:
    return with_buffer(p, scratch.work)


@numba.njit
def in_dict(p: Any, scratch: Any) -> float:
    return with_buffer(p, scratch[0])


@numba.njit
def in_list(p: Any, scratch: Any) -> float:
    return with_buffer(p, scratch[0])


@numba.njit
def in_tuple(p: Any, scratch: Any) -> float:
    return scratch.factor * with_buffer(p, scratch.rest[1].work)


SIZE = 300
HIDDEN = [
    (in_object, lambda: Workspace(SIZE), r"args\[0\] is a jitclass \(Workspace\)"),
    (in_dict, lambda: typed_dict(SIZE), r"args\[0\] is a numba.typed.Dict"),
    (in_list, lambda: numba.typed.List([np.zeros(SIZE)]), r"args\[0\] is a numba.typed.List"),
    (in_tuple, lambda: Pair(1.0, ((), Workspace(SIZE))), r"args\[0\]\[1\]\[1\] is a jitclass"),
]


@pytest.mark.parametrize(("_", "make", "words"), HIDDEN, ids=["jitclass", "Dict", "List", "tuple"])
def test_what_may_hold_a_scratch_buffer_is_named(_: Any, make: Any, words: str) -> None:
    assert re.match(words, str(unknown_in((make(),))))


@pytest.mark.parametrize(("loss", "make", "words"), HIDDEN[1:3], ids=["Dict", "List"])
def test_what_may_hold_a_scratch_buffer_keeps_the_loss_in_one_thread(loss: Any, make: Any, words: str) -> None:
    options: dict[str, Any] = {"samples": "all", "engine": "numba"}
    one, two = (
        fastgc.check_gradients(loss, lambda p, _: double(p), array(SIZE), args=(make(),), threads=k, **options)
        for k in (1, 2)
    )
    assert two.passed and two.engine == "numba (1 thread)" and two.evaluations == one.evaluations
    assert len(two.notes) == 1
    assert re.fullmatch(rf"runs in one thread: {words}.*, which the loss may write to; for more, .*", two.notes[0])
    assert one.passed and one.notes == ()


@pytest.mark.parametrize(("loss", "make", "words"), HIDDEN, ids=["jitclass", "Dict", "List", "tuple"])
def test_such_args_go_everywhere_else_too(loss: Any, make: Any, words: str) -> None:
    args = (make(),)
    assert fastgc.check_gradients(loss, lambda p, _: double(p), array(9), args=args, engine="python").passed
    assert fastgc.check_jacobian(loss, lambda p, _: double(p)[None, :], array(9), args=args).passed
    assert np.allclose(fastgc.numerical_gradient(loss, array(9), args=args), double(array(9)))


@numba.njit
def doubled(x: float) -> float:
    return 2 * x


class Level(enum.IntEnum):
    """How much of something there is."""

    HIGH = 1


KNOWN = [
    1, 2.5, 1j, True, None, "text", b"bytes", np.float32(1.0), np.datetime64("2020-01-01"), array(3), (),
    (1, (2.0, "x")), Pair(1.0, array(2)), np.zeros(2, [("x", "f8")]), Level.HIGH,
]  # fmt: skip


@pytest.mark.parametrize("value", KNOWN, ids=repr)
def test_what_is_known_to_hold_nothing_to_write_to(value: Any) -> None:
    assert unknown_in((value,)) is None


@pytest.mark.parametrize("value", KNOWN[9:14], ids=repr)
def test_what_is_known_to_hold_nothing_to_write_to_leaves_all_threads(value: Any) -> None:
    loss = numba.njit(lambda p, _: np.sum(p * p))
    report = fastgc.check_gradients(loss, lambda p, _: double(p), array(9), args=(value,), engine="numba", threads=2)
    assert report.passed and report.engine == "numba (2 threads)" and report.notes == ()


def test_jitted_functions_and_lists_of_numbers_hold_nothing_to_write_to() -> None:
    assert unknown_in((doubled, [1.0, 2.0])) is None


@pytest.mark.parametrize(
    "value", [{1.0, 2.0}, bytearray(3), np.array([None]), object()], ids=lambda value: type(value).__name__
)
def test_everything_else_may(value: Any) -> None:
    assert str(unknown_in((1.0, value))).startswith("args[1] is a")


def test_a_noisy_loss_runs_in_one_thread() -> None:
    loss = numba.njit(lambda p: np.sum(p * p) + 1e-9 * np.random.random())  # noqa: NPY002 - Numba's own
    report = fastgc.check_gradients(loss, double, array(9), engine="numba", threads=2)
    assert report.engine == "numba (1 thread)" and report.verdict != "fail"
    assert any("noisy" in note for note in report.notes)
    assert any("one thread, since a repeated call gave another value" in note for note in report.notes)


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


def test_a_parallel_function_among_the_arguments_is_noticed() -> None:
    inner, loss = numba.njit(parallel=True)(lambda p: p.sum()), numba.njit(lambda p, f: f(p))
    plain = numba.njit(lambda p: p.sum())
    assert runs_in_parallel(loss, (1.0, inner))
    assert runs_in_parallel(loss, ([(2, (inner,))],))
    assert not runs_in_parallel(loss, (1.0, plain))
