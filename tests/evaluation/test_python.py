"""Loss values at displaced points: what a loss may return or raise, interrupts, threads, and both engines alike."""

from __future__ import annotations

import math
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

import fastgc
from tests.support.jitted import DATA, LINE, NETWORK, line_loss, line_plain, network_gradients, network_loss
from tests.support.layouts import Array, array, gradients, leaves_of, loss

ENGINES = ["python", "numba"]


def square(p: Array) -> float:
    return float(np.sum(p**2))


def double(p: Array) -> Array:
    return 2 * p


# --- what a loss may return ---

ONE_VALUE: dict[str, Callable[[float], Any]] = {
    "float": float,
    "np.float64": np.float64,
    "0-d array": np.asarray,
    "array of one": lambda value: np.array([value]),
    "(1, 1) array": lambda value: np.array([[value]]),
    "list of one": lambda value: [value],
}


@pytest.mark.parametrize("wrap", ONE_VALUE.values(), ids=ONE_VALUE)
def test_a_loss_may_return_one_value_in_any_wrapping(wrap: Callable[[float], Any]) -> None:
    report = fastgc.check_gradients(lambda p: wrap(square(p)), double, array(3))
    assert report.passed
    plain = fastgc.check_gradients(square, double, array(3))
    assert report.to_dict()["tensors"] == plain.to_dict()["tensors"]


def test_a_loss_may_return_an_integer_or_a_single_precision_number() -> None:
    assert fastgc.check_gradients(lambda p: 3, lambda p: 0 * p, array(2)).verdict != "fail"
    assert fastgc.check_gradients(lambda p: np.float32(square(p)), double, array(2)).verdict != "fail"
    assert fastgc.check_gradients(lambda p: np.float32(square(p)), lambda p: 3 * p, array(2)).verdict == "fail"


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, "loss returned None"),
        ("1.0", TypeError, "loss returned '1.0'"),
        (1j, TypeError, "loss returned 1j.*complex"),
        (np.complex128(1), TypeError, "complex"),
        (np.array([1j]), TypeError, "complex"),
        (object(), TypeError, "loss returned <object"),
        ({"loss": 1.0}, TypeError, "loss returned {'loss': 1.0}"),
        (np.ones(3), ValueError, r"loss returned an array of shape \(3,\); it must return one value"),
        (np.ones((1, 2)), ValueError, r"loss returned an array of shape \(1, 2\)"),
        (np.ones(0), ValueError, r"loss returned an array of shape \(0,\)"),
        ([1.0, 2.0], ValueError, r"loss returned an array of shape \(2,\)"),
        ((1.0, np.ones(2)), (TypeError, ValueError), "loss returned"),
        (math.nan, ValueError, "loss is nan at params"),
        (math.inf, ValueError, "loss is inf at params"),
        (-math.inf, ValueError, "loss is -inf at params"),
    ],
)
def test_what_is_not_one_finite_real_number_is_refused(value: Any, error: Any, message: str) -> None:
    params = array(3)
    before = params.tobytes()
    with pytest.raises(error, match=message):
        fastgc.check_gradients(lambda p: value, double, params)
    assert params.tobytes() == before


def test_a_jitted_loss_that_returns_no_number_is_refused_in_both_engines() -> None:
    @numba.njit
    def nothing(p: Any) -> None:
        p.sum()

    for engine in ENGINES:
        with pytest.raises(TypeError, match="loss returned None"):
            fastgc.check_gradients(nothing, double, array(2), engine=engine)


def test_a_jitted_loss_may_return_an_array_of_one_value() -> None:
    @numba.njit
    def boxed(p: Any) -> Any:
        return np.array([[np.sum(p**2)]])

    for engine in ENGINES:
        assert fastgc.check_gradients(boxed, double, array(2), engine=engine).passed


def test_a_value_that_turns_to_text_away_from_the_start_is_refused() -> None:
    start = array(2)

    def fickle(p: Array) -> Any:
        return square(p) if np.array_equal(p, start) else "far"

    with pytest.raises(TypeError, match="loss returned 'far'"):
        fastgc.check_gradients(fickle, double, start)


# --- exceptions of the loss ---


