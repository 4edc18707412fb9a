"""Checks under a time budget: the order of entries, and what was not reached."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fastgc._derivatives.estimates import Estimates
from fastgc._evaluation.evaluator import OutOfTime
from fastgc._evaluation.working_time import now
from fastgc._parameters.arrays import Positions
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.streams import stream
from fastgc._progress import Progress
from fastgc._verdicts.entries import GradientAtPoint, check_entries
from fastgc._verdicts.judgement import Judgement

INTERRUPTED = "not reached (interrupted)"
FIRST = 4  # entries of every tensor measured before the rest: of tensors wrong in half of their entries 94 % show
_TOLD = 0.1  # seconds of compilation from which a report tells of it: a tenth of the smallest unit of its clock
BATCH_SHARE = 0.05  # of the time left that a batch may take: an unfinished batch is lost, and 5 % is lost at most


def representative(layout: ParameterLayout, positions: Positions, seed: int) -> tuple[Positions, Positions]:
    """The entries, reordered so that any number of the first ones is a fair sample: a few of all tensors, and the rest.

    Inside each tensor they come in random order; the k-th of every tensor come before the next of any.
    """
    shuffled = stream(seed, "order of entries").permutation(positions)
    tensors = layout.tensor_of(shuffled)
    by_tensor = np.argsort(tensors, kind="stable")
    ranks = np.empty(shuffled.size, np.int64)
    counts = np.unique(tensors, return_counts=True)[1]
    ranks[by_tensor] = np.concatenate([np.empty(0, np.int64), *map(np.arange, counts)])
    order = np.argsort(ranks, kind="stable")
    first = int(np.count_nonzero(ranks < FIRST))
    return np.sort(shuffled[order[:first]]), shuffled[order[first:]]


def check_in_time(
    gradient: GradientAtPoint, positions: Positions, deadline: float, bar: Progress
) -> tuple[Estimates, Judgement]:
    """Check the entries in this order, batch by batch, until the time is over; the results are sorted by position."""
    parts = []
    with contextlib.suppress(OutOfTime):
        for batch in batches(positions, deadline):
            parts.append(check_entries(gradient, batch if deadline == math.inf else np.sort(batch), bar))
    if parts:
        return merged(parts)
    nothing = Estimates.unmeasured(positions[:0])
    return nothing, Judgement.passing(gradient.analytic(nothing.positions), nothing)


def merged(parts: Sequence[tuple[Estimates, Judgement]]) -> tuple[Estimates, Judgement]:
    """All entries of several parts, sorted by position."""
    if len(parts) == 1:
        return parts[0]
    estimates = Estimates.joined([part for part, _ in parts])
    order = np.argsort(estimates.positions)
    return estimates.part(order), Judgement.joined([part for _, part in parts]).part(order)


def batches(positions: Positions, deadline: float) -> Iterator[Positions]:
    """Batches, each a small share of the time left at the pace so far; without a deadline one batch of all."""
    start, count = 0, positions.size if deadline == math.inf else 1
    while start < positions.size:
        begin = now()
        yield positions[start : start + count]
        end = now()
        start += count
        pace = max(end - begin, 1e-9) / count
        if deadline < math.inf:
            count = max(1, min(4 * count, int(BATCH_SHARE * max(0.0, deadline - end) / pace)))


def compiled_notes(budget: float | None, seconds: float) -> list[str]:
    """A note on the seconds of compilation that a time budget leaves out, if there are some."""
    told = budget is not None and seconds >= _TOLD
    return [f"compiled in {seconds:.2g} s, which time_budget leaves out"] if told else []


def over_note(budget: float, pace: float, few: int, whole: int, words: tuple[str, str]) -> str:
    """What a budget that is over would have to be, at so many seconds for an evaluation.

    Parameters
    ----------
    few : evaluations that reach anything, if this one did not; else 0
    whole : evaluations of the whole check
    words : what is called, and what those few reach
    """
    seconds = _rounded(pace * whole)
    if not few:
        return f"time_budget was over; at this pace the whole check takes about {seconds} s"
    return (
        f"time_budget={budget:g} was over before an entry was measured: a call of {words[0]} takes {_rounded(pace)} s; "
        f"in about {_rounded(pace * few)} s the check reaches {words[1]}, and in {seconds} s all that it measures"
    )


def _rounded(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"


def unreached(
    layout: ParameterLayout,
    planned: Sequence[NDArray[np.int64] | None],
    reached: Positions,
    unprobed: Collection[int],
    *,
    interrupted: bool = False,
) -> Mapping[int, str]:
    """By tensor, what was not measured for lack of time."""
    wanted = np.array([0 if local is None else local.size for local in planned])
    missing = wanted - np.bincount(layout.tensor_of(reached), minlength=len(planned))
    found: dict[int, str] = {}
    for t in sorted({*missing.nonzero()[0].tolist(), *unprobed}):
        parts = [f"{missing[t]} of {wanted[t]} entries"] if missing[t] else []
        parts += ["probes"] if t in unprobed else []
        found[t] = f"{INTERRUPTED if interrupted else 'not reached'}: {' and '.join(parts)}"
    return found
