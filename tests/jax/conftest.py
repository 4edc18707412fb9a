"""Every test of this folder begins in the precision that JAX has by default, and finds what others have compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

# Every program is kept, however small and however soon compiled.
KEPT = {"jax_persistent_cache_min_compile_time_secs": 0, "jax_persistent_cache_min_entry_size_bytes": -1}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of this process for compiled programs; JAX keeps to the first that it is given."""
    return str(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module", autouse=True)
def programs_kept(programs: str) -> Iterator[None]:
    """Each program is compiled once in the tests of this folder: to XLA, many of their checks are the same."""
    jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
    settings: dict[str, Any] = {"jax_compilation_cache_dir": programs, **KEPT}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def no_programs_kept() -> Iterator[None]:
    """For tests of several threads: one may read a program that another has half written."""
    jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


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
