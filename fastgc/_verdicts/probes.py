"""Probes: random directions that cover every entry of all tensors, and the search for wrong entries."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fastgc._arguments import plural
from fastgc._derivatives.directions import CERTAIN, SUSPICIOUS, Probing, groups, probe, probe_like
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.first_quotients import quotient_estimates
from fastgc._derivatives.ladder import WRONG_BEYOND
from fastgc._derivatives.random_weights import MEAN_SQUARE, OF_ENTRY, OF_NORM, chance_at_limits
from fastgc._evaluation.evaluator import OutOfTime, silent
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Flags, Floats, Positions, norm, without
from fastgc._progress import Progress
from fastgc._verdicts.confirmed import ConfirmedEntries
from fastgc._verdicts.entries import GradientAtPoint
from fastgc._verdicts.judgement import SCALE_FLOOR, Judgement
from fastgc._words import FAIL, PASS, UNDECIDED

if TYPE_CHECKING:
    from fastgc._verdicts.search import Located

_USEFUL = 0.1  # of the gradient's norm: with a larger limit a gradient wrong by a tenth as a whole would not show
# Of the tolerance of a median entry, which limits what shows: three directions then miss an error of rtol of 10,000
# entries with 1e-6 (bench/huge.py, "million"), and a smaller uncertainty gains little.
ENOUGH = 0.05
_OWN = 3  # directions, the default of `probes`: two would miss an error of rtol of 10,000 entries with 1e-4
_MISSED = 1e-6  # the probability with which three directions are meant to miss an error of rtol of a tensor
_MORE_SHARED = 3  # shared directions: two or four values each, where a tensor alone takes 14 to 20
_TWICE = 2.0  # limits may grow by this factor where tensors share directions (bench/huge.py, "tensors")
_COPIED = 1 << 24  # entries that are displaced together, in many tensors: their copy takes 128 MiB in double precision
_NAMED = 100  # tensors in the same directions that each tensor's probe names: all of any usual network
WHOLLY = 0.5  # share of wrong samples above which a search adds nothing: most entries are wrong


@dataclass(frozen=True)
class ProbeResult:
    """The random directions through a tensor, and the entries that they led to (None where nothing was searched)."""

    probing: Probing
    located: Located | None = None
    measured: float = 0.0  # the uncertainty of the residuals before a fruitless search added to it


def probe_tensors(
    gradient: GradientAtPoint, tensors: Sequence[int], probes: int, seed: int, bar: Progress, *, hurried: bool = False
) -> dict[int, Probing]:
    """Probe all tensors together, then separately each tensor (or a few of very many) that needs a closer look.

    Where time may run out (``hurried``) they are probed separately first, so that each result counts.
    """
    enough: dict[int, Probing] = {}
    found: dict[int, Probing] = {}
    can_be_probed = ((gradient.loss.layout.counts > 0) & np.isfinite(gradient.sizes)).tolist()
    filled = [t for t in tensors if can_be_probed[t]]
    numbers = range(min(probes, _OWN))
    with contextlib.suppress(OutOfTime):
        shared, served = (None, []) if hurried else _through_all(gradient, filled, probes, seed, bar)
        enough = dict.fromkeys(served, shared) if shared is not None else {}
        rest = [t for t in filled if t not in enough]
        for group in groups(gradient.loss, rest, gradient.gradients) if probes else []:
            bar.enter(f"{gradient.loss.layout.names[group[0]]} (probes)")
            found |= dict.fromkeys(group, _probed(gradient, group, numbers, seed))
        if probes > _OWN:
            shared = _through_all(gradient, filled, probes, seed, bar)[0] if hurried else shared
            found |= _followed_up(gradient, found, shared, range(_OWN, probes), seed)
    return enough | _settled(gradient, found, seed)


def _settled(gradient: GradientAtPoint, found: dict[int, Probing], seed: int) -> dict[int, Probing]:
    """The probings; those too uncertain are measured again by the complex step, where that can be relied on."""
    again: dict[int, Probing] = {}
    with contextlib.suppress(OutOfTime):
        for t, probing in found.items():
            if id(probing) not in again and _wants_better(gradient, t, probing):
                again[id(probing)] = _by_complex_step(gradient, probing, None, seed) or probing
    return {t: again.get(id(probing), probing) for t, probing in found.items()}


def _wants_better(gradient: GradientAtPoint, tensor: int, probing: Probing) -> bool:
    """Whether a gradient wrong by a tenth might not show; with a complex step that starts fast, one wrong by rtol."""
    complex_loss = gradient.loss.complex_loss
    if complex_loss is None or complex_loss.slow_start:
        return not resolves(gradient, tensor, probing)
    allowed = gradient.tolerances.rtol[tensor] * _larger(*_norms(gradient, [tensor], probing))
    return not (CERTAIN * _limit(gradient, [tensor], probing) <= allowed)[0]


def _by_complex_step(gradient: GradientAtPoint, probing: Probing, numbers: range | None, seed: int) -> Probing | None:
    """The probing with these directions (None for its own) by the complex step; None where that may be wrong."""
    if gradient.loss.complex_loss is None or gradient.loss.complex_loss.trouble:
        return None
    from fastgc._verdicts.complex_step import settled  # few checks need it, and it takes time to import

    return settled(gradient, probing, numbers or probing.numbers, seed, ENOUGH * _harmless(gradient, probing.tensors))


def _through_all(
    gradient: GradientAtPoint, tensors: Sequence[int], probes: int, seed: int, bar: Progress
) -> tuple[Probing | None, Sequence[int]]:
    """Directions through all tensors at once, no more than a few where they differ; None where that is not possible.

    Also which tensors they serve (see `_served`), which then need none by themselves. Up to `_MORE_SHARED` more are
    measured where they serve more tensors.
    """
    sizes = [gradient.loss.layout.sizes[t] for t in tensors]
    if not probes or len(tensors) < 2 or sum(sizes) > max(_TWICE * max(sizes), _COPIED):
        return None, []
    bar.enter("all (probes)")
    shared = _probed(gradient, tensors, range(probes), seed, few=_OWN)
    if shared.trouble:
        return None, []
    served = _served(gradient, tensors, shared.uncertainties)
    if len(served) == len(tensors):
        return shared, served
    rows = [np.append(shared.uncertainties, [shared.uncertainty] * more) for more in range(1, _MORE_SHARED + 1)]
    counts = [len(served), *(len(_served(gradient, tensors, row)) for row in rows)]
    more = counts.index(max(counts))  # the fewest for the most
    if not more:
        return shared, served
    further, enough = range(shared.numbers.stop, shared.numbers.stop + more), ENOUGH * _harmless(gradient, tensors)
    shared = shared.extended(probe_like(gradient.loss, tensors, gradient.gradients, shared, further, seed, enough))
    return shared, _served(gradient, tensors, shared.uncertainties)


def _served(gradient: GradientAtPoint, tensors: Sequence[int], uncertainties: Floats) -> list[int]:
    """The tensors of which directions through all of them show nearly as much as directions through one alone.

    Errors of entries show within a factor of two of the tolerance of a median one, or an error of rtol of the tensor is
    missed as rarely as three directions through it alone are meant to.
    """
    some = list(tensors)
    entry = OF_ENTRY.limit(uncertainties, chance_at_limits(uncertainties.size))
    errors = gradient.tolerances.rtol[some] * (gradient.norms * gradient.loss.tensor_scales)[some]
    shown = (errors > 0) & (errors >= OF_NORM.limit(uncertainties, _MISSED))
    served = shown | (entry <= _TWICE * gradient.harmless[some])
    return [t for t, each in zip(some, served.tolist(), strict=True) if each]


def _probed(
    gradient: GradientAtPoint, tensors: Sequence[int], numbers: range, seed: int, few: int = sys.maxsize
) -> Probing:
    """Probe to an uncertainty far below the tolerance of a median entry, on which the limits rest, and no further.

    Where complex steps are preferred, differences measure only the first direction, which these have to agree with.
    """
    loss, enough = gradient.loss, ENOUGH * _harmless(gradient, tensors)
    if loss.complex_loss is not None and loss.complex_loss.preferred and not loss.complex_loss.trouble:
        first = probe(loss, tensors, gradient.gradients, numbers[:1], seed, enough)
        found = _by_complex_step(gradient, first, numbers, seed)
        if found is not None:
            return found
    return probe(loss, tensors, gradient.gradients, numbers, seed, enough, few)


def _harmless(gradient: GradientAtPoint, tensors: Sequence[int]) -> float:
    """The error of a slope that is `harmless` in all of these tensors."""
    return float(gradient.harmless[list(tensors)].min())


def _followed_up(
    gradient: GradientAtPoint, found: dict[int, Probing], shared: Probing | None, numbers: range, seed: int
) -> dict[int, Probing]:
    """The probings with more directions: shared ones where the limits stay nearly as small, else separate ones."""
    groups = list({id(probing): probing for probing in found.values()}.values())
    more: dict[int, Probing] = {}
    if shared is not None and not any(group.suspicious or group.trouble for group in (shared, *groups)):
        rest = shared.part(numbers)
        more = {t: rest for t, own in found.items() if _nearly_as_good(gradient, t, rest, own)}
    for group in groups:
        lacking = [t for t in group.tensors if found[t] is group and t not in more]
        if lacking:
            more |= dict.fromkeys(lacking, _probed(gradient, lacking, numbers, seed))
    extended = {(id(found[t]), id(more[t])): found[t].extended(more[t]) for t in found}  # still shared where both are
    return {t: extended[id(found[t]), id(more[t])] for t in found}


def _nearly_as_good(gradient: GradientAtPoint, tensor: int, shared: Probing, own: Probing) -> bool:
    """Whether shared directions show errors of an entry within a factor of two of what separate ones show."""
    return shared.uncertainty <= _TWICE * max(own.uncertainty, _harmless(gradient, [tensor]) / CERTAIN)


def search(
    gradient: GradientAtPoint,
    spoiled: Positions,
    probings: dict[int, Probing],
    sampled: Estimates,
    judged: Judgement,
    seed: int,
    bar: Progress,
) -> tuple[dict[int, ProbeResult], Estimates]:
    """Find the wrong entries of every suspicious tensor; also the estimates of all entries looked at.

    A tensor most of whose samples are wrong is not searched. One whose analytic gradient is not finite somewhere cannot
    be probed: these entries (``spoiled``) are wrong as they stand, whether there is time to measure them or not.
    """
    shared = shared_by(probings)
    coverages = {t: result for probing, mine in shared for t, result in _unsearched(probing, mine).items()}
    if not spoiled.size and not any(probing.suspicious or probing.trouble for probing, _ in shared):
        return coverages, Estimates.unmeasured(spoiled)
    entries = ConfirmedEntries(gradient, sampled)
    owners = gradient.loss.layout.tensor_of(sampled.positions)
    wholly = {*(np.bincount(owners, judged.failed) > WHOLLY * np.bincount(owners)).nonzero()[0].tolist()}
    with contextlib.suppress(OutOfTime):
        unsampled = without(spoiled, sampled.positions)
        if unsampled.size:  # no number is within tolerance of them: a quotient shows what they should be
            some = quotient_estimates(gradient.loss, unsampled, gradient.stencil, gradient.step, silent)
            entries.estimates.append(some)
        for results in _told_apart(gradient, shared, wholly, seed, entries):
            coverages |= results
        for t, coverage in coverages.items():
            if coverage.located is None and coverage.probing.suspicious and t not in wholly:
                bar.enter(f"{gradient.loss.layout.names[t]} (searched)")
                coverages[t] = _searched(gradient, _followed_better(gradient, coverage.probing, seed), seed, entries)
    return coverages, Estimates.joined([*entries.estimates, Estimates.unknown(spoiled)])


def _unsearched(probing: Probing, tensors: Sequence[int]) -> dict[int, ProbeResult]:
    """The results of tensors that share a probing, before anything is searched for."""
    return dict.fromkeys(tensors, ProbeResult(probing))


def _told_apart(
    gradient: GradientAtPoint,
    waiting: list[tuple[Probing, list[int]]],
    wholly: set[int],
    seed: int,
    entries: ConfirmedEntries,
) -> Iterator[dict[int, ProbeResult]]:
    """Results of tensors that share suspicious directions: separate ones, unless the residuals point at one entry.

    The samples show of those ``wholly`` wrong that they differ: no ladder has to confirm it along a direction.
    """
    while waiting:
        shared, mine = waiting.pop()
        if len(shared.tensors) == 1 or not (shared.suspicious or shared.trouble):
            yield _unsearched(shared, mine)
        elif (pointed := _pointed(gradient, shared, mine, seed, entries)) is not None:
            yield pointed
        else:
            for group in groups(gradient.loss, mine, gradient.gradients):
                enough = ENOUGH * _harmless(gradient, group)
                known = replace(shared, tensors=tuple(group)) if wholly.issuperset(group) else shared
                own = probe_like(gradient.loss, group, gradient.gradients, known, shared.numbers, seed, enough)
                waiting.append((own, list(group)))


def _pointed(
    gradient: GradientAtPoint, shared: Probing, tensors: Sequence[int], seed: int, entries: ConfirmedEntries
) -> dict[int, ProbeResult] | None:
    """The results of these tensors if wrong entries of one tensor explain all residuals, which point at them."""
    from fastgc._verdicts.search import pointed_at  # few checks need it, and it takes time to import

    sizes = gradient.loss.layout.sizes
    for t in sorted(shared.tensors, key=lambda t: sizes[t]) if not shared.trouble else ():  # few coincidences first
        alone = replace(shared, tensors=(t,))
        found = pointed_at(gradient.loss, alone, gradient.gradients, seed, entries)
        if found is not None:
            located, left = found
            uncertainties = np.maximum(shared.uncertainties, np.abs(left) / SUSPICIOUS)
            others = ProbeResult(replace(shared, residuals=left, uncertainties=uncertainties))
            return {other: ProbeResult(alone, located) if other == t else others for other in tensors}
    return None


def _searched(gradient: GradientAtPoint, probing: Probing, seed: int, entries: ConfirmedEntries) -> ProbeResult:
    from fastgc._verdicts.search import localise

    if not probing.suspicious:
        return ProbeResult(probing)
    located = localise(gradient.loss, probing, gradient.gradients, seed, entries)
    return ProbeResult(_less_certain(probing) if not located.wrong else probing, located, probing.uncertainty)


def _followed_better(gradient: GradientAtPoint, probing: Probing, seed: int) -> Probing:
    """The probing of a suspicious tensor, by the complex step where that can be relied on and starts fast."""
    complex_loss = gradient.loss.complex_loss
    if complex_loss is None or complex_loss.slow_start or probing.quick.imaginary or len(probing.tensors) > 1:
        return probing
    return _by_complex_step(gradient, probing, None, seed) or probing


def _less_certain(probing: Probing) -> Probing:
    """The probing, with residuals that led to no wrong entry counted as uncertainty."""
    largest = float(np.abs(probing.residuals).max())
    return replace(probing, uncertainties=np.maximum(probing.uncertainties, largest / SUSPICIOUS))


# --- what probes say of a tensor ---


def probe_verdict(gradient: GradientAtPoint, tensor: int, coverage: ProbeResult, *, sampled: bool) -> tuple[str, str]:
    """The verdict of the probes alone, and its reason or a remark; wrong entries are counted elsewhere."""
    probing, located = coverage.probing, coverage.located
    if not resolves(gradient, tensor, probing):
        reason = f"probes are too uncertain here ({probing.trouble or 'noise or nearby kinks'})"
        return (PASS if sampled else UNDECIDED), reason
    if located is None and probing.suspicious:
        return UNDECIDED, "a probe disagreed, but time ran out before it was traced"
    if located is None:
        return PASS, ""
    if located.wrong:
        return PASS, _whereabouts(located, len(gradient.loss.layout.shapes[tensor]))
    if located.misled:
        return PASS, "probes disagree, but no single entry does (kinks?)"
    low = (_interval(probing, 1e-6)[0] - WRONG_BEYOND * coverage.measured) / float(gradient.loss.tensor_scales[tensor])
    rounding = float(np.finfo(gradient.gradients[tensor].dtype).eps)  # a float32 gradient is no closer than that
    if low > (float(gradient.tolerances.rtol[tensor]) + rounding) * float(np.sum(_norms(gradient, [tensor], probing))):
        return FAIL, "many small differences, together above rtol"
    return PASS, "differences below rtol"


def resolves(gradient: GradientAtPoint, tensor: int, probing: Probing) -> bool:
    """Whether the probes of a tensor are certain enough to show a gradient that is wrong by a tenth of its norm."""
    return bool(resolved(gradient, [tensor], probing)[0])


def resolved(gradient: GradientAtPoint, tensors: list[int], probing: Probing) -> Flags:
    """`resolves` for each of the tensors that share a probing."""
    floor = SCALE_FLOOR * gradient.largest_size * np.sqrt(gradient.loss.layout.counts[tensors])
    size = _larger(_larger(*_norms(gradient, tensors, probing)), floor)
    certain = np.isfinite(size) & (CERTAIN * _limit(gradient, tensors, probing) <= _USEFUL * size)
    return certain if not probing.trouble else np.zeros(len(tensors), bool)


def unresolved(gradient: GradientAtPoint, coverages: Mapping[int, ProbeResult]) -> set[int]:
    """The tensors whose probes are too uncertain; see `resolves`."""
    found: set[int] = set()
    for probing, tensors in _sharing(coverages):
        found.update(itertools.compress(tensors, (~resolved(gradient, tensors, probing)).tolist()))
    return found


def _sharing(coverages: Mapping[int, ProbeResult]) -> list[tuple[Probing, list[int]]]:
    return shared_by({t: each.probing for t, each in coverages.items()})


def shared_by(probings: Mapping[int, Probing]) -> list[tuple[Probing, list[int]]]:
    """Each probing, and the tensors that share it."""
    distinct = list({id(probing): probing for probing in probings.values()}.values())
    if len(distinct) == 1:
        return [(distinct[0], list(probings))]
    users: dict[int, tuple[Probing, list[int]]] = {}
    for t, probing in probings.items():
        users.setdefault(id(probing), (probing, []))[1].append(t)
    return list(users.values())


def _whereabouts(located: Located, ndim: int) -> str:
    if located.line is not None:
        axis, index = located.line
        return f"all of [{', '.join(str(index) if k == axis else ':' for k in range(ndim))}] is wrong"
    if located.complete:
        return ""
    return f"at least {len(located.wrong)} {'entry is' if len(located.wrong) == 1 else 'entries are'} wrong"


def probe_tables(gradient: GradientAtPoint, coverages: Mapping[int, ProbeResult]) -> list[ProbeTable]:
    """What makes the probes of the tensors, one for all that share a probing."""
    return [_probe_table(gradient, coverages, *each) for each in _sharing(coverages)]


def _probe_table(
    gradient: GradientAtPoint, coverages: Mapping[int, ProbeResult], probing: Probing, tensors: list[int]
) -> ProbeTable:
    return ProbeTable(
        probing,
        gradient.loss.layout.names,
        {t: k for k, t in enumerate(tensors)},
        np.array([coverages[t].located is not None for t in tensors]) | probing.suspicious,
        _norms(gradient, tensors, probing),
        gradient.loss.tensor_scales[tensors],
        gradient.tolerances.rtol[tensors],
        gradient.usual_tolerances[tensors],
        resolved(gradient, tensors, probing),
        None if gradient.loss.bounds is None else gradient.left_out,
    )


@dataclass(frozen=True)
class ProbeTable:
    """Makes the probes of tensors that share a probing, in units of their gradients, when somebody asks for one.

    It holds nothing of the loss, so that reports keep no parameters.

    Attributes
    ----------
    names : of all tensors
    places : of the tensors that share it in the arrays, which have the shape (tensors,)
    seen : whether a difference was seen
    norms : of the analytic gradients, and of the numerical ones
    scales, rtol, usual_tolerances, certain : of the tensors, see `GradientAtPoint` and `resolved`
    left_out : entries of each of all tensors that no direction displaces; None where all are displaced
    """

    probing: Probing
    names: Sequence[str]
    places: Mapping[int, int]
    seen: Flags
    norms: tuple[Floats, Floats]
    scales: Floats
    rtol: Floats
    usual_tolerances: Floats
    certain: Flags
    left_out: Sequence[int] | None

    @property
    def remarkable(self) -> Iterator[int]:
        """The tensors whose probes do not pass, or with a remark; see `probe_verdict`."""
        return itertools.compress(self.places, (self.seen | ~self.certain).tolist())

    def probe(self, tensor: int) -> Probe:
        """The probe of a tensor."""
        k, probing = self.places[tensor], self.probing
        seen, error, low, high, entry, relative, largest, missed, certain = (each[k].item() for each in self._columns)
        return Probe(
            residuals=tuple((probing.residuals / self.scales[k]).tolist()),
            uncertainties=tuple((probing.uncertainties / self.scales[k]).tolist()),
            seen=seen,
            relative_error=error,
            interval=(low, high),
            entry_limit=entry,
            norm_limit=relative,
            norm=largest,
            miss_probability=missed,
            resolved=certain,
            left_out=0 if self.left_out is None else self.left_out[tensor],
            shared_with=_others(tensor, probing.beside or probing.tensors, self.names),
        )

    @cached_property
    def _columns(self) -> tuple[Floats | Flags, ...]:
        """What is computed for all tensors together."""
        probing, seen, scales = self.probing, self.seen, self.scales
        count, chance = probing.residuals.size, chance_at_limits(probing.residuals.size)
        largest, together = _larger(*self.norms), self.norms[0] + self.norms[1]
        with np.errstate(all="ignore"):
            relative = OF_NORM.limit(probing.uncertainties, chance) / scales / largest
            low, high = _interval(probing, 0.025) if seen.any() else (0.0, 0.0)
            interval = np.where(seen, low / scales / together, 0.0), np.where(seen, high / scales / together, relative)
            estimate = norm(probing.residuals) / (count * MEAN_SQUARE) ** 0.5 / scales / together
            entry = _larger(OF_ENTRY.limit(probing.uncertainties, chance) / scales, self.usual_tolerances)
            missed = OF_NORM.missed_each(probing.uncertainties / scales[:, None], self.rtol * largest)
        return seen, np.where(seen, estimate, relative), *interval, entry, relative, largest, missed, self.certain


def _others(tensor: int, sharing: tuple[int, ...], names: Sequence[str]) -> tuple[str, ...]:
    return tuple([names[t] for t in sharing[: _NAMED + 1] if t != tensor][:_NAMED])


def _larger(one: Floats, other: Floats) -> Floats:
    """The larger of two numbers; the first where one of them is NaN."""
    return np.where(other > one, other, one)


def _limit(gradient: GradientAtPoint, tensors: list[int], probing: Probing) -> Floats:
    """The uncertainty of a residual in units of each tensor's gradient."""
    return np.asarray(probing.uncertainty / gradient.loss.tensor_scales[tensors])


