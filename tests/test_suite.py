"""Which tests are slow, and that quick ones are left in every module."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import pytest_collection_modifyitems

TESTS = Path(__file__).parent
LINES = (TESTS / "support" / "slow.txt").read_text(encoding="utf-8").split()
FUNCTION = re.compile(r"^def (test_\w+)", re.MULTILINE)


def functions(file: str) -> set[str]:
    path = TESTS / file
    return set(FUNCTION.findall(path.read_text(encoding="utf-8"))) if path.exists() else set()


def test_the_list_of_slow_tests_is_sorted_and_names_tests_that_exist() -> None:
    assert sorted(set(LINES)) == LINES
    assert [line for line in LINES if line.partition("::")[2] not in functions(line.partition("::")[0])] == []


@pytest.mark.parametrize("file", sorted({line.partition("::")[0] for line in LINES}))
def test_quick_tests_are_left_in_every_module(file: str) -> None:
    assert {f"{file}::{name}" for name in functions(file)} - set(LINES)


def test_of_the_parameter_sets_of_a_test_every_fourth_is_quick() -> None:
    marked: list[str] = []
    items: list[Any] = [
        SimpleNamespace(
            path=TESTS / "test_x.py",
            originalname="x",
            name="",
            add_marker=lambda mark, i=i: marked.append(f"{i} {mark}"),
        )
        for i in range(6)
    ]
    file, _, name = LINES[0].partition("::")
    listed = SimpleNamespace(path=TESTS / file, name=name, add_marker=lambda mark: marked.append(f"{name} {mark}"))
    pytest_collection_modifyitems([*items, listed])
    assert marked == ["1 slow", "2 slow", "3 slow", "5 slow", f"{name} slow"]
