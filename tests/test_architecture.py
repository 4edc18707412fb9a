"""Who may import whom, what is public, and what the package promises about itself."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest

import fastgc

HOME = Path(fastgc.__file__).parent


def dotted(path: Path) -> str:
    """The name of a module inside the package: "_derivatives.noise"; of a package that of its folder."""
    parts = path.relative_to(HOME).with_suffix("").parts
    return ".".join(parts if parts[-1] != "__init__" or len(parts) == 1 else parts[:-1])


MODULES = {dotted(path): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in HOME.rglob("*.py")}

# The floors of the house, a row for each. A module imports only from rows below its own, and from its own folder.
FLOORS = [
    [
        "torch",
        "jax",
        "_load",
        "_numerical",
        "_scipy",
        "_model",
        "_command",
        "_pytest",
        "__init__",
        "__main__",
    ],  # leaves
    ["_jacobian"],
    ["_gradient"],
    ["_reports"],
    ["_diagnosis"],
    ["_verdicts"],
    ["_derivatives"],
    ["_evaluation"],
    ["_parameters"],
    ["_arguments", "_progress", "_public", "_frames"],
    ["_words", "_missing", "_deferred", "_forks"],
]
FLOOR = {folder: len(FLOORS) - number for number, row in enumerate(FLOORS) for folder in row}
LEAVES = set(FLOORS[0])
# The command line and the fixture of pytest call what every user calls.
BETWEEN_LEAVES = {("_command", "__init__"), ("__main__", "_command"), ("_pytest", "__init__"), ("_load", "__init__")}

# Third-party packages, and the folders or modules that may import them.
IMPORTERS = {
    "numba": {"_evaluation"},
    "llvmlite": {"_evaluation"},
    "tqdm": {"_progress"},
    "threadpoolctl": {"_evaluation.threads"},
    "joblib": {"_evaluation.executors"},
    "cloudpickle": {"_evaluation.parcels"},
    "matplotlib": {"_reports.figure"},
    "scipy.optimize": {"_verdicts.crosscheck"},
    "scipy.sparse": {"_jacobian.inputs"},
    "torch": {"torch"},
    "jax": {"jax"},
}

CONTRACT = {
    "check_gradients", "assert_gradients", "GradientMismatch", "GradientReport", "TensorSummary", "Entry", "Diagnosis",
    "Interrupted", "tensor_names", "record", "numerical_gradient", "numerical_jacobian", "gradient_check",
    "relative_error", "max_relative_error", "interpret", "load_report", "step_sweep", "taylor_test", "check_jacobian",
    "check_hessian", "assert_jacobian", "assert_hessian", "JacobianMismatch", "JacobianReport", "Gradcheck", "Report",
    "StepSweep", "TaylorTest", "benchmark", "Benchmark", "attributes", "at_vector", "check_problem", "ProblemReport",
    "checked", "CheckedDerivative", "stages", "Stage", "dense", "torch", "jax", "__version__",
}  # fmt: skip
SILENT = {"interpret"}  # raises nothing


class _Executed(ast.NodeTransformer):
    """Leaves of ``if TYPE_CHECKING: ... else: ...`` what is executed."""

    def visit_If(self, node: ast.If) -> Any:
        return node.orelse if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node


for each in ("__init__", "torch", "jax"):
    MODULES[each] = _Executed().visit(MODULES[each])  # its names are of all modules, and are loaded late


@cache
def imports(tree: ast.AST) -> tuple[str, ...]:
    """Dotted names of everything imported, inside functions too."""
    return tuple(imported(tree))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.AST) -> set[str]:
    """Modules of this package that are imported; __init__ for the package itself."""
    names = [name.partition(".")[2] for name in imports(tree) if name.split(".")[0] == "fastgc"]
    return {name if name in MODULES else name.rpartition(".")[0] or "__init__" for name in names}


def folder(module: str) -> str:
    return module.partition(".")[0]


def climbing(module: str, others: set[str]) -> set[str]:
    """Which of the modules stand on the floor of this one or above, outside its folder."""
    elsewhere = {other for other in others if folder(other) != folder(module)}
    return {
        other
        for other in elsewhere
        if FLOOR[folder(other)] >= FLOOR[folder(module)] and (folder(module), folder(other)) not in BETWEEN_LEAVES
    }


# --- imports ---


def test_the_table_names_every_folder() -> None:
    assert set(FLOOR) == {folder(module) for module in MODULES}, "a new folder needs a floor"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_the_stairs_only(module: str) -> None:
    assert climbing(module, own_imports(MODULES[module])) == set()


def test_that_check_would_see_an_import_upwards() -> None:
    tree = ast.parse("def f():\n    from fastgc._gradient.check import check_gradients\n    import fastgc\n")
    assert own_imports(tree) == {"_gradient.check", "__init__"}
    assert climbing("_verdicts.probes", own_imports(tree)) == {"_gradient.check", "__init__"}
    assert own_imports(ast.parse("from fastgc import _load, record")) == {"_load", "__init__"}
    assert climbing("_jacobian.check", {"_gradient.check", "_jacobian.report"}) == set()


def test_imports_make_no_circle() -> None:
    left = {module: own_imports(tree) - {module} for module, tree in MODULES.items()}
    while free := [module for module, others in left.items() if not others & set(left)]:
        for module in free:
            del left[module]
    assert sorted(left) == [], "each of these imports another one that leads back to it"


def test_nothing_imports_a_leaf_but_the_command_line() -> None:
    found = {
        (folder(module), folder(other))
        for module, tree in MODULES.items()
        for other in own_imports(tree)
        if folder(other) in LEAVES - {"__init__"} and folder(other) != folder(module)
    }
    assert found <= BETWEEN_LEAVES


def test_few_folders_know_one_another() -> None:
    """The modules at the top count as one folder."""

    def place(module: str) -> str:
        return folder(module) if (HOME / folder(module)).is_dir() else "fastgc"

    pairs = {(place(module), place(other)) for module, tree in MODULES.items() for other in own_imports(tree)}
    assert len({(one, other) for one, other in pairs if one != other}) <= 70


def test_every_numeric_constant_says_why() -> None:
    """By a comment at the end of its line, or in the lines above it (which may speak of several)."""
    silent = []
    for path in HOME.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in MODULES[dotted(path)].body:
            if isinstance(node, ast.Assign) and is_number(node.value):
                above = node.lineno - 2
                while above >= 0 and re.match(r"_?[A-Z_]+(, _?[A-Z_]+)* = ", lines[above]):
                    above -= 1
                if "#" not in lines[node.lineno - 1] and not lines[above].startswith("#"):
                    silent.append(f"{path.relative_to(HOME)}: {lines[node.lineno - 1]}")
    assert silent == []


def is_number(node: ast.expr) -> bool:
    """Whether it is arithmetic of numbers alone."""
    return all(isinstance(each, ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.Tuple
                          | ast.expr_context) and not isinstance(getattr(each, "value", 0), str | bool | None)
               for each in ast.walk(node))  # fmt: skip


@pytest.mark.parametrize("package", sorted(IMPORTERS))
def test_each_package_has_its_importers(package: str) -> None:
    found = {
        module
        for module, tree in MODULES.items()
        if any(name == package or name.startswith(f"{package}.") for name in imports(tree))
    }
    assert {module for module in found if not {module, folder(module)} & IMPORTERS[package]} == set()


def test_what_is_imported_is_declared() -> None:
    """Dependencies, extras, and llvmlite, which is Numba's own."""
    declared = {re.split(r"[^\w-]", line)[0] for line in metadata.requires("fastgradcheck") or ()} | {
        "llvmlite",
        "fastgc",
    }
    found = {name.split(".")[0] for tree in MODULES.values() for name in imports(tree)}
    assert found - set(sys.stdlib_module_names) - declared == set()


