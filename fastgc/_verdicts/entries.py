"""From quotients to verdicts: one quotient for each entry, ladders of steps for those that it does not decide."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from fastgc._arguments import listed
from fastgc._derivatives.displaced import ATTEMPTS, displaced_estimates, displacement
from fastgc._derivatives.entry_ladders import bends_away, ladder_estimates, reached_ladders
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.first_quotients import distinguishing_quotients, quotient_estimates
from fastgc._derivatives.ladder import WRONG_BEYOND
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._derivatives.stencil import Stencil
from fastgc._evaluation.evaluator import OutOfTime, Ray, Stopped
from fastgc._evaluation.held import UNMOVED
from fastgc._evaluation.python import unasked
from fastgc._forks import cached_property
from fastgc._parameters.arrays import AT_ONCE, Array, Flags, Floats, Positions, median, medians, resolutions
from fastgc._parameters.point import SAMPLE, spaced
from fastgc._progress import DOUBT, ENTRIES, Progress
from fastgc._verdicts.judgement import Judgement, Tolerances, gradient_scales, judge
from fastgc._verdicts.nearby import AnalyticNearby, look_nearby, right_around
from fastgc._verdicts.plainly_wrong import PLAIN, far_off, plainly_wrong

Verdicts = Callable[[Estimates], Judgement]
FurtherLook = Callable[[Estimates, Judgement, Verdicts], tuple[Estimates, Judgement]]
GradientsAlong = Callable[[Sequence[Ray]], Sequence[Array]]  # at the parameters displaced along a direction
Ladders = Callable[[Positions, float], Estimates]  # of entries, with steps so many times the usual ones
Beside = Callable[[Estimates, Positions, float, int], tuple[Flags, Flags]]  # which are wrong, and right, on one side

_QUOTIENTS_AT_ONCE = 1 << 15  # entries: their displaced points and values, 1 MB, stay in the cache
_TOGETHER = 1024  # entries of small tensors that are measured together: the cost of a call, 0.4 ms, is 0.4 us for each
_FEWEST_REMARKED = 3  # entries: one or two agree to the last bit by chance
_SLIGHT, _ALIKE = 1e-3, 10.0  # relative differences that tolerances of solvers explain (SciPy's are 1e-3 at most)
_CLEARLY = 1 / 64  # of a difference: what noise may hide of it, and half of what a quotient may be off, to be clear
AROUND = 1e-6  # share of the slopes around the point that an uncertainty at the point is compared with, at least
_ANALYTIC_ROUNDING = 4.0  # eps of the terms of an analytic value: a product of three numbers and its place in a sum
_EPS = float(np.finfo(np.float64).eps)
_ROUND_OFF = 100 * _EPS  # of the loss: a sum of 10,000 terms or so has no more round-off; more is noise


@dataclass(frozen=True)
class GradientAtPoint:
    """One point of a check: everything that estimating and judging its entries needs.

    Attributes
    ----------
    gradients : the analytic gradient, one flat array for each tensor
    sizes : root mean square of each tensor's analytic gradient, which stands for the numerical one until that is known
    displaced : gives the analytic gradient at the point displaced by `DISTANCE` along a direction; None if it cannot
    """

    loss: LossAtPoint
    gradients: Sequence[Array]
    sizes: Floats
    tolerances: Tolerances
    stencil: Stencil
    step: float | None
    displaced: GradientsAlong | None = None

    @cached_property
    def usual_tolerances(self) -> Floats:
        """The allowed difference of an entry of median magnitude (of about 4,000 evenly spaced ones), (tensors,)."""
        large = max(self.loss.layout.sizes, default=0) > SAMPLE
        some = [spaced(each) for each in self.gradients] if large else self.gradients
        ends = np.array([0, *itertools.accumulate(map(len, some))])
        usual = medians(np.abs(np.concatenate([np.empty(0), *some])), ends)
        return np.asarray(self.tolerances.allowed(np.arange(usual.size), usual, self.sizes))

    @cached_property
    def harmless(self) -> Floats:
        """The error of a slope along a direction below which every entry of median magnitude is within tolerance.

        Of shape (tensors,), and 0 where what is allowed overflows.
        """
        with np.errstate(over="ignore"):
            errors = self.usual_tolerances * self.loss.tensor_scales
        return np.where(np.isfinite(errors), errors, 0.0)

    @cached_property
    def norms(self) -> Floats:
        """The norm of each tensor's analytic gradient, shape (tensors,)."""
        return np.asarray(self.sizes * np.sqrt(self.loss.layout.counts))

    @cached_property
    def _joined(self) -> Floats | None:
        """The analytic gradient as one flat vector, where that is small."""
        if self.loss.layout.size > AT_ONCE:
            return None
        return np.concatenate([np.empty(0), *self.gradients])

    @cached_property
    def largest_size(self) -> float:
        """The largest of the ``sizes`` that are finite."""
        return float(self.sizes.max(initial=0.0, where=np.isfinite(self.sizes)))

    def analytic(self, positions: Positions) -> Floats:
        """The analytic gradient at positions of the flat vector."""
        layout = self.loss.layout
        if self._joined is not None:
            return self._joined[positions]
        out = np.empty(positions.size)
        for t, mine in layout.parts(positions):
            out[mine] = self.gradients[t][positions[mine] - layout.starts[t]]
        return out

    def judged(self, estimates: Estimates) -> Judgement:
        """The verdict on every estimated entry, by the scales of these."""
        return self.verdicts(estimates, self.scales(estimates))

    def verdicts(self, estimates: Estimates, scales: Floats) -> Judgement:
        """The verdict on every estimated entry, by scales of the tensors that are known."""
        tensors = self.loss.layout.tensor_of(estimates.positions)
        analytic = self.analytic(estimates.positions)
        scales = np.maximum(scales, self._stillness(estimates, analytic, tensors))
        rounding, around = analytic_rounding(self._eps, scales, self._slopes), AROUND * self._slopes
        return judge(analytic, estimates, tensors, scales, self.tolerances, self._reasons, around, rounding)

    @cached_property
    def _slopes(self) -> Floats:
        """The slopes of each tensor around the point, shape (tensors,)."""
        return self.loss.local_variation / self.loss.tensor_scales

    @cached_property
    def _reasons(self) -> tuple[str, str]:
        return _noise_reasons(self.loss)

    @cached_property
    def _eps(self) -> Floats:
        """Resolution of the analytic gradient's dtype, shape (tensors,)."""
        return resolutions(self.gradients)

    def _stillness(self, estimates: Estimates, analytic: Floats, tensors: Positions) -> Floats:
        """A scale for tensors all of whose slopes are zero within round-off, shape (tensors,); 0 for others.

        No factor or sign could be wrong there. That the loss stays the same to the bit is an answer, too: the slope is
        zero within round-off of the loss. The share is the larger, the less of the slopes around a quotient resolves:
        its own error is near ``eps**(2/3)`` of them.
        """
        count, slopes, moves = self._slopes.size, self._slopes, self.loss.local_variation > 0
        zero = np.abs(analytic) <= analytic_rounding(self._eps, slopes, slopes)[tensors]
        zero &= np.abs(estimates.numerical) <= (estimates.uncertainty if moves else 0.0)
        if not zero.any():
            return np.zeros(count)
        changing = np.bincount(tensors, ~zero, count)
        around = slopes if moves else (abs(self.loss.base) or 1.0) / self.loss.tensor_scales
        return np.where(changing, 0.0, np.maximum(AROUND, np.cbrt(self._eps)) * around)

    def scales(self, estimates: Estimates) -> Floats:
        """Each tensor's scale: of its numerical entries, or of the analytic gradient where none was measured."""
        clear = estimates.clear
        known = estimates.numerical if clear.all() else np.where(clear, estimates.numerical, np.nan)
        return gradient_scales(known, self.loss.layout.tensor_of(estimates.positions), self.sizes)

    def joined(self, estimates: Estimates, judgement: Judgement, others: Estimates) -> tuple[Estimates, Judgement]:
        """Judged entries together with others that were also measured, each of these once, judged by their scales."""
        if not others.positions.size:
            return estimates, judgement
        others = others.part(np.unique(others.positions, return_index=True)[1])
        others = others.part(~np.isin(others.positions, estimates.positions))
        if not others.positions.size:
            return estimates, judgement
        more = self.verdicts(others, self.scales(estimates))
        return Estimates.joined([estimates, others]), Judgement.joined([judgement, more])

    @cached_property
    def left_out(self) -> Sequence[int]:
        """How many entries of each tensor no direction displaces, since they are too near a bound."""
        held = [None if self.loss.bounds is None else self.loss.held(t) for t in range(len(self.gradients))]
        return [0 if each is None else int(np.count_nonzero(each)) for each in held]

    def released(self) -> GradientAtPoint:
        """The same without the arrays of the point: what tensors are judged by, once all their entries are."""
        loss = replace(self.loss, evaluator=unasked(self.loss.layout), complex_loss=None)
        gradients = [spaced(each).copy() for each in self.gradients]
        result = replace(self, loss=loss, gradients=gradients, displaced=None)
        result.__dict__["left_out"] = self.left_out  # as `cached_property` keeps it
        return result