@numba.njit
def cliff(p: Any, height: float) -> float:
    """Is not defined beside the point: where the last entry was raised."""
    if p[-1] > height:
        raise ValueError("over the cliff")
    return np.sum(p * p)


EVERYWHERE = [
    (cliff, "python", 1),
    (cliff, "numba", 1),
    (cliff, "numba", 3),
    (cliff.py_func, "python", 1),
    (cliff.py_func, "numba", 2),
]


@pytest.mark.parametrize(("function", "engine", "threads"), EVERYWHERE)
def test_where_a_loss_raises_beside_the_point_it_is_not_defined(function: Any, engine: str, threads: int) -> None:
    params = array(40)
    before = params.tobytes()
    options: dict[str, Any] = {"args": (1.3,), "samples": "all", "engine": engine, "threads": threads}
    report = fastgc.check_gradients(function, lambda p, _: double(p), params, **options)
    assert report.passed, str(report)
    (note,) = report.notes
    assert re.fullmatch(
        r"the loss raised ValueError: over the cliff \([\d,]+ times, first at params\[39\] = 1\.\d+\): taken as not "
        "defined there",
        note,
    )
    wrong = fastgc.check_gradients(function, lambda p, _: 3 * p, params, **options)
    assert wrong.verdict == "fail" and params.tobytes() == before


def test_the_note_does_not_depend_on_the_number_of_threads() -> None:
    reports = [
        fastgc.check_gradients(
            cliff, lambda p, _: double(p), array(400), args=(1.3,), samples="all", engine="numba", threads=threads
        )
        for threads in (1, 2, 3)
    ]
    assert len({report.notes for report in reports}) == 1
    assert len(reports[0].notes) == 1


def test_the_same_loss_passes_where_it_does_not_raise() -> None:
    for engine in ENGINES:
        report = fastgc.check_gradients(cliff, lambda p, _: double(p), array(40), args=(9.0,), engine=engine)
        assert report.passed and not report.notes


class OutOfMemory(Exception):
    """A loss's own exception."""


