"""The columns of the embedding tables that no other analysis has, and tables built column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mnemoscope.analyses.columns import COLUMNS, FLAG, LENGTH, REAL, TEXT, Column

_STATE, _PER_WIDTH = "units of the last-layer state", "units of the last-layer state / sqrt(width)"


def _with_interval(name: str, meaning: str, unit: str) -> dict[str, Column]:
    ends = {f"{name}_{end}": Column(REAL, f"{end} end of the interval of {name}", unit) for end in ("low", "high")}
    return {name: Column(REAL, meaning, unit), **ends}


EMBEDDING_COLUMNS: Mapping[str, Column] = {
    **{name: COLUMNS[name] for name in ("model", "num_non_embedding_parameters", "training_step", "context")},
    **{name: COLUMNS[name] for name in ("num_matched", "num_sequences", "note", "num_points", "p_value")},
    "group": Column(TEXT, "member or control"),
    "width": Column(LENGTH, "numbers in a state", "dimensions"),
    "step": Column(LENGTH, "decoding step j: the state that predicts continuation token j", "tokens"),
    "other_num_matched": Column(LENGTH, "the score of the pair's other group", "tokens"),
    "other_num_sequences": Column(COLUMNS["num_sequences"].type, "sequences of the other group", "sequences"),
    "num_clusters": Column(COLUMNS["num_sequences"].type, "clusters of duplicates: the independent units", "clusters"),
    "other_num_clusters": Column(COLUMNS["num_sequences"].type, "clusters of the other group", "clusters"),
    "averaged": Column(FLAG, "whether the group has enough clusters to be averaged and compared"),
    "small_stratum": Column(FLAG, "fewer than 30 clusters (in either group)"),
    "distance": Column(REAL, "Euclidean distance of the groups' mean states; noise drives it up", _STATE),
    "random_distance": Column(REAL, "mean distance of random groups of the same numbers of clusters", _STATE),
    "random_distance_low": Column(REAL, "lower end of the central range of random groups", _STATE),
    "random_distance_high": Column(REAL, "upper end of the central range of random groups", _STATE),
    "excess_distance": Column(REAL, "distance less random_distance", _STATE),
    **_with_interval(
        "corrected_distance", "distance with both means' noise taken off; 0 where it is all noise", _STATE
    ),
    **_with_interval("corrected_distance_per_width", "corrected_distance / sqrt(width)", _PER_WIDTH),
    "cosine": Column(
        REAL, "cosine of the groups' mean states; in `centred_cosines` without the step's grand mean", "1"
    ),
    "random_cosine": Column(REAL, "mean cosine of random groups of the same numbers of clusters", "1"),
    "random_cosine_low": Column(REAL, "lower end of the central range of random groups", "1"),
    "random_cosine_high": Column(REAL, "upper end of the central range of random groups", "1"),
    "excess_cosine": Column(REAL, "cosine less random_cosine", "1"),
    **_with_interval("corrected_cosine", "cosine with both means' noise taken off; null where all is noise", "1"),
    "num_groups": Column(LENGTH, "scores with enough clusters"),
    "num_left_out": Column(LENGTH, "scores with some sequences, but too few clusters"),
    "num_empty": Column(LENGTH, "scores without a sequence"),
    "plain_spread": Column(REAL, "root mean squared distance over all pairs of groups; noise drives it up", _STATE),
    "random_spread": Column(REAL, "plain_spread of random groups of the same numbers of clusters", _STATE),
    "random_spread_low": Column(REAL, "lower end of the central range of random groups", _STATE),
    "random_spread_high": Column(REAL, "upper end of the central range of random groups", _STATE),
    **_with_interval("spread", "root mean squared distance over all pairs of groups, noise taken off", _STATE),
    **_with_interval("spread_per_width", "spread / sqrt(width)", _PER_WIDTH),
    **_with_interval(
        "random_spread_per_width",
        "spread_per_width of random groups, the same noise taken off (mean, and range)",
        _PER_WIDTH,
    ),
    "scatter": Column(REAL, "root mean squared distance of a unit from its group's mean", _STATE),
    **_with_interval("spread_per_scatter", "spread / scatter: free of the model's scale", "1"),
    **_with_interval(
        "shared_spread_per_width", "spread_per_width over the scores that every final model keeps", _PER_WIDTH
    ),
    **_with_interval(
        "shared_spread_per_scatter", "spread_per_scatter over the scores that every final model keeps", "1"
    ),
    "num_shared_groups": Column(LENGTH, "scores that every final model keeps"),
    **_with_interval("mean_cosine", "mean cosine over all pairs, noise taken off", "1"),
    **_with_interval("random_mean_cosine", "mean_cosine of random groups (mean, and central range)", "1"),
    **_with_interval("neighbour_cosine", "mean centred cosine of neighbouring scores, noise taken off", "1"),
    **_with_interval("random_neighbour_cosine", "neighbour_cosine of random groups (mean, and central range)", "1"),
    **_with_interval("order", "Spearman correlation, over pairs, of score difference and distance", "1"),
    **_with_interval("random_order", "order of random groups (mean, and central range)", "1"),
    "order_p": Column(REAL, "share of random groupings with as high an order (one-sided, counting the real one)"),
    "separation_p": Column(REAL, "share of random groupings with as large a spread (one-sided)"),
    "spread_early": Column(REAL, "spread over the first quarter of the steps", _STATE),
    "spread_late": Column(REAL, "spread over the last quarter of the steps", _STATE),
    **_with_interval("spread_change", "(spread_late - spread_early) / spread_early", "1"),
    **_with_interval("cosine_change", "mean_cosine of the last quarter less that of the first", "1"),
    **_with_interval("neighbour_cosine_change", "neighbour_cosine of the last quarter less that of the first", "1"),
    "target": Column(TEXT, "what is told apart: num_matched (each score a class), or memorized or not, evenly drawn"),
    "num_classes": Column(LENGTH, "classes of the target"),
    **_with_interval("silhouette", "mean silhouette over clusters, Euclidean", "1"),
    **_with_interval("random_silhouette", "mean silhouette of shuffled classes", "1"),
    **_with_interval("accuracy", "share that a linear probe fitted to other clusters gets right", "1"),
    "majority_accuracy": Column(REAL, "share of the commonest class", "1"),
    **_with_interval("excess_accuracy", "accuracy less majority_accuracy", "1"),
    "projection": Column(TEXT, "pca or umap, fitted once on the mean states of all groups and steps"),
    **_with_interval("x", "first coordinate of the mean state", "units of the state for pca, arbitrary for umap"),
    **_with_interval("y", "second coordinate of the mean state", "units of the state for pca, arbitrary for umap"),
    "share_x": Column(REAL, "share of the means' variance along x; null for umap", "1"),
    "share_y": Column(REAL, "share of the means' variance along y; null for umap", "1"),
    "quantity": Column(TEXT, "what is followed along model size"),
    **_with_interval("slope", "change of the quantity per tenfold parameters, over final models", "of the quantity"),
}


def make_columns(names: Sequence[str], columns: Mapping[str, Any]) -> pa.Table:
    """A table of these columns; a single value fills its column, NaN becomes null."""
    num_rows = max((len(values) for values in columns.values() if _is_column(values)), default=1)
    arrays = [
        pa.array(
            columns[name] if _is_column(columns[name]) else [columns[name]] * num_rows,
            EMBEDDING_COLUMNS[name].type,
            from_pandas=True,
        )
        for name in names
    ]
    return pa.Table.from_arrays(arrays, schema=schema_of(names))


def make_rows(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of these columns from rows, each of which has them all; NaN becomes null."""
    return make_columns(names, {name: [row[name] for row in rows] for name in names})


def schema_of(names: Sequence[str]) -> pa.Schema:
    """Types, and each column's meaning and unit."""
    columns = [(name, EMBEDDING_COLUMNS[name]) for name in names]
    return pa.schema([pa.field(n, c.type, metadata={"meaning": c.meaning, "unit": c.unit}) for n, c in columns])


def _is_column(values: Any) -> bool:
    return isinstance(values, list | np.ndarray)
