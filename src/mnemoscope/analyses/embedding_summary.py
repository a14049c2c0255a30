"""One side of one model in a few numbers, over all decoding steps.

Axes: T steps, B resamples, N random groupings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mnemoscope.analyses.embedding_sample import Floats
from mnemoscope.analyses.embedding_steps import Curve, Side, recentred_interval
from mnemoscope.resampling import percentile_interval


class Estimate(NamedTuple):
    """A number with its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """The same in another unit; NaN where the factor is."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


class Summary(NamedTuple):
    """Spread, order, and how they change; distances are in units of the state."""

    spread: Estimate
    shared_spread: Estimate
    """Over the scores that every model keeps."""
    scatter: float
    spread_early: float
    spread_late: float
    spread_change: Estimate
    """In units of `spread_early`."""
    mean_cosine: Estimate
    cosine_change: Estimate
    neighbour_cosine: Estimate
    neighbour_cosine_change: Estimate
    order: Estimate
    order_p: float
    separation_p: float


def summarize(side: Side, level: float) -> Summary:
    """The numbers of one side."""
    early, late, change = _spread_change(side.squared_distance, level)
    return Summary(
        spread=spread_over(side.squared_distance, slice(None), level),
        shared_spread=spread_over(side.shared_squared_distance, slice(None), level),
        scatter=float(np.sqrt(np.mean(side.scatter_T**2))),
        spread_early=early,
        spread_late=late,
        spread_change=change.times(1 / early if early > 0 else np.nan),
        mean_cosine=_over(side.cosine, level),
        cosine_change=_change(side.cosine, level),
        neighbour_cosine=_over(side.neighbour_cosine, level),
        neighbour_cosine_change=_change(side.neighbour_cosine, level),
        order=_over(side.order, level),
        order_p=random_p(side.order),
        separation_p=random_p(side.squared_distance),
    )


def spread_over(squared: Curve, steps: slice, level: float) -> Estimate:
    """Root mean squared distance over pairs and steps, noise taken off."""
    resampled_B = _root(squared.resampled_BT[:, steps].mean(axis=1))
    return Estimate(float(_root(squared.corrected_T[steps].mean())), *percentile_interval(resampled_B, level))


def random_p(curve: Curve) -> float:
    """One-sided: how often random groups do as well or better over all steps, the real grouping counted among them."""
    with np.errstate(invalid="ignore"):
        found, random_N = np.mean(curve.corrected_T), np.mean(curve.random_corrected_NT, axis=1)
    if np.isnan(found):
        return float("nan")
    return float((1 + np.sum(random_N >= found)) / (1 + len(random_N)))


def quarters(num_steps: int) -> tuple[slice, slice]:
    """The first and the last quarter of the steps, of one step at least."""
    size = max(1, num_steps // 4)
    return slice(0, size), slice(num_steps - size, num_steps)


def _spread_change(squared: Curve, level: float) -> tuple[float, float, Estimate]:
    first, last = quarters(len(squared.corrected_T))
    early, late = (float(_root(squared.corrected_T[some].mean())) for some in (first, last))
    early_B, late_B = (_root(squared.resampled_BT[:, some].mean(axis=1)) for some in (first, last))
    return early, late, Estimate(late - early, *percentile_interval(late_B - early_B, level))


def _over(curve: Curve, level: float) -> Estimate:
    return _estimate(_mean(curve.corrected_T), _mean(curve.resampled_BT), level, 1)


def _change(curve: Curve, level: float) -> Estimate:
    first, last = quarters(len(curve.corrected_T))
    value = _mean(curve.corrected_T[last]) - _mean(curve.corrected_T[first])
    resampled_B = _mean(curve.resampled_BT[:, last]) - _mean(curve.resampled_BT[:, first])
    return _estimate(value, resampled_B, level, 2)


def _estimate(value: Floats, resampled_B: Floats, level: float, bound: float) -> Estimate:
    low, high = recentred_interval(np.asarray(value), resampled_B, level)
    return Estimate(float(value), float(np.clip(low, -bound, bound)), float(np.clip(high, -bound, bound)))


def _mean(values: Floats) -> Floats:
    """Over steps; NaN where a step has no value: a mean over other steps would be another quantity."""
    return np.asarray(values.mean(axis=-1))


def _root(values: Floats) -> Floats:
    return np.sqrt(np.maximum(values, 0))
