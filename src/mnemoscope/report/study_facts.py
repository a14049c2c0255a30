"""What is known of a study beside its results: models, texts, grid, software, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from mnemoscope.config import CorpusConfig, GradedSampleConfig, StudyConfig, StudyMode
from mnemoscope.flips import FlipRate, read_flips
from mnemoscope.identity import GroupIdentity, ModelIdentity
from mnemoscope.store import Run, Study, final_runs

__all__ = ["GroupFacts", "ModelFacts", "StudyFacts", "facts_of"]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model or checkpoint: which weights they were, and how they were run."""

    label: str
    source: str
    revision: str | None
    training_step: int | None
    num_parameters: int | None
    num_non_embedding_parameters: int
    weights_sha256: str | None
    """Hex; None where scores were imported, as are the next five."""
    config_sha256: str | None
    commit: str | None
    """The hub commit that was loaded; None for a local folder."""
    architecture: str | None
    dtype: str | None
    device: str | None
    """The device's type: cpu, cuda or mps."""
    attention: str | None
    batch_size: int
    """Sequences per pass; 0 where scores were imported."""
    fingerprint: str
    """Of everything that its stored facts follow from."""
    is_final: bool
    """Whether it is the last step of its source; intermediate checkpoints are not."""
    audit_margin: float | None = None
    """Logits below which sequences were scored again in float32; None without an audit."""
    num_audited: int | None = None
    """How many were; None while no manifest says so."""
    flips: FlipRate | None = None
    """How often it says something else than float32; None in float32, and where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """The members or the control: which sequences of which text."""

    corpus: str | None
    """The corpus's fingerprint, hex; None where scores were imported."""
    selection: str
    """The selection's fingerprint, hex."""
    num_sequences: int
    """Sequences selected, those that turned out too short included."""
    num_scored: int | None
    """Of them those in the scores; None while no manifest says so."""
    num_short: int | None
    """Of them those left out as too short; None while no manifest says so."""
    offset: int | Literal["random"] | None
    seed: int | None
    short_rows: Literal["error", "skip"] | None
    paths: tuple[str, ...]
    """As the study has them; empty where it does not say."""
    drawn: Literal["all", "sample", "listed", "imported"]
    """All rows, a random sample of them, those that a file lists, or those that imported scores are of."""
    sequences: str | None
    """That file."""
    bos: bool
    """Whether a beginning-of-sequence token was put before each document."""
    tokenizer: str | None
    """None where the corpus holds tokens, or its tokenizer is the first model's."""


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """All that a report says of a study beside its results. What only a manifest knows is None without one."""

    name: str
    models: tuple[ModelFacts, ...]
    """In the study's order; those with a run."""
    missing_models: tuple[str, ...]
    """Labels of models that the study names and that have not begun."""
    groups: Mapping[str, GroupFacts]
    contexts: tuple[int, ...]
    continuations: tuple[int, ...]
    mode: StudyMode
    graded_sample: GradedSampleConfig | None = None
    """Which sequences have match bits in mode `two-phase`; None in the others."""
    traced_contexts: tuple[int, ...]
    """Contexts whose sample was traced token by token; empty without traces, as the next two are None."""
    traced_continuation: int | None
    path_tokens: int | None
    ngrams: tuple[int, ...]
    """Lengths of the n-grams counted in the corpus; empty without counts."""
    has_traces: bool
    has_counts: bool
    has_predictions: bool
    is_complete: bool
    """Whether a manifest says that every score is there."""
    versions: Mapping[str, str]
    platform: str | None
    python: str | None
    command: str | None
    duration_seconds: float | None

    @property
    def final_models(self) -> tuple[ModelFacts, ...]:
        """The last step of each source."""
        return tuple(model for model in self.models if model.is_final)


