"""Engines of clusters that are not installed everywhere: ray, and MPI. The results are those of one process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import fastgc
from fastgc._words import Workers
from tests.support.layouts import Array

PARENT = os.getpid()
PARAMS = np.linspace(1.0, 2.0, 30)
MATRIX = np.linspace(-1.0, 1.0, 90).reshape(3, 30)


@pytest.fixture(autouse=True)
def _everything_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgc._evaluation.pieces._WORTHWHILE", 0.0)


def loss(p: Array) -> float:
    return float(np.sum(np.sin(p) * p))


def gradient(p: Array) -> Any:
    return (np.sin(p) + p * np.cos(p)) * np.where(np.arange(p.size) == 7, 1.01, 1)


def outputs(x: Array) -> Any:
    return np.sin(MATRIX @ x)


def found(workers: Workers) -> list[Any]:
    """What the functions that take workers give, without seconds and engines."""
    report = fastgc.check_jacobian(
        outputs, lambda x: np.cos(MATRIX @ x)[:, None] * MATRIX, PARAMS, workers=workers
    ).to_dict()
    return [
        fastgc.check_gradients(loss, gradient, PARAMS, samples="all", workers=workers).to_dict()["tensors"],
        {key: value for key, value in report.items() if key not in ("seconds", "engine")},
        fastgc.numerical_gradient(loss, PARAMS, workers=workers).tolist(),
    ]


# --- ray ---


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray with two workers on this machine."""
    engine = pytest.importorskip("ray", reason="ray is not installed")
    from ray.util.joblib import register_ray  # type: ignore[import-not-found,unused-ignore]

    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    folder = str(Path(fastgc.__file__).parents[1])
    paths = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    engine.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}}
    )
    register_ray()
    yield engine
    engine.shutdown()


@contextlib.contextmanager
def ray_by_joblib() -> Iterator[Workers]:
    with joblib.parallel_config(backend="ray"):
        yield 2


@contextlib.contextmanager
def ray_by_map() -> Iterator[Workers]:
    from ray.util.multiprocessing import Pool  # type: ignore[import-not-found,unused-ignore]

    with Pool(2) as pool:
        yield pool.map


WAYS = [ray_by_joblib, ray_by_map]


@pytest.mark.filterwarnings("ignore")  # ray's own
@pytest.mark.parametrize("way", WAYS)
def test_ray_gives_the_same_to_the_bit(way: Callable[..., Any], ray: Any) -> None:
    alone = found(1)
    with way() as workers:
        assert found(workers) == alone
        engine = fastgc.check_gradients(loss, gradient, PARAMS, workers=workers).engine
    assert engine == ("python (joblib ray, 2 workers)" if way is ray_by_joblib else "python (Pool.map)")


def deadly(file: str) -> Callable[[Array], float]:
    """A loss that kills its worker once, where entry 15 is displaced."""

    def function(p: Array, parent: int = PARENT, start: float = float(PARAMS[15])) -> float:
        if os.getpid() != parent and p[15] != start:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(file, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
        return float(np.sum(p**2))

    return function


@pytest.mark.filterwarnings("ignore")  # ray's own, and ours of a pool that takes no more work
@pytest.mark.parametrize("way", WAYS)
def test_a_killed_worker_of_ray_costs_its_piece(
    way: Callable[..., Any], ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgc._evaluation.processes.WorkersEvaluator._trial", lambda *_: None)
    with way() as workers:
        report = fastgc.check_gradients(
            deadly(str(tmp_path / "died")), lambda p: 2 * p, PARAMS, samples="all", probes=0, workers=workers
        )
    assert report.passed and (tmp_path / "died").exists()


# --- an actor that died, as ray's maps tell of it ---


class ActorDiedError(Exception):
    """As ray raises it where the worker of a pool is gone."""


class DyingMap:
    """A map whose worker dies in the first call that displaces something."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, function: Callable[[Any], Any], items: Any) -> list[Any]:
        self.calls += 1
        if self.calls == 2:
            raise ActorDiedError("gone")
        return [function(each) for each in items]


def test_where_the_workers_of_a_map_die_our_processes_do_the_rest() -> None:
    dying = DyingMap()
    with pytest.warns(RuntimeWarning, match="a worker of DyingMap died, and it takes no more work: the rest is done"):
        report = fastgc.check_gradients(loss, gradient, PARAMS, samples="all", workers=dying)
    alone = fastgc.check_gradients(loss, gradient, PARAMS, samples="all")
    assert report.to_dict()["tensors"] == alone.to_dict()["tensors"]
    assert dying.calls == 2 and "processes" in report.engine


# --- MPI ---

SCRIPT = """
    import sys
    import numpy as np
    from mpi4py.futures import MPIPoolExecutor
    import fastgc

    def loss(p):
        return float(np.sum(np.sin(p) * p))

    def gradient(p):
        return (np.sin(p) + p * np.cos(p)) * np.where(np.arange(p.size) == 7, 1.01, 1)

    if __name__ == "__main__":
        import fastgc._evaluation.pieces as pieces
        pieces._WORTHWHILE = 0.0
        p = np.linspace(1.0, 2.0, 30)
        alone = fastgc.check_gradients(loss, gradient, p, samples="all").to_dict()["tensors"]
        with MPIPoolExecutor() as executor:
            for workers in (executor, executor.map):
                report = fastgc.check_gradients(loss, gradient, p, samples="all", workers=workers)
                print(report.engine, report.to_dict()["tensors"] == alone)
"""


def test_mpi_gives_the_same_to_the_bit(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py.futures", reason="mpi4py is not installed")
    mpiexec = shutil.which("mpiexec") or shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    if mpiexec is None:
        pytest.skip("mpiexec is not installed")
    script = tmp_path / "by_mpi.py"
    script.write_text(textwrap.dedent(SCRIPT))
    leave = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    leave["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"  # for Open MPI on machines with few cores
    command = [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | leave, timeout=300)
    assert done.stdout.splitlines() == ["python (MPIPoolExecutor, 2 workers) True"] * 2, done.stderr
