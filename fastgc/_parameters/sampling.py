"""The choice of the entries that are checked one by one: strata in every tensor, reproducible by seed."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastgc._arguments import brief, listed, one_of, whole
from fastgc._forks import cached_property
from fastgc._parameters.arrays import AT_ONCE, Array, Positions, distinct, ends_of, of_runs, together, without
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.many_streams import streams
from fastgc._parameters.streams import stream
from fastgc._words import Samples

_KEPT, _PRINTED = 16, 5  # entries that are not finite: kept, to report each; printed, as many as fit on a line
_SHUFFLED = 256  # entries of a tensor that is shuffled as a whole to draw some: faster than looking for repeated ones
_LARGE_SHARE = 8  # one entry in eight has the largest |analytic|, one in eight is an exact zero: half stay random


@dataclass(frozen=True)
class Selection:
    """Which tensors are checked, and how many or which of their entries one by one.

    Attributes
    ----------
    counts : entries of each tensor; None for a tensor that is not checked
    given : by tensor, the very entries that the caller asked for
    """

    layout: ParameterLayout
    counts: tuple[int | None, ...]
    given: Mapping[int, Positions] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> list[int]:
        """The tensors that are checked."""
        return [t for t, count in enumerate(self.counts) if count is not None]

    @cached_property
    def unexhausted(self) -> list[int]:
        """The checked tensors that have entries which are not checked one by one."""
        return [t for t in self.tensors if self.counts[t] != self.layout.sizes[t]]

    @property
    def entries(self) -> int:
        """The number of entries that are checked one by one, in all tensors."""
        return sum(filter(None, self.counts))


@dataclass(frozen=True)
class SamplePlan:
    """The entries that are checked one by one.

    Attributes
    ----------
    local : by tensor, sorted positions inside it; None for a tensor that is not checked
    drawn : by tensor, the number of them that were drawn at random
    """

    local: tuple[Positions | None, ...]
    drawn: tuple[int, ...]

    def extended(self, tensor: int, more: Positions, drawn: int = 0) -> SamplePlan:
        """The plan with more entries of a tensor, ``drawn`` of them at random."""
        local, counts = list(self.local), list(self.drawn)
        known = local[tensor]
        local[tensor] = more if known is None else distinct(np.concatenate([known, more]))
        counts[tensor] += drawn
        return SamplePlan(tuple(local), tuple(counts))

    def restricted(self, chosen: Callable[[int, Positions], Positions]) -> SamplePlan:
        """The plan with each tensor's entries replaced by what ``chosen(tensor, local)`` makes of them."""
        local = (None if each is None else chosen(t, each) for t, each in enumerate(self.local))
        return SamplePlan(tuple(local), self.drawn)

    def positions(self, layout: ParameterLayout) -> Positions:
        """Positions of all chosen entries in the flat vector, tensor by tensor."""
        sizes = np.array([0 if local is None else local.size for local in self.local], np.int64)
        parts = [local for local in self.local if local is not None]
        return np.concatenate([np.empty(0, np.int64), *parts]) + layout.starts[:-1].repeat(sizes)


@dataclass(frozen=True)
class NotFinite:
    """The number of entries of a tensor's analytic gradient that are not finite, and the positions of the first."""

    count: int
    first: Positions

    def text(self, shape: tuple[int, ...], *, least: bool = False) -> str:
        """Their number and the indices of the first ones, in an array of that shape; ``least``: there may be more."""
        size = math.prod(shape)
        index = [str([int(i) for i in np.unravel_index(place, shape)]) for place in self.first.tolist() if shape]
        shown = listed(index[:_PRINTED], quote=False) + (", ..." if self.count > _PRINTED else "")
        which = f": {shown}" if shape else ""
        return f"{'at least ' if least else ''}{self.count:,} of {size:,} {'entry' if size == 1 else 'entries'}{which}"


def not_finite(gradient: Array) -> NotFinite | None:
    """The entries of a tensor's flat gradient that are not finite, or None. Every entry is examined, without a copy."""
    count, first = 0, np.empty(0, np.int64)
    for start, block in _blocks(gradient):
        finite = np.isfinite(block)
        if not finite.all():
            here = np.flatnonzero(~finite) + start
            count, first = count + here.size, np.concatenate([first, here])[:_KEPT]
    return NotFinite(count, first) if count else None


