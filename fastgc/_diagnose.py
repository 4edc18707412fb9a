"""Which kind of bug the numbers of a failing tensor are consistent with, and what tensors say together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastgc import _patterns, _places
from fastgc._compare import FAIL, PASS
from fastgc._layout import listed
from fastgc._patterns import Pattern
from fastgc._view import View

_SAME = 1e-4  # relative difference below which two factors are the same


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


@dataclass(frozen=True)
class Diagnosis:
    """A kind of bug that explains a tensor's wrong entries.

    Attributes
    ----------
    kind : "sign" | "factor" | "zero" | "scale_precision" | "transpose" | "permutation" | "swapped" | "missing_term" |
        "stale" | "broadcast" | "sparse" | "unstructured" (enough wrong entries to show a pattern, and none does)
    message : one line for people
    factor : analytic / numerical, or the coefficient of a missing term, or None
    axis : along which entries are exchanged, reordered, spread or wrong, or None
    indices : of few wrong entries; with an axis, of the wrong lines along it, each a tuple of one
    evidence : the `Evidence`
    alternatives : messages of other patterns that explain the entries as well
    """

    kind: str
    message: str
    factor: float | None
    axis: int | None
    indices: tuple[tuple[int, ...], ...]
    evidence: Evidence
    alternatives: tuple[str, ...]


# --- one tensor ---


def diagnose(
    view: View, others: Mapping[str, View], factors: Mapping[str, float], extra: int, stale: Sequence[Pattern] = ()
) -> Diagnosis | None:
    """The simplest pattern that explains the measured entries of a tensor; None where they establish none.

    Parameters
    ----------
    others : by name, tensors of the same shape
    factors : by name, the constant factors of other tensors
    extra : how many of the measured entries were measured for the diagnosis
    stale : that it is the gradient of an earlier moment, if it is consistent with that
    """
    found = next(filter(None, _tiers(view, others, factors, stale)), [])
    return _diagnosis(view, found, extra) if found else None


def _tiers(
    view: View, others: Mapping[str, View], factors: Mapping[str, float], stale: Sequence[Pattern]
) -> Iterator[list[Pattern]]:
    """Patterns that explain the entries, from simple ones to those that explain little."""
    yield [*_simple(view), *_places.swapped(view, others), *stale, *_places.broadcast(view)]
    yield [*_places.reordered(view), *_patterns.two_terms(view)]
    yield [*_places.wrong_axis(view)]
    yield [*_patterns.same_factor(view, factors)]
    yield [*_places.sparse(view)]
    yield [*_patterns.unstructured(view)]


def _simple(view: View) -> Iterator[Pattern]:
    """Patterns that the tensor's own samples usually establish, the simplest first."""
    yield from _patterns.zero(view)
    yield from _patterns.constant_factor(view)
    yield from _patterns.lost_sign(view)
    yield from _places.rearranged(view)
    yield from _patterns.one_term(view)
    yield from _patterns.few_digits(view)


def _diagnosis(view: View, found: Sequence[Pattern], extra: int) -> Diagnosis:
    best = found[0]
    evidence = Evidence(view.local.size, int(np.count_nonzero(view.wrong)), extra, best.deviation)
    ties = tuple(dict.fromkeys(other.message for other in found[1:] if other.message != best.message))
    return Diagnosis(best.kind, best.message, best.factor, best.axis, best.indices, evidence, ties)


def settled(view: View) -> bool:
    """Whether more entries would add nothing: all are known, or a simple pattern is established."""
    return view.complete or next(_simple(view), None) is not None


def agreed(diagnoses: Sequence[Diagnosis | None]) -> Diagnosis | None:
    """The diagnosis at the first of several points where a tensor fails, if those at the others are the same."""
    first = diagnoses[0] if diagnoses else None
    if first is None or any(other is None or not _alike(first, other) for other in diagnoses):
        return None
    return first


# --- tensors together ---


def compared(verdicts: Mapping[str, str], diagnoses: Mapping[str, Diagnosis | None]) -> Iterator[str]:
    """Which tensors are right and which are wrong, in the order of the parameters, and what the wrong ones share."""
    wrong = [name for name, verdict in verdicts.items() if verdict == FAIL]
    right = [name for name, verdict in verdicts.items() if verdict == PASS]
    if not wrong or len(verdicts) < 2:
        return
    known = [each for name in wrong if (each := diagnoses[name]) is not None and each.factor]
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
    """What tensors have in common, with what it usually comes from."""
    factor = f"{diagnosis.factor:.4g}"
    if diagnosis.kind == "missing_term":
        return f"term: {diagnosis.message.removeprefix('consistent with ')}"
    if diagnosis.kind == "sign":
        return "sign: the gradient is of the negative loss"
    length = diagnosis.message.partition("N, ")[2]
    hint = f": the loss is a mean where the gradient is of a sum, or the reverse: {length}" if length else ""
    return f"factor {factor}{hint}"
