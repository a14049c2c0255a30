"""Prediction: which tokens and sequences a model will recite, before it decodes, and how sure one can be of that.

Stored forecasts in, tables with intervals and one finding out. Two tasks are kept apart: `context` knows what there is
before decoding, `decode` the greedy decode itself. Every metric stands beside baselines that a sceptic would pick, at
two priors: every score weighing the same (as published), and by design weight, as sequences come. Forecasts are of
sequences whose clusters of duplicates no predictor learned from, and of held-out text.

An interval tells how the number would vary with other sequences, for these trained predictors; beside it stands its
spread over seeds, which is what training again changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
from threadpoolctl import threadpool_limits

from mnemoscope.analyses import Finding
from mnemoscope.analyses.columns import Row, make_table, tables_of
from mnemoscope.analyses.prediction_columns import (
    CALIBRATION_TABLE,
    CONTROL_TABLE,
    GAIN_TABLE,
    METRIC_TABLE,
    PREDICTION_COLUMNS,
    SCORE_TABLE,
    TRANSFER_TABLE,
)
from mnemoscope.analyses.prediction_finding import find_prediction
from mnemoscope.analyses.prediction_gains import adjust, gain_rows, transfer_rows
from mnemoscope.analyses.prediction_measured import Measured, Settings, measure_cell
from mnemoscope.analyses.prediction_tables import calibration_rows, control_rows, metric_rows, score_rows
from mnemoscope.analyses.prediction_units import read_cells
from mnemoscope.errors import ConfigError

__all__ = ["PredictionResult", "prediction"]


@dataclass(frozen=True, kw_only=True)
class PredictionResult:
    """Tables with intervals, and the finding computed from them."""

    metrics: pa.Table
    """Every metric by model, context, continuation, task, predictor, prior and split."""
    gains: pa.Table
    """Our predictor minus each other one, and minus the best baseline, on the same sequences."""
    by_score: pa.Table
    """Token and full accuracy for every num_matched."""
    calibration: pa.Table
    """What came of each tenth of predicted probability."""
    transfer: pa.Table
    """Predictors that learned from another model, beside those that learned from the model itself."""
    controls: pa.Table
    """What predictors say of text that the model never saw."""
    finding: Finding
    """The sentence."""

    @property
    def tables(self) -> Mapping[str, pa.Table]:
        """The tables by name."""
        return tables_of(self)


def prediction(table: pa.Table, *, level: float = 0.95, num_resamples: int = 1000, seed: int = 0) -> PredictionResult:
    """All tables of this perspective; models stand as their first rows do, which must go from small to large.

    `table` has the columns of `predictions`, one row for each sequence, predictor, seed and prior. Memory is 8 bytes
    for each cluster and resample, and one cell's forecasts as arrays. Raises `ConfigError` where rows cannot be meant.
    """
    if num_resamples < 20:
        raise ConfigError(f"num_resamples is {num_resamples}; expected 20 or more")
    settings = Settings(level, num_resamples, seed)
    rows: dict[str, list[Row]] = {name: [] for name in _COLUMNS_BY_TABLE}
    models: list[str] = []
    # The last digits of products depend on the number of threads, and these are small.
    with threadpool_limits(limits=1):
        for cell in read_cells(table):
            models += [cell.model] if cell.model not in models else []
            measured = measure_cell(cell, settings)
            for name, rows_of in _ROWS_BY_TABLE.items():
                rows[name] += rows_of(measured, settings)
    rows["gains"] = adjust(rows["gains"])
    tables = {name: make_table(names, rows[name], PREDICTION_COLUMNS) for name, names in _COLUMNS_BY_TABLE.items()}
    finding = find_prediction(tables["metrics"], tables["gains"], tables["controls"], models=models, level=level)
    return PredictionResult(**tables, finding=finding)


_ROWS_BY_TABLE: Mapping[str, Callable[[Measured, Settings], Iterator[Row]]] = {
    "metrics": metric_rows,
    "gains": gain_rows,
    "by_score": score_rows,
    "calibration": calibration_rows,
    "transfer": transfer_rows,
    "controls": control_rows,
}
_COLUMNS_BY_TABLE: Mapping[str, tuple[str, ...]] = {
    "metrics": METRIC_TABLE,
    "gains": GAIN_TABLE,
    "by_score": SCORE_TABLE,
    "calibration": CALIBRATION_TABLE,
    "transfer": TRANSFER_TABLE,
    "controls": CONTROL_TABLE,
}
