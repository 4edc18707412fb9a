"""Random directions: what a residual means, how surely it shows an error, and that nothing stays moved."""

from __future__ import annotations

import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgc
from fastgc._derivatives.directions import analytic_slope, groups
from fastgc._derivatives.random_weights import MEAN_SQUARE, random_weights
from fastgc._evaluation.evaluator import Ray
from fastgc._parameters.arrays import norm
from tests.support.probing import Array, Params, limit_of, network, probed, sines, slopes, with_error

# --- slopes ---


@given(st.integers(1, 300), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_the_analytic_slope_is_the_product_with_the_direction(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gradients = [rng.standard_normal(size), rng.standard_normal(7).astype(np.float32)]
    start = int(rng.integers(size))
    rays = [
        Ray(0, start, random_weights(seed, range(1), "a", size - start)[0], 0.5),
        Ray(1, 0, random_weights(seed, range(1), "b", 7)[0], 3.0),
    ]
    dense = 0.5 * np.dot(gradients[0][start:], rays[0].weights) + 3.0 * np.dot(
        gradients[1].astype(float), rays[1].weights
    )
    assert analytic_slope(rays, gradients) == pytest.approx(dense, rel=1e-12, abs=1e-12)


def test_the_analytic_slope_and_the_norm_are_summed_over_all_blocks() -> None:
    size = (1 << 21) + 5
    gradient = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    weights = random_weights(0, range(1), "a", size)[0]
    dense = np.dot(gradient.astype(np.float64), weights.astype(np.float64))
    assert analytic_slope([Ray(0, 0, weights, 1.0)], [gradient]) == pytest.approx(dense, rel=1e-12)
    assert norm(gradient) == pytest.approx(np.linalg.norm(gradient.astype(np.float64)), rel=1e-12)


def test_all_entries_are_displaced_at_once_by_whole_multiples_of_a_length() -> None:
    loss, gradients, params = sines(w=(30, 20), b=20)
    seen: list[Params] = []

    def watched(p: Params) -> float:
        seen.append({name: value.copy() for name, value in p.items()})
        return loss(p)

    probed(watched, gradients, params)
    moved = [{name: np.abs(p[name] - params[name]) for name in params} for p in seen]
    directions = [m for m in moved if (m["w"] > 0).all() or (m["b"] > 0).all()]
    assert len(directions) > 10
    for m in directions:
        assert m["b"].any() and m["w"].any()
        weights = 126 * m["w"] / m["w"].max()  # the largest weight is among so many
        assert weights.min() > 41.9
        assert np.abs(weights - np.round(weights)).max() < 1e-4


def test_residuals_have_the_mean_square_of_the_whole_error() -> None:
    loss, gradients, params = sines(w=400)
    error = 1e-3 * np.random.default_rng(1).standard_normal(400)
    probe = probed(loss, with_error(gradients, "w", error), params, probes=500).tensors["w"].probe
    assert len(probe.residuals) == 500
    ratio = np.mean(np.square(probe.residuals)) / (MEAN_SQUARE * np.sum(error**2))
    assert abs(ratio - 1) < 5 * (2 / 500) ** 0.5
    relative = np.linalg.norm(error) / (2 * np.linalg.norm(gradients["w"]))
    assert probe.relative_error == pytest.approx(relative, rel=0.2)


def test_the_interval_of_the_error_holds_it_as_often_as_it_says() -> None:
    loss, gradients, params = sines(w=400)
    error = 1e-3 * np.random.default_rng(1).standard_normal(400)
    relative = np.linalg.norm(error) / (2 * np.linalg.norm(gradients["w"]))
    wrong = with_error(gradients, "w", error)
    probes = [probed(loss, wrong, params, probes=50, seed=seed).tensors["w"].probe for seed in range(20)]
    held = sum(probe.interval[0] < relative < probe.interval[1] for probe in probes)
    assert held >= 16, "19 of 20 on average"


def test_the_interval_of_the_whole_error_holds_it_in_most_cases() -> None:
    loss, gradients, params = sines(w=300)
    error = 0.05 * np.random.default_rng(1).standard_normal(300)
    wrong = with_error(gradients, "w", error)
    numerical, analytic = np.linalg.norm(gradients["w"]), np.linalg.norm(wrong["w"])
    relative = np.linalg.norm(error) / (numerical + analytic)
    probes = [probed(loss, wrong, params, seed=seed).tensors["w"].probe for seed in range(30)]
    held = sum(probe.interval[0] < relative < probe.interval[1] for probe in probes)
    assert held >= 25  # nominally 28 or 29 of 30; the norms in the denominator are estimates too


def test_a_correct_gradient_is_bounded_and_nothing_is_seen() -> None:
    loss, gradients, params = sines(w=(50, 40), b=40)
    report = probed(loss, gradients, params)
    assert report.passed
    for name, tensor in report.tensors.items():
        probe = tensor.probe
        assert not probe.seen
        assert probe.relative_error == probe.norm_limit < 1e-6
        assert probe.interval == (0.0, probe.norm_limit)
        assert probe.norm == pytest.approx(np.linalg.norm(gradients[name]))
        assert probe.miss(probe.norm_limit) == pytest.approx(1e-3)
        assert np.all(np.abs(probe.residuals) <= probe.uncertainties)
        assert probe.miss_probability == probe.miss(1e-5) < 1e-4


# --- how surely an error shows ---


@pytest.mark.parametrize("probes", [1, 3])
def test_one_wrong_entry_above_the_limit_is_seen_in_every_direction(probes: int) -> None:
    loss, gradients, params = sines(w=200)
    for seed in range(20):
        limit = limit_of(loss, gradients, params, seed=seed, probes=probes)
        wrong = with_error(gradients, "w", 3 * limit, seed)
        probe = probed(loss, wrong, params, seed=seed, probes=probes, rtol=1e-12).tensors["w"].probe
        assert probe.seen, seed
        assert min(map(abs, probe.residuals)) > limit, seed


@pytest.mark.parametrize("ratio", [1.0, -1.0])
def test_two_wrong_entries_of_one_size_hardly_ever_cancel(ratio: float) -> None:
    """Signs alone miss them in half of the directions; three hold 85 magnitudes each, of which one cancels."""
    loss, gradients, params = sines(w=60)
    wrong = with_error(with_error(gradients, "w", 1e-3, 7), "w", 1e-3 * ratio, 31)
    runs, missed = 30, 0
    for seed in range(runs):
        probe = probed(loss, wrong, params, probes=3, seed=seed).tensors["w"].probe
        assert probe.seen, seed
        missed += int(np.sum(np.abs(probe.residuals) <= probe.uncertainties))
    assert missed <= 4  # of 90, where 1 in 170 gives one in two runs


@pytest.mark.parametrize("options", [{"in_place": True}, {"precision": "native"}])
@pytest.mark.parametrize("ratio", [1.0, -1.0])
def test_two_wrong_entries_of_one_size_show_in_float32(options: dict[str, Any], ratio: float) -> None:
    params = {"w": np.random.default_rng(0).standard_normal(60).astype(np.float32)}
    right = {"w": np.cos(params["w"])}
    wrong = with_error(with_error(right, "w", 0.1, 7), "w", 0.1 * ratio, 31)
    for seed in range(10):
        report = probed(total, wrong, params, seed=seed, **options)
        assert {entry.index for entry in report.tensors["w"].wrong_entries} == {(7,), (31,)}, seed
        assert probed(total, right, params, seed=seed, **options).passed


def test_compiled_loops_and_calls_from_python_see_the_same_residuals() -> None:
    @numba.njit
    def loss(p: Any) -> Any:
        return np.sum(np.sin(p["w"]))

    params = {"w": np.random.default_rng(0).standard_normal(300)}
    wrong = {"w": np.cos(params["w"]) + 1e-3}
    compiled, called = (probed(loss, wrong, params, engine=engine).tensors["w"].probe for engine in ("numba", "python"))
    assert compiled.residuals == called.residuals


LINEAR = np.random.default_rng(0).standard_normal(40)


def probed_once(gradient: Array, seed: int) -> Any:
    """One direction of a linear loss, for a gradient of it."""
    found = probed(lambda q: float(LINEAR @ q), gradient, np.ones(LINEAR.size), seed=seed, probes=1)
    return found.tensors["params"].probe


@cache
def right_once(seed: int) -> Any:
    return probed_once(LINEAR, seed)


@pytest.mark.parametrize("errors", [[1.0, 1.0], [1.0, -1.0, 1.0], [1.0, -1.0] * 8])
def test_errors_at_the_limit_are_missed_no_more_often_than_stated(errors: list[float]) -> None:
    """A linear loss, by one direction each, whose limit is an error missed in 3 of 100 draws at most."""
    error = np.zeros(LINEAR.size)
    error[: len(errors)] = errors
    error /= np.linalg.norm(error)
    runs, missed = 60, 0
    for seed in range(runs):
        right = right_once(seed)
        assert right.miss(right.norm_limit) == pytest.approx(0.03)
        missed += not probed_once(LINEAR + right.norm_limit * right.norm * error, seed).seen
    assert missed <= 0.03 * runs + 4 * (0.03 * runs) ** 0.5


def test_an_error_spread_over_many_entries_is_missed_no_more_often_than_stated() -> None:
    loss, gradients, params = sines(w=200)
    rng = np.random.default_rng(0)
    missed = 0
    for seed in range(50):
        right = probed(loss, gradients, params, seed=seed, probes=1).tensors["w"].probe
        error = rng.standard_normal(200)
        error *= right.norm_limit * right.norm / np.linalg.norm(error)
        missed += (
            not probed(loss, with_error(gradients, "w", error), params, seed=seed, probes=1).tensors["w"].probe.seen
        )
    assert missed <= 6  # 1.5 of 50 at most on average


def test_twenty_directions_cost_about_forty_values_more_than_the_ladder() -> None:
    loss, gradients, params = sines(w=(300, 10))
    one, twenty = (probed(loss, gradients, params, probes=probes) for probes in (1, 20))
    assert twenty.tensors["w"].probe.miss_probability < 1e-36
    assert len(twenty.tensors["w"].probe.residuals) == 20
    assert 2 * 19 <= twenty.evaluations - one.evaluations <= 4 * 19


def test_the_probes_of_one_tensor_cost_at_most_twenty_values() -> None:
    loss, gradients, params = sines(w=(300, 10), b=(20, 30), c=50, d=1)
    whole = probed(loss, gradients, params).evaluations
    alone = {name: probed(loss, gradients, params, tensors=[name]).evaluations for name in params}
    opening = (sum(alone.values()) - whole) / (len(alone) - 1)
    assert max(alone.values()) - opening <= 20


def test_directions_are_reproducible_and_depend_on_the_seed() -> None:
    loss, gradients, params = sines(w=50)
    wrong = with_error(gradients, "w", 1.0, slice(0, 2))
    first, again, other = (probed(loss, wrong, params, seed=seed).tensors["w"].probe for seed in (1, 1, 2))
    assert first == again
    assert first.residuals != other.residuals


def test_the_directions_of_a_tensor_do_not_depend_on_the_others() -> None:
    loss, gradients, params = sines(w=50, v=50)
    wrong = with_error(with_error(gradients, "w", 0.1, slice(0, 3)), "v", 0.1, slice(0, 3))
    together = probed(loss, wrong, params).tensors["w"].probe
    alone = probed(loss, wrong, params, tensors=["w"]).tensors["w"].probe
    assert together.residuals == pytest.approx(alone.residuals, rel=1e-6)
    assert together.residuals != probed(loss, wrong, params).tensors["v"].probe.residuals


# --- kinks, noise, domains ---


@pytest.mark.parametrize("biases", [0.0, 0.1])
def test_kinks_on_the_way_add_uncertainty_and_never_make_a_failure(biases: float) -> None:
    for seed in range(30):
        widths = [(6, 8, 3), (40, 30, 20, 5), (200, 100, 10)][seed % 3]
        report = probed(*network(seed, widths, "relu", batch=4 + seed, biases=biases))
        assert report.verdict != "fail", (seed, str(report))
        for tensor in report.tensors.values():
            assert not tensor.wrong_entries
            assert tensor.verdict == "undecided" or tensor.probe.norm_limit < 0.1


def test_kinks_in_many_entries_at_the_point_itself_leave_the_tensor_open() -> None:
    p = np.random.default_rng(0).standard_normal(400)
    p[::2] = 0.0
    report = probed(lambda q: float(np.abs(q).sum()), np.sign(p), p)
    tensor = report.tensors["params"]
    assert tensor.verdict == "undecided"
    assert tensor.reason == "probes are too uncertain here (noise or nearby kinks)"
    assert max(tensor.probe.uncertainties) > 50


def test_kinks_far_nearer_than_the_usual_steps_are_no_error() -> None:
    p = np.random.default_rng(0).standard_normal(100_000)  # the nearest of all is some 1e-5 away
    report = probed(lambda q: float(np.abs(q).sum()), np.sign(p), p)
    assert report.passed
    assert report.tensors["params"].probe.norm_limit < 1e-3


def test_a_domain_edge_shrinks_the_steps() -> None:
    p = 10 ** np.random.default_rng(0).uniform(-4, 0, 300)

    def loss(q: Array) -> float:
        return float(np.log(q).sum())

    report = probed(loss, 1 / p, p)
    assert report.passed
    assert report.tensors["params"].probe.norm_limit < 1e-3
    wrong = 1 / p
    wrong[17] *= 1.1
    found = probed(loss, wrong, p).tensors["params"]
    assert [entry.index for entry in found.wrong_entries] == [(17,)]


def test_losses_that_are_not_finite_on_both_sides_resolve_nothing_and_say_so() -> None:
    p = np.abs(np.random.default_rng(0).standard_normal(50))
    p[:20] = 0.0
    report = probed(lambda q: float(np.sum(np.power(q, 1.5))) if (q >= 0).all() else math.nan, 1.5 * p**0.5, p)
    assert report.verdict == "undecided"
    assert "probes are too uncertain here (not finite)" in report.tensors["params"].reason


# --- nothing is left moved ---


def arrays_of_all_kinds() -> Params:
    rng = np.random.default_rng(0)
    strided = rng.standard_normal((12, 10))[::2, ::-1]
    params = {
        "c": rng.standard_normal((4, 3)),
        "fortran": np.asfortranarray(rng.standard_normal((5, 4))),
        "strided": strided,
        "transposed": rng.standard_normal((3, 2, 4)).transpose(2, 0, 1),
        "single": rng.standard_normal((3, 5)).astype(np.float32),
        "scalar": np.array(0.7),
    }
    params["c"][0] = [-0.0, 1e-310, 1e3]
    return params


def bits(params: Params) -> list[bytes]:
    return [value.tobytes() for value in params.values()]


def total(params: Params) -> float:
    return float(sum(np.sum(np.sin(value.astype(np.float64))) for value in params.values()))


@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"precision": "native"}])
def test_parameters_of_every_kind_are_restored_to_the_bit(options: dict[str, Any]) -> None:
    params = arrays_of_all_kinds()
    before = bits(params)
    wrong = with_error(slopes(params), "fortran", 0.5, (3, 2))
    report = probed(total, wrong, params, **options)
    assert bits(params) == before
    assert [entry.index for entry in report.tensors["fortran"].wrong_entries] == [(3, 2)]


