"""What random directions say of a tensor: verdicts, limits, shared directions, text and JSON."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastgc
from fastgc._derivatives import directions as _probes
from fastgc._derivatives.random_weights import OF_ENTRY, random_weights
from fastgc._verdicts import probes as probe_module
from tests.support.probing import Params, limit_of, network, probed, sines, with_error
from tests.support.texts import unbroken

Array = NDArray[Any]


def many(count: int, seed: int = 0, size: int = 40, slopes: list[float] | None = None) -> Any:
    """Sines in many tensors of one size, of the given slopes, in one sum."""
    _, gradients, params = sines(seed, **{f"t{i}": size for i in range(count)})
    weights = np.repeat(slopes or [1.0] * count, size) * np.random.default_rng(seed + 1).standard_normal(count * size)
    parts = np.split(weights, count)

    def loss(p: Params) -> float:
        return float(np.dot(weights, np.sin(np.concatenate(list(p.values())))))

    return loss, {name: w * np.cos(params[name]) for name, w in zip(gradients, parts, strict=True)}, params


def indices(report: fastgc.GradientReport) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, entry.index) for name, tensor in report.tensors.items() for entry in tensor.wrong_entries]


# --- verdicts of tensors that probes cannot resolve ---


def noisy(seed: int = 5, level: float = 1e-3) -> Any:
    rng = np.random.default_rng(seed)
    return lambda p: float(np.sum(p**2) * (1 + level * rng.standard_normal()))


def test_a_noisy_loss_is_undecided_without_samples() -> None:
    p = np.random.default_rng(0).standard_normal(300)
    report = probed(noisy(), 2 * p, p)
    assert report.verdict == "undecided"
    assert "probes are too uncertain here" in report.tensors["params"].reason
    assert "probes are too uncertain here" in str(report)


def kinked_everywhere() -> Any:
    """A sum of |p| at zeros, where every direction meets a hundred kinks, and each entry one."""
    p = np.random.default_rng(0).standard_normal(400)
    p[::2] = 0.0
    return (lambda q: float(np.abs(q).sum())), np.sign(p), p


def test_where_probes_resolve_nothing_the_verdict_of_the_samples_stays_and_this_is_stated() -> None:
    loss, gradient, p = kinked_everywhere()
    assert probed(loss, gradient, p).verdict == "undecided"
    report = fastgc.check_gradients(loss, gradient, p)
    assert report.verdict == "pass"
    assert "probes are too uncertain here (noise or nearby kinks)" in report.tensors["params"].reason
    wrong = gradient.copy()
    wrong[1::2] *= 2
    report = fastgc.check_gradients(loss, wrong, p)
    assert report.verdict == "fail"
    assert "probes are too uncertain here" in report.tensors["params"].reason


def test_noise_below_what_matters_is_no_obstacle() -> None:
    p = np.random.default_rng(0).standard_normal(300)
    report = probed(noisy(level=1e-10), 2 * p, p)
    assert report.passed
    assert 1e-7 < report.tensors["params"].probe.norm_limit < 1e-2
    assert probed(noisy(level=1e-10), with_error({"w": 2 * p}, "w", 0.5, 17)["w"], p).verdict == "fail"


def test_a_rounded_loss_is_not_trusted_beyond_its_digits() -> None:
    p = np.random.default_rng(0).standard_normal(300)
    report = probed(lambda q: float(np.float32(np.sum(q**2))), 2 * p, p)
    assert report.passed
    assert report.tensors["params"].probe.norm_limit > 1e-6
    stairs = probed(lambda q: float(np.round(np.sum(q**2), 1)), 2 * p, p)
    assert stairs.verdict == "undecided"


def test_a_tensor_that_the_loss_never_reads_passes_where_its_gradient_is_zero() -> None:
    loss, gradients, params = sines(w=(30, 20))
    params["unused"], gradients["unused"] = np.ones((5, 9)), np.zeros((5, 9))
    report = probed(loss, gradients, params)
    assert report.passed
    wrong = with_error(gradients, "unused", 1e-3, (2, 3))
    assert indices(probed(loss, wrong, params)) == [("unused", (2, 3))]


# --- large beside small, and offsets ---


def two_sizes(ratio: float, offset: float = 0.0) -> Any:
    loss, gradients, params = sines(slopes={"small": ratio}, large=(40, 30), small=500)
    return (lambda p: offset + loss(p)), gradients, params


@pytest.mark.parametrize("ratio", [1.0, 1e-3, 1e-6])
def test_a_wrong_entry_is_not_hidden_by_a_tensor_with_larger_gradients(ratio: float) -> None:
    loss, gradients, params = two_sizes(ratio)
    for index in (0, 123, 499):
        wrong = with_error(gradients, "small", 0.5 * ratio, index)
        report = probed(loss, wrong, params)
        assert indices(report) == [("small", (index,))]
        assert report.tensors["large"].verdict == "pass"


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, 1e6])
def test_an_offset_hides_no_more_than_the_limit_says(offset: float) -> None:
    loss, gradients, params = two_sizes(1e-6, offset)
    median = int(np.argsort(np.abs(gradients["small"]))[250])
    for seed in range(2):
        limit = probed(loss, gradients, params, seed=seed).tensors["small"].probe.entry_limit
        report = probed(loss, with_error(gradients, "small", 3 * limit, median), params, seed=seed)
        assert report.tensors["small"].verdict == "fail", (seed, limit, str(report))
        assert report.tensors["large"].verdict == "pass"


def test_the_limit_grows_with_the_offset() -> None:
    limits = [limit_of(*two_sizes(1e-6, offset), "small") for offset in (0.0, 1e4, 1e6)]
    assert limits[0] < limits[1] / 5 < limits[2] / 25


def test_an_offset_that_drowns_a_tensor_leaves_it_undecided() -> None:
    loss, gradients, params = two_sizes(1e-6, 1e10)
    report = probed(loss, gradients, params)
    assert report.tensors["small"].verdict == "undecided"
    assert report.tensors["large"].verdict == "pass"
    assert report.verdict == "undecided"


# --- limits ---


def test_the_entry_limit_is_at_least_the_tolerance_of_a_median_entry() -> None:
    loss, gradients, params = sines(w=(50, 40))
    median, rms = np.median(np.abs(gradients["w"])), np.sqrt(np.mean(gradients["w"] ** 2))
    for rtol in (1e-3, 1e-5):
        probe = probed(loss, gradients, params, rtol=rtol).tensors["w"].probe
        assert probe.entry_limit == pytest.approx(rtol * (median + 1e-3 * rms), rel=0.05)
    strict = probed(loss, gradients, params, rtol=1e-13, atol=0).tensors["w"].probe
    assert strict.entry_limit == pytest.approx(OF_ENTRY.limit(strict.uncertainties, 1e-3), rel=1e-12)
    assert strict.entry_limit > 4 * min(strict.uncertainties)


def test_an_error_of_three_times_the_entry_limit_fails_and_of_a_tenth_passes() -> None:
    for seed in range(6):
        loss, gradients, params = network(seed, (30, 20, 5), ("tanh", "relu")[seed % 2])
        name = ("W0", "b0", "W1")[seed % 3]
        limit = probed(loss, gradients, params, seed=seed).tensors[name].probe.entry_limit
        flat = np.argsort(np.abs(gradients[name]).reshape(-1))
        index = tuple(int(i) for i in np.unravel_index(int(flat[flat.size // 2]), gradients[name].shape))
        found = probed(loss, with_error(gradients, name, 3 * limit, index), params, seed=seed)
        assert indices(found) == [(name, index)], seed
        assert probed(loss, with_error(gradients, name, 0.1 * limit, index), params, seed=seed).verdict != "fail", seed


def test_the_limit_states_what_a_search_that_led_nowhere_left_open() -> None:
    loss, gradients, params = sines(w=(50, 40))
    rounded = {"w": gradients["w"].astype(np.float32).astype(np.float64)}
    report = probed(loss, rounded, params, rtol=1e-6)
    assert report.passed
    limit = report.tensors["w"].probe.entry_limit
    rounded["w"][10, 10] += 4 * limit
    assert indices(probed(loss, rounded, params, rtol=1e-6)) == [("w", (10, 10))]


# --- many tensors ---


def test_with_many_tensors_the_default_samples_fall_and_probes_cover_the_rest() -> None:
    loss, gradients, params = many(100)
    report = fastgc.check_gradients(loss, gradients, params)
    assert report.passed
    counts = {tensor.checked for tensor in report.tensors.values()}
    assert counts == {10}  # 2,000 evaluations are those of 1,000 entries
    head = str(report).splitlines()[0]
    assert "1,000 of 4,000 entries checked one by one, all covered by probes" in head
    assert "samples alone cannot rule out" in str(report)


def test_samples_never_fall_below_two_nor_where_they_were_asked_for() -> None:
    loss, gradients, params = many(600, size=4)
    report = fastgc.check_gradients(loss, gradients, params, crosscheck=False)
    assert {tensor.checked for tensor in report.tensors.values()} == {2}
    loss, gradients, params = many(100)
    asked = fastgc.check_gradients(loss, gradients, params, samples=12, crosscheck=False)
    assert {tensor.checked for tensor in asked.tensors.values()} == {12}


@pytest.mark.parametrize("count", [2, 4, 75, 300])
def test_tensors_share_directions_and_need_few_evaluations(count: int) -> None:
    report = probed(*many(count))
    assert report.passed
    assert report.evaluations <= 60
    for name, tensor in report.tensors.items():
        others = set(report.tensors) - {name}
        assert set(tensor.probe.shared_with) <= others
        assert len(tensor.probe.shared_with) == min(100, len(others))
        assert tensor.probe.miss_probability < 1e-3


def test_one_tensor_takes_few_evaluations() -> None:
    report = probed(*sines(w=(40, 50)))
    assert report.evaluations <= 20 + 18  # the noise of the loss, and three directions
    assert report.tensors["w"].probe.shared_with == ()


def test_very_many_entries_in_several_tensors_are_not_displaced_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "_COPIED", 100)
    assert all(tensor.probe.shared_with == () for tensor in probed(*many(4)).tensors.values())
    loss, gradients, params = sines(a=500, b=40)
    shared = probed(loss, gradients, params).tensors["b"].probe.shared_with
    assert shared == ("a",), "the copy is hardly larger than that of the largest alone"


def test_sharing_is_mutual() -> None:
    tensors = probed(*many(90)).tensors
    for name, tensor in tensors.items():
        for other in tensor.probe.shared_with:
            assert name in tensors[other].probe.shared_with
            assert name != other


@pytest.mark.parametrize(
    ("slopes", "looked_at"),
    [
        ([1.0] * 100, ["t0", "t31", "t99"]),
        ([*[1.0] * 97, *[1e-6] * 3], ["t5", "t97", "t98", "t99"]),
        ([*[1.0] * 99, 1e6], ["t50", "t99"]),
        ([*np.logspace(-4, 4, 120)], ["t0", "t40", "t80", "t119"]),
    ],
    ids=["equal", "three tiny", "one huge", "eight decades"],
)
def test_those_that_share_keep_limits_of_the_size_of_their_own(slopes: list[float], looked_at: list[str]) -> None:
    loss, gradients, params = many(len(slopes), slopes=slopes)
    together = probed(loss, gradients, params)
    for name in looked_at:
        alone = probed(loss, gradients, params, tensors=[name]).tensors[name].probe
        assert together.tensors[name].probe.entry_limit <= 4 * alone.entry_limit, name


@pytest.mark.parametrize("seed", range(3))
def test_a_few_more_directions_are_shared_where_they_spare_a_tensor_its_own(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, gradients, params = sines(slopes={"small": 1e-3}, large=500, small=400)
    report = probed(loss, gradients, params, seed=seed)
    assert report.passed
    for name, other in (("small", "large"), ("large", "small")):
        probe = report.tensors[name].probe
        assert probe.shared_with == (other,) and 3 < len(probe.residuals) <= 3 + probe_module._MORE_SHARED
        assert probe.entry_limit <= 4 * probed(loss, gradients, params, tensors=[name]).tensors[name].probe.entry_limit
    wrong = with_error(gradients, "small", 3 * report.tensors["small"].probe.entry_limit, 123)
    assert indices(probed(loss, wrong, params, seed=seed)) == [("small", (123,))]
    monkeypatch.setattr(probe_module, "_MORE_SHARED", 0)
    without = probed(loss, gradients, params, seed=seed)
    assert without.tensors["small"].probe.shared_with == () and without.evaluations > report.evaluations


def test_tensors_that_more_directions_would_not_serve_share_no_more() -> None:
    loss, gradients, params = sines(slopes={"small": 1e-8}, large=500, small=400)
    report = probed(loss, gradients, params)
    assert [len(tensor.probe.residuals) for tensor in report.tensors.values()] == [3, 3]


def test_a_wrong_entry_in_a_sharing_tensor_is_named_and_the_others_pass() -> None:
    loss, gradients, params = many(100)
    right = probed(loss, gradients, params)
    assert right.tensors["t41"].probe.shared_with
    for seed in range(4):
        report = probed(loss, with_error(gradients, "t41", 0.01, 3 + seed), params, seed=seed)
        assert indices(report) == [("t41", (3 + seed,))]
        assert report.tensors["t41"].probe.shared_with == ()
        assert report.evaluations - right.evaluations <= 200


def test_wrong_entries_in_two_tensors_that_share_are_both_named() -> None:
    loss, gradients, params = many(100)
    other = probed(loss, gradients, params).tensors["t41"].probe.shared_with[0]
    wrong = with_error(with_error(gradients, "t41", 0.02, 3), other, -0.03, 8)
    for seed in range(2):
        assert set(indices(probed(loss, wrong, params, seed=seed))) == {("t41", (3,)), (other, (8,))}


# --- many directions ---


def test_many_directions_go_through_all_tensors_at_once() -> None:
    loss, gradients, params = sines(a=500, b=(20, 20), c=40, d=7)
    few, many_ = (probed(loss, gradients, params, probes=probes) for probes in (3, 20))
    assert few.passed and many_.passed
    assert many_.evaluations <= few.evaluations + 4 * 17
    for name, tensor in many_.tensors.items():
        assert set(tensor.probe.shared_with) == set(params) - {name}
        assert len(tensor.probe.residuals) == 20 and tensor.probe.miss_probability < 1e-20
        assert tensor.probe.entry_limit <= 2 * few.tensors[name].probe.entry_limit
        assert few.tensors[name].probe.shared_with == tensor.probe.shared_with


@pytest.mark.parametrize("rounding", [1.0, math.nan])
def test_a_difference_that_nothing_shows_to_be_one_leaves_no_directions_out(
    rounding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through all tensors a difference within rounding, or within what is no number: it ends nothing, or is nothing."""
    loss, gradients, params = sines(a=500, b=400)
    slope, own = _probes.analytic_slope, vars(_probes._Group)["rounding"]
    monkeypatch.setattr(_probes, "analytic_slope", lambda rays, g: slope(rays, g) + 1e-3 * (len(rays) > 1))
    each = property(lambda group: own.__get__(group) if len(group.tensors) == 1 else rounding)
    monkeypatch.setattr(_probes._Group, "rounding", each)
    report = probed(loss, gradients, params, probes=20)
    assert report.passed
    assert all(len(tensor.probe.residuals) == 20 for tensor in report.tensors.values())


