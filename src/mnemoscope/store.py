"""A study's folder on disk: runs, shards with their commits, what is done, what is damaged, what can be read.

    study.toml                                the study, resolved
    scores/MODEL/run.json                     what the model's facts follow from, and its fingerprint
    scores/MODEL/GROUP-000000000000.parquet   one shard, named by its first position in the selection
    scores/MODEL/GROUP-000000000000.json      its commit: written last, with the shard's size and checksum
    manifest.json                             written when every model is complete (see `manifest`)

A shard without a valid commit is not there. Any process may be killed at any instant.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from mnemoscope.config import StudyConfig
from mnemoscope.errors import StoreError
from mnemoscope.files import hash_file, locked, telling_refusals, write_atomically
from mnemoscope.identity import RunIdentity
from mnemoscope.shards import ShardRange, matched_bits, per_continuation, plan_shards
from mnemoscope.study_file import dump_study, load_study

__all__ = [
    "Damage",
    "Run",
    "ShardRecord",
    "Study",
    "begin_run",
    "check_run",
    "commit_shard",
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
    "register_models",
    "run_folder",
    "set_aside",
    "shard_path",
    "step_rank",
    "study_lock",
]

STUDY_FILE: Final = "study.toml"
Group = Literal["member", "control"]
GROUPS: Final[tuple[Group, ...]] = ("member", "control")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model's run: what its facts follow from, and where they lie."""

    label: str
    """The model's name in folders, tables and figures."""
    source: str
    revision: str | None
    training_step: int | None
    identity: RunIdentity
    fingerprint: str

    @property
    def shards(self) -> tuple[ShardRange, ...]:
        """The plan: every shard that a complete run has."""
        counts = {group: facts.num_sequences for group, facts in self.identity.groups.items()}
        return plan_shards(counts, self.identity.shard_rows)


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

    @property
    def shard(self) -> ShardRange:
        """The range it commits."""
        return ShardRange(self.group, self.start, self.stop)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study's folder, opened."""

    folder: Path
    config: StudyConfig
    runs: dict[str, Run]
    """By model label, in the study's order; models not begun yet are not among them."""

    def run(self, label: str) -> Run:
        """The run of a model; StoreError where there is none."""
        if label not in self.runs:
            there = ", ".join(self.runs) or "none"
            raise StoreError(f"{self.folder}: no scores of model {label!r}; there are: {there}")
        return self.runs[label]


class Damage(NamedTuple):
    """A shard that was committed and can no longer be trusted."""

    shard: ShardRange
    reason: str


def open_study(folder: Path | str) -> Study:
    """The study in a folder; StoreError where the folder holds none or its run files are damaged."""
    folder = Path(folder)
    if not (folder / STUDY_FILE).is_file():
        raise StoreError(f"{folder}: no {STUDY_FILE}; expected the results folder of a study")
    config = load_study(folder / STUDY_FILE)
    found = {model.label: read_run(folder, model.label) for model in config.models}
    return Study(folder=folder, config=config, runs={label: run for label, run in found.items() if run is not None})


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


def read_run(folder: Path, label: str) -> Run | None:
    """The run of a model as its run.json has it; None where it has not begun."""
    path = run_folder(folder, label) / "run.json"
    if not path.exists():
        return None
    run = _parse(Run, path)
    # Label and groups name folders and files: they must be what the study says, not what a file from anywhere does.
    is_named = run is not None and run.label == label and set(run.identity.groups) <= set(GROUPS)
    if run is None or not is_named or run.fingerprint != run.identity.fingerprint:
        raise StoreError(f"{path}: damaged; remove the folder {path.parent} and run again, or restore it")
    return run


def check_run(folder: Path, run: Run) -> None:
    """StoreError, naming what differs, where another run of the model or another study lies in the folder."""
    there = read_run(folder, run.label)
    if there is not None and there.fingerprint != run.fingerprint:
        raise _another_run(folder, run.label, there.identity.differences(run.identity))
    for path in sorted((folder / "scores").glob("*/run.json")):
        other = read_run(folder, path.parent.name)
        if other is not None and (differences := other.identity.study_differences(run.identity)):
            raise _another_run(folder, other.label, differences)


def begin_run(folder: Path, run: Run) -> None:
    """Write the run's file, unless it is there; the same StoreErrors as `check_run`."""
    check_run(folder, run)
    if read_run(folder, run.label) != run:
        content = json.dumps(asdict(run), indent=1) + "\n"
        write_atomically(run_folder(folder, run.label) / "run.json", content.encode())


def _another_run(folder: Path, label: str, differences: Sequence[str]) -> StoreError:
    return StoreError(
        f"{folder}: holds another run of {label} ({'; '.join(differences)}); "
        "expected the same facts: choose another results folder, or set them as they are there"
    )


