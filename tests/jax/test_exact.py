"""Exact tangents of the functions under custom rules decide what differences of a loss leave undecided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
import jax.numpy as jnp  # noqa: E402

from fastgc.jax import check_gradients, check_grads  # noqa: E402

X = np.linspace(-0.9, 1.0, 6)
DECIDED = "the exact tangent of the functions under custom rules decided"
Function = Callable[[Any], Any]


def by_vjp(factor: float) -> Function:
    """tanh, with a backward rule that is off by a factor."""

    @jax.custom_vjp
    def bent(x: Any) -> Any:
        return jnp.tanh(x)

    bent.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, g: (factor * g * (1 - y * y),))
    return bent


def by_jvp(factor: float) -> Function:
    """The same with a forward rule."""

    @jax.custom_jvp
    def bent(x: Any) -> Any:
        return jnp.tanh(x)

    bent.defjvps(lambda t, y, x: factor * t * (1 - y * y))
    return bent


def scanned(bent: Function) -> Function:
    return lambda x: jax.lax.scan(lambda carry, _: (bent(carry), None), x, None, length=2)[0]


def branched(bent: Function) -> Function:
    return lambda x: jax.lax.cond(x[0] < 0, lambda each: bent(each), lambda each: each, x)


def repeated(bent: Function) -> Function:
    return lambda x: jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, bent(s[1])), (0, x))[1]


AROUND: dict[str, Callable[[Function], Function]] = {
    "plain": lambda bent: bent,
    "jit": jax.jit,
    "scan": scanned,
    "cond": branched,
    "checkpoint": jax.checkpoint,
    "vmap": jax.vmap,
}


def noise() -> Any:
    drawn = np.random.default_rng(0)
    kind = jax.ShapeDtypeStruct((), jnp.float64)
    return lambda: jax.pure_callback(lambda: 0.1 * drawn.standard_normal(), kind)


def noisy(bent: Function) -> Function:
    drawn = noise()
    return lambda x: jnp.sum(bent(x)) + drawn()


def offset(bent: Function) -> Function:
    return lambda x: 1e5 + jnp.sum(bent(x))


def decided(report: Any) -> bool:
    return any(note.startswith(DECIDED) for note in report.notes)


@pytest.mark.parametrize(("name", "rule"), [*zip(AROUND, [by_vjp, by_jvp] * 3, strict=True), ("plain", by_jvp)])
def test_noise_hides_no_wrong_rule(name: str, rule: Callable[[float], Function]) -> None:
    report = check_gradients(noisy(AROUND[name](rule(1.05))), X, samples=2)
    assert report.verdict == "fail" and decided(report), str(report)


@pytest.mark.parametrize("name", AROUND)
def test_nor_a_right_one(name: str) -> None:
    report = check_gradients(noisy(AROUND[name](by_vjp(1.0))), X, samples=2)
    assert report.passed and decided(report), str(report)


@pytest.mark.parametrize("samples", [2, 0], ids=["entries", "probes"])
def test_single_precision_hides_none_either(samples: int) -> None:
    x = X.astype(np.float32)
    wrong = check_gradients(offset(by_vjp(1.02)), x, precision="native", samples=samples)
    assert wrong.verdict == "fail" and decided(wrong), str(wrong)
    assert check_gradients(offset(by_vjp(1.0)), x, precision="native", samples=samples).passed


@pytest.mark.parametrize("mode", ["rev", "fwd"])
def test_check_grads_too(mode: Any) -> None:
    rule = by_vjp if mode == "rev" else by_jvp
    check_grads(noisy(rule(1.0)), (X,), 1, modes=mode)
    with pytest.raises(AssertionError, match=r"^[VJ][VJ]P: args.0\[\d\]: analytic"):
        check_grads(noisy(rule(1.05)), (X,), 1, modes=mode)


def test_a_gradient_of_the_callers_own_is_independent_of_jax() -> None:
    x = X.astype(np.float32)

    def loss(x: Any) -> Any:
        return 1e5 + jnp.sum(jnp.tanh(x))

    report = check_gradients(loss, x, lambda x: 1.02 * (1 - jnp.tanh(x) ** 2), precision="native")
    assert report.verdict == "fail"
    assert any(note.startswith("the exact tangent of the loss by jax.jvp decided") for note in report.notes)


def test_without_a_custom_rule_nothing_independent_decides() -> None:
    report = check_gradients(noisy(jnp.tanh), X)
    assert report.verdict == "undecided" and not decided(report)


CLOSED: dict[str, Function] = {
    "bits": lambda x: jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, jnp.int64), jnp.float64),
    "a callback": lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
}


def ruled(body: Function) -> Function:
    """A function with the rule of the identity."""
    held = jax.custom_vjp(body)
    held.defvjp(lambda x: (body(x), None), lambda _, g: (g,))
    return held


@pytest.mark.parametrize("name", CLOSED)
def test_what_is_not_open_to_forward_mode_decides_nothing(name: str) -> None:
    body = ruled(CLOSED[name])
    report = check_gradients(noisy(lambda x: by_vjp(1.0)(x) + body(x)), X)
    assert report.verdict == "undecided" and not decided(report), str(report)


def test_a_stopped_gradient_moves_the_loss_all_the_same() -> None:
    stopped = noisy(lambda x: by_vjp(1.0)(x) * jax.lax.stop_gradient(x))
    assert check_gradients(stopped, X).verdict == "fail"


def test_a_loop_of_unknown_length_is_followed() -> None:
    """Forward mode goes through it, backward mode does not: here a caller's gradient is checked."""
    loss = offset(repeated(jnp.tanh))
    x = X.astype(np.float32)

    def gradient(x: Any, factor: float = 1.0) -> Any:
        y = jnp.tanh(x)
        return factor * (1 - y**2) * (1 - jnp.tanh(y) ** 2)

    assert check_gradients(loss, x, gradient, precision="native").passed
    assert check_gradients(loss, x, lambda x: gradient(x, 1.02), precision="native").verdict == "fail"