def check_entries(gradient: GradientAtPoint, positions: Positions, bar: Progress) -> tuple[Estimates, Judgement]:
    """A quotient for each entry; a ladder of steps where it does not decide; a second ladder close to the tolerance."""
    quotients = _quotients(gradient, positions, bar)
    judgement = gradient.judged(quotients)
    if judgement.certain:
        bar.failed(0)
        return quotients, judgement
    plain = plainly_wrong(gradient.loss, quotients, judgement)
    if gradient.step is not None:  # its truncation error is known from a few entries, and may be all of the uncertainty
        uncertainty = np.where(plain, WRONG_BEYOND * quotients.uncertainty, quotients.uncertainty)
        quotients = replace(quotients, uncertainty=uncertainty)
    ladders = partial(_ladders, gradient, bar)
    estimates, judgement = decide(quotients, gradient.judged, ladders, plain, judgement)
    estimates, judgement = with_first_look(estimates, judgement, quotients, gradient.judged)
    owners = gradient.loss.layout.tensor_of(quotients.positions)
    certain = np.bincount(owners, plain)[owners] > 0
    looks = partial(confirm, near_the_point(gradient.loss, certain)), partial(excused, gradient)
    estimates, judgement = settled(estimates, judgement, gradient.judged, *looks)
    bar.failed(int(np.count_nonzero(judgement.failed)))
    if gradient.step is not None:
        estimates, judgement = _with_textbook_quotients(estimates, judgement, quotients)
    return without_unreached(estimates, judgement)


