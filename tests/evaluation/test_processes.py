"""Losses in processes: the same bits as in one, what is sent and shared, exceptions, interrupts, losses that differ."""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastgc
from fastgc._command.cli import main
from fastgc._evaluation import executors as _executors
from fastgc._evaluation import parcels as _parcels
from fastgc._evaluation import pieces as _pieces
from fastgc._evaluation import processes as _workers
from fastgc._evaluation.evaluator import silent
from fastgc._evaluation.python import PythonEvaluator
from fastgc._parameters.layout import flatten_parameters
from tests.support.imports import make_missing
from tests.support.layouts import Array, array

PARENT = os.getpid()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def shared_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send everything to the workers, however cheap, and leave nothing behind."""
    monkeypatch.setattr("fastgc._evaluation.pieces._WORTHWHILE", 0.0)
    yield
    assert list(folder.glob("fastgc-*")) == []


def double(p: Array) -> Array:
    return 2 * p


def square(p: Array) -> float:
    return float(np.sum(p**2))


def elsewhere() -> bool:
    return os.getpid() != PARENT


def sent(error: BaseException | Callable[[], BaseException]) -> Callable[[Array], float]:
    """A loss that raises in the workers only, once an entry in the middle is displaced."""
    start = array(30)[15]

    def loss(p: Array, parent: int = PARENT) -> float:
        if os.getpid() != parent and abs(p[15] - start) < 1e-4 and p[15] != start:
            raise error if isinstance(error, BaseException) else error()
        return float(np.sum(p**2))

    return loss


class Net(NamedTuple):
    w: Any
    b: Any
    rest: Any


def net(p: Net, x: Array, power: Callable[[Any], Any]) -> Any:
    hidden = np.tanh(x @ p.w + p.b)
    return np.sum(power(hidden)) + p.rest["scale"] ** 2 + np.sum(p.rest["none"])


def net_gradients(p: Net, x: Array, power: Callable[[Any], Any]) -> Net:
    hidden = np.tanh(x @ p.w + p.b)
    d = 2 * hidden * (1 - hidden**2)
    return Net(x.T @ d, d.sum(axis=0), {"scale": 2 * p.rest["scale"], "none": np.zeros((0, 2))})


def net_params(kind: str = "f8") -> Net:
    w = np.asfortranarray(np.random.default_rng(1).normal(size=(4, 3)))
    return Net(w.astype(kind), np.ones(3, kind), {"scale": np.array(1.5, kind), "none": np.zeros((0, 2), kind)})


# --- the same as in one process ---

OPTIONS: list[dict[str, Any]] = [
    {"samples": "all"},
    {"samples": 2, "probes": 2, "points": 2},
    {"stencil": "complex_step"},
    {"precision": "native", "kind": "f4"},
]


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_processes_give_the_bits_that_one_gives(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[int] = []
    monkeypatch.setattr("fastgc._progress.Progress.advance", lambda self, entries: ticks.append(entries))
    given = {key: value for key, value in options.items() if key != "kind"}
    args = (np.random.default_rng(0).normal(size=(6, 4)), lambda value: value**2)  # a lambda is sent by value

    def check(workers: int) -> Any:
        ticks.clear()
        report = fastgc.check_gradients(
            net, net_gradients, net_params(options.get("kind", "f8")), args=args, workers=workers, **given
        )
        assert report.engine == ("python" if workers == 1 else f"python ({workers} processes)")
        assert report.verdict == "pass"
        return report.to_dict()["tensors"], sum(ticks)

    assert check(2) == check(1)


@pytest.mark.usefixtures("shared_out")
def test_a_wrong_entry_is_found_by_probes_and_bisection_in_processes() -> None:
    def wrong(p: Array) -> Array:
        slopes = 2 * p
        slopes[77] += 1
        return slopes

    reports = [fastgc.check_gradients(square, wrong, array(200), workers=k, samples=4) for k in (1, 2)]
    assert [entry.index for entry in reports[1].tensors["params"].wrong_entries] == [(77,)]
    assert reports[0].to_dict()["tensors"] == reports[1].to_dict()["tensors"]
    assert reports[1].evaluations - reports[0].evaluations == 2  # for the workers to compare theirs with


@pytest.mark.usefixtures("shared_out")
def test_a_loss_with_gradients_and_a_noisy_loss_may_run_in_processes() -> None:
    assert fastgc.check_gradients(lambda p: (square(p), 2 * p), True, array(20), workers=2).passed

    def noisy(p: Array) -> float:
        return float(np.sum(p**2) + 1e-9 * np.random.default_rng().normal())

    report = fastgc.check_gradients(noisy, double, array(20), workers=2)
    assert report.verdict != "fail" and any("noisy" in note for note in report.notes)


@pytest.mark.usefixtures("shared_out")
def test_a_check_in_processes_ends_when_its_time_is_over() -> None:
    def slow(p: Array) -> float:
        time.sleep(2e-3)
        return float(np.sum(p**2))

    assert fastgc.check_gradients(slow, double, array(20), workers=2).passed  # the processes have started
    report = fastgc.check_gradients(slow, double, array(3000), samples="all", workers=2, time_budget=1.0)
    assert report.engine == "python (2 processes)" and report.evaluations < 2500
    assert report.verdict == "undecided" and "not reached" in str(report.tensors["params"].reason)
    hopeless = fastgc.check_gradients(slow, double, array(30), workers=2, time_budget=1e-6)
    assert hopeless.verdict == "undecided" and hopeless.evaluations < 10


def test_what_is_too_little_runs_in_this_process() -> None:
    assert fastgc.check_gradients(square, double, array(3), workers=2).engine == "python"


def test_a_scratch_buffer_keeps_the_loss_in_one_process() -> None:
    def scratching(p: Array, work: Array) -> float:
        work[...] = p**2
        return float(work.sum())

    report = fastgc.check_gradients(scratching, lambda p, _: 2 * p, array(9), args=(np.zeros(9),), workers=2)
    assert report.passed and report.engine == "python" and any("scratch" in note for note in report.notes)


def test_processes_are_as_many_as_memory_holds_copies_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgc._evaluation.memory_left.available", lambda: 100.0)
    monkeypatch.setattr("fastgc._evaluation.engine._NEGLIGIBLE_BYTES", 0)
    report = fastgc.check_gradients(square, double, array(9), workers=3)
    assert report.passed and report.engine == "python"
    assert report.notes[0] == "1 of 3 processes: each needs a copy of the parameters of 0 MiB"


def test_all_cores_are_as_many_processes() -> None:
    assert _executors.process_count(-1) >= 1
    assert _executors.process_count(3) == 3


# --- exceptions, deaths, interrupts ---


class OwnError(Exception):
    """A loss's own exception."""


