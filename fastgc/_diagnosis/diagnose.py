"""Which kind of bug the numbers of a failing tensor are consistent with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fastgc._diagnosis import axis_patterns, value_patterns
from fastgc._diagnosis.diagnosis import Diagnosis, Evidence
from fastgc._diagnosis.measured_tensor import MeasuredTensor
from fastgc._diagnosis.value_patterns import Pattern


def diagnose(
    tensor: MeasuredTensor,
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
    found = next(filter(None, _tiers(tensor, others, factors, stale)), [])
    return _diagnosis(tensor, found, extra) if found else None


def _tiers(
    tensor: MeasuredTensor, others: Mapping[str, MeasuredTensor], factors: Mapping[str, float], stale: Sequence[Pattern]
) -> Iterator[list[Pattern]]:
    """Patterns that explain the entries, from simple ones to those that explain little."""
    yield [*_simple(tensor), *axis_patterns.swapped(tensor, others), *stale, *axis_patterns.broadcast(tensor)]
    yield [*axis_patterns.reordered(tensor), *value_patterns.two_terms(tensor)]
    yield [*axis_patterns.wrong_axis(tensor)]
    yield [*value_patterns.same_factor(tensor, factors)]
    yield [*axis_patterns.sparse(tensor)]
    yield [*value_patterns.unstructured(tensor)]


def _simple(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Patterns that the tensor's own samples usually establish, the simplest first."""
    yield from value_patterns.zero(tensor)
    yield from value_patterns.constant_factor(tensor)
    yield from value_patterns.lost_sign(tensor)
    yield from axis_patterns.rearranged(tensor)
    yield from value_patterns.one_term(tensor)
    yield from value_patterns.few_digits(tensor)


def _diagnosis(tensor: MeasuredTensor, found: Sequence[Pattern], extra: int) -> Diagnosis:
    best = found[0]
    evidence = Evidence(tensor.local.size, int(np.count_nonzero(tensor.wrong)), extra, best.deviation)
    ties = tuple(dict.fromkeys(other.message for other in found[1:] if other.message != best.message))
    return Diagnosis(best.kind, best.message, best.factor, best.axis, best.indices, evidence, ties)


def settled(tensor: MeasuredTensor) -> bool:
    """Whether more entries would add nothing: all are known, or a simple pattern is established."""
    return tensor.complete or next(_simple(tensor), None) is not None
