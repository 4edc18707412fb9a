"""Losses that come as stages: the same numbers and verdicts as those of the whole loss, from fewer stages."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastgc
from tests.support.staged import entropy, relu, two_layers

Array = np.ndarray[Any, Any]


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (relu, lambda z: (z > 0).astype(z.dtype)),
}


class Network(NamedTuple):
    """A network of two layers as stages and as one function, its gradient, and a point."""

    staged: Callable[..., Any]
    whole: Callable[..., Any]
    gradients: Callable[..., dict[str, Array]]
    params: dict[str, Array]
    args: tuple[Array, Array]


def network(activation: str, scale: float = 1.0, dtype: type = np.float64, batched: bool = True) -> Network:
    act, slope = ACTIVATIONS[activation]
    rng = np.random.default_rng(7)
    params = {
        "W1": rng.normal(size=(6, 5)) * scale,
        "b1": rng.normal(size=5) * 0.3,
        "W2": rng.normal(size=(5, 3)),
        "b2": rng.normal(size=3),
    }
    params = {name: value.astype(dtype) for name, value in params.items()}
    args = ((rng.normal(size=(9, 6)) / scale).astype(dtype), rng.integers(3, size=9))

    def whole(p: Any, x: Array, labels: Array) -> Any:
        return entropy({}, act(x @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"], labels)

    def gradients(p: Any, x: Array, labels: Array) -> dict[str, Array]:
        z = x @ p["W1"] + p["b1"]
        scores = act(z) @ p["W2"] + p["b2"]
        d = np.exp(scores - scores.max(axis=1, keepdims=True))
        d /= d.sum(axis=1, keepdims=True)
        d[np.arange(labels.size), labels] -= 1
        d /= labels.size
        below = (d @ p["W2"].T) * slope(z)
        return {"W1": x.T @ below, "b1": below.sum(axis=0), "W2": act(z).T @ d, "b2": d.sum(axis=0)}

    return Network(two_layers(act, batched=batched), whole, gradients, params, args)


def wrong(net: Network, name: str, index: tuple[int, ...], factor: float) -> Callable[..., dict[str, Array]]:
    def gradients(*given: Any) -> dict[str, Array]:
        found = net.gradients(*given)
        found[name][index] *= factor
        return found

    return gradients


def checked(net: Network, loss: Any, gradients: Any = None, **options: Any) -> fastgc.GradientReport:
    options = {"samples": "all", "crosscheck": False, **options}
    return fastgc.check_gradients(loss, gradients or net.gradients, net.params, args=net.args, **options)


def verdicts(report: fastgc.GradientReport) -> dict[str, list[Any]]:
    return {name: [(e.index, e.verdict) for e in each.entries] for name, each in report.tensors.items()}


# --- the same numbers, the same verdicts ---


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_value_and_every_verdict_are_those_of_the_whole_loss(activation: str, batched: bool) -> None:
    net = network(activation, batched=batched)
    assert net.staged(net.params, *net.args) == net.whole(net.params, *net.args)
    staged, whole = (checked(net, loss) for loss in (net.staged, net.whole))
    assert staged.engine == "python (stages)"
    assert whole.engine == "python"
    assert staged.verdict == whole.verdict == "pass"
    assert verdicts(staged) == verdicts(whole)
    for ours, theirs in zip(staged.tensors.values(), whole.tensors.values(), strict=True):
        for one, other in zip(ours.entries, theirs.entries, strict=True):
            assert abs(one.numerical - other.numerical) <= one.uncertainty + other.uncertainty


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_parameters_of_any_scale_pass(activation: str, scale: float) -> None:
    net = network(activation, scale=scale)
    assert checked(net, net.staged).verdict == checked(net, net.whole).verdict == "pass"


@pytest.mark.parametrize("precision", ["double", "native"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_parameters_in_single_precision_get_the_verdicts_of_the_whole_loss(activation: str, precision: Any) -> None:
    net = network(activation, dtype=np.float32)
    staged, whole = (checked(net, loss, precision=precision) for loss in (net.staged, net.whole))
    assert staged.engine == "python (stages)"
    assert staged.verdict == whole.verdict
    assert "fail" not in staged.verdict
    bad = wrong(net, "W1", (2, 3), 1.5)
    assert checked(net, net.staged, bad, precision=precision).tensors["W1"].verdict == "fail"


@pytest.mark.parametrize(("name", "index"), [("W1", (4, 2)), ("b1", (3,)), ("W2", (0, 1)), ("b2", (2,))])
@pytest.mark.parametrize("factor", [1.5, -1.0, 1 + 3e-5])
def test_a_wrong_entry_is_found_and_no_other(name: str, index: tuple[int, ...], factor: float) -> None:
    net = network("tanh")
    report = checked(net, net.staged, wrong(net, name, index, factor))
    assert [(each.tensor, each.index) for t in report.tensors.values() for each in t.wrong_entries] == [(name, index)]


@pytest.mark.parametrize("loss", ["staged", "whole"])
def test_an_entry_wrong_by_a_millionth_is_found_where_that_is_asked_for(loss: str) -> None:
    net = network("tanh")
    bad = wrong(net, "W1", (1, 1), 1 + 1e-6)
    report = checked(net, getattr(net, loss), bad, rtol=1e-8)
    assert [each.index for each in report.tensors["W1"].wrong_entries] == [(1, 1)]
    assert checked(net, getattr(net, loss), rtol=1e-8).verdict == "pass"


def test_at_kinks_the_verdicts_are_those_of_the_whole_loss() -> None:
    net = network("relu")
    net.params["W1"][:, 1] = net.params["b1"][1] = 0.0  # a unit at its kink for every row
    staged, whole = (checked(net, loss) for loss in (net.staged, net.whole))
    assert verdicts(staged) == verdicts(whole)
    reasons = [[each.reason for each in report.tensors["W1"].entries] for report in (staged, whole)]
    assert reasons[0] == reasons[1]


def test_random_directions_and_points_take_stages_too() -> None:
    net = network("tanh")
    report = checked(net, net.staged, samples=4, probes=3, points=2)
    assert report.verdict == "pass"
    bad = checked(net, net.staged, wrong(net, "W1", (5, 4), 2.0), samples=2, probes=3)
    assert [each.index for each in bad.tensors["W1"].wrong_entries] == [(5, 4)]


# --- the noise of what is evaluated ---


def evaluators(net: Network) -> tuple[Any, Any, Any]:
    """The evaluators of the stages and of the whole loss at a copy of the point, and its layout."""
    from fastgc._evaluation.engine import Execution, open_evaluator
    from fastgc._parameters.layout import flatten_parameters
    from fastgc._parameters.point import copied_point

    layout, leaves = flatten_parameters(net.params)
    found = []
    for loss in (net.staged, net.whole):
        point = copied_point(layout, leaves, net.args, "double", complex_step=False)
        found.append(open_evaluator(loss, point, Execution("auto"), expected=0, with_gradients=False)[0])
    return found[0], found[1], layout


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_values_scatter_no_more_than_those_of_the_whole_loss(scale: float) -> None:
    from fastgc._derivatives.noise import difference_table_noise

    net = network("tanh", scale=scale)
    staged, whole, _ = evaluators(net)
    positions = np.arange(30)  # of W1
    steps = 1e-10 * scale * np.arange(32)
    rows = staged.entries(positions)[:, None] + steps
    noises = [difference_table_noise(each.values(positions, rows, lambda _: None).T) for each in (staged, whole)]
    # The round-off of this loss: a scatter of some units of eps of a value near 1.
    assert np.median(noises[0]) <= 2 * np.median(noises[1])
    assert np.max(noises[0]) <= 4 * np.max(noises[1])


def test_the_point_itself_has_its_own_value_in_every_batch() -> None:
    net = network("tanh")
    staged, whole, layout = evaluators(net)
    positions = np.arange(layout.size)
    values = staged.values(positions, np.repeat(staged.entries(positions)[:, None], 2, axis=1), lambda _: None)
    assert (values == whole.value()).all()


def test_what_comes_from_kept_values_is_the_whole_loss_to_the_bit() -> None:
    net = network("tanh")
    loss = fastgc.stages(
        [
            fastgc.Stage(lambda p, x, y: np.tanh(x @ p["W1"] + p["b1"]), ["W1", "b1"]),
            fastgc.Stage(lambda p, h, y: entropy(p, h @ p["W2"] + p["b2"], y), ["W2", "b2"]),
        ]
    )
    staged, whole, layout = evaluators(net._replace(staged=loss))
    positions = np.arange(layout.size)
    rows = staged.entries(positions)[:, None] + np.array([-1e-3, 1e-5])
    found = [each.values(positions, rows, lambda _: None) for each in (staged, whole)]
    assert (found[0] == found[1]).all()
    together = np.array([0, 31, 40])
    rows = staged.entries(together) + np.array([[1e-4], [-1e-4]])
    assert (staged.along(together, rows) == whole.along(together, rows)).all()


def test_the_complex_step_decides_what_noise_hides_as_it_does_of_the_whole_loss() -> None:
    rng = np.random.default_rng(3)
    params = {"W1": rng.normal(size=(5, 6)), "b1": rng.normal(size=6), "W2": rng.normal(size=(6, 4))}
    x = rng.normal(size=(7, 5))
    coarse = 1e4 * rng.normal(size=4)

    def last(_: Any, value: Array) -> Any:
        return np.sum(value + coarse**3, axis=(-2, -1))

    def whole(p: Any, x: Array) -> Any:
        return last({}, np.tanh(x @ p["W1"] + p["b1"]) @ p["W2"])

    hidden = np.tanh(x @ params["W1"] + params["b1"])
    below = np.outer(np.ones(len(x)), params["W2"].sum(axis=1)) * (1 - hidden**2)
    slopes = {"W1": x.T @ below, "b1": below.sum(axis=0), "W2": hidden.T @ np.ones((len(x), 4))}
    loss = fastgc.stages([fastgc.dense("W1", "b1", np.tanh), fastgc.dense("W2"), fastgc.Stage(last, batched=True)])
    reports = [fastgc.check_gradients(each, slopes, params, args=(x,), samples="all") for each in (loss, whole)]
    assert [each.verdict for each in reports] == ["pass", "pass"]
    assert all("the complex step decided" in " ".join(each.notes) for each in reports)
    assert verdicts(reports[0]) == verdicts(reports[1])


def test_stages_of_unknown_functions_take_no_complex_step() -> None:
    from fastgc._verdicts.complex_step import is_analytic

    assert is_analytic(fastgc.stages([fastgc.dense("W", activation=np.tanh), lambda _, value: np.sum(value)]))
    assert not is_analytic(fastgc.stages([fastgc.dense("W", activation=np.abs), lambda _, value: np.sum(value)]))
    assert not is_analytic(fastgc.stages([fastgc.dense("W"), lambda _, value: np.abs(value).sum()]))
    assert not is_analytic(fastgc.stages([fastgc.dense("W"), Counted(lambda _, value: np.sum(value))]))


# --- fewer stages ---


class Counted:
    """A stage that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        return self.function(*given)