class Unprintable(Exception):
    """Whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OutOfMemory("gone"), "OutOfMemory: gone"),
        (StopIteration(), "StopIteration"),
        (MemoryError(), "MemoryError"),
        (ValueError("bad\n  shape"), "ValueError: bad shape"),
        (KeyError("W"), "KeyError: 'W'"),
        (AssertionError("x" * 300), f"AssertionError: {'x' * 120} ... {'x' * 80}"),
        (NameError("name 'q' is not defined"), "NameError: name 'q' is not defined"),
        (Unprintable(), "Unprintable"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("in_place", [False, True])
def test_an_exception_at_one_displaced_point_is_noted(error: Exception, text: str, in_place: bool) -> None:
    params = {"a": array(3), "b": array(2)}
    before = [value.tobytes() for value in params.values()]
    calls = iter(range(1000))

    def failing(p: Any) -> float:
        if next(calls) == 24:
            raise error
        return loss(p)

    report = fastgc.check_gradients(failing, gradients, params, in_place=in_place)
    assert report.passed
    (note,) = report.notes
    assert note.startswith(f"the loss raised {text} (once, at ") and note.endswith("): taken as not defined there")
    assert [value.tobytes() for value in params.values()] == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_of_the_loss_ends_the_check(error: type[BaseException]) -> None:
    start = array(2)

    def stopped(p: Array) -> float:
        if not np.array_equal(p, start):
            raise error
        return square(p)

    with pytest.raises(error):
        fastgc.check_gradients(stopped, double, start)


def test_a_note_tells_the_first_exception_and_the_kinds_of_the_others() -> None:
    def picky(p: Array) -> float:
        if p[0] <= 0:
            raise ValueError("scale must be positive")
        if p[1] <= 0:
            raise OverflowError("too large")
        return float(np.sum(np.log(p)))

    start = np.array([0.01, 0.01, 1.0, 2.0, 3.0])
    report = fastgc.check_gradients(picky, lambda p: 2 / p, start, stencil="five_point", step=0.02)
    assert report.verdict == "fail"
    (note,) = (note for note in report.notes if "raised" in note)
    told = r"the loss raised ValueError: scale must be positive \(\d+ times, first at params\[0\] = -[\d.e-]+; also "
    assert re.fullmatch(told + r"OverflowError\): taken as not defined there", note)


ENTRY = r"params\[0\] = -[\d.e-]+"


@pytest.mark.parametrize("stencil", ["central", "forward", "backward", "five_point"])
@pytest.mark.parametrize("points", [1, 2, 4])
def test_a_scale_that_must_be_positive(stencil: str, points: int) -> None:
    def guarded(s: Array) -> float:
        if np.any(s <= 0):
            raise ValueError("scale must be positive")
        return float(np.sum(np.log(s)))

    start = np.array([0.05, 1, 2, 3])
    options: dict[str, Any] = {"stencil": stencil, "points": points}
    wrong = fastgc.check_gradients(guarded, lambda s: 2 / s, start, **options)
    assert wrong.verdict == "fail" and len(wrong.tensors["params"].wrong_entries) == 4 * points
    assert any(re.search(rf"ValueError: scale must be positive \(.*at {ENTRY}", note) for note in wrong.notes), wrong
    right = fastgc.check_gradients(guarded, lambda s: 1 / s, start, **options)
    assert right.passed, str(right)


@pytest.mark.parametrize("in_place", [False, True])
def test_an_exception_of_the_gradient_passes_through(in_place: bool) -> None:
    params = array(3)
    before = params.tobytes()

    def failing(p: Array) -> Array:
        raise OutOfMemory("in the gradient")

    with pytest.raises(OutOfMemory, match="in the gradient"):
        fastgc.check_gradients(square, failing, params, in_place=in_place)
    assert params.tobytes() == before


# --- the edge of the domain ---

OUTSIDE = [
    ZeroDivisionError("float division by zero"),
    OverflowError("math range error"),
    FloatingPointError("underflow"),
    ArithmeticError("undefined"),
    np.linalg.LinAlgError("Matrix is not positive definite"),
    ValueError("math domain error"),
    math.nan,
    math.inf,
    -math.inf,
]


@pytest.mark.parametrize("outside", OUTSIDE, ids=repr)
@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-5])
@pytest.mark.parametrize("side", [1, -1])
def test_one_side_outside_the_domain_is_no_obstacle(outside: Any, distance: float, side: int) -> None:
    def guarded(p: Array) -> float:
        if side * p[0] < -distance:
            if isinstance(outside, Exception):
                raise outside
            return float(outside)
        return float(3 * p[0] + p[0] ** 2 + np.sin(p[1]))

    def slope(p: Array) -> Array:
        return np.array([3 + 2 * p[0], np.cos(p[1])])

    start = np.array([0.0, 0.7])
    report = fastgc.check_gradients(guarded, slope, start)
    assert report.passed, str(report)
    assert fastgc.check_gradients(guarded, lambda p: slope(p) * [1.1, 1], start).verdict == "fail"


def lonely(outside: Any, start: Array) -> Callable[[Array], float]:
    """Defined at one point only."""

    def loss(p: Array) -> float:
        if np.array_equal(p, start):
            return 1.0
        if isinstance(outside, Exception):
            raise outside
        return float(outside)

    return loss


@pytest.mark.parametrize("outside", [math.nan, math.inf])
def test_a_loss_that_is_finite_at_one_point_only_is_undecided(outside: float) -> None:
    report = fastgc.check_gradients(lonely(outside, array(2)), double, array(2))
    assert report.verdict == "undecided"
    assert "not finite" in report.tensors["params"].reason


@pytest.mark.parametrize(
    "outside", [ZeroDivisionError("x"), np.linalg.LinAlgError("x"), ValueError("math domain error"), NameError("q")]
)
@pytest.mark.parametrize("options", [{}, {"stencil": "forward"}, {"samples": 0}, {"step": 1e-3}, {"in_place": True}])
def test_what_a_loss_raises_at_every_displaced_point_passes_through(
    outside: Exception, options: dict[str, Any]
) -> None:
    start = array(4)
    with pytest.raises(type(outside)) as caught:
        fastgc.check_gradients(lonely(outside, array(4)), double, start, **options)
    assert caught.value is outside
    assert start.tobytes() == array(4).tobytes()


@pytest.mark.parametrize("outside", [ZeroDivisionError("at the start"), np.linalg.LinAlgError("at the start")])
def test_a_loss_that_is_undefined_at_the_start_is_its_own_error(outside: Exception) -> None:
    def undefined(p: Array) -> float:
        raise outside

    with pytest.raises(type(outside), match="at the start"):
        fastgc.check_gradients(undefined, double, array(2))


@numba.njit
def edges(params: Any) -> float:
    """Division by zero, a logarithm, a square root and a Cholesky factor, each near the edge of its domain."""
    x = params["x"]
    if x[0] < 1.0:
        x[0] / 0.0
    total = 2.0 * x[0] + math.log(x[1]) * 1e-7 + math.sqrt(x[2]) ** 3
    matrix = np.array([[1.0, params["c"][()]], [params["c"][()], 1.0]])
    return total + np.sum(np.linalg.cholesky(matrix))


def edges_slopes(params: Any) -> dict[str, Any]:
    x, c = params["x"], float(params["c"])
    return {
        "x": np.array([2.0, 1e-7 / x[1], 1.5 * math.sqrt(x[2])]),
        "c": np.array(1 - c / math.sqrt(1 - c * c)),
    }


@pytest.mark.parametrize(
    ("function", "engine"),
    [(edges, "python"), (edges, "numba"), (edges.py_func, "python")],
    ids=["jitted", "compiled", "plain"],
)
def test_domain_errors_in_compiled_code_mean_the_same(function: Any, engine: str) -> None:
    params = {"x": np.array([1.0, 1e-7, 1e-6]), "c": np.array(1 - 1e-8)}
    report = fastgc.check_gradients(function, edges_slopes, params, engine=engine)
    assert report.passed, str(report)
    for name in "x", "c":
        report = fastgc.check_gradients(
            function, lambda p, name=name: edges_slopes(p) | {name: 1.01 * edges_slopes(p)[name]}, params, engine=engine
        )
        assert [each.name for each in report.tensors.values() if each.verdict == "fail"] == [name], str(report)


def test_a_warning_of_numpy_beside_the_point_is_no_warning_of_the_check() -> None:
    report = fastgc.check_gradients(lambda p: float(np.sum(np.log(p))), lambda p: 1 / p, np.array([1e-7, 1.0]))
    assert report.passed


# --- interrupts ---


def interrupted_at(call: int) -> Callable[[Any], float]:
    """A loss that is interrupted by Ctrl-C at its nth call, in the middle."""
    calls = iter(range(10**6))

    def lasting(p: Any) -> float:
        half = loss(p)
        if next(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return half

    return lasting


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_at_any_evaluation_restores_the_callers_arrays() -> None:
    params = {"a": array(2, 2).T, "t": np.array(0.3), "h": array(2).astype(np.float32)}
    before = [value.tobytes() for value in params.values()]
    total = fastgc.check_gradients(interrupted_at(-1), gradients, params, in_place=True).evaluations
    assert total > 20
    for call in range(total):
        with pytest.raises(KeyboardInterrupt):
            fastgc.check_gradients(interrupted_at(call), gradients, params, in_place=True)
        assert [value.tobytes() for value in params.values()] == before, call


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_at_another_point_restores_the_callers_arrays() -> None:
    params = {"a": array(3), "b": array(2)}
    before = [value.tobytes() for value in params.values()]
    total = fastgc.check_gradients(interrupted_at(-1), gradients, params, in_place=True, points=2).evaluations
    for call in range(total // 2, total, 3):
        with pytest.raises(KeyboardInterrupt):
            fastgc.check_gradients(interrupted_at(call), gradients, params, in_place=True, points=2)
        assert [value.tobytes() for value in params.values()] == before, call


@contextmanager
def interrupt_at_line(number: int) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt when the package is about to run its nth line; yields the count of lines seen."""
    seen = [0]

    def local(frame: Any, event: str, _: Any) -> Any:
        if event == "line":
            seen[0] += 1
            if seen[0] == number:
                raise KeyboardInterrupt
        return local

    def entered(frame: Any, event: str, _: Any) -> Any:
        name = frame.f_globals.get("__name__", "")
        return local if name in ("fastgc._evaluation.python", "fastgc._parameters.point") else None

    old = sys.gettrace()
    sys.settrace(entered)
    try:
        yield seen
    finally:
        sys.settrace(old)


