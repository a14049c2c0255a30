"""The shards of a study that are committed, in their order, and how a look through them is divided.

A shard without a commit is not there, whatever files lie in the folder. The commits of a run are read when they are
first asked for, and again when its folder has changed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, final

from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.shards import ShardRange
from mnemoscope.store import Group, ShardRecord, Study, read_records, run_folder
from mnemoscope.viewer.filters import Cursor

Records = dict[ShardRange, ShardRecord]
_GROWTH: Final = 4
"""How much longer each part of a look is than the one before: a first page reads one shard, a whole look few parts."""


class Part(NamedTuple):
    """Neighbouring shards of a group."""

    group: Group
    shards: tuple[ShardRange, ...]

    @property
    def start(self) -> int:
        """Its first position in the group's selection."""
        return self.shards[0].start


@final
class CommittedShards:
    """The committed shards of a study's runs; for any number of threads."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._known: dict[str, tuple[int, Records]] = {}
        self._lock = threading.Lock()

    def records(self, label: str) -> Records:
        """The commits of a run; StoreError where its folder is gone."""
        run = self.study.run(label)
        folder = run_folder(self.study.folder, label)
        with self._lock:
            try:
                changed = folder.stat().st_mtime_ns  # a commit that comes or goes is a name that does
            except OSError as error:
                raise StoreError(f"{folder}: cannot be read ({error.strerror}); restore it, or start again") from error
            known = self._known.get(label)
            if known is None or known[0] != changed:
                known = changed, read_records(self.study.folder, run)
                self._known[label] = known
            return known[1]

    def changed(self, label: str) -> int:
        """A number that is another one once the run's commits are others."""
        self.records(label)
        return self._known[label][0]

    def num_planned(self, label: str) -> int:
        """Shards of a complete run."""
        return len(self.study.run(label).shards)

    def num_sequences(self, label: str, group: Group | None) -> int:
        """Sequences that a run has committed, of one group or of all."""
        records = self.records(label).items()
        return sum(record.num_sequences for shard, record in records if group in (None, shard.group))

    def shards(self, labels: Sequence[str], group: Group | None) -> list[ShardRange]:
        """The shards that all of these runs have, members first, in the order of the selection."""
        first, *others = (self.records(label) for label in labels)
        return [
            shard
            for shard, record in first.items()
            if group in (None, shard.group) and record.num_sequences and all(shard in other for other in others)
        ]


def order_from(shards: Sequence[ShardRange], cursor: Cursor | None, *, wrap: bool) -> list[ShardRange]:
    """The shards from the cursor's on; with `wrap` those before it behind them.

    ConfigError where the cursor names a shard that is not among them.
    """
    if cursor is None:
        return list(shards)
    places = [place for place, shard in enumerate(shards) if (shard.group, shard.start) == (cursor.group, cursor.start)]
    if not places:
        raise ConfigError(
            f"cursor: {str(cursor)!r} given, but there is no such shard (any more); expected none: start anew"
        )
    return [*shards[places[0] :], *(shards[: places[0]] if wrap else ())]


def split_into_parts(shards: Sequence[ShardRange], *, max_sequences: int) -> Iterator[Part]:
    """The shards, cut into parts of one group each that grow up to a number of sequences (or to one shard)."""
    size, held = 1, list[ShardRange]()
    for shard in shards:
        is_full = len(held) == size or (held and _length((*held, shard)) > max_sequences)
        if held and (is_full or not _follows(held[-1], shard)):
            yield _part(held)
            size, held = size * _GROWTH, []
        held.append(shard)
    if held:
        yield _part(held)


def _part(shards: Sequence[ShardRange]) -> Part:
    group: Group = "control" if shards[0].group == "control" else "member"
    return Part(group, tuple(shards))


def _length(shards: Sequence[ShardRange]) -> int:
    return sum(shard.stop - shard.start for shard in shards)


def _follows(one: ShardRange, other: ShardRange) -> bool:
    return one.group == other.group and other.start > one.start