def test_an_entry_takes_only_the_stages_from_its_own_on() -> None:
    first = Counted(lambda p, x: x * p["a"])
    second = Counted(lambda p, value: float(np.sum(np.sin(value * p["b"]))))
    loss = fastgc.stages([fastgc.Stage(first, "a"), fastgc.Stage(second, "b")])
    params = {"a": np.linspace(1, 2, 3), "b": np.linspace(1, 2, 3)}

    def gradients(p: Any, x: Array) -> Any:
        slope = np.cos(x * p["a"] * p["b"])
        return {"a": slope * x * p["b"], "b": slope * x * p["a"]}

    args = (np.array([0.3, 0.5, 0.7]),)
    options: dict[str, Any] = {"samples": "all", "probes": 0, "crosscheck": False}
    assert fastgc.check_gradients(loss, gradients, params, args=args, **options).passed
    few, every = first.calls, second.calls
    assert few < every
    first.calls = second.calls = 0
    assert fastgc.check_gradients(loss, gradients, params, args=args, tensors="b", **options).passed
    assert first.calls < 0.4 * second.calls  # the first calls, and those that measure the noise


def test_entries_of_dense_stages_share_calls_of_what_follows() -> None:
    net = network("tanh")
    last = Counted(entropy)
    loss = fastgc.stages(
        [fastgc.dense("W1", "b1", np.tanh), fastgc.dense("W2", "b2"), fastgc.Stage(last, batched=True)]
    )
    report = checked(net, loss)
    assert report.passed
    assert last.calls < report.evaluations / 2