def settled(
    estimates: Estimates, judgement: Judgement, verdicts: Verdicts, *further_looks: FurtherLook
) -> tuple[Estimates, Judgement]:
    """The verdicts after further looks at failures. Those that an interrupted look could take back count as unreached.

    Entries wrong by many times their uncertainty, away from a kink, fail without another look.
    """
    if not judgement.failed.any():
        return estimates, judgement
    try:
        for look in further_looks:
            estimates, judgement = look(estimates, judgement, verdicts)
    except Stopped:
        plain = far_off(estimates, judgement)
        open_ones = np.flatnonzero(judgement.failed & ~plain & np.isfinite(judgement.analytic))
        estimates = estimates.troubled(open_ones, "not reached")
        judgement = verdicts(estimates)
    return estimates, judgement


def with_first_look(
    estimates: Estimates, judgement: Judgement, quotients: Estimates, verdicts: Verdicts
) -> tuple[Estimates, Judgement]:
    """The verdicts with the quotients of entries whose ladders an interrupted check did not get to."""
    where = estimates.troubled_by("not reached").nonzero()[0]
    if not where.size:
        return estimates, judgement
    estimates = estimates.updated(where, quotients.part(where)).troubled(where, "not reached")
    return estimates, verdicts(estimates)


def without_unreached(estimates: Estimates, judgement: Judgement) -> tuple[Estimates, Judgement]:
    """The entries without those that an interruption left unmeasured."""
    left = estimates.troubled_by("not reached") & ~np.isfinite(estimates.numerical)
    return (estimates.part(~left), judgement.part(~left)) if left.any() else (estimates, judgement)


