"""The benchmarks measure what they say: models agree with each other, peers are stopped in time, targets are kept."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgc

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))

import cold  # noqa: E402
import compiled  # noqa: E402
import floor  # noqa: E402
import loops  # noqa: E402
import measure  # noqa: E402
import memory  # noqa: E402
import networks  # noqa: E402
import peers  # noqa: E402
import readme  # noqa: E402
import scaling  # noqa: E402
from measure import Row  # noqa: E402

SMALL = [networks.network(5, 7, 3, 4), networks.regression(12, 5), networks.lookup(rows=6, columns=3, batch=5)]
IDS = ["network", "regression", "lookup"]


# --- models ---


@pytest.mark.parametrize("n", networks.NETWORKS)
def test_a_network_has_the_size_that_it_is_listed_under(n: int) -> None:
    assert networks.network(*networks.NETWORKS[n]).n == n


def test_the_regression_has_as_many_parameters_as_asked_for() -> None:
    assert networks.regression().n == 20_000


@pytest.mark.parametrize("problem", SMALL, ids=IDS)
def test_both_losses_and_the_gradient_of_a_model_agree(problem: networks.Problem) -> None:
    value = compiled.LOSSES[problem.loss](fastgc.record(problem.params), *problem.args)
    assert value == pytest.approx(problem.loss(problem.params, *problem.args), rel=1e-12)
    report = fastgc.check_gradients(problem.loss, problem.gradients, problem.params, args=problem.args, samples="all")
    assert report.passed, report


@pytest.mark.parametrize("problem", SMALL, ids=IDS)
def test_a_planted_bug_is_in_one_entry_that_is_not_zero(problem: networks.Problem) -> None:
    right = loops.flat(problem.gradients(problem.params, *problem.args))
    wrong = loops.flat(problem.planted().gradients(problem.params, *problem.args))
    different = np.flatnonzero(right != wrong)
    assert different.size == 1
    assert wrong[different] == 1.5 * right[different] != 0


@pytest.mark.parametrize("problem", SMALL[:2], ids=IDS[:2])
def test_the_models_of_torch_are_the_same(problem: networks.Problem) -> None:
    torch = pytest.importorskip("torch")
    import torch_peers

    forward, backward = torch_peers.MODELS[problem.loss](*map(torch.from_numpy, problem.args))
    value, kept = forward(*map(torch.from_numpy, problem.params.values()))
    assert float(value) == pytest.approx(problem.loss(problem.params, *problem.args), rel=1e-12)
    right = problem.gradients(problem.params, *problem.args)
    for found, expected in zip(backward(*kept), right.values(), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-15)
    assert torch_peers.GradCheck(problem, fast=False)()
    check = torch_peers.GradCheck(problem.planted(), fast=False)
    assert not check()
    assert "Jacobian mismatch" in check.message


@pytest.mark.parametrize("problem", SMALL[:2], ids=IDS[:2])
def test_the_models_of_jax_are_the_same(problem: networks.Problem) -> None:
    pytest.importorskip("jax")
    import jax_peers

    right = loops.flat(problem.gradients(problem.params, *problem.args))
    for kind in ("single", "vmap", "map"):
        found = jax_peers.quotients(problem, kind, block=8)(problem.n)
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-9)
    assert jax_peers.whole(problem)()
    assert not jax_peers.whole(problem.planted(factor=-20.0))()


def test_the_loops_agree_with_the_analytic_gradient_and_leave_the_parameters() -> None:
    problem = SMALL[0]
    right, before = loops.flat(problem.gradients(problem.params, *problem.args)), loops.flat(problem.params)
    assert loops.agree(right, loops.copying(loops.OnVector(problem, lambda: None), before))
    assert loops.agree(right, loops.flat(loops.in_place(problem.loss, problem.params, problem.args)))
    assert np.array_equal(loops.flat(problem.params), before)
    assert not loops.agree(right, 1.001 * right)


BLAS_OF_JITTED_CODE = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
import compiled, fastgc, networks, threadpoolctl
before = len(threadpoolctl.threadpool_info())
problem = networks.network(5, 7, 3, 4)
compiled.network_loss(fastgc.record(problem.params), *problem.args)
print(len(threadpoolctl.threadpool_info()) - before)
"""


def test_the_blas_of_jitted_code_is_loaded_before_threads_are_limited() -> None:
    assert measure.process("-c", BLAS_OF_JITTED_CODE).strip() == "0"


# --- rows and timing ---


@pytest.mark.parametrize(
    ("value", "bound", "met"),
    [(1.0, "<= 1.0", True), (1.1, "<= 1.0", False), (2.0, ">= 2", True), (1.9, ">= 2", False), (1.0, "== 1", True),
     (0.0, "== 1", False), (math.nan, "<= 1", False), (math.nan, "", True)],
)  # fmt: skip
def test_a_row_knows_whether_its_bound_is_kept(value: float, bound: str, met: bool) -> None:
    assert Row("part", "what", value, bound).met is met


