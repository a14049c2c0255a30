"""Intervals of shares: by cluster of duplicates where there are some, else Wilson's over rows; of estimated shares with
what the second phase adds (see `second_phase`).

Sequences are counted by class (levels of a pair of runs, numbers of matched tokens). A share is one sum of classes
over another. What resampling clusters does to it follows from two things: how many rows each class has, and how the
classes meet within clusters, which is one small matrix however many sequences there are.

Axes: C classes, D rows of clusters of two or more, M such clusters, I shares.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnemoscope.analyses.second_phase import SecondPhase, added_variance, independent_rows
from mnemoscope.intervals import FloatArray, wilson

BY_CLUSTER: Final = "Wilson, effective n by cluster bootstrap"
BY_ROW: Final = "Wilson over rows"
BY_WEIGHT: Final = "Wilson, effective n by cluster bootstrap and the weights of the graded sample"
METHODS: Final = (BY_WEIGHT, BY_CLUSTER, BY_ROW)

IntArray = NDArray[np.int64]


class ShareIntervals(NamedTuple):
    """The two ends of each share's interval, and how they were found."""

    low: FloatArray
    high: FloatArray
    method: str


class ClassCounts(NamedTuple):
    """A stratum's sequences by class."""

    rows: IntArray | FloatArray
    """[C]; integers where sequences were counted, float64 where their number is estimated, as in the next two."""
    unique: IntArray | FloatArray | None
    """[C], one per cluster, in the class of its first row; None where clusters are unknown."""
    products: IntArray | FloatArray | None
    """[C, C]: the outer product of a cluster's counts with themselves, summed over all clusters. None where
    clusters are unknown, and where none has two rows: then rows are as good as clusters."""
    second: SecondPhase | None = None
    """What the estimates rest on; None where sequences were counted."""

    @property
    def observed_unique(self) -> IntArray | None:
        """Unique sequences whose class is known: all of them where they were counted."""
        if self.second is not None:
            return self.second.observed_unique_C
        return None if self.unique is None else np.asarray(self.unique, np.int64)


def count_classes(rows_C: IntArray, unique_C: IntArray | None, clusters_D: IntArray, codes_D: IntArray) -> ClassCounts:
    """A stratum's counts, from those of all its rows and the clusters and classes of the rows with duplicates."""
    if unique_C is None or not len(clusters_D):
        return ClassCounts(rows_C, unique_C, None)
    names, cluster_D = np.unique(clusters_D, return_inverse=True)
    shape = len(names), len(rows_C)
    held_MC = sparse.csr_matrix((np.ones(len(codes_D), np.int64), (cluster_D, codes_D)), shape=shape)
    alone_C = rows_C - np.bincount(codes_D, minlength=len(rows_C))
    return ClassCounts(rows_C, unique_C, (held_MC.T @ held_MC).toarray() + np.diag(alone_C))


def estimate_classes(
    rows_C: FloatArray,
    unique_C: FloatArray | None,
    clusters_D: IntArray,
    codes_D: IntArray,
    weights_D: FloatArray,
    *,
    second: SecondPhase,
) -> ClassCounts:
    """A stratum's estimated counts, from the clusters, classes and weights of the observed rows with duplicates.

    Two rows of a cluster are graded independently, and stand for the product of their weights of such pairs, but each
    row for its weight of itself: the estimate of Horvitz and Thompson of the clusters' squares (`products`).
    """
    if not len(clusters_D):
        return ClassCounts(rows_C, unique_C, None, second)
    names, cluster_D = np.unique(clusters_D, return_inverse=True)
    shape = len(names), len(rows_C)
    held_MC = sparse.csr_matrix((weights_D, (cluster_D, codes_D)), shape=shape)
    own_C = np.bincount(codes_D, weights=weights_D * (1 - weights_D), minlength=len(rows_C))
    alone_C = rows_C - np.bincount(codes_D, weights=weights_D, minlength=len(rows_C))
    return ClassCounts(rows_C, unique_C, (held_MC.T @ held_MC).toarray() + np.diag(own_C + alone_C), second)


