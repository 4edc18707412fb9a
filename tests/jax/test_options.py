"""The options of `fastgc.check_gradients` at the door of JAX, other forms of losses and pytrees, and the assertion."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastgc

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
import jax.numpy as jnp  # noqa: E402

from fastgc.jax import assert_gradients, check_gradients  # noqa: E402
from tests.support.clock import Clock  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4))
PARAMS = {"W": RNG.normal(size=(4, 3)), "b": RNG.normal(size=3)}
ABOUT_X64 = "jax_enable_x64 is off: switched on while this check runs"


def smooth(params: Any) -> Any:
    return jnp.mean(jnp.tanh(X @ params["W"] + params["b"]) ** 2)


def cubes(factor: float, edge: float = -np.inf) -> Callable[[Any], Any]:
    """The sum of third powers; its rule has a factor of its own where x is above an edge."""

    @jax.custom_vjp
    def loss(x: Any) -> Any:
        return jnp.sum(x**3)

    def backward(x: Any, g: Any) -> Any:
        return (jnp.where(x > edge, factor, 3.0) * x**2 * g,)

    loss.defvjp(lambda x: (loss(x), x), backward)
    return loss


# --- several points, bounds, formulas ---


def test_random_points_have_their_own_gradient_and_leave_the_parameters_as_they_were() -> None:
    before = {name: each.copy() for name, each in PARAMS.items()}
    report = check_gradients(smooth, PARAMS, points=3)
    assert report.passed and report.points == 3
    assert {entry.point for entry in report.tensors["W"].entries} == {0, 1, 2}
    assert all(np.array_equal(before[name], PARAMS[name]) for name in before)


def test_a_rule_that_is_wrong_elsewhere_fails_at_a_random_point_only() -> None:
    loss, x = cubes(2.0, edge=0.7), np.array([0.4, 0.5, 0.6])
    assert check_gradients(loss, x).passed
    report = check_gradients(loss, x, points=4)
    assert report.verdict == "fail"
    assert {entry.point for entry in report.tensors["params"].wrong_entries} <= {1, 2, 3}


def test_it_is_never_evaluated_outside_of_bounds() -> None:
    def loss(p: Any) -> Any:
        if bool((np.asarray(p) < 0).any() or (np.asarray(p) > 1).any()):
            raise AssertionError("outside")
        return jnp.sum(jnp.sin(p))

    p = np.array([0.0, 0.5, 1.0])
    report = check_gradients(loss, p, lambda p: jnp.cos(p), bounds=[(0, 1)] * 3, points=3)
    assert report.passed and not any("outside" in note for note in report.notes), str(report)
    assert any("outside" in note for note in check_gradients(loss, p, lambda p: jnp.cos(p)).notes)


def test_mirrored_entries_of_symmetric_parameters_are_displaced_together() -> None:
    a = np.array([[2.0, 0.5], [0.5, 3.0]])

    def triangle(a: Any) -> Any:
        inverse = jnp.linalg.inv(a)
        return jnp.tril(inverse) + jnp.tril(inverse, -1)

    def loss(a: Any) -> Any:
        return jnp.linalg.slogdet(a)[1]

    assert check_gradients(loss, a, triangle).verdict == "fail"
    report = check_gradients(loss, a, triangle, symmetric="params", points=2)
    assert report.passed and any("the lower triangle" in note for note in report.notes), str(report)


@pytest.mark.parametrize("stencil", ["forward", "backward", "central", "five_point", "complex_step"])
def test_every_stencil_agrees(stencil: Any) -> None:
    assert check_gradients(smooth, PARAMS, stencil=stencil).passed
    assert check_gradients(cubes(2.9), np.array([0.4, 0.5]), stencil=stencil).verdict == "fail"


def test_the_complex_step_is_right_to_round_off_and_says_where_it_cannot_be_had() -> None:
    report = check_gradients(smooth, PARAMS, stencil="complex_step", points=2)
    assert max(tensor.max_relative_error for tensor in report.tensors.values()) < 1e-12
    message = r'stencil="complex_step" evaluates the loss at complex parameters, .*; use stencil="central"'
    with pytest.raises(TypeError, match=message):
        check_gradients(lambda p: jnp.sum(jax.lax.clamp(0.0, p, 1.0)), np.ones(2) / 2, stencil="complex_step")
    with pytest.raises(TypeError, match=message):
        check_gradients(lambda z: jnp.sum(jnp.abs(z)), np.ones(2) + 1j, stencil="complex_step")


# --- time, tolerances, entries, an earlier moment ---


def test_what_is_not_reached_in_time_is_undecided(clock: Clock) -> None:
    def slow(p: Any) -> Any:
        clock.seconds += 1.0
        return float(np.sum(np.asarray(p) ** 2))

    report = check_gradients(slow, np.ones(100), lambda p: 2 * p, time_budget=60.0, points=2)
    assert report.verdict == "undecided"
    assert report.evaluations <= 61
    assert any(re.match(r"time_budget(=\S+)? was over", note) for note in report.notes)


def test_blocks_end_in_time_too(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgc.jax._evaluator import JaxEvaluator

    inner = JaxEvaluator._together

    def slowly(self: Any, *given: Any) -> Any:
        clock.seconds += 10.0
        return inner(self, *given)

    monkeypatch.setattr(JaxEvaluator, "_together", slowly)
    report = check_gradients(lambda p: jnp.sum(jnp.sin(p)), np.ones(4000), samples="all", time_budget=100.0)
    assert report.verdict == "undecided" and report.tensors["params"].checked < 4000


def test_tolerances_and_entries_are_taken_by_name() -> None:
    x = np.array([0.4, 0.5, 0.6])
    assert check_gradients(cubes(3.003), x).verdict == "fail"
    assert check_gradients(cubes(3.003), x, rtol={"params": 1e-2}).passed
    report = check_gradients(smooth, PARAMS, samples={"W": [(0, 1), (3, 2)]}, crosscheck=True)
    assert [entry.index for entry in report.tensors["W"].entries] == [(0, 1), (3, 2)]
    assert report.crosscheck is not None


def test_a_stale_gradient_is_recognised() -> None:
    earlier = {name: each + 0.3 * RNG.normal(size=each.shape) for name, each in PARAMS.items()}
    report = check_gradients(smooth, PARAMS, lambda _: jax.grad(smooth)(earlier), previous=earlier)
    assert report.tensors["W"].diagnosis.kind == "stale"
    with pytest.raises(ValueError, match=r"^previous has the structure .*'W'.*; params has .*'b'"):
        check_gradients(smooth, PARAMS, previous={"W": PARAMS["W"]})
    with pytest.raises(ValueError, match=r"previous\['b'\] has shape \(2,\); params\['b'\] has shape \(3,\)"):
        check_gradients(smooth, PARAMS, previous={**PARAMS, "b": np.ones(2)})


def test_arrays_have_one_point() -> None:
    with pytest.raises(ValueError, match="points=2 needs gradients as a function"):
        check_gradients(smooth, PARAMS, PARAMS, points=2)


# --- forms of the loss ---


def with_aux(params: Any) -> Any:
    return smooth(params), {"hidden": X @ params["W"]}


def doubled(params: Any) -> Any:
    return jax.tree_util.tree_map(lambda each: 2 * each, jax.grad(smooth)(params))


def test_a_loss_may_return_its_gradient_too() -> None:
    assert check_gradients(jax.value_and_grad(smooth), PARAMS, True, points=2).passed
    report = check_gradients(lambda p: (smooth(p), doubled(p)), PARAMS, True)
    assert [tensor.diagnosis.factor for tensor in report.tensors.values()] == pytest.approx([2.0, 2.0])


def test_a_loss_may_return_more_than_its_value() -> None:
    assert check_gradients(with_aux, PARAMS, has_aux=True, points=2).passed
    grad = jax.grad(with_aux, has_aux=True)
    assert check_gradients(with_aux, PARAMS, grad, has_aux=True).passed
    assert check_gradients(with_aux, PARAMS, lambda p: grad(p)[0], has_aux=True).passed
    assert check_gradients(with_aux, PARAMS, doubled, has_aux=True).verdict == "fail"
    assert check_gradients(jax.value_and_grad(with_aux, has_aux=True), PARAMS, True, has_aux=True).passed
    pair = (PARAMS["W"], PARAMS["b"])  # of the structure of a gradient with something else
    both = (lambda p: (smooth({"W": p[0], "b": p[1]}), 1.0), pair)
    assert check_gradients(*both, jax.grad(both[0], has_aux=True), has_aux=True).passed


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (with_aux, {}, r"loss returned a tuple of 2; .* has_aux=True if .*, gradients=True if it returns \(va"),
        (smooth, {"has_aux": True}, r"^has_aux=True, but loss returned a .*; it must return \(value, aux\)"),
        (smooth, {"gradients": True}, r"^gradients=True, but loss returned a .*; it must return \(value, gradients\)"),
    ],
    ids=["aux", "no aux", "no gradients"],
)  # fmt: skip
def test_another_form_of_the_loss_is_refused(loss: Any, options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_gradients(loss, PARAMS, **options)


# --- pytrees with None ---


@jax.tree_util.register_pytree_node_class
class Layer:
    """A module in the way of Equinox: arrays, functions and None in one pytree."""

    def __init__(self, weight: Any, bias: Any, activation: Any) -> None:
        self.weight, self.bias, self.activation = weight, bias, activation

    def tree_flatten(self) -> Any:
        return (self.weight, self.bias, self.activation), None

    @classmethod
    def tree_unflatten(cls, _: Any, children: Any) -> Layer:
        return cls(*children)


def layer_loss(layer: Layer) -> Any:
    hidden = X @ layer.weight
    return jnp.sum(layer.activation(hidden if layer.bias is None else hidden + layer.bias))


def filtered_grad(layer: Layer) -> Layer:
    """As `equinox.filter_grad`: None in place of what is no array."""
    by_arrays = jax.grad(lambda weight, bias: layer_loss(Layer(weight, bias, layer.activation)), (0, 1))
    return Layer(*by_arrays(layer.weight, layer.bias), None)


def test_none_stands_for_leaves_that_are_not_checked() -> None:
    layer = Layer(PARAMS["W"], PARAMS["b"], jnp.tanh)
    report = check_gradients(layer_loss, layer, filtered_grad)
    assert report.passed and len(report.tensors) == 2
    assert any(note.startswith("not checked, since neither floating nor complex: ") for note in report.notes)
    without = Layer(PARAMS["W"], None, jnp.tanh)
    report = check_gradients(layer_loss, without)
    assert report.passed and len(report.tensors) == 1


def test_none_for_a_leaf_that_is_checked_is_said_and_fails_only_where_the_loss_moves() -> None:
    def first_only(layer: Layer) -> Layer:
        return Layer(filtered_grad(layer).weight, None, None)

    layer = Layer(PARAMS["W"], PARAMS["b"], jnp.tanh)
    report = check_gradients(layer_loss, layer, first_only)
    (moving,) = (name for name, tensor in report.tensors.items() if tensor.verdict == "fail")
    assert f"no gradient (None), taken for zero: {moving!r}" in report.notes

    def still(layer: Layer) -> Any:
        return layer_loss(Layer(layer.weight, None, layer.activation))

    report = check_gradients(still, layer, lambda each: Layer(jax.grad(still_of(each))(each.weight), None, None))
    assert report.passed and f"no gradient (None), taken for zero: {moving!r}" in report.notes


def still_of(layer: Layer) -> Any:
    return lambda weight: layer_loss(Layer(weight, None, layer.activation))


# --- the assertion ---


def test_an_assertion_raises_the_report_unless_it_passes() -> None:
    assert assert_gradients(smooth, PARAMS).passed
    with pytest.raises(fastgc.GradientMismatch, match=r"^FAIL  2 of 2 tensors disagree") as info:
        assert_gradients(smooth, PARAMS, doubled)
    assert info.value.report.verdict == "fail"


def test_an_assertion_accepts_what_is_undecided_if_told_to() -> None:
    random = np.random.default_rng(0)

    def noisy(p: Any) -> Any:
        return float(np.sum(np.asarray(p))) + random.normal()

    with pytest.raises(fastgc.GradientMismatch, match=r"^UNDECIDED"):
        assert_gradients(noisy, np.ones(3), lambda p: 0 * p + 1)
    assert assert_gradients(noisy, np.ones(3), lambda p: 0 * p + 1, allow_undecided=True).verdict == "undecided"


# --- the doors of NumPy ---


def test_arrays_of_jax_are_pointed_to_the_right_door() -> None:
    with pytest.raises(TypeError, match=r"^params\['w'\] is a JAX \w+; use fastgc.jax.check_gradients for a loss, f"):
        fastgc.check_gradients(smooth, smooth, {"w": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"^x is a JAX \w+; .*, fastgc.jax.check_grads for a function; or pass NumPy"):
        fastgc.check_jacobian(smooth, smooth, jnp.ones(2))


FLAGS = {
    fastgc.jax.check_gradients: ("has_aux", "operations", "crosscheck", "progress"),
    fastgc.jax.assert_gradients: ("has_aux", "operations", "allow_undecided"),
    fastgc.jax.check_grads: ("allow_undecided",),
}


@pytest.mark.parametrize("value", [np.ones(2), jnp.ones(2), [], "no", 2], ids=str)
@pytest.mark.parametrize(("door", "name"), [(door, name) for door, names in FLAGS.items() for name in names])
def test_flags_that_are_neither_true_nor_false(door: Any, name: str, value: Any) -> None:
    arguments = (jnp.tanh, (np.ones(3),), 1) if door is fastgc.jax.check_grads else (jnp.sum, np.ones(3))
    with pytest.raises(TypeError, match=f"^{name} is .*it must be True or False"):
        door(*arguments, **{name: value})
