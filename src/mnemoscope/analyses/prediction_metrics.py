"""How good forecasts are, each metric for all resamples of clusters at once.

Every metric is a function of one weight for each sequence; all tokens of a sequence have its weight. At the natural
prior the weight is the design weight, at the balanced prior all scores (`num_matched`) weigh the same, in each
resample anew. The first resample is the sample itself.

Axes: B resamples, R sequences, I indices of the continuation, K metrics, M scores, G groups, T tenths of probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from mnemoscope.analyses.prediction_ranking import (
    Groups,
    Masses,
    add_up,
    average_precision,
    count_groups,
    group_scores,
    recall_among_first,
    roc_auc,
    sum_groups,
)
from mnemoscope.analyses.prediction_units import Bits, Floats, Forecast, Integers
from mnemoscope.resampling import draw_multiplicities

FLAGGED_SHARE: Final = 0.01
NUM_BINS: Final = 10
TOKEN_GROUPS: Final = 128
"""Groups of token probabilities in resamples; the value itself has all of them, and resamples are moved to it."""
BLOCK: Final = 100
"""Resamples at a time: what they need stays in the processor's cache where sequences are few, and memory bounded."""

METRICS: Final = (
    *("token_accuracy", "full_accuracy", "token_pr_auc", "token_roc_auc", "full_pr_auc", "full_roc_auc"),
    *("token_brier", "full_brier", "token_calibration_error", "mean_absolute_error"),
    *("full_precision", "full_recall", "recall_at_1_percent"),
)
NATURAL_ONLY: Final = ("recall_at_1_percent",)
SHARES: Final = ("token_accuracy", "full_accuracy", "full_precision", "full_recall", "recall_at_1_percent")
"""Metrics that are shares of sequences or tokens."""
AREAS_OF_FULL: Final = ("full_pr_auc", "full_roc_auc")
OF_FULL: Final = (*AREAS_OF_FULL, "full_precision", "full_recall", "recall_at_1_percent")
"""Metrics that say something only where some sequences are full matches and others are not."""

Values = Mapping[str, Floats]


class Resamples:
    """How often each cluster of a cell stands in each resample; the same for all that is compared."""

    def __init__(self, clusters: Integers, *, num_resamples: int, seed: int) -> None:
        self.clusters = np.unique(clusters)
        drawn = draw_multiplicities(self.clusters, num_resamples=num_resamples, seed=seed)
        self.times_BC: Floats = np.concatenate([np.ones((1, len(self.clusters))), drawn])

    def rows(self, cluster_R: Integers, first: int, last: int) -> Floats:
        """How often each row stands in the resamples from `first` to before `last`; float64 [B, R]."""
        return self.times_BC[first:last, np.searchsorted(self.clusters, cluster_R)]

    @property
    def num_resamples(self) -> int:
        """The sample itself among them."""
        return len(self.times_BC)


def measure(forecast: Forecast, prior: str, resamples: Resamples, names: tuple[str, ...] = METRICS) -> Values:
    """Each metric in the sample itself (index 0) and in every resample, float64 [B] each; NaN where undefined."""
    prepared = _Prepared(forecast, names)
    parts: list[Values] = []
    for first in range(0, resamples.num_resamples, BLOCK):
        times_BR = resamples.rows(forecast.cluster_R, first, first + BLOCK)
        parts.append(prepared.values(weigh(times_BR, forecast, prior)))
    # Sums of weights miss 1 by a rounding error, which would make a share of all one that varies.
    values = {name: np.round(np.concatenate([part[name] for part in parts]), 12) for name in names}
    return _exact_tokens(values, prepared, weigh(np.ones((1, len(forecast.cluster_R))), forecast, prior))


def weigh(times_BR: Floats, forecast: Forecast, prior: str) -> Floats:
    """The weight of each sequence in each resample, float64 [B, R], adding up to 1.

    Balanced: every score alike, within it by design weight; scores that a resample has not drawn are left out of its
    mean over scores.
    """
    times_BR = times_BR * forecast.design_weight_R
    if prior == "balanced":
        scores, code_R = np.unique(forecast.num_matched_R, return_inverse=True)
        totals_BM = times_BR @ np.eye(len(scores))[code_R]
        times_BR = times_BR / np.where(totals_BM > 0, totals_BM, 1)[:, code_R]
    total_B1 = times_BR.sum(axis=1, keepdims=True)
    return times_BR / np.where(total_B1 > 0, total_B1, np.nan)


def says_full(forecast: Forecast) -> Bits:
    """Of which sequences the predictor says that every token matches."""
    return np.all(forecast.predicted_RI, axis=1)


def tenths(probability: Floats) -> Integers:
    """The bin of each probability: [0, 0.1) is 0, [0.9, 1] is 9."""
    return np.minimum((probability * NUM_BINS).astype(np.int64), NUM_BINS - 1)