# --- parameters by name ---


def test_stages_name_nested_parameters_groups_and_items() -> None:
    @dataclass
    class Head:
        scale: Array
        shift: Array

    params = {
        "layers": [{"W": np.ones((2, 3)) / 3, "b": np.zeros(3)}],
        "head": Head(np.arange(1.0, 4.0), np.array(0.5)),
    }
    loss = fastgc.stages(
        [
            fastgc.dense("layers.0.W", "layers.0.b"),
            fastgc.Stage(lambda p, h: float(np.sum(h * p["head"].scale + p["head"].shift)), "head"),
        ]
    )
    x = np.array([[1.0, 2.0]])
    found = fastgc.numerical_gradient(loss, params, args=(x,))
    np.testing.assert_allclose(found["layers"][0]["W"], np.outer(x, params["head"].scale), rtol=1e-8)
    np.testing.assert_allclose(found["head"].scale, np.ones(3), rtol=1e-8)
    assert found["head"].shift == pytest.approx(3.0)


def test_one_array_is_named_params_and_a_list_by_numbers() -> None:
    one = fastgc.stages([fastgc.Stage(lambda p: p["params"] ** 2, "params"), lambda _, value: float(value.sum())])
    np.testing.assert_allclose(fastgc.numerical_gradient(one, np.arange(3.0)), 2 * np.arange(3.0), atol=1e-8)
    two = fastgc.stages([fastgc.Stage(lambda p: p["0"] ** 2, "0"), fastgc.Stage(lambda p, v: float(v @ p["1"]), ["1"])])
    found = fastgc.numerical_gradient(two, [np.arange(3.0), np.ones(3)])
    np.testing.assert_allclose(found[0], 2 * np.arange(3.0), atol=1e-8)


