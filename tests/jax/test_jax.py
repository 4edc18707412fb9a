"""Gradients of JAX functions: over pytrees, and in place of JAX's own check_grads."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.support.concurrency import at_once

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads as jax_check_grads  # noqa: E402

from fastgc._evaluation.evaluator import silent  # noqa: E402
from fastgc._parameters.layout import named_layout  # noqa: E402
from fastgc.jax import check_gradients, check_grads  # noqa: E402
from fastgc.jax._evaluator import JaxEvaluator  # noqa: E402

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 6)), RNG.integers(0, 3, 16)


def network(params: Any, x: Any, y: Any) -> Any:
    hidden = jax.nn.relu(x @ params["first"]["W"] + params["first"]["b"])
    scores = hidden @ params["rest"][0] + params["rest"][1]
    return -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(len(y)), y])


def parameters(dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(1)
    first = {"W": rng.normal(size=(6, 20)).astype(dtype), "b": np.zeros(20, dtype)}
    return {"first": first, "rest": (rng.normal(size=(20, 3)).astype(dtype), np.zeros(3, dtype)), "epochs": 3}


def enable_x64(value: bool) -> Any:
    return jax.enable_x64(value) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(value)


@jax.custom_vjp
def wrong_backward(x: Any, params: Any) -> Any:
    """The sum of the squares times w; its rule has 3 for 2, on purpose."""
    return jnp.sum(x**2) * params["w"]


def _forward(x: Any, params: Any) -> Any:
    return wrong_backward(x, params), (x, params)


def _backward(saved: Any, g: Any) -> Any:
    x, params = saved
    return g * 3 * x * params["w"], {"w": g * jnp.sum(x**2)}


wrong_backward.defvjp(_forward, _backward)


def with_tangent(rule: Callable[[Any, Any, Any], Any]) -> Any:
    """The sine, with a rule of one's own for its tangent."""

    @jax.custom_jvp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    sine.defjvps(rule)
    return sine


# --- check_gradients ---


def test_the_gradient_of_jax_passes_by_key_path() -> None:
    report = check_gradients(network, parameters(), args=(X, Y))
    assert report.passed
    assert list(report.tensors) == ["first.W", "first.b", "rest.0", "rest.1"]
    assert report.engine == "jax (cpu)"
    assert report.tensors["first.W"].probe is not None


def test_names_follow_attributes_too_and_one_array_is_params() -> None:
    pair = collections.namedtuple("pair", "left right")
    report = check_gradients(lambda p: p.left @ p.right[0], pair(np.ones(3), [np.arange(3.0)]))
    assert list(report.tensors) == ["left", "right.0"]
    assert list(check_gradients(lambda x: jnp.sum(x**2), np.ones(3)).tensors) == ["params"]
    assert check_gradients(lambda x: x**2, 3.0).passed


def test_a_wrong_custom_rule_is_caught_and_named() -> None:
    report = check_gradients(lambda p: wrong_backward(p["x"], p["rest"]), {"x": np.ones(4), "rest": {"w": 2.0}})
    assert {name: tensor.verdict for name, tensor in report.tensors.items()} == {"x": "fail", "rest.w": "pass"}
    assert report.tensors["x"].diagnosis.factor == pytest.approx(1.5)


def test_gradients_may_be_a_function_or_a_pytree() -> None:
    params = {"a": np.array([1.0, 2.0]), "n": 3}

    def loss(p: Any, k: Any) -> Any:
        return k * jnp.sum(p["a"] ** p["n"])

    right = {"a": 6 * params["a"] ** 2}
    assert check_gradients(loss, params, lambda p, k: {"a": 3 * k * p["a"] ** 2, "n": 0}, args=(2.0,)).passed
    assert check_gradients(loss, params, {"a": right["a"], "n": 0}, args=(2.0,)).passed
    assert check_gradients(loss, params, {"a": 1.01 * right["a"], "n": 0}, args=(2.0,)).verdict == "fail"
    with pytest.raises(ValueError, match=r"gradients has the structure .*; params has "):
        check_gradients(loss, params, {"b": right["a"], "n": 0}, args=(2.0,))
    with pytest.raises(ValueError, match=r"gradients\['a'\] has shape \(3,\); params\['a'\] has shape \(2,\)"):
        check_gradients(loss, params, {"a": np.ones(3), "n": 0}, args=(2.0,))