@pytest.mark.parametrize("error", [ZeroDivisionError, RuntimeError, KeyboardInterrupt])
def test_whatever_a_loss_raises_amid_a_probe_the_parameters_are_restored(error: type[BaseException]) -> None:
    params = arrays_of_all_kinds()
    before, expected = bits(params), slopes(params)
    calls, moved = 0, 0

    def failing(p: Params) -> float:
        nonlocal calls, moved
        calls += 1
        if calls > 30 and bits(p) != before:
            moved += 1
            if error is KeyboardInterrupt or moved > 3:
                raise error("amid a probe")
        return total(p)

    if error is not KeyboardInterrupt:  # taken for the edge of the domain
        probed(failing, expected, params, in_place=True)
    else:
        with pytest.raises(fastgc.Interrupted):
            probed(failing, expected, params, in_place=True)
    assert moved > 0
    assert bits(params) == before


def test_every_probe_begins_where_the_caller_left_the_parameters() -> None:
    params = arrays_of_all_kinds()
    before = dict(zip(params, bits(params), strict=True))
    moved_together = []

    def watched(p: Params) -> float:
        moved_together.append(sum(value.tobytes() != before[name] for name, value in p.items()))
        return total(p)

    probed(watched, slopes(params), params, in_place=True)
    after_the_noise = moved_together[60:]
    assert max(after_the_noise) == 1


