"""Intervals of shares in a table of pairs: by cluster of duplicates where they are known, else over rows.

Resampling clusters is resampling what clusters hold: clusters with the same counts of classes are one profile,
and how often each profile is drawn is multinomial. So the bootstrap's cost is by profiles, not by sequences.

Axes: B resamples, P profiles, C pairs of classes (36), I shares.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from mnemoscope.analyses.agreement import NUM_CLASSES, merge_scores
from mnemoscope.analyses.pairs import DuplicateRows, IntArray, PairTally
from mnemoscope.intervals import FloatArray, wilson

BY_CLUSTER: Final = "Wilson, effective n by cluster bootstrap"
BY_ROW: Final = "Wilson over rows"
_NUM_PAIRS: Final = NUM_CLASSES * NUM_CLASSES


class ShareIntervals(NamedTuple):
    """The two ends of each share's interval, and how they were found."""

    low: FloatArray
    high: FloatArray
    method: str


class Resamples(NamedTuple):
    """A stratum's class counts as they might have come: the point counts, and those of every resample."""

    rows: IntArray
    """int64 [6, 6]."""
    unique: IntArray | None
    """int64 [6, 6], one per cluster; None where clusters are unknown."""
    drawn: IntArray | None
    """int64 [B, 6, 6]; None where clusters are unknown."""


def resample(tally: PairTally, *, num_resamples: int, seed: int) -> Resamples:
    """The class counts of a stratum, and of as many resamples of its clusters."""
    rows = merge_scores(tally.rows)
    if tally.unique is None or tally.duplicates is None:
        return Resamples(rows, None, None)
    return Resamples(
        rows,
        merge_scores(tally.unique),
        _draw(rows, tally.duplicates, num_resamples=num_resamples, seed=seed),
    )


def share_intervals(
    counts: tuple[IntArray, IntArray], drawn: tuple[IntArray, IntArray] | None, unique_n: IntArray, level: float
) -> ShareIntervals:
    """Intervals of counts[0] / counts[1] from the same two of each resample, [B, I]; Wilson's where there is none.

    The bootstrap gives the share's variance, and so the n of independent rows that would vary as much, never more
    than there are; Wilson's interval at that n keeps its shape near 0 and 1, where percentiles fall short. Of a
    share of 0 or 1 all resamples say the same: its n is `unique_n`. Korn and Graubard (1998), Survey
    Methodology 24:193, with Wilson's interval for Clopper and Pearson's.
    """
    count_I, n_I, unique_I = np.broadcast_arrays(*counts, unique_n)
    if drawn is None:
        return ShareIntervals(*wilson(count_I, n_I, level), BY_ROW)
    share_I = np.where(n_I > 0, count_I / np.maximum(n_I, 1), 0)
    variance_I = _variances(*drawn)
    independent_I = share_I * (1 - share_I) / np.where(variance_I > 0, variance_I, np.inf)
    effective_I = np.where((independent_I > 0), np.minimum(independent_I, n_I), unique_I)
    return ShareIntervals(*wilson(share_I * effective_I, effective_I, level), BY_CLUSTER)


def _variances(tops_BI: IntArray, bottoms_BI: IntArray) -> FloatArray:
    """The variance of each ratio over its resamples; those without a sequence in the denominator are left out."""
    known_BI = np.broadcast_to(bottoms_BI > 0, tops_BI.shape)
    ratios_BI = np.where(known_BI, tops_BI / np.maximum(bottoms_BI, 1), 0)
    num_known_I = np.maximum(known_BI.sum(axis=0), 1)
    mean_I = ratios_BI.sum(axis=0) / num_known_I
    return (np.where(known_BI, ratios_BI - mean_I, 0) ** 2).sum(axis=0) / num_known_I


def _draw(rows: IntArray, duplicates: DuplicateRows, *, num_resamples: int, seed: int) -> IntArray:
    profiles_PC, num_clusters_P = _profiles(rows, duplicates)
    total = int(num_clusters_P.sum())
    if not total:
        return np.zeros((num_resamples, NUM_CLASSES, NUM_CLASSES), np.int64)
    times_BP = np.random.default_rng(seed).multinomial(total, num_clusters_P / total, size=num_resamples)
    return (times_BP.astype(np.int64) @ profiles_PC).reshape(num_resamples, NUM_CLASSES, NUM_CLASSES)


def _profiles(rows: IntArray, duplicates: DuplicateRows) -> tuple[IntArray, IntArray]:
    """What clusters hold, int64 [P, C], and how many hold it [P]; a cluster of one row holds one 1."""
    alone_C = rows.ravel() - np.bincount(duplicates.codes, minlength=_NUM_PAIRS)
    names, index = np.unique(duplicates.clusters, return_inverse=True)
    held = np.bincount(index * _NUM_PAIRS + duplicates.codes, minlength=len(names) * _NUM_PAIRS)
    shared_PC, num_shared_P = np.unique(held.reshape(-1, _NUM_PAIRS), axis=0, return_counts=True)
    profiles_PC = np.concatenate([np.eye(_NUM_PAIRS, dtype=np.int64), shared_PC])
    return profiles_PC, np.concatenate([alone_C, num_shared_P])
