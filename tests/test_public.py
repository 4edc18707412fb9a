"""Public names: the same for checkers of types and at run time, loaded late, and shown as the package's own."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pickle
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgc

PACKAGES = ["fastgc", "fastgc.torch", "fastgc.jax"]
CLASSES = [name for name in fastgc.__all__ if inspect.isclass(getattr(fastgc, name))]


def typed(package: str) -> dict[str, str]:
    """Names imported for checkers of types, with the modules they come from."""
    tree = ast.parse(inspect.getsource(importlib.import_module(package)))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in imported for alias in node.names}


@pytest.mark.parametrize("package", PACKAGES)
def test_typed_names_are_the_public_ones(package: str) -> None:
    module = importlib.import_module(package)
    assert {*typed(package), "__version__"} == {*module.__all__, "__version__"}
    assert len(set(module.__all__)) == len(module.__all__)
    assert dir(module) == sorted(module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_typed_names_are_what_is_loaded(package: str) -> None:
    for framework in {package.removeprefix("fastgc."), "fastgc"} - {"fastgc"}:
        pytest.importorskip(framework)
    for name, home in typed(package).items():
        source = importlib.import_module(home)
        value = getattr(importlib.import_module(package), name)
        assert value is (importlib.import_module(f"{home}.{name}") if home == package else getattr(source, name))


def test_that_list_has_names() -> None:
    assert typed("fastgc")["GradientReport"] == "fastgc._reports.gradient"
    assert typed("fastgc.jax")["check_grads"] == "fastgc.jax._grads"


# --- the same options at all doors ---

# What a framework has no use for: how a NumPy loss is run, and arrays of the caller's that are displaced.
NUMPY_ONLY = {"engine", "threads", "vectorized", "in_place"}
DOORS = ["torch.check_module", "torch.assert_module", "jax.check_gradients", "jax.assert_gradients"]


@pytest.mark.parametrize("door", DOORS)
def test_the_doors_of_frameworks_take_the_options_of_check_gradients(door: str) -> None:
    package, name = door.split(".")
    pytest.importorskip(package)
    here = inspect.signature(getattr(getattr(fastgc, package), name)).parameters
    there = inspect.signature(fastgc.check_gradients).parameters
    options = {key: each for key, each in there.items() if each.kind is each.KEYWORD_ONLY}
    without = {"workers"} if package == "jax" else set()  # what JAX compiles does not leave its process
    assert set(options) - set(here) - {"args"} == NUMPY_ONLY | without
    same = set(options) & set(here) - {"crosscheck", "previous"}  # a second opinion costs evaluations there
    assert {key: here[key].default for key in same} == {key: options[key].default for key in same}
    assert {key: here[key].annotation for key in same} == {key: options[key].annotation for key in same}
    assert all(here[key].kind is here[key].KEYWORD_ONLY for key in same)


@pytest.mark.parametrize("package", ["torch", "jax"])
def test_assertions_take_what_checks_take(package: str) -> None:
    pytest.importorskip(package)
    door = getattr(fastgc, package)
    check, asserting = (
        (door.check_module, door.assert_module) if package == "torch" else (door.check_gradients, door.assert_gradients)
    )
    taken = dict(inspect.signature(asserting).parameters)
    assert taken.pop("allow_undecided").default is False
    assert taken == dict(inspect.signature(check).parameters)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_misspelt_name_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=rf"^module '{package}' has no attribute 'check_gradientz'$"):
        importlib.import_module(package).check_gradientz  # noqa: B018


def test_a_frameworks_own_failure_is_not_called_a_missing_framework(tmp_path: Path) -> None:
    """It is installed, and something that it imports is not."""
    (tmp_path / "torch.py").write_text("import no_such_package_of_torch\n", encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport fastgc\nfastgc.torch.gradcheck"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.rstrip().endswith("ModuleNotFoundError: No module named 'no_such_package_of_torch'")


# --- what classes are called ---


@pytest.mark.parametrize("name", CLASSES)
def test_public_classes_are_the_packages_own(name: str) -> None:
    kind = getattr(fastgc, name)
    assert (kind.__module__, kind.__qualname__) == ("fastgc", name)
    assert pickle.loads(pickle.dumps(kind)) is kind


@pytest.mark.parametrize("name", CLASSES)
def test_their_annotations_can_still_be_resolved(name: str) -> None:
    kind = getattr(fastgc, name)
    assert set(typing.get_type_hints(kind)) >= set(getattr(kind, "__dataclass_fields__", ()))
    methods = [value for value in vars(kind).values() if inspect.isfunction(value) and value.__module__ != "fastgc"]
    assert all("return" in typing.get_type_hints(method) for method in methods if method.__name__ == "to_dict")


def reports() -> dict[str, Any]:
    x = np.arange(1.0, 6.0)
    return {
        "wrong": fastgc.check_gradients(lambda p: float(p["a"] @ p["a"]), {"a": 6 * x}, {"a": x}),
        "right": fastgc.check_gradients(lambda p: float(p @ p), lambda p: 2 * p, np.ones(500), samples=3),
        "jacobian": fastgc.check_jacobian(lambda x: x**2, lambda x: np.diag(x), x),
        "sweep": fastgc.step_sweep(np.sin, np.cos, 1.0, steps=[1e-3, 1e-5]),
    }


@pytest.mark.parametrize("name", ["wrong", "right", "jacobian", "sweep"])
def test_reports_survive_pickling_and_copying(name: str) -> None:
    report = reports()[name]
    for other in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report), copy.copy(report)):
        assert type(other) is type(report)
        assert str(other) == str(report)
        if name != "sweep":
            assert other.to_dict() == report.to_dict()


def test_a_pickled_report_is_read_in_a_process_that_has_loaded_nothing(tmp_path: Path) -> None:
    report = reports()["wrong"]
    path = tmp_path / "report.pickle"
    path.write_bytes(pickle.dumps(report))
    code = f"import pickle\nprint(pickle.load(open({str(path)!r}, 'rb')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == str(report)


def test_the_exception_keeps_its_report_when_pickled() -> None:
    with pytest.raises(fastgc.GradientMismatch) as caught:
        fastgc.assert_gradients(lambda p: float(p @ p), lambda p: 3 * p, np.ones(3))
    other = pickle.loads(pickle.dumps(caught.value))
    assert type(other) is fastgc.GradientMismatch
    assert str(other) == str(caught.value)
    assert other.report.to_dict() == caught.value.report.to_dict()


# --- assert_gradients takes what check_gradients takes ---


def test_both_signatures_agree() -> None:
    checked, asserted = (inspect.signature(each) for each in (fastgc.check_gradients, fastgc.assert_gradients))
    parameters = dict(asserted.parameters)
    own = parameters.pop("allow_undecided")
    assert list(parameters.values()) == list(checked.parameters.values())  # names, kinds, defaults and annotations
    assert list(parameters) == list(checked.parameters)
    assert own.default is False and own.kind is own.KEYWORD_ONLY
    assert asserted.return_annotation == checked.return_annotation == "GradientReport"


@pytest.mark.parametrize("name", ["check_gradients", "assert_gradients"])
def test_every_argument_is_passed_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgc._gradient import check as _check

    received: list[Any] = []
    right = reports()["right"]

    def passed_on(*positional: Any) -> Any:
        received.extend(positional)
        return right

    given: dict[str, Any] = {each: object() for each in inspect.signature(fastgc.check_gradients).parameters}
    monkeypatch.setattr(_check, "CheckOptions", dict)
    monkeypatch.setattr(_check, "_check", passed_on)
    getattr(_check, name)(**given)
    loss, gradients, params, args, options, previous = received
    whole = {"loss": loss, "gradients": gradients, "params": params, "args": args, "previous": previous}
    assert whole | options == given


def test_no_public_function_hides_its_arguments() -> None:
    functions = [getattr(fastgc, name) for name in fastgc.__all__]
    for package in PACKAGES[1:]:
        if importlib.util.find_spec(package.removeprefix("fastgc.")):
            functions += [getattr(importlib.import_module(package), name) for name in typed(package)]
    variable = [
        f"{function.__name__}: {each}"
        for function in functions
        if inspect.isfunction(function)
        for each in inspect.signature(function).parameters.values()
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) or each.annotation is each.empty
    ]
    assert variable == []
