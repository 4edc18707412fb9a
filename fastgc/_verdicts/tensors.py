"""The verdict on a tensor, from its checked entries, its probes and what was not reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fastgc._arguments import plural
from fastgc._derivatives.estimates import Estimates
from fastgc._parameters.sampling import NotFinite
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.errors import elementwise_error
from fastgc._verdicts.judgement import Judgement
from fastgc._verdicts.probes import ProbeResult, probe_verdict
from fastgc._words import FAIL, PASS, UNDECIDED, Verdict, worst_verdict


@dataclass(frozen=True)
class CheckedTensor:
    """One tensor at one point.

    Attributes
    ----------
    tensor, point : their numbers
    estimates, judgement : of the entries that were checked one by one, sampled or found by a search
    probed : how random directions covered it, None if none did
    spoiled : entries of its analytic gradient that are not finite, None if all are
    unreached : what the time did not suffice for, "" for nothing
    """

    gradient: GradientAtPoint
    tensor: int
    point: int
    estimates: Estimates
    judgement: Judgement
    probed: ProbeResult | None
    spoiled: NotFinite | None
    unreached: str

    @property
    def measured(self) -> bool:
        """Whether an entry was checked by itself."""
        return bool(self.estimates.positions.size)

    def gap(self) -> str:
        """What was asked for and not measured, "" for nothing."""
        if self.unreached or self.measured or self.probed is not None or not self._size:
            return self.unreached
        return "not reached"

    @property
    def _size(self) -> int:
        return self.gradient.loss.layout.sizes[self.tensor]


def tensor_verdict(checked: Sequence[CheckedTensor], judged: Judgement, lost: Sequence[str]) -> tuple[Verdict, str]:
    """Fail if an entry does or the norm-wise error is above rtol; else undecided if something is; else pass.

    Nothing passes unmeasured. A tensor with entries passes only if its analytic gradient is finite everywhere, and if
    at every point that was asked for an entry was measured by itself, or all of them by directions that resolved
    something. (A tensor without entries has nothing that could be wrong.)

    Entries that are each within tolerance are so together: of the norm-wise error only the probes can say more.

    Parameters
    ----------
    checked : the tensor at every point
    judged : its entries of all points
    lost : why random points were not found
    """
    probes = [
        probe_verdict(each.gradient, each.tensor, each.probed, sampled=each.measured)
        for each in checked
        if each.probed is not None
    ]
    spoiled = [each.spoiled for each in checked if each.spoiled is not None]
    if judged.failed.any() or spoiled:
        return FAIL, "; ".join(_failures(checked[0], judged, spoiled, probes))
    probes += [(UNDECIDED, gap) for gap in _gaps(checked, lost)]
    entries = [UNDECIDED] if judged.undecided.any() else []
    verdict = worst_verdict([*entries, *(verdict for verdict, _ in probes)])
    reasons = [open_reason(judged), *(reason for other, reason in probes if other == verdict or verdict == UNDECIDED)]
    reasons += [_large_error(checked, judged)] if verdict == PASS else []
    return verdict, "; ".join(dict.fromkeys(filter(None, reasons)))


def _large_error(checked: Sequence[CheckedTensor], judged: Judgement) -> str:
    """Why the largest relative error is no failure, where it is above rtol; "" elsewhere."""
    errors = elementwise_error(judged.analytic, judged.numerical)
    if not (errors > checked[0].gradient.tolerances.rtol[checked[0].tensor]).any():
        return ""
    k = int(np.nanargmax(errors))
    if judged.reason[k]:  # which is told anyway
        return ""
    uncertainty = np.concatenate([each.estimates.uncertainty for each in checked])[k]
    if judged.distance[k] <= judged.allowed[k]:
        return f"max rel err is of an entry within atol (off by {judged.distance[k]:.0e})"
    return f"max rel err is within the uncertainty of its entry ({uncertainty:.0e})"


def _failures(
    tensor: CheckedTensor, judged: Judgement, spoiled: Sequence[NotFinite], probes: Sequence[tuple[str, str]]
) -> list[str]:
    """How many entries differ, which are not finite, and what the probes led to."""
    failed = int(np.count_nonzero(judged.failed))
    shape = tensor.gradient.loss.layout.shapes[tensor.tensor]
    hints = [f"not finite in {each.text(shape)}" for each in spoiled]
    hints += [reason for verdict, reason in probes if reason and verdict != UNDECIDED]
    return [f"{share(failed, judged)} {plural(failed, 'differs', 'differ')}", *dict.fromkeys(hints)]


def _gaps(checked: Sequence[CheckedTensor], lost: Sequence[str]) -> Iterator[str]:
    """What was asked for and not measured, point by point."""
    yield from filter(None, (each.gap() for each in checked))
    for reason in lost:
        yield f"not reached: a random point at which loss and gradient are defined ({reason})"


def open_reason(judged: Judgement) -> str:
    """What leaves entries undecided, or where kinks are."""
    unclear = judged.undecided
    if unclear.any():
        reasons, counts = np.unique(judged.reason[unclear].astype(str), return_counts=True)
        return "; ".join(
            f"{reason} ({share(int(count), judged)})" for reason, count in zip(reasons, counts, strict=True)
        )
    if not any(judged.reason.tolist()):
        return ""
    noted, counts = np.unique(judged.reason[judged.passed & (judged.reason != "")].astype(str), return_counts=True)
    return "; ".join(
        f"{'kink at' if reason == 'kink' else f'{reason}, at'} {share(int(count), judged)}"
        for reason, count in zip(noted, counts, strict=True)
    )


def share(count: int, judged: Judgement) -> str:
    """So many of the checked entries, in words."""
    size = judged.failed.size
    return f"{count} of {size} checked {plural(size, 'entry', 'entries')}"
