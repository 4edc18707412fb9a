"""The random streams of many names, whose seeds are computed together.

NumPy makes the state of a generator from a SeedSequence in some 20 microseconds. Most of it is the same arithmetic for
every name, and is done here for all names at once: https://numpy.org/doc/stable/reference/random/bit_generators/ gives
the algorithm of SeedSequence (O'Neill 2015, "Developing a seed_seq alternative") and the one of PCG64 (O'Neill 2014).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fastgc._parameters.streams import Purpose, digest, seed_words, stream

_FEW = 16  # names, below which their arithmetic takes less time one by one
_POOL, _WORDS = 4, 8  # words of 32 bits: of the pool of a SeedSequence, and of the seed of a PCG64
_INIT_A, _MULT_A, _INIT_B, _MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED  # of SeedSequence
_MIX_L, _MIX_R, _SHIFT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715), np.uint32(16)  # of SeedSequence
_STEP = 0x2360ED051FC65DA44385DF649FCCF645  # the multiplier of PCG64
_ALL = (1 << 128) - 1  # of its state

Words = NDArray[np.uint32]  # one for each name, or one for all


def streams(seed: int, purpose: Purpose, names: Sequence[str]) -> Iterator[np.random.Generator]:
    """The `stream` of each name, one after the other; each draws as long as the next one has not come."""
    if len(names) < _FEW:
        for name in names:
            yield stream(seed, purpose, name)
        return
    bits = np.random.PCG64(0)
    generator = np.random.Generator(bits)
    for here, step in _pcg64_states(_generated(_pool(_entropy(seed, purpose, names)))):
        bits.state = {"bit_generator": "PCG64", "state": {"state": here, "inc": step}, "has_uint32": 0, "uinteger": 0}
        yield generator


def _entropy(seed: int, purpose: Purpose, names: Sequence[str]) -> list[Words]:
    """The words of `stream`, each for all names."""
    same = np.array([*seed_words(seed), *np.frombuffer(digest(purpose), "<u4").tolist()], np.uint32)
    own = np.frombuffer(b"".join(map(digest, names)), "<u4").astype(np.uint32).reshape(len(names), -1)
    return [*same[:, None], *own.T]


def _pool(words: Sequence[Words]) -> list[Words]:
    """The pool of a SeedSequence."""
    hashed = _hash(_INIT_A, _MULT_A)
    pool = [hashed(word) for word in words[:_POOL]]
    for source, target in itertools.permutations(range(_POOL), 2):
        pool[target] = _mixed(pool[target], hashed(pool[source]))
    for word in words[_POOL:]:
        for target in range(_POOL):
            pool[target] = _mixed(pool[target], hashed(word))
    return pool


def _generated(pool: Sequence[Words]) -> list[list[int]]:
    """The words of 32 bits that a SeedSequence generates, a list for each name."""
    hashed = _hash(_INIT_B, _MULT_B)
    return np.stack([hashed(pool[k % _POOL]) for k in range(_WORDS)], axis=1).tolist()  # type: ignore[no-any-return]


def _hash(constant: int, factor: int) -> Callable[[Words], Words]:
    """The hash function of a SeedSequence, whose constant changes from call to call."""

    def hashed(word: Words) -> Words:
        nonlocal constant
        word = word ^ np.uint32(constant)
        constant = constant * factor & 0xFFFFFFFF
        word = word * np.uint32(constant)
        return np.asarray(word ^ (word >> _SHIFT))

    return hashed


def _mixed(one: Words, other: Words) -> Words:
    found = _MIX_L * one - _MIX_R * other
    return np.asarray(found ^ (found >> _SHIFT))


def _pcg64_states(seeds: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """State and increment of a PCG64 from the words of its seed."""
    for w in seeds:
        start = (w[1] << 96) | (w[0] << 64) | (w[3] << 32) | w[2]
        step = (w[5] << 97) | (w[4] << 65) | (w[7] << 33) | (w[6] << 1) | 1
        step &= _ALL
        yield ((start + step) * _STEP + step) & _ALL, step