@pytest.mark.parametrize("points", [1, 2])
def test_an_interrupt_at_any_line_of_the_evaluation_restores_the_callers_arrays(points: int) -> None:
    params = {"a": array(1), "t": np.array(0.3)}
    before = [value.tobytes() for value in params.values()]

    def lines(number: int) -> int:
        with interrupt_at_line(number) as seen:
            fastgc.check_gradients(
                lambda p: float(p["a"][0] * p["t"]),
                lambda p: {"a": np.array([p["t"]]), "t": np.array(p["a"][0])},
                params,
                in_place=True,
                points=points,
                crosscheck=False,
            )
        return seen[0]

    total = lines(-1)
    assert total > 200
    for number in (*range(points, 200, 2), *range(200, total, 13), *range(total - points, total - 100, -2)):
        with pytest.raises(KeyboardInterrupt):
            lines(number)
        assert [value.tobytes() for value in params.values()] == before, number


def test_an_interrupt_of_a_compiled_check_ends_its_threads() -> None:
    params = array(50)
    before = params.tobytes()
    running = threading.active_count()

    def failing(p: Any) -> Array:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastgc.check_gradients(cliff, lambda p, _: failing(p), params, args=(9.0,), engine="numba", threads=3)
    assert threading.active_count() == running
    assert params.tobytes() == before


