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
    tables = [
        _table(fitted, examples, said, split)
        for split, rows in splits_of(examples, settings).items()
        if split in EVALUATED and len(rows)  # apart, since the original's answer depends on the company
        for said in predict_rows(fitted, examples, rows)
    ]
    return pa.concat_tables([predictions_schema().empty_table(), *tables])


def _table(fitted: Fitted, examples: Examples, said: Predictions, split: str) -> pa.Table:
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
        "split": split,
    }
    columns = {
        **{name: [value] * num_rows for name, value in same.items()},
        "sequence_id": examples.sequence_id[said.rows],
        "group": examples.group[said.rows].tolist(),
        "cluster": examples.cluster[said.rows],
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
        columns[name] if isinstance(columns[name], pa.Array) else pa.array(columns[name], schema.field(name).type)
        for name in schema.names
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _lists(values_Rn: NDArray[np.bool_] | NDArray[np.float32]) -> pa.ListArray:
    offsets = np.arange(0, values_Rn.size + 1, values_Rn.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values_Rn).ravel()))
