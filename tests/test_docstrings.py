"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import fastgc

EXAMPLES = [
    test
    for name in fastgc.__all__
    if inspect.isfunction(function := getattr(fastgc, name))
    for test in doctest.DocTestFinder(recurse=False).find(
        function, name, module=importlib.import_module(function.__module__), globs={}
    )
    if test.examples
]


def test_there_are_examples() -> None:
    assert {"check_jacobian", "check_hessian"} <= {test.name for test in EXAMPLES}


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_an_example_shows_what_it_says(test: doctest.DocTest, capsys: pytest.CaptureFixture[str]) -> None:
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0, capsys.readouterr().out
