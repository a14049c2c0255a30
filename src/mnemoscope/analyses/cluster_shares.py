"""Intervals of shares: by cluster of duplicates where there are some, else Wilson's over rows.

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

from mnemoscope.intervals import FloatArray, wilson

BY_CLUSTER: Final = "Wilson, effective n by cluster bootstrap"
BY_ROW: Final = "Wilson over rows"
METHODS: Final = (BY_CLUSTER, BY_ROW)

IntArray = NDArray[np.int64]


class ShareIntervals(NamedTuple):
    """The two ends of each share's interval, and how they were found."""

    low: FloatArray
    high: FloatArray
    method: str


class ClassCounts(NamedTuple):
    """A stratum's sequences by class."""

    rows: IntArray
    """int64 [C]."""
    unique: IntArray | None
    """int64 [C], one per cluster, in the class of its first row; None where clusters are unknown."""
    products: IntArray | None
    """int64 [C, C]: the outer product of a cluster's counts with themselves, summed over all clusters. None where
    clusters are unknown, and where none has two rows: then rows are as good as clusters."""


def count_classes(rows_C: IntArray, unique_C: IntArray | None, clusters_D: IntArray, codes_D: IntArray) -> ClassCounts:
    """A stratum's counts, from those of all its rows and the clusters and classes of the rows with duplicates."""
    if unique_C is None or not len(clusters_D):
        return ClassCounts(rows_C, unique_C, None)
    names, cluster_D = np.unique(clusters_D, return_inverse=True)
    shape = len(names), len(rows_C)
    held_MC = sparse.csr_matrix((np.ones(len(codes_D), np.int64), (cluster_D, codes_D)), shape=shape)
    alone_C = rows_C - np.bincount(codes_D, minlength=len(rows_C))
    return ClassCounts(rows_C, unique_C, (held_MC.T @ held_MC).toarray() + np.diag(alone_C))


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
    if counts.products is None or counts.unique is None:
        return ShareIntervals(*wilson(count_I, n_I, level), BY_ROW)
    share_I = count_I / np.maximum(n_I, 1)
    variance_I = _bootstrap_variance(share_I, n_I, counts.products, tops_CI, bottoms_CI)
    independent_I = share_I * (1 - share_I) / np.where(variance_I > 0, variance_I, np.inf)
    effective_I = np.where(independent_I > 0, np.minimum(independent_I, n_I), counts.unique @ bottoms_CI)
    return ShareIntervals(*wilson(share_I * effective_I, effective_I, level), BY_CLUSTER)


def _bootstrap_variance(
    share_I: FloatArray, n_I: IntArray, products_CC: IntArray, tops_CI: IntArray, bottoms_CI: IntArray
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