def test_only_the_command_line_prints() -> None:
    found = {module for module, tree in MODULES.items() if any(map(prints, ast.walk(tree)))}
    assert found <= {"_command.cli"}


def prints(node: ast.AST) -> bool:
    return getattr(node, "id", "") == "print" or getattr(node, "attr", "") in ("stdout", "stderr")


HEAVY = [
    "numba",
    "scipy.optimize",
    "scipy.stats",
    "tqdm",
    "torch",
    "jax",
    "matplotlib",
    "threadpoolctl",
    "llvmlite",
    "joblib",
]


def left_imported(code: str) -> list[str]:
    """Run code in a new process and tell which heavy packages it has imported."""
    script = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()  # fmt: skip


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert left_imported("import fastgc") == []
    assert left_imported("import fastgc; dir(fastgc); fastgc.__version__") == []


def test_that_check_would_see_an_import() -> None:
    present = {"numba", "llvmlite", "scipy.optimize", "scipy.stats", "tqdm", "matplotlib", "threadpoolctl"}
    assert present <= set(left_imported(f"import fastgc, {', '.join(sorted(present))}"))
    assert left_imported("import fastgc, tqdm") == ["tqdm"]


def test_a_check_in_python_needs_neither_numba_nor_matplotlib_nor_a_bar() -> None:
    code = (
        "import numpy as np, fastgc\n"
        "assert fastgc.check_gradients(lambda p: p @ p, lambda p: 2 * p, np.ones(99), crosscheck=False).passed"
    )
    assert not {"numba", "llvmlite", "tqdm", "matplotlib", "scipy.stats"} & set(left_imported(code))


