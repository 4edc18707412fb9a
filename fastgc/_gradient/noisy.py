"""The check of a loss that gave another value when it was called again."""

from __future__ import annotations

from dataclasses import replace

from fastgc._gradient.examine import PointCheck, examine
from fastgc._progress import Progress
from fastgc._reports.summary import PointResult
from fastgc._verdicts.judgement import Judgement
from fastgc._verdicts.time_budget import INTERRUPTED

# Entries of each tensor that are tried: the one with the largest analytic value, and one at random. Noise that hides
# both, in every tensor, leaves little hope for the others, which cost some 30 evaluations each.
TRIED = 2


def examine_noisy(check: PointCheck, bar: Progress) -> PointResult:
    """`examine`; but where noise hides the slopes of a few entries in all tensors, the others are not measured."""
    counts = tuple(None if count is None else min(count, TRIED) for count in check.selection.counts)
    tried = replace(check.selection, counts=counts)
    if not tried.entries:
        return examine(check, bar)
    found = examine(replace(check, selection=tried, options=replace(check.options, probes=0)), bar)
    if check.interrupted:
        left_out = {t: INTERRUPTED for t in check.selection.tensors if check.selection.layout.sizes[t]}
        return replace(found, unreached=left_out | dict(found.unreached))
    if found.spoiled or not all_hidden(found.judgement):
        return examine(check, bar)
    left = check.selection.entries - tried.entries
    note = f"noise hides the slopes of all {tried.entries} entries tried; the other {left:,} samples were left out"
    return replace(found, notes=(*found.notes, note) if left else found.notes)


def all_hidden(judgement: Judgement) -> bool:
    """Whether no slope was decided; a zero that passes shows nothing, since the loss may not depend on that entry."""
    shown = judgement.failed | (judgement.passed & (judgement.analytic != 0))
    return bool(judgement.undecided.any() and not shown.any())
