"""A study's scores, in a folder or at an address: shards with their commits, what is done, damaged, to be read.

    study.toml, scores/MODEL/run.json         the study and its runs (see `runs`)
    scores/MODEL/GROUP-000000000000.parquet   one shard, named by its first position in the selection
    scores/MODEL/GROUP-000000000000.json      its commit: written last, with the shard's size and checksum
    manifest.json                             written when every model is complete (see `manifest`)

A shard without a valid commit is not there. Any process may be killed at any instant. The run says which shards there
are to be, and each is asked for by its name: no list that comes late hides one. Facts follow from the run alone, so
that two that write the same shard write the same bytes, and it does not matter who was last.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mnemoscope.config import StudyConfig
from mnemoscope.errors import StoreError
from mnemoscope.runs import (
    GROUPS,
    STUDY_FILE,
    Group,
    Run,
    begin_run,
    check_run,
    parse_record,
    read_run,
    read_runs,
    read_study,
    register_models,
    run_folder,
    study_lock,
)
from mnemoscope.shards import ShardRange, matched_bits, per_continuation
from mnemoscope.storage import Place, Storage, is_address, local_path, storage_of

__all__ = [
    "GROUPS",
    "STUDY_FILE",
    "Damage",
    "Group",
    "Run",
    "ShardRecord",
    "Study",
    "begin_run",
    "check_run",
    "commit_shard",
    "encode_table",
    "final_runs",
    "find_damage",
    "matched_bits",
    "open_study",
    "outstanding_shards",
    "per_continuation",
    "read_records",
    "read_run",
    "read_scores",
    "read_shard",
    "read_study",
    "register_models",
    "run_folder",
    "set_aside",
    "set_damage_aside",
    "shard_path",
    "step_rank",
    "study_at",
    "study_lock",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The commit of a shard."""

    group: str
    start: int
    stop: int
    num_rows: int
    """Rows of the table: sequences x contexts."""
    num_sequences: int
    num_short: int
    """Sequences left out because their rows are shorter than the window."""
    bytes: int
    sha256: str
    fingerprint: str
    num_audited: int
    """Sequences that were scored again in float32; 0 without an audit."""

    @property
    def shard(self) -> ShardRange:
        """The range it commits."""
        return ShardRange(self.group, self.start, self.stop)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study's folder, opened."""

    folder: Path
    """Of this machine: the study's own, or the mirror of an address."""
    config: StudyConfig
    runs: dict[str, Run]
    """By model label, in the study's order; models not begun yet are not among them."""
    address: str | None = None
    """Where the study lies, if that is not its folder."""

    @property
    def place(self) -> str:
        """What messages and reports call it."""
        return self.address or str(self.folder)

    def where(self, name: str) -> str:
        """What messages call one of its files or folders."""
        return str(self.folder / name) if self.address is None else f"{self.address}/{name}"

    def run(self, label: str) -> Run:
        """The run of a model; StoreError where there is none."""
        if label not in self.runs:
            there = ", ".join(self.runs) or "none"
            raise StoreError(f"{self.place}: no scores of model {label!r}; there are: {there}")
        return self.runs[label]


class Damage(NamedTuple):
    """A shard that was committed and can no longer be trusted."""

    shard: ShardRange
    reason: str


def open_study(folder: Path | str) -> Study:
    """The study in a folder, or at an address, whose mirror on this machine is brought up to date first.

    StoreError where there is none or its run files are damaged.
    """
    if is_address(folder):
        from mnemoscope.mirror import open_mirrored  # late: fsspec, for local folders in vain

        return open_mirrored(str(folder))
    return study_at(local_path(folder))


def study_at(folder: Path, *, place: Storage | None = None) -> Study:
    """The study in a folder of this machine; or the one at a `place` whose mirror the folder is, as it stands there."""
    storage = place or storage_of(folder)
    config = read_study(storage)
    if config is None:
        raise StoreError(f"{storage}: no {STUDY_FILE}; expected the results folder of a study")
    runs = read_runs(storage, [model.label for model in config.models])
    return Study(folder=folder, config=config, runs=runs, address=None if place is None else str(place))


