"""How far a study is, counted from its commits; reads no table and no checksum."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mnemoscope.mirror import workplace
from mnemoscope.storage import Storage
from mnemoscope.store import Run, read_records


class GroupStatus(NamedTuple):
    """How far a group of a model is; counted from commits, without checksums."""

    group: str
    num_shards_done: int
    num_shards: int
    num_sequences_done: int
    """Sequences dealt with, those too short included."""
    num_sequences: int
    num_short: int


class ModelStatus(NamedTuple):
    """How far a model is; no groups where its run has not begun."""

    label: str
    fingerprint: str | None
    groups: tuple[GroupStatus, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every shard is committed."""
        return bool(self.groups) and all(group.num_shards_done == group.num_shards for group in self.groups)


class StudyStatus(NamedTuple):
    """How far a study is."""

    folder: Path | str
    """Or its address."""
    models: tuple[ModelStatus, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every shard of every model is committed."""
        return all(model.is_complete for model in self.models)

    @property
    def num_outstanding(self) -> int:
        """Shards that are not committed, of models that have begun."""
        groups = [group for model in self.models for group in model.groups]
        return sum(group.num_shards - group.num_shards_done for group in groups)


def read_status(folder: Path | str) -> StudyStatus:
    """How far the study in a folder or at an address is, by its commits, which are all that is read there."""
    work = workplace(folder)
    study = work.study()
    return StudyStatus(
        folder,
        tuple(_model_status(work.storage, study.runs.get(model.label), model.label) for model in study.config.models),
    )


def _model_status(storage: Storage, run: Run | None, label: str) -> ModelStatus:
    if run is None:
        return ModelStatus(label, None, ())
    records = read_records(storage, run)
    groups = tuple(
        GroupStatus(
            group=group,
            num_shards_done=sum(shard.group == group for shard in records),
            num_shards=sum(shard.group == group for shard in run.shards),
            num_sequences_done=sum(shard.stop - shard.start for shard in records if shard.group == group),
            num_sequences=facts.num_sequences,
            num_short=sum(record.num_short for shard, record in records.items() if shard.group == group),
        )
        for group, facts in run.identity.groups.items()
    )
    return ModelStatus(label, run.fingerprint, groups)