def test_complex_leaves_are_pairs_of_reals() -> None:
    z = np.array([1 + 2j, -0.5j])
    report = check_gradients(lambda z: jnp.sum(jnp.abs(z) ** 2 * z.real), z)
    assert report.passed
    assert report.tensors["params"].shape == (2, 2)
    assert check_gradients(lambda z: jnp.sum(z.real * z.imag), z, jnp.array([2 - 1j, -0.5 - 0j])).passed
    assert check_gradients(lambda z: jnp.sum(z.real * z.imag), z, jnp.array([2 + 1j, -0.5])).verdict == "fail"


@jax.custom_vjp
def doubled_wrongly(z: Any) -> Any:
    return 2 * z


doubled_wrongly.defvjp(lambda z: (2 * z, None), lambda _, g: (7 * g,))


def spread_of(z: Any) -> Any:
    return jnp.sum(jnp.abs(2 * z) ** 2)


def spread_of_wrong(z: Any) -> Any:
    return jnp.sum(jnp.abs(doubled_wrongly(z)) ** 2)


@pytest.mark.parametrize(
    ("dtype", "precision"), [(np.complex64, "double"), (np.complex64, "native"), (np.complex128, "native")]
)
def test_a_wrong_rule_for_complex_numbers_is_caught(dtype: Any, precision: str) -> None:
    z = np.array([1 + 2j, -0.5j, 3.0], dtype)
    wrong = check_gradients(jax.jit(spread_of_wrong), z, precision=precision, samples=2, operations=False)
    assert wrong.verdict == "fail"
    right = check_gradients(jax.jit(spread_of), z, precision=precision)
    assert right.verdict != "fail" and (right.passed or precision == "native")
    out = check_gradients(lambda x: spread_of_wrong(x + 1j), z.real, precision=precision, samples=2, operations=False)
    assert out.verdict == "fail"


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_so_it_is_by_check_grads(dtype: Any) -> None:
    with pytest.raises(AssertionError, match=r"^VJP: args\.0\[\d, [01]\]: analytic"):
        check_grads(doubled_wrongly, (np.array([1 + 2j, -0.5j, 3.0], dtype),), 1, modes="rev")


def test_gradients_of_complex_leaves_may_be_real_and_those_of_real_leaves_not_complex() -> None:
    z = np.array([1 + 2j, -0.5j])
    assert check_gradients(lambda z: jnp.sum(z.real**2), z, lambda z: 2 * z.real).passed
    with pytest.raises(TypeError, match=r"gradients\['params'\] is complex \(complex128\), not supported"):
        check_gradients(jnp.sum, np.ones(2), np.ones(2, complex))
    with pytest.raises(TypeError, match=r"loss returned .*complex: not supported; return one real number"):
        check_gradients(lambda z: jnp.sum(z**2), z)


def test_leaves_that_are_not_checked_are_named() -> None:
    def loss(p: Any) -> Any:
        return jnp.sum(p["a"] ** 2 * p["n"][0]) + 0.0 * p["more"]["flag"]

    params = {"a": np.ones(3), "n": np.arange(1, 3), "more": {"flag": True}}
    note = "not checked, since neither floating nor complex: 'more.flag', 'n'"
    assert note in check_gradients(loss, params).notes
    zero = jax.grad(loss, allow_int=True)
    report = check_gradients(loss, params, zero)
    assert report.passed and note in report.notes
    check_grads(loss, (params,), 2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float32])