def final_runs(study: Study) -> list[Run]:
    """The run of each source's last training step, in the study's order; a run without a step is its last."""
    last: dict[str, Run] = {}
    for run in study.runs.values():
        if run.source not in last or step_rank(run.training_step) > step_rank(last[run.source].training_step):
            last[run.source] = run
    return list(last.values())


def step_rank(training_step: int | None) -> float:
    """Checkpoints in their order; the final model, which has no step, comes after all."""
    return math.inf if training_step is None else training_step


def commit_shard(
    place: Place, run: Run, shard: ShardRange, table: pa.Table, *, num_short: int, num_audited: int = 0
) -> ShardRecord:
    """Write a shard and then its commit; the same rows give the same bytes."""
    content = encode_table(table)
    digest = hashlib.sha256(content).hexdigest()
    record = ShardRecord(
        **shard._asdict(),
        num_rows=table.num_rows,
        num_sequences=table.num_rows // len(run.identity.contexts),
        num_short=num_short,
        bytes=len(content),
        sha256=digest,
        fingerprint=run.fingerprint,
        num_audited=num_audited,
    )
    storage = storage_of(place)
    storage.write(table_name(run, shard), content)
    storage.write(record_name(run, shard), (json.dumps(asdict(record)) + "\n").encode())
    return record


def encode_table(table: pa.Table) -> bytes:
    """A table as Parquet: zstd, a checksum per page, one row group per shard."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        write_page_checksum=True,
        row_group_size=max(1, table.num_rows),
        use_dictionary=["group", "context", "offset", "num_repeats", "first_mismatch"],  # pyright: ignore[reportArgumentType]  (stubs without lists)
    )
    return buffer.getvalue()


def read_records(place: Place, run: Run) -> dict[ShardRange, ShardRecord]:
    """The commits of the plan's shards whose files are there in full length, in the plan's order."""
    checked = _check(storage_of(place), run, run.shards, hashing=False)
    return {shard: record for shard, (record, reason) in checked.items() if record is not None and reason is None}


def find_damage(place: Place, run: Run) -> list[Damage]:
    """The committed shards that are missing, cut, altered in any bit, or another run's; reads every file."""
    checked = _check(storage_of(place), run, run.shards, hashing=True)
    return [Damage(shard, reason) for shard, (_, reason) in checked.items() if reason is not None]


def outstanding_shards(place: Place, run: Run) -> list[ShardRange]:
    """The plan's shards without a commit, or with one whose file is not there in full length."""
    done = read_records(place, run)
    return [shard for shard in run.shards if shard not in done]


def set_aside(place: Place, run: Run, shard: ShardRange) -> None:
    """Give a damaged shard and its commit names that no reader takes for a table."""
    # The commit first: then it is undone.
    storage_of(place).set_aside([record_name(run, shard), table_name(run, shard)])


def set_damage_aside(place: Place, run: Run, *, before_change: Callable[[], None]) -> None:
    """Make room for new copies of the shards that are not what was written; `before_change` is called before each.

    Reading all of them takes a while, in which another driver may have put a new copy: each is read once more.
    """
    storage = storage_of(place)
    for shard, _ in find_damage(storage, run):
        with study_lock(storage):
            _, reason = _check(storage, run, [shard], hashing=True).get(shard, (None, None))
            if reason is None:
                continue
            before_change()
            set_aside(storage, run, shard)
        _log.warning("%s: shard %s is damaged (%s); set aside and scored again", run.label, shard.name, reason)


