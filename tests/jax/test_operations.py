"""Which custom rule of a JAX loss is wrong: named exactly, and no right one accused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
import jax.numpy as jnp  # noqa: E402

import fastgc  # noqa: E402
from fastgc._reports.operations import operation_lines  # noqa: E402
from tests.support.texts import text  # noqa: E402

X = np.linspace(0.2, 1.4, 4)
W = np.cos(np.arange(16.0)).reshape(4, 4)


def custom_vjp(factor: float = 1.0) -> Callable[..., Any]:
    """The product of x and tanh(y), whose gradient with respect to y is multiplied by the factor."""

    @jax.custom_vjp
    def gate(x: Any, y: Any) -> Any:
        return x * jnp.tanh(y)

    def forward(x: Any, y: Any) -> Any:
        return gate(x, y), (x, y)

    def backward(kept: Any, g: Any) -> Any:
        x, y = kept
        return g * jnp.tanh(y), factor * g * x / jnp.cosh(y) ** 2

    gate.defvjp(forward, backward)
    return gate


def custom_jvp(factor: float = 1.0) -> Callable[..., Any]:
    @jax.custom_jvp
    def square(x: Any) -> Any:
        return x * x

    @square.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return square(*primals), factor * 2 * primals[0] * tangents[0]

    return square


RIGHT, WRONG = custom_vjp(), custom_vjp(3.0)
SQUARE, WRONG_SQUARE = custom_jvp(), custom_jvp(-1.0)


def check(loss: Callable[..., Any], params: Any = X, **options: Any) -> Any:
    return fastgc.jax.check_gradients(jax.jit(loss), params, samples=2, probes=1, **options)


def culprits(report: Any) -> list[tuple[str, int, list[str]]]:
    """Rule, call and arguments of what is wrong."""
    assert report.verdict == "fail"
    wrong = [each for each in report.operations if each.verdict == "fail"]
    return [(each.rule, each.call, [slope.argument for slope in each.wrong]) for each in wrong]


# --- losses of all kinds: with a gate and a square, one of which may be wrong ---


def plain(gate: Any, square: Any, x: Any) -> Any:
    return jnp.sum(square(gate(x, jnp.sin(x))))


def network(gate: Any, square: Any, x: Any) -> Any:
    for _ in range(3):
        x = x + gate(W.astype(x.dtype) @ x, x) / 4
    return jnp.sum(square(x)) + jax.nn.logsumexp(jax.nn.relu(x))


def scanned(gate: Any, square: Any, x: Any) -> Any:
    def step(carry: Any, row: Any) -> Any:
        carry = gate(W @ carry / 3, row)
        return carry, jnp.sum(carry)

    last, sums = jax.lax.scan(step, x, jnp.outer(x, x), reverse=True)
    return jnp.sum(square(sums)) + jnp.sum(last)


def nested(gate: Any, square: Any, x: Any) -> Any:
    inner = jax.checkpoint(jax.jit(lambda x: gate(x, x * x)))
    return jax.lax.cond(x[0] > 0, lambda x: jnp.sum(square(inner(x))), lambda x: jnp.sum(x), x)


def looped(gate: Any, square: Any, x: Any) -> Any:
    # A loop whose end is not known has derivatives only forward: it works out a constant here.
    count = jax.lax.while_loop(lambda k: jnp.sum(square(k)) < 50, lambda k: k + 1, jnp.zeros(()))
    return jax.lax.fori_loop(0, 3, lambda k, x: gate(x, x + k), x).sum() + count + square(x).sum()


def mapped(gate: Any, square: Any, x: Any) -> Any:
    rows = jax.vmap(gate, (None, 0))(x, jnp.outer(x, x))
    return jnp.sum(jax.vmap(jax.vmap(square))(rows))


def bent(gate: Any, square: Any, x: Any) -> Any:
    return plain(gate, square, x) + jax.nn.logsumexp(jax.nn.relu(x))


LOSSES = [plain, network, scanned, nested, looped, mapped]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_wrong_custom_vjp_is_named(loss: Callable[..., Any]) -> None:
    report = check(partial(loss, WRONG, SQUARE))
    found = culprits(report)
    assert {(rule, *arguments) for rule, _, arguments in found} == {("the custom_vjp of gate", "input 1")}
    assert len(found) == sum(each.name == "gate" for each in report.operations)
    assert {each.verdict for each in report.operations if each.name != "gate"} == {"pass"}
    assert "the custom_vjp of gate is wrong with respect to its input 1" in operation_lines(report.operations)[0]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_wrong_custom_jvp_is_named(loss: Callable[..., Any]) -> None:
    report = check(partial(loss, RIGHT, WRONG_SQUARE))
    assert culprits(report) == [("the custom_jvp of square", 1, ["input 0"])]
    assert {each.verdict for each in report.operations if each.name != "square"} == {"pass"}


@pytest.mark.parametrize("loss", [network, nested], ids=lambda loss: loss.__name__)
def test_no_right_rule_is_accused(loss: Callable[..., Any]) -> None:
    report = check(lambda x: WRONG(2.0, loss(RIGHT, SQUARE, x) / 100))
    assert culprits(report) == [("the custom_vjp of gate", 1, ["input 1"])]
    assert {each.verdict for each in report.operations[:-1]} == {"pass"}
    evaluations = [each.evaluations for each in report.operations]
    assert sum(evaluations) <= 6 * len(evaluations)


# --- what is said ---


def test_the_text_has_the_call_site_both_values_and_the_factor() -> None:
    report = check(partial(plain, WRONG, SQUARE))
    line = operation_lines(report.operations)[0]
    assert line.startswith(
        f"test_operations.py:{plain.__code__.co_firstlineno + 1} (plain): the custom_vjp of gate is "
    )
    assert line.endswith(", factor 3; the other operation agrees")
    assert report.operations[0].wrong[0].factor == pytest.approx(3, rel=1e-6)
    assert report.to_dict()["operations"][0]["slopes"][0]["argument"] == "input 1"


def test_where_all_rules_agree_the_error_lies_elsewhere() -> None:
    report = check(lambda x: plain(RIGHT, SQUARE, x * jax.lax.stop_gradient(x)))
    assert culprits(report) == []
    assert "all 2 operations agree by themselves; the error lies in how they are combined" in text(report)


def test_nothing_is_tested_where_it_is_not_asked_for_or_shows_nothing() -> None:
    loss = partial(plain, WRONG, SQUARE)
    assert check(loss, operations=False).operations == ()
    assert check(loss, gradients=jax.grad(loss)).operations == ()
    assert check(partial(plain, RIGHT, SQUARE)).operations == ()
    assert check(lambda x: jnp.sum(x * jax.lax.stop_gradient(x))).operations == ()


def test_what_cannot_be_tested_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise TypeError("no tracing here")

    monkeypatch.setattr("fastgc.jax._operations.recorded", refuse)
    report = check(partial(plain, WRONG, SQUARE))
    assert report.verdict == "fail" and report.operations == ()
    assert "which custom rule is wrong was not tested (TypeError: no tracing here)" in report.notes


# --- rules of all kinds ---


def test_a_rule_that_returns_other_outputs_than_its_function() -> None:
    @jax.custom_vjp
    def double(x: Any) -> Any:
        return 2 * x

    double.defvjp(lambda x: (2 * x + 1, None), lambda _, g: (2 * g,))
    report = check(lambda x: jnp.sum(double(x) ** 2))
    assert culprits(report) == [("the custom_vjp of double", 1, [])]
    said = "the custom_vjp of double is wrong: its forward rule returns "
    assert said in text(report) and " where the function returns " in text(report)


def test_trees_whole_numbers_repeated_arguments_and_constants() -> None:
    @partial(jax.custom_vjp, nondiff_argnums=(3,))
    def blend(pair: Any, y: Any, index: Any, power: int) -> Any:
        return {"sum": pair["a"] * y + pair["b"][index] ** power}

    def forward(pair: Any, y: Any, index: Any, power: int) -> Any:
        return blend(pair, y, index, power), (pair, y, index)

    def backward(power: int, kept: Any, g: Any) -> Any:
        pair, y, index = kept
        g, b = g["sum"], pair["b"]
        db = jnp.zeros_like(b).at[index].add(g * power * b[index] ** (power - 1))
        return {"a": g * y, "b": 2 * db}, g * pair["a"], None

    blend.defvjp(forward, backward)
    report = check(lambda x: jnp.sum(blend({"a": x, "b": x}, x, jnp.array([3, 1, 0, 0]), 3)["sum"]))
    assert culprits(report) == [("the custom_vjp of blend", 1, ["input 1"])]


def test_complex_numbers() -> None:
    @jax.custom_vjp
    def square(z: Any) -> Any:
        return z * z

    square.defvjp(lambda z: (z * z, z), lambda z, g: (g * 2 * jnp.conj(z),))
    report = check(lambda x: jnp.abs(square(x + 1j * jnp.sin(x)) + (1 - 2j) * x).sum())
    assert culprits(report) == [("the custom_vjp of square", 1, ["input 0"])]
    right = custom_jvp()
    loss = lambda x: jnp.abs(right(x + 1j * jnp.sin(x)) + (1 - 2j) * x).sum() + WRONG(1.0, x[0])  # noqa: E731
    assert culprits(check(loss)) == [("the custom_vjp of gate", 1, ["input 1"])]


def test_kinks_and_single_precision_accuse_no_right_rule() -> None:
    def loss(x: Any) -> Any:
        y = jax.nn.relu(x - x) + jax.nn.relu(x) + jax.nn.relu6(6 * x / x)
        return jnp.sum(y * W[0]) + jnp.sum(SQUARE(x.astype(jnp.float32)).astype(x.dtype)) + WRONG(1.0, x[1])

    assert culprits(check(loss)) == [("the custom_vjp of gate", 1, ["input 1"])]
    fresh = partial(bent, custom_vjp(3.0), custom_jvp())  # JAX takes what it traced in double precision for single
    report = check(fresh, X.astype(np.float32), precision="native")
    assert {rule for rule, _, _ in culprits(report)} == {"the custom_vjp of gate"}


def test_an_error_far_below_the_tolerance_is_found_where_there_is_no_other() -> None:
    slightly = custom_vjp(1 + 3e-6)
    report = check(lambda x: jnp.sum(slightly(x, x)) - jnp.sum(RIGHT(x, x)))
    assert culprits(report) == [("the custom_vjp of gate", 1, ["input 1"])]
