"""Cluster bootstrap: intervals for statistics of sequences that are not independent, such as exact duplicates.

The unit that is drawn is the cluster, all of whose rows come or stay away together. A resample is a vector of row
multiplicities, so that any weighted statistic is computed for all resamples at once by a matrix product. Source:
Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 2.4 and 3.8.

Axes: B resamples, R rows, I points of a curve.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Band(NamedTuple):
    """A curve's simultaneous band: with the given confidence the whole true curve lies inside; float64 [I] each."""

    low: Floats
    high: Floats


def draw_multiplicities(cluster_R: NDArray[np.int64], *, num_resamples: int, seed: int) -> Floats:
    """How often each row stands in each resample, float64 [B, R]; rows of a cluster stand equally often.

    Each resample draws as many clusters as there are, with replacement.
    """
    _, index_R = np.unique(cluster_R, return_inverse=True)
    num_clusters = int(index_R.max(initial=-1)) + 1
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, max(1, num_clusters), (num_resamples, num_clusters))
    offsets = np.arange(num_resamples)[:, None] * num_clusters
    counts = np.bincount((drawn + offsets).ravel(), minlength=num_resamples * num_clusters)
    return counts.reshape(num_resamples, num_clusters)[:, index_R].astype(np.float64)


def percentile_interval(values_B: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central interval of a statistic's resampled values; NaN resamples (an empty group) are left out."""
    kept = values_B[~np.isnan(values_B)]
    if len(kept) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def simultaneous_band(estimate_I: Floats, resampled_BI: Floats, level: float = 0.95) -> Band:
    """The max-t band of a curve: estimate +- c x standard error, c the quantile of the largest studentised deviation.

    Points that do not vary over the resamples get a band of width zero.
    """
    error_I = np.nanstd(resampled_BI, axis=0, ddof=1)
    varies_I = error_I > 0
    if not varies_I.any():
        return Band(estimate_I.copy(), estimate_I.copy())
    deviation_BI = np.abs(resampled_BI[:, varies_I] - estimate_I[varies_I]) / error_I[varies_I]
    width = float(np.nanquantile(np.nanmax(deviation_BI, axis=1), level))
    return Band(estimate_I - width * error_I, estimate_I + width * error_I)