def test_any_dtype_is_checked_in_double(dtype: Any) -> None:
    report = check_gradients(network, jax.tree_util.tree_map(jnp.asarray, parameters(dtype)), args=(X, Y))
    assert report.passed
    assert report.tensors["rest.1"].relative_error < 1e-7


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_of_both_kinds_is_checked(dtype: Any) -> None:
    """The loss receives its own dtype (or float64, for an exact slope), and a wrong factor fails."""
    seen = set()

    def loss(params: Any) -> Any:
        seen.add(params["w"].dtype)
        return jnp.sum(params["w"].astype(jnp.float32) ** 2)

    params = {"w": jnp.linspace(-1, 2, 6).astype(dtype)}
    assert check_gradients(loss, params, precision="native").verdict != "fail"
    assert jnp.dtype(dtype) in seen and np.dtype(np.float32) not in seen
    wrong = check_gradients(loss, params, lambda p: {"w": 8 * p["w"]}, precision="native")
    assert wrong.tensors["w"].verdict == "fail", str(wrong)
    assert check_gradients(loss, params, precision="native", rtol={"w": 5.0}).verdict != "fail"
    coarse = check_gradients(lambda p: jnp.sum(p["w"] ** 2), params, precision="native")
    assert coarse.verdict != "fail", str(coarse)


def test_disabled_x64_is_noticed_and_left_as_it_was() -> None:
    report = check_gradients(network, parameters(), args=(X, Y))
    assert "jax_enable_x64 is off: switched on while this check runs" in report.notes
    assert not jax.config.jax_enable_x64
    native = check_gradients(network, parameters(), args=(X, Y), precision="native")
    assert native.verdict != "fail"
    assert native.notes[0].startswith("jax_enable_x64 is off: the loss runs in float32")
    with enable_x64(True):
        assert not [note for note in check_gradients(network, parameters(), args=(X, Y)).notes if "x64" in note]


