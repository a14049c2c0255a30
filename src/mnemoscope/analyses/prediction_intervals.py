"""Intervals of metrics of predictions, from resamples of clusters or, of plain shares, from their scatter.

Axes: B resamples (the first is the sample itself), R rows.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from mnemoscope.analyses.prediction_units import Floats, Integers
from mnemoscope.intervals import normal_quantile, wilson
from mnemoscope.resampling import percentile_interval

WILSON: Final = "Wilson, effective n by cluster bootstrap"
PERCENTILE: Final = "percentiles of the cluster bootstrap"
REFLECTED: Final = "percentiles of the cluster bootstrap, reflected at the value"
MIN_DEFINED: Final = 0.5
"""Of the resamples, how many must have a value for an interval to be told."""


class Estimate(NamedTuple):
    """A value with its interval, the method of it, and what there is to remark; None where not defined."""

    value: float | None
    low: float | None
    high: float | None
    method: str | None
    note: str | None = None


UNDEFINED: Final = Estimate(None, None, None, None, "not defined: no sequence of the kind that it is about")


def estimate_share(
    values_B: Floats, *, num_units: float, max_units: float, num_clusters: int, level: float
) -> Estimate:
    """A share and its interval: Wilson's at the number of independent units that would vary as the resamples do.

    `num_units` is that number where no resample varies, at 0 or 1; `max_units` bounds it.
    """
    if np.isnan(values_B[0]):
        return UNDEFINED
    spread = np.nanvar(values_B[1:], ddof=1) if (~np.isnan(values_B[1:])).sum() > 1 else 0.0
    low, high = share_interval(
        float(values_B[0]),
        float(spread),
        num_units=num_units,
        max_units=max_units,
        num_clusters=num_clusters,
        level=level,
    )
    return Estimate(float(values_B[0]), low, high, WILSON)


def share_interval(
    share: float, variance: float, *, num_units: float, max_units: float, num_clusters: int, level: float
) -> tuple[float, float]:
    """Wilson's interval at the effective number of units, fewer still where few clusters tell the variance.

    Korn and Graubard (1998), Survey Methodology 24:193, with Wilson's interval for Clopper and Pearson's: share
    (1 - share) / variance units, times (z / t)^2 with as many degrees of freedom as clusters less one.
    """
    if num_clusters < 2:
        units = 1.0
    else:
        units = min(share * (1 - share) / variance, max_units) if variance > 0 and 0 < share < 1 else num_units
        units *= _shrinkage(num_clusters, level)
    low, high = wilson(share * units, units, level)
    return min(float(low), share), max(float(high), share)


@cache
def _shrinkage(num_clusters: int, level: float) -> float:
    return (normal_quantile(level) / float(stats.t.ppf(0.5 + level / 2, num_clusters - 1))) ** 2


def estimate_number(values_B: Floats, *, level: float, biased: bool = False) -> Estimate:
    """A value and the central range of its resamples; a statistic that noise drives up (`biased`) has it reflected.

    No interval where every resample says the same, as of a perfect ranking: nothing is known of its error then.
    """
    value = float(values_B[0])
    if np.isnan(value):
        return UNDEFINED
    known_B = values_B[1:][~np.isnan(values_B[1:])]
    if len(known_B) < MIN_DEFINED * (len(values_B) - 1) or len(known_B) < 2:
        return Estimate(value, None, None, None, "no interval: too few resamples have a value")
    if np.ptp(known_B) <= 1e-12:
        return Estimate(value, None, None, None, "no interval: every resample gives the same")
    low, high = percentile_interval(known_B, level)
    if biased:
        return Estimate(value, max(0.0, 2 * value - high), max(0.0, 2 * value - low), REFLECTED)
    return Estimate(value, low, high, PERCENTILE)


def bootstrap_p(values_B: Floats) -> float | None:
    """The two-sided p-value of a difference of zero: twice the smaller part of resamples on the other side of it."""
    known_B = values_B[1:][~np.isnan(values_B[1:])]
    if np.isnan(values_B[0]) or len(known_B) < 2:
        return None
    tail = min(int((known_B <= 0).sum()), int((known_B >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(known_B) + 1))


class Share(NamedTuple):
    """A weighted share of rows with its interval, and how many clusters it stands on."""

    value: float
    low: float
    high: float
    num_clusters: int


def linear_share(value_R: Floats, weight_R: Floats, cluster_R: Integers, *, level: float, max_units: int) -> Share:
    """A weighted mean of values from 0 to 1 with an interval from the scatter of its clusters, without resampling.

    The variance is that of the ratio's linearisation, sum of squares of the clusters' weighted residuals times
    C / (C - 1): Cochran, Sampling Techniques (1977), 9A.2 and 11.16. Rows may repeat a sequence (seeds): then
    `max_units`, the most independent units that there can be, is less than the rows.
    """
    _, code_R = np.unique(cluster_R, return_inverse=True)
    weight_R = weight_R / weight_R.sum()
    value = min(max(float(weight_R @ value_R), 0.0), 1.0)
    summed_C = np.bincount(code_R, weights=weight_R)
    residual_C = np.bincount(code_R, weights=weight_R * (value_R - value))
    num_clusters = len(summed_C)
    variance = float(residual_C @ residual_C) * num_clusters / max(1, num_clusters - 1)
    units = 1 / float(summed_C @ summed_C)
    low, high = share_interval(
        value,
        variance if variance > 1e-24 else 0.0,
        num_units=units,
        max_units=max_units,
        num_clusters=num_clusters,
        level=level,
    )
    return Share(value, low, high, num_clusters)
