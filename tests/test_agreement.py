"""Statistics of square tables: against statsmodels, scipy, shuffling, and by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import contingency_tables

from mnemoscope.analyses import agreement
from mnemoscope.analyses.agreement import class_of_scores
from mnemoscope.analyses.levels import level_of_scores

TABLES = st.lists(st.integers(0, 30), min_size=25, max_size=25).map(lambda c: np.array(c, np.int64).reshape(5, 5))


def test_levels_end_where_the_paper_says():
    """Levels are [0, .2], (.2, .4], (.4, .6], (.6, .8], (.8, 1], in exact fractions; full matches are a class."""
    for n in (1, 2, 5, 7, 10, 16, 33, 64):
        levels = level_of_scores(n)
        assert levels.tolist() == [max(math.ceil(Fraction(5 * m, n)) - 1, 0) for m in range(n + 1)]
        assert class_of_scores(n).tolist() == [*levels.tolist()[:-1], 5]
    assert level_of_scores(10).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@settings(max_examples=40, deadline=None)
@given(TABLES)
def test_bowker_is_statsmodels(counts):
    """Bowker's statistic, degrees of freedom and p-value are statsmodels', where no pair of cells is empty."""
    counts = counts + 1
    expected = contingency_tables.SquareTable(counts, shift_zeros=False).symmetry()
    found = agreement.bowker(counts)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.degrees_of_freedom == expected.df == 10


def test_empty_pairs_of_cells_have_no_degree_of_freedom():
    """By hand: 6 against 2 moved, nothing else: (6 - 2)^2 / 8 = 2 on one degree of freedom; none moved, no p-value."""
    counts = np.diag([5, 5, 5]) + np.array([[0, 6, 0], [2, 0, 0], [0, 0, 0]])
    assert agreement.bowker(counts) == pytest.approx((2.0, 1, float(stats.chi2.sf(2, 1))))
    assert agreement.bowker(np.diag([5, 5])) == (0.0, 0, None)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_statsmodels_less_half_the_atom_twice(lost, gained):
    """The mid-p-value is statsmodels' exact p-value less the probability of the very count seen; 1 for equal counts."""
    found = agreement.mcnemar(lost, gained)
    if lost + gained == 0:
        assert found.p_value is None
        return
    exact = contingency_tables.mcnemar([[5, lost], [gained, 7]], exact=True)
    atom = stats.binom.pmf(min(lost, gained), lost + gained, 0.5)
    assert found.statistic == exact.statistic
    assert found.p_value == pytest.approx(1.0 if lost == gained else exact.pvalue - atom)


@pytest.mark.parametrize("correlation", [-0.7, 0.0, 0.3, 0.9, 0.99])
def test_binormal_distribution_is_scipys(correlation):
    """P(X <= h, Y <= k) is scipy's bivariate normal distribution to 1e-6, scipy's own precision."""
    h, k = np.array([-2.0, 0.0, 1.3]), np.array([-1.0, 0.4, 3.0])
    normal = stats.multivariate_normal(cov=[[1, correlation], [correlation, 1]])
    expected = [[normal.cdf([a, b]) for b in k] for a in h]
    assert agreement.binormal_below(h, k, correlation) == pytest.approx(np.array(expected), abs=1e-6)


def test_regression_finds_the_correlation_it_was_given():
    """Counts made by cutting two normals of correlation 0.8 are given back, with their margins and correlation."""
    inner = np.array([-1.0, 0.0, 0.5, 1.5])
    edges = np.concatenate([[-8.5], inner, [8.5]])
    shares = np.diff(np.diff(agreement.binormal_below(edges, edges + 0.2 * (abs(edges) < 8), 0.8), axis=0), axis=1)
    counts = np.rint(shares * 1e6).astype(np.int64)
    found = agreement.regressed(counts)
    assert found.correlation == pytest.approx(0.8, abs=1e-3)
    assert found.expected == pytest.approx(counts, rel=0.02, abs=20)


@settings(max_examples=25, deadline=None)
@given(TABLES)
def test_nulls_keep_what_they_say(counts):
    """Regression and independence keep both margins, symmetry the diagonal and the sum; all keep the total."""
    counts[0, 0] += 1
    regression, product = agreement.regressed(counts), agreement.independent(counts)
    for expected in (regression.expected, product):
        assert expected.sum(axis=0) == pytest.approx(counts.sum(axis=0), abs=1e-4 * counts.sum())
        assert expected.sum(axis=1) == pytest.approx(counts.sum(axis=1), abs=1e-4 * counts.sum())
    halves = agreement.symmetric(counts)
    assert (halves == halves.T).all()
    assert (np.diag(halves) == np.diag(counts)).all()
    assert halves.sum() == counts.sum()


def test_independence_is_the_mean_over_permutations():
    """The independent table is what shuffling the second run's sequences gives on average."""
    rng = np.random.default_rng(0)
    counts = np.array([[6, 1], [2, 3]])
    one, other = np.repeat([0, 0, 1, 1], counts.ravel()), np.repeat([0, 1, 0, 1], counts.ravel())
    shuffled = np.zeros((2, 2))
    for _ in range(4000):
        np.add.at(shuffled, (one, rng.permutation(other)), 1 / 4000)
    assert agreement.independent(counts) == pytest.approx(shuffled, abs=0.06)