class OddError(Exception):
    """One that cannot be pickled."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.lock = threading.Lock()


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("make", [lambda: OwnError("gone"), lambda: OddError("disk", "full")], ids=["own", "odd"])
def test_where_a_loss_raises_in_a_worker_it_is_not_defined(make: Callable[[], Exception]) -> None:
    params, error = array(30), make()
    report = fastgc.check_gradients(sent(make), double, params, samples="all", workers=2)
    (note,) = (note for note in report.notes if "raised" in note)
    assert note.startswith(f"the loss raised {type(error).__name__}: {error} (")
    assert "at params[15] = " in note
    assert report.tensors["params"].entries[15].verdict != "fail"
    assert params.tobytes() == array(30).tobytes()


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: OwnError("gone"), OwnError, "^gone"),
        (
            lambda: OddError("disk", "full"),
            RuntimeError,
            "^loss raised OddError: disk: full; this exception cannot be pickled",
        ),
    ],
)
def test_what_a_loss_raises_everywhere_in_workers_passes_through(
    make: Callable[[], Exception], kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_workers.WorkersEvaluator, "_trial", lambda *_: None)
    monkeypatch.setattr("fastgc._evaluation.pieces.SharedWork.worthwhile", lambda *_: True)
    start = array(30)

    def lonely(p: Array, parent: int = PARENT) -> float:
        if os.getpid() != parent and not np.array_equal(p, start):
            raise make()
        return float(np.sum(p**2))

    with pytest.raises(kind, match=message) as caught:
        fastgc.check_gradients(lonely, double, start, samples="all", workers=2)
    assert type(caught.value) is kind
    assert "in a worker process" in caught.value.__notes__[0]
    assert "in lonely" in caught.value.__notes__[0]
    assert start.tobytes() == array(30).tobytes()


@pytest.mark.usefixtures("shared_out")
def test_a_value_that_turns_to_text_in_a_worker_is_refused() -> None:
    start = array(30)

    def fickle(p: Array, parent: int = PARENT) -> Any:
        return "far" if os.getpid() != parent and p[15] != start[15] and p[14] == start[14] else float(np.sum(p**2))

    with pytest.raises(TypeError, match="loss returned 'far'"):
        fastgc.check_gradients(fickle, double, start, samples="all", workers=2)


@pytest.mark.usefixtures("shared_out")
def test_values_outside_the_domain_are_no_exceptions_in_processes_either() -> None:
    def edge(p: Array) -> float:
        if p[0] < 0.5:
            raise ZeroDivisionError
        return float(np.sum(p**2))

    start = np.linspace(0.5, 1, 20)
    reports = [fastgc.check_gradients(edge, double, start, samples="all", workers=k) for k in (1, 2)]
    assert reports[1].passed and reports[0].to_dict()["tensors"] == reports[1].to_dict()["tensors"]
    assert reports[0].notes == reports[1].notes and "the loss raised ZeroDivisionError (" in reports[0].notes[0]


def test_an_exception_that_cannot_be_sent_keeps_its_text() -> None:
    again = pickle.loads(_parcels.portable(OddError("disk", "full")))
    assert type(again) is RuntimeError
    assert str(again) == "loss raised OddError: disk: full; this exception cannot be pickled"
    with_lock = OwnError(threading.Lock())
    assert "loss raised OwnError: <unlocked" in str(pickle.loads(_parcels.portable(with_lock)))


@pytest.mark.usefixtures("shared_out")
def test_a_worker_that_dies_is_an_error_that_says_so() -> None:
    def deadly(p: Array, parent: int = PARENT) -> float:
        if os.getpid() != parent:
            os._exit(7)
        return float(np.sum(p**2))

    message = r"workers=2: a worker process died three times while it evaluated the loss with .*params.*workers=1"
    with pytest.raises(RuntimeError, match=message):
        fastgc.check_gradients(deadly, double, array(9), workers=2)


INTERRUPTED = """
import os, signal, time
import numpy as np
import fastgc

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which processes ignore that nohup has started
parent = os.getpid()

