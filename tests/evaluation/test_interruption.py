"""Ctrl-C during a check: what was known is reported, everything is restored, and nothing is left at work."""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import pytest

import fastgc
from fastgc._evaluation.evaluator import Stopped
from fastgc._evaluation.interruption import Interruption, pieces

Tensors = dict[str, Any]
MATRIX = np.random.default_rng(0).normal(size=(12, 9))


def loss(p: Tensors) -> Any:
    return np.sum(np.sin(p["w"]) * p["w"]) + np.sum(p["b"] ** 3)


def gradients(p: Tensors) -> Tensors:
    return {"w": np.sin(p["w"]) + p["w"] * np.cos(p["w"]), "b": 3 * p["b"] ** 2}


@numba.njit
def compiled(p: Any) -> float:
    return np.sum(np.sin(p["w"]) * p["w"]) + np.sum(p["b"] ** 3)


@pytest.fixture
def params() -> Tensors:
    return {"w": np.linspace(0.5, 2, 40).reshape(8, 5), "b": np.linspace(1, 2, 20)}


class Interrupting:
    """A function that does something, such as raise KeyboardInterrupt, in its call number ``at``."""

    def __init__(self, function: Callable[..., Any], at: int, act: Callable[[], object]) -> None:
        self.function, self.at, self.act, self.calls = function, at, act, 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            self.act()
        return self.function(*arguments)


def interrupt() -> None:
    raise KeyboardInterrupt


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def found(check: Callable[[], Any]) -> Any:
    """The report of a check, interrupted or not."""
    try:
        return check()
    except fastgc.Interrupted as interrupted:
        return interrupted.report


def assert_untouched(before: Tensors, after: Tensors) -> None:
    for name, array in before.items():
        assert array.tobytes() == after[name].tobytes()


def copies(tensors: Tensors) -> Tensors:
    return {name: array.copy() for name, array in tensors.items()}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("act", [interrupt, ctrl_c])
@pytest.mark.parametrize("samples", ["all", 4])
@pytest.mark.usefixtures("interruptible")
def test_at_any_call_of_the_loss(params: Tensors, samples: Any, act: Callable[[], object], in_place: bool) -> None:
    before, at = copies(params), 0
    while True:
        at += 1 if at < 5 else 7
        interrupting = Interrupting(loss, at, act)
        try:
            fastgc.check_gradients(interrupting, gradients, params, samples=samples, in_place=in_place)
        except fastgc.Interrupted as error:
            report = error.report
            assert report.verdict in ("undecided", "pass")
            assert interrupting.calls == at, "the loss is not called again"
        else:
            break
        finally:
            assert_untouched(before, params)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        for tensor in report.tensors.values():
            assert tensor.verdict == "pass" or "not reached (interrupted)" in tensor.reason
            assert not tensor.wrong_entries
    assert interrupting.calls < at


def test_entries_measured_by_then_are_judged(params: Tensors) -> None:
    whole = fastgc.check_gradients(loss, gradients, params, samples="all", engine="python")
    interrupting = Interrupting(loss, 80, interrupt)
    report = found(lambda: fastgc.check_gradients(interrupting, gradients, params, samples="all", engine="python"))
    w, b = report.tensors["w"], report.tensors["b"]
    assert 0 < w.checked < 40 and b.checked == 0
    assert set(w.entries.columns["verdict"]) == {"pass"}
    known = whole.tensors["w"].entries.columns["numerical"][: w.checked]
    np.testing.assert_array_equal(w.entries.columns["numerical"], known)
    assert w.reason == f"not reached (interrupted): {40 - w.checked} of 40 entries"
    assert b.reason == "not reached (interrupted): 20 of 20 entries"
    assert "note: the check was interrupted; at this pace the whole check takes about " in str(report)
    assert "let it run to its end: with checkpoint=PATH a second call goes on" in str(report)


def test_wrong_entries_are_found_as_far_as_they_were_looked_at(params: Tensors) -> None:
    def wrong(p: Tensors) -> Tensors:
        return gradients(p) | {"w": 1.5 * gradients(p)["w"]}

    counted = Interrupting(loss, 0, interrupt)
    fastgc.check_gradients(counted, wrong, params, samples="all", engine="python")
    verdicts = []
    for at in range(60, counted.calls, 60):
        interrupting = Interrupting(loss, at, interrupt)
        report = found(lambda: fastgc.check_gradients(interrupting, wrong, params, samples="all", engine="python"))  # noqa: B023
        verdicts.append(report.verdict)
        w = report.tensors["w"]
        doubtful = w.entries.columns["verdict"] == "undecided"
        reasons = set(w.entries.columns["reason"][doubtful].tolist())
        assert reasons <= {"not reached (interrupted): a closer look"}
    assert verdicts[0] == "undecided" and verdicts[-1] == "fail"


