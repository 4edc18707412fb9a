"""The source distribution holds what its tests need, and the wheel the package and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import fastgc

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
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", unpacked, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def unpacked(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built("sdist", checkout, folder / "dist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (found,) = (folder / "unpacked").iterdir()
    return found


def files(folder: Path) -> set[str]:
    """The names of its files, without the byte code that those who import them leave."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix() for path in found}


def test_the_source_distribution_holds_all_that_its_tests_read(checkout: Path, unpacked: Path) -> None:
    expected = {f"{name}/{path}" for name in FOLDERS for path in files(checkout / name)}
    expected |= {"README.md", "LICENSE", "pyproject.toml", "setup.cfg", ".pre-commit-config.yaml"}
    assert len(expected) > 150
    assert expected - files(unpacked) == set()
    changed = {name for name in expected if (checkout / name).read_bytes() != (unpacked / name).read_bytes()}
    assert changed == {"setup.cfg"}  # to which builds add lines


def test_the_citation_names_the_version_and_the_licences_of_the_distribution() -> None:
    citation = (ROOT / ".github" / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"version: {fastgc.__version__}\n" in citation
    assert project["license"].split(" AND ") == re.findall(r"^  - ((?:MIT|CC)\S*)$", citation, re.MULTILINE)
    assert f"  - name: {project['authors'][0]['name']}\n" in citation


def run_from(folder: Path, *options: str) -> list[str]:
    """The lines of a run of pytest on the package and tests in a folder."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--assert=plain", *options]
    environment = os.environ | {"PYTHONPATH": str(folder), "FASTGC_CACHE": "0"}  # kept loops are no part of it
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.splitlines()


def test_its_tests_run_from_it(unpacked: Path) -> None:
    """Those of one folder are collected, and those of one file run; that all files are there, the first test says."""
    last = run_from(unpacked, "tests/parameters", "-k", "test_arrays.py")[-1]
    ran, left_out = (int(re.search(rf"(\d+) {word}", last)[1]) for word in ("passed", "deselected"))  # type: ignore[index]
    assert ran > 10 and left_out > 400, last


def test_the_wheel_holds_the_package_its_data_and_its_licences(unpacked: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    about = {name for name in found if re.match(r"fastgradcheck-[\w.]+\.dist-info/", name)}
    assert {name.partition("/")[2] for name in about} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE",
        "licenses/fastgc/digits.md",
    }  # fmt: skip
    assert found - about == {name for name in files(unpacked) if name.startswith("fastgc/")}


def test_an_index_accepts_them(unpacked: Path, wheel: Path) -> None:
    """README renders, and the metadata are complete and well-formed."""
    source = next(unpacked.parents[1].glob("dist/*"))
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", source, wheel], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
