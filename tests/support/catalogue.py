"""Catalogues of gradient problems: correct but hard ones, and ones with a single planted mistake.

Everything is built on demand from a seed; the losses are deterministic and leave their arguments alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.optimize import rosen, rosen_der
from scipy.special import loggamma, ndtr, psi

from tests.support import models as m
from tests.support.models import Array, Model, Params

Change = Callable[[Params, Params, str], Array]


@dataclass(frozen=True)
class Problem:
    """A loss, its gradients by hand and the point at which the two are to be compared."""

    name: str
    loss: Callable[..., float]
    gradients: Callable[..., Params]
    params: Params
    args: tuple[Any, ...] = ()
    tags: frozenset[str] = frozenset()
    exact: Callable[..., Any] | None = None  # the loss without rounding or solver noise, where that differs
    previous: Params | None = None  # the parameters to which stale gradients belong


@dataclass(frozen=True)
class Wrong:
    """A problem whose gradients carry one mistake, next to the correct gradients."""

    name: str
    problem: Problem  # its gradients are the wrong ones
    correct: Callable[..., Params]
    kind: str
    tensors: tuple[str, ...]
    factor: float | None = None

    def named(self, tensor: str) -> str:
        """The kind of bug that a diagnosis should name in a tensor; "" where the kind is no pattern."""
        what = self.name.partition("/")[2]
        found = NAMED_IN.get((self.name, tensor)) or next((k for w, k in NAMED_AS.items() if what.startswith(w)), None)
        return NAMED.get(self.kind, "") if found is None else found


# What a diagnosis should name, by the kind of a mistake, by the beginning of its name, and in single tensors.
NAMED = {
    "sign": "sign", "factor": "factor", "transpose": "transpose", "permutation": "permutation", "zero": "zero",
    "broadcast": "broadcast", "sparse": "sparse", "swapped": "swapped", "precision": "scale_precision",
    "entry": "sparse", "missing_term": "missing_term", "extra_term": "missing_term",
    "stale": "stale", "log_parameter": "log_parameter", "symmetric": "symmetric", "affine": "affine",
    "clipped": "clipped",
}  # fmt: skip
NAMED_AS = {
    "absolute": "sign", "bias-mean": "factor", "bias-total": "broadcast", "bias-wrong-axis": "broadcast",
    "scores-unscaled": "factor", "pool-": "", "repeats-lost": "", "decoder-": "", "mask-missing": "",
    "adjoint-one-step": "", "curvature-diagonal": "", "determinant-missing": "", "chain-missing": "log_parameter",
}  # fmt: skip
NAMED_IN = {
    ("conv2d-maxpool-xent/pool-to-all", "b1"): "factor",  # each window of four sends its gradient to all
    ("lasso-at-zero-sign/entry100%-b", "b"): "factor",  # of a tensor of one entry
    # Of two classes, all gradients behind the last layer are multiples of one vector, whatever the samples.
    ("transformer-xent/last-sample-dropped", "bo"): "factor",
    ("transformer-xent/last-sample-dropped", "beta"): "factor",
    ("layernorm-gelu-xent/mean-term-missing", "b1"): "missing_term",  # sums to a constant, behind a layer normalisation
}


def problem(
    name: str, model: Model, params: Params, *args: Array, tags: str = "smooth", exact: Model | None = None
) -> Problem:
    """Split a model into its loss and its gradients."""
    precise = None if exact is None else partial(loss_of, exact)
    gradients = partial(gradients_of, model)
    return Problem(name, partial(loss_of, model), gradients, params, args, frozenset(tags.split()), precise)


def loss_of(model: Model, params: Params, *args: Array) -> Any:
    """Forward pass of a model."""
    return model(params, *args)[0]


def gradients_of(model: Model, params: Params, *args: Array) -> Params:
    """Forward and backward pass of a model."""
    return model(params, *args)[1]()


def draw(rng: np.random.Generator, **shapes: int | tuple[int, ...]) -> Params:
    """Draw normal parameters with standard deviation one half."""
    return {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}


@cache
def correct_problems(seed: int = 0) -> tuple[Problem, ...]:
    """Problems whose gradients are right."""
    groups = (
        perceptrons, deep_perceptrons, penalised_perceptrons, rectifier_kinks, normalised, recurrent,
        attentive, images, pooling_ties, regressions, robust_regressions, regression_kinks, optima,
        large_sums, likelihoods, latent_factors, edges, wide_ranges, terrains, differential_equations,
        inner_solvers, scikit_learn_networks, scikit_learn_regressions, statsmodels_regressions,
    )  # fmt: skip
    found = [each for k, group in enumerate(groups) for each in group(np.random.default_rng([seed, k]))]
    base = {each.name: each for each in found}
    transformations = rescaled, remeasured, shifted, single_precision, few_digits
    return *found, *(each for transform in transformations for each in transform(base))


@cache
def wrong_gradients(seed: int = 0) -> tuple[Wrong, ...]:
    """Correct problems with one mistake planted in the gradients of each."""
    base = {each.name: each for each in correct_problems(seed)}
    groups = (
        factors, reshuffled, exchanged, rounded_off, single_entries, displaced, slipped_activations,
        slipped_biases, slipped_penalties, slipped_jacobians, slipped_normalisation, slipped_time,
        slipped_gathering, slipped_solvers, missing_chain,
    )  # fmt: skip
    return tuple(each for group in groups for each in group(base))


# ------------------------------------------------------------------------------------------ networks


def perceptrons(rng: np.random.Generator) -> Iterator[Problem]:
    """One hidden layer under several activations and losses."""
    x, y, labels = rng.normal(size=(12, 4)), rng.normal(size=(12, 3)), rng.integers(3, size=12)
    params = draw(rng, W1=(4, 6), b1=6, W2=(6, 3), b2=3)
    table: tuple[tuple[str, m.Head, m.Layer, Array, str], ...] = (
        ("mlp-tanh-mse", m.squared_error, m.tanh, y, "smooth"),
        ("mlp-sigmoid-mse", m.squared_error, m.sigmoid, y, "smooth"),
        ("mlp-softplus-mse", m.squared_error, m.softplus, y, "smooth"),
        ("mlp-gelu-xent", m.cross_entropy, m.gelu, labels, "smooth"),
        ("mlp-tanh-naive-xent", m.naive_cross_entropy, m.tanh, labels, "smooth"),
        ("mlp-relu-xent", m.cross_entropy, m.relu, labels, "kink"),
        ("mlp-leaky-xent", m.cross_entropy, m.leaky_relu, labels, "kink"),
        ("mlp-tanh-mae", m.absolute_error, m.tanh, y, "kink"),
    )
    for name, head, activation, target, tags in table:
        yield problem(name, m.network(head, *m.mlp(activation)), params, x, target, tags=tags)
    brier = m.network(m.squared_error, *m.mlp(m.tanh), m.probabilities())
    yield problem("mlp-tanh-brier", brier, params, x, np.eye(3)[labels])
    columns = {name: np.asfortranarray(w) for name, w in params.items()}
    yield problem("mlp-tanh-fortran", m.network(m.squared_error, *m.mlp(m.tanh)), columns, x, y)
    steep = params | {"W1": 30 * params["W1"]}
    yield problem("mlp-sigmoid-saturated", m.network(m.squared_error, *m.mlp(m.sigmoid)), steep, x, y)


def deep_perceptrons(rng: np.random.Generator) -> Iterator[Problem]:
    """Deeper, square, wide and tied networks."""
    square = draw(rng, W1=(5, 5), b1=5, W2=(5, 5), b2=5, W3=(5, 5), b3=5)
    x, y = rng.normal(size=(2, 5, 5))
    yield problem("mlp-square-tanh", m.network(m.squared_error, *m.mlp(m.tanh, 3)), square, x, y)
    x, labels = rng.normal(size=(9, 5)), rng.integers(5, size=9)
    deep = m.network(m.cross_entropy, *m.mlp(m.relu, 3))
    yield problem("mlp-deep-relu", deep, square, x, labels, tags="kink")
    wide = draw(rng, W1=(30, 40), b1=40, W2=(40, 5), b2=5)
    x, labels = rng.normal(size=(8, 30)), rng.integers(5, size=8)
    yield problem("mlp-wide-tanh", m.network(m.cross_entropy, *m.mlp(m.tanh)), wide, x, labels)
    x = rng.normal(size=(10, 6))
    tied = m.network(m.squared_error, m.dense("W", "b"), m.tanh, m.transposed_dense("W", "c"))
    yield problem("autoencoder-tied", tied, draw(rng, W=(6, 4), b=4, c=6), x, x)


def penalised_perceptrons(rng: np.random.Generator) -> Iterator[Problem]:
    """Weight decay and absolute-value penalties away from zero."""
    x, y = rng.normal(size=(12, 4)), rng.normal(size=(12, 3))
    params = draw(rng, W1=(4, 6), b1=6, W2=(6, 3), b2=3)
    plain = m.network(m.squared_error, *m.mlp(m.tanh))
    yield problem("mlp-tanh-decay", m.penalised(plain, m.ridge(0.1)), params, x, y)
    yield problem("mlp-tanh-lasso", m.penalised(plain, m.lasso(0.1)), params, x, y, tags="kink")
    elastic = m.penalised(plain, m.ridge(0.1), m.lasso(0.05))
    yield problem("mlp-tanh-elastic", elastic, params, x, y, tags="kink")


def rectifier_kinks(rng: np.random.Generator) -> Iterator[Problem]:
    """Rectifiers exactly at, just above and far below their kink."""
    x, labels = rng.normal(size=(12, 4)), rng.integers(3, size=12)
    x[:2] = 0
    params = draw(rng, W1=(4, 6), b1=6, W2=(6, 3), b2=3)
    at_kink = params | {"b1": np.zeros(6)}
    for name, at_zero in ("0", 0.0), ("half", 0.5), ("1", 1.0):
        model = m.network(m.cross_entropy, *m.mlp(m.relu_with(at_zero)))
        yield problem(f"mlp-relu-at-kink-slope-{name}", model, at_kink, x, labels, tags="kink")
    model = m.network(m.cross_entropy, *m.mlp(m.relu))
    above = params | {"b1": np.full(6, 1e-9)}
    yield problem("mlp-relu-just-above-kink", model, above, x, labels, tags="kink")
    dead = params | {"b1": np.array([-50.0, -50, -50, 0.3, 0.2, 0.1])}
    yield problem("mlp-relu-dead-units", model, dead, x, labels, tags="kink zero")


def normalised(rng: np.random.Generator) -> Iterator[Problem]:
    """Batch and layer normalisation; a bias in front of batch normalisation has gradient zero."""
    x, y, labels = rng.normal(size=(10, 4)), rng.normal(size=(10, 3)), rng.integers(3, size=10)
    params = draw(rng, W1=(4, 6), b1=6, gamma=6, beta=6, W2=(6, 3), b2=3)
    batch, layer = normalised_layers(0, m.tanh), normalised_layers(-1, m.gelu)
    rectified = normalised_layers(0, m.relu)
    yield problem("batchnorm-tanh-mse", m.network(m.squared_error, *batch), params, x, y, tags="smooth zero")
    model = m.network(m.cross_entropy, *rectified)
    yield problem("batchnorm-relu-xent", model, params, x, labels, tags="kink zero")
    yield problem("layernorm-gelu-xent", m.network(m.cross_entropy, *layer), params, x, labels)


def normalised_layers(axis: int, activation: m.Layer, **terms: float) -> list[m.Layer]:
    """Build a hidden layer with normalisation in front of its activation."""
    return [m.dense("W1", "b1"), m.normalise(axis, **terms), activation, m.dense("W2", "b2")]


def recurrent(rng: np.random.Generator) -> Iterator[Problem]:
    """Back-propagation through time."""
    x, y = rng.normal(size=(6, 5, 3)), rng.normal(size=(5, 2))
    out = draw(rng, Wo=(4, 2), bo=2)
    elman = draw(rng, Wx=(3, 4), Wh=(4, 4), b=4) | out
    yield problem("rnn", sequence(m.rnn_cell), elman, x, y)
    yield problem("rnn-long", sequence(m.rnn_cell), elman, rng.normal(size=(25, 5, 3)), y)
    yield problem("gru", sequence(m.gru_cell), draw(rng, W=(3, 12), U=(4, 12), b=12) | out, x, y)
    lstm = draw(rng, W=(3, 16), U=(4, 16), b=16) | out
    yield problem("lstm", sequence(m.lstm_cell, state=8), lstm, x, y)


def sequence(cell: Any, state: int = 4, reach: int | None = None, lost: int = 0) -> Model:
    """Squared error of an affine map of the last of four outputs of a cell."""
    return m.network(m.squared_error, m.unrolled(cell, 4, state, reach, lost), m.dense("Wo", "bo"))


def attentive(rng: np.random.Generator) -> Iterator[Problem]:
    """Attention and look-up tables, of which some rows are never used."""
    x, y, labels = rng.normal(size=(4, 5, 4)), rng.normal(size=(4, 2)), rng.integers(2, size=4)
    params = draw(rng, Wq=(4, 4), Wk=(4, 4), Wv=(4, 4), Wo=(4, 2), bo=2)
    yield problem("attention", m.network(m.squared_error, *attention_layers()), params, x, y)
    block = params | draw(rng, gamma=4, beta=4)
    yield problem("transformer-xent", m.network(m.cross_entropy, *transformer_layers()), block, x, labels)
    ids = rng.integers(12, size=(10, 6))
    table = draw(rng, E=(20, 4), W=(4, 3), b=3)
    bag = m.network(m.cross_entropy, m.embedding("E"), m.dense("W", "b"))
    yield problem("embedding-bag", bag, table, ids, rng.integers(3, size=10), tags="smooth zero")
    pairs = rng.integers(9, size=(2, 40))
    words = draw(rng, inner=(12, 3), outer=(12, 3))
    yield problem("skip-gram", m.skip_gram, words, *pairs, rng.choice([-1.0, 1.0], 40), tags="smooth zero")


def attention_layers(**mistakes: Any) -> list[m.Layer]:
    """Attention, averaged over the positions, under an affine map."""
    return [m.attention(**mistakes), m.average, m.dense("Wo", "bo")]


def transformer_layers(**mistakes: Any) -> list[m.Layer]:
    """Residual attention and layer normalisation, averaged, under an affine map."""
    return [m.residual(m.attention(**mistakes)), m.normalise(-1), m.average, m.dense("Wo", "bo")]


def images(rng: np.random.Generator) -> Iterator[Problem]:
    """Convolutions over lines and images."""
    line, y = rng.normal(size=(6, 10, 2)), rng.normal(size=(6, 3))
    params = draw(rng, W1=(3, 2, 4), b1=4, W2=(4, 3), b2=3)
    conv1d = (m.convolution("W1", "b1", m.windows((10,), 3)), m.tanh, m.average, m.dense("W2", "b2"))
    yield problem("conv1d-tanh-mse", m.network(m.squared_error, *conv1d), params, line, y)
    image, labels = rng.normal(size=(4, 36, 1)), rng.integers(2, size=4)
    params = draw(rng, W1=(3, 3, 1, 3), b1=3, W2=(48, 2), b2=2)
    conv2d = m.convolution("W1", "b1", m.windows((6, 6), 3)), m.relu, m.flatten, m.dense("W2", "b2")
    yield problem("conv2d-relu-xent", m.network(m.cross_entropy, *conv2d), params, image, labels, tags="kink")
    params = draw(rng, W1=(3, 3, 1, 3), b1=3, W2=(12, 2), b2=2)
    yield problem("conv2d-maxpool-xent", pooled_image(m.cross_entropy), params, image, labels, tags="kink")


def pooled_image(head: m.Head, share: Callable[[Array], Array] = m.winner) -> Model:
    """Convolution of 6 x 6 images to 4 x 4, pooled to 2 x 2, under an affine map."""
    pool = m.max_pool(m.windows((4, 4), 2, 2), share)
    convolution = m.convolution("W1", "b1", m.windows((6, 6), 3))
    return m.network(head, convolution, pool, m.flatten, m.dense("W2", "b2"))


def pooling_ties(rng: np.random.Generator) -> Iterator[Problem]:
    """Windows whose largest value is taken more than once."""
    image = rng.integers(-3, 4, size=(4, 36, 1)).astype(float)
    # Outputs pushed the same way by every sample keep the kinks of all windows convex together.
    params = {"W1": np.zeros((3, 3, 1, 3)), "b1": 0.5 * rng.normal(size=3), "b2": np.zeros(2)}
    params["W2"] = rng.uniform(0.2, 1, size=(12, 2))
    y = np.full((4, 2), 9.0)
    for name, share in ("first", m.winner), ("shared", m.tied_winners):
        model = pooled_image(m.squared_error, share)
        yield problem(f"maxpool-ties-{name}", model, params, image, y, tags="kink")
    flat, params = np.ones((4, 36, 1)), params | draw(rng, W1=(3, 3, 1, 3))
    yield problem("maxpool-flat-image", pooled_image(m.squared_error), params, flat, y, tags="kink")


# --------------------------------------------------------------------------------------- regressions


def regressions(rng: np.random.Generator) -> Iterator[Problem]:
    """Generalised linear models."""
    x, params = rng.normal(size=(30, 9)), draw(rng, W=(9, 1), b=1)
    binary, counts = rng.integers(2, size=(30, 1)).astype(float), rng.poisson(2.0, size=(30, 1)).astype(float)
    real, positive = rng.normal(size=(30, 1)), rng.gamma(2.0, size=(30, 1))
    table = (
        ("logistic", m.logistic_loss, binary),
        ("poisson", m.poisson_loss, counts),
        ("gamma", m.gamma_loss, positive),
        ("least-squares", m.squared_error, real),
    )
    for name, head, y in table:
        yield problem(f"regression-{name}", linear(head), params, x, y)
    # Only differences of scores count, so that the intercept has gradient zero.
    yield problem("regression-cox", linear(m.cox), params, x, binary[:, 0], tags="smooth zero")
    logistic = m.penalised(linear(m.logistic_loss), m.lasso(0.1))
    yield problem("regression-logistic-lasso", logistic, params, x, binary, tags="kink")
    many = draw(rng, W=(9, 4), b=4)
    yield problem("regression-multinomial", linear(m.cross_entropy), many, x, rng.integers(4, size=30))


def linear(head: m.Head) -> Model:
    """Put a linear model under a head."""
    return m.network(head, m.dense("W", "b"))


def robust_regressions(rng: np.random.Generator) -> Iterator[Problem]:
    """Losses with breaks in the first or second derivative, all away from the point."""
    x, params, y = rng.normal(size=(30, 9)), draw(rng, W=(9, 1), b=1), 2 * rng.normal(size=(30, 1))
    table = (
        ("huber", m.huber_loss, y, "smooth"),
        ("cauchy", m.cauchy_loss, y, "smooth"),
        ("squared-hinge", m.squared_hinge, np.sign(y), "smooth"),
        ("hinge", m.hinge_loss, np.sign(y), "kink"),
        ("quantile", m.pinball(0.9), y, "kink"),
    )
    for name, head, target, tags in table:
        yield problem(f"regression-{name}", linear(head), params, x, target, tags=tags)


def regression_kinks(rng: np.random.Generator) -> Iterator[Problem]:
    """Residuals, margins and weights exactly at, or a hair from, a kink."""
    x, params, y = rng.normal(size=(30, 9)), draw(rng, W=(9, 1), b=1), rng.normal(size=(30, 1))
    met = y.copy()
    met[:5] = (x @ params["W"] + params["b"])[:5]
    yield problem("quantile-at-fit", linear(m.pinball(0.9, at_zero=-0.3)), params, x, met, tags="kink")
    yield problem("median-at-fit", linear(m.absolute_error), params, x, met, tags="kink")
    empty = x.copy()
    empty[:3] = 0
    margin, sides = params | {"b": np.ones(1)}, np.sign(y)
    sides[:3] = 1
    yield problem("hinge-at-margin", linear(m.hinge_loss), margin, empty, sides, tags="kink")
    sparse = params | {"W": np.where(np.arange(9) < 5, 0, params["W"].T).T}
    for name, at_zero in ("sign", 0.0), ("subgradient", 0.7):
        model = m.penalised(linear(m.squared_error), m.lasso(0.1, at_zero))
        yield problem(f"lasso-at-zero-{name}", model, sparse, x, y, tags="kink")
    tiny = params | {"W": sparse["W"] + np.array([1e-9, -1e-7, 3e-6, -1e-12, 1e-300, 0, 0, 0, 0])[:, None]}
    model = m.penalised(linear(m.squared_error), m.lasso(0.1))
    yield problem("lasso-near-zero", model, tiny, x, y, tags="kink")
    origin = params | {"W": np.zeros((9, 1))}
    grouped = m.penalised(linear(m.squared_error), m.group_lasso(5.0))
    yield problem("group-lasso-origin", grouped, origin, x, y, tags="kink")


def optima(rng: np.random.Generator) -> Iterator[Problem]:
    """Points where the gradient vanishes, exactly or up to rounding."""
    x, params = rng.normal(size=(30, 9)), draw(rng, W=(9, 1), b=1)
    exact = x @ params["W"] + params["b"]
    yield problem("least-squares-interpolated", linear(m.squared_error), params, x, exact, tags="smooth zero")
    y, design = exact + rng.normal(size=(30, 1)), np.hstack([x, np.ones((30, 1))])
    w = np.linalg.lstsq(design, y)[0]
    best = {"W": w[:-1], "b": w[-1]}
    yield problem("least-squares-optimum", linear(m.squared_error), best, x, y, tags="smooth zero")
    binary = (y > 0).astype(float)
    together = m.penalised(m.network(m.logistic_loss, no_bias), m.ridge(0.01))
    for name, steps in ("logistic-optimum", 30), ("logistic-near-optimum", 4):
        w = newton_logistic(design, binary, 0.01, steps)
        yield problem(name, together, {"W": w}, design, binary, tags="smooth zero")


def newton_logistic(x: Array, y: Array, decay: float, steps: int) -> Array:
    """Fit a logistic regression with weight decay by steps of Newton's method."""
    w = np.zeros((x.shape[1], 1))
    for _ in range(steps):
        p = m.logistic(x @ w)
        hessian = (x * p * (1 - p)).T @ x / len(x) + decay * np.eye(len(w))
        w -= np.linalg.solve(hessian, x.T @ (p - y) / len(x) + decay * w)
    return w


