"""The boundary's test: matched positions by hand and by brute force, verdicts by rule, errors at their rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mnemoscope.analyses.boundary import (
    EXPLAINED,
    NO_DIFFERENCE,
    NOT_BEYOND,
    OPPOSITE,
    SURVIVES,
    TOO_FEW,
    TOO_WIDE,
    boundary_rows,
    judge,
    matched_differences,
    p_value,
    published_verdict,
    verdicts_by_model,
)
from mnemoscope.analyses.curves import Measure, Settings, Stratum
from mnemoscope.analyses.memory_free import MemoryFree, fit_memory_free, null_curves
from mnemoscope.analyses.samples import list_matrix, read_sample, resampled_means, weighted_medians
from traced_samples import study

K, N = 8, 4


def hits(text):
    """A row of hits (x) and misses (.)."""
    return np.array([[mark == "x" for mark in text.replace(" ", "")]])


def compare(text, values, num_matched):
    hit = hits(text)
    return matched_differences(hit, np.array([values], float), context=K, num_matched=num_matched, continuation=N)[
        0
    ].tolist()


def test_an_unmemorized_row_is_compared_with_its_own_misses_after_as_long_a_run():
    """Token 8 missed after one hit: of the misses at 4 to 7 only the one at 6 follows exactly one hit."""
    values = [0, 1, 2, 3, 5, 9, 4, 6, 1, 0, 0, 0]
    # Misses at 4 (after misses), 6 (after a hit at 5); hits at 5 and 7.
    assert compare("..... x.x ....", values, 0) == [1 - 6, 4 - 9, (1 - 6) - (4 - 9)]


def test_a_row_without_a_like_position_is_left_out():
    """Token 8 missed after two hits, and no miss inside the context follows a run of two or three."""
    assert np.isnan(compare("..... .xx ....", range(12), 0)).all()


def test_a_memorized_row_is_compared_with_hits_followed_by_hits():
    """Hits at 4 to 7 after a run of three or more; 7 is left out, as the next token lies outside the context."""
    values = [0, 0, 0, 0, 1, 3, 9, 30, 31, 0, 0, 0]
    difference, inside, unexplained = compare("xxxxxxxx xxxx", values, 4)
    # From index 1 on, run before 4 is 3, before 5 is 4; lengths of 3 and more are one class for so short a context.
    assert (difference, inside, unexplained) == (1, (1 + 2 + 6) / 3, 1 - 3)


def test_a_half_memorized_row_breaks_at_the_half_point():
    """The break of two matches of four is index 10; the miss inside the context after two hits or three is its like."""
    values = [0, 0, 0, 0, 7, 0, 0, 0, 0, 5, 1, 0]
    assert compare(".xxx.... xx..", values, 2) == [1 - 5, 7, -4 - 7]


def brute_force(hit, values, context, num_matched, n):
    """The same, one row and one position at a time."""
    at = context + (num_matched if 2 * num_matched == n else 0)
    start = max(2, context // 2)
    cap = min(8, start - 1)

    def run(row, index):
        length = 0
        while index - 1 - length >= 0 and row[index - 1 - length]:
            length += 1
        return int(np.log2(min(length, cap))) + 1 if length else 0

    rows = []
    for row, value in zip(hit, values, strict=True):
        ahead = min(n, max(1, context // 4)) if num_matched == n else 0
        like = [
            value[i] - value[i - 1]
            for i in range(start, context)
            if row[i] == row[at]
            and run(row, i) == run(row, at)
            and (not ahead or (i + ahead <= context and row[i : i + ahead].all()))
        ]
        rows.append([value[at] - value[at - 1], np.mean(like)] if like else [np.nan, np.nan])
    pairs = np.array(rows)
    return np.column_stack([pairs, pairs[:, 0] - pairs[:, 1]])


@pytest.mark.parametrize("context", [4, 9, 32])
@pytest.mark.parametrize("num_matched", [0, 4, 8])
def test_matching_is_that_of_a_loop_over_rows_and_positions(context, num_matched):
    """Vectorised matching gives the numbers of the slow obvious version."""
    rng = np.random.default_rng(context + num_matched)
    n = 8
    hit = rng.random((300, context + n)) < rng.uniform(0.2, 1, (300, 1))
    hit[:, 0] = False
    values = rng.normal(size=hit.shape)
    got = matched_differences(hit, values, context=context, num_matched=num_matched, continuation=n)
    np.testing.assert_allclose(got, brute_force(hit, values, context, num_matched, n))
    assert np.isfinite(got[:, 2]).sum() > 10


def row(**settings):
    """A tested row: a clear difference, wholly unexplained, beyond the control."""
    base = {
        **{"model": "tiny", "score_class": "unmemorized", "note": None, "p_inside": 1e-6, "p_value": 1e-6},
        **{"difference": -1.0, "difference_low": -1.2, "difference_high": -0.8},
        **{"unexplained": -0.5, "unexplained_low": -0.7, "unexplained_high": -0.3},
        **{"control_unexplained": 0.0, "unexplained_gap": -0.5},
    }
    return base | settings


LITTLE = {"unexplained": 0.1, "unexplained_low": -0.1, "unexplained_high": 0.3, "p_inside": 0.4, "p_value": 0.4}


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ({}, SURVIVES),
        ({"control_unexplained": None, "unexplained_gap": None}, SURVIVES),
        ({"p_value": 0.3}, NOT_BEYOND),
        ({"unexplained_gap": 0.5}, NOT_BEYOND),
        (LITTLE, EXPLAINED),
        ({**LITTLE, "unexplained_low": -1.1}, TOO_WIDE),
        ({"unexplained_low": -1.1, "p_inside": 0.06, "p_value": 0.06}, TOO_WIDE),
        ({**LITTLE, "difference_high": 0.1}, NO_DIFFERENCE),
        ({"p_inside": None, "p_value": None}, TOO_FEW),
    ],
)
def test_the_verdict_follows_the_stated_rule(settings, verdict):
    """One row for each verdict; without control text the first test stands alone."""
    assert judge([row(**settings)], level=0.95)[0]["verdict"] == verdict


def test_holm_runs_over_all_tested_rows_and_no_others():
    """p = 0.02 survives alone and beside an untested row, but not as one of three: it is adjusted to 0.06."""
    one = row(p_inside=0.02, p_value=0.02)
    untested, other = row(p_inside=None, p_value=None), row(**LITTLE)
    assert judge([one, untested], level=0.95)[0]["verdict"] == SURVIVES
    judged = judge([one, other, other], level=0.95)[0]
    assert judged["p_holm"] == pytest.approx(0.06)
    assert judged["verdict"] == EXPLAINED
    assert "not after Holm" in judged["note"]


def judged_row(model, verdict, name="unmemorized", *, size=1, step=None, unexplained=-0.5):
    named = {"model": model, "verdict": verdict, "score_class": name, "unexplained": unexplained}
    return {**named, "num_non_embedding_parameters": size, "training_step": step}


def test_a_models_verdict_is_that_of_its_scores_that_break_off():
    """One surviving score suffices; else the unmemorized speak, or the half; what is memorized has no say."""
    rows = [
        judged_row("a", TOO_FEW),
        judged_row("a", SURVIVES, "half"),
        judged_row("b", EXPLAINED),
        judged_row("b", NO_DIFFERENCE, "half"),
        judged_row("c", TOO_FEW),
        judged_row("c", SURVIVES, "memorized"),
        judged_row("d", EXPLAINED),
        judged_row("d", TOO_WIDE, "half"),
        judged_row("e", TOO_FEW),
        judged_row("e", TOO_WIDE, "half"),
    ]
    expected = {"a": SURVIVES, "b": EXPLAINED, "c": TOO_FEW, "d": EXPLAINED, "e": TOO_WIDE}
    assert verdicts_by_model(rows, sign=-1) == expected
    assert verdicts_by_model(rows, sign=1)["a"] == OPPOSITE


def test_only_the_last_checkpoint_of_a_size_speaks():
    """Steps 10 and 20 of one size and 10 of another: 20 and the other's 10; a model without a step is a last one."""
    rows = [judged_row(f"{size}@{step}", EXPLAINED, size=size, step=step) for size, step in ((1, 10), (1, 20), (2, 10))]
    assert list(verdicts_by_model([*rows, judged_row("end", EXPLAINED, size=2)], sign=1)) == ["1@20", "end"]


