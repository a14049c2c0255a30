"""The predictions of a study on disk: of which models, from what, and how they are read again.

    predictions/MODEL/kCONTEXT.parquet            a row per evaluated sequence, predictor, prior and continuation
    predictions/MODEL/kCONTEXT-transfer.parquet   the same of predictors that learned from another model's traces
    predictions/MODEL/kCONTEXT.json, kCONTEXT-transfer.json    their records, written last
    predictions/MODEL/kCONTEXT/NAME.safetensors, NAME.json     predictors that can be used again

Predictors learn from a model's traces; what they say of sequences that they were not trained on is stored here, and the
analysis `prediction` judges it. Nothing here needs a network; fitting is in `prediction`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mnemoscope.config import PredictionConfig, StudyConfig
from mnemoscope.counts import read_counts
from mnemoscope.derived import Derived, key_of
from mnemoscope.errors import ConfigError
from mnemoscope.files import locked, telling_refusals
from mnemoscope.prediction.settings import PREDICTORS, TASKS, PredictionSettings
from mnemoscope.progress import Progress
from mnemoscope.store import GROUPS, Run, Study, encode_table, final_runs, outstanding_shards, read_scores, step_rank
from mnemoscope.traces import (
    has_traces,
    path_tokens,
    read_layers,
    read_states,
    read_traces,
    traced_contexts,
    traces_of,
)
from mnemoscope.version import __version__

if TYPE_CHECKING:
    from mnemoscope.prediction.examples import Examples

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
    "cluster": (pa.int64(), "sequences with the same context share it: no two of them on two sides of the split"),
    "split": (pa.string(), "test, or control: never trained on"),
    "design_weight": (pa.float64(), "sequences that this one stands for"),
    "num_matched": (pa.int32(), "matches among the first n: what is predicted"),
    "matched": (pa.list_(pa.bool_()), "per index: what is predicted"),
    "probability": (pa.list_(pa.float32()), "of a match, per index"),
    "predicted": (pa.list_(pa.bool_()), "the most probable bits, taken together"),
    "full_match_probability": (pa.float32(), "of n matches"),
    "expected_matched": (pa.float32(), "tokens"),
}
SAVED: Final = ("transformer", "transformer-facts")
"""Predictors that are kept; the others serve to judge them."""
TRANSFERRED: Final = "transformer-facts"
"""Reads no states, whose width and meaning are a model's own."""


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

    @property
    def predictors(self) -> Path:
        """The folder of the saved predictors."""
        return self.derived.folder / self.derived.stem


def predictions_schema() -> pa.Schema:
    """The columns of the predictions table, each with its unit or meaning."""
    return pa.schema([pa.field(name, kind, metadata={"unit": unit}) for name, (kind, unit) in COLUMNS.items()])


def plan_predictions(study: Study) -> list[PredictionPlan]:
    """The final models, from small to large, at each traced context; none where the study asks for no predictions.

    ConfigError for a model that is asked for and not there.
    """
    settings = study.config.prediction
    if settings is None:
        return []
    finals = {run.label: run for run in final_runs(study)}
    chosen = finals if settings.models is None else {label: _run_of(study, label) for label in settings.models}
    return [
        _plan(study, run, context, hints_of(study, run, finals))
        for run in sorted(chosen.values(), key=lambda run: run.identity.model.num_non_embedding_parameters)
        for context in traced_contexts(study.config)
        if has_traces(study.folder, run.label, context)
    ]


def hints_of(study: Study, run: Run, finals: Mapping[str, Run]) -> dict[str, str]:
    """Runs whose matches may tell a run's, by name: `smaller: LABEL` final models, `earlier: LABEL` checkpoints."""
    size = run.identity.model.num_non_embedding_parameters
    whole = [other for other in study.runs.values() if not outstanding_shards(study.folder, other)]
    smaller = [
        other for other in whole if other.label in finals and other.identity.model.num_non_embedding_parameters < size
    ]
    earlier = [
        other
        for other in whole
        if other.source == run.source and step_rank(other.training_step) < step_rank(run.training_step)
    ]
    return {f"smaller: {other.label}": other.label for other in smaller} | {
        f"earlier: {other.label}": other.label for other in earlier
    }


def read_examples(study: Study, plan: PredictionPlan) -> Examples:
    """The traced sequences of a plan's model as examples, with what other runs recited of them."""
    from mnemoscope.prediction.examples import build_examples, read_hint

    label, context = plan.run.label, plan.context
    traces = read_traces(study.folder, label, context)
    hints = {
        name: read_hint(
            {group: read_scores(study, other, group=group) for group in GROUPS if group in study.config.groups},
            traces,
            continuation=path_tokens(study.config),
            n_max=study.config.grid.max_continuation,
            name=other,
        )
        for name, other in plan.hints.items()
    }
    return build_examples(
        traces,
        read_states(study.folder, label, context),
        read_counts(study.folder),
        model=label,
        layers_RYKD=read_layers(study.folder, label, context),
        hints=hints,
    )


