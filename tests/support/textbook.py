"""What the difference quotients of textbooks may be off by on any machine: of the sine at 1, of a sum of sigmoids."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
SLOPE = 0.5403023058681398
# Of the difference of two values: each below 1 and off by a unit in its last place, EPS / 2, at most; each at an
# argument that is rounded by EPS / 2, where the slope is 0.54.
ROUNDED = 1.6 * EPS
SPANS = {"forward": 1, "central": 2}  # of the two points, in steps


def truncation(stencil: str, h: Any) -> Any:
    """What exact quotients are off by, in closed form: about h sin(1) / 2 and h**2 cos(1) / 6."""
    flat = math.cos(1) * (1 - np.sin(h) / h)
    return flat if stencil == "central" else flat + math.sin(1) * 2 * np.sin(h / 2) ** 2 / h


def round_off(stencil: str, h: Any) -> Any:
    """What rounding adds to that, at most; a few EPS are those of the reference itself."""
    return ROUNDED / (SPANS[stencil] * h) + 4 * EPS


def assert_optimum(stencil: str, steps: Floats, errors: Floats) -> None:
    """Assert that the smallest error lies where truncation and round-off are alike, or, by luck, at a smaller step."""
    cut, rounded = truncation(stencil, steps), round_off(stencil, steps)
    best = int(np.argmin(errors))
    least = np.min(cut + rounded)
    assert errors[best] <= least < {"forward": 3e-8, "central": 4e-11}[stencil]
    assert steps[best] <= steps[cut - rounded <= least].max() < {"forward": 1e-7, "central": 3e-5}[stencil]
    assert steps[best] > steps[rounded > 1e4 * least].max()  # so much luck, 500 times, is out of the question


# The five-point quotient at h = 1e-4: values of weights 8 and 1, two of each, rounded as above, over 12 steps; and as
# much for the printed figure, which holds the round-off of the machine that it comes from.
FIVE_POINT = 2 * 9 * ROUNDED / (12 * 1e-4)

# The norm-wise error of five quotients of a sum of five sigmoids, h = 1e-5. In halves of EPS, a sigmoid is off by four
# (two of exp) and their sum, 2.7 at most, by four times 2.7: 16 EPS together. The truncation, h**2 / 6 of at most 1/8,
# is nothing beside that. The norm of the slopes is 0.43.
SIGMOIDS = math.sqrt(5) * 16 * EPS / 1e-5 / (2 * 0.43)
