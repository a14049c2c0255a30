"""A study's stored tables -> analyses -> results on disk and as figures.

    analyses/NAME.json              finding, verdict, figures of the sentence, provenance
    analyses/NAME/TABLE.parquet     the tables behind it
    figures/FIGURE.svg, .png        drawn from them

Reads scores, traces and counts, never a model; may be run again at any time, and replaces what it wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import tee
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from mnemoscope.analyses import AnalysisResult, clusters, pairs, score_counts
from mnemoscope.analyses.clusters import SequenceClusters, clusters_of_scores
from mnemoscope.analyses.embeddings import EmbeddingSample, EmbeddingsResult, embeddings
from mnemoscope.analyses.entropy import EntropyResult, entropy
from mnemoscope.analyses.factors import FactorsResult, ModelCounts, factors
from mnemoscope.analyses.frequency import NGRAMS, FrequencyResult, frequency
from mnemoscope.analyses.matches import MatchCounts, count_matches
from mnemoscope.analyses.pairs import (
    PairCounts,
    PairedCell,
    check_comparable,
    context_cells,
    continuation_cells,
    count_pairs,
    same_cells,
)
from mnemoscope.analyses.prediction import PredictionResult, prediction
from mnemoscope.analyses.samples import TraceSample, places
from mnemoscope.analyses.score_counts import count_scores
from mnemoscope.analyses.transitions import (
    PairedRun,
    PlannedPair,
    RunPair,
    TransitionsResult,
    plan_pairs,
    transitions,
)
from mnemoscope.counts import read_counts
from mnemoscope.files import write_atomically
from mnemoscope.predictions import read_predictions
from mnemoscope.store import Run, Study, encode_table, read_scores
from mnemoscope.traces import has_traces, read_states, read_traces, traced_contexts, traced_continuation
from mnemoscope.version import __version__

FRAGILE_MARGIN: Final = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
"""Logits: a path whose smallest top-1 to top-2 margin is below this may differ on another machine or batch."""
_COUNTED: Final = ("sequence_id", "group", "context", "num_repeats", "first_mismatch", "matched", "smallest_margin")


def analyze(study: Study) -> dict[str, AnalysisResult]:
    """Every analysis that the stored tables allow, by name: those of scores, of traces where a study has them, of
    corpus frequency where it has counts, and of predictions.
    """
    duplicates = _find_duplicates(study)
    results: dict[str, AnalysisResult] = {
        "factors": factors({label: _count(study, run, duplicates) for label, run in study.runs.items()})
    }
    compared = _pairs(study, duplicates)
    if compared:
        results["transitions"] = transitions(compared)
    if study.config.traces is not None:
        results |= _analyze_traces(study)
    predicted = read_predictions(study)
    if predicted is not None and predicted.num_rows:
        results["prediction"] = prediction(predicted)
    return results


def save_findings(study: Study, results: dict[str, AnalysisResult], *, figures: bool = True) -> list[Path]:
    """Write the results and their tables into the study's folder, and draw them; the paths of the figures."""
    folder, drawn = study.folder / "analyses", list[Path]()
    for name, result in results.items():
        for table_name, table in result.tables.items():
            write_atomically(folder / name / f"{table_name}.parquet", encode_table(table))
        content = {
            "finding": result.finding.sentence,
            "verdict": result.finding.verdict,
            "figures": dict(result.finding.figures),
            "provenance": _provenance(study),
        }
        write_atomically(folder / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())
        if figures:
            drawn += _draw(of_final_models(study, result), study.folder / "figures")
    return drawn


def of_final_models(study: Study, result: AnalysisResult) -> AnalysisResult:
    """A result of traces, to be drawn or printed, without intermediate checkpoints: they would bury the sizes."""
    if not isinstance(result, FrequencyResult | EntropyResult | EmbeddingsResult):
        return result
    last: dict[str, float] = {}
    for run in study.runs.values():
        last[run.source] = max(last.get(run.source, -1.0), _step_rank(run))
    labels = [run.label for run in study.runs.values() if _step_rank(run) == last[run.source]]
    kept = {
        name: table.filter(pa.array(np.isin(table["model"].to_pylist(), labels)))
        for name, table in result.tables.items()
        if "model" in table.column_names
    }
    return replace(result, **kept)


def _step_rank(run: Run) -> float:
    return math.inf if run.training_step is None else run.training_step


def _provenance(study: Study) -> dict[str, object]:
    return {
        "mnemoscope": __version__,
        "fingerprints": {label: run.fingerprint for label, run in study.runs.items()},
        "fragile_margin_logits": {
            label: _fragile_margin(run) for label, run in study.runs.items() if run.identity.mode != "imported"
        },
    }


def _draw(result: AnalysisResult, folder: Path) -> list[Path]:
    from mnemoscope.report.curve_figures import curve_specs
    from mnemoscope.report.embedding_figures import embedding_specs
    from mnemoscope.report.figures import figure_specs, save_specs
    from mnemoscope.report.prediction_figures import prediction_specs
    from mnemoscope.report.transition_figures import transition_specs

    match result:
        case FactorsResult():
            return save_specs(figure_specs(result), folder)
        case TransitionsResult():
            return save_specs(transition_specs(result), folder)
        case FrequencyResult() | EntropyResult():
            return save_specs(curve_specs(result), folder)
        case EmbeddingsResult():
            return save_specs(embedding_specs(result), folder)
        case PredictionResult():
            return save_specs(prediction_specs(result), folder)
        case _:
            return []


