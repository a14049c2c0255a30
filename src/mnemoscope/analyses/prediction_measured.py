"""A cell of predictions measured: every metric of every unit in the same resamples of clusters, and what stands behind.

Axes: B resamples, R sequences, C clusters.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from mnemoscope.analyses.prediction_intervals import Estimate, estimate_number, estimate_share
from mnemoscope.analyses.prediction_metrics import (
    AREAS_OF_FULL,
    METRICS,
    NATURAL_ONLY,
    OF_FULL,
    SHARES,
    Resamples,
    Values,
    measure,
    says_full,
    weigh,
)
from mnemoscope.analyses.prediction_units import CONTROL, TEST, Bits, Cell, Floats, Forecast, Unit

MIN_CLUSTERS: Final = 30
MIN_OF_CLASS: Final = 10
SMALL_SCORES: Final = "some scores have no sequence here: {} of {} have; the balanced mean is over those"


class Settings(NamedTuple):
    """Level of the intervals, number of resamples, seed."""

    level: float
    num_resamples: int
    seed: int


class Sizes(NamedTuple):
    """What stands behind a number: distinct sequences, their clusters, full matches, and seeds."""

    num_sequences: int
    num_clusters: int
    num_seeds: int
    num_full_matches: int

    def is_small(self, metric: str) -> bool:
        """Whether a metric of so few sequences, or full matches, is not to be averaged."""
        classes = (self.num_full_matches, self.num_sequences - self.num_full_matches)
        return self.num_clusters < MIN_CLUSTERS or (metric in OF_FULL and min(classes) < MIN_OF_CLASS)


class Measured(NamedTuple):
    """A cell with its resamples by split, and each unit's metrics by seed."""

    cell: Cell
    resamples: Mapping[str, Resamples]
    values: Mapping[Unit, Sequence[Values]]


def measure_cell(cell: Cell, settings: Settings) -> Measured:
    """Every unit of the cell measured; controls at the natural prior only, of which alone their tables speak.

    A model's random numbers hang on its name: what is said of it does not change when another one is added.
    """
    seed = (zlib.crc32(f"{cell.model} {cell.context}".encode()) + settings.seed) % 2**31
    resamples: dict[str, Resamples] = {}
    for split in (TEST, CONTROL):
        clusters = [f.cluster_R for unit, some in cell.forecasts.items() if unit.split == split for f in some]
        if clusters:
            resamples[split] = Resamples(np.concatenate(clusters), num_resamples=settings.num_resamples, seed=seed)
    values = {
        unit: [measure(forecast, unit.prior, resamples[unit.split]) for forecast in forecasts]
        for unit, forecasts in cell.forecasts.items()
        if unit.split == TEST or unit.prior == "natural"
    }
    return Measured(cell, resamples, values)


def sizes_of(forecasts: Sequence[Forecast]) -> Sizes:
    """What stands behind forecasts of one unit; seeds may have other sequences."""
    sequences, first = np.unique(_joined(f.sequence_id_R for f in forecasts), return_index=True)
    clusters = np.unique(_joined(f.cluster_R for f in forecasts))
    full = _joined(f.is_full for f in forecasts)[first]
    return Sizes(len(sequences), len(clusters), len(forecasts), int(full.sum()))


def mean_over_seeds(values: Sequence[Values], metric: str) -> Floats:
    """The metric's mean over seeds in every resample, float64 [B]; undefined where one seed's is."""
    return np.stack([some[metric] for some in values]).mean(axis=0)


def spread_over_seeds(values: Sequence[float]) -> float | None:
    """The standard deviation over seeds; None for one seed, or where one has no value."""
    if len(values) < 2 or np.isnan(values).any():
        return None
    return float(np.std(values, ddof=1))


def estimate(metric: str, values_B: Floats, forecasts: Sequence[Forecast], prior: str, settings: Settings) -> Estimate:
    """The metric's value with its interval, by the way that suits it.

    Areas of full matches are taken as shares of the rarer class: percentiles of resamples of a few sequences fall
    short of what the next ones bring. Boyd, Eng and Page (2013), Machine Learning and Knowledge Discovery in
    Databases, 451, of the area under precision and recall.
    """
    if metric in SHARES or metric in AREAS_OF_FULL:
        units, most, num_clusters = _units(forecasts, [_base(metric, forecast) for forecast in forecasts], prior)
        per_row = forecasts[0].matched_RI.shape[1] if metric == "token_accuracy" else 1
        return estimate_share(
            values_B, num_units=units, max_units=most * per_row, num_clusters=num_clusters, level=settings.level
        )
    return estimate_number(values_B, level=settings.level, biased=metric == "token_calibration_error")


def names_for(prior: str) -> tuple[str, ...]:
    """The metrics that are told at a prior."""
    return tuple(name for name in METRICS if prior == "natural" or name not in NATURAL_ONLY)


def base_rate(metric: str, forecasts: Sequence[Forecast], prior: str) -> float | None:
    """The weighted share of matched tokens or of full matches; None for the error in num_matched."""
    if metric == "mean_absolute_error":
        return None
    rates = [
        weigh(np.ones((1, len(f.cluster_R))), f, prior)[0]
        @ (f.matched_RI.mean(axis=1) if metric.startswith("token") else f.is_full.astype(np.float64))
        for f in forecasts
    ]
    return float(np.mean(rates))


def _base(metric: str, forecast: Forecast) -> Bits:
    """The sequences that a share is a share of; of a ROC curve, those of the rarer class."""
    if metric in {"full_recall", "recall_at_1_percent", "full_pr_auc"}:
        return forecast.is_full
    if metric == "full_roc_auc":
        return forecast.is_full if forecast.is_full.mean() <= 0.5 else ~forecast.is_full
    return says_full(forecast) if metric == "full_precision" else np.ones(len(forecast.cluster_R), np.bool_)


def _units(forecasts: Sequence[Forecast], bases: Sequence[Bits], prior: str) -> tuple[float, int, int]:
    """Of the base: Kish's effective number of clusters under the weights, the sequences, and the clusters."""
    weights = [
        weigh(np.ones((1, len(f.cluster_R))), f, prior)[0][base] for f, base in zip(forecasts, bases, strict=True)
    ]
    clusters = _joined(f.cluster_R[base] for f, base in zip(forecasts, bases, strict=True))
    sequences = _joined(f.sequence_id_R[base] for f, base in zip(forecasts, bases, strict=True))
    if not len(sequences):
        return 0.0, 0, 0
    summed_C = np.bincount(np.unique(clusters, return_inverse=True)[1], weights=np.concatenate(weights))
    return float(summed_C.sum() ** 2 / (summed_C @ summed_C)), len(np.unique(sequences)), len(summed_C)


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(arrays))
