"""Eight threads at once, by every engine and door: each has the report, to the bit, of a check alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest

import fastgc

X = np.linspace(0.5, 2.0, 40)


def plain(p: Any) -> Any:
    return np.sum(np.sin(p["w"]) * p["w"], axis=-1)


def slopes(p: Any) -> Any:
    return {"w": np.sin(p["w"]) + p["w"] * np.cos(p["w"])}


def wrong(p: Any) -> Any:
    return {"w": 1.1 * slopes(p)["w"]}


def plain_sum(p: Any) -> Any:
    return np.sum(np.sin(p["w"]) * p["w"])


jitted = numba.njit(lambda p: np.sum(np.sin(p["w"]) * p["w"]))
parallel = numba.njit(lambda p: np.sum(np.sin(p["w"]) * p["w"]), parallel=True)


def bits(report: Any) -> str:
    return json.dumps({**report.to_dict(), "seconds": 0})


def gradients(loss: Any, both: Any = (slopes, wrong), **options: Any) -> Callable[[], str]:
    def check() -> str:
        return "".join(bits(fastgc.check_gradients(loss, each, {"w": X.copy()}, **options)) for each in both)

    return check


def jacobian(**options: Any) -> str:
    return bits(fastgc.check_jacobian(lambda x: np.sin(x), lambda x: np.diag(np.cos(x)), X.copy(), **options))


def hessian() -> str:
    return bits(fastgc.check_hessian(None, lambda x: 3 * x**2, lambda x: np.diag(6 * x), X.copy()))


def torch_module() -> str:
    torch = pytest.importorskip("torch")
    import fastgc.torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    with torch.no_grad():
        for each in module.parameters():
            each.copy_(torch.linspace(-1.0, 1.0, each.numel(), dtype=torch.double).reshape(each.shape))
    return bits(fastgc.torch.check_module(module, torch.ones(3, 4, dtype=torch.double)))


def torch_function() -> str:
    torch = pytest.importorskip("torch")
    import fastgc.torch

    x = torch.linspace(0.5, 1.5, 6, dtype=torch.double, requires_grad=True)
    both = fastgc.torch.gradcheck(torch.sin, x), fastgc.torch.gradgradcheck(torch.sin, x)
    forward = fastgc.torch.gradcheck(torch.sin, x, check_forward_ad=True)
    return str((*both, forward, fastgc.torch.gradcheck(Doubled.of(torch), x, raise_exception=False)))


class Doubled:
    """An operation whose backward is wrong."""

    @staticmethod
    def of(torch: Any) -> Any:
        class Operation(torch.autograd.Function):  # type: ignore[misc, name-defined]
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                return 2 * x

            @staticmethod
            def backward(ctx: Any, gradient: Any) -> Any:
                return 3 * gradient

        return Operation.apply


def jax_loss() -> str:
    jnp = pytest.importorskip("jax.numpy")
    import fastgc.jax

    def loss(p: Any) -> Any:
        return jnp.sum(jnp.sin(p["w"]) * p["w"])

    return bits(fastgc.jax.check_gradients(loss, {"w": np.linspace(0.5, 2.0, 40)}))


DOORS: dict[str, Callable[[], str]] = {
    "python": gradients(plain),
    "in place": gradients(plain, in_place=True, points=2),
    "numba": gradients(jitted, engine="numba", threads=2),
    "a plain loss by numba": gradients(plain_sum, [wrong], engine="numba"),  # which each check compiles
    "parallel": gradients(parallel, engine="numba"),
    "vectorized": gradients(plain, vectorized=True),
    "complex steps": gradients(plain, stencil="complex_step"),
    "jacobian": jacobian,
    "jacobian by numba": lambda: jacobian(engine="numba"),
    "hessian": hessian,
    "module": torch_module,
    "functions of PyTorch": torch_function,
    "loss of JAX": jax_loss,
}


def at_once(doors: list[Callable[[], str]]) -> list[str]:
    """What eight threads get that begin together."""
    barrier = threading.Barrier(len(doors))

    def begun(door: Callable[[], str]) -> str:
        barrier.wait()
        return door()

    with ThreadPoolExecutor(len(doors)) as pool:
        return list(pool.map(begun, doors))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of PyTorch's own, when it is asked for jvp
@pytest.mark.parametrize("name", DOORS)
def test_eight_threads_at_one_door(name: str) -> None:
    alone = DOORS[name]()
    assert set(at_once([DOORS[name]] * 8)) == {alone}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of PyTorch's own, when it is asked for jvp
@pytest.mark.parametrize("begin", [0, 5])
def test_eight_threads_at_different_doors(begin: int) -> None:
    doors = [*DOORS.values()][begin : begin + 8]
    alone = [door() for door in doors]
    assert at_once(doors) == alone