def no_bias(params: Params, x: Array) -> tuple[Array, m.Pull]:
    """Linear map; a constant feature can stand for the bias."""
    return x @ params["W"], lambda d: (d @ params["W"].T, {"W": x.T @ d})


def large_sums(rng: np.random.Generator) -> Iterator[Problem]:
    """Losses of a hundred thousand terms."""
    x, params = rng.normal(size=(100_000, 3)), draw(rng, W=(3, 1), b=1)
    counts = rng.poisson(1.0, size=(100_000, 1)).astype(float)
    yield problem("poisson-sum-1e5", linear(m.poisson_sum), params, x, counts)
    yield problem("cauchy-mean-1e5", linear(m.cauchy_loss), params, x, counts)


# -------------------------------------------------------------------------------------- probabilities


def likelihoods(rng: np.random.Generator) -> Iterator[Problem]:
    """Likelihoods with inner sums, determinants and special functions."""
    x, y = rng.normal(size=(15, 8)), rng.normal(size=15)
    hyper = draw(rng, log_lengths=8) | {"log_signal": np.array(0.2), "log_noise": np.array(-1.5)}
    hyper["log_lengths"] += 1
    yield problem("gaussian-process", m.gaussian_process(), hyper, x, y)
    mixture = draw(rng, logits=4, means=(4, 2), log_sd=(4, 2))
    yield problem("gaussian-mixture", m.gaussian_mixture, mixture, rng.normal(size=(25, 2)))
    chain = draw(rng, first=3, move=(3, 3), emit=(3, 5))
    yield problem("hidden-markov", m.hidden_markov, chain, rng.integers(5, size=9))
    shares = rng.dirichlet(np.ones(10), size=12)
    log_shares = np.log(shares).mean(axis=0)
    model = m.explicit(dirichlet, lambda a, s: psi(a) - psi(a.sum()) - s)
    small = {"p": np.geomspace(1e-6, 2, 10)}
    yield problem("dirichlet-small", model, small, log_shares, tags="smooth domain")


