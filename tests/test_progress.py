"""The progress bar: one, over entries, with the tensor at work and the failures; silence where none was asked for."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numba
import numpy as np
import pytest
import tqdm.auto

import fastgc
from fastgc import _progress as progress_module
from fastgc._progress import duration
from tests.support.clock import Clock, ends

Tensors = dict[str, np.ndarray]


class Bar:
    """Stands in for tqdm's bar and notes what it is told."""

    made: list[Bar]

    def __init__(self, iterable: Any = None, *, total: int | None = None, **options: Any) -> None:
        self.total, self.options = total, options
        self.n, self.closed = 0, False
        self.descriptions: list[str] = []
        self.postfixes: list[dict[str, Any]] = []
        self.written: list[str] = []
        type(self).made.append(self)

    def update(self, n: int = 1) -> None:
        assert not self.closed
        self.n += n

    def set_description(self, desc: str | None = None, refresh: bool = True) -> None:
        self.descriptions.append(desc or "")

    set_description_str = set_description

    def set_postfix(self, ordered_dict: Any = None, refresh: bool = True, **values: Any) -> None:
        self.postfixes.append(dict(ordered_dict or {}) | values)

    def write(self, text: str, file: Any = None) -> None:
        self.written.append(text)

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    Bar.made = []
    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    return Bar.made


def loss(p: Any) -> float:
    return np.sum(np.sin(p["first"])) + np.sum(np.cos(p["second"]))


LOSSES = {"python": loss, "numba": numba.njit(loss)}  # compiled once for all tests


def gradients(p: Tensors) -> Tensors:
    return {"first": np.cos(p["first"]), "second": -np.sin(p["second"])}


@pytest.fixture
def params() -> Tensors:
    rng = np.random.default_rng(0)
    return {"first": rng.uniform(0.2, 1, (7, 10)), "second": rng.uniform(0.2, 1, 5)}


@pytest.mark.parametrize("engine", ["python", "numba"])
@pytest.mark.parametrize(("samples", "total"), [("all", 75), (32, 37), (3, 6)])
def test_one_bar_over_all_entries(params: Tensors, bars: list[Bar], samples: Any, total: int, engine: str) -> None:
    fastgc.check_gradients(LOSSES[engine], gradients, params, samples=samples, engine=engine, progress=True)
    assert len(bars) == 1
    assert bars[0].total == bars[0].n == total
    assert bars[0].options["unit"] == "entry"
    assert bars[0].closed


@pytest.mark.parametrize("engine", ["python", "numba"])
def test_it_names_the_tensor_at_work(params: Tensors, bars: list[Bar], engine: str) -> None:
    fastgc.check_gradients(LOSSES[engine], gradients, params, engine=engine, progress=True)
    assert "first to second" in bars[0].descriptions  # they are small, and measured together
    large = {"first": np.ones(1500), "second": np.ones(1500)}
    fastgc.check_gradients(LOSSES[engine], gradients, large, engine=engine, samples="all", progress=True)
    assert [text for text in bars[1].descriptions if text in params] == ["first", "second"]


def test_it_counts_the_failures(params: Tensors, bars: list[Bar]) -> None:
    wrong = gradients(params)
    wrong["second"][:3] *= 2
    fastgc.check_gradients(loss, wrong, params, progress=True)
    assert 3 in bars[0].postfixes[-1].values()
    fastgc.check_gradients(loss, gradients, params, progress=True)
    assert 0 in bars[1].postfixes[-1].values()


def test_several_points_share_a_bar(params: Tensors, bars: list[Bar]) -> None:
    fastgc.check_gradients(loss, gradients, params, samples=4, points=3, progress=True)
    assert len(bars) == 1
    assert bars[0].total == bars[0].n == 24


def test_failures_of_several_points_add_up(params: Tensors, bars: list[Bar]) -> None:
    report = fastgc.check_gradients(
        loss, lambda p: {name: 2 * g for name, g in gradients(p).items()}, params, samples=4, points=3, progress=True
    )
    failed = sum(len(tensor.wrong_entries) for tensor in report.tensors.values())
    assert failed in bars[0].postfixes[-1].values()


