"""Every public name has an example in its docstring, and the examples are true."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.support.examples import failing_examples

PACKAGES = ["fastgc", "fastgc.torch", "fastgc.jax"]
NAMES = [f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(package).__all__]
NAMES.remove("fastgc.__version__")  # a text


def named(name: str) -> Any:
    """What a dotted name stands for; the test is skipped where the framework is not installed."""
    package, _, attribute = name.rpartition(".")
    for framework in {"torch", "jax"} & {*name.split(".")}:
        pytest.importorskip(framework)
    return getattr(importlib.import_module(package), attribute)


@pytest.mark.parametrize("name", ["fastgc", *NAMES])
def test_the_examples_of_a_public_name_show_what_they_say(name: str) -> None:
    assert failing_examples(importlib.import_module(name) if name == "fastgc" else named(name)) == []
