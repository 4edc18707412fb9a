"""Checkpoints of Jacobians and Hessians: the same call goes on to the same report, whatever ended the first one."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import scipy.sparse

import fastgc
from fastgc._evaluation.checkpoint import Checkpoint
from tests.support.counted import Counted
from tests.support.jacobians import Floats

N = 30
X = np.linspace(0.5, 2, N)


def f(x: Floats, scale: float = 1.0) -> Floats:
    return np.array([scale * np.sum(np.sin(x) * x), scale * np.sum(x**3), x[0] * x[-1]])


def slopes(x: Floats, scale: float = 1.0) -> Floats:
    last = np.zeros_like(x)
    last[0], last[-1] = x[-1], x[0]
    return np.stack([scale * (np.sin(x) + x * np.cos(x)), scale * 3 * x**2, last])


def wrong(x: Floats, scale: float = 1.0) -> Floats:
    matrix = slopes(x, scale)
    matrix[0, 7] *= 1.01
    return matrix


def cubes(x: Floats) -> float:
    return float(np.sum(x**3) + x[0] * x[1])


def gradient(x: Floats) -> Floats:
    out = 3 * x**2
    out[:2] += x[1::-1]
    return out


def hessian(x: Floats) -> Floats:
    out = np.diag(6 * x)
    out[0, 1] = out[1, 0] = 1.0
    return out


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def contents(report: Any) -> list[Any]:
    """Everything that a report holds, but for the seconds and the engine."""
    return [
        repr({key: value for key, value in report.to_dict().items() if key not in ("seconds", "engine")}),
        repr([(name, column.tolist()) for name, column in report.entries.columns.items()]),
    ]


OPTIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "points": {"points": 2},
    "columns": {"columns": 6},
    "bounded": {"bounds": {"x": (0.5, 2.0)}},
    "complex_step": {"stencil": "complex_step"},
    "step": {"stencil": "five_point", "step": 1e-3},
    "sparsity": {"sparsity": np.ones((3, N))},
    "time_budget": {"time_budget": 600.0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_interrupted_check_goes_on_to_the_same_report(name: str, path: Path) -> None:
    check: Any = partial(fastgc.check_jacobian, jacobian=wrong, x=X, **OPTIONS[name])
    whole = Counted(f)
    expected = contents(check(whole))
    assert "'fail'" in expected[0] or name == "columns"
    for at in range(10, whole.calls, max(1, whole.calls // 3)):
        path.unlink(missing_ok=True)
        with pytest.raises(fastgc.Interrupted):
            check(Counted(f, at), checkpoint=path)
        again = Counted(f)
        assert contents(check(again, checkpoint=path)) == expected
        assert again.calls < whole.calls - at / 4 + 6, "what is known is not computed again"


def test_a_finished_check_asks_for_little_and_takes_16_bytes_an_entry(path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 60))
    first, second = Counted(lambda x: np.sin(matrix @ x)), Counted(lambda x: np.sin(matrix @ x))
    check: Any = partial(fastgc.check_jacobian, jacobian=lambda x: np.cos(matrix @ x)[:, None] * matrix, x=np.ones(60))
    assert contents(check(first, checkpoint=path)) == contents(check(second, checkpoint=path))
    assert second.calls <= 2 < 100 < first.calls
    assert path.stat().st_size <= 40 * matrix.size


@pytest.mark.parametrize(
    ("function", "jacobian", "workers"), [(f, wrong, 2), (numba.njit(lambda x: x**3), lambda x: np.diag(3 * x**2), 1)]
)
def test_engines(function: Any, jacobian: Any, workers: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgc._evaluation.pieces._WORTHWHILE", 0.0)
    check: Any = partial(fastgc.check_jacobian, function, jacobian, X, workers=workers)
    expected = contents(check())
    for _ in range(2):
        assert contents(check(checkpoint=path)) == expected


def test_products_and_sparse_arrays_have_checkpoints_too(path: Path) -> None:
    forms: list[dict[str, Any]] = [
        {"jacobian": None, "jvp": lambda x, u: wrong(x) @ u},
        {"jacobian": None, "vjp": lambda x, v: v @ wrong(x)},
        {"jacobian": scipy.sparse.csr_array(wrong(X))},
    ]
    for form in forms:
        path.unlink(missing_ok=True)
        check: Any = partial(fastgc.check_jacobian, f, x=X, **form)
        expected = contents(check())
        assert contents(check(checkpoint=path)) == contents(check(checkpoint=path)) == expected
        other = {**form, "jacobian": form["jacobian"] * 1.5} if form["jacobian"] is not None else None
        with pytest.raises(ValueError, match="is of another check: jacobian differs"):
            fastgc.check_jacobian(
                f, x=X, checkpoint=path, **(other or {"jacobian": None, "jvp": lambda x, u: 2 * wrong(x) @ u})
            )


def test_complex_numbers_in_pairs(path: Path) -> None:
    check: Any = partial(fastgc.check_jacobian, lambda z: z**2, lambda z: np.diag(2 * z), np.array([1 + 2j, 0.5 - 1j]))
    expected = contents(check())
    assert contents(check(checkpoint=path)) == contents(check(checkpoint=path)) == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"x": X + 0.1}, "x, f at x, jacobian differ"),
        ({"x": X.reshape(2, -1)}, "shapes differs"),
        ({"args": (2.0,)}, "f at x, jacobian, args"),
        ({"f": lambda x: f(x) + 1}, "f at x differs"),
        ({"jacobian": slopes}, "jacobian differs"),
        ({"rtol": 1e-4}, "rtol differs"),
        ({"columns": 5, "seed": 3}, "seed, columns differ"),
        ({"sparsity": np.ones((3, N))}, "sparsity differs"),
    ],
)
def test_another_check_is_refused(changes: dict[str, Any], named: str, path: Path) -> None:
    def outputs(x: Floats, *args: Any) -> Floats:
        return f(x.reshape(-1), *args)

    def matrix(x: Floats, *args: Any) -> Floats:
        return wrong(x.reshape(-1), *args)

    call: dict[str, Any] = {"f": outputs, "jacobian": matrix, "x": X}
    fastgc.check_jacobian(**call, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"checkpoint='.*outputs' is of another check: {named}"):
        fastgc.check_jacobian(**(call | changes), checkpoint=path)
    with pytest.raises(ValueError, match=r"is of another check: .*params"):
        fastgc.check_gradients(cubes, gradient, X, checkpoint=path)
    assert path.read_bytes() == before


def test_two_checks_on_one_file_and_other_files_are_refused(path: Path) -> None:
    open_file = Checkpoint(path, {})
    with pytest.raises(OSError, match="is in use by another check; wait for it, or name another file"):
        fastgc.check_jacobian(f, slopes, X, checkpoint=path)
    open_file.close()
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="holds something else; name a file that does not exist"):
        fastgc.check_jacobian(f, slopes, X, checkpoint=path)
    assert path.read_bytes() == b"precious"
    with pytest.raises(TypeError, match="checkpoint is a int; it must be the path of a file, or None"):
        fastgc.check_jacobian(f, slopes, X, checkpoint=7)  # type: ignore[arg-type]


def test_torn_and_wrong_records_are_dropped(path: Path) -> None:
    check: Any = partial(fastgc.check_jacobian, f, wrong, X, checkpoint=path)
    expected = contents(check())
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(10):
        wrong_byte = bytearray(data)
        wrong_byte[int(rng.integers(data.index(b"\n") + 1, len(data)))] ^= 1 << int(rng.integers(8))
        for some in (data[: int(rng.integers(0, len(data)))], bytes(wrong_byte)):
            path.write_bytes(some)
            assert contents(check()) == expected


def test_a_full_disk(path: Path) -> None:
    x = X.copy()
    check: Any = partial(fastgc.check_jacobian, jacobian=wrong, x=x)
    expected = contents(check(f))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not be written \(.*\); what it holds can still be read: make room"):
            check(f, checkpoint=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert x.tobytes() == X.tobytes()
    again = Counted(f)
    report = check(again, checkpoint=path)
    assert contents(report) == expected and again.calls < report.evaluations


def test_values_known_from_the_file_are_in_the_report_of_a_second_interruption(path: Path) -> None:
    matrix = np.random.default_rng(1).normal(size=(7, 100))
    check: Any = partial(fastgc.check_jacobian, jacobian=lambda x: np.cos(matrix @ x)[:, None] * matrix, x=np.ones(100))
    with pytest.raises(fastgc.Interrupted) as first:
        check(Counted(lambda x: np.sin(matrix @ x), 150), checkpoint=path)
    with pytest.raises(fastgc.Interrupted) as second:
        check(Counted(lambda x: np.sin(matrix @ x), 40), checkpoint=path)
    assert second.value.report.checked >= first.value.report.checked > 0


def test_hessians_keep_the_function_in_a_second_file(path: Path) -> None:
    expected = contents(fastgc.check_hessian(cubes, gradient, hessian, X))
    with pytest.raises(fastgc.Interrupted):
        fastgc.check_hessian(Counted(cubes, 60), gradient, hessian, X, checkpoint=path)
    f, slope = Counted(cubes), Counted(gradient)
    assert contents(fastgc.check_hessian(f, slope, hessian, X, checkpoint=str(path))) == expected
    assert (path.stat().st_size, path.with_name("outputs.f").stat().st_size) > (1000, 1000)
    known = Counted(cubes), Counted(gradient)
    assert contents(fastgc.assert_hessian(*known, hessian, X, checkpoint=path)) == expected
    assert known[0].calls + known[1].calls < f.calls + slope.calls < 160


SCRIPT = """
    import os, signal, sys
    import numpy as np, fastgc
    calls, at, path = 0, int(sys.argv[1]), sys.argv[2] or None
    matrix = np.random.default_rng(0).normal(size=(5, 80))
    def f(x):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.sin(matrix @ x)
    def jacobian(x):
        return np.cos(matrix @ x)[:, None] * matrix * np.where(np.arange(x.size) == 7, 1.01, 1)
    report = fastgc.check_jacobian(f, jacobian, np.linspace(0.5, 2, 80), checkpoint=path)
    print(calls, report.evaluations)
    print(report.to_json().replace(str(report.seconds), ""))
"""


def test_after_kill_9(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(SCRIPT))

    def run(at: int, path: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, script, str(at), path], capture_output=True, text=True)
        return done.returncode, done.stdout

    path = str(tmp_path / "outputs")
    (_, expected), (killed, _), (_, found) = run(0, ""), run(150, path), run(0, path)
    assert killed == -9
    assert found.splitlines()[1] == expected.splitlines()[1]
    assert int(found.split()[0]) < int(expected.split()[0]) - 60