def dirichlet(a: Array, mean_log: Array) -> Any:
    """Mean negative log-likelihood of a Dirichlet distribution."""
    return loggamma(a).sum() - loggamma(a.sum()) - ((a - 1) * mean_log).sum()


def latent_factors(rng: np.random.Generator) -> Iterator[Problem]:
    """Matrices found from their products."""
    ratings, seen = rng.normal(size=(8, 6)), (rng.random((8, 6)) < 0.5).astype(float)
    seen[3] = 0
    factors = draw(rng, U=(8, 3), V=(6, 3))
    yield problem("matrix-factors", m.matrix_factors, factors, ratings, seen, tags="smooth zero")
    samples = rng.normal(size=(20, 5))
    yield problem("log-determinant", m.log_determinant, draw(rng, A=(5, 5)), samples.T @ samples / 20)


# ------------------------------------------------------------------------------------ formulas, ranges


def edges(rng: np.random.Generator) -> Iterator[Problem]:
    """Points a hair inside the domain of the loss, beyond which it is not a number."""
    small, weights = np.geomspace(1e-7, 1, 12), rng.uniform(1, 2, 12)
    x = rng.uniform(size=(20, 12)) * rng.integers(2, size=(20, 12)) + 1e-9
    y = rng.poisson(3.0, 20).astype(float)
    inside = rng.dirichlet(np.ones(12))
    inside[0] = 1e-6
    table: tuple[tuple[str, Any, Any, Array, tuple[Array, ...]], ...] = (
        ("log-edge", lambda p, w: w @ np.log(p), lambda p, w: w / p, small, (weights,)),
        ("sqrt-edge", lambda p, w: w @ np.sqrt(p), lambda p, w: 0.5 * w / np.sqrt(p), small, (weights,)),
        ("power-edge", lambda p, w: w @ p**1.5, lambda p, w: 1.5 * w * p**0.5, small, (weights,)),
        ("entropy-edge", lambda p: (p * np.log(p)).sum(), lambda p: np.log(p) + 1, small, ()),
        ("divergence-edge", divergence, lambda p, w: np.log(p / w) + 1, small, (weights,)),
        ("steep-power-edge", lambda p, w: w @ p**0.9, lambda p, w: 0.9 * w / p**0.1, small, (weights,)),
        ("bernoulli-edge", bernoulli, bernoulli_slope, small[:-1], (weights[:-1],)),
        ("poisson-identity-edge", poisson_identity, lambda p, x, y: x.T @ (1 - y / (x @ p)), small, (x, y)),
        ("simplex-barrier", simplex_barrier, simplex_barrier_slope, inside[:-1], (weights[:-1],)),
    )
    for name, value, slope, p, args in table:
        yield problem(name, m.explicit(value, slope), {"p": p}, *args, tags="smooth domain")