def test_stages_may_be_made_of_stages() -> None:
    net = network("tanh")
    body = fastgc.stages([fastgc.dense("W1", "b1", np.tanh), fastgc.dense("W2", "b2")])
    loss = fastgc.stages([body, fastgc.Stage(entropy, batched=True)])
    assert loss == net.staged
    assert checked(net, loss).engine == "python (stages)"


def test_a_key_may_hold_dots() -> None:
    loss = fastgc.stages([fastgc.dense("fc.weight"), lambda _, value: float(np.sum(value**2))])
    assert fastgc.numerical_gradient(loss, {"fc.weight": np.eye(2)}, args=(np.ones(2),))["fc.weight"].shape == (2, 2)


def test_a_shared_parameter_is_evaluated_from_its_first_stage_on() -> None:
    loss = fastgc.stages(
        [fastgc.dense("W", activation=np.tanh), fastgc.dense("W"), lambda _, value: float(np.sum(value**2))]
    )
    params, x = {"W": np.random.default_rng(0).normal(size=(3, 3))}, np.ones((2, 3))
    whole = fastgc.numerical_gradient(
        lambda p, x: float(np.sum((np.tanh(x @ p["W"]) @ p["W"]) ** 2)), params, args=(x,)
    )
    staged = fastgc.numerical_gradient(loss, params, args=(x,))
    assert (staged["W"] == whole["W"]).all()


def test_a_parameter_that_no_stage_reads_is_refused_by_name() -> None:
    loss = fastgc.stages([fastgc.Stage(lambda p: float(p["a"].sum()), "a")])
    with pytest.raises(ValueError, match="params 'c', 'd': read by no stage; name them in the stages that read them"):
        fastgc.numerical_gradient(loss, {"a": np.ones(2), "c": np.ones(2), "d": np.ones(1)})


def test_a_parameter_that_does_not_exist_is_refused_by_name() -> None:
    loss = fastgc.stages([lambda p: 1.0, fastgc.dense("V")])
    with pytest.raises(ValueError, match=r"stages\[1\] \(dense 'V'\) reads 'V', which params does not have"):
        loss({"W": np.ones(2)})


def test_a_stage_receives_its_own_parameters_alone() -> None:
    loss = fastgc.stages([fastgc.Stage(lambda p: p["a"] * p["b"], "a"), lambda _, value: float(value.sum())])
    with pytest.raises(KeyError, match="b"):
        loss({"a": np.ones(2), "b": np.ones(2)})


# --- values between stages ---


class Pair(NamedTuple):
    value: Array
    penalty: Array


