"""How the distribution is called, and what is said where a package is missing."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastgc
from fastgc._missing import EXTRAS, missing

HOME = Path(fastgc.__file__).parent
ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
OPTIONAL = PROJECT["optional-dependencies"]
DECLARED = {*SETTINGS["build-system"]["requires"], *PROJECT["dependencies"], *itertools.chain(*OPTIONAL.values())}
# The distribution of this import name on the package index is somebody else's.
FOREIGN = re.compile(r"pip install\s+(-\S+\s+)*['\"]?fastgc\b|\bfastgc\[[\w{]")
REQUIREMENT = re.compile(r"""["'`]([A-Za-z][\w-]*>=[\d.]+\d)["'`]""")


def texts() -> Iterator[tuple[str, str]]:
    """Whatever a user reads or runs."""
    paths = [ROOT / "README.md", ROOT / "pyproject.toml", *(ROOT / ".ci").iterdir(), *HOME.rglob("*.py")]
    paths += [*(ROOT / "bench").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    return ((str(path), path.read_text(encoding="utf-8")) for path in paths if path != Path(__file__))


def test_the_distribution_has_a_name_of_its_own_and_the_command_the_name_of_the_import() -> None:
    assert PROJECT["name"] == "fastgradcheck"
    assert PROJECT["scripts"] == {"fastgc": "fastgc._command.cli:main"}


def test_nobody_is_told_to_install_another_projects_package() -> None:
    assert [(path, found[0]) for path, text in texts() for found in FOREIGN.finditer(text)] == []


@pytest.mark.parametrize(
    "text", ["pip install {}", "pip install '{}[torch]'", 'pip install -U "{}"', "`{}[plot]` adds"]
)
def test_that_check_would_see_it(text: str) -> None:
    assert FOREIGN.search(text.format(fastgc.__name__))
    assert not FOREIGN.search(text.format(PROJECT["name"]))


def test_what_is_told_to_install_is_what_the_extras_declare() -> None:
    assert {extra: [*packages] for extra, packages in EXTRAS.items()} == {extra: OPTIONAL[extra] for extra in EXTRAS}
    assert set(OPTIONAL) - set(EXTRAS) == {"test", "dev"}


def test_ranges_in_texts_are_those_that_are_declared() -> None:
    found = {(path, each) for path, text in texts() for each in REQUIREMENT.findall(text)}
    assert {each for _, each in found} >= {"matplotlib>=3.8.4", "torch>=2.4"}
    assert {(path, each) for path, each in found if each not in DECLARED} == set()


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_message_names_who_needs_what_and_the_command(extra: str) -> None:
    command = " ".join(f'"{package}"' for package in EXTRAS[extra])
    error = missing("this", extra)
    assert isinstance(error, ImportError)
    assert re.fullmatch(rf"this needs [\w ]+: python -m pip install {re.escape(command)}", str(error))


def test_packages_are_called_by_their_own_names() -> None:
    assert str(missing("it", "workers")).startswith("it needs joblib and cloudpickle: ")
    assert str(missing("it", "torch")).startswith("it needs PyTorch: ")
    assert str(missing("it", "jax")).startswith("it needs JAX: ")