def test_before_anything_is_known(params: Tensors) -> None:
    report = found(lambda: fastgc.check_gradients(Interrupting(loss, 1, interrupt), gradients, params))
    assert report.verdict == "undecided" and report.evaluations == 0
    assert {tensor.reason for tensor in report.tensors.values()} == {"not reached (interrupted)"}
    assert "UNDECIDED" in str(report) and report.to_json()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_in_the_gradient(params: Tensors, at: int) -> None:
    report = found(lambda: fastgc.check_gradients(loss, Interrupting(gradients, at, interrupt), params, points=3))
    assert report.verdict == "undecided"
    assert "not reached (interrupted)" in report.tensors["w"].reason


def test_points_that_were_not_begun(params: Tensors) -> None:
    report = found(lambda: fastgc.check_gradients(Interrupting(loss, 50, interrupt), gradients, params, points=4))
    assert report.verdict == "undecided"
    assert "not reached (interrupted): 3 of 4 points" in report.tensors["w"].reason


def test_the_text_of_the_exception_is_the_report(params: Tensors) -> None:
    with pytest.raises(
        fastgc.Interrupted, match=r"the check was interrupted; what is known so far:\nUNDECIDED"
    ) as error:
        fastgc.assert_gradients(Interrupting(loss, 50, interrupt), gradients, params)
    assert isinstance(error.value, KeyboardInterrupt) and str(error.value.report) in str(error.value)


@pytest.mark.usefixtures("interruptible")
def test_a_second_time_ends_at_once(params: Tensors) -> None:
    def twice() -> None:
        try:
            ctrl_c()
        finally:
            ctrl_c()

    before = copies(params)
    with pytest.raises(KeyboardInterrupt) as error:
        fastgc.check_gradients(Interrupting(loss, 50, twice), gradients, params, in_place=True)
    assert not isinstance(error.value, fastgc.Interrupted)
    assert_untouched(before, params)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_a_handler_of_the_program_stays(params: Tensors) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    assert fastgc.check_gradients(Interrupting(loss, 50, ctrl_c), gradients, params).passed
    assert seen == [signal.SIGINT]


def test_in_another_thread(params: Tensors) -> None:
    reports: list[Any] = []
    check = Interrupting(loss, 50, interrupt)
    thread = threading.Thread(
        target=lambda: reports.append(found(lambda: fastgc.check_gradients(check, gradients, params)))
    )
    thread.start()
    thread.join()
    assert reports[0].verdict == "undecided"


ENGINES: dict[str, dict[str, Any]] = {
    "plain": {"engine": "python"},
    "compiled": {"engine": "numba", "threads": 2},
    "workers": {"workers": 2},
    "vectorized": {"vectorized": True},
    "complex": {"engine": "python", "stencil": "complex_step"},
    "bounded": {"engine": "python", "bounds": {"w": (0.5, 2.0)}},
}


def rows(p: Tensors) -> Any:
    return np.sum(np.sin(p["w"]) * p["w"], axis=(1, 2)) + np.sum(p["b"] ** 3, axis=1)


@pytest.fixture
def moments() -> Iterator[Callable[[float], threading.Timer]]:
    """Starts timers that send Ctrl-C to the main thread."""
    timers: list[threading.Timer] = []

    def start(seconds: float) -> threading.Timer:
        timers.append(threading.Timer(seconds, _thread.interrupt_main))
        timers[-1].start()
        return timers[-1]

    yield start
    for timer in timers:
        timer.cancel()
        timer.join()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("interruptible")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a folder removed by its finalizer
def test_at_random_moments(engine: str, params: Tensors, moments: Callable[[float], threading.Timer]) -> None:
    function = {"compiled": compiled, "vectorized": rows}.get(engine, loss)
    before, rng = copies(params), np.random.default_rng(0)

    def check() -> Any:
        return fastgc.check_gradients(function, gradients, params, samples="all", crosscheck=False, **ENGINES[engine])

    assert check().passed
    threads = threading.active_count()
    for seconds in rng.uniform(0, 0.02, 17):
        with contextlib.suppress(KeyboardInterrupt):  # before the check or after it
            timer = moments(float(seconds))
            assert found(check).verdict in ("pass", "undecided")
            timer.join()
        timer.join()  # which an interruption of the first one has left
        assert_untouched(before, params)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for _ in range(600):
        if threading.active_count() == threads:
            break
        time.sleep(0.01)  # what was cut off takes a moment to end
    assert threading.active_count() == threads


