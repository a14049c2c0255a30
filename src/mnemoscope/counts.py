"""The counts of a study on disk: what the training corpus holds of the sequences that any model's traces speak of.

    counts/counts.parquet    one row per traced sequence: frequencies by index, copies, and its cluster of duplicates
    counts/counts.json       the record, written last

Made in one pass over the members' corpus, for members and control alike. Without a [counts] section the corpus is not
read, and the table has the clusters alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnemoscope.config import CountsConfig, StudyConfig
from mnemoscope.count_parts import count_in_parts
from mnemoscope.counting import SampledRows, counts_table, find_clusters, plan_counts
from mnemoscope.derived import Derived, key_of
from mnemoscope.engines import Engine, Once
from mnemoscope.errors import StoreError
from mnemoscope.store import Study, encode_table
from mnemoscope.texts import GroupText
from mnemoscope.traces import has_traces, read_traces, traced_contexts
from mnemoscope.version import __version__


class CountPlan(NamedTuple):
    """What is counted, and what it follows from."""

    derived: Derived
    rows: SampledRows
    key: str


def plan_study_counts(study: Study, config: StudyConfig) -> CountPlan | None:
    """The sequences of every model's traces, each once; None where the study has no traces."""
    if config.traces is None:
        return None
    sampled: set[tuple[str, int, int]] = set()
    for label in study.runs:
        for context in traced_contexts(config):
            if not has_traces(study.folder, label, context):
                continue
            table = read_traces(study.folder, label, context)
            names = ("group", "sequence_id", "offset")
            sampled |= set(zip(*(table[name].to_pylist() for name in names), strict=True))
    ordered = sorted(sampled, key=lambda row: (row[0] != "member", *row))
    rows = SampledRows(
        sequence_ids=np.array([sequence_id for _, sequence_id, _ in ordered], np.int64),
        groups=[group for group, _, _ in ordered],
        offsets=np.array([offset for _, _, offset in ordered], np.int64),
    )
    corpora = {group: facts.corpus for run in study.runs.values() for group, facts in run.identity.groups.items()}
    ngrams = None if config.counts is None else config.counts.ngrams
    key = key_of("counts", __version__, corpora, config.grid.window_tokens, ngrams, [list(row) for row in ordered])
    return CountPlan(counts_of(study.folder), rows, key)


def write_counts(
    plan: CountPlan,
    config: CountsConfig | None,
    texts: Once[dict[str, GroupText]],
    *,
    engine: Engine,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Count a plan's sequences and commit the table; `progress` hears of the rows read and of all rows."""
    tokens_RW = _read_windows(plan.rows, texts())
    if config is None or not len(tokens_RW):
        table = _clusters_alone(plan.rows, tokens_RW)
    else:
        sizes = [n for n in config.ngrams if n <= tokens_RW.shape[1]]
        request = plan_counts(tokens_RW, ngram_sizes=sizes)
        counts = count_in_parts(request, texts, engine=engine, progress=progress)
        table = counts_table(request, counts, plan.rows, fingerprint=plan.key)
    plan.derived.write(plan.key, [".parquet"], lambda paths: _write(paths[".parquet"], table))


def counts_of(folder: Path) -> Derived:
    """The files of a study's counts, there or not."""
    return Derived(folder / "counts", "counts")


def read_counts(folder: Path) -> pa.Table:
    """The counts table of a study; StoreError where it has none."""
    path = counts_of(folder).path(".parquet")
    if not path.is_file():
        raise StoreError(f"{path}: not there; expected a study with a [traces] section that has been run")
    return pq.read_table(path)


def _write(path: Path, table: pa.Table) -> None:
    path.write_bytes(encode_table(table))


def _read_windows(rows: SampledRows, texts: dict[str, GroupText]) -> NDArray[np.int64]:
    """The windows of the sampled rows, int64 [R, W], in their order: group by group."""
    groups = np.array(rows.groups, dtype=np.str_)
    parts = [texts[group].read(rows.sequence_ids[groups == group]).tokens for group in texts if (groups == group).any()]
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.int64)


def _clusters_alone(rows: SampledRows, tokens_RW: NDArray[np.int64]) -> pa.Table:
    """Sampled sequences with the same window share the number of the first of them."""
    cluster = find_clusters(tokens_RW) if len(tokens_RW) else np.zeros(0, np.int64)
    return pa.table(
        {
            "sequence_id": pa.array(rows.sequence_ids),
            "group": pa.array(list(rows.groups), pa.string()).dictionary_encode(),
            "offset": pa.array(rows.offsets),
            "cluster": pa.array(cluster),
        }
    )
