"""Statistics of rates: intervals of shares and of their differences, lines with a slope's interval, Holm.

Pure functions of numbers, vectorised over numpy arrays. A share is count / n of integers; nothing here
divides by an n of zero: an empty stratum gets the interval [0, 1], which says that nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

FloatArray = NDArray[np.float64]


class Interval(NamedTuple):
    """The two ends of an interval, each with the shape of what was asked about."""

    low: FloatArray
    high: FloatArray


class Difference(NamedTuple):
    """A difference of two shares and its interval; the estimate is NaN where one side has no sequences."""

    estimate: FloatArray
    low: FloatArray
    high: FloatArray


class Line(NamedTuple):
    """A least-squares line y = intercept + slope * x; interval and p-value are None where not defined."""

    slope: float
    intercept: float
    slope_low: float | None
    slope_high: float | None
    p_value: float | None
    num_points: int


class Curve(NamedTuple):
    """A curve fitted by least squares: its parameters, and the sum of its squared residuals."""

    parameters: tuple[float, ...]
    squared_residuals: float


@cache
def normal_quantile(level: float) -> float:
    """The standard normal quantile z that cuts a two-sided interval of this level (0.95: 1.96)."""
    return float(stats.norm.ppf(0.5 + level / 2))


def shares(count: ArrayLike, n: ArrayLike) -> FloatArray:
    """Share = count / n; NaN where n is zero."""
    count_float, n_float = np.asarray(count, np.float64), np.asarray(n, np.float64)
    empty = np.full(np.broadcast(count_float, n_float).shape, np.nan)
    return np.divide(count_float, n_float, out=empty, where=n_float > 0)


def wilson(count: ArrayLike, n: ArrayLike, level: float = 0.95) -> Interval:
    """The score interval of a share count / n; a zero count has an upper bound, an n of zero gets [0, 1].

    Wilson (1927), Journal of the American Statistical Association 22:209, without continuity correction.
    """
    z = normal_quantile(level)
    n_float = np.asarray(n, np.float64)
    count_float = np.asarray(count, np.float64)
    share = np.nan_to_num(shares(count_float, n_float), nan=0.5)
    center = count_float + z * z / 2
    spread = z * np.sqrt(n_float * share * (1 - share) + z * z / 4)
    low, high = (center - spread) / (n_float + z * z), (center + spread) / (n_float + z * z)
    # At the borders the formula gives 0 and 1 exactly; floating point misses them by a rounding error.
    low = np.where(count_float == 0, 0.0, np.clip(low, 0, 1))
    high = np.where(count_float == n_float, 1.0, np.clip(high, 0, 1))
    return Interval(low, high)


def newcombe(
    count: ArrayLike, n: ArrayLike, other_count: ArrayLike, other_n: ArrayLike, level: float = 0.95
) -> Difference:
    """The difference count/n - other_count/other_n of independent shares, with its hybrid score interval.

    Newcombe (1998), Statistics in Medicine 17:873, method 10: `subtract` of the two Wilson intervals.
    """
    ends, other_ends = wilson(count, n, level), wilson(other_count, other_n, level)
    return subtract(shares(count, n), ends, shares(other_count, other_n), other_ends)


def subtract(share: ArrayLike, ends: Interval, other_share: ArrayLike, other_ends: Interval) -> Difference:
    """The difference of independent shares, its interval from theirs: distances to the ends, squared and added.

    Where a share is NaN the estimate is NaN and the interval [-1, 1].
    """
    one, other = np.asarray(share, np.float64), np.asarray(other_share, np.float64)
    estimate = one - other
    unknown = np.isnan(estimate)
    lower = estimate - np.hypot(one - ends.low, other_ends.high - other)
    upper = estimate + np.hypot(ends.high - one, other - other_ends.low)
    return Difference(estimate, np.where(unknown, -1.0, lower), np.where(unknown, 1.0, upper))


def fit_line(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> Line | None:
    """The ordinary least-squares line with the t-interval and two-sided p-value of its slope.

    None where x takes fewer than two values. No interval and no p-value where fewer than three points,
    or no residual at all, leave nothing to estimate the scatter from. Draper and Smith, Applied Regression
    Analysis, 1.4.
    """
    x_array, y_array = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(set(x_array.tolist())) < 2:
        return None
    centred = x_array - x_array.mean()
    slope = float(centred @ (y_array - y_array.mean()) / (centred @ centred))
    intercept = float(y_array.mean() - slope * x_array.mean())
    bare = Line(slope, intercept, None, None, None, len(x_array))
    residuals = y_array - intercept - slope * x_array
    freedom = len(x_array) - 2
    scale = float(np.abs(y_array).max())
    if freedom < 1 or float(np.abs(residuals).max()) <= 1e-12 * scale:
        return bare
    error = math.sqrt(float(residuals @ residuals) / freedom / float(centred @ centred))
    reach = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(slope) / error, freedom))
    return bare._replace(slope_low=slope - reach, slope_high=slope + reach, p_value=p_value)


def fit_curve(
    curve: Callable[..., FloatArray],
    x: Sequence[float],
    y: Sequence[float],
    *,
    start: tuple[float, ...],
    bounds: tuple[tuple[float, ...], tuple[float, ...]],
) -> Curve | None:
    """The curve's parameters by non-linear least squares; None where the search does not settle."""
    x_array, y_array = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def residuals(parameters: FloatArray) -> FloatArray:
        return curve(x_array, *parameters) - y_array

    found = optimize.least_squares(residuals, start, bounds=bounds, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    if not found.success:
        return None
    return Curve(tuple(float(value) for value in found.x), 2 * float(found.cost))


def aicc(squared_residuals: float, num_points: int, num_parameters: int) -> float | None:
    """The small-sample Akaike criterion of a least-squares fit; lower is better.

    `num_parameters` counts the curve's own; the scatter is one more. Hurvich and Tsai (1989), Biometrika
    76:297. None where the points are too few for the correction, or the fit leaves no residual.
    """
    total = num_parameters + 1
    if num_points - total - 1 < 1 or squared_residuals <= 0:
        return None
    correction = 2 * total * (total + 1) / (num_points - total - 1)
    return num_points * math.log(squared_residuals / num_points) + 2 * total + correction


def r_squared(squared_residuals: float, y: Sequence[float]) -> float | None:
    """The share of y's variance that a fit explains; None where y does not vary."""
    y_array = np.asarray(y, np.float64)
    centred = y_array - y_array.mean()
    total = float(centred @ centred)
    return 1 - squared_residuals / total if total > 0 else None


def holm(p_values: ArrayLike) -> FloatArray:
    """The p-values adjusted for their number by Holm's step-down method, in the order given.

    Holm (1979), Scandinavian Journal of Statistics 6:65: the i-th smallest times (m - i + 1), made
    monotone, at most 1.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return adjusted


def share_decimals(low: float, high: float) -> int:
    """Decimals of a percentage that show two digits of its interval's width; at most 6."""
    width_percent = 100 * (high - low)
    return 2 if width_percent <= 0 else min(max(1 - math.floor(math.log10(width_percent)), 0), 6)


def format_share(share: float, low: float, high: float, *, unit: str = "%") -> str:
    """A share in percent with its interval, to the digits that supports: `1.183 % (1.182 to 1.185)`."""
    decimals = share_decimals(low, high)
    value, lower, upper = (f"{100 * number:.{decimals}f}" for number in (share, low, high))
    return f"{value} {unit} ({lower} to {upper})"
