"""Frequency: how often the true tokens stand in the corpus, by index, for every score; the boundary effect tested.

Values are corpus frequencies of the 1- and 2-gram that ends at an index. They are heavy-tailed, so beside means
there are medians and means of ln(1 + frequency), and the test is made on the latter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

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
    SENTENCE_MEANS,
    STRATA,
    Measure,
    Settings,
    curve_rows,
    ends,
    make_own_table,
    sentence_means,
    sentence_row,
    strata_of,
    strata_rows,
    too_few,
)
from mnemoscope.analyses.memory_free import fit_memory_free, null_curves
from mnemoscope.analyses.samples import Floats, Traced, TraceSample, list_matrix, read_samples
from mnemoscope.errors import ConfigError

NGRAMS = (1, 2)
UNIT, TESTED_UNIT = "occurrences", "ln(1 + occurrences)"
SCORE_CLASSES = ("memorized", "half", "unmemorized")


@dataclass(frozen=True, kw_only=True)
class FrequencyResult:
    """Tables with intervals, and the finding computed from them."""

    sentences: pa.Table
    """Means over context and continuation and the boundary difference, by model, group, score and n-gram."""
    boundary: pa.Table
    """The boundary effect's test, by model, named score and n-gram."""
    curves: pa.Table
    """Mean, median and mean logarithm at each index, with bands and the memory-free null."""
    strata: pa.Table
    """What was sampled of each score, and where it does not suffice."""
    finding: Finding
    """The sentence."""

    @property
    def tables(self) -> Mapping[str, pa.Table]:
        """The tables by name."""
        return tables_of(self)


def frequency(
    traces_by_model: Mapping[str, TraceSample],
    counts: pa.Table,
    *,
    continuation: int,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> FrequencyResult:
    """All tables of this perspective, models from small to large; n-grams one after the other.

    `counts` holds the corpus frequencies and clusters of every sequence that the traces speak of.
    """
    settings = Settings(level, num_resamples, seed)
    curves: list[dict[str, Value]] = []
    sentences: list[dict[str, Value]] = []
    tested: list[dict[str, Any]] = []
    strata: list[dict[str, Value]] = []
    for traced in read_samples(traces_by_model, counts, continuation=continuation):
        measures = [_measure(traced, counts, ngram) for ngram in NGRAMS]
        nulls = _nulls(traced, measures)
        strata += strata_rows(traced)
        for place, measure in enumerate(measures):
            null = {score: None if null_VI is None else null_VI[2 * place :][:2] for score, null_VI in nulls.items()}
            tested += boundary_rows(traced, measure, null, settings)
            for stratum in strata_of(traced):
                sentences.append(sentence_row(traced, measure, stratum, settings))
                if not too_few(stratum.num_clusters):
                    curves += curve_rows(traced, measure, stratum, null[stratum.num_matched], settings)
    judged = judge(tested, level=level)
    return FrequencyResult(
        sentences=make_own_table(SENTENCE, sentences, unit=UNIT),
        boundary=make_own_table(BOUNDARY, judged, unit=UNIT, tested_unit=TESTED_UNIT),
        curves=make_own_table(CURVE, curves, unit=UNIT),
        strata=make_own_table(STRATA, strata, unit=UNIT, without=("ngram",)),
        finding=find_boundary_effect(judged),
    )


def _measure(traced: Traced, counts: pa.Table, ngram: int) -> Measure:
    width = traced.context + traced.continuation
    values_RI = list_matrix(counts, f"ngram_{ngram}", width)[traced.place_R]
    return Measure(ngram, values_RI, np.log1p(values_RI))


def _nulls(traced: Traced, measures: Sequence[Measure]) -> dict[int, Floats | None]:
    """The memory-free curves of each score: rows are value and logarithm of the 1-gram, then of the 2-gram."""
    values_VRI = np.stack([values for measure in measures for values in (measure.values_RI, _logarithm(measure))])
    start = first_matched_index(traced.context)
    fit = fit_memory_free(traced, measures[0].values_RI, values_VRI, start=start)
    scores = range(traced.continuation + 1)
    if fit is None:
        return dict.fromkeys(scores)
    lengths = {"context": traced.context, "continuation": traced.continuation}
    return {score: null_curves(fit, score, **lengths) for score in scores}


def _logarithm(measure: Measure) -> Floats:
    return measure.values_RI if measure.tested_RI is None else measure.tested_RI


def find_boundary_effect(judged: Sequence[Mapping[str, Any]]) -> Finding:
    """Whether the boundary effect of 1-gram frequency survives its controls, by model."""
    rows = [row for row in judged if row["ngram"] == 1]
    verdicts = verdicts_by_model(rows, sign=-1)
    sentence = (
        f"Boundary effect of 1-gram frequency: {spoken_verdicts(verdicts)}; {spoken_rows(rows, unit='ln units')}."
    )
    return Finding(sentence, published_verdict(verdicts), verdict_figures(verdicts, rows))


def frequency_from_published(
    curves: Mapping[tuple[str, str], Sequence[float]],
    *,
    context: int,
    continuation: int,
    num_sequences: int | None = None,
    ngram: int = 1,
) -> pa.Table:
    """The sentence-level table of published curves, keyed by model and score class; no intervals, as no rows are known.

    Each curve is the mean frequency at index 0, 1, ... k + n - 1.
    """
    rows: list[dict[str, Value]] = []
    for (model, name), curve in curves.items():
        if len(curve) < context + continuation or name not in SCORE_CLASSES:
            raise ConfigError(
                f"{model}, {name}: {len(curve)} values; expected {context + continuation} or more of one of "
                f"{', '.join(SCORE_CLASSES)}"
            )
        means = sentence_means(np.asarray(curve, np.float64)[None], context, continuation)[0]
        rows.append(
            {
                **dict.fromkeys((*SENTENCE, *ends(*SENTENCE_MEANS))),
                **{"model": model, "context": context, "continuation": continuation, "group": "member"},
                **{"score_class": name, "num_matched": _num_matched(name, continuation), "ngram": ngram},
                "num_sequences": num_sequences,
                **dict(zip(SENTENCE_MEANS, means.tolist(), strict=True)),
                "note": "published curve: no rows, hence no interval and no test",
            }
        )
    return make_own_table(SENTENCE, rows, unit=UNIT)


def _num_matched(name: str, continuation: int) -> int:
    return {"memorized": continuation, "half": continuation // 2, "unmemorized": 0}[name]
