"""The verdict on an entry: its analytic value against the numerical one and its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.ladder import WRONG_BEYOND
from fastgc._forks import cached_property
from fastgc._parameters.arrays import DType, Floats, Positions, root_mean_square, root_mean_squares_between
from fastgc._words import FAIL, PASS, UNDECIDED, Verdict

DEFAULT_RTOL = {np.dtype(np.float16): 1e-2, np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-5}

# With a larger relative uncertainty a wrong value would agree too: 100 * rtol, but at least 1 % (with 0.1 %, five right
# problems of the catalogue, four of them losses in float32, are undecided, and 7 % more evaluations are made), and at
# most 10 %, which still excludes the factors and signs of common mistakes.
_RELATIVE_LIMITS = (1e-2, 0.1)
_CHEAP = 1e-2  # the same for a single quotient: a less certain entry climbs a ladder
# The default atol in units of rtol times the scale of the tensor: 1e-10 of the scale in float64, near the error of a
# quotient. A larger share would hide wrong entries that are small beside others.
_ATOL_SHARE = 1e-5
SCALE_FLOOR = 1e-6  # a scale is at least this share of the largest: of all tensors, or of an output's entries
_JUDGED_AT_ONCE = 1 << 13  # entries: a dozen temporary arrays of 64 kB stay in the cache

_OUTSIDE = {
    "convention": "kink: a convention, right beside it",
    "outside": "kink: the value is outside both slopes, and undecided beside it",
    "unasked": "kink: the value is outside both slopes, wrong or a convention; pass a function to decide",
}
_HIDDEN = "kinks so near that round-off hides them, though not from the analytic gradient"
NOTHING = 1e-300  # an uncertainty below it (the smallest normal number) comes from values that are the same to the bit

_REASONS = {
    "not finite": "the loss is not finite nearby",
    "quantised": "the loss is quantised: it moves in stairs",
    "not reached": "not reached (interrupted): a closer look",
    "jump": "the loss jumps, or its slope is infinite (or grows like a logarithm)",
}


def default_rtol(dtype: DType) -> float:
    """The relative tolerance of derivatives of a dtype; what is no float counts as exact."""
    return DEFAULT_RTOL.get(dtype, DEFAULT_RTOL[np.dtype(np.float64)])


@dataclass(frozen=True)
class Tolerances:
    """Allowed differences: ``atol + rtol * max(|analytic|, |numerical|)``; arrays of shape (tensors,)."""

    rtol: Floats
    atol: Floats | None  # None, or nan for a tensor: 1e-5 * rtol * scale of the tensor
    accepted: Floats | None = None  # differences that the caller accepts at any uncertainty; None: atol, if given

    @property
    def useful(self) -> Floats:
        """The relative uncertainty above which agreement shows nothing, shape (tensors,)."""
        return np.clip(100 * self.rtol, *_RELATIVE_LIMITS)

    def allowed(self, tensors: Positions | int, size: Floats | float, scales: Floats) -> Any:
        """Allowed difference of values of that size in these tensors; ``scales`` are those of all tensors."""
        atol = _ATOL_SHARE * self.rtol * scales
        if self.atol is not None:
            atol = np.where(np.isnan(self.atol), atol, self.atol)
        return atol[tensors] + self.rtol[tensors] * size

    def harmless(self, tensors: Positions) -> Floats:
        """The absolute error that the caller accepts, shape (entries,); 0 if not given."""
        accepted = self.atol if self.accepted is None else self.accepted
        return np.zeros(tensors.size) if accepted is None else np.nan_to_num(accepted, posinf=np.inf)[tensors]


@dataclass(frozen=True)
class Judgement:
    """Verdicts on entries, all arrays of shape (entries,).

    ``numerical`` is the derivative to compare with: at a kink the value between the slopes nearest to the analytic one.
    """

    analytic: Floats
    numerical: Floats
    allowed: Floats
    failed: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    reason: NDArray[np.object_]
    unsure: NDArray[np.bool_]  # a ladder of steps may be more certain
    close: NDArray[np.bool_]  # beyond the tolerance, and not beyond ten uncertainties

    @property
    def passed(self) -> NDArray[np.bool_]:
        """Where an entry neither failed nor is undecided."""
        return ~(self.failed | self.undecided)

    @property
    def verdict(self) -> NDArray[np.object_]:
        """The verdicts in words."""
        return np.array([PASS, UNDECIDED, FAIL], object)[self.undecided + 2 * self.failed.astype(np.int8)]

    @property
    def certain(self) -> bool:
        """Whether every entry passed and no further look at it is needed."""
        return not (self.failed | self.undecided | self.unsure).any()

    @cached_property
    def distance(self) -> Floats:
        """Distance of the analytic from the numerical values."""
        with np.errstate(all="ignore"):
            return np.abs(self.analytic - self.numerical)

    @property
    def worst(self) -> Verdict:
        """The verdict on all entries together."""
        return FAIL if self.failed.any() else UNDECIDED if self.undecided.any() else PASS

    @classmethod
    def passing(cls, analytic: Floats, estimates: Estimates) -> Judgement:
        """A judgement by which all entries pass; the allowed differences are not yet set."""
        numerical, size = estimates.numerical, analytic.size
        failed, undecided, unsure, close = np.zeros((4, size), bool)
        numerical = numerical if estimates.clear.all() else numerical.copy()  # at kinks it becomes another value
        return cls(analytic, numerical, np.empty(size), failed, undecided, np.full(size, "", object), unsure, close)

    def set_at(self, where: Positions, other: Judgement) -> None:
        """Copy the verdicts on some entries from another judgement."""
        for field in fields(self)[1:]:  # the analytic values are the same
            getattr(self, field.name)[where] = getattr(other, field.name)

    def part(self, keep: NDArray[np.bool_] | Positions | slice) -> Judgement:
        """Some of the entries."""
        return Judgement(
            self.analytic[keep], self.numerical[keep], self.allowed[keep], self.failed[keep], self.undecided[keep],
            self.reason[keep], self.unsure[keep], self.close[keep],
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[Judgement]) -> Judgement:
        """The entries of several judgements, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def gradient_scales(numerical: Floats, tensors: Positions, defaults: Floats) -> Floats:
    """Each tensor's scale: the root mean square of its numerical entries, at least 1e-6 of the largest tensor's.

    Parameters
    ----------
    numerical : array, shape (entries,)
        Derivatives; those that are not finite count as 0.
    tensors : array, shape (entries,)
        The tensor of each.
    defaults : array, shape (tensors,)
        What stands for tensors without any numerical entry.
    """
    if (tensors[1:] < tensors[:-1]).any():
        order = np.argsort(tensors, kind="stable")
        numerical, tensors = numerical[order], tensors[order]
    ends = tensors.searchsorted(np.arange(defaults.size + 1))
    measured = ends[1:] > ends[:-1]
    scales = np.where(np.isfinite(defaults), defaults, 0.0)
    scales[measured] = root_mean_squares_between(numerical, np.concatenate([ends[:-1][measured], ends[-1:]]))
    for t in (~np.isfinite(scales)).nonzero()[0].tolist():
        mine = numerical[ends[t] : ends[t + 1]]
        scales[t] = root_mean_square(np.where(np.isfinite(mine), mine, 0.0))
    return np.asarray(np.maximum(scales, SCALE_FLOOR * scales.max(initial=0.0)))