# --- both engines alike ---


def numbers(report: fastgc.GradientReport) -> Any:
    return report.to_dict()["tensors"]


@pytest.mark.parametrize("wrong", [1.0, 1.5], ids=["right", "wrong"])
def test_the_same_jitted_loss_gives_the_same_bits_in_both_engines(wrong: float) -> None:
    def slopes(params: Any) -> Any:
        right = network_gradients(params)
        return right | {"layer1.weight": wrong * right["layer1.weight"]}

    reports = [
        fastgc.check_gradients(network_loss, slopes, NETWORK, samples="all", engine=engine, threads=threads)
        for engine, threads in (("python", None), ("numba", 1), ("numba", 2), ("numba", 3))
    ]
    assert all(numbers(report) == numbers(reports[0]) for report in reports)
    assert len({report.evaluations for report in reports}) == 1
    assert {report.engine for report in reports[1:]} == {"numba (1 thread)", "numba (2 threads)", "numba (3 threads)"}


def test_scalar_loops_give_the_same_bits_compiled_and_interpreted() -> None:
    generator = np.random.default_rng(0)
    record = fastgc.record(NETWORK)
    for _ in range(200):
        for leaf in leaves_of({k: record[k] for k in ("layer1.weight", "b [0]*?", "")}):
            leaf[...] = generator.normal(size=leaf.shape)
        assert network_loss(record) == network_loss.py_func(record)
    compiled = fastgc.check_gradients(network_loss, network_gradients, NETWORK, samples="all", engine="numba")
    plain = fastgc.check_gradients(network_loss.py_func, network_gradients, NETWORK, samples="all", engine="python")
    assert numbers(compiled) == numbers(plain)
    assert plain.engine == "python"


@numba.njit
def dense(params: Any, x: Any, y: Any) -> float:
    """Two layers with matrix products (BLAS) and NumPy's own tanh, exp and sums."""
    hidden = np.tanh(np.dot(x, params["W1"]) + params["b1"])
    out = np.dot(hidden, params["W2"]) + params["b2"]
    return np.mean((out - y) ** 2) + 0.01 * np.sum(np.exp(params["b1"]))


def dense_slopes(params: Any, x: Array, y: Array) -> dict[str, Array]:
    hidden = np.tanh(x @ params["W1"] + params["b1"])
    slope = 2 * (hidden @ params["W2"] + params["b2"] - y) / y.size
    below = (slope @ params["W2"].T) * (1 - hidden**2)
    bias = below.sum(axis=0) + 0.01 * np.exp(params["b1"])
    return {"W1": x.T @ below, "b1": bias, "W2": hidden.T @ slope, "b2": slope.sum(axis=0)}


def dense_problem() -> tuple[dict[str, NDArray[np.float64]], tuple[Array, Array]]:
    generator = np.random.default_rng(3)
    shapes = {"W1": (12, 9), "b1": (9,), "W2": (9, 4), "b2": (4,)}
    params = {name: generator.normal(size=shape) / 2 for name, shape in shapes.items()}
    return params, (generator.normal(size=(20, 12)), generator.normal(size=(20, 4)))