def divergence(p: Array, reference: Array) -> Any:
    """The relative entropy of two sets of shares."""
    return (p * np.log(p / reference)).sum()


def bernoulli(p: Array, share: Array) -> Any:
    """Likelihood of probabilities, half of them a hair below one."""
    q = np.where(np.arange(len(p)) % 2, 1 - p, p)
    return -(share * np.log(q) + (2 - share) * np.log(1 - q)).sum()


def bernoulli_slope(p: Array, share: Array) -> Array:
    """Differentiate the likelihood of probabilities."""
    flipped = np.arange(len(p)) % 2 == 1
    q = np.where(flipped, 1 - p, p)
    return np.where(flipped, -1, 1) * ((2 - share) / (1 - q) - share / q)


def poisson_identity(p: Array, x: Array, y: Array) -> Any:
    """Poisson likelihood whose rate is linear in the parameters."""
    rate = x @ p
    return (rate - y * np.log(rate)).sum()


def simplex_barrier(p: Array, cost: Array) -> Any:
    """Add a logarithmic barrier to a linear cost; the last coordinate is what the others leave."""
    return cost @ p - 1e-3 * (np.log(p).sum() + np.log(1 - p.sum()))


def simplex_barrier_slope(p: Array, cost: Array) -> Array:
    """Differentiate the cost with a barrier."""
    return cost - 1e-3 * (1 / p - 1 / (1 - p.sum()))


def wide_ranges(rng: np.random.Generator) -> Iterator[Problem]:
    """Gradients over fifteen orders of magnitude in one tensor, and lost digits in the loss."""
    sizes, p = np.geomspace(1e-12, 1e3, 16), rng.uniform(0.5, 1, 16)
    cosines = m.explicit(lambda p, c: c @ (1 - np.cos(p)), lambda p, c: c * np.sin(p))
    yield problem("spanning-cosines", cosines, {"p": p}, sizes, tags="smooth scale")
    exponents = m.explicit(lambda p: np.exp(p).sum(), np.exp)
    yield problem("spanning-exponents", exponents, {"p": np.log(sizes)}, tags="smooth scale")
    x, y = rng.normal(size=(30, 16)) * sizes, rng.integers(2, size=(30, 1)).astype(float)
    params = {"W": rng.normal(size=(16, 1)) / (1 + sizes[:, None]), "b": np.zeros(1)}
    yield problem("spanning-features", linear(m.logistic_loss), params, x, y, tags="smooth scale")
    far = {"p": 1e4 + rng.normal(size=12)}
    steady = m.explicit(lambda p: ((p - p.mean()) ** 2).mean(), variance_slope)
    cancelling = m.explicit(lambda p: (p * p).mean() - p.mean() ** 2, variance_slope)
    yield problem("variance-cancelling", cancelling, far, tags="smooth noise offset", exact=steady)


def variance_slope(p: Array) -> Array:
    """Differentiate the variance of the entries."""
    return 2 * (p - p.mean()) / len(p)


def terrains(rng: np.random.Generator) -> Iterator[Problem]:
    """Valleys, plateaus and fast oscillations."""
    valley = m.explicit(rosen, rosen_der)
    yield problem("rosenbrock", valley, {"p": rng.normal(size=12)})
    yield problem("rosenbrock-optimum", valley, {"p": np.ones(12)}, tags="smooth zero")
    quartic = m.explicit(lambda p: (p**4).sum(), lambda p: 4 * p**3)
    yield problem("quartic-flat", quartic, {"p": rng.uniform(1e-3, 1e-2, 12)}, tags="smooth scale")
    waves = m.explicit(lambda p: np.sin(1000 * p).sum(), lambda p: 1000 * np.cos(1000 * p))
    yield problem("fast-oscillation", waves, {"p": rng.normal(size=12)})
    steep = m.explicit(lambda p: np.exp(100 * p).sum(), lambda p: 100 * np.exp(100 * p))
    yield problem("steep-exponential", steep, {"p": rng.uniform(0, 0.2, 12)})


# ------------------------------------------------------------------------------------ inner iterations


def differential_equations(rng: np.random.Generator) -> Iterator[Problem]:
    """Adjoints of Runge-Kutta steps."""
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    params = draw(rng, W1=(3, 5), b1=5, W2=(5, 3), b2=3)
    yield problem("neural-ode", m.network(m.squared_error, neural_ode()), params, x, y)
    rates, start = rng.uniform(0.4, 1.2, size=(6, 4)), rng.uniform(0.5, 2, size=(6, 2))
    model = m.network(m.squared_error, m.rk4(m.predator_prey, 6, 0.3))
    yield problem("lotka-volterra", model, {"rates": rates}, start, rng.uniform(0.5, 2, size=(6, 2)))


def neural_ode(**mistakes: Any) -> m.Layer:
    """Four steps along the field of a small network."""
    return m.rk4(m.chain(*m.mlp(m.tanh)), 4, 0.25, **mistakes)


def inner_solvers(rng: np.random.Generator) -> Iterator[Problem]:
    """Stop iterations at a tolerance and differentiate by the implicit function theorem."""
    params = draw(rng, W=(5, 5), U=(3, 5), b=5)
    params["W"] /= 1.5 * np.linalg.norm(params["W"], 2)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 5))
    tight, loose = m.equilibrium(1e-15), m.equilibrium(1e-8)
    yield problem("equilibrium", loose, params, x, y, tags="smooth noise", exact=tight)
    data = rng.normal(size=(20, 12)), rng.normal(size=20), rng.normal(size=(15, 12)), rng.normal(size=15)
    tuned = m.tuned_ridge(m.conjugate_gradient(1e-8))
    exact = m.tuned_ridge(np.linalg.solve)
    yield problem("tuned-ridge", tuned, draw(rng, log_penalty=12), *data, tags="smooth noise", exact=exact)
    a, b = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5))
    cost = {"cost": rng.uniform(size=(4, 5))}
    yield problem("sinkhorn", m.sinkhorn(1e-8), cost, a, b, tags="smooth noise", exact=m.sinkhorn(1e-14))
    bracketed, solved = m.explicit(sum_of_halved, slope_of_roots), m.explicit(sum_of_roots, slope_of_roots)
    sums = {"p": rng.uniform(0.5, 2, 6)}
    yield problem("root-halvings", bracketed, sums, rng.uniform(1, 2, 6), tags="smooth noise", exact=solved)


def sum_of_halved(p: Array, weights: Array) -> Any:
    """Roots of y**3 + y = p by 24 halvings of [0, p]: smooth, with another slope, until the halvings change."""
    low, high = np.zeros_like(p), p
    for _ in range(24):
        middle = (low + high) / 2
        below = middle**3 + middle < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return weights @ (low + high) / 2


def sum_of_roots(p: Array, weights: Array) -> Any:
    """The same roots by Cardano's formula."""
    root = (p**2 / 4 + 1 / 27) ** 0.5
    return weights @ ((p / 2 + root) ** (1 / 3) - (root - p / 2) ** (1 / 3))


def slope_of_roots(p: Array, weights: Array) -> Array:
    """Differentiate the equation of the roots."""
    root = (p**2 / 4 + 1 / 27) ** 0.5
    y = (p / 2 + root) ** (1 / 3) - (root - p / 2) ** (1 / 3)
    return weights / (3 * y**2 + 1)


# ------------------------------------------------------------------------------------ other libraries


def standardised(name: str, every: int, features: int | None = None) -> tuple[Array, Array]:
    """Every so many rows of a data set of scikit-learn, its features standardised and its target."""
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    x, y = data.data[::every, :features], data.target[::every]
    return (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9), y