def test_values_may_be_tuples_dicts_and_numbers() -> None:
    def split(p: Any, x: Array) -> Pair:
        return Pair(x @ p["W"], np.sum(p["W"] ** 2))

    loss = fastgc.stages(
        [
            fastgc.Stage(split, "W"),
            fastgc.Stage(lambda p, pair: {"value": pair.value * p["s"], "rest": [pair.penalty]}, "s"),
            lambda _, each: float(np.sum(each["value"] ** 2) + each["rest"][0]),
        ]
    )
    params, x = {"W": np.arange(6.0).reshape(2, 3), "s": np.array([1.0, 2.0, 3.0])}, np.array([[1.0, -1.0]])
    found = fastgc.numerical_gradient(loss, params, args=(x,))
    expected = fastgc.numerical_gradient(
        lambda p, x: float(np.sum((x @ p["W"] * p["s"]) ** 2) + np.sum(p["W"] ** 2)), params, args=(x,)
    )
    assert (found["W"] == expected["W"]).all()
    assert (found["s"] == expected["s"]).all()


@pytest.mark.parametrize("batched", [True, False])
def test_batches_go_through_stages_that_pass_on_several_arrays(batched: bool) -> None:
    def both(_: Any, value: Array) -> tuple[Array, dict[str, Array]]:
        return value, {"total": np.sum(value**2, axis=(-2, -1))}

    def joined(p: Any, given: tuple[Array, dict[str, Array]]) -> Any:
        return given[1]["total"] + np.sum(given[0] * p["v"], axis=(-2, -1))

    loss = fastgc.stages(
        [fastgc.dense("W"), fastgc.Stage(both, batched=batched), fastgc.Stage(joined, "v", batched=True)]
    )
    params = {"W": np.linspace(-1, 1, 6).reshape(2, 3), "v": np.arange(3.0)}
    x = np.array([[1.0, 2.0], [0.5, -1.0]])
    found = fastgc.numerical_gradient(loss, params, args=(x,))
    np.testing.assert_allclose(found["W"], x.T @ (2 * x @ params["W"] + params["v"]), rtol=1e-7)


class Opaque:
    """A value that NumPy does not know."""

    def __init__(self, array: Array) -> None:
        self.array = array


def test_values_may_be_any_objects() -> None:
    loss = fastgc.stages(
        [
            fastgc.dense("W"),
            lambda _, value: Opaque(value),
            fastgc.Stage(lambda p, each: float(np.sum(each.array * p["v"])), "v"),
        ]
    )
    params = {"W": np.ones((2, 3)), "v": np.arange(3.0)}
    found = fastgc.numerical_gradient(loss, params, args=(np.ones((4, 2)),))
    np.testing.assert_allclose(found["W"], 4 * np.ones((2, 1)) * params["v"], rtol=1e-7, atol=1e-7)


# --- what is refused ---


def test_a_stage_that_writes_into_its_value_is_refused() -> None:
    def greedy(p: Any, value: Array) -> float:
        value += p["b"]
        return float(np.sum(value**2))

    loss = fastgc.stages([fastgc.dense("W"), fastgc.Stage(greedy, "b")])
    params, x = {"W": np.eye(2), "b": np.ones(2)}, np.ones((3, 2))
    with pytest.raises(ValueError, match=r"stages\[1\] \(greedy\) writes into the value that .*copy it first"):
        fastgc.numerical_gradient(loss, params, args=(x,))


def test_a_stage_that_changes_an_object_is_refused() -> None:
    def greedy(p: Any, value: Opaque) -> float:
        value.array = value.array + p["b"]
        return float(np.sum(value.array**2))

    loss = fastgc.stages([fastgc.Stage(lambda p: Opaque(p["a"] * 1.0), "a"), fastgc.Stage(greedy, "b")])
    with pytest.raises(ValueError, match=r"stages\[1\] \(greedy\) gives .* from the value that it received before"):
        fastgc.numerical_gradient(loss, {"a": np.ones(2), "b": np.ones(2)})


def test_an_activation_may_write_into_its_argument() -> None:
    def rectified(z: Array) -> Array:
        return np.maximum(z, 0.0, out=z)

    net = network("relu")
    loss = fastgc.stages(
        [fastgc.dense("W1", "b1", rectified), fastgc.dense("W2", "b2"), fastgc.Stage(entropy, batched=True)]
    )
    assert verdicts(checked(net, loss)) == verdicts(checked(net, net.staged))