# --- public names ---


def test_only_names_of_the_contract_are_public() -> None:
    assert set(dir(fastgc)) == set(fastgc.__all__)
    assert set(fastgc.__all__) <= CONTRACT
    assert set(fastgc.__all__) >= CONTRACT


def test_every_public_name_loads() -> None:
    for name in fastgc.__all__:
        value = getattr(fastgc, name)
        assert name == "__version__" or value.__name__.rpartition(".")[2] == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fastgc' has no attribute 'check_gradient'"):
        fastgc.check_gradient  # noqa: B018


def test_modules_are_private() -> None:
    assert {folder(module) for module in MODULES if not module.startswith("_")} <= CONTRACT


FRAMEWORKS = {  # packages and their public names
    "torch": {"gradcheck", "gradgradcheck", "check_module", "assert_module"},
    "jax": {"check_gradients", "assert_gradients", "check_grads"},
}


def framework_trees(package: str) -> list[ast.Module]:
    return [tree for module, tree in MODULES.items() if folder(module) == package]


@pytest.mark.parametrize("package", sorted(FRAMEWORKS))
def test_a_frameworks_package_is_a_leaf_that_loads_it_late(package: str) -> None:
    trees = framework_trees(package)
    assert trees
    assert set(dir(getattr(fastgc, package))) == FRAMEWORKS[package]
    assert left_imported(f"import fastgc; fastgc.{package}; dir(fastgc.{package})") == []


@pytest.mark.parametrize("package", sorted(FRAMEWORKS))
def test_a_frameworks_package_imports_no_other_framework(package: str) -> None:
    found = {name.split(".")[0] for tree in framework_trees(package) for name in imports(tree)}
    assert found - set(sys.stdlib_module_names) == {"fastgc", "numpy", package}


@pytest.mark.parametrize("package", sorted(FRAMEWORKS))
def test_a_missing_framework_is_named_with_the_command_that_installs_it(package: str) -> None:
    name = sorted(FRAMEWORKS[package])[0]
    code = f"import sys; sys.modules['{package}'] = None\nimport fastgc\ntry:\n    fastgc.{package}.{name}"
    code += "\nexcept ImportError as error:\n    print(error)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"fastgc.{package}.{name} needs" in said
    assert f'python -m pip install "{package}>=' in said