# --- engines ---


def jitted_loss() -> Any:
    @numba.njit
    def loss(p):  # type: ignore[no-untyped-def]
        value = 0.0
        w, b = p["w"], p["b"]
        for i in range(w.shape[0]):
            for j in range(w.shape[1]):
                value += math.sin(w[i, j]) * (1 + i)
        for j in range(b.size):
            value += b[j] ** 3
        return value

    return loss


def jitted_problem() -> tuple[Any, Params, Params]:
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((40, 9)), "b": rng.standard_normal(30)}
    gradients = {"w": np.cos(params["w"]) * (1 + np.arange(40.0))[:, None], "b": 3 * params["b"] ** 2}
    return jitted_loss(), with_error(gradients, "w", 0.3, (11, 4)), params


def test_both_engines_give_the_same_probes() -> None:
    loss, gradients, params = jitted_problem()
    compiled = probed(loss, gradients, params, engine="numba")
    plain = probed(loss.py_func, gradients, params, engine="python")
    assert compiled.engine.startswith("numba")
    assert plain.engine == "python"
    assert compiled.verdict == plain.verdict == "fail"
    for name in params:
        one, other = compiled.tensors[name].probe, plain.tensors[name].probe
        assert one.residuals == pytest.approx(other.residuals, abs=2 * max(*one.uncertainties, *other.uncertainties))
        assert one.seen == other.seen
    assert [entry.index for entry in compiled.tensors["w"].wrong_entries] == [(11, 4)]
    assert [entry.index for entry in plain.tensors["w"].wrong_entries] == [(11, 4)]


