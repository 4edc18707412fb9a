"""What is seen of results without asking: their repr, their truth, and the first lines of a test that fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgc

FACTORS = {"right": 1.0, "wrong": 1.5, "shift": 1.0}


def gradient_report(size: int = 500, **options: Any) -> Any:
    """Three tensors: one right, one wrong by a factor, one wrong at its end."""
    params = {name: np.random.default_rng(i).uniform(1, 2, size) for i, name in enumerate(FACTORS)}
    wrong = {name: 2 * FACTORS[name] * p for name, p in params.items()}
    wrong["shift"][-1] += 1
    return fastgc.check_gradients(lambda p: float(sum(np.vdot(each, each) for each in p.values())), wrong, params,
                                  **options)  # fmt: skip


def jacobian_report(factor: float = 1.0, size: int = 100) -> Any:
    x = np.linspace(1, 2, size)
    return fastgc.check_jacobian(lambda x: x**2, np.diag(2 * factor * x), x)


RESULTS = {
    "a gradient": gradient_report,
    "a gradient, all entries": lambda: gradient_report(samples="all"),
    "a Jacobian": jacobian_report,
    "a wrong Jacobian": lambda: jacobian_report(1.5),
    "a sweep": lambda: fastgc.step_sweep(np.sin, np.cos, 1.0),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_the_repr_of_a_result_is_its_text(result: Any) -> None:
    found = result()
    assert repr(found) == str(found)
    assert len(repr(found)) < 2000
    assert "array(" not in repr(found)


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (lambda: gradient_report(tensors="right"), "pass"),
        (gradient_report, "fail"),
        (lambda: fastgc.check_gradients(lambda p: float(np.floor(20 * p)), np.array(20.0), np.array(1.0)), "undecided"),
        (jacobian_report, "pass"),
        (lambda: jacobian_report(1.5), "fail"),
        (lambda: fastgc.check_jacobian(lambda x: np.floor(20 * x), [[20.0]], [1.0]), "undecided"),
        (lambda: fastgc.check_hessian(None, lambda x: 2 * x, 2 * np.eye(2), np.ones(2)), "pass"),
        (lambda: fastgc.check_hessian(None, lambda x: 2 * x, 3 * np.eye(2), np.ones(2)), "fail"),
    ],
)
def test_a_report_is_true_where_it_passed_and_nowhere_else(report: Any, verdict: str) -> None:
    found = report()
    assert found.verdict == verdict
    assert bool(found) is found.passed is (verdict == "pass")


def parts(report: Any) -> list[Any]:
    """Everything inside a report that has a repr of its own."""
    found = []
    for tensor in getattr(report, "tensors", {"": report}).values():
        entries = [tensor.worst, *tensor.entries[:1], *tensor.wrong_entries[:3], tensor.entries, tensor.wrong_entries]
        found += [*entries, tensor.diagnosis]
        if tensor is not report:
            found += [
                tensor,
                tensor.probe,
                tensor.sensitivity,
                *([tensor.diagnosis.evidence] if tensor.diagnosis else []),
            ]
    return [each for each in [*found, getattr(report, "crosscheck", None)] if each is not None]


@pytest.mark.parametrize("options", [{}, {"samples": "all"}, {"probes": 50, "samples": 0}, {"probes": 0}], ids=str)
def test_the_repr_of_a_part_is_one_short_line(options: dict[str, Any]) -> None:
    reports = [gradient_report(**options), jacobian_report(1.5)]
    texts = [repr(part) for report in reports for part in parts(report)]
    assert len(texts) > 10
    assert [text for text in texts if "\n" in text or len(text) > 160 or "array(" in text] == []


def test_the_repr_of_parts_says_what_they_are() -> None:
    tensor = gradient_report().tensors["wrong"]
    assert repr(tensor).startswith(
        f"<TensorSummary fail: wrong (500,), {tensor.checked} of 500 checked, max rel err 2.00e-01, "
    )
    assert "factor of 1.5" in repr(tensor)
    assert repr(tensor.diagnosis).startswith("<Diagnosis factor: consistent with a constant factor of 1.5")
    entry = tensor.worst
    assert repr(entry).startswith(f"<Entry fail: wrong[{entry.index[0]}] analytic {entry.analytic:.6g} numerical ")
    assert repr(tensor.wrong_entries[:1]) == "<1 entry of 'wrong'>"
    assert repr(tensor.entries) == f"<{len(tensor.entries)} entries of 'wrong'>"
    assert repr(tensor.probe).startswith("<Probe of 3 directions: a difference seen, relative error ~ ")
    right = gradient_report().tensors["right"]
    assert repr(right.probe).startswith("<Probe of 3 directions: nothing seen, relative error < ")
    assert repr(right).endswith(">") and "pass" in repr(right)


@pytest.mark.parametrize("name", ["a\nb", "n" * 1000], ids=["two lines", "long"])
def test_no_name_makes_a_repr_long(name: str) -> None:
    params = {name: np.ones(3)}
    tensor = fastgc.check_gradients(lambda p: float(p[name] @ p[name]), {name: np.ones(3)}, params).tensors[name]
    for part in (tensor, tensor.worst, tensor.entries, tensor.diagnosis, fastgc.record(params)):
        assert "\n" not in repr(part) and len(repr(part)) <= 160


# --- a test that fails ---

FAILING = {
    "fastgc": (
        """
import numpy as np
import fastgc

params = {"W1": np.ones((3, 4)), "b1": np.arange(1.0, 5.0)}
loss = lambda p: float((p["W1"] ** 2).sum() + (p["b1"] ** 2).sum())

