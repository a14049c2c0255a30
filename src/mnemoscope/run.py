"""What is still to do of a study -> an engine -> the store. Resumes what a killed run has left.

Everything that can be refused is refused before anything is written. What a shard holds depends on the run's
identity and its own range alone, so a study that was killed and finished is the same, bit for bit (but for the last
digits of floats where another number of threads added them up: `engines.processes` divides the cores among workers;
or where memory ran out in one of the runs and its batches were halved, which is logged).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mnemoscope.config import ModelConfig, StudyConfig
from mnemoscope.counts import plan_study_counts, write_counts
from mnemoscope.engines import Engine, Once
from mnemoscope.engines.local import LocalEngine
from mnemoscope.errors import ConfigError
from mnemoscope.files import locked, remove_abandoned
from mnemoscope.flip_measuring import measure_flips
from mnemoscope.flips import has_flips, is_half
from mnemoscope.identity import ModelIdentity, RunIdentity
from mnemoscope.manifest import remove_manifest, write_manifest
from mnemoscope.mirror import InPlace, Mirror, workplace
from mnemoscope.predictions import (
    PredictionPlan,
    is_fitted,
    plan_predictions,
    transfer_of,
    write_predictions,
    write_transfer,
)
from mnemoscope.progress import Progress
from mnemoscope.refusals import check_logits, check_sources, check_tokenizer, check_traceable
from mnemoscope.rescoring import check_room, in_float32
from mnemoscope.scorer import ScorerFactory, let_go
from mnemoscope.shards import SCORES_FORMAT, Part, ShardRange
from mnemoscope.storage import Storage
from mnemoscope.store import (
    Run,
    Study,
    begin_run,
    check_run,
    find_damage,
    open_study,
    outstanding_shards,
    read_run,
    read_study,
    register_models,
    run_folder,
    set_damage_aside,
    study_lock,
)
from mnemoscope.study_file import resolve_paths
from mnemoscope.texts import GroupText, check_fit, open_texts
from mnemoscope.traces import plan_traces, write_traces
from mnemoscope.version import __version__

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM

_log = logging.getLogger(__name__)


def run_study(
    config: StudyConfig,
    folder: Path | str,
    *,
    engine: Engine | None = None,
    progress: Progress | None = None,
    part: Part | None = None,
    command: str = "",
) -> Study:
    """The study in `folder`, or at an address given as text, complete: what it lacks is scored, what is there stays.

    Models are added to those of a study that lies there. Relative paths are taken from the working directory.
    With `part` only its shards are scored, so that other processes, on any machine that sees the place, score the
    others at any time; whoever finds all of them scored goes on as without, while the rest return an unfinished study.
    Raises StoreError for a place of another run, and what the corpora and models raise. `command` is recorded.
    """
    began, work = time.monotonic(), workplace(folder)
    config = resolve_paths(config, Path.cwd())
    check_sources(config)
    first = (read_study(work.storage) or config).models
    texts = Once(partial(open_texts, config, first_model=first[0]))
    job = _Job(config, texts, work, engine or LocalEngine(), progress or _say_nothing, part)
    if part is not None:
        for model in config.models:
            _run_part(job, model)
        if not _is_scored(job):
            return work.study()
        job = job._replace(part=None)
    # Of several that find all parts scored the first goes on, and the others find everything done.
    with work.held(), nullcontext() if part is None else locked(work.folder / "finishing"):
        for model in config.models:
            _run_model(job, model)
        for _ in range(work.num_rounds):
            if work.num_rounds > 1:
                _register(job, *(model.label for model in config.models))
            work.pull()
            _count(job)
            _predict(job)
            work.push()
        with study_lock(work.storage):
            study = work.study()
            if not write_manifest(study, command=command, duration_seconds=time.monotonic() - began):
                _log.warning("%s: models of its study.toml are not complete; no manifest is written", study.place)
        work.push()
    return study


class _Job(NamedTuple):
    """What all models of a call share."""

    config: StudyConfig
    texts: Once[dict[str, GroupText]]
    work: Mirror | InPlace
    engine: Engine
    progress: Progress
    part: Part | None

    @property
    def folder(self) -> Path:
        """Where everything but scores is made."""
        return self.work.folder

    @property
    def storage(self) -> Storage:
        """Where the scores lie."""
        return self.work.storage


def _run_part(job: _Job, model_config: ModelConfig) -> None:
    """Score what a part of one model's run lacks; the model is not even loaded where that is nothing."""
    run, load = read_run(job.storage, model_config.label), Once(partial(_load, model_config))
    if run is not None and not _own_tasks(job, run):
        return
    run = _begin(job, model_config, run, load())
    _remove_leftovers(job.folder, run)
    _score(job, run, load)