def test_one_and_several_threads_agree_to_the_bit() -> None:
    loss, gradients, params = jitted_problem()
    reports = [probed(loss, gradients, params, engine="numba", threads=threads).to_dict() for threads in (1, 2, 3)]
    for report in reports:
        report.pop("seconds"), report.pop("engine")
    assert reports[0] == reports[1] == reports[2]


def test_a_compiled_loss_that_raises_amid_a_probe_leaves_the_copies_usable() -> None:
    @numba.njit
    def loss(p):  # type: ignore[no-untyped-def]
        value = 0.0
        for entry in p:
            if entry <= 0:
                raise ValueError("math domain error")
            value += math.log(entry)
        return value

    p = np.random.default_rng(0).uniform(1e-3, 1, 100)
    report = probed(loss, 1 / p, p, engine="numba")
    assert report.passed
    wrong = 1 / p
    wrong[61] *= 1.2
    assert [e.index for e in probed(loss, wrong, p, engine="numba").tensors["params"].wrong_entries] == [(61,)]


# --- probes without samples, samples without probes ---


def test_probes_alone_and_samples_alone_both_work() -> None:
    loss, gradients, params = sines(w=(20, 30), b=5)
    by_probes = probed(loss, gradients, params)
    assert by_probes.passed
    assert all(tensor.checked == 0 and tensor.probe is not None for tensor in by_probes.tensors.values())
    by_samples = fastgc.check_gradients(loss, gradients, params, probes=0)
    assert by_samples.passed
    assert all(tensor.checked > 0 and tensor.probe is None for tensor in by_samples.tensors.values())
    wrong = with_error(gradients, "w", 0.1, (19, 3))
    assert probed(loss, wrong, params).verdict == "fail"