def test_a_tensor_whose_limit_would_suffer_has_directions_of_its_own() -> None:
    loss, gradients, params = sines(slopes={"small": 1e-8}, large=500, other=300, small=400)
    few, report = (probed(loss, gradients, params, probes=probes) for probes in (3, 12))
    assert report.passed
    assert report.tensors["small"].probe.shared_with == ()
    assert report.tensors["small"].probe.entry_limit <= 2 * few.tensors["small"].probe.entry_limit
    error = 3 * report.tensors["small"].probe.entry_limit
    assert indices(probed(loss, with_error(gradients, "small", error, 123), params, probes=12)) == [("small", (123,))]


def test_an_error_that_only_later_directions_show_is_found() -> None:
    loss, gradients, params = sines(a=500, b=400)
    three = random_weights(0, range(3), "b", 400)[:, :4].astype(np.float64)
    hidden = np.linalg.svd(three)[2][-1]  # orthogonal to all three directions
    wrong = with_error(gradients, "b", 0.5 * hidden, slice(0, 4))
    assert probed(loss, wrong, params).passed, "in all three directions the four cancel"
    report = probed(loss, wrong, params, probes=20)
    assert sorted(indices(report)) == [("b", (j,)) for j in range(4)]
    assert report.tensors["a"].verdict == "pass"