def loss(p):
    time.sleep(0.02)
    if os.getpid() != parent:
        os.write(1, b"in a worker\\n")  # whole, whoever else writes
    return float(p @ p)

fastgc.check_gradients(loss, lambda p: 2 * p, np.ones(2000), samples="all", probes=0, workers=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_killed_process_leaves_neither_a_folder_nor_a_worker(tmp_path: Path) -> None:
    """Three processes at once: each takes seconds to end."""
    numbers = [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP]
    folders = [tmp_path / number.name for number in numbers]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(checking_in(folder)) for folder in folders]
        for process, folder, number in zip(processes, folders, numbers, strict=True):
            wait_for_workers(process)
            assert list(folder.glob("fastgc-*")) != []
            process.send_signal(number)
        for process in processes:
            process.stdout.read()  # type: ignore[union-attr] # ends when the last that could write has ended
    assert [process.returncode for process in processes] == [-number for number in numbers]
    assert [[*folder.glob("fastgc-*")] for folder in folders] == [[]] * 3


def checking_in(folder: Path) -> subprocess.Popen[str]:
    """A process whose check in workers keeps its files in a folder."""
    folder.mkdir()
    environment = os.environ | {"TMPDIR": str(folder)}
    return subprocess.Popen([sys.executable, "-c", INTERRUPTED], env=environment, stdout=PIPE, text=True)


def wait_for_workers(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(5)] == ["in a worker\n"] * 5


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_neither_a_folder_nor_a_worker(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, env=environment, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        for _ in range(5):
            assert process.stdout.readline() == "in a worker\n"
        assert list(tmp_path.glob("fastgc-*")) != []
        process.send_signal(signal.SIGINT)
        process.stdout.read()  # ends when the last process that could write has ended
        assert "fastgc.Interrupted: the check was interrupted" in process.stderr.read()
    assert process.returncode in (-signal.SIGINT, 130, 1)  # Python exits with 1 for a subclass of KeyboardInterrupt
    assert list(tmp_path.glob("fastgc-*")) == []


# --- what is sent ---


@pytest.mark.parametrize("where", ["loss", "args"])
def test_what_cannot_be_pickled_is_refused_with_the_remedy(where: str, folder: Path) -> None:
    lock = threading.Lock()

    def locked(p: Array, *_: Any) -> float:
        return float(np.sum(p**2)) if where == "args" or not lock.locked() else 0.0

    args = (lock,) if where == "args" else ()
    with pytest.raises(TypeError, match=r"workers=2, but loss or args cannot be pickled .*lock.*or use workers=1"):
        fastgc.check_gradients(locked, lambda p, *_: 2 * p, array(3), args=args, workers=2)
    assert list(folder.iterdir()) == []


def test_a_full_temporary_folder_is_refused_with_the_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_parcels, "save", full)
    with pytest.raises(OSError, match=rf"workers: {folder}.* does not take .*{os.strerror(errno.ENOSPC)}.*TMPDIR"):
        fastgc.check_gradients(lambda p: float(p @ p), lambda p: 2 * p, array(3), workers=2)
    assert list(folder.iterdir()) == []