def study_lock(folder: Path) -> AbstractContextManager[None]:
    """Held while study.toml is read and written anew, and while the manifest is: one process at a time."""
    return locked(folder / STUDY_FILE)


def register_models(
    folder: Path, config: StudyConfig, *, replacing: Sequence[str], before_change: Callable[[], None]
) -> None:
    """Write study.toml: the models that have a run there, those in `replacing` anew, and the new ones behind.

    A model that never began and is not asked for any more is forgotten; sections [traces], [counts] and [prediction]
    that are there stay when `config` has none. `before_change` is called if the file is about to say something else.
    Who calls this holds the `study_lock`, and begins a model's run before letting it go.
    """
    path = folder / STUDY_FILE
    there = load_study(path) if path.is_file() else None
    given = {model.label: model for model in config.models}
    began = [
        model for model in (there.models if there else ()) if read_run(folder, model.label) or model.label in given
    ]
    models = {model.label: given[model.label] if model.label in replacing else model for model in began}
    merged = replace(
        config,
        models=tuple((given | models)[label] for label in models | given),
        traces=config.traces or (there.traces if there else None),
        counts=config.counts or (there.counts if there else None),
        prediction=config.prediction or (there.prediction if there else None),
    )
    content = dump_study(merged).encode()
    if not path.is_file() or path.read_bytes() != content:
        before_change()
        write_atomically(path, content)


def commit_shard(folder: Path, run: Run, shard: ShardRange, table: pa.Table, *, num_short: int) -> ShardRecord:
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
    )
    write_atomically(shard_path(folder, run, shard), content)
    write_atomically(_record_path(folder, run, shard), (json.dumps(asdict(record)) + "\n").encode())
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


def read_records(folder: Path, run: Run) -> dict[ShardRange, ShardRecord]:
    """The commits of the plan's shards whose files are there in full length, in the plan's order."""
    checked = ((shard, _check(folder, run, shard, hashing=False)) for shard in run.shards)
    return {shard: record for shard, (record, reason) in checked if record is not None and reason is None}


def find_damage(folder: Path, run: Run) -> list[Damage]:
    """The committed shards that are missing, cut, altered in any bit, or another run's; reads every file."""
    checked = ((shard, _check(folder, run, shard, hashing=True)) for shard in run.shards)
    return [Damage(shard, reason) for shard, (_, reason) in checked if reason is not None]


def outstanding_shards(folder: Path, run: Run) -> list[ShardRange]:
    """The plan's shards without a commit, or with one whose file is not there in full length."""
    done = read_records(folder, run)
    return [shard for shard in run.shards if shard not in done]


def set_aside(folder: Path, run: Run, shard: ShardRange) -> None:
    """Rename a damaged shard and its commit to names that no reader takes for a table."""
    paths = (
        _record_path(folder, run, shard),
        shard_path(folder, run, shard),
    )  # the commit first: then it is undone
    number = 1
    while any(_aside(path, number).exists() for path in paths):
        number += 1
    for path in paths:
        with telling_refusals(path):
            if path.exists():
                path.rename(_aside(path, number))


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
            f"{study.folder}: the scores of {label} lack {len(missing)} of {len(run.shards)} shards; "
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
    """Where a shard's table lies."""
    return run_folder(folder, run.label) / f"{shard.name}.parquet"


def run_folder(folder: Path, label: str) -> Path:
    """Where a model's scores lie."""
    return folder / "scores" / label


def _record_path(folder: Path, run: Run, shard: ShardRange) -> Path:
    return run_folder(folder, run.label) / f"{shard.name}.json"


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.damaged-{number}")


def _check(folder: Path, run: Run, shard: ShardRange, *, hashing: bool) -> tuple[ShardRecord | None, str | None]:
    """A shard's commit, None where there is none; and what is wrong with it, None where nothing is."""
    path = _record_path(folder, run, shard)
    if not path.exists():
        return None, None
    record = _parse(ShardRecord, path)
    if record is None:
        return None, "its commit is unreadable"
    if record.shard != shard or record.fingerprint != run.fingerprint:
        return record, "its commit is another run's"
    return record, _find_fault(shard_path(folder, run, shard), record, hashing=hashing)


def _find_fault(path: Path, record: ShardRecord, *, hashing: bool) -> str | None:
    try:
        size = path.stat().st_size
        if size != record.bytes:
            return f"{size} bytes, {record.bytes} were written"
        if hashing and hash_file(path) != record.sha256:
            return "its checksum is not the one it was written with"
    except FileNotFoundError:
        return "the file is gone"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


@cache  # a millisecond each, and large studies have many thousand commits
def _adapter(kind: type[_T]) -> TypeAdapter[_T]:
    return TypeAdapter(kind)


def _parse(kind: type[_T], path: Path) -> _T | None:
    """A dataclass from its JSON file; None where the file is not what it should be."""
    try:
        return _adapter(kind).validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError):
        return None