def test_neither_probes_nor_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="samples=0 and probes=0 would check nothing"):
        probed(*sines(w=4), probes=0)


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError), ("3", TypeError)])
def test_the_number_of_probes_is_a_whole_number(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="probes is"):
        probed(*sines(w=4), probes=value)


def test_a_tensor_checked_entry_by_entry_as_a_whole_needs_no_probe() -> None:
    loss, gradients, params = sines(w=(20, 30), b=5)
    report = fastgc.check_gradients(loss, gradients, params)
    assert report.tensors["b"].probe is None
    assert report.tensors["w"].probe is not None


def test_a_scalar_an_empty_tensor_and_one_of_zeros_are_probed() -> None:
    params: Params = {"scalar": np.array(0.3), "empty": np.zeros((0, 4)), "zeros": np.zeros((3, 4))}
    report = probed(total, slopes(params), params)
    assert report.passed
    assert report.tensors["empty"].probe is None
    wrong = with_error(slopes(params), "zeros", -0.2, (1, 2))
    assert [e.index for e in probed(total, wrong, params).tensors["zeros"].wrong_entries] == [(1, 2)]


# --- float32 ---


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_correct_networks_in_native_float32_never_fail(activation: str) -> None:
    for seed in range(20):
        loss, gradients, params = network(seed, [(20, 20, 5), (100, 60, 5)][seed % 2], activation)
        single = {name: value.astype(np.float32) for name, value in params.items()}
        report = probed(loss, {n: g.astype(np.float32) for n, g in gradients.items()}, single, precision="native")
        assert report.verdict != "fail", (seed, str(report))