def _norms(gradient: GradientAtPoint, tensors: list[int], probing: Probing) -> tuple[Floats, Floats]:
    """Norms of the analytic and of the numerical gradient; E[slope**2] is `MEAN_SQUARE` times the latter's square."""
    analytic = gradient.norms[tensors]
    if len(probing.tensors) > 1:  # the slopes are the group's, and no difference was seen
        return analytic, analytic
    slopes = norm(probing.slopes)
    with np.errstate(all="ignore"):
        if probing.analytic.any():
            return analytic, analytic * np.float64(slopes / norm(probing.analytic))
        return analytic, slopes / (probing.slopes.size * MEAN_SQUARE) ** 0.5 / gradient.loss.tensor_scales[tensors]


def _interval(probing: Probing, tail: float) -> tuple[float, float]:
    """Interval of ||a - n|| times the scale: residuals are nearly normal, so chi-squared, with E[r**2] as above."""
    from scipy.special import chdtri

    count, length = probing.residuals.size, norm(probing.residuals) / MEAN_SQUARE**0.5
    return length / float(chdtri(count, tail)) ** 0.5, length / float(chdtri(count, 1 - tail)) ** 0.5


@dataclass(frozen=True, repr=False)
class Probe:
    """What random directions, each over all entries of a tensor, showed; in units of the gradient.

    The directions give every entry a random sign and a random magnitude. Probabilities are those of their draw, for any
    error that is given before it; they are upper bounds.

    Attributes
    ----------
    residuals, uncertainties : analytic minus numerical slope along each direction, and a bound on the error of that,
        with what need not be resolved: a twentieth of the tolerance of a median entry
    seen : whether a difference was seen
    relative_error : ``||a - n|| / (||a|| + ||n||)`` of the whole tensor: an estimate if one was seen, else `norm_limit`
    interval : 95 % interval of that estimate (0 and the bound, if nothing was seen)
    entry_limit : the smallest error of one entry, whatever the others are, that all directions together miss with 1 in
        1,000 (3 in 100, if there is one direction only), and that counts: at least the tolerance of a median entry
    norm_limit : the smallest error of the whole tensor, relative to `norm`, that they miss with that probability
    norm : the norm of the analytic gradient or of the numerical one, whichever is larger
    miss_probability : with which they miss an error of rtol of the whole tensor; see `miss`
    resolved : whether a gradient that is wrong by a tenth of its norm would have shown
    left_out : entries that no direction displaces, since they are too near a bound
    shared_with : other tensors in the same directions, at most the first 100
    """

    residuals: tuple[float, ...]
    uncertainties: tuple[float, ...]
    seen: bool
    relative_error: float
    interval: tuple[float, float]
    entry_limit: float
    norm_limit: float
    norm: float
    miss_probability: float
    resolved: bool
    left_out: int
    shared_with: tuple[str, ...]

    def miss(self, error: float) -> float:
        """At most this is the probability that all directions miss an error of the whole tensor, relative to its norm.

        Examples
        --------
        >>> import numpy as np
        >>> import fastgc
        >>> params = {"w": np.linspace(1, 2, 500)}
        >>> report = fastgc.check_gradients(lambda p: np.sum(p["w"] ** 2), lambda p: {"w": 2 * p["w"]}, params)
        >>> probe = report.tensors["w"].probe
        >>> probe.miss(1e-3) <= probe.miss_probability == probe.miss(1e-5) < 1e-5
        True
        """
        return OF_NORM.missed(self.uncertainties, error * self.norm)

    def __repr__(self) -> str:
        count = len(self.residuals)
        return (
            f"<Probe of {count} {plural(count, 'direction', 'directions')}: "
            f"{'a difference' if self.seen else 'nothing'} seen, relative error {probed_error(self)}>"
        )


def upwards(number: float) -> str:
    """A bound, rounded upwards to two digits."""
    if not 0 < number < math.inf:
        return f"{number:.1g}"
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / unit * (1 - 1e-12)) * unit:.2g}"


def probed_error(probe: Probe) -> str:
    """An estimate where a difference was seen, else a bound."""
    return f"{'~' if probe.seen else '<'} {probe.relative_error:.2e}"
