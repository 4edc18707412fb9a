"""Every test of this folder begins in the precision that JAX has by default."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def single_precision_as_jax_has_it() -> Iterator[None]:
    """JAX's own setting, whatever other tests of the process have made of it; no check leaves another one behind."""
    jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield
    left = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", before)
    assert not left
