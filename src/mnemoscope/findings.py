"""A study's stored tables -> analyses -> results on disk (`stored_findings`) and as figures.

    figures/FIGURE.svg, .pdf, .png    drawn from the results, each from one description

Reads scores, traces and counts, never a model; may be run again at any time, and replaces what it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import tee
from pathlib import Path
from typing import Any, Final

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
from mnemoscope.mirror import publish
from mnemoscope.predictions import read_predictions
from mnemoscope.store import Run, Study, final_runs, read_scores
from mnemoscope.stored_findings import fragile_margin, write_findings
from mnemoscope.stored_findings import read_findings as read_findings  # noqa: PLC0414  (offered here too)
from mnemoscope.traces import has_traces, read_states, read_traces, traced_contexts, traced_continuation

Spec = dict[str, Any]
"""A figure as Vega-Lite describes it."""
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
    """Write the results and their tables into the study's folder, and draw them; the paths of the figures.

    Those of a study at an address are in its mirror, and put there.
    """
    write_findings(study, results)
    paths: list[Path] = []
    if figures:
        from mnemoscope.report.drawing import save_specs  # drawing is heavy

        specs = all_specs(study, results)
        named = {name: spec for some in specs.values() for name, spec in some.items()}
        paths = save_specs(named, study.folder / "figures")
    publish(study)
    return paths


def all_specs(study: Study, results: Mapping[str, AnalysisResult]) -> dict[str, dict[str, Spec]]:
    """By analysis, the Vega-Lite description of each figure that its result has data for, by name."""
    return {name: specs_of(of_final_models(study, result)) for name, result in results.items()}


def of_final_models(study: Study, result: AnalysisResult) -> AnalysisResult:
    """A result of traces, to be drawn or printed, without intermediate checkpoints: they would bury the sizes."""
    if not isinstance(result, FrequencyResult | EntropyResult | EmbeddingsResult):
        return result
    labels = [run.label for run in final_runs(study)]
    kept = {
        name: table.filter(pa.array(np.isin(table["model"].to_pylist(), labels)))
        for name, table in result.tables.items()
        if "model" in table.column_names
    }
    return replace(result, **kept)


def specs_of(result: AnalysisResult) -> dict[str, Spec]:
    """The Vega-Lite description of each figure that a result has data for, by name."""
    from mnemoscope.report.curve_figures import curve_specs
    from mnemoscope.report.embedding_figures import embedding_specs
    from mnemoscope.report.figures import figure_specs
    from mnemoscope.report.prediction_figures import prediction_specs
    from mnemoscope.report.transition_figures import transition_specs

    match result:
        case FactorsResult():
            return figure_specs(result)
        case TransitionsResult():
            return transition_specs(result)
        case FrequencyResult() | EntropyResult():
            return curve_specs(result)
        case EmbeddingsResult():
            return embedding_specs(result)
        case PredictionResult():
            return prediction_specs(result)
        case _:
            return {}


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
    settings = run.identity.graded_sample
    return count_matches(
        read_scores(study, run.label, columns=_COUNTED + (() if settings is None else ("inclusion_probability",))),
        grid,
        mode,
        fragile_margin_logits=fragile_margin(run),
        clusters=duplicates,
        probabilities=() if settings is None else settings.probabilities,
    )


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
    settings = one.identity.graded_sample
    columns = columns if settings is None else (*columns, "inclusion_probability")
    probabilities = () if settings is None else settings.probabilities
    tables = read_scores(study, one.label, columns=columns)
    both = tee(tables) if one == other else (tables, read_scores(study, other.label, columns=columns))
    return count_pairs(*both, grid=one.identity.grid, cells=cells, clusters=duplicates, probabilities=probabilities)


def _analyze_traces(study: Study) -> dict[str, AnalysisResult]:
    """The analyses of the first traced context."""
    context, continuation = traced_contexts(study.config)[0], traced_continuation(study.config)
    traced = (label for label in study.runs if has_traces(study.folder, label, context))
    tables = {label: read_traces(study.folder, label, context) for label in traced}
    # Nothing is traced of a model of which no score is known, as where nobody is graded of what it leaves open.
    runs = {label: study.run(label) for label, table in tables.items() if table.num_rows}
    if not runs:
        return {}
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