@pytest.mark.parametrize("at", [1, 2, 20, 60, 90, 200])
def test_jacobians(at: int) -> None:
    x = np.linspace(0.1, 1, 9)

    def jacobian(x: Any) -> Any:
        return np.cos(MATRIX @ x)[:, None] * MATRIX

    f = Interrupting(lambda x: np.sin(MATRIX @ x), at, interrupt)
    report = found(lambda: fastgc.check_jacobian(f, jacobian, x))
    assert report.verdict == ("undecided" if f.calls >= at else "pass")
    assert ("not reached (interrupted)" in report.reason) == (f.calls >= at)
    assert ("the check was interrupted" in report.notes) == (f.calls >= at)
    assert f.calls <= at or f.calls < 200


def test_a_jacobian_keeps_the_columns_known_by_then() -> None:
    matrix = np.random.default_rng(1).normal(size=(7, 100))
    f = Interrupting(lambda x: np.sin(matrix @ x), 150, interrupt)
    report = found(lambda: fastgc.check_jacobian(f, lambda x: np.cos(matrix @ x)[:, None] * matrix, np.ones(100)))
    assert 0 < report.checked < 700 and set(report.entries.columns["verdict"]) == {"pass"}
    assert report.reason == f"not reached (interrupted): {700 - report.checked} of 700 entries"


@pytest.mark.parametrize("at", [1, 20, 30])
def test_hessians(at: int) -> None:
    gradient = Interrupting(lambda x: MATRIX.T @ np.cos(MATRIX @ x), at, interrupt)
    hessian = lambda x: -MATRIX.T @ (np.sin(MATRIX @ x)[:, None] * MATRIX)  # noqa: E731
    with pytest.raises(fastgc.Interrupted) as error:
        fastgc.assert_hessian(None, gradient, hessian, np.linspace(0.1, 1, 9))
    assert "not reached (interrupted)" in error.value.report.reason


def test_a_hessian_whose_gradient_was_not_checked() -> None:
    f = Interrupting(lambda x: float(np.sin(MATRIX @ x).sum()), 5, interrupt)
    hessian = lambda x: -MATRIX.T @ (np.sin(MATRIX @ x)[:, None] * MATRIX)  # noqa: E731
    report = found(lambda: fastgc.check_hessian(f, lambda x: MATRIX.T @ np.cos(MATRIX @ x), hessian, np.ones(9)))
    assert report.verdict == "undecided" and report.checked == 81
    assert report.reason == "not reached (interrupted): whether hessian is symmetric and gradient right"


# --- the parts ---


def test_pieces_grow_and_cover_everything() -> None:
    found = list(pieces(1000, 16, 300))
    assert [each.start for each in found[1:]] == [each.stop for each in found[:-1]]
    assert found[0] == slice(0, 16) and found[-1].stop == 1000
    assert max(each.stop - each.start for each in found) <= 300
    assert list(pieces(0, 16, 300)) == []


def test_nothing_is_called_after_an_interruption() -> None:
    interruption = Interruption()
    assert interruption.call(max, 1, 2) == 2
    with pytest.raises(Stopped):
        interruption.call(interrupt)
    assert interruption.requested
    with pytest.raises(Stopped):
        interruption.call(max, 1, 2)


@pytest.mark.parametrize("at", [1, 10, 40])
@pytest.mark.parametrize("door", ["torch", "jax"])
def test_frameworks(door: str, at: int) -> None:
    pytest.importorskip(door)
    if door == "torch":
        import torch

        torch.manual_seed(0)
        module, x = torch.nn.Linear(6, 30).double(), torch.randn(4, 6, dtype=torch.float64)
        before = {name: value.detach().numpy().copy() for name, value in module.named_parameters()}
        interrupting = Interrupting(lambda y: y.square().sum(), at, interrupt)
        report = found(lambda: fastgc.torch.check_module(module, x, loss=interrupting, samples="all"))
        assert_untouched(before, {name: value.detach().numpy() for name, value in module.named_parameters()})
    else:
        params = np.linspace(0.1, 1, 30)
        interrupting = Interrupting(lambda p: float(np.sum(np.sin(np.asarray(p)))), at, interrupt)  # is not traced
        report = found(
            lambda: fastgc.jax.check_gradients(interrupting, params, gradients=np.cos(params), samples="all")
        )
    assert report.verdict == "undecided"
    assert any("not reached (interrupted)" in tensor.reason for tensor in report.tensors.values())
