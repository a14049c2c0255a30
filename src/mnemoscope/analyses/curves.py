"""Curves by token index, and their means over context and continuation, for strata of `num_matched`.

Every mean is weighted by design and has the interval of a cluster bootstrap; a curve has a simultaneous band. A
stratum of fewer than `MIN_CLUSTERS` clusters is named with its size and not averaged.

Axes: R rows, I token indices, K statistics, B resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mnemoscope.analyses.columns import COLUMNS, COUNT, LENGTH, REAL, TEXT, Column, Row, Value
from mnemoscope.analyses.samples import (
    MIN_CLUSTERS,
    Floats,
    Integers,
    Means,
    Traced,
    num_clusters,
    resampled_means,
    score_class,
    weighted_medians,
)
from mnemoscope.resampling import percentile_interval, simultaneous_band

VALUE, LOG = "value", "ln(1 + value)"
TESTED = "tested value"


def _with_ends(name: str, meaning: str, unit: str, interval: str) -> dict[str, Column]:
    return {
        name: Column(REAL, meaning, unit),
        f"{name}_low": Column(REAL, f"lower end of its {interval}", unit),
        f"{name}_high": Column(REAL, f"upper end of its {interval}", unit),
    }


INTERVAL, BAND = "cluster-bootstrap interval", "simultaneous band over the curve's indices, cut at 0"
OWN_COLUMNS: Mapping[str, Column] = {
    "ngram": Column(LENGTH, "length of the n-gram that ends at the index", "tokens"),
    "score_class": Column(TEXT, "memorized (n matches), half (n / 2), unmemorized (0); null for other scores"),
    "index": Column(LENGTH, "token index in the window; the continuation begins at k", "tokens"),
    "num_clusters": Column(COUNT, "clusters of duplicates among the sequences; the unit of the bootstrap", "clusters"),
    "num_population": Column(REAL, "sequences that the sampled ones stand for by their design weights", "sequences"),
    **_with_ends("mean", "mean at this index", VALUE, BAND),
    "median": Column(REAL, "median at this index", VALUE),
    **_with_ends("log_mean", "mean of the logarithm at this index", LOG, BAND),
    "null_mean": Column(REAL, "the mean that the memory-free null expects", VALUE),
    "null_log_mean": Column(REAL, "the mean of the logarithm that the memory-free null expects", LOG),
    **_with_ends("context_mean", "mean over the context", VALUE, INTERVAL),
    **_with_ends("continuation_mean", "mean over the continuation", VALUE, INTERVAL),
    **_with_ends("boundary_difference", "mean at k minus mean at k - 1", VALUE, INTERVAL),
    **_with_ends("boundary_ratio", "mean at k divided by mean at k - 1", "1", INTERVAL),
    "num_compared": Column(
        COUNT, "sequences with a matched position inside the context; all that follows is of them", "sequences"
    ),
    **_with_ends("difference", "mean at the index minus mean at the one before", TESTED, INTERVAL),
    **_with_ends("inside_difference", "the same at matched positions inside the context", TESTED, INTERVAL),
    **_with_ends(
        "unexplained", "difference minus inside_difference: what selection does not explain", TESTED, INTERVAL
    ),
    "num_control_compared": Column(COUNT, "control sequences with a matched position inside the context", "sequences"),
    **_with_ends("control_difference", "difference of the control", TESTED, INTERVAL),
    **_with_ends("control_unexplained", "unexplained part of the control", TESTED, INTERVAL),
    **_with_ends("unexplained_gap", "unexplained minus control_unexplained", TESTED, INTERVAL),
    "null_difference": Column(REAL, "the difference that the memory-free null expects", TESTED),
    "verdict": Column(TEXT, "survives, or why not, or undecided with the reason"),
    "statistic": Column(TEXT, "what runs along model size"),
    "num_points": Column(LENGTH, "models that the line goes through", "models"),
    **_with_ends("slope", "change per tenfold parameters, least squares", TESTED, "t-interval"),
    "first_value": Column(REAL, "the statistic of the smallest model", TESTED),
    "last_value": Column(REAL, "the statistic of the largest model", TESTED),
    "p_inside": Column(REAL, "two-sided p-value of nothing unexplained"),
    "p_inside_holm": Column(REAL, "the same, Holm-adjusted over the table"),
    "p_value": Column(REAL, "two-sided p-value of no effect, beyond the control's where there is one"),
    "p_holm": Column(REAL, "the same, Holm-adjusted over the table"),
}

MODEL = ("model", "num_non_embedding_parameters", "training_step", "context", "continuation")
STRATUM = (*MODEL, "group", "score_class", "num_matched", "ngram")
SIZE = ("num_sequences", "num_clusters")


def ends(*names: str) -> tuple[str, ...]:
    """Each name followed by those of its interval's ends."""
    return tuple(part for name in names for part in (name, f"{name}_low", f"{name}_high"))


