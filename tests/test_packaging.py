"""The source distribution holds what its tests need, and the wheel the package and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fastgc", "tests", "bench", ".github", ".ci")
LEFT_BY_RUNS = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "*.pyc", "*.json.tmp")


def built(kind: str, source: Path, folder: Path) -> Path:
    """A distribution built by the backend that pyproject.toml names, in the environment in use."""
    pytest.importorskip("setuptools", minversion="77", reason="builds distributions, with setuptools 77 or later")
    folder.mkdir()
    code = f"from setuptools.build_meta import build_{kind}; build_{kind}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, check=True)
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files of this checkout: a build writes into its folder."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=LEFT_BY_RUNS)
    return copy


@pytest.fixture(scope="module")
def unpacked(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built("sdist", checkout, folder / "dist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (found,) = (folder / "unpacked").iterdir()
    return found


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_source_distribution_holds_all_that_its_tests_read(checkout: Path, unpacked: Path) -> None:
    expected = {f"{name}/{path}" for name in FOLDERS for path in files(checkout / name)}
    expected |= {"README.md", "LICENSE", "pyproject.toml", "setup.cfg", ".pre-commit-config.yaml"}
    assert len(expected) > 150
    assert expected - files(unpacked) == set()


def test_its_tests_are_collected_from_it(unpacked: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--assert=plain",
    ]
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    collected = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert collected == {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}


def test_the_wheel_holds_the_package_its_data_and_its_licence(unpacked: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built("wheel", unpacked, tmp_path / "dist")) as archive:
        found = set(archive.namelist())
    about = {name for name in found if re.match(r"fastgradcheck-[\w.]+\.dist-info/", name)}
    assert {name.partition("/")[2] for name in about} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"
    }  # fmt: skip
    assert found - about == {name for name in files(unpacked) if name.startswith("fastgc/")}