def settings_of(config: StudyConfig) -> PredictionSettings:
    """How predictors of a study are trained."""
    chosen = config.prediction or PredictionConfig()
    return PredictionSettings(
        predictors=chosen.predictors or tuple(PREDICTORS),
        use_frequency=chosen.use_frequency,
        use_copies=chosen.use_copies,
    )


def write_predictions(study: Study, plan: PredictionPlan, *, progress: Progress) -> None:
    """Fit every predictor of a model, save those that can be used again, and commit what they say.

    Of several processes that would, the first does, and the others wait and find it there. ConfigError where there are
    too few traced sequences to learn from.
    """
    with locked(plan.predictors):
        if not is_fitted(study, plan):
            _fit_and_save(study, plan, progress=progress)


def _fit_and_save(study: Study, plan: PredictionPlan, *, progress: Progress) -> None:
    from mnemoscope.prediction.fitting import fit_predictors
    from mnemoscope.prediction.saving import save_predictor
    from mnemoscope.prediction.stored import evaluate_predictor

    examples, settings = read_examples(study, plan), settings_of(study.config)
    assert study.config.prediction is not None
    fitted = fit_predictors(
        examples,
        seeds=range(study.config.prediction.num_seeds),
        settings=settings,
        continuations=plan.continuations,
        progress=lambda num_done, num_all: progress(f"{plan.run.label} predictors", num_done, num_all),
    )
    with telling_refusals(plan.predictors):
        plan.derived.path(".json").unlink(missing_ok=True)
        if plan.predictors.exists():
            shutil.rmtree(plan.predictors)
        plan.predictors.mkdir(parents=True)
    for one in fitted:
        if one.name in SAVED:
            save_predictor(one, predictor_path(plan, one.name, task=one.task, seed=one.seed))
    _commit(plan.derived, plan.key, [evaluate_predictor(one, examples, settings) for one in fitted])


def is_fitted(study: Study, plan: PredictionPlan) -> bool:
    """Whether a model's predictions are there, undamaged and current, and so are the predictors that are kept."""
    chosen = settings_of(study.config).predictors
    num_seeds = (study.config.prediction or PredictionConfig()).num_seeds
    saved = [
        path.with_name(path.name + suffix)
        for name in SAVED
        if name in chosen
        for task in TASKS
        for path in (predictor_path(plan, name, task=task, seed=seed) for seed in range(num_seeds))
        for suffix in (".safetensors", ".json")
    ]
    return plan.derived.is_current(plan.key) and all(path.is_file() for path in saved)


def predictor_path(plan: PredictionPlan, name: str, *, task: str, seed: int) -> Path:
    """Where a predictor is saved, without suffix."""
    return plan.predictors / f"{name}-{task}-{seed}"


def transfer_of(plan: PredictionPlan, plans: Sequence[PredictionPlan]) -> tuple[Derived, str]:
    """Where the transfer to a plan's model lies, and the key of what it follows from: the other models' predictors."""
    others = [other.key for other in plans if other.context == plan.context and other.run.label != plan.run.label]
    derived = Derived(plan.derived.folder, f"{plan.derived.stem}-transfer")
    return derived, key_of("transfer", plan.key, others)


def write_transfer(study: Study, plan: PredictionPlan, plans: Sequence[PredictionPlan]) -> None:
    """Commit what the predictors of other models, which are there, say of a model's sequences."""
    from mnemoscope.prediction.saving import load_predictor
    from mnemoscope.prediction.stored import evaluate_predictor

    assert study.config.prediction is not None
    examples, settings = read_examples(study, plan), settings_of(study.config)
    paths = [
        predictor_path(other, TRANSFERRED, task=task, seed=seed)
        for other in plans
        if other.context == plan.context and other.run.label != plan.run.label
        for task in TASKS
        for seed in range(study.config.prediction.num_seeds)
        if TRANSFERRED in settings.predictors
    ]
    derived, key = transfer_of(plan, plans)
    _commit(derived, key, [evaluate_predictor(load_predictor(path), examples, settings) for path in paths])


def predictions_of(folder: Path, label: str, context: int) -> Derived:
    """Where the predictions of a model at a context lie."""
    return Derived(folder / "predictions" / label, f"k{context}")


def current_predictions(study: Study) -> list[Derived]:
    """The sets of predictions that follow from what a study now holds, model by model from small to large."""
    plans = [plan for plan in plan_predictions(study) if plan.derived.key == plan.key]
    sets = [pair for plan in plans for pair in ((plan.derived, plan.key), transfer_of(plan, plans))]
    return [derived for derived, key in sets if derived.key == key]


def read_predictions(study: Study) -> pa.Table | None:
    """All predictions that follow from what a study now holds, model by model from small to large; None without any."""
    tables = [pq.read_table(derived.path(".parquet")) for derived in current_predictions(study)]
    return pa.concat_tables(tables) if tables else None


def _commit(derived: Derived, key: str, tables: Sequence[pa.Table]) -> None:
    table = pa.concat_tables([predictions_schema().empty_table(), *tables])
    derived.write(key, [".parquet"], lambda paths: _write(paths[".parquet"], table))


def _write(path: Path, table: pa.Table) -> None:
    path.write_bytes(encode_table(table))


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
