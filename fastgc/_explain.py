"""Diagnosing the tensors that fail at one point, with a few more evaluations where their samples do not suffice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._compare import Judgement
from fastgc._diagnose import Diagnosis, diagnose, settled
from fastgc._entries import Estimates, quotient_estimates
from fastgc._evaluate import silent
from fastgc._patterns import constant_factor
from fastgc._point import arrays_in
from fastgc._progress import Progress
from fastgc._settle import Site
from fastgc._view import View, wanted

_EVALUATIONS = 64  # for each failing tensor, at most
_TRIALS = 3  # entries that `quotient_estimates` evaluates a second time
_UNKNOWN = ("jump", "quantised", "not finite")  # troubles of entries without a derivative
_OTHERS = 64  # tensors of one shape that a tensor is compared with


@np.errstate(all="ignore")  # a pattern with a number that overflows explains nothing
def explain(
    site: Site, estimates: Estimates, judgement: Judgement, args: Sequence[Any], seed: int, bar: Progress
) -> dict[int, Diagnosis | None]:
    """The diagnosis of every tensor with wrong entries (None: the numbers establish none).

    Parameters
    ----------
    estimates, judgement : of all entries that were looked at, sampled or not
    args : whose lengths may be a factor
    """
    layout = site.scene.layout
    owners = layout.tensor_of(estimates.positions)
    failing = np.unique(owners[judgement.failed]).tolist()
    if not failing:
        return {}
    lengths = _lengths(args)
    views = {}
    shapes = {layout.shapes[t] for t in failing}
    for t in np.unique(owners).tolist():
        if layout.shapes[t] in shapes:
            mine = owners == t
            views[t] = _view(site, t, estimates.part(mine), judgement.part(mine), lengths)
    extra = dict.fromkeys(failing, 0)
    for t in failing:
        local = wanted(views[t], _affordable(site), seed) if not settled(views[t]) else np.empty(0, np.int64)
        if local.size:
            bar.enter(f"{layout.names[t]} (explained)")
            views[t] = views[t].joined(_measured(site, t, local, site.scales(estimates), lengths))
            extra[t] = local.size
    factors = {layout.names[t]: pattern.factor or 0.0 for t in failing for pattern in constant_factor(views[t])}
    return {
        t: diagnose(views[t], {layout.names[s]: views[s] for s in _alike(site, t, views)}, factors, extra[t])
        for t in failing
    }


def _view(site: Site, tensor: int, estimates: Estimates, judgement: Judgement, lengths: dict[int, str]) -> View:
    """The measured entries: at a kink what lies between the slopes, and anything where no derivative is known."""
    layout = site.scene.layout
    gap = np.abs(estimates.right - estimates.left) / 2
    numerical = np.where(gap > 0, estimates.left / 2 + estimates.right / 2, estimates.numerical)
    allowed = site.tolerances.allowed(tensor, np.abs(numerical), float(site.scales(estimates)[tensor]))
    slack = allowed + estimates.uncertainty + gap
    known = np.isfinite(slack) & np.isfinite(numerical) & ~estimates.troubled_by(*_UNKNOWN)
    return View(
        shape=layout.shapes[tensor] or (1,),
        gradient=site.gradients[tensor],
        local=estimates.positions - layout.starts[tensor],
        numerical=np.where(known, numerical, 0.0),
        slack=np.where(known, slack, np.inf),
        parameters=site.scene.evaluator.entries(estimates.positions),
        wrong=judgement.failed,
        right=judgement.passed,
        lengths=lengths,
    )


def _measured(
    site: Site, tensor: int, local: NDArray[np.int64], scales: NDArray[np.float64], lengths: dict[int, str]
) -> View:
    """More entries, each by one quotient: they count for or against a pattern, and accuse nobody."""
    positions = local + site.scene.layout.starts[tensor]
    estimates = quotient_estimates(site.scene, positions, site.stencil, None, silent)
    return _view(site, tensor, estimates, site.verdicts(estimates, scales), lengths)


def _affordable(site: Site) -> int:
    """Entries that quotients can measure with what a diagnosis may cost."""
    return _EVALUATIONS // len(site.stencil.offsets) - _TRIALS


def _alike(site: Site, tensor: int, views: dict[int, View]) -> list[int]:
    """Other tensors of the same shape, the nearest ones in the order of the parameters."""
    shapes = site.scene.layout.shapes
    same = [t for t in views if t != tensor and shapes[t] == shapes[tensor]]
    return sorted(same, key=lambda t: abs(t - tensor))[:_OTHERS]


def _lengths(args: Sequence[Any]) -> dict[int, str]:
    """Where a length is found first among the axes of all arrays in args."""
    found: dict[int, str] = {}
    for number, arg in enumerate(args):
        for array in arrays_in(arg):
            for axis, length in enumerate(array.shape):
                what = "the batch axis" if axis == 0 else f"the length of axis {axis}"
                found.setdefault(length, f"{what} of args[{number}]")
    return {length: place for length, place in found.items() if length > 2}
