"""Whether more copies mean more recitation: a logistic regression on doublings of copies, by cluster.

Axes: N different windows, K coefficients.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.copies import DoseWindows
from mnemoscope.audit.result import Difference, Trend
from mnemoscope.audit.shares import LEVEL, UNKNOWN
from mnemoscope.intervals import normal_quantile
from mnemoscope.report.spoken import plural

_MAX_STEPS: Final = 100
_NUM_PERMUTATIONS: Final = 9999
_LARGEST_LOG_ODDS: Final = 30.0
Floats = NDArray[np.float64]


class Fit(NamedTuple):
    """A logistic regression: intercept and slope, and the slope's standard error, robust to clusters."""

    intercept: float
    slope: float
    slope_error: float


def measure_trend(windows: DoseWindows, *, seed: int = 0) -> Trend:
    """The slope of the log odds of recitation for each doubling of copies, with its p-value.

    Where a bound on copies parts the recited from the others without an overlap, no slope fits best: then the p-value
    is that of a permutation of clusters, and the sentence says so.
    """
    x_N, y_N = np.log2(windows.copies_N.astype(np.float64)), windows.is_recited_N
    num = len(y_N)
    if len(np.unique(x_N)) < 2:
        return Trend(
            UNKNOWN, None, f"All {num:,} different passages have the same number of copies: there is no trend to see."
        )
    if y_N.all() or not y_N.any():
        word = "All" if y_N.all() else "None"
        return Trend(UNKNOWN, None, f"{word} of {num:,} different passages are recited: there is no trend to see.")
    if is_separated(x_N, y_N):
        return _separated(x_N, y_N, windows, seed)
    fit = fit_logistic(x_N, y_N, windows.unit_N)
    if fit is None:
        p_value = permute_clusters(x_N, y_N, windows.unit_N, seed=seed)
        words = "are too few, or of too few documents, for a slope"
        return Trend(UNKNOWN, p_value, f"{num:,} different passages {words}; p = {p_value:.2g} by permutation.")
    return _fitted(fit, num)


def _fitted(fit: Fit, num: int) -> Trend:
    from scipy import stats

    reach = normal_quantile(LEVEL) * fit.slope_error
    slope = Difference(fit.slope, fit.slope - reach, fit.slope + reach)
    p_value = float(2 * stats.norm.sf(abs(fit.slope) / fit.slope_error))
    odds, low, high = (float(np.exp(value)) for value in (fit.slope, fit.slope - reach, fit.slope + reach))
    sentence = (
        f"Each doubling of copies multiplies the odds of being recited by {odds:.3g} ({low:.3g} to {high:.3g}); "
        f"{num:,} different passages, p = {p_value:.2g}."
    )
    return Trend(slope, p_value, sentence)


def _separated(x_N: Floats, y_N: NDArray[np.bool_], windows: DoseWindows, seed: int) -> Trend:
    p_value = permute_clusters(x_N, y_N, windows.unit_N, seed=seed)
    copies_N = windows.copies_N
    if x_N[y_N].mean() > x_N[~y_N].mean():
        bounds, words = (copies_N[y_N].min(), copies_N[~y_N].max()), ("more", "fewer")
    else:
        bounds, words = (copies_N[y_N].max(), copies_N[~y_N].min()), ("fewer", "more")
    recited, others = f"{bounds[0]:,} copies or {words[0]}", f"{bounds[1]:,} or {words[1]}"
    but = f", but for those with {bounds[0]:,}" if bounds[0] == bounds[1] else ""
    sentence = (
        f"Copies part them{but}: what is recited ({plural(int(y_N.sum()), 'passage')}) has {recited}, what is not "
        f"({plural(int((~y_N).sum()), 'passage')}) {others}, so that no slope fits best; p = {p_value:.2g} by "
        "permutation."
    )
    return Trend(UNKNOWN, p_value, sentence)


def is_separated(x_N: Floats, y_N: NDArray[np.bool_]) -> bool:
    """Whether some bound on x parts the two, touching at most: then the likelihood grows without end."""
    recited, others = x_N[y_N], x_N[~y_N]
    return bool(recited.min() >= others.max() or others.min() >= recited.max())


def fit_logistic(x_N: Floats, y_N: NDArray[np.bool_], unit_N: NDArray[np.integer]) -> Fit | None:
    """Maximum likelihood by Newton's steps; the slope's error by the sandwich over clusters, with G/(G-1) (N-1)/(N-2).

    Liang and Zeger (1986), Biometrika 73:13. None where the steps do not settle, or there is one cluster alone.
    """
    design_NK = np.column_stack([np.ones_like(x_N), x_N - x_N.mean()])
    share = y_N.mean()
    coefficients_K = np.array([np.log(share / (1 - share)), 0.0])
    for _ in range(_MAX_STEPS):
        rate_N = 1 / (1 + np.exp(-np.clip(design_NK @ coefficients_K, -_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS)))
        weighted_NK = design_NK * (rate_N * (1 - rate_N))[:, None]
        bread_KK = np.asarray(np.linalg.pinv(design_NK.T @ weighted_NK), np.float64)
        step_K = bread_KK @ (design_NK.T @ (y_N - rate_N))
        coefficients_K = coefficients_K + step_K
        if np.abs(step_K).max() < 1e-10:
            return _with_error(design_NK, y_N - rate_N, bread_KK, coefficients_K, unit_N=unit_N, mean=float(x_N.mean()))
    return None


def _with_error(
    design_NK: Floats,
    residual_N: Floats,
    bread_KK: Floats,
    coefficients_K: Floats,
    *,
    unit_N: NDArray[np.integer],
    mean: float,
) -> Fit | None:
    names, unit_N = np.unique(unit_N, return_inverse=True)
    num, num_units = len(residual_N), len(names)
    if num_units < 2 or num < 3:
        return None
    score_NK = design_NK * residual_N[:, None]
    score_GK = np.column_stack([np.bincount(unit_N, weights=column) for column in score_NK.T])
    meat_KK = score_GK.T @ score_GK * num_units / (num_units - 1) * (num - 1) / (num - 2)
    error = float(np.sqrt((bread_KK @ meat_KK @ bread_KK)[1, 1]))
    slope = float(coefficients_K[1])
    return Fit(float(coefficients_K[0]) - slope * mean, slope, error) if error > 0 else None


def permute_clusters(x_N: Floats, y_N: NDArray[np.bool_], unit_N: NDArray[np.integer], *, seed: int) -> float:
    """The two-sided p-value of the covariance of x and y over permutations of whole clusters' x.

    A cluster counts once, with its mean x and its share recited. Phipson and Smyth (2010): (hits + 1) / (draws + 1).
    """
    names, unit_N = np.unique(unit_N, return_inverse=True)
    size_G = np.bincount(unit_N, minlength=len(names))
    x_G, y_G = (np.bincount(unit_N, weights=values) / size_G for values in (x_N, y_N.astype(np.float64)))
    x_G, y_G = x_G - x_G.mean(), y_G - y_G.mean()
    generator = np.random.default_rng(seed)
    measured, num_hits = abs(float(x_G @ y_G)), 0
    for _ in range(_NUM_PERMUTATIONS):
        num_hits += abs(float(generator.permutation(x_G) @ y_G)) >= measured * (1 - 1e-12)
    return (num_hits + 1) / (_NUM_PERMUTATIONS + 1)