@pytest.mark.parametrize(
    "activation",
    [
        lambda z: np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True),
        lambda z: np.where(np.arange(3) == 1, np.tanh(z), z),
        lambda z: z * np.array([[1.0], [2.0]]),
    ],
)
def test_an_activation_that_is_not_elementwise_is_refused(activation: Any) -> None:
    loss = fastgc.stages([fastgc.dense("W", activation=activation), lambda _, value: float(np.sum(value**2))])
    with pytest.raises(ValueError, match=r"stages\[0\] \(dense 'W'\): activation is not elementwise.*fastgc.Stage"):
        fastgc.numerical_gradient(loss, {"W": np.eye(3)}, args=(np.arange(6.0).reshape(2, 3),))


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (lambda _, value: np.sum(value**2), "gives other values for a batch of two than for each by itself"),
        (
            lambda _, value: np.full(len(value), np.sum(value**2)) if value.ndim == 3 else np.sum(value**2),
            "gives other",
        ),
        (lambda _, value: float(np.trace(value @ value.T)), "cannot take a batch of two: "),
    ],
)
def test_a_stage_that_takes_no_batch_is_refused(last: Callable[..., Any], why: str) -> None:
    loss = fastgc.stages([fastgc.dense("W"), fastgc.Stage(last, batched=True)])
    with pytest.raises(ValueError, match=rf"stages\[1\] \(<lambda>\): batched=True, but the function {why}"):
        fastgc.numerical_gradient(loss, {"W": np.eye(3)}, args=(np.arange(6.0).reshape(2, 3),))