def test_right():
    assert fastgc.check_gradients(loss, lambda p: {"W1": 2 * p["W1"], "b1": 2 * p["b1"]}, params)

def test_wrong():
    fastgc.assert_gradients(loss, lambda p: {"W1": 2 * p["W1"], "b1": 6 * p["b1"]}, params)

def test_open():
    fastgc.assert_gradients(lambda p: float(np.floor(20 * p)), np.array(20.0), np.array(1.0))

def test_plain():
    assert fastgc.check_gradients(loss, {"W1": 2 * params["W1"], "b1": 6 * params["b1"]}, params)
""",
        {
            "test_wrong": "fastgc.GradientMismatch: FAIL  1 of 2 tensors disagrees: b1 (factor 3)   16 of 16 entries",
            "test_open": "fastgc.GradientMismatch: UNDECIDED  1 of 1 tensor cannot be decided: params   ",
            "test_plain": "AssertionError: assert FAIL  1 of 2 tensors disagrees: b1 (factor 3)   16 of 16 entries",
        },
    ),
    "torch": (
        """
import torch
import fastgc.torch

class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] * g

x = torch.ones(2, dtype=torch.float64, requires_grad=True)

def test_wrong():
    fastgc.torch.gradcheck(Square.apply, (x,))

def test_second():
    fastgc.torch.gradgradcheck(lambda x: Square.apply(x).prod() * x, (x,))
""",
        {
            "test_wrong": "torch.autograd.gradcheck.GradcheckError: Jacobian mismatch for output 0 with respect to ",
            "test_second": "torch.autograd.gradcheck.GradcheckError: ",
        },
    ),
    "jax": (
        """
import jax
import jax.numpy as jnp
import numpy as np
import fastgc.jax

@jax.custom_vjp
def f(x):
    return jnp.sum(x**2)

f.defvjp(lambda x: (f(x), x), lambda x, g: (3 * g * x,))

@jax.custom_jvp
def g(x):
    return jnp.sum(x**2)

g.defjvp(lambda x, t: (g(x[0]), jnp.abs(jnp.sum(2 * x[0] * t[0]))))

@jax.custom_vjp
def h(x):
    return jnp.sum(x**2)

h.defvjp(lambda x: (h(x) + 1, x), lambda x, g: (2 * g * x,))

def test_wrong():
    fastgc.jax.check_grads(f, (np.ones(3),), 1, ["rev"])

def test_linear():
    fastgc.jax.check_grads(g, (np.ones(3),), 1, ["fwd"])

def test_value():
    fastgc.jax.check_grads(h, (np.ones(3),), 1, ["rev"])
""",
        {
            "test_wrong": "AssertionError: VJP: args.0[",
            "test_linear": "AssertionError: JVP: not linear in its tangents",
            "test_value": "AssertionError: VJP: output 0 is ",
        },
    ),
}


OWN = """
import numpy as np
import fastgc

def loss(x):
    return 1 / len(x[5:])

def test_own():
    fastgc.assert_gradients(loss, np.ones(3), np.ones(3))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, list[str]]], str]:
    """What one run of pytest prints of all files: the lines of every failing test by package and name, the summary."""
    folder = tmp_path_factory.mktemp("told")
    for package, (source, _) in FAILING.items():
        (folder / f"test_{package}.py").write_text(f"import pytest\npytest.importorskip('{package}')\n{source}")
    (folder / "test_own.py").write_text(OWN)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "fastgc._pytest.plugin"]
    (folder / "empty.ini").write_text("[pytest]\n", encoding="utf-8")
    environment = os.environ | {
        "PYTHONPATH": str(Path(fastgc.__file__).parents[1]), "COLUMNS": "200", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }  # fmt: skip
    done = subprocess.run([*command, "-c", "empty.ini", "-q"], cwd=folder, env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    body, _, summary = done.stdout.partition("short test summary info")
    parts = re.split(r"^_+ (test_\w+) _+$", body, flags=re.MULTILINE)[1:]
    found: dict[str, dict[str, list[str]]] = {}
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        place = re.search(r"^test_(\w+)\.py:\d+: ", text, re.MULTILINE)
        assert place is not None, text
        found.setdefault(place[1], {})[name] = text.splitlines()
    return found, summary


@pytest.mark.parametrize("package", FAILING)
def test_a_failing_test_begins_with_the_report_and_shows_no_frame_of_fastgc(package: str, told: Any) -> None:
    pytest.importorskip(package)
    (_, expected), found, summary = FAILING[package], told[0][package], told[1]
    assert found.keys() == expected.keys()
    for name, message in expected.items():
        first = next(line for line in found[name] if line.startswith("E "))
        assert first.removeprefix("E").lstrip().startswith(message)
        assert sum(line.startswith(">") for line in found[name]) == 1  # the caller's line, and no other
        places = [place for line in found[name] if (place := re.match(r"(\S+\.py):\d+: ", line))]
        assert [place[1] for place in places] == [f"test_{package}.py"]
        assert f"{name} - {message.removeprefix('AssertionError: ')}"[:90] in summary.replace("AssertionError: ", "")


def test_an_exception_of_the_users_own_function_keeps_its_place(told: Any) -> None:
    lines = told[0]["own"]["test_own"]
    assert ">       return 1 / len(x[5:])" in [re.sub(r"^>\s+", ">       ", line) for line in lines]
    assert any(re.match(r"E\s+ZeroDivisionError", line) for line in lines)