def test_noise_is_said_and_not_looked_into_further_where_it_hides_everything() -> None:
    generator = np.random.default_rng(0)

    def noisy(size: float) -> Callable[..., Any]:
        def drawn(value: Any) -> Any:
            return np.asarray(value + size * generator.standard_normal())

        @jax.custom_vjp
        def loss(x: Any) -> Any:
            value = jnp.sum(jnp.tanh(x))
            return jax.pure_callback(drawn, jax.ShapeDtypeStruct((), value.dtype), value)

        loss.defvjp(lambda x: (loss(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))
        return loss

    x = np.linspace(-1, 1, 50)
    report = check_gradients(noisy(1.0), x)
    assert report.verdict == "undecided"
    assert report.tensors["params"].checked == 2
    said = r"loss is noisy: a repeated call gave .*, not .* \(random numbers\? pass a fixed key\)"
    assert any(re.match(said, note) for note in report.notes)
    assert "noise hides the slopes of all 2 entries tried; the other 30 samples were left out" in report.notes
    faint = check_gradients(noisy(1e-14), x)
    assert faint.passed and faint.tensors["params"].checked == 32


def test_params_are_untouched() -> None:
    params = parameters()
    before = jax.tree_util.tree_map(np.copy, params)
    check_gradients(network, params, args=(X, Y))
    assert jax.tree_util.tree_all(jax.tree_util.tree_map(np.array_equal, params, before))


def test_many_values_are_computed_in_blocks() -> None:
    weights = np.random.default_rng(2).normal(size=(40, 30))
    report = check_gradients(lambda w: jnp.sum(jnp.tanh(w) ** 2), weights, samples="all")
    assert report.passed
    assert report.engine == "jax (cpu, vmap)"


def test_functions_without_a_rule_for_vmap_are_called_one_by_one() -> None:
    def squares(w: Any) -> Any:
        shape = jax.ShapeDtypeStruct((), np.float64)
        return jax.pure_callback(lambda w: np.sum(np.asarray(w) ** 2), shape, w)

    report = check_gradients(squares, np.ones((40, 30)), lambda w: 2 * w, samples="all")
    assert report.passed
    assert report.engine == "jax (cpu)"


def test_a_function_that_cannot_be_traced_is_called_as_it_is() -> None:
    def loss(x: Any) -> Any:
        return jnp.sum(x**2) if x[0] > 0 else jnp.sum(x**3)

    assert check_gradients(loss, np.array([1.0, 2.0])).passed


def test_blocks_and_single_values_agree() -> None:
    with enable_x64(True):
        leaves = [np.random.default_rng(3).normal(size=(40, 30)), np.ones(50)]
        layout = named_layout(["a", "b"], [(40, 30), (50,)], [np.dtype(np.float64)] * 2)
        evaluator = JaxEvaluator(lambda p: jnp.sum(jnp.sin(p[0])) * jnp.sum(p[1] ** 2), layout, leaves)
        positions = np.arange(1250)
        displaced = evaluator.entries(positions)[:, None] + np.array([0.5, 0.0])
        together = evaluator.values(positions, displaced, silent)
        single = np.vstack([evaluator.values(positions[i:], displaced[i:], silent)[0] for i in (0, 700, 1249)])
    assert "vmap" in evaluator.name
    assert np.allclose(together[[0, 700, 1249]], single, rtol=1e-13, atol=0)
    assert np.all(together[:, 1] == evaluator.base)


JAX_REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: check_gradients(jnp.sum, np.arange(3)), ValueError, r"params holds no floating array"),
    (lambda: check_gradients(jnp.sin, np.ones(3)), ValueError, r"loss returned an array of shape \(3,\); it must"),
    (lambda: check_gradients(lambda x: None, np.ones(3)), TypeError, r"loss returned None"),
    (lambda: check_gradients(lambda x: jnp.sum(jnp.log(-x)), np.ones(3)), ValueError, r"loss is nan at params"),
    (lambda: check_gradients(jnp.sum, np.array([1, np.nan])), ValueError, r"params\['params'\] has 1 entries that are"),
    (lambda: check_gradients(jnp.sum, np.ones(3), args=[1]), TypeError, r"args is a list; it must be a tuple"),
    (
        lambda: check_gradients(jnp.sum, np.ones(3), precision="single"),
        ValueError,
        r"precision is 'single'; it must be",
    ),
    (
        lambda: check_gradients(jnp.sum, jnp.ones(3, jnp.float8_e5m2), precision="native"),
        TypeError,
        r"of float8_e5m2, which",
    ),
    (lambda: check_gradients(jnp.sum, np.ones(3), seed=-1), ValueError, r"seed is -1; it must be at least 0"),
    (lambda: check_grads(jnp.sin, (1.0,), 1, modes=["forward"]), ValueError, r"modes has \['forward'\]; it may hold"),
    (lambda: check_grads(jnp.sin, (1.0,), 0), ValueError, r"order is 0; it must be at least 1"),
    (lambda: check_grads(jnp.sin, (1.0,), 1, eps=-1.0), ValueError, r"eps is -1.0; it must be finite and above 0"),
    (lambda: check_grads(jnp.sin, (1,), 1), ValueError, r"args holds no floating array"),
    (lambda: check_grads(lambda x: x > 0, (1.0,), 1), ValueError, r"f returned no floating array"),
]