def _own_tasks(job: _Job, run: Run) -> list[ShardRange]:
    """The shards that are still to be scored, those of the job's part where it has one."""
    tasks = outstanding_shards(job.storage, run)
    own = frozenset(tasks if job.part is None else job.part.of_plan(run.shards))
    return [shard for shard in tasks if shard in own]


def _is_scored(job: _Job) -> bool:
    """Whether every shard of every model is there, whoever scored it."""
    runs = [read_run(job.storage, model.label) for model in job.config.models]
    return all(run is not None and not outstanding_shards(job.storage, run) for run in runs)


def _run_model(job: _Job, model_config: ModelConfig) -> None:
    """Score and trace what one model's run lacks; the model is not even loaded where that is nothing."""
    load = Once(partial(_load, model_config))
    width = Once(partial(_traced_width, job, load))
    run = read_run(job.storage, model_config.label)
    if run is not None and _is_finished(job, model_config, run):
        _remove_leftovers(job.folder, run)
        with study_lock(job.storage):
            _register(job, model_config.label)
    else:
        run = _begin(job, model_config, run, load())
        if job.config.traces is not None:
            width()  # now, for the engine may let go of the model
        _remove_leftovers(job.folder, run)
        set_damage_aside(job.storage, run, before_change=lambda: remove_manifest(job.storage))
        _score(job, run, load)
    _trace(job, run, load, width)
    _measure_flips(job, run, model_config, load)


def _begin(job: _Job, model_config: ModelConfig, there: Run | None, model: CausalLM) -> Run:
    """The run, begun or taken up; refused before anything is written where model, texts or folder do not fit."""
    is_audited = model_config.audit_margin is not None
    run = _describe_run(job, model_config, model.identity, _batch_size(job, model, there, with_audit=is_audited))
    check_run(job.storage, run)
    if there is None:
        for text in job.texts().values():
            check_fit(text, run.identity.weights, label=run.label)
            check_logits(text, run, model)
            check_tokenizer(text, model_config)
        check_traceable(job.config, model)
        if is_audited:
            check_room(model.identity, model.device, label=run.label)
    with study_lock(job.storage):  # another process that adds a model forgets those that have not begun
        remove_manifest(job.storage)
        _register(job, run.label)
        begin_run(job.storage, run)
        if not job.storage.has_locks:
            _register(job, run.label)
    return run


def _register(job: _Job, *labels: str) -> None:
    """Enter models into study.toml; the manifest does not outlive what it was written for."""
    register_models(job.storage, job.config, replacing=labels, before_change=lambda: remove_manifest(job.storage))


def _is_finished(job: _Job, model: ModelConfig, there: Run) -> bool:
    """Whether a run is whole and is the one asked for; decided by the weights' hash, without building a network."""
    from mnemoscope.model import FileHashes, find_files, hash_files

    stored = there.identity.weights
    batch_size = there.identity.batch_size if job.config.batch_size == "auto" else job.config.batch_size
    run = _describe_run(job, model, stored, batch_size)
    if run != there or stored.dtype != model.dtype:
        return False
    if model.device not in ("auto", stored.device) or not _is_same_attention(job.storage, model, stored):
        return False
    if outstanding_shards(job.storage, there) or find_damage(job.storage, there):
        return False
    folder = find_files(model)
    hashes = FileHashes(stored.weights_sha256, stored.config_sha256)
    return folder is not None and hash_files(folder, with_code=model.remote_code) == hashes


def _is_same_attention(storage: Storage, model: ModelConfig, stored: ModelIdentity) -> bool:
    """Whether the attention asked for is the stored one; the default, which only the network knows, where it was asked
    for then, too.
    """
    if model.attention is not None:
        return model.attention == stored.attention
    registered = read_study(storage)
    models = () if registered is None else registered.models
    return any(each.label == model.label and each.attention is None for each in models)


def _traced_width(job: _Job, load: Once[CausalLM]) -> int:
    """The width of the states that a model's traces hold; ModelError where it cannot be traced."""
    check_traceable(job.config, load())
    return int(load().network.get_output_embeddings().weight.shape[1])


def _load(config: ModelConfig) -> CausalLM:
    from mnemoscope.model import load_model

    return load_model(config)


def _batch_size(job: _Job, model: CausalLM, there: Run | None, *, with_audit: bool) -> int:
    """As the study says, or as the run began; chosen from free memory only for a new run."""
    from mnemoscope.memory import choose_batch_size

    if job.config.batch_size != "auto":
        return job.config.batch_size
    if there is not None:
        return there.identity.batch_size
    sharing = job.engine.workers_per_device(model.device.type)
    return choose_batch_size(model, job.config.grid, job.config.scoring_mode, sharing, with_audit=with_audit)


