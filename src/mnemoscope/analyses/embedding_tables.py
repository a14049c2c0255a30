"""The embedding tables: their columns, and the rows that one side of one model adds to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from mnemoscope.analyses.embedding_columns import EMBEDDING_COLUMNS, make_columns, make_rows
from mnemoscope.analyses.embedding_path import Path
from mnemoscope.analyses.embedding_sample import EmbeddingSample, Floats, divide
from mnemoscope.analyses.embedding_steps import Curve, Side, Spread, quantiles, recentred_interval
from mnemoscope.analyses.embedding_summary import Estimate, Summary, spread_over

SMALL_STRATUM = 30
"""Clusters under which a group is flagged."""


def _names(*names: str) -> tuple[str, ...]:
    """The names, each followed by the ends of its interval where it has one."""
    ends = ("", "_low", "_high")
    return tuple(f"{name}{end}" for name in names for end in ends if f"{name}{end}" in EMBEDDING_COLUMNS)


MODEL = ("model", "num_non_embedding_parameters", "training_step", "width", "group", "context")
PAIR = (
    *(*MODEL, "step", "num_matched", "other_num_matched", "num_sequences", "other_num_sequences"),
    *("num_clusters", "other_num_clusters", "small_stratum"),
)
GROUPS = (*MODEL, "num_matched", "num_sequences", "num_clusters", "averaged", "small_stratum", "note")
DISTANCES = (
    *(*PAIR, "distance", *_names("random_distance"), "excess_distance"),
    *_names("corrected_distance", "corrected_distance_per_width"),
)
COSINES = (*PAIR, "cosine", *_names("random_cosine"), "excess_cosine", *_names("corrected_cosine"))
SIZES = ("num_sequences", "num_clusters", "num_groups")
STEPS = (
    *(*MODEL, "step", *SIZES, "plain_spread", *_names("random_spread", "spread"), "scatter"),
    *_names("spread_per_width", "random_spread_per_width"),
    *_names("mean_cosine", "random_mean_cosine", "neighbour_cosine", "random_neighbour_cosine"),
    *_names("order", "random_order"),
)
MODELS = (
    *(*MODEL, *SIZES, "num_left_out", "num_empty", *_names("spread", "spread_per_width"), "scatter"),
    *_names("spread_per_scatter", "shared_spread_per_width", "shared_spread_per_scatter"),
    *("num_shared_groups", "spread_early", "spread_late", *_names("spread_change", "mean_cosine")),
    *_names("cosine_change", "neighbour_cosine", "neighbour_cosine_change", "order"),
    *("order_p", "separation_p", "note"),
)
SEPARABILITY = (
    *(*MODEL, "step", "target", "num_sequences", "num_clusters", "num_classes"),
    *_names("silhouette", "random_silhouette", "accuracy"),
    *("majority_accuracy", *_names("excess_accuracy"), "note"),
)
PATH = (
    *(*MODEL, "projection", "step", "num_matched", "num_sequences", "num_clusters", *_names("x", "y")),
    *("share_x", "share_y"),
)
TREND = ("group", "quantity", "num_points", *_names("slope"), "p_value", "note")


def model_keys(sample: EmbeddingSample, side: str) -> dict[str, Any]:
    """The columns that name a model and a side."""
    named = {name: getattr(sample, name) for name in MODEL[1:] if name != "group"}
    return {"model": sample.label, "group": side, **named}


def side_sizes(side: Side) -> dict[str, int]:
    """How many stand behind the kept groups, and how many scores are not kept."""
    kept = [score for score in side.units.scores if score.kept]
    empty = sum(score.num_sequences == 0 for score in side.units.scores)
    return {
        "num_sequences": sum(score.num_sequences for score in kept),
        "num_clusters": len(np.unique(side.units.cluster_U)),
        "num_groups": len(kept),
        "num_left_out": len(side.units.scores) - len(kept) - empty,
        "num_empty": empty,
    }


def empty_model(sample: EmbeddingSample, side: str, keys: Mapping[str, Any]) -> pa.Table:
    """The row of a side without two groups to compare."""
    scores = divide(sample, side).scores
    empty, kept = sum(score.num_sequences == 0 for score in scores), sum(score.kept for score in scores)
    row = {
        **dict.fromkeys(MODELS),
        **keys,
        "num_sequences": sum(score.num_sequences for score in scores if score.kept),
        "num_clusters": sum(score.num_clusters for score in scores if score.kept),
        "num_groups": kept,
        "num_left_out": len(scores) - kept - empty,
        "num_empty": empty,
        "note": "fewer than two scores have enough clusters to compare",
    }
    return make_rows(MODELS, [row])


def groups_table(sample: EmbeddingSample, side: str, keys: Mapping[str, Any]) -> pa.Table:
    """Every score of a side, kept or not, and why not."""
    rows: list[dict[str, Any]] = []
    for score in divide(sample, side).scores:
        note = None if score.kept else "too few clusters: left out" if score.num_sequences else "empty"
        flags = {"averaged": score.kept, "small_stratum": score.num_clusters < SMALL_STRATUM, "note": note}
        counts = {name: getattr(score, name) for name in ("num_matched", "num_sequences", "num_clusters")}
        rows.append({**keys, **counts, **flags})
    return make_rows(GROUPS, rows)


def summary_row(summary: Summary, root: float) -> dict[str, Any]:
    """A side's numbers, and its spreads by width and by scatter; `root` is sqrt(width)."""
    per_scatter = 1 / summary.scatter if summary.scatter > 0 else np.nan
    scaled = {
        "spread_per_width": summary.spread.times(1 / root),
        "spread_per_scatter": summary.spread.times(per_scatter),
        "shared_spread_per_width": summary.shared_spread.times(1 / root),
        "shared_spread_per_scatter": summary.shared_spread.times(per_scatter),
    }
    return flat({**summary._asdict(), **scaled})


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Each estimate as three columns."""
    row: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Estimate):
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            row[name] = value
    return row


def step_rows(side: Side, root: float, level: float) -> list[dict[str, Any]]:
    """The numbers of each step, beside those of random groups."""
    squared = side.squared_distance
    curves = {"mean_cosine": side.cosine, "neighbour_cosine": side.neighbour_cosine, "order": side.order}
    ends = {name: _curve_ends(curve, level) for name, curve in curves.items()}
    ends |= {f"random_{name}": _random_ends(curve.random_corrected_NT, level) for name, curve in curves.items()}
    ends["random_spread"] = _random_ends(_root(squared.random_NT), level)
    ends["random_spread_per_width"] = _random_ends(_root(squared.random_corrected_NT) / root, level)
    rows: list[dict[str, Any]] = []
    for step, plain in enumerate(_root(squared.plain_T)):
        spread = spread_over(squared, slice(step, step + 1), level)
        spreads = {"spread": spread, "spread_per_width": spread.times(1 / root)}
        numbers = {"step": step, "plain_spread": plain, "scatter": side.scatter_T[step]}
        rows.append(flat({**numbers, **spreads, **{name: values[step] for name, values in ends.items()}}))
    return rows


def _root(squared: Floats) -> Floats:
    return np.sqrt(np.maximum(squared, 0))


def _random_ends(random_NT: Floats, level: float) -> list[Estimate]:
    """The mean of random groups, and their central range; NaN where none has a value."""
    low_T, middle_T, high_T = quantiles(random_NT, (1 - level) / 2, 0.5, (1 + level) / 2)
    known = ~np.isnan(random_NT)
    mean_T = np.where(known, random_NT, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    mean_T = np.where(np.isnan(middle_T), np.nan, mean_T)
    return [Estimate(*(float(number) for number in ends)) for ends in zip(mean_T, low_T, high_T, strict=True)]


def _curve_ends(curve: Curve, level: float) -> list[Estimate]:
    low_T, high_T = recentred_interval(curve.corrected_T, curve.resampled_BT, level)
    ends = zip(curve.corrected_T, np.clip(low_T, -1, 1), np.clip(high_T, -1, 1), strict=True)
    return [Estimate(*(float(number) for number in numbers)) for numbers in ends]


def pair_columns(side: Side) -> dict[str, Any]:
    """The columns that name each pair at each step."""
    kept = [score for score in side.units.scores if score.kept]
    sequences_C = np.array([score.num_sequences for score in kept])
    clusters_C = np.array([score.num_clusters for score in kept])
    num_steps, num_pairs = side.spreads.cosine.plain.shape
    first_P, second_P, _ = side.pairs
    columns = {
        "num_matched": side.units.kept_C[first_P],
        "other_num_matched": side.units.kept_C[second_P],
        "num_sequences": sequences_C[first_P],
        "other_num_sequences": sequences_C[second_P],
        "num_clusters": clusters_C[first_P],
        "other_num_clusters": clusters_C[second_P],
        "small_stratum": np.minimum(clusters_C[first_P], clusters_C[second_P]) < SMALL_STRATUM,
    }
    repeated = {name: np.tile(values, num_steps) for name, values in columns.items()}
    return {"step": np.repeat(np.arange(num_steps), num_pairs), **repeated}


def distance_columns(spread: Spread, root: float) -> dict[str, Any]:
    """The distances of all pairs, raw and by width."""
    corrected = _with_ends("corrected_distance", spread.corrected, spread.low, spread.high)
    per_width = {
        name.replace("corrected_distance", "corrected_distance_per_width"): values / root
        for name, values in corrected.items()
    }
    return {**_plain_columns("distance", spread), **corrected, **per_width}


def cosine_columns(spread: Spread) -> dict[str, Any]:
    """The cosines of all pairs."""
    corrected = _with_ends("corrected_cosine", spread.corrected, spread.low, spread.high)
    return {**_plain_columns("cosine", spread), **corrected}


def _plain_columns(name: str, spread: Spread) -> dict[str, Any]:
    random = _with_ends(f"random_{name}", spread.random, spread.random_low, spread.random_high)
    return {name: spread.plain.ravel(), **random, f"excess_{name}": (spread.plain - spread.random).ravel()}


def _with_ends(name: str, value: Any, low: Any, high: Any) -> dict[str, Any]:
    return {name: value.ravel(), f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}


def path_table(side: Side, keys: Mapping[str, Any], path: Path, share_x: float, share_y: float) -> pa.Table:
    """Each group's place at each step."""
    kept = [score for score in side.units.scores if score.kept]
    num_steps, num_groups = path.place.shape[:2]
    places = {
        name: value
        for index, axis in enumerate("xy")
        for name, value in _with_ends(axis, *(values[..., index] for values in path)).items()
    }
    counts = {
        name: np.tile([getattr(score, name) for score in kept], num_steps)
        for name in ("num_matched", "num_sequences", "num_clusters")
    }
    steps = {"step": np.repeat(np.arange(num_steps), num_groups), "share_x": float(share_x), "share_y": float(share_y)}
    return make_columns(PATH, {**keys, **steps, **counts, **places})
