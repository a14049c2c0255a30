"""Statistics of square tables of counts: levels, conditional shares, tests of symmetry, and what chance would give.

A table counts sequences by what they were (rows) and what they became (columns). Pure functions of counts.
Axes: L levels or other classes, n+1 scores.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from mnemoscope.analyses.levels import NUM_LEVELS, level_of_scores
from mnemoscope.intervals import FloatArray, shares

IntArray = NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.float64)
"""Counted or estimated."""

NUM_CLASSES: Final = NUM_LEVELS + 1
"""The levels, and full matches as a class of their own behind them."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(160)
_FARTHEST_THRESHOLD: Final = 8.5
"""The normal distribution is 0 or 1 in float64 beyond it."""
_LARGEST_CORRELATION: Final = 0.9999


class SymmetryTest(NamedTuple):
    """A test statistic; the p-value is None where nothing is off the diagonal."""

    statistic: float
    degrees_of_freedom: int
    p_value: float | None


class Regression(NamedTuple):
    """The table that one correlation and the two margins give; correlation None where a margin has one level only."""

    expected: FloatArray
    """float64 [L, L], sums to the table's count."""
    correlation: float | None


def class_of_scores(continuation: int) -> IntArray:
    """The level, and 5 for a full match, of each num_matched, int64 [n+1]."""
    classes = level_of_scores(continuation)
    classes[-1] = NUM_LEVELS
    return classes


def merge_scores(scores: NDArray[Number]) -> NDArray[Number]:
    """The table of classes, [6, 6], of a table of scores [n_from+1, n_to+1]."""
    rows, columns = (class_of_scores(size - 1) for size in scores.shape)
    classes = np.zeros((NUM_CLASSES, NUM_CLASSES), scores.dtype)
    np.add.at(classes, (rows[:, None], columns[None, :]), scores)
    return classes


def merge_classes(classes: NDArray[Number]) -> NDArray[Number]:
    """The table of levels, [..., 5, 5], of a table of classes [..., 6, 6]: full matches are very high too."""
    levels = classes[..., :NUM_LEVELS, :NUM_LEVELS].copy()
    levels[..., -1, :] += classes[..., -1, :NUM_LEVELS]
    levels[..., :, -1] += classes[..., :NUM_LEVELS, -1]
    levels[..., -1, -1] += classes[..., -1, -1]
    return levels


def forward_shares(counts: FloatArray | IntArray) -> FloatArray:
    """P(column | row); NaN in a row without sequences."""
    return shares(counts, counts.sum(axis=1, keepdims=True))


def inverse_shares(counts: FloatArray | IntArray) -> FloatArray:
    """P(row | column), at the same places as the counts; NaN in a column without sequences."""
    return shares(counts, counts.sum(axis=0, keepdims=True))


def carry(row_counts: IntArray | FloatArray, forward: FloatArray) -> FloatArray:
    """The column counts, float64 [L], that P(column | row) makes of row counts."""
    return np.asarray(row_counts, np.float64) @ forward


def bowker(counts: IntArray | FloatArray) -> SymmetryTest:
    """The chi-square test that a table is symmetric; a pair of cells with no sequences has no degree of freedom.

    Bowker (1948), Journal of the American Statistical Association 43:572.
    """
    above, below = counts[np.triu_indices(len(counts), 1)], counts.T[np.triu_indices(len(counts), 1)]
    moved = above + below
    statistic = float(((above - below)[moved > 0] ** 2 / moved[moved > 0]).sum())
    freedom = int((moved > 0).sum())
    return SymmetryTest(statistic, freedom, float(stats.chi2.sf(statistic, freedom)) if freedom else None)


def mcnemar(num_lost: int, num_gained: int) -> SymmetryTest:
    """The exact test that as many are gained as lost, with the mid-p-value; the statistic is the smaller count.

    Mid-p: Fagerland, Lydersen and Laake (2013), BMC Medical Research Methodology 13:91.
    """
    moved, fewer = num_lost + num_gained, min(num_lost, num_gained)
    if moved == 0:
        return SymmetryTest(0.0, 1, None)
    doubled = 2 * float(stats.binom.cdf(fewer, moved, 0.5)) - float(stats.binom.pmf(fewer, moved, 0.5))
    return SymmetryTest(float(fewer), 1, min(1.0, doubled))


def symmetric(counts: IntArray | FloatArray) -> FloatArray:
    """The table if the two were exchangeable: each count shared evenly with its mirror image."""
    return (counts + counts.T) / 2


def independent(counts: IntArray | FloatArray) -> FloatArray:
    """The mean table over all permutations of the columns' sequences: the margins' product."""
    total = counts.sum()
    return np.outer(counts.sum(axis=1), counts.sum(axis=0)) / max(float(total), 1.0)


def regressed(counts: IntArray | FloatArray) -> Regression:
    """The table that Galton's regression to the mean alone gives: two normal traits cut at the observed margins.

    One number, their correlation, is fitted by maximum likelihood at fixed thresholds: Olsson (1979),
    Psychometrika 44:443, the two-step estimate of the polychoric correlation.
    """
    rows, columns = _thresholds(counts.sum(axis=1)), _thresholds(counts.sum(axis=0))
    if min(np.count_nonzero(counts.sum(axis=axis)) for axis in (0, 1)) < 2:
        return Regression(independent(counts), None)

    def surprise(correlation: float) -> float:
        cells = _cell_shares(rows, columns, correlation)
        return -float((counts[counts > 0] * np.log(np.maximum(cells[counts > 0], 1e-300))).sum())

    bounds = (-_LARGEST_CORRELATION, _LARGEST_CORRELATION)
    found: optimize.OptimizeResult = optimize.minimize_scalar(surprise, bounds=bounds, method="bounded")
    correlation = float(found["x"])
    return Regression(_cell_shares(rows, columns, correlation) * counts.sum(), correlation)


def binormal_below(row_thresholds: FloatArray, column_thresholds: FloatArray, correlation: float) -> FloatArray:
    """P(X <= row threshold, Y <= column threshold), float64 [rows, columns], of correlated standard normals.

    Drezner and Wesolowsky (1990), Journal of Statistical Computation and Simulation 35:101: the integral
    over the arcsine of the correlation, by Gauss-Legendre quadrature.
    """
    reach = np.arcsin(correlation) / 2
    angle = reach * (_NODES + 1)
    h, k = row_thresholds[:, None, None], column_thresholds[None, :, None]
    exponent = -(h * h + k * k - 2 * h * k * np.sin(angle)) / (2 * np.cos(angle) ** 2)
    product = np.outer(stats.norm.cdf(row_thresholds), stats.norm.cdf(column_thresholds))
    return product + (np.exp(exponent) * _WEIGHTS).sum(axis=2) * reach / (2 * np.pi)


def _thresholds(margin: IntArray | FloatArray) -> FloatArray:
    """Where a standard normal is cut to give the margin's shares, both ends included, float64 [L+1]."""
    below = np.concatenate([[0], np.cumsum(margin)]) / max(float(margin.sum()), 1.0)
    return np.clip(stats.norm.ppf(below), -_FARTHEST_THRESHOLD, _FARTHEST_THRESHOLD)


def _cell_shares(rows: FloatArray, columns: FloatArray, correlation: float) -> FloatArray:
    below = binormal_below(rows, columns, correlation)
    return np.maximum(np.diff(np.diff(below, axis=0), axis=1), 0)