SAVED: dict[str, Any] = {
    "C order": np.arange(12.0).reshape(3, 4),
    "Fortran order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "0-d": np.array(3.5),
    "empty": np.zeros((0, 2)),
    "strided": np.arange(12.0)[::3],
    "float32": np.ones(5, np.float32),
    "complex": np.ones(5, np.complex128),
    "objects": np.array([None, "text"], object),
}


def test_arrays_are_mapped_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "0"
    captured = np.arange(1000.0)
    _parcels.save(path, (SAVED, lambda: captured))
    arrays, function = _parcels.load(path)
    for name, value in SAVED.items():
        assert arrays[name].dtype == value.dtype and arrays[name].shape == value.shape
        assert np.array_equal(arrays[name], value)
        assert type(arrays[name]) is np.ndarray
        assert name in ("objects", "strided") or arrays[name].ctypes.data % 64 == 0  # the two are not mapped
    assert arrays["Fortran order"].flags.f_contiguous
    assert path.stat().st_size < captured.nbytes < path.with_suffix(".arrays").stat().st_size
    base = function()
    while not isinstance(base, np.memmap):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    assert base.filename == path.with_suffix(".arrays")


def test_what_one_worker_writes_no_other_sees(tmp_path: Path) -> None:
    _parcels.save(tmp_path / "0", np.zeros(4))
    one, other = _parcels.load(tmp_path / "0"), _parcels.load(tmp_path / "0")
    one[:] = 5.0
    assert not other.any() and not _parcels.load(tmp_path / "0").any()


def test_nothing_but_names_can_be_saved_too(tmp_path: Path) -> None:
    _parcels.save(tmp_path / "0", ("no", "array"))
    assert _parcels.load(tmp_path / "0") == ("no", "array")


def test_folders_of_modules_are_sent_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    _parcels.save(tmp_path / "0", None)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(tmp_path)])
    _parcels.load(tmp_path / "0")
    assert sys.path[-1] == str(tmp_path)


def evaluator_for(loss: Any, params: Any, **options: Any) -> _workers.WorkersEvaluator:
    layout, leaves = flatten_parameters(params)
    direct = PythonEvaluator(loss, params, (), layout, leaves, leaves)
    settings = {"workers": 2, "seconds": 1.0, "reproducible": True}
    return _workers.WorkersEvaluator(direct, _workers.SentLoss(loss, (), layout, leaves), **(settings | options))


def task(evaluator: Any, method: str, *arguments: Any) -> Any:
    """What a worker would do, done here."""
    result = _pieces._run(0, {}, evaluator._work.parcel, method, *arguments)
    return _pieces._received(result)[1][0]


@pytest.fixture
def no_worker_here() -> Iterator[None]:
    yield
    _parcels._present.clear()


@pytest.mark.usefixtures("folder", "no_worker_here")
def test_a_worker_keeps_one_copy_of_the_parameters_and_restores_it() -> None:
    seen: list[int] = []

    def watching(p: Array) -> float:
        seen.append(p.ctypes.data)
        return float(np.sum(p**2))

    evaluators = [evaluator_for(watching, array(5)) for _ in range(2)]
    for evaluator in evaluators:
        expected = [[square(np.array([9.0, *array(5)[1:]]))]]
        for _ in range(2):
            assert task(evaluator, "values", np.array([0]), np.array([[9.0]]), silent) == expected
            assert task(evaluator, "along", np.array([0]), array(5)[None, :1]) == [square(array(5))]
        ((kept,),) = [list(each.values()) for each in _parcels._present.values()]  # that of the check before is gone
        assert kept[0] == evaluator._work.parcel.token
        evaluator.close()


# --- losses that differ from process to process ---


@pytest.mark.usefixtures("shared_out")
def test_a_loss_that_gives_other_values_in_a_worker_is_refused() -> None:
    def differing(p: Array, parent: int = PARENT) -> float:
        return float(np.sum(p**2)) * (1.0 if os.getpid() == parent else 1.5)

    message = r"loss gives [\d.]+ in a worker process where it gives [\d.]+ in this one: .* through args"
    with pytest.raises(ValueError, match=message):
        fastgc.check_gradients(differing, lambda p: 3 * p, array(9), workers=2)


