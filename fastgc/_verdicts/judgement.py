"""Analytic against numerical: error measures, and the verdict on an entry and on a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.estimates import Estimates
from fastgc._parameters.arrays import root_mean_square
from fastgc._words import Verdict

Floats = NDArray[np.float64]

PASS: Final = "pass"
FAIL: Final = "fail"
UNDECIDED: Final = "undecided"
DEFAULT_RTOL = {np.dtype(np.float16): 1e-2, np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-5}

_CERTAIN = 10.0  # uncertainties beyond the tolerance at which an entry is wrong, and not merely unlucky
# An uncertainty above this share of the values would let a wrong one pass too: 100 * rtol, within these bounds.
_USEFUL = (1e-2, 0.1)
_CHEAP = 1e-2  # the same for one quotient: what is less certain climbs a ladder first
_ATOL_SHARE = 1e-3  # the default atol in units of rtol times the tensor's scale
SCALE_FLOOR = 1e-6  # a scale is at least this share of the largest: of all tensors, or of an output's entries
_BLOCK = 1 << 13  # entries judged at a time: what is computed on the way stays in the cache

_REASONS = {
    "not finite": "the loss is not finite nearby",
    "quantised": "the loss is quantised: it moves in stairs",
    "jump": "the loss jumps, or its slope is infinite (or grows like a logarithm)",
}


def default_rtol(dtype: np.dtype[Any]) -> float:
    """The relative tolerance of derivatives of a dtype; what is no float counts as exact."""
    return DEFAULT_RTOL.get(dtype, DEFAULT_RTOL[np.dtype(np.float64)])


# --- error measures ---


# --- verdicts ---


@dataclass(frozen=True)
class Tolerances:
    """Allowed differences: ``atol + rtol * max(|analytic|, |numerical|)``; arrays of shape (tensors,)."""

    rtol: Floats
    atol: Floats | None  # None: 1e-3 * rtol * scale of the tensor
    accepted: Floats | None = None  # differences that the caller accepts however little is known; None: atol, if given

    @property
    def useful(self) -> Floats:
        """The relative uncertainty above which agreement shows nothing, shape (tensors,)."""
        return np.clip(100 * self.rtol, *_USEFUL)

    def allowed(self, tensors: Any, size: Any, scales: Floats) -> Any:
        """Allowed difference of values of that size in these tensors, of all tensors' scales."""
        atol = _ATOL_SHARE * self.rtol * scales if self.atol is None else self.atol
        return atol[tensors] + self.rtol[tensors] * size

    def harmless(self, tensors: NDArray[np.int64]) -> Floats:
        """By how much values may be off without harm to the caller, shape (entries,); 0 if not told."""
        accepted = self.atol if self.accepted is None else self.accepted
        return np.zeros(tensors.size) if accepted is None else accepted[tensors]