def plan_samples(
    selection: Selection,
    analytic: Sequence[Array],
    seed: int,
) -> SamplePlan:
    """Choose the entries of every tensor: those that the caller gave, or as many as the selection says.

    The strata are the first and the last entry, the largest ``|analytic|`` and exact zeros of the analytic gradient.
    The other entries, at least half of all, are drawn without replacement. The generator of a tensor depends only on
    ``seed`` and the tensor's name, so the choice in one tensor does not depend on the others.
    """
    layout = selection.layout
    counts = selection.counts
    local: list[Positions | None] = [None if count is None else np.arange(count) for count in counts]
    drawn = [count or 0 for count in counts]
    for t, given in selection.given.items():
        local[t], drawn[t] = given, 0
    partly = [t for t, n in enumerate(counts) if n and n < layout.sizes[t] and t not in selection.given]
    generators = streams(seed, "samples", [layout.names[t] for t in partly])
    for t, generator, rule in zip(partly, generators, _rules([analytic[t] for t in partly]), strict=True):
        local[t], drawn[t] = _choose(analytic[t], counts[t] or 0, generator, *rule)
    return SamplePlan(tuple(local), tuple(drawn))


def _rules(gradients: Sequence[Array]) -> Iterator[tuple[int, bool]]:
    """Of each flat gradient the position of its largest magnitude, and whether there are exact zeros."""
    sizes = np.array([gradient.size for gradient in gradients], np.int64)
    for some in together(sizes):
        if some.stop - some.start == 1:
            gradient = gradients[some.start]
            yield int(_largest_entries(gradient, 1)[0]), True  # they are looked for where they are needed
            continue
        ends, joined = ends_of(sizes[some]), np.concatenate(gradients[some], dtype=np.float64)
        magnitudes = _magnitude(joined)
        most = (magnitudes == of_runs(np.maximum, magnitudes, ends).repeat(sizes[some])).nonzero()[0]
        first = most[most.searchsorted(ends[:-1])]
        zeros = of_runs(np.maximum, joined == 0, ends) > 0
        yield from zip((first - ends[:-1]).tolist(), zeros.tolist(), strict=True)


