"""The two demonstrations: the bug hunt with its figures, and the network on handwritten digits."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import fastgc
from fastgc._command import cli, demo
from tests.support.hunt import LOSS, assert_a_third, assert_figures


def hunt(gradients: Any, **options: Any) -> Any:
    problem = demo.bug_hunt()
    return fastgc.check_gradients(problem.loss, gradients, problem.params, args=problem.args, samples="all", **options)


# --- the bug hunt ---


def test_the_net_of_the_bug_hunt() -> None:
    problem = demo.bug_hunt()
    assert {name: p.shape for name, p in problem.params.items()} == {
        "W1": (4, 10),
        "b1": (10,),
        "W2": (10, 3),
        "b2": (3,),
    }
    np.random.seed(0)  # noqa: NPY002 - the hunt is defined by the legacy generator
    np.testing.assert_array_equal(problem.params["W1"], 0.1 * np.random.randn(4, 10))  # noqa: NPY002
    np.testing.assert_array_equal(problem.params["W2"], 0.1 * np.random.randn(10, 3))  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(problem.args[0], 10 * np.random.randn(5, 4))  # noqa: NPY002
    assert problem.loss(problem.params, *problem.args) == LOSS


@pytest.mark.parametrize("in_place", [False, True])
def test_a_doubled_tensor_gives_the_printed_figures(in_place: bool) -> None:
    problem = demo.bug_hunt()
    report = hunt(demo.doubled(problem.gradients, "W1"), step=1e-5, in_place=in_place)
    assert_figures(report, problem.params, problem.args[0], problem.gradients(problem.params, *problem.args))
    assert_a_third(report.tensors["W1"])
    assert [name for name, tensor in report.tensors.items() if tensor.verdict != "pass"] == ["W1"]
    assert report.tensors["W1"].diagnosis.factor == pytest.approx(2, rel=1e-6)
    assert "factor of 2 " in str(report)
    assert all(len(tensor.entries) == tensor.size for tensor in report.tensors.values())


@pytest.mark.parametrize("step", [1e-5, None])
def test_the_right_gradient_passes(step: float | None) -> None:
    report = hunt(demo.bug_hunt().gradients, step=step)
    problem = demo.bug_hunt()
    assert report.passed
    if step:
        assert_figures(report, problem.params, problem.args[0], problem.gradients(problem.params, *problem.args))


def test_the_bug_hunt_through_a_model_object() -> None:
    """The loss ignores its argument and reads the arrays that are displaced."""
    problem = demo.bug_hunt()
    before = {name: p.tobytes() for name, p in problem.params.items()}
    right = problem.gradients(problem.params, *problem.args)
    report = fastgc.check_gradients(
        lambda _: problem.loss(problem.params, *problem.args),
        right | {"W1": 2 * right["W1"]},
        problem.params,
        samples="all",
        step=1e-5,
        in_place=True,
    )
    assert_figures(report, problem.params, problem.args[0], right)
    assert_a_third(report.tensors["W1"])
    assert {name: p.tobytes() for name, p in problem.params.items()} == before


# --- the digits ---


def test_the_images_are_those_of_scikit_learn() -> None:
    with resources.files("fastgc").joinpath("digits.npz").open("rb") as file, np.load(file) as data:
        images, labels = data["images"], data["labels"]
    whole = load_digits()
    assert len(images) >= 100
    np.testing.assert_array_equal(images, whole.data[: len(images)])
    np.testing.assert_array_equal(labels, whole.target[: len(images)])


def test_the_network_on_digits() -> None:
    problem = demo.digits_network()
    assert {name: p.shape for name, p in problem.params.items()} == {
        "W1": (64, 100), "b1": (100,), "W2": (100, 10), "b2": (10,)
    }  # fmt: skip
    images, labels = problem.args
    assert images.shape == (len(labels), 64)
    assert 0 <= images.min() < images.max() == 1
    decay = sum(0.5 * demo.DECAY * np.sum(problem.params[name] ** 2) for name in ("W1", "W2"))
    hidden = np.maximum(0, images @ problem.params["W1"] + problem.params["b1"])
    scores = hidden @ problem.params["W2"] + problem.params["b2"]
    cross_entropy = np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels])
    assert problem.loss(problem.params, *problem.args) == pytest.approx(cross_entropy + decay, rel=1e-12)


def test_back_propagation_of_the_digits_is_that_of_its_loss() -> None:
    """Two entries of each tensor: the loss is made for compilation, and slow without."""
    problem = demo.digits_network()
    options = {"args": problem.args, "samples": 2, "probes": 1, "crosscheck": False, "engine": "python"}
    assert fastgc.check_gradients(problem.loss, problem.gradients, problem.params, **options).passed


# --- the command ---


def test_the_command_finds_exactly_what_it_planted(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo"]) == 0
    captured = capsys.readouterr()
    text = captured.out
    assert re.findall(r"^(PASS|FAIL|UNDECIDED)", text, re.MULTILINE) == ["FAIL", "PASS", "PASS", "FAIL"]
    assert re.findall(r"^(\w+) .*  FAIL", text, re.MULTILINE) == ["W1", "W2"]
    assert "factor of 2 " in text
    assert "7,510 of 7,510 entries" in text
    assert text.rstrip().endswith("found exactly what was planted")
    assert re.search(r"(\d{4})/\1 ", captured.err)  # the total grows by entries in doubt


def test_the_command_fails_when_it_finds_anything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_digits", lambda: [True])
    monkeypatch.setattr(demo, "doubled", lambda gradients, name: gradients)
    assert cli.main(["demo"]) == 1
    assert "NOT what was planted" in capsys.readouterr().out
