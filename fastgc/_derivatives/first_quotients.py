"""Difference quotients of single entries: one for each, and nearer ones for those in doubt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.ladder import TOP
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._derivatives.stencil import Stencil, quotients, relative_step, short, stencil_named
from fastgc._evaluation.evaluator import Stopped, Tick, silent
from fastgc._parameters.arrays import Flags, Floats, Positions, ends_of_runs, medians

FINEST = 128.0  # the smallest step, in units of eps: seven bits of the displacement are left
NOISIEST = 1e-6  # relative noise that a step is chosen for at most: a central step stays below 0.01 of the scale
TRIALS = 3  # entries of each tensor that measure its truncation error: the fewest of which a median ignores one
# Of the two steps that show it. No power of two: a loss that has one for its period would hide its slope at both.
TRIAL_RATIO = 3.7
TRIAL_SAFETY = 3.0  # on a median of three; an entry that exceeds it climbs a ladder if it matters
_DISTINCT = 0.7  # of the difference of two slopes: a quotient with so much noise is on the right side of their middle
_NEAR_STEPS = (1.0, 1.3, 1.7)  # times the smallest step that distinguishes slopes; no two share a grid of values


def quotient_estimates(
    loss: LossAtPoint, positions: Positions, stencil: Stencil, step: float | None, tick: Tick
) -> Estimates:
    """One difference quotient for each entry; a few entries of each tensor measure the truncation error.

    The uncertainty adds the noise of the values, ``noise * sum(|weights|) / h``, to the tensor's truncation error,
    which grows as ``h**order``: quotients at h and 4h differ by 4**order - 1 times the error of the first.
    """
    owners = loss.layout.tensor_of(positions)
    reach, steps = _steps(loss, positions, owners, stencil, step)
    trials = _trials(owners)
    wide = _quotients(loss, positions[trials], stencil, steps[trials] * TRIAL_RATIO, step is not None, silent)
    numerical, finished = _reached(partial(_quotients, loss, positions, stencil, steps, step is not None, tick))
    with np.errstate(all="ignore"):
        errors = np.abs(wide - numerical[trials]) / (TRIAL_RATIO**stencil.order - 1) / reach[trials] ** stencil.order
    truncation = _usual(errors, owners[trials], finished)[owners] * TRIAL_SAFETY * reach**stencil.order
    noise = sum(map(abs, stencil.weights)) * _noise_of(loss, stencil, numerical, steps, reach) / steps
    uncertainty = np.maximum(truncation + noise, np.finfo(np.float64).tiny)
    return Estimates(positions, numerical, uncertainty, numerical, numerical, steps, np.zeros(positions.size, np.int8))


def plain_quotients(
    loss: LossAtPoint, positions: Positions, stencil: Stencil, step: float | None, tick: Tick
) -> Floats:
    """One difference quotient for each entry, without uncertainties."""
    _, steps = _steps(loss, positions, loss.layout.tensor_of(positions), stencil, step)
    return _quotients(loss, positions, stencil, steps, step is not None, tick)


def _trials(owners: Positions) -> Positions:
    """Evenly spaced ones of the entries of each tensor; ``owners`` are the tensors of all entries."""
    order, number = owners.argsort(kind="stable"), np.arange(TRIALS)
    ends = ends_of_runs(owners[order])[:, None]
    sizes = ends[1:] - ends[:-1]
    counts = np.minimum(sizes, TRIALS)
    spaced = ends[:-1] + number * (sizes - 1) // np.maximum(1, counts - 1)
    return np.asarray(order[spaced[number < counts]])


def _steps(
    loss: LossAtPoint, positions: Positions, owners: Positions, stencil: Stencil, step: float | None
) -> tuple[Floats, Floats]:
    """The step of each entry: in units of its scale, so that no power of it overflows, and as a number."""
    scales = loss.scales(positions, owners)
    if step is not None:
        return step / scales, np.full(positions.size, float(step))
    relative_noise = loss.noise.at_point / abs(loss.base) if loss.base else 0.0
    reach = short(relative_step(stencil, np.clip(relative_noise, loss.eps[owners], NOISIEST)))
    return reach, reach * scales


def usual_steps(loss: LossAtPoint, positions: Positions) -> Floats:
    """The step of a central quotient of each entry, whatever formula or step was asked for."""
    return _steps(loss, positions, loss.layout.tensor_of(positions), stencil_named("central"), None)[1]


def _noise_of(loss: LossAtPoint, stencil: Stencil, numerical: Floats, steps: Floats, reach: Floats) -> Floats:
    if stencil.is_complex:  # nothing is subtracted: the imaginary part is rounded in a few operations, say eight
        return 4 * np.finfo(np.float64).eps * np.abs(numerical) * steps
    return loss.noise.at(reach)


def _quotients(
    loss: LossAtPoint, positions: Positions, stencil: Stencil, steps: Floats, nominal: bool, tick: Tick
) -> Floats:
    x = loss.evaluator.entries(positions)[:, None]
    displaced = loss.evaluator.rounded(positions, x + np.array(stencil.offsets) * steps[:, None])
    taken = None if nominal else displaced - x
    try:
        return quotients(stencil, loss.evaluator.values(positions, displaced, tick), steps, taken)
    except Stopped as stopped:
        if stopped.values is not None and stopped.values.shape == displaced.shape:
            stopped.values = quotients(stencil, stopped.values, steps, taken)
            raise
        raise Stopped from None


def _reached(measured: Callable[[], Floats]) -> tuple[Floats, bool]:
    """What is measured, and whether all of it is; nan where an interruption came first, `Stopped` if nothing is."""
    try:
        return measured(), True
    except Stopped as stopped:
        if stopped.values is None:
            raise
        return stopped.values, False


def _usual(errors: Floats, owners: Positions, finished: bool) -> Floats:
    """The median of the errors of each tensor, as far as they were measured; infinite where none was.

    ``owners``, the tensors of the errors, are sorted.
    """
    found = np.full(1 + owners.max(initial=-1), np.inf)
    if not finished:
        measured = ~np.isnan(errors)
        errors, owners = errors[measured], owners[measured]
    ends = ends_of_runs(owners)
    found[owners[ends[:-1]]] = medians(errors, ends)
    return found


# --- nearer quotients ---


def distinguishing_quotients(
    loss: LossAtPoint, positions: Positions, differences: Floats, near: Sequence[float] = _NEAR_STEPS
) -> Floats:
    """Central quotients at the smallest steps whose noise still distinguishes slopes that differ by so much.

    Each is the median over three steps (or ``near`` times one): noise misleads one of three now and then, and two
    hardly ever.
    """
    x, scales = loss.evaluator.entries(positions), loss.scales(positions)
    eps = loss.eps[loss.layout.tensor_of(positions)]
    least = _DISTINCT * differences
    steps = loss.noise.at(loss.noise.at_point / least / scales) / least
    steps = np.clip(steps, eps * np.maximum(FINEST * np.abs(x), scales), TOP * scales)
    central = stencil_named("central")
    found = [_quotients(loss, positions, central, each * steps, False, silent) for each in near]
    return np.asarray(np.median(found, axis=0))


def hidden(loss: LossAtPoint, positions: Positions, differences: Floats) -> Flags:
    """Which differences of slopes noise hides at the largest step, and so at every step."""
    noise = loss.noise.at(np.full(positions.size, TOP))
    return np.asarray(noise > _DISTINCT * differences * TOP * loss.scales(positions))