# --- order of the work ---


def test_a_wrong_entry_that_the_samples_miss_is_found_by_the_probes() -> None:
    loss, gradients, params = sines(w=(200, 100))
    wrong = with_error(gradients, "w", 0.05, (111, 7))
    by_samples = fastgc.check_gradients(loss, wrong, params, probes=0)
    assert by_samples.passed
    report = fastgc.check_gradients(loss, wrong, params)
    assert indices(report) == [("w", (111, 7))]
    assert report.tensors["w"].checked == 33


def test_a_wrong_entry_that_the_samples_saw_is_listed_once() -> None:
    loss, gradients, params = sines(w=(200, 100))
    report = fastgc.check_gradients(loss, with_error(gradients, "w", 50.0, (0, 0)), params)
    assert indices(report) == [("w", (0, 0))]
    assert len({entry.index for entry in report.tensors["w"].entries}) == len(report.tensors["w"].entries)


def test_every_point_is_covered() -> None:
    loss, _, params = sines(w=400)
    weights = sines(w=400)[1]["w"] / np.cos(params["w"])

    def gradients(p: Params) -> Params:
        slopes = weights * np.cos(p["w"])
        slopes[250] *= 1.0 if np.array_equal(p["w"], params["w"]) else 1.5
        return {"w": slopes}

    assert probed(loss, gradients, params).passed
    report = probed(loss, gradients, params, points=3)
    assert report.verdict == "fail"
    assert {entry.index for entry in report.tensors["w"].wrong_entries} == {(250,)}
    assert {entry.point for entry in report.tensors["w"].wrong_entries} == {1, 2}