CURVE = (*STRATUM, "index", *SIZE, *ends("mean"), "median", *ends("log_mean"), "null_mean", "null_log_mean")
SENTENCE_MEANS = ("context_mean", "continuation_mean", "boundary_difference", "boundary_ratio")
SENTENCE = (*STRATUM, *SIZE, *ends(*SENTENCE_MEANS), "note")
STRATA = (*STRATUM, *SIZE, "num_population", "note")


class Measure(NamedTuple):
    """What a curve is of: a value at each row and index, and the value that is tested."""

    ngram: int | None
    values_RI: Floats
    tested_RI: Floats | None
    """Its logarithm ln(1 + value) where it is heavy-tailed; None where the value itself is tested."""


class Settings(NamedTuple):
    """Level of the intervals, number of resamples, seed."""

    level: float
    num_resamples: int
    seed: int


class Stratum(NamedTuple):
    """Rows of one group and score."""

    group: str
    num_matched: int
    rows: Integers
    num_clusters: int


def make_own_table(
    names: Sequence[str], rows: Sequence[Row], *, unit: str, tested_unit: str | None = None, without: Sequence[str] = ()
) -> pa.Table:
    """The rows as a table with these columns but those in `without`; the measure's unit replaces its placeholder."""
    units = {VALUE: unit, LOG: f"ln(1 + {unit})", TESTED: tested_unit or unit}
    kept = [name for name in names if name not in without]
    fields: list[pa.Field] = []
    for name in kept:
        column = OWN_COLUMNS.get(name) or COLUMNS[name]
        metadata = {"meaning": column.meaning, "unit": units.get(column.unit, column.unit)}
        fields.append(pa.field(name, column.type, metadata=metadata))
    return pa.table({name: [row[name] for row in rows] for name in kept}, schema=pa.schema(fields))


def strata_of(traced: Traced) -> Iterator[Stratum]:
    """All strata of the sample's groups by score, the empty ones too."""
    for group in traced.groups:
        for num_matched in range(traced.continuation + 1):
            rows = traced.rows_of(group, num_matched)
            yield Stratum(group, num_matched, rows, num_clusters(traced.cluster_R[rows]))


def keys_of(traced: Traced, stratum: Stratum, ngram: int | None) -> dict[str, Value]:
    """The columns that name a stratum, with its size."""
    return {
        **traced.keys,
        "group": stratum.group,
        "score_class": score_class(stratum.num_matched, traced.continuation),
        "num_matched": stratum.num_matched,
        "ngram": ngram,
        "num_sequences": len(stratum.rows),
        "num_clusters": stratum.num_clusters,
    }


def strata_rows(traced: Traced) -> list[dict[str, Value]]:
    """What was sampled of each stratum, and whether it suffices."""
    return [
        {
            **keys_of(traced, stratum, None),
            "num_population": float(traced.weight_R[stratum.rows].sum()),
            "note": too_few(stratum.num_clusters),
        }
        for stratum in strata_of(traced)
    ]


def too_few(count: int) -> str | None:
    """What to say of a stratum of this many clusters; None where they suffice."""
    if count == 0:
        return "empty: no sequence sampled"
    return None if count >= MIN_CLUSTERS else f"too few clusters: {count}, at least {MIN_CLUSTERS} needed"


