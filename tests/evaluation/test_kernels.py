"""What is compiled: records inside jitted functions, in and out, and the loops over displaced entries."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys
from numpy.typing import NDArray

import fastgc
from fastgc._evaluation import kernels as _kernels
from tests.support.jitted import DATA, LINE, NETWORK, line_loss, line_plain, network_gradients, network_loss
from tests.support.layouts import Array, array


@numba.njit
def filled(params: Any, value: float) -> Any:
    """A record of the same shapes, made inside."""
    out = fastgc.record(params)
    out["w"][...] = value
    out["inner"]["b"][...] = 2 * value
    return out


@numba.njit
def unchanged(value: Any) -> Any:
    return value


@numba.njit
def view_of_b(params: Any) -> Any:
    return params["inner"]["b"]


def small() -> Any:
    return fastgc.record({"w": array(2, 3), "inner": {"b": array(4)}})


# --- reading ---


def test_any_name_and_any_nesting_is_reached_from_jitted_code() -> None:
    record = fastgc.record(NETWORK)
    assert network_loss(record) == network_loss.py_func(record)


def test_one_compilation_serves_all_sizes_but_not_all_names() -> None:
    before = len(view_of_b.signatures)
    view_of_b(small())
    middle = len(view_of_b.signatures)
    larger = fastgc.record({"w": array(7, 5), "inner": {"b": array(1)}})
    np.testing.assert_array_equal(view_of_b(larger), array(1))
    assert len(view_of_b.signatures) == middle <= before + 1
    named_otherwise = fastgc.record({"v": array(7, 5), "inner": {"b": array(2), "c": array(3)}})
    np.testing.assert_array_equal(view_of_b(named_otherwise), array(2))
    assert len(view_of_b.signatures) == middle + 1


def test_writing_in_jitted_code_reaches_the_record() -> None:
    record = small()
    view_of_b(record)[...] = 7.0
    assert record["inner"]["b"].tolist() == [7.0] * 4
    np.testing.assert_array_equal(record["w"], array(2, 3))


def test_a_list_is_indexed_by_position_and_an_array_is_itself() -> None:
    first, second = unchanged(fastgc.record([array(2), array(1, 2)]))
    np.testing.assert_array_equal(first, array(2))
    np.testing.assert_array_equal(second, array(1, 2))
    np.testing.assert_array_equal(unchanged(fastgc.record(array(3))), array(3))


def test_a_name_that_does_not_exist_is_said_with_those_that_do() -> None:
    @numba.njit
    def mistaken(params: Any) -> float:
        return float(params["W1"].sum())

    with pytest.raises(numba.TypingError, match="params has no tensor 'W1'; it has 'w', 'inner'"):
        mistaken(small())
    params = {"w": array(2, 3), "inner": {"b": array(4)}}
    for engine in "auto", "numba", "python":
        with pytest.raises(TypeError, match="params has no tensor 'W1'; it has 'w', 'inner'"):
            fastgc.check_gradients(mistaken, params, params, engine=engine)


def test_a_name_that_is_no_literal_is_said() -> None:
    @numba.njit
    def by_number(params: Any) -> float:
        return float(params[0].sum())

    with pytest.raises(numba.TypingError, match=r"literal name, such as params\['W1'\]"):
        by_number(small())


# --- out of jitted code ---


def test_a_record_comes_back_from_jitted_code() -> None:
    record = small()
    again = unchanged(record)
    assert list(again) == ["w", "inner"] and list(again["inner"]) == ["b"]
    np.testing.assert_array_equal(again["inner"]["b"], array(4))
    again["w"][0, 0] = 9.0
    assert record["w"][0, 0] == 9.0


def test_a_record_made_in_jitted_code_is_a_copy() -> None:
    record = small()
    out = filled(record, 3.0)
    assert out["w"].tolist() == [[3.0] * 3] * 2 and out["inner"]["b"].tolist() == [6.0] * 4
    np.testing.assert_array_equal(record["w"], array(2, 3))
    np.testing.assert_array_equal(record["inner"]["b"], array(4))


def test_arrays_keep_the_buffer_of_a_deleted_record_alive() -> None:
    views = [view_of_b(filled(small(), float(i))) for i in range(20)]
    gc.collect()
    noise = [np.full(4, np.nan) for _ in range(200)]
    assert [view.tolist() for view in views] == [[2.0 * i] * 4 for i in range(20)]
    assert len(noise) == 200


def test_calls_hold_on_to_no_reference() -> None:
    record = small()
    unchanged(record), view_of_b(record), filled(record, 1.0)
    counts = [sys.getrefcount(record), sys.getrefcount(record.buffer), sys.getrefcount(record.table)]
    for _ in range(100):
        unchanged(record), view_of_b(record), filled(record, 1.0)
    assert [sys.getrefcount(record), sys.getrefcount(record.buffer), sys.getrefcount(record.table)] == counts


def test_whatever_jitted_code_allocates_is_freed() -> None:
    record = small()
    view_of_b(filled(record, 1.0))
    gc.collect()
    _nrt_python.memsys_enable_stats()
    try:
        before = rtsys.get_allocation_stats()
        for _ in range(100):
            view_of_b(filled(unchanged(record), 1.0))
        gc.collect()
        after = rtsys.get_allocation_stats()
    finally:
        _nrt_python.memsys_disable_stats()
    assert after.alloc - before.alloc == after.free - before.free >= 100
    assert after.mi_alloc - before.mi_alloc == after.mi_free - before.mi_free


def test_a_record_is_freed_with_its_last_array() -> None:
    record = small()
    died: list[bool] = []
    weakref.finalize(record.buffer, died.append, True)
    view = view_of_b(record)
    del record
    gc.collect()
    assert not died
    np.testing.assert_array_equal(view, array(4))
    del view
    gc.collect()
    assert died == [True]


def test_records_hold_arrays_of_one_width_in_jitted_code_at_native_precision() -> None:
    params = {"s": array(3).astype(np.float32), "d": array(2), "t": np.float32(0.25)}

    @numba.njit
    def mixed(params: Any) -> float:
        return params["s"].sum() * params["d"][0] + params["d"][1] ** 2 + params["t"][()] * 3

    def slopes(params: Any) -> dict[str, Any]:
        return {
            "s": np.full(3, params["d"][0]),
            "d": np.array([params["s"].astype(np.float64).sum(), 2 * params["d"][1]]),
            "t": np.array(3.0),
        }

    for precision in "native", "double":
        for engine in "numba", "python":
            report = fastgc.check_gradients(mixed, slopes, params, precision=precision, engine=engine, rtol=1e-3)
            assert report.passed, str(report)


# --- compiled gradients ---


class Pair(NamedTuple):
    weight: Any
    bias: Any


@numba.njit
def line_record(params: Any, x: Any, y: Any) -> Any:
    out = fastgc.record(params)
    slope, offset = 0.0, 0.0
    for i in range(x.size):
        off = params["w"][0] * x[i] + params["b"][()] - y[i]
        slope += 2 * off * x[i] / x.size
        offset += 2 * off / x.size
    out["w"][0] = slope
    out["b"][()] = offset
    return out


@numba.njit
def line_tuple(params: Any, x: Any, y: Any) -> Any:
    out = line_record(params, x, y)
    return out["w"], out["b"]


@numba.njit
def line_both(params: Any, x: Any, y: Any) -> Any:
    return line_loss(params, x, y), line_record(params, x, y)


def line_plain_both(params: Any, x: NDArray[np.float64], y: NDArray[np.float64]) -> Any:
    return float(np.mean((params["w"][0] * x + params["b"] - y) ** 2)), line_plain(params, x, y)


@pytest.mark.parametrize("engine", ["numba", "python", "auto"])
@pytest.mark.parametrize("gradients", [line_record, line_tuple, line_plain], ids=["record", "tuple", "plain"])
def test_gradients_may_be_compiled_or_not(gradients: Any, engine: str) -> None:
    report = fastgc.check_gradients(line_loss, gradients, LINE, args=DATA, engine=engine)
    assert report.passed, str(report)
    assert engine == "auto" or report.engine.startswith(engine)


@pytest.mark.parametrize("gradients", [line_record, line_tuple], ids=["record", "tuple"])
def test_compiled_gradients_go_with_a_plain_loss(gradients: Any) -> None:
    report = fastgc.check_gradients(lambda *a: line_plain_both(*a)[0], gradients, LINE, args=DATA)
    assert report.passed and report.engine == "python"


@pytest.mark.parametrize("engine", ["numba", "python"])
@pytest.mark.parametrize("points", [1, 3])
def test_a_compiled_loss_may_return_both(engine: str, points: int) -> None:
    report = fastgc.check_gradients(line_both, True, LINE, args=DATA, engine=engine, points=points)
    assert report.passed, str(report)


def test_a_plain_loss_may_return_both() -> None:
    report = fastgc.check_gradients(line_plain_both, True, LINE, args=DATA)
    assert report.passed and report.engine == "python"


def test_a_tuple_of_another_length_is_refused_with_both_numbers() -> None:
    @numba.njit
    def too_many(params: Any, x: Any, y: Any) -> Any:
        return params["w"], params["b"], params["w"]

    with pytest.raises(ValueError, match="gradients returned 3 arrays; params has 2 tensors"):
        fastgc.check_gradients(line_loss, too_many, LINE, args=DATA)


def test_a_record_of_other_shapes_is_refused() -> None:
    @numba.njit
    def swapped(params: Any, x: Any, y: Any) -> Any:
        return params["b"], params["w"]

    with pytest.raises(ValueError, match=r"gradients\['w'\] has shape \(\); params\['w'\] has shape \(1,\)"):
        fastgc.check_gradients(line_loss, swapped, LINE, args=DATA)


def test_compiled_gradients_that_give_back_the_parameters_are_copied_at_once() -> None:
    @numba.njit
    def half_square(params: Any) -> float:
        total = 0.0
        for value in params["w"].flat:
            total += 0.5 * value * value
        for value in params["inner"]["b"]:
            total += 0.5 * value * value
        return total

    params = {"w": array(2, 3), "inner": {"b": array(4)}}
    for engine in "numba", "python":
        assert fastgc.check_gradients(half_square, unchanged, params, engine=engine).passed


def test_compiled_gradients_that_numba_cannot_compile_are_a_readable_error() -> None:
    @numba.njit
    def impossible(params: Any, x: Any, y: Any) -> Any:
        return params["w"].no_such_method()

    with pytest.raises(TypeError, match=r"(?s)Numba cannot compile the gradients?.*no_such_method"):
        fastgc.check_gradients(line_loss, impossible, LINE, args=DATA)


def test_compiled_gradients_of_lists_and_arrays() -> None:
    @numba.njit
    def product(params: Any) -> float:
        return params[0][0] * params[1][0, 0] * params[1][0, 1]

    @numba.njit
    def product_slopes(params: Any) -> Any:
        first, second = fastgc.record(params[0]), fastgc.record(params[1])
        first[0] = params[1][0, 0] * params[1][0, 1]
        second[0, 0] = params[0][0] * params[1][0, 1]
        second[0, 1] = params[0][0] * params[1][0, 0]
        return first, second

    for params in ([array(1), array(1, 2)], (array(1), array(1, 2)), Pair(array(1), array(1, 2))):
        for engine in "numba", "python":
            report = fastgc.check_gradients(product, product_slopes, params, engine=engine)
            assert report.passed and list(report.tensors) == list(getattr(params, "_fields", ["0", "1"]))


# --- the whole network, both engines ---


@pytest.mark.parametrize("engine", ["numba", "python"])
def test_every_entry_of_a_nested_network_is_checked(engine: str) -> None:
    report = fastgc.check_gradients(network_loss, network_gradients, NETWORK, samples="all", engine=engine)
    assert report.passed, str(report)
    assert list(report.tensors) == [
        "layer1.weight", "b [0]*?", "params", "none", "deep.ä.0", "deep.ä.1.w", "deep.pair.0", "deep.pair.1"
    ]  # fmt: skip


def test_every_tensor_of_a_nested_network_can_be_found_wrong() -> None:
    paths: list[Array] = []

    def leaves(node: Any) -> None:
        for child in node.values() if isinstance(node, dict) else node:
            leaves(child) if isinstance(child, (dict, list, tuple)) else paths.append(child)

    right = network_gradients(NETWORK)
    leaves(right)
    names = list(fastgc.check_gradients(network_loss, right, NETWORK).tensors)
    for name, leaf in zip(names, paths, strict=True):
        if leaf.size:
            leaf.flat[-1] += 0.5
            report = fastgc.check_gradients(network_loss, right, NETWORK, samples="all", engine="numba")
            leaf.flat[-1] -= 0.5
            assert [tensor.name for tensor in report.tensors.values() if tensor.verdict == "fail"] == [name]


def test_a_complex_step_runs_in_the_compiled_loop() -> None:
    @numba.njit
    def smooth(params: Any) -> Any:
        total = 0j * params["b"][0]
        for value in params["w"].flat:
            total += np.sin(value) * value
        for value in params["b"]:
            total += np.exp(value)
        return total

    params = {"w": array(2, 2), "b": array(3)}

    def slopes(params: Any) -> dict[str, Any]:
        return {"w": np.cos(params["w"]) * params["w"] + np.sin(params["w"]), "b": np.exp(params["b"])}

    for engine in "numba", "python":
        report = fastgc.check_gradients(smooth, slopes, params, stencil="complex_step", engine=engine)
        assert report.passed, str(report)
        assert max(tensor.max_relative_error for tensor in report.tensors.values()) < 1e-14


# --- the loop, which receives the loss as the address of its machine code ---


def check(loss: Any, params: Any, slopes: Any, **options: Any) -> Any:
    return fastgc.check_gradients(loss, slopes, params, engine="numba", crosscheck=False, **options)


def test_losses_of_the_same_arguments_share_one_compilation_of_the_loop() -> None:
    params = {"only this name": np.array([0.3, 0.7])}

    def made(power: int) -> Any:
        return numba.njit(lambda p: (p["only this name"] ** power).sum())

    kernels = _kernels.displaced_values, _kernels._CACHED[_kernels.displaced_values]
    before = sum(len(kernel.overloads) for kernel in kernels)
    for power in (2, 3, 4):
        slopes = {"only this name": power * params["only this name"] ** (power - 1)}
        assert check(made(power), params, slopes).passed
        assert not check(made(power + 1), params, slopes).passed
    assert sum(len(kernel.overloads) for kernel in kernels) == before + 1


def test_defaults_of_a_compiled_loss_are_filled_in() -> None:
    loss = numba.njit(lambda p, factor=3.0: factor * (p * p).sum())
    assert check(loss, np.array([1.0, 2.0]), np.array([6.0, 12.0])).passed
    assert check(loss, np.array([1.0, 2.0]), np.array([2.0, 4.0]), args=(1.0,)).passed


@pytest.mark.parametrize("kind", ["float64(float64[:])", "float64(float64[::1])"])
def test_a_loss_with_a_declared_signature_is_run(kind: str) -> None:
    loss = numba.njit(kind)(lambda p: (p * p).sum())
    assert check(loss, np.array([1.0, 2.0]), np.array([2.0, 4.0])).passed


def test_what_a_loss_raises_comes_through_the_loop() -> None:
    @numba.njit
    def loss(p: Any, limit: float) -> float:
        if p[0] > limit:
            raise LookupError("beyond the table")
        return p[0] * p[0]

    params, displaced, out = np.array([1.0]), np.array([[[0.5], [1.5]]]), np.empty((1, 2))
    compiled = _kernels.CompiledLoss(loss, (params, 1.0))
    with pytest.raises(LookupError, match="beyond the table"):
        _kernels.displaced_values(compiled, params, (1.0,), params, np.array([[0]]), np.array([[1.0]]), displaced, out)
    report = check(loss, np.array([1.0]), np.array([2.0]), args=(1.0,))
    assert report.passed
    assert any("the loss raised LookupError: beyond the table (" in note for note in report.notes)


def test_a_loss_that_is_no_longer_referred_to_stays_while_it_runs() -> None:
    params = np.linspace(0.1, 0.9, 50)
    compiled = _kernels.CompiledLoss(numba.njit(lambda p: (p**3).sum()), (params,))
    gc.collect()
    cells, originals, displaced, out = np.array([[3]]), params[3].reshape(1, 1), np.array([[[0.5]]]), np.empty((1, 1))
    _kernels.displaced_values(compiled, params, (), params, cells, originals, displaced, out)
    assert out[0, 0] == pytest.approx((params**3).sum() - params[3] ** 3 + 0.125)


# --- from one process to the next ---

CHECK = """
import sys
import numba, numpy as np, fastgc
from fastgc._evaluation import kernels as _kernels

