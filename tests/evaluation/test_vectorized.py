"""Losses with a leading batch axis: blocks, what they may return, domain edges, rows kept apart."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

import fastgc
from fastgc._evaluation import vectorized as _vectorized
from fastgc._evaluation.vectorized import as_values
from tests.support.clock import Clock
from tests.support.concurrency import at_once
from tests.support.layouts import Array, array

X = np.random.default_rng(0).normal(size=(6, 4))


def rows(value: Array) -> Array:
    """The sum of each row's entries."""
    return np.asarray(value.reshape(len(value), -1).sum(axis=1))


def square(p: Array) -> Array:
    return rows(p**2)


def double(p: Array) -> Array:
    return 2 * p


def net(p: Any, x: Array) -> Array:
    hidden = np.tanh(x @ p["w"] + p["b"][:, None, :])
    return rows(hidden**2) + p["scale"] ** 2 + rows(p["none"])


def net_loop(p: Any, x: Array) -> float:
    return float(net({name: value[None] for name, value in p.items()}, x)[0])


def net_gradients(p: Any, x: Array) -> dict[str, Array]:
    hidden = np.tanh(x @ p["w"] + p["b"])
    d = 2 * hidden * (1 - hidden**2)
    return {"w": x.T @ d, "b": d.sum(axis=0), "scale": 2 * p["scale"], "none": np.zeros((0, 2))}


def net_params(kind: str = "f8") -> dict[str, Array]:
    rng = np.random.default_rng(1)
    w = np.asfortranarray(rng.normal(size=(4, 3)))
    return {"w": w.astype(kind), "b": np.ones(3, kind), "scale": np.array(1.5, kind), "none": np.zeros((0, 2), kind)}


# --- the same answers as one call after another ---

