"""Metrics of predictions against scikit-learn and cases worked by hand, and their intervals against known truths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from mnemoscope.analyses.prediction_intervals import (
    PERCENTILE,
    bootstrap_p,
    estimate_number,
    estimate_share,
    linear_share,
    share_interval,
)
from mnemoscope.analyses.prediction_metrics import METRICS, TOKEN_GROUPS, Resamples, measure, weigh
from mnemoscope.analyses.prediction_ranking import group_scores
from mnemoscope.analyses.prediction_units import Forecast, read_cells
from mnemoscope.intervals import wilson
from predicted_samples import forecast, predictions, simulate


def make(num_rows=170, *, n=16, skill=0.8, seed=0, rounded=None, **settings):
    """A forecast as the analysis reads it; rounded probabilities have ties."""
    sample = simulate(num_rows, n=n, seed=seed)
    answer = forecast(sample, skill=skill, seed=seed)
    if rounded is not None:
        for name in ("probability", "full_match_probability"):
            answer[name] = np.round(answer[name], rounded)
    (cell,) = read_cells(predictions(sample, answer, **settings))
    return next(iter(cell.forecasts.values()))[0]


def from_bits(matched, probability, *, weight=None, cluster=None, full=None, predicted=None):
    """A forecast written out by hand."""
    matched, probability = np.array(matched, bool), np.array(probability, float)
    size = len(matched)
    return Forecast(
        seed=0,
        sequence_id_R=np.arange(size),
        cluster_R=np.arange(size) if cluster is None else np.array(cluster),
        design_weight_R=np.ones(size) if weight is None else np.array(weight, float),
        num_matched_R=matched.sum(axis=1),
        matched_RI=matched,
        probability_RI=probability,
        predicted_RI=probability > 0.5 if predicted is None else np.array(predicted, bool),
        full_probability_R=probability.prod(axis=1) if full is None else np.array(full, float),
        expected_R=probability.sum(axis=1),
    )


def values_of(one, prior="natural", num_resamples=2):
    """Each metric of the sample itself."""
    resamples = Resamples(one.cluster_R, num_resamples=num_resamples, seed=0)
    return {name: float(values[0]) for name, values in measure(one, prior, resamples).items()}


def weights_of(one, prior):
    """The definition: design weight, or one over the number of sequences of the score."""
    if prior == "natural":
        return one.design_weight_R
    return 1 / np.bincount(one.num_matched_R)[one.num_matched_R]


@pytest.mark.parametrize("prior", ["balanced", "natural"])
@pytest.mark.parametrize("rounded", [None, 1])
def test_metrics_are_scikit_learns(prior, rounded):
    """With the same sample weights every metric is scikit-learn's, with ties and without."""
    one = make(rounded=rounded)
    found, weight = values_of(one, prior), weights_of(one, prior)
    tokens, scores = one.matched_RI.ravel(), one.probability_RI.ravel()
    of_tokens = np.repeat(weight, 16)
    full, chance = one.num_matched_R == 16, one.full_probability_R
    said = one.predicted_RI.all(axis=1)
    expected = {
        "token_accuracy": np.average((one.predicted_RI == one.matched_RI).ravel(), weights=of_tokens),
        "full_accuracy": np.average((one.predicted_RI == one.matched_RI).all(axis=1), weights=weight),
        "token_pr_auc": average_precision_score(tokens, scores, sample_weight=of_tokens),
        "token_roc_auc": roc_auc_score(tokens, scores, sample_weight=of_tokens),
        "full_pr_auc": average_precision_score(full, chance, sample_weight=weight),
        "full_roc_auc": roc_auc_score(full, chance, sample_weight=weight),
        "token_brier": brier_score_loss(tokens, scores, sample_weight=of_tokens),
        "full_brier": brier_score_loss(full, chance, sample_weight=weight),
        "mean_absolute_error": np.average(np.abs(one.expected_R - one.num_matched_R), weights=weight),
        "full_recall": recall_score(full, said, sample_weight=weight),
    }
    if said.any():
        expected["full_precision"] = precision_score(full, said, sample_weight=weight)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_every_resample_is_the_metric_of_drawn_rows():
    """In resample b each metric is what it is of the rows drawn, each as often as it was drawn."""
    one = make(60, rounded=1, skill=2.0)
    resamples = Resamples(one.cluster_R, num_resamples=5, seed=3)
    for prior in ("balanced", "natural"):
        values = measure(one, prior, resamples)
        for b in (1, 4):
            times = resamples.rows(one.cluster_R, b, b + 1)[0].astype(int)
            drawn = one.take(np.repeat(np.arange(60), times))
            fresh = replace(drawn, sequence_id_R=np.arange(60), cluster_R=np.arange(60))
            for name, value in values_of(fresh, prior).items():
                assert values[name][b] == pytest.approx(value, abs=1e-9, nan_ok=True), (prior, name)