def test_only_the_tensors_asked_for_are_counted(params: Tensors, bars: list[Bar]) -> None:
    fastgc.check_gradients(loss, gradients, params, tensors="second", progress=True)
    assert bars[0].total == bars[0].n == 5
    assert "first" not in bars[0].descriptions


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_it_is_closed_after_an_exception(params: Tensors, bars: list[Bar], error: type[BaseException]) -> None:
    calls = 0

    def fails(p: Tensors) -> float:
        nonlocal calls
        calls += 1
        if calls > (60 if error is KeyboardInterrupt else 0):
            raise error("enough")
        return float(loss(p))

    with pytest.raises(error, match="interrupted" if error is KeyboardInterrupt else "enough"):
        fastgc.check_gradients(fails, gradients, params, progress=True)
    assert bars[0].closed
    assert bars[0].n < bars[0].total


def test_numerical_gradient_has_one_too(bars: list[Bar]) -> None:
    fastgc.numerical_gradient(lambda x: x @ x, np.ones(9), progress=True)
    assert len(bars) == 1
    assert bars[0].total == bars[0].n == 9
    assert bars[0].closed


def test_the_real_bar_is_drawn_on_standard_error(params: Tensors, capsys: pytest.CaptureFixture[str]) -> None:
    fastgc.check_gradients(loss, gradients, params, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "37/37" in captured.err
    assert "second" in captured.err


def test_nothing_is_printed_unless_asked_for(params: Tensors, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = {name: 2 * g for name, g in gradients(params).items()}
    fastgc.check_gradients(loss, wrong, params)
    fastgc.check_gradients(LOSSES["numba"], wrong, params, engine="numba")
    fastgc.numerical_gradient(loss, params)
    fastgc.gradient_check(lambda x: x @ x, lambda x: x, np.ones(3))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("progress", "imported"), [(False, "False"), (True, "True")])
def test_tqdm_is_imported_only_for_a_bar(progress: bool, imported: str) -> None:
    code = f"""
        import sys
        import numpy as np
        import fastgc
        fastgc.check_gradients(lambda p: p @ p, lambda p: 2 * p, np.ones(3), crosscheck=False, progress={progress})
        fastgc.numerical_gradient(lambda p: p @ p, np.ones(3), progress={progress})
        print("tqdm" in sys.modules)
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == imported


# --- how long it takes ---


def arrivals(clock: Clock, monkeypatch: pytest.MonkeyPatch, wrong: int, **options: Any) -> list[tuple[float, float]]:
    """When each estimate of the end was made and what it was, as shares of the time that a check took."""

    def slow(p: Tensors) -> float:
        clock.seconds += 0.01
        return float(loss(p))

    p = {"first": np.linspace(0.2, 1, 700).reshape(70, 10), "second": np.linspace(0.2, 1, 100)}
    off = gradients(p)
    off["first"].reshape(-1)[: 7 * wrong] *= 1.5
    off["second"][:wrong] *= 1.5
    options |= {"samples": "all", "progress": True, "crosscheck": False}
    return ends(clock, monkeypatch, lambda: fastgc.check_gradients(slow, off, p, **options))


@pytest.mark.parametrize("wrong", [0, 1, 100], ids=["none", "1 %", "all"])
def test_the_end_is_foreseen_from_a_tenth_of_the_way_on(
    wrong: int, bars: list[Bar], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [end for now, end in arrivals(clock, monkeypatch, wrong) if now >= 0.1]
    assert len(ends) > 100
    assert max(abs(end - 1) for end in ends) <= 0.3


def test_entries_in_doubt_are_added_to_the_total(
    bars: list[Bar], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals(clock, monkeypatch, wrong=100, step=0.05)  # not plainly wrong: so long a step is too uncertain
    assert bars[0].total == bars[0].n > 1500
    assert "in doubt" in bars[0].descriptions


def test_phases_follow_each_other(params: Tensors, bars: list[Bar]) -> None:
    fastgc.check_gradients(loss, gradients, params, progress=True)
    phases = ["first calls", "noise", "probes", "entries"]
    assert [text for text in bars[0].descriptions if text in phases] == phases


def test_a_long_check_is_planned_before_it_begins(
    bars: list[Bar], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals(clock, monkeypatch, wrong=0)
    assert bars[0].written == []
    monkeypatch.setattr(progress_module, "_PLANNED", 1.0)
    arrivals(clock, monkeypatch, wrong=0)
    assert bars[1].written == ["about 16 s"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.31, "0.3 s"), (59.0, "59 s"), (100.0, "100 s"), (5400.0, "90 min"), (75600.0, "21 h")]
)
def test_durations_are_in_the_largest_unit_of_which_there_are_two(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_has_a_line_now_and_then(params: Tensors, capsys: pytest.CaptureFixture[str]) -> None:
    fastgc.check_gradients(loss, gradients, params, samples="all", progress=True)
    assert len(capsys.readouterr().err.splitlines()) <= 6