def judge(
    analytic: Floats,
    estimates: Estimates,
    tensors: Positions,
    scales: Floats,
    tolerances: Tolerances,
    noise_reasons: tuple[str, str],
    around: Floats | float = 0.0,
    rounding: Floats | float = 0.0,
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
        Why a slope is too uncertain, and why one cannot be distinguished from zero.
    around : array, shape (tensors,), or 0
        A small share of the slopes around the point: at an optimum, an uncertainty is compared with these.
    rounding : array, shape (tensors,), or 0
        Round-off of the analytic values, from the terms that they are sums of.

    Notes
    -----
    Let u be the uncertainty, r the round-off of the analytic value, and d its distance from the numerical one (from the
    interval between the one-sided slopes, at a kink). An entry fails if d > tol + 10u + r. It passes if d <= tol + u
    and u is so small that a wrong value would fail; or if r explains the rest of d, and either is so small or the slope
    is zero within u; or if d + u is within the tolerance of the caller. Otherwise it is undecided. Every comparison is
    false for NaN: no NaN passes, nor does any entry whose tolerance overflowed.

    Most entries of a right gradient are within tolerance, with an uncertainty far below the tensor's scale: they pass
    at once, and only the others take the full judgement.
    """
    judgement = Judgement.passing(analytic, estimates)
    for begin in range(0, analytic.size, _JUDGED_AT_ONCE):
        some = slice(begin, begin + _JUDGED_AT_ONCE)
        allowed, right = _plainly_right(analytic[some], estimates, some, tensors[some], scales, tolerances)
        judgement.allowed[some] = allowed
        if not right.all():
            rest = begin + (~right).nonzero()[0]
            among = estimates.part(rest), tensors[rest], scales, tolerances, noise_reasons, around, rounding
            judgement.set_at(rest, _judged(analytic[rest], *among))
    return judgement


def _plainly_right(
    analytic: Floats,
    estimates: Estimates,
    some: slice,
    tensors: Positions,
    scales: Floats,
    tolerances: Tolerances,
) -> tuple[Floats, NDArray[np.bool_]]:
    """The allowed differences, and which entries pass at once: `_judged` would pass them too."""
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
    tensors: Positions,
    scales: Floats,
    tolerances: Tolerances,
    noise_reasons: tuple[str, str],
    around: Floats | float,
    rounding: Floats | float,
) -> Judgement:
    """The full judgement of some entries; see `judge`."""
    around, r = _of_entries(around, tensors), _of_entries(rounding, tensors)
    low, high = np.minimum(estimates.left, estimates.right), np.maximum(estimates.left, estimates.right)
    kink, excused = estimates.troubled_by("kink", *_OUTSIDE), estimates.troubled_by("convention")
    hidden = estimates.troubled_by("hidden")
    blocked = estimates.troubled_by(*_REASONS) | ~np.isfinite(estimates.numerical)
    with np.errstate(all="ignore"):
        numerical = np.where(kink, np.clip(analytic, low, high), estimates.numerical)
        distance = np.abs(analytic - numerical)
        size = np.maximum(np.abs(analytic), np.abs(numerical))
        extent = np.fmax(size, np.fmax(np.abs(low), np.abs(high)))  # the slopes beside a kink may be larger
        extent = np.maximum(extent, scales[tensors])
        allowed = tolerances.allowed(tensors, size, scales)
        u, useful = estimates.uncertainty, tolerances.useful[tensors]
        resolved = u <= useful * np.maximum(extent, around)
        exact = (distance <= allowed + u) | (r <= useful * extent) | (np.abs(numerical) <= u)
        bounded = np.isfinite(allowed)
        agrees = (distance <= allowed + u + r) & bounded
        wrong = distance > allowed + WRONG_BEYOND * u + r
        unsure = ~(u <= _CHEAP * extent) | (distance > allowed)
        margin = np.where(estimates.troubled_by("jump"), WRONG_BEYOND * u, u)
        accepted = tolerances.harmless(tensors) + np.where(blocked, 0.0, tolerances.rtol[tensors] * size)
        settled = (distance + margin <= accepted) & bounded
        settled |= excused & np.isfinite(u)
    failed = (wrong & ~blocked & ~estimates.troubled_by(*_OUTSIDE)) | ~np.isfinite(analytic)
    # A staircase bounds the slope, which is known to be small; a short ladder in which nothing moved bounds nothing.
    bounded_by_stairs = estimates.troubled_by("quantised") & (numerical == 0) & (u > NOTHING)
    undecided = ~(failed | settled | (resolved & exact & agrees & (~blocked | bounded_by_stairs)))
    close = undecided & ~agrees & ~blocked & bounded
    reason = np.full(analytic.size, "", object)
    if (kink | hidden | failed | undecided).any():
        for where, text in (  # of several reasons the last one stays
            (kink & ~failed, "kink"),
            (undecided & ~resolved, noise_reasons[0]),
            (undecided & ~resolved & (np.abs(numerical) <= u), noise_reasons[1]),
            (undecided & resolved & ~exact, "round-off of the analytic value may hide a difference"),
            (close, "too close to the tolerance to call"),
            (hidden & ~failed, _HIDDEN),
            *((kink & ~failed & estimates.troubled_by(trouble), text) for trouble, text in _OUTSIDE.items()),
            (undecided & ~bounded, "what is allowed overflows"),
            (undecided & blocked, "the quotients are not finite: they overflow"),
            *((undecided & estimates.troubled_by(trouble), text) for trouble, text in _REASONS.items()),
            (~np.isfinite(analytic), "the analytic value is not finite"),
        ):
            reason[where] = text
    return Judgement(analytic, numerical, allowed, failed, undecided, reason, unsure, close)


def _of_entries(numbers: Floats | float, tensors: Positions) -> Floats:
    """The number of each entry's tensor, or one for all; 0 where it is not finite."""
    known = np.where(np.isfinite(numbers), numbers, 0.0)
    return known[tensors] if known.ndim else known


def smallest_failure(judgement: Judgement, uncertainty: Floats) -> Floats:
    """The smallest error of each entry that would have failed: tolerance and ten uncertainties."""
    return judgement.allowed + WRONG_BEYOND * uncertainty


def excess(judged: Judgement, estimated: Estimates) -> Floats:
    """The difference in units of tolerance and uncertainty; infinite where it could not be computed."""
    with np.errstate(all="ignore"):
        ratio = judged.allowed + estimated.uncertainty
        np.divide(judged.distance, ratio, out=ratio)
    ratio[np.isnan(ratio)] = np.inf
    return ratio
