"""What the central quotients of the bug hunt's net may be off by, in whatever order a machine adds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

import fastgc

Floats = NDArray[np.float64]
Tensors = dict[str, Floats]

LOSS = pytest.approx(1.2658570521180537, rel=1e-12)
STEP = 1e-5
EPS = float(np.finfo(np.float64).eps)

# What a value of the loss may be off by: each rounding on the way to it is by EPS / 2, at most, of what is rounded. For
# the mean sample these are 5 of sums of 2.6 (x @ W1 + b1, as far as W2 passes it on) and 11 of sums of 1.1 (hidden @ W2
# + b2), both in the score of the class and in those that it is compared with, so twice; and 10 of numbers below 1.5
# (exp, the sum of three, the ratio, log, the mean of five): 2 * (13 + 12) + 15 halves of EPS.
OFF = 33 * EPS

# The third derivative of log-sum-exp, when its argument moves by v, is the third central moment of v under the
# probabilities: for a v between 0 and 1 at most sqrt(3) / 18, that of two values with probabilities 1/2 +- sqrt(3) / 6.
THIRD = math.sqrt(3) / 18


def limits(params: Tensors, x: Floats, right: Tensors) -> Tensors:
    """For every entry, what its quotient with `STEP` may differ by from the slope.

    The truncation; two values of the loss off by `OFF`, over twice the step; and two displaced entries, rounded by
    EPS / 2 of the entry. The gradient's own round-off, some ten EPS, is nothing beside these. Units that never fire
    move nothing.
    """
    rounded = {name: np.abs(right[name] * params[name]) * EPS / (2 * STEP) for name in params}
    noise = {name: OFF / STEP * (right[name] != 0) for name in params}
    return {name: cut + noise[name] + rounded[name] for name, cut in _truncation(params, x).items()}


def _truncation(params: Tensors, x: Floats) -> Tensors:
    """``STEP**2 / 6`` times a bound of the third derivative; the nearest kink is far away."""
    hidden = x @ params["W1"] + params["b1"]
    assert np.abs(hidden).min() > 100 * STEP * np.abs(x).max()
    fires, apart = hidden > 0, np.ptp(params["W2"], axis=1)
    moved = {  # how far the scores of each sample move apart where an entry moves by 1
        "W1": np.abs(x)[:, :, None] * (fires * apart)[:, None, :],
        "b1": fires * apart,
        "W2": np.repeat((fires * hidden)[:, :, None], 3, axis=2),
        "b2": np.ones((len(x), 3)),
    }
    return {name: STEP**2 / 6 * THIRD * np.mean(each**3, axis=0) for name, each in moved.items()}


def assert_figures(report: fastgc.GradientReport, params: Tensors, x: Floats, right: Tensors) -> None:
    """Assert that quotients, and the errors of all that passes, are off by what `limits` allows.

    For W1, b1, W2 and b2 at most 4e-7, 2e-7, 2e-8 and 6e-9 of an entry; tutorials print 2e-9, 3e-9, 6e-10 and 4e-11.
    """
    for name, off in limits(params, x, right).items():
        tensor, slope = report.tensors[name], np.abs(right[name])
        numerical = np.array([entry.numerical for entry in tensor.entries]).reshape(tensor.shape)
        assert np.all(np.abs(numerical - right[name]) <= off), name
        largest = np.max(off / np.maximum(2 * slope - off, 1e-8))
        assert largest < 4e-7
        assert tensor.verdict == "fail" or tensor.max_relative_error <= largest, name


def assert_a_third(tensor: fastgc.TensorSummary) -> None:
    """Assert the error of a doubled gradient, |2a - n| / (|2a| + |n|): a third, but for 4/9 of what n is off by."""
    assert tensor.max_relative_error == pytest.approx(1 / 3, rel=1e-6)
