"""The losses of networks.py for Numba."""

from __future__ import annotations

import math
from typing import Any

import networks
import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - the BLAS of jitted code: loaded, so that limits reach it


@numba.njit(nogil=True)
def network_loss(params: Any, x: Any, y: Any) -> float:
    """Mean cross-entropy of a two-layer network."""
    b1, b2 = params["b1"], params["b2"]
    hidden = np.dot(x, params["W1"])
    for i in range(hidden.shape[0]):
        for j in range(hidden.shape[1]):
            hidden[i, j] = max(0.0, hidden[i, j] + b1[j])
    scores = np.dot(hidden, params["W2"])
    total = 0.0
    for i in range(y.size):
        top, terms = -np.inf, 0.0
        for k in range(b2.size):
            scores[i, k] += b2[k]
            top = max(top, scores[i, k])
        for k in range(b2.size):
            terms += math.exp(scores[i, k] - top)
        total += math.log(terms) + top - scores[i, y[i]]
    return total / y.size


@numba.njit(nogil=True)
def regression_loss(params: Any, x: Any, sign: Any) -> float:
    z = np.dot(x, params["w"])
    total = 0.0
    for i in range(sign.size):
        u = -sign[i] * (z[i] + params["b"][0])
        total += max(u, 0.0) + math.log1p(math.exp(-abs(u)))
    return total / sign.size


@numba.njit(nogil=True)
def lookup_loss(params: Any, rows: Any, y: Any) -> float:
    table, weights = params["table"], params["weights"]
    total = 0.0
    for i in range(rows.size):
        value = -y[i]
        for k in range(weights.size):
            value += table[rows[i], k] * weights[k]
        total += value * value
    return total / rows.size


LOSSES = {
    networks.network_loss: network_loss,
    networks.regression_loss: regression_loss,
    networks.lookup_loss: lookup_loss,
}