class _Prepared:
    """What of a forecast does not change from resample to resample."""

    def __init__(self, forecast: Forecast, names: tuple[str, ...]) -> None:
        self.names = names
        self.forecast = forecast
        self.full_R, self.said_R = forecast.is_full, says_full(forecast)
        self.means_RK = np.stack([values.astype(np.float64) for values in _row_means(forecast).values()], axis=1)
        if "token_calibration_error" in names:
            self.errors_RT = _bin_errors(forecast)
        if "token_pr_auc" in names or "token_roc_auc" in names:
            self.token_groups = group_scores(forecast.probability_RI, TOKEN_GROUPS)
            self.token_counts = count_groups(self.token_groups, forecast.matched_RI)
        self.full_groups = group_scores(forecast.full_probability_R[:, None])

    def values(self, weight_BR: Floats) -> Values:
        """Every metric asked for, in each resample; of token ranks the binned ones."""
        values: dict[str, Floats] = dict(zip(_ROW_MEANS, (weight_BR @ self.means_RK).T, strict=True))
        if "token_calibration_error" in self.names:
            values["token_calibration_error"] = np.abs(weight_BR @ self.errors_RT).sum(axis=1)
        if "token_pr_auc" in self.names or "token_roc_auc" in self.names:
            values |= _token_ranks(add_up(*(weight_BR @ counts_RG for counts_RG in self.token_counts)))
        values |= _of_full(self.full_groups, self.full_R, self.said_R, weight_BR)
        return {name: values[name] for name in self.names}


_ROW_MEANS: Final = ("token_accuracy", "full_accuracy", "token_brier", "full_brier", "mean_absolute_error")


def _row_means(forecast: Forecast) -> dict[str, Floats]:
    """Of each sequence what a weighted mean over sequences makes a metric of."""
    right_RI = forecast.predicted_RI == forecast.matched_RI
    return {
        "token_accuracy": right_RI.mean(axis=1),
        "full_accuracy": right_RI.all(axis=1).astype(np.float64),
        "token_brier": ((forecast.probability_RI - forecast.matched_RI) ** 2).mean(axis=1),
        "full_brier": (forecast.full_probability_R - forecast.is_full) ** 2,
        "mean_absolute_error": np.abs(forecast.expected_R - forecast.num_matched_R),
    }


def _bin_errors(forecast: Forecast) -> Floats:
    """Sum of probability minus match over the tokens of each sequence in each tenth, per token; float64 [R, T]."""
    num_rows, num_indices = forecast.matched_RI.shape
    place_RI = tenths(forecast.probability_RI) + NUM_BINS * np.arange(num_rows)[:, None]
    errors = (forecast.probability_RI - forecast.matched_RI).ravel()
    summed = np.bincount(place_RI.ravel(), weights=errors, minlength=num_rows * NUM_BINS)
    return summed.reshape(num_rows, NUM_BINS) / num_indices


def _token_ranks(masses: Masses) -> dict[str, Floats]:
    return {"token_pr_auc": average_precision(masses), "token_roc_auc": roc_auc(masses)}


def _of_full(groups: Groups, full_R: Bits, said: Bits, weight_BR: Floats) -> dict[str, Floats]:
    """What is measured of full matches: the ranking by probability, and the set that is said to match."""
    masses = sum_groups(groups, full_R, weight_BR)
    both_B, said_B, full_B = (weight_BR @ some.astype(np.float64) for some in (full_R & said, said, full_R))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision_B, recall_B = both_B / said_B, both_B / full_B
    return {
        "full_pr_auc": average_precision(masses),
        "full_roc_auc": roc_auc(masses),
        "full_precision": precision_B,
        "full_recall": recall_B,
        "recall_at_1_percent": recall_among_first(masses, FLAGGED_SHARE),
    }


def _exact_tokens(values: dict[str, Floats], prepared: _Prepared, weight_1R: Floats) -> Values:
    """The values with the ranks of tokens, where they were binned, moved so that the sample's own are exact."""
    names = [name for name in ("token_pr_auc", "token_roc_auc") if name in values]
    if not names:
        return values
    forecast = prepared.forecast
    groups = group_scores(forecast.probability_RI)
    if groups.num_groups == prepared.token_groups.num_groups:
        return values
    weights = np.broadcast_to(weight_1R.T, forecast.matched_RI.shape)
    masses = [
        np.bincount(groups.code_RI[some], weights=weights[some], minlength=groups.num_groups)[None].astype(np.float64)
        for some in (forecast.matched_RI, ~forecast.matched_RI)
    ]
    exact = _token_ranks(add_up(*masses))
    return {n: np.clip(v + (exact[n][0] - v[0]), 0, 1) if n in names else v for n, v in values.items()}