def test_only_the_tensors_asked_for_are_probed() -> None:
    loss, gradients, params = sines(w=60, v=70)
    report = probed(loss, with_error(gradients, "v", 1.0, 3), params, tensors="w")
    assert report.passed
    assert list(report.tensors) == ["w"]


def test_a_gradient_that_is_not_finite_is_noticed_by_the_probes_alone() -> None:
    loss, gradients, params = sines(w=(40, 50), v=20)
    for value in (np.nan, np.inf):
        wrong = {"w": gradients["w"].copy(), "v": gradients["v"]}
        wrong["w"][31, 4] = value
        report = probed(loss, wrong, params)
        assert report.tensors["w"].verdict == "fail", value
        assert report.tensors["v"].verdict == "pass"


# --- text and JSON ---


def test_the_text_says_what_could_have_been_missed() -> None:
    report = fastgc.check_gradients(*sines(w=(60, 50), b=40))
    line = next(line for line in unbroken(report) if line.startswith("probes miss"))
    pattern = (
        r"probes miss any given error of rtol of a tensor's norm with probability (\S+) at most; "
        r"one above (\S+) in an entry, or (\S+) of a tensor's norm, with (\S+) at most"
    )
    found = re.fullmatch(pattern, line)
    assert found is not None
    chance, entry, norm, rarely = map(float, found.groups())
    probes = [tensor.probe for tensor in report.tensors.values()]
    assert 1 <= chance / max(probe.miss_probability for probe in probes) < 1.1  # a bound is not rounded down
    assert 1 <= entry / max(probe.entry_limit for probe in probes) < 1.1  # of every tensor
    assert 1 <= norm / max(probe.norm_limit for probe in probes) < 1.1
    assert rarely == 1e-3
    assert "samples alone cannot rule out" in str(report)


