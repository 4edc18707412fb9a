"""Vectors on both sides of a Jacobian, and how large an error of an entry their products cannot miss.

Let E be the error of the analytic Jacobian, fixed before the vectors are drawn. The forms v_b^T E u_a are known up to
an uncertainty c for k vectors u and l vectors v with weights of `fastgc._derivatives.random_weights`. Suppose that no
measured form exceeds c.

*Many inputs and outputs.* Let q_k(c, e) be the chance that k directions of uncertainty c miss an entry e of a gradient.
If |e_ij| > e, then |(v_b^T E)_j| <= y for all b with a chance of q_l(y / 2, e) at most. Otherwise some row v_b^T E has
an entry above y, which all u miss with a chance of q_k(c, y) at most. The sum of both bounds the chance of a miss; y is
chosen so that each is half of it.

*Few inputs.* As many vectors as inputs are the unit vectors, whose products are the columns of v_b^T E.

*Few outputs.* As many vectors V as outputs give the rows of E u by the inverse of V, whose norm multiplies c.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from fastgc._derivatives.random_weights import OF_ENTRY, UNIT, random_weights
from fastgc._parameters.arrays import Floats
from fastgc._parameters.streams import Purpose

AT_ONCE = 4  # vectors on each side: with four, c may be 1/4,600 of the error that must show; with three, 1/47,000
MISSED = 1e-6  # the chance of a miss, for which users of random checks were asked
_OFF_DIAGONAL = 0.25  # of few outputs: dense rows, so that what is not linear shows, and an inverse of norm 2 or 3
_SEED = 0  # the same in every run
_KEPT, _SHORT = 64, 1 << 10  # vectors that are kept, 4 MB in all at most: to draw them takes as long as several calls


@lru_cache(_KEPT)
def _drawn(purpose: Purpose, size: int, first: int, count: int) -> Floats:
    """Random vectors, read-only."""
    found = random_weights(_SEED, range(first, first + count), "", size, purpose) / UNIT
    found.flags.writeable = False
    return found


def _random(purpose: Purpose, size: int, numbers: range) -> Floats:
    """Random vectors, those of short ones from memory."""
    draw = _drawn if size <= _SHORT else _drawn.__wrapped__
    return draw(purpose, size, numbers.start, len(numbers))


def input_sides(size: int, numbers: range) -> Floats:
    """Vectors over the inputs, shape (k, size): the unit vectors where there are few inputs."""
    return np.eye(size) if size <= AT_ONCE else _random("directions", size, numbers)


def output_sides(size: int, numbers: range = range(AT_ONCE)) -> Floats:
    """Vectors over the outputs, shape (l, size), two at least."""
    if size > AT_ONCE:
        return _random("output weights", size, numbers)
    count = max(2, size)
    return np.eye(count, size) + _OFF_DIAGONAL * _random("output weights", size, range(count))


@cache
def largest_hidden(outputs: int, inputs: int, vectors: int) -> float:
    """The largest error of an entry that may be missed with a chance above `MISSED`, in units of c."""
    few_outputs, few_inputs = outputs <= AT_ONCE, inputs <= AT_ONCE
    factor = _inverse_norm(outputs) if few_outputs else 1.0
    if few_outputs:
        return factor * largest_hidden_in_row(inputs, vectors)
    if few_inputs:
        return OF_ENTRY.limit([1.0] * vectors, MISSED)
    across = OF_ENTRY.limit([1.0] * vectors, MISSED / 2)
    return OF_ENTRY.limit([across / 2] * vectors, MISSED / 2)


@cache
def largest_hidden_in_row(inputs: int, vectors: int) -> float:
    """The same where the products E u are known, output by output."""
    return 2.0 if inputs <= AT_ONCE else OF_ENTRY.limit([1.0] * vectors, MISSED)


def _inverse_norm(outputs: int) -> float:
    """By how much the largest row of V^-1 lengthens a vector."""
    return float(np.abs(np.linalg.pinv(output_sides(outputs))).sum(axis=1).max())