def facts_of(study: Study, manifest: Mapping[str, Any] | None) -> StudyFacts:
    """The facts of an opened study and its manifest (None where there is none). Of the disk it only asks whether
    traces, counts and predictions are there, and how often models in half precision differ from float32.
    """
    config, provenance = study.config, (manifest or {}).get("provenance", {})
    final = {run.label for run in final_runs(study)}
    traces = config.traces
    continuation = None if traces is None else traces.continuation or config.continuations[0]
    return StudyFacts(
        name=study.folder.resolve().name,
        models=tuple(_model_facts(study, run, manifest, is_final=run.label in final) for run in study.runs.values()),
        missing_models=tuple(model.label for model in config.models if model.label not in study.runs),
        groups=_groups(study, manifest),
        contexts=config.contexts,
        continuations=config.continuations,
        mode=config.mode,
        graded_sample=config.second_phase,
        traced_contexts=() if traces is None else traces.contexts or config.contexts[:1],
        traced_continuation=continuation,
        path_tokens=None if traces is None else traces.path_tokens or continuation,
        ngrams=() if config.counts is None else config.counts.ngrams,
        has_traces=any(study.folder.glob("traces/*/*.parquet")),
        has_counts=any(study.folder.glob("counts/*.parquet")),
        has_predictions=any(study.folder.glob("predictions/*/*.parquet")),
        is_complete=manifest is not None,
        versions=provenance.get("versions") or _versions(study.runs.values()),
        platform=provenance.get("platform"),
        python=provenance.get("python"),
        command=provenance.get("command"),
        duration_seconds=provenance.get("duration_seconds"),
    )


def _versions(runs: Any) -> dict[str, str]:
    """Of the first run, where no manifest tells."""
    return next((dict(run.identity.versions) for run in runs), {})


def _model_facts(study: Study, run: Run, manifest: Mapping[str, Any] | None, *, is_final: bool) -> ModelFacts:
    model = run.identity.model
    known = model if isinstance(model, ModelIdentity) else None
    return ModelFacts(
        label=run.label,
        source=run.source,
        revision=run.revision,
        training_step=run.training_step,
        num_parameters=model.num_parameters,
        num_non_embedding_parameters=model.num_non_embedding_parameters,
        weights_sha256=known and known.weights_sha256,
        config_sha256=known and known.config_sha256,
        commit=known and known.commit,
        architecture=known and known.architecture,
        dtype=known and known.dtype,
        device=known and known.device,
        attention=known and known.attention,
        batch_size=run.identity.batch_size,
        fingerprint=run.fingerprint,
        is_final=is_final,
        audit_margin=run.identity.audit_margin,
        num_audited=_scores_of(run, manifest).get("num_audited"),
        flips=read_flips(study, run),
    )


def _scores_of(run: Run, manifest: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What the manifest says of a run's scores; nothing where it does not name them."""
    return ((manifest or {}).get("tables", {}).get("scores") or {}).get(run.label) or {}


def _groups(study: Study, manifest: Mapping[str, Any] | None) -> dict[str, GroupFacts]:
    run = next(iter(study.runs.values()), None)
    if run is None:
        return {}
    corpora = {"member": study.config.corpus, "control": study.config.control}
    return {
        group: _group_facts(study.config, identity, corpora.get(group), _count_scored(run, manifest, group))
        for group, identity in run.identity.groups.items()
    }


def _count_scored(run: Run, manifest: Mapping[str, Any] | None, group: str) -> int | None:
    """Sequences of the group in the run's shards, as the manifest lists them; None where it does not."""
    table = _scores_of(run, manifest)
    if not table:
        return None
    shards: Sequence[Mapping[str, Any]] = table["shards"]
    rows = [shard["num_rows"] for shard in shards if PurePosixPath(shard["path"]).name.startswith(f"{group}-")]
    return sum(rows) // len(run.identity.contexts)


def _group_facts(
    config: StudyConfig, identity: GroupIdentity, corpus: CorpusConfig | None, num_scored: int | None
) -> GroupFacts:
    return GroupFacts(
        corpus=identity.corpus,
        selection=identity.selection,
        num_sequences=identity.num_sequences,
        num_scored=num_scored,
        num_short=None if num_scored is None else identity.num_sequences - num_scored,
        offset=identity.offset,
        seed=identity.seed,
        short_rows=identity.short_rows,
        paths=() if corpus is None else corpus.paths,
        drawn="imported" if config.mode == "imported" or corpus is None else _how_drawn(corpus),
        sequences=None if corpus is None else corpus.sequences,
        bos=corpus is not None and corpus.bos,
        tokenizer=None if corpus is None else corpus.tokenizer,
    )


def _how_drawn(corpus: CorpusConfig) -> Literal["all", "sample", "listed"]:
    return "listed" if corpus.sequences is not None else "all" if corpus.sample is None else "sample"