@pytest.mark.parametrize(("call", "kind", "message"), JAX_REFUSED, ids=range(len(JAX_REFUSED)))
def test_what_makes_no_sense_is_refused(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_an_exception_about_dtypes_says_that_it_runs_in_double() -> None:
    with pytest.raises(TypeError, match="dtype") as info:
        check_gradients(lambda x: jnp.sum(jax.lax.add(x, jnp.ones(3, jnp.float32))), jnp.ones(3, jnp.float32))
    assert "fastgc evaluates the function in float64" in info.value.__notes__
    assert not jax.config.jax_enable_x64


# --- check_grads ---


def test_a_relu_network_on_which_jax_alarms_falsely_passes() -> None:
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    params = {"W1": jax.random.normal(keys[0], (16, 40)) * 0.2, "W2": jax.random.normal(keys[1], (40, 10)) * 0.2}
    data = jax.random.normal(keys[2], (200, 16))

    @jax.jit
    def f(p: Any) -> Any:
        return jnp.sum(jax.nn.relu(data @ p["W1"]) @ p["W2"], axis=1)

    with pytest.raises(AssertionError), enable_x64(True):
        jax_check_grads(f, (jax.tree_util.tree_map(lambda a: a.astype(jnp.float64), params),), 1)
    check_grads(f, (params,), 1)


def test_a_wrong_custom_vjp_is_named_by_its_arguments_path() -> None:
    with pytest.raises(AssertionError, match=r"^VJP: args\.0\[\d\]: analytic .*, numerical .* \+- ") as info:
        check_grads(wrong_backward, (np.ones(3), {"w": 2.0}), 1, modes="rev")
    assert "args.1.w" in str(info.value)
    one = {"q": [np.array([1e-9, 1e-9, 1.0])]}
    with pytest.raises(AssertionError, match=r"^VJP: args\.1\.q\.0\[2\]: analytic"):
        check_grads(lambda s, p: wrong_backward(p["q"][0], {"w": s}), (2.0, one), 1, modes=("rev",))


@pytest.mark.parametrize("mode", ["fwd", "rev", "lin"])
def test_a_wrong_custom_jvp_is_caught_in_every_mode(mode: str) -> None:
    wrong = with_tangent(lambda t, ans, x: 1.01 * t * jnp.cos(x))
    title = {"fwd": "JVP", "rev": "VJP", "lin": "LIN"}[mode]
    with pytest.raises(AssertionError, match=rf"^{title}: args\.0\.a\[\d\]: analytic"):
        check_grads(lambda p: wrong(p["a"]), ({"a": np.linspace(0.1, 1, 4)},), 1, modes=(mode,))
    right = with_tangent(lambda t, ans, x: t * jnp.cos(x))
    check_grads(lambda p: right(p["a"]), ({"a": np.linspace(0.1, 1, 4)},), 1, modes=(mode,))


def test_a_rule_that_is_not_linear_in_its_tangent_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"^JVP: not linear in its tangents: "):
        check_grads(with_tangent(lambda t, ans, x: t**2 * jnp.cos(x)), (np.ones(3),), 1, modes=("fwd",))


COTANGENTS: dict[str, Callable[[Any, Any], Any]] = {
    "squared": lambda slope, g: slope * g * g,
    "without a sign": lambda slope, g: slope * jnp.abs(g),
    "a little without a sign": lambda slope, g: slope * (g + 1e-4 * jnp.abs(g)),
    "ignored": lambda slope, g: slope,
    "a constant added": lambda slope, g: slope * g + 1e-6,
}


def with_cotangent(function: Callable[[Any], Any], rule: Callable[[Any, Any], Any]) -> Any:
    custom = jax.custom_vjp(function)
    custom.defvjp(lambda x: (function(x), x), lambda x, g: (rule(x, g),))
    return custom


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("name", COTANGENTS)
def test_a_rule_that_is_not_linear_in_its_cotangent_is_caught_at_every_scale(name: str, scale: float) -> None:
    wrong = with_cotangent(lambda x: scale * jnp.sum(x**2), lambda x, g: COTANGENTS[name](2 * scale * x, g))
    with pytest.raises(AssertionError, match=r"^VJP: not linear in its cotangents: .* for (-2.0|0.0) times those that"):
        check_grads(wrong, (np.linspace(0.3, 1.0, 4),), 1, modes="rev")