def read_scores(
    study: Study,
    label: str,
    *,
    columns: Sequence[str] | None = None,
    group: Group | None = None,
    partial: bool = False,
) -> Iterator[pa.Table]:
    """A model's scores, shard by shard, in constant memory; by `columns` and `group` where given.

    StoreError for an incomplete run, unless `partial` asks for what there is, and for a damaged page.
    """
    run = study.run(label)
    missing = frozenset(outstanding_shards(study.folder, run))
    if missing and not partial:
        raise StoreError(
            f"{study.place}: the scores of {label} lack {len(missing)} of {len(run.shards)} shards; "
            "run the study again to finish them"
        )
    for shard in run.shards:
        if shard not in missing and group in (None, shard.group):
            yield read_shard(study.folder, run, shard, columns=columns)


def read_shard(folder: Path, run: Run, shard: ShardRange, *, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of one shard; StoreError where it cannot be read, lacks a column or a page's checksum is wrong."""
    path = shard_path(folder, run, shard)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
            if missing:
                raise StoreError(
                    f"{path}: no column {', '.join(missing)}; expected scores of this version of Mnemoscope: "
                    "score the study again, into another results folder"
                )
            return file.read(None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged ({error}); run the study again to have it redone") from error


def shard_path(folder: Path, run: Run, shard: ShardRange) -> Path:
    """Where a shard's table lies in a folder."""
    return folder / table_name(run, shard)


def table_name(run: Run, shard: ShardRange) -> str:
    """The name of a shard's table."""
    return f"scores/{run.label}/{shard.name}.parquet"


def record_name(run: Run, shard: ShardRange) -> str:
    """The name of a shard's commit."""
    return f"scores/{run.label}/{shard.name}.json"


def _check(
    storage: Storage, run: Run, shards: Sequence[ShardRange], *, hashing: bool
) -> dict[ShardRange, tuple[ShardRecord | None, str | None]]:
    """The commits that are there, None for an unreadable one; and what is wrong with each, None where nothing is."""
    contents = storage.read_many([record_name(run, shard) for shard in shards])
    checked: dict[ShardRange, tuple[ShardRecord | None, str | None]] = {}
    sound: dict[str, ShardRecord] = {}
    for shard in shards:
        if (content := contents.get(record_name(run, shard))) is None:
            continue
        record = parse_record(ShardRecord, content)
        if record is None:
            checked[shard] = None, "its commit is unreadable"
        elif record.shard != shard or record.fingerprint != run.fingerprint:
            checked[shard] = record, "its commit is another run's"
        elif hashing and not _adds_up(record, run):
            checked[shard] = record, "its commit contradicts itself"
        else:
            checked[shard] = record, None
            sound[table_name(run, shard)] = record
    faults = _find_faults(storage, sound, hashing=hashing)
    for name, record in sound.items():
        checked[record.shard] = record, faults.get(name)
    return checked


def _adds_up(record: ShardRecord, run: Run) -> bool:
    """Whether what a commit counts can be so; it has no checksum of its own, and a flipped bit makes another number."""
    is_whole = record.num_sequences + record.num_short == record.stop - record.start
    most_audited = 0 if run.identity.audit_margin is None else record.num_sequences
    return (
        is_whole
        and 0 <= record.num_audited <= most_audited
        and record.num_rows == record.num_sequences * len(run.identity.contexts)
    )


def _find_faults(storage: Storage, records: dict[str, ShardRecord], *, hashing: bool) -> dict[str, str]:
    """What is wrong with tables, by name; those with which nothing is are left out."""
    sizes, faults = storage.sizes(list(records)), dict[str, str]()
    for name, record in records.items():
        if name not in sizes:
            faults[name] = "the file is gone"
        elif sizes[name] != record.bytes:
            faults[name] = f"{sizes[name]} bytes, {record.bytes} were written"
    if hashing:
        for name, digest in storage.hashes([name for name in records if name not in faults]):
            if isinstance(digest, OSError):
                faults[name] = f"cannot be read ({digest.strerror or digest})"
            elif digest != records[name].sha256:
                faults[name] = "its checksum is not the one it was written with"
    return faults
