"""Random weights of entries along a direction, and how rarely directions with such weights miss an error.

An entry moves by d = s * m scales along a direction: a sign s and a magnitude m between 1/2 and 3/2. Let e = a - n be
the error of a tensor's gradient, fixed before the direction is drawn, and u a bound on the error of the measured slope.
The residual r = sum_i d_i e_i is followed if its measured value exceeds u, so a direction misses e only if |r| <= 2u.
Signs alone miss two equal errors half of the time, however large they are. Magnitudes spread r:

*The law of d.* It is one of 170 multiples of 1/`UNIT`, each with the probability p = `ATOM` at most. So d + U / UNIT,
with U uniform in [-1/2, 1/2], has a density of K = p * UNIT = 0.495 at most.

*One entry e_j.* Given the weights of all others, r is within 2u only if d_j is in an interval of length 4u / |e_j|. It
holds 1 + 4u * UNIT / |e_j| multiples of 1 / UNIT at most: P(miss) <= p + 4 K u / |e_j|. If the others are right,
|r| >= |e_j| / 2, and nothing is missed above 4u.

*The whole of e.* Let W = sum_i U_i e_i / UNIT, independent of r. The density of r + W is at most sqrt(2) K / ||e||
(Rudelson & Vershynin 2015, "Small ball probabilities for linear images of high-dimensional distributions", theorem
1.2). W has the standard deviation w = ||e|| / (UNIT sqrt(12)) and is unimodal and symmetric, as a sum of such terms
(Wintner 1938), so P(|W| <= l w) >= 1 - 4 / (9 l**2) for l >= 2 / sqrt(3) by the inequality of Gauss (Pukelsheim 1994,
"The three sigma rule"). Since P(|r| <= 2u) P(|W| <= l w) <= P(|r + W| <= 2u + l w) <= 2 (2u + l w) sqrt(2) K / ||e||,

    P(miss) <= (4 sqrt(2) K u / ||e|| + l p sqrt(2/3)) / (1 - 4 / (9 l**2)):

p sqrt(2) + 4.2 u / ||e|| with the smallest l, and nearly 2 sqrt(2) u / ||e||, that of uniform magnitudes, with larger
ones.

*One entry of a matrix, of whose errors E only r = v^T E u is seen,* with both u and v random. Given u and the other
weights, v_i misses it with p + 4 K u / |(E u)_i| at most, and P(|(E u)_i| <= y) <= p + 2 K y / |e_ij|. The mean of the
former under the latter is 2 p + f(z), f(z) = z (1 + log(1 / z)), z = 8 K**2 u / |e_ij|, at most. f is concave, so each
tangent bounds it: f(z) <= z_0 + z log(1 / z_0).

Directions are independent, so several miss e with the product of their probabilities at most.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fastgc._parameters.arrays import Floats
from fastgc._parameters.many_streams import streams
from fastgc._parameters.streams import Purpose, stream

UNIT = 84  # the weight of magnitude 1; 42 to 126, half of it to three halves, are all that fit into 8 bits and a sign
LARGEST = 126  # the weight of the largest magnitude
_LEVELS = 85  # of the magnitudes
MEAN_SQUARE = 1 + (_LEVELS**2 - 1) / 12 / UNIT**2  # of d, to 3e-6: 13/12 for uniform magnitudes
ATOM = 193 / 2**15  # the largest probability of a weight: 192 or 193 of the 2**15 odd numbers of 16 bits lead to each
_RARELY = 1e-3  # with which errors at the limits are missed
_ALONE = 0.03  # of a direction: no law below gives less than 0.012, and limits grow without bound near that
_AT_ONCE = 1 << 15  # weights drawn in one pass of NumPy: 64 kB of 16 bits stay in the nearest cache
_NEWTON_STEPS, _CLOSE = 12, 1e-9  # of `_limit`: steps at most (3 to 9 are needed), and the relative error that is left


def random_weights(
    seed: int, numbers: range, name: str, size: int, purpose: Purpose = "directions"
) -> NDArray[np.int8]:
    """Independent weights, shape (numbers, size), reproducible by seed, number, name and purpose.

    Each takes 16 bits of one stream for each seed, name and purpose; each number takes its own stretch of the stream.
    """
    words = -(-size // 4)
    drawn = _drawn(seed, purpose, name, numbers.start * words, len(numbers) * words)
    return drawn.reshape(len(numbers), 4 * words)[:, :size]


def weights_of_each(seed: int, numbers: range, names: Sequence[str], sizes: Sequence[int]) -> list[NDArray[np.int8]]:
    """The `random_weights` of each tensor, whose names are different; those of small ones are drawn together."""
    found: list[NDArray[np.int8]] = [np.empty((0, 0), np.int8)] * len(sizes)
    small = [t for t, size in enumerate(sizes) if len(numbers) * size <= _AT_ONCE // 4]
    drawn = []
    for t, generator in zip(small, streams(seed, "directions", [names[t] for t in small]), strict=True):
        words, bits = -(-sizes[t] // 4), cast(np.random.PCG64, generator.bit_generator)
        drawn.append((bits.advance(numbers.start * words) if numbers.start else bits).random_raw(len(numbers) * words))
    weights, end = _weights_of(np.concatenate(drawn)) if drawn else np.empty(0, np.int8), 0
    for t, raw in zip(small, drawn, strict=True):
        rows = weights[end : end + 4 * raw.size].reshape(len(numbers), 4 * -(-sizes[t] // 4))
        found[t] = rows[:, : sizes[t]]
        end += 4 * raw.size
    for t in set(range(len(sizes))).difference(small):
        found[t] = random_weights(seed, numbers, names[t], sizes[t])
    return found


def weights_between(
    seed: int, number: int, name: str, size: int, begin: int, end: int, purpose: Purpose = "directions"
) -> NDArray[np.int8]:
    """The weights of one number in the entries from ``begin`` to ``end`` alone, shape (end - begin,)."""
    words, first, last = -(-size // 4), begin // 4, -(-end // 4)
    return _drawn(seed, purpose, name, number * words + first, last - first)[begin - 4 * first : end - 4 * first]


def _drawn(seed: int, purpose: Purpose, name: str, first: int, words: int) -> NDArray[np.int8]:
    """The four weights of each of ``words`` numbers of 64 bits of a stream, from number ``first`` on."""
    bits = cast(np.random.PCG64, stream(seed, purpose, name).bit_generator).advance(first)
    weights = np.empty(4 * words, np.int8)
    for begin in range(0, weights.size, _AT_ONCE):
        some = weights[begin : begin + _AT_ONCE]
        some[:] = _weights_of(bits.random_raw(some.size // 4))
    return weights


def _weights_of(raw: NDArray[np.uint64]) -> NDArray[np.int8]:
    """The four weights of each number of 64 bits."""
    return _weights(raw.astype("<u8", copy=False).view("<u2"))


def _weights(drawn: NDArray[np.uint16]) -> NDArray[np.int8]:
    """The weight for each number of 16 bits: the number, made odd, times 170 / 2**16 counts the weights below it.

    Made odd, since weights of both signs are then equally likely: no odd number but 2**16 - v leads to the opposite of
    that of v. The product is summed from both bytes, so that it needs no more than 16 bits.
    """
    count, byte = np.uint16(2 * _LEVELS), np.uint16(8)
    low = ((drawn & np.uint16(255)) | np.uint16(1)) * count >> byte
    below = ((drawn >> byte) * count + low >> byte).astype(np.uint8).view(np.int8)  # it wraps around, and back below
    gap = (below.view(np.uint8) >= _LEVELS).view(np.int8) * np.int8(UNIT - 1)
    return below - np.int8(LARGEST) + gap


@dataclass(frozen=True)
class MissLaw:
    """Bounds ``slope * u / error + atom`` on the probability that a direction misses an error; the least one counts."""

    lines: tuple[tuple[float, float], ...]

    def missed(self, uncertainties: Iterable[float], error: float) -> float:
        """At most this is the probability that directions with these uncertainties all miss the error."""
        if not error > 0:
            return 1.0
        return float(math.prod(self._missed(float(u) / error) for u in uncertainties))

    def missed_each(self, uncertainties: Floats, errors: Floats) -> Floats:
        """`missed` for each of several errors, with a row of uncertainties for each."""
        with np.errstate(all="ignore"):
            shares = uncertainties / errors[:, None]
            each = np.fmin(1.0, np.fmin.reduce([slope * shares + atom for slope, atom in self.lines]))
        return np.where(errors > 0, each.prod(axis=1), 1.0)

    def _missed(self, share: float) -> float:
        return min([1.0, *(slope * share + atom for slope, atom in self.lines if share < math.inf)])

    def limit(self, uncertainties: Iterable[float], chance: float) -> float:
        """The smallest error that they miss with that probability at most; inf where they miss any error more often."""
        return _limit(self, tuple([float(u) if u < math.inf else math.inf for u in uncertainties]), chance)

    def _grown(self, share: float) -> tuple[float, float]:
        """The probability and its derivative by the share of the uncertainty in the error."""
        return min([(1.0, 0.0), *((slope * share + atom, slope) for slope, atom in self.lines)])


@functools.lru_cache(maxsize=256)  # tensors that share directions share this as well
def _limit(law: MissLaw, known: tuple[float, ...], chance: float) -> float:
    """The limit of a `MissLaw`, by Newton's method for x = 1 / error.

    The logarithm of the probability is concave in x, as a sum of least ones of concave functions. So no step from below
    passes the solution, and whatever is returned is missed no more often than with ``chance``.
    """
    each = math.pow(chance, 1 / len(known))
    factors = [slope / (each - atom) for slope, atom in law.lines if atom < each]
    if not factors or max(known) in (0.0, math.inf):
        return max(known) if factors else math.inf
    unit = max(known) * min(factors)  # at this error each direction alone misses rarely enough
    if unit == math.inf:
        return math.inf
    shares = [u / unit for u in known]
    x = 1.0
    for _ in range(_NEWTON_STEPS):
        grown = [law._grown(x * share) for share in shares]
        missing = math.log(chance) - sum(math.log(missed) for missed, _ in grown)
        if missing < _CLOSE:
            break
        x += missing / sum(share * slope / missed for share, (missed, slope) in zip(shares, grown, strict=True))
    return unit / x * (1 + _CLOSE)  # round-off must not take it below the solution


def chance_at_limits(count: int) -> float:
    """The probability with which so many directions miss an error at their limits, at most."""
    return max(_RARELY, math.pow(_ALONE, count))


def _by_norm(spread: float) -> tuple[float, float]:
    """Slope and atom for the norm of an error, with ``spread`` as the l of the derivation."""
    inside = 1 - 4 / (9 * spread**2)
    return 4 * 2**0.5 * ATOM * UNIT / inside, ATOM * (2 / 3) ** 0.5 * spread / inside


def _by_product(tangent: float) -> tuple[float, float]:
    """Slope and atom for an entry of a matrix between two random vectors, from the tangent at a z of the derivation."""
    return 8 * (ATOM * UNIT) ** 2 * math.log(1 / tangent), 2 * ATOM + tangent


OF_ENTRY = MissLaw(((4 * ATOM * UNIT, ATOM),))
# The smallest l, and two more: within 1.5 % of the best one where a direction misses with 0.05 to 0.5.
OF_NORM = MissLaw((_by_norm(2 / 3**0.5), _by_norm(2.0), _by_norm(3.0)))
OF_PRODUCT = MissLaw(tuple(_by_product(2.0**-k) for k in range(2, 12)))  # down to f = 0.004, below its atom