def test_other_losses_agree_to_1e_13_and_in_every_verdict() -> None:
    params, args = dense_problem()
    record = fastgc.record(params)
    generator = np.random.default_rng(4)
    for _ in range(50):
        for leaf in record.values():
            leaf[...] = generator.normal(size=leaf.shape)
        assert dense(record, *args) == pytest.approx(dense.py_func(record, *args), rel=1e-13, abs=0)

    def doubled(p: Any, *data: Any) -> dict[str, Array]:
        right = dense_slopes(p, *data)
        return right | {"W2": 2 * right["W2"]}

    for function, engine in ((dense, "numba"), (dense, "python"), (dense.py_func, "python")):
        report = fastgc.check_gradients(function, doubled, params, args=args, samples="all", engine=engine)
        verdicts = [tensor.verdict for tensor in report.tensors.values()]
        assert verdicts == ["pass", "pass", "fail", "pass"], str(report)


@pytest.mark.parametrize("function", [line_loss, line_loss.py_func], ids=["jitted", "plain"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_verdict_is_the_same_however_the_loss_is_run(function: Any, engine: str) -> None:
    right = line_plain(LINE, *DATA)
    assert fastgc.check_gradients(function, right, LINE, args=DATA, engine=engine).passed
    if function is line_loss or engine == "python":  # a plain loss is compiled anew by every check
        report = fastgc.check_gradients(function, right | {"w": 1.001 * right["w"]}, LINE, args=DATA, engine=engine)
        assert [tensor.verdict for tensor in report.tensors.values()] == ["fail", "pass"]


@pytest.mark.parametrize(("stencil", "factor"), [("central", 1.0), ("central", 1.001), ("forward", 1.001)])
def test_the_number_of_threads_changes_no_bit(stencil: str, factor: float) -> None:
    params, args = dense_problem()

    def slopes(p: Any, *data: Any) -> dict[str, Array]:
        right = dense_slopes(p, *data)
        return right | {"W1": factor * right["W1"]}

    first, *others = [
        fastgc.check_gradients(
            dense, slopes, params, args=args, samples="all", engine="numba", threads=threads, stencil=stencil
        )
        for threads in (1, 2, 3)
    ]
    assert first.verdict == ("pass" if factor == 1 else "fail")
    assert all(numbers(other) == numbers(first) for other in others)
    assert all(other.evaluations == first.evaluations for other in others)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_checks_in_two_threads_do_not_disturb_each_other(engine: str) -> None:
    params, args = dense_problem()
    others = {name: 2 * value for name, value in params.items()}
    barrier = threading.Barrier(2)

    def check(point: Any) -> Any:
        report = fastgc.check_gradients(dense, dense_slopes, point, args=args, samples="all", engine=engine, threads=2)
        assert report.passed
        return numbers(report)

    def together(point: Any) -> Any:
        barrier.wait()
        return [check(point) for _ in range(3)]

    alone = [[check(point)] * 3 for point in (params, others)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(together, (params, others))) == alone


# --- how often the loss is called ---


@pytest.mark.parametrize(
    "options", [{}, {"crosscheck": False}, {"stencil": "five_point"}, {"points": 2}, {"step": 1e-5}]
)
@pytest.mark.parametrize("factor", [1.0, 2.0], ids=["right", "wrong"])
def test_every_evaluation_is_counted(options: dict[str, Any], factor: float) -> None:
    calls = [0]

    def counting(p: Any) -> float:
        calls[0] += 1
        return loss(p)

    params = {"w": array(6), "b": array(3)}
    report = fastgc.check_gradients(
        counting, lambda p: {"w": factor * gradients(p)["w"], "b": gradients(p)["b"]}, params, **options
    )
    assert report.evaluations == calls[0]


def test_a_correct_smooth_model_costs_little_more_than_two_evaluations_per_entry() -> None:
    params, args = dense_problem()
    size = sum(value.size for value in params.values())
    report = fastgc.check_gradients(dense.py_func, dense_slopes, params, args=args, samples="all", crosscheck=False)
    assert report.passed
    assert report.evaluations <= 1.3 * 2 * size