def _describe_run(job: _Job, model: ModelConfig, identity: ModelIdentity, batch_size: int) -> Run:
    config = job.config
    run = RunIdentity(
        model=identity,
        groups={group: text.identity for group, text in job.texts().items()},
        contexts=config.contexts,
        continuations=config.continuations,
        mode=config.mode,
        batch_size=batch_size,
        shard_rows=config.shard_rows,
        versions={"mnemoscope": __version__, "scores": str(SCORES_FORMAT)}
        | {name: version(name) for name in ("torch", "transformers")},
        graded_sample=config.second_phase,
        audit_margin=model.audit_margin,
    )
    return Run(
        label=model.label,
        source=model.source,
        revision=model.revision,
        training_step=model.training_step,
        identity=run,
        fingerprint=run.fingerprint,
    )


def _remove_leftovers(folder: Path, run: Run) -> None:
    """Remove the temporary files of dead runs."""
    kept = (run_folder(folder, run.label), *(folder / name / run.label for name in ("traces", "flips", "predictions")))
    for each in (folder, *kept, folder / "counts", folder / "analyses", folder / "figures"):
        remove_abandoned(each)


def _score(job: _Job, run: Run, load: Once[CausalLM]) -> None:
    tasks = _own_tasks(job, run)
    shards = run.shards if job.part is None else job.part.of_plan(run.shards)
    num_sequences = sum(shard.stop - shard.start for shard in shards)
    num_done = num_sequences - sum(shard.stop - shard.start for shard in tasks)
    begun = Counter[ShardRange]()

    def tell(shard: ShardRange, num_scored: int) -> None:
        begun[shard] += num_scored
        job.progress(run.label, num_done + begun.total(), num_sequences)

    job.progress(run.label, num_done, num_sequences)
    audited = next(model for model in job.config.models if model.label == run.label)
    reference = None if run.identity.audit_margin is None else Once(partial(_load, in_float32(audited)))
    make_scorer = ScorerFactory(run=run, model=load, texts=job.texts, folder=job.storage, reference=reference)
    for record in job.engine.run(tasks, make_scorer, tell):
        num_done += record.stop - record.start
        tell(record.shard, -begun[record.shard])
    if reference is not None:
        let_go(reference)


def _trace(job: _Job, run: Run, load: Once[CausalLM], width: Once[int]) -> None:
    """Trace the samples that are not there yet, or that follow from other scores or settings than these."""
    if job.config.traces is None:
        return
    job.work.pull(run.label)
    plans = plan_traces(open_study(job.folder), run, job.config)
    for plan in plans:
        if plan.derived.is_current(plan.key):
            continue
        remove_manifest(job.folder)
        name = f"{run.label} traces, k = {plan.context}"
        num_sequences = sum(len(sample.sequence_id) for sample in plan.samples.values())
        num_done = 0

        def tell(num_traced: int, name: str = name, num_sequences: int = num_sequences) -> None:
            nonlocal num_done
            num_done += num_traced
            job.progress(name, num_done, num_sequences)

        write_traces(plan, run, load, job.texts, width=width(), engine=job.engine, progress=tell)
    job.work.push()


def _measure_flips(job: _Job, run: Run, model: ModelConfig, load: Once[CausalLM]) -> None:
    """Compare a run in half precision with float32, unless that is done."""
    if not is_half(run):
        return
    job.work.pull(run.label)
    study, tell = open_study(job.folder), partial(job.progress, f"{run.label} in float32")
    if study.config.flip_sample and not has_flips(study, run):
        let_go(load)
        remove_manifest(job.folder)
        measure_flips(study, run, model, job.texts(), load=_load, progress=tell)
        job.work.push()


def _count(job: _Job) -> None:
    """Count the traced sequences of all models in the corpus, unless that is done."""
    study = open_study(job.folder)
    plan = plan_study_counts(study, study.config)
    if plan is None or plan.derived.is_current(plan.key):
        return
    remove_manifest(job.folder)
    write_counts(
        plan,
        study.config.counts,
        job.texts,
        engine=job.engine,
        progress=lambda num_read, num_rows: job.progress("counts, rows of the corpus", num_read, num_rows),
    )


def _predict(job: _Job) -> None:
    """Fit predictors to the traces of each final model, and try each model's on the others, unless that is done."""
    study = open_study(job.folder)
    plans = [plan for plan in plan_predictions(study) if _is_fitted(job, study, plan)]
    for plan in plans:
        derived, key = transfer_of(plan, plans)
        if len(plans) > 1 and not derived.is_current(key):
            remove_manifest(job.folder)
            write_transfer(study, plan, plans)


def _is_fitted(job: _Job, study: Study, plan: PredictionPlan) -> bool:
    """Whether a model's predictors are there, now; said and left out where it has too few sequences to learn from."""
    if is_fitted(study, plan):
        return True
    remove_manifest(job.folder)
    try:
        write_predictions(study, plan, progress=job.progress)
    except ConfigError as error:
        _log.warning("%s, k = %d: no predictions: %s", plan.run.label, plan.context, error)
        return False
    return True


def _say_nothing(label: str, num_done: int, num_sequences: int) -> None:
    """Nobody asked."""
