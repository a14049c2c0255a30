"""Traces and counts of a synthetic study: samples drawn from its scores as a run draws them, facts made up to agree.

Axes: R sampled sequences, W window tokens of the smallest context and continuation, D width.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.counts import plan_study_counts, write_counts
from mnemoscope.engines import Once
from mnemoscope.engines.local import LocalEngine
from mnemoscope.sampling import Sample
from mnemoscope.shards import matched_bits
from mnemoscope.store import Run, Study, encode_table, open_study, read_scores
from mnemoscope.texts import open_texts
from mnemoscope.traces import COLUMNS, TOKEN_COLUMNS, TracePlan, plan_traces

WIDTH = 8


def write_synthetic_traces(study: Study, *, seed: int) -> None:
    """Traces of every run at the study's traced contexts, then the counts of what was traced."""
    texts = open_texts(study.config)
    for run in study.runs.values():
        for plan in plan_traces(study, run, study.config):
            parts = [
                _table(study, run, plan, group, texts[group].read(sample.sequence_id).tokens, seed=seed)
                for group, sample in plan.samples.items()
            ]
            _write(plan, run, pa.concat_tables([part.unify_dictionaries() for part in parts]), seed=seed)
    counted = plan_study_counts(open_study(study.folder), study.config)
    assert counted is not None
    write_counts(counted, study.config.counts, Once(partial(open_texts, study.config)), engine=LocalEngine())


def _write(plan: TracePlan, run: Run, table: pa.Table, *, seed: int) -> None:
    metadata = {"fingerprint": run.fingerprint, "model": run.label}
    content = encode_table(table.combine_chunks().replace_schema_metadata(metadata))
    hits_R = table["num_matched"].to_numpy()[:, None, None]
    noise = np.random.default_rng([seed, 7]).normal(size=(len(table), plan.context + plan.path_tokens - 1, WIDTH))
    states = (noise + 0.3 * hits_R * np.arange(WIDTH)).astype(np.float16)

    def fill(paths) -> None:
        paths[".parquet"].write_bytes(content)
        with paths[".npy"].open("wb") as file:
            np.save(file, states)

    plan.derived.write(plan.key, [".npy", ".parquet"], fill)


def _table(
    study: Study, run: Run, plan: TracePlan, group: str, windows_RW: NDArray[np.int64], *, seed: int
) -> pa.Table:
    sample, window = plan.samples[group], plan.context + plan.path_tokens
    truth_RW, generator = windows_RW[:, :window], np.random.default_rng([seed, len(group)])
    hits_RW = generator.random(truth_RW.shape) < 0.4
    hits_RW[:, plan.context :] = _stored_hits(study, run, plan, group)
    told_RW = np.where(hits_RW, truth_RW, (truth_RW + 1 + generator.integers(0, 9, truth_RW.shape)) % 500)
    entropy_RW = generator.gamma(2, np.where(hits_RW, 0.4, 1.4))
    columns = {
        "true_token": truth_RW,
        "generated_token": told_RW,
        "entropy": entropy_RW,
        "log_probability": -entropy_RW * np.where(hits_RW, 0.2, 2),
        "rank": np.where(hits_RW, 0, 1 + generator.integers(0, 30, truth_RW.shape)),
        "margin": generator.exponential(2, truth_RW.shape) + 1e-2,
    }
    for name in ("generated_token", "rank"):
        columns[name][:, 0] = -1
    for name in ("entropy", "log_probability", "margin"):
        columns[name][:, 0] = np.nan
    scalars = _scalars(sample, group, plan.context)
    lists = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(columns[name].ravel()).cast(kind, safe=False), window)
        for name, (kind, _) in TOKEN_COLUMNS.items()
    }
    return pa.table(scalars | lists)


def _scalars(sample: Sample, group: str, context: int) -> dict[str, pa.Array]:
    size = len(sample.sequence_id)
    given = sample._asdict() | {"context": np.full(size, context), "group": np.full(size, group)}
    repeats = pa.array(sample.num_repeats, mask=sample.num_repeats < 0)
    values = {name: pa.array(given[name]) for name in COLUMNS if name != "num_repeats"} | {"num_repeats": repeats}
    return {name: values[name].cast(kind) for name, (kind, _) in COLUMNS.items()}


def _stored_hits(study: Study, run: Run, plan: TracePlan, group: str) -> NDArray[np.bool_]:
    """The match bits of the sampled sequences as the scores have them, bool [R, path_tokens]."""
    ids, bits = [], []
    for table in read_scores(study, run.label, group=group):  # pyright: ignore[reportArgumentType]
        rows = table.filter(pa.array(table["context"].to_numpy() == plan.context))
        wanted = np.isin(rows["sequence_id"].to_numpy(), plan.samples[group].sequence_id)
        ids.append(rows["sequence_id"].to_numpy()[wanted])
        bits.append(matched_bits(rows, run.identity.grid.max_continuation)[wanted, : plan.path_tokens])
    order = np.searchsorted(np.concatenate(ids), plan.samples[group].sequence_id)
    return np.concatenate(bits)[order]