def analytic_rounding(eps: Floats | float, scales: Floats, slopes: Floats) -> Floats:
    """Round-off of analytic values of a resolution, from their scales and the slopes around the point."""
    return np.asarray(_ANALYTIC_ROUNDING * eps * np.maximum(scales, slopes))


def decide(
    estimates: Estimates,
    verdicts: Verdicts,
    ladders: Ladders,
    plain: Flags | None = None,
    judgement: Judgement | None = None,
) -> tuple[Estimates, Judgement]:
    """Ladders for all suspects that are not plainly wrong; they can change the scales and reveal more suspects.

    ``judgement`` is that of the estimates, where it is known.
    """
    judgement = judgement or verdicts(estimates)
    climbed = np.zeros(estimates.positions.size, bool) if plain is None else plain.copy()
    while True:
        suspects = ((judgement.failed | judgement.undecided | judgement.unsure) & ~climbed).nonzero()[0]
        if not suspects.size:
            return look_closer(estimates, judgement, verdicts, ladders)
        estimates = estimates.updated(suspects, ladders(estimates.positions[suspects], 1.0))
        climbed[suspects] = True
        judgement = verdicts(estimates)


def look_closer(
    estimates: Estimates, judgement: Judgement, verdicts: Verdicts, ladders: Ladders
) -> tuple[Estimates, Judgement]:
    """Measure entries too close to the tolerance once more, with ladders of other steps."""
    close = judgement.close.nonzero()[0]
    if close.size:
        estimates = estimates.bettered(close, ladders(estimates.positions[close], 2.0))
        judgement = verdicts(estimates)
    return estimates, judgement


@dataclass(frozen=True)
class NearThePoint:
    """What the loss shows nearer to the point than the steps that an estimate rests on.

    Attributes
    ----------
    small_steps : quotients at the smallest steps that distinguish slopes
    bends_away : whether kinks lead from a slope at a position to that of larger steps
    certain : of the entries, those of tensors that fail anyway, since small steps have confirmed an entry
    """

    small_steps: Callable[[Positions, Floats], Floats]
    bends_away: Callable[[int, float], bool]
    certain: Flags | None = None


def near_the_point(loss: LossAtPoint, certain: Flags | None = None) -> NearThePoint:
    """What a loss shows near a point."""
    return NearThePoint(partial(distinguishing_quotients, loss), partial(bends_away, loss), certain)


def confirm(
    near: NearThePoint, estimates: Estimates, judgement: Judgement, verdicts: Verdicts
) -> tuple[Estimates, Judgement]:
    """Take back the failures that small steps contradict.

    Large steps can agree on a slope that is wrong because of kinks nearer to the point. The smallest step whose noise
    still distinguishes the two values meets the fewest kinks: where its quotient is nearer to the analytic value, its
    deviation from the numerical one counts as uncertainty. Only clear evidence counts against very many uncertainties:
    the quotient is the analytic value, and kinks lead away from it. Between jumps, the slope of a loss that rounds a
    part of its values lacks that part, and so may a wrong gradient.
    """
    failed = judgement.failed.nonzero()[0]
    distance = np.abs(judgement.analytic[failed] - estimates.numerical[failed])  # from the middle, at a kink
    far = distance > PLAIN * estimates.uncertainty[failed]
    asked = np.isfinite(distance) if near.certain is None else np.isfinite(distance) & ~(far & near.certain[failed])
    failed, distance, far = failed[asked], distance[asked], far[asked]
    if not failed.size:
        return estimates, judgement
    small = near.small_steps(estimates.positions[failed], np.where(far, _CLEARLY * distance, distance))
    off, left = np.abs(small - estimates.numerical[failed]), np.abs(small - judgement.analytic[failed])
    against = left < np.where(far, 2 * _CLEARLY * distance, off)
    for k in (against & far).nonzero()[0].tolist():
        against[k] = near.bends_away(int(estimates.positions[failed[k]]), float(judgement.analytic[failed[k]]))
        if not against[k]:
            against &= ~far
            break
    uncertainty = estimates.uncertainty.copy()
    uncertainty[failed[against]] = off[against]
    estimates = replace(estimates, uncertainty=uncertainty)
    return estimates, verdicts(estimates)


