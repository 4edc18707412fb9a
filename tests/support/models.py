"""Small models with hand-written back-propagation, put together from a few shared pieces.

A layer maps (params, input) to (output, pull), where pull maps the gradient by the output to the
gradient by the input and those by the parameters.  A head maps (output, target) to (loss, start),
where start() is the gradient by the output.  A model maps (params, *args) to (loss, back), where
back() is the gradient by every parameter.  Wherever the mathematics allows it the loss also accepts
complex parameters, so that a complex step can confirm the gradient; the others return a plain float.

The keyword arguments that no correct model passes are the mistakes people make.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky
from scipy.special import erf

Array = NDArray[Any]
Params = dict[str, Array]
Back = Callable[[], Params]
Pull = Callable[[Array], tuple[Array, Params]]
Layer = Callable[[Params, Array], tuple[Array, Pull]]
Head = Callable[[Array, Array], tuple[Any, Callable[[], Array]]]
Model = Callable[..., tuple[Any, Back]]
Penalty = tuple[Callable[[Array], Any], Callable[[Array], Array]]
Solver = Callable[[Array, Array], Array]

# ---------------------------------------------------------------------------------------- arithmetic


def magnitude(z: Array) -> Array:
    """Absolute value, analytic on either side of zero."""
    return np.where(z.real < 0, -z, z)


def ramp(z: Array) -> Array:
    """Positive part, analytic on either side of zero."""
    return np.where(z.real > 0, z, 0)


def logistic(z: Array) -> Array:
    """1 / (1 + exp(-z))."""
    return 1 / (1 + np.exp(-z))


def log1pexp(z: Array) -> Array:
    """log(1 + exp(z)) without overflow."""
    return ramp(z) + np.log1p(np.exp(-magnitude(z)))


def log_sum_exp(z: Array, axis: int = -1) -> Array:
    """log(sum(exp(z))) along an axis without overflow."""
    top = z.real.max(axis=axis, keepdims=True)
    return np.log(np.exp(z - top).sum(axis=axis)) + top.squeeze(axis)


def softmax(z: Array) -> Array:
    """Probabilities along the last axis."""
    e = np.exp(z - z.real.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_pull(p: Array, d: Array) -> Array:
    """Gradient by the scores from the gradient by the probabilities."""
    return p * (d - (d * p).sum(axis=-1, keepdims=True))


def diagonal_softmax_pull(p: Array, d: Array) -> Array:
    """Mistake: the softmax Jacobian without its off-diagonal part."""
    return p * (1 - p) * d


def rows(a: Array) -> Array:
    """All leading axes merged into one."""
    return a.reshape(-1, a.shape[-1])


def add_to(total: Params, new: Params) -> None:
    """Accumulate gradients by name."""
    for name, g in new.items():
        total[name] = total[name] + g if name in total else g


# -------------------------------------------------------------------------------------------- layers


def chain(*layers: Layer, order: Sequence[int] | None = None) -> Layer:
    """Layers one after another; `order` lets the way back visit the pulls in another order."""

    def layer(params: Params, x: Array) -> tuple[Array, Pull]:
        pulls: list[Pull] = []
        for each in layers:
            x, pull = each(params, x)
            pulls.append(pull)

        def back(d: Array) -> tuple[Array, Params]:
            grads: Params = {}
            for pull in reversed(pulls if order is None else [pulls[i] for i in order]):
                d, new = pull(d)
                add_to(grads, new)
            return d, grads

        return x, back

    return layer


def network(head: Head, *layers: Layer, order: Sequence[int] | None = None) -> Model:
    """Make a model of (params, x, y) from a chain of layers under a head."""
    body = chain(*layers, order=order)

    def model(params: Params, x: Array, y: Array) -> tuple[Any, Back]:
        out, pull = body(params, x)
        loss, start = head(out, y)
        return loss, lambda: pull(start())[1]

    return model


def column_sum(d: Array) -> Array:
    """Gradient of a bias that is added to every row."""
    return rows(d).sum(axis=0)


def dense(w: str, b: str, bias: Callable[[Array], Array] = column_sum) -> Layer:
    """Affine map of the last axis."""

    def layer(params: Params, x: Array) -> tuple[Array, Pull]:
        def pull(d: Array) -> tuple[Array, Params]:
            return d @ params[w].T, {w: rows(x).T @ rows(d), b: bias(d)}

        return x @ params[w] + params[b], pull

    return layer


def transposed_dense(w: str, b: str, scale: float = 1.0) -> Layer:
    """Affine map by the transpose of a weight that an earlier layer owns (tied weights)."""

    def layer(params: Params, x: Array) -> tuple[Array, Pull]:
        def pull(d: Array) -> tuple[Array, Params]:
            return d @ params[w], {w: scale * (d.T @ x), b: column_sum(d)}

        return x @ params[w].T + params[b], pull

    return layer


def elementwise(value: Callable[[Array], Array], slope: Callable[[Array, Array], Array]) -> Layer:
    """Make an activation a = value(z) with derivative slope(z, a)."""

    def layer(_params: Params, z: Array) -> tuple[Array, Pull]:
        a = value(z)
        return a, lambda d: (d * slope(z, a), {})

    return layer


def relu_with(at_zero: float) -> Layer:
    """Rectifier whose derivative at exactly zero is `at_zero`."""
    return elementwise(ramp, lambda z, a: np.heaviside(z, at_zero))


def leaky_value(z: Array) -> Array:
    """Rectifier that lets a tenth through below zero."""
    return np.where(z.real > 0, z, 0.1 * z)


def gelu_value(z: Array) -> Array:
    """Gaussian error linear unit."""
    return 0.5 * z * (1 + erf(z / math.sqrt(2)))


def gelu_slope(z: Array, _a: Array) -> Array:
    """Slope of the Gaussian error linear unit."""
    return 0.5 * (1 + erf(z / math.sqrt(2))) + z * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


relu = relu_with(0.0)
leaky_relu = elementwise(leaky_value, lambda z, a: np.where(z > 0, 1.0, 0.1))
tanh = elementwise(np.tanh, lambda z, a: 1 - a * a)
sigmoid = elementwise(logistic, lambda z, a: a * (1 - a))
softplus = elementwise(log1pexp, lambda z, a: logistic(z))
gelu = elementwise(gelu_value, gelu_slope)


def mlp(activation: Layer, depth: int = 2, affine: Callable[[str, str], Layer] = dense) -> list[Layer]:
    """Dense layers W1, b1 ... with an activation between them."""
    layers = [each for i in range(1, depth + 1) for each in (affine(f"W{i}", f"b{i}"), activation)]
    return layers[:-1]


def probabilities(jacobian: Callable[[Array, Array], Array] = softmax_pull) -> Layer:
    """Softmax of the last axis as a layer of its own."""

    def layer(_params: Params, z: Array) -> tuple[Array, Pull]:
        p = softmax(z)
        return p, lambda d: (jacobian(p, d), {})

    return layer


def normalise(axis: int, mean_term: float = 1.0, variance_term: float = 1.0) -> Layer:
    """Batch (axis 0) or layer (axis -1) normalisation with gain `gamma` and shift `beta`."""

    def layer(params: Params, x: Array) -> tuple[Array, Pull]:
        centred = x - x.mean(axis=axis, keepdims=True)
        inverse = 1 / np.sqrt((centred * centred).mean(axis=axis, keepdims=True) + 1e-5)
        unit = centred * inverse

        def pull(d: Array) -> tuple[Array, Params]:
            g = d * params["gamma"]
            through_mean = mean_term * g.mean(axis=axis, keepdims=True)
            through_variance = variance_term * unit * (g * unit).mean(axis=axis, keepdims=True)
            grads = {"gamma": column_sum(d * unit), "beta": column_sum(d)}
            return inverse * (g - through_mean - through_variance), grads

        return unit * params["gamma"] + params["beta"], pull

    return layer


def residual(inner: Layer) -> Layer:
    """Add a layer of the input to the input."""

    def layer(params: Params, x: Array) -> tuple[Array, Pull]:
        out, inner_pull = inner(params, x)

        def pull(d: Array) -> tuple[Array, Params]:
            dx, grads = inner_pull(d)
            return d + dx, grads

        return x + out, pull

    return layer


def attention(jacobian: Callable[[Array, Array], Array] = softmax_pull, scaled: bool = True) -> Layer:
    """Single-head self-attention over the middle axis, with weights Wq, Wk and Wv."""

    def layer(params: Params, x: Array) -> tuple[Array, Pull]:
        q, k, v = x @ params["Wq"], x @ params["Wk"], x @ params["Wv"]
        root = math.sqrt(q.shape[-1])
        p = softmax(q @ k.swapaxes(-1, -2) / root)

        def pull(d: Array) -> tuple[Array, Params]:
            s = jacobian(p, d @ v.swapaxes(-1, -2)) / (root if scaled else 1.0)
            back = {"Wq": s @ k, "Wk": s.swapaxes(-1, -2) @ q, "Wv": p.swapaxes(-1, -2) @ d}
            dx = sum(g @ params[name].T for name, g in back.items())
            return np.asarray(dx), {name: rows(x).T @ rows(g) for name, g in back.items()}

        return p @ v, pull

    return layer


def average(_params: Params, x: Array) -> tuple[Array, Pull]:
    """Mean over the middle axis."""
    return x.mean(axis=1), lambda d: (np.broadcast_to(d[:, None] / x.shape[1], x.shape), {})


def flatten(_params: Params, x: Array) -> tuple[Array, Pull]:
    """Everything but the sample axis merged."""
    return x.reshape(len(x), -1), lambda d: (d.reshape(x.shape), {})


def windows(shape: tuple[int, ...], size: int, stride: int = 1) -> Array:
    """Flat positions seen by each window that slides over a line or an image."""
    positions = np.arange(math.prod(shape)).reshape(shape)
    views = np.lib.stride_tricks.sliding_window_view(positions, (size,) * len(shape))
    return views[(slice(None, None, stride),) * len(shape)].reshape(-1, size ** len(shape))


def scatter(d: Array, like: Array, index: Array) -> Array:
    """Sum the gradients of gathered positions back to where they came from."""
    dx = np.zeros(like.shape, d.dtype)
    # No two windows share a position at the same place inside them, so that += misses nothing.
    for place, positions in enumerate(index.T):
        dx[:, positions] += d[:, :, place]
    return dx


def convolution(w: str, b: str, index: Array) -> Layer:
    """Convolution of (samples, positions, channels); the last axis of the kernel is the output."""

    def layer(params: Params, x: Array) -> tuple[Array, Pull]:
        shape = params[w].shape
        kernel = params[w].reshape(-1, shape[-1])
        patches = x[:, index].reshape(len(x), len(index), -1)

        def pull(d: Array) -> tuple[Array, Params]:
            spread = (d @ kernel.T).reshape(len(x), *index.shape, -1)
            grads = {w: (rows(patches).T @ rows(d)).reshape(shape), b: column_sum(d)}
            return scatter(spread, x, index), grads

        return patches @ kernel + params[b], pull

    return layer


def winner(seen: Array) -> Array:
    """Give the gradient of each window to its first largest position."""
    return np.arange(seen.shape[2])[:, None] == seen.argmax(axis=2)[:, :, None]


def tied_winners(seen: Array) -> Array:
    """Share the gradient of each window among all its largest positions."""
    largest = seen == seen.max(axis=2, keepdims=True)
    return largest / largest.sum(axis=2, keepdims=True)


def max_pool(index: Array, share: Callable[[Array], Array] = winner) -> Layer:
    """Largest value of each window of positions."""

    def layer(_params: Params, x: Array) -> tuple[Array, Pull]:
        seen = x[:, index]
        return seen.max(axis=2), lambda d: (scatter(share(seen) * d[:, :, None], x, index), {})

    return layer


def embedding(name: str, repeated: bool = True) -> Layer:
    """Mean of the looked-up rows of a table; `repeated` sums over repeated rows."""

    def layer(params: Params, ids: Array) -> tuple[Array, Pull]:
        def pull(d: Array) -> tuple[Array, Params]:
            g = np.zeros(params[name].shape, d.dtype)
            share = np.broadcast_to(d[:, None] / ids.shape[1], (*ids.shape, d.shape[1]))
            if repeated:
                np.add.at(g, ids, share)
            else:
                g[ids] += share
            return d, {name: g}

        return params[name][ids].mean(axis=1), pull

    return layer


def rk4(field: Layer, steps: int, h: float, shares: Sequence[float] = (1 / 6, 1 / 3, 1 / 3, 1 / 6)) -> Layer:
    """Runge-Kutta steps along a field and their discrete adjoint, whose stage weights are `shares`."""

    def advance(params: Params, y: Array) -> tuple[Array, Pull]:
        k1, pull1 = field(params, y)
        k2, pull2 = field(params, y + h / 2 * k1)
        k3, pull3 = field(params, y + h / 2 * k2)
        k4, pull4 = field(params, y + h * k3)
        stages = ((pull4, 0.0), (pull3, h), (pull2, h / 2), (pull1, h / 2))

        def pull(d: Array) -> tuple[Array, Params]:
            total, later = d, np.zeros_like(d)
            grads: Params = {}
            for (stage, reach), share in zip(stages, shares[::-1], strict=True):
                later, new = stage(h * share * d + reach * later)
                total = total + later
                add_to(grads, new)
            return total, grads

        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), pull

    return chain(*[advance] * steps)


def predator_prey(params: Params, y: Array) -> tuple[Array, Pull]:
    """Lotka-Volterra field with one row of four rates for each initial state."""
    birth, hunt, feed, death = params["rates"].T
    prey, hunters = y.T
    meet = prey * hunters

    def pull(d: Array) -> tuple[Array, Params]:
        d0, d1 = d.T
        by_prey = d0 * (birth - hunt * hunters) + d1 * feed * hunters
        by_hunters = -d0 * hunt * prey + d1 * (feed * prey - death)
        rates = np.column_stack([d0 * prey, -d0 * meet, d1 * meet, -d1 * hunters])
        return np.column_stack([by_prey, by_hunters]), {"rates": rates}

    return np.column_stack([birth * prey - hunt * meet, feed * meet - death * hunters]), pull


# ----------------------------------------------------------------------------------------- recurrence


def rnn_cell(params: Params, x: Array, h: Array) -> tuple[Array, Pull]:
    """Elman cell."""
    new = np.tanh(x @ params["Wx"] + h @ params["Wh"] + params["b"])

    def pull(d: Array) -> tuple[Array, Params]:
        g = d * (1 - new * new)
        return g @ params["Wh"].T, {"Wx": x.T @ g, "Wh": h.T @ g, "b": g.sum(axis=0)}

    return new, pull


def gru_cell(params: Params, x: Array, h: Array, carry: float = 1.0) -> tuple[Array, Pull]:
    """Gated recurrent unit; the gates are stored side by side as update, reset, candidate."""
    width = h.shape[1]
    gates_u, new_u = params["U"][:, : 2 * width], params["U"][:, 2 * width :]
    pre = x @ params["W"] + params["b"]
    gates = logistic(pre[:, : 2 * width] + h @ gates_u)
    keep, reset = gates[:, :width], gates[:, width:]
    new = np.tanh(pre[:, 2 * width :] + (reset * h) @ new_u)

    def pull(d: Array) -> tuple[Array, Params]:
        d_new = d * (1 - keep) * (1 - new * new)
        d_mixed = d_new @ new_u.T
        d_gates = np.hstack([d * (h - new), d_mixed * h]) * gates * (1 - gates)
        d_pre = np.hstack([d_gates, d_new])
        d_u = np.hstack([h.T @ d_gates, (reset * h).T @ d_new])
        d_h = carry * d * keep + d_mixed * reset + d_gates @ gates_u.T
        return d_h, {"W": x.T @ d_pre, "U": d_u, "b": d_pre.sum(axis=0)}

    return (1 - keep) * new + keep * h, pull


def lstm_cell(params: Params, x: Array, state: Array, memory: float = 1.0) -> tuple[Array, Pull]:
    """Long short-term memory; the state is [h, c], the gates are input, forget, output, candidate."""
    width = state.shape[1] // 2
    h, c = state[:, :width], state[:, width:]
    pre = x @ params["W"] + h @ params["U"] + params["b"]
    gates, new = logistic(pre[:, : 3 * width]), np.tanh(pre[:, 3 * width :])
    i, f, o = gates[:, :width], gates[:, width : 2 * width], gates[:, 2 * width :]
    cell = f * c + i * new
    out = np.tanh(cell)

    def pull(d: Array) -> tuple[Array, Params]:
        d_h, d_c = d[:, :width], d[:, width:]
        d_cell = d_c + d_h * o * (1 - out * out)
        d_gates = np.hstack([d_cell * new, d_cell * c, d_h * out]) * gates * (1 - gates)
        d_pre = np.hstack([d_gates, d_cell * i * (1 - new * new)])
        grads = {"W": x.T @ d_pre, "U": h.T @ d_pre, "b": d_pre.sum(axis=0)}
        return np.hstack([d_pre @ params["U"].T, memory * d_cell * f]), grads

    return np.hstack([o * out, cell]), pull


def unrolled(
    cell: Callable[[Params, Array, Array], tuple[Array, Pull]],
    width: int,
    state: int,
    reach: int | None = None,
    lost: int = 0,
) -> Layer:
    """Last output of a cell over (time, samples, features), by back-propagation through time.

    `reach` stops the way back after so many steps; `lost` forgets to add the last steps.
    """

    def layer(params: Params, x: Array) -> tuple[Array, Pull]:
        s = np.zeros((x.shape[1], state), x.dtype)
        pulls: list[Pull] = []
        for now in x:
            s, pull = cell(params, now, s)
            pulls.append(pull)

        def back(d: Array) -> tuple[Array, Params]:
            d = np.hstack([d, np.zeros((len(d), state - width), d.dtype)])
            grads: Params = {}
            for step, pull in enumerate(pulls[::-1][:reach]):
                d, new = pull(d)
                if step >= lost:
                    add_to(grads, new)
            return d, grads

        return s[:, :width], back

    return layer


# --------------------------------------------------------------------------------------------- heads


def pointwise(
    value: Callable[[Array, Array], Array], slope: Callable[[Array, Array], Array], mean: bool = True
) -> Head:
    """Sum a loss over all outputs and, by default, average it over the samples."""

    def head(z: Array, y: Array) -> tuple[Any, Callable[[], Array]]:
        n = len(y) if mean else 1
        return value(z, y).sum() / n, lambda: slope(z, y) / n

    return head


def huber(z: Array, y: Array) -> Array:
    """Quadratic near zero, linear beyond one."""
    r = magnitude(z - y)
    return np.where(r.real <= 1, 0.5 * r * r, r - 0.5)


def pinball(level: float, at_zero: float = 0.0) -> Head:
    """Quantile loss; `at_zero` picks the slope where an output meets its target."""

    def value(z: Array, y: Array) -> Array:
        return np.where((y - z).real > 0, level * (y - z), (level - 1) * (y - z))

    def slope(z: Array, y: Array) -> Array:
        return np.where(z == y, at_zero, np.where(z < y, -level, 1 - level))

    return pointwise(value, slope)


squared_error = pointwise(lambda z, y: 0.5 * (z - y) ** 2, lambda z, y: z - y)
absolute_error = pointwise(lambda z, y: magnitude(z - y), lambda z, y: np.sign(z - y))
logistic_loss = pointwise(lambda z, y: log1pexp(z) - y * z, lambda z, y: logistic(z) - y)
poisson_loss = pointwise(lambda z, y: np.exp(z) - y * z, lambda z, y: np.exp(z) - y)
poisson_sum = pointwise(lambda z, y: np.exp(z) - y * z, lambda z, y: np.exp(z) - y, mean=False)
gamma_loss = pointwise(lambda z, y: z + y * np.exp(-z), lambda z, y: 1 - y * np.exp(-z))
huber_loss = pointwise(huber, lambda z, y: np.clip(z - y, -1, 1))
cauchy_loss = pointwise(lambda z, y: np.log1p((z - y) ** 2), lambda z, y: 2 * (z - y) / (1 + (z - y) ** 2))
hinge_loss = pointwise(lambda z, y: ramp(1 - y * z), lambda z, y: -y * (y * z < 1))
squared_hinge = pointwise(lambda z, y: ramp(1 - y * z) ** 2, lambda z, y: -2 * y * ramp(1 - y * z))


def cross_entropy(z: Array, labels: Array) -> tuple[Any, Callable[[], Array]]:
    """Softmax cross-entropy, averaged over the samples."""
    n = len(labels)
    hits = (np.arange(n), labels)

    def start() -> Array:
        p = softmax(z)
        p[hits] -= 1
        return p / n

    return (log_sum_exp(z) - z[hits]).sum() / n, start


def naive_cross_entropy(z: Array, labels: Array) -> tuple[Any, Callable[[], Array]]:
    """Softmax cross-entropy as the logarithm of a plain quotient."""
    e = np.exp(z)
    p = e / e.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(labels)), labels]).mean()
    return loss, lambda: (p - np.eye(z.shape[1], dtype=p.dtype)[labels]) / len(labels)


def cox(z: Array, events: Array) -> tuple[Any, Callable[[], Array]]:
    """Cox partial likelihood of subjects sorted from the longest follow-up to the shortest."""
    scores = z[:, 0] - z.real.max()
    e = np.exp(scores)
    risk = np.cumsum(e)

    def start() -> Array:
        weight = np.cumsum((events / risk)[::-1])[::-1]
        return ((e * weight - events) / len(z))[:, None]

    return (events * (np.log(risk) - scores)).sum() / len(z), start


# ----------------------------------------------------------------------------------------- penalties


def ridge(strength: float) -> Penalty:
    """Weight decay."""
    return lambda w: 0.5 * strength * (w * w).sum(), lambda w: strength * w


def lasso(strength: float, at_zero: float = 0.0) -> Penalty:
    """Absolute values, with any slope of [-1, 1] at exactly zero."""
    return (
        lambda w: strength * magnitude(w).sum(),
        lambda w: strength * np.where(w == 0, at_zero, np.sign(w)),
    )


def group_lasso(strength: float) -> Penalty:
    """Euclidean length of a whole tensor, with slope zero at the origin."""
    return (
        lambda w: strength * np.sqrt((w * w).sum()),
        lambda w: strength * w / (np.linalg.norm(w) or 1.0),
    )


def penalised(model: Model, *penalties: Penalty) -> Model:
    """Add penalties on the weights, which are the tensors named W..., to a model."""

    def total(params: Params, *args: Array) -> tuple[Any, Back]:
        loss, back = model(params, *args)
        weights = {name: w for name, w in params.items() if name.startswith("W")}

        def with_penalties() -> Params:
            grads = back()
            for _, slope in penalties:
                add_to(grads, {name: slope(w) for name, w in weights.items()})
            return grads

        return loss + sum(value(w) for value, _ in penalties for w in weights.values()), with_penalties

    return total


# -------------------------------------------------------------------------------------- other models


def explicit(value: Callable[..., Any], gradient: Callable[..., Array], name: str = "p") -> Model:
    """Make a model of a single tensor from two formulas."""

    def model(params: Params, *args: Array) -> tuple[Any, Back]:
        return value(params[name], *args), lambda: {name: gradient(params[name], *args)}

    return model


def gaussian_process(determinant: float = 1.0) -> Model:
    """Negative log marginal likelihood by the logarithms of the length scales, signal and noise."""

    def model(params: Params, x: Array, y: Array) -> tuple[float, Back]:
        z = x / np.exp(params["log_lengths"])
        squares = (z[:, None] - z) ** 2
        signal = np.exp(2 * params["log_signal"] - 0.5 * squares.sum(axis=2))
        noise = np.exp(2 * params["log_noise"])
        factor = cholesky(signal + noise * np.eye(len(x)), lower=True)
        alpha = cho_solve((factor, True), y)

        def back() -> Params:
            inverse = cho_solve((factor, True), np.eye(len(x)))
            g = 0.5 * (determinant * inverse - np.outer(alpha, alpha))
            lengths = np.einsum("ij,ijk->k", g * signal, squares)
            by_signal, by_noise = 2 * (g * signal).sum(), 2 * noise * np.trace(g)
            grads = {"log_lengths": lengths, "log_signal": by_signal, "log_noise": by_noise}
            return {name: np.asarray(each) for name, each in grads.items()}

        return float(0.5 * y @ alpha + np.log(np.diag(factor)).sum()), back

    return model


def gaussian_mixture(params: Params, x: Array) -> tuple[Any, Back]:
    """Mean negative log-likelihood of a mixture of axis-aligned normal distributions."""
    scale = np.exp(-params["log_sd"])
    u = (x[:, None] - params["means"]) * scale
    weights = params["logits"] - log_sum_exp(params["logits"])
    each = weights - 0.5 * (u * u).sum(axis=2) - params["log_sd"].sum(axis=1)
    total = log_sum_exp(each)

    def back() -> Params:
        r = np.exp(each - total[:, None]) / len(x)
        means = -(r[:, :, None] * u * scale).sum(axis=0)
        log_sd = -(r[:, :, None] * (u * u - 1)).sum(axis=0)
        return {"logits": softmax(params["logits"]) - r.sum(axis=0), "means": means, "log_sd": log_sd}

    return -total.sum() / len(x), back


def hidden_markov(params: Params, symbols: Array) -> tuple[Any, Back]:
    """Negative log-likelihood of a sequence, by the logits of a hidden Markov model."""
    logs = {name: z - log_sum_exp(z)[..., None] for name, z in params.items()}
    first, move, emit = logs["first"], logs["move"], logs["emit"]
    alphas = [first + emit[:, symbols[0]]]
    for s in symbols[1:]:
        alphas.append(log_sum_exp(alphas[-1][:, None] + move, axis=0) + emit[:, s])

    def back() -> Params:
        counts = {name: np.zeros_like(z) for name, z in logs.items()}
        posterior = softmax(alphas[-1])
        for t in range(len(symbols) - 1, 0, -1):
            counts["emit"][:, symbols[t]] += posterior
            reached = alphas[t] - emit[:, symbols[t]]
            pairs = np.exp(alphas[t - 1][:, None] + move - reached) * posterior
            counts["move"] += pairs
            posterior = pairs.sum(axis=1)
        counts["emit"][:, symbols[0]] += posterior
        counts["first"] += posterior
        return {k: np.exp(logs[k]) * c.sum(axis=-1, keepdims=True) - c for k, c in counts.items()}

    return -log_sum_exp(alphas[-1]), back


def skip_gram(params: Params, centres: Array, contexts: Array, signs: Array) -> tuple[Any, Back]:
    """Word vectors with negative sampling; words outside the pairs get no gradient."""
    a, b = params["inner"][centres], params["outer"][contexts]
    z = -signs * (a * b).sum(axis=1)

    def back() -> Params:
        d = (-signs * logistic(z) / len(signs))[:, None]
        grads = {name: np.zeros_like(table) for name, table in params.items()}
        np.add.at(grads["inner"], centres, d * b)
        np.add.at(grads["outer"], contexts, d * a)
        return grads

    return log1pexp(z).sum() / len(signs), back


def matrix_factors(params: Params, ratings: Array, seen: Array) -> tuple[Any, Back]:
    """Squared error of a low-rank product over the entries that were seen."""
    r = seen * (params["U"] @ params["V"].T - ratings)
    return 0.5 * (r * r).sum(), lambda: {"U": r @ params["V"], "V": r.T @ params["U"]}


def log_determinant(params: Params, scatter_matrix: Array) -> tuple[float, Back]:
    """Gaussian negative log-likelihood by a square root of the precision matrix."""
    a = params["A"]
    precision = a.T @ a + np.eye(len(a))
    loss = 0.5 * (np.trace(scatter_matrix @ precision) - np.linalg.slogdet(precision)[1])
    return float(loss), lambda: {"A": a @ (scatter_matrix - np.linalg.inv(precision))}


# ------------------------------------------------------------------------------ models with a solver


def iterate(step: Callable[[Array], Array], value: Array, tolerance: float) -> Array:
    """Repeat a step until it moves nothing by more than the tolerance; give up after 500."""
    for _ in range(500):
        old, value = value, step(value)
        if np.abs(value - old).max() < tolerance:
            break
    return value


def equilibrium(tolerance: float, adjoint_tolerance: float = 1e-14) -> Model:
    """Squared error of the fixed point z = tanh(z W + x U + b), by the implicit function theorem."""

    def model(params: Params, x: Array, y: Array) -> tuple[Any, Back]:
        drive = x @ params["U"] + params["b"]
        z = iterate(lambda z: np.tanh(z @ params["W"] + drive), np.zeros_like(drive), tolerance)
        loss, start = squared_error(z, y)

        def back() -> Params:
            d, slope = start(), 1 - z * z
            g = slope * iterate(lambda v: d + (v * slope) @ params["W"].T, d, adjoint_tolerance)
            return {"W": z.T @ g, "U": x.T @ g, "b": column_sum(g)}

        return loss, back

    return model


def conjugate_gradient(tolerance: float) -> Solver:
    """Solver of a symmetric positive definite system that stops at a residual."""

    def solve(a: Array, b: Array) -> Array:
        x, r = np.zeros_like(b), b
        p, rr = b, b @ b
        for _ in range(10 * len(b)):
            if math.sqrt(rr) < tolerance:
                break
            ap = a @ p
            step = rr / (p @ ap)
            x, r = x + step * p, r - step * ap
            rr, old = r @ r, rr
            p = r + rr / old * p
        return x

    return solve


def tuned_ridge(solve: Solver, curvature: bool = True) -> Model:
    """Error of a ridge fit on other data, by the logarithm of each feature's penalty."""

    def model(params: Params, x: Array, y: Array, xv: Array, yv: Array) -> tuple[Any, Back]:
        strengths = np.exp(params["log_penalty"])
        normal = x.T @ x + np.diag(strengths)
        w = solve(normal, x.T @ y)
        loss, start = squared_error(xv @ w, yv)

        def back() -> Params:
            d = xv.T @ start()
            adjoint = solve(normal, d) if curvature else d / np.diag(normal)
            return {"log_penalty": -strengths * w * adjoint}

        return loss, back

    return model


def sinkhorn(tolerance: float, blur: float = 0.5) -> Model:
    """Entropic optimal transport between two histograms, by the costs: the gradient is the plan."""

    def model(params: Params, a: Array, b: Array) -> tuple[Any, Back]:
        kernel = np.exp(-params["cost"] / blur)
        v = iterate(lambda v: b / ((a / (kernel @ v)) @ kernel), np.ones_like(b), tolerance)
        u = a / (kernel @ v)
        plan = u[:, None] * kernel * v
        return blur * (a @ np.log(u) + b @ np.log(v) - plan.sum()), lambda: {"cost": plan}

    return model