def test_rounding_the_displaced_entries_to_float32_is_no_suspicion() -> None:
    """The loss itself is computed in double precision and has no noise of its own to speak of."""
    rng = np.random.default_rng(0)
    table, ids = rng.standard_normal((3000, 8)).astype(np.float32), rng.integers(3000, size=(64, 4))
    weights = rng.standard_normal((64, 4, 8))

    def loss(p: Params) -> float:
        return float(np.sum(weights * np.sin(p["table"][ids].astype(np.float64))))

    gradient = np.zeros((3000, 8))
    np.add.at(gradient, ids, weights * np.cos(table[ids].astype(np.float64)))
    for seed in range(5):
        report = probed(
            loss, {"table": gradient.astype(np.float32)}, {"table": table}, seed=seed, rtol=1e-5, precision="native"
        )
        assert report.passed and report.evaluations < 100
        assert report.tensors["table"].probe.norm_limit < 1e-2


def test_a_wrong_entry_in_native_float32_is_found() -> None:
    loss, gradients, params = network(0, (60, 40, 5), "tanh")
    single = {name: value.astype(np.float32) for name, value in params.items()}
    wrong = with_error(gradients, "W0", float(np.abs(gradients["W0"]).max()), (31, 7))
    report = probed(loss, {n: g.astype(np.float32) for n, g in wrong.items()}, single, precision="native")
    assert [entry.index for entry in report.tensors["W0"].wrong_entries] == [(31, 7)]
    assert report.tensors["W1"].verdict != "fail"


# --- which tensors share directions ---


def groups_of(slopes: list[float]) -> list[tuple[int, ...]]:
    """Of tensors of one entry each, whose scales are 1."""
    loss: Any = SimpleNamespace(tensor_scales=np.ones(len(slopes)))
    return groups(loss, range(len(slopes)), [np.array([slope]) for slope in slopes])


def test_more_than_75_tensors_share_directions_four_at_most() -> None:
    assert groups_of([1.0] * 75) == [(t,) for t in range(75)]
    assert {len(group) for group in groups_of([1.0] * 76)} == {2}
    assert {len(group) for group in groups_of([1.0] * 400)} == {4}


def test_tensors_share_directions_up_to_ten_times_their_slopes() -> None:
    assert {len(group) for group in groups_of([1.0, 9.9] * 50)} == {2}
    assert (0, 1) in groups_of([1.0, 9.9, *(1e3 * 11.0**k for k in range(98))])
    assert (0, 1) not in groups_of([1.0, 10.1, *(1e3 * 11.0**k for k in range(98))])
