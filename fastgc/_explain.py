"""Diagnosing the tensors that fail at one point, with a few more evaluations where their samples do not suffice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._compare import FAIL, PASS, Judgement
from fastgc._diagnose import Diagnosis, diagnose, settled
from fastgc._entries import Estimates, quotient_estimates
from fastgc._evaluate import silent
from fastgc._point import arrays_in
from fastgc._progress import Progress
from fastgc._settle import Site
from fastgc._view import View, wanted

_EVALUATIONS = 64  # for each failing tensor, at most
_TRIALS = 3  # entries that `quotient_estimates` evaluates a second time
_UNUSABLE = ("jump", "quantised", "not finite")
_OTHERS = 64  # tensors of one shape that a tensor is compared with


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
    failing = np.unique(owners[judgement.verdict == FAIL]).tolist()
    lengths = dict(_lengths(args))
    views = {}
    shapes = {layout.shapes[t] for t in failing}
    for t in np.unique(owners).tolist():
        if layout.shapes[t] in shapes:
            mine = owners == t
            views[t] = _view(site, t, estimates.part(mine), judgement.part(mine), lengths)
    extra = dict.fromkeys(failing, 0)
    for t in failing:
        if not settled(views[t]):
            bar.enter(f"{layout.names[t]} (explained)")
            more = _measured(site, t, wanted(views[t], _affordable(site), seed), site.scales(estimates), lengths)
            views[t], extra[t] = views[t].joined(more), more.local.size
    return {
        t: diagnose(views[t], {layout.names[s]: views[s] for s in _alike(site, t, views)}, extra[t]) for t in failing
    }


def _view(site: Site, tensor: int, estimates: Estimates, judgement: Judgement, lengths: dict[int, str]) -> View:
    """The entries whose derivative is known. At a kink it is what lies between the slopes."""
    usable = np.isfinite(estimates.uncertainty) & ~np.isin(estimates.trouble, _UNUSABLE)
    usable &= np.isfinite(estimates.left) & np.isfinite(estimates.right) & np.isfinite(estimates.numerical)
    estimates, verdict = estimates.part(usable), judgement.verdict[usable]
    kink = estimates.trouble == "kink"
    gap = np.where(kink, np.abs(estimates.right - estimates.left) / 2, 0.0)
    numerical = np.where(kink, estimates.left / 2 + estimates.right / 2, estimates.numerical)
    scale = float(site.scales(estimates)[tensor])
    allowed = site.tolerances.allowed(tensor, np.abs(numerical), scale)
    layout = site.scene.layout
    return View(
        shape=layout.shapes[tensor] or (1,),
        gradient=site.gradients[tensor],
        local=estimates.positions - layout.starts[tensor],
        numerical=numerical,
        slack=allowed + estimates.uncertainty + gap,
        parameters=site.scene.evaluator.entries(estimates.positions),
        wrong=verdict == FAIL,
        right=verdict == PASS,
        lengths=_own_lengths(layout.shapes[tensor]) | lengths,
    )


def _measured(site: Site, tensor: int, local: NDArray[np.int64], scales: NDArray[np.float64], lengths: dict[int, str]) -> View:
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


def _lengths(args: Sequence[Any]) -> Iterator[tuple[int, str]]:
    """Lengths of the axes of all arrays in args, the first of a length last: it is the one kept."""
    places = [
        (length, f"the {'batch axis' if axis == 0 else f'length of axis {axis}'} of args[{number}]")
        for number, arg in enumerate(args)
        for array in arrays_in(arg)
        for axis, length in enumerate(array.shape)
    ]
    return reversed([(length, place) for length, place in places if length > 2])


def _own_lengths(shape: tuple[int, ...]) -> dict[int, str]:
    return {length: f"the length of axis {axis} of the tensor" for axis, length in enumerate(shape) if length > 2}
