"""Checks of JAX's gradients; JAX is imported when one of them is first used.

Examples
--------
>>> import jax.numpy as jnp
>>> import fastgc.jax
>>> fastgc.jax.check_gradients(lambda p: jnp.sum(jnp.tanh(p["w"])), {"w": jnp.ones(3)}).verdict
'pass'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgc._public import loader

__all__ = ["check_gradients", "assert_gradients", "check_grads"]

if TYPE_CHECKING:
    from fastgc.jax._gradients import assert_gradients, check_gradients
    from fastgc.jax._grads import check_grads
else:
    __getattr__ = loader(
        __name__,
        {"check_gradients": "_gradients", "assert_gradients": "_gradients", "check_grads": "_grads"},
        "jax",
    )


def __dir__() -> list[str]:
    return sorted(__all__)
