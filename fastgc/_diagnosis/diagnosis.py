"""Which kind of bug the numbers of a failing tensor are consistent with, alone and together with other tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastgc._arguments import brief, listed
from fastgc._diagnosis import axis_patterns, matrix_patterns, sparse_patterns, value_patterns
from fastgc._diagnosis.measured_tensor import MeasuredTensor
from fastgc._diagnosis.sparse_patterns import Repeats
from fastgc._diagnosis.value_patterns import Pattern
from fastgc._public import public
from fastgc._words import FAIL, PASS, Kind

# Relative difference below which two factors count as the same. A factor is a ratio of entries that agree with it
# within a tolerance (1e-5 by default) each, so those of two tensors with one bug differ by 2e-5 at most; 1.001 and
# 1.002, two bugs, by 1e-3.
_SAME = 1e-4
_SHARED = ("sign", "factor", "missing_term")  # kinds that several tensors can have in common
_STRAYS = 3  # extra entries that may be left out: one in ten


@dataclass(frozen=True)
class Evidence:
    """What a diagnosis rests on.

    Attributes
    ----------
    entries, wrong : measured entries of the tensor, and how many of them are wrong
    extra : how many of them were measured for the diagnosis
    deviation : the largest distance of an entry from the pattern, in units of its tolerance and uncertainty
    """

    entries: int
    wrong: int
    extra: int
    deviation: float


@public
@dataclass(frozen=True, repr=False)
class Diagnosis:
    """A kind of bug that explains a tensor's wrong entries.

    Attributes
    ----------
    kind : one of the kinds below
    message : one line for people
    factor : analytic / numerical, if that is constant (in the wrong entries, where others are right), or the
        coefficient of a missing term, or None
    axis : the axis along which entries are exchanged, reordered, constant or wrong, or None
    indices : the wrong entries, if they are few; with an axis, the wrong lines along it, each as a tuple of one index
    evidence : the `Evidence`
    alternatives : messages of other patterns that explain the entries as well

    Notes
    -----
    Every kind but "unstructured" explains all measured entries within their tolerance and uncertainty. In the examples
    `a` is the analytic and `n` the numerical gradient.

    ================= ======================================= =============================================
    kind              the analytic gradient                   example
    ================= ======================================= =============================================
    "sign"            has the wrong sign, or none; is that    ``a = -n``; ``a = abs(n)``; a missing conjugate
                      of the conjugate
    "factor"          is a constant multiple                  ``a = n / batch_size``: a mean for a sum
    "affine"          is a multiple plus a constant           ``a = 2 * n + 0.3``
    "log_parameter"   is multiplied or divided by the         ``a = p * n``: the derivative by ``log(p)``
                      parameter or its exponential
    "zero"            is zero everywhere, up to round-off     a detached branch; never accumulated
    "clipped"         is cut off at a bound, or zero in       ``a = np.clip(n, -1, 1)``; ``a = n * (p > 0)``
                      some entries, and right elsewhere
    "missing_term"    lacks a term, or has one too many       ``a = n - 0.1 * w``: weight decay forgotten
    "transpose"       has two axes exchanged                  ``a = n.T``
    "symmetric"       counts mirrored entries of a matrix     ``a = np.tril(n + n.T)``; ``a = (n + n.T) / 2``
                      twice, half or not at all
    "permutation"     has its entries in another order        ``a = n[::-1]``; ``np.roll(n, 1, axis=0)``
    "swapped"         belongs to another tensor               the gradients of Wq and Wk exchanged
    "broadcast"       is constant along an axis, or summed    ``a = n.mean(axis=0)`` in every row
                      over the wrong axis
    "sparse"          is wrong in few entries, or in whole    the last row never written; ``a[3] = -n[3]``;
                      rows or columns, and right elsewhere    ``g[ids] += d`` where ``ids`` repeats an index
    "stale"           belongs to the earlier parameters       computed before the last update
                      passed as `previous`
    "scale_precision" has the digits of a coarser format      ``a = n.astype(np.float16)``
    "unstructured"    is wrong in enough entries to show a    an activation with the wrong derivative
                      pattern, and none of these fits
    ================= ======================================= =============================================

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> weights = np.arange(1.0, 7.0).reshape(2, 3)
    >>> report = fastgc.check_gradients(lambda w: np.sum(weights * w**2), lambda w: weights * w, np.ones((2, 3)))
    >>> diagnosis = report.tensors["params"].diagnosis
    >>> diagnosis.kind, round(diagnosis.factor, 6), diagnosis.evidence.wrong
    ('factor', 0.5, 6)
    >>> diagnosis.message
    'consistent with a constant factor of 0.5 (analytic / numerical)'
    """

    kind: Kind
    message: str
    factor: float | None
    axis: int | None
    indices: tuple[tuple[int, ...], ...]
    evidence: Evidence
    alternatives: tuple[str, ...]

    def __repr__(self) -> str:
        return brief(f"<Diagnosis {self.kind}: {self.message}") + ">"


@dataclass(frozen=True)
class Explanation:
    """What failing tensors are consistent with.

    Attributes
    ----------
    diagnoses : of each tensor with wrong entries, by its number (None: the numbers establish none)
    evaluations : loss values computed at the earlier parameters
    notes : remarks for the report
    """

    diagnoses: Mapping[int, Diagnosis | None]
    evaluations: int
    notes: tuple[str, ...]


# --- one tensor ---


@dataclass(frozen=True)
class Clues:
    """What else is known that can explain a tensor.

    Attributes
    ----------
    others : the tensors of the same shape, by name
    factors : the constant factors of other tensors, by name
    stale : patterns of a gradient that belongs to earlier parameters, if the entries agree with one
    repeats : integer arrays among the arguments with repeated numbers
    """

    others: Mapping[str, MeasuredTensor] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    stale: Sequence[Pattern] = ()
    repeats: Sequence[Repeats] = ()


NO_CLUES = Clues()


def diagnose(tensor: MeasuredTensor, clues: Clues = NO_CLUES, extra: int = 0) -> Diagnosis | None:
    """The simplest pattern that explains the measured entries of a tensor; None where they establish none.

    The last ``extra`` measured entries were measured for the diagnosis, each by one quotient only. If no pattern
    explains all entries, those of them that stand out most are left out: a quotient across a jump is no derivative.
    """
    for seen in _with_fewer_strays(tensor, extra):
        if found := next(filter(None, _tiers(seen, clues)), []):
            return _diagnosis(seen, found, extra)
    found = [*value_patterns.unstructured(tensor)]
    return _diagnosis(tensor, found, extra) if found else None


def diagnose_values(tensor: MeasuredTensor) -> Diagnosis | None:
    """The same from values alone, whatever their places: a sign, a factor or zeros."""
    found = [
        *value_patterns.zero(tensor),
        *value_patterns.constant_factor(tensor),
        *value_patterns.nearly_zero(tensor),
        *value_patterns.lost_sign(tensor),
    ]
    return _diagnosis(tensor, found, 0) if found else None


def _with_fewer_strays(tensor: MeasuredTensor, extra: int) -> Iterator[MeasuredTensor]:
    """The tensor, then without one, two, three of its last entries: those whose slopes exceed their values most."""
    yield tensor
    late = np.arange(tensor.local.size) >= tensor.local.size - extra
    for _ in range(min(_STRAYS, extra)):
        slope = np.where(late & np.isfinite(tensor.slack), np.abs(tensor.numerical), 0.0)
        tensor = tensor.without(int(np.argmax(slope / (np.abs(tensor.analytic) + np.median(slope)))))
        yield tensor


def _tiers(tensor: MeasuredTensor, clues: Clues) -> Iterator[list[Pattern]]:
    """Patterns that explain the entries, from simple ones to those that explain little."""
    yield [
        *_simple(tensor),
        *axis_patterns.swapped(tensor, clues.others),
        *clues.stale,
        *axis_patterns.broadcast(tensor),
        *value_patterns.nearly_zero(tensor),
    ]
    yield [*axis_patterns.reordered(tensor), *value_patterns.two_terms(tensor), *matrix_patterns.symmetrised(tensor)]
    yield [*value_patterns.affine(tensor), *value_patterns.clipped(tensor)]
    yield [*axis_patterns.wrong_axis(tensor)]
    yield [*value_patterns.same_factor(tensor, clues.factors)]
    yield [*sparse_patterns.overwritten(tensor, clues.repeats), *sparse_patterns.sparse(tensor)]
    yield [*sparse_patterns.masked(tensor), *sparse_patterns.partly(tensor)]


def _simple(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Patterns that the tensor's own samples usually establish, the simplest first."""
    yield from value_patterns.zero(tensor)
    yield from value_patterns.constant_factor(tensor)
    yield from value_patterns.lost_sign(tensor)
    yield from matrix_patterns.conjugated(tensor)
    yield from axis_patterns.rearranged(tensor)
    yield from matrix_patterns.symmetric(tensor)
    yield from value_patterns.one_term(tensor)
    yield from value_patterns.log_parameter(tensor)
    yield from value_patterns.few_digits(tensor)


