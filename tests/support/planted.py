"""Kinds of bugs planted in the gradients of the catalogue's models, and errors of no kind at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from tests.support.catalogue import Problem, Wrong, alone, correct_problems, edited, targets
from tests.support.models import Array, Params

DENSE = "mlp-tanh-mse:W1 gru:U regression-multinomial:W conv1d-tanh-mse:W1 mlp-wide-tanh:W1"
SQUARE = "mlp-square-tanh:W2 rnn:Wh attention:Wv equilibrium:W"
SMALL = "gaussian-mixture:log_sd lotka-volterra gaussian-process:log_noise"


def planted_kinds(seed: int = 0) -> list[Wrong]:
    """Correct problems with one kind of bug planted in one tensor of each."""
    base = {each.name: each for each in correct_problems(seed)}
    groups = parameter_factors, triangles, cut_off, in_places, related
    return [each for group in groups for each in group(base)]


def parameter_factors(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Derivatives by the logarithm of a parameter, or by what it is the logarithm of."""
    table: tuple[tuple[str, Callable[[Array, Array], Array]], ...] = (
        ("times-parameter", lambda g, p: p * g),
        ("over-parameter", lambda g, p: g / p),
        ("times-exp", lambda g, p: np.exp(p) * g),
        ("over-exp", lambda g, p: g / np.exp(p)),
    )
    for what, change in table:
        for given, tensors in targets(base, f"{DENSE} {SMALL}"):
            yield edited(given, "log_parameter", what, tensors, lambda g, p, t, change=change: change(g[t], p[t]))


def triangles(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Gradients by a symmetric matrix in another convention than the loss."""
    table: tuple[tuple[str, Callable[[Array], Array]], ...] = (
        ("off-diagonal-doubled", lambda g: g * (2 - np.eye(len(g)))),
        ("off-diagonal-halved", lambda g: g * (1 + np.eye(len(g))) / 2),
        ("lower-doubled", lambda g: g * (2 * np.tri(len(g)) - np.eye(len(g)))),
        ("upper-only", np.triu),
        ("mean-of-mirrored", lambda g: (g + g.T) / 2),
        ("sum-of-mirrored", lambda g: g + g.T - np.diag(np.diag(g))),
    )
    for what, change in table:
        for given, tensors in targets(base, SQUARE):
            yield edited(given, "symmetric", what, tensors, alone(change))


def cut_off(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Gradients clipped to a bound, or set to zero in some entries; nothing but round-off."""
    for given, tensors in targets(base, DENSE):
        yield edited(given, "clipped", "clipped", tensors, alone(partial(bounded, share=0.7)))
        yield edited(given, "clipped", "not-negative", tensors, alone(lambda g: np.maximum(g, 0)))
        yield edited(given, "clipped", "masked", tensors, lambda g, p, t: g[t] * (p[t] > 0))
        yield edited(given, "zero", "round-off", tensors, alone(lambda g: 1e-17 * np.abs(g).max() * np.sin(7 * g)))


def bounded(g: Array, share: float) -> Array:
    """Clip the largest magnitudes, so that this share stays as it is."""
    limit = np.quantile(np.abs(g), share)
    return np.clip(g, -limit, limit)


def in_places(base: dict[str, Problem]) -> Iterator[Wrong]:
    """A factor, or the wrong sign, in one row, one column or three entries."""
    for what, factor in (("sign", -1.0), ("doubled", 2.0), ("factor", 3.7)):
        for given, tensors in targets(base, DENSE):
            row, column, few = (partial(at, factor=factor, place=place) for place in ("row", "column", "few"))
            yield edited(given, "sparse", f"row-{what}", tensors, alone(row))
            yield edited(given, "sparse", f"column-{what}", tensors, alone(column))
            if given.params[tensors[0]].size < 100:  # in larger ones the samples see one of three entries
                yield edited(given, "sparse", f"entries-{what}", tensors, alone(few))


def at(g: Array, factor: float, place: str) -> Array:
    """Multiply the entries at a place."""
    g = g.copy()
    if place == "few":
        g.flat[np.argsort(np.abs(g), axis=None)[-3:]] *= factor
    else:
        g[(1,) if place == "row" else (..., 1)] *= factor
    return g


def related(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Gradients times a constant, plus a constant."""
    for given, tensors in targets(base, DENSE):
        yield edited(given, "affine", "affine", tensors, alone(lambda g: 1.5 * g - 0.3 * np.abs(g).mean()))


def random_errors(count: int, seed: int = 0) -> Iterator[tuple[Problem, float]]:
    """Right gradients with independent errors in all entries, and their size: 3e-5 to 1 of the entry or of the largest.

    The tensors have 2 to 40 entries, and one in four gradients is in float32. Data often have the lengths of a tensor.
    """
    rng = np.random.default_rng([seed, 77])
    for number in range(count):
        size, share = int(rng.integers(2, 41)), 10 ** rng.uniform(-4.5, 0)
        shapes = [(size,), *((d, size // d) for d in range(2, size) if size % d == 0)]
        p = rng.normal(size=shapes[rng.integers(len(shapes))])
        rows = int(rng.choice([size, p.shape[0], rng.integers(2, 41)]))
        x, y = rng.normal(size=(rows, size)), rng.normal(size=rows)
        right = slope({"w": p}, x, y)["w"]
        error = share * rng.normal(size=p.shape)
        wrong = right * (1 + error) if rng.random() < 0.5 else right + np.abs(right).max() * error
        wrong = wrong.astype(np.float32) if rng.random() < 0.25 else wrong
        yield Problem(f"random{number}", value, lambda *_, wrong=wrong: {"w": wrong}, {"w": p}, (x, y)), share


def value(params: Params, x: Array, y: Array) -> float:
    """A smooth robust regression."""
    return float(np.sum(np.log(np.cosh(x @ params["w"].ravel() - y))))


def slope(params: Params, x: Array, y: Array) -> Params:
    """Its gradient."""
    return {"w": (x.T @ np.tanh(x @ params["w"].ravel() - y)).reshape(params["w"].shape)}


def unstructured_names(count: int, check: Callable[[Problem], Any], seed: int = 0) -> list[str]:
    """What is named of random errors, though they have no pattern."""
    found = []
    for problem, share in random_errors(count, seed):
        diagnosis = check(problem).tensors["w"].diagnosis
        if diagnosis is not None and diagnosis.kind != "unstructured":
            found.append(
                f"{problem.name}: errors of {share:.0e} in shape {problem.params['w'].shape}: {diagnosis.message}"
            )
    return found
