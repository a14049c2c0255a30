"""Entropy: how unsure the model was of each token, by index, for every score; the jump at the boundary tested.

Entropies are in nats, of the distribution that predicts the token at an index: given the true tokens inside the
context and at k, along the greedy decode after it. The memory-free null lets the chance of a hit depend on the
entropy at the same index alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mnemoscope import intervals
from mnemoscope.analyses import Finding
from mnemoscope.analyses.boundary import (
    BOUNDARY,
    boundary_rows,
    first_matched_index,
    judge,
    published_verdict,
    spoken_rows,
    spoken_verdicts,
    verdict_figures,
    verdicts_by_model,
)
from mnemoscope.analyses.columns import Value, tables_of
from mnemoscope.analyses.curves import (
    CURVE,
    SENTENCE,
    STRATA,
    Measure,
    Settings,
    curve_rows,
    ends,
    make_own_table,
    sentence_row,
    strata_of,
    strata_rows,
    too_few,
)
from mnemoscope.analyses.memory_free import fit_memory_free, null_curves
from mnemoscope.analyses.samples import Floats, Traced, TraceSample, list_matrix, read_samples

UNIT = "nats"
TREND = (
    *("statistic", "group", "score_class", "context", "continuation", "num_points", *ends("slope")),
    *("p_value", "p_holm", "first_value", "last_value"),
)
ALONG_SIZE = ("context_mean", "continuation_mean", "boundary_difference")
LOG_COLUMNS = (*ends("log_mean"), "null_log_mean")


@dataclass(frozen=True, kw_only=True)
class EntropyResult:
    """Tables with intervals, and the finding computed from them."""

    sentences: pa.Table
    """Means over context and continuation and the boundary difference, by model, group and score."""
    boundary: pa.Table
    """The boundary jump's test, by model and named score."""
    trend: pa.Table
    """How the means and the part that selection leaves unexplained run with model size."""
    curves: pa.Table
    """Mean and median at each index, with bands and the memory-free null."""
    strata: pa.Table
    """What was sampled of each score, and where it does not suffice."""
    finding: Finding
    """The sentence."""

    @property
    def tables(self) -> Mapping[str, pa.Table]:
        """The tables by name."""
        return tables_of(self)


def entropy(
    traces_by_model: Mapping[str, TraceSample],
    clusters: pa.Table,
    *,
    continuation: int,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> EntropyResult:
    """All tables of this perspective, models from small to large.

    `clusters` is the counts table, or any with its columns sequence_id, group, offset and cluster.
    """
    settings = Settings(level, num_resamples, seed)
    curves: list[dict[str, Value]] = []
    sentences: list[dict[str, Value]] = []
    tested: list[dict[str, Any]] = []
    strata: list[dict[str, Value]] = []
    for traced in read_samples(traces_by_model, clusters, continuation=continuation):
        width = traced.context + traced.continuation
        measure = Measure(None, list_matrix(traced.sample.table, "entropy", width), None)
        nulls = _nulls(traced, measure)
        strata += strata_rows(traced)
        tested += boundary_rows(traced, measure, nulls, settings)
        for stratum in strata_of(traced):
            sentences.append(sentence_row(traced, measure, stratum, settings))
            if not too_few(stratum.num_clusters):
                curves += curve_rows(traced, measure, stratum, nulls[stratum.num_matched], settings)
    judged = judge(tested, level=level)
    trend = _trend_rows(sentences, judged, level)
    return EntropyResult(
        sentences=make_own_table(SENTENCE, sentences, unit=UNIT, without=("ngram",)),
        boundary=make_own_table(BOUNDARY, judged, unit=UNIT, without=("ngram",)),
        trend=make_own_table(TREND, trend, unit=UNIT),
        curves=make_own_table(CURVE, curves, unit=UNIT, without=("ngram", *LOG_COLUMNS)),
        strata=make_own_table(STRATA, strata, unit=UNIT, without=("ngram",)),
        finding=find_entropy_jump(judged, trend),
    )


def _nulls(traced: Traced, measure: Measure) -> dict[int, Floats | None]:
    start = first_matched_index(traced.context)
    fit = fit_memory_free(traced, measure.values_RI, measure.values_RI[None], start=start)
    scores = range(traced.continuation + 1)
    if fit is None:
        return dict.fromkeys(scores)
    lengths = {"context": traced.context, "continuation": traced.continuation}
    return {score: null_curves(fit, score, **lengths) for score in scores}


def _trend_rows(
    sentences: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]], level: float
) -> list[dict[str, Value]]:
    """A line through the final checkpoints of each size, for each named score and statistic."""
    points: dict[tuple[Any, ...], dict[int, float]] = {}
    for statistic in (*ALONG_SIZE, "unexplained"):
        for row in judged if statistic == "unexplained" else sentences:
            value = row[statistic]
            if value is not None and row["score_class"] is not None:
                key = statistic, *(row[name] for name in TREND[1:5])
                # Rows go from early steps to late, so that a size's last checkpoint stands.
                points.setdefault(key, {})[row["num_non_embedding_parameters"]] = value
    rows = [row for key, by_size in points.items() if (row := _trend_row(key, by_size, level))]
    with_p = [row for row in rows if row["p_value"] is not None]
    adjusted = iter(intervals.holm([row["p_value"] for row in with_p]).tolist())
    return [{**row, "p_holm": None if row["p_value"] is None else next(adjusted)} for row in rows]


def _trend_row(key: tuple[Any, ...], by_size: Mapping[int, float], level: float) -> dict[str, Any] | None:
    sizes = sorted(by_size)
    line = intervals.fit_line([math.log10(size) for size in sizes], [by_size[size] for size in sizes], level)
    if line is None:
        return None
    return {
        **dict(zip(TREND[:5], key, strict=True)),
        "num_points": line.num_points,
        **{"slope": line.slope, "slope_low": line.slope_low, "slope_high": line.slope_high},
        "p_value": line.p_value,
        **{"first_value": by_size[sizes[0]], "last_value": by_size[sizes[-1]]},
    }


def find_entropy_jump(judged: Sequence[Mapping[str, Any]], trend: Sequence[Mapping[str, Any]]) -> Finding:
    """Whether the entropy's jump at the boundary survives its controls, by model, and how entropy runs with size."""
    verdicts = verdicts_by_model(judged, sign=1)
    parts = [f"Boundary jump of entropy: {spoken_verdicts(verdicts)}; {spoken_rows(judged, unit=UNIT)}"]
    figures = verdict_figures(verdicts, judged)
    for row in trend:
        if row["statistic"] == "context_mean" and row["group"] == "member" and row["score_class"] == "unmemorized":
            low, high = row["slope_low"], row["slope_high"]
            known = "no interval" if low is None else f"{low:+.2f} to {high:+.2f}"
            parts.append(
                f"inside their context it changes by {row['slope']:+.2f} nats ({known}) per tenfold parameters"
            )
            figures |= {"slope": row["slope"], "slope_low": low, "slope_high": high}
    return Finding("; ".join(parts) + ".", published_verdict(verdicts), figures)
