"""Random streams: reproducible, and no two purposes or keys draw the same bits."""

from __future__ import annotations

import hashlib
import struct
from typing import get_args

import numpy as np
import pytest

from fastgc._derivatives.random_weights import random_weights
from fastgc._parameters.many_streams import streams
from fastgc._parameters.streams import Purpose, stream

PURPOSES = get_args(Purpose)
KEYS: list[tuple[int | str, ...]] = [(), (0,), (0, 0), (1,), (0, 1), ("w",), ("w", 0), ("W",), ("\ud800",)]


def bits(purpose: Purpose, *key: int | str, seed: int = 0) -> set[int]:
    return set(np.atleast_1d(stream(seed, purpose, *key).bit_generator.random_raw(64)).tolist())


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_a_stream_is_the_same_for_the_same_seed_purpose_and_key(key: tuple[int | str, ...]) -> None:
    for purpose in PURPOSES:
        assert bits(purpose, *key) == bits(purpose, *key)


def test_no_two_purposes_keys_or_seeds_share_bits() -> None:
    drawn = [bits(purpose, *key, seed=seed) for purpose in PURPOSES for key in KEYS for seed in (0, 1, 2**40)]
    assert len(set().union(*drawn)) == sum(map(len, drawn)) == 64 * len(drawn)


def test_weights_of_directions_share_no_bits_with_the_samples_of_a_tensor() -> None:
    weights = random_weights(3, range(4), "w", 64 * 64)
    assert set(weights.view(np.uint64).reshape(-1).tolist()).isdisjoint(bits("samples", "w", seed=3))


def test_many_names_have_streams_of_their_own() -> None:
    drawn = [int(stream(0, "directions", f"layer{i}.w").integers(2**63)) for i in range(5_000)]
    assert len(set(drawn)) == len(drawn)


def test_what_two_purposes_draw_is_uncorrelated() -> None:
    drawn = [stream(0, purpose).standard_normal(4096) for purpose in PURPOSES]
    correlations = np.corrcoef(drawn)[np.triu_indices(len(PURPOSES), 1)]
    assert np.abs(correlations).max() < 6 / 4096**0.5  # six standard errors


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**130 + 7])
@pytest.mark.parametrize("key", [(), (0,), (3,), (2**40,)], ids=repr)
def test_a_stream_is_that_of_a_spawn_key_of_numpys_seed_sequence(seed: int, key: tuple[int, ...]) -> None:
    words = struct.unpack("<4I", hashlib.blake2b(b"taylor", digest_size=16).digest())
    sequence = np.random.SeedSequence(seed, spawn_key=(*words, *key))
    expected = np.random.Generator(np.random.PCG64(sequence)).standard_normal(8)
    np.testing.assert_array_equal(stream(seed, "taylor", *key).standard_normal(8), expected)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**130 + 7])
@pytest.mark.parametrize("count", [1, 15, 16, 300])
def test_the_streams_of_many_names_are_those_of_each(seed: int, count: int) -> None:
    names = [*(f"layer{k}.w" for k in range(count - 1)), "\ud800"]
    for name, generator in zip(names, streams(seed, "samples", names), strict=True):
        alone = stream(seed, "samples", name)
        assert generator.integers(2**63) == alone.integers(2**63)
        assert generator.integers(7, dtype=np.uint8) == alone.integers(7, dtype=np.uint8)  # which leaves bits over
        np.testing.assert_array_equal(generator.permutation(33), alone.permutation(33))


def test_no_names_have_no_streams() -> None:
    assert list(streams(0, "samples", [])) == []