@pytest.mark.parametrize(
    ("verdicts", "published"),
    [
        ((SURVIVES, EXPLAINED), "undecided"),
        ((SURVIVES, TOO_WIDE, TOO_FEW), "holds"),
        ((EXPLAINED, NO_DIFFERENCE, TOO_FEW), "fails"),
        ((EXPLAINED, TOO_WIDE), "undecided"),
        ((NO_DIFFERENCE, NO_DIFFERENCE), "undecided"),
        ((OPPOSITE,), "fails"),
        ((TOO_FEW,), "undecided"),
        ((), "undecided"),
    ],
)
def test_a_published_effect_fails_only_where_every_model_could_tell(verdicts, published):
    """An open model, or steps that nobody sees, leave the effect open; a survivor among failures does, too."""
    assert published_verdict({str(place): verdict for place, verdict in enumerate(verdicts)}) == published


def test_the_p_value_is_that_of_a_one_sample_t_test():
    """For single sequences of equal weight the bootstrap's standard error gives Student's p-value within its noise."""
    values = np.random.default_rng(5).normal(0.3, 1, 200)
    means = resampled_means(values[:, None], np.ones(200), np.arange(200), num_resamples=4000, seed=0)
    stratum = Stratum("member", 0, np.arange(200), 200)
    got = p_value(means.estimate_K[0], means.resampled_BK[:, 0], stratum)
    assert got == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=0.25)
    assert p_value(0.0, np.zeros(9), stratum) == 1
    assert p_value(0.1, np.full(9, 0.1), stratum) == 0


