"""Scores that were computed elsewhere -> runs of a study, so that they enter factors and transitions.

Of each sequence only num_matched is known, at the contexts and continuations for which there is a file. Everything
else that scores hold (first mismatch, match bits, margins, log-probabilities, the window) is null, and the mode of
the study is `imported`. All files are read and checked before anything is written.

Axes: S sequences, C contexts, N continuations.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.config import CorpusConfig, Grid, StudyConfig
from mnemoscope.errors import ConfigError
from mnemoscope.files import remove_abandoned, telling_refusals
from mnemoscope.identity import GroupIdentity, ImportedModel, RunIdentity
from mnemoscope.manifest import remove_manifest, write_manifest
from mnemoscope.progress import Progress
from mnemoscope.score_cells import CellScores, Join, ScoredModel, find_cells, read_cells
from mnemoscope.score_files import IntArray, hash_arrays
from mnemoscope.shards import SCORES_FORMAT, UNITS, ShardRange, scores_schema
from mnemoscope.store import (
    Group,
    Run,
    Study,
    begin_run,
    check_run,
    commit_shard,
    find_damage,
    open_study,
    outstanding_shards,
    register_models,
    run_folder,
    set_aside,
    study_lock,
)
from mnemoscope.version import __version__

SHARD_ROWS: Final = 1 << 16
NUM_MATCHED_UNIT: Final = "tokens, per continuation: matches among its first n; null where no file says"
PYTHIA_PARAMETERS: Final = {
    "70m": (70_426_624, 18_915_328),
    "160m": (162_322_944, 85_056_000),
    "410m": (405_334_016, 302_311_424),
    "1b": (1_011_781_632, 805_736_448),
    "1.4b": (1_414_647_808, 1_208_602_624),
    "2.8b": (2_775_208_960, 2_517_652_480),
    "6.9b": (6_857_302_016, 6_444_163_072),
    "12b": (11_846_072_320, 11_327_027_200),
}
"""Parameters, and those outside the embeddings (Biderman et al. 2023, arXiv 2304.01373, table 1)."""
_PYTHIA: Final = re.compile(r"(?:pythia-)?(\d+(?:\.\d+)?[mb])(?:-deduped)?(?:-v0)?")


def import_scores(
    files: Sequence[str],
    folder: Path | str,
    *,
    control: Sequence[str] = (),
    parameters: Mapping[str, int] | None = None,
    join: Join = "same",
    progress: Progress | None = None,
    command: str = "",
) -> Study:
    """The study in `folder` with a run for each model that the files tell of, the members' and the `control`'s.

    `parameters` are the models' numbers of parameters outside the embeddings, by the name that the files' names have.
    join `same` refuses files that do not tell of the same sequences; `inner` takes the sequences that all have.
    Raises ConfigError and CorpusError, before anything is written, for files that cannot be meant or read; StoreError
    for a folder that holds other scores.
    """
    began, folder = time.monotonic(), Path(folder)
    sources = find_cells({"member": files, "control": control})
    models = list(dict.fromkeys(cell.model for cell in sources))
    sizes = _sizes(models, parameters or {})
    with tempfile.TemporaryDirectory(prefix="mnemoscope-") as spool:
        with telling_refusals(Path(spool)):
            scores = read_cells(sources, Path(spool), join, progress or _say_nothing)
        config = _study_config(models, scores)
        runs = {model: _describe_run(model, config, scores, sizes[model]) for model in models}
        for run in runs.values():
            check_run(folder, run)
        _begin(folder, config, list(runs.values()))
        for model, run in runs.items():
            _write_run(folder, model, run, scores, progress or _say_nothing)
    with study_lock(folder):
        study = open_study(folder)
        write_manifest(study, command=command, duration_seconds=time.monotonic() - began)
    return study


def _sizes(models: Sequence[ScoredModel], parameters: Mapping[str, int]) -> dict[ScoredModel, tuple[int | None, int]]:
    """Parameters, and those outside the embeddings; ConfigError where nobody knows them."""
    alien = sorted(set(parameters) - {model.name for model in models})
    if alien:
        names = ", ".join(sorted({model.name for model in models}))
        raise ConfigError(f"parameters: {alien[0]!r} given; expected one of {names}, as the files' names have it")
    sizes: dict[ScoredModel, tuple[int | None, int]] = {}
    for model in models:
        pythia = _PYTHIA.fullmatch(model.name.lower())
        size = parameters.get(model.name)
        if size is not None and size < 1:
            raise ConfigError(f"parameters: {size} given for {model.name}; expected 1 or more")
        if size is not None:
            sizes[model] = None, size
        elif pythia is not None and pythia.group(1) in PYTHIA_PARAMETERS:
            sizes[model] = PYTHIA_PARAMETERS[pythia.group(1)]
        else:
            raise ConfigError(
                f"{model.name}: its size is not known from its name; expected a Pythia model such as 70m-deduped-v0, "
                f"or its parameters outside the embeddings: --parameters {model.name}=COUNT"
            )
    return sizes


def _study_config(models: Sequence[ScoredModel], scores: CellScores) -> StudyConfig:
    """The study that stands in study.toml: of the corpora nothing is known."""
    return StudyConfig(
        models=tuple(model.config for model in models),
        corpus=CorpusConfig(path=()),
        control=CorpusConfig(path=()) if "control" in scores.sequence_ids else None,
        contexts=tuple(sorted({cell.context for cell in scores.files})),
        continuations=tuple(sorted({cell.continuation for cell in scores.files})),
        mode="imported",
        shard_rows=SHARD_ROWS,
    )


def _describe_run(model: ScoredModel, config: StudyConfig, scores: CellScores, size: tuple[int | None, int]) -> Run:
    own = {cell.key: file.sha256 for cell, file in scores.files.items() if cell.model == model}
    identity = RunIdentity(
        model=ImportedModel(num_parameters=size[0], num_non_embedding_parameters=size[1], scores_sha256=own),
        groups={group: _identify(ids) for group, ids in scores.sequence_ids.items()},
        contexts=config.contexts,
        continuations=config.continuations,
        mode="imported",
        batch_size=0,
        shard_rows=config.shard_rows,
        versions={"mnemoscope": __version__, "scores": str(SCORES_FORMAT)},
    )
    return Run(
        label=model.config.label,
        source=model.name,
        revision=model.config.revision,
        training_step=model.step,
        identity=identity,
        fingerprint=identity.fingerprint,
    )


def _identify(sequence_ids: IntArray) -> GroupIdentity:
    return GroupIdentity(
        corpus=None,
        selection=hash_arrays(sequence_ids),
        num_sequences=len(sequence_ids),
        offset=None,
        seed=None,
        short_rows=None,
    )


def _begin(folder: Path, config: StudyConfig, runs: Sequence[Run]) -> None:
    with study_lock(folder):
        remove_manifest(folder)
        register_models(
            folder, config, replacing=[run.label for run in runs], before_change=lambda: remove_manifest(folder)
        )
        for run in runs:
            begin_run(folder, run)
            remove_abandoned(run_folder(folder, run.label))
            for damage in find_damage(folder, run):
                set_aside(folder, run, damage.shard)


def _write_run(folder: Path, model: ScoredModel, run: Run, scores: CellScores, progress: Progress) -> None:
    """Commit the shards that are not there yet."""
    schema = imported_schema(run)
    num_sequences = sum(group.num_sequences for group in run.identity.groups.values())
    outstanding = outstanding_shards(folder, run)
    num_done = num_sequences - sum(shard.stop - shard.start for shard in outstanding)
    for shard in outstanding:
        commit_shard(folder, run, shard, _shard_table(model, shard, run, scores, schema), num_short=0)
        num_done += shard.stop - shard.start
        progress(run.label, num_done, num_sequences)


def imported_schema(run: Run) -> pa.Schema:
    """The columns of scores, with null for what is unknown, and `num_matched`."""
    grid = run.identity.grid
    known = scores_schema(grid, mode="imported", label=run.label, fingerprint=run.fingerprint)
    told = ("sequence_id", "group", "context")
    columns = [field if field.name in told else field.with_nullable(True) for field in known]
    kind = pa.list_(pa.field("element", pa.int32()), len(grid.continuations))
    units = json.dumps(UNITS | {"num_matched": NUM_MATCHED_UNIT}, ensure_ascii=False)
    columns.append(pa.field("num_matched", kind, nullable=False))
    return pa.schema(columns, {**(known.metadata or {}), "units": units})


def _shard_table(model: ScoredModel, shard: ShardRange, run: Run, scores: CellScores, schema: pa.Schema) -> pa.Table:
    """One row per sequence and context, contexts of a sequence together."""
    grid, ids_S = run.identity.grid, _ids_of(scores, shard)
    matched = _num_matched(model, shard, grid, scores).reshape(-1)
    size = len(ids_S) * len(grid.contexts)
    columns: dict[str, pa.Array] = {field.name: pa.nulls(size, field.type) for field in schema}
    columns |= {
        "sequence_id": pa.array(np.repeat(ids_S, len(grid.contexts))),
        "group": pa.DictionaryArray.from_arrays(np.zeros(size, np.int32), pa.array([shard.group])),
        "context": pa.array(np.tile(np.array(grid.contexts, np.int32), len(ids_S))),
        "num_matched": pa.FixedSizeListArray.from_arrays(
            pa.array(matched, mask=matched < 0), type=schema.field("num_matched").type
        ),
    }
    return pa.table(columns, schema=schema)


def _num_matched(model: ScoredModel, shard: ShardRange, grid: Grid, scores: CellScores) -> NDArray[np.int32]:
    """int32 [S, C, N]; -1 where no file says."""
    ids_S = _ids_of(scores, shard)
    matched_SCN = np.full((len(ids_S), len(grid.contexts), len(grid.continuations)), -1, np.int32)
    for cell, file in scores.files.items():
        if cell.model != model or cell.group != shard.group:
            continue
        is_same = file.sequence_ids is scores.sequence_ids[cell.group]
        rows = slice(shard.start, shard.stop) if is_same else np.searchsorted(file.sequence_ids, ids_S)
        place = grid.contexts.index(cell.context), grid.continuations.index(cell.continuation)
        matched_SCN[:, *place] = file.num_matched[rows]
    return matched_SCN


def _ids_of(scores: CellScores, shard: ShardRange) -> IntArray:
    group: Group = "control" if shard.group == "control" else "member"
    return np.asarray(scores.sequence_ids[group][shard.start : shard.stop])


def _say_nothing(label: str, num_done: int, num_sequences: int) -> None:
    """Nobody asked."""