def excused(
    gradient: GradientAtPoint, estimates: Estimates, judgement: Judgement, verdicts: Verdicts
) -> tuple[Estimates, Judgement]:
    """Take back the failures that the gradient explains where it is asked again, near the point."""
    estimates, judgement = excuse(_beside(gradient), estimates, judgement, verdicts)
    return look_nearby(_nearby(gradient), estimates, judgement, verdicts)


def excuse(
    asked: Beside | None, estimates: Estimates, judgement: Judgement, verdicts: Verdicts
) -> tuple[Estimates, Judgement]:
    """Ask beside the point whether values outside both slopes of a kink are a convention or wrong.

    Where kinks of both signs coincide (a difference of rectifiers, or an interpolation at a node), each follows its
    convention, and their sum may be no slope on either side. A gradient that is right on both sides of such a kink
    passes; one that is wrong on a side fails.
    """
    where = np.flatnonzero(judgement.failed & estimates.troubled_by("kink"))
    if not where.size:
        return estimates, judgement
    if asked is None:
        estimates = estimates.troubled(where, "unasked")
    else:
        estimates = estimates.troubled(where, "outside")
        for attempt in range(ATTEMPTS):
            sides = [asked(estimates, where, side, attempt) for side in (1.0, -1.0)]
            wrong, right = sides[0][0] | sides[1][0], sides[0][1] & sides[1][1]
            estimates = estimates.troubled(where[right], "convention").troubled(where[wrong], "kink")
            where = where[~(wrong | right)]
            if not where.size:
                break
    return estimates, verdicts(estimates)


def _beside(gradient: GradientAtPoint) -> Beside | None:
    """How to ask the gradient beside the point; None where it cannot be called."""
    return None if gradient.displaced is None else partial(_verdicts_beside, gradient, gradient.displaced)


def _nearby(gradient: GradientAtPoint) -> AnalyticNearby | None:
    """How to ask the gradient with an entry displaced; None where it cannot be called."""
    displaced, layout = gradient.displaced, gradient.loss.layout
    if displaced is None:
        return None
    return AnalyticNearby(
        lambda position: (gradient.loss, position),
        lambda rays, positions: replace(gradient, gradients=displaced(rays)).analytic(positions),
        layout.tensor_of,
    )


def _verdicts_beside(
    gradient: GradientAtPoint,
    displaced: GradientsAlong,
    estimates: Estimates,
    where: Positions,
    side: float,
    attempt: int,
) -> tuple[Flags, Flags]:
    """Which entries are wrong on one side of the point, and which are right there."""
    rays = displacement(gradient.loss, side, attempt)
    try:
        there = replace(gradient, gradients=displaced(rays))
    except OutOfTime:
        raise
    except Exception:  # the gradient is not defined there, as a loss may be
        return np.zeros(where.size, bool), np.zeros(where.size, bool)
    found = displaced_estimates(gradient.loss, estimates.positions[where], rays)
    judged = there.verdicts(found, gradient.scales(estimates))
    return judged.failed, judged.passed