@pytest.mark.parametrize(("probes", "rarely"), [(1, 0.03), (2, 1e-3), (3, 1e-3), (20, 1e-3)])
def test_the_probability_in_the_text_is_no_less_than_the_bound(probes: int, rarely: float) -> None:
    report = probed(*sines(w=100), probes=probes)
    probe = report.tensors["w"].probe
    found = re.search(r"probability (\S+) at most;.* with (\S+) at most", "\n".join(unbroken(report)))
    assert found is not None
    assert probe.miss_probability <= float(found[1]) <= 1.1 * probe.miss_probability
    assert float(found[2]) == rarely
    assert probe.miss(probe.norm_limit) == pytest.approx(rarely)
    assert probe.miss(2 * probe.norm_limit) < rarely < probe.miss(probe.norm_limit / 2)


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-12])
def test_the_probability_is_that_of_an_error_of_rtol(rtol: float) -> None:
    probe = probed(*sines(w=100), rtol=rtol).tensors["w"].probe
    assert probe.miss_probability == probe.miss(rtol)
    assert probe.miss(0.0) == 1.0
    assert probe.miss(np.inf) < 1e-6


def test_without_samples_nothing_is_said_of_them() -> None:
    text = str(probed(*sines(w=(60, 50))))
    assert "samples alone" not in text
    assert "0 of 3,000 entries checked one by one, all covered by probes" in text