def _find_duplicates(study: Study) -> dict[str, SequenceClusters] | None:
    """The clusters of duplicates by group, from the first run: the others are over the same sequences. None where
    scores were imported: their windows are unknown.
    """
    if study.config.mode == "imported":
        return None
    if not study.runs:
        return {}
    tables = read_scores(study, next(iter(study.runs)), columns=clusters.COLUMNS)
    return clusters_of_scores(tables, context=study.config.contexts[0])


def _count(study: Study, run: Run, duplicates: Mapping[str, SequenceClusters] | None) -> ModelCounts:
    identity = run.identity
    return ModelCounts(
        label=run.label,
        source=run.source,
        num_parameters=identity.model.num_parameters,
        num_non_embedding_parameters=identity.model.num_non_embedding_parameters,
        training_step=run.training_step,
        counts=_count_run(study, run, duplicates),
    )


def _count_run(study: Study, run: Run, duplicates: Mapping[str, SequenceClusters] | None) -> MatchCounts:
    grid, mode = run.identity.grid, run.identity.mode
    if mode == "imported":
        return count_scores(read_scores(study, run.label, columns=score_counts.COLUMNS), grid)
    return count_matches(
        read_scores(study, run.label, columns=_COUNTED),
        grid,
        mode,
        fragile_margin_logits=_fragile_margin(run),
        clusters=duplicates,
    )


def _fragile_margin(run: Run) -> float:
    return FRAGILE_MARGIN[run.identity.weights.dtype]


def _pairs(study: Study, duplicates: Mapping[str, SequenceClusters] | None) -> list[RunPair]:
    """The pairs of runs that are worth comparing, counted at every cell that both have; none in mode `exact`."""
    if study.config.mode == "exact":
        return []
    runs = [
        PairedRun(
            label=run.label,
            source=run.source,
            num_non_embedding_parameters=run.identity.model.num_non_embedding_parameters,
            training_step=run.training_step,
        )
        for run in study.runs.values()
    ]
    grid = study.config.grid
    cells = {"context": context_cells(grid), "continuation": continuation_cells(grid)}
    planned = [(pair, cells.get(pair.relation, same_cells(grid))) for pair in plan_pairs(runs)]
    counted = [(pair, _count_pair(study, pair, some, duplicates)) for pair, some in planned if some]
    return [RunPair(**pair._asdict(), counts=counts) for pair, counts in counted if counts.strata]


def _count_pair(
    study: Study, pair: PlannedPair, cells: Sequence[PairedCell], duplicates: Mapping[str, SequenceClusters] | None
) -> PairCounts:
    """The joint counts of two runs, or of a run with itself, whose scores are then read once."""
    one, other = study.run(pair.run_from.label), study.run(pair.run_to.label)
    check_comparable(one.identity, other.identity)
    columns = pairs.IMPORTED_COLUMNS if one.identity.mode == "imported" else pairs.COLUMNS
    tables = read_scores(study, one.label, columns=columns)
    both = tee(tables) if one == other else (tables, read_scores(study, other.label, columns=columns))
    return count_pairs(*both, grid=one.identity.grid, cells=cells, clusters=duplicates)


def _analyze_traces(study: Study) -> dict[str, AnalysisResult]:
    """The analyses of the first traced context."""
    context, continuation = traced_contexts(study.config)[0], traced_continuation(study.config)
    runs = {label: run for label, run in study.runs.items() if has_traces(study.folder, label, context)}
    if not runs:
        return {}
    tables = {label: read_traces(study.folder, label, context) for label in runs}
    samples = {
        label: TraceSample(
            label=label,
            num_non_embedding_parameters=run.identity.model.num_non_embedding_parameters,
            training_step=run.training_step,
            table=tables[label],
        )
        for label, run in runs.items()
    }
    counts = read_counts(study.folder)
    results: dict[str, AnalysisResult] = {}
    if study.config.counts is not None and set(NGRAMS) <= set(study.config.counts.ngrams):
        results["frequency"] = frequency(samples, counts, continuation=continuation)
    results["entropy"] = entropy(samples, counts, continuation=continuation)
    results["embeddings"] = embeddings(
        {
            label: _embedding_sample(study, run, tables[label], counts, context=context, continuation=continuation)
            for label, run in runs.items()
        }
    )
    return results


def _embedding_sample(
    study: Study, run: Run, table: pa.Table, counts: pa.Table, *, context: int, continuation: int
) -> EmbeddingSample:
    states = read_states(study.folder, run.label, context)
    return EmbeddingSample(
        label=run.label,
        num_non_embedding_parameters=run.identity.model.num_non_embedding_parameters,
        training_step=run.training_step,
        width=int(states.shape[2]),
        num_matched=table["num_matched"].to_numpy().astype(np.int64),
        group=np.array(table["group"].to_pylist(), dtype=np.str_),
        cluster=counts["cluster"].to_numpy()[places(table, counts, run.label)],
        design_weight=table["design_weight"].to_numpy(),
        states=states[:, context - 1 : context - 1 + continuation],
        context=context,
    )