def test_calibration_error_by_hand():
    """Tokens said 0.95 of which 1 of 2 comes, and 0.15 of which none does: half of |0.95 - 0.5| and of |0.15 - 0|."""
    one = from_bits([[1, 0], [0, 0]], [[0.95, 0.95], [0.15, 0.15]])
    assert values_of(one)["token_calibration_error"] == pytest.approx(0.5 * 0.45 + 0.5 * 0.15)


def test_recall_at_one_percent_by_hand():
    """The first percent of weight: the top row (0.4 %), then 0.6 of 1.2 % of weight that two tied rows have.

    Full matches weigh 0.4 + 0.8 (one of the tied rows) + 4: found are 0.4 + 0.5 x 0.8 of 5.2.
    """
    full, weight = [0.9, 0.7, 0.7, 0.2, 0.1], [0.4, 0.8, 0.4, 4.0, 94.4]
    one = from_bits([[1], [1], [0], [1], [0]], [[p] for p in full], weight=weight, full=full)
    assert values_of(one)["recall_at_1_percent"] == pytest.approx((0.4 + 0.5 * 0.8) / 5.2)


def test_balanced_scores_weigh_the_same():
    """Three sequences of score 0, one of 1: weights 1/6, 1/6, 1/6, 1/2; a score that was not drawn is left out."""
    one = from_bits([[0], [0], [0], [1]], [[0.1]] * 4)
    times_BR = np.array([[1, 1, 1, 1], [2, 1, 1, 0], [0, 0, 1, 3]], float)
    expected = [[1 / 6, 1 / 6, 1 / 6, 1 / 2], [1 / 2, 1 / 4, 1 / 4, 0], [0, 0, 1 / 2, 1 / 2]]
    np.testing.assert_allclose(weigh(times_BR, one, "balanced"), expected)


def test_a_perfect_predictor_is_perfect():
    """Every share and every area is exactly 1, every error exactly 0."""
    sample = simulate(85)
    answer = forecast(sample, skill=1, seed=0)
    answer |= {"probability": sample["matched"].astype(np.float32), "predicted": sample["matched"]}
    answer |= {"full_match_probability": (sample["num_matched"] == 16).astype(np.float32)}
    answer |= {"expected_matched": sample["num_matched"].astype(np.float32)}
    (cell,) = read_cells(predictions(sample, answer))
    found = values_of(next(iter(cell.forecasts.values()))[0], "balanced")
    errors = {"token_brier", "full_brier", "token_calibration_error", "mean_absolute_error"}
    assert {name: found[name] for name in METRICS if name != "recall_at_1_percent"} == {
        name: 0.0 if name in errors else 1.0 for name in METRICS if name != "recall_at_1_percent"
    }


def test_constant_probabilities_rank_nothing():
    """One probability for all: ROC-AUC is 1/2 and PR-AUC the share of positives; 1 % flagged finds 1 %."""
    one = from_bits([[1, 1], [1, 0], [0, 0], [0, 0]], [[0.3, 0.3]] * 4)
    found = values_of(one)
    assert (found["token_roc_auc"], found["full_roc_auc"]) == (0.5, 0.5)
    assert (found["token_pr_auc"], found["full_pr_auc"]) == pytest.approx((3 / 8, 1 / 4))
    assert found["recall_at_1_percent"] == pytest.approx(0.01)


def test_what_is_not_defined_is_said_so():
    """Without a full match nothing of full matches has a value; without a said one there is no precision."""
    found = values_of(from_bits([[1, 0], [0, 0]], [[0.3, 0.3], [0.2, 0.4]]))
    missing = {"full_pr_auc", "full_roc_auc", "full_recall", "full_precision", "recall_at_1_percent"}
    assert {name for name, value in found.items() if np.isnan(value)} == missing
    estimate = estimate_number(np.array([np.nan, 0.5, 0.6]), level=0.95)
    assert (estimate.value, estimate.low, estimate.high) == (None, None, None)
    assert "not defined" in estimate.note


