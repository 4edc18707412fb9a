"""The command line: problems by file and by module, options that mirror keywords, exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import fastgc
from fastgc._command.cli import _parser, main

PROBLEMS = """
    import math
    import numpy as np

    params = {"W1": np.linspace(0.1, 1, 12).reshape(3, 4), "b1": np.linspace(-1, 1, 40), "b2": np.ones(2)}

    def loss(p):
        return float(sum(np.sum(np.sin(v)) for v in p.values()))

    def gradients(p):
        return {name: np.cos(v) for name, v in p.items()}

    def wrong(p):
        return gradients(p) | {"b1": 2 * np.cos(p["b1"])}

    def staircase(p):
        return math.floor(20 * float(p))

    as_tuple = (loss, gradients, params)
    as_dict = {"loss": loss, "gradients": gradients, "params": params, "samples": 3}

    def as_function():
        return loss, gradients, params

    def dict_function():
        return as_dict

    failing = (loss, wrong, params)
    undecided = (staircase, np.array(20.0), np.array(1.0))

    def raising():
        raise RuntimeError("the simulator is down")

    def bad_loss(p):
        raise ZeroDivisionError("no samples")

    loss_raises = (bad_loss, gradients, params)

    def interrupted(p):
        raise KeyboardInterrupt

    stopped = (interrupted, gradients, params)

    def leaves():
        raise SystemExit(0)

    number = 7
    previous = {name: v + 0.1 for name, v in params.items()}
    stale = {"loss": loss, "gradients": gradients(previous), "params": params, "previous": previous}
    short = (loss, gradients)
    shapes = (loss, {"W1": np.ones((4, 3)), "b1": np.ones(40), "b2": np.ones(2)}, params)
    misspelt = {"loss": loss, "gradients": gradients, "params": params, "sample": 3}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "problems_for_cli.py"
    path.write_text(textwrap.dedent(PROBLEMS))
    yield path
    for name in [name for name in sys.modules if name.endswith("_for_cli") or name.split(".")[0] == "package"]:
        del sys.modules[name]  # the next test has a file of that name elsewhere


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The keywords that reach `check_gradients`."""
    seen: dict[str, Any] = {}
    real = fastgc.check_gradients

    def record(*args: Any, **options: Any) -> Any:
        assert not args
        seen.update(options)
        keep = ("loss", "gradients", "params")
        return real(**{name: options[name] for name in keep}, samples=1)

    monkeypatch.setattr(fastgc, "check_gradients", record)
    return seen


# --- problems ---


@pytest.mark.parametrize("name", ["as_tuple", "as_dict", "as_function", "dict_function"])
def test_tuples_dicts_and_functions(file: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{file}:{name}"]) == 0
    assert capsys.readouterr().out.startswith("PASS  3 tensors agree")


def test_a_problem_may_bring_its_own_options(file: Path, asked: dict[str, Any]) -> None:
    main(["check", f"{file}:as_dict"])
    assert asked["samples"] == 3
    main(["check", f"{file}:as_dict", "--samples", "7"])
    assert asked["samples"] == 7


def test_a_problem_may_bring_the_parameters_of_an_earlier_moment(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", f"{file}:stale", "--json", str(tmp_path / "report.json")]) == 1
    assert "the parameters in `previous`" in capsys.readouterr().out
    tensors = json.loads((tmp_path / "report.json").read_text())["tensors"]
    assert {tensor["diagnosis"]["kind"] for tensor in tensors.values()} == {"stale"}


@pytest.mark.parametrize("target", ["problems_for_cli:as_tuple", "package.inner:as_tuple"])
def test_a_module_from_the_working_directory(file: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    package = file.parent / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text(file.read_text())
    monkeypatch.chdir(file.parent)
    assert main(["check", target]) == 0


def test_a_file_may_import_its_neighbours(file: Path) -> None:
    other = file.parent / "other_for_cli.py"
    other.write_text("from problems_for_cli import failing as problem\n")
    assert main(["check", f"{other}:problem"]) == 1


def test_a_relative_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert main(["check", "problems_for_cli.py:as_tuple"]) == 0


# --- exit statuses ---


@pytest.mark.parametrize(
    ("problem", "status"),
    [("as_tuple", 0), ("failing", 1), ("undecided", 3), ("loss_raises", 2), ("raising", 2), ("stopped", 130)],
)
def test_exit_statuses(file: Path, problem: str, status: int) -> None:
    assert main(["check", f"{file}:{problem}"]) == status


@pytest.mark.parametrize(("problem", "status"), [("as_tuple", 0), ("failing", 1), ("undecided", 0), ("raising", 2)])
def test_exit_statuses_when_undecided_is_allowed(file: Path, problem: str, status: int) -> None:
    assert main(["check", f"{file}:{problem}", "--allow-undecided"]) == status


def test_a_problem_that_exits_by_itself_has_not_passed(file: Path) -> None:
    assert main(["check", f"{file}:leaves"]) == 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{file}", "does not name a problem; expected FILE.py:NAME or PACKAGE.MODULE:NAME"),
        ("{file}:", "does not name a problem"),
        (":as_tuple", "does not name a problem"),
        ("{file}:absent", "has no 'absent'"),
        ("{file}:number", "gave a int; it must give (loss, gradients, params) or a dict of arguments"),
        ("{file}:short", "gave a tuple"),
        ("{file}:misspelt", "sample"),
        ("{file}:shapes", "gradients['W1'] has shape (4, 3); params['W1'] has shape (3, 4)"),
        ("absent.py:problem", "there is no file absent.py"),
        ("absent_package.module:problem", "absent_package"),
        ("{file}:raising", "RuntimeError: the simulator is down"),
        ("{file}:loss_raises", "ZeroDivisionError: no samples"),
    ],
)
def test_exceptions_give_2_and_a_message(
    file: Path, target: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", target.format(file=file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_an_exception_of_the_users_code_shows_where_it_was_raised(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check", f"{file}:loss_raises"])
    captured = capsys.readouterr()
    assert "problems_for_cli.py" in captured.err
    assert "bad_loss" in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["check"],
        ["verify", "x.py:y"],
        ["check", "x.py:y", "--unknown"],
        ["check", "x.py:y", "--stencil", "middle"],
        ["check", "x.py:y", "--engine", "fortran"],
        ["check", "x.py:y", "--precision", "half"],
        ["check", "x.py:y", "--step", "small"],
        ["check", "x.py:y", "--seed", "1.5"],
        ["check", "x.py:y", "--threads", "many"],
        ["demo", "x.py:y"],
    ],
)
def test_wrong_usage_gives_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage: fastgc" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "-1"], "samples is -1"),
        (["--samples", "few"], "samples is 'few'"),
        (["--samples", "W1=3", "7"], "--samples W1=3 7"),
        (["--samples", "nowhere=3"], "'nowhere', which names no tensor"),
        (["--tensors", "nowhere"], "'nowhere', which names no tensor"),
        (["--step", "0"], "step is 0.0"),
        (["--rtol=-1"], "rtol is -1.0"),
        (["--threads", "0"], "threads is 0"),
        (["--in-place", "--engine", "numba"], "in_place"),
    ],
)
def test_arguments_that_make_no_sense_give_2(
    file: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", f"{file}:as_tuple", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "word"), [(["--help"], "demo"), (["check", "--help"], "--samples")])
def test_help(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert word in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastgc {fastgc.__version__}\n"


# --- options ---

VALUES: dict[str, tuple[list[str], Any]] = {
    "tensors": (["--tensors", "W1", "b*"], ["W1", "b*"]),
    "samples": (["--samples", "5"], 5),
    "probes": (["--probes", "2"], 2),
    "stencil": (["--stencil", "five_point"], "five_point"),
    "step": (["--step", "1e-4"], 1e-4),
    "rtol": (["--rtol", "1e-3"], 1e-3),
    "atol": (["--atol", "1e-9"], 1e-9),
    "precision": (["--precision", "native"], "native"),
    "engine": (["--engine", "python"], "python"),
    "threads": (["--threads", "1"], 1),
    "points": (["--points", "2"], 2),
    "in_place": (["--in-place"], True),
    "crosscheck": (["--no-crosscheck"], False),
    "seed": (["--seed", "9"], 9),
    "progress": (["--progress"], True),
    "checkpoint": (["--checkpoint", "values"], "values"),
    "workers": (["--workers", "2"], 2),
    "vectorized": (["--vectorized"], True),
    "time_budget": (["--time-budget", "60"], 60.0),
    "symmetric": (["--symmetric", "a"], ["a"]),
}
KEYWORDS = [
    name
    for name, parameter in inspect.signature(fastgc.check_gradients).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
    and name not in ("args", "previous", "bounds")  # these a problem carries itself
]


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_every_keyword_has_an_option(file: Path, asked: dict[str, Any], keyword: str) -> None:
    words, value = VALUES[keyword]
    assert main(["check", f"{file}:as_tuple", *words]) == 0
    assert asked.keys() == {"loss", "gradients", "params", keyword}
    assert asked[keyword] == value
    assert type(asked[keyword]) is type(value)


def test_what_is_not_given_is_left_to_its_default(file: Path, asked: dict[str, Any]) -> None:
    main(["check", f"{file}:as_tuple"])
    assert asked.keys() == {"loss", "gradients", "params"}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["5"], 5),
        (["all"], "all"),
        (["W1=3"], {"W1": 3}),
        (["W1=all", "b*=2"], {"W1": "all", "b*": 2}),
        (["*=4", "b1=all"], {"*": 4, "b1": "all"}),
    ],
)
def test_forms_of_samples(file: Path, asked: dict[str, Any], words: list[str], value: Any) -> None:
    main(["check", f"{file}:as_tuple", "--samples", *words])
    assert asked["samples"] == value
    assert not isinstance(value, dict) or list(asked["samples"]) == list(value)


def checked(file: Path, *options: str) -> dict[str, Any]:
    """Run a check and read its JSON."""
    path = file.parent / "report.json"
    status = main(["check", f"{file}:as_tuple", "--json", str(path), *options])
    report = json.loads(path.read_text())
    assert status == {"pass": 0, "fail": 1, "undecided": 3}[report["verdict"]]
    return report


def test_options_have_their_effect(file: Path) -> None:
    counts = {
        name: tensor["checked"] for name, tensor in checked(file, "--samples", "b*=2", "W1=all")["tensors"].items()
    }
    assert counts == {"W1": 12, "b1": 2, "b2": 2}
    assert list(checked(file, "--tensors", "W*")["tensors"]) == ["W1"]
    assert checked(file, "--no-crosscheck")["crosscheck"] is None
    assert checked(file, "--seed", "4")["seed"] == 4
    assert set(checked(file, "--step", "1e-4")["tensors"]["W1"]["entries"]["step"]) == {1e-4}
    assert set(checked(file, "--points", "3")["tensors"]["W1"]["entries"]["point"]) == {0, 1, 2}
    base, tight = checked(file), checked(file, "--rtol", "0", "--atol", "0", "--stencil", "forward")
    loose = checked(file, "--rtol", "0.5", "--atol", "0.1")
    sizes = [report["tensors"]["W1"]["sensitivity"]["median"] for report in (tight, base, loose)]
    assert sizes == sorted(set(sizes))
    without = [report["tensors"]["b1"]["probe"] for report in (checked(file, "--probes", "0"), base)]
    assert without[0] is None
    assert without[1] is not None


def test_an_engine_of_ones_choice(file: Path) -> None:
    path = file.parent / "jittable_for_cli.py"
    path.write_text("import numpy as np\nproblem = (lambda p: np.sum(p * p), lambda p: 2 * p, np.ones(5))\n")
    assert main(["check", f"{path}:problem", "--engine", "numba", "--threads", "1", "--json", f"{path}.json"]) == 0
    assert json.loads(Path(f"{path}.json").read_text())["engine"] == "numba (1 thread)"


def test_progress_is_drawn_on_standard_error(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", f"{file}:as_tuple", "--progress", "--samples", "all"])
    captured = capsys.readouterr()
    assert "54/54" in captured.err
    assert "54/54" not in captured.out.splitlines()[0]


# --- JSON ---


@pytest.mark.parametrize("problem", ["as_tuple", "failing", "undecided"])
def test_json_holds_the_report_that_is_printed(file: Path, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = file.parent / "report.json"
    main(["check", f"{file}:{problem}", "--json", str(path)])
    report, text = json.loads(path.read_text()), capsys.readouterr().out
    assert report["schema"] == 1
    assert text.startswith(report["verdict"].upper())
    assert f"{report['evaluations']:,} evaluations" in text


def test_json_that_cannot_be_written_gives_2_after_the_report(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{file}:failing", "--json", str(file.parent / "absent" / "report.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("FAIL")
    assert "absent" in captured.err


# --- as a process ---


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fastgc", *arguments], capture_output=True, text=True, **options)


def test_a_check_without_any_time_exits_as_undecided(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{file}:as_tuple", "--time-budget", "1e-9"]) == 3
    assert "not reached: " in capsys.readouterr().out


def test_the_module_runs_and_its_status_is_that_of_main(file: Path) -> None:
    found = run("check", f"{file}:failing")
    assert found.returncode == 1
    assert found.stdout.startswith("FAIL  1 of 3 tensors disagrees")
    assert run().returncode == 2


def test_the_command_is_installed() -> None:
    script = Path(sys.executable).with_name("fastgc")
    found = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert found.stdout.startswith("fastgc ")


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_gives_the_report_and_130(file: Path, number: signal.Signals) -> None:
    path = file.parent / "slow_for_cli.py"
    path.write_text(
        "import time\nimport numpy as np\nfrom pathlib import Path\n"
        "def loss(p):\n    Path(__file__).with_suffix('.started').touch()\n"
        "    time.sleep(0.05)\n    return float(p @ p)\n"
        "problem = (loss, lambda p: 2 * p, np.ones(10_000))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "fastgc", "check", f"{path}:problem", "--samples", "all"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not path.with_suffix(".started").exists() and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.startswith("UNDECIDED") and "not reached (interrupted)" in out
    assert "interrupted" in err
    assert "Traceback" not in err


def test_a_checkpoint_of_another_check_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", f"{file}:as_tuple", "--checkpoint", str(file.with_suffix(".values"))]
    assert main(arguments) == main(arguments) == 0
    assert main([*arguments, "--seed", "1"]) == 2
    assert "is of another check: seed differs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["failing", "number", "stopped"])
def test_the_folders_of_modules_are_as_before_afterwards(name: str, file: Path) -> None:
    before = list(sys.path)
    with contextlib.suppress(KeyboardInterrupt):
        main(["check", f"{file}:{name}"])
    assert sys.path == before


USERS_ERRORS = """
import numpy as np

