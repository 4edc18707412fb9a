"""Stock layers of Equinox and Flax at their standard initialisation: none fails, in double or in single precision."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
import jax.numpy as jnp  # noqa: E402

from fastgc.jax import check_gradients  # noqa: E402

KEY = jax.random.PRNGKey(0)
RNG = np.random.default_rng(0)
Layer = tuple[Callable[[Any], Any], Any]  # gives the outputs for parameters, and the parameters


def without(package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install {package}")


def normal(*shape: int) -> Any:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def checked(layer: Layer, precision: Any) -> Any:
    outputs, params = layer
    weights = np.random.default_rng(1)

    def loss(params: Any) -> Any:
        leaves = jax.tree_util.tree_leaves(outputs(params))
        return sum(jnp.vdot(fixed[each.shape], each) for each in leaves)

    shapes = {each.shape for each in jax.tree_util.tree_leaves(jax.eval_shape(outputs, params))}
    fixed = {shape: weights.normal(size=shape).astype(np.float32) for shape in sorted(shapes)}
    return check_gradients(loss, params, precision=precision, samples=4)


# --- Equinox ---


def equinox(name: str) -> Layer:
    import equinox as eqx

    nn = eqx.nn
    make: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
        "Linear": lambda: (nn.Linear(4, 3, key=KEY), (normal(4),)),
        "MLP": lambda: (nn.MLP(4, 3, 8, 2, key=KEY), (normal(4),)),
        "Conv2d": lambda: (nn.Conv2d(2, 3, 3, key=KEY), (normal(2, 5, 5),)),
        "ConvTranspose1d": lambda: (nn.ConvTranspose1d(2, 3, 3, key=KEY), (normal(2, 5),)),
        "LayerNorm": lambda: (nn.LayerNorm(6), (normal(6),)),
        "RMSNorm": lambda: (nn.RMSNorm(6), (normal(6),)),
        "GroupNorm": lambda: (nn.GroupNorm(2, 4), (normal(4, 3),)),
        "GRUCell": lambda: (nn.GRUCell(4, 3, key=KEY), (normal(4), normal(3))),
        "MultiheadAttention": lambda: (nn.MultiheadAttention(2, 4, key=KEY), (normal(3, 4),) * 3),
        "PReLU": lambda: (nn.PReLU(0.25), (normal(6),)),
        "MaxPool1d": lambda: (nn.MaxPool1d(2, 2), (normal(2, 6),)),
        "AvgPool2d": lambda: (nn.AvgPool2d(2, 2), (normal(2, 4, 4),)),
    }
    layer, inputs = make[name]()
    params, static = eqx.partition((layer, inputs), eqx.is_inexact_array)

    def outputs(params: Any) -> Any:
        layer, inputs = eqx.combine(params, static)
        return layer(*inputs)

    return outputs, params


EQUINOX = (
    "Linear", "MLP", "Conv2d", "ConvTranspose1d", "LayerNorm", "RMSNorm", "GroupNorm", "GRUCell",
    "MultiheadAttention", "PReLU", "MaxPool1d", "AvgPool2d",
)  # fmt: skip


@without("equinox")
@pytest.mark.parametrize("name", EQUINOX)
def test_no_layer_of_equinox_fails(name: str) -> None:
    report = checked(equinox(name), "double")
    assert report.passed, str(report)


@without("equinox")
@pytest.mark.parametrize("name", EQUINOX[::4])
def test_no_layer_of_equinox_fails_in_single_precision(name: str) -> None:
    report = checked(equinox(name), "native")
    assert report.verdict != "fail", str(report)


# --- Flax ---


def flax(name: str) -> Layer:
    from flax import linen as nn

    make: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
        "Dense": lambda: (nn.Dense(3), (normal(2, 4),)),
        "Conv": lambda: (nn.Conv(3, (3, 3)), (normal(1, 5, 5, 2),)),
        "ConvTranspose": lambda: (nn.ConvTranspose(3, (3,)), (normal(1, 5, 2),)),
        "LayerNorm": lambda: (nn.LayerNorm(), (normal(2, 6),)),
        "RMSNorm": lambda: (nn.RMSNorm(), (normal(2, 6),)),
        "GroupNorm": lambda: (nn.GroupNorm(2), (normal(2, 3, 4),)),
        "BatchNorm in eval": lambda: (nn.BatchNorm(use_running_average=True), (normal(4, 3),)),
        "OptimizedLSTMCell": lambda: (nn.OptimizedLSTMCell(3), ((normal(2, 3), normal(2, 3)), normal(2, 4))),
        "PReLU": lambda: (nn.PReLU(), (normal(2, 6),)),
        "GLU in a Dense": lambda: (nn.Sequential([nn.Dense(6), nn.glu]), (normal(2, 4),)),
    }
    layer, inputs = make[name]()
    variables = jax.jit(layer.init)(KEY, *inputs)  # compiled at once, not call by call

    def outputs(params: Any) -> Any:
        return layer.apply(params["layer"], *params["inputs"])

    return outputs, {"layer": dict(variables), "inputs": list(inputs)}


FLAX = (
    "Dense", "Conv", "ConvTranspose", "LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm in eval",
    "OptimizedLSTMCell", "PReLU", "GLU in a Dense",
)  # fmt: skip


@without("flax")
@pytest.mark.parametrize("name", FLAX)
def test_no_layer_of_flax_fails(name: str) -> None:
    report = checked(flax(name), "double")
    assert report.passed, str(report)


@without("flax")
@pytest.mark.parametrize("name", FLAX[::4])
def test_no_layer_of_flax_fails_in_single_precision(name: str) -> None:
    report = checked(flax(name), "native")
    assert report.verdict != "fail", str(report)