def test_star_import_brings_the_public_names() -> None:
    space: dict[str, Any] = {}
    exec("from fastgc import *", space)
    assert set(fastgc.__all__) <= set(space)


# --- docstrings ---

FUNCTIONS = [name for name in fastgc.__all__ if inspect.isfunction(getattr(fastgc, name))]
METHODS = [
    f"{name}.{key}"
    for name in fastgc.__all__
    if inspect.isclass(getattr(fastgc, name))
    for key, value in vars(getattr(fastgc, name)).items()
    if inspect.isfunction(value) and not key.startswith("_")
]


def sections(function: Callable[..., Any]) -> dict[str, str]:
    """Texts of a docstring by the title of their section."""
    parts = re.split(r"^(\w+)\n-+\n", inspect.getdoc(function) or "", flags=re.MULTILINE)
    return dict(zip(["Summary", *parts[1::2]], parts[::2], strict=True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_have_their_sections(name: str) -> None:
    found = sections(getattr(fastgc, name))
    assert found["Summary"].splitlines()[0].endswith((".", "?"))
    assert {"Parameters", "Returns"} | (set() if name in SILENT else {"Raises"}) <= found.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_described(name: str) -> None:
    function = getattr(fastgc, name)
    parameters = inspect.signature(function).parameters.values()
    named = {each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
    headers = re.findall(r"^(\w[\w, ]*?)(?: :|$)", sections(function).get("Parameters", ""), re.MULTILINE)
    described = {word for header in headers for word in header.split(", ")}
    assert named <= described


@pytest.mark.parametrize("name", METHODS)
def test_public_methods_have_a_docstring(name: str) -> None:
    kind, _, method = name.partition(".")
    assert inspect.getdoc(getattr(getattr(fastgc, kind), method))


@pytest.mark.parametrize("name", sorted(set(fastgc.__all__) - set(FUNCTIONS) - {"__version__"}))
def test_public_classes_have_a_docstring_with_every_field(name: str) -> None:
    kind = getattr(fastgc, name)
    text = inspect.getdoc(kind) or ""
    assert text
    assert [field for field in getattr(kind, "__dataclass_fields__", ()) if not re.search(rf"\b{field}\b", text)] == []


def test_every_module_says_what_it_is_for() -> None:
    assert [module for module, tree in MODULES.items() if not ast.get_docstring(tree)] == []


def test_every_signature_is_annotated() -> None:
    bare = [
        f"{module}.{node.name}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.returns is None or any(a.annotation is None for a in node.args.args if a.arg not in ("self", "cls")))
    ]
    assert bare == []


def test_any_type_is_rare() -> None:
    """It stands for data read from files, for what libraries without types give, and for results of unknown kind."""
    names = [node for tree in MODULES.values() for node in ast.walk(tree) if getattr(node, "id", "") == "Any"]
    assert len(names) < 300


# --- what is shipped ---


def test_packaged_data_is_attributed() -> None:
    data = [path.stem for path in HOME.rglob("*.npz")]
    assert data
    for stem in data:
        text = resources.files("fastgc").joinpath(f"{stem}.md").read_text(encoding="utf-8")
        assert "Alpaydin" in text
        assert "10.24432/C50P49" in text
        assert "CC BY 4.0" in text
        assert "creativecommons.org/licenses/by/4.0" in text
        assert re.search(r"[Cc]hange|modif", text), "the licence asks to say what was changed"


def test_the_data_and_the_marker_of_types_are_in_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]["package-data"]["fastgc"]
    files = (path for path in HOME.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    present = {path.name for path in files if path.suffix != ".py"}
    assert present <= set(listed)
    assert "py.typed" in present
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == ["fastgc*"]


def test_the_licence_is_mit() -> None:
    assert (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


def test_the_version_comes_from_one_place() -> None:
    assert metadata.version("fastgradcheck") == fastgc.__version__
