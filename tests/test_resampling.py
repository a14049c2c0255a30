"""The cluster bootstrap against theory."""

from __future__ import annotations

import numpy as np
import pytest

from mnemoscope.resampling import draw_multiplicities, percentile_interval, simultaneous_band


def test_rows_of_a_cluster_stand_equally_often():
    """Each resample draws three clusters; rows 0 and 2 share one, so their multiplicities are equal."""
    drawn_BR = draw_multiplicities(np.array([7, 3, 7, 9]), num_resamples=500, seed=0)
    assert drawn_BR.shape == (500, 4)
    np.testing.assert_array_equal(drawn_BR[:, 0], drawn_BR[:, 2])
    assert (drawn_BR[:, 0] + drawn_BR[:, 1] + drawn_BR[:, 3] == 3).all()


def test_bootstrap_error_of_a_mean_is_the_textbook_one():
    """Of 400 independent values the resampled means' spread is s / sqrt(n), within Monte Carlo error."""
    values = np.random.default_rng(1).normal(size=400)
    drawn_BR = draw_multiplicities(np.arange(400), num_resamples=4000, seed=2)
    means = drawn_BR @ values / drawn_BR.sum(axis=1)
    assert means.std(ddof=1) == pytest.approx(values.std() / np.sqrt(400), rel=0.05)
    low, high = percentile_interval(means)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(400), rel=0.1)


def test_duplicated_rows_do_not_narrow_the_interval():
    """Each value ten times over, in clusters: the interval stays that of the values once."""
    values = np.random.default_rng(1).normal(size=100)
    once = draw_multiplicities(np.arange(100), num_resamples=3000, seed=3) @ values / 100
    tenfold = (
        draw_multiplicities(np.repeat(np.arange(100), 10), num_resamples=3000, seed=3) @ np.repeat(values, 10) / 1000
    )
    assert np.std(tenfold) == pytest.approx(np.std(once), rel=1e-9)


def test_simultaneous_band_covers_the_whole_curve():
    """Over 300 repetitions the band of a 20-point mean curve misses some point in about 5 % of them."""
    generator, missed = np.random.default_rng(4), 0
    for repetition in range(300):
        rows_RI = generator.normal(size=(60, 20))
        drawn_BR = draw_multiplicities(np.arange(60), num_resamples=300, seed=repetition)
        resampled_BI = drawn_BR @ rows_RI / drawn_BR.sum(axis=1, keepdims=True)
        band = simultaneous_band(rows_RI.mean(axis=0), resampled_BI)
        missed += bool(((band.low > 0) | (band.high < 0)).any())
    assert 3 <= missed <= 30


def test_a_curve_that_never_varies_has_a_band_of_width_zero():
    """No scatter, no width; and no division by zero."""
    band = simultaneous_band(np.ones(3), np.ones((10, 3)))
    assert band.low.tolist() == band.high.tolist() == [1, 1, 1]