def test_without_probes_nothing_is_said_of_them() -> None:
    text = str(fastgc.check_gradients(*sines(w=(60, 50)), probes=0))
    assert "probes" not in text
    assert "of checked" in text


def test_the_errors_of_the_whole_are_marked_as_bound_or_estimate() -> None:
    loss, gradients, params = sines(w=(60, 50), b=40)
    text = str(probed(loss, with_error(gradients, "b", 0.1, 3), params))
    rows = {line.split()[0]: line for line in text.splitlines() if line[:2] in ("w ", "b ")}
    assert re.search(r" < \d", rows["w"])
    assert re.search(r" ~ \d", rows["b"])


def test_the_probe_is_in_the_dict_and_the_json() -> None:
    loss, gradients, params = sines(w=(60, 50), b=40)
    report = probed(loss, with_error(gradients, "b", 0.1, 3), params)
    plain = report.to_dict()
    assert json.loads(report.to_json()) == plain
    keys = {
        "residuals", "uncertainties", "seen", "relative_error", "interval", "entry_limit", "norm_limit",
        "norm", "miss_probability", "resolved", "left_out", "shared_with",
    }  # fmt: skip
    for name, tensor in report.tensors.items():
        found = plain["tensors"][name]["probe"]
        assert set(found) == keys
        assert found["residuals"] == list(tensor.probe.residuals)
        assert found["interval"] == list(tensor.probe.interval)
        assert found["seen"] is tensor.probe.seen is (name == "b")
        assert found["entry_limit"] == tensor.probe.entry_limit
    assert fastgc.check_gradients(*sines(w=30), probes=0).to_dict()["tensors"]["w"]["probe"] is None


def test_the_json_of_probes_that_resolve_nothing_has_words_for_numbers_that_are_not_finite() -> None:
    p = np.zeros(50)
    report = probed(lambda q: float(np.sqrt(np.maximum(q, -1)).sum()) if (q >= 0).all() else np.nan, np.ones(50), p)
    assert report.verdict == "undecided"
    assert json.loads(report.to_json()) == report.to_dict()
    assert "above nan" not in str(report)


def test_shared_directions_are_named_in_the_dict() -> None:
    found = probed(*many(80)).to_dict()["tensors"]["t3"]["probe"]["shared_with"]
    assert isinstance(found, list)
    assert len(found) == 79