def test_so_it_is_where_the_derivative_vanishes() -> None:
    wrong = with_cotangent(lambda x: jnp.sum(jax.nn.softmax(x)), lambda x, g: 1e-8 * jnp.abs(g) * jnp.ones_like(x))
    with pytest.raises(AssertionError, match=r"^VJP: not linear in its cotangents"):
        check_grads(wrong, (np.linspace(0.3, 1.0, 4),), 1, modes="rev")
    check_grads(wrong, (np.linspace(0.3, 1.0, 4),), 1, modes="rev", atol=1e-6)
    bent = with_tangent(lambda t, ans, x: jnp.cos(x) * t + 1e-6 * jnp.abs(t))
    with pytest.raises(AssertionError, match=r"^JVP: not linear in its tangents"):
        check_grads(lambda x: bent(x) - jnp.sin(x), (np.linspace(0.3, 1.0, 4),), 1, modes="fwd")


def layer_norm(x: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True))


SERIES = np.sin(np.arange(18.0)).reshape(6, 3)
VANISHING: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "softmax": (lambda x: jax.nn.softmax(x).sum(), (4, 5)),
    "softmax by row": (lambda x: jax.nn.softmax(x).sum(-1), (4, 5)),
    "log_softmax": (lambda x: jnp.exp(jax.nn.log_softmax(x)).sum(), (5,)),
    "logsumexp of log_softmax": (lambda x: jax.nn.logsumexp(jax.nn.log_softmax(x)), (5,)),
    "layer_norm": (lambda x: layer_norm(x).sum(), (3, 5)),
    "layer_norm by row": (lambda x: layer_norm(x).sum(-1), (3, 5)),
    "length of layer_norm": (lambda x: (layer_norm(x) ** 2).sum(-1), (3, 5)),
    "bias before batch_norm": (lambda b: layer_norm((SERIES + b).T), (3,)),
    "bias before batch_norm, added up": (lambda b: layer_norm((SERIES + b).T).sum(), (3,)),
    "normalised length": (lambda x: jnp.linalg.norm(x / jnp.linalg.norm(x)), (5,)),
    "difference": (lambda x: x - x, (5,)),
    "difference that rounds": (lambda x: 0.3 * x - 0.1 * x - 0.2 * x, (5,)),
    "difference that hardly rounds": (lambda x: 3 * x - x - 2 * x, (5,)),
    "sin and cos": (lambda x: jnp.sin(x) ** 2 + jnp.cos(x) ** 2, (5,)),
    "exp": (lambda x: jnp.exp(x) * jnp.exp(-x), (5,)),
    "inverse": (lambda x: jnp.linalg.inv(x) @ x, (4, 4)),
}


def by_turns() -> list[tuple[str, str]]:
    """Each function in one mode of differentiation, and two functions that round differently in all modes."""
    modes = "fwd", "rev", "lin"
    in_all = {(name, mode) for name in ("softmax by row", "difference that rounds") for mode in modes}
    return sorted(in_all | {(name, modes[number % 3]) for number, name in enumerate(VANISHING)})


@pytest.mark.parametrize(("name", "mode"), by_turns())
def test_a_derivative_that_is_round_off_alone_is_no_failure(name: str, mode: str) -> None:
    f, shape = VANISHING[name]
    check_grads(f, (np.random.default_rng(0).normal(size=shape),), 1, modes=mode)


@pytest.mark.parametrize("name", ["softmax by row", "sin and cos"])
def test_nor_is_a_second_derivative(name: str) -> None:
    f = jax.jit(VANISHING[name][0])
    check_grads(f, (np.random.default_rng(0).normal(size=(2, 3)),), 2, atol=1e-6)


def test_the_tolerance_of_the_caller_decides_what_vanishes_everywhere() -> None:
    params = {"x": np.linspace(-1, 1, 5), "y": np.ones(3)}
    alone = check_gradients(lambda p: jax.nn.softmax(p["x"]).sum(), {"x": params["x"]}, atol=1.0)
    assert alone.passed
    report = check_gradients(lambda p: jax.nn.softmax(p["x"]).sum() + jnp.exp(p["y"]).sum(), params)
    assert report.passed
    said = "the slope vanishes in 'x': a wrong factor would not show there; check at another point"
    assert said in report.notes


