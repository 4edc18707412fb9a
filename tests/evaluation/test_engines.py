"""Real engines do the work: executors, maps, joblib's backends and dask; deaths, silences, and what is sent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib.externals.loky import ProcessPoolExecutor as LokyExecutor

import fastgc
from fastgc._evaluation import parcels, pieces, workers_option
from fastgc._words import Workers
from tests.support.layouts import Array, array

PARENT = os.getpid()
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _everything_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgc._evaluation.pieces._WORTHWHILE", 0.0)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Of a cluster of two workers."""
    distributed = pytest.importorskip("dask.distributed", reason="dask.distributed is not installed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def loss(p: dict[str, Array]) -> float:
    return float(np.sum(np.sin(p["a"]) * p["a"]) + np.sum(p["b"] ** 3))


def gradients(p: dict[str, Array]) -> dict[str, Array]:
    slopes = np.sin(p["a"]) + p["a"] * np.cos(p["a"])
    slopes[17] *= 1.01
    return {"a": slopes, "b": 3 * p["b"] ** 2}


def outputs(x: Array) -> Array:
    return np.cumsum(x) * np.sin(x)


PARAMS = {"a": np.linspace(0.5, 2.0, 40), "b": np.ones((2, 3))}
X = np.linspace(0.5, 2.0, 6)


def found(workers: Workers) -> list[Any]:
    """What the functions that take workers give."""
    options: dict[str, Any] = {"workers": workers, "samples": {"a": 4, "b": "all"}, "points": 2}
    matrix = fastgc.numerical_jacobian(outputs, X)
    report = fastgc.check_jacobian(outputs, lambda _: matrix, X, workers=workers)
    return [
        fastgc.check_gradients(loss, gradients, PARAMS, **options).to_dict()["tensors"],
        {key: value for key, value in report.to_dict().items() if key not in ("seconds", "engine")},
        fastgc.numerical_gradient(loss, PARAMS, workers=workers)["a"].tolist(),
        fastgc.numerical_jacobian(outputs, X, workers=workers).tolist(),
    ]


def same(workers: Workers) -> None:
    alone = found(1)
    assert found(workers) == alone
    assert [alone[0][name]["verdict"] for name in "ab"] == ["fail", "pass"]


EXECUTORS: list[Callable[[], Executor]] = [
    lambda: ThreadPoolExecutor(2),
    lambda: ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")),
    lambda: LokyExecutor(2),
]


@pytest.mark.parametrize("make", EXECUTORS, ids=["threads", "processes", "loky"])
def test_an_executor_gives_the_same_to_the_bit_and_stays_open(make: Callable[[], Executor]) -> None:
    with make() as executor:
        same(executor)
        assert executor.submit(abs, -1).result() == 1
        report = fastgc.check_gradients(loss, gradients, PARAMS, workers=executor.map)
        assert report.engine == f"python ({type(executor).__name__}, 2 workers)"


def test_a_map_gives_the_same_to_the_bit() -> None:
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        same(pool.map)
        same(pool.imap_unordered)
    same(map)


def goes_to(backend: str) -> None:
    """A check with a number of workers runs in this backend of joblib, with the same result."""
    with joblib.parallel_config(backend=backend):
        report = fastgc.check_gradients(loss, gradients, PARAMS, workers=2)
    engines = {"loky": "python (2 processes)", "sequential": "python"}
    assert report.engine == engines.get(backend, f"python (joblib {backend}, 2 workers)")
    alone = fastgc.check_gradients(loss, gradients, PARAMS)
    assert report.to_dict()["tensors"] == alone.to_dict()["tensors"]


@pytest.mark.parametrize("backend", ["threading", "loky", "sequential"])
def test_a_number_goes_to_the_backend_that_joblib_was_told(backend: str) -> None:
    goes_to(backend)


def test_a_number_goes_to_the_forks_of_joblib() -> None:
    """In a new process: each of the forks of this one, which holds PyTorch and JAX, would take 0.2 s."""
    code = "from tests.evaluation.test_engines import *; pieces._WORTHWHILE = 0.0; goes_to('multiprocessing')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_dask_gives_the_same_to_the_bit(client: Any) -> None:
    same(client.get_executor())
    with joblib.parallel_config(backend="dask"):
        report = fastgc.check_gradients(loss, gradients, PARAMS, workers=-1)
    assert report.engine == "python (dask, 2 workers)"


def deadly(folder: str, times: int) -> Callable[[Array], float]:
    """A loss that kills its worker where entry 15 is displaced, so many times."""

    def function(p: Array, parent: int = PARENT, start: float = float(array(30)[15])) -> float:
        if os.getpid() != parent and p[15] != start:
            for k in range(times):
                try:
                    os.close(os.open(f"{folder}/{k}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return float(np.sum(p**2))

    return function


def check_deadly(folder: Path, times: int, workers: Workers) -> Any:
    function = deadly(str(folder), times)
    return fastgc.check_gradients(function, lambda p: 2 * p, array(30), samples="all", probes=0, workers=workers)


@pytest.fixture
def _untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is not compared in the workers first."""
    monkeypatch.setattr("fastgc._evaluation.processes.WorkersEvaluator._trial", lambda *_: None)


@pytest.mark.usefixtures("_untried")
def test_a_killed_process_costs_its_pieces_and_not_the_run(tmp_path: Path) -> None:
    alone = check_deadly(tmp_path, 0, 1).to_dict()["tensors"]
    assert check_deadly(tmp_path, 1, 2).to_dict()["tensors"] == alone
    assert list(tmp_path.iterdir()) != []


@pytest.mark.usefixtures("_untried")
def test_the_third_death_is_an_error_that_names_the_entries(tmp_path: Path) -> None:
    message = r"workers=2: a worker process died three times while it evaluated the loss with .*params\[15\]"
    with pytest.raises(RuntimeError, match=message):
        check_deadly(tmp_path, 99, 2)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.usefixtures("_untried")
def test_where_an_executor_breaks_our_processes_do_the_rest(tmp_path: Path) -> None:
    alone = check_deadly(tmp_path, 0, 1).to_dict()["tensors"]
    with (
        ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as executor,
        pytest.warns(RuntimeWarning, match="a worker of ProcessPoolExecutor, 2 workers died, and it takes no more"),
    ):
        report = check_deadly(tmp_path, 1, executor)
    assert report.to_dict()["tensors"] == alone
    assert report.engine == "python (2 processes)"


@pytest.mark.usefixtures("_untried")
def test_a_killed_worker_of_dask_costs_its_piece(client: Any, tmp_path: Path) -> None:
    alone = check_deadly(tmp_path, 0, 1).to_dict()["tensors"]
    assert check_deadly(tmp_path, 1, client.get_executor()).to_dict()["tensors"] == alone
    assert list(tmp_path.iterdir()) != []


def bad_map(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [function(item) for item in items][1:]


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (ThreadPoolExecutor, "workers is the class ThreadPoolExecutor; pass an instance of it"),
        (joblib.Parallel(2), r"workers is a joblib.Parallel; pass a number, inside joblib.parallel_config\("),
        ("two", "workers is 'two'; it must be an integer, an executor or a function like map"),
        (bad_map, "workers=bad_map gives 1 results for 2 items; it must give one for each"),
        (lambda function, items: [1, 2], "gives 1; it must be like map: call the function once with each item"),
    ],
)
def test_what_is_no_engine_is_refused(workers: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(TypeError, match=message):
        fastgc.check_gradients(loss, gradients, PARAMS, workers=workers)


def test_a_pool_and_a_client_are_refused_with_the_remedy() -> None:
    class Client:
        def get_executor(self) -> None: ...

    with multiprocessing.get_context("forkserver").Pool(1) as pool, pytest.raises(TypeError, match="pass its map"):
        fastgc.numerical_gradient(loss, PARAMS, workers=pool)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"workers is a Client; pass its get_executor\(\)"):
        workers_option.refuse_workers(Client())


def test_a_hanging_call_is_told_and_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(pieces, "_PATIENCE_PIECES", 0)
    told = threading.Event()
    monkeypatch.setattr("warnings.warn", lambda text, *_, **__: (texts.append(text), told.set()))
    texts: list[str] = []
    monkeypatch.setattr(pieces, "HANGING", told, raising=False)

    def hanging(p: Array) -> float:
        from fastgc._evaluation import pieces

        if threading.current_thread() is not threading.main_thread():
            pieces.HANGING.wait(60)  # type: ignore[attr-defined]
        return float(np.sum(p**2))

    with ThreadPoolExecutor(2) as executor:
        for workers in (executor, ThreadMap(executor)):
            told.clear()
            assert fastgc.check_gradients(hanging, lambda p: 2 * p, array(9), workers=workers).passed
            assert "no result for 0 s, where a piece was to take about" in texts[-1]
            assert "pieces are left, the first with" in texts[-1]


class ThreadMap:
    """A map that is no method of an executor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self._executor.map(function, items))


def test_a_worker_that_cannot_see_the_files_receives_their_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    contents = parcels.contents

    def unseen(path: Path) -> Any:
        raise FileNotFoundError

    def noted(parcel: parcels.Parcel) -> bytes:
        sent.append(parcel.token)
        return contents(parcel)

    monkeypatch.setattr(parcels, "load", unseen)
    monkeypatch.setattr(pieces, "contents", noted)
    alone = fastgc.check_gradients(loss, gradients, PARAMS, samples="all", probes=0).to_dict()["tensors"]
    with ThreadPoolExecutor(2) as executor:
        report = fastgc.check_gradients(loss, gradients, PARAMS, samples="all", probes=0, workers=executor)
    assert report.to_dict()["tensors"] == alone
    assert len(set(sent)) == 1  # the one loss, again for every task at hand when the first of a worker was answered


def test_the_loss_is_opened_once_in_each_worker(tmp_path: Path) -> None:
    class Counted:
        def __call__(self, p: Array) -> float:
            return float(np.sum(p**2))

        def __setstate__(self, state: dict[str, Any]) -> None:
            (tmp_path / str(time.perf_counter_ns())).touch()

        def __getstate__(self) -> dict[str, Any]:
            return {"any": 1}

    with ThreadPoolExecutor(2) as executor:
        assert fastgc.check_gradients(Counted(), lambda p: 2 * p, array(200), samples="all", workers=executor).passed
    assert 1 <= len(list(tmp_path.iterdir())) <= 2
    assert not parcels._present  # threads of this process keep nothing


@pytest.mark.parametrize(
    ("workers", "seconds", "shortest", "longest"),
    [(2, 1e-4, 0.02, 0.1), (50, 1e-3, 1.0, 1.0), (1000, 1.0, 20.0, 20.0), (1000, 60.0, 60.0, 60.0)],
)
def test_pieces_are_so_long_that_the_engine_takes_a_twentieth(
    workers: int, seconds: float, shortest: float, longest: float
) -> None:
    length = pieces.piece_length(10**9, seconds, workers, np.inf, 0.1)
    assert shortest <= length * seconds * (1 + 1e-9) and length * seconds <= longest * (1 + 1e-9)
    assert pieces.piece_length(10 * workers, seconds, workers, np.inf, 0.1) <= 10
    assert pieces.piece_length(10**9, seconds, workers, 0.0, 0.1) == 1


@pytest.mark.parametrize("workers", [2, map])
def test_workers_of_numerical_gradients_have_their_conflicts(workers: Workers) -> None:
    name = workers_option.named(workers)
    with pytest.raises(ValueError, match=f"{name} works on copies of the parameters: it cannot go with in_place=True"):
        fastgc.numerical_gradient(np.sum, X, workers=workers, in_place=True)
    with pytest.raises(ValueError, match=f"{name} calls f from Python: it cannot go with engine=.numba., which"):
        fastgc.numerical_jacobian(outputs, X, workers=workers, engine="numba")
    with pytest.raises(ValueError, match=f"{name} cannot go with vectorized=True: a loss runs in processes"):
        fastgc.check_gradients(loss, gradients, PARAMS, workers=workers, vectorized=True)


class KilledWorker(Exception):
    """As dask raises it once workers have died at a task again and again."""


class Refusing(ThreadPoolExecutor):
    """An executor whose workers die."""

    def submit(self, *_: Any, **__: Any) -> Any:
        return super().submit(self.die)

    def die(self) -> None:
        raise KilledWorker("four times")


def test_where_the_engine_has_tried_again_the_error_names_the_entries_at_once() -> None:
    message = r"workers=Refusing: a worker process died while it evaluated the loss with .* KilledWorker: four times"
    with Refusing(2) as executor, pytest.raises(RuntimeError, match=message):
        fastgc.check_gradients(loss, gradients, PARAMS, workers=executor)


def test_a_time_budget_holds_wherever_the_loss_runs() -> None:
    def slow(p: Array) -> float:
        time.sleep(2e-3)
        return float(np.sum(p**2))

    with ThreadPoolExecutor(2) as executor:
        for workers in (executor, ThreadMap(executor)):
            report = fastgc.check_gradients(
                slow, lambda p: 2 * p, array(3000), samples="all", workers=workers, time_budget=0.3
            )
            assert report.verdict == "undecided" and report.evaluations < 2500
            assert not [thread for thread in threading.enumerate() if thread.name == "fastgc-watch"]