@pytest.mark.parametrize(("value", "status"), [(0.9, 0), (1.1, 1)])
def test_the_exit_status_says_whether_a_target_was_missed(
    value: float, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(json=tmp_path / "out.json", quick=False)
    assert measure.conclude([Row("a", "b", value, "<= 1"), Row("a", "c", 7)], options, {"cores": 2}, rounds=3) == status
    assert f"{status} of 1 targets missed" in capsys.readouterr().out
    found = json.loads(options.json.read_text())
    assert (found["machine"], found["rounds"], found["quick"]) == ({"cores": 2}, 3, False)
    assert [row["met"] for row in found["rows"]] == [status == 0, True]


def test_runs_take_turns_and_turn_round() -> None:
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name) or float(len(order))) for name in "abc"}
    found = measure.in_turn(runs, 2)
    assert "".join(order) == "abccba"
    assert found == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}
    assert measure.ratio([4, 9, 100], [2, 3, 1]) == 3


def test_the_machine_is_described() -> None:
    about = measure.machine()
    assert about["cores"] >= 1
    assert about["numpy"] == np.__version__
    assert "no-such-package" not in about
    assert measure.version("no-such-package") is None


def test_a_process_keeps_the_bytecode_of_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert measure.process("-c", "import sys; print(sys.dont_write_bytecode)").strip() == "False"


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux")
def test_the_peak_of_memory_begins_anew() -> None:
    array = np.ones(2_000_000)
    del array
    measure.forget_peak()
    assert abs(measure.resident("VmHWM") - measure.resident("VmRSS")) < 4_000_000


# --- peers ---


def named(name: str) -> peers.Peer:
    return next(peer for peer in peers.PEERS if peer.name == name)


NAMES = [peer.name for peer in peers.PEERS if peer.needs == "numpy" and peer.threaded]


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_judges_and_is_stopped_after_as_many_evaluations_as_it_was_given(name: str) -> None:
    problem = networks.network(6, 8, 3, 4, seed=1)
    peer = named(name)
    contest = peers.Contest(peer, problem, peer.prepare(problem))
    contest()
    assert (contest.verdict, contest.timed) == (True, problem.n)
    contest.verdict = None
    contest.stopped_after(10 * peer.per_entry)
    assert (contest.verdict, contest.timed) == (None, 10)
    assert peers.verdict_on_planted(contest) is False


def test_a_limit_beyond_the_whole_is_none() -> None:
    problem = SMALL[0]
    contest = peers.Contest(named("in-place loop"), problem, named("in-place loop").prepare(problem))
    contest.stopped_after(1e9)
    assert (contest.limit, contest.verdict) == (math.inf, True)


def test_only_exactly_the_planted_entry_counts_as_named() -> None:
    wrong = SMALL[0].planted()
    assert peers.names_exactly(peers.ours(wrong, samples="all"), wrong)
    assert not peers.names_exactly(peers.ours(SMALL[0], samples="all"), wrong)


def test_targets_are_taken_from_the_fastest_peer_of_a_kind() -> None:
    def contest(name: str) -> Any:
        return peers.Contest(named(name), SMALL[0], lambda count: True)

    contests = {name: contest(name) for name in ("copying loop", "in-place loop", "scipy check_grad")}
    times = {"fastgc": [1.0, 2.0, 1.0], "certified": [0.5, 0.5, 0.5], "copying loop": [9.0, 9.0, 9.0],
             "in-place loop": [4.0, 4.0, 4.0], "scipy check_grad": [0.5, 0.5, 0.5]}  # fmt: skip
    rows = {row.what: row for row in peers.comparisons("t", 2_762, contests, times)}
    central = rows["fastest central-difference peer of NumPy, SciPy, torch / fastgc"]
    assert (central.value, central.bound, central.met) == (4.0, ">= 5", False)
    assert not rows["fastest two-point peer / fastgc"].met
    assert rows["fastest peer, all entries / certified check"].value == 2_762


# --- the other scripts ---


def test_the_bare_loop_computes_the_values_of_all_entries() -> None:
    problem = networks.lookup(rows=6, columns=3, batch=5)
    check, bare = floor.full_check(problem, 2), floor.floor(problem, 2)
    floor.validate(problem, check(), bare())
    with pytest.raises(AssertionError):
        floor.validate(problem, check(), {name: 2 * each for name, each in bare().items()})
    with pytest.raises(AssertionError, match="FAIL"):
        floor.validate(problem, floor.full_check(problem.planted(), 2)(), bare())


def test_threads_are_doubled_up_to_all_of_them() -> None:
    assert scaling.thread_counts(1) == [1]
    assert scaling.thread_counts(2) == [1, 2]
    assert scaling.thread_counts(6) == [1, 2, 4, 6]