{before}

@numba.njit
def loss(p, q):
    return np.sum(p["w"] ** 2) * q[0]

params, gradients = {{"w": np.ones(4)}}, {{"w": 4 * np.ones(4)}}
args = ({args},)

@numba.njit
def outputs(x, q):
    return x * q[0]

for engine in {engines}:
    report = fastgc.check_gradients(loss, gradients, params, args=args, engine=engine, samples=2, crosscheck=False)
    assert report.passed
    assert fastgc.numerical_jacobian(outputs, np.ones(2), 0.5, args=args, engine=engine).tolist() == [[2, 0], [0, 2]]
    print(report.engine.split()[0], *(sum(each.stats.cache_hits.values()) for each in _kernels._CACHED.values()))
"""
OWN = "from mine import Q"


def checked(
    folder: Path, *engines: str, before: str = "", args: str = "(2.0, np.ones(3))", path: str = ""
) -> list[str]:
    """What another process prints of each engine: which one ran, and how many kernels were found on disk by then."""
    code = CHECK.format(engines=engines, before=before, args=args)
    env = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(folder / "cache"),
        "NUMBA_OPT": "0",  # how fast the loops run is not asked for
        "PYTHONPATH": path or os.environ.get("PYTHONPATH", ""),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


def kept(folder: Path) -> list[Path]:
    """The files of compiled kernels below a folder."""
    return [path for path in folder.rglob("fastgc-*/*") if path.is_file()]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the kernels that one process has compiled; a check of another one takes them from there."""
    folder = tmp_path_factory.mktemp("compiled")
    assert checked(folder, "auto", "numba") == ["python 0 0 0", "numba 0 0 0"]  # where it may: compiling takes longer
    return folder


