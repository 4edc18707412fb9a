"""The fixture ``gradcheck``: pytest runs on test files as users write them."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import fastgc

HEAD = """
import numpy as np
import pytest

def loss(p):
    return float(sum(np.sum(np.sin(x)) for x in p.values()))

def right(p):
    return {name: np.cos(x) for name, x in p.items()}

def wrong(p):
    return right(p) | {"b": 3 * np.cos(p["b"])}

PARAMS = {"W": np.linspace(0.1, 1, 12).reshape(3, 4), "b": np.linspace(0.2, 1, 4)}
"""
PASSING = "def test_right(gradcheck):\n    assert gradcheck(loss, right, PARAMS).passed\n"
FAILING = "def test_wrong(gradcheck):\n    gradcheck(loss, wrong, PARAMS)\n"
NOISY = """
def test_noise(gradcheck):
    draw = np.random.default_rng(0)
    gradcheck(lambda p: loss(p) + draw.normal(), right, PARAMS)
"""
# Wrong in one direction of the parameters that only one of several seeds checks: one entry is sampled, no probes.
ONE_OF_MANY = """
SAMPLED = dict(samples=1, probes=0, crosscheck=False)

def test_rare(gradcheck):
    gradcheck(lambda x: float(x @ x) / 2, lambda x: np.where(np.arange(x.size) == {index}, 2 * x, x),
              np.linspace(1, 2, 50), **SAMPLED)
"""


@pytest.fixture(scope="module")
def loaded() -> None:
    """What checks import. pytester forgets what a run imports, and NumPy and others cannot be loaded twice."""
    importlib.import_module("fastgc._pytest.fixture")
    fastgc.check_gradients(lambda x: float(x @ x), lambda x: 2 * x, np.ones(3))
    for framework in ("torch", "jax"):
        with contextlib.suppress(ImportError):
            importlib.import_module(framework)
            importlib.import_module(f"fastgc.{framework}._gradients" if framework == "jax" else "fastgc.torch._module")


@pytest.fixture
def run(loaded: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> object:
    """Write a test file and run pytest on it, in this process unless xdist is asked for."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(text: str = "", *options: str) -> pytest.RunResult:
        if text:
            pytester.makepyfile(test_users=HEAD + text)
        return pytester.runpytest("-p", "no:randomly", *options)

    return run


def test_a_right_gradient_passes_and_is_counted(run) -> None:
    result = run(PASSING)
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines([r"1 check: 1 pass, 0 fail, 0 undecided; [\d,]+ evaluations, [\d.]+ s",
                                  r"slowest: test_users.py::test_right \([\d.]+ s\)"])  # fmt: skip


def test_runs_without_a_check_say_nothing(run) -> None:
    result = run("def test_nothing():\n    pass\n")
    result.assert_outcomes(passed=1)
    assert "gradient checks" not in result.stdout.str()


def test_a_failing_test_shows_ten_lines_that_begin_with_the_tensor_and_the_bug(run) -> None:
    result = run(FAILING)
    result.assert_outcomes(failed=1)
    said = [line for line in result.outlines if line.startswith("E ")]
    assert 2 <= len(said) <= 10
    assert "GradientMismatch: b: fail, consistent with a constant factor of 3" in said[0]
    result.stdout.fnmatch_lines(["*gradient check*", "FAIL*1 of 2 tensors disagrees*"])  # the whole report, below


def test_no_frame_of_the_package_is_shown(run) -> None:
    text = run(FAILING).stdout.str()
    assert str(Path("_pytest", "fixture.py")) not in text
    assert "_gradient" not in text


def test_an_exception_of_the_loss_is_shown_at_the_users_line(run) -> None:
    result = run("def test_raises(gradcheck):\n    gradcheck(lambda p: p['q'], right, PARAMS)\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*KeyError: 'q'*"])
    assert "fastgc/_" not in result.stdout.str().replace("\\", "/")


def test_undecided_fails_unless_it_is_allowed(run) -> None:
    run(NOISY).assert_outcomes(failed=1)
    run(NOISY.replace("PARAMS)", "PARAMS, allow_undecided=True)")).assert_outcomes(passed=1)


def test_jacobians_and_hessians(run) -> None:
    run("""
def test_jacobian(gradcheck):
    assert gradcheck.jacobian(np.sin, lambda x: np.diag(np.cos(x)), np.linspace(0, 1, 5)).passed

def test_wrong_jacobian(gradcheck):
    with pytest.raises(AssertionError, match="the Jacobian: fail, consistent with a constant factor of 2"):
        gradcheck.jacobian(np.sin, lambda x: 2 * np.diag(np.cos(x)), np.linspace(0, 1, 5))

def test_hessian(gradcheck):
    assert gradcheck.hessian(None, lambda x: 2 * x, 2 * np.eye(2), np.ones(2)).passed
""").assert_outcomes(passed=3)