@pytest.mark.parametrize("name", ["NumPy loss: in-place loop", "NumPy loss: fastgc"])
def test_both_cold_processes_reach_a_verdict(name: str) -> None:
    assert cold.PROCESSES[name]() is True


def test_the_memory_of_a_case_is_held_against_its_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"n": 10, "verdict": "pass", "evaluations": 3, "seconds": 1.0, "bytes": 100, "held": 100, "peak": 441}
    monkeypatch.setattr(memory, "process", lambda *_: json.dumps(found))
    last = list(memory.rows_of("numba, 2 threads", quick=True))[-1]
    assert last.value == pytest.approx(441 / 400)
    assert not last.met
    assert list(memory.rows_of("every entry of 2 million", quick=True))[-1].bound == ""
    found["held"] = 200
    last = list(memory.rows_of("points=2", quick=True))[-1]
    assert last.value == pytest.approx(441 / (200 + 2 * 100 + 2 * 100))


@pytest.mark.parametrize("case", [case for case in memory.CASES if "numba" not in case])
def test_each_case_of_memory_is_decided(case: str) -> None:
    small = networks.lookup(rows=100) if "every entry" in case else networks.network(20, 30, 10, 2)
    problem, gradients, further = memory.prepared(case, small)
    report = memory.check(case, problem, gradients, further)
    assert report.verdict == ("fail" if case == "previous" else "pass")


# --- the table in README ---

MACHINE = {"processor": "P", "cores": 2, "load": 0.1, "platform": "L", "python": "3.12", "fastgc": "1", "numpy": "2.0"}
LINES = [
    {"problem": "n = 9: x", "peer": peer, "microseconds": us, "ratio": ratio, "right": right}
    for peer, us, ratio, right in [("fastgc", 9.0, 1.0, "pass"), ("slow one", 90.0, 10.04, "fail")]
]
PEER_ROWS = [{"part": "n = 9: x", "what": "fastest jitted JAX loop / fastgc", "value": 1.94, "bound": ">= 1.8"}]
FLOOR_ROWS = [
    {"part": cost, "what": "check / loop", "value": value, "bound": "<= 1.05"}
    for cost, value in [("1 us", 1.04), ("1 ms", 1.0)]
]


def results(folder: Path, **changed: Any) -> Path:
    peers_found = {"quick": False, "machine": MACHINE, "rows": PEER_ROWS, "lines": LINES}
    (folder / "peers.json").write_text(json.dumps(peers_found))
    floor_found = {"quick": False, "machine": MACHINE | {"load": 0.7}, "rows": FLOOR_ROWS} | changed
    (folder / "floor.json").write_text(json.dumps(floor_found))
    return folder


def test_the_table_holds_what_was_measured_and_on_what(tmp_path: Path) -> None:
    text = "\n".join(readme.table(readme.read(results(tmp_path))))
    assert "On P, 2 cores; python 3.12, fastgc 1, numpy 2.0" in text
    assert "| slow one | 90 (10.0), accuses it wrongly |" in text
    assert "| full check / bare jitted loop; loss of 1 µs to 1 ms | 1.04, 1.00 | <= 1.05 | `bench/floor.py` |" in text
    assert "| fastest jitted JAX loop / fastgc, every entry; by n | 1.9 | >= 1.8 | `bench/peers.py` |" in text
    assert "startup" not in text


def test_results_in_a_hurry_or_of_two_machines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="measured with --quick: floor"):
        readme.read(results(tmp_path, quick=True))
    with pytest.raises(SystemExit, match="different machines or versions"):
        readme.read(results(tmp_path, machine=MACHINE | {"numpy": "2.1"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="no results in"):
        readme.read(tmp_path / "empty")


def test_the_table_is_written_between_its_marks_and_can_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["readme.py", "--results", str(results(tmp_path)), "--readme", str(page)])
    assert readme.main() == 0
    written = page.read_text(encoding="utf-8")
    assert written.startswith(f"before\n{readme.BEGIN}\nOn P")
    assert written.endswith(f"|\n{readme.END}\nafter\n")
    assert "old" not in written
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--check"])
    assert readme.main() == 0
    page.write_text(written.replace("1.04", "1.03"), encoding="utf-8")
    assert readme.main() == 1
    assert "run bench/readme.py" in capsys.readouterr().out


def test_a_page_without_the_marks_is_an_error() -> None:
    with pytest.raises(SystemExit, match="needs the lines"):
        readme.inserted("no marks", iter(["x"]))


def test_the_readme_has_the_marks_and_every_selected_row_is_of_a_script() -> None:
    text = (BENCH.parent / "README.md").read_text(encoding="utf-8")
    assert text.count(readme.BEGIN) == text.count(readme.END) == 1
    assert {each.script for each in readme.SELECTIONS} <= set(readme.SCRIPTS)
    assert all((BENCH / f"{name}.py").exists() for name in readme.SCRIPTS)