def test_exact_copies_add_nothing():
    """Rows that stand four times in one cluster give the interval of single rows, not one half as wide."""
    values = np.random.default_rng(1).normal(size=(100, 2))
    once = resampled_means(values, np.ones(100), np.arange(100), num_resamples=500, seed=3)
    many = resampled_means(
        np.repeat(values, 4, 0), np.ones(400), np.repeat(np.arange(100), 4), num_resamples=500, seed=3
    )
    np.testing.assert_allclose(many.estimate_K, once.estimate_K)
    np.testing.assert_allclose(many.resampled_BK.std(0), once.resampled_BK.std(0), rtol=1e-9)


def test_blocks_of_resamples_are_resamples(monkeypatch):
    """Held a few at a time, the resamples have the spread of the mean: sigma / sqrt(n)."""
    monkeypatch.setattr("mnemoscope.analyses.samples.CELLS_AT_ONCE", 1000)
    values = np.random.default_rng(1).normal(size=(100, 1))
    means = resampled_means(values, np.ones(100), np.arange(100), num_resamples=2005, seed=3)
    assert means.resampled_BK.shape == (2005, 1)
    assert len(np.unique(means.resampled_BK)) == 2005
    assert means.resampled_BK.std() == pytest.approx(values.std() / 10, rel=0.05)


def test_unknown_values_are_left_out_by_column():
    """Weighted means and medians over the known entries of each column, NaN where there is none."""
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan], [10.0, 7.0, np.nan]])
    weights = np.array([1.0, 2.0, 1.0])
    means = resampled_means(values, weights, np.arange(3), num_resamples=5, seed=0)
    np.testing.assert_allclose(means.estimate_K, [17 / 4, 17 / 3, np.nan])
    np.testing.assert_array_equal(weighted_medians(values, weights), [3, 5, np.nan])


def simulate_null(chances, off_chances, values, *, k, n, num_rows=200_000):
    """The memory-free model, one index at a time: mean value at each index by number of matches."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, len(chances), (num_rows, k + n))
    on_path = np.ones(num_rows, bool)
    hit = np.zeros((num_rows, n), bool)
    for j in range(n):
        at = classes[:, k + j]
        hit[:, j] = rng.random(num_rows) < np.where(on_path, chances[at], off_chances[at])
        on_path &= hit[:, j]
    num_matched = hit.sum(1)
    return {m: values[classes[num_matched == m]] for m in range(n + 1)}


def test_the_null_is_that_of_a_simulation():
    """Exact curves agree with 200,000 simulated rows, for every number of matches, within four standard errors."""
    chances, off, values = np.array([0.2, 0.5, 0.9]), np.array([0.05, 0.1, 0.4]), np.array([1.0, 4.0, 9.0])
    k, n = 3, 4
    given = [np.average(values, weights=w) for w in (chances, 1 - chances, off, 1 - off)]
    fit = MemoryFree(chances.mean(), off.mean(), np.array([values.mean()]), *(np.array([value]) for value in given))
    simulated = simulate_null(chances, off, values, k=k, n=n)
    for num_matched, rows in simulated.items():
        curve = null_curves(fit, num_matched, context=k, continuation=n)[0]
        error = rows.std(0) / np.sqrt(len(rows))
        assert (np.abs(curve - rows.mean(0)) < 4 * error).all(), num_matched


def test_the_null_is_fitted_to_the_chances_that_made_the_traces():
    """Fitted to memory-free traces, the null expects their curves: no index of the unmemorized is off by 5 errors."""
    sample, counts = study(num_rows=6000, per_stratum=10_000, seed=2, control=False)
    traced = read_sample(sample, counts, continuation=16)
    values = np.log1p(list_matrix(counts, "ngram_1", 48)[traced.place_R])
    fit = fit_memory_free(traced, values, values[None], start=16)
    assert fit.hit_share == pytest.approx(traced.hit_RI[:, 1:32].mean(), abs=0.01)
    rows = values[traced.rows_of("member", 0)]
    curve = null_curves(fit, 0, context=32, continuation=16)[0]
    assert (np.abs(curve - rows.mean(0)) < 5 * rows.std(0) / np.sqrt(len(rows))).all()
    assert curve[32] < curve[31] - 0.5


def test_nothing_is_found_where_nothing_is_more_often_than_promised():
    """40 memory-free studies of uneven rows: two-sided p below 0.05 in about one of twenty, and none survives Holm."""
    p_values, verdicts = [], []
    for seed in range(40):
        sample, counts = study(
            num_rows=1500, per_stratum=150, seed=100 + seed, row_spread=1.2, recited_share=0.1, control=False
        )
        traced = read_sample(sample, counts, continuation=16)
        values = list_matrix(counts, "ngram_1", 48)[traced.place_R]
        rows = boundary_rows(traced, Measure(1, values, np.log1p(values)), {}, Settings(0.95, 200, seed))
        p_values += [one["p_inside"] for one in rows if one["p_inside"] is not None]
        verdicts += [one["verdict"] for one in judge(rows, level=0.95)]
    assert len(p_values) >= 80
    # Binomial(80, 0.05) lies at or below 9 with a chance of 0.99.
    assert np.mean(np.array(p_values) < 0.05) <= 9 / 80
    assert verdicts.count(SURVIVES) <= 4