def _choose(
    gradient: Array, count: int, generator: np.random.Generator, largest: int, zeros: bool
) -> tuple[Positions, int]:
    """Some entries of a tensor, sorted, and how many of them were drawn at random; see `_rules`."""
    fixed = _fixed_strata(gradient, count // 2, generator, largest, zeros)
    drawn = _drawn_entries(generator, gradient.size, count - len(fixed), fixed)
    chosen = np.array(fixed + drawn, np.int64)
    chosen.sort()
    return chosen, len(drawn)


def further_entries(name: str, size: int, known: Positions, count: int, seed: int) -> Positions:
    """Entries of a tensor other than the known ones, ``count`` together with these, or all that there are."""
    if count >= size:
        return without(np.arange(size), known)
    generator = stream(seed, "samples", name, "further")
    return np.sort(np.array(_drawn_entries(generator, size, count - known.size, known.tolist()), np.int64))


def _drawn_entries(generator: np.random.Generator, size: int, count: int, known: Sequence[int]) -> list[int]:
    """Different entries that are not among the known ones. Memory is that of a few times ``count`` entries."""
    others = set(known)
    if size <= _SHUFFLED:
        return [entry for entry in generator.permutation(size).tolist() if entry not in others][:count]
    if count <= _SHUFFLED:
        return _few_drawn(generator, size, count, others)
    found = np.empty(0, np.int64)
    while found.size < count:
        more = generator.integers(size, size=2 * (count - found.size) + 16)  # some are drawn twice, or known
        candidates = np.concatenate([found, more[~np.isin(more, known)]])
        _, first = np.unique(candidates, return_index=True)
        found = candidates[np.sort(first)]
    return found[:count].tolist()  # type: ignore[no-any-return]


def _few_drawn(generator: np.random.Generator, size: int, count: int, others: Collection[int]) -> list[int]:
    """The same as the loop above, for few entries."""
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        more = generator.integers(size, size=2 * (count - len(chosen)) + 16).tolist()
        chosen |= dict.fromkeys([entry for entry in more if entry not in others])
    return list(chosen)[:count]


def _fixed_strata(gradient: Array, room: int, generator: np.random.Generator, largest: int, zeros: bool) -> list[int]:
    """At most ``room`` entries that a rule chooses: the largest, the ends, exact zeros."""
    if room == 0:
        return []
    share = max(1, room * 2 // _LARGE_SHARE)
    most = [largest] if share == 1 else _largest_entries(gradient, share).tolist()
    some = _zeros(gradient, share, generator).tolist() if zeros else []
    return list(dict.fromkeys([*most, 0, gradient.size - 1, *some]))[:room]


def _blocks(gradient: Array) -> Iterator[tuple[int, Array]]:
    for start in range(0, gradient.size, AT_ONCE):
        yield start, gradient[start : start + AT_ONCE]


def _largest_entries(gradient: Array, count: int) -> Positions:
    """Positions of the ``count`` largest magnitudes; NaN counts as the largest."""
    if count == 1 and gradient.size <= AT_ONCE:
        return np.array([_magnitude(gradient).argmax()])
    best = np.empty(0, np.int64)
    for start, block in _blocks(gradient):
        part = (-_magnitude(block)).argpartition(min(count, block.size) - 1)[:count] + start
        best = np.concatenate([best, part])
        best = best[(-_magnitude(gradient[best])).argsort(kind="stable")[:count]]
    return best


def _magnitude(block: Array) -> Array:
    return np.where(np.isnan(block), np.inf, np.abs(block))


def _zeros(gradient: Array, count: int, generator: np.random.Generator) -> Positions:
    """Positions of at most ``count`` exact zeros, from blocks in random order."""
    starts = [start for start, _ in _blocks(gradient)]
    found = np.empty(0, np.int64)
    for start in generator.permutation(starts) if len(starts) > 1 else starts:
        zeros = (gradient[start : start + AT_ONCE] == 0).nonzero()[0] + start
        if not zeros.size:
            continue
        found = np.concatenate([found, generator.choice(zeros, min(count - found.size, zeros.size), replace=False)])
        if found.size == count:
            break
    return found


_MOST_EVALUATIONS = 2000  # for the default samples of all tensors: a few seconds of a loss that takes a millisecond
_FEWEST_SAMPLES = 2  # of each tensor, however many tensors there are: its largest entry and one drawn at random


class _Default(int):
    """The default number of samples, which differs in type from the same number given by the caller."""


DEFAULT_SAMPLES = _Default(32)  # half of them random: they see a share of 1 - 0.05**(1/16) = 17 % of wrong entries


def select(layout: ParameterLayout, tensors: str | Sequence[str] | None, samples: Samples, probes: int) -> Selection:
    """The tensors that the names or patterns select, and how many entries of each ``samples`` asks for."""
    chosen = selected(tensors, layout.names)
    given: dict[int, Positions] = {}
    numbers = samples
    if isinstance(samples, Mapping):
        given = _given_entries(samples, layout)
        numbers = {k: v for k, v in samples.items() if _is_number(v)}
    wanted = sample_counts(numbers, layout.names, len(chosen), probes)
    wanted |= {layout.names[t]: entries.size for t, entries in given.items()}
    counts = [
        min(size, wanted[name]) if name in chosen else None
        for name, size in zip(layout.names, layout.sizes, strict=True)
    ]
    return Selection(layout, tuple(counts), {t: each for t, each in given.items() if layout.names[t] in chosen})


def _is_number(value: object) -> bool:
    """Whether a value of ``samples`` is a number of entries, and not the entries themselves."""
    return isinstance(value, str) or np.asarray(value).ndim == 0


def _given_entries(samples: Mapping[str, object], layout: ParameterLayout) -> dict[int, Positions]:
    """By tensor, sorted positions inside it of the entries that the caller names."""
    found: dict[int, Positions] = {}
    for pattern in sorted(samples, key=lambda pattern: pattern in layout.numbers):
        for name in matching_names(pattern, layout.numbers, "samples"):
            t = layout.numbers[name]
            found.pop(t, None)
            if not _is_number(samples[pattern]):
                found[t] = _positions(samples[pattern], layout.shapes[t], f"samples[{pattern!r}]")
    return found


def _positions(value: object, shape: tuple[int, ...], name: str) -> Positions:
    """Entries of a tensor given as a boolean mask, as flat indices, or as index tuples."""
    array, size = np.asarray(value), math.prod(shape)
    if array.dtype == bool:
        if array.shape != shape:
            raise ValueError(f"{name} is a mask of shape {array.shape}; it must have the tensor's, {shape}")
        return np.flatnonzero(array)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name} is {brief(repr(value))}; entries are flat indices, index tuples, or a boolean mask")
    index = array.astype(np.int64)
    if index.ndim == 2 and index.shape[1] == len(shape):
        outside = ((index < 0) | (index >= shape)).any(axis=1)
    elif index.ndim == 1:
        outside = (index < 0) | (index >= size)
    else:
        raise ValueError(f"{name} has shape {index.shape}; index tuples of this tensor have {len(shape)} numbers")
    if outside.any():
        raise ValueError(f"{name} has the entry {index[np.argmax(outside)].tolist()}, outside the shape {shape}")
    return distinct(index if index.ndim == 1 else np.ravel_multi_index(tuple(index.T), shape)).astype(np.int64)


def selected(patterns: str | Sequence[str] | None, names: Sequence[str], argument: str = "tensors") -> set[str]:
    """The names that ``tensors`` selects; a ValueError for a pattern that selects none."""
    if patterns is None:
        return set(names)
    if not isinstance(patterns, Sequence):
        raise TypeError(f"{argument} is {patterns!r}; it must be a name, a pattern, or a list of names and patterns")
    each = [patterns] if isinstance(patterns, str) else list(patterns)
    if not each:
        meaning = "; None selects all" if argument == "tensors" else ""
        raise ValueError(f"{argument} is {patterns!r}, which selects nothing{meaning}")
    known = dict.fromkeys(names)
    return {name for pattern in each for name in matching_names(pattern, known, argument)}


def sample_counts(samples: Samples, names: Sequence[str], tensors: int, probes: int) -> dict[str, int]:
    """The number of entries to sample, by name. An exact name wins over patterns, a later pattern over an earlier one.

    The default number is lower where ``tensors`` is large, provided that probes cover all entries.
    """
    affordable = _MOST_EVALUATIONS // (2 * max(1, tensors))  # a sample takes two evaluations
    default = max(_FEWEST_SAMPLES, min(DEFAULT_SAMPLES, affordable)) if probes else DEFAULT_SAMPLES
    if not isinstance(samples, Mapping):
        count = default if isinstance(samples, _Default) else _count(samples, "samples", probes)
        return dict.fromkeys(names, int(count))
    counts = dict.fromkeys(names, int(default))
    for pattern in sorted(samples, key=lambda pattern: pattern in counts):
        for name in matching_names(pattern, counts, "samples"):
            counts[name] = _count(samples[pattern], f"samples[{pattern!r}]", probes)
    return counts


def _count(value: Any, name: str, probes: int) -> int:
    if isinstance(value, str):
        one_of(name, value, ("all",))
        return np.iinfo(np.int64).max
    whole(name, value, least=0)
    if value == 0 and not probes:
        raise ValueError(f"{name}=0 and probes=0 would check nothing; raise one of them")
    return int(value)


def matching_names(pattern: object, names: Collection[str], argument: str) -> list[str]:
    """The names that a pattern selects; a mapping or a set finds an exact one at once."""
    if not isinstance(pattern, str):
        raise TypeError(f"{argument} has {pattern!r}; names and patterns must be strings")
    if pattern in names:
        return [pattern]
    expression = re.compile(fnmatch.translate(pattern.replace("[", "[[]")))
    found = [name for name in names if expression.match(name)]
    if not found:
        raise ValueError(f"{argument} has {pattern!r}, which names no tensor; the tensors are {listed([*names])}")
    return found
