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


def test_of_the_parameter_sets_of_a_test_every_fourth_is_quick_and_few_are_traced() -> None:
    marked: list[str] = []

    def item(file: str, name: str) -> Any:
        def add_marker(mark: str) -> None:
            marked.append(f"{name} {mark}")

        return SimpleNamespace(path=TESTS / file, originalname=name, name=name, add_marker=add_marker)

    file, _, name = LINES[0].partition("::")
    pytest_collection_modifyitems([*[item("test_x.py", "test_x")] * 20, item(file, name)])
    assert marked == ["test_x slow"] * 12 + ["test_x slow", "test_x no_cover"] * 3 + [f"{name} slow"]