def test_a_process_finds_the_kernels_that_another_has_compiled(compiled: Path) -> None:
    assert checked(compiled, "auto") == checked(compiled, "numba") == ["numba 1 1 1"]


def test_a_class_of_the_users_is_not_asked_of_other_processes(compiled: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import typing\nQ = typing.NamedTuple('Q', [('k', float), ('x', object)])\n")
    before = {path: path.read_bytes() for path in kept(compiled)}
    assert checked(compiled, "numba", before=OWN, args="Q(2.0, np.ones(3))", path=str(tmp_path)) == ["numba 0 0 0"]
    assert before == {path: path.read_bytes() for path in kept(compiled)}


def test_a_cache_that_cannot_be_read_is_done_without(compiled: Path, tmp_path: Path) -> None:
    shutil.copytree(compiled, tmp_path, dirs_exist_ok=True)
    for file in kept(tmp_path):
        file.write_bytes(file.read_bytes()[:-20])
    assert checked(tmp_path, "auto", "numba") == ["python 0 0 0", "numba 0 0 0"]


def test_a_loss_is_looked_up_once_for_arguments_of_some_types() -> None:
    @numba.njit
    def loss(p: Any, x: float) -> float:
        return (p * x).sum()

    params = np.ones(3)
    first = _kernels.CompiledLoss.of(loss, (params, 1.0))
    assert _kernels.CompiledLoss.of(loss, (2 * params, 3.0)) is first
    assert _kernels.CompiledLoss.of(loss, (params, 1)) is not first
    assert _kernels.open_loop(first, params.dtype) is _kernels.open_loop(first, params.dtype)
    loss.recompile()
    assert _kernels.CompiledLoss.of(loss, (params, 1.0)) is not first
