"""Random numbers that depend on a seed and a counter and on nothing else, not even numpy's version.

The mixing function is SplitMix64's finalizer (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), applied to the seed and then to the counter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw_below(bounds: NDArray[np.int64] | int, *, counters: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """One integer in [0, bound) for each counter; the modulo's bias is below bound / 2**64."""
    words = hash_counters(counters, seed=seed)
    return (words % np.asarray(bounds, np.int64).astype(np.uint64)).astype(np.int64)


def hash_counters(counters: NDArray[np.int64], *, seed: int) -> NDArray[np.uint64]:
    """A uniform 64-bit number for each counter, the same in every process and order."""
    seeded = _mix(np.array([seed % 2**64], np.uint64))
    return _mix(seeded + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def sample_below(bound: int, *, count: int, seed: int) -> NDArray[np.int64]:
    """`count` different integers of [0, bound), ascending, every subset as likely; memory by `count` only."""
    assert 0 <= count <= bound, (count, bound)
    if 2 * count > bound:  # then `bound` is itself below 2 x count: draw the ones left out
        kept = np.ones(bound, bool)
        kept[sample_below(bound, count=bound - count, seed=seed)] = False
        return np.flatnonzero(kept).astype(np.int64)
    drawn = np.empty(0, np.int64)
    num_draws = 0
    while len(drawn) < count:
        counters = np.arange(num_draws, num_draws + 2 * (count - len(drawn)) + 16, dtype=np.int64)
        num_draws = int(counters[-1]) + 1
        drawn = np.concatenate([drawn, draw_below(bound, counters=counters, seed=seed)])
        _, first = np.unique(drawn, return_index=True)
        drawn = drawn[np.sort(first)]
    return np.sort(drawn[:count])


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = words + _GOLDEN  # wraps modulo 2**64, as meant
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