def count_leads(clusters_D: IntArray, sequence_ids_D: IntArray, codes_D: IntArray, num_classes: int) -> IntArray:
    """Clusters by the class of their first row, int64 [C]."""
    order = np.lexsort((sequence_ids_D, clusters_D))
    _, first = np.unique(clusters_D[order], return_index=True)
    return np.bincount(codes_D[order[first]], minlength=num_classes)


def share_intervals(counts: ClassCounts, tops_CI: IntArray, bottoms_CI: IntArray, level: float) -> ShareIntervals:
    """Intervals of (rows in tops) / (rows in bottoms), each a column of zeros and ones that picks classes.

    The share's variance over resampled clusters gives the n of independent rows that would vary as much, never more
    than there are; Wilson's interval at that n keeps its shape near 0 and 1, where percentiles fall short. Of a
    share of 0 or 1 all resamples say the same: its n is the number of clusters. Korn and Graubard (1998), Survey
    Methodology 24:193, with Wilson's interval for Clopper and Pearson's.
    """
    count_I, n_I = counts.rows @ tops_CI, counts.rows @ bottoms_CI
    if counts.second is not None:
        return _estimated_intervals(counts, counts.second, tops_CI, bottoms_CI, level)
    if counts.products is None or counts.unique is None:
        return ShareIntervals(*wilson(count_I, n_I, level), BY_ROW)
    share_I = count_I / np.maximum(n_I, 1)
    variance_I = _bootstrap_variance(share_I, n_I, counts.products, tops_CI, bottoms_CI)
    independent_I = share_I * (1 - share_I) / np.where(variance_I > 0, variance_I, np.inf)
    effective_I = np.where(independent_I > 0, np.minimum(independent_I, n_I), counts.unique @ bottoms_CI)
    return ShareIntervals(*wilson(share_I * effective_I, effective_I, level), BY_CLUSTER)


def _estimated_intervals(
    counts: ClassCounts, phase: SecondPhase, tops_CI: IntArray, bottoms_CI: IntArray, level: float
) -> ShareIntervals:
    """The same of estimated counts, whose variance is that of the sequences and that of the graded among them.

    Of a share of 0 or 1 the n is that of the clusters where the first phase decides it, else the one that the weights
    of the graded leave.
    """
    n_I = counts.rows @ bottoms_CI
    share_I = np.clip(counts.rows @ tops_CI / np.where(n_I > 0, n_I, 1), 0, 1)
    variance_I = share_I * (1 - share_I) / np.where(n_I > 0, n_I, 1)
    if counts.products is not None:
        variance_I = _bootstrap_variance(share_I, n_I, counts.products, tops_CI, bottoms_CI)
    variance_I = variance_I + added_variance(phase, share_I, tops_CI, bottoms_CI) / np.where(n_I > 0, n_I, 1) ** 2
    independent_I = share_I * (1 - share_I) / np.where(variance_I > 0, variance_I, np.inf)
    clusters_I = n_I if counts.unique is None else counts.unique @ bottoms_CI
    certain_I = np.where(phase.are_open(tops_CI), independent_rows(phase, bottoms_CI), clusters_I)
    effective_I = np.where(independent_I > 0, np.minimum(independent_I, n_I), np.minimum(certain_I, clusters_I))
    return ShareIntervals(*wilson(share_I * effective_I, effective_I, level), BY_WEIGHT)


def _bootstrap_variance(
    share_I: FloatArray,
    n_I: IntArray | FloatArray,
    products_CC: IntArray | FloatArray,
    tops_CI: IntArray,
    bottoms_CI: IntArray,
) -> FloatArray:
    """The variance of each share over resamples of the clusters, in closed form instead of by drawing them.

    With a cluster's part of the numerator, t, and of the denominator, b, it is the sum of (t - share b)^2 over all
    clusters, over n^2: the variance of a bootstrapped ratio to first order in the number of clusters, and exactly
    share (1 - share) / n where every cluster has one row. Davison and Hinkley, Bootstrap Methods and their
    Application (1997), section 2.7.2, the nonparametric delta method.
    """
    residual_CI = tops_CI - share_I * bottoms_CI
    squares_I = (residual_CI * (products_CC @ residual_CI)).sum(axis=0)
    return np.maximum(squares_I, 0) / np.maximum(n_I, 1).astype(np.float64) ** 2
