"""What the benchmark of constants finds, changes and counts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgc

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))

import thresholds  # noqa: E402
from measure import process  # noqa: E402
from thresholds import Constant, Tally  # noqa: E402

# --- constants ---

MODULE = """
_ONE = 2.0**-5  # words
_A, (_B, C_3) = 1 << 17, (7, 0.5)
_PAIR: Final = (1e-2, 3)
_ÄRMEL, lower, _WORD, _YES = 1, 2, "x", True
_TABLE = {
    "a": 1e-5,  # é
    "b": 2,
}
"""


def values(source: str) -> dict[str, Any]:
    space: dict[str, Any] = {"Final": Any, "np": np}
    exec(source, space)
    return space


def constants_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Constant]]:
    """Those of the module above."""
    file = tmp_path / "module.py"
    file.write_text(MODULE, encoding="utf-8")
    monkeypatch.setitem(sys.modules, "fastgc.module", type("module", (), values(MODULE)))
    return file, {each.name: each for each in thresholds.constants_of(file, Path("module.py"))}


CHANGED = {
    "_ONE": (0.5, 2.0**-6), "_A": (2.0, 1 << 18), "_B": (0.5, 3), "C_3": (2.0, 1.0), "_PAIR": (0.5, (0.005, 1)),
    "_TABLE": (0.5, {"a": 5e-6, "b": 1}),
}  # fmt: skip


@pytest.fixture(scope="module")
def of_the_package() -> Iterator[list[Constant]]:
    """The constants of the package, which are looked for once."""
    found = thresholds.constants()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "constants", lambda: found)
        yield found


def test_constants_are_numbers_under_capital_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = constants_of(tmp_path, monkeypatch)
    assert set(found) == set(CHANGED)
    assert (found["_ONE"].text, found["_ONE"].module) == ("2.0**-5", "module")


@pytest.mark.parametrize("name", CHANGED)
def test_one_constant_is_changed_and_nothing_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, found = constants_of(tmp_path, monkeypatch)
    factor, value = CHANGED[name]
    thresholds.rewrite(file, name, found[name].changed(factor))
    assert values(file.read_text(encoding="utf-8")) | {"__builtins__": 0} == values(MODULE) | {
        name: value,
        "__builtins__": 0,
    }


def test_arrays_and_whole_numbers_are_scaled() -> None:
    steps = Constant(Path("x.py"), "_STEPS", np.array([1.0, 3.0]), "np.array([1.0, 3.0])")
    assert eval(steps.changed(0.5)).tolist() == [0.5, 1.5]
    assert [thresholds.scaled(number, 0.5) for number in (3, 1, 0, 3.0)] == [1, 1, 0, 1.5]


def test_the_constants_of_the_package_are_found(of_the_package: list[Constant]) -> None:
    found = of_the_package
    assert len(found) > 100
    assert {each.path.parts[0] for each in found} == {each.partition("/")[0] for each in thresholds.FOLDERS}
    assert not any("finfo" in each.text and each.text.startswith("float(") for each in found)
    (one,) = thresholds.chosen(f"{found[0].module}:{found[0].name}")
    assert one == found[0]
    with pytest.raises(SystemExit, match="--only _derivatives:_NONE names no constant"):
        thresholds.chosen("_derivatives:_NONE")


def test_a_changed_copy_of_the_package_is_what_a_process_imports(
    of_the_package: list[Constant], tmp_path: Path
) -> None:
    constant = next(each for each in of_the_package if isinstance(each.value, float))
    copy = shutil.copytree(thresholds.PACKAGE, tmp_path / "fastgc")
    thresholds.rewrite(copy / constant.path, constant.name, constant.changed(2.0))
    script = tmp_path / "scripts" / "script.py"
    script.parent.mkdir()
    code = ["import sys", f"sys.path.insert(0, {str(BENCH)!r})", "import thresholds"]
    code += [
        f"from fastgc.{constant.module} import {constant.name} as value",
        "print(value, thresholds.fastgc.__file__)",
    ]
    script.write_text("\n".join(code), encoding="utf-8")
    printed = process(str(script), PYTHONPATH=str(tmp_path))
    assert printed.split() == [str(2 * constant.value), str(copy / "__init__.py")]


# --- counts ---


def check(factor: float) -> fastgc.GradientReport:
    x = np.arange(1.0, 11.0)
    return fastgc.check_gradients(lambda p: float(p @ p), lambda p: factor * 2 * p, x, crosscheck=False)


def judged(*checks: tuple[bool, float, str]) -> Tally:
    """Right, the factor of the gradient, the kind of bug to be named."""
    tally = Tally()
    for number, (right, factor, kind) in enumerate(checks):
        tally.judge(str(number), right, lambda factor=factor: check(factor), lambda tensor, kind=kind: kind)
    return tally


def test_verdicts_are_counted() -> None:
    found = judged((True, 1.0, ""), (True, 3.0, ""), (False, 1.0, "factor"), (False, 3.0, "factor"))
    assert (found.missed, found.alarms, found.undecided, found.errors) == (["2"], ["1"], [], [])
    assert (found.named, found.misnamed) == (1, ["1: params is factor, not silent"])
    assert found.evaluations == sum(check(factor).evaluations for factor in (1.0, 3.0, 1.0, 3.0))
    one, stairs = np.array(1.0), Tally()
    stairs.judge("x", True, lambda: fastgc.check_gradients(lambda p: float(np.floor(20 * p)), 20 * one, one), str)
    assert stairs.undecided == ["x"]


def test_an_exception_is_an_error_and_no_verdict() -> None:
    found = Tally()
    found.judge("x", True, lambda: 1 / 0, str)
    assert found.errors == ["x: ZeroDivisionError: division by zero"]
    assert found.verdicts == {}


def test_the_effect_of_a_change_is_the_largest() -> None:
    before = judged((False, 3.0, "factor"))
    assert before.effect(judged((False, 3.0, "factor"))) == "nothing"
    assert before.effect(judged((False, 1.0, "factor"))) == "verdicts"
    assert before.effect(judged((False, -1.0, "sign"))) == "kinds"
    assert before.effect(Tally(**vars(before) | {"evaluations": 0})) == "evaluations"
    assert before.effect(Tally(**vars(before) | {"numbers": 0})) == "numbers"
    assert before.effect(Tally(errors=["stopped after 600 s"])) == "verdicts"


def test_its_description_counts_the_constants() -> None:
    assert f"There are {len(thresholds.constants())} constants." in (thresholds.__doc__ or "")
