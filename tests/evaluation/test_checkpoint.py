"""Checkpoints: the same call goes on from there to the same report, and nothing torn or foreign is read as a number."""

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

import fastgc
from fastgc._evaluation.checkpoint import Checkpoint
from tests.support.counted import Counted

Tensors = dict[str, Any]


def loss(p: Tensors, scale: float = 1.0) -> Any:
    return scale * (np.sum(np.sin(p["w"]) * p["w"]) + np.sum(p["b"] ** 3))


@numba.njit
def compiled(p: Any) -> float:
    return np.sum(np.sin(p["w"]) * p["w"]) + np.sum(p["b"] ** 3)


def gradients(p: Tensors, scale: float = 1.0) -> Tensors:
    w = np.sin(p["w"]) + p["w"] * np.cos(p["w"])
    return {"w": scale * w * np.where(np.arange(w.size) == 7, 1.01, 1), "b": scale * 3 * p["b"] ** 2}


@pytest.fixture
def params() -> Tensors:
    return {"w": np.linspace(0.5, 2, 120), "b": np.linspace(1, 2, 20)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values"


def contents(report: Any) -> list[Any]:
    """Everything that a report holds of its entries, and its text without the seconds."""
    columns = [
        (name, column, values.tolist())
        for name, tensor in report.tensors.items()
        for column, values in tensor.entries.columns.items()
    ]
    text = str(report).replace(f"{report.seconds:.2f} s", "")
    return [repr(columns), text, report.evaluations, report.verdict]


OPTIONS: dict[str, dict[str, Any]] = {
    "sampled": {"samples": 50},
    "all": {"samples": "all", "points": 2},
    "bounded": {"bounds": {"w": (0.5, 2.0)}},
    "five_point": {"stencil": "five_point", "step": 1e-4},
    "in_place": {"in_place": True},
    "float32": {"precision": "native"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_interrupted_check_goes_on_to_the_same_report(name: str, params: Tensors, path: Path) -> None:
    options = {"engine": "python", **OPTIONS[name]}
    if name == "float32":
        params = {key: value.astype(np.float32) for key, value in params.items()}
    whole = Counted(loss)
    expected = contents(fastgc.check_gradients(whole, gradients, params, **options))
    for at in range(20, whole.calls, whole.calls // 4):
        path.unlink(missing_ok=True)
        with pytest.raises(fastgc.Interrupted):
            fastgc.check_gradients(Counted(loss, at), gradients, params, checkpoint=path, **options)
        again = Counted(loss)
        found = contents(fastgc.check_gradients(again, gradients, params, checkpoint=path, **options))
        assert found == expected
        assert again.calls < whole.calls - at / 4 + 5, "what is known is not computed again"


@pytest.mark.parametrize(
    ("function", "options"),
    [(loss, {"workers": 2}), (compiled, {"engine": "numba", "threads": 2}), (compiled, {"engine": "auto"})],
)
def test_engines(function: Any, options: dict[str, Any], params: Tensors, path: Path) -> None:
    options = {"samples": "all", **options}
    expected = contents(fastgc.check_gradients(function, gradients, params, **options))
    for _ in range(2):
        assert contents(fastgc.check_gradients(function, gradients, params, checkpoint=path, **options)) == expected


def test_a_finished_check_asks_for_little(params: Tensors, path: Path) -> None:
    first, second = Counted(loss), Counted(loss)
    check = partial(fastgc.check_gradients, gradients=gradients, params=params, samples="all", checkpoint=path)
    assert contents(check(first)) == contents(check(second))
    assert second.calls <= 10 < first.calls


def test_an_entry_takes_at_most_40_bytes(path: Path) -> None:
    params = np.linspace(1, 2, 20_000)
    report = fastgc.check_gradients(
        lambda p: float(p @ p), lambda p: 2 * p, params, samples="all", checkpoint=path, crosscheck=False
    )
    assert report.passed and path.stat().st_size <= 40 * params.size


def test_points_where_the_loss_raises_are_asked_again(path: Path) -> None:
    def edge(p: Any) -> float:
        if p[0] < 1:
            raise ValueError("negative scale")
        return float(np.sum(p**2))

    check = partial(fastgc.check_gradients, edge, lambda p: 2 * p, np.ones(8), samples="all")
    expected = contents(check())
    assert contents(check(checkpoint=path)) == contents(check(checkpoint=path)) == expected
    assert "negative scale" in expected[1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"params": {"w": np.linspace(0.5, 2, 120), "b": np.linspace(1, 3, 20)}}, "params"),
        ({"params": {"w": np.linspace(0.5, 2, 120), "c": np.linspace(1, 2, 20)}}, "names"),
        ({"params": {"w": np.linspace(0.5, 2, 120).reshape(12, 10), "b": np.linspace(1, 2, 20)}}, "shapes"),
        ({"params": {"w": np.linspace(0.5, 2, 120, dtype=np.float32), "b": np.linspace(1, 2, 20)}}, "dtypes"),
        ({"args": (2.0,)}, "loss at params, gradients, args"),
        ({"loss": lambda p: loss(p) + 1}, "loss at params differs"),
        ({"gradients": lambda p: gradients(p) | {"b": p["b"]}}, "gradients differs"),
        ({"rtol": 1e-4}, "rtol differs"),
        ({"samples": {"w": 5}}, "samples differs"),
        ({"seed": 3, "stencil": "five_point"}, "stencil, seed differ"),
        ({"bounds": [(0, 3)] * 140}, "bounds differs"),
    ],
)
def test_another_check_is_refused(changes: dict[str, Any], named: str, params: Tensors, path: Path) -> None:
    def renamed(p: Tensors) -> Tensors:
        return {"w": p["w"].reshape(-1), "b": p.get("b", p.get("c"))}

    def shaped(p: Tensors, *args: Any) -> Tensors:
        found = gradients(renamed(p), *args)
        return {name: found["w" if name == "w" else "b"].reshape(p[name].shape) for name in p}

    call = {"loss": lambda p, *args: loss(renamed(p), *args), "gradients": shaped, "params": params}
    fastgc.check_gradients(**call, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"checkpoint='.*values' is of another check: .*{named}"):
        fastgc.check_gradients(**(call | changes), checkpoint=path)
    assert path.read_bytes() == before


def test_options_that_change_no_value_may_change(params: Tensors, path: Path) -> None:
    fastgc.check_gradients(loss, gradients, params, checkpoint=path)
    again = Counted(loss)
    fastgc.check_gradients(again, gradients, params, checkpoint=path, time_budget=60.0, threads=1)
    assert again.calls < 200


@pytest.mark.parametrize("text", [b"w,b\n1,2\n", b"precious", b"{}\n", b'{"file": "other"}\n'])
def test_another_file_is_refused_and_left_alone(text: bytes, params: Tensors, path: Path) -> None:
    path.write_bytes(text)
    with pytest.raises(ValueError, match="holds something else; name a file that does not exist"):
        fastgc.check_gradients(loss, gradients, params, checkpoint=path)
    assert path.read_bytes() == text


def test_a_wrong_type_is_refused(params: Tensors) -> None:
    with pytest.raises(TypeError, match="checkpoint is a int; it must be the path of a file, or None"):
        fastgc.check_gradients(loss, gradients, params, checkpoint=7)  # type: ignore[arg-type]


def test_torn_and_wrong_records_are_dropped(params: Tensors, path: Path) -> None:
    check = partial(fastgc.check_gradients, loss, gradients, params, samples="all", checkpoint=path)
    expected = contents(check())
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(30):
        cut = bytearray(data[: int(rng.integers(0, len(data)))])
        if cut.find(b"\n") >= 0 and rng.random() < 0.5:  # a wrong byte after the header
            place = int(rng.integers(data.index(b"\n") + 1, len(data)))
            cut = bytearray(data)
            cut[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(cut)
        assert contents(check()) == expected
        assert contents(check()) == expected


def test_two_checks_on_one_file(params: Tensors, path: Path) -> None:
    open_file = Checkpoint(path, {})
    with pytest.raises(OSError, match="is in use by another check; wait for it, or name another file"):
        fastgc.check_gradients(loss, gradients, params, checkpoint=path)
    open_file.close()
    with pytest.raises(ValueError, match="is of another check"):
        fastgc.check_gradients(loss, gradients, params, checkpoint=path)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_full_disk(params: Tensors, path: Path, in_place: bool) -> None:
    check = partial(fastgc.check_gradients, loss, gradients, params, samples="all", engine="python", in_place=in_place)
    expected, before = contents(check()), {name: value.copy() for name, value in params.items()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not be written \(.*\); what it holds can still be read: make room"):
            check(checkpoint=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert all(before[name].tobytes() == params[name].tobytes() for name in params)
    again = Counted(loss)
    found = fastgc.check_gradients(
        again, gradients, params, samples="all", engine="python", in_place=in_place, checkpoint=path
    )
    assert contents(found) == expected and again.calls < found.evaluations


def test_after_kill_9(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal, sys
            import numpy as np, fastgc
            calls, at, path = 0, int(sys.argv[1]), sys.argv[2] or None
            def loss(p):
                global calls
                calls += 1
                if calls == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return float(np.sum(np.sin(p) * p))
            def gradients(p):
                return (np.sin(p) + p * np.cos(p)) * np.where(np.arange(p.size) == 7, 1.01, 1)
            report = fastgc.check_gradients(loss, gradients, np.linspace(0.5, 2, 300), samples="all", checkpoint=path)
            print(calls, report.evaluations)
            print(report.to_json().replace(str(report.seconds), ""))
            """
        )
    )

    def run(at: int, path: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, script, str(at), path], capture_output=True, text=True)
        return done.returncode, done.stdout

    path = str(tmp_path / "values")
    (_, expected), (killed, _), (_, found) = run(0, ""), run(500, path), run(0, path)
    assert killed == -9
    assert found.splitlines()[1] == expected.splitlines()[1]
    assert int(found.split()[0]) < int(expected.split()[0]) - 100


@pytest.mark.parametrize("door", ["torch", "jax"])
def test_frameworks(door: str, path: Path) -> None:
    pytest.importorskip(door)
    if door == "torch":
        import torch

        torch.manual_seed(0)
        module = torch.nn.Linear(6, 3).double()
        x = torch.randn(4, 6, dtype=torch.float64)
        check: Any = partial(fastgc.torch.check_module, module, x, loss=lambda y: y.square().sum())
    else:
        import jax.numpy as jnp

        check = partial(fastgc.jax.check_gradients, lambda p: jnp.sum(jnp.sin(p) ** 2), np.linspace(0.1, 1, 30))
    first, second = check(checkpoint=path), check(checkpoint=path)
    assert path.stat().st_size > 1000 and first.passed
    assert contents(first)[0] == contents(second)[0]