def test_what_is_no_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="stages is empty; pass at least one stage"):
        fastgc.stages([])
    with pytest.raises(TypeError, match=r"stages\[1\] is a str; it must be a fastgc.Stage, a .* or a function"):
        fastgc.stages([np.sum, "W"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"stages is a function; it must be a sequence of stages: stages\(\[...\]\)"):
        fastgc.stages(entropy)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="names is None; name parameters with strings"):
        fastgc.Stage(np.sum, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"function is 3 .int.; it must be a function"):
        fastgc.Stage(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="batched is 'no'; it must be True or False"):
        fastgc.Stage(np.sum, batched="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="names has 3; name parameters with strings"):
        fastgc.Stage(np.sum, [3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="weight has 3; name parameters with strings"):
        fastgc.dense(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bias has 3; name parameters with strings"):
        fastgc.dense("W", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"activation is 'tanh' .str.; it must be a function"):
        fastgc.dense("W", activation="tanh")  # type: ignore[arg-type]


def test_the_compiled_engine_is_refused() -> None:
    net = network("tanh")
    with pytest.raises(ValueError, match=r'engine="numba", but a loss of fastgc.stages is called from Python'):
        checked(net, net.staged, engine="numba")


# --- losses that are evaluated as a whole ---


def test_stages_that_read_displaced_arrays_from_elsewhere_are_evaluated_as_a_whole() -> None:
    params = {"a": np.arange(1.0, 4.0), "b": np.ones(3)}
    loss = fastgc.stages(
        [fastgc.Stage(lambda p: p["a"] * params["b"], "a"), fastgc.Stage(lambda p, value: float(value @ p["b"]), "b")]
    )
    report = fastgc.check_gradients(
        loss, {"a": params["b"] ** 2, "b": 2 * params["a"] * params["b"]}, params, in_place=True, crosscheck=False
    )
    assert report.engine == "python"
    assert report.passed


def test_a_random_stage_is_noise_and_every_value_is_of_the_whole_loss() -> None:
    rng = np.random.default_rng(0)
    loss = fastgc.stages(
        [
            fastgc.Stage(lambda p: p["a"] + 1e-7 * rng.normal(size=3), "a"),
            fastgc.Stage(lambda p, value: float(value @ p["b"]), "b"),
        ]
    )
    params = {"a": np.ones(3), "b": np.arange(1.0, 4.0)}
    report = fastgc.check_gradients(loss, {"a": params["b"], "b": params["a"]}, params, samples="all", crosscheck=False)
    assert report.engine == "python"
    assert any("loss is noisy" in note for note in report.notes)
    assert report.verdict != "fail"


def test_a_loss_that_writes_into_args_is_evaluated_as_a_whole() -> None:
    def first(p: Any, x: Array, scratch: Array) -> Array:
        np.multiply(x, p["a"], out=scratch)
        return scratch

    loss = fastgc.stages(
        [fastgc.Stage(first, "a"), fastgc.Stage(lambda p, value, _: float(np.sum(value * p["b"])), "b")]
    )
    params, x = {"a": np.ones(3), "b": np.arange(1.0, 4.0)}, np.array([1.0, 2.0, 3.0])
    report = fastgc.check_gradients(
        loss, {"a": x * params["b"], "b": x}, params, args=(x, np.empty(3)), samples="all", crosscheck=False
    )
    assert report.engine == "python"
    assert report.passed


# --- other doors and options ---


@pytest.mark.parametrize("stencil", ["central", "forward", "five_point", "complex_step"])
def test_every_stencil_takes_stages(stencil: Any) -> None:
    net = network("tanh")
    assert checked(net, net.staged, stencil=stencil).verdict == checked(net, net.whole, stencil=stencil).verdict
    staged, whole = (
        fastgc.numerical_gradient(loss, net.params, args=net.args, stencil=stencil) for loss in (net.staged, net.whole)
    )
    tolerance = 1e-5 if stencil == "forward" else 1e-8
    for name in net.params:
        np.testing.assert_allclose(staged[name], whole[name], rtol=tolerance, atol=tolerance)


def test_options_that_displace_in_another_way_take_stages() -> None:
    net = network("tanh")
    before = {name: value.copy() for name, value in net.params.items()}
    for options in ({"in_place": True}, {"bounds": {"*": (-9.0, 9.0)}}, {"time_budget": 60.0}, {"vectorized": False}):
        assert checked(net, net.staged, **options).verdict == "pass"
    assert all((net.params[name] == before[name]).all() for name in before)


def test_a_symmetric_weight_takes_stages() -> None:
    loss = fastgc.stages([fastgc.dense("W"), lambda _, value: float(np.sum(value**2))])
    params, x = {"W": np.array([[2.0, 0.3], [0.3, 1.0]])}, np.array([[1.0, 2.0], [0.5, -1.0], [0.1, 0.2]])
    report = fastgc.check_gradients(
        loss, {"W": 2 * x.T @ x @ params["W"]}, params, args=(x,), symmetric="W", samples="all", crosscheck=False
    )
    assert report.passed


def test_a_stage_that_is_not_defined_nearby_counts_as_not_defined_there() -> None:
    def logarithm(_: Any, value: Array) -> Any:
        if np.any(value <= 0):
            raise ValueError("not positive")
        return np.log(value).sum(axis=(-2, -1))

    params, x = {"W": np.array([[1e-4, 1.0], [1.0, 1.0]])}, np.array([[1.0, 0.0]])
    loss = fastgc.stages([fastgc.dense("W"), fastgc.Stage(logarithm, batched=True)])
    report = fastgc.check_gradients(
        loss, {"W": np.array([[1e4, 1.0], [0.0, 0.0]])}, params, args=(x,), samples="all", crosscheck=False
    )
    assert report.verdict == "pass"
    assert any("not positive" in note for note in report.notes)


def test_a_batched_stage_that_is_defined_only_near_its_value_warns_of_nothing() -> None:
    params, x = {"W": np.eye(3)}, np.arange(6.0).reshape(2, 3)

    def near(_: Any, value: Array) -> Any:
        return np.sum(value**2 + 0 * np.log(1e-3 - np.abs(value - x)), axis=(-2, -1))

    loss = fastgc.stages([fastgc.dense("W"), fastgc.Stage(near, batched=True)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert fastgc.check_gradients(loss, {"W": 2 * x.T @ x}, params, args=(x,), samples="all").passed
    assert not caught


def test_stages_serve_taylor_tests() -> None:
    net = network("tanh")
    assert fastgc.taylor_test(net.staged, net.gradients, net.params, args=net.args).passed


def test_a_parameter_that_a_stage_does_not_name_is_told() -> None:
    loss = fastgc.stages([fastgc.dense("W"), fastgc.Stage(lambda p, value: (value * p["g"]).sum(), "b")])
    params = {"W": np.ones((2, 2)), "b": np.ones(2), "g": np.ones(2)}
    for door in (lambda: loss(params, np.ones(2)), lambda: fastgc.numerical_gradient(loss, params, args=(np.ones(2),))):
        with pytest.raises(KeyError, match=r"stages\[1\] \(<lambda>\) reads 'g', but names only 'b': name it, too"):
            door()