def test_modules_of_torch(run) -> None:
    pytest.importorskip("torch")
    run("""
def test_module(gradcheck):
    import torch
    assert gradcheck.module(torch.nn.Linear(3, 2), (torch.ones(4, 3),)).passed
""").assert_outcomes(passed=1)


def test_functions_of_jax(run) -> None:
    pytest.importorskip("jax")
    run("""
def test_jax(gradcheck):
    import jax.numpy as jnp
    assert gradcheck.jax(lambda x: jnp.sum(jnp.sin(x)), jnp.linspace(0, 1, 4)).passed
""").assert_outcomes(passed=1)


def test_a_test_of_each_tensor(run) -> None:
    result = run("""
import fastgc

@pytest.mark.parametrize("tensor", fastgc.tensor_names(PARAMS))
def test_tensor(gradcheck, tensor):
    assert gradcheck.tensors(PARAMS) == ["W", "b"]
    assert list(gradcheck(loss, wrong, PARAMS, tensors=tensor).tensors) == [tensor]
""", "-v")  # fmt: skip
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*test_tensor?W? PASSED*", "*test_tensor?b? FAILED*"])


def test_the_nearest_marker_wins_and_a_call_above_all(run) -> None:
    run("""
pytestmark = pytest.mark.fastgc(samples=2, seed=7)

@pytest.mark.fastgc(samples=3)
class TestMarked:
    def test_of_the_class(self, gradcheck):
        report = gradcheck(loss, right, PARAMS)
        assert (report.tensors["W"].checked, report.seed) == (3, 7)

    @pytest.mark.fastgc(samples=4)
    def test_of_the_test(self, gradcheck):
        assert gradcheck(loss, right, PARAMS).tensors["W"].checked == 4

    @pytest.mark.fastgc(samples=4)
    def test_of_the_call(self, gradcheck):
        report = gradcheck(loss, right, PARAMS, samples=5, seed=8)
        assert (report.tensors["W"].checked, report.seed) == (5, 8)
""").assert_outcomes(passed=3)


def test_a_marker_with_a_wrong_option_is_an_error(run) -> None:
    result = run("@pytest.mark.fastgc(smaples=2)\n" + PASSING)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*unexpected keyword argument 'smaples'*"])
    run("@pytest.mark.fastgc(2)\n" + PASSING).stdout.fnmatch_lines(["*the marker fastgc takes options by name, got 2*"])


def test_unittest(run) -> None:
    run("""
import unittest

@pytest.mark.usefixtures("gradcheck")
class TestGradient(unittest.TestCase):
    def test_right(self):
        self.gradcheck(loss, right, PARAMS)

    def test_wrong(self):
        self.gradcheck(loss, wrong, PARAMS)
""").assert_outcomes(passed=1, failed=1)


# --- options ---


def test_seed_and_budget_of_a_run(run, pytester: pytest.Pytester) -> None:
    seen = "def test_seed(gradcheck):\n    assert gradcheck(loss, right, PARAMS).seed == 12\n"
    result = run(seen, "--fastgc-seed=12", "--fastgc-budget=100")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["fastgc: seed 12 (--fastgc-seed=12 repeats it)"])
    pytester.makeini("[pytest]\nfastgc_seed = 12\nfastgc_budget = 100\n")
    run(seen).assert_outcomes(passed=1)