OPTIONS: list[dict[str, Any]] = [
    {},
    {"samples": "all"},
    {"samples": 2, "probes": 4},
    {"stencil": "complex_step"},
    {"stencil": "five_point", "points": 3},
    {"step": 1e-4, "samples": "all"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_vectorized_loss_is_judged_as_its_loop_is(options: dict[str, Any]) -> None:
    def loop(p: Any, x: Array) -> Any:
        value = net({name: each[None] for name, each in p.items()}, x)[0]
        return value if options.get("stencil") == "complex_step" else float(value)

    together = fastgc.check_gradients(net, net_gradients, net_params(), args=(X,), vectorized=True, **options)
    apart = fastgc.check_gradients(loop, net_gradients, net_params(), args=(X,), **options)
    assert together.engine == "python (vectorized)" and together.passed and apart.passed
    for name, tensor in together.tensors.items():
        other = apart.tensors[name]
        assert [entry.index for entry in tensor.entries] == [entry.index for entry in other.entries]
        for mine, theirs in zip(tensor.entries, other.entries, strict=True):
            assert abs(mine.numerical - theirs.numerical) <= 2 * (mine.uncertainty + theirs.uncertainty)


def test_a_wrong_entry_is_found_by_probes_and_bisection() -> None:
    params = np.random.default_rng(2).normal(size=3000)

    def wrong(p: Array) -> Array:
        slopes = 2 * p
        slopes[1234] += 1
        return slopes

    report = fastgc.check_gradients(square, wrong, params, vectorized=True, samples=4)
    assert [entry.index for entry in report.tensors["params"].wrong_entries] == [(1234,)]


def test_single_precision_stays_single_in_native_precision() -> None:
    seen: set[Any] = set()

    def watching(p: Array) -> Array:
        seen.add(p.dtype)
        return square(p)

    for precision, dtype in (("native", np.float32), ("double", np.float64)):
        seen.clear()
        report = fastgc.check_gradients(
            watching, double, array(5).astype("f4"), vectorized=True, precision=precision, step=2.0**-7
        )
        assert report.verdict != "fail" and seen == {np.dtype(dtype)}


def test_gradients_receive_the_plain_parameters() -> None:
    shapes: list[Any] = []

    def watching(p: Any, x: Array) -> dict[str, Array]:
        shapes.append({name: value.shape for name, value in p.items()})
        return net_gradients(p, x)

    fastgc.check_gradients(net, watching, net_params(), args=(X,), vectorized=True)
    assert shapes == [{"w": (4, 3), "b": (3,), "scale": (), "none": (0, 2)}]


def test_the_callers_arrays_are_left_as_they_are() -> None:
    params = net_params()
    before = {name: value.tobytes() for name, value in params.items()}

    assert fastgc.check_gradients(net, net_gradients, params, args=(X,), vectorized=True).passed
    assert {name: value.tobytes() for name, value in params.items()} == before


def test_a_loss_cannot_write_into_its_parameters() -> None:
    def careless(p: Array) -> Array:
        p[:, 0] = 0.0
        return square(p)

    with pytest.raises(ValueError, match="read-only"):
        fastgc.check_gradients(careless, double, array(20), vectorized=True)


# --- blocks ---


def test_tensors_that_are_not_displaced_are_not_copied() -> None:
    seen: list[tuple[str, int]] = []

    def watching(p: Any, x: Array) -> Array:
        views = [name for name, value in p.items() if value.size and value.strides[0] == 0]
        assert not any(value.flags.writeable for value in p.values())
        seen.append((",".join(name for name in ("w", "b", "scale") if name not in views), len(p["w"])))
        return net(p, x)

    report = fastgc.check_gradients(
        watching, net_gradients, net_params(), args=(X,), vectorized=True, samples="all", probes=0, crosscheck=False
    )
    assert {("w", 24), ("b", 6), ("scale", 2)} <= set(seen)  # two values for each entry, one tensor at a time
    assert sum(rows for _, rows in seen) == report.evaluations


def largest_batch(loss: Callable[[Array], Array], params: Array) -> int:
    batches: list[int] = []

    def watching(p: Array) -> Array:
        batches.append(len(p))
        return loss(p)

    report = fastgc.check_gradients(watching, double, params, vectorized=True, samples="all", crosscheck=False)
    assert report.passed
    return max(batches)


def hungry(p: Array) -> Array:
    return rows(np.repeat(p[:, None] ** 2, 1000, axis=1)) / 1000


def test_blocks_are_as_large_as_memory_allows_and_a_row_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    params = array(100)
    assert largest_batch(square, params) == 200
    monkeypatch.setattr(_vectorized, "_MOST_ROWS", 64)
    assert largest_batch(square, params) == 64
    monkeypatch.setattr(_vectorized, "_BLOCK_BYTES", 20 * params.nbytes)
    assert 2 < largest_batch(square, params) <= 10  # the squares count as well
    assert largest_batch(hungry, params) == 2  # of the trial that rows are kept apart
    monkeypatch.setattr("fastgc._evaluation.memory_left.available", lambda: 1.0)
    assert largest_batch(square, params) == 2


def test_what_the_loss_allocates_counts_while_memory_is_traced_too() -> None:
    tracemalloc.start()
    try:
        assert largest_batch(hungry, array(100)) < 100
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    largest_batch(square, array(3))
    assert not tracemalloc.is_tracing()


def test_blocks_of_any_length_give_the_same_values_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> Any:
        ticks: list[int] = []
        monkeypatch.setattr("fastgc._progress.Progress.advance", lambda self, entries: ticks.append(entries))
        report = fastgc.check_gradients(net, net_gradients, net_params(), args=(X,), vectorized=True, samples="all")
        return report.to_dict()["tensors"], sum(ticks), len(ticks)

    whole, ticks, calls = check()
    monkeypatch.setattr(_vectorized, "_MOST_ROWS", 5)
    pieces, ticks_in_pieces, more_calls = check()
    assert whole == pieces
    assert ticks == ticks_in_pieces == 16 and more_calls > calls


def test_a_vectorized_check_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(_vectorized, "_MOST_ROWS", 8)

    def slow(p: Array) -> Array:
        clock.seconds += 1e-3 * len(p)
        return square(p)

    report = fastgc.check_gradients(slow, double, array(1000), vectorized=True, samples="all", time_budget=0.3)
    assert report.evaluations <= 320
    assert report.verdict == "undecided" and "not reached" in report.tensors["params"].reason


def test_the_complex_step_decides_what_noise_hides_from_blocks_too() -> None:
    def offset(p: Array) -> Array:
        return np.sum(p * p, axis=1) + 1e14

    start = np.linspace(0.3, 1.5, 6)
    together = fastgc.check_gradients(offset, double, start, vectorized=True, samples="all")
    apart = fastgc.check_gradients(lambda p: np.sum(p * p) + 1e14, double, start, samples="all")
    assert any("complex step decided" in note for note in apart.notes)
    assert together.notes == apart.notes and together.verdict == apart.verdict == "pass"


# --- what the loss may return ---

WRONG_SHAPES: dict[str, tuple[Callable[[Array], Any], str]] = {
    "one number": (lambda p: float(np.sum(p**2)), r"shape \(\) for a batch of 1; .* shape \(1,\)"),
    "a column": (lambda p: square(p)[:, None], r"shape \(1, 1\) for a batch of 1"),
    "no reduction": (lambda p: p**2, r"shape \(1, 3\) for a batch of 1"),
    "the sum of the batch": (lambda p: np.array([np.sum(p**2)]), r"shape \(1,\) for a batch of 2; .* shape \(2,\)"),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_a_wrong_shape_is_named_beside_the_right_one(name: str) -> None:
    loss, message = WRONG_SHAPES[name]
    with pytest.raises(ValueError, match=f"vectorized=True, but loss returned {message}"):
        fastgc.check_gradients(loss, double, array(3), vectorized=True)


@pytest.mark.parametrize("value", [None, "text", [1j], [[1.0], [1.0, 2.0]], [None]])
def test_what_is_no_array_of_real_numbers_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"vectorized=True, but loss returned a .* it must return one\s+real number"):
        fastgc.check_gradients(lambda p: value, double, array(3), vectorized=True)


def test_lists_integers_and_single_precision_are_numbers() -> None:
    assert as_values([1, 2], 2, np.float64).tolist() == [1.0, 2.0]
    assert as_values(np.ones(2, "f4"), 2, np.float64).dtype == np.float64
    assert as_values([1j], 1, np.complex128).tolist() == [1j]
    buffer = np.zeros(2)
    values = as_values(buffer, 2, np.float64)
    buffer[:] = 9.0  # a loss may use one buffer again and again
    assert values.tolist() == [0.0, 0.0]


def test_a_loss_that_is_not_finite_at_the_point_is_refused() -> None:
    with pytest.raises(ValueError, match="loss is nan at params"):
        fastgc.check_gradients(lambda p: rows(p) * math.nan, double, array(3), vectorized=True)


# --- rows are kept apart ---

MIXING: dict[str, Callable[[Array], Array]] = {
    "the first row for all": lambda p: np.broadcast_to(square(p[:1]), (len(p),)),
    "a mean of the batch": lambda p: square(p) + 0.1 * p.mean(),
    "one row for another": lambda p: square(p[::-1]),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_loss_that_mixes_rows_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"of a batch: the same parameters give [\d.]+ alone and [\d.]+ in a batch"):
        fastgc.check_gradients(MIXING[name], double, array(3), vectorized=True)


def test_a_noisy_loss_is_not_said_to_mix_rows() -> None:
    noise = np.random.default_rng(0)
    report = fastgc.check_gradients(lambda p: square(p) + 1e-7 * noise.normal(size=len(p)), double, array(3),
                                    vectorized=True)  # fmt: skip
    assert report.verdict != "fail" and any("noisy" in note for note in report.notes)


# --- the edge of the domain ---


def picky(error: Exception, edge: float) -> Callable[[Array], Array]:
    def loss(p: Array) -> Array:
        if (p[:, 0] < edge).any():
            raise error
        return rows(p**2)

    return loss


@pytest.mark.parametrize(
    "error", [ValueError("math domain error"), ZeroDivisionError("zero"), np.linalg.LinAlgError("not definite")]
)
def test_rows_outside_the_domain_do_not_spoil_their_block(error: Exception) -> None:
    params = np.array([0.5, 1.0, 2.0])
    report = fastgc.check_gradients(picky(error, 0.5), double, params, vectorized=True, samples="all")
    assert report.passed, str(report)
    assert fastgc.check_gradients(picky(error, 0.5), lambda p: 3 * p, params, vectorized=True).verdict == "fail"


def test_the_trial_of_rows_may_lie_outside_the_domain() -> None:
    point = array(3)

    def lonely(p: Array) -> Array:
        if (p != point).any():
            raise ZeroDivisionError("beside")
        return square(p)

    with pytest.raises(ZeroDivisionError, match="beside"):
        fastgc.check_gradients(lonely, double, point, vectorized=True)


def test_a_block_too_large_for_memory_is_taken_row_by_row() -> None:
    def cramped(p: Array) -> Array:
        if len(p) > 3:
            raise MemoryError
        return square(p)

    cut = fastgc.check_gradients(cramped, double, array(20), vectorized=True)
    assert cut.passed
    assert cut.evaluations == fastgc.check_gradients(square, double, array(20), vectorized=True).evaluations


@pytest.mark.parametrize("error", [MemoryError("always"), KeyError("W"), ValueError("bad shape")])
def test_exceptions_beside_the_point_are_noted_with_the_row_that_raised(error: Exception) -> None:
    def failing(p: Array) -> Array:
        if (p[:, 3] < 0.02).any():
            raise error
        return rows(np.sin(p))

    params = np.full(20, 0.5)
    params[3] = 0.03
    report = fastgc.check_gradients(failing, np.cos, params, vectorized=True, samples="all", step=0.02)
    assert any(f"the loss raised {type(error).__name__}" in note for note in report.notes), str(report)
    assert any("first at params[3] = 0.01)" in note for note in report.notes), str(report)
    assert report.passed
    wrong = fastgc.check_gradients(failing, lambda p: 2 * np.cos(p), params, vectorized=True)
    assert wrong.verdict == "fail" and len(wrong.tensors["params"].wrong_entries) == 20


def test_a_loss_that_takes_one_row_only_is_not_taken_for_undefined() -> None:
    def single(p: Array) -> Array:
        if len(p) > 1:
            raise ValueError("one row only")
        return square(p)

    with pytest.raises(ValueError, match="one row only"):
        fastgc.check_gradients(single, double, array(20), vectorized=True)


@pytest.mark.parametrize("value", [None, "text", 1.0])
def test_values_that_turn_wrong_beside_the_point_are_refused(value: Any) -> None:
    point = array(3)

    def fickle(p: Array) -> Any:
        return square(p) if len(p) < 3 else value

    with pytest.raises((TypeError, ValueError), match="vectorized=True, but loss returned"):
        fastgc.check_gradients(fickle, double, point, vectorized=True)


# --- conflicts ---


def test_a_jitted_loss_is_refused() -> None:
    with pytest.raises(
        ValueError, match="vectorized=True is for a plain Python loss; this one is compiled by Numba: use threads"
    ):
        fastgc.check_gradients(numba.njit(lambda p: p.sum()), double, array(3), vectorized=True)


# --- several threads ---


def test_memory_is_traced_by_one_check_at_a_time_and_then_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    p, found = {"w": np.ones((4, 3)), "b": np.zeros(3), "scale": np.array(2.0), "none": np.zeros((0, 2))}, []
    measured = _vectorized.VectorizedEvaluator._measured

    def noted(evaluator: Any, blocks: Any) -> Any:
        value = measured(evaluator, blocks)
        found.append(evaluator._row_bytes)
        return value

    def loss(params: Any, x: Array) -> Array:
        if tracemalloc.is_tracing():
            time.sleep(0.02)  # others come to where they would trace too
        return net(params, x)

    def check() -> Any:
        return fastgc.check_gradients(loss, net_gradients, p, args=(X,), vectorized=True)

    monkeypatch.setattr(_vectorized.VectorizedEvaluator, "_measured", noted)
    for _ in range(3):
        reports = at_once(*[check] * 4)
        assert [report.verdict for report in reports] == ["pass"] * 4
        assert not tracemalloc.is_tracing()
    assert len(found) == 12 and min(found) >= 8 * 18  # what the hidden layer of a row takes


def test_what_the_user_traces_is_traced_afterwards_too() -> None:
    tracemalloc.start()
    try:
        at_once(*[lambda: fastgc.check_gradients(square, double, array(5), vectorized=True)] * 3)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_an_interrupt_while_memory_is_traced_ends_that() -> None:
    def interrupted(p: Array) -> Array:
        if tracemalloc.is_tracing():
            raise KeyboardInterrupt
        return square(p)

    with pytest.raises(KeyboardInterrupt):
        fastgc.check_gradients(interrupted, double, array(5), vectorized=True)
    assert not tracemalloc.is_tracing()
