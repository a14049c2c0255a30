"""Scores of mode `graded` as mode `two-phase` would have stored them: the same facts, fewer match bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from mnemoscope.config import GradedSampleConfig, Grid
from mnemoscope.graded_sample import draw_graded
from mnemoscope.manifest import write_manifest
from mnemoscope.shards import scores_schema
from mnemoscope.store import Study, begin_run, commit_shard, open_study, read_scores, register_models, study_lock


def thin_table(table: pa.Table, grid: Grid, settings: GradedSampleConfig, *, schema: pa.Schema | None = None):
    """One group's table with the match bits of the second phase alone."""
    num_contexts = len(grid.contexts)
    group = table.column("group").cast(pa.string())[0].as_py()
    ids = table.column("sequence_id").to_numpy()[::num_contexts]
    first_RC = table.column("first_mismatch").to_numpy().reshape(-1, num_contexts)
    drawn = draw_graded(ids, first_RC, group=group, grid=grid, settings=settings)
    bits: list[bytes | None] = table.column("matched").to_pylist()
    kept = [
        own if is_kept else None for own, is_kept in zip(bits, np.repeat(drawn.is_graded_R, num_contexts), strict=True)
    ]
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    columns["matched"] = pa.array(kept, table.schema.field("matched").type)
    columns["inclusion_probability"] = pa.array(np.repeat(drawn.probability_R, num_contexts))
    schema = schema or scores_schema(grid, mode="two-phase", label="m", fingerprint="f")
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def thin_tables(study: Study, label: str, settings: GradedSampleConfig) -> Iterator[pa.Table]:
    """A graded run's scores, shard by shard."""
    grid = study.run(label).identity.grid
    return (thin_table(table, grid, settings) for table in read_scores(study, label))


def thin_study(study: Study, folder: Path, settings: GradedSampleConfig) -> Study:
    """A complete two-phase study of the same scores in `folder`; without traces."""
    config = replace(study.config, mode="two-phase", graded_sample=settings, traces=None, counts=None)
    runs = []
    for run in study.runs.values():
        identity = replace(run.identity, mode="two-phase", graded_sample=settings)
        runs.append(replace(run, identity=identity, fingerprint=identity.fingerprint))
    folder.mkdir(exist_ok=True)
    with study_lock(folder):
        register_models(folder, config, replacing=[run.label for run in runs], before_change=lambda: None)
        for run in runs:
            begin_run(folder, run)
    for run in runs:
        grid = run.identity.grid
        schema = scores_schema(grid, mode="two-phase", label=run.label, fingerprint=run.fingerprint)
        for shard, table in zip(run.shards, read_scores(study, run.label), strict=True):
            commit_shard(folder, run, shard, thin_table(table, grid, settings, schema=schema), num_short=0)
    thinned = open_study(folder)
    write_manifest(thinned, command="synthetic", duration_seconds=1.0)
    return thinned