def curve_rows(
    traced: Traced, measure: Measure, stratum: Stratum, null_VI: Floats | None, settings: Settings
) -> list[dict[str, Value]]:
    """One row per index of a stratum that suffices."""
    values_RI = measure.values_RI[stratum.rows]
    means, log_means = _resample(traced, measure, stratum, settings)
    weight_R = traced.weight_R[stratum.rows]
    columns = {
        **_banded("mean", means, settings.level),
        "median": weighted_medians(values_RI, weight_R),
        **_banded("log_mean", log_means, settings.level),
        "null_mean": null_VI[0] if null_VI is not None else None,
        "null_log_mean": null_VI[-1] if null_VI is not None else None,
    }
    keys = keys_of(traced, stratum, measure.ngram)
    return [
        {**keys, "index": index, **{name: at(column, index) for name, column in columns.items()}}
        for index in range(values_RI.shape[1])
    ]


def _resample(traced: Traced, measure: Measure, stratum: Stratum, settings: Settings) -> tuple[Means, Means | None]:
    rows, num_indices = stratum.rows, measure.values_RI.shape[1]
    parts = (
        [measure.values_RI[rows]] if measure.tested_RI is None else [measure.values_RI[rows], measure.tested_RI[rows]]
    )
    both = stratum_means(traced, stratum, np.hstack(parts), settings)
    first, second = (
        Means(both.estimate_K[part], both.resampled_BK[:, part])
        for part in (slice(num_indices), slice(num_indices, None))
    )
    return first, None if measure.tested_RI is None else second


def stratum_means(traced: Traced, stratum: Stratum, values_RK: Floats, settings: Settings) -> Means:
    """The weighted, resampled means of the stratum's rows (R: only those)."""
    return resampled_means(
        values_RK,
        traced.weight_R[stratum.rows],
        traced.cluster_R[stratum.rows],
        num_resamples=settings.num_resamples,
        seed=traced.seed_of(stratum.group, stratum.num_matched, settings.seed),
    )


def _banded(name: str, means: Means | None, level: float) -> dict[str, Floats | None]:
    """A curve and its band, cut at 0: no frequency and no entropy is below."""
    if means is None:
        return dict.fromkeys(ends(name))
    known = ~np.isnan(means.estimate_K)
    low, high = np.full((2, len(known)), np.nan)
    if known.any():
        low[known], high[known] = simultaneous_band(means.estimate_K[known], means.resampled_BK[:, known], level)
    return dict(zip(ends(name), (means.estimate_K, np.maximum(low, 0), high), strict=True))


def at(column: Floats | None, index: int) -> float | None:
    """A number for a table: None where the column is missing or NaN."""
    return None if column is None else plain(column[index])


def plain(number: Any) -> float | None:
    """A number for a table: None for NaN."""
    return None if np.isnan(number) else float(number)


def sentence_means(curve_BI: Floats, context: int, continuation: int) -> Floats:
    """Context mean, continuation mean, boundary difference and ratio of each curve, float64 [B, 4].

    Indices at which nothing is known, such as the first, are left out of the context's mean.
    """
    inside = curve_BI[:, :context]
    known_I = ~np.isnan(inside).all(0)
    last, first = curve_BI[:, context - 1], curve_BI[:, context]
    ratio = np.divide(first, last, out=np.full(len(first), np.nan), where=last > 0)
    after = curve_BI[:, context : context + continuation]
    return np.stack([inside[:, known_I].mean(1), after.mean(1), first - last, ratio], axis=1)


def sentence_row(traced: Traced, measure: Measure, stratum: Stratum, settings: Settings) -> dict[str, Value]:
    """The stratum's means over context and continuation, and its boundary difference, with intervals."""
    keys = keys_of(traced, stratum, measure.ngram)
    note = too_few(stratum.num_clusters)
    if note:
        return {**keys, **dict.fromkeys(ends(*SENTENCE_MEANS)), "note": note}
    means = stratum_means(traced, stratum, measure.values_RI[stratum.rows], settings)
    estimate_K = sentence_means(means.estimate_K[None], traced.context, traced.continuation)[0]
    resampled_BK = sentence_means(means.resampled_BK, traced.context, traced.continuation)
    return {**keys, **with_intervals(SENTENCE_MEANS, Means(estimate_K, resampled_BK), settings.level), "note": None}


def with_intervals(names: Sequence[str], means: Means, level: float) -> dict[str, Value]:
    """Each statistic with its percentile interval, by column name."""
    row: dict[str, Value] = {}
    for index, name in enumerate(names):
        numbers = means.estimate_K[index], *percentile_interval(means.resampled_BK[:, index], level)
        row.update(zip(ends(name), map(plain, numbers), strict=True))
    return row