def _quotients(gradient: GradientAtPoint, positions: Positions, bar: Progress) -> Estimates:
    """One quotient for each of the sorted positions, or for the first ones if the check is interrupted."""
    found, end = Estimates.unmeasured(positions), 0
    bar.phase(ENTRIES)
    with contextlib.suppress(Stopped):
        for name, some in _pieces(gradient.loss, positions):
            bar.enter(name)
            found.fill(
                some, quotient_estimates(gradient.loss, positions[some], gradient.stencil, gradient.step, bar.advance)
            )
            end = some.stop
    return found if end == positions.size else found.part(slice(end))


def _ladders(gradient: GradientAtPoint, bar: Progress, positions: Positions, shift: float) -> Estimates:
    """Ladders piece by piece, so that the bar names the tensor."""
    parts = []
    bar.phase(DOUBT, more=positions.size)
    for name, some in _pieces(gradient.loss, positions):
        bar.enter(f"{name} ({DOUBT})")
        parts.append(reached_ladders(gradient.loss, positions[some], shift, bar.advance))
    return Estimates.joined(parts)


def _pieces(loss: LossAtPoint, positions: Positions) -> Iterator[tuple[str, slice]]:
    """Parts of sorted positions that are measured together, with the names of their tensors.

    Each is of one large tensor or of several small ones, which are displaced in the same dtype.
    """
    begin, first, last = 0, 0, 0
    names = loss.layout.names
    for t, mine in loss.layout.parts(positions):
        alone = mine.stop - mine.start >= _TOGETHER
        full = alone or mine.start - begin >= _TOGETHER or loss.eps[t] != loss.eps[first]
        if begin < mine.start and full:
            yield _span(names[first], names[last]), slice(begin, mine.start)
        if full or begin == mine.start:
            begin, first = mine.start, t
        if alone:
            for begin in range(mine.start, mine.stop, _QUOTIENTS_AT_ONCE):
                yield names[t], slice(begin, min(begin + _QUOTIENTS_AT_ONCE, mine.stop))
            begin = mine.stop
        last = t
    if begin < positions.size:
        yield _span(names[first], names[last]), slice(begin, positions.size)