def test_a_rule_that_returns_another_value_is_caught() -> None:
    @jax.custom_vjp
    def square(x: Any) -> Any:
        return x**2

    square.defvjp(lambda x: (x**2 + 1, x), lambda x, g: (2 * g * x,))
    with pytest.raises(AssertionError, match=r"^VJP: output 0 is 5.0 at \(\); the function itself gives 4.0"):
        check_grads(square, (2.0,), 1, modes=("rev",))
    check_grads(square, (2.0,), 1, modes=("rev",), atol=2.0)


def test_a_wrong_second_derivative_is_caught_at_order_two_only() -> None:
    @jax.custom_jvp
    def slope(x: Any) -> Any:
        return jnp.cos(x)

    slope.defjvps(lambda t, ans, x: t * jnp.sin(x))  # the sign is wrong, on purpose
    sine = with_tangent(lambda t, ans, x: t * slope(x))
    check_grads(sine, (np.array([0.3, 0.7]),), 1)
    with pytest.raises(AssertionError, match=r"^JVP of JVP: args\.0"):
        check_grads(sine, (np.array([0.3, 0.7]),), 2, modes=("fwd",))
    with pytest.raises(AssertionError, match=r"^VJP of VJP: args\.0"):
        check_grads(sine, (np.array([0.3, 0.7]),), 2, modes=("rev",))


def test_high_orders_complex_numbers_and_integers_pass() -> None:
    check_grads(lambda x: jnp.sin(x) * jnp.exp(x), (np.array([0.2, 0.4]),), 3, modes=("fwd",))
    check_grads(lambda x, z, n: (x**n * z, jnp.abs(z), n), (np.ones(2), np.array([1 + 2j, 3j]), 2), 1)


def test_undecided_counts_as_failure_unless_allowed() -> None:
    def jumping(x: Any) -> Any:
        return jnp.sum(jnp.floor(x) + x)

    x = np.array([1.0, 2.0])
    with pytest.raises(AssertionError, match=r"^undecided: JVP: args\.0\[\d\]"):
        check_grads(jumping, (x,), 1)
    check_grads(jumping, (x,), 1, allow_undecided=True)
    with pytest.raises(AssertionError, match=r"^VJP: "):
        check_grads(wrong_backward, (np.ones(3), {"w": 2.0}), 1, modes="rev", allow_undecided=True)


def test_tolerances_are_numbers_or_by_dtype() -> None:
    slightly_wrong = with_tangent(lambda t, ans, x: t * jnp.cos(x) * 1.001)
    x = np.array([0.3, 0.7], np.float32)
    check_grads(slightly_wrong, (x,), 1, rtol=1e-2)
    check_grads(slightly_wrong, (x,), 1, rtol={np.float32: 1e-2, np.float64: 1e-9})
    with pytest.raises(AssertionError, match="JVP"):
        check_grads(slightly_wrong, (x,), 1, rtol={np.float64: 1e-2}, atol={"bfloat16": 1.0})


def test_a_step_of_the_callers_own_is_used() -> None:
    check_grads(lambda x: jnp.sum(x**2), (np.ones(3),), 1, eps=1e-4)


def test_forward_mode_of_a_custom_vjp_is_refused_by_jax() -> None:
    with pytest.raises(TypeError, match="forward-mode"):
        check_grads(wrong_backward, (np.ones(3), {"w": 2.0}), 1)


# --- where a function raises beside its parameters ---


def guarded(s: Any) -> Any:
    if np.any(np.asarray(s) <= 0):  # cannot be traced: it is called as it is
        raise ValueError("scale must be positive")
    return jnp.sum(jnp.log(s))


def called_back(s: Any) -> Any:
    def value(s: Any) -> Any:
        return np.asarray(guarded(s), np.float64)

    return jax.pure_callback(value, jax.ShapeDtypeStruct((), s.dtype), s, vmap_method="sequential")


