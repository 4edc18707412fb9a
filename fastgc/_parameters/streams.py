"""Streams of random numbers, one for each purpose, so that no two draw the same bits."""

from __future__ import annotations

import functools
import hashlib
import struct
from typing import Literal

import numpy as np

Purpose = Literal[
    "batch",  # displaced points at which values of a batch are compared with single ones
    "columns",  # which columns of a Jacobian are measured
    "compiled",  # displaced points at which a compiled loss is compared with its Python function
    "diagnosis",  # entries that tell one kind of bug from another
    "directions",  # weights of the entries in the probes
    "displaced point",  # signs of the displacement at which a gradient is asked again beside a kink
    "multipliers",  # of constraints, of which a Hessian is checked
    "noise",  # directions along which the noise of the loss is measured
    "order of entries",  # in which they are measured under a time budget
    "output weights",  # of the outputs of a Jacobian, in projections of it
    "outputs",  # which outputs of a Jacobian are measured
    "random point",  # where else the gradient is checked
    "samples",  # which entries of a tensor are measured one by one
    "search",  # entries looked at while a suspicious direction is followed
    "taylor",  # the direction of a Taylor test
    "tangent",  # at which the rules of a JAX function are compared
    "transpose",  # vectors for which u^T (J v) and (u^T J) v are compared
    "weights",  # with which outputs are added up
]


_WORD = 0xFFFFFFFF  # 32 bits
_POOL = 4  # words of SeedSequence's pool: a shorter seed is filled up with zeros where a spawn key follows


def stream(seed: int, purpose: Purpose, *key: int | str) -> np.random.Generator:
    """The generator for a purpose and a key (a tensor's name, the number of a point): the same for the same seed.

    The purpose and the parts of the key are the spawn key of NumPy's SeedSequence, which mixes them so that streams
    are independent (https://numpy.org/doc/stable/reference/random/parallel.html). SeedSequence is given the words that
    it would put together from the seed and the spawn key: it takes a fifth of the time then.
    """
    words = seed_words(seed) + _words(purpose)
    for part in key:
        words += _words(part)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(np.array(words, np.uint32))))


@functools.lru_cache(maxsize=8)
def seed_words(seed: int) -> list[int]:
    """The words of a seed, as many as a SeedSequence mixes first, at least."""
    words = _numbers(int(seed))
    return words + [0] * (_POOL - len(words))


@functools.lru_cache(maxsize=256)  # the purposes, and some names
def _words(part: int | str) -> list[int]:
    """Whole numbers of 32 bits."""
    return list(struct.unpack("<4I", digest(part))) if isinstance(part, str) else _numbers(part)


def digest(name: str) -> bytes:
    """128 bits of a name: 20,000 of them share one with a probability below 1e-30."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _numbers(number: int) -> list[int]:
    """The 32-bit words of a number, the lowest first, as SeedSequence reads it."""
    words = [number & _WORD]
    while (number := number >> 32) > 0:
        words.append(number & _WORD)
    return words
