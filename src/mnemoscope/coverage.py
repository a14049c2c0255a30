"""The audit that each selected sequence stands in the scores once per context, and nothing else does.

It reads every stored row and the selection anew; what the commits claim is not taken for granted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnemoscope.derived import Derived, find_derived
from mnemoscope.errors import StoreError
from mnemoscope.shards import ShardRange
from mnemoscope.store import Run, Study, outstanding_shards, read_shard, run_folder
from mnemoscope.texts import GroupText, open_texts
from mnemoscope.traces import traced_contexts, traces_of


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Counts of rows, a row being a sequence at a context."""

    num_sequences: int
    """Sequences selected."""
    num_short: int
    """Sequences absent at every context whose rows are truly shorter than the window."""
    num_expected: int
    """Rows that there should be: the selected sequences that are long enough, x contexts."""
    num_missing: int
    num_doubled: int
    """Rows beyond the first of a sequence and context."""
    num_alien: int
    """Rows of sequences outside the shard's range, of contexts or groups that are not the run's, or in table
    files that belong to no shard."""

    @property
    def is_complete(self) -> bool:
        """Whether each expected row is there once and no other row is."""
        return self.num_missing == self.num_doubled == self.num_alien == 0

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


_NOTHING = Coverage(num_sequences=0, num_short=0, num_expected=0, num_missing=0, num_doubled=0, num_alien=0)


def audit_coverage(study: Study, label: str) -> Coverage:
    """What the scores of a model hold against what was selected; opens the corpora. Constant memory.

    Imported scores have no corpus: they are held against the sequences that the run's identity names by their hash.
    """
    run = study.run(label)
    if run.identity.mode == "imported":
        return _audit_import(study, run)
    texts = open_texts(study.config)
    missing = set(outstanding_shards(study.folder, run))
    total = _count_strays(study.folder, run)
    for shard in run.shards:
        rows = None if shard in missing else _read_rows(study.folder, run, shard)
        total += audit_shard(texts[shard.group], shard, rows, contexts=run.identity.contexts)
    return total


def find_derived_faults(study: Study) -> dict[str, str | None]:
    """What is wrong with the traces and counts that the study asks for and with all that was derived; None: nothing.

    By name, such as traces/MODEL/k32. Reads every file.
    """
    expected: list[Derived] = []
    if study.config.traces is not None:
        contexts = traced_contexts(study.config)
        expected = [traces_of(study.folder, model.label, k) for model in study.config.models for k in contexts]
        expected.append(Derived(study.folder / "counts", "counts"))
    sets = dict.fromkeys([*expected, *find_derived(study.folder)])
    return {each.path("").relative_to(study.folder).as_posix(): each.find_fault() for each in sets}


def audit_shard(
    text: GroupText,
    shard: ShardRange,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    *,
    contexts: tuple[int, ...],
) -> Coverage:
    """The coverage of one range by its rows' sequence ids and contexts; no rows where the shard is missing."""
    ids = text.selection.sequence_ids[shard.start : shard.stop]
    sequence_ids, row_contexts = rows or (np.empty(0, np.int64), np.empty(0, np.int64))
    place = np.searchsorted(ids, sequence_ids).clip(max=len(ids) - 1)
    column = np.searchsorted(contexts, row_contexts).clip(max=len(contexts) - 1)
    is_known = (ids[place] == sequence_ids) & (np.array(contexts)[column] == row_contexts)
    cells = place[is_known] * len(contexts) + column[is_known]
    counts = np.bincount(cells, minlength=len(ids) * len(contexts)).reshape(len(ids), len(contexts))
    absent = ids[(counts == 0).all(axis=1)]
    num_short = 0 if rows is None else text.read(absent, short_rows="skip").num_short
    return Coverage(
        num_sequences=len(ids),
        num_short=num_short,
        num_expected=counts.size - num_short * len(contexts),
        num_missing=int((counts == 0).sum()) - num_short * len(contexts),
        num_doubled=int((counts - 1).clip(min=0).sum()),
        num_alien=int((~is_known).sum()),
    )


def _audit_import(study: Study, run: Run) -> Coverage:
    missing = set(outstanding_shards(study.folder, run))
    total = _count_strays(study.folder, run)
    hashes = {group: hashlib.sha256() for group in run.identity.groups}
    for shard in run.shards:
        rows = None if shard in missing else _read_rows(study.folder, run, shard)
        sequence_ids, row_contexts = rows or (np.empty(0, np.int64), np.empty(0, np.int64))
        is_known = np.isin(row_contexts, run.identity.contexts)
        pairs = np.stack([sequence_ids[is_known], row_contexts[is_known]])
        cells, counts = np.unique(pairs, axis=1, return_counts=True)
        hashes[shard.group].update(np.unique(cells[0]).astype("<i8").tobytes())
        num_sequences = shard.stop - shard.start
        num_expected = num_sequences * len(run.identity.contexts)
        total += Coverage(
            num_sequences=num_sequences,
            num_short=0,
            num_expected=num_expected,
            num_missing=num_expected - len(counts),
            num_doubled=int((counts - 1).sum()),
            num_alien=int((~is_known).sum()),
        )
    if any(hashes[group].hexdigest() != facts.selection for group, facts in run.identity.groups.items()):
        return replace(total, num_alien=max(total.num_alien, 1))
    return total


def _read_rows(folder: Path, run: Run, shard: ShardRange) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequence ids and contexts; context 0, which no grid has, where the row's group is not the shard's."""
    table = read_shard(folder, run, shard, columns=["sequence_id", "context", "group"])
    is_own = np.array([group == shard.group for group in table.column("group").to_pylist()], np.bool_)
    return table.column("sequence_id").to_numpy(), np.where(is_own, table.column("context").to_numpy(), 0)


def _count_strays(folder: Path, run: Run) -> Coverage:
    """Rows of table files that no shard of the plan names, yet a reader of the whole folder would take in."""
    planned = {f"{shard.name}.parquet" for shard in run.shards}
    found = run_folder(folder, run.label).glob("*.parquet")
    strays = [path for path in sorted(found) if path.name not in planned]
    return replace(_NOTHING, num_alien=sum(_num_rows(path) for path in strays))


def _num_rows(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: no shard of this run, and not readable ({error}); remove it") from error
