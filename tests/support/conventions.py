"""A second catalogue: points that optimisers and initialisations visit, where conventions and round-off count.

Kinks of both signs that coincide, slopes that vanish but for round-off, slopes that grow like a logarithm, entries of
unlike size, barriers, losses that are exactly zero. Every problem has its gradient by hand under the usual convention,
and wrong twins of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from scipy.special import softmax

from tests.support.catalogue import Problem

Array = np.ndarray
Pair = tuple[Callable[[Array], Any], Callable[[Array], Array]]
RNG = np.random.default_rng(7)


def step(z: Array) -> Array:
    """The derivative of a rectifier, 0 at 0 by convention."""
    return (z > 0).astype(float)


def relu(z: Array) -> Array:
    return np.maximum(z, 0)


def flat(name: str, pair: Pair, x: Any, tags: str) -> Problem:
    """A loss of one array."""
    loss, gradient = pair

    def value(p: dict[str, Array]) -> Any:
        found = loss(p["x"])
        return found if np.iscomplexobj(found) else float(found)

    def gradients(p: dict[str, Array]) -> dict[str, Array]:
        return {"x": np.asarray(gradient(p["x"]), float)}

    return Problem(name, value, gradients, {"x": np.array(x, float)}, tags=frozenset(tags.split()))


# --- kinks of both signs that coincide ---

C = RNG.normal(size=12)
IMAGE = RNG.normal(size=(9, 9))
ROWS = RNG.normal(size=(30, 5))


def two_rectifiers(up: float, down: float) -> Pair:
    return lambda w: np.sum(up * relu(w) + down * relu(-w)), lambda w: up * step(w) - down * step(-w)


def mixed_signs() -> Pair:
    return lambda w: C @ relu(w), lambda w: C * step(w)


def ties() -> Pair:
    """A maximum of equal entries, whose slope goes to the first one."""

    def gradient(w: Array) -> Array:
        found = np.zeros(w.size)
        found[np.argmax(w)] = 3.0
        return found

    return lambda w: 3.0 * w.max(), gradient


def hinge() -> Pair:
    y = np.sign(ROWS[:, 0])

    def gradient(w: Array) -> Array:
        return -(ROWS * y[:, None]).T @ step(1 - y * (ROWS @ w)) + 0.2 * w

    return lambda w: np.sum(relu(1 - y * (ROWS @ w))) + 0.1 * w @ w, gradient


def quantile() -> Pair:
    """A pinball loss at residuals of zero, with the slope of the upper side."""
    y = C.copy()

    def gradient(w: Array) -> Array:
        return np.where(y - w > 0, -0.8, 0.2)

    return lambda w: np.sum(np.where(y - w > 0, 0.8, -0.2) * (y - w)), gradient


def variation() -> Pair:
    def gradient(w: Array) -> Array:
        s = np.sign(np.diff(w))
        return np.concatenate([[0], s]) - np.concatenate([s, [0]])

    return lambda w: np.abs(np.diff(w)).sum(), gradient


def interpolated() -> Pair:
    """A row of pixels sampled at positions on the grid: the slope to the right, as most codes have it."""
    row = IMAGE[4]

    def loss(t: Array) -> float:
        low = np.floor(t).astype(int)
        f = t - low
        return float(np.sum(WEIGHTS * ((1 - f) * row[low] + f * row[low + 1])))

    def gradient(t: Array) -> Array:
        low = np.floor(t).astype(int)
        return WEIGHTS * (row[low + 1] - row[low])

    return loss, gradient


WEIGHTS = RNG.normal(size=6)


def warped() -> Pair:
    """Bilinear sampling at an offset of zero: an identity warp."""

    def parts(offset: Array) -> tuple[Array, Array]:
        at = np.array([2.0, 3.0])[:, None, None] + np.mgrid[0:3, 0:3] + offset.reshape(2, 3, 3)
        low = np.floor(at).astype(int)
        return low, at - low

    def corners(low: Array) -> list[Array]:
        i, j = low
        return [IMAGE[i, j], IMAGE[i, j + 1], IMAGE[i + 1, j], IMAGE[i + 1, j + 1]]

    def loss(offset: Array) -> float:
        low, (f, g) = parts(offset)
        a, b, c, d = corners(low)
        return float(np.sum(CELLS * ((1 - f) * ((1 - g) * a + g * b) + f * ((1 - g) * c + g * d))))

    def gradient(offset: Array) -> Array:
        low, (f, g) = parts(offset)
        a, b, c, d = corners(low)
        by_f, by_g = (1 - g) * (c - a) + g * (d - b), (1 - f) * (b - a) + f * (d - c)
        return np.stack([CELLS * by_f, CELLS * by_g]).reshape(-1)

    return loss, gradient


CELLS = RNG.normal(size=(3, 3))


def zero_branch() -> Pair:
    """A residual branch that starts at zero: x + V relu(W x) with W = 0."""
    v = RNG.normal(size=(5, 4))

    def loss(w: Array) -> float:
        return 0.5 * float(np.sum((ROWS + relu(ROWS @ w.reshape(5, 4)) @ v.T) ** 2))

    def gradient(w: Array) -> Array:
        z = ROWS @ w.reshape(5, 4)
        out = ROWS + relu(z) @ v.T
        return (ROWS.T @ ((out @ v) * step(z))).reshape(-1)

    return loss, gradient


def leaky(slope: float) -> Pair:
    """Leaky rectifiers behind zero biases and a zero input, by weights of both signs."""

    def gradient(b: Array) -> Array:
        return C * np.where(b > 0, 1.0, slope)

    return lambda b: C @ np.where(b > 0, b, slope * b), gradient


def clipped() -> Pair:
    """A hard tanh at its corner, next to one of opposite sign."""

    def gradient(w: Array) -> Array:
        return np.where(np.abs(w) < 1, 2.0, 0.0) - np.where(np.abs(w - 2) < 1, 3.0, 0.0)

    return lambda w: np.sum(2 * np.clip(w, -1, 1) - 3 * np.clip(w - 2, -1, 1)), gradient


def coinciding() -> Iterator[Problem]:
    """Kinks of both signs at the point, and gradients by the usual conventions."""
    zero = np.zeros(12)
    for up, down in ((2.0, -1.0), (1.0, 1.0), (-2.0, 3.0), (0.5, -0.4), (1e3, -1.0)):
        yield flat(f"rectifiers({up:g},{down:g})", two_rectifiers(up, down), zero[:5], "kink")
    yield flat("rectifiers-mixed", mixed_signs(), zero, "kink")
    yield flat("maximum-tie", ties(), np.ones(4), "kink")
    yield flat("hinge-zero", hinge(), np.zeros(5), "smooth")
    yield flat("quantile-zero", quantile(), C, "kink")
    yield flat("variation-constant", variation(), np.full(8, 0.3), "kink")
    yield flat("interpolation-on-grid", interpolated(), [1, 2, 3, 5, 6, 7], "kink")
    yield flat("identity-warp", warped(), np.zeros(18), "kink")
    yield flat("zero-branch", zero_branch(), np.zeros(20), "kink")
    for slope in (0.01, 0.2):
        yield flat(f"leaky({slope:g})", leaky(slope), zero, "kink")
    yield flat("hard-tanh-corner", clipped(), [1.0, 1.0, 0.5, 3.0], "kink")


# --- slopes that vanish but for round-off ---


def vanishing() -> Iterator[Problem]:
    """Losses that do not depend on some direction, or on anything."""

    def zeros(x: Array) -> Array:
        return np.zeros(x.size)

    x = RNG.normal(size=9)
    yield flat("softmax-sum", (lambda p: softmax(p).sum(), zeros), x, "still")
    yield flat("softmax-sum-large", (lambda p: 1e6 * softmax(p).sum(), zeros), 30 * x, "still")
    yield flat("sine-cosine", (lambda p: np.sum(np.sin(p) ** 2 + np.cos(p) ** 2), zeros), x, "still")
    yield flat("unit-length", (lambda p: np.linalg.norm(p / np.linalg.norm(p)), zeros), x, "still")
    yield flat("centred-sum", (lambda p: np.sum(p - p.mean()), zeros), x, "still")
    yield flat("standardised-sum", (lambda p: np.sum((p - p.mean()) / p.std()), zeros), x, "still")
    yield flat("standardised-squares", (lambda p: np.sum(((p - p.mean()) / p.std()) ** 2), zeros), x, "still")
    yield flat("exponents-cancel", (lambda p: np.sum(997.3 * np.exp(p) * np.exp(-p)), zeros), x, "still")
    yield flat("constant", (lambda p: 1.0, zeros), x, "still")
    yield flat("zero", (lambda p: 0.0, zeros), x, "still")

    def determinant(p: Array) -> float:
        return float(np.linalg.det(np.array([[np.cos(p[0]), -np.sin(p[0])], [np.sin(p[0]), np.cos(p[0])]])))

    yield flat("rotation", (determinant, zeros), [0.7], "still")
    keys = RNG.normal(size=(5, 9))

    def shifted(b: Array) -> float:
        """Attention with a bias of the keys, which shifts all scores of a query alike."""
        scores = ROWS[:5] @ RNG_W + (ROWS[:5] @ RNG_B @ b)[:, None]
        return float(np.sum(softmax(scores, axis=1) @ keys.T))

    yield flat("key-bias", (shifted, zeros), x[:4], "still")
    yield flat("softplus-flat", (lambda p: np.log1p(np.exp(p)).sum(), lambda p: 1 / (1 + np.exp(-p))),
               [-50.0, -60.0, -45.0], "still")  # fmt: skip
    yield flat("optimum", (lambda p: np.sum((p - x) ** 4), lambda p: 4 * (p - x) ** 3), x, "still")
    yield flat("logistic-saturated", (lambda p: np.sum(np.tanh(p)), lambda p: 1 / np.cosh(p) ** 2), [25.0, -30.0, 21.0],
               "still")  # fmt: skip


RNG_W, RNG_B = RNG.normal(size=(5, 9)), RNG.normal(size=(5, 4))


# --- edges, logarithms, unlike sizes ---


def edges() -> Iterator[Problem]:
    """Points beside the edge of the domain, and slopes that grow there."""
    tiny = [1e-20, 1e-60, 1e-150, 1e-300, 0.3]
    yield flat("entropy-tiny", (lambda p: -np.sum(p * np.log(p)), lambda p: -np.log(p) - 1), tiny, "edge")
    yield flat("entropy-small", (lambda p: -np.sum(p * np.log(p)), lambda p: -np.log(p) - 1), [1e-3, 1e-5, 0.2], "edge")
    yield flat("power-0.9-tiny", (lambda p: np.sum(p**0.9), lambda p: 0.9 * p**-0.1), tiny, "edge")
    yield flat("divergence-tiny", (lambda p: np.sum(p * np.log(p / 0.2)), lambda p: np.log(p / 0.2) + 1), tiny, "edge")
    yield flat("root-small", (lambda p: np.sum(np.sqrt(p)), lambda p: 0.5 / np.sqrt(p)), [1e-6, 1e-12, 0.5], "edge")
    for slack in (1e-3, 1e-5, 1e-8):
        yield flat(f"barrier({slack:g})", (lambda p: -np.sum(np.log(1 - p)), lambda p: 1 / (1 - p)),
                   [1 - slack, 0.5, -2.0], "edge")  # fmt: skip
    yield flat("inverse-barrier", (lambda p: np.sum(1e-4 / (1 - p)), lambda p: 1e-4 / (1 - p) ** 2), [0.999, 0.3],
               "edge")  # fmt: skip
    yield flat("logit-edge", (lambda p: np.sum(np.log(p / (1 - p))), lambda p: 1 / (p * (1 - p))),
               [1e-6, 0.5, 1 - 1e-6], "edge")  # fmt: skip
    yield flat("arcsine-edge", (lambda p: np.sum(np.arcsin(p)), lambda p: 1 / np.sqrt(1 - p**2)), [1 - 1e-6, 0.2],
               "edge")  # fmt: skip


def unlike() -> Iterator[Problem]:
    """Entries whose slopes span fifteen powers of ten."""
    w = 10.0 ** np.linspace(-12, 3, 16)
    yield flat("weights-spread", (lambda p: w @ (p**2), lambda p: 2 * w * p), RNG.uniform(0.5, 2, 16), "wide")
    yield flat("weights-spread-sines", (lambda p: w @ np.sin(p), lambda p: w * np.cos(p)), RNG.normal(size=16), "wide")
    yield flat("units-spread", (lambda p: np.sum((p / w) ** 2), lambda p: 2 * p / w**2), w * RNG.uniform(0.5, 2, 16),
               "wide")  # fmt: skip
    yield flat("exponentials", (lambda p: np.exp(p).sum(), np.exp), np.linspace(-25, 5, 16), "wide")
    yield flat("two-terms", (lambda p: 1e8 * p[0] ** 2 + np.sum(p[1:] ** 3), lambda p: np.concatenate(
        [[2e8 * p[0]], 3 * p[1:] ** 2])), RNG.uniform(0.5, 2, 6), "wide")  # fmt: skip
    units = 10.0 ** np.arange(-4, 6, 2)
    squares = (lambda p: 0.5 * np.sum((ROWS @ (p * units)) ** 2), lambda p: units * (ROWS.T @ (ROWS @ (p * units))))
    yield flat("likelihood-units", squares, RNG.normal(size=5), "wide")


# --- kinks near the point ---


def near() -> Iterator[Problem]:
    """Two kinks at distances from far to far below any step, on an offset."""
    for k, distance in enumerate((1e-2, 1e-4, 1e-6, 1e-9, 1e-12)):
        left, right = -distance * (1 + RNG.random(6)), distance * (1 + RNG.random(6))
        a, b = RNG.normal(size=(2, 6))

        def loss(p: Array, left: Array = left, right: Array = right, a: Array = a, b: Array = b) -> float:
            return float(np.sum(a * np.abs(p - 1 - left) + b * np.abs(p - 1 - right) + np.sin(p)))

        def gradient(p: Array, left: Array = left, right: Array = right, a: Array = a, b: Array = b) -> Array:
            return a * np.sign(p - 1 - left) + b * np.sign(p - 1 - right) + np.cos(p)

        yield flat(f"two-kinks({distance:g})", (loss, gradient), np.ones(6), "kink")
        yield flat(f"rectifier-near({distance:g})", (lambda p, d=distance: np.sum(C[:6] * relu(p - 1 + d) + p**2),
                                                    lambda p, d=distance: C[:6] * step(p - 1 + d) + 2 * p),
                   np.ones(6), "kink")  # fmt: skip
        del k


@cache
def right_problems() -> tuple[Problem, ...]:
    """All of them, the same whoever asks first: each is drawn from where the generator stands."""
    return tuple(each for group in (coinciding, vanishing, edges, unlike, near) for each in group())


# --- wrong twins ---

Change = Callable[[Array], Array]


def middle_entry(given: Problem, factor: float) -> Change:
    """An entry of median magnitude at the point, times a factor."""
    g = np.abs(given.gradients(given.params)["x"])
    k = int(np.argsort(g)[g.size // 2])
    return lambda found: np.where(np.arange(found.size) == k, factor * found, found)


def changes(given: Problem) -> dict[str, Change]:
    """What is a mistake at the point: at a kink only values outside both slopes, wherever they are asked for."""
    size = float(np.abs(given.gradients(given.params)["x"]).max())
    if "kink" in given.tags:
        far = 1e4 if given.name.startswith("rectifiers(1000") else 30.0
        return {"shift-up": lambda g: g + far, "shift-down": lambda g: g - far}
    if size < 1e-6:  # it vanishes: what is added shows
        return {"shift": lambda g: g + 0.1, "small-shift": lambda g: g - 1e-4}
    return {
        "factor": lambda g: 1.01 * g,
        "double": lambda g: 2.0 * g,
        "sign": lambda g: -g,
        "entry": middle_entry(given, 1.5),
        "shift": lambda g: g + 0.1 * size,
    }


def wrong_problems() -> dict[str, Problem]:
    """Every right problem with its mistakes, by the names of both."""
    return {
        f"{given.name}/{name}": _changed(given, change)
        for given in right_problems()
        for name, change in changes(given).items()
    }


def _changed(given: Problem, change: Change) -> Problem:
    def gradients(p: dict[str, Array]) -> dict[str, Array]:
        return {"x": change(given.gradients(p)["x"])}

    return Problem(given.name, given.loss, gradients, given.params, tags=given.tags)
