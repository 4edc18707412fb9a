"""What single precision leaves undecided, confirmed by the forward pass in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
import jax.numpy as jnp  # noqa: E402

from fastgc.jax import check_gradients  # noqa: E402

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32)
CONFIRMED = "the forward pass in double precision confirmed"


def hidden(factor: float, guard: Callable[[Any], Any] = lambda x: x) -> Callable[[Any], Any]:
    """A small part beside a large constant, with a rule that is off by a factor."""

    @jax.custom_vjp
    def bent(x: Any) -> Any:
        return jnp.tanh(x)

    def backward(y: Any, g: Any) -> Any:
        return (factor * g * (1 - y * y),)

    bent.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), backward)
    return lambda x: 1e5 + jnp.sum(bent(guard(x)))


def single_only(x: Any) -> Any:
    if x.dtype != jnp.float32:
        raise TypeError("single precision only")
    return x


def checked(loss: Callable[[Any], Any]) -> Any:
    return check_gradients(loss, X, precision="native")


def confirmed(report: Any) -> bool:
    return any(note.startswith(CONFIRMED) for note in report.notes)


def test_a_right_rule_is_confirmed_and_the_report_says_so() -> None:
    report = checked(hidden(1.0))
    assert report.passed and confirmed(report), str(report)


@pytest.mark.parametrize("factor", [1.02, -1.0])
def test_a_wrong_rule_is_not(factor: float) -> None:
    report = checked(hidden(factor))
    assert not report.passed and not confirmed(report), str(report)


def test_a_loss_in_single_precision_only_is_left_undecided() -> None:
    report = checked(hidden(1.0, single_only))
    assert report.verdict == "undecided" and not confirmed(report), str(report)