def _diagnosis(tensor: MeasuredTensor, found: Sequence[Pattern], extra: int) -> Diagnosis:
    best = found[0]
    entries = tensor.local.size - tensor.dropped
    evidence = Evidence(entries, int(np.count_nonzero(tensor.wrong)), extra - tensor.dropped, best.deviation)
    ties = tuple(dict.fromkeys(other.message for other in found[1:] if other.message != best.message))
    return Diagnosis(best.kind, best.message, best.factor, best.axis, best.indices, evidence, ties)


def settled(tensor: MeasuredTensor) -> bool:
    """Whether more entries would add nothing: all are known, or a simple pattern is established."""
    return tensor.complete or next(_simple(tensor), None) is not None


# --- several points, several tensors ---


def agreed(diagnoses: Sequence[Diagnosis | None]) -> Diagnosis | None:
    """The diagnosis of a tensor at several points, if it is the same at every point where the tensor fails."""
    first = diagnoses[0] if diagnoses else None
    if first is None or any(other is None or not _alike(first, other) for other in diagnoses):
        return None
    return first


def compared(verdicts: Mapping[str, str], diagnoses: Mapping[str, Diagnosis | None]) -> Iterator[str]:
    """One note at most: which tensors are right, which are wrong, and what the wrong ones share."""
    wrong = [name for name, verdict in verdicts.items() if verdict == FAIL]
    right = [name for name, verdict in verdicts.items() if verdict == PASS]
    if not wrong or len(verdicts) < 2:
        return
    known = [each for name in wrong if (each := diagnoses[name]) is not None and each.factor and each.kind in _SHARED]
    shared = len(wrong) > 1 and len(known) == len(wrong) and all(_alike(known[0], other) for other in known)
    if shared and len(wrong) == len(verdicts):
        yield f"all {len(wrong)} tensors are wrong by the same {_shared(known[0])}"
        return
    names = listed(wrong, quote=False)
    if shared:
        yield f"{_are(right)}{names} are wrong by the same {_shared(known[0])}: look at what {names} share"
    elif right:
        yield f"{_are(right)}{names} {'is' if len(wrong) == 1 else 'are'} wrong"


def _are(right: Sequence[str]) -> str:
    return f"{listed(right, quote=False)} {'is' if len(right) == 1 else 'are'} right, " if right else ""


def _alike(one: Diagnosis, other: Diagnosis) -> bool:
    first, second = one.factor or 0.0, other.factor or 0.0
    return (one.kind, one.axis) == (other.kind, other.axis) and abs(first - second) <= _SAME * abs(first)


def _shared(diagnosis: Diagnosis) -> str:
    """The factor, sign or term that tensors share, with its usual cause."""
    factor = f"{diagnosis.factor:.4g}"
    if diagnosis.kind == "missing_term":
        return f"term: {diagnosis.message.removeprefix('consistent with ')}"
    if diagnosis.kind == "sign":
        return "sign: the gradient is of the negative loss"
    length = diagnosis.message.partition("N, ")[2]
    hint = f": the loss is a mean where the gradient is of a sum, or the reverse: {length}" if length else ""
    return f"factor {factor}{hint}"