def _span(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def _with_textbook_quotients(
    estimates: Estimates, judgement: Judgement, quotients: Estimates
) -> tuple[Estimates, Judgement]:
    """With the step of the caller, ``numerical`` is the quotient with that step; its uncertainty is from the ladder."""
    off = np.abs(quotients.numerical - estimates.numerical)
    plain = np.isfinite(off) & estimates.clear
    uncertainty = np.where(plain, estimates.uncertainty + off, estimates.uncertainty)
    numerical = np.where(plain, quotients.numerical, judgement.numerical)
    shown = replace(estimates, numerical=numerical, uncertainty=uncertainty, step=quotients.step)
    return shown, replace(judgement, numerical=numerical)


def _noise_reasons(loss: LossAtPoint) -> tuple[str, str]:
    """Why a slope is too uncertain, and why one cannot be distinguished from zero."""
    if loss.noise.single:
        return ("round-off (of float32, it seems) hides the slope",) * 2
    if _is_noisy(loss):
        return ("noise of the loss hides the slope",) * 2
    return (
        "round-off leaves the slope too uncertain",
        "the slope vanishes within round-off here: check at another point",
    )


def _is_noisy(loss: LossAtPoint) -> bool:
    """Whether the loss varies by more than round-off of its arithmetic, whose terms may cancel at the point itself."""
    size = max(abs(loss.base), loss.local_variation) or 1.0
    return not loss.noise.single and loss.noise.at_point > max(_ROUND_OFF * size, loss.noise.displaced / 100)


def remarks(gradient: GradientAtPoint, estimates: Estimates, judgement: Judgement) -> Iterator[str]:
    """Remarks on checks that show less than they seem to show."""
    analytic = judgement.analytic
    if not analytic.size:
        return
    if not (gradient.loss.local_variation or estimates.numerical.any()):
        yield UNMOVED
    elif not analytic.any():
        yield "the analytic gradient is zero everywhere"
    elif still := _still_tensors(gradient, estimates, judgement.passed):
        yield f"the slope vanishes in {listed(still)}: a wrong factor would not show there; check at another point"
    if judgement.failed.any():
        yield from _slightly_off(gradient, estimates)
        yield from _wrong_at_the_point(gradient, estimates, judgement)
    if _agrees_to_the_last_bit(gradient, estimates, analytic):
        yield "the analytic gradient agrees with the quotients to the last bit: is it a finite difference itself?"


def _still_tensors(gradient: GradientAtPoint, estimates: Estimates, passed: Flags) -> list[str]:
    """Names of tensors whose slopes all vanish within their uncertainty, unless noise leaves them undecided."""
    if gradient.step is not None:
        return []
    layout, zero = gradient.loss.layout, np.abs(estimates.numerical) <= estimates.uncertainty
    if not zero.any():
        return []
    zero &= passed | (not _is_noisy(gradient.loss))
    tensors = layout.tensor_of(estimates.positions)
    still = (np.bincount(tensors) > 0) & (np.bincount(tensors, ~zero) == 0)
    return [layout.names[t] for t in still.nonzero()[0].tolist()]


def _slightly_off(gradient: GradientAtPoint, estimates: Estimates) -> Iterator[str]:
    """Tensors most of whose entries fail by little, and by about the same share: as behind a solver's tolerance."""
    judged = gradient.judged(estimates)
    for t, part in gradient.loss.layout.parts(estimates.positions):
        failed = judged.part(part).part(judged.failed[part])
        share = failed.distance / np.maximum(np.abs(failed.analytic), np.abs(failed.numerical))
        several = share.size >= max(_FEWEST_REMARKED, judged.failed[part].size / 2)
        if several and share.max() <= min(_SLIGHT, _ALIKE * share.min()):
            yield (
                f"{gradient.loss.layout.names[t]} differs by {median(share):.0e} of its values; "
                "if the loss solves something iteratively, tighten its tolerance or set rtol"
            )


def _wrong_at_the_point(gradient: GradientAtPoint, estimates: Estimates, judgement: Judgement) -> Iterator[str]:
    """Tensors whose gradient fails at the point alone, by the first entry that fails."""
    nearby, failed = _nearby(gradient), np.flatnonzero(judgement.failed & estimates.clear)
    if nearby is None or not failed.size:
        return
    tensors, first = np.unique(nearby.owners(estimates.positions[failed]), return_index=True)
    right = right_around(nearby, estimates, judgement, failed[first])
    for t in tensors[np.isin(failed[first], right)].tolist():
        yield (
            f"{gradient.loss.layout.names[t]} is right a little away from the point and wrong at it: "
            "a tie, a comparison, or conventions at kinks that cancel?"
        )


def _agrees_to_the_last_bit(gradient: GradientAtPoint, estimates: Estimates, analytic: Floats) -> bool:
    """Whether it agrees with quotients more closely than their error, known from a ladder, allows.

    Complex steps and exact slopes, which have no step, have no such error.
    """
    bits = 4 * _EPS
    for each in (slice(0, _FEWEST_REMARKED), slice(_FEWEST_REMARKED, None)):  # the first few mostly differ
        if not (np.abs(analytic[each] - estimates.numerical[each]) <= bits * np.abs(analytic[each])).all():
            return False
    asked = gradient.loss.complex_loss
    if gradient.stencil.is_complex or not estimates.step.all() or (asked is not None and asked.evaluations):
        return False
    some = np.flatnonzero(analytic)[:_FEWEST_REMARKED]
    if some.size < _FEWEST_REMARKED:
        return False
    true = ladder_estimates(gradient.loss, estimates.positions[some]).numerical
    return bool(np.all(np.abs(true - analytic[some]) > 25 * bits * np.abs(analytic[some])))