@pytest.mark.parametrize(("loss", "more"), [(guarded, 0), (called_back, 0), (called_back, 100)])  # 100: in blocks
def test_a_function_that_raises_beside_its_parameters_is_checked(
    loss: Callable[..., Any], more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgc.jax._evaluator._COMPILED_FROM", 64)
    s = np.concatenate([np.linspace(1, 2, more), [0.05, 1, 2, 3]])
    right = check_gradients(loss, s, lambda s: 1 / s, samples="all", step=0.06)
    assert right.verdict != "fail", str(right)
    wrong = check_gradients(loss, s, lambda s: np.where(s == 0.05, 2, 1) / s, samples="all", step=0.06)
    assert wrong.verdict == "fail", str(wrong)
    (note,) = (note for note in wrong.notes if "raised" in note)
    assert "scale must be positive" in note and f"at params[{more}] = -0." in note


def test_what_a_function_raises_at_every_displaced_point_passes_through() -> None:
    def lonely(s: Any) -> Any:
        if np.any(np.asarray(s) != 1):
            raise AssertionError("only here")
        return jnp.sum(s)

    with pytest.raises(AssertionError, match="only here"):
        check_gradients(lonely, np.ones(3), lambda s: np.ones(3))


@pytest.mark.parametrize("samples", [0, 1, "all"])
def test_a_gradient_that_is_not_finite_somewhere_fails(samples: Any) -> None:
    gradient = np.cos(np.linspace(0, 1, 300))
    gradient[170] = np.nan
    report = check_gradients(lambda s: jnp.sum(jnp.sin(s)), np.linspace(0, 1, 300), gradient, samples=samples)
    assert report.verdict == "fail"
    assert "not finite in 1 of 300 entries: [170]" in report.tensors["params"].reason


# --- several threads ---


@pytest.mark.usefixtures("no_programs_kept")
def test_checks_of_both_precisions_run_at_once() -> None:
    seen = set()

    def check(precision: str) -> str:
        def loss(p: Any) -> Any:
            seen.add((precision, str(jnp.zeros(1).dtype)))
            return jnp.sum(jnp.tanh(p) ** 2)

        return check_gradients(loss, np.linspace(0, 1, 6, dtype=np.float32), precision=precision).verdict

    for _ in range(2):
        verdicts = at_once(*[partial(check, each) for each in ("double", "native", "double", "native")])
        assert "fail" not in verdicts and verdicts[::2] == ["pass"] * 2
        assert seen == {("double", "float64"), ("native", "float32")}
        assert not jax.config.jax_enable_x64


@pytest.mark.usefixtures("no_programs_kept")
def test_functions_can_be_checked_in_several_threads() -> None:
    before = jax.config.jax_enable_x64
    at_once(*[lambda: check_grads(lambda x: jnp.sum(jnp.sin(x) ** 2), (np.linspace(0, 1, 4),), 2, modes="rev")] * 4)
    assert jax.config.jax_enable_x64 == before


@jax.jit
def opposed(p: Any) -> Any:
    """Kinks of both signs at zero, whose conventions give a value outside both slopes."""
    return jnp.sum(2 * jax.nn.relu(p["w"]) - jax.nn.relu(-p["w"])) + jnp.sum(p["b"] ** 2)


def test_a_convention_at_a_kink_passes_if_the_gradient_is_right_beside_it() -> None:
    p = {"w": np.zeros(3), "b": np.ones(2)}
    report = check_gradients(opposed, p)
    assert report.passed and "a convention, right beside it" in report.tensors["w"].reason, str(report)
    check_grads(opposed, (p,), order=1, modes=["rev"])
    gradient = jax.jit(jax.grad(opposed))
    wrong = check_gradients(opposed, p, lambda p: {name: 3 * np.asarray(g) + 7 for name, g in gradient(p).items()})
    assert wrong.tensors["w"].verdict == "fail"
    given = check_gradients(opposed, p, gradient(p))
    assert given.verdict == "undecided" and "pass a function to decide" in given.tensors["w"].reason
