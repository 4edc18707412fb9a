"""Points that optimisers and initialisations visit: no right gradient fails there, and no wrong one passes."""

from __future__ import annotations

import numpy as np
import pytest

import fastgc
from tests.support.conventions import right_problems, wrong_problems

RIGHT = {problem.name: problem for problem in right_problems()}
WRONG = wrong_problems()

# Right problems that differences cannot decide, and why.
UNDECIDED = {
    # All slopes of the loss are lost in its round-off, far from the point too: nothing says how large they would be.
    "softmax-sum", "softmax-sum-large", "sine-cosine", "unit-length", "centred-sum", "standardised-sum",
    "standardised-squares", "exponents-cancel", "rotation", "key-bias", "logistic-saturated", "softplus-flat",
    # Every step from the point leads over the edge or along a slope that grows like a logarithm or a power.
    "entropy-tiny", "power-0.9-tiny", "divergence-tiny", "root-small",
    # The kinks are nearer than round-off lets two values be told apart.
    "two-kinks(1e-12)", "rectifier-near(1e-12)", "two-kinks(1e-09)", "rectifier-near(1e-09)",
}  # fmt: skip
# Their wrong twins, whose mistakes are hidden in the same way.
HIDDEN = {
    "entropy-tiny/entry",
    "power-0.9-tiny/entry",
    "divergence-tiny/entry",
    "root-small/entry",
}


def test_the_catalogue_is_as_large_as_it_says() -> None:
    assert len(RIGHT) >= 57 and len(WRONG) >= 150
    assert max(given.params["x"].size for given in RIGHT.values()) <= 32  # the default samples are all entries


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_gradient_does_not_fail(name: str) -> None:
    given = RIGHT[name]
    report = fastgc.check_gradients(given.loss, given.gradients, given.params, crosscheck=False)
    assert report.verdict == "pass" or (report.verdict == "undecided" and name in UNDECIDED), report


def every_second() -> list[str]:
    """Half of the wrong twins of each problem, of one the first, the third, ..., of the next the others."""
    twins: dict[str, list[str]] = {}
    for name in WRONG:
        twins.setdefault(name.partition("/")[0], []).append(name)
    return [name for k, names in enumerate(twins.values()) for name in names[k % 2 :: 2]]


@pytest.mark.parametrize("name", every_second())
def test_a_wrong_gradient_fails(name: str) -> None:
    given = WRONG[name]
    report = fastgc.check_gradients(given.loss, given.gradients, given.params, crosscheck=False)
    assert report.verdict == "fail" or (report.verdict == "undecided" and name in HIDDEN), report


@pytest.mark.parametrize("name", [name for name, each in RIGHT.items() if "edge" not in each.tags])
def test_the_gradient_is_that_of_the_loss_a_little_away(name: str) -> None:
    """By central differences at a point that meets no kink: the catalogue itself is right."""
    given = RIGHT[name]
    x = given.params["x"]
    x = x + 1e-2 * np.random.default_rng(0).uniform(0.5, 1, x.shape)
    h = 1e-6 * np.abs(x) if "wide" in given.tags else np.full(x.shape, 1e-6)
    expected = given.gradients({"x": x})["x"]
    for k in range(x.size):
        unit = np.where(np.arange(x.size) == k, h, 0.0)
        slope = (given.loss({"x": x + unit}) - given.loss({"x": x - unit})) / (2 * h[k])
        noise = 1e-15 * (abs(given.loss({"x": x})) + 1) / h[k]
        assert abs(slope - expected[k]) <= 1e-4 * abs(expected[k]) + 10 * noise + 1e-5


@pytest.mark.parametrize("name", [name for name, each in RIGHT.items() if "edge" in each.tags])
def test_the_gradient_at_an_edge_is_that_of_a_complex_step(name: str) -> None:
    given = RIGHT[name]
    x = given.params["x"]
    for k, expected in enumerate(given.gradients({"x": x})["x"]):
        h = abs(x[k]) * (1e-6 if abs(x[k]) < 1e-100 else 1e-20)  # no step below the normal numbers
        value = given.loss({"x": x + 1j * np.where(np.arange(x.size) == k, h, 0.0)})
        assert abs(value.imag / h - expected) <= 1e-9 * abs(expected)
