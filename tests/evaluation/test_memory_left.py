"""What limits of the process and of control groups leave of the memory."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastgc._evaluation import memory_left

MIB = 1 << 20


def group(folder: Path, limit: str, used: int, *, version: int, cached: int = 0) -> None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{content}\n")
    (folder / "memory.stat").write_text(f"active_file 5\ninactive_file {cached}\n")


def left(tmp_path: Path, membership: str) -> list[float]:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(membership)
    return sorted(memory_left.cgroups(tmp_path, tmp_path / "groups"))


def test_of_nested_groups_each_has_its_own_limit(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "a", str(300 * MIB), 100 * MIB, version=2, cached=30 * MIB)
    group(tmp_path / "groups" / "a" / "b", "max", 50 * MIB, version=2)
    assert left(tmp_path, "0::/a/b\n") == [230 * MIB]


def test_the_first_version_keeps_memory_in_a_folder_of_that_name(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "memory" / "job", str(500), 100, version=1)
    assert left(tmp_path, "5:cpu,cpuacct:/job\n4:memory:/job\n1:name=systemd:/\n") == [400]


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "memory", str(500), 100, version=1)
    assert left(tmp_path, "4:memory:/docker/unseen\n") == [400]


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert list(memory_left.cgroups(tmp_path, tmp_path)) == []


def test_the_least_of_all_limits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def limits(*given: float) -> Any:
        return lambda *_: iter(given)

    monkeypatch.setattr(memory_left, "_machine", limits(300.0))
    monkeypatch.setattr(memory_left, "_process", limits())
    monkeypatch.setattr(memory_left, "cgroups", limits(200.0, 250.0))
    assert memory_left.available() == 200.0
    monkeypatch.setattr(memory_left, "cgroups", limits(-5.0))
    assert memory_left.available() == 0.0
    for name in ("_machine", "cgroups"):
        monkeypatch.setattr(memory_left, name, limits())
    assert memory_left.available() == math.inf


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux")
def test_a_limit_of_the_address_space_is_seen() -> None:
    program = (
        "import resource; from fastgc._evaluation.memory_left import available; before = available();"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY)); print(available())"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert 0 < float(found) <= 64 * MIB
