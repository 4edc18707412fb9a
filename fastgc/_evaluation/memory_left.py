"""Bytes that can still be allocated: what the machine has, and what limits of the process and of cgroups leave.

A check chooses by it how many threads or processes have a copy of the parameters each.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# The files of a cgroup with its limit and its use, in versions 2 and 1 (Linux, admin-guide/cgroup-v2 and cgroup-v1).
_VERSIONS = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}


def available() -> float:
    """Bytes that can be allocated without swapping; infinite where the system does not say."""
    return max(0.0, min([math.inf, *_machine(_PROC), *_process(_PROC), *cgroups(_PROC, _CGROUPS)]))


def _machine(proc: Path) -> Iterator[float]:
    found = re.search(r"MemAvailable:\s+(\d+) kB", _text(proc / "meminfo"))
    if found:
        yield int(found[1]) * 1024.0


def _process(proc: Path) -> Iterator[float]:
    """What is left of the limits of address space and data (``ulimit -v`` and ``-d``)."""
    try:
        import resource
    except ImportError:  # Windows has neither
        return
    pages = [int(each) for each in _text(proc / "self" / "statm").split()]
    for limit, field in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY and pages:
            yield float(most - pages[field] * os.sysconf("SC_PAGE_SIZE"))


def cgroups(proc: Path, root: Path) -> Iterator[float]:
    """What is left in each control group that holds this process, of either version; a container is one of them."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in set(controllers.split(",")) & set(_VERSIONS):
            folder = root / controller / path.lstrip("/")
            for each in (folder, *folder.parents):  # a limit of a group holds for all groups inside it
                if each.is_relative_to(root):
                    yield from _left(each, *_VERSIONS[controller])


def _left(folder: Path, limit: str, used: str) -> Iterator[float]:
    most, now = _text(folder / limit).strip(), _text(folder / used).strip()
    if most.isdigit() and now.isdigit():  # "max" is no limit
        cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
        yield int(most) - int(now) + (int(cached[1]) if cached else 0.0)  # the system gives up these pages first


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