@pytest.mark.usefixtures("folder", "no_worker_here")
@pytest.mark.parametrize(("at_point", "beside"), [(1.0, 1.0), (1.0, 2.0)])
def test_a_loss_is_compared_beside_the_point_too(at_point: float, beside: float) -> None:
    factors = {"at": at_point, "beside": 1.0}

    def loss(p: Array) -> float:  # a change of "beside" does not show at its minimum, where the check is
        return factors["at"] + factors["beside"] * float(np.sum((p - 1) ** 2))

    evaluator = evaluator_for(loss, np.ones(5))
    factors["beside"] = beside
    sent = _parcels.load(evaluator._work.parcel.path)
    evaluator._work.parcel = evaluator._work.folder.parcel("check", replace(sent, loss=loss))
    if beside == 1.0:
        assert task(evaluator, "along", np.array([0]), np.array([[1.0]])) == [1.0]
    else:
        with pytest.raises(ValueError, match="in a worker process where it gives"):
            task(evaluator, "along", np.array([0]), np.array([[1.0]]))
    evaluator.close()


@pytest.mark.usefixtures("folder", "no_worker_here")
def test_a_loss_undefined_beside_the_point_can_be_compared() -> None:
    def lonely(p: Array) -> float:
        if (p != 1).any():
            raise ZeroDivisionError
        return 1.0

    evaluator = evaluator_for(lonely, np.ones(3))
    assert task(evaluator, "along", np.array([0]), np.array([[1.0]])) == [1.0]
    evaluator.close()


@pytest.mark.usefixtures("folder", "no_worker_here")
def test_a_loss_that_changes_its_parameters_in_a_worker_is_refused() -> None:
    harm = {"done": False}

    def harmful(p: Any) -> float:
        if harm["done"]:
            p["b"][1] = 7.0
        return float(np.sum(p["a"] ** 2))

    evaluator = evaluator_for(harmful, {"a": np.ones(3), "b": np.ones(2)})
    opened = _parcels.opened(evaluator._work.parcel, {}, _workers.SentLoss.opened)
    opened.evaluator._loss.__closure__[0].cell_contents["done"] = True
    with pytest.raises(ValueError, match=r"loss changed params 'b' in a worker process; .* copy them first"):
        task(evaluator, "values", np.array([0]), np.array([[2.0]]), silent)
    evaluator.close()


@pytest.mark.parametrize("engine", ["auto", "python"])
def test_a_jitted_loss_is_refused(engine: str) -> None:
    jitted = pytest.importorskip("numba").njit(lambda p: p.sum())
    with pytest.raises(
        ValueError, match="workers=2 is for a plain Python loss; this one is compiled by Numba: use thr"
    ):
        fastgc.check_gradients(jitted, double, array(3), workers=2, engine=engine)


# --- modules ---

BY_PATH = """
import numpy as np

SHIFT = 0.5

def shifted(p):
    return p - SHIFT

def loss(p):
    return float(np.sum(shifted(p) ** 2))

problem = (loss, lambda p: 2 * shifted(p), np.linspace(1, 2, 9))
"""


@pytest.mark.usefixtures("shared_out")
def test_a_file_run_by_its_path_is_sent_by_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "by path.py").write_text(BY_PATH)
    out = tmp_path / "report.json"
    assert main(["check", f"{tmp_path / 'by path.py'}:problem", "--workers", "2", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["engine"] == "python (2 processes)"


def test_only_modules_that_cannot_be_imported_are_sent_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("_made_by_hand")
    exec("def loss(p):\n    return 0.0", module.__dict__)
    monkeypatch.setitem(sys.modules, "_made_by_hand", module)
    assert _parcels.home(module.loss) is module
    for other in (square, np.sum, len, collections.OrderedDict(), lambda p: 0.0):
        assert _parcels.home(other) is None
    with _parcels.by_value(module):
        assert b"_made_by_hand" in _parcels.cloudpickle.list_registry_pickle_by_value().__repr__().encode()
        with _parcels.by_value(module):  # registered already: left so
            pass
        assert "_made_by_hand" in _parcels.cloudpickle.list_registry_pickle_by_value()
    assert "_made_by_hand" not in _parcels.cloudpickle.list_registry_pickle_by_value()


def test_without_joblib_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    make_missing(monkeypatch, "joblib")
    monkeypatch.delitem(sys.modules, "fastgc._evaluation.executors")
    monkeypatch.delattr("fastgc._evaluation.executors")
    with pytest.raises(ImportError, match=r'workers needs joblib and cloudpickle: python -m pip install "joblib>='):
        fastgc.check_gradients(square, double, array(3), workers=2)
