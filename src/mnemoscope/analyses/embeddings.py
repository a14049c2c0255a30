"""Embeddings: where the last layer's states of each score lie while a model decodes, and how far from one another.

States in, tables with intervals and one finding out. Groups are the sequences of one exact score (`num_matched`),
members and control apart. Every distance stands beside that of random groups of the same sizes: means of few states
are apart by noise alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from mnemoscope import intervals
from mnemoscope.analyses import Finding
from mnemoscope.analyses.columns import tables_of
from mnemoscope.analyses.embedding_columns import make_columns, make_rows, schema_of
from mnemoscope.analyses.embedding_finding import find_embedding_effects
from mnemoscope.analyses.embedding_path import Path, fit_sides, project, project_umap
from mnemoscope.analyses.embedding_sample import EmbeddingSample, divide
from mnemoscope.analyses.embedding_separability import separate
from mnemoscope.analyses.embedding_steps import Side, walk
from mnemoscope.analyses.embedding_summary import summarize
from mnemoscope.analyses.embedding_tables import (
    COSINES,
    DISTANCES,
    GROUPS,
    MODELS,
    PATH,
    SEPARABILITY,
    STEPS,
    TREND,
    cosine_columns,
    distance_columns,
    empty_model,
    flat,
    groups_table,
    model_keys,
    pair_columns,
    path_table,
    side_sizes,
    step_rows,
    summary_row,
)
from mnemoscope.errors import ConfigError

SIDES = ("member", "control")
QUANTITIES = ("shared_spread_per_width", "shared_spread_per_scatter")


@dataclass(frozen=True, kw_only=True)
class EmbeddingsResult:
    """Tables with intervals, and the finding computed from them."""

    models: pa.Table
    """One row for each model and side: spread, order, and how they change along decoding."""
    groups: pa.Table
    """Every score: how many stand behind it, and whether it is averaged."""
    steps: pa.Table
    """The same as `models` at each decoding step, beside random groups."""
    distances: pa.Table
    """Pairs of scores at each step."""
    cosines: pa.Table
    """Pairs of scores at each step, as the states are."""
    centred_cosines: pa.Table
    """The same without the step's grand mean."""
    separability: pa.Table
    """Silhouette and linear probe at three steps."""
    path: pa.Table
    """Each score's place in two dimensions at each step."""
    trend: pa.Table
    """Spread along model size."""
    finding: Finding
    """The sentence."""

    @property
    def tables(self) -> Mapping[str, pa.Table]:
        """The tables by name."""
        return tables_of(self)


class _Settings(NamedTuple):
    level: float
    num_resamples: int
    seed: int
    umap: bool


def embeddings(
    samples: Mapping[str, EmbeddingSample],
    *,
    level: float = 0.95,
    num_resamples: int = 200,
    seed: int = 0,
    umap: bool = False,
) -> EmbeddingsResult:
    """All tables of this perspective; models go from small to large, members before control.

    `num_resamples` counts the resamples behind each interval, and the random groupings behind each baseline. `umap`
    adds a UMAP of the path (the extra `umap`).
    """
    if not samples:
        raise ConfigError("no samples given; expected the states of at least one model")
    samples_by_label = {sample.label: sample for sample in samples.values()}
    if len(samples_by_label) < len(samples):
        raise ConfigError("two samples have one label; every model needs its own")
    if num_resamples < 20:
        raise ConfigError(f"num_resamples is {num_resamples}; expected 20 or more")
    final = _final_models(samples.values())
    shared = {side: _shared_scores([samples_by_label[label] for label in final], side) for side in SIDES}
    parts: dict[str, list[pa.Table]] = {name: [] for name in _COLUMNS_BY_TABLE}
    settings = _Settings(level, num_resamples, seed, umap)
    # The products here are small: threads cost more than they give, and make the last digits depend on their number.
    with threadpool_limits(limits=1):
        for sample in sorted(samples.values(), key=_size_rank):
            for name, table in _model_tables(sample, shared, settings):
                parts[name].append(table)
    tables = {
        name: pa.concat_tables([schema_of(columns).empty_table(), *parts[name]])
        for name, columns in _COLUMNS_BY_TABLE.items()
    }
    trend = _trend_table(tables["models"], final, level)
    finding = find_embedding_effects(tables["models"], tables["separability"], trend, final, level=level)
    return EmbeddingsResult(**tables, trend=trend, finding=finding)


_COLUMNS_BY_TABLE: Mapping[str, tuple[str, ...]] = {
    "models": MODELS,
    "groups": GROUPS,
    "steps": STEPS,
    "distances": DISTANCES,
    "cosines": COSINES,
    "centred_cosines": COSINES,
    "separability": SEPARABILITY,
    "path": PATH,
}


