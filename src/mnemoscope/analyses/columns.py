"""The columns of analysis tables: one name, one type, one meaning, one unit, wherever it appears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

Value = int | float | str | bool | None
Row = Mapping[str, Value]


class Column(NamedTuple):
    """A column's type, meaning and unit (empty where it has none); the last two travel in the schema."""

    type: pa.DataType
    meaning: str
    unit: str = ""


TEXT, COUNT, LENGTH, REAL, FLAG = pa.string(), pa.int64(), pa.int32(), pa.float64(), pa.bool_()

COLUMNS: Mapping[str, Column] = {
    "model": Column(TEXT, "the model's label; null where the row spans models"),
    "source": Column(TEXT, "where the model came from; checkpoints of one source are one training run"),
    "num_parameters": Column(COUNT, "all parameters; null where unknown", "parameters"),
    "num_non_embedding_parameters": Column(COUNT, "parameters but for the embeddings", "parameters"),
    "training_step": Column(COUNT, "training step of the checkpoint; null for a final or unnamed one", "steps"),
    "group": Column(TEXT, "member, control, or excess (member minus control)"),
    "context": Column(LENGTH, "context length k", "tokens"),
    "continuation": Column(LENGTH, "continuation length n", "tokens"),
    "bin": Column(LENGTH, "score bin, 0 to 11"),
    "bin_label": Column(TEXT, "the bin's scores"),
    "num_matched": Column(LENGTH, "positions where generated and true token are equal", "tokens"),
    "first_mismatch": Column(LENGTH, "index in the continuation of the first wrong token; n if none", "tokens"),
    "num_repeats": Column(COUNT, "times the sequence stands in the training stream", "copies"),
    "num_repeats_low": Column(COUNT, "fewest copies seen in the doubling class", "copies"),
    "num_repeats_high": Column(COUNT, "most copies seen in the doubling class", "copies"),
    "num_memorized": Column(COUNT, "sequences whose whole continuation matched", "sequences"),
    "num_chosen": Column(COUNT, "sequences with this value", "sequences"),
    "num_sequences": Column(COUNT, "sequences of the stratum", "sequences"),
    "num_known": Column(
        COUNT,
        "of num_sequences those whose num_matched is known; the other counts are then estimates from them, rounded",
        "sequences",
    ),
    "num_unique": Column(
        COUNT,
        "of num_chosen (where nothing is chosen, of num_sequences), one per cluster of duplicates; null where unknown",
        "sequences",
    ),
    "num_unique_memorized": Column(
        COUNT, "of num_memorized, one per cluster of duplicates; null where unknown", "sequences"
    ),
    "num_control_memorized": Column(COUNT, "the same among the control", "sequences"),
    "num_control_sequences": Column(COUNT, "sequences of the control's stratum", "sequences"),
    "num_control_unique": Column(COUNT, "of them one per cluster of duplicates; null where unknown", "sequences"),
    "num_control_unique_memorized": Column(
        COUNT, "of num_control_memorized one per cluster; null where unknown", "sequences"
    ),
    "num_fragile": Column(COUNT, "sequences with a near-tie along the path; null where unknown", "sequences"),
    "num_fragile_memorized": Column(COUNT, "those of them that are memorized", "sequences"),
    "share": Column(REAL, "count / num_sequences; null in an empty stratum", "1"),
    "share_low": Column(REAL, "lower end of the share's interval, see interval_method", "1"),
    "share_high": Column(REAL, "upper end of the share's interval", "1"),
    "interval_method": Column(
        TEXT, "Wilson over rows; where there are duplicates, at the n that a bootstrap of their clusters allows"
    ),
    "share_if_flipped_low": Column(
        REAL, "the share if every fragile memorized sequence came out otherwise; null where unknown", "1"
    ),
    "share_if_flipped_high": Column(
        REAL, "the share if every other fragile sequence came out memorized; null where unknown", "1"
    ),
    "control_share": Column(REAL, "the control's share", "1"),
    "excess": Column(REAL, "member share minus control share; null where one is empty", "1"),
    "excess_low": Column(REAL, "lower end of its interval: Newcombe's, from those of the two shares", "1"),
    "excess_high": Column(REAL, "upper end of its interval", "1"),
    "small_stratum": Column(FLAG, "fewer than 30 unique sequences (of either side), rows where duplicates are unknown"),
    "along": Column(TEXT, "what varies along the trend"),
    "form": Column(TEXT, "linear, log-linear, quadratic, power law or saturating"),
    "num_points": Column(LENGTH, "models or lengths that the fit goes through"),
    "coefficient": Column(REAL, "the form's own coefficient, named in coefficient_of"),
    "coefficient_low": Column(REAL, "lower end of its t-interval; null where not defined"),
    "coefficient_high": Column(REAL, "upper end of its t-interval; null where not defined"),
    "coefficient_of": Column(TEXT, "what the coefficient is, with its unit"),
    "half_point": Column(REAL, "saturating: where half the plateau is reached, in units of `along`"),
    "p_value": Column(REAL, "two-sided p-value of a coefficient of zero"),
    "p_holm": Column(REAL, "the same, Holm-adjusted over all series of this `along` and `form`"),
    "r_squared": Column(REAL, "variance of the share that the form explains", "1"),
    "aicc": Column(REAL, "small-sample Akaike criterion of the share; compare within a series, lower is better"),
    "note": Column(TEXT, "why a number is missing, or how far to trust it"),
}


def make_table(names: Sequence[str], rows: Sequence[Row], known: Mapping[str, Column] = COLUMNS) -> pa.Table:
    """The rows as a table with these of the known columns, in this order; every row has every column."""
    fields = [
        pa.field(name, known[name].type, metadata={"meaning": known[name].meaning, "unit": known[name].unit})
        for name in names
    ]
    return pa.table({name: [row[name] for row in rows] for name in names}, schema=pa.schema(fields))


def tables_of(result: object) -> Mapping[str, pa.Table]:
    """The tables among a result's fields by name, in their order."""
    return {name: value for name, value in vars(result).items() if isinstance(value, pa.Table)}
