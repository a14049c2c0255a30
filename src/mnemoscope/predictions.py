"""The predictions of a study on disk: of which models, from what, and how they are read again.

    predictions/MODEL/kCONTEXT.parquet           a row per evaluated sequence, predictor, prior and continuation
    predictions/MODEL/kCONTEXT.json              the record, written last
    predictions/MODEL/kCONTEXT.NAME.safetensors  the weights of a predictor that can be used again, and
    predictions/MODEL/kCONTEXT.NAME.predictor.json   what it must be given; NAME is its task and kind

Predictors learn from a model's traces; what they say of sequences that they were not trained on is stored here, and the
analysis `prediction` judges it. Nothing here needs a network; fitting is in `prediction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mnemoscope.derived import Derived, key_of
from mnemoscope.errors import ConfigError
from mnemoscope.store import Run, Study, final_runs
from mnemoscope.traces import has_traces, path_tokens, traced_contexts, traces_of
from mnemoscope.version import __version__

COLUMNS: Final[dict[str, tuple[pa.DataType, str]]] = {
    "model": (pa.string(), "whose generation is predicted"),
    "trained_on": (pa.string(), "whose traces the predictor learned from; another than `model` is transfer"),
    "context": (pa.int32(), "tokens"),
    "continuation": (pa.int32(), "tokens"),
    "task": (pa.string(), "context (known before decoding) or decode (read off the generation itself)"),
    "predictor": (pa.string(), "its kind"),
    "seed": (pa.int32(), "of weights and batches"),
    "prior": (pa.string(), "balanced (each number of matches alike) or natural (design weights): what it is fit to"),
    "sequence_id": (pa.int64(), "row of the corpus, from 0"),
    "group": (pa.string(), "member or control"),
    "cluster": (pa.int64(), "sequences with the same window share it"),
    "split": (pa.string(), "test, or control: never trained on"),
    "design_weight": (pa.float64(), "sequences that this one stands for"),
    "num_matched": (pa.int32(), "matches among the first n: what is predicted"),
    "matched": (pa.list_(pa.bool_()), "per index: what is predicted"),
    "probability": (pa.list_(pa.float32()), "of a match, per index"),
    "predicted": (pa.list_(pa.bool_()), "the most probable bits, taken together"),
    "full_match_probability": (pa.float32(), "of n matches"),
    "expected_matched": (pa.float32(), "tokens"),
}
TASKS: Final = ("context", "decode")


class PredictionPlan(NamedTuple):
    """What is predicted of one model at one context."""

    derived: Derived
    run: Run
    context: int
    continuations: tuple[int, ...]
    """Those of the grid that the traced paths reach."""
    hints: dict[str, str]
    """By name, the labels of other runs whose matches are a baseline's features."""
    key: str


def plan_predictions(study: Study) -> list[PredictionPlan]:
    """The final models at each traced context; none where the study asks for no predictions.

    ConfigError for a model that is asked for and not there.
    """
    settings = study.config.prediction
    if settings is None:
        return []
    finals = {run.label: run for run in final_runs(study)}
    chosen = finals if settings.models is None else {label: _run_of(study, label) for label in settings.models}
    return [
        _plan(study, run, context, hints_of(study, run, finals))
        for run in chosen.values()
        for context in traced_contexts(study.config)
        if has_traces(study.folder, run.label, context)
    ]


def predictions_of(folder: Path, label: str, context: int) -> Derived:
    """Where the predictions of a model at a context lie."""
    return Derived(folder / "predictions" / label, f"k{context}")


def read_predictions(study: Study) -> pa.Table | None:
    """All predictions of a study, model by model; None where there are none."""
    paths = [plan.derived.path(".parquet") for plan in plan_predictions(study) if plan.derived.has(".parquet")]
    return pa.concat_tables([pq.read_table(path) for path in paths]) if paths else None


def hints_of(study: Study, run: Run, finals: Mapping[str, Run]) -> dict[str, str]:
    """Runs whose matches may tell a run's, by name: `smaller: LABEL` final models, `earlier: LABEL` checkpoints."""
    size = run.identity.model.num_non_embedding_parameters
    smaller = [other for other in finals.values() if other.identity.model.num_non_embedding_parameters < size]
    earlier = [
        other
        for other in study.runs.values()
        if other.source == run.source
        and other.training_step is not None
        and (run.training_step is None or other.training_step < run.training_step)
    ]
    return {f"smaller: {other.label}": other.label for other in smaller} | {
        f"earlier: {other.label}": other.label for other in earlier
    }


def _run_of(study: Study, label: str) -> Run:
    if label not in study.runs:
        raise ConfigError(f"prediction.models: {label!r} given; expected some of {', '.join(study.runs)}")
    return study.runs[label]


def _plan(study: Study, run: Run, context: int, hints: dict[str, str]) -> PredictionPlan:
    settings = study.config.prediction
    assert settings is not None
    continuations = tuple(n for n in study.config.continuations if n <= path_tokens(study.config))
    sources = [traces_of(study.folder, run.label, context), Derived(study.folder / "counts", "counts")]
    fingerprints = {name: study.runs[label].fingerprint for name, label in hints.items()}
    key = key_of(__version__, asdict(settings), continuations, [derived.key for derived in sources], fingerprints)
    return PredictionPlan(predictions_of(study.folder, run.label, context), run, context, continuations, hints, key)