def _model_tables(
    sample: EmbeddingSample, shared: Mapping[str, set[int]], settings: _Settings
) -> Iterable[tuple[str, pa.Table]]:
    """One model's parts of each table; a side without two groups has its rows in `models` and `groups` only."""
    # A model's random numbers hang on its name: adding a model to a study does not change what is said of another.
    seed = (zlib.crc32(sample.label.encode()) + settings.seed) % 2**31
    sides: dict[str, Side] = {}
    for name in SIDES:
        if not (sample.group == name).any():
            continue
        side = walk(sample, name, shared[name], level=settings.level, num_resamples=settings.num_resamples, seed=seed)
        keys = {**model_keys(sample, name), "num_shared_groups": len(shared[name])}
        yield "groups", groups_table(sample, name, keys)
        if side is None:
            yield "models", empty_model(sample, name, keys)
            continue
        sides[name] = side
        yield from _side_tables(sample, side, keys, settings, seed)
    if sides:
        projection = fit_sides(list(sides.values()))
        for name, side in sides.items():
            path = project(sample, side, projection, settings.level)
            share_x, share_y = projection.share_2
            yield "path", path_table(side, {**model_keys(sample, name), "projection": "pca"}, path, share_x, share_y)
    if sides and settings.umap:
        for (name, side), place in zip(sides.items(), project_umap(list(sides.values()), seed=seed), strict=True):
            path = Path(place, np.full_like(place, np.nan), np.full_like(place, np.nan))
            keys = {**model_keys(sample, name), "projection": "umap"}
            yield "path", path_table(side, keys, path, np.nan, np.nan)


def _side_tables(
    sample: EmbeddingSample, side: Side, keys: Mapping[str, Any], settings: _Settings, seed: int
) -> Iterable[tuple[str, pa.Table]]:
    level, root = settings.level, float(np.sqrt(sample.width))
    sizes = side_sizes(side)
    yield "models", make_rows(MODELS, [{**keys, **sizes, **summary_row(summarize(side, level), root), "note": None}])
    yield "steps", make_rows(STEPS, [{**keys, **sizes, **row} for row in step_rows(side, root, level)])
    pairs = {**keys, **pair_columns(side)}
    yield "distances", make_columns(DISTANCES, {**pairs, **distance_columns(side.spreads.distance, root)})
    yield "cosines", make_columns(COSINES, {**pairs, **cosine_columns(side.spreads.cosine)})
    yield "centred_cosines", make_columns(COSINES, {**pairs, **cosine_columns(side.spreads.centred_cosine)})
    found = separate(
        sample, str(keys["group"]), side.units.kept_C, level=level, num_resamples=settings.num_resamples, seed=seed
    )
    rows = [{**keys, **flat(row._asdict())} for row in found]
    yield "separability", make_rows(SEPARABILITY, [{**row, "note": row["note"] or None} for row in rows])


def _size_rank(sample: EmbeddingSample) -> tuple[int, float, str]:
    return sample.num_non_embedding_parameters, _step_rank(sample), sample.label


def _step_rank(sample: EmbeddingSample) -> float:
    return float("inf") if sample.training_step is None else sample.training_step


def _final_models(samples: Iterable[EmbeddingSample]) -> list[str]:
    """The last checkpoint of each size, small to large: intermediate ones would count one training run twice."""
    ordered = sorted(samples, key=_size_rank)
    last = {sample.num_non_embedding_parameters: _step_rank(sample) for sample in ordered}
    return [sample.label for sample in ordered if last[sample.num_non_embedding_parameters] == _step_rank(sample)]


def _shared_scores(final: Sequence[EmbeddingSample], side: str) -> set[int]:
    """The scores with enough clusters in every final model that has this side."""
    kept = [set(divide(sample, side).kept_C.tolist()) for sample in final if (sample.group == side).any()]
    return set.intersection(*kept) if kept else set()


def _trend_table(models: pa.Table, final: Sequence[str], level: float) -> pa.Table:
    rows = [_trend_row(models.to_pylist(), side, name, final, level) for side in SIDES for name in QUANTITIES]
    return make_rows(TREND, [row for row in rows if row["num_points"]])


def _trend_row(
    models: Sequence[Mapping[str, Any]], side: str, quantity: str, final: Sequence[str], level: float
) -> dict[str, Any]:
    """The least-squares line over the logarithm of size; its interval is of the models' scatter about it."""
    rows = [row for row in models if row["group"] == side and row["model"] in final and row[quantity] is not None]
    sizes = [float(np.log10(row["num_non_embedding_parameters"])) for row in rows]
    line = intervals.fit_line(sizes, [row[quantity] for row in rows], level)
    note = "one model size" if line is None else "no interval from fewer than three models"
    return {
        "group": side,
        "quantity": quantity,
        "num_points": len(rows),
        "slope": None if line is None else line.slope,
        "slope_low": None if line is None else line.slope_low,
        "slope_high": None if line is None else line.slope_high,
        "p_value": None if line is None else line.p_value,
        "note": None if line is not None and line.p_value is not None else note,
    }
