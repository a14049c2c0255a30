"""Intervals of shares in a table of pairs: by cluster of duplicates where they are known, else Wilson over rows.

Resampling clusters is resampling what clusters hold: clusters with the same counts of classes are one profile,
and how often each profile is drawn is multinomial. So the bootstrap's cost is by profiles, not by sequences.

Axes: B resamples, P profiles, C pairs of classes (36), I shares.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.analyses.agreement import NUM_CLASSES, merge_scores
from mnemoscope.analyses.pairs import DuplicateRows, IntArray, PairTally
from mnemoscope.intervals import FloatArray, wilson

BY_CLUSTER: Final = "cluster bootstrap"
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

    Of a share of 0 or 1 all resamples say the same: it gets Wilson's interval over its `unique_n` clusters.
    """
    count, n = counts
    if drawn is None:
        return ShareIntervals(*wilson(count, n, level), BY_ROW)
    shape = np.broadcast_shapes(count.shape, n.shape)
    count_I, n_I, unique_I = (np.broadcast_to(array, shape) for array in (count, n, unique_n))
    low_I, high_I = wilson(np.where(count_I == 0, 0, unique_I), unique_I, level)
    inner_I = (count_I > 0) & (count_I < n_I)
    if inner_I.any():
        tops_BI, bottoms_BI = (np.broadcast_to(array, (len(array), *shape))[:, inner_I] for array in drawn)
        low_I, high_I = low_I.copy(), high_I.copy()
        low_I[inner_I], high_I[inner_I] = _quantiles(tops_BI, bottoms_BI, level)
    return ShareIntervals(low_I, high_I, BY_CLUSTER)


def _quantiles(tops_BI: IntArray, bottoms_BI: IntArray, level: float) -> NDArray[np.float64]:
    """The central interval of each ratio; resamples without a sequence in the denominator are left out."""
    ratios_BI = np.where(bottoms_BI > 0, tops_BI / np.maximum(bottoms_BI, 1), np.nan)
    return np.nanquantile(ratios_BI, [(1 - level) / 2, (1 + level) / 2], axis=0)


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