def packed(
    name: str, params: Params, loss: Callable[[Array], float], gradient: Callable[[Array], Array], tags: str
) -> Problem:
    """Make a problem of named tensors from functions of one flat vector."""
    cuts = np.cumsum([p.size for p in params.values()])[:-1]

    def flat(given: Params) -> Array:
        return np.concatenate([given[key].ravel() for key in params])

    def value(given: Params) -> float:
        return float(loss(flat(given)))

    def gradients(given: Params) -> Params:
        parts = np.split(gradient(flat(given)), cuts)
        return {key: part.reshape(params[key].shape) for key, part in zip(params, parts, strict=True)}

    return Problem(name, value, gradients, params, tags=frozenset(tags.split()))


def scikit_learn_networks(rng: np.random.Generator) -> Iterator[Problem]:
    """Train networks of scikit-learn for three steps and take their own back-propagation."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    iris, (x, y) = standardised("iris", 5), standardised("diabetes", 12)
    diabetes = x, (y - y.mean()) / y.std()
    for activation in "relu", "tanh", "logistic":
        tags = "thirdparty kink" if activation == "relu" else "thirdparty smooth"
        make = partial(MLPClassifier, hidden_layer_sizes=(5,), activation=activation)
        yield sklearn_mlp(f"sklearn-mlp-{activation}-iris", make, *iris, tags, rng)
        regress = partial(MLPRegressor, hidden_layer_sizes=(5, 4), activation=activation)
        yield sklearn_mlp(f"sklearn-mlp-{activation}-diabetes", regress, *diabetes, tags, rng)
    tags = "thirdparty smooth"
    deep = partial(MLPClassifier, hidden_layer_sizes=(5, 4), activation="tanh")
    yield sklearn_mlp("sklearn-mlp-tanh-cancer", deep, *standardised("breast_cancer", 12, 10), tags, rng)
    small = partial(MLPClassifier, hidden_layer_sizes=(6,), activation="logistic")
    yield sklearn_mlp("sklearn-mlp-logistic-digits", small, *standardised("digits", 60), tags, rng)


def sklearn_mlp(name: str, make: Any, x: Array, y: Array, tags: str, rng: np.random.Generator) -> Problem:
    """Make a network of scikit-learn a problem of its coefficients and intercepts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three iterations do not converge
        net = make(solver="lbfgs", alpha=0.5, max_iter=3, random_state=int(rng.integers(1000))).fit(x, y)
    encode = getattr(net, "_label_binarizer", None)
    target = y[:, None] if encode is None else encode.transform(y)
    params = {f"coefs{i}": w for i, w in enumerate(net.coefs_)}
    params |= {f"intercepts{i}": b for i, b in enumerate(net.intercepts_)}

    def evaluate(flat: Array) -> tuple[float, Array]:
        empty = [None] * len(net.coefs_)
        return net._loss_grad_lbfgs(flat, x, target, None, [x, *empty], list(empty), list(empty), list(empty))

    copied = {key: value.copy() for key, value in params.items()}
    return packed(name, copied, lambda flat: evaluate(flat)[0], lambda flat: evaluate(flat)[1], tags)


