"""Intervals against statsmodels, scipy, and cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from mnemoscope import intervals

COUNTS = np.array([0, 1, 5, 29, 30, 411_428, 146_432_000])
TOTALS = np.array([10, 10, 50, 30, 30, 146_432_000, 146_432_000])


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_is_statsmodels(level):
    """The Wilson interval is statsmodels', also at a count of zero and at a count of n."""
    low, high = intervals.wilson(COUNTS, TOTALS, level)
    expected = proportion_confint(COUNTS, TOTALS, alpha=1 - level, method="wilson")
    np.testing.assert_allclose(low, expected[0], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(high, expected[1], rtol=1e-12)


def test_zero_count_has_an_upper_bound():
    """None of 10 is at most z^2 / (10 + z^2) = 0.2775 at 95 %, and exactly 0 at the lower end."""
    low, high = intervals.wilson(0, 10)
    assert low == 0
    assert float(high) == pytest.approx(3.841458821 / 13.841458821, rel=1e-9)


def test_empty_stratum_knows_nothing():
    """Nothing of nothing is the interval [0, 1] and a share that is NaN, without a warning."""
    with np.errstate(all="raise"):
        low, high = intervals.wilson([0, 1], [0, 2])
        difference = intervals.newcombe(1, 2, 0, 0)
    assert (low[0], high[0]) == (0, 1)
    assert np.isnan(intervals.shares(0, 0))
    assert np.isnan(difference.estimate)
    assert (difference.low, difference.high) == (-1, 1)


@pytest.mark.parametrize("cells", [(56, 70, 48, 80), (9, 10, 3, 10), (0, 10, 0, 20), (10, 10, 0, 10), (5, 56, 0, 29)])
def test_newcombe_is_statsmodels(cells):
    """The interval of a difference is statsmodels' hybrid score interval."""
    expected = confint_proportions_2indep(*cells, method="newcomb", compare="diff")
    difference = intervals.newcombe(*cells)
    assert (float(difference.low), float(difference.high)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_newcombe_published_example():
    """Newcombe (1998), table II: 56/70 - 48/80 has the method-10 interval 0.0524 to 0.3339."""
    difference = intervals.newcombe([56], [70], [48], [80])
    assert difference.estimate == pytest.approx([0.2])
    assert difference.low == pytest.approx([0.0524], abs=5e-5)
    assert difference.high == pytest.approx([0.3339], abs=5e-5)


def test_line_is_scipy():
    """Slope, intercept, p-value and t-interval are scipy's linregress."""
    x, y = [7.8, 8.2, 8.6, 9.0, 10.1], [0.004, 0.005, 0.0061, 0.0068, 0.012]
    line, expected = intervals.fit_line(x, y), stats.linregress(x, y)
    assert line is not None
    assert (line.slope, line.intercept) == pytest.approx((expected.slope, expected.intercept))
    assert line.p_value == pytest.approx(expected.pvalue)
    reach = stats.t.ppf(0.975, 3) * expected.stderr
    assert (line.slope_low, line.slope_high) == pytest.approx((expected.slope - reach, expected.slope + reach))


def test_no_interval_is_invented():
    """Two points, or points exactly on a line, have a slope and no interval; one value of x has no line."""
    two, exact = intervals.fit_line([1, 2], [3, 5]), intervals.fit_line([1, 2, 3], [0, 0, 0])
    assert two is not None
    assert exact is not None
    assert (two.slope, two.slope_low, two.p_value) == (2, None, None)
    assert (exact.slope, exact.slope_high, exact.p_value) == (0, None, None)
    assert intervals.fit_line([1, 1, 1], [1, 2, 3]) is None


def test_holm_is_statsmodels():
    """Holm's adjusted p-values are statsmodels', in the order given; .01, .04, .03 become .03, .06, .06."""
    assert intervals.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p_values = np.random.default_rng(0).uniform(0, 0.2, 30)
    np.testing.assert_allclose(intervals.holm(p_values), multipletests(p_values, method="holm")[1])
    assert intervals.holm([]).shape == (0,)


def test_curve_recovers_its_parameters():
    """A saturating curve through its own points comes back: plateau 2, half size 3."""
    x = [1.0, 2.0, 4.0, 8.0, 16.0]
    y = [2 * value / (value + 3) for value in x]
    curve = intervals.fit_curve(
        lambda x, plateau, half: plateau * x / (x + half), x, y, start=(1, 1), bounds=((0, 0), (10, 100))
    )
    assert curve is not None
    assert curve.parameters == pytest.approx((2, 3), rel=1e-6)
    assert curve.squared_residuals == pytest.approx(0, abs=1e-12)


def test_aicc_by_hand():
    """Six points, residuals 0.6, a line: 6 ln 0.1 + 6 + 2*3*4/2; None where points are too few."""
    assert intervals.aicc(0.6, 6, 2) == pytest.approx(6 * math.log(0.1) + 6 + 12)
    assert intervals.aicc(0.6, 4, 2) is None
    assert intervals.aicc(0.0, 9, 2) is None
    assert intervals.r_squared(0.5, [0, 1]) == pytest.approx(0)
    assert intervals.r_squared(0.5, [1, 1]) is None
