"""Which kind of bug the numbers of a failing tensor are consistent with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fastgc._diagnosis import axis_patterns as _places
from fastgc._diagnosis import value_patterns as _patterns
from fastgc._diagnosis.diagnosis import Diagnosis, Evidence
from fastgc._diagnosis.measured_tensor import MeasuredTensor
from fastgc._diagnosis.value_patterns import Pattern


def diagnose(
    view: MeasuredTensor,
    others: Mapping[str, MeasuredTensor],
    factors: Mapping[str, float],
    extra: int,
    stale: Sequence[Pattern] = (),
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
    view: MeasuredTensor, others: Mapping[str, MeasuredTensor], factors: Mapping[str, float], stale: Sequence[Pattern]
) -> Iterator[list[Pattern]]:
    """Patterns that explain the entries, from simple ones to those that explain little."""
    yield [*_simple(view), *_places.swapped(view, others), *stale, *_places.broadcast(view)]
    yield [*_places.reordered(view), *_patterns.two_terms(view)]
    yield [*_places.wrong_axis(view)]
    yield [*_patterns.same_factor(view, factors)]
    yield [*_places.sparse(view)]
    yield [*_patterns.unstructured(view)]


def _simple(view: MeasuredTensor) -> Iterator[Pattern]:
    """Patterns that the tensor's own samples usually establish, the simplest first."""
    yield from _patterns.zero(view)
    yield from _patterns.constant_factor(view)
    yield from _patterns.lost_sign(view)
    yield from _places.rearranged(view)
    yield from _patterns.one_term(view)
    yield from _patterns.few_digits(view)


def _diagnosis(view: MeasuredTensor, found: Sequence[Pattern], extra: int) -> Diagnosis:
    best = found[0]
    evidence = Evidence(view.local.size, int(np.count_nonzero(view.wrong)), extra, best.deviation)
    ties = tuple(dict.fromkeys(other.message for other in found[1:] if other.message != best.message))
    return Diagnosis(best.kind, best.message, best.factor, best.axis, best.indices, evidence, ties)


def settled(view: MeasuredTensor) -> bool:
    """Whether more entries would add nothing: all are known, or a simple pattern is established."""
    return view.complete or next(_simple(view), None) is not None