def scikit_learn_regressions(rng: np.random.Generator) -> Iterator[Problem]:
    """Take the losses behind scikit-learn's linear models."""
    from sklearn import _loss
    from sklearn.linear_model._huber import _huber_loss_and_gradient as huber
    from sklearn.linear_model._linear_loss import LinearModelLoss

    x, progress = standardised("diabetes", 5)
    table = (
        ("binomial", _loss.HalfBinomialLoss(), (31,), standardised("breast_cancer", 10)),
        ("multinomial", _loss.HalfMultinomialLoss(n_classes=3), (3, 5), standardised("iris", 3)),
        ("poisson", _loss.HalfPoissonLoss(), (11,), (x, progress // 25)),
    )
    for name, base, shape, (design, y) in table:
        given = {"X": design, "y": y.astype(float), "sample_weight": None, "l2_reg_strength": 0.1}
        model = LinearModelLoss(base_loss=base, fit_intercept=True)
        point = {"coef": np.asfortranarray(0.3 * rng.normal(size=shape))}
        value, slope = partial(model.loss, **given), partial(model.gradient, **given)
        linear_model = m.explicit(value, slope, "coef")
        yield problem(f"sklearn-linear-{name}", linear_model, point, tags="thirdparty smooth")
    target, weights = (progress - 150) / 70, np.ones(len(x))
    call = partial(huber, X=x, y=target, epsilon=1.35, alpha=0.1, sample_weight=weights)
    params = draw(rng, w=10, intercept=1) | {"scale": np.array([0.8])}
    yield packed("sklearn-huber", params, lambda w: call(w)[0], lambda w: call(w)[1], "thirdparty smooth")


def statsmodels_regressions(rng: np.random.Generator) -> Iterator[Problem]:
    """Likelihoods and scores of statsmodels."""
    from statsmodels.discrete import discrete_model

    x, binary = standardised("breast_cancer", 8, 10)
    z, progress = standardised("diabetes", 6)
    table = (
        ("Logit", x, binary, 11),
        ("Probit", x, binary, 11),
        ("Poisson", z, progress // 25, 11),
        ("NegativeBinomial", z, progress // 25, 12),
        ("GeneralizedPoisson", z, progress // 25, 12),
    )
    for name, design, y, size in table:
        model = getattr(discrete_model, name)(y, np.column_stack([np.ones(len(y)), design]))
        point = {"params": 0.1 * rng.normal(size=size) + 0.3 * (np.arange(size) > 10)}
        yield packed(f"statsmodels-{name.lower()}", point, *negative(model), "thirdparty smooth")


def negative(model: Any) -> tuple[Callable[[Array], float], Callable[[Array], Array]]:
    """Negative log-likelihood and negative score of a model of statsmodels."""
    return lambda params: -model.loglike(params), lambda params: -model.score(params)


# ------------------------------------------------------------------------------------ transformations


def rescaled(base: dict[str, Problem]) -> Iterator[Problem]:
    """Losses in other units."""
    items = (
        "mlp-tanh-mse:1e-8,1e8 mlp-relu-xent:1e-8 lstm:1e-8 regression-logistic:1e8 conv1d-tanh-mse:1e-5 "
        "lasso-at-zero-sign:1e6"
    )
    for given, powers in picked(base, items):
        yield from (scaled(given, each) for each in powers)


def remeasured(base: dict[str, Problem]) -> Iterator[Problem]:
    """Parameters in other units."""
    items = "mlp-tanh-mse:1e-6,1e6 mlp-relu-xent:1e-4 regression-logistic:1e-6,1e6 gaussian-mixture:1e4"
    for given, powers in picked(base, items):
        for each in powers:
            yield in_units(given, f"units{each}", dict.fromkeys(given.params, float(each)))
    yield in_units(base["mlp-gelu-xent"], "mixed-units", {"W1": 1e-6, "b1": 1e3, "W2": 1e6, "b2": 1e-3})


def shifted(base: dict[str, Problem]) -> Iterator[Problem]:
    """Losses far from zero."""
    items = "mlp-tanh-mse:1e6 regression-logistic:1e10 gru:1e6 mlp-relu-xent:1e3 gaussian-process:1e6"
    for given, powers in picked(base, items):
        yield from (offset(given, each) for each in powers)


def single_precision(base: dict[str, Problem]) -> Iterator[Problem]:
    """Losses, and some gradients, in single precision."""
    losses = (
        "mlp-tanh-mse mlp-gelu-xent mlp-relu-xent batchnorm-tanh-mse lstm attention conv2d-maxpool-xent "
        "regression-poisson regression-logistic gaussian-mixture poisson-sum-1e5 cauchy-mean-1e5"
    )
    both = "mlp-tanh-mse mlp-relu-xent gru regression-multinomial layernorm-gelu-xent"
    yield from (in_float32(given, gradients_too=False) for given, _ in picked(base, losses))
    yield from (in_float32(given, gradients_too=True) for given, _ in picked(base, both))


def few_digits(base: dict[str, Problem]) -> Iterator[Problem]:
    """Losses that were printed and read back."""
    for given, (digits,) in picked(base, "regression-least-squares:12 hidden-markov:10"):
        yield rounded(given, digits)


def picked(base: dict[str, Problem], items: str) -> Iterator[tuple[Problem, tuple[str, ...]]]:
    """Look up problems, each with the words after its colon, from items like problem:word,word."""
    for item in items.split():
        name, _, words = item.partition(":")
        yield base[name], tuple(words.split(",")) if words else ()


def scaled(given: Problem, factor: str) -> Problem:
    """Multiply the loss and its gradients by a constant."""

    def loss(params: Params, *args: Any) -> Any:
        return float(factor) * given.loss(params, *args)

    def gradients(params: Params, *args: Any) -> Params:
        return {name: float(factor) * g for name, g in given.gradients(params, *args).items()}

    name, tags = f"{given.name}-scale{factor}", given.tags | {"scale"}
    return replace(given, name=name, loss=loss, gradients=gradients, tags=tags)


def in_units(given: Problem, suffix: str, units: dict[str, float]) -> Problem:
    """Measure the parameters in other units."""

    def natural(params: Params) -> Params:
        return {name: p / units[name] for name, p in params.items()}

    def loss(params: Params, *args: Any) -> Any:
        return given.loss(natural(params), *args)

    def gradients(params: Params, *args: Any) -> Params:
        return {name: g / units[name] for name, g in given.gradients(natural(params), *args).items()}

    point = {name: p * units[name] for name, p in given.params.items()}
    name, tags = f"{given.name}-{suffix}", given.tags | {"scale"}
    return replace(given, name=name, loss=loss, gradients=gradients, params=point, tags=tags)


def offset(given: Problem, constant: str) -> Problem:
    """Add a constant to the loss."""

    def loss(params: Params, *args: Any) -> Any:
        return given.loss(params, *args) + float(constant)

    name, tags = f"{given.name}-offset{constant}", given.tags | {"offset"}
    return replace(given, name=name, loss=loss, tags=tags, exact=given.loss)


def rounded(given: Problem, digits: str) -> Problem:
    """Read the loss back from its decimal digits."""

    def loss(params: Params, *args: Any) -> float:
        return float(f"{given.loss(params, *args):.{digits}g}")

    name, tags = f"{given.name}-{digits}-digits", given.tags | {"noise"}
    return replace(given, name=name, loss=loss, tags=tags, exact=given.loss)


def single(value: Any) -> Any:
    """Double precision arrays in single precision, all else as it is."""
    return value.astype(np.float32) if getattr(value, "dtype", None) == np.float64 else value


def in_float32(given: Problem, gradients_too: bool) -> Problem:
    """Compute the loss, and the gradients if wanted, in single precision."""

    def in_single(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *args: function({k: single(p) for k, p in params.items()}, *map(single, args))

    def loss(params: Params, *args: Any) -> float:
        return float(in_single(given.loss)(params, *args))

    name = f"{given.name}-float32{'-gradients' if gradients_too else ''}"
    gradients = in_single(given.gradients) if gradients_too else given.gradients
    tags = given.tags | {"float32"}
    return replace(given, name=name, loss=loss, gradients=gradients, tags=tags, exact=given.loss)


# ------------------------------------------------------------------------------------------ mistakes


def targets(base: dict[str, Problem], items: str) -> Iterator[tuple[Problem, tuple[str, ...]]]:
    """Look up problems and tensors; no tensors means all of them."""
    for given, tensors in picked(base, items):
        yield given, tensors or tuple(given.params)


def mistaken(given: Problem, kind: str, what: str, tensors: tuple[str, ...], gradients: Any) -> Wrong:
    """Give a problem other gradients."""
    name = f"{given.name}/{what}"
    return Wrong(name, replace(given, name=name, gradients=gradients), given.gradients, kind, tensors)


def edited(given: Problem, kind: str, what: str, tensors: tuple[str, ...], change: Change) -> Wrong:
    """Replace the gradients of some tensors by change(gradients, params, name)."""

    def gradients(params: Params, *args: Any) -> Params:
        right = given.gradients(params, *args)
        return right | {name: np.array(change(right, params, name)) for name in tensors}

    where = "" if tensors == tuple(given.params) else f"-{'+'.join(tensors)}"
    return mistaken(given, kind, what + where, tensors, gradients)


def alone(change: Callable[[Array], Array]) -> Change:
    """Make a change that looks at nothing but the gradient itself."""
    return lambda gradients, _params, name: change(gradients[name])


def multiplied(given: Problem, kind: str, tensors: tuple[str, ...], factor: float) -> Wrong:
    """Multiply the gradients of some tensors."""
    wrong = edited(given, kind, f"times{factor:.4g}", tensors, alone(lambda g: factor * g))
    return replace(wrong, factor=factor)


def planted(given: Problem, kind: str, what: str, tensors: str, model: Model) -> Wrong:
    """Take the gradients of a model that has a mistake in one of its parts."""
    return mistaken(given, kind, what, tuple(tensors.split()), partial(gradients_of, model))


def confined(wrong: Wrong, *tensors: str) -> Wrong:
    """Keep a mistake to some tensors and all others right to the last bit."""

    def gradients(params: Params, *args: Any) -> Params:
        got = wrong.problem.gradients(params, *args)
        return wrong.correct(params, *args) | {name: got[name] for name in tensors}

    return replace(wrong, problem=replace(wrong.problem, gradients=gradients), tensors=tensors)


def factors(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Gradients times a constant: signs, forgotten halves, sums for means and the reverse."""
    table: tuple[tuple[str, float, str], ...] = (
        ("sign", -1.0, "mlp-tanh-mse mlp-relu-xent regression-logistic neural-ode sklearn-linear-binomial"),
        ("sign", -1.0, "mlp-tanh-mse:W1 mlp-relu-xent:b1 lstm:U attention:Wq gaussian-process:log_noise"),
        ("sign", -1.0, "conv2d-relu-xent:b2 mlp-tanh-mse-float32:W2 gru-offset1e6:U regression-cox:W"),
        ("factor", 2.0, "mlp-sigmoid-mse lotka-volterra mlp-tanh-mse-scale1e-8 log-edge statsmodels-logit"),
        ("factor", 2.0, "regression-least-squares:W gru:b skip-gram:outer mlp-relu-xent-float32:W1"),
        ("factor", 0.5, "regression-huber autoencoder-tied:W hidden-markov:move log-determinant sinkhorn"),
        ("factor", 0.5, "regression-logistic-units1e6:W poisson-sum-1e5-float32 sklearn-huber:scale"),
        ("factor", 30.0, "regression-poisson regression-quantile regression-gamma:b"),
        ("sign", -1.0, "root-halvings divergence-edge steep-power-edge"),
        ("factor", 2.0, "root-halvings divergence-edge steep-power-edge"),
        ("factor", 0.9, "root-halvings divergence-edge steep-power-edge"),
        ("factor", 1 / 30, "regression-cauchy regression-hinge:b regression-logistic-offset1e10"),
        ("factor", 12.0, "mlp-gelu-xent mlp-leaky-xent:b1 mlp-tanh-mse-units1e-6:W1"),
        ("factor", 1 / 12, "mlp-softplus-mse mlp-tanh-naive-xent:b2"),
        ("factor", 1.001, "mlp-tanh-mse lstm:W rosenbrock regression-multinomial:b gaussian-mixture:means"),
        ("factor", 1.001, "sqrt-edge sklearn-mlp-tanh-iris:coefs0 statsmodels-poisson"),
        ("factor", 1.001, "mlp-tanh-mse-scale1e8:b1"),
    )
    for kind, factor, items in table:
        for given, tensors in targets(base, items):
            yield multiplied(given, kind, tensors, factor)


def reshuffled(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Whole tensors transposed, permuted, shifted, zeroed or levelled."""
    table: tuple[tuple[str, Callable[[Array], Array], str], ...] = (
        ("transpose/transposed", np.transpose, "mlp-square-tanh:W2 rnn:Wh attention:Wv equilibrium:W"),
        ("transpose/transposed", np.transpose, "log-determinant:A hidden-markov:move"),
        ("permutation/reversed", lambda g: g[::-1], "mlp-relu-xent:W2 conv1d-tanh-mse:W1 tuned-ridge"),
        ("permutation/flipped", lambda g: g[::-1, ::-1], "conv2d-relu-xent:W1 conv2d-maxpool-xent:W1"),
        ("permutation/rolled", rolled, "embedding-bag:E gru:b sklearn-linear-binomial"),
        ("permutation/interleaved", interleaved, "lstm:b mlp-wide-tanh:W1 statsmodels-negativebinomial"),
        ("permutation/by-columns", by_columns, "sklearn-linear-multinomial mlp-tanh-fortran:W1"),
        ("zero/zeroed", np.zeros_like, "mlp-tanh-mse:b1 layernorm-gelu-xent:gamma transformer-xent:Wk"),
        ("zero/zeroed", np.zeros_like, "rnn:b matrix-factors:U mlp-gelu-xent-float32:b2 power-edge"),
        ("broadcast/rows", levelled(0), "mlp-sigmoid-mse:W1 gaussian-mixture:log_sd lotka-volterra"),
        ("broadcast/columns", levelled(-1), "mlp-deep-relu:W3 conv1d-tanh-mse:W2 skip-gram:inner"),
        ("sparse/last-row-zero", without_last_row, "mlp-tanh-mse:W2 regression-cox:W hidden-markov:emit"),
        ("sparse/last-column-zero", without_last, "mlp-gelu-xent:W1 attention:Wo neural-ode:W2 gru:U"),
        ("sparse/last-row-repeated", last_repeated, "matrix-factors:V conv2d-relu-xent:W2 entropy-edge"),
        ("sparse/first-row-zero", without_first, "embedding-bag:W sklearn-mlp-logistic-digits:coefs1"),
        ("sparse/absolute", np.abs, "regression-squared-hinge:W mlp-square-tanh:b3 layernorm-gelu-xent:beta"),
    )
    for mistake, change, items in table:
        kind, _, what = mistake.partition("/")
        for given, tensors in targets(base, items):
            yield edited(given, kind, what, tensors, alone(change))


def exchanged(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Two tensors of the same shape exchanged."""
    pairs = "mlp-square-tanh:W1,W2 attention:Wq,Wk skip-gram:inner,outer batchnorm-relu-xent:gamma,beta"
    for given, pair in targets(base, pairs):
        yield edited(given, "swapped", "swapped", pair, partial(other_of, pair))


def other_of(pair: tuple[str, ...], gradients: Params, _params: Params, name: str) -> Array:
    """Take the gradient of the other tensor of a pair."""
    return gradients[pair[1 - pair.index(name)]]


def rolled(g: Array) -> Array:
    """Every row one place too late."""
    return np.roll(g, 1, axis=0)


def interleaved(g: Array) -> Array:
    """Odd rows first, then even ones."""
    return np.concatenate([g[1::2], g[::2]])


def by_columns(g: Array) -> Array:
    """Entries read by columns and written by rows."""
    return g.ravel(order="F").reshape(g.shape)


def levelled(axis: int) -> Callable[[Array], Array]:
    """Every entry replaced by the mean along an axis."""
    return lambda g: np.broadcast_to(g.mean(axis=axis, keepdims=True), g.shape)


def without_last(g: Array) -> Array:
    """Miss the last column in a loop that ends too early."""
    return g * (np.arange(g.shape[-1]) < g.shape[-1] - 1)


def without_last_row(g: Array) -> Array:
    """Miss the last row in a loop that ends too early."""
    return without_last(g.T).T


def without_first(g: Array) -> Array:
    """Miss the first row in a loop that starts too late."""
    return np.concatenate([0 * g[:1], g[1:]])


def last_repeated(g: Array) -> Array:
    """Overwrite the last row by the one before it."""
    return np.concatenate([g[:-1], g[-2:-1]])


def rounded_off(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Gradients that went through half precision."""
    items = "mlp-tanh-mse mlp-wide-tanh:W1 lstm:U regression-logistic:W conv2d-relu-xent:W1 statsmodels-probit"
    for given, tensors in targets(base, items):
        half = alone(lambda g: g.astype(np.float16).astype(float))
        yield edited(given, "precision", "float16", tensors, half)


def single_entries(base: dict[str, Problem]) -> Iterator[Wrong]:
    """One entry of a tensor off by a share of itself."""
    shares = 1.0, 0.1, 0.01, 0.001
    table = (
        ("mlp-tanh-mse:W1 mlp-relu-xent:W2 lstm:U transformer-xent:Wv gaussian-process:log_lengths", shares),
        ("regression-logistic:W sklearn-mlp-tanh-iris:coefs0 hidden-markov:emit", shares),
        ("mlp-wide-tanh:W1 conv2d-maxpool-xent:W1 neural-ode:b1 statsmodels-logit", shares[:3]),
        ("mlp-tanh-mse-float32:W1 lstm-float32:W mlp-relu-xent-float32-gradients:b1", shares[:2]),
        ("gaussian-mixture-units1e4:means mlp-tanh-mse-scale1e-8:W2 simplex-barrier", shares[1:3]),
        ("lasso-at-zero-sign:b mlp-relu-at-kink-slope-half:W2 attention-float32:Wv", shares[:1]),
        ("poisson-sum-1e5:W", shares[:1]),
    )
    for items, errors in table:
        for given, tensors in targets(base, items):
            index = ordinary_entry(given.gradients(given.params, *given.args)[tensors[0]])
            for error in errors:
                change = alone(partial(with_entry, index=index, factor=1 + error))
                wrong = edited(given, "entry", f"entry{100 * error:g}%", tensors, change)
                yield replace(wrong, factor=1 + error)


def ordinary_entry(g: Array) -> int:
    """Position of an entry at the upper quartile of the magnitudes."""
    return int(np.argsort(np.abs(g), axis=None)[3 * g.size // 4])


def with_entry(g: Array, index: int, factor: float) -> Array:
    """Multiply one entry."""
    g = g.copy()
    g.flat[index] *= factor
    return g


def displaced(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Gradients at the parameters of one step before, or without the last sample."""
    steps = (
        "mlp-tanh-mse:0.03 gru:0.02 regression-poisson:0.01 gaussian-process:0.05 "
        "sklearn-mlp-logistic-iris:0.03 mlp-gelu-xent-float32:0.3 mlp-tanh-mse-offset1e6:0.1"
    )
    for given, (share,) in picked(base, steps):
        gradients = partial(stale, given, float(share))
        before = replace(given, previous=larger(given.params, float(share)))
        yield mistaken(before, "stale", f"stale{100 * float(share):g}%", tuple(given.params), gradients)
    sampled = (
        "mlp-tanh-mse mlp-relu-xent layernorm-gelu-xent conv1d-tanh-mse transformer-xent regression-logistic "
        "gaussian-mixture gaussian-process regression-multinomial-float32-gradients"
    )
    for given, tensors in targets(base, sampled):
        yield mistaken(given, "dropped_sample", "last-sample-dropped", tensors, partial(shortened, given))


def stale(given: Problem, share: float, params: Params, *args: Any) -> Params:
    """Gradients where every parameter was larger by a share of itself."""
    return given.gradients(larger(params, share), *args)


def larger(params: Params, share: float) -> Params:
    """Every parameter larger by a share of itself."""
    return {name: (1 + share) * p for name, p in params.items()}


def shortened(given: Problem, params: Params, *args: Any) -> Params:
    """Gradients of all samples but the last."""
    return given.gradients(params, *(a[:-1] for a in args))


def slipped_activations(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Activations with the derivative of something else."""
    hidden = "W1 b1"
    table: tuple[tuple[str, str, Callable[[Array], Array], Any], ...] = (
        ("mlp-tanh-mse", "tanh-not-squared", np.tanh, lambda z, a: 1 - a),
        ("mlp-tanh-mse", "tanh-of-output", np.tanh, lambda z, a: 1 - np.tanh(a) ** 2),
        ("mlp-tanh-mse", "tanh-as-sigmoid", np.tanh, lambda z, a: a * (1 - a)),
        ("mlp-sigmoid-mse", "sigmoid-plus", m.logistic, lambda z, a: a * (1 + a)),
        ("mlp-sigmoid-mse", "sigmoid-of-output", m.logistic, lambda z, a: m.logistic(a) * m.logistic(-a)),
        ("mlp-softplus-mse", "softplus-mirrored", m.log1pexp, lambda z, a: m.logistic(-z)),
        ("mlp-gelu-xent", "gelu-without-density", m.gelu_value, lambda z, a: ndtr(z)),
        ("mlp-gelu-xent", "gelu-as-logistic", m.gelu_value, lambda z, a: m.logistic(1.702 * z)),
        ("mlp-relu-xent", "relu-unmasked", m.ramp, lambda z, a: 1.0),
        ("mlp-relu-xent", "relu-mask-inverted", m.ramp, lambda z, a: z <= 0),
        ("mlp-leaky-xent", "leaky-as-relu", m.leaky_value, lambda z, a: z > 0),
        ("mlp-leaky-xent", "leaky-unmasked", m.leaky_value, lambda z, a: 1.0),
    )
    for name, what, value, slope in table:
        head = m.cross_entropy if name.endswith("xent") else m.squared_error
        model = m.network(head, *m.mlp(m.elementwise(value, slope)))
        yield planted(base[name], "activation", what, hidden, model)
    crossed = m.network(m.cross_entropy, *m.mlp(m.relu, 3), order=(0, 3, 2, 1, 4))
    yield planted(base["mlp-deep-relu"], "activation", "relu-masks-exchanged", "W1 b1 W2 b2", crossed)
    guided = m.network(m.cross_entropy, *m.mlp(masked_by_gradient))
    yield planted(base["mlp-relu-xent"], "activation", "relu-masks-the-gradient", hidden, guided)


def masked_by_gradient(_params: Params, z: Array) -> tuple[Array, m.Pull]:
    """Rectifier that masks by the sign of the incoming gradient instead of its input's."""
    return m.ramp(z), lambda d: (d * (d > 0), {})


def slipped_biases(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Biases that average, or sum over the wrong axis or over one row."""
    table: tuple[tuple[str, str, str, int, Callable[[Array], Array]], ...] = (
        ("mlp-tanh-mse", "bias-mean", "b1 b2", 2, lambda d: d.mean(axis=0)),
        ("mlp-square-tanh", "bias-mean", "b1 b2 b3", 3, lambda d: d.mean(axis=0)),
        ("mlp-square-tanh", "bias-wrong-axis", "b1 b2 b3", 3, lambda d: d.sum(axis=1)),
        ("mlp-square-tanh", "bias-total", "b1 b2 b3", 3, lambda d: np.full(5, d.sum())),
        ("mlp-sigmoid-mse", "bias-first-row", "b1 b2", 2, lambda d: d[0]),
    )
    for name, what, tensors, depth, bias in table:
        activation = m.sigmoid if "sigmoid" in name else m.tanh
        model = m.network(m.squared_error, *m.mlp(activation, depth, partial(m.dense, bias=bias)))
        yield planted(base[name], "bias", what, tensors, model)


def slipped_penalties(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Penalties missing, doubled, or put where they do not belong."""
    plain, logistic = m.network(m.squared_error, *m.mlp(m.tanh)), linear(m.logistic_loss)
    weights = "W1 W2"
    table: tuple[tuple[str, str, str, str, Model], ...] = (
        ("mlp-tanh-decay", "missing_term", "decay-missing", weights, plain),
        ("mlp-tanh-decay", "extra_term", "decay-doubled", weights, m.penalised(plain, m.ridge(0.2))),
        ("mlp-tanh-decay", "missing_term", "decay-as-lasso", weights, m.penalised(plain, m.lasso(0.1))),
        ("mlp-tanh-lasso", "missing_term", "lasso-missing", weights, plain),
        ("mlp-tanh-lasso", "extra_term", "lasso-without-sign", weights, m.penalised(plain, unsigned(0.1))),
        ("mlp-tanh-elastic", "missing_term", "lasso-missing", weights, m.penalised(plain, m.ridge(0.1))),
        ("mlp-tanh-elastic", "missing_term", "decay-missing", weights, m.penalised(plain, m.lasso(0.05))),
        ("regression-logistic-lasso", "missing_term", "lasso-missing", "W", logistic),
    )
    for name, kind, what, names, model in table:
        yield planted(base[name], kind, what, names, model)
    for given, tensors in targets(base, "mlp-tanh-decay:b1 mlp-tanh-mse:W1 embedding-bag:E"):
        yield edited(given, "extra_term", "decay-added", tensors, lambda g, p, t: g[t] + 0.1 * p[t])


def unsigned(strength: float) -> m.Penalty:
    """Penalise absolute values with a slope that forgot the sign."""
    return m.lasso(strength)[0], lambda w: np.full_like(w, strength)


def slipped_jacobians(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Softmax and attention with a part of their Jacobians missing."""
    brier = m.network(m.squared_error, *m.mlp(m.tanh), m.probabilities(m.diagonal_softmax_pull))
    yield planted(base["mlp-tanh-brier"], "softmax", "diagonal-only", "W1 b1 W2 b2", brier)
    networks: tuple[tuple[str, m.Head, Callable[..., list[m.Layer]]], ...] = (
        ("attention", m.squared_error, attention_layers),
        ("transformer-xent", m.cross_entropy, transformer_layers),
    )
    for name, head, layers in networks:
        diagonal = m.network(head, *layers(jacobian=m.diagonal_softmax_pull))
        yield planted(base[name], "softmax", "diagonal-only", "Wq Wk", diagonal)
        unscaled = m.network(head, *layers(scaled=False))
        yield planted(base[name], "missing_term", "scores-unscaled", "Wq Wk", unscaled)


def slipped_normalisation(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Normalisation as if the mean, the variance or both were constants."""
    networks: tuple[tuple[str, m.Head, int, m.Layer], ...] = (
        ("batchnorm-tanh-mse", m.squared_error, 0, m.tanh),
        ("batchnorm-relu-xent", m.cross_entropy, 0, m.relu),
        ("layernorm-gelu-xent", m.cross_entropy, -1, m.gelu),
    )
    for name, head, axis, activation in networks:
        for terms in ("mean",), ("variance",), ("mean", "variance"):
            missing = {f"{term}_term": 0.0 for term in terms}
            model = m.network(head, *normalised_layers(axis, activation, **missing))
            what = f"{'-and-'.join(terms)}-term-missing"
            wrong = planted(base[name], "normalisation", what, "W1 b1", model)
            # A bias in front of batch normalisation has gradient zero with or without the variance term.
            yield confined(wrong, "W1") if terms == ("variance",) and axis == 0 else wrong


def slipped_time(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Back-propagation through time that forgets a step or a path."""
    inner = "W U b"
    table: tuple[tuple[str, str, str, Model], ...] = (
        ("rnn", "last-step-only", "Wx Wh b", sequence(m.rnn_cell, reach=1)),
        ("rnn", "first-step-dropped", "Wx b", sequence(m.rnn_cell, reach=5)),
        ("rnn", "last-step-dropped", "Wx Wh b", sequence(m.rnn_cell, lost=1)),
        ("gru", "truncated", inner, sequence(m.gru_cell, reach=3)),
        ("gru", "carry-missing", inner, sequence(partial(m.gru_cell, carry=0.0))),
        ("gru", "last-step-dropped", inner, sequence(m.gru_cell, lost=1)),
        ("lstm", "memory-missing", inner, sequence(partial(m.lstm_cell, memory=0.0), 8)),
        ("lstm", "last-step-dropped", inner, sequence(m.lstm_cell, 8, lost=1)),
        ("lstm", "truncated", inner, sequence(m.lstm_cell, 8, reach=2)),
    )
    for name, what, tensors, model in table:
        yield planted(base[name], "time", what, tensors, model)


def slipped_gathering(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Gradients of gathered values that go back to the wrong places."""
    everyone = pooled_image(m.cross_entropy, np.ones_like)
    yield planted(base["conv2d-maxpool-xent"], "sparse", "pool-to-all", "W1 b1", everyone)
    averaged = pooled_image(m.cross_entropy, lambda seen: np.full_like(seen, 1 / seen.shape[2]))
    wrong = planted(base["conv2d-maxpool-xent"], "sparse", "pool-as-average", "W1 b1", averaged)
    # However a window divides its gradient, the bias receives all of it.
    yield confined(wrong, "W1")
    mirrored = pooled_image(m.cross_entropy, lambda seen: m.winner(seen)[:, :, ::-1])
    wrong = planted(base["conv2d-maxpool-xent"], "sparse", "pool-mirrored", "W1 b1", mirrored)
    yield confined(wrong, "W1")
    bag = m.network(m.cross_entropy, m.embedding("E", repeated=False), m.dense("W", "b"))
    yield planted(base["embedding-bag"], "sparse", "repeats-lost", "E", bag)
    for what, scale in ("decoder-missing", 0.0), ("decoder-doubled", 2.0):
        tied = m.network(m.squared_error, m.dense("W", "b"), m.tanh, m.transposed_dense("W", "c", scale))
        yield planted(base["autoencoder-tied"], "missing_term", what, "W", tied)
    yield planted(base["matrix-factors"], "missing_term", "mask-missing", "U V", unmasked_factors)


def unmasked_factors(params: Params, ratings: Array, seen: Array) -> tuple[Any, m.Back]:
    """Factorise as if every entry had been seen."""
    return m.matrix_factors(params, ratings, np.ones_like(seen))


def slipped_solvers(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Adjoints of inner iterations that stop short, and determinants left out."""
    everything = "W1 b1 W2 b2"
    for what, shares in ("stages-averaged", (0.25,) * 4), ("midpoint-stages", (0.0, 0.5, 0.5, 0.0)):
        model = m.network(m.squared_error, neural_ode(shares=shares))
        yield planted(base["neural-ode"], "time", what, everything, model)
    euler = m.network(m.squared_error, m.rk4(m.predator_prey, 6, 0.3, (1.0, 0.0, 0.0, 0.0)))
    yield planted(base["lotka-volterra"], "time", "euler-adjoint", "rates", euler)
    short = m.equilibrium(1e-8, adjoint_tolerance=math.inf)
    yield planted(base["equilibrium"], "missing_term", "adjoint-one-step", "W U b", short)
    diagonal = m.tuned_ridge(m.conjugate_gradient(1e-8), curvature=False)
    yield planted(base["tuned-ridge"], "missing_term", "curvature-diagonal", "log_penalty", diagonal)
    undetermined = m.gaussian_process(determinant=0.0)
    all_three = "log_lengths log_signal log_noise"
    yield planted(base["gaussian-process"], "missing_term", "determinant-missing", all_three, undetermined)


def missing_chain(base: dict[str, Problem]) -> Iterator[Wrong]:
    """Gradients by a quantity instead of its logarithm, or by the parameter before its unit."""
    for given, tensors in targets(base, "gaussian-process:log_lengths gaussian-mixture:log_sd tuned-ridge"):
        yield edited(given, "missing_term", "chain-missing", tensors, lambda g, p, t: g[t] / np.exp(p[t]))
    for given, tensors in targets(base, "mlp-tanh-mse-units1e-6 regression-logistic-units1e-6"):
        yield multiplied(given, "factor", tensors, 1e-6)