def test_binned_ranks_keep_the_value_and_the_spread():
    """Beyond the groups that resamples have, the value stays scikit-learn's, and their spread that of exact ones."""
    one = make(400)
    assert group_scores(one.probability_RI).num_groups > 10 * TOKEN_GROUPS
    assert group_scores(one.probability_RI, TOKEN_GROUPS).num_groups == TOKEN_GROUPS
    resamples = Resamples(one.cluster_R, num_resamples=60, seed=1)
    values = measure(one, "natural", resamples)
    exact = [
        roc_auc_score(
            one.matched_RI.ravel(), one.probability_RI.ravel(), sample_weight=np.repeat(times * one.design_weight_R, 16)
        )
        for times in resamples.times_BC
    ]
    assert values["token_roc_auc"][0] == pytest.approx(exact[0], abs=1e-9)
    np.testing.assert_allclose(values["token_roc_auc"], exact, atol=5e-4)


def test_copies_of_a_sequence_do_not_narrow_an_interval():
    """Each row four times, in one cluster: resampled values spread as those of the rows once do."""
    one = make(100)
    copies = one.take(np.repeat(np.arange(100), 4))
    copies = replace(copies, sequence_id_R=np.arange(400))
    spreads = [
        measure(some, "natural", Resamples(some.cluster_R, num_resamples=300, seed=5))["token_accuracy"].std()
        for some in (one, copies)
    ]
    assert spreads[0] == pytest.approx(spreads[1], rel=1e-9)


def test_share_of_independent_rows_has_wilsons_interval():
    """The linearised interval of 30 of 100 rows is Wilson's at 99 units, shrunk by (z / t)^2 of 99 degrees."""
    value_R = (np.arange(100) < 30).astype(float)
    found = linear_share(value_R, np.ones(100), np.arange(100), level=0.95, max_units=100)
    units = 99 * (1.959964 / 1.984217) ** 2
    np.testing.assert_allclose((found.low, found.high), wilson(0.3 * units, units), rtol=1e-5)
    assert (found.value, found.num_clusters) == (pytest.approx(0.3), 100)


def test_share_of_all_or_one_cluster_is_not_certain():
    """All of 20 right is 0.83 to 1, as Wilson says at 20 x (z / t)^2; one cluster knows next to nothing."""
    low, high = share_interval(1.0, 0.0, num_units=20, max_units=20, num_clusters=20, level=0.95)
    units = 20 * (1.959964 / 2.093024) ** 2
    assert (low, high) == pytest.approx((units / (units + 3.841459), 1.0), rel=1e-5)
    low, high = share_interval(0.5, 0.001, num_units=1, max_units=9, num_clusters=1, level=0.95)
    assert (low, high) == pytest.approx((0.5 - 0.4453, 0.5 + 0.4453), abs=1e-3)


def test_no_scatter_is_not_an_interval():
    """A ranking that is perfect in every resample has a value and no interval."""
    found = estimate_number(np.ones(101), level=0.95)
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert "every resample" in found.note
    found = estimate_number(np.linspace(0, 1, 201), level=0.9)
    assert (found.low, found.high, found.method) == (pytest.approx(0.05475), pytest.approx(0.95025), PERCENTILE)


def test_p_value_counts_the_other_side():
    """3 of 99 resamples below zero: 2 x 4 / 100; never zero, never above 1."""
    values = np.concatenate([[0.5], np.full(3, -0.1), np.full(96, 0.4)])
    assert bootstrap_p(values) == pytest.approx(0.08)
    assert bootstrap_p(np.ones(100)) == pytest.approx(0.02)
    assert bootstrap_p(np.zeros(100)) == 1.0


@pytest.mark.parametrize(("num_rows", "prior"), [(102, "balanced"), (102, "natural")])
def test_intervals_cover_the_truth(num_rows, prior):
    """Of 120 samples the 95 % intervals of each metric miss the truth in about 6, at most 15."""
    truth = values_of(make(17 * 3000, seed=999), prior)
    missed = {"token_accuracy": 0, "token_roc_auc": 0, "token_calibration_error": 0}
    for seed in range(120):
        one = make(num_rows, seed=seed)
        resamples = Resamples(one.cluster_R, num_resamples=150, seed=seed)
        values = measure(one, prior, resamples, tuple(missed))
        for name in missed:
            if name == "token_accuracy":
                found = estimate_share(
                    values[name], num_units=50, max_units=num_rows * 16, num_clusters=num_rows, level=0.95
                )
            else:
                found = estimate_number(values[name], level=0.95, biased=name == "token_calibration_error")
            missed[name] += not found.low <= truth[name] <= found.high
    assert {name: count for name, count in missed.items() if count > 15} == {}