def test_a_budget_that_is_too_small_is_undecided(run) -> None:
    slow = "import time\n" + FAILING.replace("loss, wrong", "lambda p: time.sleep(0.01) or loss(p), right")
    run(slow, "--fastgc-budget=0.05").stdout.fnmatch_lines(["*GradientMismatch: *: undecided, not reached*"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--fastgc-seed=-1", "--fastgc-seed is '-1'; it must be a whole number of at least 0, or \"random\""),
        ("--fastgc-budget=0", "--fastgc-budget is '0'; it must be a number of seconds above 0"),
        ("--fastgc-budget=soon", "--fastgc-budget is 'soon'; it must be a number of seconds above 0"),
        ("--fastgc-compare=missing.json", "write a baseline with --fastgc-save=missing.json"),
        ("--fastgc-compare=test_users.py", "test_users.py is no baseline of --fastgc-save"),
    ],
)
def test_wrong_options_are_refused(run, option: str, message: str) -> None:
    result = run(PASSING, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_a_seed_that_failed_is_tried_first(run) -> None:
    """The error is in the one entry that seed 0 samples; another seed alone would not see it."""
    index = _sampled(0)
    assert _sampled(1) != index
    run(ONE_OF_MANY.format(index=index), "--fastgc-seed=1").assert_outcomes(passed=1)
    run("", "--fastgc-seed=0").assert_outcomes(failed=1)
    again = run("", "--fastgc-seed=1")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*seed 0 (failed here before, tried first)*"])
    run(ONE_OF_MANY.format(index=-1), "--fastgc-seed=1").assert_outcomes(passed=1)  # mended, seed 0 is tried once more
    run(ONE_OF_MANY.format(index=index), "--fastgc-seed=1").assert_outcomes(passed=1)  # and forgotten


def _sampled(seed: int) -> int:
    """The entry that a check with one sample looks at."""
    x = np.linspace(1, 2, 50)
    report = fastgc.check_gradients(lambda x: float(x @ x) / 2, x, x, samples=1, probes=0, crosscheck=False, seed=seed)
    return int(report.tensors["params"].entries[0].index[0])


def test_a_random_seed_is_told_and_differs(run) -> None:
    seeds = {run(PASSING, "--fastgc-seed=random").stdout.str().split("fastgc: seed ")[1].split()[0] for _ in range(3)}
    assert len(seeds) > 1


def test_pages_of_failing_checks_and_their_index(run, pytester: pytest.Pytester) -> None:
    run(PASSING + FAILING, "--fastgc-report=pages").assert_outcomes(passed=1, failed=1)
    pages = [path.name for path in (pytester.path / "pages").iterdir()]
    assert len(pages) == 2
    assert "index.html" in pages
    index = (pytester.path / "pages" / "index.html").read_text()
    assert "test_users.py::test_wrong" in index
    assert all(page in index for page in pages if page != "index.html")


def test_a_baseline_lets_known_failures_be(run, pytester: pytest.Pytester) -> None:
    run(FAILING, "--fastgc-save=base.json").assert_outcomes(failed=1)
    assert json.loads((pytester.path / "base.json").read_text())["failing"] == {
        "test_users.py::test_wrong": {"0": ["b"]}
    }
    run("", "--fastgc-compare=base.json").assert_outcomes(xfailed=1)
    worse = FAILING.replace("loss, wrong", "loss, lambda p: {n: 2 * g for n, g in right(p).items()}")
    run(worse, "--fastgc-compare=base.json").assert_outcomes(failed=1)
    mended = run(FAILING.replace("wrong,", "right,"), "--fastgc-compare=base.json")
    mended.assert_outcomes(passed=1)
    mended.stdout.fnmatch_lines(["in base.json, and failing no more: test_users.py::test_wrong*"])


def test_an_error_beside_a_known_failure_still_fails(run) -> None:
    run(FAILING, "--fastgc-save=base.json")
    run(FAILING + "    assert False\n", "--fastgc-compare=base.json").assert_outcomes(failed=1)


def test_junit_properties(run, pytester: pytest.Pytester) -> None:
    run(PASSING, "--junitxml=junit.xml")
    properties = {each.get("name"): each.get("value") for each in ElementTree.parse("junit.xml").iter("property")}
    assert properties["fastgc.verdict"] == "pass"
    assert int(properties["fastgc.evaluations"]) > 0
    assert properties["fastgc.seed"] == "0"


@pytest.mark.parametrize("options", [(), ("-p", "no:cacheprovider")], ids=["cache", "no cache"])
def test_workers_of_xdist(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    for name in ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTHONDONTWRITEBYTECODE"):  # others load for seconds in each worker
        monkeypatch.setenv(name, "1")
    pytester.makepyfile(test_users=HEAD + PASSING + FAILING + NOISY)
    plugins = "-p", "xdist", "-p", "fastgc._pytest.plugin"
    result = pytester.runpytest_subprocess(*plugins, "-n2", "--fastgc-seed=random", "--fastgc-report=pages", *options)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.re_match_lines([r"3 checks: 1 pass, 1 fail, 1 undecided; .*"])
    assert len([*(pytester.path / "pages").iterdir()]) == 3


def test_loading_the_plugin_imports_neither_numpy_nor_numba() -> None:
    code = "import sys, fastgc._pytest.plugin; print([m for m in ('numpy', 'numba', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_plugin_is_loaded_by_its_entry_point() -> None:
    command = [sys.executable, "-m", "pytest", "--help", "-p", "no:cacheprovider"]
    shown = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    assert "--fastgc-report=DIR" in shown.stdout
