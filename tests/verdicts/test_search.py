"""From a suspicious direction to the wrong entries: all of them, nothing but them, and few evaluations on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgc
from tests.support.probing import Array, Params, network, probed, sines, with_error

SHAPE = (100, 50)
DIAGNOSIS = 64  # evaluations that tell the kind of bug, at most


def indices(report: fastgc.GradientReport, name: str = "w") -> list[tuple[int, ...]]:
    return [entry.index for entry in report.tensors[name].wrong_entries]


def scattered(count: int, size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).choice(size, count, replace=False)


def wrong_at(gradients: Params, positions: Any, factor: float = 1.1) -> Params:
    wrong = {name: value.copy() for name, value in gradients.items()}
    wrong["w"].reshape(-1)[positions] *= factor
    return wrong


def right_evaluations(problem: Any, **options: Any) -> int:
    return int(probed(*problem, **options).evaluations)


# --- single entries ---


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (1000,), (1, 77), (77, 1), (8, 9, 10), (3, 1, 4, 1, 5)])
@pytest.mark.parametrize("place", ["first", "last", "middle"])
def test_one_wrong_entry_is_named_wherever_it_stands(shape: tuple[int, ...], place: str) -> None:
    loss, gradients, params = sines(w=shape, b=6)
    size = gradients["w"].size
    position = {"first": 0, "last": size - 1, "middle": size // 2}[place]
    report = probed(loss, with_error(gradients, "w", 0.1, np.unravel_index(position, shape)), params)
    assert indices(report) == [tuple(int(i) for i in np.unravel_index(position, shape))]
    assert report.tensors["w"].verdict == "fail"
    assert report.tensors["w"].reason.startswith("1 of ")
    assert report.tensors["b"].verdict == "pass"


@given(st.integers(0, 4999), st.integers(0, 10**6), st.floats(1e-4, 10))
@settings(max_examples=12, deadline=None)
def test_any_wrong_entry_above_its_tolerance_is_named(position: int, seed: int, factor: float) -> None:
    loss, gradients, params = sines(w=SHAPE)
    size = max(1e-3, abs(gradients["w"].flat[position]))
    report = probed(loss, with_error(gradients, "w", factor * size, divmod(position, 50)), params, seed=seed)
    assert indices(report) == [divmod(position, 50)]


def test_what_is_named_was_confirmed_one_by_one() -> None:
    problem = sines(w=SHAPE)
    report = probed(problem[0], wrong_at(problem[1], scattered(4, 5000)), problem[2])
    tensor = report.tensors["w"]
    assert len(tensor.wrong_entries) == 4
    assert tensor.checked == len(tensor.entries) < 12
    for entry in tensor.wrong_entries:
        assert entry.verdict == "fail"
        assert entry.numerical == pytest.approx(problem[1]["w"][entry.index], rel=1e-6)
        assert abs(entry.analytic - entry.numerical) > 10 * entry.uncertainty
    assert tensor.worst == tensor.wrong_entries[0]


@pytest.mark.parametrize("shapes", [{"w": (200, 500)}, {"w": 20_000}, {"w": (20, 50, 20), "b": 50, "c": (30, 40)}])
def test_one_wrong_entry_among_many_takes_few_evaluations(shapes: dict[str, Any]) -> None:
    """Among a million in `bench/huge.py`."""
    problem = sines(**shapes)
    before, further = right_evaluations(problem), []
    for seed, position in enumerate(scattered(3, problem[2]["w"].size)):
        report = probed(problem[0], wrong_at(problem[1], position, 1.01), problem[2], seed=seed)
        assert indices(report) == [tuple(int(i) for i in np.unravel_index(position, problem[2]["w"].shape))]
        further.append(report.evaluations - before - DIAGNOSIS)
    assert np.median(further) <= 24
    assert max(further) <= 40


def test_a_wrong_entry_in_one_tensor_leaves_the_directions_of_the_others_shared() -> None:
    loss, gradients, params = sines(w=(30, 40), b=50, c=60)
    right = probed(loss, gradients, params)
    report = probed(loss, with_error(gradients, "b", 0.1, 7), params)
    assert indices(report, "b") == [(7,)]
    for name in ("w", "c"):
        probe = report.tensors[name].probe
        assert report.tensors[name].verdict == "pass"
        assert not probe.seen and report.tensors[name].reason == ""
        assert probe.miss_probability <= 10 * right.tensors[name].probe.miss_probability
        assert np.all(np.abs(probe.residuals) <= probe.uncertainties)


def test_wrong_entries_in_several_tensors_are_all_named() -> None:
    loss, gradients, params = sines(w=(30, 40), b=50, c=60)
    for seed in range(3):
        wrong = with_error(with_error(gradients, "b", 0.1, 7), "w", -0.07, (3, 4))
        report = probed(loss, wrong, params, seed=seed)
        assert (indices(report, "b"), indices(report), indices(report, "c")) == ([(7,)], [(3, 4)], [])
        assert report.tensors["c"].verdict == "pass"


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_slightly_wrong_entry_of_a_network_is_named_exactly(activation: str) -> None:
    loss, gradients, params = network(1, (200, 100, 10), activation, batch=32)
    for name in ("W0", "b0", "W1", "b1"):
        order = np.argsort(np.abs(gradients[name]).reshape(-1))
        index = np.unravel_index(int(order[order.size * 3 // 4]), gradients[name].shape)
        report = probed(loss, with_error(gradients, name, 0.01 * gradients[name][index], index), params)
        assert [(key, e.index) for key, t in report.tensors.items() for e in t.wrong_entries] == [
            (name, tuple(int(i) for i in index))
        ]


# --- several ---


@pytest.mark.parametrize("count", [2, 3, 8, 15])
def test_several_wrong_entries_are_all_named(count: int) -> None:
    problem = sines(w=SHAPE)
    before = right_evaluations(problem)
    for seed in range(2):
        positions = scattered(count, 5000, seed)
        report = probed(problem[0], wrong_at(problem[1], positions), problem[2], seed=seed)
        assert sorted(indices(report)) == sorted(divmod(int(p), 50) for p in positions), seed
        assert "at least" not in report.tensors["w"].reason
        assert report.evaluations - before <= 75 + 75 * count


def test_eight_wrong_entries_among_many_take_few_evaluations() -> None:
    problem = sines(w=(400, 500))
    positions = scattered(8, 200_000)
    report = probed(problem[0], wrong_at(problem[1], positions, 1.01), problem[2])
    assert sorted(indices(report)) == sorted(divmod(int(p), 500) for p in positions)
    assert report.evaluations - right_evaluations(problem) - DIAGNOSIS <= 260


def test_they_come_worst_first() -> None:
    problem = sines(w=SHAPE)
    wrong = {"w": problem[1]["w"].copy()}
    for size, index in ((0.1, (3, 4)), (5.0, (90, 2)), (0.7, (50, 49))):
        wrong["w"][index] += size
    entries = probed(problem[0], wrong, problem[2]).tensors["w"].wrong_entries
    allowed = [abs(e.analytic - e.numerical) / max(abs(e.analytic), abs(e.numerical)) for e in entries]
    assert len(entries) == 3
    assert allowed == sorted(allowed, reverse=True)


def test_entries_whose_errors_cancel_in_the_first_direction_are_named_too() -> None:
    problem = sines(w=60)
    for seed in range(6):
        report = probed(problem[0], with_error(problem[1], "w", 0.1, [7, 31]), problem[2], seed=seed, probes=10)
        assert sorted(indices(report)) == [(7,), (31,)], seed


def test_neighbours_are_told_apart() -> None:
    problem = sines(w=1024)
    report = probed(problem[0], with_error(problem[1], "w", np.array([0.1, 0.25]), [511, 512]), problem[2])
    assert sorted(indices(report)) == [(511,), (512,)]


@pytest.mark.parametrize("count", [17, 40, 300])
def test_more_than_sixteen_are_counted_as_at_least(count: int) -> None:
    problem = sines(w=SHAPE)
    positions = {divmod(int(p), 50) for p in scattered(count, 5000)}
    report = probed(problem[0], wrong_at(problem[1], [50 * i + j for i, j in positions]), problem[2])
    tensor = report.tensors["w"]
    assert tensor.verdict == "fail"
    assert 16 <= len(tensor.wrong_entries) <= 20
    assert set(indices(report)) <= positions
    assert f"at least {len(tensor.wrong_entries)} entries are wrong" in tensor.reason
    assert report.evaluations < 1200


def test_exactly_sixteen_are_all_named() -> None:
    problem = sines(w=SHAPE)
    positions = scattered(16, 5000, 3)
    report = probed(problem[0], wrong_at(problem[1], positions), problem[2])
    assert sorted(indices(report)) == sorted(divmod(int(p), 50) for p in positions)


# --- lines and whole tensors ---


@pytest.mark.parametrize(
    ("shape", "where", "text"),
    [
        ((200, 80), np.s_[17], "all of [17, :] is wrong"),
        ((200, 80), np.s_[:, 79], "all of [:, 79] is wrong"),
        ((60, 5, 40), np.s_[:, 0], "all of [:, 0, :] is wrong"),
        ((16, 8, 3, 3), np.s_[1], "all of [1, :, :, :] is wrong"),
        ((16, 8, 3, 3), np.s_[:, :, 2], "all of [:, :, 2, :] is wrong"),
    ],
)
def test_a_line_that_is_wrong_as_a_whole_is_named(shape: tuple[int, ...], where: Any, text: str) -> None:
    loss, gradients, params = sines(w=shape)
    wrong = {"w": gradients["w"].copy()}
    wrong["w"][where] *= 1.5
    report = probed(loss, wrong, params)
    assert text in report.tensors["w"].reason
    bad = np.zeros(shape, bool)
    bad[where] = True
    assert all(bad[index] for index in indices(report))
    assert report.evaluations - right_evaluations((loss, gradients, params)) - DIAGNOSIS <= 200


@pytest.mark.parametrize(
    ("shape", "where", "text"),
    [
        ((200, 8), np.s_[17], "all of [17, :] is wrong"),
        ((10, 500), np.s_[:, 499], "all of [:, 499] is wrong"),
        ((30, 4, 3), np.s_[29], "all of [29, :, :] is wrong"),
        ((40, 2), np.s_[3], "all of [3, :] is wrong"),
    ],
)
def test_a_line_short_enough_to_be_located_entirely_is_named_too(shape: tuple[int, ...], where: Any, text: str) -> None:
    loss, gradients, params = sines(w=shape)
    wrong = {"w": gradients["w"].copy()}
    wrong["w"][where] *= 1.5
    report = probed(loss, wrong, params)
    assert len(indices(report)) == gradients["w"][where].size
    assert text in report.tensors["w"].reason


def test_small_errors_near_the_noise_are_named_exactly_or_not_at_all() -> None:
    loss, gradients, params = sines(w=(60, 50))
    noise = np.random.default_rng(3)
    noisy = lambda p: loss(p) + 1e-9 * noise.standard_normal()  # noqa: E731
    named = []
    for seed in range(12):
        index = divmod(int(scattered(1, 3000, seed)[0]), 50)
        limit = probed(noisy, gradients, params, seed=seed).tensors["w"].probe.uncertainties
        report = probed(noisy, with_error(gradients, "w", 8 * max(limit), index), params, seed=seed)
        assert set(indices(report)) <= {index}
        named.append(indices(report) == [index])
    assert np.mean(named) >= 0.9


def test_kinks_name_no_entry() -> None:
    for seed in range(3):
        loss, gradients, params = network(seed, (40, 30, 20, 5), "relu", biases=0.0)
        report = probed(loss, gradients, params, seed=seed)
        assert not any(tensor.wrong_entries for tensor in report.tensors.values()), seed
        assert report.verdict != "fail"


def test_a_few_wrong_entries_in_one_line_are_no_line() -> None:
    loss, gradients, params = sines(w=(100, 60))
    wrong = {"w": gradients["w"].copy()}
    wrong["w"][31, [2, 20, 50]] *= 1.5
    report = probed(loss, wrong, params)
    assert sorted(indices(report)) == [(31, 2), (31, 20), (31, 50)]
    assert "all of" not in report.tensors["w"].reason


@pytest.mark.parametrize(("shape", "count"), [((40, 3), 2), ((40, 6), 5), ((5, 4, 2), 7)])
def test_a_short_line_with_one_right_entry_is_no_line(shape: tuple[int, ...], count: int) -> None:
    loss, gradients, params = sines(w=shape)
    wrong = {"w": gradients["w"].copy()}
    wrong["w"][3].reshape(-1)[:count] *= 1.5
    for seed in range(5):
        report = probed(loss, wrong, params, seed=seed)
        assert len(indices(report)) == count
        assert "all of [3" not in report.tensors["w"].reason, seed


def test_one_wrong_entry_is_no_line() -> None:
    loss, gradients, params = sines(w=(30, 1))
    report = probed(loss, with_error(gradients, "w", 0.5, (4, 0)), params)
    assert report.tensors["w"].reason == "1 of 1 checked entry differs"


@pytest.mark.parametrize("factor", [-1.0, 0.0, 1.01, 2.0])
def test_a_wholly_wrong_tensor_is_not_halved(factor: float) -> None:
    problem = sines(w=SHAPE, b=(20, 40))
    wrong = {"w": factor * problem[1]["w"], "b": problem[1]["b"]}
    samples = {"samples": 8, "crosscheck": False}
    without = fastgc.check_gradients(problem[0], wrong, problem[2], probes=0, **samples)  # type: ignore[arg-type]
    report = fastgc.check_gradients(problem[0], wrong, problem[2], **samples)  # type: ignore[arg-type]
    assert report.tensors["w"].verdict == "fail"
    assert report.tensors["b"].verdict == "pass"
    assert len(report.tensors["w"].wrong_entries) == len(report.tensors["w"].entries) == 8
    assert report.evaluations - without.evaluations <= 100


def test_a_wholly_wrong_tensor_is_soon_recognised_without_samples() -> None:
    problem, evaluations = sines(w=SHAPE), []
    for seed in range(5):  # of 150 seeds: 650 on average, with a standard deviation of 130, 940 at most
        report = probed(problem[0], {"w": 1.01 * problem[1]["w"]}, problem[2], seed=seed)
        tensor = report.tensors["w"]
        assert tensor.verdict == "fail"
        assert "at least" in tensor.reason
        assert len(tensor.wrong_entries) >= 3
        evaluations.append(report.evaluations - right_evaluations(problem))
    assert np.mean(evaluations) <= 750
    assert max(evaluations) <= 1000


# --- differences within tolerance ---


def test_a_gradient_stored_in_float32_passes_by_its_own_rtol() -> None:
    loss, gradients, params = sines(w=(300, 20))
    report = probed(loss, {"w": gradients["w"].astype(np.float32)}, params)
    assert report.passed
    assert report.tensors["w"].reason == ""  # its rounding counts as uncertainty


@pytest.mark.parametrize("seed", range(4))
def test_a_gradient_rounded_to_float32_passes_at_a_tighter_rtol(seed: int) -> None:
    loss, gradients, params = sines(w=(300, 20))
    rounded = {"w": gradients["w"].astype(np.float32).astype(np.float64)}
    report = probed(loss, rounded, params, seed=seed, rtol=1e-5)
    tensor = report.tensors["w"]
    assert report.passed
    assert tensor.reason == "differences below rtol"
    assert not tensor.wrong_entries
    assert tensor.probe.seen
    assert 1e-9 < tensor.probe.relative_error < 1e-7
    assert "differences below rtol" in str(report)


def test_a_wrong_entry_is_found_among_rounded_ones() -> None:
    loss, gradients, params = sines(w=(300, 20))
    rounded = {"w": gradients["w"].astype(np.float32).astype(np.float64)}
    rounded["w"][123, 4] += 0.01
    report = probed(loss, rounded, params)
    tensor = report.tensors["w"]
    assert indices(report) == [(123, 4)]
    assert "at least" not in tensor.reason  # the others are within tolerance, and were not counted


def test_many_small_differences_that_are_above_rtol_together_fail() -> None:
    loss, gradients, params = sines(w=(100, 100))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        wrong = {"w": gradients["w"] * (1 + 3e-4 * rng.standard_normal((100, 100)))}
        report = probed(loss, wrong, params, seed=seed)
        assert report.verdict == "fail", seed


def test_many_differences_each_within_its_tolerance_fail_where_their_norm_is_above_rtol() -> None:
    loss, gradients, params = sines(w=400)
    rng = np.random.default_rng(0)
    wrong = {"w": gradients["w"] + 0.01 * rng.choice([-1, 1], 400)}
    report = probed(loss, wrong, params, atol=0.02, rtol=1e-5, probes=6)
    assert report.verdict == "fail"
    assert report.tensors["w"].reason == "many small differences, together above rtol"
    assert not report.tensors["w"].wrong_entries


def test_a_difference_just_below_rtol_everywhere_passes() -> None:
    loss, gradients, params = sines(w=(50, 40))
    for seed in range(3):
        signs = np.random.default_rng(seed).choice([-1, 1], (50, 40))
        report = probed(loss, {"w": gradients["w"] * (1 + 0.3e-5 * signs)}, params, seed=seed)
        assert report.passed, seed
        assert report.tensors["w"].reason == "differences below rtol"


def test_entries_that_bend_more_than_a_whole_direction_are_followed_by_ladders() -> None:
    """Along equal signs the loss is straight, so that the first direction promises more than single entries keep."""
    params = {"w": np.array([0.3, 0.5])}
    loss = lambda p: float(np.sin(20 * (p["w"][0] - p["w"][1])) + p["w"].sum())  # noqa: E731
    slope = 20 * np.cos(20 * (0.3 - 0.5))
    gradients = {"w": np.array([1 + slope, 1 - slope])}
    for seed in range(10):
        right = probed(loss, gradients, params, seed=seed, rtol=1e-12)
        assert right.passed
        size = max(3 * right.tensors["w"].probe.entry_limit, 1e-9)  # some 50 uncertainties of the entry itself
        wrong = with_error(gradients, "w", size, 1)
        assert indices(probed(loss, wrong, params, seed=seed, rtol=1e-12)) == [(1,)]


def test_what_led_nowhere_limits_what_is_claimed() -> None:
    loss, gradients, params = sines(w=(300, 20))
    right = probed(loss, gradients, params).tensors["w"].probe
    rounded = {"w": gradients["w"].astype(np.float32).astype(np.float64)}
    found = probed(loss, rounded, params).tensors["w"].probe
    assert max(found.uncertainties) > 10 * max(right.uncertainties)
    assert 2 * max(found.uncertainties) >= max(map(abs, found.residuals))
