"""jax.test_util.check_grads, and jitted JAX loops over all entries, on the models of networks.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import loops
import networks
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from networks import Array, Problem

jax.config.update("jax_enable_x64", True)


def network(params: Any, x: Any, y: Any) -> Any:
    hidden = jax.nn.relu(x @ params["W1"] + params["b1"])
    scores = hidden @ params["W2"] + params["b2"]
    return (jax.nn.logsumexp(scores, axis=1) - scores[jnp.arange(y.size), y]).mean()


def network_gradients(params: Any, x: Any, y: Any) -> Any:
    hidden = jax.nn.relu(x @ params["W1"] + params["b1"])
    scores = hidden @ params["W2"] + params["b2"]
    slope = (jax.nn.softmax(scores) - jax.nn.one_hot(y, scores.shape[1], dtype=scores.dtype)) / y.size
    below = (slope @ params["W2"].T) * (hidden > 0)
    return {"W1": x.T @ below, "b1": below.sum(0), "W2": hidden.T @ slope, "b2": slope.sum(0)}


def regression(params: Any, x: Any, sign: Any) -> Any:
    return jnp.logaddexp(0.0, -sign * (x @ params["w"] + params["b"])).mean()


def regression_gradients(params: Any, x: Any, sign: Any) -> Any:
    slope = -sign * jax.nn.sigmoid(-sign * (x @ params["w"] + params["b"])) / sign.size
    return {"w": slope @ x, "b": slope.sum(keepdims=True)}


MODELS = {
    networks.network_loss: (network, network_gradients),
    networks.regression_loss: (regression, regression_gradients),
}


def whole(problem: Problem) -> Callable[[], bool]:
    """check_grads in reverse mode, with its own tolerances, on the jitted loss with its hand-written gradient."""
    value, gradients = MODELS[problem.loss]
    args, wrong = tuple(map(jnp.asarray, problem.args)), problem.wrong

    def backward(params: Any, cotangent: Any) -> Any:
        found = gradients(params, *args)
        if wrong:
            flat = found[wrong.name].ravel().at[wrong.position].multiply(wrong.factor)
            found[wrong.name] = flat.reshape(found[wrong.name].shape)
        return (jax.tree.map(lambda g: cotangent * g, found),)

    loss = jax.custom_vjp(lambda params: value(params, *args))
    loss.defvjp(lambda params: (value(params, *args), params), backward)
    jitted = jax.jit(loss)

    def check() -> bool:
        try:
            check_grads(jitted, (problem.params,), order=1, modes=["rev"])
        except AssertionError:
            return False
        return True

    return check


def quotients(problem: Problem, kind: str, block: int) -> Callable[[int], Array]:
    """A function that gives central differences of the first so many entries.

    ``kind``: "single" calls a jitted quotient from Python for each entry; "vmap" and "map" compute blocks of entries in
    one call, the first all at once, the second one after the other.
    """
    value, _ = MODELS[problem.loss]
    args = tuple(map(jnp.asarray, problem.args))
    flat, unravel = ravel_pytree([jnp.asarray(p) for p in problem.params.values()])  # a dict would be sorted by name

    def quotient(x: Any, i: Any) -> Any:
        displaced = (unravel(x.at[i].add(h)) for h in (loops.STEP, -loops.STEP))
        above, below = (value(dict(zip(problem.params, each, strict=True)), *args) for each in displaced)
        return (above - below) / (2 * loops.STEP)

    one = jax.jit(quotient)
    blocks = {
        "vmap": jax.jit(jax.vmap(quotient, (None, 0))),
        "map": jax.jit(lambda x, entries: jax.lax.map(lambda i: quotient(x, i), entries)),
    }

    def singly(count: int) -> Array:
        return np.array([float(one(flat, i)) for i in range(count)])

    def in_blocks(count: int) -> Array:
        entries = np.minimum(np.arange(-(-count // block) * block), flat.size - 1).reshape(-1, block)
        return np.concatenate([np.asarray(blocks[kind](flat, each)) for each in entries])[:count]

    return singly if kind == "single" else in_blocks
