"""What a report was made with."""

from __future__ import annotations

import datetime
import functools
import platform
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Environment:
    """What a report was made with.

    Attributes
    ----------
    fastgc, numpy, python : versions
    platform : operating system and processor
    date : the day, as in 2026-01-31
    """

    fastgc: str
    numpy: str
    python: str
    platform: str
    date: str


def current() -> Environment:
    """The environment of this process, today."""
    return Environment(*_installed(), datetime.date.today().isoformat())


@functools.cache
def _installed() -> tuple[str, str, str, str]:
    """What stays the same as long as this process lives."""
    from importlib import import_module

    version = import_module("fastgc").__version__
    return version, np.__version__, platform.python_version(), f"{platform.system()} {platform.machine()}"
