"""What fitted predictors say of the evaluated sequences -> rows of the predictions table.

Axes: R sequences, n continuation.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.prediction.examples import Examples
from mnemoscope.prediction.fitting import Fitted, Predictions, predict_rows, splits_of
from mnemoscope.prediction.settings import PredictionSettings
from mnemoscope.predictions import predictions_schema

EVALUATED = ("test", "control")


def evaluate_predictor(fitted: Fitted, examples: Examples, settings: PredictionSettings) -> pa.Table:
    """Its rows for the test and control sequences of a model, its own or another's."""
    splits = splits_of(examples, settings)
    rows_R = np.concatenate([splits[name] for name in EVALUATED])
    split_R = np.repeat(EVALUATED, [len(splits[name]) for name in EVALUATED])
    if not len(rows_R):
        return predictions_schema().empty_table()
    return pa.concat_tables(
        [_table(fitted, examples, said, split_R) for said in predict_rows(fitted, examples, rows_R)]
    )


def _table(fitted: Fitted, examples: Examples, said: Predictions, split_R: NDArray[np.str_]) -> pa.Table:
    num_rows, n = len(said.rows), said.continuation
    matched_Rn = examples.labels[said.rows][:, :n]
    same = {
        "model": examples.model,
        "trained_on": fitted.trained_on,
        "context": fitted.context,
        "continuation": n,
        "task": fitted.task,
        "predictor": fitted.name,
        "seed": fitted.seed,
        "prior": said.prior,
    }
    columns = {
        **{name: [value] * num_rows for name, value in same.items()},
        "sequence_id": examples.sequence_id[said.rows],
        "group": examples.group[said.rows].tolist(),
        "cluster": examples.cluster[said.rows],
        "split": split_R.tolist(),
        "design_weight": examples.design_weight[said.rows],
        "num_matched": matched_Rn.sum(axis=1),
        "matched": _lists(matched_Rn),
        "probability": _lists(said.probability_Rn),
        "predicted": _lists(said.predicted_Rn),
        "full_match_probability": said.full_match_probability_R,
        "expected_matched": said.expected_matched_R,
    }
    schema = predictions_schema()
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, schema.field(name).type)
        for name, values in columns.items()
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _lists(values_Rn: NDArray[np.bool_] | NDArray[np.float32]) -> pa.ListArray:
    offsets = np.arange(0, values_Rn.size + 1, values_Rn.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values_Rn).ravel()))