def loss(p):
    return helper(p)

def helper(p):
    raise ValueError("scale must be positive")

problem = (loss, lambda p: p, np.ones(3))
"""


def test_the_traceback_of_a_users_exception_has_their_frames_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raising.py").write_text(USERS_ERRORS)
    assert main(["check", f"{tmp_path / 'raising.py'}:problem"]) == 2
    err = capsys.readouterr().err
    assert re.findall(r"in (\w+)\n", err) == ["loss", "helper"]
    assert err.endswith("fastgc: ValueError: scale must be positive\n")


def test_an_error_in_a_problem_s_file_is_shown_at_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.py").write_text("import numpy as np\nproblem = undefined\n")
    assert main(["check", f"{tmp_path / 'broken.py'}:problem"]) == 2
    err = capsys.readouterr().err
    assert 'broken.py", line 2' in err
    assert "importlib" not in err


@pytest.mark.parametrize("arguments", [["check", "no_such_module:problem"], ["check", "x.py:problem"], ["check", "x"]])
def test_what_is_refused_has_no_traceback(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "show"])
def test_help_says_what_every_option_does_and_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith("Exits with 0 for a pass, 1 for a failure, 3 for undecided, 2 for an error, 130 after Ctrl-C.")
    commands = next(each for each in _parser()._actions if isinstance(each, argparse._SubParsersAction))
    assert [each.dest for each in commands.choices[command]._actions if not each.help] == []


# --- what is printed and written ---


def test_several_problems_at_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{file}:as_tuple", f"{file}:undecided", f"{file}:failing"]) == 1
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith(str(file))] == [
        f"{file}:as_tuple", f"{file}:undecided", f"{file}:failing",
    ]  # fmt: skip
    assert main(["check", f"{file}:as_tuple", f"{file}:undecided"]) == 3
    assert main(["check", f"{file}:as_tuple", f"{file}:undecided", "--allow-undecided"]) == 0
    assert main(["check", f"{file}:failing", f"{file}:raising"]) == 2


def test_files_take_one_problem(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--json", "--html"):
        assert main(["check", f"{file}:as_tuple", f"{file}:failing", option, str(tmp_path / "x")]) == 2
        assert "--json and --html take one problem; got 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "begins"),
    [("text", "FAIL  1 of 3 "), ("markdown", "### ❌ FAIL: 1 of 3 "), ("json", "{\n"), ("junit", "<?xml "),
     ("github", "::error title=")],
)  # fmt: skip
def test_formats(file: Path, form: str, begins: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{file}:failing", "--format", form]) == 1
    assert capsys.readouterr().out.startswith(begins)


def test_documents_of_several_problems_are_one(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = [f"{file}:failing", f"{file}:as_tuple"]
    main(["check", *problems, "--format", "json"])
    assert [each["verdict"] for each in json.loads(capsys.readouterr().out)] == ["fail", "pass"]
    main(["check", *problems, "--format", "junit"])
    suites = ElementTree.fromstring(capsys.readouterr().out).findall("testsuite")
    assert [suite.get("name") for suite in suites] == problems
    main(["check", *problems, "--format", "github"])
    assert [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()] == ["::error", "::notice"]


@pytest.mark.parametrize(("problem", "status"), [("as_tuple", 0), ("failing", 1), ("undecided", 3)])
def test_a_saved_report_is_shown_again(
    file: Path, problem: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, first, second = (str(tmp_path / name) for name in ("a.json", "1.html", "2.html"))
    assert main(["check", f"{file}:{problem}", "--json", saved, "--html", first]) == status
    text = capsys.readouterr().out
    assert main(["show", saved, "--html", second]) == status
    assert capsys.readouterr().out == text
    assert Path(first).read_text() == Path(second).read_text()
    assert main(["show", saved, "--format", "markdown", "--allow-undecided"]) == (status if status == 1 else 0)
    assert capsys.readouterr().out.startswith("### ")


def test_a_saved_jacobian_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = fastgc.check_jacobian(lambda x: x**2, [[3.0]], [1.0])
    report.to_json(tmp_path / "a.json")
    assert main(["show", str(tmp_path / "a.json")]) == 1
    assert capsys.readouterr().out == f"{report}\n"


def test_what_is_no_report_cannot_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert main(["show", str(tmp_path / "a.json")]) == 2
    assert "is no report: it has no 'schema'" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "absent.json")]) == 2


@pytest.mark.parametrize(
    ("variables", "terminal", "coloured"),
    [({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False), ({"NO_COLOR": ""}, True, True),
     ({"FORCE_COLOR": "1"}, False, True), ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
     ({"TERM": "dumb"}, True, False), ({"FORCE_COLOR": ""}, False, False)],
)  # fmt: skip
def test_colours_where_they_are_wanted(
    file: Path, variables: dict[str, str], terminal: bool, coloured: bool,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    main(["check", f"{file}:failing"])
    out = capsys.readouterr().out
    assert ("\x1b[1;31mFAIL\x1b[0m  1 of 3" in out) is coloured
    assert ("  \x1b[32mpass\x1b[0m" in out) is coloured
    assert ("\x1b" in out) is coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", out).startswith("FAIL  1 of 3")


def test_other_formats_have_no_colours(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for form in ("markdown", "json", "junit", "github"):
        main(["check", f"{file}:failing", "--format", form])
    assert "\x1b" not in capsys.readouterr().out
