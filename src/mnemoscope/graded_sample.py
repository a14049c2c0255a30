"""Which sequences of a two-phase study are graded: a probability sample that each sequence is in or out of by itself.

All sequences have the facts of mode `exact`, the first phase. From these alone follows the probability with which a
sequence is in the second phase, whose match bits are decoded. It is in where its permanent random number is below that
probability: Poisson sampling (Sarndal, Swensson and Wretman, Model Assisted Survey Sampling, 1992, sections 3.5 and
9.2). The number is a hash of seed, group and sequence_id, the same for every model, so that two models' samples overlap
as much as they can, and both have a sequence with the smaller of its two probabilities (Ohlsson, "Coordination of
samples using permanent random numbers", in Business Survey Methods, 1995).

Nothing hangs on shards, batches, workers or order. Axes: R sequences, C contexts.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from mnemoscope.config import GradedSampleConfig, Grid
from mnemoscope.corpus.draws import hash_counters
from mnemoscope.facts import GradedRows


def draw_graded(
    sequence_ids: NDArray[np.int64],
    first_mismatch_RC: NDArray[np.int32],
    *,
    group: str,
    grid: Grid,
    settings: GradedSampleConfig,
) -> GradedRows:
    """The second phase among sequences with these first mismatches."""
    probability_R = inclusion_probabilities(first_mismatch_RC, grid, settings)
    return GradedRows(probability_R, permanent_numbers(sequence_ids, group=group, seed=settings.seed) < probability_R)


def inclusion_probabilities(
    first_mismatch_RC: NDArray[np.int32], grid: Grid, settings: GradedSampleConfig
) -> NDArray[np.float64]:
    """The probability with which each sequence is graded, float64 [R].

    1 where nothing is left to decode: at every context all tokens match, but for the last one perhaps. `near_share`
    where some context recites half of the shortest continuation or more: these are rare, and what is asked of most.
    """
    near = -(-grid.continuations[0] // 2)
    is_known_R = (first_mismatch_RC >= grid.max_continuation - 1).all(axis=1)
    is_near_R = (first_mismatch_RC >= near).any(axis=1)
    certain, of_near, of_rest = settings.probabilities
    return np.where(is_known_R, certain, np.where(is_near_R, of_near, of_rest))


def permanent_numbers(sequence_ids: NDArray[np.int64], *, group: str, seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each sequence, float64 [R], independent of every other draw of the program."""
    salt = hashlib.blake2b(f"graded sample {seed} {group}".encode(), digest_size=8).digest()
    words = hash_counters(sequence_ids, seed=int.from_bytes(salt, "little"))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