@dataclass(frozen=True)
class Judgement:
    """Verdicts on entries, all arrays of shape (entries,).

    ``numerical`` is the derivative compared with: at a kink the value nearest to the analytic one between the slopes.
    """

    analytic: Floats
    numerical: Floats
    allowed: Floats
    failed: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    reason: NDArray[np.object_]
    unsure: NDArray[np.bool_]  # less certain than a ladder of steps usually is
    close: NDArray[np.bool_]  # between the tolerance and where a difference is certain

    @property
    def passed(self) -> NDArray[np.bool_]:
        """Where neither doubt nor a difference is left."""
        return ~(self.failed | self.undecided)

    @property
    def verdict(self) -> NDArray[np.object_]:
        """In words."""
        return np.array([PASS, UNDECIDED, FAIL], object)[self.undecided + 2 * self.failed.astype(np.int8)]

    @cached_property
    def distance(self) -> Floats:
        """Of the analytic from the numerical values."""
        with np.errstate(all="ignore"):
            return np.abs(self.analytic - self.numerical)

    @property
    def worst(self) -> Verdict:
        """The verdict on all of them together."""
        return FAIL if self.failed.any() else UNDECIDED if self.undecided.any() else PASS

    @classmethod
    def passing(cls, analytic: Floats, estimates: Estimates) -> Judgement:
        """As if all entries passed; what is allowed is left open."""
        numerical, size = estimates.numerical, analytic.size
        failed, undecided, unsure, close = np.zeros((4, size), bool)
        numerical = numerical if estimates.clear.all() else numerical.copy()  # at kinks it becomes another value
        return cls(analytic, numerical, np.empty(size), failed, undecided, np.full(size, "", object), unsure, close)

    def replace(self, where: NDArray[np.int64], other: Judgement) -> None:
        """Take over the verdicts of another one at some entries."""
        for field in fields(self)[1:]:  # the analytic values are the same
            getattr(self, field.name)[where] = getattr(other, field.name)

    def part(self, keep: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Judgement:
        """Some of the entries."""
        return Judgement(*(getattr(self, field.name)[keep] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Judgement]) -> Judgement:
        """The entries of several judgements, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def gradient_scales(numerical: Floats, parts: Iterable[tuple[int, Any]], defaults: Floats) -> Floats:
    """Each tensor's scale: the root mean square of its numerical entries, at least 1e-6 of the largest tensor's.

    Parameters
    ----------
    numerical : array, shape (entries,)
        Derivatives; those that are not finite count as 0.
    parts : pairs
        A tensor, and where its derivatives are.
    defaults : array, shape (tensors,)
        What stands for tensors without any numerical entry.
    """
    scales = np.where(np.isfinite(defaults), defaults, 0.0)
    for t, mine in parts:
        entries = numerical[mine]
        scale = root_mean_square(entries)
        scales[t] = scale if math.isfinite(scale) else root_mean_square(np.where(np.isfinite(entries), entries, 0.0))
    return np.asarray(np.maximum(scales, SCALE_FLOOR * scales.max(initial=0.0)))


def judge(
    analytic: Floats,
    estimates: Estimates,
    tensors: NDArray[np.int64],
    scales: Floats,
    tolerances: Tolerances,
    noise_reasons: tuple[str, str],
    around: Floats | float = 0.0,
) -> Judgement:
    """The verdict on every entry.

    Parameters
    ----------
    analytic : array, shape (entries,)
    tensors : array of int, shape (entries,)
        The tensor of each entry.
    scales : array, shape (tensors,)
        See `gradient_scales`.
    noise_reasons : pair of str
        What makes a slope too uncertain, and what hides one that is no larger than its uncertainty.
    around : array, shape (tensors,), or 0
        A small share of the slopes around the point: at an optimum, what a slope must be small against.

    Notes
    -----
    With u the uncertainty and d the distance of the analytic value from the numerical one (from the interval between
    the one-sided slopes, at a kink), an entry fails if d > tol + 10u, passes if d <= tol + u and u is small enough for
    a wrong value to be seen, or if d + u is within the caller's own absolute tolerance, and is undecided otherwise.
    Every comparison is false for NaN, and no NaN passes; nor does anything by a tolerance that is infinite because it
    overflowed.

    Most entries of a right gradient are within tolerance whatever u, and u is small beside the tensor's scale: they
    pass, and the rest is judged by all there is to it.
    """
    around = np.where(np.isfinite(around), np.broadcast_to(around, scales.shape), 0.0)
    judgement = Judgement.passing(analytic, estimates)
    for begin in range(0, analytic.size, _BLOCK):
        some = slice(begin, begin + _BLOCK)
        allowed, right = _plainly_right(analytic[some], estimates, some, tensors[some], scales, tolerances)
        judgement.allowed[some] = allowed
        if not right.all():
            rest = begin + np.flatnonzero(~right)
            among = estimates.part(rest), tensors[rest], scales, tolerances, noise_reasons, around
            judgement.replace(rest, _judged(analytic[rest], *among))
    return judgement


def _plainly_right(
    analytic: Floats,
    estimates: Estimates,
    some: slice,
    tensors: NDArray[np.int64],
    scales: Floats,
    tolerances: Tolerances,
) -> tuple[Floats, NDArray[np.bool_]]:
    """What is allowed, and which entries pass and need no second look: so `_judged` would say of them."""
    numerical = estimates.numerical[some]
    with np.errstate(all="ignore"):
        allowed = tolerances.allowed(tensors, np.maximum(np.abs(analytic), np.abs(numerical)), scales)
        right = np.abs(analytic - numerical) <= allowed
        right &= allowed < np.inf
        right &= estimates.uncertainty[some] <= _CHEAP * scales[tensors]
    right &= estimates.clear[some]
    return allowed, right


def _judged(
    analytic: Floats,
    estimates: Estimates,
    tensors: NDArray[np.int64],
    scales: Floats,
    tolerances: Tolerances,
    noise_reasons: tuple[str, str],
    around: Floats,
) -> Judgement:
    """`judge`, for as many entries as the cache holds."""
    low, high = np.minimum(estimates.left, estimates.right), np.maximum(estimates.left, estimates.right)
    kink = estimates.troubled_by("kink")
    blocked = estimates.troubled_by(*_REASONS) | ~np.isfinite(estimates.numerical)
    with np.errstate(all="ignore"):
        numerical = np.where(kink, np.clip(analytic, low, high), estimates.numerical)
        distance = np.abs(analytic - numerical)
        size = np.maximum(np.abs(analytic), np.abs(numerical))
        extent = np.fmax(size, np.fmax(np.abs(low), np.abs(high)))  # of what the slopes are, at a kink at zero too
        extent = np.maximum(extent, scales[tensors])
        allowed = tolerances.allowed(tensors, size, scales)
        u = estimates.uncertainty
        resolved = u <= tolerances.useful[tensors] * np.maximum(extent, around[tensors])
        bounded = np.isfinite(allowed)
        agrees = (distance <= allowed + u) & bounded
        wrong = distance > allowed + _CERTAIN * u
        unsure = ~(u <= _CHEAP * extent) | (distance > allowed)
        settled = distance + np.where(estimates.troubled_by("jump"), _CERTAIN * u, u) <= tolerances.harmless(tensors)
    failed = (wrong & ~blocked) | ~np.isfinite(analytic)
    undecided = ~(failed | settled | (resolved & agrees & ~blocked))
    close = undecided & ~agrees & ~blocked & bounded
    reason = np.full(analytic.size, "", object)
    if (kink | failed | undecided).any():
        for where, text in (  # the later ones count
            (kink & ~failed, "kink"),
            (undecided & ~resolved, noise_reasons[0]),
            (undecided & ~resolved & (np.abs(numerical) <= u), noise_reasons[1]),
            (close, "too close to the tolerance to call"),
            (undecided & ~bounded, "what is allowed overflows"),
            (undecided & blocked, "the quotients are not finite: they overflow"),
            *((undecided & estimates.troubled_by(trouble), text) for trouble, text in _REASONS.items()),
            (~np.isfinite(analytic), "the analytic value is not finite"),
        ):
            reason[where] = text
    return Judgement(analytic, numerical, allowed, failed, undecided, reason, unsure, close)


def worst_verdict(verdicts: Any) -> Verdict:
    """Fail if any fails; else undecided if any is; else pass."""
    found = set(verdicts.tolist() if isinstance(verdicts, np.ndarray) else verdicts)  # NumPy's own strings are slow
    return FAIL if FAIL in found else UNDECIDED if UNDECIDED in found else PASS


def smallest_failure(judgement: Judgement, uncertainty: Floats) -> Floats:
    """The smallest error of each entry that would have been called a failure: tolerance and ten uncertainties."""
    return judgement.allowed + _CERTAIN * uncertainty
